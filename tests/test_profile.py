"""Where the time goes: what each stage is charged with, and a trace that names the stages."""

import gzip
import json
import threading
import time

import jax
import jax.numpy as jnp
import pytest

from unlearn_jax import progress
from unlearn_jax.profile import events, longest_stages, profiled
from unlearn_jax.progress import SECONDS, SPANS, stage
from unlearn_jax.runs import Run


@pytest.fixture
def clock(monkeypatch):
    """Seconds pass when the test says so, in each thread apart."""
    now = threading.local()
    monkeypatch.setattr(time, "perf_counter", lambda: now.__dict__.get("at", 0.0))
    SECONDS.clear()
    SPANS.clear()

    def pass_by(seconds):
        now.at = now.__dict__.get("at", 0.0) + seconds

    return pass_by


def test_a_stage_is_charged_without_the_stages_inside_it(clock):
    with stage("outer"):
        clock(1)
        for _ in range(2):
            with stage("inner"):
                clock(10)
        clock(2)
    with stage("outer"):
        clock(4)
    assert SECONDS == {"outer": 7, "inner": 20}


def test_a_stage_in_another_thread_is_no_part_of_this_ones(clock):
    def elsewhere():
        with stage("elsewhere"):
            clock(5)

    with stage("here"):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        clock(3)
    assert SECONDS == {"here": 3, "elsewhere": 5}
    assert [row["tid"] for row in events(SPANS, 0.0)] == [0, 1]


def test_a_stage_that_fails_is_charged_and_does_not_hide_the_mistake(clock):
    with pytest.raises(KeyError), stage("outer"), stage("broken"):
        clock(2)
        raise KeyError
    assert SECONDS == {"outer": 0, "broken": 2}
    assert not progress._open.within


def test_the_table_has_the_ten_longest_and_the_rest_in_one_line():
    rows = [line.split(" | ") for line in longest_stages({f"s{i}": float(i) for i in range(1, 13)}, 100.0).splitlines()]
    assert [row[0] for row in rows[2:12]] == [f"| s{i}" for i in range(12, 2, -1)]
    assert rows[2][1:] == ["12.0", "12% |"]
    assert [row[:2] for row in rows[12:]] == [
        ["| 2 other stages", "3.0"],
        ["| between stages", "22.0"],
        ["| the whole run", "100.0"],
    ]


def test_a_trace_names_its_stages(tmp_path, capsys):
    with profiled(Run(tmp_path), tmp_path / "profile"), stage("a stage"):
        jax.block_until_ready(jnp.ones(3) + 1)
    (trace,) = (tmp_path / "profile").rglob("perfetto_trace.json.gz")
    assert "a stage" in {event.get("name") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]}
    said = (tmp_path / "stages.md").read_text()
    assert said in capsys.readouterr().out and "| a stage |" in said and "| the whole run |" in said


def test_stages_are_spans_that_perfetto_opens(tmp_path, clock, capsys):
    clock(100)
    with profiled(Run(tmp_path)):
        clock(1)
        with stage("outer"):
            clock(2)
            with stage("inner"):
                clock(3)
    spans = json.loads((tmp_path / "stages.json").read_text())["traceEvents"]
    assert [(span["name"], span["ts"], span["dur"]) for span in spans] == [("inner", 3e6, 3e6), ("outer", 1e6, 5e6)]
    assert {(span["ph"], span["pid"], span["tid"]) for span in spans} == {("X", 0, 0)}
    assert not (tmp_path / "profile").exists()
