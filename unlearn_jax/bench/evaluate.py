"""The main job: unlearning methods, measured against the distribution of retrained models."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unlearn_jax.bench import page, statistics, summary
from unlearn_jax.bench.board import arrange
from unlearn_jax.bench.curves import lacking_note
from unlearn_jax.bench.forget_set import ForgetSet, forget_class, forget_mask, forget_name, forget_set, same_rows
from unlearn_jax.bench.hyperparameters import merge_sets, origins_of, settings_of_sets
from unlearn_jax.bench.judging import Oracles, judge, train_oracles
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.main_options import Config
from unlearn_jax.bench.options import Seeded
from unlearn_jax.bench.pools import pool, version_note
from unlearn_jax.bench.population import lost_members, population
from unlearn_jax.bench.scoring import Scored, draw, losses_of, margins, null_of, rows_of, score_methods
from unlearn_jax.bench.setting import Setting, prepare
from unlearn_jax.bench.time_left import stages
from unlearn_jax.bench.weights import Weights, as_pool, folders_of, require_apart, require_enough, save_models
from unlearn_jax.checkpoints import Models, read_folder, shapes_of
from unlearn_jax.errors import ArgumentError
from unlearn_jax.methods import METHODS, Entry
from unlearn_jax.metrics.catalogue import accuracy, damage, klom, memory_left
from unlearn_jax.metrics.effects import MARGIN, exchanged
from unlearn_jax.metrics.evaluation import Reference
from unlearn_jax.metrics.power import models_needed, visible
from unlearn_jax.progress import planned
from unlearn_jax.report import figures, leaderboard
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import Row, subject, write_results, write_rows
from unlearn_jax.runs import Run
from unlearn_jax.training.pools import Pool

FIRST = 8  # original models that `--members auto` begins with
MEMORY = figures.Axis(memory_left.on("forget"), "memory left: the share of what the originals remember of F")
DAMAGE = figures.Axis(damage.on("all"), "damage: other changes, as a share of what there is to forget")
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
    models: list[tuple]  # rows of models.csv
    looks: page.Looks | None = None  # what only the page shows


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
    lacking = {name: METHODS[name].unmet(setting.problem) for name in config.method_names()}
    names, entries = [name for name, reason in lacking.items() if not reason], {**METHODS, **learned}
    notes = [f"{name}: left out, it needs {reason}." for name, reason in lacking.items() if reason]
    require(bool(names or learned), "--methods", ",".join(lacking), " ".join(notes))
    none: dict[str, dict[str, Any]] = {method: {} for method in learned}
    values = {name: of_set | none for name, of_set in settings_of_sets(config, setting, names).items()}
    each = [forget_mask(config, setting, index) for index in range(config.forget_sets)]  # refuses a set that does not exist
    masks = dict(zip(values, each, strict=True))
    twice = same_rows(masks) if config.forget.files else ""
    require(not twice, "--forget.file", config.forget.file, twice)
    if isinstance(config, Config):
        config = dataclasses.replace(config, members=choose_members(config, folder, setting, next(iter(masks.values()))))
        setting = setting._replace(weights=given_weights(config, setting, list(values)))
    origins = origins_of(config.dataset, names, config.hyperparameters(), forget_class(config, setting, 0))
    notes += untuned_note(names, origins)
    with planned(stages(config, setting, masks, list(next(iter(values.values()))))):
        outcome = evaluate_sets(config, folder, setting, masks, values, entries, origins, notes)
    leaderboard.show(outcome.board)
    return outcome.rows


def evaluate_sets(
    config: Seeded,
    folder: Run,
    setting: Setting,
    masks: Mapping[str, np.ndarray],
    values: Mapping[str, dict[str, dict[str, Any]]],
    entries: Mapping[str, Entry],
    origins: Mapping[str, Mapping[str, str]],
    notes: Sequence[str] = (),
) -> Outcome:
    """Trains originals and oracles, unlearns, scores and reports, for any forget sets and methods.

    Args:
        config: the number of members, batching and evaluation; `config.members` is a number.
        folder: the run folder.
        setting: data and model.
        masks: the training rows to forget, by forget set.
        values: the hyperparameters of each method on each forget set: set -> method -> name -> value.
        entries: the methods by name.
        origins: where each hyperparameter came from, see `hyperparameters.origins_of`.
        notes: for the board's caption.

    Raises:
        ArgumentError: so many models diverged that too few are left.
    """
    used = merge_sets(dict(values))
    folder.write_json("hyperparameters.json", used)
    assert config.members != "auto"
    if setting.weights.originals:
        originals = as_pool(setting.weights.originals, config.members)
    else:
        everything = np.ones_like(next(iter(masks.values())))
        originals = pool(config, setting, setting.problem, everything, "original", config.members)
    if setting.weights.save:
        save_models(folder, "originals", originals.variables)
    lost_members(config, "original", originals.variables, 2)
    for name in list(masks)[1:]:  # if too many diverge, stop before any method runs; below they come from the cache
        train_oracles(forget_set(config, folder, setting, masks[name], name, entries))
    results: list[Result] = []
    for name, mask in masks.items():
        forget = forget_set(config, folder, setting, mask, name, entries)
        oracles = train_oracles(forget)
        if setting.weights.oracles:
            require_in_place(forget, originals, oracles)
        judgement = judge(forget, values[name], originals, oracles, config.unlearning_seeds)
        null, scored = score_methods(forget, judgement)
        rows = rows_of(forget, judgement, scored)
        examples, sentence = statistics.examples(forget, judgement)
        models = statistics.models(forget, judgement)
        made_with = {
            *judgement.oracles.made_with,
            *(judged.made_with for seeds in judgement.methods.values() for judged in seeds),
        }
        lost = {method: first.lost for method, (first, *_) in judgement.methods.items()} | {"oracle": judgement.oracles.lost}
        said = [sentence] * bool(sentence) + lost_oracles_note(name, judgement.oracles, null) + nothing_note(name, scored)
        losses, of_oracles = losses_of(forget, judgement)
        looks = page.looks(losses, of_oracles, forget.published["forget"], forget.images.forget, setting.data.pixel_scale)
        results.append(Result(name, rows, scored, null.band, lost, made_with, examples, said, models, looks))
        if len(results) == 1:
            draw(forget, judgement, rows, losses, of_oracles)
            statistics.power(folder, null, scored.get("original"), subject(rows))
    return report(folder, results, {*originals.made_with}, used, origins, [*notes, *setting.weights.notes()])


def given_weights(config: Config, setting: Setting, names: Sequence[str]) -> Weights:
    """Reads the originals and oracles that `config` gives.

    Args:
        config: `config.members` is a number.
        setting: data and model.
        names: of the forget sets.

    Raises:
        ArgumentError: a file does not fit, or there are too few.
    """
    assert config.members != "auto"
    like, members = shapes_of(setting.problem.model, setting.data.train.images.shape[1:]), config.members

    def enough(argument: str, folder: Path) -> Models:
        return require_enough(read_folder(folder, like, argument), members, argument, folder)

    originals = enough("originals", config.originals) if config.originals else None
    oracles = folders_of(config.oracles, names) if config.oracles else {}
    weights = Weights(originals, {name: enough("oracles", folder) for name, folder in oracles.items()}, config.save_models)
    return require_apart(weights, config.oracles)


def require_in_place(forget: ForgetSet, originals: Pool, oracles: Oracles) -> None:
    """Refuses given oracles that know the forget set better than the originals do.

    Raises:
        ArgumentError: they do.
    """
    before = population(originals.variables, forget.logits(originals.variables)).cube
    wrong = exchanged(*(margins(cube, forget.labels)["forget"] for cube in (before, oracles.cube)))
    if wrong:
        raise ArgumentError("oracles", forget.name, wrong)


def untuned_note(names: Sequence[str], origins: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Returns a sentence that names the methods whose hyperparameters are their defaults, though they could be searched."""
    found = [name for name in names if METHODS[name].search and not {"tuned", "given"} & set(origins[name].values())]
    return [f"At their default hyperparameters, without a search on this data set: {', '.join(found)}."] * bool(found)


def nothing_note(name: str, scored: Mapping[str, Scored]) -> list[str]:
    """Returns a sentence if the originals remember nothing of a forget set."""
    found = scored["original"].effects if "original" in scored else None
    if found is None or not math.isnan(found.memory_left.value):
        return []
    return [f"{name}: what the originals' margins on F remember is too little to measure with so many models: no effect sizes."]


def lost_oracles_note(name: str, oracles: Oracles, null: Reference) -> list[str]:
    """Returns a sentence if oracles of a forget set diverged."""
    if not oracles.lost:
        return []
    trained = oracles.members + len(oracles.lost)
    return [f"{name}: {len(oracles.lost)} of {trained} oracles diverged, so at most {null.n} models of a method are compared."]


def report(
    folder: Run,
    results: list[Result],
    made_with: set[str],
    used: Mapping[str, Mapping[str, Any]] | None = None,
    origins: Mapping[str, Mapping[str, str]] | None = None,
    notes: Sequence[str] = (),
) -> Outcome:
    """Writes and draws the results over all forget sets.

    Args:
        folder: the run folder.
        results: one for each forget set.
        made_with: of the originals, see `device.made_with`.
        used: the hyperparameters, by method.
        origins: where they came from, see `hyperparameters.origins_of`.
        notes: on the whole run, for the board's caption.
    """
    names = [name for name in results[0].lost if name != "oracle"]
    rows = [row for result in results for row in result.rows]
    scored = {name: {result.name: result.scored[name] for result in results if name in result.scored} for name in names}
    bands = {result.name: result.band for result in results}
    diverged = {f"{result.name}/{name}": lost for result in results for name, lost in result.lost.items()}
    made_with = made_with.union(*(result.made_with for result in results))
    of_sets = [note for result in results for note in result.notes]
    notes = [*notes, *of_sets, *version_note(made_with), *lacking_note()]
    extra: dict[str, Any] = {"bands": bands, "diverged": diverged, "made_with": sorted(made_with)}
    shown = rows
    if len(results) > 1:
        shown, band = statistics.over_forget_sets(rows, scored)
        write_rows(folder, "over_forget_sets.csv", shown)
        extra |= {"over_forget_sets": shown, "band_over_forget_sets": band}
    write_results(folder, rows, extra)
    if examples := [line for result in results for line in result.examples]:
        folder.write_csv("examples.csv", statistics.EXAMPLE_COLUMNS, examples)
    if models := [line for result in results for line in result.models]:
        folder.write_csv("models.csv", statistics.MODEL_COLUMNS, models)
    singles = statistics.singles(examples, models)
    lost = {name: [f"{result.name} #{member}" for result in results for member in result.lost[name]] for name in names}
    board = arrange(shown, lost)
    tied = statistics.pairs(folder, scored)
    board = board._replace(caption=(*board.caption, *notes, *tied))
    if any((row.metric, row.split) == MEMORY.name for row in shown):
        save(figures.memory_against_damage(shown, MEMORY, DAMAGE, MARGIN, subject(shown)), folder, "memory_against_damage")
    save(figures.quality_against_utility(shown, QUALITY, UTILITY, subject(shown)), folder, "quality_against_utility")
    statistics.parts(folder, scored)
    statistics.variance(folder, scored, subject(shown))
    statistics.agreement(folder, shown)
    paragraphs = summary.hyperparameters(used or {}, origins or {})
    leaderboard.write(folder, board, [*summary.figures(folder), *singles, *paragraphs, *summary.provenance(folder)])
    looks = {result.name: result.looks for result in results if result.looks}
    page.write(folder, rows, shown, board, examples, looks, used, origins, tied=" ".join(tied))
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
