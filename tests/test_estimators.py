"""The contract of all estimators: on a logistic regression they are the exact leave-one-out, sign and unit included."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unlearn_jax import influence
from unlearn_jax.data import discs
from unlearn_jax.influence import Training, leave_one_out, retrained, unrolled
from unlearn_jax.influence.curvature import _hessian_product, gauss_newton_rows
from unlearn_jax.types import Dense, Examples, Model, Variables

POINTS, DECAY, RATE, MOMENTUM, STEPS = 60, 0.05, 0.3, 0.5, 300
TOY = discs(POINTS, separation=2.0, seed=2)
EXAMPLES = Examples(jnp.asarray(TOY.train.images - [0.0, 5.0], jnp.float32), jnp.asarray(TOY.train.labels))
TARGETS = Examples(jnp.array([[0.5, -1.0], [1.0, 1.0], [-2.0, 0.5]]), jnp.array([0, 1, 1]))
KEY = jax.random.key(3)
pushes, slopes, rows_of = (jax.jit(part) for part in (influence.gradients.pushes, influence.gradients.slopes, gauss_newton_rows))
grad_dot, grad_cos, tracin = (jax.jit(part) for part in (influence.grad_dot, influence.grad_cos, influence.tracin))
source, trak = jax.jit(influence.source, static_argnums=5), jax.jit(influence.trak, static_argnums=4)
influence_functions = jax.jit(influence.influence_functions, static_argnums=(3, 4))
train, in_segments = jax.jit(influence.train), jax.jit(influence.train_in_segments, static_argnums=2)
hessian = jax.jit(lambda run, variables, vectors: jax.vmap(_hessian_product(run, variables))(vectors))
INVERSES = {
    "eigendecomposition": influence.eigendecomposition(DECAY),
    "woodbury": influence.woodbury(DECAY),
    "conjugate_gradients": influence.conjugate_gradients(DECAY, steps=8),
    "arnoldi": influence.arnoldi(DECAY, KEY, steps=8, rank=6),
    "lissa": influence.lissa(DECAY, KEY, steps=600, batch=64),
    "ek_fac": influence.ek_fac(DECAY),
    "data_inf": influence.data_inf(DECAY),
}


def linear(variables, images, train):
    return images @ variables.params["head"]["kernel"] + variables.params["head"]["bias"][None], {}


ZEROS = Variables({"head": {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}}, {})
HEAD, HIDDEN = (Dense(f"{name}/kernel", f"{name}/bias") for name in ("head", "hidden"))
MODEL = Model(lambda key, images: ZEROS, linear, (("head",),), dense=(HEAD,))


def run_of(steps, decay=DECAY):
    chain = optax.chain(optax.add_decayed_weights(decay), optax.sgd(RATE, MOMENTUM))
    return Training(ZEROS, EXAMPLES, None, MODEL, chain, steps)


def relu_network(variables, images, train):
    hidden, head = variables.params["hidden"], variables.params["head"]
    inside = jnp.maximum(images @ hidden["kernel"] + hidden["bias"][None], 0.0)
    return inside @ head["kernel"] + head["bias"][None], {}


def small_network(batches=None):
    """The same points and a network that is not linear; the number of steps is no square."""
    drawn = np.random.default_rng(0).normal(size=31).astype(np.float32)
    start = {
        "hidden": {"kernel": jnp.asarray(drawn[:10].reshape(2, 5)), "bias": jnp.asarray(drawn[10:15])},
        "head": {"kernel": jnp.asarray(drawn[15:25].reshape(5, 2)), "bias": jnp.asarray(drawn[25:27])},
    }
    model = Model(lambda key, images: None, relu_network, (("hidden",), ("head",)), dense=(HIDDEN, HEAD))
    return dataclasses.replace(run_of(37, 1e-3), initial=Variables(start, {}), model=model, batches=batches)


def stacked(*variables):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *variables)


def dense(rows):
    return np.asarray(rows, np.float64).T @ np.asarray(rows, np.float64)


@pytest.fixture(scope="module")
def exact():
    return leave_one_out(run_of(STEPS), targets=TARGETS)


def path(run, length):
    """θ_T, the checkpoints, and the learning rates of their segments, momentum counted."""
    final, before = in_segments(run, jnp.ones(POINTS), length)
    count = -(-run.steps // length)
    lengths = np.minimum(length, run.steps - length * np.arange(count))
    return final, before, RATE / (1 - MOMENTUM) * lengths


# At the minimum of a regression

TO_FIRST_ORDER = ("eigendecomposition", "woodbury", "conjugate_gradients", "arnoldi", "lissa", "unrolled", "source")


def estimate(name, exact):
    run, final = run_of(STEPS), exact.original
    if name in INVERSES:
        return influence_functions(run, final, TARGETS, INVERSES[name], False)
    if name == "unrolled":
        return unrolled(run, TARGETS)
    if name == "source":
        _, before, rates = path(run, 50)
        return source(run, final, before, rates, TARGETS, 3, DECAY)
    if name == "tracin":
        _, before, rates = path(run, 50)
        return tracin(run, before, rates, TARGETS)
    if name == "trak":
        return trak(run, stacked(final, final), TARGETS, KEY, 16)
    return {"grad_dot": grad_dot, "grad_cos": grad_cos}[name](run, final, TARGETS)


@pytest.mark.parametrize("name", TO_FIRST_ORDER)
def test_at_the_minimum_of_a_regression_estimates_are_the_exact_answer_to_first_order(exact, name):
    found, truth = np.asarray(estimate(name, exact)), exact.change.margins
    assert found.shape == truth.shape == (POINTS, len(TARGETS.labels))
    assert np.linalg.norm(found - truth) < (0.25 if name == "lissa" else 0.12) * np.linalg.norm(truth)
    for own, other in zip(found.T, truth.T, strict=True):
        assert np.corrcoef(own, other)[0, 1] > (0.97 if name == "lissa" else 0.995)


@pytest.mark.parametrize(
    ("name", "least"), [("ek_fac", 0.9), ("data_inf", 0.8), ("trak", 0.8), ("grad_dot", 0.6), ("tracin", 0.6)]
)
def test_the_others_have_its_sign_and_nearly_its_order(exact, name, least):
    found = np.asarray(estimate(name, exact))
    for own, other in zip(found.T, exact.change.margins.T, strict=True):
        assert np.corrcoef(own, other)[0, 1] > least
    if name == "ek_fac":  # in nats
        assert 0.5 < np.linalg.norm(found) / np.linalg.norm(exact.change.margins) < 2.0


def test_the_cosine_is_the_dot_product_without_lengths(exact):
    found, dot = (np.asarray(estimate(name, exact)) for name in ("grad_cos", "grad_dot"))
    run = run_of(STEPS)
    lengths = [np.linalg.norm(part, axis=1) for part in (pushes(run, exact.original), slopes(run, exact.original, TARGETS))]
    np.testing.assert_allclose(found * np.outer(*lengths), dot, rtol=1e-4, atol=1e-7)
    certain = exact.original._replace(params={"head": {"kernel": jnp.zeros((2, 2)), "bias": jnp.array([200.0, -200.0])}})
    one_class = dataclasses.replace(run, examples=EXAMPLES._replace(labels=jnp.zeros(POINTS, int)))
    np.testing.assert_array_equal(grad_cos(one_class, certain, TARGETS), 0.0)  # nothing pushes: not a number nowhere


def test_trak_averages_the_two_factors_of_several_models_apart():
    """Two models that differ much, each with a projection of its own; word by word in double precision."""
    run = small_network()
    models = run.initial, jax.tree.map(lambda leaf: jnp.flip(leaf, axis=-1), run.initial)
    found = trak(run, stacked(*models), TARGETS, KEY, 3)
    factors, errors = [], []
    for key, variables in zip(jax.random.split(KEY, 2), models, strict=True):
        own, wanted = (np.asarray(slopes(run, variables, examples), np.float64) for examples in (EXAMPLES, TARGETS))
        projection = np.asarray(jax.random.normal(key, (own.shape[1], 3)), np.float64)
        features = own @ projection
        factors.append(features @ np.linalg.inv(features.T @ features) @ (wanted @ projection).T)
        margin = np.asarray(influence.margins(run.model, variables, EXAMPLES), np.float64)
        errors.append(1 / (1 + np.exp(margin)))
    np.testing.assert_allclose(found, -np.mean(factors, axis=0) * np.mean(errors, axis=0)[:, None], rtol=2e-3, atol=1e-4)
    together = -np.mean([factor * error[:, None] for factor, error in zip(factors, errors, strict=True)], axis=0)
    assert abs(found - together).max() > 0.1 * abs(together).max()


# Each inverse on its own


@pytest.fixture(scope="module")
def network():
    run = small_network()
    return run, train(run, jnp.ones(POINTS))


def test_the_rows_make_the_gauss_newton_matrix(network):
    run, variables = network
    flat, restore = jax.flatten_util.ravel_pytree(variables.params)

    def logits(flat, image):
        return run.model.apply(variables._replace(params=restore(flat)), image[None], train=False)[0][0]

    outputs = np.asarray(jax.vmap(logits, (None, 0))(flat, EXAMPLES.images), np.float64)
    jacobians = np.asarray(jax.jit(jax.vmap(jax.jacrev(logits), (None, 0)))(flat, EXAMPLES.images), np.float64)
    total = np.zeros((len(flat), len(flat)))
    for output, slope in zip(outputs, jacobians, strict=True):
        shares = np.exp(output) / np.exp(output).sum()
        total += slope.T @ (np.diag(shares) - np.outer(shares, shares)) @ slope / POINTS
    np.testing.assert_allclose(dense(rows_of(run, variables)), total, rtol=1e-3, atol=1e-5 * np.abs(total).max())


def reference(name, run, variables, vectors):
    """What each inverse stands for, as a dense matrix in float64."""
    if name == "eigendecomposition":
        values, basis = np.linalg.eigh(np.asarray(hessian(run, variables, jnp.eye(27)), np.float64))
        assert values[0] < -1e-4  # there is something to leave out
        matrix = basis * np.maximum(values, 0) @ basis.T
    else:
        matrix = dense(rows_of(run, variables))
    return np.linalg.solve(matrix + 0.1 * np.eye(len(matrix)), np.asarray(vectors, np.float64).T).T


def test_the_product_with_the_hessian_is_the_difference_of_gradients(network):
    run, variables = network
    flat, restore = jax.flatten_util.ravel_pytree(variables.params)
    direction = jnp.asarray(np.random.default_rng(1).normal(size=27), jnp.float32)

    @jax.jit
    def gradient(flat):
        return jax.grad(lambda flat: jnp.mean(influence.response.losses(run.model, Variables(restore(flat), {}), EXAMPLES)))(flat)

    difference = (gradient(flat + 1e-3 * direction) - gradient(flat - 1e-3 * direction)) / 2e-3
    found = hessian(run, variables, direction[None])[0]
    np.testing.assert_allclose(found, difference, atol=2e-2 * float(jnp.abs(difference).max()))


def test_relatif_of_examples_that_push_nothing_is_zero():
    sure = Variables({"head": {"kernel": jnp.zeros((2, 2)), "bias": jnp.array([200.0, 0.0])}}, {})
    run = dataclasses.replace(run_of(STEPS), examples=EXAMPLES._replace(labels=jnp.zeros_like(EXAMPLES.labels)))
    assert not np.any(pushes(run, sure))
    np.testing.assert_array_equal(influence_functions(run, sure, TARGETS, influence.woodbury(DECAY), True), 0.0)


@pytest.mark.parametrize("name", ["eigendecomposition", "woodbury", "conjugate_gradients"])
def test_inverses_are_what_they_say_where_the_network_is_not_linear(network, name):
    run, variables = network
    vectors = pushes(run, variables)[:4]
    inverse = getattr(influence, name)(0.1)
    truth = reference(name, run, variables, vectors)
    np.testing.assert_allclose(jax.jit(inverse)(run, variables, vectors), truth, atol=2e-3 * np.abs(truth).max())


def test_arnoldi_keeps_the_largest_eigenvalues(network):
    run, variables = network
    found = jax.jit(influence.arnoldi(0.1, KEY, steps=40, rank=3))(run, variables, jnp.eye(27))
    kept = np.linalg.eigvalsh(np.asarray(found, np.float64))
    values = np.linalg.eigvalsh(np.asarray(hessian(run, variables, jnp.eye(27)), np.float64))
    largest = values[np.argsort(-np.abs(values))[:3]]
    np.testing.assert_allclose(np.sort(kept)[-3:], np.sort(1 / (np.maximum(largest, 0) + 0.1)), rtol=1e-2)
    np.testing.assert_allclose(kept[:-3], 0.0, atol=1e-3)


def by_hand(params, image):
    """What every layer reads, with a last 1, and the gradient of each logit with respect to what it gives."""
    kernels, inputs, outputs = [params[name] for name in ("hidden", "head")], [image], []
    for layer in kernels:
        outputs.append(inputs[-1] @ layer["kernel"] + layer["bias"])
        inputs.append(np.maximum(outputs[-1], 0))
    slope, slopes = np.eye(2), []
    for layer, output in zip(kernels[::-1], [*outputs[-2::-1], None], strict=True):
        slopes.append(slope)
        slope = None if output is None else slope @ layer["kernel"].T * (output > 0)
    return [np.append(part, 1.0) for part in inputs[:-1]], slopes[::-1], outputs[-1]


def test_ek_fac_is_its_definition_layer_by_layer(network):
    run, variables = network
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables.params)
    vector = jax.tree.map(lambda leaf: np.random.default_rng(leaf.size).normal(size=leaf.shape), params)
    passes = [by_hand(params, np.asarray(image, np.float64)) for image in EXAMPLES.images]
    found = jax.jit(influence.ek_fac(0.1))(run, variables, jax.flatten_util.ravel_pytree(vector)[0].astype(jnp.float32)[None])[0]
    found = jax.flatten_util.ravel_pytree(variables.params)[1](found)
    for place, name in enumerate(("hidden", "head")):
        read = np.stack([inputs[place] for inputs, _, _ in passes])
        gradients, weights = [], []
        for inputs, slopes_, logits in passes:
            shares = np.exp(logits) / np.exp(logits).sum()
            for label in range(2):
                error = (shares - np.eye(2)[label]) @ slopes_[place]
                gradients.append((inputs[place], error))
                weights.append(shares[label] / POINTS)
        _, across = np.linalg.eigh(read.T @ read / POINTS)
        _, along = np.linalg.eigh(sum(w * np.outer(e, e) for w, (_, e) in zip(weights, gradients, strict=True)))
        squares = sum(w * np.outer(across.T @ a, along.T @ e) ** 2 for w, (a, e) in zip(weights, gradients, strict=True))
        own = np.concatenate([vector[name]["kernel"], vector[name]["bias"][None]])
        truth = across @ (across.T @ own @ along / (squares + 0.1)) @ along.T
        ours = np.concatenate([found[name]["kernel"], found[name]["bias"][None]])
        np.testing.assert_allclose(ours, truth, atol=5e-3 * np.abs(truth).max())


def test_ek_fac_says_what_it_cannot_do():
    run = run_of(1)
    other = run.initial._replace(params={"head": {"scale": jnp.zeros(2)}})
    narrow = dataclasses.replace(
        run, model=MODEL._replace(apply=lambda variables, images, train: (variables.params["head"]["scale"] * images, {}))
    )
    with pytest.raises(ValueError, match="'head/scale' is something else"):
        influence.ek_fac(0.1)(narrow, other, jnp.zeros((1, 2)))
    silent = dataclasses.replace(run, model=MODEL._replace(dense=None))
    with pytest.raises(ValueError, match=r"EK-FAC needs Model.dense, which this model does not declare"):
        influence.ek_fac(0.1)(silent, run.initial, jnp.zeros((1, 6)))


def test_data_inf_is_the_mean_of_the_inverses_of_each_layer(network):
    run, variables = network
    own = np.asarray(influence.gradients.per_example(influence.response.losses, run.model, variables, EXAMPLES), np.float64)
    vectors = np.random.default_rng(0).normal(size=(2, own.shape[1]))
    sizes = [sum(leaf.size for leaf in variables.params[name].values()) for name in sorted(variables.params)]
    truth, ends = np.zeros_like(vectors), np.cumsum([0, *sizes])
    for begin, end in itertools.pairwise(ends.tolist()):
        for row in own[:, begin:end]:
            inverse = np.linalg.inv(np.outer(row, row) + 0.1 * np.eye(end - begin))
            truth[:, begin:end] += vectors[:, begin:end] @ inverse / POINTS
    found = jax.jit(influence.data_inf(0.1))(run, variables, jnp.asarray(vectors, jnp.float32))
    np.testing.assert_allclose(found, truth, atol=2e-3 * np.abs(truth).max())


def test_pushes_and_slopes_give_the_same_whichever_are_fewer(network):
    run, variables = network
    many = Examples(jnp.tile(TARGETS.images, (30, 1)), jnp.tile(TARGETS.labels, 30))  # more than points
    few, all_ = (influence_functions(run, variables, each, INVERSES["woodbury"], False) for each in (TARGETS, many))
    np.testing.assert_allclose(all_[:, :3], few, rtol=5e-3, atol=1e-5 * float(np.abs(few).max()))


def test_relatif_is_the_influence_on_a_target_over_the_length_of_the_move(exact):
    inverse = influence.eigendecomposition(DECAY)
    plain, relative = (influence_functions(run_of(STEPS), exact.original, TARGETS, inverse, way) for way in (False, True))
    length = np.asarray(plain / relative)
    np.testing.assert_allclose(length, np.tile(length[:, :1], (1, 3)), rtol=1e-3)
    moved = exact.change.parameter
    assert np.corrcoef(length[:, 0], moved)[0, 1] > 0.99
    np.testing.assert_allclose(length[:, 0].mean(), moved.mean(), rtol=0.1)


# Along the training


def test_after_one_step_the_dot_product_of_gradients_is_the_exact_answer():
    run = run_of(1, decay=0.0)
    truth = leave_one_out(run, targets=TARGETS).change.margins
    found = np.asarray(tracin(run, stacked(run.initial), np.array([RATE]), TARGETS))
    np.testing.assert_allclose(found * POINTS / (POINTS - 1), truth, rtol=2e-3, atol=2e-6)  # the mean is over one point fewer
    np.testing.assert_allclose(unrolled(run, TARGETS), found, rtol=2e-3, atol=2e-6)
    np.testing.assert_allclose(RATE * grad_dot(run, run.initial, TARGETS), found, rtol=1e-5)
    twice = tracin(run, stacked(run.initial, run.initial), np.array([RATE, 2 * RATE]), TARGETS)
    np.testing.assert_allclose(twice, 3 * found, rtol=1e-5)
    follows = source(run, run.initial, stacked(run.initial), np.array([1e-4]), TARGETS, 1)  # so short that nothing is forgotten
    np.testing.assert_allclose(follows, 1e-4 / RATE * found, rtol=1e-3, atol=1e-9)


def test_source_of_one_long_stretch_is_an_influence_function(network):
    run, variables = network
    found = source(run, variables, stacked(variables), np.array([1e4]), TARGETS, 1, 0.1)
    truth = influence_functions(run, variables, TARGETS, influence.woodbury(0.1), False)
    np.testing.assert_allclose(found, truth, atol=2e-3 * float(np.abs(truth).max()))


def test_source_joins_stretches_as_it_says(network):
    run, final = network
    places = [run.initial, final]
    truth, forgotten = np.zeros((POINTS, 3)), np.asarray(slopes(run, final, TARGETS), np.float64)
    for variables, rate in zip(places[::-1], (0.7, 2.0), strict=True):
        values, basis = np.linalg.eigh(dense(rows_of(run, variables)) + 0.01 * np.eye(27))
        gathered = basis * ((1 - np.exp(-rate * values)) / values) @ basis.T
        truth += np.asarray(pushes(run, variables), np.float64) @ gathered @ forgotten.T
        forgotten = forgotten @ (basis * np.exp(-rate * values) @ basis.T)
    found = source(run, final, stacked(*places), np.array([2.0, 0.7]), TARGETS, 2, 0.01)
    np.testing.assert_allclose(found, truth, atol=2e-3 * np.abs(truth).max())
    with pytest.raises(ValueError, match="cannot be cut"):
        source(run, final, stacked(*places), np.array([2.0, 0.7]), TARGETS, 3)


def test_unrolled_is_the_finite_difference_of_the_weights():
    run = run_of(8)
    weights = np.ones((3, POINTS), np.float32)
    weights[1, 7], weights[2, 7] = 1.05, 0.95
    logits = np.asarray(jax.vmap(lambda variables: linear(variables, TARGETS.images, False)[0])(retrained(run, weights)))
    sign = np.where(TARGETS.labels == 1, 1, -1)
    slope = sign * (np.diff(logits[1], axis=1) - np.diff(logits[2], axis=1))[:, 0] / 0.1
    np.testing.assert_allclose(unrolled(run, TARGETS)[7], -slope, rtol=2e-2, atol=1e-5)


def test_segments_are_the_same_training_and_the_same_derivative():
    rows = np.random.default_rng(0).integers(0, POINTS, (37, 16)).astype(np.int32)
    run, weights = small_network(jnp.asarray(rows)), jnp.ones(POINTS)
    final, before = in_segments(run, weights, 10)
    jax.tree.map(np.testing.assert_array_equal, final, train(run, weights))
    assert {len(leaf) for leaf in jax.tree.leaves(before)} == {4}
    jax.tree.map(lambda leaf, first: np.testing.assert_array_equal(leaf[0], first), before, run.initial)

    def outputs(weights):
        return influence.response.margins(run.model, influence.train(run, weights), TARGETS)

    plain = -np.asarray(jax.jit(jax.jacrev(outputs))(weights)).T
    np.testing.assert_allclose(unrolled(run, TARGETS), plain, rtol=1e-3, atol=1e-6)


def test_unrolling_keeps_the_root_of_the_steps():
    def kept(steps):
        run = dataclasses.replace(small_network(), steps=steps)
        return unrolled.lower(run, TARGETS).compile().memory_analysis().temp_size_in_bytes

    assert kept(1600) < 2.6 * kept(400)  # everything kept would be four times as much


def test_metasmoothness_is_one_where_training_is_linear_and_less_where_it_turns():
    one_step = dataclasses.replace(run_of(1, decay=0.0))
    balanced = np.zeros((2, POINTS))  # the sum of the weights stays, so one step is linear in them
    balanced[:, 0], balanced[:, 1] = (0.4, -0.3), (-0.4, 0.3)
    np.testing.assert_allclose(influence.metasmoothness(one_step, balanced, 0.5), 1.0, atol=1e-6)

    def turning(variables, images, train):
        return jnp.sin(40 * images @ variables.params["head"]["kernel"]), {}

    start = Variables({"head": {"kernel": jax.random.normal(KEY, (2, 2)), "bias": jnp.zeros(2)}}, {})
    run = dataclasses.replace(run_of(20), initial=start, model=MODEL._replace(apply=turning))
    found = influence.metasmoothness(run, -np.eye(POINTS)[:3], 0.5)
    weights = np.ones((3, POINTS))
    weights[1, 2], weights[2, 2] = 0.5, 0.0
    trained = [np.asarray(leaf).ravel() for leaf in retrained(run, weights).params["head"]["kernel"]]
    first, second = trained[1] - trained[0], trained[2] - trained[1]
    same = np.where(first * second > 0, 1.0, -1.0)
    np.testing.assert_allclose(found[2], (np.abs(first) * same).sum() / np.abs(first).sum(), rtol=1e-4)
    assert np.abs(found).max() <= 1 and found.min() < 0.999


# From a pool of trainings on subsets


def test_datamodels_and_subset_influence_find_what_a_linear_truth_adds():
    rng = np.random.default_rng(0)
    truth = np.zeros((20, 2))
    truth[[1, 4, 9], [0, 1, 0]] = 1.0, -2.0, 0.5
    masks = rng.random((400, 20)) < 0.5
    outputs = 3.0 + masks @ truth + 0.01 * rng.normal(size=(400, 2))
    np.testing.assert_allclose(influence.datamodels(masks, outputs).weights, truth, atol=0.25)
    np.testing.assert_allclose(influence.subset_influence(masks, outputs).score, truth, atol=0.35)
    removed = np.asarray(~masks[:50])
    np.testing.assert_allclose(  # and so, with the sign changed, what removing does
        3.0 + truth.sum(0)[None] - removed @ influence.datamodels(masks, outputs).weights, outputs[:50], atol=0.4
    )


def test_halves_of_a_regression_give_its_leave_one_out(exact):
    run, rng = run_of(STEPS), np.random.default_rng(0)
    masks = (rng.random((400, POINTS)) < 0.8).astype(np.float32)
    outputs = influence.changes(run, exact.original, retrained(run, masks), TARGETS).margins
    for found in (-influence.datamodels(masks > 0, outputs).weights, -influence.subset_influence(masks > 0, outputs).score):
        for own, other in zip(found.T, exact.change.margins.T, strict=True):
            assert np.corrcoef(own, other)[0, 1] > 0.7
