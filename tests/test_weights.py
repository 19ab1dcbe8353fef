"""Models that are given instead of trained, and models that are written: from the command line."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
from in_process import run_in_process

from unlearn_jax.bench.evaluate import require_in_place
from unlearn_jax.bench.main_options import Config
from unlearn_jax.errors import ArgumentError
from unlearn_jax.report.rows import read_results
from unlearn_jax.types import Cube, Labels

SMALL = "--smoke --device cpu --members 2 --evaluation.splits 4 --evaluation.retain-size 20 --train-size 60 --width 4"
SMALL = f"{SMALL} --train.epochs 1 --methods original,finetune"
COSTS = ("rte", "rte_examples", "seconds", "compile_seconds")


def run(out, cache, *words):
    return run_in_process(*SMALL.split(), "--out", out, "--cache", cache, *words)


def scores(out):
    """All rows but the costs."""
    return [row._replace(seconds=None) for row in read_results(out / "results.csv") if row.metric not in COSTS]


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on two forget sets that wrote its models, and its cache."""
    out, cache = tmp_path_factory.mktemp("trained") / "out", tmp_path_factory.mktemp("cache")
    done = run(out, cache, "--forget-sets", "2", "--save-models")
    assert done.returncode == 0, done.stderr
    return out, cache


def test_models_that_a_run_wrote_give_its_results_again_and_nothing_is_trained(trained, tmp_path):
    out, _ = trained
    models = out / "models"
    counts = {str(path.relative_to(models)): len(files(path)) for path in models.rglob("*") if [*path.glob("*.safetensors")]}
    sets = ("random-0", "random-1")
    wanted = {f"oracles/{name}": 4 for name in sets} | {f"unlearned/{name}/finetune": 2 for name in sets}
    assert counts == {"originals": 2, **wanted}
    given = ("--originals", models / "originals", "--oracles", models / "oracles", "--forget-sets", "2", "--save-models")
    done = run(tmp_path / "out", tmp_path / "cache", *given)
    assert done.returncode == 0, done.stderr
    assert not [*(tmp_path / "cache").rglob("*.npz")]
    assert scores(tmp_path / "out") == scores(out)
    assert files(tmp_path / "out/models") == files(models)
    assert {row.metric for row in read_results(tmp_path / "out/results.csv")} >= {"seconds"}
    assert not {"rte", "rte_examples"} & {row.metric for row in read_results(tmp_path / "out/results.csv")}
    assert "The originals and oracles were given, not trained here." in (tmp_path / "out/summary.md").read_text()


def test_given_originals_alone_meet_trained_oracles_and_another_file_is_another_run(trained, tmp_path):
    out, cache = trained
    folder = shutil.copytree(out / "models/originals", tmp_path / "mine")
    (tmp_path / "mine/zebra.safetensors").write_bytes((out / "models/oracles/random-0/00000.safetensors").read_bytes())
    words = ("--originals", folder)
    assert run(tmp_path / "out", cache, *words).returncode == 0  # the first two by name
    first = [row for row in scores(out) if row.forget_set == "random-0"]
    assert scores(tmp_path / "out") == first
    assert "mean unlearning only if they were trained as the oracles were" in (tmp_path / "out/summary.md").read_text()
    moved = folder.rename(tmp_path / "moved")
    assert run(tmp_path / "out", cache, "--originals", moved).returncode == 0
    (moved / "00001.safetensors").write_bytes((moved / "zebra.safetensors").read_bytes())
    (moved / "zebra.safetensors").write_bytes((folder.parent / "moved/00000.safetensors").read_bytes())
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    for changed in (("--originals", moved), ()):
        done = run(tmp_path / "out", cache, *changed)
        assert done.returncode == 2 and "contains results of another configuration: given is " in done.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_models_are_written_by_a_run_that_is_taken_up_again(trained, tmp_path):
    out, cache = trained
    assert run(tmp_path, cache).returncode == 0 and not (tmp_path / "models").exists()
    assert run(tmp_path, cache, "--save-models").returncode == 0
    wanted = files(out / "models/unlearned/random-0/finetune")
    assert files(tmp_path / "models/unlearned/random-0/finetune") == wanted
    one = tmp_path / "models/unlearned/random-0/finetune/00001.safetensors"
    one.write_bytes(b"damaged")
    assert run(tmp_path, cache, "--save-models").returncode == 0
    assert files(tmp_path / "models/unlearned/random-0/finetune") == wanted


def broken(folder):
    arrays = safetensors.numpy.load_file(folder / "00000.safetensors")
    arrays["params/hidden1/kernel"] = np.asarray(arrays["params/hidden1/kernel"], np.float16)
    safetensors.numpy.save_file(arrays, folder / "00000.safetensors")


@pytest.mark.parametrize(
    ("option", "change", "said"),
    [
        ("originals", lambda folder: shutil.rmtree(folder), r": a folder with one .safetensors file for each model is needed"),
        ("originals", lambda folder: [path.unlink() for path in folder.iterdir()], ": holds none; a folder with one"),
        ("originals", lambda folder: (folder / "00001.safetensors").unlink(), ": 1 given, 2 needed: one for each member"),
        ("originals", broken, "/00000.safetensors: params/hidden1/kernel is float16 "),
        ("oracles", lambda folder: (folder / "00001.safetensors").unlink(), ": 3 given, 4 needed: two for each member"),
        (
            "oracles",
            lambda folder: shutil.copy(folder / "00000.safetensors", folder / "00002.safetensors"),
            ": 00002.safetensors is the same model as 00000.safetensors",
        ),
        (
            "oracles",
            lambda folder: shutil.copy(folder.parents[1] / "originals/00000.safetensors", folder / "00002.safetensors"),
            ": 00002.safetensors is the same model as 00000.safetensors of the originals",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_before_anything_is_trained(trained, tmp_path, monkeypatch, option, change, said):
    models = shutil.copytree(trained[0] / "models", tmp_path / "models")
    monkeypatch.setattr("unlearn_jax.bench.pools.train_pool", lambda *_, **__: pytest.fail("something was trained"))
    places = {"originals": models / "originals", "oracles": models / "oracles/random-0"}
    change(places[option])
    done = run(tmp_path / "out", tmp_path / "cache", "--originals", places["originals"], "--oracles", places["oracles"])
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    (line,) = done.stderr.strip().splitlines()[-1:]
    assert line.startswith(f"benchmark.py: --{option} {places[option]}{said}"), line


def test_the_oracles_of_a_set_are_missing_and_auto_needs_trained_models(trained, tmp_path):
    models = trained[0] / "models"
    done = run(tmp_path / "out", tmp_path, "--oracles", models / "oracles", "--forget-sets", "3")
    assert done.returncode == 2 and f"--oracles {models}/oracles/random-2: a folder with one" in done.stderr
    done = run(tmp_path / "out", tmp_path, "--oracles", models / "oracles", "--members", "auto")
    assert done.returncode == 2 and "--members auto: --originals and --oracles need a number" in done.stderr


def test_training_starts_from_a_file_which_is_part_of_the_run(trained, tmp_path):
    out, cache = trained
    arrays = safetensors.numpy.load_file(out / "models/originals/00000.safetensors")
    file = tmp_path / "body.safetensors"
    safetensors.numpy.save_file({name: array for name, array in arrays.items() if "/head/" not in name}, file)
    words = ("--init", file, "--freeze", "hidden*", "--save-models", "--methods", "original")
    done = run(tmp_path / "out", cache, *words)
    assert done.returncode == 0, done.stderr
    assert f"init {file}: lacks head; drawn at random" in done.stderr
    models = [safetensors.numpy.load(content) for content in files(tmp_path / "out/models").values()]
    heads = {each["params/head/kernel"].tobytes() for each in models}
    assert len(models) == len(heads) == 6
    for each in models:
        np.testing.assert_array_equal(each["params/hidden2/kernel"], arrays["params/hidden2/kernel"])
    safetensors.numpy.save_file({name: array + 1 for name, array in arrays.items()}, file)
    done = run(tmp_path / "out", cache, *words)
    assert done.returncode == 2 and "contains results of another configuration: given is " in done.stderr
    for wrong, said in (
        (("--freeze", "head"), "--freeze head: needs --init"),
        (
            ("--init", file, "--freeze", "stem"),
            "--freeze stem: expected groups of params that init holds: head, hidden1, hidden2",
        ),
        (("--init", file, "--freeze", "h*"), "--freeze h*: leaves nothing to train"),
        (("--init", file, "--width", "3"), f"--init {file}: params/head/kernel is float32 "),
        (("--init", tmp_path / "none"), f"--init {tmp_path / 'none'}: a .safetensors file is needed (No such file"),
    ):
        done = run(tmp_path / "other", cache, *wrong)
        assert done.returncode == 2 and done.stderr.strip().splitlines()[-1].startswith(f"benchmark.py: {said}"), done.stderr


def test_what_is_not_given_changes_no_configuration_and_retraining_needs_a_recipe():
    assert not {"originals", "oracles", "save_models", "given", "init", "freeze", "padding"} & Config().recorded().keys()
    given = dataclasses.replace(Config(), oracles=Path("x"))
    assert "retrain" in Config().method_names() and "retrain" not in given.method_names()
    assert dataclasses.replace(given, methods=("retrain", "original")).method_names() == ["retrain", "original"]


def test_given_oracles_that_know_the_forget_set_better_than_the_originals_are_refused():
    """Before any method runs. Here the models' logits stand for their weights."""
    labels, rng = Labels(*[np.arange(20) % 3] * 3), np.random.default_rng(0)

    def pool(members, shift):
        return Cube(*rng.normal(size=(3, members, 20, 3)) + shift * np.eye(3)[labels.forget])

    forget = SimpleNamespace(name="random-0", labels=labels, logits=lambda variables: variables)
    knowing, unknowing = pool(4, 4.0), pool(8, 0.0)
    require_in_place(forget, SimpleNamespace(variables=knowing), SimpleNamespace(cube=unknowing))
    with pytest.raises(ArgumentError, match=r"^oracles random-0: the oracles know the forget set better than the originals do"):
        require_in_place(forget, SimpleNamespace(variables=unknowing), SimpleNamespace(cube=knowing))
