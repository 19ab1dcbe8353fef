"""SVC-MIA of some models: with a kernel that is computed at once, and with scikit-learn's own, entry by entry; in turn.

    python benchmarks/attacks.py
    python benchmarks/attacks.py --models 48 --examples 500 --rounds 5

Synthetic logits; members are surer than the others. Prints the milliseconds a model of each round (after one model that does
not count), and whether both find the same numbers.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import sklearn.svm

sys.path.insert(0, str(Path(__file__).parent.parent))

from unlearn_jax.metrics import attacks
from unlearn_jax.metrics.scores import probabilities


def main() -> None:
    """Prints a line for each of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=24)
    parser.add_argument("--examples", type=int, default=360, help="members, and as many non-members")
    parser.add_argument("--targets", type=int, default=129)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    sides = [(asked.examples, 4.0), (asked.examples, 2.5), (asked.targets, 3.0)]
    models = [[answers(rng, count, asked.classes, sure) for count, sure in sides] for _ in range(asked.models)]
    at_once = sklearn.svm.SVC
    attackers = {"at once": at_once, "scikit-learn's": lambda **given: at_once(**{**given, "kernel": "rbf", "gamma": "auto"})}
    times: dict[str, list[str]] = {name: [] for name in attackers}
    found: dict[str, list] = {}
    for _ in range(asked.rounds):
        for name, attacker in attackers.items():
            sklearn.svm.SVC = attacker  # type: ignore[misc]
            attacks.svc_mia(models[0][0], models[0][1], models[0][2])
            start = time.perf_counter()
            found[name] = [attacks.svc_mia(member, other, target) for member, other, target in models]
            times[name].append(f"{1e3 * (time.perf_counter() - start) / len(models):.1f}")
    for name, of_rounds in times.items():
        print(f"{name}: {', '.join(of_rounds)} ms a model")
    one, other = found.values()
    print("the same numbers" if one == other else "OTHER NUMBERS")


def answers(rng: np.random.Generator, count: int, classes: int, sure: float) -> attacks.Answers:
    """Probabilities and labels of some examples, whose right logit is `sure` above the others on average."""
    labels = rng.integers(0, classes, count)
    return probabilities(rng.normal(scale=2, size=(count, classes)) + sure * np.eye(classes)[labels]), labels


if __name__ == "__main__":
    main()
