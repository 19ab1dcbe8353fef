"""Data values and projected gradients: each against its definition, word by word."""

import dataclasses
import inspect
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_estimators import DECAY, EXAMPLES, KEY, POINTS, STEPS, TARGETS, TOY, pushes, run_of, slopes, small_network

from unlearn_jax import influence
from unlearn_jax.influence.gradients import per_example
from unlearn_jax.influence.response import losses
from unlearn_jax.types import Examples

kronecker, sparse = influence.kronecker(KEY, rank=3), influence.sparse(KEY, kept=20, dimensions=8)
representers = jax.jit(influence.representers, static_argnums=(2, 3))
projected_influence = jax.jit(influence.projected_influence, static_argnums=(3, 4))
trackstar = jax.jit(influence.trackstar, static_argnums=(3, 4))
gradients_of = jax.jit(lambda run, variables: per_example(losses, run.model, variables, run.examples))


def subsets(points):
    """All subsets, as masks; the number of a subset has the bits of its points."""
    return np.array([[number >> point & 1 for point in range(points)] for number in range(2**points)], bool)


def shapley(worth):
    """By the definition: the mean over the sizes of smaller sets, and over the sets of that size, of what a point adds."""
    points = int(math.log2(len(worth)))
    values = np.zeros((points, worth.shape[1]))
    for number, mask in enumerate(subsets(points)):
        for point in np.flatnonzero(~mask):
            share = 1 / (points * math.comb(points - 1, mask.sum()))
            values[point] += share * (worth[number | 1 << point] - worth[number])
    return values


@pytest.mark.parametrize(("points", "neighbours"), [(8, 3), (7, 1), (4, 4)])
def test_knn_shapley_is_the_shapley_value_of_the_vote(points, neighbours):
    rng = np.random.default_rng(points)
    features, targets = rng.normal(size=(points, 2)), rng.normal(size=(3, 2))
    labels, wanted = rng.integers(0, 3, points), rng.integers(0, 3, 3)
    nearest = np.argsort(((features[:, None] - targets[None]) ** 2).sum(2), axis=0)
    worth = np.zeros((2**points, 3))
    for number, mask in enumerate(subsets(points)):
        for target in range(3):
            voters = [point for point in nearest[:, target] if mask[point]][:neighbours]
            worth[number, target] = (labels[voters] == wanted[target]).sum() / neighbours
    found = jax.jit(influence.knn_shapley, static_argnums=4)(features, labels, targets, wanted, neighbours)
    np.testing.assert_allclose(found, shapley(worth), atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=0), worth[-1], atol=1e-6)


def few():
    rng = np.random.default_rng(0)
    features, wanted = (np.concatenate([rng.normal(size=(count, 2)), np.ones((count, 1))], axis=1) for count in (5, 3))
    return Examples(features, np.array([0, 1, 2, 1, 0])), Examples(wanted, np.array([0, 2, 1]))


def test_data_shapley_over_all_orders_is_the_shapley_value():
    utility = influence.ridge_margins(*few(), 0.3)
    orders = np.array(list(itertools.permutations(range(5))))
    np.testing.assert_allclose(influence.data_shapley(utility, orders), shapley(utility(subsets(5))), atol=1e-12)
    some = influence.data_shapley(utility, orders[::7])
    np.testing.assert_allclose(some.sum(axis=0), utility(np.ones((1, 5), bool))[0], atol=1e-12)
    with pytest.raises(ValueError, match="orders: a row is not a permutation"):
        influence.data_shapley(utility, np.array([[0, 1, 1, 3, 4]]))


def test_data_shapley_leaves_out_what_comes_after_all_that_counts():
    sets = []

    def utility(masks):  # the first two points are worth 1 each, and no other
        sets.append(len(masks))
        return masks[:, :2].sum(axis=1, dtype=float)[:, None]

    found = influence.data_shapley(utility, np.array([[0, 1, 2, 3], [3, 0, 2, 1]]), tolerance=0.5)
    np.testing.assert_array_equal(found[:, 0], [1.0, 1.0, 0.0, 0.0])
    assert sets == [2, 2, 2, 1, 1]


def test_ridge_margins_are_those_of_the_minimum():
    examples, targets = few()
    mask = np.array([True, True, True, False, True])
    inputs, labels = examples.images[mask], np.eye(3)[examples.labels[mask]]
    weights = np.linalg.lstsq(
        np.concatenate([inputs, math.sqrt(0.3) * np.eye(3)]), np.concatenate([labels, np.zeros((3, 3))]), rcond=None
    )[0]
    logits = targets.images @ weights
    truth = [row[label] - np.delete(row, label).max() for row, label in zip(logits, targets.labels, strict=True)]
    found = influence.ridge_margins(examples, targets, 0.3)(np.stack([mask, ~mask & False]))
    np.testing.assert_allclose(found, [truth, np.zeros(3)], atol=1e-12)


def test_data_oob_is_the_mean_over_the_models_without_the_example():
    masks = np.array([[True, False, False], [False, True, False], [False, False, True]])
    outputs = np.array([[9.0, 1.0, 0.5], [0.0, 9.0, 1.5], [1.0, 3.0, 9.0]])
    np.testing.assert_array_equal(influence.data_oob(masks, outputs), [0.5, 2.0, 1.0])
    with pytest.raises(ValueError, match="all models trained on example 0"):
        influence.data_oob(masks[:1], outputs[:1])
    with pytest.raises(ValueError, match="expected numbers of the shape of masks"):
        influence.data_oob(masks, outputs[:2])


def test_representers_add_up_to_the_last_layer_at_its_optimum():
    features = np.concatenate([np.random.default_rng(1).normal(size=(30, 4)), np.ones((30, 1))], axis=1).astype(np.float32)
    labels = np.arange(30) % 3
    weights, coefficients = representers(features, jnp.asarray(labels), 3, 0.01)
    np.testing.assert_allclose(
        features @ features.T @ coefficients, features @ weights, atol=2e-3 * np.abs(features @ weights).max()
    )
    logits = np.asarray(features @ weights, np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    slope = features.T @ (shares - np.eye(3)[labels]) / 30 + 0.01 * np.asarray(weights)
    assert np.abs(slope).max() < 1e-5 < 1e-3 < np.abs(weights).max()


def test_representer_points_add_up_to_minus_the_margin():
    """Of two classes; on points in the plane, the features are the inputs."""
    run = run_of(STEPS)
    run = dataclasses.replace(run, model=run.model._replace(features=lambda variables, images: images))
    found = jax.jit(influence.representer_points, static_argnums=3)(run, run.initial, TARGETS, DECAY)
    inputs, wanted = (np.concatenate([part.images, np.ones((len(part.labels), 1))], axis=1) for part in (EXAMPLES, TARGETS))
    weights, _ = representers(jnp.asarray(inputs, jnp.float32), EXAMPLES.labels, 2, DECAY)
    logits = wanted @ np.asarray(weights)
    rows = np.arange(len(logits))
    margins = logits[rows, TARGETS.labels] - logits[rows, 1 - np.asarray(TARGETS.labels)]
    np.testing.assert_allclose(found.sum(axis=0), -margins, rtol=1e-3, atol=1e-4)
    assert found.shape == (POINTS, 3) and np.mean(TOY.train.labels) == 0.5
    with pytest.raises(ValueError, match=r"does not declare Model\.features"):
        influence.representer_points(run_of(STEPS), run.initial, TARGETS, DECAY)


@pytest.fixture(scope="module")
def network():
    run = small_network()
    return run, jax.jit(influence.train)(run, jnp.ones(POINTS))


def test_logra_projects_the_whole_gradient_by_a_kronecker_product(network):
    """The factors are read off what the projection makes of unit vectors."""
    run, variables = network
    project = jax.jit(kronecker)
    vectors = gradients_of(run, variables)[:4]
    maps = [np.asarray(block) for block in project(run, variables, jnp.eye(27))]  # [p, k]
    for block, matrix in zip(project(run, variables, vectors), maps, strict=True):
        np.testing.assert_allclose(block, vectors @ matrix, rtol=1e-4, atol=1e-5)
    assert [matrix.shape[1] for matrix in maps] == [3 * 3, 3 * 2]  # of the hidden layer [2 + 1, 5] and the head [5 + 1, 2]
    _, restore = jax.flatten_util.ravel_pytree(variables.params)
    places = restore(jnp.arange(27.0))
    for name, matrix, (inputs, outputs) in zip(("hidden", "head"), maps, ((3, 5), (6, 2)), strict=True):
        rows = np.concatenate([places[name]["kernel"], places[name]["bias"][None]]).astype(int)
        inside = matrix[rows.ravel()].reshape(inputs, outputs, min(3, inputs), min(3, outputs))
        assert not np.delete(matrix, rows.ravel(), axis=0).any()
        folded = inside.transpose(0, 2, 1, 3).reshape(inputs * min(3, inputs), -1)
        singular = np.linalg.svd(folded, compute_uv=False)
        assert singular[1] < 1e-5 * singular[0]  # one product of an input's and an output's matrix
        gram = np.einsum("iokl,iomn->klmn", inside, inside).reshape(matrix.shape[1], -1)
        np.testing.assert_allclose(gram, inputs * outputs / matrix.shape[1] * np.eye(matrix.shape[1]), atol=1e-4)
    no_dense = dataclasses.replace(run, model=run.model._replace(dense=None))
    with pytest.raises(ValueError, match=r"LoGra needs Model\.dense"):
        kronecker(no_dense, variables, vectors)


def test_logra_of_full_rank_is_the_influence_function_of_the_empirical_fisher_matrix(network):
    run, variables = network
    project = influence.kronecker(KEY, rank=9)
    found = projected_influence(run, variables, TARGETS, project, 0.1)
    gradients, wanted, push = (
        np.asarray(part, np.float64)
        for part in (gradients_of(run, variables), slopes(run, variables, TARGETS), pushes(run, variables))
    )
    truth = np.zeros((POINTS, 3))
    for inside in (slice(0, 12), slice(12, 27)):  # the head, then the hidden layer: a block each
        matrix = gradients[:, inside].T @ gradients[:, inside] / POINTS
        truth += push[:, inside] @ np.linalg.solve(matrix + 0.1 * np.eye(len(matrix)), wanted[:, inside].T)
    np.testing.assert_allclose(found, truth, rtol=1e-3, atol=1e-3 * np.abs(truth).max())


def test_grass_adds_some_weights_with_random_signs(network):
    run, variables = network
    matrix = np.asarray(jax.jit(sparse)(run, variables, jnp.eye(27))[0])
    assert matrix.shape == (27, 8)
    used = (matrix != 0).sum(axis=1)
    assert sorted(np.unique(used)) == [0, 1] and used.sum() == 20
    entries = matrix[matrix != 0] / math.sqrt(27 / 20)
    np.testing.assert_allclose(np.abs(entries), 1.0, rtol=1e-6)
    assert 0 < (entries > 0).sum() < 20
    everything = jax.jit(influence.sparse(KEY, kept=10**6, dimensions=8))(run, variables, jnp.eye(27))[0]
    assert (np.asarray(everything) != 0).sum() == 27


def test_trackstar_is_the_cosine_of_corrected_gradients(network):
    run, variables = network
    found = trackstar(run, variables, TARGETS, kronecker, 0.1)
    own, wanted = (np.asarray(part, np.float64) for part in (gradients_of(run, variables), slopes(run, variables, TARGETS)))
    own[:, (own**2).mean(axis=0) == 0] = np.inf  # a weight that no example moves is left out
    scale = 1 / np.sqrt((own**2).mean(axis=0))
    own[np.isinf(own)] = 0.0
    maps = [np.asarray(block, np.float64) for block in jax.jit(kronecker)(run, variables, jnp.eye(27))]
    pieces = []
    for matrix in maps:
        first, second = (vectors * scale @ matrix for vectors in (own, wanted))
        moment = first.T @ first / POINTS
        values, basis = np.linalg.eigh(moment + 0.1 * np.mean(np.diag(moment)) * np.eye(len(moment)))
        root = basis / np.sqrt(values) @ basis.T
        pieces.append((first @ root, second @ root))
    first, second = (np.concatenate(parts, axis=1) for parts in zip(*pieces, strict=True))
    truth = (first @ second.T) / np.outer(np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1))
    np.testing.assert_allclose(found, truth, atol=2e-3)
    assert np.abs(found).max() <= 1 + 1e-6


def test_trackstar_where_no_example_pushes_is_zero():
    sure = run_of(STEPS).initial._replace(params={"head": {"kernel": jnp.zeros((2, 2)), "bias": jnp.array([200.0, 0.0])}})
    run = dataclasses.replace(run_of(STEPS), examples=EXAMPLES._replace(labels=jnp.zeros_like(EXAMPLES.labels)))
    np.testing.assert_array_equal(trackstar(run, sure, TARGETS, kronecker, 0.1), 0.0)
    assert np.isfinite(projected_influence(run, sure, TARGETS, sparse, DECAY)).all()


# What is refused, by name and before anything is computed


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_knn_shapley_of_integer_features_is_computed_in_floats(dtype):
    features = np.array([[0], [200], [10]], dtype)  # the square of 200 is 64 in 8 bits
    vote = jax.jit(influence.knn_shapley, static_argnums=4)
    found = vote(features, np.array([0, 1, 0]), features[:1], np.array([0]), 1)
    np.testing.assert_allclose(found[:, 0], [0.5, 0.0, 0.5])


def test_data_shapley_of_small_integers_is_that_of_floats():
    worth = np.array([[3], [0], [1], [2]], np.uint8)  # a point may take something away

    def utility(masks):
        return worth[masks @ [1, 2]]

    orders = np.array([[0, 1], [1, 0]])
    found = influence.data_shapley(utility, orders)
    np.testing.assert_array_equal(found, shapley(worth.astype(float)))
    np.testing.assert_array_equal(influence.data_shapley(lambda masks: jnp.asarray(utility(masks)), orders), found)


def refused(begins, function, **arguments):
    """Without the tests' own check of shapes."""
    with pytest.raises(ValueError) as error:
        inspect.unwrap(function)(**arguments)
    line = str(error.value)
    assert type(error.value) is ValueError and line.startswith(f"{begins}: ") and "\n" not in line, line


FIVE = np.arange(10.0).reshape(5, 2)
VOTE = {"features": FIVE, "labels": np.arange(5), "targets": FIVE[:2], "target_labels": np.arange(2), "neighbours": 2}
MODELS = np.eye(3, dtype=bool)
ORDER = np.arange(5)[None]


@pytest.mark.parametrize(
    ("begins", "wrong"),
    [
        ("labels", np.arange(4)),
        ("labels", np.arange(6)),
        ("labels", np.arange(5.0)),
        ("target_labels", np.arange(3)),
        ("targets", FIVE[:2, :1]),
        ("targets", FIVE[:0]),
        ("targets", np.array([[0.0, np.nan], [1.0, 1.0]])),
        ("features", np.where(FIVE == 3, np.inf, FIVE)),
        *(("neighbours", wrong) for wrong in (0, -1, 2.5, 6, True)),
    ],
)
def test_knn_shapley_refuses(begins, wrong):
    refused(begins, influence.knn_shapley, **VOTE | {begins: wrong})


def test_knn_shapley_refuses_traced_labels_of_another_length():
    vote = jax.jit(inspect.unwrap(influence.knn_shapley))
    with pytest.raises(ValueError, match=r"^labels: expected one for each of 5 examples"):
        vote(FIVE, np.arange(4), FIVE[:2], np.arange(2))


@pytest.mark.parametrize(
    ("begins", "wrong"),
    [
        *(("utility", lambda masks, value=value: np.full((len(masks), 2), value)) for value in (np.nan, np.inf, 1j, "a")),
        ("utility", lambda masks: np.where(masks.sum() == 1, np.nan, masks[:, :2])),  # at the second call
        ("utility", lambda masks: masks.sum(axis=1)),
        ("utility", lambda masks: masks[:1] * 1.0),
        ("utility", lambda masks: np.ones((len(masks), len(masks)))),
        *(("tolerance", wrong) for wrong in (np.nan, -1.0, np.inf)),
        *(("orders", wrong) for wrong in (ORDER[0], ORDER * 1.0, ORDER[:0], ORDER[:, :0], ORDER + 1, [[0, 1], [0]])),
    ],
)
def test_data_shapley_refuses(begins, wrong):
    arguments = {"utility": lambda masks: masks[:, :2] * 1.0, "orders": ORDER, "tolerance": 0.0}
    refused(begins, influence.data_shapley, **arguments | {begins: wrong})


@pytest.mark.parametrize(
    ("begins", "wrong"),
    [
        *(("penalty", {"penalty": wrong}) for wrong in (0.0, -1.0, np.nan, np.inf)),
        ("examples.labels", {"examples": few()[0]._replace(labels=np.array([0, 1, 2, 1, -1]))}),
        ("examples.labels", {"examples": few()[0]._replace(labels=np.arange(4))}),
        ("examples.labels", {part: each._replace(labels=np.ones(len(each.images), int)) for part, each in
                             zip(("examples", "targets"), few(), strict=True)}),
        ("examples.images", {"examples": few()[0]._replace(images=np.full((5, 3), np.nan))}),
        ("targets.labels", {"targets": few()[1]._replace(labels=np.array([0, -2, 1]))}),
        ("targets.labels", {"targets": few()[1]._replace(labels=np.array([0.0, 2.0, 1.0]))}),
        ("targets.images", {"targets": few()[1]._replace(images=np.ones((3, 2)))}),
    ],
)  # fmt: skip
def test_ridge_margins_refuse(begins, wrong):
    examples, targets = few()
    refused(begins, influence.ridge_margins, **{"examples": examples, "targets": targets, "penalty": 0.3} | wrong)


@pytest.mark.parametrize(
    ("begins", "wrong"),
    [
        ("masks", np.where(MODELS, np.nan, 0.0)),
        ("masks", MODELS * 2),
        ("masks", MODELS * 0.5),
        ("masks", MODELS[0]),
        ("masks", MODELS[:, :0]),
        ("outputs", np.where(MODELS, np.nan, 0.0)),
    ],
)
def test_data_oob_refuses(begins, wrong):
    refused(begins, influence.data_oob, **{"masks": MODELS, "outputs": np.ones((3, 3))} | {begins: wrong})


@pytest.mark.parametrize(
    ("begins", "factory", "wrong"),
    [
        *(("rank", influence.kronecker, {"rank": wrong}) for wrong in (0, -1, 2.5)),
        *(("kept", influence.sparse, {"kept": wrong}) for wrong in (0, -1)),
        *(("dimensions", influence.sparse, {"dimensions": wrong}) for wrong in (0, 2.5)),
    ],
)
def test_projections_refuse(begins, factory, wrong):
    refused(begins, factory, key=KEY, **wrong)


def examples_with(labels):
    return {"run": dataclasses.replace(run_of(STEPS), examples=EXAMPLES._replace(labels=jnp.asarray(labels)))}


@pytest.mark.parametrize("name", ["projected_influence", "trackstar", "representer_points"])
@pytest.mark.parametrize(
    ("begins", "wrong"),
    [
        *(("strength", {"strength": wrong}) for wrong in (0.0, -1.0, np.nan, np.inf)),
        ("targets.labels", {"targets": TARGETS._replace(labels=jnp.array([0, 1, 2]))}),
        ("targets.labels", {"targets": TARGETS._replace(labels=jnp.array([0, -1, 1]))}),
        ("targets.labels", {"targets": TARGETS._replace(labels=jnp.array([0, 1]))}),
        ("targets.labels", {"targets": jax.tree.map(lambda leaf: leaf[:0], TARGETS)}),
        ("run.examples.labels", examples_with(np.arange(POINTS) % 3)),
        ("run.examples.labels", examples_with(-(np.arange(POINTS) % 2))),
        ("run.examples.labels", examples_with(np.zeros(POINTS - 1, int))),
    ],
)
def test_estimators_on_projections_and_representers_refuse(name, begins, wrong):
    given = {"run": run_of(STEPS), "targets": TARGETS, "strength": DECAY} | wrong
    strength = "decay" if name == "representer_points" else "damping"
    given[strength] = given.pop("strength")
    given |= {} if name == "representer_points" else {"projection": sparse}
    refused(begins.replace("strength", strength), getattr(influence, name), variables=run_of(STEPS).initial, **given)


@pytest.mark.parametrize(
    ("begins", "wrong"),
    [("decay", {"decay": 0.0}), ("labels", {"labels": np.arange(5)}), ("labels", {"labels": np.zeros(4, int)})],
)
def test_representers_refuse(begins, wrong):
    given = {"features": jnp.asarray(FIVE), "labels": np.zeros(5, int), "classes": 3, "decay": 0.1}
    refused(begins, influence.representers, **given | wrong)
