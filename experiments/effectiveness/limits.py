"""What the other findings say against reading the leaderboards too widely: a sentence each, from their tables."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

from experiments.effectiveness.families import NOTHING, RETRAIN
from experiments.effectiveness.tables import read_table, values
from experiments.effectiveness.words import agreeing, listed, name, number, percent, sentence, share
from unlearn_jax.metrics.catalogue import accuracy, average_gap, klom, memory_left

KINDS = {
    "mislabelled": "wrong labels",
    "memorised": "the most memorised",
    "exposed": "those an attack finds best",
    "unmemorised": "the least memorised",
    "class": "a whole class",
    "class_part": "half of a class",
}
HONEST = (NOTHING, RETRAIN, "retrain_again", "one_retrained")  # what is no cheat in the table of cheats
READ = (
    "forget-sets-digits/over_forget_sets.csv",
    *(f"forget-kinds-digits/{kind}/results.csv" for kind in KINDS),
    "ulira-digits/results.csv",
    "gaming-digits/results.csv",
    "capacity/correlations.csv",
    "unlearn-one/unlearn_one.csv",
    "calibration/calibration.csv",
)
"""The tables, all of which may be absent."""
EARLIER = (
    "The table was made by an earlier version of this code, which had no effect sizes, so that its methods and their "
    "hyperparameters may be others than above."
)
NEAR = 0.05  # of an AUC


def limits(findings: Path, links: str) -> Iterator[str]:
    """The sentences, as items of a list; none where a table is absent."""
    for said in (_sets, _kinds, _audits, _gaming, _capacity, _one_point, _verdicts):
        if text := said(findings, links):
            yield text


def _sets(findings: Path, links: str) -> str:
    """How much a forget set, and a method's own chance, move what is measured."""
    folder = findings / "forget-sets-digits"
    name_of = accuracy.on("forget")
    rows = [row for row in read_table(folder / "over_forget_sets.csv") if (row["metric"], row["split"]) == name_of]
    found = next((row for row in rows if row["method"] == RETRAIN and row["value_low"]), None)
    if found is None:
        return ""
    shares = _shares(folder / "variance.csv", name_of)
    chance = ""
    if shares:
        low, high = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
        chance = (
            f" Of the variance of that accuracy, a method's own random choices are {100 * shares[low]:.0f}% ({name(low)}) to "
            f"{100 * shares[high]:.0f}% ({name(high)})."
        )
    value, ends = percent(float(found["value"])), f"{percent(float(found['value_low']))} to {percent(float(found['value_high']))}"
    return (
        f"**One forget set is not another** ([finding]({links}/forget-sets-digits.md)). Over several random sets "
        f"({found['forget_set']}) retrained models get {value} of F right, and the interval for other sets is {ends}.{chance}"
    )


def _shares(path: Path, metric: tuple[str, str]) -> dict[str, float]:
    """The share of a metric's variance that is due to the seed of unlearning, by method."""
    parts: dict[str, dict[str, float]] = {}
    for row in read_table(path):
        if (row["metric"], row["split"]) == metric and row["method"] not in (NOTHING, RETRAIN):
            parts.setdefault(row["method"], {})[row["component"]] = max(float(row["variance"]), 0.0)
    return {
        method: each["seed"] / sum(each.values()) for method, each in parts.items() if "seed" in each and sum(each.values()) > 0
    }


def _kinds(findings: Path, links: str) -> str:
    """How much there is to forget by kind of forget set, and the nearest method where that was measured."""
    told, earlier = [], False
    for kind, words in KINDS.items():
        rows = read_table(findings / "forget-kinds-digits" / kind / "results.csv")
        right, ideal = values(rows, accuracy.on("forget")), values(rows, accuracy.on("forget"), "null_mean")
        if NOTHING not in right:
            continue
        memory = values(rows, memory_left.on("forget"))
        left = [abs(value) for method, value in memory.items() if method not in (NOTHING, RETRAIN)]
        least = f"; methods leave {number(min(left))} to {number(max(left))} of the memory" if left else ""
        earlier = earlier or not left
        told.append(f"{words}: {percent(right[NOTHING])} and {percent(ideal[NOTHING])}{least}")
    if not told:
        return ""
    return (
        f"**Other kinds of forget sets ask for more or less** ([finding]({links}/forget-kinds-digits.md)). Accuracy on F before "
        f"unlearning, and of retrained models: {'; '.join(told)}. Methods that look alike where the two are close may differ "
        "much where they are apart, so none of the orders above carries over without being measured."
        f"{f' {EARLIER}' if earlier else ''}"
    )


def _audits(findings: Path, links: str) -> str:
    """What an attack on single examples still sees."""
    rows = read_table(findings / "ulira-digits" / "results.csv")
    high, low = (values(rows, ("lira_auc", part)) for part in ("high", "low"))
    after = {**values(rows, ("u_lira_auc", "high")), **{NOTHING: high.get(NOTHING, math.nan)}}
    others = {method: value for method, value in after.items() if method not in (NOTHING, RETRAIN)}
    if NOTHING not in high or not others:
        return ""
    exposed = [method for method, value in others.items() if high[NOTHING] - value < NEAR]
    return (
        f"**Averages hide single examples** ([finding]({links}/ulira-digits.md)). An attack tells the memorised examples of "
        f"untouched models from unseen ones with an AUC of {number(high[NOTHING])} (chance: 0.50), the others with "
        f"{number(low[NOTHING])}. After unlearning {share(len(exposed), len(others), 'methods')} "
        f"{agreeing(len(exposed), 'leave')} it within {NEAR:g} of that on the memorised ones. A small memory left on average is "
        f"no promise about any one example.{_dated(rows)}"
    )


def _gaming(findings: Path, links: str) -> str:
    """How many made-up cheats have a perfect score by some metric."""
    rows = read_table(findings / "gaming-digits" / "results.csv")
    passed = {}
    for label, metric in (
        ("accuracy on F", accuracy.on("forget")),
        ("average gap", average_gap.on("all")),
        ("KLOM on F", klom.on("forget")),
    ):
        score, below, above = (values(rows, metric, column) for column in ("value", "null_low", "null_high"))
        cheats = [method for method in score if method not in HONEST and method in below]
        if cheats:
            inside = sum(below[method] <= score[method] <= above[method] for method in cheats)
            passed[label] = f"{inside} of {len(cheats)} by {label}"
    if not passed:
        return ""
    return (
        f"**Any metric can be gamed** ([finding]({links}/gaming-digits.md)). Of sets of answers that were made to score well, "
        f"most of them without forgetting, within the null are {listed([*passed.values()])}. Memory left and damage are read "
        "from the same answers, so that they do not protect against somebody who means to deceive."
    )


def _capacity(findings: Path, links: str) -> str:
    """How what there is to remove hangs on how far the model was fitted."""
    rows = read_table(findings / "capacity" / "correlations.csv")
    found = {row["measure"]: row for row in rows if (row["method"], row["left"]) == (NOTHING, "excess")}
    words = {"train_loss": "the loss in training", "accuracy_gap": "the gap between training and test accuracy"}
    told = [
        f"{number(float(row['value']))} ({number(float(row['low']))} to {number(float(row['high']))}) with {text}"
        for measure, text in words.items()
        if (row := found.get(measure)) is not None
    ]
    if not told:
        return ""
    return (
        f"**It depends on how the model was trained** ([finding]({links}/capacity.md)). Over "
        f"{found[next(iter(found))]['settings']} widths, lengths of training, regularisations and shares of wrong labels, the "
        f"rank correlation of what an untouched model holds of F is {listed(told)}. Numbers from one network are not those of "
        "another."
    )


def _one_point(findings: Path, links: str) -> str:
    """What methods do to the boundary when one point is forgotten."""
    ratios: dict[str, list[float]] = {}
    for row in read_table(findings / "unlearn-one" / "unlearn_one.csv"):
        if row["boundary_ratio"] and row["access"]:
            ratios.setdefault(row["method"], []).append(float(row["boundary_ratio"]))
    medians: Mapping[str, float] = {method: median(each) for method, each in ratios.items()}
    methods = {method: value for method, value in medians.items() if method not in (NOTHING, RETRAIN)}
    if not methods:
        return ""
    best = min(methods, key=methods.__getitem__)
    retrained = f"; retraining from another seed is at {number(medians[RETRAIN])}" if RETRAIN in medians else ""
    closer = sum(value < 1 for value in methods.values())
    below = sentence(f"{share(closer, len(methods), 'methods')} {agreeing(closer, 'be')} below 1, the distance of doing nothing")
    return (
        f"**One example at a time is another question** ([finding]({links}/unlearn-one.md)). On a toy where the exact answer is "
        f"known, the boundary of the nearest method, {name(best)}, is at {number(methods[best])} of the distance that doing "
        f"nothing has (median over points){retrained}. {below}"
    )


def _verdicts(findings: Path, links: str) -> str:
    """How often the verdict calls a perfect method different."""
    verdicts = {row["replicate"]: row["inside"] == "True" for row in read_table(findings / "calibration" / "calibration.csv")}
    if not verdicts:
        return ""
    wrong = sum(not inside for inside in verdicts.values())
    return (
        f"**The verdict itself can be wrong** ([finding]({links}/calibration.md)). Of {len(verdicts)} pools of retrained models "
        f"that were judged like a method, {wrong} came out *different*. How often it overlooks a difference depends on the "
        "number of models."
    )


def _dated(rows: list[dict[str, str]]) -> str:
    return f" {EARLIER}" if rows and "outcome" not in rows[0] else ""
