"""Approximate unlearning against exact truth: every method forgets every point of a toy, one at a time.

The model trained without a point, with the same seed, is the exact answer for that point. A method's change of the boundary, the
margins and the parameters is compared with the exact change.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.unlearn_one import report
from experiments.unlearn_one.options import Config
from unlearn_jax import influence
from unlearn_jax.bench.hyperparameters import settings
from unlearn_jax.bench.resume import load_or_make_all
from unlearn_jax.bench.setting import deciding_options
from unlearn_jax.bench.toy import draw_orders, draw_toy, label_grid, prepare_training, require_boundary, surfaces, window_around
from unlearn_jax.data.splits import generator
from unlearn_jax.influence import LeaveOneOut, Training
from unlearn_jax.methods import METHODS
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics.changes import closeness
from unlearn_jax.metrics.statistics import bootstrap
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import shared
from unlearn_jax.training.pools import member_keys
from unlearn_jax.types import Examples, Interval, Problem, Recipe, Variables

TUNING, HELD_OUT = 1, 0x7E57  # added to the seed: for the points of the search, and for held-out points that methods may use

ROUNDS, WIDER = 2, 10  # rounds of the search; factor by which its range exceeds tuning's at each end
NEAREST = 1e-3  # smallest ratio in the search


class Task(NamedTuple):
    """A draw of the points, the original trained on it, and the exact answers."""

    run: Training
    problem: Problem  # on the devices
    window: influence.Window
    targets: Examples  # the grid on which margins are compared
    exact: LeaveOneOut

    @property
    def most(self) -> np.ndarray:
        """Points by falling influence."""
        return np.argsort(-self.exact.change.mean_displacement, kind="stable")


def run(config: Config, folder: Run) -> None:
    """Let every method forget every point, and compare each result with the model trained without that point.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    with working("exact answers") as update:
        search = draw_task(config, config.seed + TUNING, np.arange(config.train_size // config.trials))
        evaluation = draw_task(config, config.seed, np.arange(config.train_size))
        null = compare(config, evaluation, report.REORDERED, retrain_reordered(config, evaluation))
        update(1.0, f"{config.train_size} points, twice, and {len(search.exact.points)} of the search")
    identities = {
        name: {**deciding_options(config), "values": budgeted_values(config, name), "space": METHODS[name].search or None}
        for name in config.method_names()
    }
    files = {name: (f"methods/{name}.npz", identity) for name, identity in identities.items()}
    begin, make = partial(make_unlearner, config, search), partial(forget_all, config, search, evaluation)
    kept = load_or_make_all(folder, files, begin, lambda name, method: make(name, method).to_arrays())
    methods = {report.REORDERED: null, **{name: report.MethodResult.from_arrays(arrays) for name, arrays in kept.items()}}
    toy, layers = draw_toy(config, config.seed), f"{config.layers} {config.activation} layers of {config.width}"
    study = report.Results(
        title=f"{config.train_size} points, {layers}, {evaluation.run.steps} steps of {config.train.optimiser}",
        points=toy.train.images,
        labels=toy.train.labels,
        clean_labels=toy.clean_labels,
        window=evaluation.window[:4],
        displacement=evaluation.exact.change.mean_displacement,
        most=evaluation.most[: config.shown],
        original=surfaces(evaluation.run, jax.tree.map(lambda leaf: leaf[None], evaluation.exact.original), evaluation.window)[0],
        exact=surfaces(evaluation.run, select(evaluation.exact.without, evaluation.most[: config.shown]), evaluation.window),
        methods=methods,
        medians={name: summarise(method.columns, evaluation.exact.change.mean_displacement) for name, method in methods.items()},
    )
    folder.write_csv("unlearn_one.csv", *report.table(study))
    folder.write_csv("search.csv", *report.search_table(study))
    results = {name: {measure: tuple(ends) for measure, ends in values.items()} for name, values in study.medians.items()}
    folder.write_json("results.json", results)
    summary = report.summary(study)
    folder.write_text("summary.md", summary)
    save(report.standing(study), folder, "standing")
    save(report.by_influence(study), folder, "by_influence")
    save(report.boundaries(study), folder, "boundaries")
    print(summary)


def draw_task(config: Config, seed: int, points: np.ndarray) -> Task:
    """The points of a seed, the original trained on them, and the models trained without each of `points`."""
    toy, held_out = draw_toy(config, seed), draw_toy(config, seed + HELD_OUT).train
    window = window_around(toy.train.images, config.resolution)
    targets = label_grid(window, toy)
    original = prepare_training(config, toy, seed)
    options: dict[str, Any] = {"strategy": config.strategy, "chunk": config.chunk}
    with require_boundary(config):
        exact = influence.leave_one_out(original, points, targets=targets, window=window, **options)
    everything = np.ones(len(toy.clean_labels), bool)
    problem = Problem(
        train=original.examples,
        held_out=Examples(*map(jnp.asarray, held_out)),
        kept=everything,
        forget=np.arange(len(everything)) == 0,
        model=original.model,
        classes=len(toy.centres),
        kept_count=len(everything),
        forget_count=1,
        recipe=Recipe(**dataclasses.asdict(config.train)),
    )
    return Task(original, shared(problem), window, targets, exact)


def retrain_reordered(config: Config, task: Task) -> Variables:
    """The models trained without each point, with sums in another order: equal to the exact answers up to float noise."""
    order = draw_orders(config.seed, task.run, 1)[0]
    result = influence.leave_one_out(influence.reordered(task.run, order), strategy=config.strategy, chunk=config.chunk)
    return select(result.without, np.argsort(order)) if task.run.batches is None else result.without


def select(variables: Variables, rows: np.ndarray) -> Variables:
    """The members at `rows`."""
    return jax.tree.map(lambda leaf: leaf[rows], variables)


def budgeted_values(config: Config, name: str) -> dict[str, Any]:
    """The hyperparameters of a method, with the budget that all methods share."""
    values = settings(config, [name])[name]
    budget: dict[str, Any] = {"epochs": config.epochs, "batch_size": config.train_size, "weight_decay": config.train.weight_decay}
    return values | {key: value for key, value in budget.items() if key in values}


def make_unlearner(config: Config, search: Task, name: str) -> Unlearner:
    """A method, ready to forget the points of the search."""
    values = budgeted_values(config, name)
    problem, originals, masks = make_requests(config, search)
    chunk = config.chunk or config.train_size  # one chunk: the models are small, and each size of chunk is compiled
    return Unlearner(name, values, problem, originals, masks=masks, strategy=config.strategy, chunk=chunk)


def make_requests(config: Config, task: Task) -> tuple[Problem, Variables, dict[str, np.ndarray]]:
    """The problem, one copy of the original for each point, and masks of the exact point that each copy forgets, in turns."""
    members = np.arange(config.train_size)
    originals = jax.tree.map(lambda leaf: np.repeat(leaf[None], len(members), axis=0), task.exact.original)
    return task.problem, originals, {"forget": np.resize(task.exact.points, len(members))[:, None] == members}


def forget_all(config: Config, search: Task, evaluation: Task, name: str, method: Unlearner | None) -> report.MethodResult:
    """Searches the method's main hyperparameter, then forgets every point of the evaluation."""
    assert method
    with working(name) as update:
        key, tried, scores = search_hyperparameter(config, name, method, search)
        if key:
            method.retune(**{key: tried[np.argmin(scores)]})
        method.turn_to(*make_requests(config, evaluation))
        done = method.apply(member_keys(config.seed, name, method.members))
        result = compare(config, evaluation, name, done.variables)
        result = result._replace(hyperparameter=key, tried=tried, scores=scores, seconds=done.seconds)
        update(1.0, f"{result.chosen}, {1e3 * result.seconds:.1f} ms a point")
    return result


def search_hyperparameter(config: Config, name: str, method: Unlearner, search: Task) -> tuple[str, np.ndarray, np.ndarray]:
    """The main hyperparameter of a method, all values tried, and the geometric mean of the boundary ratios of each.

    One or two points would dominate a mean of ratios or a ratio of sums, and a median would ignore a few ruined points. The first
    round covers the range of tuning and more, the second the range between the neighbours of the best value. Empty if the method
    has no hyperparameter.
    """
    tried, scores = np.zeros((2, 0))
    if not METHODS[name].search:
        return "", tried, scores
    key, reach = next(iter(METHODS[name].search.items()))
    if reach.scale == "log":
        reach = reach._replace(low=reach.low / WIDER, high=reach.high * WIDER)
    for _ in range(ROUNDS):
        values = reach.spaced(config.trials)
        method.retune(**{key: np.repeat(values, len(search.exact.points))})
        models = method.apply(member_keys(config.seed + TUNING, name, method.members)).variables
        ratios = measure_closeness(config, search, name, models)["boundary_ratio"].reshape(config.trials, -1)
        tried, scores = np.append(tried, values), np.append(scores, np.exp(np.log(np.maximum(ratios, NEAREST)).mean(axis=1)))
        best = int(np.argmin(scores[-config.trials :]))
        reach = reach._replace(low=values[max(best - 1, 0)], high=values[min(best + 1, config.trials - 1)])
    return key, tried, scores


def compare(config: Config, task: Task, name: str, models: Variables) -> report.MethodResult:
    """The result of a method whose `models` forgot one point each, without its search."""
    entry = METHODS.get(name)
    view = task.run if entry is None else dataclasses.replace(task.run, model=entry.outcome(task.run.model))
    shown = surfaces(view, select(models, task.most[: config.shown]), task.window)
    nothing = np.zeros(0)
    return report.MethodResult(
        name, entry.access if entry else "", "", nothing, nothing, 0.0, measure_closeness(config, task, name, models), shown
    )


def measure_closeness(config: Config, task: Task, name: str, models: Variables) -> dict[str, np.ndarray]:
    """The closeness of models, one for each request of `make_requests`, to the exact answers: columns of unlearn_one.csv."""
    exact, ensemble = task.exact, name in METHODS and METHODS[name].ensemble
    one = jax.tree.map(lambda leaf: leaf[None], exact.original)
    view = dataclasses.replace(task.run, model=METHODS[name].outcome(task.run.model)) if ensemble else task.run
    original = one if ensemble else exact.original
    change = influence.changes(view, original, models, task.targets, exact.contour, task.window.diagonal, config.strategy)
    assert exact.contour is not None and exact.change.boundary is not None
    rest = np.asarray(influence.displacement(task.run.model, exact.original, exact.contour, task.window.diagonal))  # rounding
    pairs = {"boundary": (change.boundary - rest, exact.change.boundary - rest), "margin": (change.margins, exact.change.margins)}
    if not ensemble:
        pairs["parameter"] = flatten(models) - flatten(one), flatten(exact.without) - flatten(one)
    columns = {"displacement": change.mean_displacement}
    turns = np.arange(len(change.margins)) % len(exact.points)
    for space, (changed, truth) in pairs.items():
        columns |= {f"{space}_{measure}": values for measure, values in closeness(changed, truth[turns])._asdict().items()}
    boundary, truth = pairs["boundary"]
    return columns | {"another_alignment": closeness(boundary, truth[draw_other_points(config, len(truth))][turns]).alignment}


def draw_other_points(config: Config, count: int) -> np.ndarray:
    """Another point for each of `count` points, at random."""
    order = generator("another point", config.seed).permutation(count)
    return order[(np.argsort(order) + 1) % count]


def flatten(variables: Variables) -> np.ndarray:
    """All parameters of each member, `[members, parameters]`."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(variables.params)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def summarise(columns: dict[str, np.ndarray], displacement: np.ndarray) -> dict[str, Interval]:
    """The median of each measure over points, the shares of points and the ratio of sums, with intervals."""
    intervals = {name: bootstrap(values, 0, statistic=np.median) for name, values in columns.items()}
    intervals["nearer"] = bootstrap((columns["boundary_ratio"] < 1).astype(float), 0)
    intervals["right_way"] = bootstrap((columns["boundary_alignment"] > 0).astype(float), 0)
    sums = np.stack([columns["boundary_ratio"] * displacement, displacement], axis=1).astype(np.float64)
    intervals["together"] = bootstrap(sums, 0, statistic=lambda some, axis: some.sum(axis)[..., 0] / some.sum(axis)[..., 1])
    return intervals
