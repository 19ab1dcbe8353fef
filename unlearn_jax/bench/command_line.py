"""Parses the command line into a configuration. A user error is printed as one line."""

import difflib
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tyro

from unlearn_jax.bench.kinds import options, require
from unlearn_jax.bench.options import Run
from unlearn_jax.errors import ArgumentError, StorageError, UsageError
from unlearn_jax.files import read_regular

DESCRIPTION = """\
Machine unlearning, measured against the distribution of models retrained without the forget set.

  The main job, on scikit-learn's digits; minutes on two cores:
    {program} --exp unlearning
  A small version of it; under a minute:
    {program} --exp unlearning --smoke --device cpu
  Three methods, on the third GPU:
    {program} -d gpu:2 --dataset cifar10 --model resnet18 --width 64 --methods scrub,salun,ssd
  Another forget set, longer training, other hyperparameters:
    {program} --forget.size 50 --train.epochs 30 --hyper scrub.epochs=5,salun.learning_rate=1e-3
  Options from a file; those on the command line override it:
    {program} --config configs/fashion_mnist.toml --members 12
  Every method, data set, model and experiment, with access regimes and references:
    {program} --list

Results go to a run folder (--out). To resume an interrupted run, repeat its command with the same --out."""
SHORT = {"-exp": "--exp", "-d": "--device", "-h": "--help"}
FORGET = ("kind", "size", "label", "file")  # arguments of a forget set, in a group of options
LARGEST = 1 << 20  # bytes of a --config file
LONGEST = 2000  # characters of a message


def parse(words: list[str], experiments: Mapping[str, Any], program: str = "benchmark.py") -> Run:
    """Returns the configuration that the command line asks for, with the defaults that follow from it (`Run.fitted`).

    Whether its options fit together is not checked yet.

    Args:
        words: the command line.
        experiments: by name; each has `options`, a module with `Config` and `smoke`.
        program: its name, for the help and for messages.

    Raises:
        SystemExit: with status 0 after `--help`; with status 2 after one line on stderr about a user error.
    """
    try:
        typed = list(split_options(words))
        pairs = [pair for name, file in typed if name == "--config" for pair in read_options(file or "")]
        pairs += [pair for pair in typed if pair[0] != "--config"]  # the last one counts
        words_of = dict(pairs)
        experiment = words_of.get("--exp", "unlearning") or ""
        require(experiment in experiments, "--exp", experiment, f"expected one of {', '.join(experiments)}")
        module = experiments[experiment].options
        config = module.Config(exp=experiment)
        if "--smoke" in words_of:
            config = module.smoke(config)
        if "--help" in words_of:
            tyro.cli(
                module.Config,
                prog=program,
                description=DESCRIPTION.format(program="python benchmark.py" if program.endswith(".py") else program),
                args=["--help"],
                default=config,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
        known = {option.name: option for option in options(module.Config)}
        for name, word in pairs:
            if name not in known:
                similar = [f"perhaps {other}" for other in difflib.get_close_matches(name, known, n=1)]
                raise UsageError(name, word or "", "; ".join(["no such option", *similar, "--help shows all"]))
            config = known[name].apply(config, word)
        config = config.fitted(words_of)
    except UsageError as error:
        raise SystemExit(print_error(str(error), 2, program)) from None
    return config


def split_options(words: list[str]) -> Iterator[tuple[str, str | None]]:
    """Yields the options on the command line with their values; None for an option without a value.

    Raises:
        ArgumentError: a word follows no option.
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


def read_options(file: str) -> list[tuple[str, str | None]]:
    """Returns the options in a TOML file, as `split_options` does: `epochs` under `[train]` is `--train.epochs`.

    Raises:
        ArgumentError: the file cannot be read, or is not TOML.
    """
    try:
        return list(_flatten(tomllib.loads(read_regular(Path(file), LARGEST).decode("utf-8-sig")), "--"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError("--config", file, f"expected a TOML file of options ({reason})") from error


def _flatten(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str | None]]:
    for name, value in table.items():
        option = prefix + name.replace("_", "-")
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{option}.")
        elif value is True:
            yield option, None
        elif value is not False:
            yield option, ",".join(map(str, value)) if isinstance(value, list) else str(value)


def show_list(experiments: Mapping[str, Any]) -> None:
    """Prints every method, data set, model and experiment."""
    from unlearn_jax.data import DATASETS
    from unlearn_jax.methods import METHODS
    from unlearn_jax.models import MODELS

    print_table("Methods", {name: (entry.access, entry.reference, entry.summary) for name, entry in METHODS.items()})
    print_table("Data sets", {name: (f"{entry.classes} classes", entry.reference) for name, entry in DATASETS.items()})
    print_table("Models", {name: (entry.summary,) for name, entry in MODELS.items()})
    print_table("Experiments", {name: (experiment.about,) for name, experiment in experiments.items()})


def print_table(title: str, rows: dict[str, tuple[str, ...]]) -> None:
    """Prints rows in aligned columns."""
    cells = [(name, *row) for name, row in rows.items()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(title)
    for row in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()


def print_error(message: str, status: int, program: str) -> int:
    """Prints a message as one line, whatever characters it holds, and returns the exit status."""
    if len(message) > LONGEST:
        message = f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
    line = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in message)
    print(f"{program}: {line}", file=sys.stderr)
    return status


def report_error(error: Exception, program: str) -> int:
    """Prints an error as one line and returns the exit status; an error that no user can cause is raised again."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        reason = (str(error).splitlines() or [""])[0]
        return print_error(f"out of memory ({reason}); try smaller sizes, or a smaller --chunk with --strategy vmap", 1, program)
    if not isinstance(error, ArgumentError | StorageError):
        raise error
    return print_error(error.told(option_of(error.argument)), error.status, program)


def option_of(argument: str) -> str:
    """Returns the option that sets an argument: `train_size` is `--train-size`, the `kind` of a forget set `--forget.kind`."""
    if argument.startswith("--"):
        return argument
    if argument in FORGET:
        return f"--forget.{argument}"
    return f"--hyper {argument}" if "." in argument else "--" + argument.replace("_", "-")
