"""Which rows a step sees."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from unlearn_jax.types import Key


def steps_in_pass(count: int, batch_size: int) -> int:
    """Whole batches in one pass over `count` rows, at least one; the rows left over sit that pass out."""
    return max(count // batch_size, 1)


def draw(key: Key, mask: Bool[Array, " examples"], count: int, steps: int, batch_size: int) -> Int[Array, "steps batch"]:
    """Rows of `steps` batches, drawn in passes: each pass is a new permutation of the rows, cut into whole batches.

    Args:
        key: for the permutations.
        mask: the rows to draw from.
        count: how many rows `mask` keeps (static).
        steps: batches.
        batch_size: rows in a batch; `count` where that is smaller.
    """
    rows = jnp.nonzero(mask, size=count)[0]
    batch_size = min(batch_size, count)
    per_pass = steps_in_pass(count, batch_size)
    passes = -(-steps // per_pass)
    orders = jax.vmap(lambda k: jax.random.permutation(k, rows))(jax.random.split(key, passes))
    batches = orders[:, : per_pass * batch_size].reshape(passes * per_pass, batch_size)
    return batches[:steps].astype(jnp.int32)


def subset(key: Key, mask: Bool[Array, " examples"], count: int) -> Bool[Array, " examples"]:
    """`count` rows of those that `mask` keeps, uniformly without replacement."""
    order = jnp.argsort(jnp.where(mask, jax.random.uniform(key, mask.shape), 2.0))
    return jnp.zeros_like(mask).at[order[:count]].set(True) & mask
