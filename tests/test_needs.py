"""What a method needs of a model is declared, checked before anything happens, and never guessed from a name or a shape."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_laws import values
from test_methods import CLASSES, KEY, linear, mlp, problem, start

from unlearn_jax.methods import METHODS, register
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.methods.selection import unnormalising
from unlearn_jax.models import as_model, mean_of, through_waves, with_extra_class
from unlearn_jax.models.convolution import Convolution
from unlearn_jax.models.parts import parts_of
from unlearn_jax.models.paths import arrays, at, marked, nested, replaced
from unlearn_jax.training.ensembles import features as features_of
from unlearn_jax.training.gradients import gradient_norms, head_features
from unlearn_jax.types import Dense, Examples, Model, Variables

FACTS = ("features", "activations", "gradient", "norms", "convolutions", "dense", "head")


# What a network is, from the types of its modules


class Foreign(nn.Module):
    """Names as Flax gives them, and some as torch's users do; `norm` and `kernels` are no normalisation and no convolution."""

    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(4, (3, 3))(images)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.relu(nn.GroupNorm(2, name="bn1")(nn.Conv(4, (3, 5), use_bias=False, name="two")(x)))
        x = nn.relu(nn.Dense(6, name="norm")(x.reshape(len(x), -1)))
        self.sow("intermediates", "features", x)
        return nn.Dense(CLASSES, use_bias=False, name="fc")(x)


BLOCKS = (("Conv_0", "BatchNorm_0"), ("two", "bn1"), ("norm",), ("fc",))


@pytest.fixture(scope="module")
def foreign():
    return as_model(Foreign(), BLOCKS)


def test_the_parts_of_a_network_are_known_by_the_types_of_its_modules(foreign):
    assert foreign.norms == ("BatchNorm_0", "bn1")
    assert foreign.convolutions == ("Conv_0/kernel", "two/kernel")
    assert foreign.dense == (Dense("norm/kernel", "norm/bias"), Dense("fc/kernel", None))
    assert foreign.head == Dense("fc/kernel", None)
    params = jax.eval_shape(foreign.init, KEY, jnp.zeros((1, 8, 8, 1))).params
    outside = {path for path, weight in arrays(unnormalising(foreign, params)).items() if weight}
    assert outside == {"Conv_0/kernel", "Conv_0/bias", "two/kernel", "norm/kernel", "norm/bias", "fc/kernel"}


class Own(nn.Module):
    """A normalisation of its own, which nothing but its code shows."""

    @nn.compact
    def __call__(self, x):
        return x / jnp.std(x, axis=-1, keepdims=True) * self.param("gain", nn.initializers.ones, (x.shape[-1],))[None]


class Stacked(nn.Module):
    """Two dense layers whose kernels one array holds."""

    @nn.compact
    def __call__(self, x):
        layers = nn.scan(lambda dense, x, _: (dense(x), None), variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        return layers(nn.Dense(4, name="inside"), x, None)[0]


@pytest.mark.parametrize("layer", [Own, Stacked, lambda: nn.WeightNorm(nn.Dense(4)), lambda: nn.SpectralNorm(nn.Dense(4))])
def test_where_a_module_is_not_known_nothing_is_claimed(layer):
    class Network(nn.Module):
        @nn.compact
        def __call__(self, images, train):
            inside = layer()
            x = nn.Dense(4, name="first")(images.reshape(len(images), -1))
            x = inside(x, update_stats=train) if isinstance(inside, nn.SpectralNorm) else inside(x)
            return nn.Dense(CLASSES, name="head")(x)

    parts = parts_of(Network(), (1, 2, 2, 1))
    assert parts[:4] == (None, None, None, None)
    assert {"first/kernel", "head/kernel"} <= set(parts.kernels)  # which are initialised as ever


def test_a_head_is_the_dense_layer_that_gives_the_networks_output():
    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, images, train):
            return 2.0 * nn.Dense(CLASSES, name="head")(images.reshape(len(images), -1))

    class Convolved(nn.Module):
        @nn.compact
        def __call__(self, images, train):
            return jnp.mean(Convolution(CLASSES, name="head")(jnp.transpose(images, (3, 1, 2, 0))), axis=(1, 2)).T

    assert parts_of(Scaled(), (1, 2, 2, 1)).head is None
    found = parts_of(Convolved(), (1, 2, 2, 1))
    assert found.head is None and found.dense == () and found.convolutions == ("head/kernel",)


def test_what_is_made_of_a_model_says_what_is_still_true():
    model = mlp()
    behind = through_waves(model, 6)
    assert [getattr(behind, fact) for fact in FACTS[3:]] == [getattr(model, fact) for fact in FACTS[3:]]
    points = jax.random.normal(KEY, (5, 2))
    variables = behind.init(KEY, points[:1])
    read, (logits, _, layers) = behind.features(variables, points), behind.activations(variables, points)
    head = variables.params["head"]
    np.testing.assert_allclose(read @ head["kernel"] + head["bias"][None], logits, rtol=1e-5, atol=1e-5)
    assert [layer.shape for layer in layers] == [(5, 5, 1)] * 2
    for other in (mean_of(model), with_extra_class(model)):  # their heads are two arrays, or many, and not linear in one
        assert other.norms == model.norms and other.head is None and other.dense is None
    assert mean_of(model).convolutions is None


def test_paths_find_and_exchange_what_they_name():
    params = {"a": {"b": jnp.ones(2), "bc": jnp.zeros(1)}, "d": jnp.zeros(3)}
    assert list(arrays(params)) == ["a/b", "a/bc", "d"]
    assert at(params, "a/b") is params["a"]["b"] and at(params, "a") is params["a"]
    assert marked(params, ["a/b", "d"]) == {"a": {"b": True, "bc": False}, "d": True}
    assert marked(params, ["a"]) == {"a": {"b": True, "bc": True}, "d": False}
    assert replaced(params, {"d": 7})["d"] == 7 and replaced(params, {"d": 7})["a"]["b"] is params["a"]["b"]
    assert nested(arrays(params)).keys() == params.keys() and nested({"x/y/z": 1}) == {"x": {"y": {"z": 1}}}


# What a method asks for


def silent(model=None):
    """A model that says nothing of itself, and whose arrays have names that say nothing."""
    inner = model or linear()

    def renamed(variables):
        head = variables.params["head"]
        return variables._replace(params={"x1": {"y1": head["bias"], "y2": head["kernel"]}})

    def apply(variables, images, train=False):
        own = variables.params["x1"]
        return inner.apply(Variables({"head": {"bias": own["y1"], "kernel": own["y2"]}}, {}), images, train=train)

    return Model(lambda key, images: renamed(inner.init(key, images)), apply, ())


SILENT = silent()


def apply_to(name, on, **given):
    """The method's shapes: traced, and nothing is compiled."""
    variables = on.model.init(KEY, on.train.images[:1])
    return jax.eval_shape(METHODS[name].make(**values(name, **given)), KEY, on, variables)


def refusal(name, on):
    """What the method says when it is called; nothing is traced."""
    with pytest.raises(ValueError) as refused:
        METHODS[name].make(**values(name))(KEY, on, on.model.init(KEY, on.train.images[:1]))
    return str(refused.value)


@pytest.mark.parametrize("name", [name for name, entry in METHODS.items() if not entry.needs])
def test_a_method_that_declares_no_need_has_none(name):
    on = problem(SILENT)
    after, before = apply_to(name, on), on.model.init(KEY, on.train.images[:1])
    assert jax.tree.structure(after) == jax.tree.structure(before)


@pytest.mark.parametrize("name", [name for name, entry in METHODS.items() if entry.needs])
def test_a_need_is_asked_for_where_the_model_does_not_say(name):
    """In one line that names the missing fact; whether the method is called, or is to be applied to members."""
    on = problem(SILENT)
    said = refusal(name, on)
    assert re.fullmatch(rf"{name} needs Model\.\w+, which this model does not declare", said)
    variables = jax.tree.map(lambda leaf: leaf[None], on.model.init(KEY, on.train.images[:1]))
    with pytest.raises(ValueError) as again:
        Unlearner(name, values(name), on, variables)
    assert str(again.value) == said == f"{name} needs {METHODS[name].unmet(on)}"


@pytest.mark.parametrize("name", ["msg", "cfw", "ct"])
def test_a_network_without_convolutions_is_told_so(name):
    assert refusal(name, problem(mlp())) == f"{name} needs convolutions; this model has none"


def test_ct_wants_kernels_as_high_as_wide(foreign):
    on = problem(foreign)
    on = on.replace(train=Examples(jnp.zeros((len(on.train.labels), 8, 8, 1)), on.train.labels))
    assert refusal("ct", on) == "ct needs square kernels; two/kernel is 3 x 5"
    assert METHODS["msg"].unmet(on) is None


def test_images_are_needed_where_images_are_made():
    on = problem(mlp())
    on = on.replace(train=Examples(jnp.zeros((len(on.train.labels), 2)), on.train.labels))
    assert refusal("gated_knowledge_transfer", on).endswith("images [height, width, channels]; an example has the shape (2,)")


def transposed(inputs):
    """Softmax regression whose head is stored [out, in], as torch and Equinox do."""

    def init(key, images):
        return Variables({"head": {"weight": jax.random.normal(key, (CLASSES, inputs)), "bias": jnp.zeros(CLASSES)}}, {})

    def apply(variables, images, train=False):
        head = variables.params["head"]
        return images.reshape(len(images), -1)[:, :inputs] @ head["weight"].T + head["bias"][None], {}

    features = lambda variables, images: images.reshape(len(images), -1)[:, :inputs]  # noqa: E731
    return Model(init, apply, (("head",),), features)


@pytest.mark.parametrize("name", ["boundary_expanding", "newton"])
@pytest.mark.parametrize("inputs", [CLASSES, 6])
def test_a_head_that_is_stored_the_other_way_is_not_taken_for_linear(name, inputs):
    """Even where somebody says that it is [in, out], and where it has as many inputs as outputs."""
    model = transposed(inputs)
    assert refusal(name, problem(model)) == f"{name} needs Model.head, which this model does not declare"
    wrong = model._replace(head=Dense("head/weight", "head/bias"))
    assert "needs a linear head; Model.head names head/weight, " in refusal(name, problem(wrong))


@pytest.mark.parametrize(
    ("name", "fact", "said"),
    [
        ("newton", {"head": Dense("head/kern", None)}, "Model.head names head/kern, of shape []; 3 classes need [in, 3]"),
        (
            "newton",
            {"head": Dense("head/kernel", "head/kernel")},
            "Model.head names head/kernel, of shape [6, 3]; 3 classes need [3]",
        ),
        ("prmq", {"norms": ("head/ker",)}, "the parameter groups that Model.norms names; this model has no group head/ker"),
        (
            "msg",
            {"convolutions": ("head/kernel",)},
            "kernels [height, width, in, out]; head/kernel, which Model.convolutions names, is not one",
        ),
    ],
)
def test_a_fact_that_cannot_be_true_is_refused(name, fact, said):
    assert said in refusal(name, problem(linear()._replace(**fact)))


def test_an_unknown_need_is_not_registered():
    with pytest.raises(ValueError, match="a_method: unknown need wings, expected one of features, "):

        @register(access="F", reference="-", needs=["wings"])
        def a_method():
            """Nothing."""


def test_a_name_is_registered_once_and_its_access_is_known():
    def salun():
        """Nothing."""

    with pytest.raises(ValueError, match=r"^salun: already registered$"):
        register(access="F", reference="-")(salun)
    salun.__name__ = "a_method"
    with pytest.raises(ValueError, match=r"^a_method: unknown access E, expected one of none, F, R, "):
        register(access="E", reference="-")(salun)
    assert "a_method" not in METHODS


def test_the_extra_class_needs_a_linear_head_and_its_name():
    with pytest.raises(ValueError, match=r"one more class needs Model.head, "):
        with_extra_class(SILENT)
    taken = linear()._replace(init=lambda key, images: Variables({**linear().init(key, images).params, "extra": {}}, {}))
    with pytest.raises(ValueError, match="the name `extra`"):
        with_extra_class(taken).init(KEY, jnp.zeros((1, 2, 3, 1)))


def test_what_measures_a_model_asks_as_well():
    on, rows = problem(SILENT), jnp.arange(3)
    variables = on.model.init(KEY, on.train.images[:1])
    with pytest.raises(ValueError, match=r"need Model.features, which this model does not declare"):
        head_features(on, variables, rows)
    half = on.replace(model=SILENT._replace(features=lambda variables, images: images))
    with pytest.raises(ValueError, match=r"need Model.head, which this model does not declare"):
        head_features(half, variables, rows)
    with pytest.raises(ValueError, match=r"need Model.blocks, which this model does not declare"):
        gradient_norms(SILENT, variables, on.train)
    stacked = jax.tree.map(lambda leaf: leaf[None], variables)
    with pytest.raises(ValueError, match=r"need Model.features, which this model does not declare"):
        features_of(SILENT, stacked, on.train.images, "map")


def test_newton_finds_a_head_of_any_name():
    """The same numbers, whatever the arrays are called and wherever they stand."""
    on, (params, _) = problem(linear()), start(linear())
    other = SILENT._replace(head=Dense("x1/y2", "x1/y1"), features=linear().features)
    own = Variables({"x1": {"y1": params["head"]["bias"], "y2": params["head"]["kernel"]}}, {})
    expected, found = (
        jax.jit(METHODS["newton"].make())(KEY, *each).params
        for each in ((on, Variables(params, {})), (on.replace(model=other), own))
    )
    for one, two in (("bias", "y1"), ("kernel", "y2")):
        np.testing.assert_array_equal(found["x1"][two], expected["head"][one])
        assert (np.asarray(expected["head"][one]) != params["head"][one]).any()
