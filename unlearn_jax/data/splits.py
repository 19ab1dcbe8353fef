"""Random choices over rows: stratified samples, wrong labels, halves."""

import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from unlearn_jax.errors import ArgumentError

TRADES = 20  # rounds of `random_halves`, in which each member trades once


class Published(NamedTuple):
    """The numbers of a data set's rows in its published training set, from 0.

    Files and tables use these numbers, whatever the sample.
    """

    total: int  # rows of the published training set
    train: Int[np.ndarray, " train"]  # the number of each training row, ascending
    held_out: Int[np.ndarray, " held_out"]  # and of each held-out row; all others are not in the sample


def generator(purpose: str, seed: int = 0, index: int = 0) -> np.random.Generator:
    """A random generator for one purpose: those for other purposes, such as label noise and forget sets, are independent.

    Raises:
        ArgumentError: the seed is negative.
    """
    if seed < 0:
        raise ArgumentError("seed", seed, "a whole number from 0 on is needed")
    return np.random.default_rng([zlib.crc32(purpose.encode()), seed, index])


def sample(rows: Int[np.ndarray, " rows"] | int, most: int, rng: np.random.Generator) -> Int[np.ndarray, " sample"]:
    """At most `most` of some rows (or of the numbers below `rows`), drawn at random, ascending."""
    return np.sort(rng.permutation(rows)[:most])


def stratified_order(labels: Int[np.ndarray, " rows"], rng: np.random.Generator) -> Int[np.ndarray, " rows"]:
    """Shuffles the rows so that every prefix holds the classes in their proportions.

    The k-th row drawn of a class of n rows (k from 0) gets the place (k + 1/2) / n, and rows are sorted by their places, ties at
    random: a prefix is then Webster's (Sainte-Laguë's) apportionment of its length to the classes, and a smaller sample is part
    of every larger one of the same `rng`.

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


def training_sample(
    labels: Int[np.ndarray, " rows"], size: int, classes: int, name: str, seed: int
) -> Int[np.ndarray, " sample"]:
    """The positions of a stratified sample of training rows; a smaller one is part of every larger one.

    Args:
        labels: of the rows that can be trained on.
        size: of the sample.
        classes: number of classes.
        name: of the data set, for the message.
        seed: draws the sample.

    Raises:
        ArgumentError: fewer rows than classes, or more than there are.
    """
    if not classes <= size <= len(labels):
        raise ArgumentError("train_size", size, f"{classes} to {len(labels)} rows of {name} can be trained on")
    return stratified_order(labels, generator("train size", seed))[:size]


def mislabel(labels: Int[np.ndarray, " rows"], share: float, classes: int, rng: np.random.Generator) -> Int[np.ndarray, " rows"]:
    """Gives a share of the rows a wrong label, uniform over the other classes (symmetric label noise).

    Args:
        labels: the true labels.
        share: of the rows, in [0, 1]; the count is rounded to the nearest whole number.
        classes: number of classes, at least 2.
        rng: the source of randomness.

    Returns:
        The labels, wrong on exactly that many rows.
    """
    wrong = rng.permutation(len(labels))[: round(share * len(labels))]
    noisy = labels.copy()
    noisy[wrong] = (labels[wrong] + rng.integers(1, classes, len(wrong))) % classes
    return noisy


def random_halves(rows: int, members: int, rng: np.random.Generator) -> Bool[np.ndarray, "members rows"]:
    """A random half of the rows for each member, such that each row is in half of the members.

    Members begin as random halves and their complements and then trade rows (the Curveball algorithm): in each round they meet in
    random pairs, and the rows that only one of the two holds are divided anew at random. In the limit all matrices with such
    margins are equally likely. Complements alone would not do: the outputs of models trained on complementary halves are
    negatively correlated.

    Args:
        rows: number of rows; if odd, each initial pair of members leaves one out.
        members: number of members, even.
        rng: the source of randomness.

    Returns:
        The rows of each member: `rows // 2` of them.

    Source: Strona et al., "A fast and unbiased procedure to randomize ecological binary matrices with fixed row and column
        totals", Nature Communications 5:4114, 2014.
    """
    held = np.zeros((members, rows), bool)
    for first in range(0, members, 2):
        order = rng.permutation(rows)
        held[first, order[: rows // 2]] = True
        held[first + 1, order[rows // 2 : 2 * (rows // 2)]] = True
    for _ in range(TRADES):
        for pair in rng.permutation(members).reshape(-1, 2):
            traded = np.flatnonzero(held[pair[0]] != held[pair[1]])
            held[pair[0], traded] = rng.permutation(held[pair[0], traded])
            held[pair[1], traded] = ~held[pair[0], traded]
    return held
