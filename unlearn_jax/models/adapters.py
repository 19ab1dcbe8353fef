"""Other people's networks as models: from a Flax linen module, or from two pure functions."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.errors import InvalidRngError
from jax.interpreters import partial_eval
from jaxtyping import Array

from unlearn_jax.models.parts import parts_of
from unlearn_jax.models.paths import arrays
from unlearn_jax.types import Dense, Key, Model, Variables

COLLECTIONS = ("params", "batch_stats")


def from_linen(module: nn.Module, example: Any, train: str | None = "train") -> Model:
    """A Flax linen module as a model, with the module's own initialisation.

    What normalises, what convolves, and what the linear head is follows from the types of the module's submodules; a fact that
    does not follow is left open, and methods that need it are left out with that reason.

    Args:
        module: called as `module(inputs[batch, ...], train=...)`, gives logits `[batch, classes]`.
        example: inputs that it takes, `[1, ...]`.
        train: the name of the argument that is true in training; None if the module has none.

    Raises:
        ValueError: the module cannot be called so, draws random numbers in training (dropout: not supported yet), or keeps other
            state than running statistics of BatchNorm.
    """
    example = jax.ShapeDtypeStruct((1, *np.shape(example)[1:]), np.float32)
    modes: dict[bool, dict[str, Any]] = {mode: {} if train is None else {train: mode} for mode in (True, False)}
    key = jax.eval_shape(jax.random.key, 0)
    try:
        collections = jax.eval_shape(lambda key, x: module.init(key, x, **modes[False]), key, example)
        mutable = ["batch_stats"] if "batch_stats" in collections else False
        logits = jax.eval_shape(lambda c, x: module.apply(c, x, **modes[True], mutable=mutable), collections, example)
    except InvalidRngError as error:
        raise ValueError(f"module: draws random numbers in training, which is not supported yet ({_first(error)})") from error
    except Exception as error:  # a module can fail in any way
        raise ValueError(f"module: cannot be called on inputs {example.shape} ({_first(error)})") from error
    if other := set(collections) - set(COLLECTIONS):
        raise ValueError(f"module: keeps {', '.join(sorted(other))}, expected nothing but params and batch_stats")
    logits = logits[0] if mutable else logits
    if getattr(logits, "ndim", None) != 2:
        raise ValueError(f"module: gives {getattr(logits, 'shape', type(logits).__name__)}, expected logits [batch, classes]")
    parts = parts_of(module, example.shape, modes[False])
    head = parts.head.kernel.removesuffix("/kernel") if parts.head else None

    def init(key: Key, inputs: Array) -> Variables:
        collections = module.init(key, inputs, **modes[False])
        return Variables(collections["params"], collections.get("batch_stats", {}))

    @functools.partial(jax.jit, static_argnames="train")  # traced once for all the programs that it becomes part of
    def apply(variables: Variables, inputs: Array, train: bool = False) -> tuple[Any, Any]:
        collections = {"params": variables.params, "batch_stats": variables.statistics}
        if not train or not mutable:
            return module.apply(collections, inputs, **modes[train]), variables.statistics
        logits, changed = module.apply(collections, inputs, **modes[True], mutable=mutable)
        return logits, changed["batch_stats"]

    @jax.jit
    def features(variables: Variables, inputs: Array) -> Array:
        read: list[Array] = []

        def watch(function, arguments, keywords, context):
            if "/".join(context.module.path) == head and context.method_name == "__call__":
                read.append(arguments[0])
            return function(*arguments, **keywords)

        collections = {"params": variables.params, "batch_stats": variables.statistics}
        with nn.intercept_methods(watch):
            module.apply(collections, inputs, **modes[False])
        return read[-1]

    names = list(dict.fromkeys(path.partition("/")[0] for path in parts.order))
    blocks = tuple((name,) for name in names) if head in names[-1:] else ()  # a head that is no group of its own ends no list
    facts = parts.norms, parts.convolutions, parts.dense, parts.head
    return Model(init, apply, blocks, features if head is not None else None, None, None, *facts)


def from_functions(
    init: Callable[[Key, Array], tuple[Any, Any]],
    apply: Callable[[Any, Any, Key, Array, bool], tuple[Array, Any]],
    *,
    example: Any,
    features: Callable[[Any, Any, Array], Array] | None = None,
    head: Dense | None = None,
    norms: tuple[str, ...] | None = None,
) -> Model:
    """Two pure functions as a model; the order of the arguments is that of Keras's `JaxLayer`.

    Args:
        init: `(key, inputs[1, ...]) -> (params, state)`: nested dicts of floating-point arrays; state is {} if there is none.
        apply: `(params, state, key, inputs[batch, ...], train) -> (logits[batch, classes], state)`.
        example: inputs that they take, `[1, ...]`.
        features: `(params, state, inputs) -> [batch, features]`, what a linear head reads, where you can tell.
        head: the arrays of that head, by their paths.
        norms: the groups of params that belong to a normalisation, by their paths; () if there are none.

    Raises:
        ValueError: a function cannot be called so, uses its key in training (not supported yet), or gives something else.
    """
    example = jax.ShapeDtypeStruct((1, *np.shape(example)[1:]), np.float32)
    key = jax.eval_shape(jax.random.key, 0)
    params, state = _called("init", init, key, example, parts=2)
    for name, tree in (("params", params), ("state", state)):
        if not isinstance(tree, Mapping) or any(leaf.dtype.kind != "f" for leaf in jax.tree.leaves(tree)):
            raise ValueError(f"init: {name} are no dict of floating-point arrays")
    for train in (True, False):
        bound = functools.partial(_at, apply, train)
        logits, changed = _called("apply", bound, params, state, key, example, parts=2)
        if getattr(logits, "ndim", None) != 2:
            raise ValueError(f"apply: gives {getattr(logits, 'shape', type(logits).__name__)}, expected logits [batch, classes]")
        if jax.tree.structure(changed) != jax.tree.structure(state):  # type: ignore[operator]
            raise ValueError("apply: gives a state of another structure than init's")
        if _uses(bound, 2, params, state, key, example):
            mode = "training" if train else "evaluation"
            raise ValueError(f"apply: uses its key in {mode}, and models with randomness are not supported yet")
    for path in (*(norms or ()), *(path for path in head or () if path)):
        if not any(name == path or name.startswith(f"{path}/") for name in arrays(dict(params))):
            raise ValueError(f"{'head' if head and path in head else 'norms'}: there is no {path} among the params")

    def make(key: Key, inputs: Array) -> Variables:
        return Variables(*init(key, inputs))

    @functools.partial(jax.jit, static_argnames="train")
    def run(variables: Variables, inputs: Array, train: bool = False) -> tuple[Array, Any]:
        logits, changed = apply(
            variables.params, variables.statistics, jax.random.key(0), inputs, train
        )  # a key that nothing uses
        return logits, changed if train else variables.statistics

    def read(variables: Variables, inputs: Array) -> Array:
        assert features
        return features(variables.params, variables.statistics, inputs)

    return Model(make, run, (), read if features else None, norms=norms, head=head)


def _at(apply: Callable[..., Any], train: bool, params: Any, state: Any, key: Key, inputs: Array) -> Any:
    return apply(params, state, key, inputs, train)


def _called(name: str, function: Callable[..., Any], *arguments: Any, parts: int) -> Any:
    """The shapes that a function gives: a tuple of so many parts."""
    try:
        given = jax.eval_shape(function, *arguments)
    except Exception as error:  # it is somebody's, and can fail in any way
        raise ValueError(f"{name}: cannot be called ({_first(error)})") from error
    if not isinstance(given, tuple) or len(given) != parts:
        raise ValueError(f"{name}: gives {type(given).__name__}, expected a tuple of {parts}")
    return given


def _uses(function: Callable[..., Any], argument: int, *arguments: Any) -> bool:
    """Whether what a function gives depends on one of its arguments."""
    closed = jax.make_jaxpr(function)(*arguments)
    leaves = [len(jax.tree.leaves(each)) for each in arguments]
    _, used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return any(used[sum(leaves[:argument]) : sum(leaves[: argument + 1])])


def _first(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
