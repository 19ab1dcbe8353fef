"""Training until the loss is what is wanted: the search for the number of epochs."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from unlearn_jax.bench.options import Training
from unlearn_jax.bench.pools import pool
from unlearn_jax.bench.setting import Setting
from unlearn_jax.metrics import cross_entropy_losses
from unlearn_jax.progress import working
from unlearn_jax.training.ensembles import predict

CLOSE = 1.25  # the search ends at a loss within this factor below the one that is sought
TRIES = 12  # numbers of epochs that the search trains at most
TINY = 1e-12  # nats: smaller losses count as this
STEEPNESS = 2.0  # of the loss against epochs, on logarithmic axes: where only one of them is known


def try_epochs(
    loss_after: Callable[[int], float], start: int, wanted: float, most: int, close: float = CLOSE
) -> dict[int, float]:
    """Tries numbers of epochs until the loss is at most a factor `close` below the wanted one, or no number lies between.

    On logarithmic axes the loss is taken for a straight line between two that are known, and for one of slope `-STEEPNESS`
    beyond them; steps beyond are factors of 4 at most. The loss may be noisy, and be infinite.

    Args:
        loss_after: the mean training loss after a number of epochs.
        start: the first number of epochs.
        wanted: the loss that is sought.
        most: epochs at most.
        close: above 1.
    """
    tried: dict[int, float] = {}
    epochs = start
    while len(tried) < TRIES:
        tried[epochs] = loss_after(epochs)
        high = enough(tried, wanted)
        low = max((each for each, loss in tried.items() if loss > wanted and (high is None or each < high)), default=0)
        if high is None:
            if low >= most:
                break
            epochs = min(most, max(low + 1, round(low * step(tried[low] / wanted))))
        elif tried[high] >= wanted / close or high - low <= 1:
            break
        elif low == 0:
            epochs = max(1, min(high - 1, round(high / step(wanted / tried[high]))))
        else:
            aim = math.sqrt(wanted * wanted / close)
            share = math.log(tried[low] / aim) / math.log(tried[low] / tried[high]) if math.isfinite(tried[low]) else 0.5
            epochs = min(high - 1, max(low + 1, round(low * (high / low) ** share)))
    return tried


def step(ratio: float) -> float:
    """The factor of the epochs that is expected to change the loss by a ratio of 1 or more, from 1.25 to 4."""
    return min(max((CLOSE * ratio) ** (1 / STEEPNESS), CLOSE), 4.0)


def enough(tried: dict[int, float], wanted: float) -> int | None:
    """The fewest epochs whose loss is at or below the wanted one; None if there are none."""
    return min((epochs for epochs, loss in tried.items() if loss <= wanted), default=None)


def nearest(tried: dict[int, float], wanted: float) -> int:
    """The epochs whose loss is nearest to the wanted one, by ratio; of equally near ones the fewest."""
    return min(tried, key=lambda epochs: (abs(math.log(max(tried[epochs], TINY) / wanted)), epochs))


def training_logits(
    config: Training, setting: Setting, members: int
) -> tuple[Float[np.ndarray, "members examples classes"], Int[np.ndarray, " examples"]]:
    """The logits of originals on all training examples, and the labels of these."""
    train = setting.data.train
    originals = pool(config, setting, setting.problem, np.ones(len(train.labels), bool), "original", members)
    with working("training loss") as update:
        logits = predict(setting.problem.model, originals.variables, train.images, config.strategy)
        update(1.0, f"{setting.problem.recipe.epochs} epochs: {mean_loss(logits, train.labels):.3g} nats")
    return logits, train.labels


def mean_loss(logits: Float[np.ndarray, "members examples classes"], labels: Int[np.ndarray, " examples"]) -> float:
    """The mean cross-entropy in nats; infinite if a model diverged."""
    return float(cross_entropy_losses(logits, labels).mean()) if np.isfinite(logits).all() else math.inf
