"""Streams of forget requests, for methods that need the forget set alone, and for others with stand-ins for retained examples."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unlearn_jax.methods.summaries import Kept, keep, stand_in
from unlearn_jax.training.gradients import squared_gradients
from unlearn_jax.types import Examples, Key, Method, Params, Problem, Variables

Stream = Callable[..., Variables]


class Anchor(NamedTuple):
    """What is kept once the training data is deleted: the final weights, and the importance of each."""

    params: Params
    importance: Params  # diagonal Fisher information of the kept examples, 1 on average over all weights


def anchor(problem: Problem, variables: Variables) -> Anchor:
    """The anchor of a trained model, to compute before its data is deleted; elastic weight consolidation, arXiv 1612.00796."""
    return fisher(problem, variables).anchor()


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


class Fisher(NamedTuple):
    """An anchor from which the part of forgotten examples can be subtracted, since it is a mean over examples."""

    origin: Variables  # the model after training
    information: Params  # mean squared gradients of `examples` examples at `origin`
    examples: Float[Array, ""]

    def without(self, asked: Problem, share: float | Array = 1.0) -> "Fisher":
        """Less `share` of the part of a problem's forget set: 1 for all of it, 0 for none."""
        taken = share * asked.forget_count
        rest = jnp.maximum(self.examples - taken, 1.0)

        def subtract(whole: Array, part: Array) -> Array:
            return jnp.maximum(self.examples * whole - taken * part, 0.0) / rest

        of_forget = squared_gradients(asked, self.origin, asked.rows("forget"))
        return Fisher(self.origin, jax.tree.map(subtract, self.information, of_forget), rest)

    def anchor(self) -> Anchor:
        """The anchor with these importances, 1 on average over all weights."""
        leaves = jax.tree.leaves(self.information)
        mean = sum(jnp.sum(leaf) for leaf in leaves) / sum(leaf.size for leaf in leaves)
        least = jnp.finfo(leaves[0].dtype).tiny
        return Anchor(self.origin.params, jax.tree.map(lambda leaf: leaf / jnp.maximum(mean, least), self.information))


def fisher(problem: Problem, variables: Variables) -> Fisher:
    """The `Fisher` of a trained model, to compute before its data is deleted."""
    information = squared_gradients(problem, variables, problem.rows("kept"))
    return Fisher(variables, information, jnp.float32(problem.kept_count))


def anchored(method: Method) -> Stream:
    """Extends a method to a stream, as `lift`, each request of which ends with the pull of an anchor; F's part may be subtracted.

    Returns:
        `(key, problem, variables, requests, held, strength, subtract) -> variables`, see `lift`. `held` is a `Fisher`;
        `strength` that of `pulled` (0: no pull); `subtract` the share of each request's part of the Fisher diagonal that is
        taken away before the pull.
    """

    def stream(
        key: Key,
        problem: Problem,
        variables: Variables,
        requests: Int[Array, "requests size"],
        held: Fisher,
        strength: float | Float[Array, ""],
        subtract: float | Float[Array, ""],
    ) -> Variables:
        def answer(carry: tuple[Variables, Fisher], request: tuple[Key, Array]) -> tuple[Any, Variables]:
            (variables, held), (request_key, rows) = carry, request
            asked = alone(problem, rows)
            after = method(request_key, asked, variables)
            held = held.without(asked, subtract)
            params = pulled(after.params, held.anchor(), strength)
            params = jax.tree.map(lambda free, bound: jnp.where(strength > 0, bound, free), after.params, params)
            after = after._replace(params=params)
            return (after, held), after

        return jax.lax.scan(answer, (variables, held), (jax.random.split(key, len(requests)), requests))[1]

    return stream


def replayed(method: Callable[..., Variables], number: int) -> Stream:
    """Extends a method that needs retained examples to a stream in which others stand in for them.

    Args:
        method: `(key, problem, variables, given) -> variables`; its problem has the request as forget set and the stand-ins as
            retain set, and the distributions of the classes are those of the stand-ins (`summaries.stand_in`).
        number: of stand-ins for each request.

    Returns:
        `(key, problem, variables, requests, which) -> variables`, see `lift`; `which` is the place in `summaries.STAND_INS`.
    """

    def stream(
        key: Key, problem: Problem, variables: Variables, requests: Int[Array, "requests size"], which: Int[Array, ""]
    ) -> Variables:
        least = problem.kept_count - requests.size

        def answer(carry: tuple[Variables, Kept], request: tuple[Key, Array]) -> tuple[Any, Variables]:
            (variables, kept), (request_key, rows) = carry, request
            draw_key, method_key = jax.random.split(request_key)
            kept = kept.after(problem, rows)
            others, given = stand_in(draw_key, which, problem, variables, kept, number, least)
            after = method(method_key, beside(problem, rows, others), variables, given)
            return (after, kept), after

        keys = jax.random.split(key, len(requests))
        return jax.lax.scan(answer, (variables, keep(problem)), (keys, requests))[1]

    return stream


def beside(problem: Problem, rows: Int[Array, " size"], others: Examples) -> Problem:
    """A problem whose forget set is exactly these rows, and whose retain set is other examples."""
    asked = Examples(problem.train.images[rows], problem.train.labels[rows])
    together = Examples(*(jnp.concatenate(pair) for pair in zip(asked, others, strict=True)))
    forget = jnp.arange(len(together.labels)) < len(rows)
    return dataclasses.replace(
        problem,
        train=together,
        kept=jnp.ones_like(forget),
        forget=forget,
        kept_count=len(together.labels),
        forget_count=len(rows),
    )
