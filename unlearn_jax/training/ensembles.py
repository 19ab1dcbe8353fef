"""Many models at once: one compiled program over a leading axis of members."""

import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun, jaxprs_in_params
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from unlearn_jax.kept import blocks, in_memory
from unlearn_jax.types import Model, Variables

STRATEGIES = ("auto", "vmap", "map")
# One member per core keeps its working set in the core's cache. GPUs get `vmap`, not yet measured (benchmarks/strategies.py).
FASTEST = {"cpu": "map"}
CHUNK = 6  # members per device in one chunk under `map`: few enough to lose little when killed
BATCH = 128  # examples per forward pass: on a CPU a fifth faster than 500, whose activations leave the core's cache
MEMORY_SHARE = 0.5  # of a device's memory, for a vmapped chunk; the rest is for the compiler's trials and for what else runs
PROBED = 8  # members in the program from which `step_bytes` learns what one takes


def over_members(
    function: Callable[..., Any], batched: Sequence[bool], strategy: str = "auto", donate: Sequence[int] = ()
) -> Any:
    """Compiles `function` for all members at once, spread over all devices.

    Args:
        function: pure, of arrays or trees of them, for one member.
        batched: for each argument, whether its leaves have a leading axis of members; the others are shared by all.
        strategy: within a device `vmap` (all members in one operation) or `map` (one after the other inside the program);
            `auto` is the one measured fastest on the backend.
        donate: arguments whose memory the results may take over.

    Returns:
        A jitted function. Results have a leading axis of members. The number of members must be a multiple of the number
        of devices: `padded` sees to it.

    Raises:
        ValueError: unknown strategy.
    """
    strategy = resolved(strategy)
    axes = tuple(0 if b else None for b in batched)

    def shard(*arguments):
        if strategy == "vmap":
            return jax.vmap(function, in_axes=axes)(*arguments)
        member_arguments = tuple(a for a, b in zip(arguments, batched, strict=True) if b)

        def one(member):
            rest = iter(member)
            return function(*(next(rest) if b else a for a, b in zip(arguments, batched, strict=True)))

        return jax.lax.map(one, member_arguments)

    specs = tuple(PartitionSpec("member") if b else PartitionSpec() for b in batched)
    sharded = jax.shard_map(shard, mesh=mesh(), in_specs=specs, out_specs=PartitionSpec("member"), check_vma=False)
    return jax.jit(sharded, donate_argnums=donate)


def resolved(strategy: str) -> str:
    """The strategy on the backend in use, `vmap` or `map`.

    Raises:
        ValueError: unknown strategy.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy {strategy!r}: expected one of {', '.join(STRATEGIES)}")
    return FASTEST.get(jax.default_backend(), "vmap") if strategy == "auto" else strategy


@functools.lru_cache(maxsize=1)
def mesh() -> Mesh:
    """All devices in a row, along the axis `member`."""
    return Mesh(np.array(jax.devices()), ("member",))


def shared(tree: Any) -> Any:
    """Put a tree on every device once, so that no call copies it again."""
    return jax.device_put(tree, NamedSharding(mesh(), PartitionSpec()))


def padded(tree: Any) -> Any:
    """Repeat the last member until the number of members is a multiple of the number of devices."""

    def pad(leaf):
        extra = -len(leaf) % mesh().size
        return leaf[np.minimum(np.arange(len(leaf) + extra), len(leaf) - 1)] if extra else leaf

    return jax.tree.map(pad, tree)


def chunk_size(member_bytes: Callable[[], int], members: int, strategy: str = "auto") -> int:
    """Members per chunk: equal chunks that fit in memory, a multiple of the number of devices.

    Args:
        member_bytes: returns the memory that one member needs in training, see `step_bytes`; called only if it matters.
        members: their number in all.
        strategy: of `over_members`; `map` needs that memory once per device, `vmap` once per member.
    """
    devices = mesh().size
    most = devices * CHUNK
    if resolved(strategy) == "vmap":
        most = devices * max(int(MEMORY_SHARE * device_memory() / member_bytes()), 1)
    chunks = -(-members // most)
    return devices * -(-members // (chunks * devices))


def per_call(members: Any, strategy: str = "auto") -> list[Any]:
    """Splits members into calls of an `over_members` program: padded, on the devices; under `map` one member per device.

    A loop over members inside the program saves nothing where a member takes milliseconds, and reading and writing each of its
    arrays costs the compiler up to a third of its time; without it one program serves any number of members. Under `vmap` one
    call takes all members.
    """
    whole, sharding = padded(members), NamedSharding(mesh(), PartitionSpec("member"))
    count = len(jax.tree.leaves(whole)[0])
    size = call_size(count, strategy)
    calls = [slice(first, first + size) for first in range(0, max(count, 1), size)]
    return [jax.device_put(jax.tree.map(lambda leaf, some=some: in_memory(leaf[some]), whole), sharding) for some in calls]


def call_size(members: int, strategy: str = "auto") -> int:
    """How many members each call of `per_call` holds."""
    devices = mesh().size
    return devices * max(-(-members // devices), 1) if resolved(strategy) == "vmap" else devices


def tile(tree: Any, times: int) -> Any:
    """Repeats all members, once for each setting."""
    return jax.tree.map(lambda leaf: np.tile(leaf, (times,) + (1,) * (leaf.ndim - 1)), tree)


def recorded(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """Traces a function once for arguments of these shapes; the result is called and transformed without tracing it again.

    Args:
        function: pure.
        arguments: arrays, trees of them, or `jax.ShapeDtypeStruct` in their place.
    """
    anywhere = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments)  # whatever mesh they are on
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*anywhere)
    structure = jax.tree.structure(shapes)

    def replay(*arguments):
        return jax.tree.unflatten(structure, jaxpr_as_fun(closed)(*jax.tree.leaves(arguments)))

    return replay


def device_memory() -> float:
    """Bytes of one device: what the backend reports, or the machine's memory shared among its devices."""
    statistics = jax.devices()[0].memory_stats() or {}
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return statistics.get("bytes_limit", machine / mesh().size)


def step_bytes(function: Callable[..., Any], *arguments: Any, batched: Sequence[bool]) -> int:
    """The memory of one member in one call, in bytes.

    On a CPU an upper bound: every intermediate result of the jaxpr, loops counted once. Elsewhere what the compiler plans for
    some members at once, a share of it: the bound can be ten times that, and the program is compiled once for each function.

    Args:
        function: of one member.
        arguments: of one member.
        batched: as of `over_members`; what is shared does not count.
    """
    if jax.default_backend() != "cpu":
        return _planned_bytes(function, arguments, batched)

    def total(jaxpr) -> int:
        here = sum(math.prod(v.aval.shape) * v.aval.dtype.itemsize for e in jaxpr.eqns for v in e.outvars)
        return here + sum(total(inner) for e in jaxpr.eqns for inner in jaxprs_in_params(e.params))

    return total(jax.make_jaxpr(function)(*arguments).jaxpr)


def _planned_bytes(function: Callable[..., Any], arguments: Sequence[Any], batched: Sequence[bool]) -> int:
    several = [
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((PROBED, *leaf.shape), leaf.dtype), argument) if of_member else argument
        for argument, of_member in zip(arguments, batched, strict=True)
    ]
    axes = tuple(0 if of_member else None for of_member in batched)
    plan = jax.jit(jax.vmap(function, in_axes=axes)).lower(*several).compile().memory_analysis()
    same = [leaf for argument, own in zip(arguments, batched, strict=True) if not own for leaf in jax.tree.leaves(argument)]
    assert plan
    everything = plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes
    return -(-(everything - sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in same)) // PROBED)


def predict(
    model: Model, variables: Variables, images: Float[Any, "examples *image"], strategy: str = "auto", batch: int = BATCH
) -> Float[np.ndarray, "members examples classes"]:
    """The logits of every member on every image, in eval mode.

    Args:
        model: the members' network.
        variables: with a leading axis of members; what stays in files is read a few members at a time.
        images: the same for all members.
        strategy: see `over_members`.
        batch: images at a time, at most.
    """
    return over_examples(_logits, model, variables, images, strategy, batch)


def features(
    model: Model, variables: Variables, images: Float[Any, "examples *image"], strategy: str = "auto", batch: int = BATCH
) -> Float[np.ndarray, "members examples features"]:
    """The inputs of every member's head (penultimate features) on every image, in eval mode; arguments as of `predict`."""
    return over_examples(_features, model, variables, images, strategy, batch)


def over_examples(
    function: Callable[[Model, Variables, Any], Array],
    model: Model,
    variables: Variables,
    examples: Any,
    strategy: str = "auto",
    batch: int = BATCH,
) -> Float[np.ndarray, "members examples ..."]:
    """Applies a function of one model and a batch of examples to every member and every example.

    Args:
        function: `(model, variables, batch of examples) -> [batch, ...]`, pure; compiled once for each function and model.
        model: the members' network.
        variables: with a leading axis of members.
        examples: an array or a tree of arrays with a leading axis of examples, the same for all members.
        strategy: see `over_members`.
        batch: examples at a time, at most; batches have equal sizes.
    """
    count = len(jax.tree.leaves(examples)[0])
    batches = -(-count // batch)
    batch = -(-count // max(batches, 1)) or batch
    order = np.minimum(np.arange(batches * batch), count - 1)
    stacked = shared(jax.tree.map(lambda leaf: leaf[order].reshape(batches, batch, *leaf.shape[1:]), examples))
    read = _reader(function, model, strategy)

    def of_members(some: Variables) -> np.ndarray:
        members = len(jax.tree.leaves(some)[0])
        outputs = np.concatenate([read(members_of_call, stacked) for members_of_call in per_call(some, strategy)])
        return outputs.reshape(len(outputs), batches * batch, *outputs.shape[3:])[:members, :count]

    parts = [of_members(some) for some in blocks(variables)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


@functools.lru_cache(maxsize=32)
def _reader(function: Callable[[Model, Variables, Any], Array], model: Model, strategy: str) -> Any:
    def one(variables: Variables, batches: Any) -> Array:
        return jax.lax.map(functools.partial(function, model, variables), batches)

    return over_members(one, (True, False), strategy)


def _logits(model: Model, variables: Variables, images: Array) -> Array:
    return model.apply(variables, images, train=False)[0]


def _features(model: Model, variables: Variables, images: Array) -> Array:
    if model.features is None:
        raise ValueError("features need Model.features, which this model does not declare")
    return model.features(variables, images)
