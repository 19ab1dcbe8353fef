"""The null: what a perfect method would have scored with this many models."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from unlearn_jax.types import Key

RESAMPLES = 1_000  # of the bootstrap


class Null(NamedTuple):
    """The distribution of a metric when the unlearned models are retrained ones."""

    mean: float
    sd: float
    low: float  # 2.5% quantile
    high: float  # 97.5% quantile


def null(
    metric: Callable[[np.ndarray, np.ndarray], float],
    oracle_logits: Float[Any, "oracles ..."],
    n: int,
    splits: int = 100,
    *,
    key: Key,
) -> Null:
    """The null of a two-sample metric: n oracles against n others, over random splits of the pool.

    Always n against n, since such metrics depend on the sample sizes: against all 2n oracles a perfect method scores far below.

    Args:
        metric: `metric(unlearned, oracle)`, of two arrays with the members first.
        oracle_logits: the pool; logits, or whatever else the metric is a function of.
        n: number of models on each side.
        splits: number of random splits.
        key: draws the splits.

    Returns:
        Mean, standard deviation and quantiles over the splits.

    Raises:
        ValueError: if the pool has fewer than 2n members.
    """
    pool = np.asarray(oracle_logits)
    return summarise(np.array([metric(pool[first], pool[second]) for first, second in halves(key, len(pool), n, splits)]))


def halves(key: Key, members: int, n: int, splits: int) -> Int[np.ndarray, "splits 2 n"]:
    """Random disjoint pairs of n members.

    Raises:
        ValueError: if there are fewer than 2n members, or n or `splits` is below 2.
    """
    if n < 2 or splits < 2:
        raise ValueError(f"a null needs two models and two splits or more, not {n} and {splits}")
    if members < 2 * n:
        raise ValueError(f"a null of {n} models against {n} needs {2 * n} oracles or more, not {members}")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))  # on the host: nothing here is worth compiling
    orders = rng.permuted(np.tile(np.arange(members), (splits, 1)), axis=1)
    return orders[:, : 2 * n].reshape(splits, 2, n)


def of_means(values: Float[Any, " oracles"], split: Int[np.ndarray, "splits 2 n"]) -> tuple[Null, Float[np.ndarray, " splits"]]:
    """The null of a mean over n models, such as an accuracy, and the draws that it comes from.

    It is centred at the mean over all oracles and has the spread of the difference between the means of two halves, see
    `halves`: both the unlearned models' mean and what it is held against are means over few.
    """
    centre = float(np.mean(values))
    means = np.asarray(values)[split].mean(-1)
    draws = centre + means[:, 0] - means[:, 1]
    return summarise(draws)._replace(mean=centre), draws


def bootstrap(values: Float[Any, " members"], seed: int = 0) -> tuple[float, float, float]:
    """The mean over members and its 95% percentile interval, from 1,000 resamples that the seed draws."""
    values = np.asarray(values, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(1), (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def summarise(values: Float[np.ndarray, " splits"]) -> Null:
    """Mean, standard deviation (0 where it is nothing but rounding) and 95% quantiles of the values."""
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    low, high = np.quantile(values, (0.025, 0.975))
    return Null(mean, sd if sd > 1e-9 * max(1, abs(mean)) else 0.0, float(low), float(high))
