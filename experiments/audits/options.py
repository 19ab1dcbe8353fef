"""Which audits of unlearning agree with the truth, the distance from retrained models?

python benchmark.py --exp audits

Pools, methods and hyperparameters are the main job's; 24 more models are retrained for the null, and 32 trained on random halves.
Each method's models are made anew, since the main job keeps their logits alone. A quarter of an hour on two cores.
"""

import dataclasses
from typing import Annotated, ClassVar

from unlearn_jax.bench.kinds import Count, Real, Whole, require
from unlearn_jax.bench.option_groups import Train
from unlearn_jax.bench.options import MAIN, QUICK, Hyper, Judging, Methods, Requests, small


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack:
    """How much an auditor changes the models before asking what they remember."""

    epochs: Count = 5
    """Passes over the retain set, over held-out examples, or over the forget set, in relearning."""
    learning_rate: Annotated[float, Real(above=0)] = 0.01
    """Of relearning; constant. The optimiser and the batches are those of training."""
    prune: Annotated[float, Real(above=0, below=1)] = 0.3
    """Share of the weights that pruning removes."""
    nudge: Annotated[float, Real(above=0)] = 0.1
    """Noise added to forget examples for residual knowledge, in standard deviations of the pixels."""
    draws: Count = 4
    """Draws of that noise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Methods, Hyper, Requests, Judging):
    """The options of the experiment `audits`."""

    exp: str = "audits"
    """The experiment. `--list` shows all."""
    members: Annotated[int, Whole(least=3)] = 24
    """Original models, each unlearned by every method. Twice as many oracles are trained, and as many to stand as `retrain`."""
    null_models: Annotated[int, Whole(least=3)] = 24
    """Further retrained models, which give the null of every audit."""
    half_models: Annotated[int, Whole(least=8)] = 32
    """Models trained on random halves of the training set, for the attack on the retain set; an even number."""
    attack: Attack = Attack()
    delta: Annotated[float, Real(above=0, below=1)] = 1e-5
    """δ of the lower bounds on ε."""
    fails: Annotated[float, Real(above=0)] = 0.5
    """Distance from retraining from which a method fails the truth: memory left, or damage."""

    extendable: ClassVar[frozenset[str]] = frozenset({"methods", "fails"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        require(self.half_models % 2 == 0, "--half-models", self.half_models, "expected an even number of at least 8")
        require(any(name not in MAIN[:2] for name in self.method_names()), "--methods", ",".join(self.methods), "none to audit")


def smoke(config: Config) -> Config:
    """The whole path in seconds."""
    methods = ("finetune", "gradient_ascent", "random_label", "scrub", "fisher")
    return small(
        config,
        methods=methods,
        members=6,
        null_models=4,
        half_models=8,
        hyper=QUICK,
        train=Train(epochs=30, batch_size=64),
        attack=Attack(epochs=1, draws=1),
    )
