"""Anything on the command line and in files that others wrote: a result or one line, never a traceback, a hang or a pickle.

A few hundred examples; `FUZZ=100 python -m pytest tests/test_fuzz.py` tries a hundred times as many.
"""

import dataclasses
import gzip
import io
import json
import os
import pickle
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.registry import EXPERIMENTS
from unlearn_jax import as_json, runs
from unlearn_jax.bench import command_line
from unlearn_jax.bench.hyperparameters import settings as hyperparameters
from unlearn_jax.bench.kinds import options
from unlearn_jax.bench.options import Hyper, Methods, Run
from unlearn_jax.data import choose, load, sources
from unlearn_jax.errors import ArgumentError

FUZZ = int(os.environ.get("FUZZ", "1"))
IMAGE, CLASSES, ROWS = (4, 3), 10, 40


def examples(number):
    """Hypothesis' settings: so many examples, `FUZZ` times as many when asked for, no limit of time to each."""
    return settings(
        max_examples=number * FUZZ,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


# The command line

SIGNS = "0123456789-+.,=*[](){}'\"\\_ abexnfi:/~\n\x1b\udcff±𝄞"
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**9, 10**20, 10**400, -1, 0, 1, 2**31, 2**63, float("inf")])
HOSTILE = st.sampled_from(
    ["", "=", "--", "[", "[1", "(" * 3000, "-" * 3000, "9" * 5000, "1e999", "nan", "None", "True", "*", ",", "."]
)
VALUES = NUMBERS.map(str) | HOSTILE | st.text(SIGNS, max_size=12)
HYPER = st.tuples(
    st.sampled_from(["scrub", "*", "ssd", "salun", "", "nope"]), st.sampled_from(["epochs", "alpha", "learning_rate", ""]), VALUES
)
HYPERS = HYPER.map(lambda parts: f"{parts[0]}.{parts[1]}={parts[2]}")


ALL = {name: sorted({option.name for option in options(module.Config)} - {"--exp"}) for name, (module, *_) in EXPERIMENTS.items()}


@st.composite
def command_lines(draw):
    """Words as a person, or a script that went wrong, may give them."""
    name = draw(st.sampled_from(sorted(EXPERIMENTS)))
    words = ["--exp", name]
    for _ in range(draw(st.integers(1, 3))):
        option = draw(
            st.sampled_from(ALL[name]) | st.sampled_from(["--smoke", "-d", "--hyper", "--nope"]) | st.text(SIGNS, max_size=8)
        )
        value = draw(HYPERS if option == "--hyper" else VALUES)
        words += draw(st.sampled_from([[option, value], [f"{option}={value}"], [option], [value]]))
    return words


def checked(config: Run) -> None:
    """All that is done with a configuration before anything is opened."""
    config.check()
    json.dumps(as_json.plain(config.recorded()))
    if isinstance(config, Hyper):
        hyperparameters(config, config.method_names() if isinstance(config, Methods) else [])


@examples(80)
@given(words=command_lines())
def test_a_command_line_gives_a_configuration_or_one_line(capsys, words):
    parsed_or_one_line(capsys, words)


def parsed_or_one_line(capsys, words):
    status = 0
    try:
        checked(command_line.parse(words, EXPERIMENTS))
    except SystemExit as stop:
        status = stop.code
    except ArgumentError as error:
        status = command_line.report_error(error, "benchmark.py")
    said = capsys.readouterr()
    if status == 0:  # --help may be among the words
        assert not said.err
    else:
        assert status == 2
        assert said.err.startswith("benchmark.py: ") and said.err.count("\n") == 1 and said.err.rstrip("\n").isprintable()
        assert len(said.err) < 2 * command_line.LONGEST and not said.out


@examples(300)
@given(data=st.data(), name=st.sampled_from(sorted(EXPERIMENTS)))
def test_any_value_of_an_option_is_taken_or_refused_by_its_name(data, name):
    """As above, but past the parser, which takes a twentieth of a second."""
    config = EXPERIMENTS[name][0].Config(exp=name)
    path = data.draw(st.sampled_from(ALL[name])).removeprefix("--").replace("-", "_").split(".")
    group = config
    for outer in path[:-1]:
        group = getattr(group, outer)
    kind = type(getattr(group, path[-1]))
    value = {
        int: st.integers() | st.integers(-3, 100),
        float: st.floats() | st.floats(0, 1),
        str: st.text(SIGNS, max_size=12) | HOSTILE | NUMBERS.map(str),
        tuple: st.lists(HYPERS).map(tuple),
        bool: st.booleans(),
    }.get(kind, st.none() | st.integers(0))
    changed = {path[-1]: data.draw(value)}

    for outer in reversed(path[:-1]):
        inner = getattr(config, outer)
        changed = {outer: dataclasses.replace(inner, **changed)}
    try:
        checked(dataclasses.replace(config, **changed))
    except ArgumentError as error:
        assert command_line.option_of(error.argument).startswith("--") and error.accepted


# Files


def damaged(whole: bytes):
    """A file that was whole once: cut, with bytes changed, something put in; or another one altogether."""
    edits = st.lists(st.tuples(st.integers(0, max(len(whole) - 1, 0)), st.binary(max_size=4)), max_size=4)

    def edit(edits):
        content = whole
        for place, other in edits:
            content = content[:place] + other + content[place + len(other) :]
        return content

    cut = st.integers(0, len(whole)).map(lambda end: whole[:end])
    return edits.map(edit) | cut | st.binary(max_size=200) | st.sampled_from(ODD)


def npy(array):
    """As `np.save` writes it."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(*arrays, **named):
    """As `np.savez_compressed` writes it."""
    file = io.BytesIO()
    np.savez_compressed(file, *arrays, **named)
    return file.getvalue()


def claiming(descr: str, shape: str, data: bytes = b"") -> bytes:
    """An .npy whose header says what one likes."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


class Boobytrap:
    """Whoever unpickles it makes a file."""

    def __reduce__(self):
        return open, ("/tmp/unpickled", "w")


ODD = [
    b"",
    b"\x00",
    b"\xef\xbb\xbf1 2 3",
    "1 2 3".encode("utf-16"),
    b"1 2 x",
    b"-1",
    b"9" * 5000,
    b"[" * 5000,
    pickle.dumps(Boobytrap()),
    gzip.compress(bytes(10**6)),
    claiming("'<i8'", "(1000000000000000,)"),
    claiming("'<i8'", "(-5,)"),
    claiming("'<i8'", "(99999999999999999999, 99999999999999999999)"),
    claiming("'|O'", "(1,)", pickle.dumps([Boobytrap()])),
    claiming("[('a', '<i8')]", "(1,)", bytes(8)),
    claiming("'<U1'", "(1,)", bytes(4)),
    claiming("'<M8[s]'", "(1,)", bytes(8)),
    claiming("(" * 9000, "(1,)"),
    claiming("'<i8'", "()", bytes(8)),
    claiming("'<f8'", "(2,)", bytes(16)),
    claiming("'>i2'", "(2,)", b"\x00\x01\x00\x02"),
]


def refused_or(read, option):
    """What `read()` gives, or None if it is refused in one line that names the option; and that soon."""
    start = time.monotonic()
    try:
        return read()
    except ArgumentError as error:
        assert command_line.option_of(error.argument) == option and "\n" not in str(error)
        return None
    finally:
        assert not Path("/tmp/unpickled").exists()
        assert time.monotonic() - start < 20


@pytest.fixture(scope="module")
def folder():
    """One for all examples: what is in it is overwritten."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


LISTED = [3, 1, 4, 15, 9, 26]
MASK = np.isin(np.arange(ROWS), LISTED)
LISTS = [b"3 1\n4\n15 9\n26\n", npy(np.array(LISTED)), npy(MASK), json.dumps(LISTED).encode(), json.dumps(MASK.tolist()).encode()]
LISTS += [b"row\n3\n1\n", npz(rows=np.array(LISTED)), npz(MASK)]


@pytest.mark.parametrize("suffix", ["txt", "npy", "npz", "csv", "json"])
@examples(200)
@given(content=st.one_of(*map(damaged, LISTS)))
def test_a_list_of_rows_is_read_or_refused(folder, suffix, content):
    file = folder / f"rows.{suffix}"
    file.write_bytes(content)
    forget = refused_or(lambda: choose(np.zeros(ROWS, int), kind="file", file=file, classes=CLASSES), "--forget.file")
    assert forget is None or 0 < forget.sum() < ROWS


def test_lists_with_a_byte_order_mark_are_read_and_what_is_no_file_is_refused_at_once(folder):
    file = folder / "marked.txt"
    file.write_bytes(b"\xef\xbb\xbf1\n2\n")
    assert np.flatnonzero(choose(np.zeros(ROWS, int), kind="file", file=file, classes=CLASSES)).tolist() == [1, 2]
    for name in ("pipe.txt", "pipe.npy"):
        os.mkfifo(folder / name)
    for odd in (folder / "pipe.txt", folder / "pipe.npy", Path("/dev/zero"), folder):
        assert (
            refused_or(lambda odd=odd: choose(np.zeros(ROWS, int), kind="file", file=odd, classes=CLASSES), "--forget.file")
            is None
        )
    with (folder / "huge.npy").open("wb") as huge:  # nothing is on the disk
        huge.write(claiming("'<i8'", f"({1 << 37},)"))
        huge.truncate(huge.tell() + (1 << 40))
    with (folder / "huge.txt").open("wb") as huge:
        huge.truncate(1 << 40)
    for name in ("huge.npy", "huge.txt"):
        file = folder / name
        assert (
            refused_or(lambda file=file: choose(np.zeros(ROWS, int), kind="file", file=file, classes=CLASSES), "--forget.file")
            is None
        )


@examples(100)
@given(content=damaged(npz(x_train=np.ones((6, 3)), y_train=np.arange(6), x_test=np.zeros((2, 3)), y_test=np.arange(2))))
def test_a_data_set_of_ones_own_is_read_or_refused(folder, content):
    file = folder / "mine.npz"
    file.write_bytes(content)
    data = refused_or(lambda: load(str(file)), "--dataset")
    assert data is None or data.train.images.shape[0] == len(data.train.labels)


def idx(shape, values=None):
    """An IDX file."""
    header = bytes((0, 0, 8, len(shape))) + b"".join(size.to_bytes(4, "big") for size in shape)
    return header + (bytes(np.arange(int(np.prod(shape))) % CLASSES) if values is None else values)


WHOLE = {
    f"{split}-{kind}": idx((count, *(IMAGE if number == 3 else ())))
    for split, count in (("train", 6), ("t10k", 4))
    for kind, number in (("images-idx3-ubyte", 3), ("labels-idx1-ubyte", 1))
}
BOMBS = [gzip.compress(idx((2**32 - 1, *IMAGE), bytes(10**7))), gzip.compress(idx((2**32 - 1,) * 3, b"")), idx((2**32 - 1,), b"")]


@pytest.mark.parametrize("name", WHOLE)
@examples(50)
@given(data=st.data(), compressed=st.booleans())
def test_idx_files_are_read_or_refused(name, data, compressed):
    with tempfile.TemporaryDirectory() as made:
        for each, content in WHOLE.items():
            Path(made, each).write_bytes(content)
        Path(made, name).unlink()
        whole = gzip.compress(WHOLE[name]) if compressed else WHOLE[name]
        content = data.draw(
            damaged(whole) | damaged(WHOLE[name]).map(gzip.compress if compressed else bytes) | st.sampled_from(BOMBS)
        )
        Path(made, f"{name}{'.gz' if compressed else ''}").write_bytes(content)
        splits = refused_or(lambda: sources.idx(Path(made), IMAGE, CLASSES), "--data-dir")
    for split in splits or ():
        assert split.images.shape == (len(split.labels), *IMAGE, 1) and set(split.labels) <= set(range(CLASSES))


def test_no_more_of_a_bomb_is_decompressed_than_its_header_says(tmp_path):
    for name, content in WHOLE.items():
        (tmp_path / name).write_bytes(content)
    name = next(iter(WHOLE))
    (tmp_path / name).rename(tmp_path / "bomb")
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(WHOLE[name] + bytes(10**8), 1))
    tracemalloc.start()
    assert refused_or(lambda: sources.idx(tmp_path, IMAGE, CLASSES), "--data-dir") is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**7


CONFIG = {"seed": 0, "methods": ["scrub"], "train": {"epochs": 3}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["config", "earlier", "train", "seed", "x"]), inner)
    ),
    max_leaves=8,
)


@examples(200)
@given(
    content=damaged(json.dumps({"config": CONFIG, "earlier": []}).encode()) | JSON.map(lambda value: json.dumps(value).encode())
)
def test_a_config_json_is_resumed_or_refused(content):
    with tempfile.TemporaryDirectory() as made:
        file = Path(made, "config.json")
        file.write_bytes(content)
        opened = refused_or(lambda: runs.open_run(made, CONFIG, extendable={"methods"}), "--out")
        if opened is None:
            assert file.read_bytes() == content
        else:
            assert json.loads(file.read_text())["config"] == CONFIG


RECORDED = as_json.plain(EXPERIMENTS["unlearning"].options.Config(hyper=("scrub.epochs=3",)).recorded())
ANY_RECORD = JSON.map(lambda value: json.dumps({"config": value}).encode())


@examples(60)
@given(content=damaged(json.dumps({"config": RECORDED}).encode()) | ANY_RECORD)
def test_a_config_json_is_repeated_or_refused(capsys, folder, content):
    (folder / "config.json").write_bytes(content)
    parsed_or_one_line(capsys, ["--config", str(folder / "config.json")])
