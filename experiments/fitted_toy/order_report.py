"""Tables and the figure of the test that matters: the order of the methods on the images, and on what stands for them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.stats import kendalltau

from unlearn_jax.bench.orders import MEASURES, Correlation, Difference, Sizes, compare, difference, means
from unlearn_jax.metrics.catalogue import damage, memory_left
from unlearn_jax.metrics.statistics import over_draws
from unlearn_jax.report.drawing import BAND, COLOURS, GRID, LINE, WIDTH, blank, name_rows
from unlearn_jax.report.tables import Table, finite_row, markdown, page
from unlearn_jax.types import Interval

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

BASE, AGAIN, FITTED, START = "images", "again", "fitted", "start"
GROUPS = {BASE: "the images", AGAIN: "other draws of the images", FITTED: "the fitted toy", START: "the toy before the fit"}
"""Group of draws -> what texts call it. The images' are the base, and other draws of them the ceiling."""
LOOKS = {BASE: ("D", "#000000"), AGAIN: ("o", LINE), FITTED: ("s", COLOURS[0]), START: ("^", COLOURS[1])}
DIFFERENCES = {
    (FITTED, START): "fitted less unfitted",
    (AGAIN, FITTED): "ceiling less fitted",
    (AGAIN, START): "ceiling less unfitted",
}
NEAREST = 4  # methods: how many of the nearest on the images are among as many nearest elsewhere
MOST = 2.0  # distance beyond which points are drawn at the edge


class Orders(NamedTuple):
    """Memory left and damage of each method, and of retraining as a control, in each of `GROUPS`.

    Attributes:
        title: what was run.
        sizes: group -> method -> its sizes `[1, draws, sets]`, NaN where a model diverged.
        seed: draws the resamples.
    """

    title: str
    sizes: dict[str, dict[str, Sizes]]
    seed: int = 0

    def methods(self) -> list[str]:
        """The methods of which something is known in every group, without retraining."""
        names = [name for name in self.sizes[BASE] if name != "retrain"]
        return [name for name in names if all(np.isfinite(of[name].memory).any() for of in self.sizes.values())]

    def of(self, group: str, names: list[str]) -> Sizes:
        """The sizes of some methods in one group, `[methods, draws, sets]`."""
        parts = [self.sizes[group][name] for name in names]
        return Sizes(*(np.concatenate([getattr(part, field) for part in parts]) for field in Sizes._fields))

    def ordered(self) -> list[str]:
        """The methods by their distance from retraining on the images, the nearest first."""
        names = self.methods()
        return [names[row] for row in np.argsort(means(self.of(BASE, names))["distance"], kind="stable")] if names else []

    def compared(self) -> dict[str, dict[str, Correlation]]:
        """Group -> measure -> the correlation with the images."""
        names = self.ordered()
        base = self.of(BASE, names)
        return {group: compare(base, self.of(group, names), self.seed)[0] for group in GROUPS if group != BASE}

    def differences(self) -> dict[str, dict[str, Difference]]:
        """What `DIFFERENCES` calls them -> measure -> the difference of two correlations with the images."""
        names = self.ordered()
        base = self.of(BASE, names)
        return {
            called: difference(base, self.of(one, names), self.of(other, names), self.seed)
            for (one, other), called in DIFFERENCES.items()
        }

    def kendall(self, group: str, measure: str) -> float:
        """Kendall's rank correlation of a group with the images."""
        names = self.ordered()
        return float(kendalltau(*(means(self.of(each, names))[measure] for each in (BASE, group))).statistic)

    def shared_nearest(self, group: str) -> int:
        """How many of the `NEAREST` methods to retraining on the images are among as many nearest in a group."""
        names = self.ordered()
        nearest = np.argsort(means(self.of(group, names))["distance"], kind="stable")[:NEAREST]
        return int((nearest < NEAREST).sum())

    def moved(self, group: str, measure: str) -> float:
        """By how much a size differs from that on the images, in absolute value, the mean over methods."""
        names = self.ordered()
        return float(np.abs(means(self.of(group, names))[measure] - means(self.of(BASE, names))[measure]).mean())


def table(study: Orders) -> Table:
    """The columns and rows of methods.csv: one for each group, draw, forget set and method; doing nothing is 1 and 0."""
    columns = ("data", "draw", "forget_set", "method", memory_left.name, damage.name)
    rows = [
        finite_row([group, draw, index, method, float(of.memory[0, draw, index]), float(of.damage[0, draw, index])])
        for group, methods in study.sizes.items()
        for method, of in methods.items()
        for draw in range(of.memory.shape[1])
        for index in range(of.memory.shape[2])
    ]
    return Table(columns, rows)


def correlations(study: Orders) -> Table:
    """The columns and rows of correlations.csv: each group with the images, then the differences, by measure."""
    columns = ("data", "measure", "spearman", *Correlation._fields[1:], "kendall", "shared_nearest", "moved")
    rows = [
        finite_row([group, name, *each, study.kendall(group, name), study.shared_nearest(group), study.moved(group, name)])
        for group, found in study.compared().items()
        for name, each in found.items()
    ]
    count = len(study.methods())
    rows += [
        finite_row([called, name, *each, count, None, None, None])
        for called, found in study.differences().items()
        for name, each in found.items()
    ]
    return Table(columns, rows)


def answer(study: Orders) -> str:
    """Whether the toy predicts who is near retraining, in two sentences."""
    compared, apart = study.compared(), study.differences()["fitted less unfitted"]["distance"]
    told = "; ".join(f"{GROUPS[group]} {found['distance'].interval:.2f}" for group, found in compared.items())
    if apart.low > 0:
        said = "the fit makes the toy predict better"
    else:
        said = "the fit makes the toy predict worse" if apart.high < 0 else "whether the fit helps is not seen"
    return (
        f"**Rank correlation with the images of the methods' distance from retraining: {told}. Fitted less unfitted: "
        f"{Interval(apart.value, apart.low, apart.high):.2f}, so {said}.**"
    )


def summary(study: Orders) -> str:
    """The text of methods.md."""
    names = ["retrain", *study.ordered()]
    left_out = [name for name in study.sizes[BASE] if name not in names]
    lost = f"Left out, since in some data nothing is known of them in any draw: {', '.join(left_out)}."
    if len(names) < 3:
        return page("# Does the toy predict which methods come near retraining?", f"**Not known.** {lost}")
    rows = [
        [
            GROUPS[group],
            *(f"{each.interval:.2f}" for each in found.values()),
            _over_methods(found),
            f"{study.kendall(group, 'distance'):.2f}",
            f"{study.shared_nearest(group)}",
            *(f"{study.moved(group, name):.2f}" for name in (memory_left.name, damage.name)),
        ]
        for group, found in study.compared().items()
    ]
    apart = [
        [called, *(f"{Interval(*each[:3]):.2f}" for each in found.values()), _over_methods(found)]
        for called, found in study.differences().items()
    ]
    lines = [[name, *(_cell(study.sizes[group][name]) for group in GROUPS)] for name in names]
    columns = ("the same, over methods", "Kendall's", f"of the nearest {NEAREST}", "memory moved", "damage moved")
    return page(
        "# Does the toy predict which methods come near retraining?",
        answer(study),
        f"{study.title}.",
        "## Rank correlation of the methods with those on the images",
        markdown(
            (
                "",
                *MEASURES.values(),
                "the same, over methods",
                "Kendall's",
                f"of the nearest {NEAREST}",
                "memory moved",
                "damage moved",
            ),
            rows,
            left=(0,),
        ),
        markdown(("difference of correlations", *MEASURES.values(), columns[0]), apart, left=(0,)),
        "Spearman's, over methods. 95% intervals by a bootstrap over draws (examples, originals and oracles) and forget sets of "
        "both sides; once over methods. Kendall's: of the larger of the two. Moved: mean absolute change over methods.",
        "## Memory left; damage: means and 95% intervals over draws (Student's t)",
        markdown(("", *GROUPS.values()), lines, left=(0,)),
        *([lost] if left_out else []),
    )


def figure(study: Orders) -> "matplotlib.figure.Figure":
    """Draws the distance of every method from retraining, one mark for each group, and the correlations with the images."""
    names = study.ordered()
    figure = blank(1.1 * WIDTH, 1.7 + 0.36 * len(names))
    axes, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for row in range(0, len(names), 2):
        axes.axhspan(row - 0.5, row + 0.5, color=GRID, linewidth=0, zorder=0)
    for number, (group, (marker, colour)) in enumerate(LOOKS.items()):
        sizes = study.of(group, names)
        at = np.arange(len(names)) + 0.18 * (number - 1.5)
        by_draw = [
            means(Sizes(*(part[:, [draw]] for part in sizes)))["distance"]
            for draw in range(sizes.memory.shape[1])
            if np.isfinite(sizes.memory[:, draw]).any(axis=1).all()
        ]
        for values in by_draw:
            axes.plot(np.minimum(values, MOST), at, ".", color=colour, markersize=2.5, alpha=0.5, clip_on=False)
        mean = np.minimum(means(sizes)["distance"], MOST)
        axes.plot(mean, at, marker, color=colour, markersize=4.5, label=GROUPS[group], clip_on=False, zorder=3)
    axes.axvline(1.0, color=LINE, linewidth=0.8, zorder=1)
    name_rows(axes, names, 8.0)
    axes.set_xlim(0, MOST)
    axes.set_xlabel(f"distance from retraining (1: doing nothing; beyond {MOST:g} at the edge)", fontsize=8)
    _draw_correlations(right, study.compared())
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(f"{study.title}; small dots: draws; thick bars: 95% over draws and sets, thin: over methods", fontsize=9)
    return figure


def _draw_correlations(axes: "matplotlib.axes.Axes", compared: Mapping[str, Mapping[str, Correlation]]) -> None:
    names: list[str] = []
    for measure, called in MEASURES.items():
        axes.text(-0.55, len(names) - 0.1, called, fontsize=8, fontweight="bold", va="center")
        names.append("")
        for group, found in compared.items():
            (marker, colour), each, row = LOOKS[group], found[measure], len(names)
            axes.plot([each.low_methods, each.high_methods], [row, row], color=colour, linewidth=0.8, alpha=0.7)
            axes.plot([each.low, each.high], [row, row], color=colour, linewidth=4.0, alpha=0.35, solid_capstyle="butt")
            axes.plot(each.value, row, marker, color=colour, markersize=5)
            names.append(GROUPS[group])
    name_rows(axes, names, 7.5)
    axes.set_xlim(-0.6, 1.05)
    axes.axvline(0.0, color=LINE, linewidth=0.8, zorder=0)
    axes.axvline(1.0, color=BAND, linewidth=0.8, zorder=0)
    axes.set_xlabel("rank correlation with the images", fontsize=8)


def _over_methods(found: Mapping[str, Correlation | Difference]) -> str:
    return f"{found['distance'].low_methods:.2f} to {found['distance'].high_methods:.2f}"


def _cell(sizes: Sizes) -> str:
    by_draw = [
        means(Sizes(*(part[:, [draw]] for part in sizes)))
        for draw in range(sizes.memory.shape[1])
        if np.isfinite(sizes.memory[:, draw]).any()
    ]
    found = (over_draws(np.array([each[name][0] for each in by_draw])) for name in (memory_left.name, damage.name))
    return "; ".join(f"{each:.2f}" for each in found)
