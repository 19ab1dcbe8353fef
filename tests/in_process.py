"""`python benchmark.py words` without a process of its own: no second start of JAX, and what this one compiled is used."""

import contextlib
import hashlib
import io
import pickle
import subprocess

import pytest

import benchmark
from unlearn_jax.metrics import svc_mia

ATTACKS = {}  # the results of `attack`, by the models and the examples that were attacked


def attack(*arguments, **options):
    """`svc_mia`, once for each model: most runs of a file measure the same pools, and this takes a sixth of a smoke run."""
    key = hashlib.sha256(pickle.dumps((arguments, options))).digest()
    if key not in ATTACKS:
        ATTACKS[key] = svc_mia(*arguments, **options)
    return ATTACKS[key]


@contextlib.contextmanager
def empty_pictures():
    """Pictures are files with no picture in them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.draw_without_rendering", lambda figure: None)
        patch.setattr("matplotlib.layout_engine.ConstrainedLayoutEngine.execute", lambda engine, figure: None)
        patch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, **_: file.write(b"drawn elsewhere"))
        yield


def run_in_process(*words: object) -> subprocess.CompletedProcess:
    """What a person would have got, but for empty pictures: drawing takes a third of a smoke run, and has tests of its own.

    Devices and the cache of compiled programs stay those of the tests.
    """
    out, err = io.StringIO(), io.StringIO()
    arguments = [str(word) for word in words]
    said = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with pytest.MonkeyPatch.context() as patch, empty_pictures(), said[0], said[1]:
        for name in ("pin", "keep_compiled"):
            patch.setattr(f"unlearn_jax.device.{name}", lambda *_: None)
        patch.setattr("unlearn_jax.metrics.views.svc_mia", attack)
        try:
            code = benchmark.main(arguments)
        except SystemExit as left:
            code = left.code
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
