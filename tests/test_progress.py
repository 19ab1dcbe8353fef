"""What a run says while it runs: how much time is left of all of it."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from unlearn_jax import progress
from unlearn_jax.bench.time_left import stages
from unlearn_jax.bench.weights import Weights
from unlearn_jax.progress import Ahead, about, planned, working


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test turns."""

    class Clock:
        now = 100.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def work(clock, label, seconds, share=1.0):
    with working(label) as update:
        clock.now += seconds
        update(share, "done")


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_the_time_left_follows_from_what_the_stages_before_took(clock, capsys):
    with planned([Ahead("original models", 10), Ahead("oracle models", 20), Ahead("compiling", seconds=30.0), Ahead("scrub", 5)]):
        work(clock, "original models", 20)  # two seconds for each unit: 40 + 30 + 10 are left
        work(clock, "elsewhere", 500)
        work(clock, "oracle models", 40)
        work(clock, "compiling", 90)
        work(clock, "scrub", 10)
    work(clock, "scrub", 1)
    said = lines(capsys)
    assert said[0] == "original models: done; 20.0 s in total; whole run: about 80 s left"
    assert (
        said[1] == "elsewhere: done; 500.0 s in total"
    )  # a stage that nobody planned says nothing of the run, and teaches nothing
    assert said[2].endswith("whole run: about 40 s left") and said[3].endswith("whole run: about 10 s left")
    assert said[4] == "scrub: done; 10.0 s in total" and said[5] == "scrub: done; 1.0 s in total"


def test_what_is_read_from_the_cache_says_nothing_of_the_rate(clock, capsys):
    with planned([Ahead("original models", 100), Ahead("oracle models", 10), Ahead("oracle models", 10), Ahead("scrub", 10)]):
        work(clock, "original models", 0.01)
        work(clock, "oracle models", 30)
        work(clock, "oracle models", 0.1)
        work(clock, "scrub", 30)
    said = lines(capsys)
    assert said[0] == "original models: done; 0.0 s in total"  # no rate is known yet
    assert said[1].endswith("about 60 s left") and said[2].endswith("about 30 s left")


def test_stages_that_are_skipped_are_no_longer_ahead(clock, capsys):
    """Methods whose logits an earlier run left are not run again."""
    with planned([Ahead("original models", 10), *(Ahead(name, 10) for name in ("scrub", "salun", "ssd")), Ahead("fisher", 10)]):
        work(clock, "original models", 10)
        work(clock, "ssd", 10)
    said = lines(capsys)
    assert said[0].endswith("about 40 s left") and said[1].endswith("about 10 s left")


def test_the_stages_of_the_main_job_are_in_its_order():
    """Oracles of later sets come first, so that a run stops early if they diverge, and are then read; each seed is a stage."""
    masks = {"one": np.arange(10) < 2, "two": np.arange(10) < 4}
    recipe = SimpleNamespace(problem=SimpleNamespace(recipe=SimpleNamespace(epochs=3)), weights=Weights())
    found = stages(SimpleNamespace(members=5, unlearning_seeds=2), recipe, masks, ["original", "retrain", "scrub"])
    of_set = ["oracle models", "compiling", "retrain models", "retrain models", "scrub", "scrub", "scores"]
    assert [each.label for each in found] == ["original models", "oracle models", *of_set, *of_set]
    assert [each.work for each in found[:4]] == [150, 2 * 90, 2 * 120, 0] and found[9].work == 0  # read again
    given = recipe.weights._replace(originals=object(), oracles={"one": object(), "two": object()})
    labels = {
        each.label
        for each in stages(
            SimpleNamespace(members=5, unlearning_seeds=1),
            SimpleNamespace(problem=recipe.problem, weights=given),
            masks,
            ["original"],
        )
    }
    assert labels == {"scores"}


def test_a_plan_ends_with_its_run(clock, capsys):
    with pytest.raises(ValueError, match="stopped"), planned([Ahead("a", 1), Ahead("b", 1)]):
        work(clock, "a", 10)
        raise ValueError("stopped")
    work(clock, "b", 10)
    assert [bool(re.search("whole run", line)) for line in lines(capsys)] == [True, False]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "about 5 s left"),
        (44, "about 45 s left"),
        (89, "about 90 s left"),
        (100, "about 2 min left"),
        (7500, "about 2 h 5 min left"),
    ],
)
def test_times_are_no_more_precise_than_they_are_known(seconds, words):
    assert about(seconds) == words
