"""A network that writes the weight update of a forget request in one forward pass, beside methods that optimise.

Meta-trains on forget sets and their oracles, and is then compared on forget sets, originals and oracles that it never saw.
About three minutes on two cores with the defaults (digits, MLP), most of it the comparison.

    python benchmark.py --exp hypernetwork
"""

import dataclasses
from math import inf
from typing import ClassVar

from unlearn_jax.bench import main_options as unlearning
from unlearn_jax.bench.options import Train, require

LONG = Train(epochs=60)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meta:
    """How the hypernetwork is trained."""

    sets: int = 64
    """Forget sets to learn from, each with an original and an oracle of its own."""
    validation: int = 8
    """Further ones, on which it is only tried."""
    steps: int = 1500
    """Of Adam."""
    batch_size: int = 8
    """Forget sets per step."""
    learning_rate: float = 3e-3
    """Of Adam, at the start; it falls to 0 by a cosine."""
    others: int = 256
    """Retained examples of each set on which the update is judged, beside the forget set and the held-out examples."""

    def check(self) -> None:
        """Raises a UsageError for the first value that cannot be meant."""
        for name in ("sets", "validation", "steps", "batch_size", "others"):
            value = getattr(self, name)
            require(value >= 1, f"--meta.{name.replace('_', '-')}", value, "expected an integer of at least 1")
        require(0 < self.learning_rate < inf, "--meta.learning-rate", self.learning_rate, "expected a number above 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(unlearning.Config):
    """The options of the experiment `hypernetwork`."""

    exp: str = "hypernetwork"
    """The experiment. `--list` shows all."""
    model: str = "mlp"
    """resnet8, 14, 20, ... (6n+2), resnet18 or mlp."""
    width: int = 64
    """Channels of the first stage, or hidden units of the MLP."""
    train: Train = LONG
    """60 epochs, since in 15 an MLP memorises so little of digits that there is nothing to forget."""
    methods: str = "original,retrain,finetune,cf_k,gradient_ascent,neggrad_plus,ssd"
    """What it is compared with: names separated by commas, or all. `--list` shows them."""
    meta: Meta = Meta()

    extendable: ClassVar[frozenset[str]] = frozenset({"methods"})

    def check(self) -> None:
        """Raises a UsageError for the first value that cannot be meant."""
        super().check()
        self.meta.check()
        require(self.members != "auto", "--members", self.members, "hypernetwork takes a number")
        require(self.forget.kind == "random", "--forget.kind", self.forget.kind, "hypernetwork learns from random forget sets")


def smoke(config: Config) -> Config:
    """The whole path in under a minute: tiny data, a small net, few models and forget sets."""
    small = unlearning.smoke(config)
    assert isinstance(small, Config)
    return dataclasses.replace(
        small,
        methods="original,retrain,finetune",
        meta=Meta(sets=6, validation=2, steps=30, batch_size=2, others=40),
    )
