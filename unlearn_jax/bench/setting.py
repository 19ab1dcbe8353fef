"""The data and the model of a configuration, on the devices: where every study begins."""

import dataclasses
import fnmatch
import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.options import Images, Run, Starting, own_model
from unlearn_jax.bench.own_model import read_model
from unlearn_jax.bench.weights import Weights
from unlearn_jax.checkpoints import read_groups, shapes_of
from unlearn_jax.data import Dataset, load
from unlearn_jax.errors import ArgumentError, UsageError
from unlearn_jax.files import disk, memory
from unlearn_jax.models import build, find
from unlearn_jax.models.convolution import fastest
from unlearn_jax.models.fingerprint import fingerprint
from unlearn_jax.progress import stage
from unlearn_jax.training.ensembles import shared
from unlearn_jax.training.pools import Fit
from unlearn_jax.types import Model, Problem, Recipe, Start, Variables

TRAINING = 3  # copies of the weights in memory during training: weights, gradients, momentum


class Setting(NamedTuple):
    """The data and the model, with an empty forget set."""

    data: Dataset
    problem: Problem  # on the devices
    identity: dict[str, Any]  # all that a pool depends on besides the recipe, the mask, the role and the seed
    weights: Weights = Weights()  # given, or to be written
    fit: Fit | None = None  # trains in place of the recipe, see `pools.train_pool`


@stage("data")
def prepare(config: Images) -> Setting:
    """Loads the data and builds the model.

    Raises:
        ArgumentError: there is no such data set or model, or the data cannot be read.
    """
    convolution = fastest() if config.convolution == "auto" else config.convolution
    data = load(
        config.dataset,
        train_size=config.train_size,
        label_noise=config.label_noise,
        seed=config.seed,
        data_dir=config.data_dir,
        cache=config.cache,
    )
    kind: dict[str, Any] = {"classes": data.classes, "width": config.width, "normalisation": config.normalisation}
    kind |= {"padding": config.padding} if config.padding != "same" else {}
    options = {**kind, "convolution": convolution}
    if own_model(config.model):
        model = read_model(config.model, data.classes, data.train.images.shape[1:])
        try:
            kind = {"digest": fingerprint(model, data.train.images.shape[1:])}
        except ValueError as error:
            raise UsageError("--model", config.model, str(error)) from error
    else:
        model = build(
            config.model, **{name: options[name] for name in ("classes", *find(config.model).defaults) if name in options}
        )
    require_memory(config, model, data.train.images)
    recipe = Recipe(**dataclasses.asdict(config.train))
    start = None
    if isinstance(config, Starting) and config.init:
        like = shapes_of(model, data.train.images.shape[1:])
        variables, digest = read_groups(config.init, like, "init")
        start = start_at(variables, config.freeze, like, config.init)
        kind |= {"init": digest, "freeze": list(config.freeze)}
    named = {} if own_model(config.model) else {"model": config.model}  # its own is found by what it computes
    return setting_of(data, model, {**named, **kind}, recipe, start)


def start_at(variables: Variables, frozen: Sequence[str], like: Variables, value: object) -> Start:
    """Where training starts.

    Args:
        variables: whole top-level groups.
        frozen: see `Start`.
        like: of the whole model.
        value: the weights as they were given, for messages.

    Raises:
        ArgumentError: what is to be frozen is not given, or is all that there is.
    """
    for pattern in frozen:
        if not fnmatch.filter(variables.params, pattern):
            raise ArgumentError("freeze", pattern, f"expected groups of params that init holds: {', '.join(variables.params)}")
    if all(any(fnmatch.fnmatchcase(group, pattern) for pattern in frozen) for group in like.params):
        raise ArgumentError("freeze", ",".join(frozen), "leaves nothing to train")
    if drawn := [group for group in like.params if group not in variables.params]:
        print(f"init {value}: lacks {', '.join(drawn)}; drawn at random", file=sys.stderr, flush=True)
    return Start(variables, tuple(frozen))


def setting_of(data: Dataset, model: Model, identity: dict[str, Any], recipe: Recipe, start: Start | None = None) -> Setting:
    """Puts data and a model on the devices.

    Args:
        data: see `data.load`.
        model: see `models.build`.
        identity: of the model, by which its pools are found in the cache.
        recipe: how it is trained.
        start: where that begins, if not at random weights; `identity` must hold it too.
    """
    inputs = jax.ShapeDtypeStruct((1, *data.train.images.shape[1:]), np.float32)
    variables = jax.eval_shape(model.init, jax.eval_shape(jax.random.key, 0), inputs)
    outputs = jax.eval_shape(lambda v, x: model.apply(v, x, train=False)[0], variables, inputs).shape[-1]
    if outputs < data.classes:
        raise ArgumentError("model", "", f"gives {outputs} logits an example; the data have {data.classes} classes")
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
        start=start,
    )
    return Setting(data, shared(problem), {"dataset": data.name, "data": data.fingerprint, **identity})


def deciding_options(config: Run) -> dict[str, Any]:
    """Returns the options that results depend on: all but immaterial and extendable ones."""
    return {name: value for name, value in config.recorded().items() if name not in config.immaterial | config.extendable}


def require_memory(config: Images, model: Model, images: np.ndarray) -> None:
    """Raises a UsageError if the model cannot take the images, or the run surely needs more than the machine has.

    Checks three lower bounds, each by itself: the memory for the training state of one model, and for the order of the examples
    of one model on each device; and the disk of the cache for the weights of the original models.
    """
    example = jax.ShapeDtypeStruct((1, *images.shape[1:]), np.float32)
    try:
        shapes = jax.eval_shape(model.init, jax.random.key(0), example)
    except (TypeError, ValueError) as error:
        hint = "; images are (height, width, channels)" if images.ndim == 3 else ""
        raise UsageError("--model", config.model, f"cannot take examples of shape {images.shape[1:]}{hint}") from error
    weights = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    orders = 4 * config.train.epochs * len(images) * jax.device_count()  # drawn before the first step
    needs = {
        ("--width", config.width): (TRAINING * weights, f"to train one {config.model}"),
        ("--train.epochs", config.train.epochs): (orders, "for the order of the examples in one model on each device"),
    }
    available = memory()
    for (option, value), (needed, purpose) in needs.items():
        problem = f"{needed / 2**30:,.0f} GiB of memory are needed {purpose}; this machine has {available / 2**30:,.0f}"
        require(needed <= available, option, value, problem)
    members = getattr(config, "members", 1)
    if config.cache and members != "auto":
        space = disk(config.cache)
        problem = f"{members * weights / 2**30:,.0f} GiB of models are kept in the cache; its disk has {space / 2**30:,.0f}"
        require(members * weights <= space, "--members", members, problem)


def forgetting(setting: Setting, forget: np.ndarray) -> Problem:
    """Returns the problem of forgetting the rows of a mask."""
    return dataclasses.replace(setting.problem, forget=shared(forget), forget_count=int(forget.sum()))
