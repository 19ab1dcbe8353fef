"""Does it carry over? Memory left and damage of every method in several settings, and the rank correlations with the first.

The first setting is the main job's; each other one changes one thing: other seeds alone (the ceiling that noise permits), clean
labels at the same memorised mass, an MLP, GroupNorm, a small vision transformer, Fashion-MNIST. All by default take
about 40 minutes on two quiet cores (estimated), two thirds of them the transformer and Fashion-MNIST. An interrupted run resumes.

    python benchmark.py --exp carry_over
    python benchmark.py --exp carry_over --settings base,again,clean,mlp,group
"""

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Suppress

from unlearn_jax.bench.kinds import Count, Name, Real, Several, Whole, fixed, require
from unlearn_jax.bench.option_groups import Forget, Judged, Request, Train
from unlearn_jax.bench.options import QUICK, SETS, Hyper, Methods, Requests

FEWEST = 3  # originals: an interval from the jackknife
REFERENCES = ("original", "retrain")  # always measured
BASE, AGAIN, CLEAN = "base", "again", "clean"
SETTINGS = {
    BASE: "{dataset}, {noise:.0%} wrong labels, {model}",
    AGAIN: "other seeds only",
    CLEAN: "clean labels",
    "group": "GroupNorm",
    "mlp": "MLP",
    "vit": "vision transformer",
    "fashion": "Fashion-MNIST",
}
"""Setting -> what it changes, as tables and figures call it. Those of one network stand together: it is compiled once."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sized(Forget):
    """Which training examples are to be forgotten: random ones. With clean labels a share of them is the most memorised."""

    kind: Suppress[Request] = fixed("random")
    label: Suppress[int] = fixed(Forget.label)
    file: Suppress[Path | None] = fixed(None)
    models: Suppress[int] = fixed(Forget.models)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matching:
    """How forget sets with clean labels get the memorised mass of those with wrong ones."""

    tolerance: Annotated[float, Real(above=0)] = 0.1
    """How far the mass may be from the base's, as a share of it, for each seed; what was reached is reported."""
    tries: Count = 5
    """Shares of memorised examples to try, each with oracles of its own; the nearest one is used."""
    models: Annotated[int, Whole(least=4)] = 32
    """Models trained on random halves of the training set, which rank the examples by memorisation; an even number."""

    def check(self) -> None:
        """Raises ArgumentError for an odd number of models."""
        require(self.models % 2 == 0, "--matching.models", self.models, "expected an even number of at least 4")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A network in place of the base's, trained until it has learned about as many of the wrong labels."""

    width: Count
    """As --width."""
    epochs: Count
    """As --train.epochs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Other:
    """The other data set, with the base's network and share of wrong labels."""

    dataset: str = "fashion_mnist"
    """A name that `--list` shows."""
    train_size: Annotated[int, Whole(least=2)] | None = 400
    """Training examples to keep, drawn at random. None: all, which takes hours."""
    epochs: Count = 25
    """As --train.epochs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Methods, Hyper, Requests):
    """The options of the experiment `carry_over`."""

    exp: str = "carry_over"
    """The experiment. `--list` shows all."""
    settings: Annotated[tuple[str, ...], Several(Name(*SETTINGS))] = tuple(SETTINGS)
    """Settings, separated by commas; the base is always the first. Each later one changes one thing."""
    seeds: Annotated[int, Whole(least=1, most=SETS)] = 3
    """Repeats of each setting, with other wrong labels, forget sets and models; `again` takes the seeds after the base's."""
    members: Annotated[int, Whole(least=FEWEST)] = 4
    """Original models of each seed: at least 3; twice as many oracles are trained for each forget set."""
    forget: Sized = Sized()
    forget_sets: Annotated[int, Whole(least=1, most=SETS)] = 5
    """Forget sets of each seed."""
    evaluation: Judged = Judged(retain_size=500)
    hyper_of: Literal["base", "own"] = "base"
    """Whose tuned hyperparameters: those of the base's data set in every setting, or each data set's own."""
    matching: Matching = Matching()
    mlp: Network = Network(width=256, epochs=15)
    group: Network = Network(width=8, epochs=20)
    vit: Network = Network(width=16, epochs=32)
    other: Other = Other()
    margin: Annotated[float, Real(above=0)] = 0.1
    """A method forgets where its memory left and its damage are both within this share of what there is to forget."""

    extendable: ClassVar[frozenset[str]] = frozenset({"settings", "methods"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        from unlearn_jax.methods import METHODS  # brings JAX with it, which --help must not

        super().check()
        names = self.method_names()
        require(len(names) > 1, "--methods", ",".join(self.methods), "expected two or more besides original and retrain")
        for name in names:
            require(not METHODS[name].ensemble, "--methods", name, "makes several networks of one")
        clean = CLEAN not in self.settings or self.label_noise > 0
        require(clean, "--settings", ",".join(self.settings), "the base has no wrong labels; expected settings without clean")

    def method_names(self) -> list[str]:
        """The names of the methods, without the two references."""
        return [name for name in super().method_names() if name not in REFERENCES]

    def setting_names(self) -> list[str]:
        """The settings, the base first, each once."""
        return [name for name in SETTINGS if name == BASE or name in self.settings]

    def title(self, name: str) -> str:
        """What tables and figures call a setting."""
        return SETTINGS[name].format(dataset=self.dataset, noise=self.label_noise, model=self.model)

    def variant(self, name: str, number: int = 0) -> "Config":
        """The options of a setting with its seed of a number, counted from 0."""
        seed = self.seed + number + (self.seeds if name == AGAIN else 0)
        epochs = {"mlp": self.mlp.epochs, "group": self.group.epochs, "vit": self.vit.epochs, "fashion": self.other.epochs}
        train = dataclasses.replace(self.train, epochs=epochs.get(name, self.train.epochs))
        one = dataclasses.replace(self, seed=seed, train=train)
        if name == CLEAN:
            return dataclasses.replace(one, label_noise=0.0)
        if name == "mlp":
            return dataclasses.replace(one, model="mlp", width=self.mlp.width)
        if name == "group":
            return dataclasses.replace(one, normalisation="group", width=self.group.width)
        if name == "vit":
            return dataclasses.replace(one, model="vit", width=self.vit.width)
        if name == "fashion":
            return dataclasses.replace(one, dataset=self.other.dataset, train_size=self.other.train_size)
        return one


def smoke(config: Config) -> Config:
    """The whole path in seconds: few examples, few models, an MLP, two seeds of two sets."""
    return dataclasses.replace(
        config,
        smoke=True,
        settings=(BASE, AGAIN, CLEAN),
        train_size=200,
        model="mlp",
        width=64,
        seeds=2,
        members=3,
        forget_sets=2,
        methods=("finetune", "gradient_ascent", "neggrad_plus"),
        hyper=QUICK,
        train=Train(epochs=30, batch_size=40),
        evaluation=Judged(retain_size=60),
        matching=Matching(tries=2, models=8, tolerance=0.5),
    )
