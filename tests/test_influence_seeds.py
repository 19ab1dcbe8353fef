"""What of an influence belongs to the point: the decomposition against known models, and the study in small."""

import csv

import numpy as np
import pytest
from in_process import run_in_process
from scipy.stats import spearmanr

from experiments.influence_seeds import study
from experiments.influence_seeds.options import DEFAULT, Config
from unlearn_jax.errors import ArgumentError
from unlearn_jax.metrics.changes import point_share, seeds_for, share_of_mean
from unlearn_jax.metrics.statistics import components


def drawn(rng, seeds, points, point, rest, level=3.0):
    """A random-effects model: a level of each seed, an effect of each point, and what no other seed repeats."""
    effects = point**0.5 * rng.normal(size=points)
    return level * rng.normal(size=(seeds, 1)) + effects + rest**0.5 * rng.normal(size=(seeds, points))


@pytest.mark.parametrize("share", [0.0, 0.27, 0.8])
def test_the_share_of_the_point_is_that_of_the_model_it_was_drawn_from(share, monkeypatch):
    rng = np.random.default_rng(0)
    found = [point_share(drawn(rng, 8, 60, share, 1 - share)) for _ in range(200)]
    assert np.mean(found) == pytest.approx(share, abs=0.02)
    monkeypatch.setattr(study, "RESAMPLES", 60)
    intervals = [study.over_both(point_share, drawn(rng, 12, 60, share, 1 - share), rng).interval for _ in range(60)]
    covered = np.mean([each.low <= share <= each.high for each in intervals])
    assert covered >= 0.9 and np.mean([each.high - each.low for each in intervals]) < 0.45


def test_the_share_is_that_of_the_crossed_components_and_has_no_unit():
    rng = np.random.default_rng(1)
    values = drawn(rng, 5, 40, 0.5, 0.5)
    split = components(values.T[..., None])
    assert point_share(values) == pytest.approx(split.original / (split.original + split.interaction))
    for scale in (1e-200, -1e200):
        assert point_share(scale * values) == pytest.approx(point_share(values))
    assert point_share(np.stack([values[0], values[0] + 7])) == pytest.approx(1)  # a seed's level does not count
    ranks = np.argsort(np.argsort(values)).astype(float)
    pairs = [spearmanr(values[i], values[j])[0] for i in range(5) for j in range(i)]
    assert point_share(ranks) == pytest.approx(np.mean(pairs))


def test_the_mean_over_seeds_is_as_reliable_as_spearman_and_brown_say():
    rng = np.random.default_rng(2)
    values = drawn(rng, 8, 20_000, 0.3, 0.7)
    for count in (1, 2, 4):
        found = np.corrcoef(values[:count].mean(0), values[4 : 4 + count].mean(0))[0, 1]
        assert found == pytest.approx(share_of_mean(0.3, count), abs=0.02)
    assert share_of_mean(0.27, 1) == pytest.approx(0.27) and share_of_mean(1.0, 5) == 1
    for wanted in (0.3, 0.9):
        assert seeds_for(share_of_mean(0.2, 3), wanted) == pytest.approx(seeds_for(0.2, wanted) / 3)
    assert seeds_for(0.5, 0.9) == pytest.approx(9) and seeds_for(-0.1, 0.9) == np.inf and seeds_for(1.0, 0.9) == 0


@pytest.mark.parametrize("values", [np.ones((3, 4)), np.ones((1, 4)), np.arange(3.0)[:, None]])
def test_nothing_to_split_is_said(values):
    with pytest.raises(ValueError, match=r"^values: "):
        point_share(values)
    with pytest.raises(ValueError, match=r"^share: "):
        share_of_mean(-0.5, 3)


def test_controls_of_the_study_find_what_is_known():
    rng = np.random.default_rng(3)
    values = drawn(rng, 6, 200, 0.6, 0.4)
    ranks = np.argsort(np.argsort(values)).astype(float)
    null = study.permuted(ranks, rng)
    assert abs(null.value) < 0.01 and null.low < 0 < null.high < point_share(ranks)
    noisy = np.stack([values[:3], values[:3] + 0.1 * rng.normal(size=(3, 200))])
    assert study.float_share(noisy) == pytest.approx(0.005, abs=0.002)
    assert study.float_share(np.stack([values[:3]] * 2)) == pytest.approx(0, abs=1e-12)
    others = [spearmanr(values[i], np.delete(values, i, 0).mean(0))[0] for i in range(6)]
    assert study.one_with_others(values) == pytest.approx(np.mean(others))
    assert study.between_halves(values, 3, rng) == pytest.approx(share_of_mean(point_share(values), 3), abs=0.06)


def test_own_effects_are_with_the_point_minus_without():
    seen, unseen = np.array([2.0, -1.0]), np.array([0.0, -1.0])
    found = study.effects(seen, unseen)
    np.testing.assert_allclose(found["own_margin"], [2, 0])
    np.testing.assert_allclose(found["own_loss"], [np.log(2) - np.log(1 + np.exp(-2)), 0])
    np.testing.assert_allclose(found["memorisation"], [1 / (1 + np.exp(-2)) - 0.5, 0])


def test_models_on_halves_estimate_what_a_point_does_for_itself():
    rng = np.random.default_rng(4)
    masks = np.argsort(rng.random((64, 10)), axis=0) < 32
    gain = np.linspace(0, 3, 10)
    margins = np.hstack([masks * gain - 1, np.zeros((64, 4))])
    found = study.estimates_of_halves({"masks": masks, "margins": margins}, "own_margin", 10)
    assert [*found] == [4.0]  # in half of 40 models
    np.testing.assert_allclose(found[4.0], gain, atol=1e-9)
    assert study.estimates_of_halves({"masks": masks, "margins": margins}, "displacement", 10) == {}


@pytest.mark.parametrize(
    ("changed", "option"),
    [({"seeds": 5}, "--seeds"), ({"reordered": 13}, "--reordered"), ({"circumstances": ("far",)}, "--circumstances")],
)
def test_a_mistake_names_its_option(changed, option):
    with pytest.raises(ArgumentError) as raised:
        Config(**changed).check()
    assert raised.value.argument == option


def test_circumstances_change_place_and_labels_alone():
    config = Config()
    assert config.circumstance_names() == list(DEFAULT) and len(DEFAULT) == 5
    far = config.in_circumstance("apart+wrong")
    assert (far.discs.separation, far.label_noise) == (10, 0.1) and config.in_circumstance("digits").label_noise == 0


def test_the_study_writes_its_tables_and_goes_on(tmp_path, monkeypatch):
    for name, number in (("RESAMPLES", 50), ("PERMUTATIONS", 50), ("SPLITS", 3)):
        monkeypatch.setattr(study, name, number)
    words = ("--exp", "influence_seeds", "--smoke", "--device", "cpu", "--out", tmp_path / "run", "--cache", tmp_path / "cache")
    run_in_process(*words, "--train-size", "12", "--images", "32")
    with (tmp_path / "run/shares.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["circumstance"], row["measure"]) for row in rows if row["circumstance"] == "digits"] == [
        ("digits", name) for name in ("own_margin", "own_loss", "memorisation", "test_margins")
    ]
    assert {row["measure"] for row in rows if row["circumstance"] == "overlap+wrong"} >= {"displacement"}
    for row in rows:
        assert float(row["same_seed"]) > 0.99 and float(row["float_raw"]) < 1e-3  # the same seed twice is the same
        assert float(row["permuted_low"]) < 0 < float(row["permuted_high"])
        assert float(row["ranks_points_low"]) <= float(row["ranks_points_high"])
    costs = list(csv.DictReader((tmp_path / "run/cost.csv").read_text().splitlines()))
    assert {row["kind"] for row in costs if row["circumstance"] == "digits"} == {"leave-one-out", "random halves"}
    assert len(list(csv.reader((tmp_path / "run/points.csv").read_text().splitlines()))) == 1 + 12 + 32
    assert (tmp_path / "run/figures/shares.svg").exists() and "| digits |" in (tmp_path / "run/summary.md").read_text()
    monkeypatch.setattr(study, "leave_out", lambda *_, **__: pytest.fail("done before"))
    monkeypatch.setattr(study, "train_on_halves", lambda *_: pytest.fail("done before"))
    run_in_process(*words, "--train-size", "12", "--images", "32")
