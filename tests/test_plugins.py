"""`--plugin`: methods of one's own on the command line."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from in_process import run_in_process

from unlearn_jax.bench import plugins
from unlearn_jax.methods import METHODS
from unlearn_jax.report.rows import read_results

GUIDE = (Path(__file__).parent.parent / "docs/add-a-method.md").read_text()
REGISTERED = re.findall(r"<!-- method -->\n```python\n(.*?)```", GUIDE, flags=re.DOTALL)[0]
PLAIN = '''
import jax

def _helper(key, problem, variables):
    return variables

def shrunk(key, problem, variables):
    """Every weight is smaller."""
    return variables._replace(params=jax.tree.map(lambda leaf: {by} * leaf, variables.params))
'''
SMALL = "--smoke --device cpu --members 2 --evaluation.splits 4 --evaluation.retain-size 20 --train-size 60 --width 4"
SMALL += " --train.epochs 1"


@pytest.fixture(autouse=True)
def forget():
    """Leaves the registry as it was."""
    there = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(there)
    for name in [*plugins.LOADED]:
        del plugins.LOADED[name]
        sys.modules.pop(name, None)


def again():
    """As in another process."""
    for name in ("shrunk", "uniform_target"):
        METHODS.pop(name, None)
    plugins.LOADED.clear()


def run(tmp_path, file, methods, *words):
    places = ("--out", tmp_path / "out", "--cache", tmp_path / "cache")
    return run_in_process("--exp", "unlearning", *SMALL.split(), "--plugin", file, "--methods", methods, *places, *words)


def distances(tmp_path):
    return {row.method: row.value for row in read_results(tmp_path / "out/results.csv") if row.metric == "weight_distance"}


def test_registered_methods_and_plain_functions_are_judged_and_a_changed_file_anew(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(REGISTERED + PLAIN.format(by=0.5))
    done = run(tmp_path, file, "original,uniform_target,shrunk", "--hyper", "uniform_target.weight=0.3")
    assert done.returncode == 0, done.stderr
    first = distances(tmp_path)
    assert set(first) == {"original", "uniform_target", "shrunk"} and "_helper" not in METHODS
    assert METHODS["shrunk"].summary == "Every weight is smaller."
    file.write_text(REGISTERED + PLAIN.format(by=0.0))
    again()
    assert run(tmp_path, file, "original,uniform_target,shrunk", "--hyper", "uniform_target.weight=0.3").returncode == 0
    second = distances(tmp_path)
    assert second["shrunk"] != first["shrunk"] and second["original"] == first["original"]


def test_a_method_that_is_made_of_a_plugins_one_is_made_anew_when_its_file_changes(tmp_path):
    file, found = tmp_path / "mine.py", []
    for by in (0.5, 0.0):
        file.write_text(PLAIN.format(by=by))
        again()
        done = run(tmp_path, file, "original,rum", "--hyper", "rum.low=shrunk", "rum.middle=shrunk", "rum.high=shrunk")
        assert done.returncode == 0, done.stderr
        found.append(distances(tmp_path)["rum"])
        shutil.rmtree(tmp_path / "out")  # what the cache holds is not to be taken for it either
    assert found[0] != found[1]


def package(folder, name, source, monkeypatch):
    """An installed package with methods, as an installer leaves it."""
    (folder / f"{name}.py").write_text(source)
    facts = folder / f"{name}-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(f"[unlearn_jax.methods]\n{name} = {name}\n")
    monkeypatch.syspath_prepend(folder)


def test_installed_packages_bring_methods_and_a_broken_one_stands_in_nobodys_way(tmp_path, monkeypatch, capsys):
    package(tmp_path, "goodmethods", PLAIN.format(by=0.5), monkeypatch)
    package(tmp_path, "badmethods", "import nowhere", monkeypatch)
    plugins.load_installed()
    plugins.load_installed()
    assert METHODS["shrunk"].make.__module__ == "goodmethods"
    said = "the methods of the installed package badmethods are left out: cannot be imported (ModuleNotFoundError"
    assert capsys.readouterr().err.count(said) == 1
    assert "shrunk" in run_in_process("--list").stdout


def test_a_module_on_the_path_is_a_plugin(tmp_path, monkeypatch):
    (tmp_path / "somebodys.py").write_text(PLAIN.format(by=0.5))
    monkeypatch.syspath_prepend(tmp_path)
    plugins.load("somebodys")
    plugins.load("somebodys")
    assert METHODS["shrunk"].access == "F+R+test-like" and plugins.source_of(METHODS["shrunk"]) == [plugins.LOADED["somebodys"]]
    assert plugins.source_of(METHODS["scrub"]) == []
    del METHODS["shrunk"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"cannot be imported \(FileNotFoundError"),
        ("def broken(:", r"cannot be imported \(SyntaxError"),
        (REGISTERED + "\nraise RuntimeError('two\\nlines')", r"cannot be imported \(RuntimeError: two\)"),
        ("import sys; sys.exit(0)", r"cannot be imported \(SystemExit: 0\)"),
        ("x = 1", "holds no method; expected @register, or functions of key, problem, variables"),
        ("def scrub(key, problem, variables): ...", "scrub is registered already; give the function another name"),
    ],
)
def test_what_is_no_plugin_is_one_line(tmp_path, text, said):
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    before = set(METHODS)
    done = run(tmp_path, file, "original")
    assert done.returncode == 2 and re.search(rf"^benchmark.py: --plugin \S+mine.py: {said}", done.stderr.splitlines()[-1])
    assert set(METHODS) == before and not (tmp_path / "out").exists()


def test_other_experiments_have_no_plugins(tmp_path):
    """Their files know nothing of a plugin's source."""
    assert "no such option" in run_in_process("--exp", "streaming", "--plugin", "mine.py").stderr
