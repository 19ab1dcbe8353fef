"""Which cheat fools which metric, which metric sees it, and what it costs to fool one: two figures and two tables."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unlearn_jax.metrics.catalogue import accuracy, average_gap, forgetting_quality, kl_to_oracle, klom, svc_mia
from unlearn_jax.report import Folder
from unlearn_jax.report.drawing import BAND, COLOURS, GRID, WIDTH, blank, name_cells, open_frame, write_cells
from unlearn_jax.report.rows import Row, short_name, subject
from unlearn_jax.report.tables import markdown, page

if TYPE_CHECKING:
    import matplotlib.figure

HONEST = ("retrain", "retrain_again")
PRICED = (
    *(each.on("forget") for each in (klom, forgetting_quality, kl_to_oracle, accuracy, svc_mia)),
    average_gap.on("all"),
)
WRONGNESS = ("untouched", "memory", "memory_nudged", "agreement")
WRONG_HEADINGS = [name.replace("_", ", F ") for name in WRONGNESS]
INSIDE = "#CFE5F3"
STEPS = (5, 10, 20, 50)  # null standard deviations at which the colour of a score outside its band changes
SHADES = ("#FDE6CE", "#FDC38D", "#F79646", "#CC5A0E", "#7F2704")
READING = (
    "z: standard deviations from the null, that is from what retraining scores with as many models; inside: in the null's 95% "
    "band. untouched: share of F answered bit by bit as before; memory: how much of what the original models remember of F "
    "is left (0: as retraining, 1: all of it), asked about F and about F nudged by a little noise; agreement: share of the "
    "retrained models' answers on the examples of F that they answer otherwise than labelled."
)


class Claim(NamedTuple):
    """A cheat as it is reported.

    Attributes:
        method: its name, as in the rows.
        targets: the metrics and splits that it is made for.
        needs: what its author must have besides models and training set.
        retrained: how many models its author must retrain; None: one for each member.
        summary: one line.
        inside: whether it passes the joint verdict; None with too few models for one.
    """

    method: str
    targets: tuple[tuple[str, str], ...]
    needs: str
    retrained: int | None
    summary: str
    inside: bool | None = None


class Price(NamedTuple):
    """One score of draws around a few retrained models.

    Attributes:
        retrained: how many.
        first: number of the first one.
        metric: which score.
        split: of the metric.
        value: the score.
        z: in null standard deviations; None where the null has no spread.
        largest: the largest |z| of all metrics.
    """

    retrained: int
    first: int
    metric: str
    split: str
    value: float
    z: float | None
    largest: float


class _Scores:
    """The rows of a run by method and metric."""

    def __init__(self, rows: Iterable[Row]):
        rows = list(rows)
        self.by_method: dict[str, dict[tuple[str, str], Row]] = {}
        for row in rows:
            self.by_method.setdefault(row.method, {})[row.metric, row.split] = row
        self.metrics = list(dict.fromkeys((row.metric, row.split) for row in rows if row.null_mean is not None))

    def z(self, method: str, metric: tuple[str, str]) -> float:
        """In null standard deviations; NaN where there is no score."""
        row = self.by_method[method].get(metric)
        return math.nan if row is None or row.deviation is None else row.deviation

    def inside(self, method: str, metric: tuple[str, str]) -> bool:
        """Whether a score is within the 95% band of its null."""
        row = self.by_method[method].get(metric)
        if row is None or row.value is None or row.null_low is None or row.null_high is None:
            return False
        return row.null_low <= row.value <= row.null_high or row.deviation == 0

    def wrongness(self, method: str, measure: str) -> float:
        """One of `WRONGNESS`."""
        value = self.by_method[method][measure, "forget"].value
        return math.nan if value is None else value

    def worst(self, method: str) -> str:
        """The largest |z|, and of which metric."""
        sizes = {metric: abs(self.z(method, metric)) for metric in self.metrics if not math.isnan(self.z(method, metric))}
        metric = max(sizes, key=lambda each: sizes[each])
        return f"{sizes[metric]:.1f} {short_name(metric)}"


def heat_map(rows: Sequence[Row], claims: Sequence[Claim], title: str) -> "matplotlib.figure.Figure":
    """Draws z of every cheat by every metric, and beside it how wrong the cheat is.

    Blue cells are inside the metric's null band; the others are darker the further away. A frame is around the metrics that a
    cheat is made for, and a dot behind its name says that it passes the joint verdict.

    Args:
        rows: of the run.
        claims: the cheats in the order to draw.
        title: what the rows are about, see `rows.subject`.

    Returns:
        The figure.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Rectangle

    scores = _Scores(rows)
    metrics = scores.metrics
    z = np.array([[scores.z(claim.method, metric) for metric in metrics] for claim in claims])
    inside = np.array([[scores.inside(claim.method, metric) for metric in metrics] for claim in claims])
    figure = blank(WIDTH, 1.9 + 0.2 * len(claims))
    axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=(len(metrics), 1.3 * len(WRONGNESS)))
    shade = np.where(inside, 0, 1 + np.searchsorted(STEPS, np.abs(z)))
    axes.imshow(shade, cmap=ListedColormap([INSIDE, *SHADES]), vmin=-0.5, vmax=len(SHADES) + 0.5, aspect="auto")
    write_cells(axes, np.vectorize(_digits)(z), shade >= 4, min(5.5, 135 / len(metrics)))
    for y, claim in enumerate(claims):
        for x in (place for place, metric in enumerate(metrics) if metric in claim.targets):
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, linewidth=1.3, edgecolor="black", zorder=3))
    wrong = np.array([_wrongness(scores, claim) for claim in claims])
    write_cells(beside, wrong, np.zeros(wrong.shape, bool), 6.0)
    beside.set_xlim(-0.6, len(WRONGNESS) - 0.4)
    names = [f"{claim.method} {'●' if claim.inside else ' '}" for claim in claims]
    name_cells(axes, names, [short_name(metric) for metric in metrics], 7.0)
    name_cells(beside, names, WRONG_HEADINGS, 7.0)
    legend = "z of every cheat; blue: inside the metric's null band; framed: made for it; ●: passes the joint verdict"
    figure.suptitle(f"{title}\n{legend}", fontsize=9)
    return figure


def price(prices: Sequence[Price], band: float, title: str) -> "matplotlib.figure.Figure":
    """Draws how far from retraining draws around k retrained models are, against k: a line for each of the main metrics.

    Args:
        prices: with other models for the same k, a dot for each; the lines join their means. k = 0 is doing nothing.
        band: how large the largest |z| may be in a method that is perfect.
        title: their subject, see `rows.subject`.

    Returns:
        The figure.
    """
    figure = blank(WIDTH, 4.6)
    axes = figure.add_subplot()
    counts = sorted({each.retrained for each in prices})
    lines: dict[str, dict[int, list[float]]] = {}
    for each in prices:
        if (each.metric, each.split) in PRICED and each.z is not None:
            lines.setdefault(short_name((each.metric, each.split)), {}).setdefault(each.retrained, []).append(abs(each.z))
    for count, _, largest in sorted({(each.retrained, each.first, each.largest) for each in prices}):
        lines.setdefault("largest of all", {}).setdefault(count, []).append(largest)
    colours = [*COLOURS[: len(PRICED)], "black"]
    for number, ((name, by_count), colour) in enumerate(zip(lines.items(), colours, strict=False)):
        places = [counts.index(count) for count in by_count]
        width = 2.4 if name == "largest of all" else 1.4
        axes.plot(places, [np.mean(values) for values in by_count.values()], color=colour, linewidth=width, label=name)
        for place, values in zip(places, by_count.values(), strict=True):
            aside = 0.035 * (number - len(lines) / 2)  # dots of several lines at one place
            axes.plot([place + aside] * len(values), values, "o", color=colour, markersize=3)
    axes.axhspan(0, band, color=BAND, alpha=0.45, linewidth=0, zorder=0, label=f"passes: up to {band:.2f}")
    axes.set_yscale("symlog", linthresh=2.0)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_yticks([0, 1, 2, 5, 10, 20, 50])
    axes.set_ylim(bottom=0)
    axes.set_xlim(-0.3, len(counts) - 0.6)
    axes.set_xticks(range(len(counts)), ["none: doing\nnothing" if count == 0 else str(count) for count in counts])
    axes.set_xlabel("retrained models that a lookup table for F is drawn from")
    axes.set_ylabel("|z|, in null standard deviations")
    axes.set_title(title, fontsize=10)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    open_frame(axes)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def write_summary(folder: Folder, rows: Sequence[Row], claims: Sequence[Claim], band: float) -> None:
    """Writes summary.md: what fools each metric at the least price, and what each cheat is, scores and gives away.

    Args:
        folder: the run folder.
        rows: of the run.
        claims: the cheats, in order; those named in `HONEST` are none.
        band: how large the largest |z| may be in a method that is perfect.
    """
    scores = _Scores(rows)
    cheats = [claim for claim in claims if claim.method not in HONEST]
    members = max(row.n_members or 0 for row in rows)
    fooled = [_cheapest(scores, cheats, metric, members) for metric in scores.metrics]
    fooled_by = ("metric", "cheats inside", "cheapest", "z", "needs", "untouched", "memory, F nudged", "seen by")
    described = ("", "cheat", "what it does", "needs", "inside", "largest z", *WRONG_HEADINGS)
    text = page(
        "# What each metric can be made to say",
        f"{subject(rows)}. Cheapest: inside the band with the fewest retrained models; of several the one that remembers most.",
        markdown(fooled_by, fooled, left=range(len(fooled_by))),
        "# The cheats",
        markdown(described, [_described(scores, claim) for claim in claims], left=range(len(described))),
        READING,
        f"●: passes the joint verdict, its largest |z| being inside the band of {band:.2f}.",
    )
    folder.write_text("summary.md", text)


def _cheapest(scores: _Scores, cheats: Sequence[Claim], metric: tuple[str, str], members: int) -> tuple[str, ...]:
    fooling = [claim for claim in cheats if scores.inside(claim.method, metric)]
    if not fooling:
        return short_name(metric), "0", "none", "", "", "", "", ""

    def price(claim: Claim) -> tuple[int, float]:
        retrained = members if claim.retrained is None else claim.retrained
        return retrained, -scores.wrongness(claim.method, "memory_nudged")

    best = min(fooling, key=price)
    wrong = [f"{scores.wrongness(best.method, measure):.2f}" for measure in ("untouched", "memory_nudged")]
    z = f"{scores.z(best.method, metric):+.1f}"
    return short_name(metric), str(len(fooling)), best.method, z, best.needs, *wrong, scores.worst(best.method)


def _described(scores: _Scores, claim: Claim) -> tuple[str, ...]:
    inside = sum(scores.inside(claim.method, metric) for metric in scores.metrics)
    return (
        "●" * bool(claim.inside),
        claim.method,
        claim.summary,
        claim.needs,
        f"{inside} of {len(scores.metrics)}",
        scores.worst(claim.method),
        *_wrongness(scores, claim),
    )


def _wrongness(scores: _Scores, claim: Claim) -> list[str]:
    values = [scores.wrongness(claim.method, measure) for measure in WRONGNESS]
    return ["" if math.isnan(value) else f"{value:.2f}" for value in values]


def _digits(z: float) -> str:
    """At most three characters behind the sign."""
    if math.isnan(z):
        return ""
    return f"{z:+.1f}" if abs(z) < 9.95 else f"{z:+.0f}" if abs(z) < 999.5 else "≫" if z > 0 else "≪"
