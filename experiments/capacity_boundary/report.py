"""How capacity matters: the boundary of each network, trends along each axis, and agreement of the rankings of points."""

import itertools
import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from unlearn_jax.influence import Window
from unlearn_jax.report.drawing import COLOURS, GRID, WIDTH, blank, cut, draw_trend, in_white, name_cells, open_frame, write_cells
from unlearn_jax.report.explorer import Layer, Measure, explorer
from unlearn_jax.report.planes import draw_boundary, draw_plane, draw_points, plane_height
from unlearn_jax.report.tables import Table, finite, markdown, page
from unlearn_jax.types import Interval

if TYPE_CHECKING:
    import matplotlib.figure

MEASURES = {
    "train_accuracy": "accuracy on the points, %",
    "test_accuracy": "accuracy on clean fresh points, %",
    "displacement": "mean displacement without a point",
    "noise": "float noise",
    "above_noise": "points beyond float noise, %",
    "gini": "Gini of the displacements",
    "half": "points that carry half, %",
    "most": "points that carry 90%, %",
    "ranks": "rank correlation of two seeds",
    "common": "share common to seeds",
    "memorised": "memorisation, right labels",
    "memorised_wrong": "memorisation, wrong labels",
    "less_memorised": "points less memorised than by the base, %",
}
"""Measure -> its name in tables and figures."""
TRENDS: dict[str, tuple[str, ...]] = {
    "accuracy, %": ("train_accuracy", "test_accuracy"),
    "displacement": ("displacement", "noise"),
    "carry 90%, %": ("most",),
    "ranks, two seeds": ("ranks",),
    "common to seeds": ("common",),
    "memorisation": ("memorised", "memorised_wrong"),
}
LOGARITHMIC = ("displacement",)
EXACT = "exact: trained again without the point"
COLOURED = {  # what the explorer colours by
    "displacement_mean": Measure(
        "mean displacement", EXACT, "How far the boundary moves without the point, on average along it."
    ),
    "memorisation": Measure("memorisation", EXACT, "How much less probable the point's label is without the point."),
}


class Variant(NamedTuple):
    """One network.

    Attributes:
        axis: the option that is varied.
        value: its value.
        parameters: number of parameters.
        seeds: number of seeds with a boundary in the window.
        surfaces: the margins of each seed's original on the grid.
        intervals: by measure, the value and its 95% interval.
    """

    axis: str
    value: str
    parameters: int
    seeds: int
    surfaces: Float[np.ndarray, "seeds classes rows columns"]
    intervals: dict[str, Interval]

    @property
    def name(self) -> str:
        """Its name in tables."""
        return f"{self.axis.replace('_', ' ')} {self.value}".strip()


class Results(NamedTuple):
    """All networks, the base first.

    Attributes:
        title: what the report is about.
        points: their coordinates.
        labels: as trained on.
        window: left, right, bottom, top of the part of the plane that is studied.
        variants: the networks.
        agreement: rank correlation of the displacements of each two networks from different seeds.
    """

    title: str
    points: Float[np.ndarray, "points 2"]
    labels: Int[np.ndarray, " points"]
    window: tuple[float, float, float, float]
    variants: list[Variant]
    agreement: Float[np.ndarray, "variants variants"]

    @property
    def axes(self) -> dict[str, list[Variant]]:
        """The networks on each axis, without the base at the beginning."""
        return {axis: [*some] for axis, some in itertools.groupby(self.variants[1:], key=lambda variant: variant.axis)}


def table(study: Results) -> Table:
    """The columns and rows of capacity_boundary.csv, a row for each network; two seeds give no interval."""
    columns = [f"{measure}{end}" for measure in MEASURES for end in ("", "_low", "_high")]
    rows = [
        [
            *(variant.axis, variant.value, variant.parameters, variant.seeds),
            *(finite(end) for measure in MEASURES for end in variant.intervals[measure]),
        ]
        for variant in study.variants
    ]
    return Table(["axis", "value", "parameters", "seeds", *columns], rows)


def summary(study: Results) -> str:
    """The text of summary.md."""
    lines = [
        [each.name, str(each.parameters), str(each.seeds), *(f"{each.intervals[measure]:.3g}" for measure in MEASURES)]
        for each in study.variants
    ]
    return page(
        f"# Capacity: {study.title}",
        "95% intervals over seeds (jackknife, Student's t; none from two seeds; of the last column over points, bootstrap). "
        "Displacement: how far the boundary moves, on average along it, when a point is left out. Common to seeds: "
        "of the change of the margins. Memorisation: how much less probable a point's label is without the point.",
        markdown(["", "parameters", "seeds", *MEASURES.values()], lines),
    )


def explore(
    study: Results,
    window: Window,
    clean_labels: Int[np.ndarray, " points"],
    layers: dict[str, Layer],
    places: list[tuple[str, str, dict[str, str]]],
) -> dict[str, Any]:
    """What the explorer of the page shows, see `report.explorer.explorer`.

    Args:
        study: the networks.
        window: the plane's.
        clean_labels: without label noise.
        layers: by name, each network from each seed.
        places: of each network in `study.variants` the axis, the value, and by seed its layer.
    """
    rows = places[1:] or places  # the base is on every axis
    axes = {axis: [(value, seeds) for _, value, seeds in some] for axis, some in itertools.groupby(rows, key=lambda row: row[0])}
    return explorer(study.window, window.resolution, study.points, study.labels, clean_labels, COLOURED, layers, axes)


def boundaries(study: Results) -> "matplotlib.figure.Figure":
    """Draws the boundaries of every network: the first seed's in black, the others' in orange; a row for each axis."""
    axes_of = study.axes
    down, across = len(axes_of), max(map(len, axes_of.values()))
    figure = blank(WIDTH, 0.6 + down * plane_height(study.window, across))
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for row, (axis, variants) in zip(panels, axes_of.items(), strict=True):
        for axes in row[len(variants) :]:
            axes.set_axis_off()
        for axes, variant in zip(row, variants, strict=False):
            draw_points(axes, study.points, study.labels, 2.0)
            for number, surface in reversed(list(enumerate(variant.surfaces))):
                draw_boundary(axes, study.window, surface, COLOURS[4] if number else "black", 0.7 if number else 1.1)
            axes.set_title(f"{axis.replace('_', ' ')} {variant.value}", fontsize=7, pad=2)
            draw_plane(axes, study.window)
            axes.set_xticks([])
            axes.set_yticks([])
    figure.suptitle(f"{study.title}\nthe boundary from the first seed (black) and from the others (orange)", fontsize=9)
    return figure


def trends(study: Results) -> "matplotlib.figure.Figure":
    """Draws the measures along every axis, with their intervals: a row for each measure, a column for each axis."""
    axes_of = study.axes
    widths = [max(len(variants), 3) for variants in axes_of.values()]
    figure = blank(WIDTH, 0.8 + 1.45 * len(TRENDS))
    panels = figure.subplots(len(TRENDS), len(axes_of), squeeze=False, sharey="row", sharex="col", width_ratios=widths)
    for row, (label, measures) in zip(panels, TRENDS.items(), strict=True):
        for axes, variants in zip(row, axes_of.values(), strict=True):
            line = "o-" if all(_is_number(variant.value) for variant in variants) else "o"  # no line between categories
            for measure, colour in zip(measures, (COLOURS[0], COLOURS[4]), strict=False):
                intervals = [variant.intervals[measure] for variant in variants]
                draw_trend(axes, intervals, colour, textwrap.fill(MEASURES[measure], 16), line)
            axes.set_xticks(range(len(variants)), [variant.value for variant in variants], rotation=45, fontsize=7)
            axes.tick_params(axis="y", labelsize=7)
            open_frame(axes)
            axes.grid(axis="y", color=GRID, linewidth=0.6)
            if measures[0] in LOGARITHMIC:
                axes.set_yscale("log")
        values = np.array([variant.intervals[measure].value for variant in study.variants for measure in measures])
        if measures[0] in LOGARITHMIC:
            row[0].set_ylim(values[values > 0].min() / 2, values.max() * 2)  # an interval of three seeds may reach below 0
        else:
            cut(row[0], values)
        row[0].set_ylabel(label, fontsize=8)
        if len(measures) > 1:
            row[-1].legend(fontsize=6, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axes, axis in zip(panels[0], axes_of, strict=True):
        axes.set_title(axis.replace("_", " "), fontsize=8)
    figure.suptitle(f"{study.title}\n95% intervals over seeds, cut at the panels' edges", fontsize=9)
    return figure


def agreement(study: Results) -> "matplotlib.figure.Figure":
    """Draws the rank correlation of the displacements of each two networks from different seeds."""
    base, *others = study.variants
    rows = [0, *(1 + number for number, variant in enumerate(others) if variant.intervals != base.intervals)]
    names, agreement = [study.variants[row].name for row in rows], study.agreement[np.ix_(rows, rows)]
    figure = blank(WIDTH, WIDTH * 0.85)
    axes = figure.add_subplot()
    image = axes.imshow(agreement, cmap="RdBu", vmin=-1, vmax=1)
    name_cells(axes, names, names, 7.0)
    write_cells(axes, np.vectorize("{:.0f}".format)(100 * agreement), in_white(agreement > 0.6), 6.0)
    figure.colorbar(image, ax=axes, shrink=0.8, label="rank correlation of the displacements, two different seeds")
    axes.set_title(
        f"{study.title}\nagreement of the rankings of points, in hundredths; diagonal: a network with itself", fontsize=9
    )
    return figure


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
