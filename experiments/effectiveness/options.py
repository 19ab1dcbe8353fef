"""One text on what each family of methods can do, where it fails, and for whom it is right. Nothing is trained.

python benchmark.py --exp effectiveness                # into a run folder
python benchmark.py --exp effectiveness --docs docs    # and docs/effectiveness-and-limitations.md anew
"""

import dataclasses
from pathlib import Path
from typing import ClassVar

from unlearn_jax.bench.options import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Run):
    """The options of the experiment `effectiveness`."""

    exp: str = "effectiveness"
    """The experiment. `--list` shows all."""
    findings: Path = Path("docs/findings")
    """Folder of the findings, whose tables are read: FINDING/results.csv and others. What it lacks is left out, and named."""
    docs: Path | None = None
    """Folder that gets effectiveness-and-limitations.md, its table and its figure too, such as docs. None: the run folder "
    "alone."""

    immaterial: ClassVar[frozenset[str]] = Run.immaterial | {"docs"}


def smoke(config: Config) -> Config:
    """The same: it takes no time."""
    return dataclasses.replace(config, smoke=True)
