"""The influence of single training examples: exact, by retraining without them, and estimated."""

from unlearn_jax.influence.boundary import Contour, NoBoundaryError, Window, contour, displacement
from unlearn_jax.influence.curvature import (
    arnoldi,
    conjugate_gradients,
    data_inf,
    eigendecomposition,
    ek_fac,
    influence_functions,
    lissa,
    woodbury,
)
from unlearn_jax.influence.gradients import grad_cos, grad_dot, tracin, trak
from unlearn_jax.influence.leave_one_out import Change, LeaveOneOut, changes, leave_one_out
from unlearn_jax.influence.response import (
    Training,
    all_but_one,
    for_members,
    margins,
    reordered,
    retrained,
    train,
    train_in_segments,
    training,
)
from unlearn_jax.influence.subsets import Datamodels, SubsetInfluence, correlation, datamodels, mask_correlation, subset_influence
from unlearn_jax.influence.unrolled import metasmoothness, source, unrolled

__all__ = [
    "Change",
    "Contour",
    "Datamodels",
    "LeaveOneOut",
    "NoBoundaryError",
    "SubsetInfluence",
    "Training",
    "Window",
    "all_but_one",
    "arnoldi",
    "changes",
    "conjugate_gradients",
    "contour",
    "correlation",
    "data_inf",
    "datamodels",
    "displacement",
    "eigendecomposition",
    "ek_fac",
    "for_members",
    "grad_cos",
    "grad_dot",
    "influence_functions",
    "leave_one_out",
    "lissa",
    "margins",
    "mask_correlation",
    "metasmoothness",
    "reordered",
    "retrained",
    "source",
    "subset_influence",
    "tracin",
    "train",
    "train_in_segments",
    "training",
    "trak",
    "unrolled",
    "woodbury",
]
