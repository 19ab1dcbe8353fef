"""The null: the score of a perfect method with the same number of models."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Float, Int

from unlearn_jax.metrics import checks
from unlearn_jax.metrics.statistics import CONFIDENCE, NEGLIGIBLE
from unlearn_jax.types import Key

Metric = TypeVar("Metric")


class Null(NamedTuple):
    """The distribution of a metric if the unlearned models are retrained models."""

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

    Always n against n, because such metrics depend on sample sizes: against all 2n oracles a perfect method scores much lower.

    Args:
        metric: `metric(unlearned, oracle)`, a function of two arrays with the members first.
        oracle_logits: the pool: logits, or other arrays that the metric takes.
        n: number of models on each side.
        splits: number of random splits.
        key: draws the splits.

    Returns:
        Mean, standard deviation and quantiles over the splits.

    Raises:
        ValueError: if the pool has fewer than 2n members, or the pool or a value of the metric is not finite.
    """
    checks.numbers("oracle_logits", oracle_logits, "oracles ...")
    pool = np.asarray(oracle_logits)
    return summarise(np.array([metric(pool[first], pool[second]) for first, second in halves(key, len(pool), n, splits)]))


def halves(key: Key, members: int, n: int, splits: int) -> Int[np.ndarray, "splits 2 n"]:
    """Draws random pairs of disjoint sets of n members.

    Raises:
        ValueError: if there are fewer than 2n members, or n or `splits` is below 2.
    """
    checks.count("n", n, 2)
    checks.count("splits", splits, 2)
    if members < 2 * n:
        raise ValueError(f"n: {n} models against {n} needs {2 * n} oracles or more, not {members}")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))  # on the host: not worth compiling
    orders = rng.permuted(np.tile(np.arange(members), (splits, 1)), axis=1)
    return orders[:, : 2 * n].reshape(splits, 2, n)


def thirds(key: Key, members: int, n: int, partitions: int, splits: int) -> Int[np.ndarray, "partitions sets n"]:
    """Draws pseudo-unlearned models and twice as many pseudo-oracles, all different, and splits the latter in halves.

    Args:
        key: draws.
        members: 3n or more.
        n: number of pseudo-unlearned models.
        partitions: times that both are drawn.
        splits: of the pseudo-oracles, for each partition.

    Returns:
        For each partition the pseudo-unlearned models, followed by both halves of every split.

    Raises:
        ValueError: if there are fewer than 3n members.
    """
    if members < 3 * n:
        raise ValueError(f"n: {n} models and twice as many others need {3 * n} oracles or more, not {members}")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    orders = rng.permuted(np.tile(np.arange(members), (partitions, 1)), axis=1)[:, : 3 * n]
    again = rng.permuted(np.tile(orders[:, None, n:], (1, splits, 1)), axis=2)
    return np.concatenate([orders[:, None, :n], again.reshape(partitions, 2 * splits, n)], axis=1)


def of_means(values: Float[Any, " oracles"], splits: Int[np.ndarray, "splits 2 n"]) -> tuple[Float[np.ndarray, " splits"], float]:
    """Returns draws of the null of a mean over n models, such as an accuracy, and their centre, the mean over all oracles.

    Their spread is that of the difference between the means of two halves (`halves`), because both the mean of the unlearned
    models and that of the oracles are over few models.

    Raises:
        ValueError: if a value is not finite.
    """
    checks.numbers("values", values, "oracles")
    means, centre = np.asarray(values)[splits].mean(-1), float(np.mean(values))
    return centre + means[:, 0] - means[:, 1], centre


def joint(
    draws: Mapping[Metric, Float[np.ndarray, " splits"]], centres: Mapping[Metric, float]
) -> tuple[dict[Metric, Null], float]:
    """Returns the null of each metric, and the 95% band of the largest |z| over all metrics.

    Args:
        draws: by metric, the score of each split of the oracles.
        centres: for some metrics, a more exact mean of the null than that of the draws.
    """
    nulls = {name: summarise(values) for name, values in draws.items()}
    nulls |= {name: nulls[name]._replace(mean=centre) for name, centre in centres.items()}
    z = [abs(draws[name] - null.mean) / null.sd for name, null in nulls.items() if null.sd > 0]
    return nulls, float(np.quantile(np.max(z, axis=0), CONFIDENCE)) if z else 0.0


def summarise(values: Float[np.ndarray, " splits"]) -> Null:
    """Returns the mean, the standard deviation (0 if it is only rounding) and the 95% quantiles of the values.

    Raises:
        ValueError: if a value is not finite, or there is only one.
    """
    checks.numbers("values", values, "splits")
    checks.count("number of splits", len(values), 2)
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    low, high = np.quantile(values, (0.025, 0.975))
    return Null(mean, sd if sd > NEGLIGIBLE * np.abs(values).max() else 0.0, float(low), float(high))
