"""Which training examples are memorised, and which test answers hang on which of them: one pool of models on random halves.

Memorisation and subset influence (arXiv 2008.03703) and datamodels (2202.00622). The defaults are digits with one label in ten
wrong, 256 models of ResNet-8: about four minutes on two cores.

    python benchmark.py --exp memorisation

Fashion-MNIST as it is, 2,000 examples, an MLP:

    python benchmark.py --exp memorisation --dataset fashion_mnist --train-size 2000 --label-noise 0 --model mlp --width 64 \\
        --train.epochs 40

The same pool then ranks examples to be forgotten: `--exp unlearning --forget.kind memorised --forget.models 256`.
"""

import dataclasses
from typing import ClassVar

from unlearn_jax.bench.options import Common, Train, require

HALF = 32  # see `unlearn_jax.bench.setting.BLOCK`: two halves of the pool are then halves of each example too


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Common):
    """The options of the experiment `memorisation`."""

    exp: str = "memorisation"
    """The experiment. `--list` shows all."""
    members: int = 256
    """Models, each trained on a random half of the training set: a multiple of 64, to hold half of them against half."""
    test_size: int = 1000
    """Test examples, drawn at random, on which influence is looked at; at most all."""
    shuffles: int = 20
    """Times that the models' answers are dealt to other models: what the largest influence is by chance alone."""
    targets: int = 64
    """Training examples, and as many test examples, whose margins datamodels are fitted to (a quarter of a second each)."""
    shown: int = 10
    """Pictures in a row of the figures."""

    extendable: ClassVar[frozenset[str]] = frozenset({"members"})

    def check(self) -> None:
        """Raises a UsageError for the first value that cannot be meant."""
        super().check()
        halves = self.members >= 2 * HALF and self.members % (2 * HALF) == 0
        require(halves, "--members", self.members, f"expected a multiple of {2 * HALF}")
        require(self.test_size >= 2, "--test-size", self.test_size, "expected an integer of at least 2")
        require(self.shuffles >= 1, "--shuffles", self.shuffles, "expected an integer of at least 1")
        require(self.targets >= 2, "--targets", self.targets, "expected an integer of at least 2")
        require(2 <= self.shown <= 20, "--shown", self.shown, "expected an integer from 2 to 20")


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
