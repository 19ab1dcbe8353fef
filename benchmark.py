"""Runs one experiment, one of the library's or a study: `python benchmark.py --list` shows all."""

if __name__ == "__main__":  # before all other imports, which take seconds: a signal may come during them
    from unlearn_jax import process

    process.prepare("benchmark.py")

import sys

from experiments.registry import EXPERIMENTS
from unlearn_jax.bench.main import main as run_command


def main(words: list[str]) -> int:
    """Runs the command line; returns the exit status: 0, 2 for a user error, 1 for a full disk or memory."""
    return run_command(words, EXPERIMENTS, "benchmark.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
