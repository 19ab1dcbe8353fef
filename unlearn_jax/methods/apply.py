"""One method, applied to every member of a pool."""

import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from unlearn_jax.kept import Stack, are_named
from unlearn_jax.methods.needs import require
from unlearn_jax.methods.registry import METHODS, Entry, traceable
from unlearn_jax.training.cost import example_flops, flops
from unlearn_jax.training.ensembles import call_size, chunk_size, over_members, per_call, recorded, shared, step_bytes
from unlearn_jax.types import Key, Problem, Variables
from unlearn_jax.workers import Here, Workers


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
        entry = _entry(method)
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
        stack, seconds = Stack(self.members), 0.0
        for chunk in self._chunks():
            inputs = jax.tree.map(lambda leaf, chunk=chunk: leaf[chunk], (keys, *self.inputs))
            calls = jax.block_until_ready(per_call(inputs, self.strategy))
            ready = time.perf_counter()
            results = jax.block_until_ready([self._compiled[len(call[0])](*call, self.problem) for call in calls])
            seconds += time.perf_counter() - ready
            size = chunk.stop - chunk.start
            stack.put(chunk.start, jax.tree.map(lambda *leaves, size=size: np.concatenate(leaves)[:size], *results))
            report(chunk.stop / self.members)
        return Unlearned(stack.tree(), seconds / self.members, self.compile_seconds, self.examples)

    def _chunks(self) -> list[slice]:
        assert self.chunk is not None
        return [slice(begin, min(begin + self.chunk, self.members)) for begin in range(0, self.members, self.chunk)]


class Spread:
    """One method, applied to models by workers, a few models at a time; each compiles what it runs. Used as an `Unlearner`.

    Args:
        method: see `Unlearner`.
        values: likewise.
        problem: likewise.
        variables: likewise.
        workers: do the work.
        cache: of the run.
        tasks: at most so many, at least one.
        strategy: see `Unlearner`.
        chunk: likewise; and the fewest models of a task.
    """

    def __init__(
        self,
        method: str | Entry,
        values: dict[str, Any],
        problem: Problem,
        variables: Variables,
        *,
        workers: Workers,
        cache: pathlib.Path,
        tasks: int,
        strategy: str = "auto",
        chunk: int | None = None,
    ):
        self.job = _Job(method, values, problem, strategy, chunk)
        self.variables, self.workers, self.cache, self.tasks = variables, workers, cache, tasks
        self.members = len(jax.tree.leaves(variables)[0])
        self._begun: dict[bytes, tuple[list[slice], np.ndarray, Iterator[tuple[int, Unlearned]]]] = {}

    def begin(self, keys: Key) -> None:
        """Lets the workers begin with what `apply` of the same keys will return."""
        data = np.asarray(jax.random.key_data(keys))
        size = max(-(-self.members // self.tasks), self.job.chunk or 1)
        size = -(-size // self.workers.devices) * self.workers.devices
        parts = [slice(first, min(first + size, self.members)) for first in range(0, self.members, size)]
        travel = not (are_named(self.variables) and self.workers.share(self.cache))  # else a piece says where its models lie
        models = (jax.tree.map(lambda leaf, part=part: leaf[part], self.variables) for part in parts)
        sent = (jax.tree.map(np.asarray, some) if travel else some for some in models)
        pieces = [*zip((data[part] for part in parts), sent, strict=True)]
        shares = np.zeros(len(parts))

        def heard(number: int, share: float) -> None:
            shares[number] = share * (parts[number].stop - parts[number].start) / self.members

        name = self.job.method if isinstance(self.job.method, str) else getattr(self.job.method.make, "__name__", "method")
        self._begun[data.tobytes()] = parts, shares, self.workers.run(self.job, pieces, self.cache, heard, name.strip("<>"))

    def apply(self, keys: Key, report: Callable[[float], None] = lambda share: None) -> Unlearned:
        """Unlearn, with one key per member; see `Unlearner.apply`. Seconds of compilation are those of the slowest worker."""
        data = np.asarray(jax.random.key_data(keys)).tobytes()
        if data not in self._begun:
            self.begin(keys)
        parts, shares, results = self._begun.pop(data)
        stack, costs = Stack(self.members), dict[int, tuple[float, float, float]]()
        for number, result in results:
            stack.put(parts[number].start, result.variables)
            costs[number] = result.seconds, result.compile_seconds, result.examples
            shares[number] = (parts[number].stop - parts[number].start) / self.members
            report(float(shares.sum()))
        seconds, compiling, examples = zip(*(costs[number] for number in range(len(parts))), strict=True)
        mean = float(np.average(seconds, weights=[part.stop - part.start for part in parts]))
        return Unlearned(stack.tree(), mean, max(compiling), examples[0])


class _Job:
    """A method, for any models of one problem (see `workers.Job`)."""

    def __init__(self, method: str | Entry, values: dict[str, Any], problem: Problem, strategy: str, chunk: int | None):
        self.method, self.values, self.problem, self.strategy, self.chunk = method, values, problem, strategy, chunk
        require(method if isinstance(method, str) else "the method", _entry(method).needs, problem)
        self._made: dict[int, Unlearner] = {}  # by the number of models

    def __reduce__(self) -> tuple:
        return _arrived, (self.method, self.values, jax.tree.map(np.asarray, self.problem), self.strategy, self.chunk)

    def __call__(self, piece: tuple[np.ndarray, Variables], here: Here) -> Unlearned:
        """Unlearns some models: the data of their keys, and their variables."""
        data, variables = piece
        unlearner = self._made.get(len(data))
        if unlearner is None:
            given: dict[str, Any] = {"strategy": self.strategy, "chunk": self.chunk}
            unlearner = self._made[len(data)] = Unlearner(self.method, self.values, self.problem, variables, **given)
        unlearner.turn_to(self.problem, variables)
        return unlearner.apply(jax.random.wrap_key_data(jnp.asarray(data)), here.report)


def _arrived(method: str | Entry, values: dict[str, Any], problem: Problem, *rest: Any) -> _Job:
    """A job that came from another process: its examples are put on the devices of this one."""
    return _Job(method, values, shared(problem), *rest)


def _entry(method: str | Entry) -> Entry:
    return METHODS[method] if isinstance(method, str) else method
