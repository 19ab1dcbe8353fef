"""Capacity where every size fits: how long each is trained, what it memorises, and what unlearning leaves, over draws."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import wasserstein_distance

from experiments.capacity_fitted import curves, report
from experiments.capacity_fitted.options import FEWEST_DRAWS, LAYERS, RULES, TOY, Config
from unlearn_jax.bench.equal_loss import enough, mean_loss, training_logits, try_epochs
from unlearn_jax.bench.hyperparameters import settings
from unlearn_jax.bench.pools import version_note
from unlearn_jax.bench.resume import Arrays, load_or_make
from unlearn_jax.bench.setting import Setting, deciding_options, prepare, setting_of
from unlearn_jax.bench.several_sets import AllAnswers, attack, group_answers, load_or_predict, measure_methods
from unlearn_jax.data import Dataset, discs, load
from unlearn_jax.metrics.effects import SPLITS
from unlearn_jax.metrics.statistics import over_draws
from unlearn_jax.models import build, through_waves
from unlearn_jax.progress import stage
from unlearn_jax.report.drawing import save
from unlearn_jax.report.tables import finite_row
from unlearn_jax.runs import Run
from unlearn_jax.types import Examples, Recipe

SEPARATION, WAVES, FINENESS = 3.0, 64, 3.0  # of the toy: distance of the centres, waves, and how many times finer than its spread
TESTED, SPARE = 2000, 200  # its points for evaluation, and held-out ones
SEARCHED = 2  # originals of each of the first draws that the search for epochs trains
MEMORISED = 0.5  # of the probability of the label: an example with a larger gain counts as memorised
IRRELEVANT = frozenset({"members", "forget", "forget_sets", "methods", "hyper", "evaluation", "permutations", "smoke", "exp"})
"""Options that the search does not depend on."""


class Search(NamedTuple):
    """The epochs that were tried and the mean training loss after each; `epochs` is None if no loss is low enough."""

    epochs: int | None
    tried: dict[int, float]


def run(config: Config, folder: Run) -> None:
    """Search the epochs of each size, train and unlearn in every draw, and compare sizes at equal loss and at equal epochs.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    values = settings(config, config.method_names())
    sizes: list[report.Size] = []
    searches: list[tuple[str, int, Search]] = []
    made_with: set[str] = set()
    for axis, value, sized in config.sizes():
        if "loss" in config.rules:
            searches.append((axis, value, search(sized, folder)))
            print(f"{axis} {value}: {describe(config, searches[-1][2])}", flush=True)
        found = {"loss": searches[-1][2].epochs if searches else None, "epochs": config.train.epochs}
        for rule in config.rules:
            epochs = found[rule]
            sizes.append(report.Size(rule, axis, value, epochs, []))
            if epochs is None:
                continue
            for draw in range(config.draws):
                print(f"{axis} {value}, {report.RULES[rule]}, draw {draw}", flush=True)
                drawn = sized.drawn(draw, epochs)
                arrays = load_or_predict(drawn, folder, prepare_size(drawn), values)
                made_with.add(str(arrays["made_with"]))
                with stage("scores"):
                    sizes[-1].draws.append(measure(drawn, arrays))
    study = report.Results(
        title=f"{config.dataset}, {config.train_size or 'all'} examples; {config.draws} draws of {config.members} originals and "
        f"{config.forget_sets} forget sets; base: {config.model} of width {config.width}",
        loss=config.loss,
        methods=config.method_names(),
        sizes=sizes,
        trends=trends(sizes, config.method_names()),
        shapes=[row for group in groups(sizes) for row in curves.shapes(group, config.permutations, config.seed)],
    )
    folder.write_csv("draws.csv", *report.by_draw(study))
    folder.write_csv("sizes.csv", *report.by_size(study))
    folder.write_csv("trends.csv", report.Trend._fields, [finite_row(row) for row in study.trends])
    folder.write_csv("shapes.csv", report.Shape._fields, [finite_row(row) for row in study.shapes])
    tried = [(axis, value, *pair) for axis, value, found in searches for pair in sorted(found.tried.items())]
    folder.write_csv("search.csv", ("axis", "size", "epochs", "training_loss"), tried)
    folder.write_json("results.json", {"hyperparameters": values, "made_with": sorted(made_with)})
    summary = "\n".join([report.summary(study), *version_note(made_with)])
    folder.write_text("summary.md", summary)
    if any(size.draws for size in sizes):
        save(report.losses(study), folder, "losses")
        save(report.distances(study), folder, "distances")
        save(report.against_size(study), folder, "trends")
        save(report.examples(study), folder, "examples")
    print(summary)


def prepare_size(config: Config) -> Setting:
    """The data and the model of one size and draw."""
    if config.dataset != TOY and (config.model != "mlp" or config.layers == LAYERS):
        return prepare(config)
    data = draw_discs(config) if config.dataset == TOY else load_images(config)
    identity = {"model": config.model, "classes": data.classes, "width": config.width, "layers": config.layers}
    model = build("mlp", classes=data.classes, width=config.width, layers=config.layers)
    if config.dataset == TOY:
        model, identity = through_waves(model, WAVES), {**identity, "waves": WAVES}
    return setting_of(data, model, identity, Recipe(**dataclasses.asdict(config.train)))


def load_images(config: Config) -> Dataset:
    """The images of a draw."""
    return load(
        config.dataset,
        train_size=config.train_size,
        label_noise=config.label_noise,
        seed=config.seed,
        data_dir=config.data_dir,
        cache=config.cache,
    )


def draw_discs(config: Config) -> Dataset:
    """Two overlapping discs of points, on which waves are shorter than the discs are wide; wrong labels in training only."""
    assert config.train_size is not None
    parts = (config.train_size, config.label_noise), (TESTED, 0.0), (SPARE, 0.0)
    train, test, spare = (
        discs(count, separation=SEPARATION, label_noise=noise, seed=3 * config.seed + part)
        for part, (count, noise) in enumerate(parts)
    )
    data = Dataset.from_arrays(train.train, test.train, held_out=spare.train, clean_labels=train.clean_labels, name=TOY)
    finer = [Examples(FINENESS * points.images, points.labels) for points in (data.train, data.held_out, data.test)]
    return data._replace(train=finer[0], held_out=finer[1], test=finer[2])


def search(config: Config, folder: Run) -> Search:
    """How many epochs a size is trained: the fewest tried after which the mean training loss is at or below `config.loss`."""
    options = {name: value for name, value in deciding_options(config).items() if name not in IRRELEVANT}
    name = f"searches/{config.model}-{config.layers}-{config.width}.npz"
    arrays = load_or_make(folder, name, options, lambda: searched(config))
    tried = dict(zip(arrays["epochs"].tolist(), arrays["loss"].tolist(), strict=True))
    return Search(enough(tried, config.loss), tried)


def searched(config: Config) -> Arrays:
    """The numbers of epochs that were tried, and the mean training loss after each."""
    found = try_epochs(lambda epochs: training_loss(config, epochs), config.train.epochs, config.loss, config.most_epochs)
    return {"epochs": np.array([*found]), "loss": np.array([*found.values()])}


def training_loss(config: Config, epochs: int) -> float:
    """The mean training loss of a few originals of the first draws after a number of epochs; infinite if one diverged."""
    losses = []
    for draw in range(FEWEST_DRAWS):
        drawn = config.drawn(draw, epochs)
        logits, labels = training_logits(drawn, prepare_size(drawn), SEARCHED)
        losses.append(mean_loss(logits, labels))
    return float(np.mean(losses))


def describe(config: Config, found: Search) -> str:
    """A sentence about a search."""
    last = max(found.tried)
    if found.epochs is None:
        return f"left out, {found.tried[last]:.3g} nats after {last} epochs do not reach {config.loss:g}"
    return f"{found.epochs} epochs reach {found.tried[found.epochs]:.3g} nats"


def measure(config: Config, arrays: Arrays) -> report.Draw:
    """What one size memorises in one draw, and what the methods leave."""
    models, wrong = group_answers(arrays), arrays["forget_wrong"]
    originals, oracles = models["original", "forget"], models["oracle", "forget"]
    pairs = list(zip(originals, oracles, strict=True))
    retain, test = models["original", "retain"][0], models["original", "test"][0]
    attacks = [attack(config.seed, one.phi, other.phi) for one, other in pairs]
    seen, unseen = ([np.exp(-of_set.loss) for of_set in side] for side in (originals, oracles))
    gain = np.stack([one.mean(0) - other.mean(0) for one, other in zip(seen, unseen, strict=True)])
    measures = {
        "train_loss": float(np.concatenate([retain.loss, *(of_set.loss for of_set in originals)], axis=1).mean()),
        "train_accuracy": float(np.concatenate([retain.right, *(of_set.right for of_set in originals)], axis=1).mean()),
        "test_accuracy": float(test.right.mean()),
        "test_loss": float(test.loss.mean()),
        "forget_accuracy": float(np.mean([of_set.right.mean() for of_set in originals])),
        "oracle_accuracy": float(np.mean([of_set.right.mean() for of_set in oracles])),
        "memorisation": float(np.mean([one.right.mean() - other.right.mean() for one, other in pairs])),
        "probability": float(gain.mean()),
        "probability_wrong": float(gain[wrong].mean()) if wrong.any() else math.nan,
        "probability_right": float(gain[~wrong].mean()) if not wrong.all() else math.nan,
        "memorised": 100 * float((gain > MEMORISED).mean()),
        "lira_auc": float(np.mean([auc.mean() for auc, _ in attacks])),
        "lira_null": float(np.mean([guess for _, guess in attacks])),
        "spread": float(np.mean([of_set.std(0, ddof=1).mean() for of_set in unseen])),
        **measure_methods(config.method_names(), models),
        **measure_distances(models),
    }
    losses = {
        (kind, split): np.concatenate([of_set.loss.ravel() for of_set in models[kind, split]])
        for kind in ("original", "oracle")
        for split in SPLITS
    }
    return report.Draw(int(arrays["parameters"]), measures, losses, seen, unseen, wrong)


def measure_distances(models: AllAnswers) -> dict[str, float]:
    """Wasserstein distances between distributions of the loss, in decades: means over forget sets."""

    def apart(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
        logs = ([np.log10(np.maximum(losses, 10.0**report.LOWEST)).ravel() for losses in side] for side in (one, other))
        return float(np.mean([wasserstein_distance(*pair) for pair in zip(*logs, strict=True)]))

    def of(kind: str, split: str) -> list[np.ndarray]:
        return [of_set.loss for of_set in models[kind, split]]

    oracles = of("oracle", "forget")
    return {
        "forget_shift": apart(of("original", "forget"), oracles),
        "forget_shift_null": apart([losses[::2] for losses in oracles], [losses[1::2] for losses in oracles]),
        "forget_test": apart(of("original", "forget"), of("original", "test")),
        "forget_test_oracles": apart(oracles, of("oracle", "test")),
        "retain_test": apart(of("original", "retain"), of("original", "test")),
    }


def groups(sizes: Sequence[report.Size]) -> list[list[report.Size]]:
    """The measured sizes of each rule and axis, from small to large, where there are two or more."""
    keys = dict.fromkeys((size.rule, size.axis) for size in sizes)
    all_groups = [[size for size in sizes if (size.rule, size.axis) == key and size.draws] for key in keys]
    return [group for group in all_groups if len(group) > 1]


def trends(sizes: Sequence[report.Size], methods: Sequence[str]) -> list[report.Trend]:
    """Of each rule, axis and measure, the change with each doubling of the size and from the smallest to the largest size.

    Of an axis with both rules, also the change at equal loss minus that at equal epochs, over the sizes that both have.
    """
    rows: list[report.Trend] = []
    by_axis: dict[str, dict[str, list[report.Size]]] = {}
    for group in groups(sizes):
        by_axis.setdefault(group[0].axis, {})[group[0].rule] = group
    for axis, by_rule in by_axis.items():
        common = set.intersection(*({size.value for size in group} for group in by_rule.values()))
        for measure in report.measures(methods):
            rows += [trend_of(rule, axis, measure, *changes_of(group, measure)) for rule, group in by_rule.items()]
            if len(by_rule) == 2 and len(common) > 1:
                shared = [[size for size in by_rule[rule] if size.value in common] for rule in RULES]
                (slopes, ends), (other_slopes, other_ends) = (changes_of(group, measure) for group in shared)
                rows.append(trend_of("loss minus epochs", axis, measure, slopes - other_slopes, ends - other_ends))
    return rows


def changes_of(group: Sequence[report.Size], measure: str) -> tuple[np.ndarray, np.ndarray]:
    """A measure's slope on log2 of the size, and its value at the largest size less that at the smallest, of each draw."""
    values = np.array([[draw.measures[measure] for draw in size.draws] for size in group])  # [sizes, draws]
    doublings = np.log2([size.value for size in group])
    centred = doublings - doublings.mean()
    return centred @ values / (centred @ centred), values[-1] - values[0]


def trend_of(rule: str, axis: str, measure: str, slopes: np.ndarray, ends: np.ndarray) -> report.Trend:
    """A row with the means over draws and their intervals."""
    return report.Trend(rule, axis, measure, int(np.isfinite(slopes).sum()), *over_draws(slopes), *over_draws(ends))
