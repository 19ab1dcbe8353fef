"""Checks of the arguments of estimators. An invalid argument raises a one-line ValueError that begins with its name.

Estimators may be compiled: the values of traced arrays are unknown, and only their shapes and types are checked.
"""

from typing import Any

import jax
import numpy as np

from unlearn_jax.influence.response import Training
from unlearn_jax.types import Examples, Variables


def numbers(name: str, values: Any, axes: str) -> Any:
    """Checks that values are finite real numbers with the named axes; returns them in float64, traced ones as they are.

    Args:
        name: of the argument.
        values: the numbers.
        axes: their names, such as `"points features"`; empty for a single number.

    Raises:
        ValueError: the values are not real numbers, have the wrong shape, or are empty or not finite.
    """
    array = values
    if not isinstance(values, jax.core.Tracer):
        try:
            array = None if np.iscomplexobj(values) else np.asarray(values, np.float64)
        except (TypeError, ValueError):
            array = None
        if array is None:
            raise ValueError(f"{name}: expected real numbers in an array")
    if array.ndim != len(axes.split()):
        raise ValueError(f"{name}: shape {array.shape}, expected [{', '.join(axes.split())}]")
    if not array.size:
        raise ValueError(f"{name}: empty, of shape {array.shape}")
    if not isinstance(array, jax.core.Tracer) and not np.isfinite(array).all():
        raise ValueError(f"{name}: not finite")
    return array


def positive(name: str, value: Any) -> None:
    """Checks that a number is finite and above 0.

    Raises:
        ValueError: it is not.
    """
    number = numbers(name, value, "")
    if not isinstance(number, jax.core.Tracer) and number <= 0:
        raise ValueError(f"{name}: {number:g} found, expected a number above 0")


def count(name: str, value: Any, most: int | float) -> None:
    """Checks an integer from 1 to `most`.

    Raises:
        ValueError: the value is not an integer, or out of bounds.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not 1 <= value <= most:
        bounds = f"from 1 to {most:g}" if np.isfinite(most) else "of at least 1"
        raise ValueError(f"{name}: {value!r} found, expected an integer {bounds}")


def labels(name: str, values: Any, examples: int, classes: int | None) -> None:
    """Checks labels, one for each example, counted from 0; any integers if `classes` is None.

    Raises:
        ValueError: the labels are not integers, not one for each example, or one of them is no class; or there are none.
    """
    traced = isinstance(values, jax.core.Tracer)
    array = values if traced else np.asarray(values)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected integers, not {array.dtype}")
    if array.shape != (examples,):
        raise ValueError(f"{name}: expected one for each of {examples} examples, not shape {array.shape}")
    if not examples:
        raise ValueError(f"{name}: empty")
    if classes is not None and not traced and (array.min() < 0 or array.max() >= classes):
        wrong = array.min() if array.min() < 0 else array.max()
        raise ValueError(f"{name}: {wrong} found, expected classes from 0 to {classes - 1}")


def labelled(run: Training, variables: Variables, targets: Examples) -> int:
    """Checks the labels of the training examples and of the targets; returns the number of the model's classes.

    Raises:
        ValueError: see `labels`; there are no targets.
    """
    logits = jax.eval_shape(lambda *given: run.model.apply(*given, train=False)[0], variables, run.examples.images)
    for name, part in (("run.examples", run.examples), ("targets", targets)):
        labels(f"{name}.labels", part.labels, len(part.images), logits.shape[1])
    return logits.shape[1]
