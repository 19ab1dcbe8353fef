"""Forget requests one after another, when the retain set is no longer available: how utility and forgetting drift.

Three kinds of streams, several draws of each: other data, wrong labels, originals and requests. After 1, 8 and 64 requests
every method is compared with models retrained without all examples requested so far. Methods see the request, and a summary of
the training data that was kept: none, an anchor, or what stands in for retained examples. The defaults (digits, MLP) take
seven minutes of processor time.

    python benchmark.py --exp streaming
"""

import dataclasses
from typing import Annotated, ClassVar

from unlearn_jax.bench.kinds import Count, Name, Names, Real, Settings, Several, Whole, require
from unlearn_jax.bench.option_groups import Evaluation, Train
from unlearn_jax.bench.options import QUICK, Hyper, Judging, Methods, small

LONG = Train(epochs=60)
STREAMS = ("random", "class", "memorised")
OWN = "class_distillation"
STAND_INS = ("classes", "classes with F", "held-out", "R")
"""A copy of the names in `methods.summaries.STAND_INS`, whose import would import JAX."""
EVALUATED = Evaluation(splits=20, retain_size=300)


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
    replayed: Names = ("neggrad_plus", "scrub", OWN)
    """Names separated by commas, of methods that need retained examples, which the stand-ins replace; class_distillation is one
    that exists in streams alone. An empty value: none."""
    hyper: Settings = (
        "gradient_ascent.learning_rate=1e-2",
        "delete.learning_rate=3e-5",
        "neg_merge.scale=0.5",
        "mu_mis.learning_rate=3e-4",
    )
    """METHOD.NAME=VALUE, several separated by commas. Learning rates are chosen (see --rates) unless that is 0. Those of the
    default methods are about the strongest that cost at most three points of held-out accuracy in eight requests of 16, on four
    originals of seed 1, without looking at oracles."""
    rates: Annotated[int, Whole(least=0, most=100)] = 6
    """Learning rates that are tried for each method and summary, on originals of another seed and a random stream: the largest is
    taken that moves held-out accuracy by at most --price. 0: those of --hyper."""
    price: Annotated[float, Real(least=0)] = 3.0
    """Points by which all requests together may move held-out accuracy where learning rates are chosen."""
    members: Annotated[int, Whole(least=2)] = 4
    """Original models of each draw. At each point of comparison as many are retrained for `retrain`, and twice as many are
    oracles."""
    evaluation: Evaluation = EVALUATED
    streams: Annotated[tuple[str, ...], Several(Name(*STREAMS))] = STREAMS
    """Kinds of streams, separated by commas: random examples, those of one class, the most memorised first."""
    draws: Count = 4
    """Draws of wrong labels, originals and streams. Draw i has the seed --seed + i. Intervals take three or more."""
    requests: Annotated[int, Whole(least=2)] = 64
    """Number of requests. Methods are compared with oracles after 1 of them, --spacing, its square, ..., and all."""
    spacing: Annotated[int, Whole(least=2)] = 8
    """How many times as many requests each point of comparison has as the one before."""
    request_size: Count = 2
    """Training examples in each request."""
    anchor: Annotated[float, Real(least=0)] = 1.0
    """Strength of the penalty that pulls weights back to those after training, scaled by their Fisher information. It is used in
    two further streams of each method: with the Fisher information as it was, and less that of what was forgotten; 0: none."""
    stand_ins: Annotated[tuple[str, ...], Several(Name(*STAND_INS), spaced=False)] = STAND_INS
    """What stands in for retained examples, separated by commas: examples drawn from statistics of each class that are free of
    F (classes) or not (classes with F), held-out inputs (held-out), or, as a control, retained examples (R)."""
    stand_in_size: Count = 256
    """Examples that stand in for the retained ones, drawn anew for each request."""
    shards: Annotated[int, Whole(least=0)] = 5
    """Networks of SISA, which keeps the retain set and retrains the shards that a request touches; 0: without SISA."""
    slices: Count = 3
    """Stages of training of each SISA network, with a checkpoint after each."""

    extendable: ClassVar[frozenset[str]] = frozenset({"methods", "replayed", "draws", "stand_ins"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        accepted = _methods_on_forget()
        for name in self.method_names():
            require(name in accepted, "--methods", name, f"the retain set is gone; there is {', '.join(accepted)}; or all")
        others = _methods_on_both()
        for name in self.replayed:
            require(name in others, "--replayed", name, f"expected names among {', '.join(others)}")
        require(bool(self.streams), "--streams", "", f"expected one or several of {', '.join(STREAMS)}")

    def method_names(self) -> list[str]:
        """The methods in order, without repetition; `all`: those that see the forget set alone."""
        return _methods_on_forget() if self.methods == ("all",) else super().method_names()

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """The numbers of requests after which methods are compared with oracles."""
        powers = [self.spacing**power for power in range(self.requests.bit_length())]
        return (*(power for power in powers if power < self.requests), self.requests)

    def drawn(self, number: int) -> "Config":
        """The configuration of a draw, told by its seed."""
        return dataclasses.replace(self, seed=self.seed + number)


def smoke(config: Config) -> Config:
    """The whole path in under a minute: tiny data, a small net, few models, two requests."""
    sizes = {"requests": 2, "stand_in_size": 20, "rates": 2, "draws": 1, "streams": ("random",)}
    return small(config, hyper=QUICK, methods=("gradient_ascent", "delete"), replayed=(OWN,), **sizes)


def _methods_on_forget() -> list[str]:
    """The methods that see the forget set alone."""
    from unlearn_jax.methods import METHODS  # brings JAX with it, which --help must not

    return [name for name, entry in METHODS.items() if entry.access in ("F", "data-free")]


def _methods_on_both() -> list[str]:
    """The methods that see the forget set and retained examples, of which others can take the place."""
    from unlearn_jax.methods import METHODS

    return [*(name for name, entry in METHODS.items() if entry.access in ("R", "F+R") and not entry.ensemble), OWN]
