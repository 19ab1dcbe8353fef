"""Forgetting quality: how well threshold rules distinguish unlearned models from retrained ones, example by example.

The definition sweeps some 160,000 thresholds for each example. But ε depends only on how many models of each side a threshold
misclassifies, that is, on the *gap* between neighbouring samples that it falls into. With N samples there are N + 1 gaps, so the
sweep becomes a table look-up for all gaps (single thresholds) or pairs of gaps (double thresholds) that contain a threshold.
"""

import functools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from unlearn_jax.metrics import checks

CAP = 50.0  # the largest ε
PEAKY = 0.01  # below this ratio of ranges ε is CAP
DENSITY = 100  # single thresholds per unit of φ
BUFFER = 2.0  # double thresholds extend this far beyond the samples
EDGES = 400  # number of right edges, and of left edges for each
BIN = 0.5  # width of a bin of ε
CACHED = 2**15  # numbers that are worked on at a time, so that they stay in a core's cache
TABLE = 2**21  # entries of the table of ε; with more models its entries are computed when they are looked up
BLOCK = 2**19  # pairs of gaps that one thread holds at a time

Number = float | np.ndarray


class ForgettingQuality(NamedTuple):
    """The score (higher is better), and the ε of each example."""

    score: float
    epsilon: Float[np.ndarray, " examples"]


def forgetting_quality(
    unlearned: Float[Any, "models examples"], retrained: Float[Any, "retrained examples"], delta: float = 1e-5
) -> ForgettingQuality:
    """The forgetting score of the NeurIPS 2023 unlearning competition.

    For each example, a rule that calls models "positive" with rates FPR and FNR certifies
    `ε = max(log(1 - δ - FPR) - log FNR, log(1 - δ - FNR) - log FPR)`, not below 0: infinite if both rates are zero, and
    no bound if only one is. The example's ε is the largest over these rules, cut at 50:

    * *single thresholds*: `φ ≥ t`, positive being the side with the larger median (if equal the unlearned), t at
      ceil(100 range) points spread evenly over the pooled range;
    * *double thresholds*: `left ≤ φ ≤ right`, positive being the narrower side, of width w (if equal the one with the
      smaller median); 400 right edges from max - 2 to max + 2 of that side, for each 400 left edges from right - w - 2
      to right - w + 2.

    It is 50 outright where the smaller range is less than a hundredth of the larger. An ε in `[b/2, b/2 + 1/2)` then earns
    `2^-b`, but nothing from `ceil(ln(models - 1))` on, models being the smaller of the two numbers; the score is the mean.

    The maximum over so many rules is biased upwards: two samples of one distribution score about 0.2, not 1, so never read a
    score without its null. The ε equal those of a literal sweep to the last bit (checked by the tests).

    Args:
        unlearned: φ (`scaled_logits`) of the unlearned models.
        retrained: φ of the retrained models.
        delta: the δ of (ε, δ)-unlearning.

    Returns:
        The score in 0..1, and ε in nats.

    Raises:
        ValueError: if a member's values are not finite, the two sides have different examples, one has fewer than two models, or
            delta is not in 0..1.

    Source: Triantafillou et al., "Are we making progress in unlearning?", arXiv:2406.09073.
    """
    checks.numbers("delta", delta, low=0, high=1)
    sides = {"unlearned": unlearned, "retrained": retrained}
    unlearned, retrained = (checks.numbers(name, side, "members examples") for name, side in sides.items())
    checks.alike("unlearned", unlearned, "retrained", retrained)
    unlearned, retrained = unlearned.T, retrained.T
    (examples, n), m = unlearned.shape, retrained.shape[1]
    if min(n, m) < 2:
        raise ValueError(f"unlearned, retrained: {n} and {m} models, expected two or more on each side")
    table: Table = _epsilon_of_counts(n, m, delta) if (n + 1) * (m + 1) <= TABLE else _Counts(n, m, delta)
    samples = n + m
    step = max(1, BLOCK // (min(samples, EDGES) * min(samples, 2 * EDGES)))
    blocks = [(unlearned[start : start + step], retrained[start : start + step], table) for start in range(0, examples, step)]
    if len(blocks) == 1:
        epsilon = _epsilon(*blocks[0])
    else:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            epsilon = np.concatenate(list(threads.map(lambda block: _epsilon(*block), blocks)))
    bins = math.floor(math.ceil(math.log(min(n, m) - 1)) / BIN)
    bin_of = np.floor(epsilon / BIN)
    return ForgettingQuality(float(np.where(bin_of < bins, 0.5**bin_of, 0).mean()), epsilon)


@functools.lru_cache(maxsize=8)
def _epsilon_of_counts(n: int, m: int, delta: float) -> Float[np.ndarray, " counts"]:
    """ε by the numbers of models that a rule gets wrong, flattened from [unlearned, retrained] (ε is symmetric in them)."""
    return _Counts(n, m, delta).at(np.arange(n + 1)[:, None], np.arange(m + 1)).ravel()


class _Counts:
    """The table of `_epsilon_of_counts`, to the last bit, whose memory does not grow with the product of n and m."""

    def __init__(self, n: int, m: int, delta: float):
        self.rates = np.arange(n + 1) / n, np.arange(m + 1) / m
        with np.errstate(divide="ignore", invalid="ignore"):  # at a rate of 1 the logarithm is NaN: no bound
            self.logs = [(np.log(1 - delta - rate), np.log(rate)) for rate in self.rates]

    def __len__(self) -> int:
        return len(self.rates[0]) * len(self.rates[1])

    def take(self, index: np.ndarray) -> np.ndarray:
        return self.at(*np.divmod(index, len(self.rates[1])))

    def at(self, of_unlearned: np.ndarray, of_retrained: np.ndarray) -> np.ndarray:
        """ε where a rule gets so many models of each side wrong."""
        (not_u, log_u), (not_r, log_r) = (
            [log[wrong] for log in logs] for logs, wrong in zip(self.logs, (of_unlearned, of_retrained), strict=True)
        )
        with np.errstate(invalid="ignore"):
            epsilon = np.fmax(not_u - log_r, not_r - log_u)
        u, r = self.rates[0][of_unlearned], self.rates[1][of_retrained]
        epsilon = np.where((u == 0) | (r == 0), 0, np.clip(np.nan_to_num(epsilon, nan=0), 0, CAP))
        return np.where((u == 0) & (r == 0), CAP, epsilon)


Table = np.ndarray | _Counts


def _epsilon(unlearned: np.ndarray, retrained: np.ndarray, table: Table) -> Float[np.ndarray, " examples"]:
    """ε of a block of examples; inputs are [examples, models]."""
    n, m = unlearned.shape[1], retrained.shape[1]
    pooled = np.concatenate([unlearned, retrained], 1)
    order = pooled.argsort(1)
    samples = np.take_along_axis(pooled, order, 1)
    # Gap g lies after the first g samples, `below` of which are unlearned.
    below = _pad((order < n).cumsum(1), 0)
    gaps = np.arange(n + m + 1)

    larger = np.median(unlearned, 1) >= np.median(retrained, 1)
    width, other = np.ptp(unlearned, 1), np.ptp(retrained, 1)
    narrower = np.where(width == other, ~larger, width < other)
    top = np.where(narrower, unlearned.max(1), retrained.max(1))
    narrow, wide = np.minimum(width, other), np.maximum(width, other)

    # Moving one sample from above a threshold to below changes the flat index of the table by -1 or by m + 1.
    rank = (m + 1) * below - (gaps - below)
    single = np.where(larger[:, None], rank + m, n * (m + 1) - rank)
    sign = np.where(narrower, -1, 1)[:, None]
    right_of = sign * rank + np.where(narrower, n * (m + 1), m)[:, None]
    epsilon = np.maximum(
        _single_thresholds(samples, single, table), _double_thresholds(samples, right_of, sign * rank, top, narrow, table)
    )
    peaky = np.divide(narrow, wide, out=np.ones_like(wide), where=wide > 0) < PEAKY
    return np.where(peaky, CAP, epsilon)


def _single_thresholds(samples: np.ndarray, index: np.ndarray, table: Table) -> np.ndarray:
    """The largest ε over the gaps between samples that contain a threshold; in the outer two gaps one rate is zero."""
    low, high = samples[:, :1], samples[:, -1:]
    not_above = _grid_count(samples, low, high, np.ceil(DENSITY * (high - low)), closed=True)
    held = np.diff(not_above, axis=1) > 0
    return np.where(held, table.take(index[:, 1:-1]), 0).max(1)


def _double_thresholds(
    samples: np.ndarray, right_of: np.ndarray, left_of: np.ndarray, top: np.ndarray, width: np.ndarray, table: Table
) -> np.ndarray:
    """The largest ε over the pairs of gaps that contain a left and a right edge.

    Right edge i with its left edge j leaves the flat index `right_of[gap of right] - left_of[gap of left]`. Left edge (i, j)
    is `top - 2 + 4 i / 399 - width - 2 + 4 j / 399`: except for rounding it depends only on s = i + j. So a gap contains the
    right edges of an interval of i and the left edges of an interval of s. The few s whose edges are so close to a sample that
    rounding decides (always s = 399, whose left edge is the smallest sample of the narrower side) are excluded and swept
    literally.
    """
    last = EDGES - 1
    right = _grid_count(samples, top[:, None] - BUFFER, top[:, None] + BUFFER, EDGES, closed=False).astype(np.int16)
    first_i, last_i = _pad(right, 0), _pad(right, EDGES, after=True) - 1

    least, pace = (top - width - 2 * BUFFER)[:, None], 2 * BUFFER / last
    near = 64 * np.finfo(np.float64).eps * (np.abs(top) + width + 4 * BUFFER)[:, None]
    surely_below = np.clip(np.ceil((samples - near - least) / pace), 0, 2 * last + 1).astype(np.int16)
    not_surely_above = np.clip(np.floor((samples + near - least) / pace) + 1, 0, 2 * last + 1).astype(np.int16)
    first_s, last_s = _pad(not_surely_above, 0), _pad(surely_below, 2 * last + 1, after=True) - 1

    rights, first_i, last_i, right_index = _nonempty_gaps(first_i, last_i, right_of)
    lefts, first_s, last_s, left_index = _nonempty_gaps(first_s, last_s, left_of)
    nothing = len(table) - 1  # the entry of a rule that gets all models wrong, which is 0
    small: Any = np.int16 if 2 * len(table) < 2**15 else np.int64  # small integers take a fraction of the time
    rights, lefts, left_index = (values.astype(small) for values in (rights, lefts, left_index))
    short_of, last_s_of = (nothing - right_index).astype(small), last_i + np.int16(last)
    epsilon = np.empty(len(samples))
    step = max(1, CACHED // (rights.shape[1] * lefts.shape[1]))
    for start in range(0, len(samples), step):
        some = slice(start, start + step)
        met = lefts[some, None] < rights[some, :, None]
        met &= last_s[some, None] >= first_i[some, :, None]
        met &= first_s[some, None] <= last_s_of[some, :, None]
        index = short_of[some][..., None] + left_index[some, None]
        index *= met
        epsilon[some] = table.take(np.subtract(nothing, index, out=index)).max((1, 2))

    close = not_surely_above > surely_below
    begin, number = surely_below[close], not_surely_above[close] - surely_below[close]
    within = np.arange(number.sum()) - np.repeat(number.cumsum() - number, number)
    doubtful = np.unique(np.repeat(2 * EDGES * np.nonzero(close)[0] + begin, number) + within)
    i = np.arange(EDGES)
    not_above = np.bincount((np.arange(len(right))[:, None] * (EDGES + 1) + right).ravel(), minlength=len(right) * (EDGES + 1))
    after_edge = not_above.reshape(len(right), EDGES + 1).cumsum(1)
    for part in np.array_split(doubtful, -(-len(doubtful) * EDGES // CACHED)):
        e, s = np.divmod(part[:, None], 2 * EDGES)
        of_row = e * right_of.shape[1]
        valid = (i <= s) & (s - i <= last)
        edge = _grid(i, top[e] - BUFFER, top[e] + BUFFER, EDGES)
        left = _grid(s - i, edge - width[e] - BUFFER, edge - width[e] + BUFFER, EDGES)
        after, before = after_edge[e[:, 0], :EDGES], _count_below(samples[e[:, 0]], left, valid)
        met = valid & (before < after)
        index = np.where(met, right_of.take(of_row + after) - left_of.take(of_row + before), nothing)
        np.maximum.at(epsilon, e[:, 0], table.take(index).max(1))
    return epsilon


def _count_below(samples: np.ndarray, points: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """How many samples of a row are below each valid point of the row. Fast, because the points are close together."""
    below_all = (samples < np.where(valid, points, np.inf).min(1)[:, None]).sum(1)
    below_some = (samples < np.where(valid, points, -np.inf).max(1)[:, None]).sum(1)
    count = np.repeat(below_all[:, None], points.shape[1], axis=1)
    for further in range(int((below_some - below_all).max())):
        rank = below_all + further
        sample = np.take_along_axis(samples, np.minimum(rank, samples.shape[1] - 1)[:, None], axis=1)
        count += (rank < below_some)[:, None] & (sample < points)
    return count


def _grid(k: np.ndarray, start: Number, stop: Number, number: int | np.ndarray) -> np.ndarray:
    """Point k of `np.linspace(start, stop, number)`, to the last bit."""
    step = (stop - start) / np.maximum(number - 1, 1)
    points = k * step
    points += start
    np.copyto(points, stop, where=(k == number - 1) & (k > 0))
    return points


def _grid_count(samples: np.ndarray, start: np.ndarray, stop: np.ndarray, number: int | np.ndarray, closed: bool) -> np.ndarray:
    """How many points of `np.linspace(start, stop, number)` are below each sample, or equal to it if `closed`."""
    step = (stop - start) / np.maximum(number - 1, 1)
    guess = np.floor(np.divide(samples - start, step, out=np.zeros_like(samples), where=step > 0))
    count = np.zeros_like(samples)
    for k in (guess - 1, guess, guess + 1):  # the quotient is rounded, so compare with the points themselves
        k = np.clip(k, 0, number - 1)
        point = _grid(k, start, stop, number)
        count = np.where((point <= samples) if closed else (point < samples), k + 1, count)
    return np.minimum(count, number)


def _pad(counts: np.ndarray, value: int, after: bool = False) -> np.ndarray:
    """Counts with one more column of a value, before the others or after them."""
    column = np.full((len(counts), 1), value, counts.dtype)
    return np.concatenate([counts, column] if after else [column, counts], axis=1)


def _nonempty_gaps(first: np.ndarray, last: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, ...]:
    """The gaps that contain an edge, with their intervals and indices; rows are padded with gaps whose interval ends at -1000."""
    empty = last < first
    gaps = np.argsort(empty, axis=1, kind="stable")[:, : max(1, (~empty).sum(1).max())]
    places = gaps + np.arange(len(gaps))[:, None] * empty.shape[1]
    first, last, index = (values.take(places) for values in (first, np.where(empty, -1000, last), index))
    return gaps, first, last, index
