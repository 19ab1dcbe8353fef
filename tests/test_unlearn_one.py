"""Forgetting one point, against the model that never saw it: the study in small, and its report."""

import csv
import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.unlearn_one import report
from experiments.unlearn_one import study as unlearn_one
from experiments.unlearn_one.options import Config, smoke
from unlearn_jax import runs
from unlearn_jax.bench.toy_options import Discs
from unlearn_jax.errors import ArgumentError
from unlearn_jax.influence import NoBoundaryError

TINY = dataclasses.replace(
    smoke(Config()), width=4, train_size=8, trials=4, chunk=2, methods=("original", "finetune"), discs=Discs(separation=4.0)
)


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run folder, and what is left of a run of fewer methods that went on."""
    folder = runs.open_run(tmp_path_factory.mktemp("one") / "run", TINY.recorded(), extendable=TINY.extendable)
    unlearn_one.run(TINY, folder)
    return folder


def test_every_method_and_point_has_a_row(done):
    rows = read(done.folder / "unlearn_one.csv")
    names = {"original", "finetune", report.REORDERED}
    assert {row["method"] for row in rows} == names and len(rows) == 8 * len(names)
    for row in rows:
        assert float(row["exact_displacement"]) > 0
        if row["method"] == "original":  # nothing done: as far as nothing, in no direction
            assert [float(row[name]) for name in report.MEASURES[:2]] == [1.0, 0.0]
        if row["method"] == report.REORDERED:
            assert float(row["boundary_ratio"]) < 0.05 and float(row["parameter_alignment"]) > 0.99


def test_the_search_keeps_the_best_of_what_it_tried(done):
    rows = [row for row in read(done.folder / "search.csv") if row["method"] == "finetune"]
    assert [row["hyperparameter"] for row in rows] == ["learning_rate"] * 8
    values, scores = ([float(row[name]) for row in rows] for name in ("value", "boundary_ratio"))
    assert values[:4] == pytest.approx(np.geomspace(1e-4, 3.0, 4))
    place = int(np.argmin(scores[:4]))
    around = values[max(place - 1, 0)], values[min(place + 1, 3)]
    assert (values[4], values[7]) == pytest.approx(around)
    best = min(rows, key=lambda row: float(row["boundary_ratio"]))
    own = report.MethodResult.from_arrays(np.load(done.folder / "methods/finetune.npz"))
    assert own.chosen.startswith(f"learning_rate {float(best['value']):.2g}")
    assert len(set(scores)) > 4


def test_the_report_is_whole(done):
    said = (done.folder / "summary.md").read_text()
    assert all(f"| {name} |" in said for name in ("original", "finetune", report.REORDERED))
    names = {path.name for path in done.folder.rglob("*.png")}
    assert names == {"standing.png", "by_influence.png", "boundaries.png"}
    medians = json.loads((done.folder / "results.json").read_text())
    assert medians["original"]["nearer"] == [0, 0, 0] and medians["original"]["boundary_ratio"] == [1, 1, 1]


def test_a_second_run_reads_what_the_first_has_done(done, monkeypatch):
    before = (done.folder / "unlearn_one.csv").read_bytes()
    monkeypatch.setattr(unlearn_one, "forget_all", lambda *_: pytest.fail("done before"))
    monkeypatch.setattr(unlearn_one, "save", lambda *_: None)
    worlds, world = [], unlearn_one.draw_task
    monkeypatch.setattr(unlearn_one, "draw_task", lambda *args: worlds.append(world(*args)) or worlds[-1])
    unlearn_one.run(TINY, done)
    assert (done.folder / "unlearn_one.csv").read_bytes() == before
    drawn = [part for each in worlds for part in (each.problem.train, each.problem.held_out)]  # search, then evaluation
    points = np.concatenate([np.asarray(part.images) for part in drawn])
    assert len(points) == 4 * 8 == len(np.unique(points, axis=0))  # none is searched on, or held out, and evaluated


def test_a_method_that_gives_the_exact_answer_scores_as_exact():
    own = unlearn_one.draw_task(TINY, 0, np.arange(8))
    columns = unlearn_one.measure_closeness(TINY, own, "finetune", own.exact.without)
    assert columns["boundary_ratio"].max() < 1e-5 and columns["margin_alignment"].min() > 1 - 1e-6
    ensembles = jax.tree.map(lambda leaf: np.stack([leaf, leaf], axis=1), own.exact.without)  # SISA's are several networks
    columns = unlearn_one.measure_closeness(TINY, own, "sisa", ensembles)
    assert columns["boundary_ratio"].max() < 1e-3 and "parameter_ratio" not in columns
    half = jax.tree.map(lambda a, b: (a + b) / 2, own.exact.without, unlearn_one.make_requests(TINY, own)[1])
    columns = unlearn_one.measure_closeness(TINY, own, "finetune", half)
    np.testing.assert_allclose(columns["parameter_ratio"], 0.5, rtol=1e-4)
    np.testing.assert_allclose(columns["parameter_alignment"], 1.0, rtol=1e-6)


def test_an_original_without_a_boundary_is_a_mistake(monkeypatch):
    def leave_one_out(*_, **__):
        raise NoBoundaryError("the model has none")

    monkeypatch.setattr(unlearn_one.influence, "leave_one_out", leave_one_out)
    with pytest.raises(ArgumentError, match="has none") as raised:
        unlearn_one.draw_task(TINY, 0, np.arange(1))
    assert raised.value.argument == "--train.epochs"


def test_points_are_asked_in_turns_and_another_point_is_another():
    own = unlearn_one.draw_task(TINY, 1, np.arange(2))
    _, originals, masks = unlearn_one.make_requests(TINY, own)
    np.testing.assert_array_equal(masks["forget"].argmax(1), [0, 1] * 4)
    assert masks["forget"].sum() == 8 and all(len(leaf) == 8 for leaf in jax.tree.leaves(originals))
    others = unlearn_one.draw_other_points(TINY, 8)
    assert sorted(others) == list(range(8)) and (others != np.arange(8)).all()


@pytest.mark.parametrize(
    ("changed", "option"),
    [({"trials": 3}, "--trials"), ({"epochs": 0}, "--epochs"), ({"methods": ("gated_knowledge_transfer",)}, "--methods")],
)
def test_a_mistake_names_its_option(changed, option):
    with pytest.raises(ArgumentError) as raised:
        dataclasses.replace(Config(), **changed).check()
    assert raised.value.argument == option


def test_all_is_what_can_forget_a_point():
    names = Config().method_names()
    assert {"retrain", "scrub", "newton"} <= set(names) and not {"gated_knowledge_transfer", "msg"} & set(names)
