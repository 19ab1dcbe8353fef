"""Features of single examples that an attacker can compute from a model: by name, one or more columns each.

`joined` puts features side by side for an attack such as `attacks.feature_mia`. Features that need the model itself (the loss
under augmentation, norms of gradients) are computed elsewhere and added to the dictionary.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from unlearn_jax.metrics import checks
from unlearn_jax.metrics.scores import TINY, entropies, modified_entropies
from unlearn_jax.metrics.statistics import unit

Columns = Float[Any, "examples _"]
TOP = 3  # gaps between the most probable classes
RIDGE = 1e-3  # share of the mean variance that is added to each variance, for units that are always 0


def output_features(
    probabilities: Float[Any, "examples classes"], labels: Int[Any, " examples"]
) -> dict[str, Float[np.ndarray, "examples _"]]:
    """Features of published attacks, from one model's probabilities p of examples with labels y.

    * *loss* `-log p_y`, *confidence* p_y, *margin* `log p_y - log Σ_{j≠y} p_j`: three scales of one number. If an attack
      succeeds better with one of them, it is because of the scale, not because of more information.
    * *correctness*, *modified_entropy*: also depend on the label. *entropy*, *top_gaps* (`log p_(i) - log p_(i+1)` of the three
      most probable classes and the next), *sorted_probabilities* (`log p_(i)`, most probable first): do not.

    Logarithms are floored at log 1e-30.

    Args:
        probabilities: of one model.
        labels: known to the attacker; of members, the training labels.

    Returns:
        The columns of each feature, by name.

    Raises:
        ValueError: if the values are not probabilities, or a label is no class.

    Source: the loss, Yeom et al., arXiv:1709.01604; margin, Carlini et al., arXiv:2112.03570; sorted probabilities, Salem et
    al., arXiv:1806.01246; modified entropy, Song & Mittal, arXiv:2003.10595.
    """
    p = checks.probabilities("probabilities", probabilities, "examples classes")
    labels = checks.labels("labels", labels, *p.shape)
    log_p = np.log(np.maximum(p, TINY))
    of_label = np.take_along_axis(log_p, labels[:, None], 1)
    others = np.where(np.arange(p.shape[1]) == labels[:, None], 0, p).sum(1, keepdims=True)
    ordered = -np.sort(-log_p, axis=1)
    return {
        "loss": -of_label,
        "confidence": np.exp(of_label),
        "margin": of_label - np.log(np.maximum(others, TINY)),
        "correctness": (p.argmax(1) == labels)[:, None].astype(float),
        "entropy": entropies(p)[:, None],
        "modified_entropy": modified_entropies(p, labels)[:, None],
        "top_gaps": -np.diff(ordered[:, : TOP + 1]),
        "sorted_probabilities": ordered,
    }


def neighbour_distances(
    points: Float[Any, "examples dimensions"], references: Float[Any, "references dimensions"], neighbours: int = 10
) -> Float[np.ndarray, " examples"]:
    """The mean Euclidean distance to the nearest references: small where references are dense.

    Between `hellinger(p)`, these are Hellinger distances of the probabilities p.

    Args:
        points: where the distance is measured.
        references: other points.
        neighbours: number of references to average over; all, if there are fewer.

    Raises:
        ValueError: if a value is not finite, the dimensions differ, or `neighbours` is below 1.
    """
    checks.count("neighbours", neighbours, 1)
    squared = squared_distances(points, references)
    count = min(neighbours, len(references))
    nearest = np.partition(squared, count - 1, axis=1)[:, :count]
    return np.sqrt(np.maximum(nearest, 0)).mean(1)


def squared_distances(
    points: Float[Any, "examples dimensions"], references: Float[Any, "references dimensions"]
) -> Float[np.ndarray, "examples references"]:
    """Squared Euclidean distances by one matrix product. Its rounding error may make small distances negative.

    Both are first centred at the mean of the references: far from 0, rounding would hide the differences.

    Raises:
        ValueError: if a value is not finite, or the dimensions differ.
    """
    points = checks.numbers("points", points, "examples dimensions")
    references = checks.numbers("references", references, "references dimensions")
    checks.alike("points", points, "references", references)
    centre = references.mean(0)
    points, references = points - centre, references - centre
    return (points**2).sum(1)[:, None] + (references**2).sum(1) - 2 * points @ references.T


def hellinger(probabilities: Float[Any, "examples classes"]) -> Float[np.ndarray, "examples classes"]:
    """`√(p / 2)`: points whose Euclidean distance is the Hellinger distance, in 0..1.

    Raises:
        ValueError: if the values are not probabilities.
    """
    return np.sqrt(checks.probabilities("probabilities", probabilities, "examples classes") / 2)


def mahalanobis_distances(
    points: Float[Any, "examples dimensions"],
    references: Float[Any, "references dimensions"],
    labels: Int[Any, " references"],
) -> Float[np.ndarray, " examples"]:
    """The Mahalanobis distance to the mean of the nearest class, with one covariance for all classes.

    `min_c √((x - μ_c)ᵀ Σ⁻¹ (x - μ_c))`: equivalent to the class-conditional Gaussian density. A thousandth of the
    mean variance is added to every variance.

    Args:
        points: where the distance is measured.
        references: the points to which the Gaussians are fitted.
        labels: classes of the references; classes without references are ignored.

    Raises:
        ValueError: if a value is not finite, the dimensions differ, or there is not one label for each reference.

    Source: Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples", arXiv:1807.03888.
    """
    points = checks.numbers("points", points, "examples dimensions")
    references = checks.numbers("references", references, "references dimensions")
    checks.alike("points", points, "references", references)
    labels = checks.labels("labels", labels, len(references))
    scale = unit(references)  # the distance does not depend on it
    points, references = points / scale, references / scale
    classes, index = np.unique(labels, return_inverse=True)
    means = np.stack([references[labels == label].mean(0) for label in classes])
    centred = references - means[index]
    covariance = centred.T @ centred / len(references)
    ridge = RIDGE * np.trace(covariance) / len(covariance) + TINY
    root = np.linalg.cholesky(covariance + ridge * np.eye(len(covariance)))
    whitened = np.linalg.solve(root, (points[:, None] - means).reshape(-1, points.shape[1]).T)
    return np.sqrt((whitened**2).sum(0).reshape(len(points), -1).min(1))


def shuffled_among_alike(
    columns: Columns, key: Float[Any, " examples"], seed: int = 0, alike: int = 10
) -> Float[np.ndarray, "examples _"]:
    """Shuffles rows among examples with similar keys: information about the key is kept, all other information is lost.

    The control for an attack by the loss and a feature is an attack by the loss and the feature shuffled with the loss as key:
    it has as many columns, as dependent on the loss, but no further information. An attack by the loss alone is not a fair
    control, since more columns overfit more.

    Args:
        columns: of a feature.
        key: examples with similar keys exchange rows; ties are in random order.
        seed: draws the order.
        alike: number of examples in a group; a group is consecutive in the order of the key.

    Raises:
        ValueError: if a value is not finite, there is not one key for each row, or `alike` is below 1.

    Source: conditional permutation importance, Strobl et al., BMC Bioinformatics 9:307, 2008.
    """
    columns, key = checks.numbers("columns", columns, "examples columns"), checks.numbers("key", key, "examples")
    checks.alike("key", key, "columns", columns[:, 0], 0)
    checks.count("alike", alike, 1)
    rng = checks.generator(seed)
    order = np.lexsort((rng.random(len(key)), key))
    moved = np.concatenate([rng.permutation(order[first : first + alike]) for first in range(0, len(order), alike)])
    shuffled = np.array(columns, np.float64)
    shuffled[order] = shuffled[moved]
    return shuffled


def joined(features: Mapping[str, Columns], names: Sequence[str]) -> Float[np.ndarray, "examples _"]:
    """The columns of several features side by side.

    Raises:
        ValueError: if there is no such feature, a value is not finite, or the numbers of examples differ.
    """
    missing = [name for name in names if name not in features]
    if missing or not names:
        raise ValueError(f"names: {', '.join(missing) or 'none'} found, expected some of {', '.join(features)}")
    columns = [checks.numbers(f"features[{name}]", features[name], "examples columns") for name in names]
    for name, of_feature in zip(names, columns, strict=True):
        checks.alike(f"features[{name}]", of_feature[:, 0], f"features[{names[0]}]", columns[0][:, 0], 0)
    return np.concatenate(columns, axis=1)
