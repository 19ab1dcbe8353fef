"""Scores settings of a method on models that the evaluation does not use."""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from experiments.sensitivity.options import Config
from unlearn_jax.bench.forget_set import forget_class, forget_mask
from unlearn_jax.bench.pools import pool
from unlearn_jax.bench.population import lost_members
from unlearn_jax.bench.setting import Setting, forgetting
from unlearn_jax.bench.tuning import SEED
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import margins
from unlearn_jax.metrics.distances import gaussian_distance
from unlearn_jax.training.cost import example_flops, flops
from unlearn_jax.training.ensembles import predict, tile
from unlearn_jax.training.fit import refit
from unlearn_jax.training.pools import diverged, member_keys
from unlearn_jax.types import Problem, Variables

AWAY = 1  # number of the forget set; number 0 is the evaluation's first


class Judge:
    """Originals and oracles of one forget set, and the score of a setting against them.

    The score is the distance of the margins from the oracles' on the forget set, on retained and on held-out examples: the
    Wasserstein distance between Gaussians fitted to each example, in standard deviations of the oracles. It is smooth even
    with few models, unlike a histogram metric such as KLOM. `floor` is the score of retrained models, `nothing` that of the
    originals.
    """

    def __init__(self, config: Config, setting: Setting):
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
        return np.array([gaussian_distance(*pair) for pair in zip(unlearned, self.oracles, strict=True)])
