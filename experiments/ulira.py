"""U-LiRA: the likelihood-ratio attack on every method, example by example, against what retrained models score."""

import dataclasses
import hashlib
import json
from typing import Any, NamedTuple

import jax
import numpy as np

from configs.common import require
from configs.ulira import Config
from experiments.setting import Setting, compile_all, forget_mask, forget_name, pool, prepare, settings
from unlearn_jax.data.splits import generator, random_halves
from unlearn_jax.methods import METHODS
from unlearn_jax.methods.apply import Unlearned, Unlearner
from unlearn_jax.metrics import Attack, AttackNull, Interval, Null, memorisation, null, scaled_logits, u_lira, u_lira_null
from unlearn_jax.metrics.evaluation import mean_interval
from unlearn_jax.metrics.likelihood import FALSE_POSITIVE_RATES, FEWEST, MEASURES
from unlearn_jax.report import leaderboard, membership
from unlearn_jax.report.drawing import save
from unlearn_jax.report.progress import working
from unlearn_jax.report.rows import REFERENCES, Row, subject, write_results
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import predict
from unlearn_jax.training.pools import FORMAT, Pool, diverged, member_keys
from unlearn_jax.types import Problem

ATTACKS = [
    (form, shared, split)
    for form in ("u_lira", "u_lira_retrained")  # the never-saw side: other members that unlearned, or retrained ones
    for shared in (False, True)  # the variance
    for split in ("all", "low", "high")  # targets by memorisation
]


class Answers(NamedTuple):
    """What members say, and what a method cost."""

    targets: np.ndarray  # logits [members, targets, classes]
    test: np.ndarray  # logits [members, examples, classes]
    lost: tuple[int, ...]  # members that diverged
    seconds: float


class Nulls(NamedTuple):
    """What retrained models score."""

    attacks: dict[tuple[str, bool, str], AttackNull]
    band: float  # the 95% quantile of the largest |z| over all their AUCs


def run(config: Config, folder: Run) -> None:
    """Train members on halves, unlearn what they hold of the targets by every method, attack, and report.

    Raises:
        UsageError: something in the configuration cannot be done.
    """
    setting = prepare(config)
    values = settings(config, config.method_names())
    folder.write_json("hyperparameters.json", values)
    study = Study(config, folder, setting)
    answers = study.answer_all(values)
    nulls = study.nulls(study.lost)
    attacks: dict[str, dict[tuple[str, bool, str], Attack]] = {}
    rows: list[Row] = []
    with working("attacks") as update:
        for number, (name, each) in enumerate(answers.items()):
            attacks[name] = study.attack(each)
            rows += study.rows_of(name, each, attacks[name])
            update((number + 1) / len(answers), f"{number + 1} of {len(answers)} methods")
    study.write_targets(attacks)
    extra = {"bands": {study.name: nulls.band}, "diverged": {f"{study.name}/{name}": each.lost for name, each in answers.items()}}
    write_results(folder, rows, extra)
    board = membership.arrange(rows, nulls.band)
    leaderboard.write(folder, board)
    curves = {
        key: ({name: each[key].roc for name, each in attacks.items() if each}, null.roc) for key, null in nulls.attacks.items()
    }
    panels = [(form, False, split) for form in ("u_lira", "u_lira_retrained") for split in ("all", "high")]
    save(membership.roc_curves({key: curves[key] for key in panels}, FALSE_POSITIVE_RATES, subject(rows)), folder, "roc")
    save(membership.auc_by_memorisation(rows, subject(rows)), folder, "auc")
    leaderboard.show(board)


class Study:
    """A population of members on random halves, the targets that they unlearn, and models that never saw them."""

    def __init__(self, config: Config, folder: Run, setting: Setting):
        self.config, self.folder, self.name = config, folder, forget_name(config, setting, 0)
        targets = even(forget_mask(config, setting, 0))
        said = "two targets or more and two other examples are needed, to be halved"
        require(2 <= targets.sum() <= len(targets) - 2, "--forget.size", config.forget.size, said)
        trained = population(targets, config.members, generator("population", config.seed))
        design = hashlib.sha256(np.packbits(trained).tobytes() + np.packbits(targets).tobytes()).hexdigest()
        self.setting = setting._replace(identity={**setting.identity, "population": design})
        self.targets, self.masks = targets, {"kept": trained, "forget": trained & targets}
        counts: dict[str, Any] = {f"{field}_count": int(mask[0].sum()) for field, mask in self.masks.items()}
        self.problem: Problem = dataclasses.replace(setting.problem, **counts)
        # Whatever logits in the run folder depend on: what was made from something else is made anew.
        recipe = dataclasses.asdict(self.problem.recipe)
        self.made_from = json.dumps({**self.setting.identity, "recipe": recipe, "seed": config.seed, "format": FORMAT})
        self.rows = np.flatnonzero(targets)
        self.labels, self.trained_on = setting.data.train.labels[targets], trained[:, targets]
        folder.write_text(f"forget_sets/{self.name}.txt", "".join(f"{row}\n" for row in self.rows))
        known = {"rows": self.rows, "labels": self.labels, "test": setting.data.test.labels, "trained_on": self.trained_on}
        folder.write_npz(f"logits/{self.name}/labels.npz", known)
        self.train_all()
        self.divide()

    def train_all(self) -> None:
        """The originals, and two oracles for each: one for the never-saw side, both for the null."""
        self.originals = self.pool("original", self.masks["kept"])
        trained = self.pool("oracle", np.tile(self.masks["kept"] & ~self.targets, (2, 1)))
        oracles = self.answers(Unlearned(trained.variables, trained.seconds, trained.compile_seconds, 0.0))
        arrays = {"targets": oracles.targets, "test": oracles.test, "lost": np.array(oracles.lost, int)}
        self.folder.write_npz(f"logits/{self.name}/oracle.npz", arrays)
        self.oracle_targets, self.oracle_test = (np.stack(np.split(each, 2)) for each in (oracles.targets, oracles.test))
        self.lost = tuple(sorted({*self.originals.diverged, *(oracle % self.config.members for oracle in oracles.lost)}))
        self._nulls: dict[tuple[int, ...], Nulls] = {}

    def divide(self) -> None:
        """Memorisation of the targets by the untouched members; what one half of them says divides the other half's scores."""
        answers = self.answers(Unlearned(self.originals.variables, 0.0, 0.0, 0.0))
        correct = answers.targets.argmax(-1) == self.labels
        kept = np.setdiff1d(np.arange(self.config.members), self.lost)
        halves = np.split(kept, [np.searchsorted(kept, self.config.members // 2)])
        said = f"{len(self.lost)} of {self.config.members} members have a model that diverged; expected a smaller number"
        left = min(self.fewest(half) for half in halves) >= 2 and self.fewest(kept) >= FEWEST
        require(left, "--train.learning-rate", self.config.train.learning_rate, said)
        self.memorisation = memorisation(correct[kept], self.trained_on[kept])
        self.by_half = [memorisation(correct[half], self.trained_on[half]).score for half in halves]
        high = np.repeat(self.by_half[::-1], self.config.members // 2, axis=0) >= self.config.memorised
        self.judged = {"all": np.ones_like(high), "low": ~high, "high": high}

    def fewest(self, members: np.ndarray) -> int:
        """Of the members that trained on a target, or did not: how many there are for the target that has fewest."""
        trained_on = self.trained_on[members].sum(0)
        return min(trained_on.min(), len(members) - trained_on.max())

    def pool(self, role: str, masks: np.ndarray) -> Pool:
        """Models trained on a mask each."""
        return pool(self.config, self.setting, self.problem, masks, role, len(masks))

    def answers(self, done: Unlearned) -> Answers:
        """What models say on the targets and on the test set."""
        data, model = self.setting.data, self.problem.model
        targets, test = (
            predict(model, done.variables, images, self.config.strategy)
            for images in (data.train.images[self.targets], data.test.images)
        )
        return Answers(targets, test, diverged((done.variables, targets, test)), done.seconds)

    def answer_all(self, values: dict[str, dict[str, Any]]) -> dict[str, Answers]:
        """What members say after each method: what an earlier run left in the run folder, the rest made now."""
        saved = {name: self.saved(name, values[name]) for name in values}
        options: dict[str, Any] = {"masks": self.masks, "strategy": self.config.strategy, "chunk": self.config.chunk}
        waiting = {
            name: Unlearner(name, values[name], self.problem, self.originals.variables, **options)
            for name in values
            if saved[name] is None and name not in REFERENCES
        }
        compile_all(waiting.values())
        return {name: saved[name] or self.answer(name, values[name], waiting.get(name)) for name in values}

    def made_by(self, values: dict[str, Any]) -> str:
        """What the logits of a method with these hyperparameters come from."""
        return self.made_from + json.dumps(values, sort_keys=True)

    def saved(self, name: str, values: dict[str, Any]) -> Answers | None:
        """What an earlier run left of a method, if it was made in the same way."""
        found = self.folder.read_npz(f"logits/{self.name}/{name}.npz")
        if found is None or str(found["made_by"]) != self.made_by(values):
            return None
        return Answers(found["targets"], found["test"], tuple(map(int, found["lost"])), float(found["seconds"]))

    def answer(self, name: str, values: dict[str, Any], unlearner: Unlearner | None) -> Answers:
        """Apply a method to every member and keep the logits in the run folder."""
        answers = self.answers(self.unlearn(name, unlearner))
        arrays = {**answers._asdict(), "lost": np.array(answers.lost, int), "made_by": self.made_by(values)}
        self.folder.write_npz(f"logits/{self.name}/{name}.npz", arrays)
        return answers

    def unlearn(self, name: str, unlearner: Unlearner | None) -> Unlearned:
        """The members after the method. The two references are pools: cached, and resumed as pools are."""
        if name == "original":
            return Unlearned(self.originals.variables, 0.0, 0.0, 0.0)
        if unlearner is None:  # retrain
            trained = self.pool("retrain", self.masks["kept"] & ~self.targets)
            return Unlearned(trained.variables, trained.seconds, trained.compile_seconds, 0.0)
        members = self.config.members
        with working(name) as update:
            keys = member_keys(self.config.seed, f"{name} on {self.name}", members)
            done = unlearner.apply(keys, lambda share: update(share, f"{round(share * members)} of {members} members"))
            update(1.0, f"{done.seconds:.2f} s a member")
        return done

    def without(self, lost: tuple[int, ...]) -> np.ndarray:
        """The members that are left."""
        return np.setdiff1d(np.arange(self.config.members), [*self.lost, *lost])

    def phi(self, targets: np.ndarray) -> np.ndarray:
        """The scaled logits of some members on the targets."""
        return scaled_logits(targets, self.labels)

    def attack(self, answers: Answers) -> dict[tuple[str, bool, str], Attack]:
        """Every attack on a method; none where too few members are left of it."""
        kept = self.without(answers.lost)
        if not len(kept) or self.fewest(kept) < FEWEST:
            return {}
        unlearned = self.phi(answers.targets[kept])
        never_saw = {"u_lira": unlearned, "u_lira_retrained": self.phi(self.oracle_targets[0, kept])}
        return {
            (form, shared, split): u_lira(
                unlearned,
                never_saw[form],
                self.trained_on[kept],
                shared_variance=shared,
                judged=self.judged[split][kept],
                seed=self.config.seed,
            )
            for form, shared, split in ATTACKS
        }

    def nulls(self, lost: tuple[int, ...]) -> Nulls:
        """What retrained models score in every attack, without the members of a method that diverged."""
        if lost not in self._nulls:
            kept = self.without(lost)
            retrained = np.stack([self.phi(each[kept]) for each in self.oracle_targets])
            with working("nulls") as update:
                found = {}
                for number, (form, shared, split) in enumerate(ATTACKS):
                    found[form, shared, split] = u_lira_null(
                        retrained,
                        self.trained_on[kept],
                        same_models=form == "u_lira",
                        shared_variance=shared,
                        judged=self.judged[split][kept],
                        splits=self.config.evaluation.splits,
                        seed=self.config.seed,
                    )
                    update((number + 1) / len(ATTACKS), f"{number + 1} of {len(ATTACKS)} attacks")
            z = [abs(each.auc_draws - each.auc.mean) / each.auc.sd for each in found.values() if each.auc.sd > 0]
            self._nulls[lost] = Nulls(found, float(np.quantile(np.max(z, axis=0), 0.95)))
        return self._nulls[lost]

    def rows_of(self, name: str, answers: Answers, attacks: dict[tuple[str, bool, str], Attack]) -> list[Row]:
        """One method's scores, each with its null."""
        kept = self.without(answers.lost)
        common: dict[str, Any] = {
            "experiment": self.config.exp,
            "dataset": self.config.dataset,
            "model": self.config.model,
            "forget_set": self.name,
            "method": name,
            "access": METHODS[name].access,
            "n_members": len(kept),
            "n_oracles": 2 * len(kept),
            "seconds": answers.seconds,
        }
        rows = []
        for (form, shared, split), attack in attacks.items():
            null = self.nulls(answers.lost).attacks[form, shared, split]
            called = "lira" if name == "original" and form == "u_lira" else form
            for measure in MEASURES:
                metric = f"{called}{'_shared' * shared}_{measure}"
                rows.append(scored(common, metric, split, getattr(attack, measure), getattr(null, measure)))
        return rows + self.accuracies(common, answers, kept)

    def accuracies(self, common: dict[str, Any], answers: Answers, kept: np.ndarray) -> list[Row]:
        """Accuracy on what each member unlearned, by memorisation, and on the test set: what forgetting cost."""
        config, own, test = self.config, self.trained_on[kept], self.setting.data.test.labels
        cells = {
            split: (answers.targets, self.oracle_targets, self.labels, judged[kept] & own)
            for split, judged in self.judged.items()
        }
        cells["test"] = answers.test, self.oracle_test, test, np.ones((len(kept), len(test)), bool)
        rows = []
        for split, (logits, oracle_logits, labels, judged) in cells.items():
            found = accuracy_on(judged, logits[kept], labels)
            expected = np.concatenate([accuracy_on(judged, each[kept], labels) for each in oracle_logits])
            if len(found) >= 2:
                centre, key = float(expected.mean()), jax.random.key(config.seed)
                apart = null(lambda a, b: a.mean() - b.mean(), expected, len(found), config.evaluation.splits, key=key)
                moved = Null(centre, apart.sd, centre + apart.low, centre + apart.high)
                rows.append(scored(common, "accuracy", split, Interval(*mean_interval(found, config.seed)), moved))
        return rows

    def write_targets(self, attacks: dict[str, dict[tuple[str, bool, str], Attack]]) -> None:
        """memorisation.csv: each target, its memorisation, and how well each method's attack does on it."""
        accuracies = {name: each["u_lira", False, "all"].example_accuracy for name, each in attacks.items() if each}
        columns = {
            "row": self.rows,
            "label": self.labels,
            "clean_label": self.setting.data.clean_labels[self.targets],
            "memorisation": self.memorisation.score,
            "standard_error": self.memorisation.error,
            "by_first_half": self.by_half[0],
            "by_second_half": self.by_half[1],
            **{f"{name}_balanced_accuracy": values for name, values in accuracies.items()},
        }
        table = zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True)
        self.folder.write_csv("memorisation.csv", tuple(columns), list(table))


def scored(common: dict[str, Any], metric: str, split: str, interval: Interval, null: Null) -> Row:
    """A row, with an empty cell for what cannot be known."""
    z = (interval.value - null.mean) / null.sd if null.sd > 0 else None
    cells = {"value": interval.value, "value_low": interval.low, "value_high": interval.high, "z": z}
    cells |= {f"null_{name}": value for name, value in null._asdict().items()}
    known: dict[str, Any] = {name: cell for name, cell in cells.items() if cell is not None and np.isfinite(cell)}
    return Row(**common, metric=metric, split=split, **known)


def accuracy_on(judged: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """In %, of each member that has examples to be judged on, `[members]`."""
    right, count = (judged & (logits.argmax(-1) == labels)).sum(1), judged.sum(1)
    return 100 * right[count > 0] / count[count > 0]


def population(targets: np.ndarray, members: int, rng: np.random.Generator) -> np.ndarray:
    """Who trains on what, `[members, examples]`: each member on half of the targets and half of the others.

    Each example is in half of the first half of the members and in half of the second (but for one if their number is odd), so
    that either half can say what is memorised.
    """
    trained = np.zeros((members, len(targets)), bool)
    for half in np.split(np.arange(members), 2):
        for rows in (np.flatnonzero(targets), np.flatnonzero(~targets)):
            trained[np.ix_(half, rows)] = random_halves(len(rows), len(half), rng)
    return trained


def even(mask: np.ndarray) -> np.ndarray:
    """The mask, without its last row if it holds an odd number."""
    mask[np.flatnonzero(mask)[mask.sum() - mask.sum() % 2 :]] = False
    return mask
