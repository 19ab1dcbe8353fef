"""What every study begins with: the data, the model, the forget sets and the pools that a configuration asks for."""

import dataclasses
import math
import os
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from unlearn_jax import device
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.options import Comparison, Images, Requests, Run, Training
from unlearn_jax.bench.population import without
from unlearn_jax.bench.tuned import tuned
from unlearn_jax.data import Dataset, augmentation, choose, class_of, load
from unlearn_jax.data.splits import generator, random_halves
from unlearn_jax.methods import METHODS, hyperparameters
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import exposure, memorisation, scaled_logits
from unlearn_jax.models import build, find
from unlearn_jax.models.convolution import fastest
from unlearn_jax.progress import stage, working
from unlearn_jax.training.ensembles import predict, shared
from unlearn_jax.training.pools import Pool, train_pool
from unlearn_jax.types import Model, Problem, Recipe, Variables

TRAINING = 3  # times its weights that training a model holds: they, their gradients, the momentum
BLOCK = 32  # halves drawn together: each example is in 16 of them


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
        augment=augmentation(data.name),
        pixel_scale=data.pixel_scale,
    )
    return Setting(data, shared(problem), {"dataset": data.name, "data": data.fingerprint, **identity})


def decisive(config: Run) -> dict[str, Any]:
    """The options that decide a run's results: all but those that are immaterial or that may be extended."""
    return {name: value for name, value in config.recorded().items() if name not in config.immaterial | config.extendable}


def require_memory(config: Images, model: Model, images: np.ndarray) -> None:
    """Raises a UsageError if lower bounds of the memory exceed what the machine has.

    Counted are the training state of one model, the order of the examples of one model on each device, and the weights of the
    original models, each by itself.
    """
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *images.shape[1:]), np.float32))
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


def forget_mask(config: Requests, setting: Setting, index: int) -> np.ndarray:
    """Which training rows the forget set number `index` holds."""
    asked, data = config.forget, setting.data
    return choose(
        data.train.labels,
        kind=asked.kind,
        size=asked.size,
        label=asked.label,
        file=asked.file,
        published=data.published,
        wrong=data.train.labels != data.clean_labels,
        scores=lambda: ranking(config, setting, asked.kind),
        classes=data.classes,
        seed=config.seed,
        index=index,
    )


class Given(Protocol):
    """Hyperparameters that are given, and the data set whose tuned ones they replace."""

    @property
    def dataset(self) -> str:
        """The data set."""

    def hyperparameters(self) -> dict[str, dict[str, Any]]:
        """See `options.Hyper`."""


class OnHalves(NamedTuple):
    """Models on random halves of the training set, without those that diverged."""

    masks: np.ndarray  # [models, examples], what each trained on
    variables: Variables  # with a leading axis of models


def on_halves(config: Training, setting: Setting, models: int) -> OnHalves:
    """Models on random halves, each example in half of them: what memorisation and influence are measured with.

    A cached pool of 32 is the beginning of one of 64, 96, ...

    Raises:
        UsageError: so many diverged that some example has fewer than two models of either kind.
    """
    count = len(setting.data.train.labels)
    blocks = [min(BLOCK, models - first) for first in range(0, models, BLOCK)]
    draws = [generator("halves of the training set", config.seed, index) for index in range(len(blocks))]
    masks = np.concatenate([random_halves(count, size, rng) for size, rng in zip(blocks, draws, strict=True)])
    own = setting._replace(identity={**setting.identity, "halves": blocks[-1]})  # a smaller last block has halves of its own
    trained = pool(config, own, setting.problem, masks, "half", models)
    kept = np.delete(masks, trained.diverged, axis=0)
    few = min(kept.sum(axis=0).min(), (~kept).sum(axis=0).min()) < 2
    said = f"{len(trained.diverged)} of {models} models on halves diverged and each example needs 2 with and 2 without it"
    require(not few, "--train.learning-rate", config.train.learning_rate, f"{said}; expected a smaller number")
    return OnHalves(kept, without(trained.variables, trained.diverged))


def ranking(config: Requests, setting: Setting, kind: str) -> np.ndarray:
    """What examples are ranked by, exposure or memorisation, measured with models on random halves of the training set."""
    masks, variables = on_halves(config, setting, config.forget.models)
    logits = predict(setting.problem.model, variables, setting.data.train.images, config.strategy)
    labels = setting.data.train.labels
    if kind == "exposed":
        return exposure(scaled_logits(logits, labels), masks)
    return memorisation(logits.argmax(axis=-1) == labels, masks).score


def forget_class(config: Requests, setting: Setting, index: int) -> int | None:
    """The class that the forget set number `index` holds, whole or in part, and no other; None where it holds any."""
    return class_of(config.forget.kind, config.forget.label, setting.data.classes, index)


def forget_name(config: Requests, setting: Setting, index: int) -> str:
    """What a forget set is called: `random-0`, `file-0`, `class-3`; parts of one class `class_part-3`, `class_part-3-1`, ..."""
    kind, label = config.forget.kind, forget_class(config, setting, index)
    if label is None:
        return f"{kind}-{index}"
    return f"{kind}-{label}" if kind == "class" or index == 0 else f"{kind}-{label}-{index}"


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


def pool(
    config: Training, setting: Setting, problem: Problem, mask: np.ndarray, role: str, members: int, seed: int | None = None
) -> Pool:
    """A pool from the cache, or trained under a progress bar; `seed` in place of the run's."""
    assert config.cache
    with working(f"{role} models") as update:
        trained = train_pool(
            problem,
            mask,
            members=members,
            role=role,
            seed=config.seed if seed is None else seed,
            identity=setting.identity,
            cache=config.cache,
            strategy=config.strategy,
            chunk=config.chunk,
            report=lambda p: update(
                p.share,
                f"member {p.first + 1} to {p.last} of {p.members}, epoch {p.epoch} of {p.epochs}, "
                f"held-out accuracy {100 * p.accuracy:.1f}%" + (f", {p.diverged} diverged" if p.diverged else ""),
            ),
        )
        done = f"{members} members, {trained.seconds:.2f} s each"
        gone = f", diverged: {trained.diverged}" if trained.diverged else ""
        update(1.0, ". ".join([done + gone, *mixture(trained.made_with)]))
    return trained


def mixture(made_with: Iterable[str]) -> list[str]:
    """A sentence if parts of a result were made elsewhere (another version or backend), which agrees up to rounding only.

    Args:
        made_with: of each part, see `device.made_with`.
    """
    others = sorted({*made_with} - {device.made_with()})
    return [f"Part of this was made with {'; '.join(others)}, not with {device.made_with()}."] if others else []


def compile_all(unlearners: Collection[Unlearner]) -> None:
    """Compile side by side, before the first one runs: the compiler uses one core for much of its time."""
    if not unlearners:
        return
    with working("compiling") as update, ThreadPoolExecutor(os.cpu_count()) as threads:
        compiling = [threads.submit(unlearner.compile) for unlearner in unlearners]
        for number, done in enumerate(as_completed(compiling)):
            done.result()
            update((number + 1) / len(unlearners), f"{number + 1} of {len(unlearners)} methods")
