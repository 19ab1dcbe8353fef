"""How far metrics agree on the order of methods, as a table and a figure."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from unlearn_jax.report import Folder
from unlearn_jax.report.drawing import WIDTH, blank, in_white, name_cells, write_cells
from unlearn_jax.report.rows import short_name

if TYPE_CHECKING:
    import matplotlib.figure

COLUMNS = ("metric_a", "metric_b", "spearman", "low", "high", "methods")
Square = Float[np.ndarray, "metrics metrics"]
Metrics = Sequence[tuple[str, str]]  # metric, split


def write_agreement(folder: Folder, metrics: Metrics, correlation: Square, low: Square, high: Square, methods: int) -> None:
    """Writes agreement.csv: one row for each pair of metrics; cells are empty where a metric ties all methods.

    Args:
        folder: the run folder.
        metrics: the name and the split of each metric.
        correlation: rank correlations.
        low: lower ends of their intervals.
        high: upper ends.
        methods: how many methods were ranked.
    """
    names = [f"{metric} {split}".rstrip() for metric, split in metrics]
    values = [[None if np.isnan(value) else float(value) for value in table.ravel()] for table in (correlation, low, high)]
    cells = dict(zip(itertools.product(range(len(names)), repeat=2), zip(*values, strict=True), strict=True))
    pairs = itertools.combinations(range(len(names)), 2)
    folder.write_csv("agreement.csv", COLUMNS, [(names[a], names[b], *cells[a, b], methods) for a, b in pairs])


def metric_agreement(metrics: Metrics, correlation: Square, low: Square, high: Square, title: str) -> "matplotlib.figure.Figure":
    """Draws the rank correlation of every pair of metrics, ordered so that similar metrics are neighbours.

    The order is that of hierarchical clustering (average linkage of 1 - ρ). A cell is grey where the interval over methods
    contains 0: too few methods.

    Args:
        metrics: the name and the split of each metric.
        correlation: rank correlations; NaN where a metric ties all methods.
        low: lower ends of their intervals.
        high: upper ends.
        title: of the figure.

    Returns:
        The figure.
    """
    order = cluster_order(correlation)
    names = [short_name(metrics[i]) for i in order]
    values, unclear = correlation[np.ix_(order, order)], ((low <= 0) & (high >= 0))[np.ix_(order, order)]
    figure = blank(WIDTH, WIDTH - 0.6)
    axes = figure.add_subplot()
    axes.set_facecolor("#DDDDDD")
    picture = axes.imshow(np.ma.masked_where(unclear | np.isnan(values), values), cmap="PuOr_r", vmin=-1, vmax=1)
    size = min(8.0, 190 / max(len(names), 1))
    known = ~np.isnan(values)
    texts, colours = np.full(values.shape, "", object), np.where(unclear, "#777777", in_white(np.abs(values) > 0.62))
    texts[known] = [f"{value:.2f}".replace("-0.00", "0.00").replace("0.", ".").replace("-", "−") for value in values[known]]
    write_cells(axes, texts, colours, 0.8 * size)
    name_cells(axes, names, names, size)
    bar = figure.colorbar(picture, ax=axes, shrink=0.4, pad=0.01)
    bar.set_label("Spearman's ρ of the methods' |z|\n(grey: its 95% interval over methods contains 0)", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    axes.set_title(title, fontsize=10)
    return figure


def cluster_order(correlation: Square) -> Int[np.ndarray, " metrics"]:
    """Returns an order in which similar metrics are neighbours; an undefined correlation counts as 0."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(correlation) < 3:
        return np.arange(len(correlation))
    distance = 1 - np.nan_to_num(correlation)
    return leaves_list(linkage(distance[np.triu_indices(len(distance), 1)], "average", optimal_ordering=True)).astype(int)
