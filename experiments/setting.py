"""What every study begins with: the data, the model and the problem that a configuration asks for."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from configs.common import Common
from unlearn_jax.data import Dataset, augmentation, load
from unlearn_jax.models import build
from unlearn_jax.models.convolution import fastest
from unlearn_jax.training.ensembles import shared
from unlearn_jax.types import Problem, Recipe


class Setting(NamedTuple):
    """Data, model, and the problem in which nothing is to be forgotten yet."""

    data: Dataset
    problem: Problem  # on the devices
    identity: dict[str, Any]  # what a pool depends on besides the recipe, the mask, the role and the seed


def prepare(config: Common) -> Setting:
    """Load the data and build the model.

    Raises:
        UsageError: the data set or the model is not there.
    """
    form = fastest() if config.convolution == "auto" else config.convolution
    data = load(
        config.dataset,
        train_size=config.train_size,
        label_noise=config.label_noise,
        seed=config.seed,
        data_dir=config.data_dir,
        cache=config.cache,
    )
    kind: dict[str, Any] = {"classes": data.classes, "width": config.width, "normalisation": config.normalisation}
    model = build(config.model, **kind, convolution=form)
    everything = np.ones(len(data.train.labels), bool)
    problem = Problem(
        train=data.train,
        held_out=data.held_out,
        kept=everything,
        forget=~everything,
        model=model,
        classes=data.classes,
        kept_count=len(everything),
        forget_count=0,
        recipe=Recipe(**dataclasses.asdict(config.train)),
        augment=augmentation(config.dataset),
    )
    identity = {"dataset": data.name, "data": data.fingerprint, "model": config.model, **kind}
    return Setting(data, shared(problem), identity)


def forgetting(setting: Setting, forget: np.ndarray) -> Problem:
    """The problem of forgetting the rows of a mask."""
    return dataclasses.replace(setting.problem, forget=shared(forget), forget_count=int(forget.sum()))
