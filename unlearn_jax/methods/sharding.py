"""SISA: an ensemble of networks that each see one shard, so that forgetting retrains only some of them."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from unlearn_jax.errors import UsageError
from unlearn_jax.methods.registry import register
from unlearn_jax.training.fit import initialise, masked, training
from unlearn_jax.training.sampling import Source, draw
from unlearn_jax.types import Key, Method, Problem, Variables


class Division(NamedTuple):
    """Which stage an example enters training in: a slice of a shard. Drawn once; it never changes, whatever is forgotten."""

    shard: Int[Array, " examples"]  # -1 for rows that are not trained on
    part: Int[Array, " examples"]  # number of the slice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sisa:
    """Sharded, isolated, sliced and aggregated training (arXiv 1912.03817).

    Each shard trains a network of its own, in stages: stage s on the shard's slices 0 to s, from where stage s - 1 ended, which
    is kept. To forget, a shard that holds a forgotten example goes back to the stage in front of the first one that saw it.
    The result is, bit for bit, what training without the example would have given under the same keys.

    Stages are equally many steps of the problem's recipe: `epochs / slices` passes over as many rows as a shard has (at least
    one), beginning anew with its schedule and momentum. The paper's are equally many passes over the slices there are so far.
    With fewer rows than that, because some are in later slices or forgotten, the same rows come again; with none the network
    stays as it is.

    Attributes:
        shards: networks.
        slices: stages of each.
    """

    shards: int
    slices: int

    def divide(self, key: Key, problem: Problem) -> Division:
        """Deal the kept rows of a problem, in random order, to the slices of all shards."""
        ((order,),) = draw(key, [Source(problem.kept, problem.kept_count, 1)], problem.kept_count)
        number = jnp.arange(problem.kept_count)
        nowhere = jnp.full(len(problem.kept), -1)
        part = number // self.shards % self.slices
        return Division(nowhere.at[order].set(number % self.shards), nowhere.at[order].set(part))

    def stages(self, division: Division, rows: Bool[Array, " examples"]) -> Bool[Array, "shards slices"]:
        """The stages that have seen one of the rows: those that must be trained again when the rows are forgotten.

        Their share of all stages is the cost of forgetting, in trainings of the ensemble.
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
        """Train the stages again that have seen the forget set of `problem`; all others stay as they are.

        Args:
            key: that of `train`.
            problem: as in `train`, with a forget set.
            division: that of `train`.
            trained: what `train` (or `unlearn`) returned.
            requested: the rows of the forget set that `trained` has seen; by default all.
        """
        again = self.stages(division, problem.forget if requested is None else requested)
        return self._run(key, problem, division, again, trained)

    def answer(
        self, key: Key, problem: Problem, division: Division, trained: Variables, requests: Int[Array, "requests size"]
    ) -> Variables:
        """Forget the rows of requests that arrive one after another, each time from the checkpoints that the last one left.

        Args:
            key: that of `train`.
            problem: as in `train`.
            division: that of `train`.
            trained: what `train` returned.
            requests: row numbers.

        Returns:
            The networks that answer after each request: leaves `[requests, shards, ...]`.
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
        descent = training(recipe, count)
        number, keys = jnp.arange(self.shards), jax.random.split(key, self.shards)

        def one_shard(own):
            number, key, again, trained = own
            init_key, stage_key = jax.random.split(key)

            def stage(variables, own):
                part, key, again, before = own
                rows = problem.retain & (division.shard == number) & (division.part <= part)

                def train():
                    return jax.lax.cond(
                        jnp.any(rows), lambda: descent(key, masked(problem, rows, count), variables), lambda: variables
                    )

                after = train() if before is None else jax.lax.cond(again, train, lambda: before)
                return after, after

            parts = jnp.arange(self.slices), jax.random.split(stage_key, self.slices), again, trained
            return jax.lax.scan(stage, initialise(init_key, problem), parts)[1]

        return jax.lax.map(one_shard, (number, keys, again, trained))


def last_stages(trained: Variables) -> Variables:
    """The networks that answer: those after the last stage; leaves `[shards, ...]`."""
    return jax.tree.map(lambda leaf: leaf[:, -1], trained)


@register(access="R", reference="arXiv 1912.03817", ensemble=True)
def sisa(*, shards: int = 5, slices: int = 3) -> Method:
    """SISA: the mean of networks trained on a shard each, as it stands after retraining those that saw the forget set.

    An ensemble takes the place of the original, which plays no part; the oracles are single networks, so that what stands here
    is the price of sharding, not a failure to forget: of its own kind of retraining the result is an exact copy. It is
    computed from nothing, which gives the bits that `Sisa.unlearn` gives from its checkpoints, and its cost is that of
    all stages: `Sisa.stages` says which of them SISA itself pays for (all, as soon as |F| is a few times the number of shards).
    The networks' probabilities are averaged, as in the paper for tasks where votes lose too much.

    Args:
        shards: networks.
        slices: stages of each; its checkpoints.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        if shards > problem.kept_count:
            raise UsageError("--hyper sisa.shards", shards, f"at most {problem.kept_count}, the examples there are")
        divide_key, train_key = jax.random.split(key)
        own = Sisa(shards=shards, slices=slices)
        return last_stages(own.train(train_key, problem, own.divide(divide_key, problem)))

    return method
