"""Calibrated attacks by several characteristics: the likelihood against SciPy, what can be gained, and the study in small."""

import csv

import numpy as np
import pytest
from in_process import run_in_process
from scipy.stats import multivariate_normal, norm

from experiments.calibrated_attacks import report, study
from experiments.calibrated_attacks.options import Config
from unlearn_jax.errors import ArgumentError
from unlearn_jax.metrics import lira, resampled_attack, vector_ratios
from unlearn_jax.metrics.likelihood import RIDGE, Gaussians

RNG = np.random.default_rng(0)


def population(members=24, targets=9, columns=3, apart=1.0, seed=0):
    """Columns with a mean and a scale of their own for every target; the last one is higher where it was trained on."""
    rng = np.random.default_rng(seed)
    saw = np.argsort(rng.random((members, targets)), axis=0) < members // 2
    values = rng.normal(size=(members, targets, columns))
    values[..., 1:] += values[..., :1]  # correlated
    values[..., -1] += apart * saw
    return 5 * rng.normal(size=(targets, columns)) + np.exp(rng.normal(size=(targets, columns))) * values, saw


def test_log_densities_are_those_of_scipy():
    root = RNG.normal(size=(3, 3))
    covariance = root @ root.T + np.eye(3)
    spread = np.sqrt(np.diag(covariance))
    scales = np.exp(RNG.normal(size=(4, 3)))
    fitted = Gaussians(RNG.normal(size=(4, 3)), scales**2, covariance / np.outer(spread, spread))
    values = RNG.normal(size=(5, 4, 3))
    for target in range(4):
        whole = np.outer(scales[target], scales[target]) * fitted.correlation
        expected = multivariate_normal(fitted.mean[target], whole).logpdf(values[:, target])
        np.testing.assert_allclose(fitted.log_densities(values)[:, target], expected)


def test_vector_ratios_are_differences_of_fitted_densities():
    values, saw = population()
    shadows, attacked = np.split(values, [18])
    found = vector_ratios(shadows, saw[:18], attacked)
    expected = np.zeros_like(found)
    for sign, side in ((1, saw[:18]), (-1, ~saw[:18])):
        samples = [shadows[side[:, target], target] for target in range(9)]
        means, deviations = np.array([each.mean(0) for each in samples]), np.array([each.std(0, ddof=1) for each in samples])
        residuals = np.concatenate([(each - mean) / sd for each, mean, sd in zip(samples, means, deviations, strict=True)])
        squares = residuals.T @ residuals
        correlation = squares / np.sqrt(np.outer(np.diag(squares), np.diag(squares)))
        correlation = (1 - RIDGE) * correlation + RIDGE * np.eye(3)
        for target in range(9):
            whole = np.outer(deviations[target], deviations[target]) * correlation
            expected[:, target] += sign * multivariate_normal(means[target], whole).logpdf(attacked[:, target])
    np.testing.assert_allclose(found, expected)
    moved = vector_ratios(3 - 1e3 * shadows, saw[:18], 3 - 1e3 * attacked)
    np.testing.assert_allclose(moved, found, rtol=1e-6)


def test_one_column_is_the_attack_by_the_loss():
    values, saw = population(columns=1)
    found = vector_ratios(values[:-1], saw[:-1], values[-1:])[0]
    for target in range(9):
        sides = [values[:-1, target, 0][saw[:-1, target] == kind] for kind in (True, False)]
        one, other = (norm(each.mean(), each.std(ddof=1)).logpdf(values[-1, target, 0]) for each in sides)
        assert found[target] == pytest.approx(one - other)
    flat = values.copy()
    flat[...] = 1.0
    np.testing.assert_array_equal(vector_ratios(flat[:-1], saw[:-1], flat[-1:]), 0.0)  # what never varies says nothing


def test_a_target_needs_three_shadows_on_each_side():
    values, saw = population()
    saw[:, 2] = False
    with pytest.raises(ValueError, match=r"^trained_on: each target needs at least 3"):
        vector_ratios(values, saw, values)


def test_weightings_of_members_are_the_attack_on_those_members():
    phi, saw = population(members=30, columns=1)
    found = lira(phi[..., 0], saw)
    some = np.zeros((2, 30))
    some[0] = 1
    some[1, :12] = 1
    draws = resampled_attack(found.ratios, saw, some)
    np.testing.assert_allclose(draws[0], [found.auc.value, found.tpr_at_1.value])
    np.testing.assert_allclose(draws[1, 0], resampled_attack(found.ratios[:12], saw[:12], np.ones((1, 12)))[0, 0])


def columns(apart, members=64, targets=40, seed=0):
    """A loss that says nothing, a second column that does, and a third that does not."""
    values, saw = population(members, targets, 3, apart, seed)
    return {report.LOSS: values[..., :1], "told": values[..., 2:], "noise": values[..., 1:2]}, saw


def test_scores_are_held_out_and_find_what_there_is_to_find():
    sides = [study.Side(np.arange(32, 64), np.arange(32)), study.Side(np.arange(32), np.arange(32, 64))]
    ones = np.ones((1, 64))
    known, saw = columns(apart=2.0)
    scores = study.score_all(known, saw, sides, seed=0)
    auc = {key: resampled_attack(score, saw, ones)[0, 0] for key, score in scores.items()}
    calibrated = {key[1:]: value for key, value in auc.items() if key[0] == report.CALIBRATED}
    assert abs(calibrated[report.LOSS, report.ALONE] - 0.5) < 0.05 and calibrated["told", report.ALONE] > 0.8
    assert calibrated["told", report.BESIDE] > calibrated["told", report.ALONE] + 0.03  # the loss explains its noise
    assert calibrated["told", report.WEIGHED] > 0.8 and abs(calibrated["noise", report.WEIGHED] - 0.5) < 0.05
    assert auc[report.UNCALIBRATED, "told", report.ALONE] < calibrated["told", report.ALONE] - 0.1  # every target differs
    nothing, saw = columns(apart=0.0)
    for score in study.score_all(nothing, saw, sides, seed=0).values():
        assert abs(resampled_attack(score, saw, ones)[0, 0] - 0.5) < 0.05  # no attacked model was in its own fit


def test_distances_are_to_the_class_means_of_the_anchors():
    anchors, labels = np.array([[0.0, 0], [2, 0], [10, 0], [12, 0]]), np.array([0, 0, 1, 1])
    found = study.distances_to_classes(np.array([[1.0, 3], [11, 4]]), anchors, np.array([0, 0]), labels)
    np.testing.assert_allclose(np.exp(found), [[3, np.hypot(10, 3)], [np.hypot(10, 4), 4]])


@pytest.mark.parametrize(("changed", "option"), [({"shadows": 80}, "--shadows"), ({"members": 10}, "--members")])
def test_a_mistake_names_its_option(changed, option):
    with pytest.raises(ArgumentError) as raised:
        Config(**changed).check()
    assert raised.value.argument == option


def test_the_study_writes_its_table(tmp_path):
    words = (
        "--exp",
        "calibrated_attacks",
        "--smoke",
        "--device",
        "cpu",
        "--out",
        tmp_path / "run",
        "--cache",
        tmp_path / "cache",
    )
    run_in_process(*words)
    rows = list(csv.DictReader((tmp_path / "run/attacks.csv").read_text().splitlines()))
    kinds = {(row["subject"], row["knows"]) for row in rows}
    assert kinds >= {("halves", "all"), ("original", "originals"), ("finetune", "originals"), ("finetune", "the method")}
    assert kinds >= {("finetune", "the method, unseen examples"), ("original", "originals, unseen examples")}
    halves = [row for row in rows if (row["subject"], row["knows"]) == ("halves", "all")]
    assert len(halves) == (8 + 7 + 1 + 8) + (8 + 7 + 1)  # calibrated: alone, joint, all, weighed; uncalibrated
    for row in halves:
        assert (row["null_auc"] != "") == (row["calibration"] == "calibrated")
        if row["characteristic"] == "loss":
            assert float(row["tpr_gain"]) == float(row["auc_gain"]) == 0
    assert (tmp_path / "run/figures/gains.svg").exists() and "## finetune" in (tmp_path / "run/summary.md").read_text()
