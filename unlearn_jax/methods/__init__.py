"""Unlearning methods. `METHODS` is the registry; `edit`, `descend` and `pipe` are the pieces."""

from unlearn_jax.methods import (
    adversarial,
    ascent,
    boundary,
    certified,
    competition2023,
    curvature,
    data_free,
    distillation,
    matching,
    output_statistics,
    refined,
    relabelling,
    removal,
    retraining,
    sharding,
    sparsity,
    weight_space,
)
from unlearn_jax.methods.pieces import edit, pipe
from unlearn_jax.methods.registry import METHODS, Entry, Range, hyperparameters, register, searchable, traceable
from unlearn_jax.training.descend import descend

_FAMILIES = (
    retraining,
    ascent,
    output_statistics,
    relabelling,
    boundary,
    distillation,
    data_free,
    adversarial,
    sparsity,
    curvature,
    removal,
    competition2023,
    sharding,
    matching,
    refined,
    weight_space,
    certified,
)

__all__ = ["METHODS", "Entry", "Range", "descend", "edit", "hyperparameters", "pipe", "register", "searchable", "traceable"]
