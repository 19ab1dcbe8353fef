"""Properties of changes of a model: distance to the exact change, concentration on few points, agreement between seeds."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from unlearn_jax.metrics import checks
from unlearn_jax.metrics.statistics import unit, varies

FURTHEST = 1e3  # the largest ratio: diverged models get it, so that medians and their intervals exist


class Closeness(NamedTuple):
    """How near changes are to the exact ones, for each left-out point.

    Attributes:
        ratio: mean |found - exact| / mean |exact|, over the places where the change was measured: 0 is exact, 1 is as far as
            no change at all; at most 1,000.
        alignment: the cosine <found, exact> / (|found| |exact|), in -1..1: whether the direction is right.
    """

    ratio: Float[np.ndarray, " points"]
    alignment: Float[np.ndarray, " points"]


def closeness(found: Float[Any, "points places"], exact: Float[Any, "points places"]) -> Closeness:
    """Compares changes with the exact ones.

    A change is measured at places: at points of a boundary (signed displacements) or a grid (margins), or in parameters. No
    mean is subtracted, since 0 means no change: a boundary that correctly shifts as a whole is aligned.

    Args:
        found: the change by a method that forgets each point. A row that is not finite gets the largest ratio.
        exact: the change by training without the point.

    Returns:
        Both measures. The ratio to an exact change of 0 is 1 if the method changed nothing either; the alignment is then 0.

    Raises:
        ValueError: an exact change is not finite, or the two are of different points or places.
    """
    found, exact = np.asarray(found, np.float64), checks.numbers("exact", exact, "points places")
    checks.alike("found", found, "exact", exact, 0)
    finite = np.isfinite(found).all(axis=1)
    found = np.where(finite[:, None], found, 0.0)
    error, size = np.abs(found - exact).mean(axis=1), np.abs(exact).mean(axis=1)
    ratio = np.divide(error, size, out=np.where(error > 0, FURTHEST, 1.0), where=size > 0)
    found, exact = found / unit(found, 1), exact / unit(exact, 1)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(exact, axis=1)
    products = np.sum(found * exact, axis=1)
    alignment = np.divide(products, lengths, out=np.zeros(len(found)), where=lengths > 0)
    return Closeness(np.where(finite, np.minimum(ratio, FURTHEST), FURTHEST), np.clip(alignment, -1.0, 1.0))


def gini(values: Float[Any, " points"]) -> float:
    """Gini's coefficient of the points' effects, Σ_i Σ_j |v_i - v_j| / (2 n Σ v): 0: all equal; (n - 1) / n: one has all.

    Args:
        values: not below 0, not all 0.

    Raises:
        ValueError: a value is below 0, or all are 0.
    """
    rising = np.sort(_masses(values))
    count = len(rising)
    return float((2 * np.arange(1, count + 1) - count - 1) @ rising / (count * rising.sum()))


def carriers(values: Float[Any, " points"], share: float) -> float:
    """The smallest share of points whose values sum to at least `share` of the total.

    Args:
        values: not below 0, not all 0.
        share: in (0, 1].

    Raises:
        ValueError: a value is below 0, all are 0, or the share is not in (0, 1].
    """
    checks.numbers("share", share, low=np.finfo(float).tiny, high=1)
    held = np.cumsum(np.sort(_masses(values))[::-1])
    enough = held >= share * held[-1] * (1 - 1e-12)
    return float((1 + np.argmax(enough)) / len(held))


def common_share(effects: Float[Any, "seeds points targets"]) -> float:
    """The share of the points' effects that is common to all seeds.

    The mean over pairs of different seeds of Σ Δ Δ', divided by the mean over seeds of Σ Δ², sums over points and targets: an
    unbiased estimate of |E Δ|² / E |Δ|². 1: the seed does not matter; 0: effects at different
    seeds are independent; estimates may fall a little below 0.

    Args:
        effects: signed, for two or more seeds, on the same targets; not all 0.

    Raises:
        ValueError: a value is not finite, all are 0, or there is only one seed.
    """
    effects = checks.numbers("effects", effects, "seeds points targets")
    if len(effects) < 2 or not effects.any():
        raise ValueError("effects: one seed, or all 0; expected two or more seeds, and values other than 0")
    flat = (effects / unit(effects)).reshape(len(effects), -1)
    within = np.sum(flat**2)
    between = np.sum(flat.sum(axis=0) ** 2) - within
    return float(between / (len(flat) - 1) / within)


def point_share(values: Float[Any, "seeds points"]) -> float:
    """The share of a point's effect that belongs to the point: `σ²_point / (σ²_point + σ²_rest)`.

    A random-effects model, `value = seed + point + rest`: σ²_rest is the variance of point x seed, float noise included. A
    seed's own level is left out. This is the intraclass correlation of consistency, from the mean squares of a two-way table.
    Of the ranks of the points within each seed it is the mean of Spearman's correlation over all pairs of seeds.

    Args:
        values: one for each seed and point; two or more of each, and not all equal within every seed.

    Returns:
        1: every seed says the same of every point; 0: what one seed says, no other repeats. Unbiased estimates of variances, so
        that it may fall a little below 0.

    Raises:
        ValueError: a value is not finite, there is one seed or one point, or all points are equal in every seed.

    Source: Shrout & Fleiss, "Intraclass Correlations", Psychological Bulletin 86, 1979: ICC(3, 1).
    """
    values = checks.numbers("values", values, "seeds points")
    seeds, points = values.shape
    scaled = values / unit(values)
    of_seed = scaled - scaled.mean(axis=1, keepdims=True)
    if min(seeds, points) < 2 or not varies(scaled, axis=1).any():
        raise ValueError(f"values: {seeds} seeds, {points} points; expected two or more of each, and points that differ")
    means = of_seed.mean(axis=0)
    between = seeds * np.sum(means**2) / (points - 1)
    rest = np.sum((of_seed - means) ** 2) / ((points - 1) * (seeds - 1))
    return float((between - rest) / (between + (seeds - 1) * rest))


def share_of_mean(share: float, seeds: int) -> float:
    """The share of the mean over some seeds, `n s / (1 + (n - 1) s)`, from that of a single seed (Spearman and Brown).

    It is also the expected correlation of the means over n seeds with the means over n others.

    Args:
        share: see `point_share`.
        seeds: the number n.

    Raises:
        ValueError: the share is above 1 or not above -1 / (n - 1), or n is below 1.

    Source: Brown, British Journal of Psychology 3, 1910.
    """
    checks.count("seeds", seeds, 1)
    checks.numbers("share", share, high=1)
    if 1 + (seeds - 1) * share <= 0:
        raise ValueError(f"share: {share:g} found, expected more than -1 / {seeds - 1}")
    return seeds * share / (1 + (seeds - 1) * share)


def seeds_for(share: float, wanted: float) -> float:
    """How many seeds have a mean whose share is `wanted`, see `share_of_mean`; not rounded, infinite where nothing is common.

    Args:
        share: of a single seed, see `point_share`.
        wanted: above 0, below 1.

    Raises:
        ValueError: the share is above 1, or `wanted` is out of bounds.
    """
    checks.numbers("share", share, high=1)
    checks.numbers("wanted", wanted, low=np.finfo(float).tiny, high=1 - np.finfo(float).eps)
    return np.inf if share <= 0 else wanted * (1 - share) / (share * (1 - wanted))


def _masses(values: Any) -> Float[np.ndarray, " points"]:
    """Checks that values are not all 0, since their sum is a divisor, and scales them to about 1."""
    masses = checks.numbers("values", values, "points", low=0)
    if not masses.any():
        raise ValueError("values: all 0, expected some above 0")
    return masses / unit(masses)
