"""Residual networks for small images (He et al. 2015, arXiv 1512.03385)."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from unlearn_jax.errors import ArgumentError
from unlearn_jax.models.convolution import FORMS, PADDINGS, Convolution
from unlearn_jax.models.linen import as_model
from unlearn_jax.models.registry import model
from unlearn_jax.types import Model

NORMALISATIONS = ("batch", "group")
_PADDING: dict[Callable[..., Any], str] = {}  # by `Model.apply`; `build` keeps every model anyway
GROUPS = 8


@model(
    "resnet{6n+2}",
    "CIFAR ResNet of depth 8, 14, 20, ... (three stages, the first of --width channels), arXiv 1512.03385",
    depths=range(8, 1203, 6),  # the source's deepest has 1202 layers
)
def cifar_resnet(
    *,
    classes: int,
    depth: int,
    width: int = 16,
    normalisation: str = "batch",
    convolution: str = "products",
    padding: str = "same",
) -> Model:
    """A `ResNet` of three stages of equal depth, as pure functions.

    Args:
        classes: outputs.
        depth: layers.
        width: channels of the first stage.
        normalisation: `batch` or `group`.
        convolution: `products`, `patches` or `xla`, see `convolution.convolve`.
        padding: `same`, or `torch` for weights that PyTorch trained, see `convolution.convolve`.

    Raises:
        ArgumentError: an unknown form of convolution, or padding.
    """
    return _resnet(classes, ((depth - 2) // 6,) * 3, width, normalisation, convolution, padding)


@model("resnet18", "ResNet-18 with the CIFAR stem (four stages of two blocks; usually --width 64), arXiv 1512.03385")
def resnet18(
    *, classes: int, width: int = 16, normalisation: str = "batch", convolution: str = "products", padding: str = "same"
) -> Model:
    """A `ResNet` of four stages of two blocks, as pure functions; see `cifar_resnet`."""
    return _resnet(classes, (2,) * 4, width, normalisation, convolution, padding)


def _resnet(classes: int, stages: Sequence[int], width: int, normalisation: str, convolution: str, padding: str) -> Model:
    for argument, value, accepted in (("convolution", convolution, FORMS), ("padding", padding, PADDINGS)):
        if value not in accepted:
            raise ArgumentError(argument, value, f"expected one of {', '.join(accepted)}")
    network = ResNet(classes, stages, width, normalisation, convolution, padding=padding)
    made = as_model(network, block_names(stages), unrolled=network.clone(scanned=False))
    _PADDING[made.apply] = padding
    return made


def padding_of(model: Model) -> str | None:
    """The padding that a ResNet was built with; None for any other model."""
    return _PADDING.get(model.apply)


class Normalisation(nn.Module):
    """BatchNorm or GroupNorm over the first axis of `[channels, height, width, batch]`.

    BatchNorm's running variance is a mean of the batches' biased variances, as Flax has it; PyTorch keeps the unbiased ones.
    """

    kind: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "channels height width batch"], train: bool, counted: Bool[Array, "1 1 1 batch"] | None = None
    ) -> Float[Array, "channels height width batch"]:
        """Normalise; BatchNorm by the statistics of the batch's `counted` rows if `train`, else by the running ones."""
        if self.kind == "batch":
            return nn.BatchNorm(use_running_average=not train, momentum=0.9, axis=0, name="batch")(x, mask=counted)
        groups = next(n for n in range(min(GROUPS, x.shape[0]), 0, -1) if x.shape[0] % n == 0)
        return jnp.transpose(nn.GroupNorm(groups, name="group")(jnp.transpose(x, (3, 1, 2, 0))), (3, 1, 2, 0))


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected by a 1x1 convolution where the shape changes."""

    features: int
    stride: int
    normalisation: str
    form: str
    padding: str = "same"

    @nn.compact
    def __call__(
        self, x: Float[Array, "channels height width batch"], train: bool, counted: Bool[Array, "1 1 1 batch"] | None = None
    ) -> Float[Array, "features h w batch"]:
        """Apply the block."""
        y = Convolution(self.features, 3, self.stride, self.form, self.padding, name="conv1")(x)
        y = nn.relu(Normalisation(self.normalisation, name="norm1")(y, train, counted))
        y = Convolution(self.features, 3, 1, self.form, self.padding, name="conv2")(y)
        y = Normalisation(self.normalisation, name="norm2")(y, train, counted)
        if self.stride != 1 or x.shape[0] != self.features:
            x = Convolution(self.features, 1, self.stride, self.form, self.padding, name="shortcut")(x)
            x = Normalisation(self.normalisation, name="shortcut_norm")(x, train, counted)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A stem of one 3x3 convolution, stages of basic blocks, average pooling, a linear head.

    Attributes:
        classes: outputs.
        stages: blocks in each stage; every stage after the first halves the image and doubles the width.
        width: channels of the stem and the first stage.
        normalisation: `batch` or `group`.
        form: how convolutions are computed, see `convolution.convolve`.
        scanned: whether the equal blocks of a stage are one program in a loop, so that a deep network compiles as fast as one
            with two blocks per stage. Otherwise each block is called by its name. The parameters are the same.
        padding: see `convolution.convolve`.
    """

    classes: int
    stages: Sequence[int]
    width: int
    normalisation: str = "batch"
    form: str = "products"
    scanned: bool = True
    padding: str = "same"

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool, counted: Bool[Array, " batch"] | None = None
    ) -> Float[Array, "batch classes"]:
        """Logits of a batch; with `train`, BatchNorm's statistics are those of the `counted` rows, by default of all."""
        x = jnp.transpose(images, (3, 1, 2, 0))
        counted = None if counted is None else counted[None, None, None]
        x = Convolution(self.width, form=self.form, padding=self.padding, name="stem")(x)
        x = nn.relu(Normalisation(self.normalisation, name="stem_norm")(x, train, counted))
        for stage, depth in enumerate(self.stages):
            names = [f"stage{stage + 1}_block{block + 1}" for block in range(depth)]
            looped = depth > 2 and self.scanned and not self.is_initializing()
            for block, name in enumerate(names[:1] if looped else names):
                stride = 2 if stage > 0 and block == 0 else 1
                block_of = (self.width * 2**stage, stride, self.normalisation, self.form, self.padding)
                x = Block(*block_of, name=name)(x, train, counted)
            if looped:
                x = self.loop(names[1:], self.width * 2**stage, x, train, counted)
        pooled = jnp.mean(x, axis=(1, 2)).T
        self.sow("intermediates", "features", pooled)
        return nn.Dense(self.classes, name="head")(pooled)

    def loop(
        self,
        names: list[str],
        features: int,
        x: Float[Array, "features height width batch"],
        train: bool,
        counted: Bool[Array, "1 1 1 batch"] | None,
    ) -> Float[Array, "features height width batch"]:
        """Applies blocks that keep the shape, in one loop over their stacked parameters."""
        block = Block(features, 1, self.normalisation, self.form, self.padding, parent=None)
        collections = ["params", *(["batch_stats"] if self.normalisation == "batch" else [])]
        own = [{kind: self.variables[kind][name] for kind in collections} for name in names]

        def step(x, variables):
            return block.apply(variables, x, train, counted, mutable=["batch_stats"] if train else [])

        x, changed = jax.lax.scan(step, x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *own))
        for number, name in enumerate(names if "batch_stats" in changed else ()):
            self.put_variable("batch_stats", name, jax.tree.map(lambda leaf, n=number: leaf[n], changed["batch_stats"]))
        return x


def block_names(stages: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    """Parameter groups of a `ResNet` from input to output."""
    body = tuple((f"stage{s + 1}_block{b + 1}",) for s, depth in enumerate(stages) for b in range(depth))
    return (("stem", "stem_norm"), *body, ("head",))
