"""Exact leave-one-out of every point from many seeds: what repeats, how many seeds it takes, and what else the cost would buy."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit
from scipy.stats import rankdata

from experiments.influence_seeds import report
from experiments.influence_seeds.options import DIGITS, Config
from unlearn_jax import influence
from unlearn_jax.bench import study_page
from unlearn_jax.bench.resume import load_or_make
from unlearn_jax.bench.setting import deciding_options
from unlearn_jax.bench.toy import draw_orders, draw_toy, require_boundary, window_around
from unlearn_jax.data import load
from unlearn_jax.data.splits import generator, random_halves
from unlearn_jax.influence import Training, Window
from unlearn_jax.metrics.changes import common_share, point_share, seeds_for, share_of_mean
from unlearn_jax.metrics.statistics import components, correlation, jackknife
from unlearn_jax.models import build
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.runs import Run
from unlearn_jax.types import Examples, Interval, Recipe, Variables

FRESH = 0x7E57  # added to the seed of the test points
BLOCK = 32  # halves drawn together: each example is in half of them
RESAMPLES = 1_000  # of points
PERMUTATIONS = 200  # of points within seeds
SPLITS = 20  # random splits of the seeds
SHARES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)  # trainings on halves, in leave-one-outs of one seed
WANTED = 0.9  # share of the mean over seeds
Arrays = dict[str, np.ndarray]
Table = np.ndarray  # [seeds, points]


class Problem(NamedTuple):
    """The examples of a circumstance; the window only of points in the plane."""

    examples: Examples
    wrong: np.ndarray  # whether a label is wrong
    test: Examples
    classes: int
    window: Window | None


def run(config: Config, folder: Run) -> None:
    """Leave every point out from every seed in every circumstance, and split the variance of its effects.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    found: list[report.Circumstance] = []
    points: list[list[Any]] = []
    for name in config.circumstance_names():
        varied = config.in_circumstance(name)
        problem = prepare(varied, name)
        keep = {**deciding_options(varied), "circumstance": name}
        seeds: list[Arrays] = []
        again: list[Arrays] = []
        with working(name) as update:
            for number in range(config.seeds):
                make = partial(leave_out, varied, problem, number)
                seeds.append(load_or_make(folder, f"seeds/{name}-{number}.npz", keep, make))
                if number < config.reordered:
                    make = partial(leave_out, varied, problem, number, reordered=True)
                    again.append(load_or_make(folder, f"seeds/{name}-{number}-reordered.npz", keep, make))
                update((number + 1) / (config.seeds + 1), f"{number + 1} seeds")
            halves = load_or_make(folder, f"seeds/{name}-halves.npz", keep, partial(train_on_halves, varied, problem))
            found.append(summarise(config.seed, name, problem, seeds, again, halves))
            update(1.0, f"{config.seeds} seeds, {len(problem.wrong)} points")
        points += [[name, *row] for row in rows_of_points(problem, seeds)]
    measures = [*report.MEASURES]
    folder.write_csv("shares.csv", *report.table(found))
    folder.write_csv("reliability.csv", *report.reliability_table(found))
    folder.write_csv("cost.csv", *report.cost_table(found))
    folder.write_csv("points.csv", ["circumstance", "point", "wrong", *measures, *(f"{name}_sd" for name in measures)], points)
    folder.write_text("summary.md", report.summary(found))
    title = f"{config.seeds} seeds, MLP of {config.layers} x {config.width}, {config.train.epochs} full-batch steps"
    save(report.shares(found, title), folder, "shares")
    save(report.reliability(found, title), folder, "reliability")
    save(report.cost(found, title), folder, "cost")
    study_page.write(folder)
    print(report.summary(found))


def prepare(config: Config, name: str) -> Problem:
    """The examples of a circumstance."""
    if name.startswith(DIGITS):
        data = load(DIGITS, train_size=config.images, label_noise=config.label_noise, seed=config.seed, cache=config.cache)
        test = Examples(*(jnp.asarray(part[: config.test_size]) for part in data.test))
        examples = Examples(*(jnp.asarray(part) for part in data.train))
        return Problem(examples, data.train.labels != data.clean_labels, test, data.classes, None)
    toy = draw_toy(config, config.seed)
    fresh = draw_toy(dataclasses.replace(config, train_size=config.test_size, label_noise=0.0), config.seed + FRESH)
    examples, test = (Examples(*(jnp.asarray(part) for part in each.train)) for each in (toy, fresh))
    window = window_around(toy.train.images, config.resolution)
    return Problem(examples, toy.train.labels != toy.clean_labels, test, len(toy.centres), window)


def prepare_training(config: Config, problem: Problem, number: int) -> Training:
    """The training of a seed: its initial weights, and the order of its batches if there are any."""
    model = build("mlp", classes=problem.classes, width=config.width, layers=config.layers, activation=config.activation)
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    return influence.training(key, model, problem.examples, Recipe(**dataclasses.asdict(config.train)))


def leave_out(config: Config, problem: Problem, number: int, *, reordered: bool = False) -> Arrays:
    """The effects of every point from one seed, see `report.MEASURES`, and the change of the margins on test examples."""
    training, places = prepare_training(config, problem, number), None
    if reordered:
        (order,) = draw_orders(config.seed + number, training, 1)
        places = np.argsort(order) if training.batches is None else None  # full-batch training reorders the points
        training = influence.reordered(training, order)
    both = Examples(*(jnp.concatenate(parts) for parts in zip(problem.examples, problem.test, strict=True)))
    with require_boundary(config):
        exact = influence.leave_one_out(
            training, places, targets=both, window=problem.window, strategy=config.strategy, chunk=config.chunk
        )
    count = len(problem.wrong)
    margins = np.asarray(influence.margins(training.model, exact.original, both), np.float64)
    change = np.asarray(exact.change.margins, np.float64)
    measured = effects(margins[:count], margins[:count] + np.diagonal(change))
    measured["test_margins"] = np.abs(change[:, count:]).mean(axis=1)
    if exact.change.boundary is not None:
        measured["displacement"] = np.asarray(exact.change.mean_displacement)
    right = {"train_right": np.array(np.mean(margins[:count] > 0)), "test_right": np.array(np.mean(margins[count:] > 0))}
    return measured | {"test_change": change[:, count:].astype(np.float32)} | right


def effects(seen: np.ndarray, unseen: np.ndarray) -> Arrays:
    """What training on a point does for itself, from its margins in nats with and without it (arrays of one shape)."""
    return {
        "own_margin": seen - unseen,
        "own_loss": np.logaddexp(0, -unseen) - np.logaddexp(0, -seen),
        "memorisation": expit(seen) - expit(unseen),
    }


def train_on_halves(config: Config, problem: Problem) -> Arrays:
    """Margins of models on random halves, each from a seed of its own, on training and test examples."""
    count = len(problem.wrong)
    models = config.pools * count
    rng = generator("halves of influence_seeds", config.seed)
    masks = np.concatenate([random_halves(count, BLOCK, rng) for _ in range(-(-models // BLOCK))])[:models]
    run = prepare_training(config, problem, 0)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), FRESH), models)

    def begin(key: jax.Array) -> tuple[Variables, Any]:
        drawn = influence.training(key, run.model, problem.examples, Recipe(**dataclasses.asdict(config.train)))
        return drawn.initial, drawn.batches

    begun = jax.vmap(begin)(keys)
    both = Examples(*(jnp.concatenate(parts) for parts in zip(problem.examples, problem.test, strict=True)))
    members = (*begun, masks.astype(np.float32))
    margins = influence.for_members(margins_from_seed, (run, both), members, config.strategy, config.chunk)
    return {"masks": masks, "margins": np.asarray(margins)}


def margins_from_seed(fixed: tuple[Training, Examples], member: tuple[Variables, Any, Any]) -> jax.Array:
    """The margins of a model with initial weights and batches of its own, trained on weighted examples."""
    (run, targets), (initial, batches, weights) = fixed, member
    trained = influence.train(dataclasses.replace(run, initial=initial, batches=batches), weights)
    return influence.margins(run.model, trained, targets)


def summarise(
    seed: int, name: str, problem: Problem, seeds: list[Arrays], again: list[Arrays], halves: Arrays
) -> report.Circumstance:
    """What a circumstance says, with intervals."""
    rng = generator("resamples of influence_seeds", seed)
    measures, reliability, cost = {}, {}, {}
    for measure in report.MEASURES:
        if measure not in seeds[0]:
            continue
        values = np.stack([one[measure] for one in seeds])
        ranks = rankdata(values, axis=1)
        both = np.stack([values[: len(again)], np.stack([one[measure] for one in again])])
        measures[measure] = report.Shares(
            raw=over_both(point_share, values, rng),
            ranks=over_both(point_share, ranks, rng),
            one_with_others=over_both(one_with_others, values, rng),
            seeds_raw=seeds_for(point_share(values), WANTED),
            seeds_ranks=seeds_for(point_share(ranks), WANTED),
            float_raw=float_share(both),
            same_seed=float(np.mean([point_share(rankdata(both[:, one], axis=1)) for one in range(len(again))])),
            permuted=permuted(ranks, rng),
        )
        reliability[measure] = [
            report.Reliability(
                n, share_of_mean(point_share(ranks), n), *(between_halves(each, n, rng) for each in (ranks, values))
            )
            for n in range(1, len(seeds) // 2 + 1)
        ]
        estimates = estimates_of_halves(halves, measure, len(problem.wrong))
        if estimates:
            averaged = {report.VALUES: values, report.RANKS: ranks}
            cost[measure] = [one for kind, each in averaged.items() for one in compare_costs(kind, each, estimates, rng)]
    changes = np.stack([one["test_change"] for one in seeds])
    right = [float(np.mean([one[kind] for one in seeds])) for kind in ("train_right", "test_right")]
    return report.Circumstance(
        name=name,
        points=len(problem.wrong),
        seeds=len(seeds),
        train_accuracy=right[0],
        test_accuracy=right[1],
        measures=measures,
        common=jackknife(common_share, changes),
        reliability=reliability,
        cost=cost,
    )


def over_both(statistic: Callable[[Table], float], values: Table, rng: np.random.Generator) -> report.Both:
    """A statistic, with an interval over seeds (jackknife) and one over points (bootstrap)."""
    drawn = rng.integers(0, values.shape[1], (RESAMPLES, values.shape[1]))
    low, high = np.quantile([statistic(values[:, some]) for some in drawn], (0.025, 0.975))
    over_seeds = jackknife(statistic, values)
    return report.Both(over_seeds.value, over_seeds.low, over_seeds.high, float(low), float(high))


def one_with_others(values: Table) -> float:
    """The rank correlation of one seed with the mean of the others, on average over the seeds."""
    others = (values.sum(axis=0) - values) / (len(values) - 1)
    return spearman(values, others)


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation over points, on average over the rows."""
    return float(np.mean(correlation(rankdata(first, axis=-1), rankdata(second, axis=-1), axis=-1)))


def float_share(both: np.ndarray) -> float:
    """The share of float noise in the variance of effects, `[orders, seeds, points]`, the seeds' own levels left out."""
    split = components(both.transpose(2, 1, 0))
    return split.seed / (split.original + split.interaction + split.seed)


def permuted(ranks: Table, rng: np.random.Generator) -> Interval:
    """The share where each seed's points are permuted: the mean and 95% of the permutations; 0 is expected."""
    drawn = [point_share(rng.permuted(ranks, axis=1)) for _ in range(PERMUTATIONS)]
    return Interval(float(np.mean(drawn)), *map(float, np.quantile(drawn, (0.025, 0.975))))


def between_halves(values: Table, count: int, rng: np.random.Generator) -> float:
    """The mean rank correlation of the mean over `count` seeds with the mean over as many others, over random splits."""
    splits = [rng.permutation(len(values))[: 2 * count].reshape(2, count) for _ in range(SPLITS)]
    return float(np.mean([spearman(*values[split].mean(axis=1)) for split in splits]))


def estimates_of_halves(halves: Arrays, measure: str, count: int) -> dict[float, np.ndarray]:
    """By trainings (in leave-one-outs of one seed), what models on halves say of a measure, `[points]`; {} if nothing."""
    masks, margins = halves["masks"], np.asarray(halves["margins"], np.float64)
    estimates = {}
    for share in SHARES:
        models = round(share * count)
        if models < BLOCK or models > len(masks) or measure == "displacement":
            continue
        some, own = masks[:models], margins[:models, :count]
        outputs = {"own_margin": own, "own_loss": -np.logaddexp(0, -own), "memorisation": expit(own)}
        if measure == "test_margins":
            estimates[share] = np.abs(influence.subset_influence(some, margins[:models, count:]).score).mean(axis=1)
        else:
            estimates[share] = np.diagonal(influence.subset_influence(some, outputs[measure]).score)
    return estimates


def compare_costs(
    averaged: str, values: Table, estimates: dict[float, np.ndarray], rng: np.random.Generator
) -> list[report.Cost]:
    """How leave-one-outs of some seeds, and as many trainings on halves, agree with the mean over half of the seeds, held out.

    Rank correlations, means over splits of the seeds; intervals are bootstraps over points, the same points for both.
    """
    half = len(values) // 2
    orders = [rng.permutation(len(values)) for _ in range(SPLITS)]
    truths = np.stack([values[order[half:]].mean(axis=0) for order in orders])
    used = {float(n): np.stack([values[order[:n]].mean(axis=0) for order in orders]) for n in range(1, half + 1)}
    drawn = [np.arange(values.shape[1]), *rng.integers(0, values.shape[1], (RESAMPLES // 5, values.shape[1]))]
    kinds = {(report.EXACT, cost): each for cost, each in used.items()}
    kinds |= {(report.HALVES, cost): np.broadcast_to(each, truths.shape) for cost, each in estimates.items()}
    scores = {kind: np.array([spearman(each[:, some], truths[:, some]) for some in drawn]) for kind, each in kinds.items()}
    found = []
    for (kind, cost), draws in scores.items():
        rival = scores.get((report.HALVES, cost)) if kind == report.EXACT else None
        lead = None if rival is None else interval(draws - rival)
        found.append(report.Cost(averaged, kind, cost, interval(draws), lead))
    return found


def interval(draws: np.ndarray) -> Interval:
    """The first value, and 95% of the others."""
    return Interval(float(draws[0]), *map(float, np.quantile(draws[1:], (0.025, 0.975))))


def rows_of_points(problem: Problem, seeds: list[Arrays]) -> list[list[Any]]:
    """Point, whether its label is wrong, and the mean and standard deviation over seeds of each measure."""
    tables = [np.stack([one[name] for one in seeds]) if name in seeds[0] else None for name in report.MEASURES]
    means = [None if each is None else each.mean(axis=0) for each in tables]
    spreads = [None if each is None else each.std(axis=0, ddof=1) for each in tables]
    return [
        [point, int(wrong), *("" if column is None else float(column[point]) for column in (*means, *spreads))]
        for point, wrong in enumerate(problem.wrong)
    ]
