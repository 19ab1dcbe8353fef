"""Random choices over labelled rows: stratified samples and wrong labels."""

import zlib

import numpy as np
from jaxtyping import Int

from unlearn_jax.types import UsageError


def generator(purpose: str, seed: int = 0, index: int = 0) -> np.random.Generator:
    """A random generator that differs by what it is for, so that for instance label noise and forget sets are independent.

    Raises:
        UsageError: the seed is negative.
    """
    if seed < 0:
        raise UsageError("--seed", seed, "a whole number from 0 on is needed")
    return np.random.default_rng([zlib.crc32(purpose.encode()), seed, index])


def stratified_order(labels: Int[np.ndarray, " rows"], rng: np.random.Generator) -> Int[np.ndarray, " rows"]:
    """Shuffles the rows so that every prefix holds the classes in their proportions.

    The k-th row drawn of a class of n rows (k from 0) stands at (k + 1/2) / n, and rows follow in the order of where they
    stand, ties at random: a prefix is then Webster's (Sainte-Laguë's) apportionment of its length to the classes, and a
    smaller sample lies inside every larger one of the same `rng`.

    Args:
        labels: the class of each row.
        rng: the source of randomness.

    Returns:
        A permutation of the row numbers.
    """
    shuffled = rng.permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = shuffled[labels[shuffled] == label]
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return shuffled[np.argsort(place[shuffled], kind="stable")]


def mislabel(labels: Int[np.ndarray, " rows"], share: float, classes: int, rng: np.random.Generator) -> Int[np.ndarray, " rows"]:
    """Gives a share of the rows a wrong label, uniform over the other classes (symmetric label noise).

    Args:
        labels: the true labels.
        share: of the rows, in [0, 1]; the count is rounded to the nearest whole number.
        classes: how many there are, at least 2.
        rng: the source of randomness.

    Returns:
        The labels, wrong on exactly that many rows.
    """
    wrong = rng.permutation(len(labels))[: round(share * len(labels))]
    noisy = labels.copy()
    noisy[wrong] = (labels[wrong] + rng.integers(1, classes, len(wrong))) % classes
    return noisy
