"""What each family of methods can do, where it fails, and for whom it is right: one text from the committed tables."""

import os
from pathlib import Path

from experiments.effectiveness.figure import draw
from experiments.effectiveness.options import Config
from experiments.effectiveness.tables import COLUMNS, lines
from experiments.effectiveness.text import Links, document, gather
from unlearn_jax.bench.kinds import require
from unlearn_jax.report.drawing import save
from unlearn_jax.runs import Run

NAME = "effectiveness-and-limitations"
TABLE, FIGURE = "effectiveness.csv", "figures/effectiveness.png"
DOCS = Links(f"{NAME}/{Path(FIGURE).name}", f"{NAME}/{TABLE}", "findings")


def run(config: Config, folder: Run) -> None:
    """Writes the text, its table and its figure into the run folder, and with --docs into a folder of documents.

    Raises:
        ArgumentError: no table is found that has memory left and damage, or --docs is no folder.
    """
    evidence = gather(config.findings)
    boards = [board for board in evidence.boards if board.methods]
    accepted = f"no leaderboard with memory left and damage ({'; '.join(evidence.left_out)})"
    require(bool(boards), "--findings", config.findings, accepted)
    require(config.docs is None or config.docs.is_dir(), "--docs", config.docs, "expected a folder")
    folder.write_csv(TABLE, COLUMNS, lines(boards))
    save(draw(boards), folder, Path(FIGURE).stem)
    links = Links(FIGURE, TABLE, os.path.relpath(config.findings, folder.folder))
    folder.write_text(f"{NAME}.md", document(evidence, links))
    if config.docs is not None:
        beside = config.docs / NAME
        beside.mkdir(exist_ok=True)
        for name in (TABLE, FIGURE):
            (beside / Path(name).name).write_bytes((folder.folder / name).read_bytes())
        (config.docs / f"{NAME}.md").write_text(document(evidence, DOCS), encoding="utf-8")
    for line in evidence.left_out:
        print(f"Not used: {line}.")
    best = boards[0].methods[0]
    print(f"{boards[0].title}: the nearest of {len(boards[0].methods)} methods is {best.method}, at {best.distance:.2f}.")
