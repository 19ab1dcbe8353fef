"""What capacity does to the boundary of a toy and to the exact influence of every point, from several seeds."""

import dataclasses
import hashlib
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from scipy.special import expit
from scipy.stats import rankdata

from experiments.capacity_boundary import report
from experiments.capacity_boundary.options import Config
from unlearn_jax import influence
from unlearn_jax.as_json import json_text
from unlearn_jax.bench import study_page
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.resume import load_or_make
from unlearn_jax.bench.setting import deciding_options
from unlearn_jax.bench.toy import (
    draw_orders,
    draw_toy,
    float_noise,
    furthest_moves,
    outlines,
    prepare_training,
    surfaces,
    window_around,
)
from unlearn_jax.data import Toy
from unlearn_jax.influence import NoBoundaryError, Window
from unlearn_jax.metrics.changes import carriers, common_share, gini
from unlearn_jax.metrics.statistics import bootstrap, jackknife
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.report.explorer import Layer
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import predict
from unlearn_jax.types import Interval

FRESH, FRESH_POINTS = 0x7E57, 2000  # of the test points: what is added to the seed, and how many
Seed = dict[str, np.ndarray]  # what `measure` returns


def run(config: Config, folder: Run) -> None:
    """Measure the exact influence of every point on every network from every seed, and compare them.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    toy = draw_toy(config, config.seed)
    window = window_around(toy.train.images, config.resolution)
    networks: list[tuple[str, str, dict[int, Seed]]] = []  # axis, value, and by seed the results that have a boundary
    names: list[str] = []  # of the same networks
    for axis, value, variant in config.variants():
        seeds: dict[int, Seed] = {}
        with working(f"{axis} {value}") as update:
            for done in range(config.seeds):
                one = load_or_measure(variant, folder, toy, window, config.seed + done)
                if len(one["displacement"]) and np.ptp(one["displacement"]):  # else points have no ranking
                    seeds[config.seed + done] = one
                update((done + 1) / config.seeds, f"{done + 1} seeds, {done + 1 - len(seeds)} without a boundary")
        if not networks:
            remedy = f"the base has a decision boundary from {len(seeds)} of {config.seeds} seeds and needs two"
            remedy += f"; expected more, or a larger --train.learning-rate than {config.train.learning_rate:g}"
            require(len(seeds) >= 2, "--train.epochs", config.train.epochs, remedy)
        if len(seeds) >= 2:
            networks.append((axis, value, seeds))
            names.append(network_name(variant))
    base = networks[0][2]
    study = report.Results(
        title=f"{config.train_size} points, {config.seeds} seeds; base: {config.layers} {config.activation} layers of "
        f"{config.width}, {config.train.epochs} steps of {config.train.optimiser}",
        points=toy.train.images,
        labels=toy.train.labels,
        window=window[:4],
        variants=[
            report.Variant(
                axis,
                value,
                int(next(iter(seeds.values()))["parameters"]),
                len(seeds),
                np.stack([one["surface"] for one in seeds.values()]),
                summarise(toy, [*seeds.values()], [*base.values()]),
            )
            for axis, value, seeds in networks
        ],
        agreement=correlate_networks([seeds for *_, seeds in networks]),
    )
    folder.write_csv("capacity_boundary.csv", *report.table(study))
    rows = [[axis, value, seed, *seed_levels(one)] for axis, value, seeds in networks for seed, one in seeds.items()]
    folder.write_csv("seeds.csv", ["axis", "value", "seed", "displacement_mean", "displacement_median", "noise_median"], rows)
    intervals = {each.name: {name: tuple(ends) for name, ends in each.intervals.items()} for each in study.variants}
    folder.write_json("results.json", intervals)
    summary = report.summary(study)
    folder.write_text("summary.md", summary)
    if study.axes:  # empty if only the base has a boundary from two seeds
        save(report.boundaries(study), folder, "boundaries")
        save(report.trends(study), folder, "trends")
    save(report.agreement(study), folder, "agreement")
    layers = {
        f"{name}-{seed}": layer_of(one) for name, (*_, seeds) in zip(names, networks, strict=True) for seed, one in seeds.items()
    }
    places = [
        (axis, value, {str(seed): f"{name}-{seed}" for seed in seeds})
        for name, (axis, value, seeds) in zip(names, networks, strict=True)
    ]
    study_page.write(folder, report.explore(study, window, toy.clean_labels, layers, places))
    print(summary)


def load_or_measure(config: Config, folder: Run, toy: Toy, window: Window, seed: int) -> Seed:
    """The results of `measure` for one seed. Those kept by an earlier run are read."""
    name, make = f"seeds/{network_name(config)}-{seed}.npz", partial(measure, config, toy, window, seed)
    return load_or_make(folder, name, {**deciding_options(config), "of_seed": seed}, make)


def network_name(config: Config) -> str:
    """The name of a network's files, with a digest of all options that its results depend on."""
    digest = hashlib.sha256(json_text(deciding_options(config)).encode()).hexdigest()
    return f"{config.activation}-{config.layers}x{config.width}-{digest[:16]}"


def measure(config: Config, toy: Toy, window: Window, seed: int) -> Seed:
    """The exact influence of every point from one seed; no displacements if the window has no boundary."""
    original = prepare_training(config, toy, seed)
    try:
        exact = influence.leave_one_out(original, window=window, strategy=config.strategy, chunk=config.chunk)
    except NoBoundaryError:
        return {"displacement": np.zeros(0)}
    noise = float_noise(config, original, exact, window, draw_orders(config.seed, original, config.reorderings))
    one = jax.tree.map(lambda leaf: leaf[None], exact.original)
    fresh = draw_toy(dataclasses.replace(config, train_size=FRESH_POINTS), config.seed + FRESH)
    seen, unseen = (predict(original.model, one, points)[0] for points in (toy.train.images, fresh.train.images))
    return {
        "displacement": exact.change.mean_displacement,
        "margins": influence.margins(original.model, exact.original, original.examples),
        "change": exact.change.margins,
        "noise": noise,
        "surface": surfaces(original, one, window)[0],
        "boundary": np.array(outlines(original, one, window)[0]),
        "without": np.frombuffer("\n".join(outlines(original, exact.without, window)).encode(), np.uint8),
        "furthest": furthest_moves(exact),
        "train_accuracy": np.mean(seen.argmax(1) == toy.train.labels),
        "test_accuracy": np.mean(unseen.argmax(1) == fresh.clean_labels),
        "parameters": np.array(sum(leaf.size for leaf in jax.tree.leaves(exact.original.params))),
    }


def layer_of(one: Seed) -> Layer:
    """What the explorer shows of one seed; without outlines if an earlier version made it."""
    scores = {"displacement_mean": one["displacement"], "memorisation": memorisation(one)}
    noise = float(one["noise"].max())
    if "without" not in one:
        return Layer("", [], np.zeros((0, 4)), noise, scores)
    return Layer(str(one["boundary"]), one["without"].tobytes().decode().split("\n"), one["furthest"], noise, scores)


def seed_levels(one: Seed) -> tuple[float, float, float]:
    """Mean and median displacement over points, and the median float noise."""
    return float(one["displacement"].mean()), float(np.median(one["displacement"])), float(np.median(one["noise"]))


def summarise(toy: Toy, seeds: list[Seed], base: list[Seed]) -> dict[str, Interval]:
    """The measures of a network with intervals: over seeds, but over points for the comparison with the base."""
    wrong = toy.train.labels != toy.clean_labels

    def over_seeds(statistic: Callable[[Seed], float]) -> Interval:
        return jackknife(lambda values: float(values.mean()), np.array([statistic(one) for one in seeds]))

    less = np.mean([memorisation(one) for one in seeds], axis=0) < np.mean([memorisation(one) for one in base], axis=0)
    return {
        "train_accuracy": over_seeds(lambda one: 100 * float(one["train_accuracy"])),
        "test_accuracy": over_seeds(lambda one: 100 * float(one["test_accuracy"])),
        "displacement": over_seeds(lambda one: float(one["displacement"].mean())),
        "noise": over_seeds(lambda one: float(np.median(one["noise"]))),
        "above_noise": over_seeds(lambda one: 100 * float(np.mean(one["displacement"] > one["noise"].max()))),
        "gini": over_seeds(lambda one: gini(one["displacement"])),
        "half": over_seeds(lambda one: 100 * carriers(one["displacement"], 0.5)),
        "most": over_seeds(lambda one: 100 * carriers(one["displacement"], 0.9)),
        "ranks": jackknife(rank_correlation, np.stack([one["displacement"] for one in seeds])),
        "common": jackknife(common_share, np.stack([one["change"] for one in seeds])),
        "memorised": over_seeds(lambda one: float(memorisation(one)[~wrong].mean())),
        "memorised_wrong": over_seeds(lambda one: float(memorisation(one)[wrong].mean()) if wrong.any() else 0.0),
        "less_memorised": bootstrap(100.0 * less, 0),
    }


def memorisation(one: Seed) -> np.ndarray:
    """How much more probable each point's label is with the point than without it, `[points]`."""
    return expit(one["margins"]) - expit(one["margins"] + np.diagonal(one["change"]))


def rank_correlation(displacements: np.ndarray) -> float:
    """The mean of Spearman's rank correlation over all pairs of rows."""
    among = np.corrcoef(rankdata(displacements, axis=1))
    return float(among[np.triu_indices(len(among), 1)].mean())


def correlate_networks(networks: list[dict[int, Seed]]) -> np.ndarray:
    """Mean rank correlation of the displacements of each two networks over pairs of different seeds, `[networks, networks]`."""
    ranks = [rankdata(np.stack([one["displacement"] for one in seeds.values()]), axis=1) for seeds in networks]
    correlations = np.zeros((len(networks), len(networks)))
    for row, (row_seeds, row_ranks) in enumerate(zip(networks, ranks, strict=True)):
        for column, (column_seeds, column_ranks) in enumerate(zip(networks, ranks, strict=True)):
            both = np.corrcoef(row_ranks, column_ranks)[: len(row_ranks), len(row_ranks) :]
            correlations[row, column] = both[np.not_equal.outer([*row_seeds], [*column_seeds])].mean()
    return correlations
