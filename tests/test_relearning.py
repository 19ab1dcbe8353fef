"""Metrics that need the model itself: the curve of relearning, and what the main study hands over to the scores."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unlearn_jax import metrics
from unlearn_jax.bench.main_options import Config
from unlearn_jax.bench.model_metrics import ModelMetrics
from unlearn_jax.models import build, mean_of
from unlearn_jax.training import relearning
from unlearn_jax.training.ensembles import predict
from unlearn_jax.training.fit import initialise
from unlearn_jax.training.pools import member_keys
from unlearn_jax.training.relearning import POINTS, Relearner
from unlearn_jax.types import Cube, Examples, Labels, Problem, Recipe

ROWS, CLASSES = 20, 3
FORGET = np.arange(ROWS) % 3 == 1
MLP = build("mlp", classes=CLASSES, width=5)


@pytest.fixture(scope="module")
def problem():
    """One for all tests: what is compiled for it is compiled once, for two members at a time."""
    draw = np.random.default_rng(0)
    images = jnp.asarray(draw.normal(size=(ROWS, 4, 4, 1)), jnp.float32)
    examples = Examples(images, jnp.asarray(draw.integers(0, CLASSES, ROWS), jnp.int32))
    return Problem(
        train=examples,
        held_out=examples,
        kept=jnp.ones(ROWS, bool),
        forget=jnp.asarray(FORGET),
        model=MLP,
        classes=CLASSES,
        kept_count=ROWS,
        forget_count=int(FORGET.sum()),
        recipe=Recipe(epochs=2, batch_size=8, learning_rate=0.3),
    )


def members(problem, count):
    return jax.jit(jax.vmap(lambda key: initialise(key, problem)))(member_keys(0, "test", count))


def literal_curve(problem, variables, rows):
    """SGD by hand on the same batch again and again."""
    recipe, params = problem.recipe, variables.params
    images, labels = problem.train.images[rows], problem.train.labels[rows]
    velocity = jax.tree.map(jnp.zeros_like, params)

    def loss(params):
        logits, _ = MLP.apply(variables._replace(params=params), images, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    step, losses = jax.jit(jax.value_and_grad(loss)), []
    for _ in range(POINTS):
        value, gradient = step(params)
        losses.append(float(value))
        gradient = jax.tree.map(lambda g, p: g + recipe.weight_decay * p, gradient, params)
        velocity = jax.tree.map(lambda v, g: recipe.momentum * v + g, velocity, gradient)
        params = jax.tree.map(lambda p, v: p - recipe.learning_rate * v, params, velocity)
    return losses


def test_the_curve_is_that_of_plain_descent_at_the_largest_rate(problem):
    pool = members(problem, 2)
    curves = Relearner(problem, chunk=2)(pool)
    assert curves.shape == (2, POINTS)
    rows = np.flatnonzero(problem.forget)
    for number, curve in enumerate(curves):
        own = jax.tree.map(lambda leaf, number=number: leaf[number], pool)
        np.testing.assert_allclose(curve, literal_curve(problem, own, rows), rtol=1e-4)
    assert (curves[:, -1] < curves[:, 0]).all()


def test_members_do_not_depend_on_the_chunk_and_no_other_row_is_read(problem):
    pool = members(problem, 4)
    whole = Relearner(problem, chunk=2)(pool)
    np.testing.assert_allclose(Relearner(problem, chunk=1)(pool), whole, rtol=1e-5)
    poisoned = problem.train._replace(images=jnp.where(problem.forget[:, None, None, None], problem.train.images, jnp.nan))
    np.testing.assert_array_equal(Relearner(dataclasses.replace(problem, train=poisoned), chunk=2)(pool), whole)


def test_of_a_large_forget_set_the_first_rows_are_learned(problem, monkeypatch):
    pool = members(problem, 2)
    monkeypatch.setattr(relearning, "ROWS", 4)
    relearning._program.cache_clear()
    curves = Relearner(problem, chunk=2)(pool)
    own = jax.tree.map(lambda leaf: leaf[1], pool)
    np.testing.assert_allclose(curves[1], literal_curve(problem, own, np.flatnonzero(FORGET)[:4]), rtol=1e-4)
    relearning._program.cache_clear()


def test_what_needs_the_model_is_scored_against_the_oracles(problem):
    pool = members(problem, 10)
    originals, oracles, own = (jax.tree.map(lambda leaf, s=s: leaf[s], pool) for s in (slice(2), slice(2, 8), slice(8, 10)))
    images = problem.train.images[FORGET]
    measure = ModelMetrics(Config(members=2, chunk=2), problem, images, originals, oracles)
    logits = [predict(MLP, each, images) for each in (oracles, own)]
    of_oracles, extra = measure.of_oracles(logits[0]), measure.of(own, logits[1])
    assert measure.target == pytest.approx(Relearner(problem, chunk=2)(originals)[:, 0].mean())
    expected = metrics.relearn_steps(Relearner(problem, chunk=2)(own), measure.target)
    np.testing.assert_allclose(extra["relearn_steps", "forget"], expected)
    np.testing.assert_allclose(of_oracles["weight_distance", "all"], metrics.weight_distance(oracles.params)["all"])
    np.testing.assert_allclose(extra["weight_distance", "all"], metrics.weight_distance(own.params, oracles.params)["all"])
    assert ((extra["zrf", "forget"] > 0) & (extra["zrf", "forget"] < 1)).all()

    pairs = jax.tree.map(lambda leaf: np.asarray(leaf)[[[0, 0], [0, 1]]], own)  # ensembles of two: the same twice, and both
    of_pairs = measure.of(pairs, logits[1], mean_of(MLP))
    distances, of_pairs_distances = extra["weight_distance", "all"], of_pairs["weight_distance", "all"]
    np.testing.assert_allclose(of_pairs_distances, [distances[0], np.sqrt(np.mean(distances**2))], rtol=1e-5)
    assert of_pairs.keys() == extra.keys() and all(np.isfinite(values).all() for values in of_pairs.values())

    labels = Labels(*(problem.train.labels[FORGET] for _ in range(3)))
    yardstick = metrics.reference(Cube(*(logits[0],) * 3), labels, 2, splits=10, extra=of_oracles)
    scores = {(each.metric, each.split): each for each in metrics.score(Cube(*(logits[1],) * 3), yardstick, extra=extra).scores}
    for name, values in extra.items():
        assert scores[name].value == pytest.approx(values.mean())
        assert scores[name].null.mean == pytest.approx(of_oracles[name].mean())
        np.testing.assert_allclose(scores[name].members, values)
    assert set(yardstick.of_members(Cube(*(logits[1],) * 3), extra)) >= set(extra)
    with pytest.raises(ValueError, match="extra: missing relearn_steps forget, weight_distance all, zrf forget, unknown nothing"):
        metrics.score(Cube(*(logits[1],) * 3), yardstick)
