"""From the words on the command line to a configuration; a mistake becomes one line."""

import difflib
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tyro

from unlearn_jax.bench.kinds import options, require
from unlearn_jax.bench.options import Run
from unlearn_jax.errors import StorageError, UsageError
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
SHORT = {"-exp": "--exp", "-d": "--device", "-h": "--help"}
LARGEST = 1 << 20  # bytes of a file of options
LONGEST = 2000  # characters of a message


def parse(words: list[str], experiments: Mapping[str, Any]) -> Run:
    """The configuration that the command line asks for; what several options mean together is not yet checked.

    Args:
        words: the command line.
        experiments: what there is by name, each with `options`: a module with `Config` and `smoke`.

    Raises:
        SystemExit: with status 0 after `--help`, with status 2 after one line on stderr about what was wrong.
    """
    try:
        typed = list(pairs(words))
        given = [pair for name, file in typed if name == "--config" for pair in pairs_of(file or "")]
        given += [pair for pair in typed if pair[0] != "--config"]  # the last one counts
        asked = dict(given)
        experiment = asked.get("--exp", "unlearning") or ""
        require(experiment in experiments, "--exp", experiment, f"there is {', '.join(experiments)}")
        module = experiments[experiment].options
        config = module.Config(exp=experiment)
        if "--smoke" in asked:
            config = module.smoke(config)
        if "--help" in asked:
            tyro.cli(
                module.Config,
                prog=PROGRAM,
                description=DESCRIPTION,
                args=["--help"],
                default=config,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
        there = {option.name: option for option in options(module.Config)}
        for name, word in given:
            if name not in there:
                similar = [f"perhaps {other}" for other in difflib.get_close_matches(name, there, n=1)]
                raise UsageError(name, word or "", "; ".join(["no such option", *similar, "--help shows all"]))
            config = there[name].given(config, word)
    except UsageError as error:
        raise SystemExit(complain(str(error), 2)) from None
    return config


def pairs(words: list[str]) -> Iterator[tuple[str, str | None]]:
    """The options on the command line with their values; None: an option alone.

    Raises:
        UsageError: a word belongs to no option.
    """
    name: str | None = None
    for word in words:
        option, equals, value = word.partition("=")
        option = SHORT.get(option, option)
        if option.startswith("--"):
            if name:
                yield name, None
            name = option
            if not equals:
                continue
        elif name:
            value = word
        else:
            raise UsageError(word, "", "no such option; --help shows all")
        yield name, value
        name = None
    if name:
        yield name, None


def pairs_of(file: str) -> list[tuple[str, str | None]]:
    """The options that a TOML file gives, as `pairs`: `epochs` under `[train]` is `--train.epochs`.

    Raises:
        UsageError: it cannot be read, or holds something else.
    """
    try:
        return list(_pairs(tomllib.loads(read_regular(Path(file), LARGEST).decode("utf-8-sig")), "--"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError("--config", file, f"expected a TOML file of options ({reason})") from error


def _pairs(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str | None]]:
    for name, value in table.items():
        option = prefix + name.replace("_", "-")
        if isinstance(value, Mapping):
            yield from _pairs(value, f"{option}.")
        elif value is True:
            yield option, None
        elif value is not False:
            yield option, ",".join(map(str, value)) if isinstance(value, list) else str(value)


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
    if not isinstance(error, UsageError | StorageError):
        raise error
    return complain(str(error), error.status)
