"""What every study begins with: the data and the model that a configuration asks for, on the devices."""

import dataclasses
import math
import os
from typing import Any, NamedTuple

import jax
import numpy as np

from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.options import Images, Run
from unlearn_jax.data import Dataset, load
from unlearn_jax.errors import UsageError
from unlearn_jax.models import build, find
from unlearn_jax.models.convolution import fastest
from unlearn_jax.progress import stage
from unlearn_jax.training.ensembles import shared
from unlearn_jax.types import Model, Problem, Recipe

TRAINING = 3  # times its weights that training a model holds: they, their gradients, the momentum


class Setting(NamedTuple):
    """Data, model, and the problem in which nothing is to be forgotten yet."""

    data: Dataset
    problem: Problem  # on the devices
    identity: dict[str, Any]  # what a pool depends on besides the recipe, the mask, the role and the seed


@stage("data")
def prepare(config: Images) -> Setting:
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
    options = {**kind, "convolution": form}
    model = build(config.model, **{name: options[name] for name in ("classes", *find(config.model).defaults) if name in options})
    require_memory(config, model, data.train.images)
    return setting_of(data, model, {"model": config.model, **kind}, Recipe(**dataclasses.asdict(config.train)))


def setting_of(data: Dataset, model: Model, identity: dict[str, Any], recipe: Recipe) -> Setting:
    """Data and a model, on the devices.

    Args:
        data: as loaded.
        model: as built.
        identity: of the model: what a pool of it is found by.
        recipe: how it is trained.
    """
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
        recipe=recipe,
        augment=data.augment,
        pixel_scale=data.pixel_scale,
    )
    return Setting(data, shared(problem), {"dataset": data.name, "data": data.fingerprint, **identity})


def decisive(config: Run) -> dict[str, Any]:
    """The options that decide a run's results: all but those that are immaterial or that may be extended."""
    return {name: value for name, value in config.recorded().items() if name not in config.immaterial | config.extendable}


def require_memory(config: Images, model: Model, images: np.ndarray) -> None:
    """Raises a UsageError if the model cannot take the images, or lower bounds of the memory exceed what the machine has.

    Counted are the training state of one model, the order of the examples of one model on each device, and the weights of the
    original models, each by itself.
    """
    example = jax.ShapeDtypeStruct((1, *images.shape[1:]), np.float32)
    try:
        shapes = jax.eval_shape(model.init, jax.random.key(0), example)
    except (TypeError, ValueError) as error:
        raise UsageError("--model", config.model, f"cannot take examples of shape {images.shape[1:]}") from error
    weights = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    members = getattr(config, "members", 1)
    orders = 4 * config.train.epochs * len(images) * jax.device_count()  # drawn before the first step
    needs = {
        ("--width", config.width): (TRAINING * weights, f"to train one {config.model}"),
        ("--train.epochs", config.train.epochs): (orders, "for the order of the examples in one model on each device"),
        ("--members", members): (weights * members if members != "auto" else 0, "for the weights of the original models"),
    }
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for (option, value), (needed, what) in needs.items():
        said = f"{needed / 2**30:,.0f} GiB of memory are needed {what}; this machine has {there / 2**30:,.0f}"
        require(needed <= there, option, value, said)


def forgetting(setting: Setting, forget: np.ndarray) -> Problem:
    """The problem of forgetting the rows of a mask."""
    return dataclasses.replace(setting.problem, forget=shared(forget), forget_count=int(forget.sum()))
