"""Unlearning as overfitting: losses at a glance, trends along each axis, interpolation, and the cost of unlearning."""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from unlearn_jax.metrics.catalogue import js_divergence
from unlearn_jax.report.drawing import BAND, COLOURS, GRID, WIDTH, blank, cut, draw_trend, open_frame
from unlearn_jax.report.drawing import SPLITS as COLOUR_OF
from unlearn_jax.report.figures import loss_distributions
from unlearn_jax.report.tables import Table, finite, markdown, page
from unlearn_jax.types import Interval

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

SPLITS = tuple(COLOUR_OF)
KINDS = ("original", "oracle")
ALL = "all"  # in place of a forget set's name: the mean over them
MAIN = js_divergence.on("forget")  # the main metric of cost: with few models it is less noisy than a histogram metric
MEASURES = {
    "train_accuracy": "accuracy on retain, %",
    "test_accuracy": "accuracy on test, %",
    "accuracy_gap": "gap, points",
    "train_loss": "loss on retain, nats",
    "test_loss": "loss on test, nats",
    "loss_gap": "loss gap, nats",
    "forget_accuracy": "accuracy on F, originals, %",
    "oracle_accuracy": "accuracy on F, oracles, %",
    "memorisation": "memorisation, points",
    "memorised_wrong": "of wrong labels",
    "memorised_right": "of right labels",
    "lira_auc": "LiRA AUC",
    "lira_null": "LiRA AUC of oracles",
    "mean_distance": "squared distance of mean predictions on F",
}
"""Measure -> its name in tables and figures."""
OMITTED = ("train_loss", "test_loss", "mean_distance")  # measures that are in settings.csv only
DIFFERENCES = {
    "memorisation": "memorisation, points",
    "lira_auc": "LiRA AUC",
    "accuracy_gap": "gap, points",
    "loss_gap": "loss gap, nats",
    "test_error": "test error, points",
    "left": "left by doing nothing, bits",
    "mean_distance": "squared distance of mean predictions on F",
}
"""Measure of differences between settings -> its name in tables."""
FITTED = (90, 99)  # accuracies on retain in percent; a network below them does not fit
REACHED = 1.0  # percent of training error, below which a model interpolates
VISIBLE = 2.0  # null standard deviations: shares of the originals' excess are given where it is larger
OVERFITTING = ("train_loss", "loss_gap", "accuracy_gap", "memorisation", "lira_auc")
"""The measures that are correlated with the cost of unlearning."""
TRENDS: dict[str, tuple[str, ...]] = {
    "accuracy, %": ("train_accuracy", "test_accuracy", "oracle_accuracy"),
    "loss, nats": ("train_loss", "test_loss"),
    "memorisation,\npoints": ("memorisation", "memorised_wrong", "memorised_right"),
    "LiRA AUC": ("lira_auc", "lira_null"),
}
MARKERS = {
    "base": "o",
    "depth": "s",
    "width": "D",
    "epochs": "^",
    "weight decay": "v",
    "augmentation": "P",
    "label noise": "*",
}
CAPACITY, INTERPOLATION = ("depth", "width"), ("width", "epochs")  # preferred axes of a figure
LOWEST, BELOW = (-6, -10, -14), 1e-3  # log10 nats at which a loss axis may begin, and the share of losses allowed below


class Cost(NamedTuple):
    """The cost of a method on a forget set, or over all of them: its distance from retraining in one metric."""

    forget_set: str
    method: str
    metric: str
    split: str
    value: float
    low: float  # end of a 95% interval over originals, and over forget sets if it is over all
    high: float
    null_mean: float
    null_sd: float
    n: int  # number of unlearned models, and of oracles

    @property
    def excess(self) -> float:
        """The value minus the mean of the null."""
        return self.value - self.null_mean

    @property
    def z(self) -> float:
        """The excess in null standard deviations; NaN if the null has no spread."""
        return self.excess / self.null_sd if self.null_sd > 0 else math.nan

    @property
    def z_interval(self) -> Interval:
        """Z with its interval. The oracles are fixed, since their variation is in the null's standard deviation."""
        low, high = ((end - self.null_mean) / self.null_sd if self.null_sd > 0 else math.nan for end in (self.low, self.high))
        return Interval(self.z, low, high)


class Unfitted(NamedTuple):
    """The number of networks, and of those with an accuracy on retain below each of `FITTED`."""

    networks: int
    below_90: int
    below_99: int


class Setting(NamedTuple):
    """One setting.

    Attributes:
        axis: the option that is varied.
        value: its value.
        parameters: number of parameters of the model.
        intervals: by measure, the value and its 95% interval.
        costs: of doing nothing and of each method.
        losses: of all models on all examples, nats, by kind (original, oracle) and split.
        unfitted: networks that did not train, by kind.
        parts: by measure of `DIFFERENCES`, each original's value on each forget set, NaN where it diverged; one column if it does
            not depend on the set, one row if it depends on all originals together.
    """

    axis: str
    value: str
    parameters: int
    intervals: dict[str, Interval]
    costs: list[Cost]
    losses: dict[tuple[str, str], Float[np.ndarray, " answers"]]
    unfitted: dict[str, Unfitted]
    parts: dict[str, Float[np.ndarray, "_originals _sets"]]

    @property
    def name(self) -> str:
        """Its name in tables."""
        return f"{self.axis} {self.value}".strip()

    def cost(self, method: str, metric: str, split: str) -> Cost | None:
        """The cost of a method over all forget sets; None if too few models are left."""
        wanted = ALL, method, metric, split
        return next((cost for cost in self.costs if cost[:4] == wanted), None)

    def has(self, method: str) -> bool:
        """Whether the method has a main cost, with a null that has spread."""
        cost = self.cost(method, *MAIN)
        return cost is not None and cost.null_sd > 0

    def excess(self, method: str) -> Cost:
        """The method's main cost."""
        cost = self.cost(method, *MAIN)
        assert cost
        return cost

    def share(self, method: str) -> float:
        """The method's excess as a share of the originals'."""
        return self.excess(method).excess / self.excess("original").excess

    def shares(self, method: str) -> list[float]:
        """The same for each forget set."""
        left = {cost[:4]: cost.excess for cost in self.costs}
        sets = dict.fromkeys(cost.forget_set for cost in self.costs if cost.forget_set != ALL)
        pairs = [(left.get((name, method, *MAIN)), left.get((name, "original", *MAIN))) for name in sets]
        return [own / nothing for own, nothing in pairs if own is not None and nothing]


class Correlation(NamedTuple):
    """Rank correlation over settings of a measure of overfitting with a method's excess, and its 95% interval."""

    measure: str
    method: str
    left: str  # excess, z, or share of the originals' excess
    settings: int
    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """One setting minus another, on the same forget sets, and its 95% interval."""

    measure: str
    setting: str
    minus: str
    value: float
    low: float
    high: float
    sets: list[float]  # on each forget set; empty if it does not depend on the set


class Results(NamedTuple):
    """All settings, the base first."""

    title: str
    methods: list[str]
    settings: list[Setting]
    correlations: list[Correlation]
    differences: list[Difference]

    @property
    def axes(self) -> dict[str, list[Setting]]:
        """The settings on each axis, without the base at the beginning."""
        return {axis: [*some] for axis, some in itertools.groupby(self.settings[1:], key=lambda setting: setting.axis)}

    def some_axes(self, wanted: Sequence[str]) -> dict[str, list[Setting]]:
        """The axes with these names; without any, the first axis, or the base alone."""
        axes = self.axes or {"": self.settings}
        return {axis: axes[axis] for axis in wanted if axis in axes} or dict(list(axes.items())[:1])


def table(study: Results) -> Table:
    """The columns and rows of results.csv: a row for each setting, forget set, method and metric."""
    columns = ["axis", "setting", *Cost._fields, "z", "z_low", "z_high"]
    rows = [[some.axis, some.value, *cost, *map(finite, cost.z_interval)] for some in study.settings for cost in some.costs]
    return Table(columns, rows)


def overview(study: Results) -> Table:
    """The columns and rows of settings.csv, a row for each setting."""
    columns = [f"{measure}{end}" for measure in MEASURES for end in ("", "_low", "_high")]
    counts = [f"{kind}{end}" for kind in KINDS for end in ("s", *(f"s_below_{limit}" for limit in FITTED))]
    rows = []
    for setting in study.settings:
        ends = [end for measure in MEASURES for end in setting.intervals.get(measure, (None,) * 3)]
        of_kinds = [count for kind in KINDS for count in setting.unfitted[kind]]
        rows.append([setting.axis, setting.value, setting.parameters, *of_kinds, *ends])
    return Table(["axis", "setting", "parameters", *counts, *columns], rows)


def correlations(study: Results) -> Table:
    """The columns and rows of correlations.csv."""
    return Table(Correlation._fields, [[*map(finite, correlation)] for correlation in study.correlations])


def differences(study: Results) -> Table:
    """The columns and rows of differences.csv: a row for each pair of settings and measure."""
    count = max((len(difference.sets) for difference in study.differences), default=0)
    rows = []
    for measure, *rest, sets in study.differences:
        cells = [*sets, *[None] * (count - len(sets))]
        rows.append([DIFFERENCES[measure], *map(finite, rest), *cells])
    return Table([*Difference._fields[:-1], *(f"set_{index}" for index in range(count))], rows)


def summary(study: Results) -> str:
    """The text of summary.md."""
    shown = [measure for measure in MEASURES if measure not in OMITTED and measure in study.settings[0].intervals]
    first = [
        [setting.name, str(setting.parameters), _unfitted(setting), *(_interval(setting.intervals.get(name)) for name in shown)]
        for setting in study.settings
    ]
    names = ["original", *study.methods]
    second = []
    for setting in study.settings:
        costs = [setting.cost(name, *MAIN) for name in names]
        accuracy = [setting.cost(name, "accuracy_gap", "test") for name in names[1:]]
        second.append(
            [setting.name]
            + [f"{cost.z_interval:.3g}; {cost.excess:.3f}" if cost else "" for cost in costs]
            + [f"{cost.value:+.1f}" if cost else "" for cost in accuracy]
        )
    third = [
        [
            MEASURES[correlation.measure],
            correlation.method,
            correlation.left,
            str(correlation.settings),
            f"{Interval(correlation.value, correlation.low, correlation.high):.2f}",
        ]
        for correlation in study.correlations
    ]
    below = f"below {FITTED[0]}% ({FITTED[1]}%) on retain: originals; oracles"
    return page(
        f"# Unlearning as overfitting: {study.title}",
        "95% intervals over originals, and over forget sets where a value depends on them. Memorisation: accuracy of originals "
        "on F minus that of models retrained without it.",
        markdown(["", "parameters", below, *(MEASURES[name] for name in shown)], first),
        "What is left after unlearning: Jensen-Shannon divergence from the oracles on F minus that of retrained models, in null "
        "standard deviations of the mean over forget sets (z grows with the numbers of models and of sets), then in bits. Last: "
        "test accuracy minus the oracles'.",
        markdown(["", *(f"{name}: z; bits" for name in names), *(f"{name}: test, points" for name in names[1:])], second),
        "Rank correlation over settings of overfitting with what is left (share: of what doing nothing leaves, where its z is "
        f"above {VISIBLE:g}); 95% bootstrap over settings.",
        markdown(["overfitting", "method", "what is left", "settings", "rank correlation"], third),
    )


def glance(study: Results) -> "matplotlib.figure.Figure":
    """Draws the distributions of losses on forget, retain and test as capacity grows, for originals and (below) oracles."""
    axes_of = study.some_axes(CAPACITY)
    rows = {axis: {f"{axis} {one.value}": one.losses for one in settings} for axis, settings in axes_of.items()}
    lowest = _lowest([losses for setting in study.settings for losses in setting.losses.values()])
    return loss_distributions(rows, study.title, lowest)


def trends(study: Results) -> "matplotlib.figure.Figure":
    """Draws measures of overfitting and what is left along every axis: a row for each measure, a column for each axis."""
    axes_of = study.axes or {"": study.settings}
    rows = [*TRENDS, "left on F, z", "left on F, bits"]
    names = ["original", *study.methods]
    figure = blank(WIDTH, 1.0 + 1.35 * len(rows))
    widths = [_column_width(axis, settings) for axis, settings in axes_of.items()]
    panels = figure.subplots(len(rows), len(axes_of), squeeze=False, sharey="row", sharex="col", width_ratios=widths)
    for row, (label, measures) in zip(panels, TRENDS.items(), strict=False):
        for panel, settings in zip(row, axes_of.values(), strict=True):
            for measure, colour in zip(measures, COLOURS, strict=False):
                draw_trend(panel, [setting.intervals.get(measure) for setting in settings], colour, MEASURES[measure])
        cut(
            row[0],
            [
                all_[measure].value
                for all_ in (setting.intervals for setting in study.settings)
                for measure in measures
                if measure in all_
            ],
        )
        row[0].set_ylabel(label, fontsize=8)
    for row, of in zip(panels[-2:], (_z, _bits), strict=True):
        for panel, settings in zip(row, axes_of.values(), strict=True):
            for name, colour in zip(names, ("black", *COLOURS[:7]), strict=False):
                intervals = [of(setting, name) if setting.has(name) else None for setting in settings]
                draw_trend(panel, intervals, colour, "doing nothing" if name == "original" else name)
            panel.axhline(0, color=BAND, linewidth=0.8, zorder=0)
        values = [of(setting, name).value for setting in study.settings for name in names if setting.has(name)]
        cut(row[0], [*values, 0.0])
    for label, row in zip(rows, panels, strict=True):
        row[0].set_ylabel(label, fontsize=8)
        row[-1].legend(fontsize=6, framealpha=0.8, edgecolor="none", borderpad=0.1, loc="center left", bbox_to_anchor=(1.02, 0.5))
    for panel, axis in zip(panels[0], axes_of, strict=True):
        panel.set_title(axis, fontsize=9)
    for row in panels:
        for panel, settings in zip(row, axes_of.values(), strict=True):
            _format_axes(panel, settings)
    figure.suptitle(f"{study.title}\n95% intervals over originals and forget sets, cut at the panels' edges", fontsize=9)
    return figure


def interpolation(study: Results) -> "matplotlib.figure.Figure":
    """Draws error and loss on retain and test against width and epochs, and where the training error reaches 0."""
    axes_of = study.some_axes(INTERPOLATION)
    figure = blank(WIDTH, 5.2)
    panels = figure.subplots(2, len(axes_of), squeeze=False, sharex="col", sharey="row")
    colours = {"train": COLOUR_OF["retain"], "test": COLOUR_OF["test"]}
    for column, (axis, settings) in zip(panels.T, axes_of.items(), strict=True):
        for panel, kind in zip(column, ("accuracy", "loss"), strict=True):
            for split, colour in colours.items():
                intervals = [setting.intervals[f"{split}_{kind}"] for setting in settings]
                if kind == "accuracy":
                    intervals = [Interval(100 - value, 100 - high, 100 - low) for value, low, high in intervals]
                draw_trend(panel, intervals, colour, "retain" if split == "train" else "test")
            accuracies = [setting.intervals["train_accuracy"].value for setting in settings]
            reached = [number for number, accuracy in enumerate(accuracies) if accuracy > 100 - REACHED]
            if reached:
                panel.axvline(reached[0] - 0.5 if reached[0] else -0.3, color="black", linestyle=":", linewidth=1)
            _format_axes(panel, settings)
        column[0].set_title(axis, fontsize=9)
        column[1].set_xlabel(f"{axis} (dotted: training error below {REACHED:g}% from here on)", fontsize=8)
    for row in panels:
        row[0].set_ylim(bottom=0)  # after drawing, since it fixes the upper end of the row
    panels[0, 0].set_ylabel("error, %", fontsize=8)
    panels[1, 0].set_ylabel("loss, nats", fontsize=8)
    panels[0, 0].legend(fontsize=8, frameon=False)
    figure.suptitle(f"{study.title}\noriginals; wrong labels count on retain only; 95% intervals over originals", fontsize=9)
    return figure


def cost(study: Results) -> "matplotlib.figure.Figure":
    """Draws what each method leaves: in bits against the attack, and as a share of the originals' excess against memorisation."""
    names = {"original": "doing nothing", **{name: name for name in study.methods}}
    colours = dict(zip(names, ("black", *COLOURS[:7]), strict=False))
    axes_of = {**study.axes, "base": study.settings[:1]}
    figure = blank(WIDTH, 4.8)
    both = figure.subplots(1, 2)
    for panel, measure, share in zip(both, ("lira_auc", "memorisation"), (False, True), strict=True):
        visible = [
            (axis, setting)
            for axis, settings in axes_of.items()
            for setting in settings
            if setting.has("original") and (not share or setting.excess("original").z > VISIBLE)
        ]
        reach = [end for _, setting in visible for end in setting.intervals[measure]]
        apart = 0.006 * (max(reach) - min(reach)) if reach else 0.0  # offset between methods, so that they do not overlap
        heights = [100.0 if share else 0.0]
        for number, (name, colour) in enumerate(colours.items()):
            for axis, setting in visible:
                if not setting.has(name) or (share and name == "original"):
                    continue
                x, left, right = (end + apart * (number - len(colours) / 2) for end in setting.intervals[measure])
                y, low, high = _share(setting, name) if share else _bits(setting, name)
                panel.plot([left, right], [y, y], color=colour, linewidth=0.7, alpha=0.3)
                panel.plot([x, x], [low, high], color=colour, linewidth=0.9, alpha=0.45)
                panel.plot(x, y, MARKERS[axis], color=colour, markersize=4.5, alpha=0.9)
                heights.append(y)
        cut(panel, heights)
        panel.axhline(100 if share else 0, color=BAND, linewidth=0.8, zorder=0)
        open_frame(panel)
        panel.tick_params(labelsize=8)
    both[0].set_xlabel("LiRA AUC on F, originals against oracles", fontsize=8)
    both[1].set_xlabel("memorisation: accuracy on F, originals minus oracles (points)", fontsize=8)
    both[0].set_ylabel("left on F: Jensen-Shannon divergence beyond the null (bits)", fontsize=8)
    both[1].set_ylabel("the same, % of what doing nothing leaves", fontsize=8)
    both[1].set_title(f"where doing nothing is more than {VISIBLE:g} null sd away", fontsize=8)
    handles = [
        both[0].plot([], [], "_", color=colour, markeredgewidth=3, label=names[name])[0] for name, colour in colours.items()
    ]
    handles += [both[0].plot([], [], MARKERS[axis], color="#888888", label=axis)[0] for axis in axes_of]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        fontsize=7,
        columnspacing=1.0,
        handlelength=1.2,
        handletextpad=0.5,
    )
    figure.suptitle(
        f"{study.title}\nlines: 95% intervals over originals and forget sets; of the share, from the lowest to the highest "
        "forget set; cut at the edges",
        fontsize=9,
    )
    return figure


def _z(setting: Setting, method: str) -> Interval:
    return setting.excess(method).z_interval


def _bits(setting: Setting, method: str) -> Interval:
    cost = setting.excess(method)
    return Interval(cost.excess, cost.low - cost.null_mean, cost.high - cost.null_mean)


def _share(setting: Setting, method: str) -> Interval:
    """The share in percent, with the lowest and highest over forget sets as ends."""
    shares = [100 * setting.share(method), *(100 * share for share in setting.shares(method))]
    return Interval(shares[0], min(shares), max(shares))


def _lowest(losses: Sequence[Float[np.ndarray, " _answers"]]) -> int:
    """The first of `LOWEST` with few losses below it, or the last."""
    return next((low for low in LOWEST if all(np.mean(answers < 10.0**low) <= BELOW for answers in losses)), LOWEST[-1])


def _column_width(axis: str, settings: Sequence[Setting]) -> int:
    """The width of a column, in letters: of its title, of its values, or three for each point."""
    return max(3 * len(settings), len(axis) + 1, sum(len(setting.value) + 1 for setting in settings))


def _format_axes(panel: "matplotlib.axes.Axes", settings: Sequence[Setting]) -> None:
    """Names the settings of an axis under a panel."""
    panel.set_xticks(range(len(settings)), [setting.value for setting in settings], fontsize=7)
    panel.set_xlim(-0.4, len(settings) - 0.6)
    panel.tick_params(axis="y", labelsize=7)
    open_frame(panel)
    panel.grid(axis="y", color=GRID, linewidth=0.6)


def _unfitted(setting: Setting) -> str:
    counts = [setting.unfitted[kind] for kind in KINDS]
    return "; ".join(f"{low} ({high}) of {networks}" for networks, low, high in counts)


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval:.3g}"
