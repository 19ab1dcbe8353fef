"""The wheel, installed into a new environment: the tool as `pip install` brings it, in an empty folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("setuptools", reason="builds the wheel")

ROOT = Path(__file__).parent.parent
BUILT_FROM = ("unlearn_jax", "pyproject.toml", "README.md", "LICENSE", "requirements-core.txt")


def run(*words, place):
    """A command in a folder, without anything of the checkout on the path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([str(w) for w in words], cwd=place, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of programs of an environment that holds the wheel; the libraries are those of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in BUILT_FROM:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
    built = run(*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", "dist", ".", place=folder)
    assert built.returncode == 0, built.stderr
    assert run(sys.executable, "-m", "venv", "--without-pip", "env", place=folder).returncode == 0
    (site,) = (folder / "env/lib").glob("python*/site-packages")
    (wheel,) = (folder / "dist").glob("*.whl")
    assert (
        run(*pip, "--python", folder / "env/bin/python", "install", "--no-deps", "--no-index", wheel, place=folder).returncode
        == 0
    )
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    shutil.rmtree(folder / "unlearn_jax")
    return folder / "env/bin"


def test_the_wheel_has_the_bench_and_runs_in_an_empty_folder(installed, tmp_path):
    where = run(installed / "python", "-c", "import unlearn_jax; print(unlearn_jax.__file__)", place=tmp_path)
    assert where.stdout.startswith(str(installed.parent)), where
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 5)).astype(np.float32), np.arange(80) % 4
    np.savez(tmp_path / "mine.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    words = "--smoke --device cpu --dataset mine.npz --train-size None --label-noise 0 --model mlp --width 4 --members 2"
    words += " --evaluation.splits 4 --evaluation.retain-size 20 --forget.size 6 --train.epochs 1 --methods original,finetune"
    done = run(installed / "unlearn-jax", *words.split(), "--out", "out", "--cache", "cache", place=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"results.csv", "summary.md", "config.json", "report.html"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_the_wheel_lists_what_it_has_and_says_what_is_wrong_in_one_line(installed, tmp_path):
    listed = run(installed / "unlearn-jax", "--list", place=tmp_path)
    experiments = listed.stdout.partition("Experiments\n")[2].split("\n")
    assert {line.split()[0] for line in experiments if line.strip()} >= {"unlearning", "score", "compare", "export", "ulira"}
    tuned = "from unlearn_jax.bench.tuned import tuned; print(len(tuned('digits')))"
    assert int(run(installed / "python", "-c", tuned, place=tmp_path).stdout) > 10
    wrong = run(installed / "unlearn-jax", "--members", "x", place=tmp_path)
    assert (
        wrong.returncode == 2 and wrong.stderr.startswith("unlearn-jax: --members x: expected ") and wrong.stderr.count("\n") == 1
    )
