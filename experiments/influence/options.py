"""What each training point did: exact leave-one-out on two discs, by training once more without each of the points.

512 points, an MLP of 64-64, 500 full-batch steps of Adam; all of it three times (as it is, with its sums in another order, and
from another seed), which is about two minutes on two cores.

    python benchmark.py --exp influence

Points of several classes that overlap, minibatches of SGD:

    python benchmark.py --exp influence --discs.classes 3 --discs.separation 3 --train.optimiser sgd --train.batch-size 64

Ten classes, as hard to learn as images (behind waves the boundary is a labyrinth: look at the changes of margins and losses):

    python benchmark.py --exp influence --dataset fashion_plane --waves 64
"""

from unlearn_jax.bench.toy_options import Config, smoke

__all__ = ["Config", "smoke"]
