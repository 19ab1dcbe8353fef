"""Toys in the plane: points where they are said to be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_jax.data import Mixture, discs, populations
from unlearn_jax.data.toys import layout


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.integers(10, 60), st.floats(0.1, 3), st.floats(0, 12), st.integers(0, 3))
def test_points_are_in_their_discs_and_classes_in_turns(classes, points, radius, separation, seed):
    toy = discs(points, classes=classes, radius=radius, separation=separation, seed=seed)
    distances = np.linalg.norm(toy.train.images - toy.centres[toy.clean_labels], axis=1)
    assert (distances <= radius * (1 + 1e-5) + 1e-5).all() and len(distances) == points
    assert np.ptp(np.bincount(toy.train.labels, minlength=classes)) <= 1
    sides = np.linalg.norm(toy.centres - np.roll(toy.centres, 1, axis=0), axis=1)
    np.testing.assert_allclose(sides, separation, atol=1e-9)
    again = discs(points, classes=classes, radius=radius, separation=separation, seed=seed, label_noise=0.5)
    np.testing.assert_array_equal(again.train.images, toy.train.images)
    assert (again.train.labels != toy.train.labels).sum() == round(0.5 * points)


def test_two_discs_are_where_the_question_puts_them_and_are_filled_evenly():
    toy = discs(20_000, seed=3)
    np.testing.assert_allclose(toy.centres, [[-5, 5], [5, 5]], atol=1e-12)
    radii = np.linalg.norm(toy.train.images - toy.centres[toy.clean_labels], axis=1)
    assert abs((radii < np.sqrt(2)).mean() - 0.5) < 0.02  # half the area
    moved = discs(100, centres=np.array([[0.0, 0], [1, 0], [7, 7]]), radius=0.1)
    assert moved.train.images[2::3].min() > 6.8
    with pytest.raises(ValueError, match="two classes"):
        discs(3, classes=4)


CENTRES = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
MIXTURE = Mixture(CENTRES, separation=1.5, modes=2.6, spread=0.5, tail=1.0, rare=0.2, reach=3.0, label_noise=0.1, scale=0.5)


def test_a_mixture_has_the_shares_that_it_says():
    toy = populations(30_000, MIXTURE, seed=1)
    assert (toy.train.labels != toy.clean_labels).sum() == 3000 and np.ptp(np.bincount(toy.clean_labels)) == 0
    np.testing.assert_allclose(toy.centres, 0.5 * 1.5 * CENTRES)
    same = populations(30_000, MIXTURE._replace(rare=0.0), seed=1).train.images
    moved = (toy.train.images != same).any(axis=1)  # who is rare, since all else is drawn alike
    assert moved.mean() == pytest.approx(0.2, abs=0.01)
    furthest = 0.5 * 3.0 * 1.5 * 8.0
    assert np.linalg.norm(toy.train.images[moved], axis=1).max() < furthest + 0.5 * 5 * 0.2
    own = same[toy.clean_labels == 0]
    assert own.std() == pytest.approx(0.5 * np.hypot(1, 0.5), rel=0.35)  # width, and where few sub-modes happen to be


def test_sub_populations_are_rare_by_their_rank():
    far = MIXTURE._replace(rare=1.0, scale=1.0, reach=1000.0, tail=1.0)  # none overlaps another
    toy = populations(30_000, far, seed=2)
    own = toy.train.images[toy.clean_labels == 1]
    _, counts = np.unique(np.round(own / 20), axis=0, return_counts=True)
    counts = np.sort(counts)[::-1]
    harmonic = (1 / np.arange(1, 65)).sum()
    np.testing.assert_allclose(counts[:4] / len(own), 1 / np.arange(1, 5) / harmonic, rtol=0.15)


def test_kin_lie_beside_the_class_that_theirs_is_taken_for_and_where_errors_are():
    confusion = np.array([[0.4, 0.6, 0.0], [0.0, 0.9, 0.1], [0.0, 0.2, 0.8]])
    far = MIXTURE._replace(rare=0.3, confusion=confusion, reach=1e3, label_noise=0.0, scale=1.0)
    np.testing.assert_array_equal(populations(999, far).train.images, populations(999, far._replace(confusion=None)).train.images)
    common = populations(30_000, far._replace(rare=0.0)).train.images
    toy = populations(30_000, far._replace(kinship=1.0))
    rare = (toy.train.images != common).any(axis=1)
    shares = [rare[toy.clean_labels == label].mean() for label in range(3)]
    np.testing.assert_allclose(shares, 0.3 * np.array([0.6, 0.1, 0.2]) / 0.3, atol=0.02)
    for label, other in ((0, 1), (1, 2), (2, 1)):
        places = toy.train.images[rare & (toy.clean_labels == label)]
        np.testing.assert_allclose(places.mean(0), toy.centres[other], atol=1.0)  # few heavy islands, each about 1 away
        assert np.linalg.norm(places - toy.centres[other], axis=1).max() < 8
    half = populations(30_000, far._replace(kinship=0.5)).train.images
    away = np.linalg.norm(half[(half != common).any(axis=1)], axis=1) > 30
    assert 0.3 < away.mean() < 0.7  # the others lie anywhere within the reach


def test_other_draws_are_other_points_of_the_same_places():
    bare = MIXTURE._replace(modes=1.0, rare=0.0)
    first, again, second, elsewhere = (
        populations(900, bare, draw=draw, seed=seed) for draw, seed in ((0, 0), (0, 0), (1, 0), (0, 1))
    )
    np.testing.assert_array_equal(first.train.images, again.train.images)
    means = [
        np.stack([toy.train.images[toy.clean_labels == label].mean(0) for label in range(3)])
        for toy in (first, second, elsewhere)
    ]
    assert not np.array_equal(first.train.images, second.train.images)
    assert abs(means[0] - means[1]).max() < 0.15 < abs(means[0] - means[2]).max()
    with pytest.raises(ValueError, match="two classes"):
        populations(2, bare)


def test_a_layout_keeps_distances_that_the_plane_has_and_shares_out_the_rest():
    places = np.random.default_rng(0).normal(size=(6, 2))
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    found = layout(distances, starts=4)
    np.testing.assert_allclose(np.linalg.norm(found[:, None] - found[None], axis=2), distances, atol=1e-3)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-9)
    assert np.isfinite(layout(np.array([[0.0, 0.0, 3.0], [0.0, 0.0, 3.0], [3.0, 3.0, 0.0]]), starts=2)).all()
    four = layout(np.ones((4, 4)) - np.eye(4), starts=4)  # no four places are as far from each other
    apart = np.linalg.norm(four[:, None] - four[None], axis=2)[np.triu_indices(4, 1)]
    assert 0.7 < apart.min() < 1 < apart.max() < 1.4
