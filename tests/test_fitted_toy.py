"""The search for a toy: that it finds what it made itself, that it goes on where it stopped, and what it leaves.

And the methods on images and toys: what counts as agreeing, and that a finished run trains nothing anew.
"""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest
from in_process import run_in_process

from experiments.fitted_toy import order, order_report, report
from experiments.fitted_toy import study as experiment
from experiments.fitted_toy.options import SPACE, TOLERANCE, Config, Draws, smoke
from experiments.fitted_toy.points import toy_setting
from experiments.fitted_toy.study import Trials, mean_of_elite, mixture_at, unit_place
from unlearn_jax.bench import several_sets
from unlearn_jax.bench.option_groups import Retained, SizedForget, Train
from unlearn_jax.bench.orders import Sizes
from unlearn_jax.data import Mixture, populations
from unlearn_jax.errors import ArgumentError
from unlearn_jax.models import wave_pixels
from unlearn_jax.runs import Cache, Run

CENTRES = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
BEGUN = Mixture(CENTRES)
SMALL = dataclasses.replace(
    smoke(Config()),
    dataset="cifar10",
    train_size=60,
    width=16,
    test_size=40,
    train=Train(epochs=40, batch_size=30, learning_rate=0.03),
    forget=SizedForget(size=0.2),
    methods=("finetune", "gradient_ascent"),
    evaluation=Retained(retain_size=20),
    unlearned=Draws(draws=3, members=4),
)
WORDS = (
    *("--exp", "fitted_toy", "--smoke", "--device", "cpu", "--dataset", "cifar10", "--train-size", 60, "--width", 16),
    *("--test-size", 40, "--train.epochs", 40, "--train.batch-size", 30, "--train.learning-rate", 0.03),
    *("--forget.size", 0.2, "--methods", "finetune,gradient_ascent", "--evaluation.retain-size", 20),
    *("--unlearned.members", 4),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The run folder of a small run on what lies where TFDS's CIFAR-10 is kept once it is decoded, and its options."""
    cache, rng, arrays = tmp_path_factory.mktemp("cache"), np.random.default_rng(0), {}
    for split, count in (("train", 200), ("test", 60)):  # noise: all that can be known of an image is to have seen it
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        arrays[f"{split}_labels"] = np.arange(count, dtype=np.int32) % 10
    Cache(cache / "data" / "cifar10").keep("arrays.npz", {"dataset": "cifar10", "data_dir": None}, arrays)
    out, real = tmp_path_factory.mktemp("fitted") / "run", {}

    def predict(config, folder, setting, values, compiled):
        """Logits of trained models for the first draw of images and of a toy, then the same with noise: a pool is traced anew."""
        shape = setting.data.train.images.shape
        if shape not in real:
            real[shape] = several_sets.load_or_predict(config, folder, setting, values, compiled)
            return real[shape]
        kinds = {name: array for name, array in real[shape].items() if "/" in name}
        return {**real[shape], **{name: array + 0.1 * rng.normal(size=array.shape) for name, array in kinds.items()}}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "load_or_predict", predict)
        found = run_in_process(*WORDS, "--out", out, "--cache", cache)
    assert found.returncode == 0, found.stderr
    assert len(real) == 2
    return Run(out), dataclasses.replace(SMALL, cache=cache)


def test_a_place_in_the_cube_is_a_mixture_and_back():
    place = unit_place(BEGUN)
    inside = dict(zip(SPACE, (place > 0) & (place < 1), strict=True))
    assert not inside.pop("kinship") and all(inside.values())  # a toy before the fit knows nothing of confusions
    for name in SPACE:
        assert getattr(mixture_at(place, BEGUN), name) == pytest.approx(getattr(BEGUN, name))
    for ends, corner in ((0, np.zeros(len(SPACE))), (1, np.ones(len(SPACE)))):
        assert all(getattr(mixture_at(corner, BEGUN), name) == pytest.approx(way[ends]) for name, way in SPACE.items())


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
    trials = experiment.search(config, Run(tmp_path), Coordinates(), BEGUN, wanted)
    assert trials.places.shape == (12, 40, len(SPACE))
    np.testing.assert_allclose(trials.places[0, 0], unit_place(BEGUN))
    assert np.median(trials.losses[-1]) < 0.3 * np.median(trials.losses[0])
    assert abs(mean_of_elite(config, trials) - wanted).max() < 0.1

    shorter = experiment.search(dataclasses.replace(config, rounds=3), Run(tmp_path / "killed"), Coordinates(), BEGUN, wanted)
    longer = experiment.search(config, Run(tmp_path / "killed"), Coordinates(), BEGUN, wanted)
    np.testing.assert_array_equal(shorter.places, trials.places[:3])
    np.testing.assert_array_equal(longer.places, trials.places)


def test_a_toy_that_diverges_is_not_chosen(tmp_path, monkeypatch):
    class Diverging:
        def measure(self, mixtures, seed):
            return [None, *map(unit_place, mixtures[1:])]

    monkeypatch.setattr(experiment, "mismatch", lambda place, target: TOLERANCE)
    trials = experiment.search(Config(rounds=1, candidates=3, elite=2), Run(tmp_path), Diverging(), BEGUN, None)
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
    first, second = learner.measure([BEGUN] * 2, 0)
    assert first is None and np.isfinite(second.test_error)


def test_the_study_leaves_its_tables_and_pictures(finished):
    folder = finished[0].folder
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
    assert {path.stem for path in (folder / "figures").iterdir()} == {"toy", "characteristics", "search", "methods"}
    assert re.search(r"8 mixtures tried in 2 rounds", (folder / "summary.md").read_text())
    with (folder / "methods.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    draws, groups = SMALL.unlearned.draws, [*order_report.GROUPS]
    assert len(rows) == len(groups) * draws * SMALL.forget_sets * 3 and {row["data"] for row in rows} == {*groups}
    with (folder / "correlations.csv").open(newline="") as file:
        found = [(row["data"], row["measure"]) for row in csv.DictReader(file)]
    names = [*groups[1:], *order_report.DIFFERENCES.values()]
    assert found == [(name, measure) for name in names for measure in order_report.MEASURES]


def test_a_finished_run_trains_nothing_again(finished, monkeypatch):
    folder, config = finished
    monkeypatch.setattr(several_sets, "train_and_predict", lambda *_: pytest.fail("done before"))
    asked = []

    def measure(self, mixtures, seed):
        asked.append((mixtures, seed))
        raise InterruptedError  # the search is over

    monkeypatch.setattr(experiment.Learner, "measure", measure)
    with pytest.raises(InterruptedError):
        experiment.run(config, folder)
    (((begun, fitted), seed),) = asked
    assert seed == config.seed + config.rounds + 1  # the first fresh toy, behind the rounds
    mixture = json.loads((folder.folder / "mixture.json").read_text())
    assert all(mixture[name] == pytest.approx(getattr(fitted, name)) for name in SPACE)
    values, mixtures = order.hyperparameters(config), {"fitted": fitted, "start": begun}
    for name in ("images", "fitted"):  # what was trained
        variant, setting = order.setting_at(config, name, 0, mixtures)
        assert setting.problem.augment is None and variant.members == config.unlearned.members
        arrays = several_sets.load_or_predict(variant, folder, setting, values)
        with (folder.folder / "methods.csv").open(newline="") as file:
            (row,) = (row for row in csv.DictReader(file) if (row["data"], row["draw"], row["method"]) == (name, "0", "finetune"))
        (found,) = several_sets.effects_by_set("finetune", several_sets.group_answers(arrays))
        assert float(row["memory_left"]) == found.memory_left.value and float(row["damage"]) == found.damage.value


def test_models_see_a_toy_with_its_contrast():
    mixture = BEGUN._replace(contrast=3.0, label_noise=0.1)
    config = dataclasses.replace(SMALL, train_size=30, seed=5)
    data = toy_setting(config, mixture).data
    toy, test = (populations(count, mixture, draw=draw, seed=5) for draw, count in ((0, 30), (1, 40)))
    np.testing.assert_allclose(data.train.images, 3 * wave_pixels(toy.train.images, config.waves), atol=1e-5)
    np.testing.assert_array_equal(data.train.labels, toy.train.labels)
    np.testing.assert_array_equal(data.test.labels, test.clean_labels)
    assert (data.clean_labels != data.train.labels).sum() == 3


def orders(**noise):
    """Sizes of six methods of which the images know, with levels that are the images' where the noise is small."""
    rng = np.random.default_rng(1)
    levels = {name: rng.random((2, 1, 1, 1)) for name in "abcdef"} | {"retrain": np.zeros((2, 1, 1, 1))}
    return order_report.Orders(
        "t",
        {
            group: {
                name: Sizes(*(level + noise.get(group, 0.02) * rng.normal(size=(2, 1, 4, 2)))) for name, level in levels.items()
            }
            for group in order_report.GROUPS
        },
    )


def test_a_toy_that_orders_methods_as_images_do_is_told_from_one_that_does_not():
    study = orders(start=30.0)
    compared, apart = study.compared(), study.differences()
    assert compared["fitted"]["distance"].value > 0.9 > compared["start"]["distance"].value
    better = apart["fitted less unfitted"]["distance"]
    assert better.value == compared["fitted"]["distance"].value - compared["start"]["distance"].value
    assert better.low > 0 and "the fit makes the toy predict better" in order_report.answer(study)
    assert study.kendall("fitted", "distance") > 0.8 and study.shared_nearest("fitted") == order_report.NEAREST
    assert study.moved("fitted", "damage") < 0.1 < study.moved("start", "damage")
    assert "is not seen" in order_report.answer(orders())
    assert "predict worse" in order_report.answer(orders(fitted=30.0))


def test_a_method_that_diverged_everywhere_is_left_out_and_said():
    study = orders()
    study.sizes["start"]["c"] = Sizes(*np.full((2, 1, 4, 2), np.nan))
    study.sizes["fitted"]["d"].memory[0, 0] = np.nan
    study.sizes["fitted"]["d"].damage[0, 0] = np.nan
    assert sorted(study.ordered()) == ["a", "b", "d", "e", "f"]
    text = order_report.summary(study)
    assert "in any draw: c." in text and "| d |" in text and "nan" not in text
    assert len(order_report.figure(study).axes) == 2
    for name in "abdef":
        study.sizes["images"][name] = study.sizes["start"]["c"]
    assert study.ordered() == [] and "**Not known.**" in order_report.summary(study)


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
        ({"methods": ("finetune", "retrain")}, "--methods finetune,retrain: expected two or more"),
        ({"methods": ("finetune", "sisa")}, "--methods sisa: makes several networks"),
        ({"methods": ("finetune", "ct")}, "--methods ct: needs convolutions"),
        ({"hyper": ("scrub.epochs=1",), "methods": ("finetune", "ssd")}, "hyper scrub.epochs: "),
        ({"unlearned": Draws(draws=2)}, "--unlearned.draws 2: "),
        ({"unlearned": Draws(members=2)}, "--unlearned.members 2: "),
    ],
)
def test_what_cannot_be_meant_is_one_line(options, said):
    with pytest.raises(ArgumentError, match=re.escape(said)):
        Config(**options).check()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dataset": "nothing"}, "dataset nothing: "),
        ({"train_size": 10**6}, "train_size 1000000: "),
        ({"forget": SizedForget(size=70)}, "size 70"),
        ({"dataset": "digits", "methods": ("finetune", "nothing")}, "--methods nothing: "),
    ],
)
def test_what_the_data_cannot_do_is_refused_before_anything_is_computed(tmp_path, monkeypatch, finished, options, said):
    monkeypatch.setattr(experiment, "measure_images", lambda *_: pytest.fail("computed"))
    with pytest.raises(ArgumentError) as refused:
        experiment.run(dataclasses.replace(finished[1], **options), Run(tmp_path))
    assert said in str(refused.value) and "\n" not in str(refused.value)
