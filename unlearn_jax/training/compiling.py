"""Compiling several programs side by side, in the threads of a process or in several processes."""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock
import jax

from unlearn_jax.device import made_with

FOLDER = "compiling"  # in JAX's cache of programs: a lock for each program that some process compiles
PATIENCE = 600.0  # seconds to wait for other processes in all, before compiling what they compile


def compile_all(lowered: Sequence[Any], divide: bool = False) -> list[Any]:
    """Compiles several lowered programs in parallel: the compiler uses one core for much of its time.

    Args:
        lowered: by JAX.
        divide: other processes compile the same programs now. Each process then compiles what no other is compiling, and reads
            the rest from JAX's cache of programs. If they share none, or its disk has no locks, each compiles everything.

    Returns:
        The compiled programs, in the same order.
    """
    cache = jax.config.jax_enable_compilation_cache and jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if not (divide and cache):
        with ThreadPoolExecutor() as threads:
            return list(threads.map(lambda program: program.compile(), lowered))
    folder = Path(cache) / FOLDER
    with contextlib.suppress(OSError):  # a cache that cannot be written has no programs of the others either
        folder.mkdir(parents=True, exist_ok=True)
    names = [hashlib.sha256(f"{made_with()} {program.as_text()}".encode()).hexdigest() for program in lowered]
    locks = [filelock.FileLock(folder / f"{name}.lock", thread_local=False, fallback_to_soft=False) for name in names]
    deadline = time.monotonic() + PATIENCE

    def begin(number: int) -> Any:
        """The program, or None if another process compiles it."""
        with _held(locks[number], 0.0) as ours:
            return lowered[number].compile() if ours else None

    def take(number: int) -> Any:
        """The program that another process has compiled."""
        with _held(locks[number], max(deadline - time.monotonic(), 0.0)):
            pass  # let go at once: all who waited read it side by side
        return lowered[number].compile()

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        begun = list(threads.map(begin, range(len(lowered))))
        return list(threads.map(lambda number: begun[number] or take(number), range(len(lowered))))


@contextlib.contextmanager
def _held(lock: filelock.BaseFileLock, patience: float) -> Iterator[bool]:
    """Holds a lock. Yields False if another process still has it after `patience` seconds; on a disk without locks, True.

    The kernel lets it go when its process ends in any way.
    """
    ours = True
    try:
        lock.acquire(timeout=patience)
    except filelock.Timeout:
        ours = False
    except (OSError, NotImplementedError):
        pass
    try:
        yield ours
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):  # it is gone, or the folder is somebody else's
                os.unlink(lock.lock_file)  # who waits for it makes a new one, and finds the program in the cache
            with contextlib.suppress(OSError):  # a disk that was lost meanwhile
                lock.release()
