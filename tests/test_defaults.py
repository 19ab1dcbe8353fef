"""No default changes unseen: whoever gives none gets other results. `python tests/test_defaults.py` writes them down anew."""

import importlib
import inspect
import pathlib
import pkgutil
import types

import unlearn_jax

WRITTEN = pathlib.Path(__file__).with_name("defaults.txt")
ROOMS = ("data", "influence", "methods", "metrics", "training", "types")


def defaults() -> list[str]:
    """A line for each public function and class that has some: its name, and what it takes where nothing is given."""
    lines = set()
    for found in pkgutil.walk_packages(unlearn_jax.__path__, "unlearn_jax."):
        if found.name.split(".")[1] not in ROOMS:
            continue
        module = importlib.import_module(found.name)
        for name, each in vars(module).items():
            own = isinstance(each, types.FunctionType | type) and each.__module__ == module.__name__
            if not own or name.startswith("_") or name.endswith("Error"):
                continue
            parameters = inspect.signature(each).parameters.values()
            given = [f"{p.name}={p.default!r}" for p in parameters if isinstance(p.default, int | float | str | tuple)]
            if given:
                lines.add(f"{found.name}.{name}: {', '.join(given)}")
    return sorted(lines)


def test_defaults_are_those_that_were_written_down():
    assert defaults() == WRITTEN.read_text().splitlines()


if __name__ == "__main__":
    WRITTEN.write_text("\n".join(defaults()) + "\n")
