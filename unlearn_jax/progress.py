"""Progress of a run: a bar on a terminal, elsewhere one line per finished piece of work; and the time of each."""

import collections
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

import jax

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
        A function of the share done, in [0, 1], and a text. On a terminal it moves a bar with the time left; elsewhere only the
        last text is printed, with the seconds taken.
    """
    with stage(label), _shown(label) as update:
        yield update


@contextlib.contextmanager
def _shown(label: str) -> Iterator[Update]:
    start, last = time.perf_counter(), ""
    if not sys.stderr.isatty():

        def remember(share: float, text: str) -> None:
            nonlocal last
            last = text

        yield remember
        print(f"{label}: {last + '; ' if last else ''}{time.perf_counter() - start:.1f} s in total", file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=1.0, text="")
        yield lambda share, text: bar.update(task, completed=share, text=text)
