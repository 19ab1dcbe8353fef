"""How each metric can be gamed: answers and models that score like retraining on it and are plainly wrong.

The defaults are those of the main job, on digits, and so are its pools; 48 more models are trained. Minutes on two cores.

    python benchmark.py --exp gaming
"""

import dataclasses
from typing import Annotated

from unlearn_jax.bench.kinds import Count, Real, Whole
from unlearn_jax.bench.options import QUICK, Hyper, Judging, Requests, small


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Hyper, Requests, Judging):
    """The options of the experiment `gaming`."""

    exp: str = "gaming"
    """The experiment. `--list` shows all."""
    members: Annotated[int, Whole(least=2)] = 24
    """Original models, each unlearned by gradient ascent; twice as many oracles are trained, for the null."""
    nudge: Annotated[float, Real(above=0)] = 0.1
    """Noise added to every pixel of the forget set, in standard deviations of the pixels: a lookup does not know it again."""
    nearest: Count = 3
    """Retained images whose answers stand in for that on a forget example (the cheat `neighbours`)."""
    spared: Annotated[float, Real(above=0, below=1)] = 0.04
    """Share of the forget set that the cheat `nearly_all` goes on training on; a 95th percentile does not see 5%."""


def smoke(config: Config) -> Config:
    """The whole path in under a minute: tiny data, a small net, few models."""
    return small(config, hyper=QUICK)
