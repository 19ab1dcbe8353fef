"""The study of the verdict's power."""

import csv

import numpy as np
import pytest
from in_process import run_in_process

from experiments.power.deviations import DEVIATIONS, Drawn
from experiments.power.options import Config
from unlearn_jax.errors import ArgumentError
from unlearn_jax.metrics import scaled_logits
from unlearn_jax.types import Cube, Labels


def test_each_deviation_changes_what_it_says():
    rng = np.random.default_rng(0)
    labels = Labels(*(rng.integers(0, 3, size) for size in (20, 8, 6)))
    unlearned, originals, oracles = (Cube(*(rng.normal(size=(n, len(each), 3)) for each in labels)) for n in (8, 8, 16))
    drawn = Drawn(unlearned, originals, oracles, labels, rng)
    made = {name: deviate(drawn) for name, deviate in DEVIATIONS.items()}
    changed = {
        name: [(cube_split != split).any(-1) for cube_split, split in zip(cube, unlearned, strict=True)]
        for name, cube in made.items()
    }
    assert not any(split.any() for split in changed["none"])
    forget = changed["a tenth of F untouched"][0]
    assert forget.all(0).sum() == 2 and forget.sum() == 16
    rows = forget.all(0)
    np.testing.assert_array_equal(made["a tenth of F untouched"].forget[:, rows], originals.forget[:, rows])
    assert all(split[0].all() and not split[1:].any() for split in changed["one model not unlearned"])
    gap = scaled_logits(originals.forget, labels.forget).mean(0) - scaled_logits(oracles.forget, labels.forget).mean(0)
    assert np.flatnonzero(changed["most memorised example untouched"][0].all(0)).tolist() == [gap.argmax()]
    moved = scaled_logits(made["margins of F +0.2 sd"].forget, labels.forget) - scaled_logits(unlearned.forget, labels.forget)
    sd = scaled_logits(oracles.forget, labels.forget).std(0, ddof=1)
    np.testing.assert_allclose(moved, np.broadcast_to(0.2 * sd, moved.shape), atol=1e-9)
    assert changed["half of the models a tenth back"][2].all(1).tolist() == [True] * 4 + [False] * 4
    assert changed["noise on R"][1].all() and not changed["noise on R"][0].any()


def test_sizes_are_at_most_the_members():
    with pytest.raises(ArgumentError, match=r"^--sizes 8,16: expected numbers up to 12"):
        Config(members=12, sizes=(8, 16)).check()


def test_the_study_writes_its_tables(tmp_path):
    words = ("--exp", "power", "--smoke", "--device", "cpu", "--replicates", "1", "--train.epochs", "1")
    run_in_process(*words, "--out", tmp_path / "run", "--cache", tmp_path / "cache")
    rows = list(csv.DictReader((tmp_path / "run/power_of_verdict.csv").read_text().splitlines()))
    assert [row["deviation"] for row in rows] == [*DEVIATIONS] and {row["replicates"] for row in rows} == {"1"}
    for row in rows:
        assert float(row["low"]) <= float(row["share"]) == float(row["outside"]) <= float(row["high"])
    spread = list(csv.DictReader((tmp_path / "run/spread_of_z.csv").read_text().splitlines()))
    assert {"klom", "example_t", "outlier_distance"} <= {row["metric"] for row in spread}
    assert (tmp_path / "run/figures/power_of_verdict.svg").exists() and "| none |" in (tmp_path / "run/summary.md").read_text()
