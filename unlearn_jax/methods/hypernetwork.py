"""A hypernetwork that maps a model's outputs on F to a weight update, trained on other forget sets and their oracles.

The update is small on purpose: a scale for every channel of every layer, a shift for every channel of a bias or norm, and for the
head also a sum over the forget examples of a learned vector over classes times the example's features. Two extensions read and
write more: the images of F, and the body's layers example by example (`fresh_hypernetwork`).
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
GUESSING = 64  # hidden units of the network that reads images
OF_GUESS = 2  # further inputs per example and class, from that network
LOGITS = 5.0  # unit of the guess's difference from the model's logits
STEP = 6e-3  # unit of the steps of descent on F: a mean over examples
TARGETS = ("kl", "margins", "logits")  # what `lesson_loss` compares
NEEDS = ("features", "linear head")


class Capacity(NamedTuple):
    """What a hypernetwork reads and writes beyond the outputs on F, and scales, shifts and the head."""

    images: bool = False  # it also reads the images of F
    passes: int = 0  # steps of descent on F by which it writes to all layers, example by example


SMALL = Capacity()


class Lesson(NamedTuple):
    """A forget set, a model to unlearn it from, and the logits of its oracle. Stacked over forget sets."""

    variables: Variables
    forget: Int[Array, "*lessons forget"]  # rows of the training set
    others: Int[Array, "*lessons others"]  # rows that are retained
    oracle: Float[Array, "*lessons judged classes"]  # logits on forget, others and all held-out examples, in this order


def hypernetwork(weights: Params, capacity: Capacity = SMALL) -> Method:
    """Unlearns by one forward pass of a trained hypernetwork and one of the model on F, with `SMALL` without any gradient.

    Each forget example has the features h, probabilities p and one-hot label y. The summary s of F is the mean and the spread,
    class by class, of the loss, of |p - y| |h| (the norm of the head's gradient) and of |h|. One small network gives for each
    channel, from s, its layer's embedding e and its size, a scale and a shift; another gives for each example and class, from s,
    e of the head, p, y, loss, margin and entropy, a coefficient c. The head's weights and bias, as one matrix W, become
    W + (H'H / n + λ I)^-1 H'C / n, where H are the n examples' (h, 1) and λ is learned, in units of the mean square of H.

    With a larger `capacity` a third network guesses the logits that a retrained model gives each forget example, as the model's
    own plus an output by class, from p, y, loss, margin and entropy, and with `images` from the image; the guess, and its
    probabilities less p, are read beside p and y. With `passes` every array θ then moves that many times by J' (guess - z) / n:
    by gradient descent on F towards the guess, with a step for each channel, the first network's third output.

    At unlearning time it reads F alone; meta-training read the training set, retrained models and held-out data. BatchNorm's
    statistics stay. The model must declare its features and a linear head (`NEEDS`).

    Args:
        weights: from `meta_trained`.
        capacity: with which they were trained.
    """
    return lambda key, problem, variables: rewritten(weights, problem, variables, examples_of(problem, "forget"), capacity)


def fresh_hypernetwork(key: Key, problem: Problem, capacity: Capacity = SMALL) -> Params:
    """Initial weights, with which the hypernetwork changes nothing.

    Args:
        key: draws them.
        problem: the examples and the model.
        capacity: what it reads and writes.
    """
    images, passes = capacity
    params = jax.eval_shape(problem.model.init, key, problem.train.images[:1]).params
    guess_key = jax.random.fold_in(key, 1)
    embedding_key, network_key = jax.random.split(key)
    known = EMBEDDING + 2 * SUMMARISED * problem.classes
    inputs = known + OF_CHANNEL, known + OF_EXAMPLE + OF_CLASS + (OF_GUESS if any(capacity) else 0)
    kernels = jnp.split(jax.random.normal(network_key, (sum(inputs), WIDTH)), [inputs[0]])
    channels, coefficients = (
        {
            "hidden": {"kernel": kernel * math.sqrt(2.0 / size), "bias": jnp.zeros(WIDTH)},
            "out": {"kernel": jnp.zeros((WIDTH, outputs)), "bias": jnp.zeros(outputs)},
        }
        for kernel, size, outputs in zip(kernels, inputs, (3 if passes else 2, 1), strict=True)
    )
    if passes:
        channels["out"]["bias"] = channels["out"]["bias"].at[-1].set(1.0)
    embeddings = jax.random.normal(embedding_key, (len(jax.tree.leaves(params)) + 1, EMBEDDING))
    weights = {"channels": channels, "coefficients": coefficients, "embeddings": embeddings, "ridge": jnp.zeros([])}
    if any(capacity):
        size = OF_EXAMPLE + OF_CLASS * problem.classes + (math.prod(problem.train.images.shape[1:]) if images else 0)
        kernel = jax.random.normal(guess_key, (size, GUESSING)) * math.sqrt(2.0 / size)
        weights["guess"] = {
            "hidden": {"kernel": kernel, "bias": jnp.zeros(GUESSING)},
            "out": {"kernel": jnp.zeros((GUESSING, problem.classes)), "bias": jnp.zeros(problem.classes)},
        }
    return weights


@precise
def rewritten(weights: Params, problem: Problem, variables: Variables, forget: Examples, capacity: Capacity = SMALL) -> Variables:
    """The variables after the hypernetwork's update from the outputs on `forget`; see `hypernetwork`."""
    features, head = features_and_head(problem, variables, forget)
    of_examples, of_classes, summary = summarised(features, head, forget, problem.classes)
    size = len(forget.labels)
    guess = features @ head["kernel"] + head["bias"][None]
    if any(capacity):
        seen = (of_examples, of_classes, *([forget.images] if capacity.images else ()))
        read = [part.reshape(size, -1) for part in seen]
        p = jax.nn.softmax(guess)
        guess += LOGITS * _network(weights["guess"], jnp.concatenate(read, axis=1))
        log_guess = jax.nn.log_softmax(guess)
        guessed = jnp.stack([jnp.maximum(log_guess, -10.0) / 5.0, jnp.exp(log_guess) - p], axis=-1)
        of_classes = jnp.concatenate([of_classes, guessed], axis=-1)
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
    params, steps = modulated(weights, summary, variables.params)
    bordered = jnp.concatenate([features, jnp.ones((size, 1))], axis=1) if place.bias else features
    gram = bordered.T @ bordered / size
    ridge = jax.nn.softplus(weights["ridge"]) * jnp.mean(jnp.square(bordered))
    change = jnp.linalg.solve(gram + ridge * jnp.eye(len(gram)), bordered.T @ coefficients / size)
    moved = {place.kernel: at(params, place.kernel) + change[: features.shape[1]]}
    if place.bias:
        moved[place.bias] = at(params, place.bias) + change[-1]
    after = variables._replace(params=replaced(params, moved))
    return descended(problem, after, forget, guess, steps, capacity.passes) if steps else after


def descended(
    problem: Problem, variables: Variables, forget: Examples, guess: Float[Array, "forget classes"], steps: Params, passes: int
) -> Variables:
    """The variables after steps of descent on half the squared difference of centred logits from the guess, a mean over examples.

    Args:
        problem: the model.
        variables: where it starts.
        forget: the examples.
        guess: logits to come to.
        steps: the size of a step for each channel, in units of `STEP`.
        passes: number of steps.
    """

    def logits(params: Params) -> Array:
        return _centred(problem.model.apply(variables._replace(params=params), forget.images, train=False)[0])

    def step(params: Params, _: None) -> tuple[Params, None]:
        z, back = jax.vjp(logits, params)
        (pull,) = back(STEP * (_centred(guess) - z) / len(z))
        sizes = jax.tree.map(lambda size, along: size.reshape(*[1] * (along.ndim - 1), -1), steps, pull)
        return jax.tree.map(lambda leaf, size, along: leaf + size * along, params, sizes, pull), None

    return variables._replace(params=jax.lax.scan(step, variables.params, length=passes)[0])


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
    margins = jnp.tanh(_margins(logits, forget.labels) / 5.0)
    lengths = jnp.sqrt(jnp.mean(jnp.square(features), axis=1))
    slopes = jnp.linalg.norm(p - one_hot, axis=1) * lengths
    quantities = jnp.stack([jnp.log1p(losses), slopes, lengths], axis=1)
    share = one_hot / jnp.maximum(jnp.sum(one_hot, axis=0), 1.0)[None]
    means = share.T @ quantities
    spreads = jnp.sqrt(jnp.maximum(share.T @ jnp.square(quantities) - jnp.square(means), 0.0) + 1e-12)
    of_examples = jnp.concatenate([quantities, margins[:, None], entropies[:, None]], axis=1)
    of_classes = jnp.stack([p, one_hot, jnp.maximum(log_p, -10.0) / 5.0], axis=-1)
    return of_examples, of_classes, jnp.concatenate([means.reshape(-1), spreads.reshape(-1)])


def modulated(weights: Params, summary: Float[Array, " summary"], params: Params) -> tuple[Params, Params | None]:
    """Scales every channel (the last axis of every leaf), and shifts those of vectors, by the first network's outputs.

    Returns:
        The weights; and the third output for each channel, in the shapes of the weights' last axis, if there is one.
    """
    leaves, structure = jax.tree.flatten(params)
    layer = np.repeat(np.arange(len(leaves)), [leaf.shape[-1] for leaf in leaves])
    sizes = jnp.concatenate([jnp.sqrt(jnp.mean(jnp.square(leaf.reshape(-1, leaf.shape[-1])), axis=0)) for leaf in leaves])
    known = jnp.broadcast_to(summary, (len(layer), len(summary)))
    outputs = _network(weights["channels"], jnp.concatenate([weights["embeddings"][layer], known, sizes[:, None]], axis=1))
    parts = jnp.split(outputs, np.flatnonzero(np.diff(layer)) + 1)
    scales = [part[:, 0].reshape(*[1] * (leaf.ndim - 1), -1) for leaf, part in zip(leaves, parts, strict=True)]
    shifts = [part[:, 1] if leaf.ndim == 1 else 0.0 for leaf, part in zip(leaves, parts, strict=True)]
    changed = [leaf + leaf * scale + shift for leaf, scale, shift in zip(leaves, scales, shifts, strict=True)]
    steps = None
    if outputs.shape[1] > 2:
        steps = jax.tree.unflatten(structure, [part[:, 2] for part in parts])
    return jax.tree.unflatten(structure, changed), steps


def lesson_loss(
    weights: Params, problem: Problem, lesson: Lesson, target: str = "kl", capacity: Capacity = SMALL
) -> Float[Array, ""]:
    """How far the unlearned model is from the oracle: the sum of its means over the forget set, the others, and the held-out.

    Args:
        weights: of the hypernetwork.
        problem: the examples and the model.
        lesson: one.
        target: `kl`: KL(oracle || unlearned), in nats; `margins`: the squared difference of the margins, in nats squared;
            `logits`: the mean over classes of the squared difference of the centred logits. A temperature can lower the first
            of any model that is too sure; the others ask for each example's margin, or all its logits, at their size.
        capacity: of the hypernetwork.
    """
    train, held_out = problem.train, problem.held_out
    forget = Examples(train.images[lesson.forget], train.labels[lesson.forget])
    images = jnp.concatenate([forget.images, train.images[lesson.others], held_out.images])
    logits, _ = problem.model.apply(rewritten(weights, problem, lesson.variables, forget, capacity), images, train=False)
    if target == "kl":
        apart = divergence(lesson.oracle, logits)
    elif target == "margins":
        labels = jnp.concatenate([forget.labels, train.labels[lesson.others], held_out.labels])
        apart = jnp.square(_margins(logits, labels) - _margins(lesson.oracle, labels))
    else:
        apart = jnp.mean(jnp.square(_centred(logits - lesson.oracle)), axis=1)
    parts = jnp.split(apart, np.cumsum([len(lesson.forget), len(lesson.others)]))
    return sum((jnp.mean(part) for part in parts), start=jnp.zeros([]))


def meta_training(
    key: Key,
    problem: Problem,
    lessons: Lesson,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float | Array,
    target: str = "kl",
    capacity: Capacity = SMALL,
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
        target: of `lesson_loss`.
        capacity: of the hypernetwork.
    """
    count = len(lessons.forget)

    def value(forward, variables: Variables, batches: dict[str, Any], progress):
        drawn = jax.random.randint(jax.random.fold_in(key, jnp.rint(progress * steps).astype(jnp.int32)), (batch_size,), 0, count)
        chosen = jax.tree.map(lambda leaf: leaf[drawn], lessons)
        losses = jax.vmap(lambda lesson: lesson_loss(variables.params, problem, lesson, target, capacity))(chosen)
        return jnp.mean(losses), variables.statistics

    chain = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(learning_rate, steps)))
    return descend(Objective((), value), chain, steps=steps)


def meta_trained(
    key: Key,
    problem: Problem,
    lessons: Lesson,
    *,
    steps: int,
    batch_size: int = 8,
    learning_rate: float | Array = 3e-3,
    target: str = "kl",
    capacity: Capacity = SMALL,
) -> tuple[Params, Float[Array, " steps"]]:
    """Meta-trains a hypernetwork from fresh weights; gives its weights and the loss before each step, see `meta_training`.

    `target` is that of `lesson_loss`, `capacity` what the hypernetwork reads and writes.
    """
    init_key, lesson_key, plan_key = jax.random.split(key, 3)
    asked: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    descent = meta_training(lesson_key, problem, lessons, target=target, capacity=capacity, **asked)
    start: State = descent.begin(Variables(fresh_hypernetwork(init_key, problem, capacity), {}))
    state, losses = descent.advance(start, descent.plan(plan_key, problem), problem)
    return state.variables.params, losses


def _centred(logits: Float[Array, "examples classes"]) -> Float[Array, "examples classes"]:
    return logits - jnp.mean(logits, axis=1, keepdims=True)


def _margins(logits: Float[Array, "examples classes"], labels: Int[Array, " examples"]) -> Float[Array, " examples"]:
    """As `metrics.scaled_logits`, of one model."""
    own = jax.nn.one_hot(labels, logits.shape[-1])
    return jnp.sum(own * logits, axis=-1) - jax.nn.logsumexp(jnp.where(own > 0, -jnp.inf, logits), axis=-1)


def _network(weights: Params, inputs: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
    rows = inputs.reshape(-1, inputs.shape[-1])
    hidden = jax.nn.relu(rows @ weights["hidden"]["kernel"] + weights["hidden"]["bias"][None])
    outputs = hidden @ weights["out"]["kernel"] + weights["out"]["bias"][None]
    return outputs.reshape(*inputs.shape[:-1], -1)
