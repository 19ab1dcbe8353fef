"""Seconds a member, seconds of compilation: by a clock that goes as it is told, so that what is divided by what can be seen."""

from types import SimpleNamespace

import clock
import jax
import numpy as np
import pytest
import test_influence
import test_pools
from test_methods import linear, problem, start

from experiments.influence import study as influence_study
from unlearn_jax import influence
from unlearn_jax.influence import Window
from unlearn_jax.methods import hyperparameters
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.training import cost, pools
from unlearn_jax.training.pools import member_keys

DEVICES = 2  # see conftest.py


def test_a_pools_seconds_are_the_median_of_a_members_share_of_its_chunk(tmp_path, monkeypatch):
    """Chunks of two, two and one member; a chunk is compiled for two devices, and so only once."""
    looks = [0.0, 5.0, 12.0, 100.0, 101.0, 104.0, 200.0, 202.0, 212.0]  # of each chunk: begin, ready, done
    monkeypatch.setattr(pools, "time", clock.showing(looks))
    pool, _ = test_pools.train(tmp_path, 5, chunk=2)
    assert pool.compile_seconds == 5.0 + 1.0 + 2.0
    assert pool.seconds == np.median([3.5, 3.5, 1.5, 1.5, 10.0])
    more, _ = test_pools.train(tmp_path, 4)  # from the cache: what the first four took, and nothing compiled
    assert (more.seconds, more.compile_seconds) == (np.median([3.5, 3.5, 1.5, 1.5]), 0.0)


def test_a_methods_seconds_are_those_of_all_chunks_over_all_members(monkeypatch):
    """Three members, two at a time."""
    on, members = problem(linear()), jax.tree.map(lambda *leaves: np.stack(leaves), *(start(linear(), seed) for seed in range(3)))
    unlearner = Unlearner("finetune", hyperparameters("finetune", {"epochs": 1}), on, members, chunk=2)
    monkeypatch.setattr(
        "unlearn_jax.methods.apply.time", clock.showing([0.0, 7.0, 20.0, 23.0, 40.0, 42.0, 60.0, 64.0, 80.0, 83.5])
    )
    keys, shares = member_keys(0, "any", 3), []
    first = unlearner.apply(keys, shares.append)
    assert (first.seconds, first.compile_seconds, shares) == (pytest.approx((3.0 + 2.0) / 3), 7.0, [2 / 3, 1.0])
    again = unlearner.apply(keys)
    assert (again.seconds, again.compile_seconds) == (pytest.approx((4.0 + 3.5) / 3), 7.0)


def test_leave_one_outs_rate_is_the_work_between_the_ends_of_the_first_and_the_last_chunk(monkeypatch):
    run, found = test_influence.run_of(test_influence.SGD), SimpleNamespace(points=np.arange(6))

    def left_out(original, report, **options):
        for share in (0.25, 0.5, 1.0):
            report(share)
        return found

    monkeypatch.setattr(influence, "leave_one_out", left_out)
    monkeypatch.setattr(influence_study, "time", clock.showing([10.0, 14.0, 15.0, 20.0]))
    window = Window(*test_influence.WINDOW)
    _, speed = influence_study.leave_one_out(test_influence.Config(), run, test_influence.TOY, window, "label")
    plain = run.replace(model=run.model._replace(gradient=None))
    work = 7 * cost.flops(influence.train, plain, np.ones(test_influence.POINTS, np.float32)) / 1e9
    assert speed == {"seconds": 10.0, "gflop": pytest.approx(work), "gflops": pytest.approx(0.75 * work / 6.0)}


def test_the_peak_is_that_of_the_quickest_product(monkeypatch):
    monkeypatch.setattr(influence_study, "PEAK", 8)
    monkeypatch.setattr(influence_study, "time", clock.showing([0.0, 3.0, 10.0, 12.0, 20.0, 24.0]))
    assert influence_study.measure_peak(3) == pytest.approx(2 * 8**3 / 2.0 / 1e9)
