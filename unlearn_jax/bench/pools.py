"""Pools of a run: trained under a progress bar, or found in the cache."""

import os
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import NamedTuple

import numpy as np

from unlearn_jax import device
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.options import Training
from unlearn_jax.bench.population import without
from unlearn_jax.bench.setting import Setting
from unlearn_jax.data.splits import generator, random_halves
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.progress import working
from unlearn_jax.training.pools import Pool, train_pool
from unlearn_jax.types import Problem, Variables

BLOCK = 32  # halves drawn together: each example is in 16 of them


class OnHalves(NamedTuple):
    """Models on random halves of the training set, without those that diverged."""

    masks: np.ndarray  # [models, examples], what each trained on
    variables: Variables  # with a leading axis of models


def on_halves(config: Training, setting: Setting, models: int) -> OnHalves:
    """Models on random halves, each example in half of them: what memorisation and influence are measured with.

    A cached pool of 32 is the beginning of one of 64, 96, ...

    Raises:
        UsageError: so many diverged that some example has fewer than two models of either kind.
    """
    count = len(setting.data.train.labels)
    blocks = [min(BLOCK, models - first) for first in range(0, models, BLOCK)]
    draws = [generator("halves of the training set", config.seed, index) for index in range(len(blocks))]
    masks = np.concatenate([random_halves(count, size, rng) for size, rng in zip(blocks, draws, strict=True)])
    own = setting._replace(identity={**setting.identity, "halves": blocks[-1]})  # a smaller last block has halves of its own
    trained = pool(config, own, setting.problem, masks, "half", models)
    kept = np.delete(masks, trained.diverged, axis=0)
    few = min(kept.sum(axis=0).min(), (~kept).sum(axis=0).min()) < 2
    said = f"{len(trained.diverged)} of {models} models on halves diverged and each example needs 2 with and 2 without it"
    require(not few, "--train.learning-rate", config.train.learning_rate, f"{said}; expected a smaller number")
    return OnHalves(kept, without(trained.variables, trained.diverged))


def pool(
    config: Training, setting: Setting, problem: Problem, mask: np.ndarray, role: str, members: int, seed: int | None = None
) -> Pool:
    """A pool from the cache, or trained under a progress bar; `seed` in place of the run's."""
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
            report=lambda p: update(
                p.share,
                f"member {p.first + 1} to {p.last} of {p.members}, epoch {p.epoch} of {p.epochs}, "
                f"held-out accuracy {100 * p.accuracy:.1f}%" + (f", {p.diverged} diverged" if p.diverged else ""),
            ),
        )
        done = f"{members} members, {trained.seconds:.2f} s each"
        gone = f", diverged: {trained.diverged}" if trained.diverged else ""
        update(1.0, ". ".join([done + gone, *mixture(trained.made_with)]))
    return trained


def mixture(made_with: Iterable[str]) -> list[str]:
    """A sentence if parts of a result were made elsewhere (another version or backend), which agrees up to rounding only.

    Args:
        made_with: of each part, see `device.made_with`.
    """
    others = sorted({*made_with} - {device.made_with()})
    return [f"Part of this was made with {'; '.join(others)}, not with {device.made_with()}."] if others else []


def compile_all(unlearners: Collection[Unlearner]) -> None:
    """Compile side by side, before the first one runs: the compiler uses one core for much of its time."""
    if not unlearners:
        return
    with working("compiling") as update, ThreadPoolExecutor(os.cpu_count()) as threads:
        compiling = [threads.submit(unlearner.compile) for unlearner in unlearners]
        for number, done in enumerate(as_completed(compiling)):
            done.result()
            update((number + 1) / len(unlearners), f"{number + 1} of {len(unlearners)} methods")
