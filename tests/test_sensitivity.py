"""The surfaces of forgetting against utility: which settings are tried, and what is said of them."""

import csv
import dataclasses
import json

import jax
import numpy as np
import pytest
from in_process import run_in_process

from experiments.sensitivity import options
from experiments.sensitivity.judge import Judge
from experiments.sensitivity.report import Surface, Trial, meshes, summary
from experiments.sensitivity.study import grid
from unlearn_jax.bench.forget_set import forget_mask
from unlearn_jax.bench.setting import prepare
from unlearn_jax.methods import METHODS
from unlearn_jax.training.pools import member_keys

NOTHING, RETRAIN = np.array([3.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0])


def tried(first, second, forget, rest):
    return Trial(*map(float, (first, second, forget, rest, rest, 90, 95, 92)))


def surfaces():
    points = [
        tried(a, b, forget, rest) for a, b, forget, rest in ((1, 1, 3, 1.1), (1, 2, 2, 1.2), (2, 1, 1, 2), (2, 2, np.inf, np.inf))
    ]
    whole = Surface("two", "F+R", ("rate", "alpha"), points, points[0], points[1])
    line = Surface("one", "F", ("rate",), [tried(a, np.nan, 2.9, 1.0) for a in (1, 2, 3)], points[0], points[2])
    return [whole, line]


@pytest.mark.parametrize("name", ["finetune", "salun"])
def test_the_grid_spans_the_space_evenly_on_its_scale(name):
    axes = list(METHODS[name].search)[:2]
    points = grid(name, axes, 4)
    assert len(points) == 16 and len({tuple(point.values()) for point in points}) == 16
    for key in axes:
        low, high, scale = METHODS[name].search[key]
        values = sorted({point[key] for point in points})
        assert (values[0], values[-1]) == (pytest.approx(low), pytest.approx(high))
        steps = np.diff(np.log(values) if scale == "log" else values)
        np.testing.assert_allclose(steps, steps[0])


def test_the_table_counts_what_is_better_than_doing_nothing_and_orders_by_the_best():
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in summary(surfaces(), NOTHING, RETRAIN).splitlines()[2:4]]
    assert lines[0] == ["two", "F+R", "rate, alpha", "25%", "4.40", "1, 2", "5.20", "4.40"]
    assert lines[1] == ["one", "F", "rate", "100%", "4.90", "1", "5.20", "5.00"]


def test_the_meshes_join_settings_that_differ_in_one_hyperparameter():
    figure = meshes(surfaces(), NOTHING, RETRAIN, "title")
    two, one = figure.axes
    lines = [line for line in two.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 2]
    corners = {tuple(map(tuple, np.round(line.get_xydata(), 6)[:, ::-1])) for line in lines if np.ptp(line.get_ydata())}
    far = (6.0, 2.0)  # the setting that diverged is drawn at the edge: twice doing nothing
    assert {((3.0, 1.1), (1.0, 2.0)), ((2.0, 1.2), far), ((3.0, 1.1), (2.0, 1.2)), ((1.0, 2.0), far)} <= corners
    assert "two (F+R)" in two.get_title() and "one (F)" in one.get_title()


def test_the_study_leaves_its_tables_and_its_picture(tmp_path):
    command = (
        f"--exp sensitivity --smoke --device cpu --out {tmp_path}/out --cache {tmp_path}/cache --methods neggrad_plus,fisher"
    )
    done = run_in_process(*command.split())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/figures/sensitivity.png").is_file() and "Doing nothing" in done.stdout
    with (tmp_path / "out/sensitivity.csv").open() as file:
        rows = list(csv.DictReader(file))
    count = {
        (name, kind): sum((row["method"], row["kind"]) == (name, kind) for row in rows)
        for name in ("neggrad_plus", "fisher")
        for kind in ("grid", "used", "authors")
    }
    assert count == {(n, k): (1 if k != "grid" else 4 if n == "neggrad_plus" else 9) for n, k in count}
    by_rate = {
        row["first_value"]: float(row["forget"]) for row in rows if row["method"] == "neggrad_plus" and row["kind"] == "grid"
    }
    assert len(set(by_rate.values())) == len(by_rate) == 2
    before = (tmp_path / "out/sensitivity.csv").read_bytes()
    again = run_in_process(*f"{command},finetune".split())
    assert again.returncode == 0 and "finetune: 4 settings" in again.stderr and "fisher: " not in again.stderr
    assert (tmp_path / "out/sensitivity.csv").read_bytes().startswith(before)


def test_settings_are_judged_on_nothing_that_the_evaluation_uses(tmp_path):
    """Another forget set, and keys of which the evaluation has none: a setting chosen on its own oracles would be no finding."""
    config = dataclasses.replace(options.smoke(options.Config()), cache=tmp_path)
    setting = prepare(config)
    judge = Judge(config, setting)
    evaluated = forget_mask(config, setting, 0)
    assert (np.asarray(judge.problem.forget) != evaluated).any()
    roles = "original", "oracle", "retrain"
    own, other = (
        {tuple(row) for role in roles for row in np.asarray(jax.random.key_data(member_keys(seed, role, 8))).tolist()}
        for seed in (judge.seed, config.seed)
    )
    assert not own & other
    pools = [json.loads(path.read_text()) for path in tmp_path.rglob("identity.json")]
    assert {pool["role"] for pool in pools} == set(roles) and {pool["seed"] for pool in pools} == {judge.seed}
