"""Influence functions: the shift of the loss's minimum, with seven approximations of (H + λI)^-1.

H is the Hessian of the mean loss; G, the generalised Gauss-Newton matrix (for cross-entropy the Fisher matrix), is that of the
network linearised in its weights. G has no negative eigenvalue, and equals H where the network is linear.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from unlearn_jax.influence.gradients import per_example, pushes, slopes
from unlearn_jax.influence.response import Training, losses
from unlearn_jax.models.paths import arrays, at, replaced
from unlearn_jax.training.landscape import krylov
from unlearn_jax.training.precision import precise
from unlearn_jax.types import Examples, Key, Variables

Vectors = Float[Array, "vectors p"]
Inverse = Callable[[Training, Variables, Vectors], Vectors]
"""`(run, variables, vectors) -> (H + λI)^-1` of each row, around these variables; H is symmetric."""


@precise
def influence_functions(
    run: Training, variables: Variables, targets: Examples, inverse: Inverse, relative: bool = False
) -> Float[Array, "points targets"]:
    """∇f · (H + λI)^-1 r_i.

    The first-order shift of the minimum, if `variables` are the minimum of L + λ|θ|²/2, which they seldom are: the course of
    training, and its early end, are ignored.

    Args:
        run: gives the examples and the model.
        variables: of the trained model.
        targets: the examples whose margins are f.
        inverse: one of those below. It is applied to pushes or slopes, whichever are fewer.
        relative: RelatIF: divide each answer by |(H + λI)^-1 r_i| (0 where that is 0); for rankings, not in nats.

    Source: Koh and Liang 2017, arXiv 1703.04730; Barshan et al. 2020, arXiv 2003.11630 (`relative`).
    """
    all_pushes, target_slopes = pushes(run, variables), slopes(run, variables, targets)
    if not relative and len(target_slopes) < len(all_pushes):
        return all_pushes @ inverse(run, variables, target_slopes).T
    moved = inverse(run, variables, all_pushes)
    answers = moved @ target_slopes.T
    lengths = jnp.linalg.norm(moved, axis=1, keepdims=True)
    return answers / jnp.where(lengths > 0, lengths, 1.0) if relative else answers


def eigendecomposition(damping: float) -> Inverse:
    """(H + λI)^-1 by the eigendecomposition of H, with negative eigenvalues set to 0; p² memory, p³ time.

    Args:
        damping: λ, above 0; at least the weight decay of the training.
    """

    @precise
    def inverse(run: Training, variables: Variables, vectors: Vectors) -> Vectors:
        product = _hessian_product(run, variables)
        values, basis = jnp.linalg.eigh(jax.vmap(product)(jnp.eye(vectors.shape[1], dtype=vectors.dtype)))
        return vectors @ basis / (jnp.maximum(values, 0) + damping)[None] @ basis.T

    return inverse


def woodbury(damping: float) -> Inverse:
    """(G + λI)^-1 by Woodbury: with G = B'B it is (I - B' (BB' + λI)^-1 B) / λ, whose matrix has as many rows as B.

    Ignores the curvature of the network itself. (n classes) x p memory.

    Args:
        damping: λ, above 0.
    """

    @precise
    def inverse(run: Training, variables: Variables, vectors: Vectors) -> Vectors:
        rows = gauss_newton_rows(run, variables)
        gram = rows @ rows.T + damping * jnp.eye(len(rows), dtype=rows.dtype)
        return (vectors - jnp.linalg.solve(gram, rows @ vectors.T).T @ rows) / damping

    return inverse


def conjugate_gradients(damping: float, steps: int = 64) -> Inverse:
    """(G + λI)^-1 by conjugate gradients, which need only products with G. Ignores what `woodbury` ignores.

    Exact, up to rounding, after as many steps as G + λI has distinct eigenvalues; directions of low curvature converge last.

    Args:
        damping: λ, above 0.
        steps: products with G.

    Source: Martens 2010 (Hessian-free optimisation); Koh and Liang 2017, arXiv 1703.04730.
    """

    # Not jax.scipy's: its `while` has no length, so that `cost.flops` would count one product of the many.
    @precise
    def inverse(run: Training, variables: Variables, vectors: Vectors) -> Vectors:
        product = _gauss_newton_product(run, variables, run.examples)
        tiny = jnp.finfo(vectors.dtype).tiny

        def solve(vector: Array) -> Array:
            def step(state: tuple[Array, Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array, Array], None]:
                solution, residual, direction, squares = state
                image = product(direction) + damping * direction
                length = squares / jnp.maximum(direction @ image, tiny)
                residual = residual - length * image
                following = residual @ residual
                turned = residual + following / jnp.maximum(squares, tiny) * direction
                return (solution + length * direction, residual, turned, following), None

            start = (jnp.zeros_like(vector), vector, vector, vector @ vector)
            return jax.lax.scan(step, start, length=steps)[0][0]

        # rows of very different lengths would underflow in squares
        sizes = jnp.linalg.norm(vectors, axis=1, keepdims=True)
        sizes = jnp.where(sizes > 0, sizes, 1.0)
        return sizes * jax.vmap(solve)(vectors / sizes)

    return inverse


def lissa(damping: float, key: Key, steps: int = 1000, batch: int = 32) -> Inverse:
    """(G + λI)^-1 v as the limit of x <- x + (v - (G_t + λI) x) / σ, G_t of a batch drawn anew each step.

    σ is λ plus the largest trace of any single example's Gauss-Newton matrix: no batch has larger curvature, so nothing diverges.
    Directions whose curvature (with λ) is below σ / steps do not converge, and batches add noise. Ignores what `woodbury`
    ignores. Deviation: the source uses the Hessian, which is indefinite for a network, and a σ chosen by hand.

    Args:
        damping: λ, above 0.
        key: draws the batches.
        steps: of the recursion.
        batch: examples in each, drawn with replacement.

    Source: Agarwal et al. 2017, arXiv 1602.03943; Koh and Liang 2017, arXiv 1703.04730.
    """

    @precise
    def inverse(run: Training, variables: Variables, vectors: Vectors) -> Vectors:
        count = len(run.examples.labels)
        squares = jnp.sum(gauss_newton_rows(run, variables) ** 2, axis=1).reshape(count, -1)
        scale = damping + count * jnp.max(jnp.sum(squares, axis=1))

        def step(solution: Vectors, key: Key) -> tuple[Vectors, None]:
            drawn = jax.random.randint(key, (batch,), 0, count)
            product = _gauss_newton_product(run, variables, jax.tree.map(lambda leaf: leaf[drawn], run.examples))
            return solution + (vectors - jax.vmap(product)(solution) - damping * solution) / scale, None

        return jax.lax.scan(step, vectors / scale, jax.random.split(key, steps))[0]

    return inverse


def arnoldi(damping: float, key: Key, steps: int = 64, rank: int = 32) -> Inverse:
    """Σ_j u_j u_j' / (s_j + λ) over the eigenvalues s_j of H with the largest magnitude, found by Arnoldi's iteration.

    H is projected on the Krylov space of a random vector, see `landscape.krylov`. Components outside the chosen eigenvectors are
    dropped, where the inverse would multiply them by 1/λ. Negative eigenvalues are set to 0, as in `eigendecomposition`; the
    source divides by them.

    Args:
        damping: λ, above 0.
        key: draws the first vector.
        steps: products with H.
        rank: number of eigenvectors, at most `steps`.

    Source: Schioppa et al. 2022, arXiv 2112.03052.
    """

    @precise
    def inverse(run: Training, variables: Variables, vectors: Vectors) -> Vectors:
        product = _hessian_product(run, variables)
        first = jax.random.normal(key, vectors.shape[1:], vectors.dtype)
        basis, images = krylov(product, first, steps)
        projected = basis @ images.T
        values, turned = jnp.linalg.eigh((projected + projected.T) / 2)
        largest = jnp.argsort(-jnp.abs(values))[:rank]
        kept = turned[:, largest].T @ basis
        return vectors @ kept.T / (jnp.maximum(values[largest], 0) + damping)[None] @ kept

    return inverse


def ek_fac(damping: float) -> Inverse:
    """(G + λI)^-1 by EK-FAC: each dense layer's block of G in the eigenbasis of A ⊗ S, with its exact diagonal there.

    A = E[a a'] of a layer's inputs (with a last 1 for the bias), S = E[g g'] of the gradients of its outputs, over examples and
    over labels drawn from the model's predictions. In the basis of their eigenvectors the mean squares of the gradients serve as
    eigenvalues. Ignores what couples layers, and each block's off-diagonal part in that basis.

    Args:
        damping: λ, above 0.

    Returns:
        An inverse that raises ValueError for a model that does not declare its dense layers, or that has other parameters than
        their kernels and biases.

    Source: George et al. 2018, arXiv 1806.03884; Grosse et al. 2023, arXiv 2308.03296.
    """

    @precise
    def inverse(run: Training, variables: Variables, vectors: Vectors) -> Vectors:
        _, restore = ravel_pytree(variables.params)
        layers = dense_layers("EK-FAC", run, variables)
        gradients, moved = jax.vmap(restore)(gauss_newton_rows(run, variables)), jax.vmap(restore)(vectors)
        for layer in layers:
            layer_gradients, layer_vectors = ([at(tree, path) for path in layer] for tree in (gradients, moved))
            solved = _kronecker_inverse(layer_gradients, layer_vectors, len(run.examples.labels), damping)
            moved = replaced(moved, dict(zip(layer, solved, strict=True)))
        return jax.vmap(lambda tree: ravel_pytree(tree)[0])(moved)

    return inverse


def data_inf(damping: float) -> Inverse:
    """The mean over examples of (∇ℓ_i ∇ℓ_i' + λI)^-1, layer by layer: approximates the inverse of a mean by a mean of inverses.

    Each term has a closed form (Sherman and Morrison), so nothing is solved. Ignores what couples layers. Gradients are taken at
    the given labels, so fitted examples add almost no curvature. Deviation: one λ, where the source has one for each layer, a
    tenth of its mean squared gradient.

    Args:
        damping: λ, above 0.

    Source: Kwon et al. 2023, arXiv 2310.00902.
    """

    @precise
    def inverse(run: Training, variables: Variables, vectors: Vectors) -> Vectors:
        gradients = per_example(losses, run.model, variables, run.examples)
        numbered = {
            name: jax.tree.map(lambda leaf, number=number: jnp.full(leaf.shape, number), layer)
            for number, (name, layer) in enumerate(variables.params.items())
        }
        layers, _ = ravel_pytree(numbered)
        moved = vectors
        for number in range(len(numbered)):
            inside = jnp.where(layers[None] == number, gradients, 0.0)
            shares = vectors @ inside.T / (damping + jnp.sum(inside**2, axis=1))[None]
            moved = moved - shares @ inside / len(gradients)
        return moved / damping

    return inverse


@precise
def gauss_newton_rows(run: Training, variables: Variables) -> Float[Array, "rows p"]:
    """B with G = B'B: √(p_c / n) ∇(-log p_c) of every example and every class c, the classes of an example in turn."""
    flat, restore = ravel_pytree(variables.params)

    def example_rows(image: Array) -> Array:
        def logits(flat: Array) -> Array:
            return run.model.apply(variables._replace(params=restore(flat)), image[None], train=False)[0][0]

        shares = jax.nn.softmax(logits(flat))
        errors = shares[None] * (1 - jnp.eye(len(shares), dtype=shares.dtype))
        errors = errors - jnp.diag(jnp.sum(errors, axis=1))  # p_j - 1 of a confident prediction, without cancellation
        return jnp.sqrt(shares)[:, None] * (errors @ jax.jacrev(logits)(flat))

    rows = jax.vmap(example_rows)(jnp.asarray(run.examples.images))
    return rows.reshape(-1, len(flat)) / jnp.sqrt(len(rows))


def _gauss_newton_product(run: Training, variables: Variables, examples: Examples) -> Callable[[Array], Array]:
    """V -> G v over some examples, without G."""
    flat, restore = ravel_pytree(variables.params)

    def logits(flat: Array) -> Array:
        return run.model.apply(variables._replace(params=restore(flat)), examples.images, train=False)[0]

    outputs, forward = jax.linearize(logits, flat)
    backward = jax.linear_transpose(forward, flat)
    shares = jax.nn.softmax(outputs)

    def product(vector: Array) -> Array:
        moved = forward(vector)
        curved = shares * (moved - jnp.sum(shares * moved, axis=1, keepdims=True)) / len(outputs)
        return backward(curved)[0]

    return product


def _hessian_product(run: Training, variables: Variables) -> Callable[[Array], Array]:
    """V -> H v over all examples, without H."""
    flat, restore = ravel_pytree(variables.params)

    def loss(flat: Array) -> Array:
        return jnp.mean(losses(run.model, variables._replace(params=restore(flat)), run.examples))

    return jax.linearize(jax.grad(loss), flat)[1]


def dense_layers(method: str, run: Training, variables: Variables) -> list[tuple[str, str]]:
    """Kernel and bias of every dense layer.

    Raises:
        ValueError: the model does not declare its dense layers, or has other parameters; the line begins with `method`.
    """
    if run.model.dense is None:
        raise ValueError(f"{method} needs Model.dense, which this model does not declare")
    layers = [(layer.kernel, layer.bias) for layer in run.model.dense if layer.bias]
    others = sorted(set(arrays(variables.params)) - {path for layer in layers for path in layer})
    if others:
        raise ValueError(f"{method} supports dense layers with a kernel and a bias; {others[0]!r} is something else")
    return layers


def joined(kernel: Float[Array, "vectors in out"], bias: Float[Array, "vectors out"]) -> Float[Array, "vectors _rows out"]:
    """A layer's kernel with its bias as the last row: that of an input which is always 1."""
    return jnp.concatenate([kernel, bias[:, None]], axis=1)


def _kronecker_inverse(gradients: list[Array], vectors: list[Array], examples: int, damping: float) -> tuple[Array, Array]:
    """One layer of `ek_fac`. The gradients are rows of B, each an outer product of the layer's input and output gradient."""
    kernels, errors = (part.reshape(examples, -1, *part.shape[1:]) for part in gradients)
    strength = jnp.sum(errors**2, axis=(1, 2))[:, None]
    read = jnp.einsum("ncio,nco->ni", kernels, errors) / jnp.where(strength > 0, strength, 1.0)
    read = jnp.concatenate([read, jnp.ones_like(strength)], axis=1)
    _, across = jnp.linalg.eigh(read.T @ read / examples)
    _, along = jnp.linalg.eigh(jnp.einsum("nco,ncp->op", errors, errors))

    squares = jnp.sum((across.T @ joined(*gradients) @ along) ** 2, axis=0)
    moved = across @ (across.T @ joined(*vectors) @ along / (squares + damping)[None]) @ along.T
    return moved[:, :-1], moved[:, -1]
