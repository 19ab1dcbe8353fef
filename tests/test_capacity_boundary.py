"""Capacity and the influence of points: the study in small, its statistics, and its report."""

import contextlib
import csv
import dataclasses

import numpy as np
import pytest
from test_page import block

from experiments.capacity_boundary import study as capacity_boundary
from experiments.capacity_boundary.options import Config, smoke
from unlearn_jax import runs
from unlearn_jax.errors import ArgumentError
from unlearn_jax.influence import NoBoundaryError

TINY = dataclasses.replace(smoke(Config()), train_size=12, reorderings=2, resolution=16, axes=("steps",), steps=(15, 30))


def test_the_study_leaves_a_row_for_each_network_and_goes_on_where_it_was(tmp_path, monkeypatch):
    folder = runs.open_run(tmp_path / "run", TINY.recorded(), extendable=TINY.extendable)
    capacity_boundary.run(TINY, folder)
    with (tmp_path / "run/capacity_boundary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["axis"], row["value"]) for row in rows] == [("base", ""), ("steps", "15"), ("steps", "30")]
    base, one, two = ({key: float(cell) for key, cell in row.items() if key not in ("axis", "value")} for row in rows)
    assert base == two != one  # the base is on its axis
    assert one["parameters"] == 2 * 8 + 8 + 8 * 8 + 8 + 8 * 2 + 2
    assert base["less_memorised"] == 0 < one["displacement"] and 0 < one["gini"] < 1 and 0 < one["half"] < one["most"] <= 100
    assert one["gini_low"] < one["gini"] < one["gini_high"]
    with (tmp_path / "run/seeds.csv").open() as file:
        seeds = [row for row in csv.DictReader(file) if row["value"] == "15"]
    assert [row["seed"] for row in seeds] == ["0", "1", "2"]
    assert np.mean([float(row["displacement_mean"]) for row in seeds]) == pytest.approx(one["displacement"])
    assert {path.stem for path in tmp_path.rglob("*.png")} == {"boundaries", "trends", "agreement"}
    assert len(list(tmp_path.rglob("seeds/*.npz"))) == 6  # the base was trained once
    layers = block((tmp_path / "run/report.html").read_text())["explorer"]["layers"]
    assert len(layers) == 6 and all(len(layer["without"]) == len(layer["furthest"]) == 12 for layer in layers.values())
    monkeypatch.setattr(capacity_boundary, "measure", lambda *_: pytest.fail("done before"))
    monkeypatch.setattr(capacity_boundary, "save", lambda *_: None)
    capacity_boundary.run(TINY, folder)


def without_boundary(lost):
    """Seeds that have none, as what looks at them would say; of the others made-up findings."""

    def left_out(config, toy, window, seed):
        if (config.train.epochs, seed) in lost:
            return {"displacement": np.zeros(0)}
        rng, count, grid = np.random.default_rng(seed), len(toy.clean_labels), window.resolution
        found = {"displacement": rng.random(count), "margins": rng.random(count), "change": rng.random((count, count))}
        single = {name: np.array(1.0) for name in ("train_accuracy", "test_accuracy", "parameters")}
        return found | single | {"noise": np.full(2, 1e-6), "surface": rng.standard_normal((2, grid, grid))}

    return left_out


@pytest.mark.parametrize("short", [{0}, {0, 1}])
def test_seeds_without_a_boundary_are_left_out_and_two_have_no_interval(tmp_path, monkeypatch, short):
    monkeypatch.setattr(capacity_boundary, "measure", without_boundary({(15, seed) for seed in short}))
    folder = runs.open_run(tmp_path / "run", TINY.recorded())
    asked = dataclasses.replace(TINY, steps=(15,))
    capacity_boundary.run(asked, folder)
    with (tmp_path / "run/capacity_boundary.csv").open() as file:
        base, *others = csv.DictReader(file)
    assert base["seeds"] == "3" and float(base["gini_low"]) < float(base["gini_high"])
    figures = {path.stem for path in tmp_path.rglob("*.png")}
    if short == {0}:
        (one,) = others
        assert one["seeds"] == "2" and float(one["gini"]) > 0 and one["gini_low"] == one["gini_high"] == ""
        assert figures == {"boundaries", "trends", "agreement"} and "inf" not in (tmp_path / "run/summary.md").read_text()
    else:
        assert not others and figures == {"agreement"}


def test_a_base_without_a_boundary_is_a_mistake_before_the_axes(tmp_path, monkeypatch):
    asked, seen = without_boundary({(30, 0), (30, 2)}), []
    monkeypatch.setattr(capacity_boundary, "measure", lambda *args: seen.append(args) or asked(*args))
    with pytest.raises(ArgumentError, match="from 1 of 3 seeds") as raised:
        capacity_boundary.run(TINY, runs.open_run(tmp_path / "run", TINY.recorded()))
    assert raised.value.argument == "--train.epochs" and len(seen) == 3


def test_only_a_missing_boundary_is_taken_for_one(monkeypatch):
    toy = capacity_boundary.draw_toy(TINY, 0)
    window = capacity_boundary.window_around(toy.train.images, TINY.resolution)
    for error, expected in ((NoBoundaryError("none"), None), (ValueError("another"), "another")):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(capacity_boundary.influence, "leave_one_out", fail)
        with pytest.raises(ValueError, match=expected) if expected else contextlib.nullcontext():
            assert not len(capacity_boundary.measure(TINY, toy, window, 0)["displacement"])


def test_networks_are_what_their_axes_say():
    variants = {(axis, value): own for axis, value, own in Config().variants()}
    assert variants["base", ""] == variants["width", "32"] == variants["depth", "2"] == variants["activation", "relu"] == Config()
    assert (
        variants["depth", "4"].layers == 4
        and variants["width", "256"].width == 256
        and variants["steps", "75"].train.epochs == 75
    )
    assert variants["optimiser", "sgd"].train.optimiser == "sgd" and variants["weight_decay", "0.1"].train.weight_decay == 0.1


def test_networks_that_differ_in_anything_are_kept_apart():
    slow = dataclasses.replace(Config().train, optimiser="sgd", learning_rate=1e-4)
    own = dict.fromkeys(variant for _, _, variant in dataclasses.replace(Config(), train=slow, sgd_learning_rate=0.5).variants())
    assert len({capacity_boundary.network_name(variant) for variant in own}) == len(own)  # base and sgd differ in the rate alone
    trains = dataclasses.replace(slow, momentum=0.5), dataclasses.replace(slow, schedule="constant"), slow
    assert len({capacity_boundary.network_name(dataclasses.replace(Config(), train=train)) for train in trains}) == 3
    again = dataclasses.replace(Config(), axes=("depth",), depths=(2, 3), seeds=6, chunk=4)  # a run that is extended
    assert capacity_boundary.network_name(again) == capacity_boundary.network_name(Config())


def test_memorisation_is_the_change_of_the_own_labels_probability():
    one = {"margins": np.array([0.0, 2.0]), "change": np.array([[-1.0, 9.0], [9.0, 0.0]])}
    found = capacity_boundary.memorisation(one)
    np.testing.assert_allclose(found, [0.5 - 1 / (1 + np.e), 0.0])


def test_ranks_are_compared_between_different_seeds_only():
    rng = np.random.default_rng(0)
    common = rng.random(40)
    seeds = {seed: {"displacement": common + 0.01 * noise} for seed, noise in enumerate(rng.random((3, 40)))}
    others = {seed: {"displacement": values} for seed, values in enumerate(rng.random((3, 40)))}
    found = capacity_boundary.correlate_networks([seeds, others])
    assert found[0, 0] > 0.95 and abs(found[1, 1]) < 0.4 and abs(found[0, 1]) < 0.4
    np.testing.assert_allclose(found, found.T)
    assert found[0, 0] == pytest.approx(
        capacity_boundary.rank_correlation(np.stack([one["displacement"] for one in seeds.values()]))
    )
    lost = {seed: others[seed] for seed in (1, 2)}  # the first has no boundary: what stands in its row is another seed
    pairs = [(mine, theirs) for mine in others for theirs in lost if mine != theirs]
    ranks = [np.corrcoef(*(np.argsort(np.argsort(others[seed]["displacement"])) for seed in pair))[0, 1] for pair in pairs]
    assert capacity_boundary.correlate_networks([others, lost])[0, 1] == pytest.approx(np.mean(ranks))


@pytest.mark.parametrize(
    ("changed", "option"),
    [
        ({"seeds": 2}, "--seeds"),
        ({"axes": ("width", "size")}, "--axes"),
        ({"widths": (4, "x")}, "--widths"),
        ({"depths": (0,)}, "--depths"),
    ],
)
def test_a_mistake_names_its_option(changed, option):
    with pytest.raises(ArgumentError) as raised:
        dataclasses.replace(Config(), **changed).check()
    assert raised.value.argument == option
