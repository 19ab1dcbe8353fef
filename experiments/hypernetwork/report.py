"""What a hypernetwork learned, and after how many requests it is cheaper than retraining: a figure and some lines."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from unlearn_jax.report.drawing import COLOURS, GRID, WIDTH, blank, open_frame
from unlearn_jax.report.rows import Row

if TYPE_CHECKING:
    import matplotlib.figure

REQUESTS = tuple(10**k for k in range(6))  # numbers of requests in the figure
SMOOTHED = 40  # points of the meta-training curve, each a mean of equally many steps


class Price(NamedTuple):
    """The cost of a method before the first request and for each request, in seconds of one model.

    Attributes:
        method: its name.
        once: seconds before the first request.
        each: seconds for each request.
        break_even: number of requests beyond which it is cheaper than retraining; infinite if never, 0 if always.
    """

    method: str
    once: float
    each: float
    break_even: float

    def per_request(self, requests: int) -> float:
        """Seconds for each of `requests`, with the cost before the first one spread over them."""
        return self.once / requests + self.each


def prices(rows: Sequence[Row], learned: str, once: float) -> list[Price]:
    """The price of every method, retraining first.

    Args:
        rows: of a run; the metrics seconds and rte of the first forget set are used.
        learned: the method that has a cost before the first request.
        once: this cost, in seconds.
    """
    costs: dict[tuple[str, str], float] = {}
    for row in rows:
        if row.metric in ("seconds", "rte") and row.value is not None:
            costs.setdefault((row.method, row.metric), row.value)
    retraining = costs[learned, "seconds"] / costs[learned, "rte"]
    methods = [method for method, metric in costs if metric == "seconds" and method not in ("original", "retrain")]
    made = [Price("retrain", 0.0, retraining, 0.0)]
    for method in methods:
        begin, request = once if method == learned else 0.0, costs[method, "seconds"]
        saved = retraining - request
        made.append(Price(method, begin, request, begin / saved if saved > 0 else math.inf))
    return made


def learning_and_price(
    losses: Float[np.ndarray, " steps"],
    before: Float[np.ndarray, " lessons"],
    after: Float[np.ndarray, " lessons"],
    methods: Sequence[Price],
    title: str,
) -> "matplotlib.figure.Figure":
    """Draws the loss of meta-training, the loss on unseen forget sets, and the price of a request.

    Args:
        losses: before each step, nats.
        before: of each validation lesson, without an update.
        after: with the hypernetwork's update.
        methods: their prices.
        title: what the figure is about, see `rows.subject`.

    Returns:
        The figure.
    """
    figure = blank(WIDTH, 4.2)
    left, right = figure.subplots(1, 2)
    parts = np.array_split(np.arange(len(losses)), min(SMOOTHED, len(losses)))
    left.plot([part.mean() for part in parts], [losses[part].mean() for part in parts], color=COLOURS[0], label="meta-training")
    for values, colour, name in ((before, "#666666", "doing nothing"), (after, COLOURS[4], "hypernetwork")):
        left.axhline(values.mean(), color=colour, linestyle="--", label=f"{name}, {len(values)} unseen forget sets")
        left.axhspan(values.min(), values.max(), color=colour, alpha=0.12, linewidth=0)
    left.set_xlabel("step of meta-training")
    left.set_ylabel("KL from an oracle, nats\n(forget + retained + held-out)")
    left.legend(frameon=False, fontsize=8)
    for number, price in enumerate(methods):
        colour = "black" if price.method == "retrain" else COLOURS[(number - 1) % (len(COLOURS) - 1)]
        seconds = [price.per_request(count) for count in REQUESTS]
        right.plot(REQUESTS, seconds, color=colour, linewidth=2.2 if price.once else 1.2, label=price.method)
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xticks(REQUESTS)
    right.set_xlabel("requests that one meta-training serves")
    right.set_ylabel("seconds a request and model")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.grid(color=GRID, linewidth=0.6)
        open_frame(axes)
    figure.suptitle(f"{title}\nshaded: range over the unseen forget sets", fontsize=9)
    return figure


def show(before: Float[np.ndarray, " lessons"], after: Float[np.ndarray, " lessons"], methods: Sequence[Price]) -> None:
    """Prints what meta-training achieved on unseen forget sets and when it pays."""
    print(
        f"KL from the oracle on {len(before)} unseen forget sets: {before.mean():.3f} (sd {before.std():.3f}) after doing "
        f"nothing, {after.mean():.3f} (sd {after.std():.3f}) after the hypernetwork."
    )
    for price in methods:
        if price.once:
            pays = f"from {math.ceil(price.break_even)} requests on" if price.break_even < math.inf else "never"
            costs = f"{price.once:.1f} s once and {price.each:.2g} s a request"
            print(f"{price.method}: {costs}; cheaper than retraining ({methods[0].each:.2g} s) {pays}.")
