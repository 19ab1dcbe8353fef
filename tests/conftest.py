"""The tests run on a CPU that looks like two devices, with shapes and ranks checked, and leave nothing in the user's cache."""

import os
import tempfile

_cache = tempfile.TemporaryDirectory(prefix="unlearn_jax_tests_", ignore_cleanup_errors=True)
os.environ["XDG_CACHE_HOME"] = _cache.name  # child processes inherit it
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # and this: most programs here are compiled once and run once

import jax  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", os.path.join(_cache.name, "unlearn_jax", "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

install_import_hook("unlearn_jax", "beartype.beartype")
