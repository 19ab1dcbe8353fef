"""Numbers that describe how hard a classification problem is to learn, to compare a toy with images."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unlearn_jax.metrics import checks
from unlearn_jax.metrics.features import squared_distances
from unlearn_jax.metrics.memorisation import memorisation

LEVELS = (np.arange(50) + 0.5) / 50  # of the quantiles that describe distributions


class Characteristics(NamedTuple):
    """How models trained on random subsets perform on a problem, and how its examples are distributed.

    Attributes:
        test_error: share of wrong answers on the test set.
        gap: the test error minus the error on the examples that each model trained on.
        memorisation: quantiles over the training examples, at `LEVELS`.
        margins: quantiles over test examples and models, in nats.
        purity: quantiles over the training examples of `neighbour_purity`.
        confusion: share of the test examples of a class (row) that are classified as another (column).
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

    Scores from few models are noisy: compare problems at equal numbers of models.

    Args:
        masks: which model trained on which example; each example needs two models with it and two without.
        right: whether a model predicts the training label.
        purity: see `neighbour_purity`.
        test_answers: predicted classes.
        test_margins: see `scores.margins`.
        test_labels: the true classes.
        classes: number of classes.

    Raises:
        ValueError: a value is not finite or has the wrong shape, a label or a prediction is no class, or an example has fewer
            than two models with or without it.
    """
    checks.count("classes", classes, 2)
    masks, right = checks.truths("masks", masks, "models examples"), checks.truths("right", right, "models examples")
    test_margins = checks.numbers("test_margins", test_margins, "models test")
    purity = checks.numbers("purity", purity, "examples", low=0, high=1)
    labels = checks.labels("test_labels", test_labels, test_margins.shape[1], classes)
    answers = np.asarray(test_answers)
    checks.labels("test_answers", answers.ravel(), test_margins.size, classes)
    for name, values, other_name, other in (
        ("right", right, "masks", masks),
        ("test_margins", test_margins, "test_answers", answers),
        ("purity", purity, "masks", masks[0]),
    ):
        checks.alike(name, values, other_name, other, 0)
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
    """The differences between the characteristics of two problems, each in its unit.

    Args:
        found: of one problem.
        target: of another problem with as many classes, in the same order.

    Returns:
        Shares: |difference|. Distributions: the mean |difference| of their quantiles (the Wasserstein distance). Confusion: the
        mean over classes of half the sum of |differences| (total variation), the diagonal included.

    Raises:
        ValueError: a characteristic is not finite, or the numbers of classes differ.
    """
    for name in Characteristics._fields:
        pair = [checks.numbers(f"{which}.{name}", getattr(of, name)) for which, of in (("found", found), ("target", target))]
        checks.alike(f"found.{name}", pair[0], f"target.{name}", pair[1], 0)
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
        labels: their classes.
        neighbours: their number, below that of the examples.

    Raises:
        ValueError: a value is not finite, there is not one label for each example, or `neighbours` is not from 1 to examples - 1.
    """
    points = checks.numbers("points", points, "examples dimensions")
    labels = checks.labels("labels", labels, len(points))
    checks.count("neighbours", neighbours, 1, len(points) - 1)
    squared = squared_distances(points, points)
    np.fill_diagonal(squared, np.inf)
    nearest = np.argsort(squared, axis=1, kind="stable")[:, :neighbours]  # stable: ties give the same on any machine
    return (labels[nearest] == labels[:, None]).mean(1)


def class_distances(confusion: Float[Any, "classes classes"], examples: int) -> Float[np.ndarray, "classes classes"]:
    """The distance between the centres of two unit Gaussians that would be confused as often as two classes are.

    `d = -2 Φ⁻¹(p)`; p is the share of confused examples among those of the two classes that are classified as either.

    Args:
        confusion: shares, see `Characteristics`.
        examples: number of examples of a class; p is at least that of half an example.

    Raises:
        ValueError: a share is not in 0..1, the shares of a class add up to more than 1, or `examples` is below 1.
    """
    from scipy.stats import norm

    confusion = checks.numbers("confusion", confusion, "classes classes", low=0, high=1)
    checks.count("examples", examples, 1)
    if confusion.shape[0] != confusion.shape[1] or confusion.sum(1).max() > 1 + checks.ROUNDING:
        raise ValueError(
            f"confusion: shape {confusion.shape}, rows add up to {confusion.sum(1).max():g}; expected a square, rows up to 1"
        )
    right = np.diagonal(confusion)
    crossed = confusion + confusion.T
    whole = crossed + right[:, None] + right[None]
    share = np.divide(crossed, whole, out=np.zeros_like(crossed), where=whole > 0)  # a class without examples is not confused
    distances = -2 * norm.ppf(np.clip(share, 0.5 / examples, 0.5))
    np.fill_diagonal(distances, 0.0)
    return distances
