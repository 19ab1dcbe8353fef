"""Every unlearning method against exact leave-one-out: each method forgets each point, one at a time.

128 points of two overlapping discs, 5% of the labels wrong, an MLP of 16-16 trained to convergence. The model trained without a
point, with the same seed, is the exact answer for that point. Each method's hyperparameter is searched on other points. Four to
six minutes on two busy cores; an interrupted run resumes.

    python benchmark.py --exp unlearn_one

Further from a minimum, which is harder for methods:

    python benchmark.py --exp unlearn_one --train.epochs 250 --train.weight-decay 1e-3 --methods main
"""

import dataclasses
from typing import Annotated, ClassVar

from unlearn_jax.bench.kinds import Count, Names, Real, Settings, Whole, require
from unlearn_jax.bench.option_groups import Train
from unlearn_jax.bench.options import Hyper, Methods
from unlearn_jax.bench.toy_options import POINTS, WIDEST, Discs, Plane

OVERLAPPING = Discs(separation=3.0)
CONVERGED = Train(epochs=1000, batch_size=128, learning_rate=0.05, weight_decay=1e-2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Methods, Hyper, Plane):
    """The options of the experiment `unlearn_one`."""

    exp: str = "unlearn_one"
    """The experiment. `--list` shows all."""
    discs: Discs = OVERLAPPING
    train_size: Annotated[int, Whole(least=4, most=POINTS)] = 128
    """Points; each is forgotten once."""
    label_noise: Annotated[float, Real(least=0, below=1)] = 0.05
    """Share of the points that get a wrong label."""
    width: Annotated[int, Whole(least=1, most=WIDEST)] = 16
    """Hidden units of each layer."""
    train: Train = CONVERGED
    methods: Names = ("all",)
    """Names separated by commas; main (the sixteen of the main job), or all that can forget a point. `--list` shows them."""
    hyper: Settings = ("ntk.samples=128",)
    """METHOD.NAME=VALUE, several separated by commas: scrub.epochs=5,salun.learning_rate=1e-3; * is every method that has it."""
    epochs: Count = 20
    """Full-batch epochs, the same for all methods that have epochs."""
    shown: Annotated[int, Whole(least=1, most=8)] = 4
    """How many of the most influential points have their boundaries drawn."""
    trials: Annotated[int, Whole(least=2)] = 8
    """Values of each method's main hyperparameter in each of two rounds of the search, on points of another draw: a divisor of
    --train-size."""

    extendable: ClassVar[frozenset[str]] = frozenset({"methods"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        whole = self.train_size % self.trials == 0
        require(whole, "--trials", self.trials, f"expected a divisor of --train-size {self.train_size}")

    def method_names(self) -> list[str]:
        """The names of the methods, without the one that can only forget a class of images."""
        named = "gated_knowledge_transfer" in self.methods
        require(not named, "--methods", "gated_knowledge_transfer", "forgets a class of images, not a point")
        return [name for name in super().method_names() if name != "gated_knowledge_transfer"]


def smoke(config: Config) -> Config:
    """The whole path in seconds: few points, few steps, four methods."""
    return dataclasses.replace(
        config,
        smoke=True,
        train_size=16,
        width=8,
        train=dataclasses.replace(CONVERGED, epochs=30, batch_size=16),
        methods=("original", "retrain", "finetune", "woodfisher"),
        epochs=3,
        trials=4,
        resolution=24,
        shown=2,
    )
