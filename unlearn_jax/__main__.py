"""The command `unlearn-jax`, also `python -m unlearn_jax`: the experiments that the library brings."""

import sys


def main() -> int:
    """Runs the command line; returns the exit status: 0, 2 for a user error, 1 for a full disk or memory."""
    from unlearn_jax import process

    process.prepare("unlearn-jax")  # before all other imports, which take seconds: a signal may come during them
    from unlearn_jax.bench.experiments import EXPERIMENTS
    from unlearn_jax.bench.main import main as run_command

    return run_command(sys.argv[1:], EXPERIMENTS, "unlearn-jax")


if __name__ == "__main__":
    sys.exit(main())
