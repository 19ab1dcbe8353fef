"""What summary.md says beside the leaderboard: the figures, the hyperparameters and where they came from, and how it was run."""

import json
from collections.abc import Mapping
from typing import Any

from unlearn_jax.bench.hyperparameters import SOURCES
from unlearn_jax.report.tables import markdown
from unlearn_jax.runs import Run

SHOWN = ("memory_against_damage", "quality_against_utility")


def figures(folder: Run) -> list[str]:
    """Returns links to the figures of a run folder, and shows those on forgetting and its price."""
    names = sorted(path.stem for path in (folder.folder / "figures").glob("*.svg"))
    shown = [f"![{name.replace('_', ' ')}](figures/{name}.png)" for name in SHOWN if name in names]
    links = ", ".join(f"[{name.replace('_', ' ')}](figures/{name}.svg)" for name in names)
    return ["## Figures", *shown, f"All: {links}."] if names else []


def hyperparameters(values: Mapping[str, Mapping[str, Any]], origins: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Returns a table of the hyperparameters that were used, with a column for each source of some.

    Args:
        values: method -> name -> value, or forget set -> value where the sets differ.
        origins: method -> name -> source, see `hyperparameters.origins_of`.
    """
    by_source = {
        method: {
            source: ", ".join(f"{name}={_text(value)}" for name, value in of_method.items() if origins[method][name] == source)
            for source in SOURCES
        }
        for method, of_method in values.items()
    }
    used = [source for source in SOURCES if any(cells[source] for cells in by_source.values())]
    lines = [[method, *(cells[source] for source in used)] for method, cells in by_source.items()]
    table = markdown(["method", *(SOURCES[source] for source in used)], lines, left=range(len(used) + 1))
    return ["## Hyperparameters", table] if used else []


def provenance(folder: Run) -> list[str]:
    """Returns the seed, the command, the versions and the device of a run, as config.json has them."""
    facts = folder.read_json("config.json") or {}
    if "config" not in facts:
        return []
    commit = facts.get("git") or {}
    code = f"commit {commit.get('commit')}{', with changes' * bool(commit.get('dirty'))}; " if commit else ""
    versions = ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items() if version)
    before = len(facts.get("earlier", []))
    times = f" The folder was opened {before} times before, by the commands in config.json." if before else ""
    return [
        "## The run",
        f"Seed {facts['config'].get('seed')}. Started {facts.get('started')} on {facts.get('device')}; {code}{versions}.{times}",
        f"```bash\n{facts.get('command')}\n```",
        "`--config` with the path of config.json repeats a run that was begun on the command line.",
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
