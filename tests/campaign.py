"""A fault campaign: kills, signals, damaged files, full disks and concurrent runs, each against an undisturbed run.

    python tests/campaign.py --minutes 120
    python tests/campaign.py --minutes 5 --kinds flip,truncate --seed 1

Every round disturbs one run of the main job in its smallest form, repeats its command once, undisturbed, and compares
results.csv, without times and costs, with that of a run that nothing disturbed. Printed are, for each kind of fault: rounds;
how many runs were hit before their end; died (the repetition failed); different (it gave other results); tracebacks; mute (a
disturbed run ended with another status than promised, or not with one line); late (a signal was obeyed after more than two
seconds); hung.

Exit status 1 unless died, different, tracebacks, mute, late and hung are all 0.

`limit` caps the size of every file (RLIMIT_FSIZE). `disk` fills a small tmpfs, and is skipped where none can be mounted.
"""

import argparse
import collections
import contextlib
import csv
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SMALLEST = (
    "--exp unlearning --smoke --device cpu --methods original,finetune --members 2 --chunk 2 --train-size 60 --width 4 "
    "--train.epochs 1 --evaluation.splits 4 --evaluation.retain-size 20"
)
CLOCKS = {"seconds", "compile_seconds", "rte"}  # metrics that no two runs share
BAD = ("died", "different", "tracebacks", "mute", "late", "hung")
LIMIT = 600  # seconds, after which a run hangs
OBEYED = {signal.SIGTERM: 143, signal.SIGINT: 130}
SOON = 2.0  # seconds from a signal to the end

Counts = collections.Counter[str]
Rows = list[dict[str, str]]


class Place:
    """The run folder and the cache of one round, with programs that the undisturbed run compiled."""

    def __init__(self, folder: Path, warm: Path, wanted: Rows):
        self.out, self.cache, self.wanted = folder / "out", folder / "cache", wanted
        self.cache.mkdir(parents=True)
        shutil.copytree(warm / "xla", self.cache / "xla")

    def start(self, out: Path | None = None, **options) -> subprocess.Popen:
        """Begins the run, or takes it up again."""
        words = [sys.executable, "benchmark.py", *SMALLEST.split(), "--out", str(out or self.out), "--cache", str(self.cache)]
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(words, cwd=ROOT, start_new_session=True, **streams, **options)

    def damage(self, chance: random.Random) -> Path:
        """One of the files that a run reads again; and results.csv is gone, so that it has to.

        Compiled programs are JAX's own business. A damaged config.json is refused: only a person can say what the folder holds.
        """
        found = [path for path in self.cache.rglob("*") if path.is_file() and not path.is_relative_to(self.cache / "xla")]
        found += self.out.rglob("*.npz")
        (self.out / "results.csv").unlink()
        return chance.choice(sorted(path for path in found if path.stat().st_size))


def finish(process: subprocess.Popen, counts: Counts) -> str:
    """Waits for a run and returns what it said on stderr; one that hangs is killed and counted."""
    try:
        said = process.communicate(timeout=LIMIT)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said = process.communicate()[1]
        counts["hung"] += 1
    except BaseException:  # the campaign itself is stopped: it leaves nothing running
        os.killpg(process.pid, signal.SIGKILL)
        raise
    counts["tracebacks"] += "Traceback" in said
    return said


def results(out: Path) -> Rows:
    """All of results.csv that the seed decides."""
    with (out / "results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] not in CLOCKS]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def compare(process: subprocess.Popen, out: Path, wanted: Rows, counts: Counts) -> None:
    """Waits for a run that nothing disturbs any more, and holds it against the one that nothing ever disturbed."""
    said = finish(process, counts)
    if process.returncode:
        counts["died"] += 1
        print(said[-2000:], file=sys.stderr)
    elif results(out) != wanted:
        counts["different"] += 1


def promised(said: str, status: int | None, expected: int) -> bool:
    """Whether a run ended as docs/reliability.md promises: with this status and a last line of the program's own."""
    return status == expected and said.rstrip().splitlines()[-1:] != [] and "benchmark.py: " in said.rstrip().splitlines()[-1]


# Kinds of faults: each disturbs a run in a place, and leaves it to be taken up again.


def kill(place: Place, chance: random.Random, length: float, counts: Counts) -> None:
    """SIGKILL at a random moment."""
    process = place.start()
    time.sleep(chance.uniform(0, length))
    counts["hit"] += process.poll() is None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    finish(process, counts)


def stop(place: Place, chance: random.Random, length: float, counts: Counts) -> None:
    """SIGINT or SIGTERM at a random moment from the first line of benchmark.py on."""
    process, number = place.start(), chance.choice(list(OBEYED))
    while process.poll() is None and not catches(process.pid):
        time.sleep(0.001)
    time.sleep(chance.uniform(0, length))
    begun = time.monotonic()
    process.send_signal(number)
    said = finish(process, counts)
    if process.returncode in (0, -number):  # it had ended, or was closing down
        return
    counts["hit"] += 1
    counts["late"] += time.monotonic() - begun > SOON
    counts["mute"] += not promised(said, process.returncode, OBEYED[number])


def catches(process: int) -> bool:
    """Whether a process has handlers of its own for both signals."""
    with contextlib.suppress(OSError, IndexError):
        caught = int(Path(f"/proc/{process}/status").read_text().partition("SigCgt:")[2].split()[0], 16)
        return all(caught >> (number - 1) & 1 for number in OBEYED)
    return False


def flip(place: Place, chance: random.Random, length: float, counts: Counts) -> None:
    """One bit of one file of a finished run, or of its pools, is another."""
    finish(place.start(), counts)
    path = place.damage(chance)
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    counts["hit"] += 1


def truncate(place: Place, chance: random.Random, length: float, counts: Counts) -> None:
    """One file of a finished run, or of its pools, is cut, empty, gone, or a folder."""
    finish(place.start(), counts)
    path = place.damage(chance)
    how = chance.choice(["cut", "empty", "gone", "folder"])
    if how in ("cut", "empty"):
        os.truncate(path, chance.randrange(path.stat().st_size) if how == "cut" else 0)
    else:
        path.unlink()
        if how == "folder":
            path.mkdir()
    counts["hit"] += 1


def full(place: Place, chance: random.Random, length: float, counts: Counts) -> None:
    """No file may be larger than a random size: for the run the disk is full."""
    most = int(10 ** chance.uniform(1, 5.5))
    process = place.start()
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))  # it still imports; no fork of ours, which has threads
    said = finish(process, counts)
    if process.returncode:
        counts["hit"] += 1
        counts["mute"] += not (promised(said, process.returncode, 1) and ("--out" in said or "--cache" in said))


def tiny(place: Place, chance: random.Random, length: float, counts: Counts) -> None:
    """The run folder or the cache is on a disk of random size that fills up; then there is room."""
    where = chance.choice([place.out, place.cache])
    where.mkdir(exist_ok=True)
    kept = sum(path.stat().st_size for path in where.rglob("*"))
    size = kept + int(10 ** chance.uniform(3.6, 6))
    shutil.copytree(where, where.with_name("copy"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(where)], check=True)
    try:
        with contextlib.suppress(shutil.Error):  # it may be full at once
            shutil.copytree(where.with_name("copy"), where, dirs_exist_ok=True)
        process = place.start()
        said = finish(process, counts)
        if process.returncode:
            counts["hit"] += 1
            counts["mute"] += not (promised(said, process.returncode, 1) and ("--out" in said or "--cache" in said))
        shutil.rmtree(where.with_name("copy"))
        shutil.copytree(where, where.with_name("copy"))
    finally:
        subprocess.run(["umount", str(where)], check=True)
    shutil.copytree(where.with_name("copy"), where, dirs_exist_ok=True)


def concurrent(place: Place, chance: random.Random, length: float, counts: Counts) -> None:
    """Four runs that train the same pools at once in one cache. The one that takes the place up afterwards is a fifth."""
    outs = [place.out.with_name(f"out-{number}") for number in range(4)]
    processes = [place.start(out) for out in outs]
    counts["hit"] += 1
    for process, out in zip(processes, outs, strict=True):
        compare(process, out, place.wanted, counts)


KINDS: dict[str, Callable[[Place, random.Random, float, Counts], None]] = {
    "kill": kill,
    "signal": stop,
    "flip": flip,
    "truncate": truncate,
    "limit": full,
    "disk": tiny,
    "concurrent": concurrent,
}


def mountable() -> bool:
    """Whether a tmpfs can be mounted here."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
        return not done.returncode and not subprocess.run(["umount", folder]).returncode


def rounds(kinds: list[str], minutes: float, most: int | None) -> Iterator[str]:
    """The kinds in turn, until the time is over or each had its number of rounds."""
    end = time.monotonic() + 60 * minutes
    number = 0
    while time.monotonic() < end and (most is None or number < most * len(kinds)):
        yield kinds[number % len(kinds)]
        number += 1


def campaign(kinds: list[str], minutes: float, seed: int, most: int | None = None) -> dict[str, Counts]:
    """Runs the campaign.

    Args:
        kinds: keys of `KINDS`.
        minutes: after which no other round begins.
        seed: of the faults.
        most: rounds of each kind; by default as many as there is time for.

    Returns:
        What was counted, for each kind.
    """
    counted = {kind: collections.Counter() for kind in kinds}
    chance = random.Random(seed)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background: the runs would ignore it too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="campaign_") as made:
        folder = Path(made)
        (folder / "xla").mkdir()
        for name in ("cold", "warm"):  # the second tells how long a run takes that finds all programs compiled
            place, begun = Place(folder / name, folder, []), time.monotonic()
            first = place.start()
            said = first.communicate()[1]
            if first.returncode:
                raise RuntimeError(f"the undisturbed run failed: {said}")
            length = time.monotonic() - begun
            shutil.copytree(place.cache / "xla", folder / "xla", dirs_exist_ok=True)
        wanted = results(place.out)
        for number, kind in enumerate(rounds(kinds, minutes, most)):
            counts, place = counted[kind], Place(folder / str(number), folder, wanted)
            counts["rounds"] += 1
            KINDS[kind](place, chance, length, counts)
            compare(place.start(), place.out, wanted, counts)
            shutil.rmtree(folder / str(number))
            print(f"round {number + 1}, {kind}: {dict(counts)}", file=sys.stderr)
    return counted


def table(counted: dict[str, Counts]) -> str:
    """The counts in Markdown."""
    columns = ("rounds", "hit", *BAD)
    lines = [f"| {kind} | {' | '.join(str(counts[name]) for name in columns)} |" for kind, counts in counted.items()]
    return "\n".join([f"| fault | {' | '.join(columns)} |", f"| :-- |{' --: |' * len(columns)}", *lines])


def main() -> int:
    """Runs the campaign that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--kinds", default=",".join(KINDS), help="names separated by commas")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(OBEYED[signal.SIGTERM]))  # and so unmount, and remove what is there
    kinds = given.kinds.split(",")
    if "disk" in kinds and not mountable():
        kinds.remove("disk")
    counted = campaign(kinds, given.minutes, given.seed)
    print(table(counted))
    return any(counts[name] for counts in counted.values() for name in BAD)


if __name__ == "__main__":
    sys.exit(main())
