"""Predictions of models that stay in files, by workers that see these files: no model travels."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from unlearn_jax.kept import Kept, are_named
from unlearn_jax.training.ensembles import predict
from unlearn_jax.types import Model, Variables
from unlearn_jax.workers import Here, Workers


@dataclasses.dataclass(frozen=True)
class _Job:
    """Predictions of any models of one network (see `workers.Job`)."""

    model: Model
    images: np.ndarray
    strategy: str

    def __call__(self, piece: Variables, here: Here) -> np.ndarray:
        return predict(self.model, piece, self.images, self.strategy)


def predict_by(
    workers: Workers | None, cache: pathlib.Path | None, model: Model, variables: Variables, images: np.ndarray, strategy: str
) -> Float[np.ndarray, "members examples classes"]:
    """As `predict`, by workers where there are any that see the files in which the models stay; a file is a piece.

    Args:
        workers: do the work; None: this process.
        cache: of the run; None: without workers.
        model: see `predict`.
        variables: likewise.
        images: likewise.
        strategy: likewise.

    Raises:
        WorkersError: the workers were lost.
    """
    if workers is None or cache is None or not are_named(variables) or not workers.share(cache):
        return predict(model, variables, images, strategy)
    first: Any = jax.tree.leaves(variables)[0]
    assert isinstance(first, Kept)
    parts = first.slices()
    pieces = [jax.tree.map(lambda leaf, part=part: leaf[part], variables) for part in parts]
    results = dict(workers.run(_Job(model, images, strategy), pieces, cache, lambda *_: None, "predictions"))
    return np.concatenate([results[number] for number in range(len(parts))])
