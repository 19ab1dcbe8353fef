"""A stream is its method, one request after another, on nothing but the requests and what is kept; what is subtracted is gone."""

import csv
import functools
import math
import re
import types

import clock
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import run_in_process
from scipy import stats
from scipy.stats import multivariate_normal
from test_methods import EXAMPLES, KEY, close, linear, mlp, poisoned, problem, same, start

from experiments.streaming import report, study
from experiments.streaming.options import STAND_INS, Config
from experiments.streaming.report import COLUMNS, Level, Step, cells, drift, frontier, over_draws, summary
from unlearn_jax.errors import ArgumentError
from unlearn_jax.methods import METHODS, summaries
from unlearn_jax.methods.sharding import Division, Sisa
from unlearn_jax.methods.streaming import Anchor, alone, anchor, anchored, beside, fisher, lift, pulled, replayed
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import read_results
from unlearn_jax.runs import Run
from unlearn_jax.training.gradients import squared_gradients
from unlearn_jax.types import Examples

REQUESTS = np.array([[3, 17, 8], [30, 1, 22]])


@functools.cache
def ascent():
    return METHODS["gradient_ascent"].make(learning_rate=0.1, epochs=2, batch_size=2)


def streamed(on, variables, *held, requests=REQUESTS):
    return jax.jit(lambda *given: lift(ascent())(KEY, *given))(on, variables, jnp.asarray(requests), *held)


# The lift


def test_a_stream_is_the_method_request_by_request():
    on, variables = problem(mlp()), start(mlp())
    after = streamed(on, variables)
    one = jax.jit(lambda key, rows, variables: ascent()(key, alone(on, rows), variables))
    for number, key in enumerate(jax.random.split(KEY, 2)):
        variables = one(key, jnp.asarray(REQUESTS[number]), variables)
        close(jax.tree.map(lambda leaf, number=number: leaf[number], after), variables)


def test_a_request_is_all_that_the_method_sees():
    on, variables = problem(mlp()), start(mlp())
    asked = np.isin(np.arange(EXAMPLES), REQUESTS)
    assert same(streamed(poisoned(on, ~asked), variables), streamed(on, variables))
    only = alone(on, jnp.asarray(REQUESTS[1]))
    assert only.train.images.shape[0] == only.forget_count == only.kept_count == 3 and only.retain_count == 0
    assert same(only.train.labels, on.train.labels[REQUESTS[1]])


def test_later_requests_do_not_reach_back():
    on, variables = problem(mlp()), start(mlp())
    before, after = (streamed(poisoned(on, np.isin(np.arange(EXAMPLES), rows)), variables) for rows in ([], REQUESTS[1]))
    first, second = (jax.tree.map(lambda leaf, number=number: leaf[number], after) for number in (0, 1))
    assert same(first, jax.tree.map(lambda leaf: leaf[0], before))
    assert not np.isfinite(jax.tree.leaves(second)[0]).all()


# The anchor


def test_the_pull_is_the_minimum_of_its_docstring():
    rng = np.random.default_rng(0)
    params, origin = ({"w": jnp.asarray(rng.normal(size=5).astype(np.float32))} for _ in range(2))
    importance = {"w": jnp.array([0.0, 0.3, 1.0, 4.0, 1e9])}
    found = pulled(params, Anchor(origin, importance), 2.0)["w"]

    def value(theta):
        return jnp.sum((theta - params["w"]) ** 2) + 2.0 * jnp.sum(importance["w"] * (theta - origin["w"]) ** 2)

    np.testing.assert_allclose(jax.grad(value)(found)[:4], 0.0, atol=1e-5)
    assert found[0] == params["w"][0] and abs(found[4] - origin["w"][4]) < 1e-6
    close(pulled(params, Anchor(origin, importance), 0.0), params)


def test_the_summary_is_the_fisher_information_of_the_kept_examples_at_a_mean_of_one():
    on, variables = problem(linear()), start(linear())
    held = jax.jit(anchor)(on, variables)
    plain = jax.jit(lambda: squared_gradients(on, variables, on.rows("kept")))()
    sizes = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(held.importance)])
    expected = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(plain)])
    np.testing.assert_allclose(sizes, expected / expected.mean(), rtol=1e-4)
    assert same(held.params, variables.params)
    lost = poisoned(on, ~np.asarray(on.kept))
    assert same(jax.jit(anchor)(lost, variables), held)


def test_a_held_stream_ends_every_request_with_the_pull():
    on, variables = problem(linear()), start(linear())
    held = Anchor(variables.params, jax.tree.map(jnp.ones_like, variables.params))
    first = streamed(on, variables, requests=REQUESTS[:1])
    half = jax.tree.map(lambda new, old: old[None] + (new - old[None]) / 2.0, first.params, variables.params)
    close(streamed(on, variables, held, 1.0, requests=REQUESTS[:1]).params, half)
    close(streamed(on, variables, held, 0.0), streamed(on, variables))
    unmoved = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), variables.params)
    close(streamed(on, variables, held, 1e9).params, unmoved, atol=1e-5)


def test_less_the_request_the_fisher_information_is_that_of_the_others():
    on, variables = problem(linear()), start(linear())
    asked = np.isin(np.arange(EXAMPLES), REQUESTS[0])
    whole, less, others = jax.jit(
        lambda on, variables: (
            fisher(on, variables),
            fisher(on, variables).without(alone(on, jnp.asarray(REQUESTS[0]))),
            squared_gradients(on, variables, (on.kept & ~asked, on.kept_count - 3)),
        )
    )(on, variables)
    close(less.information, others, atol=1e-6)
    assert less.examples == whole.examples - 3 and not np.allclose(
        less.information["head"]["kernel"], whole.information["head"]["kernel"]
    )


def test_an_anchor_without_subtraction_is_that_of_the_lift():
    on, variables = problem(linear()), start(linear())

    @jax.jit
    def streams(strength, subtract):
        held = fisher(on, variables)
        given = KEY, on, variables, jnp.asarray(REQUESTS)
        return anchored(ascent())(*given, held, strength, subtract), lift(ascent())(*given, held.anchor(), strength)

    ours, lifted = streams(1.0, 0.0)
    close(ours, lifted)
    assert not np.allclose(streams(1.0, 1.0)[0].params["head"]["kernel"], lifted.params["head"]["kernel"], atol=1e-6)
    assert same(streams(0.0, 1.0)[0], streamed(on, variables))


# Summaries


def two_clouds(rng, count=60):
    labels = np.arange(count) % 2
    images = rng.normal(size=(count, 2, 2)) * (1 + labels)[:, None, None] + 3.0 * labels[:, None, None]
    return Examples(images.astype(np.float32), labels.astype(np.int32))


def test_what_is_subtracted_is_gone():
    examples = two_clouds(np.random.default_rng(0))
    first, rest = (Examples(examples.images[rows], examples.labels[rows]) for rows in (slice(20), slice(20, None)))
    close(summaries.class_statistics(examples, 3).without(first), summaries.class_statistics(rest, 3), atol=1e-4)


def test_the_posterior_is_bayes_rule():
    examples = two_clouds(np.random.default_rng(1))
    statistics = summaries.class_statistics(examples, 3)
    given = summaries.gaussians(statistics)
    points = jnp.asarray(examples.images[:7])
    found = np.asarray(summaries.posterior(given, points))
    covariance = np.einsum("cij,ckj->cik", given.factor, given.factor)
    densities = [multivariate_normal(given.mean[c], covariance[c]).logpdf(points.reshape(7, -1)) for c in (0, 1)]
    expected = np.exp(densities) * 0.5
    np.testing.assert_allclose(np.exp(found[:, :2]), (expected / expected.sum(axis=0)).T, rtol=1e-3, atol=1e-6)
    assert np.exp(found[:, 2]).max() == 0
    of_class = examples.images[examples.labels == 0].reshape(30, -1)
    pooled = sum(30 * np.cov(examples.images[examples.labels == c].reshape(30, -1).T, ddof=0) for c in (0, 1)) / 60
    shrunk = (30 * np.cov(of_class.T, ddof=0) + summaries.PRIOR * pooled) / (30 + summaries.PRIOR)
    np.testing.assert_allclose(covariance[0], shrunk + summaries.RIDGE * np.eye(4), rtol=1e-3, atol=1e-3)


def test_pseudo_examples_have_the_moments_of_their_class_and_none_of_a_class_that_is_gone():
    examples = two_clouds(np.random.default_rng(2))
    statistics = summaries.class_statistics(examples, 2)
    given = summaries.gaussians(statistics)
    drawn = summaries.pseudo_examples(KEY, given, 4000, (2, 2))
    inputs = np.asarray(drawn.images).reshape(4000, -1)
    assert drawn.images.shape == (4000, 2, 2) and abs(np.mean(drawn.labels) - 0.5) < 0.05
    for label in (0, 1):
        own = inputs[np.asarray(drawn.labels) == label]
        np.testing.assert_allclose(own.mean(axis=0), given.mean[label], atol=0.25)
        np.testing.assert_allclose(np.cov(own.T), given.factor[label] @ given.factor[label].T, rtol=0.2, atol=0.4)
    ones = Examples(examples.images[1::2], examples.labels[1::2])
    left = summaries.gaussians(statistics.without(ones))
    assert not summaries.pseudo_examples(KEY, left, 100, (2, 2)).labels.any()


def test_stand_ins_of_class_statistics_hold_nothing_of_what_was_asked_for():
    on, variables = problem(mlp()), start(mlp())
    rows = jnp.asarray(REQUESTS.ravel())

    @jax.jit
    def drawn(on, which):
        kept = summaries.keep(on).after(on, rows)
        return summaries.stand_in(KEY, which, on, variables, kept, 8, EXAMPLES - 6)[0].images

    other = on.replace(train=Examples(jnp.asarray(on.train.images).at[rows].add(0.5), on.train.labels))
    here, there = ({name: np.asarray(drawn(of, at)) for at, name in enumerate(STAND_INS)} for of in (on, other))
    for name, declared in summaries.STAND_INS.items():
        assert np.allclose(here[name], there[name], atol=1e-3) == declared.free, name
    known = {image.tobytes() for image in np.asarray(on.train.images)[~np.isin(np.arange(EXAMPLES), REQUESTS)]}
    assert all(image.tobytes() in known for image in here["R"])
    assert tuple(summaries.STAND_INS) == STAND_INS


def test_a_replayed_method_gets_the_request_and_the_stand_ins():
    on, variables = problem(mlp()), start(mlp())
    others = Examples(jnp.zeros((4, *on.train.images.shape[1:])), jnp.zeros(4, jnp.int32))
    both = beside(on, jnp.asarray(REQUESTS[0]), others)
    assert (both.forget_count, both.retain_count) == (3, 4)
    assert same(both.train.images[:3], on.train.images[REQUESTS[0]]) and not both.train.images[3:].any()
    seen = []

    def method(key, problem, variables, given):
        seen.append((problem.forget_count, problem.retain_count, given.mean.shape[0]))
        return variables

    after = jax.eval_shape(lambda which: replayed(method, 5)(KEY, on, variables, jnp.asarray(REQUESTS), which), 0)
    assert set(seen) == {(3, 5, on.classes)}
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(after))


def test_class_distillation_moves_the_answers_on_f_towards_the_statistics():
    on, variables = problem(mlp()), start(mlp())
    given = summaries.gaussians(summaries.keep(on).statistics)
    both = beside(on, jnp.asarray(REQUESTS[0]), Examples(*(leaf[30:36] for leaf in on.train)))
    method = summaries.class_distillation(learning_rate=0.05, alpha=1.0, epochs=20, batch_size=8)
    after = jax.jit(lambda: method(KEY, both, variables, given))()
    target = np.exp(summaries.posterior(given, both.train.images[:3], 2.0))

    def distance(model):
        logits = on.model.apply(model, both.train.images[:3], train=False)[0]
        return -np.sum(target * np.asarray(jax.nn.log_softmax(logits)))

    assert distance(after) < distance(variables) - 0.1


# What a person sees


def step(number, method, test, access="F", draw=0, memory=0.5, summary_of=""):
    level = Level(test, 90.0, 1.0, 88.0, 92.0)
    klom = Level(2.4 + number, 2.4, 0.5, 1.5, 3.4)
    facts = "random", draw, number, 3 * number, method, access, summary_of, 8, 0.5, 0.25
    return Step(*facts, memory, memory - 0.1, memory + 0.1, 0.2, 0.1, 0.3, 0.1, 0.3, 0.2, klom, level, level, level, level)


def test_means_over_draws_have_intervals_from_three_draws_on():
    draws = [step(4, "delete", 90.0 - draw, draw=draw, memory=0.1 * draw) for draw in range(3)]
    (end,) = over_draws([*draws, step(4, "delete", 90.0, draw=3, memory=math.nan)])
    assert (end.draws, end.known) == (4, 3)
    memory = end.measures["memory_left"]
    reach = stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    np.testing.assert_allclose(memory, [0.1, 0.1 - reach, 0.1 + reach], rtol=1e-6)
    assert end.measures["test"].value == pytest.approx(-0.75)
    assert end.measures["distance"].value == pytest.approx(0.2)
    (few,) = over_draws(draws[:2])
    assert math.isinf(few.measures["memory_left"].high)
    (one,) = over_draws(draws[2:])
    np.testing.assert_allclose(one.measures["memory_left"], [0.2, 0.1, 0.3])
    *_, left = over_draws([*draws, draws[0]._replace(method="one draw of three is left")])
    assert (left.models, left.lost) == (8, 16) and math.isinf(left.measures["memory_left"].high)  # not one over originals


def test_the_table_says_what_is_left_and_what_it_cost():
    steps = [step(number, name, 90.0 - number) for name in ("retrain", "delete") for number in (1, 2)]
    cells_of = table_of(summary(over_draws(steps), "about"))
    assert cells_of["delete"] == [
        "F",
        "0",
        "0.50 (0.40 to 0.60)",
        "0.20 (0.10 to 0.30)",
        "0.30",
        "-2.0",
        "-2.0",
        "-2.0",
        "0.25",
        "0.5",
    ]


def table_of(text):
    return {line.split(" | ")[0].strip("| "): [cell.strip(" |") for cell in line.split(" | ")[1:]] for line in text.splitlines()}


def few_left(steps):
    """One of two draws, with two models, of which nothing can be told."""
    unknown = dict.fromkeys(("memory_left", "damage", "damage_retain"), math.nan)
    return [steps[0]._replace(method="few", members=2, **unknown)]


def test_the_table_says_what_is_not_known_what_diverged_and_how_many_models_were_lost():
    steps = [step(2, "original", 90.0, draw=draw) for draw in range(2)]
    huge = [each._replace(method="huge", memory_left=-2632.912, members=7) for each in steps]
    text = summary(over_draws([*steps, *huge, *few_left(steps), step(1, "gone", 90.0)]), "about")
    found = table_of(text)
    assert "nan" not in text
    assert found["original"][:3] == ["F", "0", "0.50"]
    assert found["few"][:6] == ["F", "14 of 16", *["not known"] * 3, "0.0"]
    assert found["gone"][:8] == ["F", "16 of 16", *["diverged"] * 6]
    assert found["huge"][:4] == ["F", "2 of 16", "-2.6e+03", "0.20"]


def test_a_level_without_spread_is_on_its_null_or_infinitely_far():
    assert (Level(5.0, 5.0, 0.0, 5.0, 5.0).z, Level(6.0, 5.0, 0.0, 5.0, 5.0).z) == (0.0, float("inf"))
    assert Level(5.0, 4.0, 0.5, 3.0, 5.0).z == 2.0


def test_figures_show_methods_by_colour_and_summaries_by_mark(tmp_path):
    names = {"retrain": "", "delete": "", "scrub + classes": "classes", "scrub + R": "R"}
    ends = over_draws([step(number, name, 90.0 - number, summary_of=of) for name, of in names.items() for number in (1, 2, 4)])
    looks = {line.get_label(): line for line in frontier(ends, "title").axes[0].lines if line.get_label() in names}
    assert looks["scrub + classes"].get_color() == looks["scrub + R"].get_color() != looks["delete"].get_color()
    assert looks["scrub + classes"].get_marker() != looks["scrub + R"].get_marker()
    assert (looks["delete"].get_xdata(), looks["delete"].get_ydata()) == ([0.5], [0.2])
    figure = drift(ends, "title")
    assert [line.get_label() for line in figure.axes[2].lines if not line.get_label().startswith("_")] == list(names)
    np.testing.assert_allclose(figure.axes[2].lines[0].get_ydata(), [-1, -2, -4])
    save(figure, Run(tmp_path), "drift")


def test_figures_show_what_all_but_diverged_as_hollow_marks_on_the_edge_and_leave_out_what_is_hardly_known():
    steps = [step(2, "original", 90.0, draw=draw) for draw in range(2)]
    far = [each._replace(method="delete", memory_left=-2632.9) for each in steps]
    ends = over_draws([*steps, *far, *few_left(steps)])
    for lines in (frontier(ends, "title").axes[0].lines, drift(ends, "title").axes[0].lines):
        assert {line.get_label() for line in lines if not line.get_label().startswith("_")} == {"original", "delete"}
        (hollow,) = (line for line in lines if line.get_markerfacecolor() == "white")
        edge = report.EDGE["memory_left"][0]
        assert edge in (hollow.get_xdata()[0], hollow.get_ydata()[0]) and not hollow.get_clip_on()


def test_cells_stand_under_their_columns():
    found = dict(zip(COLUMNS, cells(step(2, "delete", 80.0)), strict=True))
    names = ("request", "klom", "test", "test_null_mean", "klom_first_null_sd", "stream", "memory_left", "damage_retain")
    assert [found[name] for name in names] == [2, 4.4, 80.0, 90.0, 1.0, "random", 0.5, 0.3]
    assert dict(zip(COLUMNS, cells(step(2, "delete", 80.0, memory=math.nan)), strict=True))["memory_left"] is None


def test_the_share_of_sisa_is_that_of_its_stages():
    sisa = Sisa(shards=3, slices=4)
    division = Division(jnp.array([0, 1, 2, 0, 1, 2]), jnp.array([0, 1, 2, 3, 0, 1]))
    requests = np.array([[0, 3], [1, 2]])
    stages = [np.asarray(sisa.stages(division, jnp.isin(jnp.arange(6), rows))).mean() for rows in requests]
    assert study.sisa_share(Config(shards=3, slices=4), division, requests) == pytest.approx(np.mean(stages))


def test_points_of_comparison_are_powers_and_the_last():
    assert Config().checkpoints == (1, 8, 64)
    assert Config(requests=10, spacing=2).checkpoints == (1, 2, 4, 8, 10)
    assert Config(requests=2).checkpoints == (1, 2)


def test_the_study_leaves_its_tables_and_its_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.streaming.answers.time", clock.ticking(12.0))
    small = "--members 2 --evaluation.splits 4 --evaluation.retain-size 40 --train-size 100 --train.epochs 1 --width 8"
    words = f"{small} --request-size 5 --methods delete --cache {tmp_path / 'cache'}"
    command = f"--exp streaming --smoke --device cpu --out {tmp_path / 'out'} {words}"
    done = run_in_process(*command.split(), "--replayed", "")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    out = tmp_path / "out"
    figures = [f"figures/{name}.{kind}" for name in ("frontier", "drift") for kind in ("png", "svg")]
    assert all((out / file).is_file() for file in ("results.json", "summary.md", "rates.csv", "summary.csv", *figures))
    blind = {"delete", "delete + anchor", "delete + anchor without F"}
    methods = {"original", "retrain", "sisa", *blind}
    with (out / "streaming.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {(int(line["request"]), line["method"]) for line in lines} == {
        (number, name) for number in (1, 2) for name in methods
    } | {(2, report.HURRIED)}
    assert {line["forgotten"] for line in lines} == {"5", "10"}
    assert {line["access"] for line in lines if "anchor" in line["method"]} == {"F + summary"}
    assert {float(line["seconds"]) for line in lines if line["method"] in blind} == {12.0 / (2 * 2)}  # two models, two requests
    with (out / "rates.csv").open() as file:
        rates = list(csv.DictReader(file))
    chosen = {(line["method"], line["summary"]): line for line in rates if line["chosen"] == "1"}
    assert len(rates) == 2 * len(chosen) == 2 * 3  # delete without an anchor and with two
    for pair, line in chosen.items():
        cheap = [
            float(each["value"])
            for each in rates
            if (each["method"], each["summary"]) == pair and abs(float(each["cost"])) <= Config().price
        ]
        least = min(float(each["value"]) for each in rates if (each["method"], each["summary"]) == pair)
        assert float(line["value"]) == max(cheap, default=least)
    rows = read_results(out / "results.csv")
    assert {(row.forget_set, row.n_oracles) for row in rows} == {("random-0-after-1", 4), ("random-0-after-2", 4)}
    assert len((out / "forget_sets/random-0.txt").read_text().split()) == 10
    assert "memory left" in done.stdout


def test_streams_are_of_their_kinds(monkeypatch):
    labels = np.repeat(np.arange(4), [12, 3, 20, 15]).astype(np.int32)
    data = types.SimpleNamespace(train=Examples(np.zeros((50, 2)), labels), classes=4)
    setting = types.SimpleNamespace(data=data, problem=types.SimpleNamespace(model=None))
    config = Config(requests=4, request_size=3)
    drawn = {kind: study.draw_requests(config, setting, kind) for kind in ("random", "class")}
    assert all(rows.shape == (4, 3) and len(np.unique(rows)) == 12 for rows in drawn.values())
    assert len(np.unique(labels[drawn["class"]])) == 1
    other = study.draw_requests(config.drawn(1), setting, "class")
    assert labels[other].max() != labels[drawn["class"]].max()
    score = np.arange(50) % 13
    monkeypatch.setattr(study, "train_on_halves", lambda *_: (None, None))
    monkeypatch.setattr(study, "predict", lambda *_: np.zeros((1, 50, 4)))
    monkeypatch.setattr(study, "memorisation", lambda *_: types.SimpleNamespace(score=score))
    assert (np.diff(score[study.draw_requests(config, setting, "memorised").ravel()]) <= 0).all()
    with pytest.raises(ArgumentError, match="a class has examples for 5 a request at most"):
        study.draw_requests(Config(requests=4, request_size=6), setting, "class")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"methods": ("scrub",)}, "--methods scrub: the retain set is gone"),
        ({"replayed": ("delete",)}, "--replayed delete: expected names among "),
        ({"streams": ()}, "--streams: expected one or several of random, class, memorised"),
        ({"stand_ins": ("all",)}, "--stand-ins all: "),
        ({"requests": 1}, "--requests 1: "),
        ({"request_size": 0}, "--request-size 0: "),
        ({"anchor": -1.0}, "--anchor -1.0: "),
        ({"shards": -1}, "--shards -1: "),
        ({"slices": 0}, "--slices 0: "),
        ({"spacing": 1}, "--spacing 1: "),
    ],
)
def test_what_cannot_be_meant_is_one_line(options, said):
    with pytest.raises(ArgumentError, match=re.escape(said)):
        Config(**options).check()


def test_all_methods_are_those_that_see_no_retain_set():
    names = Config(methods=("all",)).method_names()
    assert "delete" in names and not {"original", "finetune", "scrub"} & set(names)
