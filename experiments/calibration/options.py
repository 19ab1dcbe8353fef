"""How often a perfect method is called outside: the false-positive rate of the verdict, on fresh pools.

python benchmark.py --exp calibration --out runs/calibration
"""

import dataclasses
from typing import Annotated, ClassVar

from unlearn_jax.bench.kinds import Count, Whole
from unlearn_jax.bench.options import FEWEST, Judging, Requests, Train


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Requests, Judging):
    """The options of the experiment `calibration`."""

    exp: str = "calibration"
    """The experiment. `--list` shows all."""
    model: str = "mlp"
    """resnet8, 14, 20, ... (6n+2), resnet18 or mlp."""
    width: Count = 64
    """Channels of the first stage, or hidden units of the MLP."""
    members: Annotated[int, Whole(least=FEWEST)] = 12
    """Retrained models that are judged as a method's; twice as many others are their oracles."""
    replicates: Count = 40
    """How often, each time with fresh models."""

    extendable: ClassVar[frozenset[str]] = frozenset({"replicates"})


def smoke(config: Config) -> Config:
    """The whole path in seconds."""
    return dataclasses.replace(config, smoke=True, train_size=300, members=8, replicates=2, train=Train(epochs=2))
