"""Which characteristics beyond the loss show membership: attacks by each feature alone, and beside the loss, on every pool."""

import os
from collections.abc import Callable, Iterable
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

import jax
import numpy as np
from joblib import Parallel, delayed

from experiments.attack_features import report
from experiments.attack_features.options import Config
from experiments.attack_features.report import ORACLE, Exposure
from unlearn_jax.bench.forget_set import ForgetSet, forget_mask, forget_set
from unlearn_jax.bench.hyperparameters import settings_of_sets
from unlearn_jax.bench.judging import unlearn
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.pools import pool
from unlearn_jax.bench.population import comparable, lost_members
from unlearn_jax.bench.resume import load_or_make
from unlearn_jax.bench.setting import prepare
from unlearn_jax.data import Dataset
from unlearn_jax.data.augmentation import variations
from unlearn_jax.data.splits import generator, mislabel
from unlearn_jax.methods import METHODS
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import (
    cross_entropy_losses,
    feature_mias,
    hellinger,
    joined,
    mahalanobis_distances,
    neighbour_distances,
    output_features,
    probabilities,
    shuffled_among_alike,
)
from unlearn_jax.metrics.null import Null, halves, joint, of_means
from unlearn_jax.metrics.statistics import bootstrap
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import REFERENCES, Row, subject, write_results
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import features, over_examples, predict
from unlearn_jax.training.gradients import gradient_norms
from unlearn_jax.training.pools import Pool, diverged
from unlearn_jax.types import Examples, Model, Variables

Features = dict[str, np.ndarray]  # of one member: name -> [examples, columns]
Asked = tuple[str, str, str]  # attacker, feature, measure
BATCH = 32  # examples whose own gradients are held at a time
ALL = "all"  # the features together


class Measured(NamedTuple):
    """The measures of attacks on a pool."""

    by_group: dict[Asked, np.ndarray]  # [groups of members]
    members: int


def run(config: Config, folder: Run) -> None:
    """Attack originals, oracles and unlearned models by every feature, and report how much each adds to the loss.

    Raises:
        UsageError: something in the configuration cannot be done.
    """
    setting = prepare(config)
    values = settings_of_sets(config, setting, config.method_names())
    masks = [forget_mask(config, setting, index) for index in range(config.forget_sets)]
    originals = pool(config, setting, setting.problem, masks[0] | True, "original", config.members)
    lost_members(config, "original", originals.variables, config.together + 1)  # two groups
    sets = [Attacked(config, forget_set(config, folder, setting, mask, name)) for mask, name in zip(masks, values, strict=True)]
    oracles = [each.oracles() for each in sets]  # if they do not suffice, then before a method is trained
    exposures: list[Exposure] = []
    for attacked, of_oracles in zip(sets, oracles, strict=True):
        exposures += attacked.judge_all(values[attacked.study.name], originals, of_oracles)
    rows = [row_of(config, each) for each in exposures if each.method != ORACLE]
    folder.write_csv("features.csv", *report.table(exposures))
    write_results(folder, rows, {"bands": {f"{each.forget_set}/{each.method}": each.band for each in exposures}})
    first = [each for each in exposures if each.forget_set == exposures[0].forget_set]
    title = f"{subject([row_of(config, each) for each in first if each.method != ORACLE])} · non-members: {config.comparison}"
    for attacker in config.attacker_names():
        own = [each for each in first if each.attacker == attacker]
        save(report.heat_map(own, title), folder, f"features_{attacker}")
    save(report.dots(first, title), folder, "features")
    print(report.summary(first))


class Attacked:
    """One forget set, non-members beside it, and attacks that tell the two from each other."""

    def __init__(self, config: Config, study: ForgetSet):
        self.config, self.study, self.names = config, study, config.feature_names()
        data, rows = study.setting.data, study.rows["forget"]
        right = data.train.labels[rows] == data.clean_labels[rows]
        if config.comparison == "right":
            rows = rows[right]
        labels = data.train.labels[rows]
        fresh = non_members(data, labels, float(np.mean(~right)) if config.comparison == "matched" else 0.0, config.seed)
        wanted = (
            f"leaves {len(rows)} forget examples and {len(fresh.labels)} non-members; expected {config.folds} of each or more"
        )
        require(min(len(rows), len(fresh.labels)) >= config.folds, "--comparison", config.comparison, wanted)
        self.count = len(rows)
        images = np.concatenate([data.train.images[rows], fresh.images])
        self.examples = Examples(images, np.concatenate([labels, fresh.labels]))

    def oracles(self) -> Measured:
        """The measures of every attack on the oracles.

        Raises:
            UsageError: fewer are left than make a null of two groups against two.
        """

        def trained() -> Variables:
            variables = self.study.pool(ORACLE, 2 * self.config.members).variables
            logits = predict(self.study.problem.model, variables, self.examples.images, self.config.strategy)
            lost_members(self.config, "retrained", (variables, logits), 3 * self.config.together + 1)
            return variables

        return self.measured(ORACLE, {}, trained)

    def judge_all(self, values: dict[str, dict[str, Any]], originals: Pool, oracles: Measured) -> list[Exposure]:
        """The measures of every attack on every pool, beside those on the oracles."""
        found = {ORACLE: oracles}
        for name, own in values.items():
            found[name] = self.measured(name, own, partial(self.unlearned, name, own, originals))
        return [each for name, measured in found.items() for each in self.exposures(name, measured, oracles)]

    def unlearned(self, name: str, values: dict[str, Any], originals: Pool) -> Variables:
        """The originals after a method."""
        options: dict[str, Any] = {"strategy": self.config.strategy, "chunk": self.config.chunk}
        unlearner = None if name in REFERENCES else Unlearner(name, values, self.study.problem, originals.variables, **options)
        return unlearn(self.study, name, originals, unlearner, seed=0).variables

    def measured(self, name: str, values: dict[str, Any], variables: Callable[[], Variables]) -> Measured:
        """Every attack on every member that did not diverge, read where an earlier run kept them."""
        asked = ("comparison", "folds", "together")
        identity = {
            **self.study.identity,
            "values": values,
            **{name: getattr(self.config, name) for name in asked},
            "attackers": self.config.attacker_names(),
            "features": self.names,
        }

        def make() -> dict[str, np.ndarray]:
            model = self.study.problem.model
            members = self.read(variables(), METHODS[name].outcome(model) if name in METHODS else model)
            return self.attacked(name, members) if members else {}

        found = load_or_make(self.study.folder, f"attacks/{self.study.name}/{name}.npz", identity, make)
        keys = {key: key.split("/") for key in found if "/" in key}
        by_key = {(attacker, feature, measure): found[key] for key, (attacker, feature, measure) in keys.items()}
        return Measured(by_key, int(found.get("members", 0)))

    def attacked(self, name: str, members: list[Features]) -> dict[str, np.ndarray]:
        """Every attack on every group of members, the mean over each group, and how many members there are."""
        config = self.config
        groups = np.array_split(np.arange(len(members)), -(-len(members) // config.together))
        asked = [(attacker, feature) for attacker in config.attacker_names() for feature in (*self.names, ALL)]
        calls = (
            delayed(attack)([members[member] for member in group], self.count, *each, config.folds, config.seed + number)
            for each in asked
            for number, group in enumerate(groups)
        )
        parts: list[dict[str, np.ndarray]] = []
        with working(f"attacks on {name}") as update:
            for part in Parallel(n_jobs=config.workers or os.cpu_count(), return_as="generator")(calls):
                parts.append(part)
                update(len(parts) / (len(asked) * len(groups)), f"{asked[(len(parts) - 1) // len(groups)]}")
            update(1.0, f"{len(asked)} features and attackers, {len(members)} members")
        found = {"members": np.array(len(members))}
        for number, key in enumerate(asked):
            own = parts[number * len(groups) : (number + 1) * len(groups)]
            found |= {"/".join((*key, measure)): np.array([each[measure].mean() for each in own]) for measure in own[0]}
        return found

    def read(self, variables: Variables, model: Model) -> list[Features]:
        """The features of forget examples and non-members, for each member that did not diverge."""
        strategy, (images, labels) = self.config.strategy, self.examples
        lost = diverged((variables, predict(model, variables, images, strategy)))
        numbers = np.setdiff1d(np.arange(len(jax.tree.leaves(variables)[0])), lost)
        kept: Variables = jax.tree.map(lambda leaf: leaf[numbers], variables)
        if not len(numbers):
            return []
        references = self.study.images.retain, self.study.setting.data.held_out.images
        p, retain, held_out = (probabilities(predict(model, kept, each, strategy)) for each in (images, *references))
        points, retain_points = (features(model, kept, each, strategy) for each in (images, references[0]))
        norms = over_examples(gradient_norms, model, kept, self.examples, strategy, BATCH)
        varied = variations(images, self.config.seed)
        of_varied = predict(model, kept, varied.reshape(-1, *images.shape[1:]), strategy)
        varied_losses = cross_entropy_losses(of_varied, np.tile(labels, len(varied)))
        retain_labels = self.study.labels.retain
        white_box = {
            "augmented_loss": np.moveaxis(varied_losses.reshape(len(numbers), *varied.shape[:2]), 1, 2),
            "gradient_norm": log(np.linalg.norm(norms, axis=-1, keepdims=True)),
            "block_gradient_norms": log(norms),
            "retain_neighbours": column(map(neighbour_distances, map(hellinger, p), map(hellinger, retain))),
            "held_out_neighbours": column(map(neighbour_distances, map(hellinger, p), map(hellinger, held_out))),
            "feature_neighbours": column(map(neighbour_distances, points, retain_points)),
            "feature_gaussian": column(map(mahalanobis_distances, points, retain_points, repeat(retain_labels))),
        }
        read = [output_features(each, labels) | {n: values[at] for n, values in white_box.items()} for at, each in enumerate(p)]
        return [{name: each[name] for name in self.names} for each in read]

    def exposures(self, name: str, measured: Measured, oracles: Measured) -> list[Exposure]:
        """Means over the groups of members with intervals and nulls; none where fewer than two groups are left."""
        groups, of_oracles = (len(next(iter(each.by_group.values()), ())) for each in (measured, oracles))
        if groups < 2:
            return []
        n = groups if name == ORACLE else comparable(groups, of_oracles)
        nulls, band = self.nulls(oracles, comparable(n, of_oracles))
        access = METHODS[name].access if name in METHODS else "none"
        found = []
        for key, numbers in measured.by_group.items():
            null, (value, low, high) = nulls[key], bootstrap(numbers[:n], self.config.seed)
            z = (value - null.mean) / null.sd if null.sd > 0 and name != ORACLE else None
            counts = min(measured.members, n * self.config.together), oracles.members
            found.append(Exposure(self.study.name, name, access, *key, value, low, high, *null, z, band, *counts))
        return found

    def nulls(self, oracles: Measured, n: int) -> tuple[dict[Asked, Null], float]:
        """The null of groups of oracles, n against n, and the 95% band of the largest |z| over areas and gains."""
        count = len(next(iter(oracles.by_group.values())))
        split = halves(jax.random.key(self.config.seed), count, n, self.config.evaluation.splits)
        draws = {key: of_means(numbers, split)[0] for key, numbers in oracles.by_group.items()}
        centres = {key: float(numbers.mean()) for key, numbers in oracles.by_group.items()}
        nulls, _ = joint(draws, centres)
        judged = [key for key in draws if key[2] in report.JUDGED]
        _, band = joint({key: draws[key] for key in judged}, {key: centres[key] for key in judged})
        return nulls, band


def non_members(data: Dataset, labels: np.ndarray, wrong: float, seed: int) -> Examples:
    """Test examples, a share of them with a wrong label, of the labels that the forget set has."""
    given = mislabel(data.test.labels, wrong, data.classes, generator("labels of non-members", seed))
    alike = np.isin(given, labels)
    return Examples(data.test.images[alike], given[alike])


def attack(members: list[Features], count: int, attacker: str, feature: str, folds: int, seed: int) -> dict[str, np.ndarray]:
    """Attacks on some members, the first `count` of whose examples are the forget set's, by one feature (or all of them).

    Returns:
        The measures of `report.MEASURES`, each with one number for each member.
    """
    names = list(members[0]) if feature == ALL else [feature]
    beyond = [name for name in names if name != "loss"]
    losses = [own["loss"] for own in members]

    def told(columns: Iterable[np.ndarray]) -> np.ndarray:
        stacked = np.stack(list(columns))
        return np.array(feature_mias(stacked[:, :count], stacked[:, count:], attacker, folds, seed)).T  # [measures, members]

    auc, accuracy, tpr = alone = told(joined(own, names) for own in members)
    if not beyond:
        return {"auc": auc, "gain": 0 * auc, "beside": auc, "tpr": tpr, "tpr_gain": 0 * tpr, "accuracy": accuracy}
    columns = [joined(own, beyond) for own in members]
    control = [shuffled_among_alike(own, losses[number][:, 0], number) for number, own in enumerate(columns)]
    beside = alone if feature == ALL else told(map(both, losses, columns))
    nothing = told(map(both, losses, control))
    gain, _, tpr_gain = beside - nothing
    return {"auc": auc, "gain": gain, "beside": beside[0], "tpr": tpr, "tpr_gain": tpr_gain, "accuracy": accuracy}


def both(loss: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The loss and other columns."""
    return np.concatenate([loss, columns], axis=1)


def row_of(config: Config, each: Exposure) -> Row:
    """A row of results.csv."""
    return Row(
        experiment=config.exp,
        dataset=config.dataset,
        model=config.model,
        forget_set=each.forget_set,
        method=each.method,
        access=each.access,
        metric=f"attack_{each.measure}_{each.attacker}_{each.feature}",
        split="forget",
        value=each.value,
        value_low=each.low,
        value_high=each.high,
        null_mean=each.null_mean,
        null_sd=each.null_sd,
        null_low=each.null_low,
        null_high=each.null_high,
        z=each.z,
        n_members=each.n_members,
        n_oracles=each.n_oracles,
        evidence=abs(each.evidence),
        band=each.band,
    )


def log(values: np.ndarray) -> np.ndarray:
    """Distances and norms on a logarithmic scale, for linear attackers."""
    return np.log(np.maximum(values, 1e-12))


def column(distances: Iterable[np.ndarray]) -> np.ndarray:
    """`[members, examples, 1]`, the logarithm of one array of distances for each member."""
    return log(np.stack(list(distances)))[..., None]
