"""`evaluate` on models that somebody else trained, and on a trainer of one's own, in JAX or not."""

import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import ArgumentError, Dataset, Recipe, Variables, evaluate, from_functions, load_variables, save_variables
from unlearn_jax.training import pools

RNG = np.random.default_rng(0)
INPUTS, LABELS = RNG.normal(size=(60, 5)).astype(np.float32), np.arange(60) % 3
DATA = Dataset.from_arrays(train=(INPUTS, LABELS), test=(INPUTS[:20], LABELS[:20]))
ROWS = DATA.published.train[:6]
pytestmark = pytest.mark.usefixtures("undrawn")


def init(key, x):
    """Of a linear model."""
    return {"w": jax.random.normal(key, (5, 3)) / 20, "b": jnp.zeros(3)}, {}


def apply(params, state, key, x, train):
    """Logits and state."""
    return x @ params["w"] + params["b"][None], state


MODEL = from_functions(init, apply, example=INPUTS[:1])
TINY = {"splits": 4, "retain_size": 20, "hyper": {"*": {"epochs": 1}}}


def fit(key, mask):
    """A few steps of gradient descent, in NumPy."""
    CALLS.append(int(mask.sum()))
    rng = np.random.default_rng(int(jax.random.bits(key)))
    x, y = np.asarray(DATA.train.images[mask], np.float64), np.eye(3)[DATA.train.labels[mask]]
    w, b = rng.normal(size=(5, 3)) / 20, np.zeros(3)
    for _ in range(5):
        p = np.exp(x @ w + b)
        error = (p / p.sum(1, keepdims=True) - y) / len(x)
        w, b = w - x.T @ error, b - error.sum(0)
    return {"w": w, "b": b}, {}


CALLS: list[int] = []


def members(count, seed=0, keep=slice(None)):
    """Models that `fit` made, stacked."""
    mask = np.zeros(len(DATA.train.labels), bool)
    mask[keep] = True
    made = [Variables(*fit(key, mask)) for key in jax.random.split(jax.random.key(seed), count)]
    return jax.tree.map(lambda *leaves: np.stack(leaves).astype(np.float32), *made)


ORIGINALS, ORACLES = members(2), members(4, 1, slice(6, None))


def values(board):
    return {
        (row.method, row.metric, row.split): row.value
        for row in board.rows
        if row.metric not in ("seconds", "compile_seconds", "rte")
    }


def folder_of(variables, place):
    place.mkdir(parents=True)
    for number in range(len(variables.params["b"])):
        save_variables(place / f"{number}.safetensors", jax.tree.map(lambda leaf, number=number: leaf[number], variables))
    return place


def test_models_in_memory_and_in_folders_are_the_same_and_nothing_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr("unlearn_jax.bench.pools.train_pool", lambda *_, **__: pytest.fail("something was trained"))
    asked = {"forget": ROWS, "methods": "original,retrain,finetune", **TINY}
    board = evaluate(MODEL, DATA, originals=ORIGINALS, oracles=ORACLES, cache=tmp_path / "cache", **asked)
    assert board.left_out == {"retrain": "needs recipe= or fit=, by which the given models were trained"}
    assert set(board.verdict) == {"original", "finetune"} and {row.n_members for row in board.rows} == {2}
    places = {"originals": folder_of(ORIGINALS, tmp_path / "originals"), "oracles": folder_of(ORACLES, tmp_path / "oracles")}
    again = evaluate(MODEL, DATA, **places, cache=tmp_path / "cache", out=tmp_path / "out", save_models=True, **asked)
    assert values(again) == values(board)
    for role, place in (("originals", "originals"), ("oracles", "oracles/given-0")):
        written = [path.read_bytes() for path in sorted((tmp_path / "out/models" / place).iterdir())]
        assert written == [path.read_bytes() for path in sorted(places[role].iterdir())]
    shutil.copy(places["oracles"] / "0.safetensors", places["oracles"] / "9.safetensors")
    save_variables(places["oracles"] / "9.safetensors", jax.tree.map(lambda leaf: leaf[0] + 1, ORACLES))
    with pytest.raises(ArgumentError, match="contains results of another configuration: given is "):
        evaluate(MODEL, DATA, **places, cache=tmp_path / "cache", out=tmp_path / "out", **asked)
    sets = {"a": ROWS, "b": DATA.published.train[6:9]}
    asked = {"forget": sets, "methods": "original", **TINY}
    both = evaluate(MODEL, DATA, originals=ORIGINALS, oracles={"a": ORACLES, "b": places["oracles"]}, **asked)
    assert {row.forget_set: row.n_oracles for row in both.rows} == {"a": 4, "b": 5}
    with pytest.raises(ValueError, match=r"^oracles: expected a mapping from the forget sets a, b"):
        evaluate(MODEL, DATA, originals=ORIGINALS, oracles=ORACLES, **asked)
    with pytest.raises(ValueError, match=r"^oracles: of b; expected the forget sets a, b"):
        evaluate(MODEL, DATA, originals=ORIGINALS, oracles={"b": ORACLES}, **asked)


def one(variables):
    return jax.tree.map(lambda leaf: leaf[0], variables)


def logits():
    from unlearn_jax import Cube

    return Cube(*(np.zeros((4, 3, 3)) for _ in range(3)))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"originals": one(ORIGINALS)}, "originals: without more there is no null: give oracles, or recipe= or fit="),
        ({"originals": ORIGINALS}, "originals: without more there is no null: give oracles, or recipe= or fit="),
        ({"oracles": ORACLES}, "oracles: give originals too, or recipe= or fit= by which"),
        ({"originals": one(ORIGINALS), "recipe": Recipe()}, "originals: a single model; expected several, with a leading axis"),
        ({"originals": one(ORIGINALS), "oracles": ORACLES}, "originals: a single model; expected several, with a leading axis"),
        (
            {"originals": ORIGINALS, "oracles": ORACLES, "members": 3},
            r"originals \(in memory\): 2 given, 3 needed: one for each member; or members 2",
        ),
        (
            {"originals": ORIGINALS, "oracles": ORIGINALS},
            r"oracles \(in memory\): 2 given, 4 needed: two for each member, since the null compares half with half$",
        ),
        ({"originals": ORACLES, "oracles": ORACLES, "members": 2}, r"oracles .*: #0 is the same model as #0 of the originals"),
        (
            {"originals": ORIGINALS, "oracles": logits()},
            "oracles: logits found, expected variables or a folder of them; uj.score",
        ),
        ({"originals": {"w": 3}, "oracles": ORACLES}, "originals: dict found, expected Variables, or a pair"),
        ({"originals": Variables({"v": np.zeros((2, 3))}, {}), "recipe": Recipe()}, "originals: params/b is missing"),
        (
            {"originals": Variables({**ORIGINALS.params, "b": np.zeros((2, 4))}, {}), "recipe": Recipe()},
            r"originals: params/b is float32 \(2, 4\), expected float32 \(2, 3\)",
        ),
        ({"freeze": ["w"]}, "freeze: w found, but no init="),
        ({"init": one(ORIGINALS), "fit": fit}, "init: is of the recipe, and fit= is given"),
        ({"init": one(ORIGINALS), "freeze": ["head"]}, "freeze head: expected groups of params that init holds: b, w"),
        ({"init": one(ORIGINALS), "freeze": ["w", "b"]}, "freeze w,b: leaves nothing to train"),
        ({"init": ORIGINALS}, r"init: params/b is float32 \(2, 3\), expected float32 \(3,\)"),
        ({"init": 3}, "init: "),
        ({"init": "absent.safetensors"}, "init absent.safetensors: a .safetensors file is needed"),
        ({"fit": fit, "cache": "here"}, "fit: its models are kept in cache= by a name, since nobody can tell"),
        ({"fit": 3}, r"fit: int found, expected a function \(key, mask\) -> variables"),
        ({"fit_name": "mine"}, "fit_name: 'mine' found, but no fit="),
        ({"fit": fit, "fit_name": ""}, "fit_name: '' found, expected a text"),
    ],
)
def test_what_cannot_be_used_is_one_line_before_anything_is_trained(monkeypatch, given, said):
    monkeypatch.setattr("unlearn_jax.bench.pools.train_pool", lambda *_, **__: pytest.fail("something was trained"))
    with pytest.raises(ValueError, match=rf"^{said}[^\n]*"):
        evaluate(MODEL, DATA, forget=ROWS, methods="original", **TINY, **given)


def test_training_may_start_at_given_weights(tmp_path, capsys):
    start = one(ORIGINALS)
    asked = {"forget": ROWS, "methods": "original,retrain", "members": 2, "cache": tmp_path / "cache", **TINY}
    asked |= {"recipe": Recipe(epochs=2, batch_size=8), "save_models": True}
    evaluate(MODEL, DATA, init=start, freeze="w", out=tmp_path / "whole", **asked)
    save_variables(tmp_path / "w.safetensors", Variables({"w": start.params["w"]}, {}))
    assert "lacks" not in capsys.readouterr().err
    evaluate(MODEL, DATA, init=tmp_path / "w.safetensors", freeze="w", out=tmp_path / "part", **asked)
    assert "init " in (said := capsys.readouterr().err) and "w.safetensors: lacks b; drawn at random" in said
    assert len([*(tmp_path / "cache/pools").iterdir()]) == 6
    for out in ("whole", "part"):
        models = [load_variables(file, MODEL, (5,)) for file in (tmp_path / out / "models").rglob("*.safetensors")]
        assert len(models) == 8 and len({each.params["b"].tobytes() for each in models}) == 8
        assert all(np.array_equal(each.params["w"], start.params["w"]) for each in models)
    with pytest.raises(ArgumentError, match="contains results of another configuration: given is "):
        evaluate(MODEL, DATA, init=jax.tree.map(lambda leaf: leaf + 1, start), freeze="w", out=tmp_path / "whole", **asked)


def test_a_trainer_of_ones_own_is_called_for_each_model_and_found_again_by_its_name(tmp_path):
    count = len(DATA.train.labels)
    asked = {"forget": ROWS, "methods": "original,retrain,finetune", "members": 2, "fit": fit, **TINY}
    CALLS.clear()
    board = evaluate(MODEL, DATA, fit_name="numpy", cache=tmp_path / "cache", **asked)
    assert sorted(CALLS) == [count - 6] * 6 + [count] * 2 and board.left_out == {}
    assert {row.metric for row in board.rows} >= {"rte", "seconds"} and "rte_examples" not in {row.metric for row in board.rows}
    assert values(evaluate(MODEL, DATA, fit_name="numpy", cache=tmp_path / "cache", **asked)) == values(board)
    assert len(CALLS) == 8
    evaluate(MODEL, DATA, fit_name="numpy", cache=tmp_path / "cache", **{**asked, "members": 3, "methods": "original"})
    assert len(CALLS) == 8 + 3  # one more original, two more oracles
    evaluate(MODEL, DATA, fit_name="numpy 2", cache=tmp_path / "cache", **{**asked, "methods": "original"})
    assert len(CALLS) == 11 + 6
    key = pools.member_keys(0, "original", 2)[1]
    expected = fit(key, np.ones(count, bool))[0]["w"].astype(np.float32)
    chunks = [np.load(path) for path in (tmp_path / "cache/pools").rglob("00001-00002.npz")]
    assert any(np.array_equal(chunk["params/w"][0], expected) for chunk in chunks)


def test_a_trainer_without_a_name_is_kept_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = {"forget": ROWS, "methods": "original", "members": 2, "fit": fit, "out": tmp_path / "out", **TINY}
    CALLS.clear()
    first = evaluate(MODEL, DATA, **asked)
    assert len(CALLS) == 6 and values(evaluate(MODEL, DATA, **asked)) == values(first) and len(CALLS) == 12
    assert not [*tmp_path.rglob("pools")]


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "NoneType found, expected Variables, or a pair of params and statistics"),
        (({"w": np.zeros((5, 3))}, {}), r"params/b is missing, expected float32 \(3,\)"),
        (({"w": np.zeros((3, 5)), "b": np.zeros(3)}, {}), r"params/w is float32 \(3, 5\), expected float32 \(5, 3\)"),
        (({"w": np.zeros((5, 3)), "b": np.zeros(3, int)}, {}), r"params/b is int64 \(3,\), expected float32 \(3,\)"),
        (({"w": np.zeros((5, 3)), "b": np.zeros(3)}, {"n": np.zeros(3)}), "statistics/n is no array of the model"),
    ],
)
def test_what_a_trainer_returns_is_checked(tmp_path, returned, said):
    with pytest.raises(ArgumentError, match=rf"^fit \(original models\): {said}$"):
        evaluate(MODEL, DATA, forget=ROWS, methods="original", members=2, fit=lambda key, mask: returned, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_trainer_that_does_not_follow_its_key_is_refused(tmp_path):
    """All its models would be the same one, and every null without a spread."""
    said = r"^fit \(original models\): gave the same model for two keys; it has to follow its key, .*$"
    with pytest.raises(ArgumentError, match=said):
        evaluate(MODEL, DATA, forget=ROWS, methods="original", members=2, fit=lambda key, mask: fit(jax.random.key(0), mask))


def test_too_few_outputs_for_the_classes_are_refused():
    def two(params, state, key, x, train):
        return x @ params["w"][:, :2], state

    model = from_functions(init, two, example=INPUTS[:1])
    with pytest.raises(ArgumentError, match=r"^model: gives 2 logits an example; the data have 3 classes$"):
        evaluate(model, DATA, forget=ROWS, methods="original", members=2)
    with pytest.raises(ValueError, match=r"^apply: gives 1 logit an example, expected one for each of two or more classes$"):
        from_functions(init, lambda *given: (two(*given)[0][:, :1], given[1]), example=INPUTS[:1])


def test_a_trainer_in_torch(tmp_path):
    torch = pytest.importorskip("torch")

    def train(key, mask):
        torch.manual_seed(int(jax.random.bits(key)) % 2**31)
        layer = torch.nn.Linear(5, 3)
        optimiser = torch.optim.SGD(layer.parameters(), 0.5)
        x, y = torch.tensor(DATA.train.images[mask]), torch.tensor(DATA.train.labels[mask]).long()
        for _ in range(3):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(layer(x), y).backward()
            optimiser.step()
        return {"w": layer.weight.T if refused else layer.weight.detach().T, "b": layer.bias.detach()}, {}

    asked = {"forget": ROWS, "members": 2, "fit": train, "fit_name": "torch", "cache": tmp_path, **TINY}
    refused = True
    with pytest.raises(ArgumentError, match=r"^fit \(original models\): params/w is no array \(.*requires grad"):
        evaluate(MODEL, DATA, methods="original", **asked)
    refused = False
    board = evaluate(MODEL, DATA, methods="original,retrain,finetune", **asked)
    assert set(board.verdict) == {"original", "retrain", "finetune"}
    assert re.search(r"retrain +R ", str(board))
