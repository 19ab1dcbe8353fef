"""The draws: hypernetworks, blurred originals and searched methods, on forget sets of several kinds and sizes."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.hypernetwork import report
from experiments.hypernetwork.options import Config
from unlearn_jax.bench import tuning, tuning_options
from unlearn_jax.bench.forget_set import ranking
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.option_groups import Judged
from unlearn_jax.bench.panel import Panel
from unlearn_jax.bench.panel import Programs as Panels
from unlearn_jax.bench.pools import compile_all, pool
from unlearn_jax.bench.population import NULL, lost_members, without
from unlearn_jax.bench.resume import Arrays, identity_of, load_or_make, unlearn
from unlearn_jax.bench.scoring import Alive, effects_of
from unlearn_jax.bench.setting import Setting, forgetting
from unlearn_jax.data import choose
from unlearn_jax.data.splits import generator, sample
from unlearn_jax.errors import ArgumentError
from unlearn_jax.methods import Entry
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import accuracies, probabilities
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.runs import Run
from unlearn_jax.training.cost import example_flops, flops
from unlearn_jax.training.ensembles import predict, tile
from unlearn_jax.training.fit import refit
from unlearn_jax.training.pools import diverged, member_keys
from unlearn_jax.types import Cube, Labels

SEARCHED = 4  # originals of the search, and twice as many oracles for each set
SETS = 2  # forget sets of the search
TEMPERATURES = (1.02, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0)


def names_of_sets(config: Config) -> list[str]:
    """The kinds of forget sets of a draw; another size is named after it."""
    return [*config.kinds, *(report.SIZED.format(size) for size in config.sizes)]


def require_sets(config: Config, setting: Setting) -> None:
    """Refuses sizes that the training set does not have, before anything is trained.

    Raises:
        ArgumentError: one of `--sizes` or `--forget.size`.
    """
    for option, size in [("--forget.size", config.forget.size), *(("--sizes", size) for size in config.sizes)]:
        try:
            mask = choose(setting.data.train.labels, kind="random", size=size, classes=setting.data.classes)
        except ArgumentError as error:
            raise ArgumentError(option, size, error.accepted) from error
        rows = len(mask)
        require(2 * mask.sum() < rows, option, size, f"expected less than half of the {rows} training examples")


def forget_masks(config: Config, setting: Setting) -> dict[str, np.ndarray]:
    """The rows to forget, by the name of the set. Random ones are none of the lessons'."""
    labels, classes = setting.data.train.labels, setting.data.classes
    asked: dict[str, Any] = {"classes": classes, "seed": config.seed}
    masks = {}
    for name in config.kinds:
        more: dict[str, Any] = {"size": config.forget.size}
        if name == "class":
            present = np.flatnonzero(np.bincount(labels, minlength=classes))
            more = {"label": int(present[config.seed % len(present)])}
        elif name == "memorised":
            more["scores"] = functools.partial(ranking, config, setting, "memorised")
        masks[name] = choose(labels, kind=name, **more, **asked)
    for size in config.sizes:
        masks[report.SIZED.format(size)] = choose(labels, kind="random", size=size, **asked)
    return masks


def search(config: Config, folder: Run, setting: Setting) -> dict[str, dict[str, Any]]:
    """The hyperparameters of the methods beside, by the search of `--exp tuning` on other models and random sets of this size."""
    if not config.beside:
        return {}
    images = {field.name for field in dataclasses.fields(tuning_options.Config)} - {"exp", "methods", "out"}
    given = {name: getattr(config, name) for name in images if name in vars(config)}
    given |= {"members": SEARCHED, "forget_sets": SETS, "trials": config.trials, "rounds": 1, "keep": 1, "epochs": config.budget}
    given |= {
        "forget": tuning_options.Drawn(size=config.forget.size),
        "evaluation": Judged(retain_size=config.evaluation.retain_size),
    }
    asked = tuning_options.Config(methods=config.beside, **given)
    first = tuning.first_set(asked)
    panel = Panel(asked, setting, config.seed + tuning.SEED, range(first, first + SETS), Panels())
    found = tuning.Search(asked, folder, panel)
    values = {}
    for name in config.beside:
        with working(f"search of {name}") as update:
            searched = found.tune(name)
            values[name] = searched.values[0]
            update(1.0, f"distance {searched.scores[0].value:.2f}")
    folder.write_json("searched.json", values)
    return values


def judge_draw(
    config: Config, folder: Run, setting: Setting, number: int, entries: Mapping[str, Entry], values: dict[str, dict[str, Any]]
) -> list[report.Judged]:
    """The scores of one draw on all its forget sets.

    Args:
        config: of the draw.
        folder: the run folder.
        setting: of the draw.
        number: of the draw.
        entries: the hypernetworks by name.
        values: the hyperparameters of the methods beside.
    """
    sized = dataclasses.replace(config, members=config.judged)
    weights = hashlib.sha256()
    for entry in entries.values():
        for leaf in jax.tree.leaves(entry.make.args):  # type: ignore[attr-defined]
            weights.update(np.asarray(leaf).tobytes())
    found = []
    for name, mask in forget_masks(config, setting).items():
        learned = {"learned": weights.hexdigest(), "entries": list(entries), "methods": values}
        identity = {**identity_of(sized, setting, mask), **learned}
        make = functools.partial(train_and_predict, sized, setting, mask, entries, values)
        folder.write_text(f"forget_sets/{name}-{number}.txt", "".join(f"{row}\n" for row in setting.data.published.train[mask]))
        arrays = load_or_make(folder, f"draws/{name}-{number}.npz", identity, make)
        with working(f"draw {number}, {name}: scores") as update:
            found += scores(arrays, name, number)
            update(1.0, f"{len(found)} in all")
    return found


def train_and_predict(
    config: Config, setting: Setting, mask: np.ndarray, entries: Mapping[str, Entry], values: dict[str, dict[str, Any]]
) -> Arrays:
    """Trains originals, oracles and retrained models of one forget set, unlearns, and predicts.

    Returns:
        Logits `[models, examples, classes]` of every kind of model on forget, retain and test; labels; the cost of each method
        as a share of a retraining.
    """
    data, members = setting.data, config.judged
    problem, rows = forgetting(setting, mask), np.flatnonzero(mask)
    rng = generator("other examples that are shown", config.seed)
    wrong = np.isin(np.arange(len(mask)), sample(np.flatnonzero(~mask), len(rows), rng))
    originals = pool(config, setting, setting.problem, np.ones(len(mask), bool), "original", members).variables
    models = {
        "original": originals,
        "oracle": pool(config, setting, problem, ~mask, "oracle", 2 * members).variables,
        "retrain": pool(config, setting, problem, ~mask, "retrain", members).variables,
    }
    lost_members(config, "original", originals, 2)
    lost_members(config, "oracle", models["oracle"], NULL)
    batching: dict[str, Any] = {"strategy": config.strategy, "chunk": config.chunk}
    shown = np.repeat(np.stack([mask, wrong]), members, axis=0)
    unlearners = {
        name: Unlearner(entry, {}, problem, tile(originals, 2), masks={"forget": shown}, **batching)
        for name, entry in entries.items()
    }
    unlearners |= {name: Unlearner(name, of_method, problem, originals, **batching) for name, of_method in values.items()}
    compile_all(unlearners.values())
    whole = flops(refit, member_keys(0, "", 1)[0], problem) / example_flops(problem)
    arrays: Arrays = {}
    for name, unlearner in unlearners.items():
        keys = member_keys(config.seed, name, members)
        both = jnp.concatenate([keys, keys]) if name in entries else keys
        after = unlearn(name, unlearner, both).variables
        models[name] = jax.tree.map(lambda leaf: leaf[:members], after)
        if name in entries:
            models[name + report.WRONG] = jax.tree.map(lambda leaf: leaf[members:], after)
        arrays[f"cost/{name}"] = np.array(unlearner.examples / whole)
    kept = sample(
        np.flatnonzero(~(mask | wrong)), config.evaluation.retain_size, generator("retained examples of draws", config.seed)
    )
    images = np.concatenate([data.train.images[rows], data.train.images[kept], data.test.images])
    with working("predictions"):
        for name, variables in models.items():
            logits = predict(problem.model, variables, images, config.strategy)
            of_splits = np.split(logits, [len(rows), len(rows) + len(kept)], axis=1)
            arrays |= {f"{split}/{name}": part for split, part in zip(Cube._fields, of_splits, strict=True)}
    labels = data.train.labels[rows], data.train.labels[kept], data.test.labels
    return arrays | {f"labels/{split}": of_split for split, of_split in zip(Cube._fields, labels, strict=True)}


def scores(arrays: Arrays, kind: str, draw: int) -> list[report.Judged]:
    """The effect sizes and the divergence of all models on one forget set, blurred originals included."""
    labels = Labels(*(arrays[f"labels/{split}"] for split in Cube._fields))

    def alive(name: str, temperature: float = 1.0) -> Alive:
        cube = Cube(*(arrays[f"{split}/{name}"] / temperature for split in Cube._fields))
        lost = diverged(cube)
        return without(cube, lost), lost

    before, (oracles, _) = alive("original"), alive("oracle")
    wanted = probabilities(oracles.forget).mean(axis=0)
    right = {split: float(np.mean(of_models)) for split, of_models in accuracies(oracles, labels)._asdict().items()}

    def score(name: str, models: Alive, cost: float = 0.0, temperature: float = 1.0) -> report.Judged | None:
        found = effects_of(models, before, oracles, labels)
        if found is None:
            return None
        own = accuracies(models[0], labels)._asdict()
        gaps = {split: float(np.mean(own[split])) - right[split] for split in own}
        p = np.maximum(probabilities(models[0].forget), 1e-12)
        kl = float((wanted * (np.log(np.maximum(wanted, 1e-12)) - np.log(p))).sum(axis=-1).mean())
        return report.judged(kind, draw, name, temperature, len(models[0].forget), found, kl, gaps, cost)

    names = [key.removeprefix("forget/") for key in arrays if key.startswith("forget/")]
    found = [
        score(name, alive(name), float(arrays.get(f"cost/{name.removesuffix(report.WRONG)}", name == "retrain")))
        for name in names
        if name != "oracle"
    ]
    found += [score(report.BLURRED, alive("original", each), 0.0, each) for each in TEMPERATURES]
    return [each for each in found if each]


def write(config: Config, folder: Run, judged: list[report.Judged]) -> str:
    """Writes the tables and the figure of the draws so far. Returns the summary."""
    folder.write_csv("judged.csv", report.Judged._fields, [report.cells(each) for each in judged])
    over = report.over_draws(judged)
    folder.write_csv("over_draws.csv", report.OVER_COLUMNS, [report.over_cells(each) for each in over])
    differences = report.differences(judged, over)
    folder.write_csv("differences.csv", report.Difference._fields, [report.cells(each) for each in differences])
    draws = len({each.draw for each in judged})
    title = f"{config.dataset} · {config.model} · {draws} draws of {config.judged} originals and {2 * config.judged} oracles"
    save(report.frontier(judged, over, title), folder, "frontier")
    text = report.summary(over, differences, title)
    folder.write_text("over_draws.md", text)
    return text
