"""Estimates that follow the training: through every step, or through segments with constant gradients and curvature."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unlearn_jax.influence.curvature import gauss_newton_rows
from unlearn_jax.influence.gradients import pushes, slopes
from unlearn_jax.influence.response import Training, margins, retrained, train_in_segments
from unlearn_jax.training.precision import precise
from unlearn_jax.types import Examples, Variables


@jax.jit
@precise
def unrolled(run: Training, targets: Examples) -> Float[Array, "points targets"]:
    """-∂f(θ_T(w)) / ∂w_i at w = 1, by reverse mode through the whole training.

    The first-order term of the exact effect, momentum, Adam and batches included; the higher-order terms of a whole removal are
    left out. Every √T-th state is kept and the steps in between are recomputed, so memory grows with the root of the steps. Adam
    needs `eps_root` above 0 (1e-16 will do), since the derivative of a root at 0 is NaN.

    Args:
        run: the training run.
        targets: the examples whose margins are f; each costs the time of a few trainings.

    Source: Engstrom et al. 2025, arXiv 2503.13751; Ilyas and Engstrom 2025, arXiv 2504.16430.
    """

    def outputs(weights: Array) -> Array:
        variables, _ = train_in_segments(run, weights, math.isqrt(run.steps - 1) + 1, rematerialise=True)
        return margins(run.model, variables, targets)

    values, pull = jax.vjp(outputs, jnp.ones(len(run.examples.labels)))
    return -jax.vmap(lambda cotangent: pull(cotangent)[0])(jnp.eye(len(values), dtype=values.dtype)).T


@precise
def source(
    run: Training,
    final: Variables,
    checkpoints: Variables,
    learning_rates: Float[Any, " checkpoints"],
    targets: Examples,
    segments: int,
    weight_decay: float | Float[Array, ""] = 0.0,
) -> Float[Array, "points targets"]:
    """SOURCE: Σ_l ∇f(θ_T) · S_L … S_{l+1} F_l r_l: training as L segments, each with constant gradients and curvature.

    In segment l, with its mean push r_l, its Gauss-Newton matrix G_l and the sum ρ_l of its learning rates, gradient descent
    shrinks earlier pushes by S_l = exp(-ρ_l (G_l + μI)) and accumulates F_l = (I - S_l) (G_l + μI)^-1 of its own: an influence
    function that is damped because training is finite. Ignores the network's own curvature, and Adam's scaling. Deviation: the
    exact G_l of the segment's checkpoints in place of EK-FAC's.

    Args:
        run: gives the examples and the model.
        final: θ_T.
        checkpoints: variables along the run, with a leading axis.
        learning_rates: of each checkpoint, as in `tracin`; with momentum β, divided by 1 - β.
        targets: the examples whose margins are f.
        segments: L; the number of checkpoints is a multiple of it.
        weight_decay: μ, as added to the gradient.

    Raises:
        ValueError: the number of checkpoints is not a multiple of `segments`.

    Source: Bae et al. 2024, arXiv 2405.12186.
    """
    count = len(jax.tree.leaves(checkpoints)[0])
    if count % segments:
        raise ValueError(f"{count} checkpoints cannot be cut into {segments} equal segments")
    by_segment = jax.tree.map(lambda leaf: leaf.reshape(segments, -1, *leaf.shape[1:]), checkpoints)
    rates = jnp.sum(jnp.asarray(learning_rates).reshape(segments, -1), axis=1)

    def back(state: tuple[Array, Array], segment: tuple[Array, Variables]) -> tuple[tuple[Array, Array], None]:
        (total, carried), (rate, inside) = state, segment
        rows = jax.vmap(lambda variables: gauss_newton_rows(run, variables))(inside)
        spectrum = _spectrum(rows.reshape(-1, rows.shape[2]) / math.sqrt(len(rows)))
        push = jnp.mean(jax.vmap(lambda variables: pushes(run, variables))(inside), axis=0)

        def gathered(curvature: Array) -> Array:
            through = rate * (curvature + weight_decay)
            return rate * jnp.where(through > 0, -jnp.expm1(-through) / jnp.where(through > 0, through, 1.0), 1.0)

        total = total + push @ _function_of(spectrum, gathered, carried).T
        forgotten = _function_of(spectrum, lambda curvature: jnp.exp(-rate * (curvature + weight_decay)), carried)
        return (total, forgotten), None

    target_slopes = slopes(run, final, targets)
    start = (jnp.zeros((len(run.examples.labels), len(target_slopes)), target_slopes.dtype), target_slopes)
    return jax.lax.scan(back, start, (rates.astype(target_slopes.dtype), by_segment), reverse=True)[0][0]


def metasmoothness(
    run: Training, directions: Float[Any, "directions examples"], step: float, strategy: str = "auto"
) -> Float[np.ndarray, " directions"]:
    """Whether a second step of the weights changes the result as the first one did: Σ |a| sign(a) sign(b) / Σ |a|.

    a = θ(1 + h v) - θ(1) and b = θ(1 + 2h v) - θ(1 + h v), over all parameters. At 1 every parameter keeps its direction, as
    first-order estimates assume; at 0 the first step says nothing about the second. 0 where nothing moves.

    Args:
        run: the training run.
        directions: v, one per result; -e_i with a step of 1/2 ends at the removal of i.
        step: h; 1 + 2h v must not be negative.
        strategy: see `ensembles.over_members`.

    Source: Engstrom et al. 2025, arXiv 2503.13751.
    """
    directions = np.asarray(directions)
    count = len(directions)
    weights = np.ones((1 + 2 * count, directions.shape[1]))
    weights[1 : 1 + count] += step * directions
    weights[1 + count :] += 2 * step * directions
    trained = retrained(run, weights, strategy)
    flat = np.concatenate([leaf.reshape(1 + 2 * count, -1) for leaf in jax.tree.leaves(trained.params)], axis=1)
    first = flat[1 : 1 + count] - flat[:1]
    second = flat[1 + count :] - flat[1 : 1 + count]
    agreeing, moved = (np.abs(first) * np.sign(first) * np.sign(second)).sum(axis=1), np.abs(first).sum(axis=1)
    return np.divide(agreeing, moved, out=np.zeros_like(moved), where=moved > 0)


def _spectrum(rows: Float[Array, "rows p"]) -> tuple[Float[Array, " rows"], Float[Array, "rows p"]]:
    """The nonzero eigenvalues of B'B and their eigenvectors; zeros in place of the others."""
    values, basis = jnp.linalg.eigh(rows @ rows.T)
    known = values > 30 * jnp.finfo(rows.dtype).eps * jnp.max(values)  # below it is rounding
    values = jnp.where(known, values, 0.0)
    return values, jnp.where(known[None], basis / jnp.sqrt(jnp.where(known, values, 1.0))[None], 0.0).T @ rows


def _function_of(
    spectrum: tuple[Float[Array, " rows"], Float[Array, "rows p"]],
    function: Callable[[Array], Array],
    vectors: Float[Array, "vectors p"],
) -> Float[Array, "vectors p"]:
    """`function(B'B) v` of each vector v, by the function of every eigenvalue, most of which are 0."""
    values, basis = spectrum
    at_zero = function(jnp.zeros_like(values[:1]))
    return at_zero[0] * vectors + (vectors @ basis.T * (function(values) - at_zero)[None]) @ basis
