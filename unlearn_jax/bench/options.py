"""The options that all experiments share."""

import dataclasses
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any, ClassVar, Literal

MOST = 10**6
"""No whole number on the command line but the seed means more than this: what is beyond it is a slip of the finger."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """How one model is trained, the originals and the retrained ones alike."""

    epochs: int = 15
    """Passes over the examples that the model is trained on."""
    batch_size: int = 64
    """Examples in one step."""
    learning_rate: float = 0.1
    """The peak of the schedule."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """cosine warms up over the first tenth of the steps and falls to 0 at the last; constant stays."""
    optimiser: Literal["sgd", "adam"] = "sgd"
    """sgd with momentum, or adam with decoupled weight decay (AdamW)."""
    momentum: float = 0.9
    """Of sgd; adam has its own."""
    weight_decay: float = 5e-4
    """Added to the gradient by sgd, decoupled by adam."""

    def check(self) -> None:
        """Raises a UsageError for the first value that cannot be meant."""
        require(self.epochs >= 1, "--train.epochs", self.epochs, "expected an integer of at least 1")
        require(self.batch_size >= 1, "--train.batch-size", self.batch_size, "expected an integer of at least 1")
        require(0 < self.learning_rate < inf, "--train.learning-rate", self.learning_rate, "expected a number above 0")
        require(0 <= self.momentum < 1, "--train.momentum", self.momentum, "expected a number from 0 to below 1")
        require(0 <= self.weight_decay < inf, "--train.weight-decay", self.weight_decay, "expected a number of at least 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """What every experiment needs to know."""

    exp: str = "unlearning"
    """The experiment. `--list` shows all."""
    device: str = "auto"
    """auto (the GPUs, else the CPU), cpu, gpu (all of them), gpu:2, gpu:0,1; cuda means gpu. Also -d."""
    out: Path | None = None
    """The run folder; one that holds an unfinished run is taken up again. None: runs/EXPERIMENT-TIME."""
    smoke: bool = False
    """A small version of everything, in under a minute on two cores. Options given besides it still count."""
    seed: int = 0
    """Everything random follows from it."""
    dataset: str = "digits"
    """What is learned. `--list` shows all."""
    data_dir: Path | None = None
    """Where the data set's files are; None: where its package put them."""
    train_size: int | None = None
    """Training examples to keep, drawn at random; None: all."""
    label_noise: float = 0.1
    """Share of the training labels that are made wrong: without any, digits leaves nothing to forget."""
    model: str = "resnet8"
    """resnet8, 14, 20, ... (6n+2), resnet18 or mlp."""
    width: int = 8
    """Channels of the first stage, or hidden units of the MLP. 8 will do for digits; CIFAR ResNets have 16, ResNet-18 has 64."""
    normalisation: Literal["batch", "group"] = "batch"
    """BatchNorm or GroupNorm."""
    train: Train = Train()
    cache: Path | None = None
    """Where decoded data, trained models and compiled programs are kept for other runs; None: ~/.cache/unlearn_jax."""
    strategy: Literal["auto", "vmap", "map"] = "auto"
    """The members of a chunk on one device: all at once or one by one; auto: what was measured to be faster there."""
    chunk: int | None = None
    """Members trained, and saved, at a time; None: what fits in memory."""
    convolution: Literal["auto", "products", "patches", "xla"] = "auto"
    """products: matrix products, few multiplications; patches: one each; xla: its own; auto: products on CPUs, xla on GPUs."""

    profile: bool = False
    """Also say which ten stages took longest, with a trace of all for Perfetto; with --smoke one of every operation as well."""

    immaterial: ClassVar[frozenset[str]] = frozenset(
        {"device", "out", "cache", "data_dir", "strategy", "chunk", "convolution", "profile"}
    )
    """Options that do not change the results (to float tolerance), so a run may be resumed with others."""
    extendable: ClassVar[frozenset[str]] = frozenset()
    """Options in which a finished run may be extended."""

    def check(self) -> None:
        """Raises a UsageError for the first value that cannot be meant."""
        from unlearn_jax.models import find  # brings JAX with it, which --help must not

        for option, number in whole_numbers(self):
            require(option == "--seed" or abs(number) <= MOST, option, number, f"expected at most {MOST:,}")
        find(self.model)
        require(0 <= self.seed < 2**32, "--seed", self.seed, "expected an integer from 0 to 2^32 - 1")
        require(self.train_size is None or self.train_size >= 2, "--train-size", self.train_size, "expected at least 2")
        require(0 <= self.label_noise < 1, "--label-noise", self.label_noise, "expected a share from 0 to below 1")
        require(self.width >= 1, "--width", self.width, "expected an integer of at least 1")
        require(self.chunk is None or self.chunk >= 1, "--chunk", self.chunk, "expected an integer of at least 1")
        self.train.check()

    def recorded(self) -> dict[str, Any]:
        """What config.json records and a resumed run has to agree with."""
        return dataclasses.asdict(self)


def whole_numbers(config: Any, prefix: str = "--") -> Iterator[tuple[str, int]]:
    """The options of a configuration that are integers, by name, those in groups included."""
    for field in dataclasses.fields(config):
        value, option = getattr(config, field.name), prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from whole_numbers(value, f"{option}.")
        elif isinstance(value, int) and not isinstance(value, bool):
            yield option, value


def require(condition: bool, option: str, value: object, accepted: str) -> None:
    """Raises `UsageError(option, value, accepted)` unless the condition holds (a NaN satisfies no comparison)."""
    if not condition:
        from unlearn_jax.errors import UsageError

        raise UsageError(option, value, accepted)
