"""A Flax linen module as a model."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from flax.errors import InvalidRngError
from jaxtyping import Array

from unlearn_jax.models.adapters.checks import abstract, first_line, require_logits, require_sound
from unlearn_jax.models.adapters.functions import refuse_counted
from unlearn_jax.models.parts import parts_of
from unlearn_jax.types import Key, Model, Variables

COLLECTIONS = ("params", "batch_stats")


def from_linen(module: nn.Module, example: Any, train: str | None = "train") -> Model:
    """A Flax linen module as a model, with the module's own initialisation.

    What normalises, what convolves, and what the linear head is follows from the types of the module's submodules; a fact that
    does not follow is left open, and methods that need it are left out with that reason. In training every stream of random
    numbers (dropout and others) follows from the key of `Model.apply`.

    Args:
        module: called as `module(inputs[batch, ...], train=...)`, gives logits `[batch, classes]`.
        example: inputs that it takes, `[1, ...]`.
        train: the name of the argument that is true in training; None if the module has none.

    Raises:
        ValueError: the module cannot be called so, draws random numbers in evaluation, keeps other state than running statistics
            of BatchNorm, gives probabilities, or depends on the batch in evaluation.
    """
    example = abstract(example)
    modes: dict[bool, dict[str, Any]] = {mode: {} if train is None else {train: mode} for mode in (True, False)}
    key = jax.eval_shape(jax.random.key, 0)
    random = False
    try:
        collections = jax.eval_shape(lambda key, x: module.init(key, x, **modes[False]), key, example)
        mutable = ["batch_stats"] if "batch_stats" in collections else False
        jax.eval_shape(lambda c, x: module.apply(c, x, **modes[False]), collections, example)
        call: Callable[..., Any] = functools.partial(module.apply, mutable=mutable, **modes[True])
        try:
            logits = jax.eval_shape(call, collections, example)
        except InvalidRngError:
            random = True
            logits = jax.eval_shape(lambda c, x, key: call(c, x, rngs=key), collections, example, key)
    except InvalidRngError as error:
        raise ValueError(
            f"module: draws random numbers in evaluation, expected only in training ({first_line(error)})"
        ) from error
    except Exception as error:  # a module can fail in any way
        raise ValueError(f"module: cannot be called on inputs {example.shape} ({first_line(error)})") from error
    if other := set(collections) - set(COLLECTIONS):
        raise ValueError(f"module: keeps {', '.join(sorted(other))}, expected nothing but params and batch_stats")
    require_logits("module", logits[0] if mutable else logits)
    parts = parts_of(module, example.shape, modes[False])
    head = parts.head.kernel.removesuffix("/kernel") if parts.head else None

    def init(key: Key, inputs: Array) -> Variables:
        collections = module.init(key, inputs, **modes[False])
        return Variables(collections["params"], collections.get("batch_stats", {}))

    @functools.partial(jax.jit, static_argnames="train")  # traced once for all the programs that it becomes part of
    def apply(variables: Variables, inputs: Array, train: bool = False, key: Key | None = None, **counted) -> tuple[Any, Any]:
        refuse_counted(counted)
        collections = {"params": variables.params, "batch_stats": variables.statistics}
        if not train:
            return module.apply(collections, inputs, **modes[False]), variables.statistics
        given = call(collections, inputs, rngs=key if random else None)
        return (given[0], given[1]["batch_stats"]) if mutable else (given, variables.statistics)

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
    model = Model(init, apply, blocks, features if head is not None else None, None, None, *facts, random=random)
    require_sound("module", model, example.shape[1:])
    return model
