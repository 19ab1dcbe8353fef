"""The registry of methods: what each is called, may see, is described in, and takes."""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array

from unlearn_jax.errors import UsageError
from unlearn_jax.methods.needs import NEEDS, require, unmet
from unlearn_jax.models import mean_of
from unlearn_jax.types import Key, Method, Model, Problem, Variables

Number = float | Array  # a hyperparameter that may be traced
ACCESS = ("none", "F", "R", "F+R", "R+test-like", "F+R+test-like", "data-free")


class Range(NamedTuple):
    """Where a search looks for a hyperparameter: from `low` to `high`, evenly on a scale, `log` or `linear`."""

    low: float
    high: float
    scale: str = "log"

    def spaced(self, count: int) -> np.ndarray:
        """Values evenly over the range, both ends included."""
        return (np.geomspace if self.scale == "log" else np.linspace)(self.low, self.high, count)


class Entry(NamedTuple):
    """One method.

    Attributes:
        make: `(**hyperparameters) -> Method`. Floats may be traced, and so batched; counts and choices are static.
        access: what it may see: one of `ACCESS`.
        reference: arXiv number or venue, and whose defaults these are.
        summary: one line.
        defaults: every hyperparameter and its value where the authors' code starts.
        static: the hyperparameters that shapes or the program follow from; the others may be traced.
        needs: what it needs of a model, of `needs.NEEDS`.
        identity_at_zero: zero epochs or steps leave the model as it is.
        ensemble: it makes several networks of one, stacked along a leading axis of every leaf.
        search: the ranges of the main hyperparameters, around the authors' values; the first is the one that matters most.
    """

    make: Callable[..., Method]
    access: str
    reference: str
    summary: str
    defaults: dict[str, Any]
    static: frozenset[str]
    needs: tuple[str, ...] = ()
    identity_at_zero: bool = False
    ensemble: bool = False
    search: Mapping[str, Range] = MappingProxyType({})

    def unmet(self, problem: Problem) -> str | None:
        """What the method needs and the problem's model lacks, in words that follow "needs"; None if it lacks nothing."""
        return unmet(self.needs, problem)

    def outcome(self, model: Model) -> Model:
        """The model of the variables that the method returns, given the model of those that it takes."""
        return mean_of(model) if self.ensemble else model


METHODS: dict[str, Entry] = {}


def register(
    *,
    access: str,
    reference: str,
    static: Sequence[str] = (),
    needs: Sequence[str] = (),
    identity_at_zero: bool = False,
    ensemble: bool = False,
    search: Mapping[str, tuple] = MappingProxyType({}),
) -> Callable[[Callable[..., Method]], Callable[..., Method]]:
    """Enter a method under its function's name; its keyword defaults are the hyperparameters.

    Args:
        access: see `Entry`.
        reference: see `Entry`.
        static: floats that shapes follow from; counts, switches and names always are static.
        needs: see `Entry`. What is made raises ValueError, in one line, where it meets a problem whose model does not meet them.
        identity_at_zero: see `Entry`.
        ensemble: see `Entry`.
        search: see `Entry`: `(low, high)`, or `(low, high, "linear")`.

    Raises:
        ValueError: unknown access or need, a name that is already registered, or a range that is none of a traced hyperparameter.
    """

    def enter(make: Callable[..., Method]) -> Callable[..., Method]:
        name = make.__name__
        if name in METHODS:
            raise ValueError(f"{name}: already registered")
        if access not in ACCESS:
            raise ValueError(f"{name}: unknown access {access}, expected one of {', '.join(ACCESS)}")
        if unknown := set(needs) - set(NEEDS):
            raise ValueError(f"{name}: unknown need {', '.join(sorted(unknown))}, expected one of {', '.join(NEEDS)}")
        defaults = {k: p.default for k, p in inspect.signature(make).parameters.items()}
        summary = (make.__doc__ or name).strip().splitlines()[0]  # `python -OO` leaves docstrings out
        fixed = frozenset(static) | {key for key, value in defaults.items() if not isinstance(value, float)}
        guarded = _guarded(name, make, needs)
        ranges = {key: Range(*given) for key, given in search.items()}
        for key, (low, high, scale) in ranges.items():
            if key not in defaults.keys() - fixed or not low < high or not (scale == "linear" or (scale == "log" and low > 0)):
                raise ValueError(f"{name}: {key} cannot be searched from {low} to {high} on a scale {scale}")
        METHODS[name] = Entry(
            guarded, access, reference, summary, defaults, fixed, tuple(needs), identity_at_zero, ensemble, ranges
        )
        return guarded

    return enter


def _guarded(name: str, make: Callable[..., Method], needs: Sequence[str]) -> Callable[..., Method]:
    """`make`, whose methods check what they need of the model first."""
    if not needs:
        return make

    @functools.wraps(make)
    def guarded(**values: Any) -> Method:
        method = make(**values)

        def looked(key: Key, problem: Problem, variables: Variables) -> Variables:
            require(name, needs, problem)
            return method(key, problem, variables)

        return looked

    return guarded


def hyperparameters(name: str, given: dict[str, str | float | int | bool]) -> dict[str, Any]:
    """The defaults of a method with some of them replaced.

    Args:
        name: of the method.
        given: values, or their text as typed.

    Raises:
        UsageError: no such method or hyperparameter, or a value that is of the wrong type, negative or not finite, a
            share above 1, or a count of 0 (but of epochs; a label may be 0 too).
    """
    if name not in METHODS:
        raise UsageError("--methods", name, f"there is {', '.join(METHODS)}")
    values = dict(METHODS[name].defaults)
    for key, value in given.items():
        option = f"--hyper {name}.{key}"
        if key not in values:
            raise UsageError(option, str(value), f"{name} takes {', '.join(values) or 'no hyperparameters'}")
        values[key] = _as(type(values[key]), value, option)
    return values


def searchable() -> list[str]:
    """The methods that have a hyperparameter to search."""
    return [name for name, entry in METHODS.items() if entry.search]


def traceable(method: str | Entry, values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The hyperparameters of a method as those that are static and those that may be traced."""
    static = (METHODS[method] if isinstance(method, str) else method).static
    return {k: v for k, v in values.items() if k in static}, {k: v for k, v in values.items() if k not in static}


def _as(kind: type, value: Any, option: str) -> Any:
    if kind in (bool, str):
        choices = {"true": True, "false": False} if kind is bool else {str(value): value}
        if str(value).lower() not in {key.lower() for key in choices}:
            raise UsageError(option, str(value), "true or false")
        return choices[str(value).lower()] if kind is bool else value
    try:
        number = -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    least = 1 if kind is int and not option.endswith(("epochs", "label")) else 0
    most = 1.0 if option.endswith("share") else 1e6 if kind is int else sys.float_info.max
    if not least <= number <= most or (kind is int and number % 1):
        share, whole = "a number from 0 to 1", f"a whole number, {least} to 1,000,000"
        raise UsageError(option, str(value), whole if kind is int else share if most == 1 else "a finite number, 0 or more")
    return kind(number)
