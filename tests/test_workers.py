"""Work by other processes: the same bits as without, whoever dies, joins late or shares no disk; and one line for what fails."""

import os
import re
import resource
import signal
import time
from pathlib import Path
from types import ModuleType

import dask
import jax
import numpy as np
import pytest
from distributed import Client, LocalCluster
from in_process import run_in_process

import unlearn_jax as uj
from unlearn_jax import cluster, kept, pickling
from unlearn_jax.bench.setting import forgetting, setting_of
from unlearn_jax.data import load
from unlearn_jax.errors import ArgumentError, WorkersError
from unlearn_jax.methods import METHODS
from unlearn_jax.methods.apply import Spread, Unlearner
from unlearn_jax.metrics.registry import COST, METRICS
from unlearn_jax.models import build
from unlearn_jax.training.pools import member_keys, train_pool
from unlearn_jax.types import Recipe

MEMBERS = 4


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def workers():
    """One worker, until a test lets another one join."""
    with cluster.embedded(1) as found:
        yield found


@pytest.fixture(scope="module")
def setting():
    data = load("digits", train_size=200, label_noise=0.1, seed=0, data_dir=None, cache=None)
    return setting_of(data, build("mlp", classes=10, width=8), {"model": "mlp"}, Recipe(epochs=1))


def train(setting, cache, name, workers=None, report=lambda progress: None, members=MEMBERS):
    """The pool of this name."""
    mask = np.arange(200) >= 20
    identity = {**setting.identity, "name": name}
    given = {"role": "oracle", "seed": 0, "identity": identity, "cache": cache}
    return train_pool(setting.problem, mask, members=members, workers=workers, report=report, **given)


@pytest.fixture(scope="module")
def alone(setting, cache):
    return train(setting, cache, "alone")


def require_same(pool, other):
    jax.tree.map(np.testing.assert_array_equal, (pool.variables, pool.curves), (other.variables, other.curves))


def chunks_of(pool, cache):
    return sorted(path.stem for path in (cache / "pools" / pool.name).glob("*.npz"))


def test_one_worker_makes_the_same_bits_and_a_run_without_finds_them(workers, setting, cache, alone):
    heard = []
    pool = train(setting, cache, "one", workers, heard.append)
    require_same(pool, alone)
    assert pool.compile_seconds > 0 and pool.made_with == alone.made_with
    assert {progress.role for progress in heard} == {"oracle"} and all(0 < progress.share <= 1 for progress in heard)
    require_same(train(setting, cache, "one", report=pytest.fail), alone)


def test_a_plugin_that_is_no_longer_imported_stops_no_job(monkeypatch):
    monkeypatch.setattr(pickling, "FROM_FILES", [ModuleType("gone")])
    content, large = pickling.pickled({"a": np.arange(3)})
    assert content and not large


def test_a_worker_that_joins_late_takes_part(workers, setting, cache, alone):
    def meet(piece, here):
        """Waits until two processes do pieces."""
        met, deadline = here.cache / "met", time.monotonic() + 60
        met.mkdir(exist_ok=True)
        (met / str(os.getpid())).touch()
        while len(list(met.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        return os.getpid()

    results = workers.run(meet, range(6), cache, lambda *_: None, "meet")
    workers.client.cluster.scale(2)
    assert len({process for _, process in results}) == 2
    assert workers.count == 2


def test_a_worker_keeps_memory_that_it_freed(workers, cache):
    def pages(piece, here):
        """Pages that the kernel gave for fifty arrays of 1 MiB, each freed before the next, after ten others."""
        for _ in range(10):
            np.ones(2**17)
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        for _ in range(50):
            np.ones(2**17)
        return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

    ((_, taken),) = workers.run(pages, [0], cache, lambda *_: None, "pages")
    assert taken < 2_000  # given back to the kernel at once, they would be 256 each


def test_two_workers_make_the_same_bits(workers, setting, cache, alone):
    pool = train(setting, cache, "two", workers)
    require_same(pool, alone)
    assert len(chunks_of(pool, cache)) > 1


def test_a_killed_worker_costs_nothing_but_time(workers, setting, cache, alone):
    processes = [*workers.client.run(os.getpid).values()]

    def kill(progress):
        if processes:
            os.kill(processes.pop(), signal.SIGKILL)

    require_same(train(setting, cache, "killed", workers, kill), alone)
    assert len(processes) < 2


def test_a_killed_worker_may_take_long_to_come_back():
    with dask.config.set({cluster.LOST: "1ms"}), cluster.embedded(1) as found:
        (process,) = found.client.run(os.getpid).values()
        os.kill(process, signal.SIGKILL)
        while found.client.nthreads():  # until it was missed
            time.sleep(0.01)
        found.client.wait_for_workers(1, timeout=60)
        assert [*found.client.run(os.getpid).values()] != [process]


def test_a_method_by_workers_makes_the_same_bits(workers, setting, cache, alone):
    problem = forgetting(setting, np.arange(200) < 20)
    what = "gradient_ascent", {**METHODS["gradient_ascent"].defaults, "epochs": 1}, problem, alone.variables
    keys, shares = member_keys(0, "a method", MEMBERS), []
    here = Unlearner(*what).apply(keys)
    spread = Spread(*what, workers=workers, cache=cache, tasks=3)
    spread.begin(keys)
    there = spread.apply(keys, shares.append)
    jax.tree.map(np.testing.assert_array_equal, here.variables, there.variables)
    assert here.examples == there.examples and there.seconds > 0 and there.compile_seconds > 0
    assert shares == sorted(shares) and len(shares) == 2 and shares[-1] == 1  # two pieces of two


@pytest.mark.usefixtures("undrawn")
def test_evaluate_with_a_client_gives_the_same_rows_and_predicts_large_pools_there(workers, setting, tmp_path, monkeypatch):
    labels, run = [], cluster.Cluster.run
    monkeypatch.setattr(cluster.Cluster, "run", lambda *what: labels.append(what[-1]) or run(*what))
    given = {"members": 4, "splits": 4, "retain_size": 40, "recipe": Recipe(epochs=1), "hyper": {"*": {"epochs": 1}}}
    given |= {"methods": ["original", "gradient_ascent"], "forget": setting.data.published.train[:20], "cache": tmp_path}

    def evaluated(**more):
        rows = uj.evaluate(setting.problem.model, setting.data, **given, **more).rows
        return [row._replace(seconds=None) for row in rows if METRICS[row.metric].kind != COST]

    with monkeypatch.context() as patch:
        patch.setattr(kept, "MOST", 0)
        there = evaluated(client=workers.client)
    assert sorted(labels) == ["gradient_ascent", "oracle-models", "original-models", "predictions", "predictions"]
    assert evaluated() == there  # of the same pools
    assert len(labels) == 5


def test_where_no_disk_is_shared_results_travel(workers, setting, cache, alone, monkeypatch):
    place = cluster._Place
    monkeypatch.setattr(cluster, "_Place", lambda *facts: place(*facts)._replace(token="of another disk"))
    require_same(train(setting, cache, "apart", workers), alone)


def test_what_is_there_is_not_trained_again(workers, setting, cache, alone):
    pool = train(setting, cache, "one", workers, pytest.fail)
    folder = cache / "pools" / pool.name
    lost = sorted(folder.glob("*.npz"))[1]
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
    lost.write_bytes(b"damaged")
    require_same(train(setting, cache, "one", workers), alone)
    assert [path for path in before if path.stat().st_mtime_ns != before[path]] == [lost]


def test_large_arrays_travel_once_and_apart():
    large = np.arange(pickling.LARGE, dtype=np.float32)
    content, arrays = pickling.pickled({"a": large, "b": [large.copy()], "c": np.arange(3)})
    assert len(content) < 1000 and len(arrays) == 1
    back = pickling.unpickled(content, arrays)
    np.testing.assert_array_equal(back["b"][0], large)


def test_an_error_of_a_worker_is_that_of_the_run(workers, cache):
    def fail(piece, here):
        raise ArgumentError("fit", piece, "gives no model")

    with pytest.raises(ArgumentError, match=r"fit 1: gives no model"):
        list(workers.run(fail, [1], cache, lambda *_: None, "fail"))


def listening():
    """The addresses on which processes of this user listen, by inode of their socket."""
    lines = [line.split() for file in ("tcp", "tcp6") for line in Path(f"/proc/net/{file}").read_text().splitlines()[1:]]
    return {f"socket:[{line[9]}]": line[1].split(":")[0] for line in lines if line[3] == "0A"}


def test_an_embedded_cluster_is_reached_from_this_machine_alone_and_by_its_certificate(workers):
    processes = [os.getpid(), *workers.client.run(os.getpid).values()]
    links = [os.readlink(file) for process in processes for file in Path(f"/proc/{process}/fd").iterdir() if file.is_symlink()]
    ours = {address for socket, address in listening().items() if socket in links}
    assert ours == {"0100007F"}  # 127.0.0.1
    address = workers.client.cluster.scheduler_address
    assert address.startswith("tls://127.0.0.1:")
    with pytest.raises(ArgumentError, match=f"scheduler {address}: cannot be reached"), cluster.connected(address):
        pass


def test_a_cluster_is_reached_by_tls(workers, cache):
    security, tls = workers.client.cluster.security, "distributed.comm.tls"
    files = {f"{tls}.ca-file": security.tls_ca_file}
    files |= {f"{tls}.client.{part}": getattr(security, f"tls_client_{part}") for part in ("key", "cert")}
    with dask.config.set(files), cluster.connected(workers.client.cluster.scheduler_address) as found:
        assert dict(found.run(lambda piece, here: piece + 1, [1], cache, lambda *_: None, "tls")) == {0: 2}


def test_a_scheduler_that_goes_away_is_one_line(cache):
    async def leave():
        for stream in threads.scheduler.client_comms.values():
            stream.abort()

    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=None) as threads,
        Client(threads.scheduler_address, timeout=1) as client,
        cluster.of_client(client) as found,
        pytest.raises(WorkersError, match=r"client inproc.*: the connection to the scheduler was lost; run the same command"),
    ):
        for _ in found.run(lambda piece, here: time.sleep(0.1), range(100), cache, lambda *_: None, "lost"):
            threads.sync(leave)


def test_a_client_that_was_closed_meanwhile_is_one_line(cache):
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=None) as threads,
        Client(threads.scheduler_address) as client,
        cluster.of_client(client) as found,
    ):
        client.close()
        for use in (
            lambda: found.run(lambda piece, here: piece, range(2), cache, lambda *_: None, "closed"),
            lambda: found.count,
            lambda: found.share(cache),
        ):
            with pytest.raises(WorkersError, match=r"client inproc.*: the connection to the scheduler was lost"):
                use()


def test_a_worker_that_runs_out_of_memory_is_one_line(cache, capsys):
    def eat(piece, here):
        eaten = np.ones(100 << 20)  # 800 MiB
        time.sleep(20)
        return eaten.sum()

    probes = [*cache.glob(".*.probe")]  # of the other cluster
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=1, threads_per_worker=1, memory_limit="700MB", dashboard_address=None, silence_logs=50) as small,
        Client(small) as client,
        cluster.of_client(client) as found,
        pytest.raises(WorkersError, match=r"1 workers died of the same task .*out of memory"),
    ):
        list(found.run(eat, [1], cache, lambda *_: None, "eat"))
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"worker tcp://127.0.0.1:\d+ is restarted: it took \d.\d GiB of memory", line)
    assert [*cache.glob(".*.probe")] == probes


@pytest.mark.parametrize(
    ("cores", "count", "shares"),
    [
        ([0, 1], 1, [[0, 1]]),
        ([0, 1], 2, [[0], [1]]),
        ([4, 5, 6, 7, 8], 2, [[4, 5], [6, 7, 8]]),
        ([4, 5], 3, [[4], [5], [4]]),
    ],
)
def test_workers_share_the_cores(cores, count, shares):
    assert [cluster.share_of(cores, count, number) for number in range(count)] == shares
    assert cluster.share_of(cores, count, count) == shares[0]  # one that joined later


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--workers", "0"], "--workers 0: expected an integer of at least 1"),
        (["--workers", "x"], "--workers x: expected an integer of at least 1"),
        (["--workers", "2", "--scheduler", "tcp://a:1"], "--workers 2: is for this machine"),
        (["--scheduler", "nonsense"], "--scheduler nonsense: cannot be reached (missing port"),
        (["--scheduler", "tcp://127.0.0.1:9"], "--scheduler tcp://127.0.0.1:9: cannot be reached (Timed out"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_made(words, line, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "TIMEOUT", 0.5)
    done = run_in_process("--smoke", "--out", tmp_path / "out", *words)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"benchmark.py: {line}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--workers=2", "--scheduler=tcp://a:1"])
def test_without_dask_a_line_says_what_to_install(option, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = run_in_process("--smoke", "--out", tmp_path / "out", option)
    name, value = option.split("=")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"benchmark.py: {name} {value}: needs Dask: pip install")


def test_a_client_is_one_of_dask():
    with pytest.raises(ArgumentError, match=r"client str: expected a distributed.Client"):
        cluster.of_client("tcp://127.0.0.1:8786")
