"""Variance changed at equal training loss: how levels are trained, what is measured of them, and the study in small."""

import csv
import dataclasses
import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import spearmanr

from experiments.variance_interventions import report, study
from experiments.variance_interventions.options import BASE, PLACEBO, Config, Level, smoke
from unlearn_jax import runs
from unlearn_jax.bench import equal_loss
from unlearn_jax.bench.several_sets import evaluate_logits
from unlearn_jax.errors import ArgumentError
from unlearn_jax.training.fit import beginning, initialise, masked, training
from unlearn_jax.training.sampling import steps_in_pass

TINY = dataclasses.replace(smoke(Config()), train_size=40, width=6, batches=(10,), controls=(0.5,))
LOSS = {BASE: 0.4, "batch 10": 0.8}


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def logits_of(config, folder, setting, values):
    """Made-up logits in the place of trained models: they vary more with smaller batches."""
    rng = np.random.default_rng([config.seed, config.train.batch_size, config.train.epochs])
    counts, members = {"forget": 30, "retain": 36, "test": 50}, config.members
    arrays = {f"{split}_labels": rng.integers(10, size=count) for split, count in counts.items()}
    arrays["forget_labels"] = arrays["forget_labels"][None]
    for kind, models in {"original": members, "oracle": 2 * members, "finetune": members}.items():
        for split, count in counts.items():
            known = np.eye(10)[arrays[f"{split}_labels"]].reshape(1, 1, count, 10)
            sure = 1.0 if kind == "oracle" and split == "forget" else 5.0
            arrays[f"{kind}/{split}"] = sure * known + 15 / config.train.batch_size * rng.normal(size=(1, models, count, 10))
    return arrays | {"made_with": np.array("a test")}


def lines_of(config, level, setting, members):
    ends = np.linspace(0, 1, config.points)
    return {split: (1 + ends * (1 - ends))[None] * np.ones((config.members, 1)) for split in ("train", "test")}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run with made-up models, its folder, and what the search trained."""
    out, trained, settings = tmp_path_factory.mktemp("interventions") / "run", [], {}
    prepare = study.prepare

    def prepare_once(config):
        if config.seed not in settings:
            settings[config.seed] = prepare(config)
        return settings[config.seed]

    def searched_loss(config, level, epochs):
        trained.append((level.name, epochs))
        return LOSS.get(level.name, 0.2) * 4 / epochs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "prepare", prepare_once)
        patch.setattr(study, "searched_loss", searched_loss)
        patch.setattr(study, "load_or_predict", logits_of)
        patch.setattr(study, "measure_lines", lines_of)
        study.run(TINY, runs.open_run(out, TINY.recorded(), extendable=TINY.extendable))
    return TINY, out, trained


def test_levels_are_compared_at_the_epochs_whose_loss_is_nearest_to_the_base(done):
    config, out, trained = done
    rows = read(out / "levels.csv")
    epochs = {row["level"]: int(row["epochs"]) for row in rows}
    assert list(epochs) == [level.name for level in config.levels()]
    assert epochs == {BASE: 4, PLACEBO: 4, "one-start": 4, "batch 10": 8, "average 0.5": 2, "ensemble 2": 2} | {
        "2 epochs": 2,
        "8 epochs": 8,
    }
    assert {name for name, _ in trained} == {BASE, "batch 10", "average 0.5", "ensemble 2"}
    assert {row["level"] for row in read(out / "search.csv")} == {name for name, _ in trained}
    assert {path.stem for path in out.rglob("*.png")} == {"interventions"}
    assert "2 epochs, 8 epochs are controls of the loss" in (out / "summary.md").read_text()


def test_differences_are_paired_by_draw(done):
    config, out, _ = done
    draws = read(out / "draws.csv")
    assert len(draws) == config.draws * len(config.levels())
    of = lambda level: np.array([float(row["test_loss"]) for row in draws if row["level"] == level])  # noqa: E731
    for row in read(out / "levels.csv"):
        if row["measure"] == "test_loss" and row["level"] != BASE:
            apart = of(row["level"]) - of(BASE)
            assert float(row["difference"]) == pytest.approx(apart.mean())
            reach = 4.302653 * apart.std(ddof=1) / math.sqrt(3)
            assert float(row["difference_high"]) - apart.mean() == pytest.approx(reach, rel=1e-4)
    for row in draws:
        assert float(row["test_bias"]) + float(row["test_variance"]) == pytest.approx(float(row["test_loss"]))
        assert float(row["barrier_test"]) == pytest.approx(0.25) and abs(float(row["memory/retrain"])) < 0.5
    means = {(row["level"], row["measure"]): float(row["value"]) for row in read(out / "levels.csv") if row["value"]}
    assert means["batch 10", "test_variance"] > 2 * means[BASE, "test_variance"] > 2 * means["ensemble 2", "test_variance"]
    links = {row["measure"]: row for row in read(out / "links.csv")}
    equal = [row for row in draws if not row["level"].endswith(" epochs")]
    of_draws = [[row for row in equal if row["draw"] == str(draw)] for draw in range(config.draws)]
    expected = [
        spearmanr(*([float(row[f"test_{what}"]) for row in rows] for what in ("variance", "loss")))[0] for rows in of_draws
    ]
    assert int(links["test_loss"]["levels"]) == 6 and float(links["test_loss"]["correlation"]) == pytest.approx(np.mean(expected))


def test_the_placebo_is_the_other_half_of_the_base_and_networks_are_averaged(monkeypatch, tmp_path):
    monkeypatch.setattr(study, "load_or_predict", logits_of)
    monkeypatch.setattr(study, "measure_lines", lines_of)
    folder = runs.open_run(tmp_path / "run", TINY.recorded())
    by_name = {level.name: level for level in TINY.levels()}
    found = {name: study.answers(TINY, by_name[name], folder, {})[0] for name in (BASE, PLACEBO, "ensemble 2")}
    whole = logits_of(dataclasses.replace(TINY, members=6), None, None, None)
    for kind, count in {"original": 3, "oracle": 6}.items():
        both = np.concatenate([found[name][f"{kind}/test"] for name in (BASE, PLACEBO)], axis=1)
        np.testing.assert_array_equal(both, whole[f"{kind}/test"])
        assert found["ensemble 2"][f"{kind}/test"].shape == (1, count, 50, 10)
    mean = softmax(whole["original/test"][0, 2:4], axis=-1).mean(0)
    np.testing.assert_allclose(softmax(found["ensemble 2"]["original/test"][0, 1], axis=-1), mean, atol=1e-6)


def test_averaged_weights_are_means_of_the_last_epochs_and_one_start_is_shared(tmp_path):
    config = dataclasses.replace(TINY, cache=tmp_path, train=dataclasses.replace(TINY.train, epochs=3, schedule="constant"))
    setting = study.set_up(config, Level("average", config.train, average=0.7))
    mask, problem = np.arange(40) < 30, setting.problem
    init_key, order_key = jax.random.split(jax.random.key(3))
    whole, passes = masked(problem, jax.numpy.asarray(mask), 30), steps_in_pass(30, 20) * np.arange(1, 4)
    descent = training(problem.recipe, 30)
    ends = jax.jit(lambda key: descent.checkpoints(key, whole, beginning(init_key, whole), passes.tolist()))(order_key)
    found = setting.fit(jax.random.key(3), mask)
    jax.tree.map(lambda one, of_ends: np.testing.assert_allclose(one, of_ends[1:].mean(0), atol=1e-5), found, ends)
    assert all(np.abs(leaf[1] - leaf[2]).max() > 1e-3 for leaf in jax.tree.leaves(ends))
    starts = [
        study.set_up(dataclasses.replace(config, seed=seed), Level("one", config.train, one_start=True)) for seed in (0, 0, 1)
    ]
    first, again, other = (jax.tree.leaves(one.problem.start.variables) for one in starts)
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    assert not all(np.array_equal(*pair) for pair in zip(first, other, strict=True))
    assert starts[0].identity["one_start"] == 0 and "averaged" in setting.identity


def test_lines_between_ensembles_end_at_the_ensembles(monkeypatch, tmp_path):
    config = dataclasses.replace(TINY, cache=tmp_path)
    level = Level("ensemble", config.train, networks=2)
    setting = study.set_up(config, level)
    problem = setting.problem
    networks = jax.tree.map(lambda *leaves: np.stack(leaves), *(initialise(jax.random.key(seed), problem) for seed in range(6)))
    monkeypatch.setattr(study, "pool", lambda *arguments: SimpleNamespace(variables=networks))
    found = study.measure_lines(config, level, setting, 6)
    assert found["test"].shape == (3, 3)
    logits = np.stack(
        [
            problem.model.apply(jax.tree.map(lambda leaf, i=i: leaf[i], networks), setting.data.test.images, train=False)[0]
            for i in range(6)
        ]
    )
    mean = np.log(softmax(logits.reshape(3, 2, *logits.shape[1:]), axis=-1).mean(1))
    losses = -np.take_along_axis(mean, setting.data.test.labels[None, :, None], -1)[..., 0].mean(1)
    np.testing.assert_allclose(found["test"][:, 0], losses, rtol=1e-5)
    np.testing.assert_allclose(found["test"][:, -1], np.roll(losses, -1), rtol=1e-5)


def test_bias_and_variance_leave_out_models_that_diverged():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 5, 7, 3)), rng.integers(3, size=(2, 7))
    logits[0, 4, 2, 1] = np.nan
    bias, variance = study.decomposed(logits, labels)
    losses = [
        -np.take_along_axis(log_softmax(part, -1), right[None, :, None], -1).mean()
        for part, right in zip((logits[0, :4], logits[1]), labels, strict=True)
    ]
    assert bias + variance == pytest.approx(np.mean(losses)) and variance > 0.1
    assert all(map(math.isnan, study.decomposed(logits[:, 3:], labels)))
    lines = np.array([[1.0, 2.0, 1.0], [1.0, np.nan, 1.0]])
    assert study.barrier(lines, np.linspace(0, 1, 3)) == 1 and math.isnan(study.barrier(lines[1:], np.linspace(0, 1, 3)))


def test_half_of_the_oracles_is_what_retraining_leaves():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=60)
    models = {}
    for kind, count, sure in (("original", 6, 4.0), ("oracle", 12, 1.0)):
        for split in ("forget", "retain", "test"):
            logits = (sure if split == "forget" else 2) * np.eye(3)[labels] + rng.normal(size=(count, 60, 3))
            models[kind, split] = [evaluate_logits(logits, labels)]
    found = study.measure_null(models)
    assert found.keys() == {"memory/retrain", "damage/retrain"}
    assert abs(found["memory/retrain"]) < 0.1 and abs(found["damage/retrain"]) < 0.3


def test_a_rank_correlation_beside_a_third_measure_takes_it_out():
    rng = np.random.default_rng(0)
    third = rng.normal(size=400)
    one, other = third + rng.normal(size=(2, 400))
    assert study.rank_correlation(one, other) > 0.4 and abs(study.partial_correlation(one, other, third)) < 0.1
    assert math.isnan(study.rank_correlation(one, 0 * other)) and math.isnan(study.partial_correlation(one, other, one))


def test_the_nearest_epochs_are_found_by_ratio():
    assert equal_loss.nearest({10: 0.3, 20: 0.12, 40: 0.05}, 0.1) == 20
    assert equal_loss.nearest({10: math.inf, 20: 0.0}, 0.1) == 20 and equal_loss.nearest({8: 0.2, 4: 0.05}, 0.1) == 4


def test_levels_with_the_base_s_loss_are_told_from_the_controls():
    levels = {level.name: level for level in Config().levels()}
    assert list(levels)[:3] == [BASE, PLACEBO, "one-start"] and list(levels)[-2:] == ["22 epochs", "40 epochs"]
    assert [name for name, level in levels.items() if not level.comparable] == ["22 epochs", "40 epochs"]
    assert levels["average 0.5"].train.schedule == "constant" and levels["batch 16"].train.schedule == "cosine"


@pytest.mark.parametrize(
    ("changed", "option"),
    [
        ({"draws": 2}, "--draws"),
        ({"members": 2}, "--members"),
        ({"ensembles": (1,)}, "--ensembles"),
        ({"batches": (16, 16)}, "--batches"),
        ({"ensembles": (2, 2)}, "--ensembles"),
        ({"ensembles": (10**6,)}, "--ensembles"),
        ({"averages": (0.5, 0.5)}, "--averages"),
        ({"controls": (0.99,)}, "--controls"),
        ({"controls": (1e-8,)}, "--controls"),
        ({"averages": (1.5,)}, "--averages"),
        ({"controls": (1.0,)}, "--controls"),
        ({"others": ("decay",)}, "--others"),
        ({"points": 2}, "--points"),
        ({"methods": ("sisa",)}, "--methods"),
        ({"train": dataclasses.replace(Config().train, schedule="constant")}, "--train.schedule"),
    ],
)
def test_a_mistake_names_its_option(changed, option):
    with pytest.raises(ArgumentError) as raised:
        dataclasses.replace(Config(), **changed).check()
    assert raised.value.argument == option


def test_every_measure_has_a_name():
    measured = {"memory/finetune", "damage/finetune", *report.MEASURES}
    assert report.measures(["finetune"]).keys() == measured
    assert {*report.LOSSES, *report.SPREADS, *report.DRAWN} <= report.MEASURES.keys()
