"""Training from scratch: a pure function of a key and a mask."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from unlearn_jax.training.descend import Descent, descend
from unlearn_jax.training.objectives import Term, cross_entropy, weighted
from unlearn_jax.training.sampling import steps_in_pass
from unlearn_jax.training.transforms import freeze_by_name
from unlearn_jax.types import Key, Problem, Recipe, Variables

WARM_UP = 0.1


def fit(key: Key, mask: Bool[Array, " examples"], *, count: int, problem: Problem) -> Variables:
    """Train one model by `problem.recipe` on the examples that `mask` keeps; no other row is ever read.

    Args:
        key: initialisation, batch order and augmentation.
        mask: the examples to train on.
        count: number of examples that `mask` keeps (static: it determines shapes).
        problem: the examples, the model and the recipe; its own masks are not used.
    """
    return refit(key, masked(problem, mask, count))


def refit(key: Key, problem: Problem) -> Variables:
    """Train one model on the retain set of `problem`."""
    init_key, order_key = jax.random.split(key)
    descent = training(problem.recipe, problem.retain_count, frozen_in(problem))
    return descent(order_key, problem, beginning(init_key, problem))


def masked(problem: Problem, mask: Bool[Array, " examples"], count: int) -> Problem:
    """The problem with `mask` as its kept examples and an empty forget set."""
    return dataclasses.replace(problem, kept=mask, forget=jnp.zeros_like(mask), kept_count=count, forget_count=0)


def initialise(key: Key, problem: Problem) -> Variables:
    """Fresh variables of the problem's model; reads the shape of the images only."""
    return problem.model.init(key, jnp.zeros((1, *problem.train.images.shape[1:]), problem.train.images.dtype))


def beginning(key: Key, problem: Problem) -> Variables:
    """The variables that training from scratch begins with: fresh ones, but for what `problem.start` gives."""
    fresh = initialise(key, problem)
    if problem.start is None:
        return fresh
    params, statistics = problem.start.variables
    return Variables({**fresh.params, **params}, {**fresh.statistics, **statistics})


def training(recipe: Recipe, count: int, frozen: tuple[str, ...] = ()) -> Descent:
    """The descent of a recipe on a retain set of `count` examples; `frozen` as in `Start`."""
    steps = recipe.epochs * steps_in_pass(count, recipe.batch_size)
    objective = weighted(Term("retain", cross_entropy))
    transform = freeze_by_name(optimiser(recipe, steps), frozen) if frozen else optimiser(recipe, steps)
    return descend(objective, transform, steps=steps, batch_size=recipe.batch_size)


def frozen_in(problem: Problem) -> tuple[str, ...]:
    """The groups that training from scratch leaves as they are."""
    return problem.start.frozen if problem.start else ()


def optimiser(recipe: Recipe, steps: int) -> optax.GradientTransformation:
    """The optax chain of a recipe over `steps` steps."""
    rate: optax.ScalarOrSchedule = recipe.learning_rate
    if recipe.schedule == "cosine":
        warm_up = max(int(WARM_UP * steps), 1)
        rate = optax.warmup_cosine_decay_schedule(0.0, recipe.learning_rate, warm_up, max(steps, warm_up + 1))
    if recipe.optimiser == "adam":
        return optax.adamw(rate, weight_decay=recipe.weight_decay)
    return optax.chain(optax.add_decayed_weights(recipe.weight_decay), optax.sgd(rate, recipe.momentum))
