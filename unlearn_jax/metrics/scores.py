"""What one model says about one example: margins, losses, entropies. All in float64, all stable at large logits."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

TINY = 1e-30


def finite(values: Float[Any, "members ..."], rows: str = "members") -> Float[np.ndarray, "members ..."]:
    """The values in float64, once none of them is NaN or infinite.

    Args:
        values: one row per member.
        rows: what the rows are called in the message, if they are not members.

    Returns:
        The same values as a NumPy array.

    Raises:
        ValueError: naming the members that hold a value which is not finite. A diverged member has no place in an
            average: drop it, and compare at the smaller number of members.
    """
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        diverged = [str(member) for member, row in enumerate(values) if not np.isfinite(row).all()]
        raise ValueError(f"{rows} {', '.join(diverged)} have values that are not finite: drop them first")
    return values


def both_finite(
    one: Float[Any, "members ..."], other: Float[Any, "others ..."], others: str = "members"
) -> tuple[Float[np.ndarray, "members ..."], Float[np.ndarray, "others ..."]]:
    """Two groups of models, as `finite` gives them, once they are about the same examples: no one is held against many.

    Args:
        one: a row per member.
        other: those of the other group.
        others: what the rows of the other group are called in a message.

    Raises:
        ValueError: see `finite`; or the groups have other examples or classes.
    """
    first, second = finite(one), finite(other, others)
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(f"models of shape {first.shape[1:]} cannot be held against models of shape {second.shape[1:]}")
    return first, second


def log_probabilities(logits: Float[Any, "*members classes"]) -> Float[np.ndarray, "*members classes"]:
    """`log p_c = z_c - log Σ_j exp z_j`, in nats.

    Raises:
        ValueError: if a member's logits are not finite.
    """
    logits = finite(logits)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def probabilities(logits: Float[Any, "*members classes"]) -> Float[np.ndarray, "*members classes"]:
    """The softmax of the logits.

    Raises:
        ValueError: if a member's logits are not finite.
    """
    return np.exp(log_probabilities(logits))


def scaled_logits(
    logits: Float[Any, "members examples classes"], labels: Int[Any, " examples"]
) -> Float[np.ndarray, "members examples"]:
    """The logit of the probability of the label, `φ = log p_y - log Σ_{j≠y} p_j = z_y - log Σ_{j≠y} exp z_j`.

    Near-Gaussian over retrained models, which is why attacks and KLOM work on it. Also called the margin.

    Args:
        logits: at least two classes.
        labels: the class of each example.

    Returns:
        φ, in nats.

    Raises:
        ValueError: if a member's logits are not finite.

    Source: Carlini et al., "Membership Inference Attacks From First Principles", arXiv:2112.03570.
    """
    logits = finite(logits)
    label = np.asarray(labels)[None, :, None]
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
        ValueError: if a member's logits are not finite.
    """
    label = np.asarray(labels)[None, :, None]
    return -np.take_along_axis(log_probabilities(logits), label, -1)[..., 0]


def entropies(probabilities: Float[Any, "*batch classes"]) -> Float[np.ndarray, "*batch"]:
    """`-Σ_c p_c log p_c`, in nats; `0 log 0 = 0`."""
    p = np.asarray(probabilities, np.float64)
    return -(p * np.log(np.maximum(p, TINY))).sum(-1)


def modified_entropies(
    probabilities: Float[Any, "*batch examples classes"], labels: Int[Any, " examples"]
) -> Float[np.ndarray, "*batch examples"]:
    """`-(1 - p_y) log p_y - Σ_{j≠y} p_j log(1 - p_j)`, in nats: an entropy that knows the label.

    Zero where the model is right and sure, large where it is wrong and sure. Logarithms are floored at log 1e-30.

    Source: Song & Mittal, "Systematic Evaluation of Privacy Risks of Machine Learning Models", arXiv:2003.10595.
    """
    p = np.asarray(probabilities, np.float64)
    right = np.arange(p.shape[-1]) == np.asarray(labels)[:, None]
    towards, against = np.where(right, 1 - p, p), np.where(right, p, 1 - p)
    return -(towards * np.log(np.maximum(against, TINY))).sum(-1)
