"""What a person types, and what comes back: above all one line for each mistake."""

import dataclasses
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import benchmark
from experiments.registry import EXPERIMENTS
from unlearn_jax import runs
from unlearn_jax.bench import command_line
from unlearn_jax.bench.kinds import PLAIN, options
from unlearn_jax.bench.main_options import Config, smoke
from unlearn_jax.bench.option_groups import Train
from unlearn_jax.errors import ArgumentError, StorageError

ROOT = Path(benchmark.__file__).parent


def run(*words: str, **environment: str) -> subprocess.CompletedProcess:
    """`python benchmark.py words`, in a process of its own."""
    return subprocess.run(
        [sys.executable, "benchmark.py", *words], cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment}
    )


@pytest.fixture
def complaint(capsys, monkeypatch, tmp_path):
    """`complaint(*words)` -> the one line on stderr with which `benchmark.py` refuses them. Devices stay as they are."""
    monkeypatch.chdir(tmp_path)
    for name in ("pin", "keep_compiled"):
        monkeypatch.setattr(f"unlearn_jax.device.{name}", lambda *_: None)

    def complaint(*words: str) -> str:
        status: object
        try:
            status = benchmark.main(list(words))
        except SystemExit as stop:
            status = stop.code
        line, *rest = capsys.readouterr().err.splitlines()
        assert (status, rest) == (2, [])
        assert line.startswith("benchmark.py: ")
        return line.removeprefix("benchmark.py: ")

    return complaint


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--exp influenza", "--exp influenza: expected one of unlearning"),
        ("--exp", "--exp: expected one of unlearning"),
        ("--train.epochs x", "--train.epochs x: expected an integer"),
        ("--train.epochs 1.5", "--train.epochs 1.5: expected an integer"),
        ("--train.epochs -1", "--train.epochs -1: expected an integer of at least 1"),
        ("--train.batch-size 0", "--train.batch-size 0: expected"),
        ("--train.learning-rate fast", "--train.learning-rate fast: expected a number"),
        ("--train.learning-rate nan", "--train.learning-rate nan: expected a number above 0"),
        ("--train.learning-rate 0", "--train.learning-rate 0.0: expected a number above 0"),
        ("--train.schedule linear", "--train.schedule linear: expected one of cosine, constant"),
        ("--train.momentum 1", "--train.momentum 1.0: expected"),
        ("--epochs 3", "--epochs 3: no such option; perhaps --train.epochs; --help shows all"),
        ("--datset digits", "--datset digits: no such option; perhaps --dataset; --help shows all"),
        ("digits", "digits: no such option; --help shows all"),
        ("--dataset", "--dataset: expected a value"),
        ("--out --seed 1", "--out: expected a path"),
        ("--smoke yes", "--smoke yes: takes no value"),
        ("--exp unlearning digits", "digits: no such option; --help shows all"),
        ("--seed 1 2", "2: no such option; --help shows all"),
        ("--config configs/digits.toml configs/template.toml", "configs/template.toml: no such option; --help shows all"),
        ("--exp compare", "--runs: expected 2 to 26 run folders"),
        ("--exp compare --runs a", "--runs a: expected 2 to 26 run folders"),
        ("--exp compare --runs a b a/", "--runs a,b,a: the same folder twice"),
        ("--exp compare --runs a b", "--runs a: holds no config.json; expected the folder of a finished run"),
        ("--exp entropy --methods scrub", "--methods scrub: no such option"),
        ("--exp capacity --widths 2,x", "--widths 2,x: expected an integer of at least 1, at most 1,000,000, or several"),
        ("--exp entropy --circumstances random,nope", "--circumstances random,nope: expected one of random, mislabelled"),
        ("--chunk many", "--chunk many: expected an integer"),
        ("--chunk 0", "--chunk 0: expected an integer of at least 1"),
        ("--members 1", "--members 1: expected an integer of at least 2, at most 1,000,000 or auto"),
        ("--members some", "--members some: expected an integer of at least 2, at most 1,000,000 or auto"),
        ("--members auto --auto.difference 0", "--auto.difference 0.0: expected a number above 0"),
        ("--unlearning-seeds 0", "--unlearning-seeds 0: expected an integer of at least 1"),
        ("--forget-sets 0", "--forget-sets 0: expected"),
        ("--seed -1", "--seed -1: expected"),
        ("--train-size 0", "--train-size 0: expected"),
        ("--label-noise 1", "--label-noise 1.0: expected a number of at least 0, below 1"),
        ("--width 0", "--width 0: expected"),
        ("--forget.size 0", "--forget.size 0.0: "),
        ("--forget.size nan", "--forget.size nan: "),
        ("--forget.size 2000000", "--forget.size 2000000.0: "),
        ("--forget.kind file", "--forget.kind file: needs --forget.file"),
        ("--forget.kind memorised --forget.size nan", "--forget.size nan: "),
        ("--forget.kind mislabelled --label-noise 0", "--forget.kind mislabelled: no label is wrong"),
        ("--forget.kind exposed --forget.models 3", "--forget.models 3: expected an integer of at least 4"),
        ("--forget.kind exposed --forget.models 5", "--forget.models 5: expected an even number"),
        ("--forget.models 8", "--forget.models 8: needs --forget.kind memorised, unmemorised or exposed"),
        ("--forget.kind class --forget.size 50", "--forget.size 50.0: --forget.kind class takes no size"),
        ("--hyper *.leraning_rate=1", "--hyper *.leraning_rate: no method has"),
        ("--exp sensitivity --methods original,retrain", "--methods original,retrain: hyperparameters that can be varied"),
        ("--exp tuning --methods original", "--methods original: nothing to search; expected some of "),
        ("--exp tuning --forget.kind mislabelled", "--forget.kind mislabelled: tuning needs further sets of this kind"),
        ("--forget.label 3", "--forget.label 3: needs --forget.kind class or class_part"),
        ("--auto.difference 2", "--members 24: the --auto options need --members auto"),
        ("--exp ulira --unlearning-seeds 2", "--unlearning-seeds 2: no such option"),
        ("--exp calibration --methods scrub", "--methods scrub: no such option"),
        ("--exp tuning --unlearning-seeds 2", "--unlearning-seeds 2: no such option"),
        ("--exp tuning --transfer digits", "--transfer digits: nothing was tuned there"),
        ("--exp tuning --members 8", "--keep 4: expected at least 3 originals in the first judgement"),
        ("--exp sensitivity --fine nope", "--fine nope: there is original"),
        ("--exp sensitivity --grid 1", "--grid 1: expected"),
        ("--forget.file rows.txt", "--forget.file rows.txt: needs --forget.kind file"),
        ("--data-dir .", "--data-dir .: digits comes with"),
        ("--dataset fashion_mnist --data-dir .", "--data-dir .: the four IDX files"),
        ("--evaluation.splits 1", "--evaluation.splits 1: expected"),
        ("--hyper scrub", "--hyper scrub: expected METHOD.NAME=VALUE"),
        ("--hyper scrub.epochs=1,.x=2", "--hyper .x=2: expected METHOD.NAME=VALUE"),
        ("--methods scrub,scrap", "--methods scrap: expected main, all, or names among "),
        ("--model mlp --methods msg", "--methods msg: needs convolutions, which --model mlp does not have"),
        ("--methods ,", "--methods: expected main, all, or names among "),
        ("--dataset mnits", "--dataset mnits: "),
        ("--members 1000000000", "--members 1000000000: expected an integer of at least 2, at most 1,000,000"),
        (f"--train.epochs {10**20}", f"--train.epochs {10**20}: expected an integer of at least 1, at most 1,000,000"),
        (f"--width {10**20}", f"--width {10**20}: expected an integer of at least 1, at most 1,000,000"),
        ("--width 500000", "--width 500000: 832,603 GiB of memory are needed to train one resnet8; this machine has "),
        ("--model mlp --width 9000 --members 1000000", "--members 1000000: "),
        (
            "--train.epochs 1000000000 --exp capacity",
            "--train.epochs 1000000000: expected an integer of at least 1, at most 1,000,000",
        ),
        (
            "--exp capacity --depths 8,800000000000",
            "--depths 8,800000000000: expected an integer of at least 8, at most 1,000,000, or several",
        ),
        ("--exp capacity_boundary --depths 8,101", "--depths 8,101: expected an integer of at least 1, at most 100, or several"),
        ("--model resnet800000", "--model resnet800000: expected one of mlp, resnet{6n+2} up to resnet1202, "),
        (f"--model resnet{'9' * 5000}", "--model resnet999"),
        ("--forget-sets 1000000000", "--forget-sets 1000000000: expected"),
        ("--unlearning-seeds 1001", "--unlearning-seeds 1001: expected an integer of at least 1, at most 1,000"),
        ("--evaluation.splits 100001", "--evaluation.splits 100001: expected an integer of at least 2, at most 100,000"),
        (f"--seed {10**400}", "--seed 1000"),
        ("--exp influence --train-size 20001", "--train-size 20001: expected an integer of at least 4, at most 20,000"),
        ("--exp influence --width 4097", "--width 4097: expected an integer of at least 1, at most 4,096"),
        ("--exp influence --resolution 1025", "--resolution 1025: expected an integer of at least 8, at most 1,024"),
        ("--exp estimators --train-size 20001", "--train-size 20001: expected"),
        ("--exp estimators --subsets 20004", "--subsets 20004: expected an integer of at least 16, at most 20,000"),
        ("--hyper scrub.epochs=[1,2]", "--hyper 2]: expected METHOD.NAME=VALUE"),
        ("--hyper scrub.epochs=[1]", "--hyper scrub.epochs [1]: a whole number, 0 to 1,000,000"),
        ("--hyper scrub.epochs={}", "--hyper scrub.epochs {}: a whole number, 0 to 1,000,000"),
        ("--hyper scrub.epochs=1000001", "--hyper scrub.epochs 1000001: a whole number, 0 to 1,000,000"),
        (f"--hyper scrub.epochs={'-' * 3000}1", "--hyper scrub.epochs ------"),
        (f"--hyper scrub.epochs={'(' * 3000}", "--hyper scrub.epochs (((((("),
        (f"--hyper scrub.learning_rate={10**400}", "--hyper scrub.learning_rate 1000"),
        ("--hyper unsir.noise_share=2", "--hyper unsir.noise_share 2: a number from 0 to 1"),
        ("--hyper msg.share=0.5", "--hyper msg.share: msg is not among the methods (original, retrain, finetune, "),
        ("--hyper *.epochs=3,ssd.dampening=1 --methods scrub", "--hyper ssd.dampening: ssd is not among the methods (scrub)"),
        ("--exp unlearn_one --hyper scrub.alpha=1 --methods ssd", "--hyper scrub.alpha: scrub is not among the methods (ssd)"),
        ("--exp gaming --hyper scrub.alpha=1", "--hyper scrub.alpha: scrub is not among the methods (gradient_ascent)"),
        ("--exp sensitivity --methods scrub --fine ssd", "--fine ssd: is not among the methods (scrub)"),
        (f"--chunk {'9' * 5000}", "--chunk 99999"),
        (f"--out {'x' * 300}", f"--out {'x' * 300}: cannot be written (File name too long)"),
        ("--model vgg", "--model vgg: expected one of "),
        ("--model resnet9", "--model resnet9: expected one of "),
    ],
    ids=lambda text: text[:60],
)
def test_a_mistake_gets_one_line_with_the_option_the_value_and_what_is_accepted(complaint, words, expected):
    assert complaint(*words.split()).startswith(expected)


@pytest.mark.parametrize(
    ("experiment", "words"),
    [
        ("adversarial", "--auto.metric --forget-sets --unlearning-seeds --forget.kind --forget.models --evaluation.splits"),
        ("attack_features", "--unlearning-seeds --auto.metric"),
        ("calibration", "--methods --hyper --auto.most --forget-sets --unlearning-seeds"),
        ("capacity", "--unlearning-seeds --auto.split --forget.label --forget.file"),
        ("capacity_fitted", "--unlearning-seeds --auto.split --forget.label --forget.file --evaluation.splits"),
        ("entropy", "--methods --hyper --auto.metric --unlearning-seeds --forget.kind --forget.size --evaluation.splits"),
        ("estimators", "--dataset --model --train.schedule --data-dir --convolution"),
        ("fitted_toy", "--model --normalisation --convolution --forget.label --forget.file --evaluation.splits"),
        ("gaming", "--methods --auto.metric --forget-sets --unlearning-seeds"),
        ("hypernetwork", "--auto.metric --forget.kind --forget.label --forget.file --forget.models"),
        ("streaming", "--auto.metric --forget-sets --unlearning-seeds --forget.kind --forget.size"),
        ("tuning", "--hyper --auto.metric --unlearning-seeds --forget.file --evaluation.splits"),
        ("ulira", "--auto.metric --forget-sets --unlearning-seeds --evaluation.retain-size"),
        ("unlearn_one", "--model --normalisation --convolution --data-dir --reorderings"),
        ("variance", "--auto.metric --unlearning-seeds"),
        ("variance_interventions", "--unlearning-seeds --auto.split --forget.label --forget.file --evaluation.splits"),
    ],
)
def test_a_study_has_no_option_that_it_does_not_use(complaint, experiment, words):
    for word in words.split():
        assert complaint("--exp", experiment, word, "2").startswith(f"{word} 2: no such option")


def test_a_number_of_thousands_of_digits_is_refused_with_its_range(complaint):
    digits = "1" * 5000
    line = complaint("--width", digits)
    assert line.startswith("--width 111") and line.endswith("1: expected an integer of at least 1, at most 1,000,000")


def test_a_mistake_costs_nothing(complaint, tmp_path):
    """The folder that a refused command names is not touched."""
    out = tmp_path / "kept"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    complaint("--train.epochs", "-1", "--out", str(out))
    assert complaint("--out", str(out)).startswith(f"--out {out}: ")
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    complaint("--dataset", "mnits", "--out", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_an_extension_that_cannot_be_done_leaves_the_run_as_it_was(complaint, tmp_path):
    out = tmp_path / "finished"
    words = ["--forget.kind", "class", "--methods", "original"]
    config = command_line.parse(words, EXPERIMENTS)
    runs.open_run(out, config.recorded())
    before = (out / "config.json").read_bytes()
    assert complaint(*words, "--forget-sets", "11", "--out", str(out)).startswith("--forget")
    assert (out / "config.json").read_bytes() == before


def test_a_run_folder_that_is_a_file_or_cannot_be_written_is_refused(complaint, tmp_path):
    (tmp_path / "file").touch()
    assert complaint("--out", "file").startswith("--out file: is a file")
    assert complaint("--out", "/proc/nowhere").startswith("--out /proc/nowhere: ")


def test_a_mistake_removes_only_what_the_run_made_and_never_blocks_the_corrected_command(complaint, tmp_path, monkeypatch):
    empty, link = tmp_path / "empty", tmp_path / "link"
    empty.mkdir()
    link.symlink_to(empty)
    wrong = ("--smoke", "--hyper", "*.leraning_rate=1", "--profile")  # seen when the folder has been opened
    for out in ("empty", "link", "new", "cached"):
        assert complaint(*wrong, "--out", out, "--cache", f"{out}/cache").startswith("--hyper *.leraning_rate: no method has")
        assert not any(path.is_file() for path in tmp_path.rglob("*"))
        runs.open_run(out, command_line.parse(["--smoke"], EXPERIMENTS).recorded(), cache=Path(out, "cache")).withdraw()
        assert empty.is_dir() and link.is_symlink()
    assert complaint(*wrong).startswith("--hyper")
    assert not (tmp_path / "runs").exists()
    monkeypatch.chdir(empty)
    assert complaint(*wrong, "--out", ".").startswith("--hyper")
    assert not list(empty.iterdir())


def test_two_runs_of_the_same_second_have_folders_of_their_own(complaint, tmp_path, monkeypatch):
    """Both have begun when the first one ends."""
    opened = []

    def twice(config, folder):
        opened.append(folder.folder)
        if len(opened) == 1:
            assert benchmark.main(["--smoke"]) == 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "now")
    monkeypatch.setattr("unlearn_jax.bench.evaluate.run", twice)
    assert benchmark.main(["--smoke"]) == 0
    assert opened == [Path("runs/unlearning-now"), Path("runs/unlearning-now-2")]


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate"), RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nat")])
def test_memory_that_runs_out_is_one_line(capsys, monkeypatch, error):
    def exhaust(config, experiments):
        raise error

    monkeypatch.setattr("unlearn_jax.bench.main.run", exhaust)
    assert benchmark.main([]) == 1
    said = f"benchmark.py: out of memory ({str(error).splitlines()[0]}); try smaller sizes"
    assert capsys.readouterr().err.startswith(said)


def test_a_folder_that_can_no_longer_be_written_is_one_line_and_status_1(capsys, monkeypatch):
    def full(config, experiments):
        raise StorageError("--out", "here", OSError(28, "No space left on device"))

    monkeypatch.setattr("unlearn_jax.bench.main.run", full)
    assert benchmark.main([]) == 1
    remedy = "fix this and run the same command to resume"
    assert capsys.readouterr().err == f"benchmark.py: --out here: cannot be written (No space left on device); {remedy}\n"


def test_the_library_has_a_command_of_its_own(tmp_path):
    """As installed: outside a checkout, with the experiments that the library brings."""
    where = {**os.environ, "PYTHONPATH": str(ROOT)}
    calls = {words: [sys.executable, "-m", "unlearn_jax", *words] for words in (("--help",), ("--list",), ("--exp", "entropy"))}
    shown, listed, wrong = (
        subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, env=where) for call in calls.values()
    )
    assert shown.returncode == 0 and "usage: unlearn-jax" in shown.stdout and "benchmark.py" not in shown.stdout
    assert listed.returncode == 0 and "scrub" in listed.stdout and "score" in listed.stdout
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "unlearn-jax: --exp entropy: expected one of unlearning, tuning, export, score, ulira, compare\n",
    )


def test_python_may_leave_out_docstrings_and_assertions():
    done = subprocess.run([sys.executable, "-OO", "benchmark.py", "--list"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\n  scrub " in done.stdout


def test_a_narrow_terminal_does_not_split_a_message(complaint, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert complaint("--chunk", "x") == "--chunk x: expected an integer of at least 1, at most 1,000,000"


def test_a_device_that_is_not_there_is_refused():
    done = run("-d", "cuda:99", "-exp", "unlearning")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("benchmark.py: --device cuda:99: available here: cpu")


def test_help_teaches_and_answers_at_once():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    program = "import sys, benchmark\ntry: benchmark.main(['--help'])\nfinally: print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert done.stdout.endswith("False\n")
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1  # processor time: 0.4 s measured
    assert done.stdout.count("python benchmark.py") >= 4
    for option in ("--device", "--out", "--smoke", "--methods", "--members", "--train.epochs", "--forget.size", "--hyper"):
        assert option in done.stdout


def test_list_shows_every_method_data_set_model_and_experiment(capsys):
    from unlearn_jax.data import DATASETS
    from unlearn_jax.methods import METHODS
    from unlearn_jax.models import MODELS

    assert benchmark.main(["--list"]) == 0
    shown = capsys.readouterr().out
    for name in (*METHODS, *DATASETS, *MODELS, *EXPERIMENTS):
        assert f"\n  {name} " in shown
    for entry in METHODS.values():
        assert entry.access in shown
        assert entry.reference in shown


@pytest.mark.parametrize("words", ["-d gpu:2 -exp unlearning", "--device gpu:2 --exp unlearning", "-d=gpu:2 -exp=unlearning"])
def test_short_and_long_forms_say_the_same(words):
    assert command_line.parse(words.split(), EXPERIMENTS) == Config(device="gpu:2")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_help_shows_every_option_with_its_range_and_no_other(capsys, monkeypatch, experiment):
    monkeypatch.setenv("COLUMNS", "90")  # in one column
    with pytest.raises(SystemExit):
        command_line.parse(["--exp", experiment, "--help"], EXPERIMENTS)
    shown = capsys.readouterr().out.rpartition("--out)")[2]
    asked = list(options(EXPERIMENTS[experiment].options.Config))
    assert sorted(re.findall(r"^\W{1,3}(--[a-z][\w.-]*)", shown, flags=re.MULTILINE)) == sorted(option.name for option in asked)
    words = re.sub(r"[\s│|]", "", shown)
    for option in asked:
        for kind in set(option.kinds) - set(PLAIN.values()):
            metavar = re.escape(kind.metavar.replace(" ", ""))
            assert re.search(rf"{option.name}(?=[A-Z{{]).{{0,20}}?{metavar}", words), option


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_option_takes_its_default_as_a_word(experiment):
    config = EXPERIMENTS[experiment].options.Config(exp=experiment)
    for option in options(type(config)):
        value = option.of(config)
        written = [kind.write(value) for kind in option.kinds if kind.holds(value)]
        assert written or value is False
        if written and option.name != "--hyper":  # which adds to its default
            assert option.apply(config, written[0]) == config


def test_a_value_from_python_is_checked_as_a_word_is():
    for wrong in (0, 2.0, "8", True, None, 10**7):
        with pytest.raises(ArgumentError, match=r"--width .*: expected an integer of at least 1, at most 1,000,000"):
            Config(width=wrong).check()
    with pytest.raises(ArgumentError, match=r"--methods scrub: expected a name, or several separated by commas"):
        Config(methods="scrub").check()
    with pytest.raises(ArgumentError, match=r"--profile 1: expected True or False"):
        Config(profile=1).check()
    with pytest.raises(ArgumentError, match=r"--train.learning-rate nan: expected a number above 0"):
        Config(train=Train(learning_rate=float("nan"))).check()


def test_a_list_takes_several_words_and_paths_may_hold_spaces():
    config = command_line.parse(["--methods", "scrub", "ssd", "--members", "4"], EXPERIMENTS)
    assert (config.methods, config.members) == (("scrub", "ssd"), 4)
    runs = command_line.parse(["--exp", "compare", "--runs", "my runs/a,b", "c"], EXPERIMENTS).runs
    assert runs == (Path("my runs/a"), Path("b"), Path("c"))


def test_lists_are_typed():
    words = ["--exp", "capacity", "--widths", "4,8", "--label-noises", "0,0.5", "--depths"]
    config = command_line.parse([*words, "", "--methods", "scrub ssd"], EXPERIMENTS)
    assert (config.widths, config.label_noises, config.depths, config.methods) == ((4, 8), (0.0, 0.5), (), ("scrub", "ssd"))


def test_nested_options_are_typed():
    words = (
        "--train.epochs 3 --forget.size 50 --members 8 --hyper scrub.epochs=5,a.b=x --hyper scrub.learning_rate=1e-3 --chunk 2"
    )
    config = command_line.parse(words.split(), EXPERIMENTS)
    assert isinstance(config, Config)
    assert (config.train, config.forget.size, config.chunk) == (Train(epochs=3), 50, 2)
    assert config.hyperparameters() == {"scrub": {"epochs": 5, "learning_rate": 1e-3}, "a": {"b": "x"}}


def test_smoke_is_small_and_what_is_given_beside_it_counts():
    assert command_line.parse(["--smoke"], EXPERIMENTS) == smoke(Config())
    assert command_line.parse(["--train.epochs", "7", "--smoke"], EXPERIMENTS) == dataclasses.replace(
        smoke(Config()), train=dataclasses.replace(smoke(Config()).train, epochs=7)
    )


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_defaults_of_every_experiment_are_valid(experiment):
    module = EXPERIMENTS[experiment].options
    module.Config(exp=experiment).check()
    module.smoke(module.Config(exp=experiment)).check()


def test_a_usage_error_is_printed_as_it_is(complaint, monkeypatch):
    def refuse(config, experiments):
        raise ArgumentError("--out", "x", "is a file")

    monkeypatch.setattr("unlearn_jax.bench.main.run", refuse)
    assert complaint() == "--out x: is a file"


@pytest.mark.parametrize("file", sorted((ROOT / "unlearn_jax/bench/tuned").glob("*.json")), ids=lambda file: file.stem)
def test_what_tuning_found_is_what_the_methods_take(file):
    from unlearn_jax.methods import hyperparameters

    for name, values in json.loads(file.read_text())["hyperparameters"].items():
        assert hyperparameters(name, values).items() >= values.items()
