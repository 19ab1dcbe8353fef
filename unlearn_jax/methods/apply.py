"""One method, applied to every member of a pool."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool

from unlearn_jax.methods.needs import require
from unlearn_jax.methods.registry import METHODS, Entry, traceable
from unlearn_jax.training.cost import example_flops, flops
from unlearn_jax.training.ensembles import call_size, chunk_size, over_members, per_call, recorded, step_bytes
from unlearn_jax.types import Key, Problem, Variables


class Unlearned(NamedTuple):
    """The members after a method, and what it cost."""

    variables: Variables  # NumPy leaves with a leading axis of members
    seconds: float  # of one member: steady-state wall time of all over their number
    compile_seconds: float
    examples: float  # floating-point work of one member, in units of one training example seen forward and backward


class Unlearner:
    """One method, applied to `members` models at once. Different instances may `compile` in parallel threads.

    Float hyperparameters are arguments of the compiled program, one value per member: other values do not recompile it, and a
    grid of them is one more set of members.

    Args:
        method: a key of `METHODS`, or an `Entry` for a method outside the registry.
        values: every hyperparameter of the method, see `registry.hyperparameters`; a float may be an array with one value per
            member.
        problem: on the devices, see `ensembles.shared`.
        variables: the original models, with a leading axis of members.
        masks: `kept` and `forget` of each member, `[members, examples]`, in place of the problem's. Each must hold as many
            examples as the problem's, because shapes follow from these counts.
        strategy: see `ensembles.over_members`.
        chunk: members at a time; by default as many as fit into memory.

    Raises:
        ValueError: a mask with another count than the problem's, or a model that lacks what the method needs.
    """

    def __init__(
        self,
        method: str | Entry,
        values: dict[str, Any],
        problem: Problem,
        variables: Variables,
        *,
        masks: dict[str, Bool[np.ndarray, "members examples"]] | None = None,
        strategy: str = "auto",
        chunk: int | None = None,
    ):
        static, traced = traceable(method, values)
        entry = METHODS[method] if isinstance(method, str) else method
        require(method if isinstance(method, str) else "the method", entry.needs, problem)
        make = entry.make

        def unlearn(key, variables, numbers, masks, problem):
            return make(**static, **numbers)(key, problem.replace(**masks), variables)

        self.method = unlearn
        self.members = len(jax.tree.leaves(variables)[0])
        self.numbers: dict[str, Any] = {}
        self.retune(**traced)
        self.turn_to(problem, variables, masks)
        self.strategy, self.chunk = strategy, chunk
        self.compile_seconds = 0.0
        self._compiled: dict[int, Any] = {}

    def retune(self, **numbers: Any) -> None:
        """Set float hyperparameters, one value for all members or one for each, without recompiling."""
        for key, value in numbers.items():
            self.numbers[key] = np.broadcast_to(np.float32(value), self.members)

    def turn_to(
        self, problem: Problem, variables: Variables, masks: dict[str, Bool[np.ndarray, "members examples"]] | None = None
    ) -> None:
        """Replace the models and the problem by others of the same shapes, without recompiling.

        Raises:
            ValueError: a mask with another count than the problem's.
        """
        for field, mask in (masks or {}).items():
            count, counts = getattr(problem, f"{field}_count"), np.unique(mask.sum(axis=1))
            if (counts != count).any():
                raise ValueError(f"{field}: every member's mask must hold {count} examples, not {counts}")
        self.problem, self.inputs = problem, (variables, self.numbers, masks or {})

    def compile(self) -> None:
        """Compile for every chunk size; a second call does nothing."""
        if self._compiled:
            return
        start = time.perf_counter()
        key = jax.eval_shape(jax.random.key, 0)
        first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), self.inputs)
        arguments = key, *first, self.problem
        method = recorded(self.method, *arguments)
        self.examples = flops(method, *arguments) / example_flops(self.problem)
        if self.chunk is None:
            self.chunk = chunk_size(
                lambda: step_bytes(method, *arguments, batched=(True, True, True, True, False)), self.members, self.strategy
            )
        program = over_members(method, (True, True, True, True, False), self.strategy)
        for chunk in self._chunks():
            size = call_size(chunk.stop - chunk.start, self.strategy)
            if size not in self._compiled:
                call = jax.tree.map(lambda leaf, size=size: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype), (key, *first))
                self._compiled[size] = program.lower(*call, self.problem).compile()
        self.compile_seconds = time.perf_counter() - start

    def apply(self, keys: Key, report: Callable[[float], None] = lambda share: None) -> Unlearned:
        """Unlearn, with one key per member; `report` is called with the share of the members done."""
        self.compile()
        parts, seconds = [], 0.0
        for chunk in self._chunks():
            inputs = jax.tree.map(lambda leaf, chunk=chunk: leaf[chunk], (keys, *self.inputs))
            calls = jax.block_until_ready(per_call(inputs, self.strategy))
            ready = time.perf_counter()
            results = jax.block_until_ready([self._compiled[len(call[0])](*call, self.problem) for call in calls])
            seconds += time.perf_counter() - ready
            parts.append(jax.tree.map(lambda *leaves, size=chunk.stop - chunk.start: np.concatenate(leaves)[:size], *results))
            report(chunk.stop / self.members)
        stacked = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        return Unlearned(stacked, seconds / self.members, self.compile_seconds, self.examples)

    def _chunks(self) -> list[slice]:
        assert self.chunk is not None
        return [slice(begin, min(begin + self.chunk, self.members)) for begin in range(0, self.members, self.chunk)]
