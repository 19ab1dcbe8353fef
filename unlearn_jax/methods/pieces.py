"""The pieces that methods are composed of, besides `training.descend`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from unlearn_jax.errors import UsageError
from unlearn_jax.training.sampling import steps_in_pass, subset
from unlearn_jax.types import Examples, Key, Method, Problem, Variables


def edit(change: Callable[[Key, Problem, Variables], Variables]) -> Method:
    """A method that changes the weights once, with no direction of descent."""
    return change


def pipe(*methods: Method) -> Method:
    """One method after the other, each with a key of its own."""

    def piped(key: Key, problem: Problem, variables: Variables) -> Variables:
        for method, own in zip(methods, jax.random.split(key, max(len(methods), 1)), strict=False):
            variables = method(own, problem, variables)
        return variables

    return piped


def in_turns(method: Callable[..., Method], *turns: Any) -> Method:
    """`method(*turn)` for one turn after the other, each with a key of its own; compiled once for all of them.

    Args:
        method: makes the method of a turn, such as one epoch with a learning rate and a mask of its own.
        turns: arrays, or trees of them, with a leading axis of turns.
    """

    def turned(key: Key, problem: Problem, variables: Variables) -> Variables:
        def take(variables, own):
            key, turn = own
            return method(*turn)(key, problem, variables), None

        keys = jax.random.split(key, len(jax.tree.leaves(turns)[0]))
        return jax.lax.scan(take, variables, (keys, turns))[0]

    return turned


def steps_for(problem: Problem, source: str, epochs: int, batch_size: int) -> int:
    """The steps of `epochs` passes over a source (`kept`, `forget` or `retain`)."""
    return epochs * steps_in_pass(problem.rows(source)[1], batch_size)


def examples_of(problem: Problem, source: str) -> Examples:
    """The examples of a source, gathered; no other row is read."""
    mask, count = problem.rows(source)
    rows = jnp.nonzero(mask, size=count)[0]
    return Examples(problem.train.images[rows], problem.train.labels[rows])


def among(problem: Problem, source: str, extra: Examples) -> Problem:
    """The problem that retains the rows of `source` and, behind the training set, the rows of `extra`; it forgets none."""
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
    """The problem that keeps, besides the forget set, a random share of the retain set only.

    Raises:
        UsageError: a share that is no example.
    """
    count = round(share * problem.retain_count)
    if not count:
        raise UsageError("--hyper METHOD.retain_share", share, f"a share of the {problem.retain_count} retained examples")
    kept = problem.forget | subset(key, problem.retain, count)
    return dataclasses.replace(problem, kept=kept, kept_count=problem.forget_count + count)


def other_labels(key: Key, labels: Int[Array, "*shape"], classes: int) -> Int[Array, "*shape"]:
    """For each label another one, uniformly."""
    return (labels + jax.random.randint(key, labels.shape, 1, classes)) % classes
