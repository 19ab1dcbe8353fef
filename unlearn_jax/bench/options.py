"""Options that experiments share. A study composes its configuration of these classes, and `--help` shows only those."""

import contextlib
import dataclasses
import importlib.util
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from unlearn_jax.bench.kinds import Count, Names, Real, Settings, Whole, options, replace_field, require
from unlearn_jax.bench.option_groups import Evaluation, Forget, Train
from unlearn_jax.files import is_path

SETS = 1000
"""The most forget sets (each has its own oracles), and unlearning seeds."""
FEWEST = 8
"""The fewest models for a verdict. A copy of `metrics.FEWEST_JUDGED`, whose import would import JAX."""
ATTACKED = 3
"""The fewest originals for a likelihood-ratio attack, which fits a variance to the others."""
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
"""The methods of the main job: the two references, and those that most papers compare."""


class Group:
    """Options that belong together. Subclasses are keyword-only dataclasses, and may combine several groups."""

    later: ClassVar[frozenset[str]] = frozenset(
        {
            *("deterministic", "easydub_models", "easydub_set", "freeze", "init", "originals", "oracles", "padding"),
            *("save_models", "scheduler", "workers"),
        }
    )
    """Options that older run folders lack: recorded only where they are given, so that those folders can be resumed."""

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        for option in options(type(self)):
            option.check(option.of(self))
        for group in vars(self).values():
            if hasattr(group, "check"):
                group.check()

    def recorded(self) -> dict[str, Any]:
        """What config.json records. A run that resumes must have the same."""
        return self.values()

    def values(self) -> dict[str, Any]:
        """The value of each option, without those `later` ones that have their default."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        fields = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {name: value for name, value in fields.items() if name not in self.later or value != defaults[name]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Group):
    """The run itself."""

    exp: str = "unlearning"
    """The experiment. `--list` shows all of them."""
    device: str = "auto"
    """auto (all GPUs, or the CPU if there is none), cpu, gpu (all GPUs), gpu:2 or gpu:0,1; cuda means gpu. Numbers count as
    nvidia-smi does, or as CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER say. Short: -d."""
    deterministic: bool = False
    """Only operations of the GPU that repeat themselves to the last bit, chosen without measuring."""
    out: Path | None = None
    """The run folder. An unfinished run in it is resumed. None: runs/EXPERIMENT-TIME."""
    smoke: bool = False
    """Run a small version of the experiment, in about a minute on two cores. Other options still apply."""
    seed: Annotated[int, Whole(least=0, most=2**32 - 1)] = 0
    """Seed of all random numbers."""
    cache: Path | None = None
    """Folder where all runs share decoded data, trained models, logits of methods and compiled programs. None:
    ~/.cache/unlearn_jax."""
    profile: bool = False
    """Print the ten longest stages and write a trace of all for Perfetto; with --smoke, also a trace of every operation."""

    immaterial: ClassVar[frozenset[str]] = frozenset(
        {"device", "out", "cache", "data_dir", "strategy", "chunk", "convolution", "profile", "plugin", "tensorboard"}
        | {"scheduler", "workers"}
    )
    """Options that change results by rounding at most: a run may resume with other values of them."""
    extendable: ClassVar[frozenset[str]] = frozenset()
    """Options that may grow when a run is opened again, such as the list of methods."""

    def fitted(self, typed: Collection[str]) -> Self:
        """Returns the configuration with the defaults that follow from its other options.

        Args:
            typed: the options that were given, such as `--label-noise`; these stay as they are.
        """
        return self


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training(Run):
    """A run that trains pools of models: how they are trained and batched."""

    train: Train = Train()
    strategy: Literal["auto", "vmap", "map"] = "auto"
    """How a device trains the members of a chunk: all at once (vmap) or one by one (map). auto: the faster one, as measured."""
    chunk: Count | None = None
    """Members that are trained and saved at a time. None: as many as fit in memory."""
    workers: Annotated[int, Whole(least=1, most=1024)] | None = None
    """Processes on this machine that share the work, and its cores or GPUs. None: this process does all (docs/scale.md)."""
    scheduler: str | None = None
    """Address of a running Dask cluster that does the work: tcp://HOST:PORT or tls://HOST:PORT (docs/scale.md)."""

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or if Dask is needed and absent."""
        super().check()
        wanted = {"--workers": self.workers, "--scheduler": self.scheduler}
        given = {option: value for option, value in wanted.items() if value is not None}
        require(len(given) < 2, "--workers", self.workers, "is for this machine; a cluster of --scheduler has workers already")
        for option, value in given.items():
            there = all(importlib.util.find_spec(name) for name in ("distributed", "cryptography"))
            require(there, option, value, "needs Dask: pip install 'unlearn_jax[dask]', in a checkout pip install -e '.[dask]'")


def own_model(model: str) -> bool:
    """Whether `--model` names a function in a file."""
    file, colon, _ = model.rpartition(":")
    return bool(colon) and file.endswith(".py")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images(Training):
    """A run on images: the options that `setting.prepare` reads."""

    dataset: str = "digits"
    """The data set: a name (`--list` shows all), an .npz file, or a folder of images by class (docs/bring-your-data.md)."""
    data_dir: Path | None = None
    """Folder with the data set's files. None: where its package installs them."""
    train_size: Annotated[int, Whole(least=2)] | None = None
    """Number of training examples, drawn at random. None: all; so are a file's or a folder's unless this is given."""
    label_noise: Annotated[float, Real(least=0, below=1)] = 0.1
    """Share of training labels that are made wrong; none of a file's or a folder's unless this is given. Without any, there is
    almost nothing to forget in digits."""
    model: str = "resnet8"
    """resnet8, resnet14, resnet20, ... (6n+2), resnet18, vit or mlp; or FILE.py:FUNCTION, see docs/bring-your-model.md."""
    width: Count = 8
    """Channels of a ResNet's first stage, hidden units of the MLP, features of a ViT's token. For digits 8 is enough; usual:
    16, ResNet-18 64."""
    normalisation: Literal["batch", "group"] = "batch"
    """Normalisation layers: BatchNorm or GroupNorm."""
    convolution: Literal["auto", "products", "patches", "grouped", "xla"] = "auto"
    """How convolutions are computed. patches: as one matrix product; products: as several, with fewer multiplications; xla: by
    XLA's own convolution; grouped: by one of XLA's for all members; auto: products on CPUs, grouped on GPUs."""
    precision: Literal["default", "highest", "tf32", "bf16"] = "default"
    """In what a GPU multiplies: highest is float32; tf32 (10 bits) is the default from Ampere on; bf16 (7 bits) concerns
    products, not XLA's own convolution. Closed forms, influence and curvature take highest in any case."""
    tensorboard: bool = False
    """Write the learning curves of curves.csv as TensorBoard events too: `tensorboard --logdir RUN/tensorboard` shows them."""
    padding: Literal["same", "torch"] = "same"
    """Where a ResNet's convolutions of stride 2 put their zeros: same, as in Flax; torch, as in PyTorch (docs/external.md)."""

    later: ClassVar[frozenset[str]] = Training.later | {"precision"}

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        from unlearn_jax.bench.curves import require_writer
        from unlearn_jax.models import find  # imports JAX, which --help must not

        super().check()
        if not own_model(self.model):
            find(self.model)
        require_writer(self.tensorboard)

    def fitted(self, typed: Collection[str]) -> Self:
        """Returns the configuration; data from a file or folder are taken as they are, unless something else is typed.

        Raises:
            UsageError: an option of the library's models is typed beside a model of one's own.
        """
        config = super().fitted(typed)
        for name in ("width", "normalisation", "convolution", "padding") if own_model(self.model) else ():
            expected = f"is of the library's models; {self.model} says itself what it is"
            require(f"--{name}" not in typed, f"--{name}", getattr(self, name), expected)
        if not is_path(self.dataset) or self.dataset in _registered():
            return config
        whole: dict[str, Any] = {"train_size": None, "label_noise": 0.0}
        return dataclasses.replace(
            config, **{name: value for name, value in whole.items() if f"--{name.replace('_', '-')}" not in typed}
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Requests(Images):
    """A run that forgets: the options that `forget_set.forget_mask` reads."""

    forget: Forget = Forget()

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        files, sets = len(self.forget.files), getattr(self, "forget_sets", None)
        if files:
            accepted = f"expected {files}, one for each file of --forget.file"
            require(sets is None or sets == files, "--forget-sets", sets, accepted)
            require(sets is not None or files == 1, "--forget.file", self.forget.file, f"--exp {self.exp} takes one forget set")

    def fitted(self, typed: Collection[str]) -> Self:
        """Returns the configuration with as many forget sets as there are files of them, unless another number is typed."""
        config, files = super().fitted(typed), len(self.forget.files)
        if files and hasattr(config, "forget_sets") and "--forget-sets" not in typed:
            return replace_field(config, ("forget_sets",), files)
        return config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judging(Images):
    """A run that compares models with oracles: the options that `forget_set.forget_set` reads."""

    members: Annotated[int, Whole(least=2)] | Literal["auto"] = 24
    """Number of original models, each unlearned by every method. Twice as many oracles are trained."""
    evaluation: Evaluation = Evaluation()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hyper(Group):
    """Hyperparameters of methods; which ones run, `method_names` says."""

    hyper: Settings = ()
    """Hyperparameters, separated by commas: scrub.epochs=5,salun.learning_rate=1e-3; * means every method that has it."""

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        from unlearn_jax.bench.hyperparameters import require_used  # imports JAX, which --help must not

        super().check()
        self.hyperparameters()
        asked = by_method(setting for setting in self.hyper if setting not in type(self).hyper)
        if asked.keys() - {"*"}:
            require_used(asked, getattr(self, "method_names", list)())

    def hyperparameters(self) -> dict[str, dict[str, Any]]:
        """`hyper`, parsed, see `by_method`."""
        return by_method(self.hyper)


def by_method(hyper: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns METHOD.NAME=VALUE, parsed: method name (or `*`) -> hyperparameter -> value; the last value given counts."""
    parsed: dict[str, dict[str, Any]] = {}
    for setting in hyper:
        name, equals, value = setting.partition("=")
        method, dot, parameter = name.partition(".")
        complete = bool(method and dot and parameter.isidentifier() and equals and value)
        require(complete, "--hyper", setting, "expected METHOD.NAME=VALUE, for instance scrub.epochs=5")
        parsed.setdefault(method, {})[parameter] = _number(value)
    return parsed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Methods(Group):
    """Which methods run."""

    methods: Names = ("main",)
    """Names, separated by commas; main: the sixteen of the main job; all: all that the model supports. `--list` shows them."""

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        self.method_names()

    def recorded(self) -> dict[str, Any]:
        """What config.json records: every method by name, so that a later run can add some."""
        return {**super().recorded(), "methods": self.method_names()}

    def method_names(self) -> list[str]:
        """The names in `methods`, in order and without repeats; `all` stands for every method that the model supports."""
        from unlearn_jax.bench import plugins  # imports JAX, which --help must not
        from unlearn_jax.methods import METHODS
        from unlearn_jax.models import build

        plugins.load_installed()
        if plugin := getattr(self, "plugin", None):
            plugins.load(plugin)
        model = getattr(self, "model", "mlp")  # of the toy
        convolutional = {name for name, entry in METHODS.items() if "convolutions" in entry.needs}
        known = own_model(model) or bool(build(model, classes=2).convolutions)  # what its own lacks is seen when it is made
        supported = [name for name in METHODS if known or name not in convolutional]
        groups = {"all": supported, "main": MAIN}
        names = list(dict.fromkeys(name for word in self.methods for name in groups.get(word, [word])))
        for name in names or [""]:
            require(name in METHODS, "--methods", name, f"expected main, all, or names among {', '.join(METHODS)}")
            require(name in supported, "--methods", name, f"needs convolutions, which --model {model} does not have")
        return names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Starting(Group):
    """A run whose models may start from given weights: the options that `setting.start_of` reads."""

    init: Path | None = None
    """A .safetensors file from which all training starts, in place of random weights. Top-level groups that it lacks, such as
    the head, are drawn at random."""
    freeze: Names = ()
    """Top-level groups of the weights in --init that training leaves as they are: names or patterns, such as stem,stage1_*."""

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        require(not self.freeze or self.init is not None, "--freeze", ",".join(self.freeze), "needs --init")

    def recorded(self) -> dict[str, Any]:
        """What config.json records; of weights that are given, what is in their files."""
        given = self.given
        return {**super().recorded(), **({"given": given} if given else {})}

    @property
    def given(self) -> list[str]:
        """Each file of weights that is given, and the beginning of its content's SHA-256.

        Raises:
            ArgumentError: a file cannot be read.
        """
        from unlearn_jax.checkpoints import digest_of  # imports JAX, which --help must not

        return [f"init {digest_of(self.init, 'init')[:16]}"] if self.init else []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison(Methods, Hyper, Requests, Judging):
    """A run that compares methods on one or several forget sets."""

    forget_sets: Annotated[int, Whole(least=1, most=SETS)] = 1
    """Number of forget sets, each with its own oracles. With several, intervals and verdict generalise to other sets. Files: as
    many as there are."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seeded(Comparison):
    """A comparison that may repeat each method with other seeds: the options that `evaluate.compare` reads."""

    unlearning_seeds: Annotated[int, Whole(least=1, most=SETS)] = 1
    """Times that each method unlearns each original, with different keys. 2 or more measure the method's own randomness."""


Judges = TypeVar("Judges", bound=Judging)
QUICK = ("*.epochs=1", "*.rounds=10")
"""Hyperparameters with which every method takes only seconds."""


def small(config: Judges, **given: Any) -> Judges:
    """The configuration with little data, a small network and few models; `given` replaces further fields."""
    sizes = {"train_size": 300, "model": "mlp", "width": 16, "members": 4}
    evaluation = Evaluation(splits=20, retain_size=200)
    settings = {"smoke": True, **sizes, "train": Train(epochs=2, batch_size=64), "evaluation": evaluation, **given}
    return dataclasses.replace(config, **settings)


def _number(text: str) -> Any:
    """A number where the text is one, else the text."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _registered() -> Collection[str]:
    """The names of the data sets; JAX comes with them, which --help must not bring."""
    from unlearn_jax.data import DATASETS

    return DATASETS
