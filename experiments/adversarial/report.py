"""Fooled critics: every condition's measures, paired differences, what was aimed at, and whether losses are uniform."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.adversarial.options import BASE, CONDITIONS, GAMES, ONE, PROXY, TWO
from unlearn_jax.metrics.catalogue import damage, memory_left
from unlearn_jax.metrics.statistics import over_draws
from unlearn_jax.report.drawing import BAND, COLOURS, GRID, LINE, WIDTH, blank, name_rows, open_frame
from unlearn_jax.report.tables import Table, finite_row, markdown, page
from unlearn_jax.types import Interval

if TYPE_CHECKING:
    import matplotlib.figure

AUDIENCES = {
    "validation": "validation",
    "test-like": "test-like",
    "test": "test",
    "held-out, right": "held-out, right labels",
}
"""The examples that fresh critics tell F from -> their name; labels are wrong as often as in F, but for the last."""
MEASURES = {
    memory_left.name: memory_left.label,
    damage.name: damage.label,
    "distance": "distance",
    "damage_forget": "damage on F",
    "damage_retain": "damage on R",
    "damage_test": "damage on test",
    "memory_mislabelled": "memory left, wrong labels of F",
    "memory_right": "memory left, right labels of F",
    **{f"auc_{part}": f"AUC against {name}" for part, name in AUDIENCES.items()},
    "auc_gap": "AUC against test-like less that against validation",
    "ranks": "rank correlation with oracles on F",
    "ks_oracles": "KS to oracles on F",
    "ks_uniform": "KS to uniform",
    "accuracy_forget": "accuracy on F, %",
    "accuracy_retain": "accuracy on R, %",
    "accuracy_test": "accuracy on test, %",
    "loss_forget": "loss on F, nats",
    "lost": "models lost",
}
"""Measure of a condition in a draw -> its name. KS: the Kolmogorov-Smirnov distance of a model's losses on F; rank correlation:
of the mean margins of the examples of F."""
AIM_MEASURES = {
    "accuracy": "accuracy, %",
    "accuracy_gap": "less the oracles' on F",
    "loss": "loss, nats",
    "loss_gap": "less the oracles' on F, nats",
    "ks": "KS to oracles on F",
    "auc": "AUC against oracles on F",
}
UNIFORM_MEASURES = {
    "uniform": "a model to uniform",
    "best": "a model to the nearest uniform",
    "pooled": "all models to uniform",
    "sample": "a uniform sample to uniform",
    "pools": "two pools of models",
    "others": "a model to a pool, other examples",
    "above": "above log classes, %",
    "below": "below a hundredth of it, %",
}
"""Kolmogorov-Smirnov distances of retrained models' losses, and shares of losses."""
CURVES = {
    "oracles on F": ("oracle", "F"),
    "originals on F": ("original", "F"),
    "originals on held-out, right labels": ("original", "held-out, right"),
    "originals on held-out, labels wrong as in F": ("original", "held-out"),
    "adversarial on F": (BASE, "F"),
    "oracles on test, labels wrong as in F": ("oracle", "test"),
}
"""Losses that are drawn: of which models, and on which examples."""
PAIRS = (
    *((condition.name, BASE) for condition in CONDITIONS if condition.name != BASE and condition.method != PROXY),
    (f"{TWO}, right labels", TWO),
    (f"{ONE}, right labels, same values", f"{ONE}, right labels"),
    (BASE, "original"),
    (BASE, "retrain"),
)
SIZES = (memory_left.name, damage.name, "distance")
LIMITS = {memory_left.name: (-0.35, 1.15), damage.name: (-0.1, 1.6), "auc": (0.4, 0.9)}


class Measured(NamedTuple):
    """All measures of a draw.

    Attributes:
        conditions: of each condition and of original, oracle and retrain: `MEASURES`.
        aims: `AIM_MEASURES` of what critics take for unseen, and of what is reached.
        uniform: `UNIFORM_MEASURES`, by examples.
    """

    conditions: dict[str, dict[str, float]]
    aims: dict[str, dict[str, float]]
    uniform: dict[str, dict[str, float]]


class Results(NamedTuple):
    """The draws so far.

    Attributes:
        title: data set, model, how many models.
        draws: what was measured.
        losses: of each draw, the losses of `CURVES`.
        top: the loss of a uniform prediction, nats.
        searches: the rows of tuning.csv.
    """

    title: str
    draws: Sequence[Measured]
    losses: Sequence[dict[str, np.ndarray]]
    top: float
    searches: list[list[Any]]

    def values(self, kind: str, name: str, measure: str) -> np.ndarray:
        """A measure of a condition, an aim or examples in each draw; NaN where it is not known."""
        return np.array([getattr(draw, kind).get(name, {}).get(measure, math.nan) for draw in self.draws])

    def value(self, name: str, measure: str) -> Interval:
        """A measure of a condition: its mean over draws, with its interval."""
        return over_draws(self.values("conditions", name, measure))

    def difference(self, one: str, other: str, measure: str) -> Interval:
        """The mean difference of two conditions, paired by draw."""
        return over_draws(self.values("conditions", one, measure) - self.values("conditions", other, measure))

    @property
    def names(self) -> list[str]:
        """All conditions, in the order of tables: references, methods to compare with, games, controls."""
        return list(self.draws[0].conditions)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The conditions that are compared: those of `PAIRS`, and methods to compare with."""
        known = {condition.name for condition in CONDITIONS} | {"original", "oracle", "retrain"}
        others = [(name, BASE) for name in self.names if name not in known and not name.startswith(PROXY)]
        return [*PAIRS, *others]


def tables(study: Results) -> dict[str, Table]:
    """The tables of the run folder by name, without suffix."""

    def over(kind: str, names: Iterable[str], measures: Iterable[str]) -> list[list[Any]]:
        return [
            finite_row([name, measure, *over_draws(study.values(kind, name, measure))]) for name in names for measure in measures
        ]

    ends = ("value", "low", "high")
    by_draw = [
        finite_row([number, name, *(found[measure] for measure in MEASURES)])
        for number, draw in enumerate(study.draws)
        for name, found in draw.conditions.items()
    ]
    differences = [
        finite_row([one, other, measure, *study.difference(one, other, measure)])
        for one, other in study.pairs
        for measure in MEASURES
        if measure != "lost"
    ]
    first = study.draws[0]
    return {
        "draws": Table(["draw", "condition", *MEASURES], by_draw),
        "conditions": Table(["condition", "measure", *ends], over("conditions", study.names, MEASURES)),
        "differences": Table(["condition", "less", "measure", *ends], differences),
        "aims": Table(["aim", "measure", *ends], over("aims", first.aims, AIM_MEASURES)),
        "uniform": Table(["examples", "measure", *ends], over("uniform", first.uniform, UNIFORM_MEASURES)),
    }


def summary(study: Results) -> str:
    """The text of summary.md."""

    def rows(names: Iterable[str], measures: Iterable[str], pick: Callable[[str, str], Interval]) -> list[list[str]]:
        return [[name, *(_shown(pick(name, measure), measure) for measure in measures)] for name in names]

    def of(kind: str) -> Callable[[str, str], Interval]:
        return lambda name, measure: over_draws(study.values(kind, name, measure))

    def table(first: str, names: Iterable[str], shown: Mapping[str, str], pick: Callable[[str, str], Interval]) -> str:
        return markdown([first, *shown.values()], rows(names, shown, pick), left=(0,))

    def some(*measures: str) -> dict[str, str]:
        return {measure: MEASURES[measure] for measure in measures}

    pairs = {f"{one} less {other}": (one, other) for one, other in study.pairs}
    compared = some(*SIZES, "auc_validation", "auc_test-like", "auc_test")
    sizes = some(*SIZES, "memory_mislabelled", "memory_right", "lost")
    first = study.draws[0]
    parts = [
        f"# Fooled critics: {study.title}",
        "95% intervals over draws of wrong labels, originals and F (Student's t); differences are paired by draw. Memory left: 0 "
        "as retraining, 1 as doing nothing. Distance: the larger of |memory left| and damage. AUC: of fresh critics that tell F "
        "from examples that were not trained on, with as many wrong labels; that of oracles is what retraining gives.",
        table("condition", study.names, sizes, study.value),
        "## Are critics fooled?",
        table("condition", study.names, some(*(f"auc_{part}" for part in AUDIENCES), "auc_gap"), study.value),
        "## Losses and ranks on F",
        table("condition", study.names, some("ranks", "ks_oracles", "ks_uniform"), study.value),
        "## Accuracy and loss",
        table("condition", study.names, some("accuracy_forget", "accuracy_retain", "accuracy_test", "loss_forget"), study.value),
        "## Differences",
        table("", pairs, compared, lambda name, measure: study.difference(*pairs[name], measure)),
        "## What is aimed at",
        table("models, examples", first.aims, AIM_MEASURES, of("aims")),
        "## Are losses of retrained models uniform?",
        f"Kolmogorov-Smirnov distances; uniform: on 0 to {study.top:.2f} nats, the loss of a uniform prediction.",
        table("examples", first.uniform, UNIFORM_MEASURES, of("uniform")),
    ]
    return page(*parts)


def _shown(interval: Interval, measure: str) -> str:
    if not math.isfinite(interval.value):
        return ""
    if measure == "lost":
        return f"{interval.value:.2g}"
    return f"{interval:.1f}" if measure.startswith("accuracy") or measure in ("above", "below") else f"{interval:.2f}"


def conditions(study: Results) -> "matplotlib.figure.Figure":
    """Draws memory left, damage, and how well fresh critics tell F from unseen examples: a row for each condition."""
    names = [name for name in study.names if name != "oracle"]
    figure = blank(WIDTH, 1.5 + 0.24 * len(names))
    panels = figure.subplots(1, 3, sharey=True)
    colours = dict(zip(("validation", "test-like", "test"), COLOURS, strict=False))
    for panel, measure in zip(panels, (memory_left.name, damage.name, "auc"), strict=True):
        name_rows(panel, names, 8.0)
        panel.set_xlim(*LIMITS[measure])
        panel.grid(axis="x", color=GRID, linewidth=0.5)
        for row, name in enumerate(names):
            if measure != "auc":
                _dot(panel, study.value(name, measure), row, _colour(name), "o", LIMITS[measure])
                continue
            for place, (part, colour) in enumerate(colours.items()):
                at = row + 0.22 * (place - 1)
                _dot(panel, study.value(name, f"auc_{part}"), at, colour, "o^s"[place], LIMITS["auc"], 3)
        panel.set_xlabel(MEASURES.get(measure, "AUC of fresh critics: F against"), fontsize=9)
    for panel in panels[:2]:
        panel.axvline(0, color=LINE, linewidth=0.8, zorder=0)
    seen = [study.value("oracle", f"auc_{part}").value for part in colours]
    panels[2].axvspan(min(seen), max(seen), color=BAND, alpha=0.5, zorder=0, linewidth=0)
    handles = [
        panels[2].plot([], [], "o^s"[at], color=colour, label=part)[0] for at, (part, colour) in enumerate(colours.items())
    ]
    panels[2].legend(handles=handles, fontsize=7, frameon=False, loc="upper right")
    figure.suptitle(
        f"{study.title}\n95% intervals over draws; grey band: retrained models (labels of all sets are wrong as often as F's); "
        "hollow: beyond the edge",
        fontsize=9,
    )
    return figure


def _dot(
    panel: Any, interval: Interval, row: float, colour: str, marker: str, limits: tuple[float, float], size: float = 4
) -> None:
    """A value with its interval in a row; hollow on the edge where it is beyond it."""
    if not math.isfinite(interval.value):
        return
    inside = min(max(interval.value, limits[0]), limits[1])
    beyond = inside != interval.value
    face = "white" if beyond else colour
    panel.plot(inside, row, marker, color=colour, markersize=size, markerfacecolor=face, clip_on=not beyond, zorder=3)
    if math.isfinite(interval.high - interval.low):
        panel.plot(np.clip(interval[1:], *limits), [row, row], color=colour, linewidth=1.0, alpha=0.7)


def _colour(name: str) -> str:
    """References black, one critic blue, two green, its controls grey, the proxy orange, others pink."""
    controls = {condition.name for condition in CONDITIONS if condition.changes or condition.on_retained}
    if name in ("original", "retrain"):
        return "#000000"
    if name.startswith(PROXY):
        return COLOURS[4]
    if name in controls:
        return "#777777"
    method = name.split(",")[0]
    return {ONE: COLOURS[0], TWO: COLOURS[2]}.get(method, COLOURS[3]) if method in GAMES else COLOURS[3]


def aims(study: Results) -> "matplotlib.figure.Figure":
    """Draws the distributions of losses: what is aimed at, what retraining gives, and a uniform one."""
    figure = blank(WIDTH, 4.0)
    panel = figure.subplots()
    shares = np.linspace(0, 1, 401)
    styles = ("-", ":", "--", "-.", "-", "--")
    colours = ("#000000", *COLOURS[:1], *COLOURS[4:5], *COLOURS[2:3], *COLOURS[3:4], LINE)
    for name, style, colour in zip(CURVES, styles, colours, strict=True):
        losses = [draw[name] for draw in study.losses if name in draw]
        if losses:
            at = np.quantile(np.concatenate(losses), shares)
            panel.plot(np.maximum(at, 1e-4), shares, style, color=colour, linewidth=1.4, label=name)
    uniform = np.geomspace(1e-4, study.top, 200)
    panel.plot(uniform, uniform / study.top, color=COLOURS[1], linewidth=1.4, label="uniform losses")
    panel.set_xscale("log")
    panel.set_xlim(1e-4, 30)
    panel.set_xlabel("loss, nats", fontsize=9)
    panel.set_ylabel("share of losses below", fontsize=9)
    panel.grid(color=GRID, linewidth=0.5)
    open_frame(panel)
    panel.legend(fontsize=8, frameon=False, loc="upper left")
    figure.suptitle(f"{study.title}\nlosses of all models and draws together", fontsize=9)
    return figure


def proxy(study: Results) -> "matplotlib.figure.Figure":
    """Draws memory left and damage of the proxy without the retain set against how uniform its losses on F are."""
    figure = blank(WIDTH, 3.4)
    panels = figure.subplots(1, 2)
    names = [*(name for name in study.names if name.startswith(PROXY)), "retrain", "original"]
    palette = [*((*COLOURS[:6], "#5D3A9B") * 15)[: len(names) - 2], LINE, "#000000"]
    marks = [*("os^vD<>" * 15)[: len(names) - 2], "P", "*"]
    floor = over_draws(study.values("uniform", "F", "sample")).value
    for panel, measure in zip(panels, (memory_left.name, damage.name), strict=True):
        for name, colour, mark in zip(names, palette, marks, strict=True):
            across, up = study.value(name, "ks_uniform"), study.value(name, measure)
            if not math.isfinite(across.value + up.value):
                continue
            panel.plot(across.value, up.value, mark, color=colour, markersize=6, label=name)
            for (_, low, high), line in ((across, 0), (up, 1)):
                if math.isfinite(high - low):
                    ends, place = [low, high], [(up if line == 0 else across).value] * 2
                    panel.plot(*((ends, place) if line == 0 else (place, ends)), color=colour, linewidth=0.8, alpha=0.7)
        panel.axhline(0, color=LINE, linewidth=0.6, zorder=0)
        panel.axvline(floor, color=LINE, linewidth=0.8, linestyle=":", zorder=0)
        panel.set_xlabel("Kolmogorov-Smirnov distance of the losses on F from uniform", fontsize=8)
        panel.set_ylabel(MEASURES[measure], fontsize=9)
        panel.set_xlim(0, 1.02)
        panel.grid(color=GRID, linewidth=0.5)
        open_frame(panel)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, frameon=False, loc="outside lower center", ncols=3)
    figure.suptitle(f"{study.title}\n95% intervals over draws; dotted: losses that are uniform", fontsize=9)
    return figure
