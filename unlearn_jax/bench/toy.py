"""The toy in the plane, for studies of single points: a model trained with all points, and one without each."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import influence
from unlearn_jax.bench.toy_options import Plane
from unlearn_jax.data import FASHION_PLANE, Toy, discs, populations
from unlearn_jax.data.splits import generator
from unlearn_jax.errors import UsageError
from unlearn_jax.influence import LeaveOneOut, NoBoundaryError, Training, Window
from unlearn_jax.models import build, through_waves
from unlearn_jax.report.explorer import furthest, outline
from unlearn_jax.training.ensembles import predict
from unlearn_jax.types import Examples, Recipe, Variables

BORDER = 1.0  # from the outermost points to the window's edges
AT_ONCE = 1 << 20  # places on the grid, of all models together


def draw_toy(config: Plane, seed: int) -> Toy:
    """Draws the points."""
    if config.dataset == "fashion_plane":
        return populations(config.train_size, FASHION_PLANE, seed=seed)
    return discs(config.train_size, **dataclasses.asdict(config.discs), label_noise=config.label_noise, seed=seed)


@contextlib.contextmanager
def require_boundary(config: Plane) -> Iterator[None]:
    """Turns a `NoBoundaryError` in its block into a user error: too little training.

    Raises:
        ArgumentError: the original has no boundary.
    """
    try:
        yield
    except NoBoundaryError as error:
        remedy = f"{error}; try more epochs, or a larger --train.learning-rate than {config.train.learning_rate:g}"
        raise UsageError("--train.epochs", config.train.epochs, remedy) from error


def prepare_training(config: Plane, toy: Toy, seed: int) -> Training:
    """Prepares the training of the original."""
    shape: dict[str, Any] = {"width": config.width, "layers": config.layers, "activation": config.activation}
    model = build("mlp", classes=len(toy.centres), **shape)
    contrast = FASHION_PLANE.contrast if config.dataset == "fashion_plane" else 1.0
    model = through_waves(model, config.waves, contrast) if config.waves else model
    examples = Examples(*(jnp.asarray(part) for part in toy.train))
    return influence.training(jax.random.key(seed), model, examples, Recipe(**dataclasses.asdict(config.train)))


def window_around(points: np.ndarray, resolution: int) -> Window:
    """Returns the part of the plane that holds the points."""
    (left, bottom), (right, top) = points.min(0) - BORDER, points.max(0) + BORDER
    return Window(float(left), float(right), float(bottom), float(top), resolution)


def label_grid(window: Window, toy: Toy) -> Examples:
    """Returns the points of the window's grid, each labelled with the class of the nearest centre."""
    grid = window.grid()
    nearest = np.linalg.norm(grid[:, None] - toy.centres[None], axis=2).argmin(1)
    return Examples(jnp.asarray(grid), jnp.asarray(nearest))


def draw_orders(seed: int, original: Training, reorderings: int) -> np.ndarray:
    """Draws random orders of summation for training, one in each row."""
    rows = len(original.examples.labels) if original.batches is None else original.batches.shape[1]
    rng = generator("reorderings", seed)
    return np.stack([rng.permutation(rows) for _ in range(reorderings)]).astype(np.int32)


def float_noise(config: Plane, original: Training, exact: LeaveOneOut, window: Window, orders: np.ndarray) -> np.ndarray:
    """Measures the mean displacement of the original's boundary when training sums in other orders: the effect of rounding."""
    trained = influence.for_members(train_in_order, original, orders, config.strategy, config.chunk)
    examples, line = original.examples, exact.contour
    return influence.changes(
        original, exact.original, trained, examples, line, window.diagonal, config.strategy
    ).mean_displacement


def train_in_order(original: Training, order: jax.Array) -> Variables:
    """Trains the original with its sums in another order."""
    return influence.train(influence.reordered(original, order), jnp.ones(len(original.examples.labels)))


def surfaces(original: Training, variables: Variables, window: Window) -> np.ndarray:
    """Returns the margins z_c - max_{j≠c} z_j on the window's grid: [models, classes, rows, columns]."""
    logits = predict(original.model, variables, window.grid()).astype(np.float64)
    is_class = np.eye(logits.shape[2], dtype=bool)
    margins = [logits[..., c] - np.where(is_class[c], -np.inf, logits).max(2) for c in range(logits.shape[2])]
    return np.stack(margins, axis=1).reshape(len(logits), -1, window.resolution, window.resolution)


def outlines(original: Training, variables: Variables, window: Window) -> list[str]:
    """Returns the boundary of each model, see `report.explorer.outline`."""
    count, chunk = len(jax.tree.leaves(variables)[0]), max(1, AT_ONCE // window.resolution**2)
    found = []
    for rows in np.split(np.arange(count), range(chunk, count, chunk)):
        some = jax.tree.map(lambda leaf, rows=rows: leaf[rows], variables)
        found += [outline(surface) for surface in surfaces(original, some, window)]
    return found


def furthest_moves(exact: LeaveOneOut) -> np.ndarray:
    """Returns where the boundary moves most without each point, see `report.explorer.furthest`."""
    assert exact.contour is not None and exact.change.boundary is not None
    line = exact.contour
    return furthest(*(np.asarray(each) for each in (exact.change.boundary, line.points, line.classes)))
