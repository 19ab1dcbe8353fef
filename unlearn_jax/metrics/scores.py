"""Scores of single examples by single models: margins, losses, entropies. In float64, stable at large logits."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from unlearn_jax.metrics import checks

TINY = 1e-30  # floor of probabilities in logarithms


def log_probabilities(logits: Float[Any, "*members classes"]) -> Float[np.ndarray, "*members classes"]:
    """`log p_c = z_c - log Σ_j exp z_j`, in nats.

    Raises:
        ValueError: if logits are not finite, have only one class, or are probabilities.
    """
    logits = checks.logits("logits", logits, "members ... classes" if np.ndim(logits) > 1 else "classes")
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def probabilities(logits: Float[Any, "*members classes"]) -> Float[np.ndarray, "*members classes"]:
    """The softmax of the logits.

    Raises:
        ValueError: see `log_probabilities`.
    """
    return np.exp(log_probabilities(logits))


def scaled_logits(
    logits: Float[Any, "members examples classes"], labels: Int[Any, " examples"]
) -> Float[np.ndarray, "members examples"]:
    """The logit of the probability of the label, `φ = log p_y - log Σ_{j≠y} p_j = z_y - log Σ_{j≠y} exp z_j`.

    It is nearly Gaussian over retrained models, so attacks and KLOM use it. Also called the margin.

    Args:
        logits: at least two classes.
        labels: the class of each example.

    Returns:
        φ, in nats.

    Raises:
        ValueError: if logits are not finite, have only one class, or are probabilities; or a label is no class.

    Source: Carlini et al., "Membership Inference Attacks From First Principles", arXiv:2112.03570.
    """
    logits = checks.logits("logits", logits)
    label = checks.labels("labels", labels, *logits.shape[1:])[None, :, None]
    others = logits.copy()
    np.put_along_axis(others, label, -np.inf, -1)
    largest = others.max(-1, keepdims=True)
    log_others = largest[..., 0] + np.log(np.exp(others - largest).sum(-1))
    return np.take_along_axis(logits, label, -1)[..., 0] - log_others


margins = scaled_logits


def cross_entropy_losses(
    logits: Float[Any, "members examples classes"], labels: Int[Any, " examples"]
) -> Float[np.ndarray, "members examples"]:
    """The loss of each example, `-log p_y`, in nats.

    Raises:
        ValueError: see `scaled_logits`.
    """
    label = checks.labels("labels", labels, *checks.logits("logits", logits).shape[1:])[None, :, None]
    return -np.take_along_axis(log_probabilities(logits), label, -1)[..., 0]


def entropies(probabilities: Float[Any, "*batch classes"]) -> Float[np.ndarray, "*batch"]:
    """`-Σ_c p_c log p_c`, in nats; `0 log 0 = 0`.

    Raises:
        ValueError: if the values are not probabilities.
    """
    p = checks.probabilities("probabilities", probabilities)
    return -(p * np.log(np.maximum(p, TINY))).sum(-1)


def modified_entropies(
    probabilities: Float[Any, "*batch examples classes"], labels: Int[Any, " examples"]
) -> Float[np.ndarray, "*batch examples"]:
    """`-(1 - p_y) log p_y - Σ_{j≠y} p_j log(1 - p_j)`, in nats: an entropy that takes the label into account.

    Zero for confident right predictions, large for confident wrong ones. Logarithms are floored at log 1e-30.

    Raises:
        ValueError: if the values are not probabilities, or a label is no class.

    Source: Song & Mittal, "Systematic Evaluation of Privacy Risks of Machine Learning Models", arXiv:2003.10595.
    """
    p = checks.probabilities("probabilities", probabilities, "... examples classes")
    right = np.arange(p.shape[-1]) == checks.labels("labels", labels, *p.shape[-2:])[:, None]
    towards, against = np.where(right, 1 - p, p), np.where(right, p, 1 - p)
    return -(towards * np.log(np.maximum(against, TINY))).sum(-1)
