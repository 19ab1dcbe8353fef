"""All metrics of a pool of unlearned models, each against its null, and one joint verdict.

Two kinds of metric, two kinds of null, one set of splits of the oracles:

* *two-sample* (KLOM, forgetting quality, distances, tug of war, average gap) compare n unlearned models with n oracles. The
  value is the mean over both halves of the first splits; the null is one half against the other, widened as below.
* *per-model* (accuracies, SVC-MIA) are a mean over models. The null is centred at the oracles' mean and has the spread of the
  difference between the means of two halves.

`svc_mia` is the confidence attack, which is also the one inside `average_gap`; the others are `svc_mia_<feature>`.

The halves A and B of one pool understate how much a mean over models varies between pools: where D(A, B) is a mean over A,
such as a distance to the oracles' mean, its variance over splits of 2n oracles is S²/2n, while that of n new models about 2n
oracles is S²/n + S²/2n. The part of D that changes sign when A and B change places is therefore counted twice: the null is
`(D(A, B) + D(B, A)) / 2 + (D(A, B) - D(B, A))`, whose variance is 2S²/n, that of a difference of two means of n. In a
simulation (100 fresh pools of 24 against 50 pools of 48, Gaussian logits that share a scale within a model, 160 examples), 4% of
perfect pools fell outside the joint 95% band; without the widening 38% of 50 did, because of the distances.

To bound the cost, all but the accuracies see at most `rows` examples of a split, drawn once by the seed (the same for value and
null); of these forgetting quality sees at most 500, and SVC-MIA trains on at most 500 a side.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtrit

from unlearn_jax.metrics.accuracy import accuracies, average_gap, tow
from unlearn_jax.metrics.attacks import svc_mia
from unlearn_jax.metrics.distances import activation_distance, js_divergence, kl_to_oracle
from unlearn_jax.metrics.forgetting_quality import forgetting_quality
from unlearn_jax.metrics.klom import klom
from unlearn_jax.metrics.null import Null, halves, summarise
from unlearn_jax.metrics.scores import probabilities, scaled_logits
from unlearn_jax.types import Cube, Labels

Name = tuple[str, str]  # metric, split
In = TypeVar("In")
Out = TypeVar("Out")
SPLITS = Cube._fields
VALUE_SPLITS = 4  # splits whose two halves a two-sample value is averaged over
GROUPS = 8  # of members that the jackknife leaves out in turn
QUALITY_ROWS = 500  # that forgetting quality sees
SVC_ROWS = 500  # a side, that SVC-MIA trains on
RESAMPLES = 1_000  # of the bootstrap
CONFIDENCE = 0.95


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
    """

    metric: str
    split: str
    value: float
    low: float
    high: float
    null: Null | None
    z: float | None


class Evaluation(NamedTuple):
    """All scores of a pool, and the joint verdict.

    Attributes:
        scores: one for each metric and split.
        largest_z: the largest |z|; infinite where a null has no spread and the score's interval excludes it.
        band: the 95% quantile of the largest |z| over splits of the oracles.
    """

    scores: list[Score]
    largest_z: float
    band: float

    @property
    def inside(self) -> bool:
        """Whether the pool is indistinguishable from retraining at this sample size."""
        return self.largest_z <= self.band


@dataclass(frozen=True)
class Measured:
    """What the metrics see of a pool; members first in every array."""

    margins: dict[str, Float[np.ndarray, "members examples"]]
    probabilities: dict[str, Float[np.ndarray, "members examples classes"]]
    per_model: dict[Name, Float[np.ndarray, " members"]]

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
        nulls: by metric and split.
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
        back = _map(lambda first: _compare(both[first + 1], both[first]), range(0, len(both), 2))
        # Halves of one pool share what they have in common: widened here, see the module's docstring.
        draws = {name: np.array([1.5 * a[name] - 0.5 * b[name] for a, b in zip(forth, back, strict=True)]) for name in forth[0]}
        self.nulls = {name: summarise(values) for name, values in draws.items()}
        for name, values in oracles.per_model.items():
            means, centre = values[self.halves].mean(-1), float(values.mean())
            draws[name] = centre + means[:, 0] - means[:, 1]
            self.nulls[name] = summarise(draws[name])._replace(mean=centre)
        z = [abs(draws[name] - each.mean) / each.sd for name, each in self.nulls.items() if each.sd > 0]
        self.band = float(np.quantile(np.max(z, axis=0), CONFIDENCE)) if z else 0.0

    def at(self, n: int) -> "Reference":
        """The same oracles with another number of models on each side, for methods some of whose members diverged.

        Raises:
            ValueError: if there are fewer than 2n oracles, or n is below 2.
        """
        if n not in self._at:
            self._at[n] = Reference(self._oracles, self._measure, n, self._splits, self._seed)
        return self._at[n]

    def score(self, unlearned: Cube) -> Evaluation:
        """See `score`; the number of members is n."""
        measured = self._measure(unlearned)
        scores = [
            *self._two_sample(measured),
            *(self._score(name, *mean_interval(values, self._seed)) for name, values in measured.per_model.items()),
        ]
        beyond = [np.inf if _excludes(each) else 0.0 for each in scores if each.z is None]
        largest = max([abs(each.z) for each in scores if each.z is not None] + beyond)
        return Evaluation(scores, float(largest), self.band)

    def _two_sample(self, measured: Measured) -> list[Score]:
        opposite = [self._oracles.take(half) for half in self.halves[:VALUE_SPLITS].reshape(-1, self.n)]
        values = _map(lambda oracles: _compare(measured, oracles), opposite)
        members = np.arange(self.n)
        left_out = np.array_split(members, min(self.n, GROUPS))
        kept = [measured.take(np.setdiff1d(members, group)) for group in left_out] if self.n > 2 else []
        jackknife = _map(lambda part: [_compare(part, oracles) for oracles in opposite[:2]], kept)
        scores = []
        for name in values[0]:
            value = float(np.mean([each[name] for each in values]))
            parts = np.array([np.mean([each[name] for each in part]) for part in jackknife])
            reach = stdtrit(len(parts) - 1, 0.975) * np.sqrt((len(parts) - 1) * parts.var()) if len(parts) else np.inf
            scores.append(self._score(name, value, value - reach, value + reach))
        return scores

    def _score(self, name: Name, value: float, low: float, high: float) -> Score:
        each = self.nulls[name]
        return Score(*name, value, low, high, each, (value - each.mean) / each.sd if each.sd > 0 else None)


def reference(oracles: Cube, labels: Labels, n: int, *, splits: int = 100, seed: int = 0, rows: int = 1_000) -> Reference:
    """Prepares the nulls of all metrics, and the band of the largest |z| over them, on the same splits of the oracles.

    Args:
        oracles: logits of models retrained without the forget set, with keys of their own; 2n or more of them.
        labels: those that the accuracies are measured against; on forget and retain, those trained on.
        n: number of unlearned models that are to be compared.
        splits: number of random splits of the oracles.
        seed: draws the splits, the rows, and the samples of SVC-MIA.
        rows: the most examples of a split that any metric but accuracy looks at.

    Returns:
        What `score` compares with.

    Raises:
        ValueError: if an oracle's logits are not finite, if there are fewer than 2n oracles, or n is below 2.
    """
    rng = np.random.default_rng(seed)
    seen = {name: rng.permutation(len(each))[:rows] for name, each in labels._asdict().items()}

    def measure(cube: Cube) -> Measured:
        return _measure(cube, labels, seen, seed)

    return Reference(measure(oracles), measure, n, splits, seed)


def score(unlearned: Cube, reference: Reference) -> Evaluation:
    """Scores unlearned models against the oracles, n against n, where n is the number of the unlearned.

    If that is not the reference's own n, as when members diverged, `reference.at(n)` is used (and kept).

    Intervals are over the unlearned members. For a per-model metric: percentile bootstrap of the mean. For a two-sample metric:
    jackknife over eight groups of members and Student's t (unbounded for two members), since a bootstrap repeats members and
    so moves every histogram away from the oracles'.

    Where a null has no spread (all oracles right on every retain example, say), z is None, and the metric counts as outside if
    the score's own interval excludes the null's mean: four deviating members of 24 do, one does not.

    Args:
        unlearned: logits of the finite members.
        reference: from `reference`.

    Returns:
        The scores and the joint verdict.

    Raises:
        ValueError: if a member's logits are not finite, or there are too few oracles for so many members.
    """
    return reference.at(len(unlearned.forget)).score(unlearned)


def _measure(cube: Cube, labels: Labels, rows: dict[str, np.ndarray], seed: int) -> Measured:
    per_model: dict[Name, np.ndarray] = {
        ("accuracy", name): values for name, values in accuracies(cube, labels)._asdict().items()
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
    return Measured(margins, {name: p[name] for name in ("forget", "test")}, per_model)


def _compare(unlearned: Measured, oracles: Measured) -> dict[Name, float]:
    """Every two-sample metric."""
    values: dict[Name, float] = {}
    for split in SPLITS:
        divergence = klom(unlearned.margins[split], oracles.margins[split])
        values["klom", split] = float(divergence.mean())
        values["klom_p95", split] = float(np.percentile(divergence, 95))
    phi, oracle_phi = (pool.margins["forget"][:, :QUALITY_ROWS] for pool in (unlearned, oracles))
    values["forgetting_quality", "forget"] = forgetting_quality(phi, oracle_phi).score
    for split in unlearned.probabilities:
        for distance in (kl_to_oracle, activation_distance, js_divergence):
            values[distance.__name__, split] = float(
                distance(unlearned.probabilities[split], oracles.probabilities[split]).mean()
            )
    shares = [[pool.per_model["accuracy", split] / 100 for split in SPLITS] for pool in (unlearned, oracles)]
    values["tow", "all"] = tow(*shares[0], *shares[1])
    attacks = [pool.per_model["svc_mia", "forget"] for pool in (unlearned, oracles)]
    (forget, retain, test), (oracle_forget, oracle_retain, oracle_test) = shares
    values["average_gap", "all"] = average_gap(
        forget, retain, test, attacks[0], oracle_forget, oracle_retain, oracle_test, attacks[1]
    )
    return values


def mean_interval(values: Float[np.ndarray, " members"], seed: int) -> tuple[float, float, float]:
    """The mean over members, and the low and high end of its 95% percentile bootstrap interval."""
    drawn = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(1), (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def _excludes(score: Score) -> bool:
    """Whether the interval leaves out the null's mean, by more than rounding."""
    assert score.null is not None
    slack = 1e-9 * max(1, abs(score.null.mean))
    return not score.low - slack <= score.null.mean <= score.high + slack


def _map(function: Callable[[In], Out], items: Iterable[In]) -> list[Out]:
    """On as many threads as there are cores: NumPy and libsvm let go of the interpreter's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(function, items))
