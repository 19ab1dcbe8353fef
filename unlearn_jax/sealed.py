"""Sealed files: npz files that end in the SHA-256 of their content, so that a damaged one is never read.

Any npz reader can read them: an npz is a zip file, and the checksum is its comment.
"""

import hashlib
import math
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from unlearn_jax.files import open_regular

SEAL = b"sha256 "  # followed by the digits
DIGITS = 64
KINDS = "biufcU"  # array types that need no pickle: numbers, booleans, text


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays, uncompressed, into a new file that is open for reading and writing.

    Raises:
        OSError: the disk is full.
        TypeError: an array of objects, or of another type that would need pickle.
    """
    for name, array in arrays.items():
        if array.dtype.kind not in KINDS:
            raise TypeError(f"{name}: arrays of {array.dtype} cannot be kept; expected numbers, booleans or text")
    np.savez(file, **arrays)  # type: ignore[arg-type]
    file.seek(-2, os.SEEK_END)  # a zip file ends in the length of its comment
    file.write((len(SEAL) + DIGITS).to_bytes(2, "little") + SEAL)
    file.seek(0)
    digits = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    file.write(digits.encode())


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads a sealed file. Nothing is parsed before the checksum has been verified, and nothing is unpickled.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read, or is a folder, a pipe or a device.
        ValueError: it is not a complete sealed file.
    """
    with open_regular(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - DIGITS - len(SEAL), 0))
        seal, digits = file.read(len(SEAL)), file.read(DIGITS)
        if seal != SEAL:
            raise ValueError("the end is missing" if size else "the file is empty")
        if _digest(file, size - DIGITS) != digits:
            raise ValueError("the checksum does not match")
        with zipfile.ZipFile(file) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("the file is compressed")
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)


class Place(NamedTuple):
    """Where an array lies in a sealed file, or in one that is open."""

    file: Path | Any  # or something with a `fileno`
    offset: int  # in bytes
    shape: tuple[int, ...]
    dtype: np.dtype
    columns: bool  # the first axis is the fastest


def places(path: Path) -> dict[str, Place]:
    """Where the arrays of a sealed file lie. The checksum is not verified: `read` it before.

    Raises:
        OSError: it cannot be read.
    """
    found = {}
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            file.seek(entry.header_offset)
            *_, name, extra = struct.unpack("<26sHH", file.read(30))
            file.seek(name + extra, os.SEEK_CUR)
            version = np.lib.format.read_magic(file)
            read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, columns, dtype = read_header(file)
            found[entry.filename.removesuffix(".npy")] = Place(path, file.tell(), shape, dtype, columns)
    return found


def read_rows(place: Place, first: int, end: int) -> np.ndarray:
    """Reads some rows of an array, from `first` to before `end`.

    Raises:
        OSError: the file is gone.
    """
    count, *rest = place.shape
    if place.columns:
        return _numbers(place, 0, count).reshape(place.shape, order="F")[first:end]
    return _numbers(place, first, end).reshape(end - first, *rest)


def _numbers(place: Place, first: int, end: int) -> np.ndarray:
    """What lies where some rows would, if the last axis is the fastest."""
    size = math.prod(place.shape[1:])
    offset, count = place.offset + first * size * place.dtype.itemsize, (end - first) * size
    if isinstance(place.file, Path):
        return np.fromfile(place.file, place.dtype, count, offset=offset)
    return np.frombuffer(os.pread(place.file.fileno(), count * place.dtype.itemsize, offset), place.dtype)


def _digest(file: BinaryIO, size: int) -> bytes:
    """The digits of the checksum of the first `size` bytes of a file."""
    digest = hashlib.sha256()
    file.seek(0)
    for start in range(0, size, 1 << 20):
        digest.update(file.read(min(1 << 20, size - start)))
    return digest.hexdigest().encode()
