"""Model inversion: the input that a model takes for a class."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unlearn_jax.training.ensembles import over_examples
from unlearn_jax.types import Model, Variables

STEPS = 100
RATE = 0.05  # root mean square of a step, in standard deviations of the pixels
PENALTY = 0.1  # of half the mean square of the pixels


def invert(
    model: Model, variables: Variables, starts: Float[np.ndarray, "draws *image"], label: int, strategy: str = "auto"
) -> Float[np.ndarray, "members draws *image"]:
    """Climbs `log p_label(x) - PENALTY / 2 mean(x²)` from each start by steps of one length, in every model.

    Args:
        model: the members' network, in evaluation mode.
        variables: with a leading axis of members.
        starts: standardised inputs, the same for all members.
        label: the class.
        strategy: see `ensembles.over_members`.

    Returns:
        The inputs that were reached. Those of a model whose gradient vanishes are its starts.

    Source: Fredrikson, Jha & Ristenpart, "Model Inversion Attacks that Exploit Confidence Information", CCS 2015; of unlearned
        models: Graves et al., arXiv:2010.10981.
    """
    return over_examples(_inverted, model, variables, (starts, np.full(len(starts), label)), strategy)


def _inverted(model: Model, variables: Variables, examples: tuple[Array, Array]) -> Array:
    starts, labels = examples

    def objective(images: Array) -> Array:
        scores = jax.nn.log_softmax(model.apply(variables, images, train=False)[0])
        size = (images.reshape(len(images), -1) ** 2).mean(axis=1)
        return (jnp.take_along_axis(scores, labels[:, None], axis=1)[:, 0] - PENALTY / 2 * size).sum()

    def step(_: Array, images: Array) -> Array:
        gradient = jax.grad(objective)(images)
        length = jnp.sqrt((gradient**2).mean(axis=tuple(range(1, gradient.ndim)), keepdims=True))
        return images + RATE * gradient / jnp.maximum(length, jnp.finfo(images.dtype).tiny)

    return jax.lax.fori_loop(0, STEPS, step, starts)
