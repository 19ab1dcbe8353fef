"""Selections of weights: masks over the params, as trees of booleans."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from unlearn_jax.models.paths import marked
from unlearn_jax.types import Model, Params


def smallest(tree: Params, share: float | Array, *, among: Any, each: bool) -> Params:
    """True for the `share` of entries with the smallest magnitude, rounded to a whole number and exact despite ties.

    Of equal entries the first are taken, in the order of the tree and of each array.

    Args:
        tree: of arrays.
        share: of the entries, in [0, 1]; it may be traced.
        among: one boolean per array, not traced: whether its entries may be selected.
        each: select that share in every array, or (False) of all arrays together.
    """
    leaves, structure = jax.tree.flatten(tree)
    part = [number for number, takes_part in enumerate(jax.tree.leaves(among)) if takes_part]
    sizes = np.array([leaves[number].size for number in part])
    group = np.repeat(np.arange(len(part)), sizes) if each else np.zeros(sizes.sum(), int)
    held = np.bincount(group)
    magnitude = jnp.abs(jnp.concatenate([jnp.ravel(leaves[number]) for number in part]))
    _, _, order = jax.lax.sort((jnp.asarray(group), magnitude, jnp.arange(len(group))), num_keys=2)  # one sort for all arrays
    rank = np.arange(len(group)) - np.repeat(np.cumsum(held) - held, held)  # within the group
    chosen = jnp.zeros(len(group), bool).at[order].set(rank < jnp.round(share * held)[group])
    masks = [jnp.zeros(leaf.shape, bool) for leaf in leaves]
    for number, mask in zip(part, jnp.split(chosen, np.cumsum(sizes)[:-1]), strict=True):
        masks[number] = mask.reshape(leaves[number].shape)
    return jax.tree.unflatten(structure, masks)


def convolutions(model: Model, params: Params, first: bool = False) -> Any:
    """True for the kernels of all convolutions, or of the first alone; one boolean per array."""
    return marked(params, (model.convolutions or ())[: 1 if first else None])


def unnormalising(model: Model, params: Params) -> Any:
    """True for all arrays outside normalisation layers; one boolean per array."""
    return jax.tree.map(lambda normalises: not normalises, marked(params, model.norms or ()))
