"""Other people's networks as models: Flax linen and NNX modules, Equinox modules, or two pure functions."""

from unlearn_jax.models.adapters.equinox import from_equinox
from unlearn_jax.models.adapters.functions import from_functions
from unlearn_jax.models.adapters.linen import from_linen
from unlearn_jax.models.adapters.nnx import from_nnx

__all__ = ["from_equinox", "from_functions", "from_linen", "from_nnx"]
