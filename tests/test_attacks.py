"""Attacks, features and model-based metrics against literal references, known answers and properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, jensenshannon, mahalanobis
from scipy.stats import norm
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from unlearn_jax import metrics
from unlearn_jax.metrics.attacks import _balanced, _logistic_regressions

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 5, 30)
P = metrics.probabilities(RNG.normal(size=(30, 5)) * 3)


# Features


def test_output_features_are_the_literal_ones():
    got = metrics.output_features(P, LABELS)
    log = np.log
    for i, (p, y) in enumerate(zip(P, LABELS, strict=True)):
        down = sorted(p, reverse=True)
        expected = {
            "loss": [-log(p[y])],
            "confidence": [p[y]],
            "margin": [log(p[y] / (1 - p[y]))],
            "correctness": [float(p.argmax() == y)],
            "entropy": [-sum(q * log(q) for q in p)],
            "modified_entropy": [-(1 - p[y]) * log(p[y]) - sum(p[j] * log(1 - p[j]) for j in range(5) if j != y)],
            "top_gaps": [log(down[k] / down[k + 1]) for k in range(3)],
            "sorted_probabilities": [log(q) for q in down],
        }
        assert set(got) == set(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(got[name][i], values, rtol=1e-9, err_msg=name)


def test_output_features_at_certainty_are_finite():
    got = metrics.output_features(np.eye(3), np.array([0, 0, 0]))
    assert all(np.isfinite(columns).all() for columns in got.values())
    np.testing.assert_allclose(got["loss"][:, 0], [0, -np.log(1e-30), -np.log(1e-30)])
    assert got["margin"][0, 0] == -got["margin"][1, 0] > 0
    with pytest.raises(ValueError, match="examples 1 "):
        metrics.output_features(np.array([[0.5, 0.5], [np.nan, 1]]), np.array([0, 0]))


def test_two_classes_have_one_gap():
    assert metrics.output_features(P[:, :2] / P[:, :2].sum(1, keepdims=True), LABELS % 2)["top_gaps"].shape == (30, 1)


def test_joined_features_keep_their_order():
    features = metrics.output_features(P, LABELS)
    both = metrics.joined(features, ["top_gaps", "loss"])
    np.testing.assert_array_equal(both, np.concatenate([features["top_gaps"], features["loss"]], axis=1))


@pytest.mark.parametrize("neighbours", [1, 4, 100])
def test_neighbour_distances_are_the_literal_ones(neighbours):
    points, references = RNG.normal(size=(7, 3)), RNG.normal(size=(20, 3))
    literal = [np.sort(np.linalg.norm(references - point, axis=1))[:neighbours].mean() for point in points]
    np.testing.assert_allclose(metrics.neighbour_distances(points, references, neighbours), literal)
    assert metrics.neighbour_distances(references, references, 1).max() < 1e-6  # a reference finds itself


def test_hellinger_distances():
    apart = cdist(metrics.hellinger(P[:4]), metrics.hellinger(P[:4]))
    literal = [[1 - np.sqrt(p * q).sum() for q in P[:4]] for p in P[:4]]
    np.testing.assert_allclose(apart**2, literal, atol=1e-12)
    assert cdist(metrics.hellinger(np.eye(2)), metrics.hellinger(np.eye(2)))[0, 1] == pytest.approx(1)


def test_mahalanobis_distances_are_the_literal_ones():
    labels = np.arange(60) % 3
    references = RNG.normal(size=(60, 4)) @ RNG.normal(size=(4, 4)) + labels[:, None]
    points = RNG.normal(size=(8, 4))
    means = [references[labels == c].mean(0) for c in range(3)]
    shared = sum((references[labels == c] - means[c]).T @ (references[labels == c] - means[c]) for c in range(3)) / 60
    inverse = np.linalg.inv(shared + 1e-3 * np.trace(shared) / 4 * np.eye(4))
    literal = [min(mahalanobis(point, mean, inverse) for mean in means) for point in points]
    np.testing.assert_allclose(metrics.mahalanobis_distances(points, references, labels), literal)
    dead = np.pad(references, ((0, 0), (0, 2)))  # units that never fire
    assert np.isfinite(metrics.mahalanobis_distances(np.pad(points, ((0, 0), (0, 2)), constant_values=1.0), dead, labels)).all()


@pytest.mark.parametrize("alike", [1, 4, 100])
def test_rows_are_shuffled_among_examples_of_like_key(alike):
    key, columns = RNG.normal(size=30), RNG.normal(size=(30, 2))
    found = metrics.shuffled_among_alike(columns, key, 1, alike)
    order = np.argsort(key)
    for first in range(0, 30, alike):
        group = order[first : first + alike]
        assert sorted(map(tuple, found[group])) == sorted(map(tuple, columns[group]))  # rows stay whole
    assert (found == columns).all() == (alike == 1)
    np.testing.assert_array_equal(found, metrics.shuffled_among_alike(columns, key, 1, alike))


def test_ties_of_the_key_are_shuffled_among_all_of_them():
    columns = np.arange(1000.0)[:, None]
    found = metrics.shuffled_among_alike(columns, np.zeros(1000))
    assert abs(np.corrcoef(found[:, 0], columns[:, 0])[0, 1]) < 0.15


# Logistic regression on the loss


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-3, 1, 30]), shift=st.sampled_from([0, 0.5, 50]))
@settings(deadline=None, max_examples=8)
def test_newton_reaches_scikit_learns_optimum(seed, scale, shift):
    rng = np.random.default_rng(seed)
    is_member = np.arange(24) < 12
    x = scale * (rng.exponential(size=(2, 24)) + shift * is_member)
    trained_on = rng.permuted(np.tile(np.arange(24) % 3 != 0, (2, 1)), axis=1)
    slope, intercept = _logistic_regressions(x, is_member, trained_on, 1.0)
    for model in range(2):
        for fold in range(2):
            use = trained_on[fold]
            if len(set(is_member[use])) == 2:
                theirs = LogisticRegression(tol=1e-10, max_iter=10_000).fit(x[model][use, None], is_member[use])
                at = np.linspace(x[model].min(), x[model].max(), 5)
                ours = slope[model, fold] * at + intercept[model, fold]
                np.testing.assert_allclose(ours, theirs.decision_function(at[:, None]), rtol=2e-3, atol=2e-3)


def test_logistic_mia_is_the_cross_validated_one():
    forget, test = RNG.exponential(1.0, size=(3, 33)), RNG.exponential(2.0, size=(3, 47))
    rows, is_member, fold = _balanced(33, 47, 10, 5)
    assert [len(own) for own in rows] == [33, 33] and set(fold) == set(range(10))
    literal = []
    for model in range(3):
        losses = np.concatenate([forget[model][rows[0]], test[model][rows[1]]])[:, None]
        told = 0
        for number in range(10):
            attack = LogisticRegression(tol=1e-10, solver="newton-cholesky").fit(
                losses[fold != number], is_member[fold != number]
            )
            told += (attack.predict(losses[fold == number]) == is_member[fold == number]).sum()
        literal.append(told / 66)
    np.testing.assert_array_equal(metrics.logistic_mia(forget, test, seed=5), literal)


def test_logistic_mia_at_known_points():
    low, high = RNG.uniform(0, 1, size=(2, 40)), RNG.uniform(10, 11, size=(2, 60))
    np.testing.assert_array_equal(metrics.logistic_mia(low, high), 1)
    np.testing.assert_array_equal(metrics.logistic_mia(high, low), 1)  # either side may have the larger loss
    same = RNG.exponential(size=(40, 60)), RNG.exponential(size=(40, 60))
    assert metrics.logistic_mia(*same).mean() == pytest.approx(0.5, abs=0.05)
    np.testing.assert_array_equal(metrics.logistic_mia(low[:, :1], high), 0.5)  # nothing to learn from
    assert metrics.logistic_mia(low[:, :2], high).shape == (2,)
    with pytest.raises(ValueError, match="models 1 "):
        metrics.logistic_mia(low, np.where(np.arange(2)[:, None] == 1, np.nan, high))


def test_of_small_losses_it_asks_whether_they_are_above_the_mean():
    """The penalty leaves no slope then, and only the threshold counts, as with scikit-learn."""
    low, high = 1e-6 * RNG.exponential(1.0, size=(1, 20)), 1e-6 * RNG.exponential(3.0, size=(1, 20))
    rows, is_member, fold = _balanced(20, 20, 10, 0)
    losses = np.concatenate([low[0][rows[0]], high[0][rows[1]]])
    means = np.array([losses[fold != number].mean() for number in range(10)])
    assert metrics.logistic_mia(low, high)[0] == ((losses < means[fold]) == is_member).mean()


# The attack by any features


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize(
    ("attacker", "classifier"),
    [
        ("logistic", LogisticRegression(max_iter=1000, class_weight="balanced")),
        ("svc", SVC(class_weight="balanced")),
        ("trees", HistGradientBoostingClassifier(max_iter=30, learning_rate=0.2, max_leaf_nodes=8, min_samples_leaf=10)),
        ("neighbours", None),
    ],
)
def test_feature_mias_are_the_cross_validated_attacks_they_say(attacker, classifier, models):
    """Literal folds, one example after the other; what is tested is in no training fold of any model."""
    member = RNG.normal(size=(models, 50, 3)) + np.eye(3)[0]
    nonmember = 5 * RNG.normal(size=(models, 70, 3))
    rng = np.random.default_rng(7)
    folds = [rng.permutation(np.arange(count) % 5) for count in (50, 70)]
    scores = [np.empty((models, count)) for count in (50, 70)]
    for number in range(5):
        rows, truth = [], []
        for model in range(models):
            for side, fold, is_member in zip((member, nonmember), folds, (True, False), strict=True):
                known = side[model][fold != number]
                rows.append(known)
                truth += [is_member] * len(known)
        scaler = StandardScaler().fit(np.concatenate(rows))
        trained = classifier or KNeighborsClassifier(round(np.sqrt(len(truth))))
        with threadpool_limits(1):
            trained.fit(scaler.transform(np.concatenate(rows)), truth)
            for model in range(models):
                for side, fold, own in zip((member, nonmember), folds, scores, strict=True):
                    asked = scaler.transform(side[model][fold == number])
                    if classifier is None:
                        own[model, fold == number] = trained.predict_proba(asked)[:, 1] - np.mean(truth)
                    else:
                        shift = np.log(np.mean(truth) / (1 - np.mean(truth))) if attacker == "trees" else 0
                        own[model, fold == number] = trained.decision_function(asked) - shift
    found = metrics.feature_mias(member, nonmember, attacker, seed=7)
    assert len(found) == models
    for model, got in enumerate(found):
        own = scores[0][model], scores[1][model]
        is_member = np.repeat([1, 0], (50, 70))
        fpr, tpr, _ = roc_curve(is_member, np.concatenate(own), drop_intermediate=False)
        assert got.auc == pytest.approx(roc_auc_score(is_member, np.concatenate(own)))
        assert got.accuracy == pytest.approx(((own[0] > 0).mean() + (own[1] <= 0).mean()) / 2)
        assert got.tpr == pytest.approx(tpr[fpr <= 0.01].max())
    if models == 1:
        assert metrics.feature_mia(member[0], nonmember[0], attacker, seed=7) == found[0]


def test_an_attacker_of_many_models_learns_what_one_of_a_single_model_cannot():
    def drawn():
        return RNG.normal(0.7, 1, size=(12, 12, 6)), RNG.normal(0, 1, size=(12, 12, 6))

    member, nonmember = drawn()
    alone = [metrics.feature_mia(*sides, "logistic").auc for sides in zip(member, nonmember, strict=True)]
    together = [each.auc for each in metrics.feature_mias(member, nonmember, "logistic")]
    assert np.mean(together) > np.mean(alone) + 0.02
    assert np.mean(together) == pytest.approx(norm.cdf(0.7 * np.sqrt(6) / np.sqrt(2)), abs=0.05)


def test_what_is_the_same_in_all_models_of_an_example_does_not_leak():
    """A fingerprint of each example tells an attacker that has seen it everything, and this one nothing."""
    marks = np.tile(RNG.normal(size=(1, 80, 2)), (6, 1, 1))
    found = [each.auc for each in metrics.feature_mias(marks[:, :40], marks[:, 40:], "neighbours")]
    assert max(found) < 0.65


@pytest.mark.parametrize("attacker", metrics.ATTACKERS)
def test_feature_mia_finds_what_is_there_and_nothing_else(attacker):
    member, nonmember = np.abs(RNG.normal(size=(120, 1))), RNG.normal(size=(120, 1))
    apart = metrics.feature_mia(member + 9, nonmember, attacker)
    assert apart == (1.0, 1.0, 1.0)
    nothing = np.mean([metrics.feature_mia(*RNG.normal(size=(2, 60, 1)), attacker, seed=seed).auc for seed in range(8)])
    assert 0.35 < nothing < 0.56
    if attacker != "logistic":  # a straight line cannot tell the middle from the ends
        ends = np.where(RNG.random((120, 1)) < 0.5, -3, 3) + 0.3 * nonmember
        assert metrics.feature_mia(0.3 * nonmember, ends, attacker).auc > 0.95


def test_the_auc_of_two_gaussians_is_the_known_one():
    got = metrics.feature_mia(RNG.normal(1, 1, size=(3000, 1)), RNG.normal(0, 1, size=(3000, 1)), "logistic")
    assert got.auc == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.02)
    assert got.accuracy == pytest.approx(norm.cdf(0.5), abs=0.03)
    assert got.tpr == pytest.approx(norm.sf(norm.isf(0.01) - 1), abs=0.03)


@pytest.mark.parametrize("transform", [np.exp, lambda x: -x, lambda x: 1e4 * x + 3])
def test_trees_do_not_care_for_the_scale_of_a_feature(transform):
    member, nonmember = RNG.normal(1, 1, size=(80, 2)), RNG.normal(0, 1, size=(80, 2))
    plain, moved = metrics.feature_mia(member, nonmember), metrics.feature_mia(transform(member), transform(nonmember))
    assert moved.auc == pytest.approx(plain.auc, abs=0.02)  # bins are drawn half way between values


def test_only_the_svc_is_trained_on_some_of_the_examples(monkeypatch):
    member, nonmember = RNG.normal(0.8, 1, (40, 2)), RNG.normal(size=(40, 2))
    whole = [metrics.feature_mia(member, nonmember, attacker) for attacker in metrics.ATTACKERS]
    monkeypatch.setattr("unlearn_jax.metrics.attacks.SVC_ROWS", 20)
    some = [metrics.feature_mia(member, nonmember, attacker) for attacker in metrics.ATTACKERS]
    assert [one != other for one, other in zip(whole, some, strict=True)] == [name == "svc" for name in metrics.ATTACKERS]


def test_feature_mia_says_what_it_cannot_do():
    with pytest.raises(ValueError, match="member, nonmember: 1 and 9 examples"):
        metrics.feature_mia(np.zeros((1, 1)), np.zeros((9, 1)))
    with pytest.raises(ValueError, match="attacker: 'forest' found, expected one of logistic, svc"):
        metrics.feature_mia(np.zeros((9, 1)), np.zeros((9, 1)), "forest")
    with pytest.raises(ValueError, match="examples 2 "):
        metrics.feature_mia(np.zeros((9, 1)), np.where(np.arange(9)[:, None] == 2, np.inf, 0))
    assert metrics.feature_mia(np.zeros((9, 1)), np.zeros((9, 1)), "neighbours").auc == 0.5  # all ties


# Scores made of others


def test_tow_mia_and_the_competition_score_at_known_points():
    assert metrics.tow_mia(0.3, 0.9, 0.7, 0.3, 0.9, 0.7) == 1
    assert metrics.tow_mia(np.array([0.1, 0.3]), 1.0, 0.5, 0.4, 0.9, 0.7) == pytest.approx(0.8 * 0.9 * 0.8)
    assert metrics.competition_score(0.18, 0.9, 0.8, 0.9, 0.8) == pytest.approx(0.18)
    assert metrics.competition_score(0.2, np.array([0.4, 0.6]), 0.9, 1.0, np.array([0.5, 0.7])) == pytest.approx(0.2 * 0.5 * 1.5)
    assert metrics.competition_score(0.2, 0.5, 0.5, 0.0, 0.5) == 0


def test_interclass_confusion_counts_the_two_classes_only():
    labels = np.array([0, 0, 1, 1, 2, 2])
    taken_for = np.array([[1, 0, 0, 2, 0, 1], [0, 0, 1, 1, 2, 2], [1, 1, 0, 0, 2, 2]])
    logits = np.eye(3)[taken_for]
    literal = [sum({y, c} == {0, 1} for y, c in zip(labels, row, strict=True)) / 4 for row in taken_for]
    np.testing.assert_array_equal(metrics.interclass_confusion(logits, labels, (0, 1)), literal)
    np.testing.assert_array_equal(metrics.interclass_confusion(logits, labels, (1, 0)), [0.5, 0, 1])
    np.testing.assert_array_equal(metrics.interclass_confusion(logits, labels, (0, 2)), [0.25, 0, 0])
    for pair in ((1, 1), (3, 4)):
        with pytest.raises(ValueError, match="expected two different classes"):
            metrics.interclass_confusion(logits, labels, pair)
    with pytest.raises(ValueError, match="members 1 "):
        metrics.interclass_confusion(np.where(np.arange(3)[:, None, None] == 1, np.nan, logits), labels, (0, 1))


# A net that knows nothing, weights, relearning


def test_zrf_is_the_literal_one():
    p, nets = metrics.probabilities(RNG.normal(size=(3, 9, 4)) * 3), metrics.probabilities(RNG.normal(size=(2, 9, 4)))
    literal = [1 - np.mean([jensenshannon(a, b, base=2) ** 2 for net in nets for a, b in zip(m, net, strict=True)]) for m in p]
    np.testing.assert_allclose(metrics.zrf(p, nets), literal)


def test_zrf_at_the_ends():
    certain = np.eye(2)[[[0, 0, 1]]]
    np.testing.assert_allclose(metrics.zrf(certain, certain), 1)
    np.testing.assert_allclose(metrics.zrf(certain, 1 - certain), 0, atol=1e-12)
    with pytest.raises(ValueError, match="nets 0 "):
        metrics.zrf(certain, np.full((1, 3, 2), np.nan))


def test_weight_distance_is_the_literal_one():
    def stacked(members):
        return {
            "stem": {"kernel": RNG.normal(size=(members, 3, 2)), "norm": {"bias": RNG.normal(size=(members, 4))}},
            "head": {"kernel": RNG.normal(size=(members, 5))},
        }

    def flat(weights, member, *layers):
        leaves = {"stem": [weights["stem"]["kernel"], weights["stem"]["norm"]["bias"]], "head": [weights["head"]["kernel"]]}
        return np.concatenate([leaf[member].ravel() for layer in layers for leaf in leaves[layer]])

    ours, oracles = stacked(3), stacked(6)
    parts = {"all": ("stem", "head"), "stem": ("stem",), "head": ("head",)}
    got, within = metrics.weight_distance(ours, oracles), metrics.weight_distance(oracles)
    assert set(got) == set(within) == set(parts)
    for name, layers in parts.items():
        mean = np.mean([flat(oracles, o, *layers) for o in range(6)], axis=0)
        np.testing.assert_allclose(got[name], [np.linalg.norm(flat(ours, m, *layers) - mean) for m in range(3)])
        others = [np.mean([flat(oracles, o, *layers) for o in range(6) if o != m], axis=0) for m in range(6)]
        literal = [np.linalg.norm(flat(oracles, m, *layers) - others[m]) for m in range(6)]
        np.testing.assert_allclose(within[name], literal)


def test_an_oracle_left_out_is_as_far_as_a_new_one():
    def new(members):
        return {"head": RNG.normal(size=(members, 50))}

    apart = [
        metrics.weight_distance(new(20), (oracles := new(20)))["all"].mean() - metrics.weight_distance(oracles)["all"].mean()
        for _ in range(100)
    ]
    assert abs(np.mean(apart)) < 0.1  # of 7.2; held against a mean that has it in, an oracle would be 0.36 nearer


def test_weight_distance_names_the_diverged_and_needs_two_oracles():
    weights = {"head": np.where(np.arange(3)[:, None] == 1, np.inf, RNG.normal(size=(3, 4)))}
    with pytest.raises(ValueError, match="members 1 "):
        metrics.weight_distance(weights, {"head": np.zeros((2, 4))})
    with pytest.raises(ValueError, match=r"^weights: one oracle"):
        metrics.weight_distance({"head": np.zeros((1, 4))})


def test_relearn_steps_at_known_points():
    losses = np.array([[4.0, 3, 1, 1], [4, 2, 2, 0.5], [4, 4, 4, 3.5], [0.5, 0.2, 0.1, 0], [1, 2, 0, 0], [3, 1, 3, 0]])
    expected = [2, 2 + 1 / 1.5, 3, 0, 0, 1]  # the third never gets there; the last falls back afterwards
    np.testing.assert_allclose(metrics.relearn_steps(losses, 1.0), expected)
    np.testing.assert_allclose(metrics.relearn_steps(losses[:2], np.array([3.5, 3.0])), [0.5, 0.5])
    np.testing.assert_array_equal(metrics.relearn_steps(np.array([[np.nan, 1, 0], [3, np.inf, np.nan]]), 1.0), [1, 2])


@given(seed=st.integers(0, 10**6), points=st.integers(1, 8))
@settings(deadline=None, max_examples=40)
def test_relearn_steps_are_the_literal_ones(seed, points):
    curve = np.random.default_rng(seed).integers(0, 6, size=points).astype(float)
    literal = points - 1.0
    for step in range(points):
        if curve[step] <= 2.5:
            literal = float(step) if step == 0 else step - 1 + (curve[step - 1] - 2.5) / (curve[step - 1] - curve[step])
            break
    assert metrics.relearn_steps(curve[None], 2.5)[0] == pytest.approx(literal)
