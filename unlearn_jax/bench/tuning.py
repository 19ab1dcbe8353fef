"""The search for each method's hyperparameters, at the same budget for all, away from everything that the evaluation uses."""

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

AWAY = 1  # the forget set of this number is the tuning's; the evaluation counts from 0, its first is another draw
NARROW = 0.25  # of the space's width: how far around the best the later rounds draw
SEED = 0x7E57  # added to the run's seed: keys that no evaluation with a seed nearby uses


def run(config: Config, folder: Run) -> None:
    """Search, and write `tuned.json`: hyperparameters, what each scored, and what the search cost.

    Raises:
        UsageError: something in the configuration cannot be done.
    """
    asked = [name for name in config.method_names() if METHODS[name].search]
    accepted = f"hyperparameters that can be searched have {', '.join(searchable())}"
    require(bool(asked), "--methods", ",".join(config.methods), accepted)
    setting = prepare(config)
    search = Search(config, folder, setting)
    found: dict[str, dict[str, Any]] = {}
    for name in asked:
        with working(name) as update:
            found[name] = search.tune(name)
            update(1.0, f"{found[name]['authors']:.2f} -> {found[name]['score']:.2f} by {found[name]['values']}")
    columns = ("method", "authors", "score", "doing_nothing", "retrain", "trials", "retrainings")
    ends = search.judge.nothing.sum(), search.judge.floor.sum()
    rows = [[name, each["authors"], each["score"], *ends, config.trials, each["cost"]] for name, each in found.items()]
    folder.write_csv("tuning.csv", columns, rows)
    folder.write_json("trials.json", {name: each["trials"] for name, each in found.items()})
    chosen = {name: each["values"] for name, each in found.items()}
    found_by = folder.read_json("config.json")
    found_by["config"] = {key: value for key, value in found_by["config"].items() if key not in config.immaterial}
    found_by.pop("command", None)
    folder.write_json("tuned.json", {"found_by": found_by, "hyperparameters": chosen})


class Judge:
    """Originals and oracles of the tuning's own, and the score of a setting against them.

    The score is, on the forget set, retained and held-out examples each, how far the margins are from the oracles': the
    Wasserstein distance between Gaussians fitted to each example, in standard deviations of the oracles. It is smooth with few
    models, where a histogram metric such as KLOM says nothing yet. `floor` is what retrained
    models score, `nothing` what the originals do.
    """

    def __init__(self, config: Budget, setting: Setting):
        self.config, self.seed, self.label = config, config.seed + SEED, forget_class(config, setting, AWAY)
        mask = forget_mask(config, setting, AWAY)
        self.problem: Problem = forgetting(setting, mask)
        self.identity = {  # whatever a score depends on besides the method and its hyperparameters
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
        for role, models in trained.items():  # settings are judged on few models: all are needed
            lost_members(config, role, (models, self.logits(models)), config.members)
        self.originals: Variables = trained["original"]
        self.oracles = self.margins(self.logits(trained["oracle"]))
        self.nothing = self.score(self.margins(self.logits(self.originals)))
        self.floor = self.score(self.margins(self.logits(trained["retrain"])))
        self.retraining = flops(refit, member_keys(0, "", 1)[0], self.problem) / example_flops(self.problem)

    def judge(self, name: str, base: dict[str, Any], settings: list[dict[str, float]]) -> tuple[np.ndarray, np.ndarray, float]:
        """The scores of every setting, all in one batch of members.

        Returns:
            The distances `[settings, splits]`, infinite where a member diverged; accuracies of the same, in %; and the work of
            one member in training examples.
        """
        members = self.config.members
        values = base | {key: np.repeat([each[key] for each in settings], members) for key in settings[0]}
        repeated = tiled(self.originals, len(settings))
        unlearner = Unlearner(name, values, self.problem, repeated, strategy=self.config.strategy, chunk=self.config.chunk)
        done = unlearner.apply(member_keys(self.seed, f"tuning {name}", members * len(settings)))
        logits = self.logits(done.variables)
        lost = set(diverged((done.variables, logits)))
        margins_of = self.margins(logits)
        distances, shares = [], []
        for first in range(0, members * len(settings), members):
            own = [split[first : first + members] for split in margins_of]
            alive = not lost & set(range(first, first + members))
            distances.append(self.score(own) if alive else np.full(len(own), np.inf))
            shares.append([100 * float(np.mean(split > 0)) if alive else np.nan for split in own])
        return np.array(distances), np.array(shares), done.examples

    def logits(self, variables: Variables) -> list[np.ndarray]:
        """Logits of each member on the three splits."""
        return [predict(self.problem.model, variables, images, self.config.strategy) for images in self.images]

    def margins(self, logits: list[np.ndarray]) -> list[np.ndarray]:
        """Margins of each member on the three splits; a diverged one's mean nothing, and no score is made of them."""
        return [margins(np.nan_to_num(each), labels) for each, labels in zip(logits, self.labels, strict=True)]

    def score(self, own: list[np.ndarray]) -> np.ndarray:
        """The distance on each split."""
        return np.array([distance(unlearned, oracle) for unlearned, oracle in zip(own, self.oracles, strict=True)])


class Search:
    """The best of a number of trials, the distances of the splits added up."""

    def __init__(self, config: Config, folder: Run, setting: Setting):
        self.config, self.folder, self.judge = config, folder, Judge(config, setting)

    def tune(self, name: str) -> dict[str, Any]:
        """The best of the trials of one method, those that an earlier run left in the run folder or new ones."""
        config, space = self.config, METHODS[name].search
        budget = {"epochs": config.epochs, "batch_size": config.batch_size}
        given = {**budget, **({} if self.judge.label is None else {"label": self.judge.label})}
        base = hyperparameters(name, {key: value for key, value in given.items() if key in METHODS[name].defaults})
        asked = {**self.judge.identity, "base": base, "space": space, "trials": config.trials, "rounds": config.rounds}
        found = self.folder.cached(f"searches/{name}.npz", asked, partial(self.search, name, base))
        trials = [dict(zip(space, trial, strict=True)) for trial in found["trials"].tolist()]
        scores = found["scores"].tolist()
        best = int(np.argmin(scores))
        values = base | {key: float(f"{value:.3g}") for key, value in trials[best].items()}
        values.pop("label", None)  # of the set that was searched with
        record = [{**trial, "score": score} for trial, score in zip(trials, scores, strict=True)]
        spent = float(found["cost"]) * config.members / self.judge.retraining
        return {"values": values, "score": scores[best], "authors": scores[0], "trials": record, "cost": spent}

    def search(self, name: str, base: dict[str, Any]) -> dict[str, np.ndarray]:
        """The trials of one method, `[trials, hyperparameters]`, the score of each, and the work of all in training examples."""
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
        """A point of the unit cube as hyperparameters: anywhere at first, then near the best so far."""
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
        oracle: those of the oracles.
    """
    apart = (unlearned.mean(0) - oracle.mean(0)) ** 2 + (unlearned.std(0) - oracle.std(0)) ** 2
    return float(np.sqrt(apart.mean() / oracle.var(0).mean()))


def tiled(tree: Any, times: int) -> Any:
    """All members again and again: one set of them for each setting."""
    return jax.tree.map(lambda leaf: np.tile(leaf, (times,) + (1,) * (leaf.ndim - 1)), tree)
