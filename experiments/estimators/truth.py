"""The truth to download: exact leave-one-out of a setting with all that is needed to estimate it elsewhere, as one npz file."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from experiments.estimators.options import Config
from unlearn_jax.as_json import json_text
from unlearn_jax.bench.setting import deciding_options
from unlearn_jax.data import Toy, discs
from unlearn_jax.models.paths import arrays as by_path
from unlearn_jax.types import Examples, Variables

STATES = ("initial", "final")  # of the weights: before the first step, and after the last one with all points


def draw(config: Config) -> tuple[Toy, Examples]:
    """The training points of a configuration, and the unseen ones whose margins are the targets."""
    options = dataclasses.asdict(config.discs)
    toy = discs(config.train_size, **options, label_noise=config.label_noise, seed=config.seed)
    return toy, discs(config.targets, **options, seed=config.seed + 1).train


def pack_weights(*states: Variables) -> dict[str, np.ndarray]:
    """The weights of the two `STATES`, as `initial/head/kernel`."""
    return {
        f"{name}/{path}": np.asarray(leaf)
        for name, state in zip(STATES, states, strict=True)
        for path, leaf in by_path(state.params).items()
    }


def is_complete(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the kept arrays of a setting hold its weights; those of earlier versions do not."""
    return {name.partition("/")[0] for name in arrays}.issuperset(STATES)


def pack(config: Config, setting: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The named arrays of a file of truth, see docs/influence-truth.md.

    Args:
        config: the options of the setting.
        setting: its name.
        arrays: what was computed for it: the exact effects, and the weights as of `pack_weights`.
    """
    toy, unseen = draw(config)
    return {
        "images": toy.train.images,
        "labels": toy.train.labels,
        "clean_labels": toy.clean_labels,
        "target_images": unseen.images,
        "target_labels": unseen.labels,
        "effects": arrays["exact"],
        "config": np.array(json_text({**deciding_options(config), "setting": setting})),
        **{name: array for name, array in arrays.items() if name.partition("/")[0] in STATES},
    }
