"""Every unlearning method, measured against the distribution of models retrained without the forget set.

The defaults are the main job on digits: 24 originals, 48 oracles, 16 methods; minutes on two cores.

    python benchmark.py --exp unlearning
"""

import dataclasses
from typing import Annotated, ClassVar, Literal

from unlearn_jax.bench.kinds import Real, Whole, require
from unlearn_jax.bench.options import FEWEST, QUICK, Seeded, small


@dataclasses.dataclass(frozen=True, kw_only=True)
class Auto:
    """With `--members auto`: the difference to be detected, that is, called outside the null in 80 of 100 runs."""

    metric: str = "accuracy"
    """The metric, as named in results.csv."""
    split: Literal["forget", "retain", "test", "all"] = "forget"
    """The split of the metric."""
    difference: Annotated[float, Real(above=0)] = 3.0
    """Difference from the mean score of retrained models, in the metric's unit (accuracy: percentage points)."""
    most: Annotated[int, Whole(least=FEWEST)] = 64
    """The most original models to train."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Seeded):
    """The options of the experiment `unlearning`."""

    members: Annotated[int, Whole(least=2)] | Literal["auto"] = 24
    """Number of original models, each unlearned by every method; twice as many oracles are trained. auto: see --auto."""
    auto: Auto = Auto()
    plugin: str | None = None
    """A Python file, or a module, with methods of your own: registered ones, or functions of key, problem and variables."""

    extendable: ClassVar[frozenset[str]] = frozenset({"methods", "members", "auto", "forget_sets", "unlearning_seeds"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        consistent = self.members == "auto" or self.auto == Auto()
        require(consistent, "--members", self.members, "the --auto options need --members auto")


def smoke(config: Config) -> Config:
    """The whole job in under a minute: little data, a small network, few models, one epoch for every method."""
    return small(config, hyper=QUICK)
