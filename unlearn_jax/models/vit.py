"""A small vision transformer."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from unlearn_jax.models.linen import as_model
from unlearn_jax.models.registry import model
from unlearn_jax.types import Model

HEAD_WIDTH = 8  # features of one attention head, at least


@model("vit", "small vision transformer: patches, four pre-norm blocks of --width features (a multiple of 8), arXiv 2010.11929")
def vit(*, classes: int, width: int = 32, depth: int = 4, patch: int | None = None) -> Model:
    """A `VisionTransformer` as pure functions.

    Args:
        classes: outputs.
        width: features of a token; heads of 8 features, or one head if that does not divide it.
        depth: blocks.
        patch: pixels along the side of a patch; None: see `patch_of`.
    """
    names = (("positions", "patches"), *((f"block{number + 1}",) for number in range(depth)), ("norm",), ("head",))
    return as_model(VisionTransformer(classes, width, depth, patch), names)


def patch_of(side: int) -> int:
    """The side of a patch of an image: the largest divisor of the image's side up to a quarter of it, but at most 4 pixels.

    8x8 images have 16 patches of 2x2, 28x28 images 49 of 4x4, 32x32 images 64 of 4x4. Larger images have patches in
    proportion: at most 8 along a side.
    """
    most = max(min(side // 4, 4), -(-side // 8))
    return max(size for size in range(1, most + 1) if side % size == 0)


class VisionTransformer(nn.Module):
    """Patches, learned positions, pre-norm blocks of attention and a two-layer MLP, the mean of the tokens, a linear head.

    Attributes:
        classes: outputs.
        width: features of a token.
        depth: blocks.
        patch: side of a patch in pixels; it must divide the image's height and width.

    Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929. Deviations: the mean of the tokens instead of
        a class token, and no dropout.
    """

    classes: int
    width: int
    depth: int
    patch: int | None = None

    @nn.compact
    def __call__(self, images: Float[Array, "batch height width channels"], train: bool) -> Float[Array, "batch classes"]:
        """Logits of a batch; `train` changes nothing here."""
        count, height, width, channels = images.shape
        side = self.patch or patch_of(min(height, width))
        if height % side or width % side:
            raise ValueError(f"patches of {side}x{side} pixels do not fill images of {height}x{width}")
        rows, columns = height // side, width // side
        x = images.reshape(count, rows, side, columns, side, channels).transpose(0, 1, 3, 2, 4, 5)
        x = nn.Dense(self.width, name="patches")(x.reshape(count, rows * columns, -1))
        x += nn.Embed(rows * columns, self.width, name="positions")(jnp.arange(rows * columns))[None]
        for number in range(self.depth):
            x = Block(name=f"block{number + 1}")(x)
        x = nn.LayerNorm(name="norm")(x).mean(axis=1)
        self.sow("intermediates", "features", x)
        return nn.Dense(self.classes, name="head")(x)


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))` with four times as many hidden units."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens features"]) -> Float[Array, "batch tokens features"]:
        """Tokens to tokens."""
        width = x.shape[-1]
        heads = width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else 1
        normed = nn.LayerNorm(name="norm1")(x)
        x += nn.MultiHeadDotProductAttention(heads, name="attention")(normed)
        hidden = nn.gelu(nn.Dense(4 * width, name="hidden")(nn.LayerNorm(name="norm2")(x)))
        return x + nn.Dense(width, name="out")(hidden)
