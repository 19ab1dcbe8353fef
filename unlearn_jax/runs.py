"""The run folder: opened once, written atomically, read back to resume.

A file appears under its name whole or not at all: it is written beside its place and then moved there. A killed run can
therefore leave a stray `.<name>.<host>.<pid>.<random>.part`, which nobody reads and which the next `open_run` sweeps away.

Whatever is kept to be taken up again, in the run folder and in the cache that runs share, is kept in one way (`Run.cached`): in a
sealed file that holds its identity, that is, all that its arrays depend on. What is not whole, or of another identity, counts as
absent. docs/reliability.md says what is promised.
"""

import contextlib
import csv
import dataclasses
import errno
import io
import json
import math
import os
import platform
import shlex
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import numpy as np

from unlearn_jax import sealed
from unlearn_jax.device import numerics
from unlearn_jax.types import StorageError, UsageError

FORMAT = 3  # of all that is kept: raise it when it is kept in another way, or when training or a study computes something else
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "unlearn_jax")
_PARTIAL = ".part"
_ABSENT = "(absent)"


@dataclasses.dataclass(frozen=True)
class Run:
    """An open run folder. Names are paths relative to it, such as `figures/loss.svg`; missing folders are made.

    Attributes:
        folder: where it is.
    """

    folder: Path

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Yields a binary file that takes its place as `name` when the block ends, and vanishes if the block fails.

        Raises:
            OSError: if the disk is full or the folder has become read-only; what stood under `name` still stands there.
        """
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}{_PARTIAL}")
        try:
            with partial.open("x+b") as file:
                yield file
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes bytes as they are."""
        with self.writing(name) as file:
            file.write(data)

    def write_text(self, name: str, text: str) -> None:
        """Writes text as UTF-8."""
        self.write_bytes(name, text.encode())

    def write_json(self, name: str, value: Any) -> None:
        """Writes valid JSON: NaN and the infinities become null, arrays become lists, paths become strings.

        Raises:
            TypeError: if `value` holds something that is none of these, nor a dataclass or a named tuple.
        """
        self.write_text(name, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")

    def write_csv(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Writes a table with a header; None is an empty cell, and floats keep every digit.

        Raises:
            ValueError: if a row has not as many cells as there are columns.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(f"{name}: a row of {len(row)} cells under {len(columns)} columns")
            writer.writerow(row)
        self.write_text(name, text.getvalue())

    def write_npz(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Writes named arrays of any shape for others to read, sealed as well; what is to be taken up again, `keep` keeps.

        Raises:
            TypeError: an array of objects.
        """
        with self.writing(name) as file:
            sealed.write(file, {key: np.asarray(array) for key, array in arrays.items()})

    def read_json(self, name: str) -> Any:
        """Returns what an earlier run wrote, or None if it did not get that far."""
        try:
            return json.loads((self.folder / name).read_text())
        except FileNotFoundError:
            return None

    def record(self, **facts: Any) -> None:
        """Adds facts to config.json that are known only later, for instance `device="NVIDIA H100 80GB"`."""
        self.write_json("config.json", {**(self.read_json("config.json") or {}), **facts})

    def cached(self, name: str, identity: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Returns what an earlier run kept as `name`, or makes it now and keeps it.

        Args:
            name: of an npz.
            identity: all that the arrays depend on, as `json_text` takes it; `FORMAT`, the numerics and the name are added.
            make: gives the named arrays. It is called if there is nothing, or something of another identity or damaged.

        Raises:
            OSError: as `keep`.
        """
        found = self.find(name, identity)
        return self.keep(name, identity, make()) if found is None else found

    def find(self, name: str, identity: Mapping[str, Any], *, say: bool = True) -> dict[str, np.ndarray] | None:
        """Returns what was kept as `name`; None if nothing is there, or of another identity, or damaged, which a line says.

        Args:
            name: as `cached` had it.
            identity: likewise.
            say: whether to show that line.
        """
        path = self.folder / name
        try:
            arrays = sealed.read(path)
            whole = str(arrays.pop("identity"))
        except FileNotFoundError:
            return None
        except Exception as error:  # a file can be wrong in any way
            if say:
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                print(f"{path}: damaged ({reason.splitlines()[0]}); it is made again", file=sys.stderr, flush=True)
            return None
        return arrays if whole == self._whole(name, identity) else None

    def keep(self, name: str, identity: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Keeps named arrays for `find`, and returns them as it will.

        Raises:
            OSError: as `writing`.
            TypeError: an array of objects.
        """
        kept = {key: np.asarray(array) for key, array in arrays.items()}
        if (self.folder / name).is_dir():  # whose place a file cannot take
            self.drop(name)
        with self.writing(name) as file:
            sealed.write(file, {"identity": np.array(self._whole(name, identity)), **kept})
        return kept

    def drop(self, name: str) -> None:
        """Removes what stands as `name`; a folder, which is not ours, is only renamed."""
        path = self.folder / name
        if path.is_dir() and not path.is_symlink():
            path.rename(path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.aside"))
        else:
            path.unlink(missing_ok=True)

    def _whole(self, name: str, identity: Mapping[str, Any]) -> str:
        return json_text({"name": name, "format": FORMAT, "numerics": numerics(), **identity})


class Cache(Run):
    """A folder of what runs share, several at the same time. It is only written into when something is to be made."""

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """As for a run folder, but that the error names `--cache`.

        Raises:
            StorageError: the disk is full, or the folder cannot be written.
        """
        with self._naming_the_option(), super().writing(name) as file:
            yield file

    def drop(self, name: str) -> None:
        """As for a run folder, but that the error names `--cache`.

        Raises:
            StorageError: the folder cannot be written.
        """
        with self._naming_the_option():
            super().drop(name)

    @contextlib.contextmanager
    def alone(self, work: str) -> Iterator[None]:
        """Waits until no other run works in this folder, and says so once if one does.

        The lock is the kernel's, and vanishes with the process that holds it, however that ends. On a file system without locks
        nobody waits: the work may then be done twice, and what is finished last stays.

        Args:
            work: what is to be made, for the line that says what is waited for.

        Raises:
            StorageError: the folder cannot be written.
        """
        with self._naming_the_option():
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.folder / ".lock", fallback_to_soft=False)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                print(f"waiting for another run that makes the same: {work}", file=sys.stderr, flush=True)
                lock.acquire()
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                    raise
            _sweep(self.folder)
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def _naming_the_option(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError("--cache", self.folder, error) from error


def open_run(out: Path | str, config: Mapping[str, Any], *, extendable: Iterable[str] = ()) -> Run:
    """Makes the run folder, or opens it again to resume or to extend what is in it.

    `config.json` gets the keys `config` (everything resolved), `versions`, `device`, `git`, `command`, `started`, and `earlier`:
    the same, without `config`, of each time that the folder was opened before, oldest first.

    Args:
        out: the folder.
        config: the full resolved configuration. Nested mappings are compared field by field, as `optimizer.momentum`.
        extendable: fields that may differ from what is there (name a nested field or the mapping that it is in). A list
            may gain entries and a number may grow, neither may lose; anything else (a path, a device) may change freely.

    Returns:
        The open folder.

    Raises:
        UsageError: option `--out`, if the folder is a file, cannot be written, holds files but no config.json, or holds the
            results of a configuration that `config` contradicts. Nothing in it has been changed then.
    """
    out, extendable = Path(out), frozenset(extendable)
    new = plain(config)
    try:
        if out.exists() and not out.is_dir():
            raise UsageError("--out", out, "is a file; give a folder, new or of an earlier run")
        earlier = _earlier(out)
        if earlier is not None:
            _agree(out, earlier["config"], new, extendable)
        out.mkdir(parents=True, exist_ok=True)
        run = Run(out)
        run.write_json("config.json", {"config": new, **_provenance(new), "earlier": _history(earlier)})
    except OSError as error:
        raise UsageError("--out", out, f"cannot be written ({error.strerror or error}); give a folder that can be") from error
    _sweep(out)
    return run


def json_text(value: Any) -> str:
    """Returns the one text of a value, with sorted keys; what JSON does not know is put as `plain` has it.

    Raises:
        TypeError: see `plain`.
    """
    return json.dumps(value, sort_keys=True, default=plain)


def plain(value: Any) -> Any:
    """Returns `value` as JSON holds it: NaN and the infinities as None, arrays, tuples and sets as lists, paths as strings.

    Raises:
        TypeError: if it holds something that JSON cannot hold.
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


def _earlier(out: Path) -> dict[str, Any] | None:
    """What config.json says, or None for a folder that is new or empty."""
    try:
        names = [path.name for path in out.iterdir() if not _is_partial(path)]
    except FileNotFoundError:
        return None
    if not names:
        return None
    if "config.json" not in names:
        raise UsageError("--out", out, "holds files but no config.json, so it is no run folder; give a new or an empty one")
    try:
        earlier = json.loads((out / "config.json").read_text())
        if isinstance(earlier["config"], dict):
            return earlier
    except (ValueError, KeyError, TypeError):
        pass
    raise UsageError("--out", out, "holds a config.json that is not of this project; give a new or an empty folder")


def _agree(out: Path, old: dict[str, Any], new: dict[str, Any], extendable: frozenset[str]) -> None:
    """Refuses the first field in which the new configuration contradicts the old one."""
    old, new = dict(_fields(old)), dict(_fields(new))
    for field in {**new, **old}:
        before, now = old.get(field, _ABSENT), new.get(field, _ABSENT)
        may_extend = any(field == name or field.startswith(f"{name}.") for name in extendable)
        if before == now or (may_extend and _extends(before, now)):
            continue
        change = f"{field} is {json.dumps(before)} there and {json.dumps(now)} here"
        remedy = "it may gain but not lose" if may_extend else "agree with it"
        raise UsageError("--out", out, f"holds results of another configuration: {change}; {remedy}, or give another folder")


def _fields(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested configuration, by dotted name."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _extends(old: Any, new: Any) -> bool:
    """Whether results for `old` are still results for `new`."""
    if isinstance(old, list) and isinstance(new, list):
        return all(entry in new for entry in old)
    if _is_number(old) and _is_number(new):
        return new >= old
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _history(earlier: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Who wrote into the folder before, oldest first."""
    if earlier is None:
        return []
    last = {key: value for key, value in earlier.items() if key not in ("config", "earlier")}
    return [*earlier.get("earlier", []), last]


def _provenance(config: Mapping[str, Any]) -> dict[str, Any]:
    """What computed the results, and when; the device is as asked for until `Run.record` knows better."""
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
    """The commit of the code, and whether tracked files differ from it; None if it does not run from a checkout."""
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": described.removesuffix("-dirty"), "dirty": described.endswith("-dirty")}


def _is_partial(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(_PARTIAL)


def _sweep(folder: Path) -> None:
    """Removes the partial files of runs on this host that are no longer alive; another run's are its own business."""
    for path in folder.rglob(f".*{_PARTIAL}"):
        name = path.name.removesuffix(_PARTIAL)
        owner, _, process = name.rpartition(".")[0].rpartition(".")
        if owner.endswith(f".{socket.gethostname()}") and process.isdigit() and not _alive(int(process)):
            path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # alive, and somebody else's
        pass
    return True
