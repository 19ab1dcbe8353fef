"""Methods that shape the outputs on the forget set: their entropy, or the mean and spread of the losses."""

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.methods.pieces import steps_for
from unlearn_jax.methods.registry import Number, register
from unlearn_jax.methods.retraining import sgd
from unlearn_jax.training.descend import descend
from unlearn_jax.training.objectives import Batch, Objective, Term, cross_entropy, forward_together, predictive_entropy, weighted
from unlearn_jax.types import Key, Method, Problem, Variables


@register(
    access="F",
    reference="this project's",
    identity_at_zero=True,
    search={"learning_rate": (1e-5, 1e-1), "entropy_weight": (0.1, 4.0)},
)
def entropy(
    *,
    entropy_weight: Number = 1.0,
    learning_rate: Number = 1e-4,
    maximise: bool = False,
    epochs: int = 5,
    batch_size: int = 256,
) -> Method:
    """Entropy: ascends the forget loss and lowers the entropy of the predictions there (or raises it).

    Minimises -CE(F) + entropy_weight H(F), H the entropy of the predicted classes; with `maximise`, -CE(F) - entropy_weight H(F).
    SGD with momentum 0.9. Lowering the entropy leads to confident wrong answers; raising it to uniform predictions, at which
    -CE(F) alone would not stop.

    Args:
        entropy_weight: of the entropy, in nats as the loss is.
        learning_rate: of SGD.
        maximise: raise the entropy instead of lowering it.
        epochs: passes over F.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        sign = -1.0 if maximise else 1.0
        steps, transform = steps_for(problem, "forget", epochs, batch_size), optax.sgd(learning_rate, 0.9)
        objective = weighted(Term("forget", cross_entropy, -1.0), Term("forget", predictive_entropy, sign * entropy_weight))
        return descend(objective, transform, steps=steps, batch_size=batch_size)(key, problem, variables)

    return method


@register(
    access="F+R",
    reference="this project's",
    identity_at_zero=True,
    search={"forget_weight": (1e-3, 1.0), "entropy_weight": (1e-3, 1.0)},
)
def entropy_with_retain(
    *,
    forget_weight: Number = 0.1,
    entropy_weight: Number = 0.1,
    retain_weight: Number = 1.0,
    learning_rate: Number = 0.01,
    weight_decay: Number = 5e-4,
    maximise: bool = False,
    epochs: int = 5,
    batch_size: int = 128,
) -> Method:
    """Entropy with the retain set: as `entropy`, plus the loss on the retain set.

    Minimises retain_weight CE(R) - forget_weight CE(F) + entropy_weight H(F), with `maximise` - entropy_weight H(F), by SGD with
    momentum 0.9. F is cycled, with one batch for each of R's, and both go through the network as one. From Python a weight may be
    negative, which flips its term; a grid of signs is then one more axis of members.

    Args:
        forget_weight: of the forget loss, which is maximised.
        entropy_weight: of the entropy, in nats as the loss is.
        retain_weight: of the loss on R; at 0, R still enters BatchNorm's batch statistics.
        learning_rate: of SGD.
        weight_decay: added to the gradient.
        maximise: raise the entropy instead of lowering it.
        epochs: passes over R.
        batch_size: examples per step, of each set.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        sign = -1.0 if maximise else 1.0
        objective = weighted(
            Term("retain", cross_entropy, retain_weight),
            Term("forget", cross_entropy, -forget_weight),
            Term("forget", predictive_entropy, sign * entropy_weight),
            together=True,
        )
        steps, transform = steps_for(problem, "retain", epochs, batch_size), sgd(learning_rate, weight_decay)
        return descend(objective, transform, steps=steps, batch_size=batch_size)(key, problem, variables)

    return method


@register(
    access="F+R+test-like",
    reference="this project's",
    identity_at_zero=True,
    search={"mean_weight": (1e-3, 1.0), "spread_weight": (1e-3, 1.0)},
)
def variance_matching(
    *,
    mean_weight: Number = 1.0,
    spread_weight: Number = 1.0,
    learning_rate: Number = 0.01,
    weight_decay: Number = 5e-4,
    epochs: int = 5,
    batch_size: int = 128,
) -> Method:
    """Variance matching: trains on the retain set and matches mean and spread of the forget losses to held-out losses.

    Minimises CE(R) + mean_weight (m_F - m_H)² + spread_weight (s_F - s_H)² by SGD with momentum 0.9, m and s the mean and the
    standard deviation of the cross-entropy over a batch of F and one of the held-out examples, drawn anew each step. No gradient
    flows into m_H and s_H, so that only F adapts. All three batches go through the network as one.

    Args:
        mean_weight: of the distance of the means.
        spread_weight: of the distance of the standard deviations; 0 matches means alone.
        learning_rate: of SGD.
        weight_decay: added to the gradient.
        epochs: passes over R.
        batch_size: examples per step, of each set.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        def value(forward, variables: Variables, batches: dict[str, Batch], progress):
            retain, forget = batches["retain"], batches["forget"]
            size = len(problem.held_out.labels)
            rows = jax.random.randint(jax.random.fold_in(forget.key, 1), (min(batch_size, size),), 0, size)
            held_out = Batch(problem.held_out.images[rows], problem.held_out.labels[rows], rows, forget.key)
            parts = retain, forget, held_out
            logits, statistics = forward_together(forward, variables, [part.images for part in parts])
            on_retain, on_forget, on_held_out = (cross_entropy(*pair) for pair in zip(logits, parts, strict=True))
            target = jax.lax.stop_gradient(on_held_out)
            means = jnp.mean(on_forget) - jnp.mean(target)
            spreads = standard_deviation(on_forget) - standard_deviation(target)
            return jnp.mean(on_retain) + mean_weight * means**2 + spread_weight * spreads**2, statistics

        steps, transform = steps_for(problem, "retain", epochs, batch_size), sgd(learning_rate, weight_decay)
        descent = descend(Objective(("retain", "forget"), value), transform, steps=steps, batch_size=batch_size)
        return descent(key, problem, variables)

    return method


def standard_deviation(losses):
    """The standard deviation, with a finite gradient where all losses are equal (the root's slope at 0 is infinite)."""
    return jnp.sqrt(jnp.var(losses) + 1e-12)
