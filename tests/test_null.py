"""The null, and the verdict that rests on it."""

import gc
import threading
import weakref
from concurrent.futures import wait

import jax
import numpy as np
import pytest

from unlearn_jax import metrics
from unlearn_jax.metrics import evaluation as evaluation_module
from unlearn_jax.metrics import power, verdict
from unlearn_jax.metrics.views import views_of
from unlearn_jax.types import Cube, Labels

CLASSES = 4
RNG = np.random.default_rng(0)
LABELS = Labels(*(RNG.integers(0, CLASSES, size) for size in (20, 30, 30)))
MEANS = [RNG.normal(size=(len(labels), CLASSES)) + 2 * np.eye(CLASSES)[labels] for labels in LABELS]
N = 8


def pool(members, seed, shift=0.0):
    """Models whose logits on an example are Gaussian; `shift` raises the label's logit on the forget set."""
    rng = np.random.default_rng(seed)
    logits = [mean + rng.normal(size=(members, *mean.shape)) for mean in MEANS]
    logits[0] += shift * np.eye(CLASSES)[LABELS.forget]
    return Cube(*logits)


@pytest.fixture(scope="module")
def reference():
    return metrics.reference(pool(2 * N, 1), LABELS, N, splits=40)


def of(evaluation):
    return {(score.metric, score.split): score for score in evaluation.scores}


def test_every_metric_is_there_with_its_null(reference):
    evaluation = metrics.score(pool(N, 2), reference)
    features = ("", "_correctness", "_entropy", "_m_entropy", "_prob")
    assert set(of(evaluation)) == {
        *((metric, split) for metric in ("klom", "klom_p95", "example_t", "outlier_distance") for split in Cube._fields),
        *((metric, split) for metric in ("accuracy", "mean_margin") for split in Cube._fields),
        *((metric, split) for metric in ("kl_to_oracle", "activation_distance", "js_divergence") for split in ("forget", "test")),
        *((f"svc_mia{feature}", "forget") for feature in features),
        ("logistic_mia", "forget"),
        ("forgetting_quality", "forget"),
        *((metric, "all") for metric in ("tow", "tow_mia", "competition_score")),
        ("average_gap", "all"),
    }
    for score in evaluation.scores:
        assert score.low <= score.value <= score.high
        assert score.null.low <= score.null.mean <= score.null.high
        assert score.z == pytest.approx((score.value - score.null.mean) / score.null.sd)


def test_a_second_pool_of_oracles_is_inside_and_a_shifted_one_is_not(reference):
    second, shifted = metrics.score(pool(N, 2), reference), metrics.score(pool(N, 2, shift=3), reference)
    assert second.inside and second.largest_z <= second.band
    assert not shifted.inside
    assert of(shifted)["klom", "forget"].z > 3
    assert of(shifted)["klom", "test"] == of(second)["klom", "test"]


def test_per_model_metrics_are_centred_at_the_oracles_mean(reference):
    oracles = pool(2 * N, 1)
    forget = metrics.accuracies(oracles, LABELS).forget
    null = reference.nulls["accuracy", "forget"]
    assert null.mean == pytest.approx(forget.mean())
    assert null.sd == pytest.approx(forget.std(ddof=1) * np.sqrt(1.5 / N), rel=0.4)  # n models against 2n
    unlearned = pool(N, 2)
    assert of(metrics.score(unlearned, reference))["accuracy", "forget"].value == pytest.approx(
        metrics.accuracies(unlearned, LABELS).forget.mean()
    )


def test_the_same_seed_gives_the_same_reference(reference):
    again = metrics.reference(pool(2 * N, 1), LABELS, N, splits=40)
    assert again.nulls == reference.nulls and again.band == reference.band


def test_threads_change_no_digit(reference, monkeypatch):
    """Small pools are compared without them, see `evaluation.LARGE`."""
    monkeypatch.setattr(evaluation_module, "LARGE", 0)
    threaded = metrics.reference(pool(2 * N, 1), LABELS, N, splits=40)
    assert {name: draws.tolist() for name, draws in threaded.draws.items()} == {
        name: draws.tolist() for name, draws in reference.draws.items()
    }
    assert metrics.score(pool(N, 2), threaded) == metrics.score(pool(N, 2), reference)


def test_attacks_that_other_threads_began_with_change_no_digit(reference, monkeypatch):
    """Whether they are done when they are asked for, have not begun, or were stopped half way by the end of the context."""
    pools = [pool(N, seed) for seed in (2, 3)]
    alone = [metrics.score(cube, reference) for cube in pools]
    attacked, begun, stopped = [], threading.Event(), threading.Event()

    def attack(*arguments, **options):
        attacked.append(threading.current_thread() is threading.main_thread() or threading.current_thread().name)
        begun.set()
        return metrics.svc_mia(*arguments, **options)

    def never_ends(*arguments, **options):
        begun.set()
        assert stopped.wait(60)
        return dict.fromkeys(metrics.svc_mia(*arguments, **options), 0.5)

    views = views_of(LABELS)
    monkeypatch.setattr("unlearn_jax.metrics.views.svc_mia", attack)
    with views.attacks_begun(pools) as ahead:
        done = [future for _, future in ahead.attacked.values()]
        wait(done)
        attacked.clear()
        kept = metrics.reference(pool(2 * N, 1), LABELS, N, splits=40, views=ahead)
        attacked.clear()
        assert [metrics.score(cube, kept) for cube in pools] == alone
        assert not attacked  # nothing again

    monkeypatch.setattr("os.cpu_count", lambda: 1)
    monkeypatch.setattr("unlearn_jax.metrics.views.svc_mia", never_ends)
    begun.clear()
    with views.attacks_begun(pools) as ahead:
        assert begun.wait(60)
        monkeypatch.setattr("unlearn_jax.metrics.views.svc_mia", metrics.svc_mia)
        other = metrics.reference(pool(2 * N, 1), LABELS, N, splits=40, views=ahead)
        assert metrics.score(pools[1], other) == alone[1]  # it had not begun, and is computed by who asks
        threading.Timer(0.2, stopped.set).start()
    assert metrics.score(pools[0], other) == alone[0]


def test_attacks_are_dropped_where_they_cannot_all_begin(monkeypatch):
    attacked, begun, go = [], threading.Event(), threading.Event()

    def attack(*arguments, **options):
        attacked.append(1)
        begun.set()
        assert go.wait(60)
        return metrics.svc_mia(*arguments, **options)

    def pools():
        yield pool(N, 2)
        assert begun.wait(60)
        threading.Timer(0.5, go.set).start()
        raise MemoryError

    monkeypatch.setattr("os.cpu_count", lambda: 1)
    monkeypatch.setattr("unlearn_jax.metrics.views.svc_mia", attack)
    with pytest.raises(MemoryError), views_of(LABELS).attacks_begun(pools()):
        pass
    assert len(attacked) < N


def test_a_reference_keeps_no_pool_whose_attacks_began_early():
    cube = pool(N, 2)
    held = weakref.ref(cube.forget)
    with views_of(LABELS).attacks_begun([cube]) as views:
        kept = metrics.reference(pool(2 * N, 1), LABELS, N, splits=5, views=views)
        metrics.score(cube, kept)
    del cube
    gc.collect()
    assert held() is None and kept.n == N


def test_views_are_those_of_the_reference():
    other = Labels(*(labels[::-1] for labels in LABELS))
    for views in (views_of(LABELS, seed=1), views_of(other), views_of(LABELS, rows=15)):
        with pytest.raises(ValueError, match=r"^views: of other labels, another seed or other rows"):
            metrics.reference(pool(2 * N, 1), LABELS, N, splits=40, views=views)


def test_against_all_oracles_a_perfect_method_falls_below_its_null():
    margins = metrics.margins(pool(48, 3).test, LABELS.test)
    unlearned = metrics.margins(pool(24, 4).test, LABELS.test)

    def mean_klom(u, o):
        return float(metrics.klom(u, o).mean())

    null = metrics.null(mean_klom, margins, 24, key=jax.random.key(0))
    against_as_many = np.mean([mean_klom(unlearned, margins[:24]), mean_klom(unlearned, margins[24:])])
    assert abs(against_as_many - null.mean) < 3 * null.sd
    assert mean_klom(unlearned, margins) < null.mean - 4 * null.sd


def test_null_of_a_known_statistic():
    values = np.random.default_rng(5).normal(size=400)
    null = metrics.null(lambda a, b: a.mean() - b.mean(), values, 50, splits=2000, key=jax.random.key(1))
    assert null.mean == pytest.approx(0, abs=0.02)
    assert null.sd == pytest.approx(np.sqrt(2 / 50), rel=0.1)
    assert (null.low, null.high) == (pytest.approx(-1.96 * null.sd, rel=0.15), pytest.approx(1.96 * null.sd, rel=0.15))


def test_halves_are_disjoint():
    metrics.null(lambda a, b: float(np.intersect1d(a, b).size and 1 / 0), np.arange(10.0), 5, splits=20, key=jax.random.key(2))


@pytest.mark.parametrize(("members", "n", "message"), [(7, 4, "needs 8 oracles"), (8, 1, "n: 1 found")])
def test_too_few_models(members, n, message):
    with pytest.raises(ValueError, match=message):
        metrics.reference(pool(members, 1), LABELS, n, splits=5)


def test_fewer_members_are_scored_at_their_own_number(reference):
    evaluation = metrics.score(pool(N - 2, 2), reference)
    assert reference.at(N - 2) is reference.at(N - 2) and reference.at(N) is reference
    assert of(evaluation)["klom", "forget"].null == reference.at(N - 2).nulls["klom", "forget"]
    assert reference.at(N - 2).nulls["klom", "forget"] != reference.nulls["klom", "forget"]
    with pytest.raises(ValueError, match="needs 18 oracles"):
        metrics.score(pool(N + 1, 2), reference)


def test_diverged_members_are_named(reference):
    unlearned = pool(N, 2)
    unlearned.test[3, 0, 0] = np.nan
    with pytest.raises(ValueError, match="members 3 "):
        metrics.score(unlearned, reference)


def test_a_null_without_spread_gives_no_z_but_a_verdict():
    def certain(members, seed, wrong=0):
        cube = pool(members, seed)
        cube.retain[...] += 50 * np.eye(CLASSES)[LABELS.retain]
        cube.retain[:wrong, 0] -= 200 * np.eye(CLASSES)[LABELS.retain[0]]
        return cube

    reference = metrics.reference(certain(2 * N, 1), LABELS, N, splits=40)
    assert reference.nulls["accuracy", "retain"] == metrics.Null(100, 0, 100, 100)
    right, all_wrong = (metrics.score(certain(N, 2, wrong), reference) for wrong in (0, N))
    for evaluation in (right, all_wrong):
        assert of(evaluation)["accuracy", "retain"].z is None
    assert np.isfinite(right.largest_z)
    assert all_wrong.largest_z == np.inf and not all_wrong.inside
    assert of(metrics.score(certain(N, 2, 1), reference))["accuracy", "retain"].evidence < 1.5  # one deviating member


def test_evidence_is_in_the_larger_of_both_spreads(reference):
    score = of(metrics.score(pool(N, 2), reference))["svc_mia", "forget"]
    off = score._replace(value=score.null.mean + 10 * score.null.sd)
    sure = off._replace(low=off.value - 1e-6, high=off.value + 1e-6)
    carried = off._replace(low=off.value - 4 * 3.92 * off.null.sd, high=off.value + 4 * 3.92 * off.null.sd)
    assert (sure.evidence, carried.evidence) == (pytest.approx(10), pytest.approx(10 / 8))
    constant = metrics.Null(score.null.mean, 0, score.null.mean, score.null.mean)
    assert sure._replace(null=constant, low=sure.value, high=sure.value).evidence == np.inf
    assert sure._replace(null=constant, value=score.null.mean).evidence == 0
    for metric, counted in (("svc_mia", False), ("tow_mia", False), ("average_gap", False), ("klom", True), ("accuracy", True)):
        assert (carried._replace(metric=metric).evidence == pytest.approx(10)) == counted


def test_a_pool_of_which_some_models_are_ruined_is_outside():
    """Its scores have large standard errors of their own, and must not hide behind them."""
    rng, n, examples = np.random.default_rng(0), 24, 60
    difficulty = rng.normal(size=examples) * 3 + 3

    def trained(members):  # on the forget set, the retain set and the test set
        cube = [rng.normal(size=(members, examples, 4)) * [1, 0.5, 0.5, 0.5] for _ in range(3)]
        for logits, easier in zip(cube, (0, 4, 1), strict=True):
            logits[..., 0] += difficulty + easier
        return Cube(*cube)

    reference = metrics.reference(trained(2 * n), Labels(*np.zeros((3, examples), int)), n, splits=40)
    assert metrics.score(trained(n), reference).inside
    for ruined in (4, n // 2):
        cube = trained(n)
        for logits in cube:
            logits[:ruined] = rng.normal(size=logits[:ruined].shape)
        assert not metrics.score(cube, reference).inside


def test_two_members_are_scored_with_unbounded_intervals():
    evaluation = metrics.score(pool(2, 2), metrics.reference(pool(4, 1), LABELS, 2, splits=10))
    assert of(evaluation)["klom", "forget"].low == -np.inf


# Several forget sets, and how many models it takes


def test_over_forget_sets_the_null_narrows_and_a_small_shift_becomes_visible():
    sets = [metrics.reference(pool(2 * N, 10 + i), LABELS, N, splits=40) for i in range(3)]

    def verdict(shift):
        each = [metrics.score(pool(N, 40 + i, shift), reference) for i, reference in enumerate(sets)]
        return each, metrics.pooled(each, sets)

    apart, together = verdict(0.35)
    assert any(each.inside for each in apart) and not together.inside
    name = "kl_to_oracle", "forget"
    values = [of(each)[name].value for each in apart]
    found = of(together)[name]
    assert found.value == pytest.approx(np.mean(values))
    assert found.null.sd == pytest.approx(np.mean([reference.nulls[name].sd for reference in sets]) / np.sqrt(3), rel=0.4)
    assert found.low < found.value < found.high
    assert found.high - found.low >= 0.5 * (max(values) - min(values)) / 2  # for other sets, not only these
    assert verdict(0.0)[1].inside


def test_over_one_forget_set_the_verdict_is_its_own(reference):
    alone = metrics.score(pool(N, 2), reference)
    pooled = metrics.pooled([alone], [reference])
    assert pooled.band == reference.band and pooled.largest_z == pytest.approx(alone.largest_z)
    for one, other in zip(alone.scores, pooled.scores, strict=True):
        assert (one.metric, one.split, one.value) == (other.metric, other.split, pytest.approx(other.value))


def test_a_method_that_lost_models_is_not_inside(reference):
    whole = metrics.score(pool(N, 2), reference)
    lost = whole._replace(lost=1)
    assert whole.inside is True and lost.inside is False and lost._replace(members=N - 1).inside is None
    over_sets = metrics.pooled([whole, lost], [reference, reference])
    assert over_sets.lost == 1 and over_sets.inside is False and metrics.pooled([whole, whole], [reference] * 2).inside is True


@pytest.mark.parametrize(
    ("evidences", "expected"), [([1.0, 3.0], True), ([3.1], False), ([np.nan, 1.0], False), ([1.0, np.nan], False), ([], False)]
)
def test_all_scores_have_to_be_inside(evidences, expected):
    assert verdict.is_inside(evidences, 3.0, 8) is expected and verdict.is_inside(evidences, 3.0, 7) is None
    assert verdict.is_inside(evidences, 3.0, 8, lost=1) is False


def test_parts_are_of_groups_of_originals_whatever_the_order(reference):
    cube, order = pool(N - 1, 2), np.random.default_rng(0).permutation(N - 1)
    groups = np.array([0, 0, 1, 1, 2, 4, 4])
    parts = of(metrics.score(cube, reference, groups))
    shuffled = of(metrics.score(Cube(*(logits[order] for logits in cube)), reference, groups[order]))
    for name, each in parts.items():
        assert each.parts == pytest.approx(shuffled[name].parts, nan_ok=True)
        assert np.isnan(each.parts).tolist() == [False, False, False, True, False, True, True, True]
    accuracy = metrics.accuracies(cube, LABELS).forget
    assert parts["accuracy", "forget"].parts[1] == pytest.approx(accuracy[2:4].mean())
    assert parts["accuracy", "forget"].members == pytest.approx(accuracy)
    assert np.nanmean(parts["klom", "forget"].parts) == pytest.approx(parts["klom", "forget"].value)


def test_the_power_curve_narrows_and_says_how_many_models_a_difference_takes():
    name = "accuracy", "forget"
    yardstick = metrics.reference(pool(32, 7), LABELS, 16, splits=50)
    curve = {each.models: each for each in metrics.power_curve(yardstick, (4, 8, 16)) if (each.metric, each.split) == name}
    sds = [curve[n].null.sd for n in (4, 8, 16)]
    np.testing.assert_allclose(np.array(sds[:-1]) / sds[1:], np.sqrt(2), rtol=0.4)
    assert curve[8].oracles == 16
    at = yardstick.at(8)
    assert curve[8].visible == pytest.approx((at.band + 0.8416) * at.nulls[name].sd, rel=1e-4)
    assert power.models_needed(at, name, curve[8].visible) == 8
    assert power.models_needed(at, name, curve[8].visible / 2) == 32


def test_a_visible_difference_is_seen_in_80_of_100_runs():
    rng = np.random.default_rng(0)
    yardstick = metrics.reference(pool(2 * N, 1), LABELS, N, splits=40)
    sd = yardstick.nulls["accuracy", "forget"].sd
    shifted = power.visible(yardstick, ("accuracy", "forget")) + sd * rng.normal(size=20_000)
    assert np.mean(np.abs(shifted) > yardstick.band * sd) == pytest.approx(power.POWER, abs=0.01)
