"""Accuracies, and the two scores that are made of them alone."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from unlearn_jax.metrics.scores import finite
from unlearn_jax.types import Cube, Labels

Shares = float | Float[Any, "..."]  # in 0..1, one number or one per member


class Accuracies(NamedTuple):
    """The accuracy of each member on the three splits, in percent."""

    forget: Float[np.ndarray, " members"]
    retain: Float[np.ndarray, " members"]
    test: Float[np.ndarray, " members"]

    @property
    def unlearning(self) -> Float[np.ndarray, " members"]:
        """UA = 100 - FA."""
        return 100 - self.forget


def accuracy(logits: Float[Any, "members examples classes"], labels: Int[Any, " examples"]) -> Float[np.ndarray, " members"]:
    """The share of examples whose largest logit is the label's, in percent.

    Raises:
        ValueError: if a member's logits are not finite.
    """
    return 100 * (finite(logits).argmax(-1) == np.asarray(labels)).mean(-1)


def accuracies(cube: Cube, labels: Labels) -> Accuracies:
    """FA, RA and TA in percent, and UA = 100 - FA.

    Raises:
        ValueError: if a member's logits are not finite.
    """
    return Accuracies(*(accuracy(logits, split) for logits, split in zip(cube, labels, strict=True)))


def tow(
    forget: Shares,
    retain: Shares,
    test: Shares,
    oracle_forget: Shares,
    oracle_retain: Shares,
    oracle_test: Shares,
) -> float:
    """Tug of war, `ToW = Π_{F,R,T} (1 - |mean accuracy - mean oracle accuracy|)`; 1 is perfect.

    Args:
        forget: accuracy in 0..1, one number or one per member; the same for all the others.
        retain: on the retain set.
        test: on the test set.
        oracle_forget: of the retrained models.
        oracle_retain: of the retrained models.
        oracle_test: of the retrained models.

    Returns:
        A number in 0..1.

    Source: Zhao et al., "What makes unlearning hard and what to do about it", arXiv:2406.01257.
    """
    gaps = _gaps((forget, retain, test), (oracle_forget, oracle_retain, oracle_test))
    return float(np.prod([1 - gap for gap in gaps]))


def average_gap(
    forget: Shares,
    retain: Shares,
    test: Shares,
    mia: Shares,
    oracle_forget: Shares,
    oracle_retain: Shares,
    oracle_test: Shares,
    oracle_mia: Shares,
) -> float:
    """The mean of |Δ UA|, |Δ RA|, |Δ TA| and |Δ MIA-efficacy| to the oracles' means, in percentage points; 0 is perfect.

    Args:
        forget: accuracy in 0..1, one number or one per member; the same for all the others. |Δ UA| = |Δ FA|.
        retain: on the retain set.
        test: on the test set.
        mia: MIA-efficacy of the confidence attack, `svc_mia(...)["confidence"]`.
        oracle_forget: of the retrained models.
        oracle_retain: of the retrained models.
        oracle_test: of the retrained models.
        oracle_mia: of the retrained models.

    Returns:
        A number in 0..100.

    Source: Fan et al. (SalUn), arXiv:2310.12508.
    """
    gaps = _gaps((forget, retain, test, mia), (oracle_forget, oracle_retain, oracle_test, oracle_mia))
    return 100 * float(np.mean(gaps))


def _gaps(values: tuple, oracles: tuple) -> list[float]:
    return [abs(float(np.mean(value)) - float(np.mean(oracle))) for value, oracle in zip(values, oracles, strict=True)]
