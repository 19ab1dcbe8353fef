"""What is trained: networks as pure functions."""

import functools
import math
import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.errors import UsageError
from unlearn_jax.models.parts import parts_of
from unlearn_jax.models.paths import arrays, at, nested, replaced
from unlearn_jax.types import Key, Model, Params, Statistics, Variables

MODELS = {
    "resnet{6n+2}": "CIFAR ResNet of depth 8, 14, 20, ... (three stages; --width is that of the first), arXiv 1512.03385",
    "resnet18": "ResNet-18 with the CIFAR stem (four stages of two blocks; its usual width is 64), arXiv 1512.03385",
    "mlp": "two relu layers of --width units",
}


@functools.cache
def build(
    name: str,
    *,
    classes: int,
    width: int = 16,
    normalisation: str = "batch",
    convolution: str = "products",
    layers: int = 2,
    activation: str = "relu",
) -> Model:
    """The model called `name`. Equal arguments give the same object, so nothing compiled for it is compiled again.

    Args:
        name: a key of `MODELS`, with a depth in place of `{6n+2}`.
        classes: outputs.
        width: channels of the first stage, or hidden units of the MLP.
        normalisation: `batch` or `group`.
        convolution: `products`, `patches` or `xla`, see `convolution.convolve`.
        layers: hidden layers of the MLP.
        activation: of the MLP, see `mlp.ACTIVATIONS`.

    Raises:
        UsageError: no such model, or no such form of convolution.
    """
    from unlearn_jax.models import mlp, resnet
    from unlearn_jax.models.convolution import FORMS

    if convolution not in FORMS:
        raise UsageError("--convolution", convolution, f"there is {', '.join(FORMS)}")
    depth = re.fullmatch(r"resnet(\d+)", name)
    if name == "mlp":
        gradient = mlp.gradient if activation == "relu" else None
        return as_model(mlp.MLP(classes, width, layers, activation), mlp.block_names(layers), gradient)
    if depth and (int(depth[1]) == 18 or (int(depth[1]) >= 8 and int(depth[1]) % 6 == 2)):
        stages = (2,) * 4 if int(depth[1]) == 18 else ((int(depth[1]) - 2) // 6,) * 3
        network = resnet.ResNet(classes, stages, width, normalisation, convolution)
        return as_model(network, resnet.block_names(stages), unrolled=network.clone(scanned=False))
    raise UsageError("--model", name, f"there is {', '.join(MODELS)}")


@functools.cache
def mean_of(model: Model) -> Model:
    """An ensemble as one model: its logits are the log of the mean of its networks' probabilities.

    Their softmax is that mean, so that accuracies, margins and divergences are those of the averaged prediction. Its features
    are those of its networks side by side. Its variables are those of `model`, stacked along a leading axis of networks, so that
    no kernel has the layout that `Model` speaks of; `init` makes one.
    """

    def init(key: Key, images) -> Variables:
        return jax.tree.map(lambda leaf: leaf[None], model.init(key, images))

    @functools.partial(jax.jit, static_argnames="train")
    def apply(variables: Variables, images, train: bool = False) -> tuple:
        logits, statistics = jax.vmap(lambda own: model.apply(own, images, train=train))(variables)
        return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - math.log(len(logits)), statistics

    def features(variables: Variables, images) -> jax.Array:
        assert model.features
        each = jax.vmap(model.features, in_axes=(0, None))(variables, images)
        return jnp.concatenate(each, axis=-1)

    return Model(init, apply, model.blocks, features if model.features else None, norms=model.norms)


@functools.cache
def through_waves(model: Model, waves: int) -> Model:
    """The model that sees a point x of the plane as an image of as many pixels: `√2 cos(ω_j · x + b_j)`.

    A network that reads the two coordinates themselves learns smooth functions long before it can tell neighbours apart, and
    memorises nothing; waves shorter than their distance let it. The directions ω_j are standard normal and the phases b_j even in
    0 to 2π, the same for all: how fine the waves are follows from the scale of the points.

    Args:
        model: reads vectors of length `waves`.
        waves: pixels.

    Source: Tancik et al., "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional Domains",
        arXiv 2006.10739; Rahimi & Recht, "Random Features for Large-Scale Kernel Machines", NeurIPS 2007.
    """
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((2, waves)).astype(np.float32)
    phases = 2 * np.pi * rng.random((1, waves)).astype(np.float32)

    def seen(points):
        return math.sqrt(2) * jnp.cos(points @ directions + phases)

    def init(key: Key, points) -> Variables:
        return model.init(key, seen(points))

    def apply(variables: Variables, points, train: bool = False, **counted) -> tuple:
        return model.apply(variables, seen(points), train=train, **counted)

    def features(variables: Variables, points) -> jax.Array:
        assert model.features
        return model.features(variables, seen(points))

    def activations(variables: Variables, points, train: bool = False) -> tuple:
        assert model.activations
        return model.activations(variables, seen(points), train=train)

    def gradient(params: Params, points, labels, weights) -> Params:
        assert model.gradient
        return model.gradient(params, seen(points), labels, weights)

    return model._replace(
        init=init,
        apply=apply,
        features=features if model.features else None,
        activations=activations if model.activations else None,
        gradient=gradient if model.gradient else None,
    )


def draw_kernels(key: Key, params: Params, gains: dict[str, float]) -> Params:
    """Replace kernels, whose last axis is that of the outputs, by normal draws of variance gain / fan-in.

    He et al. 2015 (arXiv 1502.01852). One draw serves all kernels: a generator for each leaf takes longer to compile than
    the whole training step.

    Args:
        key: of the draw.
        params: in which all else stays.
        gains: of the kernels, by their paths.
    """
    kernels = [(path, leaf) for path, leaf in arrays(params).items() if path in gains]
    noise = jax.random.normal(key, (sum(leaf.size for _, leaf in kernels),))
    drawn, start = {}, 0
    for path, leaf in kernels:
        scale = math.sqrt(gains[path] / math.prod(leaf.shape[:-1]))
        drawn[path], start = scale * noise[start : start + leaf.size].reshape(leaf.shape), start + leaf.size
    return replaced(params, drawn)


def as_model(
    network,
    blocks: tuple[tuple[str, ...], ...],
    gradient: Callable[..., Params] | None = None,
    unrolled=None,
    shape: Sequence[int] = (1, 8, 8, 1),
) -> Model:
    """Pure functions from a Flax linen module whose call takes `(images, train)` and sows its penultimate `features`.

    Kernels of dense layers and convolutions are drawn by `draw_kernels`, with a gain of 1 in the head and 2 elsewhere; everything
    else starts where its Flax initialiser puts it. A network with BatchNorm also takes `counted`.

    Args:
        network: the module.
        blocks: see `Model`.
        gradient: see `Model`.
        unrolled: the same network with each block called by its name, where `network` loops over some.
        shape: of a batch that it takes, from which the facts about its params are learned.
    """
    parts = parts_of(network, shape)
    head = parts.head.kernel if parts.head else None
    gains = {path: 1.0 if path == head else 2.0 for path in parts.kernels}

    def init(key: Key, images) -> Variables:
        collections = network.init(jax.random.key(0), images, train=False)
        params = draw_kernels(key, collections["params"], gains)
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
    """`[channels, height, width, batch]` or `[batch, units]` as `[batch, positions, channels]`."""
    if output.ndim == 2:
        return output[:, :, None]
    channels, *_, batch = output.shape
    return output.reshape(channels, -1, batch).T


def with_extra_class(model: Model) -> Model:
    """The model with one more output, the last, whose weights stand in a parameter group `extra` of their own.

    Dropping the group gives back the parameters of `model`.

    Raises:
        ValueError: the model does not declare its linear head (now), or has a group `extra` of its own (at `init`).
    """
    if model.head is None:
        raise ValueError("one more class needs Model.head, which this model does not declare")
    paths = [path for path in model.head if path]

    def init(key: Key, images) -> Variables:
        own, other = (model.init(each, images) for each in jax.random.split(key))
        if "extra" in own.params:
            raise ValueError("one more class needs the name `extra`, which is a parameter group of the model")
        return own._replace(params={**own.params, "extra": nested({path: at(other.params, path)[..., :1] for path in paths})})

    def apply(variables: Variables, images, train: bool = False) -> tuple:
        params = {name: group for name, group in variables.params.items() if name != "extra"}
        heads = {}
        for path in paths:
            own, extra = at(params, path), at(variables.params["extra"], path)
            heads[path] = jnp.stack([own, jnp.broadcast_to(extra, own.shape)])

        def with_head(own) -> tuple:
            return model.apply(Variables(replaced(params, own), variables.statistics), images, train=train)

        # Two heads behind one body: what does not depend on the batched head is computed once.
        logits, statistics = jax.vmap(with_head, out_axes=(0, None))(heads)
        return jnp.concatenate([logits[0], logits[1][:, :1]], axis=-1), statistics

    blocks = (*model.blocks[:-1], (*model.blocks[-1], "extra")) if model.blocks else ()
    return Model(init, apply, blocks, norms=model.norms, convolutions=model.convolutions)
