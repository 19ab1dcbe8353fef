"""Cheats: what defines each, the blends that meet a score, the measures of wrongness, and the study from end to end."""

import csv
import itertools

import numpy as np
import pytest
from in_process import run_in_process
from scipy.stats import norm

from experiments.gaming import cheats as gaming
from experiments.gaming.options import Config
from experiments.gaming.report import Claim, Price, heat_map, price, write_summary
from unlearn_jax import metrics
from unlearn_jax.errors import ArgumentError
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import Row, read_results
from unlearn_jax.runs import Run
from unlearn_jax.types import Cube, Labels

MEMBERS, CLASSES = 8, 4
RNG = np.random.default_rng(0)
LABELS = Labels(*(RNG.integers(0, CLASSES, size) for size in (40, 60, 50)))
UNSEEN = [RNG.normal(size=(len(labels), CLASSES)) + 2 * np.eye(CLASSES)[labels] for labels in LABELS]


def models(members, seed, remembered=0.0):
    """Gaussian logits around what an unseen example gets; `remembered` raises the label's on the forget set."""
    rng = np.random.default_rng(seed)
    cube = Cube(*(mean + rng.normal(size=(members, *mean.shape)) for mean in UNSEEN))
    return cube._replace(forget=cube.forget + remembered * np.eye(CLASSES)[LABELS.forget])


ORIGINALS, RETRAINED, ORACLES = models(MEMBERS, 1, remembered=4), models(MEMBERS, 2), models(2 * MEMBERS, 3)
NEAREST = RNG.integers(0, 60, (40, 3))


def scores(cube):
    """What some metrics say; the study has all of them."""
    p = Cube(*map(metrics.probabilities, cube))
    parts = [list(zip(part, [labels] * MEMBERS, strict=False)) for part, labels in zip(p, LABELS, strict=True)]
    attacks = [metrics.svc_mia(retain, test, forget) for forget, retain, test in zip(*parts, strict=True)]
    shares = [values.mean() / 100 for values in metrics.accuracies(cube, LABELS)]
    expected = [values.mean() / 100 for values in metrics.accuracies(ORACLES, LABELS)]
    return {
        **{("accuracy", split): 100 * share for split, share in zip(Cube._fields, shares, strict=True)},
        ("svc_mia", "forget"): np.mean([each["confidence"] for each in attacks]),
        ("svc_mia_entropy", "forget"): np.mean([each["entropy"] for each in attacks]),
        ("kl_to_oracle", "forget"): metrics.kl_to_oracle(p.forget, metrics.probabilities(ORACLES.forget)).mean(),
        ("tow", "all"): metrics.tow(*shares, *expected),
    }


@pytest.fixture(scope="module")
def known():
    """With the scores of all tables, as the study gathers them."""
    published = {name: metrics.Null(value, 0.02 * abs(value), 0.0, 0.0) for name, value in scores(ORACLES).items()}
    blank = gaming.Known(ORIGINALS, LABELS, NEAREST, RETRAINED.forget, published, {})
    return blank._replace(scores={name: scores(answers(name, blank)) for name in gaming.TABLES})


def possible(known):
    return {name: cheat for name, cheat in gaming.CHEATS.items() if (cheat.retrained or 0) <= len(known.retrained)}


def answers(name, known, cheats=gaming.CHEATS, seed=0):
    return cheats[name].answer(np.random.default_rng(seed), known)


# Laws that all cheats obey


@pytest.mark.parametrize("name", possible(gaming.Known(ORIGINALS, LABELS, NEAREST, RETRAINED.forget, {}, {})))
def test_a_cheat_answers_for_every_member_and_leaves_what_it_was_given(name, known):
    before = [part.copy() for part in (*ORIGINALS, RETRAINED.forget)]
    cube = answers(name, known)
    assert [part.shape for part in cube] == [part.shape for part in ORIGINALS]
    assert all(np.isfinite(part).all() for part in cube)
    for part, old in zip((*ORIGINALS, RETRAINED.forget), before, strict=True):
        np.testing.assert_array_equal(part, old)
    for ours, again in zip(cube, answers(name, known), strict=True):
        np.testing.assert_array_equal(ours, again)
    if ("tow", "all") not in gaming.CHEATS[name].targets:
        assert cube.retain is ORIGINALS.retain and cube.test is ORIGINALS.test
    entry = gaming.CHEATS[name]
    assert entry.summary.endswith(".") and entry.needs


@pytest.mark.parametrize("name", [name for name, cheat in gaming.CHEATS.items() if 0 < (cheat.retrained or 0) <= MEMBERS])
def test_a_cheat_looks_at_as_many_retrained_models_as_it_says(name, known):
    count = gaming.CHEATS[name].retrained
    spoiled = RETRAINED.forget.copy()
    spoiled[count:] = np.nan
    np.testing.assert_array_equal(answers(name, known._replace(retrained=spoiled)).forget, answers(name, known).forget)
    spoiled[count - 1 :] = 0
    assert not np.array_equal(answers(name, known._replace(retrained=spoiled)).forget, answers(name, known).forget)


# What defines each


def test_doing_nothing_does_nothing(known):
    assert answers("original", known) is ORIGINALS


def test_exchanged_gives_the_runner_up_with_the_same_confidence(known):
    exchanged = answers("exchanged", known).forget
    np.testing.assert_array_equal(np.sort(exchanged), np.sort(ORIGINALS.forget))
    np.testing.assert_array_equal(exchanged.argmax(-1), np.argsort(ORIGINALS.forget)[..., -2])
    np.testing.assert_array_equal(gaming.runner_up(exchanged), ORIGINALS.forget)


def test_flattened_is_the_same_class_and_surer_of_nothing(known):
    flattened = answers("flattened", known).forget
    np.testing.assert_array_equal(flattened.argmax(-1), ORIGINALS.forget.argmax(-1))
    assert (
        metrics.entropies(metrics.probabilities(flattened)) > metrics.entropies(metrics.probabilities(ORIGINALS.forget))
    ).all()


def test_neighbours_say_what_the_models_say_there(known):
    given = answers("neighbours", known).forget
    for member, example in itertools.product(range(2), range(5)):
        expected = np.mean([ORIGINALS.retain[member, row] for row in NEAREST[example]], axis=0)
        np.testing.assert_allclose(given[member, example], expected)


def test_nearest_is_the_literal_distance():
    images, among = RNG.normal(size=(6, 3, 2, 1)), RNG.normal(size=(9, 3, 2, 1))
    found = gaming.nearest(images, among, 4)
    for image, rows in zip(images, found, strict=True):
        distances = [np.linalg.norm(image - other) for other in among]
        assert rows.tolist() == sorted(range(9), key=distances.__getitem__)[:4]
    np.testing.assert_array_equal(gaming.nearest(among[:5], among, 1)[:, 0], range(5))


@pytest.mark.parametrize("name", ["accuracies", "drawn_2", "lookup"])
def test_accuracies_are_the_published_ones(name, known):
    for split, logits in answers(name, known)._asdict().items():
        if name == "accuracies" or split != "forget":
            labels, published = getattr(LABELS, split), known.published["accuracy", split].mean
            assert np.abs(metrics.accuracy(logits, labels) - published).max() <= 50 / len(labels) + 1e-9


@pytest.mark.parametrize("accuracy", [0.0, 30.0, 55.0, 100.0])
def test_any_accuracy_is_met_by_the_least_sure_answers(accuracy):
    logits, labels = RNG.normal(size=(5, 40, CLASSES)), LABELS.forget
    found = gaming.match_accuracy(logits, labels, accuracy)
    np.testing.assert_allclose(metrics.accuracy(found, labels), accuracy)
    np.testing.assert_array_equal(np.sort(found), np.sort(logits))
    for own, given in zip(logits, found, strict=True):
        right = own.argmax(-1) == labels
        falling = 100 * right.mean() > accuracy
        changed = (own != given).any(-1)
        assert not (changed & (right != falling)).any()
        top = np.sort(own)[:, -1]
        rival = np.sort(own)[:, -2] if falling else own[np.arange(40), labels]
        candidates = np.flatnonzero(right == falling)
        by_gap = candidates[np.argsort((top - rival)[candidates])]
        assert set(np.flatnonzero(changed)) == set(by_gap[: changed.sum()])


def test_averaged_has_no_spread(known):
    given = answers("averaged_2", known).forget
    np.testing.assert_allclose(given, np.broadcast_to(RETRAINED.forget[:2].mean(0), given.shape))


def test_lookup_says_what_the_retrained_models_said(known):
    np.testing.assert_array_equal(answers("lookup", known).forget, RETRAINED.forget)


def test_drawn_has_the_models_mean_and_a_gaussians_quantiles(known):
    own, found = (metrics.margins(logits, LABELS.forget) for logits in (RETRAINED.forget[:4], answers("drawn_4", known).forget))
    variance = own.var(0, ddof=1)
    standard = (found - own.mean(0)) / np.sqrt((variance + variance.mean()) / 2)
    expected = norm.ppf((np.arange(MEMBERS) + 0.5) / MEMBERS)
    np.testing.assert_allclose(np.sort(standard, axis=0), np.broadcast_to(expected[:, None], standard.shape), atol=1e-9)
    assert not (np.argsort(standard, axis=0) == np.argsort(standard, axis=0)[:, :1]).all()  # an order for each example


def test_narrowly_drawn_is_drawn_with_less_spread(known):
    eight = [metrics.margins(answers(name, known).forget, LABELS.forget) for name in ("drawn_8", "narrowly_drawn_8")]
    np.testing.assert_allclose(eight[1] - eight[1].mean(0), 0.7 * (eight[0] - eight[0].mean(0)), atol=1e-9)


def test_margins_are_set_and_the_rest_of_the_answer_is_a_retrained_models():
    wanted = RNG.normal(size=(7, 40)) * 5
    logits = gaming.with_margins(RETRAINED.forget, LABELS.forget, wanted)
    np.testing.assert_allclose(metrics.margins(logits, LABELS.forget), wanted)
    own = metrics.margins(RETRAINED.forget, LABELS.forget)
    for member, example in itertools.product(range(7), range(40)):
        model = np.abs(own[:, example] - wanted[member, example]).argmin()
        others = np.arange(CLASSES) != LABELS.forget[example]
        np.testing.assert_array_equal(logits[member, example, others], RETRAINED.forget[model, example, others])


# Blends


def test_least_change_at_hand_computed_points():
    def solve(values, targets, slack):
        return gaming.least_change(np.array(values), np.array(targets), np.array(slack))

    np.testing.assert_allclose(solve([[10.0, 2.0]], [4.0], [0.0]), [0.25, 0.75], atol=1e-9)
    np.testing.assert_allclose(solve([[10.0, 2.0]], [4.0], [0.8]), [0.35, 0.65], atol=1e-9)
    np.testing.assert_allclose(solve([[10.0, 2.0, -6.0]], [4.0], [0.0]), [10 / 16, 0, 6 / 16], atol=1e-9)
    np.testing.assert_allclose(solve([[10.0, 0.0, 10.0], [1e-6, 1e-6, 0.0]], [5.0, 5e-7], [0.0, 0.0]), [0, 0.5, 0.5], atol=1e-9)
    assert solve([[10.0, 2.0]], [1.0], [0.5]) is None
    np.testing.assert_allclose(solve([[10.0, 2.0]], [10.0], [0.0]), [1, 0], atol=1e-9)


def test_least_change_is_no_worse_than_any_point_of_a_grid():
    values, target, slack = RNG.normal(size=(2, 3)), np.zeros(2), np.full(2, 0.4)
    best = gaming.least_change(values, target, slack)
    assert (np.abs(values @ best - target) <= slack + 1e-9).all() and best.sum() == pytest.approx(1)
    grid = [(a, b, 1 - a - b) for a in np.linspace(0, 1, 51) for b in np.linspace(0, 1, 51) if a + b <= 1]
    feasible = [point[0] for point in grid if (np.abs(values @ point - target) <= slack).all()]
    assert feasible and best[0] >= max(feasible) - 1e-9


@pytest.mark.parametrize("shares", [(1.0,), (0.25, 0.75), (0.61, 0.09, 0.3), (0.0, 1.0)])
def test_a_deal_gives_every_table_its_share_of_examples_and_of_change(shares):
    change = np.exp(np.random.default_rng(1).normal(size=100) * 2)
    source = gaming.deal(np.random.default_rng(0), np.array(shares), change)
    np.testing.assert_array_equal(np.bincount(source, minlength=len(shares)), np.round(100 * np.array(shares)))

    def miss(source):
        return sum(abs(change[source == table].sum() - share * change.sum()) for table, share in enumerate(shares))

    random = [miss(gaming.deal(np.random.default_rng(seed), np.array(shares), change, draws=1)) for seed in range(200)]
    assert miss(source) <= np.quantile(random, 0.05)


def test_an_example_of_a_blend_is_of_one_table_for_all_members(known):
    tables = [ORIGINALS.forget, RETRAINED.forget]
    given = gaming.blend(np.random.default_rng(0), tables, np.array([0.3, 0.7]))
    whose = np.array([(given == table).all((0, 2)) for table in tables])
    assert whose.sum(0).tolist() == [1] * 40 and whose.sum(1).tolist() == [12, 28]
    np.testing.assert_array_equal(gaming.blend(np.random.default_rng(0), tables[:1], np.ones(1)), ORIGINALS.forget)


def test_blends_score_what_is_published_and_leave_the_share_untouched_that_they_say(known):
    blends = gaming.make_blends(known)
    assert {"blend_accuracy", "blend_svc_mia", "blend_kl_to_oracle"} <= set(blends) and "blend_klom_p95" not in blends
    for name in ("blend_accuracy", "blend_svc_mia", "blend_kl_to_oracle"):
        (target,) = blends[name].targets
        cube = answers(name, known, blends)
        null, value = known.published[target], scores(cube)[target]
        alone = known.scores["original"][target]
        assert abs(value - null.mean) < 0.2 * abs(alone - null.mean)
        share = float(blends[name].summary.split("%")[0].removeprefix("F: ")) / 100
        assert gaming.untouched(cube.forget, ORIGINALS.forget) == pytest.approx(share, abs=0.03)
        assert cube.retain is ORIGINALS.retain


def test_rates_brings_all_that_reads_one_model_near_at_once(known):
    rates = gaming.make_blends(known)["rates"]
    found = scores(rates.answer(np.random.default_rng(0), known))
    for name in (("accuracy", "forget"), ("accuracy", "test"), ("svc_mia", "forget"), ("tow", "all")):
        assert name in rates.targets
        published, before = known.published[name].mean, known.scores["original"][name]
        assert abs(found[name] - published) < 0.5 * abs(before - published)


def test_a_metric_that_no_blend_can_meet_has_none(known):
    high = {name: null._replace(mean=1e6) for name, null in known.published.items()}
    assert gaming.make_blends(known._replace(published=high)) == {}


def test_bisection_finds_each_members_own_knob():
    knobs = np.array([0.002, 0.03, 0.4])
    found = gaming.bisect(lambda rate: 100 * (rate < knobs), 50.0, 1e-4, 1.0, 3, rounds=12)
    np.testing.assert_allclose(found, knobs, rtol=0.003)


# How wrong it is


def test_untouched_at_known_points():
    logits = RNG.normal(size=(3, 10, 4))
    changed = logits.copy()
    changed[1, 2, 0] += 1e-9
    changed[:, 5] = 0
    assert gaming.untouched(logits, logits) == 1 and gaming.untouched(changed, logits) == 0.8


def test_memory_is_1_for_the_originals_0_for_the_retrained_and_linear_between():
    own, oracle = RNG.normal(size=(5, 30)) + 3, RNG.normal(size=(7, 30))
    direction = own.mean(0) - oracle.mean(0)
    assert gaming.memory(own, oracle, direction) == pytest.approx(1)
    assert gaming.memory(oracle, oracle, direction) == pytest.approx(0)
    half = (own.mean(0, keepdims=True) + oracle.mean(0, keepdims=True)) / 2
    assert gaming.memory(half, oracle, direction) == pytest.approx(0.5)
    assert gaming.memory(own + 100 * (direction == direction.min()), oracle, direction) < gaming.memory(
        own + 100 * (direction == direction.max()), oracle, direction
    )


def test_agreement_counts_the_forgotten_examples_only():
    labels = np.array([0, 1, 2, 0])
    oracle = np.tile(np.eye(3)[[0, 1, 0, 1]] * 5, (4, 1, 1))  # other than labelled on the last two
    given = np.stack([np.eye(3)[[2, 2, 0, 1]], np.eye(3)[[0, 1, 2, 1]]])
    assert gaming.agreement(given, oracle, labels) == 0.75
    assert np.isnan(gaming.agreement(given[:, :2], oracle[:, :2], labels[:2]))


# The report and the study


def test_summary_and_picture_name_the_cheapest_cheat_that_is_inside(tmp_path):
    def row(method, metric, value, low=-2.0, high=2.0, split="forget"):
        null = (None,) * 5 if low is None else (0.0, 1.0, low, high, value)
        about = ("gaming", "digits", "mlp", "random-0", method, "nothing", metric, split)
        return Row(*about, value, None, None, *null, 24, 48, None, null[-1])

    z = {"dear": (0.0, 0.0), "cheap": (1.5, 9.0), "forgetful": (1.0, 9.0), "retrain": (0.0, 0.0)}
    remembered = {"dear": 0.9, "cheap": 1.0, "forgetful": 0.1, "retrain": 0.0}
    rows = [row(name, metric, value) for name, pair in z.items() for metric, value in zip(("klom", "tow"), pair, strict=True)]
    for name in z:
        wrong = {"untouched": 0.5, "memory": 0.0, "memory_nudged": remembered[name], "agreement": float("nan")}
        rows += [row(name, measure, value, None) for measure, value in wrong.items()]
    claims = [
        Claim("dear", (), "8 retrained models", 8, "Draws.", True),
        Claim("forgetful", (), "nothing", 0, "Does.", False),
        Claim("cheap", (("klom", "forget"),), "nothing", 0, "Nothing.", False),
        Claim("retrain", (), "nothing", None, "The honest way.", True),
    ]
    write_summary(Run(tmp_path), rows, claims, 2.8)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (tmp_path / "summary.md").read_text().splitlines()]
    table = {line[0]: line[1:] for line in lines if line and line[0] in ("klom F", "tow F")}
    assert table["klom F"] == ["3", "cheap", "+1.5", "nothing", "0.50", "1.00", "9.0 tow F"]
    assert table["tow F"][:2] == ["1", "dear"]
    described = {line[1]: line for line in lines if len(line) == 10}
    assert described["dear"][0] == "●" and described["cheap"][4] == "1 of 2" and described["cheap"][-1] == ""
    figure = heat_map(rows, claims, "title")
    axes = figure.axes[0]
    assert len(axes.patches) == 1 and axes.patches[0].get_xy() == (-0.5, 1.5)
    np.testing.assert_array_equal(axes.images[0].get_array(), [[0, 0], [0, 2], [0, 2], [0, 0]])
    assert [label.get_text().strip() for label in axes.get_yticklabels()] == ["dear ●", "forgetful", "cheap", "retrain ●"]


def test_the_price_joins_the_means_of_what_other_models_score(tmp_path):
    scored = {(0, 0): 9.0, (2, 0): 3.0, (2, 2): -1.0, (4, 0): -0.5}
    prices = [Price(*key, "klom", "forget", 2.0, z, 10 - key[0]) for key, z in scored.items()]
    prices += [Price(*key, "klom_p95", "forget", 2.0, 0.1, 10 - key[0]) for key in scored]
    figure = price([*prices, Price(0, 0, "accuracy", "forget", 1.0, None, 10.0)], 2.8, "title")
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines if not line.get_label().startswith("_")}
    assert {name: list(values) for name, values in lines.items()} == {"klom F": [9, 2, 0.5], "largest of all": [10, 8, 6]}
    dots = [list(line.get_ydata()) for line in figure.axes[0].lines if line.get_label().startswith("_")]
    assert [9.0] in dots and [3.0, 1.0] in dots
    save(figure, Run(tmp_path), "price")


def test_the_study_leaves_its_tables_and_its_picture(tmp_path):
    small = "--members 2 --evaluation.splits 4 --evaluation.retain-size 60 --train-size 120 --train.epochs 1 --width 8"
    command = f"--exp gaming --smoke --device cpu --out {tmp_path / 'out'} --cache {tmp_path / 'cache'} {small}"
    done = run_in_process(*command.split())
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    files = ("results.csv", "results.json", "summary.md", "price.csv", "figures/cheats.png", "figures/price.svg")
    assert all((tmp_path / "out" / file).is_file() for file in files)
    rows = read_results(tmp_path / "out/results.csv")
    assert {row.experiment for row in rows} == {"gaming"} and {row.n_oracles for row in rows} == {4}
    methods = list(dict.fromkeys(row.method for row in rows))
    trained = {"retrain", "ascent", "relabelled", "nearly_all", "dulled"}
    wrappers = {"original", "lookup", "drawn_2", "exchanged", "disguised_2"}
    assert trained | wrappers <= set(methods) and "drawn_4" not in methods  # of two retrained models
    value = {(row.method, row.metric): row.value for row in rows}
    assert value["original", "untouched"] == value["original", "memory"] == 1 and value["lookup", "untouched"] == 0
    nudged = {name for name in methods if value[name, "memory_nudged"] == value["original", "memory_nudged"]}
    assert wrappers <= nudged and not trained & nudged
    for metric in ("relearn_steps", "weight_distance"):  # of the models inside
        assert len({value[name, metric] for name in ("original", "lookup", "exchanged")}) == 1
        assert value["disguised_2", metric] == value["dulled", metric]
    far = next(row for row in rows if (row.method, row.metric) == ("dulled", "weight_distance"))
    assert far.value >= far.null_mean - 0.05
    scored = {(row.metric, row.split) for row in rows}
    assert all(set(cheat.targets) <= scored for cheat in gaming.CHEATS.values())
    with (tmp_path / "out/results.csv").open() as file:
        assert next(csv.reader(file)) == list(Row._fields)


@pytest.mark.parametrize(
    "given",
    [
        {"members": "auto"},
        {"nudge": 0.0},
        {"nearest": 0},
        {"spared": 1.0},
        {"nudge": float("nan")},
    ],
)
def test_what_cannot_be_meant_is_refused(given):
    (name,) = given
    with pytest.raises(ArgumentError, match=f"^--{name.replace('_', '-')} "):
        Config(**given).check()
