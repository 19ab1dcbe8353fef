"""How many models it takes: the width of the null and the visible difference, by the number of oracles."""

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

POWER = 0.8  # the chance that a visible difference is outside


class Power(NamedTuple):
    """The resolution of one metric at a number of models.

    Attributes:
        metric: its name.
        split: its split.
        models: number of unlearned models, n.
        oracles: number of retrained models, 2n.
        null: what retrained models score, n against n.
        band: the 95% quantile of the largest |z| over all metrics.
        visible: see `visible`; None with too few models for a verdict.
    """

    metric: str
    split: str
    models: int
    oracles: int
    null: Null
    band: float
    visible: float | None


def visible(reference: Reference, name: Name) -> float | None:
    """The least distance from the null's mean that the joint verdict calls outside in 80 of 100 runs, in the metric's unit.

    `(band + 0.84) x null sd`: a score at that distance, scattered as the null is, exceeds the band with a chance of 0.8.

    Returns:
        The distance; None with fewer than 8 models on each side: there is no verdict then.

    Raises:
        ValueError: there is no such metric.
    """
    return _reach(reference, name) if reference.n >= FEWEST_JUDGED else None


def power_curve(reference: Reference, models: Sequence[int]) -> list[Power]:
    """The null of every metric at smaller numbers of models, drawn from the same oracles.

    Args:
        reference: with as many models as there are, or fewer.
        models: numbers of unlearned models; twice as many oracles are drawn for each.

    Raises:
        ValueError: there are too few oracles for a number, or it is below 2.
    """
    curve = []
    for number in models:
        at = reference.at(number)
        curve += [Power(*name, number, 2 * number, null, at.band, visible(at, name)) for name, null in at.nulls.items()]
    return curve


def models_needed(reference: Reference, name: Name, difference: float) -> int:
    """How many models make a difference visible, if the null narrows as one over the square root of their number.

    An extrapolation from the oracles at hand: train that many, and repeat.

    Args:
        reference: from a first few oracles.
        name: metric and split.
        difference: from the null's mean, in the metric's unit; above 0.

    Returns:
        At least the 8 that a verdict needs.

    Raises:
        ValueError: there is no such metric, or the difference is not above 0.
    """
    checks.numbers("difference", difference, low=np.finfo(float).tiny)
    return max(FEWEST_JUDGED, math.ceil(reference.n * (_reach(reference, name) / difference) ** 2))


def _reach(reference: Reference, name: Name) -> float:
    if name not in reference.nulls:
        raise ValueError(f"name: {name} found, expected one of {', '.join(map(str, reference.nulls))}")
    return (reference.band + float(ndtri(POWER))) * reference.nulls[name].sd
