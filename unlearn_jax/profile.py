"""Where the time of a run goes: its longest stages, and traces for Perfetto and TensorBoard."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax

from unlearn_jax.progress import SECONDS, SPANS
from unlearn_jax.report import Folder
from unlearn_jax.report.tables import markdown, page

SHOWN = 10


@contextlib.contextmanager
def profiled(folder: Folder, programs: Path | None = None) -> Iterator[None]:
    """Prints the longest stages and writes them as stages.md and, as a trace of all stages, `stages.json`.

    Open the trace in Perfetto (ui.perfetto.dev) or chrome://tracing.

    Args:
        folder: the run folder.
        programs: a folder for JAX's trace of every operation: `plugins/profile/*/perfetto_trace.json.gz` for Perfetto, the
            folder for `tensorboard --logdir`. For short runs only: it is held in memory until the end, 15 GB after eleven
            minutes of the main job.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    options.host_tracer_level = 1
    SECONDS.clear()
    SPANS.clear()
    start = time.perf_counter()
    if programs is not None:
        jax.profiler.start_trace(programs, create_perfetto_trace=True, profiler_options=options)
    try:
        yield
    finally:
        total = time.perf_counter() - start
        if programs is not None:
            jax.profiler.stop_trace()
    folder.write_json("stages.json", {"traceEvents": events(SPANS, start)})
    text = longest_stages(SECONDS, total)
    folder.write_text("stages.md", text)
    print(text)


def events(spans: Sequence[tuple[str, int, float, float]], start: float) -> list[dict[str, str | int | float]]:
    """Converts spans to Chrome's "complete" trace events: a row for each thread, times in microseconds from `start`."""
    rows = {thread: row for row, thread in enumerate(dict.fromkeys(thread for _, thread, _, _ in spans))}
    return [
        {"name": label, "ph": "X", "pid": 0, "tid": rows[thread], "ts": 1e6 * (began - start), "dur": 1e6 * took}
        for label, thread, began, took in spans
    ]


def longest_stages(seconds: Mapping[str, float], total: float) -> str:
    """Returns a Markdown table of the longest stages.

    Args:
        seconds: of each stage.
        total: seconds of the whole run. Stages in parallel may sum to more.
    """
    longest = sorted(seconds.items(), key=lambda item: -item[1])
    rows = longest[:SHOWN]
    others = sum(taken for _, taken in longest[SHOWN:])
    rows += [(f"{len(longest) - SHOWN} other stages", others)] if others else []
    rows += [("between stages", max(total - sum(seconds.values()), 0.0)), ("the whole run", total)]
    lines = [[label, f"{taken:.1f}", f"{taken / total:.0%}"] for label, taken in rows]
    return page(markdown(("stage", "seconds", "share"), lines, left=(0,)))
