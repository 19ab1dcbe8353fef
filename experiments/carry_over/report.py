"""Tables and the figure: the effect sizes of every method by setting, and the settings' rank correlations with the base."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.carry_over.options import AGAIN, CLEAN, REFERENCES
from unlearn_jax.bench.orders import MEASURES, Correlation, Sizes, below, compare, mean_intervals, means
from unlearn_jax.metrics.catalogue import damage, memory_left
from unlearn_jax.metrics.effects import Effects
from unlearn_jax.report.drawing import BAND, COLOURS, GRID, LINE, WIDTH, blank, name_rows
from unlearn_jax.report.tables import Table, finite, markdown, page
from unlearn_jax.types import Interval

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

MARKERS = ("D", "o", "s", "^", "v", "P", "X")
PALETTE = ("#000000", "#888888", *COLOURS[:3], COLOURS[4], COLOURS[3])
LEAVES = 0.8  # of the memory: a method that leaves as much hardly forgets
RULES = (
    "",
    *MEASURES.values(),
    "the same, over methods",
    "memory: below other seeds",
    "damage: below other seeds",
    "memory moved; most",
    "damage moved; most",
)
FACTS = (
    "",
    "trained on",
    "F",
    "memorised mass of F",
    "overlap, %",
    "acc R",
    "acc T",
    "wrong labels learned, %",
    "nearest to retraining (memory; damage)",
)
MOST = 1.5  # damage beyond which points are drawn at the edge


class Measured(NamedTuple):
    """One setting.

    Attributes:
        name: a key of `options.SETTINGS`.
        title: what tables and figures call it.
        seeds: of its repeats.
        found: the effect sizes of each method, and of retraining, `[seeds][sets]`.
        left_out: the methods that its network does not support, with the reason.
        lost: the models of each method that diverged, and are in no size.
        models: the models of a method, over all seeds and sets.
        train_size: training examples.
        forget_size: examples of a forget set.
        masses: the memorised mass of each forget set.
        memorised_share: share of a matched forget set that is among the most memorised; NaN without matching.
        overlap: share of a forget set that another one of its seed has too.
        retained: accuracy of the originals on retained examples, %.
        tested: on test examples, %.
        wrong_learned: wrong labels that the originals predict, %; NaN without any.
    """

    name: str
    title: str
    seeds: list[int]
    found: dict[str, list[list[Effects]]]
    left_out: dict[str, str]
    lost: dict[str, int]
    models: int
    train_size: int
    forget_size: int
    masses: Float[np.ndarray, "seeds sets"]
    memorised_share: float
    overlap: float
    retained: float
    tested: float
    wrong_learned: float

    @property
    def mass(self) -> float:
        """The memorised mass of its forget sets, their mean."""
        return float(self.masses.mean())


class Compared(NamedTuple):
    """A setting beside the base.

    Attributes:
        correlations: by measure.
        lower: by measure, how far the correlation is below that of the base with other seeds; None where those were not run.
        moved: by `memory_left` and `damage`: mean absolute change over methods, the method that changes most, its change.
    """

    correlations: dict[str, Correlation]
    lower: dict[str, Interval | None]
    moved: dict[str, tuple[float, str, float]]


class Results(NamedTuple):
    """What the study found; the first setting is the base."""

    title: str
    settings: list[Measured]
    margin: float
    tolerance: float
    seed: int = 0

    def compared(self) -> dict[str, Compared]:
        """Every setting but the base, beside it."""
        base, all_draws = self.settings[0], {}
        for other in self.settings[1:]:
            methods = shared(base, other)
            all_draws[other.name] = compare(sizes(base, methods), sizes(other, methods), self.seed)
        ceiling, found = all_draws.get(AGAIN), {}
        for other in self.settings[1:]:
            correlations, draws = all_draws[other.name]
            lower: dict[str, Interval | None] = dict.fromkeys(MEASURES)
            if ceiling and other.name != AGAIN:
                for name in MEASURES:
                    gap = ceiling[0][name].value - correlations[name].value
                    lower[name] = below(draws[name], ceiling[1][name], gap)
            found[other.name] = Compared(correlations, lower, moves(base, other))
        return found


def sizes(measured: Measured, methods: Sequence[str]) -> Sizes:
    """The effect sizes of some methods in one setting."""
    cells = [[each for of_seed in measured.found[method] for each in of_seed] for method in methods]
    shape = (len(methods), *measured.masses.shape)
    return Sizes(
        np.array([[each.memory_left.value for each in of_method] for of_method in cells]).reshape(shape),
        np.array([[each.damage.value for each in of_method] for of_method in cells]).reshape(shape),
    )


def known(measured: Measured) -> list[str]:
    """The methods, without references, of which something is known in some cell."""
    names = [name for name in measured.found if name not in REFERENCES]
    return [name for name in names if np.isfinite(sizes(measured, [name]).memory).any()]


def shared(base: Measured, other: Measured) -> list[str]:
    """The methods of which something is known in both settings."""
    return [name for name in known(base) if name in known(other)]


def moves(base: Measured, other: Measured) -> dict[str, tuple[float, str, float]]:
    """How far methods moved between two settings, see `Compared`."""
    methods = shared(base, other)
    before, after = (means(sizes(each, methods)) for each in (base, other))
    found = {}
    for name in (memory_left.name, damage.name) if methods else ():
        change = after[name] - before[name]
        furthest = int(np.argmax(np.abs(change)))
        found[name] = float(np.abs(change).mean()), methods[furthest], float(change[furthest])
    return found


def table(study: Results) -> Table:
    """The columns and rows of carry_over.csv: one for each setting, seed, forget set and method; doing nothing is 1 and 0."""
    columns = ("setting", "seed", "forget_set", "method", "memorised_mass", memory_left.name, "memory_low", "memory_high")
    rows = []
    for one in study.settings:
        for row, seed in enumerate(one.seeds):
            for index in range(one.masses.shape[1]):
                for method, cells in one.found.items():
                    found = cells[row][index]
                    both = map(finite, (*found.memory_left, *found.damage))
                    rows.append([one.name, seed, index, method, float(one.masses[row, index]), *both])
    return Table([*columns, damage.name, "damage_low", "damage_high"], rows)


def overview(study: Results) -> Table:
    """The columns and rows of settings.csv."""
    columns = (
        "setting",
        "changes",
        "train_size",
        "forget_size",
        "memorised_mass",
        "memorised_mass_lowest_seed",
        "memorised_mass_highest_seed",
        "memorised_share",
        "overlap",
        "accuracy_retained",
        "accuracy_test",
        "wrong_labels_learned",
        "methods",
    )
    rows = []
    for one in study.settings:
        by_seed = one.masses.mean(axis=1)
        numbers = (one.memorised_share, one.overlap, one.retained, one.tested, one.wrong_learned)
        ends = float(by_seed.min()), float(by_seed.max())
        sized = (one.train_size, one.forget_size, one.mass, *ends)
        rows.append([one.name, one.title, *sized, *map(finite, numbers), len(known(one))])
    return Table(columns, rows)


def correlations(study: Results) -> Table:
    """The columns and rows of correlations.csv: every setting but the base, by measure."""
    columns = ("setting", "measure", *Correlation._fields, "below_other_seeds", "below_low", "below_high")
    rows = [
        [name, measure, *map(finite, found), *map(finite, one.lower[measure] or (None, None, None))]
        for name, one in study.compared().items()
        for measure, found in one.correlations.items()
    ]
    return Table(columns, rows)


def summary(study: Results) -> str:
    """The text of summary.md: the answer in two sentences, then the tables."""
    base, compared = study.settings[0], study.compared()
    titles = {one.name: one.title for one in study.settings}
    rules = [
        [titles[name]]
        + [f"{one.correlations[measure].interval:.2f}" for measure in MEASURES]
        + [f"{one.correlations['distance'].low_methods:.2f} to {one.correlations['distance'].high_methods:.2f}"]
        + [f"{gap:.2f}" if (gap := one.lower[measure]) else "" for measure in (memory_left.name, damage.name)]
        + [_moved(one.moved.get(measure)) for measure in (memory_left.name, damage.name)]
        for name, one in compared.items()
    ]
    facts = [
        [
            one.title,
            f"{one.train_size}",
            f"{one.forget_size}",
            _mass(one),
            _percent(one.overlap),
            f"{one.retained:.1f}",
            f"{one.tested:.1f}",
            "" if math.isnan(one.wrong_learned) else f"{one.wrong_learned:.0f}",
            _nearest(one),
            f"{_within(one, study.margin)}",
            f"{_leaving(one)} of {len(known(one))}",
        ]
        for one in study.settings
    ]
    intervals = {one.name: _intervals(one) for one in study.settings}
    rows = [[method] + [_cell(intervals[one.name], method) for one in study.settings] for method in ["retrain", *_ordered(base)]]
    left_out = [
        f"{one.title}: {name} is left out, it needs {why}." for one in study.settings for name, why in one.left_out.items()
    ]
    lost = [
        f"{one.title}, {name}: {count} of {one.models} models diverged and are in no size."
        for one in study.settings
        for name, count in one.lost.items()
    ]
    return page(
        *answer(study, compared),
        f"In every setting {study.title}.",
        *_matching(study),
        "## Rank correlation of the methods with the base",
        markdown(RULES, rules, left=(0,)),
        "Spearman's, over methods without references. 95% intervals by a bootstrap over seeds and forget sets of both settings; "
        "once over methods. Below other seeds: how much lower than that of the base with other seeds. Moved: mean absolute "
        "change over methods, and the method that changes most.",
        "## The settings",
        markdown([*FACTS, f"within {study.margin:g}", f"leave {LEAVES:g} or more"], facts, left=(0, 8)),
        "Memorised mass: examples of F by which originals know more than models retrained without F.",
        "## Memory left; damage",
        markdown(["", *titles.values()], rows, left=(0,)),
        *left_out,
        *lost,
    )


def answer(study: Results, compared: Mapping[str, Compared]) -> list[str]:
    """Two sentences: how far the order carries over, and what depends on the setting."""
    first, titles = study.settings[0], {one.name: one.title for one in study.settings}
    if not compared:
        return [f"**One setting alone: {first.title}.**"]
    told = [f"{titles[name]} {_pair(one)}" for name, one in compared.items() if name != AGAIN]
    told += [f"other seeds alone {_pair(compared[AGAIN])}"] if AGAIN in compared else []
    lower = {
        measure: [titles[name] for name, one in compared.items() if (gap := one.lower[measure]) and gap.low > 0]
        for measure in (memory_left.name, damage.name)
    }
    depends = [f"{MEASURES[measure]} ({', '.join(names)})" for measure, names in lower.items() if names]
    beyond = f"beyond what other seeds do, the order changes by {' and '.join(depends)}" if depends else "no order changes more"
    said = (
        f"{beyond}{'' if depends else ' than other seeds alone change it'}"
        if AGAIN in compared
        else "what noise does is not known"
    )
    nearest = {one.title: _nearest(one) for one in study.settings}
    best = nearest[first.title]
    others = [f"{title}: {method}" for title, method in nearest.items() if method.split(" ")[0] != best.split(" ")[0]]
    apart = f" (except {'; '.join(others)})" if others else ""
    return [
        f"**Rank correlation of the methods with {first.title}, by memory left and by damage: {'; '.join(told)}.**",
        f"**Nearest to retraining is {best.split(' ')[0]}{apart}; {said}.**",
    ]


def figure(study: Results) -> "matplotlib.figure.Figure":
    """Draws memory left and damage of every method, one point for each setting, and the correlations with the base."""
    base, compared = study.settings[0], study.compared()
    methods = ["retrain", *_ordered(base)]
    figure = blank(1.25 * WIDTH, 1.6 + 0.42 * len(methods))
    grid = figure.subplots(1, 3, width_ratios=(4, 3.2, 3.2))
    styles = {one.name: (MARKERS[n % len(MARKERS)], PALETTE[n % len(PALETTE)]) for n, one in enumerate(study.settings)}
    intervals = {one.name: _intervals(one) for one in study.settings}
    for axes, measure in zip(grid, (memory_left.name, damage.name), strict=False):
        for row in range(len(methods)):
            if row % 2 == 0:
                axes.axhspan(row - 0.5, row + 0.5, color=GRID, linewidth=0, zorder=0)
        for number, one in enumerate(study.settings):
            marker, colour = styles[one.name]
            offset = 0.8 * ((number + 0.5) / len(study.settings) - 0.5)
            for row, method in enumerate(methods):
                if method in intervals[one.name]:
                    _point(axes, intervals[one.name][method][measure], row + offset, marker, colour)
        axes.axvspan(-study.margin, study.margin, color=BAND, alpha=0.4, linewidth=0, zorder=0.5)
        axes.axvline(0.0, color=LINE, linewidth=0.8, zorder=1)
        name_rows(axes, methods if measure == memory_left.name else [""] * len(methods), 8.0)
        values = [each[measure].value for of_setting in intervals.values() for each in of_setting.values()]
        lowest = min((value for value in values if math.isfinite(value)), default=0.0)
        axes.set_xlim(max(min(lowest, -0.2) - 0.1, -MOST), MOST)
    grid[0].axvline(1.0, color=LINE, linewidth=0.8, zorder=1)
    grid[0].set_xlabel("memory left (0: as retraining, 1: nothing done)", fontsize=8)
    grid[1].set_xlabel(f"damage (beyond {MOST:g} at the edge)", fontsize=8)
    _draw_correlations(grid[2], study, compared, styles)
    handles = [
        grid[0].plot([], [], styles[one.name][0], color=styles[one.name][1], markersize=5, label=one.title)[0]
        for one in study.settings
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(f"{study.title}; bars: 95% intervals over seeds and sets", fontsize=9)
    return figure


def _draw_correlations(
    axes: "matplotlib.axes.Axes", study: Results, compared: Mapping[str, Compared], styles: Mapping[str, tuple[str, str]]
) -> None:
    """One row for each setting and measure: the correlation; a thick bar over seeds and sets, a thin one over methods."""
    names, row = [], 0
    titles = {one.name: one.title for one in study.settings}
    for measure, called in MEASURES.items():
        for name, one in compared.items():
            marker, colour = styles[name]
            found = one.correlations[measure]
            axes.plot([found.low_methods, found.high_methods], [row, row], color=colour, linewidth=0.8, alpha=0.6)
            axes.plot([found.low, found.high], [row, row], color=colour, linewidth=3.0, alpha=0.35, solid_capstyle="butt")
            axes.plot(found.value, row, marker, color=colour, markersize=5)
            names.append(titles[name])
            row += 1
        axes.text(-1.0, row - len(compared) - 0.55, called, fontsize=8, fontweight="bold", ha="left", va="center")
        names.append("")
        row += 1
    name_rows(axes, names, 7.0)
    axes.set_ylim(row - 0.6, -0.9)
    axes.set_yticks([place for place, name in enumerate(names) if name], [name for name in names if name], fontsize=7)
    axes.set_xlim(-1.05, 1.05)
    axes.axvline(0.0, color=LINE, linewidth=0.8, zorder=0)
    axes.axvline(1.0, color=BAND, linewidth=0.8, zorder=0)
    axes.set_xlabel("rank correlation with the base\n(thick: seeds and sets; thin: methods)", fontsize=8)


def _point(axes: "matplotlib.axes.Axes", size: Interval, height: float, marker: str, colour: str) -> None:
    if not math.isfinite(size.value):
        return
    if math.isfinite(size.high - size.low):
        axes.plot([size.low, size.high], [height, height], color=colour, linewidth=0.9, alpha=0.6, zorder=2)
    place = min(max(size.value, -MOST), MOST)
    axes.plot(place, height, marker, color=colour, markersize=3.6, markeredgewidth=0.3, zorder=3, clip_on=False)


def _intervals(one: Measured) -> dict[str, dict[str, Interval]]:
    """By method and measure, the mean over seeds and sets with its interval."""
    methods = list(one.found)
    found = mean_intervals(sizes(one, methods))
    return {method: {name: found[name][row] for name in found} for row, method in enumerate(methods)}


def _cell(intervals: Mapping[str, Mapping[str, Interval]], method: str) -> str:
    if method not in intervals:
        return "left out"
    if math.isnan(intervals[method][memory_left.name].value):
        return "not known"
    return "; ".join(f"{intervals[method][name]:.2f}" for name in (memory_left.name, damage.name))


def _ordered(base: Measured) -> list[str]:
    """The methods of the base, the nearest to retraining first; those of which nothing is known last."""
    methods = known(base)
    distance = means(sizes(base, methods))["distance"]
    return [methods[row] for row in np.argsort(distance, kind="stable")] + [
        name for name in base.found if name not in (*methods, *REFERENCES)
    ]


def _nearest(one: Measured) -> str:
    methods = known(one)
    if not methods:
        return "nothing known"
    found = means(sizes(one, methods))
    row = int(np.argmin(found["distance"]))
    return f"{methods[row]} ({found['memory_left'][row]:.2f}; {found['damage'][row]:.2f})"


def _within(one: Measured, margin: float) -> int:
    methods = known(one)
    return int((means(sizes(one, methods))["distance"] < margin).sum()) if methods else 0


def _leaving(one: Measured) -> int:
    methods = known(one)
    return int((means(sizes(one, methods))[memory_left.name] >= LEAVES).sum()) if methods else 0


def _pair(one: Compared) -> str:
    return " and ".join(f"{one.correlations[name].value:.2f}" for name in (memory_left.name, damage.name))


def _moved(moved: tuple[float, str, float] | None) -> str:
    return f"{moved[0]:.2f}; {moved[1]} {moved[2]:+.2f}" if moved else ""


def _mass(one: Measured) -> str:
    by_seed = one.masses.mean(axis=1)
    return f"{one.mass:.1f} ({by_seed.min():.1f} to {by_seed.max():.1f} by seed)"


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:.0f}"


def _matching(study: Results) -> list[str]:
    """Says how well the memorised mass was matched."""
    base = study.settings[0]
    said = []
    for one in study.settings:
        if one.name == CLEAN:
            reached = one.mass / base.mass - 1 if base.mass else math.nan
            within = "within" if abs(reached) <= study.tolerance else "NOT within"
            said.append(
                f"{one.title}: {100 * one.memorised_share:.0f}% of F are drawn from the {one.forget_size} most memorised rows. "
                f"The memorised mass is {one.mass:.1f}, {100 * reached:+.0f}% from the base's {base.mass:.1f}: {within} the "
                f"tolerance of {100 * study.tolerance:.0f}%."
            )
    return said
