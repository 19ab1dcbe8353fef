"""Hyperparameters of the methods of a run: the authors', replaced by tuned ones, replaced by those given."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from unlearn_jax.bench.forget_set import forget_class, forget_name
from unlearn_jax.bench.options import Comparison
from unlearn_jax.bench.setting import Setting
from unlearn_jax.bench.tuned import tuned
from unlearn_jax.errors import ArgumentError
from unlearn_jax.methods import METHODS, hyperparameters

SOURCES = {
    "default": "by default",
    "budget": "the search's budget, which it did not vary",
    "tuned": "tuned for the data set (`unlearn_jax/bench/tuned/`)",
    "forget set": "by the forget set",
    "given": "given (`--hyper`, `--smoke`)",
}
"""Where a hyperparameter can come from, and what tables call it; a later source replaces an earlier one."""


class Given(Protocol):
    """Given hyperparameters, and the data set whose tuned ones they replace."""

    @property
    def dataset(self) -> str:
        """The data set."""

    def hyperparameters(self) -> dict[str, dict[str, Any]]:
        """See `options.Hyper`."""


def settings(config: Given, names: list[str], label: int | None = None) -> dict[str, dict[str, Any]]:
    """Returns the hyperparameters of each method: those given, else the tuned ones of the data set, else the authors'.

    Args:
        config: the given ones, and the data set.
        names: of the methods.
        label: see `forget_class`. Class-wise methods forget this class unless given another.

    Raises:
        ArgumentError: no method has such a hyperparameter, or its value is not accepted.
    """
    return hyperparameters_of(config.dataset, names, config.hyperparameters(), label)


def hyperparameters_of(
    dataset: str, names: list[str], given: dict[str, dict[str, Any]], label: int | None = None
) -> dict[str, dict[str, Any]]:
    """As `settings`.

    Args:
        dataset: whose tuned hyperparameters are used.
        names: of the methods.
        given: method (`*`: every method that has it) -> hyperparameter -> value.
        label: as in `settings`.

    Raises:
        ArgumentError: as in `settings`.
    """
    given = dict(given)
    everywhere = given.pop("*", {})
    for name in given:
        if name not in METHODS:
            raise ArgumentError("hyper", name, f"expected one of {', '.join(METHODS)}")
        hyperparameters(name, given[name])
    for key, value in everywhere.items():
        methods = [name for name in METHODS if key in METHODS[name].defaults]
        if not methods:
            raise ArgumentError("hyper", f"*.{key}", "no method has a hyperparameter of that name")
        hyperparameters(methods[0], {key: value})
    layers = _layers(dataset, names, {"*": everywhere, **given}, label)
    values = {
        name: hyperparameters(name, {key: value for of_source in layers[name].values() for key, value in of_source.items()})
        for name in names
    }
    for name in names:
        METHODS[name].make(**values[name])  # refuses values that contradict each other before anything is trained
    return values


def require_used(given: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> None:
    """Refuses hyperparameters of registered methods that do not run.

    Args:
        given: method (`*`: every method that has it, of which there may be none) -> hyperparameter -> value.
        names: the methods of the run.

    Raises:
        ArgumentError: one is of another method.
    """
    for method, values in given.items():
        if values and method in METHODS and method not in names:
            hyperparameters(method, dict(values))  # a wrong name or value comes first
            others = f"{method} is not among the methods ({', '.join(names)})"
            raise ArgumentError("hyper", f"{method}.{next(iter(values))}", others)


def origins_of(
    dataset: str, names: list[str], given: dict[str, dict[str, Any]], label: int | None = None
) -> dict[str, dict[str, str]]:
    """Returns where each hyperparameter comes from: method -> name -> one of `SOURCES`; arguments as `hyperparameters_of`.

    Only what the search varied is tuned; what it left at the default is a default.
    """
    found = {}
    for name, layers in _layers(dataset, names, given, label).items():
        defaults = METHODS[name].defaults
        layers["budget"] = {key: value for key, value in layers["budget"].items() if value != defaults[key]}
        found[name] = {key: source for source, values in {"default": defaults, **layers}.items() for key in values}
    return found


def _layers(
    dataset: str, names: list[str], given: dict[str, dict[str, Any]], label: int | None
) -> dict[str, dict[str, dict[str, Any]]]:
    """What replaces the default hyperparameters: method -> source -> name -> value; a later source replaces an earlier one."""
    from_search, everywhere = tuned(dataset), given.get("*", {})
    return {
        name: {
            "budget": {key: value for key, value in from_search.get(name, {}).items() if key not in METHODS[name].search},
            "tuned": {key: value for key, value in from_search.get(name, {}).items() if key in METHODS[name].search},
            "forget set": {"label": label} if label is not None and "label" in METHODS[name].defaults else {},
            "given": {key: value for key, value in everywhere.items() if key in METHODS[name].defaults} | given.get(name, {}),
        }
        for name in names
    }


def settings_of_sets(config: Comparison, setting: Setting, names: list[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns the hyperparameters of each method on each forget set of a run: name of the set -> `settings`.

    Raises:
        ArgumentError: see `settings`.
    """
    sets = range(config.forget_sets)
    return {forget_name(config, setting, index): settings(config, names, forget_class(config, setting, index)) for index in sets}


def merge_sets(values: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Returns hyperparameters as files list them: method -> name -> value, or forget set -> value where the sets differ."""
    sets = list(values.values())
    return {
        method: {
            key: value
            if all(of_set[method][key] == value for of_set in sets)
            else {name: values[name][method][key] for name in values}
            for key, value in first.items()
        }
        for method, first in sets[0].items()
    }
