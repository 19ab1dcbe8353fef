"""Likelihood-ratio attacks and memorisation: literal loops, known answers, and what must not matter."""

import math
import statistics

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from unlearn_jax import metrics
from unlearn_jax.metrics import exposure, likelihood, likelihood_ratios, lira, memorisation, scaled_logits, u_lira, u_lira_null
from unlearn_jax.metrics.likelihood import AT_0_1, AT_1, FALSE_POSITIVE_RATES, MEASURES

seeds = st.integers(0, 2**32 - 1)
both_variances = pytest.mark.parametrize("shared", [False, True])


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Intervals are the slow part; the test that is about them asks for as many as there are."""
    monkeypatch.setattr(likelihood, "RESAMPLES", 5)


def balanced(members, targets, rng):
    """Each target in a random half of the members."""
    return np.argsort(rng.random((members, targets)), axis=0) < members // 2


def population(members=9, targets=11, seed=0, apart=1.0):
    """φ of models for which each target has a mean and a scale of its own, and is `apart` scales higher where trained on."""
    rng = np.random.default_rng(seed)
    trained_on = balanced(members, targets, rng)
    mean, scale = rng.normal(size=targets) * 5, np.exp(rng.normal(size=targets))
    return mean + scale * (rng.normal(size=(members, targets)) + apart * trained_on), trained_on


# Literal restatements


def log_density(value, mean, variance):
    return -0.5 * np.log(2 * np.pi * variance) - (value - mean) ** 2 / (2 * variance)


def slow_ratios(phi, trained_on, shared):
    members, targets = phi.shape
    ratios = np.zeros((members, targets))
    for i in range(members):
        fits = {}
        for kind in (True, False):
            samples = [[phi[j, x] for j in range(members) if j != i and trained_on[j, x] == kind] for x in range(targets)]
            variances = [np.var(each, ddof=1) for each in samples]
            fits[kind] = [np.mean(each) for each in samples], [np.mean(variances)] * targets if shared else variances
        for x in range(targets):
            ratios[i, x] = log_density(phi[i, x], *(fit[x] for fit in fits[True]))
            ratios[i, x] -= log_density(phi[i, x], *(fit[x] for fit in fits[False]))
    return ratios


def slow_auc(positive, negative):
    return np.mean([[(p > n) + (p == n) / 2 for n in negative] for p in positive])


def slow_balanced_accuracy(positive, negative):
    return (np.mean([p > 0 for p in positive]) + np.mean([n <= 0 for n in negative])) / 2


def slow_tpr(positive, negative, rate):
    """Over every threshold that raises few enough false alarms."""
    if rate * len(negative) < 1:
        return np.nan
    allowed = [t for t in [-np.inf, *positive, *negative] if np.mean([n > t for n in negative]) <= rate + 1e-12]
    return max(np.mean([p > t for p in positive]) for t in allowed)


@both_variances
def test_ratios_are_those_of_a_literal_loop(shared):
    phi, trained_on = population()
    np.testing.assert_allclose(
        likelihood_ratios(phi, trained_on, shared_variance=shared), slow_ratios(phi, trained_on, shared), rtol=1e-9
    )


@given(seeds)
@settings(max_examples=12, deadline=None)
def test_measures_are_those_of_literal_loops(seed):
    rng = np.random.default_rng(seed)
    phi, trained_on = population(seed=seed)
    judged = rng.random(phi.shape) < 0.7
    attack = lira(phi, trained_on, judged=judged)
    positive, negative = attack.ratios[judged & trained_on], attack.ratios[judged & ~trained_on]
    assert attack.auc.value == pytest.approx(slow_auc(positive, negative))
    assert attack.balanced_accuracy.value == pytest.approx(slow_balanced_accuracy(positive, negative))
    expected = [slow_tpr(positive, negative, rate) for rate in FALSE_POSITIVE_RATES]
    np.testing.assert_allclose(attack.roc, expected, rtol=1e-12)
    for x in range(phi.shape[1]):
        positive, negative = (attack.ratios[judged[:, x] & side[:, x], x] for side in (trained_on, ~trained_on))
        if len(positive) and len(negative):
            assert attack.example_accuracy[x] == pytest.approx(slow_balanced_accuracy(positive, negative))
        else:
            assert np.isnan(attack.example_accuracy[x])


def test_ties_count_half_and_no_threshold_parts_them():
    """φ of two values only: ratios coincide wherever the same models are left."""
    rng = np.random.default_rng(3)
    trained_on = balanced(10, 1, rng).repeat(3, axis=1)
    phi = rng.integers(0, 2, (10, 1)).repeat(3, axis=1).astype(float)
    attack = lira(phi, trained_on)
    positive, negative = attack.ratios[trained_on], attack.ratios[~trained_on]
    assert len(set(attack.ratios.ravel())) < 8
    assert attack.auc.value == pytest.approx(slow_auc(positive, negative))
    np.testing.assert_allclose(attack.roc, [slow_tpr(positive, negative, rate) for rate in FALSE_POSITIVE_RATES])


@both_variances
def test_an_interval_is_that_of_resampled_members(shared, monkeypatch):
    """Against a bootstrap that repeats the members' scores literally, by as many resamples of its own."""
    monkeypatch.setattr(likelihood, "RESAMPLES", 1_000)
    phi, trained_on = population(20, 30, apart=0.7)
    attack = lira(phi, trained_on, shared_variance=shared)
    rng = np.random.default_rng(1)
    draws = []
    for _ in range(300):
        drawn = rng.integers(0, 20, 20)
        ratios, labels = attack.ratios[drawn], trained_on[drawn]
        draws.append([slow_balanced_accuracy(ratios[labels], ratios[~labels]), np.mean(ratios[labels]) > 0])
    low, high = np.quantile([draw[0] for draw in draws], (0.025, 0.975))
    assert attack.balanced_accuracy.low == pytest.approx(low, abs=0.01)
    assert attack.balanced_accuracy.high == pytest.approx(high, abs=0.01)
    for name in MEASURES:
        each = getattr(attack, name)
        assert np.isnan(each.value) or each.low <= each.value <= each.high


# Known answers


@both_variances
@pytest.mark.parametrize("apart", [0.5, 2.0])
def test_gaussians_at_a_known_distance_have_the_known_auc_and_power(shared, apart):
    """Both sides of one scale: the ratio rises with φ, so AUC = Φ(d/√2) and TPR = Φ(d + Φ⁻¹(FPR))."""
    rng = np.random.default_rng(0)
    trained_on = balanced(500, 100, rng)
    attack = lira(rng.normal(size=trained_on.shape) + apart * trained_on, trained_on, shared_variance=shared)
    assert attack.auc.value == pytest.approx(norm.cdf(apart / np.sqrt(2)), abs=0.01)
    assert attack.balanced_accuracy.value == pytest.approx(norm.cdf(apart / 2), abs=0.01)
    for found, rate in ((attack.tpr_at_1, 0.01), (attack.tpr_at_0_1, 0.001)):
        expected = norm.cdf(apart + norm.ppf(rate))
        assert found.value == pytest.approx(expected, abs=0.005 + 0.25 * expected)  # fits have 250 members: a little less
    assert (attack.roc[AT_1], attack.roc[AT_0_1]) == (attack.tpr_at_1.value, attack.tpr_at_0_1.value)
    assert attack.roc[-1] == 1
    assert np.all(np.diff(attack.roc[np.isfinite(attack.roc)]) >= 0)


def test_a_difference_in_spread_alone_is_found_by_a_variance_for_each_side():
    rng = np.random.default_rng(0)
    trained_on = balanced(60, 80, rng)
    phi = rng.normal(size=trained_on.shape) * np.where(trained_on, 1, 4)
    assert lira(phi, trained_on).auc.value > 0.75


@both_variances
def test_identical_distributions_give_one_half_and_the_null_covers_it(shared):
    rng = np.random.default_rng(0)
    trained_on = balanced(24, 60, rng)
    for same_models in (True, False):
        null = u_lira_null(rng.normal(size=(2, 24, 60)), trained_on, same_models=same_models, shared_variance=shared, splits=60)
        for each in (null.auc, null.balanced_accuracy):
            assert each.low < 0.5 < each.high
            assert each.mean == pytest.approx(0.5, abs=0.015)
        assert null.tpr_at_1.low <= 0.01 <= null.tpr_at_1.high
        assert np.isnan(null.tpr_at_0_1.mean)  # 720 scores that never saw it
        drawn = [u_lira(*rng.normal(size=(2, 24, 60)), trained_on, shared_variance=shared).auc.value for _ in range(20)]
        assert np.mean([null.auc.low <= value <= null.auc.high for value in drawn]) >= 0.8


def test_the_null_of_models_apart_knows_that_models_differ_as_a_whole():
    """Where a model is higher on everything, models against others vary more than both sides of the same models do."""
    rng = np.random.default_rng(0)
    trained_on = balanced(24, 60, rng)
    retrained = rng.normal(size=(2, 24, 60)) + 2 * rng.normal(size=(2, 24, 1))
    apart, same = (u_lira_null(retrained, trained_on, same_models=same, splits=60).auc.sd for same in (False, True))
    assert apart > 1.3 * same


def test_fewer_than_a_thousand_negatives_resolve_no_tenth_of_a_percent():
    phi, trained_on = population(20, 99)
    assert np.isnan(lira(phi, trained_on).tpr_at_0_1.value)  # 990 of them
    phi, trained_on = population(20, 100)
    attack = lira(phi, trained_on)
    assert not np.isnan(attack.tpr_at_0_1).any()
    few = lira(phi, trained_on, judged=np.arange(100)[None].repeat(20, 0) < 9)
    assert np.isnan(few.tpr_at_1).all()
    assert not np.isnan(few.auc).any()


def test_nothing_judged_is_not_a_number():
    phi, trained_on = population()
    attack = lira(phi, trained_on, judged=np.zeros_like(trained_on))
    for name in MEASURES:
        assert np.isnan(getattr(attack, name)).all()
    assert np.isnan(attack.example_accuracy).all()
    null = u_lira_null(phi[None], trained_on, same_models=True, judged=np.zeros_like(trained_on), splits=2)
    assert np.isnan(null.auc).all()


def test_models_that_agree_to_the_last_digit_tell_nothing():
    _, trained_on = population()
    attack = lira(np.full(trained_on.shape, 3.7), trained_on)
    np.testing.assert_array_equal(attack.ratios, 0)
    assert (attack.auc.value, attack.balanced_accuracy.value) == (0.5, 0.5)


# What must not matter


@both_variances
@given(seeds, st.integers(0, 8), st.integers(0, 10), st.sampled_from([-1e9, 1e3, 1e9]))
@settings(max_examples=12, deadline=None)
def test_a_member_is_never_in_its_own_fit(shared, seed, member, target, huge):
    """A score is a quadratic in the member's own φ, whose three coefficients are the fits': they stay as they are."""
    phi, trained_on = population(seed=seed)

    def score(value):
        moved = phi.copy()
        moved[member, target] = value
        return likelihood_ratios(moved, trained_on, shared_variance=shared)[member, target]

    others = [phi[np.setdiff1d(np.where(trained_on[:, target] == kind)[0], member), target] for kind in (True, False)]
    if shared:
        kept = np.delete(np.arange(9), member)
        variances = [
            np.mean([phi[kept, x][trained_on[kept, x] == kind].var(ddof=1) for x in range(11)]) for kind in (True, False)
        ]
    else:
        variances = [each.var(ddof=1) for each in others]
    densities = [log_density(huge, each.mean(), v) for each, v in zip(others, variances, strict=True)]
    assert score(huge) == pytest.approx(densities[0] - densities[1], rel=1e-5)


@both_variances
@given(seeds, st.floats(0.01, 100), st.floats(-1000, 1000))
@settings(max_examples=12, deadline=None)
def test_affine_maps_of_phi_change_nothing(shared, seed, scale, shift):
    phi, trained_on = population(seed=seed)
    own_shift = shift * np.random.default_rng(seed).normal(size=phi.shape[1])
    np.testing.assert_allclose(
        likelihood_ratios(scale * phi + own_shift, trained_on, shared_variance=shared),
        likelihood_ratios(phi, trained_on, shared_variance=shared),
        rtol=1e-6,
        atol=1e-6,
    )


def test_a_constant_added_to_the_logits_changes_nothing():
    rng = np.random.default_rng(0)
    logits, labels, trained_on = rng.normal(size=(10, 12, 5)), rng.integers(0, 5, 12), balanced(10, 12, rng)
    moved = logits + 100 * rng.normal(size=(10, 12, 1))
    ours, theirs = (lira(scaled_logits(each, labels), trained_on) for each in (logits, moved))
    np.testing.assert_allclose(ours.ratios, theirs.ratios, rtol=1e-8)


@both_variances
@given(seeds)
@settings(max_examples=12, deadline=None)
def test_sides_and_orders_are_only_names(shared, seed):
    phi, trained_on = population(seed=seed)
    ratios = likelihood_ratios(phi, trained_on, shared_variance=shared)
    np.testing.assert_allclose(likelihood_ratios(phi, ~trained_on, shared_variance=shared), -ratios, rtol=1e-9)
    rng = np.random.default_rng(seed)
    at = np.ix_(rng.permutation(9), rng.permutation(11))
    np.testing.assert_allclose(
        likelihood_ratios(phi[at], trained_on[at], shared_variance=shared), ratios[at], rtol=1e-6, atol=1e-9
    )


def test_u_lira_reads_the_unlearned_where_trained_on_and_the_others_elsewhere():
    (unlearned, trained_on), (never_saw, _) = population(seed=0), population(seed=1)
    expected = slow_ratios(np.where(trained_on, unlearned, never_saw), trained_on, False)
    np.testing.assert_allclose(u_lira(unlearned, never_saw, trained_on).ratios, expected, rtol=1e-9)
    noise = np.random.default_rng(0).normal(size=unlearned.shape)
    masked = np.where(trained_on, unlearned, noise), np.where(trained_on, noise, never_saw)
    np.testing.assert_array_equal(u_lira(*masked, trained_on).ratios, u_lira(unlearned, never_saw, trained_on).ratios)
    same = u_lira(unlearned, unlearned, trained_on)
    np.testing.assert_array_equal(same.ratios, lira(unlearned, trained_on).ratios)


def test_splits_of_the_null_depend_on_the_seed_alone():
    phi, trained_on = population(12, 20)
    retrained = np.stack([phi, population(12, 20, seed=1)[0]])
    first, again, other = (u_lira_null(retrained, trained_on, same_models=True, splits=9, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.auc_draws, again.auc_draws)
    assert not np.array_equal(first.auc_draws, other.auc_draws)
    assert first.auc == metrics.Null(
        first.auc_draws.mean(), first.auc_draws.std(ddof=1), *np.quantile(first.auc_draws, (0.025, 0.975))
    )


def test_jax_arrays_are_welcome():
    phi, trained_on = population()
    phi = phi.astype(np.float32)
    ours, theirs = (lira(*map(make, (phi, trained_on))) for make in (jnp.asarray, np.asarray))
    np.testing.assert_array_equal(ours.ratios, theirs.ratios)


# Mistakes


def test_a_diverged_member_is_named():
    phi, trained_on = population()
    phi[4, 2] = np.nan
    for attack in (lambda: lira(phi, trained_on), lambda: u_lira(phi, np.zeros_like(phi), trained_on)):
        with pytest.raises(ValueError, match="members 4 "):
            attack()


@pytest.mark.parametrize("flip", [False, True])
def test_too_few_members_of_a_kind_are_refused(flip):
    phi, trained_on = population()
    trained_on[:, 0] = np.arange(9) < 2
    with pytest.raises(ValueError, match="at least 3 members"):
        lira(phi, trained_on ^ flip)


def test_a_null_of_models_apart_takes_replicates():
    phi, trained_on = population()
    with pytest.raises(ValueError, match=r"^retrained: 1 replicate"):
        u_lira_null(phi[None], trained_on, same_models=False)


# Memorisation


def test_memorisation_is_that_of_a_literal_loop():
    rng = np.random.default_rng(0)
    trained_on, correct = balanced(14, 30, rng), rng.random((14, 30)) < 0.6
    found = memorisation(correct, trained_on)
    for x in range(30):
        seen, unseen = correct[trained_on[:, x], x], correct[~trained_on[:, x], x]
        assert found.score[x] == pytest.approx(seen.mean() - unseen.mean())
        assert found.error[x] == pytest.approx(np.sqrt(seen.var(ddof=1) / len(seen) + unseen.var(ddof=1) / len(unseen)))


def test_memorisation_at_its_ends():
    trained_on = balanced(8, 3, np.random.default_rng(0))
    correct = np.stack([trained_on[:, 0], ~trained_on[:, 1], np.ones(8, bool)], axis=1)
    found = memorisation(jnp.asarray(correct), jnp.asarray(trained_on))
    np.testing.assert_array_equal(found.score, [1, -1, 0])
    np.testing.assert_array_equal(found.error, 0)


def test_the_standard_error_is_the_spread_over_fresh_members():
    rng = np.random.default_rng(0)
    trained_on = balanced(20, 5_000, rng)
    found = memorisation(rng.random(trained_on.shape) < np.where(trained_on, 0.9, 0.4), trained_on)
    assert found.score.mean() == pytest.approx(0.5, abs=0.01)
    assert np.sqrt(np.mean(found.error**2)) == pytest.approx(found.score.std(), rel=0.05)


def test_memorisation_needs_two_members_of_each_kind():
    trained_on = np.arange(6)[:, None] < 1
    with pytest.raises(ValueError, match="at least two members"):
        memorisation(trained_on, trained_on)


def test_exposure_is_the_distance_of_two_gaussians_in_their_standard_deviation():
    rng = np.random.default_rng(0)
    trained_on = rng.permuted(np.tile([[True], [False]], (2000, 4)), axis=0)
    scores = rng.normal(size=trained_on.shape) * [1.0, 2.0, 3.0, 1.0] + trained_on * [0.0, 2.0, 12.0, -1.0]
    np.testing.assert_allclose(exposure(scores, trained_on), [0.0, 1.0, 4.0, -1.0], atol=0.12)
    np.testing.assert_allclose(exposure(7 + 3 * scores, trained_on), exposure(scores, trained_on), atol=1e-9)
    flat = exposure(trained_on.astype(float), trained_on)
    np.testing.assert_array_equal(flat, 0.0)  # no spread: nothing to measure by
    with pytest.raises(ValueError, match="two members"):
        exposure(scores[:1], trained_on[:1])


def test_exposure_is_what_a_loop_over_examples_and_members_says():
    rng = np.random.default_rng(1)
    trained_on = rng.permuted(np.tile([[True], [False]], (6, 5)), axis=0)
    scores = rng.normal(size=trained_on.shape)
    for example, found in enumerate(exposure(scores, trained_on)):
        inside = [s for s, t in zip(scores[:, example], trained_on[:, example], strict=True) if t]
        outside = [s for s, t in zip(scores[:, example], trained_on[:, example], strict=True) if not t]
        spread = math.sqrt((statistics.variance(inside) + statistics.variance(outside)) / 2)
        assert found == pytest.approx((statistics.fmean(inside) - statistics.fmean(outside)) / spread)
