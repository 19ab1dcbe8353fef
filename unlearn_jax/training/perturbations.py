"""Images moved against a model: adversarial examples, all in eval mode and without clipping.

The images are standardised, so that the range of their pixels is not known here; sizes and radii are in the images' own units.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unlearn_jax.types import Examples, Model, Variables

CHUNK = 256  # examples that go through the network at a time


def fast_gradient_sign(
    model: Model, variables: Variables, examples: Examples, size: float | Array
) -> Float[Array, "examples *image"]:
    """One step that raises the loss: x + size sign(∇x CE(x, y)) (arXiv 1412.6572)."""
    return in_chunks(lambda own: own.images + size * jnp.sign(_loss_slope(model, variables, own)[0]), examples)


def targeted_descent(
    model: Model, variables: Variables, examples: Examples, *, radius: float | Array, step: float | Array, steps: int
) -> Float[Array, "examples *image"]:
    """Projected gradient descent in the l2 ball towards the labels of `examples` (arXiv 1706.06083).

    Args:
        model: the network.
        variables: its weights.
        examples: where to start, and the labels to end at.
        radius: of the ball around each image.
        step: length of each step.
        steps: how many.
    """

    def attack(own: Examples) -> Array:
        def move(images: Array, _: None) -> tuple[Array, None]:
            slope = _loss_slope(model, variables, own._replace(images=images))[0]
            return _into_ball(images - step * _unit(slope), own.images, radius), None

        return jax.lax.scan(move, own.images, None, steps)[0]

    return in_chunks(attack, examples)


def nearest_adversarial(
    model: Model, variables: Variables, examples: Examples, *, radius: float | Array, doublings: int, steps: int
) -> Examples:
    """For each example the first one met that the model takes for another class, searched in growing l2 balls.

    In each ball projected gradient ascent on the loss starts from the image anew, by steps of a tenth of the radius, and
    stops as soon as the model is wrong; whoever is not fooled then goes on in a ball of twice the radius.

    Args:
        model: the network.
        variables: its weights.
        examples: what to start from; an example that is misclassified already stays where it is.
        radius: of the first ball.
        doublings: balls after the first; what none of them fools keeps its image of the last.
        steps: in each ball.

    Returns:
        The moved images, and what the model takes them for.
    """

    def attack(own: Examples) -> Examples:
        def search(images: Array, size: Array) -> tuple[Array, None]:
            def climb(images: Array, _: None) -> tuple[Array, None]:
                slope, guess = _loss_slope(model, variables, own._replace(images=images))
                moved = _into_ball(images + 0.1 * size * _unit(slope), own.images, size)
                return _choose(guess != own.labels, images, moved), None

            fooled = predicted(model, variables, images) != own.labels
            again = _choose(fooled, images, own.images)
            return jax.lax.cond(jnp.all(fooled), lambda: images, lambda: jax.lax.scan(climb, again, None, steps)[0]), None

        images, _ = jax.lax.scan(search, own.images, radius * 2.0 ** jnp.arange(doublings + 1))
        return Examples(images, predicted(model, variables, images))

    return in_chunks(attack, examples)


def predicted(model: Model, variables: Variables, images: Float[Array, "examples *image"]) -> Int[Array, " examples"]:
    """The class of the largest logit, of all images at once."""
    return jnp.argmax(model.apply(variables, images, train=False)[0], axis=-1).astype(jnp.int32)


def in_chunks(function: Callable[[Any], Any], arrays: Any) -> Any:
    """`function` of a tree of arrays, for `CHUNK` rows of it at a time; the last chunk is filled with the last row."""
    count = len(jax.tree.leaves(arrays)[0])
    chunk = min(CHUNK, count)
    chunks = -(-count // chunk)
    rows = jnp.minimum(jnp.arange(chunks * chunk), count - 1).reshape(chunks, chunk)
    results = jax.lax.map(lambda own: function(jax.tree.map(lambda leaf: leaf[own], arrays)), rows)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], results)


def _loss_slope(model: Model, variables: Variables, examples: Examples) -> tuple[Array, Array]:
    """The gradient of each example's cross-entropy in its own image, and what the model takes the image for.

    p_y - 1 is taken as minus the sum of the other probabilities: of a sure model it would round to 0.
    """
    logits, pullback = jax.vjp(lambda images: model.apply(variables, images, train=False)[0], examples.images)
    own = jax.nn.one_hot(examples.labels, logits.shape[-1])
    others = (1.0 - own) * jax.nn.softmax(logits)
    (slope,) = pullback(others - own * jnp.sum(others, axis=-1, keepdims=True))
    return slope, jnp.argmax(logits, axis=-1)


def _unit(slopes: Array) -> Array:
    """Each example's direction; a slope of zero stays zero, and one whose square would underflow does not."""
    largest = jnp.max(jnp.abs(slopes), axis=tuple(range(1, slopes.ndim)), keepdims=True)
    scaled = slopes / jnp.maximum(largest, jnp.finfo(slopes.dtype).tiny)
    return scaled / jnp.maximum(_norm(scaled), 1e-12)


def _into_ball(images: Array, centres: Array, radius: float | Array) -> Array:
    apart = images - centres
    return centres + apart * jnp.minimum(1.0, radius / jnp.maximum(_norm(apart), 1e-12))


def _norm(images: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(images), axis=tuple(range(1, images.ndim)), keepdims=True))


def _choose(which: Array, a: Array, b: Array) -> Array:
    return jnp.where(which.reshape(-1, *[1] * (a.ndim - 1)), a, b)
