"""The study of attack features: who stands for non-members, what a gain is, what the tables and figures say, and end to end."""

import csv

import jax
import numpy as np
import pytest
from drawn import cells
from in_process import run_in_process

from experiments.attack_features import report as exposure
from experiments.attack_features.options import FEATURES, Config
from experiments.attack_features.report import Exposure
from experiments.attack_features.study import attack, non_members, run
from experiments.registry import EXPERIMENTS
from unlearn_jax.bench import command_line
from unlearn_jax.data import load
from unlearn_jax.errors import ArgumentError
from unlearn_jax.metrics import ATTACKERS, feature_mias
from unlearn_jax.metrics.null import halves, joint, of_means
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import read_results
from unlearn_jax.runs import Run, open_run

RNG = np.random.default_rng(0)


# Non-members


def test_non_members_have_the_forget_set_s_share_of_wrong_labels():
    data = load("digits", label_noise=0.1)
    fresh = non_members(data, np.arange(10), 0.1, seed=3)
    assert (fresh.labels != data.test.labels).sum() == 36
    np.testing.assert_array_equal(fresh.images, data.test.images)
    assert (non_members(data, np.arange(10), 0.1, seed=4).labels != fresh.labels).any()
    np.testing.assert_array_equal(non_members(data, np.arange(10), 0.0, seed=3).labels, data.test.labels)


def test_non_members_of_a_class_have_its_label():
    data = load("digits", label_noise=0.1)
    fresh = non_members(data, np.full(5, 7), 0.1, seed=0)
    assert set(fresh.labels) == {7}
    shown = [np.flatnonzero((data.test.images == image).all((1, 2, 3)))[0] for image in fresh.images]
    assert 0 < (data.test.labels[shown] != 7).mean() < 0.3  # images of other digits among them


# Attacks


@pytest.fixture(scope="module")
def members():
    """Three models: a loss and a scale of it, a feature that knows more, one that knows nothing."""
    found = []
    for _ in range(3):
        loss, noise = RNG.exponential(size=(150, 1)), RNG.normal(size=(150, 1))
        told = np.where(np.arange(150)[:, None] < 60, 1.0, -1.0) + RNG.normal(size=(150, 1))
        found.append({"loss": loss, "scale": np.exp(-loss), "told": told, "noise": noise})
    return found


def attacked(members, attacker, feature):
    return attack(members, 60, attacker, feature, folds=3, seed=5)


def test_attacks_by_one_feature_are_those_of_the_library(members):
    stacked = np.stack([own["told"] for own in members])
    expected = feature_mias(stacked[:, :60], stacked[:, 60:], "neighbours", 3, 5)
    found = attacked(members, "neighbours", "told")
    for measure in ("auc", "accuracy", "tpr"):
        np.testing.assert_array_equal(found[measure], [getattr(each, measure) for each in expected])
    assert set(found) == set(exposure.MEASURES)
    together = np.stack([np.hstack([own["loss"], own["told"]]) for own in members])
    beside = feature_mias(together[:, :60], together[:, 60:], "neighbours", 3, 5)
    np.testing.assert_array_equal(found["beside"], [each.auc for each in beside])


@pytest.mark.parametrize("attacker", ATTACKERS)
def test_gain_is_what_a_feature_knows_beyond_the_loss(members, attacker):
    asked = ("scale", "told", "noise") if attacker != "logistic" else ("scale", "told", "noise", "loss", "all")
    gain = {feature: attacked(members, attacker, feature)["gain"].mean() for feature in asked}
    assert abs(gain["scale"]) < 0.06 and abs(gain["noise"]) < 0.1
    assert gain["told"] > 0.2
    assert gain.get("loss", 0) == 0 and gain.get("all", 1) > 0.15


# The null of means, and the band over several


def test_the_null_of_a_mean_and_the_band_of_the_largest():
    oracles = {name: RNG.normal(10, 2, 400) for name in "abc"}
    splits = halves(jax.random.key(1), 400, 100, 500)
    found = {name: of_means(values, splits) for name, values in oracles.items()}
    for name, (draws, centre) in found.items():
        literal = [values.mean() + values[a].mean() - values[b].mean() for values in [oracles[name]] for a, b in splits]
        np.testing.assert_allclose(draws, literal)
        assert centre == pytest.approx(oracles[name].mean())
    draws = {name: each for name, (each, _) in found.items()}
    nulls, band = joint(draws, {"a": 10.0})
    assert nulls["a"].mean == 10 and nulls["b"].mean == pytest.approx(draws["b"].mean())
    assert nulls["a"].sd == pytest.approx(2 * np.sqrt(2 / 100), rel=0.15)
    assert 1.96 < band < 3  # of the largest of three


# Tables and figures


def exposures(methods=("original", "finetune", "oracle"), n=12):
    """Originals that show on the margin; oracles are the null."""
    found = []
    for method in methods:
        for attacker in ("logistic", "trees"):
            for feature in ("loss", "margin", "all"):
                for measure in exposure.MEASURES:
                    null = 0.0 if measure.endswith("gain") else 0.5
                    shown = method == "original" and feature == "margin" and measure in exposure.JUDGED
                    z = None if method == "oracle" else 9.0 if shown else 0.2
                    value = null + 0.01 * (z or 0.0)
                    ends = (value - 0.01, value + 0.01, null, 0.01, null - 0.02, null + 0.02, z, 3.0, n, 24)
                    found.append(Exposure("random-0", method, "none", attacker, feature, measure, value, *ends))
    return found


def test_the_table_has_all_measures_of_a_feature_in_a_row():
    columns, rows = exposure.table(exposures())
    assert columns[:6] == ["forget_set", "method", "access", "attacker", "feature", "auc"]
    assert len(rows) == 3 * 2 * 3 and len({tuple(row[:5]) for row in rows}) == len(rows)
    row = dict(zip(columns, rows[1], strict=True))
    assert (row["method"], row["feature"], row["auc_z"], row["gain_z"], row["tpr_z"]) == ("original", "margin", 9.0, 9.0, 0.2)
    assert (row["auc_low"], row["auc_null"], row["n_members"]) == (pytest.approx(0.58), 0.5, 12)


def test_the_summary_names_what_shows_and_only_that():
    original, finetune = exposure.summary(exposures()).splitlines()[1:]
    assert (
        original.startswith("original")
        and "alone: margin (logistic) +0.590 (+0.500), z +9.0; beside the loss: margin (logistic) +0.090" in original
    )
    assert finetune.endswith("alone: nothing; beside the loss: nothing")
    few = exposure.summary(exposures(n=4)).splitlines()[1]  # four models never tell
    assert few.endswith("alone: too few models; beside the loss: too few models")


def test_cells_that_show_are_framed():
    own = [each for each in exposures() if each.attacker == "trees"]
    figure = exposure.heat_map(own, "digits")
    frames = [patch for axes in figure.axes[:2] for patch in axes.patches]
    assert len(frames) == 2  # the originals' margin, alone and beside the loss
    assert [text for text, _ in cells(figure.axes[0]).values()] == ["0", "0", "+.09", "0", "0", "0"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["original", "finetune"]


@pytest.mark.parametrize("methods", [("original", "oracle"), ("scrub", "oracle")])
def test_dots_are_the_originals_or_whoever_comes_first(methods, tmp_path):
    figure = exposure.dots(exposures(methods), "digits")
    alone = figure.axes[0]
    points = [line for line in alone.lines if line.get_marker() == "o"]
    assert [line.get_label() for line in points] == ["logistic", "trees"]
    own = [each.value for each in exposures(methods[:1]) if (each.attacker, each.measure) == ("logistic", "auc")]
    np.testing.assert_allclose(points[0].get_xdata(), own)
    save(figure, Run(tmp_path), "dots")
    assert (tmp_path / "figures/dots.png").stat().st_size > 10_000


# End to end


def test_the_study_end_to_end(tmp_path):
    out, cache = tmp_path / "out", tmp_path / "cache"
    words = ["--exp", "attack_features", "--smoke", "--device", "cpu", "--out", str(out), "--cache", str(cache), "--methods"]
    words += ["original", "--attackers", "logistic", "--features", "margin,gradient_norm,feature_gaussian,held_out_neighbours"]
    done = run_in_process(*words)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    figures = {f"figures/{name}.{kind}" for name in ("features", "features_logistic") for kind in ("png", "svg")}
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert names >= {"config.json", "results.csv", "results.json", "features.csv", *figures}
    rows = read_results(out / "results.csv")
    metrics = {row.metric for row in rows}
    assert {"attack_auc_logistic_loss", "attack_gain_logistic_feature_gaussian", "attack_tpr_logistic_all"} <= metrics
    assert {row.method for row in rows} == {"original"}
    assert all(row.value is not None and row.n_oracles == 4 and row.null_mean is not None for row in rows)
    with (out / "features.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {row["method"] for row in table} == {"oracle", "original"}
    asked = ["loss", "margin", "gradient_norm", "feature_gaussian", "held_out_neighbours", "all"]
    assert [row["feature"] for row in table] == asked * 2

    before = {path: path.stat().st_mtime_ns for path in (out / "attacks").rglob("*.npz")}
    assert len(before) == 2
    config = command_line.parse(words, EXPERIMENTS)
    folder = open_run(out, config.recorded(), extendable=config.immaterial | config.extendable)
    run(config, folder)  # what is there is not attacked again
    assert {path: path.stat().st_mtime_ns for path in (out / "attacks").rglob("*.npz")} == before
    assert read_results(out / "results.csv") == rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": ("colour",)}, "--features colour: there is loss, confidence, .*; or all"),
        ({"attackers": ("forest",)}, "--attackers forest: there is logistic, svc, .*; or all"),
        ({"attackers": ()}, "--attackers: there is"),
        ({"folds": 1}, "--folds 1: expected an integer of at least 2"),
        ({"members": 7, "together": 4}, "--together 4: expected at most 3, half of --members"),
    ],
)
def test_what_cannot_be_asked(options, message):
    with pytest.raises(ArgumentError, match=message):
        Config(**options).check()


def test_the_loss_is_always_among_the_features():
    assert Config(features=("margin", "entropy", "margin")).feature_names() == ["loss", "margin", "entropy"]
    assert Config().feature_names() == list(FEATURES)
