"""How much each method depends on its hyperparameters: forgetting against utility over its two main ones.

Every setting has the same budget. It is judged on originals, oracles and a forget set that the evaluation does not use.

    python benchmark.py --exp sensitivity
    python benchmark.py --exp sensitivity --methods scrub,salun --grid 9
"""

import dataclasses
from typing import Annotated, ClassVar

from unlearn_jax.bench.kinds import Names, Whole, require
from unlearn_jax.bench.option_groups import Train
from unlearn_jax.bench.options import Hyper
from unlearn_jax.bench.tuning_options import Budget

FINE = (
    "neggrad_plus",
    "scrub",
    "salun",
    "l1_sparse",
    "ssd",
    "bad_teacher",
    "finetune",
    "gradient_ascent",
    "random_label",
    "fisher",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Hyper, Budget):
    """The options of the experiment `sensitivity`."""

    exp: str = "sensitivity"
    """The experiment. `--list` shows all."""
    methods: Names = ("all",)
    """Names separated by commas; main (the sixteen of the main job) or all. `--list` shows them."""
    members: Annotated[int, Whole(least=2)] = 4
    """Original models that each setting unlearns; as many oracles judge it."""
    grid: Annotated[int, Whole(least=2)] = 4
    """Values of each of a method's two main hyperparameters; the square of it if there is only one."""
    fine: Names = FINE
    """Methods that get a finer grid, names separated by commas."""
    fine_grid: Annotated[int, Whole(least=2)] = 7
    """Values of each hyperparameter of the methods in `fine`."""

    extendable: ClassVar[frozenset[str]] = frozenset({"methods"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        self.fine_names()

    def fine_names(self) -> list[str]:
        """The methods that get a finer grid."""
        from unlearn_jax.methods import METHODS  # brings JAX with it, which --help must not

        names = self.method_names()
        for name in self.fine:
            require(name in METHODS, "--fine", name, f"there is {', '.join(METHODS)}")
            require(name in names or self.fine == FINE, "--fine", name, f"is not among the methods ({', '.join(names)})")
        return list(self.fine)


def smoke(config: Config) -> Config:
    """The whole path in seconds."""
    return dataclasses.replace(
        config,
        smoke=True,
        train_size=300,
        model="mlp",
        width=16,
        members=2,
        grid=2,
        fine_grid=3,
        epochs=1,
        methods=("finetune", "neggrad_plus", "fisher"),
        fine=("fisher",),
        train=Train(epochs=2, batch_size=64),
    )
