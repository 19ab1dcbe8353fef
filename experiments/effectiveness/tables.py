"""The committed tables, as this study reads them: leaderboards, the searches for hyperparameters, and other findings' numbers."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.effectiveness.families import NOTHING, RETRAIN, family_of
from unlearn_jax.metrics.catalogue import accuracy, damage, memory_left, rte, rte_examples
from unlearn_jax.report.rows import Row, format_counts, read_results
from unlearn_jax.types import Interval

SPLITS = ("forget", "retain", "test")
UNTUNED = (NOTHING, RETRAIN)
NOT_RECORDED = "not recorded"


class Source(NamedTuple):
    """A setting: where its leaderboard may lie, and the search behind it; the first readable folder counts.

    Without a folder for a search the methods ran at their authors' hyperparameters.
    """

    boards: tuple[str, ...]
    searches: tuple[str, ...]


SOURCES = (
    Source(("methods-digits", "unlearning-digits"), ("tuning-digits",)),
    Source(("unlearning-fashion",), ()),
    Source(("vit-digits",), ("tuning-vit",)),
)


class Result(NamedTuple):
    """One method on one leaderboard.

    Attributes:
        method: its name.
        access: what it may see.
        memory: the share of the originals' memory of the forget set that is left.
        damage: other changes, as a share of what there is to forget.
        damage_on: the same by split.
        accuracy: in percent, by split.
        retrained: the retrained models' accuracy, by split.
        cost: time, in retrainings.
        work: training examples seen forward and backward, in retrainings.
        outcome: equivalent, not distinguished, different; None without a verdict.
        hyperparameters: tuned, default, none, or `NOT_RECORDED`.
        models: unlearned models.
        retrained_models: models that they are compared with.
    """

    method: str
    access: str
    memory: Interval
    damage: Interval
    damage_on: Mapping[str, float]
    accuracy: Mapping[str, float]
    retrained: Mapping[str, float]
    cost: float
    work: float
    outcome: str | None
    hyperparameters: str
    models: int | None
    retrained_models: int | None

    @property
    def distance(self) -> float:
        """The larger of |memory left| and damage; infinite if either is unknown."""
        sizes = abs(self.memory.value), self.damage.value
        return max(sizes) if all(map(math.isfinite, sizes)) else math.inf

    @property
    def farthest(self) -> float:
        """The largest distance that both intervals allow."""
        return max(self.distance, abs(self.memory.low), abs(self.memory.high), self.damage.high)

    @property
    def nearest(self) -> float:
        """The smallest distance that both intervals allow."""
        crosses = self.memory.low <= 0 <= self.memory.high
        memory = 0.0 if crosses else min(abs(self.memory.low), abs(self.memory.high))
        return max(memory, self.damage.low, 0.0)


class Search(NamedTuple):
    """What the search for hyperparameters did for one method, on models and forget sets that it did not see.

    Attributes:
        tuned: distance from retraining of what was found.
        default: of the authors' values.
        difference: tuned minus default, paired by original.
        used: tuned or default.
        worse: whether what is used is worse than doing nothing by more than noise.
    """

    tuned: Interval
    default: Interval
    difference: Interval
    used: str
    worse: bool


class Board(NamedTuple):
    """One leaderboard.

    Attributes:
        finding: the folder that it comes from.
        title: data set and network.
        forget_set: its name.
        results: of all methods, those nearest to retraining first.
        searches: by method; empty if the table of the search is not committed.
    """

    finding: str
    title: str
    forget_set: str
    results: tuple[Result, ...]
    searches: Mapping[str, Search]

    @property
    def methods(self) -> list[Result]:
        """All but the two references."""
        return [each for each in self.results if each.method not in UNTUNED]

    @property
    def counts(self) -> tuple[str, str]:
        """How many unlearned and retrained models a method is judged by."""
        return format_counts(each.models for each in self.results), format_counts(each.retrained_models for each in self.results)

    def get(self, method: str) -> Result | None:
        """A method's result, if it is on the board."""
        return next((each for each in self.results if each.method == method), None)


def read_boards(findings: Path) -> tuple[list[Board], list[str]]:
    """The leaderboards of a folder of findings, and a line for each table that is not used, with the reason."""
    boards, left_out = [], []
    for source in SOURCES:
        for name in source.boards:
            found = _read_board(findings, name, source.searches)
            if isinstance(found, Board):
                boards.append(found)
                break
            left_out.append(f"{name}/results.csv: {found}")
    return boards, left_out


def _read_board(findings: Path, name: str, searches: Sequence[str]) -> Board | str:
    path = findings / name / "results.csv"
    if not path.is_file():
        return "absent"
    try:
        rows = read_results(path)
    except ValueError:
        return "has the columns of an earlier version, without memory left and damage"
    sets = list(dict.fromkeys(row.forget_set for row in rows))
    if len(sets) > 1 and (over := findings / name / "over_forget_sets.csv").is_file():
        rows = read_results(over)
    measured = [row for row in rows if (row.metric, row.split) == memory_left.on("forget")]
    if not any(row.value is not None for row in measured):
        return "has no memory left and damage"
    forget_set = measured[0].forget_set
    rows = [row for row in rows if row.forget_set == forget_set]
    searched = next(filter(None, (read_search(findings / folder / "tuning.csv") for folder in searches)), {})
    results = [
        _result([row for row in rows if row.method == method], searched if searched or searches else None)
        for method in dict.fromkeys(r.method for r in rows)
    ]
    title = f"{rows[0].dataset} ({rows[0].model})"
    return Board(name, title, forget_set, tuple(sorted(results, key=lambda each: (each.distance, each.method))), searched)


def _result(rows: Sequence[Row], searches: Mapping[str, Search] | None) -> Result:
    by_name = {(row.metric, row.split): row for row in rows}

    def interval(name: tuple[str, str]) -> Interval:
        row = by_name.get(name)
        value, low, high = (None,) * 3 if row is None else (row.value, row.value_low, row.value_high)
        return _interval(value, low, high)

    first, method = rows[0], rows[0].method
    accuracies = {split: by_name[accuracy.on(split)] for split in SPLITS if accuracy.on(split) in by_name}
    return Result(
        method,
        first.access,
        interval(memory_left.on("forget")),
        interval(damage.on("all")),
        {split: interval(damage.on(split)).value for split in SPLITS},
        {split: _number(row.value) for split, row in accuracies.items()},
        {split: _number(row.null_mean) for split, row in accuracies.items()},
        interval(rte.on("")).value,
        interval(rte_examples.on("")).value,
        first.outcome or None,
        _origin(method, searches),
        max((row.n_members for row in rows if row.n_members is not None), default=None),
        max((row.n_oracles for row in rows if row.n_oracles is not None), default=None),
    )


def _origin(method: str, searches: Mapping[str, Search] | None) -> str:
    """Where a method's hyperparameters come from; without searches, their authors."""
    if method in UNTUNED:
        return "none"
    if searches is None:
        return "default"
    return (searches[method].used if method in searches else "default") if searches else NOT_RECORDED


def read_search(path: Path) -> dict[str, Search]:
    """What a search did, by method; {} if there is no such table, or one without distances on held-out models."""
    lines = read_table(path)
    if not lines or "used" not in lines[0]:
        return {}

    def interval(line: Mapping[str, str], *names: str) -> Interval:
        return _interval(*(float(line[name]) if line[name] else None for name in names))

    return {
        line["method"]: Search(
            interval(line, "held_out", "held_out_low", "held_out_high"),
            interval(line, "default", "default_low", "default_high"),
            interval(line, "difference", "difference_low", "difference_high"),
            line["used"],
            line["worse_than_nothing"] == "True",
        )
        for line in lines
    }


def read_table(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV file by column; [] if there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def values(lines: Iterable[Mapping[str, str]], name: tuple[str, str], column: str = "value") -> dict[str, float]:
    """A column of the rows of one metric and split, by method; without empty cells."""
    return {
        line["method"]: float(line[column]) for line in lines if (line["metric"], line["split"]) == name and line[column] != ""
    }


COLUMNS = (
    *("family", "method", "access", "dataset", "forget_set", memory_left.name, "memory_left_low", "memory_left_high"),
    *(damage.name, "damage_low", "damage_high", "distance", "cost", "work", "outcome", "hyperparameters", "source"),
)


def lines(boards: Iterable[Board]) -> list[list]:
    """The rows of effectiveness.csv: a method on a leaderboard."""

    def known(*numbers: float) -> list[float | None]:
        return [number if math.isfinite(number) else None for number in numbers]

    return [
        [
            *(family_of(each.method).short, each.method, each.access, board.title, board.forget_set),
            *known(*each.memory, *each.damage, each.distance, each.cost, each.work),
            *(each.outcome, each.hyperparameters, board.finding),
        ]
        for board in boards
        for each in board.results
    ]


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _interval(value: float | None, low: float | None, high: float | None) -> Interval:
    value = _number(value)
    return Interval(value, -math.inf if low is None else low, math.inf if high is None else high)
