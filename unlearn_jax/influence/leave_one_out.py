"""Exact leave-one-out: repeats a training run without each example, with nothing else changed."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Float, Int

from unlearn_jax.influence.boundary import Contour, Window, contour, displacement
from unlearn_jax.influence.response import Training, all_but_one, for_members, losses, margins, retrained
from unlearn_jax.training.precision import precise
from unlearn_jax.types import Examples, Model, Variables


class Change(NamedTuple):
    """The effect of removing each point: the model without it minus the model with it.

    Attributes:
        parameters: the L2 norm of the change of each layer (top-level parameter group), by name.
        margins: of the targets, z_y - log Σ_{j≠y} exp z_j, in nats.
        losses: of the training examples (cross-entropy, in nats, in eval mode).
        boundary: how far the decision boundary moves at each point of the original's contour, along its normal, see
            `boundary.displacement`; None where no window was given.
    """

    parameters: dict[str, Float[Any, " points"]]
    margins: Float[Any, "points targets"]
    losses: Float[Any, "points examples"]
    boundary: Float[Any, "points contour"] | None

    @property
    def parameter(self) -> Float[np.ndarray, " points"]:
        """The L2 norm of the change of all parameters."""
        return np.sqrt(np.sum(np.square(list(self.parameters.values())), axis=0))

    @property
    def mean_displacement(self) -> Float[np.ndarray, " points"]:
        """The mean distance between the two boundaries, along the original's."""
        assert self.boundary is not None
        return np.abs(self.boundary).mean(axis=1)

    @property
    def largest_displacement(self) -> Float[np.ndarray, " points"]:
        """The largest distance between the two boundaries."""
        assert self.boundary is not None
        return np.abs(self.boundary).max(axis=1)


class LeaveOneOut(NamedTuple):
    """The exact influence of points on a training run."""

    points: Int[np.ndarray, " points"]  # rows of the training set
    original: Variables
    without: Variables  # with a leading axis of points
    contour: Contour | None  # the original's decision boundary
    change: Change


def leave_one_out(
    run: Training,
    points: Int[np.ndarray, " points"] | None = None,
    *,
    targets: Examples | None = None,
    window: Window | None = None,
    strategy: str = "auto",
    chunk: int | None = None,
    report: Callable[[float], None] = lambda share: None,
) -> LeaveOneOut:
    """Retrains once for every point, with that point's weight at zero, from the same initial variables on the same batches.

    The original is trained by the same program alongside, so that a point without effect changes no bit. In a batch that holds
    the point, the mean is over the others; every other step is unchanged.

    Args:
        run: the training run.
        points: rows of the training set to leave out, one at a time; by default all.
        targets: the examples whose margins are compared; by default the training examples.
        window: the part of the plane in which the boundary is measured, if the examples are points in the plane.
        strategy: see `ensembles.over_members`.
        chunk: models trained at a time; by default what fits in memory.
        report: called with the share done after each chunk.

    Raises:
        NoBoundaryError: the original has no decision boundary in the window.
    """
    count = len(run.examples.labels)
    rows = np.arange(count) if points is None else np.asarray(points)
    weights = np.concatenate([np.ones((1, count), np.float32), all_but_one(count)[rows]])
    trained = retrained(run, weights, strategy, chunk, report)
    original, without = jax.tree.map(lambda leaf: leaf[0], trained), jax.tree.map(lambda leaf: leaf[1:], trained)
    line = None if window is None else contour(run.model, original, window)
    reach = 0.0 if window is None else window.diagonal
    change = changes(run, original, without, run.examples if targets is None else targets, line, reach, strategy)
    return LeaveOneOut(rows, original, without, line, change)


def changes(
    run: Training,
    original: Variables,
    others: Variables,
    targets: Examples,
    line: Contour | None = None,
    reach: float = 0.0,
    strategy: str = "auto",
) -> Change:
    """The differences of models from the original.

    Args:
        run: gives the model and the training examples.
        original: of one model.
        others: with a leading axis.
        targets: the examples whose margins are compared.
        line: the original's contour, if any.
        reach: see `boundary.displacement`.
        strategy: see `ensembles.over_members`.
    """
    return for_members(_change(run.model), (original, run.examples, targets, line, np.float32(reach)), others, strategy)


@functools.lru_cache(maxsize=8)
def _change(model: Model) -> Callable[[Any, Variables], Change]:
    @precise
    def change(fixed: Any, variables: Variables) -> Change:
        original, examples, targets, line, reach = fixed

        difference = optax.tree.sub(variables.params, original.params)
        return Change(
            {name: optax.tree.norm(layer) for name, layer in difference.items()},
            margins(model, variables, targets) - margins(model, original, targets),
            losses(model, variables, examples) - losses(model, original, examples),
            None if line is None else displacement(model, variables, line, reach),
        )

    return change
