"""The loss surface around trained models and between them: combinations of weights, and the curvature."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from unlearn_jax.training.gradients import mean_over
from unlearn_jax.training.objectives import Batch, cross_entropy
from unlearn_jax.training.precision import precise
from unlearn_jax.types import Key, Model, Problem, Variables

Product = Callable[[Float[Array, " p"]], Float[Array, " p"]]
"""A symmetric matrix, as its product with a vector."""


class Eigenvalue(NamedTuple):
    """An estimate of an eigenvalue."""

    value: Float[Array, ""]
    residual: Float[Array, ""]  # |H v - λ v| of its unit vector v: an eigenvalue is at most this far away


@precise
def combined(models: Variables, shares: Float[Array, " models"]) -> Variables:
    """`Σ_i w_i θ_i`: a point on the line, the plane, ... through some models, if the shares sum to 1.

    BatchNorm statistics are combined too, and then fit no network: see `recalibrated`. Counters are those of the first model.

    Args:
        models: with a leading axis of models.
        shares: one per model; negative ones extrapolate.
    """
    return jax.tree.map(lambda leaf: jnp.tensordot(shares, leaf, axes=1) if _averages(leaf) else leaf[0], models)


@precise
def recalibrated(model: Model, variables: Variables, images: Float[Array, "batches batch *image"]) -> Variables:
    """The same weights, with BatchNorm statistics measured on some images and averaged over batches.

    Activations are not linear in the weights, so interpolated means and variances are not those of the interpolated network, and
    would add their own error to the loss along a line. The statistics in `variables` are ignored. A model without statistics is
    returned unchanged.

    Args:
        model: whose running statistics move by `s <- m s + (1 - m) batch` in train mode; m is measured on two images.
        variables: the weights.
        images: at least two in each batch.

    Source: Izmailov et al., arXiv 1803.05407 (stochastic weight averaging), section 3.2; Garipov et al., arXiv 1802.10026.
    """
    if not variables.statistics:
        return variables

    def moved(start: float, batch: Array) -> dict:
        filled = jax.tree.map(lambda leaf: jnp.full_like(leaf, start) if _averages(leaf) else leaf, variables.statistics)
        return model.apply(variables._replace(statistics=filled), batch, train=True, **model.keyed(jax.random.key(0)))[1]

    def averaged(before: Array, after: Array, one: Array, zero: Array) -> Array:
        return jnp.mean(after, axis=0) / (1 - (one - zero)) if _averages(before) else before

    ends = (moved(1.0, images[0, :2]), moved(0.0, images[0, :2]))
    after = jax.lax.map(lambda batch: moved(0.0, batch), images)
    return variables._replace(statistics=jax.tree.map(averaged, variables.statistics, after, *ends))


def _averages(leaf: Array) -> bool:
    """Whether the mean of such arrays has a meaning: not for counters and flags."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def hessian_product(
    problem: Problem, variables: Variables, rows: tuple[Bool[Array, " examples"], int], chunk: int = 64
) -> Product:
    """`v -> H v`, H the Hessian of the mean cross-entropy over some training examples: the gradient's derivative along v.

    Eval mode (BatchNorm normalises by its running statistics, which do not move with the weights), no augmentation, no weight
    decay. Each product passes through all examples, a chunk at a time, and holds the intermediate results of one.

    Args:
        problem: the examples and the model.
        variables: where H is taken; vectors are in the order of `ravel_pytree(variables.params)`.
        rows: a mask over the training set and its count, as `problem.rows(source)` gives them.
        chunk: examples that go through the network at a time.

    Source: Pearlmutter, "Fast Exact Multiplication by the Hessian", Neural Computation 6, 1994.
    """
    flat, restore = ravel_pytree(variables.params)

    @precise
    def product(vector: Float[Array, " p"]) -> Float[Array, " p"]:
        def weighted_sum(rows: Array, weights: Array) -> Array:
            images, labels = problem.train.images[rows], problem.train.labels[rows]

            def total(flat: Array) -> Array:
                logits, _ = problem.model.apply(variables._replace(params=restore(flat)), images, train=False)
                return jnp.sum(weights * cross_entropy(logits, Batch(images, labels, rows, jax.random.key(0))))

            return jax.jvp(jax.grad(total), (flat,), (vector,))[1]

        return mean_over(problem, rows, weighted_sum, chunk)

    return product


@precise
def krylov(product: Product, first: Float[Array, " p"], steps: int) -> tuple[Float[Array, "steps p"], Float[Array, "steps p"]]:
    """An orthonormal basis Q of the span of v, Hv, H²v, ..., and HQ.

    Each product is orthogonalised against all vectors before (twice: once is not enough in float32). Rows are 0 once the space
    is exhausted.

    Args:
        product: of the symmetric matrix H.
        first: v, of any length above 0.
        steps: products with H.
    """
    basis = jnp.zeros((steps, len(first)), first.dtype).at[0].set(first / jnp.linalg.norm(first))
    noise = 100 * jnp.finfo(first.dtype).eps

    def step(basis: Array, place: Array) -> tuple[Array, Array]:
        image = product(basis[place])
        outside = image
        for _ in range(2):
            outside = outside - basis.T @ (basis @ outside)
        length = jnp.linalg.norm(outside)
        # nothing but rounding is left once the space is exhausted
        following = jnp.where(length > noise * jnp.linalg.norm(image), outside / jnp.where(length > 0, length, 1.0), 0.0)
        return basis.at[place + 1].set(following, mode="drop"), image

    return jax.lax.scan(step, basis, jnp.arange(steps))


@precise
def largest_eigenvalue(product: Product, first: Float[Array, " p"], steps: int) -> Eigenvalue:
    """The (algebraically) largest eigenvalue, by Lanczos' iteration with full reorthogonalisation.

    The largest eigenvalue of H on the Krylov space of `first`: up to rounding a lower bound for that of H, and close after some
    12 steps if the largest eigenvalues are well separated; `residual` says how close. 0 if no eigenvalue is above 0 and the space
    is exhausted.

    Args:
        product: of the symmetric matrix H.
        first: start vector, for instance normal noise.
        steps: products with H.

    Source: Lanczos 1950; Golub & Van Loan, "Matrix Computations", chapter 10.
    """
    basis, images = krylov(product, first, steps)
    projected = basis @ images.T
    values, turned = jnp.linalg.eigh((projected + projected.T) / 2)
    best = turned[:, -1]
    return Eigenvalue(values[-1], jnp.linalg.norm(best @ images - values[-1] * (best @ basis)))


@precise
def sharpness(
    key: Key, problem: Problem, variables: Variables, rows: tuple[Bool[Array, " examples"], int], steps: int = 12, chunk: int = 64
) -> Eigenvalue:
    """The largest eigenvalue of the Hessian of the mean cross-entropy over some training examples.

    It depends on the parametrisation: a network that computes the same function with rescaled weights has another (Dinh et al.,
    arXiv 1703.04933). Models that were trained alike can be compared.

    Args:
        key: draws the first vector.
        problem: the examples and the model.
        variables: where the Hessian is taken, see `hessian_product`.
        rows: a mask over the training set and its count.
        steps: products with the Hessian.
        chunk: examples that go through the network at a time.

    Source: Hochreiter & Schmidhuber, "Flat Minima", Neural Computation 9, 1997; Keskar et al., arXiv 1609.04836.
    """
    flat, _ = ravel_pytree(variables.params)
    return largest_eigenvalue(hessian_product(problem, variables, rows, chunk), jax.random.normal(key, flat.shape), steps)
