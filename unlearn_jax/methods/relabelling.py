"""Wrong labels on the forget set."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from unlearn_jax.methods.pieces import other_labels, steps_for
from unlearn_jax.methods.registry import Number, register
from unlearn_jax.methods.retraining import sgd
from unlearn_jax.methods.selection import smallest
from unlearn_jax.training.descend import Descent, descend
from unlearn_jax.training.gradients import batch_gradient
from unlearn_jax.training.objectives import Batch, Term, cross_entropy, relabelled, weighted
from unlearn_jax.training.transforms import freeze_where, nash_bargain
from unlearn_jax.types import Key, Method, Params, Problem, Variables


@register(
    access="F+R", reference="Amnesiac unlearning, arXiv 2010.10981", identity_at_zero=True, search={"learning_rate": (1e-5, 1e-2)}
)
def random_label(*, learning_rate: Number = 1e-4, epochs: int = 3, batch_size: int = 256) -> Method:
    """Amnesiac unlearning: trains on all data, with one fixed random wrong label for each forget example.

    Minimises CE on F u R in one shuffled stream by Adam; the wrong labels are uniform over the other classes.

    Args:
        learning_rate: of Adam.
        epochs: passes over F u R.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        label_key, descent_key = jax.random.split(key)
        descent = descend_on_wrong_labels(label_key, problem, optax.adam(learning_rate), epochs, batch_size)
        return descent(descent_key, problem, variables)

    return method


@register(
    access="F+R", reference="in the comparison of arXiv 2311.02240", identity_at_zero=True, search={"learning_rate": (1e-5, 1e-2)}
)
def successive_random_labels(*, learning_rate: Number = 1e-4, epochs: int = 3, batch_size: int = 256) -> Method:
    """Successive random labels: as `random_label`, with new wrong labels for the forget set in every batch.

    Minimises CE on F u R in one shuffled stream by Adam. Over the passes, forget examples are pushed towards all other classes
    alike instead of one. Deviation: one stream, as `random_label`.

    Args:
        learning_rate: of Adam.
        epochs: passes over F u R.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        def loss(logits, batch: Batch):
            wrong = other_labels(jax.random.fold_in(batch.key, 1), batch.labels, problem.classes)
            labels = jnp.where(problem.forget[batch.rows], wrong, batch.labels)
            return cross_entropy(logits, batch._replace(labels=labels))

        steps = steps_for(problem, "kept", epochs, batch_size)
        transform = optax.adam(learning_rate)
        return descend(weighted(Term("kept", loss)), transform, steps=steps, batch_size=batch_size)(key, problem, variables)

    return method


@register(
    access="F+R",
    reference="arXiv 2310.12508",
    identity_at_zero=True,
    search={"learning_rate": (1e-4, 0.1), "share": (0.1, 0.9, "linear")},
)
def salun(
    *, share: Number = 0.5, learning_rate: Number = 0.01, weight_decay: Number = 5e-4, epochs: int = 10, batch_size: int = 256
) -> Method:
    """SalUn: trains with random labels on the forget set, updating only the weights with the largest forget gradients.

    The mask selects the `share` of all weights with the largest |sum over F of ∇CE| at θ0 (eval mode). It goes by rank, so that
    ties at 0, as in a relu network that forgets one example, do not enlarge it. All other weights, and their momentum, stay
    bit-identical. Deviation: one fixed wrong label for each forget example, in one stream with R; the authors redraw it each
    epoch among all classes, and on CIFAR-10 and SVHN pass over F before R.

    Args:
        share: of the weights that may move, over the whole network.
        learning_rate: of SGD with momentum 0.9.
        weight_decay: added to the gradient.
        epochs: passes over F u R.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        label_key, descent_key = jax.random.split(key)
        inner = optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, 0.9))
        transform = freeze_where(inner, least_salient(problem, variables, share))
        return descend_on_wrong_labels(label_key, problem, transform, epochs, batch_size)(descent_key, problem, variables)

    return method


def wrong_labels(key: Key, problem: Problem) -> Int[Array, " examples"]:
    """The labels of the training set, with wrong ones on the forget set, uniform over the other classes."""
    labels = problem.train.labels
    return jnp.where(problem.forget, other_labels(key, labels, problem.classes), labels)


def descend_on_wrong_labels(key: Key, problem: Problem, transform, epochs: int, batch_size: int) -> Descent:
    """Descends on the cross-entropy on F u R, with wrong labels on F."""
    steps = steps_for(problem, "kept", epochs, batch_size)
    return descend(weighted(Term("kept", relabelled(wrong_labels(key, problem)))), transform, steps=steps, batch_size=batch_size)


def least_salient(problem: Problem, variables: Variables, share: float | Array) -> Params:
    """True for all but the `share` of the weights with the largest |∇CE(F)|, by rank over the whole tree; see `smallest`."""
    gradient = batch_gradient(problem, variables, "forget")
    return smallest(gradient, 1.0 - share, among=jax.tree.map(lambda _: True, gradient), each=False)


@register(
    access="F+R",
    reference="arXiv 2411.15537",
    identity_at_zero=True,
    search={"learning_rate": (1e-4, 0.3), "longest": (0.1, 10.0)},
)
def munba(
    *,
    learning_rate: Number = 0.01,
    longest: Number = 1.0,
    weight_decay: Number = 5e-4,
    epochs: int = 10,
    batch_size: int = 256,
) -> Method:
    """MUNBa: Nash's bargain between forgetting by random labels and keeping the retain set.

    Each step of SGD with momentum 0.9 goes along the bargain of two gradients (`transforms.nash_bargain`): of CE(R), and of CE
    on F with labels drawn anew for every batch, over all classes. The bargain's norm is clipped to `longest`. Deviations: F is
    cycled with one batch for each of R's, where the authors train on R alone when F is through; where the gradients have no
    bargain, the step is that of the momentum.

    Args:
        learning_rate: of SGD.
        longest: the largest norm of a bargain; the authors'.
        weight_decay: added to the bargain.
        epochs: passes over R.
        batch_size: examples per step, of each set.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        def loss(logits, batch: Batch):
            labels = jax.random.randint(jax.random.fold_in(batch.key, 1), batch.labels.shape, 0, problem.classes)
            return cross_entropy(logits, batch._replace(labels=labels))

        bargain = optax.chain(nash_bargain(), optax.clip_by_global_norm(longest), sgd(learning_rate, weight_decay))
        return descend(
            weighted(Term("forget", loss)),
            bargain,
            steps=steps_for(problem, "retain", epochs, batch_size),
            batch_size=batch_size,
            reference=weighted(Term("retain", cross_entropy)),
        )(key, problem, variables)

    return method
