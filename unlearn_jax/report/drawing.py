"""What all figures share: colours, empty figures, labels, and saving.

Figures are matplotlib `Figure` objects, made without pyplot and its global state: the same input gives the same bytes. The
colours are those of Okabe and Ito, safe for colour-blind readers. Figures are 9 inches wide.
"""

import io
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Shaped

from unlearn_jax.progress import stage
from unlearn_jax.report import Folder

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

    from unlearn_jax.types import Interval

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")
SPLITS = dict(zip(("forget", "retain", "test"), COLOURS[:3], strict=True))
ACCESS = {
    "F": ("^", "#D55E00"),
    "R": ("o", "#0072B2"),
    "F+R": ("s", "#009E73"),
    "R+test-like": ("P", "#56B4E9"),
    "F+R+test-like": ("D", "#CC79A7"),
    "data-free": ("v", "#E69F00"),
}
REFERENCE = ("*", "black")
ELSE = ("X", "#666666")
BAND = "#BBBBBB"
LINE = "#888888"  # marks a value to compare with
GRID = "#EEEEEE"
WIDTH = 9.0  # inches
DIGITS = 0.73  # the height of digits, as a share of the size of the font


def blank(width: float, height: float) -> "matplotlib.figure.Figure":
    """Returns an empty figure of a size in inches, with constrained layout."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels_of(
    count: int, most: int, height: Callable[[int, int], float], width: float = WIDTH
) -> tuple["matplotlib.figure.Figure", list["matplotlib.axes.Axes"]]:
    """Returns a figure with a grid of panels that share their axes.

    Args:
        count: number of panels.
        most: the most panels in a row.
        height: gives the height of the figure in inches from the numbers of rows and columns.
        width: of the figure in inches.

    Returns:
        The figure, and the panels row by row; left-over places stay empty.
    """
    across = min(most, count)
    down = -(-count // across)
    figure = blank(width, height(down, across))
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel().tolist()
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def open_frame(*panels: "matplotlib.axes.Axes") -> None:
    """Removes the frame above and to the right of panels."""
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)


def name_rows(axes: "matplotlib.axes.Axes", names: Collection[str], size: float = 9.0) -> None:
    """Labels the rows of a panel, the first on top, and removes the frame except for the axis below."""
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)


def name_cells(axes: "matplotlib.axes.Axes", rows: Sequence[str], columns: Sequence[str], size: float = 8.0) -> None:
    """Labels the rows and the columns of a heat map, and removes ticks and frame."""
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=size)
    axes.set_yticks(range(len(rows)), rows, fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def write_cells(
    axes: "matplotlib.axes.Axes",
    texts: Shaped[np.ndarray, "rows columns"],
    colours: Shaped[np.ndarray, "rows columns"],
    size: float,
) -> None:
    """Writes texts into the cells of a heat map.

    Equal texts are one shape that is stamped on all of their cells: a map of metrics has a thousand cells and a hundred
    different texts, and most of the time of drawing it went into their layout.

    Args:
        axes: of the map.
        texts: of the cells; nothing is written for an empty one.
        colours: of the texts.
        size: of the font, in points.
    """
    from matplotlib.path import Path
    from matplotlib.textpath import TextPath

    for text in np.unique(texts[texts != ""]):
        outline = TextPath((0, 0), text, size=size)
        vertices = outline.vertices - [outline.get_extents().intervalx.mean(), DIGITS * size / 2]
        area = (2 * np.abs(vertices).max()) ** 2  # of a marker whose farthest coordinate stays where it is
        for colour in np.unique(colours[texts == text]):
            rows, columns = np.nonzero((texts == text) & (colours == colour))
            stamp = Path(vertices, outline.codes)
            axes.scatter(columns, rows, area, colour, marker=stamp, linewidths=0, label=f"_{text}")  # not in a legend


def in_white(dark: Bool[np.ndarray, "rows columns"]) -> Shaped[np.ndarray, "rows columns"]:
    """The colours of texts: white in dark cells, black in the others."""
    return np.where(dark, "white", "black")


def hundredths(value: float, sign: str = "-") -> str:
    """Formats a number from -1 to 1 in little space: .97, −.03, 0, 1; with `sign="+"`: +.97."""
    rounded = round(value, 2)
    return f"{rounded:{sign}.2f}".replace("0.", ".", 1).replace("-", "−").removesuffix(".00") if rounded else "0"


def draw_trend(
    axes: "matplotlib.axes.Axes", intervals: "Sequence[Interval | None]", colour: str, label: str, line: str = "o-"
) -> None:
    """Draws values side by side, with their intervals where these are finite; None leaves a gap."""
    known = {place: interval for place, interval in enumerate(intervals) if interval is not None}
    axes.plot(
        [*known], [interval.value for interval in known.values()], line, color=colour, markersize=3, linewidth=1.0, label=label
    )
    for place, (_, low, high) in known.items():
        if math.isfinite(high - low):
            axes.plot([place, place], [low, high], color=colour, linewidth=1.0, alpha=0.6)


def cut(axes: "matplotlib.axes.Axes", values: Iterable[float]) -> None:
    """Limits the y axis to the values and a margin; intervals may be cut off."""
    finite: Float[np.ndarray, " values"] = np.array([*values])
    margin = 0.15 * max(np.ptp(finite), 1e-3)
    axes.set_ylim(finite.min() - margin, finite.max() + margin)


def save(figure: "matplotlib.figure.Figure", folder: Folder, name: str) -> None:
    """Writes figures/<name>.svg and figures/<name>.png, the same bytes each time (for one version of matplotlib).

    Args:
        figure: the figure.
        folder: the run folder.
        name: without suffix.
    """
    import matplotlib

    with stage("figures"), matplotlib.rc_context({"svg.hashsalt": name}):
        if engine := figure.get_layout_engine():
            engine.execute(figure)
            figure.set_layout_engine("none")  # computed once: it takes longer than drawing
        for suffix, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
            data = io.BytesIO()
            figure.savefig(data, format=suffix, dpi=200, metadata=metadata)
            folder.write_bytes(f"figures/{name}.{suffix}", data.getvalue())
