"""Distances of probabilities and weights to the oracles and to untrained networks; loss barriers between models."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from unlearn_jax.kept import blocks, mean_of
from unlearn_jax.metrics import checks
from unlearn_jax.metrics.scores import TINY

Distances = Float[np.ndarray, "members examples"]
Probabilities = Float[np.ndarray, "members examples classes"]
Mean = Float[np.ndarray, "examples classes"]
BLOCK = 2**18  # probabilities that are worked on at a time


def kl_to_oracle(unlearned: Float[Any, "members examples classes"], oracle: Float[Any, "oracles examples classes"]) -> Distances:
    """`KL(p ∥ q̄) = Σ_c p_c log(p_c / q̄_c)`, where q̄ is the mean over the oracles.

    This direction stays finite: q̄ is zero only where every oracle is, and counts as 1e-30 at least.

    Args:
        unlearned: probabilities of the unlearned models.
        oracle: probabilities of the retrained models.

    Returns:
        Nats.

    Raises:
        ValueError: if the values are not probabilities, or the two sides have different examples or classes.
    """
    p, oracle = _check_pair(unlearned=unlearned, oracle=oracle)
    return kl_to_mean(p, oracle.mean(0))


def gaussian_distance(unlearned: Float[Any, "members examples"], oracle: Float[Any, "oracles examples"]) -> float:
    """Root mean square over examples of the 2-Wasserstein distance of Gaussians, in the oracles' root mean square sd.

    Nothing is checked: of models that diverged it is NaN, which searches count as far.

    Args:
        unlearned: margins of the unlearned models.
        oracle: margins of the retrained models.
    """
    squared = (unlearned.mean(0) - oracle.mean(0)) ** 2 + (unlearned.std(0) - oracle.std(0)) ** 2
    return float(np.sqrt(squared.mean() / oracle.var(0).mean()))


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
        ValueError: if the values are not probabilities, or the two sides have different examples or classes.

    Source: Golatkar et al., arXiv:1911.04933, with a single retrained model.
    """
    p, oracle = _check_pair(unlearned=unlearned, oracle=oracle)
    return activation_to_mean(p, oracle.mean(0))


def js_divergence(unlearned: Float[Any, "members examples classes"], oracle: Float[Any, "oracles examples classes"]) -> Distances:
    """`(KL(p ∥ m) + KL(q̄ ∥ m)) / 2` with `m = (p + q̄) / 2`, where q̄ is the mean over the oracles.

    Args:
        unlearned: probabilities of the unlearned models.
        oracle: probabilities of the retrained models.

    Returns:
        Bits, in 0..1.

    Raises:
        ValueError: if the values are not probabilities, or the two sides have different examples or classes.

    Source: Lin, "Divergence Measures Based on the Shannon Entropy", IEEE Trans. Inf. Theory 37, 1991.
    """
    p, oracle = _check_pair(unlearned=unlearned, oracle=oracle)
    return js_to_mean(p, oracle.mean(0))


def kl_to_mean(p: Probabilities, mean: Mean) -> Distances:
    """`kl_to_oracle` with the oracles' mean. Like the next two it checks nothing: nulls compare the same models many times."""
    log_mean = np.log(np.maximum(mean, TINY))
    return _in_blocks(lambda some: _kl(some, log_mean), p)


def activation_to_mean(p: Probabilities, mean: Mean) -> Distances:
    """`activation_distance` with the oracles' mean."""
    return _in_blocks(lambda some: np.sqrt(((some - mean) ** 2).sum(-1)), p)


def js_to_mean(p: Probabilities, mean: Mean) -> Distances:
    """`js_divergence` with the oracles' mean."""
    return _in_blocks(lambda some: _js(some, mean), p)


def zrf(
    probabilities: Float[Any, "members examples classes"],
    untrained: Float[Any, "nets examples classes"],
    *,
    authors: bool = False,
) -> Float[np.ndarray, " members"]:
    """The zero retrain forgetting score, `1 - mean JS(p, r)` over the forget set, where r is the prediction of an untrained net.

    A value near 1 means that a model predicts like an untrained one on F. A retrained model, which has learned other examples of
    the same classes, does not: the aim is the oracles' value, not 1.

    The authors' code and published values differ from the definition and are much closer to 1 (0.928 instead of 0.504): they
    are in nats, with reversed divergences, `(KL(m ∥ p) + KL(m ∥ r)) / 2` with `m = (p + r) / 2`, and the mean is over examples
    *and classes*. `authors` computes that form, for comparison with published values.

    Args:
        probabilities: of the models, on the forget set.
        untrained: of freshly initialised networks; the divergence is averaged over them.
        authors: the form of the authors' code. That has one untrained network, and is infinite if a probability is 0 (here
            probabilities are at least 1e-30).

    Returns:
        A number in 0..1 for each member (divergence in bits); in the authors' form, at most 1.

    Raises:
        ValueError: if the values are not probabilities, or the two sides have different examples or classes.

    Source: Chundawat et al., "Can Bad Teaching Induce Forgetting?", arXiv:2205.08096.
    """
    p, nets = _check_pair(probabilities=probabilities, untrained=untrained)
    if authors:
        return 1 - np.mean([_reversed_js(p, net).mean(1) for net in nets], axis=0) / p.shape[-1]
    return 1 - np.mean([_js(p, net).mean(1) for net in nets], axis=0)


def weight_distance(
    weights: Mapping[str, Any], oracles: Mapping[str, Any] | None = None
) -> dict[str, Float[np.ndarray, " members"]]:
    """The Euclidean distance of each model's weights to the oracles' mean weights, in all and layer by layer.

    Oracles with different initialisations have permuted features, so their mean is near the origin and the distance is mostly a
    norm. It is most informative if originals and oracles share an initialisation.

    Args:
        weights: arrays with the members first, nested by name; the outermost names are the layers. For ensembles the second
            axis is their networks.
        oracles: weights of the retrained models. None: the members are the oracles, and each is compared with the mean of the
            others, since an unlearned model is not among the models that it is compared with either.

    Returns:
        The distances, under `all` and under the name of each layer.

    Raises:
        ValueError: if weights are not finite, their shapes differ, or fewer than two oracles are compared with each other.
    """
    _require_same_networks(weights, weights if oracles is None else oracles)
    layers = {name: jax.tree.leaves(layer) for name, layer in weights.items()}
    others = layers if oracles is None else {name: jax.tree.leaves(oracles[name]) for name in layers}
    count = len(next(leaf for leaves in others.values() for leaf in leaves))
    if oracles is None and count < 2:
        raise ValueError("weights: one oracle, expected two or more to compare with each other")
    scale = count / (count - 1) if oracles is None else 1.0  # θ_i - mean of the others = scale x (θ_i - mean of all)

    def squared(leaf: Any, other: Any) -> np.ndarray:
        mean = checks.numbers("weights" if oracles is None else "oracles", mean_of(other))
        return np.array([((row - mean) ** 2).sum() for block in blocks(leaf) for row in np.asarray(block)])

    sums = {name: sum(map(squared, leaves, others[name])) for name, leaves in layers.items()}
    squares = {"all": sum(sums.values()), **sums}
    return {name: scale * np.sqrt(checks.numbers("weights", square, "members")) for name, square in squares.items()}


def barriers(losses: Float[Any, "lines points"], shares: Float[Any, " points"]) -> Float[np.ndarray, " lines"]:
    """`max_t [L(t) - ((1-t) L(0) + t L(1))]`: how far the loss along a line rises above the straight line between its ends.

    Args:
        losses: at the points of each line.
        shares: t of each point, from 0 at one end to 1 at the other.

    Returns:
        In the loss's unit, 0 or more: at the ends the difference is 0.

    Raises:
        ValueError: if a loss is not finite, or the points do not go from 0 to 1.

    Source: Frankle et al., arXiv 1912.05671 (above the mean of the ends); Entezari et al., arXiv 2110.06296.
    """
    values, t = checks.numbers("losses", losses, "lines points"), checks.numbers("shares", shares, "points", low=0, high=1)
    if len(t) < 2 or t[0] != 0 or t[-1] != 1 or (np.diff(t) < 0).any():
        raise ValueError(f"shares: {t[0]:g} to {t[-1]:g} found, expected points that rise from 0 to 1")
    if len(t) != values.shape[1]:
        raise ValueError(f"shares: {len(t)} points, expected one for each of {values.shape[1]} losses")
    return (values - ((1 - t)[None] * values[:, :1] + t[None] * values[:, -1:])).max(1)


def _in_blocks(measure: Callable[[np.ndarray], Distances], p: np.ndarray) -> Distances:
    """The distances of all members, a few at a time: what is needed meanwhile does not grow with their number."""
    step = max(1, BLOCK // p[0].size)
    return np.concatenate([measure(p[first : first + step]) for first in range(0, len(p), step)])


def _check_pair(**sides: Any) -> list[np.ndarray]:
    """Checks probabilities of two groups of models on the same examples."""
    rows = {name: "nets" if name == "untrained" else "members" for name in sides}
    checked = {name: checks.probabilities(name, side, f"{rows[name]} examples classes") for name, side in sides.items()}
    (name, one), (other_name, other) = checked.items()
    checks.alike(name, one, other_name, other)
    return [one, other]


def _require_same_networks(weights: Mapping[str, Any], oracles: Mapping[str, Any]) -> None:
    if weights.keys() != oracles.keys() or not weights:
        raise ValueError(f"oracles: layers {sorted(oracles)}, expected {sorted(weights)}")
    for name in weights:
        shapes, others = ([np.shape(leaf)[1:] for leaf in jax.tree.leaves(side[name])] for side in (weights, oracles))
        fits = [len(a) - len(b) in (0, 1) and a[len(a) - len(b) :] == b for a, b in zip(shapes, others, strict=False)]
        if len(shapes) != len(others) or not all(fits):
            raise ValueError(f"oracles: {name} of shapes {others} beyond the members, expected {shapes}")


def _js(p: np.ndarray, q: np.ndarray) -> Distances:
    log_middle = np.log(np.maximum((p + q) / 2, TINY))
    return (_kl(p, log_middle) + _kl(q, log_middle)) / (2 * np.log(2))


def _reversed_js(p: np.ndarray, q: np.ndarray) -> Distances:
    middle = (p + q) / 2
    return (_kl(middle, np.log(np.maximum(p, TINY))) + _kl(middle, np.log(np.maximum(q, TINY)))) / 2


def _kl(p: np.ndarray, log_q: np.ndarray) -> Distances:
    return (p * (np.log(np.maximum(p, TINY)) - log_q)).sum(-1)
