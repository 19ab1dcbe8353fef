"""One method for many members: each member as if it were alone, with the masks of all or with its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax.methods import METHODS, hyperparameters
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.models import build
from unlearn_jax.training.ensembles import shared
from unlearn_jax.training.pools import member_keys
from unlearn_jax.types import Examples, Problem, Variables

MEMBERS, EXAMPLES, KEPT, FORGET, CLASSES = 3, 40, 24, 6, 3
SMALL = {"epochs": 2, "batch_size": 5, "learning_rate": 0.05}


@pytest.fixture(scope="module")
def setting():
    """A problem, untrained members, and masks of each member's own."""
    rng = np.random.default_rng(0)
    order = rng.permuted(np.tile(np.arange(EXAMPLES), (MEMBERS, 1)), axis=1)
    kept, forget = np.zeros((2, MEMBERS, EXAMPLES), bool)
    np.put_along_axis(kept, order[:, :KEPT], True, axis=1)
    np.put_along_axis(forget, order[:, :FORGET], True, axis=1)
    images = jnp.asarray(rng.normal(size=(EXAMPLES, 3, 3, 1)), jnp.float32)
    examples = Examples(images, jnp.asarray(rng.integers(0, CLASSES, EXAMPLES), jnp.int32))
    problem = Problem(
        train=examples,
        held_out=examples,
        kept=jnp.asarray(kept[0]),
        forget=jnp.asarray(forget[0]),
        model=build("mlp", classes=CLASSES, width=4),
        classes=CLASSES,
        kept_count=KEPT,
        forget_count=FORGET,
    )
    members = jax.vmap(lambda key: problem.model.init(key, images[:1]))(jax.random.split(jax.random.key(1), MEMBERS))
    return shared(problem), jax.tree.map(np.asarray, members), {"kept": kept, "forget": forget}


def values(name):
    given = {key: value for key, value in SMALL.items() if key in METHODS[name].defaults}
    return hyperparameters(name, given)


def unlearned(name, setting, masks, **options):
    problem, members, _ = setting
    return Unlearner(name, values(name), problem, members, masks=masks, **options).apply(member_keys(0, name, MEMBERS))


@pytest.mark.parametrize("strategy", ["map", "vmap"])
def test_members_with_masks_of_their_own_are_members_alone(setting, strategy):
    name = "neggrad_plus"  # which draws from both the forget and the retain set
    problem, members, masks = setting
    done = unlearned(name, setting, masks, strategy=strategy, chunk=2)
    alone = jax.jit(METHODS[name].make(**values(name)))
    for member, key in enumerate(member_keys(0, name, MEMBERS)):
        own = problem.replace(**{field: jnp.asarray(mask[member]) for field, mask in masks.items()})
        expected = alone(key, own, Variables(*jax.tree.map(lambda leaf, m=member: jnp.asarray(leaf[m]), members)))
        got = jax.tree.map(lambda leaf, m=member: leaf[m], done.variables)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, expected)
    assert done.examples > 0


def test_the_problems_masks_given_to_each_member_change_no_bit(setting):
    problem, _, _ = setting
    repeated = {field: np.tile(np.asarray(getattr(problem, field)), (MEMBERS, 1)) for field in ("kept", "forget")}
    ours, theirs = (unlearned("finetune", setting, masks, strategy="map") for masks in (repeated, None))
    jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)
    assert ours.examples == theirs.examples


def test_masks_that_count_otherwise_than_the_problem_are_refused(setting):
    _, _, masks = setting
    more = masks["forget"].copy()
    more[1] = masks["kept"][1]
    with pytest.raises(ValueError, match=rf"forget: every member's mask must hold {FORGET} examples, not \[ ?{FORGET} {KEPT}\]"):
        unlearned("finetune", setting, {**masks, "forget": more})


def test_retuned_is_the_same_as_made_with_those_numbers_and_compiles_nothing(setting):
    problem, members, _ = setting
    keys, rates = member_keys(0, "any", MEMBERS), np.array([0.0, 0.01, 0.2])
    unlearner = Unlearner("gradient_ascent", values("gradient_ascent"), problem, members)
    unlearner.apply(keys)
    compiled = dict(unlearner._compiled)
    unlearner.retune(learning_rate=rates)
    found = unlearner.apply(keys).variables
    expected = Unlearner("gradient_ascent", {**values("gradient_ascent"), "learning_rate": rates}, problem, members)
    jax.tree.map(np.testing.assert_array_equal, found, expected.apply(keys).variables)
    assert unlearner._compiled == compiled
    np.testing.assert_array_equal(jax.tree.leaves(found)[0][0], jax.tree.leaves(members)[0][0])


def test_turned_to_another_problem_is_the_same_as_made_for_it_and_compiles_nothing(setting):
    problem, members, masks = setting
    there = shared(problem.replace(train=problem.train._replace(images=problem.train.images + 1.0)))
    others = jax.tree.map(lambda leaf: leaf[::-1] * 1.5, members)
    keys = member_keys(0, "any", MEMBERS)
    unlearner = Unlearner("finetune", values("finetune"), problem, members, masks=masks)
    unlearner.apply(keys)
    compiled = dict(unlearner._compiled)
    flipped = {field: mask[::-1] for field, mask in masks.items()}
    unlearner.turn_to(there, others, flipped)
    expected = Unlearner("finetune", values("finetune"), there, others, masks=flipped).apply(keys).variables
    jax.tree.map(np.testing.assert_array_equal, unlearner.apply(keys).variables, expected)
    assert unlearner._compiled == compiled
    with pytest.raises(ValueError, match="forget"):
        unlearner.turn_to(there, others, {"forget": masks["kept"]})
