"""Results that a study keeps in its run folder: read if an earlier run left them, else made and kept."""

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from unlearn_jax import device
from unlearn_jax.bench.option_groups import Judged
from unlearn_jax.bench.pools import compile_all, version_note
from unlearn_jax.bench.setting import Setting
from unlearn_jax.methods.apply import Unlearned, Unlearner
from unlearn_jax.progress import working
from unlearn_jax.runs import Run
from unlearn_jax.types import Key

Arrays = dict[str, np.ndarray]
Identity = Mapping[str, Any]


class Sized(Protocol):
    """The options that `identity_of` reads."""

    @property
    def members(self) -> Any:
        """The number of original models."""

    @property
    def evaluation(self) -> Judged:
        """See `options.Judged`."""

    @property
    def seed(self) -> int:
        """The seed of the run."""


def identity_of(config: Sized, setting: Setting, forget: np.ndarray) -> dict[str, Any]:
    """Returns all that the originals and oracles of a setting depend on.

    Args:
        config: the number of members, the number of retained examples that are evaluated, and the seed.
        setting: the data, the model and the recipe.
        forget: masks of the forget sets, `[..., examples]`.
    """
    return {
        **setting.identity,
        "recipe": dataclasses.asdict(setting.problem.recipe),
        "forget": hashlib.sha256(np.packbits(forget).tobytes()).hexdigest(),
        "members": config.members,
        "retain_size": config.evaluation.retain_size,
        "seed": config.seed,
    }


def load_or_make(folder: Run, name: str, identity: Identity, make: Callable[[], Mapping[str, Any]]) -> Arrays:
    """As `Run.cached`, and adds an array `made_with`: the versions and the backend.

    Arrays from another version or backend are used; one line on stderr says so.
    """
    arrays = _load(folder, name, identity)
    return _keep(folder, name, identity, make()) if arrays is None else arrays


def load_or_make_all(
    folder: Run,
    files: Mapping[str, tuple[str, Identity]],
    begin: Callable[[str], Unlearner | None],
    make: Callable[[str, Unlearner | None], Mapping[str, Any]],
) -> dict[str, Arrays]:
    """As `load_or_make`, for several methods. The unlearners that are needed are compiled in parallel, before the first is used.

    Args:
        folder: the run folder.
        files: by method, the name of the file and the identity.
        begin: makes the unlearner of a method; None for a method without one.
        make: makes the arrays of a method.
    """
    loaded = {method: _load(folder, *file) for method, file in files.items()}
    unlearners = {method: begin(method) for method in files if loaded[method] is None}
    compile_all([unlearner for unlearner in unlearners.values() if unlearner])
    return {
        method: _keep(folder, *files[method], make(method, unlearners.pop(method))) if arrays is None else arrays
        for method, arrays in loaded.items()
    }


def unlearn(label: str, unlearner: Unlearner, keys: Key) -> Unlearned:
    """Unlearns all members by a method, under a progress bar."""
    with working(label) as update:
        done = unlearner.apply(keys, lambda share: update(share, f"{round(share * len(keys))} of {len(keys)} members"))
        update(1.0, f"{done.seconds:.2f} s per member")
    return done


def _load(folder: Run, name: str, identity: Identity) -> Arrays | None:
    arrays = folder.find(name, identity)
    if arrays is not None:
        arrays.setdefault("made_with", np.array("an unknown version"))
        for sentence in version_note([str(arrays["made_with"])]):
            print(f"{name}: {sentence}", file=sys.stderr, flush=True)
    return arrays


def _keep(folder: Run, name: str, identity: Identity, arrays: Mapping[str, Any]) -> Arrays:
    return folder.keep(name, identity, {"made_with": np.array(device.made_with()), **arrays})
