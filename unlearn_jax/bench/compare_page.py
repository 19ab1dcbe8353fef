"""The page of a comparison, report.html: what goes into it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from unlearn_jax.bench.page import metrics_of
from unlearn_jax.bench.repeat import repeat_of
from unlearn_jax.bench.sample_size import SHOWN
from unlearn_jax.report import page
from unlearn_jax.report.rows import REFERENCES
from unlearn_jax.runs import Run

if TYPE_CHECKING:
    from unlearn_jax.bench.compare import Difference


def write(
    folder: Run,
    described: Mapping[str, str],
    cautions: Sequence[str],
    changed: Mapping[str, Sequence[str]],
    compared: Mapping[str, Sequence["Difference"]],
    readings: Mapping[str, str],
) -> None:
    """Writes report.html for a comparison of finished runs.

    Args:
        folder: of the comparison.
        described: by letter, a line on each run; the first is the one that the others are compared with.
        cautions: what makes the runs hard to compare, sentences.
        changed: by option, its value in each run.
        compared: by letter, the differences of a run from the first.
        readings: by letter, what they say, sentences.
    """
    baseline, *others = described
    names = dict.fromkeys([*SHOWN, *(each.key[1:] for found in compared.values() for each in found)])
    known = {each.key[1:] for found in compared.values() for each in found}
    data = {
        "baseline": baseline,
        "metrics": metrics_of(name for name in names if name in known),
        "differences": {
            letter: [
                {
                    "method": each.key[0],
                    "metric": "/".join(each.key[1:]),
                    "a": each.baseline.value,
                    "b": each.run.value,
                    "a_z": each.baseline.z,
                    "b_z": each.run.z,
                    "difference": each.value,
                    "low": each.low,
                    "high": each.high,
                    "paired": each.paired,
                    "clear": each.clear,
                }
                for each in found
            ]
            for letter, found in compared.items()
        },
        "references": REFERENCES,
    }
    counts = {letter: sum(each.clear for each in found) for letter, found in compared.items()}
    texts = {
        "title": f"{' and '.join(others)} compared with {baseline}",
        "headline": "; ".join(
            f"{letter} differs clearly from {baseline} in {count} of {len(compared[letter])} scores"
            for letter, count in counts.items()
        )
        + ".",
        "described": list(described.values()),
        "letters": list(described),
        "cautions": cautions,
        "changed": changed,
        "readings": readings,
        **repeat_of(folder, folder.read_json("config.json") or {}),
    }
    folder.write_text(page.NAME, page.render("compare", {"compare": data}, scripts=("compare",), **texts))
