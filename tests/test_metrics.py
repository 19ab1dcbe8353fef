"""Every metric against a literal, slow reference, known answers, symmetries and bounds."""

import importlib
import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from literal import literal_epsilon
from scipy.stats import norm
from sklearn.svm import SVC

from unlearn_jax import metrics
from unlearn_jax.types import Cube, Labels

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 40, 5)) * 3
OTHERS = RNG.normal(size=(7, 40, 5)) * 3
LABELS = RNG.integers(0, 5, 40)
OF_LOGITS = {
    "scaled_logits": metrics.scaled_logits,
    "cross_entropy_losses": metrics.cross_entropy_losses,
    "accuracy": metrics.accuracy,
    "probabilities": lambda logits, _: metrics.probabilities(logits),
    "entropies": lambda logits, _: metrics.entropies(metrics.probabilities(logits)),
    "modified_entropies": lambda logits, labels: metrics.modified_entropies(metrics.probabilities(logits), labels),
}
TWO_SAMPLE = {
    "forgetting_quality": lambda u, r: metrics.forgetting_quality(u[..., 0], r[..., 0]).epsilon,
    "klom": lambda u, r: metrics.klom(u[..., 0], r[..., 0]),
    "kl_to_oracle": lambda u, r: metrics.kl_to_oracle(metrics.probabilities(u), metrics.probabilities(r)),
    "activation_distance": lambda u, r: metrics.activation_distance(metrics.probabilities(u), metrics.probabilities(r)),
    "js_divergence": lambda u, r: metrics.js_divergence(metrics.probabilities(u), metrics.probabilities(r)),
}


# Laws that all obey


@pytest.mark.parametrize("name", OF_LOGITS)
def test_adding_a_constant_to_the_logits_changes_nothing(name):
    moved = LOGITS + RNG.normal(size=(6, 40, 1)) * 100
    np.testing.assert_allclose(OF_LOGITS[name](moved, LABELS), OF_LOGITS[name](LOGITS, LABELS), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", OF_LOGITS)
def test_jax_arrays_are_welcome(name):
    single = LOGITS.astype(np.float32)
    expected = OF_LOGITS[name](single, LABELS)
    np.testing.assert_array_equal(OF_LOGITS[name](jnp.asarray(single), jnp.asarray(LABELS)), expected)


@pytest.mark.parametrize("name", OF_LOGITS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_diverged_member_is_named(name, bad):
    logits = LOGITS.copy()
    logits[[1, 4], 3, 2] = bad
    with pytest.raises(ValueError, match="members 1, 4 "):
        OF_LOGITS[name](logits, LABELS)


@pytest.mark.parametrize("name", TWO_SAMPLE)
@pytest.mark.parametrize("side", [0, 1])
def test_a_diverged_member_of_either_side_is_named(name, side):
    pools = [LOGITS.copy(), OTHERS.copy()]
    pools[side][2, 3] = np.nan
    with pytest.raises(ValueError, match="members 2 "):
        TWO_SAMPLE[name](*pools)


@pytest.mark.parametrize("name", TWO_SAMPLE)
def test_the_order_of_members_does_not_matter(name):
    expected = TWO_SAMPLE[name](LOGITS, OTHERS).mean()
    np.testing.assert_allclose(TWO_SAMPLE[name](LOGITS[::-1], OTHERS[::-1]).mean(), expected, rtol=1e-12)


# Scores


def test_scores_at_a_hand_computed_point():
    logits = np.log(np.array([[[0.7, 0.2, 0.1]]]))
    label = np.array([1])
    p = metrics.probabilities(logits)
    np.testing.assert_allclose(metrics.scaled_logits(logits, label), [[np.log(0.2 / 0.8)]])
    np.testing.assert_allclose(metrics.cross_entropy_losses(logits, label), [[-np.log(0.2)]])
    np.testing.assert_allclose(metrics.entropies(p), [[-(0.7 * np.log(0.7) + 0.2 * np.log(0.2) + 0.1 * np.log(0.1))]])
    literal = -(0.8 * np.log(0.2) + 0.7 * np.log(0.3) + 0.1 * np.log(0.9))
    np.testing.assert_allclose(metrics.modified_entropies(p, label), [[literal]])


def test_scores_are_stable_at_huge_logits():
    logits, labels = np.array([[[2000.0, 0, -2000], [0, 0, 2000]]]), np.array([0, 0])
    np.testing.assert_array_equal(metrics.scaled_logits(logits, labels), [[2000, -2000]])
    np.testing.assert_array_equal(metrics.cross_entropy_losses(logits, labels), [[0, 2000]])
    np.testing.assert_array_equal(metrics.entropies(metrics.probabilities(logits)), [[0, 0]])
    assert np.isfinite(metrics.modified_entropies(metrics.probabilities(logits), labels)).all()
    assert metrics.margins is metrics.scaled_logits


def test_the_margin_is_the_logit_of_the_probability():
    p = np.take_along_axis(metrics.probabilities(LOGITS), LABELS[None, :, None], -1)[..., 0]
    np.testing.assert_allclose(metrics.scaled_logits(LOGITS, LABELS), np.log(p / (1 - p)), rtol=1e-6)


# Accuracies


def test_accuracies_are_percent():
    logits = np.array([[[1.0, 0], [1, 0], [1, 0], [0, 1]], [[1, 0], [0, 1], [0, 1], [0, 1]]])
    labels = np.array([0, 0, 0, 0])
    of = metrics.accuracies(Cube(logits, logits, logits), Labels(labels, labels, 1 - labels))
    np.testing.assert_array_equal(of.forget, [75, 25])
    np.testing.assert_array_equal(of.unlearning, [25, 75])
    np.testing.assert_array_equal(of.test, [25, 75])


def test_tow_and_average_gap_at_known_points():
    assert metrics.tow(0.8, 0.9, 0.7, 0.8, 0.9, 0.7) == 1
    assert metrics.tow(1.0, 0.9, 0.5, 0.8, 1.0, 0.7) == pytest.approx(0.8 * 0.9 * 0.8)
    assert metrics.tow(np.array([0.9, 1.0]), 1.0, 1.0, np.array([0.7, 0.8]), 1.0, 1.0) == pytest.approx(0.8)
    assert metrics.average_gap(1.0, 0.9, 0.5, 0.3, 0.8, 1.0, 0.7, 0.4) == pytest.approx(100 * (0.2 + 0.1 + 0.2 + 0.1) / 4)


# Distances


def test_distances_are_zero_at_the_oracles_mean_and_bounded():
    certain, other = np.array([[[1.0, 0]]]), np.array([[[0.0, 1]]])
    for distance in (metrics.kl_to_oracle, metrics.activation_distance, metrics.js_divergence):
        assert distance(certain, certain)[0, 0] == 0
        assert distance(np.array([[[0.5, 0.5]]]), np.concatenate([certain, other]))[0, 0] == 0
        assert (TWO_SAMPLE[distance.__name__](LOGITS, OTHERS) > 0).all()
    assert metrics.activation_distance(certain, other)[0, 0] == pytest.approx(np.sqrt(2))
    assert metrics.js_divergence(certain, other)[0, 0] == pytest.approx(1)
    half = np.array([[[0.5, 0.5]]])
    assert metrics.kl_to_oracle(certain, half)[0, 0] == pytest.approx(np.log(2))
    assert metrics.js_divergence(certain, half)[0, 0] == pytest.approx(metrics.js_divergence(half, certain)[0, 0])


# SVC-MIA


def answers(logits, labels):
    return metrics.probabilities(logits), labels


def test_svc_mia_is_the_svc_it_says():
    rng = np.random.default_rng(3)
    pools = []
    for shift, number in ((4, 60), (1, 60), (2, 50)):
        labels = rng.integers(0, 4, number)
        pools.append(answers(rng.normal(size=(number, 4)) * 2 + shift * np.eye(4)[labels], labels))
    got = metrics.svc_mia(*pools)

    def features(p, labels):
        q = p[np.arange(len(p)), labels]
        log = np.log
        m_entropy = [
            -(1 - row[y]) * log(row[y]) - sum(row[j] * log(1 - row[j]) for j in range(4) if j != y)
            for row, y in zip(p, labels, strict=True)
        ]
        correct = (p.argmax(1) == labels).astype(float)
        return {
            "correctness": correct[:, None],
            "confidence": q[:, None],
            "entropy": -(p * log(p)).sum(1, keepdims=True),
            "m_entropy": np.array(m_entropy)[:, None],
            "prob": p,
        }

    member, nonmember, target = (features(*pool) for pool in pools)
    assert set(got) == set(member)
    for name in member:
        attack = SVC(C=3, kernel="rbf", gamma="auto")
        attack.fit(np.concatenate([member[name], nonmember[name]]), [1] * 60 + [0] * 60)
        assert got[name] == pytest.approx((attack.predict(target[name]) == 0).mean(), abs=0.021)  # one borderline example


def test_svc_mia_has_equal_sides():
    rng = np.random.default_rng(0)
    same = [answers(rng.normal(size=(count, 3)), rng.integers(0, 3, count)) for count in (30, 300, 200)]
    assert 0.2 < metrics.svc_mia(*same)["confidence"] < 0.8  # with 30 against 300 it would call all of them non-members


def test_svc_mia_knows_members_from_non_members():
    labels = np.arange(100) % 3
    sure, unsure = answers(9.0 * np.eye(3)[labels], labels), answers(RNG.normal(size=(100, 3)), labels)
    assert metrics.svc_mia(sure, unsure, sure)["confidence"] == 0
    assert metrics.svc_mia(sure, unsure, unsure)["confidence"] > 0.9
    assert metrics.svc_mia(unsure, sure, sure, size=50, seed=1) == metrics.svc_mia(unsure, sure, sure, size=50, seed=1)


# KLOM


def literal_klom(unlearned, oracle, bins=20, clip=100, eps=1e-5):
    values = []
    for u, o in zip(np.clip(unlearned, -clip, clip).T, np.clip(oracle, -clip, clip).T, strict=True):
        low, high = min(u.min(), o.min()), max(u.max(), o.max())
        edges = np.linspace(low, high, bins + 1) if high > low else np.array([low, low + 1])
        p, q = np.histogram(u, edges)[0] / len(u), np.histogram(o, edges)[0] / len(o)
        values.append(sum(a * np.log(a / max(b, eps)) for a, b in zip(p, q, strict=True) if a > 0))
    return np.array(values)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 30), m=st.integers(1, 30), digits=st.integers(0, 6))
@settings(deadline=None, max_examples=60)
def test_klom_is_the_literal_one(seed, n, m, digits):
    rng = np.random.default_rng(seed)
    u, o = np.round(rng.normal(size=(n, 4)) * 60, digits), np.round(rng.normal(size=(m, 4)) * 2, digits)
    o[:, 0] = u[:, 0] = 3
    np.testing.assert_allclose(metrics.klom(u, o), literal_klom(u, o), rtol=1e-12, atol=1e-12)


def test_klom_of_margins_on_and_next_to_the_edges_of_bins():
    """There the quotient alone would put some into the bin below or above."""
    rng = np.random.default_rng(0)
    low, high = np.sort(rng.normal(scale=3, size=(2, 200)), axis=0)
    edges = low + np.arange(21)[:, None] * ((high - low) / 20)
    edges[20] = high
    for shift in (-np.inf, np.inf):
        near = np.clip(np.nextafter(edges, shift), low, high)
        np.testing.assert_allclose(metrics.klom(near, edges), literal_klom(near, edges), rtol=1e-12, atol=1e-12)


def test_klom_at_known_points():
    x = RNG.normal(size=(50, 3))
    np.testing.assert_allclose(metrics.klom(x, x), 0, atol=1e-15)
    np.testing.assert_allclose(metrics.klom(np.zeros((5, 1)), np.ones((5, 1))), -np.log(1e-5))
    assert metrics.klom(np.full((5, 1), 200.0), np.full((5, 1), 300.0))[0] == 0  # both clipped to 100
    assert metrics.klom(np.array([[0.0], [1]]), np.array([[0.5], [1]]))[0] < metrics.klom(np.array([[0.0]]), np.array([[1.0]]))[0]


def test_klom_of_two_gaussians_is_their_divergence():
    u, o = RNG.normal(1, 1, size=(200_000, 1)), RNG.normal(0, 1, size=(200_000, 1))
    assert metrics.klom(u, o, bins=60)[0] == pytest.approx(0.5, rel=0.05)  # KL = distance² / 2


# Forgetting quality


def literal_score(epsilon, models):
    points, edge = 1.0, 0.0
    buckets = []
    while edge + 0.5 <= np.ceil(np.log(models - 1)):
        buckets.append((edge + 0.5, points))
        edge, points = edge + 0.5, points / 2
    return float(np.mean([next((points for right, points in buckets if e < right), 0) for e in epsilon]))


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 12),
    m=st.integers(2, 12),
    scale=st.sampled_from([1e-9, 0.001, 0.003, 0.1, 1, 3, 10]),
    ratio=st.sampled_from([0.003, 0.02, 0.5, 1]),
    shift=st.sampled_from([0, 0.01, 1, 4]),
    offset=st.sampled_from([0, 1e6]),
    digits=st.sampled_from([0, 1, 2, 15]),
)
@settings(deadline=None, max_examples=60)
def test_epsilon_is_that_of_the_literal_sweep(seed, n, m, scale, ratio, shift, offset, digits):
    rng = np.random.default_rng(seed)
    u, r = rng.normal(size=(n, 2)) * scale, rng.normal(size=(m, 2)) * scale * ratio + shift
    u, r = np.round(u, digits) + offset, np.round(r, digits) + offset
    np.testing.assert_array_equal(metrics.forgetting_quality(u, r).epsilon, literal_epsilon(u, r))


@pytest.mark.parametrize("n, m", [(120, 130), (130, 120), (220, 230)])
def test_epsilon_is_that_of_the_literal_sweep_for_many_models(n, m):
    """Places in the table of ε on both sides of 2**14, above which differences of two of them need more than 16 bits."""
    rng = np.random.default_rng(n)
    u, r = rng.normal(size=(n, 2)), rng.normal(size=(m, 2)) * [1.0, 0.6] + [0.3, 0.0]
    np.testing.assert_array_equal(metrics.forgetting_quality(u, r).epsilon, literal_epsilon(u, r))


@given(
    pool=arrays(np.float64, (9, 2), elements=st.sampled_from([-4, -2, 0, 0.01, 0.02, 1, 2, 4, 4 / 399, 8 / 399])),
    n=st.integers(2, 7),
)
@settings(deadline=None, max_examples=40)
def test_epsilon_is_that_of_the_literal_sweep_on_its_own_grid(pool, n):
    np.testing.assert_array_equal(metrics.forgetting_quality(pool[:n], pool[n:]).epsilon, literal_epsilon(pool[:n], pool[n:]))


@pytest.mark.parametrize("swap", [False, True])
def test_epsilon_of_constant_columns(swap):
    x = np.ones((4, 3)) * [1.0, 1.0, 1.0]
    y = np.stack([np.ones(4), np.full(4, 2.0), np.arange(4.0)], 1)
    pools = (y, x) if swap else (x, y)
    np.testing.assert_array_equal(metrics.forgetting_quality(*pools).epsilon, [0, 50, 50])  # equal; apart; peaky
    np.testing.assert_array_equal(metrics.forgetting_quality(*pools).epsilon, literal_epsilon(*pools))


@pytest.mark.parametrize(("n", "m"), [(24, 24), (100, 37)])
def test_many_models_take_no_table_and_blocks_of_examples_and_give_the_same(n, m, monkeypatch):
    quality, klom = (importlib.import_module(f"unlearn_jax.metrics.{name}") for name in ("forgetting_quality", "klom"))
    u, r = RNG.normal(size=(n, 50)), RNG.normal(size=(m, 50)) * 2 + 1
    expected, klom_expected = metrics.forgetting_quality(u, r), metrics.klom(u, r)
    monkeypatch.setattr(quality, "TABLE", 0)
    monkeypatch.setattr(quality, "_epsilon_of_counts", lambda *counts: pytest.fail("there is a table"))
    monkeypatch.setattr(klom, "BLOCK", 3 * (n + m))
    np.testing.assert_array_equal(metrics.forgetting_quality(u, r).epsilon, expected.epsilon)
    np.testing.assert_array_equal(metrics.klom(u, r), klom_expected)


def test_epsilon_is_symmetric_in_the_two_sides():
    u, r = RNG.normal(size=(20, 30)), RNG.normal(size=(15, 30)) * 2 + 1
    np.testing.assert_array_equal(metrics.forgetting_quality(u, r).epsilon, metrics.forgetting_quality(r, u).epsilon)


@pytest.mark.parametrize("models", [2, 3, 10, 24, 512])
def test_score_of_epsilon(models):
    u, r = RNG.normal(size=(models, 8)), RNG.normal(size=(models, 8)) + np.linspace(0, 8, 8)
    got = metrics.forgetting_quality(u, r)
    assert got.score == literal_score(got.epsilon, models)
    assert (got.epsilon >= 0).all() and (got.epsilon <= 50).all()


def test_separated_samples_score_nothing():
    got = metrics.forgetting_quality(RNG.normal(size=(24, 5)), RNG.normal(size=(24, 5)) + 40)
    assert got.score == 0
    np.testing.assert_array_equal(got.epsilon, 50)


def test_epsilon_of_two_gaussians_at_a_known_distance():
    n, distance = 4096, 2.0
    u, r = norm.ppf((np.arange(n) + 0.5) / n)[:, None], norm.ppf((np.arange(n) + 0.5) / n)[:, None] + distance
    t = np.linspace(-2, 4, 4000)
    rates = norm.sf(t), norm.cdf(t - distance)
    usable = (np.minimum(*rates) * n).round() >= 1
    known = np.maximum(np.log1p(-rates[0]) - np.log(rates[1]), np.log1p(-rates[1]) - np.log(rates[0]))[usable].max()
    assert metrics.forgetting_quality(u, r).epsilon[0] == pytest.approx(known, rel=0.1)


def test_identical_distributions_score_about_a_fifth():
    got = metrics.forgetting_quality(RNG.normal(size=(24, 1000)) * 2, RNG.normal(size=(24, 1000)) * 2)
    assert got.score == pytest.approx(0.19, abs=0.02)


def test_forgetting_quality_needs_two_models():
    with pytest.raises(ValueError, match="1 and 4 models, expected two or more on each side"):
        metrics.forgetting_quality(np.zeros((1, 3)), np.zeros((4, 3)))


@pytest.mark.parametrize("metric", [metrics.kl_to_oracle, metrics.activation_distance, metrics.js_divergence, metrics.zrf])
@pytest.mark.parametrize("wrong", [(3, 1, 4), (3, 5, 1)])
def test_one_example_or_class_is_not_held_against_many(metric, wrong):
    metric = inspect.unwrap(metric)  # without the tests' own check of shapes
    fair = np.full((2, 5, 4), 0.25)
    metric(fair, np.full((3, 5, 4), 0.25))
    with pytest.raises(ValueError, match=r"shape .*, expected .* as in "):
        metric(fair, np.full(wrong, 1 / wrong[-1]))


def test_finite_values_whose_sum_is_not_are_accepted():
    values = np.full((2, 2), 1e308)
    assert (metrics.checks.numbers("values", values) == values).all()
    for sign in (1, -1):
        with pytest.raises(ValueError, match=r"^values: not finite$"):
            metrics.checks.numbers("values", np.array([np.inf, 1.0, sign * np.inf]))


@pytest.mark.parametrize("metric", [metrics.klom, metrics.forgetting_quality])
def test_margins_of_one_example_are_not_held_against_those_of_many(metric):
    with pytest.raises(ValueError, match=r"shape .*, expected .* as in "):
        inspect.unwrap(metric)(np.random.default_rng(0).normal(size=(8, 5)), np.zeros((8, 1)))


def test_a_histogram_of_one_bin_is_refused():
    with pytest.raises(ValueError, match="bins: 1 found"):
        metrics.klom(np.zeros((4, 5)), np.ones((4, 5)), bins=1)
