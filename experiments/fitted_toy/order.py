"""Which methods come near retraining: on the images, and on the toys that are to predict it."""

from collections.abc import Mapping

import numpy as np

from experiments.fitted_toy import order_report as report
from experiments.fitted_toy.options import TUNED_ON, Config
from experiments.fitted_toy.points import image_setting, toy_setting
from unlearn_jax.bench.forget_set import forget_mask
from unlearn_jax.bench.hyperparameters import hyperparameters_of
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.orders import Sizes
from unlearn_jax.bench.pools import version_note
from unlearn_jax.bench.setting import Setting
from unlearn_jax.bench.several_sets import (
    AllAnswers,
    Compiled,
    Values,
    effects_by_set,
    group_answers,
    load_or_predict,
    margins_of,
)
from unlearn_jax.data import Mixture
from unlearn_jax.data.splits import generator, sample
from unlearn_jax.methods import METHODS
from unlearn_jax.metrics.effects import Effects, effects
from unlearn_jax.report.drawing import save
from unlearn_jax.runs import Run
from unlearn_jax.types import Examples

Cells = dict[str, list[list[Effects]]]  # of each method, and of retraining: by draw, one for each forget set; empty if lost


def hyperparameters(config: Config) -> Values:
    """The hyperparameters of the methods, after a look at what they will run on.

    Raises:
        ArgumentError: the images, the forget sets or a method cannot be had; nothing is computed before.
    """
    names = config.method_names()
    values = hyperparameters_of(TUNED_ON, names, config.hyperparameters())
    setting = image_setting(config)
    classes = setting.data.classes
    require(config.test_size >= classes, "--test-size", config.test_size, f"expected one for each of {classes} classes")
    for index in range(config.forget_sets):
        forget_mask(config, setting, index)
    for name in names:
        lacking = METHODS[name].unmet(setting.problem)
        require(not lacking, "--methods", name, f"needs {lacking}")
    return values


def compare(config: Config, folder: Run, mixtures: Mapping[str, Mixture], values: Values) -> None:
    """Unlearns on images and toys, and writes how far the orders of the methods agree.

    Args:
        config: the options of the study.
        folder: the run folder.
        mixtures: `fitted` and `start`.
        values: the hyperparameters of the methods.
    """
    compiled, made_with = Compiled(), set[str]()
    found: dict[str, Cells] = {}
    for name in report.GROUPS:
        cells: Cells = {method: [] for method in (*values, "retrain")}
        for draw in range(config.unlearned.draws):
            print(f"methods on {report.GROUPS[name]}, draw {draw}", flush=True)
            variant, setting = setting_at(config, name, draw, mixtures)
            arrays = load_or_predict(variant, folder, setting, values, compiled)
            made_with.add(str(arrays["made_with"]))
            models = group_answers(arrays)
            for method in values:
                cells[method].append(effects_by_set(method, models))
            cells["retrain"].append([of_retraining(models, index) for index in range(config.forget_sets)])
        found[name] = cells
    sizes = {name: {method: sizes_of(cells[method], config) for method in cells} for name, cells in found.items()}
    study = report.Orders(
        title=f"{config.dataset}: {config.unlearned.draws} draws of {config.unlearned.members} originals and "
        f"{config.forget_sets} forget sets",
        sizes=sizes,
        seed=config.seed,
    )
    folder.write_csv("methods.csv", *report.table(study))
    folder.write_json("results.json", {"hyperparameters": values, "made_with": sorted(made_with)})
    if len(study.ordered()) > 1:
        folder.write_csv("correlations.csv", *report.correlations(study))
        save(report.figure(study), folder, "methods")
    text = "\n".join([report.summary(study), *version_note(made_with)])
    folder.write_text("methods.md", text)
    print(text)


def setting_at(config: Config, name: str, draw: int, mixtures: Mapping[str, Mixture]) -> tuple[Config, Setting]:
    """The options, the data and the model of one draw of images or of a toy; the search and its check saw none of these draws."""
    if name in mixtures:
        variant = config.drawn(config.seed + config.rounds + 1 + config.seeds + draw)
        return variant, toy_setting(variant, mixtures[name])
    variant = config.drawn(config.seed + config.seeds + draw + (config.unlearned.draws if name == "again" else 0))
    setting = image_setting(variant)
    test = setting.data.test
    rows = sample(len(test.labels), config.test_size, generator("test examples", variant.seed))
    return variant, setting._replace(data=setting.data._replace(test=Examples(*(part[rows] for part in test))))


def of_retraining(models: AllAnswers, index: int) -> Effects:
    """The effect sizes of some oracles, as many as there are originals, against the others."""
    originals, oracles = (margins_of(kind, index, models) for kind in ("original", "oracle"))
    count = min(len(originals["forget"]), len(oracles["forget"]) // 2)
    first, others = ({split: part[some] for split, part in oracles.items()} for some in (slice(count), slice(count, None)))
    return effects(first, {split: part[:count] for split, part in originals.items()}, others)


def sizes_of(cells: list[list[Effects]], config: Config) -> Sizes:
    """Memory left and damage of a method, `[1, draws, sets]`; NaN where a model diverged."""
    both = np.full((2, 1, len(cells), config.forget_sets), np.nan)
    for draw, of_sets in enumerate(cells):
        for index, each in enumerate(of_sets):
            both[:, 0, draw, index] = each.memory_left.value, each.damage.value
    return Sizes(*both)
