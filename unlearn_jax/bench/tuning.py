"""The search for hyperparameters: the same budget for every method, and no data or model that the evaluation uses."""

import dataclasses
import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from scipy.stats.qmc import LatinHypercube

from unlearn_jax.bench.forget_set import forget_class, forget_mask
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.pools import pool
from unlearn_jax.bench.population import lost_members
from unlearn_jax.bench.setting import Setting, forgetting, prepare
from unlearn_jax.bench.tuning_options import Budget, Config
from unlearn_jax.data.splits import generator
from unlearn_jax.methods import METHODS, Range, hyperparameters, searchable
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import margins
from unlearn_jax.progress import working
from unlearn_jax.runs import Run
from unlearn_jax.training.cost import example_flops, flops
from unlearn_jax.training.ensembles import predict
from unlearn_jax.training.fit import refit
from unlearn_jax.training.pools import diverged, member_keys
from unlearn_jax.types import Problem, Variables

AWAY = 1  # number of the forget set for tuning; number 0 is the evaluation's first
NARROW = 0.25  # width of the range around the best in later rounds, as a share of the whole range
SEED = 0x7E57  # added to the run's seed, for keys that no evaluation with a similar seed uses


def run(config: Config, folder: Run) -> None:
    """Searches, and writes hyperparameters (`tuned.json`), the scores of all trials, and the cost of the search.

    Raises:
        ArgumentError: the configuration cannot be run.
    """
    names = [name for name in config.method_names() if METHODS[name].search]
    accepted = f"nothing to search; expected some of {', '.join(searchable())}"
    require(bool(names), "--methods", ",".join(config.methods), accepted)
    setting = prepare(config)
    search = Search(config, folder, setting)
    results: dict[str, dict[str, Any]] = {}
    for name in names:
        with working(name) as update:
            best = results[name] = search.tune(name)
            update(1.0, f"distance {best['authors']:.2f} (authors' values) -> {best['score']:.2f} ({best['values']})")
    columns = ("method", "authors", "score", "doing_nothing", "retrain", "trials", "retrainings")
    ends = search.judge.nothing.sum(), search.judge.floor.sum()
    rows = [[name, best["authors"], best["score"], *ends, config.trials, best["cost"]] for name, best in results.items()]
    folder.write_csv("tuning.csv", columns, rows)
    folder.write_json("trials.json", {name: best["trials"] for name, best in results.items()})
    chosen = {name: best["values"] for name, best in results.items()}
    found_by = folder.read_json("config.json")
    found_by["config"] = {key: value for key, value in found_by["config"].items() if key not in config.immaterial}
    found_by.pop("command", None)
    folder.write_json("tuned.json", {"found_by": found_by, "hyperparameters": chosen})


class Judge:
    """Originals and oracles for tuning only, and the score of a setting against them.

    The score is the distance of the margins from the oracles' on the forget set, on retained and on held-out examples: the
    Wasserstein distance between Gaussians fitted to each example, in standard deviations of the oracles. It is smooth even
    with few models, unlike a histogram metric such as KLOM. `floor` is the score of retrained models, `nothing` that of the
    originals.
    """

    def __init__(self, config: Budget, setting: Setting):
        self.config, self.seed, self.label = config, config.seed + SEED, forget_class(config, setting, AWAY)
        mask = forget_mask(config, setting, AWAY)
        self.problem: Problem = forgetting(setting, mask)
        self.identity = {  # all that a score depends on besides the method and its hyperparameters
            **setting.identity,
            "forget": hashlib.sha256(np.packbits(mask).tobytes()).hexdigest(),
            "recipe": dataclasses.asdict(self.problem.recipe),
            "members": config.members,
            "retain_size": config.evaluation.retain_size,
            "seed": self.seed,
        }
        retained = np.flatnonzero(~mask)[: config.evaluation.retain_size]
        train, held_out = setting.data.train, setting.data.held_out
        self.images = train.images[mask], train.images[retained], held_out.images
        self.labels = train.labels[mask], train.labels[retained], held_out.labels
        trained = {
            role: pool(config, setting, self.problem, kept, role, members, self.seed).variables
            for role, kept, members in (
                ("original", mask | True, config.members),
                ("oracle", ~mask, config.members),
                ("retrain", ~mask, config.members),
            )
        }
        for role, models in trained.items():  # they are few: none may diverge
            lost_members(config, role, (models, self.logits(models)), config.members)
        self.originals: Variables = trained["original"]
        self.oracles = self.margins(self.logits(trained["oracle"]))
        self.nothing = self.score(self.margins(self.logits(self.originals)))
        self.floor = self.score(self.margins(self.logits(trained["retrain"])))
        self.retraining = flops(refit, member_keys(0, "", 1)[0], self.problem) / example_flops(self.problem)

    def judge(self, name: str, base: dict[str, Any], settings: list[dict[str, float]]) -> tuple[np.ndarray, np.ndarray, float]:
        """Scores every setting, all in one batch of members.

        Returns:
            The distances `[settings, splits]`, infinite where a member diverged; the accuracies, in %; and the work for
            one member in training examples.
        """
        members = self.config.members
        values = base | {key: np.repeat([setting[key] for setting in settings], members) for key in settings[0]}
        repeated = tile(self.originals, len(settings))
        unlearner = Unlearner(name, values, self.problem, repeated, strategy=self.config.strategy, chunk=self.config.chunk)
        done = unlearner.apply(member_keys(self.seed, f"tuning {name}", members * len(settings)))
        logits = self.logits(done.variables)
        lost = set(diverged((done.variables, logits)))
        margins_of = self.margins(logits)
        distances, shares = [], []
        for first in range(0, members * len(settings), members):
            unlearned = [split[first : first + members] for split in margins_of]
            alive = not lost & set(range(first, first + members))
            distances.append(self.score(unlearned) if alive else np.full(len(unlearned), np.inf))
            shares.append([100 * float(np.mean(split > 0)) if alive else np.nan for split in unlearned])
        return np.array(distances), np.array(shares), done.examples

    def logits(self, variables: Variables) -> list[np.ndarray]:
        """Returns the logits of each member on the three splits."""
        return [predict(self.problem.model, variables, images, self.config.strategy) for images in self.images]

    def margins(self, logits: list[np.ndarray]) -> list[np.ndarray]:
        """Returns the margins of each member on the three splits; those of a diverged member are meaningless and never scored."""
        return [margins(np.nan_to_num(of_split), labels) for of_split, labels in zip(logits, self.labels, strict=True)]

    def score(self, unlearned: list[np.ndarray]) -> np.ndarray:
        """Returns the distance of margins from the oracles' on each split."""
        return np.array([distance(*pair) for pair in zip(unlearned, self.oracles, strict=True)])


class Search:
    """A search for the setting with the smallest distance, summed over the splits."""

    def __init__(self, config: Config, folder: Run, setting: Setting):
        self.config, self.folder, self.judge = config, folder, Judge(config, setting)

    def tune(self, name: str) -> dict[str, Any]:
        """Returns the best trial of one method; trials that an earlier run left in the run folder are read."""
        config, space = self.config, METHODS[name].search
        budget = {"epochs": config.epochs, "batch_size": config.batch_size}
        fixed = {**budget, **({} if self.judge.label is None else {"label": self.judge.label})}
        base = hyperparameters(name, {key: value for key, value in fixed.items() if key in METHODS[name].defaults})
        identity = {**self.judge.identity, "base": base, "space": space, "trials": config.trials, "rounds": config.rounds}
        saved = self.folder.cached(f"searches/{name}.npz", identity, partial(self.search, name, base))
        trials = [dict(zip(space, trial, strict=True)) for trial in saved["trials"].tolist()]
        scores = saved["scores"].tolist()
        best = int(np.argmin(scores))
        values = base | {key: float(f"{value:.3g}") for key, value in trials[best].items()}
        values.pop("label", None)  # it belongs to the forget set
        record = [{**trial, "score": score} for trial, score in zip(trials, scores, strict=True)]
        spent = float(saved["cost"]) * config.members / self.judge.retraining
        return {"values": values, "score": scores[best], "authors": scores[0], "trials": record, "cost": spent}

    def search(self, name: str, base: dict[str, Any]) -> dict[str, np.ndarray]:
        """Returns the trials of one method, `[trials, hyperparameters]`, their scores, and the work in training examples."""
        config, space = self.config, METHODS[name].search
        trials: list[dict[str, float]] = []
        scores: list[float] = []
        cost = 0.0
        for number, points in enumerate(np.array_split(np.arange(config.trials), config.rounds)):
            rng = generator(f"tuning {name}", self.config.seed, number)
            draw = LatinHypercube(len(space), rng=rng).random(len(points))
            settings = [self.place(space, point, trials, scores) for point in draw]
            if number == 0:
                settings[0] = {key: base[key] for key in space}
            results, _, examples = self.judge.judge(name, base, settings)
            trials, scores, cost = trials + settings, scores + list(results.sum(axis=1)), cost + examples * len(points)
        kept = np.array([[trial[key] for key in space] for trial in trials])
        return {"trials": kept, "scores": np.array(scores), "cost": np.array(cost)}

    def place(
        self, space: Mapping[str, Range], point: np.ndarray, trials: list[dict[str, float]], scores: list[float]
    ) -> dict[str, float]:
        """Maps a point of the unit cube to hyperparameters: in the whole space at first, then near the best so far."""
        placed = {}
        for share, (key, (low, high, scale)) in zip(point, space.items(), strict=True):
            ends = np.log([low, high]) if scale == "log" else np.array([low, high])
            if trials:
                best = trials[int(np.argmin(scores))][key]
                centre = np.log(best) if scale == "log" else best
                reach = NARROW * (ends[1] - ends[0]) / 2
                ends = np.clip([centre - reach, centre + reach], *ends)
            value = ends[0] + share * (ends[1] - ends[0])
            placed[key] = float(np.exp(value) if scale == "log" else value)
        return placed


def distance(unlearned: np.ndarray, oracle: np.ndarray) -> float:
    """Root mean square over examples of the 2-Wasserstein distance of Gaussians, in the oracles' root mean square sd.

    Args:
        unlearned: margins `[members, examples]`.
        oracle: margins of the oracles.
    """
    squared = (unlearned.mean(0) - oracle.mean(0)) ** 2 + (unlearned.std(0) - oracle.std(0)) ** 2
    return float(np.sqrt(squared.mean() / oracle.var(0).mean()))


def tile(tree: Any, times: int) -> Any:
    """Repeats all members, once for each setting."""
    return jax.tree.map(lambda leaf: np.tile(leaf, (times,) + (1,) * (leaf.ndim - 1)), tree)
