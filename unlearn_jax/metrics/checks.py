"""Checks of the arguments of metrics. An invalid argument raises a one-line ValueError that begins with its name.

Every public metric uses them, so that none returns a plausible number for invalid input: values that are not finite, wrong
shapes, labels counted from 1, probabilities instead of logits.

Axes are named in one string, `"members examples classes"`; `...` stands for any number of them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from unlearn_jax.types import Cube, Labels

ROUNDING = 1e-3  # tolerance of the sum of probabilities, for half precision
LOOSE = 0.03  # tolerance in detecting probabilities among logits: two digits of ten classes, or bfloat16
NAMED = 10  # most rows that a message names


def numbers(
    name: str, values: Any, axes: str = "...", *, low: int | float = -np.inf, high: int | float = np.inf
) -> Float[np.ndarray, "..."]:
    """Checks that values are finite and within bounds; returns them in float64.

    Drop diverged members first, and compare with the null for the smaller number of members.

    Args:
        name: of the argument.
        values: real numbers.
        axes: names of the axes; the message on values that are not finite lists rows of the first.
        low: the smallest accepted value.
        high: the largest.

    Raises:
        ValueError: the values are not numbers, have the wrong shape, or are empty, not finite or out of bounds.
    """
    array = _numeric(name, values, axes)
    if not _finite(array):
        rows, *_ = axes.split()
        if rows == "..." or not array.ndim:
            raise ValueError(f"{name}: not finite")
        bad = [str(row) for row, values in enumerate(array) if not np.isfinite(values).all()]
        listed = f"{', '.join(bad[:NAMED])}{f' and {len(bad) - NAMED} more' if len(bad) > NAMED else ''}"
        raise ValueError(f"{name}: {rows} {listed} have values that are not finite; drop them first")
    if (low > -np.inf and array.min() < low) or (high < np.inf and array.max() > high):
        worst = array.min() if array.min() < low else array.max()
        bounds = f"{low:g} to {high:g}" if np.isfinite(high) else f"{low:g} or more"
        raise ValueError(f"{name}: {worst:g} found, expected {bounds}")
    return array


def logits(name: str, values: Any, axes: str = "members examples classes") -> Float[np.ndarray, "..."]:
    """Checks logits of two or more classes; returns them in float64. Probabilities (every row is a distribution) are refused.

    Raises:
        ValueError: see `numbers`; there is only one class, or the values are probabilities.
    """
    array = numbers(name, values, axes)
    if array.shape[-1] < 2:
        raise ValueError(f"{name}: {array.shape[-1]} class, expected two or more")
    if _look_like_probabilities(array):
        raise ValueError(f"{name}: probabilities (no value is below 0, each row adds up to about 1 or 100), expected logits")
    return array


def probabilities(name: str, values: Any, axes: str = "... classes") -> Float[np.ndarray, "..."]:
    """Checks probabilities; returns them in float64.

    Raises:
        ValueError: see `numbers`; a value is below 0, or a row does not add up to 1, within 0.001.
    """
    array = numbers(name, values, axes, low=0)
    if not _are_probabilities(array):
        sums = array.sum(-1)
        raise ValueError(f"{name}: a row adds up to {sums.flat[np.abs(sums - 1).argmax()]:g}, expected probabilities")
    return array


def labels(name: str, values: Any, examples: int, classes: int | None = None) -> Int[np.ndarray, " examples"]:
    """Checks labels, one for each example, counted from 0; any integers if `classes` is None.

    Raises:
        ValueError: the labels are not integers, not one for each example, or one of them is no class.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected integers, not {array.dtype}")
    if array.shape != (examples,):
        raise ValueError(f"{name}: expected one for each of {examples} examples, not shape {array.shape}")
    if not examples:
        raise ValueError(f"{name}: empty")
    if classes is not None and (array.min() < 0 or array.max() >= classes):
        wrong = array.min() if array.min() < 0 else array.max()
        raise ValueError(f"{name}: {wrong} found, expected classes from 0 to {classes - 1}")
    return array


def truths(name: str, values: Any, axes: str) -> Bool[np.ndarray, "..."]:
    """Checks booleans, or 0 and 1; returns booleans.

    Raises:
        ValueError: the values are anything else, have the wrong shape, or are empty.
    """
    array = np.asarray(values)
    _numeric(name, array, axes)
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name}: expected booleans, or 0 and 1")
    return array.astype(bool)


def generator(seed: Any) -> np.random.Generator:
    """Returns a random generator for a seed.

    Raises:
        ValueError: the seed is not an integer, or below 0.
    """
    return np.random.default_rng(count("seed", seed, 0))


def count(name: str, value: Any, least: int, most: int | float = np.inf) -> int:
    """Checks an integer within bounds.

    Raises:
        ValueError: the value is not an integer, or out of bounds.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not least <= value <= most:
        bounds = f"from {least} to {most:g}" if np.isfinite(most) else f"of at least {least}"
        raise ValueError(f"{name}: {value!r} found, expected an integer {bounds}")
    return int(value)


def alike(name: str, values: np.ndarray, other_name: str, other: np.ndarray, first: int = 1) -> None:
    """Checks that two arguments have the same shape from the given axis on.

    Raises:
        ValueError: they differ.
    """
    if values.shape[first:] != other.shape[first:]:
        beyond = "" if first == 0 else " beyond its members"
        raise ValueError(f"{name}: shape {values.shape[first:]}{beyond}, expected {other.shape[first:]} as in {other_name}")


def cube(name: str, values: Cube, of: Labels, check: Callable[..., np.ndarray] = logits) -> None:
    """Checks that a cube has logits of the same members and classes on all splits, and a label for each example.

    Args:
        name: of the argument.
        values: the cube.
        of: its labels.
        check: for the logits of a split; `numbers` to accept probabilities.

    Raises:
        ValueError: see `check` and `labels`; the splits have different members or classes.
    """
    splits = [check(f"{name}.{split}", getattr(values, split), "members examples classes") for split in Cube._fields]
    for split, logits_of in zip(Cube._fields, splits, strict=True):
        if (len(logits_of), logits_of.shape[2]) != (len(splits[0]), splits[0].shape[2]):
            expected, given = (f"{len(part)} members and {part.shape[2]} classes" for part in (splits[0], logits_of))
            raise ValueError(f"{name}.{split}: {given}, expected {expected} as in {Cube._fields[0]}")
        labels(f"labels.{split}", getattr(of, split), *logits_of.shape[1:])


def _numeric(name: str, values: Any, axes: str) -> Float[np.ndarray, "..."]:
    """Checks that values are numbers with the named axes and not empty; returns them in float64."""
    try:
        array = None if np.iscomplexobj(values) else np.asarray(values, np.float64)
    except (TypeError, ValueError):
        array = None
    if array is None:
        raise ValueError(f"{name}: expected real numbers in an array")
    names = axes.split()
    fits = array.ndim >= len(names) - 1 if "..." in names else array.ndim == len(names)
    if not fits:
        raise ValueError(f"{name}: shape {array.shape}, expected [{', '.join(names)}]")
    if not array.size:
        raise ValueError(f"{name}: empty, of shape {array.shape}")
    return array


def _finite(array: Float[np.ndarray, "..."]) -> bool:
    """Whether all values are finite. Their sum mostly tells, in one pass; it is not finite, too, where it overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


def _are_probabilities(values: Float[np.ndarray, "..."]) -> bool:
    sums = values @ np.ones(values.shape[-1])  # several times as fast as `sum` over so few
    return bool(values.min() >= 0 and np.abs(sums - 1).max() <= ROUNDING)


def _look_like_probabilities(values: Float[np.ndarray, "..."]) -> bool:
    """Whether all rows are probabilities or percentages, perhaps rounded to two digits or bfloat16; logits never are."""
    sums = values.sum(-1)
    return bool(values.min() >= 0 and any((np.abs(sums / whole - 1) <= LOOSE).all() for whole in (1.0, 100.0)))
