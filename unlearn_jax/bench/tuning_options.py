"""The hyperparameters of every method on one data set, found by a search of equal budget.

    python benchmark.py --exp tuning --dataset digits --out runs/tuning-digits
    cp runs/tuning-digits/tuned.json unlearn_jax/bench/tuned/digits.json

Originals, oracles and forget set are its own (their keys come from another seed), and utility is measured on held-out
training data: nothing that the evaluation uses is seen. Minutes on two cores for digits.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Suppress

from unlearn_jax.bench.kinds import Count, Whole, fixed, require
from unlearn_jax.bench.options import Forget, Judged, Methods, Requests, Train


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn(Forget):
    """Which training examples are to be forgotten: the next of the kind after the evaluation's."""

    file: Suppress[Path | None] = fixed(None)

    def check(self) -> None:
        """Raises UsageError for a kind of which there is one set, and as for other forget sets."""
        another = self.kind not in ("mislabelled", "file")
        require(another, "--forget.kind", self.kind, "settings are judged on another set of the kind: there is none")
        super().check()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget(Methods, Requests):
    """What every setting of every method may spend."""

    members: Annotated[int, Whole(least=2)] = 4
    """Original models that each setting unlearns; as many oracles judge it."""
    epochs: Count = 5
    """Passes of every method that makes passes, instead of the authors': the same for all."""
    batch_size: Count = 64
    """Examples per step of every method that takes steps."""
    forget: Drawn = Drawn()
    evaluation: Judged = Judged()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Budget):
    """The options of the experiment `tuning`."""

    exp: str = "tuning"
    """The experiment. `--list` shows all."""
    trials: Annotated[int, Whole(least=2)] = 12
    """Settings of each method, the authors' own among them."""
    rounds: Count = 2
    """Trials are drawn from the whole space in the first round, around the best so far in the others."""

    def check(self) -> None:
        """Raises UsageError on the first invalid value, or on values that contradict each other."""
        super().check()
        require(self.rounds <= self.trials, "--rounds", self.rounds, "expected at most the number of trials")


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
        methods=("finetune", "fisher"),
        train=Train(epochs=2, batch_size=64),
    )
