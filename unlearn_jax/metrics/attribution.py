"""How good an estimate of influence is: how far it agrees with the exact answer, and what it is worth as a first look.

Pure functions of arrays. Influences are `[points, targets]`: what removing each point does to each target. Leading axes are
resamples or the like, and every measure keeps them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

Influence = Float[Any, "*batch points targets"]
Value = Float[Any, "*batch"]


class Interval(NamedTuple):
    """A value and its 95% interval."""

    value: float
    low: float
    high: float


def pearson(estimate: Influence, exact: Influence) -> Value:
    """Pearson's correlation over points, the mean over targets; a target that the estimate says nothing about counts as 0."""
    estimate, exact = (np.asarray(each, np.float64) for each in (estimate, exact))
    pair = [each - each.mean(axis=-2, keepdims=True) for each in (estimate, exact)]
    sizes = [np.abs(each).max(axis=-2, keepdims=True) for each in pair]  # squares of small numbers vanish
    pair = [np.divide(each, size, out=np.zeros_like(each), where=size > 0) for each, size in zip(pair, sizes, strict=True)]
    product = (pair[0] * pair[1]).sum(axis=-2)
    length = np.sqrt((pair[0] ** 2).sum(axis=-2) * (pair[1] ** 2).sum(axis=-2))
    return np.divide(product, length, out=np.zeros_like(product), where=length > 0).mean(axis=-1)


def spearman(estimate: Influence, exact: Influence) -> Value:
    """Spearman's rank correlation over points, ties at the mean of their ranks; the mean over targets."""
    return pearson(rankdata(estimate, axis=-2), rankdata(exact, axis=-2))


def top_recall(estimate: Influence, exact: Influence, k: int) -> Value:
    """The share of the k points that change a target most, either way, that are among the estimate's k; mean over targets.

    k / points is what chance finds.

    Args:
        estimate: of any sign and unit in which size means size.
        exact: what it is held against.
        k: at most the number of points.
    """
    chosen = [np.argsort(-np.abs(each), axis=-2, kind="stable")[..., :k, :] for each in (estimate, exact)]
    found = (chosen[0][..., :, None, :] == chosen[1][..., None, :, :]).any(axis=-3)
    return found.mean(axis=(-2, -1))


def linear_datamodelling_score(
    estimate: Float[Any, "points targets"],
    removed: Bool[Any, "*batch subsets points"],
    changes: Float[Any, "*batch subsets targets"],
) -> Value:
    """LDS: over subsets, the rank correlation of Σ Δ_i over what is removed with what its removal did; mean over targets.

    Args:
        estimate: Δ of every point.
        removed: which points each model was trained without.
        changes: its outputs minus those of the model that was trained on all.

    Source: Park et al. 2023 (TRAK), arXiv 2303.14186.
    """
    return spearman(np.asarray(removed, np.float64) @ np.asarray(estimate, np.float64), changes)


def interval(measure: Callable[..., Value], *arrays: Any, seed: int = 0, resamples: int = 200) -> Interval:
    """A measure, and the percentile bootstrap of it over the rows that its arrays share.

    Args:
        measure: of arrays with leading axes, such as those here.
        arrays: `[rows, ...]`.
        seed: draws the rows.
        resamples: how many times.
    """
    rows = np.random.default_rng(seed).integers(0, len(arrays[0]), (resamples, len(arrays[0])))
    low, high = np.quantile(measure(*(np.asarray(array)[rows] for array in arrays)), (0.025, 0.975))
    return Interval(float(measure(*arrays)), float(low), float(high))


def screening(
    estimate: Float[Any, "points targets"], exact: Float[Any, "points targets"], k: int
) -> Float[np.ndarray, " verified"]:
    """Screen then verify: the share of the true top k that is found by exact retraining of the estimate's first m.

    Points are ordered by how much they change the targets, the mean of |Δ| over them. What is verified is known exactly, so
    a true top point is found as soon as it is among the first m.

    Args:
        estimate: proposes.
        exact: what verification finds.
        k: how many points are looked for.

    Returns:
        For m = 0 ... points.
    """
    order, best = (np.argsort(-np.abs(each).mean(axis=1), kind="stable") for each in (estimate, exact))
    return np.concatenate([[0.0], np.cumsum(np.isin(order, best[:k])) / k])
