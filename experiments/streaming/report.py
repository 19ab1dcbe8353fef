"""How utility and forgetting drift over a stream of requests: a figure, a table, the cells of streaming.csv."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from unlearn_jax.metrics import Null
from unlearn_jax.metrics.verdict import deviation
from unlearn_jax.report.drawing import BAND, COLOURS, GRID, WIDTH, blank, open_frame
from unlearn_jax.report.rows import Row, format_counts
from unlearn_jax.report.tables import markdown, page

if TYPE_CHECKING:
    import matplotlib.figure

ANCHORED = " + anchor"
FAR = 3  # null standard deviations: retrained models exceed them in less than one score in a hundred


class Level(NamedTuple):
    """A score and its null."""

    value: float
    null_mean: float
    null_sd: float
    null_low: float
    null_high: float

    @property
    def z(self) -> float:
        """See `metrics.verdict.deviation`."""
        return deviation(self.value, Null(*self[1:]))


class Step(NamedTuple):
    """A method after some requests.

    Attributes:
        request: number of requests answered.
        forgotten: number of examples in these requests.
        method: its name.
        access: what it may see.
        members: number of models that did not diverge.
        seconds: for one request and model.
        klom: on all examples requested so far, nats.
        klom_first: on the examples of the first request.
        forget: accuracy on all examples requested so far, percent.
        retain: accuracy on the rest of the training set.
        test: accuracy on the test set.
    """

    request: int
    forgotten: int
    method: str
    access: str
    members: int
    seconds: float
    klom: Level
    klom_first: Level
    forget: Level
    retain: Level
    test: Level


PLAIN = tuple(name for name, kind in Step.__annotations__.items() if kind is not Level)
LEVELS = tuple(name for name, kind in Step.__annotations__.items() if kind is Level)
COLUMNS = (*PLAIN, *(f"{name}_{field}" if field != "value" else name for name in LEVELS for field in Level._fields))


def cells(step: Step) -> list[Any]:
    """One row of streaming.csv, in the order of `COLUMNS`."""
    return [getattr(step, name) for name in PLAIN] + [number for name in LEVELS for number in getattr(step, name)]


def title(rows: Iterable[Row], requests: int, size: int) -> str:
    """The title of a stream: data set, model, requests, and how many models."""
    rows = list(rows)
    members, oracles = (format_counts(getattr(row, field) for row in rows) for field in ("n_members", "n_oracles"))
    about = f"{requests} requests of {size} examples", f"n={members} models a method", f"{oracles} oracles a request"
    return " · ".join([rows[0].dataset, rows[0].model, *about])


def drift(steps: Sequence[Step], title: str) -> "matplotlib.figure.Figure":
    """Draws KLOM and accuracy on the requested examples, and accuracy on retain and test, against the number of requests.

    Accuracies are relative to the oracles' after as many requests. The null band is grey; a method with an anchor is dashed.

    Args:
        steps: of all methods.
        title: see `title`.

    Returns:
        The figure.
    """
    figure = blank(WIDTH, 7.0)
    panels = figure.subplots(2, 2, sharex=True).ravel()
    names = {
        "klom": "KLOM on all requested so far (nats)",
        "forget": "accuracy on all requested so far",
        "retain": "accuracy on the retain set",
        "test": "accuracy on the test set",
    }
    methods = list(dict.fromkeys(step.method for step in steps))
    plain = [name for name in methods if not name.endswith(ANCHORED) and name not in ("original", "retrain")]
    for axes, (measure, label) in zip(panels, names.items(), strict=True):
        of_all = sorted({step.request: getattr(step, measure) for step in steps}.items())
        origin = {number: 0.0 if measure == "klom" else level.null_mean for number, level in of_all}
        low, high = ([getattr(level, end) - origin[number] for number, level in of_all] for end in ("null_low", "null_high"))
        axes.fill_between(
            [number for number, _ in of_all], low, high, color=BAND, alpha=0.6, linewidth=0, label="95% of the null"
        )
        for method in methods:
            of_method = [step for step in steps if step.method == method]
            points = [(step.request, getattr(step, measure).value - origin[step.request]) for step in of_method]
            axes.plot(*zip(*points, strict=True), label=method, **_style(method, plain))
        if measure != "klom":
            axes.set_yscale("symlog", linthresh=2.0)
            limits = axes.get_ylim()
            axes.set_yticks([-50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10])
            axes.set_ylim(limits)
            axes.yaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
            label = f"{label}\nminus the oracles' (points)"
        axes.set_ylabel(label, fontsize=9)
        axes.grid(color=GRID, linewidth=0.6)
        open_frame(axes)
    for axes in panels[2:]:
        axes.set_xlabel("requests answered")
        axes.set_xticks(sorted({step.request for step in steps}))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def summary(steps: Sequence[Step], title: str) -> str:
    """Every method after the first and after the last request, as Markdown."""
    numbers = sorted({step.request for step in steps})
    first, last = numbers[0], numbers[-1]
    headings = ["method", "access"]
    headings += [f"{name}, {when}" for when in (f"after {first}", f"after {last}") for name in ("KLOM z", "Δ forget", "Δ test")]
    headings += [f"KLOM z of request 1 after {last}", f"test beyond {FAR} null sd from", "s a request"]
    lines = []
    for method in dict.fromkeys(step.method for step in steps):
        by_request = {step.request: step for step in steps if step.method == method}
        line = [method, next(iter(by_request.values())).access]
        for number in (first, last):
            line += _cells(by_request.get(number))
        final = by_request.get(last)
        outside = [step.request for step in by_request.values() if abs(step.test.z) > FAR]
        line += [f"{final.klom_first.z:+.1f}" if final else "", str(min(outside)) if outside else "never"]
        lines.append([*line, f"{next(iter(by_request.values())).seconds:.2g}"])
    reading = (
        "KLOM z: on all examples requested so far, in null standard deviations (0: as retraining). Δ: accuracy minus the "
        "oracles' after as many requests, percentage points. Access `F + summary`: F, a Fisher diagonal and the weights "
        "after training."
    )
    return page(markdown(headings, lines, left=range(2)), f"{title}.", reading)


def _cells(step: Step | None) -> list[str]:
    if step is None:
        return ["diverged", "", ""]
    apart = [level.value - level.null_mean for level in (step.forget, step.test)]
    return [f"{step.klom.z:+.1f}", *(f"{gap:+.1f}" for gap in apart)]


def _style(method: str, plain: Sequence[str]) -> dict[str, Any]:
    if method in ("original", "retrain"):
        return {"color": "black", "linestyle": ":" if method == "original" else "-", "linewidth": 1.2}
    colour = COLOURS[plain.index(method.removesuffix(ANCHORED)) % (len(COLOURS) - 1)]
    return {"color": colour, "linestyle": "--" if method.endswith(ANCHORED) else "-", "linewidth": 1.5}
