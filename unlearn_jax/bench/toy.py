"""The toy in the plane, trained once with every point and once without each: what the studies of single points begin with."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import influence
from unlearn_jax.bench.options import Plane
from unlearn_jax.data import FASHION_PLANE, Toy, discs, populations
from unlearn_jax.data.splits import generator
from unlearn_jax.errors import UsageError
from unlearn_jax.influence import LeaveOneOut, NoBoundaryError, Training, Window
from unlearn_jax.models import build, through_waves
from unlearn_jax.training.ensembles import predict
from unlearn_jax.types import Examples, Recipe, Variables

AROUND = 1.0  # from the outermost points to the window's edges


def drawn(config: Plane, seed: int) -> Toy:
    """The points of a seed."""
    if config.dataset == "fashion_plane":
        return populations(config.train_size, FASHION_PLANE, seed=seed)
    return discs(config.train_size, **dataclasses.asdict(config.discs), label_noise=config.label_noise, seed=seed)


@contextlib.contextmanager
def bounded(config: Plane) -> Iterator[None]:
    """Within it, an original without a boundary is a mistake of who asked for so little training.

    Raises:
        UsageError: instead of `NoBoundaryError`.
    """
    try:
        yield
    except NoBoundaryError as error:
        remedy = f"{error}; expected more, or a larger --train.learning-rate than {config.train.learning_rate:g}"
        raise UsageError("--train.epochs", config.train.epochs, remedy) from error


def prepared(config: Plane, toy: Toy, seed: int) -> Training:
    """The training run of a seed."""
    shape: dict[str, Any] = {"width": config.width, "layers": config.layers, "activation": config.activation}
    model = build("mlp", classes=len(toy.centres), **shape)
    model = through_waves(model, config.waves) if config.waves else model
    examples = Examples(*(jnp.asarray(part) for part in toy.train))
    return influence.training(jax.random.key(seed), model, examples, Recipe(**dataclasses.asdict(config.train)))


def around(points: np.ndarray, resolution: int) -> Window:
    """The part of the plane that the points are in."""
    (left, bottom), (right, top) = points.min(0) - AROUND, points.max(0) + AROUND
    return Window(float(left), float(right), float(bottom), float(top), resolution)


def towards_nearest(window: Window, toy: Toy) -> Examples:
    """The points of the window's grid, each labelled with the class whose centre is nearest."""
    grid = window.grid()
    nearest = np.linalg.norm(grid[:, None] - toy.centres[None], axis=2).argmin(1)
    return Examples(jnp.asarray(grid), jnp.asarray(nearest))


def shuffled(seed: int, original: Training, reorderings: int) -> np.ndarray:
    """Orders to sum in, a row for each."""
    rows = len(original.examples.labels) if original.batches is None else original.batches.shape[1]
    rng = generator("reorderings", seed)
    return np.stack([rng.permutation(rows) for _ in range(reorderings)]).astype(np.int32)


def float_noise(config: Plane, original: Training, exact: LeaveOneOut, window: Window, orders: np.ndarray) -> np.ndarray:
    """How far the original's boundary moves, on average along it, when the sums of its training are in another order."""
    trained = influence.for_members(train_in_order, original, orders, config.strategy, config.chunk)
    examples, line = original.examples, exact.contour
    return influence.changes(
        original, exact.original, trained, examples, line, window.diagonal, config.strategy
    ).mean_displacement


def train_in_order(original: Training, order: jax.Array) -> Variables:
    """The original, its sums in another order."""
    return influence.train(influence.reordered(original, order), jnp.ones(len(original.examples.labels)))


def surfaces(original: Training, variables: Variables, window: Window) -> np.ndarray:
    """z_c - max_{j≠c} z_j of models on the window's grid: [models, classes, rows, columns]."""
    logits = predict(original.model, variables, window.grid()).astype(np.float64)
    own = np.eye(logits.shape[2], dtype=bool)
    margins = [logits[..., c] - np.where(own[c], -np.inf, logits).max(2) for c in range(logits.shape[2])]
    return np.stack(margins, axis=1).reshape(len(logits), -1, window.resolution, window.resolution)
