"""Features of single examples that an attacker can compute from a model, by name, of one column or more.

`joined` puts features side by side for an attack such as `attacks.feature_mia`. Whatever needs the model itself (the loss
under augmentation, norms of gradients) is computed elsewhere and joins the others as one more entry of the dictionary.
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
RIDGE = 1e-3  # of the mean variance, added to each, so that units that are always 0 do no harm


def output_features(
    probabilities: Float[Any, "examples classes"], labels: Int[Any, " examples"]
) -> dict[str, Float[np.ndarray, "examples _"]]:
    """What attacks in the literature compute from one model's probabilities p of an example with the label y.

    * *loss* `-log p_y`, *confidence* p_y, *margin* `log p_y - log Σ_{j≠y} p_j`: three scales of one number: what
      an attack gains by one over another is due to the scale, not to more information.
    * *correctness*, *modified_entropy*: depend on the label too. *entropy*, *top_gaps* (`log p_(i) - log p_(i+1)` of the three
      most probable classes and the next), *sorted_probabilities* (`log p_(i)`, most probable first): do not.

    Logarithms are floored at log 1e-30.

    Args:
        probabilities: of one model.
        labels: known to the attacker; of members, those trained on.

    Returns:
        Columns by the feature's name.

    Raises:
        ValueError: if they are no probabilities, or a label is no class.

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
    """The mean Euclidean distance to the nearest references: small where they are dense.

    Distances of `hellinger(p)` are Hellinger distances of the probabilities p.

    Args:
        points: where it is measured.
        references: none of the points themselves.
        neighbours: how many are averaged over; all, if there are fewer.

    Raises:
        ValueError: if a value is not finite, both have different dimensions, or `neighbours` is below 1.
    """
    checks.count("neighbours", neighbours, 1)
    squared = squared_distances(points, references)
    count = min(neighbours, len(references))
    nearest = np.partition(squared, count - 1, axis=1)[:, :count]
    return np.sqrt(np.maximum(nearest, 0)).mean(1)


def squared_distances(
    points: Float[Any, "examples dimensions"], references: Float[Any, "references dimensions"]
) -> Float[np.ndarray, "examples references"]:
    """Squared Euclidean distances by one matrix product; a small one is rounded as the largest are, and may fall below 0.

    Both are centred at the references' mean first: far from 0 rounding would remove the differences.

    Raises:
        ValueError: if a value is not finite, or both have different dimensions.
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
        ValueError: if they are no probabilities.
    """
    return np.sqrt(checks.probabilities("probabilities", probabilities, "examples classes") / 2)


def mahalanobis_distances(
    points: Float[Any, "examples dimensions"],
    references: Float[Any, "references dimensions"],
    labels: Int[Any, " references"],
) -> Float[np.ndarray, " examples"]:
    """The distance to the nearest class's mean, in the metric of the covariance that the classes share.

    `min_c √((x - μ_c)ᵀ Σ⁻¹ (x - μ_c))`: the class-conditional Gaussian density, up to a constant. A thousandth of the mean
    variance is added to every variance.

    Args:
        points: where it is measured.
        references: to which the Gaussians are fitted.
        labels: the references' classes; classes without references are left out.

    Raises:
        ValueError: if a value is not finite, both have different dimensions, or there is not one label for each reference.

    Source: Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples", arXiv:1807.03888.
    """
    points = checks.numbers("points", points, "examples dimensions")
    references = checks.numbers("references", references, "references dimensions")
    checks.alike("points", points, "references", references)
    labels = checks.labels("labels", labels, len(references))
    scale = unit(references)  # which the distance does not depend on
    points, references = points / scale, references / scale
    classes, index = np.unique(labels, return_inverse=True)
    means = np.stack([references[labels == each].mean(0) for each in classes])
    centred = references - means[index]
    covariance = centred.T @ centred / len(references)
    ridge = RIDGE * np.trace(covariance) / len(covariance) + TINY
    root = np.linalg.cholesky(covariance + ridge * np.eye(len(covariance)))
    whitened = np.linalg.solve(root, (points[:, None] - means).reshape(-1, points.shape[1]).T)
    return np.sqrt((whitened**2).sum(0).reshape(len(points), -1).min(1))


def shuffled_among_alike(
    columns: Columns, key: Float[Any, " examples"], seed: int = 0, alike: int = 10
) -> Float[np.ndarray, "examples _"]:
    """Rows exchanged among examples of about the same key: what the columns know of the key stays, what they know beyond it goes.

    The control of an attack by the loss and a feature is one by the loss and the feature so shuffled (the key being the loss):
    as many columns, as dependent on the loss, without further information. The loss alone is no fair control: more columns
    overfit more.

    Args:
        columns: of a feature.
        key: by which examples are similar; ties are in random order.
        seed: draws the order.
        alike: examples in a group, consecutive when sorted by the key.

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
        ValueError: if there is no such feature, a value is not finite, or features are of different examples.
    """
    missing = [name for name in names if name not in features]
    if missing or not names:
        raise ValueError(f"names: {', '.join(missing) or 'none'} found, expected some of {', '.join(features)}")
    columns = [checks.numbers(f"features[{name}]", features[name], "examples columns") for name in names]
    for name, of_feature in zip(names, columns, strict=True):
        checks.alike(f"features[{name}]", of_feature[:, 0], f"features[{names[0]}]", columns[0][:, 0], 0)
    return np.concatenate(columns, axis=1)
