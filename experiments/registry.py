"""Every experiment by name: those of the library, and the studies (one folder each). Nothing here imports JAX."""

import importlib
from pathlib import Path

from unlearn_jax.bench import experiments
from unlearn_jax.bench.experiments import Experiment


def study(name: str) -> Experiment:
    """The study in a folder."""
    package = importlib.import_module(f"experiments.{name}")
    about = (package.__doc__ or name).splitlines()[0].removesuffix(".")
    return Experiment(importlib.import_module(f"experiments.{name}.options"), f"experiments.{name}.study", about)


EXPERIMENTS = {
    **experiments.EXPERIMENTS,
    **{folder.parent.name: study(folder.parent.name) for folder in sorted(Path(__file__).parent.glob("*/options.py"))},
}
