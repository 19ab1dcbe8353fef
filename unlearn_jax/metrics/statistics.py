"""Means, intervals and variance where originals and forget sets are crossed: every original is unlearned on every forget set.

The model throughout is that of two crossed random factors, `value = mean + original + forget set + interaction (+ seed)`.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.special import stdtr, stdtrit

from unlearn_jax.metrics import checks
from unlearn_jax.types import Interval

CONFIDENCE = 0.95
ROUNDING = 8 * np.finfo(float).eps  # relative to the largest of some numbers: smaller differences are rounding
NEGLIGIBLE = 1e-9  # the same of scores, which are long sums


class Estimate(NamedTuple):
    """A mean, its 95% interval, and the two-sided p-value of its being 0.

    Attributes:
        mean: over all values.
        low: lower end; -inf where nothing is repeated.
        high: upper end.
        p: NaN where nothing is repeated.
    """

    mean: float
    low: float
    high: float
    p: float

    @property
    def interval(self) -> Interval:
        """The same without the p-value."""
        return Interval(self.mean, self.low, self.high)


class Components(NamedTuple):
    """Variances of one value, in its unit squared; NaN for what the design cannot separate.

    Attributes:
        original: between original models, common to all forget sets.
        forget_set: between forget sets, common to all originals.
        interaction: of the two. With one seed it includes the seed's variance.
        seed: between unlearning seeds, original and forget set being the same.
        errors: standard errors of these four, by leaving out one original at a time.
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
        adjusted_p: its p-value adjusted for the number of pairs; NaN where nothing is repeated.
    """

    first: str
    second: str
    difference: Estimate
    adjusted_p: float


def unit(values: Float[np.ndarray, "..."], axis: int | None = None) -> Float[np.ndarray, "..."]:
    """A power of two near the largest |value|: dividing by it is exact, and squares then neither vanish nor overflow.

    Args:
        values: finite.
        axis: along which the largest is taken, and which is kept; None: over all.

    Returns:
        Powers of two; 1 where all values are 0.
    """
    largest = np.abs(values).max(axis=axis, keepdims=axis is not None)
    return np.where(largest > 0, np.ldexp(1.0, np.frexp(largest)[1] - 1), 1.0)


def varies(values: Float[np.ndarray, "..."], axis: int | None = None) -> Bool[np.ndarray, "..."]:
    """Whether values differ by more than their own rounding, whatever their unit; the axis is kept."""
    scaled = values / unit(values, axis)
    kept = {"axis": axis, "keepdims": axis is not None}
    return scaled.max(**kept) - scaled.min(**kept) > ROUNDING * np.abs(scaled).max(**kept)


def correlation(first: Float[Any, "..."], second: Float[Any, "..."], axis: int = 0) -> Float[np.ndarray, "..."]:
    """Pearson's correlation along an axis; NaN, as it is not defined, where a side does not vary (`varies`).

    Works for numbers of any size.

    Args:
        first: of the same shape as the second, or one that broadcasts with it.
        second: what it is correlated with.
        axis: of the pairs.

    Raises:
        ValueError: a value is not finite, or the shapes do not broadcast.
    """
    sides = {"first": checks.numbers("first", first), "second": checks.numbers("second", second)}
    shapes = [values.shape for values in sides.values()]
    try:
        np.broadcast_shapes(*shapes)
    except ValueError as error:
        raise ValueError(f"first, second: of shapes {shapes[0]} and {shapes[1]}, which do not go together") from error
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
    """The mean over originals and forget sets, with an interval that generalises to others of both.

    The variance of the mean is that of two crossed random factors, `(MS_o + MS_s - MS_os) / (originals x sets)`, a mean square
    below the interaction's being raised to it; Student's t at Satterthwaite's degrees of freedom. With one set it is
    the plain t interval over originals, and does not generalise to other sets. A bootstrap of sets and then of members is too
    narrow with about five sets (`tests/test_statistics.py` measures the coverage).

    Args:
        values: one for each original and forget set; for two methods, their paired differences.

    Returns:
        The interval. Where all values are equal it has no width, and p is 0, or 1 if they are 0.

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
    """Decomposes the variance of a value into original, forget set, their interaction, and unlearning seed.

    The analysis of variance of two crossed random factors with seeds nested in their cells; estimates below 0 are set to 0.

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
        raise ValueError("values: 1 original, expected two originals or more")
    estimates = _components(values)
    errors = np.full(4, np.nan)
    count = len(values)
    if count > 2:
        left = np.array([_components(np.delete(values, out, axis=0)) for out in range(count)])
        errors = np.sqrt((count - 1) * left.var(axis=0))
    original, forget_set, interaction, seed = map(float, estimates)
    return Components(original, forget_set, interaction, seed, tuple(errors.tolist()))


def comparisons(parts: Mapping[str, Float[np.ndarray, "originals sets"]]) -> list[Comparison]:
    """Every pair of methods, paired by original and forget set.

    Args:
        parts: by method, what each original (or group of originals) contributes on each forget set; NaN where it is missing:
            such an original is left out of the pairs concerned.

    Returns:
        One for each pair that has an original left, p-values adjusted by `holm` over all of them.

    Raises:
        ValueError: if a value is infinite, or methods are of different originals or forget sets.
    """
    shapes = {name: np.shape(values) for name, values in parts.items()}
    for name, shape in shapes.items():
        if len(shape) != 2 or shape != next(iter(shapes.values())):
            raise ValueError(f"parts: {name} has shape {shape}, expected [originals, sets], the same for all methods")
        if np.isinf(parts[name]).any():
            raise ValueError(f"parts: {name} has an infinite value, expected numbers, and NaN where one is missing")
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
    """p-values adjusted for their number, so that the chance of any false one below 5% is 5%.

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
    """A statistic of members (one that takes an `axis`), by default the mean, and its 95% percentile interval.

    Raises:
        ValueError: if a value is not finite.
    """
    checks.numbers("values", values, "members ...")
    checks.count("resamples", resamples, 1)
    drawn = checks.generator(seed).integers(0, len(values), (resamples, len(values)))
    low, high = np.quantile(statistic(values[drawn], axis=1), (0.025, 0.975))
    return Interval(float(statistic(values, axis=0)), float(low), float(high))


def jackknifed(value: float, parts: Float[np.ndarray, " groups"]) -> tuple[float, float]:
    """The 95% interval of a value from its pseudo-values, one for each group of members that was left out; Student's t.

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
        values: of each unit, or the units' numbers; with two or fewer the interval is infinite, since a statistic of pairs is
            not defined for one.

    Raises:
        ValueError: if the statistic is not finite, with all units or without one.
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
    """For each forget set, the setting that is best on average on the others, so that no set chooses for itself.

    Args:
        distances: smaller is better.
        allowed: the settings that may be chosen.

    Returns:
        Indices of settings.

    Raises:
        ValueError: a distance is NaN, there is only one set, or no setting is allowed.
    """
    distances, allowed = np.asarray(distances, np.float64), checks.truths("allowed", allowed, "settings")
    if distances.ndim != 2 or distances.shape[1:] != allowed.shape or np.isnan(distances).any():
        raise ValueError(f"distances: NaN, or of shape {distances.shape}, expected numbers for sets and {len(allowed)} settings")
    left = np.flatnonzero(allowed)
    if len(distances) < 2 or not len(left):
        raise ValueError(
            f"distances: {len(distances)} sets, {len(left)} allowed settings, expected two sets and one setting or more"
        )
    others = [np.delete(distances[:, left], out, axis=0).mean(axis=0) for out in range(len(distances))]
    return left[np.argmin(others, axis=1)]


def pseudo_values(
    statistic: Callable[[Float[np.ndarray, "units *rest"]], Float[Any, "*found"]], values: Float[np.ndarray, "units *rest"]
) -> Float[np.ndarray, "units *found"]:
    """`n θ - (n-1) θ_{-i}`: what each unit contributes to a statistic θ of n of them, θ_{-i} being the statistic without it.

    Their mean is θ without its bias of order 1/n (of a plug-in variance exactly the unbiased one), and their spread over units
    gives the interval of that mean.

    Args:
        statistic: of any number of units, at least one fewer than there are.
        values: of each unit, at least two.

    Raises:
        ValueError: a value is not finite, or there is only one unit.

    Source: Tukey 1958; Efron & Stein, "The Jackknife Estimate of Variance", Annals of Statistics 9, 1981.
    """
    checks.numbers("values", values, "units ...")
    count = checks.count("number of units", len(values), 2)
    left = np.stack([np.asarray(statistic(np.delete(values, out, axis=0))) for out in range(count)])
    return count * np.asarray(statistic(values))[None] - (count - 1) * left


def _mean_squares(values: np.ndarray) -> tuple[float, float, float]:
    """Of originals, sets, and their interaction, in the analysis of variance without repetition; 0 where there is one."""
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
