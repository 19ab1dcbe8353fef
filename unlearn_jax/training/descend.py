"""The one optimisation loop. Training from scratch and every iterative method are descents."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from unlearn_jax.training.objectives import Batch, Forward, Objective
from unlearn_jax.training.sampling import Source, draw
from unlearn_jax.types import Key, Model, Problem, Variables


class Plan(NamedTuple):
    """All random choices of a descent, drawn before the first step."""

    step: Int[Array, " steps"]
    choice: Int[Array, " steps"]  # index of the objective
    rows: dict[str, Int[Array, "steps batch"]]  # rows of the training set, by source
    keys: Key  # [steps]; augmentation, noise and dropout


class State(NamedTuple):
    """The state of a descent between two steps."""

    variables: Variables
    optimiser: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Descent:
    """A `Method` that descends, made by `descend`. `plan`, `begin` and `advance` are for callers that stop between steps."""

    objectives: tuple[Objective, ...]
    transform: optax.GradientTransformationExtraArgs
    program: np.ndarray
    batch_size: int
    statistics: str
    reference: Objective | None

    def __call__(self, key: Key, problem: Problem, variables: Variables) -> Variables:
        """The variables after all steps."""
        state, _ = self.advance(self.begin(variables), self.plan(key, problem), problem)
        return state.variables

    def plan(self, key: Key, problem: Problem) -> Plan:
        """Draw every batch of the descent."""
        names = sorted(self._sources())
        used = [np.flatnonzero([self._reads(choice, name) for choice in self.program.tolist()]) for name in names]
        rows_key, step_key = jax.random.split(key)
        drawn = draw(
            rows_key, [Source(*problem.rows(name), len(at)) for name, at in zip(names, used, strict=True)], self.batch_size
        )
        steps = len(self.program)
        rows = {
            name: jnp.zeros((steps, batches.shape[1]), jnp.int32).at[at].set(batches)
            for name, at, batches in zip(names, used, drawn, strict=True)
        }
        keys = jax.random.split(step_key, steps)
        return Plan(jnp.arange(steps), jnp.asarray(self.program, jnp.int32), rows, keys)

    def begin(self, variables: Variables) -> State:
        """The state before the first step."""
        return State(variables, self.transform.init(variables.params))

    def advance(self, state: State, plan: Plan, problem: Problem) -> tuple[State, Float[Array, " steps"]]:
        """Take the steps of `plan`, or of a slice of one. Returns the state after them and the objective before each."""
        return jax.lax.scan(functools.partial(self._step, problem), state, plan)

    def checkpoints(self, key: Key, problem: Problem, variables: Variables, counts: Sequence[int]) -> Variables:
        """The variables after each of `counts` (ascending) steps, stacked along a leading axis."""
        slots = np.searchsorted(counts, np.arange(len(self.program)), side="right")  # steps after the last count fall outside

        def step(carry: tuple[State, Variables], part: tuple[Plan, Array]) -> tuple[tuple[State, Variables], None]:
            state, _ = self._step(problem, carry[0], part[0])
            kept = jax.tree.map(lambda all_kept, now: all_kept.at[part[1]].set(now), carry[1], state.variables)
            return (state, kept), None

        start = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(counts), *leaf.shape)), variables)
        (_, kept), _ = jax.lax.scan(step, (self.begin(variables), start), (self.plan(key, problem), jnp.asarray(slots)))
        return kept

    def _sources(self) -> set[str]:
        return {source for objective in (*self.objectives, self.reference) if objective for source in objective.sources}

    def _reads(self, choice: int, source: str) -> bool:
        reads = self.objectives[choice].sources + (self.reference.sources if self.reference else ())
        return source in reads

    def _step(self, problem: Problem, state: State, plan: Plan) -> tuple[State, Array]:
        forward = _forward(problem.model, self.statistics == "update", plan.keys)
        progress = plan.step / len(self.program)

        def gradient(objective: Objective, variables: Variables):
            batches = {source: _gather(problem, plan.rows[source], plan.keys) for source in objective.sources}

            def value(params):
                return objective.value(forward, variables._replace(params=params), batches, progress)

            return jax.value_and_grad(value, has_aux=True)(variables.params)

        branches = [functools.partial(gradient, objective) for objective in self.objectives]
        if len(branches) == 1:
            (value, statistics), gradients = branches[0](state.variables)
        else:
            (value, statistics), gradients = jax.lax.switch(plan.choice, branches, state.variables)
        extra: dict[str, Any] = {"choice": plan.choice}
        if self.reference is not None:
            _, extra["reference"] = gradient(self.reference, state.variables)
        updates, optimiser = self.transform.update(gradients, state.optimiser, state.variables.params, **extra)
        params = optax.apply_updates(state.variables.params, updates)
        return State(Variables(params, statistics), optimiser), value


def descend(
    objective: Objective | Sequence[Objective],
    transform: optax.GradientTransformation,
    *,
    steps: int | None = None,
    program: Sequence[int] | np.ndarray | None = None,
    batch_size: int = 128,
    statistics: str = "update",
    reference: Objective | None = None,
) -> Descent:
    """Minimises `objective` by the updates of `transform`.

    Args:
        objective: what to minimise, or several objectives, of which `program` picks one per step.
        transform: an optax chain, learning rate and sign included. Transforms that take an extra argument `choice` get the index
            of the objective of each gradient; see `transforms.alternate`.
        steps: number of steps, for a single objective; with 0 the variables stay as they are.
        program: the index of each step's objective, for several objectives.
        batch_size: rows per batch and source; a smaller source gives all its rows.
        statistics: `update` normalises by the batch and moves BatchNorm's running statistics; `freeze` does neither.
        reference: a second objective, which is not minimised. Its gradient at each step is passed to transforms that take an
            extra argument `reference`, such as `transforms.project_out`.

    Raises:
        ValueError: neither or both of `steps` and `program`, or an unknown `statistics`.
    """
    if (steps is None) == (program is None):
        raise ValueError("give either steps or program")
    if statistics not in ("update", "freeze"):
        raise ValueError(f"statistics {statistics!r}: must be 'update' or 'freeze'")
    objectives = (objective,) if isinstance(objective, Objective) else tuple(objective)
    choices = np.zeros(steps or 0, np.int32) if program is None else np.asarray(program, np.int32)
    transform = optax.with_extra_args_support(transform)
    return Descent(objectives, transform, choices, batch_size, statistics, reference)


def _forward(model: Model, train: bool, key: Key) -> Forward:
    """The model in one mode. Each call in training draws random numbers of its own."""
    if not (train and model.random):
        return functools.partial(model.apply, train=train)
    calls = itertools.count(1)  # counted while the step is traced; the key itself is the augmentation's
    return lambda variables, images: model.apply(variables, images, train=True, key=jax.random.fold_in(key, next(calls)))


def _gather(problem: Problem, rows: Array, key: Key) -> Batch:
    images = problem.train.images[rows]
    if problem.augment is not None:
        images = problem.augment(key, images)
    return Batch(images, problem.train.labels[rows], rows, key)
