"""Compiling several programs side by side, in the threads of a process or in several processes."""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock
import jax

FOLDER = "compiling"  # in JAX's cache of programs: a lock for each program that some process compiles
PATIENCE = 600  # seconds to wait for another process, before compiling what it compiles


def compile_all(lowered: Sequence[Any], divide: bool = False) -> list[Any]:
    """Compiles several lowered programs in parallel: the compiler uses one core for much of its time.

    Args:
        lowered: by JAX.
        divide: other processes compile the same programs now. Each process then compiles what no other is compiling, and reads
            the rest from JAX's cache of programs. If they share none, or its disk has no locks, each compiles everything.

    Returns:
        The compiled programs, in the same order.
    """
    cache = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if not (divide and cache):
        with ThreadPoolExecutor() as threads:
            return list(threads.map(lambda program: program.compile(), lowered))
    folder = Path(cache) / FOLDER
    with contextlib.suppress(OSError):  # a cache that cannot be written has no programs of the others either
        folder.mkdir(parents=True, exist_ok=True)
    compiled: dict[int, Any] = {}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for patience in (0, PATIENCE):  # first what nobody compiles, then what others have compiled meanwhile

            def attempt(number: int, patience: int = patience) -> None:
                with _alone(folder, lowered[number], patience) as ours:
                    if ours or patience:
                        compiled[number] = lowered[number].compile()

            list(threads.map(attempt, [number for number in range(len(lowered)) if number not in compiled]))
    return [compiled[number] for number in range(len(lowered))]


@contextlib.contextmanager
def _alone(folder: Path, program: Any, patience: int) -> Iterator[bool]:
    """Whether no other process compiles this program: it waits so many seconds for one that does.

    The kernel holds the lock, and releases it when the process ends in any way.
    """
    path = folder / f"{hashlib.sha256(program.as_text().encode()).hexdigest()}.lock"
    lock, ours = filelock.FileLock(path, fallback_to_soft=False), True
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
            path.unlink(missing_ok=True)  # one who opened it before may go on: what it waited for is in the cache
            lock.release()
