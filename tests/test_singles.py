"""Tests by example and by model, and the unit of z: what a wrong implementation would break."""

import numpy as np
import pytest
from scipy import stats

from unlearn_jax import metrics
from unlearn_jax.metrics import by_example, by_model, catalogue, evaluation
from unlearn_jax.metrics.null import halves, thirds
from unlearn_jax.types import Cube, Labels

RNG = np.random.default_rng(0)


def pools(count, signal=1.0, examples=12, seed=0):
    """Margins of originals (more by `signal` on the first examples), and of retrained models."""
    rng = np.random.default_rng(seed)
    remembered = np.where(np.arange(examples) < 4, signal, 0.0)
    return rng.normal(size=(count, examples)) + remembered, rng.normal(size=(2 * count, examples))


def test_welch_t_and_its_adjusted_p_values_are_those_of_scipy():
    unlearned, oracles = RNG.normal(size=(7, 30)) * 2 + 0.5, RNG.normal(size=(15, 30))
    expected = stats.ttest_ind(unlearned, oracles, equal_var=False)
    found = by_example.example_tests(unlearned, oracles)
    np.testing.assert_allclose(found.t, expected.statistic)
    np.testing.assert_allclose(found.q, stats.false_discovery_control(expected.pvalue))
    five = np.sort(expected.statistic**2)[-5:]
    assert by_example.largest_t(unlearned, oracles) == pytest.approx(np.sqrt(five.mean()))


def test_an_example_on_which_nothing_varies_differs_or_not():
    unlearned, oracles = np.zeros((3, 4)), np.zeros((6, 4))
    unlearned[:, 1], unlearned[:, 2], oracles[:, 2] = 1.0, 0.1 + 0.2, 0.3
    found = by_example.example_tests(unlearned, oracles)
    assert found.t.tolist() == [0, by_example.LARGEST, 0, 0] and found.q[[0, 2, 3]].tolist() == [1, 1, 1] and found.q[1] < 1e-3
    with pytest.raises(ValueError, match=r"^unlearned, oracle: 1 and 6 models"):
        by_example.welch_t(unlearned[:1], oracles)


def literal(model, oracles, originals):
    """The mean of <u - o_j, g - o_k> over all pairs of different oracles, and all originals."""
    different = ~np.eye(len(oracles), dtype=bool)
    products = [(model - oracles) @ (g - oracles).T for g in originals]
    return np.mean([product[different].mean() for product in products])


def test_the_memory_of_a_model_is_the_mean_over_different_models():
    originals, oracles = pools(6, 3.0)
    axis = by_model.memory_axis(originals, oracles)
    pairs = [(g, h) for i, g in enumerate(originals) for j, h in enumerate(originals) if i != j]
    different = ~np.eye(len(oracles), dtype=bool)
    remembered = np.mean([((g - oracles) @ (h - oracles).T)[different].mean() for g, h in pairs])
    unlearned = RNG.normal(size=(3, 12))
    own = np.array([4, 0, by_model.NONE])
    others = [np.delete(originals, 4, 0), originals[1:], originals]
    expected = [literal(u, oracles, left) / remembered for u, left in zip(unlearned, others, strict=True)]
    np.testing.assert_allclose(axis.of(unlearned, own), expected)
    of_oracles = [literal(o, np.delete(oracles, i, 0), originals) / remembered for i, o in enumerate(oracles)]
    np.testing.assert_allclose(axis.of_oracles, of_oracles)
    assert axis.of_oracles.mean() == pytest.approx(0, abs=1e-12) and axis.of(originals).mean() == pytest.approx(1)


def test_the_memory_of_a_model_is_unbiased():
    """Of fresh retrained models 0 and of originals 1, on average over pools so small that a plug-in value would be far off."""
    products = {"retrained": [], "original": [], "oracle": []}
    for seed in range(400):
        originals, oracles = pools(4, 2.0, seed=seed)
        if (axis := by_model.memory_axis(originals, oracles)) is None:
            continue
        fresh = np.random.default_rng([seed, 1]).normal(size=(4, 12))
        for name, found in (("retrained", axis.of(fresh)), ("original", axis.of(originals)), ("oracle", axis.of_oracles)):
            products[name].append(found.mean() * axis.remembered)
    means = {name: (np.mean(values), stats.sem(values)) for name, values in products.items()}
    assert abs(means["retrained"][0]) < 3 * means["retrained"][1] < 1
    assert abs(means["oracle"][0]) < 1e-9
    biased = [(o - pool.mean(0)) @ (g.mean(0) - pool.mean(0)) for g, pool in [pools(4, 2.0)] for o in pool]
    assert np.mean(biased) == pytest.approx(0, abs=1e-9)


def test_the_order_of_the_models_does_not_matter():
    originals, oracles = pools(6, 3.0)
    order, orders = RNG.permutation(6), RNG.permutation(12)
    one, other = by_model.memory_axis(originals, oracles), by_model.memory_axis(originals[order], oracles[orders])
    np.testing.assert_allclose(one.of_oracles[orders], other.of_oracles)
    unlearned = RNG.normal(size=(6, 12))
    np.testing.assert_allclose(one.of(unlearned)[order], other.of(unlearned[order]))
    for first, second in zip(
        by_model.distances(unlearned, oracles), by_model.distances(unlearned[order], oracles[orders]), strict=True
    ):
        np.testing.assert_allclose(np.sort(first), np.sort(second))


def test_there_is_no_memory_where_nothing_is_remembered():
    assert by_model.memory_axis(*pools(6, 0.0, seed=3)) is None
    with pytest.raises(ValueError, match=r"^own: \[0, 7\] found, expected a number from -1 to 5 for each of 2"):
        by_model.memory_axis(*pools(6, 3.0)).of(np.zeros((2, 12)), np.array([0, 7]))


def test_the_farthest_of_many_is_a_normal_score():
    rng = np.random.default_rng(1)
    scores = [by_model.largest_outlier(rng.normal(size=10), rng.normal(size=20)) for _ in range(3000)]
    assert np.mean(scores) == pytest.approx(0, abs=0.2) and np.std(scores) == pytest.approx(1, abs=0.15)  # t share the others
    alone, others = np.array([2.5]), rng.normal(size=9)
    t = by_model.outlier_t(alone, others)
    assert t[0] == pytest.approx((2.5 - others.mean()) / (others.std(ddof=1) * np.sqrt(1 + 1 / 9)))
    assert stats.norm.sf(by_model.largest_outlier(alone, others)) == pytest.approx(2 * stats.t.sf(abs(t[0]), 8))
    assert by_model.largest_outlier(np.array([0.0, 1e9]), others) > 15 < by_model.largest_outlier(np.array([0.0, -1e9]), others)
    assert (
        by_model.largest_outlier(np.ones(1), np.zeros(2)) == by_model.LARGEST
        and by_model.largest_outlier(np.zeros(1), np.zeros(2)) < 0
    )


def test_an_outlier_is_found_and_an_honest_pool_has_none():
    originals, oracles = pools(12, 4.0)
    axis = by_model.memory_axis(originals, oracles)
    fresh = np.random.default_rng(8).normal(size=(12, 12))
    t = by_model.outlier_t(axis.of(fresh), axis.of_oracles)
    assert not by_model.is_outlier(t, others=24).any()
    fresh[3] = originals[3]
    t, far = (by_model.outlier_t(axis.of(fresh), axis.of_oracles), np.zeros(12))
    assert by_model.is_outlier(t, far, others=24).tolist() == [i == 3 for i in range(12)]
    ruined, retrained = by_model.distances(np.vstack([fresh[:3], 9 * fresh[4:5]]), oracles)
    assert by_model.is_outlier(by_model.outlier_t(ruined, retrained), others=24).tolist() == [False] * 3 + [True]


def test_thirds_are_different_models_and_every_split_has_all_of_them():
    import jax

    drawn = thirds(jax.random.key(0), 13, 4, 5, 3)
    assert drawn.shape == (5, 7, 4)
    for unlearned, *opposite in drawn.tolist():
        pairs = [{*first, *second} for first, second in zip(opposite[::2], opposite[1::2], strict=True)]
        assert all(pair == pairs[0] and len(pair) == 8 for pair in pairs) and not pairs[0] & {*unlearned}
    assert len({tuple(each[0]) for each in drawn.tolist()}) == 5


LABELS = Labels(*(np.random.default_rng(3).integers(0, 3, size) for size in (30, 20, 20)))


def cube(members, seed, own=0.3):
    """Models of which each knows more or less of everything."""
    rng = np.random.default_rng(seed)
    skill = rng.normal(scale=own, size=(members, 1, 1))
    means = [np.random.default_rng(9).normal(size=(len(each), 3)) + np.eye(3)[each] for each in LABELS]
    return Cube(
        *(
            mean + skill * np.eye(3)[each] + rng.normal(size=(members, *mean.shape))
            for mean, each in zip(means, LABELS, strict=True)
        )
    )


def test_z_of_perfect_pools_has_a_spread_of_one(monkeypatch):
    """Of a mean, a distance and comparisons alike, on fresh pools each time. Before, it was 0.4 for KLOM's tail."""
    few = [catalogue.klom_p95, catalogue.kl_to_oracle, catalogue.mean_margin]
    monkeypatch.setattr("unlearn_jax.metrics.registry.METRICS", {each.name: each for each in few})
    z = {}
    for seed in range(24):
        reference = metrics.reference(cube(20, [seed, 0]), LABELS, 10, splits=25)
        for score in metrics.score(cube(10, [seed, 1]), reference, np.arange(10) % 2).scores:
            z.setdefault(score.metric, []).append(score.z)
    spread = {name: np.std(values) for name, values in z.items()}  # over splits too
    assert all(0.65 < each < 1.45 for each in spread.values()), spread


def test_the_unit_of_a_distance_knows_that_the_centre_of_the_null_is_a_mean_over_few_oracles():
    """Of distances that are a property of the model alone, the mean of 10 less that of 20: z had a spread of 1.22 before."""
    import jax

    rng = np.random.default_rng(0)
    deviations, variances = [], []
    for pool in range(400):
        own, splits = rng.exponential(size=20), halves(jax.random.key(pool), 20, 10, 40)
        draws = evaluation._of_distances(own[splits], splits, 20)
        deviations.append(rng.exponential(size=10).mean() - draws.mean())
        variances.append(draws.var(ddof=1))
    assert np.std(deviations) / np.sqrt(np.mean(variances)) == pytest.approx(1, abs=0.1)


@pytest.fixture
def without_attacks(monkeypatch):
    """Which take long."""
    left = {name: each for name, each in metrics.METRICS.items() if not each.attack}
    monkeypatch.setattr("unlearn_jax.metrics.registry.METRICS", left)


@pytest.mark.usefixtures("without_attacks")
def test_metrics_that_need_originals_are_absent_without_them():
    oracles, own = cube(16, 1), cube(8, 2)
    name = catalogue.memory_of_models.on("forget")
    reference = metrics.reference(oracles, LABELS, 8, splits=4)
    names = {score.name for score in metrics.score(own, reference).scores}
    assert name not in names and catalogue.outlier_memory.on("forget") not in names
    assert catalogue.outlier_distance.on("forget") in names
    values = {name: np.arange(16.0)}, {name: np.arange(8.0)}
    reference = metrics.reference(oracles, LABELS, 8, splits=4, extra=values[0])
    scores = {score.name: score for score in metrics.score(own, reference, extra=values[1]).scores}
    assert scores[name].value == 3.5 and catalogue.outlier_memory.on("forget") in scores


@pytest.mark.usefixtures("without_attacks")
def test_over_sets_a_metric_counts_where_all_sets_have_it():
    name = catalogue.memory_of_models.on("forget")
    sets = [
        metrics.reference(cube(16, i), LABELS, 8, splits=4, extra=extra) for i, extra in enumerate(({name: np.arange(16.0)}, {}))
    ]
    each = [
        metrics.score(cube(8, 5 + i), reference, extra=extra)
        for i, (reference, extra) in enumerate(zip(sets, ({name: np.arange(8.0)}, {}), strict=True))
    ]
    pooled = metrics.pooled(each, sets)
    assert [score.name for score in pooled.scores] == [score.name for score in each[1].scores]


@pytest.mark.usefixtures("without_attacks")
def test_some_oracles_are_a_reference_of_their_own():
    oracles, members = cube(20, 1), np.array([3, 4, 0, 9, 11, 12, 19, 2, 5, 6, 7, 8, 10, 13, 14, 15])
    among = metrics.reference(oracles, LABELS, 2, splits=6).among(members, 8)
    alone = metrics.reference(Cube(*(logits[members] for logits in oracles)), LABELS, 8, splits=6)
    assert among.band == pytest.approx(alone.band)
    assert among.nulls["klom", "forget"] == pytest.approx(alone.nulls["klom", "forget"])
