"""A convolution that stays fast when it is batched over models.

`vmap` over kernels turns XLA's convolution into a grouped one, and a loop around it falls to a slow path on the CPU
(jax#12868, jax#13800). Written as one matrix product over shifted slices it stays a (batched) matrix product.
The network inside works on `[channels, height, width, batch]`: the product then reads and writes contiguous rows.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FORMS = ("patches", "xla")
# GPUs get `xla`, unmeasured: benchmarks/strategies.py is to say.
FASTEST = {"cpu": "patches"}


def fastest() -> str:
    """The form that was measured fastest, batched over members, on the backend in use."""
    return FASTEST.get(jax.default_backend(), "xla")


def _same_padding(length: int, size: int, stride: int) -> tuple[int, int]:
    total = max((-(-length // stride) - 1) * stride + size - length, 0)
    return total // 2, total - total // 2


def _patches(x: Array, size: int, stride: int) -> Array:
    """`[channels, height, width, batch] -> [size * size * channels, out_height, out_width, batch]`, SAME padding."""
    _, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), _same_padding(height, size, stride), _same_padding(width, size, stride), (0, 0)))
    out_height, out_width = -(-height // stride), -(-width // stride)
    shifts = [
        padded[:, i : i + stride * (out_height - 1) + 1 : stride, j : j + stride * (out_width - 1) + 1 : stride]
        for i in range(size)
        for j in range(size)
    ]
    return shifts[0] if size == 1 else jnp.concatenate(shifts)


def convolve(
    x: Float[Array, "channels height width batch"],
    kernel: Float[Array, "size size channels features"],
    stride: int = 1,
    form: str = "patches",
) -> Float[Array, "features out_height out_width batch"]:
    """Convolution without bias, SAME padding, equal to `flax.linen.Conv` up to the order of the axes.

    Args:
        x: images with the batch last.
        kernel: as `flax.linen.Conv` keeps it.
        stride: in pixels, the same both ways.
        form: `patches`, one matrix product over shifted slices; or `xla`, the backend's own convolution.
    """
    if form == "xla":
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("CHWN", "HWIO", "CHWN"))
    size, _, channels, features = kernel.shape
    columns = _patches(x, size, stride)
    product = kernel.reshape(size * size * channels, features).T @ columns.reshape(columns.shape[0], -1)
    return product.reshape(features, *columns.shape[1:])


class Convolution(nn.Module):
    """`flax.linen.Conv(features, (size, size), strides=stride, use_bias=False)` on `[channels, height, width, batch]`.

    Same parameter (`kernel`), same shape, same initialisation range, same outputs.

    Attributes:
        features: output channels.
        size: kernel height and width in pixels.
        stride: in pixels.
        form: see `convolve`.
    """

    features: int
    size: int = 3
    stride: int = 1
    form: str = "patches"

    @nn.compact
    def __call__(self, x: Float[Array, "channels height width batch"]) -> Float[Array, "features out_height out_width batch"]:
        """Convolve."""
        kernel = self.param("kernel", nn.initializers.he_normal(), (self.size, self.size, x.shape[0], self.features))
        return convolve(x, kernel, self.stride, self.form)
