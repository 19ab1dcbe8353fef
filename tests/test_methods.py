"""What each method *is*: closed forms, restatements by hand, and the faults that published code has had.

Gradients are restated in NumPy, one example at a time; whole methods in plain loops over the batches of the same plan.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from unlearn_jax.errors import ArgumentError
from unlearn_jax.methods import METHODS, descend, hyperparameters, register
from unlearn_jax.methods.distillation import alternation
from unlearn_jax.methods.relabelling import descend_on_wrong_labels, least_salient, wrong_labels
from unlearn_jax.models import build
from unlearn_jax.training import gradients
from unlearn_jax.training.fit import fit
from unlearn_jax.training.gradients import batch_gradient, squared_gradients
from unlearn_jax.training.objectives import Objective, Term, cross_entropy, divergence, weighted
from unlearn_jax.training.transforms import freeze_where
from unlearn_jax.types import Dense, Examples, Model, Problem, Recipe, Variables

KEY = jax.random.key(0)
EXAMPLES, FORGET, RETAIN, CLASSES = 40, 6, 28, 3  # six more rows belong to neither
ALL = 1000  # a batch of this size is the whole source


# Networks: of the library, and two written out


@functools.cache
def mlp():
    return build("mlp", classes=CLASSES, width=5)


def _dense(key, inputs, outputs):
    return jax.random.normal(key, (inputs, outputs)) / inputs**0.5


@functools.cache
def linear():
    """Softmax regression. Its initialisation pays no heed to the key, so that a test knows the random teacher."""

    def init(key, images):
        shape = int(np.prod(images.shape[1:])), CLASSES
        return Variables({"head": {"kernel": _dense(jax.random.key(99), *shape), "bias": jnp.zeros(CLASSES)}}, {})

    def apply(variables, images, train=False):
        head = variables.params["head"]
        return images.reshape(len(images), -1) @ head["kernel"] + head["bias"][None], variables.statistics

    head = Dense("head/kernel", "head/bias")
    facts = {"norms": (), "convolutions": (), "dense": (head,), "head": head}
    return Model(init, apply, (("head",),), lambda variables, images: images.reshape(len(images), -1), **facts)


@functools.cache
def normalised():
    """A hidden layer, BatchNorm, a head: three blocks."""

    def init(key, images):
        hidden, head = jax.random.split(key)
        params = {
            "hidden": {"kernel": _dense(hidden, int(np.prod(images.shape[1:])), 5)},
            "norm": {"scale": jnp.ones(5)},
            "head": {"kernel": _dense(head, 5, CLASSES)},
        }
        return Variables(params, {"norm": {"mean": jnp.zeros(5), "var": jnp.ones(5)}})

    def read(variables, images, train=False):
        params, running = variables
        x = images.reshape(len(images), -1) @ params["hidden"]["kernel"]
        own = {"mean": jnp.mean(x, axis=0), "var": jnp.var(x, axis=0)} if train else running["norm"]
        x = (x - own["mean"][None]) / jnp.sqrt(own["var"][None] + 1e-3) * params["norm"]["scale"][None]
        moved = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, running["norm"], own) if train else running["norm"]
        return jax.nn.relu(x), {"norm": moved}

    def apply(variables, images, train=False):
        features, statistics = read(variables, images, train)
        return features @ variables.params["head"]["kernel"], statistics

    hidden, head = Dense("hidden/kernel", None), Dense("head/kernel", None)
    facts = {"norms": ("norm",), "convolutions": (), "dense": (hidden, head), "head": head}
    return Model(init, apply, (("hidden",), ("norm",), ("head",)), lambda variables, images: read(variables, images)[0], **facts)


@functools.cache
def problem(model):
    rng = np.random.default_rng(0)
    order = rng.permutation(EXAMPLES)
    forget, kept = np.zeros(EXAMPLES, bool), np.zeros(EXAMPLES, bool)
    forget[order[:FORGET]], kept[order[: FORGET + RETAIN]] = True, True
    images = rng.normal(size=(EXAMPLES, 2, 3, 1)).astype(np.float32)
    examples = Examples(jnp.asarray(images), jnp.asarray(rng.integers(0, CLASSES, EXAMPLES).astype(np.int32)))
    return Problem(
        train=examples,
        held_out=examples,
        kept=jnp.asarray(kept),
        forget=jnp.asarray(forget),
        model=model,
        classes=CLASSES,
        kept_count=FORGET + RETAIN,
        forget_count=FORGET,
        recipe=Recipe(epochs=3, batch_size=8),
    )


def start(model, seed=1):
    """Variables with no entry at zero."""
    variables = model.init(jax.random.key(seed), problem(model).train.images[:1])
    leaves, structure = jax.tree.flatten(variables.params)
    rng = np.random.default_rng(seed)
    moved = [leaf + jnp.asarray(rng.normal(size=leaf.shape).astype(np.float32) * 0.2) for leaf in leaves]
    return variables._replace(params=jax.tree.unflatten(structure, moved))


def unlearn(name, on, variables, key=KEY, **given):
    method = METHODS[name].make(**hyperparameters(name, given))
    return jax.jit(lambda key, on, variables: method(key, on, variables))(key, on, variables)


def logits(on, variables, source):
    return on.model.apply(variables, on.train.images[np.asarray(on.rows(source)[0])], train=False)[0]


def loss(on, variables, source):
    labels = on.train.labels[np.asarray(on.rows(source)[0])]
    return float(jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits(on, variables, source), labels)))


def kl(teacher, student):
    p, log_q = jax.nn.softmax(teacher), jax.nn.log_softmax(student)
    return float(jnp.mean(jnp.sum(p * (jnp.log(p) - log_q), axis=-1)))


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def close(a, b, rtol=1e-4, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def poisoned(on, rows):
    images = jnp.where(rows.reshape(-1, 1, 1, 1), jnp.nan, on.train.images)
    return on.replace(train=on.train._replace(images=images))


# Gradients by hand


def backward(params, image, label):
    """The gradient of -log p_label in one image and the probabilities, layer by layer, in NumPy."""
    names = [*sorted(set(params) - {"head"}), "head"]
    inputs, x = [], np.asarray(image, np.float64).ravel()
    for name in names:
        inputs.append(x)
        x = x @ np.asarray(params[name]["kernel"], np.float64) + np.asarray(params[name]["bias"], np.float64)
        x = x if name == "head" else np.maximum(x, 0)
    probabilities = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    delta, grads = probabilities - np.eye(CLASSES)[label], {}
    for name, x in zip(reversed(names), reversed(inputs), strict=True):
        grads[name] = {"kernel": np.outer(x, delta), "bias": delta}
        delta = (np.asarray(params[name]["kernel"], np.float64) @ delta) * (x > 0)
    return grads, probabilities


def average(trees, weights=None):
    weights = np.full(len(trees), 1 / len(trees)) if weights is None else weights
    return jax.tree.map(lambda *leaves: sum(w * leaf for w, leaf in zip(weights, leaves, strict=True)), *trees)


def gradient(on, params, source):
    """The mean gradient over a source."""
    rows = np.flatnonzero(on.rows(source)[0] if isinstance(source, str) else source)
    return average([backward(params, on.train.images[row], int(on.train.labels[row]))[0] for row in rows])


def importance(on, params, source, labels="given"):
    """The mean over a source of the squared gradient of each example."""

    def one(row):
        if labels == "given":
            return jax.tree.map(np.square, backward(params, on.train.images[row], int(on.train.labels[row]))[0])
        each = [backward(params, on.train.images[row], label) for label in range(CLASSES)]
        return average([jax.tree.map(np.square, grads) for grads, _ in each], each[0][1])

    return average([one(row) for row in np.flatnonzero(on.rows(source)[0])])


@pytest.mark.parametrize("model", [linear, mlp])
@pytest.mark.parametrize("labels", ["given", "expected"])
@pytest.mark.parametrize("source", ["forget", "retain"])
def test_importances_are_means_of_the_squares_of_each_example(model, labels, source):
    on, variables = problem(model()), start(model())
    found = squared_gradients(on, variables, on.rows(source), labels)
    close(found, importance(on, variables.params, source, labels), rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("chunk", [1, 5, 28, 500])
@pytest.mark.parametrize("labels", ["given", "expected"])
def test_importances_do_not_depend_on_how_examples_are_batched(chunk, labels, monkeypatch):
    """Squares of batch means, sold as Fisher, would."""
    on, variables = problem(mlp()), start(mlp())
    monkeypatch.setattr(gradients, "CHUNK", 9)
    expected = squared_gradients(on, variables, on.rows("retain"), labels)
    monkeypatch.setattr(gradients, "CHUNK", chunk)
    close(squared_gradients(on, variables, on.rows("retain"), labels), expected, rtol=1e-5)


def test_importances_refuse_other_labels():
    on = problem(linear())
    with pytest.raises(ValueError, match="'given' or 'expected'"):
        squared_gradients(on, start(linear()), on.rows("retain"), "sampled")


@pytest.mark.parametrize("chunk", [4, 256])
def test_the_gradient_of_a_set_is_the_mean_of_its_examples(chunk):
    on, variables = problem(mlp()), start(mlp())
    close(batch_gradient(on, variables, "forget", chunk), gradient(on, variables.params, "forget"), rtol=2e-4)


# The loop


def test_descent_on_a_quadratic_is_its_closed_form():
    """θ_t = c + (1 - rate s)^t (θ_0 - c), and the objective before each step."""
    centre, scale = jnp.array([1.0, -2.0, 0.5]), jnp.array([1.0, 0.5, 2.0])

    def value(forward, variables, batches, progress):
        return 0.5 * jnp.sum(scale * (variables.params["x"] - centre) ** 2), variables.statistics

    descent = descend(Objective((), value), optax.sgd(0.3), steps=7)
    on, first = problem(linear()), Variables({"x": jnp.array([3.0, 1.0, 1.0])}, {})
    state, values = descent.advance(descent.begin(first), descent.plan(KEY, on), on)
    apart = [(1 - 0.3 * np.asarray(scale)) ** t * (np.asarray(first.params["x"]) - np.asarray(centre)) for t in range(8)]
    np.testing.assert_allclose(state.variables.params["x"], np.asarray(centre) + apart[7], rtol=1e-5)
    np.testing.assert_allclose(values, [0.5 * np.sum(np.asarray(scale) * d**2) for d in apart[:7]], rtol=1e-5)


def test_finetune_is_momentum_sgd_on_the_batches_of_its_plan():
    on, variables = problem(linear()), start(linear())
    found = unlearn("finetune", on, variables, learning_rate=0.2, weight_decay=0.05, epochs=4, batch_size=8)
    plan = descend(weighted(Term("retain", cross_entropy)), optax.sgd(0.0), steps=4 * (RETAIN // 8), batch_size=8).plan(KEY, on)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables.params)
    velocity = jax.tree.map(np.zeros_like, params)
    for rows in np.asarray(plan.rows["retain"]):
        assert len(set(rows)) == 8 and np.asarray(on.retain)[rows].all()
        g = gradient(on, params, np.isin(np.arange(EXAMPLES), rows))
        velocity = jax.tree.map(lambda v, g, p: 0.9 * v + g + 0.05 * p, velocity, g, params)
        params = jax.tree.map(lambda p, v: p - 0.2 * v, params, velocity)
    close(found.params, params)


def test_finetune_reaches_the_optimum_of_logistic_regression():
    """CE(R) + decay / 2 |θ|² is strictly convex: one optimum, found here by quasi-Newton steps."""
    on, variables, decay = problem(linear()), start(linear()), 0.1
    x = np.asarray(on.train.images, np.float64).reshape(EXAMPLES, -1)[np.asarray(on.retain)]
    y = np.eye(CLASSES)[np.asarray(on.train.labels)[np.asarray(on.retain)]]

    def objective(flat):
        kernel, bias = flat[:-CLASSES].reshape(-1, CLASSES), flat[-CLASSES:]
        scores = x @ kernel + bias
        log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        error = (np.exp(log_p) - y) / len(x)
        slope = np.concatenate([(x.T @ error).ravel(), error.sum(axis=0)]) + decay * flat
        return -np.mean(np.sum(y * log_p, axis=1)) + 0.5 * decay * flat @ flat, slope

    best = scipy.optimize.minimize(objective, np.zeros((x.shape[1] + 1) * CLASSES), jac=True, tol=1e-12).x
    found = unlearn("finetune", on, variables, learning_rate=0.1, weight_decay=decay, epochs=500, batch_size=ALL).params["head"]
    np.testing.assert_allclose(np.ravel(found["kernel"]), best[:-CLASSES], atol=1e-5)
    np.testing.assert_allclose(found["bias"], best[-CLASSES:], atol=1e-5)


def test_frozen_statistics_are_neither_moved_nor_normalised_by_the_batch():
    on, variables = problem(normalised()), start(normalised())
    one, objective = {"steps": 1, "batch_size": ALL}, weighted(Term("retain", cross_entropy))
    still = descend(objective, optax.sgd(0.1), statistics="freeze", **one)
    moving = descend(objective, optax.sgd(0.1), **one)
    plan = still.plan(KEY, on)
    after, value = still.advance(still.begin(variables), plan, on)
    np.testing.assert_allclose(value[0], loss(on, variables, "retain"), rtol=1e-5)
    assert same(after.variables.statistics, variables.statistics)
    after, value = moving.advance(moving.begin(variables), plan, on)
    assert abs(value[0] - loss(on, variables, "retain")) > 1e-3
    _, expected = on.model.apply(variables, on.train.images[np.asarray(on.retain)], train=True)
    close(after.variables.statistics, expected)


@pytest.mark.parametrize(
    "given", [{}, {"steps": 1, "program": [0]}, {"steps": 1, "statistics": "ignore"}], ids=["neither", "both", "statistics"]
)
def test_descend_refuses(given):
    with pytest.raises(ValueError, match=r"either steps or program|'update' or 'freeze'"):
        descend(weighted(Term("retain", cross_entropy)), optax.sgd(0.1), **given)


# Retraining and fine-tuning


def test_retraining_shares_nothing_with_the_original_and_reads_no_forget_row():
    on = problem(normalised())
    first = unlearn("retrain", on, start(normalised(), 1))
    spoilt = poisoned(on, ~on.retain)
    assert same(unlearn("retrain", spoilt, start(normalised(), 2)), first)
    lost = jax.tree.map(lambda leaf: leaf * jnp.nan, start(normalised()))
    assert same(unlearn("retrain", on, lost), first)


def test_retraining_is_fitting_on_the_retain_mask():
    on = problem(normalised())
    other = on.replace(kept=~on.kept, forget=on.forget & False, kept_count=EXAMPLES - FORGET - RETAIN, forget_count=0)
    fitted = jax.jit(lambda key, mask, on: fit(key, mask, count=RETAIN, problem=on))(KEY, on.retain, other)
    assert same(unlearn("retrain", on, start(normalised())), fitted)


@pytest.mark.parametrize("name", ["cf_k", "eu_k"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_all_but_the_last_blocks_stay_bit_for_bit(name, blocks):
    on, variables = problem(normalised()), start(normalised())
    after = unlearn(name, on, variables, blocks=blocks, learning_rate=0.1, weight_decay=0.1, batch_size=8)
    names = [name for (name,) in on.model.blocks]
    assert [same(after.params[n], variables.params[n]) for n in names] == [True] * (3 - blocks) + [False] * blocks
    assert same(after.statistics, variables.statistics)


def test_cf_k_goes_on_and_eu_k_begins_anew():
    on, variables = problem(normalised()), start(normalised())
    other = variables._replace(params=variables.params | {"head": start(normalised(), 5).params["head"]})
    settings = {"blocks": 1, "learning_rate": 0.01, "epochs": 1}
    assert same(unlearn("eu_k", on, variables, **settings), unlearn("eu_k", on, other, **settings))
    assert not same(unlearn("cf_k", on, variables, **settings), unlearn("cf_k", on, other, **settings))
    drawn = [unlearn("eu_k", on, variables, key=jax.random.key(seed), epochs=0) for seed in range(2)]
    kernels = [np.asarray(after.params["head"]["kernel"]) for after in (*drawn, variables)]
    assert all((kernels[i] != kernels[j]).all() for i, j in [(0, 1), (0, 2), (1, 2)])
    assert same(drawn[0].params["hidden"], variables.params["hidden"])


@pytest.mark.parametrize("name", ["cf_k", "eu_k"])
@pytest.mark.parametrize("blocks", [0, 4])
def test_too_few_or_too_many_blocks_are_refused(name, blocks):
    method = METHODS[name].make(blocks=blocks)
    with pytest.raises(ArgumentError, match=rf"blocks {blocks}: the model has 1 to 3"):
        method(KEY, problem(normalised()), start(normalised()))


# Ascent


def test_gradient_ascent_climbs_the_forget_loss():
    on, variables = problem(mlp()), start(mlp())
    once = unlearn("gradient_ascent", on, variables, learning_rate=0.1, epochs=1)
    by_hand = jax.tree.map(lambda p, g: p + 0.1 * g, variables.params, gradient(on, variables.params, "forget"))
    close(once.params, by_hand)
    losses = [loss(on, unlearn("gradient_ascent", on, variables, learning_rate=0.05, epochs=e), "forget") for e in (0, 2, 8)]
    assert losses[0] < losses[1] < losses[2]


def test_neggrad_plus_weighs_the_two_gradients():
    on, variables = problem(mlp()), start(mlp())
    given = {"alpha": 0.7, "learning_rate": 0.1, "weight_decay": 0.02, "epochs": 1, "batch_size": ALL}
    g_r, g_f = (gradient(on, variables.params, source) for source in ("retain", "forget"))
    step = jax.tree.map(lambda p, r, f: p - 0.1 * (0.7 * r - 0.3 * f + 0.02 * p), variables.params, g_r, g_f)  # no pull yet
    close(unlearn("neggrad_plus", on, variables, **given).params, step)


def test_neggrad_plus_at_alpha_one_is_finetune_on_the_same_batches():
    on, variables = problem(mlp()), start(mlp())
    given = {"learning_rate": 0.1, "weight_decay": 0.02, "momentum": 0.9, "pull": 0.0, "epochs": 3, "batch_size": 8}
    found = unlearn("neggrad_plus", on, variables, alpha=1.0, **given)
    both = weighted(Term("retain", cross_entropy), Term("forget", cross_entropy))
    plan = descend(both, optax.sgd(0.0), steps=3 * (RETAIN // 8), batch_size=8).plan(KEY, on)
    chain = optax.chain(optax.add_decayed_weights(0.02), optax.sgd(0.1, 0.9))
    finetune = descend(weighted(Term("retain", cross_entropy)), chain, steps=len(plan.step), batch_size=8)
    close(found, finetune.advance(finetune.begin(variables), plan, on)[0].variables)
    assert not np.allclose(found.params["head"]["bias"], unlearn("neggrad_plus", on, variables, **given).params["head"]["bias"])


def test_projected_ascent_steps_at_right_angles_to_the_retain_gradient():
    on, variables = problem(mlp()), start(mlp())
    after = unlearn("projected_ascent", on, variables, learning_rate=0.1, epochs=1, batch_size=ALL)
    step, f, r = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)
        for tree in (
            jax.tree.map(jnp.subtract, after.params, variables.params),
            gradient(on, variables.params, "forget"),
            gradient(on, variables.params, "retain"),
        )
    )
    assert abs(f @ r) > 0.01 * np.linalg.norm(f) * np.linalg.norm(r)
    assert abs(step @ r) < 1e-5 * np.linalg.norm(step) * np.linalg.norm(r)
    np.testing.assert_allclose(step, 0.1 * (f - f @ r / (r @ r) * r), rtol=1e-3, atol=1e-6)


# Relabelling


def test_wrong_labels_are_never_right_and_all_equally_likely():
    on = problem(linear())
    drawn = np.asarray(jax.vmap(lambda key: wrong_labels(key, on))(jax.random.split(KEY, 3000)))
    true, forget = np.asarray(on.train.labels), np.asarray(on.forget)
    assert (drawn[:, ~forget] == true[~forget]).all()
    assert (drawn[:, forget] != true[forget]).all() and drawn.min() >= 0 and drawn.max() < CLASSES
    for row in np.flatnonzero(forget):
        counts = np.delete(np.bincount(drawn[:, row], minlength=CLASSES), true[row])
        assert scipy.stats.chisquare(counts).pvalue > 1e-4
    same_shift = (drawn[:, forget] - true[forget]) % CLASSES == ((drawn[:, forget] - true[forget]) % CLASSES)[:, :1]
    assert 0.45 < same_shift[:, 1:].mean() < 0.55  # each example draws its own


def test_random_label_is_adam_on_one_wrong_label_for_each_forget_example():
    on, variables = problem(linear()), start(linear())
    found = unlearn("random_label", on, variables, learning_rate=0.05, epochs=4, batch_size=ALL)
    labels, kept = wrong_labels(jax.random.split(KEY)[0], on), np.asarray(on.kept)

    def objective(params):
        scores, _ = on.model.apply(Variables(params, {}), on.train.images[kept])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, labels[kept]))

    params, adam = variables.params, optax.adam(0.05)
    state = adam.init(params)
    for _ in range(4):
        updates, state = adam.update(jax.grad(objective)(params), state)
        params = optax.apply_updates(params, updates)
    close(found.params, params)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_saluns_mask_is_the_share_with_the_largest_forget_gradient(share):
    on, variables = problem(normalised()), start(normalised())
    frozen = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(least_salient(on, variables, share))])
    assert abs((~frozen).sum() - share * frozen.size) <= 1
    rows = np.asarray(on.forget)

    def objective(params):
        scores, _ = on.model.apply(variables._replace(params=params), on.train.images[rows], train=False)
        return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(scores, on.train.labels[rows]))

    saliency = np.concatenate([np.abs(np.ravel(leaf)) for leaf in jax.tree.leaves(jax.grad(objective)(variables.params))])
    assert saliency[~frozen].min() > saliency[frozen].max()


def test_salun_moves_half_of_the_weights_of_a_relu_network_that_forgets_one_example():
    """Most of whose gradients are exactly 0. Restated in NumPy: the authors rank all weights, and take the first half."""
    model = build("mlp", classes=10, width=32)
    on = problem(model)
    one = jnp.arange(EXAMPLES) == np.flatnonzero(on.forget)[0]
    images = jax.random.normal(KEY, (EXAMPLES, 31))
    on = on.replace(train=Examples(images, on.train.labels), classes=10, forget=one, forget_count=1)
    params = jax.jit(model.init)(KEY, images[:1]).params
    frozen = jax.jit(least_salient)(on, Variables(params, {}), 0.5)

    read, inputs, names = np.asarray(images[one], np.float64)[0], [], ("hidden1", "hidden2", "head")
    for name in names:
        inputs.append(read)
        read = read @ params[name]["kernel"] + params[name]["bias"]
        read = read if name == "head" else np.maximum(read, 0)
    error = scipy.special.softmax(read) - np.eye(10)[on.train.labels[one][0]]
    slopes = {}
    for name, read in zip(names[::-1], inputs[::-1], strict=True):
        slopes[name] = {"bias": error, "kernel": np.outer(read, error)}
        error = (error @ params[name]["kernel"].T) * (read > 0)
    slopes = np.concatenate([np.ravel(abs(slopes[name][part])) for name in sorted(names) for part in ("bias", "kernel")])
    assert len(slopes) == 2410 and (slopes == 0).sum() > 1205  # the median is 0, and no weight is below it
    expected = np.ones(2410, bool)
    expected[np.argsort(slopes, kind="stable")[1205:]] = False
    found = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(frozen)])
    assert (~found).sum() == 1205
    np.testing.assert_array_equal(found, expected)


def test_saluns_masked_weights_and_their_momentum_stay_bit_for_bit():
    """Weight decay and momentum included, which is where published code lets them drift."""
    on, variables = problem(normalised()), start(normalised())
    frozen = least_salient(on, variables, 0.5)
    given = {"learning_rate": 0.1, "weight_decay": 0.1, "epochs": 5, "batch_size": 8}
    after = unlearn("salun", on, variables, share=0.5, **given)
    unchanged = jax.tree.map(lambda old, new: old == new, variables.params, after.params)
    assert same(unchanged, frozen)
    transform = freeze_where(optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, 0.9)), frozen)
    label_key, descent_key = jax.random.split(KEY)
    descent = descend_on_wrong_labels(label_key, on, transform, 5, 8)
    state, _ = descent.advance(descent.begin(variables), descent.plan(descent_key, on), on)
    close(state.variables, after)
    momentum = [leaf for leaf in jax.tree.leaves(state.optimiser) if leaf.ndim]
    assert len(momentum) == len(jax.tree.leaves(frozen))
    assert same([leaf == 0 for leaf in momentum], frozen)


# Distillation


def test_the_bad_teacher_rules_the_forget_set_and_the_original_its_share_of_the_rest():
    """Restated with the rows that were really read; each image carries its row in a pixel of its own."""
    seen = []

    def watch(key, images):
        jax.debug.callback(lambda rows: seen.append(set(rows.astype(int).tolist())), images[:, 0, 0, 0])
        return images.at[:, 0, 0, 0].set(1.0)

    plain = problem(linear())
    images = plain.train.images.at[:, 0, 0, 0].set(jnp.arange(EXAMPLES))
    on, variables = plain.replace(train=plain.train._replace(images=images), augment=watch), start(linear())
    given = {"learning_rate": 0.05, "temperature": 2.0, "retain_share": 0.25, "batch_size": ALL}
    found = unlearn("bad_teacher", on, variables, epochs=40, **given)
    jax.effects_barrier()
    assert len(seen) == 40 and all(rows == seen[0] for rows in seen)
    rows, forget = np.array(sorted(seen[0])), set(np.flatnonzero(on.forget).tolist())
    assert forget < seen[0] and len(seen[0] - forget) == round(0.25 * RETAIN)
    assert np.asarray(on.kept)[rows].all()

    clear = images.at[:, 0, 0, 0].set(1.0)
    bad = on.model.init(KEY, clear[:1])
    teacher = jnp.where(on.forget[:, None], on.model.apply(bad, clear)[0], on.model.apply(variables, clear)[0]) / 2.0

    def objective(params):
        student = jax.nn.log_softmax(on.model.apply(Variables(params, {}), clear[rows])[0] / 2.0)
        p = jax.nn.softmax(teacher[rows])
        return jnp.mean(jnp.sum(p * (jnp.log(p) - student), axis=-1))

    params, adam = variables.params, optax.adam(0.05)
    state = adam.init(params)
    for _ in range(40):
        updates, state = adam.update(jax.grad(objective)(params), state)
        params = optax.apply_updates(params, updates)
    close(found.params, params, atol=1e-4)

    plain = on.replace(train=on.train._replace(images=clear))
    to_bad = [kl(logits(plain, bad, "forget"), logits(plain, v, "forget")) for v in (variables, found)]
    assert to_bad[1] < 0.5 * to_bad[0]


def test_scrubs_program_ascends_at_the_start_of_the_first_epochs():
    on = problem(linear())
    np.testing.assert_array_equal(alternation(on, 2, 3, 5), [0] + [1] * 5 + [0] + [1] * 5 + [1] * 5)
    np.testing.assert_array_equal(alternation(on, 1, 2, 3), [0] * 2 + [1] * 9 + [1] * 9)
    np.testing.assert_array_equal(alternation(on, 3, 1, ALL), [0, 1])
    assert alternation(on, 3, 0, 5).shape == (0,)


def test_scrubs_student_moves_away_on_the_forget_set_and_its_teacher_stays():
    """Were the teacher the student, their divergence would stay zero; were the sign wrong, it would stay small."""
    on, variables = problem(mlp()), start(mlp())
    only_max = {"gamma": 0.0, "alpha": 0.0, "max_epochs": 40, "learning_rate": 0.02, "batch_size": ALL}
    apart = [
        kl(logits(on, variables, "forget"), logits(on, unlearn("scrub", on, variables, epochs=epochs, **only_max), "forget"))
        for epochs in (4, 10, 40)
    ]
    assert 0 < apart[0] < apart[1] < apart[2] and apart[2] > 1


def test_scrubs_min_steps_descend():
    on, variables = problem(mlp()), start(mlp())
    settings = {"max_epochs": 0, "epochs": 60, "learning_rate": 0.02, "batch_size": ALL}
    after = {alpha: unlearn("scrub", on, variables, alpha=alpha, **settings) for alpha in (0.0, 5.0)}
    apart = {alpha: kl(logits(on, variables, "retain"), logits(on, v, "retain")) for alpha, v in after.items()}
    assert apart[5.0] < 0.5 * apart[0.0]
    assert loss(on, after[0.0], "retain") < loss(on, after[5.0], "retain") < loss(on, variables, "retain")


def test_scrub_is_its_papers_loop():
    """The teacher's logits are computed once here, at θ0 in eval mode: it never moves."""
    on, variables = problem(normalised()), start(normalised())
    given = {"alpha": 0.4, "gamma": 0.8, "temperature": 2.5, "learning_rate": 0.01, "rate_decay": 1.0, "weight_decay": 0.03}
    found = unlearn("scrub", on, variables, max_epochs=2, epochs=3, batch_size=6, **given)
    away, towards = weighted(Term("forget", cross_entropy)), weighted(Term("retain", cross_entropy))
    program = alternation(on, 2, 3, 6)
    plan = descend([away, towards], optax.sgd(0.0), program=program, batch_size=6).plan(KEY, on)
    teacher = jax.nn.softmax(on.model.apply(variables, on.train.images)[0] / 2.5)

    @jax.jit
    def step(params, statistics, state, choice, forget, retain):
        rows = jnp.where(choice == 0, forget, retain)

        def objective(params):
            scores, moved = on.model.apply(Variables(params, statistics), on.train.images[rows], train=True)
            apart = jnp.sum(teacher[rows] * (jnp.log(teacher[rows]) - jax.nn.log_softmax(scores / 2.5)), axis=-1).mean()
            ce = optax.softmax_cross_entropy_with_integer_labels(scores, on.train.labels[rows]).mean()
            return jnp.where(choice == 0, -(2.5**2) * apart, 0.8 * ce + 0.4 * 2.5**2 * apart), moved

        slope, moved = jax.grad(objective, has_aux=True)(params)
        slope = jax.tree.map(lambda g, p: g + 0.03 * p, slope, params)
        updates, state = adam.update(slope, state)
        return optax.apply_updates(params, updates), moved, state

    adam = optax.adam(0.01)
    params, statistics, state = variables.params, variables.statistics, adam.init(variables.params)
    assert set(program) == {0, 1}
    for index, choice in enumerate(program):
        rows = plan.rows["forget"][index], plan.rows["retain"][index]
        params, statistics, state = step(params, statistics, state, choice, *rows)
    close(found, Variables(params, statistics), atol=1e-5)


def test_the_divergence_is_kullback_leiblers():
    rng = np.random.default_rng(3)
    teacher, student = rng.normal(size=(2, 7, CLASSES)).astype(np.float32) * 3
    p, q = (scipy.special.softmax(scores.astype(np.float64) / 1.7, axis=-1) for scores in (teacher, student))
    found = divergence(jnp.asarray(teacher), jnp.asarray(student), 1.7)
    np.testing.assert_allclose(found, scipy.stats.entropy(p, q, axis=-1), rtol=1e-4)
    np.testing.assert_allclose(divergence(jnp.asarray(teacher), jnp.asarray(teacher)), np.zeros(7), atol=1e-6)


# Sparsity


def soft(value, threshold):
    return np.sign(value) * np.maximum(np.abs(value) - threshold, 0)


def test_l1_sparse_descends_on_cross_entropy_and_a_fading_penalty():
    on, variables = problem(mlp()), start(mlp())
    given = {"penalty": 0.03, "learning_rate": 0.1, "weight_decay": 0.02, "epochs": 3, "batch_size": ALL}
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables.params)
    velocity = jax.tree.map(np.zeros_like, params)
    for left in (1.0, 2 / 3, 1 / 3):
        slope = jax.tree.map(
            lambda g, p, left=left: g + 0.03 * left * np.sign(p) + 0.02 * p, gradient(on, params, "retain"), params
        )
        velocity = jax.tree.map(lambda v, s: 0.9 * v + s, velocity, slope)
        params = jax.tree.map(lambda p, v: p - 0.1 * v, params, velocity)
    close(unlearn("l1_sparse", on, variables, **given).params, params)


def test_l1_sparse_by_proximal_steps_makes_exact_zeros():
    on, variables = problem(mlp()), start(mlp())
    given = {"penalty": 0.5, "learning_rate": 0.1, "weight_decay": 0.02, "epochs": 3, "batch_size": ALL}
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables.params)
    velocity = jax.tree.map(np.zeros_like, params)
    for left in (1.0, 2 / 3, 1 / 3):
        g = gradient(on, params, "retain")
        velocity = jax.tree.map(lambda v, g, p: 0.9 * v + g + 0.02 * p, velocity, g, params)
        params = jax.tree.map(lambda p, v, left=left: soft(p - 0.1 * v, 0.1 * 0.5 * left), params, velocity)
    found = unlearn("l1_sparse_proximal", on, variables, **given).params
    close(found, params, atol=1e-5)
    zeros = [sum((np.asarray(leaf) == 0).sum() for leaf in jax.tree.leaves(tree)) for tree in (found, params)]
    assert zeros[0] == zeros[1] > 5
    plain = unlearn("l1_sparse", on, variables, **given).params
    assert all((np.asarray(leaf) != 0).all() for leaf in jax.tree.leaves(plain))


# Curvature


def test_ssd_is_its_papers_algorithm():
    on, variables = problem(mlp()), start(mlp())
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables.params)
    whole, forget = importance(on, params, "kept"), importance(on, params, "forget")
    expected = {layer: {leaf: values.copy() for leaf, values in leaves.items()} for layer, leaves in params.items()}
    shrunk = kept_whole = 0
    for layer, leaves in expected.items():
        for leaf, weights in leaves.items():
            for index in np.ndindex(weights.shape):
                i_d, i_f = whole[layer][leaf][index], forget[layer][leaf][index]
                if i_f > 1.2 * i_d:
                    beta = min(0.9 * i_d / i_f, 1.0)
                    weights[index] *= beta
                    shrunk += 1
                else:
                    kept_whole += 1
    assert shrunk > 3 and kept_whole > 3
    found = unlearn("ssd", on, variables, selection=1.2, dampening=0.9).params
    close(found, expected, rtol=5e-4)
    strong = unlearn("ssd", on, variables, selection=1.2, dampening=100.0).params
    assert same(strong, variables.params)  # dampening never amplifies


def test_fisher_noise_has_the_variance_that_it_says():
    """It is alpha min(1 / (F + 1e-8), 1e3); the cap holds where the retain set does not mind at all."""
    on, variables, draws, alpha = problem(mlp()), start(mlp()), 4000, 1e-4
    on = on.replace(train=on.train._replace(images=on.train.images.at[:, 0, 0].set(0.01)))
    method = METHODS["fisher"].make(alpha=alpha)
    noisy = jax.jit(jax.vmap(method, in_axes=(0, None, None)))(jax.random.split(KEY, draws), on, variables)
    flat = functools.partial(jax.tree.map, lambda leaf: np.asarray(leaf, np.float64).reshape(-1))
    information = np.concatenate(jax.tree.leaves(flat(importance(on, variables.params, "retain", "expected"))))
    noise = np.concatenate(
        [
            (np.asarray(new, np.float64) - np.asarray(old, np.float64)[None]).reshape(draws, -1)
            for new, old in zip(jax.tree.leaves(noisy.params), jax.tree.leaves(variables.params), strict=True)
        ],
        axis=1,
    )
    capped = information < 1e-3
    assert 3 < capped.sum() < capped.size - 20
    ratio = noise.var(axis=0) / np.where(capped, alpha * 1e3, alpha / (information + 1e-8))
    assert abs(ratio - 1).max() < 6 * (2 / draws) ** 0.5
    standardised = noise / noise.std(axis=0)
    assert abs(standardised.mean(axis=0)).max() < 6 / draws**0.5
    correlation = np.corrcoef(noise.T) - np.eye(noise.shape[1])
    assert abs(correlation).max() < 6 / draws**0.5  # every weight has noise of its own


# The registry


@pytest.mark.parametrize(
    ("name", "given", "option"),
    [
        ("scrubb", {}, "methods scrubb"),
        ("scrub", {"epoch": 3}, "scrub.epoch 3"),
        ("original", {"epochs": 3}, "original.epochs 3"),
        ("scrub", {"alpha": "much"}, "scrub.alpha much"),
        ("scrub", {"alpha": -0.1}, "scrub.alpha -0.1"),
        ("scrub", {"alpha": "inf"}, "scrub.alpha inf"),
        ("scrub", {"alpha": float("nan")}, "scrub.alpha nan"),
        ("scrub", {"epochs": "2.5"}, "scrub.epochs 2.5"),
        ("scrub", {"epochs": 2.5}, "scrub.epochs 2.5"),
        ("scrub", {"epochs": -1}, "scrub.epochs -1"),
        ("scrub", {"epochs": float("inf")}, "scrub.epochs inf"),
        ("scrub", {"epochs": ""}, "scrub.epochs"),
        ("scrub", {"batch_size": 0}, "scrub.batch_size 0"),
        ("fisher", {"samples": "0"}, "fisher.samples 0"),
        ("salun", {"share": 1.5}, "salun.share 1.5"),
        ("bad_teacher", {"retain_share": "2"}, "bad_teacher.retain_share 2"),
    ],
)
def test_a_wrong_hyperparameter_is_named(name, given, option):
    with pytest.raises(ArgumentError) as error:
        hyperparameters(name, given)
    assert str(error.value).startswith(option)
    assert "\n" not in str(error.value)


def test_hyperparameters_are_the_defaults_with_some_replaced():
    assert hyperparameters("scrub", {}) == METHODS["scrub"].defaults
    changed = hyperparameters("scrub", {"epochs": "5", "alpha": "1e-3", "gamma": 2, "max_epochs": 4.0})
    assert changed == METHODS["scrub"].defaults | {"epochs": 5, "alpha": 1e-3, "gamma": 2.0, "max_epochs": 4}
    assert {key: type(value) for key, value in changed.items()} == {
        key: type(value) for key, value in METHODS["scrub"].defaults.items()
    }


@pytest.mark.parametrize(("name", "access"), [("scrub", "F"), ("brand_new", "everything")])
def test_register_refuses_a_taken_name_and_an_unknown_access(name, access):
    def make():
        """Does nothing."""

    make.__name__ = name
    before = dict(METHODS)
    with pytest.raises(ValueError, match=name):
        register(access=access, reference="-")(make)
    assert before == METHODS


@pytest.mark.parametrize(
    "search", [{"nothing": (1, 2)}, {"steps": (1, 2)}, {"rate": (2, 1)}, {"rate": (0, 1)}, {"rate": (0, 1, "other")}]
)
def test_register_refuses_a_range_that_cannot_be_searched(search):
    def searched(*, rate=0.1, steps=3):
        """Does nothing."""

    before = dict(METHODS)
    with pytest.raises(ValueError, match=f"searched: {next(iter(search))} cannot be searched from"):
        register(access="F", reference="-", search=search)(searched)
    assert before == METHODS


def test_all_methods_with_hyperparameters_but_sisa_have_ranges_that_are_spaced_on_their_scale():
    searched = {name: entry for name, entry in METHODS.items() if entry.search}
    assert set(METHODS) - set(searched) == {"original", "retrain", "sisa"}
    np.testing.assert_allclose(METHODS["scrub"].search["learning_rate"].spaced(4), [1e-5, 1e-4, 1e-3, 1e-2])
    np.testing.assert_allclose(METHODS["salun"].search["share"].spaced(3), [0.1, 0.5, 0.9])
    assert [*METHODS["scrub"].search] == ["learning_rate", "alpha", "gamma", "weight_decay"]
