"""How long the metrics that sweep over models and examples take.

    python benchmarks/metrics.py --models 512 --examples 10000

Margins are Gaussian, of another mean and spread for each example; both sides have the same distribution. Prints a line for
each metric: the seconds of every repeat.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from unlearn_jax.device import describe
from unlearn_jax.metrics import forgetting_quality, klom


def main() -> None:
    """Time each metric on the same two pools."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=512, help="on each side")
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    centre, spread = rng.normal(3, 3, asked.examples), rng.uniform(0.5, 3, asked.examples)
    unlearned, retrained = (centre + spread * rng.normal(size=(asked.models, asked.examples)) for _ in range(2))
    print(f"{asked.models} + {asked.models} models, {asked.examples} examples; {describe()}")
    metrics: dict[str, Callable] = {"forgetting_quality": forgetting_quality, "klom": klom}
    for name, metric in metrics.items():
        seconds = []
        for _ in range(asked.repeats):
            start = time.perf_counter()
            metric(unlearned, retrained)
            seconds.append(time.perf_counter() - start)
        print(f"{name:20s} {' '.join(f'{each:.3g}' for each in seconds)} s")


if __name__ == "__main__":
    main()
