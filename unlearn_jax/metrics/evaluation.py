"""All metrics of a pool of unlearned models, each against its null, and one joint verdict.

The metrics are those of the registry. There are two kinds of comparison, two kinds of null, and one set of splits of the oracles:

* *two-sample* metrics and *distances* compare n unlearned models with n oracles. The value is the mean over both halves of the
  first splits; the null is one half against the other, widened as below.
* *per-model* metrics (also those given as `extra`, which need more than logits) are a mean over models. The null is
  centred at the oracles' mean and has the spread of the difference between the means of two halves.

The halves A and B of one pool understate how much a mean over models varies between pools: where D(A, B) is a mean over A,
such as a distance to the oracles' mean, its variance over splits of 2n oracles is S²/2n, while that of n new models about 2n
oracles is S²/n + S²/2n. The part of D that changes sign when A and B change places is therefore counted twice: the null is
`(D(A, B) + D(B, A)) / 2 + (D(A, B) - D(B, A))`, whose variance is 2S²/n, that of a difference of two means of n. In a
simulation (100 fresh pools of 24 against 50 pools of 48, Gaussian logits that share a scale within a model, 160 examples), 4% of
perfect pools fell outside the joint 95% band; without the widening 38% of 50 did, because of the distances. On real pools
see docs/findings/calibration.md, and `verdict.evidence` for its consequence.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np
from jaxtyping import Float, Int

from unlearn_jax.metrics import catalogue, checks
from unlearn_jax.metrics.null import Null, halves, joint, of_means
from unlearn_jax.metrics.registry import DISTANCE, PER_MODEL, TWO_SAMPLE, Name, in_order
from unlearn_jax.metrics.statistics import bootstrap, crossed_mean, jackknifed
from unlearn_jax.metrics.verdict import Evaluation, Score
from unlearn_jax.metrics.views import Extra, Measured, Pair, Seen, on_threads
from unlearn_jax.types import Cube, Labels

VALUE_SPLITS = 4  # splits whose two halves a two-sample value is averaged over
GROUPS = 8  # of originals: the jackknife leaves out one at a time, and comparisons over forget sets have one unit for each


class Reference:
    """The oracles of one forget set, and the scores of retrained models against them, n against n. Made by `reference`.

    Attributes:
        n: number of models on each side.
        draws: by metric and split, the score of each split of the oracles.
        nulls: by metric and split, the summary of the draws.
        band: the 95% quantile of the largest |z|.
    """

    def __init__(self, oracles: Measured, measure: Callable[[Cube], Measured], n: int, splits: int, seed: int):
        self._oracles, self._measure, self._splits, self._seed = oracles, measure, splits, seed
        self._at = {n: self}
        self.n = n
        self.halves = halves(jax.random.key(seed), len(oracles), n, splits)
        both = [oracles.take(half) for half in self.halves.reshape(-1, n)]
        forth = on_threads(lambda first: _compare(Pair(both[first], both[first + 1])), range(0, len(both), 2))
        # Forgetting quality takes longest; it is the same both ways unless medians or ranges tie.
        quality = [scores[catalogue.forgetting_quality.on("forget")] for scores in forth]
        back = on_threads(lambda first: _compare(Pair(both[first + 1], both[first], quality[first // 2])), range(0, len(both), 2))
        # Halves of one pool are too similar: widened here, see the module's docstring.
        widened = [{name: 1.5 * a[name] - 0.5 * b[name] for name in a} for a, b in zip(forth, back, strict=True)]
        self.draws = {name: np.array([scores[name] for scores in widened]) for name in forth[0]}
        centres: dict[Name, float] = {}
        for name, values in oracles.per_model.items():
            self.draws[name], centres[name] = of_means(values, self.halves)
        self.nulls, self.band = joint(self.draws, centres)

    def at(self, n: int) -> "Reference":
        """The same oracles with another number of models on each side, for methods some of whose members diverged.

        Raises:
            ValueError: if there are fewer than 2n oracles, or n is below 2.
        """
        if n not in self._at:
            self._at[n] = Reference(self._oracles, self._measure, n, self._splits, self._seed)
        return self._at[n]

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
        return measured.per_model | _mean_distances([Pair(measured, half) for half in self._opposite()])

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
        pairs = [Pair(measured, half) for half in opposite]
        values, members = on_threads(_compare, pairs), _mean_distances(pairs)
        present = np.unique(groups) if self.n > 2 else groups[:0]
        left_out = on_threads(
            lambda group: [_compare(Pair(measured.take(np.flatnonzero(groups != group)), half)) for half in opposite[:2]], present
        )
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
    oracles: Cube, labels: Labels, n: int, *, splits: int = 100, seed: int = 0, rows: int = 1_000, extra: Extra | None = None
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

    Returns:
        The reference that `score` takes.

    Raises:
        ValueError: if an oracle's logits are not finite, its splits have different oracles or classes, a label is no class, there
            are fewer than 2n oracles, or n is below 2.
    """
    checks.cube("oracles", oracles, labels)
    checks.count("rows", rows, 1)
    if len(oracles.forget) < 2 * checks.count("n", n, 2):  # checked before the slow measurements
        raise ValueError(f"n: {n} models against {n} needs {2 * n} oracles or more, not {len(oracles.forget)}")
    rng = checks.generator(seed)
    seen = {split: rng.permutation(len(of_split))[:rows] for split, of_split in labels._asdict().items()}

    def measure(cube: Cube) -> Measured:
        checks.cube("unlearned", cube, labels)
        return _measure(Seen(cube, labels, seen, seed))

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
    if len({tuple(score.name for score in evaluation.scores) for evaluation in evaluations}) > 1:
        raise ValueError("evaluations: different metrics, expected the same in all")
    names = [score.name for score in evaluations[0].scores]
    draws = {name: np.mean([reference.draws[name] for reference in references], axis=0) for name in names}
    centres = {name: float(np.mean([reference.nulls[name].mean for reference in references])) for name in names}
    nulls, band = joint(draws, centres)
    scores = []
    for name, *sets in zip(names, *(evaluation.scores for evaluation in evaluations), strict=True):
        value = float(np.mean([score.value for score in sets]))
        parts = np.array([score.parts for score in sets]).T
        whole = parts[np.isfinite(parts).all(axis=1)]
        crossed = crossed_mean(whole) if len(whole) else None
        low, high = (crossed.low - crossed.mean, crossed.high - crossed.mean) if crossed else (-np.inf, np.inf)
        scores.append(_score(name, nulls[name], value, value + low, value + high, parts.mean(axis=1)))
    members = min(evaluation.members for evaluation in evaluations)
    lost = sum(evaluation.lost for evaluation in evaluations)
    return _verdict(scores, band, members)._replace(lost=lost)


def _measure(seen: Seen) -> Measured:
    from_logits = [(metric, split) for metric, split in in_order(PER_MODEL) if metric.needs == ("logits",)]
    per_model = {metric.on(split): metric.measure(seen, split) for metric, split in from_logits}
    compared = dict.fromkeys(split for _, split in in_order(DISTANCE))
    return Measured(seen.margins, {split: seen.probabilities[split] for split in compared}, per_model)


def _compare(pair: Pair) -> dict[Name, float]:
    """Computes every metric that compares two pools."""
    return {metric.on(split): float(np.mean(metric.measure(pair, split))) for metric, split in in_order(TWO_SAMPLE, DISTANCE)}


def _mean_distances(pairs: Sequence[Pair]) -> dict[Name, Float[np.ndarray, " members"]]:
    """Computes the distances of each member, the mean over the halves of the oracles."""
    return {
        metric.on(split): np.mean([metric.measure(pair, split) for pair in pairs], axis=0) for metric, split in in_order(DISTANCE)
    }


def _score(
    name: Name, null: Null, value: float, low: float, high: float, parts: Iterable[float], members: Iterable[float] = ()
) -> Score:
    z = (value - null.mean) / null.sd if null.sd > 0 else None
    return Score(*name, value, low, high, null, z, tuple(map(float, parts)), tuple(map(float, members)))


def _verdict(scores: list[Score], band: float, members: int) -> Evaluation:
    return Evaluation(scores, float(max(score.evidence for score in scores)), band, members)
