"""Runs one experiment: parses the command line, pins the device, runs, and says where the results are."""

import contextlib
import dataclasses
import importlib
import os
import shutil
import sys
import time
from pathlib import Path

from configs import command_line
from configs.common import Common


def main(words: list[str]) -> int:
    """Runs the command line; returns the exit status: 0, 2 for a mistake that a person made, 130 for Ctrl-C."""
    if "--list" in words:
        command_line.show_list()
        return 0
    config = command_line.parse(words)
    out = config.out or Path("runs") / f"{config.exp}-{time.strftime('%Y%m%d-%H%M%S')}"
    cache = config.cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unlearn_jax"
    try:
        run(dataclasses.replace(config, out=out, cache=cache))
    except KeyboardInterrupt:
        print(f"\n{command_line.PROGRAM}: stopped; the same command with --out {out} resumes", file=sys.stderr)
        return 130
    except ValueError as error:
        from unlearn_jax.types import UsageError

        if not isinstance(error, UsageError):
            raise
        print(f"{command_line.PROGRAM}: {error}", file=sys.stderr)
        return 2
    return 0


def run(config: Common) -> None:
    """Runs the experiment into its folder. JAX is imported only here, so that `--help` answers at once."""
    from unlearn_jax import device, runs
    from unlearn_jax.report.profile import profiled
    from unlearn_jax.report.progress import stage
    from unlearn_jax.types import UsageError

    assert config.out and config.cache
    device.pin(config.device)
    config.check()
    device.keep_compiled(config.cache / "xla")
    if config.smoke:
        device.compile_quickly()
    earlier = (config.out / "config.json").read_bytes() if (config.out / "config.json").is_file() else None
    folder = runs.open_run(config.out, config.recorded(), extendable=config.immaterial | config.extendable)
    folder.record(device=device.describe())
    try:
        with profiled(folder, config.out / "profile" if config.smoke else None) if config.profile else contextlib.nullcontext():
            with stage("imports"):
                experiment = importlib.import_module(f"experiments.{config.exp}")
            experiment.run(config, folder)
    except UsageError:  # as if nothing had been asked, or the corrected command would contradict it
        if earlier is None:
            shutil.rmtree(config.out)
        else:
            folder.write_bytes("config.json", earlier)
        raise
    print(f"Results: {config.out}/ ({config.exp} on {device.describe()})")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
