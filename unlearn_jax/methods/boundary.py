"""Forgetting by what lies around the decision boundary: neighbouring classes, adversarial examples, images made of noise."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.methods.pieces import among, examples_of, steps_for, with_share_of_retain
from unlearn_jax.methods.registry import Number, register
from unlearn_jax.methods.relabelling import other_labels
from unlearn_jax.methods.retraining import descend_on_retain, sgd
from unlearn_jax.models import with_extra_class
from unlearn_jax.training.descend import descend
from unlearn_jax.training.fit import initialise
from unlearn_jax.training.gradients import output_sensitivity
from unlearn_jax.training.objectives import Batch, Objective, Term, cross_entropy, relabelled, weighted
from unlearn_jax.training.perturbations import fast_gradient_sign, in_chunks, nearest_adversarial, predicted, targeted_descent
from unlearn_jax.types import Examples, Key, Method, Problem, Variables


@register(access="F", reference="arXiv 2303.11570", identity_at_zero=True)
def boundary_shrink(*, size: Number = 0.1, learning_rate: Number = 1e-5, epochs: int = 10, batch_size: int = 64) -> Method:
    """Boundary shrink: gives each forget example the class that lies nearest across the decision boundary.

    The nearest class is what θ0 takes x + size sign(∇x CE(θ0, x, y)) for, found once. Minimises CE to it on F by SGD with
    momentum 0.9. An example that the step does not carry over the boundary keeps its class. Deviation: the moved image is not
    cut to the range of pixels, since images are standardised.

    Args:
        size: of the step on the image, in units of its standardised pixels.
        learning_rate: of SGD.
        epochs: passes over F.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        moved = fast_gradient_sign(problem.model, variables, examples_of(problem, "forget"), size)
        nearest = in_chunks(lambda images: predicted(problem.model, variables, images), moved)
        rows = jnp.nonzero(problem.forget, size=problem.forget_count)[0]
        objective = weighted(Term("forget", relabelled(problem.train.labels.at[rows].set(nearest))))
        steps, transform = steps_for(problem, "forget", epochs, batch_size), optax.sgd(learning_rate, 0.9)
        return descend(objective, transform, steps=steps, batch_size=batch_size)(key, problem, variables)

    return method


@register(access="F", reference="arXiv 2303.11570", identity_at_zero=True)
def boundary_expanding(*, learning_rate: Number = 1e-5, epochs: int = 10, batch_size: int = 64) -> Method:
    """Boundary expanding: moves the forget set into a class of its own, and takes the class away.

    The head gets one more neuron, drawn as at the start of training; CE to it on F is minimised by SGD with momentum 0.9; the
    neuron is pruned, so that the head has as many outputs as before.

    Args:
        learning_rate: of SGD.
        epochs: passes over F.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        neuron_key, descent_key = jax.random.split(key)
        wide = dataclasses.replace(problem, model=with_extra_class(problem.model), classes=problem.classes + 1)
        extra = initialise(neuron_key, wide).params["extra"]
        objective = weighted(Term("forget", relabelled(jnp.full_like(problem.train.labels, problem.classes))))
        steps, transform = steps_for(problem, "forget", epochs, batch_size), optax.sgd(learning_rate, 0.9)
        descent = descend(objective, transform, steps=steps, batch_size=batch_size)
        after = descent(descent_key, wide, variables._replace(params={**variables.params, "extra": extra}))
        return after._replace(params={name: after.params[name] for name in variables.params})

    return method


@register(access="F+R", reference="arXiv 2503.00917", identity_at_zero=True)
def amun(
    *,
    radius: Number = 0.5,
    learning_rate: Number = 0.01,
    weight_decay: Number = 5e-4,
    doublings: int = 4,
    attack_steps: int = 50,
    epochs: int = 10,
    batch_size: int = 128,
) -> Method:
    """AMUN: fine-tunes on the adversarial examples nearest to the forget set, labelled as the original takes them.

    Minimises CE on R u F u A in one stream by SGD with momentum 0.9: F with its true labels, A one adversarial example for
    each of F, found by projected gradient ascent in an l2 ball that doubles until θ0 is wrong, with θ0's wrong label.
    Deviations: the number of doublings is bounded, and an example that none of them fools keeps the label that θ0 gives it;
    moved images are not cut to the range of pixels; the learning rate is constant.

    Args:
        radius: of the first ball, in units of the standardised pixels.
        learning_rate: of SGD; the authors search 1e-6 to 0.1.
        weight_decay: added to the gradient.
        doublings: of the radius, at most.
        attack_steps: of the ascent in each ball, each a tenth of its radius.
        epochs: passes over R u F u A.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        forget = examples_of(problem, "forget")
        attack = {"radius": radius, "doublings": doublings, "steps": attack_steps}
        problem = among(problem, "kept", nearest_adversarial(problem.model, variables, forget, **attack))
        return descend_on_retain(problem, sgd(learning_rate, weight_decay), epochs, batch_size)(key, problem, variables)

    return method


@register(access="F", reference="arXiv 2503.00917, without the retain set", identity_at_zero=True)
def amun_forget(
    *,
    radius: Number = 0.5,
    learning_rate: Number = 0.01,
    weight_decay: Number = 5e-4,
    doublings: int = 4,
    attack_steps: int = 50,
    epochs: int = 10,
    batch_size: int = 128,
) -> Method:
    """AMUN where the retain set is not to be had: fine-tunes on the forget set and its nearest adversarial examples.

    As `amun`, on F u A.

    Args:
        radius: of the first ball, in units of the standardised pixels.
        learning_rate: of SGD; the authors search 1e-6 to 0.1.
        weight_decay: added to the gradient.
        doublings: of the radius, at most.
        attack_steps: of the ascent in each ball, each a tenth of its radius.
        epochs: passes over F u A.
        batch_size: examples per step.
    """
