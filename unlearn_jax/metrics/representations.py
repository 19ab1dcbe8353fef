"""Inside the network: how alike the features of two models are, and what a linear probe reads off them."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from unlearn_jax.metrics import checks
from unlearn_jax.metrics.statistics import unit

PENALTY = 1.0  # of the squared weights of a probe, on standardised features; scikit-learn's default for ridge


def linear_cka(
    first: Float[Any, "models examples _features"], second: Float[Any, "others examples _others_features"]
) -> Float[np.ndarray, "models others"]:
    """Linear centred kernel alignment of every model of one pool with every model of another, on the same examples.

    `‖Yᵀ X‖² / (‖Xᵀ X‖ ‖Yᵀ Y‖)` (Frobenius norms) of features X and Y whose mean over the examples is 0. It is 1 if one is a
    rotation and scaling of the other, and the order of the features does not matter. Of unrelated features it is above 0, more
    so the fewer the examples: compare with the value of two retrained models.

    Args:
        first: features of some models; the numbers of features of the two may differ.
        second: features of others.

    Returns:
        Numbers in 0..1; NaN where the features of a model do not vary.

    Raises:
        ValueError: a feature is not finite, or the numbers of examples differ.

    Source: Kornblith et al., "Similarity of Neural Network Representations Revisited", arXiv:1905.00414.
    """
    sides = [checks.numbers(name, side, "models examples features") for name, side in (("first", first), ("second", second))]
    checks.alike("second", sides[1][0, :, 0], "first", sides[0][0, :, 0], 0)
    grams = []
    for side in sides:
        centred = side / unit(side) - (side / unit(side)).mean(axis=1, keepdims=True)
        gram = (centred @ centred.transpose(0, 2, 1)).reshape(len(side), -1)
        length = np.linalg.norm(gram, axis=1, keepdims=True)
        grams.append(np.divide(gram, length, out=np.full_like(gram, np.nan), where=length > 0))
    return np.clip(grams[0] @ grams[1].T, 0, 1)


def probe_accuracy(
    features: Float[Any, "models _examples features"],
    labels: Int[Any, " _examples"],
    probed: Float[Any, "models _probed features"],
    probed_labels: Int[Any, " _probed"],
    classes: int,
    penalty: float = PENALTY,
) -> Float[np.ndarray, " models"]:
    """The accuracy of a linear classifier that is fitted to a model's features of some examples, on others.

    The classifier is a ridge regression of one column for each class (1 for the label's class, -1 for the others) on
    standardised features, with an intercept that is not penalised; the largest output is the answer. It has a closed form, and
    reads what is in the features whatever the model's own head makes of them: an accuracy above that of the head says that
    features keep what the head hides.

    Args:
        features: of the examples that the probe is fitted to, such as the retain set.
        labels: of these examples.
        probed: features of the examples that are asked for, such as the forget set.
        probed_labels: of these.
        classes: how many there are.
        penalty: of the squared weights.

    Returns:
        A share in 0..1 for each model.

    Raises:
        ValueError: a feature is not finite, a label is no class or none for each example, the sides are of other models or
            features, or the penalty is not above 0.

    Source: probes are those of Alain & Bengio, arXiv:1610.01644; features beside the head after unlearning: arXiv:2503.06991.
    """
    fitted = checks.numbers("features", features, "models examples features")
    asked = checks.numbers("probed", probed, "models examples features")
    checks.alike("probed", asked[:, 0], "features", fitted[:, 0], 0)
    checks.count("classes", classes, 2)
    labels = checks.labels("labels", labels, fitted.shape[1], classes)
    answers = checks.labels("probed_labels", probed_labels, asked.shape[1], classes)
    checks.numbers("penalty", penalty, low=np.finfo(float).tiny)
    targets = np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)
    mean, spread = fitted.mean(axis=1, keepdims=True), fitted.std(axis=1, keepdims=True)
    fitted, asked = ((side - mean) / np.where(spread > 0, spread, 1) for side in (fitted, asked))
    normal = fitted.transpose(0, 2, 1) @ fitted + penalty * np.eye(fitted.shape[2])
    weights = np.linalg.solve(normal, fitted.transpose(0, 2, 1) @ (targets - targets.mean(axis=0)))
    called = (asked @ weights + targets.mean(axis=0)).argmax(axis=2)
    return (called == answers).mean(axis=1)
