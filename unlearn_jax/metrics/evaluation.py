"""All metrics of a pool of unlearned models, each against its null, and one joint verdict.

Two kinds of metric, two kinds of null, one set of splits of the oracles:

* *two-sample* (KLOM, forgetting quality, distances, tug of war, average gap) compare n unlearned models with n oracles. The
  value is the mean over both halves of the first splits; the null is one half against the other, widened as below.
* *per-model* (accuracies, SVC-MIA, logistic MIA, and what is handed over as `extra` because it needs more than logits) are a
  mean over models. The null is centred at the oracles' mean and has the spread of the difference between the means of two halves.

`svc_mia` is the confidence attack, which is also the one inside `average_gap`; the others are `svc_mia_<feature>`.

The halves A and B of one pool understate how much a mean over models varies between pools: where D(A, B) is a mean over A,
such as a distance to the oracles' mean, its variance over splits of 2n oracles is S²/2n, while that of n new models about 2n
oracles is S²/n + S²/2n. The part of D that changes sign when A and B change places is therefore counted twice: the null is
`(D(A, B) + D(B, A)) / 2 + (D(A, B) - D(B, A))`, whose variance is 2S²/n, that of a difference of two means of n. In a
simulation (100 fresh pools of 24 against 50 pools of 48, Gaussian logits that share a scale within a model, 160 examples), 4% of
perfect pools fell outside the joint 95% band; without the widening 38% of 50 did, because of the distances. On real pools
see docs/findings/calibration.md, and `Score.evidence` for what it taught.

To bound the cost, all but the accuracies see at most `rows` examples of a split, drawn once by the seed (the same for value and
null); of these forgetting quality sees at most 500, and SVC-MIA trains on at most 500 a side.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Float, Int

from unlearn_jax.metrics import checks
from unlearn_jax.metrics.accuracy import accuracy, average_gap, competition_score, tow, tow_mia
from unlearn_jax.metrics.attacks import logistic_mia, svc_mia
from unlearn_jax.metrics.distances import activation_distance, js_divergence, kl_to_oracle
from unlearn_jax.metrics.forgetting_quality import forgetting_quality
from unlearn_jax.metrics.klom import klom
from unlearn_jax.metrics.null import Null, halves, joint, of_means
from unlearn_jax.metrics.scores import probabilities, scaled_logits
from unlearn_jax.metrics.statistics import NEGLIGIBLE, bootstrap, crossed_mean, jackknifed
from unlearn_jax.types import Cube, Labels

Name = tuple[str, str]  # metric, split
Extra = Mapping[Name, Float[Any, " members"]]  # metrics per model that need more than logits
In = TypeVar("In")
Out = TypeVar("Out")
SPLITS = Cube._fields
FEWEST_JUDGED = 8  # models that a verdict takes: with fewer, its band is a quantile of very few, very alike halves
VALUE_SPLITS = 4  # splits whose two halves a two-sample value is averaged over
WIDTH = 3.92  # of a 95% interval, in standard errors
GROUPS = 8  # of originals: each in turn is left out by the jackknife, and is one unit of what is said over forget sets
QUALITY_ROWS = 500  # that forgetting quality sees
SVC_ROWS = 500  # a side, that SVC-MIA trains on


def of_an_attack(metric: str) -> bool:
    """Whether a metric is a membership attack on single models, or made of one: such flip on some models as a whole."""
    return "mia" in metric or metric == "average_gap"


class Score(NamedTuple):
    """One metric of a pool of unlearned models.

    Attributes:
        metric: as in the column of results.csv.
        split: forget, retain, test, or all.
        value: percent for accuracies and the average gap, 0..1 for SVC-MIA, otherwise as the metric's function says.
        low: lower end of a 95% interval over the unlearned members.
        high: upper end.
        null: what retrained models score.
        z: (value - null.mean) / null.sd; None where the null's sd is 0.
        parts: what each group of originals contributes, pseudo-values whose mean is the value (but for bias); NaN for a group
            without members.
        members: the value of each member, where the metric has one.
    """

    metric: str
    split: str
    value: float
    low: float
    high: float
    null: Null
    z: float | None
    parts: tuple[float, ...] = ()
    members: tuple[float, ...] = ()

    @property
    def evidence(self) -> float:
        """|z|; of an attack, in units of the null's sd or of the score's own standard error, whichever is larger.

        Attacks flip on some models as a whole, and oracles among which none did know nothing of that: a score that few members
        carry is then no evidence, however narrow the null. Elsewhere it is: a method that ruins some of its models is not inside.
        Where the null has no spread the error alone counts; infinite where that is 0 too.
        """
        apart, error = abs(self.value - self.null.mean), (self.high - self.low) / WIDTH
        if apart <= NEGLIGIBLE * max(abs(self.value), abs(self.null.mean)):
            return 0.0
        unit = max(self.null.sd, error) if of_an_attack(self.metric) or not self.null.sd else self.null.sd
        return float(apart / unit) if unit > 0 else float("inf")


class Evaluation(NamedTuple):
    """All scores of a pool, and the joint verdict.

    Attributes:
        scores: one for each metric and split.
        largest_z: the largest `Score.evidence`.
        band: the 95% quantile of the largest |z| over splits of the oracles.
        members: unlearned models that were scored; over several forget sets, the fewest.
    """

    scores: list[Score]
    largest_z: float
    band: float
    members: int

    @property
    def inside(self) -> bool | None:
        """Whether the pool is indistinguishable from retraining at this sample size; None with fewer than 8 models."""
        return self.largest_z <= self.band if self.members >= FEWEST_JUDGED else None


@dataclass(frozen=True)
class Measured:
    """What the metrics see of a pool; members first in every array."""

    margins: dict[str, Float[np.ndarray, "members examples"]]
    probabilities: dict[str, Float[np.ndarray, "members examples classes"]]
    per_model: dict[Name, Float[np.ndarray, " members"]]

    def with_extra(self, extra: Extra | None) -> "Measured":
        """With metrics per model that were computed elsewhere.

        Raises:
            ValueError: one is not finite, or not a number for each member.
        """
        members = len(next(iter(self.per_model.values())))
        for name, values in (extra or {}).items():
            if checks.numbers(f"extra {name}", values, "members").shape != (members,):
                raise ValueError(f"extra {name}: {np.shape(values)[0]} values, expected one for each of {members} members")
        return replace(self, per_model=self.per_model | {name: np.asarray(values) for name, values in (extra or {}).items()})

    def take(self, members: Int[np.ndarray, " some"]) -> "Measured":
        """The same of some members."""
        return Measured(
            {name: values[members] for name, values in self.margins.items()},
            {name: values[members] for name, values in self.probabilities.items()},
            {name: values[members] for name, values in self.per_model.items()},
        )


class Reference:
    """The oracles of one forget set, and what retrained models score against them, n against n. Made by `reference`.

    Attributes:
        n: number of models on each side.
        draws: by metric and split, what each split of the oracles scored.
        nulls: their summary.
        band: the 95% quantile of the largest |z|.
    """

    def __init__(self, oracles: Measured, measure: Callable[[Cube], Measured], n: int, splits: int, seed: int):
        self._oracles, self._measure, self._splits, self._seed = oracles, measure, splits, seed
        self._at = {n: self}
        self.n = n
        members = len(next(iter(oracles.per_model.values())))
        self.halves = halves(jax.random.key(seed), members, n, splits)
        both = [oracles.take(half) for half in self.halves.reshape(-1, n)]
        forth = _map(lambda first: _compare(both[first], both[first + 1]), range(0, len(both), 2))
        # Forgetting quality, the dearest of all, is the same either way where no medians or ranges tie.
        quality = [each["forgetting_quality", "forget"] for each in forth]
        back = _map(lambda first: _compare(both[first + 1], both[first], quality[first // 2]), range(0, len(both), 2))
        # Halves of one pool share what they have in common: widened here, see the module's docstring.
        both_ways = [{name: 1.5 * a[name] - 0.5 * b[name] for name in a} for a, b in zip(forth, back, strict=True)]
        self.draws = {name: np.array([each[name] for each in both_ways]) for name in forth[0]}
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
        """See `score`; the number of members is n."""
        if len(unlearned.forget) != self.n:
            raise ValueError(f"unlearned: {len(unlearned.forget)} members, expected {self.n}; see reference.at")
        measured = self._measured(unlearned, extra)
        names = self._oracles.per_model.keys(), measured.per_model.keys()
        if names[0] != names[1]:
            missing, unknown = (sorted(" ".join(name) for name in one - other) for one, other in itertools.permutations(names))
            said = f"lacks {', '.join(missing) or 'nothing'} and has {', '.join(unknown) or 'nothing'} besides"
            raise ValueError(f"extra: {said}, expected the metrics per model of the reference")
        if groups is None:
            groups = np.arange(self.n) * min(GROUPS, self.n) // self.n
        groups = checks.labels("groups", groups, self.n, GROUPS)
        there = np.unique(groups)
        scores = self._two_sample(measured, groups)
        for name, values in measured.per_model.items():
            parts = np.full(GROUPS, np.nan)
            parts[there] = [values[groups == group].mean() for group in there]
            scores.append(_score(name, self.nulls[name], *bootstrap(values, self._seed), parts, values))
        return _verdict(scores, self.band, self.n)

    def of_members(self, cube: Cube, extra: Extra | None = None) -> dict[Name, Float[np.ndarray, " members"]]:
        """The metrics that have a value for every member: those per model, and distances to the oracles' mean.

        Raises:
            ValueError: see `score`.
        """
        measured = self._measured(cube, extra)
        return measured.per_model | self._distances(measured)

    def _measured(self, cube: Cube, extra: Extra | None) -> Measured:
        measured = self._measure(cube).with_extra(extra)
        for split, own in self._oracles.probabilities.items():
            checks.alike(f"unlearned.{split}", measured.probabilities[split], "the reference", own)
        return measured

    def _distances(self, measured: Measured) -> dict[Name, Float[np.ndarray, " members"]]:
        opposite = [self._oracles.take(half) for half in self.halves[:VALUE_SPLITS].reshape(-1, self.n)]
        each = [_distances(measured, oracles) for oracles in opposite]
        return {name: np.mean([own[name] for own in each], axis=0) for name in each[0]}

    def _two_sample(self, measured: Measured, groups: np.ndarray) -> list[Score]:
        opposite = [self._oracles.take(half) for half in self.halves[:VALUE_SPLITS].reshape(-1, self.n)]
        values = _map(lambda oracles: _compare(measured, oracles), opposite)
        members = self._distances(measured)
        there = np.unique(groups) if self.n > 2 else groups[:0]
        left_out = _map(
            lambda group: [_compare(measured.take(np.flatnonzero(groups != group)), oracles) for oracles in opposite[:2]], there
        )
        scores = []
        for name in values[0]:
            value = float(np.mean([each[name] for each in values]))
            without = np.array([np.mean([each[name] for each in part]) for part in left_out])
            # Leaving a group out biases the comparison, alike for all groups: pseudo-values are centred at the value.
            parts = np.full(GROUPS, np.nan)
            parts[there] = value - (len(there) - 1) * (without - (without.mean() if len(there) else 0))
            interval = jackknifed(value, parts[there])
            scores.append(_score(name, self.nulls[name], value, *interval, parts, members.get(name, ())))
        return scores


def reference(
    oracles: Cube, labels: Labels, n: int, *, splits: int = 100, seed: int = 0, rows: int = 1_000, extra: Extra | None = None
) -> Reference:
    """Prepares the nulls of all metrics, and the band of the largest |z| over them, on the same splits of the oracles.

    Args:
        oracles: logits of models retrained without the forget set, with keys of their own; 2n or more of them.
        labels: those that the accuracies are measured against; on forget and retain, those trained on.
        n: number of unlearned models that are to be compared.
        splits: number of random splits of the oracles.
        seed: draws the splits, the rows, and the samples of SVC-MIA.
        rows: the most examples of a split that any metric but accuracy looks at.
        extra: metrics per model that need more than logits, of the oracles, by metric and split.

    Returns:
        What `score` compares with.

    Raises:
        ValueError: if an oracle's logits are not finite, its splits have other oracles or classes, a label is no class, there are
            fewer than 2n oracles, or n is below 2.
    """
    checks.cube("oracles", oracles, labels)
    checks.count("rows", rows, 1)
    if len(oracles.forget) < 2 * checks.count("n", n, 2):  # before they are measured, which takes a while
        raise ValueError(f"n: {n} models against {n} needs {2 * n} oracles or more, not {len(oracles.forget)}")
    rng = checks.generator(seed)
    seen = {name: rng.permutation(len(each))[:rows] for name, each in labels._asdict().items()}

    def measure(cube: Cube) -> Measured:
        checks.cube("unlearned", cube, labels)
        return _measure(cube, labels, seen, seed)

    return Reference(measure(oracles).with_extra(extra), measure, n, splits, seed)


def score(
    unlearned: Cube,
    reference: Reference,
    groups: Int[np.ndarray, " members"] | None = None,
    extra: Extra | None = None,
) -> Evaluation:
    """Scores unlearned models against the oracles, n against n, where n is the number of the unlearned.

    If that is not the reference's own n, as when members diverged, `reference.at(n)` is used (and kept).

    Intervals are over the unlearned members. For a per-model metric: percentile bootstrap of the mean. For a two-sample metric:
    jackknife over eight groups of members and Student's t (unbounded for two members), since a bootstrap repeats members and
    so moves every histogram away from the oracles'.

    The verdict counts each metric by `Score.evidence`, which is defined even where the null has no spread and z is None (all
    oracles right on every retain example, say). With fewer than 8 members there is none: `Evaluation.inside` is None.

    Args:
        unlearned: logits of the finite members.
        reference: from `reference`.
        groups: which group of originals each member comes from, counted from 0; by default eight equal ones in order.
        extra: the same metrics as the reference's `extra`, of the unlearned models.

    Returns:
        The scores and the joint verdict.

    Raises:
        ValueError: if a member's logits are not finite, the splits have other members or classes than each other or than the
            reference, a label is no class, a group is not in 0..7, there are too few oracles for so many members, or `extra`
            holds other metrics than the reference's or something else than a finite number for each member.
    """
    if np.ndim(unlearned.forget) != 3:  # before its first axis is taken for the number of members
        raise ValueError(f"unlearned.forget: shape {np.shape(unlearned.forget)}, expected [members, examples, classes]")
    return reference.at(len(unlearned.forget)).score(unlearned, groups, extra)


def pooled(evaluations: Sequence[Evaluation], references: Sequence[Reference]) -> Evaluation:
    """What one method scores over several forget sets, and one verdict for all of them.

    The value is the mean over the sets. The null is that of the same mean, the oracles of each set being models of their
    own: its sd falls with the number of sets, and so a smaller difference becomes visible. Intervals are for other originals
    and other forget sets, see `statistics.crossed_mean`; a group of originals that lost all its members on some set is left
    out of them.

    Args:
        evaluations: of the method, one for each forget set, by the same groups of originals.
        references: those that the evaluations were made with, `reference.at(n)` if members were lost.

    Returns:
        The scores and the joint verdict.

    Raises:
        ValueError: if there is not one reference for each evaluation, or evaluations are of other metrics.
    """
    if not evaluations or len(evaluations) != len(references):
        raise ValueError(f"references: {len(references)}, expected one for each of {len(evaluations)} evaluations, one or more")
    if len({tuple((each.metric, each.split) for each in evaluation.scores) for evaluation in evaluations}) > 1:
        raise ValueError("evaluations: of other metrics, expected the same in all")
    names = [(each.metric, each.split) for each in evaluations[0].scores]
    draws = {name: np.mean([reference.draws[name] for reference in references], axis=0) for name in names}
    centres = {name: float(np.mean([reference.nulls[name].mean for reference in references])) for name in names}
    nulls, band = joint(draws, centres)
    scores = []
    for name, *sets in zip(names, *(evaluation.scores for evaluation in evaluations), strict=True):
        value = float(np.mean([each.value for each in sets]))
        parts = np.array([each.parts for each in sets]).T
        whole = parts[np.isfinite(parts).all(axis=1)]
        found = crossed_mean(whole) if len(whole) else None
        low, high = (found.low - found.mean, found.high - found.mean) if found else (-np.inf, np.inf)
        scores.append(_score(name, nulls[name], value, value + low, value + high, parts.mean(axis=1)))
    return _verdict(scores, band, min(each.members for each in evaluations))


def _measure(cube: Cube, labels: Labels, rows: dict[str, np.ndarray], seed: int) -> Measured:
    per_model: dict[Name, np.ndarray] = {
        ("accuracy", name): accuracy(getattr(cube, name), getattr(labels, name)) for name in SPLITS
    }
    logits = {name: np.asarray(each)[:, rows[name]] for name, each in cube._asdict().items()}
    of = {name: np.asarray(each)[rows[name]] for name, each in labels._asdict().items()}
    p = {name: probabilities(each) for name, each in logits.items()}

    def attack(member: int) -> dict[str, float]:
        retain, test, forget = ((p[name][member], of[name]) for name in ("retain", "test", "forget"))
        return svc_mia(retain, test, forget, size=min(len(of["test"]), SVC_ROWS), seed=seed)

    attacks = _map(attack, range(len(cube.forget)))
    for feature in attacks[0]:
        name = "svc_mia" if feature == "confidence" else f"svc_mia_{feature}"
        per_model[name, "forget"] = np.array([each[feature] for each in attacks])
    margins = {name: scaled_logits(logits[name], of[name]) for name in SPLITS}
    losses = {name: np.logaddexp(0, -margins[name]) for name in ("forget", "test")}  # -log p_y
    per_model["logistic_mia", "forget"] = logistic_mia(losses["forget"], losses["test"], seed=seed)
    return Measured(margins, {name: p[name] for name in ("forget", "test")}, per_model)


def _compare(unlearned: Measured, oracles: Measured, quality: float | None = None) -> dict[Name, float]:
    """Every two-sample metric; `quality` is the forgetting quality where it is known."""
    values: dict[Name, float] = {}
    for split in SPLITS:
        divergence = klom(unlearned.margins[split], oracles.margins[split])
        values["klom", split] = float(divergence.mean())
        values["klom_p95", split] = float(np.percentile(divergence, 95))
    if quality is None:
        phi, oracle_phi = (pool.margins["forget"][:, :QUALITY_ROWS] for pool in (unlearned, oracles))
        quality = forgetting_quality(phi, oracle_phi).score
    values["forgetting_quality", "forget"] = quality
    values |= {name: float(members.mean()) for name, members in _distances(unlearned, oracles).items()}
    shares = [[pool.per_model["accuracy", split] / 100 for split in SPLITS] for pool in (unlearned, oracles)]
    values["tow", "all"] = tow(*shares[0], *shares[1])
    attacks = [pool.per_model["svc_mia", "forget"] for pool in (unlearned, oracles)]
    (forget, retain, test), (oracle_forget, oracle_retain, oracle_test) = shares
    values["tow_mia", "all"] = tow_mia(attacks[0], retain, test, attacks[1], oracle_retain, oracle_test)
    values["competition_score", "all"] = competition_score(quality, retain, test, oracle_retain, oracle_test)
    values["average_gap", "all"] = average_gap(
        forget, retain, test, attacks[0], oracle_forget, oracle_retain, oracle_test, attacks[1]
    )
    return values


def _distances(unlearned: Measured, oracles: Measured) -> dict[Name, Float[np.ndarray, " members"]]:
    """Of each member to the oracles' mean prediction, on average over the examples."""
    return {
        (distance.__name__, split): distance(p, oracles.probabilities[split]).mean(-1)
        for split, p in unlearned.probabilities.items()
        for distance in (kl_to_oracle, activation_distance, js_divergence)
    }


def _score(
    name: Name, null: Null, value: float, low: float, high: float, parts: Iterable[float], members: Iterable[float] = ()
) -> Score:
    z = (value - null.mean) / null.sd if null.sd > 0 else None
    return Score(*name, value, low, high, null, z, tuple(map(float, parts)), tuple(map(float, members)))


def _verdict(scores: list[Score], band: float, members: int) -> Evaluation:
    return Evaluation(scores, float(max(each.evidence for each in scores)), band, members)


def _map(function: Callable[[In], Out], items: Iterable[In]) -> list[Out]:
    """On as many threads as there are cores: NumPy and libsvm let go of the interpreter's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(function, items))
