"""Several programs compiled by several processes: each by one of them, unless that cannot be told."""

import errno
import threading
import time

import filelock
import jax
import numpy as np
import pytest

from unlearn_jax import pickling
from unlearn_jax.bench.setting import setting_of
from unlearn_jax.data import load
from unlearn_jax.models import build
from unlearn_jax.training import compiling
from unlearn_jax.training.pools import _Job
from unlearn_jax.types import Recipe


class Program:
    """Stands for a lowered program."""

    def __init__(self, name, compiled):
        self.name, self.compiled = name, compiled

    def as_text(self):
        return self.name

    def compile(self):
        self.compiled.append(self.name)
        return self.name.upper()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling.os, "sched_getaffinity", lambda _: {0})  # one core, one after the other
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path / compiling.FOLDER
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def compiled():
    return []


@pytest.fixture
def lowered(compiled):
    return [Program(name, compiled) for name in "abc"]


def locked_by_another(folder, program, monkeypatch):
    """The lock of a program, as another process would hold it."""
    paths, make = [], filelock.FileLock
    with monkeypatch.context() as patch:
        patch.setattr(filelock, "FileLock", lambda path, **given: paths.append(path) or make(path, **given))
        compiling.compile_all([Program(program.name, [])], divide=True)
    return make(paths[0])


def test_what_another_process_compiles_comes_last(folder, lowered, compiled, monkeypatch):
    other, results = locked_by_another(folder, lowered[0], monkeypatch), []
    other.acquire()
    thread = threading.Thread(target=lambda: results.extend(compiling.compile_all(lowered, divide=True)))
    thread.start()
    deadline = time.monotonic() + 30
    while len(compiled) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)  # it waits
    assert compiled == ["b", "c"] and not results
    other.release()
    thread.join()
    assert compiled == ["b", "c", "a"] and results == ["A", "B", "C"]
    assert [*folder.iterdir()] == []


def test_nobody_waits_for_ever(folder, lowered, compiled, monkeypatch):
    monkeypatch.setattr(compiling, "PATIENCE", 0.2)
    with locked_by_another(folder, lowered[0], monkeypatch):
        assert compiling.compile_all(lowered, divide=True) == ["A", "B", "C"]
    assert compiled == ["b", "c", "a"]


def test_alone_all_are_compiled_once(folder, lowered, compiled):
    assert compiling.compile_all(lowered, divide=True) == ["A", "B", "C"]
    assert compiled == ["a", "b", "c"] and [*folder.iterdir()] == []
    assert compiling.compile_all(lowered) == ["A", "B", "C"]
    assert sorted(compiled[3:]) == ["a", "b", "c"]


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "no locks"), PermissionError(), NotImplementedError()])
def test_without_locks_each_process_compiles_all(folder, lowered, compiled, monkeypatch, error):
    def acquire(*_, **__):
        raise error

    monkeypatch.setattr(filelock.BaseFileLock, "acquire", acquire)
    assert compiling.compile_all(lowered, divide=True) == ["A", "B", "C"]
    assert compiled == ["a", "b", "c"]


def test_a_lock_that_cannot_be_removed_is_let_go(folder, lowered, compiled, monkeypatch):
    def unlink(path):
        raise PermissionError

    monkeypatch.setattr(compiling.os, "unlink", unlink)
    for _ in range(2):
        assert compiling.compile_all(lowered, divide=True) == ["A", "B", "C"]
    assert compiled == ["a", "b", "c"] * 2 and len([*folder.iterdir()]) == 3


def test_a_pool_that_came_from_another_process_divides_its_programs():
    data = load("digits", train_size=40, label_noise=0.0, seed=0, data_dir=None, cache=None)
    setting = setting_of(data, build("mlp", classes=10, width=8), {"model": "mlp"}, Recipe(epochs=1))
    here = _Job(setting.problem, np.ones(40, bool), 2, "oracle", 0, setting.identity, "auto", None, None)
    there = pickling.unpickled(*pickling.pickled(here))
    assert (here.trainer.divide, there.trainer.divide) == (False, True)
