"""`--exp export`: a kit, and what it takes back from outside; docs/external.md runs as it stands."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from in_process import run_in_process
from test_convert import resnet

from unlearn_jax.report.rows import read_results
from unlearn_jax.types import Cube

ROOT = Path(__file__).parents[1]
TINY = "--smoke --device cpu --label-noise 0.1 --train-size 200 --evaluation.retain-size 60 --padding torch"
JUDGED = f"{TINY} --model mlp --width 32 --members 8 --train.epochs 25 --train.batch-size 20"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def kit(tmp_path_factory, cache):
    """A kit with enough models for a verdict."""
    out = tmp_path_factory.mktemp("kit")
    done = run_in_process("--exp", "export", *JUDGED.split(), "--out", out, "--cache", cache)
    assert done.returncode == 0, done.stderr
    return out / "kit"


def judge(kit, cube, out, cache, monkeypatch):
    """The verdict by the command that the kit's README gives; each method's, and what was printed."""
    (kit / "mine").mkdir(exist_ok=True)
    for split, logits in cube.items():
        np.save(kit / f"mine/{split}.npy", logits)
    (command,) = re.findall(r"^    unlearn-jax (.+)$", (kit / "README.md").read_text(), flags=re.MULTILINE)
    monkeypatch.chdir(kit)
    done = run_in_process(*shlex.split(command), "--device", "cpu", "--out", out, "--cache", cache)
    assert done.returncode == 0, done.stderr
    return {row.method: row.inside for row in read_results(out / "results.csv")}


def test_doing_nothing_is_different_and_retraining_is_not(kit, cache, tmp_path, monkeypatch):
    nothing = {split: np.load(kit / f"logits/originals/{split}.npy") for split in Cube._fields}
    assert judge(kit, nothing, tmp_path / "nothing", cache, monkeypatch) == {"original": False, "unlearned": False}
    words = (*JUDGED.split(), "--methods", "retrain", "--out", tmp_path / "retrained", "--cache", cache)
    done = run_in_process(*words)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "retrained/logits/random-0/retrain.npz") as arrays:
        retrained = {split: arrays[split] for split in Cube._fields}
    assert judge(kit, retrained, tmp_path / "again", cache, monkeypatch) == {"original": False, "unlearned": True}


def test_what_a_kit_holds(kit):
    with np.load(kit / "data.npz") as file, np.load(kit / "labels.npz") as others:
        data, labels = dict(file), dict(others)
    assert data["x_train"].shape == (200, 8, 8, 1) and len(data["forget"]) == 20 and len(data["retain"]) == 60
    assert not set(data["forget"]) & set(data["retain"])
    for split in ("forget", "retain"):
        np.testing.assert_array_equal(labels[split], data["y_train"][data[split]])
    np.testing.assert_array_equal(labels["test"], data["y_test"])
    shapes = {path.parent.name: np.load(path).shape for path in kit.glob("logits/*/forget.npy")}
    assert shapes == {"originals": (8, 20, 10), "oracles": (16, 20, 10)}
    assert len([*(kit / "originals").iterdir()]) == 8 and not (kit / "originals-torch").exists()
    text = (kit / "README.md").read_text()
    assert "mlp of width 32" in text and "epochs=25" in text and "8 models are enough" in text and "{" not in text


def code(name):
    """An example of the guide."""
    text = (ROOT / "docs/external.md").read_text()
    (found,) = re.findall(rf"<!-- {name} -->\n```python\n(.*?)```", text, flags=re.DOTALL)
    return found


def test_the_guides_pytorch_gives_the_kits_logits(tmp_path, cache):
    """A network that does nothing says in PyTorch what the originals say in the kit."""
    torch = pytest.importorskip("torch")
    words = (*TINY.split(), "--model", "resnet8", "--width", "2", "--members", "2", "--train.epochs", "1", "--cache", cache)
    assert run_in_process("--exp", "export", *words, "--out", tmp_path).returncode == 0
    kit = tmp_path / "kit"
    assert "have no verdict, as these 2" in (kit / "README.md").read_text()
    given = {"kit": kit, "make": lambda: resnet(torch, (1, 1, 1), 2, 10, channels=1), "unlearn": lambda network, forget: network}
    exec(compile(code("logits") + code("kit"), "external.md", "exec"), given)
    for split in Cube._fields:
        mine, theirs = (np.load(kit / place / f"{split}.npy") for place in ("mine", "logits/originals"))
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)


def test_the_guide_writes_what_the_verdict_reads(tmp_path, cache, monkeypatch):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    y = {"x_train": torch.tensor(rng.normal(size=(40, 5)), dtype=torch.float32), "y_train": np.arange(40) % 3}
    given = {**y, "x_test": y["x_train"][:10], "y_test": y["y_train"][:10], "forget": np.arange(6)}

    def train(seed, rows):
        torch.manual_seed(seed)
        return torch.nn.Linear(5, 3)

    monkeypatch.chdir(tmp_path)
    given |= {"train": train, "unlearn": lambda network, forget: network}
    exec(
        compile(
            code("logits") + code("own").replace("n = np.arange(len(x_train)), 24", "n = np.arange(len(x_train)), 2"), "", "exec"
        ),
        given,
    )
    (command,) = re.findall(r"```bash\nunlearn-jax (.+)\n```", (ROOT / "docs/external.md").read_text())
    done = run_in_process(*shlex.split(command), "--smoke", "--device", "cpu", "--cache", cache)
    assert done.returncode == 0, done.stderr
    assert {row.n_oracles for row in read_results(tmp_path / "runs/mine/results.csv")} == {4}
