"""The models to compare on one forget set: oracles, and originals unlearned by every method, with logits and costs."""

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from unlearn_jax import device
from unlearn_jax.bench import sharing
from unlearn_jax.bench.forget_set import ForgetSet
from unlearn_jax.bench.model_metrics import ModelMetrics, metrics_for
from unlearn_jax.bench.plugins import source_of
from unlearn_jax.bench.pools import compile_all
from unlearn_jax.bench.population import NULL, Population, lost_members, population, without
from unlearn_jax.bench.weights import as_pool, save_models, saved_digests
from unlearn_jax.methods import METHODS
from unlearn_jax.methods.apply import Spread, Unlearned, Unlearner
from unlearn_jax.metrics.registry import Name
from unlearn_jax.progress import working
from unlearn_jax.report.rows import REFERENCES
from unlearn_jax.training.cost import example_flops, flops
from unlearn_jax.training.fit import refit
from unlearn_jax.training.pools import TASKS, Pool, member_keys
from unlearn_jax.types import Cube, Key
from unlearn_jax.workers import current

MODELS = "models"  # in a file of logits: the SHA-256 of each model's file, if they were written


@dataclasses.dataclass(frozen=True)
class Oracles(Population):
    """The models retrained without a forget set.

    Attributes:
        seconds: to train one; NaN where they were given.
        made_with: see `device.made_with`.
    """

    seconds: float
    made_with: tuple[str, ...]


class Judged(NamedTuple):
    """The logits of a method's models on one forget set, and their cost."""

    cube: Cube  # of the members that did not diverge
    lost: tuple[int, ...]  # the members that diverged
    seconds: float
    compile_seconds: float
    examples: float
    extra: dict[Name, np.ndarray]  # metrics that need more than logits, see `ModelMetrics`
    made_with: str  # see `device.made_with`


class Judgement(NamedTuple):
    """All methods on one forget set."""

    oracles: Oracles
    of_oracles: dict[Name, np.ndarray]  # their metrics that need more than logits, see `ModelMetrics`
    methods: dict[str, list[Judged]]  # of each method, one for each unlearning seed


def train_oracles(forget: ForgetSet) -> Oracles:
    """Trains oracles without the forget set, two for each original, or takes those that are given; and writes their logits.

    Raises:
        ArgumentError: so many diverged that no null can be made.
    """
    weights = forget.setting.weights
    given = weights.oracles.get(forget.name)
    trained = as_pool(given) if given else forget.pool("oracle", 2 * forget.members)
    if weights.save:
        save_models(forget.folder, f"oracles/{forget.name}", trained.variables)
    cube = forget.logits(trained.variables)
    lost = lost_members(forget.config, "retrained", (trained.variables, cube), NULL)
    facts = {"lost": np.array(lost, int), "made_with": ", ".join(trained.made_with)}
    forget.folder.write_npz(f"logits/{forget.name}/oracle.npz", {**cube._asdict(), **facts})
    alive = population(trained.variables, cube)
    return Oracles(alive.variables, alive.cube, alive.lost, trained.seconds, trained.made_with)


def measure_models(forget: ForgetSet, originals: Pool, oracles: Oracles) -> ModelMetrics:
    """Makes the metrics that need more than logits."""
    alive = without(originals.variables, originals.diverged)
    return ModelMetrics(forget.config, forget.problem, forget.images.forget, alive, oracles.variables, forget.clean_labels)


def judge(forget: ForgetSet, values: dict[str, dict[str, Any]], originals: Pool, oracles: Oracles, repeats: int = 1) -> Judgement:
    """Unlearns by every method. What an earlier run left in the run folder is read, the rest is made now.

    Args:
        forget: the forget set.
        values: the hyperparameters of every method.
        originals: the models to unlearn.
        oracles: the models to compare with.
        repeats: times that each method unlearns each original, with different keys.
    """
    config, seeds = forget.config, range(repeats)
    # In the cache also by what may differ between machines (which models diverged), and by what the seconds depend on.
    found_by = {
        "diverged": [originals.diverged, oracles.lost],
        "made_with": [originals.made_with, oracles.made_with, device.made_with()],
        "clocks": [device.describe(), config.strategy, config.chunk, config.convolution],
    }
    saved = {(name, seed): _saved(forget, name, values[name], seed, found_by) for name in values for seed in seeds}
    names = [name for name in values if name not in REFERENCES and any(saved[name, seed] is None for seed in seeds)]
    batching: dict[str, Any] = {"strategy": config.strategy, "chunk": config.chunk}
    waiting: dict[str, Unlearner | Spread] = {}
    for name in names:
        what = forget.entries[name], values[name], forget.problem, originals.variables
        if workers := current():
            assert config.cache
            tasks = max(TASKS * workers.count // (len(names) * repeats), 1)
            spread = waiting[name] = Spread(*what, workers=workers, cache=config.cache, tasks=tasks, **batching)
            for seed in seeds:
                if saved[name, seed] is None:
                    spread.begin(_keys(forget, name, seed))
        else:
            waiting[name] = Unlearner(*what, **batching)
    of_oracles = _metrics_of_oracles(forget, found_by)
    if of_oracles and None not in saved.values():
        return Judgement(oracles, of_oracles, {name: [one for seed in seeds if (one := saved[name, seed])] for name in values})
    with ThreadPoolExecutor(1) as thread:
        measuring = thread.submit(measure_models, forget, originals, oracles)
        compile_all([unlearner for unlearner in waiting.values() if isinstance(unlearner, Unlearner)])
        models = measuring.result()
    methods = {
        name: [
            saved[name, seed] or _judge(forget, name, settings, originals, waiting.get(name), seed, models, found_by)
            for seed in seeds
        ]
        for name, settings in values.items()
    }
    if not of_oracles:
        of_oracles = models.of_oracles(oracles.cube.forget)
        sharing.keep(
            forget, *_of_oracles(forget, found_by), {"/".join(metric): numbers for metric, numbers in of_oracles.items()}
        )
    return Judgement(oracles, of_oracles, methods)


def unlearn(forget: ForgetSet, name: str, originals: Pool, unlearner: Unlearner | Spread | None, seed: int) -> Unlearned:
    """Returns the originals unlearned by a method. The two references are pools: cached and resumed as such.

    Args:
        forget: the forget set.
        name: of the method.
        originals: the models to unlearn.
        unlearner: the method; None for a reference.
        seed: number of the repeat; each has its own keys.
    """
    members = forget.members
    if name == "original":
        return Unlearned(originals.variables, 0.0, 0.0, 0.0)
    if unlearner is None:  # retrain: a pool instead of the method; each seed takes the next members
        trained = forget.pool("retrain", members * (seed + 1))
        variables = jax.tree.map(lambda leaf: leaf[members * seed :], trained.variables)
        examples = retraining_examples(forget) if forget.setting.fit is None else math.nan
        return Unlearned(variables, trained.seconds, trained.compile_seconds, examples)
    with working(name) as update:
        done = unlearner.apply(
            _keys(forget, name, seed), lambda share: update(share, f"{round(share * members)} of {members} members")
        )
        update(1.0, f"{done.seconds:.2f} s per member")
    return done


def _keys(forget: ForgetSet, name: str, seed: int) -> Key:
    """The keys of a method, one for each original."""
    return member_keys(forget.config.seed, f"{name} on {forget.name}{f', seed {seed}' if seed else ''}", forget.members)


def retraining_examples(forget: ForgetSet) -> float:
    """Returns the work of one retraining, in training examples (one forward and backward pass each)."""
    return flops(refit, jax.random.key(0), forget.problem) / example_flops(forget.problem)


def _judge(
    forget: ForgetSet,
    name: str,
    values: dict[str, Any],
    originals: Pool,
    unlearner: Unlearner | Spread | None,
    seed: int,
    models: ModelMetrics,
    found_by: Mapping[str, Any],
) -> Judged:
    """Unlearns every original by a method and keeps the logits in the run folder, and in the cache."""
    done = unlearn(forget, name, originals, unlearner, seed)
    model = forget.entries[name].outcome(forget.problem.model)
    cube = forget.logits(done.variables, model)
    alive = population(done.variables, cube, originals.diverged if name != "retrain" else ())
    costs = {"seconds": done.seconds, "compile_seconds": done.compile_seconds, "examples": done.examples}
    extra = models.of(alive.variables, alive.cube.forget, model) if alive.members else {}
    arrays = {**cube._asdict(), "lost": np.array(alive.lost, int), "made_with": np.array(device.made_with()), **costs}
    arrays |= {"/".join(metric): numbers for metric, numbers in extra.items()}
    if forget.setting.weights.save and name != "original":
        arrays[MODELS] = np.array(save_models(forget.folder, _place(forget, name, seed), done.variables))
    forget.folder.keep(_file(forget, name, seed), _identity(forget, name, values), arrays)
    if sharing.is_own(forget, name):
        sharing.keep(forget, _file(forget, name, seed), {**_identity(forget, name, values), **found_by}, arrays)
    return Judged(alive.cube, alive.lost, **costs, extra=extra, made_with=device.made_with())


def _saved(forget: ForgetSet, name: str, values: dict[str, Any], seed: int, found_by: Mapping[str, Any]) -> Judged | None:
    """Returns what an earlier run with the same settings, members and metrics kept of a method, or None.

    It is looked for in the run folder, then in the cache, from where it is copied into the run folder. Some metrics need the
    models, which are not kept: when a metric is added, everything is made anew. So it is where the models are to be written, and
    those that gave the logits are not there.
    """
    file, identity = _file(forget, name, seed), _identity(forget, name, values)
    arrays = forget.folder.find(file, identity)
    if arrays is None and sharing.is_own(forget, name) and (arrays := sharing.find(forget, file, {**identity, **found_by})):
        forget.folder.keep(file, identity, arrays)
        if name == "retrain":
            forget.pool("retrain", forget.members * (seed + 1))  # for its curves
    if arrays is None:
        return None
    if forget.setting.weights.save and name != "original":
        written = arrays[MODELS].tolist() if MODELS in arrays else []
        if not written or written != saved_digests(forget.folder, _place(forget, name, seed)):
            return None
    lost = tuple(int(member) for member in arrays["lost"])
    seconds, compile_seconds, examples = (float(arrays[field]) for field in ("seconds", "compile_seconds", "examples"))
    extra = _beyond_logits(forget, arrays)  # none where all members diverged
    cube = without(Cube(*(arrays[split] for split in Cube._fields)), lost)
    return Judged(cube, lost, seconds, compile_seconds, examples, extra, str(arrays["made_with"]))


def _metrics_of_oracles(forget: ForgetSet, found_by: Mapping[str, Any]) -> dict[Name, np.ndarray]:
    """What an earlier run kept of the oracles' metrics that need more than logits; nothing if it kept none."""
    arrays = sharing.find(forget, *_of_oracles(forget, found_by))
    return _beyond_logits(forget, arrays) if arrays else {}


def _of_oracles(forget: ForgetSet, found_by: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The file of these metrics in the cache, and all that they depend on besides the code."""
    return f"logits/{forget.name}/metrics-of-oracles.npz", {**forget.identity, **found_by}


def _beyond_logits(forget: ForgetSet, arrays: Mapping[str, np.ndarray]) -> dict[Name, np.ndarray]:
    """The metrics that need more than logits, as `_judge` kept them."""
    wanted = {"/".join(metric.on(split)): metric.on(split) for metric, split in metrics_for(forget.clean_labels)}
    return {metric: arrays[key] for key, metric in wanted.items() if key in arrays}


def _identity(forget: ForgetSet, name: str, values: dict[str, Any]) -> dict[str, Any]:
    """All that the logits of a method depend on: of a learned method also its weights."""
    learned = [] if name in METHODS else jax.tree.leaves(getattr(forget.entries[name].make, "args", ()))
    digests = [hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest() for leaf in learned]
    named = [METHODS[value] for value in values.values() if isinstance(value, str) and value in METHODS]  # that it is made of
    sources = [digest for entry in (forget.entries[name], *named) for digest in source_of(entry)]
    return {**forget.identity, "values": values, "learned": digests + sources}


def _file(forget: ForgetSet, name: str, seed: int) -> str:
    """The file of a method's logits."""
    return f"logits/{forget.name}/{name}{f'-seed{seed}' if seed else ''}.npz"


def _place(forget: ForgetSet, name: str, seed: int) -> str:
    """The folder of a method's models, below `models`."""
    return f"unlearned/{forget.name}/{name}{f'-seed{seed}' if seed else ''}"
