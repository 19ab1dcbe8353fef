"""Tables and the figure of the study of audits."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments.audits.catalogue import BACK, CHANGES, GROUPS, Audit
from experiments.audits.options import Config
from experiments.audits.ranking import JUDGES, Agreement, Truth
from experiments.audits.samples import SAMPLES, Grade
from unlearn_jax.metrics.catalogue import damage, klom, memory_left
from unlearn_jax.metrics.statistics import bootstrap
from unlearn_jax.report.drawing import COLOURS, GRID, LINE, WIDTH, blank, name_rows
from unlearn_jax.report.rows import REFERENCES
from unlearn_jax.report.tables import finite_row, markdown, page
from unlearn_jax.runs import Run

if TYPE_CHECKING:
    import matplotlib.figure

SIZES = [f"{size.name}{end}" for size in (memory_left, damage) for end in ("", "_low", "_high")]
TRUTH_COLUMNS = ("method", *SIZES, "distance", klom.name)


class Line(NamedTuple):
    """One row of audits.csv: an audit of a method's models.

    Attributes:
        method: of the registry of methods.
        audit: its name.
        group: what it looks at.
        value: the mean over models; of a bound on ε over models, one number.
        value_low: lower end of its 95% interval over models.
        value_high: upper end; infinite for a lower bound.
        null_mean: the mean of retrained models.
        null_sd: of a mean over as many models, less that of the null's models.
        z: (value - null_mean) / null_sd; None where the null does not vary.
        models: that did not diverge, nor under a change before which the audit is not asked.
    """

    method: str
    audit: str
    group: str
    value: float
    value_low: float
    value_high: float
    null_mean: float
    null_sd: float
    z: float | None
    models: int


RANKED = (
    "Rank correlation (Spearman's, 95% over methods and originals) of each audit with the distance from retraining (the "
    "larger of |memory left| and damage), and with KLOM on F. Judged by the null: how far a method is from retrained "
    "models; by its claim: how far it is from the value that the audit claims of a perfect method. Called good: within two "
    "standard deviations of the null."
)
BACK_AGAIN = (
    "The share of what originals remember of F that is there before and after a change to the models, none of which but the "
    "third shows F. A model that diverges under a change is lost: the cell says how many of how many are left. The null: other "
    "retrained models, mean ± sd."
)
BY_EXAMPLE = (
    "Audits with a score for each example, graded example by example: Spearman's correlation over F of the mean score with "
    "Welch's t of the margin, methods' against further retrained models' (of a test that looks at both sides, with |t|). Score "
    "and t are of different halves of the models, so that chance agrees with nothing: see retrain. Mean over methods (95%)."
)
VALUES = "The value, and in brackets its distance from the null in null standard deviations."


def write(
    folder: Run,
    audits: Sequence[Audit],
    rows: Sequence[Line],
    agreement: Sequence[Agreement],
    truth: Mapping[str, Truth],
    graded: Sequence[Grade],
    config: Config,
) -> None:
    """Writes the tables, and prints the one on agreement."""
    folder.write_csv("audits.csv", Line._fields, [finite_row(row) for row in rows])
    folder.write_csv("agreement.csv", Agreement._fields, [finite_row(row) for row in agreement])
    folder.write_csv("truth.csv", TRUTH_COLUMNS, [finite_row(_truth(name, each)) for name, each in truth.items()])
    folder.write_csv("samples.csv", Grade._fields, [finite_row(row) for row in graded])
    table = _agreement_table(agreement, audits, config)
    print(table)
    parts = (
        *("# Which audits agree with the truth?", RANKED, table),
        *("## Does the memory of F come back?", BACK_AGAIN, _back_table(rows, truth)),
        *("## Does it find the examples that are remembered?", BY_EXAMPLE, _sample_table(graded, config)),
        *("## Every other audit of every method", VALUES, _value_table(rows, audits, truth)),
        *("## The audits", _about(audits)),
    )
    folder.write_text("summary.md", page(*parts))


def _truth(name: str, truth: Truth) -> tuple:
    if truth.effects is None:
        return name, *[None] * 7, truth.klom
    return name, *truth.effects.memory_left, *truth.effects.damage, truth.distance, truth.klom


def _agreement_table(agreement: Sequence[Agreement], audits: Sequence[Audit], config: Config) -> str:
    labels = {audit.name: audit.label for audit in audits}
    headings = (
        "audit",
        "judged by",
        "with distance",
        "with KLOM",
        "called good",
        f"of these at {config.fails:g} or more",
        "its best",
    )
    lines = [
        (
            labels[row.audit],
            row.judged_by,
            _spread(row.distance, row.distance_low, row.distance_high),
            _spread(row.klom, row.klom_low, row.klom_high),
            "" if row.called_good is None else f"{row.called_good} of {row.methods}",
            ", ".join(row.fail.split()),
            f"{row.best} ({row.best_distance:.2f})",
        )
        for row in agreement
    ]
    return markdown(headings, lines, left=(0, 1, 5, 6))


def _back_table(rows: Sequence[Line], truth: Mapping[str, Truth]) -> str:
    """Memory of F before and after each change to the models."""
    values = {(row.method, row.audit): row for row in rows if row.group == BACK}
    if not values:
        return "What the originals remember of F is too little to measure: no memory."
    names = [f"memory_after_{change.replace(' ', '_').lower()}" for change in CHANGES]
    null = next(iter({row.method: row for row in rows}))
    before = {name: each.effects.memory_left.value for name, each in truth.items() if each.effects}
    whole = {name: max(row.models for row in rows if row.method == name) for name in truth}

    def cell(row: Line) -> str:
        lost = f" ({row.models} of {whole[row.method]})" if row.models < whole[row.method] else ""
        return ("lost" if math.isnan(row.value) else f"{row.value:.2f}") + lost

    lines = [(name, f"{before.get(name, math.nan):.2f}", *(cell(values[name, each]) for each in names)) for name in truth]
    retrained = [f"{values[null, each].null_mean:.2f} ± {values[null, each].null_sd:.2f}" for each in names]
    return markdown(("memory of F", "before", *CHANGES), [*lines, ("null", "0", *retrained)], left=(0,))


def _sample_table(graded: Sequence[Grade], config: Config) -> str:
    """The mean over methods of each audit's grade, and those of originals and retrained models."""
    of = {(row.method, row.audit): row.agreement for row in graded}
    lines = []
    for name, audit in SAMPLES.items():
        grades = [row.agreement for row in graded if row.audit == name and row.method not in REFERENCES]
        found = bootstrap(np.array(grades), config.seed) if len(grades) > 1 else None
        mean = _spread(*found) if found else ""
        known = [f"{of[reference, name]:.2f}" if (reference, name) in of else "" for reference in REFERENCES]
        lines.append((audit.label, "t" if audit.signed else "|t|", mean, *known, audit.source))
    return markdown(("audit", "with", "mean over methods", *REFERENCES, "source"), lines, left=(0, 1, 5))


def _value_table(rows: Sequence[Line], audits: Sequence[Audit], truth: Mapping[str, Truth]) -> str:
    """Every other audit of every method, with z."""
    shown = [audit for audit in audits if audit.group != BACK]
    values = {(row.method, row.audit): row for row in rows}

    def cell(row: Line) -> str:
        return f"{row.value:.3g}" + (f" ({row.z:+.1f})" if row.z is not None else "")

    lines = [(name, *(cell(values[name, audit.name]) for audit in shown)) for name in truth]
    first = next(iter(truth))
    nulls = [f"{values[first, audit.name].null_mean:.3g} ± {values[first, audit.name].null_sd:.2g}" for audit in shown]
    return markdown(("value (z)", *(audit.label for audit in shown)), [*lines, ("null", *nulls)], left=(0,))


def _about(audits: Sequence[Audit]) -> str:
    lines = [(a.name, a.group, a.summary, "" if a.target is None else f"{a.target:g}", a.source) for a in audits]
    return markdown(("audit", "group", "what it is", "claims", "source"), lines, left=(0, 1, 2, 4))


def _spread(value: float | None, low: float | None, high: float | None) -> str:
    return "" if value is None else f"{value:.2f} ({low:.2f} to {high:.2f})"


def figure(agreement: Sequence[Agreement], audits: Sequence[Audit], title: str) -> "matplotlib.figure.Figure":
    """Draws the rank correlation of every audit with the distance from retraining, the best on top of each group.

    Args:
        agreement: see `Agreement`.
        audits: in their order.
        title: of the figure.
    """
    known = [row for row in agreement if row.distance is not None]
    by_null, by_claim = ({row.audit: row for row in known if row.judged_by == judge} for judge in JUDGES)
    labels = {audit.name: audit.label for audit in audits}
    names = sorted(by_null, key=lambda name: (GROUPS.index(by_null[name].group), -(by_null[name].distance or 0)))
    drawn = blank(WIDTH, 1.4 + 0.24 * max(len(names), 1))
    axes = drawn.subplots()
    for place, name in enumerate(names):
        for rows, shift, marker in ((by_null, -0.14, "o"), (by_claim, 0.14, "D")):
            if name in rows:
                row = rows[name]
                colour = COLOURS[GROUPS.index(row.group)]
                low, value, high = (float(end or 0) for end in (row.distance_low, row.distance, row.distance_high))
                axes.plot([low, high], [place + shift] * 2, color=colour, linewidth=1)
                face = colour if marker == "o" else "white"
                axes.plot([value], [place + shift], marker, color=colour, markerfacecolor=face, markersize=4.5)
    axes.axvline(0, color=LINE, linestyle=":", linewidth=1)
    name_rows(axes, [labels[name] for name in names], 8.0)
    axes.set_xlim(-1.02, 1.02)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_xlabel("rank correlation with the distance from retraining (95% over methods and originals)", fontsize=8)
    for group, colour in zip(GROUPS, COLOURS, strict=False):
        axes.plot([], [], "o", color=colour, label=group, markersize=4.5)
    axes.plot([], [], "o", color="black", label="against retrained models", markersize=4.5)
    axes.plot([], [], "D", color="black", markerfacecolor="white", label="against its own claim", markersize=4.5)
    drawn.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    drawn.suptitle(title, fontsize=10)
    return drawn
