"""The metrics of results.csv, in the order of its rows. To add one, write a function here, and its test.

The formulas are in the imported modules; here each metric takes their arguments from its view and declares its facts.
"""

from typing import Any

import numpy as np

from unlearn_jax.metrics import distances
from unlearn_jax.metrics.accuracy import accuracy as accuracy_of
from unlearn_jax.metrics.accuracy import average_gap as average_gap_of
from unlearn_jax.metrics.accuracy import competition_score as competition_score_of
from unlearn_jax.metrics.accuracy import tow as tug_of_war
from unlearn_jax.metrics.accuracy import tow_mia as tug_of_war_with_mia
from unlearn_jax.metrics.by_example import largest_t
from unlearn_jax.metrics.by_model import distances as model_distances
from unlearn_jax.metrics.by_model import largest_outlier
from unlearn_jax.metrics.effects import UNKNOWN, Effects
from unlearn_jax.metrics.registry import COST, DISTANCE, EFFECT, PARTS, PER_MODEL, SPLITS, TWO_SAMPLE, metric
from unlearn_jax.metrics.relearning import relearn_steps as steps_to
from unlearn_jax.metrics.scores import probabilities
from unlearn_jax.metrics.views import Measured, Models, Pair, Seen, Spent
from unlearn_jax.types import Interval

PAIR = ("logits", "oracles")
MEANS = "2205.08096 and others"


@metric(
    TWO_SAMPLE,
    SPLITS,
    unit="nats",
    label="KLOM",
    short="KLOM",
    perfect="about 2.4 at n = 24, **not 0**",
    source="arXiv 2410.23232",
    needs=PAIR,
)
def klom(pair: Pair, split: str) -> float:
    """KL divergence between the margins of unlearned models and oracles; mean over the examples."""
    return float(pair.klom(split).mean())


@metric(TWO_SAMPLE, SPLITS, unit="nats", label="KLOM (95th percentile)", perfect="above 0", source="arXiv 2410.23232", needs=PAIR)
def klom_p95(pair: Pair, split: str) -> float:
    """KLOM, 95th percentile over the examples."""
    return float(np.percentile(pair.klom(split), 95))


@metric(
    TWO_SAMPLE,
    ("forget",),
    label="forgetting quality",
    short="FQ",
    perfect="about 0.19, **not 1**",
    source="NeurIPS 2023 competition, 2406.09073",
    needs=PAIR,
)
def forgetting_quality(pair: Pair, split: str) -> float:
    """How little attacks on single examples distinguish unlearned models from oracles."""
    return pair.quality()


@metric(
    TWO_SAMPLE,
    SPLITS,
    label="largest |t| of an example",
    short="max t",
    perfect="above 2",
    source="here, see `metrics/by_example.py`",
    needs=PAIR,
)
def example_t(pair: Pair, split: str) -> float:
    """Root mean square of the five largest |t| (Welch) over the examples: a few of them differ, whatever the others do."""
    return largest_t(pair.unlearned.margins[split], pair.oracles.margins[split])


@metric(
    TWO_SAMPLE,
    SPLITS,
    unit="sd",
    label="farthest model",
    perfect="about 0",
    source="here, see `metrics/by_model.py`",
    needs=PAIR,
    least_sd=0.8,
)
def outlier_distance(pair: Pair, split: str) -> float:
    """How far out the unlearned model is that is farthest from the oracles, among theirs; as a normal score."""
    return largest_outlier(*model_distances(pair.unlearned.margins[split], pair.oracles.margins[split]))


@metric(
    TWO_SAMPLE,
    ("forget",),
    unit="sd",
    label="model that remembers most",
    perfect="about 0",
    source="here, see `metrics/by_model.py`",
    needs=(*PAIR, "originals"),
    least_sd=1.0,
)
def outlier_memory(pair: Pair, split: str) -> float:
    """How far out the unlearned model is whose memory of F differs most from the oracles'; as a normal score."""
    return largest_outlier(*(models.per_model[memory_of_models.on(split)] for models in (pair.unlearned, pair.oracles)))


def _distance(pair: Pair, split: str, measure: Any) -> np.ndarray:
    """Distance to the mean prediction of the oracles; mean over the examples."""
    return measure(pair.unlearned.probabilities[split], pair.mean(split)).mean(-1)


@metric(
    DISTANCE,
    ("forget", "test"),
    unit="nats",
    label="KL to oracles",
    perfect="above 0",
    source=MEANS,
    needs=PAIR,
)
def kl_to_oracle(pair: Pair, split: str) -> np.ndarray:
    """KL divergence of each model's probabilities from the oracles' mean."""
    return _distance(pair, split, distances.kl_to_mean)


@metric(DISTANCE, ("forget", "test"), label="activation distance", perfect="above 0", source="1911.04933", needs=PAIR)
def activation_distance(pair: Pair, split: str) -> np.ndarray:
    """L2 distance of each model's probabilities from the oracles' mean."""
    return _distance(pair, split, distances.activation_to_mean)


@metric(
    DISTANCE,
    ("forget", "test"),
    unit="bits",
    label="Jensen-Shannon",
    perfect="above 0",
    source=MEANS,
    needs=PAIR,
)
def js_divergence(pair: Pair, split: str) -> np.ndarray:
    """Jensen-Shannon divergence of each model's probabilities and the oracles' mean."""
    return _distance(pair, split, distances.js_to_mean)


def _shares(models: Measured) -> list[np.ndarray]:
    """Accuracies on forget, retain and test in 0..1."""
    return [models.per_model[accuracy.on(split)] / 100 for split in SPLITS]


def _confidence(models: Measured) -> np.ndarray:
    return models.per_model[svc_mia.on("forget")]


@metric(
    TWO_SAMPLE,
    ("all",),
    label="tug of war",
    short="ToW",
    perfect="just under 1",
    source="2406.01257; of mean accuracies, see below",
    needs=PAIR,
)
def tow(pair: Pair, split: str) -> float:
    """Product of (1 - gap in accuracy) on forget, retain and test."""
    return tug_of_war(*_shares(pair.unlearned), *_shares(pair.oracles))


@metric(
    TWO_SAMPLE,
    ("all",),
    label="tug of war with MIA",
    perfect="just under 1",
    source="2406.01257; `svc_mia` in place of the accuracy on F",
    needs=PAIR,
    attack=True,
)
def tow_mia(pair: Pair, split: str) -> float:
    """Tug of war with a membership attack in place of the accuracy on F."""
    (_, retain, test), (_, oracle_retain, oracle_test) = _shares(pair.unlearned), _shares(pair.oracles)
    attacks = _confidence(pair.unlearned), _confidence(pair.oracles)
    return tug_of_war_with_mia(attacks[0], retain, test, attacks[1], oracle_retain, oracle_test)


@metric(
    TWO_SAMPLE,
    ("all",),
    label="competition score",
    perfect="about 0.19: the forgetting quality",
    source="NeurIPS 2023 competition, 2406.09073",
    needs=PAIR,
)
def competition_score(pair: Pair, split: str) -> float:
    """Forgetting quality times the accuracies on retain and test as shares of the oracles'."""
    return competition_score_of(pair.quality(), *_shares(pair.unlearned)[1:], *_shares(pair.oracles)[1:])


@metric(
    TWO_SAMPLE,
    ("all",),
    unit="points",
    label="average gap",
    short="gap",
    perfect="above 0",
    source="SalUn, 2310.12508",
    needs=PAIR,
    attack=True,
)
def average_gap(pair: Pair, split: str) -> float:
    """Mean gap to the oracles in accuracy on forget, retain and test, and in SVC-MIA."""
    of_unlearned, of_oracles = ((*_shares(models), _confidence(models)) for models in (pair.unlearned, pair.oracles))
    return average_gap_of(*of_unlearned, *of_oracles)


@metric(PER_MODEL, SPLITS, unit="%", label="accuracy", short="acc")
def accuracy(models: Seen, split: str) -> np.ndarray:
    """Share of examples that are predicted to be of their label."""
    return accuracy_of(getattr(models.cube, split), getattr(models.labels, split))


@metric(PER_MODEL, SPLITS, unit="nats", label="margin", source="here")
def mean_margin(models: Seen, split: str) -> np.ndarray:
    """Mean margin of the label, log p / (1 - p)."""
    return models.margins[split].mean(-1)


SVC = "2310.12508, 2304.04934"
NOT_HALF = "the oracles' mean, not 0.5"


@metric(PER_MODEL, ("forget",), label="SVC-MIA (correctness)", perfect=NOT_HALF, source=SVC, attack=True)
def svc_mia_correctness(models: Seen, split: str) -> np.ndarray:
    """Share of F that an SVC on correctness calls non-member."""
    return models.svc_mia["correctness"]


@metric(PER_MODEL, ("forget",), label="SVC-MIA", short="SVC-MIA", perfect=NOT_HALF, source=SVC, attack=True)
def svc_mia(models: Seen, split: str) -> np.ndarray:
    """Share of F that an SVC on confidence calls non-member; also the attack inside `average_gap` and `tow_mia`."""
    return models.svc_mia["confidence"]


@metric(PER_MODEL, ("forget",), label="SVC-MIA (entropy)", perfect=NOT_HALF, source=SVC, attack=True)
def svc_mia_entropy(models: Seen, split: str) -> np.ndarray:
    """Share of F that an SVC on entropy calls non-member."""
    return models.svc_mia["entropy"]


@metric(PER_MODEL, ("forget",), label="SVC-MIA (modified entropy)", perfect=NOT_HALF, source=SVC, attack=True)
def svc_mia_m_entropy(models: Seen, split: str) -> np.ndarray:
    """Share of F that an SVC on modified entropy calls non-member."""
    return models.svc_mia["m_entropy"]


@metric(PER_MODEL, ("forget",), label="SVC-MIA (probabilities)", perfect=NOT_HALF, source=SVC, attack=True)
def svc_mia_prob(models: Seen, split: str) -> np.ndarray:
    """Share of F that an SVC on all probabilities calls non-member."""
    return models.svc_mia["prob"]


@metric(
    PER_MODEL,
    ("forget",),
    label="logistic MIA",
    perfect=NOT_HALF,
    source="starter kit of the NeurIPS 2023 competition",
    attack=True,
)
def logistic_mia(models: Seen, split: str) -> np.ndarray:
    """Accuracy of a logistic regression on the loss in distinguishing F from test."""
    return models.logistic_mia


# Metrics that need more than logits: computed by the bench, on `Models`


@metric(PER_MODEL, ("forget",), unit="%", label="accuracy with right labels", needs=("logits", "right labels"))
def accuracy_repaired(models: Models, split: str) -> np.ndarray:
    """Share of F predicted with its right label; only if all training labels of F are wrong."""
    return accuracy_of(models.logits, models.right)


@metric(PER_MODEL, ("all",), label="weight distance", perfect="the oracles' mean, not 0", needs=("weights", "oracles"))
def weight_distance(models: Models, split: str) -> np.ndarray:
    """L2 distance to the oracles' mean weights; of an ensemble, the root mean square over its networks."""
    return distances.weight_distance(models.weights, models.oracles)["all"] / np.sqrt(models.networks)


@metric(PER_MODEL, ("forget",), unit="steps", label="relearning", source="1911.04933, 2201.05629", needs=("relearning",))
def relearn_steps(models: Models, split: str) -> np.ndarray:
    """Steps of the recipe's optimiser on F until the loss is back at that of the originals; at most 11."""
    return steps_to(models.losses, models.target)


@metric(
    PER_MODEL,
    ("forget",),
    label="ZRF",
    perfect="the oracles' mean, not 1",
    source="2205.08096; the definition, see below",
    needs=("logits", "untrained nets"),
)
def zrf(models: Models, split: str) -> np.ndarray:
    """One minus the Jensen-Shannon divergence from untrained networks, as many as originals."""
    return distances.zrf(probabilities(models.logits), models.untrained)


# Metrics that need the originals: computed where these are known, see `by_model.Memory`


@metric(
    PER_MODEL,
    ("forget",),
    label="memory of single models",
    perfect="0; doing nothing: 1",
    source="here, see `metrics/by_model.py`",
    needs=("logits", "oracles", "originals"),
)
def memory_of_models(values: np.ndarray, split: str) -> np.ndarray:
    """Share of what the originals remember of F that a model remembers; only with originals that remember something."""
    return values


NO_NULL = "no null: a cost"


@metric(
    EFFECT,
    ("forget", *PARTS),
    label="memory left",
    short="memory left",
    perfect="0; doing nothing: 1",
    source="here, see `metrics/effects.py`",
    needs=(*PAIR, "originals"),
)
def memory_left(effects: Effects, split: str) -> Interval:
    """Share of what the originals remember of F that is still there; also of its memorised and of its mislabelled part."""
    return effects.memory_left if split == "forget" else effects.of_part.get(split, UNKNOWN)


@metric(
    EFFECT,
    ("all", *SPLITS),
    perfect="0; doing nothing: 0",
    source="here, see `metrics/effects.py`",
    needs=(*PAIR, "originals"),
)
def damage(effects: Effects, split: str) -> Interval:
    """What is neither retrained nor remembered, as a share of what there is to forget."""
    return effects.damage if split == "all" else effects.of_split[split]


@metric(COST, unit="s", short="s/model", perfect=NO_NULL, needs=())
def seconds(spent: Spent, split: str) -> float:
    """Time for one model, without compilation."""
    return spent.seconds


@metric(COST, unit="s", perfect=NO_NULL, needs=())
def compile_seconds(spent: Spent, split: str) -> float:
    """Time to compile the method."""
    return spent.compile_seconds


@metric(COST, short="RTE", perfect=NO_NULL, needs=())
def rte(spent: Spent, split: str) -> float:
    """Time for one model as a share of one retraining's."""
    return spent.seconds / spent.retraining_seconds


@metric(COST, unit="examples", perfect=NO_NULL, needs=())
def examples(spent: Spent, split: str) -> float:
    """Work for one model, in training examples (one forward and backward pass each)."""
    return spent.examples


@metric(COST, perfect=NO_NULL, needs=())
def rte_examples(spent: Spent, split: str) -> float:
    """Work for one model as a share of one retraining's."""
    return spent.examples / spent.retraining_examples
