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
AttackKey = tuple[str, str, str]  # attacker, feature, measure
BATCH = 32  # examples whose gradients are in memory at a time
ALL = "all"  # all features together


class Measures(NamedTuple):
    """The measures of all attacks on a pool."""

    by_group: dict[AttackKey, np.ndarray]  # [groups of members]
    members: int


def run(config: Config, folder: Run) -> None:
    """Attack originals, oracles and unlearned models by every feature, and report how much each adds to the loss.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    setting = prepare(config)
    values = settings_of_sets(config, setting, config.method_names())
    masks = [forget_mask(config, setting, index) for index in range(config.forget_sets)]
    originals = pool(config, setting, setting.problem, masks[0] | True, "original", config.members)
    lost_members(config, "original", originals.variables, config.together + 1)  # two groups
    sets = [
        AttackedSet(config, forget_set(config, folder, setting, mask, name)) for mask, name in zip(masks, values, strict=True)
    ]
    oracles = [attacked_set.measure_oracles() for attacked_set in sets]  # too few oracles stop the run before a method is trained
    exposures: list[Exposure] = []
    for attacked, of_oracles in zip(sets, oracles, strict=True):
        exposures += attacked.judge_all(values[attacked.study.name], originals, of_oracles)
    rows = [build_row(config, exposure) for exposure in exposures if exposure.method != ORACLE]
    folder.write_csv("features.csv", *report.table(exposures))
    write_results(folder, rows, {"bands": {f"{exposure.forget_set}/{exposure.method}": exposure.band for exposure in exposures}})
    first = [exposure for exposure in exposures if exposure.forget_set == exposures[0].forget_set]
    of_methods = [build_row(config, exposure) for exposure in first if exposure.method != ORACLE]
    title = f"{subject(of_methods)} · non-members: {config.comparison}"
    for attacker in config.attacker_names():
        of_attacker = [exposure for exposure in first if exposure.attacker == attacker]
        save(report.heat_map(of_attacker, title), folder, f"features_{attacker}")
    save(report.dots(first, title), folder, "features")
    print(report.summary(first))


class AttackedSet:
    """One forget set, its non-members, and the attacks that distinguish the two."""

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

    def measure_oracles(self) -> Measures:
        """The measures of every attack on the oracles.

        Raises:
            ArgumentError: too few are left for a null of two groups against two.
        """

        def train() -> Variables:
            variables = self.study.pool(ORACLE, 2 * self.config.members).variables
            logits = predict(self.study.problem.model, variables, self.examples.images, self.config.strategy)
            lost_members(self.config, "retrained", (variables, logits), 3 * self.config.together + 1)
            return variables

        return self.load_or_measure(ORACLE, {}, train)

    def judge_all(self, values: dict[str, dict[str, Any]], originals: Pool, oracles: Measures) -> list[Exposure]:
        """The measures of every attack on every pool, with the null of the oracles."""
        measures = {ORACLE: oracles}
        for name, settings in values.items():
            measures[name] = self.load_or_measure(name, settings, partial(self.unlearn_originals, name, settings, originals))
        return [exposure for name, measured in measures.items() for exposure in self.build_exposures(name, measured, oracles)]

    def unlearn_originals(self, name: str, values: dict[str, Any], originals: Pool) -> Variables:
        """The originals after a method."""
        options: dict[str, Any] = {"strategy": self.config.strategy, "chunk": self.config.chunk}
        unlearner = None if name in REFERENCES else Unlearner(name, values, self.study.problem, originals.variables, **options)
        return unlearn(self.study, name, originals, unlearner, seed=0).variables

    def load_or_measure(self, name: str, values: dict[str, Any], variables: Callable[[], Variables]) -> Measures:
        """The measures of every attack on a pool. Those kept by an earlier run are read."""
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
            members = self.read_features(variables(), METHODS[name].outcome(model) if name in METHODS else model)
            return self.run_attacks(name, members) if members else {}

        arrays = load_or_make(self.study.folder, f"attacks/{self.study.name}/{name}.npz", identity, make)
        keys = {key: key.split("/") for key in arrays if "/" in key}
        by_key = {(attacker, feature, measure): arrays[key] for key, (attacker, feature, measure) in keys.items()}
        return Measures(by_key, int(arrays.get("members", 0)))

    def run_attacks(self, name: str, members: list[Features]) -> dict[str, np.ndarray]:
        """Runs every attack on every group of members. Returns means over each group, and the number of members."""
        config = self.config
        groups = np.array_split(np.arange(len(members)), -(-len(members) // config.together))
        asked = [(attacker, feature) for attacker in config.attacker_names() for feature in (*self.names, ALL)]
        calls = (
            delayed(attack)([members[member] for member in group], self.count, *pair, config.folds, config.seed + number)
            for pair in asked
            for number, group in enumerate(groups)
        )
        parts: list[dict[str, np.ndarray]] = []
        with working(f"attacks on {name}") as update:
            for part in Parallel(n_jobs=config.workers or os.cpu_count(), return_as="generator")(calls):
                parts.append(part)
                update(len(parts) / (len(asked) * len(groups)), f"{asked[(len(parts) - 1) // len(groups)]}")
            update(1.0, f"{len(asked)} features and attackers, {len(members)} members")
        arrays = {"members": np.array(len(members))}
        for number, key in enumerate(asked):
            of_pair = parts[number * len(groups) : (number + 1) * len(groups)]
            arrays |= {"/".join((*key, measure)): np.array([part[measure].mean() for part in of_pair]) for measure in of_pair[0]}
        return arrays

    def read_features(self, variables: Variables, model: Model) -> list[Features]:
        """The features of forget examples and non-members, for each member that did not diverge."""
        strategy, (images, labels) = self.config.strategy, self.examples
        lost = diverged((variables, predict(model, variables, images, strategy)))
        numbers = np.setdiff1d(np.arange(len(jax.tree.leaves(variables)[0])), lost)
        kept: Variables = jax.tree.map(lambda leaf: leaf[numbers], variables)
        if not len(numbers):
            return []
        references = self.study.images.retain, self.study.setting.data.held_out.images
        p, retain, held_out = (probabilities(predict(model, kept, part, strategy)) for part in (images, *references))
        points, retain_points = (features(model, kept, part, strategy) for part in (images, references[0]))
        norms = over_examples(gradient_norms, model, kept, self.examples, strategy, BATCH)
        varied = variations(images, self.config.seed)
        of_varied = predict(model, kept, varied.reshape(-1, *images.shape[1:]), strategy)
        varied_losses = cross_entropy_losses(of_varied, np.tile(labels, len(varied)))
        retain_labels = self.study.labels.retain
        white_box = {
            "augmented_loss": np.moveaxis(varied_losses.reshape(len(numbers), *varied.shape[:2]), 1, 2),
            "gradient_norm": safe_log(np.linalg.norm(norms, axis=-1, keepdims=True)),
            "block_gradient_norms": safe_log(norms),
            "retain_neighbours": log_column(map(neighbour_distances, map(hellinger, p), map(hellinger, retain))),
            "held_out_neighbours": log_column(map(neighbour_distances, map(hellinger, p), map(hellinger, held_out))),
            "feature_neighbours": log_column(map(neighbour_distances, points, retain_points)),
            "feature_gaussian": log_column(map(mahalanobis_distances, points, retain_points, repeat(retain_labels))),
        }
        read = [output_features(q, labels) | {n: values[at] for n, values in white_box.items()} for at, q in enumerate(p)]
        return [{name: member[name] for name in self.names} for member in read]

    def build_exposures(self, name: str, measured: Measures, oracles: Measures) -> list[Exposure]:
        """The exposures of a pool: means over groups of members with intervals and nulls; empty with fewer than two groups."""
        groups, of_oracles = (len(next(iter(pool_measures.by_group.values()), ())) for pool_measures in (measured, oracles))
        if groups < 2:
            return []
        n = groups if name == ORACLE else comparable(groups, of_oracles)
        nulls, band = self.nulls(oracles, comparable(n, of_oracles))
        access = METHODS[name].access if name in METHODS else "none"
        exposures = []
        for key, numbers in measured.by_group.items():
            null, (value, low, high) = nulls[key], bootstrap(numbers[:n], self.config.seed)
            z = (value - null.mean) / null.sd if null.sd > 0 and name != ORACLE else None
            counts = min(measured.members, n * self.config.together), oracles.members
            exposures.append(Exposure(self.study.name, name, access, *key, value, low, high, *null, z, band, *counts))
        return exposures

    def nulls(self, oracles: Measures, n: int) -> tuple[dict[AttackKey, Null], float]:
        """The nulls of groups of oracles, n against n, and the 95% band of the largest |z| over AUCs and gains."""
        count = len(next(iter(oracles.by_group.values())))
        split = halves(jax.random.key(self.config.seed), count, n, self.config.evaluation.splits)
        draws = {key: of_means(numbers, split)[0] for key, numbers in oracles.by_group.items()}
        centres = {key: float(numbers.mean()) for key, numbers in oracles.by_group.items()}
        nulls, _ = joint(draws, centres)
        judged = [key for key in draws if key[2] in report.JUDGED]
        _, band = joint({key: draws[key] for key in judged}, {key: centres[key] for key in judged})
        return nulls, band


def non_members(data: Dataset, labels: np.ndarray, wrong: float, seed: int) -> Examples:
    """Test examples with a share `wrong` of wrong labels, of the classes in `labels`."""
    given = mislabel(data.test.labels, wrong, data.classes, generator("labels of non-members", seed))
    alike = np.isin(given, labels)
    return Examples(data.test.images[alike], given[alike])


def attack(members: list[Features], count: int, attacker: str, feature: str, folds: int, seed: int) -> dict[str, np.ndarray]:
    """Attacks a group of members by one feature or all; the first `count` examples are the forget set's.

    Returns:
        Each of `report.MEASURES`, `[members]`.
    """
    names = list(members[0]) if feature == ALL else [feature]
    beyond = [name for name in names if name != "loss"]
    losses = [member["loss"] for member in members]

    def run_attack(columns: Iterable[np.ndarray]) -> np.ndarray:
        stacked = np.stack(list(columns))
        return np.array(feature_mias(stacked[:, :count], stacked[:, count:], attacker, folds, seed)).T  # [measures, members]

    auc, accuracy, tpr = alone = run_attack(joined(member, names) for member in members)
    if not beyond:
        return {"auc": auc, "gain": 0 * auc, "beside": auc, "tpr": tpr, "tpr_gain": 0 * tpr, "accuracy": accuracy}
    columns = [joined(member, beyond) for member in members]
    control = [shuffled_among_alike(member, losses[number][:, 0], number) for number, member in enumerate(columns)]
    beside = alone if feature == ALL else run_attack(map(prepend_loss, losses, columns))
    nothing = run_attack(map(prepend_loss, losses, control))
    gain, _, tpr_gain = beside - nothing
    return {"auc": auc, "gain": gain, "beside": beside[0], "tpr": tpr, "tpr_gain": tpr_gain, "accuracy": accuracy}


def prepend_loss(loss: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The loss and other columns, `[examples, 1 + columns]`."""
    return np.concatenate([loss, columns], axis=1)


def build_row(config: Config, exposure: Exposure) -> Row:
    """A row of results.csv."""
    return Row(
        experiment=config.exp,
        dataset=config.dataset,
        model=config.model,
        forget_set=exposure.forget_set,
        method=exposure.method,
        access=exposure.access,
        metric=f"attack_{exposure.measure}_{exposure.attacker}_{exposure.feature}",
        split="forget",
        value=exposure.value,
        value_low=exposure.low,
        value_high=exposure.high,
        null_mean=exposure.null_mean,
        null_sd=exposure.null_sd,
        null_low=exposure.null_low,
        null_high=exposure.null_high,
        z=exposure.z,
        n_members=exposure.n_members,
        n_oracles=exposure.n_oracles,
        evidence=abs(exposure.evidence),
        band=exposure.band,
    )


def safe_log(values: np.ndarray) -> np.ndarray:
    """The logarithm of distances and norms, for linear attackers; finite at 0."""
    return np.log(np.maximum(values, 1e-12))


def log_column(distances: Iterable[np.ndarray]) -> np.ndarray:
    """The logarithm of each member's distances, `[members, examples, 1]`."""
    return safe_log(np.stack(list(distances)))[..., None]
