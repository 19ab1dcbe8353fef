"""KLOM: the KL divergence between the margins of unlearned and retrained models, example by example."""

from typing import Any

import numpy as np
from jaxtyping import Float

from unlearn_jax.metrics import checks

MARGINS = "members examples"
BLOCK = 2**20  # margins that are counted at a time


def klom(
    unlearned: Float[Any, "models examples"],
    oracle: Float[Any, "oracles examples"],
    bins: int = 20,
    clip: float = 100,
    eps: float = 1e-5,
    drop_largest: bool = False,
) -> Float[np.ndarray, " examples"]:
    """KL divergence of margins: `Σ_{b: p_b > 0} p_b log(p_b / max(q_b, eps))` for each example.

    p and q are the histograms of the unlearned and of the oracle margins over `bins` equal bins between the smallest
    and the largest of both; the last bin includes the largest. (The code of EasyDUB drops it: `drop_largest`.) A histogram of
    few models is far from its distribution: two samples of 24 from one distribution have a KLOM of about 2.4, so never read a
    value without the null of as many models. Since q is floored and not renormalised, a value may be negative, but not below
    -bins x eps.

    Args:
        unlearned: margins (`scaled_logits`) of the unlearned models.
        oracle: margins of the retrained models.
        bins: number of bins.
        clip: margins are first clipped to ±clip.
        eps: floor of the oracles' mass in a bin.
        drop_largest: leave the largest margin of both sides out of both histograms, as the code of EasyDUB (arXiv 2602.16400)
            does, for numbers that are compared with its.

    Returns:
        Nats, one number per example: report the mean and the 95th percentile.

    Raises:
        ValueError: if a member's margins are not finite, the two sides have different examples, there are fewer than two bins, or
            `clip` or `eps` is not above 0.

    Source: Georgiev et al., "Attribute-to-Delete: Machine Unlearning via Datamodel Matching", arXiv:2410.23232.
    """
    checks.count("bins", bins, 2)  # a single one would contain all margins of both sides
    for name, value in (("clip", clip), ("eps", eps)):
        checks.numbers(name, value, low=np.finfo(float).tiny)
    unlearned, oracle = checks.numbers("unlearned", unlearned, MARGINS), checks.numbers("oracle", oracle, MARGINS)
    checks.alike("unlearned", unlearned, "oracle", oracle)
    models, examples = len(unlearned) + len(oracle), unlearned.shape[1]
    step = max(1, BLOCK // models)
    parts = [slice(first, first + step) for first in range(0, examples, step)]
    return np.concatenate([_klom(unlearned[:, part], oracle[:, part], bins, clip, eps, drop_largest) for part in parts])


def _klom(
    unlearned: np.ndarray, oracle: np.ndarray, bins: int, clip: int | float, eps: float, drop_largest: bool
) -> Float[np.ndarray, " examples"]:
    unlearned, oracle = (np.clip(side, -clip, clip) for side in (unlearned, oracle))
    low = np.minimum(unlearned.min(0), oracle.min(0))
    high = np.maximum(unlearned.max(0), oracle.max(0))
    width = (high - low) / bins
    end = np.where(width > 0, high, np.inf) if drop_largest else None
    p, q = (_histogram(side, low, width, bins, end) for side in (unlearned, oracle))
    nonempty = p > 0
    return np.where(nonempty, p * np.log(np.where(nonempty, p, 1) / np.maximum(q, eps)), 0).sum(-1)


def _histogram(
    values: np.ndarray, low: np.ndarray, width: np.ndarray, bins: int, end: np.ndarray | None
) -> Float[np.ndarray, "examples bins"]:
    """Shares of the values in each bin; of those below `end`, if it is given, and nothing but 0 where there are none."""
    models, examples = values.shape
    bin_of = np.minimum(np.floor((values - low) / np.where(width > 0, width, 1)), bins - 1)
    # Rounding must not make adjacent bins overlap, so bins are corrected by comparing with their edges.
    bin_of -= values < low + bin_of * width
    bin_of += (bin_of < bins - 1) & (values >= low + (bin_of + 1) * width)
    places = np.arange(examples) * bins + bin_of.astype(np.intp)
    if end is None:
        return np.bincount(places.ravel(), minlength=examples * bins).reshape(examples, bins) / models
    below = values < end
    counts = np.bincount(places[below], minlength=examples * bins).reshape(examples, bins)
    return counts / np.maximum(below.sum(axis=0), 1)[:, None]
