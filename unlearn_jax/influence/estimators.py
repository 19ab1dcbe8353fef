"""Estimates of what removing one example would do, without training again for each.

All return Δ of the targets' margins, `f(θ without i) - f(θ)`, in nats: `[points, targets]`, like `Change.margins`, so that
the exact answer can be held against them. Removing example i changes the gradient of L(w) = Σ w ℓ / Σ w by -r_i to first order,
where r_i = (∇ℓ_i - ∇L) / n; the estimates differ in what they say that such a push comes to at the end of the training.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from unlearn_jax.influence.response import Training, losses, margins, train
from unlearn_jax.types import Examples, Variables


def tracin(
    run: Training, checkpoints: Sequence[Variables], learning_rates: Sequence[float], targets: Examples
) -> Float[np.ndarray, "points targets"]:
    """TracIn: Σ_t η_t ∇f(θ_t) · r_i(θ_t) over checkpoints. With the last one alone it is the gradients' dot product.

    Leaves out that a push changes all later gradients (the curvature), momentum and Adam's scaling. η_t stands for all steps
    until the next checkpoint: their learning rates added up.

    Args:
        run: names the examples and the model.
        checkpoints: variables along the run.
        learning_rates: of each, see above.
        targets: whose margins are f.

    Source: Pruthi et al. 2020, arXiv 2002.08484.
    """
    found = np.zeros((len(run.examples.labels), len(targets.labels)))
    for variables, rate in zip(checkpoints, learning_rates, strict=True):
        pushes, slopes = _gradients(run, variables, targets)
        found += rate * np.asarray(pushes @ slopes.T)
    return found


def influence_functions(
    run: Training, variables: Variables, targets: Examples, damping: float, relative: bool = False
) -> Float[np.ndarray, "points targets"]:
    """∇f · (H + λI)^-1 r_i, H the Hessian of the mean loss, by its exact eigendecomposition.

    The response of the minimum, if `variables` are the minimum of L + λ|θ|²/2, which they seldom are: how training got there,
    and that it stopped, is left out. Eigenvalues below zero count as zero. p parameters take p² memory and p³ time.

    Args:
        run: names the examples and the model.
        variables: of the trained model.
        targets: whose margins are f.
        damping: λ, above 0; at least the weight decay of the training.
        relative: RelatIF: each answer divided by |(H + λI)^-1 r_i|. It ranks otherwise, and is no longer in nats.

    Source: Koh and Liang 2017, arXiv 1703.04730; Barshan et al. 2020, arXiv 2003.11630 (`relative`).
    """
    pushes, slopes = _gradients(run, variables, targets)
    flat, restore = ravel_pytree(variables.params)

    def loss(flat: Array) -> Array:
        return jnp.mean(losses(run.model, variables._replace(params=restore(flat)), run.examples))

    values, vectors = np.linalg.eigh(np.asarray(jax.jit(jax.hessian(loss))(flat), np.float64))
    moved = (np.asarray(pushes, np.float64) @ vectors) / (np.maximum(values, 0) + damping) @ vectors.T
    found = moved @ np.asarray(slopes, np.float64).T
    return found / np.linalg.norm(moved, axis=1, keepdims=True) if relative else found


def unrolled(run: Training, targets: Examples) -> Float[np.ndarray, "points targets"]:
    """-∂f(θ_T(w)) / ∂w_i at w = 1, by reverse mode through the whole training.

    The first-order term of the exact answer, momentum, Adam and batches included; it leaves out that removing is not a small
    change. What every step computed is kept, so memory grows with the steps. Adam has to have `eps_root` above 0 (1e-16 will
    do): the derivative of a root at 0 is not a number.

    Args:
        run: the training run.
        targets: whose margins are f; the time is that of some trainings for each.

    Source: Engstrom et al. 2025, arXiv 2503.13751; Ilyas and Engstrom 2025, arXiv 2504.16430.
    """
    return -np.asarray(_unrolled(run, targets)).T


@jax.jit
def _unrolled(run: Training, targets: Examples) -> Float[Array, "targets points"]:
    def outputs(weights: Array) -> Array:
        return margins(run.model, train(run, weights), targets)

    _, pull = jax.vjp(outputs, jnp.ones(len(run.examples.labels)))
    return jax.lax.map(lambda cotangent: pull(cotangent)[0], jnp.eye(len(targets.labels)))


@jax.jit
def _gradients(
    run: Training, variables: Variables, targets: Examples
) -> tuple[Float[Array, "points p"], Float[Array, "targets p"]]:
    """r_i of every training example, and ∇f of every target."""

    def rows(function, examples: Examples) -> Array:
        def one(example: Examples) -> Array:
            alone = jax.tree.map(lambda leaf: leaf[None], example)
            gradient = jax.grad(lambda params: function(run.model, variables._replace(params=params), alone)[0])(variables.params)
            return ravel_pytree(gradient)[0]

        return jax.vmap(one)(examples)

    own = rows(losses, run.examples)
    return (own - jnp.mean(own, axis=0, keepdims=True)) / len(own), rows(margins, targets)
