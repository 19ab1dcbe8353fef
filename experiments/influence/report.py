"""Which points move the boundary: a table, a map, the boundaries with and without some points, and rank agreement."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unlearn_jax.influence import Window
from unlearn_jax.report.drawing import BAND, COLOURS, LINE, WIDTH, blank, open_frame, panels_of
from unlearn_jax.report.explorer import Layer, Measure, explorer
from unlearn_jax.report.planes import MARKERS, circle, draw_boundary, draw_plane, draw_points, plane_height, times_to_be_seen
from unlearn_jax.report.tables import Table, markdown, of_columns, page

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

MEASURES = ("displacement_mean", "displacement_largest", "parameter_change", "margin_change")
TOP = 10  # rows at each end of the table in summary.md
EXACT, REPEATED, ESTIMATED = "exact: trained again without the point", "exact, trained in another way", "estimated from one model"
COLOURED = {  # what the explorer colours by
    "displacement_mean": Measure(
        "mean displacement", EXACT, "How far the boundary moves without the point, on average along it."
    ),
    "displacement_largest": Measure("largest displacement", EXACT, "How far the boundary moves where it moves most."),
    "parameter_change": Measure("change of the parameters", EXACT, "The length of the change of all parameters (L2)."),
    "margin_change": Measure("change of the margins", EXACT, "The mean size of the change of the margins on the grid, in nats."),
    "own_loss_change": Measure("change of its own loss", EXACT, "What the model without the point loses on it, in nats."),
    "reordered": Measure(
        "displacement, sums in another order", REPEATED, "The mean displacement where training rounds otherwise."
    ),
    "other_seed": Measure("displacement, another seed", REPEATED, "The mean displacement from another initialisation."),
    "influence_function": Measure(
        "influence function", ESTIMATED, "The change of the margins on the grid by an influence function (Gauss-Newton), in nats."
    ),
    "grad_dot": Measure(
        "gradient product (grad-dot)", ESTIMATED, "The product of the point's gradient and those of the margins on the grid."
    ),
    "grad_cos": Measure("gradient angle (grad-cos)", ESTIMATED, "The cosine of the angle between these gradients."),
}


class Results(NamedTuple):
    """The exact influence of every point. Displacements are distances in the plane, margins are in nats.

    Attributes:
        title: what the report is about.
        points: their coordinates.
        labels: as trained on.
        clean_labels: without label noise.
        window: left, right, bottom, top of the part of the plane that is studied.
        exact: by measure (columns of influence.csv), what the removal of each point changes.
        reordered: the same, trained with sums in another order.
        other_seed: the same, from another initialisation and with other batches.
        noise: mean displacement of the original's boundary when it is trained with sums in other orders.
        surface: the original's margin of each class on a grid over the window.
    """

    title: str
    points: Float[np.ndarray, "points 2"]
    labels: Int[np.ndarray, " points"]
    clean_labels: Int[np.ndarray, " points"]
    window: tuple[float, float, float, float]
    exact: dict[str, Float[np.ndarray, " points"]]
    reordered: dict[str, Float[np.ndarray, " points"]]
    other_seed: dict[str, Float[np.ndarray, " points"]]
    noise: Float[np.ndarray, " reorderings"]
    surface: Float[np.ndarray, "classes rows columns"]

    def columns(self, name: str) -> list[Float[np.ndarray, " points"]]:
        """One measure of the exact, the reordered and the other seed's leave-one-out."""
        return [self.exact[name], self.reordered[name], self.other_seed[name]]

    @property
    def displacement(self) -> Float[np.ndarray, " points"]:
        """Mean distance between the boundaries with and without each point."""
        return self.exact["displacement_mean"]

    @property
    def order(self) -> Int[np.ndarray, " points"]:
        """Points by falling displacement."""
        return np.argsort(-self.displacement, kind="stable")

    @property
    def above_noise(self) -> Bool[np.ndarray, " points"]:
        """Whether a point displaces the boundary further than any reordering does."""
        return self.displacement > self.noise.max()

    def extremes(self, count: int) -> Int[np.ndarray, " shown"]:
        """The `count` points of most influence, then the `count` of least, without repetition."""
        return self.order[[*range(min(count, len(self.order))), *range(max(len(self.order) - count, count), len(self.order))]]


class Shown(NamedTuple):
    """What the explorer shows beside the results.

    Attributes:
        boundary: the outline of the boundary with all points, see `report.explorer.outline`.
        without: the outline without each point.
        furthest: where the boundary moves most, see `report.explorer.furthest`.
        estimates: by estimator, the mean size of the change of the margins without each point.
    """

    boundary: str
    without: list[str]
    furthest: Float[np.ndarray, "points 4"]
    estimates: dict[str, Float[np.ndarray, " points"]]


class Facts(NamedTuple):
    """The results over all points.

    Attributes:
        seconds: of the leave-one-out, with compilation.
        gflop: work of its matrix products.
        gflops: GF/s while it ran.
        peak: GF/s of a matrix product in NumPy at that time.
        agreement: by measure, rank correlations with intervals between exact, reordered and other seed.
        censored: share of the displacements, over points and places along the boundary, that exceed the window's diagonal and
            are set to it.
    """

    seconds: float
    gflop: float
    gflops: float
    peak: float
    agreement: dict[str, Any]
    censored: float


def table(study: Results) -> Table:
    """The columns and rows of influence.csv, a row for each point in the order of the training set; rank 1 is the largest."""
    rank = np.empty(len(study.order), int)
    rank[study.order] = 1 + np.arange(len(study.order))
    columns = {
        "point": np.arange(len(study.points)),
        "x": study.points[:, 0],
        "y": study.points[:, 1],
        "label": study.labels,
        "clean_label": study.clean_labels,
        **study.exact,
        "above_noise": study.above_noise.astype(int),
        "rank": rank,
    }
    return of_columns(columns)


def speed(facts: Facts) -> str:
    """The speed in one line."""
    return (
        f"exact leave-one-out: {facts.gflop / 1e3:.2f} TFLOP in {facts.seconds:.1f} s; {facts.gflops:.0f} GF/s once compiled, "
        f"{100 * facts.gflops / facts.peak:.0f}% of this machine's peak ({facts.peak:.0f} GF/s, NumPy)"
    )


def summary(study: Results, facts: Facts) -> str:
    """The text of summary.md."""
    columns, rows = table(study)
    names = ("rank", "point", "x", "y", "label", *MEASURES)
    at = [columns.index(name) for name in names]
    ordered = [rows[row] for row in study.order]
    ends = ordered if len(ordered) <= 2 * TOP else [*ordered[:TOP], *ordered[-TOP:]]
    lines = [[f"{row[place]:.4g}" for place in at] for row in ends]
    ranks = [
        [name.replace("_", " "), *(f"{facts.agreement[name].between(0, place):.3f}" for place in (1, 2))] for name in MEASURES
    ]
    count, noise = len(study.order), study.noise
    return page(
        f"# The influence of each point: {study.title}",
        speed(facts),
        f"{int(study.above_noise.sum())} of {count} points displace the boundary further than float noise does: in "
        f"{len(noise)} trainings of the original with sums in another order it moves by {noise.max():.3g} at most "
        f"(median {np.median(noise):.3g}).",
        f"At {facts.censored:.3%} of the places along the boundary, over all points, the boundary without the point is further "
        "away than the window's diagonal; its displacement is set to the diagonal.",
        "Rank correlation over points (95% interval, bootstrap over points) with the leave-one-out that has",
        markdown(("", "sums in another order", "another seed"), ranks),
        "Points of most and of least displacement (distances in the plane, margins in nats)",
        markdown([name.replace("_", " ") for name in names], lines),
    )


def explore(study: Results, window: Window, shown: Shown) -> dict[str, Any]:
    """What the explorer of the page shows, see `report.explorer.explorer`."""
    repeated = {
        name: each["displacement_mean"] for name, each in (("reordered", study.reordered), ("other_seed", study.other_seed))
    }
    known = study.exact | repeated | shown.estimates
    scores = {name: known[name] for name in COLOURED if name in known}
    layer = Layer(shown.boundary, shown.without, shown.furthest, float(study.noise.max()), scores)
    measures = {name: COLOURED[name] for name in scores}
    plane = study.window, window.resolution, study.points, study.labels, study.clean_labels
    return explorer(*plane, measures, {"all": layer}, {})


def map_of_points(study: Results) -> "matplotlib.figure.Figure":
    """Draws every point, coloured by how far the boundary moves without it; circles mark wrong labels."""
    from matplotlib.colors import LogNorm

    left, right, bottom, top = study.window
    figure = blank(WIDTH, 0.7 + (WIDTH - 1.4) * (top - bottom) / (right - left))
    axes = figure.add_subplot()
    draw_boundary(axes, study.window, study.surface, "black", 1.4)
    shown = np.maximum(study.displacement, 1e-12)
    scale = LogNorm(max(np.quantile(shown, 0.02), 1e-9), max(shown.max(), 2e-9))
    order = study.order[::-1]  # the largest on top
    for label in np.unique(study.labels):
        rows = order[study.labels[order] == label]
        dots = axes.scatter(
            study.points[rows, 0],
            study.points[rows, 1],
            c=shown[rows],
            norm=scale,
            cmap="viridis_r",
            marker=MARKERS[label % 8],
            s=26,
            edgecolors="#666666",
            linewidths=0.4,
        )
    wrong = study.labels != study.clean_labels
    axes.scatter(
        study.points[wrong, 0], study.points[wrong, 1], facecolors="none", edgecolors=COLOURS[4], marker="o", s=70, linewidths=1.0
    )
    figure.colorbar(dots, ax=axes, label="mean displacement of the boundary", shrink=0.9)
    inside = f"{int(study.above_noise.sum())} of {len(study.order)} beyond float noise ({study.noise.max():.2g})"
    axes.set_title(f"{study.title}\nhow far the boundary (line) moves without each point; {inside}", fontsize=9)
    draw_plane(axes, study.window)
    return figure


def boundaries(
    study: Results, rows: Int[np.ndarray, " shown"], without: Float[np.ndarray, "shown classes rows columns"]
) -> "matplotlib.figure.Figure":
    """Draws the boundary with all points (black) and without one of them (orange), one panel for each point in `rows`.

    If no boundary moves visibly, the change of the margins is drawn ten (or a hundred, ...) times as large.

    Args:
        study: all points.
        rows: the points shown.
        without: the margins of each class without each of them, on the grid of `study.surface`.
    """
    times = times_to_be_seen(float(study.exact["displacement_largest"][rows].max()), study.window)
    figure, panels = panels_of(len(rows), 2, lambda down, across: 0.5 + down * plane_height(study.window, across))
    rank = {row: place + 1 for place, row in enumerate(study.order.tolist())}
    for axes, row, surface in zip(panels, rows.tolist(), without, strict=True):
        draw_points(axes, study.points, study.labels, 9.0)
        draw_boundary(axes, study.window, study.surface, "black", 1.2)
        draw_boundary(axes, study.window, study.surface + times * (surface - study.surface), COLOURS[4], 1.2)
        circle(axes, study.points[row])
        mean, most = study.displacement[row], study.exact["displacement_largest"][row]
        axes.set_title(f"rank {rank[row]}: mean {mean:.2g}, largest {most:.2g}", fontsize=8)
        draw_plane(axes, study.window)
    change = "" if times == 1 else f", the change of the margins times {times:g}"
    figure.suptitle(
        f"{study.title}\nthe boundary with all points (black), and without the circled one (orange{change})", fontsize=9
    )
    return figure


def agreement(study: Results, facts: Facts) -> "matplotlib.figure.Figure":
    """Draws the displacements by rank, with the float noise, and against those of the other two leave-one-outs."""
    figure = blank(WIDTH, 3.5)
    curve, reordered, seed = figure.subplots(1, 3)
    curve.axhspan(study.noise.min(), study.noise.max(), color=BAND, alpha=0.6, linewidth=0, label="float noise")
    curve.plot(1 + np.arange(len(study.order)), study.displacement[study.order], color=COLOURS[0], label="without a point")
    curve.set_xlabel("rank of the point")
    curve.set_ylabel("mean displacement")
    curve.set_yscale("log")
    curve.legend(frameon=False, fontsize=8)
    ranks = facts.agreement["displacement_mean"]
    for axes, other, place, name in (
        (reordered, study.reordered, 1, "sums in another order"),
        (seed, study.other_seed, 2, "another seed"),
    ):
        axes.plot(study.displacement, other["displacement_mean"], "o", color=COLOURS[0], markersize=2.5, alpha=0.6)
        axes.set_xscale("log")
        axes.set_yscale("log")
        ends = [min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])]
        axes.plot(ends, ends, color=LINE, linewidth=0.8, zorder=0)
        axes.set_xlim(ends)
        axes.set_ylim(ends)
        axes.set_xlabel("mean displacement")
        axes.set_ylabel(f"mean displacement,\n{name}")
        axes.set_title(f"rank correlation {ranks.between(0, place):.3f}", fontsize=8)
    open_frame(curve, reordered, seed)
    figure.suptitle(study.title, fontsize=9)
    return figure
