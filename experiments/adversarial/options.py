"""Does fooling a critic of the outputs unlearn? One critic and two, tuned, beside controls that could refute it.

A critic learns to tell the forget set F from held-out examples by a model's outputs, and the model to fool it. Held-out
examples get the share of wrong labels that training examples have, so that they are exchangeable with F; beside them the same
with right labels, and with half of the held-out examples. Controls: no critic, one that never learns, one that is fooled on
retained examples in place of F. The proxy without the retain set, whose losses are to become uniform, plays at several learning
rates until it comes to rest, and its assumption is measured on retrained models. Hyperparameters come from a search on other
wrong labels, models and forget sets. Everything is drawn anew several times: wrong labels, originals and F; intervals are over
these draws, and differences are paired. The defaults (digits, an MLP that memorises) take six minutes of processor time, a
quarter of an hour on two busy cores. An interrupted run resumes.

    python benchmark.py --exp adversarial
"""

import dataclasses
from typing import Annotated, ClassVar, NamedTuple

from unlearn_jax.bench.kinds import Count, Names, Real, Settings, Several, Whole, require
from unlearn_jax.bench.option_groups import AT_RANDOM, RETAINED, AtRandom, Retained, Train
from unlearn_jax.bench.options import ATTACKED, SETS, Hyper, Judging, Methods, Requests, small

REFERENCES = ("original", "retrain")  # always measured
ONE, TWO, PROXY = GAMES = ("adversarial", "gan", "gan_without_retain")
NOISY, RIGHT, VALIDATION = HELD_OUT = ("noisy", "right", "validation")
KEEP = 2
"""One in so many originals of the search judges all trials."""
FEWEST_DRAWS = 3
MEMORISING = Train(epochs=60)


class Search(NamedTuple):
    """A search for hyperparameters: of a method, given held-out examples of one kind."""

    method: str
    held_out: str = NOISY


class Condition(NamedTuple):
    """A method, what its critics see, and whose hyperparameters it has.

    Attributes:
        name: as in tables.
        method: of the registry.
        held_out: noisy (as many wrong labels as F), right, or validation (one half of the noisy ones).
        search: whose values it takes; by default that of its method and held-out examples.
        changes: hyperparameters that replace those values.
        on_retained: whether critics judge retained examples in the place of F.
    """

    name: str
    method: str
    held_out: str = NOISY
    search: Search | None = None
    changes: tuple[tuple[str, float], ...] = ()
    on_retained: bool = False

    @property
    def values_of(self) -> Search:
        """The search whose values it takes."""
        return self.search or Search(self.method, self.held_out)


OF_ONE = Search(ONE)
CRITIC_RATE = 0.01
"""Of the proxy's critic where its learning rate is given by --rates."""
BRIEF, LONGER = 10, 4
"""Passes of the proxy over F where it has hardly begun; how many times as long as usual it plays to see whether it rests."""
CONDITIONS = (
    Condition(ONE, ONE),
    Condition(f"{ONE}, right labels", ONE, RIGHT),
    Condition(f"{ONE}, right labels, same values", ONE, RIGHT, OF_ONE),
    Condition(f"{ONE}, validation half", ONE, VALIDATION, OF_ONE),
    Condition(f"{ONE}, no critic", ONE, search=OF_ONE, changes=(("fooling", 0.0),)),
    Condition(f"{ONE}, critic never learns", ONE, search=OF_ONE, changes=(("critic_rate", 0.0),)),
    Condition(f"{ONE}, critic on R", ONE, search=OF_ONE, on_retained=True),
    Condition(TWO, TWO),
    Condition(f"{TWO}, same values", TWO, search=OF_ONE),
    Condition(f"{TWO}, right labels", TWO, RIGHT),
    Condition(PROXY, PROXY),
    Condition(f"{PROXY}, {BRIEF} passes", PROXY, changes=(("epochs", BRIEF),)),
)
"""All that this study is about; `same values`: those of `adversarial`."""
BASE = CONDITIONS[0].name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Methods, Hyper, Requests, Judging):
    """The options of the experiment `adversarial`."""

    exp: str = "adversarial"
    """The experiment. `--list` shows all."""
    model: str = "mlp"
    """resnet8, resnet14, resnet20, ... (6n+2), resnet18, vit or mlp; or FILE.py:FUNCTION, see docs/bring-your-model.md."""
    width: Count = 64
    """Hidden units of the MLP, channels of a ResNet's first stage, features of a ViT's token."""
    train: Train = MEMORISING
    """60 epochs, since in 15 an MLP memorises so little of digits that there is nothing to forget."""
    forget: AtRandom = AT_RANDOM
    members: Annotated[int, Whole(least=ATTACKED)] = 12
    """Original models of each draw. Twice as many oracles are trained, and as many models that retrain as a method."""
    evaluation: Retained = RETAINED
    draws: Annotated[int, Whole(least=FEWEST_DRAWS, most=SETS)] = 6
    """Draws of the wrong labels, the originals and F, at least 3. Draw i has the seed --seed + i."""
    methods: Names = ("finetune", "scrub")
    """Names separated by commas, of methods to compare with, tuned alike; an empty value: none. The three games of critics are
    always there."""
    hyper: Settings = ()
    """METHOD.NAME=VALUE, several separated by commas; * means every method that has it. What has a value here is not tuned."""
    epochs: Count = 10
    """Passes over the data of every method that makes passes, but for gan_without_retain."""
    proxy_epochs: Count = 300
    """Passes over F of gan_without_retain."""
    rates: Annotated[tuple[float, ...], Several(Real(above=0))] = (0.0001, 0.0003, 0.001, 0.004)
    """Learning rates of gan_without_retain beside the tuned one, separated by commas: from a game that has hardly begun to one
    that has come to rest. With the last one it also plays four times as long. An empty value: none."""
    batch_size: Count = 128
    """Examples per step, for every method that takes steps."""
    trials: Annotated[int, Whole(least=0, most=1000)] = 6
    """Settings that are tried for each hyperparameter that is searched, on other wrong labels, models and forget sets. 0: the
    authors' values, or those of --hyper."""
    searched: Annotated[int, Whole(least=3 * KEEP)] = 8
    """Originals of the search; as many others judge what was found."""
    searched_sets: Annotated[int, Whole(least=1, most=SETS)] = 2
    """Forget sets of the search; as many others judge what was found."""

    extendable: ClassVar[frozenset[str]] = frozenset({"draws", "methods"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        from unlearn_jax.methods import METHODS  # brings JAX with it, which --help must not

        super().check()
        of_share = self.forget.size < 0.5 or self.forget.size >= 1
        require(of_share, "--forget.size", self.forget.size, "as many retained examples are a control; expected less than half")
        require(self.trials in (0, *range(2, 1001)), "--trials", self.trials, "expected 0, or at least 2")
        require(len(set(self.rates)) == len(self.rates), "--rates", ",".join(map(str, self.rates)), "names a rate twice")
        for name in self.method_names():
            require(not METHODS[name].ensemble, "--methods", name, "makes several networks of one")

    def method_names(self) -> list[str]:
        """The methods to compare with, and the three games."""
        names = super().method_names() if self.methods else []
        return [*(name for name in names if name not in (*REFERENCES, *GAMES)), *GAMES]

    def conditions(self) -> list[Condition]:
        """All that is judged, the methods to compare with first."""
        others = [Condition(name, name) for name in self.method_names() if name not in GAMES]
        games: dict[str, tuple[tuple[str, float], ...]] = {
            f"rate {rate:g}": (("learning_rate", rate), ("critic_rate", CRITIC_RATE)) for rate in self.rates
        }
        if games:
            name, changes = list(games.items())[-1]
            games[f"{name}, {LONGER} x as long"] = (*changes, ("epochs", LONGER * self.proxy_epochs))
        return [*others, *CONDITIONS, *(Condition(f"{PROXY}, {name}", PROXY, changes=changes) for name, changes in games.items())]

    def drawn(self, number: int) -> "Config":
        """The configuration of a draw."""
        return dataclasses.replace(self, seed=(self.seed + number) % 2**32)


def smoke(config: Config) -> Config:
    """The whole path in under a minute: tiny data, a small net, few models, no search."""
    sizes = {"members": 3, "draws": 3, "epochs": 1, "proxy_epochs": 2, "trials": 0, "methods": ("finetune",), "rates": (0.004,)}
    return small(config, train_size=100, train=Train(epochs=4, batch_size=20), evaluation=Retained(retain_size=40), **sizes)
