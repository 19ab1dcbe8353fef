"""Optax transforms that unlearning needs. Each works in any optax training loop."""

import fnmatch
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


def freeze_where(inner: optax.GradientTransformation, frozen: Any) -> optax.GradientTransformationExtraArgs:
    """Run `inner` on the entries that are not frozen; frozen weights and their optimiser state stay bit-identical.

    Unlike `optax.masked`, which hands the raw gradient through where its mask is False (optax#159), a frozen entry gets an
    update of exactly zero, weight decay and momentum included: `inner` sees neither its gradient nor its value.
    The mask is data: it may be traced, and `vmap` may batch it.

    Args:
        inner: any chain, weight decay included.
        frozen: a pytree of booleans like the params, elementwise or one boolean for a leaf.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> params = {"w": jnp.array([1.0, 2.0])}
        >>> optimiser = freeze_where(optax.adamw(0.1), {"w": jnp.array([True, False])})
        >>> updates, _ = optimiser.update({"w": jnp.ones(2)}, optimiser.init(params), params)
        >>> bool(updates["w"][0] == 0), bool(updates["w"][1] < 0)
        (True, True)
    """
    inner = optax.with_extra_args_support(inner)

    def clear(tree):
        return jax.tree.map(lambda leaf, mask: jnp.where(mask, jnp.zeros_like(leaf), leaf), tree, frozen)

    def update(updates, state, params=None, **extra):
        seen = None if params is None else clear(params)
        updates, after = inner.update(clear(updates), state, seen, **extra)

        held = optax.tree_map_params(inner, lambda _, mask: mask, after, frozen, transform_non_params=lambda _: False)
        return clear(updates), jax.tree.map(lambda mask, old, new: jnp.where(mask, old, new), held, state, after)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def freeze_by_name(inner: optax.GradientTransformation, patterns: Sequence[str]) -> optax.GradientTransformationExtraArgs:
    """Run `inner` on all params but those whose path matches a pattern, such as `stage1_*` or `head/bias`.

    A pattern matches a path (`group/subgroup/leaf`), or a group with all below it. The frozen ones stay bit-identical, as
    in `freeze_where`.

    Raises:
        ValueError: a pattern matches no path (when the optimiser is initialised).

    Example:
        >>> import jax.numpy as jnp, optax
        >>> params = {"body": {"w": jnp.ones(2)}, "head": {"w": jnp.ones(2)}}
        >>> optimiser = freeze_by_name(optax.sgd(0.1), ["body"])
        >>> updates, _ = optimiser.update(params, optimiser.init(params), params)
        >>> float(updates["body"]["w"][0]), round(float(updates["head"]["w"][0]), 3)
        (0.0, -0.1)
    """

    def frozen(params):
        paths, structure = jax.tree_util.tree_flatten_with_path(params)
        names = ["/".join(str(getattr(part, "key", getattr(part, "idx", part))) for part in path) for path, _ in paths]
        hits = {p: [fnmatch.fnmatchcase(n, p) or fnmatch.fnmatchcase(n, f"{p}/*") for n in names] for p in patterns}
        for pattern, hit in hits.items():
            if not any(hit):
                raise ValueError(f"freeze_by_name: {pattern!r} matches none of {', '.join(names)}")
        return jax.tree.unflatten(structure, [any(hit[i] for hit in hits.values()) for i in range(len(names))])

    def init(params):
        return freeze_where(inner, frozen(params)).init(params)

    def update(updates, state, params=None, **extra):
        return freeze_where(inner, frozen(updates)).update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(init, update)


class ProximalState(NamedTuple):
    """State of `proximal_l1`."""

    steps: Array  # taken so far, int32 []


def proximal_l1(strength: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """The proximal step of strength x |θ|_1: θ becomes soft_threshold(θ + u, strength), with exact zeros.

    Comes last in a chain, after the learning rate.

    Args:
        strength: the threshold of one step, that is learning rate x penalty; or a schedule of it over the step count.

    Raises:
        ValueError: updated without params.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> params = {"w": jnp.array([0.05, -1.0])}
        >>> optimiser = optax.chain(optax.sgd(0.1), proximal_l1(0.1))
        >>> updates, _ = optimiser.update({"w": jnp.zeros(2)}, optimiser.init(params), params)
        >>> [round(float(w), 3) for w in optax.apply_updates(params, updates)["w"]]
        [0.0, -0.9]
    """

    def init(params):
        return ProximalState(jnp.zeros([], jnp.int32))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("proximal_l1 needs the params: pass them to update")
        threshold = strength(state.steps) if callable(strength) else strength

        def shrink(update, param):
            moved = param + update
            return jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - threshold, 0.0) - param

        return jax.tree.map(shrink, updates, params), ProximalState(state.steps + 1)

    return optax.GradientTransformation(init, update)


def project_out(eps: float = 1e-12) -> optax.GradientTransformationExtraArgs:
    """Remove from a gradient its component along a second one: u - (<u, r> / (<r, r> + eps)) r.

    The two-source projection: with u the gradient of forgetting and r that of the retain loss, a step along the result
    leaves the retain loss unchanged to first order. Inner products run over the whole tree.

    Args:
        eps: keeps a vanishing reference harmless; in squared gradient units.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> params = {"w": jnp.zeros(2)}
        >>> optimiser = optax.chain(project_out(), optax.sgd(1.0))
        >>> gradient, reference = {"w": jnp.array([2.0, 0.0])}, {"w": jnp.array([1.0, 1.0])}
        >>> updates, _ = optimiser.update(gradient, optimiser.init(params), params, reference=reference)
        >>> [round(float(w), 3) for w in updates["w"]]
        [-1.0, 1.0]
    """

    def update(updates, state, params=None, *, reference, **extra):
        share = tree_dot(updates, reference) / (tree_dot(reference, reference) + eps)
        return jax.tree.map(lambda u, r: u - share * r, updates, reference), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def alternate(*inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Several optimisers that take turns, each with a state of its own.

    The update's extra argument `choice` says whose turn it is. The others' momentum and step counts stand still. Where
    `choice` is not batched, only one of them is computed.

    Args:
        inner: an optax chain for each choice.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> params = {"w": jnp.zeros(1)}
        >>> optimiser = alternate(optax.sgd(1.0), optax.sgd(0.1))
        >>> updates, _ = optimiser.update({"w": jnp.ones(1)}, optimiser.init(params), params, choice=1)
        >>> round(float(updates["w"][0]), 3)
        -0.1
    """
    members = [optax.with_extra_args_support(transform) for transform in inner]

    def update(updates, state, params=None, *, choice, **extra):
        def turn(index, updates, state):
            updates, own = members[index].update(updates, state[index], params, choice=choice, **extra)
            return updates, (*state[:index], own, *state[index + 1 :])

        return jax.lax.switch(choice, [functools.partial(turn, index) for index in range(len(members))], updates, state)

    return optax.GradientTransformationExtraArgs(lambda params: tuple(each.init(params) for each in members), update)


def tree_dot(a: Any, b: Any) -> Float[Array, ""]:
    """The inner product of two trees of the same structure."""
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)), start=jnp.zeros([]))
