"""How many models are needed: the visible difference by the number of oracles, as a figure and a table."""

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
"""Metric and split -> label: the metrics that are shown where there is no room for all."""


def power_curves(curve: Sequence[Any], original: Mapping[tuple[str, str], float], title: str) -> "matplotlib.figure.Figure":
    """Draws the smallest visible difference against the number of oracles, with a panel for each of the main metrics.

    Args:
        curve: from `metrics.power_curve`.
        original: by metric and split, the distance of the originals from the null: a dotted line.
        title: see `rows.subject`.

    Returns:
        The figure.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator, ScalarFormatter

    figure = blank(WIDTH, 6.5)
    panels = figure.subplots(3, 3, sharex=True)
    for axes, (name, label) in zip(panels.flat, SHOWN.items(), strict=True):
        points = [(power.oracles, power.visible, power.null.high - power.null.low) for power in curve if power[:2] == name]
        oracles, visible, width = zip(*points, strict=True) if points else ((), (), ())
        known = [(count, value) for count, value in zip(oracles, visible, strict=True) if value is not None]
        axes.plot(oracles, width, "s--", color=COLOURS[1], markersize=3, linewidth=1, label="width of the null's 95% band")
        axes.plot(*zip(*known, strict=True), "o-", color=COLOURS[0], markersize=4, label="difference seen in 80 of 100 runs")
        if original.get(name):
            axes.axhline(original[name], color="black", linestyle=":", linewidth=1, label="no unlearning")
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
    panels[2, 1].set_xlabel("oracles (and half as many models of each method)", fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


def show(curve: Sequence[Any], original: Mapping[tuple[str, str], float]) -> None:
    """Prints the smallest visible difference: a line for each of the main metrics, a column for each number of oracles."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    sizes = list(dict.fromkeys(power.oracles for power in curve))
    title = "Smallest difference from the null seen in 80 of 100 runs, by number of oracles"
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), title=title)
    table.add_column("metric", no_wrap=True)
    for heading in (*map(str, sizes), "no unlearning"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, label in SHOWN.items():
        points = [power.visible for power in curve if power[:2] == name]
        cells = ["no verdict" if visible is None else f"{visible:.3g}" for visible in points]
        if cells:
            table.add_row(label, *cells, f"{original[name]:.3g}" if name in original else "")
    Console(highlight=False).print(table)
