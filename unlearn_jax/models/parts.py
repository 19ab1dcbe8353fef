"""The roles of a Flax network's arrays, from the types of its modules and never from their names."""

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import ScopeParamShapeError

from unlearn_jax.models.convolution import Convolution
from unlearn_jax.models.paths import arrays, at, replaced
from unlearn_jax.types import Dense, Model, Variables

NORMS = (nn.BatchNorm, nn.GroupNorm, nn.InstanceNorm, nn.LayerNorm, nn.RMSNorm)
OTHERS = (nn.ConvLocal, nn.ConvTranspose, nn.DenseGeneral, nn.Einsum, nn.Embed, nn.PReLU)  # known to have none of these roles
CHANGING = (nn.SpectralNorm, nn.WeightNorm)  # the layer inside computes with a changed kernel


class Parts(NamedTuple):
    """The roles of a network's arrays. The first four fields are those of `Model`.

    They are None where an array belongs to a module of an unknown type, or a kernel has more axes than its layer gave it (a
    lifted transform has stacked it). `kernels` are those of all dense layers and convolutions, whatever else there is; `order`
    lists the modules that have arrays, by the end of their first call.
    """

    norms: tuple[str, ...] | None
    convolutions: tuple[str, ...] | None
    dense: tuple[Dense, ...] | None
    head: Dense | None
    kernels: tuple[str, ...]
    order: tuple[str, ...]


def parts_of(network: nn.Module, shape: Sequence[int], mode: Mapping[str, Any] = MappingProxyType({"train": False})) -> Parts:
    """Records which modules are called, and in which order, while shapes are inferred; no weights are computed.

    Args:
        network: called as `network(images, **mode)`.
        shape: of an input batch.
        mode: arguments for a call outside training.
    """
    called: dict[str, tuple[nn.Module, Any]] = {}  # each module, and its output

    def watch(function, arguments, keywords, context):
        result = function(*arguments, **keywords)
        if context.method_name == "__call__":
            called["/".join(context.module.path)] = context.module, result
        return result

    def init(key, images):
        with nn.intercept_methods(watch):
            return network.init(key, images, **mode)["params"]

    key, images = jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
    params = arrays(jax.eval_shape(init, key, images))
    layers = {path: module for path, (module, _) in called.items() if _axes(module) and f"{path}/kernel" in params}
    kernels = tuple(f"{path}/kernel" for path in layers)
    owners = {path: _owner(path, called) for path in params}
    order = tuple(path for path in called if path in owners.values())
    known = all(isinstance(called[owners[path]][0], (*NORMS, *OTHERS, nn.Conv, Convolution, nn.Dense)) for path in params)
    whole = all(params[f"{path}/kernel"].ndim == _axes(layer) for path, layer in layers.items())
    if not known or not whole or any(isinstance(module, CHANGING) for module, _ in called.values()):
        return Parts(None, None, None, None, kernels, order)
    biases = {path: f"{path}/bias" if f"{path}/bias" in params else None for path in layers}
    dense = {path: Dense(f"{path}/kernel", biases[path]) for path, layer in layers.items() if isinstance(layer, nn.Dense)}
    _, outcome = called[""]
    return Parts(
        norms=tuple(path for path, (module, _) in called.items() if isinstance(module, NORMS)),
        convolutions=tuple(f"{path}/kernel" for path, layer in layers.items() if _axes(layer) == 4),
        dense=tuple(dense.values()),
        head=next((layer for path, layer in dense.items() if called[path][1] is outcome), None),
        kernels=kernels,
        order=order,
    )


@functools.lru_cache(maxsize=64)
def widens(model: Model, head: Dense, shape: tuple[int, ...], dtype: Any) -> bool:
    """Whether one more column in the head gives one more output; only shapes are computed.

    A Flax module rejects a kernel of another shape; True then, since its head is known from the module's type.

    Args:
        model: declares the head.
        head: its arrays, with one entry per class on the last axis.
        shape: of an input batch.
        dtype: of the batch.
    """

    def outputs(key, images):
        params, statistics = model.init(key, images)
        parts = {path: at(params, path) for path in head if path}
        wider = {path: jnp.concatenate([part, part[..., :1]], axis=-1) for path, part in parts.items()}
        before = model.apply(Variables(params, statistics), images, train=False)[0]
        return before, model.apply(Variables(replaced(params, wider), statistics), images, train=False)[0]

    key, images = jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct(shape, dtype)
    try:
        before, after = jax.eval_shape(outputs, key, images)
    except ScopeParamShapeError:
        return True
    except (TypeError, ValueError):  # the shapes do not fit, for instance of a kernel stored as [out, in]
        return False
    return after.shape == (*before.shape[:-1], before.shape[-1] + 1)


def _axes(module: nn.Module) -> int:
    """The number of axes of the kernel of a dense layer or a convolution; 0 for every other module."""
    if isinstance(module, nn.Conv):
        return 2 + (1 if isinstance(module.kernel_size, int) else len(module.kernel_size))
    return 2 if isinstance(module, nn.Dense) else 4 if isinstance(module, Convolution) else 0


def _owner(path: str, called: dict[str, Any]) -> str:
    """The innermost module that an array belongs to."""
    while path and path not in called:
        path = path.rpartition("/")[0]
    return path
