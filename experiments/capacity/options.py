"""Unlearning as overfitting: what capacity does to the gap, to memorisation, and to the cost of unlearning.

A base model, of which one thing at a time is varied: depth, width, epochs, weight decay, augmentation, label noise.
At each, originals, oracles of several forget sets, and the same methods. The defaults are digits, 500 examples, one label in ten
wrong. On one core a ResNet-8 of width 4 takes a minute when it is new, most of it compiling, depth 20 two and a half, depth 56
four and a half, width 64 24 minutes; all of the defaults about 14. A run that was stopped goes on where it was.

    python benchmark.py --exp capacity

Deeper and wider, 55 minutes; and trained for longer, since 30 epochs do not train every network of more than 20 layers, 15:

    python benchmark.py --exp capacity --depths 8,14,20,32,44,56 --widths 2,4,8,16,32,64
    python benchmark.py --exp capacity --train.epochs 90 --depths 8,32,56 --widths "" --epoch-counts "" --weight-decays "" \\
        --augmentations "" --label-noises ""

Depth and width on Fashion-MNIST, half an hour; CIFAR-10 on a GPU, depth 8 to 56 and width 4 to 64, which has not been run yet
(nor has all of Fashion-MNIST):

    python benchmark.py --exp capacity --dataset fashion_mnist --train-size 600 --depths 8,14 --widths 2,4,8 --epoch-counts "" \\
        --weight-decays "" --augmentations "" --label-noises ""
    python benchmark.py --exp capacity --dataset cifar10 --model resnet20 --width 16 --train-size 10000 --train.epochs 60 \\
        --depths 8,14,20,32,44,56 --widths 4,8,16,32,64 --epoch-counts 15,30,60,120 --members 8
"""

import dataclasses
from typing import Any, ClassVar, Literal

from unlearn_jax.bench import main_options as unlearning
from unlearn_jax.bench.main_options import Evaluation
from unlearn_jax.bench.options import Train, require

INTERPOLATING = Train(epochs=30)
OPTIONS = {
    "depth": "--depths",
    "width": "--widths",
    "epochs": "--epoch-counts",
    "weight decay": "--weight-decays",
    "augmentation": "--augmentations",
    "label noise": "--label-noises",
}
FEWEST = 3  # originals: the attack fits a variance to the others
REFERENCES = ("original", "retrain")  # one is always there, the other is what the oracles are


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(unlearning.Config):
    """The options of the experiment `capacity`."""

    exp: str = "capacity"
    """The experiment. `--list` shows all."""
    train_size: int | None = 500
    """Training examples to keep, drawn at random; None: all."""
    width: int = 4
    """Channels of the first stage of the base."""
    train: Train = INTERPOLATING
    """Of the base."""
    augmentation: Literal["own", "none", "crop", "crop_flip"] = "own"
    """Of the base: own is what the data set wants (none for digits); crops pad by an eighth of the image's side."""
    members: int | Literal["auto"] = 6
    """Original models of each setting: at least 3; twice as many oracles are trained for each forget set."""
    forget_sets: int = 3
    """Forget sets, the same in every setting: at least 2, or there is no interval over them."""
    methods: str = "finetune,neggrad_plus,scrub"
    """Names separated by commas, of methods that give one network; doing nothing is always there. `--list` shows all."""
    depths: str = "8,14,20"
    """Values of the axis depth, 6n+2, separated by commas; empty leaves the axis out, here and below."""
    widths: str = "2,4,8,16"
    """Values of the axis width."""
    epoch_counts: str = "5,30,90"
    """Values of the axis epochs."""
    weight_decays: str = "5e-4,5e-3"
    """Values of the axis weight decay."""
    augmentations: str = "none,crop"
    """Values of the axis augmentation, see --augmentation."""
    label_noises: str = "0,0.1,0.2"
    """Values of the axis label noise."""

    extendable: ClassVar[frozenset[str]] = frozenset(
        {"depths", "widths", "epoch_counts", "weight_decays", "augmentations", "label_noises"}
    )

    def check(self) -> None:
        """Raises a UsageError for the first value that cannot be meant."""
        from unlearn_jax.errors import UsageError

        super().check()
        for depth in self.numbers("depths", int):
            require(depth >= 8 and depth % 6 == 2, "--depths", depth, "expected 6n+2: 8, 14, 20, ...")
        for axis, value, variant in self.variants()[1:]:
            try:
                super(Config, variant).check()
            except UsageError as error:  # the option that it names is the base's, and right there
                raise UsageError(OPTIONS[axis], value, error.accepted) from error
        require(self.members != "auto" and self.members >= FEWEST, "--members", self.members, "expected an integer of at least 3")
        require(self.forget_sets >= 2, "--forget-sets", self.forget_sets, "expected an integer of at least 2, for an interval")
        require(self.unlearning_seeds == 1, "--unlearning-seeds", self.unlearning_seeds, "capacity takes one")
        equal = self.forget.kind in ("random", "memorised", "unmemorised", "exposed")
        require(equal, "--forget.kind", self.forget.kind, "forget sets of one size: random, memorised, unmemorised or exposed")
        require(bool(self.method_names()), "--methods", self.methods, "expected a method besides original and retrain")
        for name in self.method_names():
            from unlearn_jax.methods import METHODS

            require(not METHODS[name].ensemble, "--methods", name, "makes several networks of one")

    def method_names(self) -> list[str]:
        """The methods that `methods` asks for, without the two references."""
        return [name for name in super().method_names() if name not in REFERENCES]

    def recorded(self) -> dict[str, Any]:
        """What config.json records: the values of the axes one by one, so that a run can be extended by some."""
        found = super().recorded()
        return found | {name: _words(found[name]) for name in self.extendable}

    def variants(self) -> list[tuple[str, str, "Config"]]:
        """Every setting: the axis that it is on, its value there, its options. The base comes first, and again on each axis."""
        train = self.train
        axes: list[tuple[str, list[tuple[str, dict[str, Any]]]]] = [
            ("depth", [(str(n), {"model": f"resnet{n}"}) for n in self.numbers("depths", int)]),
            ("width", [(str(n), {"width": n}) for n in self.numbers("widths", int)]),
            ("epochs", [(str(n), {"train": dataclasses.replace(train, epochs=n)}) for n in self.numbers("epoch_counts", int)]),
            (
                "weight decay",
                [(f"{x:g}", {"train": dataclasses.replace(train, weight_decay=x)}) for x in self.numbers("weight_decays", float)],
            ),
            ("augmentation", [(kind, {"augmentation": kind}) for kind in self.kinds()]),
            ("label noise", [(f"{x:g}", {"label_noise": x}) for x in self.numbers("label_noises", float)]),
        ]
        on_axes = [(axis, value, dataclasses.replace(self, **given)) for axis, values in axes for value, given in values]
        return [("base", "", self), *on_axes]

    def numbers(self, name: str, kind: type) -> list[Any]:
        """The numbers of an axis."""
        text = getattr(self, name)
        try:
            return [kind(word) for word in _words(text)]
        except ValueError:
            require(False, f"--{name.replace('_', '-')}", text, "expected numbers separated by commas")
            raise

    def kinds(self) -> list[str]:
        """The augmentations of their axis."""
        for word in _words(self.augmentations):
            require(word in ("own", "none", "crop", "crop_flip"), "--augmentations", word, "there is own, none, crop, crop_flip")
        return _words(self.augmentations)


def smoke(config: Config) -> Config:
    """The whole path in seconds: few examples, few models, an MLP, one axis of two values."""
    return dataclasses.replace(
        config,
        smoke=True,
        train_size=120,
        model="mlp",
        width=8,
        members=3,
        forget_sets=2,
        methods="finetune,neggrad_plus",
        hyper=("*.epochs=1",),
        train=Train(epochs=4, batch_size=40),
        evaluation=Evaluation(splits=20, retain_size=60),
        depths="",
        widths="8,16",
        epoch_counts="",
        weight_decays="",
        augmentations="",
        label_noises="",
    )


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
