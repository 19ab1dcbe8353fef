"""Parses the command line into a configuration. A user error is printed as one line."""

import difflib
import functools
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from unlearn_jax.bench.kinds import Several, options, replace_field, require
from unlearn_jax.bench.options import MAIN, Hyper, Run
from unlearn_jax.errors import ArgumentError, StorageError, UsageError, WorkersError
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
  A finished run repeated in a new folder, here with another seed; and the two compared:
    {program} --config runs/a/config.json --seed 1 --out runs/b
    {program} --exp compare --runs runs/a runs/b
  Every method, data set, model and experiment, with access regimes and references:
    {program} --list

Results go to a run folder (--out). To resume an interrupted run, repeat its command with the same --out."""
SHORT = {"-exp": "--exp", "-d": "--device", "-h": "--help"}
GROUPS = {"forget": ("kind", "size", "label", "file"), "train": ("learning_rate",)}  # arguments that are options of a group
LARGEST = 1 << 26  # bytes of a --config file
LONGEST = 2000  # characters of a message
OWN = ("out", "cache")  # of every run: not taken from the config.json of another


class Given(NamedTuple):
    """An option as it was given.

    Attributes:
        name: with its dashes.
        word: its value; None for an option without one.
        more: words that follow the value; only lists take some.
        recorded: the config.json that it stands in, which holds the whole of each list; empty elsewhere.
    """

    name: str
    word: str | None
    more: tuple[str, ...] = ()
    recorded: str = ""


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
        given = list(from_files_first(typed))  # of an option that is given twice the last one counts
        words_of = {each.name: each.word for each in given}
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
        for each in given:
            if each.name in known:
                option = known[each.name]
                config = option.apply(config, _joined(each, option.kinds), adding=not each.recorded)
            elif not each.recorded:
                similar = [f"perhaps {other}" for other in difflib.get_close_matches(each.name, known, n=1)]
                raise UsageError(each.name, each.word or "", "; ".join(["no such option", *similar, "--help shows all"]))
            elif not _fixed(config, each):
                problem = f"--exp {experiment} has no option {each.name}; the file is of another version, or of a run from Python"
                raise UsageError("--config", each.recorded, problem)
        config = _narrowed(config, typed, (each for each in given if each not in typed)).fitted(words_of)
    except UsageError as error:
        raise SystemExit(print_error(str(error), 2, program)) from None
    return config


def _narrowed(config: Run, typed: Sequence[Given], of_files: Iterable[Given]) -> Run:
    """Without the hyperparameters in a file of methods that --methods, typed beside it, leaves out."""
    methods = {name for word in getattr(config, "methods", ()) for name in (MAIN if word == "main" else [word])}
    narrower = any(each.name == "--methods" for each in typed) and "all" not in methods
    if not (isinstance(config, Hyper) and narrower):
        return config
    there = {setting for each in of_files if each.name == "--hyper" for setting in re.split(r"[,\s]+", each.word or "")}
    left_out = {setting for setting in there if setting.partition(".")[0] not in {"*", *methods}}
    return replace_field(config, ("hyper",), tuple(each for each in config.hyper if each not in left_out))


def split_options(words: list[str]) -> Iterator[Given]:
    """Yields the options on the command line.

    Raises:
        ArgumentError: a word follows no option.
    """
    name = ""
    values: list[str] = []
    for word in [*words, "--"]:
        option, equals, value = word.partition("=")
        option = SHORT.get(option, option)
        if not option.startswith("--"):
            if not name:
                raise UsageError(word, "", "no such option; --help shows all")
            values.append(word)
            continue
        if name:
            yield Given(name, values[0] if values else None, tuple(values[1:]))
        name, values = option, [value] * bool(equals)


def from_files_first(given: Iterable[Given]) -> Iterator[Given]:
    """Yields the options in the files of `--config`, then the others.

    Raises:
        ArgumentError: see `read_options`.
    """
    others = []
    for each in given:
        if each.name == "--config":
            yield from read_options(_joined(each, ()) or "")
        else:
            others.append(each)
    yield from others


def read_options(file: str) -> Iterator[Given]:
    """Yields the options in a file: `epochs` under `[train]` is `--train.epochs`.

    Args:
        file: TOML; or the config.json of a run folder, of which `--out` and `--cache` are left out.

    Raises:
        ArgumentError: the file cannot be read, or is of another form.
    """
    recorded = file.endswith(".json")
    expected = "expected the config.json of a run folder" if recorded else "expected a TOML file of options"
    try:
        text = read_regular(Path(file), LARGEST).decode("utf-8-sig")
        if recorded:
            config = json.loads(text)["config"]
            of_file = [*_flatten({name: value for name, value in config.items() if name not in OWN}, "--", file)]
        else:
            of_file = [*_flatten(tomllib.loads(text), "--")]
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError("--config", file, f"{expected} ({reason})") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError("--config", file, f"{expected}, with the options under the key config") from error
    yield from of_file


def _flatten(table: Mapping[str, Any], prefix: str, recorded: str = "") -> Iterator[Given]:
    for name, value in table.items():
        option = prefix + name.replace("_", "-")
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{option}.", recorded)
        elif value is True:
            yield Given(option, None, recorded=recorded)
        elif value is not False:
            yield Given(option, _word(value), recorded=recorded)


def _word(value: Any) -> str:
    """A value as it is typed."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _joined(given: Given, kinds: Iterable[Any]) -> str | None:
    """The value of an option, and of a list the words that follow it too."""
    if not given.more:
        return given.word
    if not any(isinstance(kind, Several) for kind in kinds):
        raise UsageError(given.more[0], "", "no such option; --help shows all")
    return ",".join([given.word or "", *given.more])


def _fixed(config: Run, given: Given) -> bool:
    """Whether a recorded value is no option of the experiment, but the constant that it has in its place."""
    try:
        value = functools.reduce(getattr, given.name.removeprefix("--").replace("-", "_").split("."), config)
    except AttributeError:
        return False
    return _word(value) == given.word


def show_list(experiments: Mapping[str, Any]) -> None:
    """Prints every method, data set, model and experiment."""
    from unlearn_jax.bench.plugins import load_installed
    from unlearn_jax.data import DATASETS
    from unlearn_jax.methods import METHODS
    from unlearn_jax.models import MODELS

    load_installed()
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
    if not isinstance(error, ArgumentError | StorageError | WorkersError):
        raise error
    return print_error(error.told(option_of(error.argument)), error.status, program)


def option_of(argument: str) -> str:
    """Returns the option that sets an argument: `train_size` is `--train-size`, the `kind` of a forget set `--forget.kind`."""
    if argument.startswith("--"):
        return argument
    for group, arguments in GROUPS.items():
        if argument in arguments:
            return f"--{group}.{argument.replace('_', '-')}"
    return f"--hyper {argument}" if "." in argument else "--" + argument.replace("_", "-")
