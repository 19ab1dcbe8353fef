"""A hypernetwork that outputs the weight update of a forget request in one forward pass, compared with methods that optimise.

It is meta-trained on forget sets and their oracles, and compared on forget sets, originals and oracles that it never saw.
About three minutes on two cores with the defaults (digits, MLP), mostly for the comparison.

    python benchmark.py --exp hypernetwork
"""

import dataclasses
from typing import Annotated, ClassVar

from unlearn_jax.bench.kinds import Count, Names, Real, Whole
from unlearn_jax.bench.options import AT_RANDOM, QUICK, AtRandom, Seeded, Train, small

LONG = Train(epochs=60)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meta:
    """How the hypernetwork is trained."""

    sets: Count = 64
    """Forget sets to learn from, each with an original and an oracle of its own."""
    validation: Count = 8
    """Further forget sets, for validation only."""
    steps: Count = 1500
    """Steps of Adam."""
    batch_size: Count = 8
    """Forget sets per step."""
    learning_rate: Annotated[float, Real(above=0)] = 3e-3
    """Adam's initial learning rate; it falls to 0 by a cosine."""
    others: Count = 256
    """Retained examples of each set in the loss, beside the forget set and the held-out examples."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Seeded):
    """The options of the experiment `hypernetwork`."""

    exp: str = "hypernetwork"
    """The experiment. `--list` shows all."""
    model: str = "mlp"
    """resnet8, 14, 20, ... (6n+2), resnet18 or mlp."""
    width: Count = 64
    """Channels of the first stage, or hidden units of the MLP."""
    train: Train = LONG
    """60 epochs: after 15 an MLP has memorised too little of digits to forget."""
    members: Annotated[int, Whole(least=2)] = 24
    """Original models, each unlearned by each method; twice as many oracles are trained, for the null."""
    forget: AtRandom = AT_RANDOM
    methods: Names = ("original", "retrain", "finetune", "cf_k", "gradient_ascent", "neggrad_plus", "ssd")
    """Methods to compare with: names separated by commas, or all. `--list` shows them."""
    meta: Meta = Meta()

    extendable: ClassVar[frozenset[str]] = frozenset({"methods"})


def smoke(config: Config) -> Config:
    """The whole path in under a minute: tiny data, a small net, few models and forget sets."""
    return small(
        config,
        hyper=QUICK,
        methods=("original", "retrain", "finetune"),
        meta=Meta(sets=6, validation=2, steps=30, batch_size=2, others=40),
    )
