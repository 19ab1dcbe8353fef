"""A student that is taught by other networks what to keep and what to forget."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unlearn_jax.methods.pieces import steps_for, with_share_of_retain
from unlearn_jax.methods.registry import Number, register
from unlearn_jax.training.descend import descend
from unlearn_jax.training.fit import initialise
from unlearn_jax.training.objectives import Batch, Term, cross_entropy, divergence, weighted
from unlearn_jax.training.sampling import steps_in_pass
from unlearn_jax.types import Key, Method, Problem, Variables


@register(access="F+R", reference="arXiv 2205.08096", static=["retain_share"], identity_at_zero=True)
def bad_teacher(
    *, learning_rate: Number = 1e-4, temperature: Number = 1.0, retain_share: float = 0.3, epochs: int = 1, batch_size: int = 256
) -> Method:
    """Bad teacher: imitates a random network on the forget set and the original elsewhere.

    Minimises KL(random net || student) on F and KL(θ0 || student) on a random share of R, in one shuffled stream, by Adam.
    Both teachers are in eval mode.

    Args:
        learning_rate: of Adam.
        temperature: of both softmaxes.
        retain_share: of R that is used, in (0, 1].
        epochs: passes over F and that share.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        teacher_key, subset_key, descent_key = jax.random.split(key, 3)
        incompetent = initialise(teacher_key, problem)
        problem = with_share_of_retain(subset_key, problem, retain_share)

        def loss(logits, batch: Batch):
            bad, _ = problem.model.apply(incompetent, batch.images, train=False)
            good, _ = problem.model.apply(variables, batch.images, train=False)
            teacher = jnp.where(problem.forget[batch.rows][:, None], bad, good)
            return divergence(teacher, logits, temperature)

        steps = steps_for(problem, "kept", epochs, batch_size)
        transform = optax.adam(learning_rate)
        return descend(weighted(Term("kept", loss)), transform, steps=steps, batch_size=batch_size)(
            descent_key, problem, variables
        )

    return method


@register(access="F+R", reference="arXiv 2302.09880", identity_at_zero=True)
def scrub(
    *,
    learning_rate: Number = 5e-4,
    alpha: Number = 0.5,
    gamma: Number = 1.0,
    temperature: Number = 2.0,
    max_epochs: int = 3,
    epochs: int = 10,
    batch_size: int = 128,
) -> Method:
    """SCRUB: moves away from the original on the forget set and towards it on the retain set, in turns.

    In each of the first `max_epochs` epochs one pass over F ascends T² KL(θ0 || student); every epoch then makes one pass
    over R that descends gamma CE + alpha T² KL(θ0 || student). Adam throughout. The teacher θ0 stays in eval mode and
    never moves. Deviation: the learning rate is constant (the authors decay it tenfold after epochs 3, 5 and 9).

    Args:
        learning_rate: of Adam.
        alpha: weight of the divergence on R.
        gamma: weight of the cross-entropy on R.
        temperature: T, of both softmaxes.
        max_epochs: epochs that begin with an ascent.
        epochs: of both kinds together.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        def imitation(logits, batch: Batch):
            teacher, _ = problem.model.apply(variables, batch.images, train=False)
            return temperature**2 * divergence(teacher, logits, temperature)

        away = weighted(Term("forget", imitation, -1.0))
        towards = weighted(Term("retain", cross_entropy, gamma), Term("retain", imitation, alpha))
        program = alternation(problem, max_epochs, epochs, batch_size)
        descent = descend([away, towards], optax.adam(learning_rate), program=program, batch_size=batch_size)
        return descent(key, problem, variables)

    return method


def alternation(problem: Problem, max_epochs: int, epochs: int, batch_size: int) -> np.ndarray:
    """SCRUB's program: 0 for each step on F, 1 for each step on R."""
    forget, retain = (steps_in_pass(problem.rows(source)[1], batch_size) for source in ("forget", "retain"))
    passes = [np.repeat([0, 1], [forget if epoch < max_epochs else 0, retain]) for epoch in range(epochs)]
    return np.concatenate(passes).astype(np.int32) if passes else np.zeros(0, np.int32)
