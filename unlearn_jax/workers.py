"""The seam at which heavy work may leave this process: a job is done in pieces, wherever whoever serves it likes.

Without a cluster nothing leaves the process, and nothing of Dask is imported; `cluster.py` serves the same jobs by Dask.
"""

import abc
import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple


class Here(NamedTuple):
    """What a job is told about the place where a piece of it is done.

    Attributes:
        cache: a folder for what is trained.
        shared: whether it is the cache of the run; else results have to be returned.
        report: called with numbers, or tuples of them and of text, about the progress.
    """

    cache: Path
    shared: bool
    report: Callable[[Any], None]


Job = Callable[[Any, Here], Any]
"""What does a piece: `(piece, here) -> result`. A piece may be done twice, so it must give the same each time."""


class Workers(abc.ABC):
    """Whoever does the pieces of a job."""

    @property
    @abc.abstractmethod
    def count(self) -> int:
        """The workers at present, at least 1."""

    @property
    @abc.abstractmethod
    def devices(self) -> int:
        """JAX devices of one worker: of the one that has most."""

    @abc.abstractmethod
    def share(self, cache: Path) -> bool:
        """Whether all workers at present see the cache of the run."""

    @abc.abstractmethod
    def run(
        self, job: Job, pieces: Sequence[Any], cache: Path, heard: Callable[[int, Any], None], label: str
    ) -> Iterator[tuple[int, Any]]:
        """Starts, and returns the number and the result of each piece in the order in which they are done.

        Args:
            job: picklable; large arrays in it are sent to each worker once.
            pieces: picklable.
            cache: of the run.
            heard: called with the number of a piece and what it reported, from any thread.
            label: what the pieces are called in a dashboard.

        Raises:
            WorkersError: the cluster was lost, or a piece cannot be done by any worker.
        """


FROM_FILES: list[ModuleType] = []
"""Modules that were imported from a file that was named: no other process finds them by their names."""

_current: ContextVar[Workers | None] = ContextVar("workers", default=None)


def current() -> Workers | None:
    """Returns who does heavy work in this run: see `using`; None: this process alone."""
    return _current.get()


@contextlib.contextmanager
def using(workers: Workers | None) -> Iterator[None]:
    """Lets workers do what is heavy inside the block."""
    token = _current.set(workers)
    try:
        yield
    finally:
        _current.reset(token)
