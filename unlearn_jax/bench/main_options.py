"""Every unlearning method, measured against the distribution of models retrained without the forget set.

The defaults are the main job, on digits: 24 originals, 48 oracles, every method; minutes on two cores.

    python benchmark.py --exp unlearning
"""

import contextlib
import dataclasses
from math import inf
from pathlib import Path
from typing import Any, ClassVar, Literal

from unlearn_jax.bench.options import Common, Train, require

MAIN = (
    "original,retrain,finetune,cf_k,eu_k,gradient_ascent,neggrad_plus,projected_ascent,fisher,ssd,bad_teacher,scrub,random_label,"
    "salun,l1_sparse,l1_sparse_proximal"
)
"""The methods of the main job: the two ends, and what most tables compare."""
SETS, SPLITS = 1000, 10**5
"""The most forget sets (each has oracles of its own), and splits of the oracles (each is scored by every metric)."""
Kind = Literal["random", "class", "class_part", "mislabelled", "mislabelled_part", "memorised", "unmemorised", "exposed", "file"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forget:
    """Which training examples are to be forgotten."""

    kind: Kind = "random"
    """Some of all, a whole class, some of a class, all or some wrongly labelled, the most or the least memorised, those that an
    attack on the originals would know best (the worst case), or those that a file lists."""
    size: float = 0.1
    """A share (below 1) or a count: of the class (class_part), of the wrong labels (mislabelled_part) or of all training examples
    (the others)."""
    label: int = 0
    """The class, counted from 0; of several forget sets each is of the next class (class), or all of the same (class_part)."""
    file: Path | None = None
    """Row numbers of the published training set, counted from 0, as forget_sets/ has them: text, or a .npy file (file)."""
    models: int = 32
    """Models on random halves of the examples, from which memorisation and exposure are measured: an even number."""

    def check(self) -> None:
        """Raises a UsageError for what the kind of set has no use for, or needs and is not given, and for too few models."""
        needed = self.kind == "file"
        require(needed or self.file is None, "--forget.file", self.file, "is used with --forget.kind file only")
        require(not needed or self.file is not None, "--forget.kind", self.kind, "needs --forget.file")
        of_class, measured = self.kind in ("class", "class_part"), self.kind in ("memorised", "unmemorised", "exposed")
        require(of_class or self.label == Forget.label, "--forget.label", self.label, "is used with class and class_part only")
        sized = self.kind not in ("class", "mislabelled", "file") or self.size == Forget.size
        require(sized, "--forget.size", self.size, f"--forget.kind {self.kind} has a size of its own")
        accepted = "is used with memorised, unmemorised and exposed only"
        require(measured or self.models == Forget.models, "--forget.models", self.models, accepted)
        enough = self.models >= 4 and self.models % 2 == 0
        require(enough, "--forget.models", self.models, "expected an even number of at least 4")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How the unlearned models are compared with the oracles."""

    splits: int = 100
    """Random splits of the oracles in two halves, from which each metric's null distribution comes."""
    retain_size: int = 2000
    """Retained examples, drawn at random, whose logits are kept and judged."""

    def check(self) -> None:
        """Raises a UsageError for the first value that cannot be meant."""
        splits = 2 <= self.splits <= SPLITS
        require(splits, "--evaluation.splits", self.splits, f"expected an integer of at least 2, at most {SPLITS:,}")
        require(self.retain_size >= 1, "--evaluation.retain-size", self.retain_size, "expected an integer of at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Auto:
    """With `--members auto`: which difference is to become visible, that is be called outside the null in 80 of 100 runs."""

    metric: str = "accuracy"
    """A metric of results.csv."""
    split: Literal["forget", "retain", "test", "all"] = "forget"
    """Its split."""
    difference: float = 3.0
    """From what retrained models score on average, in the metric's unit (accuracy: percentage points)."""
    most: int = 64
    """No more models than these."""

    def check(self) -> None:
        """Raises a UsageError for the first value that cannot be meant."""
        from unlearn_jax.metrics import FEWEST_JUDGED  # brings JAX with it, which --help must not

        require(0 < self.difference < inf, "--auto.difference", self.difference, "expected a number above 0")
        require(self.most >= FEWEST_JUDGED, "--auto.most", self.most, f"expected an integer of at least {FEWEST_JUDGED}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Methods(Common):
    """Which methods, and with which hyperparameters."""

    methods: str = "main"
    """Names separated by commas; main (the sixteen of the main job) or all. `--list` shows them."""
    hyper: tuple[str, ...] = ()
    """METHOD.NAME=VALUE, several separated by commas: scrub.epochs=5,salun.learning_rate=1e-3; * is every method that has it."""

    def check(self) -> None:
        """Raises a UsageError for the first value that cannot be meant."""
        super().check()
        self.hyperparameters()
        self.method_names()

    def recorded(self) -> dict[str, Any]:
        """What config.json records: the methods one by one, so that a run can be extended by some."""
        return {**super().recorded(), "methods": self.method_names()}

    def method_names(self) -> list[str]:
        """The methods that `methods` asks for, in order, each once; `all` are those that the model can have."""
        from unlearn_jax.methods import METHODS  # brings JAX with it, which --help must not
        from unlearn_jax.models import build

        asking = {name for name, entry in METHODS.items() if "convolutions" in entry.needs}
        fitting = [name for name in METHODS if name not in asking or build(self.model, classes=2).convolutions]
        groups = {"all": fitting, "main": _words(MAIN)}
        words = [name for word in _words(self.methods) for name in groups.get(word, [word])]
        names = list(dict.fromkeys(words))
        for name in names or [""]:
            require(name in METHODS, "--methods", name, f"there is {', '.join(METHODS)}; main or all")
            require(name in fitting, "--methods", name, f"needs convolutions, which --model {self.model} has not")
        return names

    def hyperparameters(self) -> dict[str, dict[str, Any]]:
        """`hyper`, parsed: method name (or `*`) -> hyperparameter -> value; what is given last counts."""
        parsed: dict[str, dict[str, Any]] = {}
        for setting in (word for given in self.hyper for word in _words(given)):
            name, equals, value = setting.partition("=")
            method, dot, parameter = name.partition(".")
            complete = bool(method and dot and parameter.isidentifier() and equals and value)
            require(complete, "--hyper", setting, "expected METHOD.NAME=VALUE, for instance scrub.epochs=5")
            parsed.setdefault(method, {})[parameter] = _number(value)
        return parsed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Methods):
    """The options of the experiment `unlearning`."""

    members: int | Literal["auto"] = 24
    """Original models, each unlearned by each method; twice as many oracles are trained, for the null. auto: see --auto."""
    auto: Auto = Auto()
    forget_sets: int = 1
    """Forget sets, each with oracles of its own; several make intervals and the verdict count for other sets too."""
    unlearning_seeds: int = 1
    """Times that each method unlearns each original, with other keys: 2 or more tell the method's own chance from the rest."""
    forget: Forget = Forget()
    evaluation: Evaluation = Evaluation()

    extendable: ClassVar[frozenset[str]] = frozenset({"methods", "members", "auto", "forget_sets", "unlearning_seeds"})

    def check(self) -> None:
        """Raises a UsageError for the first value that cannot be meant."""
        super().check()
        enough = self.members == "auto" or self.members >= 2
        require(enough, "--members", self.members, "expected auto, or an integer of at least 2: one model has no distribution")
        seeds = 1 <= self.unlearning_seeds <= SETS
        require(seeds, "--unlearning-seeds", self.unlearning_seeds, f"expected an integer of at least 1, at most {SETS:,}")
        used = self.members == "auto" or self.auto == Auto()
        require(used, "--members", self.members, "--auto is used with --members auto only")
        self.auto.check()
        sets = 1 <= self.forget_sets <= SETS
        require(sets, "--forget-sets", self.forget_sets, f"expected an integer of at least 1, at most {SETS:,}")
        self.forget.check()
        self.evaluation.check()


def smoke(config: Config) -> Config:
    """The whole path in under a minute: tiny data, a small net, few models, one epoch for every method."""
    return dataclasses.replace(
        config,
        smoke=True,
        train_size=300,
        model="mlp",
        width=16,
        members=4,
        hyper=("*.epochs=1", "*.rounds=10"),
        train=Train(epochs=2, batch_size=64),
        evaluation=Evaluation(splits=20, retain_size=200),
    )


def _words(text: str) -> list[str]:
    return [word for word in text.replace(",", " ").split() if word]


def _number(text: str) -> Any:
    """A number where the text is one, else the text."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
