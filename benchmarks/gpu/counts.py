"""Kernels, bytes and memory of a pool's training step on a GPU that is not there, from the program compiled for it.

Needs `pip install "jax[cuda12]"` of the same version and no GPU; several minutes a row. Nothing is measured: bytes are those of
every kernel's operands and results, and a time predicted from them is a floor.

    python benchmarks/gpu/counts.py --model resnet8 --width 16 --members 8 --forms grouped,patches
"""

import argparse
import collections
import math
import os
import re
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from unlearn_jax.models import build
from unlearn_jax.training import ensembles
from unlearn_jax.training.pools import _Trainer
from unlearn_jax.types import Examples, Problem, Recipe

NO_KERNEL = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "partition-id", "add-dependency"}
WIDTH = {"pred": 1, "u8": 1, "s8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|[^\s]+) ([\w\-]+)\((.*)$")


def size_of(shape: str) -> int:
    """The bytes of an array, or of all arrays of a tuple, as HLO writes its shape."""
    arrays = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape)
    return sum(WIDTH[kind] * math.prod(int(length) for length in lengths.split(",") if length) for kind, lengths in arrays)


def computations(text: str) -> tuple[dict[str, list[tuple[str, str, str, str]]], str]:
    """The (name, shape, operation, operands and attributes) of each computation's instructions, and the name of the first one."""
    found: dict[str, list[tuple[str, str, str, str]]] = {}
    entry = name = ""
    for line in text.splitlines():
        if head := re.match(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$", line):
            name, entry = head[2], head[2] if head[1] else entry
            found[name] = []
        elif name and (part := INSTRUCTION.match(line)):
            found[name].append((part[1], part[2], part[3], part[4]))
    return found, entry


def read_by(fusion: list[tuple[str, str, str, str]]) -> dict[int, int]:
    """The bytes that a fusion reads of those operands of which it takes slices only."""
    read: dict[int, int] = {}
    for name, _, operation, rest in fusion:
        if operation == "parameter":
            users = [(shape, used) for _, shape, used, operands in fusion if re.search(rf"%{re.escape(name)}\b", operands)]
            if users and all(used in ("dynamic-slice", "gather") for _, used in users):
                read[int(rest.split(")")[0])] = sum(size_of(shape) for shape, _ in users)
            elif users and all(used == "dynamic-update-slice" for _, used in users):
                read[int(rest.split(")")[0])] = 0
    return read


def kernels(text: str) -> tuple[collections.Counter[str], float]:
    """The kernels of a compiled program's loops by kind, and the bytes of all its kernels."""
    parts, entry = computations(text)
    kinds: collections.Counter[str] = collections.Counter()
    total = 0.0

    def visit(name: str, times: int, depth: int) -> None:
        nonlocal total
        shapes = {name: shape for name, shape, *_ in parts[name]}
        for _, shape, operation, rest in parts[name]:
            if operation == "while":
                trips = re.search(r'known_trip_count":\{"n":"(\d+)"', rest)
                visit(re.findall(r"body=%?([\w.\-]+)", rest)[0], times * (int(trips[1]) if trips else 1), depth + 1)
            elif operation == "call":
                visit(re.findall(r"to_apply=%?([\w.\-]+)", rest)[0], times, depth)
            elif operation not in NO_KERNEL:
                sliced = read_by(parts[re.findall(r"calls=%?([\w.\-]+)", rest)[0]]) if operation == "fusion" else {}
                operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
                read = (sliced.get(i, size_of(shapes[o])) for i, o in enumerate(operands) if o in shapes)
                total += times * (size_of(shape) + sum(read))
                kind = re.search(r'custom_call_target="([^"]*)"', rest) or re.search(r'"kind":"(__[\w$]+)"', rest)
                kinds[kind[1] if kind else operation] += times * bool(depth)

    visit(entry, 1, 0)
    return kinds, total


def compiled(model: str, width: int, form: str, members: int, examples: int = 512) -> tuple[str, float, int]:
    """A pool's epoch for images of 32x32x3 in batches of 64: the program, its temporary memory in MiB, and its steps."""
    images = jax.ShapeDtypeStruct((examples, 32, 32, 3), jnp.float32)
    data = Examples(images, jax.ShapeDtypeStruct((examples,), jnp.int32))
    mask = np.ones(examples, bool)
    network = build(model, classes=10, width=width, convolution=form)
    problem = Problem(
        train=data, held_out=data, kept=mask, forget=mask, model=network, classes=10, kept_count=examples,
        forget_count=examples, recipe=Recipe(epochs=2, batch_size=64),
    )  # fmt: skip
    trainer = _Trainer(problem, mask, "vmap")
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), members))
    state, plan = jax.eval_shape(trainer._begin, keys, mask, problem)
    program = trainer._epoch.lower(state, plan, jnp.int32(0), problem).compile()
    memory = program.memory_analysis()
    assert memory
    return program.as_text(), memory.temp_size_in_bytes / 2**20, trainer.steps


def main() -> None:
    """Prints a row for each form."""
    parser = argparse.ArgumentParser(description="Kernels, bytes and memory of a training step, compiled for an absent GPU.")
    parser.add_argument("--target", type=Path, default=Path(__file__).with_name("h200.txtpb"), help="XLA's description of a GPU")
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--forms", default="grouped,patches")
    given = parser.parse_args()
    target = topologies.get_topology_desc(platform="cuda", target_config=given.target.read_text(), topology="1x1x1")
    ensembles.mesh = lambda: Mesh(np.array(target.devices), ("member",))  # type: ignore[assignment]
    print("| model | width | members | form | kernels a step | GB a step | temporary MiB | of cuDNN |")
    print("|---|--:|--:|---|--:|--:|--:|---|")
    for form in given.forms.split(","):
        text, memory, steps = compiled(given.model, given.width, form, given.members)
        kinds, total = kernels(text)
        cudnn = ", ".join(f"{kind} {count / steps:.0f}" for kind, count in sorted(kinds.items()) if "cudnn" in kind)
        count, gigabytes = sum(kinds.values()) / steps, total / steps / 1e9
        row = given.model, given.width, given.members, form, f"{count:.0f}", f"{gigabytes:.2f}", f"{memory:.0f}", cudnn
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()
