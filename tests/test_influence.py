"""Exact leave-one-out against training by hand, boundaries against lines that are known, and the study from end to end."""

import csv
import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import run_in_process

from experiments.influence import study
from experiments.influence.options import Config, smoke
from unlearn_jax import influence
from unlearn_jax.bench.toy import draw_toy, prepare_training
from unlearn_jax.bench.toy_options import Discs
from unlearn_jax.data import FASHION_PLANE, discs
from unlearn_jax.errors import ArgumentError
from unlearn_jax.influence import Window, all_but_one, leave_one_out, retrained, train
from unlearn_jax.influence.boundary import Contour, displacement, margin
from unlearn_jax.influence.response import for_members, weighted_gradient
from unlearn_jax.models import as_model, build, through_waves
from unlearn_jax.models.resnet import Normalisation
from unlearn_jax.types import Examples, Model, Recipe, Variables

POINTS = 14
TOY = discs(POINTS, separation=3.0, label_noise=0.2, seed=1)
EXAMPLES = Examples(jnp.asarray(TOY.train.images), jnp.asarray(TOY.train.labels))
MLP = build("mlp", classes=2, width=5)
SGD = Recipe(epochs=12, batch_size=POINTS, learning_rate=0.1, momentum=0.9, weight_decay=1e-3, schedule="constant")
ADAM = dataclasses.replace(SGD, optimiser="adam", learning_rate=1e-2)
RECIPES = {"full": SGD, "adam": ADAM, "minibatch": dataclasses.replace(SGD, epochs=3, batch_size=4)}
WINDOW = Window(-6.0, 6.0, 2.0, 8.0, 24)


def run_of(recipe, model=MLP, seed=0):
    return influence.training(jax.random.key(seed), model, EXAMPLES, recipe)


def close(ours, theirs, rtol=2e-4, atol=2e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), ours, theirs)


@pytest.fixture(scope="module")
def runs():
    return {name: run_of(recipe) for name, recipe in RECIPES.items()}


@pytest.fixture(scope="module")
def exact(runs):
    return leave_one_out(runs["full"], window=WINDOW)


# θ(w)


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_the_gradient_by_hand_is_the_automatic_one(layers):
    model = build("mlp", classes=3, width=5, layers=layers)
    gradient = jax.jit(weighted_gradient, static_argnums=0)
    images = jax.random.normal(jax.random.key(0), (7, 3, 2))  # six inputs: more than a sum of outer products takes
    labels, weights = jnp.array([0, 1, 2, 0, 1, 2, 0]), jnp.array([1.0, 0.5, 0, 2, 1, 1, 3])
    for inputs in (images, images[:, 0]):
        variables = jax.tree.map(lambda leaf: leaf + 0.1, model.init(jax.random.key(1), inputs))  # biases too
        hand, _ = gradient(model, variables, Examples(inputs, labels), weights)
        automatic, _ = gradient(model._replace(gradient=None), variables, Examples(inputs, labels), weights)
        close(hand, automatic, rtol=1e-5, atol=1e-7)


def test_another_activation_is_differentiated_automatically_and_is_what_it_says():
    model = build("mlp", classes=2, width=3, layers=1, activation="tanh")
    assert model.gradient is None
    variables = model.init(jax.random.key(0), EXAMPLES.images)
    hidden, head = (jax.tree.map(np.asarray, variables.params[name]) for name in ("hidden1", "head"))
    expected = np.tanh(TOY.train.images @ hidden["kernel"] + hidden["bias"]) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(model.apply(variables, EXAMPLES.images, train=False)[0], expected, rtol=1e-5, atol=1e-6)
    assert build("mlp", classes=2, width=3, layers=1, activation="gelu") is not model


def by_hand(run, left_out, epochs_rows, learning_rate=0.1, momentum=0.9, decay=1e-3):
    """Momentum SGD on the mean loss of a relu network with two hidden layers, in loops and float64, a point skipped."""
    params = jax.tree.map(lambda leaf: np.array(leaf, np.float64), run.initial.params)
    images, labels = np.array(run.examples.images, np.float64), np.array(run.examples.labels)
    speed = jax.tree.map(np.zeros_like, params)
    for rows in epochs_rows:
        rows = [row for row in rows if row != left_out]
        gradient = jax.tree.map(np.zeros_like, params)
        for row in rows:
            inputs = [images[row]]
            for name in ("hidden1", "hidden2"):
                inputs.append(np.maximum(inputs[-1] @ params[name]["kernel"] + params[name]["bias"], 0))
            logits = inputs[-1] @ params["head"]["kernel"] + params["head"]["bias"]
            error = np.exp(logits - logits.max())
            error /= error.sum()
            error[labels[row]] -= 1
            for name, x in zip(("head", "hidden2", "hidden1"), reversed(inputs), strict=True):
                gradient[name]["kernel"] += np.outer(x, error) / len(rows)
                gradient[name]["bias"] += error / len(rows)
                error = (params[name]["kernel"] @ error) * (x > 0)
        for name, layer in params.items():
            for kind in layer:
                total = gradient[name][kind] + decay * layer[kind]
                speed[name][kind] = momentum * speed[name][kind] + total
                layer[kind] = layer[kind] - learning_rate * speed[name][kind]
    return params


@pytest.mark.parametrize("name", ["full", "minibatch"])
@pytest.mark.parametrize("point", [None, 0, 5])
def test_leave_one_out_is_training_that_skips_the_point(runs, name, point):
    run = runs[name]
    rows = [range(POINTS)] * run.steps if run.batches is None else np.asarray(run.batches).tolist()
    weights = np.ones(POINTS, np.float32) if point is None else all_but_one(POINTS)[point]
    close(jax.jit(train)(run, weights).params, by_hand(run, point, rows), rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("name", ["adam", "minibatch"])
def test_strategies_and_chunks_agree(runs, name):
    weights = all_but_one(POINTS)[:5]
    found = [retrained(runs[name], weights, strategy, chunk) for strategy in ("map", "vmap") for chunk in (None, 2)]
    for other in found[1:]:
        close(other, found[0], rtol=1e-3, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, found[1], found[0])  # under map to the bit
    alone = jax.jit(train)(runs[name], jnp.asarray(weights[3]))  # one device, no mapping
    close(alone, jax.tree.map(lambda leaf: leaf[3], found[0]), rtol=1e-3, atol=1e-5)
    assert all(len(leaf) == 5 for leaf in jax.tree.leaves(found[0]))


def test_every_optax_chain_will_do():
    run = dataclasses.replace(run_of(SGD), transform=optax.lion(1e-3), steps=3)
    assert np.isfinite(leave_one_out(run, np.array([2])).change.parameter).all()


def test_a_point_without_a_gradient_moves_nothing():
    far = EXAMPLES._replace(images=EXAMPLES.images.at[3].set(0.0), labels=EXAMPLES.labels.at[3].set(0))

    def certain(variables, images, train):  # of an image of zeros, whatever the weights
        sure = jnp.stack([jnp.full(len(images), 200.0), jnp.zeros(len(images))], axis=1)
        return jnp.where(jnp.all(images == 0, axis=1, keepdims=True), sure, images @ variables.params["head"]["kernel"]), {}

    model = Model(lambda key, images: Variables({"head": {"kernel": jnp.ones((2, 2))}}, {}), certain, (("head",),))
    run = influence.training(jax.random.key(0), model, far, SGD)
    rate = POINTS / (POINTS - 1)  # the mean is over one point fewer
    sped = dataclasses.replace(run, transform=optax.chain(optax.scale(rate), optax.sgd(0.1)))
    plain = dataclasses.replace(run, transform=optax.sgd(0.1))
    without = jax.jit(train)(plain, jnp.asarray(all_but_one(POINTS)[3]))
    close(without, jax.jit(train)(sped, jnp.ones(POINTS)))
    adam = dataclasses.replace(run, transform=optax.adam(0.1, eps=1e-30))  # which does not see the scale
    found = leave_one_out(adam).change
    assert found.parameter[3] < 1e-4 < 1e-2 < np.delete(found.parameter, 3).min()


def test_what_is_returned_is_what_it_says(runs, exact):
    run, change = runs["full"], exact.change
    models = [jax.tree.map(lambda leaf, i=i: leaf[i], exact.without) for i in range(POINTS)]
    leaves = [(jax.tree.leaves(model.params), jax.tree.leaves(exact.original.params)) for model in models]
    squares = [[np.square(a - b).sum() for a, b in zip(*both, strict=True)] for both in leaves]
    np.testing.assert_allclose(change.parameter, np.sqrt(np.sum(squares, axis=1)), rtol=1e-4)
    assert set(change.parameters) == {"hidden1", "hidden2", "head"}

    def logits(variables):
        return np.asarray(MLP.apply(variables, EXAMPLES.images, train=False)[0], np.float64)

    def losses(variables):
        z = logits(variables)
        return np.log(np.exp(z).sum(1)) - z[np.arange(POINTS), EXAMPLES.labels]

    def margins(variables):  # two classes: the difference
        z = logits(variables)
        return z[np.arange(POINTS), EXAMPLES.labels] - z[np.arange(POINTS), 1 - EXAMPLES.labels]

    for i, other in enumerate(models):
        np.testing.assert_allclose(change.losses[i], losses(other) - losses(exact.original), atol=1e-5)
        np.testing.assert_allclose(change.margins[i], margins(other) - margins(exact.original), atol=1e-5)
    some = leave_one_out(run, np.array([4, 1]), window=WINDOW)
    np.testing.assert_array_equal(some.change.boundary, change.boundary[[4, 1]])
    assert change.mean_displacement.shape == (POINTS,) and (change.largest_displacement >= change.mean_displacement).all()


def test_another_order_of_the_sums_is_the_same_run(runs):
    order, trained = np.random.default_rng(0).permutation(POINTS), jax.jit(train)
    for run, own in ((runs["full"], order), (runs["minibatch"], order[order < 4])):
        close(trained(influence.reordered(run, own), jnp.ones(POINTS)), trained(run, jnp.ones(POINTS)), 1e-3, 1e-5)


def test_the_share_done_is_told_after_each_chunk_and_ends_at_one():
    shares = []
    found = for_members(
        lambda same, own: same * own, jnp.float32(2.0), np.arange(5, dtype=np.float32), chunk=2, report=shares.append
    )
    np.testing.assert_array_equal(found, 2 * np.arange(5))
    assert shares == [0.4, 0.8, 1.0]


class Normalised(nn.Module):
    """The least network with BatchNorm."""

    @nn.compact
    def __call__(self, images, train, counted=None):
        x = nn.Dense(3, name="first")(images).T[:, None, None]
        x = Normalisation("batch", name="norm")(x, train, None if counted is None else counted[None, None, None])
        return nn.Dense(2, name="head")(x[:, 0, 0].T)


def test_statistics_are_those_of_the_rows_that_count():
    run = run_of(dataclasses.replace(SGD, epochs=3), as_model(Normalised(), (("head",),), shape=EXAMPLES.images[:1].shape))
    found = leave_one_out(run, np.array([1, 4]))
    keep = np.delete(np.arange(POINTS), 4)
    fewer = dataclasses.replace(run, examples=jax.tree.map(lambda leaf: leaf[keep], EXAMPLES))  # the row is not there at all
    close(jax.tree.map(lambda leaf: leaf[1], found.without), jax.jit(train)(fewer, jnp.ones(POINTS - 1)), rtol=1e-3, atol=1e-4)


def test_a_step_normalises_by_its_batch_and_remembers_that():
    model = as_model(Normalised(), (("head",),), shape=EXAMPLES.images[:1].shape)
    variables, weights = model.init(jax.random.key(0), EXAMPLES.images), jnp.arange(POINTS) % 3.0
    gradient, statistics = jax.jit(weighted_gradient, static_argnums=0)(model, variables, EXAMPLES, weights)

    def loss(params):
        own = variables._replace(params=params)
        logits, after = model.apply(own, EXAMPLES.images, train=True, counted=weights > 0)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, EXAMPLES.labels)
        return jnp.sum(weights * each) / jnp.sum(weights), after

    close((gradient, statistics), jax.jit(jax.grad(loss, has_aux=True))(variables.params), rtol=1e-4, atol=1e-6)
    assert not np.allclose(jax.tree.leaves(statistics)[0], jax.tree.leaves(variables.statistics)[0], atol=0.1)


def test_a_row_of_a_resnet_that_does_not_count_changes_nothing_for_the_others():
    model, images = build("resnet8", classes=2, width=2), jax.random.normal(jax.random.key(0), (4, 4, 4, 1))
    variables, counted = jax.jit(model.init)(jax.random.key(1), images), np.arange(4) != 2
    passed = jax.jit(lambda images: model.apply(variables, images, train=True, counted=jnp.asarray(counted)))
    (here, statistics), (there, same) = jax.device_get((passed(images), passed(images.at[2].add(5.0))))
    close((here[counted], statistics), (there[counted], same), rtol=1e-6, atol=1e-7)
    assert not np.allclose(here[2], there[2])


# The boundary


def half_plane(variables, images, train):
    """Two logits whose difference is scale · (normal · x - offset)."""
    normal, offset, scale = variables.params["normal"], variables.params["offset"], variables.params["scale"]
    return jnp.array([[0.0, 1.0]]) * scale * (images @ normal - offset)[:, None], {}


LINE = Model(lambda key, images: None, half_plane, ())


def line_at(normal, offset, scale=1.0):
    return Variables({"normal": np.float32(normal), "offset": np.float32(offset), "scale": np.float32(scale)}, {})


@settings(max_examples=12, deadline=None)
@given(st.floats(0, 6.28), st.floats(-1.5, 1.5))
def test_a_line_that_is_shifted_by_d_is_displaced_by_d(angle, shift):
    normal = np.array([np.cos(angle), np.sin(angle)])
    here = line_at(normal, 0.5)
    line = influence.contour(LINE, here, Window(-3.0, 3.0, -3.0, 3.0, 20), points=40)
    np.testing.assert_allclose(line.points @ normal, 0.5, atol=1e-5)
    np.testing.assert_allclose(line.normals, np.tile(normal, (40, 1)), atol=1e-5)
    moved = displacement(LINE, line_at(normal, 0.5 + shift), line, 4.0)
    np.testing.assert_allclose(moved, shift, atol=4e-6)
    np.testing.assert_allclose(displacement(LINE, line_at(normal, 0.5, scale=3), line, 4.0), 0.0, atol=4e-6)
    away = displacement(LINE, line_at(normal, 50.0), line, 4.0)
    np.testing.assert_allclose(np.abs(away), 4.0, rtol=1e-6)


def test_points_of_a_circle_are_spread_evenly_along_it():
    def apply(variables, images, train):
        distance = jnp.sqrt(jnp.sum(images**2, axis=1) + 1e-12)
        return jnp.stack([jnp.zeros(len(images)), distance - variables.params["radius"]], axis=1), {}

    model = Model(lambda key, images: None, apply, ())
    circles = [Variables({"radius": jnp.float32(radius)}, {}) for radius in (1.0, 1.25)]
    line = influence.contour(model, circles[0], Window(-2.0, 2.0, -2.0, 2.0, 40), points=60)
    np.testing.assert_allclose(np.linalg.norm(line.points, axis=1), 1.0, atol=1e-5)
    in_sectors, _ = np.histogram(np.arctan2(*line.points.T), bins=6, range=(-np.pi, np.pi))
    assert (abs(in_sectors - 10) <= 2).all()
    np.testing.assert_allclose(displacement(model, circles[1], line, 1.0), 0.25, atol=1e-5)
    with pytest.raises(influence.NoBoundaryError, match="no decision boundary inside x from -2 to 2"):
        influence.contour(model, Variables({"radius": jnp.float32(9.0)}, {}), Window(-2.0, 2.0, -2.0, 2.0, 8))


def test_a_boundary_beside_a_flat_part_is_found_and_has_a_normal():
    def apply(variables, images, train):  # flat at -0.2 to the left of -0.01, steep to the right of it
        return jnp.stack([jnp.zeros(len(images)), jnp.maximum(20 * images[:, 0], -0.2)], axis=1), {}

    model = Model(lambda key, images: None, apply, ())
    line = influence.contour(model, Variables({}, {}), Window(-1.03, 1.0, -1.0, 1.0, 12), points=20)
    np.testing.assert_allclose(line.points[:, 0], 0.0, atol=1e-5)
    np.testing.assert_allclose(line.normals, np.tile([1.0, 0.0], (20, 1)), atol=1e-5)
    np.testing.assert_allclose(displacement(model, Variables({}, {}), line, 2.0), 0.0, atol=1e-5)


def test_of_two_zeros_the_nearer_one_counts():
    def apply(variables, images, train):
        return jnp.stack([jnp.zeros(len(images)), (images[:, 0] + 0.3) * (images[:, 0] - 0.9)], axis=1), {}

    line = Contour(np.zeros((1, 2), np.float32), np.array([[1.0, 0.0]], np.float32), np.array([1]))
    (found,) = displacement(Model(lambda key, images: None, apply, ()), Variables({}, {}), line, 4.0)
    np.testing.assert_allclose(found, -0.3, atol=1e-5)


@pytest.mark.parametrize("nearest", [0.07, 0.6, 2.3, 3.7])
def test_a_thin_part_of_a_class_is_seen_far_away_too(nearest):
    def apply(variables, images, train):
        return jnp.stack([jnp.zeros(len(images)), (images[:, 0] - nearest) * (images[:, 0] - nearest - 0.07)], axis=1), {}

    line = Contour(np.zeros((1, 2), np.float32), np.array([[1.0, 0.0]], np.float32), np.array([1]))
    (found,) = displacement(Model(lambda key, images: None, apply, ()), Variables({}, {}), line, 4.0)
    np.testing.assert_allclose(found, nearest, atol=1e-5)


def test_what_was_not_found_within_the_window_is_counted(exact):
    reach = np.float32(WINDOW.diagonal)
    change = exact.change._replace(boundary=np.array([[0.1, reach], [-reach, 0.0], [0.9 * reach, 0.0], [reach, 0.0]]))
    assert study.censored_share(exact._replace(change=change), WINDOW) == 3 / 8


def test_several_classes_have_a_boundary_each():
    centres = jnp.array([[0.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])

    def apply(variables, images, train):
        return -jnp.sum((images[:, None] - centres[None]) ** 2, axis=2), {}

    model = Model(lambda key, images: None, apply, ())
    line = influence.contour(model, Variables({}, {}), Window(-3.0, 3.0, -3.0, 3.0, 30), points=90)
    assert set(np.asarray(line.classes)) == {0, 1, 2}
    logits = np.sort(apply(None, line.points, False)[0], axis=1)
    np.testing.assert_allclose(logits[:, -1], logits[:, -2], atol=1e-4)
    values = margin(model, Variables({}, {}), line.points + 0.01 * line.normals, line.classes)
    assert (values > 0).all()


# The study


@pytest.mark.parametrize(
    ("changed", "option"),
    [
        ({"train_size": 3}, "--train-size"),
        ({"discs": Discs(classes=1)}, "--discs.classes"),
        ({"discs": Discs(radius=0.0)}, "--discs.radius"),
        ({"discs": Discs(separation=float("nan"))}, "--discs.separation"),
        ({"layers": 0}, "--layers"),
        ({"reorderings": 1}, "--reorderings"),
        ({"resolution": 7}, "--resolution"),
        ({"shown": 0}, "--shown"),
        ({"waves": -1}, "--waves"),
        ({"dataset": "fashion_plane", "train_size": 19}, "--train-size"),
        ({"dataset": "fashion_plane", "label_noise": 0.1}, "--dataset"),
        ({"dataset": "fashion_plane", "discs": Discs(radius=1.0)}, "--dataset"),
    ],
)
def test_a_mistake_names_its_option(changed, option):
    with pytest.raises(ArgumentError) as raised:
        dataclasses.replace(Config(), **changed).check()
    assert raised.value.argument == option


def test_the_plane_that_is_like_images_has_ten_classes():
    toy = draw_toy(Config(dataset="fashion_plane", train_size=400), 0)
    assert toy.train.images.shape == (400, 2) and len(toy.centres) == 10
    assert (np.bincount(toy.clean_labels) == 40).all()
    assert (toy.train.labels != toy.clean_labels).sum() == round(400 * FASHION_PLANE.label_noise)
    np.testing.assert_array_equal(draw_toy(Config(train_size=30), 0).train.images, discs(30).train.images)
    seen = prepare_training(Config(dataset="fashion_plane", train_size=400, waves=5, width=4), toy, 0).model
    assert seen is through_waves(build("mlp", classes=10, width=4, layers=2, activation="relu"), 5, FASHION_PLANE.contrast)


@pytest.mark.parametrize("with_one", [0, 1])
def test_an_original_without_a_boundary_is_a_mistake_before_anything_is_left_out(monkeypatch, with_one):
    """The original, or only the other seed's."""
    asked, laid = dataclasses.replace(smoke(Config()), train_size=4, resolution=8), []

    def contour(model, variables, window):
        laid.append(variables)
        if len(laid) > with_one:
            raise influence.NoBoundaryError("the model has none")

    monkeypatch.setattr(influence, "contour", contour)
    monkeypatch.setattr(influence, "train", lambda run, weights: run.initial)
    monkeypatch.setattr(study, "leave_one_out", lambda *_: pytest.fail("trained for nothing"))
    with pytest.raises(ArgumentError, match=r"try more epochs, or a larger --train\.learning-rate than 0\.01") as raised:
        study.run(asked, None)
    assert raised.value.argument == "--train.epochs" and len(laid) == 1 + with_one


def test_the_study_from_end_to_end(tmp_path):
    words = ["--exp", "influence", "--smoke", "--device", "cpu", "--out", str(tmp_path / "run"), "--discs.separation", "4"]
    done = run_in_process(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr
    with (tmp_path / "run/influence.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 32 and sorted(int(row["rank"]) for row in rows) == list(range(1, 33))
    by_rank = sorted(rows, key=lambda row: int(row["rank"]))
    displaced = [float(row["displacement_mean"]) for row in by_rank]
    assert displaced == sorted(displaced, reverse=True) and displaced[0] > 0
    assert all(float(row["displacement_largest"]) >= float(row["displacement_mean"]) for row in rows)
    ranks = json.loads((tmp_path / "run/results.json").read_text())["agreement"]["displacement_mean"]["correlation"]
    assert "% of the places along the boundary" in (tmp_path / "run/summary.md").read_text()
    assert ranks[0][1] > 0.9  # in whatever order the sums are, a point's place in the table is its own
    names = {path.name for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert {"summary.md", "results.json", "map.png", "boundaries.png", "agreement.png"} <= names


def test_a_short_run_with_profile_leaves_a_trace_of_its_operations_and_says_what_took_long(tmp_path):
    words = ["--exp", "influence", "--smoke", "--device", "cpu", "--out", str(tmp_path / "run"), "--profile"]
    done = run_in_process(*words, "--train-size", "8", "--train.epochs", "4", "--reorderings", "2")
    assert done.returncode == 0 and "% of this machine's peak" in done.stdout, done.stdout + done.stderr
    assert list((tmp_path / "run").rglob("perfetto_trace.json.gz"))
    assert all(f"| {stage} |" in (tmp_path / "run/stages.md").read_text() for stage in ("imports", "leave-one-out", "figures"))
