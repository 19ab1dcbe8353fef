"""Whether results carry over: laws of the correlations, matched memorised mass, the study in small, and its figure."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest
from in_process import run_in_process

from experiments.carry_over import study as carry_over
from experiments.carry_over.matching import match, mixed_sets
from experiments.carry_over.options import AGAIN, BASE, CLEAN, SETTINGS, Config, smoke
from experiments.carry_over.report import Measured, Results, correlations, figure, summary
from unlearn_jax import runs
from unlearn_jax.bench.orders import Sizes, below, compare, difference, mean_intervals, means
from unlearn_jax.bench.setting import prepare
from unlearn_jax.errors import ArgumentError
from unlearn_jax.metrics.effects import Effects
from unlearn_jax.types import Interval

METHODS, SEEDS, SETS = 14, 3, 5
WORDS = ("--exp", "carry_over", "--smoke", "--device", "cpu", "--seeds", 1)
SMALL = dataclasses.replace(smoke(Config()), seeds=1)


def drawn(seed, noise=0.05, level=None):
    """Effect sizes of methods with true levels, and noise in every cell."""
    rng = np.random.default_rng(seed)
    memory, damage = np.random.default_rng(seed if level is None else level).random((2, METHODS, 1, 1))
    return Sizes(*(each + noise * rng.normal(size=(METHODS, SEEDS, SETS)) for each in (memory, damage)))


def test_a_setting_correlates_fully_with_itself_and_with_any_unit():
    base = drawn(0, noise=0.0)
    for other in (base, Sizes(*(3 * part for part in base))):
        for found in compare(base, other)[0].values():
            assert found.value == found.low == found.high == 1.0 and found.methods == METHODS
            assert found.low_methods == pytest.approx(1.0)


def test_noise_alone_lowers_the_correlation_and_the_interval_says_how_far():
    base, again = drawn(1, 0.3, level=9), drawn(2, 0.3, level=9)
    found, draws = compare(base, again)
    assert all(0.7 < each.value < 1 and each.low < each.value for each in found.values())
    assert below(draws["damage"], draws["damage"], 0.0) == Interval(0.0, 0.0, 0.0)
    other, apart = compare(base, drawn(3, 0.3))
    gap = below(apart["damage"], draws["damage"], found["damage"].value - other["damage"].value)
    assert gap.low > 0


def test_a_difference_of_correlations_is_seen_where_there_is_one():
    base, near, far = drawn(1, 0.05, level=9), drawn(2, 0.05, level=9), drawn(3, 0.05)
    for name, found in difference(base, near, far).items():
        assert found.value == compare(base, near)[0][name].value - compare(base, far)[0][name].value
        assert found.low > 0 < found.low_methods
    assert all(found == (0.0,) * 5 for found in difference(base, near, near).values())
    few = Sizes(*(part[:4] for part in base))
    assert difference(few, few, few)["damage"][3:] == (-2.0, 2.0)


def test_independent_settings_correlate_about_zero_with_intervals_that_cover_it():
    found = [compare(drawn(2 * seed), drawn(2 * seed + 1))[0]["damage"] for seed in range(20)]
    assert abs(np.mean([each.value for each in found])) < 0.2
    assert sum(each.low_methods <= 0 <= each.high_methods for each in found) >= 16


def test_means_leave_out_what_is_not_known_and_damage_is_averaged_by_its_square():
    sizes = drawn(4, noise=0.0)
    memory, damage = (part.copy() for part in sizes)
    memory[0, 0, 0] = damage[0, 0, 0] = np.nan
    damage[1] = [[-3.0] + [3.0] * (SETS - 1)] * SEEDS
    found = means(Sizes(memory, damage))
    assert found["memory_left"] == pytest.approx(sizes.memory[:, 0, 0])
    assert found["damage"][1] == pytest.approx(np.sqrt(9 * (SETS - 2) / SETS))
    assert found["distance"] == pytest.approx(np.maximum(found["memory_left"], found["damage"]))
    intervals = mean_intervals(Sizes(memory, damage))
    assert intervals["damage"][0].value == pytest.approx(found["damage"][0])
    assert np.isfinite([each.value for each in compare(Sizes(memory, damage), sizes)[0].values()]).all()


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_a_mass_is_matched_in_few_tries_whatever_its_shape(power):
    def measure(count):
        return 30 * (count / 100) ** power + 0.2 * np.sin(7 * count)

    found = match(measure, 12.0, first=50, most=100, tolerance=0.1, tries=6)
    assert found.mass == measure(found.memorised) and abs(found.mass / 12 - 1) <= 0.1


def test_a_mass_out_of_reach_gives_the_nearest():
    found = match(lambda count: count / 10, 50.0, first=20, most=100, tolerance=0.1, tries=6)
    assert found.memorised == 100 and found.mass == 10 and len(found.tried) <= 6
    found = match(lambda count: 5.0 + count, 1.0, first=20, most=100, tolerance=0.1, tries=20)
    assert found.memorised == 1 and found.mass == 6


def test_matched_sets_hold_as_many_memorised_rows_as_asked_and_grow():
    order = np.random.default_rng(0).permutation(60)
    few, more = (mixed_sets(order, count, 10, 3, 5) for count in (4, 7))
    for masks, count in ((few, 4), (more, 7)):
        assert (masks.sum(axis=1) == 10).all() and (masks[:, order[:10]].sum(axis=1) == count).all()
    assert (more[:, order[:10]] >= few[:, order[:10]]).all() and (more[0] != more[1]).any()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The run folder of the smallest study, from the command line."""
    out = tmp_path_factory.mktemp("carry") / "run"
    found = run_in_process(*WORDS, "--out", out, "--cache", out.parent / "cache")
    assert found.returncode == 0, found.stderr
    return out, found.stdout


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_every_setting_seed_set_and_method_has_a_row(done):
    out, said = done
    config = SMALL
    rows = read(out / "carry_over.csv")
    assert [*dict.fromkeys(row["setting"] for row in rows)] == [BASE, AGAIN, CLEAN]
    assert {row["method"] for row in rows} == {*config.methods, "retrain"}
    assert len(rows) == 3 * config.seeds * config.forget_sets * 4
    assert {(row["setting"], row["seed"]) for row in rows} == {(BASE, "0"), (AGAIN, "1"), (CLEAN, "0")}
    assert len(read(out / "correlations.csv")) == 2 * 3
    assert (out / "summary.md").read_text() in said and said.count("**Rank correlation of the methods with digits") == 1
    assert json.loads((out / "results.json").read_text())["hyperparameters"][CLEAN]["finetune"]["epochs"] == 1


def test_what_a_row_says_of_the_mass_is_what_its_setting_has(done):
    rows, settings = read(done[0] / "carry_over.csv"), {row["setting"]: row for row in read(done[0] / "settings.csv")}
    for name, setting in settings.items():
        masses = [float(row["memorised_mass"]) for row in rows if row["setting"] == name]
        assert np.mean(masses) == pytest.approx(float(setting["memorised_mass"]))
    assert settings[CLEAN]["wrong_labels_learned"] == "" and 0 <= float(settings[CLEAN]["memorised_share"]) <= 1


def test_a_mass_of_clean_labels_is_matched_on_data(done):
    config = dataclasses.replace(SMALL, cache=done[0].parent / "cache").variant(CLEAN)
    config = dataclasses.replace(config, matching=dataclasses.replace(config.matching, tries=6, tolerance=0.25))
    setting = prepare(config)
    forget, found = carry_over.matched_sets(config, setting, 2.0)
    again = carry_over.masses(config, setting, forget, *carry_over.trained(config, setting, forget))
    assert np.mean(again) == found.mass == pytest.approx(2.0, rel=0.25)


def test_a_finished_run_unlearns_nothing_again(done, monkeypatch):
    out, _ = done
    kept = {path.name: path.read_bytes() for path in out.glob("*.csv")}
    config = dataclasses.replace(SMALL, out=out, cache=done[0].parent / "cache")
    monkeypatch.setattr(carry_over, "unlearn", lambda *_: pytest.fail("done before"))
    monkeypatch.setattr(carry_over, "save", lambda *_: None)
    assert {path.suffix for path in (out / "figures").iterdir()} == {".png", ".svg"}
    folder = runs.open_run(out, config.recorded(), extendable=config.immaterial | config.extendable)
    diverged = {"finetune": 2, "gradient_ascent": 0, "neggrad_plus": 0}
    monkeypatch.setattr(carry_over, "lost_of_all", lambda arrays: diverged)
    carry_over.run(config, folder)
    assert {path.name: path.read_bytes() for path in out.glob("*.csv")} == kept
    said = re.findall(r"finetune: (\d+) of (\d+) models diverged", (out / "summary.md").read_text())
    models = config.seeds * config.forget_sets * config.members
    assert said == [(str(2 * config.seeds), str(models))] * len(config.settings)


def test_models_that_diverged_are_left_out_with_their_originals():
    rng = np.random.default_rng(0)
    own, before, oracles = (
        {split: rng.normal(size=(5, 20)) + shift for split in ("forget", "retain", "test")} for shift in (1.0, 2.0, 0.0)
    )
    whole = carry_over.effect_sizes(*({split: part[1:] for split, part in side.items()} for side in (own, before)), oracles)
    own["test"][0] = np.nan
    assert carry_over.effect_sizes(own, before, oracles).memory_left == whole.memory_left
    before["retain"][1:4] = np.nan
    assert np.isnan(carry_over.effect_sizes(own, before, oracles).memory_left.value)


def test_models_that_diverged_are_counted_over_all_sets():
    alive, lost = np.zeros((4, 3)), np.where(np.arange(4)[:, None] < 3, np.nan, np.zeros((4, 3)))
    ruined = {"0/forget": alive, "0/test": lost, "1/forget": lost}
    arrays = {"scrub": {"0/forget": alive, "1/forget": alive}, "neggrad_plus": ruined}
    assert carry_over.lost_of_all(arrays) == {"scrub": 0, "neggrad_plus": 3}


def measured(name, number):
    """One setting of drawn effect sizes; the first method is supported by the base alone."""
    sizes = drawn(number, level=9 if name != "fashion" else 5)
    names = [f"method_{index}" for index in range(METHODS)][1 if name == "mlp" else 0 :]
    cells = {
        method: [
            [Effects(*(Interval(part[-row - 1, i, j], 0, 1) for part in sizes), {}, Interval(1, 0, 2), {}) for j in range(SETS)]
            for i in range(SEEDS)
        ]
        for row, method in enumerate(names)
    }
    return Measured(
        name=name,
        title=Config().title(name),
        seeds=[*range(SEEDS)],
        found={**cells, "retrain": cells["method_1"]},
        left_out={"method_0": "convolutions; this model has none"} if name == "mlp" else {},
        lost={"method_1": 57} if name == "fashion" else {},
        models=60,
        train_size=100,
        forget_size=10,
        masses=np.full((SEEDS, SETS), 3.0 + number),
        memorised_share=0.4 if name == CLEAN else np.nan,
        overlap=0.1,
        retained=99.0,
        tested=90.0,
        wrong_learned=np.nan if name == CLEAN else 95.0,
    )


def test_the_report_says_and_draws_all_settings():
    study = Results("3 seeds", [measured(name, number) for number, name in enumerate(SETTINGS)], 0.1, 0.1)
    text = summary(study)
    assert text.startswith("**Rank correlation") and "MLP: method_0 is left out, it needs convolutions" in text
    assert "Fashion-MNIST, method_1: 57 of 60 models diverged and are in no size." in text
    assert "NOT within the tolerance" in text and "Fashion-MNIST" in text.split("\n")[2]
    rows = {(row[0], row[1]): row for row in correlations(study).rows}
    assert rows["mlp", "damage"][7] == METHODS - 1 and rows["vit", "damage"][7] == METHODS
    assert rows["fashion", "damage"][9] > 0 and rows[AGAIN, "damage"][8] is None
    left, right, ranks = figure(study).axes
    assert len(left.get_yticklabels()) == METHODS + 1 and len(ranks.get_yticklabels()) == 3 * (len(SETTINGS) - 1)
    assert left.get_xlabel().startswith("memory left") and right.get_xlabel().startswith("damage")


def test_where_nothing_is_remembered_nothing_is_said():
    empty = measured(BASE, 0)
    nothing = Effects(Interval(np.nan, -np.inf, np.inf), Interval(np.nan, -np.inf, np.inf), {}, Interval(0, 0, 0), {})
    empty = empty._replace(found={name: [[nothing] * SETS] * SEEDS for name in empty.found})
    study = Results("3 seeds", [empty, measured(AGAIN, 1), measured(CLEAN, 2)], 0.1, 0.1)
    assert "nothing known" in summary(study) and "| not known |" in summary(study)
    assert len(figure(study).axes) == 3
    assert all(row[2] is None for row in correlations(study).rows)


def test_each_setting_changes_one_thing():
    config = Config()
    plain, changed = config.variant(BASE), {name: config.variant(name) for name in SETTINGS}
    varied = {
        name: {field.name for field in dataclasses.fields(Config) if getattr(one, field.name) != getattr(plain, field.name)}
        for name, one in changed.items()
    }
    assert varied == {
        BASE: set(),
        AGAIN: {"seed"},
        CLEAN: {"label_noise"},
        "group": {"train", "normalisation"},
        "mlp": {"model", "width"},
        "vit": {"train", "model", "width"},
        "fashion": {"train", "dataset", "train_size"},
    }
    assert config.variant(BASE, 2).seed == 2 and config.variant(AGAIN, 0).seed == 3


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"label_noise": 0.0}, "--settings"),
        ({"methods": ("original", "finetune")}, "--methods"),
        ({"methods": ("finetune", "sisa")}, "--methods"),
    ],
)
def test_what_cannot_be_compared_is_refused(given, named):
    with pytest.raises(ArgumentError, match=named):
        dataclasses.replace(Config(), **given).check()
