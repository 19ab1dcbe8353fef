"""Stop signals, and output that nobody reads. Imports nothing heavy, since a signal may arrive at once.

Every file of a run is written whole or not at all, so a run may end at any moment. A separate thread therefore ends the process
as soon as a signal arrives: an exception in the main thread would wait for the compiler, which can take a minute, and would be
lost if raised inside a callback (of the garbage collector or JAX).
"""

import atexit
import contextlib
import gc
import io
import os
import select
import signal
import sys
import threading
from pathlib import Path
from typing import TextIO

STOPPED = (signal.SIGINT, signal.SIGTERM)
_advice = "nothing was started"


def prepare(program: str) -> None:
    """Makes SIGINT and SIGTERM end the process with one line and status 130 or 143, and ignores a closed or full output.

    Signals that the process inherited as ignored (`nohup`, a background job) stay ignored. Call it once, before anything else.
    """
    for descriptor in range(3):  # the next file opened would take the number of a closed one
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = _stream(1, sys.stdout), _stream(2, sys.stderr)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)  # written by the C handler, whatever the interpreter is busy with
    threading.Thread(target=_wait, args=(reading, program), name="signals", daemon=True).start()
    for number in STOPPED:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)
            atexit.register(signal.signal, number, signal.SIG_DFL)  # the thread does not outlive the interpreter


def advise(text: str) -> None:
    """Sets the advice that is printed if the process is stopped from now on, such as how to resume."""
    global _advice
    _advice = text


def _wait(reading: int, program: str) -> None:
    while (number := os.read(reading, 1)[0]) not in STOPPED:
        pass
    gc.disable()  # its callbacks may take long
    message = f"{program}: stopped by {signal.Signals(number).name}; {_advice}\n"
    shown = "\r\x1b[K\x1b[?25h" if os.isatty(2) else ""  # over a progress bar, which hides the cursor
    if select.select([], [2], [], 0.5)[1]:  # nobody may be reading
        with contextlib.suppress(OSError):
            os.write(2, (shown + message).encode(errors="backslashreplace"))
    for children in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                os.kill(int(child), signal.SIGTERM)
    os._exit(128 + number)


class _Forgiving(io.FileIO):
    """A file that ignores failed writes: a closed pipe or a full disk must not end a run."""

    complained = False

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if not (self.complained or isinstance(error, BrokenPipeError)):
                self.complained = True
                print(f"output cannot be written ({error.strerror})", file=sys.stderr)
            return len(data)


def _stream(descriptor: int, inherited: TextIO | None) -> io.TextIOWrapper:
    """A standard stream that ignores failed writes, and escapes characters that its encoding lacks."""
    file = io.BufferedWriter(_Forgiving(descriptor, "w", closefd=False))
    encoding = (inherited and inherited.encoding) or "utf-8"
    return io.TextIOWrapper(file, encoding, errors="backslashreplace", line_buffering=descriptor == 2 or os.isatty(descriptor))
