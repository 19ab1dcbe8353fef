"""The run folder and the cache: written atomically, read back to resume.

A file is written whole or not at all: first under a temporary name beside its place, then moved. A killed run may therefore
leave a file `.<name>.<host>.<pid>.<random>.part`, which is never read, and which the next run that opens the folder on the same
host removes.

All arrays that are read back, from the run folder or the cache, go through `Run.find` and `Run.keep` (`Run.cached` is both):
sealed files that contain their identity, that is, all that the arrays depend on. A file that is damaged or of another identity
is ignored. The guarantees are in docs/reliability.md.
"""

import contextlib
import csv
import dataclasses
import errno
import io
import itertools
import json
import os
import socket
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import filelock
import numpy as np

from unlearn_jax import sealed
from unlearn_jax.as_json import json_text, plain
from unlearn_jax.device import numerics
from unlearn_jax.errors import ArgumentError, StorageError
from unlearn_jax.files import MOST, read_regular, unread
from unlearn_jax.partial import PARTIAL, remove_partial
from unlearn_jax.recorded import history, parse_config, provenance, read_config, require_agreement

FORMAT = 3  # part of every identity: raise it when the file format changes, or what training or a study computes
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@dataclasses.dataclass(frozen=True)
class Run:
    """An open run folder. Names are paths relative to it, such as `figures/loss.svg`; missing folders are created.

    Attributes:
        folder: its path.
        made: the files and folders created since it was opened, each after the folder that it is in.
        before: the content of config.json when the folder was opened; None for a new run.
    """

    folder: Path
    argument: ClassVar[str] = "out"  # what messages call the folder
    made: list[Path] = dataclasses.field(default_factory=list, compare=False)
    before: bytes | None = dataclasses.field(default=None, compare=False)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Yields a binary file that becomes `name` when the block ends, and is removed if the block fails.

        Raises:
            StorageError: the disk is full or the folder has become read-only; an earlier file `name` is unchanged.
            ArgumentError: a symbolic link leads out of the folder, or to itself.
        """
        target = self.folder / name
        try:
            inside = target.parent.resolve().is_relative_to(self.folder.resolve())
        except RuntimeError:  # a link to itself
            inside = False
        if not inside:
            raise ArgumentError(self.argument, self.folder, f"a symbolic link leads {name} out of this folder; remove the link")
        partial = target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}{PARTIAL}")
        try:
            _make(target.parent, self.made)
            try:
                with partial.open("x+b") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())  # some file systems report only here that they are full
                if target.is_dir() and not target.is_symlink():  # a file cannot replace a folder
                    self.drop(name)
                if not os.path.lexists(target):
                    self.made.append(target)
                os.replace(partial, target)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(self.argument, target, error) from error

    def withdraw(self) -> None:
        """Removes what was created since the folder was opened, so that a corrected command finds it as it was.

        Files of others stay, and so do folders that hold some.
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
        """Writes bytes."""
        with self.writing(name) as file:
            file.write(data)

    def write_text(self, name: str, text: str) -> None:
        """Writes text as UTF-8."""
        self.write_bytes(name, text.encode())

    def write_json(self, name: str, value: Any) -> None:
        """Writes valid JSON: NaN and the infinities become null, arrays become lists, paths become strings.

        Raises:
            TypeError: `value` contains something that JSON cannot hold; see `plain`.
        """
        self.write_text(name, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")

    def write_csv(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Writes a table with a header; None is an empty cell, and floats keep every digit.

        Raises:
            ValueError: a row does not have one cell for each column.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(f"{name}: a row has {len(row)} cells, expected {len(columns)}, one for each column")
            writer.writerow(row)
        self.write_text(name, text.getvalue())

    def write_npz(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Writes named arrays for users, sealed but without an identity. Arrays that are read back use `keep`.

        Raises:
            TypeError: an array of objects.
        """
        with self.writing(name) as file:
            sealed.write(file, {key: np.asarray(array) for key, array in arrays.items()})

    def read_json(self, name: str) -> Any:
        """Returns the JSON that an earlier run wrote, or None if there is none."""
        try:
            return json.loads(read_regular(self.folder / name, MOST))
        except FileNotFoundError:
            return None

    def record(self, **facts: Any) -> None:
        """Adds facts to config.json that become known later, such as `device="NVIDIA H100 80GB"`."""
        self.write_json("config.json", {**(self.read_json("config.json") or {}), **facts})

    def cached(self, name: str, identity: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Returns the arrays that an earlier run kept as `name`, or makes and keeps them.

        Args:
            name: of an npz file.
            identity: all that the arrays depend on; see `json_text`. `FORMAT`, the numerics and the name are added.
            make: makes the named arrays. It is called if the file is missing, damaged or of another identity.

        Raises:
            StorageError: as `writing`.
        """
        arrays = self.find(name, identity)
        return self.keep(name, identity, make()) if arrays is None else arrays

    def find(self, name: str, identity: Mapping[str, Any], *, say: bool = True) -> dict[str, np.ndarray] | None:
        """Returns the arrays kept as `name`; None if the file is missing, of another identity, or damaged.

        Args:
            name: as in `cached`.
            identity: as in `cached`.
            say: whether to print a line about a damaged file.
        """
        path = self.folder / name
        try:
            arrays = sealed.read(path)
            kept_identity = str(arrays.pop("identity"))
        except FileNotFoundError:
            return None
        except Exception as error:  # a damaged file can raise anything
            if say:
                print(f"{path}: damaged ({unread(error)}), so it is ignored", file=sys.stderr, flush=True)
            return None
        return arrays if kept_identity == self._identity(name, identity) else None

    def keep(self, name: str, identity: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Keeps named arrays, and returns them as `find` does.

        Raises:
            StorageError: as `writing`.
            TypeError: an array of objects.
        """
        kept = {key: np.asarray(array) for key, array in arrays.items()}
        with self.writing(name) as file:
            sealed.write(file, {"identity": np.array(self._identity(name, identity)), **kept})
        return kept

    def drop(self, name: str) -> None:
        """Removes the file `name`; a folder of that name belongs to somebody else, and is only renamed.

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
            raise StorageError(self.argument, path, error) from error

    def _identity(self, name: str, identity: Mapping[str, Any]) -> str:
        return json_text({"name": name, "format": FORMAT, "numerics": numerics(), **identity})


@dataclasses.dataclass(frozen=True)
class Cache(Run):
    """A folder that runs share, also at the same time. It is written only when something is made.

    Attributes:
        waits: the works for which this run has said that it waits.
    """

    argument: ClassVar[str] = "cache"
    waits: set[str] = dataclasses.field(default_factory=set, compare=False)

    @contextlib.contextmanager
    def alone(self, work: str) -> Iterator[None]:
        """Locks the folder for one run; others wait, and print a line, once for each work.

        The kernel holds the lock and releases it when the process ends in any way. On a file system without locks nobody waits:
        the work may then be done twice, and the later result stays.

        Args:
            work: what the run makes, for the line that waiting runs print.

        Raises:
            StorageError: the folder cannot be written.
        """
        lock = filelock.FileLock(self.folder / ".lock", fallback_to_soft=False)
        try:
            for path, wrong in ((self.folder, os.path.isfile), (self.folder / ".lock", os.path.isdir)):
                if wrong(path):  # somebody else's
                    _set_aside(path)
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                if work not in self.waits:
                    print(f"waiting for another run that is making the same: {work}", file=sys.stderr, flush=True)
                self.waits.add(work)
                lock.acquire()
            remove_partial(self.folder)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise StorageError(self.argument, self.folder, error) from error
        try:
            yield
        finally:
            lock.release()


def claim(folder: Path) -> list[Path]:
    """Creates a new folder: `folder`, or `folder-2`, `folder-3`, ... if it exists. No two runs get the same.

    Returns:
        All folders that were created, outermost first; the last is the new run folder.

    Raises:
        ArgumentError: no folder can be created.
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
        raise ArgumentError("out", folder, f"cannot be created ({error.strerror}); give another folder") from error
    raise AssertionError("unreachable")


def open_run(
    out: Path | str,
    config: Mapping[str, Any],
    *,
    extendable: Iterable[str] = (),
    cache: Path | None = None,
    made: Sequence[Path] = (),
) -> Run:
    """Creates the run folder, or opens it again to resume or extend a run.

    `config.json` gets the keys `config` (with all defaults), `versions`, `device`, `git`, `command`, `started`, and `earlier`:
    the same, without `config`, for every earlier time that the folder was opened, oldest first.

    Args:
        out: the folder.
        config: the full configuration. Nested mappings are compared field by field, as `optimizer.momentum`.
        extendable: fields (or mappings of fields) that may differ from the earlier run. A list may gain entries and a number
            may grow, but not the reverse; anything else (a path, a device) may change freely.
        cache: a folder that may lie in `out` without being part of the run.
        made: the folders that `claim` created for this run.

    Returns:
        The open folder.

    Raises:
        ArgumentError: the folder is a file, cannot be written, contains files but no config.json, or contains results of another
            configuration. Nothing in it has been changed then.
        StorageError: the disk is full; nothing has been changed either.
    """
    out, extendable = Path(out), frozenset(extendable)
    new = plain(config)
    run = Run(out, list(made))
    try:
        if out.exists() and not out.is_dir():
            raise ArgumentError("out", out, "is a file; give a new folder, or that of an earlier run")
        text = read_config(out, cache)
        earlier = None if text is None else parse_config(out, text)
        if earlier is not None:
            require_agreement(out, earlier["config"], new, extendable)
        _make(out, run.made)
        run.write_json("config.json", {"config": new, **provenance(new), "earlier": history(earlier)})
    except (ArgumentError, OSError) as error:
        run.withdraw()
        if isinstance(error, ArgumentError) or error.errno in FULL:
            raise
        raise ArgumentError("out", out, f"cannot be written ({error.strerror or error}); give another folder") from error
    remove_partial(out)
    return dataclasses.replace(run, before=text)


def _set_aside(path: Path) -> None:
    path.rename(path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.aside"))


def _make(folder: Path, made: list[Path]) -> None:
    """Creates a folder and its parents, and appends those that did not exist to `made`."""
    for path in (*reversed(folder.parents), folder):
        if not path.is_dir():
            try:
                path.mkdir()
            except FileExistsError:  # another run was faster, or it is a file
                if not path.is_dir():
                    raise
            else:
                made.append(path)
