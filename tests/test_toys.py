"""Toys in the plane: points where they are said to be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_jax.data import discs


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
