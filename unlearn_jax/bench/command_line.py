"""From the words on the command line to a configuration; a mistake becomes one line."""

import argparse
import contextlib
import io
import itertools
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tyro

from unlearn_jax.bench.options import Common
from unlearn_jax.files import read_regular

PROGRAM = "benchmark.py"
DESCRIPTION = """\
Machine unlearning, measured against the distribution of models retrained without the forget set.

  The main job, on the digits that scikit-learn ships; minutes on two cores:
    python benchmark.py --exp unlearning
  The same path, tiny; under a minute:
    python benchmark.py --exp unlearning --smoke --device cpu
  Some methods, on one GPU:
    python benchmark.py -d gpu:2 --dataset cifar10 --model resnet18 --width 64 --methods scrub,salun,ssd
  Another request, another training, other hyperparameters:
    python benchmark.py --forget.size 50 --train.epochs 30 --hyper scrub.epochs=5,salun.learning_rate=1e-3
  A run as a file says it, with something else beside it:
    python benchmark.py --config configs/fashion_mnist.toml --members 12
  Every method, data set, model and experiment, with access regimes and references:
    python benchmark.py --list

Results go to a run folder (--out); the same command with the same --out resumes a run that was interrupted."""
SHORT = {"-exp": "--exp", "-d": "--device"}
LARGEST = 1 << 20  # bytes of a file of options
LONGEST = 2000  # characters of a message
TYPES = {"INT": "an integer", "FLOAT": "a number"}


def parse(words: list[str], experiments: Mapping[str, Any]) -> Common:
    """The configuration that the command line asks for, not yet checked.

    Args:
        words: the command line.
        experiments: what there is by name, each with `options`: a module with `Config` and `smoke`.

    Raises:
        SystemExit: with status 0 after `--help`, with status 2 after one line on stderr about what was wrong.
    """
    words = [SHORT.get(name, name) + equals + value for name, equals, value in (word.partition("=") for word in words)]
    file = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    file.add_argument("--config", nargs="?", const="")
    asked, words = file.parse_known_args(words)
    if asked.config is not None:
        words = [*words_of(asked.config), *words]  # the last one counts
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--exp", nargs="?", default="unlearning", const="")
    experiment = first.parse_known_args(words)[0].exp
    if experiment not in experiments:
        fail(f"--exp {experiment}: there is {', '.join(experiments)}")
    module = experiments[experiment].options
    default = module.Config(exp=experiment)
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(
                module.Config,
                prog=PROGRAM,
                description=DESCRIPTION,
                args=[word for word in words if word != "--smoke"],
                default=module.smoke(default) if "--smoke" in words else default,
                config=(tyro.conf.UseAppendAction, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as stop:
        if stop.code:
            fail(one_line(message.getvalue()))
        raise


def words_of(file: str) -> list[str]:
    """The options that a TOML file gives, as words of the command line: `epochs` under `[train]` is `--train.epochs`.

    Raises:
        SystemExit: with status 2, after one line on stderr: it cannot be read, or holds something else.
    """
    try:
        return list(_words(tomllib.loads(read_regular(Path(file), LARGEST).decode("utf-8-sig")), "--"))
    except (OSError, ValueError, RecursionError) as error:
        fail(f"--config {file}: expected a TOML file of options ({getattr(error, 'strerror', None) or error})")
        raise


def _words(table: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, value in table.items():
        option = prefix + name.replace("_", "-")
        if isinstance(value, Mapping):
            yield from _words(value, f"{option}.")
        elif value is True:
            yield option
        elif isinstance(value, list):
            yield f"{option}={','.join(map(str, value))}"
        elif value is not False:
            yield f"{option}={value}"


def show_list(experiments: Mapping[str, Any]) -> None:
    """Prints every method, data set, model and experiment."""
    from unlearn_jax.data import DATASETS
    from unlearn_jax.methods import METHODS
    from unlearn_jax.models import MODELS

    table("Methods", {name: (entry.access, entry.reference, entry.summary) for name, entry in METHODS.items()})
    table("Data sets", {name: (f"{entry.classes} classes", entry.reference) for name, entry in DATASETS.items()})
    table("Models", {name: (entry.summary,) for name, entry in MODELS.items()})
    table("Experiments", {name: (each.about,) for name, each in experiments.items()})


def table(title: str, rows: dict[str, tuple[str, ...]]) -> None:
    """Prints rows in columns as wide as they need."""
    cells = [(name, *row) for name, row in rows.items()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(title)
    for row in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()


def fail(message: str) -> None:
    """Says what was wrong, in one line, and stops."""
    raise SystemExit(complain(message, 2))


def complain(message: str, status: int) -> int:
    """Says what was wrong in one line, whatever the message holds, and returns the exit status."""
    if len(message) > LONGEST:
        message = f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
    line = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in message)
    print(f"{PROGRAM}: {line}", file=sys.stderr)
    return status


def complain_of(error: Exception) -> int:
    """Says in one line what went wrong and returns the exit status; an error that no user can cause is raised again."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        said = (str(error).splitlines() or [""])[0]
        return complain(f"out of memory ({said}); try smaller sizes, or with --strategy vmap a smaller --chunk", 1)
    status = getattr(error, "status", None)  # of UsageError and StorageError, whose import brings JAX with it
    if status is None:
        raise error
    return complain(str(error), status)


def one_line(box: str) -> str:
    """Tyro's framed message of many lines, as one that names the option, the value and what is accepted."""
    inside = [line.strip("│| ") for line in box.splitlines()[1:]]
    lines = [line if re.search(r"\w", line) else "" for line in inside]  # a rule ends a paragraph
    said = " ".join(itertools.takewhile(bool, itertools.dropwhile(lambda line: not line, lines)))
    hints = [line for line in lines if line.startswith("--") and line != "--help"]
    if match := re.match(r"Error parsing (\S+): .*?['\"\[]+(.*?)['\"\]]*\.?$", said):
        option, value = match.groups()
        kind = hints[0].removeprefix(option).strip().removeprefix("{None}|")
        accepted = " or ".join(TYPES.get(part, part.strip("{}")) for part in kind.split("|"))
        return f"{option} {value}: expected {accepted}"
    if match := re.match(r"invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*)\)", said):
        return f"{match[2]} {match[1]}: expected one of {match[3].replace(chr(39), '')}"
    if match := re.match(r"Missing value for argument '(\S+)'", said):
        return f"{match[1]}: expected a value"
    words = said.removeprefix("Unrecognized options: ").replace(",", "")
    similar = f"; perhaps {', '.join(hint.split()[0] for hint in hints)}" if hints else ""
    return f"{words}: no such option{similar}; --help shows all"
