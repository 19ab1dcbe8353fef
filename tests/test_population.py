"""Models that diverged: what is alive decides n, n is said, and too few stop a run before any method is trained."""

import csv
import dataclasses
import re
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from in_process import run_in_process

from experiments.capacity import options as capacity
from experiments.capacity import study as capacity_study
from experiments.streaming import study as streaming
from experiments.variance.landscape import require_all
from unlearn_jax.bench import judging, pools, setting, several_sets, tuning_options
from unlearn_jax.bench.forget_set import ForgetSet
from unlearn_jax.bench.main_options import Config
from unlearn_jax.bench.panel import Panel, Programs
from unlearn_jax.bench.population import comparable, lost_members, population, score_alive, without
from unlearn_jax.errors import ArgumentError
from unlearn_jax.metrics import reference, registry, score
from unlearn_jax.metrics.views import Seen
from unlearn_jax.report.rows import read_results
from unlearn_jax.types import Cube, Labels, Variables

SMALL = "--smoke --device cpu --members 4 --evaluation.splits 4 --evaluation.retain-size 40 --train-size 100"
SMALL += " --train.epochs 1 --width 8"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def poison(monkeypatch):
    """`poison(oracle=(3,), ...)`: these members of pools of these roles are NaN, as if they had diverged."""
    train_pool = pools.train_pool

    def poison(**lost):
        def poisoned(problem, masks, *, members, role, **options):
            pool = train_pool(problem, masks, members=members, role=role, **options)
            rows = [member for member in lost.get(role, ()) if member < members]
            mark = np.isin(np.arange(members), rows)
            nan = jax.tree.map(lambda leaf: np.where(mark.reshape(-1, *[1] * (leaf.ndim - 1)), np.nan, leaf), pool.variables)
            return pool._replace(variables=jax.tree.map(np.float32, nan), diverged=tuple(rows))

        monkeypatch.setattr(pools, "train_pool", poisoned)

    return poison


def run(exp, out, cache, methods, *words):
    methods = ("--methods", methods) if exp != "gaming" else ()  # it has methods of its own
    return run_in_process("--exp", exp, *SMALL.split(), "--out", out, "--cache", cache, *methods, *words)


def test_members_are_counted_and_too_few_are_one_line():
    models = Variables({"w": np.array([[0.0], [np.nan], [1.0], [np.inf]])}, {})
    assert lost_members(Config(), "oracle", models, 2) == (1, 3)
    np.testing.assert_array_equal(without(models, (1, 3)).params["w"], [[0], [1]])
    said = "learning_rate 0.1: 2 of 4 oracle models diverged and at least 3 must be left; try a smaller learning rate"
    with pytest.raises(ArgumentError, match=re.escape(said)):
        lost_members(Config(), "oracle", models, 3)
    with pytest.raises(ArgumentError, match="2 of 4 twin models diverged and at least 4 must be left"):
        require_all(Config(), "twin", models)
    assert [comparable(*each) for each in ((4, 8), (4, 7), (2, 7), (4, 3))] == [4, 3, 2, 1]


def test_a_population_leaves_out_what_is_not_finite():
    """In its weights or in its logits, or because its original was lost."""
    variables = Variables({"w": np.array([[0.0], [np.nan], [1.0], [3.0], [4.0]])}, {})
    cube = Cube(*(np.arange(5.0)[:, None, None] + np.zeros((5, 2, 3)) for _ in range(3)))
    cube.test[2, 1, 0] = np.inf
    alive = population(variables, cube, lost=(4,))
    assert (alive.lost, alive.members) == ((1, 2, 4), 2)
    assert alive.variables.params["w"].ravel().tolist() == [0, 3]
    assert all(split[:, 0, 0].tolist() == [0, 3] for split in alive.cube)


def test_as_many_models_are_scored_as_there_are_oracles_for():
    rng = np.random.default_rng(0)
    own, oracles = (Cube(*(rng.normal(size=(n, 12, 3)) for _ in range(3))) for n in (4, 7))
    labels = Labels(*(rng.integers(0, 3, 12) for _ in range(3)))
    yardstick = reference(oracles, labels, comparable(4, 7), splits=4)
    found, n = score_alive(own, yardstick, np.array([0, 2, 5, 7]))
    assert n == 3
    first_three = score(Cube(*(part[:3] for part in own)), yardstick, np.array([0, 2, 5]))
    for ours, theirs in zip(found.scores, first_three.scores, strict=True):
        np.testing.assert_array_equal(ours.parts, theirs.parts)
        assert ours[:5] == theirs[:5]
    assert score_alive(Cube(*(part[:1] for part in own)), yardstick) == (None, 1)


def test_the_main_study_compares_what_is_alive_and_says_so(poison, cache, tmp_path, monkeypatch):
    poison(oracle=(2,), original=(1,))
    attacked, attacks = [], Seen.attacks
    monkeypatch.setattr(Seen, "attacks", lambda seen, over: (attacked.append(len(seen.cube.forget)), attacks(seen, over))[1])
    done = run("unlearning", tmp_path / "out", cache, "original,retrain")
    assert done.returncode == 0, done.stderr
    assert sorted(attacked) == [3, 3, 7]  # each pool once, and no model that is not compared
    rows = read_results(tmp_path / "out/results.csv")
    assert {(row.method, row.n_members, row.n_oracles) for row in rows} == {(name, 3, 7) for name in ("original", "retrain")}
    assert (
        "random-0: 1 of 8 oracles diverged, so at most 3 models of a method are compared."
        in (tmp_path / "out/summary.md").read_text()
    )


def test_the_stream_takes_lost_oracles_away_once(poison, cache, tmp_path):
    poison(oracle=(7,))
    done = run("streaming", tmp_path / "out", cache, "delete", "--request-size", "5", "--shards", "0", "--anchor", "0")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out/streaming.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {line["members"] for line in lines} == {"3"}
    stand_ins = ("classes", "classes with F", "held-out", "R")
    assert {f"class_distillation + {name}" for name in stand_ins} <= {line["method"] for line in lines}
    assert {line["request"] for line in lines if line["method"] == "class statistics alone"} == {"2"}
    assert {row.n_oracles for row in read_results(tmp_path / "out/results.csv")} == {7}
    assert "n=3 models a method" in (tmp_path / "out/summary.md").read_text()


@pytest.mark.parametrize(
    ("exp", "lost", "words", "said"),
    [
        (
            "unlearning",
            {"oracle": range(5)},
            ("--forget-sets", "2"),
            "5 of 8 retrained models diverged and at least 4 must be left",
        ),
        ("unlearning", {"original": range(3)}, (), "3 of 4 original models diverged and at least 2 must be left"),
        ("streaming", {"oracle": range(5)}, (), "5 of 8 retrained models diverged and at least 4 must be left"),
        (
            "attack_features",
            {"oracle": range(5)},
            ("--together", "1"),
            "5 of 8 retrained models diverged and at least 4 must be left",
        ),
        (
            "attack_features",
            {"original": range(3)},
            ("--together", "1"),
            "3 of 4 original models diverged and at least 2 must be left",
        ),
        ("gaming", {"cheat": range(3)}, (), "3 of 4 retrained models diverged and at least 2 must be left"),
    ],
)
def test_too_few_stop_the_run_before_a_method_is_trained(poison, cache, tmp_path, monkeypatch, exp, lost, words, said):
    for place, name in ((judging, "Unlearner"), (streaming, "Programs")):
        monkeypatch.setattr(place, name, lambda *_, **__: pytest.fail("a method was trained"))
    monkeypatch.setattr("experiments.attack_features.study.Unlearner", lambda *_, **__: pytest.fail("a method was trained"))
    poison(**lost)
    done = run(exp, tmp_path / "out", cache, "delete", *words)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"benchmark.py: --train.learning-rate 0.1: {said}")


def test_a_later_forget_set_is_counted_before_the_first_is_unlearned(poison, cache, tmp_path, monkeypatch):
    """Oracles of the second set alone diverge: their pool is told by its mask."""
    monkeypatch.setattr(judging, "Unlearner", lambda *_, **__: pytest.fail("a method was trained"))
    original, oracles = ForgetSet.pool, []

    def pool(self, role, members):
        trained = original(self, role, members)
        oracles.append(self.name)
        if self.name != "random-1":
            return trained
        return trained._replace(variables=jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), trained.variables))

    monkeypatch.setattr(ForgetSet, "pool", pool)
    done = run("unlearning", tmp_path / "out", cache, "finetune", "--forget-sets", "2")
    assert done.returncode == 2 and "8 of 8 retrained models diverged" in done.stderr and "random-1" in oracles


def test_every_setting_of_capacity_is_counted_before_its_methods(monkeypatch, tmp_path):
    config = dataclasses.replace(capacity.smoke(capacity.Config()), cache=tmp_path)
    prepared = capacity_study.prepare_setting(config)
    forget = np.arange(120) // 12 == np.arange(2)[:, None]

    def pool(config, setting, problem, masks, role, members):
        return SimpleNamespace(variables=Variables({"w": np.where(np.arange(members) < 2, np.nan, 0.0)}, {}))

    monkeypatch.setattr(several_sets, "pool", pool)
    monkeypatch.setattr(
        several_sets, "predict", lambda model, variables, images, _: np.zeros((len(variables.params["w"]), 3, 10))
    )
    monkeypatch.setattr(several_sets, "compile_all", lambda _: pytest.fail("methods were compiled"))
    with pytest.raises(ArgumentError, match="2 of 3 original models diverged and at least 3 must be left"):
        several_sets.train_and_predict(config, prepared, forget, {})


def test_settings_are_not_judged_by_oracles_that_diverged(poison, cache):
    poison(oracle=(0,))
    config = dataclasses.replace(tuning_options.smoke(tuning_options.Config()), train_size=100, cache=cache)
    with pytest.raises(ArgumentError, match="1 of 8 oracle models diverged and at least 8 must be left"):
        Panel(config, setting.prepare(config), 1, [1], Programs())


def largest_weight(models, split):
    leaf = np.abs(jax.tree.leaves(models.weights)[-1]).astype(float)
    return leaf.reshape(len(leaf), -1).max(1)


def test_a_run_is_extended_by_a_metric_of_models(cache, tmp_path, monkeypatch):
    """What is kept names its metrics: where one is missing it is made again, and as a fresh run makes it."""
    out, name = tmp_path / "out", ("largest_weight", "all")
    monkeypatch.setattr(registry, "METRICS", dict(registry.METRICS))
    for folder in (out, tmp_path / "fresh"):
        assert run("unlearning", out, cache, "original,finetune").returncode == 0
        registry.METRICS.pop(name[0], None)
        registry.metric("per-model", ("all",), needs=("weights",))(largest_weight)
        done = run("unlearning", folder, cache, "original,finetune")
        assert done.returncode == 0, done.stderr
    extended, fresh = (
        {(row.method, row.metric, row.split): row.value for row in read_results(folder / "results.csv") if row.z is not None}
        for folder in (out, tmp_path / "fresh")
    )
    assert extended == fresh and {key for key in extended if key[1:] == name} == {
        (each, *name) for each in ("original", "finetune")
    }
    monkeypatch.undo()
    assert run("unlearning", out, cache, "original,finetune").returncode == 0  # one that is gone
    assert name[0] not in {row.metric for row in read_results(out / "results.csv")}


def test_what_somebodys_metric_measured_is_not_shared(cache, tmp_path, monkeypatch):
    """Its code may change under the same name, and no run sees it."""
    monkeypatch.setattr(registry, "METRICS", dict(registry.METRICS))
    found = []
    for factor in (1, 2):
        registry.METRICS.pop("largest_weight", None)

        def largest_weight(models, split, factor=factor):
            leaf = np.abs(jax.tree.leaves(models.weights)[-1]).astype(float)
            return factor * leaf.reshape(len(leaf), -1).max(1)

        registry.metric("per-model", ("all",), needs=("weights",))(largest_weight)
        out = tmp_path / f"{factor}"
        assert run("unlearning", out, cache, "original,finetune").returncode == 0
        found.append([row.value for row in read_results(out / "results.csv") if row.metric == "largest_weight"])
    np.testing.assert_allclose(found[1], 2 * np.array(found[0]))


def test_logits_made_with_another_version_are_said(cache, tmp_path, monkeypatch):
    out, copied = tmp_path / "out", tmp_path / "cache"
    shutil.copytree(cache, copied)
    shutil.rmtree(copied / "logits", ignore_errors=True)  # of this version
    monkeypatch.setattr("unlearn_jax.device.made_with", lambda: "jax 0.1, cpu")
    assert run("unlearning", out, copied, "original").returncode == 0
    monkeypatch.undo()
    done = run("unlearning", out, copied, "original")
    assert done.returncode == 0
    assert "Part of this was computed with jax 0.1, cpu, not with jax" in (out / "summary.md").read_text()
