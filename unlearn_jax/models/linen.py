"""Models from Flax linen modules."""

import functools
import math
from collections.abc import Callable, Sequence

import jax

from unlearn_jax.models.parts import parts_of
from unlearn_jax.models.paths import arrays, replaced
from unlearn_jax.types import Key, Model, Params, Statistics, Variables


def as_model(
    network,
    blocks: tuple[tuple[str, ...], ...],
    gradient: Callable[..., Params] | None = None,
    unrolled=None,
    shape: Sequence[int] = (1, 8, 8, 1),
) -> Model:
    """Pure functions from a Flax linen module whose call takes `(images, train)` and sows its penultimate `features`.

    Kernels of dense layers and convolutions are drawn by `draw_kernels`, with a gain of 1 in the head and 2 elsewhere; all other
    parameters keep their Flax initialisation. A network with BatchNorm also takes `counted`.

    Args:
        network: the module.
        blocks: see `Model`.
        gradient: see `Model`.
        unrolled: the same network with each block called by its name, if `network` loops over some.
        shape: of an input batch, for working out the facts about its params.
    """
    parts = parts_of(network, shape)
    head = parts.head.kernel if parts.head else None
    gains = {path: 1.0 if path == head else 2.0 for path in parts.kernels}

    def init(key: Key, images) -> Variables:
        collections = network.init(jax.random.key(0), images, train=False)
        params = draw_kernels(key, collections["params"], gains)
        return Variables(params, collections.get("batch_stats", {}))

    @functools.partial(jax.jit, static_argnames="train")  # traced once for all the programs that it becomes part of
    def apply(variables: Variables, images, train: bool = False, key: Key | None = None, **counted) -> tuple:
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

    last = [block[-1] for block in blocks[:-1]]

    @functools.partial(jax.jit, static_argnames="train")
    def activations(variables: Variables, images, train: bool = False) -> tuple:
        collections = {"params": variables.params, "batch_stats": variables.statistics}
        wanted = lambda module, _: len(module.path) == 1 and module.path[0] in last  # noqa: E731
        mutable = ["intermediates", *(["batch_stats"] if train else [])]
        whole = unrolled or network
        logits, changed = whole.apply(collections, images, train=train, mutable=mutable, capture_intermediates=wanted)
        outputs = [changed["intermediates"][name]["__call__"][0] for name in last]
        statistics = changed.get("batch_stats", {}) if train else variables.statistics
        return logits, statistics, tuple(_positions(output) for output in outputs)

    facts = parts.norms, parts.convolutions, parts.dense, parts.head
    return Model(init, apply, blocks, features, activations, gradient, *facts)


def _positions(output):
    """`[channels, height, width, batch]`, `[batch, units]` or `[batch, tokens, features]` as `[batch, positions, channels]`."""
    if output.ndim < 4:
        return output.reshape(*output.shape[:2], -1)
    channels, *_, batch = output.shape
    return output.reshape(channels, -1, batch).T


def draw_kernels(key: Key, params: Params, gains: dict[str, float]) -> Params:
    """Replaces kernels, whose last axis is that of the outputs, by normal draws of variance gain / fan-in.

    He et al. 2015 (arXiv 1502.01852). One draw serves all kernels: a generator for each leaf takes longer to compile than
    the whole training step.

    Args:
        key: for the draw.
        params: all other arrays are kept.
        gains: of the kernels, by their paths.
    """
    kernels = [(path, leaf) for path, leaf in arrays(params).items() if path in gains]
    noise = jax.random.normal(key, (sum(leaf.size for _, leaf in kernels),))
    drawn, start = {}, 0
    for path, leaf in kernels:
        scale = math.sqrt(gains[path] / math.prod(leaf.shape[:-1]))
        drawn[path], start = scale * noise[start : start + leaf.size].reshape(leaf.shape), start + leaf.size
    return replaced(params, drawn)
