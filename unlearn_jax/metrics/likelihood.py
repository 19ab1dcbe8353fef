"""Likelihood-ratio attacks: was an example in the training set of a model, according to its φ (`scaled_logits`)?

A *population* of members, each trained on a random half of the examples, gives for every example the distribution of φ in
models that trained on it and in models that did not. `lira` attacks the models as trained, `u_lira` the models after unlearning:
examples that it still detects have not been forgotten.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from unlearn_jax.metrics import checks
from unlearn_jax.metrics.null import Null, summarise
from unlearn_jax.types import Interval

FEWEST = 3  # members on each side: a variance needs two besides the one under attack
FLOOR = 1e-6  # floor of a variance, as a share of the variance of both sides together
RESAMPLES = 1_000  # number of bootstrap resamples
BLOCK = 2**22  # weights of scores in memory at a time
FALSE_POSITIVE_RATES = 10.0 ** (np.arange(-50, 1) / 10)  # 0.001% to 100%
AT_0_1, AT_1 = 20, 30  # indices of 0.1% and 1%
REPORTED = (0, 1, 2 + AT_1, 2 + AT_0_1)  # columns of `_measure` for `MEASURES`


class Attack(NamedTuple):
    """How well a likelihood-ratio attack detects which member trained on which target.

    Guessing gives 1/2, or a true positive rate equal to the false positive rate. There is a score for each member and target; one
    threshold is used for all. A true positive rate is that of the lowest threshold with at most the given false positive rate,
    and NaN if that rate allows less than one false positive: 0.1% needs 1,000 scores of members that never saw the target.

    Attributes:
        ratios: log likelihood ratio of each score, in nats; above 0 the attack predicts "trained on".
        auc: area under the ROC curve, ties counting half.
        balanced_accuracy: mean of true positive and true negative rate at a log ratio of 0.
        tpr_at_1: true positive rate at a false positive rate of 1%.
        tpr_at_0_1: true positive rate at a false positive rate of 0.1%.
        roc: true positive rate at each of `FALSE_POSITIVE_RATES`.
        example_accuracy: balanced accuracy, at a log ratio of 0, of each target alone; NaN if a side is empty.
    """

    ratios: Float[np.ndarray, "members targets"]
    auc: Interval
    balanced_accuracy: Interval
    tpr_at_1: Interval
    tpr_at_0_1: Interval
    roc: Float[np.ndarray, " rates"]
    example_accuracy: Float[np.ndarray, " targets"]


class AttackNull(NamedTuple):
    """The null of each measure, that is, its score on a perfect method; and the draws of the AUC, for a joint band."""

    auc: Null
    balanced_accuracy: Null
    tpr_at_1: Null
    tpr_at_0_1: Null
    roc: Float[np.ndarray, "2 rates"]  # 2.5% and 97.5% quantiles
    auc_draws: Float[np.ndarray, " splits"]


MEASURES = ("auc", "balanced_accuracy", "tpr_at_1", "tpr_at_0_1")
RIDGE = 1e-3  # of a correlation matrix, for columns that nearly say the same


class Gaussians(NamedTuple):
    """A Gaussian for each target, whose columns are correlated in the same way for all targets."""

    mean: Float[np.ndarray, "targets columns"]
    variance: Float[np.ndarray, "targets columns"]
    correlation: Float[np.ndarray, "columns columns"]

    def log_densities(self, values: Float[Any, "members targets columns"]) -> Float[np.ndarray, "members targets"]:
        """The log density of each member's columns on each target."""
        values = checks.numbers("values", values, "members targets columns")
        checks.alike("values", values[0], "mean", self.mean, 0)
        root = np.linalg.cholesky(self.correlation)
        scaled = (values - self.mean) / np.sqrt(self.variance)
        white = np.linalg.solve(root, scaled.reshape(-1, scaled.shape[-1]).T)
        size = (white**2).sum(0).reshape(scaled.shape[:2])
        constant = scaled.shape[-1] * np.log(2 * np.pi) + 2 * np.log(np.diagonal(root)).sum()
        return -(size + np.log(self.variance).sum(-1) + constant) / 2


def lira(
    phi: Float[Any, "members targets"],
    trained_on: Bool[Any, "members targets"],
    *,
    shared_variance: bool = False,
    judged: Bool[Any, "members targets"] | None = None,
    seed: int = 0,
) -> Attack:
    """The likelihood-ratio attack on each member, by Gaussians fitted to the others.

    A score is `log N(φ; μ_in, σ²_in) - log N(φ; μ_out, σ²_out)`, with the mean and variance of φ on target x over the *other*
    members that trained on x, and over the other members that did not. Since the member under attack is in neither fit, the fit
    of its side has one member fewer, and guessing scores a little below 1/2: see `u_lira_null`.

    Deviations from the authors' code: means instead of medians; unbiased variances instead of dividing by n; and a shared
    variance is the mean over targets of the variances within a side. The authors take the variance of all φ together, in which
    differences between targets hide those within a target.

    Args:
        phi: φ of each member on each target.
        trained_on: which member trained on which target; each target needs three members with it and three without.
        shared_variance: one variance per side for all targets (better with few members) instead of one for each target.
        judged: the scores to evaluate; by default all. The Gaussians are always fitted to all.
        seed: draws the bootstrap, which resamples members but does not refit the Gaussians.

    Returns:
        The scores, and how well they detect training.

    Raises:
        ValueError: if φ is not finite, `trained_on` or `judged` is not boolean or of another shape, or a target has fewer than
            three members with or without it.

    Source: Carlini et al., "Membership Inference Attacks From First Principles", arXiv:2112.03570.
    """
    trained_on, judged = _masks(trained_on, judged)
    ratios = likelihood_ratios(phi, trained_on, shared_variance=shared_variance)
    members = len(ratios)
    drawn = checks.generator(seed).multinomial(members, np.full(members, 1 / members), RESAMPLES)
    measured = _measure(ratios, trained_on, judged, np.ones((1, members)), FALSE_POSITIVE_RATES)[0]
    resampled = _measure(ratios, trained_on, judged, drawn, FALSE_POSITIVE_RATES[[AT_1, AT_0_1]])
    ends = [_quantiles(column) for column in resampled.T]
    values = zip(MEASURES, measured[list(REPORTED)], ends, strict=True)
    intervals = {name: Interval(float(value), float(low), float(high)) for name, value, (low, high) in values}
    accuracy = _example_accuracy(ratios, trained_on, judged)
    return Attack(ratios=ratios, **intervals, roc=measured[2:], example_accuracy=accuracy)


def u_lira(
    unlearned: Float[Any, "members targets"],
    never_saw: Float[Any, "members targets"],
    trained_on: Bool[Any, "members targets"],
    *,
    shared_variance: bool = False,
    judged: Bool[Any, "members targets"] | None = None,
    seed: int = 0,
) -> Attack:
    """The likelihood-ratio attack on unlearned models: do they still differ from models that never saw x?

    This is `lira` on the unlearned φ of members that had trained on a target, and the never-saw φ of members that had not.
    Member i trained on its half D_i and then unlearned T ∩ D_i, where T is all targets. The never-saw side has two forms:

    * `never_saw = unlearned`: members that unlearned their own T ∩ D_i, without x. Both sides have the method's general effect
      on a model, so the attack detects only traces of x itself.
    * `never_saw` from members retrained on D_i minus T: the definition of unlearning. The attack detects all differences from
      retrained models, traces of x as well as damage.

    Args:
        unlearned: φ of each member after unlearning; only targets that the member trained on are used.
        never_saw: φ of as many members that never saw the targets; only targets outside the member's half are used.
        trained_on: which half contains which target; each target needs three halves with it and three without.
        shared_variance: see `lira`.
        judged: see `lira`.
        seed: see `lira`.

    Returns:
        The scores, and how well they distinguish both sides. Compare them with `u_lira_null`.

    Raises:
        ValueError: see `lira`.

    Source: Hayes et al., "Inexact Unlearning Needs More Careful Evaluations to Avoid a False Sense of Privacy",
        arXiv:2403.01218.
    """
    sides = {"unlearned": unlearned, "never_saw": never_saw}
    one, other = (checks.numbers(name, side, "members targets") for name, side in sides.items())
    trained_on, _ = _masks(trained_on, judged)
    checks.alike("unlearned", one, "never_saw", other, 0)
    checks.alike("unlearned", one, "trained_on", trained_on, 0)
    mixed = np.where(trained_on, one, other)
    return lira(mixed, trained_on, shared_variance=shared_variance, judged=judged, seed=seed)


def u_lira_null(
    retrained: Float[Any, "replicates members targets"],
    trained_on: Bool[Any, "members targets"],
    *,
    same_models: bool,
    shared_variance: bool = False,
    judged: Bool[Any, "members targets"] | None = None,
    splits: int = 100,
    seed: int = 0,
) -> AttackNull:
    """The null of `u_lira` (or `lira`): retrained members against retrained members, none of which saw a target.

    In each split the members exchange their rows of `trained_on`, so that every target is "in" half of the members, none of
    which saw it: the same numbers as in the attack. The models of a member are replicates of its retraining on D_i minus T, drawn
    at random. With `same_models` one replicate serves both sides, as when both sides unlearned; otherwise each side has its own,
    as when the never-saw side was retrained separately. The splits depend only on the seed.

    Args:
        retrained: φ of the replicates; two or more replicates unless `same_models`.
        trained_on: see `u_lira`.
        same_models: whether both sides of the attack come from the same models.
        shared_variance: see `lira`.
        judged: see `lira`.
        splits: number of random splits.
        seed: draws the splits.

    Returns:
        Mean, standard deviation and quantiles of each measure; NaN if undefined, see `Attack`.

    Raises:
        ValueError: if φ is not finite, there are too few replicates, or a target has fewer than three members with or without
            it.
    """
    retrained = checks.numbers("retrained", retrained, "replicates members targets")
    trained_on, judged = _masks(trained_on, judged)
    checks.alike("retrained", retrained[0], "trained_on", trained_on, 0)
    checks.count("splits", splits, 2)
    replicates, members, _ = retrained.shape
    if replicates < 2 - same_models:
        raise ValueError("retrained: 1 replicate, expected two or more, or same_models=True")
    rng = checks.generator(seed)
    draws = []
    for _ in range(splits):
        labels = trained_on[rng.permutation(members)]
        chosen = rng.permuted(np.tile(np.arange(replicates), (members, 1)), axis=1)
        first, second = (retrained[chosen[:, side], np.arange(members)] for side in (0, 0 if same_models else 1))
        ratios = likelihood_ratios(np.where(labels, first, second), labels, shared_variance=shared_variance)
        draws.append(_measure(ratios, labels, judged, np.ones((1, members)), FALSE_POSITIVE_RATES)[0])
    drawn = np.array(draws)
    nulls = {name: _summarise(drawn[:, column]) for name, column in zip(MEASURES, REPORTED, strict=True)}
    roc = np.stack([_quantiles(column) for column in drawn[:, 2:].T], axis=1)
    return AttackNull(**nulls, roc=roc, auc_draws=drawn[:, 0])


def likelihood_ratios(
    phi: Float[Any, "members targets"], trained_on: Bool[Any, "members targets"], *, shared_variance: bool = False
) -> Float[np.ndarray, "members targets"]:
    """The scores of `lira`: the log likelihood ratio of "trained on it" against "never saw it", in nats.

    Variances are at least a millionth of the variance of both sides together, since smaller ones may be rounding errors. Adding a
    constant to φ, or scaling it, changes nothing.

    Args:
        phi: see `lira`.
        trained_on: see `lira`.
        shared_variance: see `lira`.

    Raises:
        ValueError: see `lira`.
    """
    phi, (trained_on, _) = checks.numbers("phi", phi, "members targets"), _masks(trained_on, None)
    checks.alike("phi", phi, "trained_on", trained_on, 0)
    _require_sides(trained_on)
    phi = phi - np.median(phi, axis=0)  # keeps the precision of sums of squares if φ is far from 0
    floor = FLOOR * _shared(_leave_one_out(phi, np.ones_like(trained_on))[1], shared_variance)

    def log_density(side: np.ndarray) -> np.ndarray:
        mean, variance = _leave_one_out(phi, side)
        variance = np.maximum(_shared(variance, shared_variance), floor)
        variance = np.where(variance > 0, variance, 1)  # all others agree: both densities are equal
        return -((phi - mean) ** 2 / variance + np.log(variance)) / 2

    return log_density(trained_on) - log_density(~trained_on)


def vector_ratios(
    shadows: Float[Any, "shadows targets columns"],
    trained_on: Bool[Any, "shadows targets"],
    attacked: Float[Any, "members targets columns"],
) -> Float[np.ndarray, "members targets"]:
    """The log likelihood ratio of `likelihood_ratios`, for several characteristics of a model, and models outside the fits.

    A mean and a variance for each target, column and side, and one correlation matrix for each side, of all targets together: a
    matrix for each target would take far more shadow models than there are columns.

    Args:
        shadows: the characteristics of models whose training sets are known.
        trained_on: which of them trained on which target; each target needs three with it and three without.
        attacked: the characteristics of other models.

    Returns:
        Nats; above 0 for "trained on it".

    Raises:
        ValueError: a value is not finite, shapes differ, or a target has fewer than three shadow models with it or without.
    """
    shadows = checks.numbers("shadows", shadows, "shadows targets columns")
    attacked, (trained_on, _) = checks.numbers("attacked", attacked, "members targets columns"), _masks(trained_on, None)
    checks.alike("trained_on", trained_on, "shadows", shadows[..., 0], 0)
    checks.alike("attacked", attacked, "shadows", shadows)
    _require_sides(trained_on)
    centre = np.median(shadows, axis=0)
    shadows, attacked = shadows - centre, attacked - centre
    floor = FLOOR * shadows.var(axis=0, ddof=1)
    seen, unseen = (_gaussians(shadows, side, floor) for side in (trained_on, ~trained_on))
    return seen.log_densities(attacked) - unseen.log_densities(attacked)


def resampled_attack(
    ratios: Float[Any, "members targets"],
    trained_on: Bool[Any, "members targets"],
    drawn: Float[Any, "resamples members"],
    judged: Bool[Any, "members targets"] | None = None,
) -> Float[np.ndarray, "resamples 2"]:
    """AUC and true positive rate at a false positive rate of 1% of scores, for each weighting of the members.

    Two attacks with the same weightings are compared in pairs.

    Args:
        ratios: scores, above for "trained on".
        trained_on: what is true.
        drawn: how often each member counts.
        judged: the scores to evaluate; by default all.

    Raises:
        ValueError: a score or weight is not finite, a mask is not boolean, or the shapes differ.
    """
    ratios, (trained_on, judged) = checks.numbers("ratios", ratios, "members targets"), _masks(trained_on, judged)
    drawn = checks.numbers("drawn", drawn, "resamples members", low=0)
    checks.alike("trained_on", trained_on, "ratios", ratios, 0)
    checks.alike("drawn", drawn[0], "ratios", ratios[:, 0], 0)
    return _measure(ratios, trained_on, judged, drawn, FALSE_POSITIVE_RATES[[AT_1]])[:, [0, 2]]


def _gaussians(values: np.ndarray, side: np.ndarray, floor: np.ndarray) -> Gaussians:
    """Fits one side."""
    held = side[..., None].astype(float)
    count = held.sum(0)
    mean = (held * values).sum(0) / count
    variance = np.maximum((held * (values - mean) ** 2).sum(0) / (count - 1), floor)
    variance = np.where(variance > 0, variance, 1)  # a column that never varies says nothing
    columns = values.shape[-1]
    flat = (held * (values - mean) / np.sqrt(variance)).reshape(-1, columns)
    covariance = flat.T @ flat / len(flat)
    spread = np.sqrt(np.diagonal(covariance))
    spread = np.where(spread > 0, spread, 1)
    correlation = covariance / np.outer(spread, spread) * (1 - RIDGE)
    np.fill_diagonal(correlation, 1.0)
    return Gaussians(mean, variance, correlation)


def _require_sides(trained_on: np.ndarray) -> None:
    counts = trained_on.sum(0)
    if min(counts.min(), len(trained_on) - counts.max()) < FEWEST:
        raise ValueError(f"trained_on: each target needs at least {FEWEST} members that trained on it, and {FEWEST} that did not")


def offline_scores(
    phi: Float[Any, "models targets"], out: Float[Any, "others targets"], saw: Bool[Any, "others targets"] | None = None
) -> Float[np.ndarray, "models targets"]:
    """How far above the φ of models that never saw it a target's φ is: `(φ - mean) / sd`, over these models.

    The offline form of the attack: it needs no models that trained on the target, and takes a large φ for membership. The
    authors' one-sided probability is an increasing function of it.

    Args:
        phi: φ of each attacked model on each target.
        out: φ of the others.
        saw: which of the others trained on which target, and do not count there; by default none did.

    Raises:
        ValueError: φ is not finite, the sides are of other targets, or a target has fewer than two others that never saw it.

    Source: Carlini et al., arXiv:2112.03570, section V-D.
    """
    phi, out = checks.numbers("phi", phi, "models targets"), checks.numbers("out", out, "others targets")
    checks.alike("out", out, "phi", phi)
    counted = np.ones(out.shape, bool) if saw is None else ~checks.truths("saw", saw, "others targets")
    checks.alike("saw", counted, "out", out, 0)
    count = counted.sum(0)
    if count.min() < 2:
        raise ValueError(f"out: a target has {count.min()} models that never saw it, expected two or more")
    mean = np.where(counted, out, 0).sum(0) / count
    squares = np.where(counted, (out - mean) ** 2, 0).sum(0) / (count - 1)
    return (phi - mean) / np.sqrt(np.maximum(squares, FLOOR * squares.mean() + np.finfo(float).tiny))


def unlearned_ratios(
    unlearned: Float[Any, "models targets"], retrained: Float[Any, "others targets"]
) -> tuple[Float[np.ndarray, "models targets"], Float[np.ndarray, "others targets"]]:
    """The log likelihood ratio of "unlearned" against "retrained" for every model and target: RULI's test of efficacy.

    A Gaussian for each target and side, fitted to the *other* models of that side, see `likelihood_ratios`. With the authors'
    privacy test the other side is unlearned models that never saw the target: that is `u_lira`.

    Deviation: the authors' code has kernel densities of a bandwidth of 1, and shadow models beside the attacked one; here the
    attacked models are each other's shadow models.

    Args:
        unlearned: φ of each unlearned model on each forget example, three models or more.
        retrained: φ of models retrained without the forget set, three or more.

    Returns:
        Nats for the unlearned and for the retrained models; above 0 for "unlearned".

    Raises:
        ValueError: φ is not finite, the sides are of other targets, or there are fewer than three models on one.

    Source: RULI, Naderloui et al., arXiv:2506.13009: its abstract, and its code (github.com/datasec-lab/Ruli).
    """
    sides = [checks.numbers(name, s, "models targets") for name, s in (("unlearned", unlearned), ("retrained", retrained))]
    checks.alike("retrained", sides[1], "unlearned", sides[0])
    phi, count = np.concatenate(sides), len(sides[0])
    ratios = likelihood_ratios(phi, np.broadcast_to((np.arange(len(phi)) < count)[:, None], phi.shape))
    return ratios[:count], ratios[count:]


def auc(member: Float[Any, "models _members"], non_member: Float[Any, "models _others"]) -> Float[np.ndarray, " models"]:
    """The chance, in each model, that a member scores higher than a non-member; ties count half.

    Args:
        member: scores of members.
        non_member: of non-members.

    Raises:
        ValueError: a score is not finite, or the sides are of other models.
    """
    given = (("member", member), ("non_member", non_member))
    sides = [checks.numbers(name, scores, "models examples") for name, scores in given]
    if len(sides[0]) != len(sides[1]):
        raise ValueError(f"non_member: {len(sides[1])} models, expected {len(sides[0])} as in member")
    members, others = (side.shape[1] for side in sides)
    ranks = rankdata(np.concatenate(sides, axis=1), axis=1)[:, :members]
    return (ranks.mean(axis=1) - (members + 1) / 2) / others


def _masks(trained_on: Any, judged: Any) -> tuple[np.ndarray, np.ndarray]:
    """Checks both masks; by default all scores are judged."""
    trained_on = checks.truths("trained_on", trained_on, "members targets")
    judged = np.ones_like(trained_on) if judged is None else checks.truths("judged", judged, "members targets")
    checks.alike("judged", judged, "trained_on", trained_on, 0)
    return trained_on, judged


def _shared(variance: np.ndarray, shared: bool) -> np.ndarray:
    return variance.mean(1, keepdims=True) if shared else variance


def _leave_one_out(values: np.ndarray, side: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased variance over one side, without the member itself: two arrays `[members, targets]`."""
    on_side = np.where(side, values, 0)
    count, total, squares = (_sum_of_others(part) for part in (side.astype(float), on_side, on_side**2))
    mean = total / count
    return mean, np.maximum(squares - total * mean, 0) / (count - 1)


def _sum_of_others(values: Float[np.ndarray, "members targets"]) -> Float[np.ndarray, "members targets"]:
    """The sum over the other members, as a sum before and a sum after: subtracting a huge value would lose the rest."""
    before, after = (np.pad(np.cumsum(part, axis=0), ((1, 0), (0, 0))) for part in (values[:-1], values[:0:-1]))
    return before + after[::-1]


def _measure(
    ratios: np.ndarray, trained_on: np.ndarray, judged: np.ndarray, weights: np.ndarray, rates: np.ndarray
) -> Float[np.ndarray, "resamples measures"]:
    """AUC, balanced accuracy and the true positive rate at each false positive rate; member i has weight `weights[:, i]`."""
    sides = []
    for side in (judged & trained_on, judged & ~trained_on):
        order = np.argsort(-ratios[side], kind="stable")
        sides.append((-ratios[side][order], np.nonzero(side)[0][order]))
    (positive, _), (negative, _) = sides  # minus the ratios, so in rising order
    # Number of positives above each negative, without and with those equal to it; after the last negative, all.
    above, level = (np.append(positive.searchsorted(negative, where), len(positive)) for where in ("left", "right"))
    predicted = [values.searchsorted(0, "left") for values in (positive, negative)]
    resolved = len(negative) * rates >= 1
    measures = []
    step = max(1, BLOCK // max(1, len(positive) + len(negative)))
    for start in range(0, len(weights), step):
        weight = weights[start : start + step]
        true, false = (np.cumsum(np.pad(weight[:, member], ((0, 0), (1, 0))), axis=1) for _, member in sides)
        full = (true[:, -1:] > 0) & (false[:, -1:] > 0)
        true, false = (counts / np.maximum(counts[:, -1:], 1) for counts in (true, false))
        balanced = (true[:, predicted[0]] + 1 - false[:, predicted[1]]) / 2
        auc = (np.diff(false, axis=1) * (true[:, above[:-1]] + true[:, level[:-1]])).sum(1) / 2
        passed = np.array([row[1:].searchsorted(rates * (1 + 1e-12), "right") for row in false])
        tpr = np.where(resolved, np.take_along_axis(true, above[passed], axis=1), np.nan)
        measures.append(np.where(full, np.column_stack([auc, balanced, tpr]), np.nan))
    return np.concatenate(measures)


def _example_accuracy(ratios: np.ndarray, trained_on: np.ndarray, judged: np.ndarray) -> Float[np.ndarray, " targets"]:
    rates = []
    for side, right in ((judged & trained_on, ratios > 0), (judged & ~trained_on, ratios <= 0)):
        count = side.sum(0)
        rates.append(np.where(count > 0, (side & right).sum(0) / np.maximum(count, 1), np.nan))
    return (rates[0] + rates[1]) / 2


def _summarise(draws: np.ndarray) -> Null:
    known = draws[np.isfinite(draws)]
    return summarise(known) if len(known) > 1 else Null(*[float("nan")] * 4)


def _quantiles(draws: np.ndarray) -> np.ndarray:
    known = draws[np.isfinite(draws)]
    return np.quantile(known, (0.025, 0.975)) if len(known) else np.full(2, np.nan)
