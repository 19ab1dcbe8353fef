"""The distance of methods from retraining by every metric, of any choice of models from the pools of one forget set."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unlearn_jax.metrics import catalogue, js_divergence, klom
from unlearn_jax.metrics.effects import SPLITS

METRICS = {
    "accuracy_gap": "gap in accuracy on F",
    catalogue.average_gap.name: "average gap",
    catalogue.tow.name: "tug of war (1 - ToW)",
    catalogue.js_divergence.name: "Jensen-Shannon on F",
    "klom": "KLOM on F",
    catalogue.memory_left.name: "memory left, either sign",
    "board": "memory left or damage",
}
"""Each is a distance: 0 or small is as retraining. `board`: the larger of memory left and damage, as the board is ordered."""
PAIRED = ("klom", catalogue.memory_left.name, "board")
"""Metrics of distributions or of products of different models: not defined for one oracle or for one original."""


class Answers(NamedTuple):
    """What the metrics need of some models on one forget set."""

    shares: Float[np.ndarray, "models 4"]  # accuracy on F, R and T, and MIA-efficacy of the confidence attack, in 0..1
    probabilities: Float[np.ndarray, "models forget classes"]
    margins: Mapping[str, Float[np.ndarray, "models examples"]]  # by split

    def take(self, models: Int[np.ndarray, " some"]) -> "Answers":
        """Selects some models."""
        margins = {split: values[models] for split, values in self.margins.items()}
        return Answers(self.shares[models], self.probabilities[models], margins)


@dataclasses.dataclass(frozen=True)
class Pools:
    """The models of one forget set.

    Attributes:
        oracles: retrained models.
        originals: the models that were unlearned.
        columns: what is compared, such as methods; model i of each was unlearned from original i.
        lost: the columns of which a model diverged: infinitely far from retraining.
    """

    oracles: Answers
    originals: Answers
    columns: Sequence[Answers]
    lost: Bool[np.ndarray, " columns"]

    @cached_property
    def shares(self) -> Float[np.ndarray, "columns models 4"]:
        """Of all columns."""
        return np.stack([column.shares for column in self.columns])

    @cached_property
    def probabilities(self) -> Float[np.ndarray, "columns models forget classes"]:
        """Of all columns."""
        return np.stack([column.probabilities for column in self.columns])

    @cached_property
    def margins(self) -> Float[np.ndarray, "columns models forget"]:
        """Of all columns, on F."""
        return np.stack([column.margins["forget"] for column in self.columns])

    @cached_property
    def products(self) -> dict[str, Float[np.ndarray, "all all"]]:
        """By split, the mean products of the margins of all models: oracles, originals, each column."""
        found = {}
        for split in SPLITS:
            each = [answers.margins[split].astype(np.float64) for answers in (self.oracles, self.originals, *self.columns)]
            centred = np.concatenate(each) - each[0].mean(0)
            found[split] = centred @ centred.T / centred.shape[1]
        return found

    def distances(
        self, oracles: Int[np.ndarray, " oracles"], models: Int[np.ndarray, " models"]
    ) -> Float[np.ndarray, "columns metrics"]:
        """The distance of each column from retraining by each of `METRICS`; NaN where `PAIRED` are not defined.

        Args:
            oracles: numbers of the oracles.
            models: numbers of the originals, and so of the models unlearned from them.
        """
        columns, examples = len(self.columns), self.margins.shape[2]
        found = np.full((len(METRICS), columns), np.nan)
        gaps = np.abs(self.shares[:, models].mean(1) - self.oracles.shares[oracles].mean(0))  # as `metrics.average_gap` and `tow`
        found[:3] = 100 * gaps[:, 0], 100 * gaps.mean(1), 1 - np.prod(1 - gaps[:, :3], axis=1)
        mean = self.oracles.probabilities[oracles].mean(0, keepdims=True)
        each = js_divergence(self.probabilities[:, models].reshape(-1, *mean.shape[1:]), mean)
        found[3] = each.reshape(columns, -1).mean(1)
        if min(len(oracles), len(models)) > 1:
            side_by_side = self.margins[:, models].transpose(1, 0, 2).reshape(len(models), -1)
            against = np.tile(self.oracles.margins["forget"][oracles], columns)
            found[4] = klom(side_by_side, against).reshape(columns, examples).mean(1)
            memory, damage = self._effects(oracles, models)
            found[5], found[6] = np.abs(memory), np.maximum(np.abs(memory), np.abs(damage))
        found[:, self.lost] = np.inf
        return found.T

    def _effects(
        self, oracles: np.ndarray, models: np.ndarray
    ) -> tuple[Float[np.ndarray, " columns"], Float[np.ndarray, " columns"]]:
        """Memory left and damage of each column: the values of `metrics.effects`, from products that are computed once."""
        behind = len(self.oracles.shares)
        originals, count = behind + models, len(self.originals.shares)
        placed = behind + count * (1 + np.arange(len(self.columns)))[:, None] + models
        sizes = {split: _sizes(products, oracles, originals, placed) for split, products in self.products.items()}
        both, remembered, _ = sizes["forget"]
        if remembered <= 0:
            return np.full(len(placed), np.nan), np.full(len(placed), np.nan)
        share = both / remembered
        squares = [(moved - 2 * share * both + share**2 * whole) / remembered for both, whole, moved in sizes.values()]
        square = np.mean(squares, axis=0)
        return share, np.sign(square) * np.sqrt(np.abs(square))


def _sizes(
    products: np.ndarray, o: np.ndarray, g: np.ndarray, m: Int[np.ndarray, "columns models"]
) -> tuple[np.ndarray, float, np.ndarray]:
    """<m - o, g - o> and <m - o, m - o> of each column m, and <g - o, g - o>: over pairs of different models."""

    def apart(block: np.ndarray) -> np.ndarray:
        count = block.shape[-1]
        return (block.sum((-2, -1)) - np.trace(block, axis1=-2, axis2=-1)) / (count * (count - 1))

    between = apart(products[np.ix_(o, o)])
    og = products[np.ix_(g, o)].mean()
    om = products[m[:, :, None], o].mean((1, 2))
    both = apart(products[m[:, :, None], g]) - om - og + between
    whole = apart(products[np.ix_(g, g)]) - 2 * og + between
    moved = apart(products[m[:, :, None], m[:, None, :]]) - 2 * om + between
    return both, float(whole), moved
