"""Relearning: how fast a model learns the forget set again, and what it knows after more training on anything."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unlearn_jax.training.descend import descend
from unlearn_jax.training.ensembles import chunk_size, over_members, per_call, step_bytes
from unlearn_jax.training.fit import optimiser, training
from unlearn_jax.training.objectives import Term, cross_entropy, weighted
from unlearn_jax.types import Key, Problem, Recipe, Variables

POINTS = 12  # of the curve: before the first step, after the first, and so on
ROWS = 128  # forget examples at most: all of them are in every batch


def relearning_curve(problem: Problem, variables: Variables) -> Float[Array, " points"]:
    """The loss on the forget set while a model is trained on it, by the recipe's optimiser at its largest learning rate.

    Every step sees the same batch, the first 128 forget examples, without augmentation and normalised by its own statistics,
    so that the curve has no noise of its own.

    Args:
        problem: the forget set, the model and the recipe.
        variables: of the model.

    Returns:
        The cross-entropy in nats before the first step, after the first, and so on.
    """
    count = min(problem.forget_count, ROWS)
    batch = problem.forget & (jnp.cumsum(problem.forget) <= count)
    again = dataclasses.replace(problem, forget=batch, forget_count=count, augment=None)
    transform = optimiser(dataclasses.replace(problem.recipe, schedule="constant"), POINTS)
    descent = descend(weighted(Term("forget", cross_entropy)), transform, steps=POINTS, batch_size=count)
    _, losses = descent.advance(descent.begin(variables), descent.plan(jax.random.key(0), again), again)
    return losses


class Relearner:
    """`relearning_curve` for any number of members and pools, with one program.

    Args:
        problem: on the devices, see `ensembles.shared`.
        strategy: see `ensembles.over_members`.
        chunk: members at a time; by default as many as fit into memory.
    """

    def __init__(self, problem: Problem, strategy: str = "auto", chunk: int | None = None):
        self.problem, self.strategy, self.chunk = problem, strategy, chunk

    def __call__(self, variables: Variables) -> Float[np.ndarray, "members points"]:
        """The curve of every member; a member that diverges on the way has losses that are not finite."""
        members = len(jax.tree.leaves(variables)[0])
        if self.chunk is None:
            first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), variables)
            self.chunk = chunk_size(
                lambda: step_bytes(relearning_curve, self.problem, first, batched=(False, True)), members, self.strategy
            )
        program = _program(self.strategy)
        curves = []
        for begin in range(0, members, self.chunk):
            end = min(begin + self.chunk, members)
            chunk_variables = jax.tree.map(lambda leaf, begin=begin, end=end: leaf[begin:end], variables)
            parts = [program(self.problem, some) for some in per_call(chunk_variables, self.strategy)]
            curves.append(np.concatenate(parts)[: end - begin])
        return np.concatenate(curves)


@functools.lru_cache(maxsize=4)
def _program(strategy: str) -> Any:
    return over_members(relearning_curve, (False, True), strategy)


def train_further(
    problem: Problem,
    variables: Variables,
    keys: Key,
    epochs: int,
    learning_rate: float,
    strategy: str = "auto",
    chunk: int | None = None,
) -> Variables:
    """Trains models further on the retain set of a problem, with the recipe's optimiser at one learning rate.

    Args:
        problem: on the devices, see `ensembles.shared`; its forget set is not read.
        variables: with a leading axis of members.
        keys: one for each member.
        epochs: passes over the retain set.
        learning_rate: of all steps.
        strategy: see `ensembles.over_members`.
        chunk: members at a time; by default all.

    Returns:
        NumPy leaves with a leading axis of members.
    """
    recipe = dataclasses.replace(problem.recipe, epochs=epochs, learning_rate=learning_rate, schedule="constant")
    program = _further(recipe, problem.retain_count, strategy)
    members = len(jax.tree.leaves(variables)[0])
    parts = []
    for begin in range(0, members, chunk or members):
        end = min(begin + (chunk or members), members)
        some = jax.tree.map(lambda leaf, begin=begin, end=end: leaf[begin:end], (keys, variables))
        done = [program(*call, problem) for call in per_call(some, strategy)]
        parts.append(jax.tree.map(lambda *leaves, size=end - begin: np.concatenate(leaves)[:size], *done))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


@functools.lru_cache(maxsize=8)
def _further(recipe: Recipe, count: int, strategy: str) -> Any:
    descent = training(recipe, count)
    return over_members(lambda key, variables, problem: descent(key, problem, variables), (True, True, False), strategy)
