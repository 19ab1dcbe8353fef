"""The main study: every method of the registry, measured against the distribution of retrained models."""

import dataclasses
import hashlib
import json
from typing import Any, NamedTuple

import jax
import numpy as np

from configs.common import require
from configs.unlearning import Config
from experiments.setting import Setting, compile_all, forget_mask, forget_name, forgetting, pool, prepare, settings
from unlearn_jax.data.splits import generator
from unlearn_jax.methods import METHODS
from unlearn_jax.methods.apply import Unlearned, Unlearner
from unlearn_jax.metrics import accuracies, cross_entropy_losses, reference, score
from unlearn_jax.metrics.evaluation import Reference
from unlearn_jax.report import figures, leaderboard
from unlearn_jax.report.drawing import save
from unlearn_jax.report.progress import working
from unlearn_jax.report.rows import REFERENCES, Row, subject, write_results
from unlearn_jax.runs import Run
from unlearn_jax.training.cost import example_flops, flops
from unlearn_jax.training.ensembles import predict
from unlearn_jax.training.fit import refit
from unlearn_jax.training.pools import FORMAT, Pool, diverged, member_keys
from unlearn_jax.types import Cube, Labels, Variables


class Judged(NamedTuple):
    """A method's logits on one forget set, and what they cost."""

    cube: Cube  # of the members that did not diverge
    lost: tuple[int, ...]  # the others
    seconds: float
    compile_seconds: float
    examples: float


def run(config: Config, folder: Run) -> None:
    """Train originals and oracles, unlearn by every method, score each against its null, and report.

    Raises:
        UsageError: something in the configuration cannot be done.
    """
    setting = prepare(config)
    names = config.method_names()
    values = settings(config, names)
    masks = [forget_mask(config, setting, index) for index in range(config.forget_sets)]
    folder.write_json("hyperparameters.json", values)
    rows: list[Row] = []
    bands: dict[str, float] = {}
    lost: dict[tuple[str, str], tuple[int, ...]] = {}
    originals = pool(config, setting, setting.problem, masks[0] | True, "original", config.members)
    for index, mask in enumerate(masks):
        study = Study(config, folder, setting, mask, forget_name(config, setting, index))
        oracles = study.oracles()
        judged = study.judge_all(values, originals)
        measured, bands[study.name] = study.score(judged, oracles)
        rows += measured
        lost |= {(study.name, name): each.lost for name, each in judged.items()} | {(study.name, "oracle"): study.lost}
        if index == 0:
            study.draw(judged, oracles, measured)
    write_results(folder, rows, {"bands": bands, "diverged": {f"{s}/{m}": each for (s, m), each in lost.items()}})
    board = leaderboard.arrange(rows, bands, lost)
    leaderboard.write(folder, board)
    save(figures.quality_against_utility(rows, subject(rows)), folder, "quality_against_utility")
    leaderboard.show(board)


class Study:
    """One forget set: its oracles, its unlearned models, its scores."""

    def __init__(self, config: Config, folder: Run, setting: Setting, forget: np.ndarray, name: str):
        self.config, self.folder, self.setting, self.name = config, folder, setting, name
        self.forget = forget
        self.problem = forgetting(setting, forget)
        retained = np.flatnonzero(~forget)
        drawn = generator("retained examples that are judged", config.seed).permutation(retained)[: config.evaluation.retain_size]
        self.rows = {"forget": np.flatnonzero(forget), "retain": np.sort(drawn)}
        train, test = setting.data.train, setting.data.test
        self.labels = Labels(train.labels[self.rows["forget"]], train.labels[self.rows["retain"]], test.labels)
        self.images = Cube(train.images[self.rows["forget"]], train.images[self.rows["retain"]], test.images)
        # Whatever logits in the run folder depend on: what was made from something else is made anew.
        self.made_from = json.dumps(
            {
                **setting.identity,
                "forget": hashlib.sha256(np.packbits(forget).tobytes()).hexdigest(),
                "recipe": dataclasses.asdict(self.problem.recipe),
                "retain_size": config.evaluation.retain_size,
                "seed": config.seed,
                "format": FORMAT,
            },
            sort_keys=True,
        )
        folder.write_text(f"forget_sets/{name}.txt", "".join(f"{row}\n" for row in self.rows["forget"]))
        folder.write_npz(f"logits/{name}/labels.npz", {**self.labels._asdict(), **{f"{k}_rows": v for k, v in self.rows.items()}})

    def oracles(self) -> Cube:
        """The logits of the models retrained without the forget set, those that diverged left out."""
        self.retraining = self.pool("oracle", 2 * self.config.members)
        cube = self.logits(self.retraining.variables)
        self.lost = diverged((self.retraining.variables, cube))
        enough = len(cube.forget) - len(self.lost) >= 4  # a null of two against two
        said = f"{len(self.lost)} of {len(cube.forget)} retrained models diverged; expected a smaller number"
        require(enough, "--train.learning-rate", self.config.train.learning_rate, said)
        self.folder.write_npz(f"logits/{self.name}/oracle.npz", {**cube._asdict(), "lost": np.array(self.lost, int)})
        return keep(cube, self.lost)

    def pool(self, role: str, members: int) -> Pool:
        """Models trained without the forget set."""
        return pool(self.config, self.setting, self.problem, ~self.forget, role, members)

    def logits(self, variables: Variables) -> Cube:
        """What a pool says on forget, retain and test."""
        model, strategy = self.problem.model, self.config.strategy
        return Cube(*(predict(model, variables, images, strategy) for images in self.images))

    def judge_all(self, values: dict[str, dict[str, Any]], originals: Pool) -> dict[str, Judged]:
        """What every method makes of the originals: what an earlier run left in the run folder, the rest made now."""
        saved = {name: self.saved(name, values[name]) for name in values}
        waiting = {
            name: Unlearner(
                name, values[name], self.problem, originals.variables, strategy=self.config.strategy, chunk=self.config.chunk
            )
            for name in values
            if saved[name] is None and name not in REFERENCES
        }
        compile_all(waiting.values())
        return {name: saved[name] or self.judge(name, values[name], originals, waiting.get(name)) for name in values}

    def made_by(self, values: dict[str, Any]) -> str:
        """What the logits of a method with these hyperparameters come from."""
        return self.made_from + json.dumps(values, sort_keys=True)

    def saved(self, name: str, values: dict[str, Any]) -> Judged | None:
        """What an earlier run left of a method, if it was made in the same way and of as many members."""
        found = self.folder.read_npz(f"logits/{self.name}/{name}.npz")
        if found is None or str(found["made_by"]) != self.made_by(values) or len(found["forget"]) != self.config.members:
            return None
        lost = tuple(int(member) for member in found["lost"])
        costs = [float(found[field]) for field in ("seconds", "compile_seconds", "examples")]
        return Judged(keep(Cube(*(found[split] for split in Cube._fields)), lost), lost, *costs)

    def judge(self, name: str, values: dict[str, Any], originals: Pool, unlearner: Unlearner | None) -> Judged:
        """Apply a method to every original and keep the logits in the run folder."""
        done = self.unlearn(name, originals, unlearner)
        cube = self.logits(done.variables)
        lost = tuple(sorted({*diverged((done.variables, cube)), *(originals.diverged if name != "retrain" else ())}))
        costs = done.seconds, done.compile_seconds, done.examples
        arrays = {**cube._asdict(), "lost": np.array(lost, int), "made_by": self.made_by(values)}
        arrays |= dict(zip(("seconds", "compile_seconds", "examples"), costs, strict=True))
        self.folder.write_npz(f"logits/{self.name}/{name}.npz", arrays)
        return Judged(keep(cube, lost), lost, *costs)

    def unlearn(self, name: str, originals: Pool, unlearner: Unlearner | None) -> Unlearned:
        """The members after the method. The two references are pools: cached, and resumed as pools are."""
        if name == "original":
            return Unlearned(originals.variables, 0.0, 0.0, 0.0)
        if unlearner is None:  # retrain: `fit.refit`, as the method's own
            trained = self.pool("retrain", self.config.members)
            return Unlearned(trained.variables, trained.seconds, trained.compile_seconds, self.retraining_examples())
        members = self.config.members
        with working(name) as update:
            keys = member_keys(self.config.seed, f"{name} on {self.name}", members)
            done = unlearner.apply(keys, lambda share: update(share, f"{round(share * members)} of {members} members"))
            update(1.0, f"{done.seconds:.2f} s a member")
        return done

    def retraining_examples(self) -> float:
        """The work of one retraining, in training examples seen forward and backward."""
        return flops(refit, jax.random.key(0), self.problem) / example_flops(self.problem)

    def score(self, judged: dict[str, Judged], oracles: Cube) -> tuple[list[Row], float]:
        """The rows of every method, and the band of the largest |z|."""
        with working("scores") as update:
            count = min(self.config.members, len(oracles.forget) // 2)
            yardstick = reference(oracles, self.labels, count, splits=self.config.evaluation.splits, seed=self.config.seed)
            rows: list[Row] = []
            for number, (name, each) in enumerate(judged.items()):
                rows += self.rows_of(name, each, yardstick, len(oracles.forget))
                update((number + 1) / len(judged), name)
            update(1.0, f"{len(judged)} methods, {len(yardstick.nulls)} metrics")
        return rows, yardstick.band

    def rows_of(self, name: str, each: Judged, yardstick: Reference, oracles: int) -> list[Row]:
        """One method's scores and costs."""
        config, members = self.config, len(each.cube.forget)
        common: dict[str, Any] = {
            "experiment": config.exp,
            "dataset": config.dataset,
            "model": config.model,
            "forget_set": self.name,
            "method": name,
            "access": METHODS[name].access,
            "n_members": members,
            "n_oracles": oracles,
            "seconds": each.seconds,
        }
        rows = []
        if members >= 2:
            for found in score(each.cube, yardstick).scores:
                null: dict[str, Any] = (
                    {} if found.null is None else {f"null_{key}": value for key, value in found.null._asdict().items()}
                )
                bounds: dict[str, Any] = {"value_low": found.low, "value_high": found.high}
                rows.append(Row(**common, metric=found.metric, split=found.split, value=found.value, **bounds, **null, z=found.z))
        costs = {
            "seconds": each.seconds,
            "compile_seconds": each.compile_seconds,
            "rte": each.seconds / self.retraining.seconds,
            "examples": each.examples,
            "rte_examples": each.examples / self.retraining_examples(),
        }
        return rows + [Row(**common, metric=metric, split="", value=value) for metric, value in costs.items()]

    def draw(self, judged: dict[str, Judged], oracles: Cube, rows: list[Row]) -> None:
        """The figures that show single members and examples."""
        title = subject(rows)
        losses = {name: self.losses(each.cube) for name, each in judged.items() if len(each.cube.forget)}
        save(figures.loss_histograms(losses, self.losses(oracles), title), self.folder, "loss_histograms")
        shares = {name: accuracies(each.cube, self.labels)._asdict() for name, each in judged.items() if len(each.cube.forget)}
        of_oracles = accuracies(oracles, self.labels)._asdict()
        save(figures.accuracy_bars(rows, shares, of_oracles, title), self.folder, "accuracy")

    def losses(self, cube: Cube) -> dict[str, np.ndarray]:
        """Cross-entropy of every member on every example, by split."""
        return {split: cross_entropy_losses(getattr(cube, split), getattr(self.labels, split)) for split in Cube._fields}


def keep(cube: Cube, lost: tuple[int, ...]) -> Cube:
    """A cube without the members that diverged."""
    return Cube(*(np.delete(logits, lost, axis=0) for logits in cube))
