"""Approximate unlearning against exact truth: every method forgets every point of a toy, one at a time.

The model trained without a point, the seed and everything else the same, is the one right answer for that point; what a method
does to the boundary, to the margins and to the parameters is held against what that model changed.
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

TUNING, HELD_OUT = 1, 0x7E57  # added to the seed: the points of the search, and those that methods may see as held out

ROUNDS, WIDER = 2, 10  # of the search; times that its space reaches beyond that for networks on images, at either end
NEAREST = 1e-3  # no ratio counts for less in the search


class World(NamedTuple):
    """A draw of the points, what was trained on it, and the exact answers."""

    run: Training
    problem: Problem  # on the devices
    window: influence.Window
    targets: Examples  # the grid on which margins are looked at
    exact: LeaveOneOut

    @property
    def most(self) -> np.ndarray:
        """Points by falling influence."""
        return np.argsort(-self.exact.change.mean_displacement, kind="stable")


def run(config: Config, folder: Run) -> None:
    """Let every method forget every point, and hold each answer against the model trained without that point.

    Raises:
        UsageError: something in the configuration cannot be done.
    """
    with working("exact answers") as update:
        search = world(config, config.seed + TUNING, np.arange(config.train_size // config.trials))
        own = world(config, config.seed, np.arange(config.train_size))
        null = answers(config, own, report.REORDERED, reordered(config, own))
        update(1.0, f"{config.train_size} points, twice, and {len(search.exact.points)} of the search")
    identities = {
        name: {**deciding_options(config), "values": budgeted(config, name), "space": METHODS[name].search or None}
        for name in config.method_names()
    }
    files = {name: (f"methods/{name}.npz", identity) for name, identity in identities.items()}
    begin, make = partial(unlearner, config, search), partial(forgotten, config, search, own)
    kept = load_or_make_all(folder, files, begin, lambda name, method: make(name, method).arrays())
    found = {report.REORDERED: null, **{name: report.Forgotten.of(arrays) for name, arrays in kept.items()}}
    toy, layers = draw_toy(config, config.seed), f"{config.layers} {config.activation} layers of {config.width}"
    study = report.Results(
        title=f"{config.train_size} points, {layers}, {own.run.steps} steps of {config.train.optimiser}",
        points=toy.train.images,
        labels=toy.train.labels,
        clean_labels=toy.clean_labels,
        window=own.window[:4],
        displacement=own.exact.change.mean_displacement,
        most=own.most[: config.shown],
        original=surfaces(own.run, jax.tree.map(lambda leaf: leaf[None], own.exact.original), own.window)[0],
        exact=surfaces(own.run, at(own.exact.without, own.most[: config.shown]), own.window),
        found=found,
        medians={name: medians(each.columns, own.exact.change.mean_displacement) for name, each in found.items()},
    )
    folder.write_csv("unlearn_one.csv", *report.table(study))
    folder.write_csv("search.csv", *report.searched(study))
    results = {name: {measure: tuple(found) for measure, found in each.items()} for name, each in study.medians.items()}
    folder.write_json("results.json", results)
    summary = report.summary(study)
    folder.write_text("summary.md", summary)
    save(report.standing(study), folder, "standing")
    save(report.by_influence(study), folder, "by_influence")
    save(report.boundaries(study), folder, "boundaries")
    print(summary)


def world(config: Config, seed: int, points: np.ndarray) -> World:
    """The points of a seed, the original trained on them, and the models trained without each of some points."""
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
    return World(original, shared(problem), window, targets, exact)


def reordered(config: Config, own: World) -> Variables:
    """The models without each point, each step's sums in another order: the exact answers again but for float noise."""
    order = draw_orders(config.seed, own.run, 1)[0]
    found = influence.leave_one_out(influence.reordered(own.run, order), strategy=config.strategy, chunk=config.chunk)
    return at(found.without, np.argsort(order)) if own.run.batches is None else found.without


def at(variables: Variables, rows: np.ndarray) -> Variables:
    """Some of many members."""
    return jax.tree.map(lambda leaf: leaf[rows], variables)


def budgeted(config: Config, name: str) -> dict[str, Any]:
    """The hyperparameters of a method with the budget of all."""
    values = settings(config, [name])[name]
    budget: dict[str, Any] = {"epochs": config.epochs, "batch_size": config.train_size, "weight_decay": config.train.weight_decay}
    return values | {key: value for key, value in budget.items() if key in values}


def unlearner(config: Config, search: World, name: str) -> Unlearner:
    """A method with the budget of all, ready to forget the points of the search."""
    values = budgeted(config, name)
    problem, originals, masks = asked(config, search)
    chunk = config.chunk or config.train_size  # the models are small, and each size of chunk is compiled
    return Unlearner(name, values, problem, originals, masks=masks, strategy=config.strategy, chunk=chunk)


def asked(config: Config, own: World) -> tuple[Problem, Variables, dict[str, np.ndarray]]:
    """The problem, as many copies of the original as there are points, and what each is to forget: the exact points in turns."""
    members = np.arange(config.train_size)
    originals = jax.tree.map(lambda leaf: np.repeat(leaf[None], len(members), axis=0), own.exact.original)
    return own.problem, originals, {"forget": np.resize(own.exact.points, len(members))[:, None] == members}


def forgotten(config: Config, search: World, own: World, name: str, method: Unlearner | None) -> report.Forgotten:
    """Search the method's main hyperparameter, then forget every point of the evaluation."""
    assert method
    with working(name) as update:
        key, tried, scores = searched(config, name, method, search)
        if key:
            method.retune(**{key: tried[np.argmin(scores)]})
        method.turn_to(*asked(config, own))
        done = method.apply(member_keys(config.seed, name, method.members))
        found = answers(config, own, name, done.variables)
        found = found._replace(hyperparameter=key, tried=tried, scores=scores, seconds=done.seconds)
        update(1.0, f"{found.chosen}, {1e3 * found.seconds:.1f} ms a point")
    return found


def searched(config: Config, name: str, method: Unlearner, search: World) -> tuple[str, np.ndarray, np.ndarray]:
    """The main hyperparameter of a method, every value that was tried, and the geometric mean of the boundary ratios of each.

    A mean of ratios, or the ratio of sums, would go by one or two points; a median would not see a few that are ruined. The first
    round spans what the tuning's does and more, the second lies between the neighbours of the best. Nothing where
    there is nothing to tune.
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
        ratios = judged(config, search, name, models)["boundary_ratio"].reshape(config.trials, -1)
        tried, scores = np.append(tried, values), np.append(scores, np.exp(np.log(np.maximum(ratios, NEAREST)).mean(axis=1)))
        best = int(np.argmin(scores[-config.trials :]))
        reach = reach._replace(low=values[max(best - 1, 0)], high=values[min(best + 1, config.trials - 1)])
    return key, tried, scores


def answers(config: Config, own: World, name: str, models: Variables) -> report.Forgotten:
    """Models, one for each point, compared with the exact answers."""
    entry = METHODS.get(name)
    view = own.run if entry is None else dataclasses.replace(own.run, model=entry.outcome(own.run.model))
    shown = surfaces(view, at(models, own.most[: config.shown]), own.window)
    nothing = np.zeros(0)
    return report.Forgotten(
        name, entry.access if entry else "", "", nothing, nothing, 0.0, judged(config, own, name, models), shown
    )


def judged(config: Config, own: World, name: str, models: Variables) -> dict[str, np.ndarray]:
    """How near models that were `asked` are to the exact answers: columns of unlearn_one.csv."""
    exact, ensemble = own.exact, name in METHODS and METHODS[name].ensemble
    one = jax.tree.map(lambda leaf: leaf[None], exact.original)
    view = dataclasses.replace(own.run, model=METHODS[name].outcome(own.run.model)) if ensemble else own.run
    original = one if ensemble else exact.original
    change = influence.changes(view, original, models, own.targets, exact.contour, own.window.diagonal, config.strategy)
    assert exact.contour is not None and exact.change.boundary is not None
    rest = np.asarray(influence.displacement(own.run.model, exact.original, exact.contour, own.window.diagonal))  # rounding
    pairs = {"boundary": (change.boundary - rest, exact.change.boundary - rest), "margin": (change.margins, exact.change.margins)}
    if not ensemble:
        pairs["parameter"] = flat(models) - flat(one), flat(exact.without) - flat(one)
    columns = {"displacement": change.mean_displacement}
    turns = np.arange(len(change.margins)) % len(exact.points)
    for space, (found, truth) in pairs.items():
        columns |= {f"{space}_{measure}": values for measure, values in closeness(found, truth[turns])._asdict().items()}
    boundary, truth = pairs["boundary"]
    return columns | {"another_alignment": closeness(boundary, truth[another(config, len(truth))][turns]).alignment}


def another(config: Config, count: int) -> np.ndarray:
    """For each of some points another one, at random."""
    order = generator("another point", config.seed).permutation(count)
    return order[(np.argsort(order) + 1) % count]


def flat(variables: Variables) -> np.ndarray:
    """All parameters of each member, `[members, parameters]`."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(variables.params)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def medians(columns: dict[str, np.ndarray], displacement: np.ndarray) -> dict[str, Interval]:
    """The median over points of each measure with its interval, shares of the points, and the ratio of all points together."""
    found = {name: bootstrap(values, 0, statistic=np.median) for name, values in columns.items()}
    found["nearer"] = bootstrap((columns["boundary_ratio"] < 1).astype(float), 0)
    found["right_way"] = bootstrap((columns["boundary_alignment"] > 0).astype(float), 0)
    sums = np.stack([columns["boundary_ratio"] * displacement, displacement], axis=1).astype(np.float64)
    found["together"] = bootstrap(sums, 0, statistic=lambda some, axis: some.sum(axis)[..., 0] / some.sum(axis)[..., 1])
    return found
