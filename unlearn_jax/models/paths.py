"""Parts of a tree of parameters by their paths, such as `stage1_block1/conv1/kernel`: keys from the top, joined by slashes."""

from collections.abc import Iterable
from typing import Any

import jax

from unlearn_jax.types import Params


def at(params: Params, path: str) -> Any:
    """The array, or the group, at a path.

    Raises:
        KeyError: there is none.
    """
    for name in path.split("/"):
        params = params[name]
    return params


def arrays(params: Params) -> dict[str, Any]:
    """The leaves by their paths, in the order of the tree."""
    return {_named(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def replaced(params: Params, changed: dict[str, Any]) -> Params:
    """The params with the arrays at some paths replaced."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: changed.get(_named(path), leaf), params)


def nested(leaves: dict[str, Any]) -> Params:
    """The tree that holds these leaves at their paths and nothing else."""
    tree: Params = {}
    for path, leaf in leaves.items():
        *groups, name = path.split("/")
        inside = tree
        for group in groups:
            inside = inside.setdefault(group, {})
        inside[name] = leaf
    return tree


def marked(params: Params, paths: Iterable[str]) -> Any:
    """True for the arrays at or below one of the paths; one boolean per array."""
    prefixes = tuple(paths)
    return jax.tree_util.tree_map_with_path(lambda path, _: any(f"{_named(path)}/".startswith(f"{p}/") for p in prefixes), params)


def _named(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
