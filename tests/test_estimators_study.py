"""The study of estimators: its options, its report, and all of it once, small."""

import csv
import dataclasses
import json
import math

import clock
import jax
import numpy as np
import pytest
from drawn import cells

from experiments.estimators import study as experiment
from experiments.estimators.options import DEFAULT, Config, smoke
from experiments.estimators.report import Entry, Results, agreement, conclusion, screening_curves, smoothness, summary, table
from unlearn_jax.bench.toy_options import Discs
from unlearn_jax.data import discs
from unlearn_jax.errors import ArgumentError
from unlearn_jax.runs import Run
from unlearn_jax.types import Examples, Interval

SMOKE = smoke(Config())
# as many directions as make the trainings of smoothness as many as those of leave-one-out: one program for both
SMALL = dataclasses.replace(SMOKE, train_size=16, subsets=16, directions=8, train=dataclasses.replace(SMOKE.train, epochs=12))


@pytest.mark.parametrize(
    ("changed", "option"),
    [
        ({"settings": ("base", "narow")}, "--settings"),
        ({"settings": ()}, "--settings"),
        ({"train_size": 7}, "--train-size"),
        ({"targets": 1}, "--targets"),
        ({"subsets": 18}, "--subsets"),
        ({"checkpoints": 9}, "--checkpoints"),
        ({"discs": Discs(classes=17)}, "--discs.classes"),
        ({"damping": 0.0}, "--damping"),
        ({"top": 129}, "--top"),
        ({"directions": 1}, "--directions"),
        ({"train": dataclasses.replace(Config().train, batch_size=1)}, "--train.batch-size"),
    ],
)
def test_a_mistake_names_its_option(changed, option):
    Config().check()
    with pytest.raises(ArgumentError) as raised:
        dataclasses.replace(Config(), **changed).check()
    assert raised.value.argument == option


def test_a_setting_is_the_base_with_some_things_changed():
    found = Config(width=32).with_setting("adam+float64")
    assert (found.width, found.precision, found.train.optimiser, found.train.learning_rate) == (32, "float64", "adam", 0.01)
    assert found.train.weight_decay == Config().train.weight_decay
    apart = Config().with_setting("separated")
    assert (apart.discs.separation, apart.discs.radius, apart.label_noise) == (10.0, 2.0, 0.0)
    assert Config().setting_names() == list(DEFAULT) == Config().recorded()["settings"]


def test_all_estimators_answer_for_every_point_and_target():
    toy = discs(SMALL.train_size, **dataclasses.asdict(SMALL.discs))
    run = experiment.prepare_training(SMALL, toy, 0)
    path = experiment.train_with_checkpoints(SMALL, run)
    np.testing.assert_allclose(path.learning_rates, 0.01 / (1 - 0.9) * 4)
    found = experiment.estimators(SMALL, path)
    assert {"eigendecomposition", "unrolled", "source", "trak"} <= set(found)
    for estimator in found.values():
        assert jax.eval_shape(estimator, run, path, Examples(*toy.train)).shape == (16, 16)


def entry(value, once=0.0, each=0.0, screened=(0.0, 0.5, 1.0, 1.0)):
    measures = {name: Interval(value, value - 0.1, value + 0.1) for name in ("pearson", "spearman", "recall", "lds")}
    return Entry(measures, once, each, 0.5, np.array(screened))


def studies():
    entries = {
        "reordered": entry(0.99, 3),
        "other_seed": entry(0.2, 3),
        "woodbury": entry(0.4, 0.5),
        "unrolled": entry(0.9, 1, 0.25),
    }
    first = Results("base", 3, 4, 2, entries, np.array([0.9, 0.7]))
    return [first, first._replace(setting="adam", entries={**entries, "eigendecomposition": entry(0.95, 1)})]


def test_costs_are_counted_in_trainings():
    first, second = studies()
    assert first.trainings("unrolled") == 2 and first.break_even("unrolled") == 8
    assert first.break_even("woodbury") == math.inf and first.break_even("reordered") == 0
    assert first.price("woodbury") == (0.5 + 2) / 3  # the second point that is verified is the last of the top two
    columns, rows = table([first, second])
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    assert len(found) == 4 * (4 + 5)
    one = next(row for row in found if (row["setting"], row["estimator"], row["measure"]) == ("base", "unrolled", "lds"))
    assert (one["value"], one["null"], one["ceiling"], one["trainings"], one["break_even_targets"]) == (0.9, 0.99, 0.2, 2, 8)


def test_the_best_is_an_estimator_and_no_exact_answer():
    assert "base: unrolled is nearest" in conclusion(studies()) and "adam: IF, Hessian is nearest" in conclusion(studies())
    assert "| IF, Hessian |  | 0.95 (0.85 to 1.05) |" in summary(studies())


def test_figures_show_all_settings():
    heat = agreement(studies())
    assert [label.get_text() for label in heat.axes[0].get_xticklabels()] == ["base", "adam"]
    texts = [text for text, _ in cells(heat.axes[0]).values()]
    assert sorted(texts) == sorted([".99", ".99", ".20", ".20", ".40", ".40", ".90", ".90", ".95"])
    curves = screening_curves(studies())
    (line,) = (line for line in curves.axes[0].lines if len(line.get_xdata()) == 4 and line.get_xdata()[0] == 2 / 3)
    np.testing.assert_allclose(line.get_xdata(), (2 + np.arange(4)) / 3)
    (marks,) = (container for container in smoothness(studies()).axes[0].containers if container.get_label() == "base")
    np.testing.assert_allclose(marks[0].get_xydata(), [[0.8, 0.9]])


def test_the_study_from_end_to_end(tmp_path, monkeypatch, capsys):
    few = experiment.estimators
    monkeypatch.setattr(experiment, "estimators", lambda *given: {name: few(*given)[name] for name in ("grad_dot", "unrolled")})
    monkeypatch.setattr(experiment, "time", clock.ticking(2.0))
    experiment.run(SMALL, Run(tmp_path))
    assert "is nearest to exact leave-one-out" in capsys.readouterr().out
    with (tmp_path / "estimators.csv").open() as file:
        rows = list(csv.DictReader(file))
    truths = {"exact", "reordered", "other_seed"}
    names = {*truths, "grad_dot", "unrolled", "subset_influence", "datamodels", "data_oob", "data_shapley"}
    assert len(rows) == len(names) * 4 and {row["estimator"] for row in rows} == names
    value = {(row["estimator"], row["measure"]): float(row["value"]) for row in rows}
    assert value["exact", "spearman"] == 1 and value["reordered", "pearson"] > 1 - 1e-6
    assert value["unrolled", "pearson"] > 0.5
    arrays = np.load(tmp_path / "settings/adam+float64.npz")
    assert arrays["exact"].dtype == np.float64 and arrays["estimate/unrolled"].shape == (16, 3)
    _, each, _ = arrays["cost/unrolled"]
    assert 1 < each < 12 and arrays["cost/datamodels"][0] == 12  # trainings
    seconds = {name: float(arrays[f"cost/{name}"][2]) for name in names - truths}
    with_trainings = 2.0 + 12 * 2.0 / 16  # twelve trainings, of which leave-one-out is sixteen in two seconds
    without = dict.fromkeys(("grad_dot", "unrolled", "data_shapley"), 2.0)
    assert seconds == {**without, **dict.fromkeys(("datamodels", "subset_influence", "data_oob"), with_trainings)}
    assert (np.ptp(arrays["estimate/data_oob"], axis=1) == 0).all() and np.ptp(arrays["estimate/data_oob"]) > 0
    told = np.load(tmp_path / "truth/adam+float64.npz")
    np.testing.assert_array_equal(told["effects"], arrays["exact"])
    assert told["images"].shape == (16, 2) and told["final/head/kernel"].shape == told["initial/head/kernel"].shape == (4, 2)
    assert json.loads(str(told["config"]))["setting"] == "adam+float64" and str(tmp_path) not in str(told["config"])
    assert arrays["exact_seconds"] == 2.0
    assert {path.name for path in tmp_path.glob("figures/*.png")} == {"agreement.png", "screening.png", "smoothness.png"}
    monkeypatch.setattr(experiment, "run_setting", lambda *_: pytest.fail("done before"))
    monkeypatch.setattr(experiment, "save", lambda *figure: None)
    before = (tmp_path / "results.json").read_text()
    experiment.run(SMALL, Run(tmp_path))
    assert json.loads(before) == json.loads((tmp_path / "results.json").read_text())


def test_an_estimate_that_is_not_finite_is_left_out_and_one_of_the_truth_stops_the_study(capsys):
    rng = np.random.default_rng(0)
    names = ("exact", "reordered", "other_seed")
    arrays = {name: rng.normal(size=(8, 3)) for name in names} | {"exact_seconds": np.array(1.0), "smoothness": np.ones(2)}
    arrays |= {"removed": rng.random((6, 8)) < 0.5, "subset_changes": rng.normal(size=(6, 3))}
    for name in ("trak", "unrolled"):
        arrays |= experiment.pack_estimate(name, rng.normal(size=(8, 3)), 1.0, 0.1, 1.0)
    arrays["estimate/unrolled"][2, 1] = np.nan
    config = dataclasses.replace(SMALL, top=2)
    found = experiment.measure(config, "base", arrays)
    assert "trak" in found.entries and "unrolled" not in found.entries
    assert capsys.readouterr().out == "unrolled: not finite, left out of base\n"
    smoothness([found])
    arrays["other_seed"][0, 0] = np.inf
    with pytest.raises(ArgumentError, match=r"--train.learning-rate"):
        experiment.measure(config, "base", arrays)
