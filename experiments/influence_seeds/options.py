"""What share of a point's exact leave-one-out influence belongs to the point, and what to the seed?

Every point is left out once from every seed, on two discs (apart or overlapping) and on digits, with and without wrong labels.
The variance over points and seeds is split; means over seeds are compared with each other, and with what as many trainings on
random halves say. The defaults are 128 points, 256 images and 12 seeds; an interrupted run goes on. Digits take the longest.

    python benchmark.py --exp influence_seeds

One circumstance, from more seeds:

    python benchmark.py --exp influence_seeds --circumstances overlap+wrong --seeds 24
"""

import dataclasses
from typing import Annotated, Any, ClassVar

from unlearn_jax.bench.kinds import Names, Real, Whole, require
from unlearn_jax.bench.option_groups import Train
from unlearn_jax.bench.toy_options import POINTS, WIDEST, Discs, Plane

FULL_BATCH = Train(epochs=300, batch_size=1024, learning_rate=5e-3, schedule="cosine", optimiser="adam", weight_decay=0.0)
PLACES: dict[str, dict[str, Any]] = {
    "apart": {"discs": Discs(separation=10.0)},
    "overlap": {"discs": Discs(separation=3.0)},
    "digits": {},
}
"""First word of a circumstance -> the options that it changes."""
WRONG = "wrong"
DIGITS = "digits"
KNOWN = tuple(f"{place}{wrong}" for place in PLACES for wrong in ("", f"+{WRONG}"))
DEFAULT = KNOWN[:-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Plane):
    """The options of the experiment `influence_seeds`."""

    exp: str = "influence_seeds"
    """The experiment. `--list` shows all."""
    circumstances: Names = DEFAULT
    """apart, overlap (discs) or digits, each alone or with +wrong (labels); names separated by commas."""
    train_size: Annotated[int, Whole(least=8, most=POINTS)] = 128
    """Points of two discs, each left out once from every seed."""
    images: Annotated[int, Whole(least=20, most=1293)] = 256
    """Digits, each left out once from every seed."""
    test_size: Annotated[int, Whole(least=2, most=360)] = 256
    """Unseen examples whose margins may change."""
    label_noise: Annotated[float, Real(least=0, below=1)] = 0.1
    """Share of wrong labels in circumstances with +wrong."""
    width: Annotated[int, Whole(least=1, most=WIDEST)] = 32
    """Hidden units of each layer."""
    train: Train = FULL_BATCH
    resolution: Annotated[int, Whole(least=8, most=1024)] = 48
    """Grid points along each side of the window in which boundaries are found."""
    seeds: Annotated[int, Whole(least=4, most=1000)] = 12
    """Seeds, each with its leave-one-out of every point; an even number."""
    reordered: Annotated[int, Whole(least=2)] = 3
    """Seeds whose leave-one-out is repeated with its sums in another order, to measure float noise."""
    pools: Annotated[int, Whole(least=1, most=100)] = 4
    """Models on random halves, in leave-one-outs of one seed: with 4, four times as many models as there are points."""

    extendable: ClassVar[frozenset[str]] = frozenset({"circumstances", "seeds"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        require(self.seeds % 2 == 0, "--seeds", self.seeds, "expected an even number")
        require(self.reordered <= self.seeds, "--reordered", self.reordered, f"expected at most {self.seeds}, the seeds")
        require(self.dataset == "discs", "--dataset", self.dataset, "the circumstances say which data; expected none")
        self.circumstance_names()

    def recorded(self) -> dict[str, Any]:
        """The options for config.json, with each circumstance once, so that a run can be extended."""
        return {**super().recorded(), "circumstances": self.circumstance_names()}

    def circumstance_names(self) -> list[str]:
        """The circumstances in order, without repetition."""
        names = list(dict.fromkeys(self.circumstances))
        for name in names or [""]:
            require(name in KNOWN, "--circumstances", name, f"there is {', '.join(KNOWN)}")
        return names

    def in_circumstance(self, name: str) -> "Config":
        """These options as they are in one circumstance."""
        place, _, wrong = name.partition("+")
        noise = self.label_noise if wrong else 0.0
        return dataclasses.replace(self, circumstances=(name,), label_noise=noise, **PLACES[place])


def smoke(config: Config) -> Config:
    """The whole path in seconds."""
    return dataclasses.replace(
        config,
        smoke=True,
        circumstances=("overlap+wrong", "digits"),
        train_size=24,
        images=32,
        test_size=12,
        width=8,
        train=dataclasses.replace(FULL_BATCH, epochs=150),
        resolution=24,
        seeds=4,
        reordered=2,
        pools=2,
    )
