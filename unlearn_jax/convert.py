"""Weights to and from PyTorch: the project's ResNets by torchvision's names, any other model by a map of names.

`padding="torch"` of `build` is needed for equal logits: a convolution of stride 2 that PyTorch pads by one pixel on both sides
reads other pixels than Flax's. What does not change the logits, but further training: torch's BatchNorm averages the unbiased
variances of its batches, Flax's the biased ones (momentum 0.1 there and 0.9 here are the same share, and both add 1e-5 to the
variance). Flax's GroupNorm adds 1e-6, torch's 1e-5 unless it is given `eps=1e-6`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unlearn_jax.checkpoints import SUFFIX, misfit, read_arrays, shapes_of
from unlearn_jax.models.paths import arrays
from unlearn_jax.models.resnet import padding_of
from unlearn_jax.types import Model, Variables

COUNTER = "num_batches_tracked"  # of torch's BatchNorm; nothing here counts batches
BLOCK = re.compile(r"stage(\d+)_block(\d+)")
LAYERS = {"conv1": "conv1", "norm1": "bn1", "conv2": "conv2", "norm2": "bn2", "shortcut": "downsample.0"}
LAYERS["shortcut_norm"] = "downsample.1"
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
ENDS = {"stem": "conv1", "stem_norm": "bn1", "head": "fc"}


def from_torch(
    state_dict: Mapping[str, Any] | str | Path,
    model: Model,
    *,
    names: Mapping[str, str] | None = None,
    example: Any = None,
) -> Variables:
    """The variables of a model from a PyTorch state dict.

    Kernels of convolutions are transposed from OIHW to HWIO, those of dense layers from `[out, in]` to `[in, out]`; which arrays
    these are, the model says (`Model.convolutions`, `Model.dense`).

    Args:
        state_dict: tensors, or any arrays, by torch's names; or a .safetensors file of them.
        model: whose variables they become; for torch's logits a ResNet is built with `padding="torch"`.
        names: torch's name -> ours, `params/...` or `statistics/...` as in a .safetensors file; by default, of the project's
            ResNets, torchvision's (`conv1`, `bn1`, `layer1.0.conv1`, ..., `fc`).
        example: inputs that the model takes, `[1, ...]`; a ResNet's follow from the state dict.

    Returns:
        NumPy arrays.

    Raises:
        ValueError: a ResNet that pads otherwise than torch; or the state dict does not fit: the message has the first name that
            does not, and nothing is loaded in part.
    """
    if padding_of(model) == "same":
        raise ValueError("model: built with padding 'same', and torch pads otherwise; build it with padding='torch'")
    given = _state(state_dict)
    shapes = _shapes(model, example, given.get("conv1.weight"))
    like = arrays(shapes._asdict())
    names = _resnet_names(like) if names is None else names
    _require_names(names, like)
    if missing := next((name for name in names if name not in given), None):
        raise ValueError(f"state_dict: {missing} is missing, which is {names[missing]} here")
    if unknown := next((name for name in given if name not in names), None):
        raise ValueError(f"state_dict: {unknown} has no place in the model")
    found = {}
    for name, path in names.items():
        order = _order(path, model, like[path])
        if given[name].ndim != len(order):
            raise ValueError(f"state_dict: {name} is {given[name].shape}, and {path} has {len(order)} axes here")
        array = np.ascontiguousarray(given[name].transpose(order)) if order else given[name]
        if wrong := misfit({path: array}, {path: like[path]}):
            raise ValueError(f"state_dict: {name} does not fit: {wrong}")
        found[path] = array
    return jax.tree.unflatten(jax.tree.structure(shapes), [found[path] for path in like])


def to_torch(variables: Variables, model: Model, *, names: Mapping[str, str] | None = None) -> dict[str, np.ndarray]:
    """A PyTorch state dict from the variables of a model, the inverse of `from_torch`.

    `{name: torch.tensor(array) for name, array in to_torch(variables, model).items()}` is what `load_state_dict` takes, and
    `safetensors.numpy.save_file` writes it. BatchNorm's counters of batches are zero.

    Args:
        variables: of one model.
        model: that they belong to.
        names: as in `from_torch`.

    Raises:
        ValueError: names that do not fit the variables, or a layout that the model does not declare.
    """
    given = {path: np.asarray(leaf) for path, leaf in arrays(variables._asdict()).items()}
    names = _resnet_names(given) if names is None else names
    _require_names(names, given)
    found = {}
    for name, path in names.items():
        order = np.argsort(_order(path, model, given[path])).tolist()
        found[name] = np.ascontiguousarray(given[path].transpose(order)) if order else given[path]
        if name.endswith(".running_var"):
            found[name.replace("running_var", COUNTER)] = np.zeros((), np.int64)
    return found


def _state(state_dict: Mapping[str, Any] | str | Path) -> dict[str, np.ndarray]:
    """The arrays of a state dict by their names, without the counters of batches."""
    if isinstance(state_dict, str | Path):
        if Path(state_dict).suffix != SUFFIX:
            other = "a pickle is never loaded; save_file of safetensors.torch writes the other"
            raise ValueError(f"state_dict: {state_dict} is no {SUFFIX} file, and {other}")
        state_dict = read_arrays(Path(state_dict), "state_dict")[0]
    given = {}
    for name, tensor in state_dict.items():
        if name.rpartition(".")[2] != COUNTER:
            try:
                given[name] = np.asarray(tensor.detach().cpu() if hasattr(tensor, "detach") else tensor).copy()
            except Exception as error:  # a type that NumPy lacks, or anything
                raise ValueError(f"state_dict: {name} is no array ({str(error).splitlines()[0]})") from error
    return given


def _shapes(model: Model, example: Any, stem: np.ndarray | None) -> Variables:
    """The shapes of a model's variables; without an example, of images with as many channels as torch's first kernel takes."""
    if example is not None:
        return shapes_of(model, np.shape(example)[1:])
    if stem is None or stem.ndim != 4:
        raise ValueError("example: needed for a model without conv1.weight, from whose shape a ResNet's channels follow")
    return shapes_of(model, (32, 32, stem.shape[1]))


def _order(path: str, model: Model, leaf: Any) -> tuple[int, ...]:
    """The axes of torch's array in the order of ours."""
    kind, _, inner = path.partition("/")
    dense = [layer.kernel for layer in (*(model.dense or ()), *([model.head] if model.head else []))]
    if kind == "params" and inner in (model.convolutions or ()):
        return (2, 3, 1, 0)
    if kind == "params" and inner in dense:
        return (1, 0)
    if len(leaf.shape) > 1 and None in (model.convolutions, model.dense):
        raise ValueError(
            f"model: whether {inner} is a kernel is not declared; model._replace(convolutions=..., dense=...) says so"
        )
    return tuple(range(len(leaf.shape)))


def _require_names(names: Mapping[str, str], like: Mapping[str, Any]) -> None:
    """Raises a ValueError unless every array of the model has one name."""
    wrong = next((f"{name} is {path}, which is no array of the model" for name, path in names.items() if path not in like), None)
    twice = next((f"{path} stands twice" for path in like if list(names.values()).count(path) > 1), None)
    absent = next((f"none is {path}" for path in like if path not in names.values()), None)
    if problem := wrong or twice or absent:
        raise ValueError(f"names: {problem}")


def _resnet_names(like: Mapping[str, Any]) -> dict[str, str]:
    """The name in torchvision of each array of one of the project's ResNets."""
    names = {}
    for path in like:
        parts = path.split("/")
        layer, block = ENDS.get(parts[1]), BLOCK.fullmatch(parts[1])
        if block and parts[2] in LAYERS:
            layer = f"layer{block[1]}.{int(block[2]) - 1}.{LAYERS[parts[2]]}"
        if layer is None or parts[-1] not in LEAVES:
            raise ValueError(f"names: needed for this model, whose {path} is of none of the project's ResNets")
        names[f"{layer}.{LEAVES[parts[-1]]}"] = path
    return names
