"""Capacity where every size fits: the search for epochs, the shapes of curves, the toy, and the study in small."""

import csv
import dataclasses
import math

import numpy as np
import pytest

from experiments.capacity_fitted import curves, report
from experiments.capacity_fitted import study as fitted
from experiments.capacity_fitted.options import Config, smoke
from unlearn_jax import runs
from unlearn_jax.bench import equal_loss
from unlearn_jax.bench.hyperparameters import settings
from unlearn_jax.bench.several_sets import Answers, measure_methods
from unlearn_jax.errors import ArgumentError
from unlearn_jax.metrics.statistics import over_draws

TINY = dataclasses.replace(smoke(Config()), train_size=40, widths=(1, 8, 32), loss=0.2, most_epochs=30, draws=3)
KINDS = {"original": 3, "oracle": 6, "finetune": 3}


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def logits_of(config, folder, setting, values):
    """Made-up logits in the place of trained models: surer of what they were trained on the wider and the longer."""
    rng = np.random.default_rng([config.seed, config.width, config.train.epochs])
    counts = {"forget": 4, "retain": 20, "test": 30}
    arrays = {f"{split}_labels": rng.integers(2, size=count) for split, count in counts.items() if split != "forget"}
    arrays |= {"forget_labels": rng.integers(2, size=(2, 4)), "forget_wrong": np.arange(4) < np.array([[1], [2]])}
    sure = math.log2(1 + config.width * config.train.epochs)
    for kind, models in KINDS.items():
        for split, count in counts.items():
            label = np.broadcast_to(arrays[f"{split}_labels"], (2, count))[:, None, :, None] == np.arange(2)
            known = sure if kind != "oracle" or split == "retain" else 0.5
            arrays[f"{kind}/{split}"] = known * label + rng.normal(size=(2, models, count, 2))
    return arrays | {"parameters": np.array(config.width), "made_with": np.array("a test")}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run with a size that cannot reach the loss, its folder, and how often the search trained."""
    out, trained = tmp_path_factory.mktemp("capacity_fitted") / "run", []

    def training_loss(config, epochs):
        trained.append(epochs)
        return 10 / config.width / epochs + (config.width == 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitted, "training_loss", training_loss)
        patch.setattr(fitted, "load_or_predict", logits_of)
        fitted.run(TINY, runs.open_run(out, TINY.recorded(), extendable=TINY.extendable))
        before, kept = len(trained), {path.name: path.read_bytes() for path in out.glob("*.csv")}
        patch.setattr(fitted, "save", lambda *_: None)
        fitted.run(TINY, runs.open_run(out, TINY.recorded(), extendable=TINY.extendable))
    assert len(trained) == before and {path.name: path.read_bytes() for path in out.glob("*.csv")} == kept  # searched once
    return TINY, out


def test_sizes_are_compared_at_equal_loss_and_one_that_does_not_reach_it_is_named(done):
    config, out = done
    rows = {(row["rule"], row["size"]): row for row in read(out / "sizes.csv")}
    assert list(rows) == [(rule, str(size)) for size in config.widths for rule in config.rules]
    assert rows["loss", "1"]["epochs"] == rows["loss", "1"]["memorisation"] == "" != rows["epochs", "1"]["memorisation"]
    assert {row["epochs"] for (rule, _), row in rows.items() if rule == "epochs"} == {"4"}
    assert 7 <= int(rows["loss", "8"]["epochs"]) <= 8 and rows["loss", "32"]["epochs"] == "2"
    tried = read(out / "search.csv")
    assert max(int(row["epochs"]) for row in tried if row["size"] == "1") == config.most_epochs
    summary = (out / "summary.md").read_text()
    assert "| width | 1 | equal loss | not reached |" in summary
    assert {path.stem for path in out.rglob("*.png")} == {"losses", "distances", "trends", "examples"}
    assert {row["part"] for row in read(out / "shapes.csv")} == {"all", "wrong labels", "right labels"}


def test_values_and_intervals_are_those_of_the_draws(done):
    config, out = done
    draws = read(out / "draws.csv")
    assert len(draws) == 5 * config.draws
    for row in read(out / "sizes.csv"):
        own = [each for each in draws if (each["rule"], each["size"]) == (row["rule"], row["size"])]
        for measure in ("memorisation", "lira_auc", "forget_shift") if own else ():
            values = np.array([float(each[measure]) for each in own])
            assert float(row[measure]) == pytest.approx(values.mean())
            reach = 4.302653 * values.std(ddof=1) / math.sqrt(3)
            assert float(row[f"{measure}_high"]) - float(row[measure]) == pytest.approx(reach, rel=1e-4)
        for each in own:
            points = float(each["forget_accuracy"]) - float(each["oracle_accuracy"])
            assert float(each["memorisation"]) == pytest.approx(points)
    trends = {(row["rule"], row["measure"]): row for row in read(out / "trends.csv")}
    for rule, sizes in {"loss": ("8", "32"), "epochs": ("1", "8", "32")}.items():
        of_sizes = [of_rule(draws, rule, size) for size in sizes]
        slopes = [np.polyfit(np.log2([int(size) for size in sizes]), values, 1)[0] for values in zip(*of_sizes, strict=True)]
        row = trends[rule, "test_loss"]
        assert float(row["per_doubling"]) == pytest.approx(np.mean(slopes))
        assert float(row["ends"]) == pytest.approx(np.mean(np.subtract(of_sizes[-1], of_sizes[0])))
    shared = {rule: np.subtract(*(of_rule(draws, rule, size) for size in ("32", "8"))) for rule in config.rules}
    ends = float(trends["loss minus epochs", "test_loss"]["ends"])
    assert ends == pytest.approx(np.mean(shared["loss"] - shared["epochs"]))


def of_rule(draws, rule, size):
    return np.array([float(row["test_loss"]) for row in draws if (row["rule"], row["size"]) == (rule, size)])


def test_a_real_size_is_searched_trained_and_measured(tmp_path):
    config = dataclasses.replace(TINY, width=16, train=dataclasses.replace(TINY.train, epochs=8), cache=tmp_path / "cache")
    folder = runs.open_run(tmp_path / "run", config.recorded())
    assert fitted.training_loss(config, 8) < fitted.training_loss(config, 1)
    drawn = config.drawn(1, 8)
    found = fitted.measure(
        drawn, fitted.load_or_predict(drawn, folder, fitted.prepare_size(drawn), settings(drawn, ["finetune"]))
    )
    assert found.measures.keys() == report.measures(["finetune"]).keys()
    assert 0 < found.measures["train_loss"] < 1 and 50 < found.measures["test_accuracy"] < 100
    assert found.parameters == 64 * 16 + 16 + 16 * 16 + 16 + 16 * 2 + 2
    assert found.seen[1].shape == (3, 4) and found.unseen[1].shape == (6, 4) and found.wrong.shape == (2, 4)
    chance = [np.exp(-found.losses["original", "forget"]).mean(), np.mean([one.mean() for one in found.seen])]
    assert chance[0] == pytest.approx(chance[1])


def test_distances_are_those_of_logarithms_and_do_without_models_that_are_left_out():
    rng = np.random.default_rng(0)
    loss = np.exp(rng.normal(size=(6, 400)))
    sets = {("original", "forget"): loss[:3], ("oracle", "forget"): 100 * loss, ("original", "test"): 10 * loss[:3]}
    sets |= {("oracle", "test"): 100 * loss, ("original", "retain"): 0 * loss[:3]}
    models = {key: [Answers(values, values, values, values)] for key, values in sets.items()}
    found = fitted.measure_distances(models)
    assert found["forget_shift"] == pytest.approx(2, abs=0.1) and found["forget_test"] == pytest.approx(1)
    assert found["forget_test_oracles"] == 0 and found["forget_shift_null"] < 0.1
    assert found["retain_test"] == pytest.approx(10 + np.log10(10 * loss[:3]).mean())
    short = {**models, ("finetune", "forget"): [Answers(loss[:2], loss, loss, loss)]}
    assert all(math.isnan(value) for value in measure_methods(["finetune"], short).values())


def test_every_draw_has_other_data_and_every_size_the_same():
    config = dataclasses.replace(TINY, widths=(4, 8))
    settings = [fitted.prepare_size(sized.drawn(draw, 1)).data for _, _, sized in config.sizes() for draw in range(2)]
    assert len({data.fingerprint for data in settings}) == 2
    assert settings[0].fingerprint == settings[2].fingerprint != settings[1].fingerprint == settings[3].fingerprint
    wrong = (settings[0].train.labels != settings[0].clean_labels).mean()
    assert wrong == pytest.approx(config.label_noise)
    as_many = fitted.draw_discs(dataclasses.replace(config, train_size=fitted.SPARE))
    assert len(as_many.train.labels) == len(as_many.held_out.labels) == fitted.SPARE
    assert not np.array_equal(as_many.train.images, as_many.held_out.images)
    assert np.asarray(settings[0].train.images).std() == pytest.approx(fitted.FINENESS, rel=1e-3)


@pytest.mark.parametrize(
    ("loss_after", "expected"),
    [
        (lambda epochs: 1 / epochs, 10),
        (lambda epochs: 100 / epochs**2, 32),
        (lambda epochs: math.inf if epochs < 40 else 1 / epochs, 40),
        (lambda epochs: 1.0, None),
        (lambda epochs: 0.001, 1),
        (lambda epochs: 0.01 if epochs > 70 else 0.5, 71),
    ],
)
def test_the_search_finds_the_fewest_epochs_of_any_curve(loss_after, expected):
    tried = equal_loss.try_epochs(loss_after, 30, 0.1, 400)
    found = equal_loss.enough(tried, 0.1)
    assert len(tried) <= equal_loss.TRIES and max(tried) <= 400
    if expected is None:
        assert found is None and max(tried) == 400
    elif loss_after(found) >= 0.1 / equal_loss.CLOSE:
        assert expected <= found <= expected * equal_loss.CLOSE
    else:
        assert found == expected


def test_curves_are_told_apart_by_more_than_the_step():
    gains = np.array(
        [
            [0.0, 0.5, 0.1, 0.6, 0.2, 0.1, 0.3],
            [0.2, 0.3, 0.6, 0.1, 0.25, 0.19, 0.9],
            [0.4, 0.0, 0.2, 0.5, 0.15, 0.05, 0.85],
        ]
    )
    names = [report.SHAPES[code] for code in curves.classify(gains)]
    assert names == ["rises", "falls", "peaks", "dips", "flat", "flat", "rises"]
    assert [report.SHAPES[code] for code in curves.classify(gains[::2])] == [
        "rises",
        "falls",
        "flat",
        "flat",
        "flat",
        "flat",
        "rises",
    ]


def size_of(value, seen, unseen, wrong):
    draws = [report.Draw(0, {}, {}, [one], [other], wrong) for one, other in zip(seen, unseen, strict=True)]
    return report.Size("loss", "width", value, 1, draws)


def test_shares_of_shapes_are_those_of_chance_if_size_does_nothing_and_not_if_it_does_something():
    rng = np.random.default_rng(0)
    wrong = np.arange(200)[None] < 20
    made = {}
    for effect in (0.0, 0.5):
        sizes = []
        for number, value in enumerate((4, 8, 16)):
            seen = [0.3 + effect * number / 2 * wrong + 0.2 * rng.random((6, 200)) for _ in range(4)]
            sizes.append(size_of(value, seen, [0.4 * rng.random((12, 200)) for _ in range(4)], wrong))
        made[effect] = {(row.part, row.shape): row for row in curves.shapes(sizes, 20, 0)}
    assert [made[0.0][part, "flat"].examples for part in ("all", "wrong labels", "right labels")] == [800, 80, 720]
    assert all(abs(made[0.0]["all", shape].excess) < 3 for shape in report.SHAPES)
    rise = made[0.5]["wrong labels", "rises"]
    assert rise.share > 95 and rise.chance < 30 and rise.excess_low > 50
    assert abs(made[0.5]["right labels", "rises"].excess) < 3
    for part in ("all", "wrong labels", "right labels"):
        assert sum(made[0.5][part, shape].share for shape in report.SHAPES) == pytest.approx(100)


def test_permuted_models_are_the_same_ones():
    rng = np.random.default_rng(0)
    models = [[rng.random((count, 5)), rng.random((count, 5))] for count in (3, 2, 3)]
    other = curves.permuted(models, np.random.default_rng(1))
    for index in range(2):
        assert [len(of_size[index]) for of_size in other] == [3, 2, 3]
        before, after = (np.concatenate([of_size[index] for of_size in each]) for each in (models, other))
        assert not np.array_equal(before, after)
        np.testing.assert_array_equal(np.sort(before, axis=0), np.sort(after, axis=0))


def test_an_interval_takes_three_known_draws():
    assert over_draws(np.array([1.0, 2.0, np.nan])) == (1.5, -math.inf, math.inf)
    value, low, high = over_draws(np.array([1.0, 2.0, 3.0, np.nan]))
    assert value == 2 and high - value == pytest.approx(4.302653 / math.sqrt(3)) == value - low
    assert math.isnan(over_draws(np.array([np.nan])).value)


def test_sizes_are_what_their_axes_say():
    sizes = {(axis, value): own for axis, value, own in dataclasses.replace(Config(), depths=(3, 1)).sizes()}
    assert sizes["width", 64].width == 64 and sizes["depth", 3].layers == 3
    assert [key for key in sizes if key[0] == "depth"] == [("depth", 1), ("depth", 3)]
    deep = {value: own for _, value, own in dataclasses.replace(Config(), model="resnet8", widths=(), depths=(8, 56)).sizes()}
    assert deep[56].model == "resnet56" and deep[56].drawn(2, 7).train.epochs == 7 and deep[56].drawn(2, 7).seed == 2


@pytest.mark.parametrize(
    ("changed", "option"),
    [
        ({"draws": 2}, "--draws"),
        ({"members": 2}, "--members"),
        ({"widths": (8,)}, "--widths"),
        ({"widths": (0, 8)}, "--widths"),
        ({"loss": 0.0}, "--loss"),
        ({"rules": ("size",)}, "--rules"),
        ({"rules": ()}, "--rules"),
        ({"methods": ("sisa",)}, "--methods"),
        ({"model": "vit"}, "--model"),
        ({"dataset": "discs", "model": "resnet8"}, "--model"),
        ({"dataset": "discs", "train_size": None}, "--train-size"),
        ({"model": "resnet8", "layers": 3}, "--layers"),
        ({"model": "resnet8", "depths": (8, 9)}, "--depths"),
        ({"depths": (2, 101)}, "--depths"),
        ({"most_epochs": 10}, "--most-epochs"),
    ],
)
def test_a_mistake_names_its_option(changed, option):
    with pytest.raises(ArgumentError) as raised:
        dataclasses.replace(Config(), **changed).check()
    assert raised.value.argument == option
