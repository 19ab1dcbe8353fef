"""A model's variables to and from a `.safetensors` file, checked against the model. Nothing is ever pickled.

Arrays are called `params/...` and `statistics/...`, followed by their path in the model, such as `params/head/kernel`.
"""

import hashlib
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from unlearn_jax.errors import ArgumentError
from unlearn_jax.files import open_regular, unread
from unlearn_jax.models.paths import arrays
from unlearn_jax.types import Model, Variables

SUFFIX = ".safetensors"
NEEDED = f"a folder with one {SUFFIX} file for each model is needed"
KINDS = {"F": "float", "I": "int", "U": "uint", "C": "complex"}  # of a code such as F32
TYPES = {
    "BOOL": "bool",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}


class Models(NamedTuple):
    """Several models, and what tells them from others."""

    variables: Variables  # NumPy leaves with a leading axis of models
    digests: dict[str, str]  # SHA-256 of each, by the name of its file


def save_variables(path: str | Path, variables: Variables) -> None:
    """Writes the variables of one model. The file appears whole or not at all.

    Args:
        path: of the file, which ends in .safetensors; an existing one is replaced.
        variables: arrays of any type that the format knows.

    Raises:
        ArgumentError: another suffix.
        ValueError: two arrays of one name, or a type that the format does not know.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ArgumentError("path", path, f"expected a name that ends in {SUFFIX}")
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        partial.write_bytes(content(variables))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_variables(path: str | Path, model: Model, shape: Sequence[int]) -> Variables:
    """Reads the variables of one model from a file that `save_variables` wrote, or any program in the same names.

    Args:
        path: of a .safetensors file.
        model: that they belong to.
        shape: of one example, such as `(32, 32, 3)`.

    Returns:
        NumPy arrays.

    Raises:
        ArgumentError: the file cannot be read, or an array is missing, of another shape or type, or not of this model.
    """
    return read(Path(path), shapes_of(model, shape), "path")[0]


def shapes_of(model: Model, shape: Sequence[int]) -> Variables:
    """The variables of a model as `jax.ShapeDtypeStruct`.

    Args:
        model: any model.
        shape: of one example.
    """
    key = jax.eval_shape(jax.random.key, 0)
    return jax.eval_shape(model.init, key, jax.ShapeDtypeStruct((1, *shape), np.float32))


def content(variables: Variables) -> bytes:
    """The variables of one model as the content of a file; equal variables give equal bytes.

    Raises:
        ValueError: two arrays of one name, or a type that the format does not know.
    """
    named = {name: np.asarray(leaf, order="C") for name, leaf in arrays(variables._asdict()).items()}
    if len(named) < len(jax.tree.leaves(variables)):
        raise ValueError("variables: two arrays have the same path, keys being joined by slashes")
    try:
        return safetensors.numpy.save(named)
    except safetensors.SafetensorError as error:
        raise ValueError(f"variables: {unread(error)}") from error


def contents(variables: Variables) -> Iterable[bytes]:
    """The `content` of each of several models.

    Args:
        variables: with a leading axis of models.
    """
    for number in range(len(jax.tree.leaves(variables)[0])):
        yield content(single(variables, number))


def single(variables: Variables, number: int) -> Variables:
    """One of several models."""
    return jax.tree.map(lambda leaf: leaf[number], variables)


def read(path: Path, like: Variables, argument: str) -> tuple[Variables, str]:
    """Reads the variables of one model, and the SHA-256 of the file.

    Args:
        path: of the file.
        like: arrays, or `jax.ShapeDtypeStruct`, of the names, shapes and types that the file must have.
        argument: what the path is called in messages.

    Raises:
        ArgumentError: the file cannot be read, or its arrays are others.
    """
    named, digest = read_arrays(path, argument, arrays(like._asdict()))
    leaves = [named[name] for name in arrays(like._asdict())]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), digest


def read_arrays(path: Path, argument: str, like: Mapping[str, Any] | None = None) -> tuple[dict[str, np.ndarray], str]:
    """Reads the arrays of a file by their names, and the SHA-256 of the file.

    Args:
        path: of the file.
        argument: what the path is called in messages.
        like: the names, shapes and types that it must have; by default any.

    Raises:
        ArgumentError: the file cannot be read, or its arrays are others.
    """
    try:
        with open_regular(path) as file:
            whole = file.read()
        parts = safetensors.deserialize(whole)
        named = {name: np.frombuffer(part["data"], _type(part["dtype"])).reshape(part["shape"]) for name, part in parts}
    except Exception as error:  # whoever wrote the file: a format can fail in any way
        raise ArgumentError(argument, path, f"a {SUFFIX} file is needed ({unread(error)})") from error
    if like is not None and (wrong := misfit(named, like)):
        raise ArgumentError(argument, path, wrong)
    return named, hashlib.sha256(whole).hexdigest()


def misfit(given: Mapping[str, Any], like: Mapping[str, Any]) -> str:
    """Says which array is the first that does not fit; nothing if all do.

    Args:
        given: arrays by name.
        like: arrays of the model by name, or `jax.ShapeDtypeStruct`.
    """
    for name, wanted in like.items():
        if name not in given:
            return f"{name} is missing, expected {_shown(wanted)}"
        if _shown(given[name]) != _shown(wanted):
            return f"{name} is {_shown(given[name])}, expected {_shown(wanted)}"
    return next((f"{name} is no array of the model" for name in given if name not in like), "")


def fitting(given: Any, like: Variables) -> Variables:
    """Somebody's arrays as the variables of a model: NumPy arrays, of the model's precision.

    Args:
        given: `Variables`, or a pair of params and statistics, with arrays of any framework.
        like: arrays of the model, or `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: it is no such pair, or an array is missing, of another shape or kind, or not of this model.
    """
    if not isinstance(given, tuple | list) or len(given) != len(Variables._fields):
        raise ValueError(f"{type(given).__name__} found, expected Variables, or a pair of params and statistics")
    wanted, named = arrays(like._asdict()), {}
    for name, leaf in arrays(dict(zip(Variables._fields, given, strict=True))).items():
        try:
            array = np.asarray(leaf)
        except Exception as error:  # a tensor elsewhere, or that wants a gradient
            raise ValueError(f"{name} is no array ({unread(error)})") from error
        precision = wanted[name].dtype if name in wanted else array.dtype
        floating = all(jnp.issubdtype(kind, jnp.floating) for kind in (array.dtype, precision))
        named[name] = array.astype(precision) if floating else array
    if wrong := misfit(named, wanted):
        raise ValueError(wrong)
    return jax.tree.unflatten(jax.tree.structure(like), [named[name] for name in wanted])


def stacked(given: Any, like: Variables) -> Models:
    """Somebody's arrays as several models; see `fitting`.

    Args:
        given: variables with a leading axis of models.
        like: of one model.

    Raises:
        ValueError: as `fitting`; or it is a single model, or none.
    """
    leaf = next(iter(jax.tree.leaves(given)), None)
    first = next(iter(jax.tree.leaves(like)))
    count = np.shape(leaf)[0] if np.ndim(leaf) == len(first.shape) + 1 else 0  # type: ignore[arg-type]
    whole = jax.tree.map(lambda one: jax.ShapeDtypeStruct((count, *one.shape), one.dtype), like)
    if not count:
        fitting(given, like)  # which says what else is wrong
        raise ValueError("a single model; expected several, with a leading axis of models")
    variables = fitting(given, whole)
    return Models(variables, {f"#{n}": hashlib.sha256(each).hexdigest() for n, each in enumerate(contents(variables))})


def groups_in(named: Mapping[str, Any], like: Variables) -> Variables:
    """The shapes of the top-level groups of a model of which there are arrays.

    Args:
        named: arrays by name, such as `params/head/kernel`.
        like: of the whole model.
    """
    there = {name.split("/")[1] for name in named if name.count("/")}
    return Variables(*({group: part for group, part in tree.items() if group in there} for tree in like))


def read_groups(path: Path, like: Variables, argument: str) -> tuple[Variables, str]:
    """As `read`, but the file may lack whole top-level groups of the model; so do the variables then."""
    named, digest = read_arrays(path, argument)
    part = groups_in(named, like)
    wanted = arrays(part._asdict())
    if wrong := misfit(named, wanted) or ("" if wanted else "holds none of the model's arrays"):
        raise ArgumentError(argument, path, wrong)
    return jax.tree.unflatten(jax.tree.structure(part), [named[name] for name in wanted]), digest


def read_folder(folder: Path, like: Variables, argument: str) -> Models:
    """Reads every model of a folder, sorted by the names of their files.

    Args:
        folder: with a .safetensors file for each model.
        like: as in `read`.
        argument: what the folder is called in messages.

    Raises:
        ArgumentError: there is no such folder, it holds no such file, or one that cannot be read or does not fit.
    """
    models = {path.name: read(path, like, argument) for path in files_in(folder, argument)}
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(variables for variables, _ in models.values()))
    return Models(stacked, {name: digest for name, (_, digest) in models.items()})


def digest_of(path: Path, argument: str) -> str:
    """The SHA-256 of a file.

    Raises:
        ArgumentError: it cannot be read.
    """
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except OSError as error:
        raise ArgumentError(argument, path, f"a {SUFFIX} file is needed ({error.strerror})") from error


def digests(folder: Path, argument: str) -> dict[str, str]:
    """The SHA-256 of every .safetensors file in a folder or the folders in it, by its path from there.

    Raises:
        ArgumentError: there is no such folder, it holds no such file, or one cannot be read.
    """
    found: dict[str, str] = {}
    try:
        os.scandir(folder).close()
        for path in sorted(folder.rglob(f"*{SUFFIX}")):
            found[path.relative_to(folder).as_posix()] = digest_of(path, argument)
    except OSError as error:
        raise ArgumentError(argument, folder, f"{NEEDED} ({error.strerror}: {error.filename})") from error
    if not found:
        raise ArgumentError(argument, folder, f"holds none; {NEEDED}")
    return found


def files_in(folder: Path, argument: str) -> list[Path]:
    """The .safetensors files of a folder, sorted by name.

    Raises:
        ArgumentError: there is no such folder, or it holds no such file.
    """
    try:
        found = sorted(Path(entry) for entry in os.scandir(folder) if entry.name.endswith(SUFFIX))
    except OSError as error:
        raise ArgumentError(argument, folder, f"{NEEDED} ({error.strerror})") from error
    if not found:
        raise ArgumentError(argument, folder, f"holds none; {NEEDED}")
    return found


def _type(code: str) -> np.dtype:
    """The type of a code: NumPy's name where it has one (`F32`), otherwise that of `ml_dtypes`, as JAX has it."""
    return jnp.dtype(TYPES.get(code) or KINDS[code[0]] + code[1:])


def _shown(array: Any) -> str:
    return f"{array.dtype.name} {tuple(array.shape)}"
