"""A hypernetwork reads the forget set alone, differentiates nothing, and learns what it is shown."""

import csv
import dataclasses
import functools
import re

import clock
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import run_in_process
from scipy.special import log_softmax, softmax
from test_methods import CLASSES, EXAMPLES, FORGET, KEY, close, linear, mlp, poisoned, problem, same, start

from experiments.hypernetwork import study
from experiments.hypernetwork.options import Config, Meta, smoke
from experiments.hypernetwork.report import Price, learning_and_price, prices
from unlearn_jax.bench.forget_set import forget_mask
from unlearn_jax.bench.setting import prepare
from unlearn_jax.errors import ArgumentError
from unlearn_jax.methods import METHODS
from unlearn_jax.methods.hypernetwork import (
    Lesson,
    fresh_hypernetwork,
    hypernetwork,
    lesson_loss,
    meta_trained,
    rewritten,
)
from unlearn_jax.methods.pieces import examples_of
from unlearn_jax.models import build
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import Row, read_results
from unlearn_jax.runs import Run


@functools.cache
def drawn(model, seed=5):
    """A hypernetwork with no weight at zero, for any model."""
    weights = fresh_hypernetwork(jax.random.key(seed), problem(model))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(0.1 * rng.normal(size=leaf.shape), jnp.float32), weights)


def apply(weights, on, variables):
    return jax.jit(lambda weights, on, variables: hypernetwork(weights)(KEY, on, variables))(weights, on, variables)


# What it does to a model


def test_fresh_it_changes_nothing_and_drawn_it_changes_every_leaf():
    on, variables = problem(mlp()), start(mlp())
    close(apply(fresh_hypernetwork(KEY, on), on, variables), variables, rtol=1e-6)
    after = apply(drawn(mlp()), on, variables)
    assert jax.tree.structure(after) == jax.tree.structure(variables)
    assert all((old != new).all() for old, new in zip(*map(jax.tree.leaves, (after, variables)), strict=True))


def test_it_reads_the_forget_set_alone():
    on, variables, weights = problem(mlp()), start(mlp()), drawn(mlp())
    after = apply(weights, on, variables)
    others = poisoned(on, ~np.asarray(on.forget))
    lost = others.replace(held_out=others.held_out._replace(images=others.held_out.images * jnp.nan))
    assert same(apply(weights, lost, variables), after)
    assert not np.isfinite(jax.tree.leaves(apply(weights, poisoned(on, np.asarray(on.forget)), variables))[0]).all()
    relabelled = on.replace(train=on.train._replace(labels=(on.train.labels + 1) % CLASSES))
    assert not same(apply(weights, relabelled, variables), after)


def test_nothing_goes_backward_through_the_model():
    """A model that refuses to be differentiated is unlearned all the same; a method that descends fails on it."""

    @jax.custom_jvp
    def refusing(x):
        return x

    @refusing.defjvp
    def _(primals, tangents):
        raise AssertionError("differentiated")

    model = mlp()
    sealed = model._replace(
        apply=lambda variables, images, train=False: (refusing(model.apply(variables, images)[0]), {}),
        features=lambda variables, images: refusing(model.features(variables, images)),
    )
    on, variables = dataclasses.replace(problem(model), model=sealed), start(model)
    close(apply(drawn(model), on, variables), apply(drawn(model), problem(model), variables))
    with pytest.raises(AssertionError, match="differentiated"):
        jax.jit(METHODS["gradient_ascent"].make())(KEY, on, variables)


def test_the_rewritten_weights_are_those_of_the_docstring():
    """Restated in NumPy, one example, class and channel at a time."""
    on, variables, weights = problem(mlp()), start(mlp()), drawn(mlp())
    forget = examples_of(on, "forget")
    found = rewritten(weights, on, variables, forget).params
    exactly = functools.partial(jax.tree.map, lambda leaf: np.asarray(leaf, np.float64))
    own, params, weights = (exactly(tree) for tree in (forget, variables.params, weights))
    labels = np.asarray(forget.labels)
    h = own.images.reshape(FORGET, -1)
    for layer in ("hidden1", "hidden2"):
        h = np.maximum(h @ params[layer]["kernel"] + params[layer]["bias"], 0)
    z = h @ params["head"]["kernel"] + params["head"]["bias"]
    known, by_class = [], {label: [] for label in range(CLASSES)}
    for x, logits, y in zip(h, z, labels, strict=True):
        p, log_p = softmax(logits), log_softmax(logits)
        length = np.sqrt((x**2).mean())
        three = [np.log1p(-log_p[y]), np.linalg.norm(p - np.eye(CLASSES)[y]) * length, length]
        margin = logits[y] - np.log(np.exp(np.delete(logits, y)).sum())
        known.append([*three, np.tanh(margin / 5), -(p * log_p).sum()])
        by_class[y].append(three)
    groups = [group or [[0.0] * 3] for group in by_class.values()]
    summary = np.concatenate([function(group, axis=0) for function in (np.mean, np.std) for group in groups])

    def network(name, inputs):
        first, second = weights[name]["hidden"], weights[name]["out"]
        return np.maximum(inputs @ first["kernel"] + first["bias"], 0) @ second["kernel"] + second["bias"]

    expected, number = {}, 0
    for group in sorted(params):
        expected[group] = {}
        for name in sorted(params[group]):
            leaf, embedding = params[group][name], weights["embeddings"][number]
            columns = []
            for column in leaf.reshape(-1, leaf.shape[-1]).T:
                scale, shift = network("channels", np.concatenate([embedding, summary, [np.sqrt((column**2).mean())]]))
                columns.append(column * (1 + scale) + (shift if leaf.ndim == 1 else 0))
            expected[group][name] = np.array(columns).T.reshape(leaf.shape)
            number += 1
    c = np.zeros((FORGET, CLASSES))
    for e in range(FORGET):
        for k in range(CLASSES):
            log_p = log_softmax(z[e])
            last = [np.exp(log_p[k]), float(k == labels[e]), max(log_p[k], -10) / 5]
            c[e, k] = network("coefficients", np.concatenate([weights["embeddings"][-1], summary, known[e], last]))[0]
    bordered = np.column_stack([h, np.ones(FORGET)])
    ridge = np.log1p(np.exp(weights["ridge"])) * (bordered**2).mean()
    change = np.linalg.inv(bordered.T @ bordered / FORGET + ridge * np.eye(bordered.shape[1])) @ bordered.T @ c / FORGET
    expected["head"]["kernel"] += change[:-1]
    expected["head"]["bias"] += change[-1]
    close(found, expected, rtol=2e-3, atol=2e-4)


def test_the_order_of_the_forget_examples_does_not_matter():
    on, variables, weights = problem(mlp()), start(mlp()), drawn(mlp())
    forget = examples_of(on, "forget")
    turned = jax.tree.map(lambda leaf: leaf[::-1], forget)
    close(rewritten(weights, on, variables, turned), rewritten(weights, on, variables, forget), rtol=1e-3, atol=1e-5)


def test_it_works_on_a_resnet_and_leaves_its_statistics():
    network = build("resnet8", classes=CLASSES, width=2)
    on = problem(network)
    variables = jax.jit(network.init)(KEY, on.train.images[:1])
    weights = fresh_hypernetwork(KEY, on)
    weights["channels"]["out"]["bias"] += 0.1
    after = apply(weights, on, variables)
    assert same(after.statistics, variables.statistics)
    close(after.params["stem"], jax.tree.map(lambda leaf: leaf * 1.1, variables.params["stem"]))


def test_a_model_that_does_not_say_its_features_is_refused():
    silent = linear()._replace(features=None)
    with pytest.raises(ValueError, match=r"hypernetwork needs Model.features, which this model does not declare"):
        rewritten({}, problem(silent), start(silent), examples_of(problem(silent), "forget"))


# What it learns


def lessons(on, count, changed):
    """Models whose oracles are `changed(variables)`."""
    rows = np.flatnonzero(on.forget), np.flatnonzero(on.retain)
    models = [start(on.model, seed) for seed in range(count)]
    judged = jnp.concatenate([*(on.train.images[part] for part in rows), on.held_out.images])
    said = jnp.stack([on.model.apply(changed(each), judged)[0] for each in models])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    return Lesson(stacked, *(jnp.tile(jnp.asarray(part)[None], (count, 1)) for part in rows), said)


def test_a_lessons_loss_is_the_sum_of_three_divergences():
    on = problem(mlp())
    taught = lessons(on, 2, lambda each: jax.tree.map(lambda leaf: 0.5 * leaf, each))
    lesson = jax.tree.map(lambda leaf: leaf[1], taught)
    weights = drawn(mlp())
    unlearned = rewritten(weights, on, lesson.variables, examples_of(on, "forget"))
    expected = 0.0
    start_at = 0
    for images in (on.train.images[lesson.forget], on.train.images[lesson.others], on.held_out.images):
        p = np.asarray(jax.nn.softmax(lesson.oracle[start_at : start_at + len(images)]), np.float64)
        q = np.asarray(jax.nn.softmax(on.model.apply(unlearned, images)[0]), np.float64)
        expected += (p * np.log(p / q)).sum(1).mean()
        start_at += len(images)
    assert start_at == len(lesson.oracle) == FORGET + int(np.asarray(on.retain).sum()) + EXAMPLES
    np.testing.assert_allclose(lesson_loss(weights, on, lesson), expected, rtol=1e-4)


def test_it_learns_an_update_that_it_can_express_and_does_it_to_models_it_never_saw():
    """The oracle is the model with its head at half its size."""
    on = problem(mlp())

    def halved(each):
        return each._replace(params=each.params | {"head": jax.tree.map(lambda leaf: 0.5 * leaf, each.params["head"])})

    taught = lessons(on, 12, halved)
    seen, unseen = (jax.tree.map(lambda leaf, part=part: leaf[part], taught) for part in (slice(8), slice(8, None)))
    train = jax.jit(lambda key, on, seen: meta_trained(key, on, seen, steps=150, batch_size=4, learning_rate=0.01))
    weights, losses = train(KEY, on, seen)
    assert losses.shape == (150,) and losses[-20:].mean() < 0.2 * losses[:20].mean()
    tried = jax.jit(lambda weights: jax.lax.map(lambda each: lesson_loss(weights, on, each), unseen))
    assert tried(weights).mean() < 0.3 * tried(fresh_hypernetwork(KEY, on)).mean()


# The study


def test_prices_break_even_where_what_is_saved_pays_for_the_beginning():
    def row(method, metric, value):
        return Row("hypernetwork", "digits", "mlp", "random-0", method, "F", metric, "", value)

    rows = [row(*each) for each in (("original", "seconds", 0.0), ("retrain", "seconds", 2.0), ("slow", "seconds", 3.0))]
    rows += [row("learned", "seconds", 0.5), row("learned", "rte", 0.25), row("quick", "seconds", 1.0)]
    found = {price.method: price for price in prices(rows, "learned", 30.0)}
    assert found["retrain"] == Price("retrain", 0.0, 2.0, 0.0) and set(found) == {"retrain", "slow", "learned", "quick"}
    assert (found["learned"].break_even, found["quick"].break_even, found["slow"].break_even) == (20.0, 0.0, float("inf"))
    assert found["learned"].per_request(20) == found["retrain"].per_request(20) == 2.0


def test_the_figure_draws_every_method(tmp_path):
    methods = [Price("retrain", 0.0, 2.0, 0.0), Price("learned", 30.0, 0.5, 20.0)]
    figure = learning_and_price(np.linspace(1, 0.5, 90), np.full(3, 0.9), np.full(3, 0.6), methods, "title")
    left, right = figure.axes
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["retrain", "learned"]
    np.testing.assert_allclose(right.lines[1].get_ydata()[:2], [30.5, 3.5])
    assert len(left.lines) == 3
    save(figure, Run(tmp_path), "learned")


def test_the_study_leaves_its_tables_and_its_picture_and_learns_once(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "time", clock.ticking(3.0))
    monkeypatch.setattr("unlearn_jax.training.pools.time", clock.ticking(10.0))
    small = "--members 4 --evaluation.splits 4 --evaluation.retain-size 40 --train-size 100 --train.epochs 1 --width 8"
    meta = "--meta.sets 3 --meta.validation 2 --meta.steps 4 --meta.others 20 --methods original,retrain"
    command = f"--exp hypernetwork --smoke --device cpu --out {tmp_path / 'out'} --cache {tmp_path / 'cache'} {small} {meta}"
    done = run_in_process(*command.split())
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    out = tmp_path / "out"
    files = ("summary.md", "hypernetwork.npz", "prices.csv", "meta_training.csv", "validation.csv", "figures/hypernetwork.png")
    assert all((out / file).is_file() for file in files)
    rows = read_results(out / "results.csv")
    assert {row.method for row in rows} == {"original", "retrain", "hypernetwork"}
    assert {row.access for row in rows if row.method == "hypernetwork"} == {"F+R+test-like"}
    assert len((out / "meta_training.csv").read_text().splitlines()) == 5
    with (out / "prices.csv").open() as file:
        once = {line["method"]: float(line["once"]) for line in csv.DictReader(file)}
    lessons = 3 * 2 * 10.0 / 5  # three that are learned from, of five that were trained at once; originals and oracles
    assert once == {"retrain": 0.0, "hypernetwork": pytest.approx(lessons + 3.0)}
    assert re.search(r"hypernetwork: .* s once and .* s a request; cheaper than retraining", done.stdout)

    monkeypatch.setattr(study, "train", lambda *_: pytest.fail("learned before"))
    logits, results = out / "logits/random-0/hypernetwork.npz", (out / "results.csv").read_bytes()
    written = logits.stat().st_mtime_ns
    again = run_in_process(*command.split())
    assert again.returncode == 0, again.stderr
    assert logits.stat().st_mtime_ns == written and (out / "results.csv").read_bytes() == results


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"meta": Meta(sets=0)}, "--meta.sets 0: "),
        ({"meta": Meta(learning_rate=float("nan"))}, "--meta.learning-rate nan: "),
        ({"members": "auto"}, "--members auto: "),
    ],
)
def test_what_cannot_be_meant_is_one_line(options, said):
    with pytest.raises(ArgumentError, match=re.escape(said)):
        Config(**options).check()


def test_the_lessons_are_none_of_the_sets_that_are_judged(monkeypatch):
    config = dataclasses.replace(smoke(Config()), forget_sets=2)
    setting, masks = prepare(config), []

    def watched(config, setting, problem, mask, role, members):
        masks.append(mask)
        if mask.ndim == 2:
            raise StopIteration  # trained without their forget sets: that is all there is to see

    monkeypatch.setattr(study, "pool", watched)
    with pytest.raises(StopIteration):
        study.make_lessons(config, setting, 3)
    sets = [*~masks[-1], *(forget_mask(config, setting, index) for index in range(2))]
    assert len({each.tobytes() for each in sets}) == 5 and len({each.sum() for each in sets}) == 1
