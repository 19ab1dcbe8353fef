"""Model by model: how much does it remember of the forget set, how far is it from the retrained models, is it an outlier?

A mean over models hides a single one that was never unlearned. So each model is placed on two axes:

* *memory*: with the margins u of the model on the forget set, and the means g of the originals and o of the retrained models,
  `<u - o, g - o> / <g - o, g - o>`: 0 as a retrained model on average, 1 as an original. All products are means over *different*
  models, so that a model is compared neither with itself nor with the original that it was unlearned from, and has no bias.
* *distance*: the logarithm of the mean square of `(u - o) / s`, where s is the standard deviation of the retrained models on the
  example. It needs no originals.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtri_exp, stdtr

from unlearn_jax.metrics import checks
from unlearn_jax.metrics.effects import effects
from unlearn_jax.metrics.statistics import holm, unit, varies

SIGNIFICANT = 0.05
HALF = 0.5  # of the memory: below it a model is nearer to the retrained ones
LARGEST = 30.0  # of a normal score, which would be infinite where the others are all the same
NONE = -1  # the number of an original that is unknown

Models = Float[Any, "models examples"]  # margins
Originals = Float[Any, "originals examples"]
Oracles = Float[Any, "oracles examples"]


class Memory(NamedTuple):
    """What originals remember of the forget set. Made by `memory_axis`.

    Attributes:
        originals: their margins.
        oracles: the retrained models' margins; of both the mean of the oracles is subtracted.
        centre: that mean.
        remembered: <g - o, g - o>, without bias.
        of_oracles: the memory of each oracle; their mean is 0.
    """

    originals: Float[np.ndarray, "originals examples"]
    oracles: Float[np.ndarray, "oracles examples"]
    centre: Float[np.ndarray, " examples"]
    remembered: float
    of_oracles: Float[np.ndarray, " oracles"]

    def of(self, unlearned: Models, own: Int[Any, " models"] | None = None) -> Float[np.ndarray, " models"]:
        """The memory of each model.

        Args:
            unlearned: margins on the forget set.
            own: the number of the original that each model was unlearned from (or is), -1 if it is not among them; by default
                model i comes from original i.

        Raises:
            ValueError: a margin is not finite, of other examples, or a number is not that of an original.
        """
        unlearned = np.asarray(checks.numbers("unlearned", unlearned, "models examples"), np.float64)
        checks.alike("unlearned", unlearned, "originals", self.originals)
        count = len(self.originals)
        own = np.arange(len(unlearned)) if own is None else np.asarray(own)
        if own.shape != (len(unlearned),) or not ((own >= NONE) & (own < count)).all():
            raise ValueError(f"own: {own.tolist()} found, expected a number from -1 to {count - 1} for each of {len(unlearned)}")
        known = (own != NONE)[:, None]
        g = np.where(known, self.originals.sum(axis=0) - self.originals[own], self.originals.sum(axis=0)) / (count - known)
        # The oracles' mean is 0 here, so that two of the four products vanish.
        products = ((unlearned - self.centre) * g).sum(axis=1)
        return (products + _apart(self.oracles)) / self.remembered


def memory_axis(originals: Originals, oracles: Oracles) -> Memory | None:
    """What originals remember of the forget set, or None if it cannot be told from nothing with so many models.

    Args:
        originals: margins on the forget set of the models before unlearning.
        oracles: margins there of the retrained models.

    Raises:
        ValueError: a margin is not finite, the two are of other examples, or there are fewer than two models of a kind.
    """
    found = effects({"forget": originals}, {"forget": originals}, {"forget": oracles})
    if not np.isfinite(found.memory_left.value):
        return None
    centre = np.asarray(oracles, np.float64).mean(axis=0)
    g, o = np.asarray(originals, np.float64) - centre, np.asarray(oracles, np.float64) - centre
    count, mean = len(o), g.mean(axis=0)
    remembered = _apart(g) + _apart(o)  # the mean of o is 0
    squares, along = (o**2).sum(axis=1), o @ mean
    # Without oracle i the sum of the others is -o_i: three different oracles in every product.
    others = (squares - (squares.sum() - squares)) / ((count - 1) * (count - 2))
    own = along + (squares + along) / (count - 1) + others
    return Memory(g, o, centre, remembered, own / remembered)


def distances(unlearned: Models, oracles: Oracles) -> tuple[Float[np.ndarray, " models"], Float[np.ndarray, " oracles"]]:
    """The distance of each model to the mean of the oracles, see the module; of each oracle to that of the others.

    Args:
        unlearned: margins.
        oracles: margins of two or more retrained models. Examples on which they do not differ are left out.

    Raises:
        ValueError: a margin is not finite, or the two are of other examples.
    """
    unlearned, oracles = (
        np.asarray(checks.numbers(name, side, "models examples"), np.float64)
        for name, side in (("unlearned", unlearned), ("oracles", oracles))
    )
    checks.alike("unlearned", unlearned, "oracles", oracles)
    there = varies(oracles, axis=0)[0]
    if not there.any():
        return np.zeros(len(unlearned)), np.zeros(len(oracles))
    mean, sd, count = oracles[:, there].mean(axis=0), oracles[:, there].std(axis=0, ddof=1), len(oracles)
    of_unlearned = (((unlearned[:, there] - mean) / sd) ** 2).mean(axis=1)
    of_oracles = (((oracles[:, there] - mean) / sd * count / (count - 1)) ** 2).mean(axis=1)
    least = np.finfo(float).tiny
    return np.log(np.maximum(of_unlearned, least)), np.log(np.maximum(of_oracles, least))


def outlier_t(values: Float[Any, " models"], others: Float[Any, " others"]) -> Float[np.ndarray, " models"]:
    """Student's t of each value among others, `(v - mean) / (sd sqrt(1 + 1/count))`, with count - 1 degrees of freedom.

    Args:
        values: of the models in question.
        others: of two or more other models. Where they are all the same, t is 0 or infinite.

    Raises:
        ValueError: a value is not finite, or there are fewer than two others.
    """
    values, others = checks.numbers("values", values, "models"), checks.numbers("others", others, "others")
    count = checks.count("number of others", len(others), 2)
    scale = float(unit(np.concatenate([values, others])))
    values, others = np.asarray(values, np.float64) / scale, np.asarray(others, np.float64) / scale
    sd = float(others.std(ddof=1)) if varies(others, axis=0)[0] else 0.0
    difference = values - others.mean()
    if sd == 0:
        same = ~varies(np.stack([values, np.full_like(values, others[0])]), axis=0)[0]
        return np.where(same, 0.0, np.copysign(np.inf, difference))
    return difference / (sd * np.sqrt(1 + 1 / count))


def largest_outlier(values: Float[Any, " models"], others: Float[Any, " others"]) -> float:
    """The largest |t| of `outlier_t` as a normal score: how far out the farthest of so many models is.

    Its p-value is adjusted for the number of models (Šidák), and is that of a standard normal number above the score, which is
    cut at ±30.

    Raises:
        ValueError: see `outlier_t`.

    Source: Šidák, Journal of the American Statistical Association 62, 1967.
    """
    t = float(np.abs(outlier_t(values, others)).max())
    with np.errstate(divide="ignore"):
        nearer = len(values) * np.log1p(-2 * stdtr(len(others) - 1, -t))  # log of the probability that all are nearer
    return float(np.clip(ndtri_exp(nearer), -LARGEST, LARGEST))


def is_outlier(*t: Float[Any, " models"], others: int) -> Bool[np.ndarray, " models"]:
    """Whether each model is an outlier on some axis, at 5% over all models and axes together (Holm).

    Args:
        t: of `outlier_t`, for each axis.
        others: number of models that t is among.
    """
    p = holm(np.minimum(2 * stdtr(others - 1, -np.abs(np.concatenate(t))), 1))
    return np.any(p.reshape(len(t), -1) < SIGNIFICANT, axis=0)


def _apart(centred: np.ndarray) -> float:
    """The mean product of two different models."""
    count, total = len(centred), centred.sum(axis=0)
    return float((total @ total - (centred**2).sum()) / (count * (count - 1)))
