"""What config.json of a run folder records: the configuration, and where its results come from."""

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from unlearn_jax.errors import ArgumentError
from unlearn_jax.files import MOST, read_regular
from unlearn_jax.partial import is_partial

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "unlearn_jax")
LONG, FEW = 300, 2  # characters of a list in messages; entries that are shown of a longer one
_ABSENT = "(absent)"


def read_config(out: Path, cache: Path | None) -> bytes | None:
    """The content of config.json; None if the folder is new, or empty except for the cache."""
    try:
        entries = [path for path in out.iterdir() if not is_partial(path)]
    except FileNotFoundError:
        return None
    if cache is not None and cache.resolve() == out.resolve():
        raise ArgumentError("cache", cache, "is the run folder itself; expected another folder, which may be inside it")
    file = out / "config.json"
    if file not in entries:
        if all(_is_empty(path, cache) for path in entries):
            return None
        raise ArgumentError("out", out, "contains files but no config.json, so it is no run folder; give a new or empty folder")
    try:
        return read_regular(file, MOST)
    except OSError as error:
        reason = f"contains a config.json that cannot be read ({error.strerror or error})"
        raise ArgumentError("out", out, f"{reason}; give a new or empty folder") from error


def _is_empty(entry: Path, cache: Path | None) -> bool:
    """Whether an entry of a folder contains nothing but empty folders and the cache."""
    if cache is not None and cache.resolve().is_relative_to(entry.resolve()):
        return True
    return entry.is_dir() and not entry.is_symlink() and all(_is_empty(path, cache) for path in entry.iterdir())


def parse_config(out: Path, text: bytes) -> dict[str, Any]:
    """Parses the content of config.json."""
    try:
        earlier = json.loads(text.decode("utf-8-sig"))
        if isinstance(earlier["config"], dict) and isinstance(earlier.get("earlier", []), list):
            return earlier
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise ArgumentError("out", out, "contains a config.json that is not of this project; give a new or empty folder")


def require_agreement(out: Path, old: dict[str, Any], new: dict[str, Any], extendable: frozenset[str]) -> None:
    """Raises ArgumentError on the first field in which the new configuration contradicts the old one."""
    old, new = dict(leaves(old)), dict(leaves(new))
    for field in {**new, **old}:
        before, now = old.get(field, _ABSENT), new.get(field, _ABSENT)
        may_extend = any(field == name or field.startswith(f"{name}.") for name in extendable)
        if before == now or (may_extend and _extends(before, now)):
            continue
        change = f"{field} is {_told(before, now)} there and {_told(now, before)} here"
        remedy = "add to the old value" if may_extend else "use the old value"
        raise ArgumentError("out", out, f"contains results of another configuration: {change}; {remedy}, or give another folder")


def _told(value: Any, other: Any) -> str:
    """A value as text; of a long list the first entries that the other value does not have."""
    whole = json.dumps(value)
    if not isinstance(value, list) or len(whole) <= LONG:
        return whole
    own = [entry for entry in value if not isinstance(other, list) or entry not in other]
    return json.dumps(own[:FEW]) + (f" and {len(own) - FEW} more" if len(own) > FEW else "")


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the leaves of a nested configuration by dotted name."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _extends(old: Any, new: Any) -> bool:
    """Whether a run with `new` may extend the results of a run with `old`."""
    if isinstance(old, list) and isinstance(new, list):
        return all(entry in new for entry in old)
    if _is_number(old) and _is_number(new):
        return new >= old
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def history(earlier: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The provenance of every earlier opening of the folder, oldest first."""
    if earlier is None:
        return []
    last = {key: value for key, value in earlier.items() if key not in ("config", "earlier")}
    return [*earlier.get("earlier", []), last]


def provenance(config: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, commit, command and time; the device is as asked for until `Run.record` replaces it."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "device": config.get("device"),
        "git": _commit(Path(__file__).resolve().parents[1]),
        "command": shlex.join(sys.orig_argv),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit(checkout: Path) -> dict[str, Any] | None:
    """The commit of the code, and whether tracked files differ from it; None outside a checkout."""
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": described.removesuffix("-dirty"), "dirty": described.endswith("-dirty")}
