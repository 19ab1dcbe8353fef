"""The hyperparameters of every method on one data set, found by a search of equal budget.

    python benchmark.py --exp tuning --dataset digits --out runs/tuning-digits
    cp runs/tuning-digits/tuned.json unlearn_jax/bench/tuned/digits.json

Originals, oracles and forget set are its own (their keys come from another seed), and utility is measured on held-out
training data: nothing that the evaluation uses is seen. Minutes on two cores for digits.
"""

import dataclasses
from typing import ClassVar

from unlearn_jax.bench.main_options import Config as Unlearning
from unlearn_jax.bench.options import Train, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget(Unlearning):
    """What every setting of every method may spend."""

    members: int = 4
    """Original models that each setting unlearns; as many oracles judge it."""
    epochs: int = 5
    """Passes of every method that makes passes, instead of the authors': the same for all."""
    batch_size: int = 64
    """Examples per step of every method that takes steps."""

    extendable: ClassVar[frozenset[str]] = frozenset()

    def check(self) -> None:
        """Raises a UsageError for the first value that cannot be meant."""
        super().check()
        require(self.epochs >= 1, "--epochs", self.epochs, "expected an integer of at least 1")
        require(self.forget_sets == 1, "--forget-sets", self.forget_sets, "expected 1: settings are judged on one forget set")
        require(self.unlearning_seeds == 1, "--unlearning-seeds", self.unlearning_seeds, "expected 1: a setting runs once")
        another = self.forget.kind not in ("mislabelled", "file")
        require(another, "--forget.kind", self.forget.kind, "settings are judged on another set of the kind: there is none")
        require(self.batch_size >= 1, "--batch-size", self.batch_size, "expected an integer of at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Budget):
    """The options of the experiment `tuning`."""

    exp: str = "tuning"
    """The experiment. `--list` shows all."""
    trials: int = 12
    """Settings of each method, the authors' own among them."""
    rounds: int = 2
    """Trials are drawn from the whole space in the first round, around the best so far in the others."""

    def check(self) -> None:
        """Raises a UsageError for the first value that cannot be meant."""
        super().check()
        require(self.trials >= 2, "--trials", self.trials, "expected an integer of at least 2")
        require(1 <= self.rounds <= self.trials, "--rounds", self.rounds, "expected an integer from 1 to the number of trials")


def smoke(config: Config) -> Config:
    """The whole path in seconds."""
    return dataclasses.replace(
        config,
        smoke=True,
        train_size=300,
        model="mlp",
        members=2,
        trials=4,
        epochs=1,
        methods="finetune,fisher",
        train=Train(epochs=2, batch_size=64),
    )
