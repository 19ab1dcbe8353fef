"""Forget sets: the training examples to forget."""

import csv
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from unlearn_jax.data.splits import Published, generator
from unlearn_jax.errors import ArgumentError
from unlearn_jax.files import open_regular, unread

RANKED = ("memorised", "unmemorised", "exposed")  # by scores that the caller computes
OF_CLASS = ("class", "class_part")
SIGNS = 64  # bytes per row number in a text file, white space included
HEADER = 1 << 12  # bytes of an array in an .npz file besides its values, at most
KINDS = ("random", *OF_CLASS, "mislabelled", "mislabelled_part", *RANKED, "file")
NAMED = 5  # row numbers that an error lists


def choose(
    labels: Int[np.ndarray, " examples"],
    *,
    kind: str,
    size: float | int | None = None,
    label: int | None = None,
    file: str | Path | Sequence[str | Path] | None = None,
    published: Published | None = None,
    wrong: Bool[np.ndarray, " examples"] | None = None,
    scores: Callable[[], Float[np.ndarray, " examples"]] | None = None,
    classes: int,
    seed: int = 0,
    index: int = 0,
) -> Bool[np.ndarray, " examples"]:
    """Selects the rows to forget.

    Args:
        labels: of the training rows; with label noise the caller decides between those trained on and the clean ones.
        kind: "random" draws `size` of all rows; "class" takes all rows of the class `label`; "class_part" draws `size` of the
            rows of that class; "mislabelled" takes all rows that are wrongly labelled, "mislabelled_part" draws `size` of
            them; "memorised" and "exposed" take the `size` rows of the highest score, "unmemorised" those of the lowest; "file"
            takes the rows that a file lists, by their numbers in the published training set, from 0, or by a mask of its
            length.
        size: a share in (0, 1), rounded to whole rows, or a count from 1 on. A larger set contains the smaller ones, but not the
            sets of the ranked kinds whose index is above 0.
        label: of the class.
        file: the file of kind "file", see `read_rows`; or several, one for each index.
        published: the numbers of the training rows in the published set ("file"); by default their positions.
        wrong: the rows that are wrongly labelled ("mislabelled", "mislabelled_part").
        scores: returns the scores that rank the rows ("memorised", "unmemorised", "exposed"); called once everything else is
            valid. Ties are in random order.
        classes: number of classes.
        seed: draws the rows.
        index: which of the run's forget sets. Each index draws anew; "class" goes on to the next class (see `class_of`);
            the ranked kinds go on to the next rows in their order; "file" goes on to the next file; "mislabelled" gives one set
            only.

    Returns:
        True on the rows to forget: at least one, and not all.

    Raises:
        ArgumentError: such a set does not exist; names the wrong argument.
    """
    if kind not in KINDS:
        raise ArgumentError("kind", kind, f"one of {', '.join(KINDS)} is needed")
    forget = np.zeros(len(labels), bool)
    if kind == "file":
        every = np.arange(len(labels))
        forget[_listed(file, published or Published(len(every), every, every[:0]), index)] = True
    elif kind == "mislabelled":
        if index > 0:
            raise ArgumentError("kind", kind, "the wrongly labelled rows are one forget set; ask for one")
        forget[_wrong(wrong, kind)] = True
    elif kind in RANKED:
        assert scores is not None
        count = _count(size, len(labels), len(labels))
        if (index + 1) * count > len(labels):
            raise ArgumentError("size", size, f"{len(labels)} rows do not make {index + 1} sets of {count}")
        sign = 1 if kind == "unmemorised" else -1
        order = np.lexsort([generator("ties", seed).random(len(labels)), sign * scores()])
        forget[order[index * count : (index + 1) * count]] = True
    else:
        if kind == "mislabelled_part":
            candidates = _wrong(wrong, kind)
        else:
            candidates = np.arange(len(labels)) if kind == "random" else _of_class(labels, label, classes, kind, index)
        count = len(candidates) if kind == "class" else _count(size, len(candidates), len(labels))
        forget[generator("forget set", seed, index).permutation(candidates)[:count]] = True
    return forget


def class_of(kind: str, label: int, classes: int, index: int = 0) -> int | None:
    """The class that a forget set is restricted to; None if it is not.

    Args:
        kind: of `KINDS`; "class" goes on to the next class with each index, modulo `classes`, "class_part" stays with its own.
        label: of the first forget set.
        classes: number of classes.
        index: which of the run's forget sets.
    """
    if kind not in OF_CLASS:
        return None
    return (label + index) % classes if kind == "class" else label


def _wrong(wrong: np.ndarray | None, kind: str) -> np.ndarray:
    rows = np.flatnonzero(wrong) if wrong is not None else np.zeros(0, int)
    if not len(rows):
        raise ArgumentError("kind", kind, "no label is wrong; label noise above 0 is needed")
    return rows


def _of_class(labels: np.ndarray, label: int | None, classes: int, kind: str, index: int) -> np.ndarray:
    if label is None or not 0 <= label < classes:
        raise ArgumentError("label", label, f"a class from 0 to {classes - 1} is needed")
    if kind == "class" and index >= classes:
        raise ArgumentError("kind", kind, f"there are {classes} classes, and so no forget set number {index + 1}")
    chosen = class_of(kind, label, classes, index)
    rows = np.flatnonzero(labels == chosen)
    if not 0 < len(rows) < len(labels):
        accepted = f"has {len(rows)} of the {len(labels)} training rows; some but not all are needed"
        raise ArgumentError("label", chosen, accepted)
    return rows


def _count(size: float | int | None, candidates: int, rows: int) -> int:
    most = min(candidates, rows - 1)
    accepted = f"a share above 0 and below 1 or a whole count is needed, that makes 1 to {most} of {candidates} rows"
    if size is None or not (0 < size < 1 or (size >= 1 and float(size).is_integer())):
        raise ArgumentError("size", size, accepted)
    count = round(size * candidates) if size < 1 else int(size)
    if not 1 <= count <= most:
        raise ArgumentError("size", size, accepted)
    return count


def _listed(file: str | Path | Sequence[str | Path] | None, published: Published, index: int) -> list[int]:
    """The positions, among the training rows, of the rows that a file lists by their published numbers."""
    accepted = "a file of row numbers, or of a mask of the training set, is needed"
    if file is None:
        raise ArgumentError("file", file, accepted)
    files = [file] if isinstance(file, str | Path) else list(file)
    if index >= len(files):
        given = "a file gives" if len(files) == 1 else f"{len(files)} files give"
        raise ArgumentError("file", ",".join(map(str, files)), f"{given} one forget set each; ask for {len(files)}")
    path = Path(files[index])
    try:
        listed = read_rows(path, published.total)
    except Exception as error:  # anyone may have written the file: a format can fail in any way
        raise ArgumentError("file", path, f"{accepted} ({unread(error)})") from error
    try:
        return places(listed, published)
    except ValueError as error:
        raise ArgumentError("file", path, str(error)) from error


def numbered(listed: list[Any], total: int) -> list[int]:
    """Row numbers, from row numbers or from a mask.

    A mask has one value for each row: true or false; or 1 or 0, since a list of so many zeros and ones cannot be of row numbers,
    none of which stands twice.

    Args:
        listed: integers or truth values; what is true, or 1, is to be forgotten.
        total: rows of the published training set.

    Raises:
        ValueError: a mask of another length, or a value of another type.
    """
    types = {type(value) for value in listed}
    if not types <= {int} and types != {bool}:
        raise ValueError("neither integers alone nor truth values alone")
    if types == {bool} or (len(listed) > 2 and set(listed) <= {0, 1}):
        if len(listed) != total:
            raise ValueError(f"a mask needs a value for each of {total} rows; it has {len(listed)}")
        return [row for row, chosen in enumerate(listed) if chosen]
    return listed


def places(listed: list[int], published: Published) -> list[int]:
    """The positions, among the training rows, of rows given by their published numbers.

    Args:
        listed: published row numbers.
        published: the numbers of the training rows.

    Raises:
        ValueError: a number is repeated, out of range, or of a row that is not trained on; or it lists no row, or all.
    """
    rows = len(published.train)
    if not 0 < len(set(listed)) == len(listed) < rows:
        raise ValueError(f"1 to {rows - 1} different rows are needed; it lists {len(listed)} ({len(set(listed))} different)")
    if min(listed) < 0 or max(listed) >= published.total:
        accepted = f"rows of the published training set, 0 to {published.total - 1}, are needed"
        raise ValueError(f"{accepted}; it lists {min(listed)} to {max(listed)}")
    place = dict(zip(published.train.tolist(), range(rows), strict=True))
    held_out = set(published.held_out.tolist())
    apart = "held out from training (no row is if the data bring held-out rows of their own)"
    absent = {
        apart: [row for row in listed if row in held_out],
        "not in the sample of the training set": [row for row in listed if row not in held_out and row not in place],
    }
    if any(absent.values()):
        reasons = "; ".join(f"{len(rows)} {why}: {_shown(rows)}" for why, rows in absent.items() if rows)
        raise ValueError(f"rows that are trained on are needed; of the {len(listed)} listed {reasons}")
    return [place[row] for row in listed]


def _shown(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:NAMED])) + (", ..." if len(rows) > NAMED else "")


def read_rows(path: Path, total: int) -> list[int]:
    """The row numbers in a file, given as such or by a mask (see `numbered`); reads no more than `total` of them can take.

    The suffix tells the format: .npy, a one-dimensional array; .npz, with one such array; .json, a list; .csv, one column or one
    line, under a heading or not; anything else is text, separated by white space or commas.

    Args:
        path: of the file.
        total: rows of the published training set.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds something else; or anything that a reader of the format raises.
    """
    suffix = path.suffix.lower()
    with open_regular(path) as file:
        if suffix == ".npz":
            return numbered(_values(_only_array(file, total), total), total)
        if suffix != ".npy":
            content = file.read(SIGNS * total + 1)
            if len(content) > SIGNS * total:
                raise ValueError(f"it is longer than {total} row numbers can be")
            text = content.decode("utf-8-sig")
            return numbered({".json": _in_json, ".csv": _in_csv}.get(suffix, _in_text)(text), total)
    array = np.lib.format.open_memmap(path, mode="r")  # whatever its header says, no more than the file has
    return numbered(_values(array, total), total)


def _only_array(file: Any, total: int) -> np.ndarray:
    size = sum(entry.file_size for entry in zipfile.ZipFile(file).infolist())
    if size > HEADER + 8 * total:
        raise ValueError(f"it decompresses to {size:,} bytes, more than {total} row numbers can be")
    with np.load(file, allow_pickle=False) as archive:
        if len(archive.files) != 1:
            raise ValueError(f"it holds {len(archive.files)} arrays; one is needed")
        return np.asarray(archive[archive.files[0]])


def _values(array: np.ndarray, total: int) -> list[Any]:
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise ValueError(f"it holds {array.dtype} of shape {array.shape}")
    if len(array) > total:
        raise ValueError(f"it holds {len(array)} values for {total} rows")
    return array.tolist()


def _in_json(text: str) -> list[Any]:
    listed = json.loads(text)
    if not isinstance(listed, list):
        raise ValueError(f"it holds a {type(listed).__name__}; a list is needed")
    return listed


def _in_csv(text: str) -> list[Any]:
    lines = [line for line in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in line)]
    try:
        _in_text(" ".join(lines[0] if lines else []))
    except ValueError:
        del lines[0]  # a heading
    columns = max(map(len, lines), default=0)
    if columns > 1 and len(lines) > 1:
        raise ValueError(f"it has {columns} columns; one, that of row numbers or of a mask, is needed")
    return _in_text(" ".join(cell for line in lines for cell in line))


def _in_text(text: str) -> list[Any]:
    words = text.replace(",", " ").split()
    truth = [word.lower() == "true" for word in words if word.lower() in ("true", "false")]
    return truth if truth and len(truth) == len(words) else [int(word) for word in words]
