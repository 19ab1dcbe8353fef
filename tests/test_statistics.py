"""Intervals and variances over crossed originals and forget sets: literal restatements, coverage, known answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t, ttest_1samp

from unlearn_jax.metrics import statistics


def crossed(rng, originals, sets, seeds=1, spreads=(1.0, 1.0, 1.0, 1.0), repeats=()):
    """Values of the random-effects model, with standard deviations of original, set, interaction and seed."""
    original, forget_set, both, seed = spreads
    return (
        original * rng.normal(size=(*repeats, originals, 1, 1))
        + forget_set * rng.normal(size=(*repeats, 1, sets, 1))
        + both * rng.normal(size=(*repeats, originals, sets, 1))
        + seed * rng.normal(size=(*repeats, originals, sets, seeds))
    )


def test_one_set_is_the_t_interval_over_originals():
    values = np.random.default_rng(0).normal(0.7, 1, 12)
    found = statistics.crossed_mean(values[:, None])
    expected = ttest_1samp(values, 0)
    low, high = expected.confidence_interval(0.95)
    assert found == pytest.approx((values.mean(), low, high, expected.pvalue))
    assert found.interval == found[:3] and found.interval.value == found.mean


@given(originals=st.integers(2, 6), sets=st.integers(2, 5), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_interval_is_the_literal_analysis_of_variance(originals, sets, seed):
    values = crossed(np.random.default_rng(seed), originals, sets)[..., 0]
    mean = values.mean()
    ms_o = sets * sum((values[i].mean() - mean) ** 2 for i in range(originals)) / (originals - 1)
    ms_s = originals * sum((values[:, j].mean() - mean) ** 2 for j in range(sets)) / (sets - 1)
    ms_os = sum(
        (values[i, j] - values[i].mean() - values[:, j].mean() + mean) ** 2 for i in range(originals) for j in range(sets)
    ) / ((originals - 1) * (sets - 1))
    a, b, c = max(ms_o, ms_os), max(ms_s, ms_os), -ms_os
    degrees = (a + b + c) ** 2 / (a**2 / (originals - 1) + b**2 / (sets - 1) + c**2 / ((originals - 1) * (sets - 1)))
    reach = t.ppf(0.975, degrees) * np.sqrt((a + b + c) / (originals * sets))
    found = statistics.crossed_mean(values)
    assert (found.mean, found.low, found.high) == pytest.approx((mean, mean - reach, mean + reach))
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


@pytest.mark.parametrize("spreads", [(1, 1, 1, 0), (0, 1, 0.3, 0), (1, 0, 0.3, 0), (0, 0, 1, 0), (0.1, 2, 0.1, 0)])
def test_95_of_100_intervals_or_more_hold_the_truth_and_a_bootstrap_of_few_sets_does_not(spreads):
    rng = np.random.default_rng(1)
    repeats, originals, sets = 600, 8, 5
    values = crossed(rng, originals, sets, 1, spreads, (repeats,))[..., 0]
    holds = [found.low <= 0 <= found.high for found in map(statistics.crossed_mean, values)]
    assert np.mean(holds) > 0.925
    assert np.mean(holds) < 0.985 or not spreads[1]  # wide where there are no sets to speak of
    if spreads == (0.1, 2, 0.1, 0):  # what metrics.md began with: sets, then members
        rows, columns = rng.integers(0, originals, (200, originals)), rng.integers(0, sets, (200, sets))
        means = values[:, rows[:, :, None], columns[:, None, :]].mean((2, 3))
        low, high = np.quantile(means, (0.025, 0.975), axis=1)
        assert np.mean((low <= 0) & (high >= 0)) < 0.9


def test_no_repetition_gives_no_interval_and_no_spread_none_either():
    assert statistics.crossed_mean(np.array([[2.0]]))[:3] == (2, -np.inf, np.inf)
    assert statistics.crossed_mean(np.full((3, 2), 2.0)) == (2, 2, 2, 0)
    assert statistics.crossed_mean(np.zeros((3, 2))).p == 1
    with pytest.raises(ValueError, match="finite"):
        statistics.crossed_mean(np.array([[np.nan, 1.0]]))


def test_components_find_the_variances_that_went_in():
    rng = np.random.default_rng(2)
    spreads = (2.0, 1.0, 0.5, 0.8)
    found = np.array([statistics.components(each)[:4] for each in crossed(rng, 10, 8, 3, spreads, (300,))])
    assert found.mean(0) == pytest.approx(np.square(spreads), rel=0.15)


def test_the_error_of_a_component_is_its_spread_over_other_originals():
    found = [statistics.components(each) for each in crossed(np.random.default_rng(3), 24, 4, 2, (2, 1, 0.5, 0.8), (100,))]
    spread = np.std([each.original for each in found])
    assert np.mean([each.errors[0] for each in found]) == pytest.approx(spread, rel=0.3)


def test_components_name_only_what_the_design_can_tell():
    rng = np.random.default_rng(4)
    one_set = statistics.components(crossed(rng, 6, 1, 3, (0, 0, 0, 1)))
    assert np.isnan([one_set.forget_set, one_set.interaction]).all() and one_set.seed > 0
    one_seed = statistics.components(crossed(rng, 6, 3, 1))
    assert np.isnan(one_seed.seed) and one_seed.interaction > 0
    constant = np.broadcast_to(rng.normal(size=(6, 3, 1)), (6, 3, 2))
    assert statistics.components(constant).seed == 0  # a method without chance
    with pytest.raises(ValueError, match="1 original, expected two or more"):
        statistics.components(np.zeros((1, 3, 2)))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_step_down_procedure(p):
    adjusted = statistics.holm(np.array(p))
    for level in (0.01, 0.05, 0.2):
        rejected = set()
        for step, index in enumerate(np.argsort(p)):
            if p[index] * (len(p) - step) > level:
                break
            rejected.add(int(index))
        assert {int(i) for i in np.flatnonzero(adjusted <= level)} == rejected


def test_pairs_share_their_originals_and_so_small_differences_show():
    rng = np.random.default_rng(5)
    originals = crossed(rng, 8, 3, 1, (5, 2, 0, 0))[..., 0]
    parts = {name: originals + shift + 0.1 * rng.normal(size=(8, 3)) for name, shift in (("a", 0.0), ("b", 0.3), ("c", 0.3))}
    parts["c"][2, 1] = np.nan
    found = {(each.first, each.second): each for each in statistics.comparisons(parts)}
    assert set(found) == {("a", "b"), ("a", "c"), ("b", "c")}
    assert found["a", "b"].adjusted_p < 0.05 and found["b", "c"].adjusted_p > 0.05
    assert found["a", "b"].difference == statistics.crossed_mean(parts["a"] - parts["b"])
    assert found["a", "c"].difference == statistics.crossed_mean(np.delete(parts["a"] - parts["c"], 2, axis=0))
    expected = statistics.holm(np.array([each.difference.p for each in found.values()]))
    assert [each.adjusted_p for each in found.values()] == pytest.approx(expected)


def test_pairs_of_which_nothing_is_left_are_left_out():
    parts = {"a": np.zeros((2, 1)), "b": np.full((2, 1), np.nan), "c": np.ones((2, 1))}
    assert [(each.first, each.second) for each in statistics.comparisons(parts)] == [("a", "c")]
