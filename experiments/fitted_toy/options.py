"""A toy in the plane that is as hard to learn as an image set: its mixture is fitted to what models make of the images.

Ten classes that overlap, sub-modes, a long tail of rare sub-populations and wrong labels. Fitted are test error, train-test gap,
and the distributions of memorisation, of margins, of nearest-neighbour purity and of confusions, all measured with the same MLP.
It sees a point as an image of 64 pixels (waves across the plane): of two coordinates it memorises nothing (`--waves 0`).
Fashion-MNIST (2,000 examples), 96 mixtures, 32 models for each: some five minutes on two cores.

    python benchmark.py --exp fitted_toy

The same for CIFAR-10, where TFDS can fetch it: `--exp fitted_toy --dataset cifar10`.
"""

import dataclasses
from typing import Annotated, ClassVar, Literal

from tyro.conf import Suppress

from unlearn_jax.bench.kinds import Count, Real, Whole, fixed, require
from unlearn_jax.bench.options import Images, Train

LONG = Train(epochs=40, batch_size=128)
SPACE = {
    "separation": (0.7, 5.0, "log"),
    "modes": (1.0, 12.0, "linear"),
    "spread": (0.0, 3.0, "linear"),
    "tail": (0.0, 2.5, "linear"),
    "rare": (0.0, 0.5, "linear"),
    "reach": (0.5, 2.5, "log"),
    "label_noise": (0.0, 0.1, "linear"),
    "scale": (0.2, 4.0, "log"),
}
"""Parameter of the mixture -> least, largest, and how the way between them is measured."""
TOLERANCE = {"test_error": 0.02, "gap": 0.02, "memorisation": 0.02, "margins": 1.0, "purity": 0.05, "confusion": 0.03}
"""What counts as one unit of mismatch: shares, but for the margins, which are in nats."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Images):
    """The options of the experiment `fitted_toy`."""

    exp: str = "fitted_toy"
    """The experiment. `--list` shows all."""
    dataset: str = "fashion_mnist"
    """What the toy is fitted to. `--list` shows all."""
    train_size: Annotated[int, Whole(least=2)] = 2000
    """Training examples of either."""
    label_noise: Annotated[float, Real(least=0, below=1)] = 0.0
    """Share of the images' labels that are made wrong; the toy has its own, which is fitted."""
    model: Suppress[str] = fixed("mlp")  # learns both: the pixels of a point have no neighbours, so nothing else will do
    normalisation: Suppress[Literal["batch", "group"]] = fixed("batch")
    convolution: Suppress[Literal["auto", "products", "patches", "xla"]] = fixed("auto")
    width: Count = 64
    """Hidden units of each layer."""
    train: Train = LONG
    members: Annotated[int, Whole(least=8)] = 32
    """Models on random halves, for the images and for every mixture (a multiple of 4)."""
    waves: Annotated[int, Whole(least=0)] = 64
    """Pixels that the learner sees of a point of the plane; 0: its two coordinates."""
    rounds: Count = 6
    """Of the search: the first is spread over the whole space, each other one drawn around the best of the last."""
    candidates: Annotated[int, Whole(least=2)] = 16
    """Mixtures in a round."""
    elite: Annotated[int, Whole(least=2)] = 5
    """The best of a round, around which the next one is drawn."""
    test_size: Annotated[int, Whole(least=20)] = 2000
    """Test points, and test images at most."""
    seeds: Annotated[int, Whole(least=2)] = 3
    """Times that images and toys are drawn, and pools trained, anew for the comparison: what everything varies by."""

    extendable: ClassVar[frozenset[str]] = frozenset({"rounds"})

    def check(self) -> None:
        """Raises UsageError on the first invalid value, or on values that contradict each other."""
        from unlearn_jax.models import find  # brings JAX with it, which --help must not

        super().check()
        require(find(self.model).points, "--model", self.model, "expected one that learns points of the plane too, as mlp")
        require(self.members % 4 == 0, "--members", self.members, "expected a multiple of 4, at least 8")
        enough = self.candidates >= self.elite
        require(enough, "--candidates", self.candidates, f"expected at least as many as --elite, {self.elite}")


def smoke(config: Config) -> Config:
    """The whole path in seconds, on digits."""
    return dataclasses.replace(
        config,
        smoke=True,
        dataset="digits",
        train_size=200,
        width=16,
        waves=8,
        train=Train(epochs=8, batch_size=32),
        members=8,
        rounds=2,
        candidates=4,
        elite=2,
        test_size=200,
        seeds=2,
    )
