"""The registry of metrics: what each is called, compares, is measured in and needs, and how tables and axes name it."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from unlearn_jax.types import Cube

Name = tuple[str, str]  # metric, split
SPLITS = Cube._fields
TWO_SAMPLE, DISTANCE, PER_MODEL, COST = KINDS = ("two-sample", "distance", "per-model", "cost")
NEEDS = ("logits", "oracles", "weights", "relearning", "untrained nets", "right labels")
ON = {"forget": "F", "retain": "R", "test": "test"}  # how axes name a split
LETTERS = {"forget": "F", "retain": "R", "test": "T"}  # how columns do


class Metric(NamedTuple):
    """One metric of results.csv.

    Attributes:
        name: as in results.csv.
        measure: what computes it on a split, from what the kind says.
        kind: *two-sample*, of a `views.Pair`, one number; *distance*, of a `Pair` too, one number for each unlearned model, whose
            mean is the value; *per-model*, of `views.Seen`, or of `views.Models` where it needs more than logits, one number for
            each model; *cost*, of `views.Spent`, one number without a null.
        splits: those that it is computed on; `all` where it uses several at once, empty for a cost.
        unit: of the value.
        label: how axes and titles name it.
        short: how columns name it.
        perfect: what a perfect method scores, in words.
        source: where it was published.
        summary: one line.
        needs: of `NEEDS`.
        attack: whether it is a membership attack on single models, or made of one; such attacks flip on some models as a whole.
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

    def on(self, split: str) -> Name:
        """The metric's name, with one of its splits: the key of its scores.

        Raises:
            ValueError: it is not computed on that split.
        """
        if split not in self.splits:
            raise ValueError(f"split: {split!r} found, expected {' or '.join(self.splits)} for {self.name}")
        return self.name, split

    def title(self, split: str) -> str:
        """What an axis says of a difference on a split: `KLOM on F (nats)`."""
        unit = "points" if self.unit == "%" else self.unit
        where = f" on {ON[split]}" if len(self.splits) > 1 else ""
        return f"{self.label}{where}{f' ({unit})' if unit else ''}"

    def heading(self, split: str) -> str:
        """What a column says of it: `KLOM F`; the split only where it is computed on all three."""
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
) -> Callable[[Callable[..., Any]], Metric]:
    """Enters a metric under its function's name; the first line of the docstring is its summary.

    Args:
        kind: see `Metric`, as all others.
        splits: see there.
        unit: see there.
        label: see there; by default the name.
        short: see there; by default the name.
        perfect: see there.
        source: see there.
        needs: see there. `metrics.reference` and `metrics.score` compute what needs logits and oracles alone, the bench the rest.
        attack: see there.

    Raises:
        ValueError: unknown kind or need, or a name that is already registered.
    """

    def enter(measure: Callable[..., Any]) -> Metric:
        name = measure.__name__
        if name in METRICS:
            raise ValueError(f"{name}: already registered")
        if kind not in KINDS:
            raise ValueError(f"{name}: unknown kind {kind}, expected one of {', '.join(KINDS)}")
        if unknown := set(needs) - set(NEEDS):
            raise ValueError(f"{name}: unknown need {', '.join(sorted(unknown))}, expected one of {', '.join(NEEDS)}")
        summary = (measure.__doc__ or name).strip().splitlines()[0]  # `python -OO` leaves docstrings out
        names = label or name, short or name
        METRICS[name] = Metric(name, measure, kind, tuple(splits), unit, *names, perfect, source, summary, tuple(needs), attack)
        return METRICS[name]

    return enter


def in_order(*kinds: str) -> Iterator[tuple[Metric, str]]:
    """The metrics of some kinds with their splits, in the order of the rows of results.csv.

    That is the order of registration, but neighbours on the same splits take turns: all on forget, then all on retain.
    """
    chosen = [each for each in METRICS.values() if each.kind in kinds]
    for splits, neighbours in groupby(chosen, key=lambda each: each.splits):
        group = list(neighbours)
        yield from ((each, split) for split in splits for each in group)


def is_attack(name: str) -> bool:
    """Whether a name is that of a membership attack; one that is not registered is none."""
    return name in METRICS and METRICS[name].attack
