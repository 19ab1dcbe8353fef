"""Data values: what training on an example adds, averaged over all smaller training sets, or over those without it.

Like `subsets`, they have the opposite sign of the removal effect Δ. None of them looks at one training run: they value examples
for a neighbour vote, for a utility that is given, or for whoever trains on random subsets.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real

from unlearn_jax.influence import checks
from unlearn_jax.types import Examples

Utility = Callable[[Bool[np.ndarray, "sets points"]], Float[np.ndarray, "sets targets"]]
"""`masks -> outputs`: what a model is worth that trains on each of these sets, the empty one included."""


def knn_shapley(
    features: Real[Any, "points features"],
    labels: Int[Any, " points"],
    targets: Real[Any, "targets features"],
    target_labels: Int[Any, " targets"],
    neighbours: int = 5,
) -> Float[Array, "points targets"]:
    """Shapley values of the points for the share of a target's `neighbours` nearest points that have its label.

    Exact, by the recursion from the farthest point to the nearest. A set of fewer points than `neighbours` votes with those it
    has, and its votes still count `1 / neighbours` each. In shares of votes, not in nats; the values of a target add up to the
    share that all points give it.

    Args:
        features: of the points; the distance is Euclidean, and equal ones are in the order of the points. Integers are
            converted to floating point.
        labels: of the points.
        targets: features of the targets.
        target_labels: of the targets.
        neighbours: K, from 1 to the number of points.

    Raises:
        ValueError: a feature is not finite, the targets have other features than the points, the labels are not integers or not
            one for each, or `neighbours` is out of bounds. Of traced arrays only shapes and types are checked.

    Source: Jia et al. 2019, arXiv 1908.08619.
    """
    checks.numbers("features", features, "points features")
    checks.numbers("targets", targets, "targets features")
    features, targets = jnp.asarray(features), jnp.asarray(targets)
    count = len(features)
    if targets.shape[1] != features.shape[1]:
        raise ValueError(f"targets: {targets.shape[1]} features, expected {features.shape[1]} as in features")
    checks.labels("labels", labels, count, None)
    checks.labels("target_labels", target_labels, len(targets), None)
    checks.count("neighbours", neighbours, count)
    dtype = jnp.result_type(features, targets, float)
    features, targets = features.astype(dtype), targets.astype(dtype)
    order = jnp.argsort(jnp.sum((features[:, None] - targets[None]) ** 2, axis=-1), axis=0)
    right = (jnp.asarray(labels)[order] == jnp.asarray(target_labels)[None]).astype(features.dtype)
    places = np.arange(1, count + 1)
    shares = jnp.asarray(np.minimum(places, neighbours) / (neighbours * places), features.dtype)[:, None]
    steps = (right - jnp.concatenate([right[1:], jnp.zeros_like(right[:1])])) * shares
    values = jnp.cumsum(steps[::-1], axis=0)[::-1]
    return jnp.zeros_like(values).at[order, jnp.arange(len(targets))[None]].set(values)


def data_shapley(
    utility: Utility, orders: Int[Any, "orders points"], tolerance: float = 0.0
) -> Float[np.ndarray, "points targets"]:
    """Shapley values by Monte Carlo: what a point adds to those before it, the mean over orders of all points.

    Exact if `orders` are all permutations. The values of a target add up to its utility of all points minus that of none, if
    nothing is truncated.

    Args:
        utility: the worth of sets of points, of all targets. It is called once for each place of the orders, with a set for each
            order; its results are converted to float64.
        orders: permutations of the points, usually random; at least one.
        tolerance: the rest of an order counts 0 once all targets are nearer than this to their utility of all points; in the
            unit of the utility. With 0 nothing is left out.

    Raises:
        ValueError: a row of `orders` is not a permutation, or there are none; `tolerance` is negative or not finite; or a result
            of `utility` is not finite or not of shape `[sets, targets]`, which is seen when it is called.

    Source: Ghorbani and Zou 2019, arXiv 1904.02868.
    """
    checks.numbers("orders", orders, "orders points")
    orders = np.asarray(orders)
    count, points = orders.shape
    if orders.dtype.kind not in "iu":
        raise ValueError(f"orders: expected integers, not {orders.dtype}")
    if not (np.sort(orders, axis=1) == np.arange(points)[None]).all():
        raise ValueError(f"orders: a row is not a permutation of 0 ... {points - 1}")
    if checks.numbers("tolerance", tolerance, "") < 0:
        raise ValueError(f"tolerance: {tolerance:g} found, expected 0 or more")
    none, whole = _worth(utility, np.stack([np.zeros(points, bool), np.ones(points, bool)]))
    masks, before, going = np.zeros((count, points), bool), np.repeat(none[None], count, axis=0), np.arange(count)
    values = np.zeros((points, len(whole)))
    for place in range(points):
        going = going[np.abs(before[going] - whole[None]).max(axis=1) >= tolerance]
        if not len(going):
            break
        added = orders[going, place]
        masks[going, added] = True
        after = _worth(utility, masks[going])
        if after.shape[1] != len(whole):
            raise ValueError(f"utility: {after.shape[1]} targets, expected {len(whole)} as before")
        np.add.at(values, added, after - before[going])
        before[going] = after
    return values / count


def _worth(utility: Utility, masks: Bool[np.ndarray, "sets points"]) -> Float[np.ndarray, "_sets targets"]:
    """The checked utility of each set, in float64."""
    values = checks.numbers("utility", utility(masks), "sets targets")
    if len(values) != len(masks):
        raise ValueError(f"utility: {len(values)} rows, expected one for each of {len(masks)} sets")
    return values


def ridge_margins(examples: Examples, targets: Examples, penalty: float) -> Utility:
    """The margins of a ridge regression on features, which has a closed form: z_y - max_{j≠y} z_j, 0 for no examples.

    Minimises Σ |W'f - e_y|² + penalty |W|² over the examples of each set, e_y being 1 at the label and 0 elsewhere.

    Args:
        examples: `images` are features `[points, features]`, with a last feature of 1 if there is to be a bias.
        targets: likewise.
        penalty: above 0.

    Raises:
        ValueError: `penalty` is not above 0 or not finite, features are not finite or not of the same number, labels are not
            integers from 0 or not one for each, or all labels are the same.
    """
    checks.positive("penalty", penalty)
    parts = {"examples": examples, "targets": targets}
    inputs, wanted = (checks.numbers(f"{name}.images", part.images, f"{name} features") for name, part in parts.items())
    if wanted.shape[1] != inputs.shape[1]:
        raise ValueError(f"targets.images: {wanted.shape[1]} features, expected {inputs.shape[1]} as in examples")
    for name, part in parts.items():
        checks.labels(f"{name}.labels", part.labels, len(part.images), None)
        if np.min(part.labels) < 0:
            raise ValueError(f"{name}.labels: {np.min(part.labels)} found, expected 0 or more")
    if len(np.unique(np.concatenate([examples.labels, targets.labels]))) < 2:
        raise ValueError("examples.labels: one class, as in targets, expected two or more")
    labels = np.asarray(targets.labels)
    classes = 1 + max(int(np.max(part.labels)) for part in (examples, targets))
    size = inputs.shape[1]
    squares = (inputs[:, :, None] * inputs[:, None]).reshape(len(inputs), -1)
    products = (inputs[:, :, None] * np.eye(classes)[np.asarray(examples.labels)][:, None]).reshape(len(inputs), -1)
    own = np.arange(classes)[None, None] == labels[None, :, None]

    def utility(masks: Bool[np.ndarray, "sets points"]) -> Float[np.ndarray, "sets targets"]:
        chosen = np.asarray(masks, np.float64)
        grams = (chosen @ squares).reshape(-1, size, size) + penalty * np.eye(size)[None]
        logits = wanted[None] @ np.linalg.solve(grams, (chosen @ products).reshape(-1, size, classes))
        return np.where(own, logits, 0.0).sum(axis=2) - np.where(own, -np.inf, logits).max(axis=2)

    return utility


def data_oob(masks: Bool[Any, "models examples"], outputs: Any) -> Float[np.ndarray, " examples"]:
    """Data-OOB: the mean output about each example over the models that did not train on it.

    Low for an example that the others contradict, such as a wrong label. It has no targets: an example has one value, whatever is
    asked. Deviation: the masks may be subsets of any kind, where the source draws bootstrap samples.

    Args:
        masks: which model trained on which example; booleans, or 0 and 1.
        outputs: `[models, examples]`: whether the model is right about the example, as in the source; or a margin.

    Raises:
        ValueError: the masks are not booleans, an output is not finite, a shape differs, or all models trained on an example.

    Source: Kwon and Zou 2023, arXiv 2304.07718.
    """
    trained, values = checks.numbers("masks", masks, "models examples"), checks.numbers("outputs", outputs, "models examples")
    if not np.isin(trained, (0, 1)).all():
        raise ValueError("masks: expected booleans, or 0 and 1")
    out = trained == 0
    if out.shape != values.shape:
        raise ValueError(f"outputs: shape {values.shape}, expected numbers of the shape of masks, {out.shape}")
    if not out.any(axis=0).all():
        raise ValueError(f"masks: all models trained on example {int(np.argmin(out.any(axis=0)))}; one must not")
    return (values * out).sum(axis=0) / out.sum(axis=0)
