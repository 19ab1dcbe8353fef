"""Finished runs, compared: what changed in the configuration, and what that did to every score. Nothing is trained.

    python benchmark.py --exp compare --runs runs/a runs/b

Every later run is compared with the first.
"""

import dataclasses
import os
from pathlib import Path
from typing import Annotated

from unlearn_jax.bench.kinds import PLAIN, Several, require
from unlearn_jax.bench.options import Run

MOST = 26
"""The most runs: each has a letter."""
Folders = Annotated[tuple[Path, ...], Several(PLAIN[Path], spaced=False)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Run):
    """The options of the experiment `compare`."""

    exp: str = "compare"
    """The experiment. `--list` shows all."""
    runs: Folders = ()
    """Run folders of finished runs, two or more; the others are compared with the first."""

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        word = ",".join(map(str, self.runs))
        require(len(self.runs) <= MOST, "--runs", word, f"expected 2 to {MOST} run folders")
        require(len(set(map(os.path.abspath, self.runs))) == len(self.runs), "--runs", word, "the same folder twice")


def smoke(config: Config) -> Config:
    """The same: it takes no time."""
    return dataclasses.replace(config, smoke=True)
