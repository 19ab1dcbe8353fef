"""How well an audit orders methods: its rank correlation with the truth, and what it calls good that is not."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from experiments.audits.catalogue import Audit
from experiments.audits.options import Config
from unlearn_jax.data.splits import generator
from unlearn_jax.metrics.agreement import agreement_over_draws
from unlearn_jax.metrics.effects import Effects
from unlearn_jax.metrics.null import Null

DRAWS = 1_000
NEAR = 2.0  # |z| below which an audit calls a method good
JUDGES = ("null", "claim")  # retrained models; what the audit claims of a perfect method, without any


class Truth(NamedTuple):
    """How far a method is from retraining.

    Attributes:
        effects: memory left and damage.
        klom: on F, against halves of the oracles.
        numbers: of the originals that `effects.parts` are of.
        members: the number of originals.
    """

    effects: Effects | None
    klom: float
    numbers: np.ndarray
    members: int

    @property
    def distance(self) -> float:
        """The larger of |memory left| and damage; NaN where the originals remember too little to measure it."""
        return self.effects.distance if self.effects else float("nan")


class Agreement(NamedTuple):
    """One row of agreement.csv: how well an audit orders the methods.

    Attributes:
        audit: its name.
        group: of the audit.
        judged_by: `null`: by how far it is from the mean of retrained models; `claim`: from what it claims of a perfect method.
        distance: Spearman's correlation with the distance from retraining, None where that is unknown.
        distance_low: lower end of its 95% interval over methods and originals.
        distance_high: upper end.
        klom: the same with KLOM.
        klom_low: over methods and originals, KLOM's own as they are.
        klom_high: upper end.
        methods: that were ranked.
        called_good: how many are within two null standard deviations; None for `claim`, which has no such bound.
        fail: those of them that are at a distance of `--fails` or more.
        best: the method nearest to perfect by the audit.
        best_distance: its distance from retraining.
    """

    audit: str
    group: str
    judged_by: str
    distance: float | None
    distance_low: float | None
    distance_high: float | None
    klom: float | None
    klom_low: float | None
    klom_high: float | None
    methods: int
    called_good: int | None
    fail: str
    best: str
    best_distance: float


def draws_of(seed: int, members: int) -> np.ndarray:
    """How often each original stands in each draw, `[draws + 1, members]`; once each in the first."""
    drawn = generator("draws of originals", seed).multinomial(members, np.full(members, 1 / members), DRAWS)
    return np.concatenate([np.ones((1, members)), drawn])


def truths(truth: Mapping[str, Truth], weights: np.ndarray) -> dict[str, np.ndarray]:
    """The distance of each method in each draw, from its pseudo-values; nothing for methods of which it is unknown."""
    found = {}
    for name, each in truth.items():
        if each.effects is None or not each.effects.parts:
            continue
        of_pairs = weights[:, each.numbers]
        counts = np.maximum(of_pairs.sum(axis=1), 1)
        memory, square = (of_pairs @ each.effects.parts[part] / counts for part in ("memory", "whole"))
        found[name] = np.maximum(np.abs(memory), np.sign(square) * np.sqrt(np.abs(square)))
        found[name][0] = each.distance
    return found


def compare(
    audit: Audit,
    means: Mapping[str, np.ndarray],
    null: Null,
    distances: Mapping[str, np.ndarray],
    klom: Mapping[str, np.ndarray],
    config: Config,
) -> list[Agreement]:
    """How well one audit orders the methods, by each judge that it has.

    Args:
        audit: the audit.
        means: by method, its value in every draw.
        null: its null.
        distances: by method, the distance from retraining in every draw.
        klom: likewise.
        config: with the distance from which a method fails, and the seed.
    """
    known = [name for name in means if np.isfinite(means[name]).all()]
    centres = {"null": null.mean} | ({"claim": audit.target} if audit.target is not None else {})
    rows = []
    for judge, centre in centres.items():
        badness = {name: np.abs(means[name] - centre) for name in known}
        if not badness:
            continue
        near = [name for name in known if badness[name][0] <= NEAR * null.sd] if judge == "null" else None
        distance = {name: float(distances[name][0]) if name in distances else float("nan") for name in known}
        best = min(known, key=lambda name: badness[name][0])
        rows.append(
            Agreement(
                audit.name,
                audit.group,
                judge,
                *_correlation(badness, distances, config.seed),
                *_correlation(badness, klom, config.seed),
                len(known),
                None if near is None else len(near),
                " ".join(name for name in near or () if distance[name] >= config.fails),
                best,
                distance[best],
            )
        )
    return rows


def _correlation(
    badness: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray], seed: int
) -> tuple[float | None, float | None, float | None]:
    names = [name for name in badness if name in truth]
    if len(names) < 2:
        return None, None, None
    first, second = (np.stack([of[name] for name in names], axis=1) for of in (badness, truth))
    found = agreement_over_draws(first, second, seed)
    if np.isnan(found[0]):  # one of the two is the same for all methods
        return None, None, None
    return tuple(None if np.isnan(each) else float(each) for each in found)  # type: ignore[return-value]
