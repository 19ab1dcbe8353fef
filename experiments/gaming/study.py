"""How each metric can be gamed: cheats scored as methods are, and how wrong each is."""

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

RATES = (1e-4, 1.0)  # learning rates between which ascent reaches a published accuracy
DULLER = (1.0, 100.0)  # by what a head is divided, for relearning to take as long as published
DISGUISED = 8  # retrained models, at most, of the cheat that is to pass everything
REPEATS = 4  # other retrained models that the price of a metric is found with, where there are as many


def run(config: Config, folder: Run) -> None:
    """Score every cheat as a method is scored, measure how wrong it is, and say which metric sees which.

    Raises:
        UsageError: something in the configuration cannot be done.
    """
    game = Game(config, folder)
    for name, (make, targets, needs, retrained) in MODELS.items():
        game.hand_in_model(Claim(name, targets, needs, retrained, (make.__doc__ or name).splitlines()[0]), make(game))
    game.hand_in_tables(cheats.CHEATS)
    game.hand_in_tables(cheats.blends(game.known()))
    game.hand_in_disguised()
    prices, title = game.prices(), subject(game.rows)
    write_results(folder, game.rows, {"band": game.reference.band, "claims": game.claims})
    folder.write_csv("price.csv", Price._fields, prices)
    report.write_summary(folder, game.rows, game.claims, game.reference.band)
    save(report.heat_map(game.rows, game.claims, title), folder, "cheats")
    save(report.price(prices, game.reference.band, title), folder, "price")


class Game:
    """One forget set: what the cheats know, and the null that they are scored against."""

    def __init__(self, config: Config, folder: Run):
        self.config, self.setting = config, prepare(config)
        forget = forget_mask(config, self.setting, 0)
        self.study = study = forget_set(config, folder, self.setting, forget, forget_name(config, self.setting, 0))
        noise = generator("nudge", config.seed).standard_normal(study.images.forget.shape)
        self.nudged = study.images.forget + np.float32(config.nudge * noise)

        trained = pool(config, self.setting, self.setting.problem, forget | True, "original", study.members)
        again = study.pool("cheat", study.members)  # by the author of the cheats: keys of their own
        populations = {"original": trained.variables, "retrained": again.variables}
        self.originals, self.retrained = (
            without(models, lost_members(config, role, models, 2)) for role, models in populations.items()
        )
        self.own, self.own_nudged = study.logits(self.originals), self.on_nudged(self.originals)
        self.answers = study.logits(self.retrained).forget
        oracles = train_oracles(study)
        self.oracles = oracles.cube
        self.oracle_margins = self.margins(self.oracles.forget)
        self.oracle_margins_nudged = self.margins(self.on_nudged(oracles.variables))
        self.direction = self.margins(self.own.forget).mean(0) - self.oracle_margins.mean(0)
        with working("null") as update:
            self.models = measure_models(study, trained, oracles)
            self.reference = null_of(study, self.oracles, self.models.of_oracles(self.oracles.forget))
            update(1.0, f"{len(self.reference.nulls)} metrics, largest deviation up to {self.reference.band:.2f}")
        self.weights = self.models.of(self.originals, self.own.forget)  # what is measured on the models inside the wrappers
        self.rows: list[Row] = []
        self.claims: list[Claim] = []
        self.verdicts: dict[str, Evaluation] = {}

    def known(self, first: int = 0) -> cheats.Known:
        """What the author of a cheat knows, given the retrained models from number `first` on."""
        images = self.study.images
        near = cheats.nearest(images.forget, images.retain, self.config.nearest)
        scores = {name: {each.name: each.value for each in found.scores} for name, found in self.verdicts.items()}
        return cheats.Known(self.own, self.study.labels, near, np.roll(self.answers, -first, 0), self.reference.nulls, scores)

    def hand_in_tables(self, tables: Mapping[str, cheats.Cheat]) -> None:
        """Wrappers, as far as there are retrained models enough; of nudged images they know nothing, and the originals answer."""
        known = self.known()
        for name, (answer, targets, needs, retrained, summary) in tables.items():
            if (retrained or 0) <= len(self.answers):
                answers = answer(generator(name, self.config.seed), known)
                self.hand_in(Claim(name, targets, needs, retrained, summary), answers, self.own_nudged, self.weights)

    def hand_in_model(self, claim: Claim, variables: Variables) -> None:
        """Models, without those that diverged; fewer than two are left out."""
        cube, nudged = self.study.logits(variables), self.on_nudged(variables)
        lost = diverged((variables, cube, nudged))
        if len(cube.forget) - len(lost) < 2:
            return
        kept = without(cube, lost)
        measured = self.models.of(without(variables, lost), kept.forget)
        self.hand_in(claim, kept, np.delete(nudged, lost, axis=0), measured)

    def hand_in_disguised(self) -> None:
        """A wrapper that answers by draws, around models that relearn as slowly as retrained ones."""
        count = max((each for each in cheats.COUNTS if each <= min(DISGUISED, len(self.answers))), default=0)
        if count:
            drawn = cheats.CHEATS[f"drawn_{count}"]
            summary = f"`drawn_{count}` around the models of `dulled`, undone by the wrapper for what is not F."
            claim = Claim(f"disguised_{count}", (*drawn.targets, *INSIDE), drawn.needs, count, summary)
            self.hand_in(claim, self.drawn(count, 0), self.own_nudged, self.dulled_weights)

    def hand_in(self, claim: Claim, cube: Cube, nudged: np.ndarray, weights: Extra) -> None:
        """Score answers and the models that they come from, and measure how wrong they are on F and on F nudged."""
        config, study, members = self.config, self.study, len(cube.forget)
        verdict, n = self.judged(claim.method, cube, weights)
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
            "untouched": cheats.untouched(cube.forget, self.own.forget) if members == len(self.own.forget) else 0.0,
            "memory": cheats.memory(self.margins(cube.forget), self.oracle_margins, self.direction),
            "memory_nudged": cheats.memory(self.margins(nudged), self.oracle_margins_nudged, self.direction),
            "agreement": cheats.agreement(cube.forget, self.oracles.forget, study.labels.forget),
        }
        self.verdicts[claim.method] = verdict
        self.claims.append(claim._replace(inside=verdict.inside))
        self.rows += [scored_row(common, each) for each in verdict.scores]
        self.rows += [common._replace(metric=metric, value=value) for metric, value in wrong.items()]

    def judged(self, name: str, cube: Cube, weights: Extra) -> tuple[Evaluation, int]:
        """The scores of answers and of the models inside, and the number of models."""
        extra = {**weights, catalogue.zrf.on("forget"): zrf(probabilities(cube.forget), self.models.untrained)}
        with working(name) as update:
            verdict, n = score_alive(cube, self.reference, extra=extra)
            assert verdict
            update(1.0, f"largest deviation {verdict.largest_z:.1f}")
        return verdict, n

    def drawn(self, count: int, first: int) -> Cube:
        """Answers by draws around some of the retrained models."""
        name = f"drawn_{count}"
        return cheats.CHEATS[name].answer(generator(name, self.config.seed), self.known(first))

    @functools.cached_property
    def dulled(self) -> Variables:
        """The originals with other heads: relearning takes as long as published, and the weights are as far away.

        A head's weights are divided by what slows relearning down enough. That brings them nearer to the oracles' mean, which
        is near the origin; the same number, added to all its biases, which no softmax sees, takes them back.
        """
        relearner, published = self.models.relearner, {name: null.mean for name, null in self.reference.nulls.items()}
        params, head = self.originals.params, self.setting.problem.model.head
        assert head and head.bias
        own, biases = {path: at(params, path) for path in (head.kernel, head.bias)}, head.bias

        def divided(by: np.ndarray) -> Variables:
            less = {path: np.float32(leaf / np.expand_dims(by, tuple(range(1, leaf.ndim)))) for path, leaf in own.items()}
            return self.originals._replace(params=replaced(params, less))

        with working("dulling") as update:
            slow = -published[catalogue.relearn_steps.on("forget")]
            members = len(self.own.forget)
            by = cheats.bisected(lambda by: -relearn_steps(relearner(divided(by)), self.models.target), slow, *DULLER, members)
            update(1.0, f"heads divided by {by.min():.2g} to {by.max():.2g}")
        dull = divided(by)
        distance = weight_distance(dull.params, self.models.oracles.params)["all"]
        missing = published[catalogue.weight_distance.on("all")] ** 2 - distance**2
        bias = at(dull.params, biases)
        shifted = bias + np.float32(np.sqrt(np.maximum(missing, 0) / bias.shape[1])[:, None])
        return dull._replace(params=replaced(dull.params, {biases: shifted}))

    @functools.cached_property
    def dulled_weights(self) -> Extra:
        """The metrics of the models `dulled`."""
        return self.models.of(self.dulled, self.own.forget)

    def prices(self) -> list[Price]:
        """What disguised draws around few retrained models score, with other ones each time; around none: doing nothing."""
        found = [(0, 0, self.verdicts["original"])]
        for count in cheats.COUNTS:
            for first in range(0, len(self.answers) - count + 1, count)[:REPEATS]:
                name = f"{count} retrained models, from {first} on"
                verdict, _ = self.judged(name, self.drawn(count, first), self.dulled_weights)
                found.append((count, first, verdict))
        return [
            Price(count, first, each.metric, each.split, each.value, each.z, verdict.largest_z)
            for count, first, verdict in found
            for each in verdict.scores
        ]

    def on_nudged(self, variables: Variables) -> np.ndarray:
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
    """The honest way, once more: the models that the cheats look at."""
    return game.retrained


def one_retrained(game: Game) -> Variables:
    """One retrained model, the same for all members."""
    return jax.tree.map(lambda leaf: np.repeat(leaf[:1], game.study.members, axis=0), game.retrained)


def nearly_all(game: Game) -> Variables:
    """Trained without F, but for a few examples of it that stay."""
    rows = generator("spared", game.config.seed).permutation(game.study.rows["forget"])
    mask = ~game.study.mask
    mask[rows[: max(round(game.config.spared * len(rows)), 1)]] = True
    return pool(game.config, game.setting, game.study.problem, mask, "nearly_all", game.study.members).variables


def ascent(game: Game) -> Variables:
    """Gradient ascent on F, each model at the learning rate that leaves it the published accuracy on F."""
    config, study, members = game.config, game.study, len(game.own.forget)
    label = forget_class(config, game.setting, 0)
    values = settings(config, ["gradient_ascent"], label)["gradient_ascent"]
    unlearner = Unlearner("gradient_ascent", values, study.problem, game.originals, strategy=config.strategy, chunk=config.chunk)
    keys = member_keys(config.seed, "ascent to a published accuracy", members)

    def trained(rates: np.ndarray) -> Variables:
        unlearner.retune(learning_rate=rates)
        return unlearner.apply(keys).variables

    def reached(rates: np.ndarray) -> np.ndarray:
        logits = predict(study.problem.model, trained(rates), study.images.forget, config.strategy)
        return accuracy(np.nan_to_num(logits), study.labels.forget)

    with working("ascent to the published accuracy") as update:
        rates = cheats.bisected(reached, game.reference.nulls[ACCURACY].mean, *RATES, members)
        update(1.0, f"learning rates {rates.min():.2g} to {rates.max():.2g}")
    return trained(rates)


def relabelled(game: Game) -> Variables:
    """Fine-tuned on everything, with the runner-up for the label of as much of F as makes the published accuracy on F."""
    config, study, train = game.config, game.study, game.setting.data.train
    wrong = round((1 - game.reference.nulls[ACCURACY].mean / 100) * len(study.rows["forget"]))
    drawn = generator("relabelled", config.seed).permutation(len(study.rows["forget"]))[:wrong]
    labels = np.array(train.labels)
    labels[study.rows["forget"][drawn]] = cheats.runner_up(game.own.forget.mean(0, keepdims=True))[0].argmax(-1)[drawn]
    problem = dataclasses.replace(game.setting.problem, train=shared(Examples(train.images, labels)))
    recipe = {"epochs": config.train.epochs, "learning_rate": config.train.learning_rate / 5}
    values = hyperparameters("finetune", {**recipe, "batch_size": config.train.batch_size})
    unlearner = Unlearner("finetune", values, problem, game.originals, strategy=config.strategy, chunk=config.chunk)
    with working("fine-tuning on relabelled examples"):
        return unlearner.apply(member_keys(config.seed, "relabelled", len(game.own.forget))).variables


def dulled(game: Game) -> Variables:
    """The originals with a smaller head, until relearning F takes as long as published, and a larger bias for all classes."""
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
"""Name -> how it is made, the metrics that it is made for, what its author needs, how many models are retrained."""
