"""How good estimates of influence are: agreement with the exact influence, and screening.

Pure functions of arrays. An influence is `[points, targets]`: the change of each target when each point is removed. Leading axes,
such as resamples, are kept by every measure.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from unlearn_jax.metrics import checks
from unlearn_jax.metrics.statistics import correlation
from unlearn_jax.types import Interval

Influence = Float[Any, "*batch points targets"]
Value = Float[Any, "*batch"]


def pearson(estimate: Influence, exact: Influence) -> Value:
    """Pearson's correlation over points, the mean over targets.

    A target for which either is constant has no correlation (`statistics.correlation`) and counts as 0, since a constant
    estimate does not rank points.

    Raises:
        ValueError: a value is not finite, or the two are of different points or targets.
    """
    return np.nan_to_num(correlation(*_check_pair(estimate, exact), axis=-2)).mean(axis=-1)


def spearman(estimate: Influence, exact: Influence) -> Value:
    """Spearman's rank correlation over points (ties get the mean of their ranks); the mean over targets, see `pearson`.

    Raises:
        ValueError: see `pearson`.
    """
    estimate, exact = _check_pair(estimate, exact)
    return pearson(rankdata(estimate, axis=-2), rankdata(exact, axis=-2))


def top_recall(estimate: Influence, exact: Influence, k: int) -> Value:
    """The share of the true top k points, by |influence|, that are in the top k of the estimate; the mean over targets.

    By chance it is k / points.

    Args:
        estimate: in any unit, of either sign.
        exact: the exact influence.
        k: at most the number of points.

    Raises:
        ValueError: see `pearson`; or k is not from 1 to the number of points.
    """
    estimate, exact = _check_pair(estimate, exact)
    checks.count("k", k, 1, estimate.shape[-2])
    chosen = [np.argsort(-np.abs(influence), axis=-2, kind="stable")[..., :k, :] for influence in (estimate, exact)]
    recalled = (chosen[0][..., :, None, :] == chosen[1][..., None, :, :]).any(axis=-3)
    return recalled.mean(axis=(-2, -1))


def linear_datamodelling_score(
    estimate: Float[Any, "points targets"],
    removed: Bool[Any, "*batch subsets points"],
    changes: Float[Any, "*batch subsets targets"],
) -> Value:
    """LDS: the rank correlation over subsets between the sum of Δ of the removed points and the change; mean over targets.

    Args:
        estimate: Δ of every point.
        removed: which points each model was trained without.
        changes: the model's outputs minus those of the model that was trained on all.

    Raises:
        ValueError: a value is not finite, `removed` is not boolean, or points, subsets or targets differ.

    Source: Park et al. 2023 (TRAK), arXiv 2303.14186.
    """
    estimate = checks.numbers("estimate", estimate, "points targets")
    removed = checks.truths("removed", removed, "... subsets points")
    changes = checks.numbers("changes", changes, "... subsets targets")
    expected = (*removed.shape[:-1], estimate.shape[1])
    if removed.shape[-1] != len(estimate) or changes.shape != expected:
        shapes = f"estimate {estimate.shape}, removed {removed.shape}, changes {changes.shape}"
        raise ValueError(f"{shapes}: expected [points, targets], [..., subsets, points], [..., subsets, targets]")
    return spearman(removed.astype(np.float64) @ estimate, changes)


def interval(measure: Callable[..., Value], *arrays: Any, seed: int = 0, resamples: int = 200) -> Interval:
    """A measure with its percentile-bootstrap interval over the rows of its arrays.

    Args:
        measure: a function of arrays with leading axes, such as those here.
        arrays: `[rows, ...]`.
        seed: draws the rows.
        resamples: number of resamples.

    Raises:
        ValueError: the arrays have different numbers of rows; or see the measure.
    """
    checks.count("resamples", resamples, 1)
    if not arrays or len({len(array) for array in arrays}) > 1:
        raise ValueError(f"arrays: {[len(array) for array in arrays]} rows, expected the same number in all")
    rows = checks.generator(seed).integers(0, len(arrays[0]), (resamples, len(arrays[0])))
    low, high = np.quantile(measure(*(np.asarray(array)[rows] for array in arrays)), (0.025, 0.975))
    return Interval(float(measure(*arrays)), float(low), float(high))


def screening(
    estimate: Float[Any, "points targets"], exact: Float[Any, "points targets"], k: int
) -> Float[np.ndarray, " verified"]:
    """Screening, then verification by retraining: the share of the true top k among the first m points of the estimate.

    Points are ordered by the mean of |Δ| over the targets.

    Args:
        estimate: orders the points.
        exact: the influence by retraining.
        k: the number of true top points.

    Returns:
        The share for m = 0 ... points.

    Raises:
        ValueError: a value is not finite, the two are of different points or targets, or k is not from 1 to the number of points.
    """
    estimate, exact = _check_pair(estimate, exact, "points targets")
    checks.count("k", k, 1, len(exact))
    order, best = (np.argsort(-np.abs(influence).mean(axis=1), kind="stable") for influence in (estimate, exact))
    return np.concatenate([[0.0], np.cumsum(np.isin(order, best[:k])) / k])


def _check_pair(estimate: Any, exact: Any, axes: str = "... points targets") -> tuple[np.ndarray, np.ndarray]:
    estimate, exact = checks.numbers("estimate", estimate, axes), checks.numbers("exact", exact, axes)
    checks.alike("estimate", estimate, "exact", exact, 0)
    return estimate, exact
