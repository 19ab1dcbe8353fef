"""Does the variance of the model shape the loss manifold, on train and on test?

Originals, oracles and unlearned models from many seeds: bias and variance of the loss of each example; the loss along lines and
on a plane between models; and the sharpness of each model's minimum, against forgetting. The defaults are the main job's setting
with fewer models: minutes on two cores.

    python benchmark.py --exp variance

Fashion-MNIST, a subset (within an hour), and CIFAR-10 on a GPU, which has not been run yet:

    python benchmark.py --exp variance --dataset fashion_mnist --train-size 2000 --methods finetune,neggrad_plus,scrub \\
        --slices.lines 4 --slices.points 5 --slices.resolution 11
    python benchmark.py --exp variance --dataset cifar10 --model resnet18 --width 64 --train.epochs 30 --train.batch-size 128
"""

import dataclasses
from typing import Annotated, ClassVar

from unlearn_jax.bench.kinds import Count, Names, Whole, require
from unlearn_jax.bench.option_groups import Evaluation
from unlearn_jax.bench.options import QUICK, SETS, Comparison, small

JUDGED = Evaluation(retain_size=600)
METHODS = ("finetune", "gradient_ascent", "neggrad_plus", "scrub", "random_label", "l1_sparse_proximal")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slices:
    """The lines and the plane on which the loss is measured."""

    lines: Annotated[int, Whole(least=3)] = 8
    """Lines of each kind, from as many originals: at least 3, for the intervals."""
    points: Annotated[int, Whole(least=3)] = 9
    """Points of a line, with its ends; an odd number includes the midpoint."""
    plane: str = "scrub"
    """The method whose model spans the plane with its original and an oracle; one of --methods."""
    resolution: Annotated[int, Whole(least=2)] = 21
    """Grid points along each side of the plane."""
    test_size: Count = 1000
    """Test examples for the loss there; all, if there are fewer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sharpness:
    """How the largest eigenvalue of the Hessian is computed."""

    examples: Count = 128
    """Retained, and forgotten, examples for the loss, the same for all models; all, if there are fewer."""
    steps: Annotated[int, Whole(least=2)] = 12
    """Hessian-vector products."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Comparison):
    """The options of the experiment `variance`."""

    exp: str = "variance"
    """The experiment. `--list` shows all."""
    methods: Names = METHODS
    """Names separated by commas; main (the main job's) or all, without references and ensembles."""
    members: Annotated[int, Whole(least=6)] = 16
    """Original models, each unlearned by each method; twice as many oracles are trained, for the null. At least 6."""
    forget_sets: Annotated[int, Whole(least=1, most=SETS)] = 1
    """Forget sets, each with its own oracles. Intervals are over models, and over forget sets if there are several."""
    evaluation: Evaluation = JUDGED
    slices: Slices = Slices()
    sharpness: Sharpness = Sharpness()

    extendable: ClassVar[frozenset[str]] = frozenset({"methods", "members", "forget_sets"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        lines, plane, asked = self.slices.lines, self.slices.plane, self.method_names()
        require(lines <= self.members, "--slices.lines", lines, f"expected at most --members, {self.members}")
        require(plane in asked, "--slices.plane", plane, f"there is {', '.join(asked)}")

    def method_names(self) -> list[str]:
        """The methods that make one network. Originals and oracles are always measured; no lines lead to an ensemble."""
        from unlearn_jax.methods import METHODS as ENTRIES  # brings JAX with it, which --help must not
        from unlearn_jax.report.rows import REFERENCES

        names = [name for name in super().method_names() if name not in REFERENCES or name in self.methods]
        single = [name for name in names if not ENTRIES[name].ensemble or name in self.methods]
        for name in single:
            fits = name not in REFERENCES and not ENTRIES[name].ensemble
            require(fits, "--methods", name, "expected methods that make one network; originals and oracles are always there")
        require(bool(single), "--methods", ",".join(self.methods), "expected at least one method")
        return single


def smoke(config: Config) -> Config:
    """The whole path in seconds: tiny data, a small net, few models, short lines."""
    return small(
        config,
        hyper=QUICK,
        members=6,
        methods=("gradient_ascent", "scrub"),
        slices=Slices(lines=3, points=3, resolution=3),
        sharpness=Sharpness(examples=30, steps=4),
    )
