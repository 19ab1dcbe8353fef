"""Likelihood-ratio attacks by several characteristics: alone, beside the loss, and together; before and after unlearning."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression

from experiments.calibrated_attacks import report
from experiments.calibrated_attacks.options import BLOCK, Config
from experiments.calibrated_attacks.report import ALL, CHARACTERISTICS, LOSS, Attack
from unlearn_jax.bench import study_page
from unlearn_jax.bench.forget_set import ForgetSet, forget_class, forget_mask, forget_name, forget_set
from unlearn_jax.bench.hyperparameters import settings
from unlearn_jax.bench.judging import unlearn
from unlearn_jax.bench.pools import pool, train_on_halves
from unlearn_jax.bench.population import lost_members
from unlearn_jax.bench.resume import load_or_make
from unlearn_jax.bench.setting import Setting, prepare
from unlearn_jax.data.augmentation import variations
from unlearn_jax.data.splits import generator, sample
from unlearn_jax.methods import METHODS
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import (
    cross_entropy_losses,
    entropies,
    hellinger,
    neighbour_distances,
    probabilities,
    resampled_attack,
    scaled_logits,
    vector_ratios,
)
from unlearn_jax.metrics.features import squared_distances
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import REFERENCES
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import features, over_examples, predict
from unlearn_jax.training.gradients import gradient_norms
from unlearn_jax.types import Examples, Interval, Model, Variables

GRADIENTS = 32  # examples whose gradients are in memory at a time
FOLDS = 4  # of originals and oracles
LEARNED = 20_000  # scores that a linear rule is learned from, at most
Columns = dict[str, np.ndarray]  # characteristic -> [members, examples, columns]
Draws = np.ndarray  # [1 + resamples, 2]: AUC and TPR at 1%; the first row is the value


class Side(NamedTuple):
    """Models under attack, with the shadow models that say what to expect."""

    shadows: np.ndarray  # numbers of the models that the attacker has
    attacked: np.ndarray  # numbers of the others


def run(config: Config, folder: Run) -> None:
    """Attack models on random halves, then originals and what methods made of them, and report what each characteristic adds.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    setting = prepare(config)
    name = forget_name(config, setting, 0)
    values = settings(config, config.method_names(), forget_class(config, setting, 0))
    study = forget_set(config, folder, setting, forget_mask(config, setting, 0), name)
    attacks = attack_halves(config, folder, setting) + attack_methods(config, folder, study, values)
    folder.write_csv("attacks.csv", *report.table(attacks))
    folder.write_text("summary.md", report.summary(attacks))
    title = f"{config.dataset}, {config.model} of width {config.width}"
    save(report.alone(attacks, title), folder, "alone")
    save(report.gains(attacks, title), folder, "gains")
    save(report.after(attacks, title), folder, "after")
    study_page.write(folder)
    print(report.summary(attacks))


def attack_halves(config: Config, folder: Run, setting: Setting) -> list[Attack]:
    """Attacks on models of random halves, on all training examples, and on those with right and with wrong labels."""
    masks, variables = train_on_halves(config, setting, config.shadows)
    examples = Examples(setting.data.train.images, setting.data.train.labels)
    identity = {**setting.identity, "seed": config.seed, "train": config.train, "shadows": config.shadows}
    read = partial(characteristics, config, setting, setting.problem.model, variables, examples)
    columns = load_columns(folder, "characteristics/halves.npz", identity, read)
    count = len(masks)
    blocks = np.split(np.arange(count), range(BLOCK, count, BLOCK))
    sides = [Side(np.setdiff1d(np.arange(count), block), block) for block in blocks]
    right = setting.data.train.labels == setting.data.clean_labels
    subsets = {"all": right | True, "right labels": right, "wrong labels": ~right}
    rng = generator("attacked models", config.seed)
    drawn = np.concatenate([np.ones((1, count)), rng.multinomial(count, np.full(count, 1 / count), config.resamples)])
    attacks: list[Attack] = []
    with working("attacks on halves") as update:
        scores = score_all(columns, masks, sides, config.seed)
        update(0.3, "scores")
        nulls: dict[tuple[str, str, str], list[np.ndarray]] = {}
        for number in range(config.permutations):
            other = masks[generator("permuted masks", config.seed, number).permutation(count)]
            for key, score in score_all(columns, other, sides, config.seed, calibrated_only=True).items():
                nulls.setdefault(key, []).append(resampled_attack(score, other, np.ones((1, count)))[0])
            update(0.3 + 0.4 * (number + 1) / config.permutations, f"null {number + 1} of {config.permutations}")
        for subset, some in subsets.items():
            if some.any():
                judged = np.broadcast_to(some, masks.shape)
                measured = {key: resampled_attack(score, masks, drawn, judged) for key, score in scores.items()}
                attacks += compare("halves", subset, measured, nulls if subset == "all" else {})
        update(1.0, f"{len(scores)} attacks on {count} models")
    return attacks


def attack_methods(config: Config, folder: Run, study: ForgetSet, values: dict[str, dict[str, Any]]) -> list[Attack]:
    """Attacks on the originals and on unlearned models, against oracles.

    Twice each: by an attacker who knows originals and oracles, and by one who knows other models of the same method and oracles.
    All of it on the forget set, and on as many test examples, which no model saw: what shows there is no memory.
    """
    setting, problem, data = study.setting, study.problem, study.setting.data
    rows = study.rows["forget"]
    fresh = sample(len(data.test.labels), len(rows), generator("examples that no model saw", config.seed))
    parts = {
        "": Examples(data.train.images[rows], data.train.labels[rows]),
        report.UNSEEN: Examples(data.test.images[fresh], data.test.labels[fresh]),
    }
    everything = np.ones(len(data.train.labels), bool)
    originals = pool(config, setting, setting.problem, everything, "original", study.members)
    lost_members(config, "original", originals.variables, study.members)
    oracles = study.pool("oracle", 2 * study.members)
    lost_members(config, "retrained", oracles.variables, 2 * study.members)

    def read(name: str, model: Model, variables: Callable[[], Variables]) -> dict[str, Columns]:
        def make(examples: Examples) -> Columns:
            made = variables()
            lost_members(config, name, made, len(jax.tree.leaves(made)[0]))
            return characteristics(config, setting, model, made, examples)

        identity = {**study.identity, "values": values.get(name, {})}
        files = {part: f"characteristics/{study.name}/{name}{part.replace(' ', '-')}.npz" for part in parts}
        return {part: load_columns(folder, files[part], identity, partial(make, parts[part])) for part in parts}

    of_oracles = read("oracle", problem.model, lambda: oracles.variables)
    of_originals = read("original", problem.model, lambda: originals.variables)
    attacks: list[Attack] = []
    for name, setting_of_method in values.items():

        @cache
        def variables(name: str = name, chosen: dict[str, Any] = setting_of_method) -> Variables:
            options: dict[str, Any] = {"strategy": config.strategy, "chunk": config.chunk}
            unlearner = None if name in REFERENCES else Unlearner(name, chosen, problem, originals.variables, **options)
            return unlearn(study, name, originals, unlearner, seed=0).variables

        found = of_originals if name == "original" else read(name, METHODS[name].outcome(problem.model), variables)
        with working(f"attacks on {name}") as update:
            for part in parts:
                for knows, known in (("originals", of_originals), ("the method", found)):
                    if name != "original" or knows == "originals":
                        attacks += attack_method(config, name, knows + part, known[part], found[part], of_oracles[part])
            update(1.0, f"{len(CHARACTERISTICS)} characteristics")
    return attacks


def attack_method(config: Config, name: str, knows: str, known: Columns, found: Columns, oracles: Columns) -> list[Attack]:
    """Attacks on a method's models by what is known of others, and of oracles.

    Args:
        config: the number of models, and the seed.
        name: of the method.
        knows: what the attacker knows of models that saw the forget set.
        known: characteristics of those models; member i is never used to attack member i.
        found: of the models under attack.
        oracles: of twice as many that never saw it.
    """
    members = len(found[LOSS])
    both: Columns = {key: np.concatenate([known[key], found[key], oracles[key]]) for key in found}
    count = len(both[LOSS])
    saw = np.zeros((count, found[LOSS].shape[1]), bool)
    saw[: 2 * members] = True
    sides = []
    for fold in range(FOLDS):
        of_members, of_oracles = (np.arange(size) % FOLDS == fold for size in (members, count - 2 * members))
        shadows = np.concatenate([~of_members, np.zeros(members, bool), ~of_oracles])
        attacked = np.concatenate([of_members, of_members, of_oracles])
        sides.append(Side(np.flatnonzero(shadows), np.flatnonzero(attacked)))
    scores = {key: score[members:] for key, score in score_all(both, saw, sides, config.seed).items()}
    rng, others = generator("attacked models", config.seed), count - 2 * members
    drawn = [rng.multinomial(size, np.full(size, 1 / size), config.resamples) for size in (members, others)]
    weights = np.concatenate([np.ones((1, members + others)), np.concatenate(drawn, axis=1)])
    measured = {key: resampled_attack(score, saw[members:], weights) for key, score in scores.items()}
    return compare(name, knows, measured, {})


def compare(
    subject: str, knows: str, measured: dict[report.Key, Draws], nulls: dict[report.Key, list[np.ndarray]]
) -> list[Attack]:
    """Values and intervals of all attacks, and what each gains over the attack by the loss with the same calibration."""
    attacks = []
    for key, draws in measured.items():
        gain = draws - measured[key[0], LOSS, report.ALONE]
        null = np.array(nulls.get(key, np.full((1, 2), np.nan)))
        base = np.array(nulls.get((key[0], LOSS, report.ALONE), np.full((1, 2), np.nan)))
        of_null = [float(each) for each in (*null.mean(0), *(null - base).mean(0), *np.abs(null - base).max(0))]
        auc, tpr, auc_gain, tpr_gain = (interval(each[:, place]) for each in (draws, gain) for place in (0, 1))
        attacks.append(Attack(subject, knows, *key, auc, tpr, auc_gain, tpr_gain, *of_null))
    return attacks


def interval(draws: np.ndarray) -> Interval:
    """The first value, and 95% of the others."""
    return Interval(float(draws[0]), *map(float, np.quantile(draws[1:], (0.025, 0.975))))


def score_all(
    columns: Columns, saw: np.ndarray, sides: list[Side], seed: int, calibrated_only: bool = False
) -> dict[report.Key, np.ndarray]:
    """The scores of every attack, `[members, examples]`, each member attacked by shadow models of its side alone.

    Args:
        columns: the characteristics of all models.
        saw: which model trained on which example.
        sides: every member is attacked in one of them.
        seed: draws the scores that linear rules are learned from.
        calibrated_only: leave the uncalibrated attacks out.
    """
    others = [name for name in columns if name != LOSS]
    groups: dict[tuple[str, str], tuple[str, ...]] = {(name, report.ALONE): (name,) for name in columns}
    groups |= {(name, report.BESIDE): (LOSS, name) for name in others} | {(ALL, report.BESIDE): (*columns,)}
    found = {(report.CALIBRATED, *key): np.zeros(saw.shape) for key in groups}
    for key, names in groups.items():
        joined = np.concatenate([columns[name] for name in names], axis=-1)
        for side in sides:
            ratios = vector_ratios(joined[side.shadows], saw[side.shadows], joined[side.attacked])
            found[report.CALIBRATED, *key][side.attacked] = ratios
    weighed = {name: (LOSS, name) for name in others} | {ALL: (*columns,)}
    for which, parts in weighed.items():
        ratios_of_parts = np.stack([found[report.CALIBRATED, part, report.ALONE] for part in parts], axis=-1)
        found[report.CALIBRATED, which, report.WEIGHED] = by_linear_rules(ratios_of_parts, saw, sides, seed)
    if not calibrated_only:
        for key, names in groups.items():
            joined = np.concatenate([columns[name] for name in names], axis=-1)
            found[report.UNCALIBRATED, *key] = by_linear_rules(joined, saw, sides, seed)
    return found


def by_linear_rules(values: np.ndarray, saw: np.ndarray, sides: list[Side], seed: int) -> np.ndarray:
    """Scores by logistic regression, one rule for all examples: learned from the shadow models of each side."""
    scores = np.zeros(saw.shape)
    for number, side in enumerate(sides):
        known, labels = values[side.shadows].reshape(-1, values.shape[-1]), saw[side.shadows].ravel()
        some = generator("scores that rules are learned from", seed, number).permutation(len(known))[:LEARNED]
        centre, spread = known[some].mean(0), known[some].std(0)
        spread = np.where(spread > 0, spread, 1)
        rule = LogisticRegression(class_weight="balanced").fit((known[some] - centre) / spread, labels[some])
        attacked = (values[side.attacked].reshape(-1, values.shape[-1]) - centre) / spread
        scores[side.attacked] = rule.decision_function(attacked).reshape(saw[side.attacked].shape)
    return scores


def characteristics(config: Config, setting: Setting, model: Model, variables: Variables, examples: Examples) -> Columns:
    """What an attacker reads from every model about every example, see `report.CHARACTERISTICS`."""
    strategy, (images, labels), held_out = config.strategy, examples, setting.data.held_out
    logits, references = (predict(model, variables, part, strategy) for part in (images, held_out.images))
    points, anchors = (features(model, variables, part, strategy) for part in (images, held_out.images))
    norms = over_examples(gradient_norms, model, variables, examples, strategy, GRADIENTS)
    varied = variations(images, config.seed)
    of_varied = predict(model, variables, varied.reshape(-1, *images.shape[1:]), strategy)
    margins = scaled_logits(of_varied, np.tile(labels, len(varied))).reshape(len(logits), *varied.shape[:2])
    p, q = probabilities(logits), probabilities(references)
    near = [neighbour_distances(hellinger(one), hellinger(other)) for one, other in zip(p, q, strict=True)]
    found = {
        LOSS: scaled_logits(logits, labels)[..., None],
        "nats": cross_entropy_losses(logits, labels)[..., None],
        "entropy": safe_log(np.stack([entropies(one) for one in p]))[..., None],
        "neighbours": safe_log(np.stack(near))[..., None],
        "features": np.stack(
            [distances_to_classes(*each, labels, held_out.labels) for each in zip(points, anchors, strict=True)]
        ),
        "augmented": np.moveaxis(margins, 1, 2),
        "gradient": safe_log(np.linalg.norm(norms, axis=-1, keepdims=True)),
        "blocks": safe_log(norms),
    }
    return {name: found[name].astype(np.float32) for name in CHARACTERISTICS}


def distances_to_classes(points: np.ndarray, anchors: np.ndarray, labels: np.ndarray, anchor_labels: np.ndarray) -> np.ndarray:
    """The logarithms of the distances to the mean of the label's class, and to the nearest other class mean, `[examples, 2]`."""
    classes = np.unique(np.concatenate([labels, anchor_labels]))
    known = [label for label in classes if (anchor_labels == label).any()]
    means = np.stack([anchors[anchor_labels == label].mean(0) for label in known])
    squared = np.maximum(squared_distances(points, means), 0)
    own = labels[:, None] == np.array(known)[None]
    nearest = [np.where(kind, squared, np.inf).min(1) for kind in (own, ~own)]
    return safe_log(np.sqrt(np.where(np.isfinite(nearest), nearest, 0.0))).T


def safe_log(values: np.ndarray) -> np.ndarray:
    """The logarithm of distances and norms, finite at 0."""
    return np.log(np.maximum(values, 1e-12))


def load_columns(folder: Run, name: str, identity: dict[str, Any], make: Callable[[], Columns]) -> Columns:
    """Characteristics that an earlier run kept, or made now."""
    arrays = load_or_make(folder, name, identity, make)
    return {key: arrays[key] for key in CHARACTERISTICS}
