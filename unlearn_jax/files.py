"""Reads files from any source safely: only regular files, and only up to a maximal size or share of the memory."""

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import BinaryIO

MOST = 1 << 26  # bytes of a JSON or text file that is read


def open_regular(path: Path) -> BinaryIO:
    """Opens a file for reading; never waits, as for a pipe.

    Raises:
        OSError: it cannot be opened, or is a pipe, a device or a folder.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115 - the caller's
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def memory() -> int:
    """Returns how many bytes of memory the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def disk(folder: Path) -> int:
    """Returns how many bytes the disk has on which a folder lies, or will lie."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    return shutil.disk_usage(there).total


def unread(error: Exception) -> str:
    """Returns in one line why a file could not be read, without NumPy's advice to load pickled objects."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return "no array of numbers" if "pickle" in reason else reason.splitlines()[0]


def require_room(size: int, what: str = "") -> None:
    """Raises ValueError if data of `size` bytes would take more than half of the memory; `what` begins the message."""
    if size > memory() // 2:
        raise ValueError(f"{what}{size / 2**30:,.0f} GiB, where {memory() / 2**31:,.0f} GiB are accepted")


def is_path(name: str) -> bool:
    """Whether the name of a data set may mean a file or a folder of data: an .npz file, or a folder that exists."""
    return name.endswith(".npz") or os.path.isdir(os.path.expanduser(name))


def read_regular(path: Path, most: int) -> bytes:
    """Returns the content of a file of at most `most` bytes.

    Raises:
        OSError: see `open_regular`; or the file is larger.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"larger than {most:,} bytes", str(path))
    return content
