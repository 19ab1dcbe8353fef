"""Every method on everybody's networks: one small network with BatchNorm and dropout, written in four ways."""

import functools

import equinox
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_laws import CLASSES, METHOD_NAMES, applied, keys, member, numbers, problem

from unlearn_jax import from_equinox, from_functions, from_linen, from_nnx, to_equinox, to_nnx, variables_of
from unlearn_jax.methods import METHODS
from unlearn_jax.types import Dense, Model

EXAMPLE = np.zeros((1, 4, 4, 1), np.float32)
RATE = 0.25  # of dropout
LEFT_OUT = {"gated_knowledge_transfer": "activations"}  # what no adapter can tell


class Linen(nn.Module):
    """In Flax linen."""

    @nn.compact
    def __call__(self, x, train):
        """Logits."""
        x = nn.Conv(3, (3, 3), name="eyes")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="calm")(x)).mean((1, 2))
        return nn.Dense(CLASSES, name="mouth")(nn.Dropout(RATE, deterministic=not train)(x))


class Nnx(nnx.Module):
    """In Flax NNX, with a counter."""

    def __init__(self, rngs):
        self.eyes = nnx.Conv(1, 3, (3, 3), rngs=rngs)
        self.calm = nnx.BatchNorm(3, momentum=0.9, rngs=rngs)
        self.drop = nnx.Dropout(RATE, rngs=rngs)
        self.mouth = nnx.Linear(3, CLASSES, rngs=rngs)
        self.calls = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        """Logits."""
        if not self.drop.deterministic:
            self.calls.set_value(self.calls.get_value() + 1)
        return self.mouth(self.drop(nnx.relu(self.calm(self.eyes(x))).mean((1, 2))))


class Equinox(equinox.Module):
    """In Equinox, for one example, with BatchNorm's own counter."""

    eyes: equinox.nn.Conv2d
    calm: equinox.nn.BatchNorm
    drop: equinox.nn.Dropout
    mouth: equinox.nn.Linear

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.eyes = equinox.nn.Conv2d(1, 3, 3, padding="SAME", key=first)
        self.calm = equinox.nn.BatchNorm(3, "batch", mode="batch", momentum=0.9)
        self.drop = equinox.nn.Dropout(RATE)
        self.mouth = equinox.nn.Linear(3, CLASSES, key=second)

    def __call__(self, x, state, key):
        """Logits and state."""
        x, state = self.calm(self.eyes(x.transpose(2, 0, 1)), state)
        return self.mouth(self.drop(jax.nn.relu(x).mean((1, 2)), key=key)), state


def init(key, x):
    """Params and state of the same in plain functions, with a counter."""
    first, second = jax.random.split(key)
    eyes = {"kernel": jax.random.normal(first, (3, 3, 1, 3)) / 3, "bias": jnp.zeros(3)}
    mouth = {"kernel": jax.random.normal(second, (3, CLASSES)), "bias": jnp.zeros(CLASSES)}
    calm = {"scale": jnp.ones(3), "bias": jnp.zeros(3)}
    return {"eyes": eyes, "calm": calm, "mouth": mouth}, {
        "mean": jnp.zeros(3),
        "var": jnp.ones(3),
        "calls": jnp.zeros((), jnp.int32),
    }


def body(params, state, x, train):
    """What the head reads, and the new state."""
    dimensions = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(x, params["eyes"]["kernel"], (1, 1), "SAME", dimension_numbers=dimensions)
    x = x + params["eyes"]["bias"][None, None, None]
    mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else (state["mean"], state["var"])
    scale = jax.lax.rsqrt(var + 1e-5) * params["calm"]["scale"]
    x = (x - mean[None, None, None]) * scale[None, None, None] + params["calm"]["bias"][None, None, None]
    moved = {name: 0.9 * state[name] + 0.1 * new for name, new in (("mean", mean), ("var", var))}
    return jax.nn.relu(x).mean((1, 2)), {**moved, "calls": state["calls"] + 1} if train else state


def apply(params, state, key, x, train):
    """Logits and state."""
    x, state = body(params, state, x, train)
    if train:
        x = jnp.where(jax.random.bernoulli(key, 1 - RATE, x.shape), x / (1 - RATE), 0.0)
    return x @ params["mouth"]["kernel"] + params["mouth"]["bias"][None], state


@functools.cache
def adapted(kind) -> Model:
    """The network through one adapter."""
    if kind == "linen":
        return from_linen(Linen(), EXAMPLE)
    if kind == "nnx":
        return from_nnx(Nnx, EXAMPLE)
    if kind == "equinox":
        return from_equinox(equinox.nn.make_with_state(Equinox), EXAMPLE)
    read = {"features": lambda params, state, x: body(params, state, x, False)[0], "head": Dense("mouth/kernel", "mouth/bias")}
    model = from_functions(init, apply, example=EXAMPLE, norms=("calm",), **read)
    return model._replace(convolutions=("eyes/kernel",))


KINDS = ("linen", "nnx", "equinox", "functions")


@pytest.mark.parametrize("kind", KINDS)
def test_every_adapter_finds_the_same_facts(kind):
    model = adapted(kind)
    assert (model.norms, model.convolutions, model.head) == (("calm",), ("eyes/kernel",), Dense("mouth/kernel", "mouth/bias"))
    assert model.blocks == (("eyes",), ("calm",), ("mouth",)) and model.random
    variables = model.init(jax.random.key(0), jnp.asarray(EXAMPLE))
    images = jax.random.normal(jax.random.key(1), (20, 4, 4, 1))
    logits, state = model.apply(variables, images, train=False)
    product = model.features(variables, images) @ variables.params["mouth"]["kernel"] + variables.params["mouth"]["bias"][None]
    np.testing.assert_allclose(product, logits, rtol=1e-5, atol=1e-6)
    assert jax.tree.all(jax.tree.map(np.array_equal, state, variables.statistics))
    one, two, again = (model.apply(variables, images, train=True, key=jax.random.key(seed))[0] for seed in (1, 2, 1))
    assert np.array_equal(one, again) and not np.array_equal(one, two)
    _, moved = model.apply(variables, images, train=True, key=jax.random.key(1))
    counts = [leaf for leaf in jax.tree.leaves(moved) if leaf.dtype.kind == "i"]
    assert all(count == 1 for count in counts) and len(counts) == (kind != "linen")


def test_a_module_trained_elsewhere_comes_in_and_goes_out():
    images = jax.random.normal(jax.random.key(1), (20, 4, 4, 1))
    module = Nnx(nnx.Rngs(5))
    logits, _ = adapted("nnx").apply(variables_of(module), images, train=False)
    module.eval()
    np.testing.assert_allclose(logits, module(images), rtol=1e-5, atol=1e-6)
    back = to_nnx(Nnx, variables_of(module))
    back.eval()
    assert np.array_equal(back(images), module(images))

    make = equinox.nn.make_with_state(Equinox)
    module, state = make(jax.random.key(5))
    inference = equinox.nn.inference_mode(module)
    expected = jax.vmap(lambda x: inference(x, state, key=None)[0])(images)
    np.testing.assert_allclose(adapted("equinox").apply(variables_of(module, state), images, train=False)[0], expected, rtol=1e-5)
    again, held = to_equinox(make, variables_of(module, state))
    assert jax.tree.structure((again, held)) == jax.tree.structure((module, state))
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, ((again, held), (module, state))), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_every_method_takes_every_network(name, kind, pytestconfig):
    model = adapted(kind)
    on = problem(model)
    if name in LEFT_OUT:
        assert METHODS[name].unmet(on) == f"Model.{LEFT_OUT[name]}, which this model does not declare"
        return
    assert METHODS[name].unmet(on) is None
    before = jax.jit(model.init)(jax.random.key(1), jnp.asarray(EXAMPLE))
    traced = jax.jit(applied(name)).trace(keys()[0], before, member(numbers(name), 0), on)
    after = jax.tree.unflatten(jax.tree.structure(traced.out_info), jax.tree.leaves(traced.out_info))
    networks = (2,) if METHODS[name].ensemble else ()
    assert jax.tree.structure(after) == jax.tree.structure(before)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (new.shape, new.dtype) == (networks + old.shape, old.dtype)
    if kind != KINDS[METHOD_NAMES.index(name) % len(KINDS)] and not pytestconfig.getoption("--every-pair"):
        return  # each method is run on one of the networks, each of which is run by a quarter of the methods
    compiled = traced.lower().compile()
    after, again = (compiled(key, before, member(numbers(name), 0), on) for key in (keys()[0], keys()[0]))
    for new, twice in zip(*map(jax.tree.leaves, (after, again)), strict=True):
        assert np.isfinite(new).all() and np.array_equal(new, twice)
    if not networks:
        assert jax.tree.all(jax.tree.map(np.array_equal, after.params, before.params)) == (name == "original")
