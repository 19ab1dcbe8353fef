"""Runs one experiment: parses the command line, pins the device, runs, and prints where the results are."""

import contextlib
import dataclasses
import importlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from unlearn_jax.bench import command_line
from unlearn_jax.bench.experiments import Experiment
from unlearn_jax.bench.options import Images, Run


def main(words: list[str], experiments: Mapping[str, Experiment], program: str) -> int:
    """Runs the command line.

    Args:
        words: those after the program's name.
        experiments: by name.
        program: its name, for messages.

    Returns:
        The exit status: 0, 2 for a user error, 1 for a full disk or memory.
    """
    if "--list" in words:
        command_line.show_list(experiments)
        return 0
    config = command_line.parse(words, experiments, program)
    cache = config.cache or Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "unlearn_jax"
    try:
        run(dataclasses.replace(config, cache=cache), experiments)
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        return command_line.report_error(error, program)
    return 0


def run(config: Run, experiments: Mapping[str, Experiment]) -> None:
    """Runs the experiment into its folder. JAX is imported only here, so that `--help` answers at once."""
    from unlearn_jax import device

    device.pin(config.device, config.precision if isinstance(config, Images) else "default", config.deterministic)
    config.check()
    with _workers(config):
        _run(config, experiments)


@contextlib.contextmanager
def _workers(config: Run) -> Iterator[None]:
    """The workers that a run asks for; without any, Dask is not imported."""
    count, scheduler = getattr(config, "workers", None), getattr(config, "scheduler", None)
    if count is None and scheduler is None:
        yield
        return
    from unlearn_jax import cluster, workers

    with cluster.connected(scheduler) if scheduler else cluster.embedded(count or 1) as found, workers.using(found):
        yield


def _run(config: Run, experiments: Mapping[str, Experiment]) -> None:
    from unlearn_jax import device, process, runs
    from unlearn_jax.errors import ArgumentError
    from unlearn_jax.profile import profiled
    from unlearn_jax.progress import stage

    created = [] if config.out else runs.claim(Path("runs") / f"{config.exp}-{time.strftime('%Y%m%d-%H%M%S')}")
    out = config.out or created[-1]
    config = dataclasses.replace(config, out=out)
    assert config.cache
    process.advise(f"run the same command with --out {out} to resume")
    extendable = config.immaterial | config.extendable
    folder = runs.open_run(out, config.recorded(), extendable=extendable, cache=config.cache, made=created)
    traces = out / "profile" if config.profile and config.smoke else None
    traced_before = traces is not None and traces.exists()
    page = out / "report.html"
    before = _stamp(page)
    try:
        device.keep_compiled(config.cache / "xla")
        if config.smoke:
            device.compile_quickly()
        folder.record(device=device.describe(), about=experiments[config.exp].about)
        with profiled(folder, traces) if config.profile else contextlib.nullcontext():
            with stage("imports"):
                experiment = importlib.import_module(experiments[config.exp].module)
                curves = importlib.import_module("unlearn_jax.bench.curves")
            with curves.recording(folder, getattr(config, "tensorboard", False)):
                experiment.run(config, folder)
            if _stamp(page) == before:  # it wrote none of its own
                importlib.import_module("unlearn_jax.bench.study_page").write(folder)
    except ArgumentError:  # leave no config.json that the corrected command would contradict
        if traces and not traced_before:
            shutil.rmtree(traces, ignore_errors=True)
        folder.withdraw()
        raise
    print(f"Results: {out}/ ({config.exp} on {device.describe()})\nOpen {page}: the results in words, tables and charts")


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes whenever a file is written; None if there is none."""
    try:
        return (found := path.stat()).st_ino, found.st_mtime_ns
    except OSError:
        return None
