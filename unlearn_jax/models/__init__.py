"""What is trained: networks as pure functions."""

import functools
import math
import re
from collections.abc import Callable

import jax

from unlearn_jax.types import Key, Model, Params, Statistics, UsageError, Variables

MODELS = {
    "resnet{6n+2}": "CIFAR ResNet of depth 8, 14, 20, ... (three stages; --width is that of the first), arXiv 1512.03385",
    "resnet18": "ResNet-18 with the CIFAR stem (four stages of two blocks; its usual width is 64), arXiv 1512.03385",
    "mlp": "two relu layers of --width units",
}


@functools.cache
def build(name: str, *, classes: int, width: int = 16, normalisation: str = "batch", convolution: str = "patches") -> Model:
    """The model called `name`. Equal arguments give the same object, so nothing compiled for it is compiled again.

    Args:
        name: a key of `MODELS`, with a depth in place of `{6n+2}`.
        classes: outputs.
        width: channels of the first stage, or hidden units of the MLP.
        normalisation: `batch` or `group`.
        convolution: `patches` or `xla`, see `convolution.convolve`.

    Raises:
        UsageError: no such model.
    """
    from unlearn_jax.models import mlp, resnet

    depth = re.fullmatch(r"resnet(\d+)", name)
    if name == "mlp":
        return as_model(mlp.MLP(classes, width), mlp.block_names(2), mlp.gradient)
    if depth and (int(depth[1]) == 18 or (int(depth[1]) >= 8 and int(depth[1]) % 6 == 2)):
        stages = (2,) * 4 if int(depth[1]) == 18 else ((int(depth[1]) - 2) // 6,) * 3
        return as_model(resnet.ResNet(classes, stages, width, normalisation, convolution), resnet.block_names(stages))
    raise UsageError("--model", name, f"there is {', '.join(MODELS)}")


def draw_kernels(key: Key, params: Params) -> Params:
    """Replace every leaf called `kernel` by a normal draw of variance 2 / fan-in (1 / fan-in in the head).

    He et al. 2015 (arXiv 1502.01852). One draw serves all kernels: a generator for each leaf takes longer to compile than
    the whole training step.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    kernels = [path[-1].key == "kernel" for path, _ in leaves]
    noise = jax.random.normal(key, (sum(leaf.size for (_, leaf), kernel in zip(leaves, kernels, strict=True) if kernel),))
    drawn, start = [], 0
    for (path, leaf), kernel in zip(leaves, kernels, strict=True):
        if kernel:
            gain = 1.0 if path[0].key == "head" else 2.0
            scale = math.sqrt(gain / math.prod(leaf.shape[:-1]))
            leaf, start = scale * noise[start : start + leaf.size].reshape(leaf.shape), start + leaf.size
        drawn.append(leaf)
    return jax.tree.unflatten(structure, drawn)


def as_model(network, blocks: tuple[tuple[str, ...], ...], gradient: Callable[..., Params] | None = None) -> Model:
    """Pure functions from a Flax linen module whose call takes `(images, train)` and sows its penultimate `features`.

    Kernels are drawn by `draw_kernels`; everything else starts where its Flax initialiser puts it. A network with BatchNorm
    also takes `counted`.
    """

    def init(key: Key, images) -> Variables:
        collections = network.init(jax.random.key(0), images, train=False)
        params = draw_kernels(key, collections["params"])
        return Variables(params, collections.get("batch_stats", {}))

    @functools.partial(jax.jit, static_argnames="train")  # traced once for all the programs that it becomes part of
    def apply(variables: Variables, images, train: bool = False, **counted) -> tuple:
        collections = {"params": variables.params, "batch_stats": variables.statistics}
        if not train:
            return network.apply(collections, images, train=False), variables.statistics
        logits, changed = network.apply(collections, images, train=True, mutable=["batch_stats"], **counted)
        statistics: Statistics = changed.get("batch_stats", {})
        return logits, statistics

    @jax.jit
    def features(variables: Variables, images) -> jax.Array:
        collections = {"params": variables.params, "batch_stats": variables.statistics}
        _, sown = network.apply(collections, images, train=False, mutable=["intermediates"])
        return sown["intermediates"]["features"][0]

    return Model(init, apply, blocks, features, gradient)
