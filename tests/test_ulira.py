"""The study `ulira` from end to end, tiny; and what it shows people."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest

from unlearn_jax.bench.ulira import report as membership
from unlearn_jax.bench.ulira import study as ulira
from unlearn_jax.bench.ulira.options import Config, smoke
from unlearn_jax.data.sources import digits
from unlearn_jax.errors import ArgumentError
from unlearn_jax.metrics import lira, memorisation, scaled_logits, u_lira
from unlearn_jax.metrics.verdict import is_inside
from unlearn_jax.report import leaderboard
from unlearn_jax.report.rows import Row, read_results
from unlearn_jax.runs import open_run

METHODS = ("original", "retrain", "gradient_ascent")
MEMBERS, TARGETS = 8, 60
HYPER = ("*.epochs=1", "gradient_ascent.learning_rate=10.0", "*.learning_rate=1e30")
MEASURES = ("auc", "balanced_accuracy", "tpr_at_1", "tpr_at_0_1")


def execute(out, cache, methods=METHODS, **options):
    config = dataclasses.replace(smoke(Config()), methods=tuple(methods), cache=cache, out=out, **options)
    config.check()
    ulira.run(config, open_run(out, config.recorded(), extendable=config.immaterial | config.extendable))
    return config


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """A run of the smoke variant; ascent at a rate at which it forgets more than it should."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    execute(out, cache, hyper=HYPER)
    return out


def npz(path):
    with np.load(path) as arrays:
        return dict(arrays)


def rows_in(out):
    return {(row.method, row.metric, row.split): row for row in read_results(out / "results.csv")}


def test_the_run_folder_holds_what_scripts_expect(finished):
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert names == {
        *("config.json", "hyperparameters.json", "results.csv", "results.json", "summary.md", "summary.tex", "memorisation.csv"),
        *(f"figures/{name}.{kind}" for name in ("roc", "auc") for kind in ("svg", "png")),
        *(f"logits/random-0/{name}.npz" for name in (*METHODS, "oracle", "labels")),
        "forget_sets/random-0.txt",
    }
    assert all(method in (finished / "summary.md").read_text() for method in METHODS)
    assert json.loads((finished / "results.json").read_text())["diverged"] == {f"random-0/{name}": [] for name in METHODS}


def test_each_target_is_in_half_of_the_members_and_each_member_holds_half_of_the_targets(finished):
    labels = npz(finished / "logits/random-0/labels.npz")
    trained_on = labels["trained_on"]
    assert trained_on.shape == (MEMBERS, TARGETS)
    assert (trained_on.sum(1) == TARGETS // 2).all()
    for half in np.split(trained_on, 2):
        assert (half.sum(0) == MEMBERS // 4).all()
    listed = [int(line) for line in (finished / "forget_sets/random-0.txt").read_text().split()]
    assert listed == labels["rows"].tolist()


def test_results_are_the_attacks_on_the_saved_logits(finished):
    labels, rows = npz(finished / "logits/random-0/labels.npz"), rows_in(finished)
    phi = {
        name: scaled_logits(npz(finished / f"logits/random-0/{name}.npz")["targets"], labels["targets"])
        for name in (*METHODS, "oracle")
    }
    trained_on, retrained = labels["trained_on"], phi["oracle"][:MEMBERS]
    assert len(phi["oracle"]) == 2 * MEMBERS
    for shared, word in ((False, ""), (True, "_shared")):
        expected = {
            ("original", f"lira{word}"): lira(phi["original"], trained_on, shared_variance=shared),
            ("original", f"u_lira_retrained{word}"): u_lira(phi["original"], retrained, trained_on, shared_variance=shared),
        }
        for name in METHODS[1:]:
            expected |= {
                (name, f"u_lira{word}"): u_lira(phi[name], phi[name], trained_on, shared_variance=shared),
                (name, f"u_lira_retrained{word}"): u_lira(phi[name], retrained, trained_on, shared_variance=shared),
            }
        for (name, metric), attack in expected.items():
            for measure in MEASURES:
                found, interval = rows[name, f"{metric}_{measure}", "all"], getattr(attack, measure)
                got = [np.nan if cell is None else cell for cell in (found.value, found.value_low, found.value_high)]
                np.testing.assert_allclose(got, interval)


def test_every_score_has_its_null_and_what_cannot_be_resolved_is_empty(finished):
    rows = rows_in(finished)
    metrics = {metric for _, metric, _ in rows}
    forms = [f"{form}{word}" for form in ("lira", "u_lira", "u_lira_retrained") for word in ("", "_shared")]
    assert metrics == {f"{form}_{measure}" for form in forms for measure in MEASURES} | {"accuracy", "seconds"}
    for (_, metric, split), row in rows.items():
        assert (row.n_members, row.n_oracles, row.forget_set) == (MEMBERS, 2 * MEMBERS, "random-0")
        if metric == "seconds":
            assert row.null_mean is None and row.value >= 0
        elif metric.endswith("tpr_at_0_1"):  # 240 scores that never saw it
            assert row.value is None and row.null_mean is None
        elif metric.endswith("_auc") and split == "all":
            assert row.value_low <= row.value <= row.value_high
            assert row.z == pytest.approx((row.value - row.null_mean) / row.null_sd)
        elif metric == "accuracy":
            assert split in ("all", "low", "high", "test") and 0 <= row.value <= 100
    nulls = {(row.null_mean, row.null_sd) for (_, metric, split), row in rows.items() if (metric, split) == ("u_lira_auc", "all")}
    assert len(nulls) == 1


def test_what_was_over_forgotten_is_seen_and_what_was_retrained_is_not(finished):
    rows = rows_in(finished)
    assert rows["gradient_ascent", "u_lira_retrained_shared_auc", "all"].z > 3
    assert abs(rows["retrain", "u_lira_retrained_shared_auc", "all"].z) < 3
    assert rows["gradient_ascent", "accuracy", "all"].value < rows["retrain", "accuracy", "all"].value


def test_memorisation_is_that_of_the_originals_and_divides_the_other_halfs_scores(finished):
    labels, original = (npz(finished / f"logits/random-0/{name}.npz") for name in ("labels", "original"))
    correct, trained_on = original["targets"].argmax(-1) == labels["targets"], labels["trained_on"]
    with (finished / "memorisation.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    column = {name: np.array([float(line[name]) for line in table]) for name in table[0]}
    published, (train, _) = [int(row) for row in (finished / "forget_sets/random-0.txt").read_text().split()], digits()
    np.testing.assert_array_equal(column["row"], published)
    np.testing.assert_array_equal(column["row"], labels["rows"])
    np.testing.assert_array_equal(column["clean_label"], train.labels[published])
    found = memorisation(correct, trained_on)
    np.testing.assert_allclose(column["memorisation"], found.score)
    np.testing.assert_allclose(column["standard_error"], found.error)
    first, second = (memorisation(c, t).score for c, t in zip(np.split(correct, 2), np.split(trained_on, 2), strict=True))
    np.testing.assert_allclose(column["by_first_half"], first)
    high = np.stack([second] * 4 + [first] * 4) >= 0.25
    assert high.any()
    attack = lira(scaled_logits(original["targets"], labels["targets"]), trained_on, judged=high)
    assert rows_in(finished)["original", "lira_auc", "high"].value == pytest.approx(attack.auc.value)
    assert set(METHODS) <= set(column)


def test_a_run_is_taken_up_again_and_extended_by_a_method_that_diverges(finished, cache, capfd):
    before = rows_in(finished)
    written = (finished / "logits/random-0/gradient_ascent.npz").read_bytes()
    execute(finished, cache, (*METHODS, "finetune"), hyper=HYPER)
    assert "compiling: 1 of 1 methods" in capfd.readouterr().err
    assert (finished / "logits/random-0/gradient_ascent.npz").read_bytes() == written
    assert len(list((cache / "pools").iterdir())) == 3
    after = rows_in(finished)
    assert {key: row for key, row in after.items() if key[0] != "finetune"} == before
    assert [key for key in after if key[0] == "finetune"] == [("finetune", "seconds", "")]
    assert f"finetune: {MEMBERS} of {MEMBERS} members diverged; never marked" in (finished / "summary.md").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"members": 10}, "--members 10: expected a multiple of 4"),
        ({"memorised": 2.0}, "--memorised 2.0: "),
    ],
)
def test_what_cannot_be_meant_is_one_line(options, said):
    with pytest.raises(ArgumentError, match=re.escape(said)):
        Config(**options).check()


@pytest.mark.parametrize("rows", [9, 10])
def test_an_odd_number_of_targets_loses_its_last(rows):
    mask = np.arange(20) < rows
    even = ulira.drop_odd_row(mask)
    assert even.sum() == rows - rows % 2 and (even <= mask).all() and even[0]


# What a person sees


def a_row(method, metric, split, value, z, n=16):
    null = (0.5, 0.01, 0.48, 0.52)
    about = ("ulira", "digits", "resnet8", "random-0", method, "F+R", metric, split)
    return Row(*about, value, value - 0.01, value + 0.01, *null, z, n, 2 * n, 1.5)


def rows_of(lost=0, **z):
    """Rows of methods whose AUC on all targets is this far from the null, with the verdict of a band of 2.5."""
    return [
        a_row(
            *(method, f"{'lira' if (method, side) == ('original', 'u_lira') else side}_auc", split, 0.5 + 0.01 * size, size),
            n=16 - lost,
        )._replace(inside=is_inside([abs(size)], 2.5, 16 - lost, lost))
        for method, size in z.items()
        for side in membership.SIDES
        for split in membership.SPLITS
    ]


def test_the_table_has_the_null_first_then_references_then_the_most_exposed():
    board = membership.arrange(rows_of(scrub=4.0, original=20.0, retrain=0.5, ssd=18.0, salun=2.0), 2.5)
    assert [line.method for line in board.lines] == ["perfect", "original", "retrain", "ssd", "scrub", "salun"]
    assert [line.method for line in board.lines if line.marked] == ["retrain", "salun"]
    cells = [dict(zip(board.headings, line.cells, strict=True)) for line in board.lines]
    assert cells[0]["AUC"] == "0.500 ± 0.010"
    assert (cells[3]["AUC"], cells[3]["z"], cells[3]["mem. R"], cells[3]["s/model"]) == ("0.680", "+18.0", "0.680", "1.50")
    assert leaderboard.markdown(board).count("\n|") == 1 + len(board.lines)


def test_a_method_that_lost_members_is_not_marked():
    rows = rows_of(retrain=0.5) + rows_of(lost=1, salun=0.5)
    board = membership.arrange(rows, 2.5)
    assert [line.method for line in board.lines if line.marked] == ["retrain"]
    assert any("salun: 1 of 16 members diverged" in note for note in board.caption)


def test_figures_show_every_method_and_say_where_there_is_too_little():
    methods = [f"method_{number}" for number in range(20)]
    curve, null = np.linspace(0.01, 1, 11), np.stack([np.linspace(0, 0.9, 11), np.linspace(0.1, 1, 11)])
    curves = {name: curve for name in ("original", *methods)}
    empty = {name: np.full(11, np.nan) for name in curves}
    panels = {("u_lira", "all"): (curves, null), ("u_lira", "high"): (empty, np.full((2, 11), np.nan))}
    figure = membership.roc_curves(panels, np.logspace(-5, 0, 11), "title")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["original (LiRA)", *methods]
    looks = {(handle.get_color(), handle.get_linestyle(), handle.get_linewidth()) for handle in legend.legend_handles}
    assert len(looks) == 21
    full, surviving = figure.axes
    assert [text.get_text() for text in surviving.texts] == ["too few scores"] and not full.texts
    bars = membership.auc_by_memorisation(rows_of(original=20.0, scrub=4.0), "title")
    assert [label.get_text() for label in bars.axes[0].get_yticklabels()] == ["original (LiRA)", "scrub"]
