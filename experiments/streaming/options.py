"""Forget requests that arrive one after another, when the retain set is gone: how utility and forgetting drift.

After each request every method is compared with models retrained without all that was asked for so far. A few minutes on two
cores with the defaults (digits, MLP).

    python benchmark.py --exp streaming
"""

import dataclasses
from math import inf
from typing import ClassVar

from unlearn_jax.bench import main_options as unlearning
from unlearn_jax.bench.options import Train, require

LONG = Train(epochs=60)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(unlearning.Config):
    """The options of the experiment `streaming`."""

    exp: str = "streaming"
    """The experiment. `--list` shows all."""
    model: str = "mlp"
    """resnet8, 14, 20, ... (6n+2), resnet18 or mlp."""
    width: int = 64
    """Channels of the first stage, or hidden units of the MLP."""
    train: Train = LONG
    """60 epochs, since in 15 an MLP memorises so little of digits that there is nothing to forget."""
    methods: str = "gradient_ascent,delete,neg_merge,mu_mis"
    """Names separated by commas, of methods that see the forget set alone, or nothing (`--list` shows them)."""
    hyper: tuple[str, ...] = (
        "gradient_ascent.learning_rate=1e-2",
        "delete.learning_rate=3e-5",
        "neg_merge.scale=0.5",
        "mu_mis.learning_rate=3e-4",
    )
    """METHOD.NAME=VALUE, several separated by commas. Those of the default methods are about the strongest that cost at most
    three points of held-out accuracy in eight requests, on four originals of seed 1; no oracle was looked at."""
    members: int = 12
    """Original models; after each request as many are retrained as a method, and twice as many as oracles."""
    requests: int = 8
    """How many arrive."""
    request_size: int = 16
    """Random training examples in each."""
    anchor: float = 1.0
    """Strength of the pull towards the weights after training, by their Fisher information, in a second stream of each method;
    0: no second stream."""
    shards: int = 5
    """Networks of SISA, which keeps the retain set and trains the shards again that a request touches; 0: without SISA."""
    slices: int = 3
    """Stages of each of its networks, with a checkpoint after each."""

    extendable: ClassVar[frozenset[str]] = frozenset({"methods"})

    def check(self) -> None:
        """Raises a UsageError for the first value that cannot be meant."""
        super().check()
        require(self.requests >= 2, "--requests", self.requests, "expected an integer of at least 2")
        require(self.request_size >= 1, "--request-size", self.request_size, "expected an integer of at least 1")
        require(0 <= self.anchor < inf, "--anchor", self.anchor, "expected a number of at least 0")
        require(self.shards >= 0, "--shards", self.shards, "expected an integer of at least 0")
        require(self.slices >= 1, "--slices", self.slices, "expected an integer of at least 1")
        require(self.forget == unlearning.Forget(), "--forget", self.forget.kind, "streaming has --requests and --request-size")
        require(self.forget_sets == 1, "--forget-sets", self.forget_sets, "streaming takes one; leave the option out")
        require(self.unlearning_seeds == 1, "--unlearning-seeds", self.unlearning_seeds, "streaming takes one")
        require(self.members != "auto", "--members", self.members, "streaming takes a number")
        for name in self.method_names():
            require(name in _alone(), "--methods", name, f"the retain set is gone; there is {', '.join(_alone())}; or all")

    def method_names(self) -> list[str]:
        """The methods that `methods` asks for, in order, each once; all: those that see the forget set alone."""
        return _alone() if self.methods == "all" else super().method_names()


def smoke(config: Config) -> Config:
    """The whole path in under a minute: tiny data, a small net, few models, two requests."""
    small = unlearning.smoke(config)
    assert isinstance(small, Config)
    return dataclasses.replace(small, methods="gradient_ascent,delete", requests=2)


def _alone() -> list[str]:
    """The methods that see the forget set alone."""
    from unlearn_jax.methods import METHODS  # brings JAX with it, which --help must not

    return [name for name, entry in METHODS.items() if entry.access in ("F", "data-free")]
