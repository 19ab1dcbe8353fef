"""Models that stay in files: what is computed of them is what is computed of the same models in memory, to the last bit."""

import pickle

import jax
import numpy as np
import pytest

from unlearn_jax import kept, sealed
from unlearn_jax.bench.model_metrics import ModelMetrics
from unlearn_jax.bench.options import Judging
from unlearn_jax.bench.population import without
from unlearn_jax.bench.setting import forgetting, setting_of
from unlearn_jax.data import load
from unlearn_jax.methods import METHODS
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import weight_distance
from unlearn_jax.models import build
from unlearn_jax.training.ensembles import predict
from unlearn_jax.training.pools import diverged, member_keys, train_pool
from unlearn_jax.types import Recipe

MEMBERS = 7


@pytest.fixture(scope="module")
def setting():
    data = load("digits", train_size=200, label_noise=0.1, seed=0, data_dir=None, cache=None)
    return setting_of(data, build("mlp", classes=10, width=8), {"model": "mlp"}, Recipe(epochs=1))


@pytest.fixture(scope="module")
def pools(setting, tmp_path_factory):
    """The same pool twice: in memory, and where it lies in chunks of three models."""
    given = {"members": MEMBERS, "role": "oracle", "seed": 0, "identity": setting.identity, "chunk": 3}
    given["cache"] = tmp_path_factory.mktemp("cache")
    mask = np.arange(200) >= 20
    first = train_pool(setting.problem, mask, **given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "MOST", 0)
        return first, train_pool(setting.problem, mask, **given)


def require_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, jax.tree.map(np.asarray, other))


def test_a_large_pool_stays_in_its_chunks(pools):
    memory, files = pools
    assert all(isinstance(leaf, kept.Kept) for leaf in jax.tree.leaves(files.variables))
    assert [len(jax.tree.leaves(block)[0]) for block in kept.blocks(files.variables)] == [3, 3, 1]
    require_same(memory.variables, files.variables)
    assert memory[1:3] == files[1:3] and memory.name == files.name
    require_same(memory.curves, files.curves)


@pytest.mark.parametrize("index", [3, -1, slice(2, 5), slice(None, None, -2), [6, 0, 3], np.arange(7) > 4, slice(0, 0)])
def test_it_is_indexed_as_an_array(pools, index):
    memory, files = pools
    require_same(*(jax.tree.map(lambda leaf: leaf[index], pool.variables) for pool in pools))
    again = pickle.loads(pickle.dumps(jax.tree.map(lambda leaf: leaf[index], files.variables)))
    require_same(jax.tree.map(lambda leaf: leaf[index], memory.variables), again)


def test_a_part_travels_without_its_values_and_the_rest(pools):
    whole, part = (len(pickle.dumps(jax.tree.leaves(pools[1].variables)[0][some])) for some in (slice(None), slice(0, 1)))
    assert part < whole < 2000


@pytest.mark.parametrize("strategy", ["map", "vmap"])
def test_predictions_are_the_same(setting, pools, strategy):
    memory, files = (predict(setting.problem.model, pool.variables, setting.data.test.images, strategy) for pool in pools)
    np.testing.assert_array_equal(memory, files) if strategy == "map" else np.testing.assert_allclose(memory, files, atol=1e-4)


def test_what_scores_need_of_the_models_is_the_same(setting, pools):
    problem, forget = forgetting(setting, np.arange(200) < 20), setting.data.train.images[:20]
    logits = predict(setting.problem.model, pools[0].variables, forget)
    found = []
    for pool in pools:
        measure = ModelMetrics(Judging(members=MEMBERS), problem, forget, pool.variables, pool.variables)
        found.append((measure.of_oracles(logits), measure.of(without(pool.variables, (2,)), np.delete(logits, 2, axis=0))))
    require_same(*found)


def test_distances_of_weights_of_many_models_are_the_same(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"a": rng.normal(size=(300, 3, 5)), "b": rng.normal(size=(300, 17)) * 1e3}
    arrays = {name: values.astype(np.float32) for name, values in arrays.items()}
    with (tmp_path / "chunk.npz").open("w+b") as file:
        sealed.write(file, arrays)
    there = {name: kept.Kept([place]) for name, place in sealed.places(tmp_path / "chunk.npz").items()}
    require_same(weight_distance({"layer": arrays}), weight_distance({"layer": there}))


def test_arrays_of_any_order_and_type_are_found_in_a_sealed_file(tmp_path):
    arrays = {"f": np.asfortranarray(np.arange(24.0).reshape(4, 3, 2)), "i": np.arange(4, dtype=np.int8), "name": np.array("x")}
    with (tmp_path / "a.npz").open("w+b") as file:
        sealed.write(file, arrays)
    there = sealed.places(tmp_path / "a.npz")
    assert there.keys() == arrays.keys()
    for name in ("f", "i"):
        np.testing.assert_array_equal(sealed.read_rows(there[name], 1, 3), arrays[name][1:3])


def test_a_method_is_the_same_and_leaves_its_models_in_a_file(setting, pools, monkeypatch):
    problem, keys = forgetting(setting, np.arange(200) < 20), member_keys(0, "a method", MEMBERS)
    values = {**METHODS["gradient_ascent"].defaults, "epochs": 1}
    memory = Unlearner("gradient_ascent", values, problem, pools[0].variables, chunk=3).apply(keys)
    monkeypatch.setattr(kept, "MOST", 0)
    files = Unlearner("gradient_ascent", values, problem, pools[1].variables, chunk=3).apply(keys)
    require_same(memory.variables, files.variables)
    assert not kept.are_named(files.variables) and kept.are_named(pools[1].variables)


def test_what_has_diverged_is_found_in_files(monkeypatch):
    monkeypatch.setattr(kept, "MOST", 0)
    stack = kept.Stack(5)
    for first in (3, 0):  # in any order
        stack.put(first, {"a": np.array([[1.0, 2]] * 3)[: 5 - first] + first, "b": np.float32([0, np.inf, 0])[: 5 - first]})
    tree = stack.tree()
    assert diverged(tree) == (1, 4)
    np.testing.assert_array_equal(without(tree, (1, 4))["a"], [[1, 2], [1, 2], [4, 5]])
    np.testing.assert_array_equal(without(tree, ())["b"], [0, np.inf, 0, 0, np.inf])
