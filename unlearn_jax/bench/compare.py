"""The experiment `compare`: finished runs beside each other, with the differences between their scores."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from unlearn_jax.bench import compare_page
from unlearn_jax.bench.compare_options import MOST, Config
from unlearn_jax.bench.finished import Finished, read
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.page import title_of
from unlearn_jax.bench.sample_size import SHOWN
from unlearn_jax.errors import UsageError
from unlearn_jax.metrics.catalogue import klom
from unlearn_jax.metrics.statistics import comparisons, crossed_mean
from unlearn_jax.recorded import leaves
from unlearn_jax.report.rows import format_counts, subject
from unlearn_jax.report.tables import markdown, page
from unlearn_jax.runs import Run

Key = tuple[str, str, str]  # method, metric, split
COLUMNS = (
    *("baseline", "run", "method", "metric", "split", "baseline_value", "value", "difference", "low", "high", "paired"),
    *("baseline_z", "z", "baseline_inside", "inside"),
)
OF_FOLDER = ("out", "cache")  # options that say where a run is, not what it is
ABSENT = "(absent)"
LONGEST = 60  # characters of a value in a table
NAMED = 4  # methods that a printed line names


class Value(NamedTuple):
    """The value of a score in a run."""

    value: float
    low: float | None
    high: float | None
    z: float | None
    inside: bool | None


class Difference(NamedTuple):
    """A score of two runs."""

    key: Key
    baseline: Value
    run: Value
    value: float
    low: float | None  # of the 95% interval; None if it is unbounded or unknown
    high: float | None
    paired: bool  # whether the interval is over differences on the same originals and forget sets

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def run(config: Config, folder: Run) -> None:
    """Compares every run with the first; writes compare.csv, summary.md and report.html, and prints what changed.

    Raises:
        ArgumentError: there are fewer than two folders, one holds no finished run, or two runs have no score in common.
    """
    require(len(config.runs) > 1, "--runs", ",".join(map(str, config.runs)), f"expected 2 to {MOST} run folders")
    baseline, *others = (read(path, letter) for path, letter in zip(config.runs, ascii_uppercase, strict=False))
    compared = {other.letter: differences(baseline, other) for other in others}
    for other in others:
        if not compared[other.letter]:
            raise UsageError("--runs", other.path, f"has no method and metric in common with {baseline.path}")
    rows = [
        (
            *(str(baseline.path), str(other.path), *each.key, each.baseline.value, each.run.value),
            *(each.value, each.low, each.high, each.paired),
            *(each.baseline.z, each.run.z, each.baseline.inside, each.run.inside),
        )
        for other in others
        for each in compared[other.letter]
    ]
    folder.write_csv("compare.csv", COLUMNS, rows)
    runs = [baseline, *others]
    cautions = [note for other in others for note in notes(baseline, other)]
    described = {run.letter: describe(run) for run in runs}
    head = [*cautions, *described.values()]
    changed = changes(runs)
    folder.write_text("summary.md", page(*head, *_changed(runs, changed), *_sections(baseline, others, compared)))
    readings = {other.letter: reading(baseline, other, compared[other.letter]) for other in others}
    compare_page.write(folder, described, cautions, changed, compared, readings)
    print("\n".join(head))
    for name, values in changed.items():
        print(f"  {name}: {' | '.join(values)}")
    for other in others:
        print("\n".join(_outlined(baseline, other, compared[other.letter])))


def differences(baseline: Finished, run: Finished) -> list[Difference]:
    """Returns the difference of every score that both runs have, on the forget sets that both have.

    Where no forget set is in both, the means over each run's own sets are compared. If the original models are the same too,
    the interval is that of the paired differences (`statistics.comparisons`). Else the two runs are taken to be independent, and
    the interval follows from their own (`of_independent`); it is too wide if they have models in common.
    """
    pairs = common_sets(baseline, run)
    of_baseline, of_run = ([pair[side] for pair in pairs] or list(each.sets) for side, each in enumerate((baseline, run)))
    scores = _scores(baseline, of_baseline), _scores(run, of_run)
    same = bool(pairs) and baseline.originals is not None and baseline.originals == run.originals
    found = []
    for key in scores[0]:
        if key in scores[1]:
            one, other = (of_key[key] for of_key in scores)
            value, interval = other.value - one.value, None
            if same:
                interval = _paired(value, _parts(baseline, of_baseline, key), _parts(run, of_run, key))
            low, high = interval or of_independent(one, other) or (None, None)
            found.append(Difference(key, one, other, value, low, high, interval is not None))
    return found


def common_sets(baseline: Finished, run: Finished) -> list[tuple[str, str]]:
    """Returns the names of the forget sets that hold the same rows in both runs: in the first, in the other."""
    there = {content: name for name, content in run.sets.items()}
    return [(name, there[content]) for name, content in baseline.sets.items() if content in there]


def of_independent(one: Value, other: Value) -> tuple[float, float] | None:
    """The interval of `other - one` from the intervals of two independent values; None if one of them is unbounded or unknown.

    The distances from the difference to its ends are the roots of the summed squares of those of the two values.

    Source: Zou & Donner, "Construction of confidence limits about effect measures", Statistics in Medicine 27, 2008.
    """
    ends = one.low, one.high, other.low, other.high
    if any(end is None or not math.isfinite(end) for end in ends):
        return None
    a_low, a_high, b_low, b_high = (float(end) for end in ends if end is not None)
    difference = other.value - one.value
    below, above = math.hypot(other.value - b_low, a_high - one.value), math.hypot(b_high - other.value, one.value - a_low)
    return difference - below, difference + above


def notes(baseline: Finished, run: Finished) -> list[str]:
    """Returns a line on what makes two runs hard to compare: other data, forget sets, numbers of models, nulls or methods."""
    sides = baseline, run
    problems = []
    if baseline.data != run.data and baseline.data and run.data:
        names = ", ".join(dict.fromkeys(row.dataset for each in sides for row in each.rows))
        problems.append(f"other data ({names}; fingerprints {baseline.data[:8]} and {run.data[:8]})")
    pairs, counts = common_sets(baseline, run), f"{len(baseline.sets)} and {len(run.sets)}"
    if not pairs:
        problems.append(f"other forget sets ({counts}; each run's own mean is compared)")
    elif not len(pairs) == len(baseline.sets) == len(run.sets):
        problems.append(f"other forget sets ({counts}; compared on the {len(pairs)} that both have)")
    models = [format_counts(row.n_members for row in each.rows) for each in sides]
    if models[0] != models[1]:
        problems.append(f"other numbers of models ({' and '.join(models)}), on which values such as KLOM depend: compare z")
    problems += _other_unit(baseline, run, pairs)
    methods = [list(dict.fromkeys(row.method for row in each.rows)) for each in sides]
    alone = [[name for name in own if name not in others] for own, others in (methods, methods[::-1])]
    problems += [f"only {each.letter} has {', '.join(names)}" for each, names in zip(sides, alone, strict=True) if names]
    return [f"{baseline.letter} and {run.letter}: {'; '.join(problems)}."] if problems else []


def _other_unit(baseline: Finished, run: Finished, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """What the unit of z is in each run, the null's sd, if it is not the same: it follows from oracles and numbers of models."""
    nulls = []
    for side, each in enumerate((baseline, run)):
        sets = [pair[side] for pair in pairs] or list(each.sets)[:1]
        known = [row for row in each.rows if row.forget_set in sets and row.null_sd]
        nulls.append({(sets.index(row.forget_set), row.method, row.metric, row.split): row for row in known})
    common = [(row, nulls[1][key]) for key, row in nulls[0].items() if key in nulls[1]]
    others = [(one, other) for one, other in common if not math.isclose(one.null_sd or 0, other.null_sd or 0, rel_tol=1e-6)]
    if not others:
        return []
    shown = next((pair for pair in others if (pair[0].metric, pair[0].split) == klom.on("forget")), others[0])
    counts = [f"{row.n_members} models and {row.n_oracles} oracles" for row in shown]
    sds = [f"{row.null_sd:.3g}" for row in shown]
    if counts[0] != counts[1]:
        sds = [f"{sd} of {count}" for sd, count in zip(sds, counts, strict=True)]
    units = " and ".join(sds) + (", each of its own oracles" if counts[0] == counts[1] else "")
    title = title_of(shown[0].metric, shown[0].split)
    return [f"z has another unit in each (null sd of {title}: {units}), so that the same distance from the oracles is another z"]


def describe(run: Finished) -> str:
    """Returns a line on a run: its folder, subject and seed."""
    return f"{run.letter}: {run.path} ({subject(run.rows)}; seed {run.facts['config'].get('seed')})"


def changes(runs: Sequence[Finished]) -> dict[str, list[str]]:
    """Returns what differs between the runs: option, hyperparameter of a method in all, or version -> its value in each."""
    methods = [method for method in runs[0].values if all(method in run.values for run in runs)]
    settings = [dict(_settings(run, methods)) for run in runs]
    names = dict.fromkeys(name for of_run in settings for name in of_run)
    values = {name: [of_run.get(name, ABSENT) for of_run in settings] for name in names}
    return {name: _texts(of_runs) for name, of_runs in values.items() if any(value != of_runs[0] for value in of_runs)}


def _settings(run: Finished, methods: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for name, value in leaves(run.facts["config"]):
        if name not in OF_FOLDER:
            yield f"--{name.replace('_', '-')}", value
    yield from leaves({method: run.values[method] for method in methods})
    for name in ("device", "versions", "git"):
        yield from leaves({name: run.facts.get(name)})


def _texts(values: Sequence[Any]) -> list[str]:
    """Values as a table shows them; of lists, what they have in common is counted."""
    lists = [value for value in values if isinstance(value, list)]
    common = [item for item in lists[0] if all(item in other for other in lists)] if len(lists) == len(values) else []
    texts = []
    for value in values:
        text = value if isinstance(value, str) else json.dumps(value)
        if isinstance(value, list):
            own = [str(item) for item in value if item not in common]
            text = ", ".join([f"{len(common)} in common"] * bool(common) + own)
        texts.append(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")
    return texts


def _scores(run: Finished, sets: Sequence[str]) -> dict[Key, Value]:
    """The scores of a run over some of its forget sets; of one, or of all, as its own tables have them."""
    if len(sets) == 1 or (len(sets) == len(run.sets) and run.means):
        rows = run.means if len(sets) > 1 else [row for row in run.rows if row.forget_set == sets[0]]
        return {
            (row.method, row.metric, row.split): Value(row.value, row.value_low, row.value_high, row.deviation, row.inside)
            for row in rows
            if row.value is not None
        }
    by_key: dict[Key, list[float]] = {}
    for row in run.rows:
        if row.forget_set in sets and row.value is not None:
            by_key.setdefault((row.method, row.metric, row.split), []).append(row.value)
    scores = {}
    for key, values in by_key.items():
        if len(values) == len(sets):
            value, parts = float(np.mean(values)), _parts(run, sets, key)
            crossed = _crossed(parts) if parts is not None else None
            low, high = (value + end for end in crossed) if crossed else (None, None)
            scores[key] = Value(value, low, high, None, None)
    return scores


def _parts(run: Finished, sets: Sequence[str], key: Key) -> Float[np.ndarray, "groups sets"] | None:
    """What each group of originals contributed to a score on some forget sets; None if the run kept none."""
    known = [run.parts[name, *key] for name in sets if (name, *key) in run.parts]
    return np.stack(known, axis=1) if len(known) == len(sets) else None


def _crossed(parts: Float[np.ndarray, "groups sets"]) -> tuple[float, float] | None:
    """How far below and above its mean the interval of a score reaches."""
    whole = parts[np.isfinite(parts).all(axis=1)]
    estimate = crossed_mean(whole) if len(whole) else None
    return (estimate.low - estimate.mean, estimate.high - estimate.mean) if estimate else None


def _paired(value: float, one: np.ndarray | None, other: np.ndarray | None) -> tuple[float, float] | None:
    """The interval of a difference from the paired parts of its two scores; None if it is unbounded or unknown."""
    if one is None or other is None or one.shape != other.shape or np.isinf([one, other]).any():
        return None
    for pair in comparisons({"run": other, "baseline": one}):
        mean, low, high, _ = pair.difference
        if math.isfinite(high - low):
            return value + low - mean, value + high - mean
    return None


def _changed(runs: Sequence[Finished], changed: Mapping[str, Sequence[str]]) -> list[str]:
    if not changed:
        return ["## What changed", "Nothing: the configurations, hyperparameters and versions are the same."]
    lines = [[name, *values] for name, values in changed.items()]
    table = markdown(["option", *(run.letter for run in runs)], lines, left=range(len(runs) + 1))
    return ["## What changed", table]


def _sections(baseline: Finished, others: Sequence[Finished], compared: Mapping[str, Sequence[Difference]]) -> Iterator[str]:
    """The differences from the first run as Markdown: a section for each other run."""
    for other in others:
        a, b, found = baseline.letter, other.letter, compared[other.letter]
        yield f"## {b} - {a}"
        yield reading(baseline, other, found)
        lines = [
            [each.key[0], label, *map(_with_z, (each.baseline, each.run)), _number(each.value, "+"), _range(each)]
            for name, label in SHOWN.items()
            for each in found
            if each.key[1:] == name
        ]
        yield markdown(["method", "metric", f"{a} (z)", f"{b} (z)", f"{b} - {a}", "95% interval"], lines, left=(0, 1))


def reading(baseline: Finished, other: Finished, found: Sequence[Difference]) -> str:
    """Returns how many differences are clear, how their intervals came about, and which verdicts are others."""
    known = [each for each in found if each.low is not None and (each.value, each.low, each.high) != (0, 0, 0)]
    sentences = [f"{len(found) - len(known)} of {len(found)} differences are 0 or have no interval."]
    if known:
        paired = sum(each.paired for each in known)
        how = {
            0: "the runs are taken to be independent (too wide where they have models in common)",
            len(known): "paired by original model and forget set",
        }.get(paired, f"{paired} are paired by original model and forget set")
        chance = f"by chance alone about {0.05 * len(known):.0f} would"
        clear = sum(each.clear for each in known)
        sentences.insert(0, f"{clear} of {len(known)} intervals exclude 0 ({chance}). Intervals: {how}.")
    return " ".join([*sentences, *_verdicts(baseline, other, found), "All metrics: compare.csv."])


def _verdicts(baseline: Finished, other: Finished, found: Iterable[Difference]) -> list[str]:
    """Sentences on methods whose verdict is another."""
    words = {True: "not distinguished from retraining", False: "different", None: "without a verdict"}
    methods: dict[tuple[bool | None, bool | None], dict[str, None]] = {}
    for each in found:
        if each.baseline.inside != each.run.inside:
            methods.setdefault((each.baseline.inside, each.run.inside), {})[each.key[0]] = None
    return [
        f"Verdicts: {words[one]} in {baseline.letter} and {words[two]} in {other.letter}: {', '.join(names)}."
        for (one, two), names in methods.items()
    ]


def _outlined(baseline: Finished, other: Finished, found: Sequence[Difference]) -> Iterator[str]:
    """What is printed: a line for each of the main metrics by which a method differs."""
    yield f"{other.letter} - {baseline.letter}: {reading(baseline, other, found)}"
    lines = []
    for name, label in SHOWN.items():
        of_metric = [each for each in found if each.key[1:] == name]
        clear = sorted((each for each in of_metric if each.clear), key=lambda each: -abs(each.value))
        if clear:
            named = [f"{each.key[0]} {_number(each.value, '+')} ({_range(each)})" for each in clear[:NAMED]]
            more = [f"and {len(clear) - NAMED} more"] if len(clear) > NAMED else []
            lines.append(f"  {label}: {len(clear)} of {len(of_metric)} methods differ: {', '.join([*named, *more])}")
    yield from lines or ["  By no main metric does a method differ."]


def _with_z(value: Value) -> str:
    return _number(value.value) if value.z is None else f"{_number(value.value)} ({value.z:+.1f})"


def _number(value: float, sign: str = "-") -> str:
    return f"{value:{sign}.4g}"


def _range(difference: Difference) -> str:
    if difference.low is None or difference.high is None:
        return ""
    return f"{_number(difference.low, '+')} to {_number(difference.high, '+')}"
