"""The registry of metrics: name, kind, splits, unit, needs and labels of each."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from unlearn_jax.types import Cube

Name = tuple[str, str]  # metric, split
SPLITS = Cube._fields
TWO_SAMPLE, DISTANCE, PER_MODEL, EFFECT, COST = KINDS = ("two-sample", "distance", "per-model", "effect", "cost")
NEEDS = ("logits", "oracles", "originals", "weights", "relearning", "untrained nets", "right labels")
PARTS = ("memorised", "mislabelled")  # of the forget set
ON = {"forget": "F", "retain": "R", "test": "test", "memorised": "memorised F", "mislabelled": "mislabelled F"}  # on axes
LETTERS = {"forget": "F", "retain": "R", "test": "T"}  # names of splits in column headings


class Metric(NamedTuple):
    """One metric of results.csv.

    Attributes:
        name: as in results.csv.
        measure: the function `(view, split) -> value`; the kind determines the view.
        kind: *two-sample*: one number from a `views.Pair`; *distance*: one number for each unlearned model from a `Pair`, whose
            mean is the value; *per-model*: one number for each model from `views.Seen`, or from `views.Models` if it needs more
            than logits; *effect*: a size with its interval from `effects.Effects`, without a null; *cost*: one number from
            `views.Spent`, without a null.
        splits: the splits that it is computed on; `all` if it uses several at once, empty for a cost.
        unit: of the value.
        label: its name on axes and in titles.
        short: its name in column headings.
        perfect: the score of a perfect method, in words.
        source: where it was published.
        summary: one line.
        needs: a subset of `NEEDS`.
        attack: whether it is, or contains, a membership attack on single models; such an attack can flip on a whole model.
        least_sd: the least standard deviation of a null; above 0 if it is known by construction, and an estimate may be below.
    """

    name: str
    measure: Callable[..., Any]
    kind: str
    splits: tuple[str, ...]
    unit: str
    label: str
    short: str
    perfect: str
    source: str
    summary: str
    needs: tuple[str, ...]
    attack: bool
    least_sd: float

    def on(self, split: str) -> Name:
        """Returns (name, split), the key of its scores.

        Raises:
            ValueError: the metric is not computed on that split.
        """
        if split not in self.splits:
            raise ValueError(f"split: {split!r} found, expected {' or '.join(self.splits)} for {self.name}")
        return self.name, split

    def title(self, split: str) -> str:
        """Returns the label of an axis for differences on a split: `KLOM on F (nats)`."""
        unit = "points" if self.unit == "%" else self.unit
        where = f" on {ON[split]}" if len(self.splits) > 1 else ""
        return f"{self.label}{where}{f' ({unit})' if unit else ''}"

    def heading(self, split: str) -> str:
        """Returns the heading of a column: `KLOM F`; the split is left out unless the metric has all three."""
        return f"{self.short} {LETTERS.get(split, split)}" if self.splits == SPLITS else self.short


METRICS: dict[str, Metric] = {}


def metric(
    kind: str,
    splits: Sequence[str] = ("",),
    *,
    unit: str = "",
    label: str | None = None,
    short: str | None = None,
    perfect: str = "the oracles' mean",
    source: str = "",
    needs: Sequence[str] = ("logits",),
    attack: bool = False,
    least_sd: float = 0.0,
) -> Callable[[Callable[..., Any]], Metric]:
    """Registers a metric under the name of its function; the first line of the docstring is its summary.

    Args:
        kind: see `Metric`, as for all arguments.
        splits: see `Metric`.
        unit: see `Metric`.
        label: by default the name.
        short: by default the name.
        perfect: see `Metric`.
        source: see `Metric`.
        needs: `metrics.reference` and `metrics.score` compute metrics that need only logits and oracles, the bench the others.
        attack: see `Metric`.
        least_sd: see `Metric`.

    Raises:
        ValueError: unknown kind or need, or a name that is already registered.
    """

    def register(measure: Callable[..., Any]) -> Metric:
        name = measure.__name__
        if name in METRICS:
            raise ValueError(f"{name}: a metric of this name is already registered")
        if kind not in KINDS:
            raise ValueError(f"{name}: unknown kind {kind}, expected one of {', '.join(KINDS)}")
        if unknown := set(needs) - set(NEEDS):
            raise ValueError(f"{name}: unknown need {', '.join(sorted(unknown))}, expected one of {', '.join(NEEDS)}")
        summary = (measure.__doc__ or name).strip().splitlines()[0]  # `python -OO` leaves docstrings out
        names = label or name, short or name
        words = (*names, perfect, source, summary)
        METRICS[name] = Metric(name, measure, kind, tuple(splits), unit, *words, tuple(needs), attack, least_sd)
        return METRICS[name]

    return register


def in_order(*kinds: str) -> Iterator[tuple[Metric, str]]:
    """Yields the metrics of some kinds with their splits, in the order of the rows of results.csv.

    That is the order of registration, except that consecutive metrics with the same splits are grouped by split.
    """
    chosen = [metric for metric in METRICS.values() if metric.kind in kinds]
    for splits, neighbours in groupby(chosen, key=lambda metric: metric.splits):
        group = list(neighbours)
        yield from ((metric, split) for split in splits for metric in group)


def is_attack(name: str) -> bool:
    """Whether a name is that of a registered membership attack."""
    return name in METRICS and METRICS[name].attack
