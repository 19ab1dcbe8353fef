"""Whether what a table concludes would be concluded again: pools of models, and tables that are drawn from them."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.conclusions import report, tables
from experiments.conclusions.options import EVALUATED, Config
from experiments.conclusions.pools import METRICS, Answers, Pools
from experiments.conclusions.report import Row
from experiments.conclusions.tables import Size, Truth, grid
from unlearn_jax.bench.forget_set import ForgetSet, forget_mask, forget_set
from unlearn_jax.bench.hyperparameters import merge_sets, settings_of_sets
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.pools import pool
from unlearn_jax.bench.population import NULL, lost_members
from unlearn_jax.bench.resume import Arrays, identity_of, load_or_make, load_or_make_all, unlearn
from unlearn_jax.bench.setting import prepare
from unlearn_jax.data.splits import generator
from unlearn_jax.methods import METHODS
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import accuracies, probabilities, scaled_logits
from unlearn_jax.metrics.views import Seen
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.runs import Run
from unlearn_jax.training.pools import diverged, member_keys
from unlearn_jax.types import Cube, Model, Variables

SEARCHES = 8  # the most that are averaged


class Settings(NamedTuple):
    """The settings of all methods, one after the other, on the first forget set."""

    pools: Pools
    of_methods: list[np.ndarray]  # of each method, its columns


def run(config: Config, folder: Run) -> None:
    """Trains the pools, unlearns by every method and setting, draws tables, and reports how often they agree.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    setting = prepare(config)
    names = [*config.compared(), "retrain"]
    lacking = {name: reason for name in names if (reason := METHODS[name].unmet(setting.problem))}
    require(not lacking, "--methods", ",".join(lacking), "needs " + "; ".join(lacking.values()))
    values = settings_of_sets(config, setting, names)
    folder.write_json("hyperparameters.json", merge_sets(values))
    masks = [forget_mask(config, setting, index) for index in range(config.forget_sets)]
    sets = [forget_set(config, folder, setting, mask, name) for name, mask in zip(values, masks, strict=True)]
    everything = np.ones_like(masks[0])
    originals = pool(config, setting, setting.problem, everything, "original", config.members).variables
    lost_members(config, "original", originals, 4)
    made = [measure_set(config, forget, values[forget.name], originals) for forget in sets]
    settings = measure_settings(config, sets[0], values[sets[0].name], originals, made[0])
    pools = pools_of(config, made, names)
    rows = [*vary_models(config, pools, names), *vary_searches(config, settings, names)]
    title = f"{config.dataset} · {config.model} · {len(pools[0].originals.shares)} originals · {2 * config.oracles} oracles · "
    title += f"{len(pools)} forget sets · {len(names) - 1} methods"
    folder.write_csv("conclusions.csv", Row._fields, report.cells(rows))
    save(report.against_oracles(rows, title), folder, "conclusions")
    save(report.against_others(rows, title), folder, "others")
    summary = report.summary(rows, title, config.trials, config.judges)
    folder.write_text("summary.md", summary)
    print(summary)


def vary_models(config: Config, pools: list[Pools], names: list[str]) -> list[Row]:
    """Tables of 1, 2, 4, ... oracles, originals and forget sets, the others being one or as many as there are."""
    least = Size(1, 1, 1)
    most = Size(min(len(each.oracles.shares) for each in pools) // 2, len(pools[0].originals.shares) // 2, len(pools) // 2)
    sizes = {
        (varied, others, count): base._replace(**{varied: count})
        for varied in Size._fields
        for others, base in (("one", least), ("most", most))
        for count in grid(getattr(most, varied))
    }
    found: dict[Size, list[dict[str, tables.Rates] | None]] = {}
    with working("tables") as update:
        truth = tables.truth_of(pools)
        for number, size in enumerate(dict.fromkeys(sizes.values())):
            update(number / len(set(sizes.values())), f"{size.oracles} oracles, {size.originals} originals, {size.sets} sets")
            rng = generator(f"tables of {size}", config.seed)
            drawn = tables.draw_tables(pools, size, config.tables, rng)
            found[size] = conclude_all(drawn, truth, names)
        update(1.0, f"{len(found)} sizes, {config.tables} pairs each")
    return [
        row
        for (varied, others, count), size in sizes.items()
        for row in rows_of(found[size], (varied, others, count), size, 0, config.tables)
    ]


def vary_searches(config: Config, settings: Settings, names: list[str]) -> list[Row]:
    """Tables of methods whose hyperparameters were searched 1, 2, 4, ... times, on the first forget set."""
    rows: list[Row] = []
    most = min(len(settings.pools.oracles.shares) // 2 - len(settings.pools.oracles.shares) // 4, config.oracles)
    with working("tables with searches") as update:
        for others, size in (("one", Size(1, 1, 1)), ("most", Size(most, EVALUATED, 1))):
            bank = tables.draw_bank(
                settings.pools, size, config.judges, EVALUATED, generator(f"searches for {size}", config.seed)
            )
            draw = partial(tables.search_tables, bank, settings.of_methods, trials=config.trials)
            _, shares = draw(
                searches=SEARCHES, tables=10 * config.tables, rng=generator(f"truth of searches for {size}", config.seed)
            )
            truth = tables.truth_of([settings.pools], shares)
            for count in grid(SEARCHES):
                drawn, _ = draw(
                    searches=count, tables=config.tables, rng=generator(f"tables of searches for {size}", config.seed, count)
                )
                found = conclude_all(drawn, truth, names)
                rows += rows_of(found, ("searches", others, count), size, count, config.tables)
            update(0.5 if others == "one" else 1.0, f"{size.oracles} oracles, {size.originals} originals")
    return rows


def conclude_all(drawn: tables.Drawn, truth: Truth, names: list[str]) -> list[dict[str, tables.Rates] | None]:
    """`tables.conclude` by each metric; None where no table defines it."""
    return [
        None if np.isnan(drawn.distances[..., metric]).all() else tables.conclude(drawn, truth, names.index("retrain"), metric)
        for metric in range(len(METRICS))
    ]


def rows_of(
    found: list[dict[str, tables.Rates] | None], place: tuple[str, str, int], size: Size, searches: int, count: int
) -> list[Row]:
    """The rows of one size."""
    return [
        Row(metric, conclusion, *place, *size, searches, *rates.same, *rates.right, *rates.worse, rates.decided, rates.of, count)
        for metric, by_conclusion in zip(METRICS, found, strict=True)
        for conclusion, rates in (by_conclusion or {}).items()
    ]


def measure_set(
    config: Config, forget: ForgetSet, values: Mapping[str, dict[str, Any]], originals: Variables
) -> dict[str, Arrays]:
    """What the metrics need of the oracles, and of the models of every method, on one forget set."""
    identity = identity_of(config, forget.setting, forget.mask)
    trained = {"oracle": 2 * config.oracles, "retrain": config.members}
    made = {
        role: load_or_make(
            forget.folder,
            f"answers/{forget.name}/{role}.npz",
            {**identity, "models": count},
            partial(_measure_pool, forget, role, count),
        )
        for role, count in trained.items()
    }
    files = {
        name: (f"answers/{forget.name}/{name}.npz", {**identity, "values": of_method})
        for name, of_method in values.items()
        if name != "retrain"
    }
    files = {"original": (f"answers/{forget.name}/original.npz", {**identity, "values": {}}), **files}

    def begin(name: str) -> Unlearner | None:
        if name == "original":
            return None
        return Unlearner(name, values[name], forget.problem, originals, strategy=config.strategy, chunk=config.chunk)

    def make(name: str, unlearner: Unlearner | None) -> Mapping[str, Any]:
        if unlearner is None:
            return measure(forget, originals)
        done = unlearn(name, unlearner, member_keys(config.seed, f"{name} on {forget.name}", config.members))
        return measure(forget, done.variables, METHODS[name].outcome(forget.problem.model))

    return made | load_or_make_all(forget.folder, files, begin, make)


def measure_settings(
    config: Config,
    forget: ForgetSet,
    values: Mapping[str, dict[str, Any]],
    originals: Variables,
    made: Mapping[str, Arrays],
) -> Settings:
    """What the metrics need of the first originals, unlearned by every setting of every method on one forget set."""
    count = config.searched
    identity = {**identity_of(config, forget.setting, forget.mask), "searched": count}
    drawn = {name: draw_settings(config, name) for name in values if METHODS[name].search}
    files = {
        name: (f"searches/{name}.npz", {**identity, "values": values[name], "settings": settings})
        for name, settings in drawn.items()
    }
    first = jax.tree.map(lambda leaf: leaf[:count], originals)

    def begin(name: str) -> Unlearner:
        settings = drawn[name]
        each = values[name] | {key: np.repeat([one[key] for one in settings], count) for key in settings[0]}
        repeated = jax.tree.map(lambda leaf: np.concatenate([leaf] * len(settings)), first)
        return Unlearner(name, each, forget.problem, repeated, strategy=config.strategy, chunk=config.chunk)

    def make(name: str, unlearner: Unlearner | None) -> Mapping[str, Any]:
        assert unlearner
        keys = member_keys(config.seed, f"settings of {name} on {forget.name}", count * len(drawn[name]))
        done = unlearn(f"{name}, {len(drawn[name])} settings", unlearner, keys)
        return measure(forget, done.variables, METHODS[name].outcome(forget.problem.model))

    searched = load_or_make_all(forget.folder, files, begin, make)
    kept = np.setdiff1d(np.arange(count), made["original"]["lost"])
    columns, lost, of_methods = [], [], []
    for name in values:
        if name in drawn:
            each = np.arange(len(drawn[name]))
            models = answers_of(searched[name])
            columns += [models.take(count * place + kept) for place in each]
            lost += [bool(np.isin(count * place + kept, searched[name]["lost"]).any()) for place in each]
        else:
            each = np.arange(1)
            columns.append(answers_of(made[name]).take(kept))
            lost.append(bool(np.isin(kept, made[name]["lost"]).any()))
        of_methods.append(len(columns) - len(each) + each)
    before = answers_of(made["original"]).take(kept)
    return Settings(Pools(_alive(made["oracle"]), before, columns, np.array(lost)), of_methods)


def draw_settings(config: Config, name: str) -> list[dict[str, float]]:
    """The authors' hyperparameters, and a Latin hypercube: of each searched one, values spaced on its scale, in random order."""
    space, rng = METHODS[name].search, generator(f"settings of {name}", config.seed)
    authors = {key: float(METHODS[name].defaults[key]) for key in space}
    sides = {key: rng.permutation(ends.spaced(config.settings - 1)) for key, ends in space.items()}
    return [authors, *({key: float(side[place]) for key, side in sides.items()} for place in range(config.settings - 1))]


def pools_of(config: Config, made: list[dict[str, Arrays]], names: list[str]) -> list[Pools]:
    """The pools of all forget sets, without the originals that diverged in some method on some set.

    Raises:
        ArgumentError: fewer than four originals are left.
    """
    lost = {int(member) for arrays in made for name in (*names, "original") for member in arrays[name]["lost"]}
    kept = np.setdiff1d(np.arange(config.members), sorted(lost))
    accepted = f"{len(lost)} of {config.members} models diverged, of the methods together; expected four or more to be left"
    require(len(kept) >= 4, "--methods", ",".join(config.methods), accepted)
    whole = np.zeros(len(names), bool)
    return [
        Pools(
            _alive(arrays["oracle"]),
            answers_of(arrays["original"]).take(kept),
            [answers_of(arrays[name]).take(kept) for name in names],
            whole,
        )
        for arrays in made
    ]


def measure(forget: ForgetSet, variables: Variables, model: Model | None = None) -> dict[str, np.ndarray]:
    """What the metrics need of models, and the numbers of those that diverged, whose answers are replaced by zeros."""
    cube = forget.logits(variables, model)
    lost = diverged((variables, cube))
    for logits in cube:
        logits[list(lost)] = 0
    labels = forget.labels
    rows = {split: np.arange(len(of_split)) for split, of_split in labels._asdict().items()}
    with working("attacks") as update:
        attack = Seen(cube, labels, rows, forget.config.seed).svc_mia["confidence"]
        update(1.0, f"{len(attack)} models")
    shares = np.column_stack([*(values / 100 for values in accuracies(cube, labels)), attack])
    margins = {split: scaled_logits(getattr(cube, split), getattr(labels, split)) for split in Cube._fields}
    return {
        "lost": np.array(lost, int),
        "shares": shares,
        "probabilities": probabilities(cube.forget).astype(np.float32),
        **{f"margins/{split}": values.astype(np.float32) for split, values in margins.items()},
    }


def answers_of(arrays: Arrays) -> Answers:
    """The answers in what `measure` made."""
    margins = {split: arrays[f"margins/{split}"] for split in Cube._fields}
    return Answers(arrays["shares"], arrays["probabilities"], margins)


def _alive(arrays: Arrays) -> Answers:
    return answers_of(arrays).take(np.setdiff1d(np.arange(len(arrays["shares"])), arrays["lost"]))


def _measure_pool(forget: ForgetSet, role: str, count: int) -> dict[str, np.ndarray]:
    trained = forget.pool(role, count)
    lost_members(forget.config, "retrained", trained.variables, NULL)
    return measure(forget, trained.variables)
