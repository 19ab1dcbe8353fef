"""A kit for people who use another framework: the data, the models to unlearn, and the logits that a verdict takes.

    python benchmark.py --exp export --dataset digits --out runs/kit

Originals and oracles are trained as the main job trains them, and the kit is in kit/ of the run folder (docs/external.md).
Minutes on two cores.
"""

import dataclasses
from typing import Annotated, ClassVar, Literal

from unlearn_jax.bench.kinds import Whole
from unlearn_jax.bench.options import Judging, Requests, Starting, small


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Starting, Requests, Judging):
    """The options of the experiment `export`."""

    exp: str = "export"
    """The experiment. `--list` shows all."""
    members: Annotated[int, Whole(least=2)] = 24
    """Number of original models in the kit; the logits of twice as many oracles are. Below 8 there is no verdict."""
    padding: Literal["same", "torch"] = "torch"
    """Where a ResNet's convolutions of stride 2 put their zeros: torch, for PyTorch to compute the same; or same, as in Flax."""

    later: ClassVar[frozenset[str]] = frozenset()
    immaterial: ClassVar[frozenset[str]] = Judging.immaterial | {"init"}  # `given` is compared


def smoke(config: Config) -> Config:
    """A tiny kit in seconds."""
    return small(config)
