"""The registry of models: the maker, the names and the options of each."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from unlearn_jax.errors import ArgumentError
from unlearn_jax.types import Model


class Entry(NamedTuple):
    """One model, or a family of models that differ in their depth.

    Attributes:
        make: `(*, classes, **options) -> Model`.
        summary: one line.
        names: every accepted name, and the options that it sets.
        defaults: the other options and their values.
        points: whether it takes examples of any shape, points in the plane included; otherwise images only.
    """

    make: Callable[..., Model]
    summary: str
    names: dict[str, dict[str, Any]]
    defaults: dict[str, Any]
    points: bool


MODELS: dict[str, Entry] = {}
_built: dict[Model, tuple[str, dict[str, Any]]] = {}


def model(
    name: str, summary: str, *, depths: Iterable[int] = (), points: bool = False
) -> Callable[[Callable[..., Model]], Callable[..., Model]]:
    """Registers a model; the keyword defaults of its maker are its options.

    Args:
        name: of the model; for a family, with a word in braces in place of the depth.
        summary: see `Entry`.
        depths: of a family, ascending; the maker takes each as `depth`.
        points: see `Entry`.

    Raises:
        ValueError: a name that is already registered.
    """

    def enter(make: Callable[..., Model]) -> Callable[..., Model]:
        if name in MODELS:
            raise ValueError(f"{name}: already registered")
        names = {f"{name.partition('{')[0]}{depth}": {"depth": depth} for depth in depths} or {name: {}}
        options = {key: parameter.default for key, parameter in inspect.signature(make).parameters.items()}
        defaults = {key: default for key, default in options.items() if default is not inspect.Parameter.empty}
        MODELS[name] = Entry(make, summary, names, defaults, points)
        return make

    return enter


def find(name: str) -> Entry:
    """The entry that accepts a name.

    Raises:
        ArgumentError: an unknown model.
    """
    for entry in MODELS.values():
        if name in entry.names:
            return entry
    accepted = [shown if shown in entry.names else f"{shown} up to {[*entry.names][-1]}" for shown, entry in MODELS.items()]
    raise ArgumentError("model", name, f"expected one of {', '.join(accepted)}")


@functools.cache
def build(name: str, *, classes: int, **options: Any) -> Model:
    """The model called `name`. Equal arguments give the same object, so nothing compiled for it is compiled again.

    Args:
        name: of `MODELS`, with a depth in place of the braces.
        classes: outputs.
        options: of the maker; by default `Entry.defaults`.

    Raises:
        ArgumentError: an unknown model.
        ValueError: an option that the model does not take.
    """
    entry = find(name)
    if unknown := sorted(options.keys() - entry.defaults.keys()):
        raise ValueError(f"{name}: unknown option {', '.join(unknown)}, expected some of {', '.join(entry.defaults)}")
    made = entry.make(classes=classes, **entry.names[name], **options)
    _built[made] = name, {"classes": classes, **options}
    return made


def built_as(model: Model) -> tuple[str, dict[str, Any]] | None:
    """The name and the options by which `build` made a model; None if it did not."""
    return _built.get(model)


def build_again(name: str, options: dict[str, Any]) -> Model:
    """What `built_as` says, in another process."""
    return build(name, **options)
