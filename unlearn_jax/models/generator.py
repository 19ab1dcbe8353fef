"""A small generator of images, for methods that have no data."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unlearn_jax.models.convolution import Convolution
from unlearn_jax.models.linen import as_model
from unlearn_jax.types import Model


def generator(shape: tuple[int, int, int], width: int = 32) -> Model:
    """A `Generator` as pure functions: `apply(variables, noise) -> (images, {})`."""
    return as_model(Generator(shape, width), (("start",), ("conv1",), ("conv2",), ("image",)), shape=(1, 1))


class Generator(nn.Module):
    """Noise to images: a linear layer, two convolutions that each double the size, one that sets the number of channels.

    As in zero-shot knowledge transfer (arXiv 1905.09768), every layer's output is standardised over the batch, and so are the
    images, channel by channel. It has no running statistics, so it needs whole batches.

    Attributes:
        shape: of an image: height, width, channels.
        width: channels at the start; half as many after the second convolution.
    """

    shape: tuple[int, int, int]
    width: int = 32

    @nn.compact
    def __call__(self, noise: Float[Array, "batch dimensions"], train: bool) -> Float[Array, "batch height width channels"]:
        """Images of mean 0 and variance 1; `train` changes nothing here."""
        height, width, channels = self.shape
        low = math.ceil(height / 4), math.ceil(width / 4)
        x = nn.Dense(self.width * low[0] * low[1], name="start")(noise)
        x = _standardised(x.T.reshape(self.width, *low, -1))
        for number, features in ((1, self.width), (2, self.width // 2)):
            x = Convolution(features, name=f"conv{number}")(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))
            x = nn.leaky_relu(_standardised(x), 0.2)
        x = _standardised(Convolution(channels, name="image")(x))[:, :height, :width]
        return jnp.transpose(x, (3, 1, 2, 0))


def _standardised(x: Float[Array, "channels height width batch"]) -> Float[Array, "channels height width batch"]:
    mean, variance = (statistic(x, axis=(1, 2, 3), keepdims=True) for statistic in (jnp.mean, jnp.var))
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5)
