"""Accuracies, and the scores that are made of them."""

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


def tow_mia(
    mia: Shares,
    retain: Shares,
    test: Shares,
    oracle_mia: Shares,
    oracle_retain: Shares,
    oracle_test: Shares,
) -> float:
    """Tug of war with a membership attack in place of the accuracy on the forget set; 1 is perfect.

    `(1 - |Δ MIA|) (1 - |Δ RA|) (1 - |Δ TA|)`, of means over the models.

    Args:
        mia: MIA-efficacy of the confidence attack, `svc_mia(...)["confidence"]`; one number or one per member, as all the
            others.
        retain: accuracy in 0..1 on the retain set.
        test: on the test set.
        oracle_mia: of the retrained models.
        oracle_retain: of the retrained models.
        oracle_test: of the retrained models.

    Returns:
        A number in 0..1.

    Source: Zhao et al., "What makes unlearning hard and what to do about it", arXiv:2406.01257.
    """
    return tow(mia, retain, test, oracle_mia, oracle_retain, oracle_test)


def competition_score(
    forgetting_quality: float, retain: Shares, test: Shares, oracle_retain: Shares, oracle_test: Shares
) -> float:
    """The final score of the NeurIPS 2023 competition: `forgetting quality x (RA_u / RA_r) x (TA_u / TA_r)`.

    Of identical distributions about 0.19, like the forgetting quality itself. Accuracies above the oracles' raise it.

    Args:
        forgetting_quality: the score, `forgetting_quality(...).score`.
        retain: accuracy of the unlearned models on the retain set, one number or one per member, as all the others.
        test: on the test set.
        oracle_retain: of the retrained models.
        oracle_test: of the retrained models.

    Returns:
        A number from 0 on; 0 where the retrained models are never right, and nothing is said about utility.

    Source: Triantafillou et al., arXiv:2406.09073.
    """
    utility = [float(np.mean(own)) for own in (retain, test)]
    needed = [float(np.mean(own)) for own in (oracle_retain, oracle_test)]
    return forgetting_quality * float(np.prod(utility)) / float(np.prod(needed)) if all(needed) else 0.0


def interclass_confusion(
    logits: Float[Any, "members examples classes"], labels: Int[Any, " examples"], confused: tuple[int, int]
) -> Float[np.ndarray, " members"]:
    """The share of the examples of two classes that are taken for the other one of the two.

    `(#{y = a, ŷ = b} + #{y = b, ŷ = a}) / #{y ∈ {a, b}}`. The test that it belongs to swaps the labels of some examples of
    the two classes before training and then asks to forget those: what is left of the confusion, on them or on the test set,
    is what was not forgotten. The retrained models' value is the aim, which is not 0 where the classes are alike.

    Args:
        logits: of the models on any examples; those of other classes are not counted.
        labels: the true classes, not the swapped ones.
        confused: the two classes.

    Returns:
        A number in 0..1 for each member.

    Raises:
        ValueError: if a member's logits are not finite, the two classes are one, or no example is of either.

    Source: Goel et al., "Towards Adversarial Evaluations for Inexact Machine Unlearning", arXiv:2201.06640 (the targeted
    error).
    """
    labels = np.asarray(labels)
    of_either = np.isin(labels, confused)
    if confused[0] == confused[1] or not of_either.any():
        raise ValueError(f"classes {confused}: two different ones are needed that some example is of")
    other = sum(confused) - labels[of_either]
    return (finite(logits)[:, of_either].argmax(-1) == other).mean(-1)


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
