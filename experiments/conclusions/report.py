"""The report of how often tables agree: the answer, tables by metric, and figures against the numbers of models."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.conclusions.pools import METRICS, PAIRED
from experiments.conclusions.tables import CONCLUSIONS
from unlearn_jax.report.drawing import COLOURS, GRID, LINE, WIDTH, blank, draw_trend, open_frame
from unlearn_jax.report.tables import markdown, page
from unlearn_jax.types import Interval

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

TAU = "rank"
AGREED = 0.9
LINES = (*COLOURS[:6], COLOURS[7])
VARIED = {"oracles": "oracles", "originals": "originals", "sets": "forget sets", "searches": "searches"}


class Row(NamedTuple):
    """How often one conclusion comes out again, by one metric, in tables of one size; for `rank`, means of Kendall's tau.

    Attributes:
        metric: one of `METRICS`.
        conclusion: one of `CONCLUSIONS`.
        varied: oracles, originals, sets or searches.
        others: the other numbers: one, or most (as many as half of the pools hold).
        n: the number of what is varied.
        n_oracles: in a table, on each forget set.
        n_originals: in a table.
        n_sets: in a table.
        n_searches: averaged in a table; 0: all methods have the hyperparameters in hyperparameters.json.
        same: two tables of other models, and other forget sets, conclude the same.
        same_low: lower end of its 95% interval.
        same_high: upper end.
        right: a table concludes what all models and sets do, of what these decide.
        right_low: likewise.
        right_high: likewise.
        worse: a table concludes the opposite, of what all decide.
        worse_low: likewise.
        worse_high: likewise.
        decided: how many pairs of methods (`nearer`) or methods (`as_good`) all models and sets decide.
        of: how many there are.
        tables: pairs of tables that were drawn.
    """

    metric: str
    conclusion: str
    varied: str
    others: str
    n: int
    n_oracles: int
    n_originals: int
    n_sets: int
    n_searches: int
    same: float
    same_low: float
    same_high: float
    right: float
    right_low: float
    right_high: float
    worse: float
    worse_low: float
    worse_high: float
    decided: int
    of: int
    tables: int


def cells(rows: Iterable[Row]) -> list[list[Any]]:
    """Rows for conclusions.csv: six digits, and empty cells for what is not known."""
    return [
        [(float(f"{cell:.6g}") if math.isfinite(cell) else None) if isinstance(cell, float) else cell for cell in row]
        for row in rows
    ]


def against_oracles(rows: Sequence[Row], title: str) -> "matplotlib.figure.Figure":
    """Draws, for each conclusion, how often two tables agree against the number of oracles; a line for each metric.

    Args:
        rows: of the study.
        title: what the figure is about.
    """
    return _draw(rows, [("oracles", "one"), ("oracles", "most")], title)


def against_others(rows: Sequence[Row], title: str) -> "matplotlib.figure.Figure":
    """As `against_oracles`, against the numbers of originals, forget sets and searches, with as many others as there are."""
    return _draw(rows, [(varied, "most") for varied in ("originals", "sets", "searches")], title)


def summary(rows: Sequence[Row], title: str, trials: int, judges: int) -> str:
    """The text of summary.md: the answer, and tables by metric."""
    largest = max(row.n for row in rows if row.varied == "oracles")
    fixed, searched, many, most = (
        {row.metric: row for row in _chosen(rows, "nearer", *place)}
        for place in (("oracles", "one", 1), ("searches", "one", 1), ("oracles", "one", largest), ("oracles", "most", largest))
    )
    first = next(iter(fixed.values()))
    answer = (
        f"With one oracle, one original and one forget set, a table calls the better of two methods the worse in "
        f"{_range(fixed, 'worse')}, at given hyperparameters (with {largest} oracles in {_range(many, 'worse')}); with one "
        f"search for them, in {_range(searched, 'worse')}. {_reached(rows)}"
    )
    agreed = (
        f"Two tables with one of each agree on which of two methods is nearer in {_range(fixed, 'same')} of all pairs (a coin: "
        f"50%); with {largest} oracles each, in {_range(many, 'same')}."
    )
    headings = (
        "metric",
        "decided",
        "worse, one of each",
        "worse, and one search",
        *(f"same, {size}" for size in ("one of each", f"{largest} oracles, else one", "most of all")),
    )
    lines = [
        [
            label,
            f"{most[metric].decided} of {most[metric].of}",
            *(_cell(end.get(metric), kind) for end, kind in ((fixed, "worse"), (searched, "worse"))),
            *(_cell(end.get(metric), "same") for end in (fixed, many, most)),
        ]
        for metric, label in METRICS.items()
    ]
    parts = [
        "# How many retrained models it takes",
        answer,
        agreed,
        f"{title}. {first.tables} pairs of tables of each size; the two of a pair have other originals, oracles and forget sets.",
        "## Which of two methods is nearer",
        markdown(headings, lines, left=(0,)),
        f"Worse: of the pairs of methods that all models and sets decide (95% interval of the difference without 0), how often "
        f"one table says the opposite. Intervals: over other methods, and other forget sets where a table has one of several. A "
        f"search tries {trials} settings, and judges each with {judges} models by the metric of the table; on one forget set. "
        f"Blank: {', '.join(METRICS[name] for name in PAIRED)} are not defined for one oracle or one original.",
    ]
    for conclusion, label in CONCLUSIONS.items():
        if conclusion != "nearer":
            parts += [f"## {label[0].upper()}{label[1:]}", _table(rows, conclusion)]
    return page(*parts)


def _table(rows: Sequence[Row], conclusion: str) -> str:
    """Same, right and worse with one of each, and with as many as there are."""
    most = max(row.n for row in rows if row.varied == "oracles")
    ends = [
        {row.metric: row for row in _chosen(rows, conclusion, "oracles", others, n)} for others, n in (("one", 1), ("most", most))
    ]
    kinds = ("same", "right") if conclusion == TAU else ("same", "right", "worse")
    headings = ["metric", *(f"{kind}, {of}" for of in ("one of each", "most") for kind in kinds)]
    lines = [[label, *(_cell(end.get(metric), kind) for end in ends for kind in kinds)] for metric, label in METRICS.items()]
    return markdown(headings, lines, left=(0,))


def _reached(rows: Sequence[Row]) -> str:
    """From how many oracles on two large tables agree on nine pairs of ten, by metric."""
    of_metrics: dict[int, list[str]] = {}
    chosen = [row for row in rows if row[1:4] == ("nearer", "oracles", "most")]
    never = max(row.n for row in chosen) + 1
    for metric, label in METRICS.items():
        own = [row for row in chosen if row.metric == metric]
        enough = [row.n for row in own if all(other.same >= AGREED for other in own if other.n >= row.n)]
        of_metrics.setdefault(min(enough, default=never), []).append(label)
    words = [
        (f"from {n} oracle{'s' * (n > 1)} on" if n < never else f"not even with {n - 1} oracles") + f" by {', '.join(labels)}"
        for n, labels in sorted(of_metrics.items())
    ]
    sample = chosen[0]
    size = f"{sample.n_originals} originals and {sample.n_sets} forget sets"
    return f"Two tables with {size} each agree on {_percent(AGREED)} of the pairs {'; '.join(words)}."


def _range(rows: Mapping[str, Row], kind: str) -> str:
    """The smallest and the largest rate over metrics, with their metrics."""
    known = {metric: getattr(row, kind) for metric, row in rows.items() if not math.isnan(getattr(row, kind))}
    if not known:
        return "an unknown share (nothing is decided)"
    low, high = (choose(known, key=lambda metric: known[metric]) for choose in (min, max))
    return f"{_percent(known[low])} ({METRICS[low]}) to {_percent(known[high])} ({METRICS[high]})"


def _chosen(rows: Sequence[Row], conclusion: str, varied: str, others: str, n: int) -> list[Row]:
    return [row for row in rows if row[1:5] == (conclusion, varied, others, n)]


def _cell(row: Row | None, kind: str) -> str:
    if row is None or math.isnan(getattr(row, kind)):
        return ""
    interval = Interval(*(getattr(row, name) for name in (kind, f"{kind}_low", f"{kind}_high")))
    return f"{interval:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def _draw(rows: Sequence[Row], lines: Sequence[tuple[str, str]], title: str) -> "matplotlib.figure.Figure":
    """A row of panels for each of `lines` (what is varied, the others), a panel for each conclusion, a line for each metric."""
    figure = blank(WIDTH, 1.1 + 2.1 * len(lines))
    panels = figure.subplots(len(lines), len(CONCLUSIONS), squeeze=False)
    for place, (across, (varied, others)) in enumerate(zip(panels, lines, strict=True)):
        counts = sorted({row.n for row in rows if (row.varied, row.others) == (varied, others)})
        for axes, (conclusion, label) in zip(across, CONCLUSIONS.items(), strict=True):
            for colour, (metric, name) in zip(LINES, METRICS.items(), strict=True):
                found = {row.n: row for row in rows if row[:4] == (metric, conclusion, varied, others)}
                points = [Interval(row.same, math.nan, math.nan) if (row := found.get(n)) else None for n in counts]
                draw_trend(axes, points, colour, name)
            _finish(axes, counts, conclusion)
            if place == 0:
                axes.set_title(label, fontsize=8)
            axes.set_xlabel(f"{VARIED[varied]} in a table", fontsize=8)
        sample = next(row for row in rows if (row.varied, row.others) == (varied, others))
        across[0].set_ylabel(f"two tables agree\n{_others(sample)}", fontsize=7)
    handles = panels[-1][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=9)
    return figure


def _finish(axes: "matplotlib.axes.Axes", counts: Sequence[int], conclusion: str) -> None:
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.set_xlim(-0.3, len(counts) - 0.7)
    axes.set_ylim(-0.05 if conclusion == TAU else 0.35 if conclusion == "nearer" else 0, 1.03)
    axes.axhline(0.5 if conclusion == "nearer" else 0, color=LINE, linewidth=0.8, linestyle=":")
    axes.tick_params(labelsize=7)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    open_frame(axes)


def _others(row: Row) -> str:
    """The sizes of a table besides what is varied."""
    sizes = {"oracles": row.n_oracles, "originals": row.n_originals, "sets": row.n_sets}
    words = {"oracles": "oracle", "originals": "original", "sets": "set"}
    return ", ".join(f"{size} {words[name]}{'s' * (size > 1)}" for name, size in sizes.items() if name != row.varied)
