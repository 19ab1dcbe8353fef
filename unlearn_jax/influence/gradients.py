"""Estimates of the effect of removing one example, from gradients at fixed weights and nothing else.

Every estimator of this package returns Δ of the targets' margins, `f(θ without i) - f(θ)`, in nats: `[points, targets]`, like
`Change.margins`, so that it can be compared with the exact answer; where only the ranking is meaningful, the docstring says so.
Removing example i changes the gradient of L(w) = Σ w ℓ / Σ w by -r_i to first order, where r_i = (∇ℓ_i - ∇L) / n is its *push*;
the estimators differ in how they propagate such a push to the end of training. All are pure functions of arrays, in the arrays'
precision.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from unlearn_jax.influence.response import Training, losses, margins
from unlearn_jax.training.precision import precise
from unlearn_jax.types import Examples, Key, Model, Variables


@precise
def per_example(
    function: Callable[[Model, Variables, Examples], Float[Array, " examples"]],
    model: Model,
    variables: Variables,
    examples: Examples,
) -> Float[Array, "examples p"]:
    """The gradient of each example's value with respect to all weights, in the order of `ravel_pytree`.

    Args:
        function: one value per example of a batch, such as `response.losses` or `response.margins`.
        model: the network.
        variables: where the gradients are taken.
        examples: one row of the result each.
    """

    def one(example: Examples) -> Array:
        alone = jax.tree.map(lambda leaf: leaf[None], example)
        gradient = jax.grad(lambda params: function(model, variables._replace(params=params), alone)[0])(variables.params)
        return ravel_pytree(gradient)[0]

    return jax.vmap(one)(examples)


def pushes(run: Training, variables: Variables) -> Float[Array, "points p"]:
    """r_i = (∇ℓ_i - ∇L) / n of every training example."""
    gradients = per_example(losses, run.model, variables, run.examples)
    return (gradients - jnp.mean(gradients, axis=0, keepdims=True)) / len(gradients)


def slopes(run: Training, variables: Variables, targets: Examples) -> Float[Array, "targets p"]:
    """∇f of every target."""
    return per_example(margins, run.model, variables, targets)


@precise
def grad_dot(run: Training, variables: Variables, targets: Examples) -> Float[Array, "points targets"]:
    """∇f · r_i: the effect through one step of plain gradient descent, in nats for a learning rate of 1.

    Ignores the course of training and the curvature. The ranking is meaningful; with learning rates, the size is too: see
    `tracin`.

    Args:
        run: gives the examples and the model.
        variables: of the trained model.
        targets: the examples whose margins are f.

    Source: Charpiat et al. 2019, arXiv 2102.05262.
    """
    return pushes(run, variables) @ slopes(run, variables, targets).T


@precise
def grad_cos(run: Training, variables: Variables, targets: Examples) -> Float[Array, "points targets"]:
    """∇f · r_i / (|∇f| |r_i|): `grad_dot` without the sizes, so that hard examples do not lead every ranking.

    In [-1, 1]: for rankings, not in nats. A push or a slope of length 0 has the cosine 0.

    Args:
        run: gives the examples and the model.
        variables: of the trained model.
        targets: the examples whose margins are f.

    Source: Charpiat et al. 2019, arXiv 2102.05262.
    """
    return directions(pushes(run, variables)) @ directions(slopes(run, variables, targets)).T


@precise
def tracin(
    run: Training, checkpoints: Variables, learning_rates: Float[Any, " checkpoints"], targets: Examples
) -> Float[Array, "points targets"]:
    """TracIn: Σ_t η_t ∇f(θ_t) · r_i(θ_t) over checkpoints.

    Ignores that a push changes all later gradients (the curvature), momentum and Adam's scaling. η_t is the sum of the learning
    rates of all steps until the next checkpoint.

    Args:
        run: gives the examples and the model.
        checkpoints: variables along the run, with a leading axis, see `response.train_in_segments`.
        learning_rates: η_t of each checkpoint.
        targets: the examples whose margins are f.

    Source: Pruthi et al. 2020, arXiv 2002.08484.
    """

    def add(total: Array, checkpoint: tuple[Array, Variables]) -> tuple[Array, None]:
        rate, variables = checkpoint
        return total + rate * grad_dot(run, variables, targets), None

    start = jnp.zeros((len(run.examples.labels), len(targets.labels)))
    return jax.lax.scan(add, start, (jnp.asarray(learning_rates, start.dtype), checkpoints))[0]


@precise
def trak(run: Training, models: Variables, targets: Examples, key: Key, dimensions: int = 32) -> Float[Array, "points targets"]:
    """TRAK: -φ(x) · (Φ'Φ)^-1 φ_i (1 - p_i), φ = P ∇f a random projection of the margins' gradients, Φ those of all examples.

    One Newton step of the logistic regression that approximates the network near its weights. As published, it omits the
    regression's weights p_i (1 - p_i), so scores are in nats only up to a factor: use them for rankings and correlations. Ignores
    the course of training. With several models, the two factors are averaged over them separately, as published.

    Args:
        run: gives the examples and the model.
        models: variables of trained models, with a leading axis.
        targets: the examples whose margins are f.
        key: draws the projections, one for each model.
        dimensions: of the projection; the inverse is a pseudoinverse.

    Source: Park et al. 2023, arXiv 2303.14186.
    """

    def for_model(model: tuple[Key, Variables]) -> tuple[Array, Array]:
        key, variables = model
        all_slopes, target_slopes = slopes(run, variables, run.examples), slopes(run, variables, targets)
        projection = jax.random.normal(key, (all_slopes.shape[1], dimensions), all_slopes.dtype)
        wrong = jax.nn.sigmoid(-margins(run.model, variables, run.examples))
        return (target_slopes @ projection @ jnp.linalg.pinv(all_slopes @ projection)).T, wrong

    count = len(jax.tree.leaves(models)[0])
    scores, wrong = jax.lax.map(for_model, (jax.random.split(key, count), models))
    return -jnp.mean(scores, axis=0) * jnp.mean(wrong, axis=0)[:, None]


def directions(vectors: Float[Array, "vectors p"]) -> Float[Array, "vectors p"]:
    """Each vector divided by its length; 0 where that is 0."""
    lengths = jnp.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / jnp.where(lengths > 0, lengths, 1.0)
