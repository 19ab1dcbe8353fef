"""The pieces that methods are composed of, besides `training.descend`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Int

from unlearn_jax.errors import ArgumentError
from unlearn_jax.training.sampling import steps_in_pass, subset
from unlearn_jax.types import Examples, Key, Method, Params, Problem, Variables


def edit(change: Callable[[Key, Problem, Variables], Variables]) -> Method:
    """A method that changes the weights in one step, without gradient descent."""
    return change


def pipe(*methods: Method) -> Method:
    """Applies methods one after another, each with its own key."""

    def piped(key: Key, problem: Problem, variables: Variables) -> Variables:
        for method, method_key in zip(methods, jax.random.split(key, max(len(methods), 1)), strict=False):
            variables = method(method_key, problem, variables)
        return variables

    return piped


def in_turns(method: Callable[..., Method], *turns: Any) -> Method:
    """Applies `method(*turn)` for each turn in order, each with its own key; compiled once for all turns.

    Args:
        method: makes the method of one turn, such as an epoch with its own learning rate and mask.
        turns: arrays, or trees of them, with a leading axis of turns.
    """

    def turned(key: Key, problem: Problem, variables: Variables) -> Variables:
        def take(variables, key_and_turn):
            key, turn = key_and_turn
            return method(*turn)(key, problem, variables), None

        keys = jax.random.split(key, len(jax.tree.leaves(turns)[0]))
        return jax.lax.scan(take, variables, (keys, turns))[0]

    return turned


def steps_for(problem: Problem, source: str, epochs: int, batch_size: int) -> int:
    """The number of steps in `epochs` passes over a source (`kept`, `forget` or `retain`)."""
    return epochs * steps_in_pass(problem.rows(source)[1], batch_size)


def examples_of(problem: Problem, source: str) -> Examples:
    """The examples of a source, gathered; no other row is read."""
    mask, count = problem.rows(source)
    rows = jnp.nonzero(mask, size=count)[0]
    return Examples(problem.train.images[rows], problem.train.labels[rows])


def among(problem: Problem, source: str, extra: Examples) -> Problem:
    """A problem whose retain set is `source` plus `extra`, which is appended to the training set; its forget set is empty."""
    mask, count = problem.rows(source)
    return dataclasses.replace(
        problem,
        train=jax.tree.map(lambda *parts: jnp.concatenate(parts), problem.train, extra),
        kept=jnp.concatenate([mask, jnp.ones(len(extra.labels), bool)]),
        forget=jnp.zeros(len(mask) + len(extra.labels), bool),
        kept_count=count + len(extra.labels),
        forget_count=0,
    )


def with_share_of_retain(key: Key, problem: Problem, share: float) -> Problem:
    """The problem with a random share of its retain set in place of the whole.

    Raises:
        ArgumentError: the share rounds to no example.
    """
    count = round(share * problem.retain_count)
    if not count:
        raise ArgumentError("METHOD.retain_share", share, f"must make up at least one of {problem.retain_count} examples")
    kept = problem.forget | subset(key, problem.retain, count)
    return dataclasses.replace(problem, kept=kept, kept_count=problem.forget_count + count)


def with_noise(key: Key, params: Params, deviation: float | Array, noisy: Any = None) -> Params:
    """The params with normal noise added, to all arrays or to those that `noisy` marks."""
    weights, structured = ravel_pytree(params)
    noise = structured(deviation * jax.random.normal(key, weights.shape))  # for all weights at once: see `models.draw_kernels`
    if noisy is None:
        return jax.tree.map(jnp.add, params, noise)
    return jax.tree.map(lambda param, marked, drawn: param + jnp.where(marked, drawn, 0.0), params, noisy, noise)


def other_labels(key: Key, labels: Int[Array, "*shape"], classes: int) -> Int[Array, "*shape"]:
    """A different label for each, uniform over the other classes."""
    return (labels + jax.random.randint(key, labels.shape, 1, classes)) % classes
