"""The guides, docs/add-a-*.md and docs/bring-your-data.md: their examples run as they stand."""

import csv
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import test_laws
from flax import nnx
from in_process import run_in_process

import experiments
import unlearn_jax as uj
from experiments import registry
from unlearn_jax import metrics
from unlearn_jax.data import DATASETS, Dataset, load
from unlearn_jax.errors import ArgumentError
from unlearn_jax.methods import METHODS
from unlearn_jax.metrics.registry import METRICS
from unlearn_jax.models import MODELS, build
from unlearn_jax.types import Cube, Labels

DOCS = Path(__file__).parent.parent / "docs"


def code(guide, name):
    """An example of a guide."""
    (text,) = re.findall(rf"<!-- {re.escape(name)} -->\n```python\n(.*?)```", (DOCS / guide).read_text(), flags=re.DOTALL)
    return text


@pytest.fixture
def example():
    """The method's code, registered for the time of a test."""
    text = code("add-a-method.md", "method")
    exec(compile(text, "add-a-method.md", "exec"), {})
    yield text
    del METHODS["uniform_target"]


def test_the_example_is_a_method_that_obeys_the_laws(example):
    name = "uniform_target"
    body = example.partition("    def method")[2].splitlines()
    assert len(body) < 20 and METHODS[name].access == "F+R"
    test_laws.test_the_same_key_gives_the_same_result_and_another_key_another(name)
    test_laws.test_structure_shapes_and_types_stay_and_all_is_finite(name)
    test_laws.test_every_number_matters(name)
    test_laws.test_zero_epochs_leave_the_model_bit_for_bit(name)
    test_laws.test_the_docstring_has_a_summary_and_every_hyperparameter(name)
    for part in ("outside", "held_out"):
        test_laws.test_what_a_method_must_not_see_does_not_reach_it(name, part)
    for part in ("forget", "retain"):
        test_laws.test_a_method_sees_what_its_access_says(name, part)


def test_it_does_what_it_says(example):
    network = test_laws.model("uniform_target")
    own = test_laws.problem(network)
    before = test_laws.member(test_laws.members(network), 0)
    after = METHODS["uniform_target"].make(weight=1.0, learning_rate=0.1, epochs=30, batch_size=16)(
        jax.random.key(0), own, before
    )

    def entropy(variables):
        logits, _ = network.apply(variables, own.train.images[own.forget], train=False)
        return float(-jnp.sum(jax.nn.softmax(logits) * jax.nn.log_softmax(logits), axis=-1).mean())

    assert entropy(after) > entropy(before) and entropy(after) > 0.8 * jnp.log(test_laws.CLASSES)


def test_the_readme_judges_logits(capsys):
    readme = (DOCS.parent / "README.md").read_text()
    ((text, said),) = re.findall(r"<!-- logits -->\n```python\n(.*?)```\n\n```text\n(.*?)\.\.\.\n```", readme, flags=re.DOTALL)
    assert sum(bool(line.strip()) for line in text.splitlines()) <= 15
    exec(compile(text, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.usefixtures("undrawn")
def test_the_guide_evaluates_from_python(tmp_path, monkeypatch, capsys):
    """Its own words, on fewer and smaller models."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = code("library.md", "library")
    small = (
        text.replace('uj.load("digits",', 'uj.load("digits", train_size=200,')
        .replace("width=8", "width=2")
        .replace("resnet8", "mlp")
    )
    small = small.replace("members=8", "members=2, splits=4, retain_size=20, recipe=uj.Recipe(epochs=1)")
    scope = {}
    exec(compile(small, "library.md", "exec"), scope)
    assert set(scope["board"].verdict) == {"original", "retrain", "scrub", "halve"}
    assert "halve" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["linen", "nnx", "equinox", "functions"])
def test_networks_of_every_kind_come_in_as_the_guide_says(kind):
    scope = {}
    exec(compile(code("bring-your-model.md", kind), "bring-your-model.md", "exec"), scope)
    model = scope["model"]
    x = jnp.ones((4, 16, 16, 3) if kind == "linen" else (4, 12))
    variables = model.init(jax.random.key(0), x[:1])
    assert model.apply(variables, x, train=False)[0].shape == (4, 3)
    assert model.random == (kind in ("linen", "nnx")) and (model.head is None) == (kind == "functions")


def test_a_network_in_a_file_goes_through_the_command_line(tmp_path):
    (tmp_path / "mynet.py").write_text(code("bring-your-model.md", "command line"))
    (tmp_path / "wrong.py").write_text("def make(classes, example):\n    return classes\n")
    words = "--smoke --device cpu --members 2 --evaluation.splits 4 --train-size 60 --train.epochs 1 --evaluation.retain-size 20"
    words += " --methods original,finetune,gated_knowledge_transfer"

    def run(model, *more):
        places = ("--out", tmp_path / f"out{len(more)}{model}", "--cache", tmp_path / "cache")
        return run_in_process(*words.split(), "--model", f"{tmp_path}/{model}", *places, *more)

    done = run("mynet.py:make")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out0mynet.py:make"
    summary = (out / "summary.md").read_text()
    assert "gated_knowledge_transfer: left out, it needs Model.activations, which this model does not declare." in summary
    with (out / "results.csv").open() as file:
        assert {row["method"] for row in csv.DictReader(file)} == {"original", "finetune"}
    (tmp_path / "mynet.py").write_text(code("bring-your-model.md", "command line").replace("Dense(16)", "Dense(15)"))
    pools = len([*(tmp_path / "cache").rglob("identity.json")])
    assert run("mynet.py:make", "--seed", "0").returncode == 0  # the file has changed: other models, not those of before
    assert len([*(tmp_path / "cache").rglob("identity.json")]) == 2 * pools > 0
    for model, more, said in (
        ("mynet.py:other", (), "gives no model (AttributeError: "),
        ("wrong.py:make", (), "make returns int; expected what uj.from_linen, from_nnx, ... give"),
        ("mynet.py:make", ("--width", "9"), "--width 9: is of the library's models"),
    ):
        refused = run(model, *more)
        assert refused.returncode == 2 and said in refused.stderr.splitlines()[-1]


def test_trained_modules_come_in_and_go_out_as_the_guide_says():
    scope = {}
    exec(compile(code("bring-your-model.md", "nnx"), "bring-your-model.md", "exec"), scope)
    x, y = np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32), np.arange(60) % 3
    data = uj.Dataset.from_arrays(train=(x, y), test=(x, y))
    module = scope["Net"](nnx.Rngs(0))
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    scope |= {"module": module, "data": data, "rows": data.published.train[:6]}
    exec(compile(code("bring-your-model.md", "variables"), "bring-your-model.md", "exec"), scope)
    after = nnx.to_pure_dict(nnx.state(scope["module"], nnx.Param))
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert not jax.tree.all(jax.tree.map(np.array_equal, after, before))


def test_the_metric_is_scored_beside_its_null(monkeypatch):
    monkeypatch.setattr("unlearn_jax.metrics.registry.METRICS", dict(METRICS))
    exec(compile(code("add-a-metric.md", "metric"), "add-a-metric.md", "exec"), {})
    rng = np.random.default_rng(0)
    labels = Labels(*(rng.integers(0, 3, 12) for _ in range(3)))
    oracles, models = (Cube(*(4 * rng.normal(size=(n, 12, 3)) for _ in range(3))) for n in (16, 8))
    reference = metrics.reference(oracles, labels, 8, splits=4)
    scores = {score.metric: score for score in metrics.score(models, reference).scores}
    expected = 100 * (metrics.probabilities(models.forget).max(-1) > 0.9).mean()
    assert scores["confident"].value == pytest.approx(expected) and 0 < expected < 100
    assert scores["confident"].null.sd > 0


def test_the_model_is_trained_and_unlearned(tmp_path):
    exec(compile(code("add-a-model.md", "model"), "add-a-model.md", "exec"), {})
    try:
        model = build("patches", classes=10, width=6)
        assert (model.norms, model.convolutions) == ((), ("patches/kernel",)) and model.head.kernel == "head/kernel"
        words = (
            "--smoke --device cpu --model patches --width 6 --members 2 --evaluation.splits 4 --train-size 60 --train.epochs 1"
        )
        words += " --evaluation.retain-size 20 --methods original,finetune,salun"
        done = run_in_process("--exp", "unlearning", *words.split(), "--out", tmp_path / "out", "--cache", tmp_path / "cache")
        assert done.returncode == 0, done.stderr
    finally:
        del MODELS["patches"]


def test_the_data_set_is_read_from_its_file(tmp_path):
    exec(compile(code("add-a-model.md", "data"), "add-a-model.md", "exec"), {})
    try:
        rng = np.random.default_rng(0)
        arrays = {f"x_{split}": rng.integers(0, 256, (40, 8, 8, 1)).astype(np.uint8) for split in ("train", "test")}
        arrays |= {f"y_{split}": np.arange(40, dtype=np.int32) % 2 for split in ("train", "test")}
        np.savez(tmp_path / "stripes.npz", **arrays)
        data = load("stripes", data_dir=tmp_path)
        assert (len(data.train.labels), len(data.held_out.labels), len(data.test.labels)) == (36, 4, 40)
        with pytest.raises(ArgumentError, match=r"data_dir None: the folder of stripes.npz is needed"):
            load("stripes")
    finally:
        del DATASETS["stripes"]


def test_the_study_runs_and_shows_its_options(tmp_path, monkeypatch):
    for name in ("__init__", "options", "study"):
        file = tmp_path / f"longer/{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(code("add-a-study.md", f"longer/{name}.py"))
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path)])
    monkeypatch.setitem(registry.EXPERIMENTS, "longer", registry.study("longer"))
    try:
        words = "--exp longer --smoke --device cpu --members 2 --train-size 60 --epoch-counts 1,2"
        done = run_in_process(*words.split(), "--out", tmp_path / "out", "--cache", tmp_path / "cache")
        assert done.returncode == 0, done.stderr
        with (tmp_path / "out/longer.csv").open() as file:
            assert [(row["epochs"], row["oracles"]) for row in csv.DictReader(file)] == [("1", "4"), ("2", "4")]
        assert "| epochs | oracles | margin | spread |" in done.stdout
        wrong = run_in_process("--exp", "longer", "--epoch-counts", "1,0")
        assert wrong.returncode == 2 and "--epoch-counts 1,0: expected an integer of at least 1" in wrong.stderr
        assert "no such option" in run_in_process("--exp", "longer", "--methods", "scrub").stderr
    finally:
        for name in [name for name in sys.modules if name.startswith("experiments.longer")]:
            del sys.modules[name]


@pytest.mark.usefixtures("undrawn")
def test_ones_own_data_and_forget_sets_go_in(tmp_path, monkeypatch):
    """All blocks of the page that need no other library, in one scope; the evaluation with fewer models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    scope = {}
    for name in ("arrays", "pairs", "file", "forget", "names"):
        text = code("bring-your-data.md", name)
        small = text.replace("members=8", "members=2, splits=4, retain_size=20, recipe=uj.Recipe(epochs=1)")
        exec(compile(small, f"bring-your-data.md, {name}", "exec"), scope)
    data, x, y = scope["data"], scope["x"], scope["y"]
    assert (data.name, len(data.train.labels), data.train.images.shape[1:]) == ("mine", 270, (12, 12, 3))
    assert {row.forget_set for row in scope["board"].rows} == {"first", "second"} and scope["mask"].sum() == 30
    again, labels = scope["arrays"](zip(x, y, strict=True))
    np.testing.assert_array_equal(again, x)
    np.testing.assert_array_equal(labels, y)
    for part in ("train", "test"):
        for name in ("b/0.png", "b/1.png", "a/2.png"):
            (tmp_path / "pets" / part / name).parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(x[len(name) + int(name[2])]).save(tmp_path / "pets" / part / name)
    (tmp_path / "pets/train/a/.hidden").touch()
    assert scope["rows_of"]("pets", ["b/1.png", "a/2.png"]).tolist() == [2, 0]
    found, images = load("pets"), {name: x[len(name) + int(name[2])] for name in ("a/2.png", "b/0.png", "b/1.png")}
    expected = Dataset.from_arrays(*[(np.stack([*images.values()]), np.array([0, 1, 1]))] * 2)
    assert found.fingerprint == expected.fingerprint
