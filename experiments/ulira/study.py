"""U-LiRA: the likelihood-ratio attack on every method, example by example, against what retrained models score."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from experiments.ulira import report
from experiments.ulira.options import Config
from unlearn_jax import device
from unlearn_jax.bench.forget_set import forget_class, forget_mask, forget_name
from unlearn_jax.bench.hyperparameters import settings
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.pools import pool, version_note
from unlearn_jax.bench.resume import load_or_make_all, unlearn
from unlearn_jax.bench.setting import Setting, prepare
from unlearn_jax.data.splits import generator, random_halves
from unlearn_jax.methods import METHODS
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import (
    Attack,
    AttackNull,
    Interval,
    Null,
    catalogue,
    memorisation,
    null,
    scaled_logits,
    u_lira,
    u_lira_null,
)
from unlearn_jax.metrics.likelihood import FALSE_POSITIVE_RATES, FEWEST, MEASURES
from unlearn_jax.metrics.statistics import bootstrap
from unlearn_jax.metrics.verdict import is_inside
from unlearn_jax.progress import working
from unlearn_jax.report import leaderboard
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import REFERENCES, Row, subject, write_results
from unlearn_jax.report.tables import Table, of_columns
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import predict
from unlearn_jax.training.pools import Pool, diverged, member_keys
from unlearn_jax.types import Model, Problem, Variables

SAME, RETRAINED = "u_lira", "u_lira_retrained"  # the never-saw side: other members that unlearned as much, or retrained ones
Result = TypeVar("Result")
Kind = tuple[str, bool, str]  # of attack: never-saw side, whether the variance is shared, split by memorisation
KINDS: list[Kind] = [
    (side, shared, split) for side in (SAME, RETRAINED) for shared in (False, True) for split in ("all", "low", "high")
]


class Answers(NamedTuple):
    """Logits, and seconds per model."""

    targets: np.ndarray  # logits [models, targets, classes]
    test: np.ndarray  # logits [models, examples, classes]
    lost: tuple[int, ...]  # models that diverged
    seconds: float
    made_with: str  # see `device.made_with`

    def arrays(self) -> dict[str, np.ndarray]:
        """Named arrays, which `of` reads back."""
        return {**self._asdict(), "lost": np.array(self.lost, int), "seconds": np.array(self.seconds)}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "Answers":
        """Reads what `arrays` gave."""
        lost, seconds = tuple(map(int, arrays["lost"])), float(arrays["seconds"])
        return cls(arrays["targets"], arrays["test"], lost, seconds, str(arrays["made_with"]))


class Nulls(NamedTuple):
    """The null of every attack."""

    attacks: dict[Kind, AttackNull]
    band: float  # the 95% quantile of the largest |z| over all their AUCs


def run(config: Config, folder: Run) -> None:
    """Train members on halves, unlearn what they hold of the targets by every method, attack, and report.

    Raises:
        UsageError: something in the configuration cannot be done.
    """
    setting = prepare(config)
    values = settings(config, config.method_names(), forget_class(config, setting, 0))
    folder.write_json("hyperparameters.json", values)
    population = Population(config, folder, setting)
    attacker = Attacker(population)
    answers = population.unlearn_all(values)
    attacks: dict[str, dict[Kind, Attack]] = {}
    rows: list[Row] = []
    with working("attacks") as update:
        for number, (name, each) in enumerate(answers.items()):
            attacks[name] = attacker.attack(each)
            rows += attacker.rows(name, each, attacks[name])
            update((number + 1) / len(answers), f"{number + 1} of {len(answers)} methods")
    nulls = attacker.nulls(())
    lost = {f"{population.name}/{name}": each.lost for name, each in answers.items()}
    made_with = {each.made_with for each in answers.values()}
    write_results(folder, rows, {"bands": {population.name: nulls.band}, "diverged": lost, "made_with": sorted(made_with)})
    folder.write_csv("memorisation.csv", *attacker.targets(attacks))
    board = report.arrange(rows, nulls.band)
    board = board._replace(caption=(*board.caption, *version_note(made_with)))
    leaderboard.write(folder, board)
    drawn = [line.method for line in board.lines if attacks.get(line.method)]
    curves = {
        (side, split): (
            {name: attacks[name][side, False, split].roc for name in drawn},
            nulls.attacks[side, False, split].roc,
        )
        for side in (SAME, RETRAINED)
        for split in report.SPLITS
    }
    save(report.roc_curves(curves, FALSE_POSITIVE_RATES, subject(rows)), folder, "roc")
    save(report.auc_by_memorisation(rows, subject(rows)), folder, "auc")
    leaderboard.show(board)


class Population:
    """Members trained on random halves, the same after unlearning the targets, and models that never saw them."""

    def __init__(self, config: Config, folder: Run, setting: Setting):
        self.config, self.folder, self.name = config, folder, forget_name(config, setting, 0)
        targets = even(forget_mask(config, setting, 0))
        accepted = "two targets or more, and two other examples, are needed to be halved"
        require(2 <= targets.sum() <= len(targets) - 2, "--forget.size", config.forget.size, accepted)
        halves = random_halves_of(targets, config.members, generator("population", config.seed))
        self.retained, self.masks = halves & ~targets, {"kept": halves, "forget": halves & targets}
        counts: dict[str, Any] = {f"{field}_count": int(mask[0].sum()) for field, mask in self.masks.items()}
        self.problem: Problem = dataclasses.replace(setting.problem, **counts)
        design = hashlib.sha256(np.packbits(halves).tobytes() + np.packbits(targets).tobytes()).hexdigest()
        self.setting = setting._replace(identity={**setting.identity, "population": design})
        # Whatever logits in the run folder depend on: what was made from something else is made anew.
        recipe = dataclasses.asdict(self.problem.recipe)
        self.identity = {**self.setting.identity, "recipe": recipe, "seed": config.seed}
        self.rows, self.trained_on = np.flatnonzero(targets), halves[:, targets]
        self.labels, self.test_labels = setting.data.train.labels[targets], setting.data.test.labels
        self.published = setting.data.published.train[self.rows]
        folder.write_text(f"forget_sets/{self.name}.txt", "".join(f"{row}\n" for row in self.published))
        known = {"rows": self.published, "targets": self.labels, "test": self.test_labels, "trained_on": self.trained_on}
        folder.write_npz(f"logits/{self.name}/labels.npz", known)
        self.members = self.pool("original", halves)

    def pool(self, role: str, masks: np.ndarray) -> Pool:
        """Models trained on a mask each."""
        return pool(self.config, self.setting, self.problem, masks, role, len(masks))

    def originals(self) -> Answers:
        """The answers of the members before they unlearn."""
        return self.answers(self.members.variables, 0.0)

    def oracles(self) -> Answers:
        """The answers of models retrained on each half without the targets: one for each member, and then another for each."""
        trained = self.pool("oracle", np.tile(self.retained, (2, 1)))
        answers = self.answers(trained.variables, trained.seconds)
        self.folder.write_npz(f"logits/{self.name}/oracle.npz", answers.arrays())
        return answers

    def answers(self, variables: Variables, seconds: float, model: Model | None = None) -> Answers:
        """The answers of models on the targets and on the test set; `model` where it is not the problem's."""
        images = self.setting.data.train.images[self.rows], self.setting.data.test.images
        targets, test = (predict(model or self.problem.model, variables, each, self.config.strategy) for each in images)
        return Answers(targets, test, diverged((variables, targets, test)), seconds, device.made_with())

    def unlearn_all(self, values: dict[str, dict[str, Any]]) -> dict[str, Answers]:
        """The answers after each method, read where an earlier run kept them."""
        options: dict[str, Any] = {"masks": self.masks, "strategy": self.config.strategy, "chunk": self.config.chunk}

        def begin(name: str) -> Unlearner | None:
            return None if name in REFERENCES else Unlearner(name, values[name], self.problem, self.members.variables, **options)

        files = {name: (f"logits/{self.name}/{name}.npz", {**self.identity, "values": own}) for name, own in values.items()}
        kept = load_or_make_all(self.folder, files, begin, lambda name, unlearner: self.unlearn(name, unlearner).arrays())
        return {name: Answers.of(arrays) for name, arrays in kept.items()}

    def unlearn(self, name: str, unlearner: Unlearner | None) -> Answers:
        """The answers after a method. The two references are pools: cached, and resumed as pools are."""
        if name == "original":
            return self.originals()
        if unlearner is None:  # retrain
            trained = self.pool("retrain", self.retained)
            return self.answers(trained.variables, trained.seconds)
        done = unlearn(name, unlearner, member_keys(self.config.seed, f"{name} on {self.name}", self.config.members))
        return self.answers(done.variables, done.seconds, METHODS[name].outcome(self.problem.model))


class Attacker:
    """The attacks on a population, their nulls, and how they are divided by memorisation."""

    def __init__(self, population: Population):
        self.population, self.config = population, population.config
        originals, oracles = population.originals(), population.oracles()
        members = self.config.members
        self.oracle_targets, self.oracle_test = (np.stack(np.split(each, 2)) for each in (oracles.targets, oracles.test))
        self.lost = {*originals.lost, *(oracle % members for oracle in oracles.lost)}
        self._nulls: dict[tuple[int, ...], Nulls] = {}

        correct, trained_on = originals.targets.argmax(-1) == population.labels, population.trained_on
        kept = self.without(())
        halves = kept[kept < members // 2], kept[kept >= members // 2]
        accepted = f"{len(self.lost)} of {members} members have a model that diverged; expected a smaller number"
        enough = self.fewest(kept) >= FEWEST and min(map(self.fewest, halves)) >= 2
        require(enough, "--train.learning-rate", self.config.train.learning_rate, accepted)
        self.memorisation = memorisation(correct[kept], trained_on[kept])
        self.by_half = [memorisation(correct[half], trained_on[half]).score for half in halves]
        # A member's scores are divided by the memorisation in the other half of the members, or it would pick its own luck.
        high = np.repeat(self.by_half[::-1], members // 2, axis=0) >= self.config.memorised
        self.judged = {"all": np.ones_like(high), "low": ~high, "high": high}

    def without(self, lost: tuple[int, ...]) -> np.ndarray:
        """The members that can be attacked when these diverged in unlearning."""
        return np.setdiff1d(np.arange(self.config.members), [*self.lost, *lost])

    def fewest(self, members: np.ndarray) -> int:
        """Over the targets, the smallest number of these members that trained on it, or that did not."""
        trained_on = self.population.trained_on[members].sum(0)
        return min(trained_on.min(), len(members) - trained_on.max())

    def attack(self, answers: Answers) -> dict[Kind, Attack]:
        """Every attack on a method; none where too few members are left of it."""
        kept, labels = self.without(answers.lost), self.population.labels
        if self.fewest(kept) < FEWEST:
            return {}
        unlearned = scaled_logits(answers.targets[kept], labels)
        never_saw = {SAME: unlearned, RETRAINED: scaled_logits(self.oracle_targets[0, kept], labels)}

        def play(side: str, shared: bool, split: str) -> Attack:
            return u_lira(
                unlearned,
                never_saw[side],
                self.population.trained_on[kept],
                shared_variance=shared,
                judged=self.judged[split][kept],
                seed=self.config.seed,
            )

        return of_every_kind(play)

    def nulls(self, lost: tuple[int, ...]) -> Nulls:
        """The null of every attack, without the members that diverged in a method."""
        if lost not in self._nulls:
            kept = self.without(lost)
            retrained = np.stack([scaled_logits(each[kept], self.population.labels) for each in self.oracle_targets])

            def play(side: str, shared: bool, split: str) -> AttackNull:
                return u_lira_null(
                    retrained,
                    self.population.trained_on[kept],
                    same_models=side == SAME,
                    shared_variance=shared,
                    judged=self.judged[split][kept],
                    splits=self.config.evaluation.splits,
                    seed=self.config.seed,
                )

            found = of_every_kind(play)
            z = [abs(each.auc_draws - each.auc.mean) / each.auc.sd for each in found.values() if each.auc.sd > 0]
            self._nulls[lost] = Nulls(found, float(np.quantile(np.max(z, axis=0), 0.95)))
        return self._nulls[lost]

    def rows(self, name: str, answers: Answers, attacks: dict[Kind, Attack]) -> list[Row]:
        """One method's scores, each with its null."""
        kept = self.without(answers.lost)
        common: dict[str, Any] = {
            "experiment": self.config.exp,
            "dataset": self.config.dataset,
            "model": self.config.model,
            "forget_set": self.population.name,
            "method": name,
            "access": METHODS[name].access,
            "n_members": len(kept),
            "n_oracles": 2 * len(kept),
            "seconds": answers.seconds,
        }
        rows = [Row(**common, metric=catalogue.seconds.name, split="", value=answers.seconds)]
        for (side, shared, split), attack in attacks.items():
            expected = self.nulls(answers.lost).attacks[side, shared, split]
            called = "lira" if (name, side) == ("original", SAME) else side
            for measure in MEASURES:
                metric = f"{called}{'_shared' * shared}_{measure}"
                rows.append(scored(common, metric, split, getattr(attack, measure), getattr(expected, measure)))
        rows += self.accuracies(common, answers, kept)
        band, lost = self.nulls(()).band, len(self.without(())) - len(kept)
        inside = is_inside([row.evidence for row in rows if row.evidence is not None], band, len(kept), lost)
        return [row._replace(band=band, inside=inside) for row in rows]

    def accuracies(self, common: dict[str, Any], answers: Answers, kept: np.ndarray) -> list[Row]:
        """Accuracy on what each member unlearned, by memorisation, and on the test set: what forgetting cost."""
        labels, test_labels = self.population.labels, self.population.test_labels
        own = self.population.trained_on[kept]
        cells = {
            split: (answers.targets, self.oracle_targets, labels, judged[kept] & own) for split, judged in self.judged.items()
        }
        everything = np.ones((len(kept), len(test_labels)), bool)
        cells["test"] = answers.test, self.oracle_test, test_labels, everything
        rows = []
        for split, (logits, oracle_logits, right, judged) in cells.items():
            found = accuracy_on(judged, logits[kept], right)
            expected = np.concatenate([accuracy_on(judged, each[kept], right) for each in oracle_logits])
            if len(found) >= 2:
                centre, key = expected.mean(), jax.random.key(self.config.seed)
                apart = null(lambda a, b: a.mean() - b.mean(), expected, len(found), self.config.evaluation.splits, key=key)
                moved = Null(centre, apart.sd, centre + apart.low, centre + apart.high)
                rows.append(scored(common, catalogue.accuracy.name, split, bootstrap(found, self.config.seed), moved))
        return rows

    def targets(self, attacks: dict[str, dict[Kind, Attack]]) -> Table:
        """A table of the targets: memorisation, and the balanced accuracy of the attack on each method at each of them."""
        population = self.population
        columns = {
            "row": population.published,
            "label": population.labels,
            "clean_label": population.setting.data.clean_labels[population.rows],
            "memorisation": self.memorisation.score,
            "standard_error": self.memorisation.error,
            "by_first_half": self.by_half[0],
            "by_second_half": self.by_half[1],
            **{name: each[SAME, False, "all"].example_accuracy for name, each in attacks.items() if each},
        }
        return of_columns(columns)


def of_every_kind(play: Callable[[str, bool, str], Result]) -> dict[Kind, Result]:
    """One result for each of `KINDS`, on as many threads as there are cores: NumPy lets go of the interpreter's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip(KINDS, threads.map(lambda kind: play(*kind), KINDS), strict=True))


def even(mask: np.ndarray) -> np.ndarray:
    """The mask, without its last row if it holds an odd number of them."""
    rows = np.flatnonzero(mask)
    return mask & (np.arange(len(mask)) != rows[-1]) if len(rows) % 2 else mask


def random_halves_of(targets: np.ndarray, members: int, rng: np.random.Generator) -> np.ndarray:
    """What each member trains on, `[members, examples]`: half of the targets and half of the others.

    Each target is in half of the first half of the members and in half of the second, so that either can say what is memorised.
    The others are dealt among all members alike: the null exchanges targets between members retrained on them.
    """
    held = np.zeros((members, len(targets)), bool)
    count = int(targets.sum())
    held[:, targets] = np.concatenate([random_halves(count, members // 2, rng) for _ in range(2)])
    held[:, ~targets] = random_halves(len(targets) - count, members, rng)
    return held


def accuracy_on(judged: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """In %, on the examples that each member is judged on, `[members]`; those that are judged on none are left out."""
    right, count = (judged & (logits.argmax(-1) == labels)).sum(1), judged.sum(1)
    return 100 * right[count > 0] / count[count > 0]


def scored(common: dict[str, Any], metric: str, split: str, interval: Interval, expected: Null) -> Row:
    """A row, with an empty cell for what cannot be known. Only areas under the curve count in the verdict."""
    z = (interval.value - expected.mean) / expected.sd if expected.sd > 0 else np.nan
    cells = {"value": interval.value, "value_low": interval.low, "value_high": interval.high, "z": z, "deviation": z}
    cells["evidence"] = abs(z) if metric.endswith("_auc") else np.nan
    cells |= {f"null_{name}": value for name, value in expected._asdict().items()}
    known: dict[str, Any] = {name: float(cell) for name, cell in cells.items() if np.isfinite(cell)}
    return Row(**common, metric=metric, split=split, **known)
