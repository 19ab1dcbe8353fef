"""Influence functions on projected gradients: short enough to be kept for every example, and to be solved with exactly.

LoGra and GraSS project the gradients in different ways and then take the same influence function (`projected_influence`);
TrackStar corrects and normalises them before it compares them. Here the whole gradient of each example is computed first: the
networks are small, and what is studied is what a projection loses, not the memory that it saves.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from unlearn_jax.influence import checks
from unlearn_jax.influence.curvature import Vectors, dense_layers, joined
from unlearn_jax.influence.gradients import directions, per_example, slopes
from unlearn_jax.influence.response import Training, losses
from unlearn_jax.models.paths import at
from unlearn_jax.training.precision import precise
from unlearn_jax.types import Examples, Key, Variables

Blocks = list[Float[Array, "vectors _k"]]
Projection = Callable[[Training, Variables, Vectors], Blocks]
"""`(run, variables, vectors) -> blocks`: a linear map of gradients over all weights, the same map for all; what lies in different
blocks is taken to be independent. The square of a projected length is in the mean that of the vector."""


def kronecker(key: Key, rank: int = 8) -> Projection:
    """LoGra's projection: P_i' G P_o of each dense layer's gradient G = Σ x δ' `[in + 1, out]`, that is (P_i' x) (P_o' δ)'.

    With vec(·) row by row it is (P_i ⊗ P_o)' vec(G). Each layer is a block. P_i and P_o have orthogonal random columns: where
    `rank` is not below a size, that side is only rotated, and nothing is lost. Deviation: the source draws plain random matrices,
    or takes the main components of x and δ, and projects x and δ before their product is made.

    Args:
        key: draws the matrices.
        rank: columns of P_i and of P_o, at least 1 and at most the size of their side.

    Returns:
        A projection that raises ValueError for a model that does not declare its dense layers, or that has other parameters than
        their kernels and biases.

    Raises:
        ValueError: `rank` is not an integer of at least 1.

    Source: Choe et al. 2024 (LoGra), arXiv 2405.13954.
    """
    checks.count("rank", rank, math.inf)

    @precise
    def project(run: Training, variables: Variables, vectors: Vectors) -> Blocks:
        _, restore = ravel_pytree(variables.params)
        trees, blocks = jax.vmap(restore)(vectors), []
        for number, layer in enumerate(dense_layers("LoGra", run, variables)):
            gradients = joined(*(at(trees, path) for path in layer))
            sides = zip(jax.random.split(jax.random.fold_in(key, number)), gradients.shape[1:], strict=True)
            across, along = (_orthogonal(side_key, size, rank, vectors.dtype) for side_key, size in sides)
            blocks.append((across.T @ gradients @ along).reshape(len(vectors), -1))
        return blocks

    return project


def sparse(key: Key, kept: int = 1024, dimensions: int = 256) -> Projection:
    """GraSS's projection: `kept` random weights of all, each added with a random sign to one of `dimensions` sums.

    A random mask, then a sparse Johnson-Lindenstrauss transform with one entry a column. It needs no product of matrices. The
    whole is one block. Deviation: the source can also learn which weights to keep; here they are drawn.

    Args:
        key: draws the weights, their signs and their sums.
        kept: weights that are kept, at least 1 and at most all.
        dimensions: length of the result, at least 1.

    Raises:
        ValueError: `kept` or `dimensions` is not an integer of at least 1.

    Source: Hu et al. 2025 (GraSS), arXiv 2505.18976.
    """
    checks.count("kept", kept, math.inf)
    checks.count("dimensions", dimensions, math.inf)

    @precise
    def project(run: Training, variables: Variables, vectors: Vectors) -> Blocks:
        weight_key, sum_key, sign_key = jax.random.split(key, 3)
        size = vectors.shape[1]
        count = min(kept, size)
        chosen = jax.random.permutation(weight_key, size)[:count]
        signs = jax.random.rademacher(sign_key, (count,), vectors.dtype) * math.sqrt(size / count)
        sums = jax.random.randint(sum_key, (count,), 0, dimensions)
        return [jnp.zeros((len(vectors), dimensions), vectors.dtype).at[:, sums].add(vectors[:, chosen] * signs[None])]

    return project


@precise
def projected_influence(
    run: Training, variables: Variables, targets: Examples, projection: Projection, damping: float
) -> Float[Array, "points targets"]:
    """Σ over blocks of P∇f · (F + λI)^-1 P r_i, with F the mean of P∇ℓ (P∇ℓ)', the empirical Fisher matrix, of each block.

    r_i = (∇ℓ_i - ∇L) / n, as in `gradients`. In nats. Ignores what `influence_functions` ignores, what the projection loses, and
    what couples blocks. Gradients are taken at the given labels, so fitted examples add almost no curvature (as in `data_inf`).
    Deviation: λ is given, where LoGra takes a tenth of the mean eigenvalue of F.

    Args:
        run: gives the examples and the model.
        variables: of the trained model.
        targets: the examples whose margins are f.
        projection: `kronecker` for LoGra, `sparse` for GraSS.
        damping: λ, above 0.

    Raises:
        ValueError: `damping` is not above 0 or not finite, there are no targets, or the labels of the training examples or of
            the targets are not integers, not one for each, or no class of the model. Traced values are not checked; their
            shapes are.

    Source: Choe et al. 2024, arXiv 2405.13954; Hu et al. 2025, arXiv 2505.18976.
    """
    checks.positive("damping", damping)
    checks.labelled(run, variables, targets)
    gradients = per_example(losses, run.model, variables, run.examples)
    pairs = _both(run, variables, gradients, slopes(run, variables, targets), projection)
    total = jnp.zeros((len(gradients), len(targets.labels)), gradients.dtype)
    for own, wanted in pairs:
        push = (own - jnp.mean(own, axis=0, keepdims=True)) / len(own)
        total = total + push @ jnp.linalg.solve(_second_moment(own, damping), wanted.T)
    return total


@precise
def trackstar(
    run: Training, variables: Variables, targets: Examples, projection: Projection, damping: float = 0.1
) -> Float[Array, "points targets"]:
    """TrackStar: the cosine of R^-½ P (∇f / √V) and R^-½ P (∇ℓ_i / √V).

    V is the mean square of each weight's gradient over the training examples, R the mean of the outer products of the projected
    gradients, block by block; both make directions that all examples share count less. In [-1, 1]: for rankings, not in nats.
    Weights whose gradient is 0 for all examples are left out.

    Deviations: V is the optimiser's second moment in the source, which full-batch descent does not have; R is not mixed with that
    of the targets, but damped, since here it can be singular; and ∇f is a margin's and not a loss's gradient.

    Args:
        run: gives the examples and the model.
        variables: of the trained model.
        targets: the examples whose margins are f.
        projection: P; the source has random matrices on both sides of each layer's gradient, as `kronecker`.
        damping: added to R, in units of the mean of its diagonal; above 0.

    Raises:
        ValueError: `damping` is not above 0 or not finite, there are no targets, or the labels of the training examples or of
            the targets are not integers, not one for each, or no class of the model. Traced values are not checked; their
            shapes are.

    Source: Chang et al. 2024, arXiv 2410.17413.
    """
    checks.positive("damping", damping)
    checks.labelled(run, variables, targets)
    gradients, target_slopes = per_example(losses, run.model, variables, run.examples), slopes(run, variables, targets)
    squares = jnp.mean(gradients**2, axis=0)
    scale = jnp.where(squares > 0, 1 / jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)[None]
    corrected = []
    for own, wanted in _both(run, variables, gradients * scale, target_slopes * scale, projection):
        size = jnp.mean(jnp.mean(own**2, axis=0))
        values, basis = jnp.linalg.eigh(_second_moment(own, jnp.where(size > 0, damping * size, 1.0)))
        corrected.append([vectors @ basis / jnp.sqrt(values)[None] for vectors in (own, wanted)])
    own_whole, wanted_whole = (directions(jnp.concatenate(parts, axis=1)) for parts in zip(*corrected, strict=True))
    return own_whole @ wanted_whole.T


def _both(
    run: Training,
    variables: Variables,
    own: Float[Array, "points p"],
    wanted: Float[Array, "targets p"],
    projection: Projection,
) -> list[tuple[Array, Array]]:
    """The blocks of both, in pairs."""
    return list(zip(*(projection(run, variables, vectors) for vectors in (own, wanted)), strict=True))


def _second_moment(rows: Float[Array, "rows k"], damping: float | Array) -> Float[Array, "k k"]:
    return rows.T @ rows / len(rows) + damping * jnp.eye(rows.shape[1], dtype=rows.dtype)


def _orthogonal(key: Key, size: int, rank: int, dtype: jnp.dtype) -> Float[Array, "size k"]:
    """Orthogonal random columns; the square of a projected length is in the mean that of the vector."""
    columns = min(rank, size)
    return jnp.linalg.qr(jax.random.normal(key, (size, columns), dtype))[0] * math.sqrt(size / columns)
