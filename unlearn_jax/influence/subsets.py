"""Influence from a pool of models on random subsets: subset influence, and datamodels.

Pure functions of masks `[models, examples]`, what each model trained on, and outputs `[models, targets]`, what it says: whether
it is right, or a margin. Both tell what having trained on an example adds to an output, averaged over subsets and seeds: the
negative of the removal effect Δ, in the unit of the outputs.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

ROUNDING = 8 * np.finfo(float).eps  # of the largest of a column: where it varies by less it is constant
PENALTIES = np.geomspace(1.0, 0.1, 10)  # tried, in units of the least one that leaves every weight at zero
VALIDATION = 0.25  # share of the models on which they are compared


class SubsetInfluence(NamedTuple):
    """What each example adds to each output, and its standard error over the models."""

    score: Float[np.ndarray, "examples targets"]
    error: Float[np.ndarray, "examples targets"]


class Datamodels(NamedTuple):
    """A linear model of each output: `bias + masks @ weights`.

    Attributes:
        weights: what each example adds to each output; most are zero.
        bias: of each output, when nothing is trained on.
        penalty: λ of each output, as chosen.
    """

    weights: Float[np.ndarray, "examples targets"]
    bias: Float[np.ndarray, " targets"]
    penalty: Float[np.ndarray, " targets"]

    def predict(self, masks: Bool[Any, "models examples"]) -> Float[np.ndarray, "models targets"]:
        """The outputs predicted for models that train on these subsets."""
        return self.bias + np.asarray(masks, np.float64) @ self.weights


def subset_influence(masks: Bool[Any, "models examples"], outputs: Any) -> SubsetInfluence:
    """`E[output | trained on it] - E[output | not]` of every example and every output.

    Of whether a model is right about a training example itself, it is the example's memorisation.

    Args:
        masks: which model trained on which example; each example has two models or more of both kinds.
        outputs: `[models, targets]`, numbers or truth values.

    Returns:
        The differences, and `sqrt(var_in / n_in + var_out / n_out)` by the unbiased variances of each kind (0 where all models
        of each kind agree).

    Raises:
        ValueError: an output is not finite, there is not one for each model, or an example has fewer than two models of a kind.

    Source: Feldman & Zhang, "What Neural Networks Memorize and Why", arXiv:2008.03703.
    """
    masks, outputs = np.asarray(masks, bool), _both("masks", masks, outputs)[1]
    outputs = outputs - outputs.mean(axis=0, keepdims=True)  # so that little is lost in the difference of squares
    means, variances = [], []
    for side in (masks, ~masks):
        count = side.sum(axis=0)
        if count.min() < 2:
            raise ValueError("each example needs two models or more that trained on it, and as many that did not")
        shares = side.T / count[:, None]
        mean = shares @ outputs
        means.append(mean)
        variances.append(np.maximum(shares @ outputs**2 - mean**2, 0.0) / (count[:, None] - 1))  # of the mean
    return SubsetInfluence(means[0] - means[1], np.sqrt(variances[0] + variances[1]))


def mask_correlation(masks: Bool[Any, "models examples"], outputs: Any) -> Float[np.ndarray, "examples targets"]:
    """Pearson's correlation over models of having trained on an example with an output; 0 where either is constant: it has none.

    It is the influence in units of chance: among models whose outputs are shuffled it has mean 0 and a standard
    deviation of `1 / sqrt(models - 1)`, whatever the output.

    Args:
        masks: which model trained on which example.
        outputs: `[models, targets]`, numbers or truth values.

    Raises:
        ValueError: an output is not finite, or there is not one for each model.
    """
    masks, outputs = _both("masks", masks, outputs)
    units = []
    for columns in (_apart(masks), _apart(outputs)):
        lengths = np.linalg.norm(columns, axis=0, keepdims=True)
        units.append(np.divide(columns, lengths, out=np.zeros_like(columns), where=lengths > 0))
    return units[0].T @ units[1]


def datamodels(masks: Bool[Any, "models examples"], outputs: Any) -> Datamodels:
    """Fits `bias + Σ_i mask_i w_i` to every output by the lasso: `min |y - ŷ|² / (2 models) + λ |w|_1`.

    λ is chosen for each output: the one whose fit to the first three quarters of the models has the least squared error on the
    last quarter; it is then fitted to all. An output that nothing predicts keeps λ at its largest, and no weights.

    Args:
        masks: which model trained on which example; models in random order.
        outputs: `[models, targets]`; margins rather than truth values, which are seldom linear in anything.

    Raises:
        ValueError: an output is not finite, there is not one for each model, or there are fewer than four models.

    Source: Ilyas et al., "Datamodels: Predicting Predictions from Training Data", arXiv:2202.00622.
    """
    masks, outputs = _both("masks", masks, outputs)
    if len(masks) < 4:
        raise ValueError(f"masks: {len(masks)} models, expected four or more")
    scale = _unit(outputs)[0]
    outputs = outputs / scale
    fitted = len(masks) - round(VALIDATION * len(masks))
    weights, penalty = np.zeros((masks.shape[1], outputs.shape[1])), np.zeros(outputs.shape[1])
    for target, output in enumerate(outputs.T):
        paths = _paths(masks[:fitted], output[:fitted], PENALTIES)
        guesses = output[:fitted].mean() + (masks[fitted:] - masks[:fitted].mean(axis=0, keepdims=True)) @ paths
        best = int(np.argmin(np.mean((output[fitted:, None] - guesses) ** 2, axis=0)))
        weights[:, target] = _paths(masks, output, PENALTIES[: best + 1])[:, -1]
        penalty[target] = PENALTIES[best] * _largest(masks, output)
    bias = outputs.mean(axis=0) - masks.mean(axis=0) @ weights
    return Datamodels(weights * scale, bias * scale, penalty * scale)


def correlation(predicted: Float[Any, "models targets"], outputs: Float[Any, "models targets"]) -> Float[np.ndarray, " targets"]:
    """Pearson's correlation over models of predicted with actual outputs, for every target; 0 where either is constant.

    On models that the prediction was not fitted to, it measures how far an output is a sum of what single examples add.

    Raises:
        ValueError: a value is not finite, or the two are of other models or targets.
    """
    predicted, outputs = _both("predicted", predicted, outputs)
    if predicted.shape != outputs.shape:
        raise ValueError(f"predicted: shape {predicted.shape}, expected that of outputs, {outputs.shape}")
    pair = _apart(predicted), _apart(outputs)
    product, (first, second) = (pair[0] * pair[1]).sum(axis=0), ((each**2).sum(axis=0) for each in pair)
    length = np.sqrt(first * second)
    return np.divide(product, length, out=np.zeros_like(length), where=length > 0)


def _both(name: str, values: Any, outputs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Two arguments about the same models, in float64."""
    found = {name: np.asarray(values, np.float64), "outputs": np.asarray(outputs, np.float64)}
    for argument, each in found.items():
        if each.ndim != 2 or len(each) != len(found[name]) or not np.isfinite(each).all():
            raise ValueError(
                f"{argument}: shape {each.shape}, or not finite; expected numbers for each of {len(found[name])} models"
            )
    return found[name], found["outputs"]


def _unit(columns: np.ndarray) -> np.ndarray:
    """For each column a power of two near its largest size: divided by it, squares do not vanish, and nothing is rounded."""
    largest = np.abs(columns).max(axis=0, keepdims=True)
    return np.where(largest > 0, np.ldexp(1.0, np.frexp(largest)[1] - 1), 1.0)


def _apart(columns: np.ndarray) -> np.ndarray:
    """Columns less their means, each in a unit of its own; 0 where it varies by no more than rounding."""
    scaled = columns / _unit(columns)
    constant = np.ptp(scaled, axis=0) <= ROUNDING * np.abs(scaled).max(axis=0)
    apart = scaled - np.mean(scaled, axis=0, keepdims=True)
    apart[:, constant] = 0.0
    return apart / _unit(apart)


def _largest(masks: np.ndarray, output: np.ndarray) -> float:
    """The least λ that leaves every weight at zero."""
    return float(np.abs((masks - masks.mean(axis=0, keepdims=True)).T @ (output - output.mean())).max() / len(masks))


def _paths(masks: np.ndarray, output: np.ndarray, penalties: np.ndarray) -> Float[np.ndarray, "examples penalties"]:
    """The lasso's weights for falling penalties, in units of the largest that does anything."""
    from sklearn.linear_model import lasso_path

    largest = _largest(masks, output)
    if largest <= ROUNDING * np.abs(output).max():  # a constant output
        return np.zeros((masks.shape[1], len(penalties)))
    centred = np.asfortranarray(masks - masks.mean(axis=0, keepdims=True))
    _, weights, _ = lasso_path(centred, output - output.mean(), alphas=largest * penalties, max_iter=10_000, tol=1e-3)
    return weights
