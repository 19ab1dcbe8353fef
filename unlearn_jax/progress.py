"""Progress of a run: a bar on a terminal and in a notebook, elsewhere one line per finished piece of work; the time of each."""

import collections
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import jax

if TYPE_CHECKING:
    import rich.console
    import rich.progress

PAUSE = 0.2  # seconds between two changes of what a notebook displays
Update = Callable[[float, str], None]
SECONDS: collections.Counter[str] = collections.Counter()  # of each stage so far, without the stages inside it
SPANS: list[tuple[str, int, float, float]] = []  # of each finished stage: label, thread, start, seconds
_open = threading.local()


@contextlib.contextmanager
def stage(label: str) -> Iterator[None]:
    """Times a piece of work and names it in traces; shows nothing."""
    start, within = time.perf_counter(), _open.__dict__.setdefault("within", [])
    within.append(0.0)  # seconds of the stages inside
    try:
        with jax.profiler.TraceAnnotation(label):
            yield
    finally:
        taken = time.perf_counter() - start
        SECONDS[label] += taken - within.pop()
        SPANS.append((label, threading.get_ident(), start, taken))
        if within:
            within[-1] += taken


@contextlib.contextmanager
def working(label: str) -> Iterator[Update]:
    """Shows the progress of a piece of work.

    Yields:
        A function of the share done, in [0, 1], and a text. On a terminal and in a notebook it moves a bar with the time left;
        elsewhere only the last text is printed, with the seconds taken.
    """
    with stage(label), _shown(label) as update:
        yield update


@contextlib.contextmanager
def _shown(label: str) -> Iterator[Update]:
    if in_notebook():
        with _in_notebook(label) as update:
            yield update
    elif sys.stderr.isatty():
        from rich.console import Console

        with _bar(Console(stderr=True)) as bar:
            task = bar.add_task(label, total=1.0, text="")
            yield lambda share, text: bar.update(task, completed=share, text=text)
    else:
        start, last = time.perf_counter(), ""

        def remember(share: float, text: str) -> None:
            nonlocal last
            last = text

        yield remember
        print(f"{label}: {last + '; ' if last else ''}{time.perf_counter() - start:.1f} s in total", file=sys.stderr, flush=True)


def in_notebook() -> bool:
    """Whether a notebook runs this code: the shell of its cells then belongs to a kernel."""
    ipython = sys.modules.get("IPython")
    return getattr(ipython and ipython.get_ipython(), "kernel", None) is not None


@contextlib.contextmanager
def _in_notebook(label: str) -> Iterator[Update]:
    """A bar below the cell. Rich moves one only with ipywidgets; this replaces what is displayed, which every notebook can."""
    from IPython.display import display

    bar = _bar()
    task = bar.add_task(label, total=1.0, text="")
    shown, moved = display(bar, display_id=True), time.perf_counter()

    def update(share: float, text: str) -> None:
        nonlocal moved
        bar.update(task, completed=share, text=text)
        if time.perf_counter() - moved > PAUSE:
            shown.update(bar)
            moved = time.perf_counter()

    try:
        yield update
    finally:
        shown.update(bar)


def _bar(console: "rich.console.Console | None" = None) -> "rich.progress.Progress":
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)
