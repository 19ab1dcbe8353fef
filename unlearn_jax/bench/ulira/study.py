"""U-LiRA: the likelihood-ratio attack on every method, example by example, against what retrained models score."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from unlearn_jax import device
from unlearn_jax.bench.forget_set import forget_class, forget_mask, forget_name
from unlearn_jax.bench.hyperparameters import settings
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.pools import pool, version_note
from unlearn_jax.bench.resume import load_or_make_all, unlearn
from unlearn_jax.bench.setting import Setting, prepare
from unlearn_jax.bench.ulira import report
from unlearn_jax.bench.ulira.options import Config
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

SAME, RETRAINED = "u_lira", "u_lira_retrained"  # the attack's negatives: other unlearned members, or retrained models
Result = TypeVar("Result")
Kind = tuple[str, bool, str]  # of attack: negatives, whether targets share a variance, split by memorisation
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

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The fields as named arrays, for a file."""
        return {**self._asdict(), "lost": np.array(self.lost, int), "seconds": np.array(self.seconds)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Answers":
        """The answers that `to_arrays` wrote."""
        lost, seconds = tuple(map(int, arrays["lost"])), float(arrays["seconds"])
        return cls(arrays["targets"], arrays["test"], lost, seconds, str(arrays["made_with"]))


class Nulls(NamedTuple):
    """The null of every attack."""

    attacks: dict[Kind, AttackNull]
    band: float  # the 95% quantile of the largest |z| over all their AUCs


def run(config: Config, folder: Run) -> None:
    """Train members on halves, unlearn their targets by every method, attack, and report.

    Raises:
        ArgumentError: something in the configuration cannot be done.
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
        for number, (name, of_method) in enumerate(answers.items()):
            attacks[name] = attacker.attack(of_method)
            rows += attacker.rows(name, of_method, attacks[name])
            update((number + 1) / len(answers), f"{number + 1} of {len(answers)} methods")
    nulls = attacker.nulls(())
    lost = {f"{population.name}/{name}": of_method.lost for name, of_method in answers.items()}
    made_with = {of_method.made_with for of_method in answers.values()}
    write_results(folder, rows, {"bands": {population.name: nulls.band}, "diverged": lost, "made_with": sorted(made_with)})
    folder.write_csv("memorisation.csv", *attacker.target_table(attacks))
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
    """Members trained on random halves, the same members after unlearning, and models retrained without the targets."""

    def __init__(self, config: Config, folder: Run, setting: Setting):
        self.config, self.folder, self.name = config, folder, forget_name(config, setting, 0)
        targets = drop_odd_row(forget_mask(config, setting, 0))
        accepted = "two targets or more, and two other examples, are needed to be halved"
        require(2 <= targets.sum() <= len(targets) - 2, "--forget.size", config.forget.size, accepted)
        halves = draw_halves(targets, config.members, generator("population", config.seed))
        self.retained, self.masks = halves & ~targets, {"kept": halves, "forget": halves & targets}
        counts: dict[str, Any] = {f"{field}_count": int(mask[0].sum()) for field, mask in self.masks.items()}
        self.problem: Problem = dataclasses.replace(setting.problem, **counts)
        design = hashlib.sha256(np.packbits(halves).tobytes() + np.packbits(targets).tobytes()).hexdigest()
        self.setting = setting._replace(identity={**setting.identity, "population": design})
        # All that logits in the run folder depend on. Files with another identity are made again.
        recipe = dataclasses.asdict(self.problem.recipe)
        self.identity = {**self.setting.identity, "recipe": recipe, "seed": config.seed}
        self.rows, self.trained_on = np.flatnonzero(targets), halves[:, targets]
        self.labels, self.test_labels = setting.data.train.labels[targets], setting.data.test.labels
        self.published = setting.data.published.train[self.rows]
        folder.write_text(f"forget_sets/{self.name}.txt", "".join(f"{row}\n" for row in self.published))
        known = {"rows": self.published, "targets": self.labels, "test": self.test_labels, "trained_on": self.trained_on}
        folder.write_npz(f"logits/{self.name}/labels.npz", known)
        self.members = self.train_pool("original", halves)

    def train_pool(self, role: str, masks: np.ndarray) -> Pool:
        """A pool with one model for each row of `masks`."""
        return pool(self.config, self.setting, self.problem, masks, role, len(masks))

    def predict_originals(self) -> Answers:
        """The members' answers before they unlearn."""
        return self.predict(self.members.variables, 0.0)

    def predict_oracles(self) -> Answers:
        """The answers of two models for each member, retrained on its half without the targets: `[2 x members, ...]`."""
        trained = self.train_pool("oracle", np.tile(self.retained, (2, 1)))
        answers = self.predict(trained.variables, trained.seconds)
        self.folder.write_npz(f"logits/{self.name}/oracle.npz", answers.to_arrays())
        return answers

    def predict(self, variables: Variables, seconds: float, model: Model | None = None) -> Answers:
        """Answers on the targets and on the test set. `model` is given where it is not the problem's."""
        images = self.setting.data.train.images[self.rows], self.setting.data.test.images
        targets, test = (predict(model or self.problem.model, variables, split, self.config.strategy) for split in images)
        return Answers(targets, test, diverged((variables, targets, test)), seconds, device.made_with())

    def unlearn_all(self, values: dict[str, dict[str, Any]]) -> dict[str, Answers]:
        """The answers after each method. Those kept by an earlier run are read."""
        options: dict[str, Any] = {"masks": self.masks, "strategy": self.config.strategy, "chunk": self.config.chunk}

        def begin(name: str) -> Unlearner | None:
            return None if name in REFERENCES else Unlearner(name, values[name], self.problem, self.members.variables, **options)

        files = {name: (f"logits/{self.name}/{name}.npz", {**self.identity, "values": values[name]}) for name in values}
        kept = load_or_make_all(self.folder, files, begin, lambda name, unlearner: self.unlearn(name, unlearner).to_arrays())
        return {name: Answers.from_arrays(arrays) for name, arrays in kept.items()}

    def unlearn(self, name: str, unlearner: Unlearner | None) -> Answers:
        """The answers after one method. The references, `original` and `retrain`, are pools: cached and resumed."""
        if name == "original":
            return self.predict_originals()
        if unlearner is None:  # retrain
            trained = self.train_pool("retrain", self.retained)
            return self.predict(trained.variables, trained.seconds)
        done = unlearn(name, unlearner, member_keys(self.config.seed, f"{name} on {self.name}", self.config.members))
        return self.predict(done.variables, done.seconds, METHODS[name].outcome(self.problem.model))


class Attacker:
    """The attacks on a population and their nulls, for all targets and split by memorisation."""

    def __init__(self, population: Population):
        self.population, self.config = population, population.config
        originals, oracles = population.predict_originals(), population.predict_oracles()
        members = self.config.members
        self.oracle_targets, self.oracle_test = (np.stack(np.split(logits, 2)) for logits in (oracles.targets, oracles.test))
        self.lost = {*originals.lost, *(oracle % members for oracle in oracles.lost)}
        self._nulls: dict[tuple[int, ...], Nulls] = {}

        correct, trained_on = originals.targets.argmax(-1) == population.labels, population.trained_on
        kept = self.surviving(())
        halves = kept[kept < members // 2], kept[kept >= members // 2]
        accepted = f"{len(self.lost)} of {members} members have a model that diverged; expected a smaller number"
        enough = self.fewest_models(kept) >= FEWEST and min(map(self.fewest_models, halves)) >= 2
        require(enough, "--train.learning-rate", self.config.train.learning_rate, accepted)
        self.memorisation = memorisation(correct[kept], trained_on[kept])
        self.by_half = [memorisation(correct[half], trained_on[half]).score for half in halves]
        # A member's targets are split by the memorisation in the other half of the members: its own luck must not select them.
        high = np.repeat(self.by_half[::-1], members // 2, axis=0) >= self.config.memorised
        self.in_split = {"all": np.ones_like(high), "low": ~high, "high": high}

    def surviving(self, lost: tuple[int, ...]) -> np.ndarray:
        """The members that can be attacked, without those in `lost`, which diverged in unlearning."""
        return np.setdiff1d(np.arange(self.config.members), [*self.lost, *lost])

    def fewest_models(self, members: np.ndarray) -> int:
        """The smallest number, over targets, of these members that trained on the target, or that did not."""
        trained_on = self.population.trained_on[members].sum(0)
        return min(trained_on.min(), len(members) - trained_on.max())

    def attack(self, answers: Answers) -> dict[Kind, Attack]:
        """Every attack on a method; empty if too few members survived."""
        kept, labels = self.surviving(answers.lost), self.population.labels
        if self.fewest_models(kept) < FEWEST:
            return {}
        unlearned = scaled_logits(answers.targets[kept], labels)
        never_saw = {SAME: unlearned, RETRAINED: scaled_logits(self.oracle_targets[0, kept], labels)}

        def play(side: str, shared: bool, split: str) -> Attack:
            return u_lira(
                unlearned,
                never_saw[side],
                self.population.trained_on[kept],
                shared_variance=shared,
                judged=self.in_split[split][kept],
                seed=self.config.seed,
            )

        return run_all_kinds(play)

    def nulls(self, lost: tuple[int, ...]) -> Nulls:
        """The null of every attack, without the members in `lost`."""
        if lost not in self._nulls:
            kept = self.surviving(lost)
            retrained = np.stack([scaled_logits(logits[kept], self.population.labels) for logits in self.oracle_targets])

            def play(side: str, shared: bool, split: str) -> AttackNull:
                return u_lira_null(
                    retrained,
                    self.population.trained_on[kept],
                    same_models=side == SAME,
                    shared_variance=shared,
                    judged=self.in_split[split][kept],
                    splits=self.config.evaluation.splits,
                    seed=self.config.seed,
                )

            attack_nulls = run_all_kinds(play)
            z = [abs(one.auc_draws - one.auc.mean) / one.auc.sd for one in attack_nulls.values() if one.auc.sd > 0]
            self._nulls[lost] = Nulls(attack_nulls, float(np.quantile(np.max(z, axis=0), 0.95)))
        return self._nulls[lost]

    def rows(self, name: str, answers: Answers, attacks: dict[Kind, Attack]) -> list[Row]:
        """One method's rows of results.csv, each score with its null."""
        kept = self.surviving(answers.lost)
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
                rows.append(score_row(common, metric, split, getattr(attack, measure), getattr(expected, measure)))
        rows += self.accuracy_rows(common, answers, kept)
        band, lost = self.nulls(()).band, len(self.surviving(())) - len(kept)
        inside = is_inside([row.evidence for row in rows if row.evidence is not None], band, len(kept), lost)
        return [row._replace(band=band, inside=inside) for row in rows]

    def accuracy_rows(self, common: dict[str, Any], answers: Answers, kept: np.ndarray) -> list[Row]:
        """Rows with the accuracy on what each member unlearned, by split, and on the test set."""
        labels, test_labels = self.population.labels, self.population.test_labels
        unlearned = self.population.trained_on[kept]
        cells = {
            split: (answers.targets, self.oracle_targets, labels, members_targets[kept] & unlearned)
            for split, members_targets in self.in_split.items()
        }
        everything = np.ones((len(kept), len(test_labels)), bool)
        cells["test"] = answers.test, self.oracle_test, test_labels, everything
        rows = []
        for split, (logits, oracle_logits, right, judged) in cells.items():
            accuracies = accuracy_on(judged, logits[kept], right)
            expected = np.concatenate([accuracy_on(judged, oracle_split[kept], right) for oracle_split in oracle_logits])
            if len(accuracies) >= 2:
                centre, key = expected.mean(), jax.random.key(self.config.seed)
                apart = null(lambda a, b: a.mean() - b.mean(), expected, len(accuracies), self.config.evaluation.splits, key=key)
                moved = Null(centre, apart.sd, centre + apart.low, centre + apart.high)
                rows.append(score_row(common, catalogue.accuracy.name, split, bootstrap(accuracies, self.config.seed), moved))
        return rows

    def target_table(self, attacks: dict[str, dict[Kind, Attack]]) -> Table:
        """The table memorisation.csv: of each target its memorisation, and the attack's balanced accuracy for each method."""
        population = self.population
        columns = {
            "row": population.published,
            "label": population.labels,
            "clean_label": population.setting.data.clean_labels[population.rows],
            "memorisation": self.memorisation.score,
            "standard_error": self.memorisation.error,
            "by_first_half": self.by_half[0],
            "by_second_half": self.by_half[1],
            **{name: by_kind[SAME, False, "all"].example_accuracy for name, by_kind in attacks.items() if by_kind},
        }
        return of_columns(columns)


def run_all_kinds(play: Callable[[str, bool, str], Result]) -> dict[Kind, Result]:
    """The result of `play` for each of `KINDS`. Uses threads, since NumPy releases the interpreter's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip(KINDS, threads.map(lambda kind: play(*kind), KINDS), strict=True))


def drop_odd_row(mask: np.ndarray) -> np.ndarray:
    """The mask, without its last row if it has an odd number of rows."""
    rows = np.flatnonzero(mask)
    return mask & (np.arange(len(mask)) != rows[-1]) if len(rows) % 2 else mask


def draw_halves(targets: np.ndarray, members: int, rng: np.random.Generator) -> np.ndarray:
    """The mask that each member trains on, `[members, examples]`: half of the targets and half of the other examples.

    Each target is in half of the first `members / 2` rows and in half of the rest, so that memorisation can be estimated from
    either. The other examples are balanced over all members only: the null exchanges targets between members retrained on them.
    """
    held = np.zeros((members, len(targets)), bool)
    count = int(targets.sum())
    held[:, targets] = np.concatenate([random_halves(count, members // 2, rng) for _ in range(2)])
    held[:, ~targets] = random_halves(len(targets) - count, members, rng)
    return held


def accuracy_on(judged: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Accuracy in % of each member on its examples in the mask `judged`, `[members]`; members without any are left out."""
    right, count = (judged & (logits.argmax(-1) == labels)).sum(1), judged.sum(1)
    return 100 * right[count > 0] / count[count > 0]


def score_row(common: dict[str, Any], metric: str, split: str, interval: Interval, expected: Null) -> Row:
    """A row of results.csv; NaN becomes an empty cell. Only AUCs have evidence, so only they count in the verdict."""
    z = (interval.value - expected.mean) / expected.sd if expected.sd > 0 else np.nan
    cells = {"value": interval.value, "value_low": interval.low, "value_high": interval.high, "z": z, "deviation": z}
    cells["evidence"] = abs(z) if metric.endswith("_auc") else np.nan
    cells |= {f"null_{name}": value for name, value in expected._asdict().items()}
    known: dict[str, Any] = {name: float(cell) for name, cell in cells.items() if np.isfinite(cell)}
    return Row(**common, metric=metric, split=split, **known)
