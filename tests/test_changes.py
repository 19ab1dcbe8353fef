"""What a change of a model is like: literal references, known answers and properties."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_jax.metrics.changes import FURTHEST, carriers, closeness, common_share, gini
from unlearn_jax.metrics.statistics import bootstrap, crossed_mean, jackknife

draws = st.integers(0, 10_000).map(np.random.default_rng)


@settings(max_examples=25, deadline=None)
@given(draws, st.integers(1, 6), st.integers(2, 9))
def test_closeness_is_what_it_says_point_by_point(rng, points, places):
    found, exact = rng.normal(size=(2, points, places))
    ours = closeness(found, exact)
    for i in range(points):
        apart, size, dot, long, far = 0.0, 0.0, 0.0, 0.0, 0.0
        for f, e in zip(found[i], exact[i], strict=True):
            apart, size = apart + abs(f - e), size + abs(e)
            dot, long, far = dot + f * e, long + f * f, far + e * e
        assert ours.ratio[i] == pytest.approx(min(apart / size, FURTHEST))
        assert ours.alignment[i] == pytest.approx(dot / (long * far) ** 0.5)


@settings(max_examples=25, deadline=None)
@given(draws, st.floats(0.1, 5))
def test_along_the_exact_change_only_the_ratio_depends_on_how_far(rng, scale):
    exact = rng.normal(size=(4, 30))
    found = closeness(scale * exact, exact)
    np.testing.assert_allclose(found.alignment, 1.0)
    np.testing.assert_allclose(found.ratio, abs(scale - 1), atol=1e-12)
    np.testing.assert_allclose(closeness(-exact, exact), [[2.0] * 4, [-1.0] * 4])


def test_doing_nothing_and_diverging_have_their_places():
    exact = np.array([[1.0, -2.0], [1.0, -2.0], [0.0, 0.0], [0.0, 0.0], [1e-9, 0.0]])
    found = np.array([[0.0, 0.0], [np.nan, 1.0], [0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    ratio, alignment = closeness(found, exact)
    np.testing.assert_allclose(ratio, [1.0, FURTHEST, 1.0, FURTHEST, FURTHEST])
    np.testing.assert_allclose(alignment, [0.0, 0.0, 0.0, 0.0, -1.0])


@settings(max_examples=25, deadline=None)
@given(draws, st.integers(2, 12))
def test_gini_is_the_mean_difference_over_twice_the_mean(rng, points):
    values = rng.gamma(0.5, size=points) + 1e-3
    literal = sum(abs(a - b) for a, b in itertools.product(values, values)) / (2 * points * values.sum())
    assert gini(values) == pytest.approx(literal)
    assert gini(7 * values) == pytest.approx(literal)
    assert gini(np.ones(points)) == pytest.approx(0.0, abs=1e-12)
    assert gini(np.eye(points)[0]) == pytest.approx((points - 1) / points)


@settings(max_examples=25, deadline=None)
@given(draws, st.integers(2, 9), st.floats(0.05, 1.0))
def test_no_fewer_points_carry_the_share(rng, points, share):
    values = rng.gamma(0.5, size=points) + 1e-3
    total = values.sum()
    enough = [
        size
        for size in range(1, points + 1)
        if any(sum(some) >= share * total * (1 - 1e-9) for some in itertools.combinations(values, size))
    ]
    assert carriers(values, share) == pytest.approx(min(enough) / points)


def test_carriers_of_alike_and_of_one():
    assert carriers(np.ones(10), 0.5) == 0.5 and carriers(np.ones(10), 0.9) == 0.9
    assert carriers(np.eye(4)[2], 0.9) == 0.25


@settings(max_examples=25, deadline=None)
@given(draws, st.integers(2, 5))
def test_the_common_share_is_the_mean_of_pairs_over_the_mean_square(rng, seeds):
    effects = rng.normal(size=(seeds, 3, 4)) + rng.normal(size=(1, 3, 4))
    pairs = [np.sum(a * b) for a, b in itertools.permutations(effects, 2)]
    assert common_share(effects) == pytest.approx(np.mean(pairs) / np.mean([np.sum(a * a) for a in effects]))


def test_the_common_share_of_known_mixtures():
    rng = np.random.default_rng(0)
    own, common = rng.normal(size=(4, 40, 50)), rng.normal(size=(1, 40, 50))
    assert common_share(np.repeat(common, 4, axis=0)) == pytest.approx(1.0)
    assert abs(common_share(own)) < 0.03
    assert common_share(own + 2 * common) == pytest.approx(4 / 5, abs=0.03)
    with pytest.raises(ValueError, match="two"):
        common_share(own[:1])


def test_the_jackknife_of_a_mean_is_the_t_interval():
    values = np.random.default_rng(1).normal(size=6)
    plain = crossed_mean(values[:, None])
    np.testing.assert_allclose(jackknife(lambda some: float(some.mean()), values), [plain.mean, plain.low, plain.high])
    assert jackknife(lambda some: float(some.mean()), values[:2])[1:] == (-np.inf, np.inf)


def test_the_bootstrap_of_a_median_is_about_the_median():
    values = np.append(np.random.default_rng(2).normal(3.0, 1.0, 200), [1e6] * 3)
    middle, low, high = bootstrap(values, 0, statistic=np.median)
    assert middle == np.median(values) and low < 3.0 < high < 3.4
    assert bootstrap(np.arange(5.0), 0)[0] == 2.0
