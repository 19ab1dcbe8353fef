"""Distances of each unlearned model to the oracles (of its probabilities, of its weights), and to a net that knows nothing; and
what stands between two models.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from unlearn_jax.metrics.scores import TINY, both_finite, finite

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
        ValueError: if a probability is not finite, or the two sides have other examples or classes.
    """
    p, oracle = both_finite(unlearned, oracle)
    return _kl(p, np.log(np.maximum(oracle.mean(0), TINY)))


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
        ValueError: if a probability is not finite, or the two sides have other examples or classes.

    Source: Golatkar et al., arXiv:1911.04933; to one retrained model there.
    """
    p, oracle = both_finite(unlearned, oracle)
    return np.sqrt(((p - oracle.mean(0)) ** 2).sum(-1))


def js_divergence(unlearned: Float[Any, "members examples classes"], oracle: Float[Any, "oracles examples classes"]) -> Distances:
    """`(KL(p ∥ m) + KL(q̄ ∥ m)) / 2` with `m = (p + q̄) / 2`, where q̄ is the mean over the oracles.

    Args:
        unlearned: probabilities of the unlearned models.
        oracle: probabilities of the retrained models.

    Returns:
        Bits, in 0..1.

    Raises:
        ValueError: if a probability is not finite, or the two sides have other examples or classes.

    Source: Lin, "Divergence Measures Based on the Shannon Entropy", IEEE Trans. Inf. Theory 37, 1991.
    """
    p, oracle = both_finite(unlearned, oracle)
    return _js(p, oracle.mean(0))


def zrf(
    probabilities: Float[Any, "members examples classes"], untrained: Float[Any, "nets examples classes"]
) -> Float[np.ndarray, " members"]:
    """The zero retrain forgetting score, `1 - mean JS(p, r)` over the forget set, r being what an untrained net says.

    Near 1 a model answers like one that has learned nothing, on F: a retrained model, which knows other examples of the same
    classes, does not. What is wanted is the oracles' value, not 1.

    Args:
        probabilities: of the models, on the forget set.
        untrained: of freshly initialised nets; the divergence is averaged over them.

    Returns:
        A number in 0..1 for each member; the divergence is in bits.

    Raises:
        ValueError: if a probability is not finite, or the two sides have other examples or classes.

    Source: Chundawat et al., "Can Bad Teaching Induce Forgetting?", arXiv:2205.08096.
    """
    p, nets = both_finite(probabilities, untrained, "nets")
    return 1 - np.mean([_js(p, net).mean(1) for net in nets], axis=0)


def weight_distance(
    weights: Mapping[str, Any], oracles: Mapping[str, Any] | None = None
) -> dict[str, Float[np.ndarray, " members"]]:
    """The Euclidean distance of each model's weights to the oracles' mean weights, in all and layer by layer.

    Oracles of different initialisations have their features in different orders, so that their mean is no model and lies near
    the origin: the distance is then mostly a norm. It says most where originals and oracles share their initialisation.

    Args:
        weights: arrays with the members first, nested by name; the outermost names are the layers.
        oracles: those of the retrained models. None: the members are the oracles, and each is held against the mean of the
            others, as an unlearned model is against models that do not include it.

    Returns:
        The distances, under `all` and under the name of each layer.

    Raises:
        ValueError: if a member's weights are not finite, or fewer than two oracles are held against each other.
    """
    layers = {name: jax.tree.leaves(layer) for name, layer in weights.items()}
    others = layers if oracles is None else {name: jax.tree.leaves(oracles[name]) for name in layers}
    count = len(next(leaf for leaves in others.values() for leaf in leaves))
    if oracles is None and count < 2:
        raise ValueError("one oracle has no others that its weights could be held against")
    scale = count / (count - 1) if oracles is None else 1.0  # θ_i - mean of the others = that times (θ_i - mean of all)

    def squared(leaf: Any, other: Any) -> np.ndarray:
        mean = np.asarray(other).mean(0, dtype=np.float64)
        return np.array([((row - mean) ** 2).sum() for row in np.asarray(leaf)])

    sums = {name: sum(map(squared, leaves, others[name])) for name, leaves in layers.items()}
    return {name: scale * np.sqrt(finite(each)) for name, each in {"all": sum(sums.values()), **sums}.items()}


def barriers(losses: Float[Any, "lines points"], shares: Float[Any, " points"]) -> Float[np.ndarray, " lines"]:
    """`max_t [L(t) - ((1-t) L(0) + t L(1))]`: how far the loss along a line rises above the straight line between its ends.

    Args:
        losses: at the points of each line.
        shares: t of each point, from 0 at one end to 1 at the other.

    Returns:
        In the loss's unit, 0 or more: at the ends the difference is 0.

    Raises:
        ValueError: if a loss is not finite, or the points do not go from 0 to 1.

    Source: Frankle et al., arXiv 1912.05671 (there from the mean of the ends); Entezari et al., arXiv 2110.06296.
    """
    values, t = finite(losses, "lines"), np.asarray(shares, np.float64)
    if len(t) < 2 or t[0] != 0 or t[-1] != 1:
        raise ValueError(f"a line goes from 0 to 1, not from {t[0]:g} to {t[-1]:g}")
    return (values - ((1 - t)[None] * values[:, :1] + t[None] * values[:, -1:])).max(1)


def _js(p: np.ndarray, q: np.ndarray) -> Distances:
    log_middle = np.log(np.maximum((p + q) / 2, TINY))
    return (_kl(p, log_middle) + _kl(q, log_middle)) / (2 * np.log(2))


def _kl(p: np.ndarray, log_q: np.ndarray) -> Distances:
    return (p * (np.log(np.maximum(p, TINY)) - log_q)).sum(-1)
