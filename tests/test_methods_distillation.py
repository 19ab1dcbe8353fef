"""What SCRUB+R, DELETE and gated knowledge transfer are."""

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
    close,
    linear,
    mlp,
    problem,
    same,
    start,
    unlearn,
)

from unlearn_jax.errors import ArgumentError
from unlearn_jax.methods import METHODS, descend, hyperparameters
from unlearn_jax.methods.data_free import attention_map, teach
from unlearn_jax.methods.distillation import alternation, away_and_towards, class_weights, epoch_ends, falling_adam
from unlearn_jax.models import build
from unlearn_jax.models.generator import generator
from unlearn_jax.training.fit import initialise
from unlearn_jax.training.objectives import Objective
from unlearn_jax.types import Examples, Variables

# SCRUB+R


def held_out(on):
    """Held-out examples in which the classes are not as frequent as in F."""
    rng = np.random.default_rng(5)
    images = rng.normal(size=(17, 2, 3, 1)).astype(np.float32)
    return on.replace(held_out=Examples(jnp.asarray(images), jnp.asarray(np.sort(rng.integers(0, CLASSES, 17)).astype(np.int32))))


def doubled(leaf):
    return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def wrong(on, variables, examples):
    return np.asarray(on.model.apply(variables, examples.images)[0]).argmax(-1) != np.asarray(examples.labels)


def test_scrub_r_rewinds_to_the_epoch_whose_forget_error_is_that_of_unseen_examples():
    on, variables = held_out(problem(mlp())), start(mlp())
    given = {"learning_rate": 0.05, "rate_decay": 0.5, "weight_decay": 0.02, "alpha": 0.4, "gamma": 0.8, "temperature": 2.0}
    method = jax.jit(METHODS["scrub_r"].make(epochs=5, max_epochs=4, batch_size=6, **given))
    program = alternation(on, 4, 5, 6)
    transform = falling_adam(0.05, 0.5, 0.02, epoch_ends(on, 4, 5, 6))
    descent = descend(away_and_towards(on, variables, 0.4, 0.8, 2.0), transform, program=program, batch_size=6)

    @jax.jit
    def advance(state, plan, step):
        return descent.advance(state, jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, step, 1), plan), on)[0]

    draw = jax.jit(descent.plan)
    ends = [5, 10, 15, 20, 24]  # one step on F in each epoch but the last, and four on R
    assert epoch_ends(on, 4, 5, 6) == ends and len(program) == 24

    forget = Examples(*(leaf[np.asarray(on.forget)] for leaf in on.train))
    share, chosen = np.bincount(forget.labels, minlength=CLASSES) / FORGET, set()
    for key in jax.random.split(KEY, 4):
        plan, state, epochs = draw(key, on), descent.begin(variables), []
        for step in range(len(program)):
            state = advance(state, plan, step)
            epochs += [state.variables] if step + 1 in ends else []
        last = wrong(on, epochs[-1], on.held_out)
        per_class = [last[np.asarray(on.held_out.labels) == label].mean() for label in range(CLASSES)]
        errors = np.array([wrong(on, epoch, forget).mean() for epoch in epochs])
        nearest = int(np.abs(errors - share @ per_class).argmin())
        close(method(key, on, variables), epochs[nearest], rtol=1e-3, atol=1e-5)
        chosen.add(nearest)
    assert len(chosen) > 1 and chosen != {0, 4}


def test_held_out_examples_are_weighted_as_the_classes_of_the_forget_set():
    on = held_out(problem(linear()))
    weights, labels = np.asarray(class_weights(on)), np.asarray(on.held_out.labels)
    of_forget = np.bincount(np.asarray(on.train.labels)[np.asarray(on.forget)], minlength=CLASSES) / FORGET
    shares = [weights[labels == label].sum() / len(labels) for label in range(CLASSES)]
    np.testing.assert_allclose(shares, of_forget, rtol=1e-5)
    lonely = on.replace(held_out=Examples(on.held_out.images, jnp.full(17, 1, jnp.int32)))
    np.testing.assert_allclose(class_weights(lonely), 1.0)


def test_scrub_r_goes_by_the_unweighted_error_where_no_unseen_example_has_a_class_of_the_forget_set():
    """All of F is of class 0, and no unseen example: labelled as the last epoch takes them or not, they choose other epochs.

    In double precision: the first gradient is 0 but for rounding, which Adam would scale up, to another path in every program.
    """
    with jax.enable_x64(True):
        on, variables = jax.tree.map(doubled, (held_out(problem(linear())), start(linear())))
        on = on.replace(train=on.train._replace(labels=jnp.where(on.forget, 0, on.train.labels)))
        given = {"learning_rate": 0.3, "rate_decay": 1.0, "weight_decay": 0.0, "max_epochs": 4, "epochs": 5, "batch_size": ALL}
        program, ends = alternation(on, 4, 5, ALL), epoch_ends(on, 4, 5, ALL)
        descent = descend(away_and_towards(on, variables, 0.5, 1.0, 2.0), optax.adam(0.3), program=program, batch_size=ALL)
        stacked = jax.jit(lambda on: descent.checkpoints(KEY, on, variables, ends))(on)
        epochs = [jax.tree.map(lambda leaf, at=at: leaf[at], stacked) for at in range(5)]
        forget = Examples(*(leaf[np.asarray(on.forget)] for leaf in on.train))
        errors = np.array([wrong(on, epoch, forget).mean() for epoch in epochs])
        says = np.asarray(on.model.apply(epochs[-1], on.held_out.images)[0]).argmax(-1)
        method, chosen = jax.jit(METHODS["scrub_r"].make(**given)), set()
        for labels in (np.where(says == 1, 1, 2), np.where(says == 1, 2, 1)):
            unseen = Examples(on.held_out.images, jnp.asarray(labels, jnp.int32))
            nearest = int(np.abs(errors - wrong(on, epochs[-1], unseen).mean()).argmin())
            close(method(KEY, on.replace(held_out=unseen), variables), epochs[nearest])
            chosen.add(nearest)
        assert len(chosen) == 2


def test_checkpoints_are_the_states_on_the_way():
    """On a quadratic, where step t stands at 0.7^t; the last step comes after the last checkpoint."""

    def value(forward, variables, batches, progress):
        return 0.5 * variables.params["x"] ** 2, variables.statistics

    descent = descend(Objective((), value), optax.sgd(0.3), steps=6)
    kept = descent.checkpoints(KEY, problem(linear()), Variables({"x": jnp.array(2.0)}, {}), [1, 3, 5])
    np.testing.assert_allclose(kept.params["x"], 2.0 * 0.7 ** np.array([1, 3, 5]), rtol=1e-5)


# DELETE


def test_delete_imitates_the_original_without_the_class():
    on, variables = problem(linear()), start(linear())
    found = unlearn("delete", on, variables, learning_rate=0.3, epochs=4, batch_size=ALL).params["head"]
    rows = np.flatnonzero(on.forget)
    x, labels = np.asarray(on.train.images, np.float64)[rows].reshape(FORGET, -1), np.asarray(on.train.labels)[rows]
    kernel, bias = (np.asarray(variables.params["head"][name], np.float64) for name in ("kernel", "bias"))
    softmax = lambda scores: np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)  # noqa: E731
    target = softmax(x @ kernel + bias) * (1 - np.eye(CLASSES)[labels])
    target /= target.sum(-1, keepdims=True)
    velocity = [0.0, 0.0]
    for _ in range(4):
        error = (softmax(x @ kernel + bias) - target) / FORGET
        velocity = [0.9 * velocity[0] + x.T @ error, 0.9 * velocity[1] + error.sum(0)]
        kernel, bias = kernel - 0.3 * velocity[0], bias - 0.3 * velocity[1]
    close(found, {"kernel": kernel, "bias": bias})


# Gated knowledge transfer


def test_the_gate_lets_no_image_of_the_class_through():
    on, variables = problem(mlp()), start(mlp())
    p = np.asarray(jax.nn.softmax(on.model.apply(variables, on.train.images)[0]))[:, 1]
    gate = float(np.median(p))
    lesson = teach(on.model.activations, variables, on.train.images, 1, gate)
    passing = np.asarray(on.train.images)[p <= gate]
    rows = [next(row for row in range(EXAMPLES) if same(image, on.train.images[row])) for image in lesson.images]
    assert lesson.weight == 1 and len(rows) == EXAMPLES and set(rows) == set(np.flatnonzero(p <= gate))
    assert max(np.bincount(rows)) - min(np.bincount(rows)[np.bincount(rows) > 0]) <= 1 and len(passing) < EXAMPLES
    close(lesson.logits, on.model.apply(variables, lesson.images)[0])
    assert teach(on.model.activations, variables, on.train.images, 1, 0.0).weight == 0


@pytest.mark.parametrize("network", ["mlp", "resnet8"])
def test_attention_maps_are_unit_vectors_over_positions(network):
    model, rng = build(network, classes=CLASSES, width=3), np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(3, 4, 4, 1)).astype(np.float32))
    shapes = jax.eval_shape(model.init, KEY, images[:1])
    variables = jax.tree.map(lambda leaf: jnp.asarray(abs(rng.normal(size=leaf.shape)).astype(np.float32)), shapes)
    logits, statistics, activations = model.activations(variables, images, train=False)
    assert same(statistics, variables.statistics) and len(activations) == len(model.blocks) - 1
    for each in activations:
        energy = (np.asarray(each, np.float64) ** 2).mean(-1)
        np.testing.assert_allclose(attention_map(each), energy / np.linalg.norm(energy, axis=-1, keepdims=True), atol=1e-4)
    if network == "mlp":  # a unit is a position of its own
        layer = variables.params["hidden1"]
        hidden = images.reshape(3, -1) @ layer["kernel"] + layer["bias"][None]
        np.testing.assert_allclose(activations[0][..., 0], hidden, rtol=1e-4, atol=1e-5)
    else:  # the last block's output, pooled, is what the head sees
        pooled, layer = activations[-1].mean(axis=1), variables.params["head"]
        np.testing.assert_allclose(logits, pooled @ layer["kernel"] + layer["bias"][None], rtol=1e-4, atol=1e-5)
        assert [each.shape for each in activations] == [(3, 16, 3), (3, 16, 3), (3, 4, 6), (3, 1, 12)]


def test_what_nothing_activates_has_no_attention():
    np.testing.assert_array_equal(attention_map(jnp.zeros((2, 3, 4))), 0.0)


def test_a_generators_images_are_standardised():
    maker = generator((5, 7, 2), width=4)
    noise = jax.random.normal(KEY, (64, 6))
    images, statistics = jax.jit(lambda: maker.apply(maker.init(KEY, noise), noise))()
    assert images.shape == (64, 5, 7, 2) and statistics == {}
    assert abs(images.mean(axis=(0, 1, 2))).max() < 0.2 and abs(images.std(axis=(0, 1, 2)) - 1).max() < 0.2


def test_gated_knowledge_transfer_learns_all_but_a_class_from_nothing():
    """All data is NaN, with labels that do not exist. Behind an open gate the student learns the class too, and behind one
    that lets nothing through it stays fresh.
    """
    clean = problem(build("mlp", classes=CLASSES, width=8))
    lost = clean.replace(
        train=Examples(clean.train.images * jnp.nan, clean.train.labels * 0 - 1),
        held_out=Examples(clean.held_out.images * jnp.nan, clean.held_out.labels * 0 - 1),
    )
    teacher = jax.tree.map(lambda leaf: 2.0 * leaf, start(clean.model))
    given = {"label": 2, "learning_rate": 0.05, "attention": 80.0, "rounds": 100, "student_steps": 5, "batch_size": 32}
    make = METHODS["gated_knowledge_transfer"].make
    transfer = jax.jit(lambda gate: make(gate=gate, **given)(KEY, lost, teacher))
    images = jax.random.normal(KEY, (300, 2, 3, 1))
    fresh = jax.jit(lambda: initialise(jax.random.split(KEY, 4)[0], clean))()
    students = teacher, transfer(0.3), transfer(1.0), fresh
    taught, gated, ungated, untaught = (np.asarray(clean.model.apply(v, images)[0]).argmax(-1) for v in students)
    kept = taught != 2
    assert 30 < kept.sum() < 270
    assert (gated == taught)[kept].mean() > 0.65 > 0.3 > (untaught == taught)[kept].mean()
    assert (gated == 2)[~kept].mean() < 0.1 and (ungated == 2)[~kept].mean() > 0.5
    close(transfer(0.0), fresh)


def test_a_class_that_does_not_exist_is_refused():
    method = METHODS["gated_knowledge_transfer"].make(**hyperparameters("gated_knowledge_transfer", {"label": CLASSES}))
    with pytest.raises(ArgumentError, match=r"label 3: must be 0 to 2"):
        method(KEY, problem(mlp()), start(mlp()))
    assert hyperparameters("gated_knowledge_transfer", {"label": "0"})["label"] == 0
    with pytest.raises(ArgumentError, match="a whole number, 0 to 1,000,000"):
        hyperparameters("gated_knowledge_transfer", {"label": -1})


def test_a_model_without_activations_is_refused():
    method = METHODS["gated_knowledge_transfer"].make()
    with pytest.raises(ValueError, match=r"gated_knowledge_transfer needs Model.activations, "):
        method(KEY, problem(linear()), start(linear()))
