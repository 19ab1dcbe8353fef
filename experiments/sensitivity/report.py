"""Forgetting against utility over a method's hyperparameters: small multiples, and a table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from unlearn_jax.report.drawing import BAND, COLOURS, WIDTH, panels_of
from unlearn_jax.report.tables import markdown, page

if TYPE_CHECKING:
    import matplotlib.figure

COLUMNS = 6  # panels in a row
LARGEST = 2.0  # times as far as doing nothing; larger distances are drawn at the edge


class Trial(NamedTuple):
    """One setting: the hyperparameters, distances from the oracles (in their standard deviations), and accuracies in %."""

    first: float
    second: float  # NaN where there is one hyperparameter only
    forget: float
    retain: float
    held_out: float
    accuracy_forget: float
    accuracy_retain: float
    accuracy_held_out: float

    @property
    def total(self) -> float:
        """The sum of the distances on the three splits."""
        return self.forget + self.retain + self.held_out

    @property
    def utility(self) -> float:
        """The mean distance on retained and held-out examples."""
        return (self.retain + self.held_out) / 2


class Surface(NamedTuple):
    """One method.

    Attributes:
        method: its name.
        access: the data that it may use.
        axes: the names of one or two hyperparameters.
        grid: the settings; the first hyperparameter varies slowest.
        used: the setting that the experiments use.
        authors: the authors' setting, with this budget.
    """

    method: str
    access: str
    axes: tuple[str, ...]
    grid: list[Trial]
    used: Trial
    authors: Trial


def meshes(
    surfaces: Sequence[Surface], nothing: Float[np.ndarray, "3"], retrain: Float[np.ndarray, "3"], title: str
) -> "matplotlib.figure.Figure":
    """Draws a panel for each method: the grid of its settings, in the plane of utility and forgetting.

    Args:
        surfaces: of the methods.
        nothing: distances of the originals on the forget set, retained and held-out examples.
        retrain: distances of other retrained models.
        title: what the figure is about.

    Returns:
        The figure. Lines join settings that differ in one hyperparameter only.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, panels = panels_of(len(surfaces), COLUMNS, lambda down, across: 1.2 + 1.95 * down, 1.3 * WIDTH)
    ends = {"doing nothing": ("X", "black", nothing), "retraining": ("*", "black", retrain)}
    for axes, surface in zip(panels, surfaces, strict=True):
        sides = [len({one[axis] for one in surface.grid}) for axis in range(len(surface.axes))]
        x = _clip([one.utility for one in surface.grid], nothing[1:].mean()).reshape(sides)
        y = _clip([one.forget for one in surface.grid], nothing[0]).reshape(sides)
        axes.plot(x, y, "-", color=COLOURS[0], linewidth=0.9, alpha=0.8)
        if len(sides) > 1:
            axes.plot(x.T, y.T, "-", color=COLOURS[1], linewidth=0.9, alpha=0.8)
        axes.plot(x.ravel(), y.ravel(), ".", color="#555555", markersize=2.5)
        for label, (marker, colour, far) in ends.items():
            axes.plot(far[1:].mean(), far[0], marker, color=colour, markersize=6, label=label, linestyle="none", zorder=3)
        for label, one, marker, colour in (
            ("authors' values", surface.authors, "s", COLOURS[3]),
            ("used", surface.used, "o", COLOURS[4]),
        ):
            at = _clip([one.utility], nothing[1:].mean()), _clip([one.forget], nothing[0])
            axes.plot(*at, marker, color=colour, markersize=5, label=label, linestyle="none", zorder=4)
        axes.axhline(nothing[0], color=BAND, linewidth=0.7, linestyle=":")
        axes.axvline(nothing[1:].mean(), color=BAND, linewidth=0.7, linestyle=":")
        axes.set_xscale("log")
        axes.set_yscale("log")
        short = [name.replace("learning_rate", "rate") for name in surface.axes]
        axes.set_title(f"{surface.method} ({surface.access})\n{' × '.join(short)}", fontsize=6)
        axes.tick_params(labelsize=6)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
    figure.supylabel("distance from the oracles on the forget set", fontsize=9)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    across = "across: distance from the oracles on retained and held-out examples; both in the oracles' standard deviations"
    figure.suptitle(f"{title}\n{across}\nblue: along the first hyperparameter; orange: along the second", fontsize=9)
    return figure


def summary(surfaces: Sequence[Surface], nothing: Float[np.ndarray, "3"], retrain: Float[np.ndarray, "3"]) -> str:
    """A Markdown table with each method's share of settings nearer to the oracles than doing nothing, and its best setting.

    Args:
        surfaces: of the methods.
        nothing: see `meshes`.
        retrain: see `meshes`.
    """
    headings = ("method", "access", "hyperparameters", "better than doing nothing", "best", "at", "used", "authors'")
    lines = []
    for surface in sorted(surfaces, key=lambda surface: min(one.total for one in surface.grid)):
        best = min(surface.grid, key=lambda one: one.total)
        better = np.mean([one.total < nothing.sum() for one in surface.grid])
        at = ", ".join(f"{value:.2g}" for value in best[: len(surface.axes)])
        least, used, authors = (f"{one.total:.2f}" for one in (best, surface.used, surface.authors))
        lines.append([surface.method, surface.access, ", ".join(surface.axes), f"{better:.0%}", least, at, used, authors])
    table = markdown(headings, lines, left=(0, 1, 2, 5))
    return page(table, f"Doing nothing: {nothing.sum():.2f}; other retrained models: {retrain.sum():.2f}.")


def _clip(values: Sequence[float], unit: float) -> Float[np.ndarray, " settings"]:
    """Distances clipped at `LARGEST` times the unit; settings that diverged are at the limit."""
    return np.minimum(np.nan_to_num(np.asarray(values, float), nan=np.inf, posinf=np.inf), LARGEST * unit)
