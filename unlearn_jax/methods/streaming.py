"""Streams of forget requests, for any method that needs only the forget set."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unlearn_jax.training.gradients import squared_gradients
from unlearn_jax.types import Examples, Key, Method, Params, Problem, Variables

Stream = Callable[..., Variables]


class Anchor(NamedTuple):
    """What is kept once the training data is deleted: the final weights, and the importance of each."""

    params: Params
    importance: Params  # diagonal Fisher information of the kept examples, 1 on average over all weights


def anchor(problem: Problem, variables: Variables) -> Anchor:
    """The anchor of a trained model, to compute before its data is deleted; elastic weight consolidation, arXiv 1612.00796."""
    information = squared_gradients(problem, variables, problem.rows("kept"))
    leaves = jax.tree.leaves(information)
    mean = sum(jnp.sum(leaf) for leaf in leaves) / sum(leaf.size for leaf in leaves)
    return Anchor(variables.params, jax.tree.map(lambda leaf: leaf / jnp.maximum(mean, jnp.finfo(leaf.dtype).tiny), information))


def pulled(params: Params, held: Anchor, strength: float | Array) -> Params:
    """The proximal step of the anchor: argmin over θ of |θ - params|² + strength sum_i importance_i (θ_i - anchor_i)²."""

    def pull(weight, origin, importance):
        return origin + (weight - origin) / (1.0 + strength * importance)

    return jax.tree.map(pull, params, *held)


def lift(method: Method) -> Stream:
    """Extends a method to a stream of requests, each of which starts from the model that the last one left.

    The method sees the request alone: its problem holds those rows, as forget set, and no others, so that the retain set is
    empty. Requests are of equal size, and the method is compiled once.

    Returns:
        `(key, problem, variables, requests, held=None, strength=0.0) -> variables`, the models after each request along a
        leading axis. `requests` are row numbers `[requests, size]`; with `held`, an `Anchor`, every request ends with `pulled`.
    """

    def stream(
        key: Key,
        problem: Problem,
        variables: Variables,
        requests: Int[Array, "requests size"],
        held: Anchor | None = None,
        strength: float | Float[Array, ""] = 0.0,
    ) -> Variables:
        def answer(variables: Variables, request: tuple[Key, Array]) -> tuple[Variables, Variables]:
            request_key, rows = request
            after = method(request_key, alone(problem, rows), variables)
            if held is not None:
                after = after._replace(params=pulled(after.params, held, strength))
            return after, after

        return jax.lax.scan(answer, variables, (jax.random.split(key, len(requests)), requests))[1]

    return stream


def alone(problem: Problem, rows: Int[Array, " size"]) -> Problem:
    """A problem whose training set, and forget set, is exactly these rows."""
    everything = jnp.ones(len(rows), bool)
    return dataclasses.replace(
        problem,
        train=Examples(problem.train.images[rows], problem.train.labels[rows]),
        kept=everything,
        forget=everything,
        kept_count=len(rows),
        forget_count=len(rows),
    )
