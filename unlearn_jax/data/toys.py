"""Two-dimensional problems, small enough for the exact influence of every point to be had."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int32

from unlearn_jax.data.splits import generator, mislabel
from unlearn_jax.types import Examples


class Toy(NamedTuple):
    """Points in the plane."""

    train: Examples  # images [points, 2], labels as trained on
    clean_labels: Int32[np.ndarray, " points"]  # without label noise
    centres: Float[np.ndarray, "classes 2"]


def discs(
    points: int = 512,
    *,
    classes: int = 2,
    radius: float = 2.0,
    separation: float = 10.0,
    centres: Float[np.ndarray, "classes 2"] | None = None,
    label_noise: float = 0.0,
    seed: int = 0,
) -> Toy:
    """Points drawn uniformly from discs, one disc for each class.

    By default the centres are the corners of a regular polygon around (0, 5) whose first is the leftmost; two classes lie at
    (-5, 5) and (5, 5).

    Args:
        points: how many in all; classes take turns, so their counts differ by one at most.
        classes: how many discs, at least 2.
        radius: of every disc.
        separation: distance of neighbouring centres.
        centres: where the discs are instead.
        label_noise: the share of points that get a wrong label, uniform over the other classes.
        seed: draws the points and the wrong labels, independently: other noise leaves the points where they are.

    Raises:
        ValueError: fewer than two classes or fewer points than classes.
    """
    if centres is None:
        centres = _polygon(classes, separation)
    classes = len(centres)
    if not 2 <= classes <= points:
        raise ValueError(f"{points} points of {classes} classes: at least two classes and a point of each are needed")
    clean = np.arange(points, dtype=np.int32) % classes
    rng = generator("discs", seed)
    distance, angle = radius * np.sqrt(rng.random(points)), 2 * np.pi * rng.random(points)
    offsets = distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    images = (np.asarray(centres)[clean] + offsets).astype(np.float32)
    return Toy(
        Examples(images, mislabel(clean, label_noise, classes, generator("disc labels", seed))), clean, np.asarray(centres)
    )


def _polygon(classes: int, separation: float) -> Float[np.ndarray, "classes 2"]:
    angles = np.pi - 2 * np.pi * np.arange(classes) / classes
    corner = separation / (2 * np.sin(np.pi / classes))
    return np.array([0.0, 5.0]) + corner * np.stack([np.cos(angles), np.sin(angles)], axis=1)
