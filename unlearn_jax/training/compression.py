"""Smaller models: weights rounded to few bits, or the smallest set to 0. What unlearning hid may come back under either."""

from collections.abc import Callable

import jax
import numpy as np

from unlearn_jax.types import Variables


def rounded(variables: Variables, bits: int) -> Variables:
    """Rounds every kernel to `2^bits - 1` evenly spaced values from minus to plus its largest weight.

    Round to nearest, symmetric, one scale for each array of each model. Biases, normalisation layers and statistics stay.

    Args:
        variables: with a leading axis of members.
        bits: 2 or more.

    Raises:
        ValueError: fewer than 2 bits.

    Source: rounding as an attack on unlearning: arXiv:2605.02196, whose text could not be read; this is the plain form.
    """
    if bits < 2:
        raise ValueError(f"bits: {bits} found, expected 2 or more")
    levels = 2 ** (bits - 1) - 1

    def nearest(kernel: np.ndarray) -> np.ndarray:
        step = np.abs(kernel).max(axis=tuple(range(1, kernel.ndim)), keepdims=True) / levels
        return (np.round(kernel / np.where(step > 0, step, 1)) * step).astype(kernel.dtype)

    return _on_kernels(variables, nearest)


def pruned(variables: Variables, share: float) -> Variables:
    """Sets the smallest weights of each model to 0, a share of all weights in its kernels together.

    Args:
        variables: with a leading axis of members.
        share: of the weights, in 0..1.

    Raises:
        ValueError: a share outside 0..1.

    Source: magnitude pruning, Han et al., arXiv:1506.02626.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: {share} found, expected 0 to 1")
    kernels = [np.asarray(leaf) for leaf in jax.tree.leaves(variables.params) if _is_kernel(leaf)]
    sizes = np.concatenate([np.abs(kernel).reshape(len(kernel), -1) for kernel in kernels], axis=1)
    count = round(share * sizes.shape[1])
    if not count:
        return variables
    largest = np.partition(sizes, count - 1, axis=1)[:, count - 1]  # of those that go

    def without(kernel: np.ndarray) -> np.ndarray:
        return np.where(np.abs(kernel) > largest.reshape(-1, *[1] * (kernel.ndim - 1)), kernel, 0).astype(kernel.dtype)

    return _on_kernels(variables, without)


def _is_kernel(leaf: np.ndarray) -> bool:
    return np.ndim(leaf) > 2  # of one model: two axes or more


def _on_kernels(variables: Variables, change: Callable[[np.ndarray], np.ndarray]) -> Variables:
    changed = jax.tree.map(lambda leaf: change(np.asarray(leaf)) if _is_kernel(leaf) else leaf, variables.params)
    return variables._replace(params=changed)
