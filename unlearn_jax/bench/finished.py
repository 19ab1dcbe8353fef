"""Finished runs, as their folders hold them."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from unlearn_jax import sealed
from unlearn_jax.bench.statistics import PARTS, read_parts
from unlearn_jax.errors import UsageError
from unlearn_jax.files import MOST, open_regular, read_regular, unread
from unlearn_jax.report.rows import Row, read_results

MAIN = "unlearning"  # the experiment whose configuration says which results there must be
OF_SET = ("name", "format", "forget", "values", "learned", "metrics", "relearning", "retain_size")
"""What the identity of logits holds beside that of the original models."""


class Finished(NamedTuple):
    """A finished run."""

    letter: str
    path: Path
    facts: dict[str, Any]  # config.json
    values: dict[str, Any]  # hyperparameters.json
    rows: list[Row]
    means: list[Row]  # over the forget sets; empty if there is one
    sets: dict[str, str]  # by name, what a forget set holds
    data: str | None  # fingerprint; None if unknown
    originals: str | None  # what the original models depend on; None if unknown
    parts: dict[tuple[str, ...], Float[np.ndarray, " groups"]]  # by forget set, method, metric and split


def read(path: Path, letter: str) -> Finished:
    """Reads the folder of a finished run.

    Args:
        path: the folder.
        letter: the run's name in tables.

    Raises:
        ArgumentError: it is no folder of a finished run.
    """
    try:
        facts = json.loads(read_regular(path / "config.json", MOST))
        config = facts["config"]
        rows = _rows(path / "results.csv")
        names = list(dict.fromkeys(row.forget_set for row in rows))
        lacking = _lacking(config, rows, len(names)) if config.get("exp") == MAIN else ""
        means = _rows(path / "over_forget_sets.csv") if len(names) > 1 else []
    except FileNotFoundError as error:
        raise UsageError(
            "--runs", path, f"holds no {Path(error.filename).name}; expected the folder of a finished run"
        ) from error
    except Exception as error:  # whoever wrote the files: they can hold anything
        raise UsageError("--runs", path, f"expected the folder of a finished run ({unread(error)})") from error
    if lacking:
        raise UsageError("--runs", path, f"is not finished: no results {lacking}; run its command again with --out {path}")
    identity = _identity(path, rows)
    of_originals = {name: value for name, value in identity.items() if name not in OF_SET}
    return Finished(
        letter=letter,
        path=path,
        facts=facts,
        values=_json(path / "hyperparameters.json"),
        rows=rows,
        means=means,
        sets={name: _content(path, name) for name in names},
        data=identity.get("data"),
        originals=json.dumps(of_originals, sort_keys=True) if identity else None,
        parts=read_parts(path / PARTS),
    )


def _rows(path: Path) -> list[Row]:
    open_regular(path).close()  # never waits, as for a pipe
    return read_results(path)


def _lacking(config: Mapping[str, Any], rows: Sequence[Row], sets: int) -> str:
    """What results.csv lacks of a run of the main job; nothing if it is finished."""
    methods = {row.method for row in rows}
    missing = [f"of {name}" for name in config.get("methods", ()) if name not in methods]
    missing += [f"on {config['forget_sets'] - sets} forget sets"] if sets < config.get("forget_sets", 1) else []
    return ", ".join(missing)


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is none."""
    try:
        found = json.loads(read_regular(path, MOST))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _content(path: Path, name: str) -> str:
    """What a forget set holds: a digest of its rows, or its name if they are not in the folder."""
    try:
        return hashlib.sha256(read_regular(path / "forget_sets" / f"{Path(name).name}.txt", MOST)).hexdigest()
    except OSError:
        return name


def _identity(path: Path, rows: Iterable[Row]) -> dict[str, Any]:
    """All that the logits of some method depend on; empty if there are none, as of a run on logits."""
    for name, method in dict.fromkeys((row.forget_set, row.method) for row in rows):
        try:
            identity = json.loads(str(sealed.read(path / "logits" / Path(name).name / f"{Path(method).name}.npz")["identity"]))
        except Exception:  # a damaged file can raise anything
            continue
        if isinstance(identity, dict):
            return identity
    return {}
