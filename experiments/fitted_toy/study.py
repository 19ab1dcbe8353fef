"""The search for a toy in the plane on which models behave as on images."""

import dataclasses
import hashlib
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats.qmc import LatinHypercube

from experiments.fitted_toy import order, report
from experiments.fitted_toy.options import SPACE, TOLERANCE, Config
from experiments.fitted_toy.points import image_setting, pixels, sample_points
from unlearn_jax.as_json import json_text
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.pools import train_on_halves
from unlearn_jax.bench.resume import load_or_make
from unlearn_jax.bench.setting import deciding_options
from unlearn_jax.data import DATASETS, Mixture
from unlearn_jax.data.splits import generator, random_halves, sample
from unlearn_jax.data.toys import layout
from unlearn_jax.metrics import Characteristics, characteristics, class_distances, margins, mismatch, neighbour_purity
from unlearn_jax.models import build
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import over_members, padded, predict
from unlearn_jax.training.fit import fit
from unlearn_jax.training.pools import member_keys
from unlearn_jax.types import Examples, Key, Problem, Recipe

NARROWEST = 0.03  # least standard deviation of a round's draws, as a share of the space's width
LOST = 1e3  # the mismatch of a toy on which training diverged


class Trials(NamedTuple):
    """The mixtures tried: places in the unit cube, and the mismatch of each toy with the images, in tolerances."""

    places: np.ndarray  # [rounds, candidates, parameters]
    losses: np.ndarray  # [rounds, candidates]


def run(config: Config, folder: Run) -> None:
    """Measure the images, search for the mixture, and compare the toy with the images on draws that the search did not see.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    values = order.hyperparameters(config)  # refuses what cannot be done
    seeds = range(config.seed, config.seed + config.seeds)
    images = [measure_images(dataclasses.replace(config, seed=seed)) for seed in seeds]
    target, classes = images[0], len(images[0].confusion)
    begun = Mixture(layout(class_distances(target.confusion, config.test_size // classes)), confusion=target.confusion)
    learner = Learner(config, classes)
    trials = search(config, folder, learner, begun, target)
    fitted = mixture_at(mean_of_elite(config, trials), begun)
    fresh = [seed + config.rounds + 1 for seed in seeds]  # the seeds before were used by the rounds
    with working("fresh toys") as update:
        start, end = zip(*(learner.measure([begun, fitted], seed) for seed in fresh), strict=True)
        alive = None not in (*start, *end)
        rate = config.train.learning_rate
        require(alive, "--train.learning-rate", rate, "a model of a fresh toy diverged; expected a smaller number")
        update(1.0, f"{config.seeds} draws before and after the fit")
    measured = {"images": images, "start": list(start), "fitted": list(end)}
    names = DATASETS[config.dataset].names if config.dataset in DATASETS else ()
    toys = {name: sample_points(config, mixture, fresh[0], 0) for name, mixture in (("start", begun), ("fitted", fitted))}
    study = report.Results(
        title=f"{config.dataset}, {config.train_size} examples, {config.members} MLPs of width {config.width}; "
        + (f"points seen through {config.waves} waves" if config.waves else "points seen as two coordinates"),
        names=names or tuple(map(str, range(classes))),
        measured=measured,
        toys={name: (toy.train.images, toy.train.labels, toy.clean_labels) for name, toy in toys.items()},
        parameters={name: (getattr(begun, name), getattr(fitted, name)) for name in SPACE},
        space=SPACE,
        places=trials.places,
        losses=trials.losses,
        elite=config.elite,
        tolerance=TOLERANCE,
        mismatches=mismatches(measured),
    )
    folder.write_json("mixture.json", fitted._asdict())
    folder.write_csv("characteristics.csv", *report.table(study))
    folder.write_csv("trials.csv", *report.trials(study))
    folder.write_text("summary.md", report.summary(study))
    save(report.planes(study), folder, "toy")
    save(report.characteristics(study), folder, "characteristics")
    save(report.search(study), folder, "search")
    print(report.headline(study), flush=True)
    order.compare(config, folder, {"fitted": fitted, "start": begun}, values)


def measure_images(config: Config) -> Characteristics:
    """The characteristics of the image set, from a pool on random halves."""
    setting = image_setting(config)
    data, model = setting.data, setting.problem.model
    masks, variables = train_on_halves(config, setting, config.members)
    rows = sample(len(data.test.labels), config.test_size, generator("test examples", config.seed))
    train, test = (predict(model, variables, part, config.strategy) for part in (data.train.images, data.test.images[rows]))
    return characterise(masks, train, test, data.train, data.test.labels[rows], data.classes)


def characterise(
    masks: np.ndarray, train: np.ndarray, test: np.ndarray, examples: Examples, test_labels: np.ndarray, classes: int
) -> Characteristics:
    """The characteristics of a problem, from the training and test logits of a pool on random halves."""
    purity = neighbour_purity(examples.images.reshape(len(examples.labels), -1), examples.labels)
    right = train.argmax(-1) == examples.labels
    return characteristics(masks, right, purity, test.argmax(-1), margins(test, test_labels), test_labels, classes)


class Learner:
    """Trains pools on several toys of one shape at a time. One program serves all, since toys are its arguments."""

    def __init__(self, config: Config, classes: int):
        self.config, self.classes = config, classes
        rng = generator("halves of the toy", config.seed)
        self.masks = random_halves(config.train_size, config.members, rng)
        self.keys = member_keys(config.seed, "toy", config.members)
        nothing = Examples(jnp.zeros((config.train_size, 2)), jnp.zeros(config.train_size, jnp.int32))
        self.problem = Problem(
            train=nothing,
            held_out=nothing,
            kept=jnp.ones(config.train_size, bool),
            forget=jnp.zeros(config.train_size, bool),
            model=build(config.model, classes=classes, width=config.width),
            classes=classes,
            kept_count=config.train_size,
            forget_count=0,
            recipe=Recipe(**dataclasses.asdict(config.train)),
        )
        self.answers = over_members(self.train_and_predict, (True, True, True, True, True, False), config.strategy)

    def train_and_predict(
        self, key: Key, mask: jax.Array, train: Examples, test: jax.Array, contrast: jax.Array, problem: Problem
    ) -> tuple:
        """Trains one model on the points of its mask. Returns its logits on training and on test points."""
        seen, unseen = (pixels(points, self.config.waves, contrast) for points in (train.images, test))
        own = dataclasses.replace(problem, train=Examples(seen, train.labels))
        variables = fit(key, mask, count=self.masks.shape[1] // 2, problem=own)
        return tuple(problem.model.apply(variables, images, train=False)[0] for images in (seen, unseen))

    def measure(self, mixtures: list[Mixture], seed: int) -> list[Characteristics | None]:
        """The characteristics of a toy of each mixture, all drawn with one seed; None where training diverges."""
        members = self.config.members
        toys, tests = ([sample_points(self.config, mixture, seed, draw) for mixture in mixtures] for draw in (0, 1))
        parts = zip(*(toy.train for toy in toys), strict=True)
        train = Examples(*(np.repeat(np.stack(part), members, axis=0) for part in parts))
        test = np.repeat(np.stack([toy.train.images for toy in tests]), members, axis=0)
        contrast = np.repeat(np.array([mixture.contrast for mixture in mixtures], np.float32), members)
        member = np.tile(np.arange(members), len(toys))
        logits = self.answers(*padded((self.keys[member], self.masks[member], train, test, contrast)), self.problem)
        seen, unseen = (np.asarray(part)[: len(member)].reshape(len(toys), members, *part.shape[1:]) for part in logits)
        known = zip(seen, unseen, toys, tests, strict=True)
        return [
            characterise(self.masks, a, b, toy.train, test.clean_labels, self.classes)
            if np.isfinite(a).all() and np.isfinite(b).all()
            else None
            for a, b, toy, test in known
        ]


def search(config: Config, folder: Run, learner: Learner, begun: Mixture, target: Characteristics) -> Trials:
    """The cross-entropy method: each round is drawn from a Gaussian fitted to the best places of the last round.

    Every round draws new sub-populations and points, the same for all its mixtures, so that no mixture wins by suiting one draw.
    An interrupted search resumes after its last round.

    Source: Rubinstein, "The Cross-Entropy Method for Combinatorial and Continuous Optimization", 1999.
    """
    wanted = hashlib.sha256(json_text([begun, target]).encode()).hexdigest()
    identity = {**deciding_options(config), "space": SPACE, "tolerance": TOLERANCE, "wanted": wanted}
    shape = (config.candidates, len(SPACE))
    places, losses = np.zeros((0, *shape)), np.zeros((0, config.candidates))

    def run_round(number: int) -> dict[str, np.ndarray]:
        rng = generator("mixtures", config.seed, number)
        if number == 0:
            drawn = LatinHypercube(shape[1], rng=rng).random(shape[0])
            drawn[0] = unit_place(begun)
        else:
            elite = sort_places(Trials(places, losses))[-1][: config.elite]
            spread = np.maximum(elite.std(axis=0), NARROWEST)
            drawn = np.clip(elite.mean(axis=0) + spread * rng.standard_normal(shape), 0, 1)
        measured = learner.measure([mixture_at(place, begun) for place in drawn], config.seed + 1 + number)
        return {
            "places": drawn,
            "losses": np.array([LOST if toy is None else loss(mismatch(toy, target)) for toy in measured]),
        }

    with working("search") as update:
        for number in range(config.rounds):
            arrays = load_or_make(folder, f"rounds/{number}.npz", identity, partial(run_round, number))
            places, losses = (
                np.concatenate([before, arrays[name][None]]) for name, before in (("places", places), ("losses", losses))
            )
            best_loss, median = arrays["losses"].min(), np.median(arrays["losses"])
            update((number + 1) / config.rounds, f"round {number + 1}: mismatch {best_loss:.2f}, median {median:.2f}")
    return Trials(places, losses)


def loss(apart: dict[str, float]) -> float:
    """The mean mismatch, in tolerances."""
    return float(np.mean([apart[name] / unit for name, unit in TOLERANCE.items()]))


def sort_places(trials: Trials) -> np.ndarray:
    """The places of every round from the best to the worst."""
    order = np.argsort(trials.losses, axis=1, kind="stable")
    return np.take_along_axis(trials.places, order[..., None], axis=1)


def mean_of_elite(config: Config, trials: Trials) -> np.ndarray:
    """The mean of the last round's best places."""
    return sort_places(trials)[-1][: config.elite].mean(axis=0)


def mixture_at(place: np.ndarray, begun: Mixture) -> Mixture:
    """The mixture at a place in the unit cube, with the centres and confusions of another."""
    values: dict[str, Any] = {}
    for share, (name, (low, high, way)) in zip(place, SPACE.items(), strict=True):
        values[name] = float(low * (high / low) ** share if way == "log" else low + share * (high - low))
    return begun._replace(**values)


def unit_place(mixture: Mixture) -> np.ndarray:
    """The place of a mixture in the unit cube."""
    place = []
    for name, (low, high, way) in SPACE.items():
        value = getattr(mixture, name)
        place.append(np.log(value / low) / np.log(high / low) if way == "log" else (value - low) / (high - low))
    return np.array(place)


def mismatches(measured: dict[str, list[Characteristics]]) -> dict[str, list[dict[str, float]]]:
    """The mismatches of each draw of a toy with each draw of the images, and of the draws of the images with each other."""
    images = measured["images"]
    of_images = [mismatch(a, b) for place, a in enumerate(images) for b in images[:place]]
    return {**{name: [mismatch(a, b) for a in draws for b in images] for name, draws in measured.items()}, "images": of_images}
