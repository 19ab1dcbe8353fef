"""Forget requests one after another, when the retain set is no longer available: how utility and forgetting drift.

After each request every method is compared with models retrained without all examples requested so far. A few minutes on two
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
    three points of held-out accuracy in eight requests, on four originals of seed 1, without looking at oracles."""
    members: Annotated[int, Whole(least=2)] = 12
    """Original models. After each request as many are retrained for `retrain`, and twice as many as oracles."""
    requests: Annotated[int, Whole(least=2)] = 8
    """Number of requests."""
    request_size: Count = 16
    """Random training examples in each request."""
    anchor: Annotated[float, Real(least=0)] = 1.0
    """Strength of the penalty that pulls weights back to those after training, scaled by their Fisher information. It is used in
    a second stream of each method; 0: no second stream."""
    shards: Annotated[int, Whole(least=0)] = 5
    """Networks of SISA, which keeps the retain set and retrains the shards that a request touches; 0: without SISA."""
    slices: Count = 3
    """Stages of training of each SISA network, with a checkpoint after each."""

    extendable: ClassVar[frozenset[str]] = frozenset({"methods"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        accepted = _methods_on_forget()
        for name in self.method_names():
            require(name in accepted, "--methods", name, f"the retain set is gone; there is {', '.join(accepted)}; or all")

    def method_names(self) -> list[str]:
        """The methods in order, without repetition; `all`: those that see the forget set alone."""
        return _methods_on_forget() if self.methods == ("all",) else super().method_names()


def smoke(config: Config) -> Config:
    """The whole path in under a minute: tiny data, a small net, few models, two requests."""
    return small(config, hyper=QUICK, methods=("gradient_ascent", "delete"), requests=2)


def _methods_on_forget() -> list[str]:
    """The methods that see the forget set alone."""
    from unlearn_jax.methods import METHODS  # brings JAX with it, which --help must not

    return [name for name, entry in METHODS.items() if entry.access in ("F", "data-free")]
