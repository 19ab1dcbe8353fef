"""Hyperparameters found by `python benchmark.py --exp tuning`: one file for each data set, which also says how."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "tuned"
TUNED = tuple(sorted(file.stem for file in FOLDER.glob("*.json")))  # data sets


def tuned(dataset: str) -> dict[str, dict[str, Any]]:
    """Returns method -> hyperparameter -> value for the methods that were tuned on a data set; {} if none were."""
    file = {file.stem: file for file in FOLDER.glob("*.json")}.get(dataset)  # a name is no path
    return json.loads(file.read_text())["hyperparameters"] if file else {}
