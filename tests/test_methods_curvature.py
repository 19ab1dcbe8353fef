"""What the methods that go by curvature and sensitivity *are*, restated in NumPy; and the Newton step within its bound."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from test_methods import (
    ALL,
    CLASSES,
    EXAMPLES,
    KEY,
    RETAIN,
    average,
    backward,
    close,
    linear,
    mlp,
    normalised,
    problem,
    same,
    start,
)
from test_methods_competition2023 import unlearn

from unlearn_jax.methods.removal import (
    SOFTMAX_SMOOTHNESS,
    inverse_product,
    loss,
    published_product,
    removal_bound,
    removal_step,
)
from unlearn_jax.training import gradients
from unlearn_jax.training.gradients import head_features, jacobian, output_sensitivities
from unlearn_jax.training.objectives import Batch, local_lipschitz
from unlearn_jax.types import Variables


def wide(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def flat(tree):
    """In the order of `ravel_pytree`, in double precision."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(wide(tree))])


def rows_of(on, source):
    return np.flatnonzero(on.rows(source)[0])


def example_gradients(on, params, rows):
    return np.stack([flat(backward(params, on.train.images[row], int(on.train.labels[row]))[0]) for row in rows])


def output_gradients(on, params, row, cotangents):
    """The gradients of <cotangent(f), f> in one image, f the logits, layer by layer: one for each function of f."""
    names, x, inputs = [*sorted(set(params) - {"head"}), "head"], np.asarray(on.train.images[row], np.float64).ravel(), []
    for name in names:
        inputs.append(x)
        x = x @ params[name]["kernel"] + params[name]["bias"]
        x = x if name == "head" else np.maximum(x, 0)
    found = []
    for cotangent in cotangents:
        delta, tree = cotangent(x), {}
        for name, entering in zip(reversed(names), reversed(inputs), strict=True):
            tree[name] = {"kernel": np.outer(entering, delta), "bias": delta}
            delta = (params[name]["kernel"] @ delta) * (entering > 0)
        found.append(tree)
    return found, x


# Gradients of single examples


@pytest.mark.parametrize("chunk", [2, 500])
def test_the_jacobian_holds_each_examples_own_derivatives(chunk, monkeypatch):
    on, variables = problem(mlp()), start(mlp())
    monkeypatch.setattr(gradients, "CHUNK", chunk)
    rows = rows_of(on, "forget")[[2, 0, 3]]
    found = jacobian(on, variables, jnp.asarray(rows), loss)
    np.testing.assert_allclose(found, example_gradients(on, wide(variables.params), rows), rtol=2e-4, atol=1e-6)
    each = [lambda f, c=c: np.eye(CLASSES)[c] for c in range(CLASSES)]
    whole = [np.stack([flat(tree) for tree in output_gradients(on, wide(variables.params), row, each)[0]]) for row in rows]
    found = jacobian(on, variables, jnp.asarray(rows), lambda logits, label: logits)
    np.testing.assert_allclose(found, np.stack(whole), rtol=2e-4, atol=1e-6)


def test_head_features_are_what_the_head_multiplies():
    on, variables = problem(mlp()), start(mlp())
    rows = np.arange(7)
    x, params = np.asarray(on.train.images, np.float64)[rows].reshape(7, -1), wide(variables.params)
    for name in ("hidden1", "hidden2"):
        x = np.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0)
    found = head_features(on, variables, jnp.asarray(rows))
    np.testing.assert_allclose(found, np.concatenate([x, np.ones((7, 1))], axis=1), rtol=1e-4, atol=1e-6)


def test_a_head_without_bias_has_no_constant_feature():
    on, variables = problem(normalised()), start(normalised())
    with pytest.raises(ValueError, match=r"a linear head need Model.features, "):
        head_features(on.replace(model=on.model._replace(features=None)), variables, jnp.arange(9))
    found = head_features(on, variables, jnp.arange(9))
    logits, _ = on.model.apply(variables, on.train.images[:9], train=False)
    np.testing.assert_allclose(found @ variables.params["head"]["kernel"], logits, rtol=1e-4, atol=1e-5)


# Loss-free SSD


def sensitivity(on, params, source):
    """The mean over a source of each example's |∇ ‖f‖²|."""
    each = [output_gradients(on, params, row, [lambda f: 2 * f])[0][0] for row in rows_of(on, source)]
    return average([jax.tree.map(np.abs, tree) for tree in each])


def test_output_sensitivities_are_each_examples_own_in_whichever_chunk(monkeypatch):
    on, variables = problem(mlp()), start(mlp())
    monkeypatch.setattr(gradients, "CHUNK", 5)
    found = output_sensitivities(on, variables, on.rows("retain"))
    close(found, sensitivity(on, wide(variables.params), "retain"), rtol=2e-4, atol=1e-6)


def test_lfssd_is_its_papers_algorithm():
    on, variables = problem(mlp()), start(mlp())
    params = wide(variables.params)
    whole, forget = (flat(sensitivity(on, params, source)) for source in ("kept", "forget"))
    weights = flat(params)
    expected = [w * min(1.0, 0.9 * d / f) if f > 1.2 * d else w for w, d, f in zip(weights, whole, forget, strict=True)]
    assert 3 < sum(forget > 1.2 * whole) < len(weights) - 3
    found = unlearn("lfssd", on, variables, selection=1.2, dampening=0.9)
    np.testing.assert_allclose(flat(found.params), expected, rtol=5e-4)


def test_lfssd_reads_no_label():
    on, variables = problem(mlp()), start(mlp())
    other = on.replace(train=on.train._replace(labels=(on.train.labels + 1) % CLASSES))
    given = {"selection": 1.2, "dampening": 0.9}
    assert same(unlearn("lfssd", on, variables, **given), unlearn("lfssd", other, variables, **given))
    assert not same(unlearn("ssd", on, variables, **given), unlearn("ssd", other, variables, **given))


# JiT


IMAGES = np.random.default_rng(1).normal(size=(400, 1, 3, 1)).astype(np.float32)


@jax.jit
@jax.value_and_grad
def lipschitz(params, images=IMAGES):
    """The objective for f(x) = kernelᵀ x."""
    batch = Batch(images, jnp.zeros(len(images), int), jnp.arange(len(images)), KEY)

    def forward(variables, images):
        return images.reshape(len(images), -1) @ variables.params, {}

    objective = local_lipschitz("forget", 0.7, 50)
    return objective.value(forward, Variables(params, {}), {"forget": batch}, jnp.zeros([]))[0]


def test_the_local_lipschitz_ratio_of_a_scaled_rotation_is_its_scale():
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    value, slope = lipschitz(jnp.asarray(2.5 * rotation, jnp.float32))
    assert value == pytest.approx(2.5, rel=1e-4)
    assert np.sum(np.asarray(slope) * rotation) == pytest.approx(1.0, rel=1e-4)  # d value / d scale


def test_the_local_lipschitz_ratio_has_a_gradient_where_nothing_changes():
    value, slope = lipschitz(jnp.zeros((3, 3)))
    assert value == 0 and (np.asarray(slope) == 0).all()


def test_the_local_lipschitz_ratio_is_the_mean_over_examples_and_draws():
    kernel = np.random.default_rng(2).normal(size=(3, 3)).astype(np.float32)
    value, _ = lipschitz(jnp.asarray(kernel))
    directions = np.random.default_rng(3).normal(size=(20_000, 3))
    ratios = np.linalg.norm(directions @ kernel, axis=1) / np.linalg.norm(directions, axis=1)
    assert value == pytest.approx(ratios.mean(), abs=6 * ratios.std() / 20_000**0.5)


def test_jit_makes_the_model_flat_around_the_forget_set_and_leaves_the_statistics():
    on, variables = problem(normalised()), start(normalised())
    forget = rows_of(on, "forget")

    def change(variables):
        steps = 0.5 * np.random.default_rng(0).normal(size=(50, *on.train.images[forget].shape)).astype(np.float32)
        moved = (on.train.images[forget][None] + steps).reshape(-1, *on.train.images.shape[1:])
        still, _ = on.model.apply(variables, on.train.images[forget], train=False)
        logits, _ = on.model.apply(variables, jnp.asarray(moved), train=False)
        return np.linalg.norm(logits.reshape(50, len(forget), -1) - still[None], axis=-1).mean()

    after = unlearn("jit", on, variables, learning_rate=0.1, epochs=20, samples=5)
    assert change(after) < 0.7 * change(variables)
    assert same(after.statistics, variables.statistics)


# WoodFisher


def influence(on, params):
    """V of the paper."""
    forget, retain = (example_gradients(on, params, rows_of(on, source)).sum(axis=0) for source in ("forget", "retain"))
    n = on.kept_count
    return forget / n - on.forget_count / (n * on.retain_count) * retain


def recursion(gradients, damping):
    """The paper's: the inverse of damping I + mean of g gᵀ, one gradient at a time (Sherman and Morrison)."""
    inverse, count = np.eye(gradients.shape[1]) / damping, len(gradients)
    for g in gradients:
        inverse -= np.outer(inverse @ g, g @ inverse) / (count + g @ inverse @ g)
    return inverse


def published_recursion(gradients, vector):
    """What the authors run instead, line by line."""
    k, o, count = vector.copy(), gradients[0].copy(), len(gradients)
    for g in gradients[1:]:
        product = o @ g
        k -= (k @ g) / (count + product) * o
        o -= product / (count + product) * o
    return k, o


@pytest.mark.parametrize("damping", [1.0, 0.05])
def test_woodfisher_is_the_papers_recursion(damping):
    on, variables = problem(mlp()), start(mlp())
    params = wide(variables.params)
    own = example_gradients(on, params, rows_of(on, "retain"))
    inverse, vector = recursion(own, damping), influence(on, params)
    np.testing.assert_allclose(inverse, np.linalg.inv(damping * np.eye(own.shape[1]) + own.T @ own / RETAIN), atol=1e-8)
    found = inverse_product(jnp.asarray(own, jnp.float32), jnp.asarray(vector, jnp.float32), damping)
    np.testing.assert_allclose(found, inverse @ vector, rtol=1e-3, atol=1e-5)
    after = unlearn("woodfisher", on, variables, alpha=0.3, damping=damping, samples=ALL)
    np.testing.assert_allclose(flat(after.params), flat(params) + 0.3 * inverse @ vector, rtol=1e-4, atol=1e-5)


def test_the_published_recursion_knows_one_direction_only():
    on, variables = problem(mlp()), start(mlp())
    params = wide(variables.params)
    own, vector = example_gradients(on, params, rows_of(on, "retain")), influence(on, params)
    found = published_product(jnp.asarray(own, jnp.float32), jnp.asarray(vector, jnp.float32), len(own))
    k, o = (np.asarray(part, np.float64) for part in found)
    first = own[0] / np.linalg.norm(own[0])
    np.testing.assert_allclose(np.abs(o @ first), np.linalg.norm(o), rtol=1e-5)
    along = np.abs((k - vector) @ first)
    assert along == pytest.approx(np.linalg.norm(k - vector), rel=1e-3) and along > 1e-6
    for found, expected in zip((k, o), published_recursion(own, vector), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    apart = np.linalg.norm(k - recursion(own, 1.0) @ vector)
    assert apart > 0.05 * np.linalg.norm(k)


def test_the_switch_runs_the_published_recursion():
    on, variables = problem(mlp()), start(mlp())
    params, given = wide(variables.params), {"alpha": 0.3, "samples": ALL}
    step = flat(unlearn("woodfisher", on, variables, authors_recursion=True, **given).params) - flat(params)
    vector = influence(on, params)
    own = example_gradients(on, params, rows_of(on, "retain"))
    off = step / 0.3 - vector
    shares = np.abs(own @ off) / np.linalg.norm(own, axis=1) / np.linalg.norm(off)
    assert shares.max() > 0.99  # the difference lies along one example's gradient: whichever came first


# Newton


def optimum(x, y, weight_decay):
    """The weights at which Σ CE + n weight_decay / 2 |W|² is least, by quasi-Newton and then Newton steps."""

    def objective(flat):
        weights = flat.reshape(x.shape[1], CLASSES)
        log_p = scipy.special.log_softmax(x @ weights, axis=1)
        value = -log_p[np.arange(len(y)), y].sum() + len(y) * weight_decay / 2 * np.sum(weights**2)
        return value, slope(x, y, weight_decay, weights).ravel()

    best = scipy.optimize.minimize(objective, np.zeros(x.shape[1] * CLASSES), jac=True, tol=1e-14, options={"gtol": 1e-10})
    return best.x.reshape(-1, CLASSES)


def slope(x, y, weight_decay, weights):
    return x.T @ (scipy.special.softmax(x @ weights, axis=1) - np.eye(CLASSES)[y]) + len(y) * weight_decay * weights


def regression(removed, seed=0, count=120, features=4):
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.normal(size=(count, features)), np.ones((count, 1))], axis=1)
    y = np.argmax(x @ rng.normal(size=(features + 1, CLASSES)) + rng.gumbel(size=(count, CLASSES)), axis=1)
    return (x[removed:], y[removed:]), (x[:removed], y[:removed]), optimum(x, y, 0.01)


def newton_step(weights, kept, removed, labels, weight_decay=0.01):
    """In NumPy, with the Hessian of one example after the other."""
    right = slope(removed, labels, weight_decay, weights).ravel()
    hessian = len(kept) * weight_decay * np.eye(weights.size)
    for x in kept:
        p = scipy.special.softmax(x @ weights)
        hessian += np.kron(np.outer(x, x), np.diag(p) - np.outer(p, p))
    return np.linalg.solve(hessian, right).reshape(weights.shape)


@functools.cache
def as_step(removed):
    """The library's, for a `regression`."""
    kept, gone, weights = regression(removed)
    arrays = (jnp.asarray(array, jnp.float32) for array in (weights, kept[0], gone[0]))
    return np.asarray(jax.jit(removal_step)(*arrays, jnp.asarray(gone[1]), 0.01), np.float64)


@pytest.mark.parametrize("removed", [1, 12])
def test_the_newton_step_lies_within_its_bound_of_the_retrained_optimum(removed):
    kept, gone, weights = regression(removed)
    step = as_step(removed)
    np.testing.assert_allclose(step, newton_step(weights, kept[0], *gone), rtol=1e-3, atol=1e-5)
    bound = float(removal_bound(jnp.asarray(kept[0], jnp.float32), jnp.asarray(step, jnp.float32)))
    before, after = (np.linalg.norm(slope(*kept, 0.01, w)) for w in (weights, weights + step))
    rounding = 1e-5
    assert after <= bound + rounding
    assert bound < before  # it says something
    retrained = optimum(*kept, 0.01)
    apart = np.linalg.norm(weights + step - retrained)
    assert apart <= bound / (len(kept[1]) * 0.01) + rounding
    assert apart < 0.2 * np.linalg.norm(weights - retrained)


def test_what_the_newton_step_leaves_is_of_second_order():
    """Were the Hessian wrong by a factor, what is left of twelve examples would be some 12 times that of one, not 144."""
    left = [np.linalg.norm(slope(*kept, 0.01, w + as_step(n))) for n, (kept, _, w) in ((n, regression(n)) for n in (1, 12))]
    assert left[1] / left[0] > 30


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 20.0), st.floats(0.1, 5.0))
def test_the_bound_holds_for_any_features_and_step(seed, length, spread):
    """What is left is the gradient after the step minus its linearisation before it."""
    rng = np.random.default_rng(seed)
    x, weights = spread * rng.normal(size=(6, 3)), rng.normal(size=(3, CLASSES))
    step = rng.normal(size=(3, CLASSES))
    step *= length / np.linalg.norm(step)
    p, moved = (scipy.special.softmax(x @ w, axis=1) for w in (weights, weights + step))
    delta = x @ step
    linear = p * (delta - np.sum(p * delta, axis=1, keepdims=True))
    left = np.linalg.norm(x.T @ (moved - p - linear))
    assert left <= float(removal_bound(jnp.asarray(x, jnp.float32), jnp.asarray(step, jnp.float32))) * (1 + 1e-4)


def test_the_constant_is_the_largest_third_derivative_of_log_sum_exp():
    def third(p, direction):
        centred = direction - p @ direction
        return p @ centred**3

    rng = np.random.default_rng(0)
    for classes in (2, 3, 10):
        p = rng.dirichlet(np.full(classes, 0.3), 3000)
        u = rng.normal(size=(3000, classes))
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        assert max(abs(third(*pair)) for pair in zip(p, u, strict=True)) < SOFTMAX_SMOOTHNESS
    share = (1 + 3**-0.5) / 2
    assert third(np.array([share, 1 - share]), np.array([-1, 1]) / 2**0.5) == pytest.approx(SOFTMAX_SMOOTHNESS, rel=1e-6)


def test_newton_on_a_linear_model_is_the_step_from_its_optimum_towards_retraining():
    on, decay = problem(linear()), 0.05
    x = np.concatenate([np.asarray(on.train.images, np.float64).reshape(EXAMPLES, -1), np.ones((EXAMPLES, 1))], axis=1)
    y = np.asarray(on.train.labels)
    kept, retain = (np.asarray(mask) for mask in (on.kept, on.retain))
    weights = optimum(x[kept], y[kept], decay)
    head = {"kernel": jnp.asarray(weights[:-1], jnp.float32), "bias": jnp.asarray(weights[-1], jnp.float32)}
    after = unlearn("newton", on, Variables({"head": head}, {}), weight_decay=decay).params["head"]
    found = np.concatenate([after["kernel"], after["bias"][None]])
    retrained = optimum(x[retain], y[retain], decay)
    assert np.linalg.norm(found - retrained) < 0.25 * np.linalg.norm(weights - retrained)
    expected = weights + newton_step(weights, x[retain], x[kept & ~retain], y[kept & ~retain], decay)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model", [mlp, normalised])
def test_newton_moves_the_head_and_nothing_else(model):
    on, variables = problem(model()), start(model())
    after = unlearn("newton", on, variables)
    moved = {name for name in variables.params if not same(after.params[name], variables.params[name])}
    assert moved == {"head"} and same(after.statistics, variables.statistics)
    assert set(after.params["head"]) == set(variables.params["head"])


# NTK


def linearised_optimum(on, params, rows, weight_decay):
    """Where Σ ‖J (w - θ) + softmax(f) - label‖² + |rows| weight_decay ‖w‖² is least, by the normal equations of the weights."""
    theta = flat(params)
    left, right = len(rows) * weight_decay * np.eye(len(theta)), np.zeros(len(theta))
    for row in rows:
        trees, f = output_gradients(on, params, row, [lambda f, c=c: np.eye(CLASSES)[c] for c in range(CLASSES)])
        j = np.stack([flat(tree) for tree in trees])
        left += j.T @ j
        right += j.T @ (j @ theta - scipy.special.softmax(f) + np.eye(CLASSES)[int(on.train.labels[row])])
    return np.linalg.solve(left, right)


def test_ntk_is_the_difference_of_two_linearised_trainings():
    on, variables = problem(mlp()), start(mlp())
    params = wide(variables.params)
    w_r, w_d = (linearised_optimum(on, params, rows_of(on, source), 0.05) for source in ("retain", "kept"))
    assert np.linalg.norm(w_r - w_d) > 0.1
    after = unlearn("ntk", on, variables, scale=0.7, weight_decay=0.05, samples=ALL)
    np.testing.assert_allclose(flat(after.params) - flat(params), 0.7 * (w_r - w_d), rtol=2e-2, atol=2e-3)


def test_a_sample_stands_for_its_whole_set_in_ntk():
    """With all of F alike and all of R alike, any two of each say all there is to say."""
    on, variables = problem(mlp()), start(mlp())
    forget, retain = (rows_of(on, source)[0] for source in ("forget", "retain"))
    alike = jnp.where(on.forget, forget, retain)
    alike = on.replace(train=jax.tree.map(lambda leaf: leaf[alike], on.train))
    few, all_of_them = (unlearn("ntk", alike, variables, weight_decay=0.05, samples=samples) for samples in (2, ALL))
    assert not same(few.params, variables.params)
    close(few, all_of_them, rtol=1e-3, atol=1e-4)


def test_ntk_without_a_shift_is_the_original():
    on, variables = problem(mlp()), start(mlp())
    assert same(unlearn("ntk", on, variables, scale=0.0, samples=ALL), variables)


def test_the_order_of_flattened_weights_is_ravel_pytrees():
    """On which the restatements above rest."""
    params = start(mlp()).params
    np.testing.assert_array_equal(flat(params), np.asarray(ravel_pytree(params)[0], np.float64))
