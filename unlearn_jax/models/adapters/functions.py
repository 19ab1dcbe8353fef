"""Two pure functions as a model."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import Array

from unlearn_jax.models.adapters.checks import abstract, blocks_of, is_head, require_logits, require_sound, shapes_of, uses
from unlearn_jax.models.paths import arrays
from unlearn_jax.types import Dense, Key, Model, Variables


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
        init: `(key, inputs[1, ...]) -> (params, state)`: nested dicts of arrays, those of params floating-point; state is {} if
            there is none. Integers in it (counters) are kept as they are, never averaged.
        apply: `(params, state, key, inputs[batch, ...], train) -> (logits[batch, classes], state)`. It may use its key (dropout)
            and change its state only if `train`.
        example: inputs that they take, `[1, ...]`.
        features: `(params, state, inputs) -> [batch, features]`, what a linear head reads, where you can tell.
        head: the arrays of that head, by their paths.
        norms: the groups of params that belong to a normalisation, by their paths; () if there are none.

    Raises:
        ValueError: a function cannot be called so, gives something else, or does in evaluation what only training may do; a fact
            is not true.
    """
    example = abstract(example)
    key = jax.eval_shape(jax.random.key, 0)
    params, state = shapes_of("init", init, key, example, parts=2)
    for name, tree, kinds in (("params", params, "f"), ("state", state, "fiub")):
        if not isinstance(tree, Mapping) or any(leaf.dtype.kind not in kinds for leaf in jax.tree.leaves(tree)):
            raise ValueError(f"init: {name} are no dict of {'floating-point' if kinds == 'f' else 'numeric'} arrays")
    bound = {train: functools.partial(_at, apply, train) for train in (True, False)}
    for function in bound.values():
        logits, changed = shapes_of("apply", function, params, state, key, example, parts=2)
        require_logits("apply", logits)
        if jax.tree.structure(changed) != jax.tree.structure(state):  # type: ignore[operator]
            raise ValueError("apply: gives a state of another structure than init's")
    if uses(bound[False], 2, params, state, key, example):
        raise ValueError("apply: uses its key in evaluation, expected only in training")
    for path in (*(norms or ()), *(path for path in head or () if path)):
        if not any(name == path or name.startswith(f"{path}/") for name in arrays(dict(params))):
            raise ValueError(f"{'head' if head and path in head else 'norms'}: there is no {path} among the params")

    def make(key: Key, inputs: Array) -> Variables:
        return Variables(*init(key, inputs))

    @functools.partial(jax.jit, static_argnames="train")
    def run(variables: Variables, inputs: Array, train: bool = False, key: Key | None = None, **counted) -> tuple[Array, Any]:
        refuse_counted(counted)
        key = jax.random.key(0) if key is None else key  # nothing uses it then
        return apply(variables.params, variables.statistics, key, inputs, train)

    def read(variables: Variables, inputs: Array) -> Array:
        assert features
        return features(variables.params, variables.statistics, inputs)

    random = uses(bound[True], 2, params, state, key, example)
    model = Model(make, run, (), read if features else None, norms=norms, head=head, random=random)
    require_sound("apply", model, example.shape[1:])
    if head and features and not is_head(model, head, example.shape[1:]):
        raise ValueError(f"head: the logits are not features @ {head.kernel}{f' + {head.bias}' if head.bias else ''}")
    return model._replace(blocks=blocks_of(model, example.shape[1:]))


def refuse_counted(counted: dict[str, Any]) -> None:
    """Raises ValueError if normalisation is to leave some rows of a batch out, which only the project's own networks can."""
    if counted:
        raise ValueError("model: its BatchNorm cannot leave examples out of its statistics, which leave-one-out needs")


def _at(apply: Callable[..., Any], train: bool, params: Any, state: Any, key: Key, inputs: Array) -> Any:
    return apply(params, state, key, inputs, train)
