"""Scores, what each is as evidence against a perfect method, and one verdict over all of them."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from unlearn_jax.metrics.null import Null
from unlearn_jax.metrics.registry import Name, is_attack
from unlearn_jax.metrics.statistics import NEGLIGIBLE

FEWEST_JUDGED = 8  # models that a verdict takes: with fewer, its band is a quantile of very few, very similar halves
WIDTH = 3.92  # of a 95% interval, in standard errors


def deviation(value: float, null: Null) -> float:
    """z, `(value - null.mean) / null.sd`. Where the null has no spread, 0 on it and infinite off it: no score there is chance.

    A value within a billionth of the null's mean is on it.
    """
    if null.sd > 0:
        return float((value - null.mean) / null.sd)
    return math.copysign(math.inf, value - null.mean) if _is_off(value, null) else 0.0


def evidence(value: float, low: float, high: float, null: Null, attack: bool) -> float:
    """|z|; of an attack, in units of the null's sd or of the value's standard error, whichever is larger.

    Attacks flip on some models as a whole, and a null from oracles none of which flipped does not show it: a score that few
    members carry is then no evidence, however narrow the null. For other metrics it is: a method that ruins some of its models is
    not inside. Where the null has no spread the standard error alone counts; infinite where that is 0 too.

    Args:
        value: the score.
        low: lower end of its 95% interval.
        high: upper end.
        null: what retrained models score.
        attack: whether the metric is a membership attack, or made of one.
    """
    if not _is_off(value, null):
        return 0.0
    error = (high - low) / WIDTH
    unit = max(null.sd, error) if attack or not null.sd else null.sd
    return float(abs(value - null.mean) / unit) if unit > 0 else math.inf


def is_inside(evidences: Iterable[float], band: float, members: int, lost: int = 0) -> bool | None:
    """Whether models are indistinguishable from retrained ones at this sample size.

    Args:
        evidences: of all scores, one or more; NaN is outside.
        band: the 95% quantile of the largest |z| of retrained models.
        members: models that were scored.
        lost: models that diverged: a method that loses some is not inside.

    Returns:
        None with fewer than 8 models.
    """
    if members < FEWEST_JUDGED:
        return None
    evidences = [*evidences]
    return bool(evidences) and not lost and all(each <= band for each in evidences)


def _is_off(value: float, null: Null) -> bool:
    return not math.isclose(value, null.mean, rel_tol=NEGLIGIBLE)


class Score(NamedTuple):
    """One metric of a pool of unlearned models.

    Attributes:
        metric: as in the column of results.csv.
        split: forget, retain, test, or all.
        value: in the metric's unit.
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
