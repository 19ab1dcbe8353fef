"""The per-model metrics that need more than logits: weights, relearning, untrained networks."""

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
    """Computes the metrics of `metrics_for` on one forget set.

    Args:
        config: batching, and the seed and number of the untrained networks (as many as originals, to share their program).
        problem: the forget set and the model.
        images: of the forget set.
        originals: those that did not diverge; relearning aims at their loss on the forget set.
        oracles: those that did not diverge.
        right: the right labels of the forget set if all of its training labels are wrong, so that forgetting repairs the model.
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
        draw = jax.jit(jax.vmap(lambda key: initialise(key, problem)))
        nets = jax.device_get(draw(member_keys(config.seed, "untrained", config.members)))  # slicing it there takes seconds
        self.untrained = probabilities(predict(problem.model, nets, images, config.strategy))

    def of_oracles(self, logits: np.ndarray) -> dict[Name, np.ndarray]:
        """Returns the metrics of the oracles; the weights of each are compared with those of the others.

        Args:
            logits: of the oracles on the forget set.
        """
        return self._measure(self.oracles, logits, None, self.relearner)

    @stage("metrics of models")
    def of(self, variables: Variables, logits: np.ndarray, model: Model | None = None) -> dict[Name, np.ndarray]:
        """Returns the metrics of other models.

        An ensemble relearns as one model; its weight distance is the root mean square of those of its networks.

        Args:
            variables: of the models, none of which diverged.
            logits: of the models on the forget set.
            model: that the variables belong to, if it is an ensemble of the problem's model.
        """
        relearner = self.relearner
        if model not in (None, self.problem.model):
            relearner = Relearner(dataclasses.replace(self.problem, model=model), self.config.strategy, self.config.chunk)
        return self._measure(variables, logits, self.oracles.params, relearner)

    def _measure(
        self, variables: Variables, logits: np.ndarray, oracles: Params | None, relearner: Relearner
    ) -> dict[Name, np.ndarray]:
        member, network = (jax.tree.leaves(params)[0][0] for params in (variables.params, self.oracles.params))
        models = Models(
            logits=logits,
            weights=variables.params,
            oracles=oracles,
            networks=member.size // network.size,
            losses=relearner(variables),
            target=self.target,
            untrained=self.untrained,
            right=self.right,
        )
        return {metric.on(split): metric.measure(models, split) for metric, split in metrics_for(self.right)}


def metrics_for(right: np.ndarray | None) -> list[tuple[Metric, str]]:
    """Returns the per-model metrics that need more than logits, with their splits; `right` as in `ModelMetrics`."""
    of_models = (each for each in in_order(PER_MODEL) if "originals" not in each[0].needs)  # see `scoring.memory_of`
    beyond = [(metric, split) for metric, split in of_models if metric.needs != ("logits",)]
    return [(metric, split) for metric, split in beyond if right is not None or "right labels" not in metric.needs]
