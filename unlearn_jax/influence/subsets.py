"""Influence from models trained on random subsets: subset influence, and datamodels.

Pure functions of masks `[models, examples]`, what each model trained on, and outputs `[models, targets]`, whether it is right or
its margins. Both estimate what training on an example adds to an output, averaged over subsets and seeds: the negative of the
removal effect Δ, in the unit of the outputs.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

ROUNDING = 8 * np.finfo(float).eps  # of a column's largest value: a column that varies by less is constant
PENALTIES = np.geomspace(1.0, 0.1, 10)  # tried, in units of the smallest one that sets every weight to zero
VALIDATION = 0.25  # share of the models on which penalties are compared


class SubsetInfluence(NamedTuple):
    """What each example adds to each output, and its standard error over the models."""

    score: Float[np.ndarray, "examples targets"]
    error: Float[np.ndarray, "examples targets"]


class Datamodels(NamedTuple):
    """A linear model of each output: `bias + masks @ weights`.

    Attributes:
        weights: what each example adds to each output; most are zero.
        bias: of each output, for a model that trains on nothing.
        penalty: the λ chosen for each output.
    """

    weights: Float[np.ndarray, "examples targets"]
    bias: Float[np.ndarray, " targets"]
    penalty: Float[np.ndarray, " targets"]

    def predict(self, masks: Bool[Any, "models examples"]) -> Float[np.ndarray, "models targets"]:
        """Predicted outputs of models that train on these subsets."""
        return self.bias + np.asarray(masks, np.float64) @ self.weights


def subset_influence(masks: Bool[Any, "models examples"], outputs: Any) -> SubsetInfluence:
    """`E[output | trained on it] - E[output | not]`, for every example and every output.

    If the output is whether the model is right about the example itself, this is the example's memorisation.

    Args:
        masks: which model trained on which example; for each example, at least two models did and two did not.
        outputs: `[models, targets]`, numbers or booleans.

    Returns:
        The differences, and `sqrt(var_in / n_in + var_out / n_out)` by the unbiased variances of each kind (0 where all models
        of each kind agree).

    Raises:
        ValueError: an output is not finite, the number of models differs, or an example has fewer than two models on one side.

    Source: Feldman & Zhang, "What Neural Networks Memorize and Why", arXiv:2008.03703.
    """
    masks, outputs = np.asarray(masks, bool), _both("masks", masks, outputs)[1]
    outputs = outputs - outputs.mean(axis=0, keepdims=True)  # so that little is lost in the difference of squares
    means, variances = [], []
    for side in (masks, ~masks):
        count = side.sum(axis=0)
        if count.min() < 2:
            raise ValueError("each example needs at least two models that trained on it, and two that did not")
        shares = side.T / count[:, None]
        mean = shares @ outputs
        means.append(mean)
        variances.append(np.maximum(shares @ outputs**2 - mean**2, 0.0) / (count[:, None] - 1))  # of the mean
    return SubsetInfluence(means[0] - means[1], np.sqrt(variances[0] + variances[1]))


def mask_correlation(masks: Bool[Any, "models examples"], outputs: Any) -> Float[np.ndarray, "examples targets"]:
    """Pearson's correlation, over models, of training on an example with an output; 0 where either is constant.

    The influence relative to chance: with shuffled outputs it has mean 0 and a standard deviation of `1 / sqrt(models - 1)`,
    whatever the output.

    Args:
        masks: which model trained on which example.
        outputs: `[models, targets]`, numbers or booleans.

    Raises:
        ValueError: an output is not finite, or the number of models differs.
    """
    masks, outputs = _both("masks", masks, outputs)
    units = []
    for columns in (_centred(masks), _centred(outputs)):
        lengths = np.linalg.norm(columns, axis=0, keepdims=True)
        units.append(np.divide(columns, lengths, out=np.zeros_like(columns), where=lengths > 0))
    return units[0].T @ units[1]


def datamodels(masks: Bool[Any, "models examples"], outputs: Any) -> Datamodels:
    """Fits `bias + Σ_i mask_i w_i` to every output by the lasso: `min |y - ŷ|² / (2 models) + λ |w|_1`.

    λ is chosen for each output: fitted to the first three quarters of the models, it has the least squared error on the last
    quarter; the weights are then fitted to all. An output that no example predicts gets the largest λ and no weights.

    Args:
        masks: which model trained on which example; models in random order.
        outputs: `[models, targets]`; better margins than booleans, which are seldom linear in anything.

    Raises:
        ValueError: an output is not finite, the number of models differs, or there are fewer than four models.

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
    """Pearson's correlation, over models, of predicted with actual outputs, by target; 0 where either is constant.

    On held-out models, it measures how far an output is a sum of single examples' effects.

    Raises:
        ValueError: a value is not finite, or the shapes differ.
    """
    predicted, outputs = _both("predicted", predicted, outputs)
    if predicted.shape != outputs.shape:
        raise ValueError(f"predicted: shape {predicted.shape}, expected that of outputs, {outputs.shape}")
    pair = _centred(predicted), _centred(outputs)
    product, (first, second) = (pair[0] * pair[1]).sum(axis=0), ((columns**2).sum(axis=0) for columns in pair)
    length = np.sqrt(first * second)
    return np.divide(product, length, out=np.zeros_like(length), where=length > 0)


def _both(name: str, values: Any, outputs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays with a row for each of the same models, in float64."""
    arrays = {name: np.asarray(values, np.float64), "outputs": np.asarray(outputs, np.float64)}
    for argument, array in arrays.items():
        if array.ndim != 2 or len(array) != len(arrays[name]) or not np.isfinite(array).all():
            raise ValueError(
                f"{argument}: shape {array.shape}, or not finite; expected numbers for each of {len(arrays[name])} models"
            )
    return arrays[name], arrays["outputs"]


def _unit(columns: np.ndarray) -> np.ndarray:
    """For each column a power of two near its largest magnitude: dividing by it rounds nothing, and squares do not underflow."""
    largest = np.abs(columns).max(axis=0, keepdims=True)
    return np.where(largest > 0, np.ldexp(1.0, np.frexp(largest)[1] - 1), 1.0)


def _centred(columns: np.ndarray) -> np.ndarray:
    """Columns minus their means, each in its own unit; 0 where a column varies by no more than rounding."""
    scaled = columns / _unit(columns)
    constant = np.ptp(scaled, axis=0) <= ROUNDING * np.abs(scaled).max(axis=0)
    centred = scaled - np.mean(scaled, axis=0, keepdims=True)
    centred[:, constant] = 0.0
    return centred / _unit(centred)


def _largest(masks: np.ndarray, output: np.ndarray) -> float:
    """The smallest λ that sets every weight to zero."""
    return float(np.abs((masks - masks.mean(axis=0, keepdims=True)).T @ (output - output.mean())).max() / len(masks))


def _paths(masks: np.ndarray, output: np.ndarray, penalties: np.ndarray) -> Float[np.ndarray, "examples penalties"]:
    """The lasso's weights for falling penalties, in units of `_largest`."""
    from sklearn.linear_model import lasso_path

    largest = _largest(masks, output)
    if largest <= ROUNDING * np.abs(output).max():  # a constant output
        return np.zeros((masks.shape[1], len(penalties)))
    centred = np.asfortranarray(masks - masks.mean(axis=0, keepdims=True))
    _, weights, _ = lasso_path(centred, output - output.mean(), alphas=largest * penalties, max_iter=10_000, tol=1e-3)
    return weights
