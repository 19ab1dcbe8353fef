"""Applies every audit to originals, retrained models and every method's models, and ranks the audits against the truth."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from experiments.audits import report
from experiments.audits.catalogue import AUDITS, CHANGES, Audit, Inverted, Known, Models
from experiments.audits.options import Config
from experiments.audits.ranking import DRAWS, Truth, compare, draws_of, truths
from experiments.audits.samples import grade
from unlearn_jax.bench.forget_set import ForgetSet, forget_class, forget_mask, forget_name, forget_set
from unlearn_jax.bench.hyperparameters import settings
from unlearn_jax.bench.judging import Oracles, train_oracles, unlearn
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.pools import compile_all, pool, train_on_halves
from unlearn_jax.bench.population import Population, population
from unlearn_jax.bench.scoring import effects_of, memory_of, numbers_of
from unlearn_jax.bench.setting import prepare
from unlearn_jax.data.splits import generator
from unlearn_jax.methods import METHODS
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import klom, probabilities, scaled_logits
from unlearn_jax.metrics.by_model import NONE
from unlearn_jax.metrics.memorisation import exposure
from unlearn_jax.metrics.null import Null, halves
from unlearn_jax.metrics.representations import linear_cka
from unlearn_jax.metrics.statistics import bootstrap
from unlearn_jax.progress import stage, working
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import REFERENCES
from unlearn_jax.runs import Run
from unlearn_jax.training.compression import pruned, rounded
from unlearn_jax.training.ensembles import features, over_examples, predict, shared
from unlearn_jax.training.fit import masked
from unlearn_jax.training.inversion import invert
from unlearn_jax.training.pools import Pool, member_keys
from unlearn_jax.training.relearning import train_further
from unlearn_jax.types import Cube, Interval, Model, Problem, Variables

VULNERABLE = 0.25  # share of F that is attacked as the most vulnerable
STARTS = 4  # inputs that climb to the forgotten class in each model
BLOCKS = "blocks/"  # prefix of the similarity of each block in what is kept of a pool


class Audited(NamedTuple):
    """What was found of one pool of models.

    Attributes:
        numbers: of the models that did not diverge; that of a method's model is its original's.
        cube: their logits.
        values: by audit, one number for each model; and the similarity of each block to the oracles', under `BLOCKS`.
    """

    numbers: np.ndarray
    cube: Cube
    values: dict[str, np.ndarray]


def run(config: Config, folder: Run) -> None:
    """Writes audits.csv, agreement.csv, truth.csv, layers.csv, summary.md and a figure.

    Raises:
        ArgumentError: the configuration cannot be run, or no method is left to audit.
    """
    setting = prepare(config)
    model = setting.problem.model
    usable = {
        name: not METHODS[name].unmet(setting.problem) and METHODS[name].outcome(model) is model
        for name in config.method_names()
        if name not in REFERENCES
    }
    names = [name for name in usable if usable[name]]
    left_out = [name for name in usable if not usable[name]]
    require(bool(names), "--methods", ",".join(usable), "none is of single models that --model supports")
    label = forget_class(config, setting, 0)
    values = settings(config, names, label)
    forget = forget_set(config, folder, setting, forget_mask(config, setting, 0), forget_name(config, setting, 0))
    trained = pool(config, setting, setting.problem, np.ones_like(forget.mask), "original", forget.members)
    oracles = train_oracles(forget)
    auditor = Auditor(config, forget, trained, oracles, label)
    found = _audit_all(config, forget, trained, values, auditor)
    truth = {name: _truth(forget, auditor, audited) for name, audited in found.items() if name != NULL}
    _write(config, folder, forget, auditor, found, truth, left_out)


NULL = "null"  # the retrained models that give it


def _audit_all(
    config: Config, forget: ForgetSet, trained: Pool, values: dict[str, dict[str, Any]], auditor: "Auditor"
) -> dict[str, Audited]:
    """Audits the retrained models, the originals and every method's models. What an earlier run left is read."""
    identity = {**forget.identity, "audits": auditor.identity}
    files = {name: f"audits/{forget.name}/{name}.npz" for name in (NULL, *REFERENCES, *values)}
    kept = {name: forget.folder.find(file, {**identity, "values": values.get(name, {})}) for name, file in files.items()}
    kept = {name: None if arrays is not None and _unchanged(arrays) else arrays for name, arrays in kept.items()}
    waiting = {
        name: Unlearner(
            forget.entries[name], values[name], forget.problem, trained.variables, strategy=config.strategy, chunk=config.chunk
        )
        for name in values
        if kept[name] is None
    }
    compile_all(list(waiting.values()))
    retrained = forget.pool("retrain", forget.members + config.null_models).variables

    def make(name: str) -> tuple[Variables, tuple[int, ...]]:
        """The models, and those that are lost whatever they compute."""
        if name in (NULL, "retrain"):
            first = name == "retrain"
            part = slice(None, forget.members) if first else slice(forget.members, None)
            return jax.tree.map(lambda leaf: leaf[part], retrained), ()
        return unlearn(forget, name, trained, waiting.get(name), 0).variables, trained.diverged

    found: dict[str, Audited] = {}
    for name, file in files.items():
        arrays = kept[name]
        if arrays is None:
            variables, lost = make(name)
            with working(f"audits of {name}"):
                audited = auditor.audit(variables, lost, retrained=name in (NULL, "retrain"))
            flat = {"numbers": audited.numbers, **audited.cube._asdict()} | {
                f"value/{key}": each for key, each in audited.values.items()
            }
            forget.folder.keep(file, {**identity, "values": values.get(name, {})}, flat)
        else:
            of_audits = {key.removeprefix("value/"): each for key, each in arrays.items() if key.startswith("value/")}
            audited = Audited(arrays["numbers"], Cube(*(arrays[split] for split in Cube._fields)), of_audits)
        if len(audited.numbers):
            models = auditor.of_logits(audited, retrained=name in (NULL, "retrain"))
            audited.values.update({each.name: each.measure(models, auditor.known) for each in auditor.audits if not each.kept})
        least = 2 if name in (NULL, "retrain", "original") else 0
        require(
            len(audited.numbers) >= least, "--train.learning-rate", config.train.learning_rate, f"nearly all of {name} diverged"
        )
        if len(audited.numbers) >= 2:
            found[name] = audited
    return found


def _unchanged(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether a model was kept as it was before a change: as earlier versions did if it diverged under the change."""
    return any(key.startswith("value/regained") and bool((values == 0).any()) for key, values in arrays.items())


class Auditor:
    """Makes from weights what the audits look at, and applies them.

    Args:
        config: of the run.
        forget: the forget set.
        trained: the originals.
        oracles: the models retrained without it.
        label: the class that the forget set holds, if it is one.
    """

    def __init__(self, config: Config, forget: ForgetSet, trained: Pool, oracles: Oracles, label: int | None):
        self.config, self.forget, self.setting, self.oracles = config, forget, forget.setting, oracles
        data, problem, labels = self.setting.data, forget.problem, forget.labels
        self.held_out = data.held_out
        noise = generator("nudge", config.seed).standard_normal((config.attack.draws, *forget.images.forget.shape))
        self.nudged = (forget.images.forget + np.float32(config.attack.nudge * noise)).astype(np.float32)
        everything = np.ones(len(self.held_out.labels), bool)
        self.problems = {
            "training on R": problem,
            "training on unseen": shared(
                problem.replace(
                    train=self.held_out, kept=everything, forget=~everything, kept_count=len(everything), forget_count=0
                )
            ),
            "training on F": masked(problem, problem.forget, problem.forget_count),
        }
        self.originals: Population = population(trained.variables, forget.logits(trained.variables), trained.diverged)
        own = numbers_of((self.originals.cube, self.originals.lost))
        self.places = {int(number): row for row, number in enumerate(own)}
        half = train_on_halves(config, self.setting, config.half_models)
        of_halves = forget.logits(half.variables)
        halves_margins = {split: scaled_logits(getattr(of_halves, split), getattr(labels, split)) for split in Cube._fields}
        saw_forget = half.masks[:, forget.rows["forget"]]
        exposed = exposure(halves_margins["forget"], saw_forget)
        vulnerable = exposed >= np.quantile(exposed, 1 - VULNERABLE)
        inside = self._features(oracles.variables)
        self.blocks = self._blocks(oracles.variables)
        self.known = Known(
            labels=labels,
            unseen=self.held_out.labels,
            wrong=labels.forget != data.clean_labels[forget.rows["forget"]],
            forgotten=label if config.forget.kind == "class" else None,
            memory=memory_of((self.originals.cube, self.originals.lost), oracles.cube, labels),
            originals=probabilities(self._predict(self.originals.variables, self.held_out.images)),
            oracles={split: scaled_logits(getattr(oracles.cube, split), getattr(labels, split)) for split in Cube._fields},
            oracle_features=inside,
            oracle_nudged=self._nudged(oracles.variables),
            halves=halves_margins,
            saw=half.masks[:, forget.rows["retain"]],
            saw_forget=saw_forget,
            vulnerable=vulnerable,
            fitted=scaled_logits(self.originals.cube.forget, labels.forget),
            delta=config.delta,
            seed=config.seed,
        )

    @property
    def audits(self) -> list[Audit]:
        """Those that can be applied here."""
        return [each for each in AUDITS.values() if self.known.has(each)]

    @property
    def identity(self) -> dict[str, Any]:
        """What the values depend on besides the models."""
        sizes = {"null": self.config.null_models, "halves": self.config.half_models, "delta": self.config.delta}
        return {"names": [each.name for each in self.audits if each.kept], **sizes, **dataclasses.asdict(self.config.attack)}

    @property
    def thresholds(self) -> np.ndarray:
        """Of the memory, for bounds on ε: the least and the most of an oracle."""
        assert self.known.memory
        return np.array([self.known.memory.of_oracles.min(), self.known.memory.of_oracles.max()])

    @stage("audits")
    def audit(self, variables: Variables, lost: tuple[int, ...], retrained: bool) -> Audited:
        """Applies every audit to the models that did not diverge.

        Args:
            variables: of all models.
            lost: the numbers of models to leave out.
            retrained: whether the models come from no original.
        """
        alive = population(variables, self.forget.logits(variables), lost)
        numbers = numbers_of((alive.cube, alive.lost))
        if len(numbers) < 2:
            return Audited(numbers, alive.cube, {})
        own = self._own(numbers, retrained)
        unseen = self._predict(alive.variables, self.held_out.images)
        changed = self._changed(alive.variables, numbers)
        inside, inverted = self._features(alive.variables), self._inverted(alive.variables)
        models = Models(own, alive.cube, unseen, inside, self._nudged(alive.variables), changed, inverted)
        values = {each.name: each.measure(models, self.known) for each in self.audits if each.kept and not each.pooled}
        if self.known.memory:
            values[MEMORY] = models.memory(self.known)
        if self.blocks:
            of_models = self._blocks(alive.variables)
            values |= {BLOCKS + name: linear_cka(of_models[name], self.blocks[name]).mean(axis=1) for name in self.blocks}
        return Audited(numbers, alive.cube, values)

    def of_logits(self, audited: Audited, retrained: bool) -> Models:
        """The models as far as their logits say what they are: for audits that are not kept."""
        nothing = np.empty((len(audited.numbers), 0))
        return Models(self._own(audited.numbers, retrained), audited.cube, nothing, None, nothing, {})

    def _own(self, numbers: np.ndarray, retrained: bool) -> np.ndarray:
        return np.array([NONE if retrained else self.places.get(int(number), NONE) for number in numbers])

    def _predict(self, variables: Variables, images: np.ndarray) -> np.ndarray:
        return predict(self.forget.problem.model, variables, images, self.config.strategy)

    def _nudged(self, variables: Variables) -> np.ndarray:
        flat = self.nudged.reshape(-1, *self.nudged.shape[2:])
        return self._predict(variables, flat).reshape(-1, *self.nudged.shape[:2], self.forget.problem.classes)

    def _inverted(self, variables: Variables) -> Inverted | None:
        """What the models take for the forgotten class, from a little noise; None if F is not one class."""
        label, images = self.known.forgotten, self.forget.images
        if label is None:
            return None
        shape = STARTS, *images.forget.shape[1:]
        starts = (0.1 * generator("starts of the inversion", self.config.seed).standard_normal(shape)).astype(np.float32)
        found = invert(self.forget.problem.model, variables, starts, label, self.config.strategy)
        seen = probabilities(self._predict(self.originals.variables, found.reshape(-1, *found.shape[2:])))[:, :, label]
        flat = found.reshape(*found.shape[:2], -1)
        sides = flat - flat.mean(axis=2, keepdims=True), (images.forget.mean(axis=0) - images.retain.mean(axis=0)).ravel()
        lengths = np.linalg.norm(sides[0], axis=2) * np.linalg.norm(sides[1] - sides[1].mean())
        likeness = sides[0] @ (sides[1] - sides[1].mean()) / np.maximum(lengths, np.finfo(np.float32).tiny)
        return Inverted(likeness, seen.reshape(len(seen), *found.shape[:2]))

    def _features(self, variables: Variables) -> dict[str, np.ndarray] | None:
        model = self.forget.problem.model
        if model.features is None:
            return None
        images = {"forget": self.forget.images.forget, "retain": self.forget.images.retain, "unseen": self.held_out.images}
        inside = features(model, variables, np.concatenate([*images.values()]), self.config.strategy)
        ends = np.cumsum([len(each) for each in images.values()])[:-1]
        return dict(zip(images, np.split(inside, ends, axis=1), strict=True))

    def _blocks(self, variables: Variables) -> dict[str, np.ndarray]:
        """The activations of every block but the head on F; nothing for a model that declares none."""
        model = self.forget.problem.model
        activations = model.activations
        if activations is None:
            return {}
        names = [" ".join(group) for group in model.blocks[:-1]]
        flat = over_examples(_activations, model, variables, self.forget.images.forget, self.config.strategy)
        first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), variables)
        image = jax.ShapeDtypeStruct((1, *self.forget.images.forget.shape[1:]), np.float32)
        shapes = jax.eval_shape(lambda v, x: activations(v, x, False)[2], first, image)
        ends = np.cumsum([each.size for each in shapes])[:-1]
        return dict(zip(names, np.split(flat, ends, axis=2), strict=True))

    def _changed(self, variables: Variables, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """The logits on F after each of `CHANGES`; not finite for a model that diverges under a change."""
        attack = self.config.attack
        changes: dict[str, Callable[[], Variables]] = {
            "8 bits": lambda: rounded(variables, 8),
            "4 bits": lambda: rounded(variables, 4),
            "pruning": lambda: pruned(variables, attack.prune),
        }
        for name, problem in self.problems.items():
            changes[name] = functools.partial(self._train, problem, name, variables, numbers)
        return {name: self._predict(changes[name](), self.forget.images.forget) for name in CHANGES}

    def _train(self, problem: Problem, name: str, variables: Variables, numbers: np.ndarray) -> Variables:
        attack, config = self.config.attack, self.config
        keys = member_keys(config.seed, f"audit by {name}", int(numbers.max()) + 1)[numbers]
        return train_further(problem, variables, keys, attack.epochs, attack.learning_rate, config.strategy, config.chunk)


MEMORY = "memory"


def _activations(model: Model, variables: Variables, images: Array) -> Array:
    assert model.activations
    return jax.numpy.concatenate(
        [each.reshape(len(images), -1) for each in model.activations(variables, images, False)[2]], axis=1
    )


def _truth(forget: ForgetSet, auditor: Auditor, audited: Audited) -> Truth:
    """How far a pool of models is from retraining: memory left and damage, and KLOM on F."""
    members, originals, oracles = forget.members, auditor.originals, auditor.oracles
    lost = tuple(sorted({*range(members)} - {*audited.numbers.tolist()}))
    effects = effects_of((audited.cube, lost), (originals.cube, originals.lost), oracles.cube, forget.labels)
    margins = scaled_logits(audited.cube.forget, forget.labels.forget)
    n = min(len(margins), oracles.members // 2)
    splits = halves(jax.random.key(forget.config.seed), oracles.members, n, 10).reshape(-1, n)
    divergence = float(np.mean([klom(margins[:n], auditor.known.oracles["forget"][split]).mean() for split in splits]))
    return Truth(effects, divergence, np.intersect1d(audited.numbers, [*auditor.places]), members)


def _write(
    config: Config,
    folder: Run,
    forget: ForgetSet,
    auditor: Auditor,
    found: Mapping[str, Audited],
    truth: Mapping[str, Truth],
    left_out: list[str],
) -> None:
    rows: list[report.Line] = []
    nulls: dict[str, Null] = {}
    means: dict[str, dict[str, np.ndarray]] = {name: {} for name in truth}
    weights = draws_of(config.seed, forget.members)
    audits = [each for each in auditor.audits if each.pooled or len(_finite(found[NULL].values[each.name])) >= 2]
    for audit in audits:
        null = (
            _pooled_null(auditor, audit, found)
            if audit.pooled
            else _null(_finite(found[NULL].values[audit.name]), forget.members)
        )
        nulls[audit.name] = null
        for name in truth:
            value, drawn = _value(auditor, audit, found, name, weights, config.seed)
            z = (value.value - null.mean) / null.sd if null.sd > 0 else None
            count = len(found[name].numbers) if audit.pooled else len(_finite(found[name].values[audit.name]))
            rows.append(report.Line(name, audit.name, audit.group, *value, null.mean, null.sd, z, count))
            means[name][audit.name] = drawn
    methods = [name for name in truth if name not in REFERENCES]
    distances = truths({name: truth[name] for name in methods}, weights)
    klom_of = {name: np.full(DRAWS + 1, truth[name].klom) for name in methods}
    agreement = [
        line
        for audit in audits
        for line in compare(
            audit, {name: means[name][audit.name] for name in methods}, nulls[audit.name], distances, klom_of, config
        )
    ]
    others = scaled_logits(found[NULL].cube.forget, forget.labels.forget)
    graded = [
        line
        for name in truth
        for line in grade(name, auditor.of_logits(found[name], retrained=name == "retrain"), auditor.known, others)
    ]
    report.write(folder, audits, rows, agreement, truth, graded, config)
    layers = [
        (
            name,
            key.removeprefix(BLOCKS),
            float(values.mean()),
            null.mean,
            null.sd,
            (values.mean() - null.mean) / null.sd if null.sd else None,
        )
        for key in found[NULL].values
        if key.startswith(BLOCKS)
        for null in [_null(found[NULL].values[key], forget.members)]
        for name, values in ((name, found[name].values[key]) for name in truth)
    ]
    folder.write_csv("layers.csv", ("method", "block", "cka", "null_mean", "null_sd", "z"), layers)
    title = f"{config.dataset} · {config.model} · {forget.name} · {len(methods)} methods · {forget.members} models each"
    save(report.figure(agreement, audits, title), folder, "agreement")
    if left_out:
        print(f"Left out, not of single models or not supported by the model: {', '.join(left_out)}.")


def _null(values: np.ndarray, members: int) -> Null:
    """The null of a mean over models, from other retrained models: its sd holds the chance of both means."""
    mean, sd = float(values.mean()), float(values.std(ddof=1) * np.sqrt(1 / members + 1 / len(values)))
    return Null(mean, sd, mean - 1.96 * sd, mean + 1.96 * sd)


def _pooled_null(auditor: Auditor, audit: Audit, found: Mapping[str, Audited]) -> Null:
    """Retrained models against others, divided anew a hundred times."""
    first, others = (found[name].values[MEMORY] for name in ("retrain", NULL))
    memory, count = np.concatenate([first, others]), len(first)
    rng = generator("null of pooled audits", auditor.config.seed)
    orders = [rng.permutation(len(memory)) for _ in range(100)]
    draws = [audit.measure(memory[o[:count]], memory[o[count:]], auditor.thresholds, auditor.known) for o in orders]
    return Null(float(np.mean(draws)), float(np.std(draws, ddof=1)), *(float(end) for end in np.quantile(draws, (0.025, 0.975))))


def _value(
    auditor: Auditor, audit: Audit, found: Mapping[str, Audited], name: str, weights: np.ndarray, seed: int
) -> tuple[Interval, np.ndarray]:
    """The value of one audit of one pool with its interval, and its value in every draw of the originals."""
    if audit.pooled:
        memory, others = (found[each].values[MEMORY] for each in (name, NULL))
        bound = float(audit.measure(memory, others, auditor.thresholds, auditor.known))
        return Interval(bound, bound, np.inf), np.full(len(weights), bound)
    there = np.isfinite(found[name].values[audit.name])
    values, numbers = found[name].values[audit.name][there], found[name].numbers[there]
    if len(values) < 2:
        return Interval(np.nan, np.nan, np.nan), np.full(len(weights), np.nan)
    of_models = weights[:, numbers]
    return bootstrap(values, seed), of_models @ values / np.maximum(of_models.sum(axis=1), 1)


def _finite(values: np.ndarray) -> np.ndarray:
    """The values of the models that have one: a model that diverged under a change has none after it."""
    return values[np.isfinite(values)]
