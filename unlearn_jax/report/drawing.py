"""What all figures share: colours, an empty figure, and how one is saved.

Figures are matplotlib `Figure` objects without pyplot: nothing global is touched, and the same input gives the same bytes.
Colours are Okabe and Ito's, which colour-blind people can tell apart. All are drawn 9 inches wide.
"""

import io
from typing import TYPE_CHECKING

from unlearn_jax.progress import stage
from unlearn_jax.report import Folder

if TYPE_CHECKING:
    import matplotlib.figure

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
WIDTH = 9.0  # inches


def blank(width: float, height: float) -> "matplotlib.figure.Figure":
    """An empty figure of that size in inches, its layout settled by constraints."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: "matplotlib.figure.Figure", folder: Folder, name: str) -> None:
    """Writes figures/<name>.svg and figures/<name>.png, the same bytes each time (for one version of matplotlib).

    Args:
        figure: what to save.
        folder: the run folder.
        name: without suffix.
    """
    import matplotlib

    with stage("figures"), matplotlib.rc_context({"svg.hashsalt": name}):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # it is settled now, and settling it takes longer than drawing
        for suffix, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
            data = io.BytesIO()
            figure.savefig(data, format=suffix, dpi=200, metadata=metadata)
            folder.write_bytes(f"figures/{name}.{suffix}", data.getvalue())
