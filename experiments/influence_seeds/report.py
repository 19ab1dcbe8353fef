"""What of a point's influence repeats between seeds: tables and figures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unlearn_jax.report.drawing import COLOURS, GRID, LINE, WIDTH, blank, name_rows, open_frame, panels_of
from unlearn_jax.report.tables import Table, finite_row, markdown, page
from unlearn_jax.types import Interval

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

MEASURES = {
    "own_margin": "own margin",
    "own_loss": "own loss",
    "memorisation": "own memorisation",
    "test_margins": "margins on test",
    "displacement": "boundary",
}
"""Measure -> its name in tables and figures. Own effects are with the point minus without it (the loss: without minus with);
margins on test, mean |change|; boundary, mean displacement."""
EXACT, HALVES = "leave-one-out", "random halves"
VALUES, RANKS = "values", "ranks"
READING = "points: of ranks within seeds; lines: Spearman-Brown; crosses: of values"


class Both(NamedTuple):
    """A value with two 95% intervals: over seeds (jackknife) and over points (bootstrap)."""

    value: float
    seeds_low: float
    seeds_high: float
    points_low: float
    points_high: float

    @property
    def interval(self) -> Interval:
        """Over seeds and points: distances to the ends add up as independent errors do. Noise counts in both, so it is wide."""
        value, *ends = self
        low, high = (float(np.hypot(value - ends[side], value - ends[side + 2])) for side in (0, 1))
        return Interval(value, value - low, value + high)


class Shares(NamedTuple):
    """What of a measure belongs to the point.

    Attributes:
        raw: the share of the variance, see `metrics.changes.point_share`.
        ranks: the same of ranks: the mean rank correlation of two seeds.
        one_with_others: rank correlation of one seed with the mean of the others.
        seeds_raw: seeds whose mean has a share of 0.9.
        seeds_ranks: the same by ranks.
        float_raw: the share of float noise in the variance.
        same_seed: `ranks` of a seed and the same with sums in another order: 1 is expected.
        permuted: `ranks` with each seed's points permuted: 0 is expected.
    """

    raw: Both
    ranks: Both
    one_with_others: Both
    seeds_raw: float
    seeds_ranks: float
    float_raw: float
    same_seed: float
    permuted: Interval


class Reliability(NamedTuple):
    """How the mean over n seeds agrees with the mean over n others, in ranks.

    Attributes:
        seeds: n.
        predicted: from the share of ranks (Spearman and Brown), for means of ranks.
        ranks: as measured, means of ranks within seeds.
        values: as measured, means of values, in which a seed with large effects counts most.
    """

    seeds: int
    predicted: float
    ranks: float
    values: float


class Cost(NamedTuple):
    """How an estimate agrees with the mean over held-out seeds.

    Attributes:
        averaged: over held-out seeds, and over those that leave-one-out is from: `values`, or `ranks` within each seed.
        kind: `EXACT` or `HALVES`.
        cost: trainings, in leave-one-outs of one seed.
        agreement: rank correlation, with a bootstrap over points.
        lead: of leave-one-out over halves at the same cost.
    """

    averaged: str
    kind: str
    cost: float
    agreement: Interval
    lead: Interval | None


class Circumstance(NamedTuple):
    """All that is known of one circumstance, by measure. `common` is of the signed changes of margins on test."""

    name: str
    points: int
    seeds: int
    train_accuracy: float
    test_accuracy: float
    measures: dict[str, Shares]
    common: Interval
    reliability: dict[str, list[Reliability]]
    cost: dict[str, list[Cost]]


def table(found: Sequence[Circumstance]) -> Table:
    """Columns and rows of shares.csv: a row for each circumstance and measure."""
    values = ("raw", "ranks", "one_with_others")
    ends = ("", *(f"_{field}" for field in Both._fields[1:]))
    single = ("seeds_raw", "seeds_ranks", "float_raw", "same_seed")
    columns = ["circumstance", "measure", "points", "seeds", "train_accuracy", "test_accuracy"]
    columns += [f"{value}{end}" for value in values for end in ends] + list(single)
    columns += [f"{name}{end}" for name in ("permuted", "common") for end in ("", "_low", "_high")]
    rows: list[list[Any]] = []
    for each in found:
        for measure, shares in each.measures.items():
            row: list[Any] = [each.name, measure, each.points, each.seeds, each.train_accuracy, each.test_accuracy]
            row += [end for value in values for end in getattr(shares, value)] + [getattr(shares, name) for name in single]
            rows.append(finite_row((*row, *shares.permuted, *each.common)))
    return Table(columns, rows)


def reliability_table(found: Sequence[Circumstance]) -> Table:
    """Columns and rows of reliability.csv."""
    rows = [[each.name, measure, *one] for each in found for measure, line in each.reliability.items() for one in line]
    return Table(["circumstance", "measure", *Reliability._fields], rows)


def cost_table(found: Sequence[Circumstance]) -> Table:
    """Columns and rows of cost.csv."""
    rows = [
        [
            each.name,
            measure,
            one.averaged,
            one.kind,
            one.cost,
            round(one.cost * each.points),
            *one.agreement,
            *(one.lead or (None,) * 3),
        ]
        for each in found
        for measure, line in each.cost.items()
        for one in line
    ]
    columns = ["circumstance", "measure", "averaged", "kind", "leave_one_outs", "trainings"]
    return Table([*columns, *(f"{name}{end}" for name in ("agreement", "lead") for end in ("", "_low", "_high"))], rows)


def summary(found: Sequence[Circumstance]) -> str:
    """The text of summary.md."""
    headings = ("", "measure", "share of the point", "by ranks", "one seed with the others", "seeds for 0.9 (by ranks)")
    lines = [
        [
            *(each.name, MEASURES[measure]),
            *(f"{both.interval:.2f}" for both in (shares.raw, shares.ranks, shares.one_with_others)),
            *(f"{shares.seeds_raw:.3g} ({shares.seeds_ranks:.3g})", f"{shares.float_raw:.1e}", f"{shares.same_seed:.3f}"),
            f"{shares.permuted:.2f}",
        ]
        for each in found
        for measure, shares in each.measures.items()
    ]
    costs = [
        [
            *(each.name, MEASURES[measure], one.averaged, f"{one.cost:g}"),
            *(f"{each:.2f}" for each in (one.agreement, rival, one.lead)),
        ]
        for each in found
        for measure, line in each.cost.items()
        for one in line
        if one.lead
        for rival in [next(other.agreement for other in line if other[:3] == (one.averaged, HALVES, one.cost))]
    ]
    accuracy = [
        f"{each.name}: {100 * each.train_accuracy:.1f}% right on the points, {100 * each.test_accuracy:.1f}% on test; of the "
        f"signed change of the margins on test the share that is common to seeds is {each.common:.2f}."
        for each in found
    ]
    return page(
        "# What of a point's influence belongs to the point",
        "Intervals: 95%, a jackknife over seeds and a bootstrap over points added up. The last three columns are float "
        "noise in the variance, the same seed with its sums in another order, and permuted points.",
        markdown((*headings, "float noise", "same seed", "permuted"), lines, left=(0, 1)),
        *accuracy,
        "Rank correlation with the mean over half of the seeds, held out: leave-one-outs of so many other seeds, as many "
        "trainings on random halves, and the lead of the former (bootstraps over points).",
        markdown(("", "measure", "averaged", "leave-one-outs", EXACT, HALVES, "lead"), costs, left=(0, 1, 2)),
    )


def shares(found: Sequence[Circumstance], title: str) -> "matplotlib.figure.Figure":
    """Draws the share of each measure by value and by rank, a row for each circumstance."""
    figure = blank(WIDTH, 1.6 + 0.62 * len(found))
    panels = figure.subplots(1, 2, sharey=True)
    names = [f"{each.name.replace('+', ', ')} labels" if "+" in each.name else each.name for each in found]
    for axes, field, label in zip(panels, ("raw", "ranks"), ("of the variance", "of the variance of ranks"), strict=True):
        for place, (measure, name) in enumerate(MEASURES.items()):
            of_measure = [(row, each.measures[measure]) for row, each in enumerate(found) if measure in each.measures]
            rows = [(row, getattr(known, field).interval) for row, known in of_measure]
            y = [row + 0.15 * (place - 2) for row, _ in rows]
            lows = [max(-0.2, each.low) for _, each in rows]
            axes.hlines(y, lows, [min(1.0, each.high) for _, each in rows], color=COLOURS[place], linewidth=1.2, alpha=0.7)
            axes.plot([each.value for _, each in rows], y, "o", color=COLOURS[place], markersize=4, label=name)
        name_rows(axes, names)
        axes.axvline(0, color=LINE, linewidth=0.8)
        for edge in np.arange(len(found) - 1) + 0.5:
            axes.axhline(edge, color=GRID, linewidth=0.8, zorder=0)
        axes.set_xlim(-0.22, 1.02)
        axes.set_xlabel(f"share {label} that belongs to the point", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    figure.suptitle(f"Exact leave-one-out: what belongs to the point\n{title}; 95% over seeds and over points", fontsize=9)
    return figure


def reliability(found: Sequence[Circumstance], title: str) -> "matplotlib.figure.Figure":
    """Draws the agreement of means over n seeds with means over n others, see `READING`."""
    figure, panels = panels_of(len(found), 3, lambda down, across: 1.2 + 2.1 * down)
    for axes, each in zip(panels, found, strict=True):
        for place, (measure, name) in enumerate(MEASURES.items()):
            line = each.reliability.get(measure, [])
            at = [one.seeds for one in line]
            axes.plot(at, [one.predicted for one in line], color=COLOURS[place], linewidth=1.0)
            axes.plot(at, [one.ranks for one in line], "o", color=COLOURS[place], markersize=4, label=name)
            axes.plot(at, [one.values for one in line], "x", color=COLOURS[place], markersize=4)
        axes.axhline(0.9, color=LINE, linewidth=0.8, linestyle=":")
        axes.set(title=each.name, xlabel="seeds in each mean", ylabel="rank correlation", ylim=(-0.1, 1.02))
        axes.title.set_fontsize(9)
        open_frame(axes)
    _legend(figure, found, panels, f"Means over n seeds against means over n others\n{READING}; {title}")
    return figure


def cost(found: Sequence[Circumstance], title: str) -> "matplotlib.figure.Figure":
    """Draws the agreement with held-out seeds against the number of trainings: full lines leave-one-out, broken ones halves."""
    figure, panels = panels_of(len(found), 3, lambda down, across: 1.2 + 2.1 * down)
    for axes, each in zip(panels, found, strict=True):
        for place, (measure, name) in enumerate(MEASURES.items()):
            for kind, style in ((EXACT, "o-"), (HALVES, "s--")):
                line = sorted((one.cost, one.agreement) for one in each.cost.get(measure, []) if one[:2] == (VALUES, kind))
                at, values = [cost for cost, _ in line], [agreement.value for _, agreement in line]
                (drawn,) = axes.plot(at, values, style, color=COLOURS[place], markersize=3.5, linewidth=1.0)
                if kind == EXACT:
                    drawn.set_label(name)
                else:
                    drawn.set_markerfacecolor("white")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(title=each.name, xlabel="trainings / points", ylabel="rank correlation", ylim=(-0.25, 1.02))
        axes.title.set_fontsize(9)
        open_frame(axes)
    text = "Agreement with the mean over held-out seeds: full, leave-one-out; broken, models on random halves"
    _legend(figure, found, panels, f"{text}\n{title}")
    return figure


def _legend(
    figure: "matplotlib.figure.Figure", found: Sequence[Circumstance], panels: Sequence["matplotlib.axes.Axes"], title: str
) -> None:
    """One legend for all panels, of the panel with most measures, and a title."""
    most = max(range(len(found)), key=lambda place: len(found[place].measures))
    handles, labels = panels[most].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=9)
