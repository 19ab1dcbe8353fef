"""Ascent on the loss of the forget set, alone or balanced by the retain set."""

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
    """Gradient ascent: maximises the loss on the forget set.

    Minimises -CE(F) by SGD with momentum 0.9, without weight decay. The loss is unbounded: the result depends on the learning
    rate (1e-5 to 0.1).

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
    """NegGrad+: descends on the retain loss and ascends the forget loss, as one weighted sum.

    Minimises alpha (CE(R) + pull / 2 |θ - θ0|²) - (1 - alpha) CE(F) by SGD; F is cycled, with one batch for each of R's. The
    defaults are those of SCRUB's small-scale notebook, the authors' own for this method: plain SGD in eval mode, with a pull to
    θ0. Their other notebooks train in training mode without the pull, for 5 epochs with alpha 0.9999.

    Args:
        alpha: weight of the retain set, in [0, 1].
        learning_rate: of SGD.
        momentum: of SGD; the authors use none.
        weight_decay: added to the gradient; the authors use none, or 5e-4 with a VGG.
        pull: strength of the pull to θ0; the authors use the original's weight decay, 0.1.
        eval_mode: normalise by BatchNorm's running statistics, and leave them unchanged.
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
    """Projected ascent: ascends the forget loss along its gradient's component orthogonal to the retain gradient.

    Each step: u = -∇CE(F), r = ∇CE(R) on a batch, θ -= learning_rate (u - (<u, r> / <r, r>) r). Unlike PCGrad, it projects every
    step, whether the two gradients conflict or not.

    Args:
        learning_rate: of plain SGD; momentum would undo the projection.
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
    """Advanced NegGrad: descends on the retain loss minus the forget loss, on one joint batch.

    Minimises CE(R) - CE(F) by SGD with momentum 0.9; F is cycled, with one batch for each of R's. Unlike in `neggrad_plus`, both
    losses have the same weight and both batches go through the network as one, so that BatchNorm normalises by both. Learning
    rate and epochs are this project's.

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
    """SFRon: trains on the retain set, interleaved with ascent on the forget loss in the weights most salient to it.

    Before every `forget_every` steps on CE(R) comes one on -strength (1 + cos(pi t)) / 2 sum_i w_i CE_i(F), t the share of the
    steps on R done so far. The weights w_i, proportional to CE_i^-adaptivity with sum 1, push forgotten examples less. The
    gradient of that step is clipped, and 0 except where a weight's Fisher information at θ0 (the mean squared gradient of single
    examples) is at least `threshold` times as large on F as on R. SGD with momentum 0.9; its learning rate falls to 0 by the same
    cosine.

    Deviations: the Fisher information squares the gradient of each example, so batching does not matter (the authors' code
    squares batch means); the length is in passes over R (theirs takes 1,500 steps, whatever the size of R).

    Args:
        learning_rate: initial, of SGD.
        strength: initial, of the ascent; the authors' forget_alpha.
        adaptivity: the authors' lambda.
        threshold: the authors' gamma.
        max_norm: the largest norm of a gradient on F.
        weight_decay: added to the gradient.
        forget_every: steps on R for each on F.
        mask_retain: this project's: apply the mask to the steps on R too, so that the weights outside it, and their momentum,
            stay bit-identical.
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
    """MU-Mis: lowers the input gradient of the true class's logit on the forget set, and raises that of another class.

    Minimises the mean over F of |∇x f_y|² - |∇x f_y'|², y' another class drawn anew for each example and step, by SGD with
    momentum 0.9: training on an example has made f_y sensitive to it. The loss is unbounded below, so training must stop early:
    here by `epochs` and the learning rate, in the authors' code by a threshold on the first part, tuned for each task. BatchNorm
    is frozen, so that the input gradients of different images do not mix.

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
            given, other = jnp.sum(jnp.square(slopes).reshape(2, -1), axis=1) / len(batch.labels)
            return given - other, statistics

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
    """NegMerge: fine-tunes several copies on the forget set, and subtracts their task vectors where all agree in sign.

    Copy k minimises CE(F) from θ0 by SGD with momentum 0.9, with its own batches and learning rate, and gives the task vector τ_k
    = θ_k - θ0; θ = θ0 - scale τ, where τ is the mean of the τ_k where all of them have the same sign, and 0 elsewhere.
    BatchNorm's statistics are frozen. With one copy this negates a task vector. Deviation: the copies differ only in batch order
    and learning rate (the authors' in other training settings too).

    Args:
        scale: factor on τ; the authors tune it.
        learning_rate: of SGD; those of the copies are log-spaced around it.
        spread: ratio of the copies' highest learning rate to the middle one.
        copies: number of fine-tuned models.
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
