"""Which characteristics add to a calibrated membership attack, before and after unlearning?

LiRA fits two Gaussians of the loss to every example: in models that trained on it, and in models that did not. Here the same
is done with other characteristics, alone and beside the loss, and with the same ones uncalibrated: one rule for all examples.
Before: models on random halves of the training set. After: originals that unlearned a forget set, against oracles.

    python benchmark.py --exp calibrated_attacks

The defaults are digits, 96 shadow models, 32 originals and 64 oracles, three methods and retraining.
"""

import dataclasses
from typing import Annotated, ClassVar

from unlearn_jax.bench.kinds import Count, Names, Whole, require
from unlearn_jax.bench.option_groups import Train
from unlearn_jax.bench.options import Hyper, Judging, Methods, Requests

BLOCK = 32  # see `unlearn_jax.bench.pools.BLOCK`: shadow models that are attacked together


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Methods, Hyper, Requests, Judging):
    """The options of the experiment `calibrated_attacks`."""

    exp: str = "calibrated_attacks"
    """The experiment. `--list` shows all."""
    methods: Names = ("original", "retrain", "finetune", "neggrad_plus", "scrub")
    """Names separated by commas; main (the sixteen of the main job) or all. `--list` shows them."""
    members: Annotated[int, Whole(least=8)] = 32
    """Original models, each unlearned by each method (a multiple of 4). Twice as many oracles are trained."""
    shadows: Annotated[int, Whole(least=2 * BLOCK)] = 96
    """Models on random halves of the training set, a multiple of 32: 32 at a time are attacked by what the others say."""
    resamples: Annotated[int, Whole(least=10)] = 200
    """Bootstrap resamples of the attacked models, for intervals."""
    permutations: Count = 10
    """Permutations of what the shadow models trained on, for the null."""

    extendable: ClassVar[frozenset[str]] = frozenset({"methods"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        require(self.shadows % BLOCK == 0, "--shadows", self.shadows, f"expected a multiple of {BLOCK}")
        require(self.members % 4 == 0, "--members", self.members, "expected a multiple of 4: a quarter is attacked at a time")


def smoke(config: Config) -> Config:
    """The whole path in under a minute: tiny data, a small net, few models, one epoch for every method."""
    return dataclasses.replace(
        config,
        smoke=True,
        train_size=120,
        model="mlp",
        width=8,
        members=8,
        shadows=64,
        methods=("original", "finetune"),
        hyper=("*.epochs=1",),
        train=Train(epochs=4, batch_size=32),
        resamples=10,
        permutations=2,
    )
