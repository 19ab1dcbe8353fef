"""Decision boundaries of classifiers in the plane, and the distance of one from another."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unlearn_jax.training.precision import precise
from unlearn_jax.types import Model, Variables

STEPS = 64  # of equal length, along a ray
HALVINGS = 10  # of the first step, for a finer search nearby
BISECTIONS = 24  # as many bits as a float32 has


class NoBoundaryError(ValueError):
    """The model predicts one class everywhere in the window."""


class Window(NamedTuple):
    """A rectangle in the plane, and the resolution of its grid."""

    left: float
    right: float
    bottom: float
    top: float
    resolution: int = 64  # grid points along each side

    @property
    def diagonal(self) -> float:
        """The length of the diagonal: the largest distance of two points in the window."""
        return float(np.hypot(self.right - self.left, self.top - self.bottom))

    def axes(self) -> tuple[Float[np.ndarray, " columns"], Float[np.ndarray, " rows"]]:
        """The coordinates of the grid's columns and rows."""
        return np.linspace(self.left, self.right, self.resolution), np.linspace(self.bottom, self.top, self.resolution)

    def grid(self) -> Float[np.ndarray, "points 2"]:
        """The points of the grid, row by row from the bottom."""
        return np.stack(np.meshgrid(*self.axes()), axis=-1).reshape(-1, 2).astype(np.float32)


class Contour(NamedTuple):
    """Points on a decision boundary, evenly spaced along it."""

    points: Float[Any, "points 2"]
    normals: Float[Any, "points 2"]  # unit length, towards the class
    classes: Int[Any, " points"]  # the boundary separates this class from all others


@functools.partial(jax.jit, static_argnames="model")
@precise
def margin(
    model: Model, variables: Variables, points: Float[Any, "points 2"], classes: Int[Any, " points"]
) -> Float[Array, " points"]:
    """z_c - max_{j≠c} z_j in eval mode: positive where the model predicts c."""
    logits, _ = model.apply(variables, points, train=False)
    one_hot = jnp.arange(logits.shape[1])[None] == classes[:, None]
    return jnp.sum(jnp.where(one_hot, logits, 0.0), axis=1) - jnp.max(jnp.where(one_hot, -jnp.inf, logits), axis=1)


def contour(model: Model, variables: Variables, window: Window, points: int = 128) -> Contour:
    """The decision boundary inside a window.

    Marching squares on the window's grid finds line segments (with four crossings in one cell, the first two and the last two are
    joined). Points are placed along them at equal distances, in the order in which the segments were found, and then moved
    perpendicular to the segments onto the zero of the margin (whose own gradient may vanish where they were placed): they are
    even along the boundary, but not in its order. With two classes it is the boundary of class 1; with more, that of every class
    against all others, one after the other.

    Args:
        model: classifies points of the plane.
        variables: of one model.
        window: where to look.
        points: their number.

    Raises:
        NoBoundaryError: no boundary lies inside the window.
    """
    grid = jnp.asarray(window.grid())
    outputs = model.apply(variables, grid[:1], train=False)[0].shape[1]
    pieces, labels = [], []
    for label in (1,) if outputs == 2 else range(outputs):
        values = np.asarray(margin(model, variables, grid, jnp.full(len(grid), label)))
        pieces.append(_segments(values.reshape(window.resolution, window.resolution), *window.axes()))
        labels.append(np.full(len(pieces[-1]), label))
    segments, classes = np.concatenate(pieces), np.concatenate(labels)
    if not len(segments):
        inside = "x from {:.3g} to {:.3g}, y from {:.3g} to {:.3g}".format(*window[:4])
        raise NoBoundaryError(f"the model has no decision boundary inside {inside}")
    ends = np.cumsum(np.linalg.norm(segments[:, 1] - segments[:, 0], axis=1))
    places = (np.arange(points) + 0.5) / points * ends[-1]
    on = np.minimum(np.searchsorted(ends, places), len(ends) - 1)
    lengths = np.diff(ends, prepend=0.0)[on]
    share = ((places - (ends[on] - lengths)) / np.maximum(lengths, 1e-12))[:, None]
    start = ((1 - share) * segments[on, 0] + share * segments[on, 1]).astype(np.float32)
    point_classes = jnp.asarray(classes[on])
    cell = max((window.right - window.left), (window.top - window.bottom)) / (window.resolution - 1)
    along = segments[on, 1] - segments[on, 0]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-12)
    rough = Contour(start, across.astype(np.float32), point_classes)
    moved = displacement(model, variables, rough, cell)
    exact = start + jnp.where(jnp.abs(moved) < cell, moved, 0.0)[:, None] * rough.normals
    return Contour(*(np.asarray(leaf) for leaf in (exact, _normals(model, variables, exact, point_classes), point_classes)))


@functools.partial(jax.jit, static_argnames="model")
@precise
def displacement(model: Model, variables: Variables, line: Contour, reach: float | Array) -> Float[Array, " points"]:
    """The distance of a model's decision boundary from a contour, along the contour's normals.

    For each point p of the contour, with normal n, bisection finds the zero of t -> margin(p + t n) nearest to t = 0, within the
    nearest interval on either side whose ends differ in sign. The intervals are `STEPS` equal ones up to `reach`, the first of
    them halved `HALVINGS` times towards 0. Two zeros within one interval are missed: a part of the class that is narrower than a
    step, and lies a step away or more, may not be seen.

    Args:
        model: classifies points of the plane.
        variables: of the model whose boundary is measured.
        line: usually another model's boundary.
        reach: the largest distance, in units of the plane; the result where there is no zero within it.

    Returns:
        t, positive where the boundary has moved in the direction of the normal, into the class.
    """
    directions = jnp.stack([line.normals, -line.normals])
    shares = np.concatenate([[0.0], 0.5 ** np.arange(HALVINGS, 0, -1), 1 + np.arange(STEPS)]) / STEPS
    radii = reach * jnp.asarray(shares, jnp.float32)

    def positive(distances: Float[Array, "2 points"]) -> Array:
        at = line.points[None] + distances[..., None] * directions
        return (margin(model, variables, at.reshape(-1, 2), jnp.tile(jnp.asarray(line.classes), 2)) > 0).reshape(distances.shape)

    here = positive(jnp.zeros(directions.shape[:2]))

    def search(nearest: Array, which: Array) -> tuple[Array, None]:
        changed = positive(jnp.full(nearest.shape, radii[which])) != here
        return jnp.where(changed & (nearest == len(radii)), which, nearest), None

    nearest, _ = jax.lax.scan(search, jnp.full(directions.shape[:2], len(radii)), jnp.arange(1, len(radii)))
    crossed = nearest < len(radii)
    high = jnp.minimum(nearest, len(radii) - 1)

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        before = positive(middle) == here
        return jnp.where(before, middle, low), jnp.where(before, high, middle)

    low, high = jax.lax.fori_loop(0, BISECTIONS, halve, (radii[high - 1], radii[high]))
    forward, backward = jnp.where(crossed, (low + high) / 2, reach)
    return jnp.where(forward <= backward, forward, -backward)


@functools.partial(jax.jit, static_argnames="model")
@precise
def _normals(model: Model, variables: Variables, points: Any, classes: Any) -> Float[Array, "points 2"]:
    """Unit vectors in the direction in which the margin grows."""
    slope = jax.grad(lambda points: jnp.sum(margin(model, variables, points, classes)))(points)
    return slope / jnp.maximum(jnp.linalg.norm(slope, axis=1, keepdims=True), 1e-30)


def _segments(
    values: Float[np.ndarray, "rows columns"], x: Float[np.ndarray, " columns"], y: Float[np.ndarray, " rows"]
) -> Float[np.ndarray, "segments 2 2"]:
    """The zero contour of a function on a grid, as line segments, at most two in each cell."""
    across, up = np.meshgrid(x, y)
    corners = [(slice(None, -1), slice(None, -1)), (slice(None, -1), slice(1, None)), (slice(1, None), slice(1, None))]
    corners.append((slice(1, None), slice(None, -1)))
    crossed, places = [], []
    for one, other in zip(corners, corners[1:] + corners[:1], strict=True):
        crossed.append((values[one] > 0) != (values[other] > 0))
        share = values[one] / np.where(crossed[-1], values[one] - values[other], 1.0)
        places.append(np.stack([axis[one] + share * (axis[other] - axis[one]) for axis in (across, up)], axis=-1))
    edges, at = np.stack(crossed, axis=-1).reshape(-1, 4), np.stack(places, axis=-2).reshape(-1, 4, 2)
    first = np.take_along_axis(at, np.argsort(~edges, axis=1, kind="stable")[..., None], axis=1)
    count = edges.sum(1)
    return np.concatenate([first[count >= 2, :2], first[count == 4, 2:]])
