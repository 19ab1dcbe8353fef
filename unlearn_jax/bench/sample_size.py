"""How many models it takes: figure and table of the visible difference by the number of oracles."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unlearn_jax.metrics.catalogue import (
    accuracy,
    average_gap,
    forgetting_quality,
    js_divergence,
    kl_to_oracle,
    klom,
    svc_mia,
    tow,
)
from unlearn_jax.report.drawing import COLOURS, WIDTH, blank

if TYPE_CHECKING:
    import matplotlib.figure

SHOWN = {
    metric.on(split): metric.title(split)
    for metric, split in (
        (accuracy, "forget"),
        (accuracy, "test"),
        (klom, "forget"),
        (forgetting_quality, "forget"),
        (js_divergence, "forget"),
        (kl_to_oracle, "forget"),
        (tow, "all"),
        (average_gap, "all"),
        (svc_mia, "forget"),
    )
}
"""Metric and split -> label; those that are shown where there is room for some only."""


def power_curves(curve: Sequence[Any], original: Mapping[tuple[str, str], float], title: str) -> "matplotlib.figure.Figure":
    """Draws the least difference that is visible against the number of oracles, a panel for each of the main metrics.

    Args:
        curve: of `metrics.power_curve`.
        original: by metric and split, the distance of no unlearning from the null; a dotted line.
        title: what they are about, see `rows.subject`.

    Returns:
        The figure.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator, ScalarFormatter

    figure = blank(WIDTH, 6.5)
    panels = figure.subplots(3, 3, sharex=True)
    for axes, (name, label) in zip(panels.flat, SHOWN.items(), strict=True):
        points = [(each.oracles, each.visible, each.null.high - each.null.low) for each in curve if each[:2] == name]
        oracles, visible, width = zip(*points, strict=True) if points else ((), (), ())
        judged = [(count, value) for count, value in zip(oracles, visible, strict=True) if value is not None]
        axes.plot(oracles, width, "s--", color=COLOURS[1], markersize=3, linewidth=1, label="width of the null's 95% band")
        axes.plot(*zip(*judged, strict=True), "o-", color=COLOURS[0], markersize=4, label="difference seen in 80 of 100 runs")
        if original.get(name):
            axes.axhline(original[name], color="black", linestyle=":", linewidth=1, label="doing nothing")
        axes.set_xscale("log")
        axes.set_yscale("log" if any(value > 0 for value in width) else "linear")
        axes.set_title(label, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(FixedLocator(list(oracles)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        if axes.get_yscale() == "log":
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(color="#EEEEEE", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    panels[2, 1].set_xlabel("oracles (half as many models a method)", fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


def show(curve: Sequence[Any], original: Mapping[tuple[str, str], float]) -> None:
    """Prints the least difference that is visible: a line for each of the main metrics, a column for each number of oracles."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    sizes = list(dict.fromkeys(each.oracles for each in curve))
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), title="Differences seen in 80 of 100 runs, by oracles"
    )
    table.add_column("metric", no_wrap=True)
    for heading in (*map(str, sizes), "doing nothing"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, label in SHOWN.items():
        cells = ["no verdict" if each.visible is None else f"{each.visible:.3g}" for each in curve if each[:2] == name]
        if cells:
            table.add_row(label, *cells, f"{original[name]:.3g}" if name in original else "")
    Console(highlight=False).print(table)
