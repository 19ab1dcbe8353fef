"""Optax transforms that unlearning needs. Each works in any optax training loop."""

import dataclasses
import fnmatch
import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Inexact


def freeze_where(inner: optax.GradientTransformation, frozen: Any) -> optax.GradientTransformationExtraArgs:
    """Run `inner` on the entries that are not frozen; frozen weights and their optimiser state stay bit-identical.

    Unlike `optax.masked`, which passes the raw gradient on where its mask is False (optax#159), a frozen entry gets an update of
    exactly zero, weight decay and momentum included. The others move as if they were the only ones:

    * A leaf frozen by a plain boolean (of Python or NumPy) does not exist for `inner`.
    * A mask in a jax array is data: it may be traced, and `vmap` may batch it. What it freezes looks to `inner` as if it had
      always been zero, in value, gradient and state. Elementwise, that is exact where `inner` treats each entry by itself, or
      through norms of a leaf; a mean over a leaf counts the zeros, and Muon sees a matrix that has them. Noise is drawn as for
      all leaves.

    Extra arguments of `update` are treated alike: trees like the params, and functions of the params (a line search's
    `value_fn`), which get the frozen values back. The state has the structure of `inner`'s own.

    Args:
        inner: any chain, weight decay included.
        frozen: booleans, each for a leaf, or elementwise (of a shape that broadcasts to the leaf's), or for all leaves of a
            subtree: a pytree like the params or a prefix of it, such as True. Or a function that makes one from the params; it is
            called at each step, so it should use names and shapes only.

    Raises:
        ValueError: on `init`: `frozen` does not fit the params, or is elementwise where the optimiser's state for that leaf is
            neither copies of it nor one number (the factors of Adafactor, SM3 and GaLore).

    Example:
        >>> import jax.numpy as jnp, optax
        >>> params = {"w": jnp.array([1.0, 2.0])}
        >>> optimiser = freeze_where(optax.adamw(0.1), {"w": jnp.array([True, False])})
        >>> updates, _ = optimiser.update({"w": jnp.ones(2)}, optimiser.init(params), params)
        >>> bool(updates["w"][0] == 0), bool(updates["w"][1] < 0)
        (True, True)
    """
    inner = optax.with_extra_args_support(inner)

    def init(params):
        if not jax.tree.leaves(params):  # nothing to freeze, or a call from optax.tree_map_params
            return inner.init(params)
        parts = _Parts(frozen, params)
        state = inner.init(params)
        if parts.all_frozen:
            return state
        places = parts.places_in_state(inner)
        parts.check(places, state)
        return parts.choose(places, state, inner.init(parts.hide(params)))

    def update(updates, state, params=None, **extra):
        like = updates if params is None else params
        parts = _Parts(frozen, like)
        zeros = jax.tree.map(lambda leaf, own: jnp.zeros_like(leaf, None if own is None else jnp.result_type(own)), like, updates)
        if parts.all_frozen:
            return zeros, state
        places = parts.places_in_state(inner)
        blank = inner.init(parts.hide(jax.tree.map(jnp.zeros_like, like))) if parts.masks else places
        moved, after = inner.update(
            parts.hide(updates),
            parts.choose(places, blank, state),
            None if params is None else parts.hide(params),
            **{name: parts.hide_extra(value) for name, value in extra.items()},
        )
        return parts.choose(parts.places, zeros, moved), parts.choose(places, state, after)

    return optax.GradientTransformationExtraArgs(init, update)


def freeze_by_name(inner: optax.GradientTransformation, patterns: str | Iterable[str]) -> optax.GradientTransformationExtraArgs:
    """Run `inner` on all params but those whose path matches a pattern, such as `stage1_*` or `head/bias`.

    A pattern matches a path (`group/subgroup/leaf`), or a group with all below it. A path is made of the keys of dicts, the
    fields of dataclasses and NamedTuples, and the positions in lists and tuples, counted from 0 (`layers/0/bias`). The
    frozen ones do not exist for `inner` and stay bit-identical, as in `freeze_where`.

    Args:
        inner: any chain, weight decay included.
        patterns: shell-style (`*`, `?`, `[ab]`); `*` matches slashes too. A single one may be a string.

    Raises:
        ValueError: on `init`: a pattern matches no path.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> params = {"body": {"w": jnp.ones(2)}, "head": {"w": jnp.ones(2)}}
        >>> optimiser = freeze_by_name(optax.sgd(0.1), ["body"])
        >>> updates, _ = optimiser.update(params, optimiser.init(params), params)
        >>> float(updates["body"]["w"][0]), round(float(updates["head"]["w"][0]), 3)
        (0.0, -0.1)
    """
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)

    def frozen(params):
        paths, structure = jax.tree_util.tree_flatten_with_path(params)
        names = [_name(path) for path, _ in paths]
        hits = {p: [fnmatch.fnmatchcase(n, p) or fnmatch.fnmatchcase(n, f"{p}/*") for n in names] for p in patterns}
        for pattern, hit in hits.items():
            if not any(hit):
                raise ValueError(f"freeze_by_name: {pattern!r} matches none of {', '.join(names)}")
        return jax.tree.unflatten(structure, [any(hit[i] for hit in hits.values()) for i in range(len(names))])

    return freeze_where(inner, frozen)


class ProximalState(NamedTuple):
    """State of `proximal_l1`."""

    steps: Array  # taken so far, int32 []


def proximal_l1(strength: optax.ScalarOrSchedule) -> optax.GradientTransformationExtraArgs:
    """The proximal step of strength x |θ|_1: θ becomes soft_threshold(θ + u, strength), with exact zeros.

    Comes last in a chain, after the learning rate. It computes in float32 at least, and keeps the dtypes. Of complex weights
    the modulus shrinks. Where there is no gradient (None) there is no step.

    Args:
        strength: the threshold of one step, that is learning rate x penalty; or a schedule of it over the step count.

    Raises:
        ValueError: `update` is called without params.

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

    def update(updates, state, params=None, **extra):
        if params is None:
            raise ValueError("proximal_l1 needs the params: pass them to update")
        threshold = strength(state.steps) if callable(strength) else strength

        def shrink(update, param):
            if update is None:
                return None
            dtype = jnp.result_type(update, param)
            start = _wide(param, dtype)
            moved = start + _wide(update, dtype)
            limit = jnp.asarray(threshold, jnp.finfo(moved.dtype).dtype)
            return (jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - limit, 0.0) - start).astype(dtype)

        return jax.tree.map(shrink, updates, params, is_leaf=_is_none), ProximalState(state.steps + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def project_out(eps: float = 1e-12) -> optax.GradientTransformationExtraArgs:
    """Remove from a gradient its component along a second one: u - (<r, u> / (<r, r> + eps)) r.

    With u the gradient of forgetting and r that of the retain loss, a step along the result leaves the retain loss unchanged to
    first order. Inner products run over the whole tree, and conjugate r; if some leaves are real and others complex, they are
    real parts, as in the real space that both span. It computes in float32 at least, and keeps the dtypes of u. A leaf without a
    gradient (None) stays None; one without a reference is not changed.

    Args:
        eps: added to <r, r>, against a vanishing reference; in squared gradient units.

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
        reference = jax.tree.map(lambda u, r: None if u is None else r, updates, reference, is_leaf=_is_none)
        share = tree_dot(reference, updates) / (tree_dot(reference, reference).real + eps)
        if not all(map(jnp.iscomplexobj, jax.tree.leaves(updates))):
            share = share.real

        def remove(u, r):
            return u if u is None or r is None else (_wide(u) - share * _wide(r)).astype(jnp.result_type(u))

        return jax.tree.map(remove, updates, reference, is_leaf=_is_none), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def gaussian_noise(key: Array, deviation: float | Array) -> optax.GradientTransformation:
    """Adds N(0, deviation²) to every entry of every update, drawn anew at each step by one generator for all leaves.

    Args:
        key: of the first step; later ones fold the number of steps in.
        deviation: standard deviation; it may be traced.
    """

    def init(params):
        return jnp.zeros([], jnp.int32)

    def update(updates, state, params=None):
        vector, structured = ravel_pytree(updates)
        return structured(vector + deviation * jax.random.normal(jax.random.fold_in(key, state), vector.shape)), state + 1

    return optax.GradientTransformation(init, update)


def nash_bargain() -> optax.GradientTransformationExtraArgs:
    """Replaces the gradient u by Nash's bargain between it and a `reference` gradient r.

    The bargain is α r + β u, with G (α, β) = (1 / α, 1 / β) for the Gram matrix G of r and u (arXiv 2202.01017): both lose alike.
    Of two gradients it is (r / |r| + u / |u|) / sqrt(1 + cos(r, u)). Exactly opposed ones have no bargain: the update is 0; so
    it is where one of them is 0.
    """

    def init(params):
        return optax.EmptyState()

    def update(updates, state, params=None, *, reference, **extra):
        norms = optax.tree.norm(reference), optax.tree.norm(updates)
        known = (norms[0] > 0) & (norms[1] > 0)
        r, u = (
            jax.tree.map(lambda leaf, n=n: leaf / jnp.where(known, n, 1.0), g)
            for g, n in zip((reference, updates), norms, strict=True)
        )
        agreement = 1 + tree_dot(r, u)
        share = jnp.where(known & (agreement > 1e-6), 1 / jnp.sqrt(jnp.maximum(agreement, 1e-6)), 0.0)
        return jax.tree.map(lambda one, other: share * (one + other), r, u), state

    return optax.GradientTransformationExtraArgs(init, update)


def alternate(*inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Several optimisers that take turns, each with a state of its own.

    The update's extra argument `choice` says whose turn it is, from 0. The others' momentum and step counts stand still. Where
    `choice` is not batched, only one of them is computed.

    Args:
        inner: an optax chain for each choice.

    Raises:
        ValueError: no optimiser, or a `choice` out of range. A traced one is clamped to the range instead, as by
            `jax.lax.switch`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> params = {"w": jnp.zeros(1)}
        >>> optimiser = alternate(optax.sgd(1.0), optax.sgd(0.1))
        >>> updates, _ = optimiser.update({"w": jnp.ones(1)}, optimiser.init(params), params, choice=1)
        >>> round(float(updates["w"][0]), 3)
        -0.1
    """
    if not inner:
        raise ValueError("alternate: give at least one optimiser")
    members = [optax.with_extra_args_support(transform) for transform in inner]

    def update(updates, state, params=None, *, choice, **extra):
        if not isinstance(choice, jax.core.Tracer) and not 0 <= choice < len(members):
            raise ValueError(f"alternate: choice {choice} is not one of 0 to {len(members) - 1}")

        def turn(index, updates, state):
            updates, own_state = members[index].update(updates, state[index], params, choice=choice, **extra)
            return updates, (*state[:index], own_state, *state[index + 1 :])

        return jax.lax.switch(choice, [functools.partial(turn, index) for index in range(len(members))], updates, state)

    return optax.GradientTransformationExtraArgs(lambda params: tuple(member.init(params) for member in members), update)


def tree_dot(a: Any, b: Any) -> Inexact[Array, ""]:
    """The inner product of two trees of the same structure, `a` conjugated, in float32 at least. None counts for nothing."""

    def dot(x, y):
        return None if x is None or y is None else jnp.vdot(_wide(x), _wide(y))

    return sum(jax.tree.leaves(jax.tree.map(dot, a, b, is_leaf=_is_none)), start=jnp.zeros([], jnp.float32))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Place:
    """Marks a leaf of the params that has a mask. A node without leaves, it shows where a state has its part of that leaf."""

    leaf: int


class _Parts:
    """The frozen parts of a tree, and the matching parts of an optimiser's state."""

    def __init__(self, frozen: Any, like: Any):
        """Resolve `frozen` (see `freeze_where`) for the tree `like`."""
        given = jax.tree.leaves(frozen)
        if given and all(map(callable, given)):
            frozen = frozen(like)
        try:
            masks = jax.tree.leaves(jax.tree.broadcast(frozen, like))
        except ValueError:
            raise ValueError("freeze_where: the mask's structure is neither that of the params nor a prefix of it") from None

        paths, structure = jax.tree_util.tree_flatten_with_path(like)
        self.like = like
        self.masks: dict[int, Array] = {}  # the jax arrays among them
        places: list[Any] = []  # for each leaf: nothing where it is frozen, a place where it has a mask, itself where it is free
        for index, (mask, (path, leaf)) in enumerate(zip(masks, paths, strict=True)):
            shape = np.shape(leaf)
            if not (isinstance(mask, bool) or getattr(mask, "dtype", None) == np.bool_):
                raise ValueError(
                    f"freeze_where: the mask of {_name(path)!r} is {getattr(mask, 'dtype', repr(mask))}, not boolean"
                )
            if not _broadcasts(np.shape(mask), shape):
                raise ValueError(f"freeze_where: the mask of {_name(path)!r} has shape {np.shape(mask)}, the leaf {shape}")
            if not isinstance(mask, jax.Array) and np.all(mask) == np.any(mask):
                places.append(optax.MaskedNode() if np.any(mask) else leaf)
            else:
                self.masks[index] = jnp.asarray(mask)
                places.append(_Place(index))
        self.places = jax.tree.unflatten(structure, places)
        self.names = [_name(path) for path, _ in paths]
        self.shapes = [np.shape(leaf) for _, leaf in paths]
        self.all_frozen = bool(places) and all(isinstance(place, optax.MaskedNode) for place in places)

    def places_in_state(self, inner: optax.GradientTransformation) -> Any:
        """The places in the state of `inner`."""
        try:
            return jax.eval_shape(inner.init, self.places)
        except Exception as error:
            if not self.masks:
                raise
            raise ValueError(
                "freeze_where: the optimiser keeps its state in another form than the params (as optax.flatten does) or reads "
                "their values: freeze whole leaves, by plain booleans"
            ) from error

    def check(self, places: Any, state: Any) -> None:
        """Raise ValueError for an elementwise mask where the state is neither copies of the leaf nor one number for it."""

        def check_place(place, part):
            if isinstance(place, _Place) and self.masks[place.leaf].ndim:
                shape = self.shapes[place.leaf]
                for part_shape in map(np.shape, jax.tree.leaves(part)):
                    if part_shape and part_shape[-len(shape) :] != shape:
                        raise ValueError(
                            f"freeze_where: the mask of {self.names[place.leaf]!r} is elementwise, but the optimiser's state for "
                            f"its {shape} values is {part_shape}: freeze whole leaves, or take another optimiser"
                        )

        jax.tree.map(check_place, places, state, is_leaf=_is_place)

    def choose(self, places: Any, frozen: Any, free: Any) -> Any:
        """Takes the frozen parts from one tree or state, the free parts from another."""

        def choose_place(place, frozen, free):
            if isinstance(place, optax.MaskedNode):
                return frozen
            if not isinstance(place, _Place) or free is None:
                return free
            mask = self.masks[place.leaf]
            return jax.tree.map(lambda a, b: jnp.where(mask if jnp.ndim(a) else mask.all(), a, b), frozen, free)

        return jax.tree.map(choose_place, places, frozen, free, is_leaf=_is_place)

    def hide(self, tree: Any) -> Any:
        """The tree without its frozen leaves, and with zeros where a mask freezes."""

        def hide_place(place, leaf):
            if isinstance(place, optax.MaskedNode):
                return place
            if not isinstance(place, _Place) or leaf is None:
                return leaf
            return jnp.where(self.masks[place.leaf], jnp.zeros_like(leaf), leaf)

        return jax.tree.map(hide_place, self.places, tree, is_leaf=_is_place)

    def hide_extra(self, value: Any) -> Any:
        """The same for an extra argument: a tree like the params, or a function of them; anything else stays as it is."""
        if callable(value):

            @functools.wraps(value)
            def on_hidden(tree, *args, **named):
                hidden = _same_structure(tree, self.hide(self.like))
                whole = self.choose(self.places, self.like, tree) if hidden else tree
                return self.hide_extra(value(whole, *args, **named))

            return on_hidden
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(value)]
        if _same_structure(value, self.like) and shapes == self.shapes != [()]:  # a lone number may be any other number, too
            return self.hide(value)
        return value


def _is_place(node: Any) -> bool:
    return isinstance(node, _Place | optax.MaskedNode)


def _same_structure(one: Any, other: Any) -> bool:
    return bool(jax.tree.structure(one) == jax.tree.structure(other))  # type: ignore[operator]


def _is_none(node: Any) -> bool:
    return node is None


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(size in (1, full) for size, full in zip(shape[::-1], to[::-1], strict=False))


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _wide(leaf: Any, dtype: Any = None) -> Array:
    """In float32 at least (complex64 where it is complex)."""
    return jnp.asarray(leaf, jnp.promote_types(dtype or jnp.result_type(leaf), jnp.float32))
