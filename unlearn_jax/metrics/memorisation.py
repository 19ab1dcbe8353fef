"""Memorisation and exposure: how much training on an example changes its prediction, and how detectable that is."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from unlearn_jax.metrics import checks
from unlearn_jax.metrics.statistics import ROUNDING


class Memorisation(NamedTuple):
    """The score of each example in -1..1, and its standard error over the members."""

    score: Float[np.ndarray, " examples"]
    error: Float[np.ndarray, " examples"]


def memorisation(correct: Bool[Any, "members examples"], trained_on: Bool[Any, "members examples"]) -> Memorisation:
    """`E[correct | trained on it] - E[correct | not]`, over models that trained on random subsets.

    Near 1 only models trained on the label predict it: mislabelled, atypical or ambiguous examples. Near 0 the others do too.
    To divide results by memorisation, take it from other members than those that are scored, or it selects their noise.

    Args:
        correct: whether each member's answer is the label that was trained on.
        trained_on: which member trained on which example; each has two members or more of both kinds.

    Returns:
        The difference, and `sqrt(var_in / n_in + var_out / n_out)` by the unbiased variances of each kind (0 where all members
        of each kind agree, which few members often do).

    Raises:
        ValueError: something is no truth value, the two are of different members or examples, or an example has fewer than two
            members of a kind.

    Source: Feldman & Zhang, "What Neural Networks Memorize and Why", arXiv:2008.03703.
    """
    correct = checks.truths("correct", correct, "members examples")
    means, variances = [], []
    for side in _sides("correct", correct, trained_on):
        count = side.sum(0)
        mean = (correct & side).sum(0) / count
        means.append(mean)
        variances.append(mean * (1 - mean) / (count - 1))  # of the mean
    return Memorisation(means[0] - means[1], np.sqrt(variances[0] + variances[1]))


def exposure(scores: Float[Any, "members examples"], trained_on: Bool[Any, "members examples"]) -> Float[np.ndarray, " examples"]:
    """How far the scores of models that trained on an example are from those of models that did not.

    `(mean_in - mean_out) / sqrt((var_in + var_out) / 2)`: the d' of the likelihood-ratio attack on one model.

    Args:
        scores: scaled logits, see `scores.scaled_logits`.
        trained_on: which member trained on which example; each has two members or more of both kinds.

    Returns:
        In standard deviations; 0 where neither side varies, beyond the scores' own rounding.

    Raises:
        ValueError: a score is not finite, the two are of different members or examples, or an example has fewer than two members
            of a kind.

    Source: the Gaussians of LiRA, Carlini et al., arXiv:2112.03570.
    """
    scores = checks.numbers("scores", scores, "members examples")
    means, variances = [], []
    for side in _sides("scores", scores, trained_on):
        count = side.sum(0)
        mean = np.where(side, scores, 0.0).sum(0) / count
        means.append(mean)
        variances.append(np.where(side, (scores - mean) ** 2, 0.0).sum(0) / (count - 1))
    spread = np.sqrt((variances[0] + variances[1]) / 2)
    varying = spread > ROUNDING * np.abs(scores).max(0)
    return np.divide(means[0] - means[1], spread, out=np.zeros_like(spread), where=varying)


def _sides(name: str, values: np.ndarray, trained_on: Any) -> tuple[np.ndarray, np.ndarray]:
    """Which members trained on each example, and which did not."""
    trained_on = checks.truths("trained_on", trained_on, "members examples")
    checks.alike("trained_on", trained_on, name, values, 0)
    counts = trained_on.sum(0)
    if min(counts.min(), len(trained_on) - counts.max()) < 2:
        raise ValueError("trained_on: each example needs two members or more that trained on it, and as many that did not")
    return trained_on, ~trained_on
