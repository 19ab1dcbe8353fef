"""The hyperparameters of every method on one data set: a search, and its check on models and forget sets that it did not see.

    python benchmark.py --exp tuning --dataset digits --out runs/tuning-digits
    cp runs/tuning-digits/tuned.json unlearn_jax/bench/tuned/digits.json

The search has its own originals, oracles and forget sets (their keys come from another seed), and measures utility on
held-out training data: it sees nothing that the evaluation uses. What it found is then judged on a second panel of originals,
oracles and forget sets; where it is no better than the authors' values there, those are used.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Suppress

from unlearn_jax.bench.kinds import Count, Whole, fixed, require
from unlearn_jax.bench.option_groups import Forget, Judged, Train
from unlearn_jax.bench.options import SETS, Methods, Requests
from unlearn_jax.bench.tuned import TUNED


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn(Forget):
    """Which training examples to forget: other forget sets of the kind than the evaluation's."""

    file: Suppress[Path | None] = fixed(None)

    def check(self) -> None:
        """Raises ArgumentError as for other forget sets, and for a kind of which only one set exists."""
        several = self.kind not in ("mislabelled", "file")
        require(several, "--forget.kind", self.kind, "tuning needs further sets of this kind, and only one exists")
        super().check()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget(Methods, Requests):
    """The budget of every trial."""

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
    members: Annotated[int, Whole(least=4)] = 16
    """Original models that the best trials unlearn; as many others judge what was found. A forget set has twice as
    many oracles."""
    forget_sets: Annotated[int, Whole(least=1, most=SETS)] = 3
    """Forget sets of the search; as many others judge what was found."""
    trials: Annotated[int, Whole(least=2)] = 12
    """Settings to try for each hyperparameter that is searched: a method with three gets three times as many. The first is the
    authors'."""
    rounds: Count = 2
    """The first round draws trials from the whole search space, later rounds around the best so far."""
    keep: Annotated[int, Whole(least=1)] = 4
    """Each round judges all its trials on a share of 1 / keep of the originals (on more, if so few remember too little of
    the forget sets to measure), then the best 1 / keep of the trials on all."""

    transfer: str | None = None
    """Search nothing: judge the values that were tuned on this data set, beside the authors'."""

    extendable: ClassVar[frozenset[str]] = frozenset({"methods"})
    later: ClassVar[frozenset[str]] = Requests.later | {"transfer"}

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        require(self.rounds <= self.trials, "--rounds", self.rounds, "expected at most the number of trials")
        expected = "expected at least 3 originals in the first judgement, --members / --keep"
        require(self.members >= 3 * self.keep, "--keep", self.keep, expected)
        known = sorted(dataset for dataset in TUNED if dataset != self.dataset)
        accepted = f"nothing was tuned there; expected {' or '.join(known) or 'no such option'}"
        require(self.transfer is None or self.transfer in known, "--transfer", self.transfer, accepted)


def smoke(config: Config) -> Config:
    """The whole search in seconds."""
    return dataclasses.replace(
        config,
        smoke=True,
        train_size=300,
        model="mlp",
        width=32,
        members=4,
        forget_sets=2,
        trials=4,
        keep=1,
        epochs=1,
        methods=("finetune", "gradient_ascent"),
        train=Train(epochs=20, batch_size=64),
    )
