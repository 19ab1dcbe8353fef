"""What a GPU would be given, seen without one: programs lowered for CUDA on the CPU, never compiled."""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import influence
from unlearn_jax.influence.gradients import slopes
from unlearn_jax.methods import METHODS, hyperparameters
from unlearn_jax.methods.registry import traceable
from unlearn_jax.models import build
from unlearn_jax.training import gradients, landscape
from unlearn_jax.training.pools import _Trainer
from unlearn_jax.types import Examples, Problem, Recipe

EXAMPLES = 24
QUICK = {"epochs": 1, "max_epochs": 1, "rounds": 2, "samples": 4, "copies": 2, "batch_size": 8}


def lowered(function, *arguments):
    """The StableHLO of a function for CUDA."""
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


def products(text):
    """How many matrix products and convolutions have each precision."""
    lines = [line for line in text.splitlines() if re.search(r"stablehlo\.(dot_general|convolution)", line)]
    return collections.Counter(re.search(r"precision\w* = \[(.*?)\]|$", line)[1] for line in lines)


@pytest.fixture(scope="module")
def run():
    rng = np.random.default_rng(0)
    examples = Examples(rng.normal(size=(EXAMPLES, 2)).astype(np.float32), np.arange(EXAMPLES, dtype=np.int32) % 2)
    recipe = Recipe(epochs=2, batch_size=8, optimiser="sgd")
    return influence.training(jax.random.key(0), build("mlp", classes=2, width=4), examples, recipe)


@pytest.fixture(scope="module")
def network(problem):
    """The same problem for an MLP, which lowers sooner."""
    return problem.replace(model=build("mlp", classes=3, width=4))


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(EXAMPLES, 4, 4, 1)).astype(np.float32)
    examples = Examples(images, np.arange(EXAMPLES, dtype=np.int32) % 3)
    return Problem(
        train=examples,
        held_out=examples,
        kept=np.ones(EXAMPLES, bool),
        forget=np.arange(EXAMPLES) < 4,
        model=build("resnet8", classes=3, width=2, convolution="patches"),
        classes=3,
        kept_count=EXAMPLES,
        forget_count=4,
        recipe=Recipe(epochs=1, batch_size=8),
    )


KEY = jax.random.key(0)
OF_A_RUN = {
    "train": lambda run, targets: influence.train(run, jnp.ones(EXAMPLES)),
    "margins": lambda run, targets: influence.margins(run.model, run.initial, targets),
    "slopes": lambda run, targets: slopes(run, run.initial, targets),
    "grad_dot": lambda run, targets: influence.grad_dot(run, run.initial, targets),
    "unrolled": influence.unrolled,
    "trak": lambda run, targets: influence.trak(run, jax.tree.map(lambda leaf: leaf[None], run.initial), targets, KEY, 3),
    **{
        name: lambda run, targets, inverse=inverse: influence.influence_functions(run, run.initial, targets, inverse)
        for name, inverse in {
            "eigendecomposition": influence.eigendecomposition(0.1),
            "woodbury": influence.woodbury(0.1),
            "conjugate_gradients": influence.conjugate_gradients(0.1, 2),
            "lissa": influence.lissa(0.1, KEY, 2, 4),
            "arnoldi": influence.arnoldi(0.1, KEY, 3, 2),
            "ek_fac": influence.ek_fac(0.1),
            "data_inf": influence.data_inf(0.1),
        }.items()
    },
}
OF_A_PROBLEM = {
    "sharpness": lambda problem, model: landscape.sharpness(KEY, problem, model, problem.rows("kept"), 2),
    "squared_gradients": lambda problem, model: gradients.squared_gradients(problem, model, problem.rows("kept")),
    "jacobian": lambda problem, model: gradients.jacobian(problem, model, jnp.arange(4), lambda logits, label: logits),
    **{
        name: lambda problem, model, name=name: METHODS[name].make(**quick(name))(KEY, problem, model)
        for name in ("newton", "ntk", "woodfisher", "ssd", "fisher")
    },
}


def quick(name):
    small = {key: value for key, value in QUICK.items() if key in METHODS[name].defaults}
    return hyperparameters(name, small)


@pytest.mark.parametrize("name", [*OF_A_RUN, *OF_A_PROBLEM])
def test_what_needs_float32_asks_for_it(name, run, problem):
    if name in OF_A_RUN:
        found = products(lowered(OF_A_RUN[name], run, run.examples))
    else:
        model = jax.eval_shape(problem.model.init, KEY, problem.train.images[:1])
        found = products(lowered(OF_A_PROBLEM[name], problem, model))
    assert set(found) == {"HIGHEST, HIGHEST"}, found


def test_training_and_other_methods_take_the_default(problem):
    model = jax.eval_shape(problem.model.init, KEY, problem.train.images[:1])
    assert set(products(lowered(METHODS["finetune"].make(**quick("finetune")), KEY, problem, model))) == {"DEFAULT, DEFAULT"}


def fit_for_a_gpu(text):
    return not re.search(r"callback|f64>", text)


def test_a_pool_lowers_for_cuda(problem):
    trainer = _Trainer(problem, problem.kept, "vmap")
    keys = jax.random.split(KEY, 2 * jax.device_count())
    state, plan = jax.eval_shape(trainer._begin, keys, problem.kept, problem)
    epoch = trainer._epoch.trace(state, plan, jnp.int32(0), problem).lower(lowering_platforms=("cuda",)).as_text()
    assert products(epoch)
    assert fit_for_a_gpu(epoch)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_lowers_for_cuda(name, problem, network):
    problem = problem if "convolutions" in METHODS[name].needs else network
    static, numbers = traceable(name, quick(name))
    model = jax.eval_shape(problem.model.init, KEY, problem.train.images[:1])
    assert fit_for_a_gpu(lowered(lambda k, p, m, n: METHODS[name].make(**static, **n)(k, p, m), KEY, problem, model, numbers))
