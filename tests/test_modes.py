"""Who is asked answers in eval mode: on a network whose running statistics are far from those of any batch.

What eval mode says is written out here (`answers`), for one image at a time: it cannot depend on the others of a batch.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_laws as laws
from jax.flatten_util import ravel_pytree
from test_methods import CLASSES, FORGET, KEY, close, normalised, problem, start, unlearn

from unlearn_jax.influence import Window, contour
from unlearn_jax.influence import curvature as influence_curvature
from unlearn_jax.influence.response import Training, losses, margins
from unlearn_jax.methods.data_free import teach
from unlearn_jax.methods.distillation import error_rate
from unlearn_jax.methods.hypernetwork import Lesson, fresh_hypernetwork, lesson_loss, rewritten
from unlearn_jax.training import gradients
from unlearn_jax.training.ensembles import features, predict
from unlearn_jax.training.landscape import hessian_product
from unlearn_jax.training.perturbations import fast_gradient_sign, nearest_adversarial, predicted, targeted_descent
from unlearn_jax.training.pools import train_pool
from unlearn_jax.types import Examples, Model, Variables

RNG = np.random.default_rng(3)
STATISTICS = {
    "norm": {"mean": jnp.asarray(RNG.normal(size=5) * 2, jnp.float32), "var": jnp.asarray(1 + 5 * RNG.random(5), jnp.float32)}
}


def trained():
    """A model whose statistics are nothing like those of the problem's images."""
    return start(normalised())._replace(statistics=STATISTICS)


def answers(params, image, statistics=STATISTICS):
    """The logits of one image in eval mode, written out."""
    norm = statistics["norm"]
    x = (image.reshape(-1) @ params["hidden"]["kernel"] - norm["mean"]) / jnp.sqrt(norm["var"] + 1e-3) * params["norm"]["scale"]
    return jax.nn.relu(x) @ params["head"]["kernel"]


def cross_entropies(params, examples):
    one = lambda image, label: -jax.nn.log_softmax(answers(params, image))[label]  # noqa: E731
    return jax.vmap(one)(*examples)


def stacked(variables, members=2):
    return jax.tree.map(lambda leaf: jnp.stack([leaf * (1 + number) for number in range(members)]), variables)


@pytest.fixture(scope="module")
def on():
    return problem(normalised())


@pytest.fixture(scope="module")
def logits(on):
    return np.asarray(jax.vmap(lambda image: answers(trained().params, image))(on.train.images))


def test_the_statistics_matter(on, logits):
    at_once, _ = on.model.apply(trained(), on.train.images, train=True)
    assert (np.argmax(at_once, -1) != logits.argmax(-1)).mean() > 0.2
    close(on.model.apply(trained(), on.train.images, train=False)[0], logits)


def test_predictions_and_features_of_a_pool(on):
    members = stacked(trained())
    said, read = (function(on.model, members, on.train.images, batch=7) for function in (predict, features))
    for number in range(2):
        own = jax.tree.map(lambda leaf, number=number: leaf[number], members)
        close(said[number], jax.vmap(lambda image, own=own: answers(own.params, image, own.statistics))(on.train.images))
        close(read[number] @ np.asarray(own.params["head"]["kernel"]), said[number])


def test_the_accuracy_that_a_pool_reports(on, tmp_path):
    """On held-out images that are all brighter than those trained on, by which a batch of them would not normalise."""
    bright = on.replace(held_out=Examples(on.held_out.images + 2.0, on.held_out.labels))
    seen = []
    pool = train_pool(
        bright, np.asarray(on.kept), members=2, role="oracle", seed=0, identity={}, cache=tmp_path, report=seen.append
    )
    right, otherwise = [], []
    for number in range(2):
        own = Variables(*jax.tree.map(lambda leaf, number=number: jnp.asarray(leaf[number]), pool.variables))
        said = jax.vmap(lambda image, own=own: answers(own.params, image, own.statistics))(bright.held_out.images)
        batch, _ = on.model.apply(own, bright.held_out.images, train=True)
        right.append((said.argmax(-1) == bright.held_out.labels).mean())
        otherwise.append((batch.argmax(-1) == bright.held_out.labels).mean())
    assert seen[-1].accuracy == pytest.approx(float(np.mean(right))) != pytest.approx(float(np.mean(otherwise)))


def test_adversarial_examples(on, logits):
    variables, few = trained(), Examples(on.train.images[:9], on.train.labels[:9])
    slope = jax.vmap(jax.grad(lambda image, label: cross_entropies(variables.params, (image[None], label[None]))[0]))(*few)
    np.testing.assert_array_equal(predicted(on.model, variables, on.train.images), logits.argmax(-1))
    close(fast_gradient_sign(on.model, variables, few, 0.1), few.images + 0.1 * jnp.sign(slope))
    lengths = jnp.sqrt(jnp.sum(slope**2, axis=(1, 2, 3), keepdims=True))
    close(targeted_descent(on.model, variables, few, radius=1.0, step=0.1, steps=1), few.images - 0.1 * slope / lengths)
    right = Examples(on.train.images[:9], jnp.asarray(logits[:9].argmax(-1), jnp.int32))
    found = nearest_adversarial(on.model, variables, right, radius=0.5, doublings=4, steps=10)
    says = jax.vmap(lambda image: answers(variables.params, image))(found.images).argmax(-1)
    np.testing.assert_array_equal(found.labels, says)
    assert (says != right.labels).all()


def test_gradients_of_single_examples(on):
    variables, rows = trained(), on.rows("forget")
    forget = Examples(*(leaf[np.asarray(on.forget)] for leaf in on.train))
    weights, restore = ravel_pytree(variables.params)
    direction = jax.random.normal(KEY, weights.shape)

    @jax.jit
    def expected():
        losses = lambda weights: cross_entropies(restore(weights), forget)  # noqa: E731
        squares = lambda weights: jax.vmap(lambda image: jnp.sum(answers(restore(weights), image) ** 2))(forget.images)  # noqa: E731
        along = jax.jvp(jax.grad(lambda weights: jnp.mean(losses(weights))), (weights,), (direction,))[1]
        each = jax.jacrev(losses)(weights)
        return each, jnp.mean(jnp.abs(jax.jacrev(squares)(weights)), axis=0), along

    @jax.jit
    def found():
        read = lambda z, label: -jax.nn.log_softmax(z)[label]  # noqa: E731
        flat = lambda tree: ravel_pytree(tree)[0]  # noqa: E731
        return (
            gradients.jacobian(on, variables, jnp.nonzero(on.forget, size=FORGET)[0], read),
            flat(gradients.batch_gradient(on, variables, "forget")),
            flat(gradients.squared_gradients(on, variables, rows)),
            jnp.sum(gradients.gradient_norms(on.model, variables, forget) ** 2, axis=1),
            flat(gradients.output_sensitivities(on, variables, rows)),
            hessian_product(on, variables, rows, 4)(direction),
        )

    each, sensitivities, along = expected()
    squares = each**2
    close(found(), (each, each.mean(0), squares.mean(0), squares.sum(1), sensitivities, along))


def test_influence(on, logits):
    variables = trained()
    own = logits[np.arange(len(logits)), on.train.labels]
    others = np.where(np.arange(CLASSES) == np.asarray(on.train.labels)[:, None], -np.inf, logits)
    close(margins(on.model, variables, on.train), own - np.logaddexp.reduce(others, axis=1))
    close(losses(on.model, variables, on.train), cross_entropies(variables.params, on.train))
    run = Training(variables, on.train, None, on.model, optax.identity(), 0)
    weights, restore = ravel_pytree(variables.params)
    all_logits = lambda flat: jax.vmap(lambda image: answers(restore(flat), image))(on.train.images)  # noqa: E731
    derivatives = jax.jit(jax.jacrev(all_logits))(weights)
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    middle = p[:, :, None] * np.eye(CLASSES) - p[:, :, None] * p[:, None]
    matrix = np.einsum("ncp,ncd,ndq->pq", derivatives, middle, derivatives) / len(logits)
    rows = np.asarray(jax.jit(influence_curvature.gauss_newton_rows)(run, variables), np.float64)
    close(rows.T @ rows, matrix)
    direction = jax.random.normal(KEY, weights.shape)
    product = jax.jit(lambda vector: influence_curvature._gauss_newton_product(run, variables, on.train)(vector))(direction)
    close(product, matrix @ np.asarray(direction))


def test_the_error_rate_by_which_scrub_r_rewinds(on, logits):
    wrong = logits.argmax(-1) != np.asarray(on.train.labels)
    for source in ("forget", "retain"):
        mask, _ = on.rows(source)
        assert error_rate(on, trained(), on.train, on.rows(source)) == pytest.approx(wrong[np.asarray(mask)].mean())


def test_delete_is_taught_in_eval_mode(on, logits):
    """One step: the gradient of the divergence from what eval mode says, without the class, to what training mode does."""
    variables, rows = trained(), np.flatnonzero(on.forget)
    images, labels = on.train.images[rows], on.train.labels[rows]
    own = np.arange(CLASSES) == np.asarray(labels)[:, None]
    target = jax.nn.softmax(jnp.where(own, -jnp.inf, logits[rows]))

    def loss(params):
        said, _ = on.model.apply(variables._replace(params=params), images, train=True)
        return -jnp.mean(jnp.sum(target * jax.nn.log_softmax(said), axis=1))

    after = unlearn("delete", on, variables, learning_rate=0.3, epochs=1, batch_size=FORGET)
    close(
        after.params,
        jax.tree.map(lambda leaf, slope: leaf - 0.3 * slope, variables.params, jax.jit(jax.grad(loss))(variables.params)),
    )


def test_ntk_asks_in_eval_mode_alone(on):
    """It trains nothing, so that a network that keeps its statistics in any mode is changed in the same way."""

    def still(variables, images, train=False):
        return on.model.apply(variables, images, train=False)

    frozen = dataclasses.replace(on, model=Model(on.model.init, still, on.model.blocks, on.model.features))
    given = {"scale": 0.5, "samples": 4}
    close(unlearn("ntk", on, trained(), **given).params, unlearn("ntk", frozen, trained(), **given).params)


def test_a_hypernetwork_is_judged_in_eval_mode():
    network = laws.model("finetune")
    on, own = laws.problem(network), laws.member(laws.members(network), 1)
    rows, others = np.flatnonzero(on.forget), np.flatnonzero(on.retain)[:5]
    weights = jax.tree.map(lambda leaf: leaf + 0.05, fresh_hypernetwork(KEY, on))
    images = [on.train.images[rows], on.train.images[others], on.held_out.images]
    oracle = jnp.asarray(np.random.default_rng(0).normal(size=(sum(map(len, images)), CLASSES)), jnp.float32)
    lesson = Lesson(own, jnp.asarray(rows), jnp.asarray(others), oracle)
    forget = Examples(on.train.images[rows], on.train.labels[rows])
    after = jax.jit(lambda weights: rewritten(weights, on, own, forget))(weights)
    said = jnp.concatenate([network.apply(after, image[None], train=False)[0] for part in images for image in part])
    log_p, log_q = jax.nn.log_softmax(oracle), jax.nn.log_softmax(said)
    apart = np.split(np.asarray(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=1)), [len(rows), len(rows) + 5])
    close(jax.jit(lambda weights: lesson_loss(weights, on, lesson))(weights), sum(part.mean() for part in apart))


def test_a_teacher_of_made_images_is_in_eval_mode():
    network = laws.model("gated_knowledge_transfer")
    own, images = laws.member(laws.members(network), 1), laws.problem(network).train.images[:10]
    lesson = teach(network.activations, own, images, 0, 1.0)
    close(lesson.logits, jnp.concatenate([network.apply(own, image[None], train=False)[0] for image in images]))


def test_a_decision_boundary_is_that_of_eval_mode():
    """In the plane, where a hidden unit reads the first coordinate: eval mode turns at 1, whatever the points."""

    def apply(variables, points, train=False):
        centre = jnp.mean(points[:, 0]) if train else variables.statistics["mean"]
        return jnp.stack([centre - points[:, 0], points[:, 0] - centre], axis=1), variables.statistics

    model = Model(lambda key, points: None, apply, (("head",),))
    found = contour(model, Variables({}, {"mean": jnp.float32(1.0)}), Window(-2.0, 3.0, -1.0, 1.0, 12), points=8)
    close(found.points[:, 0], np.ones(8))
