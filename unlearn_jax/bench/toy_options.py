"""Options of the toy in the plane."""

import dataclasses
from typing import Annotated, Literal

from unlearn_jax.bench.kinds import Real, Whole, require
from unlearn_jax.bench.option_groups import Train
from unlearn_jax.bench.options import Training

POINTS, WIDEST = 20_000, 4096
"""The most points (one model is trained without each), and the most hidden units."""
FULL_BATCH = Train(epochs=500, batch_size=512, learning_rate=1e-2, schedule="constant", optimiser="adam", weight_decay=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Discs:
    """Where the points lie: uniformly in discs, one for each class."""

    classes: Annotated[int, Whole(least=2)] = 2
    """Number of discs. Their centres are the corners of a regular polygon; two are at (-5, 5) and (5, 5)."""
    radius: Annotated[float, Real(above=0)] = 2.0
    """Radius of every disc."""
    separation: Annotated[float, Real(least=0)] = 10.0
    """Distance between neighbouring centres."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plane(Training):
    """A run on points in the plane: the options that `bench.toy` reads."""

    dataset: Literal["discs", "fashion_plane"] = "discs"
    """Points in the plane: discs, or ten classes that are as hard to learn as Fashion-MNIST (see `--exp fitted_toy`)."""
    discs: Discs = Discs()
    train_size: Annotated[int, Whole(least=4, most=POINTS)] = 512
    """Number of points."""
    label_noise: Annotated[float, Real(least=0, below=1)] = 0.0
    """Share of the points with a wrong label."""
    width: Annotated[int, Whole(least=1, most=WIDEST)] = 64
    """Hidden units of each layer."""
    waves: Annotated[int, Whole(least=0)] = 0
    """Number of inputs of the model: waves across the plane. 0: a point's two coordinates, which it can hardly memorise."""
    layers: Annotated[int, Whole(least=1, most=100)] = 2
    """Hidden layers."""
    activation: Literal["relu", "tanh", "gelu"] = "relu"
    """Activation function of the hidden units."""
    train: Train = FULL_BATCH
    resolution: Annotated[int, Whole(least=8, most=1024)] = 64
    """Grid points along each side of the window on which margins and boundaries are computed."""

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        plain = self.dataset == "discs" or (self.discs, self.label_noise) == (type(self).discs, type(self).label_noise)
        require(plain, "--dataset", self.dataset, "fixes its points and labels; expected no --discs option and no --label-noise")
        least = 2 * (self.discs.classes if self.dataset == "discs" else 10)
        accepted = f"expected at least {least}, two for each class"
        require(self.train_size >= least, "--train-size", self.train_size, accepted)
        batch = self.train.batch_size
        require(batch >= 2, "--train.batch-size", batch, "expected at least 2, since one example is left out")
