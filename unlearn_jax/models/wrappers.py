"""Models made of other models."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.models.paths import at, nested, replaced
from unlearn_jax.types import Key, Model, Params, Variables


@functools.cache
def mean_of(model: Model) -> Model:
    """An ensemble as one model: its logits are the log of the mean of its networks' probabilities.

    Accuracies, margins and divergences are then those of the averaged prediction. The features are those of the networks,
    concatenated. The variables are those of `model`, stacked along a leading axis of networks, so that no kernel has the layout
    that `Model` describes; `init` makes one network.
    """

    def init(key: Key, images) -> Variables:
        return jax.tree.map(lambda leaf: leaf[None], model.init(key, images))

    @functools.partial(jax.jit, static_argnames="train")
    def apply(variables: Variables, images, train: bool = False, key: Key | None = None) -> tuple:
        def one(own: Variables, own_key: Key | None) -> tuple:
            return model.apply(own, images, train=train, **({} if own_key is None else {"key": own_key}))

        keys = None if key is None else jax.random.split(key, len(jax.tree.leaves(variables)[0]))
        logits, statistics = jax.vmap(one)(variables, keys)
        return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - math.log(len(logits)), statistics

    def features(variables: Variables, images) -> jax.Array:
        assert model.features
        by_network = jax.vmap(model.features, in_axes=(0, None))(variables, images)
        return jnp.concatenate(by_network, axis=-1)

    return Model(init, apply, model.blocks, features if model.features else None, norms=model.norms, random=model.random)


def wave_pixels(points: Any, waves: int, contrast: Any = 1.0) -> jax.Array:
    """An image of each point, in random waves: a point x of the plane becomes the pixels `√2 cos(ω_j · x + b_j)`.

    Args:
        points: `[points, 2]`.
        waves: number of pixels.
        contrast: factor on them. What is learnt from larger pixels is learnt faster, and with larger margins.

    Returns:
        `[points, waves]`. For directions and source see `through_waves`.
    """
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((2, waves)).astype(np.float32)
    phases = 2 * np.pi * rng.random((1, waves)).astype(np.float32)
    return contrast * math.sqrt(2) * jnp.cos(points @ directions + phases)


@functools.cache
def through_waves(model: Model, waves: int, contrast: float = 1.0) -> Model:
    """The model behind random waves: it gets the pixels of a point, see `wave_pixels`.

    A network on the two coordinates learns smooth functions long before it separates neighbours, and memorises nothing; waves
    shorter than the distance of neighbours make it possible. The directions ω_j are standard normal and the phases b_j uniform in
    0 to 2π, the same for all models: how fine the waves are depends on the scale of the points.

    Args:
        model: reads vectors of length `waves`.
        waves: number of pixels.
        contrast: factor on the pixels.

    Source: Tancik et al., "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional Domains",
        arXiv 2006.10739; Rahimi & Recht, "Random Features for Large-Scale Kernel Machines", NeurIPS 2007.
    """

    def seen(points):
        return wave_pixels(points, waves, contrast)

    def init(key: Key, points) -> Variables:
        return model.init(key, seen(points))

    def apply(variables: Variables, points, train: bool = False, **more) -> tuple:  # key, counted
        return model.apply(variables, seen(points), train=train, **more)

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


def with_extra_class(model: Model) -> Model:
    """The model with one more output, the last, whose weights are the parameter group `extra`.

    Dropping the group gives back the parameters of `model`.

    Raises:
        ValueError: the model does not declare its linear head; or, on `init`, has a group `extra` already.
    """
    if model.head is None:
        raise ValueError("one more class needs Model.head, which this model does not declare")
    paths = [path for path in model.head if path]

    def init(key: Key, images) -> Variables:
        own, other = (model.init(init_key, images) for init_key in jax.random.split(key))
        if "extra" in own.params:
            raise ValueError("one more class needs the name `extra`, which is a parameter group of the model")
        return own._replace(params={**own.params, "extra": nested({path: at(other.params, path)[..., :1] for path in paths})})

    def apply(variables: Variables, images, train: bool = False, **key) -> tuple:
        params = {name: group for name, group in variables.params.items() if name != "extra"}
        heads = {}
        for path in paths:
            own, extra = at(params, path), at(variables.params["extra"], path)
            heads[path] = jnp.stack([own, jnp.broadcast_to(extra, own.shape)])

        def with_head(arrays) -> tuple:
            return model.apply(Variables(replaced(params, arrays), variables.statistics), images, train=train, **key)

        # Two heads behind one body: what does not depend on the batched head is computed once.
        logits, statistics = jax.vmap(with_head, out_axes=(0, None))(heads)
        return jnp.concatenate([logits[0], logits[1][:, :1]], axis=-1), statistics

    blocks = (*model.blocks[:-1], (*model.blocks[-1], "extra")) if model.blocks else ()
    return Model(init, apply, blocks, norms=model.norms, convolutions=model.convolutions, random=model.random)
