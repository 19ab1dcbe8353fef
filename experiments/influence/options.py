"""The influence of each training point: exact leave-one-out on two discs, by training again without each point.

512 points, an MLP of 64-64, 500 full-batch steps of Adam. The leave-one-out is run three times (as it is, with its sums in
another order, and from another seed): about two minutes on two cores.

    python benchmark.py --exp influence

Points of several classes that overlap, minibatches of SGD:

    python benchmark.py --exp influence --discs.classes 3 --discs.separation 3 --train.optimiser sgd --train.batch-size 64

Ten classes, as hard to learn as images (seen through waves the boundary is a labyrinth; compare margins and losses instead):

    python benchmark.py --exp influence --dataset fashion_plane --waves 256
"""

import dataclasses
from typing import Annotated

from unlearn_jax.bench.kinds import Whole
from unlearn_jax.bench.toy_options import FULL_BATCH, Plane


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Plane):
    """The options of the experiment `influence`."""

    exp: str = "influence"
    """The experiment. `--list` shows all."""
    reorderings: Annotated[int, Whole(least=2)] = 64
    """Times that the original is trained again with its sums in another order, to measure float noise."""
    shown: Annotated[int, Whole(least=1, most=8)] = 4
    """How many points of most influence, and of least, have their boundaries drawn."""


def smoke(config: Config) -> Config:
    """The whole path in seconds."""
    train = dataclasses.replace(FULL_BATCH, epochs=60)
    return dataclasses.replace(config, smoke=True, train_size=32, width=8, train=train, reorderings=4, resolution=24, shown=2)
