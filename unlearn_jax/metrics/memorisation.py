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

    Near 1, only models trained on the example predict its label: it is mislabelled, atypical or ambiguous. Near 0, other models
    predict it as well. To group results by memorisation, measure it with other members than those that are scored, or the
    grouping selects their noise.

    Args:
        correct: whether each member predicts the training label.
        trained_on: which member trained on which example; each example needs two members with it and two without.

    Returns:
        The difference, and `sqrt(var_in / n_in + var_out / n_out)` with unbiased variances (0 if all members with it agree
        and all without it agree, as few members often do).

    Raises:
        ValueError: an argument is not boolean, the shapes differ, or an example has fewer than two members with or without it.

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
    """The standardised difference between the scores of models that trained on an example and of models that did not.

    `(mean_in - mean_out) / sqrt((var_in + var_out) / 2)`: the d' of the likelihood-ratio attack on one model.

    Args:
        scores: scaled logits, see `scores.scaled_logits`.
        trained_on: which member trained on which example; each example needs two members with it and two without.

    Returns:
        The difference in standard deviations; 0 if neither side varies by more than rounding.

    Raises:
        ValueError: a score is not finite, the shapes differ, or an example has fewer than two members with or without it.

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
        raise ValueError("trained_on: each example needs at least two members that trained on it, and two that did not")
    return trained_on, ~trained_on
