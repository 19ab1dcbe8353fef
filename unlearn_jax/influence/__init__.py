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
from unlearn_jax.influence.projected import kronecker, projected_influence, sparse, trackstar
from unlearn_jax.influence.representer import Representers, head_inputs, representer_points, representers
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
from unlearn_jax.influence.values import data_oob, data_shapley, knn_shapley, ridge_margins

__all__ = [
    "Change",
    "Contour",
    "Datamodels",
    "LeaveOneOut",
    "NoBoundaryError",
    "Representers",
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
    "data_oob",
    "data_shapley",
    "datamodels",
    "displacement",
    "eigendecomposition",
    "ek_fac",
    "for_members",
    "grad_cos",
    "grad_dot",
    "head_inputs",
    "influence_functions",
    "knn_shapley",
    "kronecker",
    "leave_one_out",
    "lissa",
    "margins",
    "mask_correlation",
    "metasmoothness",
    "projected_influence",
    "reordered",
    "representer_points",
    "representers",
    "retrained",
    "ridge_margins",
    "source",
    "sparse",
    "subset_influence",
    "tracin",
    "trackstar",
    "train",
    "train_in_segments",
    "training",
    "trak",
    "unrolled",
    "woodbury",
]
