"""How each metric can be gamed: cheats scored as methods are, and measures of how wrong they are."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np

from experiments.gaming import cheats, report
from experiments.gaming.options import Config
from experiments.gaming.report import Claim, Price
from unlearn_jax.bench.forget_set import forget_class, forget_mask, forget_name, forget_set
from unlearn_jax.bench.hyperparameters import settings
from unlearn_jax.bench.judging import measure_models, train_oracles
from unlearn_jax.bench.pools import pool
from unlearn_jax.bench.population import lost_members, score_alive, without
from unlearn_jax.bench.scoring import null_of, scored_row
from unlearn_jax.bench.setting import prepare
from unlearn_jax.data.splits import generator
from unlearn_jax.methods import hyperparameters
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import Evaluation, accuracy, catalogue, probabilities, relearn_steps, scaled_logits, weight_distance, zrf
from unlearn_jax.metrics.views import Extra
from unlearn_jax.models.paths import at, replaced
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import Row, subject, write_results
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import predict, shared
from unlearn_jax.training.pools import diverged, member_keys
from unlearn_jax.types import Cube, Examples, Variables

RATES = (1e-4, 1.0)  # range of learning rates in which ascent reaches the published accuracy
DULLER = (1.0, 100.0)  # range of divisors of a head with which relearning takes as long as published
DISGUISED = 8  # most retrained models of the cheat that is made to pass every metric
REPEATS = 4  # most groups of retrained models for the price of a metric


def run(config: Config, folder: Run) -> None:
    """Score every cheat as a method is scored, measure how wrong it is, and report which metric detects which cheat.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    game = Game(config, folder)
    for name, (make, targets, needs, retrained) in MODELS.items():
        game.submit_model(Claim(name, targets, needs, retrained, (make.__doc__ or name).splitlines()[0]), make(game))
    game.submit_tables(cheats.CHEATS)
    game.submit_tables(cheats.make_blends(game.make_known()))
    game.submit_disguised()
    prices, title = game.prices(), subject(game.rows)
    write_results(folder, game.rows, {"band": game.reference.band, "claims": game.claims})
    folder.write_csv("price.csv", Price._fields, prices)
    report.write_summary(folder, game.rows, game.claims, game.reference.band)
    save(report.heat_map(game.rows, game.claims, title), folder, "cheats")
    save(report.price(prices, game.reference.band, title), folder, "price")


class Game:
    """One forget set: what the authors of cheats know, and the null that cheats are scored against."""

    def __init__(self, config: Config, folder: Run):
        self.config, self.setting = config, prepare(config)
        forget = forget_mask(config, self.setting, 0)
        self.study = study = forget_set(config, folder, self.setting, forget, forget_name(config, self.setting, 0))
        noise = generator("nudge", config.seed).standard_normal(study.images.forget.shape)
        self.nudged = study.images.forget + np.float32(config.nudge * noise)

        trained = pool(config, self.setting, self.setting.problem, forget | True, "original", study.members)
        again = study.pool("cheat", study.members)  # retrained by the author of the cheats, with other keys
        populations = {"original": trained.variables, "retrained": again.variables}
        self.originals, self.retrained = (
            without(models, lost_members(config, role, models, 2)) for role, models in populations.items()
        )
        self.original_cube, self.originals_nudged = study.logits(self.originals), self.predict_nudged(self.originals)
        self.answers = study.logits(self.retrained).forget
        oracles = train_oracles(study)
        self.oracles = oracles.cube
        self.oracle_margins = self.margins(self.oracles.forget)
        self.oracle_margins_nudged = self.margins(self.predict_nudged(oracles.variables))
        self.direction = self.margins(self.original_cube.forget).mean(0) - self.oracle_margins.mean(0)
        with working("null") as update:
            self.models = measure_models(study, trained, oracles)
            self.reference = null_of(study, self.oracles, self.models.of_oracles(self.oracles.forget))
            update(1.0, f"{len(self.reference.nulls)} metrics, largest deviation up to {self.reference.band:.2f}")
        self.weights = self.models.of(self.originals, self.original_cube.forget)  # metrics of the models inside the wrappers
        self.rows: list[Row] = []
        self.claims: list[Claim] = []
        self.verdicts: dict[str, Evaluation] = {}

    def make_known(self, first: int = 0) -> cheats.Known:
        """What the author of a cheat knows, with the retrained models rolled so that number `first` is the first."""
        images = self.study.images
        near = cheats.nearest(images.forget, images.retain, self.config.nearest)
        scores = {name: {score.name: score.value for score in verdict.scores} for name, verdict in self.verdicts.items()}
        return cheats.Known(
            self.original_cube, self.study.labels, near, np.roll(self.answers, -first, 0), self.reference.nulls, scores
        )

    def submit_tables(self, tables: Mapping[str, cheats.Cheat]) -> None:
        """Submits wrappers that have enough retrained models. Nudged images are answered by the originals."""
        known = self.make_known()
        for name, (answer, targets, needs, retrained, summary) in tables.items():
            if (retrained or 0) <= len(self.answers):
                answers = answer(generator(name, self.config.seed), known)
                self.submit(Claim(name, targets, needs, retrained, summary), answers, self.originals_nudged, self.weights)

    def submit_model(self, claim: Claim, variables: Variables) -> None:
        """Submits models without those that diverged, unless fewer than two are left."""
        cube, nudged = self.study.logits(variables), self.predict_nudged(variables)
        lost = diverged((variables, cube, nudged))
        if len(cube.forget) - len(lost) < 2:
            return
        kept = without(cube, lost)
        measured = self.models.of(without(variables, lost), kept.forget)
        self.submit(claim, kept, np.delete(nudged, lost, axis=0), measured)

    def submit_disguised(self) -> None:
        """Submits a wrapper that answers by draws, around models that relearn as slowly as retrained ones."""
        count = max((number for number in cheats.COUNTS if number <= min(DISGUISED, len(self.answers))), default=0)
        if count:
            drawn = cheats.CHEATS[f"drawn_{count}"]
            summary = f"`drawn_{count}` around the models of `dulled`; the wrapper undoes the dulling on other examples."
            claim = Claim(f"disguised_{count}", (*drawn.targets, *INSIDE), drawn.needs, count, summary)
            self.submit(claim, self.draw(count, 0), self.originals_nudged, self.dulled_weights)

    def submit(self, claim: Claim, cube: Cube, nudged: np.ndarray, weights: Extra) -> None:
        """Scores answers and the models inside, and measures how wrong they are on F and on nudged F."""
        config, study, members = self.config, self.study, len(cube.forget)
        verdict, n = self.evaluate(claim.method, cube, weights)
        common = Row(
            experiment=config.exp,
            dataset=config.dataset,
            model=config.model,
            forget_set=study.name,
            method=claim.method,
            access=claim.needs,
            metric="",
            split="forget",
            n_members=n,
            n_oracles=len(self.oracles.forget),
            band=verdict.band,
            inside=verdict.inside,
        )
        wrong = {
            "untouched": cheats.untouched(cube.forget, self.original_cube.forget)
            if members == len(self.original_cube.forget)
            else 0.0,
            "memory": cheats.memory(self.margins(cube.forget), self.oracle_margins, self.direction),
            "memory_nudged": cheats.memory(self.margins(nudged), self.oracle_margins_nudged, self.direction),
            "agreement": cheats.agreement(cube.forget, self.oracles.forget, study.labels.forget),
        }
        self.verdicts[claim.method] = verdict
        self.claims.append(claim._replace(inside=verdict.inside))
        self.rows += [scored_row(common, score) for score in verdict.scores]
        self.rows += [common._replace(metric=metric, value=value) for metric, value in wrong.items()]

    def evaluate(self, name: str, cube: Cube, weights: Extra) -> tuple[Evaluation, int]:
        """The scores of answers and of the models inside, and the number of models."""
        extra = {**weights, catalogue.zrf.on("forget"): zrf(probabilities(cube.forget), self.models.untrained)}
        with working(name) as update:
            verdict, n = score_alive(cube, self.reference, extra=extra)
            assert verdict
            update(1.0, f"largest deviation {verdict.largest_z:.1f}")
        return verdict, n

    def draw(self, count: int, first: int) -> Cube:
        """The answers of the cheat `drawn_<count>`, from `count` retrained models beginning with number `first`."""
        name = f"drawn_{count}"
        return cheats.CHEATS[name].answer(generator(name, self.config.seed), self.make_known(first))

    @functools.cached_property
    def dulled(self) -> Variables:
        """The originals with other heads, so that relearning takes as long and weights are as far away as published.

        A head is divided by the number that slows relearning down enough. This moves it nearer to the oracles' mean, which is
        near the origin. A constant added to all its biases, which softmax ignores, restores the distance.
        """
        relearner, published = self.models.relearner, {name: null.mean for name, null in self.reference.nulls.items()}
        params, head = self.originals.params, self.setting.problem.model.head
        assert head and head.bias
        weights, biases = {path: at(params, path) for path in (head.kernel, head.bias)}, head.bias

        def divide_heads(by: np.ndarray) -> Variables:
            less = {path: np.float32(leaf / np.expand_dims(by, tuple(range(1, leaf.ndim)))) for path, leaf in weights.items()}
            return self.originals._replace(params=replaced(params, less))

        with working("dulling") as update:
            slow = -published[catalogue.relearn_steps.on("forget")]
            members = len(self.original_cube.forget)
            by = cheats.bisect(lambda by: -relearn_steps(relearner(divide_heads(by)), self.models.target), slow, *DULLER, members)
            update(1.0, f"heads divided by {by.min():.2g} to {by.max():.2g}")
        dull = divide_heads(by)
        distance = weight_distance(dull.params, self.models.oracles.params)["all"]
        missing = published[catalogue.weight_distance.on("all")] ** 2 - distance**2
        bias = at(dull.params, biases)
        shifted = bias + np.float32(np.sqrt(np.maximum(missing, 0) / bias.shape[1])[:, None])
        return dull._replace(params=replaced(dull.params, {biases: shifted}))

    @functools.cached_property
    def dulled_weights(self) -> Extra:
        """The metrics of the models `dulled`."""
        return self.models.of(self.dulled, self.original_cube.forget)

    def prices(self) -> list[Price]:
        """The scores of disguised draws from few retrained models, for several groups of them; from none: doing nothing."""
        verdicts = [(0, 0, self.verdicts["original"])]
        for count in cheats.COUNTS:
            for first in range(0, len(self.answers) - count + 1, count)[:REPEATS]:
                name = f"{count} retrained models, from {first} on"
                verdict, _ = self.evaluate(name, self.draw(count, first), self.dulled_weights)
                verdicts.append((count, first, verdict))
        return [
            Price(count, first, score.metric, score.split, score.value, score.z, verdict.largest_z)
            for count, first, verdict in verdicts
            for score in verdict.scores
        ]

    def predict_nudged(self, variables: Variables) -> np.ndarray:
        """Logits on the nudged forget set."""
        return predict(self.setting.problem.model, variables, self.nudged, self.config.strategy)

    def margins(self, logits: np.ndarray) -> np.ndarray:
        """Margins on the forget set."""
        return scaled_logits(logits, self.study.labels.forget)


# Cheats that are models


def retrain(game: Game) -> Variables:
    """The honest way: new models, trained without F."""
    return game.study.pool("retrain", game.study.members).variables


def retrain_again(game: Game) -> Variables:
    """The honest way again: the retrained models that cheats use."""
    return game.retrained


def one_retrained(game: Game) -> Variables:
    """One retrained model, the same for all members."""
    return jax.tree.map(lambda leaf: np.repeat(leaf[:1], game.study.members, axis=0), game.retrained)


def nearly_all(game: Game) -> Variables:
    """Trained without F, except for a few of its examples."""
    rows = generator("spared", game.config.seed).permutation(game.study.rows["forget"])
    mask = ~game.study.mask
    mask[rows[: max(round(game.config.spared * len(rows)), 1)]] = True
    return pool(game.config, game.setting, game.study.problem, mask, "nearly_all", game.study.members).variables


def ascent(game: Game) -> Variables:
    """Gradient ascent on F, each model with the learning rate that gives the published accuracy on F."""
    config, study, members = game.config, game.study, len(game.original_cube.forget)
    label = forget_class(config, game.setting, 0)
    values = settings(config, config.method_names(), label)["gradient_ascent"]
    unlearner = Unlearner("gradient_ascent", values, study.problem, game.originals, strategy=config.strategy, chunk=config.chunk)
    keys = member_keys(config.seed, "ascent to a published accuracy", members)

    def ascend(rates: np.ndarray) -> Variables:
        unlearner.retune(learning_rate=rates)
        return unlearner.apply(keys).variables

    def reached_accuracy(rates: np.ndarray) -> np.ndarray:
        logits = predict(study.problem.model, ascend(rates), study.images.forget, config.strategy)
        return accuracy(np.nan_to_num(logits), study.labels.forget)

    with working("ascent to the published accuracy") as update:
        rates = cheats.bisect(reached_accuracy, game.reference.nulls[ACCURACY].mean, *RATES, members)
        update(1.0, f"learning rates {rates.min():.2g} to {rates.max():.2g}")
    return ascend(rates)


def relabelled(game: Game) -> Variables:
    """Fine-tuned on everything, with runner-up labels on as much of F as gives the published accuracy on F."""
    config, study, train = game.config, game.study, game.setting.data.train
    wrong = round((1 - game.reference.nulls[ACCURACY].mean / 100) * len(study.rows["forget"]))
    drawn = generator("relabelled", config.seed).permutation(len(study.rows["forget"]))[:wrong]
    labels = np.array(train.labels)
    labels[study.rows["forget"][drawn]] = cheats.runner_up(game.original_cube.forget.mean(0, keepdims=True))[0].argmax(-1)[drawn]
    problem = dataclasses.replace(game.setting.problem, train=shared(Examples(train.images, labels)))
    recipe = {"epochs": config.train.epochs, "learning_rate": config.train.learning_rate / 5}
    values = hyperparameters("finetune", {**recipe, "batch_size": config.train.batch_size})
    unlearner = Unlearner("finetune", values, problem, game.originals, strategy=config.strategy, chunk=config.chunk)
    with working("fine-tuning on relabelled examples"):
        return unlearner.apply(member_keys(config.seed, "relabelled", len(game.original_cube.forget))).variables


def dulled(game: Game) -> Variables:
    """The originals with a head so small that relearning F takes as long as published, and larger biases."""
    return game.dulled


ACCURACY = catalogue.accuracy.on("forget")
INSIDE = (catalogue.relearn_steps.on("forget"), catalogue.weight_distance.on("all"))
MODELS: dict[str, tuple[Callable[[Game], Variables], tuple[cheats.Name, ...], str, int | None]] = {
    "retrain": (retrain, (), "nothing", None),
    "retrain_again": (retrain_again, (), "nothing", None),
    "one_retrained": (one_retrained, (), "1 retrained model", 1),
    "nearly_all": (nearly_all, cheats.ON_FORGET, "a retrained model for each member", None),
    "ascent": (ascent, (ACCURACY,), "published accuracies", 0),
    "relabelled": (relabelled, (ACCURACY,), "published accuracies", 0),
    "dulled": (dulled, INSIDE, "published relearning time and distance", 0),
}
"""Name -> the function that makes it, its target metrics, what its author needs, and the number of retrained models."""
