"""The vocabulary: what the other modules say to each other in.

Nothing here imports anything of the project's own.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Bool, Float, Int

Key = jax.Array
Params = dict[str, Any]
Statistics = dict[str, Any]
STATIC = {"static": True}  # of a field that JAX does not trace


class Interval(NamedTuple):
    """A value and its 95% interval; an end is infinite or NaN where it cannot be known.

    `f"{interval:.2f}"` is `0.53 (0.40 to 0.61)`, or `0.53` alone where an end is not finite.
    """

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        ends = f" ({self.low:{spec}} to {self.high:{spec}})" if math.isfinite(self.high - self.low) else ""
        return f"{self.value:{spec}}{ends}"


class Variables(NamedTuple):
    """All that training changes in a model."""

    params: Params
    statistics: Statistics  # BatchNorm's running means and variances; {} for a model without them


class Dense(NamedTuple):
    """Where a layer `x @ kernel + bias` has its arrays among the params, as paths such as `head/kernel`."""

    kernel: str  # [in, out]
    bias: str | None  # [out]


class Model(NamedTuple):
    """A network as pure functions, and facts about its params, which nothing here guesses from a name or a shape.

    A group or an array is named by its path: keys from the top, joined by slashes, such as `stage1_block1/conv1/kernel`. Where
    a fact is not declared (None; `blocks`: empty), what needs it refuses in one line that names it; everything else works.

    Attributes:
        init: `(key, images[1, ...]) -> Variables`.
        apply: `(variables, images[batch, ...], train) -> (logits[batch, classes], statistics)`. With `train` the batch's
            own statistics normalise and the running ones move; without, the running ones normalise and come back unchanged.
            A model that has statistics also takes `counted[batch]`, bool: the rows that they are computed from.
        blocks: the names of the top-level parameter groups from the input to the output, grouped in blocks;
            the last is the head.
        features: `(variables, images[batch, ...]) -> [batch, features]`, what the head reads, without training's own
            normalisation.
        activations: `(variables, images, train) -> (logits, statistics, activations)`, the last a tuple of
            `[batch, positions, channels]`, one for each block but the head, what its last module gives (a dense layer and a
            stem before their relu); a dense layer's units are positions of one channel.
        gradient: `(params, images[batch, ...], labels[batch], weights[batch]) -> params`, the gradient of the weighted sum of
            the cross-entropies by a faster way than automatic differentiation, if there is one.
        norms: the groups that belong to a normalisation; () if there are none.
        convolutions: the kernels of all two-dimensional convolutions, `[height, width, in, out]`, in the order in which an
            image meets them; () if there are none.
        dense: all dense layers; () if there are none.
        head: the dense layer that reads `features` and gives the logits.
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


class Examples(NamedTuple):
    """Images and the labels that training sees."""

    images: Float[Any, "examples *image"]
    labels: Int[Any, " examples"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained from scratch. Hashable: it is part of a pool's identity.

    Attributes:
        epochs: passes over the examples that the mask keeps.
        batch_size: examples per step.
        learning_rate: the largest one of the schedule.
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
class Problem:
    """One unlearning problem: everything a method may look at. The test set is not in it.

    `retain` is `kept & ~forget`. The counts are static because array shapes follow from them.

    Attributes:
        pixel_scale: what 1 in pixels of [0, 1] is in the units that the model reads: one over the standard deviation of each
            channel, one number for each or one for all. Methods whose published sizes are in pixels multiply them by it. 1
            where the inputs are not standardised images.
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

    def replace(self, **fields: Any) -> "Problem":
        """The same problem but for some fields."""
        return dataclasses.replace(self, **fields)

    def rows(self, source: str) -> tuple[Bool[Any, " examples"], int]:
        """Which rows of `train` the source `kept`, `forget` or `retain` holds, and how many they are."""
        return {
            "kept": (self.kept, self.kept_count),
            "forget": (self.forget, self.forget_count),
            "retain": (self.retain, self.retain_count),
        }[source]

    @property
    def retain(self) -> Bool[Any, " examples"]:
        """Training rows that are kept and not to be forgotten."""
        return self.kept & ~self.forget

    @property
    def retain_count(self) -> int:
        """Their number."""
        return self.kept_count - self.forget_count


Method = Callable[[Key, Problem, Variables], Variables]


class Cube(NamedTuple):
    """The logits of a pool of models on the three splits: what nearly every metric is a function of."""

    forget: Float[Any, "members forget classes"]
    retain: Float[Any, "members retain classes"]
    test: Float[Any, "members test classes"]


class Labels(NamedTuple):
    """The labels that belong to a `Cube`; on forget and retain, those trained on (wrong ones included)."""

    forget: Int[Any, " forget"]
    retain: Int[Any, " retain"]
    test: Int[Any, " test"]
