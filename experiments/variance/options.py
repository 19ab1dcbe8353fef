"""Does the variance of the model shape the loss manifold, on train and on test?

Originals, oracles and unlearned models from many seeds: how much of the expected loss is bias and how much is variance, example
by example; the loss along the lines and over a plane between them; and the sharpness of the minimum that each sits in, against
forgetting. The defaults are the main job's setting with fewer models: minutes on two cores.

    python benchmark.py --exp variance

Fashion-MNIST, a subset (within an hour), and CIFAR-10 on a GPU, which has not been run yet:

    python benchmark.py --exp variance --dataset fashion_mnist --train-size 2000 --methods finetune,neggrad_plus,scrub \\
        --slices.lines 4 --slices.points 5 --slices.resolution 11
    python benchmark.py --exp variance --dataset cifar10 --model resnet18 --width 64 --train.epochs 30 --train.batch-size 128
"""

import dataclasses
from typing import ClassVar

from unlearn_jax.bench import main_options as unlearning
from unlearn_jax.bench.main_options import Evaluation
from unlearn_jax.bench.options import require

JUDGED = Evaluation(retain_size=600)
METHODS = "finetune,gradient_ascent,neggrad_plus,scrub,random_label,l1_sparse_proximal"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slices:
    """The lines and the plane along which the loss is looked at."""

    lines: int = 8
    """Lines of each kind, from as many originals: at least 3, from which the intervals come."""
    points: int = 9
    """Points of a line, its ends included; half way there is one if the number is odd."""
    plane: str = "scrub"
    """The method whose model spans the plane with its original and an oracle; one of --methods."""
    resolution: int = 21
    """Grid points along each side of the plane."""
    test_size: int = 1000
    """Test examples over which the loss is taken there, the same everywhere; all, if there are fewer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sharpness:
    """How the largest eigenvalue of the Hessian is found."""

    examples: int = 128
    """Retained examples over which the loss is taken, the same for all models; and forgotten ones, no more than there are."""
    steps: int = 12
    """Products with the Hessian."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(unlearning.Config):
    """The options of the experiment `variance`."""

    exp: str = "variance"
    """The experiment. `--list` shows all."""
    methods: str = METHODS
    """Names separated by commas; main (the main job's) or all, but for the references and those that keep several networks."""
    members: int = 16
    """Original models, each unlearned by each method; twice as many oracles are trained, for the null. At least 6."""
    forget_sets: int = 1
    """Forget sets, each with oracles of its own; intervals are for other models, and with several for other sets too."""
    evaluation: Evaluation = JUDGED
    slices: Slices = Slices()
    sharpness: Sharpness = Sharpness()

    extendable: ClassVar[frozenset[str]] = frozenset({"methods", "members", "forget_sets"})

    def check(self) -> None:
        """Raises a UsageError for the first value that cannot be meant."""
        super().check()
        number = self.members != "auto" and self.members >= 6
        require(number, "--members", self.members, "expected an integer of at least 6: two halves with a variance, one left out")
        require(
            self.unlearning_seeds == 1, "--unlearning-seeds", self.unlearning_seeds, "variance takes one; leave the option out"
        )
        slices, sharpness = self.slices, self.sharpness
        few = 3 <= slices.lines <= self.members
        require(few, "--slices.lines", slices.lines, f"expected an integer from 3 to --members, {self.members}")
        require(slices.points >= 3, "--slices.points", slices.points, "expected an integer of at least 3")
        asked = self.method_names()
        require(slices.plane in asked, "--slices.plane", slices.plane, f"there is {', '.join(asked)}")
        require(slices.resolution >= 2, "--slices.resolution", slices.resolution, "expected an integer of at least 2")
        require(slices.test_size >= 1, "--slices.test-size", slices.test_size, "expected an integer of at least 1")
        require(sharpness.examples >= 1, "--sharpness.examples", sharpness.examples, "expected an integer of at least 1")
        require(sharpness.steps >= 2, "--sharpness.steps", sharpness.steps, "expected an integer of at least 2")

    def method_names(self) -> list[str]:
        """The methods that `methods` asks for; originals and oracles are always there, and ensembles have no place in between."""
        from unlearn_jax.methods import METHODS as ENTRIES  # brings JAX with it, which --help must not
        from unlearn_jax.report.rows import REFERENCES

        words = self.methods.replace(",", " ").split()
        names = [name for name in super().method_names() if name not in REFERENCES or name in words]
        single = [name for name in names if not ENTRIES[name].ensemble or name in words]
        for name in single:
            fits = name not in REFERENCES and not ENTRIES[name].ensemble
            require(fits, "--methods", name, "expected methods that make one network; originals and oracles are always there")
        require(bool(single), "--methods", self.methods, "expected at least one method")
        return single


def smoke(config: Config) -> Config:
    """The whole path in seconds: tiny data, a small net, few models, short lines."""
    small = unlearning.smoke(config)
    assert isinstance(small, Config)
    return dataclasses.replace(
        small,
        members=6,
        methods="gradient_ascent,scrub",
        slices=Slices(lines=3, points=3, resolution=3),
        sharpness=Sharpness(examples=30, steps=4),
    )
