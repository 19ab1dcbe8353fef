"""The expected loss over seeds as a sum of bias and variance."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import logsumexp

from unlearn_jax.metrics import checks
from unlearn_jax.metrics.scores import log_probabilities, probabilities


class Decomposition(NamedTuple):
    """The expected loss of each example over a pool of models, `loss = bias + variance`; the bias includes label noise."""

    loss: Float[np.ndarray, " examples"]
    bias: Float[np.ndarray, " examples"]
    variance: Float[np.ndarray, " examples"]


def cross_entropy_decomposition(logits: Float[Any, "members examples classes"], labels: Int[Any, " examples"]) -> Decomposition:
    """`E_s[-log p_sy] = -log p̄_y + E_s[KL(p̄ ∥ p_s)]`, where p̄ is the normalised geometric mean, `p̄_c ∝ exp E_s[log p_sc]`.

    For a one-hot label -log p̄_y is KL(y ∥ p̄). With `log Z = log Σ_c exp E_s[log p_sc]` the variance is -log Z, which does not
    depend on the label. These are the values of the pool at hand: with n models the variance is too small and the bias too large
    by a term of order 1/n, which `statistics.pseudo_values` removes.

    Args:
        logits: of models that differ in their seed.
        labels: the class of each example.

    Returns:
        Nats; no variance is below 0, and it is 0 where all models give the same probabilities.

    Raises:
        ValueError: if a member's logits are not finite, or a label is no class.

    Source: Heskes, "Bias/Variance Decompositions for Likelihood-Based Estimators", Neural Computation 10, 1998; Yang et al.,
        "Rethinking Bias-Variance Trade-off for Generalization of Neural Networks", arXiv 2002.11328.
    """
    labels = checks.labels("labels", labels, *checks.logits("logits", logits).shape[1:])
    mean = log_probabilities(logits).mean(0)
    loss = -np.take_along_axis(mean, labels[:, None], -1)[:, 0]
    variance = np.maximum(-logsumexp(mean, axis=-1), 0.0)  # below 0 by rounding alone
    return Decomposition(loss, loss - variance, variance)


def brier_decomposition(logits: Float[Any, "members examples classes"], labels: Int[Any, " examples"]) -> Decomposition:
    """`E_s[|p_s - y|²] = |p̄ - y|² + E_s[|p_s - p̄|²]`, where p̄ is the mean of the probabilities and y the one-hot label.

    As in `cross_entropy_decomposition`, the variance of n models is too small; `statistics.pseudo_values` makes it unbiased.

    Args:
        logits: of models that differ in their seed.
        labels: the class of each example.

    Returns:
        Squared probability: the loss is in 0..2, the variance in 0..1.

    Raises:
        ValueError: if a member's logits are not finite, or a label is no class.

    Source: Brier, Monthly Weather Review 78, 1950; Geman, Bienenstock & Doursat, Neural Computation 4, 1992.
    """
    labels = checks.labels("labels", labels, *checks.logits("logits", logits).shape[1:])
    p = probabilities(logits)
    mean = p.mean(0)
    bias = ((mean - np.eye(p.shape[-1])[labels]) ** 2).sum(-1)
    variance = ((p - mean) ** 2).mean(0).sum(-1)
    return Decomposition(bias + variance, bias, variance)
