"""The views that metrics are computed from: the logits of a pool, two pools, the models themselves, or the cost of a method.

To limit the time, metrics other than accuracy use only `Seen.rows`; of these, forgetting quality uses at most 500, and SVC-MIA
trains on at most 500 on each side.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Event
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Int

from unlearn_jax.metrics import checks
from unlearn_jax.metrics.attacks import logistic_mia, svc_mia
from unlearn_jax.metrics.forgetting_quality import forgetting_quality
from unlearn_jax.metrics.klom import klom
from unlearn_jax.metrics.registry import METRICS, SPLITS, Metric, Name
from unlearn_jax.metrics.scores import probabilities, scaled_logits
from unlearn_jax.types import Cube, Labels

QUALITY_ROWS = 500  # most rows for forgetting quality
SVC_ROWS = 500  # most training rows of SVC-MIA on each side
Extra = Mapping[Name, Float[Any, " members"]]  # per-model metrics that need more than logits
In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class Seen:
    """The logits and labels of a pool. Results that several metrics share are computed once.

    Attributes:
        cube: all logits.
        labels: of the logits.
        rows: by split, the rows for metrics other than accuracy.
        seed: draws samples.
        attacked: `svc_mia`, if another thread is to compute it.
    """

    cube: Cube
    labels: Labels
    rows: Mapping[str, Int[np.ndarray, " rows"]]
    seed: int
    attacked: "Future[dict[str, np.ndarray]] | None" = None

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
        """Probabilities of the rows, by split."""
        return {split: probabilities(logits) for split, logits in self.logits.items()}

    @cached_property
    def margins(self) -> dict[str, Float[np.ndarray, "members rows"]]:
        """Margins of the rows, by split."""
        return {split: scaled_logits(logits, self.labels_seen[split]) for split, logits in self.logits.items()}

    @cached_property
    def svc_mia(self) -> dict[str, Float[np.ndarray, " members"]]:
        """MIA-efficacy by feature, see `attacks.svc_mia`."""
        if self.attacked and not self.attacked.cancel() and not self.attacked.exception():  # it runs, or is done
            return self.attacked.result()
        return self.attacks(on_threads)

    def attacks(self, over: Callable[..., Iterable[Any]]) -> dict[str, Float[np.ndarray, " members"]]:
        """As `svc_mia`, by a function such as `map` that applies the attack to each member."""
        labels, size = self.labels_seen, min(len(self.labels_seen["test"]), SVC_ROWS)

        def attack(member: int) -> dict[str, float]:
            retain, test, forget = ((self.probabilities[split][member], labels[split]) for split in ("retain", "test", "forget"))
            return svc_mia(retain, test, forget, size=size, seed=self.seed)

        found = list(over(attack, range(len(self.cube.forget))))
        return {feature: np.array([efficacy[feature] for efficacy in found]) for feature in found[0]}

    @cached_property
    def logistic_mia(self) -> Float[np.ndarray, " members"]:
        """Accuracy of the attack by the loss, `-log p_y`, see `attacks.logistic_mia`."""
        forget, test = (np.logaddexp(0, -self.margins[split]) for split in ("forget", "test"))
        return logistic_mia(forget, test, seed=self.seed)


@dataclass(frozen=True)
class Views:
    """Makes the views of pools of models on the same examples: `views(cube)`. Made by `views_of`.

    Attributes:
        labels: of the logits.
        rows: see `Seen`.
        seed: likewise.
        attacked: what other threads compute (see `Seen`), by the `id` of the cube; with the cube, so that the `id` stays its own.
    """

    labels: Labels
    rows: Mapping[str, Int[np.ndarray, " rows"]]
    seed: int
    attacked: Mapping[int, "tuple[Cube, Future[dict[str, np.ndarray]]]"] = field(default_factory=dict)

    def __call__(self, cube: Cube) -> Seen:
        """The view of one pool."""
        _, attacked = self.attacked.get(id(cube), (cube, None))
        return Seen(cube, self.labels, self.rows, self.seed, attacked)

    @contextmanager
    def attacks_begun(self, cubes: Iterable[Cube]) -> Iterator["Views"]:
        """Begins with SVC-MIA of some pools on the other cores. It takes longest, and hardly needs the interpreter.

        Args:
            cubes: the pools, in the order in which they will be asked for. They are known by identity: an equal copy, or a part,
                is another pool. They are checked where their views are used.

        Returns:
            Views whose `svc_mia` is what the other threads find. An attack that has not begun when it is asked for is computed by
            who asks. At the end of the context all of them are forgotten.
        """
        over = Event()
        begun: dict[int, tuple[Cube, Future]] = {}

        def one_by_one(attack: Callable[[int], Any], members: Iterable[int]) -> Iterator[Any]:
            for member in members:
                if over.is_set():
                    raise CancelledError
                yield attack(member)

        with ThreadPoolExecutor(max((os.cpu_count() or 1) - 1, 1)) as threads:
            try:
                for cube in cubes:
                    begun[id(cube)] = cube, threads.submit(self(cube).attacks, one_by_one)
                yield replace(self, attacked=begun)
            finally:
                over.set()
                threads.shutdown(cancel_futures=True)
                begun.clear()


def views_of(labels: Labels, seed: int = 0, rows: int = 1_000) -> Views:
    """Draws the rows that metrics other than accuracy use.

    Args:
        labels: of the examples.
        seed: draws them, and the samples of SVC-MIA.
        rows: the most of each split.

    Raises:
        ValueError: a negative seed, or no rows.
    """
    checks.count("rows", rows, 1)
    rng = checks.generator(seed)
    return Views(labels, {split: rng.permutation(len(of_split))[:rows] for split, of_split in labels._asdict().items()}, seed)


@dataclass(frozen=True)
class Measured:
    """The measurements of a pool for comparisons; members come first in every array.

    Attributes:
        margins: of the rows, by split.
        probabilities: of the rows, by split.
        per_model: every per-model metric.
    """

    margins: dict[str, Float[np.ndarray, "members rows"]]
    probabilities: dict[str, Float[np.ndarray, "members rows classes"]]
    per_model: dict[Name, Float[np.ndarray, " members"]]

    def __len__(self) -> int:
        return len(self.margins[SPLITS[0]])

    def with_extra(self, extra: Extra | None) -> "Measured":
        """Adds per-model metrics that were computed elsewhere.

        Raises:
            ValueError: a metric is not finite, or does not have one value for each member.
        """
        for name, values in (extra or {}).items():
            if checks.numbers(f"extra {name}", values, "members").shape != (len(self),):
                raise ValueError(f"extra {name}: {np.shape(values)[0]} values, expected one for each of {len(self)} members")
        return replace(self, per_model=self.per_model | {name: np.asarray(values) for name, values in (extra or {}).items()})

    def take(self, members: Int[np.ndarray, " some"]) -> "Measured":
        """Selects some members."""
        return Measured(
            {split: values[members] for split, values in self.margins.items()},
            {split: values[members] for split, values in self.probabilities.items()},
            {name: values[members] for name, values in self.per_model.items()},
        )


class Pair:
    """n unlearned models and n oracles. Results that several metrics share are computed once.

    Args:
        unlearned: the unlearned models.
        oracles: the retrained models.
        quality: the forgetting quality, if it is known.
    """

    def __init__(self, unlearned: Measured, oracles: Measured, quality: float | None = None):
        self.unlearned, self.oracles = unlearned, oracles
        self._quality = quality
        self._klom: dict[str, np.ndarray] = {}
        self._means: dict[str, np.ndarray] = {}

    def serves(self, metric: Metric) -> bool:
        """Whether a metric can be computed: one that needs originals takes per-model metrics that do, too."""
        known = (METRICS[name] for name, _ in self.oracles.per_model if name in METRICS)
        return "originals" not in metric.needs or any("originals" in each.needs for each in known)

    def klom(self, split: str) -> Float[np.ndarray, " rows"]:
        """KLOM of each row, see `metrics.klom`."""
        if split not in self._klom:
            self._klom[split] = klom(self.unlearned.margins[split], self.oracles.margins[split])
        return self._klom[split]

    def mean(self, split: str) -> Float[np.ndarray, "rows classes"]:
        """The oracles' mean probabilities of each row."""
        if split not in self._means:
            self._means[split] = self.oracles.probabilities[split].mean(0)
        return self._means[split]

    @property
    def known_quality(self) -> float | None:
        """The forgetting quality if it was given or computed."""
        return self._quality

    def quality(self) -> float:
        """The forgetting quality, see `metrics.forgetting_quality`."""
        if self._quality is None:
            phi, oracle_phi = (pool.margins["forget"][:, :QUALITY_ROWS] for pool in (self.unlearned, self.oracles))
            self._quality = forgetting_quality(phi, oracle_phi).score
        return self._quality


class Models(NamedTuple):
    """Models, for metrics that need more than logits.

    Attributes:
        logits: on the whole forget set.
        weights: arrays with the members first, nested by name.
        oracles: weights of the retrained models; None: the models are the oracles, and each is compared with the others.
        networks: number of networks in each member; more than 1 for ensembles.
        losses: on the forget set while the models are finetuned on it, `[members, points]`.
        target: the loss of the original models there.
        untrained: probabilities of untrained networks on the forget set, `[nets, forget, classes]`.
        right: the right labels of the forget set, if all of its training labels are wrong.
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
    """The cost of a method, and that of retraining.

    Attributes:
        seconds: for one model, without compilation.
        compile_seconds: to compile the method.
        examples: floating-point work for one model, in training examples (one forward and backward pass each).
        retraining_seconds: to retrain one model.
        retraining_examples: the work of retraining one model.
    """

    seconds: float
    compile_seconds: float
    examples: float
    retraining_seconds: float
    retraining_examples: float


def on_threads(function: Callable[[In], Out], items: Iterable[In]) -> list[Out]:
    """Maps a function over items, with a thread for each core: NumPy and libsvm release the interpreter lock."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(function, items))
