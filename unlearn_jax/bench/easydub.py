"""EasyDUB's protocol on its published margins: the 95th percentile of KLOM over the examples of F, R and validation.

EasyDUB (Easy Data Unlearning Bench, arXiv 2602.16400) publishes, for CIFAR-10 and a ResNet-9, 200 models trained on everything
and 200 retrained models for each of its forget sets. The layout below is that of the data set's README and of `easydub/data.py`
in github.com/easydub/EasyDUB-code, Z being the number of a forget set and X that of a model:

    margins/cifar10/pretrain/{retain,val,forget_Z}/resnet9/id_X_epoch_23.npy   `retain` holds the whole training set
    margins/cifar10/oracle/forget_Z/{retain,forget,val}/resnet9/id_X_epoch_23.npy
    forget_sets/cifar10/forget_set_Z.npy                                       rows of the training set

A file holds one margin for each example. The protocol is that of `eval_pretrain.py` there: the first n models of either side, 20
bins, margins clipped to ±100, a floor of 1e-5, the largest margin of an example in no bin.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.score_options import Config
from unlearn_jax.errors import UsageError
from unlearn_jax.files import open_regular, require_room, unread
from unlearn_jax.metrics import catalogue, klom
from unlearn_jax.metrics.effects import effects, exchanged
from unlearn_jax.metrics.null import Null, null
from unlearn_jax.progress import working
from unlearn_jax.report.tables import finite, markdown, page
from unlearn_jax.runs import Run
from unlearn_jax.types import Cube, Interval

MARGINS = "margins/cifar10"
FILE = "resnet9/id_{}_epoch_23.npy"
ORACLES = {"forget": "oracle/forget_{}/forget", "retain": "oracle/forget_{}/retain", "test": "oracle/forget_{}/val"}
PRETRAINED = {"forget": "pretrain/forget_{}", "retain": "pretrain/retain", "test": "pretrain/val"}
NO_NULL = Null(*[float("nan")] * 4)
CLIP = 100.0
ROWS = 2**31  # no data set has a row of this number
SAME = 0.05  # of the spread: margins of the same model and example that were computed in other batches differ by less
ABOUT = (
    "KLOM by EasyDUB's protocol (arXiv 2602.16400): the first models of either side, 20 bins, the largest margin in none; test "
    "is its validation set. The null: oracles against as many other oracles, mean and 95% of the splits."
)

Margins = dict[str, np.ndarray]  # by split, [models, examples]


class Line(NamedTuple):
    """One row of easydub.csv.

    Attributes:
        method: `original`, EasyDUB's models trained on everything, or `unlearned`.
        split: forget, retain or test (EasyDUB's val).
        klom_p95: the 95th percentile of KLOM over the examples.
        klom: the mean.
        null_mean: of the 95th percentile, for oracles against as many others; None with fewer than twice as many oracles.
        null_low: 2.5% of the splits.
        null_high: 97.5%.
        models: on each side.
        oracles: that the null is drawn from.
    """

    method: str
    split: str
    klom_p95: float
    klom: float
    null_mean: float
    null_low: float
    null_high: float
    models: int
    oracles: int


def run(config: Config, folder: Run, read: Callable[[str, Path | None], Margins]) -> None:
    """Writes easydub.csv and summary.md, and prints the table.

    Args:
        config: with --easydub-set.
        folder: the run folder.
        read: reads the margins of the unlearned models, see `score`.

    Raises:
        ArgumentError: a file is missing or holds something else than margins, there are too few models, one of them stands twice
            or has the same margin everywhere, or the forget set is another one than that of the margins.
    """
    for option, value in (("--labels", config.labels), ("--originals", config.originals)):
        require(value is None, option, value, "not used with --easydub-set")
    root, n = config.oracles, config.easydub_models
    require(root is not None and (root / MARGINS).is_dir(), "--oracles", root, f"no folder with {MARGINS} in it, as EasyDUB's")
    assert root
    forgotten = _forget_rows(config, root)
    oracles = _pool(config, root, ORACLES, 2 * n, n)
    pools = {"original": _pool(config, root, PRETRAINED, n, n)}
    if config.unlearned is not None:
        given = read("--unlearned", config.unlearned)
        for split, own in given.items():
            good = own.ndim == 2 and own.dtype.kind == "f" and len(own) >= n and bool(np.isfinite(own).all())
            found = f"{split} is {own.dtype} {own.shape}"
            require(good, "--unlearned", config.unlearned, f"{found}; expected finite margins, [{n} models or more, examples]")
        pools["unlearned"] = {split: own[:n].astype(np.float64) for split, own in given.items()}
    _require_rows(config, forgotten, oracles)
    whole = pools["original"]["retain"]
    known = _require_distinct("--oracles", root, "oracle", oracles, {})
    for name, margins in pools.items():
        option, path = ("--unlearned", config.unlearned) if name == "unlearned" else ("--oracles", root)
        _align(option, path, margins, oracles, forgotten)
        _require_distinct(option, path, name, margins, known)
    if whole.shape[1] > oracles["retain"].shape[1]:
        _require_same(config, forgotten, whole, pools["original"]["forget"])
    wrong = exchanged(pools["original"]["forget"], oracles["forget"])
    require(not wrong, "--oracles", root, wrong)
    lines = _score(config, pools, oracles)
    folder.write_csv("easydub.csv", Line._fields, [[finite(cell) for cell in line] for line in lines])
    table = _table(lines)
    notes = _emptied(pools, oracles) + _no_null(config, root, len(oracles["forget"]))
    print(table, *notes, sep="\n")
    folder.write_text("summary.md", page("# EasyDUB's yardstick", ABOUT, table, *_sizes(pools, oracles), *notes))


def _forget_rows(config: Config, root: Path) -> np.ndarray:
    path = root / f"forget_sets/cifar10/forget_set_{config.easydub_set}.npy"
    rows = _array(root, path)
    good = rows.ndim == 1 and rows.size > 0 and rows.dtype.kind in "iuf"
    if good:
        numbers = rows.astype(np.float64)
        good = bool(((numbers == np.round(numbers)) & (numbers >= 0) & (numbers < ROWS)).all())
    require(good, "--oracles", root, f"{path.name} is {rows.dtype} {rows.shape}; expected the rows of the forget set, from 0 on")
    return rows.astype(np.intp)


def _require_rows(config: Config, forgotten: np.ndarray, oracles: Margins) -> None:
    """Requires as many rows as the oracles have margins on the forget set, each once, and in the training set."""
    name, count, rows = f"forget_set_{config.easydub_set}.npy", oracles["forget"].shape[1], len(np.unique(forgotten))
    found = f"{name} has {len(forgotten)} rows, {rows} of them different; expected {count} as in the oracles' margins on it"
    require(rows == len(forgotten) == count, "--easydub-set", config.easydub_set, found)
    last = oracles["retain"].shape[1] + count - 1
    found = f"{name} has row {forgotten.max()}; expected rows from 0 to {last}"
    require(forgotten.max() <= last, "--easydub-set", config.easydub_set, found)


def _require_same(config: Config, forgotten: np.ndarray, whole: np.ndarray, forget: np.ndarray) -> None:
    """Requires of the rows that the original models have the same margins on them in `retain` and in `forget_Z`."""
    orders = forgotten, np.sort(forgotten)  # a mask would have sorted them
    away = [np.abs(whole[:, rows] - forget).mean(axis=0) > SAME * forget.std() for rows in orders]
    others = min(int(each.sum()) for each in away)
    found = f"on {others} of {len(forgotten)} rows of forget_set_{config.easydub_set}.npy, pretrain/retain has other margins than"
    require(not others, "--easydub-set", config.easydub_set, f"{found} pretrain/forget_{config.easydub_set}")


def _require_distinct(
    option: str, path: Path | None, role: str, margins: Margins, known: Mapping[tuple, str]
) -> dict[tuple, str]:
    """Requires of each split with several examples that no model has one margin on all, or the margins of another model.

    Args:
        option: that gave the models.
        path: its value.
        role: of the models.
        margins: theirs.
        known: other models, by digest.

    Returns:
        These and the others, by digest.
    """
    found = dict(known)
    for split, of_split in margins.items():
        if of_split.shape[1] == 1:
            continue
        for number, values in enumerate(of_split):
            name = f"{role} {number}"
            require(values.min() < values.max(), option, path, f"{name} has the margin {values[0]:g} on every example of {split}")
            other = found.setdefault((split, hashlib.sha256(values.tobytes()).digest()), name)
            require(other == name, option, path, f"{name} has the same margins on {split} as {other}")
    return found


def _pool(config: Config, root: Path, places: Mapping[str, str], most: int, least: int) -> Margins:
    """The margins of the first models: `most` of them if there are so many, at least `least`."""
    pool = {}
    for split in Cube._fields:
        folder = root / MARGINS / places[split].format(config.easydub_set)
        there = next((number for number in range(most) if not (folder / FILE.format(number)).exists()), most)
        members: list[np.ndarray] = []
        for number in range(max(there, least)):
            path = folder / FILE.format(number)
            margins = _array(root, path)
            good = margins.ndim == 1 and margins.dtype.kind == "f" and margins.size > 0 and bool(np.isfinite(margins).all())
            where = path.relative_to(root)
            found = f"{where} is {margins.dtype} {margins.shape}; expected finite margins, one for each example"
            require(good, "--oracles", root, found)
            if members:
                alike = f"{where} has {len(margins)} margins, expected {len(members[0])} as in the first model's"
                require(len(margins) == len(members[0]), "--oracles", root, alike)
            else:
                require_room(8 * most * len(margins), f"{places[split]}: ")
            members.append(margins.astype(np.float64))
        pool[split] = np.stack(members)
    fewest = min(map(len, pool.values()))
    return {split: margins[:fewest] for split, margins in pool.items()}


def _array(root: Path, path: Path) -> np.ndarray:
    """One file of the data set. No pickle is ever loaded."""
    try:
        with open_regular(path) as file:
            return np.asarray(np.load(file, allow_pickle=False))
    except Exception as error:  # whoever wrote the file: a format can fail in any way
        problem = f"{path.relative_to(root)} cannot be read ({unread(error)})"
        raise UsageError("--oracles", root, problem) from error


def _align(option: str, path: Path | None, margins: Margins, oracles: Margins, forgotten: np.ndarray) -> None:
    """Takes the forget set's rows out of margins on the whole training set, and requires the oracles' examples."""
    whole = oracles["retain"].shape[1] + len(forgotten)
    if margins["retain"].shape[1] == whole:
        margins["retain"] = np.delete(margins["retain"], forgotten, axis=1)
    for split, of_split in margins.items():
        found = f"{split} has margins of {of_split.shape[1]} examples, expected {oracles[split].shape[1]} as the oracles have"
        require(of_split.shape[1] == oracles[split].shape[1], option, path, found)


def _score(config: Config, pools: Mapping[str, Margins], oracles: Margins) -> list[Line]:
    n, count, lines = config.easydub_models, len(oracles["forget"]), []

    def percentile(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.percentile(klom(one, other, clip=CLIP, drop_largest=True), 95))

    with working("KLOM") as update:
        for number, split in enumerate(Cube._fields):
            key = jax.random.key(config.seed)
            of_null = null(percentile, oracles[split], n, config.evaluation.splits, key=key) if count >= 2 * n else NO_NULL
            for name, margins in pools.items():
                each = klom(margins[split], oracles[split][:n], clip=CLIP, drop_largest=True)
                ends = of_null.mean, of_null.low, of_null.high
                lines.append(Line(name, split, float(np.percentile(each, 95)), float(each.mean()), *ends, n, count))
            update((number + 1) / len(Cube._fields), split)
    return sorted(lines, key=lambda line: line.method)


def _table(lines: list[Line]) -> str:
    def null_of(line: Line) -> str:
        return f"{line.null_mean:.4f} ({line.null_low:.4f} to {line.null_high:.4f})" if np.isfinite(line.null_mean) else ""

    headings = ("models", "split", "P95 KLOM", "null", "mean KLOM")
    cells = [(line.method, line.split, f"{line.klom_p95:.4f}", null_of(line), f"{line.klom:.4f}") for line in lines]
    return markdown(headings, cells, left=(0, 1))


def _sizes(pools: Mapping[str, Margins], oracles: Margins) -> list[str]:
    """Memory left and damage of the unlearned models, each beside the original of its number."""
    if "unlearned" not in pools:
        return []
    found = effects(pools["unlearned"], pools["original"], oracles)
    values = ((catalogue.memory_left.label, found.memory_left), (catalogue.damage.label, found.damage))
    said = ", ".join(f"{name} {_told(size)}" for name, size in values)
    return [f"Of the unlearned models, each beside EasyDUB's model of the same number: {said}."]


def _told(size: Interval) -> str:
    return f"{size.value:.2f} ({size.low:.2f} to {size.high:.2f})" if np.isfinite(size.value) else "not known"


def _emptied(pools: Mapping[str, Margins], oracles: Margins) -> list[str]:
    """Says on how many examples a side is empty without the largest margin; nothing if it is on none."""
    said, some = [], False
    for name, margins in pools.items():
        counts = []
        for split, of_split in margins.items():
            sides = [np.clip(side, -CLIP, CLIP) for side in (of_split, oracles[split][: len(of_split)])]
            high = np.maximum(*(side.max(axis=0) for side in sides))
            # where both are empty all margins are alike, and none is left out
            count = int(np.logical_xor(*((side == high).all(axis=0) for side in sides)).sum())
            some |= count > 0
            counts.append(f"{count} of {of_split.shape[1]} {split}")
        said.append(f"{name} {', '.join(counts)}")
    about = "Examples on which nothing is left of one side without the largest margin, so that their KLOM says nothing: "
    return [f"{about}{'; '.join(said)}."] * some


def _no_null(config: Config, root: Path, count: int) -> list[str]:
    """Says which file ended the oracles if they are too few for the null."""
    needed = 2 * config.easydub_models
    if count >= needed:
        return []
    paths = [f"{place.format(config.easydub_set)}/{FILE.format(count)}" for place in ORACLES.values()]
    missing = next(path for path in paths if not (root / MARGINS / path).exists())
    return [f"There is no null: it needs {needed} oracles, and only the first {count} are used, since {missing} is missing."]
