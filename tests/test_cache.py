"""What is kept is read as it was written or not at all, by several runs at the same time, and where nothing can be written."""

import io
import json
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
from in_process import run_in_process
from test_pools import CLASSES, ROOT, folder_of, same, train, trained

from unlearn_jax import runs, sealed
from unlearn_jax.errors import StorageError
from unlearn_jax.runs import Cache, Run

IDENTITY = {"method": "scrub", "rate": 0.1, "sizes": (1, 2)}
ARRAYS = {"logits": np.arange(6.0).reshape(2, 3), "lost": np.array([], int), "name": "scrub", "seconds": 1.5}
NAME = "logits/scrub.npz"


def kept(folder, identity=IDENTITY, arrays=ARRAYS):
    """What `cached` returns, and how often it was made."""
    calls = []
    found = Run(folder).cached(NAME, identity, lambda: calls.append(0) or arrays)
    return found, len(calls)


def equal(found):
    assert set(found) == set(ARRAYS)
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(found[key], array)
        assert found[key].dtype == np.asarray(array).dtype
    return True


@pytest.fixture
def file(tmp_path):
    """A file that was kept."""
    assert kept(tmp_path)[1] == 1
    return tmp_path / NAME


@pytest.fixture
def small_disk():
    """No file may grow beyond so many bytes: as on a full disk, a write fails in its middle."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --- one file ---


def test_what_was_kept_is_found_again_and_not_made(file, tmp_path):
    found, made = kept(tmp_path)
    assert equal(found) and not made
    with np.load(file) as arrays:  # as anybody reads it
        np.testing.assert_array_equal(arrays["logits"], ARRAYS["logits"])
        assert json.loads(str(arrays["identity"]))["rate"] == 0.1


@pytest.mark.parametrize(
    "change",
    [{"rate": 0.2}, {"rate": 1}, {"method": "ssd"}, {"sizes": (2, 1)}, {"more": None}, {"format": 0}, {"numerics": {}}],
    ids=str,
)
def test_another_identity_is_made_anew(file, tmp_path, capsys, change):
    found, made = kept(tmp_path, {**IDENTITY, **change}, {"other": 1})
    assert made and found["other"] == 1
    assert kept(tmp_path)[1] == 1  # the other has taken its place
    assert capsys.readouterr().err == ""


def test_the_format_and_the_numerics_are_part_of_every_identity(file, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "FORMAT", runs.FORMAT + 1)
    assert kept(tmp_path)[1] == 1
    monkeypatch.setattr(runs, "numerics", lambda: {"jax_enable_x64": True})
    assert kept(tmp_path)[1] == 1 and kept(tmp_path)[1] == 0


def test_a_file_under_the_name_of_another_is_not_taken_for_it(file, tmp_path):
    shutil.copy(file, file.with_name("ssd.npz"))
    assert Run(tmp_path).find("logits/ssd.npz", IDENTITY) is None


def test_no_flipped_bit_goes_unseen(file, tmp_path, capsys):
    """One of each byte, wherever in the file it is."""
    whole = file.read_bytes()
    with file.open("r+b", buffering=0) as content:
        for place, byte in enumerate(whole):
            content.seek(place)
            content.write(bytes([byte ^ 1 << place % 8]))
            assert Run(tmp_path).find(NAME, IDENTITY) is None, place
            content.seek(place)
            content.write(bytes([byte]))
    assert len(capsys.readouterr().err.splitlines()) == len(whole)
    assert kept(tmp_path)[1] == 0


def test_no_file_that_was_cut_or_grew_is_read(file, tmp_path, capsys):
    whole = file.read_bytes()
    for size in [2 * len(whole), len(whole) + 1, *range(len(whole) - 100, len(whole)), *range(0, len(whole), 50)]:
        file.write_bytes((whole + whole)[:size])
        assert Run(tmp_path).find(NAME, IDENTITY) is None, size
        assert capsys.readouterr().err.count("damaged") == 1


class Trap:
    """Whoever unpickles one has run somebody else's code."""

    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def bytes_of(write):
    """What a writer of files writes, sealed as ours are."""
    file = io.BytesIO()
    write(file)
    content = file.getvalue()
    content = content[:-2] + (len(sealed.SEAL) + sealed.DIGITS).to_bytes(2, "little") + sealed.SEAL
    return content + sealed.hashlib.sha256(content).hexdigest().encode()


def huge(file):
    """An npz whose only array says that it has 2^60 numbers."""
    header = np.lib.format.magic(1, 0) + (118).to_bytes(2, "little")
    header += f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**60},), }}".ljust(117).encode() + b"\n"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("identity.npy", header)


IN_ITS_PLACE = {
    "nothing in it": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello\n" * 99),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Trap())),
    "an npz without a seal": lambda path: np.savez(path, identity="", **ARRAYS),
    "a sealed npz with a pickle": lambda path: path.write_bytes(
        bytes_of(lambda file: np.savez(file, identity=np.array([Trap()], object)))
    ),
    "a sealed npz without identity": lambda path: path.write_bytes(bytes_of(lambda file: np.savez(file, **ARRAYS))),
    "a sealed npz that is compressed": lambda path: path.write_bytes(
        bytes_of(lambda file: np.savez_compressed(file, identity=np.zeros(10**6)))
    ),
    "a sealed npz of 8 exabytes": lambda path: path.write_bytes(bytes_of(huge)),
    "a folder": lambda path: (path / "within").mkdir(parents=True),
    "a FIFO": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", IN_ITS_PLACE)
def test_anything_else_in_its_place_counts_as_absent(file, tmp_path, capsys, kind):
    file.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        IN_ITS_PLACE[kind](file)
    found, made = kept(tmp_path)
    assert equal(found) and made == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (kind != "a link to nowhere")
    assert all(re.fullmatch(rf"{re.escape(str(file))}: damaged \(.+\), so it is ignored", line) for line in lines)
    assert kept(tmp_path)[1] == 0 and capsys.readouterr().err == ""
    assert [path.is_dir() for path in file.parent.glob("*.aside")] == [True] * (kind == "a folder")


def test_objects_are_not_kept(tmp_path):
    with pytest.raises(TypeError, match="object"):
        kept(tmp_path, arrays={"trap": np.array([Trap()], object)})
    with pytest.raises(TypeError, match="object"):
        Run(tmp_path).write_npz("labels.npz", {"trap": np.array([None])})
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_full_disk_leaves_nothing_half_written(file, tmp_path, small_disk):
    before = file.read_bytes()
    for most in (0, 100, 600):
        small_disk(most)
        with pytest.raises(OSError, match="too large"):
            kept(tmp_path, {"other": 1})
        assert file.read_bytes() == before and os.listdir(file.parent) == [file.name]
    small_disk(len(before) + 1000)
    assert kept(tmp_path, {"other": 1})[1] == 1


# --- pools ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three members, trained two at a time: cache and pool."""
    cache = tmp_path_factory.mktemp("whole")
    return cache, train(cache, 3, chunk=2)[0]


def spoil(path, kind):
    """Makes a chunk what a failing disk, or a person, may make of it."""
    content = bytearray(path.read_bytes())
    path.unlink()
    if kind == "a flipped bit in the weights":
        content[content.index(b"params/head/kernel") + 200] ^= 4
        path.write_bytes(content)
    elif kind == "a truncated file":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "a chunk of other members":
        shutil.copy(path.with_name("00000-00002.npz"), path)
    else:
        path.mkdir()


@pytest.mark.parametrize("kind", ["a flipped bit in the weights", "a truncated file", "a chunk of other members", "a folder"])
def test_a_damaged_chunk_is_said_once_and_trained_again(whole, tmp_path, capsys, kind):
    cache, pool = whole
    copy = tmp_path / "copy"
    shutil.copytree(cache, copy)
    (chunk,) = folder_of(copy).glob("00002-*.npz")
    spoil(chunk, kind)
    again, events = train(copy, 3, chunk=1)  # one member each, so that the chunk that was there is not merely overwritten
    assert trained(events) == [2]
    same(again.variables, pool.variables)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == (kind != "a chunk of other members") and all("damaged" in line for line in said)
    again, events = train(copy, 3)
    assert events == [] and capsys.readouterr().err == ""
    same(again.variables, pool.variables)


def test_a_complete_cache_is_only_read(whole, monkeypatch):
    cache, pool = whole
    for name in ("writing", "alone", "drop"):
        monkeypatch.setattr(Cache, name, lambda *_: pytest.fail("there is nothing to write"))
    again, events = train(cache, 3)
    assert events == []
    same(again.variables, pool.variables)


def test_a_full_disk_is_one_line_that_names_the_cache(whole, tmp_path, small_disk):
    cache = tmp_path / "cache"
    train(cache, 2)
    small_disk(1500)  # the chunk needs more, its identity less
    with pytest.raises(StorageError, match=r"^cache .*pools.*: cannot be written \(File too large\); [^\n]*$") as raised:
        train(cache, 3)
    assert raised.value.status == 1
    assert sorted(os.listdir(folder_of(cache))) == [".lock", "00000-00002.npz", "identity.json"]
    small_disk(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    again, events = train(cache, 3)
    assert trained(events) == [2]
    same(again.variables, whole[1].variables)


def test_a_run_whose_cache_is_full_ends_in_one_line_and_status_1(tmp_path, monkeypatch, small_disk):
    def write(file, arrays, whole=sealed.write):
        small_disk(1500)  # but not for what JAX and Matplotlib write, who warn of it
        whole(file, arrays)

    monkeypatch.setattr(sealed, "write", write)
    words = "--exp unlearning --smoke --device cpu --methods original,retrain --members 2 --train.epochs 1 --width 16"
    done = run_in_process(*words.split(), "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    assert done.returncode == 1, done.stderr
    *_, last = done.stderr.splitlines()
    assert re.fullmatch(r"benchmark.py: --cache .*/pools/.*: cannot be written \(File too large\); .*", last)
    assert "Traceback" not in done.stderr
    assert not [*(tmp_path / "cache").rglob("*.npz"), *tmp_path.rglob("*.part")]


def test_where_the_file_system_has_no_locks_nobody_waits(tmp_path, monkeypatch):
    def without(*args, **options):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(runs.filelock.FileLock, "acquire", without)
    with Cache(tmp_path).alone("nothing"):
        pass


AT_ONCE = """
import hashlib, json, sys, time
from pathlib import Path
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
sys.path.insert(0, "tests")
import numpy as np
import test_pools

cache, number, of = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
(cache / f"ready-{number}").touch()
while len(list(cache.glob("ready-*"))) < of:
    time.sleep(0.001)
pool, events = test_pools.train(cache, 5, chunk=2)
digest = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(pool.variables))).hexdigest()
print(json.dumps([digest, test_pools.trained(events)]))
"""


def at_once(cache, count):
    """So many runs that train the same pool at the same time: of each what it had, what it trained, and what it said."""
    cache.mkdir()
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", AT_ONCE, str(cache), str(number), str(count)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    said = [run.communicate(timeout=900) for run in runs]
    assert [run.returncode for run in runs] == [0] * count, said
    return [(*json.loads(out), err) for out, err in said]


def test_several_runs_at_once_train_each_chunk_once(tmp_path):
    found = at_once(tmp_path / "cache", 4)
    assert len({digest for digest, _, _ in found}) == 1
    assert sorted(member for _, members, _ in found for member in members) == [0, 1, 2, 3, 4]
    assert all(err.count("waiting for another run") <= 1 for _, _, err in found)
    assert any("waiting for another run that is making the same: oracle models" in err for _, _, err in found)
    pool, events = train(tmp_path / "cache", 5)
    assert events == [] and pool.variables.params["head"]["kernel"].shape[0] == 5
    assert pool.variables.params["head"]["kernel"].shape[-1] == CLASSES


def test_a_run_that_waits_for_each_chunk_of_a_pool_says_so_once(tmp_path, monkeypatch, capsys):
    def busy(lock, timeout=None, **options):
        if timeout == 0:
            raise runs.filelock.Timeout(tmp_path)

    monkeypatch.setattr(runs.filelock.FileLock, "acquire", busy)
    waiting = Cache(tmp_path)
    for work in ("oracle models", "oracle models", "originals", "oracle models"):
        with waiting.alone(work):
            pass
    said = capsys.readouterr().err.splitlines()
    assert said == [f"waiting for another run that is making the same: {work}" for work in ("oracle models", "originals")]


def test_a_file_in_the_place_of_the_folder_and_a_folder_in_that_of_the_lock_are_set_aside(tmp_path):
    place = Cache(tmp_path / "pool")
    place.folder.write_text("somebody's")
    with place.alone("work"):
        pass
    (place.folder / ".lock").unlink()
    (place.folder / ".lock" / "within").mkdir(parents=True)
    with place.alone("work"):
        pass
    assert sorted(path.name.split(".")[0] for path in tmp_path.iterdir()) == ["pool", "pool"]
    assert sorted(path.name.rpartition(".")[2] for path in place.folder.iterdir()) == ["aside", "lock"]
