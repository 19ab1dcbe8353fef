"""Memorisation at image scale: the pool that grows and is shared, the study from end to end, and what a person sees."""

import csv
import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from experiments.memorisation import report
from experiments.memorisation import study as experiment
from experiments.memorisation.options import Config, smoke
from unlearn_jax import influence
from unlearn_jax.bench import pools as shared
from unlearn_jax.bench.forget_set import ranking
from unlearn_jax.bench.main_options import Config as Unlearning
from unlearn_jax.bench.option_groups import Forget, Train
from unlearn_jax.bench.pools import train_on_halves
from unlearn_jax.bench.setting import prepare
from unlearn_jax.errors import ArgumentError
from unlearn_jax.metrics import memorisation, scaled_logits
from unlearn_jax.report.drawing import save
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import predict
from unlearn_jax.training.pools import Pool
from unlearn_jax.types import Interval, Variables

MEMBERS, EXAMPLES, TESTED, TARGETS = 64, 120, 40, 10
TRAIN = Train(epochs=25, batch_size=30)
SMALL = dataclasses.replace(
    smoke(Config()), train_size=EXAMPLES, label_noise=0.15, width=48, test_size=TESTED, targets=TARGETS, shown=2, train=TRAIN
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def config(cache):
    return dataclasses.replace(SMALL, cache=cache)


@pytest.fixture(scope="module")
def begun(config):
    """The pool of half as many models, which is there first."""
    return train_on_halves(config, prepare(config), MEMBERS // 2)


@pytest.fixture(scope="module")
def finished(begun, config, tmp_path_factory):
    folder = Run(tmp_path_factory.mktemp("run"))
    experiment.run(config, folder)
    return folder.folder


def columns(path):
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) if row[name] else np.nan for row in rows]) for name in rows[0] if name != "split"}


def test_a_pool_on_halves_begins_with_the_smaller_one(begun, finished, config, cache):
    whole = train_on_halves(config, prepare(config), MEMBERS)
    np.testing.assert_array_equal(whole.masks[: MEMBERS // 2], begun.masks)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[: MEMBERS // 2], b), whole.variables, begun.variables)
    for half in np.split(whole.masks, 2):
        assert (half.sum(0) == MEMBERS // 4).all() and (half.sum(1) == EXAMPLES // 2).all()
    assert not np.array_equal(*np.split(whole.masks, 2))
    assert len(list((cache / "pools").iterdir())) == 1


def test_halves_of_another_last_block_are_another_pool(config, monkeypatch):
    asked = {}

    def pool(config, setting, problem, masks, role, members):
        asked[members] = (setting.identity, masks)
        return Pool(Variables({"w": np.zeros(members)}, {}), (1,), 0.0, 0.0)

    monkeypatch.setattr(shared, "pool", pool)
    setting = prepare(config)
    found = {models: train_on_halves(config, setting, models) for models in (8, 12, 32, 40, 64)}
    same = [[asked[a][0] == asked[b][0] for b in asked] for a in asked]
    assert same == [[a % 32 == b % 32 for b in asked] for a in asked]
    np.testing.assert_array_equal(asked[40][1][:32], asked[64][1][:32])
    assert len(found[8].variables.params["w"]) == 7  # the second had diverged
    np.testing.assert_array_equal(found[8].masks, np.delete(asked[8][1], 1, axis=0))


def test_forget_sets_are_ranked_by_the_same_pool(finished, config, cache):
    asked = Unlearning(
        **{field.name: getattr(config, field.name) for field in dataclasses.fields(config) if hasattr(Unlearning(), field.name)}
    )
    asked = dataclasses.replace(asked, exp="unlearning", members=4, forget=Forget(kind="memorised", models=MEMBERS))
    before = sorted((cache / "pools").rglob("*"))
    scores = ranking(asked, prepare(asked), "memorised")
    assert sorted((cache / "pools").rglob("*")) == before
    np.testing.assert_allclose(scores, columns(finished / "memorisation.csv")["memorisation"])


def test_the_tables_hold_what_the_models_say(finished, config):
    setting = prepare(config)
    masks, variables = train_on_halves(config, setting, MEMBERS)
    data = setting.data
    logits = predict(setting.problem.model, variables, data.train.images)
    right, table = logits.argmax(-1) == data.train.labels, columns(finished / "memorisation.csv")
    np.testing.assert_array_equal(table["row"], data.published.train)
    assert len(table["row"]) == EXAMPLES and sorted(table["rank"]) == list(range(1, EXAMPLES + 1))
    found = memorisation(right, masks)
    np.testing.assert_allclose(table["memorisation"], found.score)
    np.testing.assert_allclose(table["standard_error"], found.error)
    for name, part in (("by_first_half", slice(MEMBERS // 2)), ("by_second_half", slice(MEMBERS // 2, None))):
        np.testing.assert_allclose(table[name], memorisation(right[part], masks[part]).score)
    np.testing.assert_allclose(table["right_when_seen"] - table["right_when_unseen"], found.score)
    margins = scaled_logits(logits, data.train.labels)
    np.testing.assert_allclose(table["own_margin"], np.diagonal(influence.subset_influence(masks, margins).score), atol=1e-9)
    wrong = table["label"] != table["clean_label"]
    assert wrong.sum() == round(0.15 * EXAMPLES)
    assert table["memorisation"][wrong].mean() > table["memorisation"][~wrong].mean() + 0.2
    assert table["datamodel_own_weight"][~np.isnan(table["datamodel_own_weight"])].size == TARGETS

    pairs = columns(finished / "pairs.csv") if len((finished / "pairs.csv").read_text().splitlines()) > 1 else {"influence": []}
    facts = json.loads((finished / "results.json").read_text())
    assert facts["pairs"] == len(pairs["influence"]) == int(table["pairs_beyond_chance"].sum())
    assert facts["models"] == [48, 16] and facts["memorisation"]["wrong"]["mean"] > facts["memorisation"]["right"]["mean"]
    first, second = table["by_first_half"], table["by_second_half"]
    assert facts["reliability"]["memorisation"][0] == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert columns(finished / "datamodels.csv")["weights"].size == 2 * TARGETS
    names = {path.name for path in (finished / "figures").iterdir()}
    assert names == {f"{name}.{kind}" for name in ("examples", "pairs", "memorisation", "datamodels") for kind in ("svg", "png")}


def a_study(wrong=True, channels=3):
    """A pair that belongs together, and one that stands against each other."""
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3
    clean = np.where((np.arange(30) < 4) & wrong, (labels + 1) % 3, labels)
    association = rng.normal(0, 0.1, (30, 8)).clip(-0.3, 0.3)
    association[2, 5], association[7, 1] = 0.8, -0.6
    score = rng.uniform(-0.1, 1, 30)
    study = report.Results(
        title="title",
        names=("a", "b", "c"),
        rows=100 + 2 * np.arange(30),
        images=rng.normal(size=(30, 6, 6, channels)),
        labels=labels,
        clean_labels=clean,
        test_rows=np.arange(8) * 3,
        test_images=rng.normal(size=(8, 6, 6, channels)),
        test_labels=np.arange(8) % 3,
        memorisation=score,
        error=np.full(30, 0.1),
        halves=np.stack([score, score]),
        exposure=score,
        own_margin=score,
        right_in=np.full(30, 1.0),
        right_out=1 - score,
        test_right=np.linspace(0, 1, 8),
        influence=association / 2,
        influence_error=np.full((30, 8), 0.05),
        association=association,
        chance=np.array([0.35, 0.4]),
        reliability={"memorisation": (0.9, 0.95), "test answers": (0.1, 0.2)},
    )
    weights = np.zeros((30, 4))
    fitted = report.Fitted(
        rows=np.array([1, 20]),
        test_rows=np.array([0, 3]),
        weights=weights,
        mean_differences=weights,
        own_weights=np.array([0.5, 0.0]),
        agreement={"its memorisation": Interval(0.4, -1.0, 1.0)},
        held_out={"datamodel": np.array([0.5, 0.1, 0.3, 0.2]), "difference of means": np.array([0.4, 0.2, 0.1, 0.0])},
        seen=12,
        unseen=4,
    )
    return study, fitted


def test_only_what_no_shuffle_reaches_is_a_pair():
    study, fitted = a_study()
    names, rows = report.pairs(study)
    found = [dict(zip(names, row, strict=True)) for row in rows]
    assert [(row["train_row"], row["test_row"], row["influence"]) for row in found] == [(104, 15, 0.4), (114, 3, -0.3)]
    assert [row[:2] for row in report.targets(study, fitted)[1]] == [["train", 102], ["train", 140], ["test", 0], ["test", 3]]
    facts = report.facts(study, fitted)
    assert (facts["pairs"], facts["pairs_helping"], facts["pairs_same_class"]) == (2, 1, int(study.labels[2] == 5 % 3) + 1)
    assert facts["held_out_correlation"]["datamodel, train"][0] == pytest.approx(0.3)
    assert "2 correlate beyond ±0.40" in report.summary(study, fitted)


@pytest.mark.parametrize(("wrong", "channels"), [(True, 1), (False, 3)])
def test_pictures_say_what_they_show(wrong, channels, tmp_path):
    study, fitted = a_study(wrong, channels)
    pictures = report.pictures(study, 4)
    titles = [axes.get_title() for axes in pictures.axes]
    order = np.argsort(-study.memorisation)
    most = next(row for row in order if not study.wrong[row])
    assert len(titles) == 4 * (4 if wrong else 3) and titles[0].startswith(study.names[study.labels[most]])
    assert any("(" in title for title in titles) == wrong
    pairs = report.side_by_side(study, 4)
    shown = [axes for axes in pairs.axes if axes.get_images()]
    assert f"memorised {study.memorisation[2]:.2f}" in shown[0].get_title() and "right +0.40 ± 0.05" in shown[1].get_title()
    assert sum("right -0.30" in axes.get_title() for axes in shown) == 1
    assert len(report.distributions(study).axes) == len(report.agreement(study, fitted).axes) == 3
    if channels == 3:  # the study draws the rest
        save(pictures, Run(tmp_path), "pictures")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"members": 96}, "--members 96: expected a multiple of 64"),
        ({"test_size": 1}, "--test-size 1: "),
        ({"shuffles": 0}, "--shuffles 0: "),
        ({"targets": 1}, "--targets 1: "),
        ({"shown": 21}, "--shown 21: "),
    ],
)
def test_what_cannot_be_meant_is_one_line(options, said):
    with pytest.raises(ArgumentError, match=re.escape(said)):
        Config(**options).check()
