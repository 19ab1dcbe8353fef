"""What workers cost: the main job with and without them, and the bookkeeping of many tasks on many workers, simulated.

    python benchmarks/workers.py --part job --workers 1 2            # whole runs in turn: none, 1, 2; needs a quiet machine
    python benchmarks/workers.py --part job --words "--smoke"        # other options of the run
    python benchmarks/workers.py --part simulated --json table.json  # 10,000 tasks that sleep, on 64 workers that are threads

Of the simulation, client, scheduler and workers are one process: its memory and processor time are bounds on the scheduler's.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))


def main() -> None:
    """Print one table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("job", "simulated"), default="simulated")
    parser.add_argument("--workers", type=int, nargs="+", default=None, help="job: 1 2; simulated: 64")
    parser.add_argument("--words", default="", help="of the job, besides --exp unlearning")
    parser.add_argument("--repeats", type=int, default=1, help="of the job; all variants in turn each time")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=0.25, help="that a simulated task sleeps")
    parser.add_argument("--json", type=Path, help="write the table there")
    arguments = parser.parse_args()
    rows = job(arguments) if arguments.part == "job" else [simulated(arguments, count) for count in arguments.workers or [64]]
    where = {"machine": processor(), "date": date.today().isoformat()}
    if arguments.json:
        arguments.json.write_text(json.dumps({**where, "part": arguments.part, "rows": rows}, indent=1) + "\n")


def job(arguments: argparse.Namespace) -> list[dict]:
    """Seconds of whole runs: with an empty cache, and again with its pools and programs, methods anew."""
    rows = []
    for repeat in range(arguments.repeats):
        for workers in [0, *(arguments.workers or [1, 2])]:
            with tempfile.TemporaryDirectory() as folder:
                row: dict[str, float] = {"repeat": repeat, "workers": workers}
                for cache in ("cold", "warm"):
                    shutil.rmtree(f"{folder}/cache/logits", ignore_errors=True)
                    words = [sys.executable, "benchmark.py", "--cache", f"{folder}/cache", "--out", f"{folder}/{cache}"]
                    words += shlex.split(arguments.words) + (["--workers", str(workers)] if workers else [])
                    start, spent = time.perf_counter(), children()
                    subprocess.run(words, check=True, cwd=Path(__file__).parent.parent, stdout=subprocess.DEVNULL)
                    row[cache] = round(time.perf_counter() - start, 1)
                    row[f"{cache}, processor"] = round(children() - spent, 1)
                    row[f"{cache}, load"] = round(os.getloadavg()[0], 1)
                rows.append(row)
                print(rows[-1], flush=True)
    for workers in arguments.workers or [1, 2]:
        for cache in ("cold", "warm"):
            alone, spread = ([row[cache] for row in rows if row["workers"] == count] for count in (0, workers))
            ratios = ", ".join(f"{many / one:.3f}" for many, one in zip(spread, alone, strict=True))
            print(f"{workers} workers, {cache}: {ratios} of what one process took", flush=True)
    return rows


def simulated(arguments: argparse.Namespace, workers: int) -> dict:
    """Tasks that sleep: what was lost beside the shortest possible time, and what one process took for all bookkeeping."""
    from distributed import Client, LocalCluster

    from unlearn_jax import cluster, runs, training  # noqa: F401 - imported before threads take turns with it

    cluster._turn = contextlib.nullcontext()  # type: ignore[assignment]  # each thread stands for a process
    seconds = arguments.seconds

    def sleep(piece: int, here: object) -> int:
        time.sleep(seconds)
        return piece

    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=False,
            memory_limit=None,  # of a process that all of them share: they would pause
            dashboard_address=None,
            silence_logs=50,
        ) as threads,
        Client(threads) as client,
        cluster.of_client(client) as found,
    ):
        list(found.run(sleep, range(workers), Path(folder), lambda *_: None, "warm"))  # imports
        before, most, done = memory(), Most(), 0
        start, spent = time.perf_counter(), time.process_time()
        for _ in found.run(sleep, range(arguments.tasks), Path(folder), lambda *_: None, "sleep"):
            done += 1
        taken, spent = time.perf_counter() - start, time.process_time() - spent
    least = arguments.tasks * seconds / workers
    row = {
        "workers": workers,
        "tasks": done,
        "seconds a task": seconds,
        "shortest possible s": round(least, 1),
        "taken s": round(taken, 1),
        "lost, %": round(100 * (taken / least - 1), 1),
        "processor ms a task": round(1000 * spent / done, 2),
        "memory MiB": round(most.stop()),
        "of which before MiB": round(before),
    }
    print(row, flush=True)
    return row


def children() -> float:
    """Seconds that the processor worked for processes that this one started, and for theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Most:
    """The most memory of this process, looked at ten times a second."""

    def __init__(self) -> None:
        self.most, self.going = memory(), threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self) -> None:
        while not self.going.wait(0.1):
            self.most = max(self.most, memory())

    def stop(self) -> float:
        """The most so far, in MiB."""
        self.going.set()
        self.thread.join()
        return self.most


def memory(which: str = "VmRSS") -> float:
    """MiB that this process has in memory; with `VmHWM` the most that it had."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which)]
    return int(line.split()[1]) / 1024


def processor() -> str:
    """The name of this machine's processor, and its cores."""
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
