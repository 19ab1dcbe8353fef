"""What is read off members example by example: penultimate features, norms of gradients, variations of an image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax.data.augmentation import NOISE, variations
from unlearn_jax.models import as_model, build
from unlearn_jax.models.resnet import ResNet, block_names
from unlearn_jax.training.ensembles import features, over_examples
from unlearn_jax.training.gradients import gradient_norms
from unlearn_jax.types import Examples, Variables

RNG = np.random.default_rng(0)
MODELS = {
    "mlp": build("mlp", classes=3, width=5),
    "resnet": as_model(ResNet(3, (1,), 2), block_names((1,))),
}
EXAMPLES = Examples(RNG.normal(size=(7, 4, 4, 1)).astype(np.float32), RNG.integers(0, 3, 7).astype(np.int32))


@functools.cache
def members(name, count=2):
    """Variables whose running statistics are not those that they start with."""
    image = jnp.asarray(EXAMPLES.images[:1])
    drawn = jax.jit(jax.vmap(lambda key: MODELS[name].init(key, image)))(jax.random.split(jax.random.key(0), count))
    return Variables(drawn.params, jax.tree.map(lambda leaf: leaf + 0.5, drawn.statistics))


def member(variables, index):
    return jax.tree.map(lambda leaf: leaf[index], variables)


@pytest.mark.parametrize("name", MODELS)
def test_the_head_reads_the_features(name):
    model, variables = MODELS[name], members(name)
    read = features(model, variables, EXAMPLES.images, batch=3)
    for index in range(2):
        own = member(variables, index)
        logits, _ = model.apply(own, EXAMPLES.images, train=False)
        head = jax.tree.map(np.asarray, own.params["head"])
        np.testing.assert_allclose(read[index] @ head["kernel"] + head["bias"], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_gradient_norms_are_those_of_single_examples(name):
    model, variables = MODELS[name], members(name)
    found = over_examples(gradient_norms, model, variables, EXAMPLES, batch=3)
    assert found.shape == (2, 7, len(model.blocks))

    @jax.jit
    def gradient(own, image, label):
        def loss(params):
            logits, _ = model.apply(own._replace(params=params), image[None], train=False)
            return -jax.nn.log_softmax(logits[0])[label]

        return jax.grad(loss)(own.params)

    for index, row in ((0, 0), (0, 6), (1, 3)):
        tree = gradient(member(variables, index), EXAMPLES.images[row], EXAMPLES.labels[row])
        literal = [np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves([tree[g] for g in block]))) for block in model.blocks]
        np.testing.assert_allclose(found[index, row], literal, rtol=1e-4)


def test_the_head_s_gradient_is_its_error_times_its_input():
    model, variables = MODELS["mlp"], members("mlp")
    norms = over_examples(gradient_norms, model, variables, EXAMPLES)[0, :, -1]
    p = jax.nn.softmax(model.apply(member(variables, 0), EXAMPLES.images, train=False)[0])
    error = np.linalg.norm(np.asarray(p) - np.eye(3)[EXAMPLES.labels], axis=1)
    inputs = np.sqrt((features(model, variables, EXAMPLES.images)[0] ** 2).sum(1) + 1)  # 1: the bias
    np.testing.assert_allclose(norms, error * inputs, rtol=1e-4)


@pytest.mark.parametrize("batch", [3, 500])
def test_over_examples_is_the_function_example_by_example(batch):
    def label_of_sum(model, variables, examples):
        return jnp.sum(examples.images, axis=(1, 2, 3)) * examples.labels + variables.params["head"]["bias"][0]

    model, variables = MODELS["mlp"], members("mlp", 2)
    found = over_examples(label_of_sum, model, variables, EXAMPLES, batch=batch)
    expected = EXAMPLES.images.sum((1, 2, 3)) * EXAMPLES.labels + np.asarray(variables.params["head"]["bias"])[:, :1]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_variations_are_four_shifts_by_a_pixel_and_noise():
    images = RNG.normal(size=(40, 5, 6, 2)).astype(np.float32)
    up, down, left, right, *noisy = variations(images)
    np.testing.assert_array_equal(up, np.concatenate([images[:, 1:], images[:, -1:]], axis=1))
    np.testing.assert_array_equal(down, np.concatenate([images[:, :1], images[:, :-1]], axis=1))
    np.testing.assert_array_equal(left, np.concatenate([images[:, :, 1:], images[:, :, -1:]], axis=2))
    np.testing.assert_array_equal(right, np.concatenate([images[:, :, :1], images[:, :, :-1]], axis=2))
    assert len(noisy) == 4 and not np.array_equal(noisy[0], noisy[1])
    assert np.std(np.stack(noisy) - images) == pytest.approx(NOISE, rel=0.03)
    np.testing.assert_array_equal(variations(images, 1)[:4], variations(images)[:4])
    assert not np.array_equal(variations(images, 1)[4:], variations(images)[4:])
