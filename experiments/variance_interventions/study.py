"""The variance over seeds, changed in several ways at equal training loss: train, unlearn, measure, and compare with the base."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from scipy.special import logsumexp
from scipy.stats import rankdata

from experiments.variance_interventions import report
from experiments.variance_interventions.options import BASE, PLACEBO, Config, Level
from unlearn_jax.bench.equal_loss import mean_loss, nearest, training_logits, try_epochs
from unlearn_jax.bench.hyperparameters import settings
from unlearn_jax.bench.lines import along_lines, calibration_batches, rotate_members
from unlearn_jax.bench.pools import pool, version_note
from unlearn_jax.bench.resume import Arrays, identity_of, load_or_make
from unlearn_jax.bench.setting import Setting, deciding_options, prepare
from unlearn_jax.bench.several_sets import AllAnswers, Values, attack, group_answers, load_or_predict, measure_methods
from unlearn_jax.metrics import cross_entropy_losses
from unlearn_jax.metrics.decomposition import cross_entropy_decomposition
from unlearn_jax.metrics.distances import barriers
from unlearn_jax.metrics.scores import log_probabilities
from unlearn_jax.metrics.statistics import over_draws, pseudo_values
from unlearn_jax.models import mean_of
from unlearn_jax.progress import stage, working
from unlearn_jax.report.drawing import save
from unlearn_jax.report.tables import finite_row
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import predict, shared
from unlearn_jax.training.fit import beginning, frozen_in, initialise, masked, training
from unlearn_jax.training.landscape import combined, recalibrated
from unlearn_jax.training.pools import Fit
from unlearn_jax.training.sampling import steps_in_pass
from unlearn_jax.types import Key, Problem, Start, Variables

SEARCHED, DRAWS = 6, 2  # models of each draw, and draws, of the search for epochs
APART = 1000  # from the seeds of the search to those of the study
CLOSE = 1.1  # the search ends at a loss within this factor below the base's, or between two neighbouring numbers of epochs
FACTOR = 10  # a level is trained this many times as long as the base at most
IRRELEVANT = frozenset({"members", "forget", "forget_sets", "methods", "hyper", "evaluation", "points", "smoke", "exp"})
"""Options that the search does not depend on."""
Models = AllAnswers


def run(config: Config, folder: Run) -> None:
    """Find the epochs of each level, train and unlearn in every draw, and compare each level with the base.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    values = settings(config, config.method_names())
    wanted = searched_loss(config, config.levels()[0], config.train.epochs)
    levels: list[report.Measured] = []
    tried: list[tuple[str, int, float]] = [(BASE, config.train.epochs, wanted)]
    made_with: set[str] = set()
    for level in config.levels():
        if level.matched:
            losses = search(config, level, wanted, folder)
            level = level._replace(train=dataclasses.replace(level.train, epochs=nearest(losses, wanted)))
            tried += [(level.name, epochs, loss) for epochs, loss in sorted(losses.items())]
        levels.append(report.Measured(level.name, level.train.epochs, level.comparable, []))
        for draw in range(config.draws):
            print(f"{level.name}, {level.train.epochs} epochs, draw {draw}", flush=True)
            drawn = config.drawn(config.seed + draw, level.train, config.members)
            arrays, lines = answers(drawn, level, folder, values)
            made_with |= {str(part["made_with"]) for part in (arrays, lines)}
            with stage("scores"):
                levels[-1].draws.append(measure(drawn, arrays, lines))
    study = report.Results(
        title=f"{config.dataset}, {config.train_size or 'all'} examples, {config.model} of width {config.width}; {config.draws} "
        f"draws of {config.members} originals and {config.forget_sets} forget set{'s' * (config.forget_sets > 1)}",
        loss=wanted,
        methods=["retrain", *config.method_names()],
        levels=levels,
        links=links(levels, config.method_names()),
    )
    folder.write_csv("draws.csv", *report.by_draw(study))
    folder.write_csv("levels.csv", *report.by_level(study))
    folder.write_csv("links.csv", report.Link._fields, [finite_row(row) for row in study.links])
    folder.write_csv("search.csv", ("level", "epochs", "training_loss"), tried)
    folder.write_json("results.json", {"hyperparameters": values, "made_with": sorted(made_with)})
    summary = "\n".join([report.summary(study), *version_note(made_with)])
    folder.write_text("summary.md", summary)
    save(report.against_variance(study), folder, "interventions")
    print(summary)


def set_up(config: Config, level: Level) -> Setting:
    """The data and the model of a draw, and how the level trains."""
    setting = prepare(config)
    if level.one_start:
        weights = initialise(jax.random.fold_in(jax.random.key(config.seed), 1), setting.problem)
        problem = setting.problem.replace(start=shared(Start(weights)))
        setting = setting._replace(problem=problem, identity={**setting.identity, "one_start": config.seed})
    if level.average:
        fit = averaging(setting.problem, level.average)
        setting = setting._replace(fit=fit, identity={**setting.identity, "averaged": level.average})
    return setting


def averaging(problem: Problem, share: float) -> Fit:
    """Trains by the problem's recipe, and averages the weights after each of the last epochs.

    BatchNorm statistics are taken anew, on the examples that were trained on.

    Args:
        problem: the examples, the model and the recipe.
        share: of the epochs.

    Source: Izmailov et al., arXiv 1803.05407 (stochastic weight averaging), here with a constant learning rate throughout.
    """

    @functools.partial(jax.jit, static_argnames="count")
    def train(key: Key, mask: jax.Array, problem: Problem, count: int) -> Variables:
        init_key, order_key = jax.random.split(key)
        whole, recipe = masked(problem, mask, count), problem.recipe
        epochs = np.arange(recipe.epochs - max(1, round(share * recipe.epochs)), recipe.epochs) + 1
        descent = training(recipe, count, frozen_in(problem))
        counts = (epochs * steps_in_pass(count, recipe.batch_size)).tolist()
        kept = descent.checkpoints(order_key, whole, beginning(init_key, whole), counts)
        mean = combined(kept, jax.numpy.full(len(counts), 1 / len(counts)))
        rows = jax.numpy.argsort(~mask)[:count]  # those that the mask keeps come first
        return recalibrated(problem.model, mean, problem.train.images[rows][None])

    return lambda key, mask: train(key, mask, problem, int(mask.sum()))


def search(config: Config, level: Level, wanted: float, folder: Run) -> dict[int, float]:
    """The mean training loss of a level after each number of epochs that was tried."""
    options = {name: value for name, value in deciding_options(config).items() if name not in IRRELEVANT}

    def make() -> Arrays:
        most = FACTOR * config.train.epochs
        found = try_epochs(lambda epochs: searched_loss(config, level, epochs), config.train.epochs, wanted, most, CLOSE)
        return {"epochs": np.array([*found]), "loss": np.array([*found.values()])}

    arrays = load_or_make(folder, f"searches/{level.name.replace(' ', '-')}.npz", {**options, "level": level._asdict()}, make)
    return dict(zip(arrays["epochs"].tolist(), arrays["loss"].tolist(), strict=True))


def searched_loss(config: Config, level: Level, epochs: int) -> float:
    """The mean training loss of a level after a number of epochs, on data and seeds that the study does not use."""
    losses = []
    for draw in range(DRAWS):
        train = dataclasses.replace(level.train, epochs=epochs)
        drawn = config.drawn((config.seed + APART + draw) % 2**32, train, config.members)
        logits, labels = training_logits(drawn, set_up(drawn, level), SEARCHED * level.networks)
        losses.append(mean_loss(averaged(logits[None], level.networks)[0], labels))
    return float(np.mean(losses))


def averaged(logits: np.ndarray, networks: int) -> np.ndarray:
    """The logits `[sets, models, ...]` of the mean probabilities of so many networks each, `[sets, models x networks, ...]`."""
    if networks == 1:
        return logits
    of_networks = log_probabilities(logits.reshape(len(logits), -1, networks, *logits.shape[2:]))
    return (logsumexp(of_networks, axis=2) - math.log(networks)).astype(logits.dtype)


def answers(config: Config, level: Level, folder: Run, values: Values) -> tuple[Arrays, Arrays]:
    """The logits of all models of a level in one draw, and the losses along lines between its originals."""
    halves = level.name in (BASE, PLACEBO)  # of one pool
    members = config.members * (2 if halves else level.networks)
    pooled = dataclasses.replace(config, members=members)
    setting = set_up(config, level)
    arrays = dict(load_or_predict(pooled, folder, setting, values))
    for key in [key for key in arrays if "/" in key]:
        models = arrays[key]
        if halves:
            half = models.shape[1] // 2
            models = models[:, half:] if level.later else models[:, :half]
        arrays[key] = averaged(models, level.networks)
    everything = np.ones(len(setting.data.train.labels), bool)
    identity = {**identity_of(pooled, setting, everything), "level": level._asdict(), "points": config.points}
    name = f"lines/{level.name.replace(' ', '-')}-{config.seed}.npz"
    return arrays, load_or_make(folder, name, identity, lambda: measure_lines(config, level, setting, members))


def measure_lines(config: Config, level: Level, setting: Setting, members: int) -> Arrays:
    """The loss on train and test at points of the lines from each original to the next, `[lines, points]`.

    Networks of ensembles are moved one by one.
    """
    data, model = setting.data, setting.problem.model
    trained = pool(config, setting, setting.problem, np.ones(len(data.train.labels), bool), "original", members).variables
    if level.name in (BASE, PLACEBO):
        trained = jax.tree.map(lambda leaf: leaf[config.members :] if level.later else leaf[: config.members], trained)
    if level.networks > 1:
        trained = jax.tree.map(lambda leaf: np.reshape(leaf, (config.members, level.networks, *leaf.shape[1:])), trained)
        model = mean_of(model)
    images = np.concatenate([data.train.images, data.test.images])
    labels, count = np.concatenate([data.train.labels, data.test.labels]), len(data.train.labels)
    batches = calibration_batches(data.train.images) if jax.tree.leaves(trained.statistics) else None
    by_point = []
    with working("lines between originals") as update:
        for point in along_lines(model, trained, rotate_members(trained), config.points, batches, config.strategy):
            logits = predict(model, jax.tree.map(lambda leaf: leaf[: config.members], point), images, config.strategy)
            by_point.append(cross_entropy_losses(logits, labels))
            update(len(by_point) / config.points, f"{len(by_point)} of {config.points} points")
    losses = np.stack(by_point, axis=1)  # [lines, points, examples]
    return {"train": losses[..., :count].mean(-1), "test": losses[..., count:].mean(-1)}


def measure(config: Config, arrays: Arrays, lines: Arrays) -> dict[str, float]:
    """The measures of one level in one draw, see `report.MEASURES`; NaN if a measure is not known."""
    models = group_answers(arrays)
    kinds = {kind: [of_set.loss for of_set in models[kind, "forget"]] for kind in ("original", "oracle")}
    retain, test = models["original", "retain"][0], models["original", "test"][0]
    pairs = list(zip(models["original", "forget"], models["oracle", "forget"], strict=True))
    attacks = [attack(config.seed, one.phi, other.phi) for one, other in pairs]
    parts = {
        "test": decomposed(arrays["original/test"][:1], arrays["test_labels"][None]),
        "retain": decomposed(arrays["original/retain"][:1], arrays["retain_labels"][None]),
        "forget": decomposed(arrays["original/forget"], arrays["forget_labels"]),
        "oracle": decomposed(arrays["oracle/forget"], arrays["forget_labels"]),
    }
    shares = np.linspace(0, 1, config.points)
    return {
        "train_loss": float(np.concatenate([retain.loss, *kinds["original"]], axis=1).mean()),
        "train_accuracy": float(np.concatenate([retain.right, *(one.right for one, _ in pairs)], axis=1).mean()),
        "retain_loss": float(retain.loss.mean()),
        "forget_loss": float(np.mean([loss.mean() for loss in kinds["original"]])),
        "oracle_loss": float(np.mean([loss.mean() for loss in kinds["oracle"]])),
        "test_loss": float(test.loss.mean()),
        "test_accuracy": float(test.right.mean()),
        "test_bias": parts["test"][0],
        **{f"{name}_variance": variance for name, (_, variance) in parts.items()},
        **{f"barrier_{split}": barrier(lines[split], shares) for split in ("train", "test")},
        "memorisation": float(np.mean([one.right.mean() - other.right.mean() for one, other in pairs])),
        "lira_auc": float(np.mean([auc.mean() for auc, _ in attacks])),
        **measure_null(models),
        **measure_methods(config.method_names(), models),
    }


def decomposed(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Bias and variance of the cross-entropy over models, without the bias of few models: means over examples and forget sets.

    Args:
        logits: `[sets, models, examples, classes]`; models that diverged are left out.
        labels: `[sets, examples]`.
    """
    found = []
    for of_set, right in zip(logits, labels, strict=True):
        alive = of_set[np.isfinite(of_set).all(axis=(1, 2))]

        def parts(some: np.ndarray, right: np.ndarray = right) -> np.ndarray:
            return np.array([part.mean() for part in cross_entropy_decomposition(some, right)[1:]])

        found.append(pseudo_values(parts, alive).mean(0) if len(alive) > 2 else np.full(2, math.nan))
    bias, variance = np.mean(found, axis=0)
    return float(bias), float(variance)


def barrier(losses: np.ndarray, shares: np.ndarray) -> float:
    """The mean height of the lines whose losses are finite; NaN if there are none."""
    finite = losses[np.isfinite(losses).all(axis=1)]
    return float(barriers(finite, shares).mean()) if len(finite) else math.nan


def measure_null(models: Models) -> dict[str, float]:
    """Memory left and damage of retraining: the first half of the oracles in the place of unlearned models, against the rest."""
    count = len(models["original", "forget"][0].phi)
    halves: Models = {}
    for (kind, split), of_sets in models.items():
        if kind == "original":
            halves[kind, split] = of_sets
        elif kind == "oracle":
            halves["retrain", split] = [part_of(of_set, slice(0, count)) for of_set in of_sets]
            halves["oracle", split] = [part_of(of_set, slice(count, None)) for of_set in of_sets]
    found = measure_methods(["retrain"], halves)
    return {name: value for name, value in found.items() if "/" in name}


def part_of(of_set: Any, some: slice) -> Any:
    """The answers of some of the models."""
    return type(of_set)(*(array[some] for array in of_set))


def links(levels: Sequence[report.Measured], methods: Sequence[str]) -> list[report.Link]:
    """The rank correlation of each measure with the variance on test over the levels of equal loss: in each draw, then over them.

    Beside it the partial correlation, in which what goes along with the training loss is taken out of both: levels do not have
    exactly the same loss in every draw.
    """
    chosen = [level for level in levels if level.comparable]
    if len(chosen) < 4:
        return []
    by_level = {name: np.array([level.values(name) for level in chosen]) for name in report.measures(methods)}
    rows = []
    for name, values in by_level.items():
        if name == report.VARIANCE:
            continue
        pairs = list(zip(by_level[report.VARIANCE].T, values.T, by_level["train_loss"].T, strict=True))
        plain = np.array([rank_correlation(variance, own) for variance, own, _ in pairs])
        partial = np.array([partial_correlation(*three) for three in pairs])
        known = int(np.isfinite(plain).sum())
        rows.append(report.Link(name, len(chosen), known, *over_draws(plain), *over_draws(partial)))
    return rows


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation; NaN if a value is not known or all of one side are equal."""
    if not np.isfinite([one, other]).all() or np.ptp(one) == 0 or np.ptp(other) == 0:
        return math.nan
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])


def partial_correlation(one: np.ndarray, other: np.ndarray, given: np.ndarray) -> float:
    """The rank correlation of two measures that is left when their rank correlations with a third are taken out."""
    both, first, second = rank_correlation(one, other), rank_correlation(one, given), rank_correlation(other, given)
    left = (1 - first**2) * (1 - second**2)
    return (both - first * second) / math.sqrt(left) if left > 1e-9 else math.nan
