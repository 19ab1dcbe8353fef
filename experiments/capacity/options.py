"""Unlearning as overfitting: how capacity changes the gap, memorisation, and the cost of unlearning.

One option of a base model is varied at a time: depth, width, epochs, weight decay, augmentation, label noise. Each setting has
originals, oracles of several forget sets, and the same methods. The defaults are digits, 500 examples, one label in ten wrong. On
one core the first ResNet-8 of width 4 takes a minute, mostly to compile, depth 20 two and a half, depth 56 four and a half, width
64 24 minutes; all of the defaults about 14. An interrupted run resumes.

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
from typing import Annotated, ClassVar

from unlearn_jax.bench.kinds import Count, Name, Names, Real, Several, Whole, replace_field, require
from unlearn_jax.bench.option_groups import SAME_SIZE, Evaluation, SizedForget, Train
from unlearn_jax.bench.options import ATTACKED, SETS, Comparison
from unlearn_jax.errors import ArgumentError, UsageError

INTERPOLATING = Train(epochs=30)
REFERENCES = ("original", "retrain")  # originals are always measured, and retrained models are the oracles
AUGMENTATIONS = "own", "none", "crop", "crop_flip"
AXES = {
    "depth": ("depths", "model"),
    "width": ("widths", "width"),
    "epochs": ("epoch_counts", "train.epochs"),
    "weight decay": ("weight_decays", "train.weight_decay"),
    "augmentation": ("augmentations", "augmentation"),
    "label noise": ("label_noises", "label_noise"),
}
"""Axis -> the option with its values, and the option that takes them."""
Counts = Annotated[tuple[int, ...], Several(Whole(least=1))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Comparison):
    """The options of the experiment `capacity`."""

    exp: str = "capacity"
    """The experiment. `--list` shows all."""
    train_size: Annotated[int, Whole(least=2)] | None = 500
    """Training examples to keep, drawn at random; None: all."""
    width: Count = 4
    """Channels of the first stage of the base."""
    train: Train = INTERPOLATING
    """Of the base."""
    augmentation: Annotated[str, Name(*AUGMENTATIONS)] = "own"
    """Of the base: own is the data set's augmentation (none for digits); crops pad by an eighth of the image's side."""
    members: Annotated[int, Whole(least=ATTACKED)] = 6
    """Original models of each setting: at least 3; twice as many oracles are trained for each forget set."""
    forget: SizedForget = SAME_SIZE
    forget_sets: Annotated[int, Whole(least=2, most=SETS)] = 3
    """Forget sets, the same in every setting: at least 2, for intervals over them."""
    methods: Names = ("finetune", "neggrad_plus", "scrub")
    """Names separated by commas, of methods that make one network; doing nothing is always included. `--list` shows all."""
    depths: Annotated[tuple[int, ...], Several(Whole(least=8))] = (8, 14, 20)
    """Values of the axis depth, 6n+2, separated by commas. An empty value leaves the axis out, also below."""
    widths: Counts = (2, 4, 8, 16)
    """Values of the axis width."""
    epoch_counts: Counts = (5, 30, 90)
    """Values of the axis epochs."""
    weight_decays: Annotated[tuple[float, ...], Several(Real(least=0))] = (5e-4, 5e-3)
    """Values of the axis weight decay."""
    augmentations: Annotated[tuple[str, ...], Several(Name(*AUGMENTATIONS))] = ("none", "crop")
    """Values of the axis augmentation, see --augmentation."""
    label_noises: Annotated[tuple[float, ...], Several(Real(least=0, below=1))] = (0.0, 0.1, 0.2)
    """Values of the axis label noise."""

    extendable: ClassVar[frozenset[str]] = frozenset(values for values, _ in AXES.values())

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        from unlearn_jax.methods import METHODS  # brings JAX with it, which --help must not

        super().check()
        for depth in self.depths:
            require(depth % 6 == 2, "--depths", depth, "expected 6n+2: 8, 14, 20, ...")
        for axis, value, variant in self.variants()[1:]:
            try:
                super(Config, variant).check()
            except ArgumentError as error:  # it names the base's option, which is valid
                option = AXES[axis][0].replace("_", "-")
                raise UsageError(f"--{option}", value, error.accepted) from error
        require(bool(self.method_names()), "--methods", ",".join(self.methods), "expected a method besides original and retrain")
        for name in self.method_names():
            require(not METHODS[name].ensemble, "--methods", name, "makes several networks of one")

    def method_names(self) -> list[str]:
        """The names of the methods, without the two references."""
        return [name for name in super().method_names() if name not in REFERENCES]

    def variants(self) -> list[tuple[str, str, "Config"]]:
        """All settings as (axis, value, options): the base first, then each axis, which has the base again."""
        on_axes: list[tuple[str, str, Config]] = []
        for axis, (values, varied) in AXES.items():
            for value in getattr(self, values):
                given = f"resnet{value}" if axis == "depth" else value
                written = f"{value:g}" if isinstance(value, float) else str(value)
                on_axes.append((axis, written, replace_field(self, tuple(varied.split(".")), given)))
        return [("base", "", self), *on_axes]


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
        methods=("finetune", "neggrad_plus"),
        hyper=("*.epochs=1",),
        train=Train(epochs=4, batch_size=40),
        evaluation=Evaluation(splits=20, retain_size=60),
        depths=(),
        widths=(8, 16),
        epoch_counts=(),
        weight_decays=(),
        augmentations=(),
        label_noises=(),
    )
