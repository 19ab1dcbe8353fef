"""How the pools of a run learned: curves.csv, and on request the same as TensorBoard events."""

import contextlib
import csv
import dataclasses
import importlib.util
import io
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from unlearn_jax.bench.kinds import require
from unlearn_jax.files import MOST, read_regular
from unlearn_jax.runs import Run
from unlearn_jax.training.pools import Curves, Pool

FILE, EVENTS = "curves.csv", "tensorboard"
MEASURES = tuple(f"{name}{end}" for name in Curves._fields for end in ("", "_low", "_high"))
COLUMNS = ("pool", "role", "forget_set", "epoch", "members", *MEASURES)


@dataclasses.dataclass
class _Recording:
    """The curves of a run so far."""

    folder: Run
    events: bool
    rows: dict[str, list[Sequence[Any]]]  # by pool, in the order in which they came
    lacking: dict[str, str]  # pools without curves: name and title


_recording: ContextVar[_Recording | None] = ContextVar("recording", default=None)


@contextlib.contextmanager
def recording(folder: Run, events: bool = False) -> Iterator[None]:
    """Writes the curves of all pools that are trained or found inside the block to the run folder.

    Pools that an earlier run left in curves.csv, and that are not asked for again, stay there.

    Args:
        folder: the run folder.
        events: whether to write TensorBoard events too, a folder for each pool below `tensorboard/`.
    """
    made = _Recording(folder, events, _read(folder), {})
    if events:
        for rows in made.rows.values():
            _write_events(folder, rows)
    token = _recording.set(made)
    try:
        yield
        for sentence in lacking_note():
            print(sentence, file=sys.stderr, flush=True)
    finally:
        _recording.reset(token)


def record(pool: Pool, role: str, forget_set: str = "") -> None:
    """Adds the curves of a pool to those of the run, if they are recorded: see `recording`.

    Args:
        pool: trained, or found in the cache.
        role: of its models.
        forget_set: that they were trained without, if it has a name.
    """
    made = _recording.get()
    if made is None:
        return
    if pool.curves is None:
        made.lacking[pool.name] = f"{role} {forget_set}".rstrip()
        return
    by_epoch = _summaries(pool.curves)
    made.rows[pool.name] = [(pool.name, role, forget_set, epoch + 1, *cells) for epoch, cells in enumerate(by_epoch)]
    made.folder.write_csv(FILE, COLUMNS, [row for rows in made.rows.values() for row in rows])
    if made.events:
        _write_events(made.folder, made.rows[pool.name])


def lacking_note() -> list[str]:
    """Returns a sentence if pools of this run came from a cache that holds no curves of theirs."""
    made = _recording.get()
    names = ", ".join(dict.fromkeys(made.lacking.values())) if made else ""
    return [f"Without learning curves in {FILE}, as an older version trained them: {names}."] if names else []


def require_writer(asked: bool) -> None:
    """Raises a UsageError if TensorBoard events are asked for and the package that writes them is absent."""
    there = not asked or importlib.util.find_spec("tensorboardX") is not None
    require(there, "--tensorboard", "", "needs the package tensorboardX: pip install tensorboardX")


def _summaries(curves: Curves) -> Iterator[tuple[Any, ...]]:
    """Of each epoch: the members that have not diverged, and the mean, the least and the largest of each measure over them."""
    measures = curves.loss.astype(float), 100 * curves.accuracy.astype(float)
    for of_epoch in zip(*(measure.T for measure in measures), strict=True):
        alive = [values[np.isfinite(values)] for values in of_epoch]
        cells = [float(of(values)) if len(values) else None for values in alive for of in (np.mean, np.min, np.max)]
        yield len(alive[0]), *cells


def _read(folder: Run) -> dict[str, list[Sequence[Any]]]:
    """The rows that an earlier run wrote, by pool; none if the file is another's."""
    try:
        text = read_regular(folder.folder / FILE, MOST).decode()
        header, *lines = csv.reader(io.StringIO(text))
    except (OSError, ValueError, csv.Error):
        return {}
    rows: dict[str, list[Sequence[Any]]] = {}
    for line in lines if tuple(header) == COLUMNS else []:
        if len(line) == len(COLUMNS):
            rows.setdefault(line[0], []).append(line)
    return rows


def _write_events(folder: Run, rows: Sequence[Sequence[Any]]) -> None:
    """Writes the rows of a pool as one file of TensorBoard events, in place of an earlier one."""
    from tensorboardX import SummaryWriter

    pool, role, forget_set = rows[0][:3]
    title = re.sub(r"[^\w.-]", "_", "-".join(filter(None, (role, forget_set, pool[:6]))))
    with tempfile.TemporaryDirectory() as made:
        with SummaryWriter(made) as writer:
            for row in rows:
                for measure, value in zip(MEASURES, row[-len(MEASURES) :], strict=True):
                    if value not in (None, ""):
                        writer.add_scalar(measure.replace("_", "/"), float(value), int(row[3]))
        (file,) = Path(made).iterdir()
        folder.write_bytes(f"{EVENTS}/{title}/events.out.tfevents.curves", file.read_bytes())
