"""Progress of a run: a bar on a terminal and in a notebook, elsewhere one line per finished piece of work; the time of each."""

import collections
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import jax

if TYPE_CHECKING:
    import rich.console
    import rich.progress

PAUSE = 0.2  # seconds between two changes of what a notebook displays
Update = Callable[[float, str], None]
SECONDS: collections.Counter[str] = collections.Counter()  # of each stage so far, without the stages inside it
SPANS: list[tuple[str, int, float, float]] = []  # of each finished stage: label, thread, start, seconds
RESTORED = 0.02  # of the seconds that a stage's work would take: one that ends sooner was read, not computed
_open = threading.local()


class Ahead(NamedTuple):
    """A stage that a run has ahead of it.

    Attributes:
        label: as `working` shows it.
        work: in any unit that all stages share; what it takes is learned from the stages before.
        seconds: that it takes besides, whatever the rate.
    """

    label: str
    work: float = 0.0
    seconds: float = 0.0


class _Plan:
    """What a run has ahead of it, and how fast it was so far."""

    def __init__(self, ahead: Iterable[Ahead]):
        self.ahead, self.work, self.seconds = list(ahead), 0.0, 0.0

    def take(self, label: str) -> Ahead:
        """Returns the first stage of this label, which is now under way; those before it were read, or left out."""
        place = next((i for i, each in enumerate(self.ahead) if each.label == label), None)
        if place is None:
            return Ahead(label)
        now, self.ahead = self.ahead[place], self.ahead[place + 1 :]
        return now

    def left(self, now: Ahead, share: float, seconds: float) -> float | None:
        """Returns the seconds left after a share of the present stage took `seconds`; None while no rate is known."""
        work, spent = self.work, self.seconds
        if now.work and share > 0 and not self._restored(now, seconds):
            work, spent = work + share * now.work, spent + seconds
        to_do = sum(each.work for each in self.ahead) + (1 - share) * now.work
        if to_do and not work:
            return None
        fixed = sum(each.seconds for each in self.ahead) + (1 - share) * now.seconds
        return fixed + (to_do * spent / work if to_do else 0.0)

    def finish(self, done: Ahead, seconds: float) -> None:
        """Learns from a stage that ended."""
        if done.work and not self._restored(done, seconds):
            self.work, self.seconds = self.work + done.work, self.seconds + seconds

    def _restored(self, stage: Ahead, seconds: float) -> bool:
        return seconds < (RESTORED * stage.work * self.seconds / self.work if self.work else 0.1)


_plan: _Plan | None = None


@contextlib.contextmanager
def planned(ahead: Iterable[Ahead]) -> Iterator[None]:
    """Lets `working` say, besides its own progress, about how much time is left until all these stages are done.

    Args:
        ahead: the stages in their order; what is skipped is dropped when a later one begins. Stages that are not in it count
            nothing.
    """
    global _plan
    before, _plan = _plan, _Plan(ahead)
    try:
        yield
    finally:
        _plan = before


def about(seconds: float) -> str:
    """Returns a time left in words: no more precise than it is known."""
    if seconds < 90:
        return f"about {5 * max(1, round(seconds / 5))} s left"
    minutes = round(seconds / 60)
    return f"about {minutes} min left" if minutes < 90 else f"about {minutes // 60} h {5 * (minutes % 60 // 5)} min left"


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
    plan, start = _plan, time.perf_counter()
    now = plan.take(label) if plan else Ahead(label)

    def of_run(share: float) -> str:
        """The time left of the whole run; nothing once all is done."""
        if plan is None or not (now.work or now.seconds) or (share == 1 and not plan.ahead):
            return ""
        left = plan.left(now, share, time.perf_counter() - start)
        return "" if left is None else f"whole run: {about(left)}"

    with stage(label), _shown(label, of_run) as update:
        yield update
    if plan:
        plan.finish(now, time.perf_counter() - start)


@contextlib.contextmanager
def _shown(label: str, of_run: Callable[[float], str]) -> Iterator[Update]:
    def words(share: float, text: str) -> str:
        return "; ".join(filter(None, (text, of_run(share))))

    if in_notebook():
        with _in_notebook(label) as update:
            yield lambda share, text: update(share, words(share, text))
    elif sys.stderr.isatty():
        from rich.console import Console

        with _bar(Console(stderr=True)) as bar:
            task = bar.add_task(label, total=1.0, text="")
            yield lambda share, text: bar.update(task, completed=share, text=words(share, text))
    else:
        start, last = time.perf_counter(), ""

        def remember(share: float, text: str) -> None:
            nonlocal last
            last = text

        yield remember
        parts = last, f"{time.perf_counter() - start:.1f} s in total", of_run(1.0)
        print(f"{label}: {'; '.join(filter(None, parts))}", file=sys.stderr, flush=True)


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
