"""Adversarial examples, all in eval mode and without clipping.

Sizes and radii are in pixels of [0, 1], as in the attacks' papers, while the images are as the model reads them: `scale`, one
number for each channel or one for all, is the size of a pixel in their units (see `Problem.pixel_scale`). Norms and steepest
directions are in pixels too.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unlearn_jax.types import Examples, Model, Variables

CHUNK = 256  # examples that go through the network at a time


def fast_gradient_sign(
    model: Model, variables: Variables, examples: Examples, size: float | Array, scale: Sequence[float] = (1.0,)
) -> Float[Array, "examples *image"]:
    """One fast gradient sign step: every pixel moves by `size` in the direction sign(∇x CE(x, y)) (arXiv 1412.6572)."""

    def attack(chunk: Examples) -> Array:
        slope, _ = _loss_slope(model, variables, chunk, jnp.zeros_like(chunk.images), scale)
        return _moved(chunk.images, size * jnp.sign(slope), scale)

    return in_chunks(attack, examples)


def targeted_descent(
    model: Model,
    variables: Variables,
    examples: Examples,
    *,
    radius: float | Array,
    step: float | Array,
    steps: int,
    scale: Sequence[float] = (1.0,),
) -> Float[Array, "examples *image"]:
    """Projected gradient descent in the l2 ball towards the labels of `examples` (arXiv 1706.06083).

    Args:
        model: the network.
        variables: its weights.
        examples: initial images, and the target labels.
        radius: of the ball around each image, in pixels.
        step: length of each step, in pixels.
        steps: number of steps.
        scale: see the module.
    """

    def attack(chunk: Examples) -> Array:
        def move(change: Array, _: None) -> tuple[Array, None]:
            slope = _loss_slope(model, variables, chunk, change, scale)[0]
            return _into_ball(change - step * _unit(slope), radius), None

        return _moved(chunk.images, jax.lax.scan(move, jnp.zeros_like(chunk.images), None, steps)[0], scale)

    return in_chunks(attack, examples)


def nearest_adversarial(
    model: Model,
    variables: Variables,
    examples: Examples,
    *,
    radius: float | Array,
    doublings: int,
    steps: int,
    scale: Sequence[float] = (1.0,),
) -> Examples:
    """The first misclassified image found for each example, searched in growing l2 balls.

    In each ball projected gradient ascent on the loss continues from where the last one ended, by steps of a tenth of the radius,
    until the model is wrong; examples that are still classified correctly continue in a ball of twice the radius.

    Args:
        model: the network.
        variables: its weights.
        examples: initial images; one that is misclassified already is not moved.
        radius: of the first ball, in pixels.
        doublings: balls after the first; an example that none of them fools keeps its image from the last one.
        steps: in each ball.
        scale: see the module.

    Returns:
        The moved images, labelled with the model's predictions.
    """

    def attack(chunk: Examples) -> Examples:
        def search(change: Array, size: Array) -> tuple[Array, None]:
            def climb(change: Array, _: None) -> tuple[Array, None]:
                slope, guess = _loss_slope(model, variables, chunk, change, scale)
                return _choose(guess != chunk.labels, change, _into_ball(change + 0.1 * size * _unit(slope), size)), None

            fooled = predicted(model, variables, _moved(chunk.images, change, scale)) != chunk.labels
            return jax.lax.cond(jnp.all(fooled), lambda: change, lambda: jax.lax.scan(climb, change, None, steps)[0]), None

        change, _ = jax.lax.scan(search, jnp.zeros_like(chunk.images), radius * 2.0 ** jnp.arange(doublings + 1))
        images = _moved(chunk.images, change, scale)
        return Examples(images, predicted(model, variables, images))

    return in_chunks(attack, examples)


def predicted(model: Model, variables: Variables, images: Float[Array, "examples *image"]) -> Int[Array, " examples"]:
    """The class of the largest logit, for all images at once."""
    return jnp.argmax(model.apply(variables, images, train=False)[0], axis=-1).astype(jnp.int32)


def in_chunks(function: Callable[[Any], Any], arrays: Any) -> Any:
    """`function` of a tree of arrays, for `CHUNK` rows of it at a time; the last chunk is filled with the last row."""
    count = len(jax.tree.leaves(arrays)[0])
    chunk = min(CHUNK, count)
    chunks = -(-count // chunk)
    rows = jnp.minimum(jnp.arange(chunks * chunk), count - 1).reshape(chunks, chunk)
    results = jax.lax.map(lambda chunk_rows: function(jax.tree.map(lambda leaf: leaf[chunk_rows], arrays)), rows)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], results)


def _moved(images: Array, change: Array, scale: Sequence[float]) -> Array:
    """The images, their pixels moved by `change`."""
    return images + change * np.asarray(scale, np.float32).reshape(*[1] * (images.ndim - 1), -1)


def _loss_slope(
    model: Model, variables: Variables, examples: Examples, change: Array, scale: Sequence[float]
) -> tuple[Array, Array]:
    """The gradient of each moved example's cross-entropy with respect to its pixels, and the model's prediction.

    p_y - 1 is computed as minus the sum of the other probabilities: for a confident model it would round to 0.
    """

    def answer(change: Array) -> Array:
        return model.apply(variables, _moved(examples.images, change, scale), train=False)[0]

    logits, pullback = jax.vjp(answer, change)
    one_hot = jax.nn.one_hot(examples.labels, logits.shape[-1])
    others = (1.0 - one_hot) * jax.nn.softmax(logits)
    (slope,) = pullback(others - one_hot * jnp.sum(others, axis=-1, keepdims=True))
    return slope, jnp.argmax(logits, axis=-1)


def _unit(slopes: Array) -> Array:
    """Each example's direction; a slope of zero stays zero, and one whose square would underflow does not."""
    largest = jnp.max(jnp.abs(slopes), axis=tuple(range(1, slopes.ndim)), keepdims=True)
    scaled = slopes / jnp.maximum(largest, jnp.finfo(slopes.dtype).tiny)
    return scaled / jnp.maximum(_norm(scaled), 1e-12)


def _into_ball(changes: Array, radius: float | Array) -> Array:
    return changes * jnp.minimum(1.0, radius / jnp.maximum(_norm(changes), 1e-12))


def _norm(changes: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(changes), axis=tuple(range(1, changes.ndim)), keepdims=True))


def _choose(which: Array, a: Array, b: Array) -> Array:
    return jnp.where(which.reshape(-1, *[1] * (a.ndim - 1)), a, b)
