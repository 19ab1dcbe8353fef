"""Variables in .safetensors files: what is written is read back, and what does not fit is named."""

import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from unlearn_jax import checkpoints
from unlearn_jax.checkpoints import load_variables, read, read_folder, save_variables
from unlearn_jax.errors import ArgumentError
from unlearn_jax.models import build
from unlearn_jax.types import Variables

MODEL, SHAPE = build("resnet8", classes=3, width=2), (8, 8, 1)


@pytest.fixture(scope="module")
def variables():
    made = jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    return jax.tree.map(np.asarray, made)


def same(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for one, other in zip(*map(jax.tree.leaves, (first, second)), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(one, other)


def test_a_network_comes_back_bit_for_bit(variables, tmp_path):
    save_variables(tmp_path / "one.safetensors", variables)
    same(load_variables(tmp_path / "one.safetensors", MODEL, SHAPE), variables)
    assert os.listdir(tmp_path) == ["one.safetensors"]
    names = safetensors.numpy.load_file(tmp_path / "one.safetensors")
    assert "params/stage1_block1/conv1/kernel" in names and "statistics/stem_norm/batch/var" in names


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32", "int32", "uint32", "bool", "float8_e4m3fn", "complex64"])
def test_any_type_and_shape_comes_back(kind, tmp_path):
    matrix = jnp.arange(6).reshape(2, 3).astype(kind)
    given = Variables({"a": {"b": np.asarray(matrix).T, "none": np.zeros((0, 2), kind)}}, {"n": np.asarray(matrix[1, 1])})
    save_variables(tmp_path / "x.safetensors", given)
    same(read(tmp_path / "x.safetensors", given, "path")[0], given)


def test_equal_variables_are_equal_files(variables, tmp_path):
    (tmp_path / "b.safetensors").write_bytes(checkpoints.content(variables))
    save_variables(tmp_path / "a.safetensors", jax.tree.map(jnp.asarray, variables))
    (tmp_path / "notes.txt").write_text("of somebody")
    models = read_folder(tmp_path, variables, "originals")
    assert list(models.digests) == ["a.safetensors", "b.safetensors"] and len({*models.digests.values()}) == 1
    same(jax.tree.map(lambda leaf: leaf[1], models.variables), variables)
    assert [*checkpoints.contents(models.variables)] == [(tmp_path / "b.safetensors").read_bytes()] * 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda arrays: arrays.pop("params/head/bias"), r"params/head/bias is missing, expected float32 \(3,\)"),
        (
            lambda arrays: arrays.update({"params/head/kernel": arrays["params/head/kernel"].T.copy()}),
            r"params/head/kernel is float32 \(3, 8\), expected float32 \(8, 3\)",
        ),
        (
            lambda arrays: arrays.update({"params/head/bias": np.zeros(3)}),
            r"params/head/bias is float64 \(3,\), expected float32 \(3,\)",
        ),
        (lambda arrays: arrays.update({"params/tail": np.zeros(3)}), "params/tail is no array of the model"),
    ],
)
def test_the_first_array_that_does_not_fit_is_named(variables, tmp_path, change, said):
    arrays = safetensors.numpy.load(checkpoints.content(variables))
    change(arrays)
    file = tmp_path / "wrong.safetensors"
    safetensors.numpy.save_file(arrays, file)
    with pytest.raises(ArgumentError, match=rf"^path {file}: {said}$"):
        load_variables(file, MODEL, SHAPE)


def pipe(path):
    os.mkfifo(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff" * 100),
        lambda path: path.write_bytes(pickle.dumps({"params": 3})),
        lambda path: path.write_bytes(safetensors.numpy.save({"x": np.zeros(3)})[:-1]),
        lambda path: path.mkdir(),
        pipe,
        lambda path: None,
    ],
    ids=["empty", "noise", "pickle", "cut", "folder", "pipe", "absent"],
)
def test_what_is_no_such_file_is_one_line(tmp_path, variables, make):
    make(tmp_path / "x.safetensors")
    with pytest.raises(ArgumentError, match=r"^originals .*x.safetensors: a .safetensors file is needed \(.+\)$"):
        read(tmp_path / "x.safetensors", variables, "originals")


def test_folders_and_names_are_checked(variables, tmp_path):
    with pytest.raises(
        ArgumentError, match=r"^oracles .*: a folder with one .safetensors file for each model is needed \(No such"
    ):
        read_folder(tmp_path / "absent", variables, "oracles")
    with pytest.raises(
        ArgumentError, match=r"^oracles .*: holds none; a folder with one .safetensors file for each model is needed$"
    ):
        read_folder(tmp_path, variables, "oracles")
    with pytest.raises(ArgumentError, match=r"^path .*x.pt: expected a name that ends in .safetensors$"):
        save_variables(tmp_path / "x.pt", variables)
    with pytest.raises(ValueError, match=r"^variables: two arrays have the same path"):
        checkpoints.content(Variables({"a": {"b": np.zeros(1)}, "a/b": np.zeros(1)}, {}))
    with pytest.raises(ValueError, match=r"^variables: .*complex128"):
        checkpoints.content(Variables({"a": np.zeros(1, complex)}, {}))
