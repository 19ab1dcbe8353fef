"""`--exp score` on margins in EasyDUB's layout, by its protocol. The arrays are the test's own; none of EasyDUB's is here."""

import csv
import re
import shutil

import numpy as np
import pytest
from in_process import run_in_process

from unlearn_jax.metrics import klom

MODELS, TRAIN, VALIDATION, ROWS = 6, 30, 11, np.array([3, 7, 8, 21])
SPLITS = ("forget", "retain", "test")


def draw(seed, models, examples, shift=0.0):
    return np.random.default_rng(seed).normal(2 + shift, 1.5, (models, examples)).astype(np.float32)


WHOLE, VAL = draw(0, MODELS, TRAIN), draw(1, MODELS, VALIDATION)  # of the models trained on everything
WHOLE[:, ROWS] += 5
ORACLES = {
    "retain": draw(2, 2 * MODELS, TRAIN - len(ROWS)),
    "forget": draw(3, 2 * MODELS, 4),
    "val": draw(4, 2 * MODELS, VALIDATION),
}
UNLEARNED = {"forget": draw(5, MODELS, 4, 2.0), "retain": draw(6, MODELS, TRAIN), "test": draw(7, MODELS, VALIDATION)}


VAL_OF = "oracle/forget_2/val/resnet9"


def copy(root, of, to):
    """A file of margins in place of another one."""
    margins = root / "margins/cifar10"
    shutil.copy(margins / of, margins / to)


def rows(values):
    return lambda root: np.save(root / "forget_sets/cifar10/forget_set_2.npy", np.array(values))


def save(folder, margins):
    (folder / "resnet9").mkdir(parents=True)
    for number, of_model in enumerate(margins):
        np.save(folder / f"resnet9/id_{number}_epoch_23.npy", of_model)


@pytest.fixture
def root(tmp_path):
    margins = tmp_path / "EasyDUB-dataset/margins/cifar10"
    save(margins / "pretrain/retain", WHOLE)
    save(margins / "pretrain/val", VAL)
    save(margins / "pretrain/forget_2", WHOLE[:, ROWS])
    for split, of_split in ORACLES.items():
        save(margins / "oracle/forget_2" / split, of_split)
    sets = tmp_path / "EasyDUB-dataset/forget_sets/cifar10"
    sets.mkdir(parents=True)
    np.save(sets / "forget_set_2.npy", ROWS)
    np.savez(tmp_path / "unlearned.npz", **UNLEARNED)
    return tmp_path / "EasyDUB-dataset"


def run(root, *words, easydub_set="2", models=str(MODELS)):
    options = ("--oracles", root, "--easydub-models", models, *(("--easydub-set", easydub_set) if easydub_set else ()))
    out = ("--out", root.parent / "out", "--cache", root.parent / "cache")
    return run_in_process("--exp", "score", "--smoke", *options, *out, *words)


def by_hand(unlearned, oracles):
    """KLOM of one example without its largest margin, from NumPy's histogram."""
    low, high = min(unlearned.min(), oracles.min()), max(unlearned.max(), oracles.max())
    below = [side[side < high].astype(float) for side in (unlearned, oracles)]
    p, q = (np.histogram(side, 20, (float(low), float(high)))[0] / max(len(side), 1) for side in below)
    return sum(share * np.log(share / max(other, 1e-5)) for share, other in zip(p, q, strict=True) if share > 0)


def test_the_largest_margin_is_left_out_as_in_easydub():
    one, other = draw(8, 9, 25), draw(9, 14, 25)
    one[:, 0] = other[:, 0] = 3.0  # all alike
    one[:, 1], other[:, 1] = 5.0, np.arange(14)  # at the edge of a bin
    one[:, 2], other[:, 2] = 9.0, 1.0  # nothing is left of one side
    expected = [0.0, *(by_hand(one[:, example], other[:, example]) for example in range(1, 25))]
    np.testing.assert_allclose(klom(one, other, drop_largest=True), expected, atol=1e-12)
    assert (klom(one, other) != klom(one, other, drop_largest=True)).any()


def test_the_protocol_comes_of_the_files(root):
    done = run(root, "--unlearned", root.parent / "unlearned.npz")
    assert done.returncode == 0, done.stderr
    with (root.parent / "out/easydub.csv").open() as file:
        rows = {(row["method"], row["split"]): row for row in csv.DictReader(file)}
    kept = np.delete(np.arange(TRAIN), ROWS)
    oracles = dict(zip(SPLITS, (ORACLES["forget"], ORACLES["retain"], ORACLES["val"]), strict=True))
    original = dict(zip(SPLITS, (WHOLE[:, ROWS], WHOLE[:, kept], VAL), strict=True))
    unlearned = UNLEARNED | {"retain": UNLEARNED["retain"][:, kept]}
    for method, pool in (("original", original), ("unlearned", unlearned)):
        for split in SPLITS:
            each = [by_hand(pool[split][:, x], oracles[split][:MODELS, x]) for x in range(pool[split].shape[1])]
            row = rows[method, split]
            assert float(row["klom_p95"]) == pytest.approx(np.percentile(each, 95), abs=1e-9), (method, split)
            assert float(row["klom"]) == pytest.approx(np.mean(each), abs=1e-9)
            assert float(row["null_low"]) <= float(row["null_mean"]) <= float(row["null_high"])
            assert (row["models"], row["oracles"]) == (str(MODELS), str(2 * MODELS))
    p95 = [float(rows[method, "forget"]["klom_p95"]) for method in ("original", "unlearned")]
    assert p95[0] > float(rows["original", "forget"]["null_high"])  # the originals remember
    left = re.search(r"memory left (\S+) \(", (root.parent / "out/summary.md").read_text())
    assert left and 0.2 < float(left[1]) < 0.6  # 2 of 5 nats


def test_without_unlearned_models_and_with_few_oracles_there_is_no_null(root):
    for file in root.glob("margins/cifar10/oracle/forget_2/*/resnet9/id_9_epoch_23.npy"):
        file.unlink()
    done = run(root)
    assert done.returncode == 0, done.stderr
    with (root.parent / "out/easydub.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"original"} and {row["oracles"] for row in rows} == {"9"}
    assert {row["null_mean"] for row in rows} == {""}


def test_a_gap_in_one_split_and_too_few_models_for_an_interval_are_said(root):
    (root / f"margins/cifar10/{VAL_OF}/id_7_epoch_23.npy").unlink()
    said = f"no null: it needs 12 oracles, and only the first 7 are used, since {VAL_OF}/id_7_epoch_23.npy is missing"
    done = run(root)
    assert done.returncode == 0 and said in done.stdout, done.stderr
    assert said in (root.parent / "out/summary.md").read_text()
    few = run(root, "--unlearned", root.parent / "unlearned.npz", "--out", root.parent / "few", models="2")
    assert few.returncode == 0, few.stderr
    summary = (root.parent / "few/summary.md").read_text()
    assert "memory left not known, " in summary and "nan" not in summary and "inf" not in summary
    assert "no null" not in summary and "nothing is left" not in summary


def test_examples_without_margins_below_the_largest_are_counted(root):
    high = {split: margins.copy() for split, margins in UNLEARNED.items()}
    high["forget"][:, :3] += 1000  # above the clip: the largest of both sides in all models
    high["forget"][0, 2] = 0
    np.savez(root.parent / "high.npz", **high)
    done = run(root, "--unlearned", root.parent / "high.npz")
    said = "original 0 of 4 forget, 0 of 26 retain, 0 of 11 test; unlearned 2 of 4 forget, 0 of 26 retain, 0 of 11 test."
    assert done.returncode == 0 and said in done.stdout, done.stderr
    assert said in (root.parent / "out/summary.md").read_text()


WRONG = {
    "no set": (lambda root: None, {"easydub_set": ""}, "--easydub-set None: --oracles is EasyDUB's data set"),
    "other set": (
        lambda root: None,
        {"easydub_set": "3"},
        r"--oracles \S+: forget_sets/cifar10/forget_set_3.npy cannot be read",
    ),
    "too few": (
        lambda root: None,
        {"models": "7"},
        r"margins/\S+pretrain/forget_2\S+id_6\S+ cannot be read \(No such",
    ),
    "no folder": (
        lambda root: (root / "margins/cifar10").rename(root / "elsewhere"),
        {},
        "no folder with margins/cifar10",
    ),
    "logits": (
        lambda root: np.save(root / "margins/cifar10/oracle/forget_2/val/resnet9/id_1_epoch_23.npy", np.ones((11, 10))),
        {},
        r"id_1_epoch_23.npy is float64 \(11, 10\); expected finite margins",
    ),
    "other length": (
        lambda root: np.save(root / "margins/cifar10/oracle/forget_2/val/resnet9/id_1_epoch_23.npy", np.ones(9)),
        {},
        "id_1_epoch_23.npy has 9 margins, expected 11",
    ),
    "rows": (
        lambda root: np.save(root / "forget_sets/cifar10/forget_set_2.npy", np.ones((2, 2))),
        {},
        r"forget_set_2.npy is float64 \(2, 2\); expected the rows",
    ),
    "a row beyond integers": (rows(np.uint64([3, 7, 8, 2**64 - 1])), {}, r"uint64 \(4,\); expected the rows"),
    "an infinite row": (rows([3, 7, 8, np.inf]), {}, r"float64 \(4,\); expected the rows"),
    "a huge row": (rows([3, 7, 8, 1e300]), {}, r"float64 \(4,\); expected the rows"),
    "a row behind the last": (rows([3, 7, 8, 30]), {}, "--easydub-set 2: .* has row 30; expected rows from 0 to 29"),
    "a row twice": (rows([3, 7, 8, 8]), {}, "--easydub-set 2: .* has 4 rows, 3 of them different; expected 4"),
    "rows of another set": (
        rows([3, 7, 8, 22]),
        {},
        "--easydub-set 2: on 1 of 4 rows of forget_set_2.npy, pretrain/retain has other margins than pretrain/forget_2",
    ),
    "an oracle twice": (
        lambda root: copy(root, f"{VAL_OF}/id_2_epoch_23.npy", f"{VAL_OF}/id_9_epoch_23.npy"),
        {},
        "--oracles .*: oracle 9 has the same margins on test as oracle 2",
    ),
    "an original among the oracles": (
        lambda root: copy(root, f"{VAL_OF}/id_9_epoch_23.npy", "pretrain/val/resnet9/id_4_epoch_23.npy"),
        {},
        "--oracles .*: original 4 has the same margins on test as oracle 9",
    ),
    "text": (
        lambda root: (root / f"margins/cifar10/{VAL_OF}/id_1_epoch_23.npy").write_text("1.0, 2.0"),
        {},
        r"id_1_epoch_23.npy cannot be read \(no array of numbers\)$",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_that_layout_is_one_line(root, case):
    change, options, said = WRONG[case]
    change(root)
    done = run(root, **options)
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and line.startswith("benchmark.py: ") and re.search(said, line), line


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({**UNLEARNED, "test": UNLEARNED["test"][:, 1:]}, "--unlearned .*: test has margins of 10 examples, expected 11"),
        (
            {**UNLEARNED, "test": UNLEARNED["test"][:5]},
            r"--unlearned .*: test is float32 \(5, 11\); expected finite .*\[6",
        ),
        (
            {split: np.full_like(margins, 50) for split, margins in UNLEARNED.items()},
            "--unlearned .*: unlearned 0 has the margin 50 on every example of forget",
        ),
        (
            {**UNLEARNED, "forget": UNLEARNED["forget"][[0, 1, 2, 3, 4, 1]]},
            "--unlearned .*: unlearned 5 has the same margins on forget as unlearned 1",
        ),
        ({**UNLEARNED, "test": ORACLES["val"][3:9]}, "--unlearned .*: unlearned 0 has the same margins on test as oracle 3"),
    ],
)
def test_margins_of_others_are_one_line(root, arrays, said):
    np.savez(root.parent / "wrong.npz", **arrays)
    done = run(root, "--unlearned", root.parent / "wrong.npz")
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and re.search(said, line), line
    labels = run(root, "--labels", root.parent / "wrong.npz")
    assert labels.returncode == 2 and "not used with --easydub-set" in labels.stderr


def test_options_and_files_without_the_data_set_are_one_line(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text/forget.npy").write_text("1.0, 2.0")
    words = ("--exp", "score", "--smoke", "--labels", tmp_path / "text", "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    for more, said in ((("--easydub-models", "5"), "--easydub-models 5: only used with"), ((), r"\(no array of numbers\)$")):
        done = run_in_process(*words, *more)
        line = done.stderr.strip().splitlines()[-1]
        assert done.returncode == 2 and re.search(said, line), line
