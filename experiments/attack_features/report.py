"""Which features reveal membership: a table, and figures of features alone and beside the loss."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unlearn_jax.metrics import Null
from unlearn_jax.metrics.verdict import evidence, is_inside
from unlearn_jax.report.drawing import (
    BAND,
    COLOURS,
    GRID,
    LINE,
    WIDTH,
    blank,
    hundredths,
    in_white,
    name_cells,
    name_rows,
    write_cells,
)
from unlearn_jax.report.tables import Table

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

ORACLE = "oracle"
JUDGED = ("auc", "gain")  # the measures in the band
MEASURES = (*JUDGED, "beside", "tpr", "tpr_gain", "accuracy")
HEADINGS = {"auc": "the feature alone", "gain": "what it adds to the loss"}
LARGEST = 0.2  # end of the colour scale, in AUC


class Exposure(NamedTuple):
    """How well one attack by one feature distinguishes the forget set from non-members, on one pool.

    Attributes:
        forget_set: the forget set's name.
        method: a registered method, or `oracle`.
        access: the data that the method may use.
        attacker: the classifier.
        feature: its input; `all` is all features together.
        measure: `auc`, `accuracy` and `tpr` (at a false positive rate of 1%) are of the feature alone, `beside` is the AUC of
            loss and feature; `gain`, `tpr_gain`: minus the same with the feature shuffled among examples of like loss.
        value: mean over members.
        low: lower end of its 95% interval over groups of members.
        high: upper end.
        null_mean: the mean over the oracles.
        null_sd: standard deviation of the score of as many retrained models.
        null_low: its 2.5% quantile.
        null_high: its 97.5% quantile.
        z: (value - null_mean) / null_sd; None for oracles, and if the null has no spread.
        band: 95% quantile of the largest |z| over all features, attackers and both of `auc` and `gain`.
        n_members: number of models of the value.
        n_oracles: number of models of the null.
    """

    forget_set: str
    method: str
    access: str
    attacker: str
    feature: str
    measure: str
    value: float
    low: float
    high: float
    null_mean: float
    null_sd: float
    null_low: float
    null_high: float
    z: float | None
    band: float
    n_members: int
    n_oracles: int

    @property
    def evidence(self) -> float:
        """The evidence (see `metrics.verdict.evidence`) with the sign of z; 0 without z."""
        if self.z is None:
            return 0.0
        null = Null(self.null_mean, self.null_sd, self.null_low, self.null_high)
        return math.copysign(evidence(self.value, self.low, self.high, null, attack=True), self.z)

    @property
    def outside(self) -> bool | None:
        """Whether the evidence exceeds the joint band of all features and attackers; None with fewer than 8 members."""
        inside = is_inside([abs(self.evidence)], self.band, self.n_members)
        return None if inside is None else not inside


def table(exposures: Iterable[Exposure]) -> Table:
    """Columns and rows of features.csv: one row for each forget set, method, attacker and feature."""
    shared = ("forget_set", "method", "access", "attacker", "feature")
    parts = {"": "value", "_low": "low", "_high": "high", "_null": "null_mean", "_null_sd": "null_sd", "_z": "z"}
    columns = [*shared, *(f"{measure}{suffix}" for measure in MEASURES for suffix in parts), "band", "n_members", "n_oracles"]
    rows: dict[tuple, dict[str, Any]] = {}
    for exposure in exposures:
        key = tuple(getattr(exposure, name) for name in shared)
        row = rows.setdefault(key, {"band": exposure.band, "n_members": exposure.n_members, "n_oracles": exposure.n_oracles})
        row |= {f"{exposure.measure}{suffix}": getattr(exposure, part) for suffix, part in parts.items()}
    return Table(columns, [[*key, *(row[column] for column in columns[len(shared) :])] for key, row in rows.items()])


def summary(exposures: Sequence[Exposure]) -> str:
    """A line for each method: the AUC of the loss, and the features that reveal most, alone and beside the loss."""
    lines = [f"{'':14} {'AUC of the loss':>16} {'(oracle)':>9}  most revealing (oracle)"]
    for method in dict.fromkeys(exposure.method for exposure in exposures if exposure.method != ORACLE):
        scores = [exposure for exposure in exposures if exposure.method == method]
        loss = max((score for score in scores if (score.feature, score.measure) == ("loss", "auc")), key=_above)
        parts = []
        for measure, name in (("auc", "alone"), ("gain", "beside the loss")):
            shown = max((score for score in scores if score.measure == measure), key=lambda score: score.evidence)
            text = f"{shown.feature} ({shown.attacker}) {shown.value:+.3f} ({shown.null_mean:+.3f}), z {shown.z or 0:+.1f}"
            parts.append(f"{name}: {text if shown.outside else 'too few models' if shown.outside is None else 'nothing'}")
        lines.append(f"{method:14} {loss.value:16.3f} {loss.null_mean:9.3f}  {'; '.join(parts)}")
    return "\n".join(lines)


def heat_map(exposures: Sequence[Exposure], title: str) -> "matplotlib.figure.Figure":
    """Draws features x methods: the AUC of the feature alone, and its gain over the loss, minus the oracles'.

    Args:
        exposures: of one forget set and one attacker.
        title: what the figure is about.

    Returns:
        The figure. Framed cells are outside the band, see `Exposure.outside`.
    """
    from matplotlib.patches import Rectangle

    methods = list(dict.fromkeys(exposure.method for exposure in exposures if exposure.method != ORACLE))
    features = list(dict.fromkeys(exposure.feature for exposure in exposures))
    figure = blank(WIDTH, 2.2 + 0.28 * len(features))
    for axes, measure in zip(figure.subplots(1, 2, sharey=True), JUDGED, strict=True):
        cells = {(exposure.feature, exposure.method): exposure for exposure in exposures if exposure.measure == measure}
        grid = [[cells[feature, method] for method in methods] for feature in features]
        above = np.array([[_above(exposure) for exposure in row] for row in grid])
        image = axes.imshow(above, cmap="PuOr_r", vmin=-LARGEST, vmax=LARGEST, aspect="auto")
        texts = np.vectorize(lambda value: hundredths(value, "+"))(above)
        write_cells(axes, texts, in_white(np.abs(above) > 0.6 * LARGEST), 7.0)
        for y, x in np.argwhere([[bool(exposure.outside) for exposure in row] for row in grid]):
            axes.add_patch(Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, fill=False, edgecolor="black", linewidth=1.1))
        axes.set_title(HEADINGS[measure], fontsize=10)
        name_cells(axes, [name.replace("_", " ") for name in features], methods)
    figure.colorbar(image, ax=figure.axes, shrink=0.6, pad=0.01).ax.tick_params(labelsize=8)
    reading = "AUC minus the oracles'; framed: outside the 95% band of the largest |z| of as many retrained models"
    figure.suptitle("\n".join([*textwrap.wrap(title, 110), f"attacker: {exposures[0].attacker}; {reading}"]), fontsize=9)
    return figure


def dots(exposures: Sequence[Exposure], title: str) -> "matplotlib.figure.Figure":
    """Draws the originals' AUC and gain over the loss, by feature and attacker, with the oracles'.

    Args:
        exposures: of one forget set; without originals, the first method is drawn.
        title: what the figure is about.

    Returns:
        The figure. Points with bars: the method's mean and 95% interval over members; ticks on grey bands: the oracles' mean
        and the 95% null band.
    """
    present = list(dict.fromkeys(exposure.method for exposure in exposures))
    method = "original" if "original" in present else present[0]
    scores = [exposure for exposure in exposures if exposure.method == method]
    attackers, features = (list(dict.fromkeys(getattr(score, part) for score in scores)) for part in ("attacker", "feature"))
    figure = blank(WIDTH, 1.8 + 0.42 * len(features))
    places = {name: -0.32 + 0.64 * (at + 0.5) / len(attackers) for at, name in enumerate(attackers)}
    for axes, measure in zip(figure.subplots(1, 2, sharey=True), JUDGED, strict=True):
        for attacker, colour in zip(attackers, COLOURS, strict=False):
            shown = [score for score in scores if (score.attacker, score.measure) == (attacker, measure)]
            y = np.array([features.index(score.feature) + places[attacker] for score in shown])
            low, high = (np.array([getattr(score, end) for score in shown]) for end in ("null_low", "null_high"))
            axes.barh(y, high - low, left=low, height=0.15, color=BAND, alpha=0.8, linewidth=0, zorder=1)
            axes.plot([score.null_mean for score in shown], y, "|", color="#666666", markersize=6, zorder=2)
            axes.hlines(y, [score.low for score in shown], [score.high for score in shown], color=colour, linewidth=1.2, zorder=3)
            axes.plot([score.value for score in shown], y, "o", color=colour, markersize=4, label=attacker, zorder=4)
        axes.axvline(0.5 if measure == "auc" else 0.0, color=LINE, linewidth=0.8, zorder=0)
        for edge in np.arange(len(features) - 1) + 0.5:
            axes.axhline(edge, color=GRID, linewidth=0.8, zorder=0)
        name_rows(axes, [name.replace("_", " ") for name in features])
        axes.set_xlabel(f"{HEADINGS[measure]} (AUC)", fontsize=9)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    reading = f"points: {method} models (bars: 95% over groups of them); grey: the oracles' mean and the 95% null band"
    figure.suptitle("\n".join([*textwrap.wrap(title, 110), reading]), fontsize=9)
    return figure


def _above(exposure: Exposure) -> float:
    return exposure.value - exposure.null_mean
