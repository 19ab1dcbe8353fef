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

from experiments.hypernetwork import judging, report, study
from experiments.hypernetwork.options import LEARNERS, TARGETS, Config, Meta, smoke
from experiments.hypernetwork.report import Judged, Price, learning_and_price, prices
from unlearn_jax.bench import tuning
from unlearn_jax.bench.forget_set import forget_mask
from unlearn_jax.bench.setting import prepare
from unlearn_jax.errors import ArgumentError
from unlearn_jax.methods import METHODS
from unlearn_jax.methods import hypernetwork as module
from unlearn_jax.methods.hypernetwork import (
    SMALL,
    STEP,
    Capacity,
    Lesson,
    descended,
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
from unlearn_jax.types import Interval

LARGE = Capacity(images=True, passes=2)


@functools.cache
def drawn(model, seed=5, capacity=SMALL):
    """A hypernetwork with no weight at zero, for any model."""
    weights = fresh_hypernetwork(jax.random.key(seed), problem(model), capacity)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(0.1 * rng.normal(size=leaf.shape), jnp.float32), weights)


def apply(weights, on, variables, capacity=SMALL):
    return jax.jit(lambda weights, on, variables: hypernetwork(weights, capacity)(KEY, on, variables))(weights, on, variables)


# What it does to a model


@pytest.mark.parametrize("capacity", [SMALL, LARGE])
def test_fresh_it_changes_nothing_and_drawn_it_changes_every_leaf(capacity):
    on, variables = problem(mlp()), start(mlp())
    close(apply(fresh_hypernetwork(KEY, on, capacity), on, variables, capacity), variables, rtol=1e-6)
    after = apply(drawn(mlp(), capacity=capacity), on, variables, capacity)
    assert jax.tree.structure(after) == jax.tree.structure(variables)
    assert all((old != new).all() for old, new in zip(*map(jax.tree.leaves, (after, variables)), strict=True))


@pytest.mark.parametrize("capacity", [SMALL, LARGE])
def test_it_reads_the_forget_set_alone(capacity):
    on, variables, weights = problem(mlp()), start(mlp()), drawn(mlp(), capacity=capacity)
    after = apply(weights, on, variables, capacity)
    others = poisoned(on, ~np.asarray(on.forget))
    lost = others.replace(held_out=others.held_out._replace(images=others.held_out.images * jnp.nan))
    assert same(apply(weights, lost, variables, capacity), after)
    assert not np.isfinite(jax.tree.leaves(apply(weights, poisoned(on, np.asarray(on.forget)), variables, capacity))[0]).all()
    relabelled = on.replace(train=on.train._replace(labels=(on.train.labels + 1) % CLASSES))
    assert not same(apply(weights, relabelled, variables, capacity), after)


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


def test_a_pass_is_a_step_of_descent_on_f_towards_the_guess():
    """Against the gradient of the loss that the docstring names, with a step of its own for each channel."""
    on, variables = problem(mlp()), start(mlp())
    forget = examples_of(on, "forget")
    guess = jnp.asarray(np.random.default_rng(1).normal(size=(FORGET, CLASSES)), jnp.float32)
    steps = jax.tree.map(lambda leaf: jnp.arange(1.0, leaf.shape[-1] + 1), variables.params)

    def loss(params):
        apart = guess - on.model.apply(variables._replace(params=params), forget.images)[0]
        return 0.5 * jnp.mean(jnp.sum(jnp.square(apart - apart.mean(axis=1, keepdims=True)), axis=1))

    slope = jax.grad(loss)(variables.params)
    expected = jax.tree.map(
        lambda leaf, size, down: leaf - STEP * size[(None,) * (down.ndim - 1)] * down, variables.params, steps, slope
    )
    found = descended(on, variables, forget, guess, steps, 1).params
    moved, wanted = (jax.tree.map(lambda new, old: new - old, tree, variables.params) for tree in (found, expected))
    close(moved, wanted, rtol=1e-2, atol=1e-6)


def test_only_with_images_it_reads_them_beside_the_outputs(monkeypatch):
    """A model that says the same of every image: whatever the images then change came by the guess."""
    monkeypatch.setattr(module, "descended", lambda problem, variables, *_: variables)
    on, variables = problem(mlp()), start(mlp())
    deaf = dataclasses.replace(on, model=on.model._replace(features=lambda variables, images: jnp.ones((len(images), 4))))
    params = variables.params | {
        "head": jax.tree.map(lambda leaf: leaf[:4] if leaf.ndim == 2 else leaf, variables.params["head"])
    }
    variables = variables._replace(params=params)
    turned = dataclasses.replace(deaf, train=deaf.train._replace(images=-deaf.train.images))
    for capacity in (Capacity(images=False, passes=1), LARGE):
        weights = drawn(mlp(), capacity=capacity)
        same_update = same(*(apply(weights, each, variables, capacity) for each in (deaf, turned)))
        assert same_update != capacity.images


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


def test_margins_and_logits_are_compared_at_their_size():
    on = problem(mlp())
    lesson = jax.tree.map(lambda leaf: leaf[1], lessons(on, 2, lambda each: jax.tree.map(lambda leaf: 0.5 * leaf, each)))
    rows = [on.train.labels[lesson.forget], on.train.labels[lesson.others], on.held_out.labels]
    images = [on.train.images[lesson.forget], on.train.images[lesson.others], on.held_out.images]
    unlearned = rewritten(drawn(mlp()), on, lesson.variables, examples_of(on, "forget"))
    expected = dict.fromkeys(("margins", "logits"), 0.0)
    start_at = 0
    for labels, of_part in zip(rows, images, strict=True):
        pair = [np.asarray(lesson.oracle[start_at : start_at + len(labels)], np.float64)]
        pair.append(np.asarray(on.model.apply(unlearned, of_part)[0], np.float64))
        phi = [[z[y] - np.log(np.exp(np.delete(z, y)).sum()) for z, y in zip(each, labels, strict=True)] for each in pair]
        centred = [each - each.mean(axis=1, keepdims=True) for each in pair]
        expected["margins"] += np.mean(np.square(np.subtract(*phi)))
        expected["logits"] += np.mean(np.square(np.subtract(*centred)))
        start_at += len(labels)
    for target, value in expected.items():
        np.testing.assert_allclose(lesson_loss(drawn(mlp()), on, lesson, target), value, rtol=1e-3)


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
    found = {price.method: price for price in prices(rows, {"learned": 30.0})}
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
    draws = "--learners kl --kinds random --beside="
    command = (
        f"--exp hypernetwork --smoke --device cpu --out {tmp_path / 'out'} --cache {tmp_path / 'cache'} {small} {meta} {draws}"
    )
    done = run_in_process(*command.split())
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    out = tmp_path / "out"
    files = ("summary.md", "hypernetworks/kl-0.npz", "prices.csv", "meta_training.csv", "validation.csv", "learning.csv")
    files += ("judged.csv", "over_draws.csv", "over_draws.md", "differences.csv", "draws/random-0.npz")
    files += ("figures/hypernetwork.png", "figures/frontier.png")
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
        ({"learners": ()}, "--learners: expected one or several of kl, kl-passes"),
        ({"learners": ("kl-body",)}, "--learners kl-body: "),
        ({"kinds": (), "sizes": ()}, "--kinds: expected one or several of random, class, memorised, or --sizes"),
        ({"sizes": (0.0,)}, "--sizes 0.0: "),
        ({"seed": 2**32 - 2}, "--seed 4294967294: with 3 draws expected at most 4294967293"),
        ({"beside": ("sisa",)}, "--beside sisa: expected names among finetune, "),
        ({"judged": 2}, "--judged 2: "),
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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sizes": (5000.0,)}, "--sizes 5000.0: "),
        ({"sizes": (0.5,)}, "--sizes 0.5: expected less than half of the 300 training examples"),
        ({"forget": dataclasses.replace(Config().forget, size=200)}, "--forget.size 200: expected less than half"),
    ],
)
def test_sizes_that_the_data_do_not_have_are_refused_before_anything_is_trained(tmp_path, monkeypatch, options, said):
    monkeypatch.setattr(study, "make_lessons", lambda *_: pytest.fail("trained"))
    config = dataclasses.replace(smoke(Config()), cache=tmp_path, **options)
    with pytest.raises(ArgumentError, match=re.escape(said)):
        study.run(config, Run(tmp_path))


def test_names_of_learners_say_what_they_are():
    assert (*module.TARGETS,) == TARGETS
    found = {study.parts(Config(meta=Meta(passes=7)), name) for name in LEARNERS}
    assert found == {(target, Capacity(images, passes)) for target in TARGETS for images in (False, True) for passes in (0, 7)}
    assert study.parts(Config(), "margins-images") == ("margins", Capacity(True, 0))
    assert study.label("kl") == "hypernetwork" and study.label("logits") == "hypernetwork-logits"


# The draws


def judged(method, draw, memory, damage, kl=1.0, temperature=1.0, kind="random"):
    zeros = dict.fromkeys(Judged._fields, 0.0)
    return Judged(
        **zeros
        | {"kind": kind, "draw": draw, "method": method, "temperature": temperature, "memory_left": memory}
        | {"damage": damage, "kl": kl, "members": 4}
    )


def blurring(draw):
    """Originals, and two temperatures."""
    rows = [judged("original", draw, 1.0, 0.0, 1.0), judged(report.BLURRED, draw, 0.8, 0.4, 0.6, 2.0)]
    return [*rows, judged(report.BLURRED, draw, 0.2, 1.2, 0.5, 4.0)]


def test_the_controls_are_paired_by_draw():
    """At damage 0.2 blur leaves 0.9, half way; of the gain in KL, 0.8, it has 0.5."""
    rows = []
    for draw, shift in enumerate((-0.1, 0.0, 0.1)):
        rows += [*blurring(draw), judged("hypernetwork", draw, 0.6 + shift, 0.2, 0.2), judged("scrub", draw, 0.3 + shift, 0.1)]
        rows += [judged("hypernetwork" + report.WRONG, draw, 0.95, 0.2)]
    over = report.over_draws(rows)
    (best,) = [each for each in over if each.method == report.BEST]
    assert (best.temperature, best.measures["distance"].value) == (2.0, pytest.approx(0.8))
    found = {(each.less, each.measure): each for each in report.differences(rows, over)}
    assert {each.method for each in found.values()} == {"hypernetwork"}
    assert found["equal damage", "memory_left"].value == pytest.approx(-0.3)
    assert found["", "blur's share"].value == pytest.approx(0.625)
    assert found["scrub", "distance"].value == pytest.approx(0.3) and found["scrub", "distance"].high == pytest.approx(0.3)
    assert found[report.BEST, "distance"].value == pytest.approx(-0.2)
    spread = found["hypernetwork" + report.WRONG, "memory_left"]
    assert spread.value == pytest.approx(-0.35)
    assert spread.high - spread.value == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=1e-5)
    text = report.summary(over, report.differences(rows, over), "title")
    assert "| hypernetwork | -0.20 (-0.45 to 0.05) | -0.30 (-0.55 to -0.05) | -0.35 (-0.60 to -0.10) | 0.62 (" in text
    assert "best temperature (2)" in text


def test_of_draws_in_which_nothing_is_remembered_nothing_is_said():
    rows = [each._replace(memory_left=np.nan, damage=np.nan) for each in [*blurring(0), judged("hypernetwork", 0, 0.5, 0.1)]]
    over = report.over_draws(rows)
    assert not [each for each in over if each.method == report.BEST]
    assert "not known" in report.summary(over, report.differences(rows, over), "title")
    report.frontier(rows, over, "title")


def test_a_temperature_divides_the_originals_logits():
    rng, sizes = np.random.default_rng(3), {"forget": 20, "retain": 30, "test": 10}
    labels = {split: rng.integers(3, size=size) for split, size in sizes.items()}
    arrays = {f"labels/{split}": of_split for split, of_split in labels.items()}
    for split, of_split in labels.items():
        noise = {name: rng.normal(size=(6, len(of_split), 3)) for name in ("original", "oracle", "hypernetwork")}
        sure = {"original": 6.0, "oracle": 6.0 if split != "forget" else 2.0, "hypernetwork": 3.0}
        arrays |= {f"{split}/{name}": part + sure[name] * np.eye(3)[of_split] for name, part in noise.items()}
        arrays[f"{split}/hypernetwork{report.WRONG}"] = arrays[f"{split}/original"]
    arrays["cost/hypernetwork"] = np.array(0.25)
    found = judging.scores(arrays, "random", 1)
    by_name = {each.method: each for each in found if each.method != report.BLURRED}
    assert by_name["original"].memory_left == pytest.approx(1.0) and by_name["original"].damage == pytest.approx(0.0, abs=1e-6)
    assert by_name["hypernetwork" + report.WRONG].memory_left == pytest.approx(1.0)
    assert by_name["hypernetwork"].cost == by_name["hypernetwork" + report.WRONG].cost == 0.25
    assert by_name["hypernetwork"].memory_left == pytest.approx(0.25, abs=0.15) and by_name["hypernetwork"].damage > 0.3
    blurred = [each for each in found if each.method == report.BLURRED]
    assert [each.temperature for each in blurred] == list(judging.TEMPERATURES)
    arrays |= {f"{split}/hypernetwork": arrays[f"{split}/original"] / 2.0 for split in labels}
    halved = {each.method: each for each in judging.scores(arrays, "random", 1)}["hypernetwork"]
    twice = next(each for each in blurred if each.temperature == 2.0)
    assert (halved.memory_left, halved.damage, halved.kl) == (twice.memory_left, twice.damage, twice.kl)


def test_forget_sets_of_a_draw_are_of_their_kind():
    config = dataclasses.replace(smoke(Config()), kinds=("random", "class"), sizes=(0.05, 20.0), seed=3)
    setting = prepare(config)
    masks = judging.forget_masks(config, setting)
    assert {name: int(mask.sum()) for name, mask in masks.items() if name != "class"} == {
        "random": 30,
        "random-0.05": 15,
        "random-20": 20,
    }
    assert set(setting.data.train.labels[masks["class"]]) == {3} and not (setting.data.train.labels[~masks["class"]] == 3).any()
    assert (masks["random"] == forget_mask(config, setting, 0)).all()


def test_the_search_is_that_of_tuning_on_other_models_and_sets(tmp_path, monkeypatch):
    panels = []

    def panel(config, setting, seed, indices, programs):
        panels.append((config, seed, list(indices)))

    found = tuning.Searched([], [Interval(0.5, 0.4, 0.6), Interval(0.7, 0.6, 0.8)], [{"learning_rate": 0.3}, {}], 1.0, 1.0)
    monkeypatch.setattr(judging, "Panel", panel)
    monkeypatch.setattr(tuning.Search, "tune", lambda search, name: found)
    config = Config(beside=("scrub", "finetune"), trials=5, budget=2, width=48, seed=7)
    assert judging.search(config, Run(tmp_path), None) == {"scrub": {"learning_rate": 0.3}, "finetune": {"learning_rate": 0.3}}
    ((asked, seed, sets),) = panels
    assert (asked.trials, asked.epochs, asked.rounds, asked.width, asked.train, asked.model) == (5, 2, 1, 48, config.train, "mlp")
    assert seed not in {config.drawn(number).seed for number in range(config.draws)}
    assert min(sets) >= config.meta.sets + config.meta.validation + config.forget_sets
    assert judging.search(dataclasses.replace(config, beside=()), Run(tmp_path), None) == {}
