"""Capacity where every size fits: losses at a glance, trends over draws, and the curves of single examples."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from unlearn_jax.bench.several_sets import labels_of
from unlearn_jax.metrics.catalogue import damage, memory_left
from unlearn_jax.metrics.statistics import over_draws
from unlearn_jax.report.drawing import COLOURS, GRID, LINE, WIDTH, blank, cut, draw_trend, open_frame
from unlearn_jax.report.figures import loss_distributions
from unlearn_jax.report.tables import Table, finite_row, markdown, page
from unlearn_jax.types import Interval

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

RULES = {"loss": "equal loss", "epochs": "equal epochs"}
"""Rule -> its name in tables and figures."""
LOWEST = -10  # log10 nats: smaller losses count as this in figures and distances
SHAPES = "rises", "falls", "peaks", "dips", "flat"
MEASURES = {
    "train_loss": "training loss, nats",
    "train_accuracy": "training accuracy, %",
    "test_accuracy": "test accuracy, %",
    "test_loss": "test loss, nats",
    "forget_accuracy": "accuracy on F, originals, %",
    "oracle_accuracy": "accuracy on F, oracles, %",
    "memorisation": "memorisation, points of accuracy",
    "probability": "memorisation, probability of the label",
    "probability_wrong": "wrong labels, probability",
    "probability_right": "right labels, probability",
    "memorised": "examples memorised by more than 1/2, %",
    "lira_auc": "LiRA AUC",
    "lira_null": "LiRA AUC of oracles",
    "spread": "sd over oracles of the label's probability",
    "remembered": "what is remembered, margins",
    "forget_shift": "distance of F, originals to oracles, decades",
    "forget_shift_null": "distance of F, oracles to oracles, decades",
    "forget_test": "distance of F to test, originals, decades",
    "forget_test_oracles": "distance of F to test, oracles, decades",
    "retain_test": "distance of R to test, originals, decades",
}
"""Measure -> its name in tables and figures; `measures` has those of the methods too."""
DISTANCES = ("forget_shift", "forget_shift_null", "forget_test", "forget_test_oracles", "retain_test")
SHOWN = ("train_loss", "test_accuracy", "memorisation", "probability", "lira_auc", "spread", "remembered")  # in the first table
TRENDS: dict[str, tuple[str, ...]] = {
    "training loss,\nnats": ("train_loss",),
    "accuracy on F,\n%": ("forget_accuracy", "oracle_accuracy"),
    "memorisation,\npoints": ("memorisation",),
    "memorisation,\nprobability": ("probability_wrong", "probability", "probability_right"),
    "LiRA AUC": ("lira_auc", "lira_null"),
}


class Draw(NamedTuple):
    """One size in one draw of the data.

    Attributes:
        parameters: of the network.
        measures: the value of each measure; NaN if it is not known.
        losses: of all models on all examples, nats, by kind (original, oracle) and split.
        seen: of each forget set, each original's probability of the label, `[models, examples]`.
        unseen: likewise, of the oracles.
        wrong: which labels of each forget set are wrong.
    """

    parameters: int
    measures: dict[str, float]
    losses: dict[tuple[str, str], Float[np.ndarray, " answers"]]
    seen: list[Float[np.ndarray, "models examples"]]
    unseen: list[Float[np.ndarray, "models examples"]]
    wrong: Bool[np.ndarray, "sets examples"]


class Size(NamedTuple):
    """One size under one rule; without epochs and draws if it does not reach the loss."""

    rule: str
    axis: str
    value: int
    epochs: int | None
    draws: list[Draw]

    def over_draws(self, measure: str) -> Interval:
        """A measure with its interval over draws."""
        return over_draws(np.array([draw.measures[measure] for draw in self.draws]))


class Trend(NamedTuple):
    """How a measure changes with each doubling of the size, and from the smallest to the largest size, with 95% intervals."""

    rule: str
    axis: str
    measure: str
    draws: int  # in which the measure is known at every size
    per_doubling: float
    per_doubling_low: float
    per_doubling_high: float
    ends: float
    ends_low: float
    ends_high: float

    @property
    def slope(self) -> Interval:
        """The change with each doubling."""
        return Interval(self.per_doubling, self.per_doubling_low, self.per_doubling_high)

    @property
    def change(self) -> Interval:
        """The change from the smallest size to the largest."""
        return Interval(self.ends, self.ends_low, self.ends_high)


class Shape(NamedTuple):
    """The share of the examples whose memorisation has one shape along the sizes, in percent, with 95% intervals."""

    rule: str
    axis: str
    part: str
    examples: int
    shape: str
    share: float
    share_low: float
    share_high: float
    chance: float  # the share with sizes permuted among models
    excess: float  # share minus chance
    excess_low: float
    excess_high: float

    @property
    def percent(self) -> Interval:
        """The share."""
        return Interval(self.share, self.share_low, self.share_high)

    @property
    def beyond(self) -> Interval:
        """The share beyond chance."""
        return Interval(self.excess, self.excess_low, self.excess_high)


class Results(NamedTuple):
    """All sizes, from small to large on each axis."""

    title: str
    loss: float
    methods: list[str]
    sizes: list[Size]
    trends: list[Trend]
    shapes: list[Shape]

    @property
    def groups(self) -> dict[str, list[Size]]:
        """The sizes that were measured, by axis and rule, for titles."""
        found: dict[str, list[Size]] = {}
        for size in sorted(self.sizes, key=lambda size: size.axis, reverse=True):  # sorting keeps the order of sizes
            if size.draws:
                found.setdefault(f"{size.axis}, {RULES[size.rule]}", []).append(size)
        return dict(sorted(found.items(), key=lambda item: item[1][0].axis, reverse=True))


def measures(methods: Sequence[str]) -> dict[str, str]:
    """Every measure and its name, those of the methods included."""
    return MEASURES | labels_of(methods)


def by_draw(study: Results) -> Table:
    """The columns and rows of draws.csv: a row for each rule, size and draw."""
    names = measures(study.methods)
    rows = [
        finite_row([size.rule, size.axis, size.value, size.epochs, number, *(draw.measures[name] for name in names)])
        for size in study.sizes
        for number, draw in enumerate(size.draws)
    ]
    return Table(["rule", "axis", "size", "epochs", "draw", *names], rows)


def by_size(study: Results) -> Table:
    """The columns and rows of sizes.csv: a row for each rule and size; one that does not reach the loss has no measures."""
    names = measures(study.methods)
    rows = []
    for size in study.sizes:
        ends = [end for name in names for end in (size.over_draws(name) if size.draws else (None,) * 3)]
        rows.append(
            finite_row([size.rule, size.axis, size.value, size.draws[0].parameters if size.draws else None, size.epochs, *ends])
        )
    columns = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    return Table(["rule", "axis", "size", "parameters", "epochs", *columns], rows)


def summary(study: Results) -> str:
    """The text of summary.md."""
    names = measures(study.methods)
    of_methods = [name for name in names if "/" in name]

    def table(shown: Sequence[str]) -> str:
        lines = [
            [size.axis, str(size.value), RULES[size.rule], str(size.epochs or "not reached")]
            + [f"{size.over_draws(name):.3g}" if size.draws else "" for name in shown]
            for size in study.sizes
        ]
        return markdown(["axis", "size", "rule", "epochs", *(names[name] for name in shown)], lines, left=(0, 2))

    changes = [
        [trend.axis, RULES.get(trend.rule, trend.rule), names[trend.measure], str(trend.draws)]
        + [f"{interval:.3g}" for interval in (trend.slope, trend.change)]
        for trend in study.trends
    ]
    curves = [
        [row.axis, RULES[row.rule], row.part, str(row.examples), row.shape]
        + [f"{shown:.1f}" for shown in (row.percent, row.chance, row.beyond)]
        for row in study.shapes
    ]
    return page(
        f"# Capacity where every size fits: {study.title}",
        f"Equal loss: the fewest epochs found after which the originals' mean training loss is at or below {study.loss:g} nats. "
        "95% intervals over draws of the data (Student's t). Memorisation: of originals less oracles, on F. Memory left: 0 as "
        "retraining, 1 as doing nothing. Decades: of the Wasserstein distance between distributions of log10 loss.",
        table(SHOWN),
        table(of_methods),
        table(DISTANCES),
        "Changes with each doubling of the size, and from the smallest size to the largest: of each draw, then over draws.",
        markdown(["axis", "rule", "measure", "draws", "per doubling", "smallest to largest"], changes, left=(0, 1, 2)),
        "Examples by the shape of their memorisation (probability of the label) against size; chance: sizes permuted.",
        markdown(["axis", "rule", "labels", "examples", "shape", "%", "chance, %", "difference"], curves, left=(0, 1, 2, 4)),
    )


def losses(study: Results) -> "matplotlib.figure.Figure":
    """Draws the distributions of losses on forget, retain and test as capacity grows, of originals and oracles."""
    rows = {
        name: {
            f"{size.axis} {size.value}\n{RULES[size.rule]}": {
                key: np.concatenate([draw.losses[key] for draw in size.draws]) for key in size.draws[0].losses
            }
            for size in sizes
        }
        for name, sizes in study.groups.items()
    }
    return loss_distributions(rows, study.title, LOWEST)


def distances(study: Results) -> "matplotlib.figure.Figure":
    """Draws the distances between the distributions of the loss as capacity grows."""
    return _panels(study, {"distance,\ndecades of loss": DISTANCES[:2], "to test,\ndecades of loss": DISTANCES[2:]})


def against_size(study: Results) -> "matplotlib.figure.Figure":
    """Draws the measures against the size, at equal loss and at equal epochs."""
    of_methods = {memory_left.label: "memory", damage.label: damage.name}
    rows = {label: tuple(f"{size}/{name}" for name in study.methods) for label, size in of_methods.items()}
    return _panels(study, dict(TRENDS) | rows)


def examples(study: Results) -> "matplotlib.figure.Figure":
    """Draws the memorisation of single examples against size, and the share with each shape beside what chance gives."""
    groups = study.groups
    figure = blank(WIDTH, 4.8)
    panels = figure.subplots(2, len(groups), squeeze=False, sharey="row")
    for (above, below), (name, sizes) in zip(panels.T, groups.items(), strict=True):
        gains = np.stack([np.concatenate([_gains(draw) for draw in size.draws]) for size in sizes])
        wrong = np.concatenate([draw.wrong.ravel() for draw in sizes[0].draws])
        for part, colour, label in ((~wrong, COLOURS[0], "right labels"), (wrong, COLOURS[4], "wrong labels")):
            if part.any():
                low, middle, high = np.quantile(gains[:, part], [0.1, 0.5, 0.9], axis=1)
                above.fill_between(range(len(sizes)), low, high, color=colour, alpha=0.2, linewidth=0)
                above.plot(range(len(sizes)), gains[:, part].mean(1), "o-", color=colour, markersize=3, label=label)
                above.plot(range(len(sizes)), middle, ":", color=colour, linewidth=1)
        _format(above, sizes)
        above.set_title(name, fontsize=9)
        rows = [row for row in study.shapes if (row.axis, row.rule, row.part) == (sizes[0].axis, sizes[0].rule, "all")]
        for place, row in enumerate(rows):
            below.bar(place, row.share, 0.6, color=COLOURS[0], alpha=0.55)
            if math.isfinite(row.share_high - row.share_low):
                below.plot([place, place], [row.share_low, row.share_high], color=COLOURS[0], linewidth=1.2)
            below.plot([place - 0.35, place + 0.35], [row.chance] * 2, color="black", linewidth=1.5)
        below.set_xticks(range(len(rows)), [row.shape for row in rows], fontsize=7)
        below.tick_params(axis="y", labelsize=7)
        open_frame(below)
    panels[0, 0].set_ylabel("memorisation,\nprobability of the label", fontsize=8)
    panels[1, 0].set_ylabel("examples, %", fontsize=8)
    panels[0, -1].legend(fontsize=7, frameon=False)
    figure.suptitle(
        f"{study.title}\nabove: mean (points), median (dotted) and 10 to 90% of the examples; below: by the shape of a curve,\n"
        "95% intervals over draws; black: sizes permuted among models",
        fontsize=9,
    )
    return figure


def _gains(draw: Draw) -> Float[np.ndarray, " examples"]:
    return np.concatenate([one.mean(0) - other.mean(0) for one, other in zip(draw.seen, draw.unseen, strict=True)])


def _panels(study: Results, rows: dict[str, tuple[str, ...]]) -> "matplotlib.figure.Figure":
    """Draws measures against the size: a row for each group of measures, a column for each axis and rule."""
    groups, names = study.groups, measures(study.methods)
    figure = blank(WIDTH, 1.0 + 1.35 * len(rows))
    panels = figure.subplots(len(rows), len(groups), squeeze=False, sharey="row")
    for row, (label, shown) in zip(panels, rows.items(), strict=True):
        values = []
        for panel, sizes in zip(row, groups.values(), strict=True):
            for measure, colour in zip(shown, ("black", *COLOURS[:7]), strict=False):
                intervals = [size.over_draws(measure) for size in sizes]
                draw_trend(panel, intervals, colour, _short(names[measure]))
                values += [interval.value for interval in intervals if math.isfinite(interval.value)]
            if shown[0].startswith(("memory/", "damage/", "memorisation", "probability")):
                panel.axhline(0, color=LINE, linewidth=0.6, zorder=0)
            _format(panel, sizes)
        if values:
            cut(row[0], values)
        row[0].set_ylabel(label, fontsize=8)
        row[-1].legend(fontsize=6, frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))
    for panel, name in zip(panels[0], groups, strict=True):
        panel.set_title(name, fontsize=9)
    figure.suptitle(f"{study.title}\n95% intervals over draws, cut at the panels' edges", fontsize=9)
    return figure


def _short(name: str) -> str:
    """A measure's name without what the row says already."""
    return name.removeprefix("memory left, ").removeprefix("damage, ").removesuffix(", decades")


def _format(panel: "matplotlib.axes.Axes", sizes: Sequence[Size]) -> None:
    """Names the sizes under a panel."""
    panel.set_xticks(range(len(sizes)), [str(size.value) for size in sizes], fontsize=7)
    panel.tick_params(axis="y", labelsize=7)
    open_frame(panel)
    panel.grid(axis="y", color=GRID, linewidth=0.6)
