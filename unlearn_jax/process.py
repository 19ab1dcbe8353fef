"""What becomes of a process that is told to stop, or whose reader goes away. Imports nothing heavy: a signal may come at once.

Every file of a run appears whole or not at all, so a run may end at any moment. A signal therefore ends it there and then, from
a thread of its own: an exception in the main thread would come only after the compiler's next return, which can take a minute,
and is lost where it is raised inside a callback (of the garbage collector, of JAX).
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
_advice = "nothing was begun"


def prepare(program: str) -> None:
    """Makes SIGINT and SIGTERM end the process with one line and status 130 or 143, and lost readers of its output harmless.

    Signals that the process was started to ignore (`nohup`, a job in the background) stay ignored. Call it once, first of all.
    """
    for descriptor in range(3):  # one that is closed would become the next file that is opened
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
    """Sets what is said if the process is stopped from now on, for instance how to resume."""
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
    """A file that takes for written what cannot be: neither a closed pipe nor a full disk is a reason to lose results."""

    complained = False

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if not (self.complained or isinstance(error, BrokenPipeError)):
                self.complained = True
                print(f"what is printed cannot be written ({error.strerror})", file=sys.stderr)
            return len(data)


def _stream(descriptor: int, inherited: TextIO | None) -> io.TextIOWrapper:
    """The standard stream, forgiving; a character that its encoding lacks is written as an escape."""
    file = io.BufferedWriter(_Forgiving(descriptor, "w", closefd=False))
    encoding = (inherited and inherited.encoding) or "utf-8"
    return io.TextIOWrapper(file, encoding, errors="backslashreplace", line_buffering=descriptor == 2 or os.isatty(descriptor))
