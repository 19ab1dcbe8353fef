"""What has tables of its own beside the leaderboards: the hypernetwork, and requests in a stream."""

import statistics
from pathlib import Path

from experiments.effectiveness.families import NOTHING, RETRAIN
from experiments.effectiveness.tables import read_table, values
from experiments.effectiveness.words import name, number, percent, plural, sentence, share
from unlearn_jax.metrics.catalogue import accuracy, kl_to_oracle, klom

HYPERNETWORK = "hypernetwork"
STREAM = "streaming/streaming.csv"
RANDOM = "random"
READ = (f"{HYPERNETWORK}/results.csv", f"{HYPERNETWORK}/prices.csv", STREAM)
"""The tables, all of which may be absent."""


def hypernetwork(findings: Path, links: str) -> str:
    """What the hypernetwork did, beside doing nothing, and from how many requests on it pays; empty without its table."""
    rows, prices = (read_table(findings / HYPERNETWORK / table) for table in ("results.csv", "prices.csv"))
    divergence, margins = values(rows, kl_to_oracle.on("forget")), values(rows, klom.on("forget"), "z")
    right = values(rows, accuracy.on("forget"))
    pays = {line["method"]: float(line["break_even"]) for line in prices}
    if not all(HYPERNETWORK in found for found in (divergence, margins, right, pays)):
        return ""
    ideal = values(rows, accuracy.on("forget"), "null_mean")[HYPERNETWORK]
    return (
        f"**The hypernetwork** ([its finding]({links}/hypernetwork.md)) sees R and held-out data while it is trained, and F when "
        "it is asked. It was measured on another network than the methods above, with other metrics. The divergence of its "
        f"models' mean answer on F from retrained models (KL, in nats) is {number(divergence[HYPERNETWORK])}, where doing "
        f"nothing has {number(divergence[NOTHING])}; its margins on F (KLOM) are {number(margins[HYPERNETWORK])} null standard "
        f"deviations from perfect, where doing nothing is at {number(margins[NOTHING])}. Its models get "
        f"{percent(right[HYPERNETWORK])} of F right (retrained models: {percent(ideal)}). Since it must be trained first, it is "
        f"cheaper than retraining after {pays[HYPERNETWORK]:,.0f} requests on one data set."
    )


def stream(findings: Path, links: str) -> str:
    """How far methods had drifted from retraining after the last request of a random stream; empty without its table."""
    rows = [row for row in read_table(findings / STREAM) if row.get("stream", RANDOM) == RANDOM]  # older tables have no other
    last = max((int(row["request"]) for row in rows), default=0)
    final: dict[str, list[dict[str, str]]] = {}  # of every draw
    for row in rows:
        if int(row["request"]) == last:
            final.setdefault(row["method"], []).append(row)
    blind = [method for method, (row, *_) in final.items() if row["access"] in ("F", "F + summary")]
    if not blind or NOTHING not in final:
        return ""

    def off(method: str, split: str) -> float:
        """Accuracy minus that of retrained models, in points; the mean over draws."""
        return statistics.fmean(float(row[split]) - float(row[f"{split}_null_mean"]) for row in final[method])

    def side(points: float) -> str:
        return f"{abs(points):.1f} points {'above' if points > 0 else 'below'}" if abs(points) >= 0.05 else "level with"

    least = min(blind, key=lambda method: abs(off(method, "forget")))
    gone = [method for method in blind if abs(off(method, "forget")) < 0.5 * abs(off(NOTHING, "forget"))]
    price = max((off(method, "test") for method in gone), default=0.0)
    costs = f"; the one of them with the best test accuracy is {side(price)} retrained models there" if gone else ""
    retrained = f" Retraining each time is {side(off(RETRAIN, 'forget'))} them on F." if RETRAIN in final else ""
    return (
        f"**In a stream** ([its finding]({links}/streaming.md)) of {plural(last, 'request')}, answered without retained data, "
        f"the accuracy on all that was to be forgotten ends {side(off(NOTHING, 'forget'))} that of retrained models if nothing "
        f"is done. {sentence(share(len(gone), len(blind), 'methods')).removesuffix('.')} came nearer than half of that{costs}. "
        f"The nearest, {name(least)}, ends {side(off(least, 'forget'))} retrained models on F and {side(off(least, 'test'))} "
        f"them on the test set.{retrained}"
    )
