"""The three verbs of the library: `evaluate`, `unlearn` and `score`."""

import csv
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import evaluate, score, unlearn
from unlearn_jax.bench.arguments import mask_of, sets_of
from unlearn_jax.data import load
from unlearn_jax.methods import METHODS
from unlearn_jax.models import build
from unlearn_jax.models.fingerprint import fingerprint
from unlearn_jax.report.rows import Row, read_results
from unlearn_jax.types import Cube, Labels, Recipe, Variables

pytestmark = pytest.mark.usefixtures("undrawn")


def recipe_with(name, value):
    """A recipe with a value of any type, as without the type checks of the tests."""
    recipe = Recipe()
    object.__setattr__(recipe, name, value)
    return recipe


NO_RECIPES = [
    (3, "int found, expected a Recipe"),
    (0, "int found, expected a Recipe"),
    ("x", "str found, expected a Recipe"),
    (Recipe(optimiser="x"), "optimiser 'x' found, expected one of sgd, adam"),
    (Recipe(schedule="x"), "schedule 'x' found, expected one of cosine, constant"),
    (Recipe(momentum=5.0), "momentum 5.0 found, expected a number of at least 0, below 1"),
    (Recipe(learning_rate=float("nan")), "learning_rate nan found, expected a number above 0"),
    (recipe_with("learning_rate", -1), "learning_rate -1 found, expected a number above 0"),
    (Recipe(weight_decay=-1.0), "weight_decay -1.0 found, expected a number of at least 0"),
    *(
        (recipe_with("epochs", epochs), f"epochs {epochs!r} found, expected an integer of at least 1, at most 1,000,000")
        for epochs in (0, -1, 1.5, "a")
    ),
    (Recipe(batch_size=0), "batch_size 0 found, expected an integer of at least 1"),
]
TINY = {"members": 2, "splits": 4, "retain_size": 40, "recipe": Recipe(epochs=1)}


@pytest.fixture(scope="module")
def data():
    return load("digits", train_size=100, label_noise=0.1)


@pytest.fixture(scope="module")
def model():
    return build("mlp", classes=10, width=4)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def variables(model, data):
    images = jnp.asarray(data.train.images[:1])
    return jax.vmap(lambda key: model.init(key, images))(jax.random.split(jax.random.key(0), 2))


def halved(key, problem, variables):
    """Every weight is half of what it was."""
    return variables._replace(params=jax.tree.map(lambda leaf: leaf / 2, variables.params))


def test_a_whole_evaluation_with_a_method_of_ones_own(data, model, cache, tmp_path, monkeypatch):
    rows = {"first": data.published.train[:10], "second": data.published.train[10:20]}
    board = evaluate(
        model, data, forget=rows, methods=["original", "retrain", "finetune", halved], out=tmp_path / "out",
        cache=cache, hyper={"*": {"epochs": 1}}, **TINY,
    )  # fmt: skip
    assert set(board.verdict) == {"original", "retrain", "finetune", "halved"}
    assert {verdict.outcome for verdict in board.verdict.values()} == {None}  # two models have no verdict
    assert read_results(tmp_path / "out/results.csv") == board.rows
    table = board.to_pandas()
    of_test = table[(table.metric == "accuracy") & (table.split == "test")]
    assert tuple(table.columns) == Row._fields and len(table) == len(board.rows) and len(of_test) == 8
    assert of_test.value.tolist() == [row.value for row in board.rows if (row.metric, row.split) == ("accuracy", "test")]
    assert table.value.dtype == float and table.z.isna().tolist() == [row.z is None for row in board.rows]
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pandas", None)
        with pytest.raises(
            ImportError, match=r"^to_pandas needs pandas: pip install 'unlearn_jax\[pandas\]', or pip install pandas$"
        ):
            board.to_pandas()
    assert {row.forget_set for row in board.rows} == {"first", "second"} and {row.model[:6] for row in board.rows} == {"given-"}
    assert "halved" in str(board) and "no verdict" in str(board.verdict["halved"])
    for shown in (board, *board.verdict.values()):
        assert len(str(shown).splitlines()) <= 10 and max(map(len, str(shown).splitlines()[:-1])) <= 80
    assert (repr(board), repr(board.verdict["halved"])) == (str(board), str(board.verdict["halved"]))
    assert str(board).splitlines()[-1] == f"all: {tmp_path / 'out'}/summary.md"
    assert re.search(r"\| finetune \| .*learning_rate=.* \| epochs=1 \|", (tmp_path / "out/summary.md").read_text())
    learned = csv.DictReader((tmp_path / "out/curves.csv").read_text().splitlines())
    assert {row["role"] for row in learned} == {"original", "oracle", "retrain"}
    listed = np.loadtxt(tmp_path / "out/forget_sets/second.txt", dtype=int)
    assert listed.tolist() == sorted(rows["second"].tolist())
    board.write(tmp_path / "copy")
    assert (tmp_path / "copy/summary.md").read_bytes() == (tmp_path / "out/summary.md").read_bytes()
    assert "halved" in (tmp_path / "copy/report.html").read_text()


def test_a_function_that_changed_is_never_taken_for_the_one_before(data, model, cache, tmp_path):
    """Nobody knows whether a function still computes the same: its logits are made anew."""
    by = [0.5]

    def scaled(key, problem, variables):
        return variables._replace(params=jax.tree.map(lambda leaf: by[0] * leaf, variables.params))

    asked = {"forget": data.published.train[:10], "methods": [scaled], "out": tmp_path / "out", "cache": cache, **TINY}
    first = {(row.metric, row.split): row.value for row in evaluate(model, data, **asked).rows}
    by[0] = 0.0
    second = {(row.metric, row.split): row.value for row in evaluate(model, data, **asked).rows}
    assert first["weight_distance", "all"] != second["weight_distance", "all"]


def test_what_a_model_cannot_serve_is_left_out_with_its_reason(data, model, cache):
    (lacking,) = [name for name, entry in METHODS.items() if "convolutions" in entry.needs][:1]
    board = evaluate(model, data, forget=data.published.train[:10], methods=["original", lacking], cache=cache, **TINY)
    assert list(board.verdict) == ["original"] and list(board.left_out) == [lacking]
    assert re.search(rf"{lacking}: left out, it needs ", str(board))
    with pytest.raises(ValueError, match=r"^methods: none can be used with this model"):
        evaluate(model, data, forget=data.published.train[:10], methods=[lacking], cache=cache, **TINY)


def mask(data):
    return np.isin(np.arange(data.published.total), data.published.train[:10])


@pytest.mark.parametrize(
    ("argument", "value", "said"),
    [
        ("forget", [0.5], "forget: expected row numbers or a mask, not float64"),
        ("forget", [], "forget: expected row numbers or a mask, not float64"),
        ("forget", np.array([], int), "forget: 1 to 99 different rows are needed"),
        ("forget", [[1, 2]], r"forget: expected row numbers or a mask, not int64 of shape \(1, 2\)"),
        ("forget", np.ones(100, bool), r"forget: a mask of shape \(100,\), expected one truth value for each of 1437"),
        ("forget", [-1, 3], "forget: rows of the published training set, 0 to 1436"),
        ("forget", [[1], [2, 3]], "forget: expected rows, a mask, or a mapping from names to such; no array can be made of it"),
        ("forget", [0, 1, 1, 0], "forget: a mask needs a value for each of 1437 rows; it has 4"),
        ("forget", {"a": np.arange(1437) == 29, "b": [29]}, "forget: a and b are the same rows"),
        ("forget", {"b": ["x"]}, "forget: expected row numbers or a mask, not <U1"),
        ("forget", {}, "forget: expected rows, a mask, or a mapping"),
        ("forget", {"../up": [1]}, "forget: expected rows, a mask, or a mapping"),
        ("methods", ["scrubb"], "methods: there is no 'scrubb'; expected some of "),
        ("methods", [], "methods: empty"),
        ("methods", [3], "methods: 3 is neither a name nor a function"),
        ("methods", [halved, halved], "methods: the name halved is taken"),
        ("members", 1, "members: 1 found, expected an integer from 2"),
        ("members", True, "members: True found, expected an integer from 2"),
        ("splits", 1, "splits: 1 found, expected an integer from 2"),
        ("retain_size", 0, "retain_size: 0 found"),
        ("unlearning_seeds", 0, "unlearning_seeds: 0 found"),
        *(("chunk", chunk, f"chunk: {chunk} found, expected an integer of at least 1") for chunk in (0, -1, 1.5)),
        *(("recipe", recipe, f"recipe: {said}") for recipe, said in NO_RECIPES),
        *(("hyper", hyper, "hyper: .* found, expected a mapping") for hyper in (3, "x", [], {"finetune": 3})),
        *(("methods", methods, f"methods: {methods} found, expected a sequence") for methods in (None, 3)),
        ("out", 3, "out: 3 found, expected a path"),
        ("cache", 3, "cache: 3 found, expected a path"),
        ("freeze", 3, "freeze: 3 found, expected names"),
        ("freeze", [3], r"freeze: \[3\] found, expected names"),
        ("save_models", "x", "save_models: 'x' found, expected True or False"),
        ("hyper", {"scrub": {"epoch": 1}}, "scrub.epoch 1: scrub takes "),
        ("hyper", {"scrub": {"epochs": 1}}, r"hyper scrub.epochs: scrub is not among the methods \(original\)"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_is_trained(data, model, monkeypatch, argument, value, said):
    monkeypatch.setattr("unlearn_jax.bench.pools.train_pool", lambda *_, **__: pytest.fail("something was trained"))
    asked = {"forget": mask(data), "methods": ["original"], **TINY, argument: value}
    with pytest.raises(ValueError, match=rf"^{said}"):
        evaluate(model, data, **asked)


def test_unlearning_one_model_is_the_method_on_it(data, model, variables):
    one = jax.tree.map(lambda leaf: np.asarray(leaf[0]), variables)
    forget = data.published.train[:10]
    after = unlearn("finetune", model, one, data, forget=forget, epochs=1, recipe=Recipe(epochs=1))
    both = unlearn("finetune", model, variables, data, forget=mask(data), epochs=1, recipe=Recipe(epochs=1))
    for single, stacked, before in zip(*map(jax.tree.leaves, (after, both, one)), strict=True):
        np.testing.assert_allclose(single, stacked[0], rtol=1e-5, atol=1e-6)
        assert single.shape == before.shape
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(one), strict=True))
    own = unlearn(halved, model, one, data, forget=forget)
    np.testing.assert_array_equal(jax.tree.leaves(own.params)[0], jax.tree.leaves(one.params)[0] / 2)


def test_rows_masks_and_several_sets_in_any_form_are_the_same_rows(data):
    rows = data.published.train[:10]
    forms = [rows, rows.tolist(), tuple(rows), jnp.asarray(rows), mask(data), mask(data).tolist(), mask(data).astype(int)]
    forms += [jnp.asarray(mask(data)), rows.astype(np.uint16), rows[::-1]]
    masks = [mask_of(each, data) for form in forms for each in sets_of({"a": form, "b": form}).values()]
    assert all(np.flatnonzero(each).tolist() == list(range(10)) for each in masks)
    torch = pytest.importorskip("torch")
    for form in (torch.tensor(rows), torch.tensor(mask(data))):
        assert np.flatnonzero(mask_of(form, data)).tolist() == list(range(10))


def test_variables_of_another_model_are_refused(data, model, variables):
    forget = data.published.train[:10]
    with pytest.raises(ValueError, match=r"^variables: not of this model"):
        unlearn("finetune", model, Variables({"w": np.ones(3)}, {}), data, forget=forget)
    wide = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf], axis=-1), variables)
    with pytest.raises(ValueError, match=r"^variables: their arrays have the shapes of neither"):
        unlearn("finetune", model, wide, data, forget=forget)
    with pytest.raises(ValueError, match=r"^epochs: hyperparameters are of registered methods; halved is a function"):
        unlearn(halved, model, variables, data, forget=forget, epochs=3)


def pools(shift):
    rng = np.random.default_rng(0)
    labels = Labels(*(rng.integers(0, 3, 30) for _ in range(3)))
    cubes = [Cube(*(rng.normal(size=(members, 30, 3)) for _ in range(3))) for members in (8, 16)]
    own = cubes[0]._replace(forget=cubes[0].forget + shift * np.eye(3)[labels.forget])
    return own, cubes[1], labels


def test_logits_of_any_framework_get_a_verdict():
    same, other = pools(0.0), pools(3.0)
    verdict = score(unlearned=same[0], oracles=same[1], labels=same[2], splits=50)
    assert verdict.outcome == "not distinguished" and verdict.largest <= verdict.band
    found = score(**dict(zip(("unlearned", "oracles", "labels"), (each._asdict() for each in other), strict=True)), splits=10)
    assert found.outcome == "different" and len(str(found).splitlines()) <= 10
    assert str(found).startswith("different (n=8; largest |z| ")
    few = Cube(*(part[:4] for part in same[0]))
    assert score(unlearned=few, oracles=same[1], labels=same[2], splits=10).outcome is None


def test_what_is_no_cube_is_named():
    own, oracles, labels = pools(0.0)
    with pytest.raises(ValueError, match=r"^unlearned: expected arrays called forget, retain and test, not forget, test"):
        score(unlearned={"forget": own.forget, "test": own.test}, oracles=oracles, labels=labels)
    with pytest.raises(ValueError, match=r"^labels: expected arrays called forget, retain and test, not list"):
        score(unlearned=own, oracles=oracles, labels=[1, 2])
    one = Cube(*(part[:3] for part in oracles))
    with pytest.raises(ValueError, match=r"^unlearned, oracles: 8 unlearned models and 3 oracles; expected 2 or more, and twice"):
        score(unlearned=own, oracles=one, labels=labels)


def test_the_logits_that_are_wrong_are_named():
    own, oracles, labels = pools(0.0)
    given = {"unlearned": own, "oracles": oracles, "originals": own, "labels": labels}
    for name in ("unlearned", "oracles", "originals"):
        right = given[name].retain
        ruined = np.where(np.arange(len(right))[:, None, None] == 2, np.nan, right)
        for array, said in (
            (ruined, "on retain: members 2 have values that are not finite"),
            (right[..., :1], "on retain: 1 class, expected two or more"),
            (None, "on retain: "),
            ([[1.0], [1.0, 2.0]], "no array can be made of what was given"),
        ):
            with pytest.raises(ValueError, match=rf"^{name}: {said}"):
                score(**{**given, name: given[name]._asdict() | {"retain": array}})
    fewer = oracles._replace(retain=oracles.retain[:, :20])
    with pytest.raises(ValueError, match=r"^oracles: 20 examples of 3 classes on retain; the unlearned models have 30 examples"):
        score(**{**given, "oracles": fewer})
    with pytest.raises(ValueError, match=r"^margin: 'x' found, expected a number between 0 and 1"):
        score(**given, margin="x")


def test_a_fingerprint_tells_models_apart_by_what_they_compute():
    shape = (8, 8, 1)

    def mlp():
        build.cache_clear()
        return build("mlp", classes=10, width=4)

    def shifted(model, by):
        constant = np.asarray(by, np.float32)

        def apply(variables, images, train=False):  # nested, where a printed jaxpr leaves constants out
            logits, statistics = model.apply(variables, images, train=train)
            return jax.jit(lambda logits: jax.lax.fori_loop(0, 2, lambda _, x: x + constant[None], logits))(logits), statistics

        return model._replace(apply=apply)

    other = np.arange(10.0)
    other[3] += 1e-3
    models = [mlp(), build("mlp", classes=10, width=5), build("mlp", classes=10, width=4, activation="tanh")]
    models += [shifted(models[0], np.arange(10.0)), shifted(models[0], other), models[0]._replace(gradient=None)]
    digests = [fingerprint(model, shape) for model in models]
    assert len(set(digests)) == len(digests)
    assert fingerprint(mlp(), shape) == digests[0]


def with_rule(model, factor):
    """The same function with another derivative."""
    rule = jax.custom_vjp(lambda logits: logits)
    rule.defvjp(lambda logits: (logits, None), lambda _, pull: (factor * pull,))

    def apply(variables, images, train=False):
        logits, statistics = model.apply(variables, images, train=train)
        return rule(logits), statistics

    return model._replace(apply=apply, gradient=None)


def test_a_fingerprint_sees_derivatives_and_refuses_what_nobody_sees():
    model = build("mlp", classes=10, width=4)
    assert fingerprint(with_rule(model, 1.0), (8, 8, 1)) != fingerprint(with_rule(model, -50.0), (8, 8, 1))

    def apply(variables, images, train=False):
        logits, statistics = model.apply(variables, images, train=train)
        shape = jax.ShapeDtypeStruct(logits.shape, logits.dtype)
        host = jax.pure_callback(lambda x: np.asarray(x), shape, jax.lax.stop_gradient(logits), vmap_method="sequential")
        return logits + host, statistics

    with pytest.raises(ValueError, match=r"^model: calls back into Python"):
        fingerprint(model._replace(apply=apply), (8, 8, 1))


def test_models_that_stand_twice_are_no_null():
    own, oracles, labels = pools(0.0)
    first = Cube(*(part[:8] for part in oracles))
    with pytest.raises(ValueError, match=r"^unlearned: model 0 gives the same logits as oracle 0"):
        score(unlearned=first, oracles=oracles, labels=labels)
    same = Cube(*(np.repeat(part[:1], 16, axis=0) for part in oracles))
    with pytest.raises(ValueError, match=r"^oracles: model 1 gives the same logits as oracle 0"):
        score(unlearned=own, oracles=same, labels=labels)
    with pytest.raises(ValueError, match=r"^unlearned: 4, 8 and 8 models on forget, retain and test"):
        score(unlearned=own._replace(forget=own.forget[:4]), oracles=oracles, labels=labels)


def reshaped(key, problem, variables):
    """Other shapes."""
    return jax.tree.map(lambda leaf: leaf[..., None], variables)


def test_a_function_that_returns_something_else_is_named(data, model, variables):
    for method in (reshaped, lambda key, problem, variables: None):
        with pytest.raises(ValueError, match=r"^(reshaped|<lambda>): returns something else than variables"):
            unlearn(method, model, variables, data, forget=data.published.train[:10])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data": None}, "data: NoneType found, expected a Dataset"),
        ({"model": halved}, "model: function found, expected a Model"),
        ({"seed": 2**70}, "seed: 1180591620717411303424 found, expected an integer from 0"),
        ({"zz": 3}, "zz: finetune takes learning_rate"),
        ({"method": "scrubb"}, "method: there is no 'scrubb'"),
        *(({"recipe": recipe}, f"recipe: {said}") for recipe, said in NO_RECIPES),
    ],
)
def test_a_wrong_argument_of_unlearn_is_named(data, model, variables, given, said):
    asked = {"method": "finetune", "model": model, "variables": variables, "data": data, "forget": data.published.train[:10]}
    with pytest.raises(ValueError, match=rf"^{said}"):
        unlearn(**{**asked, **given})
    empty = jax.tree.map(lambda leaf: leaf[:0], variables)
    with pytest.raises(ValueError, match=r"^variables: a stack of no models"):
        unlearn("finetune", model, empty, data, forget=data.published.train[:10])


def test_with_originals_a_score_has_effect_sizes_and_three_outcomes():
    """Margins of 12 models; the unlearned ones are retrained ones with a share of the originals' memory of F."""
    rng = np.random.default_rng(0)
    labels = {split: rng.integers(0, 3, 40) for split in ("forget", "retain", "test")}
    gain = 3 * np.eye(3)[labels["forget"]]

    def models(count, memory):
        made = {split: rng.normal(size=(count, 40, 3)) * 0.3 for split in labels}
        return made | {"forget": made["forget"] + memory * gain}

    oracles, originals = models(24, 0.0), models(12, 1.0)
    outcomes = {}
    for memory in (0.0, 0.5, 1.0):
        found = score(unlearned=models(12, memory), oracles=oracles, labels=labels, originals=originals, splits=20)
        assert found.memory_left.low < memory < found.memory_left.high and abs(found.damage.value) < 0.1
        assert f"memory left {found.memory_left:z.2f}" in str(found)
        outcomes[memory] = found.outcome
    assert outcomes == {0.0: "equivalent", 0.5: "different", 1.0: "different"}
    assert score(unlearned=models(12, 0.0), oracles=oracles, labels=labels, splits=20).memory_left is None
    for given, said in (
        ({"originals": models(6, 1.0)}, "originals: 6 models, expected 12"),
        ({"margin": 1.5}, "margin: 1.5 found"),
    ):
        with pytest.raises(ValueError, match=rf"^{said}"):
            score(unlearned=models(12, 0.0), oracles=oracles, labels=labels, splits=20, **given)
