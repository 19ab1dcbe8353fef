"""Guards of speed that no machine's speed enters: programs compiled and dispatched, and the work that is in them.

A bound is what was counted when it was written, and a few percent for another version of the compiler. What exceeds one has
grown: find out why before raising it.
"""

import collections
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import influence
from unlearn_jax.data import discs
from unlearn_jax.influence import response
from unlearn_jax.methods import METHODS, hyperparameters
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import forgetting_quality
from unlearn_jax.models import build
from unlearn_jax.training import cost, pools
from unlearn_jax.training.ensembles import predict
from unlearn_jax.training.fit import initialise, training
from unlearn_jax.types import Examples, Problem, Recipe

EXAMPLES, BATCH = 64, 16

DEVICES = 2  # see conftest.py


@pytest.fixture(scope="module")
def compilations():
    """Counts the programs that the backend was asked for; all of ours go through `over_members`, which calls them `shard`.

    A program that the cache on disk holds counts too. The others are slices and copies of a moment each.
    """
    counted = collections.Counter()

    def listen(event, duration, **details):
        name = str(details.get("fun_name")).removeprefix("jit(").removesuffix(")")
        counted[name] += event == "/jax/core/compile/jaxpr_to_mlir_module_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield counted
    jax.monitoring.unregister_event_duration_listener(listen)


def problem(model):
    rng = np.random.default_rng(0)
    examples = Examples(
        jnp.asarray(rng.normal(size=(EXAMPLES, 8, 8, 1)), jnp.float32), jnp.asarray(rng.integers(0, 10, EXAMPLES), jnp.int32)
    )
    return Problem(
        train=examples,
        held_out=examples,
        kept=jnp.ones(EXAMPLES, bool),
        forget=jnp.arange(EXAMPLES) < 16,
        model=model,
        classes=10,
        kept_count=EXAMPLES,
        forget_count=16,
        recipe=Recipe(epochs=3, batch_size=BATCH),
    )


@pytest.fixture(scope="module")
def setting():
    made = problem(build("mlp", classes=10, width=8))
    variables = jax.vmap(lambda key: initialise(key, made))(jax.random.split(jax.random.key(0), 2))
    return made, variables


def unlearner(name, setting, **values):
    return Unlearner(name, hyperparameters(name, {"epochs": 1, "batch_size": 8} | values), *setting)


# Compilations


def test_numbers_alone_compile_nothing(compilations, setting):
    keys = jax.random.split(jax.random.key(1), 2)
    one = unlearner("neggrad_plus", setting)
    one.apply(keys)
    before = compilations["shard"]
    one.retune(learning_rate=0.3, alpha=0.5)
    one.apply(keys)
    assert compilations["shard"] == before


def test_a_method_is_one_program(compilations, setting):
    keys = jax.random.split(jax.random.key(1), 2)
    unlearner("finetune", setting).apply(keys)  # and with it all small programs that every method shares
    before = compilations["shard"]
    unlearner("neggrad_plus", setting).apply(keys)
    assert compilations["shard"] - before == 1


def test_a_method_is_traced_once(setting):
    traced = []
    finetune = METHODS["finetune"]

    def make(**values):
        traced.append(values)
        return finetune.make(**values)

    made, variables = setting
    values = hyperparameters("finetune", {"epochs": 1, "batch_size": 8})
    Unlearner(finetune._replace(make=make), values, made, variables, strategy="map").compile()
    assert len(traced) == 1


def test_the_number_of_members_makes_no_other_programs(compilations, setting):
    made, variables = setting
    five = jax.tree.map(lambda leaf: np.resize(leaf, (5, *leaf.shape[1:])), variables)
    predict(made.model, variables, made.train.images, "map")
    before = compilations["shard"]
    assert len(predict(made.model, five, made.train.images, "map")) == 5
    assert compilations["shard"] == before
    values = hyperparameters("finetune", {"epochs": 1, "batch_size": 8})
    Unlearner("finetune", values, made, five, strategy="map", chunk=4).compile()  # chunks of four and of one
    assert compilations["shard"] - before == 1


def train(tmp_path, made, members, role, chunk=2):
    return pools.train_pool(
        made, np.ones(EXAMPLES, bool), members=members, role=role, seed=0, identity={}, cache=tmp_path, chunk=chunk
    )


def test_a_pool_is_three_programs_however_many_chunks_and_members(compilations, setting, tmp_path):
    made, _ = setting
    train(tmp_path, made, 2, "small")
    before = compilations["shard"]
    train(tmp_path, made, 7, "large", chunk=4)  # chunks of four and of three
    assert compilations["shard"] - before == 3  # begin, an epoch, the accuracy


def test_leave_one_out_is_one_program_for_training_and_one_for_its_changes(compilations):
    examples = Examples(*map(jnp.asarray, discs(12).train))
    recipe = Recipe(epochs=3, batch_size=12, optimiser="adam", schedule="constant")
    model = build("mlp", classes=2, width=4)
    first, second = (influence.training(jax.random.key(seed), model, examples, recipe) for seed in range(2))
    before = compilations["shard"]
    influence.leave_one_out(first)
    assert compilations["shard"] - before == 2
    before = compilations["shard"]
    influence.leave_one_out(second)
    assert compilations["shard"] == before  # another seed: the same programs


# Dispatched programs


def test_a_member_of_a_pool_takes_two_programs_an_epoch_and_one_before(monkeypatch, setting, tmp_path):
    called = collections.Counter()

    def counting(lowered, divide, compile_all=pools.compile_all):
        def wrap(number, program):
            def call(*arguments):
                called[number] += 1
                return program(*arguments)

            return call

        return [wrap(number, program) for number, program in enumerate(compile_all(lowered))]

    monkeypatch.setattr(pools, "compile_all", counting)
    made, _ = setting
    train(tmp_path, made, 6, "counted", chunk=4)
    pairs, epochs = 3, made.recipe.epochs  # a member on each of the two devices
    assert called == {0: pairs, 1: pairs * epochs, 2: pairs * epochs}


def test_leave_one_out_dispatches_one_program_a_chunk(monkeypatch):
    called = collections.Counter()

    def counting(function, strategy, compiled=response._compiled):
        program = compiled(function, strategy)

        def call(*arguments):
            called[function.__name__] += 1
            return program(*arguments)

        return call

    monkeypatch.setattr(response, "_compiled", counting)
    examples = Examples(*map(jnp.asarray, discs(12).train))
    run = influence.training(jax.random.key(0), build("mlp", classes=2, width=4), examples, Recipe(epochs=2, batch_size=12))
    influence.leave_one_out(run, chunk=4)
    assert called == {"train": 4, "change": 1}  # 13 models, four at a time; what differs is small, and read off all at once


# Work


def step_flops(model, made):
    """Of one training step of one model: XLA's own count for all of it, and ours for its matrix products."""
    descent = training(made.recipe, EXAMPLES)

    def begin(key, problem):
        return descent.begin(initialise(key, problem)), descent.plan(key, problem)

    def step(state, plan, problem):
        return descent._step(problem, state, plan)[0]

    state, plan = jax.eval_shape(begin, jax.random.key(0), made)
    plan = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), plan)
    analysis = jax.jit(step).lower(state, plan, made).compile().cost_analysis()
    return analysis["flops"], cost.flops(step, state, plan, made)


@pytest.mark.parametrize(("name", "width", "most"), [("mlp", 32, 0.2885), ("resnet8", 8, 19.27), ("resnet8", 16, 53.11)])
def test_the_work_of_a_training_step(name, width, most):
    model = build(name, classes=10, width=width)
    every_operation, by_definition = step_flops(model, problem(model))
    assert 0.6 * by_definition <= every_operation <= 1.03e6 * most


def test_the_work_of_leave_one_out():
    """Of one step of one model: the whole program is a loop over these, and nothing else of its size."""
    points = 256
    examples = Examples(*map(jnp.asarray, discs(points).train))
    recipe = Recipe(epochs=1, batch_size=points, optimiser="adam", schedule="constant")
    run = influence.training(jax.random.key(0), build("mlp", classes=2, width=64), examples, recipe)
    analysis = jax.jit(influence.train).lower(run, jnp.ones(points)).compile().cost_analysis()
    assert analysis["flops"] <= 1.03 * 6.935e6


def test_the_work_of_forgetting_quality(monkeypatch):
    """Look-ups in the table of ε, where the definition compares 160,000 pairs of thresholds with every model."""
    looked_up = 0

    class Counting(np.ndarray):
        def take(self, index):
            nonlocal looked_up
            looked_up += np.size(index)
            return np.asarray(self).take(index)

    module = sys.modules[forgetting_quality.__module__]
    table = module._epsilon_of_counts
    monkeypatch.setattr(module, "_epsilon_of_counts", lambda *counts: table(*counts).view(Counting))
    rng = np.random.default_rng(0)
    models, examples = 64, 50
    forgetting_quality(*rng.normal(size=(2, models, examples)))
    assert 0 < looked_up <= 9300 * examples
