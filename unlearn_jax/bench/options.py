"""The groups that configurations are composed of: a study lists those that it uses, and shows no other."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from unlearn_jax.bench.kinds import Count, Names, Real, Settings, Whole, options, require

SETS = 1000
"""The most forget sets: each has oracles of its own."""
FEWEST = 8
"""Models that a verdict takes: `metrics.FEWEST_JUDGED`, whose import would bring JAX with it."""
MAIN = (
    "original",
    "retrain",
    "finetune",
    "cf_k",
    "eu_k",
    "gradient_ascent",
    "neggrad_plus",
    "projected_ascent",
    "fisher",
    "ssd",
    "bad_teacher",
    "scrub",
    "random_label",
    "salun",
    "l1_sparse",
    "l1_sparse_proximal",
)
"""The methods of the main job: the two ends, and what most tables compare."""
Request = Literal[
    "random", "class", "class_part", "mislabelled", "mislabelled_part", "memorised", "unmemorised", "exposed", "file"
]


class Group:
    """A group of options, or several: dataclasses with keyword arguments only."""

    def check(self) -> None:
        """Raises UsageError on the first invalid value, or on values that contradict each other."""
        for option in options(type(self)):
            option.check(option.of(self))
        for group in vars(self).values():
            if hasattr(group, "check"):
                group.check()

    def recorded(self) -> dict[str, Any]:
        """What config.json records and a resumed run has to agree with."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]


# Groups with a name of their own: `--train.epochs`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """How one model is trained, the originals and the retrained ones alike."""

    epochs: Count = 15
    """Passes over the examples that the model is trained on."""
    batch_size: Count = 64
    """Examples in one step."""
    learning_rate: Annotated[float, Real(above=0)] = 0.1
    """The peak of the schedule."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """cosine warms up over the first tenth of the steps and falls to 0 at the last; constant stays."""
    optimiser: Literal["sgd", "adam"] = "sgd"
    """sgd with momentum, or adam with decoupled weight decay (AdamW)."""
    momentum: Annotated[float, Real(least=0, below=1)] = 0.9
    """Of sgd; adam has its own."""
    weight_decay: Annotated[float, Real(least=0)] = 5e-4
    """Added to the gradient by sgd, decoupled by adam."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Halves:
    """Models on random halves of the examples."""

    models: Annotated[int, Whole(least=4)] = 32
    """Models on random halves of the examples, from which memorisation and exposure are measured: an even number."""

    def check(self) -> None:
        """Raises UsageError for an odd number of models."""
        require(self.models % 2 == 0, "--forget.models", self.models, "expected an even number of at least 4")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forget(Halves):
    """Which training examples are to be forgotten."""

    kind: Request = "random"
    """Some of all, a whole class, some of a class, all or some wrongly labelled, the most or the least memorised, those that an
    attack on the originals would know best (the worst case), or those that a file lists."""
    size: Annotated[float, Real(above=0)] = 0.1
    """A share (below 1) or a count: of the class (class_part), of the wrong labels (mislabelled_part) or of all training examples
    (the others)."""
    label: Annotated[int, Whole(least=0)] = 0
    """The class, counted from 0; of several forget sets each is of the next class (class), or all of the same (class_part)."""
    file: Path | None = None
    """Row numbers of the published training set, counted from 0, as forget_sets/ has them: text, or a .npy file (file)."""

    def check(self) -> None:
        """Raises UsageError for an option that the kind has no use for, or needs and is not given."""
        needed = self.kind == "file"
        require(needed or self.file is None, "--forget.file", self.file, "is used with --forget.kind file only")
        require(not needed or self.file is not None, "--forget.kind", self.kind, "needs --forget.file")
        of_class, measured = self.kind in ("class", "class_part"), self.kind in ("memorised", "unmemorised", "exposed")
        require(of_class or self.label == Forget.label, "--forget.label", self.label, "is used with class and class_part only")
        sized = self.kind not in ("class", "mislabelled", "file") or self.size == type(self).size
        require(sized, "--forget.size", self.size, f"--forget.kind {self.kind} has a size of its own")
        accepted = "is used with memorised, unmemorised and exposed only"
        require(measured or self.models == Forget.models, "--forget.models", self.models, accepted)
        super().check()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """Which retained examples are judged."""

    retain_size: Count = 2000
    """Retained examples, drawn at random, whose logits are kept and judged."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Null:
    """From what the null comes."""

    splits: Annotated[int, Whole(least=2, most=10**5)] = 100
    """Random splits of the oracles in two halves, from which each metric's null distribution comes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(Judged, Null):
    """How the unlearned models are compared with the oracles."""


# Groups without a name of their own


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Group):
    """The run itself."""

    exp: str = "unlearning"
    """The experiment. `--list` shows all."""
    device: str = "auto"
    """auto (the GPUs, else the CPU), cpu, gpu (all of them), gpu:2, gpu:0,1; cuda means gpu. Also -d."""
    out: Path | None = None
    """The run folder; one that holds an unfinished run is taken up again. None: runs/EXPERIMENT-TIME."""
    smoke: bool = False
    """A small version of everything, in under a minute on two cores. Options given besides it still count."""
    seed: Annotated[int, Whole(least=0, most=2**32 - 1)] = 0
    """Everything random follows from it."""
    cache: Path | None = None
    """Where decoded data, trained models and compiled programs are kept for other runs; None: ~/.cache/unlearn_jax."""
    profile: bool = False
    """Also say which ten stages took longest, with a trace of all for Perfetto; with --smoke one of every operation as well."""

    immaterial: ClassVar[frozenset[str]] = frozenset(
        {"device", "out", "cache", "data_dir", "strategy", "chunk", "convolution", "profile", "plugin"}
    )
    """Options that do not change the results (to float tolerance), so a run may be resumed with others."""
    extendable: ClassVar[frozenset[str]] = frozenset()
    """Options in which a finished run may be extended."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training(Run):
    """A run that trains pools: what training, batching and diverged members are about."""

    train: Train = Train()
    strategy: Literal["auto", "vmap", "map"] = "auto"
    """The members of a chunk on one device: all at once or one by one; auto: what was measured to be faster there."""
    chunk: Count | None = None
    """Members trained, and saved, at a time; None: what fits in memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images(Training):
    """A run on a data set of images: what `setting.prepare` reads."""

    dataset: str = "digits"
    """What is learned. `--list` shows all."""
    data_dir: Path | None = None
    """Where the data set's files are; None: where its package put them."""
    train_size: Annotated[int, Whole(least=2)] | None = None
    """Training examples to keep, drawn at random; None: all."""
    label_noise: Annotated[float, Real(least=0, below=1)] = 0.1
    """Share of the training labels that are made wrong: without any, digits leaves nothing to forget."""
    model: str = "resnet8"
    """resnet8, 14, 20, ... (6n+2), resnet18 or mlp."""
    width: Count = 8
    """Channels of the first stage, or hidden units of the MLP. 8 will do for digits; CIFAR ResNets have 16, ResNet-18 has 64."""
    normalisation: Literal["batch", "group"] = "batch"
    """BatchNorm or GroupNorm."""
    convolution: Literal["auto", "products", "patches", "xla"] = "auto"
    """products: matrix products, few multiplications; patches: one each; xla: its own; auto: products on CPUs, xla on GPUs."""

    def check(self) -> None:
        """Raises UsageError on the first invalid value, or on values that contradict each other."""
        from unlearn_jax.models import find  # brings JAX with it, which --help must not

        super().check()
        find(self.model)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Requests(Images):
    """A run that forgets: what `setting.forget_mask` reads."""

    forget: Forget = Forget()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judging(Images):
    """A run that compares models with oracles: what `forget_set.Study` reads."""

    members: Annotated[int, Whole(least=2)] | Literal["auto"] = 24
    """Original models, each unlearned by each method; twice as many oracles are trained, for the null."""
    evaluation: Evaluation = Evaluation()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hyper(Group):
    """Hyperparameters of methods."""

    hyper: Settings = ()
    """METHOD.NAME=VALUE, several separated by commas: scrub.epochs=5,salun.learning_rate=1e-3; * is every method that has it."""

    def check(self) -> None:
        """Raises UsageError on the first invalid value, or on values that contradict each other."""
        super().check()
        self.hyperparameters()

    def hyperparameters(self) -> dict[str, dict[str, Any]]:
        """`hyper`, parsed: method name (or `*`) -> hyperparameter -> value; what is given last counts."""
        parsed: dict[str, dict[str, Any]] = {}
        for setting in self.hyper:
            name, equals, value = setting.partition("=")
            method, dot, parameter = name.partition(".")
            complete = bool(method and dot and parameter.isidentifier() and equals and value)
            require(complete, "--hyper", setting, "expected METHOD.NAME=VALUE, for instance scrub.epochs=5")
            parsed.setdefault(method, {})[parameter] = _number(value)
        return parsed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Methods(Group):
    """Which methods."""

    methods: Names = ("main",)
    """Names separated by commas; main (the sixteen of the main job) or all. `--list` shows them."""

    def check(self) -> None:
        """Raises UsageError on the first invalid value, or on values that contradict each other."""
        super().check()
        self.method_names()

    def recorded(self) -> dict[str, Any]:
        """What config.json records: the methods one by one, so that a run can be extended by some."""
        return {**super().recorded(), "methods": self.method_names()}

    def method_names(self) -> list[str]:
        """The methods that `methods` asks for, in order, each once; `all` are those that the model can have."""
        from unlearn_jax.bench import plugins  # brings JAX with it, which --help must not
        from unlearn_jax.methods import METHODS
        from unlearn_jax.models import build

        if plugin := getattr(self, "plugin", None):
            plugins.load(plugin)
        model = getattr(self, "model", "mlp")  # of the toy
        asking = {name for name, entry in METHODS.items() if "convolutions" in entry.needs}
        fitting = [name for name in METHODS if name not in asking or build(model, classes=2).convolutions]
        groups = {"all": fitting, "main": MAIN}
        names = list(dict.fromkeys(name for word in self.methods for name in groups.get(word, [word])))
        for name in names or [""]:
            require(name in METHODS, "--methods", name, f"there is {', '.join(METHODS)}; main or all")
            require(name in fitting, "--methods", name, f"needs convolutions, which --model {model} has not")
        return names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison(Methods, Hyper, Requests, Judging):
    """A run that compares methods on several forget sets."""

    forget_sets: Annotated[int, Whole(least=1, most=SETS)] = 1
    """Forget sets, each with oracles of its own; several make intervals and the verdict count for other sets too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seeded(Comparison):
    """A comparison in which a method may run several times: what `evaluate.compare` reads."""

    unlearning_seeds: Annotated[int, Whole(least=1, most=SETS)] = 1
    """Times that each method unlearns each original, with other keys: 2 or more tell the method's own chance from the rest."""


Judges = TypeVar("Judges", bound=Judging)
QUICK = ("*.epochs=1", "*.rounds=10")
"""Hyperparameters with which every method takes seconds."""


def small(config: Judges, **given: Any) -> Judges:
    """A configuration of tiny data, a small net and few models; `given` are further fields."""
    sizes = {"train_size": 300, "model": "mlp", "width": 16, "members": 4}
    evaluation = Evaluation(splits=20, retain_size=200)
    settings = {"smoke": True, **sizes, "train": Train(epochs=2, batch_size=64), "evaluation": evaluation, **given}
    return dataclasses.replace(config, **settings)


# The toy in the plane

POINTS, WIDEST = 20_000, 4096
"""The most points (there is a model without each), and hidden units."""
FULL_BATCH = Train(epochs=500, batch_size=512, learning_rate=1e-2, schedule="constant", optimiser="adam", weight_decay=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Discs:
    """Where the points are: uniformly in discs, one for each class."""

    classes: Annotated[int, Whole(least=2)] = 2
    """Discs; their centres are the corners of a regular polygon. Two are at (-5, 5) and (5, 5)."""
    radius: Annotated[float, Real(above=0)] = 2.0
    """Of every disc."""
    separation: Annotated[float, Real(least=0)] = 10.0
    """Distance of neighbouring centres."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plane(Training):
    """A run on points in the plane: what `bench.toy` reads."""

    dataset: Literal["discs", "fashion_plane"] = "discs"
    """Points in the plane: discs, or ten classes that are as hard to learn as Fashion-MNIST (see `--exp fitted_toy`)."""
    discs: Discs = Discs()
    train_size: Annotated[int, Whole(least=4, most=POINTS)] = 512
    """Points."""
    label_noise: Annotated[float, Real(least=0, below=1)] = 0.0
    """Share of the points that get a wrong label."""
    width: Annotated[int, Whole(least=1, most=WIDEST)] = 64
    """Hidden units of each layer."""
    waves: Annotated[int, Whole(least=0)] = 0
    """Pixels that the learner sees of a point, waves across the plane; 0: its two coordinates, which it can hardly memorise."""
    layers: Annotated[int, Whole(least=1, most=100)] = 2
    """Hidden layers."""
    activation: Literal["relu", "tanh", "gelu"] = "relu"
    """Of the hidden units."""
    train: Train = FULL_BATCH
    resolution: Annotated[int, Whole(least=8, most=1024)] = 64
    """Grid points along each side of the window, on which margins and boundaries are looked at."""

    def check(self) -> None:
        """Raises UsageError on the first invalid value, or on values that contradict each other."""
        super().check()
        plain = self.dataset == "discs" or (self.discs, self.label_noise) == (type(self).discs, type(self).label_noise)
        require(plain, "--dataset", self.dataset, "has its own places and wrong labels; expected no --discs and no --label-noise")
        least = 2 * (self.discs.classes if self.dataset == "discs" else 10)
        accepted = f"expected at least {least}, two points of each class"
        require(self.train_size >= least, "--train-size", self.train_size, accepted)
        batch = self.train.batch_size
        require(batch >= 2, "--train.batch-size", batch, "expected at least 2: one is left out")


def _number(text: str) -> Any:
    """A number where the text is one, else the text."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
