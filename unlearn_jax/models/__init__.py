"""Networks as pure functions. `MODELS` is the registry; `build` makes a model by its name."""

from unlearn_jax.models import mlp, resnet, vit
from unlearn_jax.models.adapters import (
    from_equinox,
    from_functions,
    from_linen,
    from_nnx,
    to_equinox,
    to_nnx,
    variables_of,
)
from unlearn_jax.models.linen import as_model, draw_kernels
from unlearn_jax.models.registry import MODELS, build, find, model
from unlearn_jax.models.wrappers import mean_of, through_waves, wave_pixels, with_extra_class

_FAMILIES = (resnet, vit, mlp)

__all__ = [
    "MODELS",
    "as_model",
    "build",
    "draw_kernels",
    "find",
    "from_equinox",
    "from_functions",
    "from_linen",
    "from_nnx",
    "mean_of",
    "model",
    "through_waves",
    "to_equinox",
    "to_nnx",
    "variables_of",
    "wave_pixels",
    "with_extra_class",
]
