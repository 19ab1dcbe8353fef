"""The pieces that methods are composed of, besides `training.descend`."""

from collections.abc import Callable
from typing import Any

import jax

from unlearn_jax.training.sampling import steps_in_pass
from unlearn_jax.types import Key, Method, Problem, Variables


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
