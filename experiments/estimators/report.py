"""How estimators of influence compare with exact leave-one-out: a table, agreement as heat maps, curves of screening."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from unlearn_jax.report.drawing import BAND, COLOURS, WIDTH, blank, hundredths, in_white, open_frame, panels_of, write_cells
from unlearn_jax.report.tables import Table, finite, markdown, page
from unlearn_jax.types import Interval

if TYPE_CHECKING:
    import matplotlib.figure

MEASURES = ("pearson", "spearman", "recall", "lds")
NULL, CEILING = "reordered", "other_seed"
FAMILIES = (
    ("exact", NULL, CEILING),
    ("grad_dot", "grad_cos", "tracin", "trak"),
    ("eigendecomposition", "arnoldi", "woodbury", "relatif", "conjugate_gradients", "lissa", "ek_fac", "data_inf"),
    ("logra", "grass", "trackstar"),
    ("source", "unrolled"),
    ("subset_influence", "datamodels", "data_oob"),
    ("knn_shapley", "data_shapley", "representer"),
)
NAMES = {
    "exact": "exact",
    NULL: "exact, sums reordered",
    CEILING: "exact, another seed",
    "grad_dot": "grad-dot",
    "grad_cos": "grad-cos",
    "tracin": "TracIn",
    "trak": "TRAK",
    "eigendecomposition": "IF, Hessian",
    "arnoldi": "IF, Arnoldi",
    "woodbury": "IF, Gauss-Newton",
    "relatif": "RelatIF",
    "conjugate_gradients": "IF, CG",
    "lissa": "IF, LiSSA",
    "ek_fac": "IF, EK-FAC",
    "data_inf": "IF, DataInf",
    "logra": "LoGra",
    "grass": "GraSS",
    "trackstar": "TrackStar",
    "source": "SOURCE",
    "unrolled": "unrolled",
    "subset_influence": "subset influence",
    "datamodels": "datamodels",
    "data_oob": "Data-OOB",
    "knn_shapley": "KNN-Shapley",
    "data_shapley": "Data Shapley, ridge",
    "representer": "representer points",
}
SHOWN = ("tracin", "logra", "ek_fac", "source", "unrolled", "datamodels")  # coloured among the curves
MARKERS = "os^DvPX*<>"
DARK = (*COLOURS[:6], COLOURS[7])  # yellow marks are hard to see
RECALLED = 0.9  # share of the top points whose price the summary gives


class Entry(NamedTuple):
    """One estimator in one setting.

    Attributes:
        measures: by name, a value with the ends of its 95% interval.
        once: its cost before the first target, in trainings.
        each: its cost for each target, in trainings.
        seconds: of the run, without compilation.
        screened: share of the top points among its first m points, for m = 0, 1, ..., points.
    """

    measures: Mapping[str, Interval]
    once: float
    each: float
    seconds: float
    screened: Float[np.ndarray, " verified"]


class Results(NamedTuple):
    """One setting.

    Attributes:
        setting: its name.
        points: number of points, each left out once.
        targets: number of margins that are estimated.
        top: number of most influential points to find.
        entries: by estimator; `reordered` and `other_seed` are the exact answer's null and ceiling.
        smoothness: of the training, for the removal of some points.
    """

    setting: str
    points: int
    targets: int
    top: int
    entries: Mapping[str, Entry]
    smoothness: Float[np.ndarray, " directions"]

    def trainings(self, name: str) -> float:
        """The cost of an estimator for all targets, in trainings; exact leave-one-out costs one for each point."""
        return self.entries[name].once + self.targets * self.entries[name].each

    def break_even(self, name: str) -> float:
        """The number of targets beyond which exact leave-one-out is cheaper; infinite if targets cost nothing."""
        entry = self.entries[name]
        left = max(self.points - entry.once, 0.0)
        return left / entry.each if entry.each > 0 else math.inf if left else 0.0

    def price(self, name: str) -> float:
        """Trainings, as a share of exact leave-one-out, until `RECALLED` of the top points are found and verified."""
        verified = int(np.argmax(self.entries[name].screened >= RECALLED - 1e-9))
        return (self.trainings(name) + verified) / self.points


def order_estimators(studies: Sequence[Results]) -> list[str]:
    """The estimators of all settings, by family."""
    known = {name for study in studies for name in study.entries}
    return [name for family in FAMILIES for name in family if name in known]


def rivals(study: Results) -> list[str]:
    """The estimators of a setting, without exact leave-one-out, its null and its ceiling."""
    return [name for name in order_estimators([study]) if name not in FAMILIES[0]]


def table(studies: Sequence[Results]) -> Table:
    """The columns and rows of estimators.csv: a row for each setting, estimator and measure; empty if not finite."""
    columns = ["setting", "estimator", "measure", "value", "low", "high", "null", "ceiling"]
    columns += ["trainings", "seconds", "break_even_targets", "price"]
    rows: list[list[Any]] = []
    for study in studies:
        for name in order_estimators([study]):
            entry = study.entries[name]
            price = study.price(name) if name in rivals(study) else None
            costs = [study.trainings(name), entry.seconds, finite(study.break_even(name)), price]
            for measure in MEASURES:
                ends = [study.entries[end].measures[measure].value for end in (NULL, CEILING)]
                rows.append([study.setting, name, measure, *entry.measures[measure], *ends, *costs])
    return Table(columns, rows)


def conclusion(studies: Sequence[Results]) -> str:
    """A line for each setting: the estimator that ranks points best."""
    lines = []
    for study in studies:
        best = max(rivals(study), key=lambda name: study.entries[name].measures["spearman"].value)
        lines.append(
            f"{study.setting}: {NAMES[best]} is nearest to exact leave-one-out, rank correlation "
            f"{study.entries[best].measures['spearman']:.2f}, for {study.trainings(best):.3g} trainings instead of {study.points}"
        )
    return "\n".join(lines)


def summary(studies: Sequence[Results]) -> str:
    """The text of summary.md."""
    first = studies[0]
    titles = {
        "spearman": "Rank correlation with exact leave-one-out over points, mean over targets (95%: bootstrap over points)",
        "pearson": "Pearson's correlation (likewise)",
        "recall": f"Share of the top {first.top} points of each target (likewise); by chance {first.top / first.points:.2f}",
        "lds": "LDS: rank correlation of sums with trainings on random halves (95% interval: bootstrap over halves)",
    }
    text = [f"# Estimators against exact leave-one-out: {first.points} points, {first.targets} targets", conclusion(studies)]
    heading = ["", *(study.setting for study in studies)]
    for measure, title in titles.items():
        cells = [[NAMES[name], *(_cell(study, name, measure) for study in studies)] for name in order_estimators(studies)]
        text += [title, markdown(heading, cells, left=(0,))]
    for study in studies:
        costs = [
            [
                NAMES[name],
                f"{study.trainings(name):.3g}",
                f"{study.entries[name].seconds:.2g}",
                _number(study.break_even(name)),
                f"{100 * study.price(name):.0f}%",
            ]
            for name in rivals(study)
        ]
        columns = ["", "trainings", "seconds", "break-even targets", f"{RECALLED:.0%} of the top {study.top}, verified"]
        text += [f"Cost, {study.setting} (the last column in shares of exact leave-one-out)", markdown(columns, costs, left=(0,))]
    smooth = [
        [study.setting, f"{study.smoothness.mean():.3f}", f"{study.smoothness.min():.3f}", _cell(study, "unrolled", "pearson")]
        for study in studies
    ]
    text += [
        "Metasmoothness at the removal of single points, and Pearson's correlation of the unrolled gradient",
        markdown(["", "mean", "least", "unrolled"], smooth, left=(0,)),
    ]
    return page(*text)


def agreement(studies: Sequence[Results]) -> "matplotlib.figure.Figure":
    """Draws every estimator in every setting: rank correlation over points, recall of the top points, and LDS."""
    names = order_estimators(studies)
    figure = blank(WIDTH, 1.6 + 0.24 * len(names))
    panels = figure.subplots(1, 3, sharey=True)
    titles = ("rank correlation with exact", f"recall of the top {studies[0].top}", "LDS (random halves)")
    for axes, measure, title in zip(panels, ("spearman", "recall", "lds"), titles, strict=True):
        values = np.array([[_value(study, name, measure) for study in studies] for name in names])
        image = axes.imshow(values, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
        texts = np.vectorize(lambda value: hundredths(value) if math.isfinite(value) else "")(values)
        write_cells(axes, texts, in_white(np.abs(values) > 0.65), 6.0)
        axes.set_xticks(range(len(studies)), [study.setting for study in studies], rotation=55, ha="right", fontsize=7)
        axes.set_yticks(range(len(names)), [NAMES[name] for name in names], fontsize=7)
        ends = np.cumsum([sum(name in names for name in family) for family in FAMILIES])[:-1]
        for end in ends:
            axes.axhline(end - 0.5, color="black", linewidth=0.8)
        axes.set_title(title, fontsize=9)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=panels, shrink=0.5, pad=0.01)
    return figure


def screening_curves(studies: Sequence[Results]) -> "matplotlib.figure.Figure":
    """Draws the share of top points found, if exact retraining verifies an estimator's ranking, against the cost."""
    figure, panels = panels_of(len(studies), 3, lambda down, across: 0.9 + 2.0 * down)
    colour = dict(zip(SHOWN, (COLOURS[number] for number in (1, 2, 5, 3, 0, 4)), strict=True))
    lines = {}
    for axes, study in zip(panels, studies, strict=True):
        for name in sorted(rivals(study), key=lambda name: name in SHOWN):
            spent = (study.trainings(name) + np.arange(study.points + 1)) / study.points
            shown = name in SHOWN
            (line,) = axes.plot(
                spent, study.entries[name].screened, color=colour.get(name, BAND), linewidth=1.5 if shown else 0.7
            )
            lines[NAMES[name] if shown else "other estimators"] = line
        (lines["chance"],) = axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.set_title(study.setting, fontsize=8)
        axes.set_xlim(0, 1.75)
        open_frame(axes)
        axes.tick_params(labelsize=7)
    figure.supxlabel("trainings, estimator included, as a share of exact leave-one-out (line)", fontsize=8)
    figure.supylabel(f"share of the true top {studies[0].top} found", fontsize=8)
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=len(lines), frameon=False, fontsize=7)
    return figure


def smoothness(studies: Sequence[Results]) -> "matplotlib.figure.Figure":
    """Draws the unrolled gradient's correlation with the truth against the smoothness of training, for each setting."""
    figure = blank(WIDTH, 3.4)
    axes = figure.add_subplot()
    for number, study in enumerate(studies):
        if "unrolled" not in study.entries:
            continue
        value, low, high = study.entries["unrolled"].measures["pearson"]
        axes.errorbar(
            study.smoothness.mean(),
            value,
            xerr=study.smoothness.std(ddof=1) / math.sqrt(len(study.smoothness)),
            yerr=[[value - min(low, value)], [max(high, value) - value]],
            marker=MARKERS[number % len(MARKERS)],
            color=DARK[number % len(DARK)],
            linestyle="none",
            elinewidth=0.8,
            label=study.setting,
        )
    axes.set_xlabel("metasmoothness at the removal of single points (mean, standard error)")
    axes.set_ylabel("Pearson's correlation of unrolled\nwith exact leave-one-out")
    open_frame(axes)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _value(study: Results, name: str, measure: str) -> float:
    return study.entries[name].measures[measure].value if name in study.entries else math.nan


def _cell(study: Results, name: str, measure: str) -> str:
    return f"{study.entries[name].measures[measure]:.2f}" if name in study.entries else ""


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "never"
