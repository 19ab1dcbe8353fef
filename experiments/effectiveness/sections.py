"""The section of a family: what it can do, where it fails, what it may see, what it costs, and for whom it is right."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from experiments.effectiveness.choices import NOTHING_DONE, Choice, as_dear, better, choices
from experiments.effectiveness.families import NOTHING, OTHER, RETRAIN, Family, family_of
from experiments.effectiveness.other import hypernetwork, stream
from experiments.effectiveness.tables import SPLITS, UNTUNED, Board, Result
from experiments.effectiveness.words import (
    agreeing,
    interval,
    listed,
    name,
    named,
    number,
    percent,
    sentence,
    share,
    wrapped,
)
from unlearn_jax.methods import METHODS
from unlearn_jax.metrics.effects import OUTCOMES

MUCH = 0.5  # of the memory left, or of damage
SHOWN = 3  # names in a list of methods; the rest is counted
ON = {"forget": "F", "retain": "R", "test": "the test set"}
OUTCOME = {
    OUTCOMES[0]: "*equivalent* to retraining",
    OUTCOMES[1]: "*not distinguished* from retraining",
    OUTCOMES[2]: "*different* from retraining",
    None: "without a verdict",
}
SEES = {
    "none": "nothing but the model",
    "data-free": "nothing but the model",
    "F": "F alone, so that R may be gone",
    "R": "R alone, so that F may be gone already",
    "F+R": "F and R",
    "R+test-like": "R, and held-out examples that the model was not trained on",
    "F+R+test-like": "F, R, and held-out examples that the model was not trained on",
}
MORE: dict[str, tuple[Callable[[Path, str], str], ...]] = {"data-free": (hypernetwork, stream)}


def section(family: Family, boards: Sequence[Board], findings: Path, links: str) -> Iterator[str]:
    """The paragraphs about a family.

    Args:
        family: with or without results.
        boards: leaderboards, the main one first.
        findings: the folder of the findings' tables.
        links: where the findings' pages lie, as the beginning of a link.
    """
    main = boards[0]
    measured = _of(main, family)
    if family is OTHER and not any(_of(board, family) for board in boards):
        return
    yield f"## {family.name}"
    yield wrapped(f"**What it does.** {family.does}")
    parts = {
        "What it can do": _can(family, boards) if measured else _elsewhere(family, boards, None),
        "Where it fails": _fails(family, main),
        "What a search for hyperparameters does": _searched(family, main),
        "What it may see": _sees(family),
        "What it costs": _costs(measured),
        "For whom it is right": _for_whom(family, main),
    }
    for heading, sentences in parts.items():
        if text := " ".join(sentences):
            yield wrapped(f"**{heading}.** {text}")
    yield from (wrapped(said) for write in MORE.get(family.short, ()) if (said := write(findings, links)))


def _of(board: Board, family: Family) -> list[Result]:
    return [each for each in board.results if family_of(each.method) is family and each.method != NOTHING]


def _approximate(board: Board, family: Family) -> list[Result]:
    return [each for each in _of(board, family) if each.method not in UNTUNED]


def _told(each: Result) -> str:
    return f"memory left {interval(each.memory)}, damage {interval(each.damage)}"


def _can(family: Family, boards: Sequence[Board]) -> Iterator[str]:
    main = boards[0]
    results, approximate = _of(main, family), _approximate(main, family)
    best = results[0]
    which = "one method was measured," if len(results) == 1 else f"the nearest of {len(results)} methods is"
    yield f"On {main.title} {which} {name(best.method)}: {_told(best)}. It is {OUTCOME[best.outcome]}."
    if best.method in UNTUNED and approximate:
        following = approximate[0]
        yield f"The nearest beside it is {name(following.method)}: {_told(following)}. It is {OUTCOME[following.outcome]}."
    if len(approximate) > 1:
        helping = [each.method for each in approximate if each.farthest < NOTHING_DONE]
        yield sentence(
            f"{share(len(helping), len(approximate), 'methods')} {agreeing(len(helping), 'be')} nearer to retraining than doing "
            f"nothing, intervals included{_some(helping, len(approximate))}"
        )
    yield from _elsewhere(family, boards[1:], best)
    if absent := [method for method in family.methods if main.get(method) is None]:
        yield f"Not on {main.title}: {named(absent)}."


def _elsewhere(family: Family, boards: Sequence[Board], best: Result | None) -> Iterator[str]:
    """The family's nearest on other leaderboards, and where the nearest of the main one is there."""
    for board in boards:
        results = _of(board, family)
        if not results:
            yield f"None of its methods was measured on {board.title}."
            continue
        first = results[0]
        there = best and board.get(best.method)
        more = f"; {name(there.method)} is there at {number(there.distance)}" if there and there.method != first.method else ""
        which = "" if len(results) == 1 else f"the nearest of {len(results)} is "
        yield f"On {board.title} {which}{name(first.method)}{' is' if not which else ','} at {number(first.distance)}{more}."


def _some(methods: Sequence[str], whole: int) -> str:
    """The names, unless there are none, or all."""
    return f" ({named(methods, SHOWN)})" if 0 < len(methods) < whole else ""


def _fails(family: Family, board: Board) -> Iterator[str]:
    results = _approximate(board, family)
    if not results:
        return
    if lost := [each.method for each in results if not math.isfinite(each.distance)]:
        yield f"Without finite numbers: {named(lost)}."
    results = [each for each in results if each.method not in lost]
    if not results:
        return
    best, worst = results[0], results[-1]
    if best.outcome != OUTCOMES[0]:
        yield f"What keeps {name(best.method)} from retraining is above all {_shortcoming(best)}."
    if best.accuracy:
        parts = [
            f"{percent(value)} of {ON[split]} (retrained models: {percent(best.retrained[split])})"
            for split, value in best.accuracy.items()
        ]
        yield f"Its models answer {listed(parts)} as labelled."
    if len(results) > 1:
        yield f"The farthest is {name(worst.method)}: {_told(worst)}."
        kept = [each.method for each in results if each.memory.value >= MUCH]
        harmed = [each.method for each in results if each.damage.value >= MUCH]
        yield sentence(
            f"{share(len(kept), len(results), 'methods')} {agreeing(len(kept), 'leave')} half of the memory or more"
            f"{_some(kept, len(results))}, and {share(len(harmed), len(results))} {agreeing(len(harmed), 'do')} damage of half "
            f"or more of what there is to forget{_some(harmed, len(results))}"
        )


def _shortcoming(each: Result) -> str:
    if abs(each.memory.value) >= each.damage.value:
        return "the memory that it leaves" if each.memory.value > 0 else "that it removes more than retraining does"
    split = max(SPLITS, key=lambda split: each.damage_on[split] if math.isfinite(each.damage_on[split]) else -math.inf)
    return f"its damage, which is largest on {ON[split]} ({number(each.damage_on[split])})"


def _searched(family: Family, board: Board) -> Iterator[str]:
    found = {method: board.searches[method] for method in family.methods if method in board.searches}
    if not found:
        return
    nearer = [method for method, each in found.items() if each.difference.high < 0]
    farther = [method for method, each in found.items() if each.difference.low > 0]
    first = min(found, key=lambda method: (found[method].tuned.value, method))
    tuned, default = found[first].tuned, found[first].default
    yield (
        f"On models and forget sets that the search did not see, {name(first)} is at a distance of {interval(tuned)} with what "
        f"was found, and at {interval(default)} with its authors' values."
    )
    if len(found) > 1:
        yield sentence(
            f"What was found is nearer than the authors' values for {share(len(nearer), len(found), 'methods')}, by more than "
            f"noise{_some(nearer, len(found))}, and farther for {share(len(farther), len(found))}{_some(farther, len(found))}"
        )
    if useless := [method for method, each in found.items() if each.worse]:
        yield f"Farther than doing nothing by more than noise, with the values that are used: {named(useless)}."


def _sees(family: Family) -> Iterator[str]:
    by_access: dict[str, list[str]] = {}
    for method in family.methods:
        if method in METHODS:
            by_access.setdefault(METHODS[method].access, []).append(method)
    if by_access:
        yield sentence("; ".join(f"{named(methods)}: {SEES[access]}" for access, methods in by_access.items()))


def _costs(results: Sequence[Result]) -> Iterator[str]:
    priced = sorted((each for each in results if math.isfinite(each.cost)), key=lambda each: each.cost)
    if retrain := next((each for each in priced if each.method == RETRAIN), None):
        took = number(retrain.cost)
        yield f"{name(RETRAIN)} is one retraining; timed as if it were a method, it took {took} of the time of one."
        priced.remove(retrain)
    if len(priced) == 1:
        yield f"{name(priced[0].method)} takes {number(priced[0].cost)} of the time of a retraining."
    elif priced:
        low, high = priced[0], priced[-1]
        yield (
            f"From {number(low.cost)} ({name(low.method)}) to {number(high.cost)} ({name(high.method)}) of the time of a "
            "retraining."
        )
        nearest = min(priced, key=lambda each: (each.distance, each.method))
        if nearest not in (low, high):
            yield f"{name(nearest.method)}, the nearest, takes {number(nearest.cost)}."
    if dear := [each.method for each in as_dear(priced)]:
        yield (
            f"{named(dear)} {agreeing(len(dear), 'need')} R and {agreeing(len(dear), 'cost')} as much as retraining or more, so "
            "that there is no reason not to retrain."
        )


def _for_whom(family: Family, board: Board) -> Iterator[str]:
    """A rule by the numbers: where the family has the nearest method, where none is better, or what is better."""
    results = _approximate(board, family)
    if board.get(RETRAIN) in _of(board, family):
        yield "Retraining is right for all who hold R and can pay for it, since it is what the others approximate."
    won: dict[str, list[Choice]] = {}
    for choice in choices(board):
        if choice.best and choice.helps and family_of(choice.best.method) is family:
            won.setdefault(choice.best.method, []).append(choice)
    for method, cells in won.items():
        where = "; ".join(f"who may see {choice.regime} and pay {price(choice.budgets)}" for choice in cells)
        distance = next(each.distance for each in results if each.method == method)
        yield f"{name(method)}, at {number(distance)}, is the nearest of all methods for {where}."
    if won or not results:
        return
    useful = [each for each in results if each.farthest < NOTHING_DONE]
    if not useful:
        yield "By these numbers for nobody: it has no method that is nearer to retraining than doing nothing, intervals included."
        return
    for each in useful:
        if better(board, each) is None:
            yield (
                f"{name(each.method)} is right for who can pay just what it costs ({number(each.cost)}): no method that sees and "
                f"costs as little is nearer than its {number(each.distance)}."
            )
            return
    best, rival = useful[0], better(board, useful[0])
    if rival:
        yield (
            f"By these numbers it is nobody's first choice: {name(rival.method)} ({family_of(rival.method).short}) sees and "
            f"costs no more than {name(best.method)} and is nearer, {number(rival.distance)} against {number(best.distance)}."
        )


def price(budgets: Sequence[float]) -> str:
    """What may be paid, in words."""
    last = budgets[-1]
    return "any price" if math.isinf(last) else "up to one retraining" if last == 1 else f"up to {last:g} of a retraining"
