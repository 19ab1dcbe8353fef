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

WIDTH = 3.92  # of a 95% interval, in standard errors
FEWEST_JUDGED = 8  # models that a verdict takes, as in `metrics.evaluation`


class Row(NamedTuple):
    """One row of results.csv: what one method scored in one metric. None is an empty cell.

    Attributes:
        experiment: the study.
        dataset: its data.
        model: its network.
        forget_set: the forget set's name, unique in the run.
        method: a name of the registry.
        access: F, R, F+R, F+R+test-like, data-free or none.
        metric: accuracy (in %), klom, forgetting_quality, ..., or a cost: seconds (per model), rte (share of retraining),
            examples.
        split: forget, retain, test, or empty where the metric has none.
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

    @property
    def deviation(self) -> float | None:
        """z, or None without a null. Where the null's sd is 0, 0 on the null and infinite off it: no score there is luck.

        As near as a billionth of the larger one is on it, as in `metrics.evaluation.Score.evidence`.
        """
        if self.z is not None or self.null_sd is None or self.null_mean is None or self.value is None:
            return self.z
        if math.isclose(self.value, self.null_mean, rel_tol=1e-9):
            return 0.0
        return math.copysign(math.inf, self.value - self.null_mean)

    @property
    def evidence(self) -> float | None:
        """|z|; of an attack, in units of the null's sd or of the value's standard error, whichever is larger.

        What the verdict counts, as `metrics.evaluation.Score.evidence`. None without a null.
        """
        deviation = self.deviation
        if not deviation or self.value is None or self.null_mean is None or self.null_sd is None:
            return deviation
        known = self.value_low is not None and self.value_high is not None
        error = (self.value_high - self.value_low) / WIDTH if known else 0.0  # type: ignore[operator]
        if self.null_sd > 0:
            return (
                abs(deviation)
                * self.null_sd
                / max(error if "mia" in self.metric or self.metric == "average_gap" else 0.0, self.null_sd)
            )
        return abs(self.value - self.null_mean) / error if error > 0 else math.inf


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
    """Arranges the rows of one forget set as a table of |z|, in their own order; what has no null, a cost, is left out."""
    found = {(row.method, (row.metric, row.split)): abs(row.deviation) for row in rows if row.deviation is not None}
    methods, metrics = (tuple(dict.fromkeys(names)) for names in zip(*found, strict=True)) if found else ((), ())
    sizes = [[found.get((method, metric), math.nan) for metric in metrics] for method in methods]
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
