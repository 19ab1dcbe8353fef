"""Pools: every member is its own, whatever it was trained beside, and what was finished is never trained again."""

import dataclasses
import json
import shutil
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import device
from unlearn_jax.models import build
from unlearn_jax.training import pools
from unlearn_jax.training.fit import fit
from unlearn_jax.training.pools import Progress, diverged, member_keys, train_pool
from unlearn_jax.types import Examples, Problem, Recipe, Start, Variables

ROWS, IMAGE, CLASSES = 24, (3, 3, 1), 3
DEVICES = 2  # see conftest.py
ROOT = Path(__file__).parents[1]
same = partial(jax.tree.map, np.testing.assert_array_equal)
close = partial(jax.tree.map, partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5))


def a_problem(**recipe):
    draw = np.random.default_rng(0)
    images = jnp.asarray(draw.normal(size=(ROWS, *IMAGE)), jnp.float32)
    examples = Examples(images, jnp.asarray(draw.integers(0, CLASSES, ROWS), jnp.int32))
    return Problem(
        train=examples,
        held_out=examples,
        kept=jnp.ones(ROWS, bool),
        forget=jnp.zeros(ROWS, bool),
        model=build("mlp", classes=CLASSES, width=4),
        classes=CLASSES,
        kept_count=ROWS,
        forget_count=0,
        recipe=Recipe(**{"epochs": 2, "batch_size": 8, **recipe}),
    )


MASK = np.arange(ROWS) >= 4


def train(cache, members=3, *, masks=MASK, role="oracle", seed=0, identity=None, problem=None, recipe=None, **options):
    """A pool, and what it reported."""
    events: list[Progress] = []
    pool = train_pool(
        problem or a_problem(**(recipe or {})),
        masks,
        members=members,
        role=role,
        seed=seed,
        identity=identity or {"dataset": "noise"},
        cache=cache,
        report=options.pop("report", events.append),
        **options,
    )
    return pool, events


def trained(events):
    """The members that were trained, by number."""
    return sorted({member for event in events for member in range(event.first, event.last)})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Five members, trained two at a time: cache, pool and events."""
    cache = tmp_path_factory.mktemp("whole")
    return cache, *train(cache, 5, chunk=2)


def folder_of(cache):
    (folder,) = (cache / "pools").iterdir()
    return folder


def chunks_in(cache):
    return sorted(path.stem for path in folder_of(cache).glob("*.npz"))


def test_members_are_fits_by_their_keys(whole):
    _, pool, events = whole
    fitted = jax.jit(partial(fit, count=int(MASK.sum())))
    for member, key in enumerate(member_keys(0, "oracle", 5)):
        alone = fitted(key, jnp.asarray(MASK), problem=a_problem())
        close(jax.tree.map(lambda leaf, member=member: leaf[member], pool.variables), alone)
    assert trained(events) == [0, 1, 2, 3, 4]
    assert pool.diverged == ()
    assert pool.seconds > 0
    assert pool.compile_seconds > 0
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(pool.variables))


def test_members_may_begin_at_given_weights_of_which_some_are_frozen(tmp_path):
    problem = a_problem()
    given = problem.model.init(jax.random.key(7), problem.train.images[:1])
    start = Start(Variables({name: given.params[name] for name in ("hidden1", "hidden2")}, {}), ("hidden1",))
    pool, _ = train(tmp_path, 2, problem=problem.replace(start=start), identity={"init": "given"})
    alone = jax.jit(partial(fit, count=int(MASK.sum())))(
        member_keys(0, "oracle", 2)[1], jnp.asarray(MASK), problem=problem.replace(start=start)
    )
    params = pool.variables.params
    close(jax.tree.map(lambda leaf: leaf[1], pool.variables), alone)
    for member in range(2):
        same(jax.tree.map(lambda leaf, member=member: leaf[member], params["hidden1"]), given.params["hidden1"])
    moved = params["hidden2"]["kernel"] - given.params["hidden2"]["kernel"][None]
    assert 0 < np.abs(moved).max() < 0.5 and not np.array_equal(*moved)
    fresh, _ = train(tmp_path / "fresh", 2, problem=problem)
    heads = [each.variables.params["head"]["kernel"] for each in (pool, fresh)]  # drawn in both, and from the same keys
    assert np.abs(heads[0] - heads[1]).max() < 0.5 < np.abs(heads[0][0] - heads[0][1]).max()


def test_progress_counts_members_and_epochs(whole):
    _, pool, events = whole
    assert [(event.first, event.last, event.epoch) for event in events] == [
        (first, last, epoch) for first, last in ((0, 2), (2, 4), (4, 5)) for epoch in (1, 2)
    ]
    shares = [event.share for event in events]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert {(event.role, event.members, event.epochs, event.diverged) for event in events} == {("oracle", 5, 2, 0)}
    problem = a_problem()
    last = Variables(*jax.tree.map(lambda leaf: leaf[4], pool.variables))
    right = problem.model.apply(last, problem.held_out.images)[0].argmax(-1) == problem.held_out.labels
    assert events[-1].accuracy == pytest.approx(float(right.mean()))


def test_members_do_not_depend_on_the_chunk_or_on_their_number(whole, tmp_path):
    _, pool, _ = whole
    for number, (members, chunk) in enumerate([(5, 4), (3, None), (1, 1)]):
        other, _ = train(tmp_path / str(number), members, chunk=chunk, strategy="map")
        same(other.variables, jax.tree.map(lambda leaf, n=members: leaf[:n], pool.variables))


def test_members_do_not_depend_on_the_strategy(whole, tmp_path):
    close(train(tmp_path, 5, strategy="vmap")[0].variables, whole[1].variables)


def test_a_finished_pool_is_not_trained_again(whole):
    cache, pool, _ = whole
    again, events = train(cache, 5, chunk=3)
    assert events == []
    same(again.variables, pool.variables)
    assert (again.compile_seconds, again.seconds) == (0, pool.seconds)
    fewer, events = train(cache, 3)
    assert events == []
    same(fewer.variables, jax.tree.map(lambda leaf: leaf[:3], pool.variables))


def test_a_larger_pool_begins_with_the_smaller_one(whole, tmp_path):
    _, pool, _ = whole
    train(tmp_path, 2)
    larger, events = train(tmp_path, 5)
    assert trained(events) == [2, 3, 4]
    assert chunks_in(tmp_path) == ["00000-00002", "00002-00005"]
    same(larger.variables, pool.variables)


def test_a_lost_chunk_in_the_middle_is_trained_again_and_nothing_else(whole, tmp_path):
    cache, pool, _ = whole
    shutil.copytree(cache, tmp_path / "copy")
    (folder_of(tmp_path / "copy") / "00002-00004.npz").unlink()
    again, events = train(tmp_path / "copy", 5, chunk=100)
    assert trained(events) == [2, 3]
    same(again.variables, pool.variables)


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": {"epochs": 1}},
        {"recipe": {"learning_rate": 0.2}},
        {"masks": np.arange(ROWS) < ROWS - 4},
        {"role": "retrain"},
        {"seed": 1},
        {"identity": {"dataset": "other noise"}},
        {"identity": {"dataset": "noise", "width": 5}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_identity_is_another_pool(tmp_path, change):
    pool, _ = train(tmp_path, 1)
    other, events = train(tmp_path, 1, **change)
    assert trained(events) == [0]
    assert len(list((tmp_path / "pools").iterdir())) == 2
    if "identity" not in change:
        assert not np.allclose(pool.variables.params["head"]["kernel"], other.variables.params["head"]["kernel"])
    again, events = train(tmp_path, 1)
    assert events == []
    same(again.variables, pool.variables)


@pytest.mark.parametrize(
    "other",
    [
        lambda: jax.enable_x64(True),
        lambda: jax.default_prng_impl("rbg"),
        lambda: jax.threefry_partitionable(False),
        lambda: jax.default_matmul_precision("bfloat16"),
    ],
    ids=["x64", "rbg", "partitionable", "precision"],
)
def test_other_numerics_make_another_pool(tmp_path, other):
    with other():
        train(tmp_path, 1)
    _, events = train(tmp_path, 1)
    assert trained(events) == [0]
    assert len(list((tmp_path / "pools").iterdir())) == 2
    with other():
        assert train(tmp_path, 1)[1] == []


def test_a_pool_says_what_made_its_members(tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "made_with", lambda: "jax 0.1")
    assert train(tmp_path, 1)[0].made_with == ("jax 0.1",)
    monkeypatch.undo()
    pool, _ = train(tmp_path, 2)
    assert pool.made_with == ("jax 0.1", device.made_with())


def test_the_identity_is_written_beside_the_members(whole):
    cache, _, _ = whole
    identity = json.loads((folder_of(cache) / "identity.json").read_text())
    assert (identity["role"], identity["seed"], identity["dataset"]) == ("oracle", 0, "noise")
    assert identity["recipe"] == dataclasses.asdict(a_problem().recipe)


def test_roles_and_seeds_share_no_keys_and_more_members_keep_the_first_ones():
    drawn = [(seed, role) for seed in (0, 1) for role in ("original", "oracle", "retrain", "scrub on random-0")]
    keys = np.concatenate([jax.random.key_data(member_keys(seed, role, 50)) for seed, role in drawn])
    assert len(np.unique(keys, axis=0)) == len(drawn) * 50
    same(*(jax.random.key_data(member_keys(0, "oracle", count)[:7]) for count in (7, 50)))


MASKS = np.stack([np.random.default_rng(member).permutation(ROWS) < 16 for member in range(4)])


def test_each_member_may_have_a_mask_of_its_own(tmp_path):
    pool, _ = train(tmp_path, 3, masks=MASKS[:3], chunk=2)
    fitted = jax.jit(partial(fit, count=16))
    for member, key in enumerate(member_keys(0, "oracle", 3)):
        alone = fitted(key, jnp.asarray(MASKS[member]), problem=a_problem())
        close(jax.tree.map(lambda leaf, member=member: leaf[member], pool.variables), alone)
    larger, events = train(tmp_path, 4, masks=MASKS)
    assert trained(events) == [3]
    same(jax.tree.map(lambda leaf: leaf[:3], larger.variables), pool.variables)
    fewer, events = train(tmp_path, 1, masks=MASKS[:1])
    assert events == []
    same(fewer.variables, jax.tree.map(lambda leaf: leaf[:1], pool.variables))


def test_other_masks_from_the_first_on_are_another_pool(tmp_path):
    train(tmp_path, 2, masks=MASKS[:2])
    train(tmp_path, 2, masks=np.roll(MASKS[:2], 1, axis=1))
    assert len(list((tmp_path / "pools").iterdir())) == 2


@pytest.mark.parametrize("member", [1, 2])
def test_masks_that_contradict_the_cached_ones_are_refused(tmp_path, member):
    train(tmp_path, 3, masks=MASKS[:3], chunk=2)
    other = MASKS[:3].copy()
    other[member] = np.roll(MASKS[member], 1)
    with pytest.raises(ValueError, match="was trained on other masks"):
        train(tmp_path, 3, masks=other)


def test_members_that_keep_different_numbers_of_examples_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"equally many examples, not \[16 17\]"):
        train(tmp_path, 2, masks=np.stack([np.arange(ROWS) < 16, np.arange(ROWS) < 17]))
    assert not (tmp_path / "pools").exists()


def test_a_diverging_member_is_named_and_the_others_are_untouched(tmp_path):
    """Member 1 alone keeps an example of infinite brightness."""
    problem = a_problem()
    blinding = problem.replace(train=problem.train._replace(images=problem.train.images.at[0].set(jnp.inf)))
    masks = np.stack([np.arange(ROWS) >= 8, np.arange(ROWS) < 16, np.arange(ROWS) >= 8])
    pool, events = train(tmp_path / "blinded", masks=masks, problem=blinding)
    assert pool.diverged == (1,)
    assert {event.diverged for event in events} == {1}
    assert all(0 <= event.accuracy <= 1 for event in events)
    again, _ = train(tmp_path / "blinded", masks=masks, problem=blinding)
    assert again.diverged == (1,)
    clear, _ = train(tmp_path / "clear", masks=masks, problem=problem)
    assert clear.diverged == ()
    same(*(jax.tree.map(lambda leaf: leaf[[0, 2]], each.variables) for each in (pool, clear)))


def test_a_learning_rate_that_nothing_survives_loses_every_member(tmp_path):
    pool, events = train(tmp_path, 2, recipe={"learning_rate": 1e30, "schedule": "constant", "epochs": 4})
    assert pool.diverged == (0, 1)
    assert events[-1].diverged == 2
    assert np.isnan(events[-1].accuracy)


def test_statistics_that_are_not_finite_count_as_diverged():
    params = {"w": np.zeros((4, 2, 2))}
    statistics = {"mean": np.array([[0.0], [np.nan], [0.0], [np.inf]])}
    assert diverged(Variables(params, statistics)) == (1, 3)
    assert diverged(Variables(params, {})) == ()


def test_what_was_half_written_is_not_read(whole, tmp_path):
    """As a killed run leaves it: a file under its temporary name, which the next to train there removes."""
    cache, pool, _ = whole
    copy = tmp_path / "copy"
    shutil.copytree(cache, copy)
    (chunk,) = folder_of(copy).glob("00002-*.npz")
    content = chunk.read_bytes()
    killed = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    stray = chunk.with_name(f".{chunk.name}.{socket.gethostname()}.{int(killed.stdout)}.0123abcd.part")
    stray.write_bytes(content[: len(content) // 2])
    chunk.unlink()
    again, events = train(copy, 5)
    assert trained(events) == [2, 3]
    same(again.variables, pool.variables)
    assert not stray.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
sys.path.insert(0, "tests")
import test_pools

def report(progress):
    if progress.first == 2:
        os.kill(os.getpid(), signal.SIGKILL)

test_pools.train(Path(sys.argv[1]), 5, chunk=2, report=report)
"""


def test_a_killed_pool_goes_on_to_the_same_members(whole, tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert chunks_in(tmp_path) == ["00000-00002"]
    pool, events = train(tmp_path, 5, chunk=2)
    assert trained(events) == [2, 3, 4]
    same(pool.variables, whole[1].variables)
