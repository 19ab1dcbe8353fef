"""A toy in the plane that is as hard to learn as an image set: a mixture fitted so that models behave on it as on the images.

Ten overlapping classes, with sub-modes, a long tail of rare sub-populations and wrong labels. The fit is to the test error, the
train-test gap, and the distributions of memorisation, margins, nearest-neighbour purity and confusions, all of the same MLP. The
MLP sees a point as 64 pixels (waves across the plane); from two coordinates (`--waves 0`) it memorises nothing. Fashion-MNIST
(2,000 examples), 96 mixtures with 32 models each: about five minutes on two cores.

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
"""Parameter of the mixture -> its least and largest value, and the scale between them."""
TOLERANCE = {"test_error": 0.02, "gap": 0.02, "memorisation": 0.02, "margins": 1.0, "purity": 0.05, "confusion": 0.03}
"""Characteristic -> the mismatch that counts as one unit: margins are in nats, all others are shares."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Images):
    """The options of the experiment `fitted_toy`."""

    exp: str = "fitted_toy"
    """The experiment. `--list` shows all."""
    dataset: str = "fashion_mnist"
    """The data set that the toy is fitted to. `--list` shows all."""
    train_size: Annotated[int, Whole(least=2)] = 2000
    """Training examples of images and toy."""
    label_noise: Annotated[float, Real(least=0, below=1)] = 0.0
    """Share of the images' labels that are made wrong; the toy has its own, which is fitted."""
    model: Suppress[str] = fixed("mlp")  # the pixels of a point have no spatial order, so networks for images do not fit
    normalisation: Suppress[Literal["batch", "group"]] = fixed("batch")
    convolution: Suppress[Literal["auto", "products", "patches", "grouped", "xla"]] = fixed("auto")
    width: Count = 64
    """Hidden units of each layer."""
    train: Train = LONG
    members: Annotated[int, Whole(least=8)] = 32
    """Models on random halves, for the images and for every mixture (a multiple of 4)."""
    waves: Annotated[int, Whole(least=0)] = 64
    """Pixels in which the MLP sees a point of the plane; 0: its two coordinates."""
    rounds: Count = 6
    """Rounds of the search: the first covers the space, each later one is drawn around the best of the round before."""
    candidates: Annotated[int, Whole(least=2)] = 16
    """Mixtures in a round."""
    elite: Annotated[int, Whole(least=2)] = 5
    """How many of the best mixtures the next round is drawn around."""
    test_size: Annotated[int, Whole(least=20)] = 2000
    """Test points, and test images at most."""
    seeds: Annotated[int, Whole(least=2)] = 3
    """Draws of images, toys and pools for the comparison, for standard deviations."""

    extendable: ClassVar[frozenset[str]] = frozenset({"rounds"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        from unlearn_jax.models import find  # brings JAX with it, which --help must not

        super().check()
        require(find(self.model).points, "--model", self.model, "expected one that also learns points of the plane, as mlp")
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
