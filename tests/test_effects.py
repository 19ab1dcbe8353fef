"""Memory left and damage: closed forms, and the coverage of their intervals on simulated pools."""

import math

import numpy as np
import pytest

from unlearn_jax.bench.scoring import effects_of
from unlearn_jax.metrics.effects import SPLITS, Effects, distance_p, distances_left_out, effects, mean_effects, outcome_of
from unlearn_jax.types import Cube, Interval, Labels

EXAMPLES = {"forget": 40, "retain": 60, "test": 50}


def pools(rng, members=16, memory=0.0, harm=0.0, noise=1.0):
    """Unlearned, originals and oracles; originals know F better by an amount that differs between its examples."""
    known = rng.uniform(0, 4, EXAMPLES["forget"])
    gain = {split: known if split == "forget" else np.zeros(count) for split, count in EXAMPLES.items()}
    level = {split: rng.normal(size=count) for split, count in EXAMPLES.items()}
    drawn = lambda count, split: level[split] + noise * rng.normal(size=(count, EXAMPLES[split]))  # noqa: E731
    originals = {split: drawn(members, split) + gain[split] for split in SPLITS}
    harms = {split: harm * rng.choice([-1, 1], EXAMPLES[split]) for split in SPLITS}
    harms["forget"] = harms["forget"] - (harms["forget"] @ known) / (known @ known) * known  # or it would be memory
    unlearned = {split: drawn(members, split) + memory * gain[split] + harms[split] for split in SPLITS}
    size = math.sqrt(np.mean([np.mean(part**2) for part in harms.values()]) / np.mean(known**2))
    return unlearned, originals, {split: drawn(2 * members, split) for split in SPLITS}, size


def test_doing_nothing_leaves_everything_and_damages_nothing_exactly():
    _, originals, oracles, _ = pools(np.random.default_rng(0))
    found = effects(originals, originals, oracles)
    assert found.memory_left == Interval(1.0, 1.0, 1.0)
    assert all(abs(end) < 1e-6 for size in (found.damage, *found.of_split.values()) for end in size)
    assert not found.within(0.1)


@pytest.mark.parametrize(("memory", "harm"), [(0.0, 0.0), (0.5, 0.0), (-0.3, 0.0), (0.2, 1.0), (1.0, 0.5)])
def test_both_sizes_are_unbiased_and_their_intervals_cover_them(memory, harm):
    """300 simulated pools of 16 models against 32 with as much noise as signal."""
    rng = np.random.default_rng(1)
    known = [pools(rng, memory=memory, harm=harm) for _ in range(300)]
    found = [effects(*pool[:3]) for pool in known]
    left = np.array([each.memory_left for each in found])
    assert abs(left[:, 0].mean() - memory) < 4 * left[:, 0].std() / math.sqrt(300) + 0.005
    assert np.mean((left[:, 1] <= memory) & (memory <= left[:, 2])) > 0.92
    harms = np.array([size for *_, size in known])
    squares = np.array([math.copysign(each.damage.value**2, each.damage.value) for each in found])
    assert abs(np.mean(squares - harms**2)) < 4 * squares.std() / math.sqrt(300) + 0.002
    damage = np.array([each.damage for each in found])
    assert np.mean((damage[:, 1] <= harms) & (harms <= damage[:, 2])) > 0.9
    assert np.mean([each.within(0.3) for each in found]) == pytest.approx(float(memory == harm == 0), abs=0.2)


def test_the_memory_of_a_part_is_that_of_its_examples_alone():
    rng = np.random.default_rng(5)
    unlearned, originals, oracles, _ = pools(rng, members=8, memory=0.4, harm=0.3, noise=0.2)
    some = np.arange(EXAMPLES["forget"]) < 15
    unlearned["forget"][:, some] = originals["forget"][:, some]  # untouched
    found = effects(unlearned, originals, oracles, {"memorised": some, "mislabelled": ~some})
    for name, rows in (("memorised", some), ("mislabelled", ~some)):
        alone = effects(*({"forget": pool["forget"][:, rows]} for pool in (unlearned, originals, oracles)))
        assert found.of_part[name] == pytest.approx(alone.memory_left)
    assert found.of_part["memorised"] == pytest.approx((1, 1, 1)) and found.of_part["mislabelled"].high < 0.7
    assert found._replace(of_part={}, parts={}) == effects(unlearned, originals, oracles)._replace(parts={})
    mean = mean_effects([found, found])
    assert {name: size.value for name, size in mean.of_part.items()} == pytest.approx(
        {name: size.value for name, size in found.of_part.items()}
    )


def test_they_are_the_means_over_pairs_of_different_models():
    rng = np.random.default_rng(2)
    unlearned, originals, oracles, _ = pools(rng, members=4, memory=0.4, harm=0.3)
    found = effects(unlearned, originals, oracles)

    def product(a, b, split):
        terms = [
            (a[split][i] - oracles[split][k]) @ (b[split][j] - oracles[split][m]) / EXAMPLES[split]
            for i in range(4)
            for j in range(4)
            if i != j
            for k in range(8)
            for m in range(8)
            if k != m
        ]
        return np.mean(terms)

    whole = product(originals, originals, "forget")
    share = product(unlearned, originals, "forget") / whole
    assert found.memory_left.value == pytest.approx(share) and found.remembered.value == pytest.approx(math.sqrt(whole))
    squares = []
    for split in SPLITS:
        moved, both, gain = (product(*pair, split) for pair in ((unlearned,) * 2, (unlearned, originals), (originals,) * 2))
        squares.append((moved - 2 * share * both + share**2 * gain) / whole)
        root = math.copysign(math.sqrt(abs(squares[-1])), squares[-1])
        assert found.of_split[split].value == pytest.approx(root)
    assert found.damage.value == pytest.approx(math.sqrt(np.mean(squares)))


def test_memory_that_cannot_be_told_from_nothing_has_no_share():
    """Of pools without any memory the intervals of the remembered square include 0, in most of 50 draws."""
    rng = np.random.default_rng(8)
    unknown = []
    for _ in range(50):
        drawn = {split: rng.normal(size=(40, count)) for split, count in EXAMPLES.items()}
        cuts = (slice(0, 8), slice(8, 16), slice(16, 32))
        parts = [{split: margins[cut] for split, margins in drawn.items()} for cut in cuts]
        found = effects(*parts)
        unknown.append(math.isnan(found.memory_left.value))
        assert not found.within(0.1) and math.isnan(found.damage.value) == unknown[-1]
    assert np.mean(unknown) > 0.9
    strong = [effects(*pools(rng)[:3]) for _ in range(2)]
    assert mean_effects([strong[0], found, strong[1]]).memory_left == mean_effects(strong).memory_left


def test_units_do_not_matter_and_nothing_to_forget_is_said():
    unlearned, originals, oracles, _ = pools(np.random.default_rng(3), memory=0.5, harm=0.2)
    found = effects(unlearned, originals, oracles)
    other = effects(
        *({split: 1e180 * margins + 7e180 for split, margins in pool.items()} for pool in (unlearned, originals, oracles))
    )
    for a, b in zip((*found.memory_left, *found.damage), (*other.memory_left, *other.damage), strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6)
    nothing = effects(oracles_like := {split: margins[:16] for split, margins in oracles.items()}, oracles_like, oracles)
    assert not nothing.within(0.1)
    flat = {split: np.zeros((3, count)) for split, count in EXAMPLES.items()}
    assert math.isnan(effects(flat, flat, flat).memory_left.value) and not effects(flat, flat, flat).within(10)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("unlearned", lambda margins: margins[:1], "unlearned: 1 model, expected two or more"),
        ("oracles", lambda margins: margins[:, 1:], "oracles"),
        ("originals", lambda margins: margins * np.nan, "originals forget: models 0, 1"),
    ],
)
def test_what_cannot_be_compared_is_one_line(name, change, said):
    unlearned, originals, oracles, _ = pools(np.random.default_rng(4), members=3)
    given = {"unlearned": unlearned, "originals": originals, "oracles": oracles}
    given[name] = {split: change(margins) for split, margins in given[name].items()}
    with pytest.raises(ValueError, match=rf"^{said}[^\n]*$"):
        effects(**given)


def test_over_forget_sets_they_are_means_with_intervals_for_other_sets():
    rng = np.random.default_rng(5)
    found = [effects(*pools(rng, memory=0.4, harm=0.5)[:3]) for _ in range(5)]
    mean = mean_effects(found)
    assert mean.memory_left.value == pytest.approx(np.mean([each.memory_left.value for each in found]))
    assert mean.damage.value**2 == pytest.approx(np.mean([each.damage.value**2 for each in found]))
    assert mean.memory_left.low < 0.4 < mean.memory_left.high and mean.damage.low < mean.damage.value < mean.damage.high
    parts = np.array([each.parts["memory"] for each in found])
    assert parts.mean() == pytest.approx(mean.memory_left.value, abs=0.02)  # pseudo-values: the jackknife removes bias
    fewer = mean_effects([found[0], effects(*pools(rng, members=8)[:3])])
    assert math.isinf(fewer.memory_left.high) and math.isfinite(fewer.memory_left.value)


@pytest.mark.parametrize(
    ("inside", "sizes", "lost", "said"),
    [
        (None, (0.0, 0.0), 0, None),
        (True, (0.0, 0.02), 0, "equivalent"),
        (False, (0.0, 0.02), 0, "equivalent"),
        (False, (0.0, 0.02), 1, "different"),
        (True, (0.2, 0.02), 0, "not distinguished"),
        (True, None, 0, "not distinguished"),
        (False, (0.05, 0.3), 0, "different"),
    ],
)
def test_the_outcome_is_one_of_three(inside, sizes, lost, said):
    """Intervals of a width of 0.06."""
    found = None
    if sizes:
        memory, damage = (Interval(size, size - 0.03, size + 0.03) for size in sizes)
        found = Effects(memory, damage, {}, Interval(1.0, 1.0, 1.0), {})
    assert outcome_of(inside, found, lost) == said


def test_a_model_is_beside_the_original_of_its_number_whoever_is_lost():
    """Doing nothing leaves exactly everything, if and only if each model meets its own original."""
    rng = np.random.default_rng(7)
    labels = Labels(*(rng.integers(0, 3, 20) for _ in SPLITS))

    def models(count, gain=0.0):
        made = [rng.normal(size=(count, 20, 3)) for _ in SPLITS]
        return Cube(made[0] + gain * np.eye(3)[labels.forget][None], *made[1:])

    originals, oracles = models(8, 4.0), models(16)

    def alive(lost):
        return Cube(*(np.delete(logits, lost, axis=0) for logits in originals)), lost

    for first, second in (((), ()), ((2,), ()), ((0, 5), (5, 7)), ((), (3,))):
        found = effects_of(alive(list(first)), alive(list(second)), oracles, labels)
        assert found.memory_left.value == pytest.approx(1, abs=1e-9) and abs(found.damage.value) < 1e-6
        assert len(found.parts["memory"]) == 8 - len({*first, *second})
    assert effects_of(alive([0, 1, 2, 3]), alive([4, 5, 6]), oracles, labels) is None
    assert effects_of(alive([]), None, oracles, labels) is None


def test_a_difference_of_two_methods_is_tested_by_original():
    rng = np.random.default_rng(7)
    p, far = [], []
    for _ in range(200):
        unlearned, originals, oracles, _ = pools(rng, memory=0.4, harm=0.5)
        again, further = (
            {
                split: rng.normal(size=part.shape) + part.mean(axis=0) + extra * (split == "retain")
                for split, part in unlearned.items()
            }
            for extra in (0, 6)
        )
        first, second, third = (distances_left_out([effects(pool, originals, oracles)]) for pool in (unlearned, again, further))
        p.append(distance_p(second - first))
        far.append(distance_p(third - first))
    assert np.mean(np.array(p) < 0.05) < 0.1 and np.mean(np.array(far) < 0.05) > 0.95
    assert distance_p(np.zeros(9)) == 1.0 and distance_p(np.full(9, 0.1)) == 0.0
