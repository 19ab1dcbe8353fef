"""Machine unlearning, measured against the distribution of retrained models.

The names below are imported when they are first used: `import unlearn_jax` itself does not import JAX.
"""

import importlib
from typing import Any

_MODULES = {
    "Cube": "types",
    "DATASETS": "data",
    "Dataset": "data",
    "Examples": "types",
    "Labels": "types",
    "Leaderboard": "bench.answers",
    "METHODS": "methods",
    "METRICS": "metrics",
    "MODELS": "models",
    "Model": "types",
    "Problem": "types",
    "Recipe": "types",
    "ArgumentError": "errors",
    "UsageError": "errors",
    "Variables": "types",
    "Verdict": "bench.answers",
    "build": "models",
    "convert": "convert",
    "dataset": "data",
    "evaluate": "bench.api",
    "from_equinox": "models",
    "from_functions": "models",
    "from_linen": "models",
    "from_nnx": "models",
    "leave_one_out": "influence",
    "load": "data",
    "load_variables": "checkpoints",
    "metric": "metrics",
    "model": "models",
    "register": "methods",
    "save_variables": "checkpoints",
    "score": "bench.api",
    "to_equinox": "models",
    "to_nnx": "models",
    "unlearn": "bench.api",
    "variables_of": "models",
}

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    value = module if name == _MODULES[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
