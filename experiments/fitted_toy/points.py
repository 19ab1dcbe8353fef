"""The data that are compared: images, and points of a mixture in the pixels in which models see them."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.fitted_toy.options import Config
from unlearn_jax.bench.setting import Setting, prepare, setting_of
from unlearn_jax.data import Dataset, Mixture, Toy, populations
from unlearn_jax.models import build, wave_pixels
from unlearn_jax.types import Examples, Recipe


def image_setting(config: Config) -> Setting:
    """The images as they are: a data set's crops and flips have no counterpart in the plane, and prevent memorisation.

    Raises:
        ArgumentError: there is no such data set, or it cannot be read.
    """
    setting = prepare(config)
    if setting.problem.augment is None:
        return setting
    return setting._replace(
        data=setting.data._replace(augment=None),
        problem=dataclasses.replace(setting.problem, augment=None),
        identity={**setting.identity, "augment": "none"},
    )


def sample_points(config: Config, mixture: Mixture, seed: int, draw: int) -> Toy:
    """Training points of a mixture (draw 0), test points (draw 1) or held-out ones (draw 2)."""
    assert config.train_size is not None
    return populations(config.test_size if draw else config.train_size, mixture, draw=draw, seed=seed)


def pixels(points: Any, waves: int, contrast: Any) -> Any:
    """What models see of points `[points, 2]`: waves, or their coordinates."""
    return wave_pixels(points, waves, contrast) if waves else jnp.asarray(points)


def toy_setting(config: Config, mixture: Mixture) -> Setting:
    """A toy as the data of a run, with the seed of the options; its inputs are what models see."""
    toys = [sample_points(config, mixture, config.seed, draw) for draw in range(3)]
    images = [np.asarray(pixels(toy.train.images, config.waves, mixture.contrast)) for toy in toys]
    labels = [toys[0].train.labels, *(toy.clean_labels for toy in toys[1:])]
    train, test, held_out = map(Examples, images, labels)
    classes = len(mixture.centres)
    data = Dataset.from_arrays(
        train, test, held_out=held_out, clean_labels=toys[0].clean_labels, classes=classes, name="toy"
    )._replace(train=train, test=test, held_out=held_out, pixel_scale=(1.0,))  # not standardised: the contrast is fitted
    identity = {"model": config.model, "classes": classes, "width": config.width, "waves": config.waves}
    identity["contrast"] = mixture.contrast
    model = build(config.model, classes=classes, width=config.width)
    return setting_of(data, model, identity, Recipe(**dataclasses.asdict(config.train)))
