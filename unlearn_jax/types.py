"""The types that all modules share. Imports no other module of the project."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Bool, Float, Int

Key = jax.Array
Params = dict[str, Any]
Statistics = dict[str, Any]
STATIC = {"static": True}  # marks a field that JAX does not trace


class Interval(NamedTuple):
    """A value and its 95% interval; an unknown end is infinite or NaN.

    `f"{interval:.2f}"` is `0.53 (0.40 to 0.61)`, or `0.53` alone if an end is not finite.
    """

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        ends = f" ({self.low:{spec}} to {self.high:{spec}})" if math.isfinite(self.high - self.low) else ""
        return f"{self.value:{spec}}{ends}"


class Variables(NamedTuple):
    """Everything in a model that training changes."""

    params: Params
    statistics: Statistics  # BatchNorm's running means and variances, counters; {} for a model without them


class Dense(NamedTuple):
    """The paths of the arrays of a layer `x @ kernel + bias`, such as `head/kernel`."""

    kernel: str  # [in, out]
    bias: str | None  # [out]


class Model(NamedTuple):
    """A network as pure functions, and facts about its params, which are never guessed from names or shapes.

    Groups and arrays of params are named by their path, such as `stage1_block1/conv1/kernel`. If a fact is not declared (None,
    or empty `blocks`), methods and metrics that need it raise a one-line error that names it; everything else works.

    Attributes:
        init: `(key, images[1, ...]) -> Variables`.
        apply: `(variables, images[batch, ...], train, key) -> (logits[batch, classes], statistics)`. With `train`, batches
            are normalised by their own statistics, and the running ones are updated; without, by the running ones, which do
            not change. Only a `random` model needs a key, and only in training. A model with statistics also takes
            `counted[batch]`, bool: the rows to compute them from.
        blocks: the names of the top-level parameter groups from input to output, grouped in blocks; the last is the head.
        features: `(variables, images[batch, ...]) -> [batch, features]`, the input of the head in evaluation mode.
        activations: `(variables, images, train) -> (logits, statistics, activations)`; the last is a tuple of
            `[batch, positions, channels]`, the output of the last module of each block but the head (of a dense layer and a
            stem before the relu); the units of a dense layer are positions with one channel. Draws no random numbers.
        gradient: `(params, images[batch, ...], labels[batch], weights[batch]) -> params`, the gradient of the weighted sum of
            the cross-entropies, if there is a faster way than automatic differentiation.
        norms: the parameter groups of normalisation layers; () if there are none.
        convolutions: the kernels of all two-dimensional convolutions, `[height, width, in, out]`, from input to output; ()
            if there are none.
        dense: all dense layers; () if there are none.
        head: the dense layer that reads `features` and gives the logits.
        random: whether the model draws random numbers in training, as dropout does.
    """

    init: Callable[..., Variables]
    apply: Callable[..., tuple[Array, Statistics]]
    blocks: tuple[tuple[str, ...], ...]
    features: Callable[..., Array] | None = None
    activations: Callable[..., tuple[Array, Statistics, tuple[Array, ...]]] | None = None
    gradient: Callable[..., Params] | None = None
    norms: tuple[str, ...] | None = None
    convolutions: tuple[str, ...] | None = None
    dense: tuple[Dense, ...] | None = None
    head: Dense | None = None
    random: bool = False

    def keyed(self, key: Key) -> dict[str, Key]:
        """The argument `key` of `apply` in training, for a model that needs one."""
        return {"key": key} if self.random else {}


class Examples(NamedTuple):
    """Images and their labels, as seen in training."""

    images: Float[Any, "examples *image"]
    labels: Int[Any, " examples"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained from scratch. Hashable: it is part of a pool's identity.

    Attributes:
        epochs: passes over the examples that the mask keeps.
        batch_size: examples per step.
        learning_rate: the largest of the schedule.
        momentum: of SGD; Adam ignores it.
        weight_decay: coupled (added to the gradient) for SGD, decoupled for Adam.
        schedule: `cosine` (to zero, after a linear warm-up of one tenth of the steps) or `constant`.
        optimiser: `sgd` or `adam`.
    """

    epochs: int = 15
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    optimiser: str = "sgd"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Start:
    """Where training from scratch begins, in place of random weights.

    Attributes:
        variables: params and statistics of some top-level groups, each whole; the other groups are drawn at random.
        frozen: top-level groups of params that training leaves as they are; patterns as in `transforms.freeze_by_name`.
    """

    variables: Variables
    frozen: tuple[str, ...] = dataclasses.field(metadata=STATIC, default=())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Problem:
    """One unlearning problem: everything that a method may see. The test set is not in it.

    `retain` is `kept & ~forget`. The counts are static because array shapes follow from them.

    Attributes:
        pixel_scale: a pixel difference of 1 (pixels being in [0, 1]) in units of the model's input: one over the standard
            deviation of each channel, or one number for all. Methods whose published step sizes are in pixels multiply them
            by it. 1 if the inputs are not standardised images.
        start: where training from scratch begins, if not at random weights.
    """

    train: Examples
    held_out: Examples
    kept: Bool[Any, " examples"]
    forget: Bool[Any, " examples"]
    model: Model = dataclasses.field(metadata=STATIC)
    classes: int = dataclasses.field(metadata=STATIC)
    kept_count: int = dataclasses.field(metadata=STATIC)
    forget_count: int = dataclasses.field(metadata=STATIC)
    recipe: Recipe = dataclasses.field(metadata=STATIC, default=Recipe())
    augment: Callable[..., Array] | None = dataclasses.field(metadata=STATIC, default=None)
    pixel_scale: tuple[float, ...] = dataclasses.field(metadata=STATIC, default=(1.0,))
    start: Start | None = None

    def replace(self, **fields: Any) -> "Problem":
        """Returns the problem with some fields replaced."""
        return dataclasses.replace(self, **fields)

    def rows(self, source: str) -> tuple[Bool[Any, " examples"], int]:
        """Returns the mask and the number of the rows of `train` in `kept`, `forget` or `retain`."""
        return {
            "kept": (self.kept, self.kept_count),
            "forget": (self.forget, self.forget_count),
            "retain": (self.retain, self.retain_count),
        }[source]

    @property
    def retain(self) -> Bool[Any, " examples"]:
        """The retain set: training rows that are kept and not to be forgotten."""
        return self.kept & ~self.forget

    @property
    def retain_count(self) -> int:
        """The number of rows in the retain set."""
        return self.kept_count - self.forget_count


Method = Callable[[Key, Problem, Variables], Variables]


class Cube(NamedTuple):
    """The logits of a pool of models on the three splits, the input of nearly every metric."""

    forget: Float[Any, "members forget classes"]
    retain: Float[Any, "members retain classes"]
    test: Float[Any, "members test classes"]


class Labels(NamedTuple):
    """The labels for a `Cube`; on forget and retain those used in training, wrong ones included."""

    forget: Int[Any, " forget"]
    retain: Int[Any, " retain"]
    test: Int[Any, " test"]
