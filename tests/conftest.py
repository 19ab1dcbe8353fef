"""The tests run on the CPU, with shapes and ranks checked, and leave nothing in the user's cache.

It looks like two devices. Files with `DEVICES = 2` use both, others the first: programs for two take longer to compile.
"""

import functools
import gc
import os
import signal
import sys
import tempfile
import threading
import time

import pytest

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a job in the background, whose children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers and other child processes inherit it
    _cache = tempfile.TemporaryDirectory(prefix="unlearn_jax_tests_", ignore_cleanup_errors=True)
    os.environ["XDG_CACHE_HOME"] = _cache.name
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # and this: most programs here are compiled once and run once

import jax

if jax.__version_info__ < (0, 11):  # each takes a third off the compiler's time; later versions abort at the first
    quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}"

import jaxtyping
from first_calls import begin_test, check_first_calls
from jax._src.interpreters import mlir

os.fsync = lambda file: None  # nothing that is written here has to outlive a power cut: a run waits for thirty files
gc.set_threshold(20_000, 20, 20)  # tracing makes many objects that live for long: at the usual 700 they take a tenth of the time
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_traceback_in_locations_limit", 0)  # nobody reads where in the code a program's operations come from
jax.config.update("jax_compilation_cache_dir", os.path.join(os.environ["XDG_CACHE_HOME"], "unlearn_jax", "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # 3 ms to read the smallest, which takes 12 to compile


def pytest_addoption(parser):
    """`--every-pair` is for a change of the adapters: three minutes of processor time; `--programs` for whoever tests often."""
    parser.addoption("--every-pair", action="store_true", help="run every method on every adapted network, not one of each")
    parser.addoption(
        "--programs", metavar="FOLDER", help="keep compiled programs here: the next run with it compiles what is new"
    )


def pytest_configure(config):
    """Programs of an earlier run are found by what they compute, so that a changed one is compiled."""
    if folder := config.getoption("--programs"):
        jax.config.update("jax_compilation_cache_dir", os.path.abspath(folder))


ROOMS = ("data", "influence", "methods", "metrics", "models", "report", "training")
ROOMS = (*ROOMS, "checkpoints", "convert", "runs", "recorded", "partial", "as_json", "sealed", "files", "device", "types")
PLACED = ("unlearn_jax.training.", "unlearn_jax.influence.", "unlearn_jax.bench.lines")  # what they keep is of some devices
jaxtyping.jaxtyped = check_first_calls
jaxtyping.install_import_hook([f"unlearn_jax.{room}" for room in ROOMS], "beartype.beartype")  # the bench takes what people type


def pytest_runtest_setup():
    """In every test the first calls of each function are checked."""
    begin_test()


def pytest_collection_modifyitems(items):
    """The laws of one method follow each other: its programs are compiled once, used by all its laws, and let go."""
    places = [place for place, item in enumerate(items) if item.path.name == "test_laws.py" and hasattr(item, "callspec")]
    methods = list(dict.fromkeys(items[place].callspec.params["name"] for place in places))
    laws = sorted((items[place] for place in places), key=lambda item: methods.index(item.callspec.params["name"]))
    for place, law in zip(places, laws, strict=True):
        items[place] = law


@pytest.fixture(scope="module", autouse=True)
def devices(request):
    """The devices that a file's pools are spread over. Programs for those of the file before are forgotten."""
    some = jax.devices()[: getattr(request.module, "DEVICES", 1)]
    for module in [module for name, module in sys.modules.items() if name.startswith(PLACED)]:
        for value in vars(module).values():
            if isinstance(value, functools._lru_cache_wrapper):
                value.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: some)
        yield


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_are_let_go():
    """What a file compiled is of no use to the next, and a suite's worth of it takes gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module", autouse=True)
def one_compiler_context():
    """JAX makes an MLIR context for each program, which takes as long as lowering most of those here: one is made for each file.

    The first program of a context loads dialects into it, which threads that compile must not do at once: it is one that no
    cache holds. Threads that lower make their own.
    """
    make, main = mlir.make_ir_context, threading.main_thread()
    context = make()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlir, "make_ir_context", lambda: context if threading.current_thread() is main else make())
        now = time.time_ns()
        jax.jit(lambda: jax.numpy.uint32(now % 2**32)).lower().compile()
        yield


@pytest.fixture
def undrawn():
    """For tests that call the library, make figures by the way, and do not look at them."""
    from in_process import empty_pictures

    with empty_pictures():
        yield
