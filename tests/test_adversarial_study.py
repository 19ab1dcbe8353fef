"""The study of fooled critics: what critics are given, its controls, its measures, its search, and the whole of it in small."""

import csv
import dataclasses
import functools
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
from in_process import run_in_process
from scipy import stats

from experiments.adversarial import report, study
from experiments.adversarial.options import (
    BASE,
    CONDITIONS,
    NOISY,
    ONE,
    PROXY,
    RIGHT,
    VALIDATION,
    Condition,
    Config,
    Search,
    smoke,
)
from unlearn_jax.bench import tuning
from unlearn_jax.errors import ArgumentError
from unlearn_jax.metrics.attacks import FeatureAttack
from unlearn_jax.runs import open_run
from unlearn_jax.types import Interval

TINY = smoke(Config())


@functools.cache
def drawn():
    return study.draw(dataclasses.replace(TINY, train_size=200, label_noise=0.2))


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


# What methods are given


def test_critics_see_as_many_wrong_labels_as_the_training_set_has():
    it = drawn()
    right, noisy = it.setting.data.held_out, it.held_out[NOISY]
    assert it.held_out[RIGHT] is right and np.array_equal(noisy.images, right.images)
    assert np.mean(noisy.labels != right.labels) == pytest.approx(0.2, abs=0.5 / len(right.labels))
    test = it.setting.data.test.labels
    assert np.mean(it.test_labels != test) == pytest.approx(0.2, abs=0.5 / len(test))
    one, other = (rows.tolist() for rows in it.halves)
    assert sorted(one + other) == list(range(len(right.labels))) and abs(len(one) - len(other)) <= 1
    shown = it.held_out[VALIDATION]
    assert len(shown.labels) == len(right.labels)
    assert {*map(bytes, shown.images)} == {bytes(noisy.images[row]) for row in one}


def test_a_control_is_fooled_on_retained_examples_and_never_sees_f():
    it = drawn()
    assert it.retained.sum() == it.forget.sum() and not (it.retained & it.forget).any()
    (control,) = (condition for condition in CONDITIONS if condition.on_retained)
    problem = study.problem_of(it, control)
    assert np.array_equal(problem.forget, it.retained) and not (np.asarray(problem.kept) & it.forget).any()
    assert problem.kept_count == np.asarray(problem.kept).sum() and problem.forget_count == it.retained.sum()
    usual = study.problem_of(it, CONDITIONS[0])
    assert np.array_equal(usual.forget, it.forget) and np.asarray(usual.kept).all()
    assert np.array_equal(usual.held_out.labels, it.held_out[NOISY].labels)


def test_controls_have_the_values_of_the_critic_and_one_change():
    values = {Search(ONE): {"fooling": 1.0, "critic_rate": 0.01}, Search(ONE, RIGHT): {}}
    by_name = {condition.name: condition for condition in CONDITIONS}
    for change in ("no critic", "critic never learns"):
        condition = by_name[f"{ONE}, {change}"]
        own = values[condition.values_of] | dict(condition.changes)
        assert condition.held_out == NOISY and sorted(own.values()).count(0.0) == 1 and len(own) == 2
    assert by_name[f"{ONE}, right labels"].values_of == Search(ONE, RIGHT)
    assert by_name[f"{ONE}, right labels, same values"].values_of == by_name["gan, same values"].values_of == Search(ONE)


def test_a_longer_game_is_at_the_last_rate():
    names = [condition.name for condition in Config(rates=(0.1, 0.2), proxy_epochs=7).conditions()]
    assert names[-3:] == [f"{PROXY}, rate 0.1", f"{PROXY}, rate 0.2", f"{PROXY}, rate 0.2, 4 x as long"]
    assert dict(Config(rates=(0.2,), proxy_epochs=7).conditions()[-1].changes)["epochs"] == 28
    assert names[:3] == ["finetune", "scrub", BASE] and len(names) == len(set(names))


# What is measured


def test_distances_from_uniform_losses_are_those_of_kolmogorov_and_smirnov():
    rng = np.random.default_rng(0)
    losses = rng.uniform(0, 2, size=(3, 500))
    expected = np.mean([stats.kstest(row, "uniform", args=(0, 2)).statistic for row in losses])
    assert study.from_uniform(losses, 2.0) == pytest.approx(expected) and expected < 0.1
    assert study.from_uniform(losses, 4.0) > 0.45
    assert all(study.uniform_gaps(row, study.ENDS).min() < 0.1 for row in losses)  # whatever its end
    skewed = rng.exponential(0.1, size=500) ** 3
    nearest = min(stats.kstest(skewed, "uniform", args=(0, end)).statistic for end in study.ENDS)
    assert study.uniform_gaps(skewed, study.ENDS).min() == pytest.approx(nearest) and nearest > 0.2
    other = rng.uniform(0, 2, size=(4, 500))
    assert study.from_pool(losses, other) == pytest.approx(
        np.mean([stats.ks_2samp(row, other.ravel()).statistic for row in losses])
    )


def answers(it, sure_of_forget, models=4, seed=0):
    """Made-up models: so sure of F, of R as models are, and of other examples alike."""
    rng, data = np.random.default_rng(seed), it.setting.data
    labels = {"forget": data.train.labels[it.forget], "retain": data.train.labels[it.judged]}
    labels |= {"held_out": data.held_out.labels, "test": data.test.labels}
    sure = {"forget": sure_of_forget, "retain": 6.0, "held_out": 3.0, "test": 3.0}
    return {
        part: (rng.normal(size=(models, len(labels[part]), 10)) + sure[part] * np.eye(10)[labels[part]]).astype(np.float32)
        for part in study.PARTS
    }


def test_a_fresh_critic_tells_what_is_remembered_and_nothing_else():
    it = drawn()
    aucs = {sure: study.told_apart(study.Answers(it, answers(it, sure), "x"), "test, right") for sure in (3.0, 8.0)}
    assert abs(aucs[3.0] - 0.5) < 0.2 and aucs[8.0] > 0.8


def test_measures_are_those_of_each_condition_without_models_that_diverged(monkeypatch):
    it = drawn()
    monkeypatch.setattr(study, "feature_mias", lambda member, other, folds: [FeatureAttack(0.5, 0.5, 0.0)] * len(member))
    arrays = {"original": answers(it, 8.0), "oracle": answers(it, 3.0, 8, 1), "retrain": answers(it, 3.0, 4, 2)}
    arrays[BASE] = {part: (arrays["original"][part] + answers(it, 3.0, 4, 3)[part]) / 2 for part in study.PARTS}
    arrays[f"{ONE}, right labels"] = {part: logits.copy() for part, logits in arrays["original"].items()}
    arrays[f"{ONE}, right labels"]["test"][1] = np.nan
    found = study.measure(it, arrays)
    of = found.conditions
    assert of["original"]["memory_left"] == pytest.approx(1) and of["original"]["distance"] == pytest.approx(1)
    assert abs(of["retrain"]["memory_left"]) < 0.2 and 0.2 < of[BASE]["memory_left"] < 0.8
    assert (of[BASE]["lost"], of[f"{ONE}, right labels"]["lost"]) == (0, 1)
    assert math.isnan(of["oracle"]["memory_left"]) and of["oracle"]["accuracy_forget"] < of["original"]["accuracy_forget"]
    assert of["original"]["ks_oracles"] > of["retrain"]["ks_oracles"]
    margins = [
        study.scaled_logits(arrays[name]["forget"], it.setting.data.train.labels[it.forget]).mean(0) for name in (BASE, "oracle")
    ]
    assert of[BASE]["ranks"] == pytest.approx(stats.spearmanr(*margins).statistic)
    assert found.aims["original on held-out"]["accuracy_gap"] == pytest.approx(
        found.aims["original on held-out"]["accuracy"] - of["oracle"]["accuracy_forget"]
    )
    aims = found.aims
    assert aims["uniform losses"]["loss"] == pytest.approx(math.log(10) / 2)
    assert aims["original on held-out"]["accuracy"] < aims["original on held-out, right"]["accuracy"]
    assert set(found.uniform["test"]) == set(report.UNIFORM_MEASURES)
    assert found.uniform["test"]["sample"] < found.uniform["test"]["uniform"]


def made_up(draws=3):
    def of(base, draw):
        return dict.fromkeys(report.MEASURES, base + 0.1 * draw) | {"lost": 0.0}

    names = ["original", "oracle", "retrain", "finetune", *(condition.name for condition in CONDITIONS)]
    measured = [
        report.Measured(
            {name: of(0.01 * place, draw) for place, name in enumerate(names)},
            {"uniform losses": dict.fromkeys(report.AIM_MEASURES, 1.0)},
            {"F": dict.fromkeys(report.UNIFORM_MEASURES, 0.5)},
        )
        for draw in range(draws)
    ]
    losses = [{name: np.geomspace(0.01, 5, 50) for name in report.CURVES}] * draws
    return report.Results("about", measured, losses, math.log(10), [])


def test_values_have_intervals_over_draws_and_differences_are_paired():
    it = made_up()
    value = it.value("finetune", "damage")
    reach = stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    np.testing.assert_allclose(value, [0.13, 0.13 - reach, 0.13 + reach])
    np.testing.assert_allclose(it.difference("finetune", BASE, "damage"), [-0.01] * 3, atol=1e-12)  # the same in every draw
    assert ("finetune", BASE) in it.pairs and not any(PROXY in name for pair in it.pairs for name in pair)
    tables = report.tables(it)
    assert {name: len(table.columns) for name, table in tables.items() if name != "draws"} == {
        **{"conditions": 5, "differences": 6, "aims": 5, "uniform": 5}
    }
    assert len(tables["draws"].rows) == 3 * len(it.names)
    text = report.summary(it)
    assert "nan" not in text and "| finetune | 0.13 (-0.12 to 0.38) |" in text


def test_a_value_beyond_the_edge_is_hollow_on_it():
    it = made_up()
    it.draws[0].conditions[BASE]["damage"] = 90.0
    figure = report.conditions(it)
    hollow = [line for line in figure.axes[1].lines if line.get_markerfacecolor() == "white"]
    assert [line.get_xdata()[0] for line in hollow] == [report.LIMITS["damage"][1]]
    assert all(len(panel.lines) for panel in [*figure.axes, *report.aims(it).axes, *report.proxy(it).axes])


# The search


def test_the_search_is_on_other_seeds_and_what_is_given_is_not_searched(monkeypatch, tmp_path):
    config = dataclasses.replace(TINY, trials=2, methods=(), hyper=("gan.fooling=0.7", f"{PROXY}.learning_rate=0.1"), epochs=3)
    asked = study.trials(config, ONE)
    assert asked.seed not in {config.drawn(number).seed for number in range(config.draws)}
    assert (asked.epochs, study.trials(config, PROXY).epochs) == (3, config.proxy_epochs)
    assert (asked.model, asked.width, asked.train, asked.label_noise) == (config.model, config.width, config.train, 0.1)
    given: list[str] = []

    class Fake:
        def __init__(self, asked, folder, panel):
            self.folder = folder

        def tune(self, name):
            given.append(f"{name} in {self.folder.folder.name}")
            values = {"fooling": 2.0, "learning_rate": 0.02, "epochs": 3, "batch_size": 128}
            return tuning.Searched([], [Interval(0.5, 0.4, 0.6)], [values], 0.9, 1.0)

    def check(folder, panel, name, searched):
        worse = folder.folder.name == RIGHT
        difference = Interval(0.3, 0.2, 0.4) if worse else Interval(-0.1, -0.2, -0.05)
        return tuning.Checked(0, Interval(0.5, 0.4, 0.6), Interval(0.9, 0.8, 1.0), difference, 0.5, 0.1)

    shown: list[tuple[int, str]] = []
    monkeypatch.setattr(study, "panel", lambda asked, seed, part: SimpleNamespace(part=part, retrained=list))
    monkeypatch.setattr(study, "distances_left_out", lambda found: np.zeros(3))
    monkeypatch.setattr(study, "show", lambda panel, held_out: shown.append((panel.part, held_out)))
    monkeypatch.setattr(study.tuning, "Search", Fake)
    monkeypatch.setattr(study.tuning, "check", check)
    values, rows = study.tune(config, open_run(tmp_path / "run", config.recorded()))
    assert given == [f"{ONE} in {NOISY}", f"{ONE} in {RIGHT}"]
    assert shown == [(0, NOISY), (1, NOISY), (0, RIGHT), (1, RIGHT)]
    assert values[Search("gan")]["fooling"] == values[Search("gan", RIGHT)]["fooling"] == 0.7
    assert values[Search(ONE)]["fooling"] == 2.0  # and where the check found it worse, the authors'
    assert (values[Search(ONE, RIGHT)]["fooling"], values[Search(ONE, RIGHT)]["epochs"]) == (0.3, 3)
    assert (values[Search(PROXY)]["learning_rate"], values[Search(PROXY)]["epochs"]) == (0.1, config.proxy_epochs)
    assert [row[:2] for row in rows] == [[NOISY, ONE], [RIGHT, ONE]]


def test_a_panel_gives_methods_the_labels_that_it_says_and_judges_with_right_ones():
    it = drawn()
    data = it.setting.data
    fake = SimpleNamespace(setting=it.setting, config=it.config, sets=[], identity={})
    of_set = SimpleNamespace(problem=it.setting.problem)
    of_set._replace = lambda problem: SimpleNamespace(problem=problem)
    for kind, wrong in ((NOISY, 0.2), (RIGHT, 0.0)):
        fake.sets = [of_set]
        study.show(fake, kind)
        labels = np.asarray(fake.sets[0].problem.held_out.labels)
        assert np.mean(labels != data.held_out.labels) == pytest.approx(wrong, abs=0.5 / len(labels))
        assert fake.identity["held_out"] == kind


# What a person sees


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"methods": ("sisa",)}, "--methods sisa: makes several networks of one"),
        ({"methods": ("nonsense",)}, "--methods nonsense: expected "),
        ({"hyper": ("ssd.dampening=1",)}, "hyper ssd.dampening: ssd is not among the methods"),
        ({"draws": 2}, "--draws 2: "),
        ({"members": 2}, "--members 2: "),
        ({"trials": 1}, "--trials 1: expected 0, or at least 2"),
        ({"searched": 5}, "--searched 5: "),
        ({"rates": (0.0,)}, "--rates 0.0: "),
        ({"rates": (0.1, 0.1)}, "--rates 0.1,0.1: names a rate twice"),
    ],
)
def test_what_cannot_be_meant_is_one_line(options, said):
    with pytest.raises(ArgumentError, match=re.escape(said)):
        Config(**options).check()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"forget": dataclasses.replace(TINY.forget, size=50.0)}, "--forget.size 50.0: as many retained examples are a control"),
        ({"label_noise": 0.0}, "--label-noise 0.0: the question is what wrong labels in F do"),
    ],
)
def test_what_the_data_do_not_allow_is_said_before_anything_is_trained(options, said, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "tune", lambda *_: pytest.fail("something was computed"))
    config = dataclasses.replace(TINY, **options)
    with pytest.raises(ArgumentError, match=re.escape(said)):
        study.run(config, open_run(tmp_path / "run", config.recorded()))


def test_the_study_leaves_its_tables_and_resumes(tmp_path, monkeypatch):
    few = (CONDITIONS[0], Condition(f"{ONE}, right labels", ONE, RIGHT))
    monkeypatch.setattr("experiments.adversarial.options.CONDITIONS", few)
    monkeypatch.setattr(study, "feature_mias", lambda member, other, folds: [FeatureAttack(0.5, 0.5, 0.0)] * len(member))
    words = ["--exp", "adversarial", "--smoke", "--device", "cpu", "--out", tmp_path / "out", "--cache", tmp_path / "cache"]
    words += ["--methods", "", "--rates", ""]
    done = run_in_process(*words)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert all((out / f"{name}.csv").is_file() for name in ("draws", "conditions", "differences", "aims", "uniform", "tuning"))
    assert all((out / f"figures/{name}.png").is_file() for name in ("conditions", "aims", "proxy"))
    draws = read(out / "draws.csv")
    names = ["original", "oracle", "retrain", *(condition.name for condition in few)]
    assert [(row["draw"], row["condition"]) for row in draws] == [(str(draw), name) for draw in range(3) for name in names]
    monkeypatch.setattr(study, "unlearned", lambda *_: pytest.fail("a finished draw was unlearned again"))
    monkeypatch.setattr(study, "pool", lambda *_: pytest.fail("a finished draw was trained again"))
    again = run_in_process(*words)
    assert again.returncode == 0, again.stderr
    assert read(out / "draws.csv") == draws
