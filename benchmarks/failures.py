"""Workers that die, join late, run out of memory or share no disk: are the results the same to the last bit?

    python benchmarks/failures.py --parts killed memory scheduler --json failures.json
    sudo python benchmarks/failures.py --parts hosts        # two network namespaces: needs the right to make them (Linux)

*killed*: pools and a method by two workers of an embedded cluster, one of which gets SIGKILL at a random moment, again and again.
*memory*: likewise by two workers, one of which is allowed less memory than it needs; then without it.
*scheduler*: the main job at smoke size; its scheduler gets SIGKILL when a random number of chunks is there, and the same command
resumes with another.
*hosts*: the same job by two workers in network namespaces of their own, which see no common disk; the second joins late.
"""

import argparse
import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from workers import processor  # beside this file

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

COMMAND = [sys.executable, "benchmark.py", "--smoke", "--methods", "original,retrain,gradient_ascent,finetune"]
PORT, NETWORK = 8790, "10.79.0"
TIMES = ("seconds", "compile_seconds", "rte")  # metrics


def main() -> None:
    """Run the parts; print a line for each trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("killed", "memory", "scheduler", "hosts"), required=True)
    parser.add_argument("--times", type=int, default=10, help="that a worker is killed; the scheduler a third of it")
    parser.add_argument("--members", type=int, default=24, help="of a pool")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=Path, help="write the table there")
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for part in asked.parts:
            work = Path(folder) / part
            work.mkdir()
            for row in globals()[part](asked, work, random.Random(asked.seed)):
                rows.append({"part": part, **row})
                print(rows[-1], flush=True)
    if asked.json:
        asked.json.write_text(
            json.dumps({"machine": processor(), "date": date.today().isoformat(), "rows": rows}, indent=1) + "\n"
        )


class Work:
    """A pool, and a method on its models, which are the same each time."""

    def __init__(self, members: int, cache: Path):
        from unlearn_jax.bench.setting import forgetting, setting_of
        from unlearn_jax.data import load
        from unlearn_jax.models import build
        from unlearn_jax.types import Recipe

        data = load("digits", train_size=None, label_noise=0.1, seed=0)
        self.members, self.cache = members, cache
        self.setting = setting_of(data, build("mlp", classes=10, width=32), {"model": "mlp"}, Recipe(epochs=30))
        self.problem = forgetting(self.setting, np.arange(len(data.train.labels)) < 100)

    def do(self, name: str, workers: Any = None) -> tuple[Any, Any]:
        """Trains the pool of this name, and unlearns; returns both variables."""
        from unlearn_jax.methods import METHODS
        from unlearn_jax.methods.apply import Spread, Unlearner
        from unlearn_jax.training.pools import member_keys, train_pool

        identity = {**self.setting.identity, "name": name}
        kept = np.ones(self.problem.kept_count, bool)
        pool = train_pool(
            self.problem,
            kept,
            members=self.members,
            role="original",
            seed=0,
            identity=identity,
            cache=self.cache,
            workers=workers,
        )
        what = "finetune", METHODS["finetune"].defaults, self.problem, pool.variables
        method = Spread(*what, workers=workers, cache=self.cache, tasks=8) if workers else Unlearner(*what)
        return pool.variables, method.apply(member_keys(0, "a method", self.members)).variables


def same(one: Any, other: Any) -> bool:
    """Whether all arrays of two trees are equal to the last bit."""
    import jax

    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def killed(asked: argparse.Namespace, folder: Path, rng: random.Random) -> Iterator[dict[str, Any]]:
    """A worker is killed at a random moment of each trial."""
    from unlearn_jax import cluster, device

    device.pin("cpu")
    work = Work(asked.members, folder)
    expected = work.do("here")
    with cluster.embedded(2) as workers:
        work.do("first", workers)  # workers compile
        start = time.perf_counter()
        undisturbed = same(work.do("undisturbed", workers), expected)
        span = time.perf_counter() - start
        yield {"trial": "undisturbed", "seconds": round(span, 1), "equal": undisturbed}
        killed, trial = 0, 0
        while killed < asked.times:
            workers.client.wait_for_workers(2)
            moment, one = rng.uniform(0, span), rng.choice([*workers.client.run(os.getpid).values()])
            timer = threading.Timer(moment, os.kill, (one, signal.SIGKILL))
            start = time.perf_counter()
            timer.start()
            found = same(work.do(f"trial {trial}", workers), expected)
            seconds = time.perf_counter() - start
            timer.cancel()  # if all was done before
            killed, trial = killed + (moment < seconds), trial + 1
            row = {"trial": trial, "killed after s": round(moment, 2) if moment < seconds else None}
            yield {**row, "seconds": round(seconds, 1), "equal": found}


def memory(asked: argparse.Namespace, folder: Path, rng: random.Random) -> Iterator[dict[str, Any]]:
    """One of two workers may not take the memory that it needs; then the other does all."""
    from unlearn_jax import cluster, device
    from unlearn_jax.errors import WorkersError

    device.pin("cpu")
    work = Work(asked.members, folder / "cache")
    expected = work.do("here")
    with dask_scheduler(folder), worker(folder, "ample"), contextlib.ExitStack() as stack:
        stack.enter_context(worker(folder, "small", "--memory-limit", "300MB"))
        said = "none"
        with cluster.connected(f"tcp://127.0.0.1:{PORT}") as workers:
            start = time.perf_counter()
            try:
                found = same(work.do("by both", workers), expected)
            except WorkersError as error:
                said, found = str(error), False
            yield {"trial": "by both", "seconds": round(time.perf_counter() - start, 1), "equal": found, "line": said}
            stack.close()
            if said != "none":
                yield {"trial": "again, without it", "equal": same(work.do("by both", workers), expected)}


@contextlib.contextmanager
def process(words: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen]:
    """A process group for the time of the block."""
    with log.open("ab") as file:
        started = subprocess.Popen(words, stdout=file, stderr=file, start_new_session=True, cwd=ROOT, **options)
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def dask(*words: str) -> list[str]:
    """A command of Dask's."""
    return [sys.executable, "-m", "distributed.cli." + f"dask_{words[0]}", *words[1:]]


@contextlib.contextmanager
def dask_scheduler(folder: Path, host: str = "127.0.0.1", prefix: tuple[str, ...] = ()) -> Iterator[subprocess.Popen]:
    """A scheduler of its own."""
    words = [*prefix, *dask("scheduler", "--host", host, "--port", str(PORT), "--no-dashboard")]
    with process(words, folder / "scheduler.log", env=environment()) as started:
        yield started


@contextlib.contextmanager
def worker(
    folder: Path, name: str, *options: str, host: str = "127.0.0.1", prefix: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen]:
    """A worker with a nanny, one task at a time."""
    own = folder / name
    own.mkdir(exist_ok=True)
    words = dask(
        "worker", f"tcp://{host}:{PORT}", "--nthreads", "1", "--name", name, "--local-directory", str(own), "--no-dashboard"
    )
    with process([*prefix, *words, *options], folder / f"{name}.log", env=environment()) as started:
        yield started


def environment() -> dict[str, str]:
    """Of this process, where the package is that of this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


def command(folder: Path, out: str, cache: str, *words: str, prefix: tuple[str, ...] = ()) -> list[str]:
    """The main job at smoke size."""
    return [*prefix, *COMMAND, "--cache", str(folder / cache), "--out", str(folder / out), *words]


def results(folder: Path) -> list[list[str]]:
    """What results.csv says, but for times."""
    with (folder / "results.csv").open() as file:
        rows = [*csv.DictReader(file)]
    return [[value for name, value in row.items() if name != "seconds"] for row in rows if row["metric"] not in TIMES]


def scheduler(asked: argparse.Namespace, folder: Path, rng: random.Random) -> Iterator[dict[str, Any]]:
    """The scheduler of a run is killed at a random moment; the same command resumes with another."""
    subprocess.run(command(folder, "here", "cache of here"), check=True, cwd=ROOT, capture_output=True)
    expected = results(folder / "here")
    for trial in range(max(asked.times // 3, 1)):
        words = command(folder, f"out {trial}", f"cache {trial}", "--scheduler", f"tcp://127.0.0.1:{PORT}")
        enough = rng.randint(1, 7)  # of 8 chunks
        with (
            dask_scheduler(folder) as cluster,
            worker(folder, "a"),
            worker(folder, "b"),
            process(words, folder / "command.log") as run,
        ):
            while chunks(folder / f"cache {trial}") < enough and run.poll() is None:
                time.sleep(0.02)
            os.kill(cluster.pid, signal.SIGKILL)
            first = run.wait(300)
        done = chunks(folder / f"cache {trial}")
        line = (folder / "command.log").read_text().splitlines()[-1]
        with dask_scheduler(folder), worker(folder, "a"), worker(folder, "b"):
            second = subprocess.run(words, cwd=ROOT, capture_output=True, check=False).returncode
        row = {"trial": trial, "killed after chunks": enough, "status": first, "chunks kept": done, "line": line}
        yield {**row, "status again": second, "equal": results(folder / f"out {trial}") == expected}


def hosts(asked: argparse.Namespace, folder: Path, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Two network namespaces with a cable between them; the one of the second worker has another disk in place of `folder`."""
    subprocess.run(command(folder, "here", "cache of here"), check=True, cwd=ROOT, capture_output=True)
    first, second = (("ip", "netns", "exec", f"unlearn-{name}") for name in "ab")
    apart = *second, "unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{folder}" && mkdir "{folder}/b" && exec "$@"', "sh"
    where = f"{NETWORK}.1"
    words = command(folder, "out", "cache", "--scheduler", f"tcp://{where}:{PORT}", prefix=first)
    took: dict[str, int] = {}
    with (
        namespaces(),
        dask_scheduler(folder, where, first),
        worker(folder, "a", host=where, prefix=first),
        process(words, folder / "command.log") as run,
    ):
        while not (before := chunks(folder / "cache")) and run.poll() is None:
            time.sleep(0.1)
        with worker(folder, "b", host=where, prefix=apart):  # joins late
            while (status := run.poll()) is None:
                with contextlib.suppress(ValueError, subprocess.CalledProcessError):
                    took |= json.loads(subprocess.run([*first, *TOOK], env=environment(), **QUIET).stdout)
                time.sleep(1)
    equal = results(folder / "out") == results(folder / "here")
    yield {"status": status, "chunks before the second": before, "jobs of each": took, "equal": equal}


def chunks(cache: Path) -> int:
    """Those in a cache."""
    return len([*cache.rglob("*-*.npz")])


QUIET: dict[str, Any] = {"capture_output": True, "text": True, "check": True}
ASK = f"""
import json
from distributed import Client
with Client("tcp://{NETWORK}.1:{PORT}", timeout=5) as client:
    jobs = client.run(lambda: len(__import__("unlearn_jax.cluster", fromlist=["_jobs"])._jobs))
    names = {{address: worker["name"] for address, worker in client.scheduler_info()["workers"].items()}}
print(json.dumps({{names[address]: count for address, count in jobs.items()}}))
"""
TOOK = [sys.executable, "-c", ASK]


@contextlib.contextmanager
def namespaces() -> Iterator[None]:
    """Two network namespaces with a cable between them."""
    make = [
        "ip netns add unlearn-a",
        "ip netns add unlearn-b",
        "ip link add unlearn-a netns unlearn-a type veth peer name unlearn-b netns unlearn-b",
        *(f"ip -n unlearn-{name} link set lo up" for name in "ab"),
        *(f"ip -n unlearn-{name} addr add {NETWORK}.{number}/24 dev unlearn-{name}" for number, name in enumerate("ab", 1)),
        *(f"ip -n unlearn-{name} link set unlearn-{name} up" for name in "ab"),
    ]
    try:
        for words in make:
            subprocess.run(words.split(), check=True)
        yield
    finally:
        for name in "ab":
            subprocess.run(["ip", "netns", "del", f"unlearn-{name}"], check=False)


if __name__ == "__main__":
    main()
