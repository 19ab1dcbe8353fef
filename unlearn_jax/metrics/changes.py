"""Properties of a change of a model: how near it is to the exact one, on how few points it rests, whether seeds repeat it."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from unlearn_jax.metrics import checks
from unlearn_jax.metrics.statistics import unit

FURTHEST = 1e3  # ratios are cut here, so that a diverged model has a finite one, and medians and their intervals exist


class Closeness(NamedTuple):
    """How near changes are to the exact ones, for each left-out point.

    Attributes:
        ratio: mean |found - exact| / mean |exact|, over the places where the change was measured: 0 is exact, 1 as far as no
            change at all; at most 1,000.
        alignment: the cosine of the two, <found, exact> / (|found| |exact|), in -1..1: whether the direction is right.
    """

    ratio: Float[np.ndarray, " points"]
    alignment: Float[np.ndarray, " points"]


def closeness(found: Float[Any, "points places"], exact: Float[Any, "points places"]) -> Closeness:
    """Compares changes with the exact ones.

    Places are where a change is measured: points of a boundary (signed displacements), of a grid (margins), or parameters. No
    mean is subtracted: 0 is no change, so a boundary that rightly shifts as a whole is aligned.

    Args:
        found: what a method changed in forgetting each point. A row that is not finite has the largest ratio.
        exact: what training without the point changes.

    Returns:
        Both measures. The ratio to an exact change of 0 is 1 if the method changed nothing either; the alignment is then 0.

    Raises:
        ValueError: an exact change is not finite, or the two are of different points or places.
    """
    found, exact = np.asarray(found, np.float64), checks.numbers("exact", exact, "points places")
    checks.alike("found", found, "exact", exact, 0)
    finite = np.isfinite(found).all(axis=1)
    found = np.where(finite[:, None], found, 0.0)
    apart, size = np.abs(found - exact).mean(axis=1), np.abs(exact).mean(axis=1)
    ratio = np.divide(apart, size, out=np.where(apart > 0, FURTHEST, 1.0), where=size > 0)
    found, exact = found / unit(found, 1), exact / unit(exact, 1)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(exact, axis=1)
    products = np.sum(found * exact, axis=1)
    alignment = np.divide(products, lengths, out=np.zeros(len(found)), where=lengths > 0)
    return Closeness(np.where(finite, np.minimum(ratio, FURTHEST), FURTHEST), np.clip(alignment, -1.0, 1.0))


def gini(values: Float[Any, " points"]) -> float:
    """Gini's coefficient of the points' effects, Σ_i Σ_j |v_i - v_j| / (2 n Σ v): 0 all equal, (n - 1) / n one has all.

    Args:
        values: not below 0, not all 0.

    Raises:
        ValueError: a value is below 0, or all are 0.
    """
    rising = np.sort(_masses(values))
    count = len(rising)
    return float((2 * np.arange(1, count + 1) - count - 1) @ rising / (count * rising.sum()))


def carriers(values: Float[Any, " points"], share: float) -> float:
    """The least share of the points that together hold `share` of the sum of all values.

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
    """The share of the points' effects at one seed that all seeds have in common.

    The mean over pairs of different seeds of Σ Δ Δ', divided by the mean over seeds of Σ Δ², sums over points and targets: an
    unbiased estimate of |E Δ|² / E |Δ|². 1: the seed does not matter; 0: effects at one seed are independent
    of those at another; it may come out a little below 0.

    Args:
        effects: signed, of two seeds or more, on the same targets; not all 0.

    Raises:
        ValueError: a value is not finite, all are 0, or there is one seed only.
    """
    effects = checks.numbers("effects", effects, "seeds points targets")
    if len(effects) < 2 or not effects.any():
        raise ValueError("effects: of one seed, or all 0, expected two seeds or more, and effects")
    flat = (effects / unit(effects)).reshape(len(effects), -1)
    within = np.sum(flat**2)
    between = np.sum(flat.sum(axis=0) ** 2) - within
    return float(between / (len(flat) - 1) / within)


def _masses(values: Any) -> Float[np.ndarray, " points"]:
    """In units of about the largest; not all 0, since their sum is divided by."""
    masses = checks.numbers("values", values, "points", low=0)
    if not masses.any():
        raise ValueError("values: all 0, expected some above")
    return masses / unit(masses)
