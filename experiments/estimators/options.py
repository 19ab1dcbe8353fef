"""Every estimator of influence against exact leave-one-out: its agreement and its cost.

128 points of two overlapping discs, a tenth of the labels wrong, weight decay; an MLP of 64-64 and 300 full-batch steps. Each
setting changes something: Adam, a narrow network, float64, discs far apart, a learning rate at which training is chaotic. Nine
minutes on two busy cores; finished settings are kept.

    python benchmark.py --exp estimators

One setting, or another base:

    python benchmark.py --exp estimators --settings adam+float64
    python benchmark.py --exp estimators --settings base,adam --train.epochs 1000 --train.weight-decay 0.01
"""

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

from tyro.conf import Suppress

from unlearn_jax.bench.kinds import Names, Real, Whole, fixed, replace_field, require
from unlearn_jax.bench.option_groups import Train
from unlearn_jax.bench.options import Training
from unlearn_jax.bench.toy_options import POINTS, WIDEST, Discs

OVERLAPPING = Discs(separation=3.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant(Train):
    """How one model is trained, at a constant learning rate."""

    epochs: Annotated[int, Whole(least=1)] = 300
    """Passes over the points."""
    batch_size: Annotated[int, Whole(least=2)] = 128
    """Points in one step: at least 2, since one is left out."""
    learning_rate: Annotated[float, Real(above=0)] = 0.01
    """The same in all steps."""
    schedule: Suppress[Literal["cosine", "constant"]] = fixed("constant")
    weight_decay: Annotated[float, Real(least=0)] = 1e-3
    """Added to the gradient by sgd, decoupled by adam."""


BASE = Constant()
VARIATIONS: dict[str, dict[str, Any]] = {
    "base": {},
    "adam": {"train.optimiser": "adam", "train.learning_rate": 0.01},
    "narrow": {"width": 8},
    "float64": {"precision": "float64"},
    "fast": {"train.learning_rate": 0.05},
    "separated": {"discs.separation": 10.0, "label_noise": 0.0, "train.weight_decay": 0.0},
}
"""Word of `--settings` -> the options that it changes."""
DEFAULT = ("base", "adam", "narrow", "adam+narrow", "fast", "separated", "adam+separated", "adam+float64", "float64")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Training):
    """The options of the experiment `estimators`."""

    exp: str = "estimators"
    """The experiment. `--list` shows all."""
    discs: Discs = OVERLAPPING
    train_size: Annotated[int, Whole(least=8, most=POINTS)] = 128
    """Points; each is left out once."""
    label_noise: Annotated[float, Real(least=0, below=1)] = 0.1
    """Share of the points that get a wrong label."""
    width: Annotated[int, Whole(least=1, most=WIDEST)] = 64
    """Hidden units of each layer."""
    train: Constant = BASE
    precision: Literal["float32", "float64"] = "float32"
    """Precision of all computations, with the exact trainings."""
    settings: Names = DEFAULT
    """Settings, separated by commas: base, adam, narrow, float64, fast, separated, or several of them joined by +."""
    targets: Annotated[int, Whole(least=2)] = 16
    """Unseen points whose margins are estimated."""
    subsets: Annotated[int, Whole(least=16, most=POINTS)] = 128
    """Trainings on random halves: datamodels are fitted to three quarters of them, LDS uses the last quarter."""
    checkpoints: Annotated[int, Whole(least=3)] = 6
    """Checkpoints of the training, for TracIn and SOURCE."""
    damping: Annotated[float, Real(above=0)] = 0.01
    """Added to the curvature, weight decay included, by every influence function."""
    top: Annotated[int, Whole(least=1)] = 10
    """Number of most influential points to find."""
    directions: Annotated[int, Whole(least=2)] = 16
    """Points whose removal measures the smoothness of training."""

    extendable: ClassVar[frozenset[str]] = frozenset({"settings"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        require(self.subsets % 4 == 0, "--subsets", self.subsets, "expected a multiple of 4")
        stretches = self.checkpoints % 3 == 0 and self.train.epochs % self.checkpoints == 0
        accepted = f"expected a multiple of 3 that divides the {self.train.epochs} epochs"
        require(stretches, "--checkpoints", self.checkpoints, accepted)
        classes, fewest = self.discs.classes, min(self.train_size, self.targets)
        accepted = f"expected at most {fewest}, so that each has a point among --train-size and among --targets"
        require(classes <= fewest, "--discs.classes", classes, accepted)
        points = f"expected at most {self.train_size}, the points"
        require(self.top <= self.train_size, "--top", self.top, points)
        require(self.directions <= self.train_size, "--directions", self.directions, points)
        self.setting_names()

    def recorded(self) -> dict[str, Any]:
        """The options for config.json, with each setting once, so that a run can be extended."""
        return {**super().recorded(), "settings": self.setting_names()}

    def setting_names(self) -> list[str]:
        """The settings in order, without repetition."""
        names = list(dict.fromkeys(self.settings))
        for name in names or [""]:
            known = all(word in VARIATIONS for word in name.split("+"))
            require(known, "--settings", name, f"there is {', '.join(VARIATIONS)}; joined by +")
        return names

    def with_setting(self, setting: str) -> "Config":
        """These options with the changes of a setting."""
        config = self
        for word in setting.split("+"):
            for path, value in VARIATIONS[word].items():
                config = replace_field(config, tuple(path.split(".")), value)
        return config


def smoke(config: Config) -> Config:
    """The whole path in seconds."""
    return dataclasses.replace(
        config,
        smoke=True,
        train_size=24,
        width=4,
        train=dataclasses.replace(BASE, epochs=24),
        settings=("adam+float64",),
        targets=3,
        subsets=16,
        checkpoints=3,
        top=4,
        directions=4,
    )
