"""The search for a toy: that it finds what it made itself, that it goes on where it stopped, and what it leaves."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest

from experiments.fitted_toy import report
from experiments.fitted_toy import study as experiment
from experiments.fitted_toy.options import SPACE, TOLERANCE, Config, smoke
from experiments.fitted_toy.study import Trials, mean_of_elite, mixture_at, unit_place
from unlearn_jax.bench.options import Train
from unlearn_jax.data import Mixture
from unlearn_jax.errors import ArgumentError
from unlearn_jax.runs import Run

CENTRES = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
SMALL = dataclasses.replace(smoke(Config()), train_size=60, width=8, test_size=40, train=Train(epochs=2, batch_size=30))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = Run(tmp_path_factory.mktemp("run"))
    experiment.run(dataclasses.replace(SMALL, cache=tmp_path_factory.mktemp("cache")), folder)
    return folder


def test_a_place_in_the_cube_is_a_mixture_and_back():
    mixture = Mixture(CENTRES)
    place = unit_place(mixture)
    assert ((place > 0) & (place < 1)).all()
    for name in SPACE:
        assert getattr(mixture_at(place, CENTRES), name) == pytest.approx(getattr(mixture, name))
    for ends, corner in ((0, np.zeros(len(SPACE))), (1, np.ones(len(SPACE)))):
        assert all(getattr(mixture_at(corner, CENTRES), name) == pytest.approx(way[ends]) for name, way in SPACE.items())


def test_the_search_closes_in_on_what_is_wanted(tmp_path, monkeypatch):
    """A learner whose every characteristic is a coordinate: the mixture of the least mismatch is known."""
    wanted = np.linspace(0.2, 0.8, len(SPACE))

    class Coordinates:
        def measure(self, mixtures, seed):
            return [unit_place(each) for each in mixtures]

    monkeypatch.setattr(
        experiment, "mismatch", lambda place, target: dict.fromkeys(TOLERANCE, float(np.abs(place - target).mean()))
    )
    config = Config(rounds=12, candidates=40, elite=8)
    trials = experiment.search(config, Run(tmp_path), Coordinates(), CENTRES, wanted)
    assert trials.places.shape == (12, 40, len(SPACE))
    np.testing.assert_allclose(trials.places[0, 0], unit_place(Mixture(CENTRES)))
    assert np.median(trials.losses[-1]) < 0.3 * np.median(trials.losses[0])
    assert abs(mean_of_elite(config, trials) - wanted).max() < 0.1

    shorter = experiment.search(dataclasses.replace(config, rounds=3), Run(tmp_path / "killed"), Coordinates(), CENTRES, wanted)
    longer = experiment.search(config, Run(tmp_path / "killed"), Coordinates(), CENTRES, wanted)
    np.testing.assert_array_equal(shorter.places, trials.places[:3])
    np.testing.assert_array_equal(longer.places, trials.places)


def test_a_toy_that_diverges_is_not_chosen(tmp_path, monkeypatch):
    class Diverging:
        def measure(self, mixtures, seed):
            return [None, *map(unit_place, mixtures[1:])]

    monkeypatch.setattr(experiment, "mismatch", lambda place, target: TOLERANCE)
    trials = experiment.search(Config(rounds=1, candidates=3, elite=2), Run(tmp_path), Diverging(), CENTRES, None)
    np.testing.assert_allclose(trials.losses, [[experiment.LOST, 1, 1]])
    assert experiment.loss(TOLERANCE) == pytest.approx(1)
    losses = np.array([[3.0, 1.0, 2.0]])
    places = np.arange(3.0)[None, :, None] * np.ones((1, 3, len(SPACE)))
    np.testing.assert_allclose(mean_of_elite(Config(elite=2), Trials(places, losses)), 1.5)


def test_a_toy_whose_models_say_nothing_finite_has_no_characteristics():
    learner = experiment.Learner(SMALL, len(CENTRES))
    answered = learner.answers

    def lost(*arguments):
        seen, unseen = map(np.array, answered(*arguments))
        seen[0, 0] = np.nan  # one model of the first toy
        return seen, unseen

    learner.answers = lost
    first, second = learner.measure([Mixture(CENTRES)] * 2, 0)
    assert first is None and np.isfinite(second.test_error)


def test_the_study_leaves_its_tables_and_pictures(finished):
    folder = finished.folder
    mixture = json.loads((folder / "mixture.json").read_text())
    assert set(mixture) == set(Mixture._fields) and np.shape(mixture["centres"]) == (10, 2)
    for name, (low, high, _) in SPACE.items():
        assert low <= mixture[name] <= high
    with (folder / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == SMALL.rounds * SMALL.candidates and all(float(row["mismatch"]) > 0 for row in rows)
    with (folder / "characteristics.csv").open(newline="") as file:
        table = {(row["characteristic"], row["kind"]): row for row in csv.DictReader(file)}
    assert {name for name, kind in table if kind == "mismatch"} == set(TOLERANCE)
    assert 0 < float(table["test error", "level"]["fitted"]) < 1 and float(table["test error", "level"]["images_sd"]) >= 0
    assert {path.stem for path in (folder / "figures").iterdir()} == {"toy", "characteristics", "search"}
    assert re.search(r"8 mixtures tried in 2 rounds", (folder / "summary.md").read_text())


def test_levels_and_mismatches_are_means_over_draws():
    from unlearn_jax.metrics import Characteristics, mismatch

    def at(error):
        return Characteristics(error, 0.1, np.linspace(0, error, 50), np.linspace(-1, 1, 50), np.full(50, 0.5), np.eye(2))

    measured = {"images": [at(0.2), at(0.4)], "start": [at(0.9), at(0.9)], "fitted": [at(0.3), at(0.3)]}
    found = experiment.mismatches(measured)
    assert [each["test_error"] for each in found["images"]] == [pytest.approx(0.2)]
    assert [each["test_error"] for each in found["start"]] == [pytest.approx(0.7), pytest.approx(0.5)] * 2
    assert found["fitted"][0] == mismatch(at(0.3), at(0.2))
    study = report.Results("t", ("a", "b"), measured, {}, {}, {}, np.zeros((1, 1, 0)), np.ones((1, 1)), 1, TOLERANCE, found)
    levels = report.levels(study)
    assert levels["test error"]["images"] == (pytest.approx(0.3), pytest.approx(np.std([0.2, 0.4], ddof=1)))
    assert levels["memorisation, 50%"]["start"][0] == pytest.approx(0.45)
    assert study.mismatch("start", "test_error") == (pytest.approx(0.6), pytest.approx(0.1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"train_size": None}, "--train-size None: "),
        ({"members": 6}, "--members 6: "),
        ({"elite": 1}, "--elite 1: "),
        ({"candidates": 4}, "--candidates 4: "),
        ({"test_size": 5}, "--test-size 5: "),
        ({"seeds": 1}, "--seeds 1: "),
        ({"rounds": 0}, "--rounds 0: "),
        ({"waves": -1}, "--waves -1: "),
    ],
)
def test_what_cannot_be_meant_is_one_line(options, said):
    with pytest.raises(ArgumentError, match=re.escape(said)):
        Config(**options).check()
