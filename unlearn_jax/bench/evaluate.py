"""The main study: every method of the registry, measured against the distribution of retrained models."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from unlearn_jax.bench import statistics
from unlearn_jax.bench.alive import lost_members
from unlearn_jax.bench.forget_set import Scored, Study
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.main_options import Config
from unlearn_jax.bench.options import Seeded
from unlearn_jax.bench.setting import (
    Setting,
    forget_mask,
    forget_name,
    mixture,
    pool,
    prepare,
    settings_of_sets,
    where_they_differ,
)
from unlearn_jax.methods import METHODS, Entry
from unlearn_jax.metrics.power import models_needed, visible
from unlearn_jax.report import figures, leaderboard
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import Row, subject, write_results, write_rows
from unlearn_jax.runs import Run

FIRST = 8  # models of the first look with `--members auto`


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
    asked = config.method_names()
    names, entries = [*asked, *learned], {**METHODS, **learned}
    values = {name: own | {each: {} for each in learned} for name, own in settings_of_sets(config, setting, asked).items()}
    masks = [forget_mask(config, setting, index) for index in range(config.forget_sets)]
    members = settled(config, folder, setting, masks[0]) if isinstance(config, Config) else config.members
    assert members != "auto"
    config = dataclasses.replace(config, members=members)
    folder.write_json("hyperparameters.json", where_they_differ(values))
    rows: list[Row] = []
    scored: dict[str, dict[str, Scored]] = {name: {} for name in names}
    bands: dict[str, float] = {}
    lost: dict[str, dict[str, tuple[int, ...]]] = {}
    originals = pool(config, setting, setting.problem, masks[0] | True, "original", members)
    lost_members(config, "original", originals.variables, 2)
    sets = list(zip(masks, values, strict=True))
    for mask, name in sets[1:]:  # if they do not suffice, then before a method is trained; read from the cache in their turn
        Study(config, folder, setting, mask, name, entries).oracles()
    made_with = {*originals.made_with}
    notes: list[str] = []
    one_by_one: list[tuple] = []
    for index, (mask, set_name) in enumerate(sets):
        study = Study(config, folder, setting, mask, set_name, entries)
        oracles = study.oracles()
        judged = study.judge_all(values[study.name], originals, config.unlearning_seeds)
        made_with |= {*study.retraining.made_with, *(each.made_with for seeds in judged.values() for each in seeds)}
        yardstick, found = study.score(judged, oracles)
        measured = [row for name in names for row in study.rows_of(name, judged[name][0], found.get(name), len(oracles.forget))]
        rows += measured
        for name, each in found.items():
            scored[name][study.name] = each
        bands[study.name] = yardstick.band
        lost[study.name] = {name: each[0].lost for name, each in judged.items()} | {"oracle": study.lost}
        lines, carried = statistics.examples(study, judged, oracles)
        one_by_one += lines
        notes += [carried] * bool(carried)
        if study.lost:
            whole = len(oracles.forget) + len(study.lost)
            notes.append(
                f"{study.name}: {len(study.lost)} of {whole} oracles diverged; at most {yardstick.n} models are compared."
            )
        if index == 0:
            study.draw(judged, oracles, measured)
            statistics.power(folder, yardstick, found.get("original"), subject(measured))
    diverged = {f"{s}/{name}": each for s in lost for name, each in lost[s].items()}
    extra: dict[str, Any] = {"bands": bands, "diverged": diverged, "made_with": sorted(made_with)}
    notes += mixture(made_with)
    shown, band = rows, bands[study.name]
    if len(masks) > 1:
        shown, band = statistics.over_forget_sets(rows, scored)
        write_rows(folder, "over_forget_sets.csv", shown)
        extra |= {"over_forget_sets": shown, "band_over_forget_sets": band}
    write_results(folder, rows, extra)
    folder.write_csv("examples.csv", statistics.OF_EXAMPLES, one_by_one)
    gone = {name: [f"{s} #{member}" for s in lost for member in lost[s][name]] for name in names}
    board = leaderboard.arrange(shown, band, gone)
    board = board._replace(caption=(*board.caption, *notes, *statistics.pairs(folder, scored)))
    leaderboard.write(folder, board)
    save(figures.quality_against_utility(shown, subject(shown)), folder, "quality_against_utility")
    statistics.variance(folder, scored, subject(shown))
    statistics.agreement(folder, shown)
    leaderboard.show(board)
    return rows


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
        study = Study(dataclasses.replace(config, members=members), folder, setting, mask, forget_name(config, setting, 0))
        yardstick = study.yardstick(study.oracles())
        there = ", ".join(metric for metric, split in yardstick.nulls if split == asked.split)
        require(wanted in yardstick.nulls, "--auto.metric", asked.metric, f"on {asked.split} there is {there}")
        seen = visible(yardstick, wanted)
        said = "are too few for a verdict" if seen is None else f"make a difference of {seen:.3g} in {asked.metric} visible"
        print(f"{yardstick.n} models {said}")
        needed = models_needed(yardstick, wanted, asked.difference)
        if needed <= members or members >= asked.most:
            folder.record(members=members)
            return members
        members = min(max(needed, members + 1), asked.most)
