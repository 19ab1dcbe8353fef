"""XLA's own convolution for many members at once: one grouped convolution, whose gradients stay small convolutions.

`vmap` of a weight gradient slides the output's gradient over the image, as one huge window, for which cuDNN has no fast
algorithm. The weight gradient of a *grouped* convolution is cuDNN's backward filter. So the three products of a convolution are
primitives here, and batching adds groups to each. Each is linear in both operands; its derivatives are the other two.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float


def grouped(
    x: Float[Array, "groups channels height width batch"],
    kernel: Float[Array, "groups size size channels features"],
    stride: int,
    zeros: Sequence[tuple[int, int]],
) -> Float[Array, "groups features out_height out_width batch"]:
    """The convolution of every group with its own kernel, without bias.

    Args:
        x: images, the batch last.
        kernel: one for each group.
        stride: in pixels, the same both ways.
        zeros: before and after the rows, and the columns.
    """
    return OUTPUT.bind(x, kernel, stride=stride, zeros=tuple(zeros), image=x.shape[2:4], size=kernel.shape[1])


def _output(x: Array, kernel: Array, *, stride: int, zeros: tuple, image: tuple[int, int], size: int) -> Array:
    groups, channels, height, width, batch = x.shape
    joined = jax.lax.conv_general_dilated(
        x.reshape(groups * channels, height, width, batch),
        jnp.moveaxis(kernel, 0, 3).reshape(size, size, channels, -1),
        (stride, stride),
        zeros,
        dimension_numbers=("CHWN", "HWIO", "CHWN"),
        feature_group_count=groups,
    )
    return joined.reshape(groups, -1, *joined.shape[1:])


def _image(slope: Array, kernel: Array, *, image: tuple[int, int], **how: Any) -> Array:
    """The gradient with respect to the images, from that of the output."""
    like = jax.ShapeDtypeStruct((len(kernel), kernel.shape[3], *image, slope.shape[-1]), slope.dtype)
    return jax.linear_transpose(lambda x: _output(x, kernel, image=image, **how), like)(slope)[0]


def _kernel(x: Array, slope: Array, *, size: int, **how: Any) -> Array:
    """The gradient with respect to the kernels, from that of the output."""
    like = jax.ShapeDtypeStruct((len(x), size, size, x.shape[1], slope.shape[1]), slope.dtype)
    return jax.linear_transpose(lambda kernel: _output(x, kernel, size=size, **how), like)(slope)[0]


COMPUTED: dict[str, Callable[..., Array]] = {}
"""What each primitive computes, by its name."""


def _primitive(compute: Callable[..., Array], shares_kernel: bool) -> Primitive:
    """`shares_kernel`: its second operand is a kernel, which more images may share."""
    primitive = Primitive(f"convolution{compute.__name__}")
    COMPUTED[primitive.name] = compute
    primitive.def_impl(jax.jit(compute, static_argnames=("stride", "zeros", "image", "size")))

    def abstract(*operands: Any, **how: Any) -> Any:
        shapes = [jax.ShapeDtypeStruct(operand.shape, operand.dtype) for operand in operands]
        result = jax.eval_shape(functools.partial(compute, **how), *shapes)
        return jax.core.ShapedArray(result.shape, result.dtype)

    def batch(operands: Sequence[Array], axes: Sequence[int | None], **how: Any) -> tuple[Array, int]:
        first, second = operands
        if shares_kernel and axes[1] is None:
            apart = jnp.moveaxis(first, axes[0] or 0, -1)
            result = primitive.bind(apart.reshape(*apart.shape[:-2], -1), second, **how)
            return result.reshape(*result.shape[:-1], *apart.shape[-2:]), result.ndim
        count = next(operand.shape[axis] for operand, axis in zip(operands, axes, strict=True) if axis is not None)
        both = [
            jnp.broadcast_to(operand, (count, *operand.shape)) if axis is None else jnp.moveaxis(operand, axis, 0)
            for operand, axis in zip(operands, axes, strict=True)
        ]
        result = primitive.bind(*(operand.reshape(-1, *operand.shape[2:]) for operand in both), **how)
        return result.reshape(count, -1, *result.shape[1:]), 0

    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(compute, multiple_results=False))
    return primitive


OUTPUT, IMAGE, KERNEL = _primitive(_output, True), _primitive(_image, True), _primitive(_kernel, False)
# With respect to each operand: which product of the cotangent and the other operand.
ad.defbilinear(OUTPUT, lambda g, _, kernel, **how: IMAGE.bind(g, kernel, **how), lambda g, x, _, **how: KERNEL.bind(x, g, **how))
ad.defbilinear(
    IMAGE, lambda g, _, kernel, **how: OUTPUT.bind(g, kernel, **how), lambda g, slope, _, **how: KERNEL.bind(g, slope, **how)
)
ad.defbilinear(KERNEL, lambda g, _, slope, **how: IMAGE.bind(slope, g, **how), lambda g, x, _, **how: OUTPUT.bind(x, g, **how))
