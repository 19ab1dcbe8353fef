"""How often a perfect method is called outside: the false-positive rate of the verdict, on fresh pools.

python benchmark.py --exp calibration --out runs/calibration
"""

import dataclasses
from typing import ClassVar

from unlearn_jax.bench.main_options import Config as Unlearning
from unlearn_jax.bench.options import Train, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Unlearning):
    """The options of the experiment `calibration`."""

    exp: str = "calibration"
    """The experiment. `--list` shows all."""
    model: str = "mlp"
    """resnet8, 14, 20, ... (6n+2), resnet18 or mlp."""
    width: int = 64
    """Channels of the first stage, or hidden units of the MLP."""
    members: int = 12
    """Retrained models that are judged as a method's; twice as many others are their oracles."""
    replicates: int = 40
    """How often, each time with fresh models."""

    extendable: ClassVar[frozenset[str]] = frozenset({"replicates"})

    def check(self) -> None:
        """Raises a UsageError for the first value that cannot be meant."""
        from unlearn_jax.metrics import FEWEST_JUDGED  # brings JAX with it, which --help must not

        super().check()
        require(self.methods == "main", "--methods", self.methods, "calibration judges retraining alone; leave the option out")
        require(self.forget_sets == 1, "--forget-sets", self.forget_sets, "expected 1: fresh models for one forget set")
        require(self.unlearning_seeds == 1, "--unlearning-seeds", self.unlearning_seeds, "expected 1: retraining is all there is")
        wanted = f"expected an integer of at least {FEWEST_JUDGED}: there is no verdict with fewer"
        require(self.members != "auto" and self.members >= FEWEST_JUDGED, "--members", self.members, wanted)
        require(self.replicates >= 1, "--replicates", self.replicates, "expected an integer of at least 1")


def smoke(config: Config) -> Config:
    """The whole path in seconds."""
    return dataclasses.replace(config, smoke=True, train_size=300, members=8, replicates=2, train=Train(epochs=2))
