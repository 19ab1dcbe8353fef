"""Which training examples are memorised, and which test predictions depend on them: one pool of models on random halves.

Memorisation and subset influence (arXiv 2008.03703) and datamodels (2202.00622). The defaults are digits with one label in ten
wrong, 256 models of ResNet-8: about four minutes on two cores.

    python benchmark.py --exp memorisation

Fashion-MNIST without label noise, 2,000 examples, an MLP:

    python benchmark.py --exp memorisation --dataset fashion_mnist --train-size 2000 --label-noise 0 --model mlp --width 64 \\
        --train.epochs 40

The same pool ranks the examples for these forget sets: `--exp unlearning --forget.kind memorised --forget.models 256`.
"""

import dataclasses
from typing import Annotated, ClassVar

from unlearn_jax.bench.kinds import Count, Whole, require
from unlearn_jax.bench.option_groups import Train
from unlearn_jax.bench.options import Images

HALF = 32  # see `unlearn_jax.bench.pools.BLOCK`: in each half of the pool every example is then in half of the masks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Images):
    """The options of the experiment `memorisation`."""

    exp: str = "memorisation"
    """The experiment. `--list` shows all."""
    members: Annotated[int, Whole(least=2 * HALF)] = 256
    """Models, each trained on a random half of the training set: a multiple of 64, so that two halves can be compared."""
    test_size: Annotated[int, Whole(least=2)] = 1000
    """Test examples, drawn at random, on which influence is measured; at most all."""
    shuffles: Count = 20
    """Permutations of the answers among models, for the largest influence by chance."""
    targets: Annotated[int, Whole(least=2)] = 64
    """Training examples, and as many test examples, whose margins get datamodels (a quarter of a second each)."""
    shown: Annotated[int, Whole(least=2, most=20)] = 10
    """Pictures in a row of the figures."""

    extendable: ClassVar[frozenset[str]] = frozenset({"members"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        require(self.members % (2 * HALF) == 0, "--members", self.members, f"expected a multiple of {2 * HALF}")


def smoke(config: Config) -> Config:
    """The whole path in seconds."""
    return dataclasses.replace(
        config,
        smoke=True,
        train_size=200,
        model="mlp",
        width=16,
        train=Train(epochs=8, batch_size=32),
        members=64,
        test_size=60,
        shuffles=4,
        targets=8,
        shown=6,
    )
