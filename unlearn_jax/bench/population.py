"""Models without those that diverged. If too few are left, the run stops before any method is trained."""

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

import jax
import numpy as np

from unlearn_jax import kept
from unlearn_jax.bench.options import Training
from unlearn_jax.errors import ArgumentError
from unlearn_jax.metrics import Evaluation, Reference, score
from unlearn_jax.metrics.views import Extra
from unlearn_jax.training.pools import diverged
from unlearn_jax.types import Cube, Variables

NULL = 4  # the fewest oracles for a null: two against two
Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class Population:
    """Models of one kind that did not diverge. Made by `population`.

    Attributes:
        variables: with a leading axis of models.
        cube: their logits.
        lost: the numbers of the models that diverged.
    """

    variables: Variables
    cube: Cube
    lost: tuple[int, ...]

    @property
    def members(self) -> int:
        """The number of models that are left."""
        return len(self.cube.forget)


def population(variables: Variables, cube: Cube, lost: Iterable[int] = ()) -> Population:
    """Returns the models whose variables and logits are finite.

    Args:
        variables: of all models.
        cube: of all models.
        lost: models to leave out in any case, such as those unlearned from an original that diverged.
    """
    lost = tuple(sorted({*diverged((variables, cube)), *lost}))
    return Population(without(variables, lost), without(cube, lost), lost)


def lost_members(config: Training, role: str, models: Any, needed: int) -> tuple[int, ...]:
    """Returns the members that diverged, and requires that enough others are left.

    Args:
        config: with the learning rate, which the message names.
        role: of the models, for the message.
        models: variables, logits or both: a tree whose leaves have a leading axis of members.
        needed: the fewest members to be left.

    Raises:
        ArgumentError: fewer than `needed` are left.
    """
    lost, members = diverged(models), len(jax.tree.leaves(models)[0])
    problem = f"{len(lost)} of {members} {role} models diverged and at least {needed} must be left; try a smaller learning rate"
    if members - len(lost) < needed:
        raise ArgumentError("learning_rate", config.train.learning_rate, problem)
    return lost


def without(tree: Tree, lost: tuple[int, ...]) -> Tree:
    """Drops members from a tree of weights or logits."""
    return jax.tree.map(lambda leaf: kept.without(leaf, lost), tree)


def first_members(tree: Tree, count: int) -> Tree:
    """Takes the first members of a tree; the tree itself if it has no more."""
    if all(len(leaf) == count for leaf in jax.tree.leaves(tree)):
        return tree
    return jax.tree.map(lambda leaf: leaf[:count], tree)


def comparable(members: int, oracles: int) -> int:
    """The largest n such that n members can be compared with n oracles, and n oracles with n others for the null."""
    return min(members, oracles // 2)


def score_alive(
    cube: Cube, reference: Reference, groups: np.ndarray | None = None, extra: Extra | None = None
) -> tuple[Evaluation | None, int]:
    """Scores models that did not diverge; only the first n of them if there are oracles for no more.

    Args:
        cube: their logits.
        reference: the oracles that did not diverge; its n is the most models that can be compared with them.
        groups: see `metrics.score`.
        extra: see `metrics.score`.

    Returns:
        The scores (None with fewer than two models), and n.
    """
    n = min(len(cube.forget), reference.n)
    if n < 2:
        return None, n
    groups, extra = groups if groups is None else groups[:n], {name: values[:n] for name, values in (extra or {}).items()}
    return score(first_members(cube, n), reference, groups, extra), n
