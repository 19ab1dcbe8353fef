"""The registry of data sets: the reader of each, and what its images are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from unlearn_jax.data.sources import Split

Reader = Callable[["DatasetEntry", Path | None, Path], tuple[Split, Split]]
"""`(entry, folder of its files or None, the project's cache) -> (training split, test split)`; raises ArgumentError."""


class DatasetEntry(NamedTuple):
    """One data set.

    Attributes:
        name: its name here, and in TFDS if it comes from there.
        read: returns the published splits.
        classes: number of classes; labels are below it.
        shape: height, width and channels of an image.
        augment: "none", "crop" or "crop_flip".
        reference: its authors, and where it is described.
        names: of the classes, if they are not numbers.
        white: the largest value that a pixel may have.
    """

    name: str
    read: Reader
    classes: int
    shape: tuple[int, int, int]
    augment: str
    reference: str
    names: tuple[str, ...] = ()
    white: int = 255


DATASETS: dict[str, DatasetEntry] = {}


def dataset(name: str, **facts: Any) -> Callable[[Reader], Reader]:
    """Registers a data set, read by the decorated function; one function may read several.

    Args:
        name: see `DatasetEntry`.
        facts: its other attributes.

    Raises:
        ValueError: a name that is already registered.
    """

    def enter(read: Reader) -> Reader:
        if name in DATASETS:
            raise ValueError(f"{name}: already registered")
        DATASETS[name] = DatasetEntry(name, read, **facts)
        return read

    return enter
