"""What each characteristic adds to a calibrated attack: a table, and figures before and after unlearning."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unlearn_jax.report.drawing import COLOURS, GRID, LINE, WIDTH, blank, name_rows
from unlearn_jax.report.tables import Table, finite_row, markdown, page
from unlearn_jax.types import Interval

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

LOSS = "loss"
CHARACTERISTICS = {
    LOSS: "loss (as LiRA takes it)",
    "nats": "loss, in nats",
    "entropy": "entropy",
    "neighbours": "neighbours by probability",
    "features": "distance to class means",
    "augmented": "loss under augmentation",
    "gradient": "gradient norm",
    "blocks": "gradient norm by block",
}
"""Characteristic -> its name. The loss is the margin `log p_y - log(1 - p_y)`, whose distribution is nearly Gaussian."""
ALL = "all"
NAMES = {**CHARACTERISTICS, ALL: "all together"}
ALONE, BESIDE, WEIGHED = "alone", "joint", "weighed"
"""How characteristics are used: one alone; the loss and it in one Gaussian; ratios of each, weighed by one rule."""
CALIBRATED, UNCALIBRATED = "calibrated", "uncalibrated"
UNSEEN = ", unseen examples"  # beside what the attacker knows: the attack is on examples that no model saw
Key = tuple[str, str, str]  # calibration, characteristic, how


class Attack(NamedTuple):
    """One attack.

    Attributes:
        subject: `halves`, or the method whose models are attacked.
        knows: of halves, the examples that are judged; of a method, what the attacker knows: originals, or the method; with
            `UNSEEN` where examples are attacked that no model saw.
        calibration: `CALIBRATED`: Gaussians for every example; `UNCALIBRATED`: one linear rule for all.
        characteristic: a key of `NAMES`.
        how: alone, or with the loss: jointly, or weighed.
        auc: area under the ROC curve, with 95% over attacked models.
        tpr: true positive rate at a false positive rate of 1%.
        auc_gain: minus that of the loss, with the same calibration and the same resamples.
        tpr_gain: likewise.
        null_auc: mean where what models trained on is permuted; NaN if that was not done.
        null_tpr: likewise.
        null_auc_gain: likewise.
        null_tpr_gain: likewise.
        null_auc_most: the largest |gain| of any permutation.
        null_tpr_most: likewise.
    """

    subject: str
    knows: str
    calibration: str
    characteristic: str
    how: str
    auc: Interval
    tpr: Interval
    auc_gain: Interval
    tpr_gain: Interval
    null_auc: float
    null_tpr: float
    null_auc_gain: float
    null_tpr_gain: float
    null_auc_most: float
    null_tpr_most: float


def table(attacks: Sequence[Attack]) -> Table:
    """Columns and rows of attacks.csv."""
    columns = list(Attack._fields[:5])
    columns += [f"{name}{end}" for name in Attack._fields[5:9] for end in ("", "_low", "_high")] + list(Attack._fields[9:])
    rows = [[*each[:5], *(end for part in each[5:9] for end in part), *each[9:]] for each in attacks]
    return Table(columns, [finite_row(row) for row in rows])


def summary(attacks: Sequence[Attack]) -> str:
    """The text of summary.md: for each subject, all calibrated attacks, and the uncalibrated."""
    parts = []
    for subject, knows in dict.fromkeys((each.subject, each.knows) for each in attacks):
        lines = [
            [
                *(each.calibration, NAMES[each.characteristic], each.how, f"{each.auc:.3f}"),
                *(f"{100 * end:.1f}" for end in each.tpr),
                f"{each.auc_gain:+.3f}",
                *(f"{100 * end:+.1f}" for end in each.tpr_gain),
                *(("", "") if np.isnan(each.null_auc) else (f"{each.null_auc:.3f}", f"{100 * each.null_tpr_most:.1f}")),
            ]
            for each in attacks
            if (each.subject, each.knows) == (subject, knows)
        ]
        headings = ("", "characteristic", "how", "AUC", "TPR at 1%, %", "low", "high", "AUC gain", "TPR gain", "low", "high")
        parts += [f"## {subject} · {knows}", markdown((*headings, "null AUC", "null TPR gain, largest"), lines, left=(0, 1, 2))]
    return page("# What each characteristic adds to a calibrated attack", *parts)


def alone(attacks: Sequence[Attack], title: str) -> "matplotlib.figure.Figure":
    """Draws each characteristic alone on models of halves, calibrated and not: AUC and TPR at 1% false positives."""
    figure = blank(WIDTH, 4.0)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, field, label in zip(panels, ("auc", "tpr"), ("AUC", "true positive rate at 1% false positives"), strict=True):
        for place, calibration in enumerate((CALIBRATED, UNCALIBRATED)):
            chosen = {
                each.characteristic: getattr(each, field)
                for each in attacks
                if (each.subject, each.knows, each.calibration) == ("halves", "all", calibration)
                and (each.how == ALONE or (each.characteristic, each.how) == (ALL, BESIDE))
            }
            _dots(axes, [chosen[name] for name in NAMES], 0.24 * (place - 0.5), COLOURS[4 * place], calibration)
        name_rows(axes, list(NAMES.values()))
        axes.axvline(0.5 if field == "auc" else 0.01, color=LINE, linewidth=0.8)
        axes.set_xlabel(label, fontsize=9)
    panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"{title}: models on random halves, each characteristic alone\nbars: 95% over attacked models", fontsize=9)
    return figure


def gains(attacks: Sequence[Attack], title: str) -> "matplotlib.figure.Figure":
    """Draws what each characteristic adds to the loss at 1% false positives on models of halves, by kind of label."""
    subsets = list(dict.fromkeys(each.knows for each in attacks if each.subject == "halves"))
    rows = [name for name in NAMES if name != LOSS]
    figure = blank(WIDTH, 4.2)
    panels = np.atleast_1d(figure.subplots(1, len(subsets), sharey=True))
    styles = ((CALIBRATED, WEIGHED, "calibrated, weighed"), (CALIBRATED, BESIDE, "calibrated, one Gaussian"))
    for axes, subset in zip(panels, subsets, strict=True):
        for place, (calibration, how, label) in enumerate((*styles, (UNCALIBRATED, BESIDE, "uncalibrated"))):
            chosen = {
                each.characteristic: each.tpr_gain
                for each in attacks
                if (each.subject, each.knows, each.calibration, each.how) == ("halves", subset, calibration, how)
            }
            colour = COLOURS[(0, 1, 4)[place]]
            _dots(axes, [chosen[name] for name in rows], 0.22 * (place - 1), colour, label)
        name_rows(axes, [NAMES[name] for name in rows])
        axes.axvline(0, color=LINE, linewidth=0.8)
        axes.set_title(f"{subset}: the loss alone {100 * _of_loss(attacks, subset):.1f}%", fontsize=9)
        axes.set_xlabel("gain at 1% false positives", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(f"{title}: what each adds to the loss (true positive rate)\nbars: 95% over attacked models", fontsize=9)
    return figure


def after(attacks: Sequence[Attack], title: str) -> "matplotlib.figure.Figure":
    """Draws, for each method, calibrated attacks by the loss, each characteristic alone, and all: TPR at 1% false positives."""
    methods = list(dict.fromkeys(each.subject for each in attacks if each.subject != "halves"))
    figure = blank(WIDTH, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, knows in zip(panels, ("originals", "the method"), strict=True):
        for place, method in enumerate(methods):
            chosen = {
                each.characteristic: each.tpr
                for each in attacks
                if (each.subject, each.calibration) == (method, CALIBRATED)
                and each.knows == ("originals" if method == "original" else knows)
                and (each.how == ALONE or (each.characteristic, each.how) == (ALL, WEIGHED))
            }
            colour = COLOURS[(7, 2, 0, 1, 4, 3, 5)[place % 7]]
            _dots(axes, [chosen[name] for name in NAMES], 0.14 * (place - (len(methods) - 1) / 2), colour, method)
        name_rows(axes, list(NAMES.values()))
        for edge in np.arange(len(NAMES) - 1) + 0.5:
            axes.axhline(edge, color=GRID, linewidth=0.8, zorder=0)
        axes.axvline(0.01, color=LINE, linewidth=0.8)
        axes.set_title(f"the attacker knows {knows} and oracles", fontsize=9)
        axes.set_xlabel("true positive rate at 1% false positives", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    figure.suptitle(f"{title}: the forget set, after unlearning, against oracles\nbars: 95% over models", fontsize=9)
    return figure


def _of_loss(attacks: Sequence[Attack], subset: str) -> float:
    wanted = ("halves", subset, CALIBRATED, LOSS, ALONE)
    return next(each.tpr.value for each in attacks if tuple(each[:5]) == wanted)


def _dots(axes: "matplotlib.axes.Axes", values: Sequence[Interval], shift: float, colour: str, label: str) -> None:
    """Values with intervals, one a row."""
    y = np.arange(len(values)) + shift
    axes.hlines(y, [each.low for each in values], [each.high for each in values], color=colour, linewidth=1.2)
    axes.plot([each.value for each in values], y, "o", color=colour, markersize=4, label=label)
