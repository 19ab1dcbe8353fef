"""Tables drawn from the pools, what each concludes, and how often two of them conclude the same."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtrit

from experiments.conclusions.pools import METRICS, Pools
from unlearn_jax.metrics.statistics import CONFIDENCE, crossed_mean
from unlearn_jax.types import Interval

CONCLUSIONS = {
    "nearer": "which of two methods is nearer",
    "as_good": "as good as retraining",
    "rank": "rank of the methods (Kendall's tau)",
    "best": "the best method",
}
GROUPS = 8  # of originals and of oracles, left out one at a time for the interval of the truth
SPLIT, BANK = 8, 8  # ways to halve the models between two tables with searches; groups of judges in each half
Distances = Float[np.ndarray, "tables 2 columns metrics"]


class Size(NamedTuple):
    """The size of a table."""

    oracles: int
    originals: int
    sets: int


class Drawn(NamedTuple):
    """Pairs of tables."""

    distances: Distances
    sets: Int[np.ndarray, "tables sets"]  # the forget sets of both tables


class Truth(NamedTuple):
    """What all models and all forget sets together say.

    Attributes:
        distances: of each column by each metric.
        nearer: 1 where the first column is nearer than the second, -1 where it is not; 0: not decided, the 95% interval of the
            difference, for other originals, oracles and forget sets, holds 0.
    """

    distances: Float[np.ndarray, "columns metrics"]
    nearer: Int[np.ndarray, "columns columns metrics"]


class Rates(NamedTuple):
    """How often a conclusion comes out the same in two tables, and as in truth; for `rank`, means of Kendall's tau.

    Attributes:
        same: two tables conclude the same.
        right: a table concludes what is true, of what the truth decides.
        worse: a table concludes the opposite, of what the truth decides; NaN for `rank`.
        decided: how many questions the truth decides.
        of: how many there are.
    """

    same: Interval
    right: Interval
    worse: Interval
    decided: int
    of: int


def draw_tables(pools: Sequence[Pools], size: Size, tables: int, rng: np.random.Generator) -> Drawn:
    """Draws pairs of tables with different originals, different oracles and different forget sets.

    Args:
        pools: of each forget set; the originals are the same.
        size: of a table, at most half of what there is.
        tables: number of pairs.
        rng: draws them.
    """
    members, sets = len(pools[0].originals.shares), len(pools)
    distances, used = [], []
    for _ in range(tables):
        originals = _two(rng, members, size.originals)
        chosen = _two(rng, sets, size.sets)
        pair = []
        for side, numbers in enumerate(chosen):
            oracles = [_two(rng, len(pools[number].oracles.shares), size.oracles)[side] for number in numbers]
            each = [pools[number].distances(own, originals[side]) for number, own in zip(numbers, oracles, strict=True)]
            pair.append(np.mean(each, axis=0))
        distances.append(pair)
        used.append(np.concatenate(chosen))
    return Drawn(np.array(distances), np.array(used))


def truth_of(pools: Sequence[Pools], weights: Float[np.ndarray, "methods columns metrics"] | None = None) -> Truth:
    """The distances by all models, and which columns are nearer than which.

    The interval is that of `crossed_mean` over forget sets and groups of originals and oracles, which are left out together.

    Args:
        pools: of each forget set.
        weights: averages columns to methods, by metric; None: the columns are the methods.
    """

    def average(values: np.ndarray) -> np.ndarray:
        if weights is None:
            return values
        return np.where(weights > 0, weights * np.where(weights > 0, values, 0), 0).sum(1)

    whole, parts = [], []
    for pool in pools:
        oracles, originals = (np.arange(len(answers.shares)) for answers in (pool.oracles, pool.originals))
        groups = min(GROUPS, len(originals), len(oracles))
        whole.append(average(pool.distances(oracles, originals)))
        left = [
            average(pool.distances(oracles[oracles % groups != out], originals[originals % groups != out]))
            for out in range(groups)
        ]
        with np.errstate(invalid="ignore"):  # of a method whose models diverged
            parts.append(groups * whole[-1] - (groups - 1) * np.array(left))
    distances, pseudo = np.mean(whole, axis=0), np.stack(parts, axis=1)  # [groups, sets, methods, metrics]
    count = len(distances)
    nearer = np.zeros((count, count, len(METRICS)), int)
    for first in range(count):
        for second in range(count):
            for metric in range(len(METRICS)):
                nearer[first, second, metric] = _decide(distances[[first, second], metric], pseudo[:, :, [first, second], metric])
    return Truth(distances, nearer)


def conclude(drawn: Drawn, truth: Truth, retrain: int, metric: int) -> dict[str, Rates]:
    """How often each of `CONCLUSIONS` comes out the same and right, by one metric.

    * `nearer`: for all pairs of methods, the one with the smaller distance. Equal distances: neither.
    * `as_good`: the distance is not above that of retraining as a method, of as many retrained models, in the same table.
    * `rank`: Kendall's tau of the distances; pairs with equal distances count 0.
    * `best`: the method of the smallest distance. It is right unless the truth's best is decidedly nearer.

    Intervals are over other methods and, where a table has one forget set, other sets: the jackknife leaves out all pairs of a
    method, and all tables of a set.

    Args:
        drawn: pairs of tables.
        truth: see `truth_of`.
        retrain: the column of retraining as a method; the others are compared.
        metric: number of the metric.
    """
    methods = np.delete(np.arange(len(truth.distances)), retrain)
    values, aims, nearer = drawn.distances[..., metric], truth.distances[:, metric], truth.nearer[..., metric]
    known = np.flatnonzero(~np.isnan(values).any((1, 2)))
    sets = np.unique(drawn.sets)
    single = drawn.sets.shape[1] == 2

    def statistics(chosen: np.ndarray, tables: np.ndarray) -> np.ndarray:
        every = np.append(chosen, retrain)
        return _rates(values[tables][..., every], aims[every], nearer[np.ix_(every, every)])

    both = [
        np.array([statistics(np.delete(methods, out), known) for out in range(len(methods))]),
        np.array([statistics(methods, known[(drawn.sets[known] != one).all(1)]) for one in sets]) if single else None,
    ]
    found = statistics(methods, known)
    pairs = len(methods) * (len(methods) - 1) // 2
    counts = {"nearer": pairs, "as_good": len(methods), "rank": 1, "best": 1}
    decided = {
        "nearer": int(np.abs(np.triu(nearer[np.ix_(methods, methods)])).sum()),
        "as_good": int((nearer[retrain, methods] == 1).sum()),
        "rank": 1,
        "best": 1,
    }
    units = [part for part in both if part is not None]
    return {
        name: Rates(*_intervals(found[place], [part[:, place] for part in units], name), decided[name], counts[name])
        for place, name in enumerate(CONCLUSIONS)
    }


def _rates(values: np.ndarray, aims: np.ndarray, nearer: np.ndarray) -> Float[np.ndarray, "conclusions 3"]:
    """Same, right and worse; the last column is retraining. NaN without a table, or where the truth decides nothing.

    Args:
        values: distances, `[tables, 2, columns]`.
        aims: true distances.
        nearer: see `Truth`.
    """
    if not len(values):
        return np.full((len(CONCLUSIONS), 3), np.nan)
    methods, retrain = values[..., :-1], values[..., -1:]
    first, second = np.triu_indices(methods.shape[-1], 1)
    signs = _sign(methods[..., first], methods[..., second])
    true, aimed = nearer[first, second], _sign(aims[first], aims[second])
    decided = true != 0
    as_good, far = methods <= retrain, nearer[-1, :-1] == 1
    least = methods == methods.min(-1, keepdims=True)
    beaten = nearer[int(np.argmin(aims[:-1])), :-1] == 1
    wrong = (least & beaten).sum(-1) / least.sum(-1)
    return np.array(
        [
            [
                (signs[:, 0] == signs[:, 1]).mean(),
                _mean(signs[..., decided] == true[decided]),
                _mean(signs[..., decided] == -true[decided]),
            ],
            [(as_good[:, 0] == as_good[:, 1]).mean(), _mean(~as_good[..., far]), _mean(as_good[..., far])],
            [(signs[:, 0] * signs[:, 1]).mean(), (signs * aimed).mean(), np.nan],
            [(least[:, 0] == least[:, 1]).all(-1).mean(), 1 - wrong.mean(), wrong.mean()],
        ]
    )


class Bank(NamedTuple):
    """Distances of all settings by groups of models: `[halvings, 2 sides, groups, columns, metrics]`."""

    judged: Float[np.ndarray, "splits 2 groups columns metrics"]
    evaluated: Float[np.ndarray, "splits 2 groups columns metrics"]


def draw_bank(pools: Pools, size: Size, judges: int, most: int, rng: np.random.Generator) -> Bank:
    """Halves the models between two tables, and each half between searches and evaluation; measures groups of both.

    Args:
        pools: the columns are all settings of all methods.
        size: of a table.
        judges: originals, and as many oracles, by which a search judges.
        most: originals of each half that are kept for the evaluation.
        rng: draws.
    """
    judged, evaluated = [], []
    for _ in range(SPLIT):
        sides = zip(*(_two(rng, len(each.shares)) for each in (pools.oracles, pools.originals)), strict=True)
        of_sides: list[list[np.ndarray]] = [[], []]
        for oracles, originals in sides:
            half = len(oracles) // 2
            for place, (own, models, counts) in enumerate(
                ((oracles[:half], originals[most:], (judges, judges)), (oracles[half:], originals[:most], size[:2]))
            ):
                draws = [[rng.permutation(side)[:n] for side, n in zip((own, models), counts, strict=True)] for _ in range(BANK)]
                of_sides[place].append(np.array([pools.distances(*draw) for draw in draws]))
        judged.append(of_sides[0])
        evaluated.append(of_sides[1])
    return Bank(np.array(judged), np.array(evaluated))


def search_tables(
    bank: Bank, settings: Sequence[Int[np.ndarray, " columns"]], searches: int, trials: int, tables: int, rng: np.random.Generator
) -> tuple[Drawn, Float[np.ndarray, "methods columns metrics"]]:
    """Pairs of tables in which each method has the mean distance of the settings that its searches chose.

    A search tries some of the method's settings, and takes the best by the metric of the table.

    Args:
        bank: see `draw_bank`.
        settings: of each method, its columns.
        searches: averaged in one table.
        trials: settings that a search tries.
        tables: number of pairs.
        rng: draws.

    Returns:
        The tables, and the share of the searches that chose each column.
    """
    splits, _, groups, columns, metrics = bank.judged.shape
    shape = (tables, 2, searches)
    split = rng.integers(0, splits, tables)[:, None, None]
    side = np.arange(2)[None, :, None]
    group = np.argsort(rng.random((tables, 2, groups)), axis=2)[..., np.arange(searches) % groups]
    place = rng.integers(0, groups, (tables, 2, 1))
    distances = np.empty((tables, 2, len(settings), metrics))
    chosen_of = np.zeros((len(settings), columns, metrics))
    for method, own in enumerate(settings):
        count = min(trials, len(own))
        tried = own[np.argsort(rng.random((*shape, len(own))), axis=-1)[..., :count]]
        for metric in range(metrics):
            judged = bank.judged[split[..., None], side[..., None], group[..., None], tried, metric]
            best = np.take_along_axis(tried, np.argmin(judged, axis=-1)[..., None], -1)[..., 0]
            distances[:, :, method, metric] = bank.evaluated[split, side, place, best, metric].mean(-1)
            chosen_of[method, :, metric] = np.bincount(best.ravel(), minlength=columns) / best.size
    return Drawn(distances, np.zeros((tables, 0), int)), chosen_of


def _two(rng: np.random.Generator, count: int, size: int | None = None) -> list[np.ndarray]:
    """Draws two disjoint samples, each of a size (None: half) of so many."""
    order, half = rng.permutation(count), count // 2
    size = half if size is None else size
    if size > half:
        raise ValueError(f"size: {size} of {count} are more than half")
    return [order[:size], order[half : half + size]]


def _sign(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """1 where the first distance is smaller, -1 where it is larger, 0 where they are equal; both may be infinite."""
    return (first < second).astype(int) - (first > second)


def _mean(hits: np.ndarray) -> float:
    return float(hits.mean()) if hits.size else np.nan


def _decide(distances: np.ndarray, pseudo: Float[np.ndarray, "groups sets 2"]) -> int:
    """Which of two distances is smaller, if the interval of their difference does not hold 0; else 0."""
    if not np.isfinite(pseudo).all():
        return int(_sign(*distances)) if not np.isnan(distances).any() else 0
    difference, crossed = distances[1] - distances[0], crossed_mean(pseudo[..., 1] - pseudo[..., 0])
    low, high = (difference + end - crossed.mean for end in (crossed.low, crossed.high))
    return int(low > 0) - int(high < 0)


def _intervals(
    values: Float[np.ndarray, "3"], left_out: Sequence[Float[np.ndarray, "units 3"]], conclusion: str
) -> tuple[Interval, Interval, Interval]:
    """Same, right and worse with 95% intervals from the jackknife over several kinds of units, whose variances add up."""
    fewest, least = min(map(len, left_out)), -1 if conclusion == "rank" else 0

    def interval(kind: int) -> Interval:
        value, parts = float(values[kind]), [part[:, kind] for part in left_out]
        if fewest < 3 or np.isnan(value) or any(np.isnan(part).any() for part in parts):
            return Interval(value, -np.inf, np.inf)
        variance = sum((len(part) - 1) * part.var() for part in parts)
        reach = float(stdtrit(fewest - 1, (1 + CONFIDENCE) / 2) * np.sqrt(variance))
        return Interval(value, max(value - reach, least), min(value + reach, 1))

    return interval(0), interval(1), interval(2)


def grid(most: int) -> list[int]:
    """1, 2, 4, ... up to a number, which is the last."""
    counts = [2**power for power in range(most.bit_length()) if 2**power <= most]
    return counts if counts[-1] == most else [*counts, most]
