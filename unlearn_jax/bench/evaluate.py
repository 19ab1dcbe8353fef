"""The main job: unlearning methods, measured against the distribution of retrained models."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from unlearn_jax.bench import statistics
from unlearn_jax.bench.board import arrange
from unlearn_jax.bench.forget_set import forget_mask, forget_name, forget_set, same_rows
from unlearn_jax.bench.hyperparameters import merge_sets, settings_of_sets
from unlearn_jax.bench.judging import Oracles, judge, train_oracles
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.main_options import Config
from unlearn_jax.bench.options import Seeded
from unlearn_jax.bench.pools import pool, version_note
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

FIRST = 8  # original models that `--members auto` begins with
QUALITY = figures.Axis(klom.on("forget"), f"{klom.label} on the forget set")
UTILITY = figures.Axis(accuracy.on("test"), f"test {accuracy.label}")


class Result(NamedTuple):
    """The results on one forget set."""

    name: str
    rows: list[Row]
    scored: dict[str, Scored]  # by method; without methods of which fewer than two members are left
    band: float  # of the null
    lost: dict[str, tuple[int, ...]]  # members that diverged, by method and of the oracles
    made_with: set[str]  # see `device.made_with`
    examples: list[tuple]  # rows of examples.csv
    notes: list[str]  # for the board's caption


class Outcome(NamedTuple):
    """The results of a run."""

    rows: list[Row]  # of results.csv
    board: leaderboard.Leaderboard
    results: list[Result]  # one for each forget set


def run(config: Config, folder: Run) -> None:
    """Trains originals and oracles, unlearns by every method, scores each method against the null, and reports.

    Raises:
        ArgumentError: the configuration cannot be run.
    """
    compare(config, folder, prepare(config), {})


def compare(config: Seeded, folder: Run, setting: Setting, learned: Mapping[str, Entry]) -> list[Row]:
    """As `run`, with the configured methods and `learned` ones, which are not in the registry.

    Returns:
        The rows of results.csv.

    Raises:
        ArgumentError: the configuration cannot be run.
    """
    names, entries = config.method_names(), {**METHODS, **learned}
    none: dict[str, dict[str, Any]] = {method: {} for method in learned}
    values = {name: of_set | none for name, of_set in settings_of_sets(config, setting, names).items()}
    masks = {name: forget_mask(config, setting, index) for index, name in enumerate(values)}
    twice = same_rows(masks) if config.forget.files else ""
    require(not twice, "--forget.file", config.forget.file, twice)
    if isinstance(config, Config):
        config = dataclasses.replace(config, members=choose_members(config, folder, setting, next(iter(masks.values()))))
    outcome = evaluate_sets(config, folder, setting, masks, values, entries)
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
    """Trains originals and oracles, unlearns, scores and reports, for any forget sets and methods.

    Args:
        config: the number of members, batching and evaluation; `config.members` is a number.
        folder: the run folder.
        setting: data and model.
        masks: the training rows to forget, by forget set.
        values: the hyperparameters of each method on each forget set: set -> method -> name -> value.
        entries: the methods by name.

    Raises:
        ArgumentError: so many models diverged that too few are left.
    """
    folder.write_json("hyperparameters.json", merge_sets(dict(values)))
    assert config.members != "auto"
    originals = pool(config, setting, setting.problem, np.ones_like(next(iter(masks.values()))), "original", config.members)
    lost_members(config, "original", originals.variables, 2)
    for name in list(masks)[1:]:  # if too many diverge, stop before any method runs; below they come from the cache
        train_oracles(forget_set(config, folder, setting, masks[name], name, entries))
    results: list[Result] = []
    for name, mask in masks.items():
        forget = forget_set(config, folder, setting, mask, name, entries)
        judgement = judge(forget, values[name], originals, train_oracles(forget), config.unlearning_seeds)
        null, scored = score_methods(forget, judgement)
        rows = rows_of(forget, judgement, scored)
        examples, sentence = statistics.examples(forget, judgement)
        made_with = {
            *judgement.oracles.made_with,
            *(judged.made_with for seeds in judgement.methods.values() for judged in seeds),
        }
        lost = {method: first.lost for method, (first, *_) in judgement.methods.items()} | {"oracle": judgement.oracles.lost}
        notes = [sentence] * bool(sentence) + lost_oracles_note(name, judgement.oracles, null)
        results.append(Result(name, rows, scored, null.band, lost, made_with, examples, notes))
        if len(results) == 1:
            draw(forget, judgement, rows)
            statistics.power(folder, null, scored.get("original"), subject(rows))
    return report(folder, results, {*originals.made_with})


def lost_oracles_note(name: str, oracles: Oracles, null: Reference) -> list[str]:
    """Returns a sentence if oracles of a forget set diverged."""
    if not oracles.lost:
        return []
    trained = oracles.members + len(oracles.lost)
    return [f"{name}: {len(oracles.lost)} of {trained} oracles diverged, so at most {null.n} models of a method are compared."]


def report(folder: Run, results: list[Result], made_with: set[str]) -> Outcome:
    """Writes and draws the results over all forget sets.

    Args:
        folder: the run folder.
        results: one for each forget set.
        made_with: of the originals, see `device.made_with`.
    """
    names = [name for name in results[0].lost if name != "oracle"]
    rows = [row for result in results for row in result.rows]
    scored = {name: {result.name: result.scored[name] for result in results if name in result.scored} for name in names}
    bands = {result.name: result.band for result in results}
    diverged = {f"{result.name}/{name}": lost for result in results for name, lost in result.lost.items()}
    made_with = made_with.union(*(result.made_with for result in results))
    notes = [note for result in results for note in result.notes] + version_note(made_with)
    extra: dict[str, Any] = {"bands": bands, "diverged": diverged, "made_with": sorted(made_with)}
    shown = rows
    if len(results) > 1:
        shown, band = statistics.over_forget_sets(rows, scored)
        write_rows(folder, "over_forget_sets.csv", shown)
        extra |= {"over_forget_sets": shown, "band_over_forget_sets": band}
    write_results(folder, rows, extra)
    if examples := [line for result in results for line in result.examples]:
        folder.write_csv("examples.csv", statistics.EXAMPLE_COLUMNS, examples)
    lost = {name: [f"{result.name} #{member}" for result in results for member in result.lost[name]] for name in names}
    board = arrange(shown, lost)
    board = board._replace(caption=(*board.caption, *notes, *statistics.pairs(folder, scored)))
    leaderboard.write(folder, board)
    save(figures.quality_against_utility(shown, QUALITY, UTILITY, subject(shown)), folder, "quality_against_utility")
    statistics.variance(folder, scored, subject(shown))
    statistics.agreement(folder, shown)
    return Outcome(rows, board, results)


def choose_members(config: Config, folder: Run, setting: Setting, mask: np.ndarray) -> int:
    """Returns the number of members; with `auto`, one that makes the difference of `--auto` visible.

    Begins with few oracles, extrapolates how many are needed, trains those (the pool is extended), and checks again.
    """
    if config.members != "auto":
        return config.members
    auto, members = config.auto, FIRST
    name = auto.metric, auto.split
    while True:
        sized = dataclasses.replace(config, members=members)
        forget = forget_set(sized, folder, setting, mask, forget_name(config, setting, 0))
        null = null_of(forget, train_oracles(forget).cube)
        metrics = ", ".join(metric for metric, split in null.nulls if split == auto.split)
        require(name in null.nulls, "--auto.metric", auto.metric, f"expected a metric on {auto.split}: {metrics}")
        least = visible(null, name)
        outcome = "are too few for a verdict" if least is None else f"make a difference of {least:.3g} in {auto.metric} visible"
        print(f"{null.n} models {outcome}")
        needed = models_needed(null, name, auto.difference)
        if needed <= members or members >= auto.most:
            folder.record(members=members)
            return members
        members = min(max(needed, members + 1), auto.most)
