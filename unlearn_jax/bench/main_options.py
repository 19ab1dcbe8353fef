"""Every unlearning method, measured against the distribution of models retrained without the forget set.

The defaults are the main job on digits: 24 originals, 48 oracles, 16 methods; minutes on two cores.

    python benchmark.py --exp unlearning
"""

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from unlearn_jax.bench.kinds import Real, Whole, require
from unlearn_jax.bench.options import FEWEST, QUICK, Seeded, Starting, small


@dataclasses.dataclass(frozen=True, kw_only=True)
class Auto:
    """With `--members auto`: the difference to be detected, that is, called outside the null in 80 of 100 runs."""

    metric: str = "accuracy"
    """The metric, as named in results.csv."""
    split: Literal["forget", "retain", "test", "all"] = "forget"
    """The split of the metric."""
    difference: Annotated[float, Real(above=0)] = 3.0
    """Difference from the mean score of retrained models, in the metric's unit (accuracy: percentage points)."""
    most: Annotated[int, Whole(least=FEWEST)] = 64
    """The most original models to train."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Starting, Seeded):
    """The options of the experiment `unlearning`."""

    members: Annotated[int, Whole(least=2)] | Literal["auto"] = 24
    """Number of original models, each unlearned by every method; twice as many oracles are trained. auto: see --auto."""
    auto: Auto = Auto()
    plugin: str | None = None
    """A Python file, or a module, with methods of your own: registered ones, or functions of key, problem and variables."""
    originals: Path | None = None
    """Folder of originals that are not to be trained, one .safetensors file each; the first --members by name are taken."""
    oracles: Path | None = None
    """Likewise of oracles, two or more for each of --members; for several forget sets a folder each, called as the set. All of
    them are used. The method retrain then runs only where --methods names it, and is trained by --train."""
    save_models: bool = False
    """Write originals, oracles and unlearned models into the run folder, under models/, one .safetensors file each."""

    extendable: ClassVar[frozenset[str]] = frozenset({"methods", "members", "auto", "forget_sets", "unlearning_seeds"})
    immaterial: ClassVar[frozenset[str]] = Seeded.immaterial | {
        "init",
        "originals",
        "oracles",
        "save_models",
    }  # `given` is compared

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        consistent = self.members == "auto" or self.auto == Auto()
        require(consistent, "--members", self.members, "the --auto options need --members auto")
        chosen = self.members != "auto" or not (self.originals or self.oracles)
        require(chosen, "--members", self.members, "--originals and --oracles need a number")

    @property
    def given(self) -> list[str]:
        """As `Starting.given`, with the files of models.

        Raises:
            ArgumentError: a folder holds no such file, or one that cannot be read.
        """
        from unlearn_jax.checkpoints import digests  # imports JAX, which --help must not

        folders = {name: path for name, path in (("originals", self.originals), ("oracles", self.oracles)) if path}
        files = [(f"{name}/{file}", digest) for name, path in folders.items() for file, digest in digests(path, name).items()]
        return super().given + [f"{name} {digest[:16]}" for name, digest in files]

    def method_names(self) -> list[str]:
        """As `Methods.method_names`; with given oracles without `retrain`, unless it was asked for by its name."""
        names = super().method_names()
        return [name for name in names if name != "retrain" or self.oracles is None or name in self.methods]


def smoke(config: Config) -> Config:
    """The whole job in under a minute: little data, a small network, few models, one epoch for every method."""
    return small(config, hyper=QUICK)
