"""Rank correlations over methods between settings, with intervals over seeds and forget sets, and over methods."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from unlearn_jax.metrics.agreement import FEWEST, rank_agreement
from unlearn_jax.metrics.catalogue import damage, memory_left
from unlearn_jax.metrics.statistics import correlation, crossed_mean
from unlearn_jax.types import Interval

RESAMPLES = 1_000
MEASURES = {memory_left.name: "memory left", damage.name: damage.name, "distance": "the larger of the two"}
"""Measure -> its name in tables and figures; the distance is the larger of |memory left| and damage."""


class Sizes(NamedTuple):
    """The effect sizes of the same methods in one setting, NaN where nothing is known."""

    memory: Float[np.ndarray, "methods seeds sets"]
    damage: Float[np.ndarray, "methods seeds sets"]

    def of(self, rows: Sequence[int]) -> "Sizes":
        """Those of some methods."""
        return Sizes(self.memory[list(rows)], self.damage[list(rows)])


class Correlation(NamedTuple):
    """Spearman's rank correlation over methods of a setting with the base, with 95% intervals.

    Attributes:
        value: of the means over seeds and forget sets.
        low: over other seeds and forget sets (both settings are drawn anew).
        high: its upper end.
        low_methods: over other methods.
        high_methods: its upper end.
        methods: how many both settings have.
    """

    value: float
    low: float
    high: float
    low_methods: float
    high_methods: float
    methods: int

    @property
    def interval(self) -> Interval:
        """The value with its interval over seeds and forget sets."""
        return Interval(self.value, self.low, self.high)


def means(sizes: Sizes) -> dict[str, Float[np.ndarray, " methods"]]:
    """Measure -> its mean over seeds and forget sets: of the memory left, and of the squares of the damage."""
    return {name: values[0] for name, values in _means(*(part[None] for part in sizes)).items()}


def mean_intervals(sizes: Sizes) -> dict[str, list[Interval]]:
    """The means of memory left and damage of each method, with intervals over seeds and forget sets.

    Sets are nested in seeds, and treated as crossed with them, which is the wider of the two. Cells with NaN are left out with
    their seed; without two seeds or two sets an interval may be infinite.
    """
    squares = np.copysign(sizes.damage**2, sizes.damage)
    return {
        memory_left.name: [_interval(values) for values in sizes.memory],
        damage.name: [Interval(*(float(_root(end)) for end in _interval(values))) for values in squares],
    }


def compare(base: Sizes, other: Sizes, seed: int = 0) -> tuple[dict[str, Correlation], dict[str, Float[np.ndarray, " draws"]]]:
    """Correlates two settings by each of `MEASURES`.

    The interval over seeds and sets is a percentile bootstrap: seeds are drawn with replacement, and sets within each, on both
    sides. Drawing anew adds noise, so it may lie below the value; how far, that of the base against other seeds says.

    Args:
        base: of one setting.
        other: of the same methods in the other one, all known in some cell. Without two methods nothing is known.
        seed: draws the resamples; those of the base are the same whatever the other setting is.

    Returns:
        The correlations, and their resamples.
    """
    if len(base.memory) < 2:
        unknown = Correlation(np.nan, -1.0, 1.0, -1.0, 1.0, len(base.memory))
        return dict.fromkeys(MEASURES, unknown), {name: np.zeros(RESAMPLES) for name in MEASURES}
    whole = means(base), means(other)
    drawn = [_means(*_resampled(sizes, np.random.default_rng([seed, side]))) for side, sizes in enumerate((base, other))]
    found: dict[str, Correlation] = {}
    draws: dict[str, np.ndarray] = {}
    for name in MEASURES:
        by_methods = rank_agreement(np.stack([side[name] for side in whole], axis=1), seed=seed).between(0, 1)
        first, second = (rankdata(side[name], axis=1) for side in drawn)
        draws[name] = np.nan_to_num(correlation(first, second, axis=1))
        low, high = map(float, np.quantile(draws[name], (0.025, 0.975)))
        cells = min(sizes.memory[0].size for sizes in (base, other))
        over_cells = (low, high) if cells > 1 else (-1.0, 1.0)
        found[name] = Correlation(by_methods.value, *over_cells, by_methods.low, by_methods.high, len(base.memory))
    return found, draws


class Difference(NamedTuple):
    """How much more one setting correlates with the base than another one does, with 95% intervals as of `Correlation`."""

    value: float
    low: float
    high: float
    low_methods: float
    high_methods: float


def difference(base: Sizes, one: Sizes, other: Sizes, seed: int = 0) -> dict[str, Difference]:
    """Compares the correlations of two settings with the base, by each of `MEASURES`.

    Every resample is of the base and of both settings; the methods are resampled alike in all three.

    Args:
        base: of one setting.
        one: of the same methods in a second setting.
        other: in a third one.
        seed: draws the resamples, as in `compare`.
    """
    (found, draws), (of_other, other_draws) = (compare(base, each, seed) for each in (one, other))
    sides, methods = [means(each) for each in (base, one, other)], len(base.memory)
    rows = np.random.default_rng(seed).integers(0, methods, (RESAMPLES, methods))
    apart = {}
    for name in MEASURES:
        value = found[name].value - of_other[name].value
        ranks = [rankdata(side[name][rows], axis=1) for side in sides]
        first, second = (np.nan_to_num(correlation(ranks[0], each, axis=1)) for each in ranks[1:])
        low, high = map(float, np.quantile(first - second, (0.025, 0.975))) if methods >= FEWEST else (-2.0, 2.0)
        apart[name] = Difference(*below(other_draws[name], draws[name], value), low, high)
    return apart


def below(draws: Float[np.ndarray, " draws"], ceiling: Float[np.ndarray, " draws"], value: float) -> Interval:
    """How far a correlation is below that of the base with its own other seeds, with the interval over seeds and sets."""
    low, high = np.quantile(ceiling - draws, (0.025, 0.975))
    return Interval(value, float(low), float(high))


def _means(memory: np.ndarray, harm: np.ndarray) -> dict[str, np.ndarray]:
    """By measure, the means of tables `[tables, methods, seeds, sets]`."""
    left = np.nanmean(memory, axis=(2, 3))
    moved = _root(np.nanmean(np.copysign(harm**2, harm), axis=(2, 3)))
    return {memory_left.name: left, damage.name: moved, "distance": np.maximum(np.abs(left), moved)}


def _resampled(sizes: Sizes, rng: np.random.Generator) -> list[np.ndarray]:
    """Tables of the same shape: seeds are drawn with replacement, and sets within each.

    A resample that misses all cells in which some method is known is replaced by the whole.
    """
    _, seeds, sets = sizes.memory.shape
    drawn = rng.integers(0, seeds, (RESAMPLES, seeds))
    within = rng.integers(0, sets, (RESAMPLES, seeds, sets))
    tables = [np.moveaxis(part[:, drawn[:, :, None], within], 0, 1) for part in sizes]
    known = [np.isfinite(table).any(axis=(2, 3)).all(axis=1) for table in tables]
    kept = np.logical_and(*known)  # a resample may miss the only cells in which a method is known
    return [np.where(kept[:, None, None, None], table, part[None]) for table, part in zip(tables, sizes, strict=True)]


def _interval(values: np.ndarray) -> Interval:
    whole = values[np.isfinite(values).all(axis=1)]
    value = float(np.nanmean(values)) if np.isfinite(values).any() else np.nan
    if not whole.size:
        return Interval(value, -np.inf, np.inf)
    crossed = crossed_mean(whole)
    return Interval(value, value + crossed.low - crossed.mean, value + crossed.high - crossed.mean)


def _root(square):
    return np.copysign(np.sqrt(np.abs(square)), square)
