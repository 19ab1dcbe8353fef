"""A Flax NNX module as a model."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from unlearn_jax.models.adapters.checks import (
    abstract,
    draws_in_training,
    first_line,
    require_sound,
    with_facts,
)
from unlearn_jax.models.adapters.functions import refuse_counted
from unlearn_jax.models.paths import arrays, nested
from unlearn_jax.types import Dense, Key, Model, Variables

NORMS = (nnx.BatchNorm, nnx.GroupNorm, nnx.InstanceNorm, nnx.LayerNorm, nnx.RMSNorm)
OTHERS = (nnx.Dropout, nnx.Embed)  # known to have none of these roles
CHANGING = (nnx.SpectralNorm, nnx.WeightNorm)  # the layer inside computes with a changed kernel


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module], example: Any) -> Model:
    """A Flax NNX module as a model, with the module's own initialisation.

    Its `nnx.Param`s are the params. All other variables but random streams (running means, counters) are the statistics; what
    is no floating-point number among them is kept as it is, never averaged. Random streams are begun anew from the key of
    `Model.apply` in every call. What normalises, what convolves, and what the linear head is follows from the types of the
    submodules; a fact that does not follow is left open, and methods that need it are left out with that reason.

    Args:
        make: `make(rngs) -> module`, called as `module(inputs[batch, ...])`, gives logits `[batch, classes]`; `module.train()`
            and `module.eval()` switch its modes.
        example: inputs that it takes, `[1, ...]`.

    Raises:
        ValueError: the module cannot be made or called so, draws random numbers in evaluation, gives probabilities, or depends
            on the batch in evaluation.
    """
    example = abstract(example)
    key = jax.eval_shape(jax.random.key, 0)
    try:
        template = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
        modules = [(path, part) for path, part in nnx.iter_graph(template) if isinstance(part, nnx.Module)]
        graph, state = nnx.split(template)
    except Exception as error:  # it is somebody's, and can fail in any way
        raise ValueError(f"make: gives no NNX module ({first_line(error)})") from error
    kept = list(nnx.to_flat_state(state))

    def module_of(variables: Variables, train: bool, key: Key | None) -> nnx.Module:
        module = nnx.merge(graph, nnx.from_flat_state(_filled(kept, variables, jax.random.key(0) if key is None else key)))
        (module.train if train else module.eval)()
        return module

    def init(key: Key, inputs: Array) -> Variables:
        return variables_in(make(nnx.Rngs(key)))

    @functools.partial(jax.jit, static_argnames="train")
    def apply(variables: Variables, inputs: Array, train: bool = False, key: Key | None = None, **counted) -> tuple[Any, Any]:
        refuse_counted(counted)
        module = module_of(variables, train, key)
        logits = module(inputs)  # type: ignore[operator]
        return logits, variables_in(module).statistics if train else variables.statistics

    variables = jax.eval_shape(init, key, example)
    model = Model(init, apply, (), random=draws_in_training(apply, variables, example, key))
    require_sound("module", model, example.shape[1:])

    shapes = arrays(variables.params)
    types = {_named(path): part for path, part in modules}
    owners = {types[path.rpartition("/")[0]] for path in shapes}
    known = all(isinstance(owner, (*NORMS, *OTHERS, nnx.Linear, nnx.Conv)) for owner in owners)
    if not known or any(isinstance(part, CHANGING) for part in types.values()):
        return model
    biased = {path: f"{path}/bias" if f"{path}/bias" in shapes else None for path in types}
    dense = [Dense(f"{path}/kernel", biased[path]) for path, part in types.items() if isinstance(part, nnx.Linear)]
    kernels = [f"{path}/kernel" for path, part in types.items() if isinstance(part, nnx.Conv)]
    return with_facts(
        model._replace(
            norms=tuple(path for path, part in types.items() if isinstance(part, NORMS)),
            convolutions=tuple(path for path in kernels if len(shapes[path].shape) == 4),
            dense=tuple(dense),
        ),
        example.shape[1:],
    )


def variables_in(module: nnx.Module) -> Variables:
    """The variables of an NNX module, such as one that was trained elsewhere, in the form of `from_nnx`."""
    parts: tuple[dict[str, Array], dict[str, Array]] = ({}, {})
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        if not isinstance(variable, nnx.RngState | nnx.Intermediate):
            parts[not isinstance(variable, nnx.Param)][_named(path)] = variable.get_value()
    return Variables(nested(parts[0]), nested(parts[1]))


def to_nnx(make: Callable[[nnx.Rngs], nnx.Module], variables: Variables) -> nnx.Module:
    """The NNX module that holds some variables; its random streams begin anew.

    Args:
        make: see `from_nnx`.
        variables: of its model, such as `unlearn` gives.
    """
    graph, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    return nnx.merge(graph, nnx.from_flat_state(_filled(nnx.to_flat_state(state), variables, jax.random.key(0))))


def _filled(kept: Any, variables: Variables, key: Key) -> list[tuple[tuple[Any, ...], Any]]:
    """A flat state with the arrays of the variables, and random streams that begin with a key."""
    own = {**arrays(variables.params), **arrays(variables.statistics)}
    filled = []
    for number, (path, variable) in enumerate(kept):
        if isinstance(variable, nnx.RngKey):
            value = jax.random.fold_in(key, number)
        elif isinstance(variable, nnx.RngState):
            value = jnp.zeros(variable.get_value().shape, variable.get_value().dtype)
        else:
            value = own[_named(path)]
        filled.append((path, variable.replace(value)))
    return filled


def _named(path: tuple[Any, ...]) -> str:
    """The items of a list are groups of their own: `layers_0/kernel`."""
    return "".join(f"_{step}" if isinstance(step, int) else f"/{step}" for step in path).lstrip("/")
