"""What metrics refuse: every public one names the argument that is wrong, in one line, and none makes a number of it."""

import importlib
import inspect
import math
import re

import jax
import numpy as np
import pytest

from experiments.gaming import cheats as gaming
from unlearn_jax import metrics
from unlearn_jax.metrics import checks
from unlearn_jax.report import rows
from unlearn_jax.types import Cube, Labels

MODULES = [  # by their path: the package has functions of the same names
    importlib.import_module(f"unlearn_jax.metrics.{name}")
    for name in (
        *("accuracy", "agreement", "attacks", "attribution", "changes", "characteristics", "decomposition", "distances"),
        *("evaluation", "features", "forgetting_quality", "klom", "likelihood", "memorisation", "null", "power"),
        *("relearning", "scores", "statistics", "registry", "verdict", "views", "representations", "retrain_free", "privacy"),
    )
]
accuracy, agreement, attacks, attribution, changes, characteristics, decomposition, distances, evaluation, *others = MODULES
(
    features,
    forgetting_quality,
    klom,
    likelihood,
    memorisation,
    null,
    power,
    relearning,
    scores,
    statistics,
    registry,
    verdict,
    views,
    representations,
    retrain_free,
    privacy,
) = others

RNG = np.random.default_rng(0)
MEMBERS, EXAMPLES, CLASSES = 6, 12, 4
LOGITS = 3 * RNG.normal(size=(MEMBERS, EXAMPLES, CLASSES))
P = scores.probabilities(LOGITS)
LABELS = np.arange(EXAMPLES) % CLASSES
MARGINS = scores.scaled_logits(LOGITS, LABELS)
LOSSES = RNG.exponential(size=(MEMBERS, EXAMPLES))
MASKS = np.arange(MEMBERS)[:, None] % 2 == np.zeros(EXAMPLES, int)
INFLUENCE = RNG.normal(size=(EXAMPLES, 3))
REMOVED = RNG.random((5, EXAMPLES)) < 0.5
VALUES = RNG.normal(size=(8, 3))
FOUND = characteristics.Characteristics(0.1, 0.2, np.zeros(50), np.zeros(50), np.ones(50), np.eye(3))
CURVE = np.array([[1.0, 0.5, 0.0], [1.0, 2.0, 0.0]])
WEIGHTS = {"head": {"kernel": RNG.normal(size=(MEMBERS, 2, 3))}}

VALID = {
    accuracy.accuracy: {"logits": LOGITS, "labels": LABELS},
    accuracy.accuracies: {"cube": Cube(LOGITS, LOGITS, LOGITS), "labels": Labels(LABELS, LABELS, LABELS)},
    accuracy.interclass_confusion: {"logits": LOGITS, "labels": LABELS, "confused": (0, 1)},
    accuracy.tow: dict.fromkeys(["forget", "retain", "test", "oracle_forget", "oracle_retain", "oracle_test"], 0.5),
    accuracy.tow_mia: dict.fromkeys(["mia", "retain", "test", "oracle_mia", "oracle_retain", "oracle_test"], 0.5),
    accuracy.average_gap: dict.fromkeys(
        ["forget", "retain", "test", "mia", "oracle_forget", "oracle_retain", "oracle_test", "oracle_mia"], 0.5
    ),
    accuracy.competition_score: dict.fromkeys(["forgetting_quality", "retain", "test", "oracle_retain", "oracle_test"], 0.5),
    accuracy.residual_knowledge: {"unlearned": LOGITS[:, None], "retrained": LOGITS[:, None], "labels": LABELS},
    agreement.rank_agreement: {"badness": VALUES},
    agreement.agreement_over_draws: {"first": VALUES, "second": VALUES},
    agreement.reliability: {"first": VALUES[:, 0], "second": VALUES[:, 1]},
    attacks.svc_mia: dict.fromkeys(["member", "nonmember", "target"], (P[0], LABELS)),
    attacks.logistic_mia: {"member": LOSSES, "nonmember": LOSSES},
    attacks.feature_mia: {"member": VALUES, "nonmember": VALUES},
    attacks.feature_mias: {"member": VALUES[None], "nonmember": VALUES[None]},
    attribution.pearson: {"estimate": INFLUENCE, "exact": INFLUENCE},
    attribution.spearman: {"estimate": INFLUENCE, "exact": INFLUENCE},
    attribution.top_recall: {"estimate": INFLUENCE, "exact": INFLUENCE, "k": 2},
    attribution.screening: {"estimate": INFLUENCE, "exact": INFLUENCE, "k": 2},
    attribution.linear_datamodelling_score: {"estimate": INFLUENCE, "removed": REMOVED, "changes": VALUES[:5]},
    changes.closeness: {"found": VALUES, "exact": VALUES},
    changes.gini: {"values": LOSSES[0]},
    changes.carriers: {"values": LOSSES[0], "share": 0.5},
    changes.common_share: {"effects": RNG.normal(size=(2, 3, 4))},
    changes.point_share: {"values": VALUES},
    changes.share_of_mean: {"share": 0.4, "seeds": 3},
    changes.seeds_for: {"share": 0.4, "wanted": 0.9},
    characteristics.characteristics: {
        "masks": MASKS,
        "right": MASKS,
        "purity": np.ones(EXAMPLES),
        "test_answers": LOGITS.argmax(-1),
        "test_margins": MARGINS,
        "test_labels": LABELS,
        "classes": CLASSES,
    },
    characteristics.mismatch: {"found": FOUND, "target": FOUND},
    characteristics.neighbour_purity: {"points": VALUES, "labels": LABELS[:8], "neighbours": 3},
    characteristics.class_distances: {"confusion": np.full((3, 3), 1 / 3), "examples": 5},
    decomposition.cross_entropy_decomposition: {"logits": LOGITS, "labels": LABELS},
    decomposition.brier_decomposition: {"logits": LOGITS, "labels": LABELS},
    distances.kl_to_oracle: {"unlearned": P, "oracle": P},
    distances.activation_distance: {"unlearned": P, "oracle": P},
    distances.js_divergence: {"unlearned": P, "oracle": P},
    distances.zrf: {"probabilities": P, "untrained": P},
    distances.weight_distance: {"weights": WEIGHTS, "oracles": WEIGHTS},
    distances.barriers: {"losses": CURVE, "shares": np.linspace(0, 1, 3)},
    features.output_features: {"probabilities": P[0], "labels": LABELS},
    features.neighbour_distances: {"points": VALUES, "references": VALUES},
    features.squared_distances: {"points": VALUES, "references": VALUES},
    features.hellinger: {"probabilities": P[0]},
    features.mahalanobis_distances: {"points": VALUES, "references": VALUES, "labels": LABELS[:8]},
    features.shuffled_among_alike: {"columns": VALUES, "key": VALUES[:, 0]},
    features.joined: {"features": {"loss": VALUES}, "names": ["loss"]},
    forgetting_quality.forgetting_quality: {"unlearned": MARGINS, "retrained": MARGINS},
    klom.klom: {"unlearned": MARGINS, "oracle": MARGINS},
    likelihood.lira: {"phi": MARGINS, "trained_on": MASKS},
    likelihood.u_lira: {"unlearned": MARGINS, "never_saw": MARGINS, "trained_on": MASKS},
    likelihood.u_lira_null: {"retrained": np.stack([MARGINS] * 2), "trained_on": MASKS, "same_models": False, "splits": 2},
    likelihood.likelihood_ratios: {"phi": MARGINS, "trained_on": MASKS},
    likelihood.vector_ratios: {"shadows": LOGITS, "trained_on": MASKS, "attacked": LOGITS[:2]},
    likelihood.resampled_attack: {"ratios": MARGINS, "trained_on": MASKS, "drawn": np.ones((2, MEMBERS))},
    likelihood.offline_scores: {"phi": MARGINS, "out": MARGINS},
    likelihood.unlearned_ratios: {"unlearned": MARGINS, "retrained": MARGINS + 1},
    likelihood.auc: {"member": MARGINS, "non_member": MARGINS},
    memorisation.memorisation: {"correct": MASKS, "trained_on": MASKS},
    memorisation.exposure: {"scores": MARGINS, "trained_on": MASKS},
    null.of_means: {"values": LOSSES[0], "splits": np.arange(4).reshape(1, 2, 2)},
    null.summarise: {"values": LOSSES[0]},
    privacy.clopper_pearson_upper: {"hits": 2, "trials": 5, "error": 0.05},
    privacy.epsilon_over_models: {"unlearned": LOSSES[0], "retrained": LOSSES[1], "thresholds": np.ones(1), "delta": 1e-5},
    privacy.mu_over_models: {"unlearned": LOSSES[0], "retrained": LOSSES[1], "thresholds": np.ones(1), "confidence": 0.9},
    privacy.gaussian_delta: {"epsilon": 1.0, "mu": 0.5},
    privacy.gaussian_epsilon: {"mu": 0.5, "delta": 1e-5},
    privacy.largest_bound: {"models": 8, "others": 8, "thresholds": 1, "delta": 1e-5},
    privacy.epsilon_one_run: {"targets": LOSSES, "non_members": LOSSES, "guesses": 0.5, "delta": 1e-5},
    relearning.relearn_steps: {"losses": CURVE, "target": 0.5},
    representations.linear_cka: {"first": LOGITS, "second": LOGITS},
    representations.probe_accuracy: {
        "features": LOGITS,
        "labels": LABELS,
        "probed": LOGITS,
        "probed_labels": LABELS,
        "classes": CLASSES,
    },
    retrain_free.non_member_share: {"target": VALUES, "members": VALUES, "non_members": VALUES},
    retrain_free.hsic: {"first": VALUES, "second": VALUES},
    retrain_free.split_half_dependence: {"values": VALUES},
    retrain_free.unlearning_completeness: {"unlearned": MARGINS, "original": MARGINS + 1, "shadows": MARGINS - 1, "saw": MASKS},
    retrain_free.class_js_divergence: {"forget": P[0], "forget_labels": LABELS, "unseen": P[1], "unseen_labels": LABELS},
    scores.log_probabilities: {"logits": LOGITS},
    scores.probabilities: {"logits": LOGITS},
    scores.scaled_logits: {"logits": LOGITS, "labels": LABELS},
    scores.cross_entropy_losses: {"logits": LOGITS, "labels": LABELS},
    scores.entropies: {"probabilities": P},
    scores.modified_entropies: {"probabilities": P, "labels": LABELS},
    statistics.correlation: {"first": VALUES, "second": VALUES},
    statistics.crossed_mean: {"values": VALUES},
    statistics.components: {"values": VALUES[..., None]},
    statistics.holm: {"p": np.array([0.1, 0.2])},
    statistics.bootstrap: {"values": VALUES[:, 0], "seed": 0, "resamples": 5},
    statistics.jackknifed: {"value": 1.0, "parts": VALUES[:, 0]},
    statistics.chosen_elsewhere: {"distances": VALUES, "allowed": np.ones(3, bool)},
    statistics.pseudo_values: {"statistic": np.mean, "values": VALUES},
    gaming.runner_up: {"logits": LOGITS},
    gaming.match_accuracy: {"logits": LOGITS, "labels": LABELS, "accuracy": 50.0},
    gaming.with_margins: {"retrained": LOGITS, "labels": LABELS, "margins": MARGINS},
    gaming.nearest: {"images": VALUES, "among": VALUES, "count": 2},
    gaming.least_change: {"values": np.eye(2), "targets": np.ones(2) / 2, "slack": np.ones(2)},
    gaming.deal: {"rng": RNG, "shares": np.array([0.5, 0.5]), "change": LOSSES[0]},
    gaming.blend: {"rng": RNG, "tables": [LOGITS, LOGITS], "shares": np.array([0.5, 0.5])},
    gaming.untouched: {"logits": LOGITS, "original": LOGITS},
    gaming.memory: {"margins": MARGINS, "oracle": MARGINS, "direction": MARGINS[0]},
    gaming.agreement: {"logits": LOGITS, "oracle": LOGITS, "labels": LABELS},
}
"""Every public function of an array, and arguments that it takes."""
NOT_HERE = {  # checked below, or of functions and of what others have checked
    *(null.null, null.halves, null.thirds, null.joint, attribution.interval, statistics.comparisons, statistics.jackknife),
    *(statistics.unit, statistics.varies, statistics.over_draws, evaluation.reference, evaluation.score, evaluation.pooled),
    *(registry.metric, registry.in_order, registry.is_attack, verdict.deviation, verdict.evidence, verdict.is_inside),
    *(
        views.on_threads,
        views.views_of,
        power.visible,
        power.power_curve,
        power.models_needed,
        distances.gaussian_distance,
        distances.kl_to_mean,
        distances.activation_to_mean,
        distances.js_to_mean,
        gaming.cheat,
        gaming.make_blends,
        gaming.bisect,
    ),
}
DIVERGED_ALLOWED = {(changes.closeness, "found"), (relearning.relearn_steps, "losses")}  # by definition as far away as can be
INFINITE_ALLOWED = {
    *((agreement.rank_agreement, "badness"), (statistics.chosen_elsewhere, "distances")),
    *((agreement.agreement_over_draws, side) for side in ("first", "second")),
}


def bare(function):
    """Without the tests' own check of shapes and types, as people have it."""
    return inspect.unwrap(function)


def name_of(function):
    return f"{function.__module__.rpartition('.')[2]}.{function.__name__}"


def poisoned(value, number):
    """The same with one number put in somewhere; None where nothing in it is a number."""
    if isinstance(value, dict):
        changed = {key: poisoned(each, number) for key, each in value.items()}
        return changed if all(each is not None for each in changed.values()) else None
    if hasattr(value, "_replace"):  # a cube, characteristics
        first = poisoned(value[-1], number)
        return None if first is None else value._replace(**{value._fields[-1]: first})
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], np.ndarray):
        return poisoned(value[0], number), value[1]
    if isinstance(value, float):
        return number
    if isinstance(value, np.ndarray) and value.dtype == float:
        changed = value.copy()
        changed.flat[value.size // 2] = number
        return changed
    return None


CASES = [
    pytest.param(function, name, number, id=f"{name_of(function)}-{name}-{number}")
    for function, arguments in VALID.items()
    for name in arguments
    for number in (math.nan, math.inf)
    if poisoned(arguments[name], number) is not None
    and (function, name) not in DIVERGED_ALLOWED
    and not ((function, name) in INFINITE_ALLOWED and number == math.inf)
]


@pytest.mark.parametrize("function", VALID, ids=name_of)
def test_what_is_right_is_taken(function):
    bare(function)(**VALID[function])


@pytest.mark.parametrize(("function", "name", "number"), CASES)
def test_what_is_not_finite_is_refused_by_the_name_of_its_argument(function, name, number):
    arguments = {**VALID[function], name: poisoned(VALID[function][name], number)}
    with pytest.raises(ValueError, match=rf"^{name}\b[^\n]*$"):
        bare(function)(**arguments)


def test_no_public_function_is_forgotten():
    public = {
        each
        for module in [*MODULES, gaming]
        for name, each in vars(module).items()
        if inspect.isfunction(each) and each.__module__ == module.__name__ and not name.startswith("_")
    }
    cheats = {each for each in public if list(inspect.signature(each).parameters)[:2] == ["rng", "known"]}
    assert {name_of(each) for each in public - cheats - NOT_HERE} == {name_of(each) for each in VALID}
    assert {each for each in vars(metrics).values() if inspect.isfunction(each)} <= public


LABELLED = [function for function, arguments in VALID.items() if arguments.get("labels") is LABELS]
WRONG_LABELS = {
    "counted from -1": LABELS - 1,
    "counted from 1": LABELS + 1,
    "one for all": np.array(2),
    "one for all, in an array": np.array([2]),
    "one too few": LABELS[1:],
    "one for each member too": np.tile(LABELS, (MEMBERS, 1)),
    "numbers with a point": LABELS.astype(float),
    "another number of classes": LABELS + np.where(np.arange(EXAMPLES) == 5, CLASSES, 0),
}


@pytest.mark.parametrize("wrong", WRONG_LABELS)
@pytest.mark.parametrize("function", LABELLED, ids=name_of)
def test_labels_are_one_class_for_each_example(function, wrong):
    with pytest.raises(ValueError, match=r"^labels: [^\n]*$"):
        bare(function)(**{**VALID[function], "labels": WRONG_LABELS[wrong]})


OF_LOGITS = [
    function for function, arguments in VALID.items() if arguments.get("logits") is LOGITS and function.__name__ in (
        "log_probabilities", "probabilities", "scaled_logits", "cross_entropy_losses", "cross_entropy_decomposition",
        "brier_decomposition", "runner_up", "match_accuracy",
    )
]  # fmt: skip


@pytest.mark.parametrize("function", OF_LOGITS, ids=name_of)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_probabilities_are_no_logits(function, dtype):
    with pytest.raises(ValueError, match=r"^logits: probabilities"):
        bare(function)(**{**VALID[function], "logits": P.astype(dtype)})


def test_a_largest_logit_is_that_of_probabilities_too():
    np.testing.assert_array_equal(metrics.accuracy(P, LABELS), metrics.accuracy(LOGITS, LABELS))


NO_PROBABILITIES = {
    "logits": LOGITS,
    "in percent": 100 * P,
    "not adding to 1": P * np.where(np.arange(EXAMPLES) == 3, 1.01, 1)[:, None],
    "a negative one": P + np.where(np.arange(CLASSES) == 0, -2, 2 / (CLASSES - 1)),
}


@pytest.mark.parametrize("wrong", NO_PROBABILITIES)
@pytest.mark.parametrize(
    ("function", "name"),
    [(function, name) for function, arguments in VALID.items() for name, value in arguments.items() if value is P],
    ids=lambda each: each if isinstance(each, str) else name_of(each),
)
def test_probabilities_are_at_least_0_and_add_to_1(function, name, wrong):
    with pytest.raises(ValueError, match=rf"^{name}: "):
        bare(function)(**{**VALID[function], name: NO_PROBABILITIES[wrong]})


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rounded_probabilities_are_still_some(dtype):
    rounded = scores.probabilities(5 * RNG.normal(size=(3, 50, 1000))).astype(dtype)
    checks.probabilities("p", rounded, "members examples classes")


@pytest.mark.parametrize("name", VALID[accuracy.average_gap])
def test_shares_are_no_percents(name):
    with pytest.raises(ValueError, match=f"^{name}: 88.3 found, expected 0 to 1"):
        accuracy.average_gap(**{**VALID[accuracy.average_gap], name: 88.3})


def test_a_long_list_of_diverged_members_is_cut():
    with pytest.raises(ValueError, match=r"^x: members 0, 1, .*, 9 and 20 more have values that are not finite"):
        checks.numbers("x", np.full((30, 2), np.nan), "members examples")


@pytest.mark.parametrize("values", [[["a"]], [[1, 2], [3]], np.array([[1j]])])
def test_what_is_no_number_is_said_so(values):
    with pytest.raises(ValueError, match=r"^x: expected real numbers"):
        checks.numbers("x", values, "members examples")


@pytest.mark.parametrize("value", [1, 2.0, True, "3", None, 9])
def test_counts_are_whole_and_within_bounds(value):
    assert checks.count("x", np.int64(3), 2, 8) == 3
    with pytest.raises(ValueError, match=r"^x: .* found, expected an integer from 2 to 8"):
        checks.count("x", value, 2, 8)


WRONG = [  # function, one argument that does not go with the others, what is said
    (gaming.blend, {"shares": np.array([1.0])}, "shares: 1, expected one for each of 2 tables"),
    (gaming.memory, {"direction": np.zeros(EXAMPLES)}, "direction: all 0"),
    (agreement.rank_agreement, {"badness": VALUES[0]}, "badness: shape (3,), expected [methods, metrics]"),
    (attacks.svc_mia, {"member": (np.full((EXAMPLES, 2), 0.5), LABELS % 2)}, "member, nonmember, target: different numbers"),
    (attacks.svc_mia, {"size": 0}, "size: 0 found, expected an integer of at least 1"),
    (attacks.feature_mias, {"nonmember": np.stack([VALUES] * 2)}, "nonmember: 2 models, expected 1 as in member"),
    (attribution.linear_datamodelling_score, {"removed": REMOVED[:, 1:]}, "estimate (12, 3), removed (5, 11), changes (5, 3)"),
    (characteristics.class_distances, {"confusion": np.full((3, 3), 0.5)}, "confusion: shape (3, 3), rows add up to 1.5"),
    (characteristics.class_distances, {"confusion": np.full((2, 3), 0.2)}, "confusion: shape (2, 3), rows add up to 0.6"),
    (scores.log_probabilities, {"logits": LOGITS[..., :1]}, "logits: 1 class, expected two or more"),
    (scores.scaled_logits, {"logits": LOGITS[:, :0], "labels": LABELS[:0]}, "logits: empty, of shape (6, 0, 4)"),
    (memorisation.exposure, {"trained_on": 2 * MASKS}, "trained_on: expected booleans, or 0 and 1"),
    (distances.barriers, {"shares": np.array([0.0, 0.5, 0.9])}, "shares: 0 to 0.9 found, expected points that rise from 0 to 1"),
    (distances.barriers, {"shares": np.array([0.0, 1.0])}, "shares: 2 points, expected one for each of 3 losses"),
    (features.joined, {"names": ["loss", "margin"]}, "names: margin found, expected some of loss"),
    (features.joined, {"names": []}, "names: none found, expected some of loss"),
    (relearning.relearn_steps, {"losses": CURVE[0]}, "losses: shape (3,), expected [members, points]"),
    (relearning.relearn_steps, {"target": np.ones(3)}, "target: shape (3,), expected one number, or one for each of 2 members"),
    (
        statistics.chosen_elsewhere,
        {"allowed": np.zeros(3, bool)},
        "distances: 8 sets, 0 allowed settings; expected at least two sets",
    ),
    (statistics.chosen_elsewhere, {"distances": VALUES[:1]}, "distances: 1 sets, 3 allowed settings; expected at least two sets"),
]


@pytest.mark.parametrize(("function", "argument", "said"), WRONG, ids=[f"{name_of(f)}-{next(iter(a))}" for f, a, _ in WRONG])
def test_what_does_not_go_together_is_refused_by_name(function, argument, said):
    with pytest.raises(ValueError, match=rf"^{re.escape(said)}"):
        bare(function)(**{**VALID[function], **argument})


COUNTS = [
    (function, name)
    for function in VALID
    for name, parameter in inspect.signature(function).parameters.items()
    if name not in ("seed", "axis") and parameter.annotation in (int, int | None)
]


@pytest.mark.parametrize(("function", "name"), COUNTS, ids=[f"{name_of(function)}-{name}" for function, name in COUNTS])
@pytest.mark.parametrize("value", [-1, True])
def test_a_number_of_something_is_at_least_1(function, name, value):
    with pytest.raises(ValueError, match=rf"^{name}: .* found, expected an integer"):
        bare(function)(**{**VALID[function], name: value})


def test_more_models_than_oracles_and_unknown_metrics_are_refused():
    with pytest.raises(ValueError, match=r"^n: 4 models against 4 needs 8 oracles or more, not 7"):
        null.halves(jax.random.key(0), 7, 4, 2)
    reference = metrics.reference(pool(8, 0), SPLITS, 4, splits=4)
    with pytest.raises(ValueError, match=r"^name: \('klon', 'forget'\) found, expected one of "):
        power.models_needed(reference, ("klon", "forget"), 1.0)
    with pytest.raises(ValueError, match=r"^unlearned: 3 members, expected 4; see reference.at"):
        reference.score(pool(3, 1))
    with pytest.raises(ValueError, match=r"^extra: .*expected the same per-model metrics as in the reference"):
        metrics.score(pool(4, 1), reference, extra={("mine", "all"): np.zeros(4)})


SEEDED = [function for function in VALID if "seed" in inspect.signature(function).parameters]


@pytest.mark.parametrize("seed", [-1, True])
@pytest.mark.parametrize("function", SEEDED, ids=name_of)
def test_a_seed_is_a_whole_number_of_at_least_0(function, seed):
    with pytest.raises(ValueError, match=r"^seed: .* found, expected an integer of at least 0"):
        bare(function)(**{**VALID[function], "seed": seed})


def test_what_is_correlated_has_shapes_that_go_together():
    with pytest.raises(ValueError, match=r"^first, second: shapes \(8,\) and \(5,\)"):
        statistics.correlation(VALUES[:, 0], VALUES[:5, 0])


# Scores of whole pools

SPLITS = Labels(np.arange(10) % 3, np.arange(14) % 3, np.arange(12) % 3)


def pool(members, seed):
    rng = np.random.default_rng(seed)
    return Cube(*(rng.normal(size=(members, len(each), 3)) + 2 * np.eye(3)[each] for each in SPLITS))


@pytest.fixture(scope="module")
def yardstick():
    return metrics.reference(pool(16, 0), SPLITS, 8, splits=6)


WRONG_CUBES = {
    "two axes": (lambda cube: cube._replace(forget=cube.forget[..., 0]), "unlearned.forget: shape"),
    "two axes elsewhere": (lambda cube: cube._replace(test=cube.test[..., 0]), "unlearned.test: shape"),
    "probabilities": (lambda cube: Cube(*map(scores.probabilities, cube)), "unlearned.forget: probabilities"),
    "another class": (lambda cube: Cube(*(np.pad(each, ((0, 0), (0, 0), (0, 1))) for each in cube)), "unlearned.forget: "),
    "classes of one split": (lambda cube: cube._replace(test=cube.test[..., :2]), "unlearned.test: 8 members and 2 classes"),
    "members of one split": (lambda cube: cube._replace(retain=cube.retain[:5]), "unlearned.retain: 5 members and 3 classes"),
    "an example too few": (lambda cube: cube._replace(forget=cube.forget[:, 1:]), "labels.forget: expected one for each of 9"),
    "a diverged member": (
        lambda cube: cube._replace(test=np.where(cube.test == cube.test.max(), np.nan, cube.test)),
        "unlearned.test: members",
    ),
}


@pytest.mark.parametrize("wrong", WRONG_CUBES)
def test_a_pool_that_is_none_is_refused_before_anything_is_scored(yardstick, wrong):
    change, said = WRONG_CUBES[wrong]
    with pytest.raises(ValueError, match=f"^{said}"):
        bare(metrics.score)(change(pool(8, 1)), yardstick)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"n": 9}, "n: 9 models against 9 needs 18 oracles or more, not 16"),
        ({"n": 1}, "n: 1 found"),
        ({"rows": 0}, "rows: 0 found"),
        ({"labels": SPLITS._replace(test=SPLITS.test + 1)}, "labels.test: 3 found, expected classes from 0 to 2"),
        ({"oracles": pool(16, 0)._replace(test=pool(15, 0).test)}, "oracles.test: 15 members"),
        ({"extra": {("mine", "all"): np.ones(15)}}, r"extra \('mine', 'all'\): 15 values, expected one for each of 16"),
        ({"extra": {("mine", "all"): np.full(16, np.nan)}}, r"extra \('mine', 'all'\): members 0, 1"),
    ],
)
def test_a_reference_says_what_is_wrong(changed, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        bare(metrics.reference)(**{"oracles": pool(16, 0), "labels": SPLITS, "n": 8, "splits": 2, **changed})


def test_groups_are_numbered_from_0_to_7(yardstick):
    for groups in (np.arange(8) + 1, np.arange(8) - 1, np.arange(7)):
        with pytest.raises(ValueError, match=r"^groups: "):
            bare(metrics.score)(pool(8, 1), yardstick, groups)


@pytest.mark.parametrize("members", [2, 4, 7])
def test_there_is_no_verdict_with_fewer_than_eight_models(yardstick, members):
    found = metrics.score(pool(members, 1), yardstick)
    assert found.inside is None and found.members == members and found.scores
    assert metrics.score(pool(8, 1), yardstick).inside is not None
    both = metrics.pooled([metrics.score(pool(8, 1), yardstick), found], [yardstick, yardstick.at(members)])
    assert both.inside is None and both.members == members
    name = "accuracy", "test"
    assert power.visible(yardstick.at(members), name) is None and power.visible(yardstick, name) > 0
    assert {each.visible is None for each in metrics.power_curve(yardstick, [members])} == {True}
    assert power.models_needed(yardstick, name, 1e6) == 8


def test_evaluations_of_several_sets_belong_together(yardstick):
    one = metrics.score(pool(8, 1), yardstick)
    with pytest.raises(ValueError, match=r"^references: 1 for 2 evaluations; expected one for each"):
        metrics.pooled([one, one], [yardstick])
    with pytest.raises(ValueError, match=r"^evaluations: different metrics"):
        metrics.pooled([one, one._replace(scores=one.scores[1:])], [yardstick, yardstick])


# What is made of functions


def test_a_null_of_what_is_not_finite_is_refused():
    import jax

    with pytest.raises(ValueError, match=r"^oracle_logits: oracles 1 have"):
        metrics.null(lambda a, b: 0.0, np.array([1.0, np.nan, 2.0, 3.0]), 2, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"^values: splits "):
        metrics.null(lambda a, b: float("nan"), np.arange(4.0), 2, key=jax.random.key(0))


def test_a_statistic_that_is_not_finite_has_no_interval():
    with pytest.raises(ValueError, match=r"^statistic: units 2 have"):
        statistics.jackknife(lambda units: math.nan if 2 not in units else 1.0, np.arange(4))
    with pytest.raises(ValueError, match=r"^arrays: "):
        attribution.interval(attribution.pearson, INFLUENCE, INFLUENCE[1:])
    with pytest.raises(ValueError, match=r"^measure: NaN"):
        gaming.bisect(lambda knobs: knobs * np.nan, 1.0, 0.1, 1.0, 3)


@pytest.mark.parametrize(
    ("p", "said"), [([0.01, np.nan, 0.04], "tests 1 have"), ([0.5, 1.2], "1.2 found"), ([-0.1, 1], "-0.1 found")]
)
def test_holm_takes_probabilities_only(p, said):
    with pytest.raises(ValueError, match=f"^p: {said}"):
        statistics.holm(np.array(p))
    assert len(statistics.holm(np.zeros(0))) == 0


def test_pairs_are_of_the_same_originals_and_finite_or_missing():
    with pytest.raises(ValueError, match=r"^parts: b has shape"):
        statistics.comparisons({"a": np.zeros((3, 1)), "b": np.zeros((2, 1))})
    with pytest.raises(ValueError, match=r"^parts: a has an infinite value"):
        statistics.comparisons({"a": np.full((3, 1), np.inf), "b": np.zeros((3, 1))})


def test_weights_are_of_the_same_network():
    other = {"head": {"kernel": np.zeros((3, 3, 2))}}
    with pytest.raises(ValueError, match=r"^oracles: head of shapes"):
        metrics.weight_distance(WEIGHTS, other)
    with pytest.raises(ValueError, match=r"^oracles: layers"):
        metrics.weight_distance(WEIGHTS, {"tail": WEIGHTS["head"]})


@pytest.mark.parametrize("values", [np.zeros(3), np.array([1.0, -1e-9])])
def test_shares_of_nothing_or_of_debts_are_none(values):
    for measure in (changes.gini, lambda each: changes.carriers(each, 0.5)):
        with pytest.raises(ValueError, match=r"^values: "):
            measure(values)


# No verdict anywhere: reports and studies


def test_no_report_gives_a_verdict_on_few_models():
    from experiments.attack_features.report import Exposure
    from experiments.gaming.report import Claim
    from unlearn_jax.bench import board as main
    from unlearn_jax.bench.ulira import report as membership
    from unlearn_jax.report import leaderboard

    def row(members, metric):
        cells = 0.5, 0.4, 0.6, 0.5, 0.1, 0.3, 0.7, 0.0, members, 16, 1.0, 0.0, 0.0, 3.0, verdict.is_inside([0.0], 3.0, members)
        return rows.Row("x", "digits", "mlp", "random-0", "scrub", "F+R", metric, "all", *cells)

    for members, expected in ((7, None), (8, True)):
        for board in (
            main.arrange([row(members, "tow")]),
            membership.arrange([row(members, f"{side}_auc") for side in membership.SIDES], 3.0),
        ):
            line = board.lines[-1]
            assert line.marked is expected and (line.cells[0] == leaderboard.MARK) == bool(expected)
            assert ("**scrub**" in leaderboard.markdown(board)) == bool(expected)
        told = Exposure(
            "random-0", "scrub", "F", "trees", "loss", "auc", 0.9, 0.9, 0.9, 0.5, 0.01, 0.4, 0.6, 40.0, 3.0, members, 16
        )
        assert told.outside is expected
    assert Claim("lookup", (), "nothing", 0, "a table").inside is None


def test_a_power_curve_says_where_there_is_no_verdict(capsys):
    from unlearn_jax.bench import sample_size

    draws = null.Null(1.0, 0.1, 0.8, 1.2)
    sizes = ((4, None), (8, 0.3), (16, 0.2))
    curve = [power.Power(*name, n, 2 * n, draws, 3.0, seen) for n, seen in sizes for name in sample_size.SHOWN]
    figure = sample_size.power_curves(curve, {}, "title")
    panel = next(axes for axes in figure.axes if axes.get_title() == sample_size.SHOWN["tow", "all"])
    width, visible = (line.get_xydata().tolist() for line in panel.get_lines())
    assert visible == [[16, 0.3], [32, 0.2]] and len(width) == 3
    sample_size.show(curve, {})
    assert "no verdict" in capsys.readouterr().out
    sample_size.power_curves(curve[: len(sample_size.SHOWN)], {}, "title")


def test_calibration_asks_for_as_many_models_as_a_verdict_takes():
    from experiments.calibration.options import Config
    from unlearn_jax.errors import ArgumentError

    Config(members=8).check()
    for members in (7, "auto"):
        with pytest.raises(ArgumentError, match=f"^--members {members}: expected an integer of at least 8"):
            Config(members=members).check()


def test_calibration_counts_verdicts_and_nothing_else(tmp_path, monkeypatch):
    import json
    import types

    from experiments.calibration import study as calibration
    from experiments.calibration.options import Config
    from unlearn_jax.runs import Run

    score = evaluation.Score("tow", "all", 0.9, 0.8, 1.0, null.Null(1.0, 0.1, 0.8, 1.2), -1.0)
    verdicts = [evaluation.Evaluation([score], largest, 3.0, members) for largest, members in ((1.0, 8), (9.0, 7), (9.0, 8))]
    oracles = types.SimpleNamespace(cube=types.SimpleNamespace(forget=np.zeros(16)))
    forget = types.SimpleNamespace(pool=lambda *_: forget, variables=None, logits=lambda _: None, labels=None)
    for name, value in {
        "prepare": lambda _: None, "forget_mask": lambda *_: None, "forget_set": lambda *_: forget,
        "train_oracles": lambda _: oracles, "without": lambda *_: None, "lost_members": lambda *_: (),
        "reference": lambda *_, **__: None, "score_alive": lambda *_: (verdicts.pop(0), 8),
    }.items():  # fmt: skip
        monkeypatch.setattr(calibration, name, value)
    calibration.run(Config(members=8, replicates=3), Run(tmp_path))
    found = json.loads((tmp_path / "results.json").read_text())
    assert (found["outside"], found["replicates"]) == (1, 2)


@pytest.mark.parametrize("how", ["bfloat16", "two digits", "percent"])
def test_rounded_probabilities_and_percentages_do_not_pass_as_logits(how):
    import jax.numpy as jnp

    given = {"bfloat16": jnp.asarray(P, jnp.bfloat16), "two digits": np.round(P, 2), "percent": 100 * P}[how]
    with pytest.raises(ValueError, match=r"^logits: probabilities"):
        scores.scaled_logits(given, LABELS)
    scores.scaled_logits(given - 1.0, LABELS)  # logits may be anything else


def test_the_options_know_how_many_models_a_verdict_takes():
    from unlearn_jax.bench.options import FEWEST

    assert FEWEST == metrics.FEWEST_JUDGED
