"""A process that is told to stop, at any moment, and one whose reader goes away."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143}
BEGIN = "from unlearn_jax import process\nprocess.prepare('program')\nimport os, subprocess, sys, time\n"


@pytest.fixture
def start():
    """`start(*words)` -> a Python process that catches both signals by now."""
    pipe, started = subprocess.PIPE, []

    def start(*words):
        process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=pipe, stderr=pipe, text=True)
        started.append(process)
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            caught = int(status.read_text().partition("SigCgt:")[2].split()[0], 16)
            if all(caught >> (number - 1) & 1 for number in STOPPED):
                break
            time.sleep(0.001)
        return process

    yield start
    for process in started:
        process.kill()
        with process:
            pass


@pytest.mark.parametrize("moment", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("number", STOPPED)
def test_a_signal_during_the_imports_ends_a_run_with_a_message(start, tmp_path, number, moment):
    process = start("benchmark.py", "--smoke", "--out", str(tmp_path / "out"))
    time.sleep(moment)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == STOPPED[number]
    assert said.startswith(f"benchmark.py: stopped by {number.name}; ") and len(said.splitlines()) == 1


@pytest.mark.parametrize("number", STOPPED)
def test_a_signal_is_heard_while_no_line_of_python_runs_and_where_exceptions_are_lost(start, number):
    busy = (
        "import gc, hashlib\n{}process.advise('go on')\nprint(1, flush=True)\nhashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"
    )
    swallow = "gc.callbacks.append(lambda *_: hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1))\n"
    for before in ("", f"{swallow}print(1, flush=True)\ngc.collect()\n"):
        process = start("-c", BEGIN + busy.format(before))
        assert process.stdout.readline() == "1\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == STOPPED[number]
        assert said.startswith(f"program: stopped by {number.name}; ")


def test_a_stopped_process_leaves_no_children(start):
    process = start("-c", BEGIN + "print(subprocess.Popen(['sleep', '1000']).pid, flush=True); time.sleep(1000)")
    child = int(process.stdout.readline())
    process.terminate()
    process.communicate(timeout=60)
    for _ in range(200):
        with contextlib.suppress(FileNotFoundError):
            if Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":  # nobody may be there to bury it
                time.sleep(0.05)
                continue
        return
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child outlived its parent")


def test_a_signal_that_was_ignored_stays_ignored():
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    sending = "os.kill(os.getpid(), 2); time.sleep(0.2); print('here')"
    done = subprocess.run([sys.executable, "-c", ignoring + BEGIN + sending], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "here\n")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_goes_away_costs_no_results(start, tmp_path, stream):
    program = "for i in range(10**5): print(i, file=sys.{})\nopen({!r}, 'w').write('results')"
    process = start("-c", BEGIN + program.format(stream, str(tmp_path / "results.csv")))
    getattr(process, stream).readline()
    getattr(process, stream).close()
    other = process.stderr if stream == "stdout" else process.stdout
    assert other.read() == ""
    assert process.wait(timeout=60) == 0
    assert (tmp_path / "results.csv").read_text() == "results"


def test_what_is_printed_onto_a_full_disk_is_lost_with_one_line():
    program = [sys.executable, "-c", BEGIN + "print('x' * 10**5); print('y', flush=True); sys.exit(3)"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(program, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (3, "output cannot be written (No space left on device)\n")


def test_closed_streams_are_never_taken_for_files(tmp_path):
    """The next file that is opened would get the number of the stream, and what is printed would go into it."""
    file = tmp_path / "file"
    program = BEGIN + f"f = open({str(file)!r}, 'w'); print('lost'); os.write(2, b'lost'); f.write('kept')"
    command = [sys.executable, "-c", program]
    closing = f"import os; os.close(0); os.close(1); os.close(2); os.execv({command[0]!r}, {command!r})"
    assert subprocess.run([sys.executable, "-c", closing], cwd=ROOT).returncode == 0
    assert file.read_text() == "kept"


def test_a_character_that_the_terminal_lacks_is_no_reason_to_stop():
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + "print('±'); print('ε', file=sys.stderr)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\xb1\n", "\\u03b5\n")
