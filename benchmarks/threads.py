"""Scores with threads and without, in turn: where threads gain, and where they wait for Python's lock.

    python benchmarks/threads.py                          # sizes on both sides of `evaluation.LARGE`, two rounds
    python benchmarks/threads.py --rounds 5 --splits 100

Synthetic logits. One line a size, in probabilities of the oracles on the two splits that pools are compared on: the seconds of
the clock that the nulls and the score of a method take, of each round. The attacks on single models use threads in any case,
and are part of the nulls and the score.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from unlearn_jax.metrics import evaluation
from unlearn_jax.types import Cube, Labels

SIZES = ((24, 150, 10), (24, 500, 10), (64, 300, 10), (24, 1000, 10), (64, 1000, 10))  # models, examples of a split, classes


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--splits", type=int, default=20)
    arguments = parser.parse_args()
    for models, examples, classes in SIZES:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, classes, examples)
        oracles, unlearned = (pool(rng, count, labels, classes) for count in (2 * models, models))
        times: dict[str, list[str]] = {"threads": [], "none": []}
        for _ in range(arguments.rounds):
            for name, large in (("threads", 0), ("none", sys.maxsize)):
                evaluation.LARGE = large
                start = time.perf_counter()
                reference = evaluation.reference(oracles, Labels(labels, labels, labels), models, splits=arguments.splits)
                nulls = time.perf_counter()
                evaluation.score(unlearned, reference)
                times[name].append(f"{nulls - start:.2f} + {time.perf_counter() - nulls:.2f}")
        size = f"{models} models, {examples} examples, {classes} classes ({4 * models * examples * classes / 1e6:.2f} million)"
        print(size, *(f"{name}: {', '.join(found)} s" for name, found in times.items()), sep="; ", flush=True)


def pool(rng: np.random.Generator, models: int, labels: np.ndarray, classes: int) -> Cube:
    """Models that mostly give the right answer."""
    shape, right = (models, len(labels), classes), 3 * np.eye(classes, dtype=np.float32)[labels]
    return Cube(*(rng.normal(size=shape).astype(np.float32) + right for _ in Cube._fields))


if __name__ == "__main__":
    main()
