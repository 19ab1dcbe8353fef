"""An Equinox module as a model. Equinox is imported only here, and only when it is used."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from unlearn_jax.models.adapters.checks import abstract, draws_in_training, first_line, require_sound, with_facts
from unlearn_jax.models.adapters.functions import refuse_counted
from unlearn_jax.models.paths import arrays, nested
from unlearn_jax.types import Dense, Key, Model, Variables

LINEAR, CONVOLUTION = (1, 0), (2, 3, 1, 0)
"""From Equinox's `[out, in]` and `[out, in, height, width]` to the layout of `Model`."""


def from_equinox(make: Callable[[Key], Any], example: Any) -> Model:
    """An Equinox module as a model, with the module's own initialisation.

    Its floating-point arrays are the params; the weights of `Linear` and `Conv2d` are kept as `kernel`, in the layout of `Model`.
    Its other arrays and its state are the statistics; what is no floating-point number among them is kept as it is. What
    normalises, what convolves, and what the linear head is follows from the types of the submodules; a fact that does not
    follow is left open, and methods that need it are left out with that reason.

    Args:
        make: `make(key) -> module`, or `(module, state)` as `equinox.nn.make_with_state` gives them. The module is called for
            *one* example, as `module(x)` or `module(x, state)`, with `key=` if it takes one; examples are batched here by
            `jax.vmap(..., axis_name="batch")`. `equinox.nn.inference_mode` switches its modes.
        example: inputs that it takes, `[1, ...]`.

    Raises:
        ValueError: Equinox is not installed; the module cannot be made or called so, draws random numbers in evaluation, or
            gives probabilities.
    """
    try:
        import equinox
    except ImportError as error:
        raise ValueError("make: Equinox is not installed; pip install equinox") from error
    example = abstract(example)
    key = jax.eval_shape(jax.random.key, 0)
    try:
        template = equinox.filter_eval_shape(make, key)
        stateful = isinstance(template, tuple)
        module, state = template if stateful else (template, None)
        takes_key = "key" in inspect.signature(module.__call__).parameters
    except Exception as error:  # it is somebody's, and can fail in any way
        raise ValueError(f"make: gives no Equinox module ({first_line(error)})") from error

    def module_of(variables: Variables, train: bool) -> tuple[Any, Any]:
        own, held = _filled(variables, module, state)
        return equinox.nn.inference_mode(own, value=not train), held

    def init(key: Key, inputs: Array) -> Variables:
        made = make(key)
        return variables_in(*made) if stateful else variables_in(made)

    @functools.partial(jax.jit, static_argnames="train")
    def apply(variables: Variables, inputs: Array, train: bool = False, key: Key | None = None, **counted) -> tuple[Any, Any]:
        refuse_counted(counted)
        own, before = module_of(variables, train)
        keys = jax.random.split(jax.random.key(0) if key is None else key, len(inputs))

        def one(x: Array, own_key: Key) -> tuple[Any, Any]:
            given = {"key": own_key} if takes_key else {}
            return own(x, before, **given) if stateful else (own(x, **given), None)

        logits, after = jax.vmap(one, axis_name="batch", out_axes=(0, None))(inputs, keys)
        if not train:
            return logits, variables.statistics
        return logits, nested({**arrays(variables.statistics), **_numbered(after)})

    try:
        variables = jax.eval_shape(init, key, example)
    except Exception as error:
        raise ValueError(f"make: cannot be traced with another key ({first_line(error)})") from error
    model = Model(init, apply, (), random=draws_in_training(apply, variables, example, key))
    require_sound("module", model, example.shape[1:])

    nn, shapes, owners, axes = equinox.nn, arrays(variables.params), *_layout(module)
    norms = (nn.BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    of_params = {path: owners[path.rpartition("/")[0]] for path in shapes}
    known = all(isinstance(owner, (*norms, nn.Linear, nn.Conv, nn.Embedding, nn.PReLU)) for owner in of_params.values())
    if not known or any(isinstance(owner, nn.SpectralNorm | nn.WeightNorm) for owner in owners.values()):
        return model
    biases = {path: f"{path}/bias" if f"{path}/bias" in shapes else None for path in axes}
    return with_facts(
        model._replace(
            norms=tuple(dict.fromkeys(path.rpartition("/")[0] for path, owner in of_params.items() if isinstance(owner, norms))),
            convolutions=tuple(f"{path}/kernel" for path, order in axes.items() if order == CONVOLUTION),
            dense=tuple(Dense(f"{path}/kernel", biases[path]) for path, order in axes.items() if order == LINEAR),
        ),
        example.shape[1:],
    )


def variables_in(module: Any, state: Any = None) -> Variables:
    """The variables of an Equinox module, such as one that was trained elsewhere, in the form of `from_equinox`.

    Args:
        module: the module.
        state: its state, if it has one.
    """
    params, fixed = {}, {}
    _, axes = _layout(module)
    for path, leaf in jax.tree_util.tree_flatten_with_path(module)[0]:
        (name, order), role = _stored(_named(path), axes), _role(path, leaf)
        if role == "param":
            params[name] = leaf if order is None else jnp.transpose(leaf, order)
        elif role == "fixed":
            fixed[f"fixed/{name}"] = leaf
    return Variables(nested(params), nested({**fixed, **_numbered(state)}))


def to_equinox(make: Callable[[Key], Any], variables: Variables) -> Any:
    """The Equinox module that holds some variables: `module`, or `(module, state)`, whichever `make` gives.

    Args:
        make: see `from_equinox`.
        variables: of its model, such as `unlearn` gives.
    """
    import equinox

    template = equinox.filter_eval_shape(make, jax.eval_shape(jax.random.key, 0))
    return _filled(variables, *template) if isinstance(template, tuple) else _filled(variables, template, None)[0]


def _filled(variables: Variables, module: Any, state: Any) -> tuple[Any, Any]:
    """A module and a state of the same structure as the given ones, with the arrays of the variables."""
    params, statistics = arrays(variables.params), arrays(variables.statistics)
    layers, structure = jax.tree_util.tree_flatten_with_path(module)
    _, axes = _layout(module)
    leaves = []
    for path, leaf in layers:
        (name, order), role = _stored(_named(path), axes), _role(path, leaf)
        if role == "param":
            leaf = params[name] if order is None else jnp.transpose(params[name], np.argsort(order).tolist())
        elif role == "fixed":
            leaf = statistics[f"fixed/{name}"]
        leaves.append(leaf)
    held = [statistics[name] for name in _numbered(state)]
    return jax.tree.unflatten(structure, leaves), jax.tree.unflatten(jax.tree.structure(state), held)


def _layout(module: Any) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """All modules by their paths, and how the weights of dense layers and convolutions are turned."""
    import equinox

    owners = dict(_owners(module, equinox.Module))
    return owners, {path: order for path, owner in owners.items() if (order := _axes(owner, equinox.nn))}


def _owners(module: Any, kind: type, path: str = "") -> Iterator[tuple[str, Any]]:
    """A module and all modules in it, by their paths."""
    yield path, module
    parts, _ = jax.tree_util.tree_flatten_with_path(module, is_leaf=lambda part: part is not module and isinstance(part, kind))
    for steps, part in parts:
        if isinstance(part, kind):
            yield from _owners(part, kind, f"{path}/{_named(steps)}".lstrip("/"))


def _axes(owner: Any, nn: Any) -> tuple[int, ...] | None:
    """How the weights of a dense layer or a two-dimensional convolution are turned to be a kernel; None for all else."""
    if isinstance(owner, nn.Linear) and owner.weight.ndim == 2:
        return LINEAR
    return CONVOLUTION if isinstance(owner, nn.Conv) and owner.num_spatial_dims == 2 else None


def _stored(path: str, axes: dict[str, tuple[int, ...]]) -> tuple[str, tuple[int, ...] | None]:
    owner, _, name = path.rpartition("/")
    return (f"{owner}/kernel", axes[owner]) if name == "weight" and owner in axes else (path, None)


def _role(path: Any, leaf: Any) -> str:
    kind = getattr(leaf, "dtype", None)
    if kind is None or isinstance(leaf, np.ndarray):
        return "static"
    if jnp.issubdtype(kind, jax.dtypes.prng_key):
        raise ValueError(f"module: holds a random key ({_named(path)}), expected none; it gets one in each call")
    return "param" if jnp.issubdtype(kind, jnp.floating) else "fixed"


def _numbered(state: Any) -> dict[str, Any]:
    """The leaves of a state by names, with the types that training keeps; shapes stay shapes."""
    named = {f"state/{number}": leaf for number, leaf in enumerate(jax.tree.leaves(state))}
    shapes = isinstance(next(iter(named.values()), None), jax.ShapeDtypeStruct)
    return named if shapes else {name: jax.lax.convert_element_type(leaf, leaf.dtype) for name, leaf in named.items()}


def _named(path: Any) -> str:
    """The items of a list are groups of their own: `layers_0/kernel`."""
    parts = [(jax.tree_util.keystr((step,), simple=True), isinstance(step, jax.tree_util.SequenceKey)) for step in path]
    return "".join(f"_{name}" if listed else f"/{name}" for name, listed in parts).lstrip("/")
