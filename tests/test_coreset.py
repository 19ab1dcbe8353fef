"""How much of F a method needs: which part it is shown, and the study."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from in_process import run_in_process

from experiments.coreset import report, study
from experiments.coreset.options import Config, smoke
from experiments.coreset.study import parts
from unlearn_jax.errors import ArgumentError
from unlearn_jax.runs import Run
from unlearn_jax.types import Cube, Labels


def test_a_part_is_random_for_each_member_or_the_most_exposed():
    mask = np.arange(40) % 4 == 0
    forget, exposed = SimpleNamespace(mask=mask, members=5), np.arange(40.0)
    found = parts(Config(), forget, exposed, 0.3)
    assert {*found} == {"random", "exposed"}
    for masks in found.values():
        assert masks.shape == (5, 40) and (masks.sum(axis=1) == 3).all() and not masks[:, ~mask].any()
    assert (found["exposed"] == np.isin(np.arange(40), (28, 32, 36))).all()
    assert len({row.tobytes() for row in found["random"]}) > 1
    larger = parts(Config(), forget, exposed, 0.6)["random"]
    assert (larger >= found["random"]).all()  # a larger part holds the smaller one
    (whole,) = parts(Config(), forget, exposed, 1.0).items()
    assert whole[0] == "all" and (whole[1] == mask).all()


def test_shares_and_methods_are_checked():
    with pytest.raises(ArgumentError, match=r"^--methods original: none to unlearn"):
        Config(methods=("original",)).check()
    for methods in (("sisa",), ("finetune", "sisa")):
        with pytest.raises(ArgumentError, match=r"^--methods sisa: makes several networks of one"):
            Config(methods=methods).check()
    Config(methods=("all",)).check()  # of which those are left out
    with pytest.raises(ArgumentError, match=r"^--shares"):
        Config(shares=(0.5, 1.5)).check()


def test_originals_that_remember_too_little_are_refused_before_anything_is_unlearned(tmp_path, monkeypatch):
    trained = SimpleNamespace(variables=None, diverged=())
    few = SimpleNamespace(cube=cube(4), lost=(), members=4)
    monkeypatch.setattr(study, "pool", lambda *_: trained)
    monkeypatch.setattr(study, "population", lambda *_: few)
    monkeypatch.setattr(study, "train_oracles", lambda forget: SimpleNamespace(cube=cube(8)))
    monkeypatch.setattr(study, "forget_set", lambda config, folder, setting, mask, name: forget_of(mask))
    monkeypatch.setattr(study, "ranking", lambda *_: pytest.fail("went on"))
    with pytest.raises(ArgumentError, match=r"^--train.epochs 30: the originals remember too little of F"):
        study.run(smoke(Config()), None)


def cube(members):
    """Logits of models that know nothing."""
    rng = np.random.default_rng(members)
    return Cube(*(rng.normal(size=(members, 20, 10)) for _ in Cube._fields))


def forget_of(mask):
    """A forget set of which nothing is known but its labels."""
    labels = Labels(*(np.arange(20) % 10 for _ in Labels._fields))
    return SimpleNamespace(mask=mask, members=4, labels=labels, logits=lambda variables: None)


def test_the_study_shows_parts_and_judges_all_of_f(tmp_path):
    words = ("--exp", "coreset", "--smoke", "--device", "cpu", "--shares", "0.25")
    done = run_in_process(*words, "--out", tmp_path / "run", "--cache", tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "run/coreset.csv").open() as file:
        rows = {(row["method"], row["choice"], row["share"]): row for row in csv.DictReader(file)}
    choices = {("random", "0.25"), ("exposed", "0.25")}
    assert {*rows} == {(name, *choice) for name in ("neggrad_plus", "finetune") for choice in choices}
    of = {key[1:]: row for key, row in rows.items() if key[0] == "finetune"}
    left = [float(of[choice]["memory_left"]) for choice in choices]
    assert left == pytest.approx([left[0]] * 2, rel=1e-4)  # it reads R alone, and draws by the same keys
    shown = [float(rows["neggrad_plus", *choice]["memory_left"]) for choice in choices]
    assert len({round(each, 4) for each in shown}) == 2
    assert all(float(row["memory_left_low"]) <= float(row["memory_left_high"]) for row in rows.values())
    assert (tmp_path / "run/figures/coreset.svg").exists() and "0.25 exposed" in (tmp_path / "run/summary.md").read_text()


def test_ruined_and_lost_models_are_said_and_do_not_stretch_the_figure(tmp_path):
    near, far = (0.3, 0.2, 0.4, 0.1, 0.0, 0.2), (-4e12, -9e12, 1e12, -2e12, -3e12, 2e12)
    lines = [report.Line("scrub", "random", 0.25, 8, *near, 12), report.Line("neggrad_plus", "random", 0.25, 8, *far, 11)]
    report.write(Run(tmp_path), lines)
    text = (tmp_path / "summary.md").read_text()
    assert "| scrub | 0.30 (0.10) |" in text and "| neggrad_plus | ruined, 11 models |" in text
    assert all(axes.get_ylim() == report.SHOWN for axes in report.figure(lines, "parts").axes)
