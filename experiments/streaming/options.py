"""Forget requests that arrive one after another, when the retain set is gone: how utility and forgetting drift.

After each request every method is compared with models retrained without all that was asked for so far. A few minutes on two
cores with the defaults (digits, MLP).

    python benchmark.py --exp streaming
"""

import dataclasses
from typing import Annotated, ClassVar

from unlearn_jax.bench.kinds import Count, Names, Real, Settings, Whole, require
from unlearn_jax.bench.options import QUICK, Hyper, Judging, Methods, Train, small

LONG = Train(epochs=60)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Methods, Hyper, Judging):
    """The options of the experiment `streaming`."""

    exp: str = "streaming"
    """The experiment. `--list` shows all."""
    model: str = "mlp"
    """resnet8, 14, 20, ... (6n+2), resnet18 or mlp."""
    width: Count = 64
    """Channels of the first stage, or hidden units of the MLP."""
    train: Train = LONG
    """60 epochs, since in 15 an MLP memorises so little of digits that there is nothing to forget."""
    methods: Names = ("gradient_ascent", "delete", "neg_merge", "mu_mis")
    """Names separated by commas, of methods that see the forget set alone, or nothing (`--list` shows them)."""
    hyper: Settings = (
        "gradient_ascent.learning_rate=1e-2",
        "delete.learning_rate=3e-5",
        "neg_merge.scale=0.5",
        "mu_mis.learning_rate=3e-4",
    )
    """METHOD.NAME=VALUE, several separated by commas. Those of the default methods are about the strongest that cost at most
    three points of held-out accuracy in eight requests, on four originals of seed 1; no oracle was looked at."""
    members: Annotated[int, Whole(least=2)] = 12
    """Original models; after each request as many are retrained as a method, and twice as many as oracles."""
    requests: Annotated[int, Whole(least=2)] = 8
    """How many arrive."""
    request_size: Count = 16
    """Random training examples in each."""
    anchor: Annotated[float, Real(least=0)] = 1.0
    """Strength of the pull towards the weights after training, by their Fisher information, in a second stream of each method;
    0: no second stream."""
    shards: Annotated[int, Whole(least=0)] = 5
    """Networks of SISA, which keeps the retain set and trains the shards again that a request touches; 0: without SISA."""
    slices: Count = 3
    """Stages of each of its networks, with a checkpoint after each."""

    extendable: ClassVar[frozenset[str]] = frozenset({"methods"})

    def check(self) -> None:
        """Raises UsageError on the first invalid value, or on values that contradict each other."""
        super().check()
        for name in self.method_names():
            require(name in _alone(), "--methods", name, f"the retain set is gone; there is {', '.join(_alone())}; or all")

    def method_names(self) -> list[str]:
        """The methods that `methods` asks for, in order, each once; all: those that see the forget set alone."""
        return _alone() if self.methods == ("all",) else super().method_names()


def smoke(config: Config) -> Config:
    """The whole path in under a minute: tiny data, a small net, few models, two requests."""
    return small(config, hyper=QUICK, methods=("gradient_ascent", "delete"), requests=2)


def _alone() -> list[str]:
    """The methods that see the forget set alone."""
    from unlearn_jax.methods import METHODS  # brings JAX with it, which --help must not

    return [name for name, entry in METHODS.items() if entry.access in ("F", "data-free")]
