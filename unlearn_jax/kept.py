"""Many models whose arrays stay in files, since they would not fit into memory: read a few models at a time."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unlearn_jax.sealed import Place, read_rows

MOST = 1 << 30  # bytes of models that stay in memory


class Kept:
    """One array of many models, `[models, ...]`, a leaf in the place of a NumPy array.

    A number reads the array of one model; any other index gives another `Kept`, without reading; `np.asarray` reads all.
    Of files with a name it is pickled without the values: whoever unpickles it sees the same files.

    Args:
        places: where it lies, the first models first.
        rows: the models, as numbers in all of `places`; by default all.
    """

    def __init__(self, places: Sequence[Place], rows: np.ndarray | None = None):
        ends = np.cumsum([place.shape[0] for place in places])
        rows = np.arange(ends[-1]) if rows is None else rows
        part = np.searchsorted(ends, rows, side="right")
        used = np.unique(part)  # others need not travel
        self.places = [places[number] for number in used] or [*places[:1]]
        self._part = np.searchsorted(used, part)
        self._row = rows - (ends - [place.shape[0] for place in places])[part]
        self.shape, self.dtype = (len(rows), *places[0].shape[1:]), places[0].dtype
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        starts = np.cumsum([0, *(place.shape[0] for place in self.places)])
        rows = (starts[self._part] + self._row)[index]
        return Kept(self.places, rows) if rows.ndim else np.asarray(Kept(self.places, rows[None]))[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = np.empty(self.shape, self.dtype)
        for part, place in enumerate(self.places):
            wanted = self._row[self._part == part]
            if len(wanted):
                values[self._part == part] = read_rows(place, int(wanted.min()), int(wanted.max()) + 1)[wanted - wanted.min()]
        return values if dtype is None else values.astype(dtype)

    def slices(self) -> list[slice]:
        """Neighbours that lie in one file, at least one slice."""
        ends = [*np.flatnonzero(np.diff(self._part)) + 1, len(self)]
        return [slice(first, last) for first, last in zip([0, *ends[:-1]], ends, strict=True)]


def are_named(tree: Any) -> bool:
    """Whether models stay in files that other processes may see too."""
    return all(isinstance(leaf, Kept) and isinstance(leaf.places[0].file, Path) for leaf in jax.tree.leaves(tree))


def in_memory(leaf: Any) -> Any:
    """An array, read if it lies in files."""
    return np.asarray(leaf) if isinstance(leaf, Kept) else leaf


def blocks(tree: Any) -> Iterator[Any]:
    """The models of a tree, a few at a time, read; the tree itself where they are in memory."""
    kept = next((leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, Kept)), None)
    if kept is None:
        yield tree
    else:
        for some in kept.slices():
            yield jax.tree.map(lambda leaf, some=some: np.asarray(leaf[some]), tree)


def mean_of(leaf: Any) -> np.ndarray:
    """The mean over the models in float64: to the last bit that of all of them in memory, unless a model has a single number."""
    if not isinstance(leaf, Kept):
        return np.asarray(leaf).mean(0, dtype=np.float64)
    total = np.zeros(leaf.shape[1:])
    for block in blocks(leaf):
        for values in block:
            total += values
    return total / len(leaf)


def without(leaf: Any, lost: Sequence[int]) -> Any:
    """An array without some models."""
    return leaf[np.delete(np.arange(len(leaf)), lost)] if isinstance(leaf, Kept) else np.delete(leaf, lost, axis=0)


def is_large(some: Any, models: int) -> bool:
    """Whether so many models like some given ones would take more than `MOST`."""
    return sum(leaf.nbytes // len(leaf) for leaf in jax.tree.leaves(some)) * models > MOST


def stacked(parts: Sequence[Any], models: int) -> Any:
    """One tree of many models.

    Args:
        parts: trees of some models each, with arrays or `Place`s as leaves.
        models: their number; more are left out.
    """

    def one(*leaves: Any) -> Any:
        return (Kept(leaves) if isinstance(leaves[0], Place) else np.concatenate(leaves))[:models]

    return jax.tree.map(one, *parts, is_leaf=lambda leaf: isinstance(leaf, Place))


class Stack:
    """Models that come a few at a time; in a file without a name if all of them would be large.

    Args:
        models: their number in all.
    """

    def __init__(self, models: int):
        self.models = models
        self._parts: dict[int, Any] = {}
        self._file: _Nameless | None = None

    def put(self, first: int, some: Any) -> None:
        """Takes some models, the first of which has this number."""
        self._parts[first] = jax.tree.map(self._written, some) if is_large(some, self.models) else some

    def tree(self) -> Any:
        """All of them."""
        return stacked([some for _, some in sorted(self._parts.items(), key=lambda part: part[0])], self.models)

    def _written(self, leaf: np.ndarray) -> Place:
        if self._file is None:
            self._file = _Nameless()
        return Place(self._file, self._file.append(leaf), leaf.shape, leaf.dtype, columns=False)


class _Nameless:
    """A file that is there as long as an array lies in it."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115

    def fileno(self) -> int:
        """As of a file."""
        return self.file.fileno()

    def append(self, values: np.ndarray) -> int:
        """Writes an array at the end, and returns where it begins."""
        begin = self.file.seek(0, os.SEEK_END)
        self.file.write(np.ascontiguousarray(values).data)
        self.file.flush()
        return begin

    def __del__(self) -> None:
        self.file.close()
