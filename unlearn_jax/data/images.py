"""Image data sets as arrays in memory: split, sub-sampled, mislabelled and standardised, all fixed by seeds."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from unlearn_jax.data import sources
from unlearn_jax.data.registry import DATASETS, DatasetEntry, dataset
from unlearn_jax.data.sources import Split
from unlearn_jax.data.splits import Published, generator, mislabel, stratified_order
from unlearn_jax.errors import UsageError
from unlearn_jax.types import Examples


@dataset("digits", classes=10, shape=(8, 8, 1), augment="none", reference="Alpaydin and Kaynak 1998", white=16)
def digits(entry: DatasetEntry, folder: Path | None, cache: Path) -> tuple[Split, Split]:
    """From scikit-learn."""
    if folder is not None:
        raise UsageError("--data-dir", folder, "digits comes with scikit-learn; leave the option out")
    return sources.digits()


@dataset(
    "fashion_mnist",
    classes=10,
    shape=(28, 28, 1),
    augment="none",
    reference="Xiao et al. 2017, arXiv:1708.07747",
    names=("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
def fashion_mnist(entry: DatasetEntry, folder: Path | None, cache: Path) -> tuple[Split, Split]:
    """From IDX files, in the folder or where Debian's package dataset-fashion-mnist puts them, or from TFDS."""
    files = folder or sources.DEBIAN_FASHION_MNIST
    if sources.holds_idx(files):
        return sources.idx(files, entry.shape[:2], entry.classes)
    if folder is not None and not (folder / entry.name).is_dir():
        raise UsageError("--data-dir", folder, f"the four IDX files, or a folder of TFDS that holds {entry.name}, are needed")
    return from_tfds(entry, folder, cache)


@dataset(
    "svhn_cropped",
    classes=10,
    shape=(32, 32, 3),
    augment="crop",
    reference="Netzer et al. 2011, Reading digits in natural images",
)
@dataset(
    "cifar100",
    classes=100,
    shape=(32, 32, 3),
    augment="crop_flip",
    reference="Krizhevsky 2009, Learning multiple layers of features",
)
@dataset(
    "cifar10",
    classes=10,
    shape=(32, 32, 3),
    augment="crop_flip",
    reference="Krizhevsky 2009, Learning multiple layers of features",
    names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)
def from_tfds(entry: DatasetEntry, folder: Path | None, cache: Path) -> tuple[Split, Split]:
    """From TFDS, under the same name; the folder is TFDS's."""
    return sources.tfds(entry.name, entry.shape, entry.classes, folder, cache)


class Dataset(NamedTuple):
    """A data set as a study uses it. Images are float32 NHWC; labels int32, wrong ones only in `train.labels`."""

    name: str
    train: Examples  # labels as trained on
    clean_labels: Int32[np.ndarray, " train"]  # what train.labels are without label noise
    held_out: Examples  # methods may see it; nothing trains the original models on it
    test: Examples  # for evaluation alone
    classes: int
    fingerprint: str  # SHA-256 over all arrays
    pixel_scale: tuple[float, ...]  # of each channel: 1 / the standard deviation of pixels in [0, 1]
    published: Published  # the numbers of the rows of `train` and `held_out`, which files and tables use


def load(
    name: str,
    *,
    train_size: int | None = None,
    label_noise: float = 0.0,
    held_out: float = 0.1,
    seed: int = 0,
    data_dir: str | Path | None = None,
    cache: str | Path | None = None,
) -> Dataset:
    """Loads a data set.

    The held-out rows are split off the published training set first, stratified by class and the same for every seed. The
    training rows are a stratified sample of the rest; a smaller sample is part of every larger one. Rows stay in the published
    order. Images are standardised with the mean and standard deviation of each channel over the whole published training set, so
    they depend neither on the sample nor on the labels.

    Args:
        name: a key of `DATASETS`.
        train_size: how many training rows; by default all that are not held out.
        label_noise: the share of training rows that get a wrong label, uniform over the other classes.
        held_out: the share of the published training set that methods may see and training does not.
        seed: draws the sample and the wrong labels.
        data_dir: the folder of the data set's files: IDX files (Fashion-MNIST) or a TFDS folder. By default TFDS's own; for
            Fashion-MNIST first that of Debian's package.
        cache: where decoded images are kept; by default the user's cache folder.

    Raises:
        UsageError: an unknown name, an impossible size or share, or data that cannot be read.
    """
    if name not in DATASETS:
        raise UsageError("--dataset", name, f"one of {', '.join(DATASETS)} is needed")
    if not 0 <= held_out <= 0.9:
        raise UsageError("--held-out", held_out, "a share between 0 and 0.9 is needed")
    if not 0 <= label_noise <= 1:
        raise UsageError("--label-noise", label_noise, "a share between 0 and 1 is needed")
    entry, classes = DATASETS[name], DATASETS[name].classes
    folder = None if data_dir is None else Path(data_dir).expanduser()
    if folder is not None and not folder.is_dir():
        raise UsageError("--data-dir", folder, "a folder that exists is needed")
    cache = Path(cache or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "unlearn_jax")).expanduser()
    published, test = entry.read(entry, folder, cache)

    order = stratified_order(published.labels, generator("held out"))
    held_out_rows, rows = np.split(order, [round(held_out * len(order))])
    if train_size is not None:
        if not classes <= train_size <= len(rows):
            raise UsageError("--train-size", train_size, f"{classes} to {len(rows)} rows of {name} can be trained on")
        rows = rows[stratified_order(published.labels[rows], generator("train size", seed))[:train_size]]
    held_out_rows, rows = np.sort(held_out_rows), np.sort(rows)
    clean_labels = np.array(published.labels[rows])
    labels = mislabel(clean_labels, label_noise, classes, generator("label noise", seed))

    pixels = published.images[..., 0].size
    mean = published.images.sum((0, 1, 2), dtype=np.int64) / pixels
    squares = np.einsum("nhwc,nhwc->c", published.images, published.images, dtype=np.int64)
    std = np.sqrt(squares / pixels - mean**2)
    if not std.all():
        same = f"images that differ are needed: every pixel of channel {np.argmin(std)} has the value {mean[np.argmin(std)]:g}"
        raise UsageError("--data-dir", data_dir or f"(that of {name})", same)

    def standardise(images: np.ndarray) -> np.ndarray:
        return (images - mean.astype(np.float32)) / std.astype(np.float32)

    splits = (
        Examples(standardise(published.images[rows]), labels),
        Examples(standardise(published.images[held_out_rows]), np.array(published.labels[held_out_rows])),
        Examples(standardise(test.images), np.array(test.labels)),
    )
    fingerprint = _fingerprint(clean_labels, *(array for split in splits for array in split))
    pixel_scale = tuple((entry.white / std).tolist())
    numbers = Published(len(order), rows, held_out_rows)
    return Dataset(name, splits[0], clean_labels, splits[1], splits[2], classes, fingerprint, pixel_scale, numbers)


def _fingerprint(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
