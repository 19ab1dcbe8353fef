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
    """One row of results.csv: what one method scored in one metric. None is an empty cell.

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
        null_mean: what a perfect method scores with as many models, on average (for accuracy: the oracles' mean).
        null_sd: the null's standard deviation; may be 0, and then z is None.
        null_low: its 2.5% quantile.
        null_high: its 97.5% quantile.
        z: (value - null_mean) / null_sd.
        n_members: models that the value is from; diverged ones are not among them.
        n_oracles: retrained models that the null is from.
        seconds: what the method took for one model, compilation apart.
        deviation: z; where null_sd is 0, 0 on the null and infinite off it (`metrics.verdict.deviation`).
        evidence: how much the score counts in the verdict (`metrics.verdict.evidence`).
        band: of the method's verdict: the 95% quantile of the largest |z| of retrained models.
        inside: the method's verdict, the same in all of its rows; None with too few models for one.
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


def write_results(folder: Folder, rows: Sequence[Row], extra: Mapping[str, Any] | None = None) -> None:
    """Writes results.csv, and results.json: the rows under `rows`, beside what `extra` holds.

    Args:
        folder: the run folder.
        rows: all rows of the run.
        extra: what fits no table.
    """
    write_rows(folder, "results.csv", rows)
    folder.write_json("results.json", {"rows": rows, **(extra or {})})


def write_rows(folder: Folder, name: str, rows: Sequence[Row]) -> None:
    """Writes rows under a name, with the columns of results.csv."""
    folder.write_csv(name, Row._fields, rows)


def read_results(path: Path) -> list[Row]:
    """Reads a results.csv back, equal to what was written.

    Raises:
        ValueError: if its columns are not those of `Row`.
    """
    with path.open(newline="") as file:
        table = csv.DictReader(file)
        if tuple(table.fieldnames or ()) != Row._fields:
            raise ValueError(f"{path}: the columns are not {','.join(Row._fields)}")
        return [Row(**{column: _parse(column, cell) for column, cell in line.items()}) for line in table]


class Deviations(NamedTuple):
    """|z| of every method by every metric; NaN where there is none."""

    methods: tuple[str, ...]
    metrics: tuple[tuple[str, str], ...]  # metric, split
    sizes: Float[np.ndarray, "methods metrics"]


def deviations(rows: Iterable[Row]) -> Deviations:
    """Arranges the rows of one forget set as a table of |z|, in the rows' order; what has no null, a cost, is left out."""
    cells = {(row.method, (row.metric, row.split)): abs(row.deviation) for row in rows if row.deviation is not None}
    methods, metrics = (tuple(dict.fromkeys(names)) for names in zip(*cells, strict=True)) if cells else ((), ())
    sizes = [[cells.get((method, metric), math.nan) for metric in metrics] for method in methods]
    return Deviations(methods, metrics, np.array(sizes, np.float64).reshape(len(methods), len(metrics)))


def short(metric: tuple[str, str]) -> str:
    """A metric and its split as figures name it: `klom F`, `tow`."""
    return metric[0] + LETTERS.get(metric[1], "")


def _parse(column: str, cell: str) -> Any:
    kind = Row.__annotations__[column]
    if kind is str:
        return cell
    if cell == "":
        return None
    if kind == bool | None:
        return cell == "True"
    return int(cell) if kind == int | None else float(cell)


def subject(rows: Sequence[Row]) -> str:
    """The subject of rows for titles and captions: data set, model, forget set, and how many models."""
    names = [", ".join(dict.fromkeys(getattr(row, field) for row in rows)) for field in ("dataset", "model")]
    forget_sets = list(dict.fromkeys(row.forget_set for row in rows))
    forget = f"forget set {forget_sets[0]}" if len(forget_sets) == 1 else f"{len(forget_sets)} forget sets"
    oracles = counted(row.n_oracles for row in rows)
    return " · ".join([*names, forget, f"n={counted(row.n_members for row in rows)} models a method", f"{oracles} oracles"])


def counted(counts: Iterable[int | None]) -> str:
    """One number, or the range that several span; a question mark for none."""
    known = sorted({count for count in counts if count is not None})
    if not known:
        return "?"
    return str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]}"
