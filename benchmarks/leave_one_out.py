"""How near exact leave-one-out on the toy comes to what the machine can do, and what its matrix products cost.

    OPENBLAS_NUM_THREADS=1 python benchmarks/leave_one_out.py --devices 1

Rates are useful matrix products over the process's own CPU seconds, the best of many short runs that take turns, beside NumPy's
float32 product of 4096 by the same clock: on a machine that others use too, a wall clock would time the others. NumPy has to
keep to one thread for it, since its idle threads spin.
"""

import argparse
import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
PEAK = 4096


def main() -> None:
    """Print one line for each way of training, and one for each product."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1, help="CPU devices, one member on each at a time")
    parser.add_argument("--points", type=int, default=512)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="of each timed run")
    parser.add_argument("--members", type=int, default=2, help="of each timed run")
    parser.add_argument("--seconds", type=float, default=15.0, help="of timing, training and products each")
    arguments = parser.parse_args()
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", arguments.devices)
    programs = trainings(arguments)
    best = fastest(programs, arguments.seconds)
    pieces = products(arguments)
    own = fastest(pieces, arguments.seconds)
    peak = 2 * PEAK**3 / 1e9 / fastest({"numpy": (numpy_product(), 0.0)}, arguments.seconds)["numpy"]
    print(f"NumPy {PEAK}: {peak:.1f} GF/s")
    for times, work in ((best, programs), (own, pieces)):
        for name, seconds in times.items():
            rate = work[name][1] / seconds
            print(f"{name:32s} {rate:6.1f} GF/s  {100 * rate / peak:4.0f}%")


def fastest(runs: dict, seconds: float) -> dict[str, float]:
    """CPU seconds of each run, the least of many."""
    best, start = {name: float("inf") for name in runs}, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for name, (call, _) in runs.items():
            began = time.process_time()
            call()
            best[name] = min(best[name], time.process_time() - began)
    return best


def numpy_product() -> Callable[[], object]:
    """A product of two large matrices."""
    import numpy as np

    a, result = np.ones((PEAK, PEAK), np.float32), np.empty((PEAK, PEAK), np.float32)
    return lambda: np.matmul(a, a, out=result)


def trainings(arguments: argparse.Namespace) -> dict:
    """Leave-one-out of a few members in several ways, and its GFLOP."""
    import jax
    import jax.numpy as jnp

    from unlearn_jax import influence
    from unlearn_jax.data import discs
    from unlearn_jax.models import build
    from unlearn_jax.training.cost import flops
    from unlearn_jax.training.ensembles import over_members, shared
    from unlearn_jax.types import Examples, Recipe

    examples = Examples(*map(jnp.asarray, discs(arguments.points).train))
    recipe = Recipe(epochs=arguments.steps, batch_size=arguments.points, schedule="constant", optimiser="adam", weight_decay=0.0)
    model = build("mlp", classes=2, width=arguments.width)
    by_hand = influence.training(jax.random.key(0), model, examples, recipe)
    automatic = dataclasses.replace(by_hand, model=model._replace(gradient=None))
    weights = jnp.asarray(influence.all_but_one(arguments.points)[: arguments.members])
    work = arguments.members * flops(influence.train, automatic, weights[0]) / 1e9
    ways = {"automatic, vmap": (automatic, "vmap"), "automatic, map": (automatic, "map"), "by hand, vmap": (by_hand, "vmap")}
    ways["by hand, map (the default)"] = (by_hand, "map")
    found = {}
    for name, (run, strategy) in ways.items():
        arrays = shared((run, weights))
        compiled = over_members(influence.train, (False, True), strategy).lower(*arrays).compile()
        found[name] = (functools.partial(wait_for, compiled, *arrays), work)
    return found


def wait_for(compiled, *arrays) -> None:
    """Run a program to its end."""
    import jax

    jax.block_until_ready(compiled(*arrays))


def products(arguments: argparse.Namespace, repeats: int = 100) -> dict:
    """The products of one step, each in a loop of its own, and their GFLOP."""
    import jax
    import jax.numpy as jnp

    width, points = arguments.width, arguments.points
    kernel, activity = jnp.full((width, width), 1e-3), jnp.ones((width, points))
    barrier = jax.lax.optimization_barrier
    bodies = {
        "W @ X": lambda w, x, g: (w, w @ x, g),
        "W.T @ X": lambda w, x, g: (w, w.T @ x, g),
        "barrier(W.T) @ X": lambda w, x, g: (w, barrier(w.T) @ x, g),
        "X @ E.T": lambda w, x, g: (w, x + g[:, :1], 1e-9 * x @ x.T),
    }
    found = {}
    for name, body in bodies.items():

        def loop(w, x, body=body):
            return jax.lax.fori_loop(0, repeats, lambda _, state: body(*state), (w, x, jnp.zeros_like(w)))

        compiled = jax.jit(loop).lower(kernel, activity).compile()
        found[name] = (functools.partial(wait_for, compiled, kernel, activity), repeats * 2 * width * width * points / 1e9)
    return found


if __name__ == "__main__":
    main()
