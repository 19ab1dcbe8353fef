"""A toy compared with the images that it was fitted to: a table, the planes, the distributions, and the search."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from unlearn_jax.report.drawing import BAND, COLOURS, WIDTH, blank, open_frame
from unlearn_jax.report.tables import Table, markdown, page

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

PALETTE = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB", "#000000", "#EE7733", "#774411")
LOOKS = {"images": (COLOURS[0], "images"), "fitted": (COLOURS[4], "fitted toy"), "start": (BAND, "toy before the fit")}
SHARES = ("test_error", "gap")
DISTRIBUTIONS = {
    "memorisation": "memorisation",
    "margins": "margin on the test set, nats",
    "purity": "neighbours of the same label",
}

LEVELS: list[tuple[str, str, float | None]] = [
    ("test error", "test_error", None),
    ("train-test gap", "gap", None),
    ("memorisation, mean", "memorisation", None),
    *((f"memorisation, {percent:g}%", "memorisation", percent) for percent in (50.0, 75.0, 90.0)),
    *((f"margin, {percent:g}%", "margins", percent) for percent in (10.0, 50.0, 90.0)),
    ("purity, mean", "purity", None),
    *((f"purity, {percent:g}%", "purity", percent) for percent in (10.0, 25.0)),
]


class Results(NamedTuple):
    """The characteristics of images and toys, by the same networks.

    Attributes:
        title: what the report is about.
        names: of the classes.
        measured: `metrics.Characteristics` of images, start (the toy before the fit) and fitted, one for each draw.
        toys: by name, points, labels as trained on, and clean labels of one draw.
        parameters: of the mixture, before and after the fit.
        space: least and largest value of each parameter, and "log" or "linear".
        places: the mixtures tried, in the unit cube of the space.
        losses: their mean mismatches, in tolerances.
        elite: how many of the best mixtures the next round is drawn around.
        tolerance: one unit of mismatch.
        mismatches: by name, of every draw with every draw of the images; for images, of their draws with each other.
    """

    title: str
    names: tuple[str, ...]
    measured: dict[str, list[Any]]
    toys: dict[str, tuple[Float[np.ndarray, "points 2"], Int[np.ndarray, " points"], Int[np.ndarray, " points"]]]
    parameters: dict[str, tuple[float, float]]
    space: dict[str, tuple[float, float, str]]
    places: Float[np.ndarray, "rounds candidates parameters"]
    losses: Float[np.ndarray, "rounds candidates"]
    elite: int
    tolerance: dict[str, float]
    mismatches: dict[str, list[dict[str, float]]]

    def mismatch(self, name: str, characteristic: str) -> tuple[float, float]:
        """Mean and standard deviation over the pairs of draws."""
        values = [by_characteristic[characteristic] for by_characteristic in self.mismatches[name]]
        return float(np.mean(values)), float(np.std(values))

    def total(self, name: str) -> float:
        """The mean mismatch over characteristics and draws, in tolerances."""
        return float(np.mean([self.mismatch(name, key)[0] / unit for key, unit in self.tolerance.items()]))


def levels(study: Results) -> dict[str, dict[str, tuple[float, float]]]:
    """Level -> problem (images, start, fitted) -> its mean and standard deviation over draws."""
    statistics = {}
    for name, attribute, percent in LEVELS:
        draws = {
            problem: [_level(getattr(draw, attribute), percent) for draw in all_] for problem, all_ in study.measured.items()
        }
        statistics[name] = {problem: (float(np.mean(values)), float(np.std(values, ddof=1))) for problem, values in draws.items()}
    return statistics


def table(study: Results) -> Table:
    """The columns and rows of characteristics.csv: levels, then mismatches with the images."""
    columns = ["characteristic", "kind", *(f"{name}{part}" for name in LOOKS for part in ("", "_sd"))]
    rows: list[list[Any]] = [
        [name, "level", *(value for problem in LOOKS for value in by_problem[problem])]
        for name, by_problem in levels(study).items()
    ]
    rows += [
        [name, "mismatch", *(value for problem in LOOKS for value in study.mismatch(problem, name))] for name in study.tolerance
    ]
    return Table(columns, rows)


def trials(study: Results) -> Table:
    """The columns and rows of trials.csv: the mixtures tried, in the parameters' units."""
    columns = ["round", "mismatch", *study.space]
    rows = [
        [number + 1, float(loss), *(_value(share, *way) for share, way in zip(place, study.space.values(), strict=True))]
        for number, (places, losses) in enumerate(zip(study.places, study.losses, strict=True))
        for place, loss in zip(places, losses, strict=True)
    ]
    return Table(columns, rows)


def headline(study: Results) -> str:
    """The result in one line."""
    return (
        f"mean mismatch in tolerances: {study.total('start'):.2f} before the fit, {study.total('fitted'):.2f} after it; "
        f"images with each other {study.total('images'):.2f}"
    )


def summary(study: Results) -> str:
    """The text of summary.md."""
    ends = [f"{name} = {after:.3g} (before {before:.3g})" for name, (before, after) in study.parameters.items()]
    level_rows = [
        [name, *(f"{mean:.3f} ± {sd:.3f}" for mean, sd in (by_problem[problem] for problem in LOOKS))]
        for name, by_problem in levels(study).items()
    ]
    mismatch_rows = [
        [
            name.replace("_", " "),
            f"{unit:g}",
            *(f"{study.mismatch(problem, name)[0]:.3f}" for problem in ("images", "fitted", "start")),
        ]
        for name, unit in study.tolerance.items()
    ]
    draws = len(study.measured["images"])
    return page(
        f"# A toy fitted to {study.title}",
        f"{study.losses.size} mixtures tried in {len(study.losses)} rounds; {headline(study)}.",
        "The mixture: " + ", ".join(ends) + ".",
        f"Mean ± standard deviation over {draws} draws (new examples, sub-populations and models; unseen by the search)",
        markdown(("", *(name for _, name in LOOKS.values())), level_rows),
        "Mismatch with the images, mean over pairs of draws (distributions: mean difference of quantiles; confusion: variation)",
        markdown(("", "tolerance", "images with each other", *(name for _, name in list(LOOKS.values())[1:])), mismatch_rows),
    )


def planes(study: Results) -> "matplotlib.figure.Figure":
    """Draws the toy before and after the fit; crosses have a wrong label, in the colour of that label."""
    figure = blank(WIDTH, 5.2)
    for axes, name in zip(figure.subplots(1, 2), ("start", "fitted"), strict=True):
        points, labels, clean = study.toys[name]
        for label, called in enumerate(study.names):
            right, wrong = (labels == label) & (clean == label), (labels == label) & (clean != label)
            colour = PALETTE[label % len(PALETTE)]
            axes.plot(*points[right].T, "o", color=colour, markersize=2, alpha=0.6, linewidth=0, label=called)
            axes.plot(*points[wrong].T, "x", color=colour, markersize=4)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_title(f"{LOOKS[name][1]}: mean mismatch {study.total(name):.2f} tolerances", fontsize=9)
        axes.tick_params(labelsize=7)
    handles, called = axes.get_legend_handles_labels()
    figure.legend(handles, called, loc="outside lower center", ncols=5, frameon=False, fontsize=8, markerscale=3)
    figure.suptitle(f"fitted to {study.title}", fontsize=9)
    return figure


def characteristics(study: Results) -> "matplotlib.figure.Figure":
    """Draws the characteristics of images and toys: two shares, three distributions, and the confusion of classes."""
    figure = blank(WIDTH, 6.2)
    panels = figure.subplots(2, 3).ravel()
    bars, curves, maps = panels[0], panels[1:4], panels[4:]
    for place, problem in enumerate(LOOKS):
        colour, called = LOOKS[problem]
        draws = study.measured[problem]
        values = np.array([[100 * getattr(draw, name) for name in SHARES] for draw in draws])
        at = np.arange(len(SHARES)) + 0.27 * (place - 1)
        bars.bar(at, values.mean(0), 0.25, yerr=values.std(0, ddof=1), color=colour, label=called, error_kw={"linewidth": 1})
        for axes, name in zip(curves, DISTRIBUTIONS, strict=True):
            for each in draws:
                share = 100 * (np.arange(len(getattr(each, name))) + 0.5) / len(getattr(each, name))
                axes.plot(share, getattr(each, name), color=colour, linewidth=1.2, alpha=0.8)
    bars.set_xticks(range(len(SHARES)), ["test error", "train-test gap"])
    bars.set_ylabel("%")
    figure.legend(*bars.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    for axes, (name, called) in zip(curves, DISTRIBUTIONS.items(), strict=True):
        axes.set_xlabel(f"% of {'test answers' if name == 'margins' else 'training examples'} below")
        axes.set_ylabel(called)
    open_frame(bars, *curves)
    confusions = {name: np.mean([draw.confusion for draw in study.measured[name]], axis=0) for name in ("images", "fitted")}
    off = [np.where(np.eye(len(confusion), dtype=bool), np.nan, 100 * confusion) for confusion in confusions.values()]
    most = max(float(np.nanmax(confusion)) for confusion in off)
    for axes, name, each in zip(maps, confusions, off, strict=True):
        drawn = axes.imshow(each, cmap="viridis", vmin=0, vmax=most)
        axes.set_title(f"{LOOKS[name][1]}: confusions, % of the class", fontsize=9)
        axes.set_xticks(range(len(study.names)), study.names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(study.names)), study.names, fontsize=7)
    figure.colorbar(drawn, ax=list(maps), shrink=0.7)
    figure.suptitle(study.title, fontsize=9)
    return figure


def search(study: Results) -> "matplotlib.figure.Figure":
    """Draws the mismatch of each round, and the places of the best of the first and of the last round."""
    figure = blank(WIDTH, 3.4)
    course, where = figure.subplots(1, 2)
    rounds = np.arange(1, len(study.losses) + 1)
    course.plot(np.repeat(rounds, study.losses.shape[1]), study.losses.ravel(), "o", color=COLOURS[0], markersize=2.5, alpha=0.5)
    course.plot(rounds, np.median(study.losses, axis=1), color=COLOURS[0], linewidth=1.2, label="median")
    course.axhline(study.total("images"), color="#888888", linewidth=0.8, label="images with each other")
    course.set_ylim(0, 1.1 * float(np.quantile(study.losses, 0.95)))
    course.set_xticks(rounds)
    course.set_xlabel("round")
    course.set_ylabel("mean mismatch, tolerances")
    course.legend(frameon=False, fontsize=8)
    order = np.argsort(study.losses, axis=1, kind="stable")[:, : study.elite, None]
    chosen = np.take_along_axis(study.places, order, axis=1)
    for name, row, colour, height in (("first", chosen[0], BAND, 0.15), ("last", chosen[-1], COLOURS[4], -0.15)):
        at = np.tile(np.arange(len(study.space)) - height, (len(row), 1))
        labels = [f"best of the {name} round", *[None] * (row.shape[1] - 1)]
        where.plot(row, at, "o", color=colour, markersize=4, alpha=0.8, label=labels)
    where.set_yticks(range(len(study.space)), [name.replace("_", " ") for name in study.space])
    where.invert_yaxis()
    where.set_xlim(-0.02, 1.02)
    where.set_xlabel("from the least to the largest value tried")
    where.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    open_frame(course, where)
    figure.suptitle(study.title, fontsize=9)
    return figure


def _level(value: Any, percent: float | None) -> float:
    """The mean of a number or of a distribution given by its quantiles, or a percentile of the distribution."""
    if percent is None:
        return float(np.mean(value))
    return float(np.interp(percent / 100, (np.arange(len(value)) + 0.5) / len(value), value))


def _value(share: float, low: float, high: float, way: str) -> float:
    return float(low * (high / low) ** share if way == "log" else low + share * (high - low))
