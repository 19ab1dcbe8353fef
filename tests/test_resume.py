"""What a study keeps in its run folder: read where it is there, with what made it; made where it is not."""

import numpy as np
import pytest

from unlearn_jax import device
from unlearn_jax.bench.resume import load_or_make, load_or_make_all
from unlearn_jax.runs import Run

IDENTITY = {"seed": 0}


def never(*_):
    pytest.fail("done before")


def test_what_is_kept_says_what_made_it(tmp_path, monkeypatch, capsys):
    folder = Run(tmp_path)
    monkeypatch.setattr(device, "made_with", lambda: "jax 0.1, cpu")
    made = load_or_make(folder, "one.npz", IDENTITY, lambda: {"logits": np.arange(3)})
    assert str(made["made_with"]) == "jax 0.1, cpu" and not capsys.readouterr().err
    assert not load_or_make(folder, "one.npz", IDENTITY, never).keys() ^ made.keys() and not capsys.readouterr().err
    monkeypatch.undo()
    found = load_or_make(folder, "one.npz", IDENTITY, never)
    np.testing.assert_array_equal(found["logits"], np.arange(3))
    assert str(found["made_with"]) == "jax 0.1, cpu"
    assert f"one.npz: Part of this was computed with jax 0.1, cpu, not with {device.made_with()}." in capsys.readouterr().err
    other = load_or_make(folder, "one.npz", {"seed": 1}, lambda: {"logits": np.zeros(3)})
    assert str(other["made_with"]) == device.made_with() and not other["logits"].any()


def test_a_file_from_before_versions_were_kept_is_read_and_said_to_be_so(tmp_path, capsys):
    Run(tmp_path).keep("old.npz", IDENTITY, {"logits": np.arange(3)})
    found = load_or_make(Run(tmp_path), "old.npz", IDENTITY, never)
    np.testing.assert_array_equal(found["logits"], np.arange(3))
    assert "an unknown version" in capsys.readouterr().err


class Method:
    """An unlearner as far as it is compiled."""

    def __init__(self, name, done):
        self.name, self.done = name, done

    def compile(self):
        self.done.append(f"compile {self.name}")


def test_only_what_is_missing_is_made_and_compiled_before_the_first_is(tmp_path):
    folder, done = Run(tmp_path), []
    files = {name: (f"{name}.npz", {**IDENTITY, "method": name}) for name in ("original", "scrub", "ssd", "salun")}
    folder.keep(*files["ssd"], {"logits": np.array([7])})

    def begin(name):
        return None if name == "original" else Method(name, done)

    def make(name, method):
        done.append(f"make {name}")
        assert (method.name if method else "original") == name
        return {"logits": np.array([len(done)])}

    found = load_or_make_all(folder, files, begin, make)
    assert list(found) == list(files) and found["ssd"]["logits"] == [7]
    assert sorted(done[:2]) == ["compile salun", "compile scrub"] and done[2:] == ["make original", "make scrub", "make salun"]
    again = load_or_make_all(folder, files, never, never)
    assert {name: arrays["logits"].tolist() for name, arrays in again.items()} == {
        name: arrays["logits"].tolist() for name, arrays in found.items()
    }
