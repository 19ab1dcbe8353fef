"""Groups of options that have a prefix, such as `--train.epochs`."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Suppress

from unlearn_jax.bench.kinds import Count, Real, Whole, fixed, require

Request = Literal[
    "random", "class", "class_part", "mislabelled", "mislabelled_part", "memorised", "unmemorised", "exposed", "file"
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """How originals and oracles (retrained models) are trained."""

    epochs: Count = 15
    """Passes over the training examples."""
    batch_size: Count = 64
    """Examples per step."""
    learning_rate: Annotated[float, Real(above=0)] = 0.1
    """The largest learning rate of the schedule."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """cosine: linear warm-up over the first tenth of the steps, then decay to 0; constant: no change."""
    optimiser: Literal["sgd", "adam"] = "sgd"
    """sgd (with momentum) or adam (AdamW: with decoupled weight decay)."""
    momentum: Annotated[float, Real(least=0, below=1)] = 0.9
    """Momentum of sgd; adam ignores it."""
    weight_decay: Annotated[float, Real(least=0)] = 5e-4
    """Weight decay: added to the gradient by sgd, decoupled by adam."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Halves:
    """Models trained on random halves of the training set."""

    models: Annotated[int, Whole(least=4)] = 32
    """Models trained on random halves of the training set, to measure memorisation and exposure; an even number."""

    def check(self) -> None:
        """Raises ArgumentError for an odd number of models."""
        require(self.models % 2 == 0, "--forget.models", self.models, "expected an even number of at least 4")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forget(Halves):
    """Which training examples to forget."""

    kind: Request = "random"
    """random examples; a whole class, or part of it; all mislabelled examples, or part of them; the most (memorised) or the least
    (unmemorised) memorised; exposed: those that a membership attack on the originals detects best; or those that a file lists."""
    size: Annotated[float, Real(above=0)] = 0.1
    """A share (below 1) or a number of examples: of the class (class_part), of the mislabelled examples (mislabelled_part) or of
    all training examples (other kinds)."""
    label: Annotated[int, Whole(least=0)] = 0
    """The class, counted from 0. Several forget sets take consecutive classes (class) or parts of this one (class_part)."""
    file: Path | None = None
    """For --forget.kind file: row numbers in the published training set, from 0, as in forget_sets/, or a mask of its length; as
    text, .csv, .json, .npy or .npz. Several files, separated by commas, are as many forget sets."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that `file` names, one for each forget set."""
        if self.file is None or os.path.exists(self.file):  # a comma may be part of a name
            return () if self.file is None else (self.file,)
        return tuple(Path(part.strip()) for part in str(self.file).split(","))

    def check(self) -> None:
        """Raises ArgumentError if an option is missing that the kind needs, or given that it does not use."""
        listed = self.kind == "file"
        require(listed or self.file is None, "--forget.file", self.file, "needs --forget.kind file")
        require(not listed or self.file is not None, "--forget.kind", self.kind, "needs --forget.file")
        require(len(set(self.files)) == len(self.files), "--forget.file", self.file, "names a file twice")
        of_class, measured = self.kind in ("class", "class_part"), self.kind in ("memorised", "unmemorised", "exposed")
        require(of_class or self.label == Forget.label, "--forget.label", self.label, "needs --forget.kind class or class_part")
        sized = self.kind not in ("class", "mislabelled", "file") or self.size == type(self).size
        require(sized, "--forget.size", self.size, f"--forget.kind {self.kind} takes no size")
        accepted = "needs --forget.kind memorised, unmemorised or exposed"
        require(measured or self.models == Forget.models, "--forget.models", self.models, accepted)
        super().check()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SizedForget(Forget):
    """Which training examples are to be forgotten: sets of one size."""

    kind: Literal["random", "memorised", "unmemorised", "exposed"] = "random"
    """Random examples, the most or the least memorised, or those most exposed to an attack on the originals."""
    size: Annotated[float, Real(above=0)] = Forget.size
    """A share (below 1) or a count, of all training examples."""
    label: Suppress[int] = fixed(Forget.label)
    file: Suppress[Path | None] = fixed(None)


SAME_SIZE = SizedForget()


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtRandom(Forget):
    """Which training examples are to be forgotten: random ones."""

    kind: Suppress[Request] = fixed("random")
    size: Annotated[float, Real(above=0)] = Forget.size
    """A share (below 1) or a count, of all training examples."""
    label: Suppress[int] = fixed(Forget.label)
    file: Suppress[Path | None] = fixed(None)
    models: Suppress[int] = fixed(Forget.models)


AT_RANDOM = AtRandom()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """Which retained examples models are evaluated on."""

    retain_size: Count = 2000
    """Retained examples that models are evaluated on, drawn at random; their logits are saved."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Null:
    """How the null is estimated."""

    splits: Annotated[int, Whole(least=2, most=10**5)] = 100
    """Random splits of the oracles into two halves. Each half scored against the other gives the null of every metric."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(Judged, Null):
    """How unlearned models are compared with the oracles."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retained(Evaluation):
    """Which retained examples models are evaluated on, where nothing has a null of splits."""

    splits: Suppress[int] = fixed(Null.splits)


RETAINED = Retained()
