"""SISA: what it retrains and what not, that nothing is left of what it forgets, and what the ensemble says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from test_methods import CLASSES, EXAMPLES, KEY, close, mlp, poisoned, problem, same, start, unlearn

from unlearn_jax.errors import ArgumentError
from unlearn_jax.methods import METHODS
from unlearn_jax.methods.sharding import Sisa, last_stages
from unlearn_jax.models import mean_of
from unlearn_jax.training.sampling import Source, draw
from unlearn_jax.types import Recipe

SISA = Sisa(shards=3, slices=4)
DIVIDE, STAGES = jax.jit(SISA.divide), jax.jit(SISA.stages)
SHARD = 12  # rows of the largest shard: 34 are kept


def whole():
    """Nothing is to be forgotten yet; six rows are not trained on."""
    on = problem(mlp())
    return on.replace(forget=on.forget & False, forget_count=0, recipe=Recipe(epochs=8, batch_size=4))


def forgetting(rows):
    on = whole()
    forget = np.zeros(EXAMPLES, bool)
    forget[rows] = True
    assert np.asarray(on.kept)[rows].all()
    return on.replace(forget=jnp.asarray(forget))  # its count plays no part: one program for any number of rows


@pytest.fixture(scope="module")
def trained():
    """The division, and the networks of every stage."""
    division = DIVIDE(jax.random.key(7), whole())
    return division, jax.jit(SISA.train)(KEY, whole(), division)


def again(on, division, checkpoints, sisa=SISA):
    return jax.jit(sisa.unlearn)(KEY, on, division, checkpoints)


def stage(tree, shard, part):
    return jax.tree.map(lambda leaf: leaf[shard, part], tree)


def rows_of(division, shard, part):
    return np.flatnonzero((np.asarray(division.shard) == shard) & (np.asarray(division.part) == part))


# The division


def test_every_kept_row_is_in_one_slice_of_one_shard_and_all_are_alike_in_size(trained):
    division, _ = trained
    kept, shard, part = (np.asarray(array) for array in (whole().kept, *division))
    assert ((shard >= 0) == kept).all() and ((part >= 0) == kept).all()
    sizes = np.array([[len(rows_of(division, s, p)) for p in range(SISA.slices)] for s in range(SISA.shards)])
    assert sizes.sum() == kept.sum() == 34
    assert np.ptp(sizes) <= 1 and np.ptp(sizes.sum(axis=1)) <= 1 and sizes.sum(axis=1).max() == SHARD
    other = SISA.divide(jax.random.key(8), whole())
    assert not same(division, other)


def test_the_division_does_not_know_what_will_be_forgotten(trained):
    division, _ = trained
    assert same(SISA.divide(jax.random.key(7), forgetting(np.flatnonzero(whole().kept)[:5])), division)


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(0, EXAMPLES - 1)))
def test_a_stage_is_trained_again_if_it_has_seen_a_forgotten_row(rows):
    division = DIVIDE(jax.random.key(7), whole())
    forget = np.zeros(EXAMPLES, bool)
    forget[list(rows)] = True
    expected = np.zeros((SISA.shards, SISA.slices), bool)
    for row in rows:
        shard, part = int(division.shard[row]), int(division.part[row])
        if shard >= 0:
            expected[shard, part:] = True
    np.testing.assert_array_equal(STAGES(division, jnp.asarray(forget)), expected)


def test_forgetting_one_example_costs_what_the_paper_says():
    """Of one of the shards, half the slices and half a slice: (slices + 1) / (2 slices shards), in the mean."""
    sisa, on = Sisa(shards=4, slices=2), whole()
    kept = on.kept.at[jnp.flatnonzero(on.kept)[:2]].set(False)  # 32 rows: equal slices
    division = sisa.divide(KEY, on.replace(kept=kept, kept_count=32))
    one_each = jnp.eye(EXAMPLES, dtype=bool)[np.flatnonzero(kept)]
    again = jax.jit(jax.vmap(sisa.stages, in_axes=(None, 0)))(division, one_each)
    assert np.mean(again) == pytest.approx(3 / 16)


# Forgetting


def test_only_the_stages_that_saw_a_forgotten_row_change(trained):
    division, before = trained
    on = forgetting(np.concatenate([rows_of(division, 1, 2)[:1], rows_of(division, 2, 3)[:1]]))
    after = again(on, division, before)
    changed = [[not same(stage(after, s, p), stage(before, s, p)) for p in range(SISA.slices)] for s in range(SISA.shards)]
    np.testing.assert_array_equal(changed, SISA.stages(division, on.forget))
    assert np.sum(changed) == 3


def test_the_result_is_that_of_training_without_the_example_bit_for_bit(trained):
    division, before = trained
    on = forgetting(np.concatenate([rows_of(division, 0, 0)[:2], rows_of(division, 1, 2)]))
    scratch = jax.jit(SISA.train)(KEY, on, division)
    assert same(again(on, division, before), scratch)
    assert not same(before, scratch)


def test_requests_may_follow_each_other(trained):
    division, before = trained
    first, second = rows_of(division, 0, 1)[:1], rows_of(division, 0, 3)[:1]
    once = again(forgetting(first), division, before)
    both = forgetting(np.concatenate([first, second]))
    assert same(again(both, division, once), again(both, division, before))


def test_a_stream_of_requests_trains_again_what_each_one_touches_and_ends_as_if_none_had_been_there(trained):
    division, before = trained
    requests = np.stack([rows_of(division, 0, 1)[:1], rows_of(division, 0, 3)[:1], rows_of(division, 2, 0)[:1]])
    steps = []

    def watch(key, images):
        jax.debug.callback(lambda: steps.append(1))
        return images

    after = jax.jit(SISA.answer)(KEY, whole().replace(augment=watch), division, before, requests)
    jax.effects_barrier()
    assert len(steps) == (3 + 1 + 4) * (8 // SISA.slices) * (SHARD // 4)
    for number in range(3):
        scratch = jax.jit(SISA.train)(KEY, forgetting(requests[: number + 1, 0]), division)
        close(jax.tree.map(lambda leaf, number=number: leaf[number], after), last_stages(scratch), atol=1e-5)


def test_a_forgotten_row_is_never_read(trained):
    """Nothing is left of a whole slice, the first of a shard: there the network stays as it was initialised."""
    division, before = trained
    on = forgetting(rows_of(division, 1, 0))
    spoilt = poisoned(on, ~on.retain)
    after = again(spoilt, division, before)
    assert same(after, again(on, division, before))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    untrained = jax.jit(on.model.init)(jax.random.split(jax.random.split(KEY, SISA.shards)[1])[0], on.train.images[:1])
    close(stage(after, 1, 0), untrained)


def test_a_network_sees_its_own_shard_only_and_slices_in_order(trained):
    division, before = trained
    for shard, part in ((0, 3), (2, 1)):
        seen = jnp.asarray((np.asarray(division.shard) == shard) & (np.asarray(division.part) <= part))
        spoilt = jax.jit(SISA.train)(KEY, poisoned(whole(), ~seen), division)
        assert same(stage(spoilt, shard, part), stage(before, shard, part))
        beyond = [np.isfinite(np.asarray(jax.tree.leaves(stage(spoilt, s, SISA.slices - 1).params)[0])).all() for s in range(3)]
        assert beyond == [s == shard and part == 3 for s in range(3)]


def test_stages_that_are_kept_take_no_steps(trained):
    division, before = trained
    steps = []

    def watch(key, images):
        jax.debug.callback(lambda: steps.append(1))
        return images

    on = forgetting(np.concatenate([rows_of(division, 1, 2)[:1], rows_of(division, 2, 3)[:1]])).replace(augment=watch)
    again(on, division, before)
    jax.effects_barrier()
    assert len(steps) == 3 * (8 // SISA.slices) * (SHARD // 4)  # stages, epochs of each, steps of an epoch


def test_rows_come_again_where_a_source_has_fewer_than_it_says():
    mask = jnp.asarray(np.isin(np.arange(20), [3, 5, 11]))
    (rows,) = draw(KEY, [Source(mask, 8, 4)], 4)  # two passes of two batches of four
    for one_pass in np.asarray(rows).reshape(2, 8):
        assert set(one_pass) == {3, 5, 11}
        assert sorted(np.bincount(one_pass, minlength=12)[[3, 5, 11]]) == [2, 3, 3]
    full = jnp.arange(20) < 8
    (rows,) = draw(KEY, [Source(full, 8, 4)], 4)
    assert all(sorted(one_pass) == list(range(8)) for one_pass in np.asarray(rows).reshape(2, 8))


# The ensemble


def test_the_ensembles_softmax_is_the_mean_of_its_networks(trained):
    _, checkpoints = trained
    networks, on = last_stages(checkpoints), whole()
    logits, statistics = mean_of(mlp()).apply(networks, on.train.images, train=False)
    each = [
        scipy.special.softmax(on.model.apply(jax.tree.map(lambda leaf, s=s: leaf[s], networks), on.train.images)[0], axis=1)
        for s in range(SISA.shards)
    ]
    np.testing.assert_allclose(scipy.special.softmax(logits, axis=1), np.mean(each, axis=0), rtol=1e-4)
    np.testing.assert_allclose(np.exp(logits).sum(axis=1), 1.0, rtol=1e-5)
    assert statistics == {} and logits.shape == (EXAMPLES, CLASSES)
    features = mean_of(mlp()).features(networks, on.train.images)
    first = on.model.features(jax.tree.map(lambda leaf: leaf[0], networks), on.train.images)
    assert features.shape == (EXAMPLES, SISA.shards * first.shape[1])
    np.testing.assert_allclose(features[:, : first.shape[1]], first, rtol=1e-5, atol=1e-6)


def test_an_ensemble_of_one_says_what_its_network_says():
    on = whole()
    single = mean_of(mlp()).init(KEY, on.train.images[:1])
    alone = mlp().init(KEY, on.train.images[:1])
    found, _ = mean_of(mlp()).apply(single, on.train.images)
    np.testing.assert_allclose(found, jax.nn.log_softmax(mlp().apply(alone, on.train.images)[0]), rtol=1e-5, atol=1e-6)
    assert mean_of(mlp()) is mean_of(mlp())


def test_the_registered_method_is_what_unlearning_from_the_checkpoints_gives():
    """One key, the whole set trained and then forgotten, against the method, which begins with nothing."""
    divide_key, train_key = jax.random.split(KEY)
    division = DIVIDE(divide_key, whole())
    on = forgetting(np.concatenate([rows_of(division, 0, 2)[:1], rows_of(division, 2, 1)]))
    before = jax.jit(SISA.train)(train_key, whole(), division)
    expected = last_stages(jax.jit(SISA.unlearn)(train_key, on, division, before))
    assert same(unlearn("sisa", on, start(mlp()), shards=SISA.shards, slices=SISA.slices), expected)
    assert not same(last_stages(before), expected)
    assert METHODS["sisa"].outcome(on.model) is mean_of(on.model)
    assert METHODS["retrain"].outcome(on.model) is on.model


@pytest.mark.parametrize(
    ("method", "values", "option"),
    [
        ("sisa", {"shards": 40, "slices": 3}, "sisa.shards"),
        ("unsir", {"noise_share": 1.0}, "unsir.noise_share"),
        ("unsir", {"retain_share": 0.0}, "METHOD.retain_share"),
    ],
)
def test_a_share_of_nothing_is_refused(method, values, option):
    with pytest.raises(ArgumentError) as raised:
        unlearn(method, whole().replace(forget_count=1), start(mlp()), **values)
    assert raised.value.argument == option


def test_there_may_be_a_shard_for_every_example():
    on = whole()
    after = jax.eval_shape(METHODS["sisa"].make(shards=on.kept_count, slices=1), KEY, on, start(mlp()))
    assert {len(leaf) for leaf in jax.tree.leaves(after)} == {on.kept_count}
