"""The leaderboard of a run: its columns, the order of the methods, and which methods are marked."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from unlearn_jax.metrics import FEWEST_JUDGED, METRICS, Metric
from unlearn_jax.metrics.catalogue import (
    accuracy,
    average_gap,
    damage,
    forgetting_quality,
    klom,
    memory_left,
    rte,
    seconds,
    svc_mia,
    tow,
)
from unlearn_jax.metrics.effects import MARGIN, OUTCOMES
from unlearn_jax.report.leaderboard import MARK, Leaderboard, Line
from unlearn_jax.report.rows import REFERENCES, Row, format_counts, subject
from unlearn_jax.types import Interval

MARKS = {OUTCOMES[0]: "≈", OUTCOMES[1]: MARK}


def arrange(rows: Sequence[Row], diverged: Mapping[str, Sequence[str]] | None = None) -> Leaderboard:
    """Arranges rows as one line per method: references first, then by the larger of memory left and damage, smallest first.

    That is the margin within which a method would be equivalent to retraining; by the memory alone a destroyed model would be
    first. Without known originals the order is that of |z| of KLOM on the forget set.

    Args:
        rows: of one forget set, or of the means over several. Methods are marked by their `outcome`.
        diverged: by method, the names of the members that diverged; they are in no value.

    Returns:
        The table.
    """
    diverged = diverged or {}
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        by_method.setdefault(row.method, []).append(row)
    entries = [_Entry(method, of_method, len(diverged.get(method, ()))) for method, of_method in by_method.items()]
    entries.sort(key=_rank)
    known = any(entry.row(memory_left, "forget") for entry in entries)
    columns = [column for column in _COLUMNS if known or column.heading not in (memory_left.short, damage.short)]
    lines = tuple(
        Line(entry.method, entry.method in REFERENCES, entry.marked, tuple(column.cell(entry) for column in columns))
        for entry in entries
    )
    headings, importance = (tuple(getattr(column, field) for column in columns) for field in ("heading", "importance"))
    return Leaderboard(headings, lines, _guide(entries, known), (f"{subject(rows)}.", *_notes(entries, diverged)), importance)


class _Entry(NamedTuple):
    """A method and its rows."""

    method: str
    rows: list[Row]
    lost: int

    @property
    def outcome(self) -> str | None:
        row = self.rows[0]  # rows of studies, and of earlier versions, have no outcome
        return row.outcome or {True: OUTCOMES[1], False: OUTCOMES[2], None: None}[row.inside]

    @property
    def marked(self) -> bool | None:
        return None if self.outcome is None else self.outcome != OUTCOMES[2]

    @property
    def mark(self) -> str:
        return MARKS.get(self.outcome or "", "")

    @property
    def members(self) -> int:
        return max((row.n_members for row in self.rows if row.n_members is not None), default=0)

    def row(self, metric: Metric, split: str) -> Row | None:
        name = metric.on(split)
        return next((row for row in self.rows if (row.metric, row.split) == name), None)


class _Column(NamedTuple):
    heading: str
    importance: int  # 0 is the last to be dropped on a narrow terminal
    cell: Callable[[_Entry], str]


def _value(metric: Metric, split: str, importance: int, digits: Callable[[float], str]) -> _Column:
    def cell(entry: _Entry) -> str:
        row = entry.row(metric, split)
        return "" if row is None or row.value is None else digits(row.value)

    return _Column(metric.heading(split), importance, cell)


def _null(entry: _Entry) -> str:
    row = entry.row(klom, "forget")
    if row is None or row.null_mean is None or row.null_sd is None:
        return ""
    return f"{_two(row.null_mean)} ± {_two(row.null_sd)}"


def _klom_z(entry: _Entry) -> str:
    row = entry.row(klom, "forget")
    return "" if row is None or row.deviation is None else _signed(row.deviation)


def _worst(entry: _Entry) -> str:
    """The largest evidence, and the heading of its metric."""
    scored = [row for row in entry.rows if row.evidence is not None]
    row = max(scored, key=lambda row: _size(row.evidence), default=None)
    if row is None or row.evidence is None:
        return ""
    name = METRICS[row.metric].heading(row.split) if row.metric in METRICS else row.metric
    return f"{_signed(row.evidence).removeprefix('+')} {name}"


def _quality(entry: _Entry) -> str:
    row = entry.row(forgetting_quality, "forget")
    if row is None or row.value is None:
        return ""
    return _three(row.value) + (f" ({_three(row.null_mean)})" if row.null_mean is not None else "")


def _models(entry: _Entry) -> str:
    return f"{entry.members} of {entry.members + entry.lost}" if entry.lost else str(entry.members)


def _size_of(entry: _Entry, metric: Metric, split: str) -> str:
    """An effect size, and its interval if it has one."""
    row = entry.row(metric, split)
    if row is None or row.value is None or row.value_low is None or row.value_high is None:
        return ""
    return format(Interval(row.value, row.value_low, row.value_high), "z.2f")  # no -0.00


def _one(value: float) -> str:
    return f"{value:.1f}"


def _two(value: float) -> str:
    return f"{value:.2f}"


def _three(value: float) -> str:
    return f"{value:.3f}"


def _short(value: float) -> str:
    """Three significant digits, never more than three decimals: costs span orders of magnitude."""
    if not math.isfinite(value) or abs(value) < 1e-3:
        return f"{value:.2g}"
    return f"{value:.{max(0, min(3, 2 - math.floor(math.log10(abs(value)))))}f}"


def _signed(value: float) -> str:
    return f"{value:+.1f}" if abs(value) < 100 else f"{value:+.0f}" if abs(value) < 1e6 else f"{value:+.1e}"


_COLUMNS = (
    _Column(" ", 1, lambda entry: entry.mark),
    _Column("method", 0, lambda entry: entry.method),
    _Column("access", 5, lambda entry: entry.rows[0].access),
    _Column(memory_left.short, 3, lambda entry: _size_of(entry, memory_left, "forget")),
    _Column(damage.short, 4, lambda entry: _size_of(entry, damage, "all")),
    _value(accuracy, "forget", 6, _one),
    _value(accuracy, "retain", 10, _one),
    _value(accuracy, "test", 9, _one),
    _value(klom, "forget", 11, _two),
    _Column("null", 12, _null),
    _Column(f"{klom.short} z", 7, _klom_z),
    _Column("max |z|", 8, _worst),
    _Column(f"{forgetting_quality.short} (null)", 11, _quality),
    _value(tow, "all", 12, _three),
    _value(average_gap, "all", 13, _two),
    _value(svc_mia, "forget", 14, _short),
    _Column("models", 16, _models),
    _value(seconds, "", 15, _short),
    _value(rte, "", 5, _short),
)
_COLUMNS_EXPLAINED = (
    "acc: accuracy in % on forget (F), retain (R) and test (T). KLOM: distance of the margins from the oracles'. FQ: forgetting "
    "quality. ToW: tug of war. gap: average gap to the oracles. RTE: time as a share of retraining's. Compare methods with "
    "the same access (the data that a method sees)."
)


def _size(z: float | None) -> tuple[int, float]:
    """A key that sorts by |z|, then NaN, then None."""
    if z is None or math.isnan(z):
        return (2 if z is None else 1), 0.0
    return 0, abs(z)


def _rank(entry: _Entry) -> tuple[Any, ...]:
    """References first and in their order, then by the larger effect size, then by |z| of KLOM on the forget set."""
    if entry.method in REFERENCES:
        return 0, REFERENCES.index(entry.method)
    sizes = [row.value for row in (entry.row(memory_left, "forget"), entry.row(damage, "all")) if row and row.value is not None]
    if sizes:
        return 1, *_size(max(map(abs, sizes))), entry.method
    row = entry.row(klom, "forget")
    return 2, *_size(None if row is None else row.deviation), entry.method


def _guide(entries: Sequence[_Entry], known: bool) -> tuple[str, ...]:
    """How to read the table; of effect sizes only where they are known."""
    n = format_counts(entry.members for entry in entries if not entry.lost)
    reading = (
        f"z: distance from the null (what as many retrained models score), in standard deviations of the null. "
        f"{MARK}: not distinguished from retraining at this sample size (n={n}): the largest |z| over all metrics is within "
        f"the band of {_bands(entries)}. In max |z|, attacks count in their own standard errors if these are larger, because "
        f"an attack can flip on single models."
    )
    effects = (
        f"memory left: how much of what the originals remember of F is still there, from 0 (as after retraining) to 1 (nothing "
        f"done). damage: how far the models moved in other ways, on F, R and T, as a share of what there is to forget (noise "
        f"can make it slightly negative). Both with 95% intervals; methods are ordered by the larger of the two. "
        f"{MARKS[OUTCOMES[0]]}: equivalent to retraining: both intervals lie within {MARGIN:g} of 0."
    )
    return *[effects] * known, reading, _COLUMNS_EXPLAINED


def _notes(entries: Sequence[_Entry], diverged: Mapping[str, Sequence[str]]) -> list[str]:
    """What is special about this run: too few models, or some that diverged."""
    notes = []
    if any(entry.members < FEWEST_JUDGED for entry in entries):
        notes.append(f"A verdict needs at least {FEWEST_JUDGED} models: methods with fewer are never marked.")
    for entry in entries:
        if entry.lost:
            names = ", ".join(diverged[entry.method])
            notes.append(f"{entry.method}: {_models(entry)} models ({entry.lost} diverged: {names}); never marked.")
    return notes


def _bands(entries: Iterable[_Entry]) -> str:
    """The band of the methods that can be marked: one number, since all are compared with the same oracles."""
    bands = [entry.rows[0].band for entry in entries if not entry.lost] or [entry.rows[0].band for entry in entries]
    return " or ".join(_two(band) for band in sorted({band for band in bands if band is not None})) or "?"
