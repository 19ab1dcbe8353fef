"""How often the verdict calls a known small deviation from retraining different, by the number of models.

python benchmark.py --exp power --out runs/power

One pool of retrained models is drawn from again and again: n play a method's models, 2n others their oracles. The first get a
deviation. 96 originals and 288 retrained models by default; an hour on two cores.
"""

import dataclasses
from typing import Annotated, ClassVar

from unlearn_jax.bench.kinds import Count, Several, Whole, require
from unlearn_jax.bench.options import FEWEST, Judging, Requests, small


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Requests, Judging):
    """The options of the experiment `power`."""

    exp: str = "power"
    """The experiment. `--list` shows all."""
    members: Annotated[int, Whole(least=FEWEST)] = 96
    """Original models; three times as many are retrained."""
    sizes: Annotated[tuple[int, ...], Several(Whole(least=FEWEST))] = (8, 16, 24, 32, 48, 64)
    """Numbers n of models that are judged, each against 2n oracles; none larger than --members."""
    replicates: Count = 20
    """Draws from the pool, for each number."""

    extendable: ClassVar[frozenset[str]] = frozenset({"replicates"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        sizes = ",".join(map(str, self.sizes))
        require(bool(self.sizes) and max(self.sizes) <= self.members, "--sizes", sizes, f"expected numbers up to {self.members}")


def smoke(config: Config) -> Config:
    """The whole path in seconds."""
    return small(config, members=8, sizes=(8,), replicates=2)
