"""A network of one's own on the command line: `--model FILE.py:FUNCTION`."""

import hashlib
from pathlib import Path

import numpy as np

from unlearn_jax.bench.plugins import import_file
from unlearn_jax.errors import UsageError
from unlearn_jax.types import Model


def read_model(spec: str, classes: int, shape: tuple[int, ...]) -> Model:
    """Imports the file and makes the model.

    Args:
        spec: `FILE.py:FUNCTION`; the function takes `classes` and `example` (zeros `[1, ...]`) and returns a `Model`, such as
            `from_linen` gives.
        classes: of the data.
        shape: of one example.

    Raises:
        UsageError: the file cannot be imported, or the function cannot be called so or returns something else.
    """
    file, _, function = spec.rpartition(":")
    path = Path(file).expanduser()
    try:
        module = import_file(f"model_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}", path)
        model = getattr(module, function)(classes=classes, example=np.zeros((1, *shape), np.float32))
    except (Exception, SystemExit) as error:  # it is somebody's, and can fail in any way
        reason = next(iter(str(error).strip().splitlines()), "")
        raise UsageError("--model", spec, f"gives no model ({type(error).__name__}: {reason})") from error
    if not isinstance(model, Model):
        kind = type(model).__name__
        raise UsageError("--model", spec, f"{function} returns {kind}; expected what uj.from_linen, from_nnx, ... give")
    return model
