"""What all studies begin with: the class of a forget set, its name, its settings and its rows come from one place."""

import dataclasses
import json

import numpy as np
import pytest
from in_process import run_in_process

from unlearn_jax.bench import hyperparameters as shared
from unlearn_jax.bench.evaluate import untuned_note
from unlearn_jax.bench.forget_set import forget_class, forget_mask, forget_name
from unlearn_jax.bench.hyperparameters import merge_sets, settings_of_sets
from unlearn_jax.bench.main_options import Config, smoke
from unlearn_jax.bench.option_groups import Evaluation, Forget
from unlearn_jax.bench.setting import prepare
from unlearn_jax.bench.tuned import tuned
from unlearn_jax.methods import METHODS

LABELLED = "gated_knowledge_transfer"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    small = dataclasses.replace(
        smoke(Config()), label_noise=0.0, members=2, forget_sets=3, width=8, cache=tmp_path_factory.mktemp("cache")
    )
    return dataclasses.replace(small, evaluation=Evaluation(splits=4, retain_size=40), forget=Forget(kind="class", label=8))


@pytest.mark.parametrize(
    ("kind", "names", "classes"),
    [
        ("class", ["class-8", "class-9", "class-0"], [8, 9, 0]),
        ("class_part", ["class_part-8", "class_part-8-1", "class_part-8-2"], [8, 8, 8]),
        ("random", ["random-0", "random-1", "random-2"], [None] * 3),
    ],
)
def test_name_settings_and_rows_are_of_one_class(config, kind, names, classes, monkeypatch):
    monkeypatch.setattr(shared, "tuned", lambda _: {LABELLED: {"label": 5, "learning_rate": 0.5}})  # as a search may leave it
    config = dataclasses.replace(config, forget=Forget(kind=kind, label=8 if "class" in kind else 0))
    setting = prepare(config)
    labels = setting.data.train.labels
    assert [forget_name(config, setting, index) for index in range(3)] == names
    assert [forget_class(config, setting, index) for index in range(3)] == classes
    values = settings_of_sets(config, setting, ["finetune", LABELLED])
    assert list(values) == names
    for index, (name, label) in enumerate(zip(names, classes, strict=True)):
        assert values[name][LABELLED]["label"] == (5 if label is None else label)
        assert values[name][LABELLED]["learning_rate"] == 0.5
        held = set(labels[forget_mask(config, setting, index)].tolist())
        assert held == {label} or (label is None and len(held) > 1)


def test_files_say_settings_by_set_merge_sets():
    values = {"class-3": {"a": {"label": 3, "rate": 0.1}, "b": {}}, "class-4": {"a": {"label": 4, "rate": 0.1}, "b": {}}}
    assert merge_sets(values) == {"a": {"label": {"class-3": 3, "class-4": 4}, "rate": 0.1}, "b": {}}
    assert merge_sets({"class-3": values["class-3"]}) == values["class-3"]


def test_every_set_is_unlearned_with_its_class(config, tmp_path, monkeypatch):
    """A method that says its label: it raises the bias of that class beyond all others."""

    def method(label: int = 0):
        def say(key, problem, variables):
            head = variables.params["head"]
            bias = head["bias"].at[label].add(1e3)
            return variables._replace(params={**variables.params, "head": {**head, "bias": bias}})

        return say

    own = {
        "make": method,
        "access": "F",
        "defaults": {"label": 0},
        "static": frozenset({"label"}),
        "needs": (),
        "ensemble": False,
    }
    monkeypatch.setitem(METHODS, "say", METHODS["gradient_ascent"]._replace(**own))
    words = "--methods say --members 2 --evaluation.splits 4 --evaluation.retain-size 40 --train-size 100 --width 8"
    words += " --forget.kind class --forget.label 9 --forget-sets 2 --label-noise 0"
    done = run_in_process("--smoke", "--device", "cpu", *words.split(), "--out", tmp_path, "--cache", config.cache)
    assert done.returncode == 0, done.stderr
    for label in (9, 0):
        with np.load(tmp_path / f"logits/class-{label}/say.npz") as logits:
            assert (logits["test"].argmax(-1) == label).all()
    written = json.loads((tmp_path / "hyperparameters.json").read_text())
    assert written == {"say": {"label": {"class-9": 9, "class-0": 0}}}


def test_tuned_is_what_the_search_varied():
    origins = shared.origins_of("digits", ["scrub", "ssd", "sisa"], {"scrub": {"max_epochs": 2}})
    budget = {"epochs": "budget", "batch_size": "budget"}
    kept = dict.fromkeys(("rate_decay", "temperature"), "default")
    searched = dict.fromkeys(("learning_rate", "alpha", "gamma", "weight_decay"), "tuned")
    assert origins["scrub"] == searched | kept | budget | {"max_epochs": "given"}
    assert set(origins["ssd"].values()) == {"tuned"} and set(origins["sisa"].values()) == {"default"}
    used = shared.hyperparameters_of("digits", ["scrub"], {})["scrub"]
    assert {key: used[key] for key in tuned("digits")["scrub"]} == tuned("digits")["scrub"]  # the values stay


def test_methods_at_their_defaults_are_named_where_they_could_have_been_searched():
    names = ["original", "finetune", "scrub", "salun", "newton"]
    origins = {name: dict.fromkeys(METHODS[name].defaults, "default") for name in names}
    origins["finetune"]["learning_rate"], origins["scrub"]["alpha"] = "tuned", "given"
    found = [name for name in ("salun", "newton") if METHODS[name].search]
    (note,) = untuned_note(names, origins)
    assert note == f"At their default hyperparameters, without a search on this data set: {', '.join(found)}." and "salun" in note
    assert untuned_note(names[:3], origins) == []
