"""Fine-tuning towards sparse weights."""

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.methods.pieces import steps_for
from unlearn_jax.methods.registry import Number, register
from unlearn_jax.methods.retraining import sgd
from unlearn_jax.training.descend import descend
from unlearn_jax.training.objectives import Term, cross_entropy, weighted
from unlearn_jax.training.transforms import proximal_l1
from unlearn_jax.types import Key, Method, Problem, Variables


@register(
    access="R",
    reference="arXiv 2304.04934",
    identity_at_zero=True,
    search={"learning_rate": (1e-3, 0.3), "penalty": (1e-6, 1e-2)},
)
def l1_sparse(
    *, penalty: Number = 5e-4, learning_rate: Number = 0.01, weight_decay: Number = 5e-4, epochs: int = 10, batch_size: int = 256
) -> Method:
    """l1-sparse: fine-tunes on the retain set with an l1 penalty that decays linearly to zero.

    Minimises CE(R) + penalty (1 - t) |θ|_1 by SGD with momentum 0.9, t the share of the steps done. Deviation: the authors' t
    is the share of the epochs.

    Args:
        penalty: initial weight of the l1 norm.
        learning_rate: of SGD.
        weight_decay: added to the gradient.
        epochs: passes over R.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        def l1(params, progress):
            return penalty * (1.0 - progress) * sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(params))

        objective = weighted(Term("retain", cross_entropy), penalty=l1)
        steps = steps_for(problem, "retain", epochs, batch_size)
        transform = sgd(learning_rate, weight_decay)
        return descend(objective, transform, steps=steps, batch_size=batch_size)(key, problem, variables)

    return method


@register(
    access="R",
    reference="arXiv 2304.04934, by proximal steps",
    identity_at_zero=True,
    search={"learning_rate": (1e-3, 0.3), "penalty": (1e-6, 1e-2)},
)
def l1_sparse_proximal(
    *, penalty: Number = 5e-4, learning_rate: Number = 0.01, weight_decay: Number = 5e-4, epochs: int = 10, batch_size: int = 256
) -> Method:
    """l1-sparse by proximal steps: as `l1_sparse`, with soft thresholding, which sets weights exactly to zero.

    Soft thresholding follows each update; its threshold is learning_rate x penalty (1 - t).

    Args:
        penalty: initial weight of the l1 norm.
        learning_rate: of SGD with momentum 0.9.
        weight_decay: added to the gradient.
        epochs: passes over R.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        steps = steps_for(problem, "retain", epochs, batch_size)
        fading = proximal_l1(lambda count: learning_rate * penalty * (1.0 - count / steps))
        transform = optax.chain(sgd(learning_rate, weight_decay), fading)
        objective = weighted(Term("retain", cross_entropy))
        return descend(objective, transform, steps=steps, batch_size=batch_size)(key, problem, variables)

    return method
