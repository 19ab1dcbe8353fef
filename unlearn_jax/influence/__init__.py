"""What one training example did to a model: exactly, by training without it, and as estimated."""

from unlearn_jax.influence.boundary import Contour, Window, contour, displacement
from unlearn_jax.influence.estimators import influence_functions, tracin, unrolled
from unlearn_jax.influence.leave_one_out import Change, LeaveOneOut, changes, leave_one_out
from unlearn_jax.influence.response import Training, all_but_one, for_members, reordered, retrained, train, training
from unlearn_jax.influence.subsets import Datamodels, SubsetInfluence, correlation, datamodels, mask_correlation, subset_influence

__all__ = [
    "Change",
    "Contour",
    "Datamodels",
    "LeaveOneOut",
    "SubsetInfluence",
    "Training",
    "Window",
    "all_but_one",
    "changes",
    "contour",
    "correlation",
    "datamodels",
    "displacement",
    "for_members",
    "influence_functions",
    "leave_one_out",
    "mask_correlation",
    "reordered",
    "retrained",
    "subset_influence",
    "tracin",
    "train",
    "training",
    "unrolled",
]
