"""Methods from outside: `--plugin FILE.py`, `--plugin package.module`, and packages with an entry point `unlearn_jax.methods`."""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from unlearn_jax.errors import UsageError
from unlearn_jax.methods import METHODS, Entry
from unlearn_jax.workers import FROM_FILES

ARGUMENTS = ("key", "problem", "variables")  # of a plain function that is taken for a method
ACCESS = "F+R+test-like"  # what a plain function may see: all that there is
GROUP = "unlearn_jax.methods"
LOADED: dict[str, str] = {}
"""Modules that were loaded, by name, and the SHA-256 of their source: what they made is found again by it."""


def load(plugin: str) -> None:
    """Imports a plugin. What it registers is a method, and so is every function of its own of `(key, problem, variables)`.

    The second time nothing happens.

    Args:
        plugin: a Python file, or the name of a module that can be imported.

    Raises:
        ArgumentError: it cannot be imported, or holds no method.
    """
    path = Path(plugin).expanduser()
    name = f"plugin_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}" if plugin.endswith(".py") else plugin
    if name in LOADED:
        return
    there = set(METHODS)
    try:
        module = import_file(name, path) if plugin.endswith(".py") else importlib.import_module(name)
    except (Exception, SystemExit) as error:  # it is somebody's, and can fail in any way
        for added in set(METHODS) - there:
            del METHODS[added]
        reason = next(iter(str(error).strip().splitlines()), "")
        raise UsageError("--plugin", plugin, f"cannot be imported ({type(error).__name__}: {reason})") from error
    for function in vars(module).values():
        if inspect.isfunction(function) and function.__module__ == module.__name__ and _is_method(function):
            if function.__name__ in METHODS:
                raise UsageError("--plugin", plugin, f"{function.__name__} is registered already; give the function another name")
            METHODS[function.__name__] = entry_of(function, lambda function=function: checked(function))
    if set(METHODS) == there and name not in {entry.make.__module__ for entry in METHODS.values()}:
        raise UsageError("--plugin", plugin, f"holds no method; expected @register, or functions of {', '.join(ARGUMENTS)}")
    source = Path(module.__file__).read_bytes() if module.__file__ else b""
    LOADED[name] = hashlib.sha256(source).hexdigest()


def load_installed() -> None:
    """Loads the modules that installed packages name as entry points of the group `unlearn_jax.methods`.

    One that cannot be imported, or holds no method, is left out, which a line on stderr says once.
    """
    for point in importlib.metadata.entry_points(group=GROUP):
        if point.module in LOADED:
            continue
        try:
            load(point.module)
        except UsageError as error:
            LOADED[point.module] = ""
            print(f"the methods of the installed package {point.name} are left out: {error.accepted}", file=sys.stderr)


def entry_of(method: Any, make: Any) -> Entry:
    """A plain function as an entry of the registry, without hyperparameters.

    Args:
        method: the function.
        make: gives it.
    """
    make.__module__ = getattr(method, "__module__", __name__)
    summary = (getattr(method, "__doc__", None) or "A function of the user's.").strip().splitlines()[0]
    return Entry(make, ACCESS, "the user's", summary, {}, frozenset())


def checked(method: Any) -> Any:
    """A function whose result is seen to be variables of the same form.

    Args:
        method: `(key, problem, variables) -> variables`.
    """
    name = getattr(method, "__name__", type(method).__name__)

    def apply(key: Any, problem: Any, variables: Any) -> Any:
        after = method(key, problem, variables)
        before = jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), variables)
        if jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), after) != before:
            raise ValueError(f"{name}: returns something else than variables of the model's names, shapes and types")
        return after

    return apply


def source_of(entry: Entry) -> list[str]:
    """The SHA-256 of the plugin that a method comes from; nothing for the project's own."""
    digest = LOADED.get(getattr(entry.make, "__module__", ""))
    return [digest] if digest else []


def import_file(name: str, path: Path) -> ModuleType:
    """Imports a Python file as a module of this name.

    Raises:
        ImportError: it is no Python file; any other error is that of its own code.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    FROM_FILES.append(module)
    return module


def _is_method(function: Any) -> bool:
    return tuple(inspect.signature(function).parameters) == ARGUMENTS and not function.__name__.startswith("_")
