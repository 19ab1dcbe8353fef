"""Other people's networks as models: Flax linen and NNX modules, Equinox modules, or two pure functions."""

from typing import Any

from flax.nnx import Module

from unlearn_jax.models.adapters import equinox
from unlearn_jax.models.adapters import nnx as of_nnx
from unlearn_jax.models.adapters.equinox import from_equinox, to_equinox
from unlearn_jax.models.adapters.functions import from_functions
from unlearn_jax.models.adapters.linen import from_linen
from unlearn_jax.models.adapters.nnx import from_nnx, to_nnx
from unlearn_jax.types import Variables

__all__ = ["from_equinox", "from_functions", "from_linen", "from_nnx", "to_equinox", "to_nnx", "variables_of"]


def variables_of(module: Any, state: Any = None) -> Variables:
    """The variables of an NNX or Equinox module that was trained elsewhere, as `unlearn` and `evaluate` take them.

    Args:
        module: the module.
        state: of an Equinox module that has one.
    """
    return of_nnx.variables_in(module) if isinstance(module, Module) else equinox.variables_in(module, state)
