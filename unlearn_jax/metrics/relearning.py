"""Relearning: how fast a model learns the forget set again."""

from typing import Any

import numpy as np
from jaxtyping import Float

from unlearn_jax.metrics import checks

NEVER = np.finfo(float).max


def relearn_steps(losses: Float[Any, "members points"], target: float | Float[Any, " members"]) -> Float[np.ndarray, " members"]:
    """The first step of finetuning on the forget set at which its loss is back at that of the original model.

    The loss is interpolated linearly between steps, so a result need not be an integer. A curve that never reaches the target is
    *censored*: it counts as the number of steps taken. Means stay defined, but slow models look faster than they are, and if all
    are censored there is no information. A loss that is not finite counts as infinite. Compare only curves of the same length.

    Compare with retrained models: a model that relearns faster than the oracles had not forgotten. The ratio of the two means
    is the anamnesis index.

    Args:
        losses: on the forget set before the first step, after the first, and so on.
        target: the loss of the originals, one number or one for each member; a member that starts at or below it takes 0 steps.

    Returns:
        Steps in 0..points - 1.

    Raises:
        ValueError: a target is not finite, the number of targets is neither one nor that of the members, or a curve is empty.

    Source: Golatkar et al., arXiv:1911.04933 (relearn time); Chundawat et al., arXiv:2201.05629 (the index).
    """
    curve = np.asarray(losses, np.float64)
    if curve.ndim != 2 or not curve.size:
        raise ValueError(f"losses: shape {curve.shape}, expected [members, points]")
    curve = np.where(np.isfinite(curve), curve, NEVER)
    level = checks.numbers("target", target)
    if level.shape not in ((), (len(curve),)):
        raise ValueError(f"target: shape {level.shape}, expected one number, or one for each of {len(curve)} members")
    level = np.broadcast_to(level, (len(curve),))
    reached = curve <= level[:, None]
    first = np.where(reached.any(1), reached.argmax(1), curve.shape[1] - 1)
    members = np.arange(len(curve))
    before, after = curve[members, np.maximum(first - 1, 0)], curve[members, first]
    falls = reached[members, first] & (first > 0)
    return first - np.where(falls, (level - after) / np.where(falls, before - after, 1), 0)
