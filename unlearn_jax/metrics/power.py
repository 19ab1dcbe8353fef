"""How many models are needed: the null and the visible difference, by the number of oracles."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from unlearn_jax.metrics import checks
from unlearn_jax.metrics.evaluation import Reference
from unlearn_jax.metrics.null import Null
from unlearn_jax.metrics.registry import Name
from unlearn_jax.metrics.verdict import FEWEST_JUDGED

POWER = 0.8  # the chance that a visible difference is called outside the null


class Power(NamedTuple):
    """The resolution of one metric at a number of models.

    Attributes:
        metric: its name.
        split: its split.
        models: number of unlearned models, n.
        oracles: number of retrained models, 2n.
        null: the scores of retrained models, n against n.
        band: the 95% quantile of the largest |z| over all metrics.
        visible: the smallest visible difference, see `visible`; None with too few models for a verdict.
    """

    metric: str
    split: str
    models: int
    oracles: int
    null: Null
    band: float
    visible: float | None


def visible(reference: Reference, name: Name) -> float | None:
    """The smallest difference from the null mean that the joint verdict calls outside in 80 of 100 runs, in the metric's unit.

    `(band + 0.84) x null sd`: a score at that distance, with the spread of the null, exceeds the band with probability 0.8.

    Returns:
        The difference; None with fewer than 8 models on each side, since there is no verdict then.

    Raises:
        ValueError: there is no such metric.
    """
    return _visible(reference, name) if reference.n >= FEWEST_JUDGED else None


def power_curve(reference: Reference, models: Sequence[int]) -> list[Power]:
    """The null of every metric at smaller numbers of models, drawn from the same oracles.

    Args:
        reference: from all oracles.
        models: numbers of unlearned models; for each, twice as many oracles are drawn.

    Raises:
        ValueError: there are too few oracles for a number, or it is below 2.
    """
    curve = []
    for number in models:
        at = reference.at(number)
        curve += [Power(*name, number, 2 * number, null, at.band, visible(at, name)) for name, null in at.nulls.items()]
    return curve


def models_needed(reference: Reference, name: Name, difference: float) -> int:
    """The number of models that makes a difference visible, if the sd of the null falls as one over its square root.

    It is extrapolated from the oracles at hand: train that many, and repeat.

    Args:
        reference: from a first few oracles.
        name: metric and split.
        difference: from the mean of the null, in the metric's unit; above 0.

    Returns:
        At least the 8 that a verdict needs.

    Raises:
        ValueError: there is no such metric, or the difference is not above 0.
    """
    checks.numbers("difference", difference, low=np.finfo(float).tiny)
    return max(FEWEST_JUDGED, math.ceil(reference.n * (_visible(reference, name) / difference) ** 2))


def _visible(reference: Reference, name: Name) -> float:
    if name not in reference.nulls:
        raise ValueError(f"name: {name} found, expected one of {', '.join(map(str, reference.nulls))}")
    return (reference.band + float(ndtri(POWER))) * reference.nulls[name].sd
