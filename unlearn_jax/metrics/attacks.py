"""Membership attacks on one model: what its answers give away about who was in its training set."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from unlearn_jax.metrics.scores import entropies, finite, modified_entropies

Answers = tuple[Float[Any, "_ classes"], Int[Any, " _"]]  # probabilities and labels of as many examples
FEATURES = ("correctness", "confidence", "entropy", "m_entropy", "prob")
LARGEST = 2_000  # examples a side that an SVC, whose cost is quadratic, is trained on at most


def svc_mia(member: Answers, nonmember: Answers, target: Answers, size: int | None = None, seed: int = 0) -> dict[str, float]:
    """MIA-efficacy: the share of the target (the forget set) that an SVC calls non-member.

    One attack for each feature of the probabilities p: *correctness* (is the largest the label's), *confidence* p_y, *entropy*,
    modified entropy *m_entropy*, and the whole p, *prob*. Each is an SVC(C=3, rbf, gamma="auto") trained on members (a random
    sample of the retain set) against equally many non-members (the test set). Where one feature is meant, as in
    the average gap of SalUn, it is *confidence*. The target value is that of a retrained model, not 0.5 and not 1.

    Args:
        member: probabilities and labels of retain examples.
        nonmember: of test examples.
        target: of forget examples.
        size: number of examples to train on, on each side; by default as many as there are on both sides, and at most 2,000.
            An SVC with unequal sides calls nearly everything the larger one.
        seed: draws the samples.

    Returns:
        For each feature a number in 0..1.

    Raises:
        ValueError: if probabilities are not finite.

    Source: Jia et al., "Model Sparsity Can Simplify Machine Unlearning", arXiv:2304.04934; Fan et al. (SalUn), arXiv:2310.12508.
    """
    from sklearn.svm import SVC

    rng = np.random.default_rng(seed)
    sides = []
    size = min(size or LARGEST, len(member[1]), len(nonmember[1]), LARGEST)
    for answers, labels in (member, nonmember):
        rows = rng.permutation(len(labels))[:size]
        sides.append(_features(np.asarray(answers)[rows], np.asarray(labels)[rows]))
    aims = _features(*target)
    is_member = np.repeat([1, 0], [len(side["prob"]) for side in sides])
    efficacy = {}
    for name in FEATURES:
        # Equal rows are one row of that weight: the same problem, but small where the feature takes few values.
        rows = np.column_stack([np.concatenate([side[name] for side in sides]), is_member])
        rows, weights = np.unique(rows, axis=0, return_counts=True)
        attack = SVC(C=3, kernel="rbf", gamma="auto").fit(rows[:, :-1], rows[:, -1], sample_weight=weights)
        efficacy[name] = float((attack.predict(aims[name]) == 0).mean())
    return efficacy


def _features(probabilities: Any, labels: Any) -> dict[str, Float[np.ndarray, "examples features"]]:
    p, labels = finite(probabilities, "examples"), np.asarray(labels)
    scalars = (
        p.argmax(-1) == labels,
        p[np.arange(len(labels)), labels],
        entropies(p),
        modified_entropies(p, labels),
    )
    return dict(zip(FEATURES, (*(np.asarray(scalar, np.float64)[:, None] for scalar in scalars), p), strict=True))
