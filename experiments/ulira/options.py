"""U-LiRA: can a likelihood-ratio attack tell, example by example, a model that unlearned it from one that never saw it?

Members are trained on random halves of the training set, and each unlearns what it holds of the targets; the attack is played
on the untouched members (LiRA, the upper end), on each method, and on retrained members (the null). arXiv 2403.01218, 2112.03570.

    python benchmark.py --exp ulira

The defaults are digits, 32 members, every method: about ten minutes on two cores.
"""

import dataclasses
from typing import ClassVar

from unlearn_jax.bench.main_options import Config as Unlearning
from unlearn_jax.bench.main_options import Evaluation, Forget
from unlearn_jax.bench.options import Train, require

TARGETS = Forget(size=0.2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Unlearning):
    """The options of the experiment `ulira`."""

    exp: str = "ulira"
    """The experiment. `--list` shows all."""
    members: int = 32
    """Models that train on a half each and are unlearned by each method (a multiple of 4); three times as many are retrained:
    two for each as the never-saw side and its null, one for `retrain` as a method."""
    forget: Forget = TARGETS
    """The targets, an even number (one of an odd number is left out). Twice the main job's share, since the scores of the attack
    are members times targets, and those on memorised targets, few in any random set, are what tells methods apart."""
    memorised: float = 0.25
    """Targets are split in those whose memorisation is below, and at least, this (a quarter: Feldman & Zhang, 2008.03703)."""

    extendable: ClassVar[frozenset[str]] = frozenset({"methods"})

    def check(self) -> None:
        """Raises a UsageError for the first value that cannot be meant."""
        super().check()
        halves = self.members >= 8 and self.members % 4 == 0
        require(halves, "--members", self.members, "expected a multiple of 4, at least 8: halves of halves, and 3 in each fit")
        require(self.forget_sets == 1, "--forget-sets", self.forget_sets, "ulira has one set of targets")
        require(self.unlearning_seeds == 1, "--unlearning-seeds", self.unlearning_seeds, "expected 1: here a method runs once")
        unused = self.evaluation.retain_size == Evaluation().retain_size
        require(unused, "--evaluation.retain-size", self.evaluation.retain_size, "ulira looks at no retained examples")
        require(-1 < self.memorised <= 1, "--memorised", self.memorised, "expected a number above -1 and at most 1")


def smoke(config: Config) -> Config:
    """The whole path in under a minute: tiny data, a small net, few models, one epoch for every method."""
    return dataclasses.replace(
        config,
        smoke=True,
        train_size=300,
        model="mlp",
        width=16,
        members=8,
        hyper=("*.epochs=1",),
        train=Train(epochs=10, batch_size=32),
        evaluation=Evaluation(splits=20),
    )
