"""Toy problems in the plane, small enough to compute the exact influence of every point."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int32

from unlearn_jax.data.splits import generator, mislabel
from unlearn_jax.types import Examples

MODES = 12  # sub-modes of a class, at most
RARE = 64  # rare sub-populations of each class
TIGHT = 0.2  # width of a rare sub-population, in widths of a sub-mode


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
        points: number of points; classes take turns, so their counts differ by one at most.
        classes: number of discs, at least 2.
        radius: of every disc.
        separation: distance of neighbouring centres.
        centres: of the discs, in place of the polygon.
        label_noise: the share of points that get a wrong label, uniform over the other classes.
        seed: draws the points and the wrong labels, independently: another noise does not move the points.

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
    images = (np.asarray(centres)[clean] + radius * _in_disc(rng, (points,))).astype(np.float32)
    return Toy(
        Examples(images, mislabel(clean, label_noise, classes, generator("disc labels", seed))), clean, np.asarray(centres)
    )


class Mixture(NamedTuple):
    """The distribution of the points of `populations`. Distances are in widths (standard deviations) of a sub-mode.

    Attributes:
        centres: of the classes.
        separation: factor on the centres.
        modes: sub-modes of each class, 1 to 12; rounded.
        spread: standard deviation of the sub-modes' positions around the centre of their class.
        tail: the share of a class's k-th sub-population is proportional to k^-tail, for sub-modes and for rare ones.
        rare: share of all points that belong to rare sub-populations: 64 tight ones in each class.
        reach: radius of the disc over which these are spread, across all classes; in distances of the farthest centre from 0.
        label_noise: share of the points that get a wrong label, uniform over the other classes.
        scale: factor on all coordinates: the width of a sub-mode in the units of the input.
        kinship: how far rare sub-populations follow `confusion`, 0 to 1. So many of them lie where the class is that theirs is
            taken for, the others anywhere; and so much of a class's share of rare points is in proportion to its errors.
        contrast: of the images in which models see points, see `models.through_waves`.
        confusion: share of the examples of a class (row) that are taken for another (column); None: all equally often.
    """

    centres: Float[np.ndarray, "classes 2"]
    separation: float = 1.0
    modes: float = 3.0
    spread: float = 0.5
    tail: float = 1.0
    rare: float = 0.1
    reach: float = 1.0
    label_noise: float = 0.02
    scale: float = 1.0
    kinship: float = 0.0
    contrast: float = 1.0
    confusion: Float[np.ndarray, "classes classes"] | None = None


FASHION_PLANE = Mixture(
    centres=np.array(
        [
            [-0.33, -0.41],
            [-1.49, -3.67],
            [-1.71, 2.61],
            [-2.86, -1.07],
            [-3.11, 1.71],
            [3.48, 0.91],
            [-1.19, 0.99],
            [3.83, -1.22],
            [1.1, 3.06],
            [2.29, -2.91],
        ]
    ),
    separation=3.31,
    modes=5,
    spread=1.84,
    tail=1.28,
    rare=0.137,
    reach=0.757,
    label_noise=0.0296,
    scale=0.906,
    kinship=0.406,
    contrast=2.44,
    confusion=np.array(
        [
            [0.73, 0.008, 0.027, 0.041, 0.009, 0.006, 0.158, 0.001, 0.019, 0],
            [0.004, 0.947, 0.01, 0.024, 0.008, 0, 0.004, 0, 0.004, 0],
            [0.014, 0.001, 0.677, 0.001, 0.176, 0, 0.124, 0, 0.007, 0],
            [0.059, 0.012, 0.021, 0.799, 0.039, 0.003, 0.061, 0, 0.006, 0],
            [0.003, 0.001, 0.134, 0.033, 0.746, 0, 0.07, 0, 0.013, 0],
            [0.001, 0, 0, 0, 0, 0.881, 0.001, 0.051, 0.009, 0.057],
            [0.149, 0.002, 0.142, 0.035, 0.116, 0.005, 0.525, 0, 0.024, 0],
            [0, 0, 0, 0, 0, 0.049, 0, 0.887, 0.004, 0.059],
            [0.01, 0, 0.024, 0.017, 0.013, 0.005, 0.024, 0.006, 0.902, 0],
            [0.003, 0, 0, 0.001, 0, 0.018, 0.001, 0.032, 0.002, 0.944],
        ]
    ),
)
"""As hard to learn as 2,000 examples of Fashion-MNIST, its classes in their order, seen through 256 waves.

By `python benchmark.py --exp fitted_toy`.
"""


def populations(points: int, mixture: Mixture, *, draw: int = 0, seed: int = 0) -> Toy:
    """Points of several overlapping classes, each of some sub-modes and a long tail of rare sub-populations.

    Natural images as Feldman (arXiv 1906.05271) and Feldman and Zhang (2008.03703) describe them: rare examples can be predicted
    only by memorising them. `--exp fitted_toy` fits the mixture to an image set.

    Args:
        points: number of points; classes take turns.
        mixture: their distribution.
        draw: which sample of points and wrong labels: 0, 1, ... come from the same sub-populations.
        seed: draws the sub-populations' positions, and the points. The same draws serve every mixture with as many classes, so
            that points move little when the mixture changes little.

    Raises:
        ValueError: fewer points than classes.
    """
    classes = len(mixture.centres)
    if not 2 <= classes <= points:
        raise ValueError(f"{points} points of {classes} classes: at least two classes and a point of each are needed")
    world, rng = generator("populations", seed), generator("points of populations", seed, draw)
    modes, islands = world.standard_normal((classes, MODES, 2)), _in_disc(world, (classes, RARE))
    clean = np.arange(points, dtype=np.int32) % classes
    taken = _confusions(mixture)
    rare = rng.random(points) < (mixture.rare * (1 + mixture.kinship * (taken.sum(1) * classes / taken.sum() - 1)))[clean]
    place = rng.random(points)
    centres = mixture.separation * np.asarray(mixture.centres)
    mode, island = _zipf(place, round(mixture.modes), mixture.tail), _zipf(place, RARE, mixture.tail)
    common = centres[clean] + mixture.spread * modes[clean, mode]
    radius = mixture.reach * np.linalg.norm(centres, axis=1).max()
    islands = radius * islands
    if mixture.kinship:
        kin = generator("kin of populations", seed)  # by itself: without kinship nothing else moves
        near, place = kin.random((2, classes, RARE))
        shares = np.cumsum(taken / taken.sum(1, keepdims=True), axis=1)
        other = np.minimum((place[..., None] >= shares[:, None]).sum(-1), classes - 1)
        beside = centres[other] + np.hypot(1, mixture.spread) * kin.standard_normal((classes, RARE, 2))
        islands = np.where((near < mixture.kinship)[..., None], beside, islands)
    middle = np.where(rare[:, None], islands[clean, island], common)
    width = np.where(rare, TIGHT, 1.0)[:, None]
    images = (mixture.scale * (middle + width * rng.standard_normal((points, 2)))).astype(np.float32)
    labels = mislabel(clean, mixture.label_noise, classes, generator("labels of populations", seed, draw))
    return Toy(Examples(images, labels), clean, mixture.scale * centres)


def layout(distances: Float[np.ndarray, "classes classes"], starts: int = 16) -> Float[np.ndarray, "classes 2"]:
    """Places in the plane with pairwise distances as close as possible to those given: least `Σ (|c_i - c_j| / d_ij - 1)²`.

    Args:
        distances: symmetric; those below a tenth of their mean are raised to it, so that no pair in one place dominates.
        starts: number of random initialisations; the best result is returned.

    Returns:
        The places, their mean at 0.
    """
    from scipy.optimize import minimize

    first, second = np.triu_indices(len(distances), 1)
    wanted = np.maximum(distances[first, second], 0.1 * distances[first, second].mean())

    def stress(flat: np.ndarray) -> tuple[float, np.ndarray]:
        places = flat.reshape(-1, 2)
        apart = places[first] - places[second]
        length = np.maximum(np.linalg.norm(apart, axis=1), 1e-9)
        excess = length / wanted - 1
        pull = (2 * excess / (wanted * length))[:, None] * apart
        slope = np.zeros_like(places)
        np.add.at(slope, first, pull)
        np.add.at(slope, second, -pull)
        return float(excess @ excess), slope.ravel()

    rng = generator("layout")
    begun = wanted.mean() * rng.standard_normal((starts, 2 * len(distances)))
    ends = [minimize(stress, start, jac=True, method="L-BFGS-B") for start in begun]
    best = min(ends, key=lambda end: end.fun).x.reshape(-1, 2)
    return best - best.mean(axis=0, keepdims=True)


def _confusions(mixture: Mixture) -> Float[np.ndarray, "classes classes"]:
    """How often a class is taken for another; a class that never is gets a little of all, so that shares of it exist."""
    classes = len(mixture.centres)
    other = 1.0 - np.eye(classes)
    return other if mixture.confusion is None else other * np.maximum(mixture.confusion, 1e-6)


def _in_disc(rng: np.random.Generator, shape: tuple[int, ...]) -> Float[np.ndarray, "*shape 2"]:
    """Uniform places in the unit disc."""
    distance, angle = np.sqrt(rng.random(shape)), 2 * np.pi * rng.random(shape)
    return distance[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _zipf(place: Float[np.ndarray, " points"], kinds: int, tail: float) -> Int[np.ndarray, " points"]:
    """The kind, from 0, of each place in [0, 1), with shares of the kinds in proportion to k^-tail."""
    shares = np.cumsum(np.arange(1, kinds + 1) ** -tail)
    return np.minimum(np.searchsorted(shares / shares[-1], place, side="right"), kinds - 1)


def _polygon(classes: int, separation: float) -> Float[np.ndarray, "classes 2"]:
    angles = np.pi - 2 * np.pi * np.arange(classes) / classes
    corner = separation / (2 * np.sin(np.pi / classes))
    return np.array([0.0, 5.0]) + corner * np.stack([np.cos(angles), np.sin(angles)], axis=1)
