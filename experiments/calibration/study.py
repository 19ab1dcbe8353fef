"""The verdict's false-positive rate: fresh retrained models against fresh oracles. 5% should be outside the null."""

import dataclasses

import numpy as np
from scipy.stats import binomtest

from experiments.calibration.options import Config
from unlearn_jax.bench.forget_set import forget_mask, forget_set
from unlearn_jax.bench.judging import train_oracles
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.population import comparable, lost_members, score_alive, without
from unlearn_jax.bench.setting import prepare
from unlearn_jax.metrics import FEWEST_JUDGED, reference
from unlearn_jax.progress import working
from unlearn_jax.runs import Run


def run(config: Config, folder: Run) -> None:
    """Write calibration.csv, a row for each metric and replicate, and print how often a perfect method was outside the null."""
    setting = prepare(config)
    mask = forget_mask(config, setting, 0)
    rows: list[list] = []
    verdicts, outside, by_z = 0, 0, 0
    for replicate in range(config.replicates):
        fresh = dataclasses.replace(config, seed=config.seed + replicate)  # changes the keys; data and forget set stay
        forget = forget_set(fresh, folder, setting, mask, f"replicate-{replicate}")
        oracles = train_oracles(forget).cube
        retrained = forget.pool("retrain", config.members)
        with working(f"replicate {replicate + 1} of {config.replicates}") as update:
            n = comparable(config.members, len(oracles.forget))
            against = reference(oracles, forget.labels, n, splits=config.evaluation.splits, seed=replicate)
            cube = forget.logits(retrained.variables)
            lost = lost_members(config, "retrained", (retrained.variables, cube), 2)
            verdict, _ = score_alive(without(cube, lost), against)
            assert verdict
            update(1.0, f"largest |z| {verdict.largest_z:.2f}, band {verdict.band:.2f}")
        if verdict.inside is None:
            continue  # too many models diverged for a verdict
        verdicts += 1
        outside += not verdict.inside
        by_z += any(score.z is not None and abs(score.z) > verdict.band for score in verdict.scores)
        rows += [[replicate, *score[:3], score.z, score.evidence, verdict.band, verdict.inside] for score in verdict.scores]
    columns = ("replicate", "metric", "split", "value", "z", "evidence", "band", "inside")
    folder.write_csv("calibration.csv", columns, rows)
    accepted = f"fewer than {FEWEST_JUDGED} models were left in each of {config.replicates} replicates; expected a smaller number"
    require(verdicts > 0, "--train.learning-rate", config.train.learning_rate, accepted)
    interval = binomtest(outside, verdicts).proportion_ci()
    spread = {
        f"{metric} {split}": float(np.std([row[4] for row in rows if row[1:3] == [metric, split] and row[4] is not None]))
        for metric, split in dict.fromkeys((row[1], row[2]) for row in rows)
    }
    counts = {"outside": outside, "outside_by_z_alone": by_z, "replicates": verdicts}
    folder.write_json("results.json", {**counts, "low": interval.low, "high": interval.high, "sd_of_z": spread})
    print(
        f"{outside} of {verdicts} perfect pools of {config.members} were outside the null: "
        f"{100 * outside / verdicts:.1f}% (95% interval {100 * interval.low:.1f} to {100 * interval.high:.1f}%); "
        f"by z alone, without the scores' own standard errors: {by_z}"
    )
