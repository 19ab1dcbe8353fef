"""Measures of an estimate of influence, against literal restatements and known answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from unlearn_jax.metrics.attribution import interval, linear_datamodelling_score, pearson, screening, spearman, top_recall


def drawn(seed=0, points=30, targets=3):
    rng = np.random.default_rng(seed)
    exact = rng.normal(size=(points, targets)) ** 3
    return exact + rng.normal(size=(points, targets)), exact


@pytest.mark.parametrize(("measure", "literal"), [(pearson, stats.pearsonr), (spearman, stats.spearmanr)])
def test_correlations_are_the_means_over_targets(measure, literal):
    estimate, exact = drawn()
    estimate[:4] = 0.0  # ties
    truth = np.mean([literal(a, b)[0] for a, b in zip(estimate.T, exact.T, strict=True)])
    np.testing.assert_allclose(measure(estimate, exact), truth)
    others = drawn(1)
    both = measure(np.stack([estimate, others[0]]), np.stack([exact, others[1]]))
    np.testing.assert_allclose(both, [truth, measure(*others)])


def test_an_estimate_that_says_nothing_about_a_target_has_no_correlation_with_it():
    estimate, exact = drawn(targets=2)
    estimate[:, 1] = 7.0
    np.testing.assert_allclose(pearson(estimate, exact), stats.pearsonr(estimate[:, 0], exact[:, 0])[0] / 2)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(1e-200, 1e100), st.booleans())
def test_units_do_not_count_and_signs_do(seed, unit, other_sign):
    estimate, exact = drawn(seed)
    sign = -1 if other_sign else 1
    for measure in (pearson, spearman):
        np.testing.assert_allclose(measure(sign * unit * estimate, exact), sign * measure(estimate, exact), atol=1e-9)
    assert top_recall(sign * unit * estimate, exact, 5) == top_recall(estimate, exact, 5)


def test_recall_is_the_share_of_what_is_looked_for():
    estimate, exact = drawn()
    literal = []
    for a, b in zip(estimate.T, exact.T, strict=True):
        best = [set(sorted(range(30), key=lambda i, each=each: -abs(each[i]))[:6]) for each in (a, b)]
        literal.append(len(best[0] & best[1]) / 6)
    np.testing.assert_allclose(top_recall(estimate, exact, 6), np.mean(literal))
    np.testing.assert_allclose(top_recall(np.stack([estimate, exact]), np.stack([exact] * 2), 6), [np.mean(literal), 1.0])
    shuffled = [top_recall(np.random.default_rng(seed).normal(size=exact.shape), exact, 6) for seed in range(100)]
    assert abs(np.mean(shuffled) - 6 / 30) < 0.03


def test_lds_is_one_where_effects_add_up():
    rng = np.random.default_rng(0)
    _, effects = drawn()
    removed = rng.random((40, 30)) < 0.5
    changes = np.array([[sum(effects[i, t] for i in range(30) if row[i]) for t in range(3)] for row in removed])
    np.testing.assert_allclose(linear_datamodelling_score(effects, removed, np.exp(changes)), 1.0)  # only ranks count
    noisy = changes + rng.normal(scale=5, size=changes.shape)
    other = effects + rng.normal(size=effects.shape)
    literal = np.mean([stats.spearmanr(removed @ other[:, t], noisy[:, t])[0] for t in range(3)])
    np.testing.assert_allclose(linear_datamodelling_score(other, removed, noisy), literal)


def test_the_interval_resamples_the_rows_of_all_arrays_together():
    estimate, exact = drawn(points=200, targets=1)
    found = interval(pearson, estimate, exact, resamples=400)
    truth = stats.bootstrap(
        (estimate[:, 0], exact[:, 0]), lambda a, b: stats.pearsonr(a, b)[0], paired=True, vectorized=False, n_resamples=400,
        method="percentile", random_state=0,
    ).confidence_interval  # fmt: skip
    assert found.low < found.value < found.high
    np.testing.assert_allclose(found, [pearson(estimate, exact), truth.low, truth.high], atol=0.03)


def test_screening_finds_what_the_estimate_puts_first():
    exact = np.arange(10.0)[:, None] * np.array([[1.0, -1.0]])
    np.testing.assert_allclose(screening(-3 * exact, exact, 2), [0, 0.5, *[1] * 9])
    np.testing.assert_allclose(screening(1 / (1 + np.abs(exact)), exact, 2), [*[0] * 9, 0.5, 1])  # from the wrong end
    estimate, truth = drawn()
    curve = screening(estimate, truth, 5)
    assert curve[0] == 0 and curve[-1] == 1 and (np.diff(curve) >= 0).all() and len(curve) == 31
    order = np.argsort(-np.abs(estimate).mean(1), kind="stable")
    best = set(np.argsort(-np.abs(truth).mean(1), kind="stable")[:5].tolist())
    assert curve[12] == len(best & set(order[:12].tolist())) / 5
