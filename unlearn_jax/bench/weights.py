"""Models that are given instead of trained: read, counted, and part of what results are found by."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from unlearn_jax.checkpoints import SUFFIX, Models, contents, digests
from unlearn_jax.errors import ArgumentError
from unlearn_jax.runs import Run
from unlearn_jax.training.pools import Pool, diverged
from unlearn_jax.types import Variables

NOTHING: Mapping[str, Models] = MappingProxyType({})


class Weights(NamedTuple):
    """What a run takes and leaves of weights.

    Attributes:
        originals: to unlearn; None: they are trained.
        oracles: models retrained without each forget set, by its name; empty: they are trained.
        save: whether the models of the run are written into its folder.
    """

    originals: Models | None = None
    oracles: Mapping[str, Models] = NOTHING
    save: bool = False

    def identity(self, name: str) -> dict[str, Any]:
        """What the results on a forget set depend on besides what is trained; nothing where all is trained."""
        given = {"originals": self.originals, "oracles": self.oracles.get(name)}
        digests = {role: list(models.digests.values()) for role, models in given.items() if models}
        return {"given": digests} if digests else {}

    def described(self) -> list[str]:
        """Each model that was given: role, forget set, name and the beginning of its SHA-256."""
        roles = {"originals": self.originals} | {f"oracles/{name}": models for name, models in self.oracles.items()}
        return [
            f"{role}/{name} {digest[:16]}" for role, models in roles.items() if models for name, digest in models.digests.items()
        ]

    def notes(self) -> list[str]:
        """Sentences for a caption: what was given, and what follows."""
        given = {"originals": self.originals is not None, "oracles": bool(self.oracles)}
        roles = [role for role, there in given.items() if there]
        notes = [f"The {' and '.join(roles)} were given, not trained here."] * bool(roles)
        if len(roles) == 1:
            (other,) = given.keys() - {*roles}
            notes.append(f"Scores mean unlearning only if they were trained as the {other} were.")
        return notes


def folders_of(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """The folder with the oracles of each forget set: in `folder` and called as the set, or `folder` if there is one set.

    Args:
        folder: what was given.
        names: of the forget sets.
    """
    own = {name: folder / name for name in names}
    return {name: folder for name in own} if len(own) == 1 and not own[min(own)].is_dir() else own


def require_enough(models: Models, members: int, argument: str, value: object) -> Models:
    """Returns the models. Of originals the first `members` are used, of oracles all.

    Args:
        models: that were given.
        members: the number of originals.
        argument: `originals` or `oracles`.
        value: what was given, for messages.

    Raises:
        ArgumentError: there are too few, or one stands twice.
    """
    count, needed = len(models.digests), members if argument == "originals" else 2 * members
    if count < needed:
        reason = (
            "one for each member" if argument == "originals" else "two for each member, since the null compares half with half"
        )
        fewer = f"; or members {count * members // needed}" if count * members // needed > 1 else ""
        raise ArgumentError(argument, value, f"{count} given, {needed} needed: {reason}{fewer}")
    seen: dict[str, str] = {}
    for name, digest in models.digests.items():
        if digest in seen:
            raise ArgumentError(argument, value, f"{name} is the same model as {seen[digest]}")
        seen[digest] = name
    return models


def require_apart(weights: Weights, value: object) -> Weights:
    """Returns the weights, of which no oracle may be one of the originals.

    Args:
        weights: that were given.
        value: the oracles as they were given, for messages.

    Raises:
        ArgumentError: one is.
    """
    originals = {digest: name for name, digest in weights.originals.digests.items()} if weights.originals else {}
    for models in weights.oracles.values():
        for name, digest in models.digests.items():
            if digest in originals:
                raise ArgumentError("oracles", value, f"{name} is the same model as {originals[digest]} of the originals")
    return weights


def as_pool(models: Models, members: int | None = None) -> Pool:
    """The first of given models as a pool, by default all; the time of training is unknown (NaN)."""
    variables = jax.tree.map(lambda leaf: leaf[:members], models.variables)
    return Pool(variables, diverged(variables), float("nan"), 0.0)


def save_models(folder: Run, place: str, variables: Variables) -> list[str]:
    """Writes models into the run folder, as `models/PLACE/00000.safetensors` and so on.

    Args:
        folder: the run folder.
        place: a path below `models`.
        variables: with a leading axis of models.

    Returns:
        The SHA-256 of each file.
    """
    written = []
    for number, content in enumerate(contents(variables)):
        folder.write_bytes(f"models/{place}/{number:05d}{SUFFIX}", content)
        written.append(hashlib.sha256(content).hexdigest())
    return written


def saved_digests(folder: Run, place: str) -> list[str]:
    """The SHA-256 of each file that `save_models` left; nothing if it left none."""
    try:
        return list(digests(folder.folder / "models" / place, "out").values())
    except ArgumentError:
        return []
