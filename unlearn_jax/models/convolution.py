"""A convolution that stays fast when it is batched over models.

`vmap` over kernels turns XLA's convolution into a grouped one, and a loop around it falls to a slow path on the CPU
(jax#12868, jax#13800). Written as a matrix product over shifted slices it stays a (batched) matrix product.
The network inside works on `[channels, height, width, batch]`: the product then reads and writes contiguous rows.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FORMS = ("products", "patches", "xla")
# GPUs get `xla`, unmeasured: benchmarks/strategies.py is to say.
FASTEST = {"cpu": "products"}
# `products` takes Winograd's form from here on; below, it saves less than it costs to compile (benchmarks/roofline.py).
CHANNELS = 8  # of the input
MULTIPLICATIONS = 2**14  # channels x features x height x width


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
    form: str = "products",
) -> Float[Array, "features out_height out_width batch"]:
    """Convolution without bias, SAME padding, equal to `flax.linen.Conv` up to the order of the axes and rounding.

    Args:
        x: images with the batch last.
        kernel: as `flax.linen.Conv` keeps it.
        stride: in pixels, the same both ways.
        form: `patches`, one matrix product over shifted slices; `products`, the same, but with fewer multiplications where the
            shape allows it, see `_whole` and `_winograd`; or `xla`, the backend's own convolution.

    Raises:
        ValueError: unknown form.
    """
    if form not in FORMS:
        raise ValueError(f"form {form!r}: there is {', '.join(FORMS)}")
    if form == "xla":
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("CHWN", "HWIO", "CHWN"))
    size, _, channels, features = kernel.shape
    _, height, width, _ = x.shape
    if form == "products" and size == 3:
        if max(height, width) <= 2:
            return _whole(x, kernel, stride)
        if stride == 1 and channels >= CHANNELS and channels * features * height * width >= MULTIPLICATIONS:
            return _winograd(x, kernel)
    return _product(kernel, _patches(x, size, stride))


def _product(kernel: Array, columns: Array) -> Array:
    """`[..., features]`, `[rows, height, width, batch] -> [features, height, width, batch]`, summed over the rows."""
    product = kernel.reshape(columns.shape[0], -1).T @ columns.reshape(columns.shape[0], -1)
    return product.reshape(-1, *columns.shape[1:])


def _whole(x: Array, kernel: Array, stride: int) -> Array:
    """Of maps of at most 2x2 pixels: each output sees each pixel, so one product with the kernel laid out does without zeros.

    Patches of 2x2 pixels are zeros for five ninths, of a single pixel for eight.
    """
    _, height, width, batch = x.shape
    out_height, out_width = -(-height // stride), -(-width // stride)
    top, left = _same_padding(height, 3, stride)[0], _same_padding(width, 3, stride)[0]
    seen = [
        kernel[top - i * stride :, left - j * stride :][:height, :width].reshape(-1, kernel.shape[3])
        for i in range(out_height)
        for j in range(out_width)
    ]
    pixels = jnp.transpose(x, (1, 2, 0, 3)).reshape(-1, batch)
    product = jnp.concatenate(seen, axis=1).T @ pixels
    return jnp.transpose(product.reshape(out_height, out_width, -1, batch), (2, 0, 1, 3))


def _winograd(x: Array, kernel: Array) -> Array:
    """Two rows at a time by four products in place of six, F(2, 3) along the height (Lavin and Gray 2015, arXiv 1509.09308).

    Along the width it is patches still, of which there are two thirds as many.
    """
    _, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1 + height % 2), (1, 1), (0, 0)))
    pairs = -(-height // 2)
    first, second, third, fourth = (padded[:, row : row + 2 * pairs - 1 : 2] for row in range(4))
    above, centre, below = kernel
    rows = (first - third, second + third, third - second, second - fourth)
    kernels = (above, (above + centre + below) / 2, (above - centre + below) / 2, below)
    a, b, c, d = (
        _product(part, jnp.concatenate([row[:, :, j : j + width] for j in range(3)]))
        for part, row in zip(kernels, rows, strict=True)
    )
    both = jnp.stack([a + b + c, b - c - d], axis=2)
    return both.reshape(both.shape[0], 2 * pairs, *both.shape[3:])[:, :height]


class Convolution(nn.Module):
    """`flax.linen.Conv(features, (size, size), strides=stride, use_bias=False)` on `[channels, height, width, batch]`.

    Same parameter (`kernel`), same shape, same initialisation range, same outputs up to rounding.

    Attributes:
        features: output channels.
        size: kernel height and width in pixels.
        stride: in pixels.
        form: see `convolve`.
    """

    features: int
    size: int = 3
    stride: int = 1
    form: str = "products"

    @nn.compact
    def __call__(self, x: Float[Array, "channels height width batch"]) -> Float[Array, "features out_height out_width batch"]:
        """Convolve."""
        kernel = self.param("kernel", nn.initializers.he_normal(), (self.size, self.size, x.shape[0], self.features))
        return convolve(x, kernel, self.stride, self.form)
