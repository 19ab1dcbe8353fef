"""Distances of each unlearned model's probabilities to the oracles' mean probability."""

from typing import Any

import numpy as np
from jaxtyping import Float

from unlearn_jax.metrics.scores import TINY, finite

Distances = Float[np.ndarray, "members examples"]


def kl_to_oracle(unlearned: Float[Any, "members examples classes"], oracle: Float[Any, "oracles examples classes"]) -> Distances:
    """`KL(p ∥ q̄) = Σ_c p_c log(p_c / q̄_c)`, where q̄ is the mean over the oracles.

    This direction stays finite: q̄ is zero only where every oracle is (and is floored at 1e-30 there).

    Args:
        unlearned: probabilities of the unlearned models.
        oracle: probabilities of the retrained models.

    Returns:
        Nats.

    Raises:
        ValueError: if a member's probabilities are not finite.
    """
    p, q = finite(unlearned), finite(oracle).mean(0)
    return _kl(p, np.log(np.maximum(q, TINY)))


def activation_distance(
    unlearned: Float[Any, "members examples classes"], oracle: Float[Any, "oracles examples classes"]
) -> Distances:
    """`|p - q̄|₂`, where q̄ is the mean over the oracles.

    Args:
        unlearned: probabilities of the unlearned models.
        oracle: probabilities of the retrained models.

    Returns:
        A number in 0..√2.

    Raises:
        ValueError: if a member's probabilities are not finite.

    Source: Golatkar et al., arXiv:1911.04933; to one retrained model there.
    """
    return np.sqrt(((finite(unlearned) - finite(oracle).mean(0)) ** 2).sum(-1))


def js_divergence(unlearned: Float[Any, "members examples classes"], oracle: Float[Any, "oracles examples classes"]) -> Distances:
    """`(KL(p ∥ m) + KL(q̄ ∥ m)) / 2` with `m = (p + q̄) / 2`, where q̄ is the mean over the oracles.

    Args:
        unlearned: probabilities of the unlearned models.
        oracle: probabilities of the retrained models.

    Returns:
        Bits, in 0..1.

    Raises:
        ValueError: if a member's probabilities are not finite.

    Source: Lin, "Divergence Measures Based on the Shannon Entropy", IEEE Trans. Inf. Theory 37, 1991.
    """
    p, q = finite(unlearned), finite(oracle).mean(0)
    log_middle = np.log(np.maximum((p + q) / 2, TINY))
    return (_kl(p, log_middle) + _kl(q, log_middle)) / (2 * np.log(2))


def _kl(p: np.ndarray, log_q: np.ndarray) -> Distances:
    return (p * (np.log(np.maximum(p, TINY)) - log_q)).sum(-1)
