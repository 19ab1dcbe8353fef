"""How fast a model learns again what it forgot."""

from typing import Any

import numpy as np
from jaxtyping import Float

NEVER = np.finfo(float).max


def relearn_steps(losses: Float[Any, "members points"], target: float | Float[Any, " members"]) -> Float[np.ndarray, " members"]:
    """The first step of finetuning on the forget set at which the loss there is back at the original model's.

    Between two points of the curve the loss is taken to be linear, so a result need not be whole. A curve that never gets
    there is *censored*: it counts as the number of steps taken. Means stay defined, slow models look faster than they are, and
    where all are censored nothing is told. A loss that is not finite is not there. Compare curves of one length only.

    Read it relative to a retrained model's: a model that relearns faster than the oracles had not forgotten. The ratio of the
    two means is the anamnesis index.

    Args:
        losses: on the forget set before the first step, after the first, and so on.
        target: the original models' loss, one for all or one for each member; who starts at or below it takes 0 steps.

    Returns:
        Steps, in 0..points - 1.

    Source: Golatkar et al., arXiv:1911.04933 (relearn time); Chundawat et al., arXiv:2201.05629 (the index).
    """
    curve = np.nan_to_num(np.asarray(losses, np.float64), nan=NEVER, posinf=NEVER)
    level = np.broadcast_to(np.asarray(target, np.float64), (len(curve),))
    there = curve <= level[:, None]
    first = np.where(there.any(1), there.argmax(1), curve.shape[1] - 1)
    members = np.arange(len(curve))
    before, after = curve[members, np.maximum(first - 1, 0)], curve[members, first]
    falls = there[members, first] & (first > 0)
    return first - np.where(falls, (level - after) / np.where(falls, before - after, 1), 0)
