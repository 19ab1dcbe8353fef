"""`--device`: what JAX is told to see. No GPU is needed: `nvidia-smi` is a script of ours."""

import errno
import math
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from unittest import mock

import jax
import pytest

from unlearn_jax import device
from unlearn_jax.errors import ArgumentError

ROOT = Path(__file__).parents[1]
UUIDS = ("GPU-aaaa", "GPU-bbbb", "GPU-cccc")


@pytest.fixture
def pin(tmp_path, monkeypatch):
    """`pin(spec, gpus=, visible=, ...)` -> (jax_platforms, CUDA_VISIBLE_DEVICES, jax_num_cpu_devices) on such a machine.

    `found` are the devices that JAX then finds, `order` is CUDA_DEVICE_ORDER before; `pin.order`, `pin.told` and
    `pin.flags` are that variable, the settings of JAX and the flags of XLA while pinned.
    """

    def pin(
        spec, *, gpus=0, visible=None, cuda=True, listing=None, platforms="", found=None, order=None, capability="9.0", **how
    ):
        listing = "".join(f"GPU {i}: Make Believe (UUID: {UUIDS[i]})\n" for i in range(gpus)) if listing is None else listing
        command = tmp_path / "nvidia-smi"
        command.write_text(f"#!/bin/sh\ncat <<'END'\n{listing}END\n")
        command.chmod(0o755)
        told = {}
        monkeypatch.setattr(device, "_jax_has_cuda", lambda: cuda)
        monkeypatch.setattr(type(device.jax.config), "update", lambda self, name, value: told.update({name: value}))

        def devices():
            if isinstance(found, Exception):
                raise found
            seen = len(os.environ["CUDA_VISIBLE_DEVICES"].split(",")) if found is None else found
            gpu = mock.Mock(platform="gpu", device_kind="Make Believe", compute_capability=capability)
            return [gpu] * seen or [mock.Mock(platform="cpu")]

        monkeypatch.setattr(device.jax, "devices", devices)
        with mock.patch.dict(os.environ, PATH=f"{tmp_path}:{os.environ['PATH']}", JAX_PLATFORMS=platforms):
            for name, value in (("CUDA_VISIBLE_DEVICES", visible), ("CUDA_DEVICE_ORDER", order)):
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
            device.pin(spec, **how)
            pin.order, pin.told, pin.flags = os.environ.get("CUDA_DEVICE_ORDER"), told, os.environ.get("XLA_FLAGS", "").split()
            return told["jax_platforms"], os.environ["CUDA_VISIBLE_DEVICES"], told.get("jax_num_cpu_devices")

    return pin


@pytest.mark.parametrize(
    ("spec", "visible", "selected"),
    [
        ("gpu:2", None, "2"),
        ("CUDA:2", None, "2"),
        ("gpu:0,2", None, "0,2"),
        ("gpu", None, "0,1,2"),
        ("auto", None, "0,1,2"),
        ("gpu:1", "2,0", "0"),
        ("gpu:0", "GPU-cccc,GPU-aaaa", "GPU-cccc"),
        ("gpu", "1,7,2", "1"),
    ],
)
def test_only_the_gpus_asked_for_are_visible(pin, spec, visible, selected):
    assert pin(spec, gpus=3, visible=visible) == ("cuda,cpu", selected, None)


@pytest.mark.parametrize(
    ("spec", "machine"),
    [
        ("cpu", {"gpus": 3}),
        ("auto", {}),
        ("auto", {"gpus": 3, "cuda": False}),
        ("auto", {"gpus": 3, "visible": ""}),
        ("auto", {"gpus": 3, "visible": "-1"}),
        ("auto", {"gpus": 3, "platforms": "cpu"}),
        ("auto", {"listing": "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"}),
    ],
)
def test_the_cpu_offers_a_device_for_each_usable_core(pin, spec, machine):
    assert pin(spec, **machine) == ("cpu", "", len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("spec", "machine", "message"),
    [
        ("gpu:7", {"gpus": 2}, "device gpu:7: available here: cpu, gpu:0, gpu:1"),
        ("gpu:1", {"gpus": 3, "visible": "2"}, "device gpu:1: available here: cpu, gpu:0"),
        ("gpu", {}, "device gpu: available here: cpu"),
        (
            "gpu:0",
            {"gpus": 1, "cuda": False},
            "device gpu:0: available here: cpu (there is a GPU, but jax is installed without CUDA",
        ),
        ("gpu:", {"gpus": 1}, "device gpu:: expected auto, cpu, gpu"),
        ("gpu:-1", {"gpus": 1}, "device gpu:-1: expected auto, cpu, gpu"),
        ("tpu", {"gpus": 1}, "device tpu: expected auto, cpu, gpu"),
        ("", {}, "device: expected auto, cpu, gpu"),
    ],
)
def test_a_device_that_is_not_there_gets_a_list_of_those_that_are(pin, spec, machine, message):
    with pytest.raises(ArgumentError) as error:
        pin(spec, **machine)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("spec", "found", "message"),
    [
        ("gpu:2", 0, "device gpu:2: JAX can use 0 of 1; see whether nvidia-smi works"),
        ("gpu:0,2", 1, "device gpu:0,2: JAX can use 1 of 2; see"),
        ("gpu", 0, "device gpu: JAX can use 0 of 1; see"),
        ("auto", 0, "device auto: JAX can use 0 of 1; see"),
        ("gpu:1", RuntimeError("no CUDA-capable device\nmore"), "device gpu:1: JAX can use 0 of 1 (no CUDA-capable device); see"),
    ],
)
def test_a_gpu_that_jax_cannot_use_is_an_error_and_never_the_cpu(pin, spec, found, message):
    with pytest.raises(ArgumentError) as error:
        pin(spec, gpus=3, found=found)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("machine", "order"),
    [
        ({}, "PCI_BUS_ID"),  # as nvidia-smi counts
        ({"order": "FASTEST_FIRST"}, "FASTEST_FIRST"),
        ({"visible": "2,0"}, None),  # these numbers mean CUDA's own order
        ({"visible": "2,0", "order": "PCI_BUS_ID"}, "PCI_BUS_ID"),
    ],
)
def test_the_users_numbers_of_gpus_keep_their_order(pin, machine, order):
    pin("gpu:1", gpus=3, **machine)
    assert pin.order == order


@pytest.mark.parametrize(
    ("precision", "setting"), [("default", None), ("highest", "highest"), ("tf32", "TF32_TF32_F32"), ("bf16", "BF16_BF16_F32")]
)
def test_precision_and_determinism_are_set_for_gpus(pin, precision, setting):
    pin("gpu", gpus=1, precision=precision)
    assert pin.told.get("jax_default_matmul_precision") == setting
    assert device.DETERMINISTIC not in pin.flags
    pin("gpu", gpus=1, precision=precision, deterministic=True)
    assert device.DETERMINISTIC in pin.flags


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"precision": "tf32"}, "precision tf32: is for GPUs"),
        ({"precision": "highest"}, "precision highest: is for GPUs"),
        ({"deterministic": True}, "deterministic True: is for GPUs"),
        ({"gpus": 1, "capability": "7.5", "precision": "bf16"}, "precision bf16: needs an Ampere or later GPU"),
    ],
)
def test_what_a_device_cannot_do_or_does_in_any_case_is_refused(pin, how, message):
    with pytest.raises(ArgumentError) as error:
        pin("auto", **how)
    assert str(error.value).startswith(message)


def test_precision_and_determinism_are_part_of_every_identity(monkeypatch):
    before = device.numerics()
    with jax.default_matmul_precision(device.PRECISIONS["bf16"]):
        assert device.numerics() != before
    monkeypatch.setenv("XLA_FLAGS", device.DETERMINISTIC)
    assert device.numerics() != before


def test_jax_obeys():
    """In a process of its own, since a selection holds for the life of a process."""
    program = "from unlearn_jax import device; device.pin('cpu'); print(device.describe())"
    described = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    cores = len(os.sched_getaffinity(0))
    assert described.startswith(f"cpu ({cores} device{'s' * (cores > 1)}, ")


SAID = """
import os
os.environ.update(JAX_ENABLE_X64="1", JAX_DEFAULT_PRNG_IMPL="rbg", JAX_THREEFRY_PARTITIONABLE="0", JAX_RANDOM_SEED_OFFSET="3")
os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "bfloat16"
import jax, jax.numpy as jnp
from unlearn_jax import device
device.pin("cpu")
assert all(device.numerics()[name] == value for name, value in device.PINNED.items()), device.numerics()
assert device.numerics()["jax_default_matmul_precision"] == "bfloat16"
print(jnp.ones(1).dtype, jax.random.key_data(jax.random.key(5)))
"""


def test_what_the_results_rest_on_is_pinned_and_the_user_told():
    done = subprocess.run([sys.executable, "-c", SAID], capture_output=True, text=True, check=True)
    assert done.stdout == "float32 [0 5]\n"
    told = [line.split("=")[0] for line in done.stderr.splitlines()]
    assert told == ["JAX_ENABLE_X64", "JAX_DEFAULT_PRNG_IMPL", "JAX_THREEFRY_PARTITIONABLE", "JAX_RANDOM_SEED_OFFSET"]
    assert "JAX_ENABLE_X64=True is ignored: this program always runs with False" in done.stderr


def test_flags_of_xla_count_where_they_may_change_a_result(monkeypatch):
    monkeypatch.setenv(
        "XLA_FLAGS", "--xla_dump_to=/tmp/x --xla_cpu_enable_fast_math=true --xla_force_host_platform_device_count=4"
    )
    assert device.numerics()["xla_flags"] == ["--xla_cpu_enable_fast_math=true"]


def test_a_cache_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError, match=r"cache .*file: cannot be created"):
        device.keep_compiled(tmp_path / "file" / "xla")


@pytest.mark.parametrize("there", [True, False])
def test_compiled_programs_that_cannot_be_written_are_read_if_there_are_any(tmp_path, monkeypatch, there):
    """The disk is as one that is mounted to be read: whoever runs the tests may be allowed to write anywhere."""

    def read_only(*args, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile if there else Path, "TemporaryFile" if there else "mkdir", read_only)
    changed: dict[str, object] = {}
    monkeypatch.setattr(jax.config, "update", changed.__setitem__)
    if there:
        (tmp_path / "xla").mkdir()
    with warnings.catch_warnings():
        device.keep_compiled(tmp_path / "xla")
    if there:
        assert changed["jax_compilation_cache_dir"] == str(tmp_path / "xla")
        assert changed["jax_persistent_cache_min_compile_time_secs"] == math.inf  # so JAX writes nothing
    assert there or not changed


def test_compiled_programs_are_found_in_a_cache_that_was_moved_and_cannot_be_written(tmp_path):
    """In processes of their own, since JAX opens its cache once."""
    program = (
        "import errno, os, sys, tempfile\nfrom pathlib import Path\nimport jax\nfrom jax import monitoring\n"
        "from unlearn_jax import device\n"
        "def read_only(**_): raise OSError(errno.EROFS, 'read-only')\n"
        "if sys.argv[2] == 'read': tempfile.TemporaryFile = read_only\n"
        "device.pin('cpu'); device.keep_compiled(Path(sys.argv[1]) / 'xla')\n"
        "if sys.argv[2] == 'write': jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)\n"  # however fast it is
        "hits = []\nmonitoring.register_event_listener(lambda event, **_: 'cache_hits' in event and hits.append(event))\n"
        "jax.jit(lambda x: jax.numpy.sort(x @ x.T).sum())(jax.numpy.ones((9, 9)))\nprint(len(hits))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "JAX_DISABLE_MOST_OPTIMIZATIONS"}

    def hits(folder, how):
        command = [sys.executable, "-c", program, str(folder), how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT).stdout)

    assert hits(tmp_path / "here", "write") == 0
    (tmp_path / "here").rename(tmp_path / "there")
    before = sorted((tmp_path / "there").rglob("*"))
    assert hits(tmp_path / "there", "read") > 0
    assert sorted((tmp_path / "there").rglob("*")) == before


def test_a_setting_that_this_jax_does_not_have_is_at_its_default(monkeypatch):
    """As newer versions, which drop some: what was kept with another version is still found."""
    monkeypatch.setitem(device.CHOSEN, "jax_setting_of_another_version", 7)
    assert device.numerics()["jax_setting_of_another_version"] == 7
