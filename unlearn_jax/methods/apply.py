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
    """A method, ready to be applied to `members` models at once. Several may `compile` in threads at a time.

    Float hyperparameters are arguments of the compiled program, one for each member: other numbers do not compile it anew,
    and a grid of them is one more set of members.

    Args:
        method: a key of `METHODS`; or an entry of one's own, for a method that is not there, such as one that was learned.
        values: all its hyperparameters, see `registry.hyperparameters`; a float may be an array with one for each member.
        problem: on the devices, see `ensembles.shared`.
        variables: the originals, with a leading axis of members.
        masks: `kept` and `forget` of each member, `[members, examples]`, where they are not all the problem's; each keeps and
            forgets as many examples as the problem counts, for shapes follow from that.
        strategy: see `ensembles.over_members`.
        chunk: members at a time; by default as many as fit into memory.

    Raises:
        ValueError: masks that count other than the problem does, or a model that the method cannot work on.
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

        def unlearn(key, own, numbers, masks, problem):
            return make(**static, **numbers)(key, problem.replace(**masks), own)

        self.method = unlearn
        self.members = len(jax.tree.leaves(variables)[0])
        self.numbers: dict[str, Any] = {}
        self.retune(**traced)
        self.turn_to(problem, variables, masks)
        self.strategy, self.chunk = strategy, chunk
        self.compile_seconds = 0.0
        self._compiled: dict[int, Any] = {}

    def retune(self, **numbers: Any) -> None:
        """Give float hyperparameters other values, one for all members or one for each; what is compiled stays."""
        for key, value in numbers.items():
            self.numbers[key] = np.broadcast_to(np.float32(value), self.members)

    def turn_to(
        self, problem: Problem, variables: Variables, masks: dict[str, Bool[np.ndarray, "members examples"]] | None = None
    ) -> None:
        """Take as many other models, with another problem of the same shapes; what is compiled stays.

        Raises:
            ValueError: masks that count other than the problem does.
        """
        for field, mask in (masks or {}).items():
            count, found = getattr(problem, f"{field}_count"), np.unique(mask.sum(axis=1))
            if (found != count).any():
                raise ValueError(f"{field}: the masks of all members hold {count} examples, not {found}")
        self.problem, self.own = problem, (variables, self.numbers, masks or {})

    def compile(self) -> None:
        """Compile for every size of chunk; nothing happens the second time."""
        if self._compiled:
            return
        start = time.perf_counter()
        key = jax.eval_shape(jax.random.key, 0)
        first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), self.own)
        arguments = key, *first, self.problem
        method = recorded(self.method, *arguments)
        self.examples = flops(method, *arguments) / example_flops(self.problem)
        if self.chunk is None:
            self.chunk = chunk_size(lambda: step_bytes(method, *arguments), self.members, self.strategy)
        program = over_members(method, (True, True, True, True, False), self.strategy)
        for chunk in self._chunks():
            size = call_size(chunk.stop - chunk.start, self.strategy)
            if size not in self._compiled:
                call = jax.tree.map(lambda leaf, size=size: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype), (key, *first))
                self._compiled[size] = program.lower(*call, self.problem).compile()
        self.compile_seconds = time.perf_counter() - start

    def apply(self, keys: Key, report: Callable[[float], None] = lambda share: None) -> Unlearned:
        """Unlearn, with one key for each member; `report` gets the share of the members that are done."""
        self.compile()
        parts, seconds = [], 0.0
        for chunk in self._chunks():
            own = jax.tree.map(lambda leaf, chunk=chunk: leaf[chunk], (keys, *self.own))
            calls = jax.block_until_ready(per_call(own, self.strategy))
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
