"""What a classification problem is like to learn, in numbers that do not know what an example is: a toy against images."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unlearn_jax.metrics.memorisation import memorisation

LEVELS = (np.arange(50) + 0.5) / 50  # at which distributions are described by their quantiles


class Characteristics(NamedTuple):
    """How models that train on random subsets do on a problem, and how its examples lie.

    Attributes:
        test_error: share of wrong answers on the test set.
        gap: that minus the share on the examples that each model trained on.
        memorisation: quantiles over the training examples, at `LEVELS`.
        margins: quantiles over test examples and models, in nats.
        purity: quantiles over the training examples of `neighbour_purity`.
        confusion: share of the test examples of a class (row) that are said to be of another (column).
    """

    test_error: float
    gap: float
    memorisation: Float[np.ndarray, " levels"]
    margins: Float[np.ndarray, " levels"]
    purity: Float[np.ndarray, " levels"]
    confusion: Float[np.ndarray, "classes classes"]


def characteristics(
    masks: Bool[Any, "models examples"],
    right: Bool[Any, "models examples"],
    purity: Float[Any, " examples"],
    test_answers: Int[Any, "models test"],
    test_margins: Float[Any, "models test"],
    test_labels: Int[Any, " test"],
    classes: int,
) -> Characteristics:
    """The characteristics of a problem from a pool of models on random subsets.

    Scores from few models are spread by chance: compare problems by as many models each.

    Args:
        masks: which model trained on which example; two models or more of both kinds for each.
        right: whether a model's answer is the label trained on.
        purity: see `neighbour_purity`.
        test_answers: classes that models say.
        test_margins: see `scores.margins`.
        test_labels: the true classes.
        classes: how many there are.
    """
    masks, right, answers, labels = (np.asarray(each) for each in (masks, right, test_answers, test_labels))
    error = float((answers != labels[None]).mean())
    seen_error = 1 - float(right[masks].mean())
    counts = np.zeros((classes, classes))
    np.add.at(counts, (np.broadcast_to(labels, answers.shape), answers), 1)
    return Characteristics(
        test_error=error,
        gap=error - seen_error,
        memorisation=np.quantile(memorisation(right, masks).score, LEVELS),
        margins=np.quantile(test_margins, LEVELS),
        purity=np.quantile(purity, LEVELS),
        confusion=counts / np.maximum(counts.sum(1, keepdims=True), 1),
    )


def mismatch(found: Characteristics, target: Characteristics) -> dict[str, float]:
    """How far the characteristics of two problems are apart, each in its own unit.

    Args:
        found: of one problem.
        target: of another one of as many classes, in the same order.

    Returns:
        Shares: |difference|. Distributions: the mean |difference| of their quantiles (the Wasserstein distance). Confusion: the
        mean over classes of half the sum of |differences| (total variation), the diagonal included.
    """
    return {
        "test_error": abs(found.test_error - target.test_error),
        "gap": abs(found.gap - target.gap),
        **{
            name: float(abs(getattr(found, name) - getattr(target, name)).mean())
            for name in ("memorisation", "margins", "purity")
        },
        "confusion": float(abs(found.confusion - target.confusion).sum(1).mean() / 2),
    }


def neighbour_purity(
    points: Float[Any, "examples dimensions"], labels: Int[Any, " examples"], neighbours: int = 10
) -> Float[np.ndarray, " examples"]:
    """The share of each example's nearest other examples (Euclidean) that have its label.

    Args:
        points: the examples, flattened.
        labels: theirs.
        neighbours: how many; fewer than there are examples.
    """
    points, labels = np.asarray(points, np.float64), np.asarray(labels)
    squared = (points**2).sum(1)[:, None] + (points**2).sum(1)[None] - 2 * points @ points.T
    np.fill_diagonal(squared, np.inf)
    nearest = np.argsort(squared, axis=1, kind="stable")[:, :neighbours]  # of equal distances the first, on any machine
    return (labels[nearest] == labels[:, None]).mean(1)


def class_distances(confusion: Float[Any, "classes classes"], examples: int) -> Float[np.ndarray, "classes classes"]:
    """How far apart the centres of two classes would lie if both were unit Gaussians, confused as often as they are.

    `d = -2 Φ⁻¹(p)`, p the share of the two classes' examples that are taken for the other one, as far as either is said.

    Args:
        confusion: shares, see `Characteristics`.
        examples: of a class; p counts as half an example at least, which is as little as they can tell.
    """
    from scipy.stats import norm

    confusion = np.asarray(confusion, np.float64)
    own = np.diagonal(confusion)
    crossed = confusion + confusion.T
    share = crossed / np.maximum(crossed + own[:, None] + own[None], 1e-12)
    distances = -2 * norm.ppf(np.clip(share, 0.5 / examples, 0.5))
    np.fill_diagonal(distances, 0.0)
    return distances
