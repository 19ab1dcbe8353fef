"""Other people's networks: Flax linen modules and plain functions, through the whole job."""

import equinox
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unlearn_jax import Dataset, Recipe, evaluate, from_equinox, from_functions, from_linen, unlearn
from unlearn_jax.bench.setting import setting_of
from unlearn_jax.influence import training
from unlearn_jax.methods import METHODS
from unlearn_jax.models.paths import at
from unlearn_jax.training.descend import descend
from unlearn_jax.training.objectives import Term, cross_entropy, weighted
from unlearn_jax.types import Dense, Examples, Variables

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.normal(size=(60, 9, 7, 2)).astype(np.float32), np.arange(60) % 3
DATA = Dataset.from_arrays(train=(IMAGES, LABELS), test=(IMAGES[:20], LABELS[:20]))
SMALL = {"members": 2, "splits": 4, "retain_size": 20, "recipe": Recipe(epochs=1, batch_size=16), "hyper": {"*": {"epochs": 1}}}
pytestmark = pytest.mark.usefixtures("undrawn")


class Convolutional(nn.Module):
    """Names of its own, BatchNorm, and another argument for training."""

    @nn.compact
    def __call__(self, x, is_training):
        """Logits."""
        x = nn.Conv(4, (3, 3), name="Eyes")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not is_training, name="Calm")(x))
        return nn.Dense(3, name="Mouth")(x.mean((1, 2)))


class Plain(nn.Module):
    """Without any argument for training."""

    @nn.compact
    def __call__(self, x):
        """Logits."""
        return nn.Dense(3)(nn.tanh(nn.Dense(5)(x.reshape(len(x), -1))))


class Dropped(nn.Module):
    """Draws numbers in training, or always."""

    always: bool = False

    @nn.compact
    def __call__(self, x, train):
        """Logits."""
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not (train or self.always))(x.reshape(len(x), -1)))


class Together(nn.Module):
    """Normalises by the batch in evaluation too, or gives probabilities."""

    softmax: bool

    @nn.compact
    def __call__(self, x):
        """Logits."""
        x = nn.Dense(3)(x.reshape(len(x), -1))
        return nn.softmax(x) if self.softmax else x - x.mean(axis=0, keepdims=True)


class Counting(nn.Module):
    """Keeps state of another kind."""

    @nn.compact
    def __call__(self, x, train):
        """Logits."""
        self.variable("cache", "calls", lambda: jnp.zeros(()))
        return nn.Dense(3)(x.reshape(len(x), -1))


class Unknown(nn.Module):
    """A head of a type that nobody knows."""

    @nn.compact
    def __call__(self, x, train):
        """Logits."""
        x = x.reshape(len(x), -1)
        return x @ self.param("matrix", nn.initializers.normal(0.1), (x.shape[1], 3))


def test_facts_of_a_module_follow_from_its_types():
    model = from_linen(Convolutional(), IMAGES[:1], train="is_training")
    assert (model.norms, model.convolutions, model.head) == (("Calm",), ("Eyes/kernel",), Dense("Mouth/kernel", "Mouth/bias"))
    assert model.blocks == (("Eyes",), ("Calm",), ("Mouth",))
    variables = model.init(jax.random.key(0), jnp.asarray(IMAGES[:1]))
    logits, statistics = model.apply(variables, jnp.asarray(IMAGES), train=False)
    head = at(variables.params, "Mouth/kernel"), at(variables.params, "Mouth/bias")
    read = model.features(variables, jnp.asarray(IMAGES))
    np.testing.assert_allclose(read @ head[0] + head[1][None], logits, rtol=1e-5, atol=1e-6)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), statistics, variables.statistics))
    _, moved = model.apply(variables, jnp.asarray(IMAGES), train=True)
    assert not jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), moved, variables.statistics))


def test_a_module_of_unknown_parts_declares_nothing_and_is_still_judged(tmp_path):
    model = from_linen(Unknown(), IMAGES[:1])
    assert (model.norms, model.head, model.features, model.blocks) == (None, None, None, ())
    board = evaluate(model, DATA, forget=DATA.published.train[:6], methods="original,finetune,eu_k", cache=tmp_path, **SMALL)
    assert list(board.verdict) == ["original", "finetune"]
    assert board.left_out == {"eu_k": "needs Model.blocks, which this model does not declare"}


@pytest.mark.parametrize("module", [Convolutional(), Plain()], ids=["convolutional", "plain"])
def test_a_module_goes_through_the_whole_job(module, tmp_path):
    model = from_linen(module, IMAGES[:1], train="is_training" if isinstance(module, Convolutional) else None)
    methods = "original,retrain,eu_k"
    board = evaluate(model, DATA, forget=DATA.published.train[:6], methods=methods, cache=tmp_path, **SMALL)
    assert set(board.verdict) == set(methods.split(",")) and not board.left_out


@pytest.mark.parametrize(
    ("module", "given", "said"),
    [
        (Dropped(always=True), {}, "module: draws random numbers in evaluation"),
        (Together(softmax=True), {"train": None}, "module: gives probabilities, expected logits; leave the softmax out"),
        (
            Together(softmax=False),
            {"train": None},
            "module: in evaluation the logits of an example depend on",
        ),
        (Counting(), {}, "module: keeps cache, expected nothing but params and batch_stats"),
        (Plain(), {}, "module: cannot be called on inputs"),
        (Convolutional(), {"train": None}, "module: cannot be called on inputs"),
        (nn.Conv(3, (3, 3)), {"train": None}, r"module: gives \(1, 9, 7, 3\), expected logits \[batch, classes\]"),
    ],
)
def test_what_cannot_be_a_model_is_one_line(module, given, said):
    with pytest.raises(ValueError, match=rf"^{said}[^\n]*$"):
        from_linen(module, IMAGES[:1], **given)


def init(key, x):
    """Of a linear model that counts its calls in training."""
    return {"w": jax.random.normal(key, (np.prod(x.shape[1:]), 3)) / 20, "b": jnp.zeros(3)}, {"seen": jnp.zeros(())}


def apply(params, state, key, x, train):
    """Logits and state."""
    seen = state["seen"] + (len(x) if train else 0)
    return x.reshape(len(x), -1) @ params["w"] + params["b"][None], {"seen": seen}


def noisy(params, state, key, x, train):
    """Draws in training alone."""
    logits, state = apply(params, state, key, x, train)
    return logits + jax.random.normal(key, logits.shape) if train else logits, state


def test_two_functions_are_a_model(tmp_path):
    read = {"features": lambda params, state, x: x.reshape(len(x), -1), "head": Dense("w", "b"), "norms": ()}
    model = from_functions(init, apply, example=IMAGES[:1], **read)
    variables = model.init(jax.random.key(0), jnp.asarray(IMAGES[:1]))
    assert float(model.apply(variables, jnp.asarray(IMAGES), train=True)[1]["seen"]) == 60
    assert float(model.apply(variables, jnp.asarray(IMAGES), train=False)[1]["seen"]) == 0
    board = evaluate(model, DATA, forget=DATA.published.train[:6], methods="original,finetune", cache=tmp_path, **SMALL)
    assert set(board.verdict) == {"original", "finetune"}
    after = unlearn("delete", model, jax.tree.map(np.asarray, variables), DATA, forget=DATA.published.train[:6], epochs=1)
    assert isinstance(after, Variables) and (after.params["w"] != np.asarray(variables.params["w"])).any()


@pytest.mark.parametrize(
    ("functions", "given", "said"),
    [
        ((init, lambda *given: noisy(*given[:4], True)), {}, "apply: uses its key in evaluation, expected only in training"),
        ((init, lambda *given: apply(*given[:4], True)), {}, "apply: changes its state in evaluation"),
        ((lambda key, x: init(key, x)[0], apply), {}, "init: gives dict, expected a tuple of 2"),
        ((lambda key, x: (1 / 0, {}), apply), {}, r"init: cannot be called \(division by zero\)"),
        ((lambda key, x: ([jnp.zeros(3)], {}), apply), {}, "init: params are no dict of floating-point arrays"),
        ((lambda key, x: (init(key, x)[0], [jnp.zeros(())]), apply), {}, "init: state are no dict of numeric arrays"),
        ((init, lambda p, s, k, x, train: (apply(p, s, k, x, train)[0], {})), {}, "apply: gives a state of another structure"),
        ((init, lambda p, s, k, x, train: (x, s)), {}, r"apply: gives \(1, 9, 7, 2\), expected logits"),
        ((init, apply), {"norms": ("v",)}, "norms: there is no v among the params"),
        ((init, apply), {"head": Dense("v", None)}, "head: there is no v among the params"),
    ],
)
def test_functions_that_are_no_model_are_one_line(functions, given, said):
    with pytest.raises(ValueError, match=rf"^{said}[^\n]*$"):
        from_functions(*functions, example=IMAGES[:1], **given)


def test_dropout_draws_anew_in_every_step_and_for_every_pass_of_a_step():
    """`forward` is called twice in a step, and two steps are taken: four keys."""
    keys = []

    model = from_functions(init, noisy, example=IMAGES[:1])

    def watched(variables, inputs, train=False, key=None):
        if key is not None:
            jax.debug.callback(lambda data: keys.append(tuple(data.tolist())), jax.random.key_data(key))
        return model.apply(variables, inputs, train=train, key=key)

    assert model.random
    watching = model._replace(apply=watched)
    problem = setting_of(DATA, watching, {}, Recipe()).problem.replace(forget=jnp.arange(54) < 6, forget_count=6)
    objective = weighted(Term("forget", cross_entropy), Term("retain", cross_entropy))
    descent = descend(objective, optax.sgd(0.1), steps=2, batch_size=5)
    variables = model.init(jax.random.key(0), jnp.asarray(IMAGES[:1]))
    after = descent(jax.random.key(0), problem, variables)
    jax.effects_barrier()
    assert len(set(keys)) == len(keys) == 4
    assert jax.tree.all(jax.tree.map(np.array_equal, after, descent(jax.random.key(0), problem, variables)))
    frozen = descend(objective, optax.sgd(0.1), steps=2, batch_size=5, statistics="freeze")
    keys.clear()
    frozen(jax.random.key(0), problem, variables)
    jax.effects_barrier()
    assert not keys


def test_a_network_with_dropout_goes_through_the_whole_job_and_is_refused_by_influence(tmp_path):
    model = from_linen(Dropped(), IMAGES[:1])
    board = evaluate(model, DATA, forget=DATA.published.train[:6], methods="original,scrub", cache=tmp_path, **SMALL)
    assert set(board.verdict) == {"original", "scrub"} and not board.left_out
    with pytest.raises(ValueError, match=r"^model: draws random numbers in training \(dropout\); influence needs"):
        training(jax.random.key(0), model, Examples(IMAGES, LABELS), Recipe(epochs=1))


def test_items_of_lists_are_groups_of_their_own():
    model = from_equinox(lambda key: equinox.nn.MLP(4, 3, 8, 2, key=key), np.zeros((1, 4)))
    assert model.blocks == (("layers_0",), ("layers_1",), ("layers_2",)) and model.head == Dense(
        "layers_2/kernel", "layers_2/bias"
    )
    assert not model.random and model.norms == model.convolutions == ()


def test_every_need_that_a_linen_module_meets_is_found():
    """What the registry asks for, of a module whose parts are all known: nothing is left out but what it has not."""
    from unlearn_jax.bench.setting import setting_of
    from unlearn_jax.methods.needs import unmet

    model = from_linen(Convolutional(), IMAGES[:1], train="is_training")
    problem = setting_of(DATA, model, {}, Recipe()).problem
    left_out = {name: reason for name, entry in METHODS.items() if (reason := unmet(entry.needs, problem))}
    assert {reason.partition(",")[0] for reason in left_out.values()} <= {"Model.activations"}, left_out
