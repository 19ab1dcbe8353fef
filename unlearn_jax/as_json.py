"""Values as JSON."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import Any


def json_text(value: Any) -> str:
    """Returns a value as JSON text with sorted keys: their order does not matter. Other types are converted by `plain`.

    Raises:
        TypeError: see `plain`.
    """
    return json.dumps(value, sort_keys=True, default=plain)


def plain(value: Any) -> Any:
    """Converts a value to JSON types: NaN and the infinities as None, arrays, tuples and sets as lists, paths as strings.

    Raises:
        TypeError: a part of it cannot be converted.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    elif hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(entry) for entry in value)
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"JSON cannot hold a {type(value).__name__}")
