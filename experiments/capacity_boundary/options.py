"""What capacity does to the boundary and to the influence of each point: do small models not suffer from what large ones do?

128 points of two discs that overlap, 5% of the labels wrong; a base network, of which one thing at a time is made smaller or
larger: width, depth, activation, optimiser, steps, weight decay. For each, the exact influence of every point, from three seeds.
Some eight minutes on two cores that others use too; a run that was stopped goes on where it was.

    python benchmark.py --exp capacity_boundary

Width alone, from more seeds:

    python benchmark.py --exp capacity_boundary --axes width --seeds 6
"""

import dataclasses
from typing import Any, ClassVar

from unlearn_jax.bench import toy_options
from unlearn_jax.bench.options import Train, require
from unlearn_jax.bench.toy_options import Discs

OVERLAPPING = Discs(separation=3.0)
FULL_BATCH = Train(epochs=300, batch_size=128, learning_rate=5e-3, schedule="cosine", optimiser="adam", weight_decay=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(toy_options.Config):
    """The options of the experiment `capacity_boundary`."""

    exp: str = "capacity_boundary"
    """The experiment. `--list` shows all."""
    discs: Discs = OVERLAPPING
    train_size: int | None = 128
    """Points."""
    label_noise: float = 0.05
    """Share of the points that get a wrong label."""
    width: int = 32
    """Hidden units of each layer of the base."""
    train: Train = FULL_BATCH
    reorderings: int = 8
    """Times that each original is trained again with its sums in another order: what float noise alone moves."""
    resolution: int = 48
    """Grid points along each side of the window, on which boundaries are looked at."""
    seeds: int = 3
    """Initialisations of each network: at least 3, from which the intervals come."""
    axes: str = "width,depth,activation,optimiser,steps,weight_decay"
    """What is varied, one at a time; names separated by commas."""
    widths: str = "4,8,16,32,64,128,256"
    """Values of the axis `width`."""
    depths: str = "1,2,3,4"
    """Values of the axis `depth`: hidden layers."""
    steps: str = "75,150,300,600,1200"
    """Values of the axis `steps`: passes over all points at once."""
    weight_decays: str = "0,0.1,1"
    """Values of the axis `weight_decay`, decoupled by adam: multiplied by the learning rate."""
    sgd_learning_rate: float = 0.1
    """Of sgd with momentum, on the axis `optimiser`."""

    extendable: ClassVar[frozenset[str]] = frozenset({"axes", "seeds", "widths", "depths", "steps", "weight_decays"})

    def check(self) -> None:
        """Raises a UsageError for the first value that cannot be meant."""
        super().check()
        require(self.seeds >= 3, "--seeds", self.seeds, "expected an integer of at least 3, or there are no intervals")
        for _, _, variant in self.variants():
            toy_options.Config.check(variant)

    def recorded(self) -> dict[str, Any]:
        """What config.json records: axes and values one by one, so that a run can be extended by some."""
        found = super().recorded()
        return found | {name: found[name].split(",") for name in ("axes", "widths", "depths", "steps", "weight_decays")}

    def variants(self) -> list[tuple[str, str, "Config"]]:
        """Every network: the axis that it is on, its value there, its options. The base comes first, and again on each axis."""
        train, kinds = self.train, {"widths": int, "depths": int, "steps": int, "weight_decays": float}
        widths, depths, steps, decays = (_numbers(name, getattr(self, name), kind) for name, kind in kinds.items())
        sgd = dataclasses.replace(train, optimiser="sgd", learning_rate=self.sgd_learning_rate)
        values: dict[str, list[tuple[str, dict[str, Any]]]] = {
            "width": [(str(width), {"width": width}) for width in widths],
            "depth": [(str(depth), {"layers": depth}) for depth in depths],
            "activation": [(name, {"activation": name}) for name in ("relu", "tanh", "gelu")],
            "optimiser": [("adam", {"train": dataclasses.replace(train, optimiser="adam")}), ("sgd", {"train": sgd})],
            "steps": [(str(count), {"train": dataclasses.replace(train, epochs=count)}) for count in steps],
            "weight_decay": [(f"{decay:g}", {"train": dataclasses.replace(train, weight_decay=decay)}) for decay in decays],
        }
        axes = self.axes.split(",")
        for axis in axes:
            require(axis in values, "--axes", axis, f"there is {', '.join(values)}")
        on_axes = [(axis, value, dataclasses.replace(self, **given)) for axis in axes for value, given in values[axis]]
        return [("base", "", self), *on_axes]


def smoke(config: Config) -> Config:
    """The whole path in seconds: few points, few steps, two axes."""
    small = toy_options.smoke(config)
    assert isinstance(small, Config)
    train = dataclasses.replace(FULL_BATCH, epochs=30)
    return dataclasses.replace(small, train_size=16, train=train, axes="width,depth", widths="4,8", depths="1,2")


def _numbers(name: str, text: str, kind: type) -> list[Any]:
    """Numbers separated by commas."""
    try:
        return [kind(word) for word in text.split(",")]
    except ValueError:
        require(False, f"--{name.replace('_', '-')}", text, "expected numbers separated by commas")
        raise
