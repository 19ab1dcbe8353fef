"""The metrics of the main study that need more than logits: weights, relearning, and what an untrained net says."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from unlearn_jax.bench.options import Judging
from unlearn_jax.metrics import accuracy, probabilities, relearn_steps, weight_distance, zrf
from unlearn_jax.metrics.evaluation import Name
from unlearn_jax.progress import stage
from unlearn_jax.training.ensembles import predict
from unlearn_jax.training.fit import initialise
from unlearn_jax.training.pools import member_keys
from unlearn_jax.training.relearning import Relearner
from unlearn_jax.types import Model, Params, Problem, Variables


class Seen(NamedTuple):
    """What a metric sees of some models."""

    variables: Variables
    logits: np.ndarray  # on the forget set
    oracles: Params | None  # whose weights are compared with; None: each with the others'
    relearner: Relearner


class ModelMetrics:
    """All of `metrics_for` on one forget set, per model.

    Args:
        config: how members are batched; number (as many as originals, whose program they share) and seed of the untrained nets.
        problem: the forget set and the model.
        images: of the forget set.
        originals: whose loss on the forget set relearning is to reach; those that did not diverge.
        oracles: retrained models; those that did not diverge.
        right: the right labels of the forget set, where all that were trained on are wrong: whether forgetting repairs.
    """

    def __init__(
        self,
        config: Judging,
        problem: Problem,
        images: np.ndarray,
        originals: Variables,
        oracles: Variables,
        right: np.ndarray | None = None,
    ):
        assert config.members != "auto"
        self.config, self.problem, self.oracles, self.right = config, problem, oracles, right
        self.relearner = Relearner(problem, config.strategy, config.chunk)
        losses = self.relearner(originals)[:, 0] if len(jax.tree.leaves(originals)[0]) else np.zeros(1)
        self.target = float(losses.mean())
        drawn = jax.jit(jax.vmap(lambda key: initialise(key, problem)))
        nets = drawn(member_keys(config.seed, "untrained", config.members))
        self.untrained = probabilities(predict(problem.model, nets, images, config.strategy))

    def of_oracles(self, logits: np.ndarray) -> dict[Name, np.ndarray]:
        """Those of the oracles themselves, the weights of each against the others'.

        Args:
            logits: theirs on the forget set.
        """
        return self._measured(self.oracles, logits, None, self.relearner)

    @stage("metrics of models")
    def of(self, variables: Variables, logits: np.ndarray, model: Model | None = None) -> dict[Name, np.ndarray]:
        """Those of other models. An ensemble relearns as one; its weight distance is the root mean square of its networks'.

        Args:
            variables: of the models, none of which diverged.
            logits: theirs on the forget set.
            model: what the variables belong to, where that is an ensemble of the problem's model.
        """
        relearner = self.relearner
        if model not in (None, self.problem.model):
            relearner = Relearner(dataclasses.replace(self.problem, model=model), self.config.strategy, self.config.chunk)
        return self._measured(variables, logits, self.oracles.params, relearner)

    def _measured(
        self, variables: Variables, logits: np.ndarray, oracles: Params | None, relearner: Relearner
    ) -> dict[Name, np.ndarray]:
        seen = Seen(variables, logits, oracles, relearner)
        return {name: metric(self, seen) for name, metric in metrics_for(self.right).items()}


def distance_of_weights(of: ModelMetrics, seen: Seen) -> np.ndarray:
    """To the oracles' weights; of an ensemble the root mean square of its networks'."""
    own, one = (jax.tree.leaves(each.params)[0][0] for each in (seen.variables, of.oracles))
    return weight_distance(seen.variables.params, seen.oracles)["all"] / np.sqrt(own.size // one.size)


Metric = Callable[[ModelMetrics, Seen], np.ndarray]
METRICS: dict[Name, Metric] = {
    ("weight_distance", "all"): distance_of_weights,
    ("relearn_steps", "forget"): lambda of, seen: relearn_steps(seen.relearner(seen.variables), of.target),
    ("zrf", "forget"): lambda of, seen: zrf(probabilities(seen.logits), of.untrained),
}
REPAIRED: dict[Name, Metric] = {("accuracy_repaired", "forget"): lambda of, seen: accuracy(seen.logits, of.right)}
"""Where all labels that are to be forgotten are wrong."""


def metrics_for(right: np.ndarray | None) -> dict[Name, Metric]:
    """The metrics of a forget set, by name; `right` as `ModelMetrics` takes it."""
    return METRICS if right is None else REPAIRED | METRICS
