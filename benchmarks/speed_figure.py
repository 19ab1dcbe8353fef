"""Draws the tables of benchmarks/speed.py: leave-one-out and pools, this project beside PyTorch.

python benchmarks/speed_figure.py docs/performance/speed.json docs/performance/speed.png
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from unlearn_jax.report.drawing import BAND, COLOURS, WIDTH, blank, name_rows

if TYPE_CHECKING:
    import matplotlib.figure

# What a row is called here, where that is shorter than what speed.py calls it.
SHORTER = {"contiguous_format": "", "channels_last": "channels last", "processes: 1": "1 process", "processes: 2": "2 processes"}


def main() -> None:
    """Draw the figure of a file of tables."""
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} TABLES.json FIGURE.png")
    draw(json.loads(Path(sys.argv[1]).read_text())).savefig(sys.argv[2], dpi=200, metadata={"Software": None})


def panels(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Seconds of each way, by the title of their panel. Of the pools of a data set the last run of most models counts; XLA's own
    convolution, many times slower, is left out."""
    shown: dict[str, tuple[str, dict[str, float]]] = {}
    for run in sorted(runs, key=lambda run: run["arguments"]["members"]):
        machine = run["device"].removeprefix("cpu ").strip("()").split(", ", 1)[-1]
        if "toy" in run:
            seconds = {name(row["way"]): row["seconds"] for row in run["toy"]}
            shown["toy"] = f"exact leave-one-out, s for all ({machine})", seconds
        for data in dict.fromkeys(row["data"] for row in run.get("pool", ())):
            rows = [row for row in run["pool"] if row["data"] == data and not row["way"].endswith(", xla")]
            title = f"a pool on {data}, s a model of {run['arguments']['members']} ({machine})"
            shown[data] = title, {name(row["way"]): row["s_per_model"] for row in rows}
    return dict(shown.values())


def name(way: str) -> str:
    """A row's name in few words."""
    return ", ".join(word for word in (SHORTER.get(part, part) for part in way.split(", ")) if word)


def draw(runs: list[dict[str, Any]]) -> "matplotlib.figure.Figure":
    """Draws a panel for leave-one-out and one for the pool of each data set: a bar for each way.

    Args:
        runs: the dicts that speed.py writes, in the order of the runs.

    Returns:
        The figure.
    """
    shown = panels(runs)
    heights = [2 + len(rows) for rows in shown.values()]
    figure = blank(WIDTH, 0.17 * sum(heights))
    axes = figure.subplots(len(shown), 1, height_ratios=heights, squeeze=False)[:, 0]
    for panel, (title, rows) in zip(axes, shown.items(), strict=True):
        colours = [COLOURS[0] if way.startswith("unlearn_jax") else BAND for way in rows]
        bars = panel.barh(range(len(rows)), [*rows.values()], color=colours, height=0.75)
        panel.bar_label(bars, fmt=" %.3g", fontsize=7)
        panel.set_title(title, fontsize=9, loc="left")
        panel.margins(x=0.08)
        name_rows(panel, [*rows], size=8.0)
        panel.set_xticks([])
        panel.spines["bottom"].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
