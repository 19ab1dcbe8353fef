"""Which method to take: for what may be seen and paid, the nearest to retraining."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from experiments.effectiveness.tables import Board, Result

F, R, HELD_OUT = "F", "R", "test-like"
REGIMES: dict[str, frozenset[str]] = {
    "the model alone": frozenset(),
    "F": frozenset({F}),
    "R": frozenset({R}),
    "F and R": frozenset({F, R}),
    "F, R, held-out data": frozenset({F, R, HELD_OUT}),
}
BUDGETS = (0.1, 0.5, 1.0)  # in retrainings
NOTHING_DONE = 1.0  # the distance of doing nothing


class Choice(NamedTuple):
    """What to take.

    Attributes:
        regime: what may be seen, a key of `REGIMES`.
        budgets: what may be paid, in retrainings; all that lead to the same choice. Infinite: any price.
        best: the nearest method; None if no method sees and costs as little.
        helps: whether it is nearer than doing nothing by more than its intervals allow.
        level: other methods that see and cost as little, and whose intervals overlap with its own.
    """

    regime: str
    budgets: tuple[float, ...]
    best: Result | None
    helps: bool
    level: tuple[str, ...]


def seen(access: str) -> frozenset[str]:
    """What a method sees, from its access in the registry: none and data-free are nothing."""
    return frozenset(access.split("+")) & {F, R, HELD_OUT}


def suited(results: Iterable[Result], may_see: frozenset[str], budget: float) -> list[Result]:
    """The methods that see and cost no more; one whose cost is unknown counts as dear."""
    return [each for each in results if seen(each.access) <= may_see and (each.cost <= budget or budget == math.inf)]


def choices(board: Board) -> list[Choice]:
    """The choices of a leaderboard; neighbouring budgets with the same choice are one.

    Where R may be seen, budgets end at one retraining: beyond, there is no reason not to retrain.
    """
    found = []
    for regime, may_see in REGIMES.items():
        budgets = BUDGETS if R in may_see else (*BUDGETS, math.inf)
        each = [(budget, suited(board.methods, may_see, budget)) for budget in budgets]
        for _, same in itertools.groupby(each, key=lambda item: item[1][0].method if item[1] else None):
            group = list(same)
            found.append(_choice(regime, tuple(budget for budget, _ in group), group[-1][1]))
    return found


def _choice(regime: str, budgets: tuple[float, ...], candidates: Sequence[Result]) -> Choice:
    if not candidates:
        return Choice(regime, budgets, None, False, ())
    best, *others = candidates  # the board is in order of distance
    level = tuple(each.method for each in others if each.nearest <= best.farthest)
    return Choice(regime, budgets, best, best.farthest < NOTHING_DONE, level)


def better(board: Board, result: Result) -> Result | None:
    """The nearest method that sees no more, costs no more, and is nearer to retraining; None if there is none."""
    rivals = suited(board.methods, seen(result.access), result.cost)
    nearer = [each for each in rivals if each.distance < result.distance]
    return nearer[0] if nearer else None


def as_dear(methods: Iterable[Result]) -> Iterator[Result]:
    """The methods that see R and cost one retraining or more."""
    return (each for each in methods if R in seen(each.access) and each.cost >= 1)
