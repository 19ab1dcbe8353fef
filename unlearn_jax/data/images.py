"""Image data sets as arrays in memory: split, sub-sampled, mislabelled and standardised, all fixed by seeds."""

import os
from pathlib import Path

import numpy as np

from unlearn_jax.data import sources
from unlearn_jax.data.augmentation import augmentation
from unlearn_jax.data.dataset import HELD_OUT, Dataset, drawn, fingerprint, moments, standardised
from unlearn_jax.data.folder import read_folder
from unlearn_jax.data.registry import DATASETS, DatasetEntry, dataset
from unlearn_jax.data.sources import Split
from unlearn_jax.data.splits import Published, generator, mislabel, stratified_order, training_sample
from unlearn_jax.errors import ArgumentError
from unlearn_jax.files import is_path
from unlearn_jax.types import Examples


@dataset("digits", classes=10, shape=(8, 8, 1), augment="none", reference="Alpaydin and Kaynak 1998", white=16)
def digits(entry: DatasetEntry, folder: Path | None, cache: Path) -> tuple[Split, Split]:
    """From scikit-learn."""
    if folder is not None:
        raise ArgumentError("data_dir", folder, "digits comes with scikit-learn; expected None")
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
        raise ArgumentError("data_dir", folder, f"the four IDX files, or a folder of TFDS that holds {entry.name}, are needed")
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
        name: a key of `DATASETS`; or a path: of an .npz file, see `sources.npz`, or of a folder of images by class, see
            `folder.read_folder`. A folder that is called like a data set takes a path such as `./digits`.
        train_size: how many training rows; by default all that are not held out.
        label_noise: the share of training rows that get a wrong label, uniform over the other classes.
        held_out: the share of the published training set that methods may see and training does not. Data from a path may
            bring held-out rows of their own, and keep to the default.
        seed: draws the sample and the wrong labels.
        data_dir: the folder of the data set's files: IDX files (Fashion-MNIST) or a TFDS folder. By default TFDS's own; for
            Fashion-MNIST first that of Debian's package. None for a path.
        cache: where decoded images are kept; by default the user's cache folder.

    Raises:
        ArgumentError: an unknown name, an impossible size or share, or data that cannot be read.
    """
    if name not in DATASETS and not is_path(name):
        accepted = f"one of {', '.join(DATASETS)}, or an .npz file, or a folder of images by class, is needed"
        raise ArgumentError("dataset", name, accepted)
    if not 0 <= held_out <= 0.9:
        raise ArgumentError("held_out", held_out, "a share between 0 and 0.9 is needed")
    if not 0 <= label_noise <= 1:
        raise ArgumentError("label_noise", label_noise, "a share between 0 and 1 is needed")
    if name not in DATASETS:
        if data_dir is not None:
            raise ArgumentError("data_dir", data_dir, f"{name} is where its data are; expected None")
        if held_out != HELD_OUT:
            raise ArgumentError("held_out", held_out, f"{name} may hold held-out rows of its own; expected {HELD_OUT}")
        path = Path(os.path.expanduser(name))
        data = read_folder(path) if path.is_dir() else sources.npz(path)
        return drawn(data, train_size, label_noise, seed)
    entry, classes = DATASETS[name], DATASETS[name].classes
    folder = None if data_dir is None else Path(data_dir).expanduser()
    if folder is not None and not folder.is_dir():
        raise ArgumentError("data_dir", folder, "a folder that exists is needed")
    cache = Path(cache or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "unlearn_jax")).expanduser()
    published, test = entry.read(entry, folder, cache)

    order = stratified_order(published.labels, generator("held out"))
    held_out_rows, rows = np.split(order, [round(held_out * len(order))])
    if train_size is not None:
        rows = rows[training_sample(published.labels[rows], train_size, classes, name, seed)]
    held_out_rows, rows = np.sort(held_out_rows), np.sort(rows)
    clean_labels = np.array(published.labels[rows])
    labels = mislabel(clean_labels, label_noise, classes, generator("label noise", seed))

    mean, std = moments(published.images)
    if not std.all():
        same = f"images that differ are needed: every pixel of channel {np.argmin(std)} has the value {mean[np.argmin(std)]:g}"
        raise ArgumentError("data_dir", data_dir or f"(that of {name})", same)
    splits = (
        Examples(standardised(published.images[rows], mean, std), labels),
        Examples(standardised(published.images[held_out_rows], mean, std), np.array(published.labels[held_out_rows])),
        Examples(standardised(test.images, mean, std), np.array(test.labels)),
    )
    digest = fingerprint(clean_labels, *(array for split in splits for array in split))
    pixel_scale = tuple((entry.white / std).tolist())
    numbers = Published(len(order), rows, held_out_rows)
    augment = augmentation(entry.augment, entry.shape)
    parts = name, splits[0], clean_labels, splits[1], splits[2], classes, digest, pixel_scale, numbers, augment
    return Dataset(*parts, entry.names)
