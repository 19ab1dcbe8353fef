"""The options of the toy in the plane."""

import dataclasses
from math import inf
from typing import ClassVar, Literal

from unlearn_jax.bench.options import Common, Train, require

POINTS, WIDEST, LAYERS, FINEST = 20_000, 4096, 100, 1024
"""The most points (there is a model without each), hidden units and layers, and grid points along a side."""

FULL_BATCH = Train(epochs=500, batch_size=512, learning_rate=1e-2, schedule="constant", optimiser="adam", weight_decay=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Discs:
    """Where the points are: uniformly in discs, one for each class."""

    classes: int = 2
    """Discs; their centres are the corners of a regular polygon. Two are at (-5, 5) and (5, 5)."""
    radius: float = 2.0
    """Of every disc."""
    separation: float = 10.0
    """Distance of neighbouring centres."""

    def check(self) -> None:
        """Raises a UsageError for the first value that cannot be meant."""
        require(self.classes >= 2, "--discs.classes", self.classes, "expected an integer of at least 2")
        require(0 < self.radius < inf, "--discs.radius", self.radius, "expected a number above 0")
        require(0 <= self.separation < inf, "--discs.separation", self.separation, "expected a number of at least 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Common):
    """The options of the experiment `influence`."""

    exp: str = "influence"
    """The experiment. `--list` shows all."""
    dataset: Literal["discs", "fashion_plane"] = "discs"
    """Points in the plane: discs, or ten classes that are as hard to learn as Fashion-MNIST (see `--exp fitted_toy`)."""
    discs: Discs = Discs()
    train_size: int | None = 512
    """Points."""
    label_noise: float = 0.0
    """Share of the points that get a wrong label."""
    model: Literal["mlp"] = "mlp"
    """Layers of one width."""
    width: int = 64
    """Hidden units of each layer."""
    waves: int = 0
    """Pixels that the learner sees of a point, waves across the plane; 0: its two coordinates, which it can hardly memorise."""
    layers: int = 2
    """Hidden layers."""
    activation: Literal["relu", "tanh", "gelu"] = "relu"
    """Of the hidden units."""
    train: Train = FULL_BATCH
    reorderings: int = 64
    """Times that the original is trained again with its sums in another order: what float noise alone moves."""
    resolution: int = 64
    """Grid points along each side of the window, on which margins and boundaries are looked at."""
    shown: int = 4
    """Points of the most, and of the least, influence whose boundaries are drawn."""

    extendable: ClassVar[frozenset[str]] = frozenset()

    def check(self) -> None:
        """Raises a UsageError for the first value that cannot be meant."""
        super().check()
        self.discs.check()
        own = self.dataset == "discs" or (self.discs == Discs() and self.label_noise == 0)
        require(own, "--dataset", self.dataset, "has its own places and wrong labels; expected no --discs and no --label-noise")
        points = self.train_size
        least = 2 * (self.discs.classes if self.dataset == "discs" else 10)
        enough = points is not None and least <= points <= POINTS
        require(enough, "--train-size", points, f"expected at least {least}, two points of each class, and at most {POINTS:,}")
        require(self.width <= WIDEST, "--width", self.width, f"expected at most {WIDEST:,}: a model for each point")
        require(self.train.batch_size >= 2, "--train.batch-size", self.train.batch_size, "expected at least 2: one is left out")
        require(self.waves >= 0, "--waves", self.waves, "expected an integer of at least 0")
        require(1 <= self.layers <= LAYERS, "--layers", self.layers, f"expected an integer from 1 to {LAYERS}")
        require(self.reorderings >= 2, "--reorderings", self.reorderings, "expected an integer of at least 2")
        fine = 8 <= self.resolution <= FINEST
        require(fine, "--resolution", self.resolution, f"expected an integer of at least 8, at most {FINEST:,}")
        require(1 <= self.shown <= 8, "--shown", self.shown, "expected an integer from 1 to 8")


def smoke(config: Config) -> Config:
    """The whole path in seconds."""
    train = dataclasses.replace(FULL_BATCH, epochs=60)
    return dataclasses.replace(config, smoke=True, train_size=32, width=8, train=train, reorderings=4, resolution=24, shown=2)
