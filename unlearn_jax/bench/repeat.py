"""How a run was made, and the command that repeats it, as pages say it."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlearn_jax.recorded import LONG, leaves
from unlearn_jax.runs import Run


def repeat_of(folder: Run, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns how a run was made, and what repeats it: the texts that repeat.html takes."""
    config = facts.get("config") or {}
    commit = facts.get("git") or {}
    versions = {name: version for name, version in (facts.get("versions") or {}).items() if version}
    command = str(facts.get("command") or "")
    program = "unlearn-jax" if "unlearn-jax" in command else "python benchmark.py"
    path = "FOLDER/config.json" if folder.folder.is_absolute() else f"{folder.folder}/config.json"  # of another machine
    return {
        "command": portable(command),
        "again": "" if "data" in config else f"{program} --config {shlex.quote(path)} --out NEW",
        "beside": folder.folder.is_absolute(),
        "commit": commit.get("commit") or "",
        "dirty": bool(commit.get("dirty")),
        "release": versions.get("unlearn_jax", ""),
        "made": {
            "Seed": config.get("seed"),
            "Started": facts.get("started"),
            "Device": facts.get("device"),
            "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        },
        "config": [(key, _shortened(value)) for key, value in leaves(config)],
    }


def portable(command: str) -> str:
    """Returns a command as it is typed elsewhere: without the path of the interpreter and of the program, and without `--out`."""
    try:
        words = shlex.split(command)
    except ValueError:  # not from a shell
        return command
    if words and Path(words[0]).name.startswith("python"):
        words[0] = "python"
        if len(words) > 1 and Path(words[1]).name == "unlearn-jax":
            words = words[1:]
    for place in range(min(2, len(words))):
        if Path(words[place]).name in ("unlearn-jax", "benchmark.py"):
            words[place] = Path(words[place]).name
    kept, skipped = [], False
    for word in words:
        name = word.lstrip("-") if word.startswith("-") else ""
        if not skipped and name.partition("=")[0] != "out":
            kept.append(word)
        skipped = name == "out"
    return shlex.join(kept)


def _shortened(value: Any) -> str:
    """A value of a configuration as text; of a long one, as a list of rows, the beginning."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONG else f"{text[:LONG]}… (all of it is in config.json)"
