"""Which cheat fools which metric, which metric detects it, and the cost of fooling one: two figures and two tables."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unlearn_jax.metrics.catalogue import accuracy, average_gap, forgetting_quality, kl_to_oracle, klom, svc_mia
from unlearn_jax.report import Folder
from unlearn_jax.report.drawing import BAND, COLOURS, GRID, WIDTH, blank, in_white, name_cells, open_frame, write_cells
from unlearn_jax.report.rows import Row, short_name, subject
from unlearn_jax.report.tables import markdown, page

if TYPE_CHECKING:
    import matplotlib.figure

HONEST = ("retrain", "retrain_again")
PRICED = (
    *(metric.on("forget") for metric in (klom, forgetting_quality, kl_to_oracle, accuracy, svc_mia)),
    average_gap.on("all"),
)
WRONGNESS = ("untouched", "memory", "memory_nudged", "agreement")
WRONG_HEADINGS = [name.replace("_", ", F ") for name in WRONGNESS]
INSIDE = "#CFE5F3"
STEPS = (5, 10, 20, 50)  # null standard deviations at which the colour of a score outside its band changes
SHADES = ("#FDE6CE", "#FDC38D", "#F79646", "#CC5A0E", "#7F2704")
READING = (
    "z: standard deviations from the null, that is from what retraining scores with as many models; inside: in the null's 95% "
    "band. untouched: share of F answered bit by bit as before; memory: share of the originals' memory "
    "of F that is left (0: as retraining, 1: all of it), on F and on F nudged by a little noise; agreement: share of answers "
    "equal to the retrained models', on the examples of F where that answer is not the label."
)


class Claim(NamedTuple):
    """A cheat, as reported.

    Attributes:
        method: its name, as in the rows.
        targets: the metrics and splits that it is made for.
        needs: what its author needs besides models and training set.
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
    """One score of draws from a few retrained models.

    Attributes:
        retrained: number of retrained models.
        first: index of the first one.
        metric: name of the score.
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
    """The rows of a run, by method and metric."""

    def __init__(self, rows: Iterable[Row]):
        rows = list(rows)
        self.by_method: dict[str, dict[tuple[str, str], Row]] = {}
        for row in rows:
            self.by_method.setdefault(row.method, {})[row.metric, row.split] = row
        self.metrics = list(dict.fromkeys((row.metric, row.split) for row in rows if row.null_mean is not None))

    def z(self, method: str, metric: tuple[str, str]) -> float:
        """A score in null standard deviations; NaN if there is none."""
        row = self.by_method[method].get(metric)
        return math.nan if row is None or row.deviation is None else row.deviation

    def inside(self, method: str, metric: tuple[str, str]) -> bool:
        """Whether a score is within the 95% band of its null."""
        row = self.by_method[method].get(metric)
        if row is None or row.value is None or row.null_low is None or row.null_high is None:
            return False
        return row.null_low <= row.value <= row.null_high or row.deviation == 0

    def wrongness(self, method: str, measure: str) -> float:
        """The value of one of `WRONGNESS`; NaN if there is none."""
        value = self.by_method[method][measure, "forget"].value
        return math.nan if value is None else value

    def worst(self, method: str) -> str:
        """The largest |z| and its metric, as text."""
        sizes = {metric: abs(self.z(method, metric)) for metric in self.metrics if not math.isnan(self.z(method, metric))}
        metric = max(sizes, key=lambda name: sizes[name])
        return f"{sizes[metric]:.1f} {short_name(metric)}"


def heat_map(rows: Sequence[Row], claims: Sequence[Claim], title: str) -> "matplotlib.figure.Figure":
    """Draws z of every cheat by every metric, and beside it how wrong the cheat is.

    Blue cells are inside the metric's null band; others are darker the further they are outside. Frames mark the metrics that a
    cheat is made for, and a dot after its name means that it passes the joint verdict.

    Args:
        rows: of the run.
        claims: the cheats in the order to draw.
        title: what the figure is about, see `rows.subject`.

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
    axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=(len(metrics), max(1.3 * len(WRONGNESS), len(metrics) / 4)))
    shade = np.where(inside, 0, 1 + np.searchsorted(STEPS, np.abs(z)))
    axes.imshow(shade, cmap=ListedColormap([INSIDE, *SHADES]), vmin=-0.5, vmax=len(SHADES) + 0.5, aspect="auto")
    write_cells(axes, np.vectorize(_digits)(z), in_white(shade >= 4), min(5.5, 135 / len(metrics)))
    for y, claim in enumerate(claims):
        for x in (place for place, metric in enumerate(metrics) if metric in claim.targets):
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, linewidth=1.3, edgecolor="black", zorder=3))
    wrong = np.array([_wrongness(scores, claim) for claim in claims])
    write_cells(beside, wrong, in_white(np.zeros(wrong.shape, bool)), 6.0)
    beside.set_xlim(-0.6, len(WRONGNESS) - 0.4)
    names = [f"{claim.method} {'●' if claim.inside else ' '}" for claim in claims]
    name_cells(axes, names, [short_name(metric) for metric in metrics], 7.0)
    name_cells(beside, names, WRONG_HEADINGS, 7.0)
    legend = "z of every cheat; blue: inside the metric's null band; framed: made for it; ●: passes the joint verdict"
    figure.suptitle(f"{title}\n{legend}", fontsize=9)
    return figure


def price(prices: Sequence[Price], band: float, title: str) -> "matplotlib.figure.Figure":
    """Draws |z| of draws from k retrained models against k: a line for each of the main metrics.

    Args:
        prices: a dot for each; lines join the means over groups of models of one k. k = 0 is doing nothing.
        band: 95% quantile of a perfect method's largest |z|.
        title: what the figure is about, see `rows.subject`.

    Returns:
        The figure.
    """
    figure = blank(WIDTH, 4.6)
    axes = figure.add_subplot()
    counts = sorted({draw.retrained for draw in prices})
    lines: dict[str, dict[int, list[float]]] = {}
    for draw in prices:
        if (draw.metric, draw.split) in PRICED and draw.z is not None:
            lines.setdefault(short_name((draw.metric, draw.split)), {}).setdefault(draw.retrained, []).append(abs(draw.z))
    for count, _, largest in sorted({(draw.retrained, draw.first, draw.largest) for draw in prices}):
        lines.setdefault("largest of all", {}).setdefault(count, []).append(largest)
    colours = [*COLOURS[: len(PRICED)], "black"]
    for number, ((name, by_count), colour) in enumerate(zip(lines.items(), colours, strict=False)):
        places = [counts.index(count) for count in by_count]
        width = 2.4 if name == "largest of all" else 1.4
        axes.plot(places, [np.mean(values) for values in by_count.values()], color=colour, linewidth=width, label=name)
        for place, values in zip(places, by_count.values(), strict=True):
            aside = 0.035 * (number - len(lines) / 2)  # offset, so that dots of several lines do not overlap
            axes.plot([place + aside] * len(values), values, "o", color=colour, markersize=3)
    axes.axhspan(0, band, color=BAND, alpha=0.45, linewidth=0, zorder=0, label=f"passes: up to {band:.2f}")
    axes.set_yscale("symlog", linthresh=2.0)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_yticks([0, 1, 2, 5, 10, 20, 50])
    axes.set_ylim(bottom=0)
    axes.set_xlim(-0.3, len(counts) - 0.6)
    axes.set_xticks(range(len(counts)), ["none: doing\nnothing" if count == 0 else str(count) for count in counts])
    axes.set_xlabel("retrained models from which a lookup table for F is drawn")
    axes.set_ylabel("|z|, in null standard deviations")
    axes.set_title(title, fontsize=10)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    open_frame(axes)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def write_summary(folder: Folder, rows: Sequence[Row], claims: Sequence[Claim], band: float) -> None:
    """Writes summary.md: the cheapest cheat for each metric, and the description and scores of each cheat.

    Args:
        folder: the run folder.
        rows: of the run.
        claims: the cheats and the methods in `HONEST`, in order.
        band: 95% quantile of a perfect method's largest |z|.
    """
    scores = _Scores(rows)
    cheats = [claim for claim in claims if claim.method not in HONEST]
    members = max(row.n_members or 0 for row in rows)
    fooled = [_find_cheapest(scores, cheats, metric, members) for metric in scores.metrics]
    fooled_by = ("metric", "cheats inside", "cheapest", "z", "needs", "untouched", "memory, F nudged", "seen by")
    described = ("", "cheat", "what it does", "needs", "inside", "largest z", *WRONG_HEADINGS)
    text = page(
        "# How each metric can be gamed",
        f"{subject(rows)}. Cheapest: inside the band with the fewest retrained models, of several the one that remembers most.",
        markdown(fooled_by, fooled, left=range(len(fooled_by))),
        "# The cheats",
        markdown(described, [_describe(scores, claim) for claim in claims], left=range(len(described))),
        READING,
        f"●: passes the joint verdict, its largest |z| being inside the band of {band:.2f}.",
    )
    folder.write_text("summary.md", text)


def _find_cheapest(scores: _Scores, cheats: Sequence[Claim], metric: tuple[str, str], members: int) -> tuple[str, ...]:
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


def _describe(scores: _Scores, claim: Claim) -> tuple[str, ...]:
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
    """Z as text, with at most three characters after the sign."""
    if math.isnan(z):
        return ""
    return f"{z:+.1f}" if abs(z) < 9.95 else f"{z:+.0f}" if abs(z) < 999.5 else "≫" if z > 0 else "≪"
