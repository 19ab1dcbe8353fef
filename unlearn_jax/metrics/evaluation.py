"""All metrics of a pool of unlearned models, each against its null, and one joint verdict.

The metrics are those of the registry. There are two kinds of comparison, two kinds of null, and one set of splits of the oracles:

* *two-sample* metrics and *distances* compare n unlearned models with n oracles. The value is the mean over both halves of the
  first splits; the null is one half against the other, in the unit below.
* *per-model* metrics (also those given as `extra`, which need more than logits) are a mean over models. The null is
  centred at the oracles' mean.

**The unit.** z divides by the standard deviation of the value *as it is computed*, over fresh pools of n models and 2n oracles:

* Of a mean over n models with variance S² that is S²/n + S²/2n, three quarters of that of the difference between two halves.
* A distance is a mean over models too, and the null's centre is the mean of the oracles' own distances to the halves that they
  are not in: three quarters again, of these. To it comes what the halves themselves vary, taken from another split, since
  models and oracles are independent.
* A two-sample value is a mean over the halves of several splits, and varies less than one comparison. How much less is seen by
  dividing the oracles anew: n/2 of them play the unlearned models, n others their oracles, and their value is computed as
  usual. The share of its variance in that of one comparison is a property of the metric, and is carried over to n models.
* Draws from one pool never show what all of them share: a model that raises a score on whichever side it stands. That variance
  is estimated by leaving each oracle out, and added.
* Where the spread is known by construction (`Metric.least_sd`) it is at least that.

The unit comes from 2n models, so that z has the tails of Student's t; the band of the largest |z| is widened accordingly. What
came of all this on real pools: docs/findings/calibration.md.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr, stdtrit

from unlearn_jax.metrics import catalogue, checks
from unlearn_jax.metrics.null import Null, halves, joint, of_means, thirds
from unlearn_jax.metrics.registry import DISTANCE, PER_MODEL, TWO_SAMPLE, Name, in_order
from unlearn_jax.metrics.statistics import NEGLIGIBLE, bootstrap, crossed_mean, jackknifed
from unlearn_jax.metrics.verdict import Evaluation, Score
from unlearn_jax.metrics.views import Extra, In, Measured, Out, Pair, Seen, Views, on_threads, views_of
from unlearn_jax.types import Cube, Key, Labels

VALUE_SPLITS = 4  # splits whose two halves a two-sample value is averaged over
PARTITIONS = (
    0.4  # of the oracles in pseudo-unlearned models and their oracles, for each split: gives the unit of two-sample values
)
FEWEST_PARTITIONS = 4
LEFT_OUT = 2  # splits in which each oracle is left out once, for the same
OF_MEANS = 0.75  # variance of a mean over n models against 2n oracles, as a share of that of the difference of two halves
LARGE = 1 << 21  # probabilities of the oracles from which comparing on threads is faster (benchmarks/threads.py)
GROUPS = 8  # of originals: the jackknife leaves out one at a time, and comparisons over forget sets have one unit for each


class _Unit(NamedTuple):
    """What turns the variance of comparisons of n models with n into that of a value, see the module's docstring."""

    share: float  # of the variance, when what is hidden is added to it
    hidden: float  # variance between pools that draws from one pool never show


class Reference:
    """The oracles of one forget set, and the scores of retrained models against them, n against n. Made by `reference`.

    Attributes:
        n: number of models on each side.
        oracles: number of all oracles.
        draws: by metric and split, the score of each split of the oracles.
        nulls: by metric and split, the summary of the draws.
        band: the 95% quantile of the largest |z|, widened since the unit of z is estimated from so many oracles.
    """

    def __init__(
        self,
        oracles: Measured,
        measure: Callable[[Cube], Measured],
        n: int,
        splits: int,
        seed: int,
        units: Mapping[Name, "_Unit"] | None = None,
    ):
        self._oracles, self._measure, self._splits, self._seed = oracles, measure, splits, seed
        self._at = {n: self}
        self.n, self.oracles = n, len(oracles)
        key = jax.random.key(seed)
        self.halves = halves(key, len(oracles), n, splits)
        self.units = _units(oracles, n, key, self.halves) if units is None else units
        forth, back = zip(*_over(oracles, lambda split: _both_ways(oracles, split), self.halves), strict=True)
        self.draws: dict[Name, np.ndarray] = {}
        centres: dict[Name, float] = {}
        for metric, split in in_order(TWO_SAMPLE, DISTANCE):
            if (name := metric.on(split)) not in forth[0]:
                continue
            values = np.array([scores[name] for scores in forth])
            if metric.kind == DISTANCE:
                sides = np.stack([values, [scores[name] for scores in back]], axis=1)
                self.draws[name] = _of_distances(sides, self.halves, len(oracles))
            else:
                self.draws[name] = _scaled(values, self.units.get(name, _Unit(1.0, 0.0)), metric.least_sd)
        for name, values in oracles.per_model.items():
            draws, centres[name] = of_means(values, self.halves)
            self.draws[name] = centres[name] + np.sqrt(OF_MEANS) * (draws - centres[name])
        self.nulls, band = joint(self.draws, centres)
        self.band = _wider(band, len(oracles))

    def at(self, n: int) -> "Reference":
        """The same oracles with another number of models on each side, for methods some of whose members diverged.

        Raises:
            ValueError: if there are fewer than 2n oracles, or n is below 2.
        """
        if n not in self._at:
            self._at[n] = Reference(self._oracles, self._measure, n, self._splits, self._seed, self.units)
        return self._at[n]

    def among(self, members: Int[np.ndarray, " some"], n: int, extra: Extra | None = None) -> "Reference":
        """Some of the oracles, which are not measured again, with another number of models on each side.

        Args:
            members: numbers of oracles, 2n or more, all different.
            n: number of unlearned models to compare.
            extra: further per-model metrics of these oracles.

        Raises:
            ValueError: there are too few oracles, n is below 2, or `extra` has not a finite number for each.
        """
        return Reference(self._oracles.take(members).with_extra(extra), self._measure, n, self._splits, self._seed)

    def score(self, unlearned: Cube, groups: Int[np.ndarray, " members"] | None = None, extra: Extra | None = None) -> Evaluation:
        """See `score`; the number of members must be n."""
        if len(unlearned.forget) != self.n:
            raise ValueError(f"unlearned: {len(unlearned.forget)} members, expected {self.n}; see reference.at")
        measured = self._measured(unlearned, extra)
        names = self._oracles.per_model.keys(), measured.per_model.keys()
        if names[0] != names[1]:
            missing, unknown = (sorted(" ".join(name) for name in one - other) for one, other in itertools.permutations(names))
            problem = f"missing {', '.join(missing) or 'nothing'}, unknown {', '.join(unknown) or 'nothing'}"
            raise ValueError(f"extra: {problem}; expected the same per-model metrics as in the reference")
        if groups is None:
            groups = np.arange(self.n) * min(GROUPS, self.n) // self.n
        groups = checks.labels("groups", groups, self.n, GROUPS)
        present = np.unique(groups)
        scores = self._two_sample(measured, groups)
        for name, values in measured.per_model.items():
            parts = np.full(GROUPS, np.nan)
            parts[present] = [values[groups == group].mean() for group in present]
            scores.append(_score(name, self.nulls[name], *bootstrap(values, self._seed), parts, values))
        return _verdict(scores, self.band, self.n)

    def of_members(self, cube: Cube, extra: Extra | None = None) -> dict[Name, Float[np.ndarray, " members"]]:
        """Returns the metrics with a value for every member: per-model metrics, and distances to the oracles' mean.

        Raises:
            ValueError: see `score`.
        """
        measured = self._measured(cube, extra)
        return measured.per_model | _mean_distances([_compare(Pair(measured, half), DISTANCE) for half in self._opposite()])

    def _measured(self, cube: Cube, extra: Extra | None) -> Measured:
        measured = self._measure(cube).with_extra(extra)
        for split, p in self._oracles.probabilities.items():
            checks.alike(f"unlearned.{split}", measured.probabilities[split], "the reference", p)
        return measured

    def _opposite(self) -> list[Measured]:
        """The halves of the oracles that unlearned models are compared with."""
        return [self._oracles.take(half) for half in self.halves[:VALUE_SPLITS].reshape(-1, self.n)]

    def _two_sample(self, measured: Measured, groups: np.ndarray) -> list[Score]:
        opposite = self._opposite()
        compared = _over(self._oracles, lambda half: _compare(Pair(measured, half)), opposite)
        members = _mean_distances(compared)
        present = np.unique(groups) if self.n > 2 else groups[:0]

        def without_group(group: np.integer) -> list[dict[Name, float]]:
            rest = np.flatnonzero(groups != group)
            some = measured.take(rest)
            # The distance of a model is its own, whichever others there are.
            parts = [
                _compare(Pair(some, half), TWO_SAMPLE) | {name: whole[name][rest] for name in members}
                for half, whole in zip(opposite[:2], compared, strict=False)
            ]
            return [_means(part) for part in parts]

        values, left_out = [_means(found) for found in compared], _over(self._oracles, without_group, present)
        scores = []
        for name in values[0]:
            value = float(np.mean([against[name] for against in values]))
            without = np.array([np.mean([against[name] for against in part]) for part in left_out])
            # Leaving a group out biases the comparison, all groups equally: pseudo-values are centred at the value.
            parts = np.full(GROUPS, np.nan)
            parts[present] = value - (len(present) - 1) * (without - (without.mean() if len(present) else 0))
            interval = jackknifed(value, parts[present])
            scores.append(_score(name, self.nulls[name], value, *interval, parts, members.get(name, ())))
        return scores


def reference(
    oracles: Cube,
    labels: Labels,
    n: int,
    *,
    splits: int = 100,
    seed: int = 0,
    rows: int = 1_000,
    extra: Extra | None = None,
    views: Views | None = None,
) -> Reference:
    """Computes the nulls of all metrics, and the band of the largest |z| over them, from the same splits of the oracles.

    Args:
        oracles: logits of 2n or more models retrained without the forget set, each with its own key.
        labels: of the examples; on forget and retain, the training labels.
        n: number of unlearned models to compare.
        splits: number of random splits of the oracles.
        seed: draws the splits, the rows, and the samples of SVC-MIA.
        rows: most examples of a split that metrics other than accuracy use.
        extra: per-model metrics of the oracles that need more than logits, by metric and split.
        views: from `views_of` the same labels, seed and rows, if attacks on some pools have begun; see `Views.attacks_begun`.

    Returns:
        The reference that `score` takes.

    Raises:
        ValueError: if an oracle's logits are not finite, its splits have different oracles or classes, a label is no class, there
            are fewer than 2n oracles, n is below 2, or `views` are of other labels, another seed or other rows.
    """
    checks.cube("oracles", oracles, labels)
    expected = views_of(labels, seed, rows)
    views = views or expected
    same = [*map(np.array_equal, views.labels, labels), *map(np.array_equal, views.rows.values(), expected.rows.values())]
    if views.seed != seed or not all(same):
        raise ValueError("views: of other labels, another seed or other rows, expected those of the reference")
    if len(oracles.forget) < 2 * checks.count("n", n, 2):  # checked before the slow measurements
        raise ValueError(f"n: {n} models against {n} needs {2 * n} oracles or more, not {len(oracles.forget)}")

    def measure(cube: Cube) -> Measured:
        checks.cube("unlearned", cube, labels)
        return _measure(views(cube))

    return Reference(measure(oracles).with_extra(extra), measure, n, splits, seed)


def score(
    unlearned: Cube,
    reference: Reference,
    groups: Int[np.ndarray, " members"] | None = None,
    extra: Extra | None = None,
) -> Evaluation:
    """Scores unlearned models against the oracles, n against n, where n is the number of unlearned models.

    If n differs from that of the reference, as when members diverged, `reference.at(n)` is used (and kept).

    Intervals are over the unlearned members. For a per-model metric: percentile bootstrap of the mean. For a two-sample metric:
    jackknife over eight groups of members and Student's t (unbounded for two members), since a bootstrap repeats members, which
    moves every histogram away from the oracles'.

    The verdict uses `Score.evidence`, which is defined even if the null has no spread and z is None (for instance if all
    oracles are right on every retained example). With fewer than 8 members there is no verdict: `Evaluation.inside` is None.

    Args:
        unlearned: logits of the finite members.
        reference: from `reference`.
        groups: the group of originals of each member, counted from 0; by default eight equal groups in order.
        extra: the same metrics as the reference's `extra`, of the unlearned models.

    Returns:
        The scores and the joint verdict.

    Raises:
        ValueError: if a member's logits are not finite, the splits have different members, the classes differ from those of
            the reference, a label is no class, a group is not in 0..7, there are too few oracles, or `extra` has other metrics
            than the reference or not a finite number for each member.
    """
    if np.ndim(unlearned.forget) != 3:  # before the first axis is read as the number of members
        raise ValueError(f"unlearned.forget: shape {np.shape(unlearned.forget)}, expected [members, examples, classes]")
    return reference.at(len(unlearned.forget)).score(unlearned, groups, extra)


def pooled(evaluations: Sequence[Evaluation], references: Sequence[Reference]) -> Evaluation:
    """The mean scores of one method over several forget sets, and one verdict for all of them.

    The null is that of the mean. Since each set has its own oracles, its sd falls with the number of sets, so that smaller
    differences become visible. Intervals generalise to other originals and forget sets, see `statistics.crossed_mean`; a group
    of originals whose members all diverged on some set is left out of them.

    Args:
        evaluations: of the method, one for each forget set, with the same groups of originals.
        references: of the evaluations; `reference.at(n)` if members diverged.

    Returns:
        The scores and the joint verdict.

    Raises:
        ValueError: if there is not one reference for each evaluation, or the evaluations have different metrics.
    """
    if not evaluations or len(evaluations) != len(references):
        raise ValueError(
            f"references: {len(references)} for {len(evaluations)} evaluations; expected one for each, and at least one"
        )
    in_all = set.intersection(*({score.name for score in evaluation.scores} for evaluation in evaluations))
    each = [
        [score for score in evaluation.scores if not _may_lack(score.metric) or score.name in in_all]
        for evaluation in evaluations
    ]
    if len({tuple(score.name for score in scores) for scores in each}) > 1:
        raise ValueError("evaluations: different metrics, expected the same in all")
    names = [score.name for score in each[0]]
    draws = {name: np.mean([reference.draws[name] for reference in references], axis=0) for name in names}
    centres = {name: float(np.mean([reference.nulls[name].mean for reference in references])) for name in names}
    nulls, band = joint(draws, centres)
    band = _wider(band, sum(reference.oracles for reference in references))
    scores = []
    for name, *sets in zip(names, *each, strict=True):
        value = float(np.mean([score.value for score in sets]))
        parts = np.array([score.parts for score in sets]).T
        whole = parts[np.isfinite(parts).all(axis=1)]
        crossed = crossed_mean(whole) if len(whole) else None
        low, high = (crossed.low - crossed.mean, crossed.high - crossed.mean) if crossed else (-np.inf, np.inf)
        scores.append(_score(name, nulls[name], value, value + low, value + high, parts.mean(axis=1)))
    members = min(evaluation.members for evaluation in evaluations)
    lost = sum(evaluation.lost for evaluation in evaluations)
    return _verdict(scores, band, members)._replace(lost=lost)


def _may_lack(metric: str) -> bool:
    """Whether a metric may be absent on some forget sets: those that need originals are, where these remember nothing."""
    return metric in (catalogue.memory_of_models.name, catalogue.outlier_memory.name)


def _over(oracles: Measured, function: Callable[[In], Out], items: Iterable[In]) -> list[Out]:
    """Maps a function over items: on threads only where arrays are large, since else they wait for the interpreter's lock."""
    large = sum(p.size for p in oracles.probabilities.values()) >= LARGE
    return on_threads(function, items) if large else [*map(function, items)]


def _measure(seen: Seen) -> Measured:
    from_logits = [(metric, split) for metric, split in in_order(PER_MODEL) if metric.needs == ("logits",)]
    per_model = {metric.on(split): metric.measure(seen, split) for metric, split in from_logits}
    compared = dict.fromkeys(split for _, split in in_order(DISTANCE))
    return Measured(seen.margins, {split: seen.probabilities[split] for split in compared}, per_model)


def _compare(pair: Pair, *kinds: str) -> dict[Name, Any]:
    """Computes every metric that compares two pools, by default of both kinds: a number, or of a distance one for each model."""
    wanted = in_order(*(kinds or (TWO_SAMPLE, DISTANCE)))
    return {metric.on(split): metric.measure(pair, split) for metric, split in wanted if pair.serves(metric)}


def _both_ways(oracles: Measured, split: Int[np.ndarray, "2 n"]) -> tuple[dict[Name, Any], dict[Name, Any]]:
    """One half of the oracles against the other; and its distances the other way round."""
    one, other = (oracles.take(half) for half in split)
    return _compare(Pair(one, other)), _compare(Pair(other, one), DISTANCE)


def _means(compared: Mapping[Name, Any]) -> dict[Name, float]:
    """The scores of one pool against another: of a distance, the mean over models."""
    return {name: float(np.mean(found)) for name, found in compared.items()}


def _wider(band: float, oracles: int) -> float:
    """The band of scores whose unit is estimated from so many models: of Student's t in place of a normal number."""
    return float(-stdtrit(oracles - 1, ndtr(-band)))


def _units(oracles: Measured, n: int, key: Key, halves: Int[np.ndarray, "splits 2 n"]) -> dict[Name, _Unit]:
    """How the sd of each two-sample value follows from that of comparisons of one half with the other."""
    count = min(n, len(oracles) // 4)
    if min(count, n - 1) < 2:
        return {}
    partitions = max(round(PARTITIONS * len(halves)), FEWEST_PARTITIONS)
    sets = thirds(jax.random.fold_in(key, 1), len(oracles), count, partitions, VALUE_SPLITS)

    def compare(drawn: np.ndarray) -> list[dict[Name, float]]:
        unlearned, *opposite = (oracles.take(members) for members in drawn)
        return [_compare(Pair(unlearned, half), TWO_SAMPLE) for half in opposite]

    compared = _over(oracles, compare, sets)
    hidden = _hidden(oracles, halves[:LEFT_OUT])
    units = {}
    for name in compared[0][0]:
        values = np.array([[scores[name] for scores in halves] for halves in compared])
        whole, single = values.mean(axis=1).var(ddof=1), values.var(axis=0, ddof=1).mean()
        if single > (NEGLIGIBLE * np.abs(values).max()) ** 2:
            units[name] = _Unit(float((whole + hidden[name]) / (single + hidden[name])), hidden[name])
    return units


def _hidden(oracles: Measured, splits: Int[np.ndarray, "splits 2 n"]) -> dict[Name, float]:
    """The variance between pools that draws from one pool never show, of each two-sample comparison.

    Where a model raises the score by its presence, on either side, all draws of one pool share it: with the effects a and b of
    a model on the one and on the other side this variance is var(a + b) / oracles. An effect is a jackknife pseudo-value; its
    noise is of other splits in each estimate, so that the covariance of two estimates is without it.
    """

    def effects(split: np.ndarray) -> dict[Name, np.ndarray]:
        totals: dict[Name, np.ndarray] = {}
        for first, second in (split, split[::-1]):
            sides = oracles.take(first), oracles.take(second)
            whole = _compare(pair := Pair(*sides), TWO_SAMPLE)
            for side, members in enumerate((first, second)):
                for place, member in enumerate(members):
                    left = list(sides)
                    left[side] = oracles.take(np.delete(members, place))
                    # Forgetting quality, which takes longest, has no such part that could be seen.
                    without = _compare(Pair(left[0], left[1], pair.known_quality), TWO_SAMPLE)
                    for name, value in without.items():
                        totals.setdefault(name, np.zeros(len(oracles)))[member] += (len(members) - 1) * (whole[name] - value)
        return totals

    estimates = _over(oracles, effects, splits)
    drawn = np.intersect1d(*(split.ravel() for split in splits))
    found = {}
    for name in estimates[0]:
        covariance = np.cov(*(each[name][drawn] for each in estimates))[0, 1] if len(drawn) > 2 else 0.0
        found[name] = max(float(covariance), 0.0) / len(oracles)
    return found


def _scaled(values: Float[np.ndarray, " splits"], unit: _Unit, least: float) -> Float[np.ndarray, " splits"]:
    """Draws of one half against the other, with the spread of a value, which is at least `least`."""
    apart, variance = values - values.mean(), values.var(ddof=1)
    sd = max(np.sqrt(unit.share * (variance + unit.hidden)), least)
    return values.mean() + apart * (sd / np.sqrt(variance) if variance > 0 else 1.0)


def _of_distances(
    sides: Float[np.ndarray, "splits 2 n"], halves: Int[np.ndarray, "splits 2 n"], oracles: int
) -> Float[np.ndarray, " splits"]:
    """Draws of the null of a distance, a mean over models: see the module's docstring.

    Args:
        sides: of each split, the distance of each model of either half to the other half.
        halves: the models.
        oracles: number of them.
    """
    totals, counts = np.zeros(oracles), np.zeros(oracles)
    np.add.at(totals, halves, sides)
    np.add.at(counts, halves, 1)
    own = totals / np.maximum(counts, 1)
    first, second = own[halves].mean(axis=2).T
    rest = sides[:, 0].mean(axis=1) - first
    return sides.mean() + np.sqrt(OF_MEANS) * (first - second) + np.roll(rest - rest.mean(), 1)


def _mean_distances(compared: Sequence[Mapping[Name, Any]]) -> dict[Name, Float[np.ndarray, " members"]]:
    """The distances of each member, the mean over the halves of the oracles that it was compared with."""
    names = [metric.on(split) for metric, split in in_order(DISTANCE)]
    return {name: np.mean([found[name] for found in compared], axis=0) for name in names}


def _score(
    name: Name, null: Null, value: float, low: float, high: float, parts: Iterable[float], members: Iterable[float] = ()
) -> Score:
    z = (value - null.mean) / null.sd if null.sd > 0 else None
    return Score(*name, value, low, high, null, z, tuple(map(float, parts)), tuple(map(float, members)))


def _verdict(scores: list[Score], band: float, members: int) -> Evaluation:
    return Evaluation(scores, float(max(score.evidence for score in scores)), band, members)
