"""Capacity where every size fits: each size is trained until its training loss is the same, and, as a control, for equal epochs.

A narrow network that is trained as long as a wide one fits less, so that what looks like capacity may be training. Here the
number of epochs of each size is searched, with the ordinary schedule, until the mean training loss of the originals is at or
below `--loss`. Sizes that cannot reach it are named and left out. Everything is drawn anew several times: the training subset,
its wrong labels, the forget sets and the seeds; intervals are over these draws. An interrupted run resumes. Widths of an MLP:

    python benchmark.py --exp capacity_fitted

The toy (two overlapping discs, seen through waves), depth, and a ResNet-8, whose depths are 8, 14, 20, ...:

    python benchmark.py --exp capacity_fitted --dataset discs --train-size 200
    python benchmark.py --exp capacity_fitted --widths "" --depths 1,2,3,4
    python benchmark.py --exp capacity_fitted --model resnet8 --width 4 --widths 2,4,8,16
"""

import dataclasses
from typing import Annotated, ClassVar

from unlearn_jax.bench.kinds import Count, Name, Names, Real, Several, Whole, replace_field, require
from unlearn_jax.bench.option_groups import RETAINED, SAME_SIZE, Retained, SizedForget, Train
from unlearn_jax.bench.options import ATTACKED, SETS, Comparison
from unlearn_jax.errors import ArgumentError, UsageError

TOY = "discs"
"""The data set that is no image set: `data.discs` behind `models.through_waves`."""
REFERENCES = ("original", "retrain")  # originals are always measured, and retrained models are the oracles
LAYERS = 2  # of the MLP as other studies have it
FEWEST_DRAWS = 3
RULES = "loss", "epochs"
TRAIN = Train(epochs=30)
Counts = Annotated[tuple[int, ...], Several(Whole(least=1))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Comparison):
    """The options of the experiment `capacity_fitted`."""

    exp: str = "capacity_fitted"
    """The experiment. `--list` shows all."""
    dataset: str = "digits"
    """The data set: a name (`--list` shows all), an .npz file, or a folder of images by class; or discs, two overlapping discs in
    the plane behind 64 random waves."""
    train_size: Annotated[int, Whole(least=2)] | None = 500
    """Training examples to keep, drawn at random for each draw; None: all."""
    model: str = "mlp"
    """Of the base: mlp, or resnet8, resnet14, resnet20, ... (6n+2)."""
    width: Count = 32
    """Of the base: hidden units of the MLP, channels of a ResNet's first stage."""
    layers: Annotated[int, Whole(least=1, most=100)] = LAYERS
    """Of the base: hidden layers of the MLP; a ResNet has its depth in its name."""
    train: Train = TRAIN
    """Of the base. Its epochs are those of the control, and where the search begins."""
    members: Annotated[int, Whole(least=ATTACKED)] = 6
    """Original models of each size and draw: at least 3; twice as many oracles are trained for each forget set."""
    forget: SizedForget = SAME_SIZE
    evaluation: Retained = RETAINED
    forget_sets: Annotated[int, Whole(least=1, most=SETS)] = 3
    """Forget sets of each draw, the same for every size."""
    methods: Names = ("finetune", "neggrad_plus", "scrub")
    """Names separated by commas, of methods that make one network. `--list` shows all."""
    loss: Annotated[float, Real(above=0)] = 0.05
    """Nats: each size is trained for the fewest epochs found at which the originals' mean training loss is at or below it."""
    most_epochs: Count = 2000
    """Epochs after which a size counts as one that does not reach --loss."""
    draws: Annotated[int, Whole(least=FEWEST_DRAWS)] = 3
    """Draws of the training subset, wrong labels, forget sets and seeds, at least 3. Draw i has the seed --seed + i."""
    widths: Counts = (8, 16, 32, 64, 128)
    """Values of the axis width, separated by commas. An empty value leaves the axis out, also below."""
    depths: Counts = ()
    """Values of the axis depth: hidden layers of the MLP, layers of a ResNet (6n+2)."""
    rules: Annotated[tuple[str, ...], Several(Name(*RULES))] = RULES
    """loss: each size until its loss is --loss; epochs: each for --train.epochs."""
    permutations: Annotated[int, Whole(least=1)] = 100
    """Times that sizes are permuted among models, for what noise alone makes of the shares of examples."""

    extendable: ClassVar[frozenset[str]] = frozenset({"draws", "widths", "depths", "rules"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        from unlearn_jax.methods import METHODS  # brings JAX with it, which --help must not

        super().check()
        mlp = self.model == "mlp"
        require(
            mlp or self.model.startswith("resnet"), "--model", self.model, "expected mlp or a ResNet, whose depth can be varied"
        )
        require(mlp or self.dataset != TOY, "--model", self.model, f"--dataset {TOY} needs --model mlp")
        require(mlp or self.layers == LAYERS, "--layers", self.layers, "needs --model mlp")
        require(
            self.dataset != TOY or self.train_size is not None, "--train-size", self.train_size, f"--dataset {TOY} needs a number"
        )
        require(bool(self.rules), "--rules", "", f"expected one or several of {', '.join(RULES)}")
        sizes = self.sizes()
        require(len(sizes) > 1, "--widths", ",".join(map(str, self.widths)), "expected two values or more, here or of --depths")
        require(self.train.epochs <= self.most_epochs, "--most-epochs", self.most_epochs, "expected no fewer than --train.epochs")
        for axis, value, sized in sizes:
            try:
                super(Config, sized).check()
            except ArgumentError as error:  # it names the base's option, which is valid
                raise UsageError(f"--{axis}s", value, error.accepted) from error
        for name in self.method_names():
            require(not METHODS[name].ensemble, "--methods", name, "makes several networks of one")

    def method_names(self) -> list[str]:
        """The names of the methods, without the two references."""
        return [name for name in super().method_names() if name not in REFERENCES]

    def sizes(self) -> list[tuple[str, int, "Config"]]:
        """All sizes as (axis, value, options), each axis from small to large."""
        depth = ("layers", int) if self.model == "mlp" else ("model", "resnet{}".format)
        varied = {"width": (self.widths, "width", int), "depth": (self.depths, *depth)}
        return [
            (axis, value, replace_field(self, (option,), written(value)))
            for axis, (values, option, written) in varied.items()
            for value in sorted(set(values))
        ]

    def drawn(self, draw: int, epochs: int) -> "Config":
        """The options of one draw, with a number of epochs."""
        return dataclasses.replace(self, seed=self.seed + draw, train=dataclasses.replace(self.train, epochs=epochs))


def smoke(config: Config) -> Config:
    """The whole path in seconds: few examples, few models, two widths of the toy."""
    return dataclasses.replace(
        config,
        smoke=True,
        dataset=TOY,
        train_size=60,
        members=3,
        forget_sets=2,
        methods=("finetune",),
        hyper=("*.epochs=1",),
        train=Train(epochs=4, batch_size=20),
        evaluation=Retained(retain_size=40),
        loss=0.5,
        most_epochs=200,
        widths=(4, 8),
        permutations=10,
    )
