"""How far metrics agree on the order of methods, with intervals; how reliable a score is."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from unlearn_jax.metrics import checks
from unlearn_jax.metrics.statistics import correlation
from unlearn_jax.types import Interval

FEWEST = 5  # methods for an interval: resamples of fewer are mostly ties


class Agreement(NamedTuple):
    """Spearman's rank correlation of every pair of metrics; NaN where a metric ties all methods."""

    correlation: Float[np.ndarray, "metrics metrics"]
    low: Float[np.ndarray, "metrics metrics"]  # of a 95% interval over methods
    high: Float[np.ndarray, "metrics metrics"]

    def between(self, first: int, second: int) -> Interval:
        """The correlation of two metrics, given by their indices."""
        return Interval(*(float(part[first, second]) for part in self))


def rank_agreement(badness: Float[Any, "methods metrics"], resamples: int = 1_000, seed: int = 0) -> Agreement:
    """`ρ_ab = corr(rank(badness_a), rank(badness_b))` over methods; ties get the mean of their ranks.

    The interval is a percentile bootstrap over methods. A resample in which a metric ties all methods counts as 0.
    With fewer than 5 methods the interval is [-1, 1]: for a perfect order of four its width would be 0.

    Args:
        badness: how bad each method is by each metric, in any unit: only the order within a column counts. May be infinite.
        resamples: number of bootstrap resamples.
        seed: draws them.

    Returns:
        Correlations and intervals in -1..1.

    Raises:
        ValueError: if a value is NaN.

    Source: Spearman, "The Proof and Measurement of Association between Two Things", American Journal of Psychology 15, 1904.
    """
    table = np.asarray(badness, np.float64)
    if np.isnan(table).any():
        raise ValueError("badness: NaN found; leave out methods or metrics with missing values")
    if table.ndim != 2 or not table.size:
        raise ValueError(f"badness: shape {table.shape}, expected [methods, metrics]")
    checks.count("resamples", resamples, 1)
    correlations = _spearman(table[None])[0]
    if len(table) < FEWEST:
        return Agreement(correlations, np.full_like(correlations, -1), np.ones_like(correlations))
    drawn = checks.generator(seed).integers(0, len(table), (resamples, len(table)))
    low, high = np.quantile(np.nan_to_num(_spearman(table[drawn])), (0.025, 0.975), axis=0)
    return Agreement(correlations, low, high)


def agreement_over_draws(first: Float[Any, "draws methods"], second: Float[Any, "draws methods"], seed: int = 0) -> Interval:
    """Spearman's rank correlation over methods of two measures, with a 95% interval over methods and models.

    Each draw after the first holds both measures of all methods on other models (resampled ones); the methods are resampled
    within it, so that the percentiles are over both. A resample in which a measure ties all methods counts as 0.

    Args:
        first: how bad each method is by one measure: on all models in the first row, on resampled ones in the others.
        second: by the other measure, on the same models. May be infinite.
        seed: draws methods.

    Returns:
        The correlation, in -1..1, NaN if a measure ties all methods; the interval is [-1, 1] with fewer than 5 methods.

    Raises:
        ValueError: a value is NaN, the sides have other shapes, or there is only one draw.
    """
    if np.shape(first) != np.shape(second) or np.ndim(first) != 2 or not np.size(first):
        raise ValueError(f"first, second: shapes {np.shape(first)} and {np.shape(second)}, expected [draws, methods] of both")
    sides = np.stack([np.asarray(side, np.float64) for side in (first, second)], axis=-1)
    for name, side in zip(("first", "second"), (sides[..., 0], sides[..., 1]), strict=True):
        if np.isnan(side).any():
            raise ValueError(f"{name}: NaN found; leave out methods with missing values")
    draws, methods, _ = sides.shape
    checks.count("number of draws", draws, 2)
    rng, value = checks.generator(seed), float(_spearman(sides[:1])[0, 0, 1])
    if methods < FEWEST:
        return Interval(value, -1.0, 1.0)
    chosen = rng.integers(0, methods, (draws - 1, methods))
    resampled = np.take_along_axis(sides[1:], chosen[..., None], axis=1)
    low, high = np.quantile(np.nan_to_num(_spearman(resampled)[:, 0, 1]), (0.025, 0.975))
    return Interval(value, float(low), float(high))


def reliability(first: Float[Any, " examples"], second: Float[Any, " examples"]) -> tuple[float, float]:
    """The split-half reliability of a score: its correlation between two halves of the models.

    Args:
        first: the score of each example from half of the models.
        second: the same from the other half.

    Returns:
        Pearson's correlation r, and `2 r / (1 + r)`: what it would be between two scores from as many models as both halves
        together (Spearman and Brown). NaN where a half gives all examples the same score.

    Raises:
        ValueError: if a score is not finite, or the halves are of different examples.

    Source: Brown, "Some Experimental Results in the Correlation of Mental Abilities", British Journal of Psychology 3, 1910.
    """
    first, second = checks.numbers("first", first, "examples"), checks.numbers("second", second, "examples")
    checks.alike("first", first, "second", second, 0)
    r = float(correlation(first, second))
    return r, float("-inf") if r <= -1 else 2 * r / (1 + r)


def _spearman(tables: Float[np.ndarray, "tables methods metrics"]) -> Float[np.ndarray, "tables metrics metrics"]:
    ranks = rankdata(tables, axis=1) - (tables.shape[1] + 1) / 2
    products = ranks.transpose(0, 2, 1) @ ranks
    length = np.sqrt(products.diagonal(axis1=1, axis2=2))
    lengths = length[:, :, None] * length[:, None, :]
    return np.clip(np.divide(products, lengths, out=np.full_like(products, np.nan), where=lengths > 0), -1, 1)
