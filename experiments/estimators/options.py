"""Every estimator of influence against exact leave-one-out: who says what one example did, how well, and at what cost.

128 points of two overlapping discs, a tenth of the labels wrong, weight decay; an MLP of 64-64 and 300 full-batch steps. Every
setting is that with some things changed: Adam, a narrow network, float64, discs far apart, a learning rate at which training
is chaotic. Nine minutes on two busy cores; every setting that is done is kept.

    python benchmark.py --exp estimators

One setting, or another base:

    python benchmark.py --exp estimators --settings adam+float64
    python benchmark.py --exp estimators --settings base,adam --train.epochs 1000 --train.weight-decay 0.01
"""

import dataclasses
from math import inf
from typing import Any, ClassVar, Literal

from unlearn_jax.bench.options import Common, Train, require
from unlearn_jax.bench.toy_options import POINTS, WIDEST, Discs

OVERLAPPING = Discs(separation=3.0)
BASE = Train(epochs=300, batch_size=128, learning_rate=0.01, schedule="constant", weight_decay=1e-3)
VARIATIONS: dict[str, dict[str, Any]] = {
    "base": {},
    "adam": {"train.optimiser": "adam", "train.learning_rate": 0.01},
    "narrow": {"width": 8},
    "float64": {"precision": "float64"},
    "fast": {"train.learning_rate": 0.05},
    "separated": {"discs.separation": 10.0, "label_noise": 0.0, "train.weight_decay": 0.0},
}
"""What each word of `--settings` changes."""
DEFAULT = "base,adam,narrow,adam+narrow,fast,separated,adam+separated,adam+float64,float64"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Common):
    """The options of the experiment `estimators`."""

    exp: str = "estimators"
    """The experiment. `--list` shows all."""
    dataset: Literal["discs"] = "discs"
    """Points in the plane."""
    discs: Discs = OVERLAPPING
    train_size: int | None = 128
    """Points; each is left out once."""
    label_noise: float = 0.1
    """Share of the points that get a wrong label."""
    model: Literal["mlp"] = "mlp"
    """Two relu layers."""
    width: int = 64
    """Hidden units of each layer."""
    train: Train = BASE
    precision: Literal["float32", "float64"] = "float32"
    """Of everything, the exact trainings included."""
    settings: str = DEFAULT
    """What is studied, separated by commas: base, adam, narrow, float64, fast, separated, or several of them joined by +."""
    targets: int = 16
    """Points that nothing was trained on, whose margins are what is estimated."""
    subsets: int = 128
    """Trainings on random halves; datamodels are fitted to three quarters of them, the last quarter is what LDS asks about."""
    checkpoints: int = 6
    """Of the training, for TracIn and SOURCE."""
    damping: float = 0.01
    """Added to the curvature by every influence function, weight decay included."""
    top: int = 10
    """Points that are looked for among all."""
    directions: int = 16
    """Points at whose removal the smoothness of training is measured."""

    extendable: ClassVar[frozenset[str]] = frozenset({"settings"})

    def check(self) -> None:
        """Raises a UsageError for the first value that cannot be meant."""
        super().check()
        self.discs.check()
        points = self.train_size
        enough = points is not None and 8 <= points <= POINTS
        require(enough, "--train-size", points, f"expected an integer of at least 8, at most {POINTS:,}")
        require(self.width <= WIDEST, "--width", self.width, f"expected at most {WIDEST:,}: a model for each point")
        assert points
        require(self.train.batch_size >= 2, "--train.batch-size", self.train.batch_size, "expected at least 2: one is left out")
        require(self.targets >= 2, "--targets", self.targets, "expected an integer of at least 2")
        subsets = 16 <= self.subsets <= POINTS and self.subsets % 4 == 0
        require(subsets, "--subsets", self.subsets, f"expected a multiple of 4, from 16 to {POINTS:,}")
        stretches = self.checkpoints >= 3 and self.checkpoints % 3 == 0 and self.train.epochs % self.checkpoints == 0
        accepted = f"expected a multiple of 3 that divides the {self.train.epochs} epochs"
        require(stretches, "--checkpoints", self.checkpoints, accepted)
        require(0 < self.damping < inf, "--damping", self.damping, "expected a number above 0")
        require(1 <= self.top <= points, "--top", self.top, f"expected an integer from 1 to {points}, the points")
        require(2 <= self.directions <= points, "--directions", self.directions, f"expected 2 to {points}, the points")
        require(self.train.schedule == "constant", "--train.schedule", self.train.schedule, "expected constant")
        self.setting_names()

    def recorded(self) -> dict[str, Any]:
        """What config.json records: the settings one by one, so that a run can be extended by some."""
        return {**super().recorded(), "settings": self.setting_names()}

    def setting_names(self) -> list[str]:
        """The settings that are asked for, in order, each once."""
        names = list(dict.fromkeys(self.settings.replace(",", " ").split()))
        for name in names or [""]:
            known = all(word in VARIATIONS for word in name.split("+"))
            require(known, "--settings", name, f"there is {', '.join(VARIATIONS)}; joined by +")
        return names

    def varied(self, setting: str) -> "Config":
        """The options of a setting: these, but for what it changes."""
        config = self
        for word in setting.split("+"):
            for path, value in VARIATIONS[word].items():
                *group, name = path.split(".")
                changed = {name: value}
                for outer in group:
                    changed = {outer: dataclasses.replace(getattr(config, outer), **changed)}
                config = dataclasses.replace(config, **changed)
        return config


def smoke(config: Config) -> Config:
    """The whole path in seconds."""
    return dataclasses.replace(
        config,
        smoke=True,
        train_size=24,
        width=4,
        train=dataclasses.replace(BASE, epochs=24),
        settings="adam+float64",
        targets=3,
        subsets=16,
        checkpoints=3,
        top=4,
        directions=4,
    )
