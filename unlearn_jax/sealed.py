"""Sealed files: an npz that ends in the SHA-256 of all that comes before, so that it is read as it was written or not at all.

Any reader of npz files reads one: the checksum is the comment of the zip file that an npz is.
"""

import hashlib
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from unlearn_jax.files import open_regular

SEAL = b"sha256 "  # and then the digits
DIGITS = 64
KINDS = "biufcU"  # of arrays that an npz holds without pickle: numbers, booleans, text


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays, uncompressed, into a new file that is open for reading and writing.

    Raises:
        OSError: the disk is full.
        TypeError: an array of objects, or of a type that an npz does not know.
    """
    for name, array in arrays.items():
        if array.dtype.kind not in KINDS:
            raise TypeError(f"an array of {array.dtype} ({name}) cannot be kept")
    np.savez(file, **arrays)  # type: ignore[arg-type]
    file.seek(-2, os.SEEK_END)  # a zip file ends in the length of its comment
    file.write((len(SEAL) + DIGITS).to_bytes(2, "little") + SEAL)
    file.seek(0)
    digits = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    file.write(digits.encode())


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads what `write` wrote. Nothing is interpreted before the checksum is seen to be right, and no pickle ever.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it cannot be read, or is a folder, a pipe or a device.
        ValueError: it is anything else than a whole sealed file.
    """
    with open_regular(path) as file:
        whole = file.seek(0, os.SEEK_END)
        file.seek(max(whole - DIGITS - len(SEAL), 0))
        seal, digits = file.read(len(SEAL)), file.read(DIGITS)
        if seal != SEAL:
            raise ValueError("its end is missing" if whole else "it is empty")
        if _digest(file, whole - DIGITS) != digits:
            raise ValueError("it is not as it was written, by its checksum")
        with zipfile.ZipFile(file) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed")
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)


def _digest(file: BinaryIO, size: int) -> bytes:
    """Of the beginning of a file."""
    digest = hashlib.sha256()
    file.seek(0)
    for start in range(0, size, 1 << 20):
        digest.update(file.read(min(1 << 20, size - start)))
    return digest.hexdigest().encode()
