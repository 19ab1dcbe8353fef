"""Signs and weights of entropy and loss: the study in small, how it sums up, and its figures."""

import csv
import dataclasses
import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest
from in_process import run_in_process

from experiments.entropy import prediction, report
from experiments.entropy import study as entropy
from experiments.entropy.options import CIRCUMSTANCES, Config
from experiments.entropy.study import ORIGINALS, JudgedSet, distances, families, summarise
from unlearn_jax.errors import ArgumentError
from unlearn_jax.metrics.statistics import chosen_elsewhere
from unlearn_jax.models import build
from unlearn_jax.types import Examples, Interval, Problem

SETTINGS = np.array(list(itertools.product([-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0])))
MEMBERS, EXAMPLES = 4, 6
rng = np.random.default_rng(0)


def judged(away, entropies=(0.5, 0.1), shape=(EXAMPLES, 5, 4)):
    """A forget set on which the margins of each setting are `away` from the oracles'; entropies of originals and oracles."""
    spread = rng.normal(size=MEMBERS)
    oracles = [np.repeat(spread[:, None, None], 2, axis=1) + np.zeros((MEMBERS, 2, count)) for count in shape]
    margins = [np.array([spread[:, None] + far + np.zeros((MEMBERS, count)) for far in away]) for count in shape]
    rows = len(away)
    return JudgedSet(
        margins,
        oracles,
        np.repeat(np.abs(away)[None, :, None], 3, axis=0) + np.zeros((3, rows, MEMBERS)),
        np.full((rows, MEMBERS), entropies[0]),
        np.ones((rows, MEMBERS)),
        np.full((MEMBERS, 2), entropies[1]),
        np.full((MEMBERS, 2), 3.0),
        np.full(MEMBERS, 0.25),
    )


def away(best, settings=SETTINGS):
    """Distances of all settings that grow with the distance of their weights from the best pair; then nothing, and the null."""
    return np.array([*np.abs(settings - best).sum(axis=1), 5.0, 0.0])


def test_the_study_leaves_its_tables_and_goes_on_where_it_was(tmp_path, monkeypatch):
    command = f"--exp entropy --smoke --device cpu --out {tmp_path}/out --cache {tmp_path}/cache --circumstances corrected"
    done = run_in_process(*command.split())
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in tmp_path.rglob("*.png")} == {"maps", "predictions", "signs"}
    with (tmp_path / "out/settings.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (9 + 2)

    def of(field, *weights, kind="setting"):
        asked = [kind, *map(str, weights)]
        return np.array([float(row[field]) for row in rows if [row["kind"], row["entropy_weight"], row["loss_weight"]] == asked])

    assert (of("entropy", -0.3, 0.0) > of("entropy", 0.3, 0.0)).all()
    # the right labels are lowered, and all others raised, where the right ones are at hand
    assert (of("loss", 0.0, 0.1) < of("loss", 0.0, -0.1)).all()
    assert (of("loss", "", "", kind="nothing") < 3).all() and (of("accuracy_forget", "", "", kind="nothing") < 50).all()
    measured = json.loads((tmp_path / "out/results.json").read_text())["corrected"]
    assert {f"distance: {gain}" for gain in report.GAINS} | set(report.SHOWN) <= set(measured)
    monkeypatch.setattr(entropy, "judge", lambda *_: pytest.fail("done before"))
    again = run_in_process(*command.split())
    assert again.returncode == 0 and again.stdout == done.stdout


@pytest.mark.parametrize("best", [(1.0, 1.0), (-1.0, 0.0), (1.0, -1.0)])
def test_the_gain_of_a_term_is_the_distance_without_it_less_that_with_it(best):
    """Distances in units of the oracles' sd are known: each weight that is off by one adds as much on each of three splits."""
    sets = [judged(away(best)) for _ in range(3)]
    found = summarise("name", "title", sets, SETTINGS)
    unit = np.mean([3 / one.oracles[0][..., 0].std() for one in sets])
    expected = {  # the steps to the best pair without the term, less those with it
        "gain of lowering entropy, alone": abs(best[0]) - abs(best[0] - 1),
        "gain of raising entropy, alone": abs(best[0]) - abs(best[0] + 1),
        "gain of lowering loss, alone": abs(best[1]) - abs(best[1] - 1),
        "gain of raising loss, beside": abs(best[1]) - abs(best[1] + 1),
        "gain of lowering both": sum(map(abs, best)) - sum(abs(one - 1) for one in best),
        "entropy: lowering over raising, beside": abs(best[0] + 1) - abs(best[0] - 1),
        "loss: lowering over raising, alone": abs(best[1] + 1) - abs(best[1] - 1),
    }
    for gain, steps in expected.items():
        assert found.measures[f"distance: {gain}"][0] == pytest.approx(steps * unit, abs=1e-6), gain
        assert found.measures[f"divergence: {gain}"][0] == pytest.approx(3 * steps), gain
    assert found.measures["distance: nothing"][0] == pytest.approx(5 * unit)
    assert found.measures["distance: null"][0] == pytest.approx(0, abs=1e-6)
    assert found.measures["entropy gap"] == pytest.approx((-0.4, -0.4, -0.4))
    assert found.measures["loss gap"][0] == 2 and found.measures["same answer"][0] == 0.25
    totals = found.totals([-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0])
    assert np.unravel_index(np.argmin(totals), totals.shape) == (best[1] + 1, best[0] + 1)  # loss down, entropy across


def test_an_interval_leaves_out_an_original_with_its_own_oracles():
    one = judged(away((0.0, 0.0)))
    some = np.array([0, 2, 3])
    margins, oracles = one.margins[0][ORIGINALS, some], one.oracles[0][some].reshape(6, -1)
    apart = (margins.mean(0) - oracles.mean(0)) ** 2 + (margins.std(0) - oracles.std(0)) ** 2
    assert distances(one, some)[0, ORIGINALS] == pytest.approx(np.sqrt(apart.mean() / oracles.var(0).mean()))


def test_what_diverges_counts_as_twice_doing_nothing():
    settings = np.array(list(itertools.product(np.arange(-2.0, 3.0), repeat=2)))
    sets = [judged(away((2.0, 2.0), settings)) for _ in range(2)]
    assert summarise("name", "title", sets, settings).measures["divergence: entropy lowered"][0] == 0
    sets[0].margins[0][-3, 1] = np.nan  # the best setting, in one member of one set
    sets[0].divergence[0, -3, 1] = np.nan
    found = summarise("name", "title", sets, settings)
    # the other set's choice is ruined here, and this one's choice there is one step away
    assert found.by_set["divergence: entropy lowered"] == pytest.approx([2 * 5 * 3, 3])
    assert found.by_set["distance: entropy lowered"][0] == pytest.approx(2 * found.by_set["distance: nothing"][0])


def test_a_choice_is_made_on_the_other_sets():
    far = np.array([[0.0, 3.0, 1.0, 9.0], [5.0, 3.0, 2.0, 0.0], [4.0, 0.0, 3.0, 0.0]])
    everything = np.ones(4, bool)
    np.testing.assert_array_equal(chosen_elsewhere(far, everything), [3, 1, 2])
    np.testing.assert_array_equal(chosen_elsewhere(far, np.array([True, True, False, False])), [1, 1, 0])
    for wrong in ((far[:1], everything), (far, ~everything)):
        with pytest.raises(ValueError, match=r"^distances: "):
            chosen_elsewhere(*wrong)


def test_every_sign_pair_is_a_family():
    found = families(SETTINGS)
    pairs = [mask for name, mask in found.items() if "," in name]
    np.testing.assert_array_equal(np.sum(pairs, axis=0), 1)
    np.testing.assert_array_equal(SETTINGS[found["entropy lowered, loss raised"]], [[1.0, -1.0]])
    np.testing.assert_array_equal(found["loss none"], SETTINGS[:, 1] == 0)


def test_figures_show_every_circumstance_and_the_best_pair():
    best = {"one": (1.0, -1.0), "other": (-1.0, 0.0)}
    found = [summarise(name, f"title of {name}", [judged(away(at)) for _ in range(2)], SETTINGS) for name, at in best.items()]
    study = report.Results("all", [-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0], found)
    panels = [axes for axes in report.maps(study).axes if axes.images]
    assert [axes.get_title().splitlines()[0] for axes in panels] == ["title of one", "title of other"]
    stars = [next(tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "*") for axes in panels]
    assert stars == [(2, 0), (0, 1)]
    image = panels[0].images[0].get_array()
    assert image[0, 2] == pytest.approx(1) and image.argmin() == 6  # as near as retrained; the opposite corner is the furthest
    axes = report.signs(study).axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    gap, better = dots[0].get_xydata()[0]
    assert gap == pytest.approx(-0.4) and better > 0 > dots[2].get_xydata()[0][1]
    text = report.summary(study)
    assert text.count("title of one") == 2 and "nearest 0.00 at entropy +1, loss -1" in text


def test_the_nearest_setting_is_nearest_on_average_and_not_on_one_set():
    found = summarise("one", "title", [judged(away((1.0, -1.0))) for _ in range(2)], SETTINGS)
    totals = {(0, -1.0, -1.0): 1.0, (1, -1.0, -1.0): 9.0, (0, 1.0, 1.0): 3.0, (1, 1.0, 1.0): 3.5}
    tried = [
        one._replace(total=totals.get((one.forget_set, one.entropy_weight, one.loss_weight), 8.0))
        for one in found.tried
        if one.kind == "setting"
    ]
    ends = [one._replace(total=0.0) for one in found.tried if one.kind != "setting"]
    assert "nearest 3.25 at entropy +1, loss +1" in report.headline(found._replace(tried=tried + ends))


def test_circumstances_are_what_their_names_say():
    config = Config()
    under = {name: config.with_circumstance(each) for name, each in CIRCUMSTANCES.items()}
    assert (under["class"].forget.kind, under["class"].label_noise) == ("class", 0.1)
    assert (under["clean"].forget, under["clean"].label_noise) == (under["random"].forget, 0.0)
    assert (under["mislabelled_short"].train.epochs, under["mislabelled_long"].train.epochs) == (13, 120)
    assert {own.forget.size for name, own in under.items() if "mislabelled" in name} == {0.5, 0.2}
    for own in under.values():
        own.forget.check()
    assert Config(entropy_weights=(0.1, 2.0)).weights()[0] == [-2.0, -0.1, 0.0, 0.1, 2.0]


@pytest.mark.parametrize(
    ("changed", "option"),
    [
        ({"members": 2}, "--members"),
        ({"members": "auto"}, "--members"),
        ({"forget_sets": 1}, "--forget-sets"),
        ({"circumstances": ("random", "odd")}, "--circumstances"),
        ({"circumstances": ()}, "--circumstances"),
        ({"entropy_weights": (0.1, "x")}, "--entropy-weights"),
        ({"loss_weights": (0.3, 0.1)}, "--loss-weights"),
        ({"loss_weights": (-0.1,)}, "--loss-weights"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"epochs": 0}, "--epochs"),
        ({"batch_size": 0}, "--batch-size"),
    ],
)
def test_a_mistake_names_its_option(changed, option):
    with pytest.raises(ArgumentError) as raised:
        dataclasses.replace(Config(), **changed).check()
    assert raised.value.argument == option


def test_terms_are_on_other_examples_in_a_control():
    """Only the rows of the forget set change, and to what was asked for; few held-out examples come more than once."""
    rows = np.arange(12)
    mask = rows >= 7
    images = np.tile(rows[:, None].astype(np.float32), (1, 3))
    problem = small_problem(images, rows % 4, mask)
    assert entropy.showing(problem, mask, "forget", np.random.default_rng(0)) is problem
    for shown, allowed in (("retain", set(range(7))), ("held_out", {100, 101, 102})):
        changed = entropy.showing(problem, mask, shown, np.random.default_rng(0)).train
        np.testing.assert_array_equal(changed.images[~mask], images[~mask])
        drawn = np.asarray(changed.images)[mask, 0].astype(int)
        assert set(drawn) <= allowed and len(set(drawn)) == min(5, len(allowed))
        np.testing.assert_array_equal(np.asarray(changed.labels)[mask], drawn % 4)


def small_problem(images, labels, mask):
    """A problem with three held-out examples, 100 to 102, and no model to speak of."""
    held_out = 100 + np.arange(3)
    return Problem(
        train=Examples(jnp.asarray(images), jnp.asarray(labels)),
        held_out=Examples(jnp.asarray(np.tile(held_out[:, None].astype(np.float32), (1, 3))), jnp.asarray(held_out % 4)),
        kept=jnp.ones(len(mask), bool),
        forget=jnp.asarray(mask),
        model=build("mlp", classes=4, width=8),
        classes=4,
        kept_count=len(mask),
        forget_count=int(mask.sum()),
    )


@pytest.mark.parametrize(
    ("gap", "same", "sign", "by_gap"),
    [(0.2, 0.9, "raise", "raise"), (-0.2, 0.0, "raise", "lower"), (-0.2, 0.4, "neither", "lower"), (-0.2, 0.6, "lower", "lower")],
)
def test_the_sign_is_predicted_from_the_gap_and_the_same_answers(gap, same, sign, by_gap):
    assert (prediction.rule(gap, same), prediction.by_gap(gap, same)) == (sign, by_gap)


def test_a_prediction_is_right_where_the_sign_that_gains_beyond_noise_is_the_predicted_one():
    def found(name, lowering, raising, **fields):
        one = summarise(name, f"title of {name}", [judged(away((1.0, 0.0))) for _ in range(2)], SETTINGS)
        gains = {"lowering": Interval(*lowering), "raising": Interval(*raising)}
        changed = {f"distance: gain of {doing} entropy, alone": gain for doing, gain in gains.items()}
        return one._replace(measures=one.measures | changed, **fields)

    circumstances = [
        found("random", (-1.0, -1.5, -0.5), (0.3, 0.1, 0.5)),  # oracles are surer, same answers 0.25: raise
        found("class_short", (0.4, 0.2, 0.6), (0.2, 0.1, 0.3)),
        found("random_short", (0.4, -0.2, 1.0), (-0.2, -0.5, 0.1)),
        found("short_on_retain", (0.4, 0.2, 0.6), (0.0, -0.1, 0.1), control=True),
    ]
    study = report.Results("all", [-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0], circumstances)
    assert [one.found for one in prediction.outcomes(study)] == ["raise", "lower", "neither"]
    assert [one.unseen for one in prediction.outcomes(study)] == [False, True, True]
    assert prediction.hits(prediction.outcomes(study), "always raise") == "1 of 3 (1 to 91%)"
    assert "the rule 0 of 2 (0 to 84%); the gap alone 1 of 2" in prediction.summary(study)
    elsewhere = study._replace(known=False)  # on other data and networks all are new to the rule
    assert all(one.unseen for one in prediction.outcomes(elsewhere))
    (axes,) = prediction.figure(study).axes
    lowering = next(line for line in axes.lines if line.get_label() == "lowering the entropy")
    assert lowering.get_xdata().tolist() == [-1.0, 0.4, 0.4, 0.4]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0] == "title of random\n(predicted: raise)" and labels[3].endswith("(control)")
    assert len(prediction.table(study).rows) == 3 and len(prediction.table(study).columns) == len(prediction.table(study).rows[0])
