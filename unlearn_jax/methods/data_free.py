"""Unlearning without data: a generator's images replace it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from unlearn_jax.errors import ArgumentError
from unlearn_jax.methods.registry import Number, register
from unlearn_jax.models.generator import generator
from unlearn_jax.training.descend import State, descend
from unlearn_jax.training.fit import initialise
from unlearn_jax.training.objectives import Objective, divergence
from unlearn_jax.types import Key, Method, Problem, Statistics, Variables

DIMENSIONS = 100  # of the generator's noise
Activations = Callable[..., tuple[Array, Statistics, tuple[Array, ...]]]  # see `Model.activations`


@register(
    access="data-free",
    reference="arXiv 2201.05629, after zero-shot knowledge transfer, 1905.09768",
    needs=["activations", "images"],
    search={"learning_rate": (1e-4, 1e-2)},
)
def gated_knowledge_transfer(
    *,
    gate: Number = 0.01,
    attention: Number = 250.0,
    learning_rate: Number = 1e-3,
    generator_rate: Number = 1e-3,
    label: int = 0,
    rounds: int = 100,
    student_steps: int = 10,
    batch_size: int = 128,
) -> Method:
    """Gated knowledge transfer: distils the original into a new network on generated images, except those of one class.

    Each round draws noise. A generator takes one step of Adam to raise KL(θ0 || student) on its images of that noise; then the
    student, a fresh network, takes `student_steps` steps of Adam on them to lower KL / classes + attention sum over blocks of
    mean (Q(θ0) - Q(student))², Q the attention map: squared activations, averaged over channels, scaled to a unit vector over
    positions. The gate passes only images to which θ0 gives the class a probability of at most `gate`; these are repeated to fill
    the batch. Both learning rates decay to 0 by a cosine. θ0 is in eval mode, the student in training mode.

    Without data the method cannot know the forget set, so the class `label` is a hyperparameter. Deviations: the authors' code
    does not fill up the batches that pass; it clips gradients to a norm of 5, and halves the learning rates on a plateau.

    Args:
        gate: largest probability of the class that passes; the authors' threshold.
        attention: weight of the distance of attention maps; the authors' AT_beta (their divergence is averaged over classes too).
        learning_rate: initial, of the student's Adam; the authors'.
        generator_rate: initial, of the generator's Adam; the authors'.
        label: the class to forget, from 0.
        rounds: number of rounds, with one generator step each; the authors take 4,000 batches.
        student_steps: steps of the student in each round; the authors'.
        batch_size: images in a round; the authors' 256.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        if label >= problem.classes:
            raise ArgumentError("gated_knowledge_transfer.label", label, f"must be 0 to {problem.classes - 1}")
        student_key, generator_key, plan_key, noise_key = jax.random.split(key, 4)
        activations_of, images = problem.model.activations, generator(problem.train.images.shape[1:])
        assert activations_of
        slow = optax.adam(optax.cosine_decay_schedule(generator_rate, rounds))
        fast = optax.adam(optax.cosine_decay_schedule(learning_rate, rounds * student_steps))

        def follow(value, transform, state: State, steps: int) -> State:
            descent = descend(Objective((), value), transform, steps=steps)
            plan = descent.plan(jax.random.clone(plan_key), problem)  # it reads no examples, so there is nothing to draw
            return descent.advance(state, plan, problem)[0]

        def one_round(states: tuple[State, State], key: Key) -> tuple[tuple[State, State], None]:
            generator_state, student_state = states
            noise = jax.random.normal(key, (batch_size, DIMENSIONS))

            def generator_loss(forward, generator_variables: Variables, batches, progress):
                lesson = teach(activations_of, variables, images.apply(generator_variables, noise)[0], label, gate)
                dropped = problem.model.keyed(jax.random.fold_in(key, 0))
                answer, _ = problem.model.apply(student_state.variables, lesson.images, train=True, **dropped)
                return -lesson.weight * jnp.mean(divergence(lesson.logits, answer)), {}

            generator_state = follow(generator_loss, slow, generator_state, 1)
            lesson = teach(activations_of, variables, images.apply(generator_state.variables, noise)[0], label, gate)

            def student_loss(forward, student: Variables, batches, progress):
                answer, statistics, activations = activations_of(student, lesson.images, train=True)
                maps = [attention_map(block) for block in activations]
                distance = sum(jnp.mean((a - b) ** 2) for a, b in zip(lesson.maps, maps, strict=True))
                unlikeness = jnp.mean(divergence(lesson.logits, answer)) / problem.classes
                return lesson.weight * (unlikeness + attention * distance), statistics

            return (generator_state, follow(student_loss, fast, student_state, student_steps)), None

        generator_start, student = images.init(generator_key, jnp.zeros((1, DIMENSIONS))), initialise(student_key, problem)
        start = State(generator_start, slow.init(generator_start.params)), State(student, fast.init(student.params))
        (_, learned), _ = jax.lax.scan(one_round, start, jax.random.split(noise_key, rounds))
        return learned.variables

    return method


class Lesson(NamedTuple):
    """A batch of images for the student, with its targets."""

    images: Float[Array, "batch *image"]  # those that pass the gate, repeated to fill the batch
    logits: Float[Array, "batch classes"]  # the teacher's
    maps: list[Float[Array, "batch positions"]]  # the teacher's attention maps
    weight: Float[Array, ""]  # 0 if nothing passes the gate, else 1


def teach(
    activations_of: Activations,
    teacher: Variables,
    images: Float[Array, "batch *image"],
    label: int,
    gate: float | Array,
) -> Lesson:
    """The images to which the teacher gives the class `label` a probability of at most `gate`, with the teacher's outputs."""
    logits, _, activations = activations_of(teacher, images, train=False)
    passes = jax.nn.softmax(logits)[:, label] <= gate
    count = jnp.sum(passes)
    rows = jnp.argsort(~passes)[jnp.arange(len(images)) % jnp.maximum(count, 1)]
    maps = [attention_map(block)[rows] for block in activations]
    return Lesson(images[rows], logits[rows], maps, (count > 0).astype(jnp.float32))


def attention_map(activations: Float[Array, "batch positions channels"]) -> Float[Array, "batch positions"]:
    """Squared activations, averaged over channels and scaled to a unit vector over positions (arXiv 1612.03928)."""
    energy = jnp.mean(jnp.square(activations), axis=-1)
    return energy * jax.lax.rsqrt(jnp.sum(jnp.square(energy), axis=-1, keepdims=True) + 1e-12)
