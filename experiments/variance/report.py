"""The report of variance over seeds: bias and variance, spread against loss, lines and a plane, sharpness."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from unlearn_jax.report.drawing import COLOURS, SPLITS, WIDTH, blank, name_rows, open_frame
from unlearn_jax.report.tables import Table, finite, markdown, of_columns, page
from unlearn_jax.types import Interval

if TYPE_CHECKING:
    import matplotlib.figure

Columns = Mapping[str, np.ndarray]
"""A table by its columns, all of one length."""
NAMES = {"forget": "forget set", "retain": "retain set", "test": "test set"}
DISTINCT = (*COLOURS[:6], "#999999", "#8C564B", "#17BECF", "#BCBD22", "#7F3C8D")
TRAINED = ("original to original", "original to oracle", "oracle to oracle", "original to oracle, same seed")
INTERPOLATED = ", interpolated statistics"
OMITTED = (*(f"Brier {part}" for part in ("loss", "bias", "variance")), "sd of the loss", "rise from end to end")
"""Measures that are in variance.csv but not in summary.md."""
SHORT = {
    "original to original": "two originals",
    "oracle to oracle": "two oracles",
    "original to oracle": "original, oracle",
    "original to oracle, same seed": "original, oracle of one seed",
}
"""Kind of line -> its name in the legend."""


class Row(NamedTuple):
    """One value of the study.

    Attributes:
        part: part of the study: spread, coincidence, line, sharpness, forgetting, sharpness and forgetting.
        subject: a group of models, or a kind of line.
        split: the examples.
        measure: what is measured.
        value: its value.
        low: lower end of its 95% interval, over models and forget sets.
        high: upper end.
        difference: from the oracles (a ratio where `measure` says so); for the oracles, of one half from the other.
        difference_low: lower end of its interval.
        difference_high: upper end.
    """

    part: str
    subject: str
    split: str
    measure: str
    value: float
    low: float | None = None
    high: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None


class Line(NamedTuple):
    """The mean loss at a point of the lines of one kind, and its 95% interval."""

    kind: str
    split: str
    share: float  # of the way from the first model to the second
    loss: float
    low: float
    high: float


class Plane(NamedTuple):
    """The loss on a plane through three models. Coordinates are distances of weights.

    Attributes:
        x: in the direction from the first model to the second.
        y: at right angles to it.
        places: coordinates of the three models.
        losses: on forget, retain and test.
    """

    x: Float[np.ndarray, " columns"]
    y: Float[np.ndarray, " rows"]
    places: Float[np.ndarray, "3 2"]
    losses: Float[np.ndarray, "rows columns 3"]


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table with numbers rounded to six digits; cells that are not finite are empty."""
    return Table(columns, [[_six_digits(cell) if isinstance(cell, float) else cell for cell in row] for row in rows])


def grid(plane: Plane) -> Table:
    """The columns and rows of plane.csv, a row for each grid point."""
    x, y = np.meshgrid(plane.x, plane.y)
    losses = {f"loss_{split}": plane.losses[..., place].ravel() for place, split in enumerate(SPLITS)}
    return table(*of_columns({"x": x.ravel(), "y": y.ravel(), **losses}))


def summary(rows: list[Row], title: str, lost: Mapping[str, Sequence[str]]) -> str:
    """The text of summary.md: a table for each part of the study."""
    text = [
        f"# Variance over seeds: {title}",
        "95% intervals over models, and over forget sets if there are several. After the semicolon: the difference "
        "from the oracles (for the oracles, of one half of them from the other: the null). Nats. variance.csv also has the "
        "Brier score, right and wrong labels separately, and the spread of the loss.",
    ]
    gone = [f"{name} on {where}" for where, names in lost.items() for name in names]
    if gone:
        text.append(f"Left out, because members diverged: {', '.join(gone)}.")
    for part in dict.fromkeys(row.part for row in rows):
        rows_of_part = [row for row in rows if row.part == part and row.measure not in OMITTED and row.split in ("", *SPLITS)]
        split_by = list(dict.fromkeys(row.split for row in rows_of_part))
        measures = list(dict.fromkeys(row.measure for row in rows_of_part))
        by_cell = {(row.subject, row.split, row.measure): row for row in rows_of_part}
        lines = [
            [subject, measure, *(_cell(by_cell.get((subject, split, measure))) for split in split_by)]
            for measure in measures
            for subject in dict.fromkeys(row.subject for row in rows_of_part if row.measure == measure)
        ]
        text += [f"## {part.capitalize()}", markdown(["", "", *(split or "all" for split in split_by)], lines)]
    return page(*text)


def decomposition(rows: list[Row], groups: list[str], title: str) -> "matplotlib.figure.Figure":
    """Draws bias and variance of every group on every split, for two losses, with the interval of the variance."""
    by_cell = {(row.subject, row.split, row.measure): row for row in rows if row.part == "spread"}
    figure = blank(WIDTH, 1.6 + 0.42 * len(groups))
    panels = figure.subplots(2, len(SPLITS), sharey=True, squeeze=False)
    places = np.arange(len(groups))
    for row, (loss, unit) in zip(panels, {"cross-entropy": "nats", "Brier": "squared probability"}.items(), strict=True):
        for axes, (split, colour) in zip(row, SPLITS.items(), strict=True):
            bias, variance = ([by_cell[name, split, f"{loss} {part}"] for name in groups] for part in ("bias", "variance"))
            left = np.array([one.value for one in bias])
            axes.barh(places, left, height=0.7, color="#BBBBBB", label="bias")
            axes.barh(places, [one.value for one in variance], left=left, height=0.7, color=colour, label="variance")
            reach = np.array([[one.low, one.high] for one in variance], float) + left[:, None]
            axes.hlines(places, np.maximum(reach[:, 0], 0), reach[:, 1], color="black", linewidth=1.2)
            name_rows(axes, groups, 8.0)
            axes.set_title(f"{NAMES[split]}: {loss} ({unit})", fontsize=9)
    figure.suptitle(f"{title}\nexpected loss = bias (grey) + variance over seeds (colour; line: its 95% interval)", fontsize=10)
    return figure


def spread(columns: Columns, forget_set: str, title: str) -> "matplotlib.figure.Figure":
    """Draws the spread of each example's margin over seeds against its mean loss, for originals (above) and oracles."""
    figure = blank(WIDTH, 5.6)
    panels = figure.subplots(2, len(SPLITS), sharex=True, sharey=True)
    for row, group in zip(panels, ("original", "oracle"), strict=True):
        for axes, (split, colour) in zip(row, SPLITS.items(), strict=True):
            of_set = (columns["split"] == split) & (columns["forget_set"] == forget_set)
            for wrong, (mark, shade) in enumerate((("o", colour), ("x", "black"))):
                chosen = of_set & (columns["wrong_label"] == wrong)
                if not chosen.any():
                    continue
                loss, sd = (columns[f"{group}_{what}"][chosen] for what in ("loss", "margin_sd"))
                axes.plot(loss, sd, mark, color=shade, markersize=3.5, alpha=0.6, markeredgewidth=0.8, label=_wrongness(wrong))
            axes.set_xscale("log")
            axes.set_title(f"{NAMES[split]}, {group}s", fontsize=9)
            open_frame(axes)
            axes.tick_params(labelsize=8)
    panels[0, 0].set_ylim(bottom=0)
    panels[0, 0].legend(fontsize=7, loc="lower left", framealpha=0.8)
    for axes in panels[:, 0]:
        axes.set_ylabel("sd of the margin over seeds (nats)", fontsize=8)
    for axes in panels[1]:
        axes.set_xlabel("mean loss over seeds (nats)", fontsize=8)
    figure.suptitle(f"{title}\nevery example of {forget_set}: how much it varies over seeds, against its loss", fontsize=10)
    return figure


def along_lines(lines: list[Line], title: str) -> "matplotlib.figure.Figure":
    """Draws the loss along every kind of line: between trained models, from originals to unlearned, from unlearned to oracles."""
    kinds = list(dict.fromkeys(line.kind for line in lines))
    between = [kind for kind in kinds if kind.removesuffix(INTERPOLATED) in TRAINED]
    others = [kind for kind in kinds if kind not in between]
    rows = {
        "between trained models": (between, ""),
        "original to unlearned": ([kind for kind in others if kind.startswith("original to ")], "original to "),
        "unlearned to oracle": ([kind for kind in others if kind.endswith(" to oracle")], " to oracle"),
    }
    figure = blank(WIDTH, 8.0)
    panels = figure.subplots(len(rows), len(SPLITS), sharex=True, squeeze=False)
    for row, (heading, (chosen, common)) in zip(panels, rows.items(), strict=True):
        bases = list(dict.fromkeys(kind.removesuffix(INTERPOLATED) for kind in chosen))
        for axes, split in zip(row, SPLITS, strict=True):
            for kind in chosen:
                points = [line for line in lines if line.kind == kind and line.split == split]
                share, loss, low, high = np.array([(line.share, line.loss, line.low, line.high) for line in points]).T
                dashed = kind.endswith(INTERPOLATED)
                name = SHORT.get(kind, "statistics interpolated" if dashed else kind.replace(common, "") if common else kind)
                colour = DISTINCT[bases.index(kind.removesuffix(INTERPOLATED)) % len(DISTINCT)]
                axes.plot(share, loss, "--" if dashed else "-", color=colour, linewidth=1.2, label=name)
                if not dashed:
                    axes.fill_between(share, np.maximum(low, 0), high, color=colour, alpha=0.12, linewidth=0)
            axes.set_title(f"{NAMES[split]}, {heading}", fontsize=7.5)
            drawn = [line.loss for line in lines if line.kind in bases and line.split == split]
            axes.set_ylim(0, 1.25 * max(drawn, default=1.0))
            axes.tick_params(labelsize=8)
            open_frame(axes)
        row[0].set_ylabel("mean loss (nats)", fontsize=8)
        row[-1].legend(fontsize=6.5, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    for axes in panels[-1]:
        axes.set_xlabel("share of the way", fontsize=8)
    figure.suptitle(
        f"{title}\nloss along lines between weights, BatchNorm statistics recomputed at each point; bands: 95%", fontsize=10
    )
    return figure


def contours(plane: Plane, names: tuple[str, str, str], title: str) -> "matplotlib.figure.Figure":
    """Draws the loss on forget, retain and test on the plane through three models."""
    figure = blank(WIDTH, 3.7)
    panels = figure.subplots(1, len(SPLITS), sharex=True, sharey=True)
    positive = np.maximum(plane.losses, 1e-3)
    levels = np.geomspace(positive.min(), positive.max(), 15)
    for place, (axes, split) in enumerate(zip(panels, SPLITS, strict=True)):
        drawn = axes.contourf(plane.x, plane.y, positive[..., place], levels=levels, norm="log", cmap="viridis_r", extend="both")
        axes.contour(plane.x, plane.y, positive[..., place], levels=levels, colors="white", linewidths=0.3)
        for (x, y), name, mark in zip(plane.places, names, ("o", "s", "^"), strict=True):
            axes.plot(x, y, mark, color=COLOURS[4], markeredgecolor="white", markersize=7, label=name)
        axes.set_title(NAMES[split], fontsize=9)
        axes.tick_params(labelsize=8)
        axes.set_xlabel("distance of weights", fontsize=8)
    panels[0].legend(fontsize=7, framealpha=0.85, loc="best")
    panels[0].set_ylabel("distance of weights", fontsize=8)
    bar = figure.colorbar(drawn, ax=list(panels), shrink=0.9, label="mean loss (nats)", ticks=levels[::2])
    bar.ax.set_yticklabels([f"{level:.2g}" for level in levels[::2]], fontsize=8)
    figure.suptitle(
        f"{title}\nthe plane through one original, one oracle and the unlearned original; each axis with its own scale",
        fontsize=10,
    )
    return figure


def sharpness(columns: Columns, title: str) -> "matplotlib.figure.Figure":
    """Draws every model's largest Hessian eigenvalue against its loss on the forget set; large marks are geometric means."""
    from matplotlib.ticker import NullFormatter

    figure = blank(WIDTH, 4.4)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    groups = list(dict.fromkeys(columns["group"].tolist()))
    for axes, split in zip(panels, ("retain", "forget"), strict=True):
        for number, group in enumerate(groups):
            members = columns["group"] == group
            loss, sharp = columns["loss_forget"][members], np.maximum(columns[f"sharpness_{split}"][members], 1e-6)
            colour = "black" if group == "oracle" else DISTINCT[number % len(DISTINCT)]
            axes.plot(loss, sharp, ".", color=colour, markersize=3, alpha=0.5)
            centre = np.exp(np.log(loss).mean()), np.exp(np.log(sharp).mean())
            mark = "*" if group in ("original", "oracle") else "o"
            axes.plot(*centre, mark, color=colour, markersize=13 if mark == "*" else 8, markeredgecolor="white", label=group)
        axes.set_xscale("log")
        axes.set_yscale("log", base=2)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
        left, right = axes.get_xlim()
        axes.xaxis.set_minor_formatter("{x:g}" if right < 10 * left else NullFormatter())
        axes.set_xlabel("mean loss on the forget set (nats)", fontsize=8)
        axes.set_ylabel("largest eigenvalue of the Hessian", fontsize=8)
        axes.set_title(f"of the loss on the {NAMES[split]}", fontsize=9)
        axes.tick_params(labelsize=8, which="both")
        open_frame(axes)
    panels[1].legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.suptitle(f"{title}\nsharpness against forgetting; small: single models", fontsize=10)
    return figure


def _six_digits(value: float) -> float | None:
    return finite(float(f"{value:.6g}"))


def _cell(row: Row | None) -> str:
    """A value with its interval and its difference from the oracles."""
    if row is None:
        return ""
    text = f"{row.value:.3g}" if row.low is None or row.high is None else f"{Interval(row.value, row.low, row.high):.3g}"
    if row.difference is not None:
        text += f"; {row.difference:+.3g} ({row.difference_low:.3g} to {row.difference_high:.3g})"
    return text


def _wrongness(wrong: int) -> str:
    return "wrong label" if wrong else "right label"
