"""Every unlearning method, measured against the distribution of models retrained without the forget set.

The defaults are the main job, on digits: 24 originals, 48 oracles, every method; minutes on two cores.

    python benchmark.py --exp unlearning
"""

import dataclasses
from typing import Annotated, ClassVar, Literal

from unlearn_jax.bench.kinds import Real, Whole, require
from unlearn_jax.bench.options import FEWEST, QUICK, Seeded, small


@dataclasses.dataclass(frozen=True, kw_only=True)
class Auto:
    """With `--members auto`: which difference is to become visible, that is be called outside the null in 80 of 100 runs."""

    metric: str = "accuracy"
    """A metric of results.csv."""
    split: Literal["forget", "retain", "test", "all"] = "forget"
    """Its split."""
    difference: Annotated[float, Real(above=0)] = 3.0
    """From what retrained models score on average, in the metric's unit (accuracy: percentage points)."""
    most: Annotated[int, Whole(least=FEWEST)] = 64
    """No more models than these."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Seeded):
    """The options of the experiment `unlearning`."""

    members: Annotated[int, Whole(least=2)] | Literal["auto"] = 24
    """Original models, each unlearned by each method; twice as many oracles are trained, for the null. auto: see --auto."""
    auto: Auto = Auto()
    plugin: str | None = None
    """A Python file, or a module, with methods of your own: registered ones, or functions of key, problem and variables."""

    extendable: ClassVar[frozenset[str]] = frozenset({"methods", "members", "auto", "forget_sets", "unlearning_seeds"})

    def check(self) -> None:
        """Raises UsageError on the first invalid value, or on values that contradict each other."""
        super().check()
        used = self.members == "auto" or self.auto == Auto()
        require(used, "--members", self.members, "--auto is used with --members auto only")


def smoke(config: Config) -> Config:
    """The whole path in under a minute: tiny data, a small net, few models, one epoch for every method."""
    return small(config, hyper=QUICK)
