"""Audits: their formulas against closed forms, libraries and restatements; the bounds on ε by simulation; the study."""

import csv
import dataclasses
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import run_in_process
from scipy.integrate import quad
from scipy.spatial.distance import jensenshannon
from scipy.stats import binomtest, gumbel_r, norm, ortho_group, spearmanr
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from experiments.audits.catalogue import AUDITS, CHANGES, Audit, Inverted, Known, Models
from experiments.audits.options import Config
from experiments.audits.ranking import DRAWS, Truth, compare, draws_of, truths
from experiments.audits.report import Line, _back_table
from experiments.audits.samples import SAMPLES, grade
from experiments.audits.study import Audited, _value
from unlearn_jax.errors import ArgumentError
from unlearn_jax.metrics import scaled_logits
from unlearn_jax.metrics.accuracy import residual_knowledge
from unlearn_jax.metrics.agreement import agreement_over_draws
from unlearn_jax.metrics.by_model import memory_axis
from unlearn_jax.metrics.effects import distances_left_out, effects
from unlearn_jax.metrics.likelihood import auc, offline_scores, unlearned_ratios
from unlearn_jax.metrics.null import Null
from unlearn_jax.metrics.privacy import (
    clopper_pearson_upper,
    epsilon_one_run,
    epsilon_over_models,
    gaussian_delta,
    gaussian_epsilon,
    largest_bound,
    mu_over_models,
)
from unlearn_jax.metrics.representations import linear_cka, probe_accuracy
from unlearn_jax.metrics.retrain_free import (
    class_js_divergence,
    hsic,
    non_member_share,
    split_half_dependence,
    unlearning_completeness,
)
from unlearn_jax.models import build
from unlearn_jax.training.compression import pruned, rounded
from unlearn_jax.training.fit import initialise, masked, training
from unlearn_jax.training.inversion import invert
from unlearn_jax.training.pools import member_keys
from unlearn_jax.training.relearning import train_further
from unlearn_jax.types import Cube, Examples, Labels, Problem, Recipe, Variables


def rng(seed=0):
    return np.random.default_rng(seed)


# Representations


def test_cka_is_that_of_its_definition_and_sees_no_rotation():
    first, second = rng(1).normal(size=(2, 20, 5)), rng(2).normal(size=(3, 20, 7)) + 4
    found = linear_cka(first, second)
    for (i, j), value in np.ndenumerate(found):
        x, y = first[i] - first[i].mean(0), second[j] - second[j].mean(0)
        literal = np.linalg.norm(y.T @ x) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
        assert value == pytest.approx(literal)
    turned = 3 * first @ ortho_group.rvs(5, random_state=0) + 1
    np.testing.assert_allclose(np.diag(linear_cka(first, turned)), 1)
    apart = np.zeros((1, 4, 1)), np.zeros((1, 4, 1))
    apart[0][0, :, 0], apart[1][0, :, 0] = (1, -1, 1, -1), (1, 1, -1, -1)
    assert linear_cka(*apart) == 0 and np.isnan(linear_cka(np.ones((1, 4, 2)), apart[0]))


def test_the_probe_is_the_ridge_classifier_of_scikit_learn():
    x, asked = rng(3).normal(size=(2, 60, 6)), rng(4).normal(size=(2, 30, 6))
    labels, answers = (x[0] @ rng(5).normal(size=(6, 4))).argmax(1), rng(6).integers(0, 4, 30)
    found = probe_accuracy(x, labels, asked, answers, 4, penalty=2.0)
    for number in range(2):
        scale = StandardScaler().fit(x[number])
        fitted = RidgeClassifier(alpha=2.0).fit(scale.transform(x[number]), labels)
        assert found[number] == pytest.approx(fitted.score(scale.transform(asked[number]), answers))
    assert probe_accuracy(x[:1], labels, x[:1], labels, 4) > 0.9


# Retrain-free


def test_the_share_of_non_members_is_that_of_the_mixture():
    draw = rng(7)
    members, others = draw.normal(size=(400, 3)) * 0.5, draw.normal(size=(400, 3)) + 1

    def mixture(share):
        count = round(400 * share)
        return np.concatenate([draw.normal(size=(count, 3)) + 1, draw.normal(size=(400 - count, 3)) * 0.5])

    for share in (0.0, 0.3, 0.7, 1.0):
        assert non_member_share(mixture(share), members, others) == pytest.approx(share, abs=0.06)
    assert non_member_share(members, np.ones((5, 3)), np.ones((4, 3))) == 1


def test_the_share_of_non_members_is_the_least_squares_fit_of_mean_embeddings():
    target, members, others = rng(8).normal(size=(5, 2)) + 0.5, rng(9).normal(size=(6, 2)), rng(10).normal(size=(4, 2)) + 1.5
    known = np.concatenate([members, others])
    target, members, others = ((side - known.mean(0)) / known.std(0) for side in (target, members, others))
    width = np.median([((a - b) ** 2).sum() for a in members for b in others])

    def product(first, second):
        pairs = [(a, b) for i, a in enumerate(first) for j, b in enumerate(second) if first is not second or i != j]
        return np.mean([np.exp(-((a - b) ** 2).sum() / width) for a, b in pairs])

    along = product(target, others) - product(target, members) - product(members, others) + product(members, members)
    length = product(others, others) - 2 * product(members, others) + product(members, members)
    assert 0 < along / length < 1
    assert non_member_share(target, members, others) == pytest.approx(along / length)


def test_hsic_is_its_trace_and_the_halves_are_paired_at_random():
    first = rng(11).normal(size=(12, 3))
    second = first[:, :2] + 0.1 * rng(12).normal(size=(12, 2))
    kernels = [
        np.array([[np.exp(-((a - b) ** 2).sum() / 2 / side.shape[1]) for b in side] for a in side]) for side in (first, second)
    ]
    middle = np.eye(12) - 1 / 12
    literal = np.trace(kernels[0] @ middle @ kernels[1] @ middle) / 11**2
    assert hsic(first, second) == pytest.approx(literal)
    assert hsic(first, second) > 2 * hsic(first, second[rng(0).permutation(12)])
    order = rng(3).permutation(12)
    scaled = first - first.mean(0)
    scaled /= np.sqrt((scaled**2).mean())
    assert split_half_dependence(first, splits=1, seed=3) == pytest.approx(hsic(scaled[order[:6]], scaled[order[6:]]))
    assert split_half_dependence(np.ones((8, 2))) == 0


def test_rf_jsd_is_that_of_scipy_over_the_common_classes():
    p, q = rng(13).dirichlet(np.ones(4), 9), rng(14).dirichlet(np.ones(4), 7)
    labels, others = np.array([0, 0, 1, 1, 1, 2, 2, 0, 1]), np.array([0, 1, 1, 3, 3, 0, 1])
    literal = [jensenshannon(p[labels == c].mean(0), q[others == c].mean(0), base=2) ** 2 for c in (0, 1)]
    assert class_js_divergence(p, labels, q, others) == pytest.approx(np.mean(literal))
    with pytest.raises(ValueError, match=r"^unseen_labels: no class of forget_labels"):
        class_js_divergence(p, np.zeros(9, int), q, np.ones(7, int))


def test_completeness_is_the_weighted_mean_of_gumbel_distributions():
    unlearned, original, shadows = (
        2 * rng(30).normal(size=(2, 7)),
        rng(31).normal(size=(2, 7)) + 4,
        2 * rng(32).normal(size=(5, 7)),
    )
    saw = rng(33).random((5, 7)) < 0.4
    saw[0] = False
    signal, fitted, never = (-np.log(0.01 - np.log(1 / (1 + np.exp(-side)) + 1e-5)) for side in (unlearned, original, shadows))
    levels, score = np.linspace(0, 1, 100), np.zeros((2, 7))
    for model in range(2):
        for level, weight in itertools.pairwise(levels):
            moved = np.ma.masked_array(never + level * (fitted[model] - never), saw)
            scale = np.sqrt(6) * moved.std() / np.pi
            score[model] += weight * gumbel_r.cdf(signal[model], moved.mean(axis=0) - 0.5772157 * scale, scale)
    found = unlearning_completeness(unlearned, original, shadows, saw)
    np.testing.assert_allclose(found, 1 - score / levels[1:].sum(), rtol=1e-6)


def test_completeness_is_small_for_what_is_fitted_and_large_for_what_is_not():
    shadows, original = rng(34).normal(size=(1, 50)), rng(35).normal(size=(1, 50)) + 6
    left, gone = (unlearning_completeness(each, original, shadows, shadows > 99).mean() for each in (original, shadows))
    assert left < 0.3 < 0.7 < gone
    with pytest.raises(ValueError, match=r"^saw: every shadow model saw some example"):
        unlearning_completeness(original, original, shadows, shadows > -99)


def test_ruli_tells_unlearned_models_from_retrained_ones_on_either_side_and_finds_nothing_in_noise():
    retrained = rng(36).normal(size=(12, 40))

    def found(unlearned):
        own, others = unlearned_ratios(unlearned, retrained)
        return auc(own, np.tile(others.ravel(), (len(own), 1))).mean()

    noise = rng(37).normal(size=(8, 40))
    assert abs(found(noise) - 0.5) < 0.1 and found(noise + 3) > 0.95 and found(noise - 3) > 0.95
    own, others = unlearned_ratios(noise + 1, retrained)
    density = norm.logpdf(noise[0, 5] + 1, *(f(np.delete(noise[:, 5] + 1, 0)) for f in (np.mean, lambda x: x.std(ddof=1))))
    other = norm.logpdf(noise[0, 5] + 1, retrained[:, 5].mean(), retrained[:, 5].std(ddof=1))
    assert own[0, 5] == pytest.approx(density - other) and others.shape == retrained.shape


# Bounds on ε


@pytest.mark.parametrize(("hits", "trials"), [(0, 24), (3, 24), (24, 24)])
def test_the_interval_is_that_of_scipy(hits, trials):
    exact = binomtest(hits, trials, alternative="less").proportion_ci(0.99, "exact").high
    assert clopper_pearson_upper(hits, trials, 0.01) == pytest.approx(exact)


def test_epsilon_of_two_gaussians_is_that_of_the_integral():
    epsilon, mu = 1.3, 0.8
    excess = quad(lambda x: max(norm.pdf(x, mu) - np.exp(epsilon) * norm.pdf(x), 0), -10, 12, points=[epsilon / mu + mu / 2])[0]
    assert gaussian_delta(epsilon, mu) == pytest.approx(excess, rel=1e-6)
    assert gaussian_epsilon(mu, gaussian_delta(epsilon, mu)) == pytest.approx(epsilon)
    assert gaussian_epsilon(0.0, 1e-5) == 0 and gaussian_epsilon(1e-9, 1e-5) == 0 and gaussian_epsilon(50.0, 1e-5) == 100


def test_bounds_hold_in_draws_of_a_gaussian_mechanism_and_are_not_empty():
    """Two hundred draws of 100 models a side, 1.5 sd apart: the true μ, and the true ε at δ."""
    draw, mu, delta, thresholds = rng(15), 1.5, 1e-3, np.array([0.75, 2.0])
    pairs = [(draw.normal(size=100) + mu, draw.normal(size=100)) for _ in range(200)]
    bounds = np.array([[epsilon_over_models(*pair, thresholds, delta), mu_over_models(*pair, thresholds)] for pair in pairs])
    true = np.array([gaussian_epsilon(mu, delta), mu])
    assert (bounds <= true).mean(axis=0).min() >= 0.95
    assert np.median(bounds[:, 0]) > 0.7 and np.median(bounds[:, 1]) > 0.7 and bounds[:, 1].min() > 0
    turned = np.array([epsilon_over_models(other, one, thresholds, delta) for one, other in pairs])
    np.testing.assert_allclose(turned, bounds[:, 0])  # the definition is symmetric
    nothing = [epsilon_over_models(other, draw.normal(size=100), thresholds) for _, other in pairs]
    assert np.mean(np.array(nothing) > 0) <= 0.05


def test_a_bound_is_at_most_what_so_many_models_can_show():
    upper = clopper_pearson_upper(0, 24, 0.05 / 4)
    assert largest_bound(24, 24, 1) == pytest.approx(np.log((1 - upper) / upper))
    assert largest_bound(24, 24, 2) < largest_bound(24, 24, 1) < largest_bound(96, 96, 1)
    with pytest.raises(ValueError, match=r"^models: 0 found"):
        largest_bound(0, 24, 1)


# The bounds of jax_privacy 2.0.0 (auditing.py, from PyPI) on the same counts, run once: the larger of both orders of
# `CanaryScoreAuditor(first, second).epsilon_clopper_pearson(0.025, delta, one_sided=False, threshold_strategy=Explicit(0.5))`.
# Its two intervals at half of 0.025 each are the four of ours at a quarter of 0.05: we read each event in both orders.
REFEREE = {
    (24, 24, 0, 24, 0.0): 1.6078616301694422,
    (20, 24, 3, 24, 0.0): 0.5273058326812659,
    (20, 24, 3, 24, 0.01): 0.5104147989279957,
    (90, 100, 35, 120, 1e-5): 1.171054068916002,
    (12, 24, 11, 24, 0.0): 0.0,
    (2, 60, 41, 60, 0.0): 1.4198959301191818,
}


@pytest.mark.parametrize("counts", REFEREE)
def test_the_bound_over_models_is_that_of_jax_privacy(counts):
    first, of_first, second, of_second, delta = counts
    sides = [np.arange(of) < above for above, of in ((first, of_first), (second, of_second))]
    found = epsilon_over_models(*(side.astype(float) for side in sides), np.array([0.5]), delta)
    assert found == pytest.approx(REFEREE[counts], abs=1e-9)


@pytest.mark.parametrize(("delta", "bound"), [(1e-5, 0.9580863562992425), (1e-3, 0.9256109029173032)])
def test_the_bound_of_one_run_is_that_of_jax_privacy(delta, bound):
    """80 of 100 guesses are right: `auditing._epsilon_one_run(0, 100, 100, 80, 0.05, delta)` there, which searches to 1e-6."""
    right = np.arange(50) < 40
    found = epsilon_one_run(right[None] + 0.0, ~right[None] + 0.0, guesses=1.0, delta=delta)
    assert found == pytest.approx(bound, abs=2e-6)


def test_the_bound_of_one_run_holds_for_randomised_response_and_is_not_empty():
    """Each of 200 examples gives its side away with probability e^ε / (1 + e^ε), in each of 400 models."""
    epsilon, count, models = 1.0, 100, 400
    truthful = rng(16).random((models, 2 * count)) < 1 / (1 + np.exp(-epsilon))
    member = np.arange(2 * count) < count
    scores = np.where(truthful == member, 1.0, 0.0)
    bounds = epsilon_one_run(scores[:, member], scores[:, ~member], guesses=1.0)
    assert (bounds <= epsilon).mean() >= 0.95 and np.median(bounds) > 0.5
    with_delta = epsilon_one_run(scores[:, member], scores[:, ~member], guesses=1.0, delta=1e-4)
    assert (with_delta <= bounds).all() and np.median(with_delta) > 0.4
    noise = rng(17).normal(size=(models, 2 * count))
    assert (epsilon_one_run(noise[:, member], noise[:, ~member]) > 0).mean() <= 0.05
    with pytest.raises(ValueError, match=r"^non_members: 3 models, expected 400 as in targets"):
        inspect.unwrap(epsilon_one_run)(noise, noise[:3])


# Likelihood, accuracies, ranks


def test_offline_scores_leave_out_what_saw_the_target():
    phi, out = rng(18).normal(size=(2, 5)), rng(19).normal(size=(6, 5))
    saw = (np.arange(6)[:, None] + np.arange(5)) % 3 == 0
    found = offline_scores(phi, out, saw)
    for (model, target), value in np.ndenumerate(found):
        never = out[~saw[:, target], target]
        assert value == pytest.approx((phi[model, target] - never.mean()) / never.std(ddof=1))
    np.testing.assert_allclose(offline_scores(phi, out), (phi - out.mean(0)) / out.std(0, ddof=1))
    with pytest.raises(ValueError, match=r"^out: a target has 1 models that never saw it"):
        offline_scores(phi, out, np.arange(6)[:, None] + np.zeros((1, 5)) > 0)


def test_the_auc_is_that_of_scikit_learn():
    member, other = rng(20).integers(0, 5, (3, 12)) + 0.0, rng(21).integers(0, 4, (3, 9)) + 0.0
    truth = np.arange(21) < 12
    literal = [roc_auc_score(truth, np.concatenate(pair)) for pair in zip(member, other, strict=True)]
    np.testing.assert_allclose(auc(member, other), literal)


def test_residual_knowledge_is_a_ratio_of_shares():
    labels = np.array([0, 1])
    logits = np.eye(2)[np.array([[[0, 1], [0, 0]], [[1, 0], [1, 1]]])]  # [models, draws, examples, classes]
    np.testing.assert_allclose(residual_knowledge(logits, logits, labels), [0.75 / 0.5, 0.25 / 0.5])
    assert np.isnan(residual_knowledge(logits, np.eye(2)[np.array([[[1, 0]] * 2])], labels)).all()


def test_agreement_over_draws_is_spearmans_and_widens_with_the_models():
    truth = rng(22).normal(size=12)
    audit = truth + rng(23).normal(size=12)
    same = np.tile(truth, (400, 1)), np.tile(audit, (400, 1))
    noisy = tuple(
        side + np.where(np.arange(400)[:, None] > 0, 1, 0) * rng(24 + i).normal(size=side.shape) for i, side in enumerate(same)
    )
    found, wider = agreement_over_draws(*same), agreement_over_draws(*noisy)
    assert found.value == wider.value == pytest.approx(spearmanr(truth, audit).statistic)
    assert found.low < found.value < found.high and wider.low < found.low
    assert agreement_over_draws(same[0], same[0]) == pytest.approx((1, 1, 1))
    assert agreement_over_draws(same[0][:, :4], same[1][:, :4])[1:] == (-1, 1)
    with pytest.raises(ValueError, match=r"^first, second: shapes"):
        inspect.unwrap(agreement_over_draws)(same[0], same[1][1:])


# Changes to the models


def weights():
    draw = rng(25)
    return Variables(
        {"a": {"kernel": draw.normal(size=(2, 5, 7)), "bias": draw.normal(size=(2, 7))}, "b": draw.normal(size=(2, 3, 3, 2, 4))},
        {},
    )


def test_rounding_keeps_few_values_and_moves_by_half_a_step():
    before, after = weights(), rounded(weights(), 4)
    for old, new in ((before.params["a"]["kernel"], after.params["a"]["kernel"]), (before.params["b"], after.params["b"])):
        for model in range(2):
            step = np.abs(old[model]).max() / 7
            assert len(np.unique(np.round(new[model] / step))) <= 15 and np.abs(new[model] - old[model]).max() <= step / 2 + 1e-12
            np.testing.assert_allclose(new[model] / step, np.round(new[model] / step), atol=1e-9)
    np.testing.assert_array_equal(after.params["a"]["bias"], before.params["a"]["bias"])
    with pytest.raises(ValueError, match=r"^bits: 1 found"):
        rounded(before, 1)


def test_pruning_removes_the_smallest_weights_of_each_model():
    before, after = weights(), pruned(weights(), 0.3)
    for model in range(2):
        old, new = (
            np.concatenate([v.params["a"]["kernel"][model].ravel(), v.params["b"][model].ravel()]) for v in (before, after)
        )
        gone = new == 0
        assert gone.sum() == round(0.3 * len(old)) and np.abs(old[gone]).max() < np.abs(old[~gone]).min()
        np.testing.assert_array_equal(new[~gone], old[~gone])
    np.testing.assert_array_equal(after.params["a"]["bias"], before.params["a"]["bias"])
    assert pruned(before, 0.0) is before
    with pytest.raises(ValueError, match=r"^share: 1.5 found"):
        pruned(before, 1.5)


def test_further_training_is_plain_descent_of_each_model_on_the_retain_set():
    draw, rows = rng(26), 12
    examples = Examples(jnp.asarray(draw.normal(size=(rows, 4)), jnp.float32), jnp.asarray(draw.integers(0, 2, rows), jnp.int32))
    whole = jnp.ones(rows, bool)
    recipe = Recipe(epochs=1, batch_size=4, learning_rate=0.5)
    facts = {"model": build("mlp", classes=2, width=3), "classes": 2, "kept_count": rows, "forget_count": 0, "recipe": recipe}
    problem = Problem(train=examples, held_out=examples, kept=whole, forget=~whole, **facts)
    part = masked(problem, jnp.arange(rows) < 6, 6)
    models = jax.vmap(lambda key: initialise(key, problem))(member_keys(0, "test", 3))
    keys = member_keys(0, "further", 3)
    found = train_further(part, models, keys, epochs=2, learning_rate=0.1, chunk=2)
    descent = training(Recipe(epochs=2, batch_size=4, learning_rate=0.1, schedule="constant"), 6)
    expected = jax.jit(jax.vmap(lambda key, variables: descent(key, part, variables)))(keys, models)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)


def test_inversion_climbs_to_the_class_and_each_start_for_itself():
    model = build("mlp", classes=3, width=8)
    images = rng(50).normal(size=(6, 5)).astype(np.float32)
    keys = member_keys(0, "inversion", 2)
    variables = jax.tree.map(np.asarray, jax.vmap(lambda key: model.init(key, jnp.asarray(images[:1])))(keys))
    found = invert(model, variables, images, 1)
    assert found.shape == (2, 6, 5)
    for member in range(2):
        own = jax.tree.map(lambda leaf, member=member: leaf[member], variables)
        before, after = (jax.nn.log_softmax(model.apply(own, x, train=False)[0])[:, 1] for x in (images, found[member]))
        assert (np.asarray(after - before) > 0).all()
    np.testing.assert_allclose(invert(model, variables, images[:1], 1)[:, 0], found[:, 0], atol=1e-4)


def test_inversions_are_judged_by_other_originals():
    seen = np.array([[[0.2, 0.4], [1.0, 1.0]], [[0.0, 0.0], [0.6, 0.8]], [[0.1, 0.1], [0.3, 0.3]]])  # [originals, models, draws]
    nothing = np.empty((2, 0))
    pool = Models(
        np.array([0, -1]), Cube(*[nothing] * 3), nothing, None, nothing, {}, Inverted(np.array([[1, 0], [0.5, 0.5]]), seen)
    )
    np.testing.assert_allclose(AUDITS["inversion_recognised"].measure(pool, None), [0.05, (1 + 0.7 + 0.3) / 3])
    np.testing.assert_allclose(AUDITS["inversion_likeness"].measure(pool, None), [0.5, 0.5])


# The study


def audited(draw, count, forget=12):
    """A pool whose model i comes from original i, and what is known of 6 originals, 12 oracles and 8 models on halves."""
    labels = Labels(draw.integers(0, 3, forget), draw.integers(0, 3, 5), draw.integers(0, 3, 5))
    margins = {"g": draw.normal(size=(6, forget)) + 4, "o": draw.normal(size=(12, forget)), "h": draw.normal(size=(8, forget))}
    known = Known(
        labels=labels,
        unseen=labels.test,
        wrong=np.zeros(forget, bool),
        forgotten=None,
        memory=memory_axis(margins["g"], margins["o"]),
        originals=np.full((6, 5, 3), 1 / 3),
        oracles={"forget": margins["o"]},
        oracle_features=None,
        oracle_nudged=np.empty(0),
        halves={"forget": margins["h"]},
        saw=np.zeros((8, 5), bool),
        saw_forget=(np.arange(8)[:, None] + np.arange(forget)) % 2 == 0,
        vulnerable=np.arange(forget) < 3,
        fitted=margins["g"],
        delta=1e-5,
        seed=0,
    )

    def models(of_forget):
        logits = np.zeros((count, forget, 3))
        logits[:, np.arange(forget), labels.forget] = of_forget + np.log(2)
        rest = draw.normal(size=(count, 5, 3))
        return Models(np.arange(count) % 6, Cube(logits, rest, rest), np.empty((count, 0)), None, np.empty((count, 0)), {})

    return models, known, margins


def test_a_model_that_diverges_under_a_change_is_lost():
    models, known, _ = audited(rng(40), 6)
    before = models(rng(41).normal(size=(6, 12)) + 2)
    after = before.cube.forget + 0.1 * rng(42).normal(size=before.cube.forget.shape)
    after[2, 0, 0] = np.nan
    pool = dataclasses.replace(before, changed={"training on R": after})
    values = {name: AUDITS[name].measure(pool, known) for name in ("memory_after_training_on_r", "regained_by_training_on_r")}
    for found in values.values():
        np.testing.assert_array_equal(np.isnan(found), np.arange(6) == 2)
    kept = np.delete(np.arange(6), 2)
    alone = known.memory.of(scaled_logits(after[kept], known.labels.forget), kept)
    np.testing.assert_allclose(values["memory_after_training_on_r"][kept], alone)
    found = {"x": Audited(np.arange(6), before.cube, values)}
    audit = AUDITS["memory_after_training_on_r"]
    value, drawn = _value(None, audit, found, "x", np.stack([np.ones(6), np.arange(6) + 0.0]), 0)
    assert value.value == pytest.approx(alone.mean()) and drawn[0] == pytest.approx(alone.mean())
    assert drawn[1] == pytest.approx(np.average(alone, weights=kept))
    changes = [f"memory_after_{change.replace(' ', '_').lower()}" for change in CHANGES]
    rows = [Line("x", each, "comes back", 0.5, 0, 1, 0.0, 0.1, 5.0, 5 if each == changes[0] else 6) for each in changes]
    rows[1] = rows[1]._replace(value=float("nan"), models=0)
    table = _back_table(rows, {"x": Truth(None, 1.0, np.arange(6), 6)})
    assert "| 0.50 (5 of 6) | lost (0 of 6) | 0.50 |" in table


def test_audits_of_single_examples_are_graded_by_what_is_remembered():
    models, known, margins = audited(rng(43), 12, forget=60)
    others, draw = rng(44).normal(size=(10, 60)), rng(45)
    level = np.linspace(0, 1, 60)
    left = level * margins["g"].mean(0) + 0.5 * draw.normal(size=(12, 60))
    grades = {row.audit: row.agreement for row in grade("x", models(left), known, others)}
    assert {*grades} == {*SAMPLES} and min(grades["loss"], grades["iam"], grades["lira"]) > 0.7 and grades["ruli"] > 0.5
    nothing = {row.audit: row.agreement for row in grade("x", models(draw.normal(size=(12, 60))), known, others)}
    assert max(map(abs, nothing.values())) < 0.35
    assert grade("x", audited(rng(46), 5)[0](draw.normal(size=(5, 12))), known, others) == []


def test_the_distance_in_draws_is_that_of_the_effect_sizes():
    draw = rng(27)
    g, o = draw.normal(size=(6, 20)) + 3, draw.normal(size=(12, 20))
    m = 0.4 * g + 0.3 * draw.normal(size=(6, 20))
    found = effects({"forget": m}, {"forget": g}, {"forget": o})
    truth = Truth(found, 1.0, np.arange(6), 6)
    weights = np.concatenate([np.ones((1, 6)), np.ones((6, 6)) - np.eye(6)])
    left_out = truths({"x": truth}, weights)["x"]
    np.testing.assert_allclose(left_out, distances_left_out([found]), rtol=0.05)
    assert left_out[0] == truth.distance == found.distance
    drawn = draws_of(0, 6)
    assert drawn.shape == (DRAWS + 1, 6) and (drawn[0] == 1).all() and (drawn.sum(1) == 6).all()
    assert truths({"x": Truth(None, 1.0, np.arange(6), 6)}, drawn) == {}


def test_an_audit_is_ranked_by_both_judges_and_what_it_calls_good_is_held_against_the_truth():
    levels = dict(zip("abcdef", (0.1, 0.2, 0.4, 0.6, 0.8, 1.0), strict=True))
    distances = {name: np.full(DRAWS + 1, level) for name, level in levels.items()}
    means = {name: 0.5 + level * (-1 if name == "b" else 1) for name, level in levels.items()}
    means["e"] = 0.55  # fooled
    audit = Audit("x", None, "retrain-free", False, 0.0, "x", "", "", ())
    drawn = {name: np.full(DRAWS + 1, mean) for name, mean in means.items()}
    null, claim = compare(audit, drawn, Null(0.5, 0.1, 0, 0), distances, distances, Config())
    assert (null.judged_by, claim.judged_by) == ("null", "claim")
    assert (null.called_good, null.fail, null.best, null.best_distance) == (3, "e", "e", 0.8)
    assert claim.called_good is None and claim.best == "b"
    assert null.distance == pytest.approx(spearmanr([0.1, 0.2, 0.4, 0.6, 0.05, 1.0], list(levels.values())).statistic)
    assert claim.distance == pytest.approx(spearmanr([means[name] for name in levels], list(levels.values())).statistic)
    same = {name: np.full(DRAWS + 1, 1.0) for name in levels}
    blind = compare(audit, same, Null(0.5, 0.1, 0, 0), distances, distances, Config())[0]
    assert (blind.distance, blind.distance_low, blind.distance_high, blind.klom_low) == (None, None, None, None)
    unknown = compare(audit, drawn, Null(0.5, 0.1, 0, 0), {}, distances, Config())[0]
    assert unknown.distance is None and unknown.klom is not None and np.isnan(unknown.best_distance)


def test_what_cannot_be_audited_is_refused():
    with pytest.raises(ArgumentError, match=r"^--methods original,retrain: none to audit"):
        Config(methods=("original", "retrain")).check()
    with pytest.raises(ArgumentError, match=r"^--half-models 9: expected an even number"):
        Config(half_models=9).check()


def test_the_study_writes_its_tables_and_reads_what_it_kept(tmp_path):
    words = (
        "--exp",
        "audits",
        "--smoke",
        "--device",
        "cpu",
        "--methods",
        "finetune,gradient_ascent,sisa",
        "--forget.kind",
        "class",
    )
    words = (*words, "--members", "4", "--out", tmp_path / "run", "--cache", tmp_path / "cache")
    done = run_in_process(*words)
    assert done.returncode == 0, done.stderr
    assert "Left out, not of single models or not supported by the model: sisa." in done.stdout

    def table(name):
        return list(csv.DictReader((tmp_path / "run" / name).read_text().splitlines()))

    rows = {(row["method"], row["audit"]): row for row in table("audits.csv")}
    methods = ("original", "retrain", "finetune", "gradient_ascent")
    of_nothing = {"residual_knowledge"}  # retrained models never name the forgotten class
    expected = [name for name, audit in AUDITS.items() if "memory" not in audit.needs or ("finetune", name) in rows]
    assert {*rows} == {(method, audit) for method in methods for audit in {*expected} - of_nothing}
    for row in rows.values():
        assert float(row["value_low"]) <= float(row["value"]) + 1e-9 and row["models"] == "4"
    classes = [float(rows["retrain", f"accuracy_{part}"]["value"]) for part in ("forgotten_class", "kept_classes")]
    assert classes[0] == 0 < classes[1]
    recognised, alike = (
        [float(rows[name, f"inversion_{what}"]["value"]) for name in ("original", "retrain")]
        for what in ("recognised", "likeness")
    )
    assert recognised[0] > recognised[1] and alike[0] > alike[1]
    assert table("samples.csv") == []  # fewer than three models a half
    assert {row["judged_by"] for row in table("agreement.csv")} == {"null", "claim"}
    assert [row["method"] for row in table("truth.csv")] == [*methods]
    assert {row["block"] for row in table("layers.csv")} == {"hidden1", "hidden2"}
    summary = (tmp_path / "run/summary.md").read_text()
    assert "loss MIA" in summary and all(change in summary for change in CHANGES)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run/audits").rglob("*.npz")}
    before = (tmp_path / "run/audits.csv").read_bytes()
    assert run_in_process(*words).returncode == 0
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "run/audits").rglob("*.npz")}
    assert (tmp_path / "run/audits.csv").read_bytes() == before
