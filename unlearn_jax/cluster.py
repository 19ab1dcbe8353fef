"""Workers by Dask distributed: an embedded cluster on this machine, or one that runs anywhere.

Dask starts, watches and restarts processes, moves data and repeats what a lost process was doing; nothing of that is here.
Imports no JAX: a scheduler needs none.

A job is pickled once. Its large arrays travel apart, each under the digest of its content, so that what several jobs share (the
examples, the original models) is sent to a worker once. All of it are tasks for Dask, never `scatter`: what a lost worker held is
made again.
"""

import collections
import contextlib
import ctypes
import hashlib
import importlib.util
import logging
import os
import pickle
import secrets
import socket
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dask
import numpy as np
from distributed import CancelledError, Client, KilledWorker, LocalCluster, WorkerPlugin, as_completed, get_worker
from distributed.comm import CommClosedError

from unlearn_jax.errors import ArgumentError, WorkersError
from unlearn_jax.files import memory
from unlearn_jax.pickling import pickled, unpickled
from unlearn_jax.workers import Here, Job, Workers

TIMEOUT = 10  # seconds for a scheduler to answer
JOBS = 4  # that a worker holds ready: unpickled and compiled
LOOPBACK = "127.0.0.1"
LOST = "distributed.deploy.lost-worker-timeout"  # then Dask gives up a worker of the embedded cluster that has died
PATIENCE = "1h"  # of Dask 15 s, which are not enough to start again where the processor is busy
MALLOPT = {-1: 64 << 20, -3: 32 << 20}  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD: what glibc itself comes to, at most
PAUSE = 0.5  # seconds between two reports of a piece
RESTARTED = "worker-restart-memory"  # Dask's own topic


class _Place(NamedTuple):
    """What a worker has to know of a run."""

    numerics: Mapping[str, Any]  # of the process that asks, see `device.numerics`
    kept: int  # `runs.FORMAT`
    cache: str
    probe: str  # a file in it
    token: str  # its content
    topic: str  # of reports
    process: int  # that asks: its number


class Pinned(WorkerPlugin):
    """Pins the device of each worker before JAX starts in it, and lets the worker keep memory that was freed.

    Args:
        count: of the workers of an embedded cluster, whose names are their numbers; they share this machine. None: each worker
            has a machine, a GPU (`CUDA_VISIBLE_DEVICES`) or cores of its own already.
        cores: of this machine, to share.
        gpus: likewise the number of GPUs that this process has chosen; 0: the CPU.
    """

    def __init__(self, count: int | None, cores: Sequence[int] = (), gpus: int = 0):
        self.count, self.cores, self.gpus = count, tuple(cores), gpus
        self.process = socket.gethostname(), os.getpid()

    def setup(self, worker: Any) -> None:
        """Called by Dask in each worker."""
        if (socket.gethostname(), os.getpid()) == self.process:  # a worker that is a thread of ours
            return
        from unlearn_jax import device

        _keep_memory()
        spec = "auto"
        if self.count is not None:
            number = int(worker.name)
            os.sched_setaffinity(0, share_of(self.cores, self.count, number))  # inherited by all threads that JAX starts
            spec = f"gpu:{number % self.gpus}" if self.gpus else "cpu"
        with contextlib.suppress(RuntimeError):  # JAX has started already, for an earlier run
            device.pin(spec)


def _keep_memory() -> None:
    """Lets this process use again what it has freed.

    Dask tells glibc to give all of it back to the kernel at once (`MALLOC_TRIM_THRESHOLD_`). Each step of training would then
    ask for all its arrays anew, and wait while the kernel fills them with zeros.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        for parameter, size in MALLOPT.items():
            ctypes.CDLL(None).mallopt(parameter, size)


def share_of(cores: Sequence[int], count: int, number: int) -> list[int]:
    """Returns the cores of one of `count` workers: neighbours, as equally many as possible; shared ones if there are too few."""
    number %= count  # one that joined later
    if count >= len(cores):
        return [cores[number % len(cores)]]
    return [*cores[len(cores) * number // count : len(cores) * (number + 1) // count]]


class Cluster(Workers):
    """The workers of a Dask cluster.

    Args:
        client: of Dask.
        argument: what messages call the cluster: `workers`, `scheduler` or `client`.
        value: of that argument.
        pinned: the device of each worker.

    Raises:
        ArgumentError: a worker lacks this package.
    """

    def __init__(self, client: Client, argument: str, value: object, pinned: Pinned):
        self.client, self.argument, self.value = client, argument, value
        self._sent: dict[str, Any] = {}  # the arrays of the last job stay with the workers: the next one often has the same
        self._most: int | None = None
        self._probes: dict[Path, tuple[str, str]] = {}
        try:
            client.register_plugin(pinned, name="unlearn_jax")
        except Exception as error:  # whatever a foreign environment lacks
            raise ArgumentError(argument, value, f"a worker cannot be used ({_first_line(error)})") from error
        client.subscribe_topic(RESTARTED, self._restarted)

    @property
    def count(self) -> int:
        """The workers at present, at least 1."""
        with self._told():
            return max(len(self.client.nthreads()), 1)

    @property
    def devices(self) -> int:
        """JAX devices of one worker: of the one that has most."""
        if self._most is None:
            with self._told():
                self._most = max(self._ask(_device_count), default=1)
        return self._most

    def share(self, cache: Path) -> bool:
        """Whether all workers at present see the cache of the run."""
        with self._told():
            return {*self._ask(_sees, *self._probe(cache.absolute()))} == {True}

    def run(
        self, job: Job, pieces: Sequence[Any], cache: Path, heard: Callable[[int, Any], None], label: str
    ) -> Iterator[tuple[int, Any]]:
        """Starts, and returns the number and the result of each piece, see `workers.Workers.run`."""
        from unlearn_jax.device import numerics
        from unlearn_jax.runs import FORMAT

        name = f"{label}-{uuid.uuid4().hex[:8]}"
        place = _Place(numerics(), FORMAT, str(cache.absolute()), *self._probe(cache.absolute()), name, os.getpid())
        with self._told():
            self.client.subscribe_topic(name, lambda event: heard(*event[1]))
        whole, large = self._pickled(job)
        parts, arrays = zip(*(self._pickled(piece) for piece in pieces), strict=True)
        sent: dict[str, Any] = {}
        for digest, array in collections.ChainMap(large, *arrays).items():
            sent[digest] = self._sent.get(digest) or self._send(digest, array)
        self._sent = sent
        digest = hashlib.sha256(whole).hexdigest()
        with self._told():
            futures = self.client.map(
                _do,
                range(len(pieces)),
                parts,
                [{each: sent[each] for each in of_piece} for of_piece in arrays],
                digest=digest,
                job=self._send(digest, whole),
                arrays={each: sent[each] for each in large},
                place=place,
                key=[f"{name}-{number}" for number in range(len(pieces))],
                pure=False,
            )
            numbers = {future.key: number for number, future in enumerate(futures)}
            return self._results(as_completed(futures), numbers)

    def _ask(self, what: Callable[..., Any], *given: Any) -> list[Any]:
        """What each worker answers, but for those that die meanwhile."""
        return [*self.client.run(what, *given, on_error="ignore").values()]

    def _results(self, done: Any, numbers: Mapping[Any, int]) -> Iterator[tuple[int, Any]]:
        """Forgets each result once it was taken: it would stay with the workers."""
        with self._told():
            for future in done:
                number, result = numbers[future.key], future.result()
                del future
                yield number, result

    def _pickled(self, value: Any) -> tuple[bytes, dict[str, np.ndarray]]:
        """See `pickled`.

        Raises:
            ArgumentError: it cannot be.
        """
        try:
            return pickled(value)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            problem = f"a function or model cannot be sent to other processes ({_first_line(error)})"
            raise ArgumentError(self.argument, self.value, problem) from error

    def _probe(self, cache: Path) -> tuple[str, str]:
        """A file in the cache by whose content a worker sees whether its cache is the same; its path and content.

        There is none if the cache cannot be written: then no worker could either.
        """
        if cache not in self._probes:
            path, token = cache / f".{uuid.uuid4().hex[:8]}.probe", secrets.token_hex(16)
            with contextlib.suppress(OSError):
                cache.mkdir(parents=True, exist_ok=True)
                path.write_text(token)
            self._probes[cache] = str(path), token
        return self._probes[cache]

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        """Removes what lies in the caches; the client stays open."""
        for path, _token in self._probes.values():
            with contextlib.suppress(OSError):
                Path(path).unlink(missing_ok=True)

    def _send(self, digest: str, value: Any) -> Any:
        """A task whose result is the value: what is lost with a worker is made again, unlike what is scattered."""
        with self._told(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is large
            return self.client.submit(_held, value, key=f"held-{digest}")

    def _restarted(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """Says that a worker took more memory than Dask allows it."""
        used = event[1]["rss"] / 2**30
        print(f"worker {event[1]['worker']} is restarted: it took {used:.1f} GiB of memory", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turns what Dask raises into one line."""
        try:
            yield
        except KilledWorker as error:
            problem = f"{error.allowed_failures + 1} workers died of the same task (killed, or out of memory); "
            problem += "take fewer workers on a machine, or a smaller --chunk"
            raise WorkersError(self.argument, self.value, problem) from error
        except _UnfitError as error:
            raise WorkersError(self.argument, self.value, str(error)) from error
        except Exception as error:
            problem = ""
            if isinstance(error, CancelledError | CommClosedError) or self.client.status in ("closing", "closed"):
                problem = "the connection to the scheduler was lost"
            elif isinstance(error, RuntimeError) and "deserialization of the task graph" in str(error):
                problem = "the scheduler has no unlearn_jax, or another version of it"
            if not problem:
                raise
            raise WorkersError(self.argument, self.value, problem) from error


@contextlib.contextmanager
def embedded(workers: int) -> Iterator[Cluster]:
    """Starts workers on this machine for the time of the block. They listen on loopback only, and speak TLS with each other.

    Args:
        workers: their number. They share the cores, or the GPUs that this process has chosen, see `device.pin`.
    """
    on_gpus = os.environ.get("JAX_PLATFORMS", "").startswith("cuda")
    gpus = len(os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")) if on_gpus else 0
    if gpus:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # this process uses one of them too
    quiet = "ignore:resource_tracker"  # of multiprocessing, which warns of semaphores that a stopped run leaves to it
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), quiet)))
    dashboard = importlib.util.find_spec("bokeh") is not None
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host=LOOPBACK,
        security=True,
        memory_limit=memory() // workers,
        dashboard_address=f"{LOOPBACK}:0",
        silence_logs=logging.CRITICAL,
    )
    with dask.config.set({LOST: PATIENCE}), cluster, Client(cluster, timeout=TIMEOUT) as client:
        if dashboard:
            print(f"workers: {cluster.dashboard_link}", file=sys.stderr, flush=True)
        with Cluster(client, "workers", workers, Pinned(workers, sorted(os.sched_getaffinity(0)), gpus)) as found:
            yield found


@contextlib.contextmanager
def connected(scheduler: str) -> Iterator[Cluster]:
    """Connects to a running cluster for the time of the block.

    Args:
        scheduler: its address, `tcp://host:8786` or `tls://host:8786`; for TLS Dask's own configuration names the certificates.

    Raises:
        ArgumentError: it cannot be reached.
    """
    for name in logging.root.manager.loggerDict:  # what happens is said in one line of ours
        if name.split(".")[0] in ("distributed", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = Client(scheduler, timeout=TIMEOUT)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        problem = f"cannot be reached ({_first_line(error)}); expected the address of a running Dask scheduler"
        raise ArgumentError("scheduler", scheduler, problem) from error
    with client, Cluster(client, "scheduler", scheduler, Pinned(None)) as found:
        yield found


def of_client(client: Any) -> Cluster:
    """The workers of somebody's own client, which stays open.

    Raises:
        ArgumentError: it is none, is closed, or its workers lack this package.
    """
    if not isinstance(client, Client) or client.asynchronous:
        raise ArgumentError("client", type(client).__name__, "expected a distributed.Client that is not asynchronous")
    return Cluster(client, "client", client.scheduler.address if client.scheduler else "(closed)", Pinned(None))


class _UnfitError(Exception):
    """A worker cannot do what it is asked for."""


def _do(number: int, part: bytes, of_part: dict, *, digest: str, job: bytes, arrays: dict, place: _Place) -> Any:
    """Does a piece, in a worker."""
    worker = get_worker()
    with _turn:  # a job uses all devices of a process
        cache, shared = _enter(place, worker.local_directory)
        if digest not in _jobs:
            _jobs[digest] = unpickled(job, arrays)
            while len(_jobs) > JOBS:
                _jobs.popitem(last=False)
        said = 0.0

        def report(news: Any) -> None:
            nonlocal said
            if time.monotonic() - said > PAUSE:
                said = time.monotonic()
                worker.log_event(place.topic, (number, news))

        return _jobs[digest](unpickled(part, of_part), Here(cache, shared, report))


_turn = threading.Lock()
_jobs: collections.OrderedDict[str, Job] = collections.OrderedDict()


def _enter(place: _Place, own: str) -> tuple[Path, bool]:
    """Makes JAX as it is in the process that asks; returns the cache to use, and whether it is that of the run.

    Args:
        place: what that process says.
        own: a folder of this worker.
    """
    from unlearn_jax import device
    from unlearn_jax.runs import FORMAT

    if place.kept != FORMAT:
        raise _UnfitError(f"a worker on {socket.gethostname()} has another version of unlearn_jax")
    try:
        device.adopt(place.numerics)
    except ValueError as error:
        raise _UnfitError(f"a worker on {socket.gethostname()} differs: {error}") from error
    shared = _sees(place.probe, place.token)
    cache = Path(place.cache) if shared else Path(own) / "cache"
    if os.getpid() != place.process:
        device.keep_compiled(cache / "xla")
    return cache, shared


def _sees(probe: str, token: str) -> bool:
    try:
        return Path(probe).read_text() == token
    except OSError:
        return False


def _held(value: Any) -> Any:
    return value


def _device_count() -> int:
    import jax

    return jax.local_device_count()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
