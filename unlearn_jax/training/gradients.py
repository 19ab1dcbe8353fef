"""Gradients of the loss over whole sets of examples, at fixed weights and in eval mode."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from unlearn_jax.training.objectives import Batch, cross_entropy
from unlearn_jax.types import Params, Problem, Variables

CHUNK = 32  # examples whose own gradients are held at a time


def batch_gradient(problem: Problem, variables: Variables, source: str, chunk: int = 256) -> Params:
    """The gradient of the mean cross-entropy over a source, in eval mode and without augmentation."""

    def total(params, rows, weights):
        logits, _ = problem.model.apply(variables._replace(params=params), problem.train.images[rows], train=False)
        batch = Batch(problem.train.images[rows], problem.train.labels[rows], rows, jax.random.key(0))
        return jnp.sum(weights * cross_entropy(logits, batch))

    return mean_over(problem, problem.rows(source), lambda rows, weights: jax.grad(total)(variables.params, rows, weights), chunk)


def squared_gradients(
    problem: Problem, variables: Variables, rows: tuple[Bool[Array, " examples"], int], labels: str = "given"
) -> Params:
    """The mean over examples of each example's own squared gradient of the cross-entropy: the diagonal of the Fisher matrix.

    The square is taken example by example, so the result does not depend on how they are batched. Eval mode, no augmentation.

    Args:
        problem: the examples and the model.
        variables: where the gradients are taken.
        rows: a mask over the training set and its count, as `problem.rows(source)` gives them.
        labels: `given`: g² at the example's label (the empirical Fisher); `expected`: the expectation of g² over labels drawn
            from the model's own prediction, computed exactly, one backward pass for each class.

    Raises:
        ValueError: unknown `labels`.
    """
    if labels not in ("given", "expected"):
        raise ValueError(f"labels {labels!r}: there is 'given' and 'expected'")

    def log_probabilities(params, row):
        logits, _ = problem.model.apply(variables._replace(params=params), problem.train.images[row][None], train=False)
        return jax.nn.log_softmax(logits[0])

    def one(row):
        if labels == "given":
            gradient = jax.grad(lambda params: log_probabilities(params, row)[problem.train.labels[row]])(variables.params)
            return jax.tree.map(jnp.square, gradient)
        probabilities, pull = jax.vjp(lambda params: log_probabilities(params, row), variables.params)
        gradients = jax.vmap(lambda unit: pull(unit)[0])(jnp.eye(problem.classes))
        return jax.tree.map(lambda g: jnp.tensordot(jnp.exp(probabilities), jnp.square(g), axes=1), gradients)

    def chunk_sum(rows, weights):
        squares = jax.vmap(one)(rows)
        return jax.tree.map(lambda g: jnp.tensordot(weights, g, axes=1), squares)

    return mean_over(problem, rows, chunk_sum, CHUNK)


def mean_over(
    problem: Problem, rows: tuple[Bool[Array, " examples"], int], weighted_sum: Callable[[Array, Array], Params], chunk: int
) -> Params:
    """The mean over a set of examples of a tree that `weighted_sum(rows[chunk], weights[chunk])` sums for some of them.

    The last chunk is filled with its own first row at weight zero, so that no row outside the set is ever read.
    """
    mask, count = rows
    chunk = min(chunk, count)
    chunks = -(-count // chunk)
    index = jnp.nonzero(mask, size=count)[0]
    index = jnp.concatenate([index, jnp.repeat(index[:1], chunks * chunk - count)]).reshape(chunks, chunk)
    weights = (jnp.arange(chunks * chunk) < count).astype(jnp.float32).reshape(chunks, chunk)

    def add(total, part):
        return jax.tree.map(jnp.add, total, weighted_sum(*part)), None

    shape = jax.eval_shape(weighted_sum, index[0], weights[0])
    total, _ = jax.lax.scan(add, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape), (index, weights))
    return jax.tree.map(lambda leaf: leaf / count, total)
