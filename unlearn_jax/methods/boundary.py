"""Methods that work at the decision boundary: nearest classes, adversarial examples, noise images."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from unlearn_jax.errors import ArgumentError
from unlearn_jax.methods.pieces import among, examples_of, other_labels, steps_for, with_share_of_retain
from unlearn_jax.methods.registry import Number, register
from unlearn_jax.methods.retraining import descend_on_retain, sgd
from unlearn_jax.models import with_extra_class
from unlearn_jax.training.descend import descend
from unlearn_jax.training.fit import initialise
from unlearn_jax.training.gradients import output_sensitivities
from unlearn_jax.training.objectives import Batch, Objective, Term, cross_entropy, norm, relabelled, weighted
from unlearn_jax.training.perturbations import fast_gradient_sign, in_chunks, nearest_adversarial, predicted, targeted_descent
from unlearn_jax.types import Examples, Key, Method, Problem, Variables


@register(
    access="F", reference="arXiv 2303.11570", identity_at_zero=True, search={"learning_rate": (1e-5, 1e-1), "size": (0.01, 0.4)}
)
def boundary_shrink(*, size: Number = 0.1, learning_rate: Number = 1e-5, epochs: int = 10, batch_size: int = 64) -> Method:
    """Boundary shrink: fine-tunes each forget example to the class nearest across the decision boundary.

    The nearest class is θ0's prediction for x + size sign(∇x CE(θ0, x, y)), computed once. Minimises CE to it on F by SGD with
    momentum 0.9. If the step crosses no boundary, the target is the class that θ0 predicts for x. Deviation: the moved image is
    neither rounded to 255 levels nor clipped to the range of pixels.

    Args:
        size: of the step on the image, in pixels of [0, 1].
        learning_rate: of SGD.
        epochs: passes over F.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        moved = fast_gradient_sign(problem.model, variables, examples_of(problem, "forget"), size, problem.pixel_scale)
        nearest = in_chunks(lambda images: predicted(problem.model, variables, images), moved)
        rows = jnp.nonzero(problem.forget, size=problem.forget_count)[0]
        objective = weighted(Term("forget", relabelled(problem.train.labels.at[rows].set(nearest))))
        steps, transform = steps_for(problem, "forget", epochs, batch_size), optax.sgd(learning_rate, 0.9)
        return descend(objective, transform, steps=steps, batch_size=batch_size)(key, problem, variables)

    return method


@register(
    access="F", reference="arXiv 2303.11570", needs=["linear head"], identity_at_zero=True, search={"learning_rate": (1e-5, 1e-1)}
)
def boundary_expanding(*, learning_rate: Number = 1e-5, epochs: int = 10, batch_size: int = 64) -> Method:
    """Boundary expanding: trains the forget set into an extra class, then removes that class.

    The head gets one more neuron, initialised as the authors' (Xavier normal, bias 0); SGD with momentum 0.9 minimises CE to it
    on F; then the neuron is pruned, and the head has as many outputs as before.

    Args:
        learning_rate: of SGD.
        epochs: passes over F.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        neuron_key, descent_key = jax.random.split(key)
        wide = dataclasses.replace(problem, model=with_extra_class(problem.model), classes=problem.classes + 1)
        shapes = jax.eval_shape(initialise, neuron_key, wide).params["extra"]
        extra = jax.tree.map(lambda leaf: xavier(neuron_key, leaf.shape, wide.classes), shapes)
        objective = weighted(Term("forget", relabelled(jnp.full_like(problem.train.labels, problem.classes))))
        steps, transform = steps_for(problem, "forget", epochs, batch_size), optax.sgd(learning_rate, 0.9)
        descent = descend(objective, transform, steps=steps, batch_size=batch_size)
        after = descent(descent_key, wide, variables._replace(params={**variables.params, "extra": extra}))
        return after._replace(params={name: after.params[name] for name in variables.params})

    return method


def xavier(key: Key, shape: tuple[int, ...], outputs: int) -> Float[Array, "*features one"]:
    """Initial weights of one neuron in a layer of `outputs`: normal with variance 2 / (features + outputs); 0 for a bias."""
    features = math.prod(shape[:-1])
    return math.sqrt(2.0 / (features + outputs)) * jax.random.normal(key, shape) if len(shape) > 1 else jnp.zeros(shape)


@register(access="F+R", reference="arXiv 2503.00917", identity_at_zero=True, search={"learning_rate": (1e-4, 0.1)})
def amun(
    *,
    radius: Number = 0.04,
    learning_rate: Number = 0.01,
    weight_decay: Number = 5e-4,
    doublings: int = 8,
    attack_steps: int = 50,
    epochs: int = 10,
    batch_size: int = 128,
) -> Method:
    """AMUN: fine-tunes on all data and the nearest adversarial example of each forget example, with the original's label.

    Minimises CE on R u F u A in one stream by SGD with momentum 0.9. F keeps its true labels. A holds one adversarial example for
    each of F, labelled with θ0's wrong prediction: projected gradient ascent in an l2 ball that doubles until θ0 is wrong, each
    ball starting where the last one ended. Deviations: the number of doublings is bounded, and an example that none of them fools
    keeps θ0's prediction; images are not clipped to the range of pixels; the learning rate is constant.

    Args:
        radius: of the first ball, in pixels of [0, 1]: the authors' eps.
        learning_rate: of SGD; the authors search 1e-6 to 0.1.
        weight_decay: added to the gradient.
        doublings: of the radius, at most; the authors continue until θ0 is wrong.
        attack_steps: of the ascent in each ball, each a tenth of its radius.
        epochs: passes over R u F u A.
        batch_size: examples per step.
    """
    attack = {"radius": radius, "doublings": doublings, "steps": attack_steps}
    return among_adversarial("kept", attack, sgd(learning_rate, weight_decay), epochs, batch_size)


@register(
    access="F", reference="arXiv 2503.00917, without the retain set", identity_at_zero=True, search={"learning_rate": (1e-5, 0.1)}
)
def amun_forget(
    *,
    radius: Number = 0.04,
    learning_rate: Number = 0.01,
    weight_decay: Number = 5e-4,
    doublings: int = 8,
    attack_steps: int = 50,
    epochs: int = 10,
    batch_size: int = 128,
) -> Method:
    """AMUN without the retain set: fine-tunes on the forget set and its nearest adversarial examples.

    As `amun`, on F u A.

    Args:
        radius: of the first ball, in pixels of [0, 1]: the authors' eps.
        learning_rate: of SGD; the authors search 1e-6 to 0.1.
        weight_decay: added to the gradient.
        doublings: of the radius, at most; the authors continue until θ0 is wrong.
        attack_steps: of the ascent in each ball, each a tenth of its radius.
        epochs: passes over F u A.
        batch_size: examples per step.
    """
    attack = {"radius": radius, "doublings": doublings, "steps": attack_steps}
    return among_adversarial("forget", attack, sgd(learning_rate, weight_decay), epochs, batch_size)


@register(
    access="F+R",
    reference="arXiv 2111.08947",
    static=["retain_share", "noise_share"],
    identity_at_zero=True,
    search={"impair_rate": (1e-4, 0.05), "repair_rate": (1e-4, 0.05)},
)
def unsir(
    *,
    impair_rate: Number = 0.02,
    repair_rate: Number = 0.01,
    noise_rate: Number = 0.1,
    noise_penalty: Number = 0.1,
    noise_share: float = 0.36,
    retain_share: float = 0.3,
    noise_images: int = 64,
    noise_steps: int = 40,
    epochs: int = 1,
    batch_size: int = 256,
) -> Method:
    """UNSIR: trains on error-maximising noise with the forgotten labels (impair), then on the retain set (repair).

    Of F only the labels are read. Noise: from standard normal images with labels of F, Adam minimises -CE(θ0(x), y) +
    noise_penalty mean |x|². Impair: Adam minimises CE on the noise and a random share of R in one stream. Repair: Adam minimises
    CE on that share of R. Deviation: the noise takes the labels of F in turn, 64 images in all (the authors forget whole classes,
    with 256 noise images for each).

    Args:
        impair_rate: learning rate of the impair phase's Adam.
        repair_rate: learning rate of the repair phase's Adam.
        noise_rate: learning rate of the noise's Adam.
        noise_penalty: weight of the squared norm of a noise image.
        noise_share: share of noise in the impair stream, in [0, 1), reached by repeating images; the authors mix 5,120 with
            9,000.
        retain_share: of R that is used, in (0, 1].
        noise_images: number of noise images; the authors' 256 for each class.
        noise_steps: of the noise's Adam, 5 x 8 in the authors' code.
        epochs: passes of the impair phase, and of the repair phase.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        if noise_share >= 1.0:
            raise ArgumentError("unsir.noise_share", noise_share, "a share below 1")
        subset_key, start_key, noise_key, impair_key, repair_key = jax.random.split(key, 5)
        problem = with_share_of_retain(subset_key, problem, retain_share)
        labels = examples_of(problem, "forget").labels[jnp.arange(noise_images) % problem.forget_count]

        def misfit(forward, noise: Variables, batches: dict[str, Batch], progress):
            images = noise.params["images"]
            logits, _ = problem.model.apply(variables, images, train=False)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return noise_penalty * jnp.sum(jnp.square(images)) / noise_images - jnp.mean(losses), {}

        start = Variables({"images": jax.random.normal(start_key, (noise_images, *problem.train.images.shape[1:]))}, {})
        noise = descend(Objective((), misfit), optax.adam(noise_rate), steps=noise_steps)(noise_key, problem, start)
        count = round(noise_share / (1.0 - noise_share) * problem.retain_count)
        rows = jnp.arange(count) % noise_images
        mixed = among(problem, "retain", Examples(noise.params["images"][rows], labels[rows]))
        impaired = descend_on_retain(mixed, optax.adam(impair_rate), epochs, batch_size)(impair_key, mixed, variables)
        return descend_on_retain(problem, optax.adam(repair_rate), epochs, batch_size)(repair_key, problem, impaired)

    return method


@register(
    access="F", reference="arXiv 2301.11578", identity_at_zero=True, search={"learning_rate": (1e-4, 0.1), "anchor": (0.1, 100.0)}
)
def l2ul(
    *,
    learning_rate: Number = 0.01,
    anchor: Number = 10.0,
    radius: Number = 2.0,
    attack_step: Number = 0.1,
    weight_decay: Number = 1e-4,
    copies: int = 5,
    attack_steps: int = 30,
    epochs: int = 10,
    batch_size: int = 256,
) -> Method:
    """L2UL: ascends the forget loss; adversarial examples and a penalty on weight changes preserve the rest.

    A holds, for each forget example, `copies` images moved towards random other labels at θ0, by projected gradient descent in an
    l2 ball. SGD with momentum 0.9 minimises the mean over a stream of F u A of -CE on F and CE on A, plus anchor / 2 sum_i (1 -
    Ω_i) (θ_i - θ0_i)², where Ω is the mean of |∇θ |f(x)|_2| over F, scaled to [0, 1] within each parameter array: weights that do
    not matter for F stay near θ0. Deviations: a fixed number of passes (the authors stop as soon as all of F is misclassified); F
    and A in one shuffled stream (theirs pairs batches of 32 and 256); Ω from single examples' gradients, in eval mode; the attack
    starts at the image itself and is not clipped to the range of pixels; 5 copies and 30 steps (theirs 20 and 100); any other
    class as the target, uniformly (theirs is class K / 2 where the draw hits the example's own).

    Args:
        learning_rate: of SGD, the default of the authors' program; 0.001 in their script.
        anchor: the authors' lambda; 1 in their script.
        radius: of the ball, in pixels of [0, 1]; 4 in their script.
        attack_step: length of a step of the attack, in pixels of [0, 1].
        weight_decay: added to the gradient.
        copies: adversarial examples of each forget example; the authors' 20.
        attack_steps: of the attack; the authors' 100.
        epochs: passes over F u A.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        label_key, descent_key = jax.random.split(key)
        forget = jax.tree.map(lambda leaf: jnp.repeat(leaf, copies, axis=0), examples_of(problem, "forget"))
        targets = forget._replace(labels=other_labels(label_key, forget.labels, problem.classes))
        model, scale = problem.model, problem.pixel_scale
        moved = targeted_descent(model, variables, targets, radius=radius, step=attack_step, steps=attack_steps, scale=scale)
        sensitivity = output_sensitivities(problem, variables, problem.rows("forget"), size=norm)

        def loss(logits, batch: Batch):
            return jnp.where(batch.rows < len(problem.forget), -1.0, 1.0) * cross_entropy(logits, batch)

        def pull(weight, start, importance):
            spread = jnp.maximum(jnp.max(importance) - jnp.min(importance), 1e-12)
            return (1.0 - (importance - jnp.min(importance)) / spread) * jnp.square(weight - start)

        def anchored(params, progress):
            return anchor / 2.0 * optax.tree.sum(jax.tree.map(pull, params, variables.params, sensitivity))

        both = among(problem, "forget", targets._replace(images=moved))
        objective, steps = weighted(Term("retain", loss), penalty=anchored), steps_for(both, "retain", epochs, batch_size)
        transform = sgd(learning_rate, weight_decay)
        return descend(objective, transform, steps=steps, batch_size=batch_size)(descent_key, both, variables)

    return method


def among_adversarial(source: str, attack: dict[str, Any], transform, epochs: int, batch_size: int) -> Method:
    """Descends on the cross-entropy on a source and on F's nearest adversarial examples, with θ0's predictions as labels."""

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        forget, scale = examples_of(problem, "forget"), problem.pixel_scale
        adversarial = nearest_adversarial(problem.model, variables, forget, **attack, scale=scale)
        both = among(problem, source, adversarial)
        return descend_on_retain(both, transform, epochs, batch_size)(key, both, variables)

    return method
