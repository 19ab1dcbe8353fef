"""Originals, forget sets and oracles of one seed that judge settings of methods by their distance from retraining."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from unlearn_jax.bench.forget_set import forget_class, forget_mask, forget_name
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.options import Training
from unlearn_jax.bench.pools import pool
from unlearn_jax.bench.population import lost_members
from unlearn_jax.bench.setting import Setting, forgetting
from unlearn_jax.bench.tuning_options import Config
from unlearn_jax.methods import METHODS
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.methods.registry import traceable
from unlearn_jax.metrics import margins
from unlearn_jax.metrics.effects import SPLITS, Effects, Margins, effects
from unlearn_jax.training.cost import example_flops, flops
from unlearn_jax.training.ensembles import predict
from unlearn_jax.training.fit import refit
from unlearn_jax.training.pools import diverged, member_keys
from unlearn_jax.types import Problem, Variables


class Judging(NamedTuple):
    """One forget set of a panel."""

    name: str
    label: int | None  # the class that the set is restricted to, see `forget_class`
    problem: Problem
    images: tuple[np.ndarray, ...]  # forget, retain, and held-out examples in the place of the test set
    labels: tuple[np.ndarray, ...]
    oracles: dict[str, Margins]


class Programs:
    """The compiled programs of one method; those of the method before are dropped, since programs are large."""

    def __init__(self) -> None:
        self.method, self.compiled = "", dict[str, Unlearner]()

    def of(self, config: Training, name: str, values: dict[str, Any], problem: Problem, originals: Variables) -> Unlearner:
        """Returns the program of a method for problems of this shape, with its float hyperparameters set to `values`."""
        if name != self.method:
            self.method, self.compiled = name, {}
        static, traced = traceable(name, values)
        key = repr((sorted(static.items()), problem.forget_count, problem.kept_count))
        if key not in self.compiled:
            batching: dict[str, Any] = {"strategy": config.strategy, "chunk": config.chunk}
            self.compiled[key] = Unlearner(name, values, problem, originals, **batching)
        self.compiled[key].retune(**traced)
        return self.compiled[key]


class Panel:
    """Originals, and forget sets with their oracles, that judge methods.

    Attributes:
        members: number of originals.
        sets: the forget sets.
        identity: all that a judgement depends on besides the method and its hyperparameters.
        retraining: the work of one retraining, in training examples.
    """

    def __init__(self, config: Config, setting: Setting, seed: int, indices: Sequence[int], programs: Programs):
        self.config, self.seed, self.members, self.programs = config, seed, config.members, programs
        train, held_out = setting.data.train, setting.data.held_out
        masks = {forget_name(config, setting, index): forget_mask(config, setting, index) for index in indices}
        classes = [forget_class(config, setting, index) for index in indices]
        everything = next(iter(masks.values())) | True
        self.setting, self.masks = setting, masks
        self.originals = self.train("original", setting.problem, everything, config.members)
        self.sets: list[Judging] = []
        for (name, mask), label in zip(masks.items(), classes, strict=True):
            retained = np.flatnonzero(~mask)[: config.evaluation.retain_size]
            problem = forgetting(setting, mask)
            images = train.images[mask], train.images[retained], held_out.images
            labels = train.labels[mask], train.labels[retained], held_out.labels
            oracles = self.train("oracle", problem, ~mask, 2 * config.members, name)
            empty = Judging(name, label, problem, images, labels, {})
            self.sets.append(empty._replace(oracles=self.margins(empty, oracles)))
        self.before = [self.margins(each, self.originals) for each in self.sets]
        accepted = "the originals remember too little of the forget sets to measure; nothing can be told of a method"
        require(self.measurable(config.members), "--forget.size", config.forget.size, accepted)
        digests = [hashlib.sha256(np.packbits(mask).tobytes()).hexdigest() for mask in masks.values()]
        sizes = {"members": config.members, "retain_size": config.evaluation.retain_size, "seed": seed}
        self.identity = {
            **setting.identity,
            "forget": digests,
            "recipe": dataclasses.asdict(self.sets[0].problem.recipe),
            **sizes,
        }
        first = self.sets[0].problem
        self.retraining = flops(refit, member_keys(0, "", 1)[0], first) / example_flops(first)

    def train(self, role: str, problem: Problem, mask: np.ndarray, members: int, name: str = "") -> Variables:
        """Trains models of this panel's seed. They are few: none may diverge."""
        trained = pool(self.config, self.setting, problem, mask, role, members, self.seed, name)
        lost_members(self.config, role, trained.variables, members)
        return trained.variables

    def margins(self, judging: Judging, variables: Variables, model: Any = None) -> dict[str, Margins]:
        """The margins of models on forget, retained and held-out examples."""
        logits = predict(model or judging.problem.model, variables, np.concatenate(judging.images), self.config.strategy)
        parts = np.split(logits, np.cumsum([len(images) for images in judging.images])[:2], axis=1)
        answers = zip(SPLITS, parts, judging.labels, strict=True)
        return {split: margins(np.nan_to_num(part), labels) for split, part, labels in answers}

    def measurable(self, members: int) -> bool:
        """Whether the first `members` originals suffice to measure what they remember, on any of the sets."""
        for each, before in zip(self.sets, self.before, strict=True):
            few = {split: part[:members] for split, part in before.items()}
            if effects(few, few, each.oracles).parts:
                return True
        return False

    def few(self, share: int) -> int:
        """Returns how many originals judge all trials: one in `share`, doubled until what they remember can be measured."""
        members = self.members // share
        while members < self.members and not self.measurable(members):
            members = min(2 * members, self.members)
        return members

    def retrained(self) -> list[Effects]:
        """The effects of retraining, judged as a method: other models than the oracles."""
        found = []
        for each, before in zip(self.sets, self.before, strict=True):
            again = self.train("retrain", each.problem, ~self.masks[each.name], self.members, each.name)
            found.append(effects(self.margins(each, again), before, each.oracles))
        return found

    def judge(
        self, name: str, base: dict[str, Any], settings: Sequence[dict[str, float]], members: int | None = None
    ) -> tuple[list[list[Effects] | None], float]:
        """Judges settings of a method.

        Every setting meets the same originals with the same keys, so that differences between settings are theirs.

        Args:
            name: of the method.
            base: its hyperparameters.
            settings: values of float hyperparameters that replace some of `base`.
            members: originals to unlearn, the first of all; by default all.

        Returns:
            The effects of each setting on every forget set, None where a model diverged; and the work in training examples.
        """
        members = members or self.members
        who = np.tile(np.arange(members), len(settings))
        what = np.repeat(np.arange(len(settings)), members)
        found: list[list[Effects] | None] = [[] for _ in settings]
        spent = 0.0
        for each, before in zip(self.sets, self.before, strict=True):
            after, examples = self._unlearn(name, base, settings, each, who, what)
            spent += examples * len(who)
            for number in range(len(settings)):
                so_far, rows = found[number], what == number
                models = jax.tree.map(lambda leaf, rows=rows: leaf[rows], after)
                if so_far is None or diverged(models):
                    found[number] = None
                    continue
                model = METHODS[name].outcome(each.problem.model)
                own = {split: part[:members] for split, part in before.items()}
                so_far.append(effects(self.margins(each, models, model), own, each.oracles))
        return found, spent

    def _unlearn(
        self,
        name: str,
        base: dict[str, Any],
        settings: Sequence[dict[str, float]],
        each: Judging,
        who: np.ndarray,
        what: np.ndarray,
    ) -> tuple[Variables, float]:
        """Unlearns one set, as many members at a time as there are originals: one program serves all settings and sets."""
        values = base | ({"label": each.label} if each.label is not None and "label" in base else {})
        unlearner = self.programs.of(self.config, name, values, each.problem, self.originals)
        keys = member_keys(self.seed, f"tuning {name} on {each.name}", self.members)
        parts = []
        for first in range(0, len(who), self.members):
            some = np.resize(np.arange(first, min(first + self.members, len(who))), self.members)  # the last batch is padded
            numbers = {key: [float(settings[number][key]) for number in what[some]] for key in (settings[0] if settings else {})}
            unlearner.retune(**numbers)
            unlearner.turn_to(each.problem, jax.tree.map(lambda leaf, some=some: leaf[who[some]], self.originals))
            done = unlearner.apply(keys[who[some]])
            count = min(self.members, len(who) - first)
            parts.append(jax.tree.map(lambda leaf, count=count: leaf[:count], done.variables))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts), unlearner.examples
