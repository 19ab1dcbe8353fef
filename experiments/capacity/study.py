"""Unlearning as overfitting: how capacity changes the gap, memorisation, an attack, and the cost of unlearning."""

import dataclasses
import itertools
from collections.abc import Callable

import jax
import numpy as np

from experiments.capacity import report
from experiments.capacity.options import Config
from unlearn_jax.bench.hyperparameters import settings
from unlearn_jax.bench.options import ATTACKED
from unlearn_jax.bench.pools import version_note
from unlearn_jax.bench.population import comparable
from unlearn_jax.bench.resume import Arrays
from unlearn_jax.bench.setting import Setting, prepare
from unlearn_jax.bench.several_sets import HALVES, AllAnswers, Answers, attack, diverged_by_set, group_answers, load_or_predict
from unlearn_jax.data.augmentation import augmentation
from unlearn_jax.metrics import catalogue, js_divergence, klom
from unlearn_jax.metrics.agreement import rank_agreement
from unlearn_jax.metrics.null import Null, halves, null
from unlearn_jax.metrics.statistics import crossed_mean
from unlearn_jax.progress import stage
from unlearn_jax.report.drawing import save
from unlearn_jax.runs import Run

Compare = Callable[[np.ndarray, np.ndarray], float]


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
        arrays = load_or_predict(variant, folder, prepare_setting(variant), values)
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
    attacks = [attack(config.seed, original.phi, oracle.phi) for original, oracle in pairs]
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
        if count < ATTACKED:
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
    if count < ATTACKED:
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
