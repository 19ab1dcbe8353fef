"""U-LiRA: can a likelihood-ratio attack tell, for each example, models that unlearned it from models that never saw it?

Members are trained on random halves of the training set, and each unlearns the targets in its half. The attack is run on the
members before unlearning (LiRA, the upper bound), after each method, and on retrained members (the null). arXiv 2403.01218,
2112.03570.

    python benchmark.py --exp ulira

The defaults are digits, 32 members, every method: about ten minutes on two cores.
"""

import dataclasses
from typing import Annotated, ClassVar

from unlearn_jax.bench.kinds import Real, Whole, require
from unlearn_jax.bench.option_groups import Forget, Null, Train
from unlearn_jax.bench.options import Hyper, Methods, Requests


@dataclasses.dataclass(frozen=True, kw_only=True)
class Targets(Forget):
    """Which training examples are the targets. Of an odd number one is left out."""

    size: Annotated[float, Real(above=0)] = 0.2
    """A share (below 1) or a count. Twice the main job's: the attack has members times targets scores, and methods differ
    mostly on memorised targets, of which a random set has few."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Methods, Hyper, Requests):
    """The options of the experiment `ulira`."""

    exp: str = "ulira"
    """The experiment. `--list` shows all."""
    members: Annotated[int, Whole(least=8)] = 32
    """Models, each trained on a half and unlearned by each method (a multiple of 4). Three times as many are retrained: for each
    member two oracles, and one for the method `retrain`."""
    forget: Targets = Targets()
    evaluation: Null = Null()
    memorised: Annotated[float, Real(above=-1, most=1)] = 0.25
    """Targets count as memorised from this memorisation on (a quarter: Feldman & Zhang, 2008.03703)."""

    extendable: ClassVar[frozenset[str]] = frozenset({"methods"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
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
