"""Whether the methods' order carries over to clean labels, other networks and other data."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int

from experiments.carry_over import report
from experiments.carry_over.matching import Match, match, mixed_sets
from experiments.carry_over.options import CLEAN, FEWEST, Config
from unlearn_jax.bench.forget_set import forget_mask
from unlearn_jax.bench.hyperparameters import hyperparameters_of
from unlearn_jax.bench.pools import pool, train_on_halves, version_note
from unlearn_jax.bench.population import NULL, lost_members
from unlearn_jax.bench.resume import Arrays, identity_of, load_or_make_all, unlearn
from unlearn_jax.bench.setting import Setting, forgetting, prepare
from unlearn_jax.bench.several_sets import Compiled, Values
from unlearn_jax.data.splits import generator, sample
from unlearn_jax.methods import METHODS
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import memorisation, scaled_logits
from unlearn_jax.metrics.effects import SPLITS, UNKNOWN, Effects, effects
from unlearn_jax.progress import stage
from unlearn_jax.report.drawing import save
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import predict, tile
from unlearn_jax.training.pools import Pool, diverged, member_keys
from unlearn_jax.types import Model, Variables

Margins = dict[str, np.ndarray]  # by split: [models, examples]


def run(config: Config, folder: Run) -> None:
    """Measure every method in every setting, and correlate the settings with the base.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    settings = {name: prepare(config.variant(name)) for name in config.setting_names()}  # refuses what cannot be prepared
    values = {name: hyperparameters(config, name, settings[name]) for name in settings}
    compiled, made_with = Compiled(), set[str]()
    results: list[report.Measured] = []
    for name in settings:
        print(config.title(name))
        target = results[0].mass if results else math.nan
        results.append(measure_setting(config, folder, name, settings[name], values[name], target, compiled, made_with))
    study = report.Results(
        title=f"{config.seeds} seed{'s' * (config.seeds > 1)} of {config.forget_sets} forget sets, "
        f"{config.members} originals and {2 * config.members} oracles each",
        settings=results,
        margin=config.margin,
        tolerance=config.matching.tolerance,
        seed=config.seed,
    )
    folder.write_csv("carry_over.csv", *report.table(study))
    folder.write_csv("settings.csv", *report.overview(study))
    folder.write_csv("correlations.csv", *report.correlations(study))
    facts = {"hyperparameters": values, "hyper_of": config.hyper_of, "made_with": sorted(made_with)}
    folder.write_json("results.json", facts)
    text = "\n".join([report.summary(study), *version_note(made_with)])
    folder.write_text("summary.md", text)
    save(report.figure(study), folder, "carry_over")
    print(text)


def hyperparameters(config: Config, name: str, setting: Setting) -> Values:
    """The hyperparameters of the methods that a setting's network supports."""
    dataset = config.variant(name).dataset if config.hyper_of == "own" else config.dataset
    supported = [method for method in config.method_names() if not METHODS[method].unmet(setting.problem)]
    return hyperparameters_of(dataset, supported, config.hyperparameters())


def measure_setting(
    config: Config, folder: Run, name: str, first: Setting, values: Values, target: float, compiled: Compiled, made_with: set[str]
) -> report.Measured:
    """Measures one setting on all seeds and forget sets.

    Args:
        config: the options of the study.
        folder: the run folder.
        name: of the setting.
        first: its data and model with the first seed.
        values: the hyperparameters of the methods that its network supports.
        target: the memorised mass of the base, which forget sets with clean labels shall have.
        compiled: unlearners of earlier settings.
        made_with: gets the versions and backends that anything was made with.
    """
    seeds: list[Seed] = []
    lost: Counter[str] = Counter()
    for number in range(config.seeds):
        variant = config.variant(name, number)
        setting, matched = prepare(variant) if number else first, None
        if name == CLEAN:
            forget, matched = matched_sets(variant, setting, target)
        else:
            forget = np.stack([forget_mask(variant, setting, index) for index in range(variant.forget_sets)])
        known = references(variant, setting, forget)
        made_with.update(known.made_with)
        arrays = unlearn_all(variant, folder, name, known, values, compiled)
        made_with.update(str(of_method["made_with"]) for of_method in arrays.values())
        lost.update(lost_of_all(arrays))
        with stage("effect sizes"):
            seeds.append(Seed(known, effects_of_all(known, arrays), matched))
    methods = list(seeds[0].found)
    found = {method: [seed.found[method] for seed in seeds] for method in methods}
    problem = seeds[0].known.setting.problem
    size = int(seeds[0].known.forget[0].sum())
    matches = [seed.matched for seed in seeds if seed.matched]
    return report.Measured(
        name=name,
        title=config.title(name),
        seeds=[seed.known.config.seed for seed in seeds],
        found=found,
        left_out={each: reason for each in config.method_names() if (reason := METHODS[each].unmet(problem))},
        lost={method: lost[method] for method in methods if lost[method]},
        models=sum(len(seed.known.forget) for seed in seeds) * config.members,
        train_size=len(problem.train.labels),
        forget_size=size,
        masses=np.array([seed.known.mass for seed in seeds]),
        memorised_share=float(np.mean([each.memorised for each in matches])) / size if matches else math.nan,
        overlap=overlap([seed.known.forget for seed in seeds]),
        retained=100 * float(np.mean([seed.known.retained for seed in seeds])),
        tested=100 * float(np.mean([seed.known.tested for seed in seeds])),
        wrong_learned=100 * float(np.mean([seed.known.wrong_learned for seed in seeds])),
    )


class References(NamedTuple):
    """Originals and oracles of one seed of a setting, on what all models are evaluated on.

    Attributes:
        config: of this seed.
        setting: data and model.
        forget: the forget sets.
        shown: the retained and test rows that models are evaluated on.
        originals: to be unlearned.
        before: margins of the originals, by forget set.
        oracles: margins of the oracles of each forget set.
        mass: the memorised mass of each forget set.
        retained: share of the retained rows that the originals predict as labelled.
        tested: the same of the test rows.
        wrong_learned: share of all wrong labels that the originals predict; NaN without any.
        made_with: see `device.made_with`.
    """

    config: Config
    setting: Setting
    forget: Bool[np.ndarray, "sets examples"]
    shown: dict[str, Int[np.ndarray, " rows"]]
    originals: Variables
    before: list[Margins]
    oracles: list[Margins]
    mass: list[float]
    retained: float
    tested: float
    wrong_learned: float
    made_with: set[str]


class Seed(NamedTuple):
    """One seed of a setting."""

    known: References
    found: dict[str, list[Effects]]  # of each method, one for each forget set
    matched: Match | None  # with clean labels


def trained(config: Config, setting: Setting, forget: np.ndarray) -> tuple[Pool, Pool]:
    """The originals, and the oracles of all forget sets, those of the first set first: all in one pool of each kind."""
    everything = np.ones(len(setting.data.train.labels), bool)
    originals = pool(config, setting, setting.problem, everything, "original", config.members)
    identity = {**setting.identity, "forget": identity_of(config, setting, forget)["forget"]}
    masks = np.repeat(~forget, 2 * config.members, axis=0)
    oracles = pool(config, setting._replace(identity=identity), setting.problem, masks, "oracle", len(masks))
    return originals, oracles


def part(variables: Variables, index: int, size: int) -> Variables:
    """The models of one forget set, of models that are ordered by set."""
    return jax.tree.map(lambda leaf: leaf[size * index : size * (index + 1)], variables)


def knowing(config: Config, setting: Setting, variables: Variables, rows: np.ndarray) -> Bool[np.ndarray, "models rows"]:
    """Whether each model predicts the training label of each training row. A model that diverged predicts none."""
    logits = predict(setting.problem.model, variables, setting.data.train.images[rows], config.strategy)
    return (logits.argmax(-1) == setting.data.train.labels[rows]) & np.isfinite(logits).all(-1)


def masses(config: Config, setting: Setting, forget: np.ndarray, originals: Pool, oracles: Pool) -> list[float]:
    """The memorised mass of each forget set: by how many more of its examples originals know than oracles."""
    found = []
    for index, mask in enumerate(forget):
        rows = np.flatnonzero(mask)
        sides = originals.variables, part(oracles.variables, index, 2 * config.members)
        known, unknown = (knowing(config, setting, side, rows).mean() for side in sides)
        found.append(len(rows) * float(known - unknown))
    return found


def matched_sets(config: Config, setting: Setting, target: float) -> tuple[np.ndarray, Match]:
    """Forget sets of the options' size, some of their rows among the most memorised, with a memorised mass near a target."""
    halves, everyone = train_on_halves(config, setting, config.matching.models), np.arange(len(setting.data.train.labels))
    score = memorisation(knowing(config, setting, halves.variables, everyone), halves.masks).score
    order = np.lexsort([generator("ties", config.seed).random(len(score)), -score])
    size, sets = int(forget_mask(config, setting, 0).sum()), config.forget_sets
    draw = partial(mixed_sets, order, size=size, sets=sets, seed=config.seed)

    def measure(count: int) -> float:
        forget = draw(count=count)
        return float(np.mean(masses(config, setting, forget, *trained(config, setting, forget))))

    top = max(float(score[order[:size]].mean()), 1 / size)
    found = match(
        measure,
        target,
        first=round(target / top),
        most=size,
        tolerance=config.matching.tolerance,
        tries=config.matching.tries,
    )
    print(f"memorised mass {found.mass:.1f} of {target:.1f} wanted, {found.memorised} of {size} rows from the most memorised")
    return draw(count=found.memorised), found


def references(config: Config, setting: Setting, forget: np.ndarray) -> References:
    """Trains originals and oracles, or finds them in the cache, and evaluates them.

    Raises:
        ArgumentError: so many diverged that nothing can be measured.
    """
    originals, oracles = trained(config, setting, forget)
    data, most = setting.data, config.evaluation.retain_size
    lost_members(config, "original", originals.variables, FEWEST)
    rng = generator("retained examples that are judged", config.seed)
    shown = {
        "retain": sample(np.flatnonzero(~forget.any(axis=0)), most, rng),
        "test": sample(len(data.test.labels), most, generator("test examples that are judged", config.seed)),
    }
    before, after = [], []
    for index, mask in enumerate(forget):
        of_set = part(oracles.variables, index, 2 * config.members)
        lost_members(config, f"oracle of forget set {index}", of_set, NULL)
        before.append(margins(config, setting, mask, shown, originals.variables))
        after.append(margins(config, setting, mask, shown, of_set))
    wrong = np.flatnonzero(data.train.labels != data.clean_labels)
    known = knowing(config, setting, originals.variables, wrong) if len(wrong) else np.array([math.nan])
    return References(
        config=config,
        setting=setting,
        forget=forget,
        shown=shown,
        originals=originals.variables,
        before=before,
        oracles=after,
        mass=masses(config, setting, forget, originals, oracles),
        retained=float(knowing(config, setting, originals.variables, shown["retain"]).mean()),
        tested=accuracy(config, setting, originals.variables, shown["test"]),
        wrong_learned=float(known.mean()),
        made_with={*originals.made_with, *oracles.made_with},
    )


def accuracy(config: Config, setting: Setting, variables: Variables, rows: np.ndarray) -> float:
    """The share of test rows that models get right."""
    images, labels = setting.data.test.images[rows], setting.data.test.labels[rows]
    return float((predict(setting.problem.model, variables, images, config.strategy).argmax(-1) == labels).mean())


def margins(
    config: Config,
    setting: Setting,
    mask: Bool[np.ndarray, " examples"],
    shown: Mapping[str, Int[np.ndarray, " rows"]],
    variables: Variables,
    model: Model | None = None,
) -> Margins:
    """The margins of models on a forget set, on retained and on test rows; NaN for those of a model that diverged."""
    train, test, rows = setting.data.train, setting.data.test, np.flatnonzero(mask)
    seen = np.concatenate([rows, shown["retain"]])
    images = np.concatenate([train.images[seen], test.images[shown["test"]]])
    labels = np.concatenate([train.labels[seen], test.labels[shown["test"]]])
    logits = predict(model or setting.problem.model, variables, images, config.strategy)
    lost = list(diverged((variables, logits)))
    logits[lost] = 0.0
    found = scaled_logits(logits, labels)
    found[lost] = np.nan
    parts = np.split(found.astype(np.float32), np.cumsum([len(rows), len(shown["retain"])]), axis=1)
    return dict(zip(SPLITS, parts, strict=True))


def unlearn_all(
    config: Config, folder: Run, name: str, known: References, values: Values, compiled: Compiled
) -> dict[str, Arrays]:
    """The margins of the models that each method makes, `set/split`. Those kept by an earlier run are read.

    All originals and forget sets of a seed are one batch of each method.
    """
    members, setting, sets = config.members, known.setting, range(len(known.forget))
    problem = forgetting(setting, known.forget[0])
    copies, masks = tile(known.originals, len(sets)), np.repeat(known.forget, members, axis=0)
    common = identity_of(config, setting, known.forget)
    files = {method: (f"margins/{name}-{config.seed}/{method}.npz", {**common, "values": values[method]}) for method in values}

    def begin(method: str) -> Unlearner:
        return compiled.turn_to(config, method, values, problem, copies, masks)

    def make(method: str, unlearner: Unlearner | None) -> Arrays:
        assert unlearner
        keys = jax.numpy.concatenate([member_keys(config.seed, f"{method} on random-{index}", members) for index in sets])
        done, model = unlearn(method, unlearner, keys).variables, METHODS[method].outcome(problem.model)
        return {
            f"{index}/{split}": margin
            for index in sets
            for split, margin in margins(
                config, setting, known.forget[index], known.shown, part(done, index, members), model
            ).items()
        }

    return load_or_make_all(folder, files, begin, make)


def effects_of_all(known: References, arrays: Mapping[str, Arrays]) -> dict[str, list[Effects]]:
    """The effect sizes of every method on each forget set; of retraining, half of the oracles against the other half."""
    members = known.config.members
    found: dict[str, list[Effects]] = {method: [] for method in [*arrays, "retrain"]}
    for index, (before, oracles) in enumerate(zip(known.before, known.oracles, strict=True)):
        for method, of_method in arrays.items():
            own = {split: of_method[f"{index}/{split}"] for split in SPLITS}
            found[method].append(effect_sizes(own, before, oracles))
        halves = [{split: oracles[split][side] for split in SPLITS} for side in (slice(members), slice(members, None))]
        found["retrain"].append(effect_sizes(halves[0], before, halves[1]))
    return found


def lost_of_all(arrays: Mapping[str, Arrays]) -> dict[str, int]:
    """The models of each method that diverged, over all forget sets."""
    return {
        method: sum(int((~np.isfinite(array).all(axis=1)).sum()) for name, array in of_method.items() if name.endswith("/forget"))
        for method, of_method in arrays.items()
    }


def effect_sizes(own: Margins, before: Margins, oracles: Margins) -> Effects:
    """The effect sizes of models that did not diverge, each beside its original; unknown with fewer than two of a kind."""
    alive, retrained = (
        np.logical_and.reduce([np.isfinite(side[split]).all(axis=1) for side in sides for split in SPLITS])
        for sides in ((own, before), (oracles,))
    )
    if min(alive.sum(), retrained.sum()) < 2:
        return Effects(UNKNOWN, UNKNOWN, dict.fromkeys(SPLITS, UNKNOWN), UNKNOWN, {})
    rows = ((own, alive), (before, alive), (oracles, retrained))
    return effects(*({split: side[split][kept] for split in SPLITS} for side, kept in rows))


def overlap(forget: Sequence[np.ndarray]) -> float:
    """The mean share of a forget set that another one of the same seed has too; NaN if each seed has one."""
    shares = []
    for sets in forget:
        both = sets.astype(int) @ sets.T.astype(int)
        shares += [both[one, two] / both[one, one] for one in range(len(sets)) for two in range(len(sets)) if one != two]
    return float(np.mean(shares)) if shares else math.nan
