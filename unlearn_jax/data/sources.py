"""Sources of images: scikit-learn, IDX files, TFDS. Each gives a training and a test split of uint8 images."""

import gzip
import hashlib
import logging
import math
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from unlearn_jax.data.dataset import Dataset
from unlearn_jax.data.splits import generator, stratified_order
from unlearn_jax.errors import ArgumentError
from unlearn_jax.files import open_regular, require_room, unread
from unlearn_jax.runs import Cache

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where the package dataset-fashion-mnist puts it
MOST = 1 << 28  # bytes of an IDX file, decompressed: five times Fashion-MNIST
DIGITS_TRAIN = 1437  # four fifths of 1,797
SPLITS = ("train", "test")
DECODED = "arrays.npz"  # in the cache


class Split(NamedTuple):
    """Images as they are stored, and their labels."""

    images: UInt8[np.ndarray, "examples height width channels"]
    labels: Int32[np.ndarray, " examples"]


def digits() -> tuple[Split, Split]:
    """Scikit-learn's 8x8 digits, values 0 to 16, in a fixed stratified split of 1,437 and 360."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = bunch.images[..., None].astype(np.uint8), bunch.target.astype(np.int32)
    order = stratified_order(labels, generator("digits"))
    train, test = np.sort(order[:DIGITS_TRAIN]), np.sort(order[DIGITS_TRAIN:])
    return Split(images[train], labels[train]), Split(images[test], labels[test])


def holds_idx(folder: Path) -> bool:
    """Whether a folder holds any of the four IDX files of an MNIST-like data set."""
    return any(folder.glob("*-idx[13]-ubyte*"))


def idx(folder: Path, image: tuple[int, int], classes: int) -> tuple[Split, Split]:
    """Reads an MNIST-like data set from its four IDX files, gzipped or not.

    The format is described at http://yann.lecun.com/exdb/mnist (two zero bytes, a type, the number of dimensions, the
    dimensions as big-endian 32-bit numbers, the values).

    Args:
        folder: where `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and their `t10k-` siblings are, as they stand or
            with `.gz` at the end.
        image: height and width that the images must have.
        classes: labels must be below it.

    Raises:
        ArgumentError: a file is missing, unreadable, truncated, or not what its name says.
    """
    return _idx_split(folder, "train", image, classes), _idx_split(folder, "t10k", image, classes)


def _idx_split(folder: Path, split: str, image: tuple[int, int], classes: int) -> Split:
    images = _idx_array(folder, f"{split}-images-idx3-ubyte", 3)
    labels = _idx_array(folder, f"{split}-labels-idx1-ubyte", 1)
    if not len(images) == len(labels) > 0 or images.shape[1:] != image or labels.max() >= classes:
        wanted = f"as many {split} images of {image[0]}x{image[1]} as labels below {classes}"
        raise ArgumentError("data_dir", folder, f"{wanted} are needed; found {images.shape} and {labels.shape}")
    return Split(images[..., None], labels.astype(np.int32))


def _idx_array(folder: Path, name: str, dimensions: int) -> UInt8[np.ndarray, "..."]:
    path = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
    if path is None:
        raise ArgumentError("data_dir", folder, f"{name} or {name}.gz is missing there")
    header = 4 + 4 * dimensions
    try:
        with open_regular(path) as plain, gzip.open(plain) if path.suffix == ".gz" else plain as file:
            start = file.read(header)
            shape = [int.from_bytes(start[first : first + 4], "big") for first in range(4, header, 4)]
            size = math.prod(shape)
            content = file.read(size + 1) if size <= MOST else b""
    except (OSError, EOFError, zlib.error) as error:
        raise ArgumentError("data_dir", path, f"a whole IDX file is needed ({error})") from error
    if len(start) < header or start[:4] != bytes((0, 0, 8, dimensions)) or len(content) != size:
        wanted = f"a whole IDX file of bytes in {dimensions} dimension(s), at most {MOST:,} of them, is needed"
        raise ArgumentError("data_dir", path, wanted)
    return np.frombuffer(content, np.uint8).reshape(shape)


def tfds(name: str, image: tuple[int, int, int], classes: int, data_dir: Path | None, cache: Path) -> tuple[Split, Split]:
    """Reads a data set through TFDS, prepared as array_record (and prepares it if necessary).

    Decoding takes a fifth of a millisecond per image, so it happens once: the arrays are cached, and read from the cache from
    then on, without TFDS.

    Args:
        name: in the TFDS catalogue.
        image: height, width and channels that the images must have.
        classes: labels must be below it.
        data_dir: TFDS's folder; by default its own.
        cache: the project's cache folder; each `data_dir` has its own place in it.

    Raises:
        ArgumentError: TFDS is not installed, or the data set can be neither read nor prepared, or is another one than named.
        StorageError: the cache cannot be written.
    """
    place = None if data_dir is None else str(data_dir.resolve())
    folder = Cache(cache / "data" / (name if place is None else f"{name}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"))
    identity = {"dataset": name, "data_dir": place}
    stored = folder.find(DECODED, identity)
    if stored is None:
        with folder.alone(f"arrays of {name}"):
            stored = folder.find(DECODED, identity, say=False)  # another run may have decoded it meanwhile
            if stored is None:
                splits = zip(SPLITS, _decoded(name, data_dir), strict=True)
                arrays = {f"{split}_{field}": array for split, part in splits for field, array in part._asdict().items()}
                stored = folder.keep(DECODED, identity, arrays)
    train, test = (Split(*(stored[f"{split}_{field}"] for field in Split._fields)) for split in SPLITS)
    for split, (images, labels) in zip(SPLITS, (train, test), strict=True):
        whole = len(images) == len(labels) > 0 and images.shape[1:] == image and images.dtype == np.uint8
        if not whole or labels.min() < 0 or labels.max() >= classes:
            wanted = f"{name} has {split} images of {'x'.join(map(str, image))} bytes, each with a label from 0 to {classes - 1}"
            raise ArgumentError("data_dir", data_dir or "(TFDS's own)", f"{wanted}; what is prepared there has not")
    return train, test


def _decoded(name: str, data_dir: Path | None) -> list[Split]:
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # a download that fails is one line, ours
    try:
        import tensorflow_datasets
    except ImportError as error:
        install = "pip install 'unlearn_jax[tfds]', or to prepare it too 'unlearn_jax[prepare]'"
        raise ArgumentError("dataset", name, f"needs TFDS ({error}): {install}") from error
    try:
        builder = tensorflow_datasets.builder(name, data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare()
        splits = []
        for split in SPLITS:
            records = list(builder.as_data_source(split))
            labels = np.array([record["label"] for record in records], np.int32)
            splits.append(Split(np.stack([record["image"] for record in records]), labels))
        return splits
    except Exception as error:  # a download, an encoder or a format can fail in any way
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        accepted = f"a folder is needed where TFDS finds {name} prepared as array_record, or can prepare it ({reason})"
        raise ArgumentError("data_dir", data_dir or "(TFDS's own)", accepted) from error


def npz(path: Path) -> Dataset:
    """Reads a data set of one's own from an .npz file.

    Args:
        path: of a file with the arrays `x_train`, `y_train`, `x_test`, `y_test` (Keras's convention), and optionally
            `x_held_out` with `y_held_out`, and `clean_y_train`; see `Dataset.from_arrays`.

    Raises:
        ArgumentError: it cannot be read, lacks an array, holds more than half of the memory, or something that is no data set.
    """
    needed, optional = ("x_train", "y_train", "x_test", "y_test"), ("x_held_out", "y_held_out", "clean_y_train")
    try:
        with open_regular(path) as file:
            require_room(sum(entry.file_size for entry in zipfile.ZipFile(file).infolist()))
            with np.load(file, allow_pickle=False) as archive:
                if missing := [key for key in needed if key not in archive]:
                    raise ValueError(f"{', '.join(missing)} missing")
                arrays = {key: archive[key] for key in (*needed, *optional) if key in archive}
        if ("x_held_out" in arrays) != ("y_held_out" in arrays):
            raise ValueError("x_held_out and y_held_out belong together")
        held_out = (arrays["x_held_out"], arrays["y_held_out"]) if "x_held_out" in arrays else None
        train, test = ((arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in SPLITS)
        return Dataset.from_arrays(train, test, held_out, arrays.get("clean_y_train"), name=path.stem)
    except Exception as error:  # whoever wrote the file: a format can fail in any way
        raise ArgumentError("dataset", path, f"an .npz file with {', '.join(needed)} is needed ({unread(error)})") from error
