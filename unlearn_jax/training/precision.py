"""Float32 matrix products, whatever the device takes by default."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

Given = ParamSpec("Given")
Result = TypeVar("Result")


def precise(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Computes a function's matrix products in float32: GPUs from Ampere on take TF32 by default, which keeps 10 bits.

    For what solves equations, takes differences of close numbers, or counts as exact. A function that is compiled is decorated
    inside: the products are marked when it is traced.
    """

    @functools.wraps(function)
    def precisely(*arguments: Given.args, **options: Given.kwargs) -> Result:
        with jax.default_matmul_precision("highest"):
            return function(*arguments, **options)

    return precisely
