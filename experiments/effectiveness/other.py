"""What has tables of its own beside the leaderboards: the hypernetwork, and requests in a stream."""

import statistics
from pathlib import Path

from experiments.effectiveness.families import NOTHING, RETRAIN
from experiments.effectiveness.tables import read_table, values
from experiments.effectiveness.words import name, number, percent, plural
from unlearn_jax.methods.summaries import SUMMARIES
from unlearn_jax.metrics.catalogue import accuracy, damage, klom, memory_left

HYPERNETWORK = "hypernetwork"
STREAM = "streaming/streaming.csv"
RANDOM = "random"
READ = (f"{HYPERNETWORK}/results.csv", f"{HYPERNETWORK}/prices.csv", STREAM)
"""The tables, all of which may be absent."""


def hypernetwork(findings: Path, links: str) -> str:
    """What the nearest hypernetwork did, and from how many requests on it pays; empty without its table."""
    rows, prices = (read_table(findings / HYPERNETWORK / table) for table in ("results.csv", "prices.csv"))
    memory, harm, right = (values(rows, metric) for metric in (memory_left.on("forget"), damage.on("all"), accuracy.on("forget")))
    margins = values(rows, klom.on("forget"), "z")
    pays = {line["method"]: float(line["break_even"]) for line in prices}
    variants = [
        each for each in memory if each.startswith(HYPERNETWORK) and all(each in of for of in (harm, margins, right, pays))
    ]
    if not variants:
        return ""
    least = min(variants, key=lambda each: max(abs(memory[each]), harm[each]))
    ideal = values(rows, accuracy.on("forget"), "null_mean")[least]
    return (
        f"**The hypernetwork** ([its finding]({links}/hypernetwork.md)) sees R and held-out data while it is trained, and F when "
        f"it is asked. It was measured on another network than the methods above. The nearest of "
        f"{plural(len(variants), 'variant')}, `{least}`, leaves {number(memory[least])} of the memory, at a damage of "
        f"{number(harm[least])}; its margins on F (KLOM) are {number(margins[least])} null standard deviations from perfect, "
        f"where doing nothing is at {number(margins[NOTHING])}. Its models get {percent(right[least])} of F right (retrained "
        f"models: {percent(ideal)}). Since it must be trained first, it is cheaper than retraining after "
        f"{pays[least]:,.0f} requests on one data set."
    )


def stream(findings: Path, links: str) -> str:
    """How far from retraining methods are after the last request of a stream of random examples; empty without its table."""
    rows = [row for row in read_table(findings / STREAM) if row.get("stream") == RANDOM and row[memory_left.name]]
    last = max((int(row["request"]) for row in rows), default=0)
    final: dict[str, list[dict[str, str]]] = {}  # of every draw
    for row in rows:
        if int(row["request"]) == last:
            final.setdefault(row["method"], []).append(row)

    def mean(method: str, size: str) -> float:
        return statistics.fmean(float(row[size]) for row in final[method])

    def distance(method: str) -> float:
        return statistics.fmean(max(abs(float(row[memory_left.name])), float(row[damage.name])) for row in final[method])

    blind = [method for method, (row, *_) in final.items() if row["access"] in ("F", "F + summary")]
    free = [method for method in blind if (held := final[method][0]["summary"]) == "" or SUMMARIES[held].free]
    if not free or NOTHING not in final:
        return ""
    least = min(free, key=distance)
    lost = statistics.fmean(float(row["retain_null_mean"]) - float(row["retain"]) for row in final[least])
    retrained = f" Retraining each time is at {number(distance(RETRAIN))}." if RETRAIN in final else ""
    return (
        f"**In a stream** ([its finding]({links}/streaming.md)) of {plural(last, 'request')} for random examples, answered "
        f"without retained data, the nearest to retraining of {len(free)} methods that keep no summary of F is {name(least)}, "
        f"at a distance (the larger of memory left and damage) of {number(distance(least))}, where doing nothing is at 1: it "
        f"leaves {number(mean(least, 'memory_left'))} of the memory, at a damage of {number(mean(least, 'damage'))}. Its "
        f"accuracy on retained examples is {lost:.1f} points below that of retrained models.{retrained}"
    )
