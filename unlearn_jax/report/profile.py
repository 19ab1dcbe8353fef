"""Where a run's time goes: its most expensive stages, and a trace that Perfetto and TensorBoard open."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax

from unlearn_jax.report import Folder
from unlearn_jax.report.progress import SECONDS

SHOWN = 10


@contextlib.contextmanager
def profiled(folder: Folder, trace: Path) -> Iterator[None]:
    """Trace what happens meanwhile, and say which stages took longest: on stdout, and in the run folder's stages.md.

    `plugins/profile/*/perfetto_trace.json.gz` opens at ui.perfetto.dev, and `tensorboard --logdir` shows the same. The stages are
    spans in it, beside the programs that ran; Python's own calls are left out, which would fill gigabytes.

    Args:
        folder: the run folder.
        trace: the folder that the trace goes into.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    options.host_tracer_level = 1
    SECONDS.clear()
    start = time.perf_counter()
    jax.profiler.start_trace(trace, create_perfetto_trace=True, profiler_options=options)
    try:
        yield
    finally:
        taken = time.perf_counter() - start
        jax.profiler.stop_trace()
    text = expensive(SECONDS, taken)
    folder.write_text("stages.md", text)
    print(text)


def expensive(seconds: Mapping[str, float], total: float) -> str:
    """A Markdown table of the stages that took longest.

    Args:
        seconds: of each stage.
        total: of the whole run. Stages that ran beside each other may come to more than it.
    """
    longest = sorted(seconds.items(), key=lambda item: -item[1])
    rows = longest[:SHOWN]
    others = sum(taken for _, taken in longest[SHOWN:])
    rows += [(f"{len(longest) - SHOWN} other stages", others)] if others else []
    rows += [("between stages", max(total - sum(seconds.values()), 0.0)), ("the whole run", total)]
    lines = [f"| {label} | {taken:.1f} | {taken / total:.0%} |" for label, taken in rows]
    return "\n".join(["| stage | seconds | share |", "| :-- | --: | --: |", *lines, ""])
