"""The metrics per model that need more than logits: weights, relearning, untrained nets."""

import dataclasses

import jax
import numpy as np

from unlearn_jax.bench.options import Judging
from unlearn_jax.metrics import Metric, Models, probabilities
from unlearn_jax.metrics.registry import PER_MODEL, Name, in_order
from unlearn_jax.progress import stage
from unlearn_jax.training.ensembles import predict
from unlearn_jax.training.fit import initialise
from unlearn_jax.training.pools import member_keys
from unlearn_jax.training.relearning import Relearner
from unlearn_jax.types import Model, Params, Problem, Variables


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
        """The metrics of the oracles, the weights of each compared with the others'.

        Args:
            logits: the oracles' on the forget set.
        """
        return self._measured(self.oracles, logits, None, self.relearner)

    @stage("metrics of models")
    def of(self, variables: Variables, logits: np.ndarray, model: Model | None = None) -> dict[Name, np.ndarray]:
        """The metrics of other models. An ensemble relearns as one; its weight distance is the root mean square of its networks'.

        Args:
            variables: of the models, none of which diverged.
            logits: the models' on the forget set.
            model: what the variables belong to, where that is an ensemble of the problem's model.
        """
        relearner = self.relearner
        if model not in (None, self.problem.model):
            relearner = Relearner(dataclasses.replace(self.problem, model=model), self.config.strategy, self.config.chunk)
        return self._measured(variables, logits, self.oracles.params, relearner)

    def _measured(
        self, variables: Variables, logits: np.ndarray, oracles: Params | None, relearner: Relearner
    ) -> dict[Name, np.ndarray]:
        given, one = (jax.tree.leaves(params)[0][0] for params in (variables.params, self.oracles.params))
        models = Models(
            logits=logits,
            weights=variables.params,
            oracles=oracles,
            networks=given.size // one.size,
            losses=relearner(variables),
            target=self.target,
            untrained=self.untrained,
            right=self.right,
        )
        return {metric.on(split): metric.measure(models, split) for metric, split in metrics_for(self.right)}


def metrics_for(right: np.ndarray | None) -> list[tuple[Metric, str]]:
    """The metrics per model of a forget set that need more than logits, with their splits; `right` as `ModelMetrics` takes it."""
    beyond = [(each, split) for each, split in in_order(PER_MODEL) if each.needs != ("logits",)]
    return [(each, split) for each, split in beyond if right is not None or "right labels" not in each.needs]
