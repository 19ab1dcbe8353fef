"""`--exp score`: a verdict on logits that any framework wrote."""

import csv
import re

import numpy as np
import pytest
from in_process import run_in_process

from unlearn_jax import score
from unlearn_jax.metrics.views import Seen
from unlearn_jax.report.rows import read_results

SPLITS = ("forget", "retain", "test")
RNG = np.random.default_rng(0)
LABELS = {split: RNG.integers(0, 3, 20) for split in SPLITS}


def logits(members, shift=0.0):
    """Of models that are the surer of the forget set's labels the larger the shift."""
    cube = {split: RNG.normal(size=(members, 20, 3)) for split in SPLITS}
    cube["forget"] = cube["forget"] + shift * np.eye(3)[LABELS["forget"]]
    return cube


UNLEARNED, ORACLES, ORIGINALS = logits(8), logits(16), logits(8, 4.0)


@pytest.fixture
def files(tmp_path):
    """A folder of .npy files, and .npz files."""
    for name, arrays in {"unlearned": UNLEARNED, "oracles": ORACLES, "originals": ORIGINALS, "labels": LABELS}.items():
        (tmp_path / name).mkdir()
        for split, array in arrays.items():
            np.save(tmp_path / name / f"{split}.npy", array)
        np.savez(tmp_path / f"{name}.npz", **arrays)
    return tmp_path


def run(files, *words, suffix="", **paths):
    given = {name: files / f"{name}{suffix}" for name in ("unlearned", "oracles", "labels")} | paths
    options = [word for name, path in given.items() if path for word in (f"--{name}", path)]
    return run_in_process("--exp", "score", "--smoke", *options, "--out", files / "out", "--cache", files / "cache", *words)


def test_the_whole_verdict_comes_of_logits(files):
    done = run(files, originals=files / "originals.npz")
    assert done.returncode == 0, done.stderr
    rows = read_results(files / "out/results.csv")
    verdict = score(unlearned=UNLEARNED, oracles=ORACLES, labels=LABELS, originals=ORIGINALS, splits=20)
    effects = {"memory_left", "damage"}
    values = {(row.metric, row.split): row.value for row in rows if row.method == "unlearned"}
    assert {name: value for name, value in values.items() if name[0] not in effects} == {
        each.name: each.value for each in verdict.scores
    }
    assert values["memory_left", "forget"] == verdict.memory_left.value and values["damage", "all"] == verdict.damage.value
    assert {row.method: row.outcome for row in rows} == {"original": "different", "unlearned": verdict.outcome}
    assert {"summary.md", "summary.tex", "power.csv", "comparisons.csv", "results.json"} <= {
        path.name for path in (files / "out").iterdir()
    }
    assert "unlearned" in done.stdout and (files / "out/figures/loss_histograms.svg").exists()
    with (files / "out/power.csv").open() as file:
        assert {row["models"] for row in csv.DictReader(file)} == {"4", "8"}


def test_attacks_on_models_are_made_once_where_an_oracle_is_lost(files, monkeypatch):
    """Then one unlearned model fewer is compared, and it is of these that the attacks begin early."""
    broken = {split: array.copy() for split, array in ORACLES.items()}
    broken["forget"][0, 0, 0] = np.nan
    np.savez(files / "oracles.npz", **broken)
    attacked, attacks = [], Seen.attacks
    monkeypatch.setattr(Seen, "attacks", lambda seen, over: (attacked.append(len(seen.cube.forget)), attacks(seen, over))[1])
    assert run(files, oracles=files / "oracles.npz", originals=files / "originals.npz").returncode == 0
    assert sorted(attacked) == [7, 7, 15]


def test_originals_of_another_number_give_no_effect_sizes_and_a_line_says_why(files):
    np.savez(files / "fewer.npz", **{split: logits[:5] for split, logits in ORIGINALS.items()})
    assert run(files, originals=files / "fewer.npz").returncode == 0
    rows = read_results(files / "out/results.csv")
    assert not {row.metric for row in rows} & {"memory_left", "damage"}
    assert {row.method for row in rows} == {"original", "unlearned"}
    assert (
        "no memory left and no damage: they need as many originals as unlearned models" in (files / "out/summary.md").read_text()
    )


def test_folders_and_archives_are_the_same(files):
    assert run(files).returncode == 0
    first = (files / "out/results.csv").read_bytes()
    (files / "out/results.csv").unlink()
    done = run(files, "--out", files / "other", suffix=".npz")
    assert done.returncode == 0 and (files / "other/results.csv").read_bytes() == first


def test_models_that_are_not_finite_are_left_out_and_said(files):
    broken = {split: array.copy() for split, array in UNLEARNED.items()}
    broken["test"][3, 0, 0] = np.nan
    np.savez(files / "broken.npz", **broken)
    assert run(files, unlearned=files / "broken.npz").returncode == 0
    assert {row.n_members for row in read_results(files / "out/results.csv")} == {7}
    assert "7 of 8" in (files / "out/summary.md").read_text()


def without(arrays, split):
    return {name: array for name, array in arrays.items() if name != split}


@pytest.mark.parametrize(
    ("option", "arrays", "said"),
    [
        ("unlearned", None, "--unlearned None: a folder with forget.npy, retain.npy and test.npy"),
        ("oracles", {split: array[:3] for split, array in ORACLES.items()}, "8 unlearned models and 3 oracles are finite"),
        ("unlearned", without(UNLEARNED, "test"), "--unlearned .*: a folder .* is needed .*test"),
        ("unlearned", {**UNLEARNED, "test": UNLEARNED["test"][0]}, r"test is float64 \(20, 3\); expected floats \[models"),
        ("unlearned", {**UNLEARNED, "test": UNLEARNED["test"].astype(int)}, "test is int64 .*; expected floats"),
        ("unlearned", {**UNLEARNED, "test": UNLEARNED["test"][1:]}, "of different numbers of models or classes"),
        ("labels", {**LABELS, "retain": LABELS["retain"][1:]}, r"--labels .*: retain: .*shape \(19,\), as in --oracles"),
        ("labels", {**LABELS, "forget": LABELS["forget"] + 1}, "--labels .*: forget: 3 found, expected classes from 0 to 2"),
        ("oracles", {**ORACLES, "forget": np.array([[[{}]]], dtype=object)}, "--oracles .*no array of numbers"),
    ],
)
def test_what_is_no_logits_is_one_line(files, option, arrays, said):
    if arrays is not None:
        np.savez(files / "wrong.npz", **arrays)
    done = run(files, **{option: arrays and files / "wrong.npz"})
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("benchmark.py: ") and re.search(said, line), line


def test_oracles_that_know_the_forget_set_better_than_the_originals_are_refused(files):
    """The two were exchanged, or the labels are not those of training: an effect size would be one of something else."""
    done = run(files, oracles=files / "originals.npz", originals=files / "unlearned.npz", unlearned=files / "unlearned.npz")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert re.search(r"--oracles \S+: the oracles know the forget set better than the originals do", done.stderr), done.stderr
    with pytest.raises(ValueError, match=r"^oracles: the oracles know the forget set better"):
        score(unlearned=logits(4), oracles=logits(8, 4.0), labels=LABELS, originals=logits(4), splits=5)
    alike = score(unlearned=logits(4), oracles=logits(8), labels=LABELS, originals=logits(4), splits=5)  # nothing is remembered
    assert np.isnan(alike.memory_left.value)
