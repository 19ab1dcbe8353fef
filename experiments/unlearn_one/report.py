"""Methods compared with the exact answer for every point: a table, the closeness of each method, and the boundaries."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from unlearn_jax.report.drawing import ACCESS, BAND, COLOURS, ELSE, GRID, LINE, REFERENCE, WIDTH, blank, open_frame, panels_of
from unlearn_jax.report.planes import circle, draw_boundary, draw_plane, draw_points, plane_height, times_to_be_seen
from unlearn_jax.report.tables import Table, markdown, page
from unlearn_jax.types import Interval

if TYPE_CHECKING:
    import matplotlib.figure

REORDERED = "exact, other order"  # the exact answers, trained with sums in another order
ENDS = (REORDERED, "retrain", "original")
MEASURES = (
    "boundary_ratio",
    "boundary_alignment",
    "margin_ratio",
    "margin_alignment",
    "parameter_ratio",
    "parameter_alignment",
    "another_alignment",
)
RATIOS = ("boundary_ratio", "margin_ratio", "together")
PANELS = 6  # methods with a panel that shows single points
LINES = 3  # methods whose boundaries are drawn
LINE_WIDTHS = (1.1, 4.4, 3.2, 2.2, 1.3)  # of the original, the exact answer and the methods; thinner lines lie on wider ones
LINE_STYLES: tuple[Literal["solid", "dashed"], ...] = ("solid", "solid", "solid", "solid", "dashed")


class MethodResult(NamedTuple):
    """The result of a method on every point, compared with the exact answers.

    Attributes:
        name: of the method.
        access: the data that it may use; empty if it is no method.
        hyperparameter: the one that was searched; empty if there is none.
        tried: its values.
        scores: for each value, the geometric mean of the boundary ratios of the points of the search.
        seconds: for one point.
        columns: by measure (columns of unlearn_one.csv), a value for each point.
        surfaces: its margins on the grid after forgetting each point shown.
    """

    name: str
    access: str
    hyperparameter: str
    tried: Float[np.ndarray, " trials"]
    scores: Float[np.ndarray, " trials"]
    seconds: float
    columns: dict[str, Float[np.ndarray, " points"]]
    surfaces: Float[np.ndarray, "shown classes rows columns"]

    @property
    def chosen(self) -> str:
        """The chosen hyperparameter, with a star if it is at an end of the values tried."""
        if not self.hyperparameter:
            return "nothing to search"
        best = int(np.argmin(self.scores))
        end = "*" if self.tried[best] in (self.tried.min(), self.tried.max()) else ""
        return f"{self.hyperparameter} {self.tried[best]:.2g}{end}"

    def to_arrays(self) -> dict[str, Any]:
        """The fields as named arrays, for a file."""
        columns = {f"column {key}": values for key, values in self.columns.items()}
        return {**self._asdict(), "columns": list(self.columns), **columns}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "MethodResult":
        """The result that `to_arrays` wrote."""
        columns = {str(key): arrays[f"column {key}"] for key in arrays["columns"]}
        name, access, hyperparameter = (str(arrays[field]) for field in cls._fields[:3])
        seconds = float(arrays["seconds"])
        return cls(name, access, hyperparameter, arrays["tried"], arrays["scores"], seconds, columns, arrays["surfaces"])


class Results(NamedTuple):
    """All methods on all points. Displacements are distances in the plane.

    Attributes:
        title: what the report is about.
        points: their coordinates.
        labels: as trained on.
        clean_labels: without label noise.
        window: left, right, bottom, top of the part of the plane that is studied.
        displacement: how far the boundary moves without each point, on average along it.
        most: the points shown, those of most influence.
        original: the original's margins of each class on the grid.
        exact: the margins of the models trained without each point shown.
        methods: by name, the methods, and the exact answers trained with sums in another order.
        medians: by name, the median over points of each measure, the shares `nearer` and `right_way`, and the boundary ratio of
            all points `together` (their distances added up), with intervals.
    """

    title: str
    points: Float[np.ndarray, "points 2"]
    labels: Int[np.ndarray, " points"]
    clean_labels: Int[np.ndarray, " points"]
    window: tuple[float, float, float, float]
    displacement: Float[np.ndarray, " points"]
    most: Int[np.ndarray, " shown"]
    original: Float[np.ndarray, "classes rows columns"]
    exact: Float[np.ndarray, "shown classes rows columns"]
    methods: dict[str, MethodResult]
    medians: dict[str, dict[str, Interval]]

    @property
    def order(self) -> list[str]:
        """All names, the nearest to the exact answers first."""
        return sorted(self.methods, key=lambda name: self.medians[name]["together"].value)

    @property
    def nearest(self) -> list[str]:
        """The methods, the nearest first, without `ENDS`."""
        return [name for name in self.order if name not in ENDS]


def table(study: Results) -> Table:
    """The columns and rows of unlearn_one.csv, a row for each method and point."""
    about = {
        "point": np.arange(len(study.points)),
        "x": study.points[:, 0],
        "y": study.points[:, 1],
        "label": study.labels,
        "clean_label": study.clean_labels,
        "exact_displacement": study.displacement,
    }
    names = ["displacement", *MEASURES]
    rows = []
    for name in study.order:
        method = study.methods[name]
        columns = [*about.values(), *(method.columns.get(measure, np.full(len(study.points), None)) for measure in names)]
        rows += [[name, method.access, *line] for line in zip(*(column.tolist() for column in columns), strict=True)]
    return Table(["method", "access", *about, *names], rows)


def search_table(study: Results) -> Table:
    """The columns and rows of search.csv, a row for each method and value tried."""
    rows = [
        [method.name, method.hyperparameter, float(value), float(score)]
        for method in study.methods.values()
        for value, score in zip(method.tried, method.scores, strict=True)
    ]
    return Table(["method", "hyperparameter", "value", "boundary_ratio"], rows)


def summary(study: Results) -> str:
    """The text of summary.md."""
    headings = [
        "",
        "access",
        "set to",
        "all points together",
        "boundary ratio",
        "nearer than doing nothing",
        "boundary alignment",
        "the right way",
    ]
    headings += ["alignment, another point", "margin ratio", "margin alignment", "parameter alignment"]
    last = ("another_alignment", "margin_ratio", "margin_alignment", "parameter_alignment")
    lines = []
    for name in study.order:
        method, medians = study.methods[name], study.medians[name]
        numbers = [
            *(_interval(medians, measure) for measure in ("together", "boundary_ratio")),
            f"{medians['nearer'].value:.0%}",
            _interval(medians, "boundary_alignment"),
        ]
        numbers += [f"{medians['right_way'].value:.0%}", *(_interval(medians, measure) for measure in last)]
        lines.append([name, method.access, method.chosen, *numbers])
    quantiles = ", ".join(f"{value:.2g}" for value in np.quantile(study.displacement, (0, 0.5, 1)))
    return page(
        f"# Forgetting one point: {study.title}",
        f"Medians over {len(study.points)} points (95% interval, bootstrap over points). Ratio: the distance to the model "
        "without the point, relative to the original's (0: exact, 1: as far as doing nothing); *together*: the ratio of the sums "
        "of all distances. Alignment: the cosine of the change with the exact one (1: the right way, 0: no relation). *nearer*, "
        "*the right way*: shares of the points. *Another point*: the same change beside the exact answer to another point, drawn "
        "at random.",
        f"Without a point the boundary moves by {quantiles} (least, median, most). A star: the chosen value is at an end of "
        "the values tried.",
        markdown(headings, lines),
    )


def standing(study: Results) -> "matplotlib.figure.Figure":
    """Draws each method's ratio of all points together, median ratio and median alignment, with intervals, by access."""
    from matplotlib.lines import Line2D

    names = study.order[::-1]
    figure = blank(WIDTH, 1.6 + 0.21 * len(names))
    ratio, alignment = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(names))
    methods = [study.medians[name][column] for name in names if name != REORDERED for column in RATIOS]
    least = 0.8 * min(low for _, low, _ in methods if low > 0)  # left end of the panel; float noise lies far below all methods
    for axes, measure in ((ratio, "ratio"), (alignment, "alignment")):
        for place, name in zip(places, names, strict=True):
            marker, colour = REFERENCE if name in ENDS else ACCESS.get(study.methods[name].access, ELSE)
            shown = [(f"boundary_{measure}", 0.2, colour), (f"margin_{measure}", -0.2, "white")]
            for column, shift, face in [*shown, *([("together", 0.0, BAND)] if measure == "ratio" else [])]:
                value, low, high = study.medians[name][column]
                if measure == "ratio" and value < least:
                    axes.plot(least, place + shift, "<", color=colour, markerfacecolor=face, markersize=5, clip_on=False)
                    continue
                axes.plot([low, high], [place + shift] * 2, "-", color=colour, linewidth=1.0)
                axes.plot(value, place + shift, marker, color=colour, markerfacecolor=face, markersize=5)
        axes.set_yticks(places, names, fontsize=7)
        axes.set_ylim(-0.8, len(names) - 0.2)
        axes.grid(axis="y", color=GRID, linewidth=0.6)
        axes.axvline(1.0 if measure == "ratio" else 0.0, color=LINE, linewidth=0.8, linestyle="--", zorder=0)
        axes.tick_params(axis="x", labelsize=8)
        open_frame(axes)
    ratio.set_xscale("log")
    ratio.set_xlim(left=least)
    ratio.set_xlabel("distance to the exact answer, relative to\ndoing nothing (dashed); arrows: further to the left")
    alignment.set_xlabel("cosine of the change with the exact one\n(dashed: no relation)")
    alignment.set_xlim(-1.05, 1.05)
    used = dict.fromkeys(study.methods[name].access for name in names if name not in ENDS)
    looks = {"exact, retrained, or nothing done": REFERENCE, **{access: ACCESS.get(access, ELSE) for access in used}}
    handles = [Line2D([], [], marker=look[0], color=look[1], linestyle="none", label=name) for name, look in looks.items()]
    handles += [
        Line2D([], [], marker="o", color="#444444", markerfacecolor=face, linestyle="none", label=label)
        for label, face in (("boundary", "#444444"), ("of all points together", BAND), ("margins on a grid", "white"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(f"{study.title}\neach point forgotten alone: medians over the points, 95% intervals", fontsize=9)
    return figure


def by_influence(study: Results) -> "matplotlib.figure.Figure":
    """Draws, for the nearest methods, the ratio of every point against how far the boundary moves without it."""
    names = study.nearest[:PANELS]
    figure, panels = panels_of(len(names), 3, lambda down, across: 0.9 + 2.3 * down)
    wrong = study.labels != study.clean_labels
    for axes, name in zip(panels, names, strict=True):
        values = study.methods[name].columns["boundary_ratio"]
        for chosen, colour, label in ((~wrong, COLOURS[0], "label right"), (wrong, COLOURS[4], "label wrong")):
            axes.plot(study.displacement[chosen], values[chosen], "o", color=colour, markersize=3, alpha=0.7, label=label)
        axes.axhline(1.0, color=LINE, linewidth=0.8, linestyle="--", zorder=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(f"{name} ({study.methods[name].access})", fontsize=8)
        open_frame(axes)
    figure.supxlabel("how far the boundary moves without the point", fontsize=9)
    figure.supylabel("distance to the exact answer / original's", fontsize=9)
    panels[0].legend(frameon=False, fontsize=7)
    figure.suptitle(f"{study.title}\nthe nearest methods, point by point; dashed: doing nothing", fontsize=9)
    return figure


def boundaries(study: Results) -> "matplotlib.figure.Figure":
    """Draws the boundary with all points, exactly without each of the most influential points, and of the nearest methods."""
    from matplotlib.lines import Line2D

    names = study.nearest[:LINES]
    times = times_to_be_seen(float(study.displacement[study.most].max()), study.window)
    figure, panels = panels_of(len(study.most), 2, lambda down, across: 0.9 + down * plane_height(study.window, across))
    looks = {
        "all points": "black",
        "exactly without": COLOURS[4],
        **dict(zip(names, (COLOURS[0], COLOURS[1], COLOURS[7]), strict=False)),
    }
    for axes, place, point in zip(panels, range(len(study.most)), study.most.tolist(), strict=True):
        draw_points(axes, study.points, study.labels, 10.0)
        surfaces = [study.original, study.exact[place], *(study.methods[name].surfaces[place] for name in names)]
        for surface, colour, width, style in zip(surfaces, looks.values(), LINE_WIDTHS, LINE_STYLES, strict=False):
            draw_boundary(axes, study.window, study.original + times * (surface - study.original), colour, width, style)
        circle(axes, study.points[point])
        axes.set_title(f"without the circled point: {study.displacement[point]:.2g} on average", fontsize=8)
        draw_plane(axes, study.window)
    handles = [
        Line2D([], [], color=colour, linewidth=width, linestyle=style, label=name)
        for (name, colour), width, style in zip(looks.items(), LINE_WIDTHS, LINE_STYLES, strict=False)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
    larger = "" if times == 1 else f"; every change of the margins drawn {times:g} times as large"
    figure.suptitle(f"{study.title}\nthe points of most influence, forgotten{larger}", fontsize=9)
    return figure


def _interval(intervals: Mapping[str, Interval], measure: str) -> str:
    return f"{intervals[measure]:.2f}" if measure in intervals else ""
