"""One forget set: its oracles, its unlearned models, its scores."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from unlearn_jax import device
from unlearn_jax.bench.alive import NULL, comparable, lost_members, score_alive, without
from unlearn_jax.bench.model_metrics import ModelMetrics, metrics_for
from unlearn_jax.bench.options import Judging
from unlearn_jax.bench.setting import Setting, compile_all, forgetting, pool
from unlearn_jax.data.splits import generator
from unlearn_jax.methods import METHODS, Entry
from unlearn_jax.methods.apply import Unlearned, Unlearner
from unlearn_jax.metrics import Score, accuracies, cross_entropy_losses, reference
from unlearn_jax.metrics.evaluation import GROUPS, Evaluation, Name, Reference
from unlearn_jax.progress import stage, working
from unlearn_jax.report import figures
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import REFERENCES, Row, subject
from unlearn_jax.runs import Run
from unlearn_jax.training.cost import example_flops, flops
from unlearn_jax.training.ensembles import predict
from unlearn_jax.training.fit import refit
from unlearn_jax.training.pools import Pool, diverged, member_keys
from unlearn_jax.training.relearning import POINTS, ROWS
from unlearn_jax.types import Cube, Labels, Model, Variables


class Judged(NamedTuple):
    """A method's logits on one forget set, and what they cost."""

    cube: Cube  # of the members that did not diverge
    lost: tuple[int, ...]  # the others
    seconds: float
    compile_seconds: float
    examples: float
    extra: dict[Name, np.ndarray]  # what needs the models themselves, see `ModelMetrics`
    made_with: str  # see `device.made_with`


class Scored(NamedTuple):
    """A method on one forget set; methods of which fewer than two members are left have no score."""

    evaluation: Evaluation
    n: int  # models that were compared, the first of those that did not diverge where the oracles suffice for no more
    reference: Reference
    members: dict[Name, np.ndarray]  # [originals, seeds] of each metric that every member has a value of; NaN if it diverged


class Study:
    """One forget set, as a configuration asks for it; `config.members` is a number by now. `entries` are the methods by name."""

    def __init__(
        self,
        config: Judging,
        folder: Run,
        setting: Setting,
        forget: np.ndarray,
        name: str,
        entries: Mapping[str, Entry] = METHODS,
    ):
        self.config, self.folder, self.setting, self.name, self.entries = config, folder, setting, name, entries
        assert config.members != "auto"
        self.members, self.forget = config.members, forget
        self.problem = forgetting(setting, forget)
        retained = np.flatnonzero(~forget)
        drawn = generator("retained examples that are judged", config.seed).permutation(retained)[: config.evaluation.retain_size]
        self.rows = {"forget": np.flatnonzero(forget), "retain": np.sort(drawn)}
        train, test = setting.data.train, setting.data.test
        self.labels = Labels(train.labels[self.rows["forget"]], train.labels[self.rows["retain"]], test.labels)
        self.images = Cube(train.images[self.rows["forget"]], train.images[self.rows["retain"]], test.images)
        right = setting.data.clean_labels[self.rows["forget"]]
        self.right = right if np.all(right != self.labels.forget) else None  # labels that forgetting repairs
        # Whatever logits in the run folder depend on, besides the method: what was made from something else is made anew.
        self.identity = {
            **setting.identity,
            "forget": hashlib.sha256(np.packbits(forget).tobytes()).hexdigest(),
            "recipe": dataclasses.asdict(self.problem.recipe),
            "members": self.members,
            "retain_size": config.evaluation.retain_size,
            "seed": config.seed,
            "metrics": ["/".join(metric) for metric in metrics_for(self.right)],
            "relearning": [POINTS, ROWS],
        }
        self.published = {split: setting.data.published.train[rows] for split, rows in self.rows.items()}
        folder.write_text(f"forget_sets/{name}.txt", "".join(f"{row}\n" for row in self.published["forget"]))
        numbers = {f"{split}_rows": rows for split, rows in self.published.items()}
        folder.write_npz(f"logits/{name}/labels.npz", {**self.labels._asdict(), **numbers})

    def oracles(self) -> Cube:
        """The logits of the models retrained without the forget set, those that diverged (`lost`) left out.

        Raises:
            UsageError: so few are left that there is no null.
        """
        self.retraining = self.pool("oracle", 2 * self.members)
        cube = self.logits(self.retraining.variables)
        self.lost = lost_members(self.config, "retrained", (self.retraining.variables, cube), NULL)
        made = {"lost": np.array(self.lost, int), "made_with": ", ".join(self.retraining.made_with)}
        self.folder.write_npz(f"logits/{self.name}/oracle.npz", {**cube._asdict(), **made})
        return without(cube, self.lost)

    def pool(self, role: str, members: int) -> Pool:
        """Models trained without the forget set."""
        return pool(self.config, self.setting, self.problem, ~self.forget, role, members)

    @stage("predictions")
    def logits(self, variables: Variables, model: Model | None = None) -> Cube:
        """What a pool says on forget, retain and test, by one program; `model` where it is not the problem's own."""
        said = predict(model or self.problem.model, variables, np.concatenate(self.images), self.config.strategy)
        return Cube(*np.split(said, np.cumsum([len(images) for images in self.images])[:2], axis=1))

    def judge_all(self, values: dict[str, dict[str, Any]], originals: Pool, repeats: int) -> dict[str, list[Judged]]:
        """What every method makes of the originals, by seed: what an earlier run left in the run folder, the rest made now."""
        seeds = range(repeats)
        saved = {(name, seed): self.saved(name, values[name], seed) for name in values for seed in seeds}
        batching: dict[str, Any] = {"strategy": self.config.strategy, "chunk": self.config.chunk}
        waiting = {
            name: Unlearner(self.entries[name], values[name], self.problem, originals.variables, **batching)
            for name in values
            if name not in REFERENCES and any(saved[name, seed] is None for seed in seeds)
        }
        with ThreadPoolExecutor(1) as thread:
            measuring = thread.submit(self.model_metrics, originals)
            compile_all(waiting.values())
            self.models = measuring.result()
        return {
            name: [saved[name, seed] or self.judge(name, values[name], originals, waiting.get(name), seed) for seed in seeds]
            for name in values
        }

    def model_metrics(self, originals: Pool) -> ModelMetrics:
        """What measures models themselves, against the oracles that did not diverge."""
        kept = without(originals.variables, originals.diverged), without(self.retraining.variables, self.lost)
        return ModelMetrics(self.config, self.problem, self.images.forget, *kept, self.right)

    def identity_of(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        """What the logits of a method with these hyperparameters come from, and of a learned one what it has learned."""
        learned = [] if name in METHODS else jax.tree.leaves(getattr(self.entries[name].make, "args", ()))
        digests = [hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest() for leaf in learned]
        return {**self.identity, "values": values, "learned": digests}

    def file(self, name: str, seed: int) -> str:
        """Where the logits of a method are kept."""
        return f"logits/{self.name}/{name}{f'-seed{seed}' if seed else ''}.npz"

    def saved(self, name: str, values: dict[str, Any], seed: int) -> Judged | None:
        """What an earlier run left of a method, if it was made in the same way and of as many members, and has all metrics.

        Metrics of models cannot be had from logits: where one is missing, as after the project got another, all is made anew.
        """
        found = self.folder.find(self.file(name, seed), self.identity_of(name, values))
        if found is None:
            return None
        wanted = {"/".join(metric): metric for metric in metrics_for(self.right)}
        lost = tuple(int(member) for member in found["lost"])
        seconds, compile_seconds, examples = (float(found[field]) for field in ("seconds", "compile_seconds", "examples"))
        extra = {metric: found[key] for key, metric in wanted.items() if key in found}  # none where all members diverged
        cube = without(Cube(*(found[split] for split in Cube._fields)), lost)
        return Judged(cube, lost, seconds, compile_seconds, examples, extra, str(found["made_with"]))

    def judge(self, name: str, values: dict[str, Any], originals: Pool, unlearner: Unlearner | None, seed: int) -> Judged:
        """Apply a method to every original and keep the logits in the run folder."""
        done = self.unlearn(name, originals, unlearner, seed)
        model = self.entries[name].outcome(self.problem.model)
        cube = self.logits(done.variables, model)
        lost = tuple(sorted({*diverged((done.variables, cube)), *(originals.diverged if name != "retrain" else ())}))
        costs = done.seconds, done.compile_seconds, done.examples
        kept = without(cube, lost)
        extra = self.models.of(without(done.variables, lost), kept.forget, model) if len(kept.forget) else {}
        arrays = {**cube._asdict(), "lost": np.array(lost, int), "made_with": np.array(device.made_with())}
        arrays |= dict(zip(("seconds", "compile_seconds", "examples"), costs, strict=True))
        arrays |= {"/".join(metric): numbers for metric, numbers in extra.items()}
        self.folder.keep(self.file(name, seed), self.identity_of(name, values), arrays)
        return Judged(kept, lost, *costs, extra, device.made_with())

    def unlearn(self, name: str, originals: Pool, unlearner: Unlearner | None, seed: int) -> Unlearned:
        """The members after the method. The two references are pools: cached, and resumed as pools are."""
        members = self.members
        if name == "original":
            return Unlearned(originals.variables, 0.0, 0.0, 0.0)
        if unlearner is None:  # retrain: `fit.refit`, as the method's own; another seed is so many members further on
            trained = self.pool("retrain", members * (seed + 1))
            own = jax.tree.map(lambda leaf: leaf[members * seed :], trained.variables)
            return Unlearned(own, trained.seconds, trained.compile_seconds, self.retraining_examples())
        with working(name) as update:
            keys = member_keys(self.config.seed, f"{name} on {self.name}{f', seed {seed}' if seed else ''}", members)
            done = unlearner.apply(keys, lambda share: update(share, f"{round(share * members)} of {members} members"))
            update(1.0, f"{done.seconds:.2f} s a member")
        return done

    def retraining_examples(self) -> float:
        """The work of one retraining, in training examples seen forward and backward."""
        return flops(refit, jax.random.key(0), self.problem) / example_flops(self.problem)

    def yardstick(self, oracles: Cube, extra: dict[Name, np.ndarray] | None = None) -> Reference:
        """What retrained models score against each other."""
        count, evaluation = comparable(self.members, len(oracles.forget)), self.config.evaluation
        return reference(oracles, self.labels, count, splits=evaluation.splits, seed=self.config.seed, extra=extra)

    def score(self, judged: dict[str, list[Judged]], oracles: Cube) -> tuple[Reference, dict[str, Scored]]:
        """What retrained models score against each other, and what every method scores against them."""
        groups = np.arange(self.members) * min(GROUPS, self.members) // self.members
        found: dict[str, Scored] = {}
        with working("scores") as update:
            yardstick = self.yardstick(oracles, self.models.of_oracles(oracles.forget))
            for number, (name, (first, *others)) in enumerate(judged.items()):
                evaluation, n = score_alive(first.cube, yardstick, np.delete(groups, first.lost), first.extra)
                if evaluation:
                    by_seed: list[dict[Name, np.ndarray]] = [
                        {(each.metric, each.split): np.array(each.members) for each in evaluation.scores if each.members}
                    ]
                    by_seed += [yardstick.of_members(each.cube, each.extra) if len(each.cube.forget) else {} for each in others]
                    lost = [each.lost for each in (first, *others)]
                    members = {each: self.with_gaps([own.get(each, ()) for own in by_seed], lost) for each in by_seed[0]}
                    found[name] = Scored(evaluation, n, yardstick.at(n), members)
                update((number + 1) / len(judged), name)
            update(1.0, f"{len(judged)} methods, {len(yardstick.nulls)} metrics")
        return yardstick, found

    def with_gaps(self, by_seed: Sequence[Sequence[float] | np.ndarray], lost: Sequence[tuple[int, ...]]) -> np.ndarray:
        """A value of each original and seed, NaN for those that are lost or, at the end, were not compared."""
        whole = np.full((self.members, len(by_seed)), np.nan)
        for seed, (values, gone) in enumerate(zip(by_seed, lost, strict=True)):
            whole[np.delete(np.arange(self.members), gone)[: len(values)], seed] = values
        return whole

    def rows_of(self, name: str, each: Judged, scored: Scored | None, oracles: int) -> list[Row]:
        """One method's scores and costs."""
        config = self.config
        common = Row(
            experiment=config.exp,
            dataset=config.dataset,
            model=config.model,
            forget_set=self.name,
            method=name,
            access=self.entries[name].access,
            metric="",
            split="",
            n_members=scored.n if scored else len(each.cube.forget),
            n_oracles=oracles,
            seconds=each.seconds,
        )
        costs = {
            "seconds": each.seconds,
            "compile_seconds": each.compile_seconds,
            "rte": each.seconds / self.retraining.seconds,
            "examples": each.examples,
            "rte_examples": each.examples / self.retraining_examples(),
        }
        scores = scored.evaluation.scores if scored else []
        rows = [scored_row(common, found) for found in scores]
        return rows + [common._replace(metric=metric, value=value) for metric, value in costs.items()]

    def draw(self, judged: dict[str, list[Judged]], oracles: Cube, rows: list[Row]) -> None:
        """The figures that show single members and examples."""
        title = subject(rows)
        cubes = {name: first.cube for name, (first, *_) in judged.items() if len(first.cube.forget)}
        losses = {name: self.losses(cube) for name, cube in cubes.items()}
        save(figures.loss_histograms(losses, self.losses(oracles), title), self.folder, "loss_histograms")
        shares = {name: accuracies(cube, self.labels)._asdict() for name, cube in cubes.items()}
        of_oracles = accuracies(oracles, self.labels)._asdict()
        save(figures.accuracy_bars(rows, shares, of_oracles, title), self.folder, "accuracy")

    def losses(self, cube: Cube) -> dict[str, np.ndarray]:
        """Cross-entropy of every member on every example, by split."""
        return {split: cross_entropy_losses(getattr(cube, split), getattr(self.labels, split)) for split in Cube._fields}


def scored_row(common: Row, score: Score) -> Row:
    """A row of what all rows of a method have in common, and a score."""
    null = score.null
    return common._replace(
        metric=score.metric,
        split=score.split,
        value=score.value,
        value_low=score.low,
        value_high=score.high,
        null_mean=null.mean,
        null_sd=null.sd,
        null_low=null.low,
        null_high=null.high,
        z=score.z,
    )
