"""The memorisation of single examples against size: the share of them for which it rises, falls or peaks, against noise alone.

Lukasik et al., "What do larger image classifiers memorise?", arXiv 2310.05337, classify the same curves.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from experiments.capacity_fitted.report import SHAPES, Shape, Size
from unlearn_jax.data.splits import generator
from unlearn_jax.metrics.statistics import over_draws

STEP = 0.1  # of the probability of the label: smaller changes count as none

Models = list[list[np.ndarray]]  # of each size and forget set, each model's probability of the label: [models, examples]


def classify(gains: Float[np.ndarray, "sizes examples"]) -> Int[np.ndarray, " examples"]:
    """The shape of each curve of memorisation against size, as a place in `SHAPES`.

    A curve peaks (dips) if a size between is more than `STEP` above (below) both ends; of both, the larger one counts. Else it
    rises or falls if the ends are more than `STEP` apart, and is flat if they are not.
    """
    first, last = gains[0], gains[-1]
    inner = gains[1:-1] if len(gains) > 2 else gains[:1]  # of two sizes nothing lies between
    above, below = inner.max(0) - np.maximum(first, last), np.minimum(first, last) - inner.min(0)
    shapes = [(above > STEP) & (above >= below), below > STEP, last - first > STEP, first - last > STEP]
    return np.select(shapes, [SHAPES.index(name) for name in ("peaks", "dips", "rises", "falls")], SHAPES.index("flat"))


def gains_of(seen: Models, unseen: Models) -> Float[np.ndarray, "sizes examples"]:
    """How much more probable the label of each example is to models that trained on it, at each size."""
    return np.stack(
        [
            np.concatenate([one.mean(0) - other.mean(0) for one, other in zip(*of_size, strict=True)])
            for of_size in zip(seen, unseen, strict=True)
        ]
    )


def permuted(models: Models, rng: np.random.Generator) -> Models:
    """The same models with their sizes permuted, within each forget set; each size keeps its number of models."""
    ends = np.cumsum([len(of_size[0]) for of_size in models])[:-1]
    by_set = []
    for index in range(len(models[0])):
        together = np.concatenate([of_size[index] for of_size in models])
        by_set.append(np.split(rng.permutation(together), ends))
    return [list(of_size) for of_size in zip(*by_set, strict=True)]


def shapes(group: Sequence[Size], permutations: int, seed: int) -> list[Shape]:
    """The share of examples with each shape, the same with sizes permuted among models, and the difference.

    Args:
        group: the sizes of one rule and axis, from small to large.
        permutations: of each draw.
        seed: draws the permutations.
    """
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    counts: dict[str, int] = {}
    for number, draws in enumerate(zip(*(size.draws for size in group), strict=True)):
        seen, unseen = [draw.seen for draw in draws], [draw.unseen for draw in draws]
        rng = generator("permuted sizes", seed, number)
        codes = classify(gains_of(seen, unseen))
        chance = np.stack([classify(gains_of(permuted(seen, rng), permuted(unseen, rng))) for _ in range(permutations)])
        wrong = draws[0].wrong.ravel()
        for part, rows in {"all": np.ones_like(wrong), "wrong labels": wrong, "right labels": ~wrong}.items():
            counts[part] = counts.get(part, 0) + int(rows.sum())
            for code, shape in enumerate(SHAPES):
                shares = [100 * float((each[..., rows] == code).mean()) if rows.any() else math.nan for each in (codes, chance)]
                found.setdefault((part, shape), []).append((shares[0], shares[1]))
    return [
        Shape(
            *(group[0].rule, group[0].axis, part, counts[part], shape),
            *over_draws(np.array([share for share, _ in pairs])),
            over_draws(np.array([by_chance for _, by_chance in pairs])).value,
            *over_draws(np.array([share - by_chance for share, by_chance in pairs])),
        )
        for (part, shape), pairs in found.items()
    ]
