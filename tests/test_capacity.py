"""Unlearning as overfitting: the study in small, taken up again, its statistics, and its report."""

import csv
import dataclasses
import itertools
import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import run_in_process

from experiments.capacity import report
from experiments.capacity import study as capacity
from experiments.capacity.options import Config, smoke
from unlearn_jax import runs
from unlearn_jax.bench import several_sets
from unlearn_jax.bench.option_groups import Train
from unlearn_jax.data.augmentation import augmentation
from unlearn_jax.errors import ArgumentError
from unlearn_jax.metrics import likelihood_ratios, probabilities, reference, scaled_logits, score
from unlearn_jax.metrics.agreement import rank_agreement
from unlearn_jax.types import Cube, Interval, Labels, Variables

OPTIONS = {"--widths": "", "--width": "32", "--label-noises": "0,0.3", "--methods": "finetune", "--train.epochs": "60"}


AT = ("axis", "setting")


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The run folder of the smallest study, from the command line."""
    out, cache = (tmp_path_factory.mktemp("capacity") / name for name in ("run", "cache"))
    words = [word for pair in OPTIONS.items() for word in pair]
    found = run_in_process("--exp", "capacity", "--smoke", "--device", "cpu", "--out", out, "--cache", cache, *words)
    assert found.returncode == 0, found.stderr
    return out, found.stdout


def test_every_setting_forget_set_method_and_metric_has_a_row(done):
    out, said = done
    rows = read(out / "results.csv")
    settings = {(row["axis"], row["setting"]) for row in rows}
    assert settings == {("base", ""), ("label noise", "0"), ("label noise", "0.3")}
    assert {row["method"] for row in rows} == {"original", "finetune"}
    assert {row["forget_set"] for row in rows} == {"random-0", "random-1", report.ALL}
    assert len(rows) == 3 * 2 * 3 * len(capacity.COSTS)
    noisy = next(row for row in read(out / "settings.csv") if row["setting"] == "0.3")
    low, value, high = (float(noisy[f"memorised_wrong{end}"]) for end in ("_low", "", "_high"))
    assert 0 < value <= 100 and low < value < high
    assert float(noisy["accuracy_gap"]) == pytest.approx(float(noisy["train_accuracy"]) - float(noisy["test_accuracy"]))
    assert 0 <= float(noisy["lira_auc"]) <= 1
    summary = (out / "summary.md").read_text()
    assert summary in said and "label noise 0.3" in summary
    assert set(json.loads((out / "results.json").read_text())["hyperparameters"]) == {"finetune"}


def test_differences_are_between_what_the_other_tables_say(done):
    out, _ = done
    names = "base", "label noise 0", "label noise 0.3"
    told = {
        f"{row['axis']} {row['setting']}".strip(): {k: float(v or "nan") for k, v in row.items() if k not in AT}
        for row in read(out / "settings.csv")
    }
    left = {name: {} for name in names}
    for row in read(out / "results.csv"):
        if row["method"] == "original" and (row["metric"], row["split"]) == report.MAIN:
            left[f"{row['axis']} {row['setting']}".strip()][row["forget_set"]] = float(row["value"]) - float(row["null_mean"])
    rows = {(row["setting"], row["minus"], row["measure"]): row for row in read(out / "differences.csv")}
    assert len(rows) == 3 * len(report.DIFFERENCES)
    for other, one in itertools.combinations(names, 2):
        for measure, name in report.DIFFERENCES.items():
            row = rows[one, other, name]
            value, low, high = (float(row[key]) for key in ("value", "low", "high"))
            sets = [float(row[key]) for key in ("set_0", "set_1") if row[key]]
            if measure == "left":
                expected = left[one][report.ALL] - left[other][report.ALL]
                assert sets == pytest.approx([left[one][each] - left[other][each] for each in ("random-0", "random-1")])
            elif measure == "test_error":
                expected = told[other]["test_accuracy"] - told[one]["test_accuracy"]
            else:
                expected = told[one][measure] - told[other][measure]
            assert value == pytest.approx(expected, abs=1e-9) and low <= value <= high
            assert bool(sets) == (measure not in ("accuracy_gap", "loss_gap", "test_error"))
            assert not sets or np.mean(sets) == pytest.approx(value, abs=1e-9)


def test_means_over_forget_sets_and_their_nulls_are_those_of_the_sets(done):
    rows = [row for row in read(done[0] / "results.csv") if row["axis"] == "base" and row["method"] == "original"]
    for metric, split in capacity.COSTS:
        own = [row for row in rows if (row["metric"], row["split"]) == (metric, split)]
        *sets, whole = ({key: float(row[key] or "nan") for key in ("value", "null_mean", "null_sd", "z")} for row in own)
        for key in ("value", "null_mean"):
            assert whole[key] == pytest.approx(np.mean([each[key] for each in sets]))
        assert whole["null_sd"] == pytest.approx(math.hypot(*(each["null_sd"] for each in sets)) / 2)
        assert whole["z"] == pytest.approx((whole["value"] - whole["null_mean"]) / whole["null_sd"])


def test_what_is_there_is_not_made_again_and_is_drawn(done, monkeypatch, tmp_path):
    out, _ = done
    kept = {path.name: path.read_bytes() for path in out.glob("*.csv")}
    config = dataclasses.replace(
        smoke(Config()), widths=(), width=32, label_noises=(0.0, 0.3), methods=("finetune",), out=out, cache=out.parent / "none"
    )
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=60))
    monkeypatch.setattr(several_sets, "train_and_predict", lambda *_: pytest.fail("done before"))
    folder = runs.open_run(out, config.recorded(), extendable=config.immaterial | config.extendable)
    capacity.run(config, folder)
    assert {path.name: path.read_bytes() for path in out.glob("*.csv")} == kept
    pictures = {path.stem: path.stat().st_size for path in out.rglob("*.png")}
    assert set(pictures) == {"losses", "trends", "interpolation", "cost"} and min(pictures.values()) > 5_000


def test_the_attack_counts_pairs():
    rng = np.random.default_rng(0)
    seen, unseen = rng.normal(1, 1, (4, 7)).round(1), rng.normal(0, 1, (5, 7)).round(1)
    trained_on = np.repeat([True, False], [4, 5])[:, None] & np.ones((1, 7), bool)
    ratios = likelihood_ratios(np.concatenate([seen, unseen]), trained_on, shared_variance=True)
    pairs = ratios[:4, :, None] - ratios[4:].ravel()
    np.testing.assert_allclose(several_sets.attack_auc(seen, unseen), ((pairs > 0) + (pairs == 0) / 2).mean((1, 2)))
    np.testing.assert_allclose(several_sets.attack_auc(seen + 1000, unseen), 1)
    own, guess = several_sets.attack(1, rng.normal(3, 1, (4, 50)), rng.normal(0, 1, (8, 50)))
    assert own.min() > 0.9 and 0.4 < guess < 0.6


def test_every_forget_set_is_judged_by_the_oracles_that_did_not_see_it(monkeypatch, tmp_path):
    """Models that say of each image whether they were trained on it: 1, 0, or -1 where nobody is."""
    config = dataclasses.replace(smoke(Config()), forget_sets=3, cache=tmp_path)
    setting = capacity.prepare_setting(config)
    train = np.asarray(setting.data.train.images)
    forget = np.zeros((3, len(train)), bool)
    for index, rows in enumerate(np.split(np.random.default_rng(0).permutation(len(train))[:36], 3)):
        forget[index, rows] = True

    def pool(config, setting, problem, masks, role, members):
        masks = np.broadcast_to(masks, (members, len(train)))
        return SimpleNamespace(variables=Variables({"seen": masks.astype(np.float32)}, {}))

    def predict(model, variables, images, strategy):
        alike = (np.asarray(images)[:, None] == train[None]).reshape(len(images), len(train), -1).all(2)
        row = np.where(alike.any(1), alike.argmax(1), -1)
        seen = np.pad(variables.params["seen"], ((0, 0), (0, 1)), constant_values=-1)
        return np.repeat(seen[:, row, None], 10, axis=2)

    monkeypatch.setattr(several_sets, "pool", pool)
    monkeypatch.setattr(several_sets, "predict", predict)
    found = several_sets.train_and_predict(config, setting, forget, {})
    assert found["oracle/forget"].shape == (3, 2 * config.members, 12, 10)
    np.testing.assert_array_equal(found["oracle/forget"], 0)
    for kind, split, expected in (
        ("original", "forget", 1),
        ("original", "retain", 1),
        ("oracle", "retain", 1),
        ("oracle", "test", -1),
    ):
        np.testing.assert_array_equal(found[f"{kind}/{split}"], expected)
    for labels, mask in zip(found["forget_labels"], forget, strict=True):
        np.testing.assert_array_equal(labels, np.asarray(setting.data.train.labels)[mask])


def logits_of(models, examples, shift, seed):
    found = np.random.default_rng(seed).normal(size=(models, examples, 3))
    found[..., 0] += shift
    return found


def test_a_standing_is_what_the_main_study_says_of_the_same_models():
    labels = np.zeros(12, int)
    oracles, own = (Cube(*(logits_of(n, 12, s, i) for i in seeds)) for n, s, seeds in ((12, 0, (1, 2, 3)), (6, 2, (4, 5, 6))))
    yardstick = reference(oracles, Labels(labels, labels, labels), 6, splits=30, seed=3)
    expected = {(each.metric, each.split): each for each in score(own, yardstick).scores}
    config = dataclasses.replace(Config(), seed=3)
    config = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, splits=30))
    for name, read, compare in (
        ("js_divergence", probabilities, capacity.mean_divergence),
        ("klom", lambda logits: scaled_logits(logits, labels), capacity.mean_klom),
    ):
        parts, null = capacity.compare_models(config, compare, read(own.forget), read(oracles.forget))
        theirs = expected[name, "forget"]
        assert parts.mean() == pytest.approx(theirs.value)
        assert null.mean == pytest.approx(theirs.null.mean, rel=0.01)  # its sd has another unit, see compare_models
    right = 100.0 * (own.forget.argmax(-1) == 0), 100.0 * (oracles.forget.argmax(-1) == 0)
    parts, null = capacity.compare_models(config, capacity.mean_difference, *right)
    theirs = expected["accuracy", "forget"]
    assert null.sd * np.sqrt(0.75) == pytest.approx(theirs.null.sd)  # 1.5 S²/n and 2 S²/n
    halves = [right[1][half].mean() for half in yardstick.halves[:4].reshape(-1, 6)]
    np.testing.assert_allclose(parts, right[0].mean(1) - np.mean(halves))


def test_models_that_diverged_are_left_out_with_what_was_made_of_them():
    rng = np.random.default_rng(0)
    arrays = {f"{kind}/{split}": rng.normal(size=(2, n, 5, 3)) for kind, n in SIZES.items() for split in report.SPLITS}
    arrays |= {f"{split}_labels": np.zeros(5, int) for split in ("retain", "test")} | {"forget_labels": np.zeros((2, 5), int)}
    arrays["original/test"][:, 1] = np.nan
    arrays["scrub/forget"][1, 2] = np.inf
    arrays["oracle/retain"][1, 0] = np.nan
    found = several_sets.group_answers(arrays)
    counts = {kind: [len(each.phi) for each in found[kind, "forget"]] for kind in SIZES}
    assert counts == {"original": [3, 3], "oracle": [8, 7], "scrub": [2, 2]}
    kept = arrays["scrub/test"][1][[0, 3]]
    np.testing.assert_allclose(found["scrub", "test"][1].phi, scaled_logits(kept, np.zeros(5, int)))


SIZES = {"original": 4, "oracle": 8, "scrub": 4}


def a_setting(number, nothing, scrub, null_sd=0.01):
    intervals = {measure: Interval(float(number), number - 1.0, number + 1.0) for measure in report.MEASURES}
    counts = {"original": report.Unfitted(6, 1, 2), "oracle": report.Unfitted(36, 3, 4)}
    costs = [
        report.Cost(report.ALL, name, *report.MAIN, 0.1 + left, 0.1, 0.2, 0.1, null_sd, 6)
        for name, left in (("original", nothing), ("scrub", scrub))
    ]
    return report.Setting("width", str(number), 10, intervals, costs, {}, counts, {})


def compared(name, rows):
    """A setting at a place on its axis whose every measure is made of these rows."""
    return a_setting(0, 0.1, 0.1)._replace(value=name, parts=dict.fromkeys(report.DIFFERENCES, np.array(rows, float)))


def test_one_setting_minus_another_is_paired_by_original_and_forget_set():
    nan = math.nan
    narrow = [[1, 5], [4, 9], [2, 2]]
    row = capacity.subtract(compared("8", [[3, 8], [6, 12], [4, 5]]), compared("4", narrow), "memorisation")
    assert row[:4] == ("memorisation", "width 8", "width 4", 2.5) and row.sets == [2, 3]
    assert row[4:6] == pytest.approx((2.5 - 12.7062 * 0.5, 2.5 + 12.7062 * 0.5), abs=1e-3)  # of two sets: t with one degree
    same = capacity.subtract(compared("8", np.array(narrow) + 2), compared("4", narrow), "memorisation")
    assert same[3:6] == pytest.approx((2, 2, 2))  # originals differ from each other, and not in what is gained
    shared = capacity.subtract(compared("8", [[3, 7], [nan, nan], [4, 4]]), compared("4", narrow), "memorisation")
    assert shared[3:6] == pytest.approx((2, 2, 2)) and shared.sets == [2, 2]
    of_test = capacity.subtract(compared("8", [[3], [5], [7]]), compared("4", [[1], [2], [3]]), "test_error")
    assert of_test.value == 3 and of_test.low < 2 and of_test.sets == []
    assert capacity.subtract(compared("8", [[nan, nan]]), compared("4", [[1, 2]]), "left") is None


def test_a_setting_is_compared_with_those_before_it_on_its_axis_and_with_the_base():
    base, other, last = (a_setting(number, 0.1, 0.1)._replace(parts=compared("", [[number]] * 3).parts) for number in range(3))
    found = [base._replace(axis="base", value="")]
    found += [other._replace(value="2"), base._replace(value="4"), last._replace(value="8"), last._replace(axis="epochs")]
    rows = [row for row in capacity.differences(found) if row.measure == "left"]
    assert [(row.setting, row.minus, row.value) for row in rows] == [
        ("width 4", "width 2", -1),
        ("width 8", "width 2", 1),
        ("width 8", "width 4", 2),
        ("epochs 2", "base", 2),
    ]
    columns, cells = report.differences(drawn(found)._replace(differences=rows))
    assert columns == ["measure", "setting", "minus", "value", "low", "high"]
    assert cells[1] == ["left by doing nothing, bits", "width 8", "width 2", 1, 1, 1]


def test_originals_that_diverged_are_nowhere():
    found = capacity.place(np.array([[1, 2], [3, 4]]), np.array([False, True, False, True, True]))
    np.testing.assert_array_equal(found, [[np.nan] * 2, [1, 2], [np.nan] * 2, [3, 4], [np.nan] * 2])
    np.testing.assert_array_equal(capacity.place(np.array([[1, 2]]), np.array([True, True])), [[1, 2]])


def test_networks_that_did_not_train_are_counted():
    labels = np.zeros(200, int)

    def right_on(*counts):
        logits = np.zeros((2, len(counts) // 2, 200, 2))
        for place, count in zip(np.ndindex(logits.shape[:2]), counts, strict=True):
            logits[*place, count:, 1] = 1
        return logits

    originals = right_on(200, 198, 197, 179, 200, 198, 197, 179)  # 100, 99, 98.5 and 89.5%, the same of both sets
    oracles = right_on(180, 200, 100, 0, 199, 200)
    oracles[0, 1, 7] = np.nan
    arrays = {"original/retain": originals, "oracle/retain": oracles, "retain_labels": labels}
    assert capacity.count_unfitted(arrays) == {"original": (4, 1, 2), "oracle": (6, 3, 4)}
    columns, rows = report.overview(drawn([a_setting(1, 0.1, 0.1)]))
    told = dict(zip(columns, rows[0], strict=True))
    assert [told[f"oracles{end}"] for end in ("", "_below_90", "_below_99")] == [36, 3, 4] and told["originals_below_90"] == 1
    assert "| 1 (2) of 6; 3 (4) of 36 |" in report.summary(drawn([a_setting(1, 0.1, 0.1)]))


def test_the_distance_of_mean_predictions_is_without_what_chance_adds():
    own, oracles = np.array([[[1.0, 0]], [[0.6, 0.4]]]), np.array([[[0.2, 0.8]], [[0.2, 0.8]], [[0.5, 0.5]]])
    chance = 2 * (0.08 / 2 + 0.03 / 3)
    assert capacity.mean_distance(own, oracles) == pytest.approx(2 * 0.5**2 - chance)
    rng = np.random.default_rng(0)
    draws = [[rng.dirichlet(weights, (count, 1)) for weights, count in (((2, 1, 1), 3), ((1, 2, 1), 4))] for _ in range(4000)]
    assert np.mean([capacity.mean_distance(*each) for each in draws]) == pytest.approx(2 * 0.25**2, abs=0.01)


def test_correlations_are_over_settings_that_differ_and_shares_over_those_where_something_shows():
    left = [0.1, 0.3, 0.2, 0.01, 0.5, 0.6]
    found = [a_setting(number, value, value**2) for number, value in enumerate(left)]
    rows = capacity.correlate([found[0], found[0], *found[1:]], ["scrub"])
    by_name = {(row.method, row.left): row for row in rows if row.measure == "memorisation"}
    assert by_name["original", "excess"].settings == by_name["original", "z"].settings == 6
    expected = rank_agreement(np.stack([np.arange(6), left], axis=1)).correlation[0, 1]
    for name in (("original", "excess"), ("original", "z"), ("scrub", "excess")):
        assert by_name[name].value == pytest.approx(expected)
    assert by_name["scrub", "share"].settings == 5 and ("original", "share") not in by_name
    assert found[1].share("scrub") == pytest.approx(0.3)
    assert found[1].excess("original").z_interval == pytest.approx((30, 0, 10))
    of_sets = [
        report.Cost(name, method, *report.MAIN, 0.1 + left, 0.1, 0.2, 0.1, 0.01, 6)
        for name, method, left in (("a", "original", 0.2), ("a", "scrub", 0.1), ("b", "original", 0.1), ("b", "scrub", 0.3))
    ]
    assert found[1]._replace(costs=[*found[1].costs, *of_sets]).shares("scrub") == pytest.approx([0.5, 3.0])
    unsure = a_setting(0, 0.1, 0.1, null_sd=0.0)
    assert not unsure.has("scrub") and math.isnan(unsure.excess("scrub").z)


def test_a_crop_of_a_small_image_moves_it_by_an_eighth_of_its_side():
    assert augmentation("none", (8, 8, 1)) is None
    images = jnp.broadcast_to(jnp.arange(8.0)[None, None, :, None], (200, 8, 8, 1))
    cut = np.asarray(augmentation("crop", (8, 8, 1))(jax.random.key(0), images))
    assert set(np.unique(cut[:, 0, 4, 0])) == {3.0, 4.0, 5.0}


def test_settings_are_what_their_axes_say():
    variants = {(axis, value): own for axis, value, own in Config().variants()}
    assert variants["base", ""] == variants["width", "4"] == variants["depth", "8"] == variants["epochs", "30"] == Config()
    assert variants["depth", "20"].model == "resnet20" and variants["width", "16"].width == 16
    assert variants["weight decay", "0.005"].train == dataclasses.replace(Train(epochs=30), weight_decay=0.005)
    assert variants["augmentation", "crop"].augmentation == "crop" and variants["label noise", "0"].label_noise == 0
    assert [axis for axis, _, _ in smoke(Config()).variants()] == ["base", "width", "width"]


@pytest.mark.parametrize(
    ("changed", "option"),
    [
        ({"members": 2}, "--members"),
        ({"members": "auto"}, "--members"),
        ({"forget_sets": 1}, "--forget-sets"),
        ({"methods": ("retrain",)}, "--methods"),
        ({"methods": ("sisa",)}, "--methods"),
        ({"widths": (4, "x")}, "--widths"),
        ({"depths": (8, 9)}, "--depths"),
        ({"depths": (2,)}, "--depths"),
        ({"widths": (0,)}, "--widths"),
        ({"widths": (0, 8)}, "--widths"),
        ({"label_noises": (0.0, float("nan"))}, "--label-noises"),
        ({"weight_decays": (-1.0,)}, "--weight-decays"),
        ({"augmentations": ("rotate",)}, "--augmentations"),
    ],
)
def test_a_mistake_names_its_option(changed, option):
    with pytest.raises(ArgumentError) as raised:
        dataclasses.replace(Config(), **changed).check()
    assert raised.value.argument == option


def drawn(found):
    return report.Results("some", ["scrub"], found, [], [])


def test_titles_and_ticks_of_narrow_columns_stay_apart():
    found = [a_setting(number, 0.1, 0.2) for number in range(6)]
    axes = {"depth": "8 14 20 32 44 56", "width": "2 4 8 16 32 64", "epochs": "5 30 90", "weight decay": "0.0005 0.005"}
    axes |= {"augmentation": "none crop", "label noise": "0 0.1 0.2"}
    settings = [found[0]._replace(axis=axis, value=value) for axis, values in axes.items() for value in values.split()]
    figure = report.trends(drawn([found[0], *settings]))
    figure.canvas.draw()
    panels = figure.axes
    for texts in (
        [panel.title for panel in panels if panel.get_title()],
        [tick for panel in panels[-len(axes) :] for tick in panel.get_xticklabels()],
    ):
        boxes = [text.get_window_extent() for text in texts]
        assert len(boxes) in (len(axes), len(settings))
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


@pytest.mark.parametrize(("smallest", "power"), [(1e-5, "-6"), (1e-9, "-10"), (0.0, "-14")])
def test_losses_are_shown_as_far_down_as_they_go_and_clipped_where_they_are_0(smallest, power):
    losses = np.append(np.geomspace(1e-5, 1, 90), np.full(10, smallest))
    found = {(kind, split): losses for kind in ("original", "oracle") for split in report.SPLITS}
    figure = report.glance(drawn([a_setting(1, 0.1, 0.1)._replace(losses=found)] * 2))
    assert f"clipped at $10^{{{power}}}$" in figure.get_supxlabel()
    shares = figure.axes[0].patches[0].get_data()
    assert shares.edges[0] == int(power)
    assert np.count_nonzero(shares.values) > 20 and np.isfinite(shares.values).all()


def test_all_of_an_error_curve_is_inside_its_panel():
    found = [a_setting(1, 0.1, 0.1)._replace(axis=axis) for axis in ("base", "width", "epochs")]
    found[2].intervals["train_accuracy"] = found[2].intervals["test_accuracy"] = Interval(20.0, 15.0, 25.0)
    found[1].intervals["train_accuracy"] = found[1].intervals["test_accuracy"] = Interval(99.0, 98.0, 100.0)
    figure = report.interpolation(drawn(found))
    assert figure.axes[0].get_ylim()[0] == 0 and figure.axes[0].get_ylim()[1] > 85
