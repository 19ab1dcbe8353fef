"""The contract of all estimators: on a logistic regression they are the exact leave-one-out, sign and unit included."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unlearn_jax.data import discs
from unlearn_jax.influence import Training, influence_functions, leave_one_out, retrained, tracin, unrolled
from unlearn_jax.types import Examples, Model, Variables

POINTS, DECAY, RATE = 60, 0.05, 0.3
TOY = discs(POINTS, separation=2.0, seed=2)
EXAMPLES = Examples(jnp.asarray(TOY.train.images - [0.0, 5.0], jnp.float32), jnp.asarray(TOY.train.labels))
TARGETS = Examples(jnp.array([[0.5, -1.0], [1.0, 1.0], [-2.0, 0.5]]), jnp.array([0, 1, 1]))


def linear(variables, images, train):
    return images @ variables.params["kernel"], {}


MODEL = Model(lambda key, images: Variables({"kernel": jnp.zeros((2, 2))}, {}), linear, (("kernel",),))


def run_of(steps, decay=DECAY):
    chain = optax.chain(optax.add_decayed_weights(decay), optax.sgd(RATE, 0.5))
    return Training(MODEL.init(jax.random.key(0), None), EXAMPLES, None, MODEL, chain, steps)


@pytest.fixture(scope="module")
def exact():
    return leave_one_out(run_of(300), targets=TARGETS)


@pytest.mark.parametrize("name", ["influence_functions", "unrolled"])
def test_at_the_minimum_of_a_regression_estimates_are_the_exact_answer_to_first_order(exact, name):
    found = {
        "influence_functions": lambda: influence_functions(run_of(300), exact.original, TARGETS, DECAY),
        "unrolled": lambda: unrolled(run_of(300), TARGETS),
    }[name]()
    truth = exact.change.margins
    assert found.shape == truth.shape == (POINTS, len(TARGETS.labels))
    assert np.linalg.norm(found - truth) < 0.1 * np.linalg.norm(truth)
    for own, other in zip(found.T, truth.T, strict=True):
        assert np.corrcoef(own, other)[0, 1] > 0.995


def test_after_one_step_the_dot_product_of_gradients_is_the_exact_answer():
    run = run_of(1, decay=0.0)
    truth = leave_one_out(run, targets=TARGETS).change.margins
    found = tracin(run, [run.initial], [RATE], TARGETS)
    np.testing.assert_allclose(found * POINTS / (POINTS - 1), truth, rtol=2e-3, atol=2e-6)  # the mean is over one point fewer
    np.testing.assert_allclose(unrolled(run, TARGETS), found, rtol=2e-3, atol=2e-6)
    twice = tracin(run, [run.initial, run.initial], [RATE, 2 * RATE], TARGETS)
    np.testing.assert_allclose(twice, 3 * found, rtol=1e-6)


def test_unrolled_is_the_finite_difference_of_the_weights():
    run = run_of(8)
    weights = np.ones((3, POINTS), np.float32)
    weights[1, 7], weights[2, 7] = 1.05, 0.95
    logits = np.asarray(jax.vmap(lambda variables: linear(variables, TARGETS.images, False)[0])(retrained(run, weights)))
    sign = np.where(TARGETS.labels == 1, 1, -1)
    slope = sign * (np.diff(logits[1], axis=1) - np.diff(logits[2], axis=1))[:, 0] / 0.1
    np.testing.assert_allclose(unrolled(run, TARGETS)[7], -slope, rtol=2e-2, atol=1e-5)


def test_relatif_is_the_influence_on_a_target_over_the_length_of_the_move(exact):
    plain, relative = (influence_functions(run_of(300), exact.original, TARGETS, DECAY, relative=way) for way in (False, True))
    length = plain / relative
    np.testing.assert_allclose(length, np.tile(length[:, :1], (1, 3)), rtol=1e-6)
    moved = exact.change.parameter
    assert np.corrcoef(length[:, 0], moved)[0, 1] > 0.99
    np.testing.assert_allclose(length[:, 0].mean(), moved.mean(), rtol=0.1)
