"""Scores, the evidence of each against a perfect method, and one verdict over all of them."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from unlearn_jax.metrics.null import Null
from unlearn_jax.metrics.registry import Name, is_attack
from unlearn_jax.metrics.statistics import NEGLIGIBLE

FEWEST_JUDGED = 8  # fewest models for a verdict: with fewer, the band is a quantile over few, very similar halves
WIDTH = 3.92  # of a 95% interval, in standard errors


def deviation(value: float, null: Null) -> float:
    """z, `(value - null.mean) / null.sd`. If the null has no spread, 0 for a value equal to it, else infinite.

    Values within a relative difference of 1e-9 are equal.
    """
    if null.sd > 0:
        return float((value - null.mean) / null.sd)
    return math.copysign(math.inf, value - null.mean) if _differs(value, null) else 0.0


def evidence(value: float, low: float, high: float, null: Null, attack: bool) -> float:
    """|z|; of an attack, in units of the null's sd or of the value's standard error, whichever is larger.

    An attack can flip on a whole model. If it flipped on no oracle, the null is too narrow, and a score that comes from few
    members is no evidence. For other metrics such a score is evidence: a method that ruins some of its models is not inside. If
    the null has no spread, the unit is the standard error; if that is 0 too, the evidence is infinite.

    Args:
        value: the score.
        low: lower end of its 95% interval.
        high: upper end.
        null: the scores of retrained models.
        attack: whether the metric is, or contains, a membership attack.
    """
    if not _differs(value, null):
        return 0.0
    error = (high - low) / WIDTH
    unit = max(null.sd, error) if attack or not null.sd else null.sd
    return float(abs(value - null.mean) / unit) if unit > 0 else math.inf


def is_inside(evidences: Iterable[float], band: float, members: int, lost: int = 0) -> bool | None:
    """Whether models are not distinguished from retrained ones at this sample size.

    Args:
        evidences: of all scores, one or more; NaN counts as outside.
        band: the 95% quantile of the largest |z| of retrained models.
        members: models that were scored.
        lost: models that diverged; a method with any is not inside.

    Returns:
        None with fewer than 8 models.
    """
    if members < FEWEST_JUDGED:
        return None
    evidences = [*evidences]
    return bool(evidences) and not lost and all(evidence <= band for evidence in evidences)


def _differs(value: float, null: Null) -> bool:
    return not math.isclose(value, null.mean, rel_tol=NEGLIGIBLE)


class Score(NamedTuple):
    """One metric of a pool of unlearned models.

    Attributes:
        metric: as in the column of results.csv.
        split: forget, retain, test, or all.
        value: in the metric's unit.
        low: lower end of a 95% interval over the unlearned members.
        high: upper end.
        null: the scores of retrained models.
        z: (value - null.mean) / null.sd; None where the null's sd is 0.
        parts: the contribution of each group of originals: pseudo-values whose mean is the value, except for bias; NaN for a
            group without members.
        members: the value of each member, if the metric has one.
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
    def name(self) -> Name:
        """Metric and split."""
        return self.metric, self.split

    @property
    def deviation(self) -> float:
        """See `deviation`."""
        return deviation(self.value, self.null)

    @property
    def evidence(self) -> float:
        """See `evidence`."""
        return evidence(self.value, self.low, self.high, self.null, is_attack(self.metric))


class Evaluation(NamedTuple):
    """All scores of a pool, and the joint verdict.

    Attributes:
        scores: one for each metric and split.
        largest_z: the largest `Score.evidence`.
        band: the 95% quantile of the largest |z| over splits of the oracles.
        members: unlearned models that were scored; over several forget sets, the fewest.
        lost: unlearned models that diverged and are in no score.
    """

    scores: list[Score]
    largest_z: float
    band: float
    members: int
    lost: int = 0

    @property
    def inside(self) -> bool | None:
        """See `is_inside`."""
        return is_inside([self.largest_z], self.band, self.members, self.lost)
