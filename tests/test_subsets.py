"""Subset influence and datamodels: against loops, against what the numbers were made of, and where nothing is to be found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_jax.data.splits import random_halves
from unlearn_jax.influence import correlation, datamodels, mask_correlation, subset_influence
from unlearn_jax.influence.subsets import PENALTIES
from unlearn_jax.metrics import memorisation


def pool(models=24, examples=9, targets=5, seed=0):
    rng = np.random.default_rng(seed)
    return random_halves(examples, models, rng), rng.normal(3.0, 1.0, (models, targets)), rng


def test_influence_is_the_difference_of_means_and_its_error():
    masks, outputs, _ = pool()
    found = subset_influence(masks, outputs)
    for example in range(masks.shape[1]):
        for target in range(outputs.shape[1]):
            seen = [outputs[m, target] for m in range(len(masks)) if masks[m, example]]
            unseen = [outputs[m, target] for m in range(len(masks)) if not masks[m, example]]
            assert found.score[example, target] == pytest.approx(np.mean(seen) - np.mean(unseen))
            error = np.sqrt(np.var(seen, ddof=1) / len(seen) + np.var(unseen, ddof=1) / len(unseen))
            assert found.error[example, target] == pytest.approx(error)


def test_memorisation_is_the_influence_of_an_example_on_itself():
    masks, _, rng = pool()
    right = rng.random(masks.shape) < 0.3 + 0.5 * masks
    found, known = subset_influence(masks, right), memorisation(right, masks)
    np.testing.assert_allclose(np.diagonal(found.score), known.score)
    np.testing.assert_allclose(np.diagonal(found.error), known.error)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 100), st.floats(-5, 5), st.floats(-3, 3))
def test_influence_is_linear_in_the_outputs_and_follows_the_rows(seed, shift, factor):
    masks, outputs, rng = pool(seed=seed)
    here, order = subset_influence(masks, outputs), rng.permutation(len(masks))
    there = subset_influence(masks[order], factor * outputs[order] + shift)
    np.testing.assert_allclose(there.score, factor * here.score, atol=1e-9)
    np.testing.assert_allclose(there.error, abs(factor) * here.error, atol=1e-6)
    np.testing.assert_allclose(subset_influence(~masks, outputs).score, -here.score, atol=1e-12)


def test_standard_errors_are_those_of_other_pools():
    found = [subset_influence(*pool(models=16, examples=6, targets=3, seed=seed)[:2]) for seed in range(200)]
    spread = np.std([each.score for each in found], axis=0)
    np.testing.assert_allclose(np.sqrt(np.mean([each.error**2 for each in found], axis=0)), spread, rtol=0.25)


def test_an_example_that_all_trained_on_cannot_be_judged():
    masks, outputs, _ = pool()
    masks[1:, 2] = True
    with pytest.raises(ValueError, match="at least two models"):
        subset_influence(masks, outputs)
    with pytest.raises(ValueError, match="four or more"):
        datamodels(masks[:3], outputs[:3])


def sparse(models=160, examples=60, noise=0.1):
    """Outputs that a few examples make, a few each, and one that is constant."""
    masks, _, rng = pool(models, examples, 1, seed=3)
    weights = np.zeros((examples, 4))
    weights[[3, 17, 40], [0, 1, 2]] = (2.0, -1.5, 1.0)
    weights[5, 0] = -1.0
    outputs = 1.0 + masks @ weights + noise * rng.normal(size=(models, 4))
    outputs[:, 3] = 7.0
    return masks, outputs, weights


def test_datamodels_find_what_outputs_are_made_of():
    masks, outputs, weights = sparse()
    found = datamodels(masks[:120], outputs[:120])
    np.testing.assert_allclose(found.weights, weights, atol=0.3)  # the lasso shrinks them
    assert (abs(found.weights[weights == 0]) < 0.05).all() and (found.weights[:, 3] == 0).all()
    assert found.predict(masks[120:])[:, 3] == pytest.approx(7.0)
    held_out = correlation(found.predict(masks[120:]), outputs[120:])
    assert (held_out[:3] > 0.95).all() and held_out[3] == 0


def test_datamodels_meet_the_conditions_of_the_lasso():
    masks, outputs, _ = sparse(models=40, noise=1.0)  # fewer models than examples
    found = datamodels(masks, outputs)
    for target in range(3):
        assert found.penalty[target] > 0
        centred = masks - masks.mean(0)
        residual = outputs[:, target] - found.predict(masks)[:, target]
        assert residual.mean() == pytest.approx(0, abs=1e-9)
        pull = centred.T @ residual / len(masks)
        assert abs(pull).max() <= found.penalty[target] * 1.05
        used = found.weights[:, target] != 0
        np.testing.assert_allclose(pull[used], found.penalty[target] * np.sign(found.weights[used, target]), rtol=0.1)


def test_where_there_is_nothing_datamodels_say_little():
    masks, outputs, _ = pool(models=80, examples=50, targets=12, seed=5)
    found = datamodels(masks, outputs)
    largest = abs((masks - masks.mean(0)).T @ (outputs - outputs.mean(0))).max(0) / len(masks)
    assert np.median(found.penalty / largest) > 0.5 and (found.penalty / largest >= PENALTIES.min()).all()
    assert np.median((found.weights != 0).sum(0)) <= 5


def test_correlation_is_pearsons():
    _, outputs, rng = pool(models=30, targets=4)
    others = outputs + rng.normal(size=outputs.shape)
    expected = [np.corrcoef(outputs[:, target], others[:, target])[0, 1] for target in range(4)]
    np.testing.assert_allclose(correlation(outputs, others), expected)
    np.testing.assert_allclose(correlation(-2 * outputs + 1, outputs), -1)


def test_the_correlation_with_a_mask_is_influence_in_units_of_chance():
    masks, outputs, _ = pool(models=40, examples=200, targets=50)
    outputs[:, 0] = 4.0
    found = mask_correlation(masks, outputs)
    assert (found[:, 0] == 0).all()
    assert found[7, 3] == pytest.approx(np.corrcoef(masks[:, 7], outputs[:, 3])[0, 1])
    np.testing.assert_allclose(found[:, 1:], subset_influence(masks, outputs).score[:, 1:] / (2 * outputs.std(0)[None, 1:]))
    assert found[:, 1:].std() == pytest.approx(1 / np.sqrt(39), rel=0.05)
