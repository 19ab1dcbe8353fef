"""The run folder: whole files or none, refusals that lose nothing, extension, provenance."""

import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from unlearn_jax import as_json, runs
from unlearn_jax.errors import ArgumentError, StorageError

CONFIG = {
    "dataset": "digits",
    "epochs": 10,
    "optimiser": {"learning_rate": 0.1, "momentum": 0.9},
    "methods": ("scrub", "ssd"),
    "members": 24,
    "device": "cpu",
}
EXTENDABLE = frozenset({"methods", "members", "device"})


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refuse(out: Path, config: dict) -> str:
    """Opens a folder that must be refused, and returns the line that says why."""
    with pytest.raises(ArgumentError) as refusal:
        runs.open_run(out, config, extendable=EXTENDABLE)
    assert refusal.value.argument == "out" and refusal.value.value == out
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_config_json_says_what_was_run(tmp_path):
    run = runs.open_run(tmp_path / "a" / "b", CONFIG, extendable=EXTENDABLE)
    assert run.folder == tmp_path / "a" / "b"
    written = run.read_json("config.json")
    assert written["config"] == {**CONFIG, "methods": ["scrub", "ssd"]}
    assert set(written) == {"config", "versions", "device", "git", "command", "started", "earlier"}
    assert written["versions"]["numpy"] == np.__version__ and "python" in written["versions"]
    assert written["device"] == "cpu" and written["earlier"] == []
    assert written["git"] is None or len(written["git"]["commit"]) >= 40
    run.record(device="NVIDIA H100")
    assert run.read_json("config.json") == {**written, "device": "NVIDIA H100"}


def test_the_same_configuration_resumes_and_earlier_openings_are_kept(tmp_path):
    first = runs.open_run(tmp_path, CONFIG, extendable=EXTENDABLE)
    first.record(device="first")
    first.keep("logits/scrub.npz", {"method": "scrub"}, {"forget": np.arange(6.0).reshape(1, 2, 3)})
    second = runs.open_run(tmp_path, CONFIG, extendable=EXTENDABLE)
    arrays = second.find("logits/scrub.npz", {"method": "scrub"})
    assert arrays is not None
    np.testing.assert_array_equal(arrays["forget"], np.arange(6.0).reshape(1, 2, 3))
    third = runs.open_run(tmp_path, CONFIG, extendable=EXTENDABLE)
    earlier = third.read_json("config.json")["earlier"]
    assert [opening["device"] for opening in earlier] == ["first", "cpu"] and "config" not in earlier[0]


def test_what_is_not_there_reads_as_none(tmp_path):
    run = runs.open_run(tmp_path, CONFIG)
    assert run.find("logits/none.npz", {}) is None and run.read_json("none.json") is None


@pytest.mark.parametrize(
    "change",
    [{"methods": ["ssd", "salun", "scrub"]}, {"members": 48}, {"device": "gpu:0"}, {"members": 24.0}],
    ids=str,
)
def test_a_run_may_be_extended(tmp_path, change):
    runs.open_run(tmp_path, CONFIG, extendable=EXTENDABLE)
    run = runs.open_run(tmp_path, {**CONFIG, **change}, extendable=EXTENDABLE)
    assert run.read_json("config.json")["config"] == {**CONFIG, "methods": ["scrub", "ssd"], **change}


def test_a_mapping_may_be_extendable_as_a_whole(tmp_path):
    runs.open_run(tmp_path, CONFIG, extendable={"optimiser"})
    runs.open_run(tmp_path, {**CONFIG, "optimiser": {"learning_rate": 0.2}}, extendable={"optimiser"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 20}, "epochs is 10 there and 20 here; use the old value, or give another folder"),
        ({"optimiser": {"learning_rate": 0.1, "momentum": 0.5}}, "optimiser.momentum is 0.9 there and 0.5 here"),
        ({"methods": ["scrub"]}, 'methods is ["scrub", "ssd"] there and ["scrub"] here'),
        ({"members": 12}, "members is 24 there and 12 here; add to the old value, or give another folder"),
        ({"width": 16}, 'width is "(absent)" there and 16 here'),
        ({"dataset": "cifar10", "epochs": 20}, 'dataset is "digits" there and "cifar10" here'),
    ],
    ids=str,
)
def test_another_configuration_is_refused(tmp_path, change, said):
    run = runs.open_run(tmp_path, CONFIG, extendable=EXTENDABLE)
    run.write_text("results.csv", "precious")
    before = contents(tmp_path)
    assert said in refuse(tmp_path, {**CONFIG, **change})
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "files", [{"thesis.tex": "precious"}, {"config.json": "{"}, {"config.json": '{"my": 1}'}, {"config.json": "[]"}]
)
def test_a_folder_that_is_no_run_folder_is_refused(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    before = contents(tmp_path)
    assert "config.json" in refuse(tmp_path, CONFIG)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "text", [b"[" * 10**5, b'{"config": ' * 2000, b'{"config": {}, "earlier": 5}', b"\xff\xfe", b"9" * 10**4]
)
def test_a_config_json_of_anything_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text)
    assert "config.json" in refuse(tmp_path, CONFIG)
    assert contents(tmp_path) == {"config.json": text}


def test_a_config_json_that_is_no_file_is_refused_at_once(tmp_path):
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        out.mkdir()
        make(out / "config.json")
        assert "contains a config.json that cannot be read" in refuse(out, CONFIG)
        assert len(list(out.iterdir())) == 1


def test_no_more_of_a_config_json_is_read_than_one_can_be(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 40)  # nothing is on the disk
    assert "larger than" in refuse(tmp_path, CONFIG)


def test_a_config_json_with_a_byte_order_mark_is_read(tmp_path):
    runs.open_run(tmp_path, CONFIG)
    file = tmp_path / "config.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert "epochs is 10 there and 20 here" in refuse(tmp_path, {**CONFIG, "epochs": 20})


def test_the_cache_may_lie_in_the_run_folder(tmp_path):
    cache = tmp_path / "out" / "below" / "cache"
    cache.mkdir(parents=True)
    (cache / "pool").touch()
    runs.open_run(tmp_path / "out", CONFIG, cache=cache)
    runs.open_run(tmp_path / "out", CONFIG)
    with pytest.raises(ArgumentError, match=r"cache .* is the run folder itself"):
        runs.open_run(tmp_path / "out", CONFIG, cache=tmp_path / "out")
    (tmp_path / "other" / "cache" / "xla").mkdir(parents=True)
    runs.open_run(tmp_path / "other", CONFIG)  # nothing but empty folders, which a refused command may have left


def test_what_a_run_made_can_be_taken_back_and_nothing_else(tmp_path):
    empty, link = tmp_path / "empty", tmp_path / "link"
    empty.mkdir()
    link.symlink_to(empty)
    for out in (tmp_path / "a" / ".." / "b" / "c", empty, link, Path(".")):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(empty)
            before = sorted(tmp_path.rglob("*"))
            run = runs.open_run(out, CONFIG)
            run.write_text("logits/a/b.txt", "made")
            run.withdraw()
            assert sorted(tmp_path.rglob("*")) == before
            run, place = runs.open_run(out, CONFIG), out.resolve()
            (place / "notes.txt").write_text("mine")
            run.withdraw()
            assert [path.name for path in place.iterdir()] == ["notes.txt"]
            (place / "notes.txt").unlink()
    assert link.is_symlink()


def test_an_opening_that_fails_makes_nothing(tmp_path):
    out = tmp_path / "a" / "b" / ("x" * 300)
    assert "cannot be written (File name too long)" in refuse(out, CONFIG)
    assert not list(tmp_path.iterdir())


def test_an_extension_taken_back_leaves_the_run_as_it_was(tmp_path):
    runs.open_run(tmp_path, CONFIG, extendable=EXTENDABLE).write_text("results.csv", "precious")
    before = contents(tmp_path)
    run = runs.open_run(tmp_path, {**CONFIG, "members": 48}, extendable=EXTENDABLE)
    run.write_text("logits/new.txt", "new")
    run.withdraw()
    assert contents(tmp_path) == before


def test_no_two_runs_claim_the_same_folder(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        claimed = list(threads.map(lambda _: runs.claim(tmp_path / "runs" / "now"), range(40)))
    assert {made[-1] for made in claimed} == {tmp_path / "runs" / name for name in ("now", *(f"now-{n}" for n in range(2, 41)))}
    assert sum(tmp_path / "runs" in made for made in claimed) == 1


def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path):
    run, outside = runs.open_run(tmp_path / "out", CONFIG), tmp_path / "outside"
    outside.mkdir()
    (run.folder / "logits").symlink_to(outside)
    for name in ("logits/a.txt", "logits/deeper/a.txt", "../outside/a.txt"):
        with pytest.raises(ArgumentError, match=r"out .* a symbolic link leads .* out of this folder; remove the link"):
            run.write_text(name, "escaped")
    assert not list(outside.iterdir())
    (outside / "precious").write_text("precious")
    (run.folder / "a.txt").symlink_to(outside / "precious")
    run.write_text("a.txt", "new")
    assert (outside / "precious").read_text() == "precious"
    (outside / ".x.host.1.0.part").touch()
    runs.open_run(tmp_path / "out", CONFIG)
    assert len(list(outside.iterdir())) == 2


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    """By the kernel's own refusal: a process that may write no file of more than a kilobyte."""
    limited = (
        "import resource, numpy, pathlib, unlearn_jax.runs as runs\n"
        f"run = runs.Run(pathlib.Path({str(tmp_path)!r})); run.write_text('a.txt', 'old')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n"
        "text, arrays = 'x' * 10**4, {'a': numpy.zeros(10**4)}\n"
        "for write in (lambda: run.write_text('a.txt', text), lambda: run.write_npz('a.npz', arrays)):\n"
        "    try: write()\n"
        "    except OSError as error: print(error.status, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", limited], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    said = "cannot be written (File too large); fix this and run the same command to resume"
    assert done.stdout.splitlines() == [f"1 out {tmp_path / name}: {said}" for name in ("a.txt", "a.npz")]
    assert done.stderr == ""
    assert contents(tmp_path) == {"a.txt": b"old"}


def test_a_disk_that_is_full_from_the_start_leaves_no_folder(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match=r"out .*No space left on device"):
        runs.open_run(tmp_path / "a" / "b", CONFIG)
    assert not list(tmp_path.iterdir())


def test_a_file_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("precious")
    assert "is a file" in refuse(file, CONFIG)
    assert "cannot be written" in refuse(file / "below", CONFIG)
    assert file.read_text() == "precious"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    runs.open_run(tmp_path / "old", CONFIG)
    before = contents(tmp_path)
    monkeypatch.setattr(os, "replace", denied)
    assert "cannot be written (Permission denied)" in refuse(tmp_path / "old", CONFIG)
    assert contents(tmp_path) == before
    monkeypatch.setattr(Path, "mkdir", denied)
    assert "cannot be written (Permission denied)" in refuse(tmp_path / "new", CONFIG)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    run = runs.open_run(tmp_path, CONFIG)
    run.write_text("summary.md", "old")
    before = contents(tmp_path)
    with pytest.raises(ZeroDivisionError), run.writing("summary.md") as file:
        file.write(b"half of the n")
        raise ZeroDivisionError
    with pytest.raises(TypeError, match="object"):
        run.write_json("summary.md", {"what": object()})
    assert contents(tmp_path) == before


def test_a_killed_write_is_invisible_and_swept_away_by_the_next_run(tmp_path):
    run = runs.open_run(tmp_path, CONFIG)
    run.write_text("logits/a.txt", "old")
    killed = (
        "import os, signal, pathlib, unlearn_jax.runs as runs\n"
        f"with runs.Run(pathlib.Path({str(tmp_path)!r})).writing('logits/a.txt') as file:\n"
        "    file.write(b'new'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", killed], check=False, cwd=Path(__file__).parents[1])
    with run.writing("b.txt"):  # somebody alive is writing meanwhile
        assert len(list(tmp_path.rglob("*.part"))) == 2 and (tmp_path / "logits" / "a.txt").read_text() == "old"
        runs.open_run(tmp_path, CONFIG)
        assert [path.parent for path in tmp_path.rglob("*.part")] == [tmp_path]
    assert not list(tmp_path.rglob("*.part")) and (tmp_path / "b.txt").exists()


def test_a_folder_with_nothing_but_a_killed_write_counts_as_empty(tmp_path):
    (tmp_path / ".config.json.elsewhere.1.0123abcd.part").write_text("{")
    runs.open_run(tmp_path, CONFIG)


def test_plain_json_holds_what_a_run_has():
    value = {
        "nan": np.nan,
        "inf": [np.inf, -np.inf],
        "array": np.array([1.0, np.nan], np.float32),
        "path": Path("a"),
        "set": {2, 1},
        3: True,
    }
    plain = {"nan": None, "inf": [None, None], "array": [1.0, None], "path": "a", "set": [1, 2], "3": True}
    assert as_json.plain(value) == plain
    json.dumps(plain, allow_nan=False)


def test_csv_has_empty_cells_and_every_digit(tmp_path):
    run = runs.open_run(tmp_path, CONFIG)
    run.write_csv("a.csv", ("name", "value"), [("a,b", 0.1 + 0.2), ("c", None)])
    assert (tmp_path / "a.csv").read_text() == 'name,value\n"a,b",0.30000000000000004\nc,\n'
    with pytest.raises(ValueError, match="a row has 1 cells, expected 2, one for each column"):
        run.write_csv("a.csv", ("name", "value"), [("a",)])


def test_opening_a_run_starts_no_device(tmp_path):
    opened = (
        f"import unlearn_jax.runs as runs; runs.open_run({str(tmp_path / 'new')!r}, {{}})\n"
        "from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized()"
    )
    subprocess.run([sys.executable, "-c", opened], check=True, cwd=Path(__file__).parents[1])


def test_a_link_to_itself_is_refused_and_a_folder_in_the_place_of_a_file_is_set_aside(tmp_path):
    run = runs.Run(tmp_path)
    (tmp_path / "sets").symlink_to("sets")
    with pytest.raises(ArgumentError, match=r"a symbolic link leads sets/a\.txt out of this folder"):
        run.write_text("sets/a.txt", "text")
    (tmp_path / "labels.npz").mkdir()
    run.write_npz("labels.npz", {"a": np.arange(3)})
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npz")["a"], np.arange(3))
    assert [path.suffix for path in tmp_path.glob("labels.npz.*")] == [".aside"]
