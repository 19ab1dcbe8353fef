"""Unlearning in one forward pass: hypernetworks meta-trained on some forget sets and their oracles, compared on others."""

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from experiments.hypernetwork import judging, report
from experiments.hypernetwork.options import Config
from unlearn_jax.bench.evaluate import compare
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.pools import pool
from unlearn_jax.bench.population import lost_members, without
from unlearn_jax.bench.resume import load_or_make
from unlearn_jax.bench.setting import Setting, deciding_options, prepare
from unlearn_jax.data import choose
from unlearn_jax.data.splits import generator
from unlearn_jax.methods import Entry
from unlearn_jax.methods.hypernetwork import (
    NEEDS,
    Capacity,
    Lesson,
    fresh_hypernetwork,
    hypernetwork,
    lesson_loss,
    meta_trained,
)
from unlearn_jax.methods.needs import unmet
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import subject
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import predict
from unlearn_jax.training.pools import member_keys
from unlearn_jax.types import Params

NAME = "hypernetwork"
FIRST = "kl"  # the learner whose rows are called NAME alone


class Trained(NamedTuple):
    """A hypernetwork, and what it cost."""

    weights: Params
    losses: np.ndarray  # before each step, on the lessons of that step
    before: np.ndarray  # the loss of each validation lesson without an update
    after: np.ndarray  # and with the hypernetwork's update
    pool_seconds: float  # of training the originals and oracles of its lessons
    seconds: float  # of meta-training, without compilation


def run(config: Config, folder: Run) -> None:
    """Meta-train, compare on unseen forget sets, and report the cost of meta-training and what it saves.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    setting = prepare(config)
    lacking = unmet(NEEDS, setting.problem)
    require(not lacking, "--model", config.model, f"the hypernetwork needs {lacking}")
    judging.require_sets(config, setting)
    values = judging.search(config, folder, setting)
    programs = Programs(config)
    draws = []
    for number in range(config.draws):
        drawn = config.drawn(number)
        of_draw = prepare(drawn) if number else setting
        draws.append((drawn, of_draw, load_or_train_all(drawn, folder, of_draw, programs)))
    entries = [{label(name): entry_of(config, name, each.weights) for name, each in learned.items()} for *_, learned in draws]
    _, _, first = draws[0]
    rows = compare(config, folder, setting, entries[0])
    prices = report.prices(rows, {label(name): each.pool_seconds + each.seconds for name, each in first.items()})
    folder.write_csv("prices.csv", report.Price._fields, prices)
    trained = first.get(FIRST, next(iter(first.values())))
    folder.write_csv("meta_training.csv", ("step", "loss"), list(enumerate(trained.losses.tolist())))
    folder.write_csv("validation.csv", ("before", "after"), np.stack([trained.before, trained.after], axis=1).tolist())
    learning = [
        report.learning(number, name, each) for number, (*_, of_draw) in enumerate(draws) for name, each in of_draw.items()
    ]
    folder.write_csv("learning.csv", report.Learning._fields, learning)
    save(report.learning_and_price(trained.losses, trained.before, trained.after, prices, subject(rows)), folder, NAME)
    report.show(trained.before, trained.after, prices)
    judged: list[report.Judged] = []
    for number, ((drawn, of_draw, _), of_entries) in enumerate(zip(draws, entries, strict=True)):
        judged += judging.judge_draw(drawn, folder, of_draw, number, of_entries, values)
        said = judging.write(config, folder, judged)  # a killed run leaves the draws it finished
    print(said)


def label(learner: str) -> str:
    """What tables call a learner's models."""
    return NAME if learner == FIRST else f"{NAME}-{learner}"


def parts(config: Config, learner: str) -> tuple[str, Capacity]:
    """A learner's target and capacity."""
    target, *further = learner.split("-")
    return target, Capacity("images" in further, config.meta.passes if "passes" in further else 0)


def entry_of(config: Config, learner: str, weights: Params) -> Entry:
    """A trained hypernetwork as a method. Its access is what meta-training used, though a request needs F alone."""
    _, capacity = parts(config, learner)
    make = functools.partial(hypernetwork, weights, capacity)
    passes = f"{capacity.passes} passes forward and backward." if capacity.passes else "One forward pass."
    return Entry(make, "F+R+test-like", "this project's", passes, {}, frozenset(), NEEDS)


class Programs:
    """Meta-training of every learner, compiled once for all draws."""

    def __init__(self, config: Config):
        self.config = config
        self.compiled: dict[tuple, tuple[Any, Any]] = {}

    def of(self, learner: str, *inputs: Any) -> tuple[Any, Any]:
        """The program that learns, compiled for inputs like these (a key, the problem, lessons), and the one that validates."""
        kind = learner, *(leaf.shape for leaf in jax.tree.leaves(inputs))
        if kind not in self.compiled:
            meta, (target, capacity) = self.config.meta, parts(self.config, learner)

            def learn(key, problem, lessons):
                numbers: dict[str, Any] = {
                    "steps": meta.steps,
                    "batch_size": meta.batch_size,
                    "learning_rate": meta.learning_rate,
                }
                return meta_trained(key, problem, lessons, target=target, capacity=capacity, **numbers)

            @jax.jit
            def validate(weights, problem, lessons):
                return jax.lax.map(lambda lesson: lesson_loss(weights, problem, lesson, target, capacity), lessons)

            self.compiled[kind] = jax.jit(learn).lower(*inputs).compile(), validate
        return self.compiled[kind]


def load_or_train_all(config: Config, folder: Run, setting: Setting, programs: Programs) -> dict[str, Trained]:
    """The hypernetworks of a draw: learner -> what it learned. Those kept by an earlier run are read."""
    lessons = functools.cache(lambda: make_lessons(config, setting, config.meta.sets + config.meta.validation))

    def make(learner: str) -> dict[str, Any]:
        trained = train(config, setting, learner, programs, *lessons())
        return {**trained._asdict(), "weights": ravel_pytree(trained.weights)[0]}

    found = {}
    for name in config.learners:
        identity = {**setting.identity, **deciding_options(config), "learner": name}
        arrays = load_or_make(folder, f"hypernetworks/{name}-{config.seed}.npz", identity, functools.partial(make, name))
        found[name] = read(config, setting, name, arrays)
    return found


def read(config: Config, setting: Setting, learner: str, arrays: dict[str, np.ndarray]) -> Trained:
    """A hypernetwork from the arrays of its file."""
    _, capacity = parts(config, learner)
    fresh = jax.eval_shape(lambda key: fresh_hypernetwork(key, setting.problem, capacity), jax.random.key(0))
    flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), fresh))
    weights = jax.device_get(unravel(jnp.asarray(arrays["weights"], flat.dtype)))
    seconds = float(arrays["pool_seconds"]), float(arrays["seconds"])
    return Trained(weights, arrays["losses"], arrays["before"], arrays["after"], *seconds)


def train(config: Config, setting: Setting, learner: str, programs: Programs, lessons: Lesson, seconds: float) -> Trained:
    """Trains a hypernetwork on all lessons but those for validation.

    Args:
        config: how.
        setting: data and model.
        learner: its name.
        programs: of all learners.
        lessons: those for validation first.
        seconds: of training that one took.
    """
    meta = config.meta
    parts = slice(meta.validation, None), slice(meta.validation)
    learned, unseen = (jax.tree.map(lambda leaf, part=part: leaf[part], lessons) for part in parts)
    (key,) = member_keys(config.seed, "meta-training", 1)
    # On one device: with inputs replicated on two CPU devices the solver hangs, and so do two programs at a time.
    key, problem, learned, unseen = jax.device_put((key, setting.problem, learned, unseen), jax.devices()[0])
    with working(f"meta-training of {learner}") as update:
        program, validate = programs.of(learner, key, problem, learned)
        start = time.perf_counter()
        weights, losses = jax.block_until_ready(program(key, problem, learned))
        taken = time.perf_counter() - start
        nothing = jax.tree.map(jnp.zeros_like, weights)
        before, after = (np.asarray(validate(network, problem, unseen)) for network in (nothing, weights))
        update(1.0, f"{meta.steps} steps in {taken:.1f} s, on unseen forget sets {before.mean():.3f} to {after.mean():.3f}")
    return Trained(jax.device_get(weights), np.asarray(losses), before, after, seconds * meta.sets, taken)


def make_lessons(config: Config, setting: Setting, count: int) -> tuple[Lesson, float]:
    """`count` lessons, on forget sets that the comparison does not use, and the seconds of training that one takes."""
    labels = setting.data.train.labels
    forget = np.stack(
        [
            choose(labels, kind="random", size=config.forget.size, classes=setting.data.classes, seed=config.seed, index=index)
            for index in range(config.forget_sets, config.forget_sets + count)
        ]
    )
    originals = pool(config, setting, setting.problem, np.ones(len(labels), bool), "meta-training original", count)
    oracles = pool(config, setting, setting.problem, ~forget, "meta-training oracle", count)
    rng = generator("retained examples of meta-training", config.seed)
    rows = np.stack([np.flatnonzero(mask) for mask in forget]).astype(np.int32)
    others = np.stack([rng.permutation(np.flatnonzero(~mask))[: config.meta.others] for mask in forget]).astype(np.int32)
    images = np.concatenate([setting.data.train.images, setting.data.held_out.images])
    held_out = np.broadcast_to(np.arange(len(labels), len(images)), (count, len(images) - len(labels)))
    judged = np.concatenate([rows, others, held_out], axis=1)
    logits = predict(setting.problem.model, oracles.variables, images, config.strategy)
    oracle = np.take_along_axis(logits, judged[:, :, None], axis=1)
    lessons = Lesson(originals.variables, *map(jnp.asarray, (rows, others, oracle)))
    trained = originals.variables, oracles.variables
    lost = lost_members(config, "meta-training", trained, config.meta.validation + 1)  # at least one to learn from
    return without(lessons, lost), originals.seconds + oracles.seconds
