"""Whether tables of other models conclude the same: laws on pools whose truth is known, literal restatements, the study's run."""

import csv
import itertools

import numpy as np
import pytest
from in_process import run_in_process
from scipy.stats import kendalltau

from experiments.conclusions import study, tables
from experiments.conclusions.options import Config
from experiments.conclusions.pools import METRICS, PAIRED, Answers, Pools
from experiments.conclusions.report import Row, against_oracles, against_others, summary
from experiments.conclusions.tables import CONCLUSIONS, Drawn, Size, Truth
from unlearn_jax.methods import METHODS
from unlearn_jax.metrics import accuracies, average_gap, js_divergence, klom, probabilities, scaled_logits, tow
from unlearn_jax.metrics.effects import effects
from unlearn_jax.types import Cube, Labels

EXAMPLES, CLASSES = 12, 3
LABELS = Labels(*(np.arange(EXAMPLES) % CLASSES for _ in range(3)))


def answers(rng, models, shift, noise, shares=None):
    """Models whose logits of the label are shifted, each with its own noise."""
    base = np.linspace(-1, 1, 3 * EXAMPLES * CLASSES).reshape(3, 1, EXAMPLES, CLASSES)
    label = np.eye(CLASSES)[np.array(LABELS.forget)]
    cube = Cube(*(base + shift * label + noise * rng.normal(size=(3, models, EXAMPLES, CLASSES))))
    margins = {split: scaled_logits(getattr(cube, split), getattr(LABELS, split)) for split in Cube._fields}
    if shares is None:
        shares = np.column_stack([*(share / 100 for share in accuracies(cube, LABELS)), np.full(models, 0.5)])
    else:
        shares = shares + 0.02 * noise * rng.normal(size=(models, 4))
    return Answers(np.clip(shares, 0, 1), probabilities(cube.forget), margins)


def pools(rng, shifts, noise, members=16, oracles=32, sets=4):
    """Forget sets on which retraining is a shift of 0, and doing nothing one of 4; the last column is retraining."""
    return [
        Pools(
            answers(rng, oracles, 0.0, noise, np.full(4, 0.4)),
            answers(rng, members, 4.0, noise, np.full(4, 0.8)),
            [answers(rng, members, shift, noise, np.full(4, 0.4 + 0.1 * shift)) for shift in (*shifts, 0.0)],
            np.zeros(len(shifts) + 1, bool),
        )
        for _ in range(sets)
    ]


def rates(each, size, count, seed=1):
    """By metric and conclusion; of the metrics that tables of the size define."""
    drawn, truth = tables.draw_tables(each, size, count, np.random.default_rng(seed)), tables.truth_of(each)
    retrain = len(truth.distances) - 1
    return {
        name: tables.conclude(drawn, truth, retrain, number)
        for number, name in enumerate(METRICS)
        if name not in PAIRED or min(size[:2]) > 1
    }


def test_without_noise_every_table_is_right():
    each = pools(np.random.default_rng(0), (1.0, 2.0, 3.0), 0.0)
    for size in (Size(1, 1, 1), Size(4, 2, 2)):
        for name, by_conclusion in rates(each, size, 6).items():
            for conclusion, found in by_conclusion.items():
                assert found.same.value == pytest.approx(0 if (name, conclusion) == ("klom", "rank") else 1), (name, conclusion)
                if name != "klom":  # one bin each, whatever the shift: all are equally far, and nothing is decided
                    assert found.right.value == 1 and (conclusion == "rank" or found.worse.value == 0), (name, conclusion)
                    assert found.decided == found.of


def test_which_of_two_equal_methods_is_nearer_is_a_coin():
    each = pools(np.random.default_rng(3), (2.0, 2.0, 2.0), 1.0, members=64, oracles=64, sets=2)
    found = rates(each, Size(1, 1, 1), 100)
    for name, by_conclusion in found.items():
        assert by_conclusion["nearer"].same.value == pytest.approx(0.5, abs=0.12), name
        assert by_conclusion["rank"].same.value == pytest.approx(0, abs=0.24), name


def test_more_oracles_never_hurt():
    each = pools(np.random.default_rng(4), (1.5, 2.0, 2.5), 1.0, oracles=64)
    by_count = [rates(each, Size(count, 4, 1), 40) for count in (1, 4, 32)]
    for name in by_count[0]:
        right = [found[name]["nearer"].right.value for found in by_count]
        same = [found[name]["nearer"].same.value for found in by_count]
        assert min(np.diff(right)) > -0.06 and min(np.diff(same)) > -0.08, (name, right, same)
    assert by_count[2]["js_divergence"]["nearer"].right.value > 0.9


def test_the_distances_are_those_of_the_metrics():
    (one, *_) = pools(np.random.default_rng(5), (1.0, 2.5, 3.0), 1.0, sets=1)
    oracles, models = np.array([3, 9, 30, 4, 11, 7]), np.array([1, 15, 8, 2, 0])
    found = one.distances(oracles, models)
    for column, row in zip(one.columns, found, strict=True):
        sides = [
            {split: margins[own] for split, margins in answers.margins.items()}
            for answers, own in ((column, models), (one.originals, models), (one.oracles, oracles))
        ]
        shares, retrained = column.shares[models].T, one.oracles.shares[oracles].T
        assert row[1:3] == pytest.approx([average_gap(*shares, *retrained), 1 - tow(*shares[:3], *retrained[:3])])
        assert row[0] == pytest.approx(100 * abs(shares[0].mean() - retrained[0].mean()))
        p, q = column.probabilities[models], one.oracles.probabilities[oracles]
        assert row[3:5] == pytest.approx([js_divergence(p, q).mean(), klom(sides[0]["forget"], sides[2]["forget"]).mean()])
        expected = effects(*sides)
        memory, damage = abs(expected.memory_left.value), abs(expected.damage.value)
        assert row[-2:] == pytest.approx([memory, max(memory, damage)])
    for few in ((oracles[:1], models), (oracles, models[:1])):
        undefined = {name for name, value in zip(METRICS, one.distances(*few)[0], strict=True) if np.isnan(value)}
        assert undefined == set(PAIRED)


def test_a_column_that_diverged_is_infinitely_far():
    (one, *_) = pools(np.random.default_rng(6), (1.0, 2.0), 1.0, sets=1)
    lost = Pools(one.oracles, one.originals, one.columns, np.array([True, False, False]))
    found = lost.distances(np.arange(4), np.arange(4))
    assert np.isinf(found[0]).all() and np.isfinite(found[1:]).all()
    truth = tables.truth_of([lost])
    assert (truth.nearer[1, 0] == 1).all() and (truth.nearer[0, 1] == -1).all()


def test_rates_are_what_counting_gives():
    rng = np.random.default_rng(7)
    values, aims = rng.normal(size=(30, 2, 5)), np.array([0.1, 0.2, 0.3, 0.4, 0.0])
    nearer = np.sign(aims[None, :] - aims[:, None]).astype(int)
    nearer[0, 1] = nearer[1, 0] = 0  # not decided
    found = tables.conclude(Drawn(values[..., None], np.zeros((30, 0), int)), Truth(aims[:, None], nearer[..., None]), 4, 0)
    pairs = list(itertools.combinations(range(4), 2))
    assert found["nearer"].same.value == pytest.approx(
        np.mean([(a[i] < a[j]) == (b[i] < b[j]) for a, b in values for i, j in pairs])
    )
    wrong = np.mean([table[i] > table[j] for pair in values for table in pair for i, j in pairs if (i, j) != (0, 1)])
    assert (found["nearer"].worse.value, found["nearer"].right.value) == pytest.approx((wrong, 1 - wrong))
    assert (found["nearer"].decided, found["nearer"].of) == (5, 6)
    good = values[..., :4] <= values[..., 4:]
    assert found["as_good"].same.value == pytest.approx((good[:, 0] == good[:, 1]).mean())
    assert found["as_good"].worse.value == pytest.approx(good.mean())
    assert found["rank"].same.value == pytest.approx(np.mean([kendalltau(a[:4], b[:4])[0] for a, b in values]))
    best = values[..., :4].argmin(-1)
    assert found["best"].same.value == pytest.approx((best[:, 0] == best[:, 1]).mean())
    assert found["best"].worse.value == pytest.approx((best > 1).mean())  # the second is not decidedly worse than the first


def test_the_interval_is_the_jackknife_over_methods_and_sets():
    rng = np.random.default_rng(8)
    values, aims = rng.normal(size=(200, 2, 5)), np.array([0.1, 0.2, 0.3, 0.4, 0.0])
    truth = Truth(aims[:, None], np.sign(aims[None, :] - aims[:, None]).astype(int)[..., None])
    sets = np.array([rng.permutation(4)[:2] for _ in values])
    found = tables.conclude(Drawn(values[..., None], sets), truth, 4, 0)["nearer"].same

    def same(methods, some):
        pairs = itertools.combinations(methods, 2)
        return np.mean([(some[:, 0, i] < some[:, 0, j]) == (some[:, 1, i] < some[:, 1, j]) for i, j in pairs])

    by_method = np.array([same(np.delete(np.arange(4), out), values) for out in range(4)])
    by_set = np.array([same(range(4), values[(sets != out).all(1)]) for out in range(4)])
    error = np.sqrt(sum(3 / 4 * ((part - part.mean()) ** 2).sum() for part in (by_method, by_set)))
    assert found == pytest.approx((found.value, found.value - 3.182446 * error, found.value + 3.182446 * error))


class Recording:
    """Pools that write down what tables take from them."""

    def __init__(self, log, number):
        self.originals, self.oracles = (Answers(np.zeros((count, 4)), None, {}) for count in (8, 16))
        self.log, self.number = log, number

    def distances(self, oracles, models):
        self.log.append((self.number, set(oracles), set(models)))
        return np.zeros((3, len(METRICS)))


def test_two_tables_share_no_model_and_no_set():
    log = []
    drawn = tables.draw_tables([Recording(log, number) for number in range(4)], Size(8, 4, 2), 5, np.random.default_rng(9))
    assert drawn.distances.shape == (5, 2, 3, len(METRICS)) and drawn.sets.shape == (5, 4)
    for first in range(0, len(log), 4):
        pair = log[first : first + 4]
        assert {number for number, *_ in pair} == set(range(4))
        assert pair[0][2] == pair[1][2] and pair[2][2] == pair[3][2] and not pair[0][2] & pair[2][2]
    with pytest.raises(ValueError, match="more than half"):
        tables.draw_tables([Recording(log, number) for number in range(4)], Size(9, 4, 2), 1, np.random.default_rng(9))


def test_judges_of_a_search_are_in_no_evaluation():
    log = []
    tables.draw_bank(Recording(log, 0), Size(3, 2, 1), 2, 2, np.random.default_rng(10))
    for first in range(0, len(log), 4 * tables.BANK):
        of_sides = [log[first + at * tables.BANK : first + (at + 1) * tables.BANK] for at in range(4)]  # judges, table; twice
        for kind in (1, 2):
            sides = [set().union(*(draw[kind] for draw in side)) for side in of_sides]
            assert not any(one & other for one, other in itertools.combinations(sides, 2))


def test_a_search_takes_the_best_of_what_it_tries():
    far = np.array([5.0, 1.0, 3.0, 2.0, 9.0])  # four settings of one method, and a method without any
    every = np.broadcast_to(far[:, None], (tables.SPLIT, 2, tables.BANK, 5, len(METRICS)))
    bank, own = tables.Bank(every, 10 * every), [np.arange(4), np.array([4])]
    drawn, shares = tables.search_tables(bank, own, 2, 4, 20, np.random.default_rng(11))
    assert (drawn.distances[:, :, 0] == 10).all() and (drawn.distances[:, :, 1] == 90).all()
    assert (shares[0, 1] == 1).all() and (shares[1, 4] == 1).all()
    drawn, shares = tables.search_tables(bank, own, 1, 1, 2000, np.random.default_rng(11))
    assert shares[0, :4] == pytest.approx(0.25, abs=0.03) and drawn.distances[:, :, 0].mean() == pytest.approx(27.5, rel=0.05)


def test_settings_are_a_latin_hypercube_beside_the_authors_values():
    space = METHODS["salun"].search
    settings = study.draw_settings(Config(), "salun")
    assert len(settings) == 8 and settings[0] == {key: METHODS["salun"].defaults[key] for key in space}
    for key, ends in space.items():
        assert sorted(one[key] for one in settings[1:]) == pytest.approx(sorted(ends.spaced(7)))


def rows():
    return [
        Row(metric, conclusion, varied, others, n, n, 1, 1, 0, *(0.5 + n / 20, 0.4, 0.9) * 2, 0.1, 0.0, 0.2, 3, 6, 10)
        for metric in METRICS
        for conclusion in CONCLUSIONS
        for varied in ("oracles", "originals", "sets", "searches")
        for others in ("one", "most")
        for n in (1, 8)
        if others == "most" or metric not in PAIRED
    ]


def test_the_figures_have_a_line_for_each_metric_and_the_summary_begins_with_the_answer():
    for draw, across in ((against_oracles, 2), (against_others, 3)):
        figure = draw(rows(), "title")
        assert len(figure.axes) == across * len(CONCLUSIONS)
        assert [axes.get_title() for axes in figure.axes[: len(CONCLUSIONS)]] == list(CONCLUSIONS.values())
        lines = [line for line in figure.axes[-1].lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"]
        assert len(lines) == len(METRICS) and list(lines[0].get_ydata()) == [0.55, 0.9]
    text = summary(rows(), "title", 4, 4)
    answer = text.split("\n\n")[1]
    assert "the better of two methods the worse in 10%" in answer and "from 8 oracles on" in answer


@pytest.mark.parametrize(
    "words, said",
    [
        ("--methods original,scrub,retrain", "--methods original,scrub,retrain: expected three or more beside retrain"),
        ("--trials 9", "--trials 9: expected at most --settings"),
        ("--searched 10", "--searched 10: expected 12 or more, for --judges 4, and at most --members"),
        ("--judges 33 --searched 80 --members 80", "--judges 33: expected at most half of --oracles"),
    ],
)
def test_what_cannot_be_drawn_is_refused(words, said, tmp_path):
    done = run_in_process(*f"--exp conclusions {words} --device cpu --out {tmp_path}/out --cache {tmp_path}/cache".split())
    assert done.returncode == 2 and said in done.stderr


def test_the_study_leaves_its_table_its_figures_and_its_answer(tmp_path):
    command = f"--exp conclusions --smoke --device cpu --out {tmp_path}/out --cache {tmp_path}/cache"
    done = run_in_process(*command.split())
    assert done.returncode == 0, done.stderr
    for name in ("conclusions", "others"):
        assert (tmp_path / f"out/figures/{name}.png").is_file()
    assert (tmp_path / "out/summary.md").read_text() in done.stdout
    with (tmp_path / "out/conclusions.csv").open() as file:
        found = list(csv.DictReader(file))
    assert tuple(found[0]) == Row._fields
    assert {row["varied"] for row in found} == {"oracles", "originals", "sets", "searches"}
    assert {row["metric"] for row in found if row["others"] == "one"} == set(METRICS) - set(PAIRED)
    assert {row["metric"] for row in found if row["others"] == "most"} == set(METRICS)
    before = (tmp_path / "out/conclusions.csv").read_bytes()
    again = run_in_process(*command.split())
    assert again.returncode == 0 and "compiling" not in again.stderr and "attacks" not in again.stderr
    assert (tmp_path / "out/conclusions.csv").read_bytes() == before
