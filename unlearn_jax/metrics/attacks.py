"""Membership attacks on single models: which examples were in the training set, inferred from the outputs."""

from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit, logit
from scipy.stats import rankdata

from unlearn_jax.metrics import checks
from unlearn_jax.metrics.scores import entropies, modified_entropies
from unlearn_jax.metrics.statistics import unit, varies

Answers = tuple[Float[Any, "_ classes"], Int[Any, " _"]]  # probabilities and labels of as many examples
FEATURES = ("correctness", "confidence", "entropy", "m_entropy", "prob")
LARGEST = 2_000  # most training examples of `svc_mia` on each side: the cost of an SVC is quadratic
KERNEL = 2**22  # entries of a kernel matrix that are held at a time when predicting
SVC_ROWS = 500  # most training examples of the attacker `svc`
ATTACKERS = ("logistic", "svc", "trees", "neighbours")
FALSE_POSITIVES = 0.01  # share of non-members that `FeatureAttack.tpr` may call members
NEWTON_STEPS = 100  # many more than needed: it stops where the gradient vanishes
HALVINGS = 40  # of a Newton step that goes too far
LEAST = 1e-100  # floor of the spread of the losses: there the penalised slope is 0, and the squared inverse is still finite


class FeatureAttack(NamedTuple):
    """How well a cross-validated attack distinguishes members from non-members.

    Attributes:
        auc: the chance that a member scores higher than a non-member; ties count half.
        accuracy: balanced, the mean of the true positive and the true negative rate.
        tpr: the true positive rate at a false positive rate of at most 1%.
    """

    auc: float
    accuracy: float
    tpr: float


def svc_mia(member: Answers, nonmember: Answers, target: Answers, size: int | None = None, seed: int = 0) -> dict[str, float]:
    """MIA-efficacy: the share of the target (the forget set) that an SVC calls non-member.

    One attack for each feature of the probabilities p: *correctness* (is the largest the label's), *confidence* p_y, *entropy*,
    modified entropy *m_entropy*, and the whole p, *prob*. Each is an SVC(C=3, rbf, gamma="auto") trained on members (a random
    sample of the retain set) against equally many non-members (the test set). Metrics that use a single one, such as SalUn's
    average gap, use *confidence*. The ideal value is that of a retrained model, not 0.5 and not 1.

    Args:
        member: probabilities and labels of retain examples.
        nonmember: of test examples.
        target: of forget examples.
        size: number of examples to train on, on each side; by default as many as there are on both sides, and at most 2,000.
            An SVC with unequal sides calls nearly everything the larger one.
        seed: draws the samples.

    Returns:
        For each feature a number in 0..1.

    Raises:
        ValueError: if probabilities or labels are invalid, or the numbers of classes differ.

    Source: Jia et al., "Model Sparsity Can Simplify Machine Unlearning", arXiv:2304.04934; Fan et al. (SalUn), arXiv:2310.12508.
    """
    from sklearn.svm import SVC

    answers_of = {"member": member, "nonmember": nonmember, "target": target}
    member, nonmember, target = (_check_answers(name, *answers) for name, answers in answers_of.items())
    if len({answers.shape[1] for answers, _ in (member, nonmember, target)}) > 1:
        raise ValueError("member, nonmember, target: different numbers of classes, expected the same")
    if size is not None:
        checks.count("size", size, 1)
    rng = checks.generator(seed)
    sides = []
    size = min(size or LARGEST, len(member[1]), len(nonmember[1]), LARGEST)
    for answers, labels in (member, nonmember):
        rows = rng.permutation(len(labels))[:size]
        sides.append(_features(answers[rows], labels[rows]))
    target_features = _features(*target)
    is_member = np.repeat([1, 0], [len(side["prob"]) for side in sides])
    efficacy = {}
    for name in FEATURES:
        # Equal rows are one row of that weight: the same problem, but small where the feature takes few values.
        rows = np.column_stack([np.concatenate([side[name] for side in sides]), is_member])
        rows, weights = np.unique(rows, axis=0, return_counts=True)
        attack = SVC(C=3, kernel=_rbf).fit(rows[:, :-1], rows[:, -1], sample_weight=weights)
        parts = np.array_split(target_features[name], -(-len(target_features[name]) * len(rows) // KERNEL))
        efficacy[name] = float((np.concatenate([attack.predict(part) for part in parts]) == 0).mean())
    return efficacy


def logistic_mia(
    member: Float[Any, "models _members"],
    nonmember: Float[Any, "models _nonmembers"],
    folds: int = 10,
    inverse_penalty: float = 1.0,
    seed: int = 0,
) -> Float[np.ndarray, " models"]:
    """The accuracy of a cross-validated logistic regression on the loss: one attack on each model.

    Stratified folds, equal sides (a random sample of the larger one). The attack on a fold minimises, over the other folds,

        w² / 2 + C Σ_i log(1 + exp(-s_i (w x_i + b)))

    where x is the loss and s is 1 for members and -1 for the others; all models and folds are solved at once by Newton's
    method. C = 1 on unscaled losses is the default of scikit-learn, of the starter kit and of published results. It matters
    little: with equal sides, a penalised slope only moves the threshold towards the mean loss.

    The starter kit tests on ten random tenths, which may overlap; here every example is tested once.

    Args:
        member: losses of the forget set under each model.
        nonmember: of the test set.
        folds: number of folds, at most the number of examples on a side.
        inverse_penalty: C.
        seed: draws the sample and the folds, the same for all models.

    Returns:
        A number in 0..1 for each model; 0.5 with fewer than two examples on each side.

    Raises:
        ValueError: if a model's losses are not finite, the sides have different numbers of models, `folds` is below 2, or C
            is not above 0.

    Source: starter kit of the NeurIPS 2023 machine unlearning challenge; see arXiv:2406.09073.
    """
    sides = _sides(member, nonmember, "models examples")
    checks.count("folds", folds, 2)
    checks.numbers("inverse_penalty", inverse_penalty, low=np.finfo(float).tiny)
    rows, is_member, fold = _balanced(sides[0].shape[1], sides[1].shape[1], folds, seed)
    if len(is_member) < 4:
        return np.full(len(sides[0]), 0.5)
    losses = np.concatenate([side[:, chosen] for side, chosen in zip(sides, rows, strict=True)], axis=1)
    tested = fold == np.arange(fold.max() + 1)[:, None]
    slope, intercept = _logistic_regressions(losses, is_member, ~tested, inverse_penalty)
    called = slope[..., None] * losses[:, None] + intercept[..., None] > 0
    return ((called == is_member) & tested).sum((1, 2)) / len(is_member)


def feature_mia(
    member: Float[Any, "_members columns"],
    nonmember: Float[Any, "_nonmembers columns"],
    attacker: str = "trees",
    folds: int = 5,
    seed: int = 0,
) -> FeatureAttack:
    """A cross-validated attack on one model by any features of the examples, see `features.joined`; as `feature_mias`.

    Raises:
        ValueError: if features are not finite, a side has fewer than two examples, or there is no such attacker.
    """
    member, nonmember = (
        checks.numbers(name, side, "examples columns") for name, side in (("member", member), ("nonmember", nonmember))
    )
    return feature_mias(member[None], nonmember[None], attacker, folds, seed)[0]


def feature_mias(
    member: Float[Any, "models _members columns"],
    nonmember: Float[Any, "models _nonmembers columns"],
    attacker: str = "trees",
    folds: int = 5,
    seed: int = 0,
) -> list[FeatureAttack]:
    """A cross-validated attack on each of several models by any features of the examples, with one attacker for all models.

    For each fold, an attacker is trained on the examples of the other folds in all models and tested on those of the fold: it
    has more data than from one model, but has not seen its test examples in any model. Folds are stratified, both sides have
    equal weight, and columns are standardised.

    The attackers are those of scikit-learn with these settings: `logistic` regression, `svc` (rbf; 500 training
    examples at most), `trees` (histogram gradient boosting, 30 trees of at most 8 leaves, learning rate 0.2), `neighbours`
    (the square root of the number of training examples). Trees do not depend on the scale of a feature; the others do.

    Without any signal the AUC is a little below 0.5, since the folds are negatively correlated: compare with the value of a
    retrained model.

    Args:
        member: features of the forget set, or of training examples for an attack on membership.
        nonmember: features of examples that the models never saw.
        attacker: one of `ATTACKERS`.
        folds: number of folds, at most the number of examples on the smaller side.
        seed: draws the folds.

    Returns:
        One attack for each model.

    Raises:
        ValueError: if features are not finite, the sides have different models or columns, a side has fewer than two
            examples, or there is no such attacker.
    """
    sides = _sides(member, nonmember, "models examples columns")
    counts = [side.shape[1] for side in sides]
    if min(counts) < 2:
        raise ValueError(f"member, nonmember: {counts[0]} and {counts[1]} examples, expected two or more on each side")
    if attacker not in ATTACKERS:
        raise ValueError(f"attacker: {attacker!r} found, expected one of {', '.join(ATTACKERS)}")
    checks.count("folds", folds, 2)
    rng = checks.generator(seed)
    fold = np.concatenate([rng.permutation(np.arange(count) % min(folds, *counts)) for count in counts])
    columns = np.concatenate(sides, axis=1)
    is_member = np.arange(sum(counts)) < counts[0]
    scores = np.empty(columns.shape[:2])
    for number in range(fold.max() + 1):
        tested = fold == number
        known = np.tile(is_member[~tested], len(columns))
        flat = (part.reshape(-1, columns.shape[2]) for part in (columns[:, ~tested], columns[:, tested]))
        scores[:, tested] = _scores(attacker, known, *flat).reshape(len(columns), -1)
    return [_attack(of_model[is_member], of_model[~is_member]) for of_model in scores]


def _attack(member: Float[np.ndarray, " members"], nonmember: Float[np.ndarray, " nonmembers"]) -> FeatureAttack:
    """Evaluates an attack by its scores; above 0 it calls an example a member."""
    ranks = rankdata(np.concatenate([member, nonmember]))[: len(member)]
    auc = (ranks.mean() - (len(member) + 1) / 2) / len(nonmember)
    threshold = np.sort(nonmember)[::-1][int(FALSE_POSITIVES * len(nonmember))]
    accuracy = ((member > 0).mean() + (nonmember <= 0).mean()) / 2
    return FeatureAttack(float(auc), float(accuracy), float((member > threshold).mean()))


def _balanced(
    members: int, nonmembers: int, folds: int, seed: int
) -> tuple[list[Int[np.ndarray, " size"]], Bool[np.ndarray, " both"], Int[np.ndarray, " both"]]:
    """The rows of two equal sides; for both together, which are members, and the fold in which each is tested."""
    rng = checks.generator(seed)
    size = min(members, nonmembers)
    rows = [rng.permutation(count)[:size] for count in (members, nonmembers)]  # shuffled: folds may follow the order
    return rows, np.arange(2 * size) < size, np.tile(np.arange(size) % max(min(folds, size), 1), 2)


def _rbf(rows: Float[np.ndarray, "_ features"], others: Float[np.ndarray, "_ features"]) -> Float[np.ndarray, "..."]:
    """exp(-|x - y|² / features), as of `SVC(kernel="rbf", gamma="auto")`, whose own code takes an entry at a time.

    Without products of matrices, whose threads would wait for each other where several attacks run at once. Rounding differs: an
    example whose decision value is 0 but for rounding may be called otherwise.
    """
    from scipy.spatial.distance import cdist

    exponent = cdist(rows, others, "sqeuclidean")
    exponent /= -rows.shape[1]
    return np.exp(exponent, out=exponent)


def _scores(attacker: str, is_member: np.ndarray, columns: np.ndarray, tested: np.ndarray) -> np.ndarray:
    """Trains an attacker and scores the tested examples; above 0 it calls an example a member."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC
    from threadpoolctl import threadpool_limits

    trees = {"max_iter": 30, "learning_rate": 0.2, "max_leaf_nodes": 8, "min_samples_leaf": 10}
    attackers = {
        "logistic": lambda: LogisticRegression(max_iter=1_000, class_weight="balanced"),
        "svc": lambda: SVC(class_weight="balanced"),
        "trees": lambda: HistGradientBoostingClassifier(**trees),
        "neighbours": lambda: KNeighborsClassifier(round(np.sqrt(len(columns)))),
    }
    scale, vary = unit(columns, 0), varies(columns, 0)[0]
    columns, tested = columns / scale, tested / scale
    share, mean, spread = is_member.mean(), columns.mean(0), columns.std(0)
    # A constant column contains only rounding errors, which standardising would enlarge.
    columns, tested = (np.where(vary, (rows - mean) / np.where(vary, spread, 1), 0) for rows in (columns, tested))
    if attacker == "svc" and len(columns) > SVC_ROWS:
        rows = np.random.default_rng(0).permutation(len(columns))[:SVC_ROWS]
        columns, is_member = columns[rows], is_member[rows]
    # Trees this small gain nothing from threads, which wait for each other.
    with threadpool_limits(1) if attacker == "trees" else nullcontext():
        trained = attackers[attacker]().fit(columns, is_member)
        if attacker == "neighbours":
            return trained.predict_proba(tested)[:, 1] - share
        # Subtracting the prior has the same effect as class weights, with which scikit-learn bins rows twenty times as slowly.
        return trained.decision_function(tested) - (logit(share) if attacker == "trees" else 0)


def _logistic_regressions(
    x: Float[np.ndarray, "models examples"],
    is_member: Bool[np.ndarray, " examples"],
    trained_on: Bool[np.ndarray, "folds examples"],
    inverse_penalty: float,
) -> tuple[Float[np.ndarray, "models folds"], Float[np.ndarray, "models folds"]]:
    """Slope and intercept of a logistic regression on x for every model and fold; only the slope is penalised.

    Solved for standardised x, since squares of large numbers could overflow and Newton's method would not converge; the penalty
    is on the original slope.
    """
    scale = unit(x, 1)
    centre = (x / scale).mean(1, keepdims=True)  # changes only the intercept, which is not penalised
    x = x / scale - centre
    spread = unit(x, 1)
    x, sign = (x / spread)[:, None], np.where(is_member, 1.0, -1.0)
    size = np.maximum(spread * scale, LEAST)
    penalty = 1 / size / size  # of half the squared slope
    weight = inverse_penalty * trained_on
    slope = intercept = np.zeros((len(x), len(trained_on)))

    def objective(slope: np.ndarray, intercept: np.ndarray) -> np.ndarray:
        losses = np.logaddexp(0, -sign * (slope[..., None] * x + intercept[..., None]))
        return penalty * slope**2 / 2 + (weight * losses).sum(-1)

    value = objective(slope, intercept)
    for _ in range(NEWTON_STEPS):
        p = expit(slope[..., None] * x + intercept[..., None])
        excess, curvature = weight * (p - is_member), weight * p * (1 - p)
        by_slope, by_intercept = penalty * slope + (excess * x).sum(-1), excess.sum(-1)
        if max(abs(by_slope).max(), abs(by_intercept).max()) < 1e-9 * weight.sum(-1).max():
            break
        a, b, c = penalty + (curvature * x**2).sum(-1), (curvature * x).sum(-1), curvature.sum(-1)
        determinant = np.maximum(a * c - b * b, np.finfo(float).tiny)
        steps = (c * by_slope - b * by_intercept) / determinant, (a * by_intercept - b * by_slope) / determinant
        length = np.ones_like(slope)
        for _ in range(HALVINGS):
            moved = slope - length * steps[0], intercept - length * steps[1]
            reached = objective(*moved)
            too_far = ~(reached <= value + 1e-12 * abs(value))
            if not too_far.any():
                break
            length[too_far] /= 2
        (slope, intercept), value = moved, reached
    return slope / spread / scale, intercept - slope / spread * centre


def _sides(member: Any, nonmember: Any, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """Checks that both sides have the same models and columns; returns them in float64."""
    one, other = checks.numbers("member", member, axes), checks.numbers("nonmember", nonmember, axes)
    if len(one) != len(other):
        raise ValueError(f"nonmember: {len(other)} models, expected {len(one)} as in member")
    checks.alike("member", one, "nonmember", other, 2)
    return one, other


def _check_answers(name: str, probabilities: Any, labels: Any) -> Answers:
    p = checks.probabilities(f"{name} probabilities", probabilities, "examples classes")
    return p, checks.labels(f"{name} labels", labels, *p.shape)


def _features(p: np.ndarray, labels: np.ndarray) -> dict[str, Float[np.ndarray, "examples features"]]:
    scalars = (
        p.argmax(-1) == labels,
        p[np.arange(len(labels)), labels],
        entropies(p),
        modified_entropies(p, labels),
    )
    return dict(zip(FEATURES, (*(np.asarray(scalar, np.float64)[:, None] for scalar in scalars), p), strict=True))
