"""How much of the forget set does a method need? It is shown a part of F, and judged on all of it.

python benchmark.py --exp coreset --methods scrub,neggrad_plus --shares 0.125,0.5,1

The part is drawn at random, anew for each original, or it is the most exposed one. The rest of F is neither forgotten nor
retained.
"""

import dataclasses
from typing import Annotated, ClassVar

from unlearn_jax.bench.kinds import Names, Real, Several, Whole, require
from unlearn_jax.bench.option_groups import Train
from unlearn_jax.bench.options import MAIN, QUICK, Hyper, Judging, Methods, Requests, small

READ_F = ("gradient_ascent", "random_label", "neggrad_plus", "scrub", "salun", "bad_teacher")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Methods, Hyper, Requests, Judging):
    """The options of the experiment `coreset`."""

    exp: str = "coreset"
    """The experiment. `--list` shows all."""
    methods: Names = READ_F
    """Names, separated by commas; main: the sixteen of the main job; all: all that the model supports. `--list` shows them."""
    members: Annotated[int, Whole(least=3)] = 24
    """Original models, each unlearned by every method with every part. Twice as many oracles are trained."""
    shares: Annotated[tuple[float, ...], Several(Real(above=0, most=1))] = (0.125, 0.25, 0.5, 1.0)
    """Shares of F that a method is shown."""

    extendable: ClassVar[frozenset[str]] = frozenset({"methods"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        from unlearn_jax.methods import METHODS  # brings JAX with it, which --help must not

        super().check()
        require(bool(self.shares), "--shares", "", "none given")
        require(any(name not in MAIN[:2] for name in self.method_names()), "--methods", ",".join(self.methods), "none to unlearn")
        for name in self.methods:
            require(name not in METHODS or not METHODS[name].ensemble, "--methods", name, "makes several networks of one")


def smoke(config: Config) -> Config:
    """The whole path in seconds; trained for so long, and with so many wrong labels, that the originals remember some of F."""
    train = Train(epochs=30, batch_size=64)
    return small(config, methods=("neggrad_plus", "finetune"), shares=(0.25, 1.0), hyper=QUICK, train=train, label_noise=0.3)
