"""Gradients of the loss at fixed weights, in eval mode: over sets of examples, and of single examples."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from unlearn_jax.training.objectives import Batch, cross_entropy
from unlearn_jax.training.precision import precise
from unlearn_jax.types import Examples, Model, Params, Problem, Variables

CHUNK = 32  # single examples' gradients held at a time


@precise
def batch_gradient(
    problem: Problem,
    variables: Variables,
    source: str,
    chunk: int = 256,
    weights: Float[Array, " examples"] | None = None,
) -> Params:
    """The gradient of the mean cross-entropy over a source, in eval mode and without augmentation.

    Args:
        problem: the examples and the model.
        variables: where the gradient is taken.
        source: `kept`, `forget` or `retain`.
        chunk: examples that go through the network at a time.
        weights: of each training row's cross-entropy in the mean; by default 1.
    """

    def total(params, rows, filled):
        logits, _ = problem.model.apply(variables._replace(params=params), problem.train.images[rows], train=False)
        batch = Batch(problem.train.images[rows], problem.train.labels[rows], rows, jax.random.key(0))
        row_weights = filled if weights is None else filled * weights[rows]
        return jnp.sum(row_weights * cross_entropy(logits, batch))

    return mean_over(problem, problem.rows(source), lambda rows, weights: jax.grad(total)(variables.params, rows, weights), chunk)


@precise
def squared_gradients(
    problem: Problem,
    variables: Variables,
    rows: tuple[Bool[Array, " examples"], int],
    labels: str = "given",
    parts: Bool[Array, "parts examples"] | None = None,
) -> Params:
    """The mean over examples of each example's squared gradient of the cross-entropy: the diagonal of the Fisher matrix.

    The square is taken example by example, so the result does not depend on how they are batched. Eval mode, no augmentation.

    Args:
        problem: the examples and the model.
        variables: where the gradients are taken.
        rows: a mask over the training set and its count, as `problem.rows(source)` gives them.
        labels: `given`: g² at the example's label (the empirical Fisher); `expected`: the expectation of g² over labels drawn
            from the model's own prediction, computed exactly, one backward pass for each class.
        parts: subsets of `rows`; if given, the mean over each, stacked along a leading axis, from the same pass.

    Raises:
        ValueError: unknown `labels`.
    """
    if labels not in ("given", "expected"):
        raise ValueError(f"labels {labels!r}: must be 'given' or 'expected'")

    def log_probabilities(params, row):
        logits, _ = problem.model.apply(variables._replace(params=params), problem.train.images[row][None], train=False)
        return jax.nn.log_softmax(logits[0])

    def squared(row, label):
        gradient = jax.grad(lambda params: log_probabilities(params, row)[label])(variables.params)
        return jax.tree.map(jnp.square, gradient)

    def chunk_sum(rows, weights):
        if labels == "given":
            return _combine(weights, jax.vmap(squared)(rows, problem.train.labels[rows]))
        probabilities = jnp.exp(jax.vmap(lambda row: log_probabilities(variables.params, row))(rows))

        def add(total, label):  # a loop over the classes: its body is compiled once, and one class fits the memory
            squares = jax.vmap(lambda row: squared(row, label))(rows)
            share = jnp.broadcast_to(probabilities[:, label], weights.shape)
            return optax.tree.add(total, _combine(weights * share, squares)), None

        zero = jax.tree.map(lambda leaf: jnp.zeros((*weights.shape[:-1], *leaf.shape)), variables.params)
        return jax.lax.scan(add, zero, jnp.arange(problem.classes))[0]

    return _mean_of_parts(problem, rows, chunk_sum, parts)


@precise
def output_sensitivities(
    problem: Problem,
    variables: Variables,
    rows: tuple[Bool[Array, " examples"], int],
    parts: Bool[Array, "parts examples"] | None = None,
    size: Callable[[Float[Array, " classes"]], Float[Array, ""]] = lambda logits: jnp.sum(logits**2),
) -> Params:
    """The mean over examples of each example's |∇ size(f(x))|, f the logits: how much a weight matters, without labels.

    Memory aware synapses, arXiv 1711.09601. The absolute value is taken example by example, so the result does not depend on
    how they are batched. Eval mode, no augmentation.

    Args:
        problem: the examples and the model.
        variables: where the gradients are taken.
        rows: as `squared_gradients` takes them.
        parts: as `squared_gradients` takes them.
        size: of the logits; by default the squared Euclidean norm.
    """

    def sensitivity(row):
        def length(params):
            logits, _ = problem.model.apply(variables._replace(params=params), problem.train.images[row][None], train=False)
            return size(logits[0])

        return jax.tree.map(jnp.abs, jax.grad(length)(variables.params))

    return _mean_of_parts(problem, rows, lambda rows, weights: _combine(weights, jax.vmap(sensitivity)(rows)), parts)


@precise
def jacobian(
    problem: Problem,
    variables: Variables,
    rows: Int[Array, " rows"],
    read: Callable[[Float[Array, " classes"], Int[Array, ""]], Float[Array, " *outputs"]],
) -> Float[Array, "rows *outputs weights"]:
    """The derivatives of `read(logits, label)` of each example with respect to all weights, in the order of `ravel_pytree`.

    Eval mode, no augmentation. The result is held whole: rows x outputs x weights numbers.

    Args:
        problem: the examples and the model.
        variables: where the derivatives are taken.
        rows: of the training set.
        read: what to differentiate, as a function of one example's logits and label.
    """
    weights, structured = ravel_pytree(variables.params)

    def one(row):
        def value(weights):
            image = problem.train.images[row][None]
            logits, _ = problem.model.apply(variables._replace(params=structured(weights)), image, train=False)
            return read(logits[0], problem.train.labels[row])

        return jax.jacrev(value)(weights)

    return chunk_by_chunk(jax.vmap(one), rows, CHUNK)


@precise
def head_features(problem: Problem, variables: Variables, rows: Int[Array, " rows"]) -> Float[Array, "rows features"]:
    """The head's inputs, in eval mode; if it has a bias, with a last feature of 1.

    Args:
        problem: the examples and the model.
        variables: of the model.
        rows: of the training set.

    Raises:
        ValueError: the model does not declare its features, or a linear head.
    """
    read, head = problem.model.features, problem.model.head
    if read is None or head is None:
        missing = "Model.features" if read is None else "Model.head"
        raise ValueError(f"the features of a linear head need {missing}, which this model does not declare")
    inputs = chunk_by_chunk(lambda rows: read(variables, problem.train.images[rows]), rows, 256)
    return jnp.concatenate([inputs, jnp.ones((len(rows), 1))], axis=1) if head.bias else inputs


def chunk_by_chunk(function: Callable[[Array], Array], rows: Array, chunk: int) -> Array:
    """`function` of all rows, some at a time; the last chunk is filled with the first row."""
    chunk = min(chunk, len(rows))
    filled = jnp.concatenate([rows, jnp.repeat(rows[:1], -len(rows) % chunk)]).reshape(-1, chunk)
    results = jax.lax.map(function, filled)
    return results.reshape(-1, *results.shape[2:])[: len(rows)]


def _mean_of_parts(
    problem: Problem,
    rows: tuple[Bool[Array, " examples"], int],
    weighted_sum: Callable[[Array, Array], Params],
    parts: Bool[Array, "parts examples"] | None,
) -> Params:
    """`mean_over` the rows, or over each of some subsets of them, stacked along a leading axis, in the same pass."""
    if parts is None:
        return mean_over(problem, rows, weighted_sum, CHUNK)

    def part_sums(rows, weights):
        return weighted_sum(rows, (weights[None] * parts[:, rows]) * (count / jnp.sum(parts, axis=1))[:, None])

    count = rows[1]
    return mean_over(problem, rows, part_sums, CHUNK)


def _combine(weights: Float[Array, "*parts chunk"], trees: Params) -> Params:
    """Weighted sums over the leading axis of stacked trees."""
    return jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, axes=1), trees)


@precise
def gradient_norms(model: Model, variables: Variables, examples: Examples) -> Float[Array, "examples blocks"]:
    """The Euclidean norm of each example's gradient of the cross-entropy, for each of `model.blocks`.

    Eval mode, no augmentation. The norm over all weights is the norm of a row.

    Raises:
        ValueError: the model does not declare its blocks.
    """
    if not model.blocks:
        raise ValueError("gradients by block need Model.blocks, which this model does not declare")

    def norms(image, label):
        def loss(params):
            logits, _ = model.apply(variables._replace(params=params), image[None], train=False)
            return optax.softmax_cross_entropy_with_integer_labels(logits[0], label)

        gradient = jax.grad(loss)(variables.params)
        return jnp.stack([optax.tree.norm([gradient[name] for name in block]) for block in model.blocks])

    return jax.vmap(norms)(examples.images, examples.labels)


def mean_over(
    problem: Problem, rows: tuple[Bool[Array, " examples"], int], weighted_sum: Callable[[Array, Array], Any], chunk: int
) -> Any:
    """The mean over a set of examples, where `weighted_sum(rows[chunk], weights[chunk])` gives the sum over some of them.

    The last chunk is filled with its own first row at weight zero, so that no row outside the set is ever read.
    """
    mask, count = rows
    chunk = min(chunk, count)
    chunks = -(-count // chunk)
    index = jnp.nonzero(mask, size=count)[0]
    index = jnp.concatenate([index, jnp.repeat(index[:1], chunks * chunk - count)]).reshape(chunks, chunk)
    weights = (jnp.arange(chunks * chunk) < count).astype(jnp.float32).reshape(chunks, chunk)

    def add(total, part):
        return optax.tree.add(total, weighted_sum(*part)), None

    shape = jax.eval_shape(weighted_sum, index[0], weights[0])
    total, _ = jax.lax.scan(add, optax.tree.zeros_like(shape), (index, weights))
    return jax.tree.map(lambda leaf: leaf / count, total)
