"""A hypernetwork that outputs the weight update of a forget request in one forward pass, compared with methods that optimise.

It is meta-trained on forget sets and their oracles, and compared on forget sets, originals and oracles that it never saw: in
several draws, of several kinds, beside the originals at the best temperature, itself when it is shown other examples, and methods
with a search. About a quarter of an hour on two cores with the defaults (digits, MLP).

    python benchmark.py --exp hypernetwork
"""

import dataclasses
from typing import Annotated, ClassVar

from unlearn_jax.bench.kinds import Count, Name, Names, Real, Several, Whole, require
from unlearn_jax.bench.option_groups import AT_RANDOM, AtRandom, Train
from unlearn_jax.bench.options import QUICK, Seeded, small

LONG = Train(epochs=60)
TARGETS = ("kl", "margins", "logits")
"""A copy of `methods.hypernetwork.TARGETS`, whose import would import JAX."""
LEARNERS = tuple(f"{target}{images}{passes}" for target in TARGETS for images in ("", "-images") for passes in ("", "-passes"))
KINDS = ("random", "class", "memorised")
MOST_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meta:
    """How the hypernetwork is trained."""

    sets: Count = 64
    """Forget sets to learn from, each with an original and an oracle of its own."""
    validation: Count = 8
    """Further forget sets, for validation only."""
    steps: Count = 800
    """Steps of Adam."""
    batch_size: Count = 8
    """Forget sets per step."""
    learning_rate: Annotated[float, Real(above=0)] = 3e-3
    """Adam's initial learning rate; it falls to 0 by a cosine."""
    passes: Count = 10
    """Steps of descent on the forget set by which learners with `passes` write to all layers."""
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
    learners: Annotated[tuple[str, ...], Several(Name(*LEARNERS))] = (
        *TARGETS,
        *("margins-images", "margins-passes", "margins-images-passes"),
    )
    """Hypernetworks, separated by commas: what is compared with the oracle (KL, margins, centred logits), and what it has beyond
    outputs, scales, shifts and the head: the images of F to read, passes of descent on F to write to all layers."""
    draws: Count = 3
    """Draws of wrong labels, lessons, hypernetworks, originals and forget sets. Draw i has the seed --seed + i. Intervals take
    three or more."""
    kinds: Annotated[tuple[str, ...], Several(Name(*KINDS))] = KINDS
    """Kinds of forget sets that the draws are judged on, separated by commas; lessons are random sets in any case."""
    sizes: Annotated[tuple[float, ...], Several(Real(above=0))] = (0.025,)
    """Other sizes of random sets that they are judged on, separated by commas: shares (below 1) or counts, of all training
    examples."""
    judged: Annotated[int, Whole(least=3)] = 6
    """Original models of each draw. For each forget set as many are retrained for `retrain`, and twice as many are oracles."""
    beside: Names = ("gradient_ascent", "delete", "finetune", "neggrad_plus", "scrub")
    """Methods with a search of their own, on other models and random sets, that are judged in every draw: names separated by
    commas. An empty value: none."""
    trials: Annotated[int, Whole(least=2)] = 6
    """Settings that this search tries for each hyperparameter."""
    budget: Count = 1
    """Passes over their data of the methods with this search."""

    extendable: ClassVar[frozenset[str]] = frozenset({"methods", "learners", "draws", "kinds", "sizes", "beside"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        require(bool(self.learners), "--learners", "", f"expected one or several of {', '.join(LEARNERS)}")
        require(bool(self.kinds or self.sizes), "--kinds", "", f"expected one or several of {', '.join(KINDS)}, or --sizes")
        accepted = f"with {self.draws} draws expected at most {MOST_SEED - self.draws + 1}"
        require(self.seed + self.draws - 1 <= MOST_SEED, "--seed", self.seed, accepted)
        known = _with_search() if self.beside else []
        for name in self.beside:
            require(name in known, "--beside", name, f"expected names among {', '.join(known)}")

    def drawn(self, number: int) -> "Config":
        """The configuration of a draw, told by its seed."""
        return dataclasses.replace(self, seed=self.seed + number)


def smoke(config: Config) -> Config:
    """The whole path in under a minute: tiny data, a small net, few models and forget sets."""
    return small(
        config,
        width=32,
        train=Train(epochs=20, batch_size=64),  # fewer leave nothing to measure
        hyper=QUICK,
        methods=("original", "retrain", "finetune"),
        meta=Meta(sets=6, validation=2, steps=30, batch_size=2, passes=2, others=40),
        learners=("kl", "margins-images-passes"),
        draws=1,
        kinds=("random", "class"),
        sizes=(),
        judged=4,
        beside=("finetune",),
        trials=2,
    )


def _with_search() -> list[str]:
    """The methods that can be searched and leave one network."""
    from unlearn_jax.methods import METHODS  # brings JAX with it, which --help must not

    return [name for name, entry in METHODS.items() if entry.search and not entry.ensemble]
