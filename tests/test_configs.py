"""Runs as files: `configs/*.toml`, and what `--config` makes of others."""

import os
from pathlib import Path

import pytest

from experiments.registry import EXPERIMENTS
from unlearn_jax.bench import command_line
from unlearn_jax.bench.main_options import Config

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").glob("*.toml"))


def parsed(*words):
    return command_line.parse([str(word) for word in words], EXPERIMENTS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_is_a_run_that_can_be_done_and_says_what_it_costs_and_finds(file):
    parsed("--config", file).check()
    comment = file.read_text().partition("exp =")[0]
    assert f"--config configs/{file.name}" in comment or file.stem == "template"
    assert "Costs" in comment or file.stem == "template"


def test_the_file_of_the_main_job_is_the_main_job():
    assert parsed("--config", ROOT / "configs/digits.toml") == Config()


def test_words_count_more_than_the_file_and_lists_and_switches_are_read(tmp_path):
    file = tmp_path / "mine.toml"
    lines = ["smoke = true", 'methods = ["scrub", "ssd"]', 'hyper = ["scrub.epochs=2"]', "[train]", "epochs = 3"]
    file.write_text("\n".join(lines))
    config = parsed("--config", file, "--train.epochs", "4", "--hyper", "scrub.alpha=0.1")
    assert (config.smoke, config.train.epochs, config.methods) == (True, 4, ("scrub", "ssd"))
    assert config.hyper[-2:] == ("scrub.epochs=2", "scrub.alpha=0.1")
    assert parsed(f"--config={file}").train.epochs == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs = [", "--config {}: expected a TOML file of options"),
        ("\xff", "--config {}: expected a TOML file of options"),
        ("[train]\nepoch = 3", "--train.epoch 3: no such option; perhaps --train.epochs"),
        ("[train]\nepochs = 'x'", "--train.epochs x: expected an integer"),
        ("exp = 'nothing'", "--exp nothing: expected one of unlearning"),
        (None, "--config {}: expected a TOML file of options (No such file or directory)"),
        ("fifo", "--config {}: expected a TOML file of options"),
    ],
)
def test_what_cannot_be_meant_is_one_line(tmp_path, capsys, text, said):
    file = tmp_path / "mine.toml"
    if text == "fifo":
        os.mkfifo(file)
    elif text is not None:
        file.write_bytes(text.encode("latin-1"))
    with pytest.raises(SystemExit) as stop:
        parsed("--config", file)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and line.startswith("benchmark.py: " + said.format(file))
