"""The rule that says, before anything is unlearned, which sign of the entropy term helps; and how often it is right.

It was read from digits and an MLP (`options.SEEN`). It asks two things of the originals and a few retrained models on the forget
set: which are surer, and on how many examples originals already answer as the retrained ones do.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from scipy.stats import binomtest

from experiments.entropy.options import UNSEEN
from experiments.entropy.report import Circumstance, Results
from unlearn_jax.report.drawing import COLOURS, LINE, WIDTH, blank, open_frame
from unlearn_jax.report.tables import Table, markdown, page
from unlearn_jax.types import Interval

if TYPE_CHECKING:
    import matplotlib.figure

SAME, OTHER = 0.5, 0.3  # shares of equal answers: from the first on lowering helps, below the second it does not
LOWER, RAISE, NEITHER = ("lower", "raise", "neither")


def rule(gap: float, same: float) -> str:
    """The sign of the entropy on F that should bring the originals nearer to the retrained models.

    Args:
        gap: the entropy on F of retrained models, less that of originals, in nats.
        same: the share of F that originals classify as most retrained models do.
    """
    if gap > 0 or same < OTHER:
        return RAISE  # retrained models are less sure, or sure of something else
    return LOWER if same >= SAME else NEITHER


def by_gap(gap: float, same: float) -> str:
    """The simpler rule, to compare with: lower the entropy if retrained models have less of it."""
    return LOWER if gap < 0 else RAISE


def always(gap: float, same: float) -> str:
    """The simplest rule: raise the entropy."""
    return RAISE


RULES: dict[str, Callable[[float, float], str]] = {"the rule": rule, "the gap alone": by_gap, "always raise": always}


class Outcome(NamedTuple):
    """A circumstance, what the rules predict and what was found.

    Attributes:
        circumstance: its name.
        unseen: whether the rule was made without it.
        gap: in entropy, of retrained models less originals, in nats.
        same: the share of F that originals classify as retrained models do.
        predicted: the sign by each of `RULES`.
        lowering: the gain of lowering the entropy alone, in the oracles' standard deviations.
        raising: of raising it.
        found: the sign with a gain above 0 that is beyond noise, the larger one of two; neither if there is none.
    """

    circumstance: Circumstance
    unseen: bool
    gap: float
    same: float
    predicted: dict[str, str]
    lowering: Interval
    raising: Interval
    found: str


def outcome(circumstance: Circumstance, unseen: bool) -> Outcome:
    """Compares the prediction for a circumstance with what unlearning gave."""
    measures = circumstance.measures
    gap, same = measures["entropy gap"].value, measures["same answer"].value
    gains = {
        sign: measures[f"distance: gain of {doing} entropy, alone"] for sign, doing in ((LOWER, "lowering"), (RAISE, "raising"))
    }
    helps = [sign for sign, gain in gains.items() if gain.low > 0]
    found = max(helps, key=lambda sign: gains[sign].value, default=NEITHER)
    predicted = {name: predict(gap, same) for name, predict in RULES.items()}
    return Outcome(circumstance, unseen, gap, same, predicted, gains[LOWER], gains[RAISE], found)


def outcomes(study: Results) -> list[Outcome]:
    """The outcomes of all circumstances but the controls, which are no forgetting. Digits and the MLP are known to the rule."""
    return [outcome(one, one.name in UNSEEN or not study.known) for one in study.circumstances if not one.control]


def table(study: Results) -> Table:
    """The columns and rows of predictions.csv."""
    columns = ["circumstance", "unseen", "entropy_gap", "same_answer", *(f"predicted by {name}" for name in RULES)]
    columns += [f"{sign}{end}" for sign in ("lowering", "raising") for end in ("", "_low", "_high")]
    rows = [
        [one.circumstance.name, one.unseen, one.gap, one.same, *one.predicted.values(), *one.lowering, *one.raising, one.found]
        for one in outcomes(study)
    ]
    return Table([*columns, "found"], rows)


def hits(found: list[Outcome], name: str) -> str:
    """How often a rule was right, with the Clopper-Pearson interval: `5 of 7 (29 to 96%)`."""
    right = sum(one.predicted[name] == one.found for one in found)
    low, high = binomtest(right, len(found)).proportion_ci()
    return f"{right} of {len(found)} ({100 * low:.0f} to {100 * high:.0f}%)"


def summary(study: Results) -> str:
    """The part of summary.md on predictions."""
    all_found = outcomes(study)
    lines = [
        [
            one.circumstance.title,
            f"{one.gap:+.2f}",
            f"{100 * one.same:.0f}%",
            one.predicted["the rule"],
            *(f"{gain.value:.2f} ({gain.low:.2f} to {gain.high:.2f})" for gain in (one.lowering, one.raising)),
            one.found,
        ]
        for one in all_found
    ]
    headings = ["", "entropy gap", "same answers", "predicted", "lowering gains", "raising gains", "found"]
    new = [one for one in all_found if one.unseen]
    score = "; ".join(f"{name} {hits(new, name)}" for name in RULES) if new else "none was tried"
    said = f"Right in circumstances that the rule had not seen: {score}."
    return page("## Which sign of the entropy: predicted and found", markdown(headings, lines), said)


def figure(study: Results) -> "matplotlib.figure.Figure":
    """Draws what lowering and raising the entropy alone gain in every circumstance, controls too, with the sign predicted."""
    gains = {one.circumstance.name: one for one in outcomes(study)}
    drawn = blank(WIDTH, 1.2 + 0.32 * len(study.circumstances))
    axes = drawn.subplots()
    places = range(len(study.circumstances), 0, -1)
    for colour, doing, shift in ((COLOURS[0], "lowering", 0.12), (COLOURS[1], "raising", -0.12)):
        found = [one.measures[f"distance: gain of {doing} entropy, alone"] for one in study.circumstances]
        heights = [place + shift for place in places]
        axes.hlines(heights, [gain.low for gain in found], [gain.high for gain in found], color=colour, linewidth=1.2)
        axes.plot([gain.value for gain in found], heights, "o", color=colour, markersize=4, label=f"{doing} the entropy")
    axes.axvline(0, color=LINE, linewidth=0.6)
    said = [
        f"predicted: {gains[one.name].predicted['the rule']}" if one.name in gains else "control" for one in study.circumstances
    ]
    axes.set_yticks(
        list(places), [f"{one.title}\n({note})" for one, note in zip(study.circumstances, said, strict=True)], fontsize=7
    )
    axes.set_xlabel("gain: distance from the oracles without the term, less that with it (above 0 it helps)", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    open_frame(axes)
    drawn.legend(frameon=False, fontsize=7, loc="outside lower center", ncols=2)
    axes.set_title(study.title, fontsize=8)
    return drawn
