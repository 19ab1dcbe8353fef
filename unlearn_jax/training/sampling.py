"""Random batches: which rows each step sees."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from unlearn_jax.types import Key


def steps_in_pass(count: int, batch_size: int) -> int:
    """Whole batches in one pass over `count` rows, at least one; leftover rows are skipped in that pass."""
    return max(count // batch_size, 1)


class Source(NamedTuple):
    """Rows to draw from, and how often."""

    mask: Bool[Array, " examples"]
    size: int  # rows that the mask keeps; if it is more, rows repeat
    steps: int  # batches wanted


def draw(key: Key, sources: Sequence[Source], batch_size: int) -> list[Int[Array, "steps batch"]]:
    """Rows for the batches of several sources, drawn in passes: each pass is a permutation, cut into whole batches.

    Sorting one stream of random bits shuffles all sources: a generator for each pass, as in `jax.random.permutation`, takes
    longer to compile than a small network's training step.

    Args:
        key: for the permutations.
        sources: what to draw from.
        batch_size: rows in a batch; all of a source that has fewer.
    """
    if not sources:
        return []
    passes = [-(-source.steps // steps_in_pass(source.size, batch_size)) for source in sources]
    bits = jnp.split(jax.random.bits(key, (sum(passes), len(sources[0].mask)), "uint32"), np.cumsum(passes)[:-1])
    rows = []
    for source, source_bits in zip(sources, bits, strict=True):
        size = min(batch_size, source.size)
        again = jnp.arange(steps_in_pass(source.size, batch_size) * size) % jnp.sum(source.mask)
        order = _shuffled(source_bits, source.mask)[:, again]
        rows.append(order.reshape(-1, size)[: source.steps].astype(jnp.int32))
    return rows


def subset(key: Key, mask: Bool[Array, " examples"], count: int) -> Bool[Array, " examples"]:
    """`count` rows of those that `mask` keeps, uniformly without replacement."""
    order = _shuffled(jax.random.bits(key, (1, len(mask)), "uint32"), mask)[0]
    return jnp.zeros_like(mask).at[order[:count]].set(True)


def _shuffled(bits: UInt32[Array, "passes examples"], mask: Bool[Array, " examples"]) -> Int[Array, "passes examples"]:
    """Permutations of all rows in which those that `mask` keeps come first; equal bits (of 2^31) keep their order."""
    return jnp.argsort(jnp.where(mask[None], bits >> 1, jnp.uint32(2**32 - 1)), axis=1)
