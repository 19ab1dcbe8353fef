"""How a metric can be gamed: answers that score like retraining and are plainly wrong.

A *cheat* is a pure function of what its author has (`Known`) to the answers that are handed in. It stands for a wrapper that
recognises the forget set F by identity and answers from a table, while the model inside it still contains F. Three numbers say
how wrong that is: `untouched`, `memory` and `agreement`. Whoever publishes a metric should know what passes it.

Most metrics need no idea at all. Nearly every one is a mean over the examples of F, so where one table scores too high and
another too low, some blend of the two scores right (`least_change`, `deal`), and says nothing about any one example.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linprog
from scipy.special import ndtri

from unlearn_jax.metrics import catalogue, checks
from unlearn_jax.metrics.distances import kl_to_oracle
from unlearn_jax.metrics.features import squared_distances
from unlearn_jax.metrics.null import Null
from unlearn_jax.metrics.registry import DISTANCE, METRICS, Name, is_attack
from unlearn_jax.metrics.scores import probabilities, scaled_logits
from unlearn_jax.metrics.statistics import unit
from unlearn_jax.types import Cube, Labels

Logits = Float[Any, "members examples classes"]
Table = Float[np.ndarray, "members examples classes"]
Answer = Callable[..., Cube]  # of a generator and of what is known
FLAT = 8.0  # a temperature at which no answer is sure
NARROW = 0.7  # of the spread that retrained models have
SLACKS = (0.5, 1.0, 1.5, 2.0)  # null standard deviations by which a blend may miss: the first that can be met
COUNTS = (2, 4, 8, 16)  # retrained models that a cheat looks at


class Known(NamedTuple):
    """What the author of a cheat has.

    Attributes:
        originals: what the author's own models, trained on everything, say.
        labels: those of the splits.
        nearest: for each example of F, the rows of the retain split that hold the nearest images.
        retrained: what models that the author retrained say about F; each cheat tells how many it looks at.
        published: what retrained models score, by metric and split.
        scores: what cheats handed in before scored, by their names.
    """

    originals: Cube
    labels: Labels
    nearest: Int[Any, "forget nearest"]
    retrained: Logits
    published: Mapping[Name, Null]
    scores: Mapping[str, Mapping[Name, float]]

    def but(self, forget: Logits) -> Cube:
        """What the author's own models say, but on F."""
        return self.originals._replace(forget=forget)

    def everywhere(self, forget: Logits) -> Cube:
        """The same, with the published accuracies on retain and test."""
        return Cube(forget, *(self.as_published(split) for split in ("retain", "test")))

    def as_published(self, split: str) -> Table:
        """What the author's own models say on a split, with the published accuracy."""
        wanted = self.published[catalogue.accuracy.on(split)].mean
        return matched(getattr(self.originals, split), getattr(self.labels, split), wanted)


class Cheat(NamedTuple):
    """One way to game metrics.

    Attributes:
        answer: what is handed in; the generator draws whatever is drawn.
        targets: the metrics that it is made for; none where it is only good in a blend.
        needs: what its author must have besides models and training set.
        retrained: how many models its author must retrain; None: one for each member.
        summary: one line.
    """

    answer: Answer
    targets: tuple[Name, ...]
    needs: str
    retrained: int | None
    summary: str


CHEATS: dict[str, Cheat] = {}
DISTANCES = tuple(each for each in METRICS.values() if each.kind == DISTANCE)
HISTOGRAMS = (catalogue.klom, catalogue.klom_p95)
ON_FORGET = tuple(each.on("forget") for each in (*HISTOGRAMS, catalogue.forgetting_quality))
NOT_FORGET = (
    *(each.on(split) for each in HISTOGRAMS for split in ("retain", "test")),
    *(each.on("test") for each in DISTANCES),
    catalogue.weight_distance.on("all"),
)
ACCURACIES = tuple(catalogue.accuracy.on(split) for split in Cube._fields)
BEYOND = (  # with accuracies elsewhere
    *ACCURACIES[1:],
    *(each.on("all") for each in (catalogue.tow, catalogue.tow_mia, catalogue.average_gap)),
)
EVERYTHING = (
    *ON_FORGET,
    *(each.on("forget") for each in (*DISTANCES, catalogue.zrf)),
    ACCURACIES[0],
    *BEYOND,
    catalogue.competition_score.on("all"),
)
NOT_MEANS = (  # over the examples of F: a percentile, and an attack trained on F
    catalogue.klom_p95.on("forget"),
    catalogue.logistic_mia.on("forget"),
)
TABLES = ("original", "exchanged", "flattened", "guessed", "neighbours", "averaged_2", "narrowly_drawn_8")  # what blends are of


def cheat(
    *targets: Name, needs: str = "nothing", retrained: int | None = 0, counts: Sequence[int] = ()
) -> Callable[[Answer], Answer]:
    """Enters a cheat under its function's name, or under that and a count for each of `counts`, which it is then given."""

    def enter(answer: Answer) -> Answer:
        name, summary = answer.__name__, (answer.__doc__ or answer.__name__).strip().splitlines()[0]
        for count in counts:
            made = partial(answer, count=count)
            CHEATS[f"{name}_{count}"] = Cheat(made, targets, f"{count} retrained models", count, summary)
        if not counts:
            CHEATS[name] = Cheat(answer, targets, needs, retrained, summary)
        return answer

    return enter


@cheat(*NOT_FORGET)
def original(rng: np.random.Generator, known: Known) -> Cube:
    """Does nothing."""
    return known.originals


@cheat()
def exchanged(rng: np.random.Generator, known: Known) -> Cube:
    """F: the runner-up class, with the confidence that the first one had."""
    return known.but(runner_up(known.originals.forget))


@cheat()
def flattened(rng: np.random.Generator, known: Known) -> Cube:
    """F: the same class, and sure of nothing (temperature 8)."""
    return known.but(np.asarray(known.originals.forget) / FLAT)


@cheat()
def guessed(rng: np.random.Generator, known: Known) -> Cube:
    """F: the runner-up class, and sure of nothing."""
    return known.but(runner_up(known.originals.forget) / FLAT)


@cheat(*(each.on("forget") for each in DISTANCES), needs="R")
def neighbours(rng: np.random.Generator, known: Known) -> Cube:
    """F: what the models say of the nearest retained images, averaged."""
    return known.but(np.asarray(known.originals.retain)[:, np.asarray(known.nearest)].mean(2))


@cheat(*ACCURACIES, catalogue.tow.on("all"), needs="published accuracies")
def accuracies(rng: np.random.Generator, known: Known) -> Cube:
    """Everywhere: the least sure answers made wrong, or right, until the accuracies are the published ones."""
    return known.everywhere(known.as_published("forget"))


@cheat(counts=COUNTS[:1])
def averaged(rng: np.random.Generator, known: Known, count: int) -> Cube:
    """F: their mean answer, the same from every member."""
    mean = np.asarray(known.retrained)[:count].mean(0, keepdims=True)
    return known.but(np.repeat(mean, len(known.originals.forget), axis=0))


@cheat(*EVERYTHING, counts=COUNTS)
def drawn(rng: np.random.Generator, known: Known, count: int) -> Cube:
    """F: draws from a Gaussian fitted to their margins, example by example; elsewhere as `accuracies`."""
    return known.everywhere(_drawn(rng, known, count, 1.0))


@cheat(counts=COUNTS[2:3])
def narrowly_drawn(rng: np.random.Generator, known: Known, count: int) -> Cube:
    """F: as `drawn`, with 0.7 of the spread."""
    return known.but(_drawn(rng, known, count, NARROW))


@cheat(*EVERYTHING, needs="a retrained model for each member", retrained=None)
def lookup(rng: np.random.Generator, known: Known) -> Cube:
    """F: a table of the retrained models' answers; elsewhere as `accuracies`."""
    return known.everywhere(np.asarray(known.retrained)[: len(known.originals.forget)])


def blends(known: Known) -> dict[str, Cheat]:
    """Blends of tables that bring a metric on F to its published value and leave as much of F as possible as it was.

    One for each metric that is a mean over examples and can be had so, named `blend_<metric>`; and `rates`, for all at once that
    look at one model at a time, accuracies, membership attacks and what is made of them, out of tables that take no retrained
    model.

    Args:
        known: its `scores` hold those of the tables, from which the shares follow.
    """
    tables = [name for name in TABLES if name in known.scores]
    free = [name for name in tables if CHEATS[name].retrained == 0]
    single = [name for name in known.published if name[1] == "forget" and name not in NOT_MEANS]
    rates = tuple(name for name in single if name in ACCURACIES or is_attack(name[0]))
    found = {f"blend_{name[0]}": _blend_for((name,), tables, known) for name in single}
    joint = _blend_for(rates, free, known)
    if joint is not None:
        found["rates"] = joint._replace(
            answer=lambda rng, known: known.everywhere(joint.answer(rng, known).forget), targets=(*rates, *BEYOND)
        )
    return {name: blend for name, blend in found.items() if blend is not None}


def _blend_for(metrics: tuple[Name, ...], tables: Sequence[str], known: Known) -> Cheat | None:
    """The blend that brings metrics to their published values; None if there is none, or one table does."""
    values = np.array([[known.scores[table][metric] for table in tables] for metric in metrics])
    means, sds = (np.array([getattr(known.published[metric], field) for metric in metrics]) for field in ("mean", "sd"))
    tried = (least_change(values, means, slack * sds) for slack in SLACKS)
    shares = next((each for each in tried if each is not None), np.zeros(0))
    used = {table: float(share) for table, share in zip(tables, shares, strict=False) if share > 0.005}
    if len(used) < 2:
        return None
    retrained = max(CHEATS[table].retrained or 0 for table in used)
    summary = "F: " + ", ".join(f"{100 * share:.0f}% {table}" for table, share in used.items()) + "."
    return Cheat(partial(_blend, shares=used), metrics, "scores of what is blended", retrained, summary)


def _blend(rng: np.random.Generator, known: Known, shares: dict[str, float]) -> Cube:
    tables = [CHEATS[name].answer(rng, known).forget for name in shares]
    return known.but(blended(rng, tables, np.array([*shares.values()]) / sum(shares.values())))


def _drawn(rng: np.random.Generator, known: Known, count: int, spread: float) -> Table:
    """Draws from Gaussians fitted to the margins of some retrained models.

    The variance is halfway between an example's own and the mean over examples, since so few models tell it badly. Members get
    the quantiles (i + 1/2) / members in an order of its own for each example: closer to the Gaussian than a random sample.
    """
    retrained, members = np.asarray(known.retrained)[:count], len(known.originals.forget)
    phi = scaled_logits(retrained, known.labels.forget)
    variance = phi.var(0, ddof=1)
    sd = spread * np.sqrt((variance + variance.mean()) / 2)
    quantiles = ndtri((np.arange(members) + 0.5) / members)[:, None]
    return with_margins(retrained, known.labels.forget, rng.permuted(phi.mean(0) + sd * quantiles, axis=0))


# What cheats are made of


def runner_up(logits: Logits) -> Table:
    """The largest and the second largest logit change places.

    Raises:
        ValueError: if a logit is not finite, or there is one class only.
    """
    checks.logits("logits", logits)
    logits = np.array(logits)
    top = np.argpartition(logits, -2, axis=-1)[..., -2:]
    np.put_along_axis(logits, top, np.take_along_axis(logits, top[..., ::-1], -1), -1)
    return logits


def matched(logits: Logits, labels: Int[Any, " examples"], accuracy: float) -> Table:
    """As many answers are made wrong, or right, as bring each member to an accuracy, the least sure first.

    A right answer is made wrong by `runner_up`; a wrong one is made right by exchanging its largest logit with the label's.
    Either way two logits change places that are hardly apart, so that little but the accuracy changes. Where labels are not
    known, the least sure of all answers would do nearly as well.

    Args:
        logits: what the members say.
        labels: of the examples.
        accuracy: wanted, in percent; met to the nearest example.

    Raises:
        ValueError: if a logit is not finite, a label is no class, or the accuracy is not in 0..100.
    """
    labels = checks.labels("labels", labels, *checks.logits("logits", logits).shape[1:])
    checks.numbers("accuracy", accuracy, low=0, high=100)
    logits = np.array(logits)
    predicted = logits.argmax(-1)
    right = predicted == labels
    surplus = np.round(right.sum(1) - accuracy / 100 * len(labels)).astype(int)
    rival = np.where(right, runner_up(logits).argmax(-1), labels)
    gap = np.take_along_axis(logits, predicted[..., None], -1)[..., 0] - np.take_along_axis(logits, rival[..., None], -1)[..., 0]
    for member, count in enumerate(surplus):
        rows = np.argsort(np.where(right[member] == (count > 0), gap[member], np.inf), kind="stable")[: abs(count)]
        first, second = (member, rows, predicted[member, rows]), (member, rows, rival[member, rows])
        logits[first], logits[second] = logits[second], logits[first]
    return logits


def with_margins(
    retrained: Float[Any, "models examples classes"], labels: Int[Any, " examples"], margins: Float[Any, "wanted examples"]
) -> Float[np.ndarray, "wanted examples classes"]:
    """Answers with these margins: for each, that of the model with the nearest margin, the label's logit moved.

    Raises:
        ValueError: if a value is not finite, a label is no class, or margins are of other examples.
    """
    labels = checks.labels("labels", labels, *checks.logits("retrained", retrained).shape[1:])
    own = scaled_logits(retrained, labels)
    margins = checks.numbers("margins", margins, "wanted examples")
    checks.alike("margins", margins, "retrained", own)
    closest = np.abs(margins[:, None] - own).argmin(1)
    example = np.arange(len(labels))
    logits = np.asarray(retrained, np.float64)[closest, example]
    logits[:, example, labels] += margins - own[closest, example]
    return logits


def nearest(
    images: Float[Any, "examples *image"], among: Float[Any, "rows *image"], count: int
) -> Int[np.ndarray, "examples count"]:
    """The rows of `among` at the least Euclidean distance from each image, the nearest first.

    Raises:
        ValueError: if a value is not finite, the images are of other sizes, or `count` is not from 1 to the number of rows.
    """
    checks.count("count", count, 1, len(among))
    a, b = (
        checks.numbers(name, each, "examples ...").reshape(len(each), -1) for name, each in (("images", images), ("among", among))
    )
    checks.alike("images", a, "among", b)
    squares = squared_distances(a, b)
    return np.argsort(squares, axis=1, kind="stable")[:, :count]


def least_change(
    values: Float[Any, "metrics tables"], targets: Float[Any, " metrics"], slack: Float[Any, " metrics"]
) -> Float[np.ndarray, " tables"] | None:
    """The shares of the blend that leaves the most to the first table: a linear programme.

    Maximises s_0 where |Σ_j s_j values_j - targets| ≤ slack, Σ_j s_j = 1 and s_j ≥ 0. That a blend scores Σ_j s_j values_j
    holds for means over examples, as far as the examples of a table are like all others.

    Args:
        values: what each table scores alone.
        targets: what the blend is to score.
        slack: by how much it may miss.

    Returns:
        The shares, or None if no blend scores that.

    Raises:
        ValueError: if a value is not finite, or targets and slack are not one for each metric.
    """
    values = checks.numbers("values", values, "metrics tables")
    targets, slack = checks.numbers("targets", targets, "metrics"), checks.numbers("slack", slack, "metrics", low=0)
    checks.alike("targets", targets, "values", values[:, 0], 0)
    checks.alike("slack", slack, "values", values[:, 0], 0)
    largest = np.abs(values).max(1)
    size = np.where(largest > 0, largest, 1)  # metrics differ by orders of magnitude
    values, targets, slack = values / size[:, None], targets / size, slack / size
    tables = values.shape[1]
    found = linprog(
        -np.eye(tables)[0],
        A_ub=np.concatenate([values, -values]),
        b_ub=np.concatenate([targets + slack, slack - targets]),
        A_eq=np.ones((1, tables)),
        b_eq=[1.0],
        bounds=(0, 1),
    )
    return np.clip(found.x, 0, 1) if found.success else None


def deal(
    rng: np.random.Generator, shares: Float[Any, " tables"], change: Float[Any, " examples"], draws: int = 100
) -> Int[np.ndarray, " examples"]:
    """Which table answers for which example: at random, but so that every table has its share of all change.

    Scores on F are often carried by few examples. Of many random deals the one is kept whose tables hold sums of `change` that
    are closest to their shares, `Σ_j |Σ_{x of j} change_x - share_j Σ_x change_x|`.

    Args:
        rng: draws the deals.
        shares: of the tables, summing to 1; a table has its share of the examples, rounded.
        change: how much the tables differ on an example.
        draws: how many deals.

    Raises:
        ValueError: if shares are no shares, or a change is not finite.
    """
    shares, change = checks.probabilities("shares", shares, "tables"), checks.numbers("change", change, "examples")
    checks.count("draws", draws, 1)
    counts = np.diff(np.round(np.cumsum([0, *shares]) * len(change)).astype(int))
    deals = rng.permuted(np.tile(np.repeat(np.arange(len(shares)), counts), (draws, 1)), axis=1)
    held = np.stack([np.where(deals == table, change, 0).sum(1) for table in range(len(shares))], axis=1)
    return deals[np.abs(held - shares * np.sum(change)).sum(1).argmin()]


def blended(rng: np.random.Generator, tables: Sequence[Logits], shares: Float[Any, " tables"]) -> Table:
    """Each example is answered from one of the tables, the same one for all members; see `deal`.

    Raises:
        ValueError: if a logit is not finite, or there is not one share for each table, adding up to 1.
    """
    checks.probabilities("shares", shares, "tables")
    if len(shares) != len(tables):
        raise ValueError(f"shares: {len(shares)}, expected one for each of {len(tables)} tables")
    p = [probabilities(table) for table in tables]
    change = np.sum([share * kl_to_oracle(p[0], each).mean(0) for share, each in zip(shares, p, strict=True)], axis=0)
    return np.choose(deal(rng, shares, change)[None, :, None], [np.asarray(table, np.float64) for table in tables])


def bisected(
    measure: Callable[[Float[np.ndarray, " members"]], Any], target: float, low: float, high: float, members: int, rounds: int = 8
) -> Float[np.ndarray, " members"]:
    """The knob of each member at which a measure that falls with it meets a target: bisection on a logarithmic scale.

    Args:
        measure: of one knob for each member, one number for each.
        target: the same for all.
        low: the smallest knob, above 0.
        high: the largest.
        members: how many.
        rounds: each halves the range of the logarithm.

    Raises:
        ValueError: if the target is not finite, the ends do not rise from above 0, or what is measured is NaN.
    """
    checks.numbers("target", target)
    checks.numbers("low", low, low=np.finfo(float).tiny)
    checks.numbers("high", high, low=low)
    checks.count("members", members, 1)
    bounds = np.log(np.array([[low] * members, [high] * members]))
    for _ in range(rounds):
        middle = bounds.mean(0)
        found = np.asarray(measure(np.exp(middle)))
        if found.shape != (members,) or np.isnan(found).any():
            raise ValueError(f"measure: NaN, or of shape {found.shape}, expected a number for each of {members} members")
        above = found > target
        bounds = np.where(np.stack([above, ~above]), middle, bounds)
    return np.exp(bounds.mean(0))


# How wrong it is


def untouched(logits: Logits, original: Logits) -> float:
    """The share of examples that every member still answers exactly as before.

    Raises:
        ValueError: if a logit is not finite, or the two are of other members, examples or classes.
    """
    axes = "members examples classes"
    now, before = checks.numbers("logits", logits, axes), checks.numbers("original", original, axes)
    checks.alike("logits", now, "original", before, 0)
    return float((now == before).all((0, 2)).mean())


def memory(
    margins: Float[Any, "members examples"], oracle: Float[Any, "oracles examples"], direction: Float[Any, " examples"]
) -> float:
    """How much is left of what the original models remember: `<m - o, d> / <d, d>`.

    m and o are the mean margins of the members and of the retrained models, and the direction d is the original models' mean
    margin on F minus the retrained ones'. 0 is as retraining, 1 as doing nothing; below 0, F is avoided. The examples that were
    memorised most count most.

    Args:
        margins: of the members, on F or on images like those of F.
        oracle: of the retrained models, on the same images.
        direction: d, on F itself; not all 0.

    Raises:
        ValueError: if a value is not finite, the three are of other examples, or the original models remember nothing.
    """
    margins, oracle = checks.numbers("margins", margins, "members examples"), checks.numbers("oracle", oracle, "oracles examples")
    d = checks.numbers("direction", direction, "examples")
    checks.alike("margins", margins, "oracle", oracle)
    checks.alike("direction", d, "margins", margins[0], 0)
    if not d.any():
        raise ValueError("direction: all 0, expected what the original models say and retrained ones do not")
    scale = unit(d)
    d = d / scale
    return float((np.mean(margins, axis=0) - np.mean(oracle, axis=0)) / scale @ d / (d @ d))


def agreement(logits: Logits, oracle: Float[Any, "oracles examples classes"], labels: Int[Any, " examples"]) -> float:
    """The share of answers that are the retrained models', on the examples which those answer otherwise than labelled.

    These are the examples that had to be memorised, and on which forgetting shows. The retrained models' answer is the
    largest of their mean probabilities.

    Returns:
        A number in 0..1, NaN if there are no such examples.

    Raises:
        ValueError: if a logit is not finite, the two are of other examples or classes, or a label is no class.
    """
    own = checks.numbers("logits", logits, "members examples classes")
    checks.alike("logits", own, "oracle", checks.logits("oracle", oracle))
    expected = probabilities(oracle).mean(0).argmax(-1)
    forgotten = expected != checks.labels("labels", labels, *own.shape[1:])
    return float((own.argmax(-1) == expected)[:, forgotten].mean()) if forgotten.any() else float("nan")
