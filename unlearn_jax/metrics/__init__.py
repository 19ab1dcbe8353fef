"""How well it was forgotten: pure functions of arrays, each with its null."""

from unlearn_jax.metrics.accuracy import Accuracies, accuracies, accuracy, average_gap, tow
from unlearn_jax.metrics.attacks import svc_mia
from unlearn_jax.metrics.distances import activation_distance, js_divergence, kl_to_oracle
from unlearn_jax.metrics.evaluation import Evaluation, Reference, Score, pooled, reference, score
from unlearn_jax.metrics.forgetting_quality import ForgettingQuality, forgetting_quality
from unlearn_jax.metrics.klom import klom
from unlearn_jax.metrics.likelihood import Attack, AttackNull, Interval, likelihood_ratios, lira, u_lira, u_lira_null
from unlearn_jax.metrics.memorisation import Memorisation, memorisation
from unlearn_jax.metrics.null import Null, null
from unlearn_jax.metrics.power import Power, power_curve
from unlearn_jax.metrics.scores import cross_entropy_losses, entropies, margins, modified_entropies, probabilities, scaled_logits

__all__ = [
    "Accuracies",
    "Attack",
    "AttackNull",
    "Evaluation",
    "ForgettingQuality",
    "Interval",
    "Memorisation",
    "Null",
    "Power",
    "Reference",
    "Score",
    "accuracies",
    "accuracy",
    "activation_distance",
    "average_gap",
    "cross_entropy_losses",
    "entropies",
    "forgetting_quality",
    "js_divergence",
    "kl_to_oracle",
    "klom",
    "likelihood_ratios",
    "lira",
    "margins",
    "memorisation",
    "modified_entropies",
    "null",
    "pooled",
    "power_curve",
    "probabilities",
    "reference",
    "scaled_logits",
    "score",
    "svc_mia",
    "tow",
    "u_lira",
    "u_lira_null",
]
