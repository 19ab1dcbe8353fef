"""A convolution that stays fast when it is batched over models.

`vmap` over kernels turns XLA's convolution into a grouped one, and a loop around it falls to a slow path on the CPU
(jax#12868, jax#13800). Written as a matrix product over shifted slices it stays a (batched) matrix product.
The network inside works on `[channels, height, width, batch]`: the product then reads and writes contiguous rows.
"""

import functools
import math
import operator
from collections.abc import Sequence
from contextlib import AbstractContextManager

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unlearn_jax.models.grouped import grouped

FORMS = ("products", "patches", "grouped", "xla")
PADDINGS = ("same", "torch")
# GPUs get `grouped`, by the bytes and kernels of the compiled step (docs/performance.md); not yet measured.
FASTEST = {"cpu": "products"}
# From these sizes on `products` saves multiplications; below, it gains less than it costs to compile (docs/performance.md).
BATCH = 16  # for fewer images, above all for gradients of single examples, transforming the kernel costs more than it saves
CHANNELS = 8  # of the input, for Winograd's form
SIZE = 2**14  # channels x features x height x width, for Winograd's form
# F(rows, 3): the transforms of image rows, of kernel rows, and of their products (Lavin and Gray).
WINOGRAD = {
    2: (
        ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
        ((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
    4: (
        (
            (4, 0, -5, 0, 1, 0),
            (0, -4, -4, 1, 1, 0),
            (0, 4, -4, -1, 1, 0),
            (0, -2, -1, 2, 1, 0),
            (0, 2, -1, -2, 1, 0),
            (0, 4, 0, -5, 0, 1),
        ),
        (
            (1 / 4, 0, 0),
            (-1 / 6, -1 / 6, -1 / 6),
            (-1 / 6, 1 / 6, -1 / 6),
            (1 / 24, 1 / 12, 1 / 6),
            (1 / 24, -1 / 12, 1 / 6),
            (0, 0, 1),
        ),
        ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
    ),
}


def fastest() -> str:
    """The form for the backend in use, batched over members: measured on CPUs, from counts on GPUs."""
    return FASTEST.get(jax.default_backend(), "grouped")


def _zeros(length: int, size: int, stride: int, padding: str) -> tuple[int, int]:
    """The zeros before and after `length` pixels; `ceil(length / stride)` outputs follow from either padding."""
    total = (-(-length // stride) - 1) * stride + size - length
    before = max(total, 0) // 2 if padding == "same" else size // 2
    return before, max(total - before, 0)


def _patches(x: Array, size: int, stride: int, padding: str) -> Array:
    """`[channels, height, width, batch] -> [size * size * channels, out_height, out_width, batch]`."""
    _, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), _zeros(height, size, stride, padding), _zeros(width, size, stride, padding), (0, 0)))
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
    padding: str = "same",
) -> Float[Array, "features out_height out_width batch"]:
    """Convolution without bias, equal to `flax.linen.Conv` up to the order of the axes and rounding.

    Args:
        x: images with the batch last.
        kernel: as `flax.linen.Conv` keeps it.
        stride: in pixels, the same both ways.
        form: `patches`, one matrix product over shifted slices; `products`, the same, but with fewer multiplications where the
            shape allows it, see `_windows` and `_winograd`; `xla`, the backend's own convolution; or `grouped`, the same as one
            grouped convolution for all members, gradients included.
        padding: `same`, as Flax and TensorFlow have it: with a stride of 2 on an even length one zero after the last pixel; or
            `torch`, as `torch.nn.Conv2d` has it with a padding of half the size: one before the first. With a stride of 1, or on
            an odd length, they are the same.

    Raises:
        ValueError: unknown form or padding.
    """
    if form not in FORMS:
        raise ValueError(f"form {form!r}: expected one of {', '.join(FORMS)}")
    if padding not in PADDINGS:
        raise ValueError(f"padding {padding!r}: expected one of {', '.join(PADDINGS)}")
    size, _, channels, features = kernel.shape
    _, height, width, batch = x.shape
    if form == "grouped":
        return grouped(x[None], kernel[None], stride, [_zeros(length, size, stride, padding) for length in (height, width)])[0]
    if form == "xla":
        zeros = "SAME" if padding == "same" else [_zeros(length, size, stride, padding) for length in (height, width)]
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), zeros, dimension_numbers=("CHWN", "HWIO", "CHWN"))
    if form == "products" and size == 3 and batch >= BATCH:
        if max(height, width) <= 2 * stride:
            return _windows(x, kernel, stride, padding)
        if stride == 1 and height > 2 and channels >= CHANNELS and channels * features * height * width >= SIZE:
            return _winograd(x, kernel, 4 if height == 4 else 2)  # on eight rows, two at a time are as fast and compile sooner
    return _product(kernel, _patches(x, size, stride, padding))


def _product(kernel: Array, columns: Array) -> Array:
    """`[..., features]`, `[rows, height, width, batch] -> [features, height, width, batch]`, summed over the rows."""
    features, (rows, *rest) = kernel.shape[-1], columns.shape
    return (kernel.reshape(rows, features).T @ columns.reshape(rows, math.prod(rest))).reshape(features, *rest)


def counted_as(definition: int, done: int) -> AbstractContextManager:
    """Marks products that compute a convolution of `definition` multiplications with only `done`.

    `training.cost.flops` counts the former, so that the cost does not depend on the form. The mark is in the names of the
    operations, which survive differentiation and batching.
    """
    return jax.named_scope(f"counted_as_{definition}_for_{done}")


def _windows(x: Array, kernel: Array, stride: int, padding: str) -> Array:
    """For at most 2x2 outputs: one product for each, of the pixels that it sees with that part of the kernel.

    Patches would be five ninths zeros on an image of 2x2 pixels, and a third on one of 4x4 with a stride of 2.
    """
    size, _, _, features = kernel.shape
    pixels = jnp.transpose(x, (1, 2, 0, 3))
    rows, columns = (_seen(length, size, stride, padding) for length in x.shape[1:3])
    seen = [sum(pixel.stop - pixel.start for pixel, _ in along) for along in (rows, columns)]
    with counted_as(size**2 * len(rows) * len(columns), math.prod(seen)):
        outputs = [
            kernel[kernel_row, kernel_column].reshape(-1, features).T @ pixels[row, column].reshape(-1, x.shape[3])
            for row, kernel_row in rows
            for column, kernel_column in columns
        ]
    return jnp.stack(outputs, axis=1).reshape(features, len(rows), len(columns), x.shape[3])


def _seen(length: int, size: int, stride: int, padding: str) -> list[tuple[slice, slice]]:
    """For each output along an axis: which pixels it sees, and through which part of the kernel."""
    starts = [output * stride - _zeros(length, size, stride, padding)[0] for output in range(-(-length // stride))]
    return [(slice(max(at, 0), min(at + size, length)), slice(max(-at, 0), min(length - at, size))) for at in starts]


def _winograd(x: Array, kernel: Array, rows: int) -> Array:
    """F(rows, 3) along the height (Lavin and Gray 2015, arXiv 1509.09308): four products for two rows, or six for four.

    Along the width it uses patches, a third as many for each product.
    """
    of_image, of_kernel, of_products = WINOGRAD[rows]
    _, height, width, _ = x.shape
    tiles = -(-height // rows)
    padded = jnp.pad(x, ((0, 0), (1, 1 + tiles * rows - height), (1, 1), (0, 0)))
    image = _combined(of_image, [padded[:, row : row + rows * (tiles - 1) + 1 : rows] for row in range(rows + 2)])
    with counted_as(3 * height, (rows + 2) * tiles):
        products = [
            _product(part, jnp.concatenate([seen[:, :, j : j + width] for j in range(3)]))
            for part, seen in zip(_combined(of_kernel, list(kernel)), image, strict=True)
        ]
    whole = jnp.stack(_combined(of_products, products), axis=2)
    return whole.reshape(whole.shape[0], tiles * rows, *whole.shape[3:])[:, :height]


def _combined(factors: Sequence[Sequence[int | float]], terms: list[Array]) -> list[Array]:
    """The matrix `factors` times `terms`."""
    return [functools.reduce(operator.add, [f * t for f, t in zip(row, terms, strict=True) if f]) for row in factors]


class Convolution(nn.Module):
    """`flax.linen.Conv(features, (size, size), strides=stride, use_bias=False)` on `[channels, height, width, batch]`.

    Same parameter (`kernel`), same shape, same initialisation range, same outputs up to rounding.

    Attributes:
        features: output channels.
        size: kernel height and width in pixels.
        stride: in pixels.
        form: see `convolve`.
        padding: see `convolve`.
    """

    features: int
    size: int = 3
    stride: int = 1
    form: str = "products"
    padding: str = "same"

    @nn.compact
    def __call__(self, x: Float[Array, "channels height width batch"]) -> Float[Array, "features out_height out_width batch"]:
        """Convolve."""
        kernel = self.param("kernel", nn.initializers.he_normal(), (self.size, self.size, x.shape[0], self.features))
        return convolve(x, kernel, self.stride, self.form, self.padding)
