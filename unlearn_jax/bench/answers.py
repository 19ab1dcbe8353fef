"""What the library's verbs return: a verdict, and a leaderboard of them."""

import dataclasses
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from unlearn_jax.bench.evaluate import Outcome
from unlearn_jax.metrics import Evaluation as Scores
from unlearn_jax.metrics import Score, pooled
from unlearn_jax.metrics.effects import MARGIN, Effects, mean_effects, outcome_of
from unlearn_jax.metrics.statistics import NEGLIGIBLE
from unlearn_jax.metrics.verdict import FEWEST_JUDGED
from unlearn_jax.report import leaderboard
from unlearn_jax.report.rows import Row
from unlearn_jax.types import Interval

if TYPE_CHECKING:
    import pandas

LINES, WIDTH = 10, 80  # of a printed verdict
NAMED = 2  # methods left out that a printed board has a line for


@dataclasses.dataclass(frozen=True, repr=False)
class Verdict:
    """How unlearned models compare with retrained ones.

    Attributes:
        outcome: "equivalent" to retraining (memory left and damage lie within the margin), "not distinguished" from it at this
            number of models, or "different"; None below 8 models a side.
        scores: each metric, with its null.
        largest: the largest evidence of a difference over all metrics, in standard deviations of the null.
        band: what the largest evidence of retrained models stays below, in 95 of 100 cases.
        members: the unlearned models that were compared.
        lost: members that diverged and are in no score; with one of them the outcome is "different".
        memory_left: the share of what the originals remember of the forget set that is still there; None without originals.
        damage: what changed besides, as a share of what there is to forget, over all splits; None without originals.
    """

    outcome: str | None
    scores: list[Score]
    largest: float
    band: float
    members: int
    lost: tuple[str, ...] = ()
    memory_left: Interval | None = None
    damage: Interval | None = None

    def __str__(self) -> str:
        """Ten lines of 80 characters at most: the outcome, and the metrics with the largest evidence."""
        outcome = self.outcome or f"no verdict below {FEWEST_JUDGED}"
        of_band = f"largest |z| {self.largest:.2f}, of retrained models up to {self.band:.2f}"
        lines = [f"{outcome} (n={self.members}; {of_band})"]
        if self.memory_left and self.damage and not math.isnan(self.memory_left.value):
            sizes = f"memory left {self.memory_left:z.2f}, damage {self.damage:z.2f}"
            lines += [sizes]
        lines += [f"{len(self.lost)} members diverged: {', '.join(self.lost)}"] * bool(self.lost)
        for score in sorted(self.scores, key=lambda score: -score.evidence)[: LINES - len(lines)]:
            mean = score.null.mean if abs(score.null.mean) > NEGLIGIBLE * score.null.sd else 0.0  # no 8.674e-18
            name, null = f"{score.metric} {score.split}".strip(), f"{mean:.4g} ± {score.null.sd:.2g}"
            lines.append(f"  {name:<26}{score.value:>10.4g}  retrained {null:<18}|z| {score.evidence:.1f}".rstrip())
        return "\n".join(leaderboard.cut(line, WIDTH) for line in lines)

    __repr__ = __str__  # what a notebook shows


@dataclasses.dataclass(frozen=True, repr=False)
class Leaderboard:
    """What `evaluate` found.

    Attributes:
        rows: as in results.csv.
        verdict: of every method, over all forget sets.
        left_out: methods that this model cannot serve, with the reason.
        folder: the run folder with all tables, figures and logits; in the temporary folder if `out` was not given.
        board: the table as text.
    """

    rows: list[Row]
    verdict: dict[str, Verdict]
    left_out: dict[str, str]
    folder: Path
    board: leaderboard.Leaderboard

    def __str__(self) -> str:
        """About ten lines of 80 characters: the first methods of the table, and where all of it is."""
        left_out = [f"{name}: left out, it {reason}" for name, reason in self.left_out.items()]
        if len(left_out) > NAMED:
            left_out[NAMED - 1 :] = [f"{len(left_out) - NAMED + 1} more left out: {', '.join([*self.left_out][NAMED - 1 :])}"]
        where = f"all: {self.folder}/summary.md"
        lines = [*leaderboard.outline(self.board, WIDTH), *(leaderboard.cut(line, WIDTH) for line in left_out), where]
        return "\n".join(lines)

    __repr__ = __str__  # what a notebook shows

    def to_pandas(self) -> "pandas.DataFrame":
        """Returns the rows as a table, with the columns of results.csv; an empty cell is a missing value.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install 'unlearn_jax[pandas]', or pip install pandas") from error
        return pandas.DataFrame(self.rows, columns=list(Row._fields))

    def write(self, folder: Path | str) -> None:
        """Copies the run folder."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)


def verdict_of(scores: Scores, found: Effects | None, lost: Iterable[str] = (), margin: float = MARGIN) -> Verdict:
    """The verdict on scores and effect sizes."""
    outcome = outcome_of(scores.inside, found, scores.lost, margin)
    sizes = (found.memory_left, found.damage) if found else (None, None)
    return Verdict(outcome, scores.scores, scores.largest_z, scores.band, scores.members, tuple(lost), *sizes)


def verdicts_of(outcome: Outcome) -> dict[str, Verdict]:
    """Of every method that has a score on all forget sets."""
    verdicts = {}
    for name in outcome.results[0].scored:
        scored = [result.scored[name] for result in outcome.results if name in result.scored]
        if len(scored) == len(outcome.results):
            whole = scored[0].evaluation
            if len(scored) > 1:
                whole = pooled([each.evaluation for each in scored], [each.reference for each in scored])
            lost = [f"{result.name} #{member}" for result in outcome.results for member in result.lost[name]]
            known = [each.effects for each in scored if each.effects]
            verdicts[name] = verdict_of(whole, mean_effects(known) if len(known) == len(scored) else None, lost)
    return verdicts
