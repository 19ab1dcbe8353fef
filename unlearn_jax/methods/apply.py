"""One method, applied to every member of a pool."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.methods.registry import METHODS, numeric
from unlearn_jax.training.cost import example_flops, flops
from unlearn_jax.training.ensembles import chunk_size, over_members, padded, shared, step_bytes
from unlearn_jax.types import Key, Problem, Variables


class Unlearned(NamedTuple):
    """The members after a method, and what it cost."""

    variables: Variables  # NumPy leaves with a leading axis of members
    seconds: float  # of one member: steady-state wall time of all over their number
    compile_seconds: float
    examples: float  # floating-point work of one member, in units of one training example seen forward and backward


def unlearn(
    name: str,
    values: dict[str, Any],
    keys: Key,
    problem: Problem,
    variables: Variables,
    *,
    strategy: str = "auto",
    chunk: int | None = None,
    report: Callable[[float], None] = lambda share: None,
) -> Unlearned:
    """Apply the method `name` to each member.

    Float hyperparameters are arguments of the compiled program: other numbers do not compile it anew.

    Args:
        name: a key of `METHODS`.
        values: all its hyperparameters, see `registry.hyperparameters`.
        keys: one for each member.
        problem: on the devices, see `ensembles.shared`.
        variables: the originals, with a leading axis of members.
        strategy: see `ensembles.over_members`.
        chunk: members at a time; by default as many as fit into memory.
        report: called with the share of the members that are done.
    """
    traced = numeric(values)
    static = {key: value for key, value in values.items() if key not in traced}

    def method(key, own, numbers, problem):
        return METHODS[name].make(**static, **numbers)(key, problem, own)

    numbers = shared({key: jnp.float32(value) for key, value in traced.items()})
    first = jax.tree.map(lambda leaf: leaf[0], (keys, variables))
    members = len(keys)
    chunk = chunk or chunk_size(step_bytes(method, *first, numbers, problem), members, strategy)
    program = over_members(method, (True, True, False, False), strategy)
    compiled: dict[int, Any] = {}
    parts, seconds, compile_seconds = [], 0.0, 0.0
    for start in range(0, members, chunk):
        own = padded(jax.tree.map(lambda leaf, start=start: jnp.asarray(leaf[start : start + chunk]), (keys, variables)))
        size = len(own[0])
        before = time.perf_counter()
        if size not in compiled:
            compiled[size] = program.lower(*own, numbers, problem).compile()
        ready = time.perf_counter()
        result = jax.block_until_ready(compiled[size](*own, numbers, problem))
        seconds += time.perf_counter() - ready
        compile_seconds += ready - before
        last = min(start + chunk, members)
        parts.append(jax.tree.map(lambda leaf, count=last - start: np.asarray(leaf)[:count], result))
        report(last / members)
    stacked = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    work = flops(method, *first, numbers, problem) / example_flops(problem)
    return Unlearned(stacked, seconds / members, compile_seconds, work)
