"""The figure: every method by family, by its distance from retraining."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.effectiveness.families import FAMILIES, NOTHING, OTHER, RETRAIN, family_of
from experiments.effectiveness.tables import Board, Result
from unlearn_jax.metrics.effects import MARGIN
from unlearn_jax.report.drawing import ACCESS, BAND, COLOURS, ELSE, GRID, LINE, REFERENCE, WIDTH, blank, name_rows

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

PANELS = 2
END = 1.3  # beyond it a mark is drawn at the edge, with its distance
MEMORY, DAMAGE = COLOURS[0], COLOURS[4]
SEES = {"data-free": "the model alone", "R+test-like": "R, held-out data", "F+R+test-like": "F, R, held-out data", "F+R": "F, R"}
COSTS = (0.1, 0.5, 1.0, 3.0)  # shown in the legend
NAMES = -0.33  # offset of the names
LANES = (0.0, 0.2, -0.1, 0.3, 0.1)  # offsets of the marks of a row, in turns


def draw(boards: Sequence[Board]) -> "matplotlib.figure.Figure":
    """Draws the first leaderboards: a panel each, a row for each family, a mark for each method.

    Args:
        boards: the main one first.

    Returns:
        The figure.
    """
    shown = [board for number, board in enumerate(boards) if number < PANELS]
    found = {family_of(each.method) for board in shown for each in board.methods}
    families = [family for family in (*FAMILIES, OTHER) if family in found or RETRAIN in family.methods]
    figure = blank(WIDTH, 1.9 + 0.55 * len(families))
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, board in zip(panels, shown, strict=True):
        axes.axvspan(0, MARGIN, color=BAND, alpha=0.45, linewidth=0, zorder=0)
        axes.axvline(1.0, color=LINE, linewidth=0.8, zorder=1)
        for row, family in enumerate(families):
            axes.axhline(row, color=GRID, linewidth=0.8, zorder=0)
            results = [each for each in board.results if family_of(each.method) is family and each.method != NOTHING]
            for place, each in enumerate(results):
                _mark(axes, each, row + LANES[place % len(LANES)])
            if results:
                first = results[0]
                at = (min(first.distance, END), row + NAMES)
                side = "right" if first.distance > END - 0.2 else "center"  # inside the panel
                axes.annotate(first.method, at, fontsize=7, ha=side, va="center", zorder=6).set_in_layout(False)
        axes.set_xlim(-0.12, END + 0.1)
        axes.set_xlabel("distance from retraining", fontsize=8)
        axes.set_title(f"{board.title} · n={board.counts[0]}", fontsize=10)
        name_rows(axes, [family.name for family in families])
    _legend(figure, panels[0], {each.access for board in shown for each in board.methods})
    return figure


def _mark(axes: "matplotlib.axes.Axes", each: Result, row: float) -> None:
    colour = MEMORY if abs(each.memory.value) >= each.damage.value else DAMAGE
    marker = REFERENCE[0] if each.method == RETRAIN else ACCESS.get(each.access, ELSE)[0]
    x = min(each.distance, END)
    axes.scatter(x, row, s=_size(each.cost), marker=marker, color=colour, edgecolor="white", linewidth=0.6, zorder=4, alpha=0.9)
    if each.distance > END:
        text = f"{each.distance:.1f}" if each.distance < 100 else ">100"
        axes.annotate(text, (x, row), (6, 0), textcoords="offset points", fontsize=6, va="center").set_in_layout(False)


def _size(cost: float) -> float:
    return 18 + 55 * math.sqrt(min(cost, 10.0)) if math.isfinite(cost) else 18.0


def _legend(figure: "matplotlib.figure.Figure", axes: "matplotlib.axes.Axes", accesses: set[str]) -> None:
    nan = np.nan
    handles: list[Any] = [
        axes.scatter([nan], [nan], color=colour, label=label)
        for colour, label in ((MEMORY, "more memory left than damage"), (DAMAGE, "more damage"))
    ]
    shapes = {access: marker for access, (marker, _) in ACCESS.items() if access in accesses}
    handles += [
        axes.scatter([nan], [nan], marker=marker, color="#666666", label=f"sees {SEES.get(access, access)}")
        for access, marker in shapes.items()
    ]
    handles += [
        axes.scatter([nan], [nan], s=_size(cost), color="#BBBBBB", label=f"costs {cost:g} × retraining") for cost in COSTS
    ]
    handles.append(axes.fill_between([], [], color=BAND, alpha=0.45, label=f"within {MARGIN:g} of retraining"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
