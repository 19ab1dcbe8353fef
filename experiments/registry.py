"""Every experiment by name: those of the library, and the studies (one folder each). Nothing here imports JAX."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from unlearn_jax.bench import main_options, tuning_options


class Experiment(NamedTuple):
    """One experiment.

    Attributes:
        options: the module with its `Config` and `smoke`.
        module: the name of the module with `run(config, folder)`.
        about: one line that describes it.
    """

    options: ModuleType
    module: str
    about: str


def study(name: str) -> Experiment:
    """The study in a folder."""
    package = importlib.import_module(f"experiments.{name}")
    about = (package.__doc__ or name).splitlines()[0].removesuffix(".")
    return Experiment(importlib.import_module(f"experiments.{name}.options"), f"experiments.{name}.study", about)


EXPERIMENTS = {
    "unlearning": Experiment(
        main_options, "unlearn_jax.bench.evaluate", "Every unlearning method against the distribution of retrained models"
    ),
    "tuning": Experiment(
        tuning_options, "unlearn_jax.bench.tuning", "Hyperparameters for a data set, on oracles that the evaluation does not use"
    ),
    **{folder.parent.name: study(folder.parent.name) for folder in sorted(Path(__file__).parent.glob("*/options.py"))},
}
