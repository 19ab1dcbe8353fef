"""The pieces that methods are composed of, besides `training.descend`."""

from collections.abc import Callable

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


def steps_for(problem: Problem, source: str, epochs: int, batch_size: int) -> int:
    """The steps of `epochs` passes over a source (`kept`, `forget` or `retain`)."""
    return epochs * steps_in_pass(problem.rows(source)[1], batch_size)
