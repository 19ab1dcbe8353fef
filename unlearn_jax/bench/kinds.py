"""The values that an option accepts: declared once beside it, parsed from words, checked, and shown by `--help`.

epochs: Annotated[int, Whole(least=1)] = 15
label_noise: Annotated[float, Real(least=0, below=1)] = 0.1
widths: Annotated[tuple[int, ...], Several(Whole(least=1))] = (2, 4, 8)
"""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from tyro.constructors import PrimitiveConstructorSpec

from unlearn_jax.errors import UsageError

MOST = 10**6
"""The upper limit of an integer option that declares none: a larger number is taken for a typing error."""


class Kind(PrimitiveConstructorSpec):
    """The values that an option accepts; tyro shows them in `--help`.

    Args:
        metavar: what `--help` shows: `INT ≥1`.
        accepted: what messages say: `an integer of at least 1, at most 1,000,000`.
        read: parses a word, without checking the range; raises ValueError.
        holds: whether a value is of this kind and in the range.
        write: turns a value into a word.
    """

    accepted: str
    read: Callable[[str], Any]
    holds: Callable[[Any], bool]
    write: Callable[[Any], str]

    def __init__(
        self,
        metavar: str,
        accepted: str,
        read: Callable[[str], Any],
        holds: Callable[[Any], bool],
        write: Callable[[Any], str] = str,
    ):
        super().__init__(1, metavar, lambda words: read(words[0]), holds, lambda value: [write(value)])
        for name, value in {"accepted": accepted, "read": read, "holds": holds, "write": write}.items():
            object.__setattr__(self, name, value)  # tyro's class is frozen


class Number(Kind):
    """A finite number in a range that includes `least` and `most`, and excludes `above` and `below`."""

    def __init__(self, number: type, noun: str, least: float, most: float, above: float, below: float):
        bounds = (
            (least, "≥", "of at least", least > -MOST),
            (above, ">", "above", above > -math.inf),
            (most, "≤", "at most", most < math.inf),
            (below, "<", "below", below < math.inf),
        )
        signs = [f"{sign}{bound:,}" for bound, sign, _, shown in bounds if shown and (bound != MOST or sign != "≤")]
        limits = ", ".join(f"{words} {bound:,}" for bound, _, words, shown in bounds if shown)

        def holds(value: Any) -> bool:
            fits = isinstance(value, int | number) and not isinstance(value, bool)
            return fits and abs(value) < math.inf and least <= value <= most and above < value < below

        super().__init__(" ".join([number.__name__.upper(), *signs]), f"{noun} {limits}".strip(), number, holds)


class Real(Number):
    """A finite number."""

    def __init__(self, least: float = -math.inf, most: float = math.inf, *, above: float = -math.inf, below: float = math.inf):
        super().__init__(float, "a number", least, most, above, below)


class Whole(Number):
    """An integer, at most a million unless declared otherwise."""

    def __init__(self, least: int = -MOST, most: int = MOST):
        super().__init__(int, "an integer", least, most, -math.inf, math.inf)


class Text(Kind):
    """Any word."""

    def __init__(self, metavar: str, accepted: str):
        super().__init__(metavar, accepted, str, lambda value: isinstance(value, str))


class Name(Kind):
    """One of the given words."""

    def __init__(self, *names: str):
        accepted = f"one of {', '.join(names)}" if len(names) > 1 else names[0]
        super().__init__("{" + ",".join(names) + "}", accepted, _among(names), lambda value: value in names)


class Several(Kind):
    """A tuple of values, separated by commas; the empty word is the empty tuple.

    Args:
        item: the kind of each value.
        adds: whether new values are added to the earlier ones instead of replacing them.
        spaced: whether spaces separate values too.
    """

    def __init__(self, item: Kind, adds: bool = False, spaced: bool = True):
        super().__init__(
            f"{item.metavar},...",
            f"{item.accepted}, or several separated by commas",
            lambda word: tuple(item.read(part) for part in (word.replace(",", " ").split() if spaced else _parts(word))),
            lambda value: isinstance(value, tuple) and all(map(item.holds, value)),
            lambda value: ",".join(map(item.write, value)),
        )
        object.__setattr__(self, "adds", adds)


def _parts(word: str) -> list[str]:
    return [part.strip() for part in word.split(",") if part.strip()]


def _among(names: tuple[str, ...]) -> Callable[[str], str]:
    def read(word: str) -> str:
        if word not in names:
            raise ValueError(word)
        return word

    return read


def _none(word: str) -> None:
    if word != "None":
        raise ValueError(word)


PLAIN = {
    str: Text("TEXT", "a value"),
    Path: Kind("PATH", "a path", Path, lambda value: isinstance(value, Path)),
    type(None): Kind("None", "None", _none, lambda value: value is None),
}
"""The kind of a type that declares none."""
Count = typing.Annotated[int, Whole(least=1)]
Names = typing.Annotated[tuple[str, ...], Several(Text("NAME", "a name"))]
Settings = typing.Annotated[tuple[str, ...], Several(Text("METHOD.NAME=VALUE", "METHOD.NAME=VALUE"), adds=True)]


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a configuration.

    Attributes:
        name: as typed: `--train.batch-size`.
        path: the fields that lead to it: `("train", "batch_size")`.
        kinds: the accepted kinds of value; empty for a switch.
    """

    name: str
    path: tuple[str, ...]
    kinds: tuple[Kind, ...]

    def of(self, config: Any) -> Any:
        """Returns its value in a configuration."""
        return functools.reduce(getattr, self.path, config)

    def check(self, value: Any) -> None:
        """Raises ArgumentError if the option does not accept the value."""
        if not (any(kind.holds(value) for kind in self.kinds) if self.kinds else isinstance(value, bool)):
            self.refuse(",".join(map(str, value)) if isinstance(value, tuple) else value)

    def apply(self, config: Any, word: str | None, *, adding: bool = True) -> Any:
        """Returns the configuration with the option set to the value of a word.

        Args:
            config: the configuration so far.
            word: as typed; None for an option without a value.
            adding: whether a list that adds to its earlier values does so; else the word is the whole list.

        Raises:
            ArgumentError: the word cannot be parsed, or its value is out of range.
        """
        if not self.kinds:
            require(word is None, self.name, word, "takes no value")
            return replace_field(config, self.path, True)
        if word is None:
            raise UsageError(self.name, "", f"expected {self._accepted}")
        for kind in self.kinds:
            try:
                value = kind.read(word)
            except ValueError:
                continue
            self.check(value)
            return replace_field(config, self.path, self.of(config) + value if adding and getattr(kind, "adds", False) else value)
        return self.refuse(word)

    def refuse(self, value: Any) -> None:
        """Raises a UsageError about a value."""
        raise UsageError(self.name, value, f"expected {self._accepted}")

    @property
    def _accepted(self) -> str:
        return " or ".join(kind.accepted for kind in self.kinds if kind is not PLAIN[type(None)]) or "True or False"


def options(config: type, path: tuple[str, ...] = ()) -> Iterator[Option]:
    """Yields every option of a configuration class, those of its groups included; `path` leads to the class."""
    hints = typing.get_type_hints(config, include_extras=True)
    for field in dataclasses.fields(config):
        hint, inner = hints[field.name], (*path, field.name)
        if dataclasses.is_dataclass(hint):
            yield from options(typing.cast(type, hint), inner)
        elif field.init:
            yield Option("--" + ".".join(inner).replace("_", "-"), inner, _kinds(hint))


def replace_field(config: Any, path: tuple[str, ...], value: Any) -> Any:
    """Returns a configuration with a new value in the field that a path leads to."""
    name, *inner = path
    return dataclasses.replace(config, **{name: replace_field(getattr(config, name), tuple(inner), value) if inner else value})


def fixed(value: Any) -> Any:
    """A field with a constant value: shared functions read it, but it is no option of this study. Mark its type `Suppress`."""
    return dataclasses.field(init=False, default=value)


def require(condition: bool, option: str, value: object, accepted: str) -> None:
    """Raises `UsageError(option, value, accepted)` unless the condition holds (a NaN satisfies no comparison)."""
    if not condition:
        raise UsageError(option, value, accepted)


def _kinds(hint: Any) -> tuple[Kind, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        # None comes last, or it would be read as a path.
        parts = sorted(typing.get_args(hint), key=lambda part: part is not type(None))
        return tuple(kind for part in parts for kind in _kinds(part))
    if typing.get_origin(hint) is Literal:
        return (Name(*typing.get_args(hint)),)
    declared = tuple(kind for kind in getattr(hint, "__metadata__", ()) if isinstance(kind, Kind))
    return declared if declared or hint is bool else (PLAIN[hint],)
