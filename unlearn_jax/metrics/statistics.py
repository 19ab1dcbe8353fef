"""Means, intervals and variances for crossed designs: every original is unlearned on every forget set.

The statistical model has two crossed random factors, `value = mean + original + forget set + interaction (+ seed)`.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.special import stdtr, stdtrit

from unlearn_jax.metrics import checks
from unlearn_jax.types import Interval

CONFIDENCE = 0.95
ROUNDING = 8 * np.finfo(float).eps  # relative differences below this are rounding
NEGLIGIBLE = 1e-9  # the same for scores, which are long sums


class Estimate(NamedTuple):
    """A mean, its 95% interval, and its two-sided p-value against 0.

    Attributes:
        mean: over all values.
        low: lower end; -inf if there is only one value.
        high: upper end.
        p: NaN if there is only one value.
    """

    mean: float
    low: float
    high: float
    p: float

    @property
    def interval(self) -> Interval:
        """The mean and its interval."""
        return Interval(self.mean, self.low, self.high)


class Components(NamedTuple):
    """Variances of one value, in its unit squared; NaN for what the design cannot separate.

    Attributes:
        original: between original models, common to all forget sets.
        forget_set: between forget sets, common to all originals.
        interaction: of the two. With one seed it includes the variance of the seed.
        seed: between unlearning seeds for the same original and forget set.
        errors: standard errors of these four, by a jackknife over originals.
    """

    original: float
    forget_set: float
    interaction: float
    seed: float
    errors: tuple[float, float, float, float]


class Comparison(NamedTuple):
    """Two methods on the same originals and forget sets.

    Attributes:
        first: one method.
        second: the other.
        difference: first minus second.
        adjusted_p: its p-value adjusted for the number of pairs; NaN if there is only one value.
    """

    first: str
    second: str
    difference: Estimate
    adjusted_p: float


def unit(values: Float[np.ndarray, "..."], axis: int | None = None) -> Float[np.ndarray, "..."]:
    """Returns a power of two near the largest |value|. Dividing by it is exact, and squares then neither vanish nor overflow.

    Args:
        values: finite.
        axis: of the maximum; it is kept. None: over all values.

    Returns:
        Powers of two; 1 if all values are 0.
    """
    largest = np.abs(values).max(axis=axis, keepdims=axis is not None)
    return np.where(largest > 0, np.ldexp(1.0, np.frexp(largest)[1] - 1), 1.0)


def varies(values: Float[np.ndarray, "..."], axis: int | None = None) -> Bool[np.ndarray, "..."]:
    """Whether values differ by more than rounding, relative to the largest; the axis is kept."""
    scaled = values / unit(values, axis)
    over = {"axis": axis, "keepdims": axis is not None}
    return scaled.max(**over) - scaled.min(**over) > ROUNDING * np.abs(scaled).max(**over)


def correlation(first: Float[Any, "..."], second: Float[Any, "..."], axis: int = 0) -> Float[np.ndarray, "..."]:
    """Pearson's correlation along an axis; NaN if a side does not vary (`varies`).

    Numbers of any size neither overflow nor vanish.

    Args:
        first: one side.
        second: the other side; its shape broadcasts with that of the first.
        axis: of the pairs.

    Raises:
        ValueError: a value is not finite, or the shapes do not broadcast.
    """
    sides = {"first": checks.numbers("first", first), "second": checks.numbers("second", second)}
    shapes = [values.shape for values in sides.values()]
    try:
        np.broadcast_shapes(*shapes)
    except ValueError as error:
        raise ValueError(f"first, second: shapes {shapes[0]} and {shapes[1]}, expected shapes that broadcast") from error
    pair = []
    for values in sides.values():
        scaled = values / unit(values, axis)
        centred = np.where(varies(values, axis), scaled - scaled.mean(axis=axis, keepdims=True), 0.0)
        sizes = np.abs(centred).max(axis=axis, keepdims=True)
        pair.append(np.divide(centred, sizes, out=np.zeros_like(centred), where=sizes > 0))
    product = (pair[0] * pair[1]).sum(axis=axis)
    length = np.sqrt((pair[0] ** 2).sum(axis=axis) * (pair[1] ** 2).sum(axis=axis))
    r = np.divide(product, length, out=np.full(np.shape(product), np.nan), where=length > 0)
    return np.asarray(np.clip(r, -1, 1))


def crossed_mean(values: Float[np.ndarray, "originals sets"]) -> Estimate:
    """The mean over originals and forget sets, with an interval that generalises to other originals and sets.

    The variance of the mean is that of two crossed random factors, `(MS_o + MS_s - MS_os) / (originals x sets)`, where MS_o and
    MS_s are at least MS_os; the interval is Student's t with Satterthwaite's degrees of freedom. With one set it is the plain t
    interval over originals, which does not generalise to other sets. A bootstrap over sets and then members is too narrow with
    about five sets (`tests/test_statistics.py` measures the coverage).

    Args:
        values: one for each original and forget set; for two methods, their paired differences.

    Returns:
        The estimate. If all values are equal, the interval has no width, and p is 0, or 1 if the values are 0.

    Raises:
        ValueError: if a value is not finite.

    Source: Searle, Casella & McCulloch, "Variance Components", 1992; Satterthwaite, Biometrics Bulletin 2, 1946.
    """
    values = checks.numbers("values", values, "originals sets")
    originals, sets = values.shape
    scale = float(unit(values))
    values = values / scale
    mean = float(values.mean())
    rows, columns, both = _mean_squares(values)
    freedom = np.array([originals - 1, sets - 1, (originals - 1) * (sets - 1)])
    terms = np.array([rows, columns, 0.0])
    if freedom[2]:
        terms = np.array([max(rows, both), max(columns, both), -both])
    used = freedom > 0
    if not used.any():
        return Estimate(mean * scale, -np.inf, np.inf, np.nan)
    variance = terms.sum() / (originals * sets)
    if variance <= NEGLIGIBLE**2:
        return Estimate(mean * scale, mean * scale, mean * scale, float(abs(mean) < NEGLIGIBLE))
    degrees = terms.sum() ** 2 / (terms[used] ** 2 / freedom[used]).sum()
    error = np.sqrt(variance)
    reach = stdtrit(degrees, (1 + CONFIDENCE) / 2) * error
    p = float(2 * stdtr(degrees, -abs(mean) / error))
    return Estimate(mean * scale, (mean - reach) * scale, (mean + reach) * scale, p)


def components(values: Float[np.ndarray, "originals sets seeds"]) -> Components:
    """Splits the variance of a value into original, forget set, their interaction, and unlearning seed.

    This is an analysis of variance with two crossed random factors and seeds nested in their cells; estimates below 0 become 0.

    Args:
        values: one for each original, forget set and seed of the unlearning method.

    Returns:
        The variances, with standard errors (NaN with fewer than three originals).

    Raises:
        ValueError: if a value is not finite, or there is only one original.

    Source: Searle, Casella & McCulloch, "Variance Components", 1992, chapter 4.
    """
    values = checks.numbers("values", values, "originals sets seeds")
    if len(values) < 2:
        raise ValueError("values: 1 original, expected two or more")
    estimates = _components(values)
    errors = np.full(4, np.nan)
    count = len(values)
    if count > 2:
        left = np.array([_components(np.delete(values, out, axis=0)) for out in range(count)])
        errors = np.sqrt((count - 1) * left.var(axis=0))
    original, forget_set, interaction, seed = map(float, estimates)
    return Components(original, forget_set, interaction, seed, tuple(errors.tolist()))


def comparisons(parts: Mapping[str, Float[np.ndarray, "originals sets"]]) -> list[Comparison]:
    """Compares every pair of methods, paired by original and forget set.

    Args:
        parts: by method, the contribution of each original (or group of originals) on each forget set. Originals with NaN are
            left out of the comparison.

    Returns:
        A comparison for each pair with an original left; p-values are adjusted by `holm` over all of them.

    Raises:
        ValueError: if a value is infinite, or the methods have different numbers of originals or forget sets.
    """
    shapes = {name: np.shape(values) for name, values in parts.items()}
    for name, shape in shapes.items():
        if len(shape) != 2 or shape != next(iter(shapes.values())):
            raise ValueError(f"parts: {name} has shape {shape}, expected [originals, sets], the same for all methods")
        if np.isinf(parts[name]).any():
            raise ValueError(f"parts: {name} has an infinite value, expected finite numbers, or NaN for a missing one")
    pairs: list[tuple[str, str, Estimate]] = []
    for first, second in itertools.combinations(parts, 2):
        difference = parts[first] - parts[second]
        largest = np.fmax(np.abs(parts[first]), np.abs(parts[second]))
        if not (np.abs(difference) > NEGLIGIBLE * largest).any():
            difference = np.where(np.isnan(difference), np.nan, 0.0)
        whole = difference[np.isfinite(difference).all(axis=1)]
        if len(whole):
            pairs.append((first, second, crossed_mean(whole)))
    known = np.array([interval.p for *_, interval in pairs])
    adjusted = np.full(len(pairs), np.nan)
    adjusted[np.isfinite(known)] = holm(known[np.isfinite(known)])
    return [Comparison(*pair, float(p)) for pair, p in zip(pairs, adjusted, strict=True)]


def holm(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Adjusts p-values for their number: the chance that any false one falls below 5% is then at most 5%.

    Args:
        p: of all tests that have a p-value.

    Raises:
        ValueError: if one is not in 0..1.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
    """
    p = np.asarray(p, np.float64)
    if not p.size:
        return p
    checks.numbers("p", p, "tests", low=0, high=1)
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(steps, 1)
    return adjusted


def bootstrap(
    values: Float[np.ndarray, "members *rest"], seed: int, resamples: int = 1_000, statistic: Callable[..., Any] = np.mean
) -> Interval:
    """A statistic of members (a function with an `axis`), by default the mean, and its 95% percentile interval.

    Raises:
        ValueError: if a value is not finite.
    """
    checks.numbers("values", values, "members ...")
    checks.count("resamples", resamples, 1)
    drawn = checks.generator(seed).integers(0, len(values), (resamples, len(values)))
    low, high = np.quantile(statistic(values[drawn], axis=1), (0.025, 0.975))
    return Interval(float(statistic(values, axis=0)), float(low), float(high))


def jackknifed(value: float, parts: Float[np.ndarray, " groups"]) -> tuple[float, float]:
    """The 95% interval (Student's t) of a value from its pseudo-values, one for each group of members left out.

    Raises:
        ValueError: if the value or a pseudo-value is not finite.
    """
    checks.numbers("value", value)
    if len(parts) < 2:
        return -np.inf, np.inf
    checks.numbers("parts", parts, "groups")
    reach = stdtrit(len(parts) - 1, (1 + CONFIDENCE) / 2) * parts.std(ddof=1) / np.sqrt(len(parts))
    return value - float(reach), value + float(reach)


def jackknife(
    statistic: Callable[[Shaped[np.ndarray, "units *rest"]], float], values: Shaped[np.ndarray, "units *rest"]
) -> Interval:
    """A statistic of units, such as seeds, and its 95% interval, see `jackknifed`.

    Args:
        statistic: of any number of units.
        values: of each unit, or the indices of units. With two or fewer the interval is infinite, since a statistic of pairs
            is not defined for one.

    Raises:
        ValueError: if the statistic is not finite, of all units or with one left out.
    """
    count, value = len(values), statistic(values)
    checks.numbers("statistic", value)
    if count < 3:
        return Interval(value, -np.inf, np.inf)
    left = np.array([statistic(np.delete(values, out, axis=0)) for out in range(count)])
    checks.numbers("statistic", left, "units")
    return Interval(value, *jackknifed(value, count * value - (count - 1) * left))


def chosen_elsewhere(
    distances: Float[np.ndarray, "sets settings"], allowed: Bool[np.ndarray, " settings"]
) -> Int[np.ndarray, " sets"]:
    """For each forget set, chooses the setting that is best on average on the other sets.

    Args:
        distances: smaller is better.
        allowed: the settings to choose from.

    Returns:
        Indices of settings.

    Raises:
        ValueError: a distance is NaN, there is only one set, or no setting is allowed.
    """
    distances, allowed = np.asarray(distances, np.float64), checks.truths("allowed", allowed, "settings")
    if distances.ndim != 2 or distances.shape[1:] != allowed.shape or np.isnan(distances).any():
        raise ValueError(f"distances: NaN, or shape {distances.shape}; expected numbers for sets and {len(allowed)} settings")
    left = np.flatnonzero(allowed)
    if len(distances) < 2 or not len(left):
        raise ValueError(
            f"distances: {len(distances)} sets, {len(left)} allowed settings; expected at least two sets and one setting"
        )
    others = [np.delete(distances[:, left], out, axis=0).mean(axis=0) for out in range(len(distances))]
    return left[np.argmin(others, axis=1)]


def over_draws(values: Float[np.ndarray, " draws"]) -> Interval:
    """The mean over the draws whose value is known (finite), and its t interval; without one if fewer than three are."""
    known = values[np.isfinite(values)]
    if len(known) < 3:
        return Interval(float(known.mean()) if len(known) else math.nan, -math.inf, math.inf)
    return crossed_mean(known[:, None]).interval


def pseudo_values(
    statistic: Callable[[Float[np.ndarray, "units *rest"]], Float[Any, "*found"]], values: Float[np.ndarray, "units *rest"]
) -> Float[np.ndarray, "units *found"]:
    """`n θ - (n-1) θ_{-i}`: the contribution of unit i to a statistic θ of n units, where θ_{-i} is the statistic without it.

    Their mean is θ without its bias of order 1/n (for a plug-in variance, exactly the unbiased one); their spread over units
    gives the interval of that mean.

    Args:
        statistic: a function of n or n - 1 units.
        values: of at least two units.

    Raises:
        ValueError: a value is not finite, or there is only one unit.

    Source: Tukey 1958; Efron & Stein, "The Jackknife Estimate of Variance", Annals of Statistics 9, 1981.
    """
    checks.numbers("values", values, "units ...")
    count = checks.count("number of units", len(values), 2)
    left = np.stack([np.asarray(statistic(np.delete(values, out, axis=0))) for out in range(count)])
    return count * np.asarray(statistic(values))[None] - (count - 1) * left


def _mean_squares(values: np.ndarray) -> tuple[float, float, float]:
    """Mean squares of originals, sets, and their interaction, without repetition; 0 without degrees of freedom."""
    originals, sets = values.shape
    row, column, mean = values.mean(1, keepdims=True), values.mean(0, keepdims=True), values.mean()
    sums = sets * ((row - mean) ** 2).sum(), originals * ((column - mean) ** 2).sum(), ((values - row - column + mean) ** 2).sum()
    freedom = originals - 1, sets - 1, (originals - 1) * (sets - 1)
    a, b, c = (float(total / degrees) if degrees else 0.0 for total, degrees in zip(sums, freedom, strict=True))
    return a, b, c


def _components(values: np.ndarray) -> np.ndarray:
    originals, sets, seeds = values.shape
    cells = values.mean(2)
    rows, columns, both = (seeds * square for square in _mean_squares(cells))
    within = float(((values - cells[..., None]) ** 2).sum() / (originals * sets * (seeds - 1))) if seeds > 1 else 0.0
    below = both if sets > 1 else within
    estimates = np.maximum(
        [(rows - below) / (sets * seeds), (columns - both) / (originals * seeds), (both - within) / seeds, within], 0
    )
    known = [True, sets > 1, sets > 1, seeds > 1]
    return np.where(known, estimates, np.nan)
