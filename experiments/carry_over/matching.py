"""Forget sets of a wanted memorised mass: by how many more of their examples originals know than models without them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from unlearn_jax.data.splits import generator


class Match(NamedTuple):
    """The nearest mass that was reached.

    Attributes:
        memorised: rows of each set that are drawn from the most memorised ones.
        mass: of the sets, their mean.
        tried: every count that was tried, with its mass.
    """

    memorised: int
    mass: float
    tried: dict[int, float]


def mixed_sets(order: Int[np.ndarray, " rows"], count: int, size: int, sets: int, seed: int) -> Bool[np.ndarray, "sets rows"]:
    """Forget sets of which some rows are among the most memorised, and the rest are random others.

    Sets overlap: each draws anew. The memorised rows of a set are those of a smaller count and some more.

    Args:
        order: all rows, the most memorised first; the first `size` are the ones to draw from.
        count: rows of each set that are drawn from those, 0 to `size`.
        size: of each set, at most half of the rows.
        sets: how many.
        seed: draws the rows.
    """
    masks = np.zeros((sets, len(order)), bool)
    for index, mask in enumerate(masks):
        rng = generator("matched forget set", seed, index)
        memorised, others = rng.permutation(order[:size]), rng.permutation(order[size:])
        mask[memorised[:count]] = True
        mask[others[: size - count]] = True
    return masks


def match(measure: Callable[[int], float], target: float, *, first: int, most: int, tolerance: float, tries: int) -> Match:
    """Finds a count whose mass is near a target; the mass grows with the count, but for noise.

    Args:
        measure: the mass that a count gives; each call trains oracles.
        target: the wanted mass, above 0.
        first: the count to begin with.
        most: the largest count.
        tolerance: stops when the mass is within this share of the target.
        tries: calls of `measure`, at most.

    Returns:
        The count with the nearest mass, within the tolerance or not.
    """
    tried: dict[int, float] = {}
    count = min(max(first, 0), most)
    while count not in tried and len(tried) < tries:
        tried[count] = measure(count)
        if abs(tried[count] / target - 1) <= tolerance:
            break
        below = max((each for each, mass in tried.items() if mass < target), default=0)
        above = min((each for each, mass in tried.items() if mass >= target and each > below), default=most)
        low, high = tried.get(below, 0.0), tried.get(above, max(target, tried[count]) * above / max(count, 1))
        step = round((above - below) * (target - low) / (high - low)) if high > low else (above - below) // 2
        count = min(max(below + step, below + 1), max(above - (above in tried), below + 1), most)
    nearest = min(tried, key=lambda each: abs(tried[each] - target))
    return Match(nearest, tried[nearest], tried)
