"""Whole methods beside a second implementation: their published algorithms once more, in NumPy, on a small MLP or less.

Gradients are written by hand, all is in double precision, and the library runs in double precision too, so that the two agree to
rounding and a slip of any kind is seen. Random draws (labels, noise, first weights) are taken from the library's keys; batches
are whole sources wherever a method lets them be.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_methods import ALL, CLASSES, EXAMPLES, FORGET, KEY, RETAIN, linear, mlp, problem, start, unlearn

from unlearn_jax.data import load, sources
from unlearn_jax.methods import METHODS, data_free, descend
from unlearn_jax.methods.pieces import other_labels
from unlearn_jax.methods.sharding import Sisa, last_stages
from unlearn_jax.models import mean_of
from unlearn_jax.training.fit import initialise
from unlearn_jax.training.objectives import Term, cross_entropy, weighted
from unlearn_jax.training.perturbations import fast_gradient_sign, nearest_adversarial
from unlearn_jax.training.sampling import Source, draw
from unlearn_jax.types import Examples, Model, Recipe, Variables

LAYERS = ("hidden1", "hidden2", "head")
tree_map = jax.tree.map


@pytest.fixture(scope="module", autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def doubled(tree):
    floating = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)  # noqa: E731
    return tree_map(lambda leaf: jnp.asarray(leaf, jnp.float64) if floating(leaf) else jnp.asarray(leaf), tree)


@functools.cache
def given(model):
    """The problem, its starting variables, the weights as NumPy arrays."""
    on, variables = doubled((problem(model), start(model)))
    return on, variables, tree_map(np.asarray, variables.params)


def rows_of(on, source):
    rows = np.flatnonzero(on.rows(source)[0])
    return np.asarray(on.train.images)[rows].reshape(len(rows), -1), np.asarray(on.train.labels)[rows]


def agree(found, expected, rtol=1e-7, atol=1e-9):
    tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), found, expected)


def plan_of(on, source, steps):
    """What a method draws that reads one source, whole batches of it."""
    objective = weighted(Term(source, cross_entropy))
    return jax.jit(descend(objective, optax.sgd(0.0), steps=steps, batch_size=ALL).plan)(KEY, on)


# A network and its derivatives, by hand


def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def forward(params, x):
    """The inputs of the layers, what comes out of each before its relu, and so the logits."""
    inputs, outputs = [], []
    for name in sorted(params, key=LAYERS.index):
        inputs.append(x)
        outputs.append(x @ params[name]["kernel"] + params[name]["bias"])
        x = np.maximum(outputs[-1], 0)
    return inputs, outputs


def backward(params, inputs, outputs, error, extra=None):
    """The gradients in weights and input of a scalar whose gradient in the logits is `error`, in the outputs besides `extra`."""
    names, slopes = sorted(params, key=LAYERS.index), {}
    for depth in reversed(range(len(names))):
        if depth < len(names) - 1:
            error = error * (outputs[depth] > 0) + (0 if extra is None else extra[depth])
        slopes[names[depth]] = {"kernel": inputs[depth].T @ error, "bias": error.sum(0)}
        error = error @ params[names[depth]]["kernel"].T
    return slopes, error


def logits(params, x):
    return forward(params, x)[1][-1]


def slope_of(params, x, error_of):
    """The gradient in the weights of a mean over examples; `error_of` turns logits into each example's gradient in them."""
    inputs, outputs = forward(params, x)
    return backward(params, inputs, outputs, error_of(outputs[-1]) / len(x))[0]


def wrongness(labels):
    """The gradient of the cross-entropy in the logits."""
    return lambda z: softmax(z) - np.eye(z.shape[1])[labels]


def kl(teacher, student, temperature=1.0):
    """The gradient of T² KL(teacher || student) in the student's logits."""
    return temperature * (softmax(student / temperature) - softmax(teacher / temperature))


def add(*weighted_trees):
    return tree_map(
        lambda *leaves: sum(w * leaf for (w, _), leaf in zip(weighted_trees, leaves, strict=True)),
        *[t for _, t in weighted_trees],
    )


def sgd(params, slope, steps, rate, momentum=0.9, decay=0.0):
    """SGD with coupled weight decay; `rate` may depend on the step."""
    velocity = tree_map(np.zeros_like, params)
    for step in range(steps):
        velocity = add((momentum, velocity), (1.0, slope(params)), (decay, params))
        params = add((1.0, params), (-(rate(step) if callable(rate) else rate), velocity))
    return params


class Adam:
    """arXiv 1412.6980, with coupled weight decay."""

    def __init__(self, params):
        self.first, self.second, self.count = tree_map(np.zeros_like, params), tree_map(np.zeros_like, params), 0

    def step(self, params, slope, rate, decay=0.0):
        self.count += 1
        slope = add((1.0, slope), (decay, params))
        self.first = add((0.9, self.first), (0.1, slope))
        self.second = add((0.999, self.second), (0.001, tree_map(np.square, slope)))
        far, near = 1 - 0.9**self.count, 1 - 0.999**self.count
        return tree_map(lambda w, m, v: w - rate * (m / far) / (np.sqrt(v / near) + 1e-8), params, self.first, self.second)


# Distillation


@pytest.mark.parametrize("name", ["scrub", "scrub_r"])
def test_scrub_decays_its_weights_and_its_rate_as_the_authors_notebook_does(name):
    """At the defaults: epochs 1 to 3 ascend first, the rate falls behind epochs 5, 8 and 9 of 10, weights decay by 0.1 in all."""
    on, variables, params = given(mlp())
    (x_f, _), (x_r, y_r) = rows_of(on, "forget"), rows_of(on, "retain")
    taught_f, taught_r = logits(params, x_f), logits(params, x_r)
    adam, epochs = Adam(params), []
    for epoch in range(1, 11):
        rate = 5e-4 * 0.1 ** sum(epoch > fall for fall in (5, 8, 9))
        if epoch <= 3:
            away = slope_of(params, x_f, lambda z: -kl(taught_f, z, 2.0))
            params = adam.step(params, away, rate, 0.1)
        towards = slope_of(params, x_r, lambda z: wrongness(y_r)(z) + 0.5 * kl(taught_r, z, 2.0))
        params = adam.step(params, towards, rate, 0.1)
        epochs.append(params)
    if name == "scrub_r":
        wrong = lambda params, examples: np.mean(logits(params, examples[0]).argmax(-1) != examples[1])  # noqa: E731
        labels = np.asarray(on.held_out.labels)
        shares = np.bincount(rows_of(on, "forget")[1], minlength=CLASSES) / FORGET
        images = np.asarray(on.held_out.images).reshape(EXAMPLES, -1)
        reference = sum(share * wrong(params, (images[labels == k], labels[labels == k])) for k, share in enumerate(shares))
        params = epochs[int(np.argmin([abs(wrong(each, rows_of(on, "forget")) - reference) for each in epochs]))]
    found = unlearn(name, on, variables, batch_size=ALL).params
    agree(found, params)
    moved = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (found, variables.params)]
    assert np.abs(moved[0] - moved[1]).max() > 1e-3


def test_scrubs_falls_are_at_the_same_shares_of_other_numbers_of_epochs():
    """Five epochs: the fourth at a tenth, the fifth at a hundredth. By what gradients of one size everywhere would move."""
    on, variables, params = given(linear())
    x, y = rows_of(on, "retain")
    adam, taught = Adam(params), logits(params, x)
    for epoch in range(5):
        slope = slope_of(params, x, lambda z: wrongness(y)(z) + 0.5 * kl(taught, z, 2.0))
        params = adam.step(params, slope, 0.02 * 0.5 ** (0, 0, 0, 1, 2)[epoch], 0.1)
    agree(
        unlearn("scrub", on, variables, epochs=5, max_epochs=0, learning_rate=0.02, rate_decay=0.5, batch_size=ALL).params, params
    )


def test_the_bad_teachers_divergence_is_a_mean_over_the_classes_too():
    """Seen through Adam's epsilon alone: at a temperature where gradients are no larger than it."""
    on, variables, params = given(linear())
    (x_f, _), (x_r, _) = rows_of(on, "forget"), rows_of(on, "retain")
    x = np.concatenate([x_f, x_r])
    bad = tree_map(np.asarray, on.model.init(KEY, on.train.images[:1]).params)  # of any key: see `linear`
    taught = np.concatenate([logits(bad, x_f), logits(params, x_r)])
    adam, first = Adam(params), params
    for _ in range(4):
        slope = slope_of(params, x, lambda z: kl(taught, z, 2e3) / 2e3**2 / CLASSES)
        params = adam.step(params, slope, 0.01)
    found = unlearn("bad_teacher", on, variables, temperature=2e3, learning_rate=0.01, retain_share=1.0, epochs=4, batch_size=ALL)
    agree(found.params, params)
    assert np.abs(params["head"]["kernel"] - first["head"]["kernel"]).max() > 1e-4


def test_gated_knowledge_transfer_is_its_two_networks_in_turns(monkeypatch):
    """With a generator of one layer; the student is an MLP, whose units are the positions of its attention maps."""
    on, variables, teacher = given(mlp())
    rounds, student_steps, batch, label, pixels = 2, 3, 12, 1, 6

    def init(key, noise):
        return Variables({"layer": jax.random.normal(key, (noise.shape[1], pixels)) / 10}, {})

    def apply(own, noise, train=True):
        return (noise @ own.params["layer"]).reshape(-1, 2, 3, 1), {}

    monkeypatch.setattr(data_free, "generator", lambda shape: Model(init, apply, (("layer",),)))
    student_key, generator_key, _, noise_key = jax.random.split(KEY, 4)
    student = tree_map(np.asarray, initialise(student_key, on).params)
    maker = {"layer": np.asarray(init(generator_key, np.zeros((1, data_free.DIMENSIONS))).params["layer"])}
    rates = {"learning_rate": 0.03, "generator_rate": 0.02}
    learning, making, asked = Adam(student), Adam(maker), []

    def fall(rate, step, steps):
        return rate * (1 + np.cos(np.pi * step / steps)) / 2

    def lesson(noise):
        images = noise @ maker["layer"]
        passing = np.flatnonzero(softmax(logits(teacher, images))[:, label] <= 0.3)
        return images, passing[np.arange(batch) % len(passing)]

    for number, key in enumerate(jax.random.split(noise_key, rounds)):
        noise = np.asarray(jax.random.normal(key, (batch, data_free.DIMENSIONS)))
        images, rows = lesson(noise)
        asked.append(len(set(rows)))
        both = [(net, *forward(net, images[rows])) for net in (teacher, student)]
        p, q = (softmax(outputs[-1]) for *_, outputs in both)
        ratio = np.log(p) - np.log(q)
        errors = (
            p * (ratio - (p * ratio).sum(-1, keepdims=True)),
            q - p,
        )  # of KL in the teacher's and the student's logits
        in_images = sum(backward(*net, -error / batch)[1] for net, error in zip(both, errors, strict=True))
        spread = np.zeros_like(images)
        np.add.at(spread, rows, in_images)
        maker = making.step(maker, {"layer": noise.T @ spread}, fall(0.02, number, rounds))
        images, rows = lesson(noise)
        taught = forward(teacher, images[rows])[1]
        for turn in range(student_steps):
            inputs, outputs = forward(student, images[rows])
            error = (softmax(outputs[-1]) - softmax(taught[-1])) / batch / CLASSES
            extra = []
            for own, wanted in zip(outputs[:-1], taught[:-1], strict=True):
                size = np.linalg.norm(own**2, axis=1, keepdims=True)
                q = own**2 / size
                pull = 2 * (q - wanted**2 / np.linalg.norm(wanted**2, axis=1, keepdims=True)) / q.size
                extra.append(250.0 * 2 * own * (pull - q * (q * pull).sum(1, keepdims=True)) / size)
            slope, _ = backward(student, inputs, outputs, error, extra)
            student = learning.step(student, slope, fall(0.03, number * student_steps + turn, rounds * student_steps))
    sizes = {"rounds": rounds, "student_steps": student_steps, "batch_size": batch, "label": label}
    agree(unlearn("gated_knowledge_transfer", on, variables, gate=0.3, **rates, **sizes).params, student, rtol=1e-6)
    assert all(1 < count < batch for count in asked)  # the gate lets some of the images through


# Ascent


def test_neggrad_plus_at_its_defaults_is_the_authors_small_scale_function():
    """Plain SGD with a pull to the start, whose weight is under alpha too; ten steps."""
    on, variables, first = given(mlp())
    (x_f, y_f), (x_r, y_r) = rows_of(on, "forget"), rows_of(on, "retain")

    def slope(params):
        kept, climbed = slope_of(params, x_r, wrongness(y_r)), slope_of(params, x_f, wrongness(y_f))
        return add((0.95, kept), (-0.05, climbed), (0.95 * 0.1, add((1.0, params), (-1.0, first))))

    agree(unlearn("neggrad_plus", on, variables, batch_size=ALL).params, sgd(first, slope, 10, 0.01, momentum=0.0))


def test_mu_mis_moves_two_sensitivities_apart():
    """∇x f_k of a relu network is a product of its kernels with what is switched off left out."""
    on, variables, first = given(mlp())
    plan, labels = plan_of(on, "forget", 3), np.asarray(on.train.labels)
    images, velocity, params = np.asarray(on.train.images).reshape(EXAMPLES, -1), tree_map(np.zeros_like, first), first
    for rows, key in zip(np.asarray(plan.rows["forget"]), plan.keys, strict=True):
        others = np.asarray(other_labels(jax.random.fold_in(key, 1), jnp.asarray(labels[rows]), CLASSES))
        slope = tree_map(np.zeros_like, params)
        one, two, three = (params[name]["kernel"] for name in LAYERS)
        for row, other in zip(rows, others, strict=True):
            on_one, on_two = (output[0] > 0 for output in forward(params, images[row][None])[1][:2])
            for sign, label in ((1.0, labels[row]), (-1.0, other)):
                late = on_two * three[:, label]
                early = on_one * (two @ late)
                pull = sign * 2 * (one @ early) / FORGET
                back = on_one * (one.T @ pull)
                slope["hidden1"]["kernel"] += np.outer(pull, early)
                slope["hidden2"]["kernel"] += np.outer(back, late)
                slope["head"]["kernel"][:, label] += on_two * (two.T @ back)
        velocity = add((0.9, velocity), (1.0, slope))
        params = add((1.0, params), (-0.02, velocity))
    agree(unlearn("mu_mis", on, variables, learning_rate=0.02, epochs=3, batch_size=ALL).params, params)


def test_neg_merge_steps_back_along_what_its_copies_agree_on():
    """Whole batches: the copies differ in their learning rates alone, which are far enough apart for them to disagree."""
    on, variables, first = given(mlp())
    x, y = rows_of(on, "forget")
    rates = 0.5 * 6.0 ** np.linspace(-1, 1, 3)
    copies = [sgd(first, lambda params: slope_of(params, x, wrongness(y)), 8, rate) for rate in rates]
    vectors = [add((1.0, copy), (-1.0, first)) for copy in copies]

    def merged(weight, *moves):
        moves = np.stack(moves)
        agreed = (np.sign(moves) == np.sign(moves[:1])).all(0) & (moves[0] != 0)
        shares.append(agreed.mean())
        return weight - 0.7 * np.where(agreed, moves.mean(0), 0.0)

    shares: list[float] = []
    expected = tree_map(merged, first, *vectors)
    asked = {"scale": 0.7, "learning_rate": 0.5, "spread": 6.0, "copies": 3, "epochs": 8, "batch_size": ALL}
    agree(unlearn("neg_merge", on, variables, **asked).params, expected)
    assert 0.1 < np.mean(shares) < 0.9


# Retraining in part


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("name", ["cf_k", "eu_k"])
def test_the_last_blocks_alone_are_trained(name, blocks):
    """An MLP's blocks are its layers, so that k counts what the authors count."""
    on, variables, params = given(mlp())
    x, y = rows_of(on, "retain")
    if name == "eu_k":
        fresh = tree_map(np.asarray, initialise(jax.random.split(KEY)[0], on).params)
        params = params | {layer: fresh[layer] for layer in LAYERS[-blocks:]}
    held = {layer: params[layer] for layer in LAYERS[:-blocks]}
    free = {layer: params[layer] for layer in LAYERS[-blocks:]}

    def slope(free):
        whole = slope_of(held | free, x, wrongness(y))
        return {layer: whole[layer] for layer in free}

    expected = held | sgd(free, slope, 6, 0.1, decay=0.01)
    found = unlearn(name, on, variables, blocks=blocks, learning_rate=0.1, weight_decay=0.01, epochs=6, batch_size=ALL).params
    agree(found, expected, *((1e-5, 1e-6) if name == "eu_k" else ()))  # fresh weights are drawn in single precision


# Adversarial examples


@functools.cache
def two_channels():
    """The problem on images of two channels, of different scales."""
    on, variables, params = given(mlp())
    turned = on.train.images.reshape(EXAMPLES, 3, 1, 2)
    return on.replace(train=on.train._replace(images=turned), pixel_scale=(4.0, 0.5)), variables, params


def pixel_slope(params, x, label, scale):
    """The gradient of the cross-entropy in the pixels of one image."""
    inputs, outputs = forward(params, x[None])
    return backward(params, inputs, outputs, wrongness(np.array([label]))(outputs[-1]))[1][0] * scale


def test_amuns_attack_goes_on_from_ball_to_ball_in_pixels():
    """One image after the other, as the authors' PGDL2 has it; `scale` tells pixels from what the model reads."""
    on, variables, params = two_channels()
    scale, eps = np.tile([4.0, 0.5], 3), 0.02
    found = jax.jit(lambda: nearest_adversarial(
        on.model, variables, on.train, radius=eps, doublings=9, steps=7, scale=on.pixel_scale
    ))()  # fmt: skip
    balls = []
    for image, label, got, taken in zip(*(np.asarray(part) for part in (*on.train, *found)), strict=True):
        x, change, size = image.ravel(), np.zeros(6), eps
        guess = lambda change, x=x: logits(params, (x + scale * change)[None])[0].argmax()  # noqa: E731
        for ball in range(10):
            for _ in range(7):
                if guess(change) != label:
                    break
                slope = pixel_slope(params, x + scale * change, label, scale)
                change = change + size / 10 * slope / np.linalg.norm(slope)
                change = change * min(1.0, size / np.linalg.norm(change))
            if guess(change) != label:
                balls.append(ball)
                break
            size *= 2
        np.testing.assert_allclose(got.ravel(), x + scale * change, rtol=1e-6, atol=1e-7)
        assert taken == guess(change)
    assert len(balls) > EXAMPLES - 3 and len(set(balls)) > 3


def test_a_pixel_of_digits_is_sixteen_of_its_raw_ones():
    """The step of boundary shrink, 0.1 of the range of a pixel, is 1.6 raw."""
    data, raw = load("digits", train_size=100), sources.digits()[0].images
    np.testing.assert_allclose(data.pixel_scale, 16 / raw.std(dtype=np.float64), rtol=1e-9)
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(64, 10)))
    model = Model(None, lambda variables, images, train: (images.reshape(len(images), -1) @ kernel, {}), ())
    examples = Examples(jnp.asarray(data.train.images, jnp.float64), jnp.asarray(data.train.labels))
    moved = fast_gradient_sign(model, Variables({}, {}), examples, 0.1, data.pixel_scale)
    back = lambda images: np.asarray(images, np.float64) * raw.std(dtype=np.float64) + raw.mean(dtype=np.float64)  # noqa: E731
    np.testing.assert_allclose(np.abs(back(moved) - back(examples.images)), 1.6, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "lengths"), [("boundary_shrink", ["size"]), ("l2ul", ["radius", "attack_step"]), ("amun", ["radius"])]
)
def test_sizes_in_pixels_are_converted_by_the_problems_scale(name, lengths):
    """Half the size is the same where a pixel is twice as many units."""
    on, variables, _ = given(linear())
    asked = {"boundary_shrink": {"size": 0.8}, "l2ul": {"radius": 0.9, "attack_step": 0.4}, "amun": {"radius": 0.3}}[name]
    asked |= {"learning_rate": 0.1, "epochs": 2, "batch_size": ALL} | ({} if name == "boundary_shrink" else {"attack_steps": 3})
    halved = asked | {key: asked[key] / 2 for key in lengths}
    agree(unlearn(name, on.replace(pixel_scale=(2.0,)), variables, **halved).params, unlearn(name, on, variables, **asked).params)


# Curvature and removal


def test_jits_step_flattens_both_sides_of_the_difference():
    on, variables, params = given(mlp())
    (key,) = plan_of(on, "forget", 1).keys
    (rows,) = np.asarray(plan_of(on, "forget", 1).rows["forget"])
    x = np.asarray(on.train.images)[rows].reshape(FORGET, -1)
    noise = 0.4 * np.asarray(jax.random.normal(key, (5, FORGET, 2, 3, 1))).reshape(5, FORGET, -1)
    total = tree_map(np.zeros_like, params)
    for draw_of in noise:
        both = [forward(params, images) for images in (x, x + draw_of)]
        apart = both[0][1][-1] - both[1][1][-1]
        error = (
            apart
            / np.linalg.norm(apart, axis=1, keepdims=True)
            / np.linalg.norm(draw_of, axis=1, keepdims=True)
            / noise[..., 0].size
        )
        slopes = [backward(params, *own, sign * error)[0] for own, sign in zip(both, (1.0, -1.0), strict=True)]
        total = add((1.0, total), (1.0, slopes[0]), (1.0, slopes[1]))
    found = unlearn("jit", on, variables, noise=0.4, learning_rate=0.3, samples=5, epochs=1, batch_size=ALL).params
    agree(found, add((1.0, params), (-0.3, total)))


def test_the_authors_recursion_counts_a_thousand_however_few_there_are():
    """28 retained examples, all of them taken, at N = 1000."""
    on, variables, params = given(linear())
    share = FORGET / (FORGET + RETAIN)
    (x_f, y_f), (x_r, y_r) = rows_of(on, "forget"), rows_of(on, "retain")
    vector = add((share, slope_of(params, x_f, wrongness(y_f))), (-share, slope_of(params, x_r, wrongness(y_r))))
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])  # noqa: E731
    images, labels = np.asarray(on.train.images).reshape(EXAMPLES, -1), np.asarray(on.train.labels)
    ((order,),) = draw(KEY, [Source(on.retain, RETAIN, 1)], 1002)
    k, o = flat(vector), None
    for row in np.asarray(order):
        g = flat(slope_of(params, images[row][None], wrongness(labels[row][None])))
        if o is None:
            o = g
            continue
        scale = 1000 + o @ g
        k, o = k - (k @ g) / scale * o, o - (o @ g) / scale * o
    found = unlearn("woodfisher", on, variables, authors_recursion=True).params
    np.testing.assert_allclose(flat(found) - flat(params), 0.2 * k, rtol=1e-7, atol=1e-10)


def test_newton_solves_the_head_once_more_for_the_retain_set():
    """The Hessian example by example, in the order of the kernel's rows; the bias is a last row."""
    on, variables, params = given(mlp())
    (x_f, y_f), (x_r, _) = rows_of(on, "forget"), rows_of(on, "retain")
    features = lambda x: np.append(forward(params, x)[0][-1], np.ones((len(x), 1)), axis=1)  # noqa: E731
    weights = np.append(params["head"]["kernel"], params["head"]["bias"][None], axis=0)
    left, gone, decay = features(x_r), features(x_f), 0.02
    right = gone.T @ wrongness(y_f)(gone @ weights) + FORGET * decay * weights
    hessian = RETAIN * decay * np.eye(weights.size)
    for row in left:
        p = softmax(row @ weights)
        hessian += np.kron(np.outer(row, row), np.diag(p) - np.outer(p, p))
    moved = weights + np.linalg.solve(hessian, right.ravel()).reshape(weights.shape)
    expected = params | {"head": {"kernel": moved[:-1], "bias": moved[-1]}}
    agree(unlearn("newton", on, variables, weight_decay=0.02).params, expected)


# SISA


def test_sisa_is_an_ensemble_of_shards_trained_slice_by_slice():
    """Five shards of eight rows in two slices of four; the forget set takes a slice of two shards, the first and the second.

    Stages are of eight rows, where there are fewer the same ones come again: four rows twice, which is their mean.
    """
    on, variables, _ = given(linear())
    on = on.replace(kept=jnp.ones(EXAMPLES, bool), kept_count=EXAMPLES)
    recipe = Recipe(epochs=6, batch_size=8, learning_rate=0.2, momentum=0.8, weight_decay=0.03, schedule="constant")
    divide_key, train_key = jax.random.split(KEY)
    own = Sisa(shards=5, slices=2)
    division = jax.jit(own.divide)(divide_key, on)
    shard, part = (np.asarray(leaf) for leaf in division)
    assert all((shard[part == slice_] == number).sum() == 4 for number in range(5) for slice_ in range(2))
    forget = ((shard == 0) & (part == 0)) | ((shard == 3) & (part == 1))
    on = on.replace(forget=jnp.asarray(forget), forget_count=8, recipe=recipe)

    images, labels = np.asarray(on.train.images).reshape(EXAMPLES, -1), np.asarray(on.train.labels)
    networks = []
    for number in range(5):
        params = tree_map(np.asarray, on.model.init(KEY, on.train.images[:1]).params)  # of any key: see `linear`
        for stage in range(2):
            rows = (shard == number) & (part <= stage) & ~forget
            if rows.any():  # three of six epochs to each stage
                params = sgd(
                    params, lambda now, rows=rows: slope_of(now, images[rows], wrongness(labels[rows])), 3, 0.2, 0.8, 0.03
                )
        networks.append(params)
    stacked = tree_map(lambda *leaves: np.stack(leaves), *networks)
    found = unlearn("sisa", on, variables, shards=5, slices=2)
    agree(found.params, stacked)
    answer = mean_of(on.model).apply(found, on.train.images)[0]
    np.testing.assert_allclose(
        softmax(np.asarray(answer)), np.mean([softmax(logits(net, images)) for net in networks], axis=0), rtol=1e-7
    )

    everything = on.replace(forget=jnp.zeros(EXAMPLES, bool), forget_count=0)
    trained = jax.jit(own.train)(train_key, everything, division)
    agree(last_stages(jax.jit(own.unlearn)(train_key, on, division, trained)).params, stacked)
    again = np.asarray(own.stages(division, on.forget))
    np.testing.assert_array_equal(again, [[True, True], [False] * 2, [False] * 2, [False, True], [False] * 2])


def test_every_method_restated_here_is_in_the_registry():
    assert {
        "scrub",
        "scrub_r",
        "jit",
        "gated_knowledge_transfer",
        "cf_k",
        "eu_k",
        "mu_mis",
        "neg_merge",
        "newton",
        "sisa",
    } <= set(METHODS)
