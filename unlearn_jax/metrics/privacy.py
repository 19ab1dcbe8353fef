"""Lower bounds, with confidence, on the ε for which unlearning is (ε, δ)-indistinguishable from retraining.

Unlearning is (ε, δ)-indistinguishable if for every event S, `P(unlearned ∈ S) ≤ e^ε P(retrained ∈ S) + δ` and the reverse. Events
seen in models therefore refute values of ε. A bound says "at least this much leaks, up to a chance of 5% of being wrong"; a bound
of 0 says that nothing was shown, not that nothing leaks: with few models no bound can be large (`largest_bound`).

Two designs, which differ in what is independent:

* *over models* (`epsilon_over_models`, `mu_over_models`): one score of each model, such as its memory of the forget set. Models
  are trained independently, so that the counts are binomial. The bound is for the forget set as a whole.
* *in one model* (`epsilon_one_run`): one score of each example, forget examples against examples never seen. The bound takes it
  that which of the two an example is was drawn at random, as it is with a random forget set.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import expit, log_ndtr, ndtri
from scipy.stats import beta, binom

from unlearn_jax.metrics import checks
from unlearn_jax.metrics.statistics import CONFIDENCE

LARGEST = 100.0  # ε at which the search ends


def clopper_pearson_upper(hits: int, trials: int, error: float) -> float:
    """The upper end of the exact one-sided confidence interval of a probability.

    Args:
        hits: successes.
        trials: of which each is one with the same probability, independently.
        error: the chance that the probability lies above.

    Raises:
        ValueError: there are more hits than trials, no trial, or the error is not in 0..1.

    Source: Clopper & Pearson, Biometrika 26, 1934.
    """
    checks.count("trials", trials, 1)
    checks.count("hits", hits, 0, trials)
    checks.numbers("error", error, low=0, high=1)
    return 1.0 if hits == trials else float(beta.ppf(1 - error, hits + 1, trials - hits))


def epsilon_over_models(
    unlearned: Float[Any, " models"],
    retrained: Float[Any, " others"],
    thresholds: Float[Any, " thresholds"],
    delta: float = 0.0,
    confidence: float = CONFIDENCE,
) -> float:
    """The largest ε that is refuted: `max log((p - δ) / q)` over events, p and q being bounds that hold together.

    Args:
        unlearned: a score of each unlearned model; models are independent of each other.
        retrained: the same score of retrained models that nothing else was chosen by.
        thresholds: of the scores, chosen without looking at either side.
        delta: of (ε, δ).
        confidence: the chance, at least, that the true ε is not below the bound.

    Returns:
        A bound of at least 0, in nats.

    Raises:
        ValueError: a score is not finite, or δ or the confidence is not in 0..1.

    Source: Jagielski et al., "Auditing Differentially Private Machine Learning", arXiv:2006.07709; Nasr et al.,
        arXiv:2101.04535.
    """
    checks.numbers("delta", delta, low=0, high=1)
    pairs = _rates(unlearned, retrained, thresholds, confidence)
    return max([0.0, *(math.log((low - delta) / high) for low, high in pairs if low > delta)])


def mu_over_models(
    unlearned: Float[Any, " models"],
    retrained: Float[Any, " others"],
    thresholds: Float[Any, " thresholds"],
    confidence: float = CONFIDENCE,
) -> float:
    """The largest μ of Gaussian differential privacy that is refuted: `max Φ⁻¹(p) - Φ⁻¹(q)` over events, p and q as there.

    It assumes more than `epsilon_over_models`, the trade-off of two Gaussians, and shows more. `gaussian_epsilon` turns it
    into ε.

    Args:
        unlearned: see `epsilon_over_models`.
        retrained: likewise.
        thresholds: likewise.
        confidence: likewise.

    Returns:
        A bound of at least 0, in standard deviations.

    Raises:
        ValueError: see `epsilon_over_models`.

    Source: Dong, Roth & Su, "Gaussian Differential Privacy", arXiv:1905.02383; Nasr et al., arXiv:2302.07956.
    """
    pairs = _rates(unlearned, retrained, thresholds, confidence)
    return max([0.0, *(float(ndtri(low) - ndtri(high)) for low, high in pairs if low > 0 and high < 1)])


def gaussian_delta(epsilon: float, mu: float) -> float:
    """The δ at ε of two Gaussians μ standard deviations apart: `Φ(μ/2 - ε/μ) - e^ε Φ(-μ/2 - ε/μ)`.

    Raises:
        ValueError: a number is not finite, ε is below 0, or μ not above 0.

    Source: Dong, Roth & Su, arXiv:1905.02383, corollary 2.13; Balle & Wang, arXiv:1805.06530.
    """
    checks.numbers("epsilon", epsilon, low=0)
    checks.numbers("mu", mu, low=np.finfo(float).tiny)
    first, second = log_ndtr(mu / 2 - epsilon / mu), epsilon + log_ndtr(-mu / 2 - epsilon / mu)
    return float(np.exp(first) - np.exp(second))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The ε at δ of two Gaussians μ standard deviations apart, the inverse of `gaussian_delta`; at most 100.

    Raises:
        ValueError: μ is below 0 or not finite, or δ not between 0 and 1.
    """
    checks.numbers("mu", mu, low=0)
    checks.numbers("delta", delta, low=np.finfo(float).tiny, high=1)
    if mu == 0 or gaussian_delta(0.0, mu) <= delta:
        return 0.0
    if gaussian_delta(LARGEST, mu) >= delta:
        return LARGEST
    return float(brentq(lambda epsilon: gaussian_delta(epsilon, mu) - delta, 0.0, LARGEST))


def largest_bound(models: int, others: int, thresholds: int, delta: float = 0.0, confidence: float = CONFIDENCE) -> float:
    """The largest bound that `epsilon_over_models` can give: by an event in all models of one kind and none of the other.

    Raises:
        ValueError: a number of models or thresholds is below 1, or δ or the confidence is not in 0..1.
    """
    checks.count("models", models, 1)
    checks.count("others", others, 1)
    cuts = np.zeros(checks.count("thresholds", thresholds, 1))
    return epsilon_over_models(np.ones(models), -np.ones(others), cuts, delta, confidence)


def epsilon_one_run(
    targets: Float[Any, "models targets"],
    non_members: Float[Any, "models _non_members"],
    guesses: float = 0.5,
    delta: float = 0.0,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Float[np.ndarray, " models"]:
    """The largest ε that guesses on single examples refute, in one model.

    Equally many targets and non-members (a random sample of the larger side) are ranked by their score. The upper ones are
    guessed to be targets, the lower ones non-members, the middle is left out. If a model trained with an example and one trained
    without are (ε, δ)-indistinguishable, the right ones of g guesses are at most `Bin(g, e^ε / (1 + e^ε))`, up to a term in δ.

    Deviation: the authors draw each example's side by a coin of its own; here as many are on either side. The number of guesses
    is fixed beforehand.

    Args:
        targets: a score of each forget example, larger for members.
        non_members: of examples never seen, from the same distribution.
        guesses: the share of the examples that are guessed.
        delta: of (ε, δ).
        confidence: the chance, at least, that the true ε of a model is not below its bound.
        seed: draws the sample.

    Returns:
        A bound of at least 0 for each model, in nats.

    Raises:
        ValueError: a score is not finite, the sides are of other models, or a number is not in 0..1.

    Source: Steinke, Nasr & Jagielski, "Privacy Auditing with One (1) Training Run", arXiv:2305.08846.
    """
    sides = [checks.numbers(name, s, "models examples") for name, s in (("targets", targets), ("non_members", non_members))]
    if len(sides[0]) != len(sides[1]):
        raise ValueError(f"non_members: {len(sides[1])} models, expected {len(sides[0])} as in targets")
    checks.numbers("guesses", guesses, low=np.finfo(float).tiny, high=1)
    checks.numbers("delta", delta, low=0, high=1)
    _check_confidence(confidence)
    rng = checks.generator(seed)
    size = min(side.shape[1] for side in sides)
    chosen = np.concatenate([side[:, rng.permutation(side.shape[1])[:size]] for side in sides], axis=1)
    order = rng.permutation(2 * size)  # equal scores are in random order
    ranked = order[np.argsort(chosen[:, order], axis=1, kind="stable")]
    ends = max(round(guesses * size), 1)
    right = (ranked[:, :ends] >= size).sum(axis=1) + (ranked[:, -ends:] < size).sum(axis=1)
    bounds = {int(count): _refuted(int(count), 2 * ends, 2 * size, delta, 1 - confidence) for count in np.unique(right)}
    return np.array([bounds[int(count)] for count in right])


def _rates(
    unlearned: Float[Any, " models"], retrained: Float[Any, " others"], thresholds: Float[Any, " thresholds"], confidence: float
) -> list[tuple[float, float]]:
    """Bounds that hold together: for each event a lower one on its probability in one kind of model, an upper one in the other.

    The events are scores above, and not above, each threshold, each read in both orders. They need four one-sided intervals for a
    threshold, since the lower end for an event is one minus the upper one for its opposite; each gets an equal share of the error
    (Bonferroni).

    The arguments are those of `epsilon_over_models`.
    """
    sides = [checks.numbers(name, side, "models") for name, side in (("unlearned", unlearned), ("retrained", retrained))]
    cuts = checks.numbers("thresholds", thresholds, "thresholds")
    _check_confidence(confidence)
    error = (1 - confidence) / (4 * len(cuts))
    found = []
    for cut in cuts:
        above = [int((side > cut).sum()) for side in sides]
        most = [clopper_pearson_upper(hits, len(side), error) for hits, side in zip(above, sides, strict=True)]
        rest = [clopper_pearson_upper(len(side) - hits, len(side), error) for hits, side in zip(above, sides, strict=True)]
        for one, other in ((0, 1), (1, 0)):
            found += [(1 - rest[one], most[other]), (1 - most[one], rest[other])]
    return found


def _refuted(right: int, guesses: int, canaries: int, delta: float, error: float) -> float:
    """The largest ε under which so many right guesses have a chance of at most `error`."""

    def excess(epsilon: float) -> float:
        share = expit(epsilon)
        tail = float(binom.sf(right - 1, guesses, share))
        steps = np.arange(1, right + 1)
        slack = np.max((binom.sf(right - 1 - steps, guesses, share) - tail) / steps, initial=0.0) if delta else 0.0
        return tail + 2 * canaries * delta * float(slack) - error

    if excess(0.0) >= 0:
        return 0.0
    return LARGEST if excess(LARGEST) <= 0 else float(brentq(excess, 0.0, LARGEST))


def _check_confidence(confidence: float) -> None:
    checks.numbers("confidence", confidence, low=0, high=np.nextafter(1, 0))
