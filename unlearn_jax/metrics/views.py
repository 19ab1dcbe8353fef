"""What a metric is given: a pool's logits, two pools side by side, the models themselves, or what a method cost.

To bound the time, all but the accuracies look at `Seen.rows`; of these forgetting quality looks at no more than 500, and SVC-MIA
trains on no more than 500 a side.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Int

from unlearn_jax.metrics import checks
from unlearn_jax.metrics.attacks import logistic_mia, svc_mia
from unlearn_jax.metrics.forgetting_quality import forgetting_quality
from unlearn_jax.metrics.klom import klom
from unlearn_jax.metrics.registry import SPLITS, Name
from unlearn_jax.metrics.scores import probabilities, scaled_logits
from unlearn_jax.types import Cube, Labels

QUALITY_ROWS = 500  # that forgetting quality looks at
SVC_ROWS = 500  # a side, that SVC-MIA trains on
Extra = Mapping[Name, Float[Any, " members"]]  # metrics per model that need more than logits
In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class Seen:
    """A pool's logits with their labels. What several metrics share is computed once.

    Attributes:
        cube: all logits.
        labels: theirs.
        rows: the rows of each split that metrics other than the accuracy look at.
        seed: draws samples.
    """

    cube: Cube
    labels: Labels
    rows: Mapping[str, Int[np.ndarray, " rows"]]
    seed: int

    @cached_property
    def labels_seen(self) -> dict[str, Int[np.ndarray, " rows"]]:
        """Labels of the rows, by split."""
        return {split: np.asarray(getattr(self.labels, split))[self.rows[split]] for split in SPLITS}

    @cached_property
    def logits(self) -> dict[str, Float[np.ndarray, "members rows classes"]]:
        """Logits of the rows, by split."""
        return {split: np.asarray(getattr(self.cube, split))[:, self.rows[split]] for split in SPLITS}

    @cached_property
    def probabilities(self) -> dict[str, Float[np.ndarray, "members rows classes"]]:
        """Their softmax."""
        return {split: probabilities(logits) for split, logits in self.logits.items()}

    @cached_property
    def margins(self) -> dict[str, Float[np.ndarray, "members rows"]]:
        """Margins of the rows, by split."""
        return {split: scaled_logits(logits, self.labels_seen[split]) for split, logits in self.logits.items()}

    @cached_property
    def svc_mia(self) -> dict[str, Float[np.ndarray, " members"]]:
        """MIA-efficacy of the SVC by feature, see `attacks.svc_mia`."""
        labels, size = self.labels_seen, min(len(self.labels_seen["test"]), SVC_ROWS)

        def attack(member: int) -> dict[str, float]:
            retain, test, forget = ((self.probabilities[split][member], labels[split]) for split in ("retain", "test", "forget"))
            return svc_mia(retain, test, forget, size=size, seed=self.seed)

        attacks = on_threads(attack, range(len(self.cube.forget)))
        return {feature: np.array([each[feature] for each in attacks]) for feature in attacks[0]}

    @cached_property
    def logistic_mia(self) -> Float[np.ndarray, " members"]:
        """Accuracy of the attack by the loss, `-log p_y`, see `attacks.logistic_mia`."""
        forget, test = (np.logaddexp(0, -self.margins[split]) for split in ("forget", "test"))
        return logistic_mia(forget, test, seed=self.seed)


@dataclass(frozen=True)
class Measured:
    """What is kept of a pool for comparisons; members first in every array.

    Attributes:
        margins: of the rows, by split.
        probabilities: of the rows, by split.
        per_model: every metric per model.
    """

    margins: dict[str, Float[np.ndarray, "members rows"]]
    probabilities: dict[str, Float[np.ndarray, "members rows classes"]]
    per_model: dict[Name, Float[np.ndarray, " members"]]

    def __len__(self) -> int:
        return len(self.margins[SPLITS[0]])

    def with_extra(self, extra: Extra | None) -> "Measured":
        """With metrics per model that were computed elsewhere.

        Raises:
            ValueError: one is not finite, or not a number for each member.
        """
        for name, values in (extra or {}).items():
            if checks.numbers(f"extra {name}", values, "members").shape != (len(self),):
                raise ValueError(f"extra {name}: {np.shape(values)[0]} values, expected one for each of {len(self)} members")
        return replace(self, per_model=self.per_model | {name: np.asarray(values) for name, values in (extra or {}).items()})

    def take(self, members: Int[np.ndarray, " some"]) -> "Measured":
        """The same of some members."""
        return Measured(
            {split: values[members] for split, values in self.margins.items()},
            {split: values[members] for split, values in self.probabilities.items()},
            {name: values[members] for name, values in self.per_model.items()},
        )


class Pair:
    """n unlearned models beside n oracles. What several metrics share is computed once.

    Args:
        unlearned: the unlearned models.
        oracles: the retrained models.
        quality: the forgetting quality, where it is known.
    """

    def __init__(self, unlearned: Measured, oracles: Measured, quality: float | None = None):
        self.unlearned, self.oracles = unlearned, oracles
        self._quality = quality
        self._klom: dict[str, np.ndarray] = {}

    def klom(self, split: str) -> Float[np.ndarray, " rows"]:
        """KLOM of each row, see `metrics.klom`."""
        if split not in self._klom:
            self._klom[split] = klom(self.unlearned.margins[split], self.oracles.margins[split])
        return self._klom[split]

    def quality(self) -> float:
        """The forgetting quality, see `metrics.forgetting_quality`."""
        if self._quality is None:
            phi, oracle_phi = (pool.margins["forget"][:, :QUALITY_ROWS] for pool in (self.unlearned, self.oracles))
            self._quality = forgetting_quality(phi, oracle_phi).score
        return self._quality


class Models(NamedTuple):
    """Models themselves, for the metrics that need more than logits.

    Attributes:
        logits: on the whole forget set.
        weights: arrays with the members first, nested by name.
        oracles: the retrained models' weights; None: the models are the oracles, each compared with the others.
        networks: of each member; more than 1 for ensembles.
        losses: on the forget set while the models are finetuned on it, `[members, points]`.
        target: the original models' loss there.
        untrained: probabilities of untrained nets on the forget set, `[nets, forget, classes]`.
        right: the right labels of the forget set, where all that were trained on are wrong.
    """

    logits: Float[np.ndarray, "members forget classes"]
    weights: Mapping[str, Any]
    oracles: Mapping[str, Any] | None
    networks: int
    losses: Float[np.ndarray, "members points"]
    target: float
    untrained: Float[np.ndarray, "nets forget classes"]
    right: Int[np.ndarray, " forget"] | None


class Spent(NamedTuple):
    """What a method cost, and what one retraining cost.

    Attributes:
        seconds: of one model, compilation apart.
        compile_seconds: of the method's program.
        examples: floating-point work of one model, in training examples seen forward and backward.
        retraining_seconds: of one retrained model.
        retraining_examples: its work.
    """

    seconds: float
    compile_seconds: float
    examples: float
    retraining_seconds: float
    retraining_examples: float


def on_threads(function: Callable[[In], Out], items: Iterable[In]) -> list[Out]:
    """Maps on as many threads as there are cores: NumPy and libsvm release the interpreter's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(function, items))
