"""The audits: each a function of a pool of models, with what it claims of a perfect method.

They have a registry of their own, since every metric of `unlearn_jax.metrics.registry` is a row of results.csv.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from unlearn_jax.metrics import accuracy as accuracy_of
from unlearn_jax.metrics import cross_entropy_losses, feature_mia, logistic_mia, probabilities, scaled_logits
from unlearn_jax.metrics.accuracy import residual_knowledge as residual_knowledge_of
from unlearn_jax.metrics.by_model import NONE, Memory
from unlearn_jax.metrics.likelihood import FEWEST, auc, offline_scores, unlearned_ratios
from unlearn_jax.metrics.privacy import epsilon_one_run, epsilon_over_models, gaussian_epsilon, mu_over_models
from unlearn_jax.metrics.representations import linear_cka, probe_accuracy
from unlearn_jax.metrics.retrain_free import (
    class_js_divergence,
    non_member_share,
    split_half_dependence,
    unlearning_completeness,
)
from unlearn_jax.metrics.views import on_threads
from unlearn_jax.types import Cube, Labels

BACK, FREE, INSIDE, PRIVACY, OUTPUTS = GROUPS = ("comes back", "retrain-free", "inside", "privacy", "outputs")
NEEDS = ("memory", "wrong labels", "class", "features")
CHANGES = ("training on R", "training on unseen", "training on F", "8 bits", "4 bits", "pruning")
MEMBERS = 500  # most retained examples of `non_members`, whose cost is quadratic


@dataclass(frozen=True)
class Known:
    """What every audit may look at besides the audited models; each audit takes what its paper allows.

    Attributes:
        labels: of forget, retain and test examples.
        unseen: labels of the held-out examples.
        wrong: which forget examples have a wrong label.
        forgotten: the class that F holds, if it is one.
        memory: what originals remember of F; None if that cannot be told from nothing.
        originals: probabilities of the originals on the held-out examples.
        oracles: margins of the oracles, by split.
        oracle_features: penultimate features of the oracles on F and on held-out examples; None for a model that declares none.
        oracle_nudged: logits of the oracles on changed forget examples.
        halves: margins, by split, of models trained on random halves of the training set.
        saw: which of these trained on which retained example.
        saw_forget: likewise, on which forget example.
        vulnerable: the quarter of F that is most exposed, by these models.
        fitted: margins of the originals on F.
        delta: of (ε, δ).
        seed: draws samples.
    """

    labels: Labels
    unseen: np.ndarray
    wrong: np.ndarray
    forgotten: int | None
    memory: Memory | None
    originals: np.ndarray
    oracles: Mapping[str, np.ndarray]
    oracle_features: Mapping[str, np.ndarray] | None
    oracle_nudged: np.ndarray
    halves: Mapping[str, np.ndarray]
    saw: np.ndarray
    saw_forget: np.ndarray
    vulnerable: np.ndarray
    fitted: np.ndarray
    delta: float
    seed: int

    def has(self, audit: "Audit") -> bool:
        """Whether there is what an audit needs."""
        there = {
            "memory": self.memory is not None,
            "wrong labels": bool(self.wrong.any()),
            "class": self.forgotten is not None,
            "features": self.oracle_features is not None,
        }
        return all(there[need] for need in audit.needs)


class Inverted(NamedTuple):
    """The inputs that models take for the forgotten class, see `training.inversion`.

    Attributes:
        likeness: correlation of each with the mean image of F less that of R, `[models, draws]`.
        seen_by: the probability of the class that each original gives them, `[originals, models, draws]`.
    """

    likeness: np.ndarray
    seen_by: np.ndarray


@dataclass(frozen=True)
class Models:
    """A pool of models to audit; members come first in every array.

    Attributes:
        own: the row of the original that each was unlearned from (or is), -1 for retrained models.
        cube: logits on forget, retain and test.
        unseen: logits on the held-out examples.
        features: penultimate features on forget, retain and held-out (`unseen`) examples; None as in `Known`.
        nudged: logits on changed forget examples, `[models, draws, forget, classes]`.
        changed: logits on F after each of `CHANGES` to the models; not finite for a model that diverged.
        inverted: what each takes for the forgotten class; None if F is not one.
    """

    own: np.ndarray
    cube: Cube
    unseen: np.ndarray
    features: Mapping[str, np.ndarray] | None
    nudged: np.ndarray
    changed: Mapping[str, np.ndarray]
    inverted: "Inverted | None" = None

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.cube.test.shape[2]

    def margins(self, split: str, labels: Labels) -> np.ndarray:
        """Margins on a split."""
        return scaled_logits(getattr(self.cube, split), getattr(labels, split))

    def memory(self, known: Known, logits: np.ndarray | None = None) -> np.ndarray:
        """The memory of each model, or of what gave other logits on F; NaN where those are not finite."""
        assert known.memory
        logits = self.cube.forget if logits is None else logits
        there = np.isfinite(logits).all(axis=(1, 2))
        found = np.full(len(logits), np.nan)
        if there.any():
            found[there] = known.memory.of(scaled_logits(logits[there], known.labels.forget), self.own[there])
        return found

    def originals_of(self, known: Known) -> np.ndarray:
        """The row of each model's original; retrained models, which have none, take them in turn."""
        return np.where(self.own == NONE, np.arange(len(self.own)) % len(known.originals), self.own)


class Audit(NamedTuple):
    """One audit.

    Attributes:
        name: as in audits.csv.
        measure: `(models, known) -> one number for each model`; of a pooled one `(memory, memory of retrained models, thresholds,
            known) -> one number`.
        group: one of `GROUPS`.
        pooled: whether it gives one number for all models together.
        target: the value that it claims for a perfect method; None if it claims none, or needs retrained models for it.
        label: in tables and figures.
        source: where it was published.
        summary: one line.
        needs: a subset of `NEEDS`.
        kept: whether its values are kept with the pool; if not, it looks at `own`, `cube` and `Known` alone, and is applied when
            the tables are written.
    """

    name: str
    measure: Callable[..., Any]
    group: str
    pooled: bool
    target: float | None
    label: str
    source: str
    summary: str
    needs: tuple[str, ...]
    kept: bool = True


AUDITS: dict[str, Audit] = {}


def audit(
    group: str,
    label: str,
    *,
    source: str,
    target: float | None = None,
    needs: tuple[str, ...] = (),
    pooled: bool = False,
    name: str = "",
    summary: str = "",
    kept: bool = True,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers an audit under the name of its function; for the arguments see `Audit`.

    Raises:
        ValueError: an unknown group or need, or a name that is taken.
    """

    def register(measure: Callable[..., Any]) -> Callable[..., Any]:
        key = name or measure.__name__
        if key in AUDITS:
            raise ValueError(f"{key}: an audit of this name is already registered")
        if group not in GROUPS or set(needs) - set(NEEDS):
            raise ValueError(f"{key}: unknown group {group} or need among {', '.join(needs)}")
        words = summary or (measure.__doc__ or key).strip().splitlines()[0]
        AUDITS[key] = Audit(key, measure, group, pooled, target, label, source, words, needs, kept)
        return measure

    return register


# Does it come back without showing F? The value is the memory after a change to the models


def _changed(change: str) -> None:
    """Registers the memory after a change, and how much of it came with the change."""
    word = change.replace(" ", "_").lower()
    cause = {"training": "2505.22310", "8 bits": "2605.02196", "4 bits": "2605.02196", "pruning": "1506.02626"}
    source = cause.get(change, cause["training"])

    def after(models: Models, known: Known) -> np.ndarray:
        return models.memory(known, models.changed[change])

    def regained(models: Models, known: Known) -> np.ndarray:
        return after(models, known) - models.memory(known)

    label = f"memory after {change}"
    facts: dict[str, Any] = {"source": source, "needs": ("memory",)}
    audit(BACK, label, name=f"memory_after_{word}", summary=f"Share of the memory of F that is there after {change}.", **facts)(
        after
    )
    label, summary = f"regained by {change}", f"Memory of F after {change}, less that before."
    audit(BACK, label, name=f"regained_by_{word}", summary=summary, **facts)(regained)


for each_change in CHANGES:
    _changed(each_change)


# Retrain-free


@audit(FREE, "loss MIA", source="NeurIPS 2023 competition, 2406.09073", target=0.5)
def loss_mia(models: Models, known: Known) -> np.ndarray:
    """Accuracy of a logistic regression on the loss in distinguishing F from test."""
    forget = cross_entropy_losses(models.cube.forget, known.labels.forget)
    return logistic_mia(forget, cross_entropy_losses(models.cube.test, known.labels.test), seed=known.seed)


@audit(FREE, "accuracy on F less that on test", source="folklore", target=0.0)
def accuracy_gap(models: Models, known: Known) -> np.ndarray:
    """Accuracy on F less accuracy on test, in points."""
    of_forget, of_test = (accuracy_of(getattr(models.cube, s), getattr(known.labels, s)) for s in ("forget", "test"))
    return of_forget - of_test


@audit(FREE, "SMI: share of non-members", source="2602.01150 (its abstract)", target=1.0, needs=("features",))
def non_members(models: Models, known: Known) -> np.ndarray:
    """Share of non-members in the features of F, as a mixture of R's and held-out examples' features."""
    assert models.features
    parts = zip(models.features["forget"], models.features["retain"][:, :MEMBERS], models.features["unseen"], strict=True)
    return np.array(on_threads(lambda sides: non_member_share(*sides), parts))


@audit(FREE, "HSIC of halves, F against unseen", source="2603.00587 (its abstract)", target=0.0, needs=("features",))
def half_dependence(models: Models, known: Known) -> np.ndarray:
    """Logarithm of the dependence between halves of F, as a ratio to that of as many held-out examples."""
    assert models.features
    sides = models.features["forget"], models.features["unseen"]
    size = min(side.shape[1] for side in sides)

    def ratio(number: int) -> float:
        found = [split_half_dependence(side[number, :size], seed=known.seed) for side in sides]
        return float(np.log(max(found[0], np.finfo(float).tiny) / max(found[1], np.finfo(float).tiny)))

    return np.array(on_threads(ratio, range(len(models.own))))


@audit(FREE, "RF-JSD of LoTUS", source="2503.18314", target=0.0)
def rf_jsd(models: Models, known: Known) -> np.ndarray:
    """Divergence by class between the answers on F and the original's on held-out examples, in bits."""
    answers = zip(probabilities(models.cube.forget), known.originals[models.originals_of(known)], strict=True)
    return np.array([class_js_divergence(p, known.labels.forget, q, known.unseen) for p, q in answers])


@audit(FREE, "IAM: completeness", source="2506.06112 (its abstract, its code)", target=1.0, kept=False)
def completeness(models: Models, known: Known) -> np.ndarray:
    """How completely F is unlearned, between models on random halves that never saw an example and the original; the mean."""
    return completeness_of_examples(models, known).mean(axis=1)


def completeness_of_examples(models: Models, known: Known) -> np.ndarray:
    """The same of each forget example."""
    margins, fitted = models.margins("forget", known.labels), known.fitted[models.originals_of(known)]
    return unlearning_completeness(margins, fitted, known.halves["forget"], known.saw_forget)


@audit(FREE, "probe for membership", source="2503.06991", target=0.5, needs=("features",))
def membership_probe(models: Models, known: Known) -> np.ndarray:
    """AUC of a linear probe, cross-validated, that distinguishes features of F from those of held-out examples."""
    assert models.features
    pairs = zip(models.features["forget"], models.features["unseen"], strict=True)
    return np.array([feature_mia(*pair, "logistic", seed=known.seed).auc for pair in pairs])


# Gone inside?


@audit(INSIDE, "probe for F's labels", source="1610.01644", needs=("features",))
def label_probe(models: Models, known: Known) -> np.ndarray:
    """Share of F given its label by a linear probe that was fitted to the features of R."""
    assert models.features
    fitted = models.features["retain"], known.labels.retain
    return probe_accuracy(*fitted, models.features["forget"], known.labels.forget, models.classes)


@audit(INSIDE, "probe for F's wrong labels", source="1610.01644", needs=("features", "wrong labels"))
def wrong_label_probe(models: Models, known: Known) -> np.ndarray:
    """Share of the mislabelled examples of F given their wrong label by a linear probe that was fitted to the features of R."""
    assert models.features
    fitted = models.features["retain"], known.labels.retain
    return probe_accuracy(*fitted, models.features["forget"][:, known.wrong], known.labels.forget[known.wrong], models.classes)


@audit(INSIDE, "CKA with oracles on F", source="1905.00414", needs=("features",))
def cka_forget(models: Models, known: Known) -> np.ndarray:
    """Linear CKA of the features of F with those of retrained models, the mean over these."""
    assert models.features and known.oracle_features
    return linear_cka(models.features["forget"], known.oracle_features["forget"]).mean(axis=1)


@audit(INSIDE, "CKA with oracles on unseen", source="1905.00414", needs=("features",))
def cka_unseen(models: Models, known: Known) -> np.ndarray:
    """Linear CKA of the features of held-out examples with those of retrained models, the mean over these."""
    assert models.features and known.oracle_features
    return linear_cka(models.features["unseen"], known.oracle_features["unseen"]).mean(axis=1)


@audit(INSIDE, "inversion: recognised", source="2010.10981", needs=("class",))
def inversion_recognised(models: Models, known: Known) -> np.ndarray:
    """Probability of the forgotten class that other originals give to what a model takes for that class."""
    assert models.inverted
    seen = models.inverted.seen_by.mean(axis=2)
    own = np.arange(len(seen))[:, None] == models.own
    return np.where(own, 0, seen).sum(axis=0) / (~own).sum(axis=0)


@audit(INSIDE, "inversion: likeness", source="2010.10981", needs=("class",))
def inversion_likeness(models: Models, known: Known) -> np.ndarray:
    """Correlation of what a model takes for the forgotten class with the class's mean image, less that of R."""
    assert models.inverted
    return models.inverted.likeness.mean(axis=1)


# Privacy


@audit(PRIVACY, "ε of one model", source="2305.08846", target=0.0)
def epsilon_in_one_model(models: Models, known: Known) -> np.ndarray:
    """Lower bound on ε from guesses in one model which examples are of F and which were never seen; rightly labelled ones."""
    forget = cross_entropy_losses(models.cube.forget, known.labels.forget)[:, ~known.wrong]
    unseen = cross_entropy_losses(models.unseen, known.unseen)
    return epsilon_one_run(-forget, -unseen, delta=known.delta, seed=known.seed)


@audit(PRIVACY, "ε over models", source="2006.07709", needs=("memory",), pooled=True)
def epsilon_of_models(memory: np.ndarray, others: np.ndarray, thresholds: np.ndarray, known: Known) -> float:
    """Lower bound on ε from the memory of F of all models together, against retrained models (Clopper-Pearson)."""
    return epsilon_over_models(memory, others, thresholds, known.delta)


@audit(PRIVACY, "ε over models, Gaussian", source="1905.02383", needs=("memory",), pooled=True)
def gaussian_epsilon_of_models(memory: np.ndarray, others: np.ndarray, thresholds: np.ndarray, known: Known) -> float:
    """The same, if the trade-off is that of two Gaussians."""
    return gaussian_epsilon(mu_over_models(memory, others, thresholds), known.delta)


@audit(PRIVACY, "offline LiRA on F", source="2112.03570")
def lira_forget(models: Models, known: Known) -> np.ndarray:
    """AUC of the offline likelihood-ratio attack: F against test, each by its margins in retrained models."""
    sides = [offline_scores(models.margins(split, known.labels), known.oracles[split]) for split in ("forget", "test")]
    return auc(*sides)


@audit(PRIVACY, "offline LiRA on R", source="2605.01129 (its abstract), 2112.03570")
def lira_retain(models: Models, known: Known) -> np.ndarray:
    """AUC of the attack on those who stay: R against test, each by its margins in models on halves that never saw it."""
    retain = offline_scores(models.margins("retain", known.labels), known.halves["retain"], known.saw)
    return auc(retain, offline_scores(models.margins("test", known.labels), known.halves["test"]))


@audit(PRIVACY, "RULI on F", source="2506.13009 (its abstract, its code)", kept=False)
def ruli(models: Models, known: Known) -> np.ndarray:
    """AUC of a likelihood-ratio test on single examples of F: an unlearned model against retrained ones."""
    return _ruli(models, known, np.ones(len(known.labels.forget), bool))


@audit(PRIVACY, "RULI on the vulnerable quarter of F", source="2506.13009 (its abstract, its code)", kept=False)
def ruli_vulnerable(models: Models, known: Known) -> np.ndarray:
    """The same on the quarter of F that is most exposed in models on random halves."""
    return _ruli(models, known, known.vulnerable)


def _ruli(models: Models, known: Known, rows: np.ndarray) -> np.ndarray:
    margins = models.margins("forget", known.labels)[:, rows]
    if len(margins) < FEWEST:
        return np.full(len(margins), np.nan)
    own, others = unlearned_ratios(margins, known.oracles["forget"][:, rows])
    return auc(own, np.tile(others.ravel(), (len(own), 1)))


# Outputs


@audit(OUTPUTS, "accuracy on F", source="folklore")
def accuracy_forget(models: Models, known: Known) -> np.ndarray:
    """Accuracy on F, in percent."""
    return accuracy_of(models.cube.forget, known.labels.forget)


@audit(OUTPUTS, "accuracy on test", source="folklore")
def accuracy_test(models: Models, known: Known) -> np.ndarray:
    """Accuracy on test, in percent."""
    return accuracy_of(models.cube.test, known.labels.test)


@audit(OUTPUTS, "residual knowledge", source="2601.22359")
def residual_knowledge(models: Models, known: Known) -> np.ndarray:
    """How much more often than retrained models a model gives F its label under a little noise, as a ratio."""
    return residual_knowledge_of(models.nudged, known.oracle_nudged, known.labels.forget)


@audit(OUTPUTS, "accuracy on the forgotten class", source="folklore", needs=("class",))
def accuracy_forgotten_class(models: Models, known: Known) -> np.ndarray:
    """Accuracy on the test examples of the forgotten class, in percent."""
    rows = known.labels.test == known.forgotten
    return accuracy_of(models.cube.test[:, rows], known.labels.test[rows])


@audit(OUTPUTS, "accuracy on the kept classes", source="folklore", needs=("class",))
def accuracy_kept_classes(models: Models, known: Known) -> np.ndarray:
    """Accuracy on the test examples of all other classes, in percent."""
    rows = known.labels.test != known.forgotten
    return accuracy_of(models.cube.test[:, rows], known.labels.test[rows])
