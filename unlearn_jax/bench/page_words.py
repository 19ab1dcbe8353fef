"""What the page of a run says: the verdict in one sentence, five answers, and what the words mean."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from unlearn_jax.bench.statistics import SIGNIFICANT
from unlearn_jax.metrics import FEWEST_JUDGED
from unlearn_jax.metrics.catalogue import damage, tow, tow_mia
from unlearn_jax.metrics.effects import MARGIN, OUTCOMES

MOST_NAMED = 4  # methods in the heading; rows in an answer
EQUIVALENT, UNDISTINGUISHED, DIFFERENT = OUTCOMES
Size = tuple[float, float, float]  # value, and the ends of its interval


class Standing(NamedTuple):
    """What a page says about one method in words.

    Attributes:
        method: its name.
        outcome: see `effects.outcome_of`.
        members: models that were compared.
        memory: memory left of F; None if it is unknown.
        damage: over all splits; None if it is unknown.
        largest: the largest evidence of a difference, and its metric; None without a null.
        band: what the largest evidence of retrained models stays below.
        seconds: of one model.
        share: those, as a share of one retraining's.
        work: the work for one model, as a share of one retraining's.
        differing: the rows of F on which its models differ from the oracles, the largest difference first; None if unknown.
        examples: of the forget set.
    """

    method: str
    outcome: str | None
    members: int
    memory: Size | None = None
    damage: Size | None = None
    largest: tuple[float, str] | None = None
    band: float | None = None
    seconds: float | None = None
    share: float | None = None
    work: float | None = None
    differing: Sequence[str] | None = None
    examples: int = 0


class Answer(NamedTuple):
    """A question that a reader has, and its answer."""

    question: str
    answer: str  # in a few words
    more: str


def headline(methods: Sequence[Standing]) -> str:
    """Returns the verdict of a run in one sentence.

    Args:
        methods: without the references, the nearest to retraining first.
    """
    if not methods:
        return "Only the references were run: there is no method to judge."
    nearest, judged = methods[0], [each for each in methods if each.outcome]
    if not judged:
        return f"No verdict below {FEWEST_JUDGED} models of each method; nearest to retraining is {nearest.method}."
    count = f"{len(judged)} methods" if len(judged) > 1 else "method"
    for outcome, said in ((EQUIVALENT, "equivalent to retraining"), (UNDISTINGUISHED, "not distinguished from retraining")):
        if found := [each.method for each in judged if each.outcome == outcome]:
            first = "" if outcome == EQUIVALENT else "No method is shown to be equivalent to retraining; "
            verb = "is" if len(found) == 1 else "are"
            if len(judged) == 1:
                return f"{first}{found[0]} is {said}."
            return f"{first}{len(found)} of {count} {verb} {said}: {_listed(found)}."
    head = (
        f"None of the {count} is equivalent to retraining" if len(judged) > 1 else f"{judged[0].method} differs from retraining"
    )
    if nearest.memory is None or nearest.damage is None:
        return f"{head}; nearest is {nearest.method}." if len(judged) > 1 else f"{head}."
    sizes = f"leaves {percent(nearest.memory[0])} of the memory at {percent(nearest.damage[0])} damage"
    return f"{head}; the nearest, {nearest.method}, {sizes}." if len(judged) > 1 else f"{head}: it {sizes}."


def answers(methods: Sequence[Standing], tied: str, command: str) -> list[Answer]:
    """Returns the answers to five questions about the method that is nearest to retraining.

    Args:
        methods: as in `headline`.
        tied: which others are not distinguished from the nearest.
        command: that made the run.
    """
    repeat = Answer("How would I repeat it?", "With one command:", command)
    if not methods:
        return [repeat]
    first = methods[0]
    return [
        Answer("Which method forgets most without damage?", first.method, f"{_sizes(first)} {tied}".strip()),
        Answer("Is it equivalent to retraining?", _verdict(first), _why(first)),
        Answer("Which examples are left?", *_examples(first)),
        Answer("What did it cost?", *_cost(first)),
        repeat,
    ]


def percent(value: float) -> str:
    """Formats a share: 14%, −3%; as it is if it is not finite."""
    return f"{100 * value:z.0f}%".replace("-", "−") if math.isfinite(value) else str(value)


def _sizes(of: Standing) -> str:
    if of.memory is None or of.damage is None:
        return "The nearest to retraining by KLOM on F; without the original models memory left and damage are unknown."
    memory, damage = (f"{percent(size[0])} ({percent(size[1])} to {percent(size[2])})" for size in (of.memory, of.damage))
    sizes = f"Memory left {memory}; damage {damage}. Perfect: 0% and 0%. Doing nothing: 100% and 0%."
    return f"{sizes} Nearest: the larger of both is smallest."


def _verdict(of: Standing) -> str:
    return {
        EQUIVALENT: "Yes",
        UNDISTINGUISHED: "Not shown, but not distinguished from it",
        DIFFERENT: "No",
    }.get(of.outcome or "", "No verdict")


def _why(of: Standing) -> str:
    within = f"within {percent(MARGIN)} of what there is to forget"
    if of.outcome is None:
        return f"{of.members} models were compared; a verdict takes {FEWEST_JUDGED}."
    if of.outcome == EQUIVALENT:
        return f"The intervals of memory left and of damage lie {within}."
    text = f"For that, the intervals of memory left and of damage would have to lie {within}."
    if of.largest is None or of.band is None:
        return text
    beyond = "inside" if of.outcome == UNDISTINGUISHED else "outside"
    where = f"{beyond} the band of {of.band:.2f} that holds 95% of retrained models (n = {of.members})"
    return f"{text} Its largest deviation, {of.largest[0]:.1f} null sd by {of.largest[1]}, is {where}."


def _examples(of: Standing) -> tuple[str, str]:
    if of.differing is None:
        return "Unknown", "Single examples were not tested in this run."
    said = f"{len(of.differing)} of {of.examples}"
    if not of.differing:
        return said, f"On no example of F do its models differ from retrained ones (false discovery rate {percent(SIGNIFICANT)})."
    rows = ", ".join(of.differing[:MOST_NAMED])
    others = f" and {len(of.differing) - MOST_NAMED} more" if len(of.differing) > MOST_NAMED else ""
    numbered = f"row{'s' * (len(of.differing) > 1)} {rows}{others} of the training set"
    return said, f"On so many examples of F its models differ from retrained ones (q < {percent(SIGNIFICANT)}): {numbered}."


def _cost(of: Standing) -> tuple[str, str]:
    if of.seconds is None:
        return "Unknown", "The time was not measured."
    said = f"{of.seconds:.3g} s a model"
    parts = []
    if of.share is not None:
        parts.append(f"{of.share:.2g} times one retraining's by the clock")
    if of.work is not None:
        parts.append(f"{of.work:.2g} times {'its' if parts else 'the'} work{'' if parts else ' of one retraining'}")
    return said, f"That is {', '.join(parts)}. A cost has no null." if parts else "A cost has no null."


def _listed(names: Sequence[str]) -> str:
    shown, others = names[:MOST_NAMED], len(names) - MOST_NAMED
    if others > 0:
        return f"{', '.join(shown)} and {others} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


GLOSSARY: Mapping[str, tuple[str, str]] = {
    "F": ("F, R, T", "The forget set (what must be forgotten), the retain set (the rest of the training set) and the test set."),
    "original": ("original", "A model trained on everything. Every method starts from the originals; doing nothing leaves them."),
    "oracle": ("oracle", "A model retrained without F: what a perfect method gives. A method is held against many of them."),
    "null": (
        "null",
        "What a perfect method would have scored with as many models: retrained models against other retrained models. A value "
        "means something only beside it.",
    ),
    "z": ("null sd, z", "The distance of a value from the mean of the null, in standard deviations of the null."),
    "band": (
        "band",
        "In 95 of 100 cases the largest deviation of retrained models, over all metrics, stays within it. A method beyond it is "
        "different from retraining, unless it is equivalent to it.",
    ),
    "memory": (
        "memory left",
        "How much of what the originals remember of F is still there: 0% as after retraining, 100% as if nothing was done. "
        "Below 0%: the answers on F have gone past those of retrained models, because the method overshoots or ruins the model.",
    ),
    damage.name: (
        damage.label,
        "What changed besides: on F, R and T, the distance of the models' margins from the line that leads from the oracles' to "
        "the originals', as a share of the distance between these two on F. 0% for retraining and for doing nothing, which are "
        "on the line; noise can make it slightly negative.",
    ),
    "equivalent": (
        EQUIVALENT,
        f"The 95% intervals of memory left and of damage both lie within {percent(MARGIN)} of 0: the shaded box of the chart.",
    ),
    "undistinguished": (
        UNDISTINGUISHED,
        "No metric shows a difference from retraining at this number of models. More models might.",
    ),
    "different": (DIFFERENT, "Some metric is further out than the band, and the method is not equivalent."),
    "access": (
        "access",
        "What a method may look at: F, R, both, test-like examples besides, or none. Compare methods of the same access.",
    ),
    "test_like": (
        "test-like",
        "Held-out examples, drawn as the test set was: no model was trained on them, and no score is computed on them.",
    ),
    "margin": ("margin", "log p / (1 - p) of the label, in nats: how sure a model is of it. 0 is a probability of a half."),
    "memorisation": (
        "memorisation",
        "Of an example: how much more often the originals predict its label than the oracles do, in points.",
    ),
    "q": ("q", "The p-value of the difference on one example, corrected for the number of examples (false discovery rate)."),
    "klom": ("KLOM", "The divergence between the margins of a method's models and of the oracles. Not 0 for a perfect method."),
    "mia": (
        "MIA",
        "A membership inference attack: it tells examples that a model trained on from others. Read its score against the "
        "oracles', not against 1/2.",
    ),
    tow.name: (
        f"{tow.label} (tow), {tow_mia.label} (tow_mia)",
        "Three gaps to the retrained models in one number, 1 where there is none: the product of 1 - gap in accuracy on F, R and "
        "T. In tow_mia the attack SVC-MIA takes the place of the accuracy on F.",
    ),
    "power": (
        "visible difference",
        "The difference that would be called outside the null in 80 of 100 runs with so many models.",
    ),
    "interval": (
        "interval",
        "95%: of memory left and damage over other originals and oracles, of other metrics over the models that were unlearned.",
    ),
}
"""Key -> the word, and what it means."""
