"""Ascent on the loss of the forget set, alone or held back by the retain set."""

import optax

from unlearn_jax.methods.pieces import steps_for
from unlearn_jax.methods.registry import Number, register
from unlearn_jax.methods.retraining import sgd
from unlearn_jax.training.descend import descend
from unlearn_jax.training.objectives import Term, cross_entropy, weighted
from unlearn_jax.training.transforms import project_out
from unlearn_jax.types import Key, Method, Problem, Variables


@register(access="F", reference="arXiv 1911.04933 and SalUn's comparison, 2310.12508", identity_at_zero=True)
def gradient_ascent(*, learning_rate: Number = 1e-4, epochs: int = 5, batch_size: int = 256) -> Method:
    """Climbs the loss of the forget set.

    Minimises -CE(F) by SGD with momentum 0.9, no weight decay. Nothing bounds it: the learning rate decides (1e-5 to 0.1).

    Args:
        learning_rate: of SGD.
        epochs: passes over F.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        steps = steps_for(problem, "forget", epochs, batch_size)
        objective = weighted(Term("forget", cross_entropy, -1.0))
        return descend(objective, optax.sgd(learning_rate, 0.9), steps=steps, batch_size=batch_size)(key, problem, variables)

    return method


@register(access="F+R", reference="arXiv 2302.09880", identity_at_zero=True)
def neggrad_plus(
    *, alpha: Number = 0.95, learning_rate: Number = 0.01, weight_decay: Number = 5e-4, epochs: int = 5, batch_size: int = 128
) -> Method:
    """NegGrad+: climbs the loss of the forget set while it descends on the retain set.

    Minimises alpha CE(R) - (1 - alpha) CE(F) by SGD with momentum 0.9; F is cycled, one batch for each of R's.

    Args:
        alpha: weight of the retain set, in [0, 1].
        learning_rate: of SGD.
        weight_decay: added to the gradient.
        epochs: passes over R.
        batch_size: examples per step, of each set.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        steps = steps_for(problem, "retain", epochs, batch_size)
        objective = weighted(Term("retain", cross_entropy, alpha), Term("forget", cross_entropy, alpha - 1.0))
        transform = sgd(learning_rate, weight_decay)
        return descend(objective, transform, steps=steps, batch_size=batch_size)(key, problem, variables)

    return method


@register(access="F+R", reference="gradient projection, after PCGrad (arXiv 2001.06782)", identity_at_zero=True)
def projected_ascent(*, learning_rate: Number = 1e-3, epochs: int = 5, batch_size: int = 128) -> Method:
    """Climbs the loss of the forget set in the directions that leave the retain loss alone.

    Each step: u = -∇CE(F), r = ∇CE(R) on a batch, θ -= learning_rate (u - (<u, r> / <r, r>) r). The projection is of every
    step, whether the two gradients conflict or not.

    Args:
        learning_rate: of plain SGD: momentum would carry a step out of the plane it was projected on.
        epochs: passes over F.
        batch_size: examples per step, of each set.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        return descend(
            weighted(Term("forget", cross_entropy, -1.0)),
            optax.chain(project_out(), optax.sgd(learning_rate)),
            steps=steps_for(problem, "forget", epochs, batch_size),
            batch_size=batch_size,
            reference=weighted(Term("retain", cross_entropy)),
        )(key, problem, variables)

    return method
