"""The table and the figure of the study of parts of F."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unlearn_jax.metrics.effects import UNKNOWN, Effects
from unlearn_jax.report.drawing import COLOURS, GRID, LINE, open_frame, panels_of
from unlearn_jax.report.tables import finite_row, markdown, page
from unlearn_jax.runs import Run

if TYPE_CHECKING:
    import matplotlib.figure

COLUMNS = 3  # panels in a row
SHOWN = (-1.0, 1.2)  # of memory left, in the figure
RUINED = 10  # |memory left| or damage beyond which a number says no more
ABOUT = (
    "Memory left of all of F, and in brackets damage, when a method is shown a share of F. random: drawn anew for each original; "
    "exposed: the examples that models on random halves give away most. Models that diverged are left out; ruined: a size "
    f"beyond {RUINED}, see coreset.csv."
)


class Line(NamedTuple):
    """One row of coreset.csv.

    Attributes:
        method: of the registry.
        choice: random, exposed or all.
        share: of F that the method was shown.
        examples: the number of these.
        memory_left: of all of F.
        memory_left_low: lower end of its 95% interval.
        memory_left_high: upper end.
        damage: over all splits.
        damage_low: lower end.
        damage_high: upper end.
        models: that did not diverge.
    """

    method: str
    choice: str
    share: float
    examples: int
    memory_left: float
    memory_left_low: float
    memory_left_high: float
    damage: float
    damage_low: float
    damage_high: float
    models: int


def line(method: str, choice: str, share: float, examples: int, effects: Effects | None, models: int) -> Line:
    """One row; effect sizes that are not known are NaN."""
    left, damage = (effects.memory_left, effects.damage) if effects else (UNKNOWN, UNKNOWN)
    return Line(method, choice, share, examples, *left, *damage, models)


def write(folder: Run, lines: Sequence[Line]) -> None:
    """Writes the tables, and prints one."""
    folder.write_csv("coreset.csv", Line._fields, [finite_row(each) for each in lines])
    of = {(each.method, each.choice, each.share): each for each in lines}
    columns = list(dict.fromkeys((each.choice, each.share) for each in sorted(lines, key=lambda each: (each.choice, each.share))))

    whole = max(each.models for each in lines)

    def cell(each: Line | None) -> str:
        if each is None or np.isnan(each.memory_left):
            return ""
        far = max(abs(each.memory_left), abs(each.damage)) > RUINED
        sizes = "ruined" if far else f"{each.memory_left:.2f} ({each.damage:.2f})"
        return sizes + (f", {each.models} models" if each.models < whole else "")

    rows = [
        (name, *(cell(of.get((name, *column))) for column in columns)) for name in dict.fromkeys(each.method for each in lines)
    ]
    headings = ("memory left (damage)", *("all of F" if choice == "all" else f"{share:g} {choice}" for choice, share in columns))
    table = markdown(headings, rows, left=(0,))
    print(table)
    folder.write_text("summary.md", page("# How much of F does a method need?", ABOUT, table))


def figure(lines: Sequence[Line], title: str) -> "matplotlib.figure.Figure":
    """Draws memory left of all of F against the share of it that a method was shown, a panel for each method.

    What is beyond `SHOWN` stands at the edge.

    Args:
        lines: see `Line`.
        title: what the figure is about.
    """
    names = list(dict.fromkeys(each.method for each in lines))
    drawn, panels = panels_of(len(names), COLUMNS, lambda down, across: 1.3 + 1.7 * down)
    for axes, name in zip(panels, names, strict=True):
        for choice, colour, marker in (("random", COLOURS[0], "o"), ("exposed", COLOURS[1], "s")):
            own = [each for each in lines if each.method == name and each.choice in (choice, "all")]
            own = sorted((each for each in own if np.isfinite(each.memory_left)), key=lambda each: each.share)
            if own:
                shares, values, lows, highs = np.array(
                    [(each.share, each.memory_left, each.memory_left_low, each.memory_left_high) for each in own]
                ).T
                values, lows, highs = (np.clip(each, *SHOWN) for each in (values, lows, highs))
                axes.plot(shares, values, marker, linestyle="-", color=colour, markersize=4, label=choice, clip_on=False)
                axes.fill_between(shares, lows, highs, color=colour, alpha=0.2, linewidth=0)
        axes.set_ylim(*SHOWN)
        for level in (0, 1):
            axes.axhline(level, color=LINE, linestyle=":", linewidth=1)
        axes.set_title(name, fontsize=8)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(axis="y", color=GRID, linewidth=0.6)
        axes.tick_params(labelsize=7)
    open_frame(*panels)
    for axes in panels[-COLUMNS:]:
        axes.set_xlabel("share of F that it is shown", fontsize=8)
    drawn.supylabel("memory left of all of F (95%)", fontsize=8)
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    drawn.suptitle(f"{title}\ndotted: retraining (0), no unlearning (1); at the edge: further out", fontsize=9)
    return drawn
