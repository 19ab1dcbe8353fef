"""Summaries that are kept when the training data are deleted; from some of them the part of each forgotten example is subtracted.

What is kept besides the model decides what a stream of requests can be held by. `SUMMARIES` declares each one: what it holds, and
whether that is free of the forgotten examples. `unlearn_jax.methods.streaming` uses them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from unlearn_jax.methods.pieces import examples_of, steps_for
from unlearn_jax.methods.registry import Number, Range
from unlearn_jax.training.descend import descend
from unlearn_jax.training.objectives import Term, divergence, weighted
from unlearn_jax.training.precision import precise
from unlearn_jax.training.sampling import Source, draw
from unlearn_jax.types import Examples, Key, Problem, Variables

PRIOR = 20.0  # examples' worth of the pooled covariance in the covariance of a class
RIDGE = 0.1  # variance that is added to each input, in its own unit
NEVER = -1e9  # log share of a class of which no example is left


class Summary(NamedTuple):
    """What is kept besides the model.

    Attributes:
        holds: what it holds, in words.
        free: whether it holds nothing of the examples forgotten so far.
        access: beside F, as in the tables of results.
    """

    holds: str
    free: bool
    access: str


ANCHORS = {
    "anchor": Summary("weights after training, Fisher diagonal of all training examples", False, "F + summary"),
    "anchor without F": Summary("weights after training (of which F is a part), Fisher diagonal less F's", False, "F + summary"),
}
"""The summaries that hold weights back, see `streaming.pulled`. Subtraction frees the Fisher diagonal, never the weights."""
STAND_INS = {
    "classes": Summary("by class: number, sum and sum of products of the inputs, less F's", True, "F + summary"),
    "classes with F": Summary("by class: number, sum and sum of products of the inputs, F's included", False, "F + summary"),
    "held-out": Summary("inputs that no model was trained on, without labels", True, "F + test-like"),
    "R": Summary("all retained examples", True, "F + R"),
}
"""The summaries that stand in for retained examples, see `stand_in`; the last is the control that has them."""
SUMMARIES = {**ANCHORS, **STAND_INS}


class ClassStatistics(NamedTuple):
    """Sums over labelled examples, by class. Those of any subset can be subtracted, which is exact but for rounding."""

    number: Float[Array, " classes"]
    total: Float[Array, "classes inputs"]
    products: Float[Array, "classes inputs inputs"]

    def without(self, examples: Examples) -> "ClassStatistics":
        """The statistics of all other examples."""
        return jax.tree.map(jnp.subtract, self, class_statistics(examples, len(self.number)))


@precise
def class_statistics(examples: Examples, classes: int) -> ClassStatistics:
    """The sums over examples; their number is that of the classes times the square of the number of inputs.

    Args:
        examples: with inputs of any shape, which are flattened.
        classes: number of classes.
    """
    inputs = examples.images.reshape(len(examples.labels), -1)
    of_class = jax.nn.one_hot(examples.labels, classes)
    return ClassStatistics(
        of_class.sum(axis=0), of_class.T @ inputs, jnp.einsum("nc,ni,nj->cij", of_class, inputs, inputs, optimize="optimal")
    )


class Gaussians(NamedTuple):
    """A normal distribution of the inputs of each class, and the share of each class."""

    log_share: Float[Array, " classes"]
    mean: Float[Array, "classes inputs"]
    factor: Float[Array, "classes inputs inputs"]  # lower Cholesky factor of the covariance


@precise
def gaussians(statistics: ClassStatistics) -> Gaussians:
    """The normal distributions with these moments; covariances are shrunk towards the pooled one (`PRIOR`, `RIDGE`)."""
    count = statistics.number
    mean = statistics.total / jnp.maximum(count, 1.0)[:, None]
    scatter = statistics.products - count[:, None, None] * mean[:, :, None] * mean[:, None, :]
    pooled = jnp.sum(scatter, axis=0) / jnp.maximum(jnp.sum(count), 1.0)
    covariance = (scatter + PRIOR * pooled[None]) / (count + PRIOR)[:, None, None] + RIDGE * jnp.eye(mean.shape[1])[None]
    share = jnp.where(count > 0.5, jnp.log(jnp.maximum(count, 0.5) / jnp.maximum(jnp.sum(count), 1.0)), NEVER)
    return Gaussians(share, mean, _cholesky(covariance))


def _cholesky(matrices: Float[Array, "classes n n"], width: int = 16) -> Float[Array, "classes n n"]:
    """The lower factors, `width` columns at a time: LAPACK's, called from two devices of a CPU at once, may never return."""
    place, parts = jnp.arange(matrices.shape[-1]), []
    for first in range(0, len(place), width):
        panel = matrices[:, :, first : first + width]

        def column(panel: Array, k: Array, first: int = first) -> tuple[Array, Array]:
            pivot = jnp.sqrt(jax.lax.dynamic_index_in_dim(panel[:, first:], k, 1, keepdims=False)[:, k])
            own = jnp.where((place >= first + k)[None], panel[:, :, k], 0.0) / pivot[:, None]
            return panel - own[:, :, None] * own[:, None, first : first + panel.shape[2]], own

        factor = jnp.moveaxis(jax.lax.scan(column, panel, jnp.arange(panel.shape[2]))[1], 0, -1)
        matrices = matrices - factor @ factor.transpose(0, 2, 1)
        parts.append(factor)
    return jnp.concatenate(parts, axis=2)


def posterior(
    given: Gaussians, images: Float[Array, "examples *image"], temperature: Number = 1.0
) -> Float[Array, "examples classes"]:
    """Log-probabilities of the classes by Bayes' rule, from log densities divided by a temperature."""
    inputs = images.reshape(len(images), -1)
    pivots = jnp.diagonal(given.factor, axis1=1, axis2=2)

    def solve(rest: Array, k: Array) -> tuple[Array, Array]:  # forward substitution, [classes, examples, inputs]
        white = rest[:, :, k] / pivots[:, k][:, None]
        return rest - white[:, :, None] * given.factor[:, None, :, k], white**2

    _, squares = jax.lax.scan(solve, inputs[None] - given.mean[:, None], jnp.arange(inputs.shape[1]))
    densities = -0.5 * jnp.sum(squares, axis=0) - jnp.sum(jnp.log(pivots), axis=1)[:, None]
    return jax.nn.log_softmax(given.log_share[None] + densities.T / temperature)


def pseudo_examples(key: Key, given: Gaussians, number: int, shape: tuple[int, ...]) -> Examples:
    """Examples drawn from the distributions of the classes, with inputs of a shape."""
    label_key, input_key = jax.random.split(key)
    labels = jax.random.categorical(label_key, given.log_share, shape=(number,))
    white = jax.random.normal(input_key, (number, given.mean.shape[1]))
    inputs = given.mean[labels] + jnp.einsum("nij,nj->ni", given.factor[labels], white)
    return Examples(inputs.reshape(number, *shape), labels.astype(jnp.int32))


class Kept(NamedTuple):
    """What stand-ins are made of, in the course of a stream. Made by `keep`."""

    statistics: ClassStatistics  # without the examples asked for so far
    whole: ClassStatistics  # with them
    left: Bool[Array, " examples"]  # the rows that nobody asked for, which only the control reads

    def after(self, problem: Problem, rows: Int[Array, " size"]) -> "Kept":
        """Without the rows of a request."""
        asked = Examples(problem.train.images[rows], problem.train.labels[rows])
        return Kept(self.statistics.without(asked), self.whole, self.left.at[rows].set(False))


def keep(problem: Problem) -> Kept:
    """What is kept of the training examples before the first request."""
    whole = class_statistics(examples_of(problem, "kept"), problem.classes)
    return Kept(whole, whole, problem.kept)


def stand_in(
    key: Key, which: Int[Array, ""], problem: Problem, variables: Variables, kept: Kept, number: int, least: int
) -> tuple[Examples, Gaussians]:
    """Examples in place of the retained ones, and the distributions of the classes that belong to them.

    Held-out examples get the labels that the model gives them; the control's distributions are those of `classes`.

    Args:
        key: draws the examples.
        which: the place of the summary in `STAND_INS`.
        problem: the held-out examples; of the training examples only the control reads any.
        variables: the model before the request.
        kept: see `Kept`.
        number: of examples.
        least: retained rows that are left after the last request.
    """
    images = problem.train.images

    def of_classes(statistics: ClassStatistics) -> tuple[Examples, Gaussians]:
        given = gaussians(statistics)
        return pseudo_examples(key, given, number, images.shape[1:]), given

    def held_out() -> tuple[Examples, Gaussians]:
        logits, _ = problem.model.apply(variables, problem.held_out.images, train=False)
        spare = Examples(problem.held_out.images, jnp.argmax(logits, axis=-1).astype(jnp.int32))
        order = jax.random.permutation(key, len(spare.labels))[jnp.arange(number) % len(spare.labels)]
        return jax.tree.map(lambda leaf: leaf[order], spare), gaussians(class_statistics(spare, problem.classes))

    def retained() -> tuple[Examples, Gaussians]:
        ((rows,),) = draw(key, [Source(kept.left, least, 1)], number)
        rows = rows[jnp.arange(number) % len(rows)]
        return Examples(images[rows], problem.train.labels[rows].astype(jnp.int32)), gaussians(kept.statistics)

    branches = lambda: of_classes(kept.statistics), lambda: of_classes(kept.whole), held_out, retained
    return jax.lax.switch(which, branches)


def class_distillation(
    *, learning_rate: Number = 0.003, alpha: Number = 10.0, temperature: Number = 2.0, epochs: int = 5, batch_size: int = 64
) -> Any:
    """Class distillation: on F the answers of class statistics that are free of F, on stand-ins the model's own.

    Minimises the mean over F of KL(q || p) + alpha times the mean over stand-ins of KL(p0 || p) by SGD with momentum 0.9, where q
    are the probabilities of Gaussians with the class statistics less those of F, at a temperature, and p0 the model's before the
    request. The target on F is bounded, so that no step runs away as it does in ascent, and it is what a classifier that never
    saw F says of it. BatchNorm is frozen. A method of this project.

    Args:
        learning_rate: of SGD.
        alpha: weight of the stand-ins; at 1 models drift further (digits, one stream of another seed).
        temperature: by which log densities are divided; of powers of two, 2 is the likeliest for held-out digits.
        epochs: passes over the stand-ins.
        batch_size: examples per step.

    Returns:
        `(key, problem, variables, given) -> variables`; the retain set of `problem` is the stand-ins, see `stand_in`.
    """

    def method(key: Key, problem: Problem, variables: Variables, given: Gaussians) -> Variables:
        rows = jnp.nonzero(problem.forget, size=problem.forget_count)[0]
        answers = posterior(given, problem.train.images[rows], temperature)
        expected = jnp.zeros((len(problem.forget), problem.classes)).at[rows].set(answers)
        before, _ = problem.model.apply(variables, problem.train.images, train=False)
        on_forget = Term("forget", lambda logits, batch: divergence(expected[batch.rows], logits))
        on_others = Term("retain", lambda logits, batch: divergence(before[batch.rows], logits), alpha)
        steps, transform = steps_for(problem, "retain", epochs, batch_size), optax.sgd(learning_rate, 0.9)
        descent = descend(weighted(on_forget, on_others), transform, steps=steps, batch_size=batch_size, statistics="freeze")
        return descent(key, problem, variables)

    return method


OWN = {"class_distillation": (class_distillation, Range(1e-4, 3e-2))}
"""Methods that read class statistics, and so exist in streams alone; and where their learning rates are sought."""
