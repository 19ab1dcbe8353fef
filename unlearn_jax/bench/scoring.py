"""Scores the methods on one forget set against its oracles; the scores as rows and figures."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from unlearn_jax.bench.forget_set import ForgetSet
from unlearn_jax.bench.judging import Judged, Judgement, retraining_examples
from unlearn_jax.bench.population import comparable, first_members, score_alive
from unlearn_jax.metrics import Evaluation, Reference, Score, Spent, accuracies, catalogue, reference, scaled_logits
from unlearn_jax.metrics.by_model import NONE, Memory, memory_axis
from unlearn_jax.metrics.effects import Effects, effects, outcome_of
from unlearn_jax.metrics.evaluation import GROUPS
from unlearn_jax.metrics.registry import COST, EFFECT, PARTS, Name, in_order
from unlearn_jax.metrics.views import Views, views_of
from unlearn_jax.progress import working
from unlearn_jax.report import figures
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import Row, subject
from unlearn_jax.types import Cube, Labels

LARGE = 0.2  # gap in accuracy from which an example counts as memorised


class Scored(NamedTuple):
    """The scores of a method on one forget set. It takes at least two members that did not diverge."""

    evaluation: Evaluation
    n: int  # models that were compared: those that did not diverge, or the first of them if there are too few oracles
    reference: Reference
    members: dict[Name, np.ndarray]  # [originals, seeds] for each metric with a value per member; NaN where one diverged
    effects: Effects | None = None  # None: the originals are not among the methods, or fewer than two pairs are left


def null_of(
    forget: ForgetSet, oracles: Cube, extra: dict[Name, np.ndarray] | None = None, views: Views | None = None
) -> Reference:
    """Scores retrained models against each other.

    Args:
        forget: the forget set.
        oracles: the logits of the oracles that did not diverge.
        extra: their metrics that need more than logits.
        views: see `metrics.reference`.
    """
    config = forget.config
    count = comparable(forget.members, len(oracles.forget))
    given: dict[str, Any] = {"splits": config.evaluation.splits, "seed": config.seed, "extra": extra, "views": views}
    return reference(oracles, forget.labels, count, **given)


def score_methods(forget: ForgetSet, judgement: Judgement) -> tuple[Reference, dict[str, Scored]]:
    """Scores retrained models against each other, and every method against them."""
    groups = np.arange(forget.members) * min(GROUPS, forget.members) // forget.members
    scored: dict[str, Scored] = {}
    most = comparable(forget.members, judgement.oracles.members)
    compared = {name: first_members(cube, min(len(cube.forget), most)) for name, cube in _cubes(judgement).items()}
    views = views_of(forget.labels, forget.config.seed)
    with working("scores") as update, views.attacks_begun(compared.values()) as views:
        (original, *_) = judgement.methods.get("original", [None])
        before = original and (original.cube, original.lost)
        memory = memory_of(before, judgement.oracles.cube, forget.labels)
        null = null_of(forget, judgement.oracles.cube, judgement.of_oracles | of_oracles(memory), views)
        for number, (name, (first, *others)) in enumerate(judgement.methods.items()):
            extra = [
                judged.extra | of_models(memory, (judged.cube, judged.lost), before, forget.labels) for judged in (first, *others)
            ]
            evaluation, n = score_alive(compared.get(name, first.cube), null, np.delete(groups, first.lost), extra[0])
            if evaluation:
                evaluation = evaluation._replace(lost=len(first.lost))
                by_seed: list[dict[Name, np.ndarray]] = [
                    {score.name: np.array(score.members) for score in evaluation.scores if score.members}
                ]
                by_seed += [
                    null.of_members(other.cube, more) if len(other.cube.forget) else {}
                    for other, more in zip(others, extra[1:], strict=True)
                ]
                lost = [judged.lost for judged in (first, *others)]
                members = {
                    metric: _with_gaps([values.get(metric, ()) for values in by_seed], lost, forget.members)
                    for metric in by_seed[0]
                }
                parts = parts_of(forget, before and before[0], judgement.oracles.cube)
                found = effects_of((first.cube, first.lost), before, judgement.oracles.cube, forget.labels, parts)
                scored[name] = Scored(evaluation, n, null.at(n), members, found)
            update((number + 1) / len(judgement.methods), name)
        update(1.0, f"{len(judgement.methods)} methods, {len(null.nulls)} metrics")
    return null, scored


Alive = tuple[Cube, Sequence[int]]
"""The logits of the models that did not diverge, and the numbers of those that did."""


def parts_of(forget: ForgetSet, originals: Cube | None, oracles: Cube) -> dict[str, np.ndarray]:
    """The parts of a forget set whose memory left is reported, as masks, without empty ones.

    *memorised*: the originals are right on these examples more often than the oracles, by 20 points or more. *mislabelled*: the
    training label is wrong.
    """
    wrong = forget.labels.forget != forget.setting.data.clean_labels[forget.rows["forget"]]
    masks = {"mislabelled": wrong}
    if originals is not None and len(originals.forget):
        right = [(cube.forget.argmax(axis=-1) == forget.labels.forget).mean(axis=0) for cube in (originals, oracles)]
        masks["memorised"] = right[0] - right[1] >= LARGE
    assert masks.keys() <= set(PARTS)
    return {name: mask for name, mask in masks.items() if mask.any()}


def effects_of(
    unlearned: Alive,
    originals: Alive | None,
    oracles: Cube,
    labels: Labels,
    parts: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Effects | None:
    """The effect sizes of unlearned models, each beside the original of the same number; None without two such pairs.

    Args:
        unlearned: the models after a method.
        originals: the models before.
        oracles: the logits of retrained models.
        labels: of the examples.
        parts: see `effects`.
    """
    if originals is None:
        return None
    own_numbers, numbers = numbers_of(unlearned), numbers_of(originals)
    both, own_rows, rows = np.intersect1d(own_numbers, numbers, assume_unique=True, return_indices=True)
    if len(both) < 2:
        return None
    own = margins(Cube(*(logits[own_rows] for logits in unlearned[0])), labels)
    before = margins(Cube(*(logits[rows] for logits in originals[0])), labels)
    return effects(own, before, margins(oracles, labels), parts)


def numbers_of(models: Alive) -> np.ndarray:
    """The numbers of the models that did not diverge."""
    cube, lost = models
    return np.delete(np.arange(len(cube.forget) + len(lost)), list(lost))


def memory_of(originals: Alive | None, oracles: Cube, labels: Labels) -> Memory | None:
    """What the originals remember of the forget set; None if they are not known, or it cannot be told from nothing."""
    if originals is None or len(originals[0].forget) < 2:
        return None
    return memory_axis(*(scaled_logits(cube.forget, labels.forget) for cube in (originals[0], oracles)))


def of_oracles(memory: Memory | None) -> dict[Name, np.ndarray]:
    """The metrics of the oracles that need the originals."""
    return {catalogue.memory_of_models.on("forget"): memory.of_oracles} if memory else {}


def of_models(memory: Memory | None, models: Alive, originals: Alive | None, labels: Labels) -> dict[Name, np.ndarray]:
    """The metrics of other models that need the originals: each model is compared with those that it does not come from."""
    if memory is None or originals is None or not len(models[0].forget):
        return {}
    place = {number: row for row, number in enumerate(numbers_of(originals))}
    own = np.array([place.get(number, NONE) for number in numbers_of(models)])
    return {catalogue.memory_of_models.on("forget"): memory.of(scaled_logits(models[0].forget, labels.forget), own)}


def margins(cube: Cube, labels: Labels) -> dict[str, np.ndarray]:
    """The margins of models on every split, `[models, examples]`."""
    return {split: scaled_logits(getattr(cube, split), getattr(labels, split)) for split in Cube._fields}


def effect_rows(common: Row, found: Effects | None) -> list[Row]:
    """The effect sizes as rows, without a null."""
    sizes = {metric.on(split): metric.measure(found, split) for metric, split in in_order(EFFECT)} if found else {}
    return [
        common._replace(metric=metric, split=split, value=size.value, value_low=size.low, value_high=size.high)
        for (metric, split), size in sizes.items()
        if not math.isnan(size.value)
    ]


def _with_gaps(by_seed: Sequence[Sequence[float] | np.ndarray], lost: Sequence[tuple[int, ...]], members: int) -> np.ndarray:
    """Arranges values as [originals, seeds], with NaN for members that diverged or were not compared."""
    table = np.full((members, len(by_seed)), np.nan)
    for seed, (values, diverged) in enumerate(zip(by_seed, lost, strict=True)):
        table[np.delete(np.arange(members), diverged)[: len(values)], seed] = values
    return table


def rows_of(forget: ForgetSet, judgement: Judgement, scored: dict[str, Scored]) -> list[Row]:
    """Returns the scores and costs of every method as rows."""
    retraining, seconds = retraining_examples(forget), judgement.oracles.seconds
    if math.isnan(seconds) or forget.setting.fit:  # the oracles were not trained by the recipe
        retraining = math.nan
    rows: list[Row] = []
    for name, (first, *_) in judgement.methods.items():
        rows += _rows(forget, name, first, scored.get(name), judgement.oracles.members, (seconds, retraining))
    return rows


def _rows(
    forget: ForgetSet, name: str, judged: Judged, scored: Scored | None, oracles: int, retraining: tuple[float, float]
) -> list[Row]:
    """The rows of one method; `retraining` is the cost of retraining, in seconds and in examples."""
    config = forget.config
    common = Row(
        experiment=config.exp,
        dataset=config.dataset,
        model=config.model,
        forget_set=forget.name,
        method=name,
        access=forget.entries[name].access,
        metric="",
        split="",
        n_members=scored.n if scored else len(judged.cube.forget),
        n_oracles=oracles,
        seconds=judged.seconds,
        band=scored.evaluation.band if scored else None,
        inside=scored.evaluation.inside if scored else None,
        outcome=outcome_of(scored.evaluation.inside, scored.effects, scored.evaluation.lost) if scored else None,
    )
    spent = Spent(judged.seconds, judged.compile_seconds, judged.examples, *retraining)
    scores = scored.evaluation.scores if scored else []
    rows = [scored_row(common, score) for score in scores] + effect_rows(common, scored.effects if scored else None)
    costs = {(cost.name, split): cost.measure(spent, split) for cost, split in in_order(COST)}
    return rows + [common._replace(metric=metric, value=cost) for (metric, _), cost in costs.items() if not math.isnan(cost)]


def scored_row(common: Row, score: Score) -> Row:
    """Returns the row of a score; `common` has the columns that all rows of a method share."""
    null = score.null
    return common._replace(
        metric=score.metric,
        split=score.split,
        value=score.value,
        value_low=score.low,
        value_high=score.high,
        null_mean=null.mean,
        null_sd=null.sd,
        null_low=null.low,
        null_high=null.high,
        z=score.z,
        deviation=score.deviation,
        evidence=score.evidence,
    )


Losses = dict[str, np.ndarray]  # by split, [models, examples]


def losses_of(forget: ForgetSet, judgement: Judgement) -> tuple[dict[str, Losses], Losses]:
    """Returns the losses of every method of which models are left, and of the oracles."""
    return {name: forget.losses(cube) for name, cube in _cubes(judgement).items()}, forget.losses(judgement.oracles.cube)


def _cubes(judgement: Judgement) -> dict[str, Cube]:
    return {name: first.cube for name, (first, *_) in judgement.methods.items() if len(first.cube.forget)}


def draw(forget: ForgetSet, judgement: Judgement, rows: list[Row], losses: dict[str, Losses], of_oracles: Losses) -> None:
    """Draws the figures that show single members and examples; for the losses see `losses_of`."""
    title, oracles = subject(rows), judgement.oracles.cube
    save(figures.loss_histograms(losses, of_oracles, title), forget.folder, "loss_histograms")
    shares = {name: accuracies(cube, forget.labels)._asdict() for name, cube in _cubes(judgement).items()}
    right = accuracies(oracles, forget.labels)._asdict()
    name = catalogue.accuracy.name
    save(figures.accuracy_bars(rows, name, shares, right, title), forget.folder, name)
