"""What relabelling and the methods around the decision boundary are, and the adversarial examples that they are made of.

Softmax regression is restated in NumPy: there the gradient in the image is W (p - y), and distances to the boundary are known.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_methods import (
    ALL,
    CLASSES,
    EXAMPLES,
    FORGET,
    KEY,
    RETAIN,
    close,
    linear,
    normalised,
    problem,
    same,
    start,
    unlearn,
)

from unlearn_jax.methods import descend
from unlearn_jax.methods.pieces import among, examples_of, other_labels, with_share_of_retain
from unlearn_jax.models import with_extra_class
from unlearn_jax.training import perturbations
from unlearn_jax.training.objectives import Term, cross_entropy, weighted
from unlearn_jax.training.perturbations import nearest_adversarial, predicted, targeted_descent
from unlearn_jax.types import Examples


@pytest.fixture(scope="module", autouse=True)
def small_chunks():
    """The last chunk of images is not full."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perturbations, "CHUNK", 4)
        yield


def flat(images):
    return np.asarray(images, np.float64).reshape(len(images), -1)


def head(variables):
    return tuple(np.asarray(variables.params["head"][name], np.float64) for name in ("kernel", "bias"))


def softmax(scores):
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def slopes(kernel, bias, x, labels):
    """The gradient of each example's cross-entropy in its image."""
    return (softmax(x @ kernel + bias) - np.eye(CLASSES)[labels]) @ kernel.T


def walk(kernel, bias, x, labels, *, radius, step, steps):
    """Normalised steps down each example's cross-entropy, inside a ball."""
    moved = x
    for _ in range(steps):
        slope = slopes(kernel, bias, moved, labels)
        apart = moved - step * slope / np.linalg.norm(slope, axis=1, keepdims=True) - x
        moved = x + apart * np.minimum(1, radius / np.linalg.norm(apart, axis=1, keepdims=True))
    return moved


def adam(slope, weights, rate, steps):
    """Adam on a list of arrays (arXiv 1412.6980)."""
    first, second = [0.0] * len(weights), [0.0] * len(weights)
    for step in range(1, steps + 1):
        g = slope(step - 1, *weights)
        first = [0.9 * m + 0.1 * own for m, own in zip(first, g, strict=True)]
        second = [0.999 * v + 0.001 * own**2 for v, own in zip(second, g, strict=True)]
        moves = [m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8) for m, v in zip(first, second, strict=True)]
        weights = [w - rate * move for w, move in zip(weights, moves, strict=True)]
    return weights


def errors(kernel, bias, x, labels):
    """The gradient of the mean cross-entropy in kernel and bias."""
    error = (softmax(x @ kernel + bias) - np.eye(CLASSES)[labels]) / len(x)
    return x.T @ error, error.sum(0)


def regression(variables, x, labels, signs, *, rate, decay=0.0, momentum=0.9, steps, pull=lambda kernel, bias: (0.0, 0.0)):
    """Full-batch SGD on the mean of signs x CE in softmax regression, in NumPy."""
    kernel, bias = head(variables)
    velocity = np.zeros_like(kernel), np.zeros_like(bias)
    for _ in range(steps):
        error = signs[:, None] * (softmax(x @ kernel + bias) - np.eye(CLASSES)[labels]) / len(x)
        own = pull(kernel, bias)
        g = x.T @ error + decay * kernel + own[0], error.sum(0) + decay * bias + own[1]
        velocity = momentum * velocity[0] + g[0], momentum * velocity[1] + g[1]
        kernel, bias = kernel - rate * velocity[0], bias - rate * velocity[1]
    return {"kernel": kernel, "bias": bias}


# Adversarial examples


@functools.cache
def finder():
    """The nearest adversarial examples of labelled images, for any weights and radius."""
    attack = functools.partial(nearest_adversarial, linear(), doublings=5, steps=50)
    return jax.jit(lambda variables, examples, radius: attack(variables, examples, radius=radius))


def as_predicted(on, variables):
    """The training images with the labels that the model gives them."""
    return on.train._replace(labels=predicted(on.model, variables, on.train.images))


def test_targeted_descent_walks_to_its_label_inside_the_ball():
    on, variables = problem(linear()), start(linear())
    forget = examples_of(on, "forget")
    aims = forget._replace(labels=(forget.labels + 1) % CLASSES)
    x = flat(aims.images)
    found = flat(jax.jit(lambda: targeted_descent(on.model, variables, aims, radius=0.8, step=0.3, steps=6))())
    expected = walk(*head(variables), x, np.asarray(aims.labels), radius=0.8, step=0.3, steps=6)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert (np.linalg.norm(found - x, axis=1) <= 0.8 + 1e-5).all()


def test_the_nearest_adversarial_example_lies_just_across_the_boundary():
    on, variables = problem(linear()), start(linear())
    examples = as_predicted(on, variables)
    examples = examples._replace(labels=examples.labels.at[0].set((examples.labels[0] + 1) % CLASSES))
    found = finder()(variables, examples, 0.1)
    assert same(found.images[0], examples.images[0])  # wrong already: it stays, with the label that the model gives it
    assert (found.labels != examples.labels).all()
    assert same(found.labels, predicted(on.model, variables, found.images))
    kernel, bias = head(variables)
    x, labels = flat(examples.images), np.asarray(examples.labels)
    scores, went = x @ kernel + bias, np.linalg.norm(flat(found.images) - x, axis=1)
    for row in range(1, EXAMPLES):
        own, others = labels[row], [j for j in range(CLASSES) if j != labels[row]]
        distances = [(scores[row, own] - scores[row, j]) / np.linalg.norm(kernel[:, own] - kernel[:, j]) for j in others]
        ball = 0.1 * 2 ** max(np.ceil(np.log2(min(distances) / 0.1)), 0)  # the first that reaches the boundary
        assert min(distances) < went[row] <= 2 * ball  # its direction is not quite the shortest: the next may be needed


def test_an_example_that_no_ball_fools_keeps_its_class():
    on, variables = problem(linear()), start(linear())
    examples = as_predicted(on, variables)
    found = finder()(variables, examples, 1e-5)
    assert same(found.labels, examples.labels)
    np.testing.assert_allclose(np.linalg.norm(flat(found.images) - flat(examples.images), axis=1), 32e-5, rtol=0.02)


def test_an_attack_on_a_very_sure_model_still_finds_its_way():
    """Where p_y rounds to 1: p_y - 1 would be 0."""
    on, variables = problem(linear()), start(linear())
    examples = as_predicted(on, variables)
    sure = jax.tree.map(lambda leaf: 20.0 * leaf, variables)
    assert (jax.nn.softmax(on.model.apply(sure, examples.images)[0]).max(-1) == 1.0).any()
    assert (finder()(sure, examples, 0.1).labels != examples.labels).all()


# Successive random labels


def test_successive_random_labels_are_drawn_anew_for_every_batch():
    on, variables = problem(linear()), start(linear())
    found = unlearn("successive_random_labels", on, variables, learning_rate=0.05, epochs=4, batch_size=ALL)
    descent = descend(weighted(Term("kept", cross_entropy)), optax.sgd(0.0), steps=4, batch_size=ALL)
    plan = jax.jit(descent.plan)(KEY, on)
    x, forget, true = flat(on.train.images), np.asarray(on.forget), np.asarray(on.train.labels)
    drawn = []
    for rows, key in zip(np.asarray(plan.rows["kept"]), plan.keys, strict=True):
        labels, others = true.copy(), other_labels(jax.random.fold_in(key, 1), on.train.labels[rows], CLASSES)
        labels[rows] = np.where(forget[rows], others, true[rows])
        drawn.append(labels)
    kept = np.flatnonzero(on.kept)
    assert all((a[forget] != b[forget]).any() for a, b in itertools.pairwise(drawn))
    kernel, bias = adam(lambda step, *now: errors(*now, x[kept], drawn[step][kept]), head(variables), 0.05, 4)
    close(found.params["head"], {"kernel": kernel, "bias": bias}, rtol=5e-4, atol=1e-5)


# Boundary shrink and expanding


def test_boundary_shrink_trains_on_the_class_across_the_boundary():
    on, variables = problem(linear()), start(linear())
    found = unlearn("boundary_shrink", on, variables, size=1.0, learning_rate=0.2, epochs=3, batch_size=ALL)
    forget = examples_of(on, "forget")
    x, labels, (kernel, bias) = flat(forget.images), np.asarray(forget.labels), head(variables)
    nearest = (x + 1.0 * np.sign(slopes(kernel, bias, x, labels))) @ kernel + bias
    nearest = nearest.argmax(-1)
    assert (nearest != labels).sum() > 0 and (nearest != (x @ kernel + bias).argmax(-1)).any()
    close(found.params["head"], regression(variables, x, nearest, np.ones(FORGET), rate=0.2, steps=3))


def test_boundary_expanding_trains_a_class_more_and_prunes_it():
    on, variables = problem(linear()), start(linear())
    found = unlearn("boundary_expanding", on, variables, learning_rate=0.3, epochs=4, batch_size=ALL).params
    assert jax.tree.structure(found) == jax.tree.structure(variables.params)
    x, (kernel, bias) = flat(examples_of(on, "forget").images), head(variables)
    neuron = np.sqrt(2 / (len(kernel) + CLASSES + 1)) * np.asarray(jax.random.normal(jax.random.split(KEY)[0], (len(kernel), 1)))
    kernel, bias = np.concatenate([kernel, neuron], axis=1), np.append(bias, 0.0)
    velocity = [0.0, 0.0]
    for _ in range(4):
        error = (softmax(x @ kernel + bias) - np.eye(CLASSES + 1)[CLASSES]) / FORGET
        velocity = [0.9 * velocity[0] + x.T @ error, 0.9 * velocity[1] + error.sum(0)]
        kernel, bias = kernel - 0.3 * velocity[0], bias - 0.3 * velocity[1]
    assert softmax(x @ kernel + bias)[:, -1].min() > 0.4  # they had moved into the new class
    close(found["head"], {"kernel": kernel[:, :-1], "bias": bias[:-1]})


def test_an_extra_class_is_one_more_output_of_the_same_body():
    model, images = normalised(), problem(linear()).train.images
    wide = with_extra_class(model)
    variables = wide.init(KEY, images[:1])
    base = variables._replace(params={name: group for name, group in variables.params.items() if name != "extra"})
    found, moved = wide.apply(variables, images, train=True)
    expected, expected_moved = model.apply(base, images, train=True)
    assert found.shape == (EXAMPLES, CLASSES + 1)
    np.testing.assert_allclose(found[:, :-1], expected, rtol=1e-5, atol=1e-6)
    close(moved, expected_moved)
    swapped = dict(base.params)
    swapped["head"] = jax.tree.map(
        lambda own, extra: own.at[..., :1].set(extra), base.params["head"], variables.params["extra"]["head"]
    )
    other, _ = model.apply(base._replace(params=swapped), images, train=True)
    np.testing.assert_allclose(found[:, -1], other[:, 0], rtol=1e-5, atol=1e-6)
    assert wide.blocks[:-1] == model.blocks[:-1] and wide.blocks[-1] == ("head", "extra")


# AMUN


@pytest.mark.parametrize("name", ["amun", "amun_forget"])
def test_amun_trains_on_the_forget_set_and_its_neighbours(name):
    on, variables = problem(linear()), start(linear())
    given = {"radius": 0.2, "doublings": 5, "attack_steps": 50, "learning_rate": 0.1, "weight_decay": 0.03}
    found = unlearn(name, on, variables, epochs=3, batch_size=ALL, **given).params["head"]
    forget, seen = examples_of(on, "forget"), examples_of(on, "kept" if name == "amun" else "forget")
    near = jax.tree.map(lambda leaf: leaf[np.asarray(on.forget)], finder()(variables, on.train, 0.2))
    assert (near.labels != forget.labels).any()
    x = np.concatenate([flat(seen.images), flat(near.images)])
    labels = np.concatenate([seen.labels, near.labels])
    assert len(x) == 2 * FORGET + (RETAIN if name == "amun" else 0)
    close(found, regression(variables, x, labels, np.ones(len(x)), rate=0.1, decay=0.03, steps=3), rtol=5e-4, atol=1e-5)


# UNSIR


def test_unsir_is_its_papers_three_phases():
    """The images of F are NaN: their labels alone are read."""
    on, variables = problem(linear()), start(linear())
    on = on.replace(train=on.train._replace(images=jnp.where(on.forget[:, None, None, None], jnp.nan, on.train.images)))
    given = {"impair_rate": 0.03, "repair_rate": 0.02, "noise_rate": 0.2, "noise_penalty": 0.05}
    counts = {"noise_images": 4, "noise_steps": 8, "retain_share": 0.5, "noise_share": 0.4}
    found = unlearn("unsir", on, variables, epochs=3, batch_size=ALL, **given, **counts)

    subset_key, start_key, *_ = jax.random.split(KEY, 5)
    retained = examples_of(with_share_of_retain(subset_key, on, 0.5), "retain")
    labels, (kernel, bias) = np.asarray(examples_of(on, "forget").labels)[:4], head(variables)
    begun = flat(jax.random.normal(start_key, (4, 2, 3, 1)))

    def misfit(step, images):
        return [2 * 0.05 * images / 4 - slopes(kernel, bias, images, labels) / 4]

    (noise,) = adam(misfit, [begun], 0.2, 8)
    right = np.arange(4), labels
    assert softmax(noise @ kernel + bias)[right].mean() < 0.7 * softmax(begun @ kernel + bias)[right].mean()
    x, rows = flat(retained.images), np.arange(round(0.4 / 0.6 * RETAIN / 2)) % 4
    mixed, targets = np.concatenate([x, noise[rows]]), np.concatenate([retained.labels, labels[rows]])
    impaired = adam(lambda step, *now: errors(*now, mixed, targets), [kernel, bias], 0.03, 3)
    repaired = adam(lambda step, *now: errors(*now, x, np.asarray(retained.labels)), impaired, 0.02, 3)
    close(found.params["head"], dict(zip(("kernel", "bias"), repaired, strict=True)), rtol=1e-3, atol=1e-5)


# L2UL


def test_l2ul_is_ascent_on_the_forget_set_held_by_adversarials_and_by_an_anchor():
    on, variables = problem(linear()), start(linear())
    given = {"learning_rate": 0.1, "anchor": 0.7, "radius": 0.5, "attack_step": 0.2, "weight_decay": 0.03}
    found = unlearn("l2ul", on, variables, copies=2, attack_steps=4, epochs=3, batch_size=ALL, **given).params["head"]
    forget = examples_of(on, "forget")
    twice = jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, axis=0), forget)
    aims = Examples(twice.images, other_labels(jax.random.split(KEY)[0], twice.labels, CLASSES))
    kernel, bias = head(variables)
    x, moved = (
        flat(forget.images),
        walk(*head(variables), flat(aims.images), np.asarray(aims.labels), radius=0.5, step=0.2, steps=4),
    )
    scores = x @ kernel + bias
    directions = scores / np.linalg.norm(scores, axis=1, keepdims=True)  # of |f| in f
    importance = np.abs(x[:, :, None] * directions[:, None]).mean(0), np.abs(directions).mean(0)
    keep = [1 - (leaf - leaf.min()) / (leaf.max() - leaf.min()) for leaf in importance]

    def pull(now, bias_now):
        return 0.7 * keep[0] * (now - kernel), 0.7 * keep[1] * (bias_now - bias)

    x, labels = np.concatenate([x, moved]), np.concatenate([forget.labels, aims.labels])
    signs = np.repeat([-1.0, 1.0], [FORGET, 2 * FORGET])
    close(found, regression(variables, x, labels, signs, rate=0.1, decay=0.03, steps=3, pull=pull), rtol=5e-4, atol=1e-5)


def test_l2ul_moves_a_model_whose_logits_are_all_zero():
    on = problem(linear())
    zero = jax.tree.map(jnp.zeros_like, start(linear()))
    params = unlearn("l2ul", on, zero, copies=1, attack_steps=1, epochs=1, batch_size=ALL).params["head"]
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in params.values())


# The pieces


def test_extra_examples_stand_behind_the_training_set():
    on = problem(linear())
    extra = Examples(jnp.full((5, 2, 3, 1), 7.0), jnp.arange(5, dtype=jnp.int32) % CLASSES)
    both = among(on, "retain", extra)
    assert (both.kept_count, both.forget_count, both.retain_count) == (RETAIN + 5, 0, RETAIN + 5)
    assert same(both.retain, np.append(np.asarray(on.retain), [True] * 5))
    assert same(both.train.images[EXAMPLES:], extra.images) and same(both.train.labels[EXAMPLES:], extra.labels)
    assert same(both.train.images[:EXAMPLES], on.train.images)
