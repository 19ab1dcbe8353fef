"""The main job as a person runs it: what it leaves, that it survives a kill, and that the same seed gives the same numbers."""

import contextlib
import csv
import errno
import gc
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from in_process import run_in_process

from unlearn_jax.bench import judging, sharing
from unlearn_jax.bench.tuned import tuned
from unlearn_jax.data import load
from unlearn_jax.data.sources import DEBIAN_FASHION_MNIST, digits
from unlearn_jax.errors import StorageError
from unlearn_jax.methods import METHODS as REGISTRY
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import accuracies, scaled_logits
from unlearn_jax.metrics.effects import effects
from unlearn_jax.report.rows import Row, read_results
from unlearn_jax.runs import Cache
from unlearn_jax.types import Cube, Labels

DEVICES = 2  # see conftest.py
ROOT = Path(__file__).parents[1]
METHODS = ("original", "retrain", "finetune", "scrub")
MEMBERS, ROWS, FORGET, RETAIN = 4, 300, 30, 200  # see bench.main_options.smoke
COLUMNS = (
    "experiment,dataset,model,forget_set,method,access,metric,split,value,value_low,value_high,"
    "null_mean,null_sd,null_low,null_high,z,n_members,n_oracles,seconds"
)
METRICS = {"accuracy", "klom", "klom_p95", "forgetting_quality", "tow", "average_gap", "svc_mia", "kl_to_oracle"}
COSTS = {"seconds", "compile_seconds", "rte", "examples", "rte_examples"}
EFFECTS = {"memory_left", "damage"}  # sizes without a null
CLOCKS = {"seconds", "compile_seconds", "rte"}  # the costs that differ from run to run


def command(out, cache, *words, methods=METHODS):
    options = ["--exp", "unlearning", "--smoke", "--device", "cpu", "--out", str(out), "--cache", str(cache)]
    return [sys.executable, "benchmark.py", *options, "--methods", ",".join(methods), *words]


def run(*arguments, **options):
    return run_in_process(*command(*arguments, **options)[2:])


def succeed(*arguments, **options):
    """What a run that ends well says: its results on stdout, its progress on stderr."""
    done = run(*arguments, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr
    return done


def succeed_in(out, *arguments, **options):
    """As `succeed`; the run folder instead of what was said."""
    succeed(out, *arguments, **options)
    return out


def rows_in(out):
    return read_results(out / "results.csv")


def numbers(rows):
    """All that the seed decides: no clock, and no name of a forget set."""
    return [row._replace(seconds=None, forget_set="") for row in rows if row.metric not in CLOCKS]


def npz(path):
    with np.load(path) as arrays:
        return dict(arrays)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Shared by all runs but those that start from nothing on purpose."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """A run from a cold start, and what it said. Others copy the folder before they touch it."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    done = subprocess.run(command(out, cache), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stdout + done.stderr
    return out, done.stdout


def test_the_run_folder_holds_what_scripts_expect(finished):
    out, said = finished
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    figures = ("quality_against_utility", "loss_histograms", "accuracy", "power", "metric_agreement")
    assert names == {
        *("config.json", "hyperparameters.json", "results.csv", "results.json", "summary.md", "summary.tex", "report.html"),
        *("power.csv", "comparisons.csv", "agreement.csv", "examples.csv", "models.csv", "curves.csv", "parts.npz"),
        *(f"figures/{name}.{kind}" for name in figures for kind in ("svg", "png")),
        *(f"logits/random-0/{name}.npz" for name in (*METHODS, "oracle", "labels")),
        "forget_sets/random-0.txt",
    }
    for name in names:
        start = (out / name).read_bytes()[:200]
        assert start.startswith(b"\x89PNG") if name.endswith("png") else start
        assert b"<?xml" in start or not name.endswith("svg")
    assert f"Results: {out}/" in said
    for method in METHODS:
        assert method in said
        assert method in (out / "summary.md").read_text()
        assert method in (out / "summary.tex").read_text()


def test_config_json_says_what_was_run_and_on_what(finished, cache):
    out, _ = finished
    found = json.loads((out / "config.json").read_text())
    assert set(found) == {"config", "versions", "device", "git", "command", "started", "earlier", "about"}
    assert {"python", "jax", "jaxlib", "flax", "optax", "numpy", "unlearn_jax"} == set(found["versions"])
    assert found["device"].startswith("cpu")
    assert "benchmark.py --exp unlearning --smoke" in found["command"]
    config = found["config"]
    assert (config["methods"], config["members"], config["seed"], config["smoke"]) == (list(METHODS), MEMBERS, 0, True)
    assert (config["train_size"], config["train"]["epochs"], config["forget"]["kind"]) == (ROWS, 2, "random")
    assert config["cache"] == str(cache)


def test_summary_md_shows_the_figures_the_hyperparameters_and_how_it_was_run(finished):
    out, _ = finished
    text = (out / "summary.md").read_text()
    linked = re.findall(r"\]\(([^)]+)\)", text)
    assert {Path(name).stem for name in linked} == {path.stem for path in (out / "figures").iterdir()}
    assert "figures/quality_against_utility.png" in linked and all((out / name).is_file() for name in linked)
    heading, _, *lines = re.findall(r"^\|.*\|$", text.partition("## Hyperparameters")[2], flags=re.MULTILINE)
    cells = {line.split(" | ")[0].removeprefix("| "): line.removesuffix(" |").split(" | ")[1:] for line in lines}
    kinds = ("by default", "the search's budget, which it did not vary", "tuned for the data set (`unlearn_jax/bench/tuned/`)")
    assert heading == f"| method | {' | '.join(kinds)} | given (`--hyper`, `--smoke`) |"
    assert set(cells) == set(METHODS) and cells["scrub"][1] == "batch_size=64" and cells["scrub"][3] == "epochs=1"
    assert {name.split("=")[0] for name in cells["scrub"][2].split(", ")} == set(REGISTRY["scrub"].search)
    named = dict(each.split("=") for cell in cells["scrub"] for each in cell.split(", "))
    used = json.loads((out / "hyperparameters.json").read_text())["scrub"]
    assert {name: json.loads(value) for name, value in named.items()} == used
    config = json.loads((out / "config.json").read_text())
    assert "Seed 0." in text and f"```bash\n{config['command']}\n```" in text


def test_curves_csv_has_every_pool_by_epoch(finished):
    rows = table(finished[0] / "curves.csv")
    pools = [("original", ""), ("oracle", "random-0"), ("retrain", "random-0")]
    assert [(row["role"], row["forget_set"]) for row in rows] == [pool for pool in pools for _ in range(2)]
    assert [row["epoch"] for row in rows] == ["1", "2"] * 3
    assert {row["role"]: int(row["members"]) for row in rows} == {"original": MEMBERS, "oracle": 2 * MEMBERS, "retrain": MEMBERS}
    for row in rows:
        assert 0 < float(row["loss_low"]) <= float(row["loss"]) <= float(row["loss_high"])
        assert 0 <= float(row["accuracy_low"]) <= float(row["accuracy"]) <= float(row["accuracy_high"]) <= 100


def test_config_json_repeats_a_run_in_a_folder_of_its_own(finished, cache, tmp_path):
    out, _ = finished
    words = ("--config", str(out / "config.json"), "--cache", str(cache), "--out", str(tmp_path / "again"))
    done = run_in_process(*words, "--hyper", "scrub.alpha=0.9")
    assert done.returncode == 0, done.stderr
    of_scrub = [[row for row in numbers(rows_in(folder)) if row.method == "scrub"] for folder in (out, tmp_path / "again")]
    others = [[row for row in numbers(rows_in(folder)) if row.method != "scrub"] for folder in (out, tmp_path / "again")]
    assert others[0] == others[1] and of_scrub[0] != of_scrub[1]
    assert (tmp_path / "again/curves.csv").read_bytes() == (out / "curves.csv").read_bytes()
    done = run_in_process("--exp", "compare", "--runs", out, tmp_path / "again", "--out", tmp_path / "compared")
    assert done.returncode == 0, done.stderr
    rows = [row for row in table(tmp_path / "compared/compare.csv") if row["baseline_z"]]
    assert {row["method"] for row in rows if float(row["difference"])} == {"scrub"}
    assert {row["paired"] for row in rows} == {"True"}
    assert f"| scrub.alpha | {tuned('digits')['scrub']['alpha']} | 0.9 |" in (tmp_path / "compared/summary.md").read_text()


def test_every_example_of_the_forget_set_by_every_method(finished):
    out, _ = finished
    rows = table(out / "examples.csv")
    labels = np.load(out / "logits/random-0/labels.npz")
    data = load("digits", train_size=ROWS, label_noise=0.1)
    clean = dict(zip(data.published.train.tolist(), data.clean_labels.tolist(), strict=True))
    for name in ("oracle", "original", "scrub"):
        logits = np.load(out / f"logits/random-0/{name}.npz")["forget"].astype(np.float64)
        own = [row for row in rows if row["method"] == name]
        assert [int(row["row"]) for row in own] == labels["forget_rows"].tolist()
        assert [int(row["label"]) for row in own] == labels["forget"].tolist()
        assert [int(row["clean_label"]) for row in own] == [clean[int(row["row"])] for row in own]
        right = (logits.argmax(-1) == labels["forget"]).mean(0)
        np.testing.assert_allclose([float(row["right"]) for row in own], right)
        of_label = np.take_along_axis(logits, labels["forget"][None, :, None], -1)[..., 0]
        others = np.where(np.arange(10) == labels["forget"][None, :, None], -np.inf, logits)
        margins = of_label - np.logaddexp.reduce(others, axis=-1)
        np.testing.assert_allclose([float(row["margin"]) for row in own], margins.mean(0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose([float(row["margin_sd"]) for row in own], margins.std(0, ddof=1), rtol=1e-3, atol=1e-4)
    shares = {name: np.array([float(row["right"]) for row in rows if row["method"] == name]) for name in ("original", "oracle")}
    gap = shares["original"] - shares["oracle"]
    said = re.sub(r"\s+", " ", (out / "summary.md").read_text())
    if gap.sum() > 0:
        assert f"{100 * gap.mean():.1f} points above the oracles'; {gap[gap >= 0.2].sum() / gap.sum():.0%} of this gap" in said


def test_results_csv_is_tidy(finished):
    out, _ = finished
    header, *lines = (out / "results.csv").read_text().splitlines()
    assert header == f"{COLUMNS},deviation,evidence,band,inside,outcome"
    assert not any("nan" in line or "inf" in ",".join(line.split(",")[: COLUMNS.count(",") + 1]) for line in lines)
    rows = rows_in(out)
    assert {row.inside for row in rows} == {None} and all(row.band > 0 for row in rows)  # too few models for a verdict
    assert all((row.evidence is None) == (row.deviation is None) == (row.metric in COSTS | EFFECTS) for row in rows)
    assert {row.method for row in rows} == set(METHODS)
    assert len({(row.method, row.metric, row.split) for row in rows}) == len(rows)
    by_method = [{(row.metric, row.split) for row in rows if row.method == method} for method in METHODS]
    assert all(names == by_method[0] for names in by_method)
    assert {row.metric for row in rows} >= METRICS | COSTS
    assert {row.split for row in rows if row.metric == "accuracy"} == {"forget", "retain", "test"}
    for row in rows:
        assert (row.experiment, row.dataset, row.model, row.forget_set) == ("unlearning", "digits", "mlp", "random-0")
        assert (row.n_members, row.n_oracles) == (MEMBERS, 2 * MEMBERS)
        assert row.value is not None
    assert {row.access for row in rows if row.method == "scrub"} == {"F+R"}


def test_every_metric_has_its_null_and_z_is_left_out_only_where_the_null_has_no_spread(finished):
    rows = rows_in(finished[0])
    for row in rows:
        null = (row.null_mean, row.null_sd, row.null_low, row.null_high)
        if row.metric in COSTS | EFFECTS:
            assert null == (None,) * 4
            assert row.z is None and (row.metric in COSTS or row.value_low <= row.value <= row.value_high)
            continue
        assert None not in null
        rounding = 1e-9
        assert row.null_low - rounding <= row.null_mean <= row.null_high + rounding
        assert row.value_low - rounding <= row.value <= row.value_high + rounding
        if row.null_sd == 0:
            assert row.z is None
        else:
            assert row.z == pytest.approx((row.value - row.null_mean) / row.null_sd, rel=1e-6, abs=1e-9)
    nulls = {(row.metric, row.split): row[11:15] for row in rows if row.method == "retrain"}
    assert all(row[11:15] == nulls[row.metric, row.split] for row in rows)  # as many members each: one null for all


def test_the_effect_sizes_are_those_of_the_logits(finished):
    out, _ = finished
    saved = npz(out / "logits/random-0/labels.npz")
    pools = {name: npz(out / f"logits/random-0/{name}.npz") for name in ("original", "scrub", "oracle")}
    of = {name: {split: scaled_logits(pool[split], saved[split]) for split in Labels._fields} for name, pool in pools.items()}
    expected = effects(of["scrub"], of["original"], of["oracle"])
    found = {(row.method, row.metric, row.split): row.value for row in rows_in(out)}
    said = re.sub(r"\s+", " ", (out / "summary.md").read_text())
    if np.isnan(expected.memory_left.value):  # it depends on the machine's rounding whether such small models remember anything
        assert not any(metric in EFFECTS for _, metric, _ in found)
        assert "random-0: what the originals' margins on F remember is too little to measure" in said
        return
    assert found["scrub", "memory_left", "forget"] == pytest.approx(expected.memory_left.value)
    assert found["scrub", "damage", "all"] == pytest.approx(expected.damage.value)
    assert found["scrub", "damage", "retain"] == pytest.approx(expected.of_split["retain"].value)
    assert found["original", "memory_left", "forget"] == 1 and abs(found["original", "damage", "all"]) < 1e-6
    assert (out / "figures/memory_against_damage.png").exists()
    assert "memory left: the share of what the originals remember of F" in said


def test_results_json_holds_the_same_rows_and_the_bands(finished):
    out, _ = finished
    found = json.loads((out / "results.json").read_text())
    assert [Row(**row) for row in found["rows"]] == rows_in(out)
    assert set(found["bands"]) == {"random-0"}
    assert found["bands"]["random-0"] > 0
    assert found["diverged"] == {f"random-0/{name}": [] for name in (*METHODS, "oracle")}


def test_logits_and_labels_give_the_accuracies_of_the_table(finished):
    out, _ = finished
    saved = npz(out / "logits/random-0/labels.npz")
    listed = [int(line) for line in (out / "forget_sets/random-0.txt").read_text().split()]
    assert listed == saved["forget_rows"].tolist() == sorted(set(listed))
    assert (len(listed), len(saved["retain_rows"])) == (FORGET, RETAIN)
    assert not set(listed) & set(saved["retain_rows"].tolist())
    data, (published, _) = load("digits", train_size=ROWS, label_noise=0.1), digits()
    clean = dict(zip(data.published.train, data.clean_labels, strict=True))
    assert [clean[row] for row in listed] == published.labels[listed].tolist()  # numbers of the published training set
    noisy = dict(zip(data.published.train, data.train.labels, strict=True))
    assert [noisy[row] for row in listed] == saved["forget"].tolist()
    assert [noisy[row] for row in saved["retain_rows"]] == saved["retain"].tolist()
    labels = Labels(*(saved[split] for split in Labels._fields))
    oracle = npz(out / "logits/random-0/oracle.npz")
    assert len(oracle["forget"]) == 2 * MEMBERS
    for method in METHODS:
        logits = npz(out / f"logits/random-0/{method}.npz")
        cube = Cube(*(logits[split] for split in Cube._fields))
        assert [part.shape for part in cube] == [(MEMBERS, len(own), 10) for own in labels]
        for split, shares in accuracies(cube, labels)._asdict().items():
            (row,) = (r for r in rows_in(out) if (r.method, r.metric, r.split) == (method, "accuracy", split))
            assert row.value == pytest.approx(shares.mean())
    assert not np.allclose(npz(out / "logits/random-0/retrain.npz")["test"], oracle["test"][:MEMBERS])  # keys of its own


def test_costs_are_plausible(finished):
    costs = {(row.method, row.metric): row.value for row in rows_in(finished[0]) if row.metric in COSTS}
    assert all(costs["original", metric] == 0 for metric in COSTS)
    assert costs["retrain", "rte_examples"] == 1
    assert costs["retrain", "examples"] == pytest.approx(2 * 256, rel=0.02)  # two epochs of four batches, of 270
    assert costs["finetune", "examples"] == pytest.approx(256, rel=0.02)  # one epoch
    for method in METHODS[1:]:
        assert costs[method, "seconds"] > 0
        for relative, of in (("rte", "seconds"), ("rte_examples", "examples")):
            retraining = costs["retrain", of] / costs["retrain", relative]  # of the oracles
            assert costs[method, relative] == pytest.approx(costs[method, of] / retraining)


def test_the_forget_set_can_be_fed_back_as_a_file(finished, cache, tmp_path):
    """The same rows, hence the same pools from the cache, and the same numbers in another folder."""
    out, _ = finished
    file = out / "forget_sets/random-0.txt"
    done = succeed(tmp_path / "again", cache, "--forget.kind", "file", "--forget.file", str(file))
    assert (tmp_path / "again/forget_sets/file-0.txt").read_text() == file.read_text()
    ours, theirs = ({(r.method, r.metric, r.split): r for r in numbers(rows_in(each))} for each in (tmp_path / "again", out))
    assert ours.keys() == theirs.keys()
    own_keys = {"finetune", "scrub"}  # which depend on the forget set's name
    assert all(ours[key] == theirs[key] for key in ours if key[0] not in own_keys)
    assert "compiling: 2 of 2 methods" in done.stderr
    assert len(list((cache / "pools").iterdir())) == 3  # originals, oracles, retrained: none was trained again


def test_wrong_labels_are_forgotten_and_what_that_repairs_is_measured(cache, tmp_path):
    succeed(tmp_path / "out", cache, "--forget.kind", "mislabelled", methods=["original", "retrain"])
    rows = {(row.method, row.metric): row for row in rows_in(tmp_path / "out") if row.split == "forget"}
    data = load("digits", train_size=300, label_noise=0.1)
    wrong = data.train.labels != data.clean_labels
    for method in ("original", "retrain"):
        logits = np.load(tmp_path / f"out/logits/mislabelled-0/{method}.npz")["forget"]
        right = 100 * (logits.argmax(-1) == data.clean_labels[wrong]).mean()
        assert rows[method, "accuracy_repaired"].value == pytest.approx(right)


def test_the_most_memorised_are_forgotten(cache, tmp_path):
    words = ("--forget.kind", "memorised", "--forget.size", "20", "--forget.models", "8", "--train.epochs", "40")
    succeed(tmp_path / "out", cache, *words, methods=["original", "retrain"])
    accuracy = {row.split: row.value for row in rows_in(tmp_path / "out") if (row.method, row.metric) == ("retrain", "accuracy")}
    assert accuracy["forget"] < accuracy["test"] - 20  # what only those say that trained on it


def test_another_forget_set_in_the_same_file_is_not_scored_by_the_old_logits(cache, tmp_path):
    rows, out, fresh = tmp_path / "rows.txt", tmp_path / "out", tmp_path / "fresh"
    words = ("--forget.kind", "file", "--forget.file", str(rows))
    numbers_of = load("digits", train_size=ROWS, label_noise=0.1).published.train
    rows.write_text("\n".join(map(str, numbers_of[:30])))
    succeed(out, cache, *words, methods=["original"])
    rows.write_text("\n".join(map(str, numbers_of[100:140])))
    succeed(out, cache, *words, methods=["original"])
    succeed(fresh, cache, *words, methods=["original"])
    assert numbers(rows_in(out)) == numbers(rows_in(fresh))


def kill_when(arguments, appears):
    """Start a run in a process group of its own and kill the group as soon as a file appears."""
    process = subprocess.Popen(
        command(*arguments), cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 300
        while not appears.exists():
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_killed_run_goes_on_to_the_numbers_of_one_that_was_not(finished, tmp_path):
    """Another cache and another folder: two fresh runs of one seed agree too, then."""
    out, cache = tmp_path / "killed", tmp_path / "cache"
    first = out / "logits/random-0/original.npz"
    kill_when((out, cache), first)
    assert not (out / "results.csv").exists()
    before = first.read_bytes()
    assert "original models: 4 members" in succeed(out, cache).stderr
    assert first.read_bytes() == before
    assert numbers(rows_in(out)) == numbers(rows_in(finished[0]))
    assert (out / "curves.csv").read_bytes() == (finished[0] / "curves.csv").read_bytes()
    for method in METHODS:
        ours, theirs = (npz(folder / f"logits/random-0/{method}.npz") for folder in (out, finished[0]))
        for split in Cube._fields:
            np.testing.assert_array_equal(ours[split], theirs[split])
    assert len(json.loads((out / "config.json").read_text())["earlier"]) == 1
    assert not [path for path in out.rglob("*") if path.name.endswith(".part")]


@pytest.fixture()
def unlearned(monkeypatch):
    """How many times this process has applied a method."""
    times, apply = [], Unlearner.apply
    monkeypatch.setattr(Unlearner, "apply", lambda *arguments: (times.append(1), apply(*arguments))[1])
    return times


@pytest.fixture()
def measured(monkeypatch):
    """How many times this process has made the metrics that need more than logits."""
    times, measure = [], judging.measure_models
    monkeypatch.setattr(judging, "measure_models", lambda *arguments: (times.append(1), measure(*arguments))[1])
    return times


def test_what_methods_made_is_found_by_a_run_in_another_folder(finished, cache, tmp_path, unlearned, measured):
    out = tmp_path / "again"
    succeed(out, cache)
    assert not unlearned and not measured
    assert numbers(rows_in(out)) == numbers(rows_in(finished[0]))
    clocks = {(row.method, row.metric, row.value) for row in rows_in(out) if row.metric in CLOCKS}
    assert clocks <= {(row.method, row.metric, row.value) for row in rows_in(finished[0])}  # of the run that made it
    assert (out / "curves.csv").read_bytes() == (finished[0] / "curves.csv").read_bytes()
    for method in METHODS:
        ours, theirs = (npz(folder / f"logits/random-0/{method}.npz") for folder in (out, finished[0]))
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in Cube._fields)
    unlearned_before = (out / "logits/random-0/scrub.npz").read_bytes()
    succeed(out, tmp_path / "no cache")  # the folder alone suffices
    assert (out / "logits/random-0/scrub.npz").read_bytes() == unlearned_before


def test_what_no_run_has_used_for_long_is_removed(finished, cache, tmp_path):
    copied = tmp_path / "cache"
    shutil.copytree(cache, copied)
    entries = {path.parents[2] for path in copied.glob("logits/*/logits/random-0/*.npz")}
    method = {path.stem: path.parents[2] for path in copied.glob("logits/*/logits/random-0/*.npz")}
    mine = copied / "logits" / "notes"
    mine.mkdir()
    for path in (*entries, mine):
        os.utime(path, (0, 0))
    sharing._remove_unused.cache_clear()
    succeed(tmp_path / "used", copied, methods=("original", "finetune"))
    assert {path for path in entries if path.stat().st_mtime > 0} >= {method["finetune"]}  # it was found
    assert mine.is_dir() and all(path.is_dir() for path in entries)  # nothing was added
    sharing._remove_unused.cache_clear()
    succeed(tmp_path / "made", copied, "--hyper", "finetune.learning_rate=0.0123", methods=("original", "finetune"))
    assert mine.is_dir() and method["finetune"].is_dir() and not method["scrub"].exists()
    assert len([*copied.glob("logits/*/logits/random-0/finetune.npz")]) == 2


@pytest.mark.parametrize(
    "changed", ["the code", "a hyperparameter", "a damaged file", "the models are to be written", "its clocks"]
)
def test_what_methods_made_is_made_anew_where_it_may_differ(finished, cache, tmp_path, unlearned, monkeypatch, changed):
    copied, out = tmp_path / "cache", tmp_path / "out"
    shutil.copytree(cache, copied)
    words = {"a hyperparameter": ("--hyper", "scrub.alpha=0.123"), "the models are to be written": ("--save-models",)}
    words["its clocks"] = ("--chunk", "2")
    if changed == "the code":
        monkeypatch.setattr("unlearn_jax.bench.sharing.own_source", lambda: "of another version")
    if changed == "a damaged file":
        for path in copied.glob("logits/*/logits/random-0/scrub.npz"):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
    done = succeed(out, copied, *words.get(changed, ()))
    assert len(unlearned) == (1 if changed in ("a hyperparameter", "a damaged file") else 2)
    assert ("scrub.npz: damaged" in done.stderr) == (changed == "a damaged file")
    same = numbers(rows_in(out)) == numbers(rows_in(finished[0]))
    assert same == (changed != "a hyperparameter")
    unlearned.clear()
    if changed == "a hyperparameter":  # both settings are there now
        assert numbers(rows_in(succeed_in(tmp_path / "back", copied))) == numbers(rows_in(finished[0]))
        assert not unlearned


def test_where_the_cache_cannot_be_written_a_run_keeps_what_methods_made_to_itself(
    finished, cache, tmp_path, unlearned, monkeypatch
):
    copied, out = tmp_path / "cache", tmp_path / "out"
    shutil.copytree(cache, copied)
    shutil.rmtree(copied / "logits")
    keep = Cache.keep

    def full(folder, *arguments):
        if isinstance(folder, Cache):
            raise StorageError("cache", folder.folder, OSError(errno.ENOSPC, "No space left on device"))
        return keep(folder, *arguments)

    monkeypatch.setattr(Cache, "keep", full)
    succeed(out, copied)
    assert len(unlearned) == 2
    assert numbers(rows_in(out)) == numbers(rows_in(finished[0]))
    assert not list(copied.glob("logits/**/*.npz"))


def test_a_run_is_extended_by_a_method_and_keeps_what_it_has(finished, cache, tmp_path):
    """By an ensemble: its variables are not those of the model, and yet every metric has a value."""
    out = tmp_path / "extended"
    shutil.copytree(finished[0], out)
    done = succeed(out, cache, methods=(*METHODS, "sisa"))
    assert "compiling: 1 of 1 methods" in done.stderr
    rows = rows_in(out)
    assert [row for row in rows if row.method != "sisa"] == rows_in(finished[0])  # clocks included
    assert {row.metric for row in rows if row.method == "sisa"} == {row.metric for row in rows}
    for method in METHODS:
        name = f"logits/random-0/{method}.npz"
        assert (out / name).read_bytes() == (finished[0] / name).read_bytes()
    assert "sisa" in (out / "summary.md").read_text()
    assert (out / "curves.csv").read_bytes() == (finished[0] / "curves.csv").read_bytes()


@pytest.mark.parametrize(
    ("words", "options", "field"),
    [
        (("--seed", "1"), {}, "seed is 0 there and 1 here"),
        ((), {"methods": METHODS[:2]}, "methods is "),
        (("--members", "3"), {}, "members is 4 there and 3 here"),
    ],
)
def test_a_configuration_that_contradicts_the_folder_is_refused_and_nothing_changes(finished, cache, words, options, field):
    out, _ = finished
    before = contents(out)
    done = run(out, cache, *words, **options)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"benchmark.py: --out {out}: contains results of another configuration: {field}")
    assert contents(out) == before


def test_a_method_that_diverges_is_named_and_never_averaged(finished, cache, tmp_path):
    out = tmp_path / "diverged"
    words = ("--hyper", "gradient_ascent.learning_rate=1e30")
    done = succeed(out, cache, *words, methods=("original", "gradient_ascent"))
    assert (
        "gradient_ascent: 0 of 4 models (4 diverged: random-0 #0, random-0 #1, random-0 #2, random-0 #3); never marked"
        in (out / "summary.md").read_text()
    )
    assert "4 diverged" in done.stdout
    assert json.loads((out / "results.json").read_text())["diverged"]["random-0/gradient_ascent"] == [0, 1, 2, 3]
    lost = [row for row in rows_in(out) if row.method == "gradient_ascent"]
    assert {row.metric for row in lost} == COSTS
    assert {row.n_members for row in lost} == {0}
    kept = [row for row in numbers(rows_in(out)) if row.method == "original"]
    assert kept == [row for row in numbers(rows_in(finished[0])) if row.method == "original"]


def test_models_that_diverge_are_a_mistake_in_one_line(cache, tmp_path):
    done = run(tmp_path / "out", cache, "--train.learning-rate", "1e30", methods=("original",))
    assert done.returncode == 2
    said = "4 of 4 original models diverged and at least 2 must be left; try a smaller learning rate"
    assert done.stderr.splitlines()[-1] == f"benchmark.py: --train.learning-rate 1e+30: {said}"
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out/results.csv").exists()


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_several_forget_sets_and_seeds_tell_where_the_variance_comes_from(finished, cache, tmp_path):
    out = tmp_path / "sets"
    shutil.copytree(finished[0], out)
    done = succeed(out, cache, "--forget-sets", "2", "--unlearning-seeds", "2")
    rows = rows_in(out)
    assert [row for row in rows if row.forget_set == "random-0"] == rows_in(finished[0])  # extended, not changed
    pooled = {(row.method, row.metric, row.split): row for row in read_results(out / "over_forget_sets.csv")}
    apart = {key: [row for row in rows if (row.method, row.metric, row.split) == key] for key in pooled}
    assert len(rows) == 2 * len(pooled)
    for key, row in pooled.items():
        assert row.forget_set == "mean of 2"
        values = np.array([each.value for each in apart[key]])
        if row.metric == "damage":  # the mean is of squares
            assert np.copysign(row.value**2, row.value) == pytest.approx(np.mean(np.copysign(values**2, values)))
            continue
        assert row.value == pytest.approx(values.mean())
        if row.metric not in COSTS | EFFECTS:
            assert row.null_mean == pytest.approx(np.mean([each.null_mean for each in apart[key]]))
            assert row.null_sd < max(each.null_sd for each in apart[key]) or row.null_sd == 0
    assert "mean of 2" in done.stdout and "band" in (out / "summary.md").read_text()
    variance = {(row["method"], row["component"]): row for row in table(out / "variance.csv") if row["metric"] == "accuracy"}
    assert {part for _, part in variance} == {"original", "forget_set", "interaction", "seed"}
    assert float(variance["original", "seed"]["variance"]) == 0 < float(variance["retrain", "seed"]["variance"])
    assert (out / "figures/variance.png").exists()
    first, second = (npz(out / f"logits/random-0/scrub{seed}.npz")["test"] for seed in ("", "-seed1"))
    assert not np.array_equal(first, second)
    pairs = table(out / "comparisons.csv")
    assert {(row["first"], row["second"]) for row in pairs} == set(itertools.combinations(METHODS, 2))


def test_members_auto_takes_as_many_as_the_difference_needs(cache, tmp_path):
    out = tmp_path / "auto"
    words = ("--members", "auto", "--auto.difference", "12", "--auto.most", "20")
    said = succeed(out, cache, *words, methods=["original"]).stdout
    chosen = json.loads((out / "config.json").read_text())["members"]
    assert f"{chosen} models make a difference of" in said
    assert chosen == 20 or (f"{chosen} models make a difference of {seen(out, chosen):.3g}" in said and seen(out, chosen) <= 12)
    assert {row.n_members for row in rows_in(out)} == {chosen}
    done = run(tmp_path / "wrong", cache, "--members", "auto", "--auto.metric", "tow", methods=["original"])
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("benchmark.py: --auto.metric tow: expected a metric on forget: ")


def seen(out, models):
    """The difference in accuracy on the forget set that power.csv says is visible with so many models."""
    wanted = ("accuracy", "forget", str(models))
    (row,) = (row for row in table(out / "power.csv") if (row["metric"], row["split"], row["models"]) == wanted)
    return float(row["visible"])


def test_one_run_after_another_in_a_process_takes_no_more_memory_threads_or_files(cache, tmp_path):
    def held():
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, *(len(os.listdir(f"/proc/self/{kind}")) for kind in ("task", "fd"))

    def runs(*numbers):
        for number in numbers:
            succeed(tmp_path / str(number), cache, methods=["original"])
        return held()

    memory, threads, files = runs(0, 1)
    memory_now, threads_now, files_now = runs(2, 3)
    assert memory_now < memory + 30  # MiB; 2 to 5 a run, most of it what JAX remembers of programs
    assert threads_now <= threads + 1  # one of them may be of a pool that is just ending
    assert files_now <= files


@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_real_fashion_mnist(cache, tmp_path):
    out = tmp_path / "fashion"
    succeed(out, cache, "--dataset", "fashion_mnist", methods=METHODS[:3])
    saved = npz(out / "logits/random-0/labels.npz")
    assert (len(saved["forget"]), len(saved["test"])) == (FORGET, 10_000)
    assert set(saved["test"].tolist()) == set(range(10))
    rows = rows_in(out)
    assert {(row.dataset, row.n_members) for row in rows} == {("fashion_mnist", MEMBERS)}
    assert {row.method for row in rows} == set(METHODS[:3])
    assert next(r.value for r in rows if (r.method, r.metric, r.split) == ("original", "accuracy", "test")) > 20
