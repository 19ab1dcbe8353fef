"""Draws points of the plane and the boundaries between their classes."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from unlearn_jax.report.drawing import COLOURS, WIDTH

if TYPE_CHECKING:
    import matplotlib.axes

DOTS = tuple(COLOURS[number] for number in (0, 2, 3, 5, 6, 7))  # of the classes; orange is the point that is left out
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")
VISIBLE = 0.05  # the smallest displacement of a boundary to be seen, as a share of the window's diagonal


def draw_boundary(
    axes: "matplotlib.axes.Axes",
    window: tuple[float, float, float, float],
    surface: Float[np.ndarray, "classes rows columns"],
    colour: str,
    width: float,
    style: str = "solid",
) -> None:
    """Draws where the margins of a model are zero; for two classes only once."""
    left, right, bottom, top = window
    x, y = np.linspace(left, right, surface.shape[2]), np.linspace(bottom, top, surface.shape[1])
    for margins in surface[1:] if len(surface) == 2 else surface:
        if margins.min() < 0 < margins.max():
            axes.contour(x, y, margins, levels=[0.0], colors=[colour], linewidths=[width], linestyles=[style])


def draw_points(
    axes: "matplotlib.axes.Axes", points: Float[np.ndarray, "points 2"], labels: Int[np.ndarray, " points"], size: float
) -> None:
    """Draws points, with a colour and a marker for each class."""
    for label in np.unique(labels):
        x, y = points[labels == label].T
        colour, marker = DOTS[label % len(DOTS)], MARKERS[label % len(MARKERS)]
        axes.scatter(x, y, s=size, color=colour, marker=marker, alpha=0.6, linewidths=0)


def circle(axes: "matplotlib.axes.Axes", point: Float[np.ndarray, "2"]) -> None:
    """Circles the point that a panel shows."""
    axes.scatter(point[:1], point[1:], marker="o", s=60, facecolors="none", edgecolors=COLOURS[4], linewidths=1.6, zorder=4)


def plane_height(window: tuple[float, float, float, float], across: int) -> float:
    """Returns the height in inches of a row of `across` panels of the plane, titles included."""
    left, right, bottom, top = window
    return 0.25 + WIDTH / across * (top - bottom) / (right - left)


def draw_plane(axes: "matplotlib.axes.Axes", window: tuple[float, float, float, float]) -> None:
    """Sets the limits of the axes to the window, with equal scales."""
    left, right, bottom, top = window
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_aspect("equal")
    axes.tick_params(labelsize=7)


def times_to_be_seen(furthest: float, window: tuple[float, float, float, float]) -> float:
    """Returns the factor (1, 2, 5, 10, ...) by which to enlarge a change so that a displacement of `furthest` can be seen."""
    left, right, bottom, top = window
    wanted = VISIBLE * np.hypot(right - left, top - bottom) / max(furthest, 1e-12)
    steps = np.outer(10.0 ** np.arange(14), (1, 2, 5)).ravel()
    return float(steps[max(np.searchsorted(steps, wanted, side="right") - 1, 0)])
