"""What the main job has ahead of it: from this, `progress` says how much time is left."""

from collections.abc import Mapping, Sequence

import numpy as np

from unlearn_jax.bench.options import Seeded
from unlearn_jax.bench.setting import Setting
from unlearn_jax.progress import Ahead
from unlearn_jax.report.rows import REFERENCES

SHARE = 0.4  # of a retraining that a method is taken to cost, before it is compiled
COMPILING, SCORING = 3.0, 1.0  # seconds for each method that it takes, whatever the size of data and network


def stages(config: Seeded, setting: Setting, masks: Mapping[str, np.ndarray], methods: Sequence[str]) -> list[Ahead]:
    """Returns the stages of a run; their work is in passes over one training example.

    Args:
        config: `config.members` is a number.
        setting: data and model.
        masks: the training rows to forget, by forget set.
        methods: names, of which `original` costs nothing.
    """
    assert config.members != "auto"
    epochs = setting.problem.recipe.epochs
    unlearning = [name for name in methods if name not in REFERENCES]
    pools = {name: config.members * int((~mask).sum()) * epochs for name, mask in masks.items()}
    ahead = [Ahead("oracle models", 2 * work) for name, work in pools.items() if name not in setting.weights.oracles]
    if not setting.weights.originals:
        rows = len(next(iter(masks.values())))
        ahead.append(Ahead("original models", config.members * rows * epochs))
    for work in pools.values():
        ahead += [Ahead("compiling", seconds=COMPILING * len(unlearning))] * bool(unlearning)
        for _ in range(config.unlearning_seeds):
            ahead += [Ahead("retrain models", work)] * ("retrain" in methods)
            ahead += [Ahead(name, SHARE * work) for name in unlearning]
        ahead.append(Ahead("scores", seconds=SCORING * len(methods)))
    return ahead
