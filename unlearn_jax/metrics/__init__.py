"""Metrics of unlearning as pure functions of arrays, each with its null."""

from unlearn_jax.metrics.accuracy import (
    Accuracies,
    accuracies,
    accuracy,
    average_gap,
    competition_score,
    interclass_confusion,
    tow,
    tow_mia,
)
from unlearn_jax.metrics.agreement import reliability
from unlearn_jax.metrics.attacks import ATTACKERS, FeatureAttack, feature_mia, feature_mias, logistic_mia, svc_mia
from unlearn_jax.metrics.characteristics import Characteristics, characteristics, class_distances, mismatch, neighbour_purity
from unlearn_jax.metrics.distances import activation_distance, js_divergence, kl_to_oracle, weight_distance, zrf
from unlearn_jax.metrics.evaluation import Reference, pooled, reference, score
from unlearn_jax.metrics.features import (
    hellinger,
    joined,
    mahalanobis_distances,
    neighbour_distances,
    output_features,
    shuffled_among_alike,
)
from unlearn_jax.metrics.forgetting_quality import ForgettingQuality, forgetting_quality
from unlearn_jax.metrics.klom import klom
from unlearn_jax.metrics.likelihood import (
    Attack,
    AttackNull,
    likelihood_ratios,
    lira,
    resampled_attack,
    u_lira,
    u_lira_null,
    vector_ratios,
)
from unlearn_jax.metrics.memorisation import Memorisation, exposure, memorisation
from unlearn_jax.metrics.null import Null, null
from unlearn_jax.metrics.power import Power, power_curve
from unlearn_jax.metrics.registry import METRICS, Metric, metric
from unlearn_jax.metrics.relearning import relearn_steps
from unlearn_jax.metrics.scores import cross_entropy_losses, entropies, margins, modified_entropies, probabilities, scaled_logits
from unlearn_jax.metrics.verdict import FEWEST_JUDGED, Evaluation, Score
from unlearn_jax.metrics.views import Models, Pair, Seen, Spent
from unlearn_jax.types import Interval

__all__ = [
    "ATTACKERS",
    "FEWEST_JUDGED",
    "METRICS",
    "Accuracies",
    "Attack",
    "AttackNull",
    "Characteristics",
    "Evaluation",
    "FeatureAttack",
    "ForgettingQuality",
    "Interval",
    "Memorisation",
    "Metric",
    "Models",
    "Null",
    "Pair",
    "Power",
    "Reference",
    "Score",
    "Seen",
    "Spent",
    "accuracies",
    "accuracy",
    "activation_distance",
    "average_gap",
    "characteristics",
    "class_distances",
    "competition_score",
    "cross_entropy_losses",
    "entropies",
    "exposure",
    "feature_mia",
    "feature_mias",
    "forgetting_quality",
    "hellinger",
    "interclass_confusion",
    "joined",
    "js_divergence",
    "kl_to_oracle",
    "klom",
    "likelihood_ratios",
    "lira",
    "logistic_mia",
    "mahalanobis_distances",
    "margins",
    "memorisation",
    "metric",
    "mismatch",
    "modified_entropies",
    "neighbour_distances",
    "neighbour_purity",
    "null",
    "output_features",
    "pooled",
    "power_curve",
    "probabilities",
    "reference",
    "relearn_steps",
    "reliability",
    "resampled_attack",
    "scaled_logits",
    "score",
    "shuffled_among_alike",
    "svc_mia",
    "tow",
    "tow_mia",
    "u_lira",
    "u_lira_null",
    "vector_ratios",
    "weight_distance",
    "zrf",
]
