"""A hypernetwork that maps a model's outputs on F to a weight update, trained on other forget sets and their oracles.

The update is small on purpose: a scale for every channel of every layer, a shift for every channel of a bias or norm, and for the
head also a sum over the forget examples of a learned vector over classes times the example's features.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from unlearn_jax.methods.needs import require
from unlearn_jax.methods.pieces import examples_of
from unlearn_jax.models.paths import at, replaced
from unlearn_jax.training.descend import Descent, State, descend
from unlearn_jax.training.objectives import Objective, divergence
from unlearn_jax.training.precision import precise
from unlearn_jax.types import Examples, Key, Method, Params, Problem, Variables

EMBEDDING, WIDTH = 8, 32  # length of a layer's embedding; hidden units
OF_EXAMPLE, OF_CLASS, OF_CHANNEL = 5, 3, 1  # inputs per forget example, per example and class, per channel
SUMMARISED = 3  # quantities whose mean and spread by class summarise a forget set
NEEDS = ("features", "linear head")


class Lesson(NamedTuple):
    """A forget set, a model to unlearn it from, and the logits of its oracle. Stacked over forget sets."""

    variables: Variables
    forget: Int[Array, "*lessons forget"]  # rows of the training set
    others: Int[Array, "*lessons others"]  # rows that are retained
    oracle: Float[Array, "*lessons judged classes"]  # logits on forget, others and all held-out examples, in this order


def hypernetwork(weights: Params) -> Method:
    """Unlearns by one forward pass of a trained hypernetwork and one of the model on F, without any gradient.

    Each forget example has the features h, probabilities p and one-hot label y. The summary s of F is the mean and the spread,
    class by class, of the loss, of |p - y| |h| (the norm of the head's gradient) and of |h|. One small network gives for each
    channel, from s, its layer's embedding e and its size, a scale and a shift; another gives for each example and class, from s,
    e of the head, p, y, loss, margin and entropy, a coefficient c. The head's weights and bias, as one matrix W, become
    W + (H'H / n + λ I)^-1 H'C / n, where H are the n examples' (h, 1) and λ is learned, in units of the mean square of H.

    At unlearning time it reads F alone; meta-training read the training set, retrained models and held-out data. BatchNorm's
    statistics stay. The model must declare its features and a linear head (`NEEDS`).

    Args:
        weights: from `meta_trained`.
    """
    return lambda key, problem, variables: rewritten(weights, problem, variables, examples_of(problem, "forget"))


def fresh_hypernetwork(key: Key, problem: Problem) -> Params:
    """Initial weights, with which the hypernetwork changes nothing."""
    params = jax.eval_shape(problem.model.init, key, problem.train.images[:1]).params
    embedding_key, network_key = jax.random.split(key)
    known = EMBEDDING + 2 * SUMMARISED * problem.classes
    inputs = known + OF_CHANNEL, known + OF_EXAMPLE + OF_CLASS
    kernels = jnp.split(jax.random.normal(network_key, (sum(inputs), WIDTH)), [inputs[0]])
    channels, coefficients = (
        {
            "hidden": {"kernel": kernel * math.sqrt(2.0 / size), "bias": jnp.zeros(WIDTH)},
            "out": {"kernel": jnp.zeros((WIDTH, outputs)), "bias": jnp.zeros(outputs)},
        }
        for kernel, size, outputs in zip(kernels, inputs, (2, 1), strict=True)
    )
    embeddings = jax.random.normal(embedding_key, (len(jax.tree.leaves(params)) + 1, EMBEDDING))
    return {"channels": channels, "coefficients": coefficients, "embeddings": embeddings, "ridge": jnp.zeros([])}


@precise
def rewritten(weights: Params, problem: Problem, variables: Variables, forget: Examples) -> Variables:
    """The variables after the hypernetwork's update from the outputs on `forget`; see `hypernetwork`."""
    features, head = features_and_head(problem, variables, forget)
    of_examples, of_classes, summary = summarised(features, head, forget, problem.classes)
    params = modulated(weights, summary, variables.params)
    size = len(forget.labels)
    set_inputs = jnp.concatenate([weights["embeddings"][-1], summary])
    inputs = jnp.concatenate(
        [
            jnp.broadcast_to(set_inputs, (size, problem.classes, len(set_inputs))),
            jnp.broadcast_to(of_examples[:, None], (size, problem.classes, OF_EXAMPLE)),
            of_classes,
        ],
        axis=-1,
    )
    coefficients = _network(weights["coefficients"], inputs)[..., 0]
    place = problem.model.head
    assert place
    bordered = jnp.concatenate([features, jnp.ones((size, 1))], axis=1) if place.bias else features
    gram = bordered.T @ bordered / size
    ridge = jax.nn.softplus(weights["ridge"]) * jnp.mean(jnp.square(bordered))
    change = jnp.linalg.solve(gram + ridge * jnp.eye(len(gram)), bordered.T @ coefficients / size)
    moved = {place.kernel: at(params, place.kernel) + change[: features.shape[1]]}
    if place.bias:
        moved[place.bias] = at(params, place.bias) + change[-1]
    return variables._replace(params=replaced(params, moved))


def features_and_head(problem: Problem, variables: Variables, examples: Examples) -> tuple[Array, Params]:
    """The features of each example, and the head's weights; a missing bias is 0.

    Raises:
        ValueError: the model does not declare its features, or a linear head.
    """
    require("hypernetwork", NEEDS, problem)
    model, head = problem.model, problem.model.head
    assert model.features and head
    bias = at(variables.params, head.bias) if head.bias else jnp.zeros(problem.classes)
    return model.features(variables, examples.images), {"kernel": at(variables.params, head.kernel), "bias": bias}


def summarised(
    features: Float[Array, "forget features"], head: Params, forget: Examples, classes: int
) -> tuple[Float[Array, "forget of_example"], Float[Array, "forget classes of_class"], Float[Array, " summary"]]:
    """The hypernetwork's inputs, of order one: by example, by example and class, and for the whole forget set.

    The summary holds, by class, mean and standard deviation of the loss, the norm of the head's gradient and the norm of the
    features; zeros for a class that no example has.
    """
    one_hot = jax.nn.one_hot(forget.labels, classes)
    logits = features @ head["kernel"] + head["bias"][None]
    log_p = jax.nn.log_softmax(logits)
    p = jnp.exp(log_p)
    losses, entropies = -jnp.sum(one_hot * log_p, axis=1), -jnp.sum(p * log_p, axis=1)
    others = jax.nn.logsumexp(jnp.where(one_hot > 0, -jnp.inf, logits), axis=1)
    margins = jnp.tanh((jnp.sum(one_hot * logits, axis=1) - others) / 5.0)
    lengths = jnp.sqrt(jnp.mean(jnp.square(features), axis=1))
    slopes = jnp.linalg.norm(p - one_hot, axis=1) * lengths
    quantities = jnp.stack([jnp.log1p(losses), slopes, lengths], axis=1)
    share = one_hot / jnp.maximum(jnp.sum(one_hot, axis=0), 1.0)[None]
    means = share.T @ quantities
    spreads = jnp.sqrt(jnp.maximum(share.T @ jnp.square(quantities) - jnp.square(means), 0.0) + 1e-12)
    of_examples = jnp.concatenate([quantities, margins[:, None], entropies[:, None]], axis=1)
    of_classes = jnp.stack([p, one_hot, jnp.maximum(log_p, -10.0) / 5.0], axis=-1)
    return of_examples, of_classes, jnp.concatenate([means.reshape(-1), spreads.reshape(-1)])


def modulated(weights: Params, summary: Float[Array, " summary"], params: Params) -> Params:
    """Scales every channel (the last axis of every leaf), and shifts those of vectors, by the first network's outputs."""
    leaves, structure = jax.tree.flatten(params)
    layer = np.repeat(np.arange(len(leaves)), [leaf.shape[-1] for leaf in leaves])
    sizes = jnp.concatenate([jnp.sqrt(jnp.mean(jnp.square(leaf.reshape(-1, leaf.shape[-1])), axis=0)) for leaf in leaves])
    known = jnp.broadcast_to(summary, (len(layer), len(summary)))
    outputs = _network(weights["channels"], jnp.concatenate([weights["embeddings"][layer], known, sizes[:, None]], axis=1))
    parts = jnp.split(outputs, np.flatnonzero(np.diff(layer)) + 1)
    scales = [part[:, 0].reshape(*[1] * (leaf.ndim - 1), -1) for leaf, part in zip(leaves, parts, strict=True)]
    shifts = [part[:, 1] if leaf.ndim == 1 else 0.0 for leaf, part in zip(leaves, parts, strict=True)]
    changed = [leaf + leaf * scale + shift for leaf, scale, shift in zip(leaves, scales, shifts, strict=True)]
    return jax.tree.unflatten(structure, changed)


def lesson_loss(weights: Params, problem: Problem, lesson: Lesson) -> Float[Array, ""]:
    """KL(oracle || unlearned) in nats: the sum of its means over the forget set, the others, and the held-out examples."""
    train, held_out = problem.train, problem.held_out
    forget = Examples(train.images[lesson.forget], train.labels[lesson.forget])
    images = jnp.concatenate([forget.images, train.images[lesson.others], held_out.images])
    logits, _ = problem.model.apply(rewritten(weights, problem, lesson.variables, forget), images, train=False)
    divergences = divergence(lesson.oracle, logits)
    parts = jnp.split(divergences, np.cumsum([len(lesson.forget), len(lesson.others)]))
    return sum((jnp.mean(part) for part in parts), start=jnp.zeros([]))


def meta_training(
    key: Key, problem: Problem, lessons: Lesson, *, steps: int, batch_size: int, learning_rate: float | Array
) -> Descent:
    """The descent that meta-trains a hypernetwork, on the mean of `lesson_loss` over lessons drawn anew each step.

    By Adam, with a learning rate that decays to 0 by a cosine.

    Args:
        key: draws the lessons.
        problem: the examples and the model.
        lessons: stacked.
        steps: number of steps.
        batch_size: lessons per step.
        learning_rate: initial.
    """
    count = len(lessons.forget)

    def value(forward, variables: Variables, batches: dict[str, Any], progress):
        drawn = jax.random.randint(jax.random.fold_in(key, jnp.rint(progress * steps).astype(jnp.int32)), (batch_size,), 0, count)
        chosen = jax.tree.map(lambda leaf: leaf[drawn], lessons)
        return jnp.mean(jax.vmap(lambda lesson: lesson_loss(variables.params, problem, lesson))(chosen)), variables.statistics

    chain = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(learning_rate, steps)))
    return descend(Objective((), value), chain, steps=steps)


def meta_trained(
    key: Key, problem: Problem, lessons: Lesson, *, steps: int, batch_size: int = 8, learning_rate: float | Array = 3e-3
) -> tuple[Params, Float[Array, " steps"]]:
    """Meta-trains a hypernetwork from fresh weights; gives its weights and the loss before each step, see `meta_training`."""
    init_key, lesson_key, plan_key = jax.random.split(key, 3)
    descent = meta_training(lesson_key, problem, lessons, steps=steps, batch_size=batch_size, learning_rate=learning_rate)
    start: State = descent.begin(Variables(fresh_hypernetwork(init_key, problem), {}))
    state, losses = descent.advance(start, descent.plan(plan_key, problem), problem)
    return state.variables.params, losses


def _network(weights: Params, inputs: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
    rows = inputs.reshape(-1, inputs.shape[-1])
    hidden = jax.nn.relu(rows @ weights["hidden"]["kernel"] + weights["hidden"]["bias"][None])
    outputs = hidden @ weights["out"]["kernel"] + weights["out"]["bias"][None]
    return outputs.reshape(*inputs.shape[:-1], -1)
