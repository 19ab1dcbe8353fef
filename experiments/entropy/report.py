"""When minimising entropy and loss on the forget set helps: a map for each circumstance, and signs against their predictor."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from unlearn_jax.report.drawing import COLOURS, LINE, WIDTH, blank, open_frame, panels_of
from unlearn_jax.report.tables import Table, markdown, page
from unlearn_jax.types import Interval

if TYPE_CHECKING:
    import matplotlib.figure

SPLITS = ("forget", "retain", "test")
COLUMNS = 5  # panels in a row
NEITHER = "entropy none, loss none"
GAINS = {
    **{
        f"gain of {doing} {term}, {how}": pair
        for doing, done in (("lowering", "lowered"), ("raising", "raised"))
        for term, how, pair in (
            ("entropy", "alone", (NEITHER, f"entropy {done}, loss none")),
            ("entropy", "beside", ("entropy none", f"entropy {done}")),
            ("loss", "alone", (NEITHER, f"entropy none, loss {done}")),
            ("loss", "beside", ("loss none", f"loss {done}")),
        )
    },
    "gain of lowering both": (NEITHER, "entropy lowered, loss lowered"),
    "entropy: lowering over raising, alone": ("entropy raised, loss none", "entropy lowered, loss none"),
    "entropy: lowering over raising, beside": ("entropy raised", "entropy lowered"),
    "loss: lowering over raising, alone": ("entropy none, loss raised", "entropy none, loss lowered"),
    "loss: lowering over raising, beside": ("loss raised", "loss lowered"),
}
"""Gain -> the families without and with the term, whose distances are subtracted. Beside: with the other term at its best."""
SHOWN = {
    "entropy gap": "oracles' entropy on F over originals'",
    "loss gap": "their loss on F over originals'",
    "same answer": "share of F that originals classify as oracles do",
    "distance: nothing": "doing nothing",
    "distance: null": "retrained",
    f"distance: {NEITHER}": "fine-tuned on R",
    **{
        f"distance: gain of {doing} {term}, {how}": f"{doing} {term} {how}"
        for term in ("entropy", "loss")
        for how in ("alone", "beside")
        for doing in ("lowering", "raising")
    },
    "distance: gain of lowering both": "lowering both",
}
"""Measures of the summary -> their headings."""


class Trial(NamedTuple):
    """One setting on one forget set. Distances are in the oracles' standard deviations, divergence in bits, accuracies in %."""

    forget_set: int
    kind: str  # setting, nothing (the originals) or retrain (the null)
    entropy_weight: float | None  # above 0: minimised
    loss_weight: float | None  # above 0: minimised
    forget: float
    retain: float
    test: float
    total: float
    divergence: float
    accuracy_forget: float
    accuracy_retain: float
    accuracy_test: float
    entropy: float  # nats
    loss: float  # nats


class Circumstance(NamedTuple):
    """The results in one circumstance.

    Attributes:
        name: its name.
        title: its name in figures.
        tried: every setting, doing nothing and retraining, on every forget set.
        measures: by name, the mean over forget sets and its 95% interval over models.
        by_set: the value on each forget set.
        control: whether the terms are on other examples than those to forget.
    """

    name: str
    title: str
    tried: list[Trial]
    measures: dict[str, Interval]
    by_set: dict[str, list[float]]
    control: bool = False

    def totals(self, entropy_weights: Sequence[float], loss_weights: Sequence[float]) -> Float[np.ndarray, "loss entropy"]:
        """Mean distances of the settings over forget sets."""
        by_weights: dict[tuple[float | None, float | None], list[float]] = {}
        for one in self.tried:
            by_weights.setdefault((one.entropy_weight, one.loss_weight), []).append(one.total)
        return np.array([[np.mean(by_weights[entropy, loss]) for entropy in entropy_weights] for loss in loss_weights])


class Results(NamedTuple):
    """All circumstances, and the signed weights tried in each, ascending; `known`: on the data and network of the rule."""

    title: str
    entropy_weights: list[float]
    loss_weights: list[float]
    circumstances: list[Circumstance]
    known: bool = True


def headline(results: Circumstance) -> str:
    """One line: doing nothing, retraining, and the setting with the least mean distance over the forget sets."""
    settings = [one for one in results.tried if one.kind == "setting"]
    weights = list(dict.fromkeys((one.entropy_weight, one.loss_weight) for one in settings))
    totals = [np.mean([one.total for one in settings if (one.entropy_weight, one.loss_weight) == pair]) for pair in weights]
    best = int(np.argmin(totals))
    entropy, loss = weights[best]
    nothing, null = (results.measures[f"distance: {end}"].value for end in ("nothing", "null"))
    return (
        f"doing nothing {nothing:.2f}, retrained {null:.2f}, nearest {totals[best]:.2f} "
        f"at entropy {_signed(entropy)}, loss {_signed(loss)}"
    )


def settings_table(study: Results) -> Table:
    """The columns and rows of settings.csv: a row for each circumstance, forget set and setting."""
    rows = [[circumstance.name, *one] for circumstance in study.circumstances for one in circumstance.tried]
    return Table(["circumstance", *Trial._fields], rows)


def table(study: Results) -> Table:
    """The columns and rows of entropy.csv: a row for each circumstance and measure, then one for each forget set."""
    rows: list[list] = []
    for circumstance in study.circumstances:
        for measure, interval in circumstance.measures.items():
            rows.append([circumstance.name, "all", measure, *interval])
            by_set = enumerate(circumstance.by_set[measure])
            rows += [[circumstance.name, index, measure, value, None, None] for index, value in by_set]
    return Table(["circumstance", "forget_set", "measure", "value", "value_low", "value_high"], rows)


def summary(study: Results) -> str:
    """The text of summary.md."""
    lines = [[one.title, *(f"{one.measures[measure]:.2f}" for measure in SHOWN)] for one in study.circumstances]
    best = [[circumstance.title, headline(circumstance)] for circumstance in study.circumstances]
    return page(
        f"# Entropy and loss on the forget set: {study.title}",
        "Distance from the oracles, in their standard deviations, summed over forget, retained and test examples. A gain is the "
        "distance without a term minus that with it: above 0 the term helps. Strengths are those that are best on the other "
        "forget sets, and distances are clipped at twice that of doing nothing. Alone: without the other term; beside: with the "
        "best other term. 95% intervals over models, for these forget sets (jackknife, Student's t).",
        markdown(["", *SHOWN.values()], lines),
        markdown(["", "the nearest setting on average over the sets, chosen on the same sets"], best),
    )


def maps(study: Results) -> "matplotlib.figure.Figure":
    """Draws a map for each circumstance: how far each pair of weights goes from doing nothing (0) to retraining (1)."""
    figure, panels = panels_of(len(study.circumstances), COLUMNS, lambda down, across: 1.5 + 2.1 * down)
    image = None
    for number, (axes, circumstance) in enumerate(zip(panels, study.circumstances, strict=True)):
        totals = circumstance.totals(study.entropy_weights, study.loss_weights)
        nothing, null = (circumstance.measures[f"distance: {end}"].value for end in ("nothing", "null"))
        way = (nothing - totals) / max(nothing - null, 0.1 * null)
        image = axes.imshow(np.clip(way, -1, 1), cmap="RdBu", vmin=-1, vmax=1, origin="lower", aspect="auto")
        row, column = np.unravel_index(np.argmin(totals), totals.shape)
        axes.plot(column, row, "*", color="black", markersize=9, markeredgecolor="white", markeredgewidth=0.7)
        axes.axhline(len(study.loss_weights) // 2, color=LINE, linewidth=0.5, linestyle=":")
        axes.axvline(len(study.entropy_weights) // 2, color=LINE, linewidth=0.5, linestyle=":")
        ends = f"nothing {nothing:.1f}, best {totals.min():.1f}, null {null:.1f}"
        axes.set_title(f"{circumstance.title}\n{ends}", fontsize=6)
        axes.set_xticks(range(len(study.entropy_weights)), [_signed(one) for one in study.entropy_weights], rotation=90)
        axes.set_yticks(range(len(study.loss_weights)), [_signed(one) for one in study.loss_weights])
        axes.tick_params(labelsize=6, labelbottom=number + COLUMNS >= len(study.circumstances))
    assert image is not None
    bar = figure.colorbar(image, ax=panels, shrink=0.5, aspect=40, location="bottom")
    bar.set_label("share of the way from doing nothing (0) to other retrained models (1); below 0: worse", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.supxlabel("weight of the entropy on F:  − raised    + lowered", fontsize=9)
    figure.supylabel("weight of the loss on F:  − raised    + lowered", fontsize=9)
    figure.suptitle(f"{study.title}\nstar: nearest to the oracles; dotted: a term left out", fontsize=9)
    return figure


def signs(study: Results) -> "matplotlib.figure.Figure":
    """Draws, for each term, the better sign against the gap between retrained models and originals on F."""
    figure = blank(WIDTH, 5.2)
    panels = figure.subplots(1, 2)
    for axes, term, threshold in zip(panels, ("entropy", "loss"), (0.05, 0.2), strict=True):
        for number, circumstance in enumerate(study.circumstances):
            colour, marker = COLOURS[number % 7], "os^D"[number // 7 % 4]
            gap = circumstance.measures[f"{term} gap"]
            for how, filled in (("alone", True), ("beside", False)):
                value, low, high = circumstance.measures[f"distance: {term}: lowering over raising, {how}"]
                if math.isfinite(low):
                    axes.vlines(gap[0], low, high, color=colour, linewidth=0.9, alpha=0.6)
                    axes.hlines(value, *gap[1:], color=colour, linewidth=0.9, alpha=0.6)
                face = colour if filled else "white"
                label = {"label": circumstance.title} if filled else {}
                axes.plot(
                    gap[0], value, marker, color=colour, markerfacecolor=face, markersize=6, linestyle="none", zorder=3, **label
                )
        axes.set_xscale("symlog", linthresh=threshold)
        axes.set_yscale("symlog", linthresh=0.2)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
        reach = [1.1 * max(map(abs, limits)) for limits in (axes.get_xlim(), axes.get_ylim())]
        axes.set_xlim(-reach[0], reach[0])
        axes.set_ylim(-reach[1], reach[1])
        axes.fill_between([-reach[0], 0], 0, reach[1], color="#F0F0F0", zorder=0)
        axes.fill_between([0, reach[0]], -reach[1], 0, color="#F0F0F0", zorder=0)
        axes.axhline(0, color=LINE, linewidth=0.6)
        axes.axvline(0, color=LINE, linewidth=0.6)
        axes.tick_params(labelsize=7)
        axes.tick_params(axis="x", rotation=45)
        axes.set_xlabel(f"{term} on F, oracles less originals (nats)", fontsize=8)
        axes.set_ylabel(f"distance with the {term} raised, less that with it lowered", fontsize=8)
        axes.set_title(f"{term}: above 0, lowering it is the better sign", fontsize=8)
        open_frame(axes)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False, fontsize=7)
    figure.suptitle(
        f"{study.title}\nfilled: the term alone; hollow: beside the best other term. Grey: where the hypothesis holds (lower "
        "the term if retrained models have less of it)",
        fontsize=8,
    )
    return figure


def _signed(weight: float | None) -> str:
    """A weight with its sign, 0 without one."""
    return f"{weight:+g}" if weight else "0"
