"""What the page of a run says: the verdict in one sentence, five answers, and what the words mean."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from unlearn_jax.bench.statistics import SIGNIFICANT
from unlearn_jax.metrics import FEWEST_JUDGED
from unlearn_jax.metrics.catalogue import (
    compile_seconds,
    damage,
    example_t,
    examples,
    memory_of_models,
    outlier_distance,
    outlier_memory,
    rte,
    rte_examples,
    seconds,
    tow,
    tow_mia,
)
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
        left: the rows of F of which its models are surer than the oracles, the largest difference first; None if unknown.
        overshot: likewise, those of which they are less sure.
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
    left: Sequence[str] | None = None
    overshot: Sequence[str] = ()
    examples: int = 0


class Whole(NamedTuple):
    """What a whole run cost.

    Attributes:
        methods: how many, without the references.
        models: that they unlearned, and that were retrained as a method.
        seconds: of these.
        compiling: seconds to compile the methods.
        pools: the number of originals and oracles.
        retraining: seconds of one of them.
    """

    methods: int
    models: int
    seconds: float
    compiling: float
    pools: int
    retraining: float

    def words(self, spent: Mapping[str, float] | None = None) -> str:
        """Returns what it cost in words.

        Args:
            spent: seconds of each stage of this process, see `progress.SECONDS`.
        """
        judged = sum((spent or {}).get(label, 0.0) for label in JUDGING)
        parts = [
            f"{self.pools} originals and oracles {duration(self.pools * self.retraining)}",
            f"{self.models} models of {self.methods} methods and of retraining {duration(self.seconds)}",
            f"to compile the methods {duration(self.compiling)}",
        ]
        if judged >= 1:
            parts.append(f"scores and figures {duration(judged)}")
        total = self.pools * self.retraining + self.seconds + self.compiling + judged
        return f"{duration(total)} added up, less by the clock where parts ran side by side: {', '.join(parts)}"


JUDGING = ("predictions", "metrics of models", "scores", "power", "figures")  # stages


class Answer(NamedTuple):
    """A question that a reader has, and its answer."""

    question: str
    answer: str  # in a few words
    more: str
    shows: Mapping[str, int] = MappingProxyType({})  # how many examples each filter of the gallery shows


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


def answers(methods: Sequence[Standing], tied: str, command: str, whole: str = "") -> list[Answer]:
    """Returns the answers to five questions about the method that is nearest to retraining.

    Args:
        methods: as in `headline`.
        tied: which others are not distinguished from the nearest.
        command: that made the run.
        whole: what the whole run cost, see `Whole.words`; empty if that is unknown.
    """
    repeat = Answer("How would I repeat it?", "With one command", command)
    if not methods:
        return [repeat]
    first = methods[0]
    return [
        Answer("Which method is nearest to retraining?", first.method, f"{_sizes(first)} {_others(tied)}".strip()),
        Answer("Is it equivalent to retraining?", _verdict(first), _why(first)),
        Answer("Which examples are left?", *_examples(first), _shows(first)),
        Answer("What did it cost?", *_cost(first, whole)),
        repeat,
    ]


def percent(value: float) -> str:
    """Formats a share: 14%, −3%; as it is if it is not finite."""
    return f"{100 * value:z.0f}%".replace("-", "−") if math.isfinite(value) else str(value)


def duration(seconds: float) -> str:
    """Formats a time: 0.2 s, 16 s, 9 min, 2.5 h."""
    if seconds < 1:
        return f"{seconds:.1g} s"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def chance(retrain: Standing) -> str:
    """Returns how the intervals of retraining, as a method, are to be read; with the one that excludes 0, if one does."""
    sizes = {"memory left": retrain.memory, damage.name: retrain.damage}
    off = [
        f"{name}, {percent(size[1])} to {percent(size[2])}"
        for name, size in sizes.items()
        if size and not size[1] <= 0 <= size[2]
    ]
    found = f"; here it is that of {' and that of '.join(off)}" if off else ""
    return (
        f"retrain is a check: models that were retrained anew, and judged as a method. By chance one in twenty of such 95% "
        f"intervals excludes 0{found}. The verdict does not ask whether 0 is inside: both intervals must lie within "
        f"{percent(MARGIN)} of it."
    )


def reading(methods: Sequence[Standing]) -> list[str]:
    """Returns how to read the table of the methods, in paragraphs."""
    effects = (
        f"{EQUIVALENT.capitalize()} (≈): the intervals of memory left and of damage lie within {percent(MARGIN)} of 0. Both are "
        "shares of what the originals remember of F. Noise can make them slightly negative; memory left is also negative where a "
        "method overshoots."
    )
    deviation = (
        "The largest deviation is the largest distance from the null over all metrics, in null sd; different (≠) if it is beyond "
        "the band and the method is not equivalent, not distinguished (●) if it is within. A membership attack can flip on one "
        "model: where its own standard error is larger than the null sd, its distance is counted in that."
    )
    cost = "A cost, such as the time, is a number of its own: there is no null to hold it against."
    return [*[effects] * any(each.memory and each.damage for each in methods), deviation, cost]


def _others(tied: str) -> str:
    """Of the sentence on the nearest, what it says of the others."""
    others = tied.partition("; ")[2].partition(" (")[0]
    return f"{others[:1].upper()}{others[1:]} (paired test, see Words)." if others else tied


def _sizes(of: Standing) -> str:
    if of.memory is None or of.damage is None:
        return "The nearest to retraining by KLOM on F; without the original models memory left and damage are unknown."
    memory, damage = (f"{percent(size[0])} ({percent(size[1])} to {percent(size[2])})" for size in (of.memory, of.damage))
    return f"Memory left {memory}; damage {damage}: the larger of both is smallest here."


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
    if of.left is None:
        return "Unknown", "Single examples were not tested in this run."
    said, level = f"{len(of.left)} of {of.examples}", f"q < {percent(SIGNIFICANT)}"
    if not of.left and not of.overshot:
        return said, f"On no example of F do its models differ from retrained ones ({level})."
    left = (
        f"On so many its models are still surer of the label than retrained ones ({level}): {_rows(of.left)}."
        if of.left
        else f"On none are its models still surer of the label than retrained ones ({level})."
    )
    return said, f"{left} On {len(of.overshot)} they are less sure: overshot."


def _rows(places: Sequence[str]) -> str:
    others = f" and {len(places) - MOST_NAMED} more" if len(places) > MOST_NAMED else ""
    return f"row{'s' * (len(places) > 1)} {', '.join(places[:MOST_NAMED])}{others} of the training set"


def _shows(of: Standing) -> dict[str, int]:
    return {key: len(rows) for key, rows in (("left", of.left or ()), ("overshot", of.overshot)) if rows}


def _cost(of: Standing, whole: str) -> tuple[str, str]:
    run = f" The whole run: {whole}." if whole else ""
    if of.seconds is None:
        return "Unknown", f"The time was not measured.{run}"
    said = f"{of.seconds:.3g} s a model"
    parts = []
    if of.share is not None:
        parts.append(f"{of.share:.2g} times one retraining's by the clock")
    if of.work is not None:
        parts.append(f"{of.work:.2g} times {'its' if parts else 'the'} work{'' if parts else ' of one retraining'} in examples")
    return said, (f"That is {', '.join(parts)}." if parts else "The time of retraining was not measured.") + run


def _listed(names: Sequence[str]) -> str:
    shown, others = names[:MOST_NAMED], len(names) - MOST_NAMED
    if others > 0:
        return f"{', '.join(shown)} and {others} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


GLOSSARY: Mapping[str, tuple[str, str]] = {
    "F": (
        "F, R, T",
        "The forget set (what must be forgotten), the retain set (the rest of the training set) and the test set. random-0 is "
        "the first forget set that was drawn at random; random-1 would be the second.",
    ),
    "original": (
        "original",
        "A model trained on everything. Every method starts from the originals; in the table, original is doing nothing.",
    ),
    "oracle": (
        "oracle",
        "A model retrained without F, also called retrained model: what a perfect method gives. A method is held against many of "
        "them. In the table, retrain is other such models, judged as a method.",
    ),
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
        "What changed besides: how far the models' margins on F, R and T are from the nearest mixture of retrained and original "
        "ones, as a share of how far these two are apart on F. 0% for retraining and for doing nothing; noise can make it "
        "slightly negative.",
    ),
    "equivalent": (
        EQUIVALENT,
        f"The 95% intervals of memory left and of damage both lie within {percent(MARGIN)} of 0: the shaded box of the chart.",
    ),
    "paired": (
        "paired test",
        "Whether another method is farther from retraining than the nearest one: the two are compared original by original, at a "
        "level of 5% over all methods together (Holm's correction).",
    ),
    "left": (
        "examples left, overshot",
        "Examples of F on which the models differ from retrained ones (q < 5%). Left: they are surer of the label, mostly since "
        "the example is remembered in part (where the originals are less sure themselves, it is not that). Overshot: they are "
        "less sure. An example that is neither may be remembered too, by less than so many models can show. Perfect: 0 of both.",
    ),
    "single": (
        "memory in single models, farthest single model",
        "Memory left of each model by itself. It has a null, and so it is one of the metrics that a largest deviation can be of; "
        "memory left has an interval instead. The farthest single model is the one that is furthest from the oracles, by its "
        "margins or by this memory, in sd of such a model among oracles.",
    ),
    "largest_t": (
        "five largest |t|",
        "On each example, t is the difference of the mean margins in its standard error. The root mean square of the five "
        "largest shows whether a few examples differ, whatever the others do.",
    ),
    "undistinguished": (
        UNDISTINGUISHED,
        "No metric shows a difference from retraining at this number of models. More models might.",
    ),
    "different": (DIFFERENT, "Some metric is further out than the band, and the method is not equivalent."),
    "access": (
        "access",
        "What a method may look at: F, R, both, test-like examples besides; data-free: no example, the network alone; none: it "
        "does nothing. Compare methods of the same access.",
    ),
    "test_like": (
        "test-like",
        "Held-out examples, drawn as the test set was: no model was trained on them, and no score is computed on them.",
    ),
    "margin": ("margin", "log p / (1 - p) of the label, in nats: how sure a model is of it. 0 is a probability of a half."),
    "memorisation": (
        "memorisation",
        "Of an example: the percentage of originals that predict its label minus that of the oracles, in points: +96 if 98% of "
        "the originals do and 2% of the oracles.",
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
    "quality": (
        "forgetting quality, competition score",
        "How little attacks on single examples tell a method's models from oracles; and that times the accuracies on R and "
        "T, as shares of the oracles'. "
        "With so few models some attacks seem to succeed even on retrained models: a perfect method scores the null, not 1.",
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

NAMES: Mapping[str, str] = {
    example_t.name: "five largest |t|",
    outlier_distance.name: "farthest single model",
    outlier_memory.name: "farthest memory of one model",
    memory_of_models.name: "memory in single models",
    seconds.name: "time of one model",
    compile_seconds.name: "time to compile",
    rte.name: "time / retraining's (RTE)",
    examples.name: "work of one model",
    rte_examples.name: "work / retraining's",
}
"""Metrics that the page calls by other words than figures and tables do."""
