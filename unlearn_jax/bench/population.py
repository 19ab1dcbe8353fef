"""Models made alike. Those that diverged are left out, n counts the rest, and too few stop a run before methods are trained."""

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

import jax
import numpy as np

from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.options import Training
from unlearn_jax.metrics import Evaluation, Reference, score
from unlearn_jax.metrics.views import Extra
from unlearn_jax.training.pools import diverged
from unlearn_jax.types import Cube, Variables

NULL = 4  # oracles of the smallest null: two against two
Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class Population:
    """Models made alike, all of them finite: `population` leaves out those that diverged.

    Attributes:
        variables: theirs, with a leading axis of models.
        cube: their logits.
        lost: the numbers of those that diverged, among all that were made.
    """

    variables: Variables
    cube: Cube
    lost: tuple[int, ...]

    @property
    def members(self) -> int:
        """How many are left."""
        return len(self.cube.forget)


def population(variables: Variables, cube: Cube, lost: Iterable[int] = ()) -> Population:
    """The models whose variables and logits are finite.

    Args:
        variables: of all models.
        cube: of all models.
        lost: models that count as lost whatever they hold, such as those made from an original that diverged.
    """
    gone = tuple(sorted({*diverged((variables, cube)), *lost}))
    return Population(without(variables, gone), without(cube, gone), gone)


def lost_members(config: Training, role: str, models: Any, needed: int) -> tuple[int, ...]:
    """The members of a population that diverged.

    Args:
        config: whose learning rate is to blame.
        role: what the population is, for the message.
        models: what is known of them, such as variables and logits: a tree whose leaves have a leading axis of members.
        needed: members that have to be left.

    Raises:
        UsageError: fewer are left.
    """
    lost, members = diverged(models), len(jax.tree.leaves(models)[0])
    said = f"{len(lost)} of {members} {role} models diverged and at least {needed} are needed; expected a smaller number"
    require(members - len(lost) >= needed, "--train.learning-rate", config.train.learning_rate, said)
    return lost


def without(tree: Tree, lost: tuple[int, ...]) -> Tree:
    """Members of a tree (of weights, or of logits) without those that diverged."""
    return jax.tree.map(lambda leaf: np.delete(leaf, lost, axis=0), tree)


def first(tree: Tree, count: int) -> Tree:
    """The first members of a tree."""
    return jax.tree.map(lambda leaf: leaf[:count], tree)


def comparable(members: int, oracles: int) -> int:
    """How many of so many models can be compared with so many oracles: n against n, and a null of n against n."""
    return min(members, oracles // 2)


def score_alive(
    cube: Cube, yardstick: Reference, groups: np.ndarray | None = None, extra: Extra | None = None
) -> tuple[Evaluation | None, int]:
    """The scores of models that did not diverge, of the first n of them where the oracles suffice for no more.

    Args:
        cube: their logits.
        yardstick: the oracles that did not diverge; its n is what these suffice for.
        groups: see `metrics.score`.
        extra: see `metrics.score`.

    Returns:
        The scores, None of fewer than two models, and n.
    """
    n = min(len(cube.forget), yardstick.n)
    if n < 2:
        return None, n
    groups, extra = groups if groups is None else groups[:n], {name: values[:n] for name, values in (extra or {}).items()}
    return score(first(cube, n), yardstick, groups, extra), n
