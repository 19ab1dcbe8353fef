"""What each part is given: a key of its own, rows of its own. Recorded, part by part.

Of methods the laws (`tests/test_laws.py`) say that no key is used twice; here are all others who draw, and the pieces.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_influence
from test_methods import CLASSES, KEY, linear, mlp, normalised, problem, start

from unlearn_jax import influence
from unlearn_jax.data import FASHION_PLANE, Mixture, choose, discs, load, populations
from unlearn_jax.data.augmentation import crop, variations
from unlearn_jax.influence import curvature
from unlearn_jax.methods import adversarial, hypernetwork
from unlearn_jax.methods.pieces import in_turns, pipe
from unlearn_jax.methods.sharding import Sisa
from unlearn_jax.methods.streaming import lift
from unlearn_jax.models import build, with_extra_class
from unlearn_jax.training import critics, landscape
from unlearn_jax.training.descend import descend
from unlearn_jax.training.fit import fit
from unlearn_jax.training.objectives import Batch, Term, cross_entropy, weighted
from unlearn_jax.training.pools import member_keys
from unlearn_jax.types import Variables

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(6, 8, 8, 3)), jnp.float32)
RUN = test_influence.run_of(test_influence.RECIPES["minibatch"])
VECTORS = jnp.ones((2, sum(leaf.size for leaf in jax.tree.leaves(RUN.initial.params))))
ON = problem(mlp())
STACKED = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), RUN.initial)
SISA = Sisa(shards=2, slices=2)


def augmented(key):
    return descend(weighted(Term("retain", cross_entropy)), test_influence.optax.sgd(0.1), steps=2, batch_size=4).plan(key, ON)


USERS = {
    "crops": lambda key: crop(key, IMAGES, flip=True),
    "fit": lambda key: fit(key, ON.kept, count=34, problem=ON),
    "plan": augmented,
    "training": lambda key: influence.training(key, RUN.model, RUN.examples, test_influence.RECIPES["minibatch"]).batches,
    "trak": lambda key: influence.trak(RUN, STACKED, RUN.examples, key, 2),
    "lissa": lambda key: curvature.lissa(0.1, key, steps=2, batch=2)(RUN, RUN.initial, VECTORS),
    "arnoldi": lambda key: curvature.arnoldi(0.1, key, steps=2, rank=1)(RUN, RUN.initial, VECTORS),
    "sharpness": lambda key: landscape.sharpness(key, ON, start(mlp()), ON.rows("forget"), 2),
    "fresh hypernetwork": lambda key: hypernetwork.fresh_hypernetwork(key, ON),
    "fresh hypernetwork that reads images": lambda key: hypernetwork.fresh_hypernetwork(key, ON, hypernetwork.Capacity(True, 2)),
    "sisa": lambda key: SISA.train(key, ON, SISA.divide(jax.random.key(1), ON)),
    "critics": lambda key: critics.fresh_critics(key, 2, 3),
    "extra class": lambda key: with_extra_class(mlp()).init(key, ON.train.images[:1]),
    "resnet": lambda key: build("resnet8", classes=3, width=2).init(key, IMAGES[:1]),
}


@pytest.mark.parametrize("name", USERS)
def test_no_key_is_used_twice(name):
    with jax.debug_key_reuse(True):
        jax.jit(USERS[name]).trace(KEY)


def test_meta_training_uses_no_key_twice():
    on = ON
    rows, others = jnp.flatnonzero(on.forget), jnp.flatnonzero(on.retain)[:3]
    one = hypernetwork.Lesson(start(mlp()), rows, others, jnp.zeros((len(rows) + 3 + len(on.held_out.labels), CLASSES)))
    lessons = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), one)
    with jax.debug_key_reuse(True):
        jax.jit(lambda key: hypernetwork.meta_trained(key, on, lessons, steps=2, batch_size=1)).trace(KEY)


# Pieces


def data(key):
    return tuple(np.asarray(jax.random.key_data(key)).ravel().tolist())


def noting(seen):
    """A method that notes its key, and changes nothing."""

    def method(key, on, variables):
        jax.debug.callback(lambda own: seen.append(tuple(np.ravel(own).tolist())), jax.random.key_data(key), ordered=True)
        return variables

    return method


def test_each_part_of_a_pipe_gets_a_key_of_its_own():
    seen = []
    pipe(noting(seen), noting(seen), noting(seen))(KEY, problem(linear()), start(linear()))
    jax.effects_barrier()
    assert len(set(seen)) == 3 and data(KEY) not in seen


def test_each_turn_and_each_request_gets_a_key_of_its_own():
    on, variables = problem(linear()), start(linear())
    for function in (
        lambda seen: in_turns(lambda _: noting(seen), jnp.arange(4))(KEY, on, variables),
        lambda seen: lift(noting(seen))(KEY, on, variables, jnp.arange(8).reshape(4, 2)),
    ):
        seen = []
        function(seen)
        jax.effects_barrier()
        assert len(set(seen)) == 4 and data(KEY) not in seen


def test_each_step_of_a_descent_and_each_shard_gets_a_key_of_its_own():
    plan = augmented(KEY)
    assert len({data(key) for key in plan.keys}) == 2
    on = problem(normalised())
    trained = jax.jit(lambda: SISA.train(KEY, on, SISA.divide(jax.random.key(1), on)))()
    kernels = trained.params["hidden"]["kernel"]
    assert not np.array_equal(kernels[0, 0], kernels[1, 0])


def test_each_member_of_each_pool_gets_a_key_of_its_own():
    keys = [member_keys(seed, role, 3) for seed, role in itertools.product((0, 1), ("original", "oracle"))]
    assert len({data(key) for pool in keys for key in pool}) == 12


# Critics


@pytest.mark.parametrize(("method", "count"), [("adversarial", 1), ("gan", 2)])
def test_each_critic_is_dealt_held_out_examples_of_its_own(method, count, monkeypatch):
    dealt = []

    def noted(problem, rows, fooling, batch_size):
        dealt.append(rows)
        return kept(problem, rows, fooling, batch_size)

    kept = adversarial.fooled_and_kept
    monkeypatch.setattr(adversarial, "fooled_and_kept", noted)
    on = problem(linear())
    getattr(adversarial, method)(epochs=0)(KEY, on, start(linear()))
    (rows,) = dealt
    held_out = len(on.held_out.labels)
    assert rows.shape == (count, held_out // count)
    assert len(set(np.ravel(rows).tolist())) == held_out // count * count and np.max(rows) < held_out


def test_a_critic_sees_the_held_out_examples_that_it_was_dealt_and_the_whole_forget_batch(monkeypatch):
    """The network says of each image its first pixel, which names it."""
    seen = []

    def noted(params, suspects, innocents):
        seen.append((np.asarray(suspects), np.asarray(innocents)))
        return contest(params, suspects, innocents)

    contest = adversarial.contest
    monkeypatch.setattr(adversarial, "contest", noted)
    on = problem(linear())
    names = np.arange(len(on.train.labels), dtype=np.float32) / 10
    first, second = (jnp.asarray(each.reshape(-1, 1, 1, 1)) for each in (names, 4 + names))
    on = on.replace(train=on.train._replace(images=first), held_out=on.held_out._replace(images=second))

    def forward(variables, images):
        return jnp.concatenate([images.reshape(-1, 1), jnp.zeros((len(images), CLASSES - 1))], axis=1), {}

    rows = jnp.asarray([[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]])
    objective = adversarial.fooled_and_kept(on, rows, 0.5, 40)
    batches = {}
    for source in ("retain", "forget"):
        own = jnp.flatnonzero(on.rows(source)[0])
        batches[source] = Batch(on.train.images[own], on.train.labels[own], own, KEY)
    joint = Variables({"model": {}, "critics": critics.fresh_critics(KEY, 2, CLASSES + 2)}, {})
    objective.value(forward, joint, batches, 0.0)
    ((suspects, innocents),) = seen
    # The losses of examples named x with their labels, the logits being (x, 0, 0).
    losses, unseen = (
        np.logaddexp(own, np.log(CLASSES - 1)) - np.where(np.asarray(labels) == 0, own, 0)
        for own, labels in ((names, on.train.labels), (4 + names, on.held_out.labels))
    )
    np.testing.assert_allclose(suspects[:, CLASSES], losses[batches["forget"].rows], atol=3e-6)
    for critic, own in enumerate(np.asarray(rows)):
        apart = abs(innocents[critic][:, CLASSES, None] - unseen[own])
        assert (apart.min(axis=1) < 3e-6).all() and len(np.unique(apart.argmin(axis=1))) > 2


# Draws of data, by their numbers


@functools.cache
def digits(seed):
    return load("digits", train_size=300, label_noise=0.3, held_out=0.0, seed=seed)


DRAWS = {
    "which rows are trained on": lambda seed: digits(seed).train.images,
    "whose labels are wrong": lambda seed: load("digits", label_noise=0.3, seed=seed).train.labels,
    "noise of variations": lambda seed: variations(np.asarray(IMAGES), seed)[4:],
    "a forget set": lambda seed: choose(np.arange(90) % 3, kind="random", size=30, classes=3, seed=seed),
    "another forget set": lambda index: choose(np.arange(90) % 3, kind="random", size=30, classes=3, index=index),
    "equal scores": lambda seed: choose(
        np.arange(90) % 3, kind="exposed", size=30, scores=lambda: np.ones(90), classes=3, seed=seed
    ),
}


@pytest.mark.parametrize("name", DRAWS)
def test_another_number_is_another_draw(name):
    drawn = [np.asarray(DRAWS[name](number)) for number in (0, 1, 0)]
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert (drawn[0] != drawn[1]).mean() > 0.1
    if name == "noise of variations":  # every image and every variation has its own
        noise = (drawn[0] - np.asarray(IMAGES)).reshape(-1, IMAGES[0].size)
        assert abs(np.corrcoef(noise) - np.eye(len(noise))).max() < 0.5


# Toys


def wrong(toy):
    return np.flatnonzero(toy.train.labels != toy.clean_labels)


TOYS = {
    "discs": lambda number: discs(400, label_noise=0.25, seed=number),
    "populations, by draw": lambda number: populations(400, FASHION_PLANE._replace(label_noise=0.25), draw=number),
    "populations, by seed": lambda number: populations(400, FASHION_PLANE._replace(label_noise=0.25), seed=number),
}


@pytest.mark.parametrize("name", TOYS)
def test_another_number_is_other_points_and_other_wrong_labels(name):
    toys = [TOYS[name](number) for number in (0, 1, 2)]
    for first, second in itertools.combinations(toys, 2):
        assert len(wrong(first)) == len(wrong(second)) == 100
        shared = len(np.intersect1d(wrong(first), wrong(second)))
        assert 10 < shared < 45  # 25 by chance, with a standard deviation of 4
        assert not (first.train.images == second.train.images).any()


def test_another_draw_is_of_the_same_sub_populations():
    """Tight and rare alone: their places are those of the seed, whatever the draw."""
    rare = Mixture(np.array([[0.0, 0.0], [9.0, 0.0]]), rare=1.0, reach=1e4, label_noise=0.0)
    places = functools.partial(np.round, decimals=-2)
    first, second, elsewhere = (
        {tuple(place) for place in places(toy.train.images).tolist()}
        for toy in (populations(4_000, rare), populations(4_000, rare, draw=1), populations(4_000, rare, seed=1))
    )
    assert len(first & second) > 0.8 * len(first) > 0.2 * len(first) > len(first & elsewhere)
