"""SISA: an ensemble of networks that each see one shard, so that forgetting retrains only some of them."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from unlearn_jax.errors import ArgumentError
from unlearn_jax.methods.registry import register
from unlearn_jax.training.fit import beginning, frozen_in, masked, training
from unlearn_jax.training.sampling import Source, draw
from unlearn_jax.types import Key, Method, Problem, Variables


class Division(NamedTuple):
    """The shard and the slice of each example, drawn once and unchanged by forgetting."""

    shard: Int[Array, " examples"]  # -1 for rows that are not trained on
    part: Int[Array, " examples"]  # slice within the shard


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sisa:
    """Sharded, isolated, sliced and aggregated training (arXiv 1912.03817).

    Each shard trains its own network in stages: stage s trains on slices 0 to s, from the checkpoint of stage s - 1. To forget, a
    shard with forgotten examples returns to the checkpoint before the first stage that saw one of them. The result is, bit for
    bit, what training without these examples would have given under the same keys.

    Deviation: all stages take equally many steps, those of `epochs / slices` passes (at least one) over a whole shard, and each
    restarts the schedule and momentum; the paper's are equally many passes over the slices so far. A stage with fewer rows,
    because others come later or are forgotten, repeats its rows; one without rows leaves the network unchanged.

    Attributes:
        shards: number of networks.
        slices: stages of each, and so its checkpoints.
    """

    shards: int
    slices: int

    def divide(self, key: Key, problem: Problem) -> Division:
        """Deal the kept rows of a problem at random to the slices of all shards."""
        ((order,),) = draw(key, [Source(problem.kept, problem.kept_count, 1)], problem.kept_count)
        number = jnp.arange(problem.kept_count)
        nowhere = jnp.full(len(problem.kept), -1)
        part = number // self.shards % self.slices
        return Division(nowhere.at[order].set(number % self.shards), nowhere.at[order].set(part))

    def stages(self, division: Division, rows: Bool[Array, " examples"]) -> Bool[Array, "shards slices"]:
        """The stages that trained on any of `rows`, which are retrained when these rows are forgotten.

        Their share of all stages is the cost of forgetting, relative to training the ensemble.
        """
        shard = jnp.where(rows, division.shard, -1)[None, None] == jnp.arange(self.shards)[:, None, None]
        return jnp.any(shard & (division.part[None, None] <= jnp.arange(self.slices)[None, :, None]), axis=-1)

    def train(self, key: Key, problem: Problem, division: Division) -> Variables:
        """Train on the retain set of `problem`.

        Returns:
            The networks after every stage: leaves `[shards, slices, ...]`.
        """
        everything = jnp.ones((self.shards, self.slices), bool)
        return self._run(key, problem, division, everything, None)

    def unlearn(
        self,
        key: Key,
        problem: Problem,
        division: Division,
        trained: Variables,
        requested: Bool[Array, " examples"] | None = None,
    ) -> Variables:
        """Retrain the stages that saw the forget set of `problem`; all others stay as they are.

        Args:
            key: that of `train`.
            problem: as in `train`, with a forget set.
            division: that of `train`.
            trained: what `train` (or `unlearn`) returned.
            requested: the rows of the forget set that `trained` was trained on; by default all.
        """
        again = self.stages(division, problem.forget if requested is None else requested)
        return self._run(key, problem, division, again, trained)

    def answer(
        self, key: Key, problem: Problem, division: Division, trained: Variables, requests: Int[Array, "requests size"]
    ) -> Variables:
        """Answer forget requests one after another, each from the checkpoints that the last one left.

        Args:
            key: that of `train`.
            problem: as in `train`.
            division: that of `train`.
            trained: what `train` returned.
            requests: the row numbers to forget, by request.

        Returns:
            The final networks after each request: leaves `[requests, shards, ...]`.
        """

        def one(carry, rows):
            trained, forget = carry
            requested = jnp.zeros_like(forget).at[rows].set(True)
            forget = forget | requested
            after = self.unlearn(key, dataclasses.replace(problem, forget=forget), division, trained, requested)
            return (after, forget), last_stages(after)

        return jax.lax.scan(one, (trained, problem.forget), requests)[1]

    def _run(
        self, key: Key, problem: Problem, division: Division, again: Bool[Array, "shards slices"], trained: Variables | None
    ) -> Variables:
        count = -(-problem.kept_count // self.shards)
        recipe = dataclasses.replace(problem.recipe, epochs=max(problem.recipe.epochs // self.slices, 1))
        descent = training(recipe, count, frozen_in(problem))
        number, keys = jnp.arange(self.shards), jax.random.split(key, self.shards)

        def one_shard(shard_inputs):
            number, key, again, trained = shard_inputs
            init_key, stage_key = jax.random.split(key)

            def stage(variables, stage_inputs):
                part, key, again, before = stage_inputs
                rows = problem.retain & (division.shard == number) & (division.part <= part)

                def train():
                    return jax.lax.cond(
                        jnp.any(rows), lambda: descent(key, masked(problem, rows, count), variables), lambda: variables
                    )

                after = train() if before is None else jax.lax.cond(again, train, lambda: before)
                return after, after

            parts = jnp.arange(self.slices), jax.random.split(stage_key, self.slices), again, trained
            return jax.lax.scan(stage, beginning(init_key, problem), parts)[1]

        return jax.lax.map(one_shard, (number, keys, again, trained))


def last_stages(trained: Variables) -> Variables:
    """The networks after their last stage, which make the predictions; leaves `[shards, ...]`."""
    return jax.tree.map(lambda leaf: leaf[:, -1], trained)


@register(access="R", reference="arXiv 1912.03817", ensemble=True)
def sisa(*, shards: int = 5, slices: int = 3) -> Method:
    """SISA: averages networks trained on one shard each, after retraining those that saw forget data.

    The original is ignored. The ensemble is trained from scratch on R, which gives bit for bit what `Sisa.unlearn` gives from
    checkpoints, and costs all stages; `Sisa.stages` says which ones SISA would retrain (all, once |F| is a few times the number
    of shards). Forgetting is exact: since the oracles are single networks, the distance to them is the price of sharding.
    Probabilities are averaged, as in the paper where votes lose too much accuracy.

    Args:
        shards: number of networks.
        slices: stages of each, and so its checkpoints.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        if shards > problem.kept_count:
            raise ArgumentError("sisa.shards", shards, f"at most {problem.kept_count}, the number of training examples")
        divide_key, train_key = jax.random.split(key)
        ensemble = Sisa(shards=shards, slices=slices)
        return last_stages(ensemble.train(train_key, problem, ensemble.divide(divide_key, problem)))

    return method
