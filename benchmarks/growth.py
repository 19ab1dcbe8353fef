"""How the cost of scoring grows with members, examples, classes, methods and forget sets: slopes of time and memory.

    python benchmarks/growth.py --json growth.json
    python benchmarks/growth.py --what klom quality --by members --sizes 64 1024 4096 --base 64 10000 10

Logits are Gaussian about the label; unlearned and retrained models have the same distribution. What is measured: two-sample
metrics and distances one by one, of as many models as retrained ones on all examples; `reference` (the nulls, from 8 splits of
twice as many retrained models); `score` (all metrics of one method, or of several); and both, with 2 splits, on several forget
sets. Seconds are those of the processor, over all threads; memory is the most that the process takes beyond its inputs. A slope
is that of the logarithms over the upper half of the sizes. An axis ends with the first size that takes longer than `--limit`.
"""

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from workers import memory, processor  # beside this file

from unlearn_jax.metrics import forgetting_quality, kl_to_oracle, klom, probabilities, reference, scaled_logits, score
from unlearn_jax.metrics.by_example import largest_t
from unlearn_jax.metrics.by_model import distances
from unlearn_jax.types import Cube, Labels

SPLITS = 8  # of the oracles, for the nulls
MARGINS: dict[str, Callable] = {"klom": klom, "quality": forgetting_quality, "largest t": largest_t, "model distances": distances}
WHAT = (*MARGINS, "kl", "reference", "score")
SIZES = {
    "members": [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096],
    "examples": [100, 300, 1000, 3000, 10_000],
    "classes": [10, 30, 100, 300, 1000],
    "methods": [1, 2, 4, 8],
    "forget sets": [1, 2, 4],
}
AXES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(MARGINS, ("members", "examples")),
    **dict.fromkeys(("kl", "reference"), ("members", "examples", "classes")),
    "score": tuple(SIZES),
}


def main() -> None:
    """Measure every axis; print a line a size, and the slopes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=WHAT, default=WHAT)
    parser.add_argument("--by", nargs="+", choices=tuple(SIZES), default=tuple(SIZES))
    parser.add_argument("--sizes", type=int, nargs="+", help="in place of those of each axis")
    parser.add_argument("--base", type=int, nargs=3, default=[32, 300, 10], help="members, examples, classes where they stay")
    parser.add_argument("--limit", type=float, default=15, help="seconds; a size that takes longer is the last of its axis")
    parser.add_argument("--json", type=Path, help="write the table there")
    asked = parser.parse_args()
    base = dict(zip(("members", "examples", "classes"), asked.base, strict=True)) | {"methods": 1, "forget sets": 1}
    rows, slopes = [], []
    for what in asked.what:
        prepared(what, "", base | {"members": 8, "examples": 50})()  # imports, and threads
        for axis in [axis for axis in AXES[what] if axis in asked.by]:
            found = list(measured(what, axis, asked.sizes or SIZES[axis], base, asked.limit))
            rows += found
            slopes.append({"what": what, "by": axis, "to": found[-1][axis], **slope(found, axis)})
            print(slopes[-1], flush=True)
    if asked.json:
        where = {"machine": processor(), "date": date.today().isoformat(), "base": base}
        asked.json.write_text(json.dumps({**where, "slopes": slopes, "rows": rows}, indent=1) + "\n")


def measured(what: str, axis: str, sizes: Sequence[int], base: dict[str, int], limit: float) -> Iterator[dict[str, Any]]:
    """Seconds and MiB at each size of an axis."""
    for size in sizes:
        row: dict[str, Any] = {"what": what, "by": axis, **base, axis: size}
        work = prepared(what, axis, row)
        ctypes.CDLL(None).malloc_trim(0)  # what was free would be taken again unseen
        before = memory()
        Path("/proc/self/clear_refs").write_text("5")  # the most so far begins anew
        start = time.process_time()
        work()
        row["seconds"] = round(time.process_time() - start, 6)
        row["mib"] = round(memory("VmHWM") - before, 1)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        yield row
        if row["seconds"] > limit:
            return


def prepared(what: str, axis: str, sizes: dict[str, int]) -> Callable[[], object]:
    """What is to be measured, with its inputs made and everything imported."""
    rng, (members, examples, classes) = np.random.default_rng(0), (sizes[name] for name in ("members", "examples", "classes"))
    labels = rng.integers(classes, size=examples)
    centre = (rng.normal(4, 2, size=(examples, 1)) * np.eye(classes)[labels]).astype(np.float32)

    def logits(models: int) -> np.ndarray:
        return centre + rng.standard_normal((models, examples, classes), np.float32)

    def cube(models: int) -> Cube:
        return Cube(*(logits(models) for _ in range(3)))

    if what in MARGINS:
        sides = [np.concatenate([scaled_logits(logits(1), labels) for _ in range(members)]) for _ in range(2)]
        return lambda: MARGINS[what](*sides)
    if what == "kl":
        pair = probabilities(logits(members)), probabilities(logits(members))
        return lambda: kl_to_oracle(*pair)
    of_all = Labels(labels, labels, labels)
    oracles = cube(2 * members)
    if what == "reference":
        return lambda: reference(oracles, of_all, members, splits=SPLITS)
    unlearned = cube(members)

    def score_all() -> None:
        for _ in range(sizes["forget sets"]):
            null = reference(oracles, of_all, members, splits=2)
            for _ in range(sizes["methods"]):
                score(unlearned, null)

    if axis == "forget sets":
        return score_all
    null = reference(oracles, of_all, members, splits=2)
    return lambda: [score(unlearned, null) for _ in range(sizes["methods"])]


def slope(rows: Sequence[dict[str, Any]], axis: str) -> dict[str, float | None]:
    """The slopes of seconds and memory over the upper half of the sizes; None where memory is too little to see."""
    upper = rows[len(rows) // 2 :] if len(rows) > 3 else rows
    fits: dict[str, float | None] = {}
    for name, least in (("seconds", 1e-4), ("mib", 2.0)):
        seen = [(row[axis], row[name]) for row in upper if row[name] >= least]
        x, y = np.log(np.array(seen or [(1, 1)])).T
        fits[name] = round(float(np.polyfit(x, y, 1)[0]), 2) if len(seen) > 1 else None
    return fits


if __name__ == "__main__":
    main()
