"""Unlearning in one forward pass: a hypernetwork meta-trained on some forget sets and their oracles, compared on others."""

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from experiments.hypernetwork import report
from experiments.hypernetwork.options import Config
from unlearn_jax.bench.evaluate import compare
from unlearn_jax.bench.pools import pool
from unlearn_jax.bench.population import lost_members, without
from unlearn_jax.bench.resume import load_or_make
from unlearn_jax.bench.setting import Setting, deciding_options, prepare
from unlearn_jax.data import choose
from unlearn_jax.data.splits import generator
from unlearn_jax.methods import Entry
from unlearn_jax.methods.hypernetwork import NEEDS, Lesson, fresh_hypernetwork, hypernetwork, lesson_loss, meta_trained
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import subject
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import predict
from unlearn_jax.training.pools import member_keys
from unlearn_jax.types import Params

NAME = "hypernetwork"


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
    trained = load_or_train(config, folder, setting)
    # Its access is what meta-training used, though a request needs F alone.
    make = functools.partial(hypernetwork, trained.weights)
    entry = Entry(make, "F+R+test-like", "this project's", "One forward pass.", {}, frozenset(), NEEDS)
    rows = compare(config, folder, setting, {NAME: entry})
    prices = report.prices(rows, NAME, trained.pool_seconds + trained.seconds)
    folder.write_csv("prices.csv", report.Price._fields, prices)
    folder.write_csv("meta_training.csv", ("step", "loss"), list(enumerate(trained.losses.tolist())))
    folder.write_csv("validation.csv", ("before", "after"), np.stack([trained.before, trained.after], axis=1).tolist())
    save(report.learning_and_price(trained.losses, trained.before, trained.after, prices, subject(rows)), folder, NAME)
    report.show(trained.before, trained.after, prices)


def load_or_train(config: Config, folder: Run, setting: Setting) -> Trained:
    """The hypernetwork. One kept by an earlier run is read."""
    fresh = jax.eval_shape(fresh_hypernetwork, jax.random.key(0), setting.problem)
    flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), fresh))

    def make() -> dict[str, Any]:
        trained = train(config, setting)
        return {**trained._asdict(), "weights": ravel_pytree(trained.weights)[0]}

    arrays = load_or_make(folder, "hypernetwork.npz", {**setting.identity, **deciding_options(config)}, make)
    weights = jax.device_get(unravel(jnp.asarray(arrays["weights"], flat.dtype)))
    seconds = float(arrays["pool_seconds"]), float(arrays["seconds"])
    return Trained(weights, arrays["losses"], arrays["before"], arrays["after"], *seconds)


def train(config: Config, setting: Setting) -> Trained:
    """Trains originals and oracles for every lesson, and a hypernetwork on all but the validation lessons."""
    meta = config.meta
    lessons, seconds = make_lessons(config, setting, meta.sets + meta.validation)
    parts = slice(meta.validation, None), slice(meta.validation)
    learned, unseen = (jax.tree.map(lambda leaf, part=part: leaf[part], lessons) for part in parts)
    (key,) = member_keys(config.seed, "meta-training", 1)
    # On one device: with inputs replicated on two CPU devices the solver hangs.
    problem, learned, unseen = jax.device_put((setting.problem, learned, unseen), jax.devices()[0])

    def learn(key, problem, lessons):
        return meta_trained(key, problem, lessons, steps=meta.steps, batch_size=meta.batch_size, learning_rate=meta.learning_rate)

    @jax.jit
    def validate(weights, problem, lessons):
        return jax.lax.map(lambda lesson: lesson_loss(weights, problem, lesson), lessons)

    with working("meta-training") as update:
        program = jax.jit(learn).lower(key, problem, learned).compile()
        start = time.perf_counter()
        weights, losses = jax.block_until_ready(program(key, problem, learned))
        taken = time.perf_counter() - start
        nothing = fresh_hypernetwork(key, problem)
        before, after = (np.asarray(validate(network, problem, unseen)) for network in (nothing, weights))
        update(1.0, f"{meta.steps} steps in {taken:.1f} s, KL on unseen forget sets {before.mean():.3f} to {after.mean():.3f}")
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
