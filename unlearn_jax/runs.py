"""The run folder: opened once, written atomically, read back to resume.

A file appears under its name whole or not at all: it is written beside its place and then moved there. A killed run can
therefore leave a stray `.<name>.<host>.<pid>.<random>.part`, which nobody reads and which the next run that opens the folder on
the same host sweeps away.

All arrays that are read back, from the run folder and from the cache that runs share, go through `Run.find` and `Run.keep`
(`Run.cached` is both): a sealed file that holds its identity, that is, all that its arrays depend on. What is not whole, or of
another identity, counts as absent. docs/reliability.md says what is promised.
"""

import contextlib
import csv
import dataclasses
import errno
import io
import itertools
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
from typing import Any, BinaryIO, ClassVar

import filelock
import numpy as np

from unlearn_jax import sealed
from unlearn_jax.device import numerics
from unlearn_jax.errors import StorageError, UsageError
from unlearn_jax.files import read_regular

FORMAT = 3  # of all that is kept: raise it when it is kept in another way, or when training or a study computes something else
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "unlearn_jax")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
MOST = 1 << 26  # bytes of a config.json
_PARTIAL = ".part"
_ABSENT = "(absent)"


@dataclasses.dataclass(frozen=True)
class Run:
    """An open run folder. Names are paths relative to it, such as `figures/loss.svg`; missing folders are made.

    Attributes:
        folder: where it is.
        made: the files and folders that this opening made, each after the folder that it is in.
        before: what config.json held when the folder was opened; None for a new run.
    """

    folder: Path
    option: ClassVar[str] = "--out"  # that named it
    made: list[Path] = dataclasses.field(default_factory=list, compare=False)
    before: bytes | None = dataclasses.field(default=None, compare=False)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Yields a binary file that takes its place as `name` when the block ends, and vanishes if the block fails.

        Raises:
            StorageError: if the disk is full or the folder has become read-only; what stood under `name` still stands there.
            UsageError: if a symbolic link would lead the file out of the folder, or leads to itself.
        """
        target = self.folder / name
        try:
            inside = target.parent.resolve().is_relative_to(self.folder.resolve())
        except RuntimeError:  # a link to itself
            inside = False
        if not inside:
            raise UsageError(self.option, self.folder, f"a symbolic link leads {name} out of this folder; remove the link")
        partial = target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}{_PARTIAL}")
        try:
            _make(target.parent, self.made)
            try:
                with partial.open("x+b") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())  # some file systems say only then that they are full
                if target.is_dir() and not target.is_symlink():  # whose place a file cannot take
                    self.drop(name)
                if not os.path.lexists(target):
                    self.made.append(target)
                os.replace(partial, target)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(self.option, target, error) from error

    def withdraw(self) -> None:
        """Takes back what this opening made, so that a corrected command finds the folder as it was.

        What others put there stays, and so does a folder that is not empty then.
        """
        for path in reversed(self.made):
            with contextlib.suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    path.rmdir()
                else:
                    path.unlink()
        self.made.clear()
        if self.before is not None:
            self.write_bytes("config.json", self.before)

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
        """Writes named arrays of any shape for people to read, sealed but without an identity; see `keep` for what is read back.

        Raises:
            TypeError: an array of objects.
        """
        with self.writing(name) as file:
            sealed.write(file, {key: np.asarray(array) for key, array in arrays.items()})

    def read_json(self, name: str) -> Any:
        """Returns what an earlier run wrote, or None if it did not get that far."""
        try:
            return json.loads(read_regular(self.folder / name, MOST))
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
            StorageError: as `writing`.
        """
        found = self.find(name, identity)
        return self.keep(name, identity, make()) if found is None else found

    def find(self, name: str, identity: Mapping[str, Any], *, say: bool = True) -> dict[str, np.ndarray] | None:
        """Returns what was kept as `name`; None if it is absent, of another identity, or damaged, which one line reports.

        Args:
            name: as `cached` had it.
            identity: likewise.
            say: whether to print that line.
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
                print(f"{path}: damaged ({reason.splitlines()[0]}), so it counts as absent", file=sys.stderr, flush=True)
            return None
        return arrays if whole == self._whole(name, identity) else None

    def keep(self, name: str, identity: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Keeps named arrays, and returns them as `find` will.

        Raises:
            StorageError: as `writing`.
            TypeError: an array of objects.
        """
        kept = {key: np.asarray(array) for key, array in arrays.items()}
        with self.writing(name) as file:
            sealed.write(file, {"identity": np.array(self._whole(name, identity)), **kept})
        return kept

    def drop(self, name: str) -> None:
        """Removes what stands as `name`; a folder, which is not ours, is only renamed.

        Raises:
            StorageError: the folder cannot be written.
        """
        path = self.folder / name
        try:
            if path.is_dir() and not path.is_symlink():
                _set_aside(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(self.option, path, error) from error

    def _whole(self, name: str, identity: Mapping[str, Any]) -> str:
        return json_text({"name": name, "format": FORMAT, "numerics": numerics(), **identity})


class Cache(Run):
    """A folder of what runs share, several at the same time. It is only written into when something is to be made."""

    option: ClassVar[str] = "--cache"

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
        lock = filelock.FileLock(self.folder / ".lock", fallback_to_soft=False)
        try:
            for path, wrong in ((self.folder, os.path.isfile), (self.folder / ".lock", os.path.isdir)):
                if wrong(path):  # somebody's, and in the way
                    _set_aside(path)
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                print(f"waiting for another run that makes the same: {work}", file=sys.stderr, flush=True)
                lock.acquire()
            _sweep(self.folder)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise StorageError(self.option, self.folder, error) from error
        try:
            yield
        finally:
            lock.release()


def claim(folder: Path) -> list[Path]:
    """Makes a folder that was not there: `folder`, or `folder-2`, `folder-3`, ... where that is taken. No two runs get the same.

    Returns:
        All folders that were made, outermost first; the last is the claimed one.

    Raises:
        UsageError: option `--out`, if none can be made.
    """
    made: list[Path] = []
    try:
        _make(folder.parent, made)
        for number in itertools.count(1):
            claimed = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
            with contextlib.suppress(FileExistsError):
                claimed.mkdir()
                return [*made, claimed]
    except OSError as error:
        raise UsageError("--out", folder, f"cannot be made ({error.strerror}); give a folder that can be") from error
    raise AssertionError("unreachable")


def open_run(
    out: Path | str,
    config: Mapping[str, Any],
    *,
    extendable: Iterable[str] = (),
    cache: Path | None = None,
    made: Sequence[Path] = (),
) -> Run:
    """Makes the run folder, or opens it again to resume or to extend what is in it.

    `config.json` gets the keys `config` (everything resolved), `versions`, `device`, `git`, `command`, `started`, and `earlier`:
    the same, without `config`, of each time that the folder was opened before, oldest first.

    Args:
        out: the folder.
        config: the full resolved configuration. Nested mappings are compared field by field, as `optimizer.momentum`.
        extendable: fields that may differ from what is there (name a nested field or the mapping that it is in). A list
            may gain entries and a number may grow, neither may lose; anything else (a path, a device) may change freely.
        cache: a folder that may lie in `out` without being part of the run.
        made: what `claim` made for this run.

    Returns:
        The open folder.

    Raises:
        UsageError: option `--out`, if the folder is a file, cannot be written, holds files but no config.json, or holds the
            results of a configuration that `config` contradicts. Nothing in it has been changed then.
        StorageError: if the disk is full; nothing has been changed either.
    """
    out, extendable = Path(out), frozenset(extendable)
    new = plain(config)
    run = Run(out, list(made))
    try:
        if out.exists() and not out.is_dir():
            raise UsageError("--out", out, "is a file; give a folder, new or of an earlier run")
        text = _earlier(out, cache)
        earlier = None if text is None else _parsed(out, text)
        if earlier is not None:
            _agree(out, earlier["config"], new, extendable)
        _make(out, run.made)
        run.write_json("config.json", {"config": new, **_provenance(new), "earlier": _history(earlier)})
    except (UsageError, OSError) as error:
        run.withdraw()
        if isinstance(error, UsageError) or error.errno in FULL:
            raise
        raise UsageError("--out", out, f"cannot be written ({error.strerror or error}); give a folder that can be") from error
    _sweep(out)
    return dataclasses.replace(run, before=text)


def _set_aside(path: Path) -> None:
    path.rename(path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.aside"))


def json_text(value: Any) -> str:
    """Returns a value as JSON text with sorted keys, the same text for equal values; other types as `plain` converts them.

    Raises:
        TypeError: see `plain`.
    """
    return json.dumps(value, sort_keys=True, default=plain)


def plain(value: Any) -> Any:
    """Returns `value` as JSON holds it: NaN and the infinities as None, arrays, tuples and sets as lists, paths as strings.

    Raises:
        TypeError: if a part of it has no such form.
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


def _make(folder: Path, made: list[Path]) -> None:
    """Makes a folder and those that it is in, and adds to `made` what was not there."""
    for path in (*reversed(folder.parents), folder):
        if not path.is_dir():
            try:
                path.mkdir()
            except FileExistsError:  # another run was faster, or it is a file
                if not path.is_dir():
                    raise
            else:
                made.append(path)


def _earlier(out: Path, cache: Path | None) -> bytes | None:
    """The content of config.json, or None for a folder that is new, or empty but for the cache."""
    try:
        entries = [path for path in out.iterdir() if not _is_partial(path)]
    except FileNotFoundError:
        return None
    if cache is not None and cache.resolve() == out.resolve():
        raise UsageError("--cache", cache, "is the run folder itself; expected another, which may be in it")
    file = out / "config.json"
    if file not in entries:
        if all(_holds_nothing(path, cache) for path in entries):
            return None
        raise UsageError("--out", out, "holds files but no config.json, so it is no run folder; give a new or an empty one")
    try:
        return read_regular(file, MOST)
    except OSError as error:
        reason = f"holds a config.json that cannot be read ({error.strerror or error})"
        raise UsageError("--out", out, f"{reason}; give a new or an empty folder") from error


def _holds_nothing(entry: Path, cache: Path | None) -> bool:
    """Whether all that an entry of a folder holds are empty folders, or the cache."""
    if cache is not None and cache.resolve().is_relative_to(entry.resolve()):
        return True
    return entry.is_dir() and not entry.is_symlink() and all(_holds_nothing(path, cache) for path in entry.iterdir())


def _parsed(out: Path, text: bytes) -> dict[str, Any]:
    """What config.json says."""
    try:
        earlier = json.loads(text.decode("utf-8-sig"))
        if isinstance(earlier["config"], dict) and isinstance(earlier.get("earlier", []), list):
            return earlier
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
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
        remedy = "add to the old value" if may_extend else "use the old value"
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
