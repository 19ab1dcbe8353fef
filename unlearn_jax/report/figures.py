"""The figures of the main job: forgetting against utility, losses, accuracies."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from unlearn_jax.report.drawing import ACCESS, BAND, ELSE, GRID, LINE, REFERENCE, SPLITS, WIDTH, blank, name_rows
from unlearn_jax.report.rows import REFERENCES, Row
from unlearn_jax.types import Interval

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

NAMED = 20  # methods up to which a scatter plot names all
LOSS_RANGE = (1e-6, 1e2)  # nats
FURTHEST = (-0.75, -0.75), (2.0, 1.5)  # memory left and damage that are still drawn in their place


class Axis(NamedTuple):
    """A metric that an axis shows."""

    name: tuple[str, str]  # metric, split
    label: str


def quality_against_utility(rows: Sequence[Row], quality: Axis, utility: Axis, title: str) -> "matplotlib.figure.Figure":
    """Draws how well each method forgets against its test accuracy, one labelled point per method.

    The x axis is z of the quality, the y axis the utility minus the oracles', in percentage points. A perfect method is at the
    origin, within the shaded bands of the null (95% of what as many retrained models score). Bars are 95% intervals. If a
    method is far from the null, the axis is logarithmic except near the null. Where many methods stand, only the references
    and those on the frontier are named: no other method is nearer to the origin in both.

    Args:
        rows: of one forget set or of the means over several. Methods without finite values of both metrics are listed below.
        quality: the metric of forgetting.
        utility: an accuracy.
        title: see `rows.subject`.

    Returns:
        The figure.
    """
    figure = blank(WIDTH, 6.0)
    axes = figure.add_subplot()
    klom = _by_method(rows, quality.name, in_null_sd=True)
    accuracy = _by_method(rows, utility.name, in_null_sd=False)
    access = {row.method: row.access for row in rows}
    drawn = [method for method in access if method in klom and method in accuracy]
    for points, line, span in ((klom, axes.axvline, axes.axvspan), (accuracy, axes.axhline, axes.axhspan)):
        line(0.0, color=LINE, linewidth=0.8, zorder=1)
        span(*_band(points), color=BAND, alpha=0.45, linewidth=0, zorder=0)
    regimes: dict[str, tuple[str, str]] = {}
    for method in drawn:
        regime = "reference" if method in REFERENCES else access[method]
        marker, colour = regimes[regime] = REFERENCE if regime == "reference" else ACCESS.get(regime, ELSE)
        (x, *x_range), (y, *y_range) = klom[method][:3], accuracy[method][:3]
        axes.plot(x_range, [y, y], color=colour, linewidth=1.0, alpha=0.6, zorder=2)
        axes.plot([x, x], y_range, color=colour, linewidth=1.0, alpha=0.6, zorder=2)
        size = 110 if regime == "reference" else 42
        on_top = 6 if regime == "reference" else 4
        axes.scatter(x, y, s=size, marker=marker, color=colour, edgecolor="white", linewidth=0.6, zorder=on_top)
    _scale(axes, "x", [klom[method][:3] for method in drawn], 4.0)
    _scale(axes, "y", [accuracy[method][:3] for method in drawn], 2.0)
    missing = [method for method in access if method not in drawn]
    note = textwrap.fill(f"not drawn, no finite value: {', '.join(missing)}", 110) if missing else ""
    axes.set_xlabel("\n".join([f"{quality.label}, in null standard deviations (0: as retraining)", *note.splitlines()]))
    axes.set_ylabel(f"{utility.label} minus the oracles' (percentage points)")
    axes.set_title(title, fontsize=10)
    axes.grid(color=GRID, linewidth=0.6, zorder=-1)
    handles: list[Any] = [
        axes.scatter([], [], marker=marker, color=colour, label=name) for name, (marker, colour) in regimes.items()
    ]
    handles.append(axes.fill_between([], [], color=BAND, alpha=0.45, label="95% of the null"))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(len(handles), 5), frameon=False, title="what the method sees"
    )
    _name_points(figure, axes, {method: np.stack([klom[method][:3], accuracy[method][:3]], axis=-1) for method in drawn})
    return figure


def memory_against_damage(
    rows: Sequence[Row], memory: Axis, damage: Axis, margin: float, title: str
) -> "matplotlib.figure.Figure":
    """Draws what each method leaves of the memory against what it changes besides, one labelled point per method.

    Retraining is at (0, 0), doing nothing at (1, 0). Bars are 95% intervals. Methods beyond `FURTHEST` stand at the edge. Where
    many methods stand, only the references and
    those on the frontier are named: no other method has both less memory left and less damage.

    Args:
        rows: of one forget set or of the means over several.
        memory: the metric of the x axis.
        damage: the metric of the y axis.
        margin: within which both sizes are equivalent to retraining: the shaded box.
        title: see `rows.subject`.

    Returns:
        The figure.
    """
    figure = blank(WIDTH, 6.0)
    axes = figure.add_subplot()
    found = {axis.name: _sizes(rows, axis.name) for axis in (memory, damage)}
    access = {row.method: row.access for row in rows}
    drawn = [method for method in access if all(method in points for points in found.values())]
    whole = {method: np.stack([found[axis.name][method] for axis in (memory, damage)], axis=-1) for method in drawn}
    far = [method for method, point in whole.items() if (point[0] < FURTHEST[0]).any() or (point[0] > FURTHEST[1]).any()]
    points = {method: np.clip(point, *FURTHEST) for method, point in whole.items()}
    axes.fill_between([-margin, margin], [-margin] * 2, [margin] * 2, color=BAND, alpha=0.45, linewidth=0, zorder=0)
    axes.axhline(0.0, color=LINE, linewidth=0.8, zorder=1)
    for place in (0.0, 1.0):
        axes.axvline(place, color=LINE, linewidth=0.8, zorder=1)
    regimes: dict[str, tuple[str, str]] = {}
    for method, ((x, y), (left, low), (right, high)) in points.items():
        regime = "reference" if method in REFERENCES else access[method]
        marker, colour = regimes[regime] = REFERENCE if regime == "reference" else ACCESS.get(regime, ELSE)
        axes.plot([left, right], [y, y], color=colour, linewidth=1.0, alpha=0.6, zorder=2)
        axes.plot([x, x], [low, high], color=colour, linewidth=1.0, alpha=0.6, zorder=2)
        size = 110 if regime == "reference" else 42
        axes.scatter(x, y, s=size, marker=marker, color=colour, edgecolor="white", linewidth=0.6, zorder=6 - (size < 50))
    if points:
        ends = np.array([*points.values()])[:, 0]
        low, high = np.minimum(ends.min(axis=0), -margin), np.maximum(ends.max(axis=0), [1.0, 3 * margin])
        room = 0.08 * (high - low)
        axes.set(xlim=(low[0] - room[0], high[0] + room[0]), ylim=(low[1] - room[1], high[1] + room[1]))
    note = textwrap.fill(f"at the edge, though further out: {', '.join(far)}", 110) if far else ""
    axes.set_xlabel("\n".join([f"{memory.label} (0: as retraining, 1: nothing done)", *note.splitlines()]))
    axes.set_ylabel(damage.label)
    axes.set_title(title, fontsize=10)
    axes.grid(color=GRID, linewidth=0.6, zorder=-1)
    handles: list[Any] = [
        axes.scatter([], [], marker=marker, color=colour, label=name) for name, (marker, colour) in regimes.items()
    ]
    handles.append(axes.fill_between([], [], color=BAND, alpha=0.45, label=f"equivalent to retraining (within {margin:g})"))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(len(handles), 5), frameon=False, title="what the method sees"
    )
    _name_points(figure, axes, points)
    return figure


def search(lines: Mapping[str, tuple[Interval, Interval, Interval]], retrain: Interval, title: str) -> "matplotlib.figure.Figure":
    """Draws the distance from retraining that a search found, beside what it is on models and forget sets it did not see.

    Args:
        lines: by method, the distance in the search, held out, and of the authors' values held out.
        retrain: the distance of retraining, held out.
        title: of the figure.
    """
    ordered = sorted(lines.items(), key=lambda item: -item[1][1].value)
    figure = blank(WIDTH, 1.6 + 0.24 * len(ordered))
    axes = figure.add_subplot()
    edge = 2.0  # whatever is further from retraining is drawn here
    for place, (_, (found, held, default)) in enumerate(ordered):
        x = min(held.value, edge)
        axes.plot(
            [np.clip(held.low, 0, edge), np.clip(held.high, 0, edge)],
            [place] * 2,
            color=SPLITS["forget"],
            linewidth=1.4,
            zorder=2,
        )
        axes.scatter(min(default.value, edge), place, marker="x", s=30, color=LINE, zorder=3)
        if math.isfinite(found.value):
            axes.scatter(min(found.value, edge), place, s=34, facecolor="white", edgecolor=SPLITS["forget"], zorder=4)
        axes.scatter(x, place, s=34, color=SPLITS["forget"], zorder=5)
    axes.axvline(1.0, color=LINE, linewidth=0.8, zorder=1)
    axes.axvline(retrain.value, color=LINE, linewidth=0.8, linestyle="--", zorder=1)
    axes.set_yticks(range(len(ordered)), [name for name, _ in ordered], fontsize=8)
    axes.set(xlim=(-0.03, edge + 0.05), ylim=(-0.7, len(ordered) - 0.3))
    axes.set_xlabel(f"distance from retraining (1: doing nothing; dashed: retraining; {edge:g}: or more)")
    axes.set_title(title, fontsize=10)
    axes.grid(color=GRID, linewidth=0.6, axis="x", zorder=-1)
    handles: list[Any] = [
        axes.scatter([], [], s=34, facecolor="white", edgecolor=SPLITS["forget"], label="in the search"),
        axes.scatter([], [], s=34, color=SPLITS["forget"], label="on other models and forget sets (95% interval)"),
        axes.scatter([], [], s=30, marker="x", color=LINE, label="authors' values, there"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _name_points(
    figure: "matplotlib.figure.Figure", axes: "matplotlib.axes.Axes", points: Mapping[str, Float[np.ndarray, "3 2"]]
) -> None:
    """Labels all points, or of more than `NAMED` the references and the frontier, which a line above the figure then says."""
    named = list(points) if len(points) <= NAMED else _frontier(points)
    if len(named) < len(points):
        note = f"named: references, and methods that no other beats in both; all {len(points)} are in the table"
        axes.set_title(f"{axes.get_title()}\n{note}", fontsize=10)
    _label_points(figure, axes, {name: points[name] for name in named})


def _frontier(points: Mapping[str, Float[np.ndarray, "3 2"]]) -> list[str]:
    """The references, and the methods that no other beats in both distances from the origin."""
    sizes = {name: np.abs(point[0]) for name, point in points.items()}
    return [
        name
        for name, own in sizes.items()
        if name in REFERENCES or not any((other < own).all() for rival, other in sizes.items() if rival not in REFERENCES)
    ]


def _sizes(rows: Sequence[Row], name: tuple[str, str]) -> dict[str, Float[np.ndarray, " 3"]]:
    """The value and the ends of its interval, by method; an unknown end is the value itself."""
    found = {}
    for row in rows:
        if (row.metric, row.split) == name and row.value is not None and math.isfinite(row.value):
            ends = [end if end is not None and math.isfinite(end) else row.value for end in (row.value_low, row.value_high)]
            found[row.method] = np.array([row.value, *ends])
    return found


def loss_histograms(
    losses: Mapping[str, Mapping[str, Float[np.ndarray, "_members _examples"]]],
    oracles: Mapping[str, Float[np.ndarray, "_oracles _examples"]],
    title: str,
) -> "matplotlib.figure.Figure":
    """Draws histograms of the loss on forget, retain and test: a row per method, the oracles' as an outline.

    Args:
        losses: by method (drawn in this order) and split, the cross-entropy per member and example, in nats. NaN is left out;
            its share is written beside the histogram.
        oracles: losses of the oracles, by split.
        title: see `rows.subject`.

    Returns:
        The figure.
    """
    edges = np.linspace(math.log10(LOSS_RANGE[0]), math.log10(LOSS_RANGE[1]), 49)
    figure = blank(WIDTH, 1.3 + 0.5 * len(losses))
    baselines = np.arange(len(losses))[::-1]
    for axes, (split, colour) in zip(figure.subplots(1, len(SPLITS), sharey=True), SPLITS.items(), strict=True):
        outline = loss_shares(oracles[split], edges)
        shares = [loss_shares(by_split[split], edges) for by_split in losses.values()]
        top = 1.15 * max(outline.max(), np.median([share.max() for share in shares]))
        for baseline, share, by_split in zip(baselines, shares, losses.values(), strict=True):
            drawn, expected = (baseline + 0.92 * np.minimum(heights / top, 1.0) for heights in (share, outline))
            axes.stairs(drawn, edges, baseline=baseline, fill=True, color=colour, alpha=0.75)
            axes.stairs(expected, edges, baseline=baseline, color="black", linewidth=0.9)
            nan = np.mean(np.isnan(by_split[split]))
            if nan > 0:
                axes.text(edges[0], baseline + 0.9, f"{100 * nan:.0f}% NaN", va="top", fontsize=7)
        axes.set_title(split, fontsize=10)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_xticks(range(-6, 3, 2), [r"$\leq 10^{-6}$", "$10^{-4}$", "$10^{-2}$", "$1$", r"$\geq 100$"], fontsize=8)
        axes.set_ylim(-0.1, len(losses))
        axes.set_yticks(baselines + 0.4, losses, fontsize=9)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.suptitle(
        f"{title}\nheight: share of examples (the highest peaks are cut off); filled: the method; outline: the oracles",
        fontsize=10,
    )
    figure.supxlabel("cross-entropy per example, pooled over members (nats, clipped at both ends)", fontsize=9)
    return figure


def loss_distributions(
    rows: Mapping[str, Mapping[str, Mapping[tuple[str, str], Float[np.ndarray, " _answers"]]]], title: str, lowest: int
) -> "matplotlib.figure.Figure":
    """Draws distributions of losses on forget, retain and test side by side, of originals and (below) of oracles.

    Args:
        rows: two rows of panels each: the losses of all models on all examples, nats, by title of the panel, then by kind of
            model (original, oracle) and split.
        title: of the figure.
        lowest: log10 nats at which the axes begin; two more than a multiple of four, since a tick is at 100 nats.
    """
    across, down, highest = max(map(len, rows.values())), 2 * len(rows), 2
    edges = np.linspace(lowest, highest, 6 * (highest - lowest) + 1)
    names = [f"$10^{{{power}}}$" for power in range(lowest, highest, 4)] + ["$100$"]
    figure = blank(WIDTH, 1.1 + 1.25 * down)
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for row, (name, kind) in zip(panels, [(name, kind) for name in rows for kind in ("original", "oracle")], strict=True):
        for panel in row[len(rows[name]) :]:
            panel.set_axis_off()
        for panel, (panel_title, losses) in zip(row, rows[name].items(), strict=False):
            for height, (split, colour) in enumerate(SPLITS.items()):
                bins = loss_shares(losses[kind, split][None], edges)
                panel.stairs(-height + 0.92 * bins / bins.max(), edges, baseline=-height, fill=True, color=colour, alpha=0.75)
                middle = float(np.median(losses[kind, split]))
                place = math.log10(min(max(middle, 10.0**lowest), 10.0**highest))
                panel.plot([place, place], [-height, -height + 0.92], color="black", linewidth=1.0)
            if kind == "original":
                panel.set_title(panel_title, fontsize=9, pad=3)
            panel.set_xticks(range(lowest, highest + 1, 4), names, fontsize=7)
            panel.set_xticks(range(lowest, highest + 1, 2), minor=True)
            panel.tick_params(axis="x", labelbottom=True)
            panel.set_yticks([-0.0, -1.0, -2.0], SPLITS, fontsize=7, va="bottom")
            panel.tick_params(axis="y", length=0)
            panel.spines[["top", "right", "left"]].set_visible(False)
        row[0].set_ylabel("originals" if kind == "original" else "oracles\n(without F)", fontsize=9)
    panels[0, 0].set_ylim(-2.05, 1.0)
    figure.suptitle(
        f"{title}\ndistributions of the losses on forget, retain and test, with equal heights; line: median", fontsize=9
    )
    figure.supxlabel(
        f"cross-entropy of every model on every example (nats; clipped at $10^{{{lowest}}}$ and 100, as it can be 0)", fontsize=9
    )
    return figure


def accuracy_bars(
    rows: Sequence[Row],
    metric: str,
    accuracies: Mapping[str, Mapping[str, Float[np.ndarray, " _members"]]],
    oracles: Mapping[str, Float[np.ndarray, " _oracles"]],
    title: str,
) -> "matplotlib.figure.Figure":
    """Draws accuracy on forget, retain and test: bars from the oracles' mean to the method's, a point per member.

    A bar starts at the oracles' mean, not at 0, so its length is the gap. The axis may show only a part of the range: bars
    beyond it are cut off, and the mean is written beside each bar.

    Args:
        rows: of one forget set; the null bands of accuracy are taken from them.
        metric: the name of accuracy in the rows.
        accuracies: by method (drawn in this order) and split, the accuracy per member in %; NaN for a member that diverged.
        oracles: accuracies of the oracles, by split.
        title: see `rows.subject`.

    Returns:
        The figure.
    """
    methods = list(accuracies)
    figure = blank(WIDTH, 1.5 + 0.27 * len(methods))
    places = np.arange(len(methods))
    for axes, (split, colour) in zip(figure.subplots(1, len(SPLITS), sharey=True), SPLITS.items(), strict=True):
        members = [np.asarray(accuracies[method][split], float) for method in methods]
        finite = [values[np.isfinite(values)] for values in members]
        means = np.array([values.mean() if values.size else np.nan for values in finite])
        expected = np.asarray(oracles[split], float)
        expected = expected[np.isfinite(expected)]
        oracle = float(expected.mean())
        low, high = _window([*finite, expected])
        band = oracle + _band(_by_method(rows, (metric, split), in_null_sd=False))
        axes.axvspan(*band, color=BAND, alpha=0.6, linewidth=0, zorder=0)
        axes.axvline(oracle, color="black", linewidth=0.9, zorder=3)
        axes.barh(places, np.nan_to_num(means - oracle), left=oracle, height=0.62, color=colour, alpha=0.55, zorder=1)
        for place, values, mean in zip(places, finite, means, strict=True):
            axes.plot(values, place + _jitter(values.size), ".", color=colour, markersize=2.5, zorder=2)
            text = "diverged" if np.isnan(mean) else f"{mean:.1f}" if mean >= low else f"◂ {mean:.1f}"
            axes.text(1.02, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        axes.set_xlim(low, high)
        name_rows(axes, methods)
        axes.set_title(split, fontsize=10)
    figure.suptitle(
        f"{title}\nbars: from the oracles' mean (line; grey: 95% of the null) to the method's; dots: members", fontsize=10
    )
    figure.supxlabel("accuracy (%)", fontsize=9)
    return figure


def _by_method(rows: Iterable[Row], name: tuple[str, str], in_null_sd: bool) -> dict[str, Float[np.ndarray, "5"]]:
    """By method, the value and its interval, and the interval of the null, all minus the mean of the null.

    An end that is missing or not finite is NaN; a method whose value is not finite is left out.
    """
    points: dict[str, np.ndarray] = {}
    for row in rows:
        if (row.metric, row.split) == name and row.null_mean is not None and (row.null_sd or not in_null_sd):
            ends = (row.value, row.value_low, row.value_high, row.null_low, row.null_high)
            unit = row.null_sd if in_null_sd and row.null_sd else 1.0
            known = np.array([math.nan if end is None or not math.isfinite(end) else end for end in ends])
            points[row.method] = (known - row.null_mean) / unit
    return {method: point for method, point in points.items() if np.isfinite(point[0])}


def _band(points: Mapping[str, Float[np.ndarray, "5"]]) -> Float[np.ndarray, "2"]:
    """The low and the high end of the null, the mean over methods (usually all the same); 0, 0 if there is none."""
    bands = [point[3:] for point in points.values() if np.isfinite(point[3:]).all()]
    return np.mean(bands or [np.zeros(2)], axis=0)


def _scale(axes: "matplotlib.axes.Axes", which: str, ends: Sequence[Float[np.ndarray, "3"]], threshold: float) -> None:
    """Makes an axis logarithmic beyond `threshold` if a point is ten times further out, and adds margins."""
    from matplotlib.ticker import SymmetricalLogLocator

    values = np.concatenate([*ends, [-threshold, threshold]])
    low, high = np.nanmin(values), np.nanmax(values)
    if max(-low, high) <= 10 * threshold:
        room = 0.08 * (high - low)
        axes.set(**{f"{which}lim": (low - room, high + room)})
        return
    getattr(axes, f"set_{which}scale")("symlog", linthresh=threshold, linscale=1.0)
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=threshold, subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axes.set(**{f"{which}lim": (1.6 * low, 1.6 * high)})


def _label_points(
    figure: "matplotlib.figure.Figure", axes: "matplotlib.axes.Axes", points: Mapping[str, Float[np.ndarray, "3 2"]]
) -> None:
    """Labels each point where the label covers least; a line connects a distant label to its point.

    Args:
        figure: its layout is computed here; artists that are added afterwards could move the points.
        axes: of the points.
        points: by name, the point and the low and high ends of its intervals, in data coordinates.
    """
    from matplotlib.patheffects import withStroke

    figure.draw_without_rendering()  # computes the layout, on which positions in pixels depend
    area = np.array(axes.get_window_extent().extents)
    taken: list[tuple[float, ...]] = []
    for point in points.values():
        (x, y), (left, bottom), (right, top) = axes.transData.transform(np.where(np.isnan(point), point[0], point))
        taken += [(x - 7, y - 7, x + 7, y + 7), (left, y - 2, right, y + 2), (x - 2, bottom, x + 2, top)]
    for name, ((x, y), *_) in sorted(points.items(), key=lambda item: tuple(item[1][0])):
        label = axes.annotate(
            name,
            (x, y),
            (0, 0),
            textcoords="offset points",
            fontsize=8,
            ha="center",
            va="center",
            zorder=5,
            path_effects=[withStroke(linewidth=2, foreground="white", alpha=0.8)],
            arrowprops={"arrowstyle": "-", "color": "#888888", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4},
        )
        label.set_in_layout(False)
        extent = label.get_window_extent()
        half = np.array([extent.width, extent.height]) / 2
        offset, box, gap = _place(axes.transData.transform((x, y)), half, np.array(taken), area)
        taken.append(tuple(box))
        label.xyann = tuple(offset * 72 / figure.dpi)
        if label.arrow_patch is not None:
            label.arrow_patch.set_visible(gap > 12)


def _place(
    mark: Float[np.ndarray, "2"], half: Float[np.ndarray, "2"], taken: Float[np.ndarray, "taken 4"], area: Float[np.ndarray, "4"]
) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "4"], float]:
    """Chooses the position of a label on rings around its point; all in pixels, boxes as left, bottom, right, top.

    Args:
        mark: the point.
        half: half the label's width and height.
        taken: boxes to avoid.
        area: the box to stay in.

    Returns:
        The offset of the label's centre from the point, its box, and the gap between point and label.
    """
    gaps, angles = (grid.ravel() for grid in np.meshgrid([8, 16, 28, 44, 64, 90, 120, 160], np.arange(24) * (np.pi / 12)))
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    offsets = rays * (half + gaps[:, None])
    boxes = np.concatenate([mark + offsets - half, mark + offsets + half], axis=-1)
    covered = _overlap(boxes, taken).sum(axis=-1)
    outside = 4 * half.prod() - _overlap(boxes, area[None])[:, 0]
    line = mark + np.linspace(0, 1, 15)[None, :, None] * offsets[:, None]  # [places, 15, 2]
    hit = (line[:, :, None] >= taken[:, :2]) & (line[:, :, None] <= taken[:, 2:])  # [places, 15, taken, 2]
    crossed = hit.all(axis=-1).any(axis=1).sum(axis=-1)
    best = np.argmin(covered + 10 * outside + 60 * crossed + gaps)
    return offsets[best], boxes[best], float(gaps[best])


def _overlap(boxes: Float[np.ndarray, "boxes 4"], others: Float[np.ndarray, "others 4"]) -> Float[np.ndarray, "boxes others"]:
    """The overlapping area of each pair of boxes."""
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    high = np.minimum(boxes[:, None, 2:], others[:, 2:])
    return np.clip(high - low, 0, None).prod(axis=-1)


def loss_shares(losses: Float[np.ndarray, "members examples"], edges: Float[np.ndarray, " edges"]) -> Float[np.ndarray, " bins"]:
    """The share of the losses in each bin of log10 loss; losses beyond the ends count in the outermost bins."""
    finite = np.asarray(losses, float)[~np.isnan(losses)]
    counts, _ = np.histogram(np.clip(np.log10(np.maximum(finite, 10.0 ** edges[0])), edges[0], edges[-1]), edges)
    return counts / max(1, finite.size)


def _window(samples: Iterable[Float[np.ndarray, " _members"]]) -> tuple[float, float]:
    """A range of accuracies (%) that includes most methods but no outliers, at least 4 points wide."""
    samples = [sample for sample in samples if sample.size]
    lowest, highest = np.array([sample.min() for sample in samples]), max(sample.max() for sample in samples)
    quarter, middle = np.quantile(lowest, [0.25, 0.5])
    low = lowest[lowest >= quarter - 3 * max(middle - quarter, 1.0)].min()
    room = 0.05 * max(highest - low, 4.0)
    return min(low, highest - 4.0) - room, highest + room


def _jitter(count: int) -> Float[np.ndarray, " count"]:
    """Offsets that spread points over the height of a bar, the same each time."""
    return 0.5 * (np.arange(count) * 0.618034 % 1 - 0.5)
