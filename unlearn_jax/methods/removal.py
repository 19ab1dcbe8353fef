"""One-step estimates of the retrained weights, each by solving a linear system."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from unlearn_jax.methods.pieces import edit
from unlearn_jax.methods.registry import Number, register
from unlearn_jax.models.paths import at, replaced
from unlearn_jax.training.gradients import batch_gradient, head_features, jacobian
from unlearn_jax.training.precision import precise
from unlearn_jax.training.sampling import Source, draw
from unlearn_jax.types import Key, Method, Problem, Variables

# The third derivative of log Σ exp z, as an operator, is at most this: the third central moment of a variable whose range is √2.
SOFTMAX_SMOOTHNESS = 2**0.5 / 27**0.5


@register(
    access="F+R",
    reference="influence unlearning of arXiv 2304.04934, after WoodFisher (2004.14340)",
    search={"alpha": (0.02, 5.0), "damping": (1e-3, 1.0)},
)
def woodfisher(*, alpha: Number = 0.2, damping: Number = 1.0, samples: int = 1000, authors_recursion: bool = False) -> Method:
    """Influence unlearning: removes the forget set's influence in one step, with an inverse empirical Fisher matrix.

    With n = |D| and v = Σ_F ∇ / n - |F| / (n |R|) Σ_R ∇, θ += alpha F^-1 v, where F = damping I + mean of g gᵀ over single
    examples of R. The Woodbury identity inverts F with all examples at once, where the paper recurses over them: the same matrix.
    Deviation: the authors' code never updates the direction it takes from the first example, so its result is not an inverse.
    `authors_recursion` reproduces that code, on two more examples (their loop ends late) or on all of a smaller R; its formula
    has the constant `samples` even then.

    Args:
        alpha: step length; 1 for the influence function's own.
        damping: keeps the inverse finite; 1 in the authors' code.
        samples: examples of R in F, at most |R|; takes memory for samples x weights numbers.
        authors_recursion: compute F^-1 v as the authors' code does, without damping.
    """

    def change(key: Key, problem: Problem, variables: Variables) -> Variables:
        weights, structured = ravel_pytree(variables.params)
        share = problem.forget_count / problem.retain_count
        influence = batch_gradient(problem, variables, "kept", weights=jnp.where(problem.forget, 1.0, -share))
        (rows,) = draw(key, [Source(problem.retain, problem.retain_count, 1)], samples + 2 * authors_recursion)[0]
        gradients = jacobian(problem, variables, rows, loss)
        vector = ravel_pytree(influence)[0]
        if authors_recursion:
            step, _ = published_product(gradients, vector, samples)
        else:
            step = inverse_product(gradients, vector, damping)
        return variables._replace(params=structured(weights + alpha * step))

    return edit(change)


def loss(logits: Float[Array, " classes"], label: Int[Array, ""]) -> Float[Array, ""]:
    """The cross-entropy of one example."""
    return -jax.nn.log_softmax(logits)[label]


@precise
def inverse_product(
    gradients: Float[Array, "samples weights"], vector: Float[Array, " weights"], damping: float | Array
) -> Float[Array, " weights"]:
    """(damping I + mean of g gᵀ)^-1 vector, by a linear system with one unknown per sample (Woodbury)."""
    count = len(gradients)
    gram = gradients @ gradients.T
    inner = jnp.linalg.solve(gram + damping * count * jnp.eye(count), gradients @ vector)
    return (vector - gradients.T @ inner) / damping


@precise
def published_product(
    gradients: Float[Array, "examples weights"], vector: Float[Array, " weights"], samples: int
) -> tuple[Float[Array, " weights"], Float[Array, " weights"]]:
    """What the authors' code computes for F^-1 vector, and its final `o`, which stays a multiple of the first gradient.

    `samples` is their constant N, whatever the number of gradients.
    """

    def step(carry, gradient):
        k, o = carry
        scale = samples + o @ gradient
        return (k - (k @ gradient) / scale * o, o - (o @ gradient) / scale * o), None

    return jax.lax.scan(step, (vector, gradients[0]), gradients[1:])[0]


@register(
    access="F+R",
    reference="Certified removal, arXiv 1911.03030",
    needs=["features", "linear head"],
    search={"weight_decay": (1e-5, 1e-2)},
)
def newton(*, weight_decay: Number = 5e-4) -> Method:
    """Certified removal on the head: one Newton step from the head's optimum on all data to that on the retain set.

    With features held fixed, head += H^-1 Δ, where Δ = Σ_F ∇CE + |F| weight_decay W and H is the Hessian of Σ_R CE + |R|
    weight_decay / 2 |W|². If W is the optimum on D, the gradient that remains on R is at most `removal_bound`. This certifies
    nothing about the network, whose features were trained on F. Deviations: one softmax head (the authors': a logistic regression
    per class); no loss perturbation in training.

    Args:
        weight_decay: of the head; with the value of the training recipe, W is close to the optimum.
    """

    def change(key: Key, problem: Problem, variables: Variables) -> Variables:
        head = problem.model.head
        assert head
        forget, retain = (jnp.nonzero(mask, size=count)[0] for mask, count in map(problem.rows, ("forget", "retain")))
        features = head_features(problem, variables, jnp.concatenate([retain, forget]))
        weights = at(variables.params, head.kernel)
        if head.bias:
            weights = jnp.concatenate([weights, at(variables.params, head.bias)[None]])
        kept, removed = jnp.split(features, [len(retain)])
        moved = weights + removal_step(weights, kept, removed, problem.train.labels[forget], weight_decay)
        changed = {head.kernel: moved[:-1], head.bias: moved[-1]} if head.bias else {head.kernel: moved}
        return variables._replace(params=replaced(variables.params, changed))

    return edit(change)


@precise
def removal_step(
    weights: Float[Array, "features classes"],
    kept: Float[Array, "kept features"],
    removed: Float[Array, "removed features"],
    labels: Int[Array, " removed"],
    weight_decay: float | Array,
) -> Float[Array, "features classes"]:
    """The Newton step of a softmax regression from its optimum on all examples to that on the kept ones.

    Args:
        weights: the optimum of Σ CE + examples x weight_decay / 2 |weights|² over kept and removed examples.
        kept: their features; their labels do not matter.
        removed: features of the examples to be removed.
        labels: theirs.
        weight_decay: of the mean loss.
    """
    errors = jax.nn.softmax(removed @ weights) - jax.nn.one_hot(labels, weights.shape[1])
    slope = removed.T @ errors + len(removed) * weight_decay * weights
    p = jax.nn.softmax(kept @ weights)

    def curvature(label):  # class by class: all at once would hold examples x classes² x features numbers
        spread = p[:, label, None] * (jax.nn.one_hot(label, p.shape[1])[None] - p)
        return jnp.einsum("ni,nb,nj->ibj", kept, spread, kept)

    hessian = jax.lax.map(curvature, jnp.arange(p.shape[1])).reshape(weights.size, weights.size)
    hessian += len(kept) * weight_decay * jnp.eye(weights.size)
    return jnp.linalg.solve(hessian, slope.T.ravel()).reshape(weights.T.shape).T


@precise
def removal_bound(kept: Float[Array, "kept features"], step: Float[Array, "features classes"]) -> Float[Array, ""]:
    """A bound on the norm of the gradient of Σ CE + decay over the kept examples after a `removal_step`.

    γ / 2 |X| sqrt(Σ_i |x_i step|⁴), |X| the largest singular value and γ = √2 / √27 the Lipschitz constant of the softmax's
    Hessian. It depends on the data, as Corollary 1 of arXiv 1911.03030 does for the logistic loss. Divided by the number of
    kept examples and the weight decay (the convexity), it bounds the distance to the retrained optimum.

    Args:
        kept: features of the examples that stay.
        step: of `removal_step`, from an exact optimum.
    """
    moves = jnp.sum((kept @ step) ** 2, axis=1)
    return SOFTMAX_SMOOTHNESS / 2 * jnp.linalg.norm(kept, 2) * jnp.linalg.norm(moves)


@register(access="F+R", reference="arXiv 2003.02960", search={"scale": (0.03, 3.0), "weight_decay": (1e-5, 0.1)})
def ntk(*, scale: Number = 1.0, weight_decay: Number = 5e-4, samples: int = 50) -> Method:
    """NTK forgetting: adds the weight change that removing the forget set causes in the linearised network.

    The network linearised at θ and trained on S has w_S = G_S (G_Sᵀ G_S + |S| weight_decay I)^-1 (y - f_0), G_S the derivatives
    of all logits on S; θ += scale (w_R - w_D). Here y - f_0 = G_Sᵀ θ - (softmax(f) - label), which takes the initial weights to
    be zero, where weight decay pulls. Deviations: the authors start from known (pretrained) weights and estimate `scale` from
    them; their code uses y - f(θ) for y - f_0, which nearly vanishes where θ fits; F and R are each represented by a weighted
    sample; their noise is left out (it is `fisher`, to be piped behind).

    Args:
        scale: factor on the weight change.
        weight_decay: of the training recipe.
        samples: examples of each of F and R, at most; takes memory for 2 x samples x classes x weights numbers.
    """

    @precise
    def change(key: Key, problem: Problem, variables: Variables) -> Variables:
        weights, structured = ravel_pytree(variables.params)
        sizes = np.array([problem.retain_count, problem.forget_count])
        retain, forget = draw(key, [Source(problem.retain, int(sizes[0]), 1), Source(problem.forget, int(sizes[1]), 1)], samples)
        rows = jnp.concatenate([retain[0], forget[0]])
        counts = np.array([retain.size, forget.size])
        # an example stands for sizes / counts of its set
        scales = np.repeat(np.sqrt(sizes / counts), counts).astype(np.float32)

        logits, _ = problem.model.apply(variables, problem.train.images[rows], train=False)
        errors = jax.nn.softmax(logits) - jax.nn.one_hot(problem.train.labels[rows], problem.classes)
        derivatives = scales[:, None, None] * jacobian(problem, variables, rows, lambda logits, label: logits)
        derivatives = derivatives.reshape(-1, weights.size)
        targets = derivatives @ weights - (scales[:, None] * errors).ravel()
        kernel = derivatives @ derivatives.T

        def coefficients(drawn, stands_for):
            size = drawn * problem.classes
            ridge = stands_for * weight_decay * jnp.eye(size)
            return jnp.pad(jnp.linalg.solve(kernel[:size, :size] + ridge, targets[:size]), (0, len(targets) - size))

        without, with_forget = coefficients(counts[0], sizes[0]), coefficients(counts.sum(), sizes.sum())
        return variables._replace(params=structured(weights + scale * (without - with_forget) @ derivatives))

    return edit(change)
