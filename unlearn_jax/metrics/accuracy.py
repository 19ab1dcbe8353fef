"""Accuracies, and scores computed from them."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from unlearn_jax.metrics import checks
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
    """The share of examples whose largest logit is the label's, in percent. Probabilities are accepted too.

    Raises:
        ValueError: if a member's logits are not finite, or a label is no class.
    """
    logits = checks.numbers("logits", logits, "members examples classes")
    return 100 * (logits.argmax(-1) == checks.labels("labels", labels, *logits.shape[1:])).mean(-1)


def accuracies(cube: Cube, labels: Labels) -> Accuracies:
    """FA, RA and TA in percent, and UA = 100 - FA.

    Raises:
        ValueError: if a member's logits are not finite, the splits have different members or classes, or a label is no class.
    """
    checks.cube("cube", cube, labels, checks.numbers)
    return Accuracies(*(accuracy(logits, split) for logits, split in zip(cube, labels, strict=True)))


def tow(
    forget: Shares,
    retain: Shares,
    test: Shares,
    oracle_forget: Shares,
    oracle_retain: Shares,
    oracle_test: Shares,
    *,
    paired: bool = False,
) -> float:
    """Tug of war, `ToW = Π_{F,R,T} (1 - |mean accuracy - mean oracle accuracy|)`; 1 is perfect.

    `paired`, as in the authors' code: the mean over runs i of `Π_{F,R,T} (1 - |accuracy_i - oracle accuracy_i|)`, where run i
    has one unlearned and one retrained model. It also falls with the spread of single models, so a perfect method scores further
    below 1 (in twenty runs of random accuracies, 0.568 instead of 0.884). All tables here use means.

    Args:
        forget: accuracy in 0..1, one number or one per member; likewise for all others.
        retain: on the retain set.
        test: on the test set.
        oracle_forget: of the retrained models.
        oracle_retain: of the retrained models.
        oracle_test: of the retrained models.
        paired: every argument has one number for each run.

    Returns:
        A number in 0..1.

    Raises:
        ValueError: if a share is not in 0..1; or, `paired`, arguments have different numbers of runs.

    Source: Zhao et al., "What makes unlearning hard and what to do about it", arXiv:2406.01257.
    """
    shares = _shares(forget=forget, retain=retain, test=test)
    oracles = _shares(oracle_forget=oracle_forget, oracle_retain=oracle_retain, oracle_test=oracle_test)
    return _tug_of_war(shares, oracles, paired)


def tow_mia(
    mia: Shares,
    retain: Shares,
    test: Shares,
    oracle_mia: Shares,
    oracle_retain: Shares,
    oracle_test: Shares,
    *,
    paired: bool = False,
) -> float:
    """Tug of war with a membership attack in place of the accuracy on the forget set; 1 is perfect.

    `(1 - |Δ MIA|) (1 - |Δ RA|) (1 - |Δ TA|)`, of means over the models; or, `paired`, the mean of that over runs, see `tow`.

    Args:
        mia: MIA-efficacy of the confidence attack, `svc_mia(...)["confidence"]`; one number or one per member, likewise for
            all others.
        retain: accuracy in 0..1 on the retain set.
        test: on the test set.
        oracle_mia: of the retrained models.
        oracle_retain: of the retrained models.
        oracle_test: of the retrained models.
        paired: every argument has one number for each run.

    Returns:
        A number in 0..1.

    Raises:
        ValueError: see `tow`.

    Source: Zhao et al., "What makes unlearning hard and what to do about it", arXiv:2406.01257.
    """
    shares = _shares(mia=mia, retain=retain, test=test)
    oracles = _shares(oracle_mia=oracle_mia, oracle_retain=oracle_retain, oracle_test=oracle_test)
    return _tug_of_war(shares, oracles, paired)


def competition_score(
    forgetting_quality: float, retain: Shares, test: Shares, oracle_retain: Shares, oracle_test: Shares
) -> float:
    """The final score of the NeurIPS 2023 competition: `forgetting quality x (RA_u / RA_r) x (TA_u / TA_r)`.

    About 0.19 for identical distributions, like the forgetting quality itself. Accuracies above the oracles' raise it.

    Args:
        forgetting_quality: the score, `forgetting_quality(...).score`.
        retain: accuracy in 0..1 of the unlearned models on the retain set, one number or one per member, likewise for all others.
        test: on the test set.
        oracle_retain: of the retrained models.
        oracle_test: of the retrained models.

    Returns:
        A number of at least 0; 0 if the retrained models are never right.

    Raises:
        ValueError: if the quality or an accuracy is not in 0..1.

    Source: Triantafillou et al., arXiv:2406.09073.
    """
    checks.numbers("forgetting_quality", forgetting_quality, low=0, high=1)
    utility = [float(np.mean(share)) for share in _shares(retain=retain, test=test).values()]
    needed = [float(np.mean(share)) for share in _shares(oracle_retain=oracle_retain, oracle_test=oracle_test).values()]
    return forgetting_quality * float(np.prod(utility)) / float(np.prod(needed)) if all(needed) else 0.0


def interclass_confusion(
    logits: Float[Any, "members examples classes"], labels: Int[Any, " examples"], confused: tuple[int, int]
) -> Float[np.ndarray, " members"]:
    """The share of the examples of two classes that are predicted to be of the other class.

    `(#{y = a, ŷ = b} + #{y = b, ŷ = a}) / #{y ∈ {a, b}}`. For the interclass-confusion test: the labels of some
    examples of the two classes are swapped before training, and these examples are then unlearned. Confusion that is left, on
    them or on the test set, was not forgotten. The aim is the retrained models' value, which is not 0 for similar classes.

    Args:
        logits: of the models on any examples; examples of other classes are ignored.
        labels: the true classes, not the swapped ones.
        confused: the two classes.

    Returns:
        A number in 0..1 for each member.

    Raises:
        ValueError: if a member's logits are not finite, a label is no class, the classes are equal, or neither has an example.

    Source: Goel et al., "Towards Adversarial Evaluations for Inexact Machine Unlearning", arXiv:2201.06640 (the targeted
    error).
    """
    logits = checks.numbers("logits", logits, "members examples classes")
    labels = checks.labels("labels", labels, *logits.shape[1:])
    of_either = np.isin(labels, confused)
    if confused[0] == confused[1] or not of_either.any():
        raise ValueError(f"confused: {confused} found, expected two different classes, at least one of them with examples")
    other = sum(confused) - labels[of_either]
    return (logits[:, of_either].argmax(-1) == other).mean(-1)


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
        forget: accuracy in 0..1, one number or one per member; likewise for all others. |Δ UA| = |Δ FA|.
        retain: on the retain set.
        test: on the test set.
        mia: MIA-efficacy of the confidence attack, `svc_mia(...)["confidence"]`.
        oracle_forget: of the retrained models.
        oracle_retain: of the retrained models.
        oracle_test: of the retrained models.
        oracle_mia: of the retrained models.

    Returns:
        A number in 0..100.

    Raises:
        ValueError: if a share is not in 0..1.

    Source: Fan et al. (SalUn), arXiv:2310.12508.
    """
    shares = _shares(forget=forget, retain=retain, test=test, mia=mia)
    oracles = _shares(oracle_forget=oracle_forget, oracle_retain=oracle_retain, oracle_test=oracle_test, oracle_mia=oracle_mia)
    return 100 * float(np.mean(_gaps(shares, oracles)))


def _shares(**values: Shares) -> dict[str, np.ndarray]:
    """Checks that all are in 0..1, not percent."""
    return {name: checks.numbers(name, value, low=0, high=1) for name, value in values.items()}


def _tug_of_war(shares: dict[str, np.ndarray], oracles: dict[str, np.ndarray], paired: bool) -> float:
    if not paired:
        return float(np.prod([1 - gap for gap in _gaps(shares, oracles)]))
    runs = next(iter(shares.values()))
    for name, values in {**shares, **oracles}.items():
        if values.shape != runs.shape or values.ndim != 1:
            raise ValueError(f"{name}: shape {values.shape}, expected one number for each run, as many as in the other arguments")
    gaps = [abs(value - oracle) for value, oracle in zip(shares.values(), oracles.values(), strict=True)]
    return float(np.prod([1 - gap for gap in gaps], axis=0).mean())


def _gaps(shares: dict[str, np.ndarray], oracles: dict[str, np.ndarray]) -> list[float]:
    pairs = zip(shares.values(), oracles.values(), strict=True)
    return [abs(float(np.mean(value)) - float(np.mean(oracle))) for value, oracle in pairs]


def residual_knowledge(
    unlearned: Float[Any, "models draws examples classes"],
    retrained: Float[Any, "oracles draws examples classes"],
    labels: Int[Any, " examples"],
) -> Float[np.ndarray, " models"]:
    """How much more often than retrained models a model gives forget examples their label when these are slightly changed.

    `P(model is right on x + noise) / P(a retrained model is)`, over examples and draws of noise: 1 as retraining. Above 1
    something is left around the examples, even where their own answers are those of retrained models.

    Deviation: the authors take the ratio of each example, which is not defined where no retrained model is ever right; here it
    is the ratio of two means.

    Args:
        unlearned: logits of the models on draws of the changed examples.
        retrained: of retrained models on the same draws.
        labels: of the examples, as trained on.

    Returns:
        A ratio of at least 0; NaN if no retrained model is ever right.

    Raises:
        ValueError: logits are not finite, the sides are of other draws, or a label is no class.

    Source: "The Unseen Threat: Residual Knowledge in Machine Unlearning under Perturbed Samples", arXiv:2601.22359.
    """
    given = {"unlearned": unlearned, "retrained": retrained}
    sides = [checks.numbers(name, side, "models draws examples classes") for name, side in given.items()]
    checks.alike("retrained", sides[1], "unlearned", sides[0])
    labels = checks.labels("labels", labels, *sides[0].shape[2:])
    right, others = ((side.argmax(-1) == labels).mean(axis=(1, 2)) for side in sides)
    return right / others.mean() if others.any() else np.full(len(right), np.nan)
