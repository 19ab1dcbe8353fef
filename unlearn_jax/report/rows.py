"""The rows of a run: one for each forget set, method, metric and split."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from unlearn_jax.report import Folder

REFERENCES = ("original", "retrain")
LETTERS = {"forget": " F", "retain": " R", "test": " T"}


class Row(NamedTuple):
    """One row of results.csv: the score of one method by one metric. None is an empty cell.

    Attributes:
        experiment: the study.
        dataset: name of the data set.
        model: name of the network.
        forget_set: the forget set's name, unique in the run.
        method: a name of the registry.
        access: F, R, F+R, F+R+test-like, data-free or none.
        metric: a name of the registry of metrics, or a study's.
        split: forget, retain, test, all, or empty where the metric has none.
        value: the score; for a metric per model, the mean over models.
        value_low: lower end of its 95% interval.
        value_high: upper end of its 95% interval.
        null_mean: the mean score of a perfect method with as many models (for accuracy: the oracles' mean).
        null_sd: the null's standard deviation; may be 0, and then z is None.
        null_low: its 2.5% quantile.
        null_high: its 97.5% quantile.
        z: (value - null_mean) / null_sd.
        n_members: unlearned models in the value, without those that diverged.
        n_oracles: retrained models in the null.
        seconds: time of the method for one model, without compilation.
        deviation: z; where null_sd is 0, 0 on the null and infinite off it (`metrics.verdict.deviation`).
        evidence: against a perfect method, compared with `band` (`metrics.verdict.evidence`).
        band: the 95% quantile of the largest |z| of retrained models.
        inside: the verdict on the method, the same in all of its rows; None with too few models for one.
        outcome: equivalent, not distinguished, or different (`metrics.effects.outcome_of`), the same in all of its rows.
    """

    experiment: str
    dataset: str
    model: str
    forget_set: str
    method: str
    access: str
    metric: str
    split: str
    value: float | None = None
    value_low: float | None = None
    value_high: float | None = None
    null_mean: float | None = None
    null_sd: float | None = None
    null_low: float | None = None
    null_high: float | None = None
    z: float | None = None
    n_members: int | None = None
    n_oracles: int | None = None
    seconds: float | None = None
    deviation: float | None = None
    evidence: float | None = None
    band: float | None = None
    inside: bool | None = None
    outcome: str | None = None


def write_results(folder: Folder, rows: Sequence[Row], extra: Mapping[str, Any] | None = None) -> None:
    """Writes results.csv, and results.json: the rows under `rows`, beside what `extra` holds.

    Args:
        folder: the run folder.
        rows: all rows of the run.
        extra: results that are no table.
    """
    write_rows(folder, "results.csv", rows)
    folder.write_json("results.json", {"rows": rows, **(extra or {})})


def write_rows(folder: Folder, name: str, rows: Sequence[Row]) -> None:
    """Writes rows as a CSV file with the columns of results.csv."""
    folder.write_csv(name, Row._fields, rows)


def read_results(path: Path) -> list[Row]:
    """Reads a results.csv; the rows are equal to those written.

    Raises:
        ValueError: if its columns are not those of `Row`.
    """
    with path.open(newline="") as file:
        table = csv.DictReader(file)
        if tuple(table.fieldnames or ()) != Row._fields:
            raise ValueError(f"{path}: expected the columns {','.join(Row._fields)}")
        return [Row(**{column: _parse(column, cell) for column, cell in line.items()}) for line in table]


class Deviations(NamedTuple):
    """|z| of every method by every metric; NaN where a method has none."""

    methods: tuple[str, ...]
    metrics: tuple[tuple[str, str], ...]  # metric, split
    sizes: Float[np.ndarray, "methods metrics"]


def deviations(rows: Iterable[Row]) -> Deviations:
    """Arranges the rows of one forget set as a table of |z|, in the order of the rows, without costs, which have no null."""
    cells = {(row.method, (row.metric, row.split)): abs(row.deviation) for row in rows if row.deviation is not None}
    methods, metrics = (tuple(dict.fromkeys(names)) for names in zip(*cells, strict=True)) if cells else ((), ())
    sizes = [[cells.get((method, metric), math.nan) for metric in metrics] for method in methods]
    return Deviations(methods, metrics, np.array(sizes, np.float64).reshape(len(methods), len(metrics)))


def short_name(metric: tuple[str, str]) -> str:
    """Returns the name of a metric and its split for figures: `klom F`, `tow`."""
    return metric[0] + LETTERS.get(metric[1], "")


def _parse(column: str, cell: str) -> Any:
    kind = Row.__annotations__[column]
    if kind is str:
        return cell
    if cell == "":
        return None
    if kind == bool | None:
        return cell == "True"
    if kind == str | None:
        return cell
    return int(cell) if kind == int | None else float(cell)


def subject(rows: Sequence[Row]) -> str:
    """Returns the subject of rows for titles and captions: data set, model, forget set, numbers of models."""
    names = [", ".join(dict.fromkeys(getattr(row, field) for row in rows)) for field in ("dataset", "model")]
    forget_sets = list(dict.fromkeys(row.forget_set for row in rows))
    forget = f"forget set {forget_sets[0]}" if len(forget_sets) == 1 else f"{len(forget_sets)} forget sets"
    oracles = format_counts(row.n_oracles for row in rows)
    return " · ".join(
        [*names, forget, f"n={format_counts(row.n_members for row in rows)} models per method", f"{oracles} oracles"]
    )


def format_counts(counts: Iterable[int | None]) -> str:
    """Formats counts as one number or a range; as a question mark if there are none."""
    known = sorted({count for count in counts if count is not None})
    if not known:
        return "?"
    return str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]}"
