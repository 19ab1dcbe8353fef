"""How far a run is: one line that keeps changing on a terminal, a line for each piece of work elsewhere; and what each took."""

import collections
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

import jax

Update = Callable[[float, str], None]
SECONDS: collections.Counter[str] = collections.Counter()  # of each stage so far, without those inside it
SPANS: list[tuple[str, int, float, float]] = []  # of each stage that has ended: thread, when it began, how long it took
_open = threading.local()


@contextlib.contextmanager
def stage(label: str) -> Iterator[None]:
    """Count a piece of work among those that the run's time goes into, and name it in a trace; nothing is shown."""
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
    """Show a piece of work while it lasts.

    Yields:
        A function of the share done, in [0, 1], and of what there is to say about it. On a terminal it moves a bar with the
        time left; elsewhere only the last thing said is printed, with the seconds taken.
    """
    with stage(label), _shown(label) as update:
        yield update


@contextlib.contextmanager
def _shown(label: str) -> Iterator[Update]:
    start, said = time.perf_counter(), ""
    if not sys.stderr.isatty():

        def remember(share: float, text: str) -> None:
            nonlocal said
            said = text

        yield remember
        print(f"{label}: {said + ', ' if said else ''}{time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=1.0, said="")
        yield lambda share, text: bar.update(task, completed=share, said=text)
