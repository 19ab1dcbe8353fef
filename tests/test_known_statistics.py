"""Statistics against SciPy and scikit-learn, at random and where it is hard: units from 1e-30 to 1e30, constants, ties."""

import itertools
import warnings

import numpy as np
import pytest
from scipy import special, stats
from scipy.spatial.distance import cdist
from scipy.spatial.distance import mahalanobis as literal_mahalanobis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.svm import SVC

from experiments.gaming import cheats as gaming
from experiments.streaming.report import Level
from unlearn_jax import influence, metrics
from unlearn_jax.metrics import agreement, attacks, attribution, changes, distances, statistics

RNG = np.random.default_rng(0)
UNITS = pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
X = RNG.normal(size=40)
Y = X + RNG.normal(size=40)
TIED = np.round(2 * X)
CONSTANTS = (0.0, 0.1, 1 / 3, -7e20, 1e-25)  # the mean of equal numbers is not always one of them, to the last bit


def quiet(function, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments)


# Correlations


@UNITS
@pytest.mark.parametrize(("one", "other"), [(X, Y), (TIED, Y), (TIED, np.round(Y)), (X, -X)])
def test_correlations_are_scipys_in_any_unit(scale, one, other):
    pearson, spearman = stats.pearsonr(one, other)[0], stats.spearmanr(one, other)[0]
    a, b = scale * one, other / scale
    assert statistics.correlation(a, b) == pytest.approx(pearson, abs=1e-12)
    assert agreement.reliability(a, b)[0] == pytest.approx(pearson, abs=1e-12)
    assert attribution.pearson(a[:, None], b[:, None]) == pytest.approx(pearson, abs=1e-12)
    assert attribution.spearman(a[:, None], b[:, None]) == pytest.approx(spearman, abs=1e-12)
    assert agreement.rank_agreement(np.stack([a, b], 1), 2).correlation[0, 1] == pytest.approx(spearman, abs=1e-12)
    assert influence.correlation(a[:, None], b[:, None])[0] == pytest.approx(pearson, abs=1e-12)
    masks = one > np.median(one)
    assert influence.mask_correlation(masks[:, None], b[:, None])[0, 0] == pytest.approx(
        stats.pearsonr(masks, other)[0], abs=1e-12
    )


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize("order", [1, -1])
def test_a_constant_has_no_correlation(constant, order):
    flat = np.full(37, constant)
    for other in (X[:37], np.full(37, 0.7)):
        assert np.isnan(quiet(stats.pearsonr, flat, other)[0])
        pair = (flat, other)[::order]
        assert np.isnan(statistics.correlation(*pair)) and np.isnan(agreement.reliability(*pair)).all()
        assert np.isnan(agreement.rank_agreement(np.stack(pair, 1), 2).correlation[0, 1])
        columns = [each[:, None] for each in pair]
        assert attribution.pearson(*columns) == attribution.spearman(*columns) == influence.correlation(*columns)[0] == 0
    assert influence.mask_correlation((X[:37] > 0)[:, None], flat[:, None])[0, 0] == 0


def test_a_small_difference_far_from_0_is_one():
    far = 1e9 + np.arange(5.0)
    assert statistics.correlation(far, np.arange(5.0)) == pytest.approx(1)


def test_an_estimate_without_order_lowers_the_mean_over_targets():
    exact = RNG.normal(size=(20, 2))
    estimate = np.stack([exact[:, 0], np.full(20, 0.1)], axis=1)
    assert attribution.pearson(estimate, exact) == pytest.approx(0.5)


@UNITS
def test_datamodels_are_the_same_in_any_unit(scale):
    masks = RNG.random((60, 6)) < 0.5
    outputs = (masks @ np.array([2.0, 0, 0, -1, 0, 0]) + 0.1 * RNG.normal(size=60))[:, None]
    unit, found = influence.datamodels(masks, outputs), influence.datamodels(masks, scale * outputs)
    np.testing.assert_allclose(found.weights, scale * unit.weights, rtol=1e-6, atol=1e-9 * scale)
    assert not influence.datamodels(masks, np.full((60, 1), 0.1 * scale)).weights.any()


# Distances of distributions


def drawn(shape, sharp):
    return special.softmax(sharp * RNG.normal(size=shape), axis=-1)


@pytest.mark.parametrize("sharp", [0.1, 1, 20, 60])
def test_divergences_are_scipys(sharp):
    p, oracles = drawn((3, 20, 6), sharp), drawn((4, 20, 6), sharp)
    q = np.maximum(oracles.mean(0), 1e-30)  # the floor that the docstring names
    np.testing.assert_allclose(distances.kl_to_oracle(p, oracles), special.rel_entr(p, q).sum(-1), rtol=1e-9, atol=1e-12)
    middle = (p + q) / 2
    js = (special.rel_entr(p, middle) + special.rel_entr(q, middle)).sum(-1) / 2 / np.log(2)
    np.testing.assert_allclose(distances.js_divergence(p, oracles), js, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(metrics.entropies(p), stats.entropy(p, axis=-1), rtol=1e-9, atol=1e-12)


def test_losses_are_scikit_learns():
    logits, labels = 3 * RNG.normal(size=(2, 30, 5)), RNG.integers(0, 5, 30)
    for own, losses in zip(logits, metrics.cross_entropy_losses(logits, labels), strict=True):
        assert losses.mean() == pytest.approx(log_loss(labels, special.softmax(own, -1), labels=range(5)))


def test_zrf_of_the_authors_is_what_their_formula_says():
    """1 - the mean, over examples and classes, of half of KL(m | p) and KL(m | r), in nats; ours is much further from 1."""
    p, nets = drawn((3, 20, 10), 3), drawn((2, 20, 10), 0.3)
    literal = []
    for own in p:
        terms = []
        for net, example, c in itertools.product(nets, range(20), range(10)):
            a, b = own[example, c], net[example, c]
            m = (a + b) / 2
            terms.append(m * (np.log(m) - np.log(a)) / 2 + m * (np.log(m) - np.log(b)) / 2)
        literal.append(1 - np.mean(terms))
    found = metrics.zrf(p, nets, authors=True)
    np.testing.assert_allclose(found, literal)
    ours = metrics.zrf(p, nets)
    assert (ours < 0.8).all() and (found > 0.9).all()
    certain = np.eye(10)[:, None].repeat(2, 1).transpose(1, 0, 2)
    assert np.isfinite(metrics.zrf(certain, certain[:, ::-1], authors=True)).all()


# Tug of war


def test_tow_of_paired_runs_is_the_mean_of_the_tows_of_runs():
    own, oracles = RNG.random((3, 20)), RNG.random((3, 20))
    literal = np.mean(
        [np.prod([1 - abs(a - b) for a, b in zip(*run, strict=True)]) for run in zip(own.T, oracles.T, strict=True)]
    )
    assert metrics.tow(*own, *oracles, paired=True) == pytest.approx(literal)
    assert metrics.tow_mia(*own, *oracles, paired=True) == pytest.approx(literal)
    assert metrics.tow(*own, *oracles) == pytest.approx(np.prod(1 - abs(own.mean(1) - oracles.mean(1))))
    assert metrics.tow(*own, *oracles) > metrics.tow(*own, *oracles, paired=True) + 0.1
    assert metrics.tow(*own[:, :1], *oracles[:, :1], paired=True) == pytest.approx(metrics.tow(*own[:, :1], *oracles[:, :1]))
    for wrong in ([0.5, *own[1:]], [own[0, :7], *own[1:]]):
        with pytest.raises(ValueError, match="expected one number for each run"):
            metrics.tow(*wrong, *oracles, paired=True)


# Attacks


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1.0, 1e16, 1e30, 1e300])
@pytest.mark.parametrize("apart", [0.3, 5.0])
def test_logistic_mia_is_scikit_learns_however_large_the_losses(size, apart):
    """Theirs in units in which it finds its optimum: C goes with the square of the unit."""
    rng = np.random.default_rng(3)
    member, nonmember = rng.exponential(size=(1, 30)), rng.exponential(size=(1, 30)) + apart
    rows, is_member, fold = attacks._balanced(30, 30, 10, 0)
    x = np.concatenate([member[0][rows[0]], nonmember[0][rows[1]]])[:, None]
    told = 0
    for number in range(10):
        # A penalty beyond all numbers leaves a slope whose sign alone counts, and so the threshold at the mean.
        theirs = LogisticRegression(C=float(np.clip(size, 1e-6, 1e6)) ** 2, tol=1e-9, max_iter=10_000, solver="newton-cholesky")
        known = fold != number
        called = quiet(theirs.fit, x[known], is_member[known]).predict(x[~known])
        told += (called == is_member[~known]).sum()
    assert metrics.logistic_mia(size * member, size * nonmember)[0] == pytest.approx(told / 60, abs=1 / 60)


@pytest.mark.parametrize("size", [1e16, 1e20, 1e38])
def test_losses_after_ascent_that_are_apart_are_told_apart(size):
    """Warnings are errors here: squares of such losses would overflow, and Newton's steps go astray."""
    rng = np.random.default_rng(0)
    small, other = rng.exponential(size=(2, 40)), rng.exponential(size=(2, 60))
    np.testing.assert_array_equal(metrics.logistic_mia(size + small, 2 * size + other), 1)
    for sides in ((small, size * other), (size * small, other)):
        assert (metrics.logistic_mia(*sides) > 0.95).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("attacker", metrics.ATTACKERS)
@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_features_are_told_apart_in_any_unit(attacker, scale):
    member, nonmember = RNG.normal(1, 1, size=(60, 2)), RNG.normal(0, 1, size=(60, 2))
    plain = metrics.feature_mia(member, nonmember, attacker)
    found = metrics.feature_mia(scale * member, scale * nonmember, attacker)
    assert found.auc == pytest.approx(plain.auc, abs=0.02)


@pytest.mark.parametrize("attacker", metrics.ATTACKERS)
def test_a_column_that_is_the_same_for_all_tells_nothing(attacker):
    """But for rounding, which is not to be blown up: 0.1 + 0.2 is not 0.3."""
    member, nonmember = np.full((40, 1), 0.1 + 0.2), np.full((40, 1), 0.3)
    assert metrics.feature_mia(member, nonmember, attacker).auc == 0.5


def test_svc_mia_sees_probabilities_in_their_own_unit():
    """Its features are bounded by definition, so that gamma="auto" of the original is the right one."""
    p, labels = drawn((40, 4), 50), RNG.integers(0, 4, 40)
    sides = [(p, labels), (drawn((40, 4), 1), labels), (p, labels)]
    found = metrics.svc_mia(*sides)
    fitted = SVC(C=3, gamma="auto").fit(
        np.concatenate([each[np.arange(40), labels][:, None] for each, _ in sides[:2]]), [1] * 40 + [0] * 40
    )
    assert found["confidence"] == pytest.approx((fitted.predict(p[np.arange(40), labels][:, None]) == 0).mean(), abs=0.03)


@UNITS
def test_likelihood_ratios_and_exposures_have_no_unit(scale):
    trained_on = RNG.permuted(np.tile([[True], [False]], (6, 5)), axis=0)
    phi = RNG.normal(size=(12, 5)) + trained_on
    for measure in (metrics.likelihood_ratios, metrics.exposure):
        np.testing.assert_allclose(measure(scale * phi, trained_on), measure(phi, trained_on), rtol=1e-9)


@pytest.mark.parametrize("constant", CONSTANTS)
def test_scores_that_are_all_one_number_expose_nothing(constant):
    trained_on = RNG.permuted(np.tile([[True], [False]], (7, 5)), axis=0)
    np.testing.assert_array_equal(metrics.exposure(np.full((14, 5), constant), trained_on), 0)
    np.testing.assert_array_equal(metrics.exposure(constant * (1.0 + trained_on), trained_on), 0)


# Distances of points


@pytest.mark.parametrize("offset", [0.0, 1e7])
@UNITS
def test_distances_are_scipys_wherever_the_points_lie(scale, offset):
    points, references = scale * (RNG.normal(size=(9, 3)) + offset), scale * (RNG.normal(size=(30, 3)) + offset)
    literal = np.sort(cdist(points, references), axis=1)[:, :4].mean(1)
    np.testing.assert_allclose(metrics.neighbour_distances(points, references, 4), literal, rtol=1e-6)
    np.testing.assert_array_equal(gaming.nearest(points, references, 4), np.argsort(cdist(points, references))[:, :4])
    labels = np.arange(30) % 2
    among = cdist(references, references) + np.diag(np.full(30, np.inf))
    purity = [(labels[np.argsort(own)[:5]] == label).mean() for own, label in zip(among, labels, strict=True)]
    np.testing.assert_allclose(metrics.neighbour_purity(references, labels, 5), purity)


@UNITS
def test_mahalanobis_distances_have_no_unit(scale):
    references, labels = RNG.normal(size=(40, 3)), np.arange(40) % 2
    points = RNG.normal(size=(6, 3))
    means = [references[labels == c].mean(0) for c in (0, 1)]
    shared = sum((references[labels == c] - means[c]).T @ (references[labels == c] - means[c]) for c in (0, 1)) / 40
    inverse = np.linalg.inv(shared + 1e-3 * np.trace(shared) / 3 * np.eye(3))
    literal = [min(literal_mahalanobis(point, mean, inverse) for mean in means) for point in points]
    np.testing.assert_allclose(metrics.mahalanobis_distances(scale * points, scale * references, labels), literal)


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_what_changes_are_like_has_no_unit(scale):
    found, exact = RNG.normal(size=(2, 5, 7))
    plain = changes.closeness(found, exact)
    np.testing.assert_allclose(changes.closeness(scale * found, scale * exact), plain)
    np.testing.assert_allclose(changes.closeness(found, scale * exact).alignment, plain.alignment)
    effects, values = RNG.normal(size=(3, 4, 2)), RNG.exponential(size=9)
    assert changes.common_share(scale * effects) == pytest.approx(changes.common_share(effects))
    assert changes.gini(scale * values) == pytest.approx(changes.gini(values))
    assert changes.carriers(scale * values, 0.5) == changes.carriers(values, 0.5)
    d = RNG.normal(size=7)
    assert gaming.memory(scale * found, scale * exact, scale * d) == pytest.approx(gaming.memory(found, exact, d))
    assert gaming.least_change(
        scale * np.array([[0.0, 1.0]]), scale * np.array([0.3]), scale * np.array([1e-9])
    ) == pytest.approx([0.7, 0.3])


def test_classes_that_are_never_met_are_not_confused():
    confusion = np.array([[1e-14, 1e-14, 0], [1e-14, 1e-14, 0], [0, 0, 0.0]])
    found = metrics.class_distances(confusion, 10)
    assert found[0, 1] == pytest.approx(-2 * stats.norm.ppf(0.5)) and found[0, 2] == pytest.approx(-2 * stats.norm.ppf(0.05))


# Intervals and tests


@UNITS
def test_intervals_are_students_in_any_unit(scale):
    values = RNG.normal(1, 1, size=(9, 1))
    found = statistics.crossed_mean(scale * values)
    expected = stats.ttest_1samp(values[:, 0], 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert [found.low / scale, found.high / scale] == pytest.approx(list(expected.confidence_interval()))
    crossed = RNG.normal(size=(6, 4))
    plain, other = statistics.crossed_mean(crossed), statistics.crossed_mean(scale * crossed)
    assert [each / scale for each in other[:3]] + [other.p] == pytest.approx([*plain])


@pytest.mark.parametrize("constant", CONSTANTS)
def test_equal_numbers_are_their_mean_for_sure(constant):
    found = statistics.crossed_mean(np.full((7, 3), constant))
    assert found[:3] == pytest.approx((constant,) * 3, rel=1e-12) and found.p == float(constant == 0)


def test_methods_that_differ_by_rounding_do_not_differ():
    values = RNG.normal(size=(8, 2))
    (pair,) = statistics.comparisons({"one": values, "other": values * (1 + 1e-15)})
    assert pair.difference[:3] == (0, 0, 0) and pair.adjusted_p == 1


@UNITS
def test_a_null_has_a_spread_in_any_unit(scale):
    import jax

    values = RNG.normal(size=40)
    plain, found = (
        metrics.null(lambda a, b: float(a.mean() - b.mean()), unit * values, 8, splits=30, key=jax.random.key(0))
        for unit in (1.0, scale)
    )
    assert [each / scale for each in found] == pytest.approx(list(plain)) and found.sd > 0
    flat = metrics.null(lambda a, b: float(a.mean()), np.full(40, 0.1 * scale), 7, splits=30, key=jax.random.key(0))
    assert flat.sd == 0


@UNITS
def test_what_is_off_a_null_without_spread_is_so_in_any_unit(scale):
    null = metrics.Null(scale, 0.0, scale, scale)
    for value, expected in ((scale, 0.0), (scale * (1 + 1e-12), 0.0), (2 * scale, np.inf)):
        score = metrics.Score("mine", "all", value, value, value, null, None)
        assert score.evidence == score.deviation == Level(value, *null).z == expected
    assert Level(0.5 * scale, *null).z == -np.inf
