"""What arguments of metrics have to be. A wrong one is a ValueError of one line that begins with the argument's name.

Every public metric asks here, so that none gives a plausible number for what it cannot mean: nothing is taken that is not
finite, has another shape, counts labels from 1, or holds probabilities where logits belong.

Axes are named in one string, `"members examples classes"`; `...` stands for any number of them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from unlearn_jax.types import Cube, Labels

ROUNDING = 1e-3  # by which a row of probabilities may miss 1: as much as half precision does
LOOSE = 0.03  # the same for what is not to be taken for logits: two digits of ten classes, or bfloat16
NAMED = 10  # rows that a message names


def numbers(
    name: str, values: Any, axes: str = "...", *, low: int | float = -np.inf, high: int | float = np.inf
) -> Float[np.ndarray, "..."]:
    """The values in float64, once all of them are finite and within bounds.

    A diverged member has no place in an average: drop it, and compare at the smaller number of members.

    Args:
        name: of the argument.
        values: numbers of any kind but complex.
        axes: their names; the first one's rows are named where they hold something that is not finite.
        low: the least that is accepted.
        high: the most.

    Raises:
        ValueError: they are no numbers, of another shape, empty, not finite or out of bounds.
    """
    found = _numeric(name, values, axes)
    if not np.isfinite(found).all():
        rows, *_ = axes.split()
        if rows == "..." or not found.ndim:
            raise ValueError(f"{name}: not finite")
        bad = [str(row) for row, own in enumerate(found) if not np.isfinite(own).all()]
        said = f"{', '.join(bad[:NAMED])}{f' and {len(bad) - NAMED} more' if len(bad) > NAMED else ''}"
        raise ValueError(f"{name}: {rows} {said} have values that are not finite; drop them first")
    if found.min() < low or found.max() > high:
        worst = found.min() if found.min() < low else found.max()
        bounds = f"{low:g} to {high:g}" if np.isfinite(high) else f"{low:g} or more"
        raise ValueError(f"{name}: {worst:g} found, expected {bounds}")
    return found


def logits(name: str, values: Any, axes: str = "members examples classes") -> Float[np.ndarray, "..."]:
    """Logits of two classes or more in float64. If every row is a distribution they are probabilities, and are refused.

    Raises:
        ValueError: see `numbers`; there is one class only, or they are probabilities.
    """
    found = numbers(name, values, axes)
    if found.shape[-1] < 2:
        raise ValueError(f"{name}: {found.shape[-1]} class, expected two or more")
    if _look_like_probabilities(found):
        raise ValueError(f"{name}: probabilities (no value is below 0, each row adds up to about 1 or 100), expected logits")
    return found


def probabilities(name: str, values: Any, axes: str = "... classes") -> Float[np.ndarray, "..."]:
    """Probabilities in float64.

    Raises:
        ValueError: see `numbers`; a value is below 0, or a row does not add up to 1, within 0.001.
    """
    found = numbers(name, values, axes, low=0)
    if not _are_probabilities(found):
        sums = found.sum(-1)
        raise ValueError(f"{name}: a row adds up to {sums.flat[np.abs(sums - 1).argmax()]:g}, expected probabilities")
    return found


def labels(name: str, values: Any, examples: int, classes: int | None = None) -> Int[np.ndarray, " examples"]:
    """One class for each example, counted from 0; any integers where nobody says how many classes there are.

    Raises:
        ValueError: they are no integers, not as many as examples, or one of them is no class.
    """
    found = np.asarray(values)
    if found.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected integers, not {found.dtype}")
    if found.shape != (examples,):
        raise ValueError(f"{name}: expected one for each of {examples} examples, not shape {found.shape}")
    if not examples:
        raise ValueError(f"{name}: empty")
    if classes is not None and (found.min() < 0 or found.max() >= classes):
        wrong = found.min() if found.min() < 0 else found.max()
        raise ValueError(f"{name}: {wrong} found, expected classes from 0 to {classes - 1}")
    return found


def truths(name: str, values: Any, axes: str) -> Bool[np.ndarray, "..."]:
    """Truth values; 0 and 1 will do.

    Raises:
        ValueError: they are something else, of another shape, or empty.
    """
    found = np.asarray(values)
    _numeric(name, found, axes)
    if found.dtype != bool and not np.isin(found, (0, 1)).all():
        raise ValueError(f"{name}: expected truth values, or 0 and 1")
    return found.astype(bool)


def generator(seed: Any) -> np.random.Generator:
    """The generator that a seed begins.

    Raises:
        ValueError: the seed is not a whole number, or below 0.
    """
    return np.random.default_rng(count("seed", seed, 0))


def count(name: str, value: Any, least: int, most: int | float = np.inf) -> int:
    """A whole number within bounds.

    Raises:
        ValueError: it is not a whole number, or out of bounds.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not least <= value <= most:
        bounds = f"from {least} to {most:g}" if np.isfinite(most) else f"of at least {least}"
        raise ValueError(f"{name}: {value!r} found, expected an integer {bounds}")
    return int(value)


def alike(name: str, values: np.ndarray, other_name: str, other: np.ndarray, first: int = 1) -> None:
    """Checks that two arguments have the same axes from the given one on, so that like is compared with like.

    Raises:
        ValueError: they do not.
    """
    if values.shape[first:] != other.shape[first:]:
        beyond = "" if first == 0 else " beyond its members"
        raise ValueError(f"{name}: shape {values.shape[first:]}{beyond}, expected {other.shape[first:]} as in {other_name}")


def cube(name: str, values: Cube, of: Labels, check: Callable[..., np.ndarray] = logits) -> None:
    """Checks that a cube holds the logits of the same members on all splits, and that the labels are theirs.

    Args:
        name: of the argument.
        values: of the models.
        of: one label for each example of a split.
        check: of the logits of a split: `numbers` where probabilities will do.

    Raises:
        ValueError: see the check and `labels`; the splits have other members or classes.
    """
    found = [check(f"{name}.{split}", getattr(values, split), "members examples classes") for split in Cube._fields]
    for split, own in zip(Cube._fields, found, strict=True):
        if (len(own), own.shape[2]) != (len(found[0]), found[0].shape[2]):
            expected, given = (f"{len(each)} members and {each.shape[2]} classes" for each in (found[0], own))
            raise ValueError(f"{name}.{split}: {given}, expected {expected} as in {Cube._fields[0]}")
        labels(f"labels.{split}", getattr(of, split), own.shape[1], own.shape[2])


def _numeric(name: str, values: Any, axes: str) -> Float[np.ndarray, "..."]:
    """In float64, of the named axes, and not empty."""
    try:
        found = None if np.iscomplexobj(values) else np.asarray(values, np.float64)
    except (TypeError, ValueError):
        found = None
    if found is None:
        raise ValueError(f"{name}: expected real numbers in an array")
    names = axes.split()
    fits = found.ndim >= len(names) - 1 if "..." in names else found.ndim == len(names)
    if not fits:
        raise ValueError(f"{name}: shape {found.shape}, expected [{', '.join(names)}]")
    if not found.size:
        raise ValueError(f"{name}: empty, of shape {found.shape}")
    return found


def _are_probabilities(values: Float[np.ndarray, "..."]) -> bool:
    return bool(values.min() >= 0 and (np.abs(values.sum(-1) - 1) <= ROUNDING).all())


def _look_like_probabilities(values: Float[np.ndarray, "..."]) -> bool:
    """Whether all rows are probabilities or percentages, rounded to two digits or to bfloat16: logits never are."""
    sums = values.sum(-1)
    return bool(values.min() >= 0 and any((np.abs(sums / whole - 1) <= LOOSE).all() for whole in (1.0, 100.0)))
