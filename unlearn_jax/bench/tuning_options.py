"""The hyperparameters of every method on one data set, found by a search of equal budget.

    python benchmark.py --exp tuning --dataset digits --out runs/tuning-digits
    cp runs/tuning-digits/tuned.json unlearn_jax/bench/tuned/digits.json

The search has its own originals, oracles and forget set (their keys come from another seed), and measures utility on
held-out training data: it sees nothing that the evaluation uses. Minutes on two cores for digits.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Suppress

from unlearn_jax.bench.kinds import Count, Whole, fixed, require
from unlearn_jax.bench.options import Forget, Judged, Methods, Requests, Train


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn(Forget):
    """Which training examples to forget: the next forget set of the kind after the evaluation's."""

    file: Suppress[Path | None] = fixed(None)

    def check(self) -> None:
        """Raises ArgumentError as for other forget sets, and for a kind of which only one set exists."""
        several = self.kind not in ("mislabelled", "file")
        require(several, "--forget.kind", self.kind, "tuning needs a second set of this kind, and only one exists")
        super().check()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget(Methods, Requests):
    """The budget of every trial."""

    members: Annotated[int, Whole(least=2)] = 4
    """Original models that each trial unlearns; as many oracles judge it."""
    epochs: Count = 5
    """Passes over the data of every method that makes passes: the same for all, instead of the authors'."""
    batch_size: Count = 64
    """Examples per step, for every method that takes steps."""
    forget: Drawn = Drawn()
    evaluation: Judged = Judged()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Budget):
    """The options of the experiment `tuning`."""

    exp: str = "tuning"
    """The experiment. `--list` shows all of them."""
    trials: Annotated[int, Whole(least=2)] = 12
    """Hyperparameter settings to try for each method; the first is the authors'."""
    rounds: Count = 2
    """The first round draws trials from the whole search space, later rounds around the best so far."""

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        require(self.rounds <= self.trials, "--rounds", self.rounds, "expected at most the number of trials")


def smoke(config: Config) -> Config:
    """The whole search in seconds."""
    return dataclasses.replace(
        config,
        smoke=True,
        train_size=300,
        model="mlp",
        members=2,
        trials=4,
        epochs=1,
        methods=("finetune", "fisher"),
        train=Train(epochs=2, batch_size=64),
    )
