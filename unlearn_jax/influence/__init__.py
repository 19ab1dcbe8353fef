"""What one training example did to a model: exactly, by training without it, and as estimated."""

from unlearn_jax.influence.boundary import Contour, Window, contour, displacement
from unlearn_jax.influence.estimators import influence_functions, tracin, unrolled
from unlearn_jax.influence.leave_one_out import Change, LeaveOneOut, changes, leave_one_out
from unlearn_jax.influence.response import Training, all_but_one, for_members, margins, reordered, retrained, train, training

__all__ = [
    "Change",
    "Contour",
    "LeaveOneOut",
    "Training",
    "Window",
    "all_but_one",
    "changes",
    "contour",
    "displacement",
    "for_members",
    "influence_functions",
    "leave_one_out",
    "margins",
    "reordered",
    "retrained",
    "tracin",
    "train",
    "training",
    "unrolled",
]
