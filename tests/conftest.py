"""The tests run on a CPU that looks like two devices, with shapes and ranks checked, and leave nothing in the user's cache."""

import os
import tempfile

import pytest

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers and other child processes inherit it
    _cache = tempfile.TemporaryDirectory(prefix="unlearn_jax_tests_", ignore_cleanup_errors=True)
    os.environ["XDG_CACHE_HOME"] = _cache.name
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # and this: most programs here are compiled once and run once

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", os.path.join(os.environ["XDG_CACHE_HOME"], "unlearn_jax", "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

install_import_hook("unlearn_jax", "beartype.beartype")


@pytest.hookimpl(wrapper=True)  # before pytest-xdist's own, which reads the groups
def pytest_collection_modifyitems(items):
    """A file, or the laws of one method, stay with one worker: what they compile and prepare is made once."""
    for item in items:
        method = getattr(item, "callspec", None) and item.callspec.params.get("name")
        of_laws = item.path.name == "test_laws.py" and method
        item.add_marker(pytest.mark.xdist_group(f"laws of {method}" if of_laws else item.path.name))
    return (yield)
