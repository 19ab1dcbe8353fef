"""The floors of docs/architecture.md: higher rooms may import lower ones, never the reverse."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "errors": set(),
    "types": set(),
    "progress": set(),
    "process": set(),
    "files": set(),
    "sealed": {"files"},
    "kept": {"sealed"},
    "as_json": set(),
    "partial": set(),
    "recorded": {"files", "partial"},
    "runs": {"types", "device", "files", "sealed", "as_json", "partial", "recorded"},
    "device": {"types"},
    "workers": set(),
    "cluster": {"workers", "pickling", "device", "files", "runs"},
    "pickling": {"workers", "models", "types"},
    "metrics": {"types", "kept"},
    "report": {"types", "errors", "progress"},
    "profile": {"report", "progress"},
    "data": {"types", "files", "runs"},
    "models": {"types"},
    "checkpoints": {"types", "files", "models"},
    "convert": {"types", "models", "checkpoints"},
    "training": {"types", "device", "models", "data", "runs", "as_json", "sealed", "kept", "checkpoints", "workers"},
    "methods": {"types", "training", "models", "data", "kept", "workers"},
    "influence": {"types", "training", "models", "data"},
}
MAY_IMPORT["bench"] = set(MAY_IMPORT)
MAY_IMPORT["__main__"] = {"process", "bench"}
BELOW = {"types", "errors", "progress"}  # which every room may use
MODULES = sorted((ROOT / "unlearn_jax").rglob("*.py"))


def imported(path):
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def room(path):
    """The first part of a path below the package."""
    return path.relative_to(ROOT / "unlearn_jax").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_no_room_above_it(path):
    here = room(path)
    if here == "__init__":
        return
    for name in imported(path):
        assert name.split(".")[0] not in ("experiments", "configs", "benchmark", "benchmarks"), name
        if name.startswith("unlearn_jax."):
            assert name.split(".")[1] in MAY_IMPORT[here] | BELOW | {here}, f"{here} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_flax_stays_in_the_models(path):
    if room(path) != "models":
        flax = {name for name in imported(path) if name.split(".")[0] == "flax"}
        assert flax <= {"flax"}, flax  # `from flax import struct`


def test_the_entry_is_short():
    assert len((ROOT / "benchmark.py").read_text().splitlines()) < 80


STUDIES = sorted(path.parent for path in (ROOT / "experiments").glob("*/options.py"))


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_study_is_one_folder_and_takes_nothing_from_another(study):
    assert {"__init__.py", "options.py", "study.py"} <= {path.name for path in study.glob("*.py")}
    for path in study.rglob("*.py"):
        for name in imported(path):
            assert not name.startswith("experiments.") or name.split(".")[1] == study.name, f"{path.name} imports {name}"


def test_options_bring_no_jax():
    """`--help` answers at once."""
    code = "import sys, experiments.registry; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_what_is_imported_is_declared():
    """In pyproject.toml or the requirements: a package that another one brings today may be gone tomorrow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for file in ROOT.glob("requirements*.txt") for line in file.read_text().splitlines()]
    lines += [line for extra in project["optional-dependencies"].values() for line in extra]
    declared = {re.split(r"[\[<>=~! #]", line)[0].lower().replace("-", "_") for line in lines}
    folders = [ROOT / name for name in ("unlearn_jax", "experiments", "benchmarks", "tests")]
    beside = {path.stem for name in ("benchmarks", "tests") for path in (ROOT / name).glob("*.py")}
    ours = {path.name for path in folders} | {"benchmark", "docs"} | beside
    distributions = importlib.metadata.packages_distributions()
    for path in [ROOT / "benchmark.py", *(path for folder in folders for path in folder.rglob("*.py"))]:
        for name in {name.split(".")[0] for name in imported(path)} - ours - sys.stdlib_module_names:
            names = {each.lower().replace("-", "_") for each in distributions.get(name, [name])}
            assert names & declared, f"{path.relative_to(ROOT)} imports {name}"
