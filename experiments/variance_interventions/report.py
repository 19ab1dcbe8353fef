"""Variance changed at equal training loss: each level's measures, differences from the base, and both against the variance."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from unlearn_jax.bench.several_sets import labels_of
from unlearn_jax.metrics.catalogue import damage
from unlearn_jax.metrics.statistics import over_draws
from unlearn_jax.report.drawing import COLOURS, GRID, LINE, WIDTH, blank, open_frame
from unlearn_jax.report.tables import Table, finite_row, markdown, page
from unlearn_jax.types import Interval

if TYPE_CHECKING:
    import matplotlib.figure

VARIANCE = "test_variance"
MEASURES = {
    "train_loss": "training loss, nats",
    "train_accuracy": "training accuracy, %",
    "retain_loss": "loss on R, nats",
    "forget_loss": "loss on F, originals, nats",
    "oracle_loss": "loss on F, oracles, nats",
    "test_loss": "test loss, nats",
    "test_accuracy": "test accuracy, %",
    "test_bias": "bias on test, nats",
    VARIANCE: "variance on test, nats",
    "retain_variance": "variance on R, nats",
    "forget_variance": "variance on F, originals, nats",
    "oracle_variance": "variance on F, oracles, nats",
    "barrier_train": "barrier on train, nats",
    "barrier_test": "barrier on test, nats",
    "memorisation": "memorisation, points of accuracy",
    "lira_auc": "LiRA AUC",
    "remembered": "what is remembered, margins",
}
"""Measure -> its name in tables and figures; `measures` has those of the methods too."""
LOSSES = ("train_loss", "retain_loss", "forget_loss", "oracle_loss", "test_loss", "test_accuracy", "test_bias")
SPREADS = (VARIANCE, "retain_variance", "forget_variance", "oracle_variance", "barrier_train", "barrier_test")
DRAWN = ("train_loss", "test_loss", "test_bias", "oracle_loss", "barrier_test", "lira_auc")


class Measured(NamedTuple):
    """One level, and its measures in each draw."""

    name: str
    epochs: int
    comparable: bool  # whether its training loss should be the base's
    draws: list[dict[str, float]]

    def values(self, measure: str) -> Float[np.ndarray, " draws"]:
        """A measure in each draw."""
        return np.array([draw[measure] for draw in self.draws])


class Link(NamedTuple):
    """The rank correlation of a measure with the variance on test over levels, and the one beside the training loss; 95%."""

    measure: str
    levels: int
    draws: int  # in which the measure is known at every level
    correlation: float
    correlation_low: float
    correlation_high: float
    partial: float
    partial_low: float
    partial_high: float


class Results(NamedTuple):
    """All levels, the base first."""

    title: str
    loss: float
    methods: list[str]
    levels: list[Measured]
    links: list[Link]

    def value(self, level: Measured, measure: str) -> Interval:
        """A measure's mean over draws."""
        return over_draws(level.values(measure))

    def difference(self, level: Measured, measure: str) -> Interval:
        """The mean over draws of a level's value less the base's."""
        return over_draws(level.values(measure) - self.levels[0].values(measure))


def measures(methods: Sequence[str]) -> dict[str, str]:
    """Every measure and its name, those of the methods included."""
    return MEASURES | labels_of(methods)


def by_draw(study: Results) -> Table:
    """The columns and rows of draws.csv: a row for each level and draw."""
    names = measures(study.methods)
    rows = [
        finite_row([level.name, level.epochs, number, *(draw[name] for name in names)])
        for level in study.levels
        for number, draw in enumerate(level.draws)
    ]
    return Table(["level", "epochs", "draw", *names], rows)


def by_level(study: Results) -> Table:
    """The columns and rows of levels.csv: each measure of each level, and its difference from the base."""
    rows = [
        finite_row([level.name, level.epochs, name, *study.value(level, name), *study.difference(level, name)])
        for level in study.levels
        for name in measures(study.methods)
    ]
    ends = ("", "_low", "_high")
    return Table(["level", "epochs", "measure", *(f"{what}{end}" for what in ("value", "difference") for end in ends)], rows)


def summary(study: Results) -> str:
    """The text of summary.md."""
    names = measures(study.methods)

    def table(shown: Sequence[str], differences: bool) -> str:
        pick = study.difference if differences else study.value
        levels = study.levels[1:] if differences else study.levels
        lines = [[level.name, str(level.epochs), *(f"{pick(level, name):.3g}" for name in shown)] for level in levels]
        return markdown(["level", "epochs", *(names[name] for name in shown)], lines, left=(0,))

    of_methods = [name for name in names if "/" in name]
    groups = {"Losses": LOSSES, "Variance and barriers": SPREADS, "Memory": (*list(MEASURES)[-3:], *of_methods)}
    related = [
        [names[row.measure], str(row.levels), str(row.draws)] + [f"{Interval(*ends):.2f}" for ends in (row[3:6], row[6:9])]
        for row in study.links
    ]
    parts = [
        f"# Variance changed at equal training loss: {study.title}",
        f"Each level is trained for the number of epochs at which its mean training loss is nearest to the base's "
        f"({study.loss:.3g} nats), found on other data and seeds; {_joined(study, False)} are controls of the loss. "
        "95% intervals over draws (Student's t); differences are from the base, paired by draw. Memory left: 0 as retraining.",
    ]
    for name, shown in groups.items():
        parts += [f"## {name}", table(shown, False), "Differences from the base:", table(shown, True)]
    parts += [
        "## Along with the variance on test",
        f"Rank correlations over the levels of equal loss ({_joined(study, True)}), of each draw; and with the training loss "
        "taken out of both.",
        markdown(["measure", "levels", "draws", "rank correlation", "beside the training loss"], related, left=(0,)),
    ]
    return page(*parts)


def _joined(study: Results, comparable: bool) -> str:
    return ", ".join(level.name for level in study.levels if level.comparable == comparable) or "none"


def against_variance(study: Results) -> "matplotlib.figure.Figure":
    """Draws each level's difference from the base, of several measures, against its difference in variance on test."""
    names = measures(study.methods)
    of_methods = [f"{size}/{name}" for size in ("memory", damage.name) for name in study.methods]
    panels_of = [*DRAWN, *of_methods]
    rows = -(-len(panels_of) // 4)
    figure = blank(WIDTH, 0.9 + 1.9 * rows)
    panels = figure.subplots(rows, 4, squeeze=False).ravel()
    for panel in panels[len(panels_of) :]:
        panel.set_axis_off()
    colours = _colours(study)
    for panel, measure in zip(panels, panels_of, strict=False):
        for level, (colour, marker) in zip(study.levels[1:], colours, strict=True):
            across, up = study.difference(level, VARIANCE), study.difference(level, measure)
            if not math.isfinite(across.value + up.value):
                continue
            panel.plot(across.value, up.value, marker, color=colour, markersize=4, label=level.name)
            for (_, low, high), line in ((across, 0), (up, 1)):
                if math.isfinite(high - low):
                    ends, place = [low, high], [(up if line == 0 else across).value] * 2
                    panel.plot(*((ends, place) if line == 0 else (place, ends)), color=colour, linewidth=0.8, alpha=0.6)
        panel.axhline(0, color=LINE, linewidth=0.6, zorder=0)
        panel.axvline(0, color=LINE, linewidth=0.6, zorder=0)
        panel.set_title(names[measure], fontsize=7)
        panel.tick_params(labelsize=6)
        open_frame(panel)
        panel.grid(color=GRID, linewidth=0.5)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, frameon=False, loc="outside lower center", ncols=6)
    figure.suptitle(
        f"{study.title}\nacross: variance on test, nats; up: as named; both less the base's, 95% intervals over draws;\n"
        "crosses: controls with another training loss",
        fontsize=8,
    )
    return figure


def _colours(study: Results) -> list[tuple[str, str]]:
    """The colour and marker of each level but the base."""
    matched = iter([*COLOURS[:6], *("#8C564B", "#7F7F7F", "#17BECF", "#BCBD22")] * 3)
    return [(next(matched), "o") if level.comparable else (LINE, "x") for level in study.levels[1:]]
