"""The first seven of the NeurIPS 2023 unlearning competition, after its report (arXiv 2406.09073).

Hyperparameters are the entrants', tuned for ResNet-18 on faces. Each docstring says where their code differs from its
description. SGD has momentum 0.9 throughout, as in their code.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from unlearn_jax.methods.distillation import alternation
from unlearn_jax.methods.pieces import edit, in_turns, pipe, steps_for, with_noise
from unlearn_jax.methods.registry import Number, register
from unlearn_jax.methods.retraining import descend_on_retain, sgd
from unlearn_jax.methods.selection import convolutions, smallest, unnormalising
from unlearn_jax.training.descend import descend
from unlearn_jax.training.fit import initialise, masked
from unlearn_jax.training.gradients import batch_gradient
from unlearn_jax.training.objectives import Batch, Loss, Term, contrast, cross_entropy, divergence, weighted
from unlearn_jax.training.sampling import subset
from unlearn_jax.training.transforms import alternate, freeze_where
from unlearn_jax.types import Key, Method, Params, Problem, Variables


@register(
    access="F+R",
    reference="1st in the NeurIPS 2023 competition, arXiv 2406.09073",
    search={"learning_rate": (1e-3, 0.3), "forget_learning_rate": (1e-5, 1e-2)},
)
def fcs(
    *,
    temperature: Number = 1.15,
    uniform_learning_rate: Number = 5e-3,
    forget_learning_rate: Number = 3e-4,
    least_learning_rate: Number = 1e-6,
    learning_rate: Number = 1e-3,
    weight_decay: Number = 1e-2,
    epochs: int = 8,
    batch_size: int = 64,
) -> Method:
    """FCS: trains the forget set to uniform outputs, then alternates a contrastive pass on it with training on the retain set.

    One pass over F minimises KL(uniform || p). Then, `epochs` times: a pass over F minimises -log softmax(f_F f_Rᵀ /
    temperature), averaged over the batch of R, whose outputs are held fixed; a pass over R minimises CE. Each of the three has
    its own SGD. Deviations: in the contrastive steps F and R go through the network, and its BatchNorm, as one batch; the
    entrants' batches of R have 256 examples, at four times the learning rate.

    Args:
        temperature: of the contrast.
        uniform_learning_rate: of the first pass.
        forget_learning_rate: of the contrastive passes, on a cosine over all of them.
        least_learning_rate: the end of that cosine; the entrants' eta_min.
        learning_rate: of the passes over R.
        weight_decay: added to the gradient in the passes over R.
        epochs: rounds of one contrastive pass and one pass over R.
        batch_size: examples per step, of each set.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        steps = steps_for(problem, "forget", 1, batch_size)
        above = optax.cosine_decay_schedule(forget_learning_rate - least_learning_rate, max(epochs * steps, 1))
        fading = lambda count: least_learning_rate + above(count)  # noqa: E731
        rounds = 1 + alternation(problem, epochs, epochs, batch_size)
        return descend(
            [
                weighted(Term("forget", lambda logits, batch: divergence(jnp.zeros_like(logits), logits))),
                contrast("forget", "retain", temperature),
                weighted(Term("retain", cross_entropy)),
            ],
            alternate(sgd(uniform_learning_rate, 0.0), sgd(fading, 0.0), sgd(learning_rate, weight_decay)),
            program=np.concatenate([np.zeros(steps, np.int32), rounds]),
            batch_size=batch_size,
        )(key, problem, variables)

    return method


@register(
    access="F+R",
    reference="2nd in the NeurIPS 2023 competition, arXiv 2406.09073",
    needs=["convolutions"],
    search={"learning_rate": (1e-3, 0.3), "share": (0.1, 0.9, "linear")},
)
def msg(
    *,
    share: Number = 0.3,
    others: Number = 0.1,
    learning_rate: Number = 1e-3,
    weight_decay: Number = 5e-4,
    epochs: int = 5,
    batch_size: int = 64,
) -> Method:
    """MSG: reinitialises the convolution weights on whose gradient forget and retain set agree, then trains on the retain set.

    With g = ∇CE(a sample of R as large as F) - ∇CE(F) at θ0, the `share` of each convolution kernel with the smallest |g| is
    reinitialised. Then SGD minimises CE(R), with the gradients of the kernels' other weights times `others`; the learning rate
    rises linearly over the first half of the steps (the entrants': of the epochs) and falls over the second. Deviations: g is the
    difference of mean gradients in eval mode (the entrants' sum over batches in training mode); the initialiser is this
    library's.

    Args:
        share: of each kernel that is reinitialised.
        others: factor on the gradients of the rest of the kernels.
        learning_rate: of SGD, at its peak.
        weight_decay: added to the gradient.
        epochs: passes over R.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        subset_key, init_key, descent_key = jax.random.split(key, 3)
        kernels = convolutions(problem.model, variables.params)
        agreed = agreeing(subset_key, problem, variables, share)
        renewed = jax.tree.map(jnp.where, agreed, initialise(init_key, problem).params, variables.params)
        factors = jax.tree.map(lambda kernel, mask: jnp.where(mask | (not kernel), 1.0, others), kernels, agreed)
        slow = optax.stateless(lambda updates, params: jax.tree.map(jnp.multiply, updates, factors))
        steps = steps_for(problem, "retain", epochs, batch_size)
        transform = optax.chain(slow, sgd(lambda count: learning_rate * triangle(count, steps), weight_decay))
        descent = descend_on_retain(problem, transform, epochs, batch_size)
        return descent(descent_key, problem, variables._replace(params=renewed))

    return method


def agreeing(key: Key, problem: Problem, variables: Variables, share: float | Array) -> Params:
    """True for the `share` of each convolution kernel with the smallest |∇CE(sample of R) - ∇CE(F)|; False on_held_out."""
    count = min(problem.forget_count, problem.retain_count)
    sample = subset(key, problem.retain, count)
    both = dataclasses.replace(problem, kept=problem.forget | sample, kept_count=problem.forget_count + count)
    signs = jnp.where(problem.forget, -1.0 / problem.forget_count, 1.0 / count)
    gradient = batch_gradient(both, variables, "kept", weights=both.kept_count * signs)
    return smallest(gradient, share, among=convolutions(problem.model, gradient), each=True)


def triangle(count: Array, steps: int) -> Float[Array, ""]:
    """A factor that rises linearly to 1 in the middle of `steps` steps and falls again, and is never zero."""
    return 1.0 - jnp.abs(2.0 * (count + 1.0) / (steps + 1.0) - 1.0)


@register(
    access="R",
    reference="3rd in the NeurIPS 2023 competition, arXiv 2406.09073",
    needs=["convolutions"],
    identity_at_zero=True,
    search={"learning_rate": (7e-4, 0.3), "noise": (0.01, 1.0)},
)
def cfw(
    *,
    noise: Number = 0.6,
    last_noise: Number = 0.005,
    stem_only: bool = False,
    learning_rate: Number = 7e-4,
    weight_decay: Number = 5e-4,
    epochs: int = 4,
    batch_size: int = 64,
) -> Method:
    """CFW: adds strong noise to the convolutions, then trains on the retain set with class-weighted cross-entropy.

    Kernels += N(0, noise²). Then SGD minimises the cross-entropy on R, each example weighted by |R| / (classes x the examples of
    its class), so that all classes count the same. Before the last of several epochs, kernels += N(0, last_noise²). The learning
    rate of epoch e is (1 + cos(π e / epochs)) / 2 times the first epoch's. Deviations: the entrants' class weights are set by
    hand for their data and multiply the batch's mean loss, which only scales it; momentum restarts in each epoch. The public code
    finds convolutions by a name that only the first one has (`stem_only`), unlike the description.

    Args:
        noise: standard deviation of the first noise.
        last_noise: standard deviation of the second.
        stem_only: noise in the first convolution alone.
        learning_rate: of SGD in the first epoch.
        weight_decay: added to the gradient.
        epochs: passes over R.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        noisy = convolutions(problem.model, variables.params, first=stem_only)
        objective = weighted(Term("retain", class_weighted(problem, 1.0)))
        steps = steps_for(problem, "retain", 1, batch_size)

        def epoch(deviation, rate):
            confuse = edit(lambda key, _, current: current._replace(params=with_noise(key, current.params, deviation, noisy)))
            return pipe(confuse, descend(objective, sgd(rate, weight_decay), steps=steps, batch_size=batch_size))

        number = np.arange(epochs)
        deviations = noise * (number == 0) + last_noise * (number == max(epochs - 1, 1))
        return in_turns(epoch, deviations, learning_rate * (1 + np.cos(np.pi * number / max(epochs, 1))) / 2)(
            key, problem, variables
        )

    return method


def class_weighted(problem: Problem, power: float) -> Loss:
    """Cross-entropy, weighted by (examples of the class in R)^-power; the weights have mean 1 over R."""
    labels = problem.train.labels[jnp.nonzero(problem.retain, size=problem.retain_count)[0]]
    counts = jnp.bincount(labels, length=problem.classes)
    weights = jnp.where(counts > 0, jnp.maximum(counts, 1.0) ** -power, 0.0)
    weights *= problem.retain_count / (counts @ weights)
    return lambda logits, batch: weights[batch.labels] * cross_entropy(logits, batch)


@register(
    access="R",
    reference="4th in the NeurIPS 2023 competition, arXiv 2406.09073",
    static=["epochs"],
    needs=["normalisation"],
    search={"learning_rate": (5e-4, 0.3), "share": (0.3, 0.99, "linear")},
)
def prmq(
    *,
    share: Number = 0.99,
    learning_rate: Number = 5e-4,
    weight_decay: Number = 5e-4,
    epochs: float = 3.2,
    batch_size: int = 64,
) -> Method:
    """PRMQ: reinitialises the smallest weights (99%), then trains on the retain set to match the original's entropy.

    The `share` of all weights (except those of normalisations) with the smallest |θ| is reinitialised. Then SGD minimises CE on
    R, weighted by (examples of the class)^-0.1, + (H(p) - H(p_θ0))², H the entropy; at the end everything is rounded to half
    precision. As in the entrants' code (an off-by-one), there is one step more than in `epochs` passes. Deviations: this
    library's initialiser; the class weights have mean 1 over R (the entrants': over each batch).

    Args:
        share: of the weights of the whole network that is reinitialised.
        learning_rate: of SGD.
        weight_decay: added to the gradient.
        epochs: passes over R; may be fractional.
        batch_size: examples per step.
    """

    def renew(key: Key, problem: Problem, variables: Variables) -> Variables:
        pruned = smallest(variables.params, share, among=unnormalising(problem.model, variables.params), each=False)
        return variables._replace(params=jax.tree.map(jnp.where, pruned, initialise(key, problem).params, variables.params))

    def round_off(key: Key, problem: Problem, variables: Variables) -> Variables:
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float16).astype(leaf.dtype), variables)

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        def certainty(logits, batch: Batch):
            teacher, _ = problem.model.apply(variables, batch.images, train=False)
            return (entropy(logits) - entropy(teacher)) ** 2

        objective = weighted(Term("retain", class_weighted(problem, 0.1)), Term("retain", certainty))
        steps = int(steps_for(problem, "retain", 1, batch_size) * epochs) + 1
        train = descend(objective, sgd(learning_rate, weight_decay), steps=steps, batch_size=batch_size)
        return pipe(edit(renew), train, edit(round_off))(key, problem, variables)

    return method


@register(
    access="R",
    reference="top seven of the NeurIPS 2023 competition, arXiv 2406.09073",
    needs=["convolutions", "square kernels"],
    search={"learning_rate": (1e-3, 0.3)},
)
def ct(*, learning_rate: Number = 1e-3, weight_decay: Number = 5e-4, epochs: int = 3, batch_size: int = 64) -> Method:
    """CT: transposes every convolution kernel (height and width swapped), then trains on the retain set.

    Args:
        learning_rate: of SGD at the first step, on a cosine to zero (the entrants': by epochs).
        weight_decay: added to the gradient.
        epochs: passes over R.
        batch_size: examples per step.
    """

    def transpose(key: Key, problem: Problem, variables: Variables) -> Variables:
        kernels, params = convolutions(problem.model, variables.params), variables.params
        turned = jax.tree.map(lambda leaf, kernel: jnp.swapaxes(leaf, 0, 1) if kernel else leaf, params, kernels)
        return variables._replace(params=turned)

    def train(key: Key, problem: Problem, variables: Variables) -> Variables:
        steps = steps_for(problem, "retain", epochs, batch_size)
        transform = sgd(optax.cosine_decay_schedule(learning_rate, max(steps, 1)), weight_decay)
        return descend_on_retain(problem, transform, epochs, batch_size)(key, problem, variables)

    return pipe(edit(transpose), train)


@register(
    access="R+test-like",
    reference="top seven of the NeurIPS 2023 competition, arXiv 2406.09073",
    needs=["blocks"],
    search={"learning_rate": (1e-3, 0.3), "distillation_learning_rate": (9e-4, 0.3)},
)
def kde(
    *,
    temperature: Number = 5.0,
    distillation_learning_rate: Number = 9e-4,
    learning_rate: Number = 1e-3,
    weight_decay: Number = 5e-4,
    distillation_epochs: int = 3,
    epochs: int = 3,
    batch_size: int = 64,
) -> Method:
    """KDE: reinitialises first layer and head, distils the original on held-out images, then trains on the retain set.

    First, on held-out images without labels, KL(θ0 || student) at `temperature`. Then, on R, CE + 2 KL(θ0 || student) at
    `temperature`; the entrants add a soft cross-entropy and a divergence, whose gradients are equal.

    Args:
        temperature: of all softmaxes except that of CE.
        distillation_learning_rate: of SGD on held-out data.
        learning_rate: of SGD on R at the first step, on a cosine to zero (the entrants': by epochs).
        weight_decay: added to the gradient.
        distillation_epochs: passes over the held-out data.
        epochs: passes over R.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        init_key, held_out_key, retain_key = jax.random.split(key, 3)
        count = len(problem.held_out.labels)
        on_held_out = masked(dataclasses.replace(problem, train=problem.held_out), jnp.ones(count, bool), count)

        def imitation(logits, batch: Batch):
            teacher, _ = problem.model.apply(variables, batch.images, train=False)
            return divergence(teacher, logits, temperature)

        distil = descend(
            weighted(Term("retain", imitation)),
            sgd(distillation_learning_rate, weight_decay),
            steps=steps_for(on_held_out, "retain", distillation_epochs, batch_size),
            batch_size=batch_size,
        )
        steps = steps_for(problem, "retain", epochs, batch_size)
        train = descend(
            weighted(Term("retain", cross_entropy), Term("retain", imitation, 2.0)),
            sgd(optax.cosine_decay_schedule(learning_rate, max(steps, 1)), weight_decay),
            steps=steps,
            batch_size=batch_size,
        )
        ends = problem.model.blocks[0][0], problem.model.blocks[-1][0]
        student = renewed(init_key, problem, variables, ends)
        return train(retain_key, problem, distil(held_out_key, on_held_out, student))

    return method


@register(
    access="R",
    reference="top seven of the NeurIPS 2023 competition, arXiv 2406.09073",
    static=["full_share"],
    needs=["blocks", "normalisation"],
    search={"learning_rate": (2e-4, 0.3), "last_learning_rate": (2e-4, 0.3)},
)
def rni(
    *,
    noise: Number = 0.04,
    tensors: int = 9,
    noise_share: Number = 0.7,
    learning_rate: Number = 2e-4,
    last_learning_rate: Number = 1e-3,
    weight_decay: Number = 5e-4,
    full_share: float = 4 / 9,
    epochs: int = 9,
    batch_size: int = 64,
) -> Method:
    """RNI: reinitialises the head, then trains a few random weight arrays in each epoch, most of them after added noise.

    In all epochs except the last `full_share` of them, SGD on CE(R) trains `tensors` randomly drawn arrays and all
    normalisations; everything else stays bit-identical. From the second epoch on, `noise_share` of the drawn arrays first get
    noise. In the last epochs all weights train. Deviations: an array may get noise more than once (the entrants': only when first
    drawn); the entrants' code finds normalisations by name, and takes those of a ResNet's shortcuts for weights.

    Args:
        noise: standard deviation.
        tensors: arrays that train in an epoch, drawn from those outside normalisations.
        noise_share: share of these arrays that get noise, rounded down.
        learning_rate: of SGD; its momentum restarts in each epoch.
        last_learning_rate: of the last epoch.
        weight_decay: added to the gradient.
        full_share: share of the epochs, at the end, in which all weights train; the entrants' 4 of 9.
        epochs: passes over R, in all.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        init_key, draw_key, turns_key = jax.random.split(key, 3)
        drawable, structure = jax.tree.flatten(unnormalising(problem.model, variables.params))
        drawn = lots(draw_key, drawable, (epochs, tensors), noise_share)
        partial = (np.arange(epochs) < epochs - round(full_share * epochs))[:, None]
        rates = jnp.where(np.arange(epochs) == epochs - 1, last_learning_rate, learning_rate)
        objective, steps = weighted(Term("retain", cross_entropy)), steps_for(problem, "retain", 1, batch_size)

        def epoch(frozen, noisy, rate):
            held, shaken = (jax.tree.unflatten(structure, list(mask)) for mask in (frozen, noisy))
            shake = edit(lambda key, _, current: current._replace(params=with_noise(key, current.params, noise, shaken)))
            transform = freeze_where(sgd(rate, weight_decay), held)
            return pipe(shake, descend(objective, transform, steps=steps, batch_size=batch_size))

        student = renewed(init_key, problem, variables, problem.model.blocks[-1])
        return in_turns(epoch, drawn.frozen & partial, drawn.noisy & partial, rates)(turns_key, problem, student)

    return method


class Lots(NamedTuple):
    """The weight arrays that each epoch of `rni` freezes, and those that get noise before it."""

    frozen: Bool[Array, "epochs arrays"]
    noisy: Bool[Array, "epochs arrays"]


def lots(key: Key, drawable: Sequence[bool], turns: tuple[int, int], noise_share: Number) -> Lots:
    """Draws the arrays that train in each epoch; `noise_share` of them, rounded down, get noise, but none in the first epoch.

    Args:
        key: for all epochs.
        drawable: whether an array may be drawn; the others always train, without noise.
        turns: number of epochs, and of arrays drawn in each.
        noise_share: in [0, 1].
    """
    epochs, tensors = turns
    takes_part = np.array(drawable)[None]
    draws = jnp.where(takes_part, jax.random.uniform(key, (epochs, len(drawable))), jnp.inf)
    rank = jnp.argsort(jnp.argsort(draws, axis=1), axis=1)
    noisy = (rank < jnp.floor(noise_share * tensors)) & (np.arange(epochs) > 0)[:, None]
    return Lots((rank >= tensors) & takes_part, noisy & takes_part)


def renewed(key: Key, problem: Problem, variables: Variables, groups: Sequence[str]) -> Variables:
    """The variables with some parameter groups reinitialised."""
    fresh = initialise(key, problem).params
    params = {name: fresh[name] if name in groups else old for name, old in variables.params.items()}
    return variables._replace(params=params)


def entropy(logits: Float[Array, "batch classes"]) -> Float[Array, " batch"]:
    """The entropy of the softmax, in nats."""
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
