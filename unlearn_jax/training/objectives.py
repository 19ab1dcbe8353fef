"""Objectives: weighted loss terms over named sources of examples, with one backward pass for all of them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from unlearn_jax.types import Key, Params, Statistics, Variables


class Batch(NamedTuple):
    """One step's examples from one source."""

    images: Float[Array, "batch *image"]
    labels: Int[Array, " batch"]
    rows: Int[Array, " batch"]  # of the training set
    key: Key


Loss = Callable[[Float[Array, "batch classes"], Batch], Float[Array, " batch"]]
Weight = float | Array | Callable[[Array], Array]
Forward = Callable[[Variables, Array], tuple[Array, Statistics]]


class Objective(NamedTuple):
    """A scalar to minimise.

    Attributes:
        sources: the names of the sources it reads: `kept`, `forget`, `retain`.
        value: `(forward, variables, {source: Batch}, progress) -> (scalar, statistics)`, where `forward` is the model in the mode
            of the descent and `progress` is the share of the steps already done, in [0, 1).
    """

    sources: tuple[str, ...]
    value: Callable[[Forward, Variables, dict[str, Batch], Array], tuple[Array, Statistics]]


class Term(NamedTuple):
    """`weight` x the mean of `loss` over a batch of `source`; a negative weight ascends."""

    source: str
    loss: Loss
    weight: Weight = 1.0


def weighted(*terms: Term, penalty: Callable[[Params, Array], Array] | None = None, together: bool = False) -> Objective:
    """The sum of the terms, and of `penalty(params, progress)`.

    Each source goes through the network once, in the order of the terms, and updates BatchNorm's running statistics in that
    order; with `together`, all of them go through as one batch, by which BatchNorm then normalises.
    """
    sources = tuple(dict.fromkeys(term.source for term in terms))

    def value(forward: Forward, variables: Variables, batches: dict[str, Batch], progress: Array) -> tuple[Array, Statistics]:
        logits, statistics = {}, variables.statistics
        if together:
            parts, statistics = forward_together(forward, variables, [batches[source].images for source in sources])
            logits = dict(zip(sources, parts, strict=True))
        else:
            for source in sources:
                logits[source], statistics = forward(variables._replace(statistics=statistics), batches[source].images)
        total = penalty(variables.params, progress) if penalty else jnp.zeros([])
        for term in terms:
            weight = term.weight(progress) if callable(term.weight) else term.weight
            total += weight * jnp.mean(term.loss(logits[term.source], batches[term.source]))
        return total, statistics

    return Objective(sources, value)


def holding(objective: Objective, held: Params) -> Objective:
    """The objective with a gradient of exactly zero in some weights, so that it does not move them by itself.

    Args:
        objective: keeps its value and statistics.
        held: a pytree of booleans like the params, True where the gradient is to be zero; it may be traced.
    """

    def value(forward: Forward, variables: Variables, batches: dict[str, Batch], progress: Array) -> tuple[Array, Statistics]:
        params = jax.tree.map(lambda leaf, mask: jnp.where(mask, jax.lax.stop_gradient(leaf), leaf), variables.params, held)
        return objective.value(forward, variables._replace(params=params), batches, progress)

    return Objective(objective.sources, value)


def forward_together(forward: Forward, variables: Variables, images: Sequence[Array]) -> tuple[list[Array], Statistics]:
    """The logits of several batches that go through the network as one, and the updated statistics."""
    logits, statistics = forward(variables, jnp.concatenate(images))
    return jnp.split(logits, np.cumsum([len(batch) for batch in images])[:-1]), statistics


def local_lipschitz(source: str, noise: float | Array, samples: int) -> Objective:
    """The mean over a batch and `samples` draws of ξ ~ N(0, noise²) of ‖f(x) - f(x + ξ)‖ / ‖ξ‖, f the logits.

    How fast the outputs change around an example (arXiv 2402.01401). Gradients flow through both terms of the difference; all
    images go through the network at once. Where the output does not change, its gradient is zero.
    """

    def value(forward: Forward, variables: Variables, batches: dict[str, Batch], progress: Array) -> tuple[Array, Statistics]:
        images = batches[source].images
        steps = noise * jax.random.normal(batches[source].key, (samples, *images.shape))
        everywhere = jnp.concatenate([images[None], images[None] + steps])
        logits, statistics = forward(variables, everywhere.reshape(-1, *images.shape[1:]))
        logits = logits.reshape(1 + samples, len(images), -1)
        squares = jnp.sum((logits[1:] - logits[:1]) ** 2, axis=-1)
        change = jnp.sqrt(jnp.where(squares > 0, squares, 1.0)) * (squares > 0)
        distance = jnp.sqrt(jnp.sum(steps.reshape(samples, len(images), -1) ** 2, axis=-1))
        return jnp.mean(change / distance), statistics

    return Objective((source,), value)


def contrast(source: str, other: str, temperature: float | Array) -> Objective:
    """-log softmax(f(x) f(x')ᵀ / temperature), the mean over x of `source` and x' of `other`, f the logits.

    The softmax runs over the batch of `other`, whose outputs are held fixed: it pulls each output of `source` evenly towards
    those of `other` (arXiv 2406.09073, the first place). Both batches go through the network as one.
    """

    def value(forward: Forward, variables: Variables, batches: dict[str, Batch], progress: Array) -> tuple[Array, Statistics]:
        images, other_images = batches[source].images, batches[other].images
        logits, statistics = forward(variables, jnp.concatenate([images, other_images]))
        similarity = logits[: len(images)] @ jax.lax.stop_gradient(logits[len(images) :]).T / temperature
        return -jnp.mean(jax.nn.log_softmax(similarity)), statistics

    return Objective((source, other), value)


def norm(vectors: Float[Array, "*batch entries"]) -> Float[Array, "*batch"]:
    """Euclidean norms with gradient 0 at 0, where that of `jnp.linalg.norm` is NaN."""
    squares = jnp.sum(jnp.square(vectors), axis=-1)
    return jnp.sqrt(jnp.where(squares > 0, squares, 1.0)) * (squares > 0)


def cross_entropy(logits: Float[Array, "batch classes"], batch: Batch) -> Float[Array, " batch"]:
    """-log p_y, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)


def predictive_entropy(logits: Float[Array, "batch classes"], batch: Batch) -> Float[Array, " batch"]:
    """-sum over classes of p log p, in nats; the labels are not read."""
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def relabelled(labels: Int[Array, " examples"]) -> Loss:
    """Cross-entropy to other labels than the examples' own; `labels` has one for every training row."""
    return lambda logits, batch: optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch.rows])


def divergence(
    teacher: Float[Array, "batch classes"], student: Float[Array, "batch classes"], temperature: float | Array = 1.0
) -> Float[Array, " batch"]:
    """KL(softmax(teacher / T) || softmax(student / T)) in nats; gradients reach both arguments."""
    log_p = jax.nn.log_softmax(teacher / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
