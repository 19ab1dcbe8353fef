"""Pools of models: trained under a progress bar, or found in the cache."""

import os
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import NamedTuple

import numpy as np

from unlearn_jax import device
from unlearn_jax.bench import curves
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.options import Training
from unlearn_jax.bench.population import without
from unlearn_jax.bench.setting import Setting
from unlearn_jax.data.splits import generator, random_halves
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.progress import working
from unlearn_jax.training.pools import Pool, train_pool
from unlearn_jax.types import Problem, Variables
from unlearn_jax.workers import current

BLOCK = 32  # halves drawn together: each example is in 16 of them


class HalfModels(NamedTuple):
    """Models trained on random halves of the training set, without those that diverged."""

    masks: np.ndarray  # [models, examples]: which examples each model trained on
    variables: Variables  # with a leading axis of models


def train_on_halves(config: Training, setting: Setting, models: int) -> HalfModels:
    """Trains models on random halves of the training set, to measure memorisation and exposure. Each example is in half of them.

    A pool of 64, 96, ... begins with the cached pool of 32.

    Raises:
        ArgumentError: so many diverged that some example has fewer than two models with it, or without it.
    """
    count = len(setting.data.train.labels)
    blocks = [min(BLOCK, models - first) for first in range(0, models, BLOCK)]
    draws = [generator("halves of the training set", config.seed, index) for index in range(len(blocks))]
    masks = np.concatenate([random_halves(count, size, rng) for size, rng in zip(blocks, draws, strict=True)])
    halves = setting._replace(identity={**setting.identity, "halves": blocks[-1]})  # a smaller last block has other halves
    trained = pool(config, halves, setting.problem, masks, "half", models)
    kept = np.delete(masks, trained.diverged, axis=0)
    fewest = min(kept.sum(axis=0).min(), (~kept).sum(axis=0).min())
    problem = f"{len(trained.diverged)} of {models} models on halves diverged, and each example needs 2 with and 2 without it"
    require(fewest >= 2, "--train.learning-rate", config.train.learning_rate, f"{problem}; try a smaller learning rate")
    return HalfModels(kept, without(trained.variables, trained.diverged))


def pool(
    config: Training,
    setting: Setting,
    problem: Problem,
    mask: np.ndarray,
    role: str,
    members: int,
    seed: int | None = None,
    forget_set: str = "",
) -> Pool:
    """Returns a pool from the cache, or trains it under a progress bar, and records its curves.

    `seed` replaces the seed of the run; `forget_set` is the name that curves.csv gives to what `mask` leaves out.
    """
    assert config.cache
    with working(f"{role} models") as update:
        trained = train_pool(
            problem,
            mask,
            members=members,
            role=role,
            seed=config.seed if seed is None else seed,
            identity=setting.identity,
            cache=config.cache,
            strategy=config.strategy,
            chunk=config.chunk,
            fit=setting.fit,
            workers=current(),
            report=lambda p: update(
                p.share,
                f"member {p.first + 1} to {p.last} of {p.members}, epoch {p.epoch} of {p.epochs}, "
                f"held-out accuracy {100 * p.accuracy:.1f}%" + (f", {p.diverged} diverged" if p.diverged else ""),
            ),
        )
        done = f"{members} members, {trained.seconds:.2f} s each"
        lost = f", diverged: {trained.diverged}" if trained.diverged else ""
        update(1.0, ". ".join([done + lost, *version_note(trained.made_with)]))
    curves.record(trained, role, forget_set)
    return trained


def version_note(made_with: Iterable[str]) -> list[str]:
    """Returns a sentence if parts of a result come from another version or backend, whose results differ by rounding.

    Args:
        made_with: of each part, see `device.made_with`.
    """
    others = sorted({*made_with} - {device.made_with()})
    return [f"Part of this was computed with {'; '.join(others)}, not with {device.made_with()}."] if others else []


def compile_all(unlearners: Collection[Unlearner]) -> None:
    """Compiles unlearners in parallel, before the first one runs: one compilation mostly keeps a single core busy."""
    if not unlearners:
        return
    with working("compiling") as update, ThreadPoolExecutor(os.cpu_count()) as threads:
        compiling = [threads.submit(unlearner.compile) for unlearner in unlearners]
        for number, done in enumerate(as_completed(compiling)):
            done.result()
            update((number + 1) / len(unlearners), f"{number + 1} of {len(unlearners)} methods")
