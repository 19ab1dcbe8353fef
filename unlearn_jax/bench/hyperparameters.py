"""Hyperparameters of the methods of a run: the authors', then the tuned ones, then those given."""

from typing import Any, Protocol

from unlearn_jax.bench.forget_set import forget_class, forget_name
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.options import Comparison
from unlearn_jax.bench.setting import Setting
from unlearn_jax.bench.tuned import tuned
from unlearn_jax.methods import METHODS, hyperparameters


class Given(Protocol):
    """Hyperparameters that are given, and the data set whose tuned ones they replace."""

    @property
    def dataset(self) -> str:
        """The data set."""

    def hyperparameters(self) -> dict[str, dict[str, Any]]:
        """See `options.Hyper`."""


def settings(config: Given, names: list[str], label: int | None = None) -> dict[str, dict[str, Any]]:
    """The hyperparameters of each method: the authors' defaults, then the tuned ones of the data set, then those given.

    Args:
        config: what is given.
        names: of the methods.
        label: see `forget_class`: a method that can forget a class only forgets this one, unless it is given another.

    Raises:
        UsageError: a hyperparameter that no method has, or a value that it cannot take.
    """
    return hyperparameters_of(config.dataset, names, config.hyperparameters(), label)


def hyperparameters_of(
    dataset: str, names: list[str], given: dict[str, dict[str, Any]], label: int | None = None
) -> dict[str, dict[str, Any]]:
    """As `settings`.

    Args:
        dataset: whose tuned hyperparameters are taken.
        names: of the methods.
        given: method, or `*` for every method that has it -> hyperparameter -> value.
        label: as in `settings`.

    Raises:
        UsageError: as in `settings`.
    """
    given = dict(given)
    everywhere = given.pop("*", {})
    for name in given:
        require(name in METHODS, "--hyper", name, f"there is {', '.join(METHODS)}")
        hyperparameters(name, given[name])
    for key, value in everywhere.items():
        having = [name for name in METHODS if key in METHODS[name].defaults]
        require(bool(having), "--hyper", f"*.{key}", "no method has a hyperparameter of that name")
        hyperparameters(having[0], {key: value})
    found = tuned(dataset)
    return {
        name: hyperparameters(
            name,
            {
                **found.get(name, {}),
                **({"label": label} if label is not None and "label" in METHODS[name].defaults else {}),
                **{k: v for k, v in everywhere.items() if k in METHODS[name].defaults},
                **given.get(name, {}),
            },
        )
        for name in names
    }


def settings_of_sets(config: Comparison, setting: Setting, names: list[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """The hyperparameters of each method on each forget set of a run: name of the set -> `settings`.

    Raises:
        UsageError: see `settings`.
    """
    sets = range(config.forget_sets)
    return {forget_name(config, setting, index): settings(config, names, forget_class(config, setting, index)) for index in sets}


def where_they_differ(values: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Hyperparameters as files list them: method -> name -> value, or forget set -> value where the sets differ."""
    sets = list(values.values())
    return {
        method: {
            key: value
            if all(each[method][key] == value for each in sets)
            else {name: values[name][method][key] for name in values}
            for key, value in own.items()
        }
        for method, own in sets[0].items()
    }
