"""What methods made, shared by runs through the cache: found again where everything that it depends on is the same."""

import contextlib
import functools
import hashlib
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import unlearn_jax
from unlearn_jax.as_json import json_text
from unlearn_jax.bench.forget_set import ForgetSet
from unlearn_jax.bench.model_metrics import metrics_for
from unlearn_jax.errors import StorageError
from unlearn_jax.methods import METHODS
from unlearn_jax.runs import Cache

LOGITS = "logits"  # folder of the cache
UNUSED = 60  # days after which an entry that no run has used is removed: mostly one of code that has changed since
OWN = "unlearn_jax."  # where modules are that `own_source` covers


@functools.cache
def own_source() -> str | None:
    """The SHA-256 of the project's own Python files; None where they cannot be read."""
    digest, files = hashlib.sha256(), sorted(Path(unlearn_jax.__file__).parent.rglob("*.py"))
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest() if files else None


def is_own(forget: ForgetSet, name: str) -> bool:
    """Whether a method is the project's, so that `own_source` covers its code; that of others may be anywhere."""
    entry = forget.entries[name]
    return entry is METHODS.get(name) and entry.make.__module__.startswith(OWN)


def find(forget: ForgetSet, name: str, identity: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """Returns the arrays that a run kept in the cache, or None.

    Args:
        forget: the forget set.
        name: of an npz file.
        identity: all that the arrays depend on besides the project's code.
    """
    shared = _place(forget, name, identity)
    found = shared[0].find(name, shared[1]) if shared else None
    if shared and found is not None:
        _mark_used(shared[0].folder)
    return found


def keep(forget: ForgetSet, name: str, identity: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Keeps arrays in the cache, as `find` finds them, and removes entries that no run has used for `UNUSED` days.

    Where the cache is full, or only to be read, it stays as it is.
    """
    if shared := _place(forget, name, identity):
        with contextlib.suppress(StorageError), shared[0].alone(name):
            shared[0].keep(name, shared[1], arrays)
            _mark_used(shared[0].folder)
            _remove_unused(shared[0].folder.parent)


def _mark_used(entry: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(entry)


@functools.cache
def _remove_unused(folder: Path) -> None:
    """Removes old entries, once in a process. A run that was about to read one makes it again."""
    oldest = time.time() - UNUSED * 24 * 60 * 60
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if re.fullmatch("[0-9a-f]{20}", entry.name) and entry.stat(follow_symlinks=False).st_mtime < oldest:
                shutil.rmtree(entry.path, ignore_errors=True)


def _place(forget: ForgetSet, name: str, identity: Mapping[str, Any]) -> tuple[Cache, dict[str, Any]] | None:
    """The folder, and the identity with the project's code.

    None where the models are to be written, which needs them all, and where somebody's metric measures them.
    """
    source = own_source()
    others = [metric for metric, _ in metrics_for(forget.clean_labels) if not metric.measure.__module__.startswith(OWN)]
    if source is None or others or forget.setting.weights.save:
        return None
    assert forget.config.cache
    whole = {**identity, "source": source}
    folder = hashlib.sha256(json_text({**whole, "name": name}).encode()).hexdigest()[:20]
    return Cache(forget.config.cache.absolute() / LOGITS / folder), whole
