"""How each metric can be gamed: answers and models that score like retraining on it and are plainly wrong.

The defaults are those of the main job, on digits, and so are its pools; 48 more models are trained. Minutes on two cores.

    python benchmark.py --exp gaming
"""

import dataclasses
from math import inf
from typing import ClassVar

from unlearn_jax.bench import main_options as unlearning
from unlearn_jax.bench.options import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(unlearning.Config):
    """The options of the experiment `gaming`."""

    exp: str = "gaming"
    """The experiment. `--list` shows all."""
    nudge: float = 0.1
    """Noise added to every pixel of the forget set, in standard deviations of the pixels: a lookup does not know it again."""
    nearest: int = 3
    """Retained images whose answers stand in for that on a forget example (the cheat `neighbours`)."""
    spared: float = 0.04
    """Share of the forget set that the cheat `nearly_all` goes on training on; a 95th percentile does not see 5%."""

    extendable: ClassVar[frozenset[str]] = frozenset()

    def check(self) -> None:
        """Raises a UsageError for the first value that cannot be meant."""
        super().check()
        require(self.methods == "main", "--methods", self.methods, "gaming has methods of its own; leave the option out")
        require(self.members != "auto", "--members", self.members, "gaming takes a number")
        require(self.forget_sets == 1, "--forget-sets", self.forget_sets, "gaming takes one; leave the option out")
        require(self.unlearning_seeds == 1, "--unlearning-seeds", self.unlearning_seeds, "gaming takes one; leave the option out")
        require(0 < self.nudge < inf, "--nudge", self.nudge, "expected a number above 0")
        require(self.nearest >= 1, "--nearest", self.nearest, "expected an integer of at least 1")
        require(0 < self.spared < 1, "--spared", self.spared, "expected a share above 0 and below 1")


def smoke(config: Config) -> Config:
    """The whole path in under a minute: tiny data, a small net, few models."""
    small = unlearning.smoke(config)
    assert isinstance(small, Config)
    return small
