"""The report of membership attacks: the table of methods, ROC curves, and AUC by memorisation."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from unlearn_jax.metrics.catalogue import accuracy
from unlearn_jax.report.drawing import BAND, COLOURS, GRID, LINE, WIDTH, blank, name_rows
from unlearn_jax.report.leaderboard import MARK, Leaderboard, Line
from unlearn_jax.report.rows import REFERENCES, Row, subject

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

Curves = tuple[Mapping[str, Float[np.ndarray, " rates"]], Float[np.ndarray, "2 rates"]]
SIDES = {"u_lira": "against others that unlearned as much", "u_lira_retrained": "against retrained models"}
SPLITS = {"all": "all targets", "low": "not memorised", "high": "memorised"}
RATES = ("tpr_at_1", "tpr_at_0_1")
UPPER_END = "original"  # the method on which U-LiRA is LiRA
_HEADINGS = (
    *(" ", "method", "access", "AUC", "low", "mem.", "z", "AUC R", "low R", "mem. R", "z R"),
    *("TPR 1%", "TPR 0.1%", "acc F", "acc T", "s/model"),
)
_IMPORTANCE = (1, 0, 13, 2, 8, 4, 3, 5, 9, 7, 6, 10, 14, 11, 12, 15)


def arrange(rows: Sequence[Row], band: float) -> Leaderboard:
    """Arranges the rows of a run as one line per method: the null, the references, then methods by falling AUC.

    Args:
        rows: all rows of the run.
        band: 95% quantile of a perfect method's largest |z| over all AUCs.

    Returns:
        The table. A method that is inside the null has a mark.
    """
    scores = by_method(rows)
    references = [method for method in REFERENCES if method in scores]
    order = references + sorted(scores.keys() - references, key=lambda method: (-_exposure(scores[method]), method))
    members = max(row.n_members or 0 for row in rows)
    lines = [_null_line(scores[order[0]])]
    for method in order:
        by_metric = scores[method]
        any_row = next(iter(by_metric.values()))
        cells = [MARK * bool(any_row.inside), method, any_row.access]
        for side in SIDES:
            cells += [_value(by_metric.get((f"{side}_auc", split))) for split in SPLITS]
            cells.append(_cell(by_metric.get((f"{side}_auc", "all")), "z", "+.1f"))
        cells += [_value(by_metric.get((f"u_lira_{rate}", "all"))) for rate in RATES]
        cells += [_value(by_metric.get((accuracy.name, split)), ".1f") for split in ("all", "test")]
        cells.append(_cell(any_row, "seconds", ".2f"))
        lines.append(Line(method, method in REFERENCES, any_row.inside, tuple(cells)))
    return Leaderboard(_HEADINGS, tuple(lines), _guide(band), (f"{subject(rows)}.", *_notes(rows, members)), _IMPORTANCE)


def by_method(rows: Sequence[Row]) -> dict[str, dict[tuple[str, str], Row]]:
    """Method -> (metric, split) -> row. The original's `lira_*` are entered as `u_lira_*`."""
    scores: dict[str, dict[tuple[str, str], Row]] = {}
    for row in rows:
        metric = f"u_{row.metric}" if row.metric.startswith("lira_") else row.metric
        scores.setdefault(row.method, {})[metric, row.split] = row
    return scores


def roc_curves(
    panels: Mapping[tuple[str, str], Curves], rates: Float[np.ndarray, " rates"], title: str
) -> "matplotlib.figure.Figure":
    """Draws ROC curves on logarithmic axes, a panel for each attack: the methods, LiRA and the null band.

    Args:
        panels: by the attack's negatives and split: true positive rates of the methods, and the 2.5% and 97.5% quantiles of
            the null; NaN where there are too few scores.
        rates: the false positive rates of the curves.
        title: what the figure is about, see `rows.subject`.

    Returns:
        The figure, a row for each kind of negatives and a column for each split.
    """
    sides, splits = (list(dict.fromkeys(names)) for names in zip(*panels, strict=True))
    figure = blank(WIDTH, 1.9 + 2.5 * len(sides))
    methods = list(dict.fromkeys(method for curves, _ in panels.values() for method in curves))
    styles = _styles(methods)
    resolved = np.isfinite([null[0] for _, null in panels.values()]).any(0)
    lowest = 0.8 * rates[resolved].min(initial=1)
    grid = figure.subplots(len(sides), len(splits), sharex=True, sharey=True, squeeze=False)
    for (side, split), (curves, null) in panels.items():
        axes = grid[sides.index(side), splits.index(split)]
        known = np.isfinite(null[0])
        axes.plot(rates, rates, color=LINE, linewidth=0.8, zorder=1)
        axes.fill_between(
            rates[known], np.maximum(null[0, known], lowest / 10), null[1, known], color=BAND, alpha=0.6, linewidth=0
        )
        for method, curve in curves.items():
            seen = np.isfinite(curve) & (curve > 0)
            axes.plot(rates[seen], curve[seen], **styles[method])
        axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest, 1.15))
        axes.tick_params(labelsize=8)
        axes.grid(color=GRID, linewidth=0.6, zorder=-1)
        if not known.any():
            axes.text(0.5, 0.5, "too few scores", transform=axes.transAxes, ha="center", fontsize=9)
    for column, split in zip(grid.T, splits, strict=True):
        column[0].set_title(SPLITS[split], fontsize=10)
        column[-1].set_xlabel("false positive rate", fontsize=9)
    for row, side in zip(grid, sides, strict=True):
        row[0].set_ylabel(f"true positive rate,\n{SIDES[side]}", fontsize=9)
    figure.suptitle(f"{title}\ngrey: 95% of what retrained models score; thin line: guessing", fontsize=10)
    handles = [grid[0, 0].plot([], [], **styles[method], label=_label(method))[0] for method in methods]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


def auc_by_memorisation(rows: Sequence[Row], title: str) -> "matplotlib.figure.Figure":
    """Draws the AUC of every method, a panel for each split by memorisation, with its null band.

    Args:
        rows: all rows of the run; those of the AUCs with a variance for each target are used.
        title: what the figure is about, see `rows.subject`.

    Returns:
        The figure, the most exposed method first.
    """
    scores = by_method(rows)
    methods = sorted(scores, key=lambda method: (-_exposure(scores[method]), method))
    figure = blank(WIDTH, 1.8 + 0.27 * len(methods))
    places = np.arange(len(methods))
    marks = {"u_lira": ("o", COLOURS[0], -0.13), "u_lira_retrained": ("D", COLOURS[4], 0.13)}
    grid = figure.subplots(1, len(SPLITS), sharex=True, sharey=True)
    for axes, (split, title_of_split) in zip(grid, SPLITS.items(), strict=True):
        bands: list[float] = []
        for side, (marker, colour, shift) in marks.items():
            for place, method in zip(places, methods, strict=True):
                row = scores[method].get((f"{side}_auc", split))
                if row is not None and row.value is not None:
                    axes.plot([row.value_low, row.value_high], [place + shift] * 2, color=colour, linewidth=1.2, zorder=3)
                    axes.plot(row.value, place + shift, marker, color=colour, markersize=4.5, zorder=4)
                    bands += [end for end in (row.null_low, row.null_high) if end is not None]
        if bands:
            axes.axvspan(min(bands), max(bands), color=BAND, alpha=0.6, linewidth=0, zorder=1)
        axes.axvline(0.5, color=LINE, linewidth=0.8, zorder=2)
        axes.set_title(title_of_split, fontsize=10)
        name_rows(axes, [_label(method) for method in methods])
        axes.grid(axis="x", color=GRID, linewidth=0.6, zorder=0)
        axes.set_axisbelow(True)
    for side, (marker, colour, _) in marks.items():
        axes.plot([], [], marker, color=colour, label=SIDES[side])
    axes.fill_between([], [], color=BAND, alpha=0.6, label="95% of what retrained models score")
    grid[1].set_xlabel("AUC of the attack (line at 1/2: guessing)", fontsize=9)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(title, fontsize=10)
    return figure


def _label(method: str) -> str:
    return f"{method} (LiRA)" if method == UPPER_END else method


def _exposure(by_metric: Mapping[tuple[str, str], Row]) -> float:
    row = by_metric.get(("u_lira_auc", "all"))
    return -1.0 if row is None or row.value is None else row.value


def _cell(row: Row | None, field: str, form: str) -> str:
    value = None if row is None else getattr(row, field)
    return "" if value is None else format(value, form)


def _value(row: Row | None, form: str = ".3f") -> str:
    return _cell(row, "value", form)


def _null_line(by_metric: Mapping[tuple[str, str], Row]) -> Line:
    """The line of a perfect method: mean ± standard deviation of each null."""

    def cell(metric: str, split: str, form: str = ".3f") -> str:
        mean, sd = (_cell(by_metric.get((metric, split)), field, form) for field in ("null_mean", "null_sd"))
        return f"{mean} ± {sd}" if sd else mean

    cells = ["", "perfect (the null)", ""]
    for side in SIDES:
        cells += [*(cell(f"{side}_auc", split) for split in SPLITS), ""]
    cells += [cell(f"u_lira_{rate}", "all") for rate in RATES]
    cells += [*(cell(accuracy.name, split, ".1f") for split in ("all", "test")), ""]
    return Line("perfect", True, False, tuple(cells))


def _notes(rows: Sequence[Row], members: int) -> list[str]:
    """What is special about this run."""
    lost = {row.method: members - (row.n_members or 0) for row in rows if row.n_members != members}
    unresolved = any(row.metric.endswith("tpr_at_0_1") and row.split == "all" and row.value is None for row in rows)
    notes = [f"{method}: {number} of {members} members diverged; never marked." for method, number in lost.items()]
    return notes + ["A TPR is left empty where fewer than one false positive was allowed: 0.1% takes 1,000 scores."] * unresolved


def _guide(band: float) -> tuple[str, ...]:
    """How to read the table."""
    return (
        "AUC of the likelihood-ratio attack with a variance for each target: does it tell members that trained on a target and "
        "unlearned it from others that unlearned as much without it (AUC), or from members retrained without any target "
        "(AUC R)? For original, which does nothing, the first is LiRA: the most there is to forget. low and mem.: on targets "
        "that are not memorised, and on those that are.",
        f"z: in standard deviations from the null. {MARK}: no AUC is further from its null than {band:.2f}, the 95% band of the "
        "largest |z|. TPR: true positive rate of the first attack at that false positive rate; acc F: accuracy in % on what was "
        "unlearned, acc T: on the test set. References first, then the most exposed.",
    )


def _styles(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour and a kind of line for each method; the references are black and wide."""
    black = {"color": "black", "linewidth": 2.0, "zorder": 5}
    styles: dict[str, dict[str, Any]] = {name: {**black, "linestyle": kind} for name, kind in zip(REFERENCES, "-:", strict=True)}
    others = [name for name in methods if name not in styles]
    looks = itertools.cycle(itertools.product(("-", "--", "-.", ":"), COLOURS[:6]))  # without yellow, too pale for a line
    return styles | {
        name: {"color": colour, "linestyle": kind, "linewidth": 1.1} for name, (kind, colour) in zip(others, looks, strict=False)
    }
