"""What hypernetworks learned, what they leave and damage in every draw, and after how many requests they are cheaper."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from unlearn_jax.metrics.catalogue import damage, memory_left
from unlearn_jax.metrics.effects import SPLITS, Effects
from unlearn_jax.metrics.statistics import crossed_mean
from unlearn_jax.report.drawing import COLOURS, GRID, LINE, WIDTH, blank, open_frame
from unlearn_jax.report.rows import Row
from unlearn_jax.report.tables import finite_row, markdown, page
from unlearn_jax.types import Interval

if TYPE_CHECKING:
    import matplotlib.figure

REQUESTS = tuple(10**k for k in range(6))  # numbers of requests in the figure
SMOOTHED = 40  # points of the meta-training curve, each a mean of equally many steps
SIZED = "random-{:g}"  # random sets of another size
BLURRED = "temperature"  # originals whose logits are divided by one
BEST = "best temperature"
WRONG = ", shown other examples"  # after the name of a hypernetwork
LEARNED = "hypernetwork"  # begins the name of every hypernetwork
REFERENCES = ("original", "retrain")
LARGE = 100.0  # means above it are of models that all but diverged
EDGES = {memory_left.name: (-0.6, 1.25), damage.name: (-0.15, 1.3)}  # what the figure shows


class Price(NamedTuple):
    """The cost of a method before the first request and for each request, in seconds of one model.

    Attributes:
        method: its name.
        once: seconds before the first request.
        each: seconds for each request.
        break_even: number of requests beyond which it is cheaper than retraining; infinite if never, 0 if always.
    """

    method: str
    once: float
    each: float
    break_even: float

    def per_request(self, requests: int) -> float:
        """Seconds for each of `requests`, with the cost before the first one spread over them."""
        return self.once / requests + self.each


def prices(rows: Sequence[Row], learned: Mapping[str, float]) -> list[Price]:
    """The price of every method, retraining first.

    Args:
        rows: of a run; the metrics seconds and rte of the first forget set are used.
        learned: the methods that have a cost before the first request, and that cost in seconds.
    """
    costs: dict[tuple[str, str], float] = {}
    for row in rows:
        if row.metric in ("seconds", "rte") and row.value is not None:
            costs.setdefault((row.method, row.metric), row.value)
    known = next(name for name in learned if (name, "seconds") in costs)
    retraining = costs[known, "seconds"] / costs[known, "rte"]
    methods = [method for method, metric in costs if metric == "seconds" and method not in REFERENCES]
    made = [Price("retrain", 0.0, retraining, 0.0)]
    for method in methods:
        begin, request = learned.get(method, 0.0), costs[method, "seconds"]
        saved = retraining - request
        made.append(Price(method, begin, request, begin / saved if saved > 0 else math.inf))
    return made


class Learning(NamedTuple):
    """What a learner learned in one draw: losses in its own unit, means over lessons.

    Attributes:
        draw: number of the draw.
        learner: its name.
        before: on forget sets for validation, of doing nothing.
        after: of the hypernetwork.
        lessons: on those that it learned from, over the last tenth of the steps.
    """

    draw: int
    learner: str
    before: float
    after: float
    lessons: float


def learning(draw: int, learner: str, trained: Any) -> Learning:
    """See `Learning`."""
    last = trained.losses[-max(len(trained.losses) // 10, 1) :]
    return Learning(draw, learner, float(trained.before.mean()), float(trained.after.mean()), float(last.mean()))


class Judged(NamedTuple):
    """A method on one forget set of one draw.

    Attributes:
        kind: the kind of forget set.
        draw: number of the draw.
        method: its name.
        temperature: of blurred originals; 1 for others.
        members: models that did not diverge.
        memory_left: see `metrics.effects`; NaN where the originals remember too little to tell.
        memory_left_low: lower end of its 95% interval over originals and oracles of the draw.
        memory_left_high: upper end.
        damage: on forget, retain and test together.
        damage_low: lower end of its interval.
        damage_high: upper end.
        damage_forget: on the forget set.
        damage_retain: on retained examples.
        damage_test: on the test set.
        kl: KL(mean of the oracles || model) on the forget set, mean over examples and models, nats.
        forget: accuracy minus the oracles', percentage points.
        retain: on retained examples.
        test: on the test set.
        cost: of a request, as a share of a retraining (work that is counted).
    """

    kind: str
    draw: int
    method: str
    temperature: float
    members: int
    memory_left: float
    memory_left_low: float
    memory_left_high: float
    damage: float
    damage_low: float
    damage_high: float
    damage_forget: float
    damage_retain: float
    damage_test: float
    kl: float
    forget: float
    retain: float
    test: float
    cost: float

    @property
    def distance(self) -> float:
        """The larger of |memory left| and damage; NaN where there is none."""
        return max(abs(self.memory_left), self.damage) if math.isfinite(self.memory_left) else math.nan


MEASURES = (memory_left.name, damage.name, "distance", "damage_retain", "damage_test", "kl", *SPLITS)


class Over(NamedTuple):
    """A method on one kind of forget set, over draws: each of `MEASURES` with its 95% interval (Student's t)."""

    kind: str
    method: str
    temperature: float
    draws: int
    known: int
    cost: float
    measures: dict[str, Interval]


OVER_COLUMNS = (*Over._fields[:-1], *(f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")))


class Difference(NamedTuple):
    """A hypernetwork against a reference on one kind of forget set: a difference paired by draw, with its 95% interval."""

    kind: str
    method: str
    less: str
    measure: str
    draws: int
    value: float
    low: float
    high: float


def judged(
    kind: str,
    draw: int,
    method: str,
    temperature: float,
    members: int,
    found: Effects,
    kl: float,
    gaps: Mapping[str, float],
    cost: float,
) -> Judged:
    """One row, from effect sizes, the divergence, accuracies minus the oracles' by split, and the cost."""
    both = {memory_left.name: found.memory_left, damage.name: found.damage}
    sizes = {f"{name}{end}": of for name, size in both.items() for end, of in zip(("", "_low", "_high"), size, strict=True)}
    sizes |= {f"damage_{split}": found.of_split[split].value for split in SPLITS}
    return Judged(kind, draw, method, temperature, members, kl=kl, cost=cost, **sizes, **gaps)


def cells(row: Sequence[Any]) -> list[Any]:
    """One row of a CSV file: what is not finite is left empty."""
    return finite_row(row)


def over_cells(each: Over) -> list[Any]:
    """One row of over_draws.csv, in the order of `OVER_COLUMNS`."""
    return finite_row([*each[:-1], *(number for name in MEASURES for number in each.measures[name])])


def over_draws(rows: Iterable[Judged]) -> list[Over]:
    """Means over draws, by kind of forget set and method.

    The best temperature is that of the smallest mean distance on these very draws: nobody could know it, which favours blurring.
    """
    together: dict[tuple[str, str, float], list[Judged]] = {}
    for row in rows:
        together.setdefault((row.kind, row.method, row.temperature), []).append(row)
    found = []
    for (kind, method, temperature), group in together.items():
        measures = {name: _over([getattr(row, name) for row in group]) for name in MEASURES}
        known = sum(math.isfinite(row.memory_left) for row in group)
        cost = float(np.mean([row.cost for row in group]))
        found.append(Over(kind, method, temperature, len(group), known, cost, measures))
    best = []
    for kind in dict.fromkeys(each.kind for each in found):
        blurred = [each for each in found if (each.kind, each.method) == (kind, BLURRED)]
        distances = [each.measures["distance"].value for each in blurred]
        if np.isfinite(distances).any():
            best.append(blurred[int(np.nanargmin(distances))]._replace(method=BEST))
    return found + best


def _over(values: Sequence[float]) -> Interval:
    """The mean over the draws that are known, and its interval; without one if fewer than three are."""
    known = np.array([value for value in values if math.isfinite(value)])
    if len(known) < 3:
        return Interval(float(known.mean()) if len(known) else math.nan, math.nan, math.nan)
    return crossed_mean(known[:, None]).interval


def differences(rows: Sequence[Judged], over: Sequence[Over]) -> list[Difference]:
    """Each hypernetwork less its references, paired by draw.

    *less* is another method, itself shown other examples, the best temperature, or what blurring leaves or gains at its best:
    `equal damage` is the memory left by the temperature that does as much damage in that draw, and the measure `blur's share` is
    the part of its gain in KL on F over doing nothing that the best temperature for the KL has too.
    """
    by_name: dict[tuple[str, str], dict[int, Judged]] = {}
    for row in rows:
        if row.method != BLURRED:
            by_name.setdefault((row.kind, row.method), {})[row.draw] = row
    best = {each.kind: each.temperature for each in over if each.method == BEST}
    for row in rows:
        if row.method == BLURRED and row.temperature == best.get(row.kind):
            by_name.setdefault((row.kind, BEST), {})[row.draw] = row
    found = []
    for (kind, method), of_draws in by_name.items():
        if not method.startswith(LEARNED) or method.endswith(WRONG):
            continue
        others = [name for of_kind, name in by_name if of_kind == kind and name != method and not _is_control(name, method)]
        for other in others:
            pairs = [(row, by_name[kind, other][draw]) for draw, row in of_draws.items() if draw in by_name[kind, other]]
            for measure in (memory_left.name, damage.name, "distance", "kl"):
                values = [getattr(row, measure) - getattr(reference, measure) for row, reference in pairs]
                found.append(Difference(kind, method, other, measure, len(pairs), *_over(values)))
        blurred = {draw: sorted((row.temperature, row) for row in rows if _is_blur(row, kind, draw)) for draw in of_draws}
        original = by_name.get((kind, "original"), {})
        gaps, shares = [], []
        for draw, row in of_draws.items():
            if draw not in original or not blurred[draw]:
                continue
            curve = [original[draw], *(each for _, each in blurred[draw])]
            order = np.argsort([each.damage for each in curve])
            curve = [curve[place] for place in order]
            left = np.interp(row.damage, [each.damage for each in curve], [each.memory_left for each in curve])
            gaps.append(row.memory_left - float(left))
            gain = original[draw].kl - row.kl
            shares.append((original[draw].kl - min(each.kl for each in curve)) / gain if gain > 0 else math.nan)
        found.append(Difference(kind, method, "equal damage", memory_left.name, len(gaps), *_over(gaps)))
        found.append(Difference(kind, method, "", "blur's share", len(shares), *_over(shares)))
    return found


def _is_control(name: str, method: str) -> bool:
    """Whether a method is a hypernetwork that is shown other examples, but not this one."""
    return name.endswith(WRONG) and name != method + WRONG


def _is_blur(row: Judged, kind: str, draw: int) -> bool:
    return (row.kind, row.draw, row.method) == (kind, draw, BLURRED)


def frontier(rows: Sequence[Judged], over: Sequence[Over], title: str) -> "matplotlib.figure.Figure":
    """Draws damage against memory left, a panel for each kind of forget set.

    Retraining is at the origin, doing nothing at memory 1 and no damage. The grey line is what the originals leave at all
    temperatures. Hollow marks are hypernetworks that are shown other examples. Means beyond the edge lie on it.

    Args:
        rows: of all draws.
        over: means over draws.
        title: see the caller.
    """
    kinds = list(dict.fromkeys(each.kind for each in over))
    figure = blank(WIDTH, 5.2)
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for panel, kind in zip(panels, kinds, strict=True):
        of_kind = [each for each in over if each.kind == kind]
        blurred = sorted((each.temperature, each) for each in of_kind if each.method == BLURRED)
        line = [(1.0, 0.0), *((each.measures[memory_left.name].value, each.measures[damage.name].value) for _, each in blurred)]
        panel.plot(*zip(*line, strict=True), color=LINE, linewidth=2.0, zorder=1, label="originals at temperatures from 1")
        methods = [each.method for each in over if each.method not in (BLURRED, BEST)]
        for each in of_kind:
            if each.method in (BLURRED, BEST):
                continue
            look = _look(each.method, list(dict.fromkeys(methods)))
            sizes = [each.measures[name] for name in EDGES]
            if not all(math.isfinite(size.value) for size in sizes):
                continue
            shown = [float(np.clip(size.value, *EDGES[name])) for name, size in zip(EDGES, sizes, strict=True)]
            for axis, (name, size) in enumerate(zip(EDGES, sizes, strict=True)):
                if math.isfinite(size.high - size.low) and not each.method.endswith(WRONG):
                    span = np.clip([size.low, size.high], *EDGES[name])
                    ends = (span, [shown[1]] * 2) if axis == 0 else ([shown[0]] * 2, span)
                    panel.plot(*ends, color=look["color"], linewidth=0.7, alpha=0.6, zorder=1)
            label = None if each.method.endswith(WRONG) else each.method
            panel.plot(*shown, linestyle="", markersize=6, label=label, markeredgewidth=0.9, clip_on=False, zorder=3, **look)
        panel.set_xlim(*EDGES[memory_left.name])
        panel.set_ylim(*EDGES[damage.name])
        for draw_line in (panel.axvline, panel.axhline):
            draw_line(0, color=LINE, linewidth=0.6, zorder=0)
        panel.set_title(kind, fontsize=9)
        panel.set_xlabel(memory_left.label, fontsize=9)
        panel.tick_params(labelsize=7)
        panel.grid(color=GRID, linewidth=0.6)
        open_frame(panel)
    panels[0].set_ylabel(damage.label, fontsize=9)
    known: dict[str, Any] = {}
    for panel in panels:
        for handle, name in zip(*panel.get_legend_handles_labels(), strict=True):
            known.setdefault(name, handle)
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=7)
    figure.suptitle(
        f"{title}\n95% intervals over draws; hollow: shown other examples of as many; beyond the edge: on it", fontsize=9
    )
    return figure


def _look(method: str, methods: Sequence[str]) -> dict[str, Any]:
    """The colour of a target and the mark of a capacity; other methods are black or grey, each with a mark of its own."""
    if method in REFERENCES:
        return {"color": "black", "marker": "X" if method == "original" else "o"}
    name = method.removesuffix(WRONG)
    if not name.startswith(LEARNED):
        others = [each for each in methods if each not in REFERENCES and not each.startswith(LEARNED)]
        return {"color": "#777777", "marker": "<>pvPdDH1234"[others.index(method) % 12]}
    target = next((each for each in ("margins", "logits") if f"-{each}" in name), "kl")
    colour = {"kl": COLOURS[0], "margins": COLOURS[4], "logits": COLOURS[2]}[target]
    mark = {(False, False): "o", (True, False): "^", (False, True): "s", (True, True): "*"}["images" in name, "passes" in name]
    return {"color": colour, "marker": mark, **({"markerfacecolor": "white"} if method.endswith(WRONG) else {})}


def summary(over: Sequence[Over], differences: Sequence[Difference], title: str) -> str:
    """Every method on each kind of forget set, and the controls of the hypernetworks, as Markdown."""
    headings = ["method", memory_left.label, damage.label, "distance", "damage on R", "KL on F", "Δ forget", "Δ test", "cost"]
    shown = {memory_left.name: 2, damage.name: 2, "distance": 2, "damage_retain": 2, "kl": 3, "forget": 1, "test": 1}
    parts = []
    for kind in dict.fromkeys(each.kind for each in over):
        lines = []
        for each in over:
            if each.kind != kind or each.method == BLURRED:
                continue
            name = f"{each.method} ({each.temperature:g})" if each.method == BEST else each.method
            lost = f" ({each.draws - each.known} draws unknown)" if each.known < each.draws else ""
            lines.append([name + lost, *(_cell(each.measures[key], digits) for key, digits in shown.items()), f"{each.cost:.2g}"])
        parts += [f"## {kind}", markdown(headings, lines, left=[0])]
        parts.append(_controls([each for each in differences if each.kind == kind]))
    reading = (
        "Memory left: 0 as retraining, 1 as doing nothing; damage in the same unit; distance: the larger of both in each draw. "
        "Δ: accuracy minus the oracles', percentage points. Cost: work of a request as a share of a retraining, counted. In "
        "brackets: 95% over draws (Student's t); differences are paired by draw. The best temperature was chosen on these draws."
    )
    return page(f"{title}.", *parts, reading)


def _controls(differences: Sequence[Difference]) -> str:
    """A table of what could refute each hypernetwork: blurring, other examples shown, and the nearest other method."""
    columns = {
        "distance less the best temperature's": lambda method, each: (each.less, each.measure) == (BEST, "distance"),
        "memory left less blur's at equal damage": lambda method, each: each.less == "equal damage",
        "memory left less when shown other examples": lambda method, each: (
            (each.less, each.measure) == (method + WRONG, memory_left.name)
        ),
        "blur's share of the gain in KL": lambda method, each: each.measure == "blur's share",
    }
    lines = []
    for method in dict.fromkeys(each.method for each in differences):
        of_method = [each for each in differences if each.method == method]
        found = [next((each for each in of_method if is_it(method, each)), None) for is_it in columns.values()]
        lines.append([method, *(_cell(Interval(*each[-3:]), 2) if each else "" for each in found)])
    return markdown(["method", *columns], lines, left=[0])


def _cell(interval: Interval, digits: int) -> str:
    if not math.isfinite(interval.value):
        return "not known"
    return "diverged" if abs(interval.value) > LARGE else f"{interval:.{digits}f}"


def learning_and_price(
    losses: Float[np.ndarray, " steps"],
    before: Float[np.ndarray, " lessons"],
    after: Float[np.ndarray, " lessons"],
    methods: Sequence[Price],
    title: str,
) -> "matplotlib.figure.Figure":
    """Draws the loss of meta-training, the loss on unseen forget sets, and the price of a request.

    Args:
        losses: before each step, nats.
        before: of each validation lesson, without an update.
        after: with the hypernetwork's update.
        methods: their prices.
        title: what the figure is about, see `rows.subject`.

    Returns:
        The figure.
    """
    figure = blank(WIDTH, 4.8)
    left, right = figure.subplots(1, 2)
    parts = np.array_split(np.arange(len(losses)), min(SMOOTHED, len(losses)))
    left.plot([part.mean() for part in parts], [losses[part].mean() for part in parts], color=COLOURS[0], label="meta-training")
    for values, colour, name in ((before, "#666666", "doing nothing"), (after, COLOURS[4], "hypernetwork")):
        left.axhline(values.mean(), color=colour, linestyle="--", label=f"{name}, {len(values)} unseen forget sets")
        left.axhspan(values.min(), values.max(), color=colour, alpha=0.12, linewidth=0)
    left.set_xlabel("step of meta-training")
    left.set_ylabel("KL from an oracle, nats\n(forget + retained + held-out)")
    left.legend(frameon=False, fontsize=8)
    for number, price in enumerate(methods):
        colour = "black" if price.method == "retrain" else COLOURS[(number - 1) % (len(COLOURS) - 1)]
        style = ("-", "--", ":")[number // len(COLOURS) % 3]
        seconds = [price.per_request(count) for count in REQUESTS]
        right.plot(REQUESTS, seconds, color=colour, linewidth=2.2 if price.once else 1.2, linestyle=style, label=price.method)
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xticks(REQUESTS)
    right.set_xlabel("requests that one meta-training serves")
    right.set_ylabel("seconds a request and model")
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False, fontsize=7)
    for axes in (left, right):
        axes.grid(color=GRID, linewidth=0.6)
        open_frame(axes)
    figure.suptitle(f"{title}\nshaded: range over the unseen forget sets", fontsize=9)
    return figure


def show(before: Float[np.ndarray, " lessons"], after: Float[np.ndarray, " lessons"], methods: Sequence[Price]) -> None:
    """Prints what meta-training achieved on unseen forget sets and when it pays."""
    print(
        f"KL from the oracle on {len(before)} unseen forget sets: {before.mean():.3f} (sd {before.std():.3f}) after doing "
        f"nothing, {after.mean():.3f} (sd {after.std():.3f}) after the hypernetwork."
    )
    for price in methods:
        if price.once:
            pays = f"from {math.ceil(price.break_even)} requests on" if price.break_even < math.inf else "never"
            costs = f"{price.once:.1f} s once and {price.each:.2g} s a request"
            print(f"{price.method}: {costs}; cheaper than retraining ({methods[0].each:.2g} s) {pays}.")
