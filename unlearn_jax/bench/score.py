"""The experiment `score`: the whole verdict on logits that any framework wrote."""

from pathlib import Path
from typing import Any

import numpy as np

from unlearn_jax.bench import easydub
from unlearn_jax.bench.arguments import repeated
from unlearn_jax.bench.evaluate import Result, report
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.page import looks
from unlearn_jax.bench.population import comparable, first_members, score_alive, without
from unlearn_jax.bench.score_options import Config
from unlearn_jax.bench.scoring import Scored, effect_rows, effects_of, margins, memory_of, of_models, of_oracles, scored_row
from unlearn_jax.bench.statistics import model_rows, power
from unlearn_jax.errors import UsageError
from unlearn_jax.files import open_regular, unread
from unlearn_jax.metrics import accuracies, catalogue, cross_entropy_losses, reference
from unlearn_jax.metrics.checks import labels as checked_labels
from unlearn_jax.metrics.effects import exchanged, outcome_of
from unlearn_jax.metrics.views import views_of
from unlearn_jax.progress import working
from unlearn_jax.report import figures, leaderboard
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import Row, subject
from unlearn_jax.runs import Run
from unlearn_jax.training.pools import diverged
from unlearn_jax.types import Cube, Labels

SET = "given"


def run(config: Config, folder: Run) -> None:
    """Scores the unlearned models, and the originals if they are given, against the oracles; writes and prints the leaderboard.

    Raises:
        ArgumentError: a file cannot be read, holds something else than logits or labels, or there are too few models.
    """
    if config.easydub_set is not None:
        easydub.run(config, folder, _read)
        return
    published = config.oracles is not None and (config.oracles / easydub.MARGINS).is_dir()
    require(not published, "--easydub-set", "None", "--oracles is EasyDUB's data set: the number of a forget set is needed")
    default = config.easydub_models == Config.easydub_models
    require(default, "--easydub-models", config.easydub_models, "only used with --easydub-set")
    labels = Labels(*_read("--labels", config.labels).values())
    cubes = {"oracle": _cube("--oracles", config.oracles, labels)}
    if config.originals is not None:
        cubes["original"] = _cube("--originals", config.originals, labels)
    cubes["unlearned"] = _cube("--unlearned", config.unlearned, labels)
    twice = repeated(cubes["unlearned"], cubes["oracle"])
    require(not twice, "--oracles", config.oracles, twice)
    lost = {name: diverged(cube) for name, cube in cubes.items()}
    alive = {name: without(cube, lost[name]) for name, cube in cubes.items()}
    oracles = alive.pop("oracle")
    if "original" in alive:
        wrong = exchanged(*(margins(cube, labels)["forget"] for cube in (alive["original"], oracles)))
        require(not wrong, "--oracles", config.oracles, wrong)
    members = len(alive["unlearned"].forget)
    n = comparable(members, len(oracles.forget))
    counts = f"{members} unlearned models and {len(oracles.forget)} oracles are finite"
    require(n >= 2, "--oracles", config.oracles, f"{counts}; expected 2 or more, and twice as many oracles")
    paired = "original" in cubes and len(cubes["original"].forget) == len(cubes["unlearned"].forget)
    before = (alive["original"], lost["original"]) if paired else None
    scored: dict[str, Scored] = {}
    rows: list[Row] = []
    first = {name: first_members(cube, min(len(cube.forget), n)) for name, cube in alive.items()}
    with working("scores") as update, views_of(labels, config.seed).attacks_begun(first.values()) as views:
        memory = memory_of(before, oracles, labels)
        extra = of_oracles(memory)
        null = reference(oracles, labels, n, splits=config.evaluation.splits, seed=config.seed, extra=extra, views=views)
        for name, cube in alive.items():
            evaluation, compared = score_alive(first[name], null, None, of_models(memory, (cube, lost[name]), before, labels))
            if evaluation is None:
                continue
            evaluation = evaluation._replace(lost=len(lost[name]))
            found = effects_of((cube, lost[name]), before, oracles, labels)
            scored[name] = Scored(evaluation, compared, null.at(compared), {}, found)
            common = Row(config.exp, SET, SET, SET, name, "none" if name == "original" else SET, "", "")
            common = common._replace(n_members=compared, n_oracles=len(oracles.forget))
            common = common._replace(band=evaluation.band, inside=evaluation.inside)
            common = common._replace(outcome=outcome_of(evaluation.inside, found, evaluation.lost))
            rows += [scored_row(common, score) for score in evaluation.scores] + effect_rows(common, found)
        update(1.0, f"{len(null.nulls)} metrics, {n} models against {n}")
    title = subject(rows)
    losses, expected = {name: _losses(cube, labels) for name, cube in alive.items()}, _losses(oracles, labels)
    save(figures.loss_histograms(losses, expected, title), folder, "loss_histograms")
    shares = {name: accuracies(cube, labels)._asdict() for name, cube in alive.items()}
    name = catalogue.accuracy.name
    save(figures.accuracy_bars(rows, name, shares, accuracies(oracles, labels)._asdict(), title), folder, name)
    power(folder, null, scored.get("original"), title)
    notes = [f"{len(lost['oracle'])} oracles are not finite and were left out."] * bool(lost["oracle"])
    unpaired = "no memory left and no damage: they need as many originals as unlearned models, in the same order."
    notes += [unpaired] * ("original" in cubes and not paired)
    models = model_rows(SET, {name: (cube, lost[name]) for name, cube in alive.items()}, before, oracles, labels)
    result = Result(SET, rows, scored, null.band, lost, set(), [], notes, models, looks(losses, expected))
    outcome = report(folder, [result], set())
    leaderboard.show(outcome.board)


def _losses(cube: Cube, labels: Labels) -> dict[str, np.ndarray]:
    return {split: cross_entropy_losses(getattr(cube, split), getattr(labels, split)) for split in Cube._fields}


def _cube(option: str, path: Path | None, labels: Labels) -> Cube:
    """Logits, `[models, examples, classes]` of each split; models may hold values that are not finite."""
    arrays = _read(option, path)
    for split, logits in arrays.items():
        if logits.ndim != 3 or logits.dtype.kind != "f" or not logits.size:
            raise UsageError(
                option, path, f"{split} is {logits.dtype} {logits.shape}; expected floats [models, examples, classes]"
            )
    cube = Cube(**arrays)
    if len({(len(logits), logits.shape[2]) for logits in cube}) > 1:
        raise UsageError(option, path, "forget, retain and test are of different numbers of models or classes")
    for split, answers in labels._asdict().items():
        try:
            checked_labels(split, answers, *getattr(cube, split).shape[1:])
        except ValueError as error:
            raise UsageError("--labels", path, f"{error}, as in {option}") from error
    return cube


def _read(option: str, path: Path | None) -> dict[str, np.ndarray]:
    """The arrays forget, retain and test of a folder of .npy files or of an .npz file. No pickle is ever loaded."""
    expected = "a folder with forget.npy, retain.npy and test.npy, or an .npz file with these keys, is needed"
    if path is None:
        raise UsageError(option, "None", expected)
    arrays: dict[str, Any] = {}
    try:
        if path.is_dir():
            for split in Cube._fields:
                with open_regular(path / f"{split}.npy") as file:
                    arrays[split] = np.load(file, allow_pickle=False)
        else:
            with open_regular(path) as file, np.load(file, allow_pickle=False) as archive:
                arrays = {split: archive[split] for split in Cube._fields}
    except Exception as error:  # whoever wrote the file: a format can fail in any way
        raise UsageError(option, path, f"{expected} ({unread(error)})") from error
    return arrays
