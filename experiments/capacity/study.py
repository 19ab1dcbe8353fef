"""Unlearning as overfitting: what capacity does to the gap, to memorisation, to an attack, and to the cost of unlearning."""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.capacity import report
from experiments.capacity.options import FEWEST, Config
from unlearn_jax.bench.forget_set import forget_mask, forget_name
from unlearn_jax.bench.hyperparameters import settings
from unlearn_jax.bench.pools import compile_all, pool, version_note
from unlearn_jax.bench.population import comparable, lost_members
from unlearn_jax.bench.resume import Arrays, identity_of, load_or_make, unlearn
from unlearn_jax.bench.setting import Setting, forgetting, prepare
from unlearn_jax.bench.tuning import tile
from unlearn_jax.data.augmentation import augmentation
from unlearn_jax.data.splits import generator, sample
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import (
    catalogue,
    cross_entropy_losses,
    js_divergence,
    klom,
    likelihood_ratios,
    probabilities,
    scaled_logits,
)
from unlearn_jax.metrics.agreement import rank_agreement
from unlearn_jax.metrics.null import Null, halves, null
from unlearn_jax.metrics.statistics import crossed_mean
from unlearn_jax.progress import stage, working
from unlearn_jax.report.drawing import save
from unlearn_jax.runs import Run, json_text
from unlearn_jax.training.ensembles import predict
from unlearn_jax.training.pools import diverged, member_keys

Values = dict[str, dict[str, Any]]
Compare = Callable[[np.ndarray, np.ndarray], float]
HALVES = 4  # splits of the oracles whose two halves a value is averaged over
FEWEST_ORACLES = 6  # three on each side, for the attack's variances


def run(config: Config, folder: Run) -> None:
    """Train, unlearn and measure in every setting, then hold the cost of unlearning against overfitting.

    Raises:
        UsageError: something in the configuration cannot be done.
    """
    values = settings(config, config.method_names())
    found: list[report.Setting] = []
    made_with: set[str] = set()
    for axis, value, own in config.variants():
        print(f"{axis} {value}".strip())
        arrays = logits_of(own, folder, values)
        made_with.add(str(arrays["made_with"]))
        with stage("scores"):
            found.append(measured(own, axis, value, arrays))
    study = report.Results(
        title=f"{config.dataset}, {config.train_size or 'all'} examples; {config.members} originals, "
        f"{config.forget_sets} forget sets; base: {config.model} of width {config.width}, {config.train.epochs} epochs",
        methods=config.method_names(),
        settings=found,
        correlations=agreement(found, config.method_names()),
        differences=differences(found),
    )
    folder.write_csv("results.csv", *report.table(study))
    folder.write_csv("settings.csv", *report.overview(study))
    folder.write_csv("correlations.csv", *report.correlations(study))
    folder.write_csv("differences.csv", *report.differences(study))
    facts = {"hyperparameters": values, "settings": [each.name for each in found], "made_with": sorted(made_with)}
    folder.write_json("results.json", facts)
    summary = "\n".join([report.summary(study), *version_note(made_with)])
    folder.write_text("summary.md", summary)
    save(report.glance(study), folder, "losses")
    save(report.trends(study), folder, "trends")
    save(report.interpolation(study), folder, "interpolation")
    save(report.cost(study), folder, "cost")
    print(summary)


def prepared(config: Config) -> Setting:
    """The data and the model, with the augmentation that is asked for."""
    setting = prepare(config)
    if config.augmentation == "own":
        return setting
    augment = augmentation(config.augmentation, setting.data.train.images.shape[1:])
    problem = dataclasses.replace(setting.problem, augment=augment)
    return setting._replace(problem=problem, identity={**setting.identity, "augmentation": config.augmentation})


def logits_of(config: Config, folder: Run, values: Values) -> Arrays:
    """The logits of all models of a setting, read where an earlier run kept them; see `predicted`."""
    setting = prepared(config)
    forget = np.stack([forget_mask(config, setting, index) for index in range(config.forget_sets)])
    identity = {**identity_of(config, setting, forget), "methods": values}
    name = f"settings/{hashlib.sha256(json_text(identity).encode()).hexdigest()[:16]}.npz"
    return load_or_make(folder, name, identity, partial(predicted, config, setting, forget, values))


def predicted(config: Config, setting: Setting, forget: np.ndarray, values: Values) -> Arrays:
    """Train originals and the oracles of all forget sets, unlearn, and predict.

    All forget sets are one pool, and one batch of each method: each network is compiled once, not once a set.

    Returns:
        Logits `[sets, models, examples, classes]` of every kind of model on the forget set, retained and test examples; labels.

    Raises:
        UsageError: so many originals or oracles diverged that nothing can be measured.
    """
    members, sets = config.members, len(forget)
    assert members != "auto"
    problem, data = forgetting(setting, forget[0]), setting.data
    everything = np.ones(len(data.train.labels), bool)
    originals = pool(config, setting, setting.problem, everything, "original", members)
    own = setting._replace(identity={**setting.identity, "forget_sets": sets})
    masks = ~forget[np.arange(2 * members * sets) % sets]  # a larger pool begins with a smaller one
    oracles = pool(config, own, setting.problem, masks, "oracle", 2 * members * sets)
    by_set = jax.tree.map(lambda leaf: np.concatenate([leaf[index::sets] for index in range(sets)]), oracles.variables)
    copies = tile(originals.variables, sets)
    told = {"forget": np.repeat(forget, members, axis=0)}
    names = [forget_name(config, setting, index) for index in range(sets)]
    rows = [np.flatnonzero(mask) for mask in forget]
    never_asked = np.flatnonzero(~forget.any(axis=0))
    rng = generator("retained examples that are judged", config.seed)
    retain = sample(never_asked, config.evaluation.retain_size, rng)
    images = np.concatenate([data.train.images[np.concatenate([*rows, retain])], data.test.images])
    everyone = {"original": originals.variables, "oracle": by_set}
    with working("predictions of references") as update:
        logits = {name: predict(problem.model, variables, images, config.strategy) for name, variables in everyone.items()}
        update(1.0, f"{3 * sets} pools, {len(images)} examples")
    lost_members(config, "original", (originals.variables, logits["original"]), FEWEST)
    for index, name in enumerate(names):
        some = slice(2 * members * index, 2 * members * (index + 1))
        models = jax.tree.map(lambda leaf, some=some: leaf[some], (by_set, logits["oracle"]))
        lost_members(config, f"{name} oracle", models, FEWEST_ORACLES)
    batching: dict[str, Any] = {"strategy": config.strategy, "chunk": config.chunk}
    unlearners = {name: Unlearner(name, values[name], problem, copies, masks=told, **batching) for name in values}
    compile_all(unlearners.values())
    for name, unlearner in unlearners.items():
        keys = jax.numpy.concatenate([member_keys(config.seed, f"{name} on {each}", members) for each in names])
        logits[name] = predict(problem.model, unlearn(name, unlearner, keys).variables, images, config.strategy)
    size = len(rows[0])
    found: Arrays = {
        "parameters": np.array(sum(leaf[0].size for leaf in jax.tree.leaves(originals.variables.params))),
        "forget_labels": np.stack([data.train.labels[each] for each in rows]),
        "forget_wrong": np.stack([(data.train.labels != data.clean_labels)[each] for each in rows]),
        "retain_labels": data.train.labels[retain],
        "test_labels": data.test.labels,
    }
    for name, part in logits.items():
        on_sets, on_retain, on_test = np.split(part, [sets * size, sets * size + len(retain)], axis=1)
        answers = np.stack(np.split(on_sets, sets, axis=1))  # [sets, models, forget, classes]
        if name == "original":  # the same for all sets
            on_retain, on_test = (np.repeat(each[None], sets, axis=0) for each in (on_retain, on_test))
        else:  # each model has a set of its own, and is not asked about the others
            answers = np.stack([np.split(each, sets)[index] for index, each in enumerate(answers)])
            on_retain, on_test = (np.stack(np.split(each, sets)) for each in (on_retain, on_test))
        found |= {f"{name}/forget": answers, f"{name}/retain": on_retain, f"{name}/test": on_test}
    return found


class Answers(NamedTuple):
    """Logits of models on labelled examples, as the metrics take them."""

    phi: np.ndarray  # [models, examples], margins
    loss: np.ndarray  # [models, examples], nats
    right: np.ndarray  # [models, examples], percent
    p: np.ndarray  # [models, examples, classes]


AllAnswers = dict[tuple[str, str], list[Answers]]  # kind of model, split -> of each forget set


def lost(arrays: Arrays, kind: str) -> list[set[int]]:
    """Which models of a kind diverged, forget set by forget set."""
    sets = range(len(arrays["forget_labels"]))
    return [set(diverged([arrays[f"{kind}/{split}"][index] for split in report.SPLITS])) for index in sets]


def answers_of(arrays: Arrays) -> AllAnswers:
    """The answers of the models that did not diverge: oracles in their own set, any other in all sets, and its original too."""
    sets = range(len(arrays["forget_labels"]))
    kinds = dict.fromkeys(key.split("/")[0] for key in arrays if "/" in key)
    apart = {kind: lost(arrays, kind) for kind in kinds}
    everywhere = {kind: set().union(*apart[kind]) for kind in kinds}
    found: AllAnswers = {}
    for kind in kinds:
        for split in report.SPLITS:
            found[kind, split] = []
            for index in sets:
                gone = apart[kind][index] if kind == "oracle" else everywhere[kind] | everywhere["original"]
                labels = arrays["forget_labels"][index] if split == "forget" else arrays[f"{split}_labels"]
                found[kind, split].append(answers(np.delete(arrays[f"{kind}/{split}"][index], sorted(gone), axis=0), labels))
    return found


def answers(logits: np.ndarray, labels: np.ndarray) -> Answers:
    """Margins, losses, accuracies and probabilities of logits."""
    right = 100.0 * (logits.argmax(-1) == labels)
    return Answers(scaled_logits(logits, labels), cross_entropy_losses(logits, labels), right, probabilities(logits))


def measured(config: Config, axis: str, value: str, arrays: Arrays) -> report.Setting:
    """How far a setting overfits, and what each method leaves, with intervals over originals and sets."""
    models = answers_of(arrays)
    splits, parts = report.SPLITS, overfitting(config, models, arrays["forget_wrong"])
    compared = {"test_error": 100 - parts["test_accuracy"], "left": beyond_null(config, models)}
    gone = set().union(*lost(arrays, "original"))
    whole = np.array([index not in gone for index in range(arrays["original/forget"].shape[1])])
    return report.Setting(
        axis=axis,
        value=value,
        parameters=int(arrays["parameters"]),
        intervals={name: crossed_mean(values).interval for name, values in parts.items()},
        costs=[row for name in ["original", *config.method_names()] for row in standings(config, name, models)],
        losses={(kind, split): pooled(models[kind, split]) for kind in ("original", "oracle") for split in splits},
        unfitted=unfitted(arrays),
        parts={name: placed({**parts, **compared}[name], whole) for name in report.DIFFERENCES},
    )


def unfitted(arrays: Arrays) -> dict[str, report.Unfitted]:
    """How many originals, and oracles of all sets, are right on less of retain than each of `report.FITTED`.

    A network that does not say something finite of every retained example is right on none.
    """
    found = {}
    for kind, sets in (("original", slice(1)), ("oracle", slice(None))):  # the originals are the same in all sets
        logits = arrays[f"{kind}/retain"][sets]
        right = np.isfinite(logits).all(-1).all(-1) * 100.0 * (logits.argmax(-1) == arrays["retain_labels"]).mean(-1)
        found[kind] = report.Unfitted(right.size, *(int((right < limit).sum()) for limit in report.FITTED))
    return found


def placed(values: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Values of the originals that did not diverge at their places among all, `[originals, sets]`; NaN elsewhere.

    A single row, which is of all originals together, stays one.

    Args:
        values: of the first of those that did not diverge, `[left, sets]`.
        whole: of all originals, `[originals]`: whether each did not diverge.
    """
    if len(values) == 1:
        return values
    found = np.full((len(whole), values.shape[1]), np.nan)
    found[np.flatnonzero(whole)[: len(values)]] = values
    return found


def pooled(sets: list[Answers]) -> np.ndarray:
    """The losses of all models on all examples of all forget sets."""
    return np.concatenate([each.loss.ravel() for each in sets])


def overfitting(config: Config, models: AllAnswers, wrong: np.ndarray) -> dict[str, np.ndarray]:
    """How far the originals overfit, by measure, `[originals, sets]`.

    One set where it depends on none of them, one row where it depends on all originals together or on the oracles alone.
    """
    forget, retain, test = ([each.right.mean(1) for each in models["original", split]] for split in report.SPLITS)
    train_loss, test_loss = (models["original", split][0].loss.mean(1) for split in ("retain", "test"))
    train = retain[0]  # of examples that no set asks about, the same in all sets
    alone = {
        "train_accuracy": train,
        "test_accuracy": test[0],
        "accuracy_gap": train - test[0],
        "train_loss": train_loss,
        "test_loss": test_loss,
        "loss_gap": test_loss - train_loss,
    }
    found = {name: values[:, None] for name, values in alone.items()}
    originals, oracles = models["original", "forget"], models["oracle", "forget"]
    found["forget_accuracy"] = np.stack(forget, axis=1)
    found["oracle_accuracy"] = np.array([[each.right.mean() for each in oracles]])
    found["memorisation"] = np.stack([own - each.right.mean() for own, each in zip(forget, oracles, strict=True)], axis=1)
    for name, part in (("memorised_wrong", wrong), ("memorised_right", ~wrong)):
        if part.any(axis=1).all():
            gains = [
                (own.right[:, rows].mean(1) - other.right[:, rows].mean())
                for own, other, rows in zip(originals, oracles, part, strict=True)
            ]
            found[name] = np.stack(gains, axis=1)
    attacks = [attack(config, own.phi, each.phi) for own, each in zip(originals, oracles, strict=True)]
    found["lira_auc"] = np.stack([each for each, _ in attacks], axis=1)
    found["lira_null"] = np.array([[guess for _, guess in attacks]])
    found["mean_distance"] = np.array([[mean_distance(own.p, each.p) for own, each in zip(originals, oracles, strict=True)]])
    return found


def mean_distance(own: np.ndarray, oracles: np.ndarray) -> float:
    """Squared distance of the mean predictions of two ensembles, without what chance adds to it.

    `|mean p - mean q|^2 - var(p) / n - var(q) / m`, squares and sample variances summed over classes, the mean over examples: its
    expectation is the squared distance of the two distributions' means, however widely each is spread. From 0 to 2, but
    for chance.

    Args:
        own: probabilities, `[n, examples, classes]`.
        oracles: probabilities, `[m, examples, classes]`.
    """
    apart = np.square(own.mean(0) - oracles.mean(0))
    chance = sum(each.var(0, ddof=1) / len(each) for each in (own, oracles))
    return float((apart - chance).sum(-1).mean())


def attack(config: Config, originals: np.ndarray, oracles: np.ndarray) -> tuple[np.ndarray, float]:
    """The AUC of the likelihood-ratio attack with each original's answers as the positives; and that of oracles instead.

    As many oracles as originals are the other side, in both, on average over some splits.
    """
    count = comparable(len(originals), len(oracles))
    own, guess = [], []
    for first, second in halves(jax.random.key(config.seed), len(oracles), count, HALVES):
        own += [attack_auc(originals, oracles[first]), attack_auc(originals, oracles[second])]
        guess.append(attack_auc(oracles[first], oracles[second]).mean())
    return np.mean(own, axis=0), float(np.mean(guess))


def attack_auc(seen: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """Of each model that saw the examples: how often a score of its is above one of the models that did not, ties half."""
    trained_on = np.arange(len(seen) + len(unseen))[:, None] < len(seen) + np.zeros((1, seen.shape[1]))
    ratios = likelihood_ratios(np.concatenate([seen, unseen]), trained_on, shared_variance=True)
    negative = np.sort(ratios[len(seen) :].ravel())
    below = (negative.searchsorted(ratios[: len(seen)], side) for side in ("left", "right"))
    return np.mean(list(below), axis=0).mean(1) / len(negative)


def divergence(models: np.ndarray, oracles: np.ndarray) -> float:
    """Jensen-Shannon divergence of probabilities to the oracles' mean."""
    return float(js_divergence(models, oracles).mean())


def histograms(models: np.ndarray, oracles: np.ndarray) -> float:
    """KLOM of margins."""
    return float(klom(models, oracles).mean())


def difference(models: np.ndarray, oracles: np.ndarray) -> float:
    """The difference of two means."""
    return float(models.mean() - oracles.mean())


COSTS: dict[tuple[str, str], tuple[str, Compare]] = {
    report.MAIN: ("p", divergence),
    catalogue.klom.on("forget"): ("phi", histograms),
    ("accuracy_gap", "forget"): ("right", difference),
    ("accuracy_gap", "test"): ("right", difference),
}
"""Metric and split -> the field of `Answers` that it takes, and how models are compared with oracles."""


def standings(config: Config, name: str, models: AllAnswers) -> list[report.Cost]:
    """How far a method is from retraining, on each forget set and over all, in null standard deviations too."""
    rows: list[report.Cost] = []
    for metric, split in COSTS:
        parts, nulls = held_against(config, name, models, metric, split)
        count = len(parts)
        if count < FEWEST:
            continue
        for index, null_of_set in enumerate(nulls):
            interval = crossed_mean(parts[:, [index]]).interval
            rows.append(report.Cost(f"{config.forget.kind}-{index}", name, metric, split, *interval, *null_of_set[:2], count))
        sd = float(np.sqrt(np.sum([each.sd**2 for each in nulls]))) / len(nulls)
        mean = float(np.mean([each.mean for each in nulls]))
        rows.append(report.Cost(report.ALL, name, metric, split, *crossed_mean(parts).interval, mean, sd, count))
    return rows


def held_against(config: Config, name: str, models: AllAnswers, metric: str, split: str) -> tuple[np.ndarray, list[Null]]:
    """What each model of a method contributes to a metric, `[models, sets]`, and the null of each set; no rows if under three."""
    field, compare = COSTS[metric, split]
    own, oracles = ([getattr(each, field) for each in models[kind, split]] for kind in (name, "oracle"))
    count = min(comparable(len(own[0]), len(each)) for each in oracles)
    if count < FEWEST:
        return np.zeros((0, len(own))), []
    found = [standing(config, compare, one[:count], other) for one, other in zip(own, oracles, strict=True)]
    return np.stack([parts for parts, _ in found], axis=1), [of_oracles for _, of_oracles in found]


def beyond_null(config: Config, models: AllAnswers) -> np.ndarray:
    """What doing nothing leaves: each original's part of the main metric less the null's mean, `[originals, sets]`."""
    parts, nulls = held_against(config, "original", models, *report.MAIN)
    return parts - [each.mean for each in nulls]


def standing(config: Config, compare: Compare, own: np.ndarray, oracles: np.ndarray) -> tuple[np.ndarray, Null]:
    """What each model contributes to a comparison of n models with n oracles (pseudo-values whose mean it is), and its null.

    Defined as in `metrics.evaluation`: the value is the mean over both halves of some splits of the oracles; the null is one
    half against the other, the part that changes sign when they change places counted twice, unless it is a difference of means,
    which is nothing but that part.
    """
    key, count = jax.random.key(config.seed), len(own)
    opposite = [oracles[half] for half in halves(key, len(oracles), count, HALVES).reshape(-1, count)]

    def value(models: np.ndarray) -> float:
        return float(np.mean([compare(models, each) for each in opposite]))

    def widened(first: np.ndarray, second: np.ndarray) -> float:
        return 1.5 * compare(first, second) - 0.5 * compare(second, first)

    left = np.array([value(np.delete(own, out, axis=0)) for out in range(count)])
    parts = value(own) - (count - 1) * (left - left.mean())
    of_oracles = null(compare if compare is difference else widened, oracles, count, config.evaluation.splits, key=key)
    return parts, of_oracles


def agreement(found: list[report.Setting], methods: list[str]) -> list[report.Correlation]:
    """Rank correlation, over settings, of each measure of overfitting with what each method leaves, and its interval.

    What is left is the divergence beyond the null's mean; as a share of what doing nothing leaves it counts only where that is
    beyond two null standard deviations.
    """
    different = [found[0], *(each for each in found[1:] if each.intervals != found[0].intervals)]
    rows: list[report.Correlation] = []
    for measure in report.OVERFITTING:
        for method in ["original", *methods]:
            whole = [each for each in different if each.has(method)]
            told = [each for each in whole if method != "original" and each.excess("original").z > report.VISIBLE]
            left = {
                "excess": [(each, each.excess(method).excess) for each in whole],
                "z": [(each, each.excess(method).z) for each in whole],
                "share": [(each, each.share(method)) for each in told],
            }
            for kind, pairs in left.items():
                if len(pairs) > 2:
                    ranked = rank_agreement(np.array([[each.intervals[measure].value, value] for each, value in pairs]))
                    rows.append(report.Correlation(measure, method, kind, len(pairs), *ranked.between(0, 1)))
    return rows


def differences(found: list[report.Setting]) -> list[report.Difference]:
    """Every setting minus each one before it on its axis, and minus the base where that is not on the axis, in every measure."""
    rows: list[report.Difference] = []
    for _, group in itertools.groupby(found[1:], key=lambda each: each.axis):
        axis = list(group)
        if all(each.intervals != found[0].intervals for each in axis):
            axis.insert(0, found[0])
        for other, one in itertools.combinations(axis, 2):
            rows += [row for measure in report.DIFFERENCES if (row := subtracted(one, other, measure))]
    return rows


def subtracted(one: report.Setting, other: report.Setting, measure: str) -> report.Difference | None:
    """One setting minus another, original by original and forget set by forget set; None if they share no original."""
    gaps = one.parts[measure] - other.parts[measure]
    gaps = gaps[np.isfinite(gaps).all(axis=1)]
    if not len(gaps):
        return None
    sets = [float(each) for each in gaps.mean(axis=0)] if gaps.shape[1] > 1 else []
    return report.Difference(measure, one.name, other.name, *crossed_mean(gaps).interval, sets)
