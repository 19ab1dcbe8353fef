"""The search for hyperparameters, and its check on other models and forget sets.

A setting is judged by what the board is ordered by: its distance from retraining, the larger of |memory left| and damage
(`metrics.effects`). Each round draws settings (a Latin hypercube), judges all of them on a few originals, and the best of them on
all originals (successive halving; Jamieson & Talwalkar, arXiv:1502.07943). The best are best partly by chance, so they are judged
again on other originals, oracles and forget sets, beside the authors' values: the first of the best three is used that is no
worse there than those, and than doing nothing, by more than noise. If none is, the authors' values are used.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy.stats.qmc import LatinHypercube

from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.options import SETS
from unlearn_jax.bench.panel import Panel, Programs
from unlearn_jax.bench.setting import prepare
from unlearn_jax.bench.tuned import tuned
from unlearn_jax.bench.tuning_options import Config
from unlearn_jax.data.splits import generator
from unlearn_jax.methods import METHODS, Range, hyperparameters, searchable
from unlearn_jax.metrics.catalogue import damage, memory_left
from unlearn_jax.metrics.effects import Effects, distance_interval, distances_left_out, mean_effects
from unlearn_jax.progress import Ahead, planned, working
from unlearn_jax.report import figures
from unlearn_jax.report.drawing import save
from unlearn_jax.report.tables import markdown
from unlearn_jax.runs import Run
from unlearn_jax.types import Interval

NARROW = 0.25  # width of the range around the best in later rounds, as a share of the whole range
SEED = 0x7E57  # added to the run's seed, for keys that no evaluation with a similar seed uses
HELD_OUT = 0x4E1D  # likewise, for the panel that judges what the search found
NOTHING = 1.0  # the distance of doing nothing: all memory is left, and nothing is damaged
NEGLIGIBLE = 0.01  # a difference in distance that nobody cares about, however certain it is
TUNED, DEFAULT = "tuned", "default"
CANDIDATES = 3  # best trials that are judged outside the search until one holds


class Searched(NamedTuple):
    """What the search found for one method.

    Attributes:
        trials: every setting, and its distances on a few (`first`) and on all originals (`score`, NaN if it did not get so far).
        scores: the distances of the best trials, nearest first.
        values: their hyperparameters.
        authors: the distance of the authors' values in the search, with the budget of the trials.
        cost: of the search, in retrainings.
    """

    trials: list[dict[str, float]]
    scores: list[Interval]
    values: list[dict[str, Any]]
    authors: float
    cost: float


class Checked(NamedTuple):
    """Distances from retraining on the panel that the search did not see.

    Attributes:
        rank: which of the best trials this is, from 0.
        tuned: of what the search found.
        default: of the authors' hyperparameters, all of them.
        difference: tuned minus default, paired by original.
        memory_left: of what the search found.
        damage: likewise.
    """

    rank: int
    tuned: Interval
    default: Interval
    difference: Interval
    memory_left: float
    damage: float

    @property
    def used(self) -> str:
        """`tuned`, or `default` where the search made the method worse than that, or than doing nothing.

        Worse is: by more than noise, and by more than `NEGLIGIBLE`.
        """
        worse_than_nothing = self.tuned.low > NOTHING + NEGLIGIBLE and self.default.value < self.tuned.value
        worse = self.difference.low > NEGLIGIBLE or worse_than_nothing
        return DEFAULT if worse or not np.isfinite(self.tuned.value) else TUNED

    @property
    def worse_than_nothing(self) -> bool:
        """Whether what is used is worse than doing nothing by more than noise."""
        return (self.tuned if self.used == TUNED else self.default).low > NOTHING + NEGLIGIBLE


COLUMNS = (
    *("method", "hyperparameters", "trials", "authors", "rank", "score", "score_low", "score_high"),
    *("held_out", "held_out_low", "held_out_high", memory_left.name, damage.name, "default", "default_low", "default_high"),
    *("difference", "difference_low", "difference_high", "used", "worse_than_nothing", "doing_nothing", "retrain", "retrainings"),
)


def run(config: Config, folder: Run) -> None:
    """Searches, checks, and writes hyperparameters (`tuned.json`), `tuning.csv`, all trials, and a figure.

    Raises:
        ArgumentError: the configuration cannot be run.
    """
    names = [name for name in config.method_names() if METHODS[name].search]
    accepted = f"nothing to search; expected some of {', '.join(searchable())}"
    require(bool(names), "--methods", ",".join(config.methods), accepted)
    setting = prepare(config)
    lacking = {name: METHODS[name].unmet(setting.problem) for name in names}
    names = [name for name in names if not lacking[name]]
    require(bool(names), "--methods", ",".join(config.methods), "; ".join(f"{name} needs {why}" for name, why in lacking.items()))
    first, programs = first_set(config), Programs()
    sets = [range(first + part * config.forget_sets, first + (part + 1) * config.forget_sets) for part in range(2)]
    panel = None if config.transfer else Panel(config, setting, config.seed + SEED, sets[0], programs)
    other = Panel(config, setting, config.seed + HELD_OUT, sets[1], programs)
    retrain = distance_interval(distances_left_out(other.retrained()))
    search = Search(config, folder, panel) if panel else None
    found: dict[str, tuple[Searched, Checked]] = {}
    with planned(Ahead(name, len(METHODS[name].search)) for name in names):
        for name in names:
            with working(name) as update:
                searched = search.tune(name) if search else transferred(config, name)
                update(0.8, "judged on other models and forget sets")
                checked = check(folder, other, name, searched)
                found[name] = searched, checked
                there = f"{checked.tuned:.2f} outside it, default {checked.default:.2f}"
                update(1.0, f"distance {searched.scores[checked.rank].value:.2f} in the search, {there}")
    folder.write_csv("tuning.csv", COLUMNS, [row(name, *both, retrain.value) for name, both in found.items()])
    trials = {name: searched.trials for name, (searched, _) in found.items()}
    folder.write_json("trials.json", trials)
    used = {name: searched.values[checked.rank] for name, (searched, checked) in found.items() if checked.used == TUNED}
    found_by = folder.read_json("config.json")
    found_by["config"] = {key: value for key, value in found_by["config"].items() if key not in config.immaterial}
    found_by.pop("command", None)
    folder.write_json("tuned.json", {"found_by": found_by, "hyperparameters": used})
    title = f"{config.dataset}, {config.model}: {config.members} originals and {config.forget_sets} forget sets a side"
    lines = {name: (searched.scores[checked.rank], checked.tuned, checked.default) for name, (searched, checked) in found.items()}
    save(figures.search(lines, retrain, title), folder, "tuning")
    table = summary(found, retrain)
    folder.write_text("summary.md", table)
    print(table)


def first_set(config: Config) -> int:
    """The number of the search's first forget set: where sets are drawn anew, one that no evaluation uses."""
    return SETS if config.forget.kind in ("random", "class_part", "mislabelled_part") else 1


class Search:
    """A search for the setting with the smallest distance from retraining."""

    def __init__(self, config: Config, folder: Run, panel: Panel):
        self.config, self.folder, self.panel = config, folder, panel

    def tune(self, name: str) -> Searched:
        """Returns the best trial of one method; trials that an earlier run left in the run folder are read."""
        config, space = self.config, METHODS[name].search
        base = self.base(name)
        asked = {"trials": config.trials, "rounds": config.rounds, "keep": config.keep}
        identity = {**self.panel.identity, "base": base, "space": space, **asked}
        saved = self.folder.cached(f"searches/{name}.npz", identity, partial(self.search, name, base))
        trials = [dict(zip(space, trial, strict=True)) for trial in saved["trials"].tolist()]
        best = [number for number in np.argsort(saved["score"])[:CANDIDATES] if np.isfinite(saved["score"][number])]
        best = best or [0]  # every model of every trial diverged: the authors' values, which the check then refuses or not
        values = [base | {key: float(f"{value:.3g}") for key, value in trials[number].items()} for number in best]
        for each in values:
            each.pop("label", None)  # it belongs to the forget set
        columns = zip(trials, saved["first"].tolist(), saved["score"].tolist(), strict=True)
        record = [{**trial, "first": first, "score": score} for trial, first, score in columns]
        scores = [Interval(*saved["intervals"][number].tolist()) for number in best]
        return Searched(record, scores, values, float(saved["score"][0]), float(saved["cost"]) / self.panel.retraining)

    def base(self, name: str) -> dict[str, Any]:
        """The authors' hyperparameters with the budget of the trials."""
        budget = {"epochs": self.config.epochs, "batch_size": self.config.batch_size}
        return hyperparameters(name, {key: value for key, value in budget.items() if key in METHODS[name].defaults})

    def search(self, name: str, base: dict[str, Any]) -> dict[str, np.ndarray]:
        """Returns the trials of one method, `[trials, hyperparameters]`, their distances, and the work in training examples.

        The authors' values meet all originals, whatever they score on the first.
        """
        config, space = self.config, METHODS[name].search
        trials: list[dict[str, float]] = []
        members = self.panel.few(config.keep)
        first, scores, intervals, cost = np.zeros(0), np.zeros(0), np.zeros((0, 3)), 0.0
        for number, points in enumerate(np.array_split(np.arange(config.trials * len(space)), config.rounds)):
            rng = generator(f"tuning {name}", config.seed, number)
            draw = LatinHypercube(len(space), rng=rng).random(len(points))
            best = trials[int(np.nanargmin(scores))] if np.isfinite(scores).any() else None
            settings = [place(space, point, best) for point in draw]
            if number == 0:
                settings[0] = {key: base[key] for key in space}
            few, spent = self.panel.judge(name, base, settings, members)
            on_few = np.array([distance_of(effects).value for effects in few])
            promoted = np.argsort(on_few)[: max(-(-len(points) // config.keep), 1)]
            promoted = np.union1d(promoted, [0] if number == 0 else [])
            promoted = promoted.astype(int)
            whole, more = self.panel.judge(name, base, [settings[index] for index in promoted])
            on_all = np.full((len(points), 3), np.nan)
            on_all[promoted] = [distance_of(effects) for effects in whole]
            trials, cost = trials + settings, cost + spent + more
            first, intervals = np.concatenate([first, on_few]), np.concatenate([intervals, on_all])
            scores = intervals[:, 0]
        kept = np.array([[trial[key] for key in space] for trial in trials])
        return {"trials": kept, "first": first, "score": scores, "intervals": intervals, "cost": np.array(cost)}


def place(space: Mapping[str, Range], point: Sequence[float], best: Mapping[str, float] | None) -> dict[str, float]:
    """Maps a point of the unit cube to hyperparameters: in the whole space, or near the best so far."""
    placed = {}
    for share, (key, (low, high, scale)) in zip(point, space.items(), strict=True):
        ends = np.log([low, high]) if scale == "log" else np.array([low, high])
        if best:
            centre = np.log(best[key]) if scale == "log" else best[key]
            reach = NARROW * (ends[1] - ends[0]) / 2
            ends = np.clip([centre - reach, centre + reach], *ends)
        value = ends[0] + share * (ends[1] - ends[0])
        placed[key] = float(np.exp(value) if scale == "log" else value)
    return placed


def distance_of(found: list[Effects] | None) -> Interval:
    """The distance from retraining over forget sets, with its interval over originals; infinite if a model diverged."""
    return distance_interval(distances_left_out(found)) if found else Interval(np.inf, -np.inf, np.inf)


def transferred(config: Config, name: str) -> Searched:
    """Returns what was tuned on another data set in the place of a search: no trials, and nothing known of its distance."""
    assert config.transfer
    values = hyperparameters(name, tuned(config.transfer).get(name, {}))
    return Searched([], [Interval(math.nan, math.nan, math.nan)], [values], math.nan, 0.0)


def check(folder: Run, panel: Panel, name: str, searched: Searched) -> Checked:
    """Judges the best trials and the authors' values on a panel that the search did not see.

    Returns:
        The first of the best trials that holds there, else the best.
    """

    def judge(which: str, values: dict[str, Any]) -> dict[str, np.ndarray]:
        def make() -> dict[str, np.ndarray]:
            ((effects,), _) = panel.judge(name, values, [{}])
            if not effects:
                return {"distances": np.full(1 + panel.members, np.inf), "sizes": np.full(2, np.nan)}
            sizes = mean_effects(effects)
            return {"distances": distances_left_out(effects), "sizes": np.array([sizes.memory_left.value, sizes.damage.value])}

        return folder.cached(f"held_out/{name}-{which}.npz", {**panel.identity, "values": values}, make)

    default = judge(DEFAULT, hyperparameters(name, {}))["distances"]
    tried: list[Checked] = []
    for rank, values in enumerate(searched.values):
        found = judge(str(rank), values)
        with np.errstate(invalid="ignore"):
            difference = distance_interval(found["distances"] - default)
        of_both = distance_interval(found["distances"]), distance_interval(default), difference
        tried.append(Checked(rank, *of_both, *map(float, found["sizes"])))
        if tried[-1].used == TUNED and not tried[-1].worse_than_nothing:
            return tried[-1]
    return min((each for each in tried if each.used == TUNED), key=lambda each: each.tuned.value, default=tried[0])


def row(name: str, searched: Searched, checked: Checked, retrain: float) -> list:
    """Returns the row of tuning.csv."""
    score = searched.scores[checked.rank]
    head = [name, len(METHODS[name].search), len(searched.trials), searched.authors, checked.rank, *score]
    middle = [*checked.tuned, checked.memory_left, checked.damage, *checked.default, *checked.difference]
    return [*head, *middle, checked.used, checked.worse_than_nothing, NOTHING, retrain, searched.cost]


def summary(found: Mapping[str, tuple[Searched, Checked]], retrain: Interval) -> str:
    """Returns a table of search against held-out distances, nearest first."""
    headings = ("method", "search", "held out", memory_left.short, damage.short, "authors' values, held out", "used")
    ordered = sorted(found.items(), key=lambda item: item[1][1].tuned.value)
    lines = [
        [
            name,
            f"{searched.scores[checked.rank]:.2f}",
            f"{checked.tuned:.2f}",
            f"{checked.memory_left:z.2f}",
            f"{checked.damage:z.2f}",
            f"{checked.default:.2f}",
            checked.used + (", worse than doing nothing" if checked.worse_than_nothing else ""),
        ]
        for name, (searched, checked) in ordered
    ]
    text = (
        "Distance from retraining, the larger of |memory left| and damage: 0 as retraining, 1 as doing nothing. *Search*: on the "
        "originals, oracles and forget sets that chose the setting. *Held out*: on others. Intervals (95%) are over originals. "
        f"Retraining itself, held out: {retrain:.2f}.\n\n"
    )
    return text + markdown(headings, lines)
