"""Away from the original's weights: distortion, distance, and a barrier on the line between (arXiv 2505.22310)."""

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from unlearn_jax.methods.pieces import edit, pipe, steps_for, with_noise
from unlearn_jax.methods.registry import Number, register
from unlearn_jax.methods.retraining import descend_on_retain
from unlearn_jax.training.descend import descend
from unlearn_jax.training.objectives import Batch, Forward, Objective, Term, cross_entropy, forward_together, weighted
from unlearn_jax.types import Key, Method, Params, Problem, Statistics, Variables

PAPER = "arXiv 2505.22310"


@register(access="R", reference=PAPER, search={"deviation": (1e-3, 0.3), "learning_rate": (1e-5, 1e-2)})
def weight_distortion(
    *, deviation: Number = 0.02, learning_rate: Number = 1e-5, epochs: int = 100, batch_size: int = 128
) -> Method:
    """Weight distortion: adds Gaussian noise to all weights, then trains on the retain set.

    θ += N(0, deviation²), then Adam minimises CE(R). Made against relearning: a model that is far from the original in its
    weights does not come back to F when it is trained further.

    Args:
        deviation: standard deviation of the noise, the same for every weight.
        learning_rate: of Adam.
        epochs: passes over R.
        batch_size: examples per step.
    """

    def distort(key: Key, problem: Problem, variables: Variables) -> Variables:
        return variables._replace(params=with_noise(key, variables.params, deviation))

    return pipe(edit(distort), trained_on_retain(learning_rate, epochs, batch_size))


@register(access="R", reference=PAPER, search={"share": (0.01, 0.9, "linear"), "learning_rate": (1e-5, 1e-2)})
def weight_dropout(*, share: Number = 0.2, learning_rate: Number = 1e-5, epochs: int = 100, batch_size: int = 128) -> Method:
    """Weight dropout: sets a random share of all weights to zero, then trains on the retain set.

    The weights may move again while Adam minimises CE(R).

    Args:
        share: of the weights of each array that are set to zero.
        learning_rate: of Adam.
        epochs: passes over R.
        batch_size: examples per step.
    """

    def drop(key: Key, problem: Problem, variables: Variables) -> Variables:
        vector, structured = ravel_pytree(variables.params)
        kept = jax.random.bernoulli(key, 1.0 - share, vector.shape)
        return variables._replace(params=structured(jnp.where(kept, vector, 0.0)))

    return pipe(edit(drop), trained_on_retain(learning_rate, epochs, batch_size))


@register(access="R", reference=PAPER, identity_at_zero=True, search={"weight": (0.01, 100.0), "learning_rate": (1e-5, 1e-2)})
def distance_regularisation(
    *, weight: Number = 1.0, learning_rate: Number = 1e-5, epochs: int = 100, batch_size: int = 128
) -> Method:
    """Distance regularisation: trains on the retain set while it moves away from the original's weights.

    Adam minimises CE(R) - weight sqrt(mean (θ - θ0)² + 1e-8), the mean over all weights. F is never shown.

    Args:
        weight: of the distance.
        learning_rate: of Adam.
        epochs: passes over R.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        def near(params: Params, progress: Array) -> Array:
            moved = optax.tree.sub(params, variables.params)
            count = sum(leaf.size for leaf in jax.tree.leaves(moved))
            return -weight * jnp.sqrt(optax.tree.norm(moved, squared=True) / count + 1e-8)

        objective = weighted(Term("retain", cross_entropy), penalty=near)
        steps = steps_for(problem, "retain", epochs, batch_size)
        return descend(objective, optax.adam(learning_rate), steps=steps, batch_size=batch_size)(key, problem, variables)

    return method


@register(access="F+R", reference=PAPER, identity_at_zero=True, search={"weight": (1e-4, 1.0), "learning_rate": (1e-5, 1e-2)})
def connectivity_barrier(
    *, weight: Number = 0.001, bound: Number = 50.0, learning_rate: Number = 1e-5, epochs: int = 100, batch_size: int = 128
) -> Method:
    """Connectivity barrier: raises the loss half-way between the original's weights and its own.

    Adam minimises CE(R) - weight min(bound, CE of (θ0 + θ) / 2 on F and R together), so that the straight line to the original
    crosses a barrier (the authors' *mode connectivity* loss). BatchNorm's running statistics at the middle are the mean of both
    and are not kept. Deviation: batches of F and R have the same size.

    Args:
        weight: of the loss at the middle.
        bound: beyond which that loss is not raised, in nats.
        learning_rate: of Adam.
        epochs: passes over R.
        batch_size: examples per step, of each set.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        def value(forward: Forward, current: Variables, batches: dict[str, Batch], progress: Array) -> tuple[Array, Statistics]:
            logits, statistics = forward(current, batches["retain"].images)
            middle = jax.tree.map(lambda one, other: (one + other) / 2, variables, current)
            both = [batches[source] for source in ("forget", "retain")]
            parts, _ = forward_together(forward, middle, [batch.images for batch in both])
            there = jnp.concatenate([cross_entropy(part, batch) for part, batch in zip(parts, both, strict=True)]).mean()
            return cross_entropy(logits, batches["retain"]).mean() - weight * jnp.minimum(there, bound), statistics

        steps = steps_for(problem, "retain", epochs, batch_size)
        objective = Objective(("forget", "retain"), value)
        return descend(objective, optax.adam(learning_rate), steps=steps, batch_size=batch_size)(key, problem, variables)

    return method


def trained_on_retain(learning_rate: Number, epochs: int, batch_size: int) -> Method:
    """Trains on the retain set by Adam."""
    return lambda key, problem, variables: descend_on_retain(problem, optax.adam(learning_rate), epochs, batch_size)(
        key, problem, variables
    )
