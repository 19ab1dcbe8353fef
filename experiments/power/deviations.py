"""Retrained models from which something small was not forgotten: known deviations from a perfect method."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from unlearn_jax.metrics import scaled_logits
from unlearn_jax.types import Cube, Labels


class Drawn(NamedTuple):
    """Models to deviate from retraining.

    Attributes:
        unlearned: logits of retrained models.
        originals: logits of as many originals: that of model i is original i.
        oracles: logits of the models that they will be compared with.
        labels: of the examples.
        rng: draws what is random in the deviation.
    """

    unlearned: Cube
    originals: Cube
    oracles: Cube
    labels: Labels
    rng: np.random.Generator

    @property
    def sd(self) -> Float[np.ndarray, " forget"]:
        """Standard deviation of the oracles' margins on each example of F."""
        return scaled_logits(self.oracles.forget, self.labels.forget).std(axis=0, ddof=1)

    def with_forget(self, logits: np.ndarray) -> Cube:
        """The unlearned models with other logits on F."""
        return self.unlearned._replace(forget=logits)


def none(drawn: Drawn) -> Cube:
    """Nothing: retrained models, of which 5% should be called outside."""
    return drawn.unlearned


def untouched(drawn: Drawn) -> Cube:
    """A random tenth of F is left untouched: its logits are those of the originals."""
    examples = drawn.unlearned.forget.shape[1]
    rows = drawn.rng.permutation(examples)[: max(round(examples / 10), 1)]
    logits = drawn.unlearned.forget.copy()
    logits[:, rows] = drawn.originals.forget[:, rows]
    return drawn.with_forget(logits)


def one_original(drawn: Drawn) -> Cube:
    """One of the n models was never unlearned."""
    cube = Cube(*(logits.copy() for logits in drawn.unlearned))
    for logits, before in zip(cube, drawn.originals, strict=True):
        logits[0] = before[0]
    return cube


def memorised(drawn: Drawn) -> Cube:
    """The most memorised example of F is left untouched."""
    margins = [scaled_logits(cube.forget, drawn.labels.forget).mean(axis=0) for cube in (drawn.originals, drawn.oracles)]
    row = int(np.argmax(margins[0] - margins[1]))
    logits = drawn.unlearned.forget.copy()
    logits[:, row] = drawn.originals.forget[:, row]
    return drawn.with_forget(logits)


def shifted(sds: float) -> Callable[[Drawn], Cube]:
    """All margins on F are larger by so many standard deviations of the oracles on the example."""

    def shift(drawn: Drawn) -> Cube:
        answer = np.eye(drawn.unlearned.forget.shape[2])[drawn.labels.forget]
        return drawn.with_forget(drawn.unlearned.forget + sds * drawn.sd[:, None] * answer)

    return shift


def half_way(drawn: Drawn) -> Cube:
    """Half of the models are a tenth of the way from retraining to their original, in logits."""
    cube = Cube(*(logits.copy() for logits in drawn.unlearned))
    half = len(cube.forget) // 2
    for logits, before in zip(cube, drawn.originals, strict=True):
        logits[:half] += 0.1 * (before[:half] - logits[:half])
    return cube


def noise(drawn: Drawn) -> Cube:
    """Every logit on R has Gaussian noise of standard deviation 0.5."""
    logits = drawn.unlearned.retain
    return drawn.unlearned._replace(retain=logits + drawn.rng.normal(scale=0.5, size=logits.shape))


DEVIATIONS: dict[str, Callable[[Drawn], Cube]] = {
    "none": none,
    "a tenth of F untouched": untouched,
    "one model not unlearned": one_original,
    "margins of F +0.1 sd": shifted(0.1),
    "margins of F +0.2 sd": shifted(0.2),
    "most memorised example untouched": memorised,
    "half of the models a tenth back": half_way,
    "noise on R": noise,
}
