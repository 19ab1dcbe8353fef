"""What a problem is like to learn: against loops, and against problems whose answer is known."""

import numpy as np
import pytest
from scipy.stats import norm, wasserstein_distance

from unlearn_jax.metrics import characteristics, class_distances, memorisation, mismatch, neighbour_purity
from unlearn_jax.metrics.characteristics import LEVELS

RNG = np.random.default_rng(0)


def some(models=12, examples=40, test=30, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    masks = np.stack([rng.permutation(examples) < examples // 2 for _ in range(models)])
    right = rng.random(masks.shape) < 0.5 + 0.4 * masks
    labels = np.arange(test) % (2 * classes + 1) % classes  # not equally many of each
    answers = np.where(rng.random((models, test)) < 0.7, labels, rng.integers(0, classes, (models, test)))
    margins = rng.normal(size=(models, test))
    return masks, right, rng.random(examples), answers, margins, labels, classes


def test_characteristics_are_what_they_say():
    masks, right, purity, answers, margins, labels, classes = some()
    found = characteristics(masks, right, purity, answers, margins, labels, classes)
    wrong = [answers[m, t] != labels[t] for m in range(len(answers)) for t in range(len(labels))]
    wrong_seen = [not right[m, i] for m in range(len(masks)) for i in range(masks.shape[1]) if masks[m, i]]
    assert found.test_error == pytest.approx(np.mean(wrong))
    assert found.gap == pytest.approx(np.mean(wrong) - np.mean(wrong_seen))
    for a in range(classes):
        for b in range(classes):
            said = [answers[m, t] == b for m in range(len(answers)) for t in range(len(labels)) if labels[t] == a]
            assert found.confusion[a, b] == pytest.approx(np.mean(said))
    np.testing.assert_allclose(found.memorisation, np.quantile(memorisation(right, masks).score, LEVELS))
    np.testing.assert_allclose(found.margins, np.quantile(margins.ravel(), LEVELS))


def test_mismatches_are_distances():
    first, second = (characteristics(*some(seed=seed)) for seed in (0, 1))
    assert all(value == 0 for value in mismatch(first, first).values())
    there, back = mismatch(first, second), mismatch(second, first)
    assert there == pytest.approx(back) and all(value > 0 for value in there.values())
    for name in ("memorisation", "margins", "purity"):
        assert there[name] == pytest.approx(wasserstein_distance(getattr(first, name), getattr(second, name)))
    moved = first._replace(margins=first.margins + 0.7, confusion=np.roll(np.eye(3), 1, axis=1))
    apart = mismatch(moved, first._replace(confusion=np.eye(3)))
    assert apart["margins"] == pytest.approx(0.7) and apart["confusion"] == pytest.approx(1) and apart["purity"] == 0


def test_purity_is_counted_among_the_nearest_others():
    points, labels = RNG.normal(size=(25, 3)), RNG.integers(0, 3, 25)
    found = neighbour_purity(points, labels, 4)
    for i in range(25):
        order = sorted((j for j in range(25) if j != i), key=lambda j: np.linalg.norm(points[i] - points[j]))
        assert found[i] == pytest.approx(np.mean([labels[j] == labels[i] for j in order[:4]]))


def test_of_equally_near_neighbours_the_first_are_taken():
    """All points in one place: the ten nearest to each are the first ten others."""
    labels = (np.arange(60) < 10).astype(int)
    found = neighbour_purity(np.zeros((60, 2)), labels, 10)
    np.testing.assert_allclose(found, np.where(labels == 1, 0.9, 0.0))


def test_two_gaussians_are_as_far_apart_as_their_confusion_says():
    apart = np.array([[0.0, 1.5], [1.5, 0.0]])
    crossed = norm.cdf(-apart / 2) * (1 - np.eye(2))
    confusion = crossed + np.diag(1 - crossed.sum(1))
    np.testing.assert_allclose(class_distances(confusion, 1000), apart)
    never, always = class_distances(np.eye(2), 50)[0, 1], class_distances(np.full((2, 2), 0.5), 50)[0, 1]
    assert never == pytest.approx(-2 * norm.ppf(0.01)) and always == pytest.approx(0)
