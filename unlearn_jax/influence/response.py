"""θ(w): the final variables of one training run, as a function of the examples' weights.

Influence is defined by it. The run is fixed, initial variables and batches included, so that two weightings differ in nothing
else: a removed example keeps its place in every batch, at weight zero.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from unlearn_jax.training.ensembles import chunk_size, mesh, over_members, padded, resolved, shared, step_bytes
from unlearn_jax.training.fit import optimiser
from unlearn_jax.training.precision import precise
from unlearn_jax.training.sampling import Source, draw, steps_in_pass
from unlearn_jax.types import Examples, Key, Model, Params, Recipe, Variables

State = tuple[Variables, Any]  # variables and optimiser state
MEMBERS = 32  # trained on one device at a time, one after the other: seconds of work between two reports


@struct.dataclass
class Training:
    """A training run, fixed but for the weights of the examples.

    Attributes:
        initial: variables before the first step.
        examples: the training examples.
        batches: the rows of each step; None if every step takes all examples, in their order.
        model: the network.
        transform: the optax chain.
        steps: number of steps.
    """

    initial: Variables
    examples: Examples
    batches: Int[Any, "steps batch"] | None
    model: Model = struct.field(pytree_node=False)
    transform: optax.GradientTransformation = struct.field(pytree_node=False)
    steps: int = struct.field(pytree_node=False)


def training(key: Key, model: Model, examples: Examples, recipe: Recipe) -> Training:
    """The training run of a recipe, with all its randomness drawn. If one batch holds all examples, `batches` is None.

    Args:
        key: initialisation and batch order.
        model: the network.
        examples: the training examples.
        recipe: see `types.Recipe`.

    Raises:
        ValueError: the model draws random numbers in training, which would differ between the runs.
    """
    if model.random:
        raise ValueError("model: draws random numbers in training (dropout); influence needs one that does not")
    init_key, order_key = jax.random.split(key)
    count = len(examples.labels)
    steps = recipe.epochs * steps_in_pass(count, recipe.batch_size)
    batches = None
    if recipe.batch_size < count:
        (batches,) = draw(order_key, [Source(jnp.ones(count, bool), count, steps)], recipe.batch_size)
    initial = model.init(init_key, jnp.asarray(examples.images[:1]))
    return Training(initial, examples, batches, model, _transform(recipe, steps), steps)


@functools.cache
def _transform(recipe: Recipe, steps: int) -> optax.GradientTransformation:
    """One object for equal arguments, so that nothing compiled for it is compiled again."""
    return optimiser(recipe, steps)


@precise
def train(run: Training, weights: Float[Any, " examples"]) -> Variables:
    """θ(w): descend on Σ w ℓ / Σ w, the sums over the batch of each step; ℓ is the cross-entropy.

    BatchNorm normalises by, and remembers, the statistics of the rows whose weight is not zero. They do not depend on the size of
    the weights: derivatives with respect to the weights ignore that path. A batch whose weights are all zero has the gradient
    zero; the optimiser still takes its step.

    Args:
        run: the training run.
        weights: of the examples, 0 or above.
    """
    return _advance(run, weights, _begin(run), run.batches, run.steps)[0]


@precise
def train_in_segments(
    run: Training, weights: Float[Any, " examples"], length: int, rematerialise: bool = False
) -> tuple[Variables, Variables]:
    """θ(w), and the variables at the start of each segment of the training.

    Args:
        run: the training run.
        weights: of the examples, 0 or above.
        length: steps of a segment; the last one may be shorter.
        rematerialise: for derivatives, keep only the starts of the segments, and recompute the steps in between.

    Returns:
        What `train` returns; and the variables before each segment, with a leading axis of segments.
    """

    def segment(state: State, batches: Array | None, steps: int) -> State:
        return _advance(run, weights, state, batches, steps)

    if rematerialise:
        segment = jax.checkpoint(segment, static_argnums=2)
    whole, left = divmod(run.steps, length)
    batches = rest = None
    if run.batches is not None:
        batches, rest = run.batches[: whole * length].reshape(whole, length, -1), run.batches[whole * length :]
    state, before = jax.lax.scan(
        lambda state, batches: (segment(state, batches, length), state[0]), _begin(run), batches, length=whole
    )
    if left:
        before = jax.tree.map(lambda leaf, last: jnp.concatenate([leaf, last[None]]), before, state[0])
        state = segment(state, rest, left)
    return state[0], before


def _begin(run: Training) -> State:
    return run.initial, run.transform.init(run.initial.params)


def _advance(run: Training, weights: Any, state: State, batches: Int[Any, "steps batch"] | None, steps: int) -> State:
    """Take `steps` steps on the given batches."""

    def step(state: State, rows: Array | None) -> tuple[State, None]:
        (variables, optimiser_state), batch, batch_weights = state, run.examples, weights
        if rows is not None:
            batch, batch_weights = jax.tree.map(lambda leaf: leaf[rows], (batch, batch_weights))
        gradient, statistics = weighted_gradient(run.model, variables, batch, batch_weights)
        updates, optimiser_state = run.transform.update(gradient, optimiser_state, variables.params)
        return (Variables(optax.apply_updates(variables.params, updates), statistics), optimiser_state), None

    return jax.lax.scan(step, state, batches, length=steps)[0]


def weighted_gradient(
    model: Model, variables: Variables, examples: Examples, weights: Float[Any, " examples"]
) -> tuple[Params, dict[str, Any]]:
    """The gradient of Σ w ℓ / Σ w in train mode, by `Model.gradient` if there is one, and the updated statistics."""
    total = jnp.sum(weights)
    shares = weights / jnp.where(total > 0, total, 1.0)
    if model.gradient is not None:
        return model.gradient(variables.params, examples.images, examples.labels, shares), variables.statistics
    counted = {"counted": weights > 0} if variables.statistics else {}

    def loss(params: Params) -> tuple[Array, dict[str, Any]]:
        logits, statistics = model.apply(variables._replace(params=params), examples.images, train=True, **counted)
        return jnp.sum(shares * optax.softmax_cross_entropy_with_integer_labels(logits, examples.labels)), statistics

    return jax.grad(loss, has_aux=True)(variables.params)


@precise
def margins(model: Model, variables: Variables, examples: Examples) -> Float[Array, " examples"]:
    """z_y - log Σ_{j≠y} exp z_j of each example, in eval mode."""
    logits, _ = model.apply(variables, examples.images, train=False)
    return margin_of_logits(logits, examples.labels)


def margin_of_logits(logits: Float[Array, "examples classes"], labels: Int[Array, " examples"]) -> Float[Array, " examples"]:
    """z_y - log Σ_{j≠y} exp z_j of each example."""
    one_hot = jnp.arange(logits.shape[1])[None] == labels[:, None]
    return jnp.sum(jnp.where(one_hot, logits, 0.0), axis=1) - jax.nn.logsumexp(jnp.where(one_hot, -jnp.inf, logits), axis=1)


def losses(model: Model, variables: Variables, examples: Examples) -> Float[Array, " examples"]:
    """The cross-entropy of each example, in eval mode; from its margin, since -log p_y has no value below 1e-7 in float32."""
    return jax.nn.softplus(-margins(model, variables, examples))


def reordered(run: Training, order: Int[Any, " rows"]) -> Training:
    """The same run with another order of summation in each step; the result differs by float rounding alone.

    Args:
        run: the training run.
        order: a permutation of the examples, which are reordered themselves; with batches, a permutation of the rows within each
            batch.
    """
    if run.batches is None:
        return dataclasses.replace(run, examples=jax.tree.map(lambda leaf: leaf[order], run.examples))
    return dataclasses.replace(run, batches=run.batches[:, order])


def retrained(
    run: Training,
    weights: Float[Any, "members examples"],
    strategy: str = "auto",
    chunk: int | None = None,
    report: Callable[[float], None] = lambda share: None,
) -> Variables:
    """θ(w) for every row of weights: one compiled program, spread over all devices, a chunk of members at a time.

    Args:
        run: the training run.
        weights: of the examples, one row per member.
        strategy: see `ensembles.over_members`.
        chunk: members at a time; by default what fits in memory.
        report: called with the share done after each chunk.

    Returns:
        The variables of every member, on the host, with a leading axis.
    """
    return for_members(train, run, np.asarray(weights, jnp.result_type(float)), strategy, chunk, report)


def for_members(
    function: Callable[[Any, Any], Any],
    same: Any,
    members: Any,
    strategy: str = "auto",
    chunk: int | None = None,
    report: Callable[[float], None] = lambda share: None,
) -> Any:
    """`function(same, member)` for every member, a chunk at a time, so that memory does not grow with their number.

    Args:
        function: pure; compiled once for each function and shape.
        same: arrays, the same for all members.
        members: arrays with a leading axis of members.
        strategy: see `ensembles.over_members`.
        chunk: members at a time; by default what fits in memory.
        report: called with the share done after each chunk.

    Returns:
        The results, on the host, with a leading axis of members.
    """
    count, same = len(jax.tree.leaves(members)[0]), shared(same)
    if chunk is None:
        chunk = -(-count // -(-count // (MEMBERS * mesh().size)))  # equal chunks
        if resolved(strategy) == "vmap":
            first_one = jax.tree.map(lambda leaf: leaf[0], members)
            chunk = chunk_size(lambda: step_bytes(function, same, first_one, batched=(False, True)), count, strategy)
    parts = []
    for first in range(0, count, chunk):
        order = np.minimum(np.arange(first, first + min(chunk, count)), count - 1)  # the last chunk has the others' shape
        chunk_members = padded(jax.tree.map(lambda leaf, order=order: leaf[order], members))
        results = jax.tree.map(np.asarray, _compiled(function, strategy)(same, chunk_members))
        parts.append(jax.tree.map(lambda leaf, first=first: leaf[: min(chunk, count - first)], results))
        report(min((first + chunk) / count, 1.0))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


@functools.lru_cache(maxsize=32)
def _compiled(function: Callable[[Any, Any], Any], strategy: str) -> Any:
    return over_members(function, (False, True), strategy)


def all_but_one(examples: int) -> Float[np.ndarray, "examples examples"]:
    """The weights of leave-one-out: row i is 1 everywhere except at i."""
    return np.ones((examples, examples), np.float32) - np.eye(examples, dtype=np.float32)
