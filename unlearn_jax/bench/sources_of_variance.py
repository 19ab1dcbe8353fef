"""The components of the variance of a method's results, as a figure."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from unlearn_jax.metrics.catalogue import accuracy, kl_to_oracle
from unlearn_jax.report.drawing import COLOURS, WIDTH, blank, name_rows

if TYPE_CHECKING:
    import matplotlib.figure

PARTS = {
    "original": "original model",
    "forget_set": "forget set",
    "interaction": "original x forget set",
    "seed": "unlearning seed",
}
SHOWN = ((accuracy, "forget"), (accuracy, "test"), (kl_to_oracle, "forget"))
PANELS = {metric.on(split): metric.title(split) for metric, split in SHOWN}


def variance_bars(components: Mapping[str, Mapping[tuple[str, str], Any]], title: str) -> "matplotlib.figure.Figure":
    """Draws the variance components of each method as stacked shares of their sum, and the total standard deviation beside them.

    Args:
        components: by method, and by metric and split, see `metrics.statistics.Components`.
        title: see `rows.subject`.

    Returns:
        The figure.
    """
    methods = list(components)
    figure = blank(WIDTH, 1.6 + 0.27 * len(methods))
    places = np.arange(len(methods))
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for axes, (name, label) in zip(panels, PANELS.items(), strict=True):
        parts = np.array([[getattr(components[method][name], part) for part in PARTS] for method in methods])
        known = np.nan_to_num(parts)
        total = known.sum(axis=1)
        shares = np.divide(known, total[:, None], out=np.zeros_like(known), where=total[:, None] > 0)
        left = np.zeros(len(methods))
        for part, share, colour in zip(PARTS.values(), shares.T, COLOURS, strict=False):
            axes.barh(places, share, left=left, height=0.66, color=colour, label=part)
            left += share
        for place, variance in zip(places, total, strict=True):
            axes.text(1.02, place, f"{np.sqrt(variance):.2g}", va="center", fontsize=8)
        axes.set_xlim(0, 1)
        name_rows(axes, methods)
        axes.set_title(label, fontsize=9)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(PARTS), frameon=False)
    panels[1].set_xlabel("share of the variance between members (at the right: a member's standard deviation)", fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure
