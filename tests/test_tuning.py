"""The search for hyperparameters: what it tries, what it is judged by, and what is used of it."""

import csv
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from in_process import run_in_process

from unlearn_jax.bench import tuning, tuning_options
from unlearn_jax.bench.forget_set import forget_mask
from unlearn_jax.bench.options import SETS
from unlearn_jax.bench.panel import Judging, Panel, Programs
from unlearn_jax.bench.setting import prepare
from unlearn_jax.bench.tuned import FOLDER
from unlearn_jax.bench.tuning import Checked, Search, Searched, place
from unlearn_jax.bench.tuning_options import Config, smoke
from unlearn_jax.methods import METHODS, Range
from unlearn_jax.metrics.effects import SPLITS, distance_interval, distances_left_out, effects
from unlearn_jax.runs import Run
from unlearn_jax.training.pools import member_keys
from unlearn_jax.types import Interval

DOCS = Path(__file__).parent.parent / "docs/findings"


def effects_at(distance, members, rng=None):
    """The effects of models that remember a share of what there is to forget; with noise if a generator is given."""
    draw = np.random.default_rng(0) if rng is None else rng
    oracles = {split: 0.01 * draw.normal(size=(2 * members, 20)) for split in SPLITS}
    before = {split: 0.01 * draw.normal(size=(members, 20)) + 3 * (split == "forget") for split in SPLITS}
    after = {split: distance * before[split] for split in SPLITS}
    return effects(after, before, oracles)


class Peer:
    """A panel for which a learning rate of 0.02 is best."""

    identity, retraining = {"dataset": "none"}, 10.0

    def __init__(self):
        self.asked = []

    def few(self, share):
        return 16 // share

    def judge(self, name, base, settings, members=None):
        self.asked.append((len(settings), members))
        far = [abs(np.log(setting["learning_rate"] / 0.02)) / 10 for setting in settings]
        return [[effects_at(each, members or 16)] for each in far], 5.0 * len(settings) * (members or 16)


def test_few_originals_meet_all_trials_and_all_meet_the_best(tmp_path):
    panel, config = Peer(), Config(trials=12, rounds=3)
    name = next(name for name, entry in METHODS.items() if list(entry.search) == ["learning_rate"])
    search = Search(config, Run(tmp_path), panel)
    found = search.tune(name)
    assert panel.asked[::2] == [(4, 4)] * 3 and all(count <= 2 and members is None for count, members in panel.asked[1::2])
    scores = np.array([trial["score"] for trial in found.trials])
    assert [score.value for score in found.scores] == sorted(scores[np.isfinite(scores)])[:3] and found.authors == scores[0]
    best = found.trials[int(np.nanargmin(scores))]
    assert found.trials[0]["learning_rate"] == METHODS[name].defaults["learning_rate"]
    assert found.values[0]["learning_rate"] == pytest.approx(best["learning_rate"], rel=1e-2)
    assert found.cost == sum(5.0 * count * (members or 16) for count, members in panel.asked) / panel.retraining
    before = len(panel.asked)
    again = Search(config, Run(tmp_path), panel).tune(name)
    assert repr(again) == repr(found) and len(panel.asked) == before  # NaN is not equal to itself
    more = Search(dataclasses.replace(config, trials=15), Run(tmp_path), panel).tune(name)
    assert len(more.trials) == 15


def test_more_originals_meet_all_trials_where_few_remember_too_little_to_measure():
    """Of clean data that are learned briefly four models cannot tell what they remember from noise: the search failed there."""
    rng, panel = np.random.default_rng(0), object.__new__(Panel)
    oracles = {split: rng.normal(size=(32, 20)) for split in SPLITS}
    before = {split: rng.normal(size=(16, 20)) + 0.8 * (split == "forget") for split in SPLITS}
    panel.members, panel.before = 16, [before]
    panel.sets = [Judging("random-0", None, None, (), (), oracles)]
    found = panel.few(4)
    known = [bool(effects(few, few, oracles).parts) for n in (4, 8, 16) for few in [{s: m[:n] for s, m in before.items()}]]
    assert found > 4 and known == [n >= found for n in (4, 8, 16)]
    panel.before = [{**before, "forget": before["forget"] + 5}]
    assert panel.few(4) == 4
    panel.before = [{**before, "forget": oracles["forget"][:16]}]
    assert panel.few(4) == 16


def test_trials_are_in_proportion_to_the_number_of_hyperparameters(tmp_path):
    class Any(Peer):
        def judge(self, name, base, settings, members=None):
            self.asked.append((len(settings), members))
            return [None if number else [effects_at(0.5, members or 16)] for number, _ in enumerate(settings)], 1.0

    for name in ("finetune", "neggrad_plus", "scrub"):
        assert len(Search(Config(), Run(tmp_path), Any()).tune(name).trials) == 12 * len(METHODS[name].search)


def test_a_method_that_always_diverges_is_reported_and_not_tuned(tmp_path):
    class Ruin(Peer):
        members = 16

        def judge(self, name, base, settings, members=None):
            return [None for _ in settings], 1.0

    searched = Search(Config(), Run(tmp_path), Ruin()).tune("finetune")
    checked = tuning.check(Run(tmp_path), Ruin(), "finetune", searched)
    assert (
        searched.scores[0].value == np.inf
        and checked.used == "default"
        and "inf" in tuning.summary({"finetune": (searched, checked)}, interval(0.0, 0.1))
    )


def test_later_rounds_look_around_the_best_and_stay_inside_the_space():
    space = {"a": Range(1e-3, 1.0), "b": Range(0.0, 1.0, "linear")}
    corners = [place(space, corner, {"a": 1.0, "b": 0.5}) for corner in ((0, 0), (1, 1))]
    assert [corner["b"] for corner in corners] == [0.375, 0.625]
    assert corners[1]["a"] == pytest.approx(1.0) and corners[0]["a"] == pytest.approx(1e-3 ** (tuning.NARROW / 2))
    assert [place(space, corner, None) for corner in ((0, 0), (1, 1))] == [{"a": pytest.approx(1e-3), "b": 0}, {"a": 1, "b": 1}]


def interval(value, reach):
    return Interval(value, value - reach, value + reach)


@pytest.mark.parametrize(
    ("tuned", "default", "difference", "used", "worse"),
    [
        (interval(0.5, 0.1), interval(0.9, 0.1), interval(-0.4, 0.1), "tuned", False),
        (interval(0.6, 0.1), interval(0.5, 0.1), interval(0.1, 0.2), "tuned", False),  # noise
        (interval(0.9, 0.1), interval(0.5, 0.1), interval(0.4, 0.1), "default", False),
        (interval(1.5, 0.1), interval(1.2, 0.5), interval(0.3, 0.6), "default", False),  # than doing nothing
        (interval(1.5, 0.1), interval(2.5, 0.5), interval(-1.0, 0.6), "tuned", True),
        (interval(1.5, 0.1), interval(1.3, 0.1), interval(0.2, 0.1), "default", True),
        (Interval(np.inf, -np.inf, np.inf), interval(1.3, 0.1), interval(np.nan, np.nan), "default", True),
    ],
)
def test_what_is_worse_outside_the_search_is_not_used(tuned, default, difference, used, worse):
    checked = Checked(0, tuned, default, difference, 0.0, 0.0)
    assert (checked.used, checked.worse_than_nothing) == (used, worse)


def test_the_next_best_is_used_where_the_best_does_not_hold(tmp_path):
    """The best of the search ruins a model on the other panel, the second is worse than the authors' values, the third holds."""

    class Other(Peer):
        members = 16

        def judge(self, name, base, settings, members=None):
            far = {1.0: None, 2.0: 0.9, 3.0: 0.3}.get(base["learning_rate"], 0.5)
            return [far and [effects_at(far, 16)]], 1.0

    values = [METHODS["finetune"].defaults | {"learning_rate": rate} for rate in (1.0, 2.0, 3.0)]
    searched = Searched([], [interval(0.1, 0.1)] * 3, values, 0.5, 1.0)
    checked = tuning.check(Run(tmp_path / "a"), Other(), "finetune", searched)
    assert (checked.rank, checked.used) == (2, "tuned") and checked.tuned.value == pytest.approx(0.3, abs=0.01)
    only = searched._replace(values=values[:2], scores=searched.scores[:2])
    checked = tuning.check(Run(tmp_path / "b"), Other(), "finetune", only)
    assert (checked.rank, checked.used) == (0, "default") and checked.default.value == pytest.approx(0.5, abs=0.01)


def test_doing_nothing_is_one_away_and_leaving_out_is_leaving_out():
    rng = np.random.default_rng(3)
    pools = [
        {split: rng.normal(size=(count, 30)) + 2 * (split == "forget") * (kind == "before") for split in SPLITS}
        for kind, count in (("after", 6), ("before", 6), ("oracles", 12))
    ]
    after, before, oracles = pools
    assert distances_left_out([effects(before, before, oracles)]) == pytest.approx(1.0)
    found = distances_left_out([effects(*pools), effects(before, before, oracles)])
    for out in range(6):
        rest = [{split: np.delete(part, out, axis=0) for split, part in pool.items()} for pool in (after, before)]
        one, two = effects(*rest, oracles), effects(rest[1], rest[1], oracles)
        memory = (one.memory_left.value + two.memory_left.value) / 2
        square = np.sign(one.damage.value) * one.damage.value**2 / 2
        assert found[1 + out] == pytest.approx(max(abs(memory), np.sign(square) * np.sqrt(abs(square))), abs=1e-6)
    value, low, high = distance_interval(found)
    assert low < value == found[0] < high


def test_the_panels_use_nothing_that_the_evaluation_uses(tmp_path):
    """Other forget sets, and keys of which the evaluation has none: a setting chosen on its own oracles would be no finding."""
    config = dataclasses.replace(smoke(Config()), train_size=150, cache=tmp_path)
    assert tuning.first_set(config) == SETS
    setting = prepare(config)
    panel = Panel(config, setting, config.seed + tuning.SEED, [SETS, SETS + 1], Programs())
    evaluated = [forget_mask(config, setting, index) for index in range(5)]
    assert all((np.asarray(each.problem.forget) != mask).any() for each in panel.sets for mask in evaluated)
    seeds = config.seed, config.seed + tuning.SEED, config.seed + tuning.HELD_OUT
    keys = [
        {tuple(row) for role in ("original", "oracle") for row in np.asarray(jax.random.key_data(member_keys(seed, role, 8)))}
        for seed in seeds
    ]
    assert not keys[0] & keys[1] and not keys[1] & keys[2] and not keys[0] & keys[2]
    pools = [json.loads(path.read_text()) for path in tmp_path.rglob("identity.json")]
    assert {pool["seed"] for pool in pools} == {panel.seed}
    (nothing,), _ = panel.judge("gradient_ascent", {"learning_rate": 0.0, "epochs": 1, "batch_size": 64}, [{}])
    assert distances_left_out(nothing) == pytest.approx(1.0, abs=1e-3)
    few, _ = panel.judge("finetune", {**METHODS["finetune"].defaults, "epochs": 1}, [{"learning_rate": 0.1}] * 2, 3)
    assert distances_left_out(few[0]) == pytest.approx(distances_left_out(few[1]), abs=1e-6)  # equal keys, and padded


def test_a_search_leaves_its_tables_and_its_picture(tmp_path):
    command = f"--exp tuning --smoke --device cpu --out {tmp_path}/out --cache {tmp_path}/cache --methods finetune"
    done = run_in_process(*command.split())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/figures/tuning.png").is_file() and "finetune" in (tmp_path / "out/summary.md").read_text()
    with (tmp_path / "out/tuning.csv").open() as file:
        (row,) = csv.DictReader(file)
    written = json.loads((tmp_path / "out/tuned.json").read_text())["hyperparameters"]
    assert (row["used"] == "tuned") == ("finetune" in written) and float(row["held_out_low"]) <= float(row["held_out"])


@pytest.mark.parametrize("dataset", sorted(file.stem for file in FOLDER.glob("*.json")))
def test_no_tuned_method_is_worse_than_its_default_or_than_doing_nothing(dataset):
    """On models and forget sets that the search did not see, by more than noise. Where one is, the table says so."""
    used = json.loads((FOLDER / f"{dataset}.json").read_text())["hyperparameters"]
    with (DOCS / f"tuning-{dataset.removesuffix('_mnist')}/tuning.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert used.keys() == {name for name, row in rows.items() if row["used"] == "tuned"}
    for name in used:
        row = {key: float(value) for key, value in rows[name].items() if key not in ("method", "used", "worse_than_nothing")}
        assert row["difference_low"] <= tuning.NEGLIGIBLE, name
        assert row["held_out_low"] <= 1 + tuning.NEGLIGIBLE or row["held_out"] <= row["default"], name
        assert (row["held_out_low"] > 1 + tuning.NEGLIGIBLE) == (rows[name]["worse_than_nothing"] == "True"), name


def test_values_of_another_data_set_are_judged_without_a_search(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning_options, "TUNED", ("digits", "elsewhere"))
    monkeypatch.setattr(tuning, "tuned", lambda dataset: {"finetune": {"learning_rate": 0.2, "epochs": 2}})
    command = f"--exp tuning --smoke --device cpu --out {tmp_path}/out --cache {tmp_path}/cache --methods finetune"
    done = run_in_process(*command.split(), "--transfer", "elsewhere")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out/tuning.csv").open() as file:
        (row,) = csv.DictReader(file)
    written = json.loads((tmp_path / "out/tuned.json").read_text())["hyperparameters"]
    assert row["trials"] == "0" and row["score"] == "nan" and row["used"] == "tuned"
    assert written["finetune"]["learning_rate"] == 0.2 and written["finetune"]["epochs"] == 2
