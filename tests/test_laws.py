"""One table of laws through which every entry of `METHODS` goes: a new method is tested by being listed.

Hyperparameters are shrunk by name (`SMALL`), whatever the method; only where a default would leave the law with nothing to
see does a method have values of its own (`OWN`). A method's programs are compiled once and shared by all laws.
"""

import functools
import inspect
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax.methods import METHODS, hyperparameters, traceable
from unlearn_jax.methods.registry import Number
from unlearn_jax.models import as_model, build
from unlearn_jax.models.resnet import ResNet, block_names
from unlearn_jax.training import gradients
from unlearn_jax.training.ensembles import over_members, shared
from unlearn_jax.types import Examples, Problem, Recipe, Variables

DEVICES = 2  # see conftest.py
SMALL = {
    "epochs": 2,
    "max_epochs": 1,
    "batch_size": 5,
    "samples": 9,
    "copies": 3,
    "attack_steps": 2,
    "learning_rate": 0.02,
    "alpha": 0.3,
}
OWN = {
    "fisher": {"alpha": 1e-5},
    "ssd": {"selection": 1.0, "dampening": 0.5},
    "sfron": {"max_norm": 0.1},
    "amun": {"doublings": 1},
    "amun_forget": {"doublings": 1},
    "boundary_shrink": {"size": 0.3},
    "neggrad_plus": {"momentum": 0.5, "weight_decay": 0.1},
    "l2ul": {"radius": 0.12},
    "scrub_r": {"epochs": 4, "max_epochs": 4, "learning_rate": 0.2, "rate_decay": 0.9, "weight_decay": 1e-3},
    "gated_knowledge_transfer": {"gate": 0.1, "rounds": 2, "student_steps": 2, "batch_size": 16},
    "lfssd": {"selection": 1.0, "dampening": 0.5},
    "sisa": {"shards": 2, "slices": 2},
    "rni": {"tensors": 2, "full_share": 0.4, "epochs": 3},
    "lotus": {"retain_share": 0.5, "tolerance": 0.02, "epochs": 8},
    "rum": {"middle_epochs": 1, "high_epochs": 1, "proxy_epochs": 3, "proxy_rate": 2.0, "middle_rate": 0.05, "high_rate": 0.05},
    "noisy_finetune": {"epsilon": 100.0},
    "connectivity_barrier": {"weight": 0.3, "bound": 1.3},
    "oracle_matching": {"oracles": 1},
    "datamodel_matching": {"pairs": 2},
    "unsir": {"noise_images": 4, "noise_steps": 3, "retain_share": 0.5},
}
WITHOUT_CHANCE = {"original", "ssd", "lfssd", "newton"}  # methods that have no use for their key
OF_EACH_KIND = ("scrub", "salun", "fisher", "sisa", "gated_knowledge_transfer")  # program, mask, edit, ensemble, two networks
ON_A_RESNET = ("scrub", "salun", "fisher", "cf_k")  # one of each kind: a program, a mask, an edit, frozen blocks
MEMBERS, EXAMPLES, FORGET, OUTSIDE, CLASSES = 4, 48, 7, 9, 3
METHOD_NAMES = list(METHODS)


@pytest.fixture(scope="module", autouse=True)
def small_chunks():
    """The last chunk of examples is not full."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradients, "CHUNK", 4)
        yield


class Perceptron(nn.Module):
    """Small enough to compile in a moment, with BatchNorm, so that every law sees statistics as well as params."""

    @nn.compact
    def __call__(self, images, train):
        x = nn.Dense(6, use_bias=False, name="hidden")(images.reshape(len(images), -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
        self.sow("intermediates", "features", x)
        return nn.Dense(CLASSES, name="head")(x)


@functools.cache
def model(name):
    if "convolutions" in METHODS[name].needs:
        return as_model(ResNet(CLASSES, (1,), 4), block_names((1,)))
    return as_model(Perceptron(), (("hidden", "norm"), ("head",)))


@functools.cache
def problem(network):
    """Rows that are to be forgotten, to be retained, and (`outside`) neither, in no order.

    Row 0 is outside: an index that was never set must not go unnoticed.
    """
    rng = np.random.default_rng(0)
    order = np.append(1 + rng.permutation(EXAMPLES - 1), 0)
    forget, kept = np.zeros(EXAMPLES, bool), np.ones(EXAMPLES, bool)
    forget[order[:FORGET]], kept[order[-OUTSIDE:]] = True, False
    images = rng.normal(size=(EXAMPLES + 12, 4, 4, 1)).astype(np.float32)
    labels = rng.integers(0, CLASSES, EXAMPLES + 12).astype(np.int32)
    made = Problem(
        train=Examples(jnp.asarray(images[:EXAMPLES]), jnp.asarray(labels[:EXAMPLES])),
        held_out=Examples(jnp.asarray(images[EXAMPLES:]), jnp.asarray(labels[EXAMPLES:])),
        kept=jnp.asarray(kept),
        forget=jnp.asarray(forget),
        model=network,
        classes=CLASSES,
        kept_count=EXAMPLES - OUTSIDE,
        forget_count=FORGET,
        recipe=Recipe(epochs=2, batch_size=8),
    )
    return shared(made)


@functools.cache
def members(network):
    """Variables of several models, with statistics that differ between them."""

    def one(key):
        init_key, key = jax.random.split(key)
        params, statistics = network.init(init_key, jnp.zeros((1, 4, 4, 1)))
        return Variables(params, jax.tree.map(lambda leaf: leaf * jax.random.uniform(key) + 0.1, statistics))

    return jax.device_get(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), MEMBERS)))


@functools.cache
def keys():
    return jax.random.split(jax.random.key(2), MEMBERS)


def member(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def values(name, **given):
    small = {key: value for key, value in SMALL.items() if key in METHODS[name].defaults}
    return hyperparameters(name, small | OWN.get(name, {}) | given)


def numbers(name):
    """The hyperparameters that may be traced, each twice: as they are, and all of them a little larger."""
    return {key: np.array([value, 1.1 * value], np.float32) for key, value in traceable(name, values(name))[1].items()}


def applied(name, **given):
    """`name` as a function of `(key, variables, numbers, problem)`."""
    static, _ = traceable(name, values(name, **given))
    return lambda key, variables, numbers, problem: METHODS[name].make(**static, **numbers)(key, problem, variables)


@functools.lru_cache(maxsize=4)  # conftest.py orders the laws by method
def program(name, strategy="vmap"):
    """The method compiled over a leading axis of members, numbers included; `one`: for a single member."""
    return jax.jit(applied(name)) if strategy == "one" else over_members(applied(name), (True, True, True, False), strategy)


def run(name, key=None, chosen=0, on=None, **changed):
    """One member unlearned, with some of the numbers changed. The others of its batch are copies: one program serves all laws."""
    network = model(name)
    key = keys()[0] if key is None else key
    own = member(numbers(name), chosen) | {k: np.float32(v) for k, v in changed.items()}
    batch = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], MEMBERS, axis=0), (member(members(network), 0), own))
    repeated = jnp.repeat(key[None], MEMBERS, axis=0)
    return member(jax.device_get(program(name)(repeated, *batch, problem(network) if on is None else on)), 0)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5), a, b)


# What a method computes


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_the_same_key_gives_the_same_result_and_another_key_another(name):
    first = run(name)
    assert same(run(name), first)
    assert same(run(name, key=keys()[1]), first) == (name in WITHOUT_CHANCE)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_structure_shapes_and_types_stay_and_all_is_finite(name):
    before, after = member(members(model(name)), 0), run(name)
    if METHODS[name].ensemble:
        after = member(after, 0)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
        assert np.isfinite(new).all()
    assert same(before.params, after.params) == (name == "original")


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_a_member_does_not_depend_on_the_others_of_its_batch(name):
    assert jax.device_count() == 2
    network, chosen = model(name), np.array([0, 1, 1, 0])
    batched = {key: value[chosen] for key, value in numbers(name).items()}
    together = jax.device_get(program(name)(keys(), members(network), batched, problem(network)))
    close(member(together, 0), run(name))
    if METHODS[name].access != "none":
        assert not same(member(together, 0).params, member(together, 1).params)


@pytest.mark.parametrize("strategy", ["vmap", "map"])
@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_batched_over_members_on_two_devices_is_a_loop_over_them(name, strategy):
    network, chosen = model(name), [0, 1, 1, 0]
    batched = {key: value[np.array(chosen)] for key, value in numbers(name).items()}
    together = jax.device_get(program(name, strategy)(keys(), members(network), batched, problem(network)))
    for index in range(MEMBERS):
        alone = program(name, "one")(keys()[index], member(members(network), index), member(batched, index), problem(network))
        close(member(together, index), alone)


@pytest.mark.parametrize("name", [name for name in METHOD_NAMES if traceable(name, values(name))[1]])
def test_a_grid_of_numbers_is_one_more_batched_axis(name):
    network = model(name)
    repeated = jax.tree.map(lambda leaf: np.repeat(leaf[:1], MEMBERS, axis=0), members(network))
    grid = {key: np.tile(value, MEMBERS // 2) for key, value in numbers(name).items()}
    together = jax.device_get(program(name)(jnp.repeat(keys()[:1], MEMBERS), repeated, grid, problem(network)))
    close(member(together, 0), run(name, chosen=0))
    close(member(together, 1), run(name, chosen=1))


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_every_number_matters(name):
    """A hyperparameter that changes nothing is not wired."""
    first = run(name)
    for key, value in traceable(name, values(name))[1].items():
        assert not same(run(name, **{key: 1.5 * value}), first), f"{name} does not read {key}"


@pytest.mark.parametrize("name", [name for name, entry in METHODS.items() if entry.identity_at_zero])
def test_zero_epochs_leave_the_model_bit_for_bit(name):
    zero = {"epochs": 0} if "epochs" in METHODS[name].defaults else {}
    before = member(members(model(name)), 0)
    method = jax.jit(applied(name, **zero))
    assert same(method(keys()[0], before, member(numbers(name), 0), problem(model(name))), before)


# What a method may see

MAY_SEE = {
    "none": set(),
    "data-free": set(),
    "F": {"forget"},
    "R": {"retain"},
    "F+R": {"forget", "retain"},
    "R+test-like": {"retain", "held_out"},
    "F+R+test-like": {"forget", "retain", "held_out"},
}
PARTS = ("forget", "retain", "outside", "held_out")


@functools.cache
def poisoned(network, part):
    """The problem with the images of one part made NaN and its labels changed."""
    clean = problem(network)

    def spoil(examples, rows, shift=1):
        images = jnp.where(rows.reshape(-1, 1, 1, 1), jnp.nan, examples.images)
        return Examples(images, jnp.where(rows, (examples.labels + shift) % CLASSES, examples.labels))

    if part == "held_out":  # another shift, by which the accuracy there is another too
        return shared(clean.replace(held_out=spoil(clean.held_out, jnp.ones(len(clean.held_out.labels), bool), 2)))
    rows = {"forget": clean.forget, "retain": clean.retain, "outside": ~clean.kept}[part]
    return shared(clean.replace(train=spoil(clean.train, rows)))


@pytest.mark.parametrize(
    ("name", "part"), [(name, part) for name, entry in METHODS.items() for part in PARTS if part not in MAY_SEE[entry.access]]
)
def test_what_a_method_must_not_see_does_not_reach_it(name, part):
    assert same(run(name, on=poisoned(model(name), part)), run(name))


@pytest.mark.parametrize(
    ("name", "part"), [(name, part) for name, entry in METHODS.items() for part in PARTS if part in MAY_SEE[entry.access]]
)
def test_a_method_sees_what_its_access_says(name, part):
    """Access is not claimed in vain; and the poison of the law above is one that would be noticed."""
    assert not same(run(name, on=poisoned(model(name), part)), run(name))


# On a network with convolutions


@functools.cache
def small(name, **sizes):
    """One network for all methods: its members are made once."""
    return build(name, classes=CLASSES, **sizes)


@functools.cache
def shallow():
    """Two stages: a block of each kind, with the strides and the shortcut of the deeper ones."""
    return as_model(ResNet(CLASSES, (1, 1), 2), block_names((1, 1)))


@pytest.mark.parametrize("name", ON_A_RESNET)
def test_on_a_tiny_resnet_with_batch_norm(name):
    network = shallow()
    before = member(members(network), 0)
    _, own = traceable(name, values(name))
    after = jax.jit(applied(name, epochs=1) if "epochs" in own else applied(name))(keys()[0], before, own, problem(network))
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    assert not same(after.params, before.params)
    assert same(after.statistics, before.statistics) == (name in ("cf_k", "fisher"))


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_a_vision_transformer_is_taken_or_left_out_with_the_reason(name):
    network = small("vit", width=8, depth=1)
    if reason := METHODS[name].unmet(problem(network)):
        assert reason == "convolutions; this model has none" and "convolutions" in METHODS[name].needs
        return
    before = member(members(network), 0)
    traced = jax.jit(applied(name)).trace(keys()[0], before, member(numbers(name), 0), problem(network))
    networks = (OWN[name]["shards"],) if METHODS[name].ensemble else ()
    assert [leaf.shape for leaf in jax.tree.leaves(traced.out_info)] == [
        networks + leaf.shape for leaf in jax.tree.leaves(before)
    ]
    if name in ON_A_RESNET:
        after = traced.lower().compile()(keys()[0], before, member(numbers(name), 0), problem(network))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after)) and not same(after, before)


# How a method asks networks and uses its keys


TAUGHT = {"bad_teacher", "scrub", "scrub_r", "delete", "prmq", "kde", "boundary_shrink", "amun", "amun_forget", "l2ul", "unsir"}


@functools.cache
def traced(name):
    """Of each forward pass of a method: whether its weights are being differentiated, and whether it is in training mode.

    And what JAX's own checker of keys finds wrong, or None.
    """
    network, passes = model(name), []

    def recorded(function):
        def recording(variables, images, train=False, **others):
            kinds = {type(leaf).__name__ for leaf in jax.tree.leaves(variables.params)}
            passes.append((bool(kinds & {"JVPTracer", "LinearizeTracer"}), train))
            return function(variables, images, train=train, **others)

        return recording

    on = problem(network).replace(
        model=network._replace(apply=recorded(network.apply), activations=recorded(network.activations))
    )
    own = keys()[0], member(members(network), 0), member(numbers(name), 0)
    try:
        with jax.debug_key_reuse(True):
            jax.jit(applied(name)).trace(*own, on)
    except jax.errors.KeyReuseError as found:
        return passes, found
    return passes, None


@pytest.mark.parametrize("name", [name for name in METHOD_NAMES if name not in ("original", "gated_knowledge_transfer")])
def test_a_network_that_is_not_being_trained_is_asked_in_eval_mode(name):
    """Teachers, and whatever attacks or noise are made against: their weights are held, and so are their statistics."""
    passes, _ = traced(name)
    asked = [training for differentiated, training in passes if not differentiated]
    assert not any(asked)
    assert asked or name not in TAUGHT


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_no_key_is_used_twice(name):
    assert traced(name)[1] is None


def test_a_student_that_a_generator_works_against_is_the_one_that_learns():
    """It is in training mode when it is asked, as when it learns; its teacher never is."""
    assert set(traced("gated_knowledge_transfer")[0]) == {(False, False), (False, True), (True, True)}


# What a method says of itself


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_the_docstring_has_a_summary_and_every_hyperparameter(name):
    entry = METHODS[name]
    text = inspect.cleandoc(entry.make.__doc__)
    lines = text.splitlines()
    assert entry.summary == lines[0]
    assert entry.summary.endswith(".") and (len(lines) == 1 or not lines[1])
    assert entry.reference.strip()
    documented = re.findall(r"^    (\w+): \S", text.partition("\nArgs:\n")[2], flags=re.MULTILINE)
    assert documented == list(entry.defaults)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_hyperparameters_are_keywords_with_defaults_of_their_type(name):
    entry = METHODS[name]
    for parameter in inspect.signature(entry.make).parameters.values():
        assert parameter.kind is parameter.KEYWORD_ONLY
        may_be_traced = parameter.name not in entry.static
        assert parameter.annotation == (Number if may_be_traced else type(parameter.default))
        assert isinstance(parameter.default, float) or not may_be_traced
    assert entry.static <= set(entry.defaults)
