"""Which way of batching members is fastest here: vmap or map, and which form of convolution.

    python benchmarks/strategies.py --device gpu:0 --model resnet18 --width 64 --image 28 --members 1 4 8

Every row trains random images for some steps; the fastest of each model is the default of its backend (`FASTEST` in
unlearn_jax/training/ensembles.py and unlearn_jax/models/convolution.py). Time tells, so run it on a quiet machine.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))


def main() -> None:
    """Print one table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="as in benchmark.py")
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--image", type=int, default=8, help="height and width in pixels")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20, help="timed steps; as many warm up")
    parser.add_argument("--repeats", type=int, default=3, help="timings of each row; the spread is over them")
    parser.add_argument("--members", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--json", type=Path, help="write the table there")
    arguments = parser.parse_args()
    from unlearn_jax import device
    from unlearn_jax.models.convolution import FORMS

    device.pin(arguments.device)
    print(f"{arguments.model} of width {arguments.width}, {arguments.image} pixels, {device.describe()}", flush=True)
    rows = []
    for members in arguments.members:
        for strategy in ("vmap", "map"):
            for form in FORMS:
                row = {"members": members, "strategy": strategy, "form": form, **measure(arguments, members, strategy, form)}
                rows.append(row)
                print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"device": device.describe(), **vars(arguments), "rows": rows}, default=str, indent=1)
        )


def measure(arguments: argparse.Namespace, members: int, strategy: str, form: str) -> dict[str, float | str]:
    """Milliseconds per member and step (median, fastest, slowest), TFLOP/s of matrix products, and seconds to compile."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from unlearn_jax.models import build
    from unlearn_jax.training.cost import flops
    from unlearn_jax.training.ensembles import over_members, shared
    from unlearn_jax.training.fit import initialise, training
    from unlearn_jax.types import Examples, Problem, Recipe

    rng = np.random.default_rng(0)
    count = arguments.batch_size * arguments.steps
    images = rng.standard_normal((count, arguments.image, arguments.image, 1), dtype=np.float32)
    examples = Examples(images, rng.integers(0, 10, count, dtype=np.int32))
    everything = np.ones(count, bool)
    problem = shared(
        Problem(
            train=examples,
            held_out=examples,
            kept=everything,
            forget=~everything,
            model=build(arguments.model, classes=10, width=arguments.width, convolution=form),
            classes=10,
            kept_count=count,
            forget_count=0,
        )
    )
    descent = training(Recipe(epochs=1, batch_size=arguments.batch_size), count)

    def begin(key, problem):
        return descent.begin(initialise(key, problem)), descent.plan(key, problem)

    def steps(state, plan, problem):
        return descent.advance(state, plan, problem)[0]

    keys = jax.random.split(jax.random.key(0), members)
    try:
        state, plan = over_members(begin, (True, False), strategy)(keys, problem)
        start = time.perf_counter()
        program = over_members(steps, (True, True, False), strategy).lower(state, plan, problem).compile()
        compiling = time.perf_counter() - start
        jax.block_until_ready(program(state, plan, problem))
        times = []
        for _ in range(arguments.repeats):
            start = time.perf_counter()
            jax.block_until_ready(program(state, plan, problem))
            times.append((time.perf_counter() - start) / members / arguments.steps)
    except jax.errors.JaxRuntimeError as error:  # out of memory, most likely
        return {"failed": str(error).splitlines()[0][:80]}
    first = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype) if leaf.dtype != plan.keys.dtype else leaf[0], (state, plan)
    )
    work = flops(steps, *first, problem) / arguments.steps
    median = sorted(times)[len(times) // 2]
    return {
        "ms": round(1e3 * median, 3),
        "fastest": round(1e3 * min(times), 3),
        "slowest": round(1e3 * max(times), 3),
        "tflops": round(work / median / 1e12, 2),
        "compile_s": round(compiling, 1),
    }


if __name__ == "__main__":
    main()
