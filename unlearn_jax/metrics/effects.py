"""Two effect sizes: how much of what the original models remember is left, and what unlearning changed besides.

Let g, o and m be the mean margins of originals, retrained models and unlearned models on each example. On the forget set, g - o
is what there is to forget. Both effect sizes are in its unit, so that they can be compared across settings:

* *memory left*: the share s of g - o that is still there, `<m - o, g - o> / <g - o, g - o>`. 0 as retraining, 1 as doing nothing.
* *damage*: what is neither retrained nor remembered, `m - o - s (g - o)`, on a forget, retain or test set: its root mean square,
  divided by that of g - o on the forget set. 0 as retraining, and 0 as doing nothing.

Means of few models are noisy, and squares of noise do not average out. All products are therefore unbiased: they are means over
pairs of *different* models (U-statistics). Of no difference they are 0 on average, and a single estimate may be below 0; the root
of a negative square is written as minus the root of its size.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import stdtr, stdtrit
from scipy.stats import ttest_ind

from unlearn_jax.metrics import checks
from unlearn_jax.metrics.statistics import CONFIDENCE, NEGLIGIBLE, crossed_mean, unit
from unlearn_jax.types import Interval

Margins = Float[np.ndarray, "..."]  # [models, examples]
SPLITS = ("forget", "retain", "test")
MARGIN = 0.1  # within which models are equivalent, as a share of what there is to forget
OUTCOMES = ("equivalent", "not distinguished", "different")
ENOUGH = 4  # models of a kind: fewer may be alike by chance
CERTAIN = 1e-4  # p below which hardly a chance makes oracles know the forget set better than originals
UNKNOWN = Interval(math.nan, -math.inf, math.inf)


class Effects(NamedTuple):
    """The effect sizes of one pool of unlearned models, with 95% intervals over originals and retrained models.

    Over several forget sets they are means (`mean_effects`), and the intervals are for other originals and other forget sets.

    Attributes:
        memory_left: see the module; NaN if what the originals remember cannot be told from nothing with so many models.
        damage: over all splits, the root of the mean square of the three.
        of_split: the damage on each split.
        of_part: the memory left of parts of the forget set, such as its memorised examples.
        remembered: the root mean square of g - o on the forget set, in margins: the unit.
        parts: what each pair of an original and its unlearned model contributed: pseudo-values of the memory left (`memory`, and
            each part of F), and of the squares of the damage (`whole`, and each split).
    """

    memory_left: Interval
    damage: Interval
    of_split: dict[str, Interval]
    remembered: Interval
    parts: Mapping[str, Float[np.ndarray, " pairs"]]
    of_part: Mapping[str, Interval] = MappingProxyType({})

    @property
    def distance(self) -> float:
        """The distance from retraining: the larger of |memory left| and damage. It is 1 for doing nothing."""
        return max(abs(self.memory_left.value), self.damage.value)

    def within(self, margin: int | float) -> bool:
        """Whether the models are equivalent to retrained ones within a margin: both intervals lie inside it.

        Args:
            margin: a share of what there is to forget.
        """
        memory, damage = self.memory_left, self.damage
        return -margin < memory.low and memory.high < margin and damage.high < margin


def effects(
    unlearned: Mapping[str, Margins],
    originals: Mapping[str, Margins],
    oracles: Mapping[str, Margins],
    parts: Mapping[str, Bool[np.ndarray, " forget"]] = MappingProxyType({}),
) -> Effects:
    """The effect sizes of unlearned models.

    Args:
        unlearned: margins on `forget`, and on any of `retain` and `test`; model i was unlearned from original i.
        originals: likewise.
        oracles: likewise, of models retrained without the forget set.
        parts: of the forget set, by name, whose memory left is measured too; a part of which the originals remember too little to
            measure is left out.

    Raises:
        ValueError: a margin is not finite, the three are of other examples, or there are fewer than two models of a kind.
    """
    pools = {"unlearned": unlearned, "originals": originals, "oracles": oracles}
    splits = [split for split in SPLITS if split in unlearned]
    centred: dict[str, np.ndarray] = {}
    for split in splits:
        given = [checks.numbers(f"{name} {split}", pool[split], "models examples") for name, pool in pools.items()]
        for name, part in zip(pools, given, strict=True):
            checks.alike("oracles", given[-1], name, part)
            if len(part) < 2:
                raise ValueError(f"{name}: {len(part)} model, expected two or more")
        checks.alike("unlearned", given[0], "originals", given[1], 0)
        centred[split] = np.concatenate(given) - given[-1].mean(axis=0, keepdims=True)
    largest = max(float(unit(part)) for part in centred.values())
    grams = {split: (part / largest) @ (part / largest).T / part.shape[1] for split, part in centred.items()}
    counts = len(unlearned["forget"]), len(oracles["forget"])
    found, contributed = _sizes(grams, *counts)
    if not found["remembered"].low > 0:  # the share of what cannot be told from nothing has no meaning
        nothing = Interval(largest * _root(found["remembered"].value), -math.inf, math.inf)
        return Effects(UNKNOWN, UNKNOWN, dict.fromkeys(splits, UNKNOWN), nothing, {})
    roots = {name: Interval(*map(_root, interval)) for name, interval in found.items() if name != "memory"}
    remembered = Interval(*(largest * end for end in roots["remembered"]))
    of_part = {}
    for name, rows in parts.items():
        part = centred["forget"][:, rows] / largest
        of_rows, values = _sizes({"forget": part @ part.T / max(part.shape[1], 1)}, *counts)
        if of_rows["remembered"].low > 0:
            of_part[name], contributed[name] = of_rows["memory"], values["memory"]
    whole = {split: roots[split] for split in splits}
    return Effects(found["memory"], roots["whole"], whole, remembered, contributed, of_part)


def exchanged(originals: Margins, oracles: Margins) -> str:
    """What is wrong if retrained models know the forget set better than the originals, which were trained on it; else "".

    Then the two were exchanged, or the labels are others than those of training: an effect size would be one of something else.
    Of fewer than four models nothing is said.

    Args:
        originals: their margins on the forget set, `[models, examples]`.
        oracles: likewise, of models retrained without it.
    """
    of_models = [np.mean(part, axis=1) for part in (originals, oracles)]
    if min(map(len, of_models)) < ENOUGH or not max(map(np.ptp, of_models)) > 0:
        return ""
    if not ttest_ind(*of_models, equal_var=False, alternative="less").pvalue < CERTAIN:
        return ""
    before, without = (float(np.mean(part)) for part in of_models)
    return (
        f"the oracles know the forget set better than the originals do (mean margin {without:.2f} against {before:.2f}); "
        "expected models retrained without it, and the labels of training"
    )


def mean_effects(found: Sequence[Effects]) -> Effects:
    """The means of one method's effect sizes over forget sets: of the memory left, and of the squares of the damage.

    Sets on which nothing is known are left out. Intervals are those of `statistics.crossed_mean`; infinite if some originals
    are missing on some sets.

    Args:
        found: one for each forget set.
    """
    found = [each for each in found if each.parts] or list(found)[:1]
    first = found[0]
    if len(found) == 1:
        return first
    counts = {len(part) for each in found for part in each.parts.values()}

    def mean(name: str, values: list[float]) -> Interval:
        known = len(counts) == 1 and all(each.parts for each in found)
        parts = np.array([each.parts[name] for each in found]).T if known else np.full((1, 1), math.nan)
        value = float(np.mean(values))
        if not np.isfinite(parts).all():
            return Interval(value, -math.inf, math.inf)
        crossed = crossed_mean(parts)
        return Interval(value, value + crossed.low - crossed.mean, value + crossed.high - crossed.mean)

    def damage(name: str, intervals: list[Interval]) -> Interval:
        squares = [math.copysign(interval.value**2, interval.value) for interval in intervals]
        return Interval(*map(_root, mean(name, squares)))

    return Effects(
        mean("memory", [each.memory_left.value for each in found]),
        damage("whole", [each.damage for each in found]),
        {split: damage(split, [each.of_split[split] for each in found]) for split in first.of_split},
        Interval(float(np.mean([each.remembered.value for each in found])), -math.inf, math.inf),
        {},
        {
            name: mean(name, [each.of_part[name].value for each in found])
            for name in first.of_part
            if all(name in each.of_part for each in found)
        },
    )


def distances_left_out(found: Sequence[Effects]) -> Float[np.ndarray, " values"]:
    """The distance from retraining (`Effects.distance`) of means over forget sets, then with each original left out of all sets.

    Differences of two methods' arrays are paired by original; `distance_interval` makes intervals of either.

    Args:
        found: one for each forget set, with the same originals; sets on which nothing is known are left out.

    Raises:
        ValueError: nothing is known on any set.
    """
    known = [each for each in found if each.parts]
    if not known:
        raise ValueError("found: what the originals remember is too little to measure, on every forget set")

    def mean(name: str, values: list[float]) -> np.ndarray:
        parts, whole = np.array([each.parts[name] for each in known]), np.array(values)[:, None]
        count = parts.shape[1]
        return np.concatenate([whole, (count * whole - parts) / (count - 1)], axis=1).mean(axis=0)

    memory = mean("memory", [each.memory_left.value for each in known])
    squares = mean("whole", [math.copysign(each.damage.value**2, each.damage.value) for each in known])
    return np.maximum(np.abs(memory), np.sign(squares) * np.sqrt(np.abs(squares)))


def distance_interval(left_out: Float[np.ndarray, " values"]) -> Interval:
    """A value and its 95% interval over originals, by the jackknife, from `distances_left_out` or a difference of two of them."""
    value, others = float(left_out[0]), left_out[1:]
    if len(others) < 3 or not np.isfinite(left_out).all():
        return Interval(value, -math.inf, math.inf)
    reach = float(stdtrit(len(others) - 1, (1 + CONFIDENCE) / 2) * math.sqrt((len(others) - 1) * others.var()))
    return Interval(value, value - reach, value + reach)


def distance_p(left_out: Float[np.ndarray, " values"]) -> float:
    """The two-sided p-value of a difference of two `distances_left_out` being 0; of no spread, 1 for 0 and 0 for others."""
    value, others = float(left_out[0]), left_out[1:]
    error = math.sqrt((len(others) - 1) * others.var())
    if error <= NEGLIGIBLE:
        return float(abs(value) <= NEGLIGIBLE)
    return float(2 * stdtr(len(others) - 1, -abs(value) / error))


def outcome_of(inside: bool | None, found: Effects | None, lost: int = 0, margin: int | float = MARGIN) -> str | None:
    """The verdict in one of `OUTCOMES`; None if there is none (`verdict.is_inside`).

    Args:
        inside: whether the models are not distinguished from retrained ones at this sample size.
        found: their effect sizes, if the originals are known.
        lost: models that diverged.
        margin: see `Effects.within`.
    """
    if inside is None:
        return None
    if found and not lost and found.within(margin):
        return OUTCOMES[0]
    return OUTCOMES[1] if inside else OUTCOMES[2]


def _sizes(grams: Mapping[str, np.ndarray], members: int, retrained: int) -> tuple[dict[str, Interval], dict[str, np.ndarray]]:
    """The memory left, and the squares of all other sizes; and the pseudo-values of each pair.

    Args:
        grams: by split, the products of all models with each other: unlearned ones, originals, oracles.
        members: unlearned models; as many originals.
        retrained: oracles.
    """
    products = {split: _products(gram, members) for split, gram in grams.items()}
    both, remembered, _ = products["forget"]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = both / remembered
        squares = {
            split: (moved - 2 * share * both + share**2 * whole) / remembered for split, (both, whole, moved) in products.items()
        }
    values = {"memory": share, "whole": np.mean([*squares.values()], axis=0), "remembered": remembered, **squares}
    parts = {name: members * each[0] - (members - 1) * each[1 : 1 + members] for name, each in values.items()}
    return {name: _interval(each, members, retrained) for name, each in values.items()}, parts


def _products(gram: np.ndarray, members: int) -> list[np.ndarray]:
    """<m - o, g - o>, <g - o, g - o> and <m - o, m - o>, without the products of a model with itself or its original.

    Each is an array: of all models, then with each pair of an original and its unlearned model left out, then with each oracle.
    """
    m, g, o = (slice(0, members), slice(members, 2 * members), slice(2 * members, None))
    count = len(gram) - 2 * members

    def apart(block: np.ndarray, ahead: int, behind: int) -> np.ndarray:
        """The mean over pairs of different models; it stays as it is where models of another kind are left out."""
        diagonal, size = np.diag(block), len(block)
        total = block.sum() - diagonal.sum()
        less = total - block.sum(axis=0) - block.sum(axis=1) + 2 * diagonal
        whole = total / (size * (size - 1))
        left = less / max((size - 1) * (size - 2), 1)
        return np.concatenate([[whole], np.full(ahead, whole), left, np.full(behind, whole)])

    def across(block: np.ndarray) -> np.ndarray:
        """The mean over all pairs of a model with an oracle."""
        total, (rows, columns) = block.sum(), block.shape
        without_row = (total - block.sum(axis=1)) / ((rows - 1) * columns)
        without_column = (total - block.sum(axis=0)) / (rows * (columns - 1))
        return np.concatenate([[total / block.size], without_row, without_column])

    between = apart(gram[o, o], members, 0)
    return [apart(gram[a, b], 0, count) - across(gram[a, o]) - across(gram[b, o]) + between for a, b in ((m, g), (g, g), (m, m))]


def _interval(values: np.ndarray, members: int, retrained: int) -> Interval:
    """A value and its interval from the jackknife over both kinds of models, whose variances add up."""
    value, left_out = float(values[0]), np.split(values[1:], [members])
    if min(members, retrained) < 3:
        return Interval(value, -math.inf, math.inf)
    variance = sum((len(side) - 1) * side.var() for side in left_out)
    reach = float(stdtrit(min(members, retrained) - 1, (1 + CONFIDENCE) / 2) * math.sqrt(variance))
    return Interval(value, value - reach, value + reach)


def _root(square: float) -> float:
    return math.copysign(math.sqrt(abs(square)), square)
