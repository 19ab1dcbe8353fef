"""Audits that need no retrained model: what they look at is the unlearned model, the original, and examples never trained on.

How well they order methods is a question of its own (`--exp audits`): each claims a value of a perfect method, and a retrained
model need not have it.
"""

import itertools
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit

from unlearn_jax.metrics import checks
from unlearn_jax.metrics.distances import js_divergence
from unlearn_jax.metrics.features import squared_distances
from unlearn_jax.metrics.statistics import unit

SPLITS = 20  # random halves of the examples in `split_half_dependence`
LEVELS = 100  # between never seen and fitted, in `unlearning_completeness`


def non_member_share(
    target: Float[Any, "_targets features"],
    members: Float[Any, "_members features"],
    non_members: Float[Any, "_non_members features"],
) -> float:
    """The share of non-members in the features of the forget set, taken as a mixture of members' and non-members' features.

    The share π for which the mean embeddings μ of a Gaussian kernel fit best, `‖μ_F - π μ_N - (1 - π) μ_M‖²`:

        π = <μ_F - μ_M, μ_N - μ_M> / ‖μ_N - μ_M‖², cut to 0..1

    with members M (the retain set) and non-members N. A perfect method is said to have 1. The kernel's width is the median
    distance between members and non-members; features are standardised by both.

    The paper's text could not be read: this follows its abstract (a training-free estimate of the non-member mixture proportion
    in the feature distribution). Kernel and estimator are a choice of this project; so is the interval, which is over models.

    Args:
        target: features of the forget set under one model.
        members: of examples that the model was trained on.
        non_members: of examples never trained on.

    Returns:
        A share in 0..1; 1 where members and non-members have the same features, since then nothing shows membership.

    Raises:
        ValueError: a feature is not finite, the numbers of features differ, or there are fewer than two members or non-members.

    Source: SMI, arXiv:2602.01150; the estimator of a mixture's share by mean embeddings: Iyer et al., ICML 2014.
    """
    given = {"target": target, "members": members, "non_members": non_members}
    sides = [checks.numbers(name, side, "examples features") for name, side in given.items()]
    for name, side in zip(given, sides, strict=True):
        checks.alike(name, side, "members", sides[1])
    for name, side in zip([*given][1:], sides[1:], strict=True):
        checks.count(f"{name}: number of examples", len(side), 2)
    known = np.concatenate(sides[1:])
    spread = known.std(axis=0)
    scaled = [(side - known.mean(axis=0)) / np.where(spread > 0, spread, 1) for side in sides]
    width = float(np.median(squared_distances(scaled[1], scaled[2])))
    if width <= 0:
        return 1.0

    def product(first: np.ndarray, second: np.ndarray) -> float:
        """<μ, μ'> of two samples; of a sample with itself over pairs of different examples, so that its noise adds nothing."""
        kernel = np.exp(-squared_distances(first, second) / width)
        return float(kernel[~np.eye(len(kernel), dtype=bool)].mean() if first is second else kernel.mean())

    targets, member, other = scaled
    both, within = product(member, other), product(member, member)
    length = product(other, other) - 2 * both + within
    along = product(targets, other) - product(targets, member) - both + within
    return float(np.clip(along / length, 0, 1)) if length > 0 else 1.0


def hsic(first: Float[Any, "examples _features"], second: Float[Any, "examples _others"]) -> float:
    """The Hilbert-Schmidt independence criterion of pairs of vectors: `tr(K H L H) / (n - 1)²`, the biased estimate.

    K and L are the Gaussian kernels `exp(-‖x - x'‖² / (2 σ²))` of either side, with σ² the number of features, H subtracts means.

    Args:
        first: one side of the pairs.
        second: the other.

    Raises:
        ValueError: a value is not finite, the numbers of pairs differ, or there is only one.

    Source: Gretton et al., "Measuring Statistical Dependence with Hilbert-Schmidt Norms", ALT 2005.
    """
    sides = [checks.numbers(name, side, "examples features") for name, side in (("first", first), ("second", second))]
    checks.alike("second", sides[1][:, 0], "first", sides[0][:, 0], 0)
    count = checks.count("number of pairs", len(sides[0]), 2)
    kernels = [np.exp(-squared_distances(side, side) / (2 * side.shape[1])) for side in sides]
    centred = [kernel - kernel.mean(axis=0) - kernel.mean(axis=1, keepdims=True) + kernel.mean() for kernel in kernels]
    return float((centred[0] * centred[1]).sum() / (count - 1) ** 2)


def split_half_dependence(values: Float[Any, "examples features"], splits: int = SPLITS, seed: int = 0) -> float:
    """How dependent the two halves of a set of examples are in a model's features: the mean HSIC over random halves.

    Examples that a model was trained on are said to be more dependent on each other than others. Half of the examples are paired
    with the other half at random. Features are scaled as one, by the root mean square of their distance from the mean.

    Only the abstract and a summary of the paper could be read: the pairing is at random, and the mean over splits is a choice of
    this project.

    Args:
        values: features or outputs of one model on the examples.
        splits: number of random halves.
        seed: draws them.

    Raises:
        ValueError: a value is not finite, or there are fewer than four examples.

    Source: "Unlearning Evaluation through Subset Statistical Independence", arXiv:2603.00587.
    """
    values = checks.numbers("values", values, "examples features")
    half = checks.count("number of examples", len(values), 4) // 2
    checks.count("splits", splits, 1)
    rng = checks.generator(seed)
    centred = values / unit(values) - (values / unit(values)).mean(axis=0)
    size = float(np.sqrt((centred**2).mean()))
    scaled = centred / size if size > 0 else centred
    orders = [rng.permutation(len(values)) for _ in range(splits)]
    return float(np.mean([hsic(scaled[order[:half]], scaled[order[half : 2 * half]]) for order in orders]))


def class_js_divergence(
    forget: Float[Any, "forget classes"],
    forget_labels: Int[Any, " forget"],
    unseen: Float[Any, "unseen classes"],
    unseen_labels: Int[Any, " unseen"],
) -> float:
    """RF-JSD: how differently an unlearned model answers on F and the original on examples that it never saw, class by class.

    The Jensen-Shannon divergence of two mean predictions, that of the unlearned model over the forget examples of a class and
    that of the original over the unseen ones; the mean over the classes that both hold. A perfect method is said to have 0. In
    bits; the authors' code takes all classes as one matrix, and exchanges the arguments of the KL divergence.

    Args:
        forget: probabilities of the unlearned model on F.
        forget_labels: of F, as trained on.
        unseen: probabilities of the original.
        unseen_labels: of the unseen examples.

    Returns:
        A number in 0..1.

    Raises:
        ValueError: the values are no probabilities, a label is no class, or the two share no class.

    Source: LoTUS, arXiv:2503.18314, and its code.
    """
    sides = []
    for name, p, labels in (("forget", forget, forget_labels), ("unseen", unseen, unseen_labels)):
        p = checks.probabilities(name, p, "examples classes")
        sides.append((p, checks.labels(f"{name}_labels", labels, *p.shape)))
    checks.alike("unseen", sides[1][0], "forget", sides[0][0])
    common = np.intersect1d(sides[0][1], sides[1][1])
    if not len(common):
        raise ValueError("unseen_labels: no class of forget_labels is among them, expected one or more")
    means = [np.stack([p[labels == label].mean(axis=0) for label in common]) for p, labels in sides]
    return float(js_divergence(means[0][None], means[1][None]).mean())


def unlearning_completeness(
    unlearned: Float[Any, "models targets"],
    original: Float[Any, "models targets"],
    shadows: Float[Any, "shadows targets"],
    saw: Bool[Any, "shadows targets"],
) -> Float[np.ndarray, "models targets"]:
    """IAM: how completely each forget example is unlearned, between models that never saw it and the original that fitted it.

    With the signal `s = -log(0.01 - log(p + 1e-5))` of the label's probability p, and the levels a = 0, 1/99, ..., 1, a shadow
    model's signal is moved to the original's, `s_a = s_shadow + a (s_original - s_shadow)`. At each level but the last a Gumbel
    distribution has the mean of s_a over the shadow models that never saw the example, and the standard deviation of s_a over
    all of these and all examples. Completeness is `1 - Σ a' F_a(s_unlearned) / Σ a'`, where a' is the next level. A perfect
    method is said to have 1; a retrained model need not, which the null shows.

    It needs no model that was retrained without the forget set: one shadow model of other examples will do.

    Args:
        unlearned: margins of the unlearned models.
        original: of the original that each was unlearned from.
        shadows: of shadow models.
        saw: which of them trained on which example, and do not count there.

    Returns:
        0..1 for each model and example.

    Raises:
        ValueError: a margin is not finite, the sides are of other examples, or every shadow model saw some example.

    Source: IAM, Wang et al., arXiv:2506.06112: its abstract, and its code (github.com/Happy2Git/Unlearning_Inference_IAM).
    """
    given = {"unlearned": unlearned, "original": original, "shadows": shadows}
    sides = {name: checks.numbers(name, side, "models targets") for name, side in given.items()}
    for name, side in sides.items():
        checks.alike(name, side, "unlearned", sides["unlearned"])
    checks.alike("original", sides["original"], "unlearned", sides["unlearned"], 0)
    counted = ~checks.truths("saw", saw, "shadows targets")
    checks.alike("saw", counted, "shadows", sides["shadows"], 0)
    count = counted.sum(axis=0)
    if count.min() < 1:
        raise ValueError("saw: every shadow model saw some example, expected one or more that did not")
    signal, fitted, never = (-np.log(0.01 - np.log(expit(np.asarray(side, np.float64)) + 1e-5)) for side in sides.values())
    entries, shares = never[counted], count / count.sum()
    mean = np.where(counted, never, 0).sum(axis=0) / count
    centre = fitted @ shares
    variances = entries.var(), (fitted - centre[:, None]) ** 2 @ shares
    covariance = (fitted - centre[:, None]) * (mean - entries.mean()) @ shares
    levels = np.linspace(0, 1, LEVELS)
    score = np.zeros(signal.shape)
    for level, weight in itertools.pairwise(levels):
        variance = (1 - level) ** 2 * variances[0] + level**2 * variances[1] + 2 * level * (1 - level) * covariance
        scale = np.sqrt(6 * np.maximum(variance, np.finfo(float).tiny))[:, None] / np.pi
        place = (1 - level) * mean + level * fitted - np.euler_gamma * scale
        with np.errstate(over="ignore"):
            score += weight * np.exp(-np.exp((place - signal) / scale))
    return 1 - score / levels[1:].sum()
