"""The optax transforms, in plain optax loops that know nothing of this project."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unlearn_jax.training import transforms
from unlearn_jax.training.transforms import freeze_by_name, freeze_where, project_out, proximal_l1, tree_dot

START = {"a": jnp.array([1.0, -2.0, 3.0]), "b": {"w": jnp.array([[0.5, -0.5], [2.0, 0.1]]), "c": jnp.array([4.0])}}
CENTRE = {"a": jnp.array([0.3, 0.1, -0.2]), "b": {"w": jnp.array([[1.0, 2.0], [-1.0, 0.0]]), "c": jnp.array([-1.0])}}
SCALE = {"a": jnp.array([1.0, 0.5, 2.0]), "b": {"w": jnp.array([[1.0, 1.5], [0.7, 1.0]]), "c": jnp.array([0.9])}}
OPTIMISERS = {
    "adamw": lambda: optax.adamw(0.05, weight_decay=0.1),
    "sgd": lambda: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9)),
    "nesterov on a schedule": lambda: optax.sgd(optax.linear_schedule(0.1, 0.0, 20), momentum=0.9, nesterov=True),
}
MASKS = {
    "elementwise": {
        "a": jnp.array([True, False, False]),
        "b": {"w": jnp.array([[True, False], [False, True]]), "c": jnp.array([False])},
    },
    "whole leaves": {"a": True, "b": {"w": False, "c": True}},
    "everything": {"a": True, "b": {"w": True, "c": True}},
}


def quadratic(params):
    """1/2 sum of scale x (param - centre)²: its gradient is scale x (param - centre)."""
    return sum(jax.tree.leaves(jax.tree.map(lambda p, c, s: 0.5 * jnp.sum(s * (p - c) ** 2), params, CENTRE, SCALE)))


def loop(optimiser, steps, params=START, state=None, loss=quadratic):
    """An ordinary optax loop."""
    if state is None:
        state = optimiser.init(params)

    def step(carry, _):
        params, state = carry
        updates, state = optimiser.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, state), length=steps)[0]


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def filled(tree, mask):
    """The mask with one boolean for every entry."""
    return jax.tree.map(lambda leaf, m: jnp.broadcast_to(jnp.asarray(m), leaf.shape), tree, mask)


def only(tree, mask):
    return [np.asarray(leaf)[np.asarray(m)] for leaf, m in zip(jax.tree.leaves(tree), jax.tree.leaves(mask), strict=True)]


def moments(optimiser, state):
    """The parts of an optimiser's state that are shaped like the params, each as such a tree."""
    like_params = jax.tree.structure(START)
    found = [part for part in jax.tree.leaves(state, is_leaf=lambda part: jax.tree.structure(part) == like_params)]
    return [part for part in found if jax.tree.structure(part) == like_params]


# freeze_where


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_frozen_weights_and_their_state_stay_bit_for_bit(name, mask):
    """Also when the state is warm before the freeze: a momentum of old must not go on moving a weight."""
    inner, entries = OPTIMISERS[name](), filled(START, MASKS[mask])
    params, state = loop(inner, 5)
    assert all((np.asarray(leaf) != 0).all() for leaf in jax.tree.leaves(moments(inner, state)))
    after, held = loop(freeze_where(inner, MASKS[mask]), 7, params, state)
    assert bits(only(after, entries)) == bits(only(params, entries))
    before, now = moments(inner, state), moments(inner, held)
    assert len(now) == len(before) == (2 if name == "adamw" else 1)
    for old, new in zip(before, now, strict=True):
        assert bits(only(new, entries)) == bits(only(old, entries))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_other_weights_move_as_if_alone(name, mask):
    inner, free = OPTIMISERS[name](), jax.tree.map(jnp.logical_not, filled(START, MASKS[mask]))
    frozen, _ = loop(freeze_where(inner, MASKS[mask]), 7)
    plain, _ = loop(inner, 7)
    for a, b in zip(only(frozen, free), only(plain, free), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_frozen_gradient_may_be_nan():
    optimiser = freeze_where(optax.adamw(0.1), {"w": jnp.array([True, False])})
    params = {"w": jnp.array([1.0, 2.0])}
    updates, state = optimiser.update({"w": jnp.array([jnp.nan, 1.0])}, optimiser.init(params), params)
    assert updates["w"][0] == 0 and jnp.isfinite(updates["w"]).all()
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_masks_may_be_batched():
    masks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(filled(START, mask) for mask in MASKS.values()))

    def one(mask):
        return loop(freeze_where(OPTIMISERS["adamw"](), mask), 4)[0]

    batched = jax.jit(jax.vmap(one))(masks)
    for index, mask in enumerate(MASKS.values()):
        alone = loop(freeze_where(OPTIMISERS["adamw"](), mask), 4)[0]
        jax.tree.map(lambda a, b, index=index: np.testing.assert_allclose(a[index], b, rtol=1e-5), batched, alone)


def test_optax_masked_is_not_enough():
    """What `freeze_where` is for: `optax.masked` hands the raw gradient through to the weights that it leaves out."""
    params, gradient = {"a": jnp.ones(1), "b": jnp.ones(1)}, {"a": jnp.ones(1), "b": jnp.ones(1)}
    leaky = optax.masked(optax.sgd(0.1), {"a": True, "b": False})
    updates, _ = leaky.update(gradient, leaky.init(params), params)
    assert updates["b"] == 1.0
    tight = freeze_where(optax.sgd(0.1), {"a": False, "b": True})
    updates, _ = tight.update(gradient, tight.init(params), params)
    assert updates["b"] == 0.0


def test_freezing_reaches_the_optimum_of_what_is_free():
    params, _ = loop(freeze_where(optax.sgd(0.5), MASKS["elementwise"]), 200)
    expected = jax.tree.map(jnp.where, filled(START, MASKS["elementwise"]), START, CENTRE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), params, expected)


# freeze_by_name


@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        (["a"], {"a": True, "b": {"w": False, "c": False}}),
        (["b"], {"a": False, "b": {"w": True, "c": True}}),
        (["b/w", "a"], {"a": True, "b": {"w": True, "c": False}}),
        (["b/?"], {"a": False, "b": {"w": True, "c": True}}),
        (["*"], {"a": True, "b": {"w": True, "c": True}}),
        ([], {"a": False, "b": {"w": False, "c": False}}),
    ],
)
def test_names_are_masks(patterns, frozen):
    inner = OPTIMISERS["sgd"]()
    by_name, by_mask = loop(freeze_by_name(inner, patterns), 3), loop(freeze_where(inner, frozen), 3)
    assert bits(by_name) == bits(by_mask)
    assert [old != new for old, new in zip(bits(START), bits(by_name[0]), strict=True)] == [
        not f for f in jax.tree.leaves(frozen)
    ]


@pytest.mark.parametrize("pattern", ["B", "w", "b/", "b/w/x", "aa", ""])
def test_a_name_that_matches_nothing_is_an_error(pattern):
    with pytest.raises(ValueError, match=r"matches none of a, b/c, b/w"):
        freeze_by_name(optax.sgd(0.1), ["a", pattern]).init(START)


# proximal_l1


def soft(value, threshold):
    return np.sign(value) * np.maximum(np.abs(value) - threshold, 0)


def test_proximal_steps_reach_the_lasso_solution():
    """Min 1/2 s (x - c)² + penalty |x| has the solution soft(c, penalty / s), entry by entry."""
    rate, penalty = 0.4, 0.25
    params, _ = loop(optax.chain(optax.sgd(rate), proximal_l1(rate * penalty)), 300)
    expected = jax.tree.map(lambda c, s: soft(np.asarray(c), penalty / np.asarray(s)), CENTRE, SCALE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params, expected)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a == 0, b == 0), params, expected)
    assert sum((np.asarray(leaf) == 0).sum() for leaf in jax.tree.leaves(params)) == 2


def test_the_threshold_may_follow_a_schedule():
    """With no gradient, thresholds add up: 0.1 + 0.2 + 0.3."""
    optimiser = proximal_l1(lambda count: 0.1 * (count + 1))
    params, state = loop(optimiser, 3, {"w": jnp.array([1.0, -0.5, 0.7])}, loss=lambda params: 0.0 * params["w"].sum())
    np.testing.assert_allclose(params["w"], [0.4, 0.0, 0.1], atol=1e-6)
    assert state.steps == 3


def test_proximal_l1_without_params_is_an_error():
    optimiser = proximal_l1(0.1)
    with pytest.raises(ValueError, match="needs the params"):
        optimiser.update(START, optimiser.init(START))


# project_out


def test_what_is_left_is_orthogonal_and_the_rest_is_along_the_reference():
    optimiser = project_out()
    updates, _ = optimiser.update(START, optimiser.init(START), reference=CENTRE)
    np.testing.assert_allclose(tree_dot(updates, CENTRE), 0.0, atol=1e-5)
    removed = jax.tree.map(jnp.subtract, START, updates)
    share = tree_dot(START, CENTRE) / tree_dot(CENTRE, CENTRE)
    jax.tree.map(lambda r, c: np.testing.assert_allclose(r, share * c, rtol=1e-4, atol=1e-6), removed, CENTRE)


def test_a_reference_of_zero_removes_nothing():
    optimiser = project_out()
    updates, _ = optimiser.update(START, optimiser.init(START), reference=jax.tree.map(jnp.zeros_like, START))
    assert bits(updates) == bits(START)


def test_project_out_needs_its_reference():
    optimiser = optax.chain(project_out(), optax.sgd(0.1))
    with pytest.raises(TypeError, match="reference"):
        optimiser.update(START, optimiser.init(START), START)


def test_a_projected_descent_reaches_the_optimum_of_the_plane():
    """With a constant reference r it is descent within the plane <x, r> = <start, r>: here the nearest point of it."""
    target, normal = {"w": jnp.array([1.0, 2.0, 3.0])}, {"w": jnp.array([1.0, 1.0, 0.0])}
    optimiser = optax.chain(project_out(), optax.sgd(0.3))
    params = {"w": jnp.zeros(3)}
    state = optimiser.init(params)
    for _ in range(60):
        gradient = jax.tree.map(jnp.subtract, params, target)
        updates, state = optimiser.update(gradient, state, params, reference=normal)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], [-0.5, 0.5, 3.0], atol=1e-5)


# The rest


def test_tree_dot_is_the_sum_over_all_entries():
    expected = sum(
        np.sum(np.asarray(a) * np.asarray(b)) for a, b in zip(jax.tree.leaves(START), jax.tree.leaves(CENTRE), strict=True)
    )
    np.testing.assert_allclose(tree_dot(START, CENTRE), expected, rtol=1e-6)
    assert tree_dot({}, {}) == 0.0


def test_the_examples_in_the_docstrings_run():
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    for name in ("freeze_where", "freeze_by_name", "proximal_l1", "project_out", "alternate"):
        tests = finder.find(getattr(transforms, name), name, globs=vars(transforms).copy())
        assert sum(len(test.examples) for test in tests) >= 4
        for test in tests:
            assert runner.run(test).failed == 0
