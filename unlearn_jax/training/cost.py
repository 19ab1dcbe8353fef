"""Cost on any hardware: floating-point operations, counted from the jaxpr."""

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params

from unlearn_jax.models.grouped import COMPUTED
from unlearn_jax.training.objectives import Batch, cross_entropy
from unlearn_jax.types import Model, Problem, Variables

COUNTED_AS = re.compile(r"counted_as_(\d+)_for_(\d+)")


def flops(function: Callable[..., Any], *arguments: Any) -> float:
    """The multiplications and additions in matrix products and convolutions of one call; everything else is left out.

    A convolution counts by its definition, in whatever form it is computed (`models.convolution.counted_as`). A loop counts once
    per iteration (a `while` of unknown length once), a switch as its most expensive branch.

    Args:
        function: anything that JAX can trace.
        arguments: arrays, trees of them, or `jax.ShapeDtypeStruct` in their place.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def example_flops(problem: Problem) -> float:
    """The `flops` of seeing one training example once, forward and backward."""
    images = problem.train.images
    return _example_flops(problem.model, images.shape[1:], images.dtype)


@functools.lru_cache(maxsize=32)
def _example_flops(model: Model, shape: tuple[int, ...], dtype: Any) -> float:
    images, labels = jax.ShapeDtypeStruct((2, *shape), dtype), jax.ShapeDtypeStruct((2,), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def loss(params, statistics, images, labels):
        key = jax.random.key(0)
        logits, _ = model.apply(Variables(params, statistics), images, train=True, **model.keyed(key))
        return jnp.mean(cross_entropy(logits, Batch(images, labels, labels, key)))

    return flops(jax.grad(loss), variables.params, variables.statistics, images, labels) / 2


def _count(jaxpr: Any) -> float:
    return sum((_operations(equation) for equation in jaxpr.eqns), start=0.0)


def _operations(equation: Any) -> float:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        operations = 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
        marked = COUNTED_AS.search(str(equation.source_info.name_stack))
        return operations * int(marked[1]) / int(marked[2]) if marked else operations
    if name == "conv_general_dilated":
        kernel, numbers = equation.invars[1].aval.shape, parameters["dimension_numbers"]
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / kernel[numbers.rhs_spec[0]]
    if name in COMPUTED:
        compute = functools.partial(COMPUTED[name], **parameters)
        return _count(jax.make_jaxpr(compute)(*(operand.aval for operand in equation.invars)).jaxpr)
    inner = [_count(part) for part in jaxprs_in_params(parameters)]
    if name == "cond":
        return max(inner)
    return sum(inner, start=0.0) * (parameters["length"] if name == "scan" else 1)
