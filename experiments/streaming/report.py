"""How utility and forgetting drift over streams of requests: figures, a table, the cells of the CSV files."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unlearn_jax.metrics import Null
from unlearn_jax.metrics.catalogue import damage, memory_left
from unlearn_jax.metrics.effects import SPLITS, Effects
from unlearn_jax.metrics.statistics import crossed_mean
from unlearn_jax.metrics.verdict import deviation
from unlearn_jax.report.drawing import COLOURS, GRID, LINE, WIDTH, blank, open_frame
from unlearn_jax.report.rows import Row, format_counts
from unlearn_jax.report.tables import finite, markdown, page
from unlearn_jax.types import Interval

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

HURRIED = "retrain at SISA's cost"
ALONE = "class statistics alone"
REFERENCES = ("original", "retrain", HURRIED, "sisa", ALONE)
UNKNOWN = Interval(math.nan, -math.inf, math.inf)
MARKERS = {
    "": "o",
    "anchor": "s",
    "anchor without F": "D",
    "classes": "^",
    "classes with F": "v",
    "held-out": "P",
    "R": "*",
}
"""The mark of each summary."""
LINES = {"": "-", "classes": "-", "classes with F": "--", "held-out": "-.", "R": ":", "anchor": "--", "anchor without F": "-."}
PALETTE = (*COLOURS[:6], "#5D3A9B")
"""The colours of methods; a thin line of the yellow that is left out is hardly seen."""
EDGE = {memory_left.name: (-0.6, 1.4), damage.name: (-0.2, 2.0), "test": (-12.0, 6.0)}
"""What figures show; means beyond lie on the edge, as hollow marks."""
CUT = "hollow: beyond the edge; not drawn: what is known in half of the draws or fewer"
HOLLOW = {"markerfacecolor": "white", "markeredgewidth": 0.8, "clip_on": False, "zorder": 4}
LARGE = 100.0
"""Table cells above it are rounded to two digits: of models that all but diverged."""


class Level(NamedTuple):
    """A score and its null."""

    value: float
    null_mean: float
    null_sd: float
    null_low: float
    null_high: float

    @property
    def z(self) -> float:
        """See `metrics.verdict.deviation`."""
        return deviation(self.value, Null(*self[1:]))


class Rate(NamedTuple):
    """A learning rate that was tried on originals of another seed.

    Attributes:
        method: its name.
        summary: of `summaries.SUMMARIES`, or empty.
        hyperparameter: that was varied.
        value: of it.
        cost: points of held-out accuracy after all requests of a random stream.
        chosen: 1 for the one that is used, else 0.
    """

    method: str
    summary: str
    hyperparameter: str
    value: float
    cost: float
    chosen: int


class Step(NamedTuple):
    """A method after some requests of one stream.

    Attributes:
        stream: the kind of stream.
        draw: number of the draw.
        request: number of requests answered.
        forgotten: number of examples in these requests.
        method: its name, and that of the summary.
        access: what it may see.
        summary: of `summaries.SUMMARIES`, or empty.
        members: number of models that did not diverge.
        seconds: for one request and model.
        cost: of one request, as a share of that of a retraining.
        memory_left: see `metrics.effects`; NaN where the originals remember too little to tell.
        memory_left_low: lower end of its 95% interval over originals and oracles of the draw.
        memory_left_high: upper end.
        damage: on forget, retain and test together.
        damage_low: lower end of its interval.
        damage_high: upper end.
        damage_forget: on all examples requested so far.
        damage_retain: on retained examples.
        damage_test: on the test set.
        klom: on all examples requested so far, nats.
        klom_first: on the examples of the first request.
        forget: accuracy on all examples requested so far, percent.
        retain: accuracy on retained examples.
        test: accuracy on the test set.
    """

    stream: str
    draw: int
    request: int
    forgotten: int
    method: str
    access: str
    summary: str
    members: int
    seconds: float
    cost: float
    memory_left: float
    memory_left_low: float
    memory_left_high: float
    damage: float
    damage_low: float
    damage_high: float
    damage_forget: float
    damage_retain: float
    damage_test: float
    klom: Level
    klom_first: Level
    forget: Level
    retain: Level
    test: Level

    @property
    def apart(self) -> dict[str, float]:
        """The measures that are averaged over draws: effect sizes, and accuracies less the oracles', in points."""
        gaps = {split: getattr(self, split).value - getattr(self, split).null_mean for split in SPLITS}
        sizes = {name: getattr(self, name) for name in EFFECTS}
        return {**sizes, "distance": max(abs(self.memory_left), self.damage), **gaps}  # NaN where there is none


PLAIN = tuple(name for name, kind in Step.__annotations__.items() if kind is not Level)
LEVELS = tuple(name for name, kind in Step.__annotations__.items() if kind is Level)
COLUMNS = (*PLAIN, *(f"{name}_{field}" if field != "value" else name for name in LEVELS for field in Level._fields))
EFFECTS = (memory_left.name, damage.name, "damage_forget", "damage_retain", "damage_test")
MEASURES = (*EFFECTS, "distance", "forget", "retain", "test")


class End(NamedTuple):
    """A method after some requests of a kind of stream, over draws.

    Attributes:
        known: draws in which the originals remember enough to tell what is left.
        models: that are judged, in all draws.
        lost: other models, which diverged or were left alone in their draw.
        measures: each of `MEASURES` with its 95% interval over draws (Student's t); in a run of one draw, that of memory left and
            damage is over originals and oracles.
    """

    stream: str
    request: int
    method: str
    access: str
    summary: str
    seconds: float
    cost: float
    draws: int
    known: int
    models: int
    lost: int
    measures: dict[str, Interval]


END_COLUMNS = (*End._fields[:-1], *(f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")))


def cells(step: Step) -> list[Any]:
    """One row of streaming.csv, in the order of `COLUMNS`."""
    return [finite(getattr(step, name)) for name in PLAIN] + [number for name in LEVELS for number in getattr(step, name)]


def end_cells(end: End) -> list[Any]:
    """One row of summary.csv, in the order of `END_COLUMNS`."""
    return [*end[:-1], *(finite(number) for name in MEASURES for number in end.measures[name])]


def sizes(found: Effects | None) -> dict[str, Any]:
    """The effect sizes, and the ends of their intervals, as fields of `Step`; NaN where there are none."""
    if found is None:
        unknown = dict.fromkeys(EFFECTS, math.nan)
        return unknown | {f"{name}_{end}": math.nan for name in EFFECTS[:2] for end in ("low", "high")}
    both = {memory_left.name: found.memory_left, damage.name: found.damage}
    ends = {f"{name}{end}": of for name, size in both.items() for end, of in zip(("", "_low", "_high"), size, strict=True)}
    return ends | {f"damage_{split}": found.of_split[split].value for split in SPLITS}


def as_row(level: Level) -> dict[str, Any]:
    """The fields of a level as those of a row of results.csv."""
    fields = {name: getattr(level, name) for name in ("value", "null_mean", "null_sd", "null_low", "null_high")}
    return {**fields, "deviation": level.z, **({"z": level.z} if level.null_sd > 0 else {})}


def over_draws(steps: Iterable[Step]) -> list[End]:
    """The means over draws, for each kind of stream, number of requests and method."""
    together: dict[tuple[str, int, str], list[Step]] = {}
    for step in steps:
        together.setdefault((step.stream, step.request, step.method), []).append(step)
    full: dict[tuple[str, int], tuple[int, int]] = {}  # draws and models of the method that lost the fewest
    for (stream, request, _), group in together.items():
        full[stream, request] = max(full.get((stream, request), (0, 0)), (len(group), _models(group)))
    ends = []
    for (stream, request, method), group in together.items():
        values = {name: np.array([step.apart[name] for step in group]) for name in MEASURES}
        seconds, cost = (float(np.mean([getattr(step, name) for step in group])) for name in ("seconds", "cost"))
        known = int(np.isfinite(values[memory_left.name]).sum())
        draws, models = full[stream, request]
        counts = len(group), known, _models(group), models - _models(group)
        facts = stream, request, method, group[0].access, group[0].summary, seconds, cost, *counts
        measures = {name: _over(of_draws) for name, of_draws in values.items()}
        if draws == 1:
            measures |= {name: _of_one(group[0], name) for name in EFFECTS[:2]}
        ends.append(End(*facts, measures))
    return ends


def _models(steps: Iterable[Step]) -> int:
    return sum(step.members for step in steps)


def _of_one(step: Step, name: str) -> Interval:
    """An effect size with its interval over originals and oracles."""
    return Interval(*(getattr(step, f"{name}{end}") for end in ("", "_low", "_high")))


def _over(values: np.ndarray) -> Interval:
    """The mean over the draws that are known, and its interval; without one if fewer than three are."""
    known = values[np.isfinite(values)]
    if len(known) < 3:
        return UNKNOWN._replace(value=float(known.mean()) if len(known) else math.nan)
    return crossed_mean(known[:, None]).interval


def title(rows: Iterable[Row], requests: int, size: int, draws: int) -> str:
    """The title of a run: data set, model, requests, and how many models."""
    rows = list(rows)
    members, oracles = (format_counts(getattr(row, field) for row in rows) for field in ("n_members", "n_oracles"))
    many = f"{draws} draws of streams" if draws > 1 else "one draw of streams"
    about = f"{requests} requests of {size} examples", many, f"n={members} models a method", f"{oracles} oracles"
    return " · ".join([rows[0].dataset, rows[0].model, *about])


def frontier(ends: Sequence[End], title: str) -> "matplotlib.figure.Figure":
    """Draws damage against memory left after the last request, a panel for each kind of stream.

    Colours are methods, marks are summaries. Retraining is at the origin, doing nothing at memory 1 and no damage. Hollow marks
    lie beyond the edge; what is known in half of the draws or fewer is left out.

    Args:
        ends: of all methods.
        title: see `title`.
    """
    last, streams = max(end.request for end in ends), _streams(ends)
    figure = blank(WIDTH, 4.9)
    panels = figure.subplots(1, len(streams), sharey=True, squeeze=False)[0]
    for panel, stream in zip(panels, streams, strict=True):
        for end in ends:
            if (end.stream, end.request) != (stream, last):
                continue
            at = {name: end.measures[name] for name in EFFECTS[:2]}
            if not all(_known(end, name, ends) for name in at):
                continue
            look = _look(end, ends)
            shown = [_cut(name, interval.value) for name, interval in at.items()]
            beyond = shown != [interval.value for interval in at.values()]
            for axis, (name, interval) in enumerate(at.items()):
                if math.isfinite(interval.high - interval.low) and not beyond:
                    span = [_cut(name, interval.low), _cut(name, interval.high)]
                    line = (span, [shown[1]] * 2) if axis == 0 else ([shown[0]] * 2, span)
                    panel.plot(*line, color=look["color"], linewidth=0.7, alpha=0.5, zorder=1)
            panel.plot(*shown, linestyle="", label=end.method, markersize=6, markeredgewidth=0.4, markeredgecolor="white", **look)
            if beyond:
                panel.plot(*shown, linestyle="", markersize=6, **look | HOLLOW)
        panel.set_xlim(*EDGE[memory_left.name])
        panel.set_ylim(*EDGE[damage.name])
        for draw_line in (panel.axvline, panel.axhline):
            draw_line(0, color=LINE, linewidth=0.6, zorder=0)
        panel.set_title(stream, fontsize=9)
        panel.set_xlabel(memory_left.label, fontsize=9)
        _finish(panel)
    panels[0].set_ylabel(damage.label, fontsize=9)
    _legend(figure, panels)
    figure.suptitle(f"{title}\nafter the last request; 95% intervals over {_across(ends)}\n{CUT}", fontsize=9)
    return figure


def drift(ends: Sequence[End], title: str) -> "matplotlib.figure.Figure":
    """Draws memory left, damage and test accuracy against the number of requests, a column for each kind of stream.

    Anchors are left out, which keep what is to be forgotten. Accuracies are less the oracles' after as many requests. Hollow
    marks lie beyond the edge; what is known in half of the draws or fewer is left out.

    Args:
        ends: of all methods.
        title: see `title`.
    """
    streams = _streams(ends)
    rows = {memory_left.name: memory_left.label, damage.name: damage.label, "test": "test accuracy\nminus the oracles', points"}
    figure = blank(WIDTH, 8.0)
    panels = figure.subplots(len(rows), len(streams), squeeze=False, sharex=True, sharey="row")
    for row, (measure, label) in zip(panels, rows.items(), strict=True):
        for panel, stream in zip(row, streams, strict=True):
            for method in dict.fromkeys(end.method for end in ends if "anchor" not in end.summary):
                of_method = [end for end in ends if (end.stream, end.method) == (stream, method)]
                found = [end for end in of_method if _known(end, measure, ends)]
                if not found:
                    continue
                look = _look(found[0], ends)
                style = LINES[found[0].summary] if method not in REFERENCES else "-"
                values = {end.request: end.measures[measure].value for end in found}
                points = {number: _cut(measure, value) for number, value in values.items()}
                panel.plot(*zip(*points.items(), strict=True), label=method, linestyle=style, linewidth=1.2, markersize=3, **look)
                beyond = [number for number, value in values.items() if points[number] != value]
                if beyond:
                    panel.plot(beyond, [points[number] for number in beyond], linestyle="", markersize=3.5, **look | HOLLOW)
            panel.set_xscale("log", base=2)
            panel.axhline(0, color=LINE, linewidth=0.6, zorder=0)
            _finish(panel)
            panel.xaxis.set_major_formatter("{x:g}")
        row[0].set_ylabel(label, fontsize=8)
    for panel, stream in zip(panels[0], streams, strict=True):
        panel.set_title(stream, fontsize=9)
    for panel in panels[-1]:
        panel.set_xlabel("requests answered", fontsize=9)
    _legend(figure, panels.ravel())
    figure.suptitle(f"{title}\nmeans over draws, without methods that have an anchor\n{CUT}", fontsize=9)
    return figure


def summary(ends: Sequence[End], title: str) -> str:
    """Every method after the last request of each kind of stream, as Markdown."""
    last = max(end.request for end in ends)
    sizes = [memory_left.label, damage.label, "damage on R"]
    headings = ["method", "access", "models lost", *sizes, "Δ forget", "Δ retain", "Δ test", "cost", "s a request"]
    shown = (memory_left.name, damage.name, "damage_retain", "forget", "retain", "test")
    parts = []
    for stream in _streams(ends):
        lines = []
        for method in dict.fromkeys(end.method for end in ends):
            access = next(end.access for end in ends if end.method == method)
            found = [end for end in ends if (end.stream, end.request, end.method) == (stream, last, method)]
            if not found:
                models = max(end.models for end in ends if (end.stream, end.request) == (stream, last))
                lines.append([method, access, f"{models} of {models}", *["diverged"] * len(shown), "", ""])
                continue
            (end,) = found
            lost = f"{end.lost} of {end.models + end.lost}" if end.lost else "0"
            values = [_cell(end.measures[name], 2 if name in EFFECTS else 1) for name in shown]
            lines.append([method, access, lost, *values, f"{end.cost:.2g}", f"{end.seconds:.2g}"])
        parts += [f"## {stream}", markdown(headings, lines, left=range(2))]
    reading = (
        "Memory left: 0 as retraining, 1 as doing nothing; damage: in the same unit. Δ: accuracy minus the oracles' after as "
        f"many requests, percentage points. In brackets: 95% over {_across(ends)}. Models lost: they diverged, or were left "
        "alone in their draw; means are of the others. Not known: too few models are left, or originals remember too little, to "
        "tell. Cost: work of a request as a share of a retraining. What each summary holds, and whether it is free of F: "
        "`unlearn_jax.methods.summaries`."
    )
    return page(f"{title}; after {last} requests.", *parts, reading)


def _cell(interval: Interval, digits: int) -> str:
    """A measure in a table."""
    if not math.isfinite(interval.value):
        return "not known"
    return f"{interval:.2g}" if abs(interval.value) > LARGE else f"{interval:.{digits}f}"


def _across(ends: Iterable[End]) -> str:
    """What intervals are over."""
    return "draws" if max(end.draws for end in ends) > 1 else "originals and oracles"


def _streams(ends: Iterable[End]) -> list[str]:
    return list(dict.fromkeys(end.stream for end in ends))


def _known(end: End, measure: str, ends: Iterable[End]) -> bool:
    """Whether a measure is known in more than half of the draws."""
    draws = end.known if measure in EFFECTS else end.draws
    return 2 * draws > max(each.draws for each in ends)


def _cut(measure: str, value: float) -> float:
    """A value, or the edge beyond which it lies."""
    return float(np.clip(value, *EDGE[measure]))


def _look(end: End, ends: Sequence[End]) -> dict[str, Any]:
    """The colour of a method and the mark of its summary."""
    if end.method in REFERENCES:
        marks = dict(zip(REFERENCES, "Xo<dh", strict=True))
        return {"color": "#666666" if end.method == ALONE else "black", "marker": marks[end.method]}
    methods = dict.fromkeys(_bare(each) for each in ends if each.method not in REFERENCES)
    return {"color": PALETTE[list(methods).index(_bare(end)) % len(PALETTE)], "marker": MARKERS[end.summary]}


def _bare(end: End) -> str:
    """The method's name without that of the summary."""
    return end.method.removesuffix(f" + {end.summary}")


def _finish(panel: "matplotlib.axes.Axes") -> None:
    panel.tick_params(labelsize=7)
    panel.grid(color=GRID, linewidth=0.6)
    open_frame(panel)


def _legend(figure: "matplotlib.figure.Figure", panels: Iterable["matplotlib.axes.Axes"]) -> None:
    """One legend for all panels, below."""
    known: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=6.5)
