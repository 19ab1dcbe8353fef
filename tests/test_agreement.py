"""How far metrics agree: the rank correlation, its interval, the table and the picture."""

import csv
import inspect
import math

import numpy as np
import pytest
from drawn import cells
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from unlearn_jax.bench.agreement import cluster_order, metric_agreement, write_agreement
from unlearn_jax.metrics.agreement import rank_agreement, reliability
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import Row, deviations, short_name
from unlearn_jax.runs import Run

RNG = np.random.default_rng(0)
TIED = RNG.integers(0, 6, (14, 5)).astype(float)
TABLES = arrays(float, (9, 4), elements=st.integers(-3, 12).map(float))


def literal(a, b):
    """Each value's rank is 1 + how many are below + half of how many others are equal; then Pearson's formula."""

    def rank(values):
        return [1 + sum(other < own for other in values) + (sum(other == own for other in values) - 1) / 2 for own in values]

    x, y = rank(a), rank(b)
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((u - mean_x) * (v - mean_y) for u, v in zip(x, y, strict=True))
    return covariance / math.sqrt(sum((u - mean_x) ** 2 for u in x) * sum((v - mean_y) ** 2 for v in y))


def test_it_is_the_literal_formula_and_scipys_with_ties():
    found = rank_agreement(TIED).correlation
    expected = [[literal(a, b) for b in TIED.T] for a in TIED.T]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(found, spearmanr(TIED).statistic, atol=1e-12)
    ranked = rank_agreement(TIED)
    assert ranked.between(1, 3) == (ranked.correlation[1, 3], ranked.low[1, 3], ranked.high[1, 3])


@pytest.mark.parametrize("resamples", [10, 1000])
def test_the_same_order_is_1_and_the_reverse_is_minus_1_whatever_is_resampled(resamples):
    order = np.arange(14.0)
    found = rank_agreement(np.stack([order, np.exp(order), -(order**3)], axis=1), resamples)
    expected = [[1, 1, -1], [1, 1, -1], [-1, -1, 1]]
    for table in found:
        np.testing.assert_allclose(table, expected, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(TABLES)
def test_symmetric_bounded_and_1_with_itself(table):
    found = rank_agreement(table, 50)
    varied = np.ptp(table, axis=0) > 0
    np.testing.assert_array_equal(np.isnan(found.correlation), ~np.outer(varied, varied))
    for each in found:
        np.testing.assert_allclose(each, each.T)
        assert (np.abs(each[np.outer(varied, varied)]) <= 1).all()
    assert (found.low <= found.high).all()
    np.testing.assert_allclose(np.diagonal(found.correlation)[varied], 1)


@settings(max_examples=30, deadline=None)
@given(TABLES, st.permutations(range(4)))
def test_only_the_order_within_a_metric_counts(table, order):
    moved = np.stack([np.exp(table[:, 0]), 3 * table[:, 1] - 7, np.arctan(table[:, 2]), table[:, 3] ** 3], axis=1)
    found = rank_agreement(table, 20)
    for ours, theirs in zip(found, rank_agreement(moved, 20), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    permuted = rank_agreement(table[:, order], 20)
    np.testing.assert_allclose(permuted.low, found.low[np.ix_(order, order)], atol=1e-12)


def test_the_worst_may_be_infinite():
    table = RNG.normal(size=(14, 3))
    infinite = np.where(table == table.max(0), np.inf, table)
    np.testing.assert_array_equal(rank_agreement(infinite).correlation, rank_agreement(table).correlation)


def test_more_methods_narrow_the_interval_and_it_holds_the_truth():
    def table(methods, seed):
        common, own = np.random.default_rng(seed).normal(size=(2, methods, 2))
        return common[:, :1] + own

    few, many = (rank_agreement(table(methods, 1)) for methods in (14, 140))
    assert (many.high - many.low)[0, 1] < 0.5 * (few.high - few.low)[0, 1]
    truth = 6 / np.pi * np.arcsin(0.5 / 2)  # Spearman's of a Gaussian whose correlation is 1/2
    held = [found.low[0, 1] <= truth <= found.high[0, 1] for found in (rank_agreement(table(30, s), 200) for s in range(60))]
    assert np.mean(held) > 0.8


def test_fewer_than_five_methods_leave_everything_open():
    found = rank_agreement(np.arange(8.0).reshape(4, 2))
    np.testing.assert_allclose(found.correlation, 1)
    assert (found.low == -1).all() and (found.high == 1).all()
    assert np.isnan(rank_agreement(np.zeros((1, 3))).correlation).all()


def test_a_missing_value_is_refused():
    with pytest.raises(ValueError, match="badness: NaN found"):
        rank_agreement(np.array([[1.0, np.nan], [2.0, 3.0]]))


def row(method, metric, split, z, sd=0.5):
    null = (None,) * 5 if sd is None else (2.0, sd, 1.0, 3.0, z if sd else None)
    value = z if sd is None else 2.0 + z * sd if sd else 2.0 + z
    about = ("unlearning", "digits", "mlp", "random-0", method, "F", metric, split)
    deviation = None if sd is None else z if sd else np.copysign(np.inf, z) if z else 0.0
    return Row(*about, value, None, None, *null, 8, 16, 0.1, deviation)


def test_deviations_are_absolute():
    rows = [
        row("ours", "klom", "forget", -3.0),
        row("theirs", "klom", "forget", 0.0),
        row("ours", "accuracy", "retain", 1.0, sd=0.0),  # off a null without spread
        row("theirs", "accuracy", "retain", 0.0, sd=0.0),
        row("theirs", "tow", "all", 4.0),
        row("ours", "rte", "", 0.3, sd=None),
    ]
    methods, metrics, sizes = deviations(rows)
    assert methods == ("ours", "theirs")
    assert metrics == (("klom", "forget"), ("accuracy", "retain"), ("tow", "all"))
    np.testing.assert_array_equal(sizes, [[3, np.inf, np.nan], [0, 0, 4]])
    assert [short_name(metric) for metric in metrics] == ["klom F", "accuracy R", "tow"]
    assert deviations([]).sizes.shape == (0, 0)


def test_clustering_puts_groups_together():
    group = np.array([0, 1, 0, 1, 0, 1])
    correlation = np.where(group[:, None] == group, 0.9, -0.2) + 0.1 * np.eye(6)
    ordered = group[cluster_order(correlation)]
    assert (np.diff(ordered) != 0).sum() == 1
    assert sorted(cluster_order(np.full((4, 4), np.nan))) == [0, 1, 2, 3]
    assert cluster_order(np.ones((2, 2))).tolist() == [0, 1]


METRICS = (("klom", "forget"), ("accuracy", "test"), ("tow", "all"), ("constant", ""))


def test_the_table_has_a_row_for_each_pair(tmp_path):
    table = np.column_stack([RNG.normal(size=(14, 3)), np.zeros(14)])
    found = rank_agreement(table)
    write_agreement(Run(tmp_path), METRICS, *found, 14)
    rows = list(csv.DictReader((tmp_path / "agreement.csv").read_text().splitlines()))
    assert list(rows[0]) == ["metric_a", "metric_b", "spearman", "low", "high", "methods"]
    assert [(each["metric_a"], each["metric_b"]) for each in rows][:3] == [
        ("klom forget", "accuracy test"),
        ("klom forget", "tow all"),
        ("klom forget", "constant"),
    ]
    assert len(rows) == 6 and {each["methods"] for each in rows} == {"14"}
    assert float(rows[1]["spearman"]) == found.correlation[0, 2] and float(rows[1]["low"]) == found.low[0, 2]
    assert rows[2]["spearman"] == ""


def test_the_picture_greys_what_is_open_and_is_drawn_whatever_there_is(tmp_path):
    correlation = np.array([[1.0, 0.8, 0.1], [0.8, 1.0, -0.004], [0.1, -0.004, 1.0]])
    low = np.where(np.abs(correlation) < 0.5, -1.0, 0.5)
    figure = metric_agreement(METRICS[:3], correlation, low, np.ones((3, 3)), "title")
    written = cells(figure.axes[0])
    assert sorted(text for text, _ in written.values()) == sorted(["1.00"] * 3 + [".80", ".80", ".10", ".10", ".00", ".00"])
    open_ = {cell for cell, (_, colour) in written.items() if colour == "#777777"}
    assert {written[cell][0] for cell in open_} == {".10", ".00"}
    shown = figure.axes[0].images[0].get_array()
    assert {(y, x) for y in range(3) for x in range(3) if shown.mask[y, x]} == open_
    found = rank_agreement(np.zeros((3, 1)))
    save(metric_agreement(METRICS[:1], *found, "title"), Run(tmp_path), "of_one")
    assert (tmp_path / "figures/of_one.png").exists()


def test_a_score_repeats_as_far_as_its_halves_agree():
    truth, noise = RNG.normal(size=4000), RNG.normal(size=(4, 4000))
    halves = truth + noise[:2]  # as much noise as truth: half of the variance is shared
    once, whole = reliability(*halves)
    assert once == pytest.approx(np.corrcoef(*halves)[0, 1]) and once == pytest.approx(0.5, abs=0.05)
    means = [truth + noise[:2].mean(0), truth + noise[2:].mean(0)]  # of twice as many
    assert whole == pytest.approx(np.corrcoef(*means)[0, 1], abs=0.05)
    assert np.isnan(reliability(np.ones(3), np.arange(3.0))).all()
    with pytest.raises(ValueError, match=r"^first: shape \(3,\), expected \(1,\) as in second$"):
        inspect.unwrap(reliability)(np.arange(3.0), np.ones(1))  # without the tests' own check of shapes
    assert reliability(truth, -truth)[0] == pytest.approx(-1) and reliability(truth, -truth)[1] < -1e6
