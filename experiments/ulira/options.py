"""U-LiRA: can a likelihood-ratio attack tell, example by example, a model that unlearned it from one that never saw it?

Members are trained on random halves of the training set, and each unlearns what it holds of the targets; the attack is played
on the untouched members (LiRA, the upper end), on each method, and on retrained members (the null). arXiv 2403.01218, 2112.03570.

    python benchmark.py --exp ulira

The defaults are digits, 32 members, every method: about ten minutes on two cores.
"""

import dataclasses
from typing import Annotated, ClassVar

from unlearn_jax.bench.kinds import Real, Whole, require
from unlearn_jax.bench.options import Forget, Hyper, Methods, Null, Requests, Train


@dataclasses.dataclass(frozen=True, kw_only=True)
class Targets(Forget):
    """Which training examples are the targets: an even number (one of an odd number is left out)."""

    size: Annotated[float, Real(above=0)] = 0.2
    """A share (below 1) or a count, as in the main job, of which the default is twice as large: the scores of the attack are
    members times targets, and those on memorised targets, few in any random set, are what tells methods apart."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Methods, Hyper, Requests):
    """The options of the experiment `ulira`."""

    exp: str = "ulira"
    """The experiment. `--list` shows all."""
    members: Annotated[int, Whole(least=8)] = 32
    """Models that train on a half each and are unlearned by each method (a multiple of 4); three times as many are retrained:
    two for each as the never-saw side and its null, one for `retrain` as a method."""
    forget: Targets = Targets()
    evaluation: Null = Null()
    memorised: Annotated[float, Real(above=-1, most=1)] = 0.25
    """Targets are split in those whose memorisation is below, and at least, this (a quarter: Feldman & Zhang, 2008.03703)."""

    extendable: ClassVar[frozenset[str]] = frozenset({"methods"})

    def check(self) -> None:
        """Raises UsageError on the first invalid value, or on values that contradict each other."""
        super().check()
        accepted = "expected a multiple of 4, at least 8: halves of halves, and 3 in each fit"
        require(self.members % 4 == 0, "--members", self.members, accepted)


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
        evaluation=Null(splits=20),
    )
