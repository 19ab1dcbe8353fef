"""The verdict's false-positive rate: how often it calls a perfect method different, on fresh pools.

python benchmark.py --exp calibration --out runs/calibration
"""

import dataclasses
from typing import Annotated, ClassVar

from unlearn_jax.bench.kinds import Count, Whole
from unlearn_jax.bench.option_groups import Train
from unlearn_jax.bench.options import FEWEST, Judging, Requests


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
    """Retrained models judged as if they were a method's; twice as many are their oracles."""
    replicates: Count = 40
    """Repetitions, each with fresh models."""

    extendable: ClassVar[frozenset[str]] = frozenset({"replicates"})


def smoke(config: Config) -> Config:
    """The whole path in seconds."""
    return dataclasses.replace(config, smoke=True, train_size=300, members=8, replicates=2, train=Train(epochs=2))
