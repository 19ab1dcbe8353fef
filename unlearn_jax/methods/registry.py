"""The registry of methods: access, reference and hyperparameters of each."""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array

from unlearn_jax.errors import ArgumentError
from unlearn_jax.methods.needs import NEEDS, require, unmet
from unlearn_jax.models import mean_of
from unlearn_jax.types import Key, Method, Model, Problem, Variables

Number = float | Array  # a hyperparameter that may be traced
ACCESS = ("none", "F", "R", "F+R", "R+test-like", "F+R+test-like", "data-free")


class Range(NamedTuple):
    """The search range of a hyperparameter: `low` to `high`, even on a `log` or `linear` scale."""

    low: float
    high: float
    scale: str = "log"

    def spaced(self, count: int) -> np.ndarray:
        """`count` evenly spaced values, both ends included."""
        return (np.geomspace if self.scale == "log" else np.linspace)(self.low, self.high, count)


class Entry(NamedTuple):
    """One method.

    Attributes:
        make: `(**hyperparameters) -> Method`. Floats may be traced, and so batched; counts and choices are static.
        access: what the method may see, one of `ACCESS`.
        reference: arXiv number or venue.
        summary: what the method does, in one line.
        defaults: every hyperparameter and its default, the authors' unless the docstring says otherwise.
        static: the hyperparameters that determine shapes or the program; the others may be traced.
        needs: what it needs of a model, keys of `needs.NEEDS`.
        identity_at_zero: whether zero epochs or steps leave the model unchanged.
        ensemble: whether it returns several networks, stacked along a leading axis of every leaf.
        search: ranges of the main hyperparameters, around the authors' values, the most important first.
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
        """What the method needs and the problem's model lacks, phrased to follow "needs"; None if nothing."""
        return unmet(self.needs, problem)

    def outcome(self, model: Model) -> Model:
        """The model of the returned variables, given the model of the original: for an ensemble, the mean of its networks."""
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
    """Registers a method under its function's name; its keyword defaults are the hyperparameters.

    Args:
        access: see `Entry`.
        reference: see `Entry`.
        static: floats that determine shapes; counts, switches and names are always static.
        needs: see `Entry`; the method raises a one-line ValueError for a model that does not meet them.
        identity_at_zero: see `Entry`.
        ensemble: see `Entry`.
        search: see `Entry`; `(low, high)` or `(low, high, "linear")` by hyperparameter.

    Raises:
        ValueError: an unknown access or need, a name already registered, or a search range that is invalid or of no traced
            hyperparameter.
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
    """Wraps `make` so that its methods first check what they need of the model."""
    if not needs:
        return make

    @functools.wraps(make)
    def guarded(**values: Any) -> Method:
        method = make(**values)

        def checked(key: Key, problem: Problem, variables: Variables) -> Variables:
            require(name, needs, problem)
            return method(key, problem, variables)

        return checked

    return guarded


def hyperparameters(name: str, given: dict[str, str | float | int | bool]) -> dict[str, Any]:
    """The hyperparameters of a method: its defaults, with some replaced.

    Args:
        name: of the method.
        given: values, or their text from the command line.

    Raises:
        ArgumentError: an unknown method or hyperparameter, or an invalid value: of the wrong type, negative, not finite, a share
            above 1, or a count of 0 (allowed for epochs and labels).
    """
    if name not in METHODS:
        raise ArgumentError("methods", name, f"expected one of {', '.join(METHODS)}")
    values = dict(METHODS[name].defaults)
    for key, value in given.items():
        argument = f"{name}.{key}"
        if key not in values:
            raise ArgumentError(argument, str(value), f"{name} takes {', '.join(values) or 'no hyperparameters'}")
        values[key] = _as(type(values[key]), value, argument)
    return values


def searchable() -> list[str]:
    """The methods that have hyperparameters to search."""
    return [name for name, entry in METHODS.items() if entry.search]


def traceable(method: str | Entry, values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits hyperparameters into those that are static and those that may be traced."""
    static = (METHODS[method] if isinstance(method, str) else method).static
    return {k: v for k, v in values.items() if k in static}, {k: v for k, v in values.items() if k not in static}


def _as(kind: type, value: Any, argument: str) -> Any:
    if kind in (bool, str):
        choices = {"true": True, "false": False} if kind is bool else {str(value): value}
        if str(value).lower() not in {key.lower() for key in choices}:
            raise ArgumentError(argument, str(value), "true or false")
        return choices[str(value).lower()] if kind is bool else value
    try:
        number = -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    least = 1 if kind is int and not argument.endswith(("epochs", "label")) else 0
    most = 1.0 if argument.endswith("share") else 1e6 if kind is int else sys.float_info.max
    if not least <= number <= most or (kind is int and number % 1):
        share, whole = "a number from 0 to 1", f"a whole number, {least} to 1,000,000"
        raise ArgumentError(argument, str(value), whole if kind is int else share if most == 1 else "a finite number, 0 or more")
    return kind(number)
