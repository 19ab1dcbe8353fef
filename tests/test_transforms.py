"""The optax transforms, in plain optax loops that know nothing of this project."""

import doctest
import inspect
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from unlearn_jax.methods.retraining import sgd
from unlearn_jax.training import transforms
from unlearn_jax.training.fit import optimiser as of_recipe
from unlearn_jax.training.transforms import alternate, freeze_by_name, freeze_where, project_out, proximal_l1, tree_dot
from unlearn_jax.types import Recipe

START = {"a": jnp.array([1.0, -2.0, 3.0]), "b": {"w": jnp.array([[0.5, -0.5], [2.0, 0.1]]), "c": jnp.array([4.0])}}
CENTRE = {"a": jnp.array([0.3, 0.1, -0.2]), "b": {"w": jnp.array([[1.0, 2.0], [-1.0, 0.0]]), "c": jnp.array([-1.0])}}
SCALE = {"a": jnp.array([1.0, 0.5, 2.0]), "b": {"w": jnp.array([[1.0, 1.5], [0.7, 1.0]]), "c": jnp.array([0.9])}}
OPTIMISERS = {
    "adamw": lambda: optax.adamw(0.05, weight_decay=0.1),
    "sgd": lambda: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9)),
    "nesterov on a schedule": lambda: optax.sgd(optax.linear_schedule(0.1, 0.0, 20), momentum=0.9, nesterov=True),
}
MASKS = {
    "elementwise": {
        "a": jnp.array([True, False, False]),
        "b": {"w": jnp.array([[True, False], [False, True]]), "c": jnp.array([False])},
    },
    "whole leaves": {"a": True, "b": {"w": False, "c": True}},
    "everything": {"a": True, "b": {"w": True, "c": True}},
}


def quadratic(params):
    """1/2 sum of scale x (param - centre)²: its gradient is scale x (param - centre)."""
    return sum(jax.tree.leaves(jax.tree.map(lambda p, c, s: 0.5 * jnp.sum(s * (p - c) ** 2), params, CENTRE, SCALE)))


def loop(optimiser, steps, params=START, state=None, loss=quadratic):
    """An ordinary optax loop."""
    if state is None:
        state = optimiser.init(params)

    def step(carry, _):
        params, state = carry
        updates, state = optimiser.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, state), length=steps)[0]


def bits(tree):
    plain = [
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf for leaf in jax.tree.leaves(tree)
    ]
    return [np.asarray(leaf).tobytes() for leaf in plain]


def filled(tree, mask):
    """The mask with one boolean for every entry."""
    return jax.tree.map(lambda leaf, m: jnp.broadcast_to(jnp.asarray(m), leaf.shape), tree, mask)


def only(tree, mask):
    return [np.asarray(leaf)[np.asarray(m)] for leaf, m in zip(jax.tree.leaves(tree), jax.tree.leaves(mask), strict=True)]


def moments(optimiser, state):
    """The parts of an optimiser's state that are shaped like the params, each as such a tree."""
    like_params = jax.tree.structure(START)
    found = [part for part in jax.tree.leaves(state, is_leaf=lambda part: jax.tree.structure(part) == like_params)]
    return [part for part in found if jax.tree.structure(part) == like_params]


# freeze_where


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_frozen_weights_and_their_state_stay_bit_for_bit(name, mask):
    """Also when the state is warm before the freeze: a momentum of old must not go on moving a weight."""
    inner, entries = OPTIMISERS[name](), filled(START, MASKS[mask])
    params, state = loop(inner, 5)
    assert all((np.asarray(leaf) != 0).all() for leaf in jax.tree.leaves(moments(inner, state)))
    after, held = loop(freeze_where(inner, MASKS[mask]), 7, params, state)
    assert bits(only(after, entries)) == bits(only(params, entries))
    before, now = moments(inner, state), moments(inner, held)
    assert len(now) == len(before) == (2 if name == "adamw" else 1)
    for old, new in zip(before, now, strict=True):
        assert bits(only(new, entries)) == bits(only(old, entries))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_other_weights_move_as_if_alone(name, mask):
    inner, free = OPTIMISERS[name](), jax.tree.map(jnp.logical_not, filled(START, MASKS[mask]))
    frozen, _ = loop(freeze_where(inner, MASKS[mask]), 7)
    plain, _ = loop(inner, 7)
    for a, b in zip(only(frozen, free), only(plain, free), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_frozen_gradient_may_be_nan():
    optimiser = freeze_where(optax.adamw(0.1), {"w": jnp.array([True, False])})
    params = {"w": jnp.array([1.0, 2.0])}
    updates, state = optimiser.update({"w": jnp.array([jnp.nan, 1.0])}, optimiser.init(params), params)
    assert updates["w"][0] == 0 and jnp.isfinite(updates["w"]).all()
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_masks_may_be_batched():
    masks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(filled(START, mask) for mask in MASKS.values()))

    def one(mask):
        return loop(freeze_where(OPTIMISERS["adamw"](), mask), 4)[0]

    batched = jax.jit(jax.vmap(one))(masks)
    for index, mask in enumerate(MASKS.values()):
        alone = loop(freeze_where(OPTIMISERS["adamw"](), mask), 4)[0]
        jax.tree.map(lambda a, b, index=index: np.testing.assert_allclose(a[index], b, rtol=1e-5), batched, alone)


def test_optax_masked_is_not_enough():
    """What `freeze_where` is for: `optax.masked` hands the raw gradient through to the weights that it leaves out."""
    params, gradient = {"a": jnp.ones(1), "b": jnp.ones(1)}, {"a": jnp.ones(1), "b": jnp.ones(1)}
    leaky = optax.masked(optax.sgd(0.1), {"a": True, "b": False})
    updates, _ = leaky.update(gradient, leaky.init(params), params)
    assert updates["b"] == 1.0
    tight = freeze_where(optax.sgd(0.1), {"a": False, "b": True})
    updates, _ = tight.update(gradient, tight.init(params), params)
    assert updates["b"] == 0.0


def test_freezing_reaches_the_optimum_of_what_is_free():
    params, _ = loop(freeze_where(optax.sgd(0.5), MASKS["elementwise"]), 200)
    expected = jax.tree.map(jnp.where, filled(START, MASKS["elementwise"]), START, CENTRE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), params, expected)


# Every optimiser of optax, wrapped

WHOLE = {
    "a": jnp.array([1.0, -2.0, 3.0]),
    "b": {"w": jnp.array([[0.5, -0.5], [2.0, 0.1]]), "v": jnp.array([[5.0, 1.0], [-1.0, 7.0]])},
    "c": jnp.array([4.0, 1.0, -2.0]),
}
FROZEN = {"a": True, "b": {"w": False, "v": True}, "c": False}
ENTRIES = {
    "a": jnp.array([True, False, False]),
    "b": {"w": jnp.array([[True, False], [False, True]]), "v": jnp.array([[False, True], [True, False]])},
    "c": jnp.array([False, True, False]),
}
SETTINGS = {
    "noisy_sgd": {"key": 0},
    "galore": {"rank": 1},
    "lbfgs": {"memory_size": 2, "linesearch": None},
}


def factories():
    """Every optimiser of optax that can be made of a learning rate, found by its signature; new ones are found too."""
    for module in (optax, contrib):
        for name in sorted(dir(module)):
            make = getattr(module, name)
            if name.startswith(("_", "scale_by_")) or name == "optimistic_adam" or not inspect.isfunction(make):
                continue  # the last is deprecated
            arguments = inspect.signature(make).parameters
            needed = {each for each, argument in arguments.items() if argument.default is argument.empty}
            if "learning_rate" in arguments and needed <= {"learning_rate"}:
                yield name, lambda make=make, name=name: make(**{"learning_rate": 0.1, **SETTINGS.get(name, {})})


def by_rank(params):
    return jax.tree.map(lambda leaf: "matrix" if jnp.ndim(leaf) == 2 else "vector", params)


def by_path(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: "vector" if path[-1].key in "ac" else "matrix", params)


def two():
    return {"matrix": optax.sgd(0.1, 0.9), "vector": optax.adam(0.1)}


EVERY = {
    **dict(factories()),
    "polyak_sgd": optax.polyak_sgd,
    "line search": lambda: optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(2)),
    "mechanize": lambda: contrib.mechanize(optax.sgd(0.1)),
    "reduce_on_plateau": lambda: optax.chain(optax.sgd(0.1), contrib.reduce_on_plateau()),
    "schedule_free": lambda: contrib.schedule_free(optax.adam(0.1), 0.1),
    "sam": lambda: contrib.sam(optax.sgd(0.1), optax.sgd(0.05), sync_period=2, opaque_mode=True),
    "masked": lambda: optax.masked(optax.adam(0.1), lambda params: jax.tree.map(lambda leaf: jnp.ndim(leaf) == 2, params)),
    "partition": lambda: optax.partition(two(), by_rank),
    "multi_transform": lambda: optax.multi_transform(two(), by_path),
    "flatten": lambda: optax.flatten(optax.adam(0.1)),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adamw)(optax.linear_schedule(0.1, 0.0, 5)),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(0.1), 2),
    "conditionally_mask": lambda: optax.conditionally_mask(optax.adam(0.1), lambda step, **_: step > 0),
    "named_chain": lambda: optax.named_chain(("clip", optax.clip_by_global_norm(0.5)), ("adam", optax.adam(0.1))),
    "adaptive_grad_clip": lambda: optax.chain(optax.adaptive_grad_clip(0.1), optax.sgd(0.1)),
    "centralize": lambda: optax.chain(optax.centralize(), optax.sgd(0.1)),
    "clip_by_block_rms": lambda: optax.chain(optax.clip_by_block_rms(0.1), optax.sgd(0.1)),
    "normalize_by_update_norm": lambda: optax.chain(optax.normalize_by_update_norm(), optax.sgd(0.1)),
    "add_noise": lambda: optax.chain(optax.add_noise(0.1, 0.5, 0), optax.sgd(0.1)),
    "proximal_l1": lambda: optax.chain(optax.sgd(0.1), proximal_l1(0.05)),
    "project_out": lambda: optax.chain(project_out(), optax.sgd(0.1)),
    "alternate": lambda: alternate(optax.adam(0.1), optax.sgd(0.1, 0.9)),
    "freeze_where": lambda: freeze_where(optax.adam(0.1), lambda params: jax.tree.map(lambda leaf: jnp.ndim(leaf) == 2, params)),
    "methods.sgd": lambda: sgd(0.1, 0.1),
    "recipe": lambda: of_recipe(Recipe(optimiser="adam", schedule="cosine", weight_decay=0.1), 5),
}
NOISY = {"noisy_sgd", "add_noise"}  # a mask in an array draws noise for all leaves, another than for the free ones alone
VALUED = {"momo", "momo_adam", "polyak_sgd", "reduce_on_plateau", "chain"}  # ask for the value of the loss
NO_PLACES = {"line search", "flatten"}  # no part of their state belongs to a leaf, or they read the params' values
FACTORED = {"adafactor", "sm3", "galore"}
MIXING = {  # what the entries of a leaf do to each other hangs on its shape, or on a mean over it
    *{"muon", "masked", "partition", "freeze_where", "adaptive_grad_clip", "centralize", "clip_by_block_rms"},
}


def far(params):
    """The gradient of 1/2 |params - 0.3|², which knows no other entry."""
    return jax.tree.map(lambda leaf: leaf - 0.3, params)


def distance(params):
    return 0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(far(params)))


def steps(name, optimiser, params, value=distance):
    """Two steps, not compiled (which would cost most), with all that the optimiser called `name` asks for."""
    with jax.disable_jit(name not in NOISY):  # of a draw of random bits, each operation by itself costs more
        return take(name, optimiser, params, value)


def take(name, optimiser, params, value):
    optimiser, state = optax.with_extra_args_support(optimiser), optimiser.init(params)
    for number in range(2):
        gradient = far(params)
        extra = {
            "line search": {"value": value(params), "grad": gradient, "value_fn": value},
            "sophia": {"obj_fn": value},
            "sam": {"grad_fn": lambda params, _: far(params)},
            "project_out": {"reference": jax.tree.map(jnp.cos, params)},
            "alternate": {"choice": number % 2},
        }.get(name, {"value": value(params)} if name in VALUED else {})
        updates, state = optimiser.update(gradient, state, params, **extra)
        params = optax.apply_updates(params, updates)
    return params, state


def free_of(params):
    return {"b": {"w": params["b"]["w"]}, "c": params["c"]}


def on_whole(free):
    """The same function of the free leaves alone, the others standing at their start."""
    return distance({**WHOLE, "b": {**WHOLE["b"], "w": free["b"]["w"]}, "c": free["c"]})


def test_the_table_holds_the_optimisers_of_optax():
    assert len(dict(factories())) >= 44 and {"adamw", "lion", "sm3", "lbfgs", "dog", "muon", "sophia"} <= set(EVERY)


@pytest.mark.parametrize("name", EVERY)
def test_frozen_leaves_do_not_exist_for_any_optimiser(name):
    """Free leaves end bit for bit as when they were the only ones; frozen ones, and their part of the state, as they began."""
    alone, _ = steps(name, EVERY[name](), free_of(WHOLE), on_whole)
    masks = [FROZEN]
    if name in FACTORED | MIXING | NO_PLACES | NOISY:  # to the others, a mask in an array is shown entry by entry below
        masks.append(jax.tree.map(jnp.asarray, FROZEN))
    for mask in masks:
        optimiser, data = freeze_where(EVERY[name](), mask), mask is not FROZEN
        if data and name in NO_PLACES:
            with pytest.raises(ValueError, match=r"freeze_where: .* freeze whole leaves, by plain booleans"):
                optimiser.init(WHOLE)
            continue
        params, state = steps(name, optimiser, WHOLE)
        assert bits([params["a"], params["b"]["v"]]) == bits([WHOLE["a"], WHOLE["b"]["v"]])
        assert (bits(free_of(params)) == bits(alone)) == (not data or name not in NOISY)
        assert bits(free_of(params)) != bits(free_of(WHOLE))
        assert jax.tree.structure(state) == jax.tree.structure(jax.eval_shape(EVERY[name]().init, WHOLE))
        if name not in NO_PLACES:
            assert bits(optax.tree_map_params(optimiser, lambda leaf: leaf, state)) == bits(state)


@pytest.mark.parametrize("name", [name for name in EVERY if name not in NO_PLACES])
def test_frozen_entries_are_zeros_or_refused_for_any_optimiser(name):
    """Elementwise: free entries end as when each leaf had no others, where that is defined, and else the optimiser is refused."""
    optimiser = freeze_where(EVERY[name](), ENTRIES)
    if name in FACTORED:
        with pytest.raises(
            ValueError, match=r"the mask of '.*' is elementwise, but the optimiser's state .* freeze whole leaves"
        ):
            optimiser.init(WHOLE)
        return
    params, state = steps(name, optimiser, WHOLE)
    assert bits(only(params, ENTRIES)) == bits(only(WHOLE, ENTRIES))
    assert jax.tree.structure(state) == jax.tree.structure(jax.eval_shape(EVERY[name]().init, WHOLE))
    free = jax.tree.map(np.logical_not, ENTRIES)
    assert bits(only(params, free)) != bits(only(WHOLE, free))
    if name not in MIXING | NOISY:

        def on_entries(few):
            return distance(jax.tree.map(lambda leaf, m, own: leaf.at[m].set(own), WHOLE, free, few))

        alone, _ = steps(name, EVERY[name](), jax.tree.map(lambda leaf, m: leaf[m], WHOLE, free), on_entries)
        for found, expected in zip(only(params, free), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["adafactor", "sm3", "galore"])
def test_one_boolean_for_a_leaf_is_enough_for_a_state_of_factors(name):
    """The refusal's advice: an elementwise mask may stand where the state is a copy (or all of it is one value)."""
    entries = jax.tree.map(lambda leaf, m: np.broadcast_to(m, leaf.shape), WHOLE, FROZEN)
    found, _ = steps(name, freeze_where(EVERY[name](), entries), WHOLE)
    expected, _ = steps(name, freeze_where(EVERY[name](), FROZEN), WHOLE)
    assert bits(found) == bits(expected)


def test_a_weight_beside_frozen_ones_reaches_the_minimum_with_dog():
    """What DoG's first step is measured by is the norm of the params: one million frozen, and it leaps."""
    params = {"free": jnp.array([10.0]), "frozen": jnp.full(4, 1e9)}
    alone, _ = steps("dog", contrib.dog(1.0), {"free": params["free"]})
    for optimiser in (
        freeze_by_name(contrib.dog(1.0), "frozen"),
        freeze_where(contrib.dog(1.0), {"free": False, "frozen": jnp.full(4, True)}),
    ):
        found, _ = steps("dog", optimiser, params)
        assert bits(found["free"]) == bits(alone)


def test_functions_that_an_optimiser_calls_see_the_frozen_values():
    """A line search on a loss in which free and frozen weights meet: (free x frozen - 6)², with frozen at 2."""

    def value(params):
        return jnp.sum((params["free"] * params["frozen"] - 6.0) ** 2)

    params = {"free": jnp.array([1.0]), "frozen": jnp.array([2.0])}
    for mask in ({"free": False, "frozen": True}, {"free": jnp.array(False), "frozen": jnp.array([True])}):
        optimiser = freeze_where(optax.chain(optax.sgd(1.0), Probe.transform(value)), mask)
        updates, seen = optimiser.update(jax.grad(value)(params), optimiser.init(params), params, value_fn=value)
        assert seen[1].value == 16.0 and seen[1].slope["free"] == -16.0
        assert updates["free"] == 16.0 and updates["frozen"] == 0.0


class Probe(NamedTuple):
    """State of a transform that records what it is shown."""

    value: Any
    slope: Any

    @staticmethod
    def transform(value):
        def update(updates, state, params=None, *, value_fn):
            return updates, Probe(value_fn(params), jax.grad(value_fn)(params))

        return optax.GradientTransformationExtraArgs(
            lambda params: Probe(jnp.zeros([]), jax.tree.map(jnp.zeros_like, params)), update
        )


# Masks, names and layouts


class Pair(NamedTuple):
    """Two leaves with names."""

    left: Any
    right: Any


@flax.struct.dataclass
class Node:
    """A dataclass of them."""

    head: Any
    tail: Any


ONE, TWO, THREE = jnp.array([1.0, 2.0]), jnp.array([[3.0]]), jnp.array(4.0)
LAYOUTS = {  # params, and by what names the first leaf is frozen
    "dict": ({"a": ONE, "b": {"c": TWO, "d": THREE}}, ["a"]),
    "list": ([ONE, [TWO, THREE]], ["0"]),
    "tuple in a dict": ({"layers": ({"w": ONE}, {"w": TWO}), "top": THREE}, ["layers/0"]),
    "NamedTuple": (Pair(Pair(ONE, TWO), THREE), ["left/left"]),
    "dataclass": (Node(Node(ONE, TWO), THREE), ["head/head"]),
    "dataclass of lists": (Node([ONE, TWO], Pair(THREE, None)), ["head/0"]),
    "FrozenDict": (flax.core.freeze({"a": {"w": ONE}, "b": {"c": TWO, "d": THREE}}), ["a/*"]),
    "nested None": ({"a": ONE, "b": None, "c": {"d": TWO, "e": None, "f": [None, THREE]}}, ["a"]),
    "numbers as keys": ({0: ONE, 10: {1: TWO, 2: THREE}}, ["0"]),
    "a slash in a key": ({"mlp/~/linear_0": {"w": ONE}, "mlp/~/linear_1": {"b": TWO, "w": THREE}}, ["mlp/~/linear_0"]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_keep_their_form_and_their_names(layout):
    params, names = LAYOUTS[layout]
    first = [True, False, False]
    mask = jax.tree.unflatten(jax.tree.structure(params), first)
    inner = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1))
    alone, _ = steps(layout, inner, [TWO, THREE])
    for optimiser in (
        freeze_by_name(inner, names),
        freeze_where(inner, mask),
        freeze_where(inner, jax.tree.map(jnp.asarray, mask)),
        freeze_where(inner, lambda params: jax.tree.map(lambda leaf: leaf.shape == (2,), params)),
    ):
        found, state = steps(layout, optimiser, params)
        assert jax.tree.structure(found) == jax.tree.structure(params)
        assert jax.tree.structure(state) == jax.tree.structure(inner.init(params))
        assert bits(found) == bits([ONE, *alone])


@pytest.mark.parametrize(
    ("frozen", "full"),
    [
        (True, {"a": True, "b": {"w": True, "c": True}}),
        (False, {"a": False, "b": {"w": False, "c": False}}),
        (np.bool_(True), {"a": True, "b": {"w": True, "c": True}}),
        (jnp.array(True), {"a": True, "b": {"w": True, "c": True}}),
        ({"a": False, "b": True}, {"a": False, "b": {"w": True, "c": True}}),
        ({"a": jnp.array(True), "b": np.array(False)}, {"a": True, "b": {"w": False, "c": False}}),
        (lambda params: {"a": True, "b": False}, {"a": True, "b": {"w": False, "c": False}}),
        (lambda params: jax.tree.map(lambda leaf: leaf.ndim == 2, params), {"a": False, "b": {"w": True, "c": False}}),
        (
            {"a": False, "b": {"w": np.array([True, False]), "c": np.ones(1, bool)}},
            {"a": False, "b": {"w": np.array([[True, False]] * 2), "c": True}},
        ),
        (
            {"a": False, "b": {"w": jnp.array([[True], [False]]), "c": False}},
            {"a": False, "b": {"w": np.array([[True] * 2, [False] * 2]), "c": False}},
        ),
    ],
)
def test_masks_may_be_prefixes_functions_and_single_booleans(frozen, full):
    entries = filled(START, full)
    inner = optax.sgd(0.1, momentum=0.9)
    (found, state), (expected, _) = steps("", freeze_where(inner, frozen), START), steps("", inner, START)
    assert bits(found) == bits(jax.tree.map(jnp.where, entries, START, expected))
    assert jax.tree.structure(state) == jax.tree.structure(inner.init(START))


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        ({"a": True}, "is neither that of the params"),
        ({"a": True, "b": {"w": True}}, "is neither that of the params"),
        ({"a": True, "b": {"w": True, "c": None}}, "is neither that of the params"),
        ({"a": 1, "b": False}, "the mask of 'a' is 1, not boolean"),
        ({"a": "True", "b": False}, "the mask of 'a' is 'True', not boolean"),
        ({"a": False, "b": {"w": np.zeros((2, 2)), "c": False}}, "the mask of 'b/w' is float64, not boolean"),
        ({"a": np.ones(2, bool), "b": False}, r"the mask of 'a' has shape \(2,\), the leaf \(3,\)"),
        ({"a": np.ones((1, 3), bool), "b": False}, r"the mask of 'a' has shape \(1, 3\), the leaf \(3,\)"),
        ({"a": False, "b": np.ones((2, 2), bool)}, r"the mask of 'b/c' has shape \(2, 2\), the leaf \(1,\)"),
        (lambda params: {"a": 0.5, "b": False}, "the mask of 'a' is 0.5, not boolean"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_at_init(frozen, message):
    with pytest.raises(ValueError, match=f"freeze_where: .*{message}") as caught:
        freeze_where(optax.sgd(0.1), frozen).init(START)
    assert "\n" not in str(caught.value)


def test_gradients_may_be_none():
    """Of None params; and of frozen ones, which get their update of zero all the same."""
    params, gradient = {"a": ONE, "b": None, "c": TWO}, {"a": None, "b": None, "c": jnp.ones_like(TWO)}
    for optimiser in (
        freeze_by_name(optax.adamw(0.1), ["a"]),
        freeze_where(optax.adamw(0.1), {"a": True, "b": None, "c": False}),
    ):
        updates, state = optimiser.update(gradient, optimiser.init(params), params)
        assert jax.tree.structure(updates) == jax.tree.structure(params) and bits(updates["a"]) == bits(jnp.zeros(2))
        assert jax.tree.structure(state) == jax.tree.structure(optimiser.init(params))
        found = optax.apply_updates(params, updates)
        assert bits(found["a"]) == bits(ONE) and found["c"] != TWO and found["b"] is None


@pytest.mark.parametrize("params", [{}, [], (), {"a": None}])
def test_trees_without_leaves(params):
    for optimiser in (
        freeze_where(optax.adam(0.1), True),
        freeze_where(optax.adam(0.1), lambda params: params),
        freeze_by_name(optax.adam(0.1), []),
        proximal_l1(0.1),
        alternate(optax.adam(0.1), optax.sgd(0.1)),
    ):
        updates, _ = optax.with_extra_args_support(optimiser).update(params, optimiser.init(params), params, choice=0)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert project_out().update(params, project_out().init(params), reference=params)[0] == params


@pytest.mark.parametrize("frozen", [True, False, jnp.array(True), jnp.array(False)])
def test_a_bare_array_or_number_is_a_tree_too(frozen):
    for params in (jnp.array(2.0), jnp.array([1.0, 2.0])):
        inner = optax.polyak_sgd(0.1)  # whose `value` looks like the first of them
        (found, _), (expected, _) = steps("polyak_sgd", freeze_where(inner, frozen), params), steps("polyak_sgd", inner, params)
        assert bits(found) == bits(params if frozen else expected)
    assert bits(steps("", freeze_by_name(optax.sgd(0.1), "*"), ONE)[0]) == bits(ONE)


WRAPPED = {  # ours inside, and the same with the inner optimiser inside
    "MultiSteps": lambda own: optax.MultiSteps(own(optax.adam(0.1)), 2).gradient_transformation(),
    "apply_if_finite": lambda own: optax.apply_if_finite(own(optax.adam(0.1)), 2),
    "chain": lambda own: optax.chain(optax.scale(2.0), own(optax.polyak_sgd(0.1)), optax.scale_by_schedule(lambda count: 0.5)),
    "named_chain": lambda own: optax.named_chain(("first", own(optax.adam(0.1))), ("second", optax.scale(0.5))),
    "inject_hyperparams": lambda own: optax.inject_hyperparams(lambda learning_rate: own(optax.adam(learning_rate)))(
        learning_rate=0.1
    ),
    "partition": lambda own: optax.partition(
        {"x": own(optax.adam(0.1)), "y": own(optax.sgd(0.1))}, {"a": "x", "b": {"w": "y", "c": "x"}}
    ),
    "masked": lambda own: optax.masked(own(optax.adam(0.1)), {"a": True, "b": {"w": False, "c": True}}),
    "itself": lambda own: freeze_where(own(optax.adam(0.1)), {"a": False, "b": {"w": False, "c": True}}),
    "reduce_on_plateau": lambda own: optax.chain(own(optax.adam(0.1)), contrib.reduce_on_plateau()),
    "alternate": lambda own: alternate(own(optax.adam(0.1)), own(optax.sgd(0.1))),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_what_optax_wraps_around_ours_works_as_around_any(name):
    """Adam and sgd go entry by entry, so that the free ones end as without us and the frozen ones as they began.

    Where the wrapper hands raw gradients past what it wraps, they pass us, too.
    """
    for frozen in (MASKS["whole leaves"], MASKS["elementwise"]):
        free = jax.tree.map(jnp.logical_not, filled(START, frozen))
        found, _ = steps(name, WRAPPED[name](lambda inner, frozen=frozen: freeze_where(inner, frozen)), START)
        plain, _ = steps(name, WRAPPED[name](lambda inner: inner), START)
        for a, b in zip(only(found, free), only(plain, free), strict=True):
            if name != "chain":  # Polyak's step is measured by the norm of the gradients of what is free
                np.testing.assert_allclose(a, b, rtol=1e-5)
        ours = {"a": True, "b": {"w": name != "masked", "c": True}}
        held = jax.tree.map(lambda m, own: m & own, filled(START, frozen), ours)
        assert bits(only(found, held)) == bits(only(START, held))


# freeze_by_name


@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        (["a"], {"a": True, "b": {"w": False, "c": False}}),
        (["b"], {"a": False, "b": {"w": True, "c": True}}),
        (["b/w", "a"], {"a": True, "b": {"w": True, "c": False}}),
        (["b/?"], {"a": False, "b": {"w": True, "c": True}}),
        (["*"], {"a": True, "b": {"w": True, "c": True}}),
        ([], {"a": False, "b": {"w": False, "c": False}}),
    ],
)
def test_names_are_masks(patterns, frozen):
    inner = OPTIMISERS["sgd"]()
    by_name, by_mask = loop(freeze_by_name(inner, patterns), 3), loop(freeze_where(inner, frozen), 3)
    assert bits(by_name) == bits(by_mask)
    assert [old != new for old, new in zip(bits(START), bits(by_name[0]), strict=True)] == [
        not f for f in jax.tree.leaves(frozen)
    ]


@pytest.mark.parametrize("pattern", ["B", "w", "b/", "b/w/x", "aa", ""])
def test_a_name_that_matches_nothing_is_an_error(pattern):
    with pytest.raises(ValueError, match=r"matches none of a, b/c, b/w"):
        freeze_by_name(optax.sgd(0.1), ["a", pattern]).init(START)


def test_one_name_may_come_without_a_list():
    """And is not taken for the list of its letters."""
    params = {"a": ONE, "b": TWO, "ab": THREE}
    updates, _ = freeze_by_name(optax.sgd(0.1), "ab").update(params, freeze_by_name(optax.sgd(0.1), "ab").init(params), params)
    assert [bool((leaf == 0).all()) for leaf in (updates["a"], updates["b"], updates["ab"])] == [False, False, True]
    with pytest.raises(ValueError, match="'ab' matches none of a, b"):
        freeze_by_name(optax.sgd(0.1), "ab").init({"a": ONE, "b": TWO})
    once = (name for name in ["a", "ab"])
    found, _ = steps("", freeze_by_name(optax.adam(0.1), once), params)
    assert bits([found["a"], found["ab"]]) == bits([ONE, THREE]) and found["b"] != TWO


# proximal_l1


def soft(value, threshold):
    return np.sign(value) * np.maximum(np.abs(value) - threshold, 0)


def test_proximal_steps_reach_the_lasso_solution():
    """Min 1/2 s (x - c)² + penalty |x| has the solution soft(c, penalty / s), entry by entry."""
    rate, penalty = 0.4, 0.25
    params, _ = loop(optax.chain(optax.sgd(rate), proximal_l1(rate * penalty)), 300)
    expected = jax.tree.map(lambda c, s: soft(np.asarray(c), penalty / np.asarray(s)), CENTRE, SCALE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params, expected)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a == 0, b == 0), params, expected)
    assert sum((np.asarray(leaf) == 0).sum() for leaf in jax.tree.leaves(params)) == 2


def test_the_threshold_may_follow_a_schedule():
    """With no gradient, thresholds add up: 0.1 + 0.2 + 0.3."""
    optimiser = proximal_l1(lambda count: 0.1 * (count + 1))
    params, state = loop(optimiser, 3, {"w": jnp.array([1.0, -0.5, 0.7])}, loss=lambda params: 0.0 * params["w"].sum())
    np.testing.assert_allclose(params["w"], [0.4, 0.0, 0.1], atol=1e-6)
    assert state.steps == 3


def test_proximal_l1_without_params_is_an_error():
    optimiser = proximal_l1(0.1)
    with pytest.raises(ValueError, match="needs the params"):
        optimiser.update(START, optimiser.init(START))


def mixed(*dtypes):
    """A leaf of each dtype, of numbers that all of them hold."""
    return {str(np.dtype(dtype)): jnp.array([2.0, -0.25, 0.0], dtype) for dtype in dtypes}


HALVES = jnp.bfloat16, jnp.float16, jnp.float32, jnp.complex64


@pytest.mark.parametrize("strength", [0.5, jnp.float32(0.5), lambda count: jnp.float32(0.5)])
def test_proximal_l1_keeps_every_dtype(strength):
    params = mixed(*HALVES)
    optimiser = proximal_l1(strength)
    updates, _ = optimiser.update(jax.tree.map(jnp.zeros_like, params), optimiser.init(params), params)
    assert jax.tree.map(lambda leaf: leaf.dtype, updates) == jax.tree.map(lambda leaf: leaf.dtype, params)
    for leaf in jax.tree.leaves(optax.apply_updates(params, updates)):
        np.testing.assert_array_equal(leaf.astype(jnp.complex64), [1.5, 0.0, 0.0])


def test_proximal_l1_steps_do_not_overflow_in_half_precision():
    """From 40,000 by another 40,000: the way there passes 65,504, the largest float16, the update does not."""
    params, optimiser = {"w": jnp.float16(40_000)}, proximal_l1(30_000.0)
    updates, _ = optimiser.update({"w": jnp.float16(40_000)}, optimiser.init(params), params)
    assert updates["w"] == jnp.float16(10_000)


def test_of_complex_weights_the_modulus_shrinks():
    params, optimiser = {"w": jnp.array([3.0 + 4.0j, 0.3 - 0.4j])}, proximal_l1(1.0)
    updates, _ = optimiser.update({"w": jnp.zeros(2, complex)}, optimiser.init(params), params)
    np.testing.assert_allclose(optax.apply_updates(params, updates)["w"], [2.4 + 3.2j, 0.0], atol=1e-6)


def test_a_mixture_of_half_updates_and_full_weights_still_ends_in_exact_zeros():
    """The update is then as wide as the weight, which it has to cancel."""
    params, optimiser = {"w": jnp.float32(0.1)}, proximal_l1(0.2)
    updates, _ = optimiser.update({"w": jnp.bfloat16(0.01)}, optimiser.init(params), params)
    assert optax.apply_updates(params, updates)["w"] == 0.0


def test_no_gradient_is_no_proximal_step():
    params, optimiser = {"a": ONE, "b": TWO, "c": None}, proximal_l1(0.5)
    updates, _ = optimiser.update({"a": None, "b": jnp.zeros((1, 1)), "c": None}, optimiser.init(params), params)
    assert updates["a"] is None and updates["c"] is None and updates["b"] == -0.5


# project_out


@pytest.mark.parametrize("kinds", [HALVES[:1], HALVES[:2], HALVES[:3], HALVES[3:], HALVES])
def test_project_out_keeps_every_dtype(kinds):
    updates, reference = mixed(*kinds), jax.tree.map(jnp.ones_like, mixed(*kinds))
    found, _ = project_out().update(updates, optax.EmptyState(), reference=reference)
    assert jax.tree.map(lambda leaf: leaf.dtype, found) == jax.tree.map(lambda leaf: leaf.dtype, updates)
    for leaf in jax.tree.leaves(found):
        np.testing.assert_allclose(leaf.astype(jnp.complex64), np.array([2.0, -0.25, 0.0]) - 1.75 / 3, atol=0.01)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_inner_products_of_half_precision_are_taken_in_float32(dtype):
    """1,000² is past the largest float16; and 1 added to 256 is lost in bfloat16."""
    large = {"w": jnp.full(300, 1000.0, dtype)}
    assert tree_dot(large, large) == 3e8
    assert tree_dot({"w": jnp.ones(3000, dtype)}, {"w": jnp.ones(3000, dtype)}) == 3000
    found, _ = project_out().update(large, optax.EmptyState(), reference=large)
    np.testing.assert_array_equal(found["w"].astype(np.float32), 0.0)


def test_complex_gradients_are_orthogonal_to_the_reference_as_a_whole():
    """<r, u'> = 0, of which the change of the retain loss, Re(sum of r x conj(u')), is a part."""
    updates, reference = {"w": jnp.array([1.0 + 2.0j, 3.0 - 1.0j])}, {"w": jnp.array([0.5 - 1.0j, 2.0j])}
    found, _ = project_out().update(updates, optax.EmptyState(), reference=reference)
    np.testing.assert_allclose(tree_dot(reference, found), 0.0, atol=1e-6)
    u, r = np.asarray(updates["w"], complex), np.asarray(reference["w"], complex)
    np.testing.assert_allclose(found["w"], u - np.vdot(r, u) / np.vdot(r, r) * r, rtol=1e-5)


def test_with_real_leaves_beside_complex_ones_they_stay_real():
    updates = {"c": jnp.array([1.0 + 2.0j]), "r": jnp.array([3.0, 1.0])}
    reference = {"c": jnp.array([2.0 - 1.0j]), "r": jnp.array([-1.0, 2.0])}
    found, _ = project_out().update(updates, optax.EmptyState(), reference=reference)
    assert found["r"].dtype == jnp.float32
    np.testing.assert_allclose(tree_dot(reference, found).real, 0.0, atol=1e-6)


def test_leaves_without_a_gradient_stay_out_of_the_projection():
    """One without a reference has a slope of 0 there. The other leaf is as if alone."""
    updates = {"a": None, "b": jnp.array([2.0, 0.0]), "c": jnp.array([5.0]), "d": None}
    reference = {"a": jnp.array([9.0]), "b": jnp.array([1.0, 1.0]), "c": None, "d": None}
    found, _ = project_out().update(updates, optax.EmptyState(), reference=reference)
    np.testing.assert_allclose(found["b"], [1.0, -1.0], atol=1e-6)
    assert found["a"] is None and found["d"] is None and found["c"] == 5.0


def test_what_is_left_is_orthogonal_and_the_rest_is_along_the_reference():
    optimiser = project_out()
    updates, _ = optimiser.update(START, optimiser.init(START), reference=CENTRE)
    np.testing.assert_allclose(tree_dot(updates, CENTRE), 0.0, atol=1e-5)
    removed = jax.tree.map(jnp.subtract, START, updates)
    share = tree_dot(START, CENTRE) / tree_dot(CENTRE, CENTRE)
    jax.tree.map(lambda r, c: np.testing.assert_allclose(r, share * c, rtol=1e-4, atol=1e-6), removed, CENTRE)


def test_a_reference_of_zero_removes_nothing():
    optimiser = project_out()
    updates, _ = optimiser.update(START, optimiser.init(START), reference=jax.tree.map(jnp.zeros_like, START))
    assert bits(updates) == bits(START)


def test_project_out_needs_its_reference():
    optimiser = optax.chain(project_out(), optax.sgd(0.1))
    with pytest.raises(TypeError, match="reference"):
        optimiser.update(START, optimiser.init(START), START)


def test_a_projected_descent_reaches_the_optimum_of_the_plane():
    """With a constant reference r it is descent within the plane <x, r> = <start, r>: here the nearest point of it."""
    target, normal = {"w": jnp.array([1.0, 2.0, 3.0])}, {"w": jnp.array([1.0, 1.0, 0.0])}
    optimiser = optax.chain(project_out(), optax.sgd(0.3))
    params = {"w": jnp.zeros(3)}
    state = optimiser.init(params)
    for _ in range(60):
        gradient = jax.tree.map(jnp.subtract, params, target)
        updates, state = optimiser.update(gradient, state, params, reference=normal)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], [-0.5, 0.5, 3.0], atol=1e-5)


# alternate


@pytest.mark.parametrize("choice", [-1, 2, np.int32(7), jnp.int32(2)])
def test_a_choice_out_of_range_is_refused(choice):
    optimiser = alternate(optax.sgd(1.0), optax.sgd(0.1))
    with pytest.raises(ValueError, match=f"alternate: choice {choice} is not one of 0 to 1"):
        optimiser.update(START, optimiser.init(START), START, choice=choice)


def test_a_traced_choice_is_taken_for_the_nearest_in_range():
    optimiser = alternate(optax.sgd(1.0), optax.sgd(2.0))
    update = jax.jit(lambda choice: optimiser.update(ONE, optimiser.init(ONE), ONE, choice=choice)[0])
    for choice, rate in ((-3, 1.0), (0, 1.0), (1, 2.0), (5, 2.0)):
        assert bits(update(choice)) == bits(-rate * ONE)
    batched = jax.vmap(update)(jnp.array([0, 1]))
    np.testing.assert_array_equal(batched, [-ONE, -2 * ONE])


def test_nothing_to_alternate_is_an_error():
    with pytest.raises(ValueError, match="at least one optimiser"):
        alternate()


# The rest


@pytest.mark.parametrize("name", ["adamw", "lamb", "freeze", "proximal_l1", "project_out", "alternate"])
def test_single_precision_stays_single_beside_double(name):
    """In params, updates and state, with float64 switched on; and double computes in double."""
    with jax.enable_x64(True):
        params = {"single": jnp.array([1.0, 2.0], jnp.float32), "double": jnp.array([1.0, 2.0 + 1e-12], jnp.float64)}
        optimiser = {
            "freeze": lambda: freeze_where(optax.adamw(0.1), {"single": jnp.array([True, False]), "double": True}),
            "proximal_l1": lambda: optax.chain(optax.sgd(0.1), proximal_l1(lambda count: jnp.float64(1e-12))),
            "alternate": lambda: alternate(optax.adam(0.1), optax.sgd(0.1)),
            "project_out": project_out,
        }.get(name, lambda: freeze_by_name(EVERY[name](), ["double"]))()
        state = optimiser.init(params)
        extra = {
            "project_out": {"reference": {"single": jnp.ones(2, jnp.float32), "double": jnp.ones(2)}},
            "alternate": {"choice": 0},
        }
        updates, after = jax.jit(optimiser.update)(params, state, params, **extra.get(name, {}))

        def dtypes(tree):
            return jax.tree.map(lambda leaf: leaf.dtype, tree)

        assert dtypes(updates) == dtypes(params) and dtypes(after) == dtypes(state)
        if name == "project_out":
            np.testing.assert_allclose(jnp.diff(updates["double"]), 1.0 + 1e-12, atol=2e-16)
        if name == "proximal_l1":
            np.testing.assert_allclose(updates["double"], [-0.1 - 1e-12, -0.2 - 1.1e-12], atol=1e-16)


def test_tree_dot_is_the_sum_over_all_entries():
    expected = sum(
        np.sum(np.asarray(a) * np.asarray(b)) for a, b in zip(jax.tree.leaves(START), jax.tree.leaves(CENTRE), strict=True)
    )
    np.testing.assert_allclose(tree_dot(START, CENTRE), expected, rtol=1e-6)
    assert tree_dot({}, {}) == 0.0


def test_the_examples_in_the_docstrings_run():
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    for name in ("freeze_where", "freeze_by_name", "proximal_l1", "project_out", "alternate"):
        tests = finder.find(getattr(transforms, name), name, globs=vars(transforms).copy())
        assert sum(len(test.examples) for test in tests) >= 4
        for test in tests:
            assert runner.run(test).failed == 0
