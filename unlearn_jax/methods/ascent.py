"""Ascent on the loss of the forget set, alone or held back by the retain set."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from unlearn_jax.methods.pieces import other_labels, steps_for
from unlearn_jax.methods.registry import Number, register
from unlearn_jax.methods.retraining import sgd
from unlearn_jax.training.descend import descend
from unlearn_jax.training.gradients import squared_gradients
from unlearn_jax.training.objectives import Batch, Objective, Term, cross_entropy, holding, weighted
from unlearn_jax.training.transforms import alternate, freeze_where, project_out
from unlearn_jax.types import Key, Method, Problem, Variables


@register(
    access="F",
    reference="arXiv 1911.04933 and SalUn's comparison, 2310.12508",
    identity_at_zero=True,
    search={"learning_rate": (1e-5, 1e-1)},
)
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


@register(
    access="F+R",
    reference="arXiv 2302.09880",
    identity_at_zero=True,
    search={"learning_rate": (1e-3, 0.3), "alpha": (0.8, 0.999, "linear")},
)
def neggrad_plus(
    *,
    alpha: Number = 0.95,
    learning_rate: Number = 0.01,
    momentum: Number = 0.0,
    weight_decay: Number = 0.0,
    pull: Number = 0.1,
    eval_mode: bool = True,
    epochs: int = 10,
    batch_size: int = 128,
) -> Method:
    """NegGrad+: climbs the loss of the forget set while it descends on the retain set.

    Minimises alpha (CE(R) + pull / 2 |θ - θ0|²) - (1 - alpha) CE(F) by SGD; F is cycled, one batch for each of R's. The defaults
    are those of SCRUB's small-scale notebook, the authors' own for this method: plain SGD in eval mode, with a pull to the start.
    Their other notebooks train in training mode and without the pull, for 5 epochs with alpha 0.9999.

    Args:
        alpha: weight of the retain set, in [0, 1].
        learning_rate: of SGD.
        momentum: of SGD; the authors have none.
        weight_decay: added to the gradient; the authors have none but with a VGG, 5e-4.
        pull: to the start; theirs is the weight decay that the original was trained with, 0.1.
        eval_mode: BatchNorm normalises by its running statistics, which stay.
        epochs: passes over R.
        batch_size: examples per step, of each set; the authors' 64 of F and 32 of R, or 128.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        def pulled(params, progress):
            return alpha * pull / 2.0 * optax.tree.norm(optax.tree.sub(params, variables.params), squared=True)

        steps = steps_for(problem, "retain", epochs, batch_size)
        terms = Term("retain", cross_entropy, alpha), Term("forget", cross_entropy, alpha - 1.0)
        transform, mode = sgd(learning_rate, weight_decay, momentum), "freeze" if eval_mode else "update"
        descent = descend(weighted(*terms, penalty=pulled), transform, steps=steps, batch_size=batch_size, statistics=mode)
        return descent(key, problem, variables)

    return method


@register(
    access="F+R",
    reference="gradient projection, after PCGrad (arXiv 2001.06782)",
    identity_at_zero=True,
    search={"learning_rate": (1e-5, 1e-1)},
)
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


@register(
    access="F+R",
    reference="AdvNegGrad, in the comparison of arXiv 2311.02240",
    identity_at_zero=True,
    search={"learning_rate": (1e-4, 0.1)},
)
def adv_neggrad(*, learning_rate: Number = 0.01, weight_decay: Number = 5e-4, epochs: int = 5, batch_size: int = 128) -> Method:
    """Advanced NegGrad: climbs the forget loss and descends on the retain loss in one step on one joint batch.

    Minimises CE(R) - CE(F) by SGD with momentum 0.9; F is cycled, one batch for each of R's. Unlike in `neggrad_plus` the two
    losses weigh the same and the two batches go through the network as one, so that BatchNorm normalises by both. Learning rate
    and epochs are this project's.

    Args:
        learning_rate: of SGD.
        weight_decay: added to the gradient.
        epochs: passes over R.
        batch_size: examples per step, of each set.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        steps = steps_for(problem, "retain", epochs, batch_size)
        objective = weighted(Term("retain", cross_entropy), Term("forget", cross_entropy, -1.0), together=True)
        transform = sgd(learning_rate, weight_decay)
        return descend(objective, transform, steps=steps, batch_size=batch_size)(key, problem, variables)

    return method


@register(
    access="F+R",
    reference="arXiv 2409.19732",
    identity_at_zero=True,
    search={"learning_rate": (1e-3, 0.1), "strength": (0.1, 50.0)},
)
def sfron(
    *,
    learning_rate: Number = 0.01,
    strength: Number = 25.0,
    adaptivity: Number = 0.5,
    threshold: Number = 1.0,
    max_norm: Number = 7.0,
    weight_decay: Number = 5e-4,
    forget_every: int = 5,
    mask_retain: bool = False,
    epochs: int = 8,
    batch_size: int = 256,
) -> Method:
    """SFRon: descends on the retain set, now and then climbs the forget loss, on the weights that matter more to the latter.

    In front of every `forget_every` steps of CE(R) comes one of -strength (1 + cos(pi t)) / 2 sum_i w_i CE_i(F), t the share of
    the steps on R that are done, w_i proportional to CE_i^-adaptivity and of sum 1: what is forgotten already is pushed less.
    That step's gradient is clipped, and 0 but where a weight's Fisher information at θ0, the mean squared gradient of each
    example, is at least `threshold` times as large on F as on R. SGD with momentum 0.9, its learning rate falling to 0 by a
    cosine of the same t.

    Deviations from the authors' code: Fisher information is squared example by example, so that batching does not matter (theirs
    squares means of batches); passes over R are counted where theirs takes 1,500 steps, whatever the size of R.

    Args:
        learning_rate: of SGD, at the start.
        strength: of the ascent, at the start; the authors' forget_alpha.
        adaptivity: the authors' lambda.
        threshold: the authors' gamma.
        max_norm: the largest norm of a gradient on F.
        weight_decay: added to the gradient.
        forget_every: steps on R for each on F.
        mask_retain: this project's: the mask holds in the steps on R too, so that the weights outside of it, their momentum
            included, stay bit-identical.
        epochs: passes over R.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        def adaptive(logits, batch: Batch):
            losses = cross_entropy(logits, batch)
            share = jax.lax.stop_gradient((losses + 1e-12) ** -adaptivity)
            return losses * share / jnp.mean(share)

        def cosine(count):
            rounds, place = jnp.divmod(count, forget_every + 1)  # of one step on F and those on R behind it
            done = rounds * forget_every + jnp.maximum(place - 1, 0)
            return (1.0 + jnp.cos(jnp.pi * done / max(steps, 1))) / 2.0

        def fading(progress):
            return -strength * cosine(jnp.round(progress * len(program)))

        sets = jnp.stack([problem.retain, problem.forget])
        information = squared_gradients(problem, variables, problem.rows("kept"), parts=sets)
        frozen = jax.tree.map(lambda part: part[1] + 1e-15 < threshold * (part[0] + 1e-15), information)
        steps = steps_for(problem, "retain", epochs, batch_size)
        program = np.insert(np.ones(steps, np.int32), np.arange(0, steps, forget_every), 0)
        clip = alternate(optax.clip_by_global_norm(max_norm), optax.identity())
        chain = optax.chain(clip, sgd(lambda count: learning_rate * cosine(count), weight_decay))
        transform = freeze_where(chain, frozen) if mask_retain else chain
        objectives = holding(weighted(Term("forget", adaptive, fading)), frozen), weighted(Term("retain", cross_entropy))
        descent = descend(objectives, transform, program=program, batch_size=batch_size)
        return descent(key, problem, variables)

    return method


@register(access="F", reference="arXiv 2402.15109", identity_at_zero=True, search={"learning_rate": (1e-6, 1e-1)})
def mu_mis(*, learning_rate: Number = 1e-4, epochs: int = 5, batch_size: int = 256) -> Method:
    """MU-Mis: lowers how sensitive the logit of a forget example's class is to its pixels, and raises it for another class.

    Minimises the mean over F of |∇x f_y|² - |∇x f_y'|², y' another class drawn anew for each example and step, by SGD with
    momentum 0.9: training on an example has made f_y sensitive to it. Nothing bounds the second part from below, so it must be
    stopped early: `epochs` and the learning rate decide (the authors stop by a threshold on the first part, tuned for each
    task). BatchNorm is frozen, so that an image's gradient is its own.

    Args:
        learning_rate: of SGD.
        epochs: passes over F.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        def gap(forward, variables, batches: dict[str, Batch], progress):
            batch = batches["forget"]
            classes = jnp.stack([batch.labels, other_labels(jax.random.fold_in(batch.key, 1), batch.labels, problem.classes)])
            _, pullback, statistics = jax.vjp(lambda images: forward(variables, images), batch.images, has_aux=True)
            (slopes,) = jax.vmap(pullback)(jax.nn.one_hot(classes, problem.classes))
            own, other = jnp.sum(jnp.square(slopes).reshape(2, -1), axis=1) / len(batch.labels)
            return own - other, statistics

        steps = steps_for(problem, "forget", epochs, batch_size)
        transform = optax.sgd(learning_rate, 0.9)
        descent = descend(Objective(("forget",), gap), transform, steps=steps, batch_size=batch_size, statistics="freeze")
        return descent(key, problem, variables)

    return method


@register(
    access="F",
    reference="arXiv 2410.05583; with one copy task arithmetic, 2212.04089",
    identity_at_zero=True,
    search={"learning_rate": (1e-3, 0.1), "scale": (0.1, 5.0)},
)
def neg_merge(
    *,
    scale: Number = 1.0,
    learning_rate: Number = 0.01,
    spread: Number = 3.0,
    copies: int = 5,
    epochs: int = 10,
    batch_size: int = 256,
) -> Method:
    """NegMerge: fine-tunes several copies on the forget set, and steps back along what they agree on.

    Copy k minimises CE(F) from θ0 by SGD with momentum 0.9, with its own batches and learning rate, and gives the task vector
    τ_k = θ_k - θ0; θ = θ0 - scale τ, where τ is the mean of the τ_k wherever all of them have one sign, and 0 elsewhere.
    BatchNorm's statistics are frozen. With one copy this is the plain negation of a task vector. Deviation: the copies differ
    in batch order and learning rate only (the authors' in other settings of the training too).

    Args:
        scale: of the step back; the authors tune it.
        learning_rate: of SGD; the copies' lie evenly on a logarithmic scale around it.
        spread: the highest of the copies' learning rates over the middle one.
        copies: models that are fine-tuned.
        epochs: passes over F.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        def task_vector(key: Key, rate: Array):
            steps = steps_for(problem, "forget", epochs, batch_size)
            objective, transform = weighted(Term("forget", cross_entropy)), optax.sgd(rate, 0.9)
            tuned = descend(objective, transform, steps=steps, batch_size=batch_size, statistics="freeze")
            return optax.tree.sub(tuned(key, problem, variables).params, variables.params)

        def step_back(weight, vectors):
            agreed = jnp.abs(jnp.sum(jnp.sign(vectors), axis=0)) == copies
            return weight - scale * jnp.where(agreed, jnp.mean(vectors, axis=0), 0.0)

        exponents = np.linspace(-1.0, 1.0, copies) if copies > 1 else np.zeros(1)
        rates = learning_rate * spread ** jnp.asarray(exponents, jnp.float32)
        vectors = jax.vmap(task_vector)(jax.random.split(key, copies), rates)
        return variables._replace(params=jax.tree.map(step_back, variables.params, vectors))

    return method
