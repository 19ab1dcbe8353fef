"""How a metric can be gamed: answers that score like retraining but are plainly wrong.

A *cheat* is a pure function from what its author has (`Known`) to the answers that it submits. It stands for a wrapper that
recognises the examples of the forget set F and answers them from a table, while the model inside still contains F. Three numbers
measure how wrong that is: `untouched`, `memory` and `agreement`. Whoever publishes a metric should know what passes it.

Most metrics are easy to game. Nearly every one is a mean over the examples of F: if one table scores too high and another too
low, some blend of the two has the published score (`least_change`, `deal`), whatever it answers on single examples.
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
Answer = Callable[..., Cube]  # from a random generator and a `Known`
FLAT = 8.0  # a temperature at which no answer is confident
NARROW = 0.7  # share of the retrained models' spread
SLACKS = (0.5, 1.0, 1.5, 2.0)  # null standard deviations by which a blend may miss; the first feasible one is used
COUNTS = (2, 4, 8, 16)  # numbers of retrained models that a cheat uses


class Known(NamedTuple):
    """What the author of a cheat has.

    Attributes:
        originals: logits of the author's models, trained on everything.
        labels: of the splits.
        nearest: for each example of F, the rows of the nearest images of the retain split.
        retrained: logits on F of models that the author retrained; each cheat states how many it uses.
        published: nulls (scores of retrained models), by metric and split.
        scores: of cheats submitted before, by name.
    """

    originals: Cube
    labels: Labels
    nearest: Int[Any, "forget nearest"]
    retrained: Logits
    published: Mapping[Name, Null]
    scores: Mapping[str, Mapping[Name, float]]

    def with_forget(self, forget: Logits) -> Cube:
        """The originals' logits, with `forget` on F."""
        return self.originals._replace(forget=forget)

    def with_accuracies(self, forget: Logits) -> Cube:
        """`forget` on F, and the originals' logits on retain and test changed to the published accuracies."""
        return Cube(forget, *(self.as_published(split) for split in ("retain", "test")))

    def as_published(self, split: str) -> Table:
        """The originals' logits on a split, changed to the published accuracy."""
        wanted = self.published[catalogue.accuracy.on(split)].mean
        return match_accuracy(getattr(self.originals, split), getattr(self.labels, split), wanted)


class Cheat(NamedTuple):
    """One way to game metrics.

    Attributes:
        answer: makes the submitted logits, with a random generator.
        targets: the metrics that it is made for; empty if it is only used in blends.
        needs: what its author needs besides models and training set.
        retrained: how many models its author must retrain; None: one for each member.
        summary: one line.
    """

    answer: Answer
    targets: tuple[Name, ...]
    needs: str
    retrained: int | None
    summary: str


CHEATS: dict[str, Cheat] = {}
DISTANCES = tuple(metric for metric in METRICS.values() if metric.kind == DISTANCE)
HISTOGRAMS = (catalogue.klom, catalogue.klom_p95)
ON_FORGET = tuple(metric.on("forget") for metric in (*HISTOGRAMS, catalogue.forgetting_quality))
NOT_FORGET = (
    *(metric.on(split) for metric in HISTOGRAMS for split in ("retain", "test")),
    *(metric.on("test") for metric in DISTANCES),
    catalogue.weight_distance.on("all"),
)
ACCURACIES = tuple(catalogue.accuracy.on(split) for split in Cube._fields)
WITH_ACCURACIES = (  # for cheats that also have the published accuracies on retain and test
    *ACCURACIES[1:],
    *(metric.on("all") for metric in (catalogue.tow, catalogue.tow_mia, catalogue.average_gap)),
)
EVERYTHING = (
    *ON_FORGET,
    *(metric.on("forget") for metric in (*DISTANCES, catalogue.zrf)),
    ACCURACIES[0],
    *WITH_ACCURACIES,
    catalogue.competition_score.on("all"),
)
NOT_MEANS = (  # over the examples of F: a percentile, and an attack trained on F
    catalogue.klom_p95.on("forget"),
    catalogue.logistic_mia.on("forget"),
)
TABLES = ("original", "exchanged", "flattened", "guessed", "neighbours", "averaged_2", "narrowly_drawn_8")  # to be blended


def cheat(
    *targets: Name, needs: str = "nothing", retrained: int | None = 0, counts: Sequence[int] = ()
) -> Callable[[Answer], Answer]:
    """Registers a cheat under its function's name, or as `<name>_<count>`, called with the count, for each of `counts`."""

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
    """F: the runner-up class, with the confidence of the first one."""
    return known.with_forget(runner_up(known.originals.forget))


@cheat()
def flattened(rng: np.random.Generator, known: Known) -> Cube:
    """F: the same class, with little confidence (temperature 8)."""
    return known.with_forget(np.asarray(known.originals.forget) / FLAT)


@cheat()
def guessed(rng: np.random.Generator, known: Known) -> Cube:
    """F: the runner-up class, with little confidence."""
    return known.with_forget(runner_up(known.originals.forget) / FLAT)


@cheat(*(metric.on("forget") for metric in DISTANCES), needs="R")
def neighbours(rng: np.random.Generator, known: Known) -> Cube:
    """F: the mean logits on the nearest retained images."""
    return known.with_forget(np.asarray(known.originals.retain)[:, np.asarray(known.nearest)].mean(2))


@cheat(*ACCURACIES, catalogue.tow.on("all"), needs="published accuracies")
def accuracies(rng: np.random.Generator, known: Known) -> Cube:
    """Everywhere: the least confident answers made wrong, or right, until the accuracies are the published ones."""
    return known.with_accuracies(known.as_published("forget"))


@cheat(counts=COUNTS[:1])
def averaged(rng: np.random.Generator, known: Known, count: int) -> Cube:
    """F: the retrained models' mean logits, the same from every member."""
    mean = np.asarray(known.retrained)[:count].mean(0, keepdims=True)
    return known.with_forget(np.repeat(mean, len(known.originals.forget), axis=0))


@cheat(*EVERYTHING, counts=COUNTS)
def drawn(rng: np.random.Generator, known: Known, count: int) -> Cube:
    """F: draws from a Gaussian fitted to each example's margins over retrained models; elsewhere as `accuracies`."""
    return known.with_accuracies(_draw(rng, known, count, 1.0))


@cheat(counts=COUNTS[2:3])
def narrowly_drawn(rng: np.random.Generator, known: Known, count: int) -> Cube:
    """F: as `drawn`, with 0.7 of the spread."""
    return known.with_forget(_draw(rng, known, count, NARROW))


@cheat(*EVERYTHING, needs="a retrained model for each member", retrained=None)
def lookup(rng: np.random.Generator, known: Known) -> Cube:
    """F: a table of the retrained models' answers; elsewhere as `accuracies`."""
    return known.with_accuracies(np.asarray(known.retrained)[: len(known.originals.forget)])


def make_blends(known: Known) -> dict[str, Cheat]:
    """Blends of tables that bring a metric on F to its published value while changing as little of F as possible.

    There is one for each metric that is a mean over examples and can be matched, named `blend_<metric>`. `rates` matches all
    accuracies, membership attacks and their combinations at once, from tables that need no retrained model.

    Args:
        known: its `scores` must have those of the tables, which determine the shares.
    """
    tables = [name for name in TABLES if name in known.scores]
    free = [name for name in tables if CHEATS[name].retrained == 0]
    single = [name for name in known.published if name[1] == "forget" and name not in NOT_MEANS]
    rates = tuple(name for name in single if name in ACCURACIES or is_attack(name[0]))
    candidates = {f"blend_{name[0]}": _make_blend((name,), tables, known) for name in single}
    joint = _make_blend(rates, free, known)
    if joint is not None:
        candidates["rates"] = joint._replace(
            answer=lambda rng, known: known.with_accuracies(joint.answer(rng, known).forget), targets=(*rates, *WITH_ACCURACIES)
        )
    return {name: made for name, made in candidates.items() if made is not None}


def _make_blend(metrics: tuple[Name, ...], tables: Sequence[str], known: Known) -> Cheat | None:
    """The blend that brings metrics to their published values; None if there is none, or if one table suffices."""
    values = np.array([[known.scores[table][metric] for table in tables] for metric in metrics])
    means, sds = (np.array([getattr(known.published[metric], field) for metric in metrics]) for field in ("mean", "sd"))
    tried = (least_change(values, means, slack * sds) for slack in SLACKS)
    shares = next((solution for solution in tried if solution is not None), np.zeros(0))
    used = {table: float(share) for table, share in zip(tables, shares, strict=False) if share > 0.005}
    if len(used) < 2:
        return None
    retrained = max(CHEATS[table].retrained or 0 for table in used)
    summary = "F: " + ", ".join(f"{100 * share:.0f}% {table}" for table, share in used.items()) + "."
    return Cheat(partial(_apply_blend, shares=used), metrics, "scores of what is blended", retrained, summary)


def _apply_blend(rng: np.random.Generator, known: Known, shares: dict[str, float]) -> Cube:
    tables = [CHEATS[name].answer(rng, known).forget for name in shares]
    return known.with_forget(blend(rng, tables, np.array([*shares.values()]) / sum(shares.values())))


def _draw(rng: np.random.Generator, known: Known, count: int, spread: float) -> Table:
    """Draws from Gaussians fitted to the margins of some retrained models.

    The variance is halfway between an example's and the mean over examples, since few models estimate it badly. Members get the
    quantiles (i + 1/2) / members, permuted for each example: this is closer to the Gaussian than a random sample.
    """
    retrained, members = np.asarray(known.retrained)[:count], len(known.originals.forget)
    phi = scaled_logits(retrained, known.labels.forget)
    variance = phi.var(0, ddof=1)
    sd = spread * np.sqrt((variance + variance.mean()) / 2)
    quantiles = ndtri((np.arange(members) + 0.5) / members)[:, None]
    return with_margins(retrained, known.labels.forget, rng.permuted(phi.mean(0) + sd * quantiles, axis=0))


# The parts of cheats


def runner_up(logits: Logits) -> Table:
    """Exchanges the largest and the second largest logit.

    Raises:
        ValueError: if a logit is not finite, or there is one class only.
    """
    checks.logits("logits", logits)
    logits = np.array(logits)
    top = np.argpartition(logits, -2, axis=-1)[..., -2:]
    np.put_along_axis(logits, top, np.take_along_axis(logits, top[..., ::-1], -1), -1)
    return logits


def match_accuracy(logits: Logits, labels: Int[Any, " examples"], accuracy: float) -> Table:
    """Makes answers wrong, or right, until each member has an accuracy, beginning with the least confident ones.

    A right answer is made wrong by `runner_up`; a wrong one is made right by exchanging its largest logit with the label's.
    Both exchange two similar logits, so that little but the accuracy changes. Without labels, the least confident of all answers
    would do nearly as well.

    Args:
        logits: of the members.
        labels: of the examples.
        accuracy: the target in percent, met to the nearest example.

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
    """Logits with the given margins: those of the model with the nearest margin, with the label's logit shifted.

    Raises:
        ValueError: if a value is not finite, a label is no class, or margins are of other examples.
    """
    labels = checks.labels("labels", labels, *checks.logits("retrained", retrained).shape[1:])
    phi = scaled_logits(retrained, labels)
    margins = checks.numbers("margins", margins, "wanted examples")
    checks.alike("margins", margins, "retrained", phi)
    closest = np.abs(margins[:, None] - phi).argmin(1)
    example = np.arange(len(labels))
    logits = np.asarray(retrained, np.float64)[closest, example]
    logits[:, example, labels] += margins - phi[closest, example]
    return logits


def nearest(
    images: Float[Any, "examples *image"], among: Float[Any, "rows *image"], count: int
) -> Int[np.ndarray, "examples count"]:
    """The `count` rows of `among` at the least Euclidean distance from each image, the nearest first.

    Raises:
        ValueError: if a value is not finite, the images are of other sizes, or `count` is not from 1 to the number of rows.
    """
    checks.count("count", count, 1, len(among))
    a, b = (
        checks.numbers(name, value, "examples ...").reshape(len(value), -1)
        for name, value in (("images", images), ("among", among))
    )
    checks.alike("images", a, "among", b)
    squares = squared_distances(a, b)
    return np.argsort(squares, axis=1, kind="stable")[:, :count]


def least_change(
    values: Float[Any, "metrics tables"], targets: Float[Any, " metrics"], slack: Float[Any, " metrics"]
) -> Float[np.ndarray, " tables"] | None:
    """The shares of the blend with the largest share of the first table, by linear programming.

    Maximises s_0 where |Σ_j s_j values_j - targets| ≤ slack, Σ_j s_j = 1 and s_j ≥ 0. A blend scores Σ_j s_j values_j if the
    metric is a mean over examples, and the examples of each table are like all others.

    Args:
        values: the score of each table alone.
        targets: the scores that the blend must have.
        slack: by how much it may miss them.

    Returns:
        The shares, or None if no blend has these scores.

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
    solution = linprog(
        -np.eye(tables)[0],
        A_ub=np.concatenate([values, -values]),
        b_ub=np.concatenate([targets + slack, slack - targets]),
        A_eq=np.ones((1, tables)),
        b_eq=[1.0],
        bounds=(0, 1),
    )
    return np.clip(solution.x, 0, 1) if solution.success else None


def deal(
    rng: np.random.Generator, shares: Float[Any, " tables"], change: Float[Any, " examples"], draws: int = 100
) -> Int[np.ndarray, " examples"]:
    """Assigns a table to each example at random, so that each table also has its share of the total change.

    Few examples often dominate scores on F. Of many random deals the one is returned in which the tables' sums of `change` are
    closest to their shares, by `Σ_j |Σ_{x of j} change_x - share_j Σ_x change_x|`.

    Args:
        rng: draws the deals.
        shares: of the tables, summing to 1; a table has its share of the examples, rounded.
        change: how much the tables differ on an example.
        draws: number of deals.

    Raises:
        ValueError: if shares are no shares, or a change is not finite.
    """
    shares, change = checks.probabilities("shares", shares, "tables"), checks.numbers("change", change, "examples")
    checks.count("draws", draws, 1)
    counts = np.diff(np.round(np.cumsum([0, *shares]) * len(change)).astype(int))
    deals = rng.permuted(np.tile(np.repeat(np.arange(len(shares)), counts), (draws, 1)), axis=1)
    held = np.stack([np.where(deals == table, change, 0).sum(1) for table in range(len(shares))], axis=1)
    return deals[np.abs(held - shares * np.sum(change)).sum(1).argmin()]


def blend(rng: np.random.Generator, tables: Sequence[Logits], shares: Float[Any, " tables"]) -> Table:
    """Answers each example from one of the tables, the same for all members; see `deal`.

    Raises:
        ValueError: if a logit is not finite, or there is not one share for each table, adding up to 1.
    """
    checks.probabilities("shares", shares, "tables")
    if len(shares) != len(tables):
        raise ValueError(f"shares: {len(shares)}, expected one for each of {len(tables)} tables")
    p = [probabilities(table) for table in tables]
    change = np.sum([share * kl_to_oracle(p[0], q).mean(0) for share, q in zip(shares, p, strict=True)], axis=0)
    return np.choose(deal(rng, shares, change)[None, :, None], [np.asarray(table, np.float64) for table in tables])


def bisect(
    measure: Callable[[Float[np.ndarray, " members"]], Any], target: float, low: float, high: float, members: int, rounds: int = 8
) -> Float[np.ndarray, " members"]:
    """The knob of each member at which a measure, which falls with the knob, meets a target: bisection on a log scale.

    Args:
        measure: from one knob for each member to one number for each.
        target: the same for all members.
        low: the smallest knob, above 0.
        high: the largest knob.
        members: number of members.
        rounds: of bisection.

    Raises:
        ValueError: if the target is not finite, the ends do not rise from above 0, or a measured value is NaN.
    """
    checks.numbers("target", target)
    checks.numbers("low", low, low=np.finfo(float).tiny)
    checks.numbers("high", high, low=low)
    checks.count("members", members, 1)
    bounds = np.log(np.array([[low] * members, [high] * members]))
    for _ in range(rounds):
        middle = bounds.mean(0)
        measured = np.asarray(measure(np.exp(middle)))
        if measured.shape != (members,) or np.isnan(measured).any():
            raise ValueError(f"measure: NaN, or of shape {measured.shape}, expected a number for each of {members} members")
        above = measured > target
        bounds = np.where(np.stack([above, ~above]), middle, bounds)
    return np.exp(bounds.mean(0))


# How wrong a cheat is


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
    """The share of the originals' memory of F that is left: `<m - o, d> / <d, d>`.

    m and o are the mean margins of the members and of the retrained models; the direction d is the originals' mean margin on F
    minus the retrained models'. 0 is as retraining, 1 as doing nothing; below 0, F is avoided. The most memorised examples count
    most.

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
        raise ValueError("direction: all 0, expected a difference between originals and retrained models")
    scale = unit(d)
    d = d / scale
    return float((np.mean(margins, axis=0) - np.mean(oracle, axis=0)) / scale @ d / (d @ d))


def agreement(logits: Logits, oracle: Float[Any, "oracles examples classes"], labels: Int[Any, " examples"]) -> float:
    """The share of answers equal to the retrained models', on the examples where that answer is not the label.

    These examples had to be memorised, so forgetting shows on them. The retrained models' answer is the class of largest mean
    probability.

    Returns:
        A number in 0..1, NaN if there are no such examples.

    Raises:
        ValueError: if a logit is not finite, the two are of other examples or classes, or a label is no class.
    """
    own_logits = checks.numbers("logits", logits, "members examples classes")
    checks.alike("logits", own_logits, "oracle", checks.logits("oracle", oracle))
    expected = probabilities(oracle).mean(0).argmax(-1)
    forgotten = expected != checks.labels("labels", labels, *own_logits.shape[1:])
    return float((own_logits.argmax(-1) == expected)[:, forgotten].mean()) if forgotten.any() else float("nan")
