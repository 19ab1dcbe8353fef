"""Where a classifier of points in the plane changes its mind, and how far that line is from another classifier's."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unlearn_jax.types import Model, Variables

STEPS = 64  # of equal length, in which a ray is looked along
HALVINGS = 10  # of the first step: what lies near is looked at more closely
BISECTIONS = 24  # as many bits as a float32 has


class NoBoundaryError(ValueError):
    """A model answers one class everywhere in the window."""


class Window(NamedTuple):
    """A part of the plane, and how finely it is looked at."""

    left: float
    right: float
    bottom: float
    top: float
    resolution: int = 64  # grid points along each side

    @property
    def diagonal(self) -> float:
        """No two points of it are further apart."""
        return float(np.hypot(self.right - self.left, self.top - self.bottom))

    def axes(self) -> tuple[Float[np.ndarray, " columns"], Float[np.ndarray, " rows"]]:
        """The coordinates of the grid's columns and rows."""
        return np.linspace(self.left, self.right, self.resolution), np.linspace(self.bottom, self.top, self.resolution)

    def grid(self) -> Float[np.ndarray, "points 2"]:
        """The points of the grid, row by row from the bottom."""
        return np.stack(np.meshgrid(*self.axes()), axis=-1).reshape(-1, 2).astype(np.float32)


class Contour(NamedTuple):
    """Points on a decision boundary, each for the same length of it."""

    points: Float[Any, "points 2"]
    normals: Float[Any, "points 2"]  # unit length, towards the class
    classes: Int[Any, " points"]  # whose boundary against all others it is


@functools.partial(jax.jit, static_argnames="model")
def margin(
    model: Model, variables: Variables, points: Float[Any, "points 2"], classes: Int[Any, " points"]
) -> Float[Array, " points"]:
    """z_c - max_{j≠c} z_j in eval mode: above zero where the model answers c."""
    logits, _ = model.apply(variables, points, train=False)
    own = jnp.arange(logits.shape[1])[None] == classes[:, None]
    return jnp.sum(jnp.where(own, logits, 0.0), axis=1) - jnp.max(jnp.where(own, -jnp.inf, logits), axis=1)


def contour(model: Model, variables: Variables, window: Window, points: int = 128) -> Contour:
    """The decision boundary inside a window.

    Marching squares on the window's grid finds line segments (of four crossings in one cell, the first two and the last two
    are joined); points are laid along them, end to end as they were found, at equal distances, and moved across them onto the
    zero of the margin (the margin's own gradient may vanish where they were laid): their density along the boundary is even,
    but not their order. With two classes it is the boundary of class 1; with more, that of every class against all others, one
    after the other.

    Args:
        model: classifies points of the plane.
        variables: of one model.
        window: where to look.
        points: how many.

    Raises:
        NoBoundaryError: the model has none inside the window.
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
    own = jnp.asarray(classes[on])
    cell = max((window.right - window.left), (window.top - window.bottom)) / (window.resolution - 1)
    along = segments[on, 1] - segments[on, 0]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-12)
    rough = Contour(start, across.astype(np.float32), own)
    moved = displacement(model, variables, rough, cell)
    exact = start + jnp.where(jnp.abs(moved) < cell, moved, 0.0)[:, None] * rough.normals
    return Contour(*(np.asarray(leaf) for leaf in (exact, _normals(model, variables, exact, own), own)))


@functools.partial(jax.jit, static_argnames="model")
def displacement(model: Model, variables: Variables, line: Contour, reach: float | Array) -> Float[Array, " points"]:
    """The distance of a model's decision boundary from a contour, along the contour's normals.

    From each point p of the contour with normal n the zero of t -> margin(p + t n) that is nearest to t = 0 is found by
    bisection, within the nearest of some intervals on either side at whose ends the sign differs. These are `STEPS` of equal
    length up to `reach`, the first of them halved `HALVINGS` times towards 0. Two zeros within one interval are not seen: a
    part of the class that is less than a step wide, and lies a step away or more, may be missed.

    Args:
        model: classifies points of the plane.
        variables: of the model whose boundary is looked for.
        line: usually another model's boundary.
        reach: in units of the plane; where there is no zero that near, it is the answer.

    Returns:
        t, above zero where the boundary has moved in the direction of the normal, into the class.
    """
    directions = jnp.stack([line.normals, -line.normals])
    shares = np.concatenate([[0.0], 0.5 ** np.arange(HALVINGS, 0, -1), 1 + np.arange(STEPS)]) / STEPS
    radii = reach * jnp.asarray(shares, jnp.float32)

    def positive(distances: Float[Array, "2 points"]) -> Array:
        at = line.points[None] + distances[..., None] * directions
        return (margin(model, variables, at.reshape(-1, 2), jnp.tile(jnp.asarray(line.classes), 2)) > 0).reshape(distances.shape)

    here = positive(jnp.zeros(directions.shape[:2]))

    def look(nearest: Array, which: Array) -> tuple[Array, None]:
        changed = positive(jnp.full(nearest.shape, radii[which])) != here
        return jnp.where(changed & (nearest == len(radii)), which, nearest), None

    nearest, _ = jax.lax.scan(look, jnp.full(directions.shape[:2], len(radii)), jnp.arange(1, len(radii)))
    found = nearest < len(radii)
    high = jnp.minimum(nearest, len(radii) - 1)

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        before = positive(middle) == here
        return jnp.where(before, middle, low), jnp.where(before, high, middle)

    low, high = jax.lax.fori_loop(0, BISECTIONS, halve, (radii[high - 1], radii[high]))
    forward, backward = jnp.where(found, (low + high) / 2, reach)
    return jnp.where(forward <= backward, forward, -backward)


@functools.partial(jax.jit, static_argnames="model")
def _normals(model: Model, variables: Variables, points: Any, classes: Any) -> Float[Array, "points 2"]:
    """The direction in which the margin grows."""
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
