"""Unlearning as overfitting: how capacity changes the gap, memorisation, an attack, and the cost of unlearning."""

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
from unlearn_jax.training.ensembles import predict, tile
from unlearn_jax.training.pools import diverged, member_keys

Values = dict[str, dict[str, Any]]
Compare = Callable[[np.ndarray, np.ndarray], float]
HALVES = 4  # splits of the oracles; a value is averaged over both halves of each
FEWEST_ORACLES = 6  # three on each side of the attack, for its variances


def run(config: Config, folder: Run) -> None:
    """Train, unlearn and measure in every setting, then compare the cost of unlearning with overfitting.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    values = settings(config, config.method_names())
    results: list[report.Setting] = []
    made_with: set[str] = set()
    for axis, value, variant in config.variants():
        print(f"{axis} {value}".strip())
        arrays = load_or_predict(variant, folder, values)
        made_with.add(str(arrays["made_with"]))
        with stage("scores"):
            results.append(measure(variant, axis, value, arrays))
    study = report.Results(
        title=f"{config.dataset}, {config.train_size or 'all'} examples; {config.members} originals, "
        f"{config.forget_sets} forget sets; base: {config.model} of width {config.width}, {config.train.epochs} epochs",
        methods=config.method_names(),
        settings=results,
        correlations=correlate(results, config.method_names()),
        differences=differences(results),
    )
    folder.write_csv("results.csv", *report.table(study))
    folder.write_csv("settings.csv", *report.overview(study))
    folder.write_csv("correlations.csv", *report.correlations(study))
    folder.write_csv("differences.csv", *report.differences(study))
    facts = {"hyperparameters": values, "settings": [setting.name for setting in results], "made_with": sorted(made_with)}
    folder.write_json("results.json", facts)
    summary = "\n".join([report.summary(study), *version_note(made_with)])
    folder.write_text("summary.md", summary)
    save(report.glance(study), folder, "losses")
    save(report.trends(study), folder, "trends")
    save(report.interpolation(study), folder, "interpolation")
    save(report.cost(study), folder, "cost")
    print(summary)


def prepare_setting(config: Config) -> Setting:
    """The data and the model, with the augmentation of the options."""
    setting = prepare(config)
    if config.augmentation == "own":
        return setting
    augment = augmentation(config.augmentation, setting.data.train.images.shape[1:])
    problem = dataclasses.replace(setting.problem, augment=augment)
    return setting._replace(problem=problem, identity={**setting.identity, "augmentation": config.augmentation})


def load_or_predict(config: Config, folder: Run, values: Values) -> Arrays:
    """The logits of all models of a setting, see `train_and_predict`. Those kept by an earlier run are read."""
    setting = prepare_setting(config)
    forget = np.stack([forget_mask(config, setting, index) for index in range(config.forget_sets)])
    identity = {**identity_of(config, setting, forget), "methods": values}
    name = f"settings/{hashlib.sha256(json_text(identity).encode()).hexdigest()[:16]}.npz"
    return load_or_make(folder, name, identity, partial(train_and_predict, config, setting, forget, values))


def train_and_predict(config: Config, setting: Setting, forget: np.ndarray, values: Values) -> Arrays:
    """Trains originals and the oracles of all forget sets, unlearns, and predicts.

    All forget sets share one pool, and one batch of each method, so that each network is compiled once.

    Returns:
        Logits `[sets, models, examples, classes]` of every kind of model on forget, retain and test; labels; parameter count.

    Raises:
        ArgumentError: so many originals or oracles diverged that nothing can be measured.
    """
    members, sets = config.members, len(forget)
    assert members != "auto"
    problem, data = forgetting(setting, forget[0]), setting.data
    everything = np.ones(len(data.train.labels), bool)
    originals = pool(config, setting, setting.problem, everything, "original", members)
    of_sets = setting._replace(identity={**setting.identity, "forget_sets": sets})
    masks = ~forget[np.arange(2 * members * sets) % sets]  # a larger pool begins with a smaller one
    oracles = pool(config, of_sets, setting.problem, masks, "oracle", 2 * members * sets)
    by_set = jax.tree.map(lambda leaf: np.concatenate([leaf[index::sets] for index in range(sets)]), oracles.variables)
    copies = tile(originals.variables, sets)
    forget_masks = {"forget": np.repeat(forget, members, axis=0)}
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
    unlearners = {name: Unlearner(name, values[name], problem, copies, masks=forget_masks, **batching) for name in values}
    compile_all(unlearners.values())
    for name, unlearner in unlearners.items():
        keys = jax.numpy.concatenate([member_keys(config.seed, f"{name} on {set_name}", members) for set_name in names])
        logits[name] = predict(problem.model, unlearn(name, unlearner, keys).variables, images, config.strategy)
    size = len(rows[0])
    arrays: Arrays = {
        "parameters": np.array(sum(leaf[0].size for leaf in jax.tree.leaves(originals.variables.params))),
        "forget_labels": np.stack([data.train.labels[of_set] for of_set in rows]),
        "forget_wrong": np.stack([(data.train.labels != data.clean_labels)[of_set] for of_set in rows]),
        "retain_labels": data.train.labels[retain],
        "test_labels": data.test.labels,
    }
    for name, part in logits.items():
        on_sets, on_retain, on_test = np.split(part, [sets * size, sets * size + len(retain)], axis=1)
        answers = np.stack(np.split(on_sets, sets, axis=1))  # [sets, models, forget, classes]
        if name == "original":  # the same for all sets
            on_retain, on_test = (np.repeat(part[None], sets, axis=0) for part in (on_retain, on_test))
        else:  # keep each model's answers on its own forget set
            answers = np.stack([np.split(of_kind, sets)[index] for index, of_kind in enumerate(answers)])
            on_retain, on_test = (np.stack(np.split(part, sets)) for part in (on_retain, on_test))
        arrays |= {f"{name}/forget": answers, f"{name}/retain": on_retain, f"{name}/test": on_test}
    return arrays


class Answers(NamedTuple):
    """The answers of models on labelled examples, in the forms that metrics take."""

    phi: np.ndarray  # [models, examples], margins
    loss: np.ndarray  # [models, examples], nats
    right: np.ndarray  # [models, examples], percent
    p: np.ndarray  # [models, examples, classes]


AllAnswers = dict[tuple[str, str], list[Answers]]  # kind of model, split -> answers on each forget set


def diverged_by_set(arrays: Arrays, kind: str) -> list[set[int]]:
    """The models of a kind that diverged, by forget set."""
    sets = range(len(arrays["forget_labels"]))
    return [set(diverged([arrays[f"{kind}/{split}"][index] for split in report.SPLITS])) for index in sets]


def group_answers(arrays: Arrays) -> AllAnswers:
    """The answers without models that diverged: oracles by set; others if they or their original diverged on any set."""
    sets = range(len(arrays["forget_labels"]))
    kinds = dict.fromkeys(key.split("/")[0] for key in arrays if "/" in key)
    apart = {kind: diverged_by_set(arrays, kind) for kind in kinds}
    everywhere = {kind: set().union(*apart[kind]) for kind in kinds}
    answers_by_kind: AllAnswers = {}
    for kind in kinds:
        for split in report.SPLITS:
            answers_by_kind[kind, split] = []
            for index in sets:
                gone = apart[kind][index] if kind == "oracle" else everywhere[kind] | everywhere["original"]
                labels = arrays["forget_labels"][index] if split == "forget" else arrays[f"{split}_labels"]
                left = np.delete(arrays[f"{kind}/{split}"][index], sorted(gone), axis=0)
                answers_by_kind[kind, split].append(evaluate_logits(left, labels))
    return answers_by_kind


def evaluate_logits(logits: np.ndarray, labels: np.ndarray) -> Answers:
    """The answers that logits `[models, examples, classes]` give."""
    right = 100.0 * (logits.argmax(-1) == labels)
    return Answers(scaled_logits(logits, labels), cross_entropy_losses(logits, labels), right, probabilities(logits))


def measure(config: Config, axis: str, value: str, arrays: Arrays) -> report.Setting:
    """The overfitting of a setting and the cost of each method, with intervals over originals and forget sets."""
    models = group_answers(arrays)
    splits, parts = report.SPLITS, measure_overfitting(config, models, arrays["forget_wrong"])
    compared = {"test_error": 100 - parts["test_accuracy"], "left": originals_excess(config, models)}
    gone = set().union(*diverged_by_set(arrays, "original"))
    whole = np.array([index not in gone for index in range(arrays["original/forget"].shape[1])])
    return report.Setting(
        axis=axis,
        value=value,
        parameters=int(arrays["parameters"]),
        intervals={name: crossed_mean(values).interval for name, values in parts.items()},
        costs=[row for name in ["original", *config.method_names()] for row in compute_costs(config, name, models)],
        losses={(kind, split): pool_losses(models[kind, split]) for kind in ("original", "oracle") for split in splits},
        unfitted=count_unfitted(arrays),
        parts={name: place({**parts, **compared}[name], whole) for name in report.DIFFERENCES},
    )


def count_unfitted(arrays: Arrays) -> dict[str, report.Unfitted]:
    """How many originals, and oracles of all sets, have an accuracy on retain below each of `report.FITTED`.

    A network with a logit that is not finite has accuracy 0.
    """
    counts = {}
    for kind, sets in (("original", slice(1)), ("oracle", slice(None))):  # the originals are the same in all sets
        logits = arrays[f"{kind}/retain"][sets]
        right = np.isfinite(logits).all(-1).all(-1) * 100.0 * (logits.argmax(-1) == arrays["retain_labels"]).mean(-1)
        counts[kind] = report.Unfitted(right.size, *(int((right < limit).sum()) for limit in report.FITTED))
    return counts


def place(values: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Puts values of the originals that did not diverge into rows of all originals, `[originals, sets]`, with NaN elsewhere.

    A single row, a value of all originals together, stays one row.

    Args:
        values: of originals that did not diverge, the first ones in order, `[left, sets]`.
        whole: whether each original did not diverge, `[originals]`.
    """
    if len(values) == 1:
        return values
    placed_values = np.full((len(whole), values.shape[1]), np.nan)
    placed_values[np.flatnonzero(whole)[: len(values)]] = values
    return placed_values


def pool_losses(sets: list[Answers]) -> np.ndarray:
    """The losses of all models on all examples, for all forget sets, as one vector."""
    return np.concatenate([of_set.loss.ravel() for of_set in sets])


def measure_overfitting(config: Config, models: AllAnswers, wrong: np.ndarray) -> dict[str, np.ndarray]:
    """Measure of overfitting -> its value for each original and forget set, `[originals, sets]`.

    There is one column if it does not depend on the set, one row if it depends on all originals together or on oracles alone.
    """
    forget, retain, test = ([of_set.right.mean(1) for of_set in models["original", split]] for split in report.SPLITS)
    train_loss, test_loss = (models["original", split][0].loss.mean(1) for split in ("retain", "test"))
    train = retain[0]  # on examples in no forget set
    alone = {
        "train_accuracy": train,
        "test_accuracy": test[0],
        "accuracy_gap": train - test[0],
        "train_loss": train_loss,
        "test_loss": test_loss,
        "loss_gap": test_loss - train_loss,
    }
    measures = {name: values[:, None] for name, values in alone.items()}
    originals, oracles = models["original", "forget"], models["oracle", "forget"]
    measures["forget_accuracy"] = np.stack(forget, axis=1)
    measures["oracle_accuracy"] = np.array([[oracle.right.mean() for oracle in oracles]])
    gains = [accuracy - oracle.right.mean() for accuracy, oracle in zip(forget, oracles, strict=True)]
    measures["memorisation"] = np.stack(gains, axis=1)
    for name, part in (("memorised_wrong", wrong), ("memorised_right", ~wrong)):
        if part.any(axis=1).all():
            gains = [
                (original.right[:, rows].mean(1) - other.right[:, rows].mean())
                for original, other, rows in zip(originals, oracles, part, strict=True)
            ]
            measures[name] = np.stack(gains, axis=1)
    pairs = list(zip(originals, oracles, strict=True))
    attacks = [attack(config, original.phi, oracle.phi) for original, oracle in pairs]
    measures["lira_auc"] = np.stack([auc for auc, _ in attacks], axis=1)
    measures["lira_null"] = np.array([[guess for _, guess in attacks]])
    measures["mean_distance"] = np.array([[mean_distance(original.p, oracle.p) for original, oracle in pairs]])
    return measures


def mean_distance(models: np.ndarray, oracles: np.ndarray) -> float:
    """An unbiased estimate of the squared distance between the mean predictions of two distributions of models.

    `|mean p - mean q|^2 - var(p) / n - var(q) / m`, with squares and sample variances summed over classes, and the mean over
    examples. The true value is in 0..2; the estimate may be below 0.

    Args:
        models: probabilities, `[n, examples, classes]`.
        oracles: probabilities, `[m, examples, classes]`.
    """
    apart = np.square(models.mean(0) - oracles.mean(0))
    chance = sum(p.var(0, ddof=1) / len(p) for p in (models, oracles))
    return float((apart - chance).sum(-1).mean())


def attack(config: Config, originals: np.ndarray, oracles: np.ndarray) -> tuple[np.ndarray, float]:
    """The AUC of the likelihood-ratio attack with each original as positives, `[originals]`, and with oracles as positives.

    The negatives are as many oracles as there are originals; both AUCs are averaged over some splits of the oracles.
    """
    count = comparable(len(originals), len(oracles))
    aucs, guess = [], []
    for first, second in halves(jax.random.key(config.seed), len(oracles), count, HALVES):
        aucs += [attack_auc(originals, oracles[first]), attack_auc(originals, oracles[second])]
        guess.append(attack_auc(oracles[first], oracles[second]).mean())
    return np.mean(aucs, axis=0), float(np.mean(guess))


def attack_auc(seen: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """AUC of each model that saw the examples: how often its scores exceed those of models that did not; ties count half."""
    trained_on = np.arange(len(seen) + len(unseen))[:, None] < len(seen) + np.zeros((1, seen.shape[1]))
    ratios = likelihood_ratios(np.concatenate([seen, unseen]), trained_on, shared_variance=True)
    negative = np.sort(ratios[len(seen) :].ravel())
    below = (negative.searchsorted(ratios[: len(seen)], side) for side in ("left", "right"))
    return np.mean(list(below), axis=0).mean(1) / len(negative)


def mean_divergence(models: np.ndarray, oracles: np.ndarray) -> float:
    """Mean Jensen-Shannon divergence of probabilities from the oracles' mean, bits."""
    return float(js_divergence(models, oracles).mean())


def mean_klom(models: np.ndarray, oracles: np.ndarray) -> float:
    """Mean KLOM of margins, nats."""
    return float(klom(models, oracles).mean())


def mean_difference(models: np.ndarray, oracles: np.ndarray) -> float:
    """The difference of two means."""
    return float(models.mean() - oracles.mean())


COSTS: dict[tuple[str, str], tuple[str, Compare]] = {
    report.MAIN: ("p", mean_divergence),
    catalogue.klom.on("forget"): ("phi", mean_klom),
    ("accuracy_gap", "forget"): ("right", mean_difference),
    ("accuracy_gap", "test"): ("right", mean_difference),
}
"""Metric and split -> the field of `Answers` that it compares, and the function that compares models with oracles."""


def compute_costs(config: Config, name: str, models: AllAnswers) -> list[report.Cost]:
    """The costs of a method on each forget set and over all, with their nulls; none if fewer than three models are left."""
    rows: list[report.Cost] = []
    for metric, split in COSTS:
        parts, nulls = compare_with_oracles(config, name, models, metric, split)
        count = len(parts)
        if count < FEWEST:
            continue
        for index, null_of_set in enumerate(nulls):
            interval = crossed_mean(parts[:, [index]]).interval
            rows.append(report.Cost(f"{config.forget.kind}-{index}", name, metric, split, *interval, *null_of_set[:2], count))
        sd = float(np.sqrt(np.sum([null_of_set.sd**2 for null_of_set in nulls]))) / len(nulls)
        mean = float(np.mean([null_of_set.mean for null_of_set in nulls]))
        rows.append(report.Cost(report.ALL, name, metric, split, *crossed_mean(parts).interval, mean, sd, count))
    return rows


def compare_with_oracles(config: Config, name: str, models: AllAnswers, metric: str, split: str) -> tuple[np.ndarray, list[Null]]:
    """Each model's contribution to a metric, `[models, sets]`, and the null of each set; empty with fewer than three models."""
    field, compare = COSTS[metric, split]
    by_set, oracles = ([getattr(of_set, field) for of_set in models[kind, split]] for kind in (name, "oracle"))
    count = min(comparable(len(by_set[0]), len(of_set)) for of_set in oracles)
    if count < FEWEST:
        return np.zeros((0, len(by_set))), []
    comparisons = [compare_models(config, compare, one[:count], other) for one, other in zip(by_set, oracles, strict=True)]
    return np.stack([parts for parts, _ in comparisons], axis=1), [of_oracles for _, of_oracles in comparisons]


def originals_excess(config: Config, models: AllAnswers) -> np.ndarray:
    """Each original's contribution to the main metric minus the mean of the null, `[originals, sets]`."""
    parts, nulls = compare_with_oracles(config, "original", models, *report.MAIN)
    return parts - [null_of_set.mean for null_of_set in nulls]


def compare_models(config: Config, compare: Compare, unlearned: np.ndarray, oracles: np.ndarray) -> tuple[np.ndarray, Null]:
    """Each model's contribution (pseudo-value) to a comparison of n models with n oracles, `[models]`, and its null.

    As in `metrics.evaluation`, the value is the mean over both halves of some splits of the oracles, and the null compares one
    half with the other. The part of the null that changes sign when the halves are exchanged counts twice, unless it is all of
    the null, as in a difference of means. (The main job has since divided z by the sd of the value as it is computed.)
    """
    key, count = jax.random.key(config.seed), len(unlearned)
    opposite = [oracles[half] for half in halves(key, len(oracles), count, HALVES).reshape(-1, count)]

    def value(models: np.ndarray) -> float:
        return float(np.mean([compare(models, half) for half in opposite]))

    def widen(first: np.ndarray, second: np.ndarray) -> float:
        return 1.5 * compare(first, second) - 0.5 * compare(second, first)

    left = np.array([value(np.delete(unlearned, out, axis=0)) for out in range(count)])
    parts = value(unlearned) - (count - 1) * (left - left.mean())
    of_oracles = null(compare if compare is mean_difference else widen, oracles, count, config.evaluation.splits, key=key)
    return parts, of_oracles


def correlate(results: list[report.Setting], methods: list[str]) -> list[report.Correlation]:
    """Rank correlation over settings of each measure of overfitting with each method's excess, and its interval.

    The excess is the divergence minus the mean of the null. Its share of the originals' excess is used only where that has z > 2.
    """
    different = [results[0], *(setting for setting in results[1:] if setting.intervals != results[0].intervals)]
    rows: list[report.Correlation] = []
    for measure in report.OVERFITTING:
        for method in ["original", *methods]:
            whole = [setting for setting in different if setting.has(method)]
            visible = [setting for setting in whole if method != "original" and setting.excess("original").z > report.VISIBLE]
            left = {
                "excess": [(setting, setting.excess(method).excess) for setting in whole],
                "z": [(setting, setting.excess(method).z) for setting in whole],
                "share": [(setting, setting.share(method)) for setting in visible],
            }
            for kind, pairs in left.items():
                if len(pairs) > 2:
                    ranked = rank_agreement(np.array([[setting.intervals[measure].value, value] for setting, value in pairs]))
                    rows.append(report.Correlation(measure, method, kind, len(pairs), *ranked.between(0, 1)))
    return rows


def differences(results: list[report.Setting]) -> list[report.Difference]:
    """Each setting minus each one before it on its axis (or the base, if the axis lacks it), in every measure."""
    rows: list[report.Difference] = []
    for _, group in itertools.groupby(results[1:], key=lambda setting: setting.axis):
        axis = list(group)
        if all(setting.intervals != results[0].intervals for setting in axis):
            axis.insert(0, results[0])
        for other, one in itertools.combinations(axis, 2):
            rows += [row for measure in report.DIFFERENCES if (row := subtract(one, other, measure))]
    return rows


def subtract(one: report.Setting, other: report.Setting, measure: str) -> report.Difference | None:
    """One setting minus another, paired by original and forget set; None if they share no original."""
    gaps = one.parts[measure] - other.parts[measure]
    gaps = gaps[np.isfinite(gaps).all(axis=1)]
    if not len(gaps):
        return None
    sets = [float(gap) for gap in gaps.mean(axis=0)] if gaps.shape[1] > 1 else []
    return report.Difference(measure, one.name, other.name, *crossed_mean(gaps).interval, sets)
