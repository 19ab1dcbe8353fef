"""A stream is its method, one request after another, on nothing but the requests; and what holds it back does so exactly."""

import csv
import functools
import re

import clock
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import run_in_process
from test_methods import EXAMPLES, KEY, close, linear, mlp, poisoned, problem, same, start

from experiments.streaming import report
from experiments.streaming.options import Config
from experiments.streaming.report import COLUMNS, Level, Step, cells, drift, summary
from unlearn_jax.errors import ArgumentError
from unlearn_jax.methods import METHODS
from unlearn_jax.methods.streaming import Anchor, alone, anchor, lift, pulled
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import read_results
from unlearn_jax.runs import Run
from unlearn_jax.training.gradients import squared_gradients

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


# What a person sees


def step(number, method, test, access="F"):
    level = Level(test, 90.0, 1.0, 88.0, 92.0)
    return Step(number, 3 * number, method, access, 8, 0.5, Level(2.4 + number, 2.4, 0.5, 1.5, 3.4), level, level, level, level)


def test_the_table_says_how_far_and_from_when_on():
    steps = [step(1, "retrain", 90.5), step(2, "retrain", 89.0), step(1, "delete", 90.0), step(2, "delete", 80.0)]
    text = summary(steps, "about")
    lines = [[cell.strip(" |") for cell in line.split(" | ")] for line in text.splitlines()]
    cells_of = {name: rest for name, *rest in lines}
    assert cells_of["retrain"] == ["F", "+2.0", "+0.5", "+0.5", "+4.0", "-1.0", "-1.0", "-1.0", "never", "0.5"]
    assert cells_of["delete"][2:] == ["+0.0", "+0.0", "+4.0", "-10.0", "-10.0", "-10.0", "2", "0.5"]
    assert "diverged" in summary([*steps, step(1, "lost", 90.0)], "about")


def test_a_level_without_spread_is_on_its_null_or_infinitely_far():
    assert (Level(5.0, 5.0, 0.0, 5.0, 5.0).z, Level(6.0, 5.0, 0.0, 5.0, 5.0).z) == (0.0, float("inf"))
    assert Level(5.0, 4.0, 0.5, 3.0, 5.0).z == 2.0


def test_the_figure_has_a_line_for_every_method_dashed_where_it_is_held(tmp_path):
    names = ("original", "retrain", "delete", "delete + anchor")
    figure = drift([step(number, name, 90.0 - number) for name in names for number in (1, 2, 3)], "title")
    for axes in figure.axes:
        looks = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in axes.lines}
        assert set(looks) == set(names)
        assert looks["delete"][0] == looks["delete + anchor"][0] and looks["delete + anchor"][1] == "--"
    np.testing.assert_allclose(figure.axes[3].lines[0].get_ydata(), [-1, -2, -3])
    save(figure, Run(tmp_path), "drift")


def test_cells_stand_under_their_columns():
    found = dict(zip(COLUMNS, cells(step(2, "delete", 80.0)), strict=True))
    names = ("request", "klom", "test", "test_null_mean", "klom_first_null_sd")
    assert [found[name] for name in names] == [2, 4.4, 80.0, 90.0, 1.0]


def test_the_study_leaves_its_tables_and_its_picture(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.streaming.study.time", clock.ticking(12.0))
    small = "--members 2 --evaluation.splits 4 --evaluation.retain-size 40 --train-size 100 --train.epochs 1 --width 8"
    words = f"{small} --request-size 5 --methods delete --cache {tmp_path / 'cache'}"
    command = f"--exp streaming --smoke --device cpu --out {tmp_path / 'out'} {words}"
    done = run_in_process(*command.split())
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    out = tmp_path / "out"
    assert all((out / file).is_file() for file in ("results.json", "summary.md", "figures/drift.png", "figures/drift.svg"))
    methods = {"original", "retrain", "delete", f"delete{report.ANCHORED}", "sisa"}
    with (out / "streaming.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {(line["request"], line["forgotten"], line["method"]) for line in lines} == {
        (str(number), str(5 * number), name) for number in (1, 2) for name in methods
    }
    assert {line["access"] for line in lines if line["method"] == "delete + anchor"} == {"F + summary"}
    run_timed = [float(line["seconds"]) for line in lines if line["method"] in ("delete", f"delete{report.ANCHORED}", "sisa")]
    assert run_timed == [12.0 / (2 * 2)] * 6  # two members, two requests
    rows = read_results(out / "results.csv")
    assert {(row.forget_set, row.n_oracles) for row in rows} == {("after-1", 4), ("after-2", 4)}
    forgotten = [set((out / f"forget_sets/after-{number}.txt").read_text().split()) for number in (1, 2)]
    assert forgotten[0] < forgotten[1] and len(forgotten[1]) == 10
    assert "KLOM z" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"methods": ("scrub",)}, "--methods scrub: the retain set is gone"),
        ({"requests": 1}, "--requests 1: "),
        ({"request_size": 0}, "--request-size 0: "),
        ({"anchor": -1.0}, "--anchor -1.0: "),
        ({"shards": -1}, "--shards -1: "),
        ({"slices": 0}, "--slices 0: "),
    ],
)
def test_what_cannot_be_meant_is_one_line(options, said):
    with pytest.raises(ArgumentError, match=re.escape(said)):
        Config(**options).check()


def test_all_methods_are_those_that_see_no_retain_set():
    names = Config(methods=("all",)).method_names()
    assert "delete" in names and not {"original", "finetune", "scrub"} & set(names)
