"""How fast this project is beside PyTorch doing the same, on whatever machine it runs on: one table, and JSON.

    python benchmarks/speed.py --json speed.json                     # all four parts
    python benchmarks/speed.py --parts pool --device gpu:0 --model-width 16 --members 8

PyTorch is no dependency of this project: where `pip install torch` was not run, its rows are left out.

* `toy`: exact leave-one-out, 512 points, an MLP of 64-64, 500 full-batch steps of Adam. PyTorch's loop is timed on a few models
  and its batched programs on a few steps, and scaled up.
* `pool`: ResNet-8s on digits and on Fashion-MNIST, PyTorch in one process that uses every core and in one process a core,
  eager and compiled, against every strategy of ours (a model a core where it is XLA's own convolutions on a CPU).
* `methods`: what unlearning takes, in shares of a retraining.
* `quality`: forgetting quality at 512 + 512 models against its definition (timed on a few examples, and scaled up).

PyTorch's processes keep the memory that they have, which speeds them up. Compilation is timed apart. Seconds are by the clock,
which on a machine that others use times the others too; `processor` are the seconds of all cores that the process itself used.
Rates count matrix products and convolutions, as their definition has it.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

PARTS = ("toy", "pool", "methods", "quality")
PEAK = 4096
POINTS, STEPS, TOY_WIDTH, TOY_RATE = 512, 500, 64, 1e-2
BATCH, RATE = 128, 0.1
# Without this glibc gives large tensors back to the kernel at every step: two fifths of PyTorch's time on images of 28x28.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_TOP_PAD_": str(2**26)}


def main() -> None:
    """Measure, print a table for each part, write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="as in benchmark.py")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--datasets", default="digits,fashion_mnist", help="of the pool")
    parser.add_argument("--model-width", type=int, default=16, help="of the pool's ResNet-8")
    parser.add_argument("--members", type=int, default=4, help="of the pool, and originals of the methods")
    parser.add_argument("--methods", default="main", help="main, all, or names separated by commas")
    parser.add_argument("--json", type=Path, help="write the tables there")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts {','.join(sorted(unknown))}: there is {', '.join(PARTS)}")
    from unlearn_jax import device

    device.pin(arguments.device)
    measured: dict[str, Any] = {"device": device.describe(), "peak_gflops": machine_peak(), "torch": torch_version()}
    print(f"{measured['device']}; matrix product of {PEAK}: {measured['peak_gflops']:.0f} GF/s; PyTorch {measured['torch']}")
    for part in parts:
        rows = []
        for row in {"toy": toy, "pool": pool, "methods": methods, "quality": quality}[part](arguments):
            rows.append(shares(row, measured["peak_gflops"]))
            print(f"{part}: " + "  ".join(f"{key} {text(value)}" for key, value in rows[-1].items()), flush=True)
        measured[part] = rows
        if arguments.json:
            arguments.json.write_text(json.dumps(measured | {"arguments": {**vars(arguments), "json": None}}, indent=1))


def text(value: Any) -> str:
    """Three digits of a number."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def shares(row: dict[str, Any], peak: float) -> dict[str, Any]:
    """A row, and its share of the machine's peak where it has a rate."""
    return row | {"of_peak": row["gflops"] / peak} if "gflops" in row else row


def machine_peak() -> float:
    """GF/s of a float32 matrix product, the best of some: NumPy's on a CPU, the default precision's on a GPU."""
    import jax
    import jax.numpy as jnp

    if jax.default_backend() == "cpu":
        a = np.ones((PEAK, PEAK), np.float32)
        product: Callable[[], object] = lambda: a @ a  # noqa: E731
    else:
        b = jnp.ones((PEAK, PEAK))
        multiply = jax.jit(jnp.matmul)
        product = lambda: jax.block_until_ready(multiply(b, b))  # noqa: E731
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - start)
    return 2 * PEAK**3 / best / 1e9


def torch_version() -> str | None:
    """Of the PyTorch that is installed, None where there is none."""
    asked = [sys.executable, "-c", "import torch; print(torch.__version__)"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip() or None


def peers(processes: int, **options: Any) -> dict[str, float] | None:
    """What several processes of torch_peers.py take that start together; None without PyTorch.

    Args:
        processes: how many, each with an equal share of the cores.
        options: of torch_peers.py.

    Returns:
        `seconds` of the slowest, `processor_s` of all together, `compile_s` of the slowest, `accuracy` if there is one.
    """
    import jax

    if torch_version() is None:
        return None
    script = str(Path(__file__).with_name("torch_peers.py"))
    cores = sorted(os.sched_getaffinity(0))
    threads = max(len(cores) // processes, 1)
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    words = [f"--{key.replace('_', '-')}={value}" for key, value in options.items() if key not in ("what", "compile")]
    words += ["--compile"] if options.get("compile") else []
    command = [sys.executable, script, options["what"], f"--threads={threads}", f"--device={device}", *words]
    environment, pipe = {**KEEP_MEMORY, **os.environ}, subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) for _ in range(processes)]
    for one in running:
        assert one.stdout is not None
        if one.stdout.readline() != "ready\n":
            raise RuntimeError(f"{' '.join(command)} failed")
    for one in running:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    said = [json.loads(one.communicate()[0]) for one in running]
    found = {"seconds": max(one["seconds"] for one in said), "processor_s": sum(one["processor_s"] for one in said)}
    accuracy = {"accuracy": float(np.mean([one["accuracy"] for one in said]))} if "accuracy" in said[0] else {}
    return found | {"compile_s": max(one["compile_s"] for one in said)} | accuracy


def toy(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Exact leave-one-out: seconds for all 512 points."""
    import dataclasses

    import jax
    import jax.numpy as jnp

    from unlearn_jax import influence
    from unlearn_jax.data import discs
    from unlearn_jax.models import build
    from unlearn_jax.training.cost import flops
    from unlearn_jax.types import Examples, Recipe

    drawn = discs(POINTS).train
    examples = Examples(*map(jnp.asarray, drawn))
    recipe = Recipe(
        epochs=STEPS, batch_size=POINTS, learning_rate=TOY_RATE, schedule="constant", optimiser="adam", weight_decay=0.0
    )
    run = influence.training(jax.random.key(0), build("mlp", classes=2, width=TOY_WIDTH), examples, recipe)
    plain = dataclasses.replace(run, model=run.model._replace(gradient=None))  # as everybody counts
    work = (POINTS + 1) * flops(influence.train, plain, jnp.ones(POINTS)) / 1e9
    started, processor = time.perf_counter(), time.process_time()
    ends: list[tuple[float, float]] = []
    influence.leave_one_out(run, report=lambda share: ends.append((share, time.perf_counter() - started)))
    spent = time.process_time() - processor
    ours = ends[-1][1]
    (first, began), (last, ended) = ends[0], ends[-1]
    rate = (last - first) * work / (ended - began) if last > first else work / ours
    yield {"way": "unlearn_jax", "seconds": ours, "processor_s": spent, "gflops": rate}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "toy.npz"
        np.savez(data, images=drawn.images, labels=drawn.labels)
        cores = len(os.sched_getaffinity(0))
        common: dict[str, Any] = {"data": data, "width": TOY_WIDTH, "learning_rate": TOY_RATE}
        few = 10
        trials: list[tuple[str, int, float, dict[str, Any]]] = [
            ("PyTorch, a loop", 1, POINTS / 2, {"what": "loop", "models": 2, "steps": STEPS}),
            ("PyTorch, a loop in each core", cores, POINTS / cores / 2, {"what": "loop", "models": 2, "steps": STEPS}),
            ("torch.func.vmap, compiled", 1, STEPS / few, {"what": "vmap", "models": POINTS, "steps": few, "compile": True}),
            ("by hand with bmm, compiled", 1, STEPS / few, {"what": "bmm", "models": POINTS, "steps": few, "compile": True}),
        ]
        for way, processes, times, options in trials:
            took = peers(processes, **common, **options)
            if took is not None:
                seconds = took["seconds"] * times
                rate = work / seconds
                scaled = {"processor_s": took["processor_s"] * times, "gflops": rate, "compile_s": took["compile_s"]}
                yield {"way": way, "seconds": seconds, **scaled, "ours_is_faster": seconds / ours}


def pool(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """ResNet-8s trained from scratch: seconds a model."""
    for dataset in arguments.datasets.split(","):
        yield from one_pool(arguments, dataset)


def one_pool(arguments: argparse.Namespace, dataset: str) -> Iterator[dict[str, Any]]:
    """Every way of training several models on a data set."""
    import jax

    from unlearn_jax.training.cost import flops
    from unlearn_jax.training.ensembles import predict
    from unlearn_jax.training.fit import refit
    from unlearn_jax.training.pools import train_pool

    on_cpu, small = jax.default_backend() == "cpu", dataset == "digits"
    size, epochs = (None, 10) if small else ((1280, 3) if on_cpu else (None, 10))
    forms = ["products", "patches"]
    if small or not on_cpu:  # on a CPU, XLA's own convolutions would take a quarter of an hour on the larger images
        forms += ["xla"]
    ours: dict[str, dict[str, Any]] = {}
    for form, strategy in itertools.product(forms, ("map", "vmap")):
        data, problem = prepared(arguments, dataset, size, epochs, form)
        work = flops(refit, jax.random.key(0), problem) / 1e9
        with tempfile.TemporaryDirectory() as cache:
            batching: dict[str, Any] = {"strategy": strategy, "cache": Path(cache), "identity": {}}
            mask = np.ones(len(data.train.labels), bool)
            processor = time.process_time()
            members = min(arguments.members, jax.device_count()) if on_cpu and form == "xla" else arguments.members  # so slow
            trained = train_pool(problem, mask, members=members, role="speed", seed=0, **batching)
            spent = time.process_time() - processor  # with compilation
        answers = predict(problem.model, trained.variables, data.test.images, strategy).argmax(-1)
        row = {"s_per_model": trained.seconds, "gflops": work / trained.seconds, "compile_s": trained.compile_seconds}
        ours[f"{strategy}, {form}"] = row
        accuracy = float((answers == data.test.labels).mean())
        with_compilation = {"processor_s_with_compilation": spent / members}
        yield {"data": dataset, "way": f"unlearn_jax, {strategy}, {form}", **row, **with_compilation, "accuracy": accuracy}
    best = min(row["s_per_model"] for row in ours.values())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.npz"
        np.savez(file, **data.train._asdict(), **{f"test_{key}": value for key, value in data.test._asdict().items()})
        steps = epochs * (len(data.train.labels) // BATCH)
        cores = len(os.sched_getaffinity(0)) if on_cpu else 1
        options = {"what": "pool", "data": file, "width": arguments.model_width, "steps": steps, "batch_size": BATCH}
        for processes in sorted({1, cores}):
            for layout in ("contiguous_format", "channels_last"):
                for compiled in (False, True):
                    models = max(arguments.members // processes, 1)
                    own = {"models": models, "learning_rate": RATE, "layout": layout, "compile": compiled}
                    took = peers(processes, **options, **own)
                    if took is None:
                        return
                    each = {key: took[key] / (models * processes) for key in ("seconds", "processor_s")}
                    way = f"PyTorch, {'compiled' if compiled else 'eager'}, {layout}, processes: {processes}"
                    row = {"s_per_model": each["seconds"], "processor_s": each["processor_s"], "gflops": work / each["seconds"]}
                    row |= {"compile_s": took["compile_s"], "accuracy": took["accuracy"]}
                    yield {"data": dataset, "way": way, **row, "ours_is_faster": each["seconds"] / best}


def prepared(arguments: argparse.Namespace, dataset: str, size: int | None, epochs: int, form: str) -> tuple:
    """A data set without wrong labels, and the problem of training on it; a random tenth is to be forgotten."""
    from unlearn_jax.data import load
    from unlearn_jax.models import build
    from unlearn_jax.training.ensembles import shared
    from unlearn_jax.types import Examples, Problem, Recipe

    data = load(dataset, train_size=size, label_noise=0.0, seed=0)
    everything = np.ones(len(data.train.labels), bool)
    forget = np.random.default_rng(0).permutation(len(everything)) < len(everything) // 10
    problem = Problem(
        train=Examples(*data.train),
        held_out=Examples(*data.held_out),
        kept=everything,
        forget=forget,
        model=build("resnet8", classes=data.classes, width=arguments.model_width, convolution=form),
        classes=data.classes,
        kept_count=len(everything),
        forget_count=int(forget.sum()),
        recipe=Recipe(epochs=epochs, batch_size=BATCH, learning_rate=RATE),
    )
    return data, shared(problem)


def methods(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What each method takes, in shares of retraining one model, once compiled."""
    import jax

    from unlearn_jax.bench.main_options import Config
    from unlearn_jax.bench.tuned import tuned
    from unlearn_jax.methods import hyperparameters
    from unlearn_jax.methods.apply import Unlearner
    from unlearn_jax.models.convolution import fastest
    from unlearn_jax.training.cost import example_flops, flops
    from unlearn_jax.training.fit import refit
    from unlearn_jax.training.pools import member_keys, train_pool

    _, problem = prepared(arguments, "digits", None, 10, fastest())
    retained = np.asarray(problem.kept & ~problem.forget)
    with tempfile.TemporaryDirectory() as cache:
        given: dict[str, Any] = {"members": arguments.members, "seed": 0, "cache": Path(cache), "identity": {}}
        retrained = train_pool(problem, retained, role="oracle", **given)
        originals = train_pool(problem, np.ones_like(retained), role="original", **given)
    work = flops(refit, jax.random.key(0), problem) / example_flops(problem)
    yield {"method": "retrain", "s_per_model": retrained.seconds, "share": 1.0, "share_of_work": 1.0}
    found = tuned("digits")
    for name in Config(methods=tuple(arguments.methods.split(","))).method_names():
        if name in ("original", "retrain"):
            continue
        unlearner = Unlearner(name, hyperparameters(name, found.get(name, {})), problem, originals.variables)
        unlearner.apply(member_keys(0, name, arguments.members))  # the first call touches new memory
        done = unlearner.apply(member_keys(0, name, arguments.members))
        of_retraining = {"share": done.seconds / retrained.seconds, "share_of_work": done.examples / work}
        yield {"method": name, "s_per_model": done.seconds, **of_retraining, "compile_s": unlearner.compile_seconds}


def quality(arguments: argparse.Namespace, models: int = 512, examples: int = 2000, few: int = 4) -> Iterator[dict[str, Any]]:
    """Forgetting quality and KLOM of two equal pools."""
    from tests.literal import literal_epsilon
    from unlearn_jax.metrics import forgetting_quality, klom

    rng = np.random.default_rng(0)
    centre, spread = rng.normal(3, 3, examples), rng.uniform(0.5, 3, examples)
    sides = [centre + spread * rng.normal(size=(models, examples)) for _ in range(2)]
    timed: dict[str, Callable[..., Any]] = {"forgetting quality": forgetting_quality, "KLOM": klom}
    for name, metric in timed.items():
        start, processor = time.perf_counter(), time.process_time()
        metric(*sides)
        took = (time.perf_counter() - start) / examples
        row = {"metric": name, "ms_per_example": 1e3 * took, "processor_ms": 1e3 * (time.process_time() - processor) / examples}
        if metric is forgetting_quality:
            start = time.perf_counter()
            literal_epsilon(*(side[:, :few] for side in sides))
            literal = (time.perf_counter() - start) / few
            row |= {"literal_ms": 1e3 * literal, "ours_is_faster": literal / took}
        yield row


if __name__ == "__main__":
    main()
