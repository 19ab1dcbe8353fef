"""Critics of the outputs, one and two and none: tune, unlearn, and measure what was aimed at against what retraining gives."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr

from experiments.adversarial import report
from experiments.adversarial.options import BASE, KEEP, NOISY, ONE, PROXY, RIGHT, VALIDATION, Condition, Config, Search
from unlearn_jax.bench import tuning, tuning_options
from unlearn_jax.bench.forget_set import forget_mask
from unlearn_jax.bench.hyperparameters import settings
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.option_groups import Judged
from unlearn_jax.bench.options import ATTACKED, Images
from unlearn_jax.bench.panel import Panel, Programs
from unlearn_jax.bench.pools import pool, version_note
from unlearn_jax.bench.population import NULL, lost_members, without
from unlearn_jax.bench.resume import Arrays, identity_of, load_or_make, unlearn
from unlearn_jax.bench.scoring import Alive, effects_of
from unlearn_jax.bench.setting import Setting, forgetting, prepare
from unlearn_jax.data.splits import generator, mislabel, sample
from unlearn_jax.methods import METHODS, hyperparameters
from unlearn_jax.metrics import cross_entropy_losses, probabilities, scaled_logits
from unlearn_jax.metrics.attacks import feature_mias
from unlearn_jax.metrics.catalogue import damage, memory_left
from unlearn_jax.metrics.effects import SPLITS, distance_interval, distances_left_out
from unlearn_jax.metrics.features import joined, output_features
from unlearn_jax.progress import stage
from unlearn_jax.report.drawing import save
from unlearn_jax.report.tables import finite_row
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import predict, shared
from unlearn_jax.training.pools import diverged, member_keys
from unlearn_jax.types import Cube, Examples, Labels, Problem, Variables

APART = 1000  # from the seeds of the draws to that of the search
LEAST_HELD_OUT = 20  # examples: ten in each half
SEEN = ("sorted_probabilities", "loss", "margin")  # what critics see, see `training.critics.characteristics`
PARTS = ("forget", "retain", "held_out", "test")  # examples that models are judged on
FOLDS = 3  # of the examples, for fresh critics
SPLITS_OF_POOLS = 10  # of retrained models into two pools
ENDS = np.geomspace(1e-3, 30, 200)  # nats: upper ends of the uniform distributions that are tried
Values = dict[Search, dict[str, Any]]


class Draw(NamedTuple):
    """Wrong labels, forget set and held-out examples of one draw.

    Attributes:
        config: of the draw, with its seed.
        setting: data and model.
        forget: mask of the rows to forget.
        retained: mask of as many others, which a control takes for them.
        judged: retained rows that models are judged on.
        held_out: by kind, what critics are given.
        halves: the held-out rows that are validation, and all others: the test-like half.
        test_labels: of the test set, as many of them wrong as of the training set.
    """

    config: Config
    setting: Setting
    forget: np.ndarray
    retained: np.ndarray
    judged: np.ndarray
    held_out: dict[str, Examples]
    halves: tuple[np.ndarray, np.ndarray]
    test_labels: np.ndarray


def run(config: Config, folder: Run) -> None:
    """Tunes the methods, unlearns in every draw under all conditions, and compares.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    settings(config, config.method_names())  # refuses what --hyper cannot mean
    draws = [draw(config.drawn(number)) for number in range(config.draws)]
    for name in config.method_names():
        lacking = METHODS[name].unmet(draws[0].setting.problem)
        require(not lacking, "--methods", name, f"needs {lacking}")
    values, searches = tune(config, folder)
    programs = {method: Programs() for method in config.method_names()}
    measured: list[report.Measured] = []
    losses: list[dict[str, np.ndarray]] = []
    made_with: set[str] = set()
    summary = ""
    for number, drawn in enumerate(draws):
        print(f"draw {number}", flush=True)
        arrays = answers(drawn, number, folder, values, programs)
        made_with |= {str(part["made_with"]) for part in arrays.values()}
        with stage("scores"):
            measured.append(measure(drawn, arrays))
            losses.append(shown_losses(drawn, arrays))
        about = (
            f"{config.dataset}, {config.model} of width {config.width}; {number + 1} draws of {config.members} originals and F"
        )
        study = report.Results(about, measured, losses, math.log(drawn.setting.data.classes), searches)
        summary = write(config, folder, study, values, made_with)  # a killed run leaves the draws it finished
    print(summary)


def write(config: Config, folder: Run, study: report.Results, values: Values, made_with: set[str]) -> str:
    """Writes the tables of the draws so far, and after the last one the figures. Returns the summary."""
    for name, table in report.tables(study).items():
        folder.write_csv(f"{name}.csv", *table)
    folder.write_csv("tuning.csv", ("given", *tuning.COLUMNS), [finite_row(row) for row in study.searches])
    used = {f"{search.method}, {search.held_out}": of_search for search, of_search in values.items()}
    folder.write_json("results.json", {"hyperparameters": used, "made_with": sorted(made_with)})
    if len(study.draws) == config.draws:
        save(report.conditions(study), folder, "conditions")
        save(report.aims(study), folder, "aims")
        save(report.proxy(study), folder, "proxy")
    summary = "\n".join([report.summary(study), *version_note(made_with)])
    folder.write_text("summary.md", summary)
    return summary


def draw(config: Config) -> Draw:
    """The data of a draw.

    Raises:
        ArgumentError: too few examples, or no wrong labels.
    """
    setting = prepare(config)
    data = setting.data
    forget = forget_mask(config, setting, 0)
    count, others = int(forget.sum()), np.flatnonzero(~forget)
    accepted = f"as many retained examples are a control; expected less than half of {len(forget)}"
    require(2 * count < len(forget), "--forget.size", config.forget.size, accepted)
    wrong = float(np.mean(data.train.labels != data.clean_labels))
    require(wrong > 0, "--label-noise", config.label_noise, "the question is what wrong labels in F do; expected some")
    spare, accepted = len(data.held_out.labels), f"expected at least {LEAST_HELD_OUT} held-out examples"
    require(spare >= LEAST_HELD_OUT, "--dataset", config.dataset, f"holds {spare} examples out; {accepted}")
    retained = np.isin(np.arange(len(forget)), sample(others, count, generator("retained in the place of F", config.seed)))
    judged = sample(others, config.evaluation.retain_size, generator("retained examples that are judged", config.seed))
    order = generator("halves of the held-out examples", config.seed).permutation(spare)
    halves = np.sort(order[: spare // 2]), np.sort(order[spare // 2 :])
    noisy = with_wrong_labels(config, setting, wrong)
    # as many rows as there are of the others, so that one program serves both: each of the half counts twice
    twice = np.resize(halves[0], spare)
    held_out = {NOISY: noisy, RIGHT: data.held_out, VALIDATION: Examples(noisy.images[twice], noisy.labels[twice])}
    test_labels = mislabel(data.test.labels, wrong, data.classes, generator("label noise of the test set", config.seed))
    return Draw(config, setting, forget, retained, judged, held_out, halves, test_labels)


def with_wrong_labels(config: Images, setting: Setting, share: float) -> Examples:
    """The held-out examples with a share of wrong labels, that of the training set: then they are exchangeable with F."""
    rng, data = generator("label noise of the held-out examples", config.seed), setting.data
    return Examples(data.held_out.images, mislabel(data.held_out.labels, share, data.classes, rng))


# The search


def tune(config: Config, folder: Run) -> tuple[Values, list[list[Any]]]:
    """The hyperparameters of each method, for each kind of held-out examples that it is tuned on; and the rows of tuning.csv."""
    found: Values = {}
    rows: list[list[Any]] = []
    panels: dict[str, Panel] = {}
    given = config.hyperparameters()
    wanted = list(dict.fromkeys(condition.values_of for condition in config.conditions()))
    for search in wanted:
        method = search.method
        own = {key: value for key, value in given.get("*", {}).items() if key in METHODS[method].defaults} | given.get(method, {})
        asked = trials(config, method)
        budget = {"epochs": asked.epochs, "batch_size": asked.batch_size}
        base: dict[str, Any] = {key: value for key, value in budget.items() if key in METHODS[method].defaults}
        if own or not config.trials or not METHODS[method].search:
            found[search] = hyperparameters(method, base | own)
            continue
        if not panels:
            panels = {"search": panel(asked, tuning.SEED, 0), "check": panel(asked, tuning.HELD_OUT, 1)}
            retrain = distance_interval(distances_left_out(panels["check"].retrained())).value
        for each in panels.values():
            show(each, search.held_out)
        below = dataclasses.replace(folder, folder=folder.folder / "tuning" / search.held_out)
        print(f"{method}, {search.held_out} labels: tuned", flush=True)
        searched = tuning.Search(asked, below, panels["search"]).tune(method)
        checked = tuning.check(below, panels["check"], method, searched)
        used = searched.values[checked.rank] if checked.used == tuning.TUNED else base
        found[search] = hyperparameters(method, used)
        rows.append([search.held_out, *tuning.row(method, searched, checked, retrain)])
    return found, rows


def trials(config: Config, method: str) -> tuning_options.Config:
    """The options of the search for a method: other wrong labels, models and forget sets than those of any draw."""
    common = {field.name: getattr(config, field.name) for field in dataclasses.fields(Images) if field.name != "exp"}
    return tuning_options.Config(
        **{**common, "seed": (config.seed + APART) % 2**32},
        forget=tuning_options.Drawn(size=config.forget.size),
        evaluation=Judged(retain_size=config.evaluation.retain_size),
        epochs=config.proxy_epochs if method == PROXY else config.epochs,
        batch_size=config.batch_size,
        members=config.searched,
        forget_sets=config.searched_sets,
        trials=max(config.trials, 2),
        keep=KEEP,
    )


def panel(asked: tuning_options.Config, seed: int, part: int) -> Panel:
    """The panel of the search (part 0), or the one that checks what was found (part 1)."""
    first = tuning.first_set(asked) + part * asked.forget_sets
    return Panel(asked, prepare(asked), asked.seed + seed, range(first, first + asked.forget_sets), Programs())


def show(judges: Panel, held_out: str) -> None:
    """Gives methods that a panel judges the held-out examples of a kind; it judges them on those with right labels."""
    data = judges.setting.data
    wrong = float(np.mean(data.train.labels != data.clean_labels))
    given = data.held_out if held_out == RIGHT else with_wrong_labels(judges.config, judges.setting, wrong)
    judges.sets = [each._replace(problem=each.problem.replace(held_out=shared(given))) for each in judges.sets]
    judges.identity |= {"held_out": held_out}


# Every draw


def answers(drawn: Draw, number: int, folder: Run, values: Values, programs: dict[str, Programs]) -> dict[str, Arrays]:
    """The logits of originals, oracles, retrained models and under each condition, on all examples that are judged."""
    config, setting = drawn.config, drawn.setting
    problem, identity = forgetting(setting, drawn.forget), identity_of(config, setting, drawn.forget)

    @functools.cache
    def trained(role: str) -> Variables:
        mask = drawn.forget & (role == "original")
        kept = np.ones(len(mask), bool) if role == "original" else ~drawn.forget
        members = 2 * config.members if role == "oracle" else config.members
        return pool(config, setting, setting.problem if role == "original" else problem, kept, role, members).variables

    def kept(name: str, made_of: dict[str, Any], make: Callable[[], Variables]) -> Arrays:
        file = f"draws/{number}/{name.replace(', ', '-').replace(' ', '_')}.npz"
        return load_or_make(folder, file, {**identity, **made_of}, lambda: predictions(drawn, make()))

    found = {role: kept(role, {}, functools.partial(trained, role)) for role in ("original", "oracle", "retrain")}
    for role, needed in (("original", ATTACKED), ("oracle", NULL)):
        lost_members(config, role, [found[role][part] for part in PARTS], needed)
    for condition in config.conditions():
        own = values[condition.values_of] | dict(condition.changes)
        make = functools.partial(unlearned, drawn, condition, own, lambda: trained("original"), programs[condition.method])
        found[condition.name] = kept(condition.name, {"condition": condition._asdict(), "values": own}, make)
    return found


def unlearned(
    drawn: Draw, condition: Condition, values: dict[str, Any], originals: Callable[[], Variables], programs: Programs
) -> Variables:
    """The originals of a draw after a method, under a condition."""
    config = drawn.config
    problem, models = problem_of(drawn, condition), originals()
    unlearner = programs.of(config, condition.method, values, problem, models)
    unlearner.turn_to(problem, models)
    return unlearn(condition.name, unlearner, member_keys(config.seed, condition.method, config.members)).variables


def problem_of(drawn: Draw, condition: Condition) -> Problem:
    """What a method is given under a condition. Where critics judge retained examples, F is not there at all."""
    shown = drawn.retained if condition.on_retained else drawn.forget
    problem = forgetting(drawn.setting, shown).replace(held_out=shared(drawn.held_out[condition.held_out]))
    if condition.on_retained:
        problem = problem.replace(kept=shared(~drawn.forget), kept_count=int((~drawn.forget).sum()))
    return problem


def predictions(drawn: Draw, variables: Variables) -> dict[str, np.ndarray]:
    """Logits `[models, examples, classes]` on forget, retain, held-out and test examples."""
    train, data = drawn.setting.data.train, drawn.setting.data
    images = [train.images[drawn.forget], train.images[drawn.judged], data.held_out.images, data.test.images]
    logits = predict(drawn.setting.problem.model, variables, np.concatenate(images), drawn.config.strategy)
    parts = np.split(logits, np.cumsum([len(part) for part in images])[:-1], axis=1)
    return dict(zip(PARTS, parts, strict=True))


class Answers:
    """The answers of the models of a kind that did not diverge."""

    def __init__(self, drawn: Draw, arrays: Arrays, name: str):
        logits = {part: arrays[part] for part in PARTS}
        self.name, self.lost = name, diverged(tuple(logits.values()))
        self.logits = without(logits, self.lost)
        data = drawn.setting.data
        self.labels = {
            "F": data.train.labels[drawn.forget],
            "held-out": drawn.held_out[NOISY].labels,
            "held-out, right": data.held_out.labels,
            "test": drawn.test_labels,
            "test, right": data.test.labels,
        }
        self.halves = dict(zip(("validation", "test-like"), drawn.halves, strict=True))

    @property
    def alive(self) -> Alive:
        """As `scoring.effects_of` takes them."""
        return Cube(*(self.logits[split] for split in SPLITS)), self.lost

    def on(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Logits and labels on examples: F, validation, test-like, held-out or test; `, right`: with right labels."""
        if part in self.halves:
            rows = self.halves[part]
            return self.logits["held_out"][:, rows], self.labels["held-out"][rows]
        key = {"F": "forget", "held-out": "held_out", "test": "test"}[part.removesuffix(", right")]
        return self.logits[key], self.labels[part]

    def losses(self, part: str) -> np.ndarray:
        """Cross-entropies `[models, examples]`."""
        return cross_entropy_losses(*self.on(part))

    def accuracy(self, part: str) -> float:
        """In percent, the mean over models."""
        logits, labels = self.on(part)
        return float(100 * (logits.argmax(-1) == labels).mean())

    def seen(self, part: str) -> np.ndarray:
        """What critics see, `[models, examples, characteristics]`."""
        logits, labels = self.on(part)
        return np.stack([joined(output_features(p, labels), SEEN) for p in probabilities(logits)])


def measure(drawn: Draw, arrays: dict[str, Arrays]) -> report.Measured:
    """All measures of a draw, see `report.Measured`."""
    models = {name: Answers(drawn, of_name, name) for name, of_name in arrays.items()}
    data = drawn.setting.data
    labels = Labels(models["oracle"].labels["F"], data.train.labels[drawn.judged], data.test.labels)
    wrong = (data.train.labels != data.clean_labels)[drawn.forget]
    parts = {"mislabelled": wrong, "right": ~wrong}
    oracles, top = models["oracle"], math.log(data.classes)
    conditions: dict[str, dict[str, float]] = {}
    for name, of_name in models.items():
        found: dict[str, float] = dict.fromkeys(report.MEASURES, math.nan)
        found["lost"] = float(len(of_name.lost))
        if len(of_name.logits["forget"]) > 1:
            found |= {f"auc_{part}": told_apart(of_name, part) for part in report.AUDIENCES}
            found |= {"accuracy_forget": of_name.accuracy("F"), "accuracy_test": of_name.accuracy("test, right")}
            found["accuracy_retain"] = float(100 * (of_name.logits["retain"].argmax(-1) == labels.retain).mean())
            found["auc_gap"] = found["auc_test-like"] - found["auc_validation"]
            found["loss_forget"] = float(of_name.losses("F").mean())
            found["ks_uniform"] = from_uniform(of_name.losses("F"), top)
        if name != "oracle" and len(of_name.logits["forget"]) > 1:
            found["ks_oracles"] = from_pool(of_name.losses("F"), oracles.losses("F"))
            found["ranks"] = float(
                spearmanr(*(scaled_logits(*each.on("F")).mean(axis=0) for each in (of_name, oracles))).statistic
            )
            sizes = effects_of(of_name.alive, models["original"].alive, oracles.alive[0], labels, parts)
            if sizes:
                found |= {memory_left.name: sizes.memory_left.value, damage.name: sizes.damage.value, "distance": sizes.distance}
                found |= {f"damage_{split}": sizes.of_split[split].value for split in SPLITS}
                found |= {f"memory_{part}": interval.value for part, interval in sizes.of_part.items()}
        conditions[name] = found
    return report.Measured(conditions, aims_of(models, top), uniform_of(drawn, oracles, top))


def told_apart(models: Answers, part: str) -> float:
    """The AUC of fresh critics that tell F from other examples, one for all models, on examples they were not trained on."""
    return float(np.mean([attack.auc for attack in feature_mias(models.seen("F"), models.seen(part), folds=FOLDS)]))


def from_uniform(losses: np.ndarray, top: float) -> float:
    """The Kolmogorov-Smirnov distance of each model's losses from a uniform distribution on [0, top], in the mean over models."""
    return float(np.mean([uniform_gaps(of_model, np.array([top])) for of_model in losses]))


def uniform_gaps(losses: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The Kolmogorov-Smirnov distance of losses from the uniform distribution on 0 to each of some ends."""
    steps = np.arange(len(losses) + 1) / len(losses)
    share = np.clip(np.sort(losses)[None] / ends[:, None], 0, 1)
    return np.maximum(share - steps[:-1], steps[1:] - share).max(axis=1)


def from_pool(losses: np.ndarray, pooled: np.ndarray) -> float:
    """The Kolmogorov-Smirnov distance of each model's losses from those of other models together, in the mean over models."""
    ordered, found = np.sort(pooled, axis=None), []
    for of_model in np.sort(losses, axis=1):
        at = np.concatenate([of_model, ordered])
        below = (side.searchsorted(at, "right") / len(side) for side in (of_model, ordered))
        found.append(np.abs(np.subtract(*below)).max())
    return float(np.mean(found))


def aims_of(models: dict[str, Answers], top: float) -> dict[str, dict[str, float]]:
    """What critics take for unseen, and what models reach, against oracles on F: by name, `report.AIM_MEASURES`."""
    right = f"{ONE}, right labels"
    pairs = [("retrain", "F"), ("retrain", "held-out"), ("retrain", "held-out, right"), ("original", "F")]
    pairs += [("original", "held-out"), ("original", "held-out, right"), (BASE, "held-out"), (BASE, "F")]
    pairs += [(right, "held-out, right"), (right, "F")]
    oracles = models["oracle"]
    of_oracles, seen = oracles.losses("F"), oracles.seen("F")
    accuracy, loss = oracles.accuracy("F"), float(of_oracles.mean())
    unknown = dict.fromkeys(report.AIM_MEASURES, math.nan)
    found = {"oracle on F": unknown | {"accuracy": accuracy, "loss": loss}}
    for name, part in pairs:
        shown = models[name]
        count = min(len(shown.logits["forget"]), len(seen))
        if count < 2:
            continue
        attacks = feature_mias(seen[:count], shown.seen(part)[:count], folds=FOLDS)
        losses = shown.losses(part)
        found[f"{name} on {part}"] = {
            "accuracy": shown.accuracy(part),
            "accuracy_gap": shown.accuracy(part) - accuracy,
            "loss": float(losses.mean()),
            "loss_gap": float(losses.mean()) - loss,
            "ks": from_pool(losses, of_oracles),
            "auc": float(np.mean([attack.auc for attack in attacks])),
        }
    uniform = from_uniform(of_oracles.reshape(1, -1), top)
    found["uniform losses"] = unknown | {"loss": top / 2, "loss_gap": top / 2 - loss, "ks": uniform}
    return found


def uniform_of(drawn: Draw, oracles: Answers, top: float) -> dict[str, dict[str, float]]:
    """Whether losses of retrained models are uniform: by examples, `report.UNIFORM_MEASURES`."""
    rng = generator("pools of retrained models", drawn.config.seed)
    found = {}
    for part in ("test, right", "test", "held-out, right", "held-out", "F"):
        losses = oracles.losses(part)
        models, examples = losses.shape
        halves = [np.split(rng.permutation(models), [models // 2]) for _ in range(SPLITS_OF_POOLS)]
        of_rows = [np.split(rng.permutation(examples), [examples // 2]) for _ in range(SPLITS_OF_POOLS)]
        of_pools = [from_pool(losses[one].reshape(1, -1), losses[other]) for one, other in halves]
        crossed = [
            from_pool(losses[np.ix_(one, rows)], losses[np.ix_(other, others)])
            for (one, other), (rows, others) in zip(halves, of_rows, strict=True)
        ]
        found[part] = {
            "uniform": from_uniform(losses, top),
            "best": float(np.mean([uniform_gaps(of_model, ENDS).min() for of_model in losses])),
            "sample": from_uniform(rng.uniform(0, top, size=(100, examples)), top),
            "pooled": from_uniform(losses.reshape(1, -1), top),
            "pools": float(np.mean(of_pools)),
            "others": float(np.mean(crossed)),
            "above": float(100 * (losses > top).mean()),
            "below": float(100 * (losses < top / 100).mean()),
        }
    return found


def shown_losses(drawn: Draw, arrays: dict[str, Arrays]) -> dict[str, np.ndarray]:
    """The losses whose distributions are drawn, of all models together: by name, see `report.CURVES`."""
    found = {}
    for name, (kind, part) in report.CURVES.items():
        if kind in arrays:
            found[name] = Answers(drawn, arrays[kind], kind).losses(part).ravel()
    return found
