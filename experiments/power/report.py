"""The table and the figure of the study: shares called outside, by deviation and number of models."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unlearn_jax.report.drawing import COLOURS, GRID, LINE, WIDTH, blank
from unlearn_jax.report.tables import markdown

if TYPE_CHECKING:
    import matplotlib.figure

COLUMNS = ("deviation", "models", "oracles", "replicates", "outside", "share", "low", "high", "first")
EXPECTED = 0.05  # of perfect pools


def table(rows: Sequence[Sequence[Any]]) -> str:
    """A line for each deviation, a column for each number of models: how many draws were called outside."""
    sizes = list(dict.fromkeys(row[1] for row in rows))
    cells: dict[str, dict[int, str]] = {}
    for name, n, _, replicates, outside, *_ in rows:
        cells.setdefault(name, {})[n] = f"{outside} of {replicates}"
    lines = [[name, *(of_size.get(n, "") for n in sizes)] for name, of_size in cells.items()]
    return markdown(("called outside", *(f"n = {n}" for n in sizes)), lines, left=(0,))


def figure(rows: Sequence[Sequence[Any]], title: str) -> "matplotlib.figure.Figure":
    """Draws the share called outside against the number of models, with 95% intervals.

    Args:
        rows: see `COLUMNS`.
        title: of the figure.
    """
    drawn = blank(WIDTH, 4.5)
    axes = drawn.subplots()
    names = list(dict.fromkeys(row[0] for row in rows))
    for place, name in enumerate(names):
        points = [(row[1], *row[5:8]) for row in rows if row[0] == name]
        models, share, low, high = zip(*points, strict=True)
        aside = [n * 1.02 ** (place - len(names) / 2) for n in models]
        reach = [[a - b for a, b in zip(share, low, strict=True)], [b - a for a, b in zip(share, high, strict=True)]]
        colour = COLOURS[place % len(COLOURS)]
        axes.errorbar(aside, share, yerr=reach, marker="o", markersize=4, linewidth=1, color=colour, label=name)
    axes.axhline(EXPECTED, color=LINE, linestyle=":", linewidth=1)
    axes.set_xscale("log")
    sizes = sorted({row[1] for row in rows})
    axes.set_xticks(sizes, map(str, sizes))
    axes.minorticks_off()
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("models of a method (and twice as many oracles)")
    axes.set_ylabel("share called outside")
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    drawn.legend(loc="outside right upper", frameon=False, fontsize=8)
    drawn.suptitle(title, fontsize=10)
    return drawn
