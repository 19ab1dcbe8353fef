"""What bounds the stages of training on one core: arithmetic or memory; and which form of a convolution is fastest.

    taskset -c 0 python benchmarks/roofline.py --json roofline.json

Prints the core's two limits (a float32 product of 4096, a copy of 128 MiB), and for each program its matrix-product work, the
bytes that XLA says it touches, both limits of its rate, and the rate that it had (above the second: the cache served some).
Rates are by the process's own CPU seconds, the best of many runs that take turns; work is that of the definition.

The forms of a 3x3 convolution, forward and backward, on `[channels, height, width, batch]`:

* `products`: what the networks use (`unlearn_jax.models.convolution`): Winograd's F(2, 3) or F(4, 3) along the height, or a
  product for each output of a tiny map;
* `patches`: nine shifted slices and one product;
* `tiles`: the same for a quarter of the batch at a time, so that the slices stay in the cache;
* `rows`: three slices, and one product for each row of the kernel;
* `winograd`: F(2x2, 3x3), sixteen products with 2.25 times less arithmetic (Lavin and Gray 2015, arXiv 1509.09308);
* `xla`: the backend's own convolution, inside a loop as training is.
"""

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false " + os.environ.get("XLA_FLAGS", "")

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.device import describe
from unlearn_jax.models import build
from unlearn_jax.models.convolution import convolve
from unlearn_jax.training.cost import flops
from unlearn_jax.training.descend import Descent
from unlearn_jax.training.fit import initialise, training
from unlearn_jax.types import Examples, Model, Problem, Recipe

PEAK = 4096
TURNS = 20  # of the loop around each convolution
SHAPES = ((16, 8), (32, 4), (64, 2), (16, 28))  # channels and pixels: ResNet-8's stages, width 16, on digits; Fashion-MNIST
BATCH = 128

Program = tuple[Callable[[], Any], float, float]  # to be called, GFLOP of matrix products, GB that XLA says it touches


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of timing each group of programs")
    parser.add_argument("--json", type=Path, help="write the table there")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    peak, memory = limits(arguments.seconds / 4)
    print(f"{describe()}; product {peak:.1f} GF/s, copy {memory:.1f} GB/s")
    rows = []
    for group in (convolutions(), steps()):
        best = fastest({name: program[0] for name, program in group.items()}, arguments.seconds)
        for name, (_, work, bytes_) in group.items():
            row: dict[str, Any] = {"program": name, "ms": 1e3 * best[name], "gflop": work, "flop_per_byte": work / bytes_}
            row |= {"gflops": work / best[name], "arithmetic": peak, "memory": memory * work / bytes_}
            rows.append(row | {"of_peak": row["gflops"] / peak})
            print(
                "  ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{value:32s}" for key, value in rows[-1].items())
            )
    if arguments.json:
        found = {"machine": describe(), "peak_gflops": peak, "memory_gb_s": memory, "rows": rows}
        arguments.json.write_text(json.dumps(found, indent=1))


def fastest(calls: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """CPU seconds of each call, the least of many that take turns."""
    best, start = {name: float("inf") for name in calls}, time.perf_counter()
    turns = 0
    while turns < 3 or time.perf_counter() - start < seconds:
        turns += 1
        for name, call in calls.items():
            began = time.process_time()
            jax.block_until_ready(call())
            best[name] = min(best[name], time.process_time() - began)
    return best


def limits(seconds: float) -> tuple[float, float]:
    """GF/s of a product, and GB/s read and written by a copy of 128 MiB."""
    a, result = np.ones((PEAK, PEAK), np.float32), np.empty((PEAK, PEAK), np.float32)
    large = np.ones(2**25, np.float32)
    copied = np.empty_like(large)
    calls: dict[str, Callable[[], object]] = {
        "product": lambda: np.matmul(a, a, out=result),
        "copy": lambda: np.copyto(copied, large),
    }
    best = fastest(calls, seconds)
    return 2 * PEAK**3 / best["product"] / 1e9, 2 * large.nbytes / best["copy"] / 1e9


def patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """One product over all patches."""
    return convolve(x, kernel, form="patches")


def tiles(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Patches of a quarter of the batch at a time."""
    return jnp.concatenate([patches(part, kernel) for part in jnp.split(x, 4, axis=3)], axis=3)


def rows_of_kernel(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """One product for each row of the kernel."""
    (channels, height, width, _), features = x.shape, kernel.shape[-1]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    slices = jnp.concatenate([padded[:, :, j : j + width] for j in range(3)])
    row = [kernel[i].reshape(3 * channels, features).T @ slices[:, i : i + height].reshape(3 * channels, -1) for i in range(3)]
    return sum(row[1:], row[0]).reshape(features, *x.shape[1:])


def winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Sixteen products on the sums and differences of 4x4 windows."""

    def into(d: list) -> list:
        return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]

    def out(m: list) -> list:
        return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]

    (channels, height, width, batch), features = x.shape, kernel.shape[-1]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = [[padded[:, i : i + height - 1 : 2, j : j + width - 1 : 2] for j in range(4)] for i in range(4)]
    columns = [into([windows[i][j] for i in range(4)]) for j in range(4)]
    transform = jnp.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    kernels = jnp.einsum("ij,jkco,lk->ilco", transform, kernel, transform)
    products: list[list[jax.Array]] = []
    for i in range(4):
        seen = into([columns[j][i] for j in range(4)])
        product = [kernels[i, j].T @ seen[j].reshape(channels, -1) for j in range(4)]
        products.append([each.reshape(features, height // 2, width // 2, batch) for each in product])
    half = [out([products[i][j] for i in range(4)]) for j in range(4)]
    answer = [out([half[j][i] for j in range(4)]) for i in range(2)]
    return jnp.stack([jnp.stack(row, axis=3) for row in answer], axis=2).reshape(features, height, width, batch)


def own(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The backend's convolution."""
    return convolve(x, kernel, form="xla")


def convolutions() -> dict[str, Program]:
    """Every form, forward and backward, at every shape (the backend's own at small ones only); checked against `patches`."""
    forms = {"products": convolve, "patches": patches, "tiles": tiles, "rows": rows_of_kernel, "winograd": winograd, "xla": own}
    found: dict[str, Program] = {}
    for channels, pixels in SHAPES:
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(channels, pixels, pixels, BATCH)), jnp.float32)
        kernel = jnp.asarray(rng.normal(size=(3, 3, channels, channels)), jnp.float32)
        work = 3 * 2 * 9 * channels**2 * pixels**2 * BATCH / 1e9
        for name, form in forms.items():
            if name == "xla" and pixels > 8:  # a quarter of a minute a run
                continue
            np.testing.assert_allclose(form(x, kernel), patches(x, kernel), atol=2e-3)

            def turn(carry: tuple, _: None, form: Callable = form) -> tuple:
                answer, backward = jax.vjp(form, *carry)
                changes = backward(jax.nn.relu(answer))
                return jax.tree.map(lambda value, change: value + 1e-9 * change, carry, changes), None

            def loop(x: jax.Array, kernel: jax.Array, turn: Callable = turn) -> Any:
                return jax.lax.scan(turn, (x, kernel), None, length=TURNS)[0]

            once = jax.jit(lambda x, k, turn=turn: turn((x, k), None)[0]).lower(x, kernel).compile()
            program = jax.jit(loop).lower(x, kernel).compile()
            label = f"{channels} channels, {pixels}x{pixels}: {name}"
            touched = TURNS * touched_by(once) / 1e9
            found[label] = functools.partial(program, x, kernel), TURNS * work, touched
    return found


def steps() -> dict[str, Program]:
    """Ten training steps of networks, and prediction."""
    found: dict[str, Program] = {}
    for width, image, batch, normalisation in (
        (8, 8, 64, "batch"),
        (16, 8, 128, "batch"),
        (16, 8, 128, "group"),
        (16, 28, 128, "batch"),
    ):
        count = 10 * batch
        rng = np.random.default_rng(0)
        examples = Examples(
            jnp.asarray(rng.normal(size=(count, image, image, 1)), jnp.float32),
            jnp.asarray(rng.integers(0, 10, count), jnp.int32),
        )
        everything = jnp.ones(count, bool)
        model = build("resnet8", classes=10, width=width, normalisation=normalisation)
        sizes: dict[str, Any] = {"kept": everything, "forget": ~everything, "kept_count": count, "forget_count": 0}
        problem = Problem(train=examples, held_out=examples, model=model, classes=10, **sizes)
        descent = training(Recipe(epochs=1, batch_size=batch), count)
        state, plan = descent.begin(initialise(jax.random.key(0), problem)), descent.plan(jax.random.key(1), problem)
        label = f"ResNet-8, width {width}, {image}x{image}, {normalisation} norm: "

        def train(state: Any, plan: Any, problem: Problem, descent: Descent = descent) -> Any:
            return descent.advance(state, plan, problem)[0]

        one = jax.tree.map(lambda leaf: leaf[:1], plan)
        found[label + "training"] = compiled(train, (state, plan, problem), (state, one, problem), 10)
        if normalisation == "batch":

            def predict(variables: Any, images: Any, model: Model = model) -> Any:
                return model.apply(variables, images, train=False)[0]

            found[label + "prediction"] = compiled(predict, (state.variables, examples.images[:500]))
    return found


def touched_by(program: Any) -> float:
    """Bytes that a compiled program reads and writes, as XLA counts them."""
    return program.cost_analysis()["bytes accessed"]


def compiled(function: Callable, arguments: tuple, once: tuple | None = None, turns: int = 1) -> Program:
    """A program; XLA counts a loop once, so `once` are the arguments with which it takes one of its turns."""
    program = jax.jit(function).lower(*arguments).compile()
    alone = program if once is None else jax.jit(function).lower(*once).compile()
    touched = turns * touched_by(alone) / 1e9
    return (lambda: program(*arguments)), flops(function, *arguments) / 1e9, touched


if __name__ == "__main__":
    main()
