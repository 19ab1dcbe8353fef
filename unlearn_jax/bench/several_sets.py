"""Several forget sets at once: originals, the oracles of each set and unlearned models, their logits, and an attack on them.

All forget sets share one pool of oracles and one batch of each method, so that each network is compiled once.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from unlearn_jax.as_json import json_text
from unlearn_jax.bench.forget_set import forget_mask, forget_name
from unlearn_jax.bench.options import ATTACKED, Comparison, Training
from unlearn_jax.bench.pools import compile_all, pool
from unlearn_jax.bench.population import comparable, lost_members
from unlearn_jax.bench.resume import Arrays, identity_of, load_or_make, unlearn
from unlearn_jax.bench.setting import Setting, forgetting
from unlearn_jax.data.splits import generator, sample
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import cross_entropy_losses, likelihood_ratios, probabilities, scaled_logits
from unlearn_jax.metrics.catalogue import damage, memory_left
from unlearn_jax.metrics.effects import SPLITS, Effects, effects, mean_effects
from unlearn_jax.metrics.null import halves
from unlearn_jax.progress import working
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import predict, tile
from unlearn_jax.training.pools import diverged, member_keys
from unlearn_jax.types import Problem, Variables

Values = dict[str, dict[str, Any]]
HALVES = 4  # splits of the oracles; a value is averaged over both halves of each
FEWEST_ORACLES = 6  # three on each side of the attack, for its variances


class Compiled:
    """The unlearners of one network. Other data of the same shapes, and other models, use them without compiling again."""

    def __init__(self) -> None:
        self.shapes: Any = None
        self.unlearners: dict[str, Unlearner] = {}

    def turn_to(
        self, config: Training, method: str, values: Values, problem: Problem, variables: Variables, forget: np.ndarray
    ) -> Unlearner:
        """The unlearner of a method, turned to a problem and to models, each with its own forget set `[models, examples]`."""
        shapes = (values, jax.tree.structure(problem), [np.shape(leaf) for leaf in jax.tree.leaves((problem, variables))])
        if shapes != self.shapes:
            self.shapes, self.unlearners = shapes, {}
        if method in self.unlearners:
            self.unlearners[method].turn_to(problem, variables, {"forget": forget})
        else:
            batching: dict[str, Any] = {"strategy": config.strategy, "chunk": config.chunk}
            self.unlearners[method] = Unlearner(method, values[method], problem, variables, masks={"forget": forget}, **batching)
        return self.unlearners[method]


def load_or_predict(
    config: Comparison, folder: Run, setting: Setting, values: Values, compiled: Compiled | None = None
) -> Arrays:
    """The logits of all models of a setting, see `train_and_predict`. Those kept by an earlier run are read.

    Args:
        config: the number of members and of forget sets, which examples those are, evaluation, batching and the seed.
        folder: the run folder.
        setting: data and model.
        values: the hyperparameters of each method: method -> name -> value.
        compiled: unlearners of earlier settings, which are used again.
    """
    forget = np.stack([forget_mask(config, setting, index) for index in range(config.forget_sets)])
    identity = {**identity_of(config, setting, forget), "methods": values}
    name = f"settings/{hashlib.sha256(json_text(identity).encode()).hexdigest()[:16]}.npz"
    return load_or_make(folder, name, identity, partial(train_and_predict, config, setting, forget, values, compiled))


def train_and_predict(
    config: Comparison, setting: Setting, forget: np.ndarray, values: Values, compiled: Compiled | None = None
) -> Arrays:
    """Trains originals and the oracles of all forget sets, unlearns, and predicts.

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
    of_members = np.repeat(forget, members, axis=0)
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
    lost_members(config, "original", (originals.variables, logits["original"]), ATTACKED)
    for index, name in enumerate(names):
        some = slice(2 * members * index, 2 * members * (index + 1))
        models = jax.tree.map(lambda leaf, some=some: leaf[some], (by_set, logits["oracle"]))
        lost_members(config, f"{name} oracle", models, FEWEST_ORACLES)
    compiled = compiled or Compiled()
    unlearners = {name: compiled.turn_to(config, name, values, problem, copies, of_members) for name in values}
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
    return [set(diverged([arrays[f"{kind}/{split}"][index] for split in SPLITS])) for index in sets]


def group_answers(arrays: Arrays) -> AllAnswers:
    """The answers without models that diverged: oracles by set; others if they or their original diverged on any set."""
    sets = range(len(arrays["forget_labels"]))
    kinds = dict.fromkeys(key.split("/")[0] for key in arrays if "/" in key)
    apart = {kind: diverged_by_set(arrays, kind) for kind in kinds}
    everywhere = {kind: set().union(*apart[kind]) for kind in kinds}
    answers_by_kind: AllAnswers = {}
    for kind in kinds:
        for split in SPLITS:
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


def margins_of(kind: str, index: int, models: AllAnswers) -> dict[str, np.ndarray]:
    """The margins of one kind of model on a forget set and on the other splits, each `[models, examples]`."""
    return {split: models[kind, split][index].phi for split in SPLITS}


def effects_by_set(name: str, models: AllAnswers) -> list[Effects]:
    """The effect sizes of a method on each forget set; an empty list if some of its models diverged."""
    sets = range(len(models["original", "forget"]))
    if any(len(models[name, "forget"][index].phi) < len(models["original", "forget"][index].phi) for index in sets):
        return []
    return [effects(*(margins_of(kind, index, models) for kind in (name, "original", "oracle"))) for index in sets]


def measure_methods(methods: Sequence[str], models: AllAnswers) -> dict[str, float]:
    """What the originals remember, and the memory left and the damage of each method: means over forget sets.

    NaN if the originals remember too little to measure on every set, or if models diverged.
    """
    measures = {"remembered": math.nan}
    for name in methods:
        of_sets = effects_by_set(name, models)
        found = mean_effects(of_sets) if of_sets else None
        measures[f"memory/{name}"] = found.memory_left.value if found else math.nan
        measures[f"damage/{name}"] = found.damage.value if found else math.nan
        measures["remembered"] = found.remembered.value if found else measures["remembered"]
    return measures


def labels_of(methods: Sequence[str]) -> dict[str, str]:
    """What tables call the sizes of each method in `measure_methods`."""
    sizes = {"memory": memory_left.label, damage.name: damage.label}
    return {f"{key}/{name}": f"{label}, {name}" for key, label in sizes.items() for name in methods}


def attack(seed: int, originals: np.ndarray, oracles: np.ndarray) -> tuple[np.ndarray, float]:
    """The AUC of the likelihood-ratio attack with each original as positives, `[originals]`, and with oracles as positives.

    The negatives are as many oracles as there are originals; both AUCs are averaged over some splits of the oracles.
    """
    count = comparable(len(originals), len(oracles))
    aucs, guess = [], []
    for first, second in halves(jax.random.key(seed), len(oracles), count, HALVES):
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
