"""What can be asked of an experiment: typed defaults that document themselves. Nothing here imports JAX."""

from configs import unlearning

EXPERIMENTS = {
    "unlearning": (unlearning, "every unlearning method against the distribution of retrained models"),
}
"""Experiment -> (the module with its `Config` and `smoke`, one line on what it finds out)."""
