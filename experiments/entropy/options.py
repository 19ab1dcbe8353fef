"""When does minimising the entropy and the loss on the forget set help? Signs and weights of both, in many circumstances.

A circumstance is a kind of forget set with its originals: which labels are wrong, how long models are trained, whether
unlearning has a loss on the retain set. In each, all pairs of signed weights of the method `entropy_with_retain` are tried, and
what may predict the best sign is measured: entropy and loss of retrained models and of originals on the forget set. The defaults
are digits and an MLP that learns every wrong label: 45 minutes on two busy cores. An interrupted run resumes.

    python benchmark.py --exp entropy

A few circumstances only, another network, or another data set; and circumstances that the rule for the sign has not seen:

    python benchmark.py --exp entropy --model resnet8 --width 8 --train.epochs 15 --circumstances random,mislabelled,corrected
    python benchmark.py --exp entropy --dataset fashion_mnist --train-size 2000
    python benchmark.py --exp entropy --circumstances mislabelled_brief,memorised_short,class_short,random_short
    python benchmark.py --exp entropy --dataset cifar10 --model resnet18 --width 64
"""

import dataclasses
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from unlearn_jax.bench.kinds import Count, Name, Real, Several, Whole, require
from unlearn_jax.bench.option_groups import Forget, Halves, Judged, Request, Train
from unlearn_jax.bench.options import SETS, Images, Requests


class Circumstance(NamedTuple):
    """A kind of forget set, and how models are trained and unlearned.

    Attributes:
        title: its name in figures.
        kind: of the forget sets, see `--forget.kind`.
        size: of the forget sets, see `--forget.size`.
        noisy: whether the training set has wrong labels.
        corrected: whether unlearning gets the correct labels of the forget set.
        epochs: of training originals and oracles, as a multiple of `--train.epochs`.
        retain_weight: of the loss on the retain set.
        shown: whose examples get the terms of the forget set: its own, or as many of the retain set or of the held-out ones.
    """

    title: str
    kind: Request
    size: float = Forget.size
    noisy: bool = True
    corrected: bool = False
    epochs: float = 1.0
    retain_weight: float = 1.0
    shown: Literal["forget", "retain", "held_out"] = "forget"


SEEN = {
    "random": Circumstance("random tenth", "random"),
    "mislabelled": Circumstance("wrong labels", "mislabelled_part", 0.5),
    "corrected": Circumstance("wrong labels, corrected", "mislabelled_part", 0.5, corrected=True),
    "class": Circumstance("a class", "class"),
    "class_part": Circumstance("half a class", "class_part", 0.5),
    "memorised": Circumstance("most memorised", "memorised"),
    "unmemorised": Circumstance("least memorised", "unmemorised"),
    "mislabelled_short": Circumstance("wrong labels, short training", "mislabelled_part", 0.5, epochs=1 / 3),
    "mislabelled_half": Circumstance("wrong labels, half the training", "mislabelled_part", 0.5, epochs=0.5),
    "mislabelled_long": Circumstance("wrong labels, long training", "mislabelled_part", 0.5, epochs=3.0),
    "mislabelled_free": Circumstance("wrong labels, R not held", "mislabelled_part", 0.5, retain_weight=0.0),
    "random_free": Circumstance("random tenth, R not held", "random", retain_weight=0.0),
    "clean": Circumstance("random tenth, all labels right", "random", noisy=False),
}
"""Those of digits and an MLP from which the rule in prediction.py was read."""
UNSEEN = {
    "mislabelled_brief": Circumstance("wrong labels, an eighth of the training", "mislabelled_part", 0.5, epochs=1 / 8),
    "mislabelled_quarter": Circumstance("wrong labels, a quarter of the training", "mislabelled_part", 0.5, epochs=1 / 4),
    "mislabelled_longer": Circumstance("wrong labels, two fifths of the training", "mislabelled_part", 0.5, epochs=0.4),
    "mislabelled_few": Circumstance("a fifth of the wrong labels, short training", "mislabelled_part", 0.2, epochs=1 / 3),
    "memorised_short": Circumstance("most memorised, short training", "memorised", epochs=1 / 3),
    "class_short": Circumstance("a class, short training", "class", epochs=1 / 3),
    "class_part_short": Circumstance("half a class, short training", "class_part", 0.5, epochs=1 / 3),
    "random_short": Circumstance("random tenth, short training", "random", epochs=1 / 3),
}
"""Circumstances that came after the rule: its test."""
CONTROLS = {
    "short_on_retain": SEEN["mislabelled_short"]._replace(title="short training, terms on R instead", shown="retain"),
    "short_on_held_out": SEEN["mislabelled_short"]._replace(title="short training, terms on held-out instead", shown="held_out"),
}
"""The same terms on as many other examples: what they do there has nothing to do with forgetting."""
CIRCUMSTANCES = SEEN | UNSEEN | CONTROLS


FEWER = Judged(retain_size=500)
LONG = Train(epochs=40)
Strengths = Annotated[tuple[float, ...], Several(Real(above=0))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Images):
    """The options of the experiment `entropy`."""

    exp: str = "entropy"
    """The experiment. `--list` shows all."""
    circumstances: Annotated[tuple[str, ...], Several(Name(*CIRCUMSTANCES))] = tuple(SEEN)
    """Names separated by commas. random; wrong labels: mislabelled (half of them), corrected (the same with the right labels at
    hand), mislabelled_short, _half, _long (a third, half and three times the epochs), _free (no loss on the retain set); class,
    class_part; memorised, unmemorised; random_free (no loss on the retain set); clean (a random set, all labels right). Unseen by
    the rule that predicts the sign: mislabelled_brief, _quarter, _longer (an eighth, a quarter and two fifths of the epochs), and
    with a third of the epochs mislabelled_few (a fifth of the wrong labels), memorised_short, class_short, class_part_short,
    random_short. Controls: short_on_retain, short_on_held_out (mislabelled_short, with the terms on as many other examples)."""
    model: str = "mlp"
    """resnet8, 14, 20, ... (6n+2), resnet18 or mlp."""
    width: Count = 128
    """Channels of the first stage, or hidden units of the MLP."""
    train: Train = LONG
    members: Annotated[int, Whole(least=3)] = 6
    """Original models, all unlearned with each setting. There are twice as many oracles, and as many retrained models as null."""
    forget: Halves = Halves()
    forget_sets: Annotated[int, Whole(least=2, most=SETS)] = 3
    """Forget sets of each circumstance: at least 2, since strengths are chosen on the other sets."""
    entropy_weights: Strengths = (0.1, 0.3, 1.0)
    """Strengths of the entropy on the forget set, separated by commas; each is tried with both signs, and without the term."""
    loss_weights: Strengths = (0.03, 0.1, 0.3, 1.0)
    """Strengths of the loss on the forget set, likewise."""
    epochs: Count = 3
    """Passes over the retain set."""
    batch_size: Count = 64
    """Examples of each set in a step of unlearning."""
    learning_rate: Annotated[float, Real(above=0)] = 0.01
    """Of the unlearning, by SGD with momentum 0.9."""
    evaluation: Judged = FEWER

    extendable: ClassVar[frozenset[str]] = frozenset({"circumstances", "forget_sets"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        require(bool(self.circumstances), "--circumstances", "", f"there is {', '.join(CIRCUMSTANCES)}")
        self.weights()

    def recorded(self) -> dict[str, Any]:
        """The options for config.json, with each circumstance once, so that a run can be extended."""
        return {**super().recorded(), "circumstances": self.names()}

    def names(self) -> list[str]:
        """The circumstances in order, without repetition."""
        return list(dict.fromkeys(self.circumstances))

    def weights(self) -> tuple[list[float], list[float]]:
        """The signed weights of the entropy and of the loss, ascending, with 0 in the middle."""
        return _signed("--entropy-weights", self.entropy_weights), _signed("--loss-weights", self.loss_weights)

    def with_circumstance(self, circumstance: Circumstance) -> "Variant":
        """The options for a circumstance."""
        epochs = max(1, round(self.train.epochs * circumstance.epochs))
        changed = {
            "forget": Forget(kind=circumstance.kind, size=circumstance.size, models=self.forget.models),
            "label_noise": self.label_noise if circumstance.noisy else 0.0,
            "train": dataclasses.replace(self.train, epochs=epochs),
        }
        return Variant(**{**vars(self), **changed})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant(Config, Requests):
    """The options for a circumstance, which determines the forget set."""

    forget: Forget = Forget()


def smoke(config: Config) -> Config:
    """The whole path in seconds."""
    return dataclasses.replace(
        config,
        smoke=True,
        train_size=300,
        model="mlp",
        width=16,
        members=3,
        forget_sets=2,
        circumstances=("mislabelled", "corrected"),
        entropy_weights=(0.3,),
        loss_weights=(0.1,),
        epochs=1,
        train=Train(epochs=4, batch_size=64),
        evaluation=Judged(retain_size=100),
    )


def _signed(option: str, strengths: tuple[float, ...]) -> list[float]:
    """Strengths with both signs, and 0."""
    ascending = bool(strengths) and all(low < high for low, high in pairwise(strengths))
    require(ascending, option, ",".join(map(str, strengths)), "expected numbers above 0, ascending, separated by commas")
    return [*(-one for one in reversed(strengths)), 0.0, *strengths]
