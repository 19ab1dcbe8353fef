"""Logits alone, of any framework: unlearned models against retrained ones. Nothing is trained.

    python benchmark.py --exp score --unlearned A --oracles B --originals C --labels labels.npz

A, B and C are folders with forget.npy, retain.npy and test.npy, `[models, examples, classes]`, or one .npz file with these keys;
the labels likewise, `[examples]`. Or, with margins in place of logits, against the models that EasyDUB published:

    python benchmark.py --exp score --oracles EasyDUB-dataset --easydub-set 2 --unlearned A
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from unlearn_jax.bench.kinds import Whole
from unlearn_jax.bench.option_groups import Null
from unlearn_jax.bench.options import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Run):
    """The options of the experiment `score`."""

    exp: str = "score"
    """The experiment. `--list` shows all."""
    unlearned: Path | None = None
    """Logits of the unlearned models: a folder with forget.npy, retain.npy, test.npy, or an .npz file with these keys."""
    oracles: Path | None = None
    """Likewise, of models retrained without the forget set: twice as many as are to be compared."""
    originals: Path | None = None
    """Likewise, of the models before unlearning, in the order of the unlearned ones: gives memory left and damage, too."""
    labels: Path | None = None
    """Labels of the examples of each split, as trained on: a folder or an .npz file likewise."""
    easydub_set: Annotated[int, Whole(least=0)] | None = None
    """--oracles is EasyDUB's data set: the number of the forget set. --unlearned then holds margins, `[models, examples]`."""
    easydub_models: Annotated[int, Whole(least=2)] = 100
    """Models on each side in EasyDUB's protocol: the first so many of either."""
    evaluation: Null = Null()


def smoke(config: Config) -> Config:
    """The same with fewer splits."""
    return dataclasses.replace(config, smoke=True, evaluation=Null(splits=20))
