"""How capacity changes the decision boundary and the influence of each point: do small models depend less on single points?

128 points of two overlapping discs, 5% of the labels wrong. One option of a base network is varied at a time: width, depth,
activation, optimiser, steps, weight decay. Each network has the exact influence of every point from three seeds. About eight
minutes on two busy cores; an interrupted run resumes.

    python benchmark.py --exp capacity_boundary

Width alone, from more seeds:

    python benchmark.py --exp capacity_boundary --axes width --seeds 6
"""

import dataclasses
from typing import Annotated, Any, ClassVar

from unlearn_jax.bench.kinds import Name, Real, Several, Whole
from unlearn_jax.bench.option_groups import Train
from unlearn_jax.bench.toy_options import POINTS, WIDEST, Discs, Plane

OVERLAPPING = Discs(separation=3.0)
FULL_BATCH = Train(epochs=300, batch_size=128, learning_rate=5e-3, schedule="cosine", optimiser="adam", weight_decay=0.0)
AXES = "width", "depth", "activation", "optimiser", "steps", "weight_decay"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Plane):
    """The options of the experiment `capacity_boundary`."""

    exp: str = "capacity_boundary"
    """The experiment. `--list` shows all."""
    discs: Discs = OVERLAPPING
    train_size: Annotated[int, Whole(least=4, most=POINTS)] = 128
    """Points."""
    label_noise: Annotated[float, Real(least=0, below=1)] = 0.05
    """Share of the points that get a wrong label."""
    width: Annotated[int, Whole(least=1, most=WIDEST)] = 32
    """Hidden units of each layer of the base."""
    train: Train = FULL_BATCH
    reorderings: Annotated[int, Whole(least=2)] = 8
    """Times that each original is trained again with its sums in another order, to measure float noise."""
    resolution: Annotated[int, Whole(least=8, most=1024)] = 48
    """Grid points along each side of the window in which boundaries are found."""
    seeds: Annotated[int, Whole(least=3)] = 3
    """Seeds of each network: at least 3, for the intervals."""
    axes: Annotated[tuple[str, ...], Several(Name(*AXES))] = AXES
    """Options to vary, one at a time; names separated by commas."""
    widths: Annotated[tuple[int, ...], Several(Whole(least=1, most=WIDEST))] = (4, 8, 16, 32, 64, 128, 256)
    """Values of the axis `width`."""
    depths: Annotated[tuple[int, ...], Several(Whole(least=1, most=100))] = (1, 2, 3, 4)
    """Values of the axis `depth`: hidden layers."""
    steps: Annotated[tuple[int, ...], Several(Whole(least=1))] = (75, 150, 300, 600, 1200)
    """Values of the axis `steps`: passes over all points at once."""
    weight_decays: Annotated[tuple[float, ...], Several(Real(least=0))] = (0.0, 0.1, 1.0)
    """Values of the axis `weight_decay`, decoupled by adam: multiplied by the learning rate."""
    sgd_learning_rate: Annotated[float, Real(above=0)] = 0.1
    """Of sgd with momentum, on the axis `optimiser`."""

    extendable: ClassVar[frozenset[str]] = frozenset({"axes", "seeds", "widths", "depths", "steps", "weight_decays"})

    def variants(self) -> list[tuple[str, str, "Config"]]:
        """All networks as (axis, value, options): the base first, then each axis, which has the base again."""
        train = self.train
        sgd = dataclasses.replace(train, optimiser="sgd", learning_rate=self.sgd_learning_rate)
        values: dict[str, list[tuple[str, dict[str, Any]]]] = {
            "width": [(str(width), {"width": width}) for width in self.widths],
            "depth": [(str(depth), {"layers": depth}) for depth in self.depths],
            "activation": [(name, {"activation": name}) for name in ("relu", "tanh", "gelu")],
            "optimiser": [("adam", {"train": dataclasses.replace(train, optimiser="adam")}), ("sgd", {"train": sgd})],
            "steps": [(str(count), {"train": dataclasses.replace(train, epochs=count)}) for count in self.steps],
            "weight_decay": [
                (f"{decay:g}", {"train": dataclasses.replace(train, weight_decay=decay)}) for decay in self.weight_decays
            ],
        }
        on_axes = [(axis, value, dataclasses.replace(self, **given)) for axis in self.axes for value, given in values[axis]]
        return [("base", "", self), *on_axes]


def smoke(config: Config) -> Config:
    """The whole path in seconds: few points, few steps, two axes."""
    train = dataclasses.replace(FULL_BATCH, epochs=30)
    tiny: dict[str, Any] = {"smoke": True, "train_size": 16, "width": 8, "train": train, "reorderings": 4, "resolution": 24}
    return dataclasses.replace(config, **tiny, axes=("width", "depth"), widths=(4, 8), depths=(1, 2))
