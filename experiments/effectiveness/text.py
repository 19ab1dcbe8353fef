"""The document: every sentence with a number is made from the tables, and so is every comparison."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.effectiveness import limits, other
from experiments.effectiveness.choices import NOTHING_DONE, Choice, F, choices, seen
from experiments.effectiveness.families import FAMILIES, NOTHING, OTHER, RETRAIN, family_of
from experiments.effectiveness.sections import OUTCOME, SHOWN, price, section
from experiments.effectiveness.tables import Board, read_boards
from experiments.effectiveness.words import (
    agreeing,
    bullet,
    interval,
    listed,
    name,
    named,
    number,
    plural,
    sentence,
    share,
    wrapped,
)
from unlearn_jax.metrics.agreement import FEWEST, rank_agreement
from unlearn_jax.metrics.catalogue import damage, memory_left
from unlearn_jax.metrics.effects import MARGIN, OUTCOMES
from unlearn_jax.report.tables import markdown, page

COMMAND = "python benchmark.py --exp effectiveness --docs docs"


class Evidence(NamedTuple):
    """What the document is made from.

    Attributes:
        findings: the folder of the findings' tables.
        boards: leaderboards, the main one first.
        left_out: a line for each table that is not used, with the reason.
    """

    findings: Path
    boards: list[Board]
    left_out: list[str]


class Links(NamedTuple):
    """Where other things lie, seen from the document: the figure, the table of all methods, the folder of findings."""

    figure: str
    table: str
    findings: str


def gather(findings: Path) -> Evidence:
    """Reads the tables of a folder of findings."""
    boards, left_out = read_boards(findings)
    absent = [f"{path}: absent" for path in (*limits.READ, *other.READ) if not (findings / path).is_file()]
    return Evidence(findings, boards, [*left_out, *absent])


def document(evidence: Evidence, links: Links) -> str:
    """The whole text; lines outside tables have at most `words.WIDE` characters."""
    findings, boards, _ = evidence
    return page(
        "# What can each family of methods do, where does it fail, and for whom is it right?",
        wrapped(_answer(boards[0])),
        f"![Every method by family: its distance from retraining]({links.figure})",
        wrapped(_caption(boards)),
        "## How to read this",
        "\n".join(map(bullet, _reading())),
        "## What the numbers come from",
        wrapped(
            f"`{COMMAND}` writes this page, its table and its figure from committed tables. No number, and no sentence that "
            "compares, is typed by hand."
        ),
        "\n".join(map(bullet, _sources(evidence, links))),
        *(paragraph for family in (*FAMILIES, OTHER) for paragraph in section(family, boards, findings, links.findings)),
        "## What to take",
        *_choices(boards, links),
        "## Limits of this evidence",
        "\n".join(map(bullet, [*_own_limits(boards), *limits.limits(findings, links.findings)])),
        "## All methods",
        *_tables(boards, links),
    )


def _answer(board: Board) -> str:
    """Two sentences: whether anything works, and what to do."""
    best, equivalent = board.methods[0], [each.method for each in board.methods if each.outcome == OUTCOMES[0]]
    makes = f"{agreeing(len(equivalent), 'make')} models that are equivalent to retrained ones"
    found = (
        f"{share(len(equivalent), len(board.methods), 'approximate methods')} measured on {board.title} {makes}"
        f"{f' ({named(equivalent, SHOWN)})' if equivalent else ''}; the nearest, {name(best.method)} "
        f"({family_of(best.method).short}), leaves {number(best.memory.value)} of what the original model remembers of the "
        f"forget set, does damage of {number(best.damage.value)}, and takes {number(best.cost)} of the time of a retraining."
    )
    retrain = board.get(RETRAIN)
    measured = f" (measured as if it were a method, it is {OUTCOME[retrain.outcome]})" if retrain else ""
    blind = next((each for each in board.methods if seen(each.access) <= {F}), None)
    if blind is None:
        others = "no method was measured that sees the forget set alone"
    elif blind.distance < NOTHING_DONE:
        others = (
            f"who may see the forget set alone comes no nearer to retraining than {number(blind.distance)} "
            f"({name(blind.method)}), where doing nothing is at 1"
        )
    else:
        others = "who may see the forget set alone has no method that is nearer to retraining than doing nothing"
    return f"**{sentence(found)} Who holds the retained data and can pay for one retraining should retrain{measured}; {others}.**"


def _caption(boards: Sequence[Board]) -> str:
    more = f" The second panel is {boards[1].title}." if len(boards) > 1 else ""
    return (
        f"*One mark for each method on {boards[0].title}: its distance from retraining, 0 as retraining and 1 as doing nothing. "
        "The colour says which of the two sizes is the larger, the shape what the method may see, the size of the mark what it "
        f"costs. The nearest of each family is named. What is beyond the axis stands at its end, with its distance.{more}*"
    )


def _reading() -> Iterator[str]:
    yield (
        "*Memory left*: the share of what the original models remember of the forget set F that is still there. 0 is as after "
        "retraining, 1 as if nothing had been done."
    )
    yield (
        "*Damage*: how far the models moved in other ways, on F, on the retained data R and on test data, as a share of what "
        "there is to forget. *Distance*: the larger of the size of the memory left and the damage. Doing nothing is at 1."
    )
    yield (
        f"*Equivalent*: both 95% intervals lie within {MARGIN:g} of retraining. *Not distinguished*: no metric tells the models "
        "from retrained ones with so many models. *Different*: some metric does."
    )
    yield "*Null*: what a perfect method would score with as many models, found by comparing retrained models with each other."
    yield (
        "*Cost*: time as a share of that of one retraining. Ranges in brackets are 95% intervals over models. *Held-out data*: "
        "examples like those of training that the model was not trained on."
    )


def _sources(evidence: Evidence, links: Links) -> Iterator[str]:
    for board in evidence.boards:
        models, oracles = board.counts
        yield (
            f"[{board.finding}]({links.findings}/{board.finding}.md): {board.title}, forget set {board.forget_set}; "
            f"{plural(len(board.methods), 'method')}, {models} models of each, held against {oracles} retrained models."
        )
    if evidence.left_out:
        yield f"Not used: {'; '.join(evidence.left_out)}."
    metrics, methods = (os.path.normpath(f"{links.findings}/../{page}.md") for page in ("metrics", "methods"))
    yield f"Definitions: [metrics]({metrics}), [methods]({methods})."


def _choices(boards: Sequence[Board], links: Links) -> Iterator[str]:
    yield wrapped(
        "For each kind of access and each price the table names the method that is nearest to retraining. *As good*: methods "
        "that see and cost as little and whose intervals overlap with its own, so that these models do not tell which is "
        "nearer. Where the nearest is not nearer than doing nothing, intervals included, the table says so. **Who may see R and "
        "can pay one retraining should retrain.**"
    )
    for board in boards:
        yield f"**{board.title}** ([{board.finding}]({links.findings}/{board.finding}.md))"
        headings = ("if you may see", "and can pay", "take", "family", "distance", "cost", "as good")
        yield markdown(headings, map(_row, choices(board)), left=(0, 1, 2, 3, 6))
    if carried := " ".join(_carried(boards)):
        yield wrapped(carried)


def _row(choice: Choice) -> list[str]:
    start = [choice.regime, price(choice.budgets)]
    if choice.best is None:
        return [*start, "no method was measured", "", "", "", ""]
    best = choice.best
    take = name(best.method) if choice.helps else f"nothing; the nearest is {name(best.method)}"
    level = named(choice.level, 2) if choice.level and choice.helps else ""
    return [*start, take, family_of(best.method).short, number(best.distance), number(best.cost), level]


def _carried(boards: Sequence[Board]) -> Iterator[str]:
    """Whether what is chosen on one leaderboard is chosen on the others, and whether methods come in the same order there."""
    first, *others = boards
    here = _chosen(first)
    for board in others:
        there = _chosen(board)
        both = [cell for cell in here if cell in there]
        if not both:
            continue
        same = sum(here[cell] == there[cell] for cell in both)
        yield (
            f"On {first.title} and on {board.title} the same method is named for {share(same, len(both))} combinations of access "
            f"and price{_ranks(first, board)}."
        )


def _chosen(board: Board) -> dict[tuple[str, float], str]:
    """The method by what may be seen and paid."""
    return {(each.regime, budget): each.best.method for each in choices(board) if each.best for budget in each.budgets}


def _ranks(first: Board, other: Board) -> str:
    here, there = ({each.method: each.distance for each in board.methods} for board in (first, other))
    common = sorted(here.keys() & there.keys())
    if len(common) < FEWEST:
        return ""
    found = rank_agreement(np.array([[here[method], there[method]] for method in common])).between(0, 1)
    return f"; the rank correlation of the distances of the {len(common)} methods that both have is {interval(found)}"


def _own_limits(boards: Sequence[Board]) -> Iterator[str]:
    settings = [
        f"{board.title} ({plural(len(board.methods), 'method')}, forget set {board.forget_set}, {board.counts[0]} models of "
        f"each, {board.counts[1]} retrained ones)"
        for board in boards
    ]
    yield (
        f"**Few, small settings.** All of it is {listed(settings)}. The networks are small and a retraining takes seconds, so "
        "that shares of its time are not those of a large model. Times were taken on machines that other programs used too."
    )
    yield (
        f"**Intervals are over models**, not over forget sets, data sets or networks. The margin of {MARGIN:g} for *equivalent* "
        "is a convention of this project, and whether it is small enough depends on the case."
    )
    main = boards[0]
    if not main.searches:
        yield (
            f"**Hyperparameters.** The table of their search on {main.title} is not committed, so that how well a method is "
            "tuned is not known here. A method that fails in these tables may fail for want of tuning."
        )
        return
    worse = [method for method, each in main.searches.items() if each.worse]
    defaults = [method for method, each in main.searches.items() if each.used == "default"]
    count = len(main.searches)
    yield (
        f"**Hyperparameters** of {plural(count, 'method')} were searched on {main.title} by one rule for all, and judged on "
        f"models and forget sets that the search did not see. The authors' values are used for {share(len(defaults), count)}, "
        f"where what was found is worse there{f' ({named(defaults, SHOWN)})' if defaults else ''}. With the values that are "
        f"used, {share(len(worse), count)} {agreeing(len(worse), 'be')} farther from retraining than doing nothing, by more than "
        f"noise{f' ({named(worse, SHOWN)})' if worse else ''}. Another search may find better values."
    )


def _tables(boards: Sequence[Board], links: Links) -> Iterator[str]:
    headings = ("family", "method", "may see", memory_left.label, damage.label, "distance", "cost", "outcome", "hyperparameters")
    yield wrapped(f"Ordered by distance from retraining. The same with all digits: [effectiveness.csv]({links.table}).")
    for board in boards:
        yield f"**{board.title}** ([{board.finding}/results.csv]({links.findings}/{board.finding}/results.csv))"
        rows = [
            [
                *("nothing done" if each.method == NOTHING else family_of(each.method).short, each.method, each.access),
                *(interval(each.memory), interval(each.damage), number(each.distance), number(each.cost)),
                *(each.outcome or "no verdict", each.hyperparameters),
            ]
            for each in board.results
        ]
        yield markdown(headings, rows, left=(0, 1, 2, 7, 8))
