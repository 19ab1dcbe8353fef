"""Selects the devices that JAX uses, from words such as `gpu:2`, before JAX touches any device.

Other GPUs are hidden from the process (`CUDA_VISIBLE_DEVICES`), so that it takes no memory on them. Listing the GPUs must not
initialise CUDA either, so they are counted by `nvidia-smi` or in the files of the driver.
"""

import logging
import math
import os
import pkgutil
import platform
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jaxlib

from unlearn_jax.errors import ArgumentError

ACCEPTED = "expected auto, cpu, gpu, gpu:2 or gpu:0,1 (cuda is the same as gpu)"
DRIVER = Path("/proc/driver/nvidia/gpus")
DEVICE_FILES = Path("/dev")

PINNED = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",  # rbg draws other numbers under vmap than one by one
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_high_dynamic_range_gumbel": False,
    "jax_numpy_dtype_promotion": "standard",
}
"""Settings of JAX on which all results depend: `pin` sets them and overrides the environment."""
CHOSEN = {
    "jax_default_matmul_precision": None,
    "jax_disable_most_optimizations": False,
    "jax_optimization_level": "UNKNOWN",
    "jax_exec_time_optimization_effort": 0.0,
}
"""Settings of JAX that change rounding, and that the user may choose; with the value where this version of JAX has none."""
PRECISIONS = {"default": None, "highest": "highest", "tf32": "TF32_TF32_F32", "bf16": "BF16_BF16_F32"}
"""What float32 matrix products are computed in on a GPU, as `--precision` names it, and as JAX does."""
AMPERE = 8.0  # the compute capability from which GPUs multiply in TF32 and bfloat16
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
NOT_NUMERIC = ("--xla_dump", "--xla_hlo_profile", "--xla_force_host_platform_device_count", "--xla_gpu_cuda_data_dir")
"""Prefixes of XLA flags that change no result."""


def pin(spec: str, precision: str = "default", deterministic: bool = False) -> None:
    """Lets JAX see only the selected devices, and sets `PINNED`. Call it once, before JAX makes its first array.

    On a CPU every usable core becomes a JAX device, so that batched training can shard its members over the cores. If the
    environment sets a pinned setting differently, a line on standard error says that it is ignored. GPUs are initialised, so that
    a run that asked for one never goes on without.

    Args:
        spec: `auto` (every GPU of the machine, the CPU if there is none), `cpu`, `gpu` (all), `gpu:2` or `gpu:0,1`; `cuda` for
            `gpu`. The numbers count the GPUs that the process may see: those in `CUDA_VISIBLE_DEVICES`, in its order; without
            it all, in the order of `CUDA_DEVICE_ORDER`; without that as `nvidia-smi` counts them.
        precision: of `PRECISIONS`; of matrix products that are not `training.precision.precise`.
        deterministic: whether XLA takes only operations that repeat themselves to the last bit, and measures no others.

    Raises:
        ArgumentError: the specification is malformed, names a device that does not exist, or one that JAX cannot use; or the
            device cannot, or in any case does, compute so precisely or deterministically.
    """
    match = re.fullmatch(r"auto|cpu|(?:gpu|cuda)(?::(\d+(?:,\d+)*))?", spec.strip().lower())
    if not match:
        raise ArgumentError("device", spec, ACCEPTED)
    for name, value in PINNED.items():
        if _setting(name) != value:
            print(f"{name.upper()}={_setting(name)} is ignored: this program always runs with {value}", file=sys.stderr)
            jax.config.update(name, value)
    kind, gpus = match[0], usable_gpus()
    if kind == "cpu" or (kind == "auto" and (not gpus or os.environ.get("JAX_PLATFORMS", "").lower() == "cpu")):
        _select("cpu", [])
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
        for name, value in (("precision", precision), ("deterministic", deterministic)):
            if value not in ("default", False):
                raise ArgumentError(name, value, "is for GPUs; a CPU computes in float32, and deterministically, in any case")
        return
    chosen = [int(index) for index in dict.fromkeys(match[1].split(","))] if match[1] else range(len(gpus))
    if not gpus or any(index >= len(gpus) for index in chosen):
        raise ArgumentError("device", spec, _available(gpus))
    _select("cuda,cpu", [gpus[index] for index in chosen])
    if deterministic:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()
    if precision != "default":
        jax.config.update("jax_default_matmul_precision", PRECISIONS[precision])
    found = _required(spec, len(chosen) if match[1] else 1)
    older = [gpu.device_kind for gpu in found if float(gpu.compute_capability) < AMPERE]
    if older and precision in ("tf32", "bf16"):
        raise ArgumentError("precision", precision, f"needs an Ampere or later GPU, which {older[0]} is not; expected default")


def describe() -> str:
    """Describes the devices in use: `NVIDIA H100 80GB HBM3 (1 device)`, `cpu (2 devices, AMD EPYC)`."""
    devices = jax.devices()
    count = f"{len(devices)} device{'s' * (len(devices) > 1)}"
    return f"cpu ({count}, {_processor()})" if devices[0].platform == "cpu" else f"{devices[0].device_kind} ({count})"


def numerics() -> dict[str, Any]:
    """Returns every setting of JAX and XLA that changes what a program computes: part of the identity of all kept files.

    The device, the backend and versions are no part of it: they change only rounding (see `made_with`).

    Returns:
        The current values of `PINNED` and `CHOSEN` (inside a context manager such as `jax.enable_x64`, those that it sets), and
        as `xla_flags` the flags in the environment that may change results.
    """
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(NOT_NUMERIC)]
    return {**{name: _setting(name) for name in (*PINNED, *CHOSEN)}, "xla_flags": flags}


def adopt(settings: Mapping[str, Any]) -> None:
    """Sets JAX as it is in another process, so that both compute the same.

    Args:
        settings: what `numerics` returned there.

    Raises:
        ValueError: the flags of XLA differ, which cannot be changed any more.
    """
    here = numerics()
    if here["xla_flags"] != settings["xla_flags"]:
        raise ValueError(f"XLA_FLAGS are {here['xla_flags']} here and {settings['xla_flags']} there")
    for name in (*PINNED, *CHOSEN):
        if here[name] != settings[name]:
            jax.config.update(name, settings[name])


def made_with() -> str:
    """Returns the versions and the backend, which are recorded with everything that is kept: `jax 0.10.0, jaxlib 0.10.0, cpu`."""
    return f"jax {jax.__version__}, jaxlib {jaxlib.__version__}, {jax.default_backend()}"


def keep_compiled(folder: Path) -> None:
    """Lets JAX keep compiled programs in a folder, so that later runs need not compile them again.

    A read-only cache is fine: its programs are read, and no new ones are kept. Programs that JAX cannot read, such as one that
    another run is writing, are compiled again.

    Args:
        folder: in the cache.

    Raises:
        ArgumentError: the cache does not exist and cannot be created.
    """
    least = 0.02  # seconds of compilation from which a program is kept
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        if not folder.parent.is_dir():
            problem = f"cannot be created ({error.strerror}); expected a folder that exists or can be created"
            raise ArgumentError("cache", folder.parent, problem) from error
        if not folder.is_dir():
            return
        least = math.inf
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
    # XLA's own caches would be written even to a read-only cache, and their path is part of a program's key: no cache could move.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry", UserWarning)


def compile_quickly() -> None:
    """Makes the compiler optimise less, for smoke runs, which take longer to compile than to run."""
    jax.config.update("jax_disable_most_optimizations", True)


def usable_gpus() -> list[str]:
    """Returns the GPUs that JAX can use, named as in `CUDA_VISIBLE_DEVICES`; none if jax is installed without CUDA."""
    return _visible_gpus() if _jax_has_cuda() else []


def _visible_gpus() -> list[str]:
    """The GPUs of the machine, or those in an inherited `CUDA_VISIBLE_DEVICES`."""
    inherited, count = os.environ.get("CUDA_VISIBLE_DEVICES"), _count_gpus()
    if inherited is None:
        return [str(index) for index in range(count)]
    visible = []
    for name in inherited.split(",") if count else []:
        name = name.strip()
        if not name.startswith(("GPU-", "MIG-")) and not (name.isdigit() and int(name) < count):
            break  # CUDA itself ignores everything from the first unknown entry on
        visible.append(name)
    return visible


def _count_gpus() -> int:
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
        return len(re.findall(r"^GPU \d+:", listing, re.MULTILINE))
    except (OSError, subprocess.SubprocessError):
        return len(list(DEVICE_FILES.glob("nvidia[0-9]*"))) or len(list(DRIVER.glob("*")))


def _jax_has_cuda() -> bool:
    return any(re.fullmatch(r"jax_cuda\d+_plugin", module.name) for module in pkgutil.iter_modules())


def _select(platforms: str, gpus: list[str]) -> None:
    if "CUDA_VISIBLE_DEVICES" not in os.environ:  # whose numbers mean CUDA's own order, the fastest first, if none is set
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # count GPUs as nvidia-smi does
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    os.environ["JAX_PLATFORMS"] = platforms  # for child processes
    jax.config.update("jax_platforms", platforms)


def _required(spec: str, gpus: int) -> list[Any]:
    """The GPUs that JAX found; raises ArgumentError if they are fewer than were selected: it would go on with the CPU."""
    reasons: list[str] = []  # JAX only logs them, with a traceback each

    def heard(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            reasons.append(str(record.exc_info[1]) if record.exc_info else record.getMessage())
        return record.levelno < logging.ERROR

    log = logging.getLogger("jax._src.xla_bridge")
    log.addFilter(heard)
    found: list[Any] = []
    try:
        found = [device for device in jax.devices() if device.platform != "cpu"]
    except RuntimeError as error:
        reasons.append(str(error))
    finally:
        log.removeFilter(heard)
    if len(found) < gpus:
        reason = f" ({reasons[-1].strip().splitlines()[0]})" if reasons else ""
        expected = f"JAX can use {len(found)} of {gpus}{reason}; see whether nvidia-smi works and the driver fits, or use cpu"
        raise ArgumentError("device", spec, expected)
    return found


def _available(gpus: list[str]) -> str:
    here = "available here: " + ", ".join(["cpu", *(f"gpu:{index}" for index in range(len(gpus)))])
    without_cuda = not _jax_has_cuda() and _visible_gpus()
    return here + (
        " (there is a GPU, but jax is installed without CUDA: pip install -r requirements.txt)" if without_cuda else ""
    )


def _setting(name: str) -> Any:
    """A setting of JAX, its default where this version has none; of an enumeration its value, which JSON can hold."""
    if not hasattr(jax.config, name) and name not in jax.config.values:
        return {**PINNED, **CHOSEN}[name]
    value = getattr(jax.config, name) if hasattr(jax.config, name) else jax.config.read(name)
    return getattr(value, "value", value)


def _processor() -> str:
    try:
        names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.machine()
