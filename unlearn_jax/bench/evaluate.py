"""The main study: every method of the registry, measured against the distribution of retrained models."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from unlearn_jax.bench import statistics
from unlearn_jax.bench.board import arrange
from unlearn_jax.bench.forget_set import forget_mask, forget_name, forget_set
from unlearn_jax.bench.hyperparameters import settings_of_sets, where_they_differ
from unlearn_jax.bench.judging import Oracles, judge, train_oracles
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.main_options import Config
from unlearn_jax.bench.options import Seeded
from unlearn_jax.bench.pools import mixture, pool
from unlearn_jax.bench.population import lost_members
from unlearn_jax.bench.scoring import Scored, draw, null_of, rows_of, score_methods
from unlearn_jax.bench.setting import Setting, prepare
from unlearn_jax.methods import METHODS, Entry
from unlearn_jax.metrics.catalogue import accuracy, klom
from unlearn_jax.metrics.evaluation import Reference
from unlearn_jax.metrics.power import models_needed, visible
from unlearn_jax.report import figures, leaderboard
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import Row, subject, write_results, write_rows
from unlearn_jax.runs import Run

FIRST = 8  # models of the first look with `--members auto`
QUALITY = figures.Axis(klom.on("forget"), f"{klom.label} on the forget set")
UTILITY = figures.Axis(accuracy.on("test"), f"test {accuracy.label}")


class Result(NamedTuple):
    """What came out on one forget set."""

    name: str
    rows: list[Row]
    scored: dict[str, Scored]  # by method; none of one that diverged
    band: float  # of the null
    lost: dict[str, tuple[int, ...]]  # members that diverged, by method and of the oracles
    made_with: set[str]  # see `device.made_with`
    by_example: list[tuple]  # rows of examples.csv
    notes: list[str]  # for the board's caption


class Outcome(NamedTuple):
    """What came out of a run."""

    rows: list[Row]  # of results.csv
    board: leaderboard.Leaderboard
    results: list[Result]  # of every forget set


def run(config: Config, folder: Run) -> None:
    """Train originals and oracles, unlearn by every method, score each against its null, and report.

    Raises:
        UsageError: something in the configuration cannot be done.
    """
    compare(config, folder, prepare(config), {})


def compare(config: Seeded, folder: Run, setting: Setting, learned: Mapping[str, Entry]) -> list[Row]:
    """As `run`, of the methods that the configuration asks for and of `learned` ones, which the registry has not.

    Returns:
        The rows of results.csv.

    Raises:
        UsageError: something in the configuration cannot be done.
    """
    asked, entries = config.method_names(), {**METHODS, **learned}
    values = {name: own | {method: {} for method in learned} for name, own in settings_of_sets(config, setting, asked).items()}
    masks = [forget_mask(config, setting, index) for index in range(config.forget_sets)]
    if isinstance(config, Config):
        config = dataclasses.replace(config, members=settled(config, folder, setting, masks[0]))
    outcome = evaluate_sets(config, folder, setting, dict(zip(values, masks, strict=True)), values, entries)
    leaderboard.show(outcome.board)
    return outcome.rows


def evaluate_sets(
    config: Seeded,
    folder: Run,
    setting: Setting,
    masks: Mapping[str, np.ndarray],
    values: Mapping[str, dict[str, dict[str, Any]]],
    entries: Mapping[str, Entry],
) -> Outcome:
    """Trains originals and oracles, unlearns, scores and reports, for any forget sets and any methods.

    Args:
        config: how many members, how they are batched and judged; `config.members` is a number.
        folder: where everything is written.
        setting: data and model.
        masks: the training rows to forget, by forget set.
        values: the hyperparameters of each method on each forget set: set -> method -> name -> value.
        entries: the methods by name.

    Raises:
        UsageError: too few models are left, the others having diverged.
    """
    folder.write_json("hyperparameters.json", where_they_differ(dict(values)))
    assert config.members != "auto"
    originals = pool(config, setting, setting.problem, np.ones_like(next(iter(masks.values()))), "original", config.members)
    lost_members(config, "original", originals.variables, 2)
    for name in list(masks)[1:]:  # if they do not suffice, then before a method is trained; read from the cache in their turn
        train_oracles(forget_set(config, folder, setting, masks[name], name, entries))
    results: list[Result] = []
    for name, mask in masks.items():
        forget = forget_set(config, folder, setting, mask, name, entries)
        judgement = judge(forget, values[name], originals, train_oracles(forget), config.unlearning_seeds)
        null, scored = score_methods(forget, judgement)
        rows = rows_of(forget, judgement, scored)
        by_example, sentence = statistics.examples(forget, judgement)
        made_with = {*judgement.oracles.made_with, *(each.made_with for seeds in judgement.methods.values() for each in seeds)}
        lost = {method: first.lost for method, (first, *_) in judgement.methods.items()} | {"oracle": judgement.oracles.lost}
        notes = [sentence] * bool(sentence) + of_lost_oracles(name, judgement.oracles, null)
        results.append(Result(name, rows, scored, null.band, lost, made_with, by_example, notes))
        if len(results) == 1:
            draw(forget, judgement, rows)
            statistics.power(folder, null, scored.get("original"), subject(rows))
    return report(folder, results, {*originals.made_with})


def of_lost_oracles(name: str, oracles: Oracles, null: Reference) -> list[str]:
    """A sentence if oracles of a forget set diverged."""
    if not oracles.lost:
        return []
    made = oracles.members + len(oracles.lost)
    return [f"{name}: {len(oracles.lost)} of {made} oracles diverged; at most {null.n} models are compared."]


def report(folder: Run, results: list[Result], made_with: set[str]) -> Outcome:
    """Writes, draws and prints what came out over all forget sets.

    Args:
        folder: of the run.
        results: of every forget set.
        made_with: of the originals, see `device.made_with`.
    """
    names = [name for name in results[0].lost if name != "oracle"]
    rows = [row for result in results for row in result.rows]
    scored = {name: {result.name: result.scored[name] for result in results if name in result.scored} for name in names}
    bands = {result.name: result.band for result in results}
    diverged = {f"{result.name}/{name}": lost for result in results for name, lost in result.lost.items()}
    made_with = made_with.union(*(result.made_with for result in results))
    notes = [note for result in results for note in result.notes] + mixture(made_with)
    extra: dict[str, Any] = {"bands": bands, "diverged": diverged, "made_with": sorted(made_with)}
    shown = rows
    if len(results) > 1:
        shown, band = statistics.over_forget_sets(rows, scored)
        write_rows(folder, "over_forget_sets.csv", shown)
        extra |= {"over_forget_sets": shown, "band_over_forget_sets": band}
    write_results(folder, rows, extra)
    if by_example := [line for result in results for line in result.by_example]:
        folder.write_csv("examples.csv", statistics.OF_EXAMPLES, by_example)
    gone = {name: [f"{result.name} #{member}" for result in results for member in result.lost[name]] for name in names}
    board = arrange(shown, gone)
    board = board._replace(caption=(*board.caption, *notes, *statistics.pairs(folder, scored)))
    leaderboard.write(folder, board)
    save(figures.quality_against_utility(shown, QUALITY, UTILITY, subject(shown)), folder, "quality_against_utility")
    statistics.variance(folder, scored, subject(shown))
    statistics.agreement(folder, shown)
    return Outcome(rows, board, results)


def settled(config: Config, folder: Run, setting: Setting, mask: np.ndarray) -> int:
    """The number of members; with `auto`, the least that was seen to make the asked difference visible.

    Begins with few oracles, extrapolates how many are needed, trains those (the first ones stay part of the pool), and looks
    again.
    """
    if config.members != "auto":
        return config.members
    asked, members = config.auto, FIRST
    wanted = asked.metric, asked.split
    while True:
        now = dataclasses.replace(config, members=members)
        forget = forget_set(now, folder, setting, mask, forget_name(config, setting, 0))
        null = null_of(forget, train_oracles(forget).cube)
        there = ", ".join(metric for metric, split in null.nulls if split == asked.split)
        require(wanted in null.nulls, "--auto.metric", asked.metric, f"on {asked.split} there is {there}")
        seen = visible(null, wanted)
        outcome = "are too few for a verdict" if seen is None else f"make a difference of {seen:.3g} in {asked.metric} visible"
        print(f"{null.n} models {outcome}")
        needed = models_needed(null, wanted, asked.difference)
        if needed <= members or members >= asked.most:
            folder.record(members=members)
            return members
        members = min(max(needed, members + 1), asked.most)
