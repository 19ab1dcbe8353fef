"""Audits of single examples, graded example by example: is F's example that an audit calls remembered the one that is?"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from experiments.audits.catalogue import Known, Models, completeness_of_examples
from unlearn_jax.metrics.by_example import welch_t
from unlearn_jax.metrics.likelihood import FEWEST, offline_scores, unlearned_ratios
from unlearn_jax.types import Cube


class SampleAudit(NamedTuple):
    """An audit with a score for each model and forget example, larger where more is left.

    Attributes:
        label: in tables.
        measure: `(models, known) -> [models, forget]`.
        signed: whether a large score means a large margin; if not, a margin far from retraining's on either side.
        source: where it was published.
    """

    label: str
    measure: Callable[[Models, Known], np.ndarray]
    signed: bool
    source: str


class Grade(NamedTuple):
    """One row of samples.csv.

    Attributes:
        method: of the registry of methods.
        audit: a key of `SAMPLES`.
        agreement: Spearman's correlation, over the examples of F, of the mean score with Welch's t of the margin against further
            retrained models, or with |t|. Score and t are of different halves of the models, and the mean of both ways is given.
        models: that were graded.
    """

    method: str
    audit: str
    agreement: float
    models: int


def _margin(models: Models, known: Known) -> np.ndarray:
    return models.margins("forget", known.labels)


def _lira(models: Models, known: Known) -> np.ndarray:
    return offline_scores(_margin(models, known), known.oracles["forget"])


def _ruli(models: Models, known: Known) -> np.ndarray:
    return unlearned_ratios(_margin(models, known), known.oracles["forget"])[0]


def _iam(models: Models, known: Known) -> np.ndarray:
    return 1 - completeness_of_examples(models, known)


SAMPLES = {
    "loss": SampleAudit("loss", _margin, True, "folklore"),
    "iam": SampleAudit("IAM", _iam, True, "2506.06112"),
    "lira": SampleAudit("offline LiRA", _lira, True, "2112.03570"),
    "ruli": SampleAudit("RULI", _ruli, False, "2506.13009"),
}


def grade(method: str, models: Models, known: Known, others: np.ndarray) -> list[Grade]:
    """Grades every audit of single examples on one pool; nothing for fewer than three models a half.

    Args:
        method: its name.
        models: of the pool; only `own` and `cube` are looked at.
        known: what audits may look at.
        others: margins on F of retrained models that no audit looks at.
    """
    halves = [_some(models, slice(first, None, 2)) for first in (0, 1)]
    if min(len(half.own) for half in halves) < FEWEST:
        return []
    t = [welch_t(_margin(half, known), others) for half in halves]
    found = []
    for name, audit in SAMPLES.items():
        scores = [audit.measure(half, known).mean(axis=0) for half in halves]
        ways = [
            spearmanr(score, truth if audit.signed else np.abs(truth))[0] for score, truth in zip(scores, t[::-1], strict=True)
        ]
        found.append(Grade(method, name, float(np.mean(ways)), len(models.own)))
    return found


def _some(models: Models, part: slice) -> Models:
    cube = Cube(*(logits[part] for logits in models.cube))
    return Models(models.own[part], cube, models.unseen[part], None, models.nudged[part], {})
