"""The guide's example is a method: registered by its text alone, it obeys the laws."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
import test_laws

from unlearn_jax.methods import METHODS
from unlearn_jax.methods.pieces import steps_for
from unlearn_jax.methods.registry import Number, register
from unlearn_jax.training.descend import descend
from unlearn_jax.training.objectives import Term, cross_entropy, divergence, weighted
from unlearn_jax.types import Key, Method, Problem, Variables

TEXT = (Path(__file__).parent.parent / "docs/add-a-method.md").read_text()


@pytest.fixture
def example():
    """The guide's code, registered for the time of a test."""
    (code,) = re.findall(r"<!-- method -->\n```python\n(.*?)```", TEXT, flags=re.DOTALL)
    scope = dict(
        register=register,
        Number=Number,
        Method=Method,
        Key=Key,
        Problem=Problem,
        Variables=Variables,
        divergence=divergence,
        jnp=jnp,
        optax=optax,
        weighted=weighted,
        Term=Term,
        cross_entropy=cross_entropy,
        steps_for=steps_for,
        descend=descend,
    )
    exec(compile(code, "add-a-method.md", "exec"), scope)
    yield code
    del METHODS["uniform_target"]


def test_the_example_is_a_method_that_obeys_the_laws(example):
    name = "uniform_target"
    body = example.partition("    def method")[2].splitlines()
    assert len(body) < 20 and METHODS[name].access == "F+R"
    test_laws.test_the_same_key_gives_the_same_result_and_another_key_another(name)
    test_laws.test_structure_shapes_and_types_stay_and_all_is_finite(name)
    test_laws.test_every_number_matters(name)
    test_laws.test_zero_epochs_leave_the_model_bit_for_bit(name)
    test_laws.test_the_docstring_has_a_summary_and_every_hyperparameter(name)
    for part in ("outside", "held_out"):
        test_laws.test_what_a_method_must_not_see_does_not_reach_it(name, part)
    for part in ("forget", "retain"):
        test_laws.test_a_method_sees_what_its_access_says(name, part)


def test_it_does_what_it_says(example):
    network = test_laws.model("uniform_target")
    own = test_laws.problem(network)
    before = test_laws.member(test_laws.members(network), 0)
    after = METHODS["uniform_target"].make(weight=1.0, learning_rate=0.1, epochs=30, batch_size=16)(
        jax.random.key(0), own, before
    )

    def entropy(variables):
        logits, _ = network.apply(variables, own.train.images[own.forget], train=False)
        return float(-jnp.sum(jax.nn.softmax(logits) * jax.nn.log_softmax(logits), axis=-1).mean())

    assert entropy(after) > entropy(before) and entropy(after) > 0.8 * jnp.log(test_laws.CLASSES)
