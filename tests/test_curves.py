"""Learning curves: what a pool keeps of them, and what a run folder shows."""

import csv
import re
import sys

import jax
import numpy as np
import pytest
from test_pools import CLASSES, ROWS, a_problem, folder_of, train

from unlearn_jax import sealed
from unlearn_jax.bench.curves import COLUMNS, lacking_note, record, recording
from unlearn_jax.bench.main_options import Config
from unlearn_jax.errors import ArgumentError
from unlearn_jax.runs import Run
from unlearn_jax.training.pools import WATCHED, Curves, Pool
from unlearn_jax.types import Variables


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Five members, two at a time: cache, pool and what it reported."""
    cache = tmp_path_factory.mktemp("curves")
    return cache, *train(cache, 5, chunk=2)


def test_curves_are_those_of_each_member_on_held_out_examples(whole):
    _, pool, events = whole
    problem = a_problem()
    assert ROWS <= WATCHED and pool.curves.loss.shape == pool.curves.accuracy.shape == (5, problem.recipe.epochs)
    for member in range(5):
        last = Variables(*jax.tree.map(lambda leaf, member=member: leaf[member], pool.variables))
        logits = np.asarray(problem.model.apply(last, problem.held_out.images)[0], np.float64)
        labels = np.asarray(problem.held_out.labels)
        losses = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(ROWS), labels]
        assert pool.curves.loss[member, -1] == pytest.approx(losses.mean(), rel=1e-4)
        assert pool.curves.accuracy[member, -1] == pytest.approx((logits.argmax(1) == labels).mean())
    reported = [event.accuracy for event in events if event.first == 2]
    np.testing.assert_allclose(pool.curves.accuracy[2:4].mean(0), reported, rtol=1e-6)
    assert pool.curves.loss.min() > 0 and not np.allclose(pool.curves.loss[:, 0], pool.curves.loss[:, 1])
    assert pool.curves.loss[:, 0].mean() == pytest.approx(np.log(CLASSES), rel=0.7)


def test_a_pool_that_is_found_has_the_same_curves(whole):
    cache, pool, _ = whole
    again, events = train(cache, 3)
    assert events == [] and again.name == pool.name == folder_of(cache).name
    for ours, theirs in zip(again.curves, pool.curves, strict=True):
        np.testing.assert_array_equal(ours, theirs[:3])


def test_a_member_that_diverges_has_no_numbers_from_then_on(tmp_path):
    pool, _ = train(tmp_path, 2, recipe={"learning_rate": 1e30, "schedule": "constant", "epochs": 3})
    assert pool.diverged == (0, 1) and np.isnan(pool.curves.loss[:, -1]).all() and np.isnan(pool.curves.accuracy[:, -1]).all()


def test_chunks_of_an_older_version_are_used_and_have_no_curves(whole, tmp_path):
    _, pool, _ = whole
    train(tmp_path, 5, chunk=2)
    chunk = folder_of(tmp_path) / "00002-00004.npz"
    with np.load(chunk) as arrays:
        kept = {name: array for name, array in arrays.items() if not name.startswith("curves/")}
    with chunk.open("w+b") as file:
        sealed.write(file, kept)
    old, events = train(tmp_path, 5)
    assert events == [] and old.curves is None
    jax.tree.map(np.testing.assert_array_equal, old.variables, pool.variables)
    assert train(tmp_path, 2)[0].curves is not None  # those of the first chunk


def a_pool(name, loss, accuracy):
    return Pool(Variables({}, {}), (), 0.0, 0.0, (), Curves(np.float32(loss), np.float32(accuracy)), name)


A_POOL = a_pool("abcdef123", [[2.0, 1.0], [4.0, np.nan], [3.0, 1.5]], [[0.25, 0.5], [0.5, np.nan], [0.75, 1.0]])
LOST = a_pool("fedcba321", [[np.nan]], [[np.nan]])
A_TABLE = f"""{",".join(COLUMNS)}
abcdef123,meta original,,1,3,3.0,2.0,4.0,50.0,25.0,75.0
abcdef123,meta original,,2,2,1.25,1.0,1.5,75.0,50.0,100.0
fedcba321,oracle,random-0,1,0,,,,,,
"""


def test_the_table_has_a_row_for_each_epoch_of_each_pool(tmp_path):
    with recording(Run(tmp_path)):
        record(A_POOL, "meta original")
        record(LOST, "oracle", "random-0")
    assert (tmp_path / "curves.csv").read_text() == A_TABLE
    with recording(Run(tmp_path)):
        record(LOST, "oracle", "random-0")  # the other was there, and is not asked for again
        assert lacking_note() == []
    assert (tmp_path / "curves.csv").read_text() == A_TABLE
    record(LOST, "nobody")
    assert lacking_note() == []


def test_pools_without_curves_are_named(tmp_path, capsys):
    with recording(Run(tmp_path)):
        record(A_POOL._replace(curves=None), "original")
        record(A_POOL._replace(curves=None, name="other"), "oracle", "random-0")
        record(LOST, "retrain", "random-0")
        said = "Without learning curves in curves.csv, as an older version trained them: original, oracle random-0."
        assert lacking_note() == [said]
    assert capsys.readouterr().err == f"{said}\n"
    assert (tmp_path / "curves.csv").read_text().count("\n") == 2


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "\x00\xff", f"{','.join(COLUMNS)}\nshort,row\n"])
def test_a_file_that_is_another_is_replaced(tmp_path, content):
    (tmp_path / "curves.csv").write_text(content)
    with recording(Run(tmp_path)):
        record(LOST, "oracle", "random-0")
    with (tmp_path / "curves.csv").open() as file:
        assert [row["role"] for row in csv.DictReader(file)] == ["oracle"]


def scalars(file):
    """(tag, step) -> value, as TensorBoard reads them: a record is its length, a checksum, the event, a checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data, found = file.read_bytes(), {}
    while data:
        end = 12 + int.from_bytes(data[:8], "little")
        event, data = Event.FromString(data[12:end]), data[end + 4 :]
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    return found


def test_the_same_curves_are_events(tmp_path):
    with recording(Run(tmp_path)):
        record(A_POOL, "meta original")
    with recording(Run(tmp_path), events=True):  # of what an earlier run left, too
        record(LOST, "oracle", "a set")
        record(LOST, "oracle", "a set")
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("events*"))
    assert names == [f"tensorboard/{name}/events.out.tfevents.curves" for name in ("meta_original-abcdef", "oracle-a_set-fedcba")]
    found = scalars(tmp_path / names[0])
    assert found["loss", 1] == 3.0 and found["loss/low", 2] == 1.0 and found["accuracy/high", 2] == 100.0 and len(found) == 12
    assert scalars(tmp_path / names[1]) == {}


def test_events_without_their_package_are_refused_before_anything_is_trained(monkeypatch):
    Config(tensorboard=True).check()
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ArgumentError, match=re.escape("--tensorboard: needs the package tensorboardX: pip install tensorboardX")):
        Config(tensorboard=True).check()
    Config().check()
