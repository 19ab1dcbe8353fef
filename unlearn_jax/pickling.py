"""What is sent to other processes: pickled once, large arrays apart, each under the digest of its content."""

import hashlib
import io
import pickle
import sys
from collections.abc import Mapping
from typing import Any

import cloudpickle
import numpy as np

from unlearn_jax.workers import FROM_FILES

LARGE = 1 << 20  # bytes from which an array travels apart from its job


class _Pickler(cloudpickle.Pickler):
    """Leaves large arrays out, and collects them by the digest of their content. Models of the registry go by name."""

    def __init__(self, file: Any):
        super().__init__(file)
        self.large: dict[str, np.ndarray] = {}

    def persistent_id(self, value: Any) -> str | None:
        if type(value) is not np.ndarray or value.nbytes < LARGE or value.dtype.hasobject:
            return None
        whole = np.ascontiguousarray(value)
        digest = hashlib.sha256(f"{whole.dtype.str} {whole.shape}".encode())
        digest.update(whole.view(np.uint8).data)
        self.large[digest.hexdigest()] = whole
        return digest.hexdigest()

    def reducer_override(self, value: Any) -> Any:
        from unlearn_jax.models.registry import build_again, built_as
        from unlearn_jax.types import Model

        if isinstance(value, Model) and built_as(value):
            return build_again, built_as(value)
        return super().reducer_override(value)


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, large: Mapping[str, np.ndarray]):
        super().__init__(io.BytesIO(content))
        self.large = large

    def persistent_load(self, name: str) -> np.ndarray:
        return self.large[name]


def pickled(value: Any) -> tuple[bytes, dict[str, np.ndarray]]:
    """A value without its large arrays, and these by the digest of their content."""
    for module in FROM_FILES:
        if sys.modules.get(module.__name__) is module:  # others were imported for a while, and nothing of them is in use
            cloudpickle.register_pickle_by_value(module)
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)
    return file.getvalue(), pickler.large


def unpickled(content: bytes, large: Mapping[str, np.ndarray]) -> Any:
    """The value again."""
    return _Unpickler(content, large).load()
