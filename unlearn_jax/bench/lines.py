"""The straight lines between trained models: the models at their points."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unlearn_jax.training.ensembles import over_members, padded, shared
from unlearn_jax.training.landscape import combined, recalibrated
from unlearn_jax.types import Model, Variables

CALIBRATION = 500  # images in a batch for BatchNorm statistics


def along_lines(
    model: Model, first: Variables, second: Variables, points: int, images: Array | None, strategy: str = "auto"
) -> Iterator[Variables]:
    """Yields the models at each of so many points, evenly from `first` to `second`; members are padded to the devices.

    Args:
        model: the members' network.
        first: with a leading axis of members.
        second: likewise; member i is at the other end of line i.
        points: of a line, with its ends.
        images: from which BatchNorm statistics are taken anew (see `calibration_batches`); None: they are interpolated.
        strategy: see `ensembles.over_members`.
    """
    ends = padded(jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), first, second))
    move = _mover(model, strategy) if images is not None else _interpolator(strategy)
    for share in np.linspace(0, 1, points, dtype=np.float32):
        yield move(ends, jnp.stack([1 - share, share]), *(() if images is None else (images,)))


def point_between(
    model: Model, models: Variables, shares: Float[Array, " models"], images: Float[Array, "batches batch *image"]
) -> Variables:
    """A combination of models, with BatchNorm statistics of its own."""
    return recalibrated(model, combined(models, shares), images)


def calibration_batches(images: Float[Any, "examples *image"]) -> Float[Array, "batches batch *image"]:
    """Images in equal batches, without the last few if they do not divide."""
    images = np.asarray(images)
    batches = -(-len(images) // CALIBRATION)
    size = len(images) // batches
    return shared(images[: batches * size].reshape(batches, size, *images.shape[1:]))


def rotate_members(variables: Variables) -> Variables:
    """Replaces each member by the next one, cyclically."""
    return jax.tree.map(lambda leaf: np.roll(leaf, -1, axis=0), variables)


@functools.lru_cache(maxsize=32)
def _mover(model: Model, strategy: str) -> Any:
    return over_members(functools.partial(point_between, model), (True, False, False), strategy)


@functools.lru_cache(maxsize=4)
def _interpolator(strategy: str) -> Any:
    return over_members(combined, (True, False), strategy)
