"""How each metric can be gamed: answers and models that score like retraining but are plainly wrong.

The defaults and pools are the main job's, on digits, and 48 more models are trained. Minutes on two cores.

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
    """Noise added to the forget set, in standard deviations of the pixels, so that a lookup does not recognise it."""
    nearest: Count = 3
    """Nearest retained images whose mean answer replaces that on a forget example (the cheat `neighbours`)."""
    spared: Annotated[float, Real(above=0, below=1)] = 0.04
    """Share of the forget set that the cheat `nearly_all` still trains on; a 95th percentile ignores up to 5%."""

    def method_names(self) -> list[str]:
        """The one method whose models are among the cheats; it takes hyperparameters."""
        return ["gradient_ascent"]


def smoke(config: Config) -> Config:
    """The whole path in under a minute: tiny data, a small net, few models."""
    return small(config, hyper=QUICK)
