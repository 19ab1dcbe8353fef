"""How many retrained models it takes: the chance that a table of other models, forget sets and searches concludes the same.

The pools are trained once, and tables of fewer models are drawn from them. Minutes on two cores for digits.

    python benchmark.py --exp conclusions
    python benchmark.py --exp conclusions --dataset fashion_mnist --train-size 600 --label-noise 0 --train.epochs 10
"""

import dataclasses
from typing import Annotated

from unlearn_jax.bench.kinds import Count, Names, Whole, require
from unlearn_jax.bench.options import QUICK, SETS, Comparison, small

COMPARED = (
    "original",
    "retrain",
    "scrub",
    "l1_sparse_proximal",
    "neggrad_plus",
    "finetune",
    "salun",
    "bad_teacher",
    "eu_k",
    "gradient_ascent",
)
EVALUATED = 2
"""Originals of a table whose hyperparameters are searched, at most; the others of its half judge the searches."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Comparison):
    """The options of the experiment `conclusions`."""

    exp: str = "conclusions"
    """The experiment. `--list` shows all."""
    methods: Names = COMPARED
    """Methods to compare, separated by commas, three or more beside retrain, which is added; main or all. original: doing
    nothing, a row of a table as any."""
    members: Annotated[int, Whole(least=4)] = 32
    """Original models, each unlearned by every method. The two tables that are compared have half of them each."""
    oracles: Annotated[int, Whole(least=4)] = 64
    """The most oracles in a table; twice as many are trained for every forget set."""
    forget_sets: Annotated[int, Whole(least=2, most=SETS)] = 4
    """Number of forget sets, each with its own oracles. The two tables that are compared have half of them each."""
    tables: Count = 200
    """Pairs of tables drawn for every number of models."""
    settings: Annotated[int, Whole(least=2)] = 8
    """Hyperparameter settings of every method, of which a search tries some; the first is the authors'."""
    trials: Count = 4
    """Settings that a search tries."""
    judges: Annotated[int, Whole(least=2)] = 4
    """Models, and as many oracles, by which a search judges a setting."""
    searched: Annotated[int, Whole(least=8)] = 16
    """Originals that are unlearned by every setting, on the first forget set; half of them for each of the two tables."""

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        require(len(self.compared()) > 2, "--methods", ",".join(self.methods), "expected three or more beside retrain")
        require(self.trials <= self.settings, "--trials", self.trials, "expected at most --settings")
        least = 2 * (self.judges + EVALUATED)
        accepted = f"expected {least} or more, for --judges {self.judges}, and at most --members"
        require(least <= self.searched <= self.members, "--searched", self.searched, accepted)
        require(self.judges <= self.oracles // 2, "--judges", self.judges, "expected at most half of --oracles")

    def compared(self) -> list[str]:
        """The methods that are compared with each other: all but retraining."""
        return [name for name in self.method_names() if name != "retrain"]


def smoke(config: Config) -> Config:
    """The whole path in seconds."""
    return small(
        config,
        members=8,
        oracles=4,
        forget_sets=2,
        methods=("original", "finetune", "gradient_ascent"),
        tables=6,
        settings=2,
        trials=2,
        judges=2,
        searched=8,
        hyper=QUICK,
    )
