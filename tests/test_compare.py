"""`--exp compare`: finished runs beside each other."""

import csv
import json
import math
import os
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from in_process import run_in_process

from unlearn_jax.bench import compare
from unlearn_jax.bench.compare import Value, of_independent
from unlearn_jax.bench.experiments import EXPERIMENTS
from unlearn_jax.bench.finished import read
from unlearn_jax.bench.statistics import PART_FIELDS
from unlearn_jax.metrics.statistics import crossed_mean
from unlearn_jax.report.rows import Row, write_rows
from unlearn_jax.runs import Run, open_run

GROUPS, RNG = 8, np.random.default_rng(0)
NOISE = RNG.normal(size=(GROUPS, 3))  # of the originals on each forget set, in every run
CONFIG = {"exp": "unlearning", "out": None, "seed": 0, "train": {"epochs": 15}, "methods": ["original", "scrub"]}


def row(forget_set, method, metric, split, parts, members=8, oracles=16, null_sd=None):
    """A row, and the interval of its parts."""
    mean, low, high, _ = crossed_mean(parts.reshape(len(parts), -1))
    common = Row("unlearning", "digits", "mlp", forget_set, method, "F+R", metric, split, n_members=members, n_oracles=oracles)
    common = common._replace(null_mean=0.0, null_sd=null_sd)
    return common._replace(value=mean, value_low=low, value_high=high, deviation=mean / 2, evidence=0.0, inside=mean < 0.3)


def finish(
    folder,
    shift=0.0,
    sets=("random-0",),
    rows_of=None,
    seed=0,
    methods=("original", "scrub"),
    data="a" * 64,
    kept=True,
    members=8,
    oracles=16,
    null_sd=None,
    **config,
):
    """A finished run whose method scrub has its scores shifted."""
    run = open_run(folder, {**CONFIG, "forget_sets": len(sets), "methods": list(methods), **config, "seed": seed})
    rows, parts = [], []
    for metric, split in (("klom", "forget"), ("accuracy", "test")):
        for method in methods:
            of_method = NOISE[:, : len(sets)] * (1 + 0.1 * (method == "scrub")) + shift * (method == "scrub")
            for index, name in enumerate(sets):
                rows.append(row(name, method, metric, split, of_method[:, index], members, oracles, null_sd))
                parts.append((name, method, metric, split, of_method[:, index]))
    for name, listed in (rows_of or {name: name for name in sets}).items():
        run.write_text(f"forget_sets/{name}.txt", listed)
        identity = {"data": data, "seed": seed, "members": members, "recipe": config, "forget": listed, "retain_size": 200}
        run.keep(f"logits/{name}/{methods[0]}.npz", identity, {"forget": np.zeros(1)})
    rows.append(rows[0]._replace(metric="seconds", split="", value=1.5, value_low=None, value_high=None, deviation=None))
    write_rows(run, "results.csv", rows)
    if len(sets) > 1:
        names = dict.fromkeys((each.method, each.metric, each.split) for each in rows)
        whole = {name: np.array([part[-1] for part in parts if part[1:4] == name]).T for name in names}
        write_rows(
            run,
            "over_forget_sets.csv",
            [row(f"mean of {len(sets)}", *name, of_name) for name, of_name in whole.items() if of_name.size],
        )
    if kept:
        run.write_npz("parts.npz", dict(zip(PART_FIELDS, map(np.array, zip(*parts, strict=True)), strict=True)))
    return Path(folder)


def compared(tmp_path, *folders, out="out"):
    """What is printed; and the rows of compare.csv."""
    done = run_in_process("--exp", "compare", "--runs", *folders, "--out", tmp_path / out, "--cache", tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    with (tmp_path / out / "compare.csv").open() as file:
        return done.stdout, list(csv.DictReader(file))


def of_scrub(rows, metric="klom"):
    (found,) = [each for each in rows if (each["method"], each["metric"]) == ("scrub", metric)]
    return found


def test_runs_on_the_same_originals_and_forget_sets_are_paired(tmp_path):
    a, b = finish(tmp_path / "a"), finish(tmp_path / "b", 0.5, hyper=["scrub.alpha=0.9"])
    said, rows = compared(tmp_path, f"{a},{b}")
    assert {(each["baseline"], each["run"]) for each in rows} == {(str(a), str(b))} and len(rows) == 5
    found = of_scrub(rows)
    assert (
        float(found["difference"]) == pytest.approx(0.5) and found["paired"] == "False"
    )  # other recipes: not the same originals
    same = finish(tmp_path / "c", 0.5)
    said, rows = compared(tmp_path, a, same, out="out2")
    found = of_scrub(rows)
    assert found["paired"] == "True" and float(found["low"]) == pytest.approx(0.5) == float(found["high"])  # a constant shift
    assert [found["baseline_inside"], found["inside"]] == ["True", "False"] and float(found["z"]) > float(found["baseline_z"])
    assert [each["low"] for each in rows if each["metric"] == "seconds"] == [""]
    assert "KLOM on F (nats): 1 of 2 methods differ: scrub +0.5 (+0.5 to +0.5)" in said
    said, _ = compared(tmp_path, finish(tmp_path / "d"), a, out="out3")
    assert "5 of 5 differences are 0 or have no interval." in said and "By no main metric does a method differ." in said
    assert json.loads((tmp_path / "out/config.json").read_text())["about"] == EXPERIMENTS["compare"].about  # a page's title
    text = (tmp_path / "out2/summary.md").read_text()
    assert "Nothing: the configurations, hyperparameters and versions are the same." in text
    assert "Verdicts: not distinguished from retraining in A and different in B: scrub." in text
    assert "2 of 2 intervals exclude 0" in text and "paired by original model and forget set" in text


def test_without_common_originals_the_intervals_add_up(tmp_path):
    a, b = finish(tmp_path / "a"), finish(tmp_path / "b", 0.5, seed=1)
    found = of_scrub(compared(tmp_path, a, b)[1])
    one = row("", "scrub", "klom", "forget", NOISE[:, 0] * 1.1)
    reach = math.sqrt(2) * (one.value_high - one.value)
    assert [float(found[end]) for end in ("low", "high")] == pytest.approx([0.5 - reach, 0.5 + reach])
    assert found["paired"] == "False"
    old = finish(tmp_path / "old", 0.5, kept=False)  # the same originals, in a folder of an older version
    assert of_scrub(compared(tmp_path, a, old, out="out2")[1])["paired"] == "False"


def test_the_interval_of_a_difference_of_independent_values():
    one, other = Value(1.0, 0.0, 3.0, None, None), Value(5.0, 4.0, 5.5, None, None)
    assert of_independent(one, other) == pytest.approx((4 - math.hypot(1.0, 2.0), 4 + math.hypot(0.5, 1.0)))
    for unknown in (one._replace(low=None), one._replace(high=math.inf)):
        assert of_independent(unknown, other) is None and of_independent(other, unknown) is None


def test_it_covers_the_true_difference():
    """95 of 100 times, of independent means of eight."""
    rng, inside = np.random.default_rng(1), 0
    for _ in range(2000):
        values = []
        for spread in (1.0, 3.0):
            mean, low, high, _ = crossed_mean(rng.normal(size=(8, 1)) * spread)
            values.append(Value(mean, low, high, None, None))
        low, high = of_independent(*values)
        inside += low <= 0 <= high
    assert 0.94 < inside / 2000 < 0.97


UNIT = "z has another unit in each (null sd of KLOM on F (nats):"
Z = "), so that the same distance from the oracles is another z"


@pytest.mark.parametrize(
    ("other", "said", "difference"),
    [
        ({"sets": ("random-0", "random-1", "random-2")}, "other forget sets (2 and 3; compared on the 2 that both have)", True),
        ({"sets": ("random-1",)}, "other forget sets (2 and 1; compared on the 1 that both have)", True),
        ({"sets": ("x", "y"), "rows_of": {"x": "random-0", "y": "random-1"}}, None, True),  # the same under other names
        ({"sets": ("x",)}, "other forget sets (2 and 1; each run's own mean is compared)", False),
        ({"data": "b" * 64}, "other data (digits; fingerprints aaaaaaaa and bbbbbbbb)", False),
        ({"members": 4}, "other numbers of models (8 and 4), on which values such as KLOM depend: compare z", False),
        ({"null_sd": 0.1}, None, True),
        ({"null_sd": 0.25, "seed": 1}, f"{UNIT} 0.1 and 0.25, each of its own oracles{Z}", False),
        (
            {"null_sd": 0.2, "members": 4, "oracles": 8},
            "other numbers of models (8 and 4), on which values such as KLOM depend: compare z; "
            f"{UNIT} 0.1 of 8 models and 16 oracles and 0.2 of 4 models and 8 oracles{Z}",
            False,
        ),
        ({"methods": ("scrub", "ssd")}, "only A has original; only B has ssd", True),
    ],
)
def test_what_is_hard_to_compare_is_said_in_one_line_at_the_top(tmp_path, other, said, difference):
    a = finish(tmp_path / "a", sets=("random-0", "random-1"), null_sd=0.1 if "null_sd" in other else None)
    b = finish(tmp_path / "b", 0.5, **{"sets": ("random-0", "random-1"), **other})
    printed, rows = compared(tmp_path, a, b)
    first = printed.splitlines()[0]
    assert first == f"A and B: {said}." if said else first.startswith("A: ")
    assert (tmp_path / "out/summary.md").read_text().splitlines()[0] == first
    assert not said or f"<b>Careful.</b> {first}" in unescape((tmp_path / "out/report.html").read_text())
    assert (of_scrub(rows)["paired"] == "True") == difference
    if difference and other.get("sets", ("",))[0] != "random-1":
        assert float(of_scrub(rows)["difference"]) == pytest.approx(0.5)


def test_what_changed_is_a_table_of_options_hyperparameters_and_versions(tmp_path):
    a = finish(tmp_path / "a", cache="somewhere", methods=("original", "scrub"))
    b = finish(tmp_path / "b", train={"epochs": 20}, methods=("original", "scrub", "ssd"), plugin="mine.py")
    Run(a).write_json("hyperparameters.json", {"scrub": {"alpha": 0.1, "epochs": 3}})
    Run(b).write_json("hyperparameters.json", {"scrub": {"alpha": 0.2, "epochs": 3}, "ssd": {"dampening": 0.5}})
    facts = json.loads((b / "config.json").read_text())
    Run(b).record(versions={**facts["versions"], "jax": "0.1"})
    changed = compare.changes([read(a, "A"), read(b, "B")])
    assert changed.pop("versions.jax")[1] == "0.1" and changed == {
        "--train.epochs": ["15", "20"],
        "--methods": ["2 in common", "2 in common, ssd"],
        "--plugin": ["(absent)", "mine.py"],
        "scrub.alpha": ["0.1", "0.2"],
    }
    assert "| --train.epochs | 15 | 20 |" in (compared(tmp_path, a, b)[0] and (tmp_path / "out/summary.md").read_text())


def test_more_runs_are_compared_with_the_first(tmp_path):
    folders = [finish(tmp_path / name, shift) for name, shift in (("a", 0.0), ("b", 0.5), ("c", -0.5))]
    said, rows = compared(tmp_path, *folders)
    found = {each["run"]: float(each["difference"]) for each in rows if (each["method"], each["metric"]) == ("scrub", "klom")}
    assert found == pytest.approx({str(folders[1]): 0.5, str(folders[2]): -0.5})
    assert "\nB - A: " in said and "\nC - A: " in said


def broken(tmp_path, how):
    """A folder that is no finished run."""
    other = tmp_path / "b"
    if how == "file":
        other.write_text("")
    elif how != "none":
        finish(other)
        results = other / "results.csv"
        lines = results.read_text().splitlines(keepends=True)
        if how == "half":
            results.unlink()
        elif how == "cut":
            results.write_text("".join(lines)[:-50])
        elif how == "method":
            results.write_text("".join(line for line in lines if ",scrub," not in line))
        elif how == "sets":
            Run(other).record(config={**json.loads((other / "config.json").read_text())["config"], "forget_sets": 3})
        elif how == "columns":
            results.write_text("a,b\n1,2\n")
        elif how == "pipe":
            results.unlink()
            os.mkfifo(results)
        elif how == "json":
            (other / "config.json").write_text("[1]")
    return other


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("none", "holds no config.json; expected the folder of a finished run"),
        ("file", "expected the folder of a finished run (Not a directory)"),
        ("half", "holds no results.csv; expected the folder of a finished run"),
        ("cut", "expected the folder of a finished run ("),
        ("method", "is not finished: no results of scrub; run its command again with --out "),
        ("sets", "is not finished: no results on 2 forget sets; run its command again with --out "),
        ("columns", "expected the folder of a finished run ("),
        ("pipe", "expected the folder of a finished run (not a regular file)"),
        ("json", "expected the folder of a finished run ("),
    ],
)
def test_a_folder_that_holds_no_finished_run_is_one_line(tmp_path, how, said):
    a, other = finish(tmp_path / "a"), broken(tmp_path, how)
    done = run_in_process("--exp", "compare", "--runs", a, other, "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"benchmark.py: --runs {other}: {said}")


def test_runs_without_a_common_score_are_refused(tmp_path):
    a, other = finish(tmp_path / "a"), finish(tmp_path / "b", methods=("ssd",))
    shutil.rmtree(other / "logits")
    done = run_in_process("--exp", "compare", "--runs", a, other, "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    assert done.returncode == 2 and f"--runs {other}: has no method and metric in common with {a}" in done.stderr
