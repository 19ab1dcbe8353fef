"""Example by example: do unlearned and retrained models differ there? Welch's t of their margins."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import stdtr
from scipy.stats import false_discovery_control

from unlearn_jax.metrics import checks
from unlearn_jax.metrics.statistics import ROUNDING

LARGEST = 1e3  # |t| is cut here: where neither side varies, a difference would be infinite
COUNT = 5  # examples that `largest_t` is over


class ExampleTests(NamedTuple):
    """A test of each example.

    Attributes:
        t: Welch's t, above 0 where the unlearned models' margin is larger.
        q: p-values adjusted for the number of examples (Benjamini & Hochberg): of the examples with q below 0.05, one in twenty
            at most is there by chance, on average.
    """

    t: Float[np.ndarray, " examples"]
    q: Float[np.ndarray, " examples"]


def welch_t(unlearned: Float[Any, "models examples"], oracle: Float[Any, "oracles examples"]) -> Float[np.ndarray, " examples"]:
    """Welch's t of each example, `(mean u - mean o) / sqrt(var u / n + var o / m)`, cut at ±1,000.

    It is 0 where the means differ by rounding only.

    Args:
        unlearned: margins of the unlearned models.
        oracle: margins of the retrained models.

    Raises:
        ValueError: a margin is not finite, the sides have different examples, or one has fewer than two models.
    """
    return _welch(*_sides(unlearned, oracle))[0]


def largest_t(unlearned: Float[Any, "models examples"], oracle: Float[Any, "oracles examples"]) -> float:
    """The root mean square of the five largest |t| over the examples, see `welch_t`.

    Five, since methods leave more than one example behind, and one alone may be chance.

    Raises:
        ValueError: see `welch_t`.
    """
    t = np.sort(np.abs(welch_t(unlearned, oracle)))
    return float(np.sqrt(np.mean(t[-COUNT:] ** 2)))


def example_tests(unlearned: Float[Any, "models examples"], oracle: Float[Any, "oracles examples"]) -> ExampleTests:
    """Tests each example for a difference in mean margin, and controls the share of false discoveries.

    Args:
        unlearned: margins of the unlearned models.
        oracle: margins of the retrained models.

    Raises:
        ValueError: see `welch_t`.

    Source: Welch, Biometrika 34, 1947; Benjamini & Hochberg, Journal of the Royal Statistical Society B 57, 1995.
    """
    t, freedom = _welch(*_sides(unlearned, oracle))
    return ExampleTests(t, false_discovery_control(np.minimum(2 * stdtr(freedom, -np.abs(t)), 1)))


def _sides(unlearned: Any, oracle: Any) -> tuple[np.ndarray, np.ndarray]:
    unlearned, oracle = (
        np.asarray(checks.numbers(name, side, "models examples"), np.float64)
        for name, side in (("unlearned", unlearned), ("oracle", oracle))
    )
    checks.alike("unlearned", unlearned, "oracle", oracle)
    if min(len(unlearned), len(oracle)) < 2:
        raise ValueError(f"unlearned, oracle: {len(unlearned)} and {len(oracle)} models, expected two or more on each side")
    return unlearned, oracle


def _welch(unlearned: np.ndarray, oracle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Student's t with its degrees of freedom."""
    squares = [side.var(axis=0, ddof=1) / len(side) for side in (unlearned, oracle)]
    difference, error = unlearned.mean(axis=0) - oracle.mean(axis=0), np.sqrt(squares[0] + squares[1])
    largest = np.maximum(np.abs(unlearned).max(axis=0), np.abs(oracle).max(axis=0))
    differs = np.abs(difference) > ROUNDING * largest
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(differs, np.clip(difference / error, -LARGEST, LARGEST), 0.0)
        freedom = (squares[0] + squares[1]) ** 2 / sum(
            square**2 / (len(side) - 1) for square, side in zip(squares, (unlearned, oracle), strict=True)
        )
    least = min(len(unlearned), len(oracle)) - 1
    return t, np.where(np.isfinite(freedom), freedom, least)
