"""Runs as files: `configs/*.toml`, and what `--config` makes of others."""

import dataclasses
import os
from pathlib import Path

import pytest

from experiments.registry import EXPERIMENTS
from unlearn_jax import as_json, runs
from unlearn_jax.bench import command_line
from unlearn_jax.bench.main_options import Config
from unlearn_jax.bench.option_groups import Forget
from unlearn_jax.errors import ArgumentError

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


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("small", [False, True], ids=["whole", "smoke"])
def test_what_a_run_records_repeats_it(tmp_path, experiment, small):
    module = EXPERIMENTS[experiment].options
    config = module.Config(exp=experiment, out=tmp_path / "out", cache=tmp_path / "cache", seed=7)
    config = module.smoke(config) if small else config
    folder = runs.open_run(tmp_path / "run", config.recorded())
    again = parsed("--config", folder.folder / "config.json")
    assert type(again) is type(config) and (again.out, again.cache) == (None, None)
    recorded = as_json.plain(config.recorded())
    assert as_json.plain(again.recorded()) == {**recorded, "out": None, "cache": None}
    changed = parsed("--config", folder.folder / "config.json", "--seed", 8, "--out", "mine")
    assert (changed.seed, str(changed.out)) == (8, "mine")


def test_words_change_and_extend_what_was_recorded(tmp_path):
    config = dataclasses.replace(
        Config(), hyper=("scrub.epochs=2", "*.rounds=3"), methods=("scrub", "ssd"), plugin=None, members="auto", chunk=3,
        train=dataclasses.replace(Config().train, epochs=4, learning_rate=1e-3), forget=Forget(kind="class", label=3),
    )  # fmt: skip
    file = runs.open_run(tmp_path / "run", {**config.recorded(), "smoke": True}).folder / "config.json"
    again = parsed("--config", file)
    assert again == dataclasses.replace(config, smoke=True)  # of what --smoke would change, all is recorded
    again = parsed("--hyper", "scrub.alpha=1", "--config", file, "--train.epochs", 5, "--methods", "scrub")
    assert again.hyper == ("scrub.epochs=2", "*.rounds=3", "scrub.alpha=1")
    assert (again.train.epochs, again.train.learning_rate, again.methods) == (5, 1e-3, ("scrub",))


def test_hyperparameters_that_a_study_brings_may_be_of_methods_that_do_not_run():
    config = parsed("--exp", "streaming", "--methods", "delete", "--hyper", "delete.epochs=2")
    assert any(setting.startswith("mu_mis.") for setting in config.hyper)
    config.check()


def test_fewer_methods_than_in_the_file_take_its_hyperparameters_along_that_are_theirs(tmp_path):
    template = ROOT / "configs/template.toml"
    for file in (template, runs.open_run(tmp_path / "run", parsed("--config", template).recorded()).folder / "config.json"):
        assert parsed("--config", file).hyper == ("scrub.epochs=5", "ssd.dampening=0.5")
        fewer = parsed("--config", file, "--methods", "finetune", "scrub")
        assert fewer.hyper == ("scrub.epochs=5",)
        fewer.check()
        assert (
            len(parsed("--methods", "main", "--config", file).hyper)
            == len(parsed("--config", file, "--methods", "all").hyper)
            == 2
        )
        with pytest.raises(ArgumentError, match=r"hyper ssd.selection: ssd is not among the methods \(scrub\)"):
            parsed("--config", file, "--methods", "scrub", "--hyper", "ssd.selection=2").check()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "--config {}: expected the config.json of a run folder ("),
        ("[1]", "--config {}: expected the config.json of a run folder, with the options under the key config"),
        ('{"config": 3}', "--config {}: expected the config.json of a run folder, with the options under the key config"),
        ('{"train": {}}', "--config {}: expected the config.json of a run folder, with the options under the key config"),
        ("[" * 100_000, "--config {}: expected the config.json of a run folder ("),
        (None, "--config {}: expected the config.json of a run folder (No such file or directory)"),
        (
            '{"config": {"train": {"epoch": 3}}}',
            "--config {}: --exp unlearning has no option --train.epoch; the file is of another version, or of a run from Python",
        ),
        ('{"config": {"seed": -1}}', "--seed -1: expected"),
        ('{"config": {"exp": "none"}}', "--exp none: expected one of unlearning"),
        ('{"config": {"exp": "entropy", "hyper": []}}', "--config {}: --exp entropy has no option --hyper"),
        (
            '{"config": {"exp": "tuning", "forget": {"file": "rows.txt"}}}',
            "--config {}: --exp tuning has no option --forget.file",
        ),
    ],
)
def test_a_config_json_that_cannot_be_meant_is_one_line(tmp_path, capsys, text, said):
    file = tmp_path / "config.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SystemExit) as stop:
        parsed("--config", file)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and line.startswith("benchmark.py: " + said.format(file))


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
