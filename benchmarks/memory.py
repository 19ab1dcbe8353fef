"""What a pool's memory grows by with its number of members: training goes a chunk at a time, so only what is kept should count.

    python benchmarks/memory.py --members 8 32 128 512
    python benchmarks/memory.py --members 100 400 1600 --model mlp --width 512     # 0.1 to 1.8 GiB of weights

Each row is a process of its own that trains that many models for one epoch on digits, writes them to a cache of its own and asks
for their predictions; the peak is its resident set's, all of Python and JAX (about 0.4 GiB) included.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))


def main() -> None:
    """One process a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, nargs="+", default=[8, 32, 128, 512])
    parser.add_argument("--device", default="cpu", help="as in benchmark.py")
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--model", default="resnet8", choices=("resnet8", "mlp"))
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write the table there")
    parser.add_argument("--alone", action="store_true", help="measure here and print JSON: how the rows are made")
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(measure(arguments)))
        return
    rows = []
    for members in arguments.members:
        words = ["--alone", "--members", str(members), "--device", arguments.device, "--strategy", arguments.strategy]
        words += ["--model", arguments.model, "--width", str(arguments.width)]
        done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print("  ".join(f"{key} {value:.4g}" for key, value in rows[-1].items()), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


def measure(asked: argparse.Namespace) -> dict[str, float]:
    """Members, GiB at most, and GiB of their weights."""
    from unlearn_jax import device

    device.pin(asked.device)
    import jax
    import numpy as np

    from unlearn_jax.data import load
    from unlearn_jax.models import build
    from unlearn_jax.training.ensembles import predict, shared
    from unlearn_jax.training.pools import train_pool
    from unlearn_jax.types import Examples, Problem, Recipe

    data = load("digits", train_size=None, label_noise=0.1, seed=0)
    everything = np.ones(len(data.train.labels), bool)
    model, (members,) = build(asked.model, classes=data.classes, width=asked.width), asked.members
    sizes: dict[str, Any] = {"kept": everything, "forget": ~everything, "kept_count": len(everything), "forget_count": 0}
    recipe = Recipe(epochs=1, batch_size=64)
    train, held_out = Examples(*data.train), Examples(*data.held_out)
    problem = shared(Problem(train=train, held_out=held_out, model=model, classes=data.classes, recipe=recipe, **sizes))
    with tempfile.TemporaryDirectory() as cache:
        own: dict[str, Any] = {
            "members": members,
            "role": "memory",
            "seed": 0,
            "identity": {},
            "cache": Path(cache),
            "strategy": asked.strategy,
        }
        pool = train_pool(problem, everything, **own)
        predict(model, pool.variables, data.test.images, asked.strategy)
    kept = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(pool.variables)) / 2**30
    return {"members": members, "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "gib_of_weights": kept}


if __name__ == "__main__":
    main()
