"""The experiments that the library brings, by name. Nothing here imports JAX."""

from types import ModuleType
from typing import NamedTuple

from unlearn_jax.bench import compare_options, export_options, main_options, score_options, tuning_options
from unlearn_jax.bench.ulira import options as ulira_options


class Experiment(NamedTuple):
    """One experiment.

    Attributes:
        options: the module with its `Config` and `smoke`.
        module: the name of the module with `run(config, folder)`.
        about: one line on what it finds out.
    """

    options: ModuleType
    module: str
    about: str


EXPERIMENTS = {
    "unlearning": Experiment(
        main_options, "unlearn_jax.bench.evaluate", "Every unlearning method against the distribution of retrained models"
    ),
    "tuning": Experiment(
        tuning_options, "unlearn_jax.bench.tuning", "Hyperparameters for a data set, on oracles that the evaluation does not use"
    ),
    "export": Experiment(
        export_options,
        "unlearn_jax.bench.export",
        "A kit to unlearn in any framework: data, originals, and logits to be judged by",
    ),
    "score": Experiment(
        score_options, "unlearn_jax.bench.score", "Logits alone, of any framework: unlearned models against retrained ones"
    ),
    "ulira": Experiment(
        ulira_options,
        "unlearn_jax.bench.ulira.study",
        "U-LiRA: what was unlearned against what was never seen, by example",
    ),
    "compare": Experiment(
        compare_options, "unlearn_jax.bench.compare", "Finished runs: what changed in the configuration, and in every score"
    ),
}
