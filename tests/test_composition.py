"""An evaluation is its metrics: every value, interval and null equals the public metric, called by hand on the same halves.

Forget set, retain set and test set differ in size and in how well they are known, so that no two can change places unnoticed;
all have more examples than any metric but accuracy may look at.
"""

import jax
import numpy as np
import pytest
from scipy import stats

from unlearn_jax import metrics
from unlearn_jax.metrics import by_example, by_model, views
from unlearn_jax.metrics.null import halves, thirds
from unlearn_jax.metrics.statistics import crossed_mean
from unlearn_jax.types import Cube, Labels

CLASSES, N, ORACLES, SPLITS, SEED = 3, 4, 9, 6, 5
ROWS, QUALITY, SVC = 40, 37, 34  # examples that are looked at: by most metrics, forgetting quality, SVC-MIA
PARTITIONS = 4  # of the oracles, for the unit of two-sample values: the fewest
SIZES = {"forget": 41, "retain": 53, "test": 47}
RNG = np.random.default_rng(0)
LABELS = Labels(**{name: RNG.integers(0, CLASSES, size) for name, size in SIZES.items()})
MEANS = {
    name: RNG.normal(size=(SIZES[name], CLASSES)) + known * np.eye(CLASSES)[getattr(LABELS, name)]
    for name, known in (("forget", 1.0), ("retain", 2.5), ("test", 1.5))
}


def pool(members, seed, shift=0.0):
    """Models of which each knows more or less of everything; `shift` is what they know more of the forget set."""
    rng = np.random.default_rng(seed)
    skill = rng.normal(scale=0.3, size=(members, 1, 1))
    cube = {}
    for name, mean in MEANS.items():
        own = np.eye(CLASSES)[getattr(LABELS, name)]
        cube[name] = mean + (skill + shift * (name == "forget")) * own + rng.normal(size=(members, *mean.shape))
    return Cube(**cube)


def extra(members, seed):
    """A metric that needs more than logits."""
    return {("distance", "all"): np.random.default_rng(seed).gamma(2.0, size=members)}


def some(cube, members):
    return Cube(*(np.asarray(logits)[members] for logits in cube))


# By hand


def rows():
    """The examples that are looked at, drawn once by the seed."""
    rng = np.random.default_rng(SEED)
    return {name: rng.permutation(size)[:ROWS] for name, size in SIZES.items()}


def seen(cube):
    """Logits and labels of those examples."""
    return {name: (getattr(cube, name)[:, own], getattr(LABELS, name)[own]) for name, own in rows().items()}


def per_model(cube, more):
    """What each model scores alone."""
    looked_at = seen(cube)
    scores = {}
    for name in SIZES:
        scores["accuracy", name] = metrics.accuracy(getattr(cube, name), getattr(LABELS, name))
        scores["mean_margin", name] = metrics.margins(*looked_at[name]).mean(1)
    attacks = []
    for member in range(len(cube.forget)):
        sides = {name: (metrics.probabilities(logits[member]), labels) for name, (logits, labels) in looked_at.items()}
        attacks.append(metrics.svc_mia(sides["retain"], sides["test"], sides["forget"], size=SVC, seed=SEED))
    for feature in attacks[0]:
        name = "svc_mia" if feature == "confidence" else f"svc_mia_{feature}"
        scores[name, "forget"] = np.array([each[feature] for each in attacks])
    losses = {name: metrics.cross_entropy_losses(*both) for name, both in looked_at.items()}
    scores["logistic_mia", "forget"] = metrics.logistic_mia(losses["forget"], losses["test"], seed=SEED)
    return scores | more


def distances(one, other):
    """Of each model of one pool to the mean of the other."""
    found = {}
    for split in ("forget", "test"):
        p, q = (metrics.probabilities(seen(cube)[split][0]) for cube in (one, other))
        found["kl_to_oracle", split] = metrics.kl_to_oracle(p, q).mean(1)
        found["activation_distance", split] = metrics.activation_distance(p, q).mean(1)
        found["js_divergence", split] = metrics.js_divergence(p, q).mean(1)
    return found


def compared(one, other, scores, other_scores):
    """One pool of models with retrained ones; `scores` is what each model of them scores alone."""
    found = {}
    for split in SIZES:
        phi, psi = (metrics.margins(*seen(cube)[split]) for cube in (one, other))
        found["klom", split] = metrics.klom(phi, psi).mean()
        found["klom_p95", split] = np.quantile(metrics.klom(phi, psi), 0.95)
        found["example_t", split] = by_example.largest_t(phi, psi)
        found["outlier_distance", split] = by_model.largest_outlier(*by_model.distances(phi, psi))
        if split == "forget":
            quality = metrics.forgetting_quality(phi[:, :QUALITY], psi[:, :QUALITY]).score
    fa, ra, ta = (scores["accuracy", split] / 100 for split in ("forget", "retain", "test"))
    oracle_fa, oracle_ra, oracle_ta = (other_scores["accuracy", split] / 100 for split in ("forget", "retain", "test"))
    mia, oracle_mia = scores["svc_mia", "forget"], other_scores["svc_mia", "forget"]
    found["forgetting_quality", "forget"] = quality
    found["tow", "all"] = metrics.tow(fa, ra, ta, oracle_fa, oracle_ra, oracle_ta)
    found["tow_mia", "all"] = metrics.tow_mia(mia, ra, ta, oracle_mia, oracle_ra, oracle_ta)
    found["competition_score", "all"] = metrics.competition_score(quality, ra, ta, oracle_ra, oracle_ta)
    found["average_gap", "all"] = metrics.average_gap(fa, ra, ta, mia, oracle_fa, oracle_ra, oracle_ta, oracle_mia)
    return found | {name: values.mean() for name, values in distances(one, other).items()}


class Hand:
    """An evaluation word by word."""

    def __init__(self, unlearned, oracles, more, oracles_more):
        self.unlearned, self.oracles = unlearned, oracles
        self.scores, self.oracle_scores = per_model(unlearned, more), per_model(oracles, oracles_more)
        self.n = len(unlearned.forget)
        self.halves = halves(jax.random.key(SEED), len(oracles.forget), self.n, SPLITS)
        self.opposite = list(self.halves[:4].reshape(-1, self.n))

    def against(self, members, half):
        """Some of the unlearned with one half of the oracles."""
        alone = {name: values[members] for name, values in self.scores.items()}
        others = {name: values[half] for name, values in self.oracle_scores.items()}
        return compared(some(self.unlearned, members), some(self.oracles, half), alone, others)

    def two_sample(self):
        """Value and pseudo-values of each metric that compares two pools; here each model is a group of its own."""
        everyone = np.arange(self.n)
        values = [self.against(everyone, half) for half in self.opposite]
        without = [[self.against(np.delete(everyone, member), half) for half in self.opposite[:2]] for member in everyone]
        found = {}
        for name in values[0]:
            value = np.mean([each[name] for each in values])
            left = np.array([np.mean([each[name] for each in part]) for part in without])
            found[name] = value, value - (self.n - 1) * (left - left.mean())
        return found

    def among(self, first, second):
        """Some oracles with others."""
        alone = [{name: values[members] for name, values in self.oracle_scores.items()} for members in (first, second)]
        return compared(some(self.oracles, first), some(self.oracles, second), *alone)

    def units(self):
        """By two-sample metric, the share of a value's variance in that of a comparison, and what draws never show."""
        sets = thirds(jax.random.fold_in(jax.random.key(SEED), 1), ORACLES, ORACLES // 4, PARTITIONS, 4)
        values = [[self.among(unlearned, half) for half in opposite] for unlearned, *opposite in sets]
        effects = [{}, {}]
        for found, split in zip(effects, self.halves, strict=False):
            for one, other in (split, split[::-1]):
                whole = self.among(one, other)
                for member in range(self.n):
                    for left, index in (
                        (self.among(np.delete(one, member), other), one),
                        (self.among(one, np.delete(other, member)), other),
                    ):
                        for name in whole:
                            effect = (self.n - 1) * (whole[name] - left[name])
                            found.setdefault(name, np.zeros(ORACLES))[index[member]] += effect
        both = np.intersect1d(*self.halves[:2].reshape(2, -1))
        units = {}
        for name in values[0][0]:
            table = np.array([[each[name] for each in row] for row in values])
            hidden = max(np.cov(effects[0][name][both], effects[1][name][both])[0, 1], 0) / ORACLES
            if np.ptp(table) == 0:
                units[name] = 1, 0
                continue
            units[name] = (table.mean(1).var(ddof=1) + hidden) / (table.var(0, ddof=1).mean() + hidden), hidden
        return units

    def draws(self):
        """What each split of the oracles scores, in the unit of a value, and where the null is centred."""
        draws, centres, units = {}, {}, self.units()
        forth = [self.among(first, second) for first, second in self.halves]
        away = [
            [distances(some(self.oracles, a), some(self.oracles, b)) for a, b in (split, split[::-1])] for split in self.halves
        ]
        for name in forth[0]:
            values = np.array([each[name] for each in forth])
            if name in away[0][0]:
                own = [[] for _ in range(ORACLES)]
                for split, sides in zip(self.halves, away, strict=True):
                    for members, side in zip(split, sides, strict=True):
                        for member, value in zip(members, side[name], strict=True):
                            own[member].append(value)
                mean = np.array([np.mean(each or [0]) for each in own])
                rest = values - mean[self.halves[:, 0]].mean(1)
                apart = (mean[self.halves[:, 0]].mean(1) - mean[self.halves[:, 1]].mean(1)) * np.sqrt(0.75)
                whole = np.mean([side[name] for sides in away for side in sides])
                draws[name] = whole + apart + np.roll(rest - rest.mean(), 1)
            else:
                share, hidden = units[name]
                least = 0.8 if name[0] == "outlier_distance" else 0.0
                sd = max(np.sqrt(share * (values.var(ddof=1) + hidden)), least)
                draws[name] = values.mean() + (values - values.mean()) * (sd / values.std(ddof=1) if np.ptp(values) else 1)
        for name, values in self.oracle_scores.items():
            centres[name] = values.mean()
            means = values[self.halves].mean(2)
            draws[name] = centres[name] + np.sqrt(0.75) * (means[:, 0] - means[:, 1])
        return draws, {name: values.mean() for name, values in draws.items()} | centres


@pytest.fixture(scope="module", autouse=True)
def few_rows():
    """Instead of 500 examples each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "QUALITY_ROWS", QUALITY)
        patch.setattr(views, "SVC_ROWS", SVC)
        yield


@pytest.fixture(scope="module")
def pools():
    return pool(N, 1, shift=0.4), pool(ORACLES, 2)


@pytest.fixture(scope="module")
def hand(pools):
    return Hand(*pools, extra(N, 3), extra(ORACLES, 4))


@pytest.fixture(scope="module")
def yardstick(pools):
    return metrics.reference(pools[1], LABELS, N, splits=SPLITS, seed=SEED, rows=ROWS, extra=extra(ORACLES, 4))


@pytest.fixture(scope="module")
def evaluation(pools, yardstick):
    return metrics.score(pools[0], yardstick, extra=extra(N, 3))


def of(evaluation):
    return {(score.metric, score.split): score for score in evaluation.scores}


def test_values_intervals_and_parts_of_two_sample_metrics_are_the_public_metrics(hand, evaluation):
    expected = hand.two_sample()
    assert len(expected) == len(evaluation.scores) - len(hand.scores) == 23
    for name, (value, parts) in expected.items():
        score = of(evaluation)[name]
        reach = stats.t.ppf(0.975, N - 1) * stats.sem(parts)
        assert (score.value, score.low, score.high) == pytest.approx((value, value - reach, value + reach)), name
        assert score.parts[:N] == pytest.approx(parts), name
        assert np.isnan(score.parts[N:]).all()


def test_values_intervals_and_parts_of_single_models_are_the_public_metrics(hand, evaluation):
    resampled = np.random.default_rng(SEED).integers(0, N, (1_000, N))
    for name, values in hand.scores.items():
        score, means = of(evaluation)[name], values[resampled].mean(1)
        assert score.value == pytest.approx(values.mean()), name
        assert (score.low, score.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5]))), name
        assert score.members == pytest.approx(values) and score.parts[:N] == pytest.approx(values), name


def test_nulls_are_the_public_metrics_on_halves_of_the_oracles(hand, yardstick, evaluation):
    draws, centres = hand.draws()
    assert draws.keys() == of(evaluation).keys()
    z = []
    for name, values in draws.items():
        null, score = yardstick.nulls[name], of(evaluation)[name]
        low, high = np.percentile(values, [2.5, 97.5])
        assert null == pytest.approx((centres[name], values.std(ddof=1), low, high), abs=1e-9), name
        assert score.null == null
        assert score.z == pytest.approx((score.value - centres[name]) / values.std(ddof=1)), name
        z.append(abs(values - centres[name]) / values.std(ddof=1))
    band = np.quantile(np.max(z, axis=0), 0.95)
    assert evaluation.band == pytest.approx(stats.t.isf(stats.norm.sf(band), ORACLES - 1))


def test_the_verdict_is_the_largest_distance_from_the_null_in_its_own_unit(evaluation):
    apart = []
    for score in evaluation.scores:
        attack = "mia" in score.metric or score.metric == "average_gap"
        unit = max(score.null.sd, (score.high - score.low) / (2 * 1.96)) if attack else score.null.sd
        apart.append(abs(score.value - score.null.mean) / unit)
        assert score.evidence == pytest.approx(apart[-1])
    assert evaluation.largest_z == pytest.approx(max(apart))


def test_a_members_own_metrics_are_the_public_metrics(hand, pools, yardstick, evaluation):
    found = yardstick.of_members(pools[0], extra(N, 3))
    each = [distances(hand.unlearned, some(hand.oracles, half)) for half in hand.opposite]
    expected = hand.scores | {name: np.mean([own[name] for own in each], axis=0) for name in each[0]}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values), name
        assert of(evaluation)[name].members == pytest.approx(values), name
    assert all(score.members == () for name, score in of(evaluation).items() if name not in expected)


def test_another_number_of_models_takes_halves_of_that_number(pools, yardstick):
    cube, oracles = some(pools[0], [0, 2]), pools[1]
    more = {name: values[[0, 2]] for name, values in extra(N, 3).items()}
    hand = Hand(cube, oracles, more, extra(ORACLES, 4))
    found = of(metrics.score(cube, yardstick, extra=more))
    for name in (("klom", "forget"), ("tow_mia", "all"), ("js_divergence", "test")):
        values = [hand.against(np.arange(2), half)[name] for half in hand.opposite]
        assert found[name].value == pytest.approx(np.mean(values)), name
        assert (found[name].low, found[name].high) == (-np.inf, np.inf)


def test_groups_of_originals_are_left_out_together(pools):
    """Six members of which the first two and the last three come from one original each."""
    cube, oracles, groups = pool(6, 7), pool(12, 8), np.array([0, 0, 3, 5, 5, 5])
    yardstick = metrics.reference(oracles, LABELS, 6, splits=2, seed=SEED, rows=ROWS)
    found, hand = of(metrics.score(cube, yardstick, groups)), Hand(cube, oracles, {}, {})
    hand.opposite = list(halves(jax.random.key(SEED), 12, 6, 2).reshape(-1, 6))
    name = "kl_to_oracle", "forget"
    value = np.mean([hand.against(np.arange(6), half)[name] for half in hand.opposite])
    left = np.array(
        [np.mean([hand.against(np.flatnonzero(groups != own), half)[name] for half in hand.opposite[:2]]) for own in (0, 3, 5)]
    )
    assert np.array(found[name].parts)[[0, 3, 5]] == pytest.approx(value - 2 * (left - left.mean()))
    assert np.isnan(np.array(found[name].parts)[[1, 2, 4, 6, 7]]).all()
    accuracy = metrics.accuracy(cube.test, LABELS.test)
    assert np.array(found["accuracy", "test"].parts)[[0, 3, 5]] == pytest.approx(
        [accuracy[:2].mean(), accuracy[2], accuracy[3:].mean()]
    )


def test_over_forget_sets_values_nulls_and_intervals_are_those_of_the_mean(pools, yardstick, evaluation):
    other_yardstick = metrics.reference(pool(ORACLES, 9), LABELS, N, splits=SPLITS, seed=SEED, rows=ROWS, extra=extra(ORACLES, 6))
    other = metrics.score(pool(N, 10, shift=-0.5), other_yardstick, extra=extra(N, 11))
    together = metrics.pooled([evaluation, other], [yardstick, other_yardstick])
    z = []
    for name, score in of(together).items():
        each, references = [of(evaluation)[name], of(other)[name]], (yardstick, other_yardstick)
        value, parts = np.mean([own.value for own in each]), np.transpose([own.parts for own in each])
        assert score.value == pytest.approx(value), name
        draws = np.mean([reference.draws[name] for reference in references], axis=0)
        alone = name in yardstick.of_members(pools[0], extra(N, 3)) and name[0] not in {n for n, _ in distances(*pools)}
        centre = np.mean([reference.nulls[name].mean for reference in references]) if alone else draws.mean()
        low, high = np.percentile(draws, [2.5, 97.5])
        assert score.null == pytest.approx((centre, draws.std(ddof=1), low, high), abs=1e-9), name
        over_originals = crossed_mean(parts[:N])
        assert score.high - value == pytest.approx(over_originals.high - over_originals.mean), name
        assert value - score.low == pytest.approx(over_originals.mean - over_originals.low), name
        assert score.parts[:N] == pytest.approx(parts[:N].mean(1)) and np.isnan(score.parts[N:]).all(), name
        z.append(abs(draws - centre) / draws.std(ddof=1))
    band = np.quantile(np.max(z, axis=0), 0.95)
    assert together.band == pytest.approx(stats.t.isf(stats.norm.sf(band), sum(each.oracles for each in references) - 1))
